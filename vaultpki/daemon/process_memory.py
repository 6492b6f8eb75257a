"""Keep the memory of a long-running process small."""

from __future__ import annotations

import gc
from collections.abc import Callable
from ctypes import CDLL
from typing import Any, Final

# The interpreter's own, in place of those for a short run (see cli).
_THRESHOLDS: Final = (700, 10, 10)

# glibc has it, musl has not (malloc_trim(3)).
_trim: Callable[[int], Any] | None = getattr(CDLL(None), "malloc_trim", None)


def settle() -> None:
    """Exclude what is loaded by now from garbage collection; to be called once, when everything is loaded."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(*_THRESHOLDS)


def give_back() -> None:
    """Return what OpenSSL and others have freed to the system, where the C library can."""
    if _trim is not None:
        _trim(0)
