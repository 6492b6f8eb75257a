"""Checks that other users cannot change a file: owner, mode and POSIX ACL of the file and of each folder above it.

Only root and the current user may write. The user's own private group may write, too (Ubuntu and Fedora give each user
one, and umask 002), but not for root. A sticky folder such as /tmp is allowed if its entry belongs to root or to the
user. sshd's StrictModes works in the same way.
"""

from __future__ import annotations

import contextlib
import errno
import grp
import os
import pwd
import re
import stat
import struct
from collections.abc import Collection
from typing import Final, Self

from vaultpki.errors import StoreError, Unsafe
from vaultpki.values.input_file import NotRegular

# O_PATH: a folder may allow passing through it without allowing to list it.
PASSING: Final = os.O_PATH | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
# O_NONBLOCK: opening a FIFO that replaced the file must not wait for a writer.
_FILE: Final = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
# The limit of the kernel (path_resolution(7)).
_MOST_LINKS: Final = 40
# A shell passes `<(command)` and /dev/stdin as these links, which only the kernel can follow (proc(5)).
_DESCRIPTORS: Final = re.compile(r"/proc/[0-9]+(/task/[0-9]+)?/fd")

ACL: Final = "system.posix_acl_access"
_DEFAULT_ACL: Final = "system.posix_acl_default"
# The kernel's include/uapi/linux/posix_acl_xattr.h and posix_acl.h, all little-endian: a version, then the entries.
_ACL_VERSION: Final = b"\2\0\0\0"
_ACL_ENTRY: Final = struct.Struct("<HHI")
_OWNER, _USER, _MASK = 0x01, 0x02, 0x10
_WRITE: Final = 0x02


def acl_lets_others_write(raw: bytes, trusted: Collection[int]) -> bool:
    """Return whether a POSIX ACL names anybody who may write, except its owner, root and `trusted` (user ids).

    `raw` is the extended attribute; an unknown format counts as such an ACL. The mask is ignored: the mode shows it.
    """
    if raw[:4] != _ACL_VERSION or len(raw) % _ACL_ENTRY.size != len(_ACL_VERSION):
        return True
    harmless = {_OWNER, _MASK, *((_USER, number) for number in (0, *trusted))}
    entries = _ACL_ENTRY.iter_unpack(raw[len(_ACL_VERSION) :])
    names = [(tag, number) if tag == _USER else tag for tag, bits, number in entries if bits & _WRITE]
    return not harmless.issuperset(names)


def refuse_others(path: str, fd: int, about: os.stat_result, *, passing: bool = False) -> None:
    """Raise StoreError if anyone except root and this user owns or may write the open `fd`.

    `about` is its `fstat`. `passing` accepts a sticky folder: the caller must then check the owner of its entry.
    """
    what = "folder" if stat.S_ISDIR(about.st_mode) else "file"
    if about.st_uid not in {0, os.geteuid()}:
        raise _refusal(
            path,
            f"the {what} belongs to the user {about.st_uid}, who could change its content",
            f"run `chown {user()} PATH`, or run as that user",
        )
    if not about.st_mode & (stat.S_IWGRP | stat.S_IWOTH) or (passing and about.st_mode & stat.S_ISVTX):
        return
    # With an ACL, the group bits are its mask (acl(5)): if they forbid writing, no entry of the ACL allows it.
    acl = _acl(fd)
    if about.st_mode & stat.S_IWOTH or acl is None:
        if not about.st_mode & stat.S_IWOTH and _private_group(about.st_gid):
            return
        mode = stat.S_IMODE(about.st_mode)
        raise _refusal(path, f"others may write to the {what} (mode {mode:04o})", "run `chmod go-w PATH`")
    if acl_lets_others_write(acl, {os.geteuid()}):
        raise _refusal(
            path,
            f"others may write to the {what} by its POSIX ACL (`getfacl` shows it)",
            "run `setfacl -b PATH` and `chmod go-w PATH`",
        )


def open_file(path: str) -> int:
    """Return a descriptor of the file `path`, which only root and this user can change or replace.

    Follows links and checks each folder on the way. Raises StoreError with the remedy if others could change the file,
    and OSError if it is missing, is not a regular file or cannot be opened.
    """
    return _reach(path, _FILE)


def refuse_file(path: str) -> None:
    """Check as `open_file` does, for a file that need not be readable."""
    os.close(_reach(path, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC))


class Way:
    """The descriptor that a walk down from `/` has come to, which is closed if the walk fails."""

    def __init__(self) -> None:
        self.fd = os.open("/", PASSING)

    def to(self, fd: int) -> None:
        """Go on to `fd`, and close the one before."""
        # In this order, so that a Ctrl-C in between closes none twice.
        above, self.fd = self.fd, fd
        os.close(above)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: object, *_: object) -> None:
        if kind is not None:
            os.close(self.fd)


