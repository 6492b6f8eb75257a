"""Who else could change a file: its owner, its mode and its POSIX ACL, and those of each folder on the way to it.

Root and the user this runs as may write. So may that user's own private group (Ubuntu and Fedora give each user one,
and umask 002), but never for root. A sticky folder such as /tmp is passable where what it holds is root's or the
user's. What a file says may then be followed, since nobody else can exchange it (sshd's StrictModes is alike).
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
from typing import Final

from vaultpki.errors import StoreError
from vaultpki.regular import NotRegular

# O_PATH: a folder on the way may let others pass without letting them list it.
PASSING: Final = os.O_PATH | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
# O_NONBLOCK: opening a FIFO that somebody put in a file's place must not wait for a writer.
_FILE: Final = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
# As many as the kernel follows (path_resolution(7)).
_MOST_LINKS: Final = 40
# What a shell passes as `<(command)` or /dev/stdin: links that only the kernel can follow (proc(5)).
_DESCRIPTORS: Final = re.compile(r"/proc/[0-9]+(/task/[0-9]+)?/fd")

# The kernel's include/uapi/linux/posix_acl_xattr.h and posix_acl.h, all little-endian.
ACL: Final = "system.posix_acl_access"
_DEFAULT_ACL: Final = "system.posix_acl_default"
_ACL_VERSION: Final = 2
_HEADER, _ENTRY = struct.Struct("<I"), struct.Struct("<HHI")
_USER, _GROUP_OBJ, _GROUP, _MASK, _OTHER = 0x02, 0x04, 0x08, 0x10, 0x20
_WRITE: Final = 0x02


def acl_lets_others_write(raw: bytes, trusted: Collection[int]) -> bool:
    """Whether a POSIX ACL, as its extended attribute has it, lets any user but root and `trusted` (user ids) write.

    The entry of the owning group counts like any other. What is no ACL of a version that is known counts as one that
    does.
    """
    if len(raw) < _HEADER.size or (len(raw) - _HEADER.size) % _ENTRY.size:
        return True
    if _HEADER.unpack_from(raw)[0] != _ACL_VERSION:
        return True
    entries = list(_ENTRY.iter_unpack(raw[_HEADER.size :]))
    # The mask bounds every entry but the owner's and that of all others (acl(5)).
    mask = next((permissions for tag, permissions, _ in entries if tag == _MASK), _WRITE)
    for tag, permissions, number in entries:
        bounded = permissions & mask & _WRITE
        if tag == _USER and bounded and number not in {0, *trusted}:
            return True
        if tag in (_GROUP_OBJ, _GROUP) and bounded:
            return True
        if tag == _OTHER and permissions & _WRITE:
            return True
    return False


def refuse_others(
    path: str, fd: int, about: os.stat_result, *, trusted: Collection[int] = (), passing: bool = False
) -> None:
    """StoreError where anybody but root, this user and `trusted` (user ids) owns, or may write, what is open as `fd`.

    `about` is its `fstat`. `passing` lets a sticky folder through: then the owner of what it holds has to be looked at.
    """
    what = "folder" if stat.S_ISDIR(about.st_mode) else "file"
    if about.st_uid not in {0, os.geteuid(), *trusted}:
        raise _refusal(
            path,
            f"the {what} belongs to the user {about.st_uid}, who could change what is in it",
            f"run `chown {user()} PATH`, or run as that user",
        )
    if not about.st_mode & (stat.S_IWGRP | stat.S_IWOTH) or (passing and about.st_mode & stat.S_ISVTX):
        return
    # With an ACL, the bits of the group are its mask (acl(5)): without them no entry of it lets anybody write.
    acl = _acl(fd)
    if about.st_mode & stat.S_IWOTH or acl is None:
        if not about.st_mode & stat.S_IWOTH and _private_group(about.st_gid):
            return
        mode = stat.S_IMODE(about.st_mode)
        raise _refusal(path, f"others may write to the {what} (mode {mode:04o})", "run `chmod go-w PATH`")
    if acl_lets_others_write(acl, {os.geteuid(), *trusted}):
        raise _refusal(
            path,
            f"others may write to the {what} by its POSIX ACL (`getfacl` shows it)",
            "run `setfacl -b PATH` and `chmod go-w PATH`",
        )


def open_file(path: str, *, trusted: Collection[int] = ()) -> int:
    """A descriptor to read the file `path` from, which nobody but root, this user and `trusted` can change or exchange.

    Links are followed, and each folder on the way is looked at. StoreError says what would have to be changed, or that
    this is no regular file; OSError where there is none, or it cannot be opened.
    """
    return _reach(path, _FILE, trusted)


def refuse_file(path: str, *, trusted: Collection[int] = ()) -> None:
    """As `open_file`, for a file that need not be readable."""
    os.close(_reach(path, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC, trusted))


def _reach(path: str, flags: int, trusted: Collection[int]) -> int:
    todo = _parts(os.path.join(os.getcwd(), path))
    at, links = "", 0
    fd = os.open("/", PASSING)
    try:
        about = os.fstat(fd)
        refuse_others("/", fd, about, trusted=trusted, passing=True)
        while todo:
            part = todo.pop()
            if _DESCRIPTORS.fullmatch(at) and not todo:
                return _inherited(part, fd)
            target = _link(part, fd)
            if target is not None:
                links += 1
                if links > _MOST_LINKS:
                    raise OSError(errno.ELOOP, os.strerror(errno.ELOOP))
                if about.st_mode & stat.S_ISVTX:
                    _refuse_link(f"{at}/{part}", os.stat(part, dir_fd=fd, follow_symlinks=False), trusted)
                todo += _parts(target)
                if target.startswith("/"):
                    top = os.open("/", PASSING)
                    os.close(fd)
                    at, fd, about = "", top, os.fstat(top)
                continue
            # Should it have become a link meanwhile, this fails.
            below = os.open(part, PASSING if todo or part == ".." else flags, dir_fd=fd)
            os.close(fd)
            fd, about = below, os.fstat(below)
            at = os.path.dirname(at).rstrip("/") if part == ".." else f"{at}/{part}"
            if stat.S_ISDIR(about.st_mode):
                refuse_others(at or "/", fd, about, trusted=trusted, passing=True)
        if stat.S_ISDIR(about.st_mode):
            raise OSError(errno.EISDIR, os.strerror(errno.EISDIR))
        if not stat.S_ISREG(about.st_mode):
            raise NotRegular
        refuse_others(at, fd, about, trusted=trusted)
    except BaseException:
        os.close(fd)
        raise
    return fd


def _parts(path: str) -> list[str]:
    """The names of a path, the last one first."""
    return [part for part in reversed(path.split("/")) if part not in ("", ".")]


def remove_acls(fd: int) -> None:
    """Takes away what a new file or folder has inherited of its folder's POSIX ACLs; OSError where that fails."""
    for name in (ACL, _DEFAULT_ACL) if stat.S_ISDIR(os.fstat(fd).st_mode) else (ACL,):
        try:
            os.removexattr(fd, name)
        except OSError as error:
            if error.errno not in (errno.ENODATA, errno.EOPNOTSUPP):
                raise


