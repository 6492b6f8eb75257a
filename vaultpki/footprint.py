"""The memory of a process that stays: what is loaded is looked through no more, and what is free goes back."""

from __future__ import annotations

import contextlib
import gc
from collections.abc import Callable
from ctypes import CDLL
from typing import Any

# The interpreter's own, in place of those for a short run (see cli): an agent's garbage must not wait for hours.
_THRESHOLDS = (700, 10, 10)


def settle() -> None:
    """To be called once, when all that a process keeps to its end is loaded."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(*_THRESHOLDS)


def give_back() -> None:
    """Gives what OpenSSL and others have freed back to the system, where the C library can (malloc_trim(3), glibc)."""
    if _trim is not None:
        _trim(0)


def _found() -> Callable[[int], Any] | None:
    with contextlib.suppress(AttributeError, OSError):
        trim: Callable[[int], Any] = CDLL(None).malloc_trim
        return trim
    return None


_trim = _found()