def _reach(path: str, flags: int) -> int:
    todo = _parts(os.path.join(os.getcwd(), path))
    at, links = "", 0
    with Way() as way:
        about = os.fstat(way.fd)
        refuse_others("/", way.fd, about, passing=True)
        while todo:
            part = todo.pop()
            if _DESCRIPTORS.fullmatch(at) and not todo:
                # A new descriptor of a file that the parent process opened for this one.
                way.to(os.open(part, os.O_RDONLY | os.O_CLOEXEC, dir_fd=way.fd))
                return way.fd
            target = _link(part, way.fd)
            if target is not None:
                links += 1
                if links > _MOST_LINKS:
                    raise OSError(errno.ELOOP, os.strerror(errno.ELOOP))
                if about.st_mode & stat.S_ISVTX:
                    _refuse_link(f"{at}/{part}", os.stat(part, dir_fd=way.fd, follow_symlinks=False))
                todo += _parts(target)
                if target.startswith("/"):
                    way.to(os.open("/", PASSING))
                    at, about = "", os.fstat(way.fd)
                continue
            # O_NOFOLLOW: fails if the entry has become a link in the meantime.
            way.to(os.open(part, PASSING if todo or part == ".." else flags, dir_fd=way.fd))
            about = os.fstat(way.fd)
            at = os.path.dirname(at).rstrip("/") if part == ".." else f"{at}/{part}"
            if stat.S_ISDIR(about.st_mode):
                refuse_others(at or "/", way.fd, about, passing=True)
        if stat.S_ISDIR(about.st_mode):
            raise OSError(errno.EISDIR, os.strerror(errno.EISDIR))
        if not stat.S_ISREG(about.st_mode):
            raise NotRegular
        refuse_others(at, way.fd, about)
        return way.fd


def _parts(path: str) -> list[str]:
    """Return the names of a path, the last one first."""
    return [part for part in reversed(path.split("/")) if part not in ("", ".")]


def remove_acls(fd: int) -> None:
    """Remove the POSIX ACLs that a new file or folder inherited from its folder; raise OSError if that fails."""
    for name in (ACL, _DEFAULT_ACL) if stat.S_ISDIR(os.fstat(fd).st_mode) else (ACL,):
        try:
            os.removexattr(fd, name)
        except OSError as error:
            if error.errno not in (errno.ENODATA, errno.EOPNOTSUPP):
                raise


def user() -> str:
    """Return the name of the current user, or the number if it has no name."""
    with contextlib.suppress(KeyError):
        return pwd.getpwuid(os.geteuid()).pw_name
    return str(os.geteuid())


def _refusal(path: str, problem: str, cure: str) -> Unsafe:
    """Return the error for a file or folder; `cure` contains commands for PATH."""
    from shlex import quote

    shown = path if path.isprintable() else ascii(path)
    return Unsafe(f"{shown}: {problem}; {cure.replace('PATH', quote(shown))}, or choose another place", path)


def _link(name: str, folder: int) -> str | None:
    """Return the target of a symbolic link; None if `name` is not a link."""
    with contextlib.suppress(OSError):
        return os.readlink(name, dir_fd=folder)
    return None


def _refuse_link(path: str, about: os.stat_result) -> None:
    if about.st_uid not in {0, os.geteuid()}:
        raise StoreError(
            f"{path if path.isprintable() else ascii(path)}: the symbolic link belongs to the user {about.st_uid}, who "
            "could change its target; name the file itself"
        )


def _acl(fd: int) -> bytes | None:
    """Return the access ACL as the kernel stores it; None if there is none."""
    try:
        # fgetxattr does not work on an O_PATH descriptor (open(2)).
        return os.getxattr(f"/proc/self/fd/{fd}", ACL)
    except OSError as error:
        if error.errno in (errno.ENODATA, errno.EOPNOTSUPP):
            return None
        # Unreadable: treated as an ACL that lets others write.
        return b""


def _private_group(gid: int) -> bool:
    # Debian's OpenSSH makes the same exception (user-group-modes.patch). Group 0 may have many members.
    if os.geteuid() == 0 or gid == 0 or gid != os.getegid():
        return False
    try:
        group = grp.getgrgid(gid)
    except KeyError:
        return False
    name = user()
    others = (each for each in pwd.getpwall() if each.pw_gid == gid and each.pw_uid != os.geteuid())
    return group.gr_name == name and set(group.gr_mem) <= {name} and next(others, None) is None
