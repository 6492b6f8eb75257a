"""POSIX ACLs, given to files as the kernel has them, since a test needs no further program for that."""

from __future__ import annotations

import os
import struct
from collections.abc import Iterable
from pathlib import Path

# The kernel's include/uapi/linux/posix_acl.h and posix_acl_xattr.h.
USER_OBJ, USER, GROUP_OBJ, GROUP, MASK, OTHER = 0x01, 0x02, 0x04, 0x08, 0x10, 0x20
ACCESS, DEFAULT = "system.posix_acl_access", "system.posix_acl_default"


def acl(entries: Iterable[tuple[int, int, int]]) -> bytes:
    """Entries of tag, permissions and id (-1 for none) as the extended attribute has them."""
    return struct.pack("<I", 2) + b"".join(struct.pack("<HHI", tag, bits, n & 0xFFFFFFFF) for tag, bits, n in entries)


def give(path: Path, kind: int, number: int, bits: int, *, default: bool = False) -> None:
    """What `setfacl -m u:NUMBER:BITS` does, or g: with GROUP; `default` for what will be made in a folder."""
    mode = path.stat().st_mode
    entries = [(USER_OBJ, mode >> 6 & 7, -1), (GROUP_OBJ, mode >> 3 & 7, -1), (OTHER, mode & 7, -1)]
    entries += [(kind, bits, number), (MASK, (mode >> 3 & 7) | bits, -1)]
    os.setxattr(path, DEFAULT if default else ACCESS, acl(sorted(entries)))