def user() -> str:
    """The name of the user this runs as, or the number of one that has none."""
    with contextlib.suppress(KeyError):
        return pwd.getpwuid(os.geteuid()).pw_name
    return str(os.geteuid())


def _refusal(path: str, problem: str, cure: str) -> StoreError:
    """The error for a file or folder; `cure` is commands for PATH."""
    from shlex import quote

    shown = path if path.isprintable() else ascii(path)
    return StoreError(f"{shown}: {problem}; {cure.replace('PATH', quote(shown))}, or choose another place")


def _inherited(number: str, folder: int) -> int:
    """A further descriptor of what whoever started this process has opened for it."""
    fd = os.open(number, os.O_RDONLY | os.O_CLOEXEC, dir_fd=folder)
    os.close(folder)
    return fd


def _link(name: str, folder: int) -> str | None:
    """Where a symbolic link leads; None where `name` is none."""
    with contextlib.suppress(OSError):
        return os.readlink(name, dir_fd=folder)
    return None


def _refuse_link(path: str, about: os.stat_result, trusted: Collection[int]) -> None:
    if about.st_uid not in {0, os.geteuid(), *trusted}:
        raise StoreError(
            f"{path if path.isprintable() else ascii(path)}: the symbolic link belongs to the user {about.st_uid}, who "
            "could lead it elsewhere; name the file itself"
        )


def _acl(fd: int) -> bytes | None:
    """The access ACL as the kernel has it; None where there is none."""
    try:
        # A descriptor of O_PATH takes no fgetxattr (open(2)).
        return os.getxattr(f"/proc/self/fd/{fd}", ACL)
    except OSError as error:
        if error.errno in (errno.ENODATA, errno.EOPNOTSUPP):
            return None
        # Unknown, so not to be relied on.
        return b""


def _private_group(gid: int) -> bool:
    # Debian's OpenSSH makes the same exception (user-group-modes.patch). Group 0 may be many users'.
    if os.geteuid() == 0 or gid == 0 or gid != os.getegid():
        return False
    try:
        group = grp.getgrgid(gid)
    except KeyError:
        return False
    name = user()
    others = (each for each in pwd.getpwall() if each.pw_gid == gid and each.pw_uid != os.geteuid())
    return group.gr_name == name and set(group.gr_mem) <= {name} and next(others, None) is None
