"""Reads the files of other programs that their flags name, as far as they can be read: settings, certificates, keys."""

from __future__ import annotations

import json
import os
import stat
from typing import Any, Final

_LARGEST: Final = 1024 * 1024


def content(path: str) -> bytes:
    """Return a regular file of at most 1 MiB at an absolute path; empty if there is none that can be read."""
    if not path.startswith("/"):
        return b""
    try:
        # Not to wait for whoever writes into a pipe.
        fd = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC | os.O_NOCTTY)
    except (OSError, ValueError):
        return b""
    try:
        about = os.fstat(fd)
        if not stat.S_ISREG(about.st_mode) or about.st_size > _LARGEST:
            return b""
        with open(fd, "rb", closefd=False) as file:
            return file.read(_LARGEST)
    except OSError:
        return b""
    finally:
        os.close(fd)


def mapping(path: str) -> dict[str, Any]:
    """Return the mapping in a file of YAML or JSON; empty if there is none that can be read."""
    data = content(path)
    if not data:
        return {}
    import yaml

    try:
        # JSON may have tabs, which PyYAML refuses.
        found = json.loads(data) if data.lstrip().startswith(b"{") else yaml.safe_load(data)
    except (yaml.YAMLError, ValueError, TypeError, RecursionError):
        return {}
    return {str(name): value for name, value in found.items()} if isinstance(found, dict) else {}
