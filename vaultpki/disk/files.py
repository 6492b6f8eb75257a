"""Write and read single files so that no kill, crash, power cut, symbolic link or umask harms them.

Everything works on descriptors of folders that were opened without following a symbolic link, so a folder that is
swapped afterwards cannot redirect a write. Every OSError becomes a StoreError that says what to do.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import re
import stat
import time
from collections.abc import Callable, Collection, Iterator
from typing import Final

from vaultpki.errors import StoreError
from vaultpki.values import permissions
from vaultpki.values.permissions import PASSING

LARGEST_FILE: Final = 1024 * 1024
"""The most bytes that are read from any file."""

OPEN_FOLDER = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
NEW_FILE = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
# O_NONBLOCK: opening a FIFO that somebody put in a file's place must not wait for a writer.
OLD_FILE = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
_LOCK_FILE = OLD_FILE | os.O_CREAT

_ADVICE = {
    errno.ENOSPC: "the disk is full; free some space and run again",
    errno.EDQUOT: "the disk quota is used up; free some space and run again",
    errno.EROFS: "the file system is mounted read-only; remount it or choose another directory",
    errno.EACCES: "permission denied; run as its owner or as root",
    errno.EPERM: "not permitted; run as root, or take `owner` out of agent.yaml",
    errno.EIO: "the disk reports an input/output error; check it before running again",
    errno.ELOOP: "a symbolic link is in its place; name the folder or file itself",
    errno.ENAMETOOLONG: "the name is too long; choose a shorter one",
    errno.ENOTDIR: "a part of the path is a file or a symbolic link; name the real folder",
    errno.EISDIR: "a folder is in its place; move it away",
    errno.ENOENT: "it does not exist; create it or check the path",
    errno.EEXIST: "something is there already; move it away",
    errno.EFBIG: "the file would be larger than the limit of this process; raise `ulimit -f`",
    errno.EMFILE: "this process has too many files open; raise `ulimit -n`",
    errno.ENFILE: "the system has too many files open; find out who holds them",
    errno.ENOTEMPTY: "the folder holds files of someone else; move them away",
    errno.ENXIO: "a socket or a device is in its place; move it away",
    errno.EBUSY: "a file system is mounted there; unmount it",
    errno.ENOLCK: "this file system has no locks; keep the directory on a local disk",
    errno.ESTALE: "the network file system lost it; mount it again",
}

_RANDOM = 8
_LOCK_PAUSE = 0.05
_LEFTOVER = re.compile(rf"(?s)\.(.+)\.[0-9a-f]{{{2 * _RANDOM}}}")
_PROBE = re.compile(rf"\.probe\.[0-9a-f]{{{2 * _RANDOM}}}")


@contextlib.contextmanager
def storage_errors(path: str) -> Iterator[None]:
    """Turn an OSError inside the block into a StoreError about `path`."""
    try:
        yield
    except OSError as error:
        what = _ADVICE.get(error.errno or 0) or os.strerror(error.errno or errno.EIO)
        if error.errno == errno.ENOTDIR and (real := os.path.realpath(path)) != os.path.abspath(path):
            what += f", {real}"
        raise StoreError(f"{path}: {what}") from None


def random_suffix() -> str:
    """Return 16 random hex digits."""
    return os.urandom(_RANDOM).hex()


@contextlib.contextmanager
def closing(fd: int) -> Iterator[int]:
    """Close a descriptor at the end of the block."""
    try:
        yield fd
    finally:
        os.close(fd)


def open_folder(path: str, *, create: bool) -> int:
    """Open the folder `path` without following any symbolic link; return its descriptor.

    Refuses a path with a folder that does not belong to root or this user, or that others may write to: they could put
    their own files in place of ours. A sticky folder such as /tmp is allowed, but not as the last one. `create` makes
    missing folders, with mode 0755 under any umask.
    """
    return _reach(path, create=create, last=True)


def _reach(path: str, *, create: bool, last: bool) -> int:
    """As `open_folder`; without `last` the path is only the beginning of a longer one."""
    absolute = os.path.abspath(path)
    parts = [part for part in absolute.split("/") if part]
    at = ""
    with storage_errors("/"):
        way = permissions.Way()
    with way:
        with storage_errors("/"):
            permissions.refuse_others("/", way.fd, os.fstat(way.fd), passing=True)
        for index, part in enumerate(parts):
            at = f"{at}/{part}"
            with storage_errors(at):
                try:
                    below = os.open(part, OPEN_FOLDER if last and index == len(parts) - 1 else PASSING, dir_fd=way.fd)
                except FileNotFoundError:
                    if not create:
                        raise
                    below = make_folder(part, way.fd, 0o755)
            way.to(below)
            with storage_errors(at):
                passing = not last or index < len(parts) - 1
                permissions.refuse_others(at, way.fd, os.fstat(way.fd), passing=passing)
        return way.fd


def refuse_unsafe_way(path: str) -> None:
    """Raise StoreError if `open_folder` would refuse a folder of `path`; folders that do not exist are skipped."""
    at = os.path.abspath(path)
    while not exists(at):
        at = os.path.dirname(at)
    os.close(_reach(at, create=False, last=at == os.path.abspath(path)))


def make_folder(name: str, parent: int, mode: int) -> int:
    """Open the folder `name` in `parent`, made with exactly `mode` if it is missing; return its descriptor.

    A new one survives a power cut and inherits no POSIX ACL.
    """
    try:
        os.mkdir(name, mode, dir_fd=parent)
    except FileExistsError:
        return os.open(name, OPEN_FOLDER, dir_fd=parent)
    # By name, since a folder made under umask 0777 cannot be opened; safe, as nobody else may write to `parent`.
    os.chmod(name, mode, dir_fd=parent)
    fd = os.open(name, OPEN_FOLDER, dir_fd=parent)
    try:
        permissions.remove_acls(fd)
        with closing(os.open(".", OPEN_FOLDER, dir_fd=parent)) as listed:
            os.fsync(listed)
    except BaseException:
        os.close(fd)
        raise
    return fd


def private_folder(path: str) -> None:
    """Make the folder if it is missing, and let nobody but its owner enter it."""
    with closing(open_folder(path, create=True)) as fd, storage_errors(path):
        if os.fstat(fd).st_mode & 0o077:
            os.fchmod(fd, 0o700)


def lock(name: str, folder: int, wait: float) -> int:
    """Lock the file `name` in `folder`; the lock ends when the returned descriptor is closed or the process ends.

    Raises BlockingIOError if another process holds it for `wait` more seconds, another OSError if it is not a file.
    """
    end = time.monotonic() + wait
    while True:
        fd = os.open(name, _LOCK_FILE, 0o600, dir_fd=folder)
        try:
            if not stat.S_ISREG(os.fstat(fd).st_mode):
                raise OSError(errno.EEXIST, "no regular file")
            # Not lockf: POSIX locks are dropped when any other descriptor of the file closes.
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            # A lock on a file that was removed meanwhile excludes nobody.
            with contextlib.suppress(FileNotFoundError):
                if os.path.samestat(os.fstat(fd), os.stat(name, dir_fd=folder, follow_symlinks=False)):
                    return fd
        except BlockingIOError:
            os.close(fd)
            if time.monotonic() >= end:
                raise
            time.sleep(_LOCK_PAUSE)
        except BaseException:
            os.close(fd)
            raise
        else:
            os.close(fd)


def probe_folder(path: str, size: int = 16 * 1024) -> None:
    """Prove that a file of `size` bytes can be written in a private folder now; StoreError if it cannot.

    Makes the folder if it is missing, leaves nothing in it, and removes what a killed run of this left.
    """
    private_folder(path)
    with closing(open_folder(path, create=False)) as fd, storage_errors(path):
        for entry in os.listdir(fd):
            if _PROBE.fullmatch(entry):
                remove_tree(entry, fd)
        prove_writable(f".probe.{random_suffix()}", fd, size, 1)


def prove_writable(name: str, folder: int, size: int, count: int) -> None:
    """Write `size` bytes and make `count` directory entries below the new folder `name`, then remove it.

    Raises OSError if anything fails.
    """
    os.mkdir(name, 0o700, dir_fd=folder)
    try:
        os.chmod(name, 0o700, dir_fd=folder)
        with closing(os.open(name, OPEN_FOLDER, dir_fd=folder)) as fd:
            # Random, since a file system that compresses would store repeated bytes in no space.
            write_new("data", fd, os.urandom(size), 0o600)
            for number in range(count):
                # A symbolic link takes an inode as a file does, for one call.
                os.symlink("data", f"link-{number}", dir_fd=fd)
    except BaseException:
        with contextlib.suppress(OSError):
            remove_tree(name, folder)
        raise
    remove_tree(name, folder)


def remove_tree(name: str, parent: int) -> None:
    """Remove the file or folder `name` with its content, if it is there; follow no link."""
    try:
        folder = os.open(name, OPEN_FOLDER, dir_fd=parent)
    except FileNotFoundError:
        return
    except NotADirectoryError:
        os.unlink(name, dir_fd=parent)
        return
    with closing(folder):
        for entry in os.listdir(folder):
            try:
                os.unlink(entry, dir_fd=folder)
            except IsADirectoryError:
                remove_tree(entry, folder)
    os.rmdir(name, dir_fd=parent)


def write_new(name: str, folder: int, data: bytes, mode: int, uid: int | None = None, gid: int | None = None) -> None:
    """Write the new file `name` in `folder` with exactly this mode and owner, sync it, and read it back.

    It inherits no POSIX ACL of the folder, which would let others read it in spite of the mode. None as `uid` or `gid`
    means this process's own. Raises OSError if anything fails.
    """
    with closing(os.open(name, NEW_FILE, 0o600, dir_fd=folder)) as fd:
        view = memoryview(data)
        while view:
            written = os.write(fd, view)
            if not written:
                raise OSError(errno.EIO, "nothing written")
            view = view[written:]
        permissions.remove_acls(fd)
        set_mode_and_owner(fd, mode, uid, gid)
        os.fsync(fd)
    if read_at(name, folder, len(data))[0] != data:
        raise OSError(errno.EIO, "another content read than written")


def set_mode_and_owner(fd: int, mode: int, uid: int | None, gid: int | None) -> None:
    """Give an open file exactly this mode and owner; at no moment may more users read it than before or after."""
    owner = (os.geteuid() if uid is None else uid, os.getegid() if gid is None else gid)
    now = os.fstat(fd)
    if (now.st_uid, now.st_gid) != owner:
        if stat.S_IMODE(now.st_mode) & ~mode:
            os.fchmod(fd, stat.S_IMODE(now.st_mode) & mode)
        os.fchown(fd, *owner)
        now = os.fstat(fd)
    if stat.S_IMODE(now.st_mode) != mode:
        os.fchmod(fd, mode)


def read_at(name: str, folder: int, most: int = LARGEST_FILE) -> tuple[bytes, os.stat_result]:
    """Read the regular file `name` in `folder`; return its content and fstat(2).

    Raises OSError for anything else, and for one of more than `most` bytes.
    """
    with closing(os.open(name, OLD_FILE, dir_fd=folder)) as fd:
        return _content(fd, most)


def _content(fd: int, most: int = LARGEST_FILE) -> tuple[bytes, os.stat_result]:
    about = os.fstat(fd)
    if not stat.S_ISREG(about.st_mode):
        raise OSError(errno.EISDIR if stat.S_ISDIR(about.st_mode) else errno.EEXIST, "no regular file")
    data = b""
    while len(data) <= most and (more := os.read(fd, most + 1 - len(data))):
        data += more
    if len(data) > most:
        raise OSError(errno.EFBIG, "too large")
    return data, about


def swap(
    name: str,
    folder: int,
    data: bytes,
    mode: int,
    uid: int | None = None,
    gid: int | None = None,
    *,
    times: tuple[int, int] | None = None,
    check: Callable[[], object] = lambda: None,
) -> None:
    """Replace the file `name` in `folder` by `data` in one step; readers see the old or the new content.

    `times` are those of access and change that it gets, in nanoseconds of Unix time; None for now.

    Only one writer of a file at a time: what an earlier one left behind is removed first. `check` is called just before
    the step; if it raises, the file stays as it was. Raises OSError if anything else fails. For `uid` see `write_new`.
    """
    # A dot: the kubelet skips such names in its folder of manifests (kubernetes pkg/kubelet/config/file.go).
    temporary = f".{name}.{random_suffix()}"
    remove_leftovers(folder, {name})
    try:
        write_new(temporary, folder, data, mode, uid, gid)
        if times is not None:
            os.utime(temporary, ns=times, dir_fd=folder, follow_symlinks=False)
        check()
        os.rename(temporary, name, src_dir_fd=folder, dst_dir_fd=folder)
    except BaseException:
        with contextlib.suppress(OSError):
            os.unlink(temporary, dir_fd=folder)
        raise
    os.fsync(folder)


def remove_leftovers(folder: int, names: Collection[str]) -> None:
    """Remove what `swap` has left in `folder` where it was killed while it replaced files with these names."""
    for entry in os.listdir(folder):
        found = _LEFTOVER.fullmatch(entry)
        if found is not None and found[1] in names:
            os.unlink(entry, dir_fd=folder)


def write_private(path: str, data: bytes, mode: int = 0o600) -> None:
    """Replace the file `path` by `data` as `swap` does. The folder must exist."""
    folder_path, name = os.path.split(os.path.abspath(path))
    with closing(open_folder(folder_path, create=False)) as folder, storage_errors(path):
        if len(data) > LARGEST_FILE:
            raise OSError(errno.EFBIG, "could not be read again")
        swap(name, folder, data, mode)


def exists(path: str) -> bool:
    """Return whether anything is at `path`, even a link that leads nowhere; StoreError if this user may not know."""
    # Not os.path.lexists, which returns False if a folder of the path may not be entered.
    with storage_errors(path):
        try:
            os.lstat(path)
        except (FileNotFoundError, NotADirectoryError):
            return False
    return True


def read_private(path: str) -> bytes | None:
    """Return the content of a file that only its owner may read; None if there is no such file.

    Raises StoreError for a symbolic link, a file of another user than root and this one, or one that others may read.
    """
    folder_path, name = os.path.split(os.path.abspath(path))
    if not exists(path):
        return None
    with closing(open_folder(folder_path, create=False)) as folder, storage_errors(path):
        try:
            data, about = read_at(name, folder)
        except FileNotFoundError:
            return None
    if about.st_uid not in {0, os.geteuid()}:
        raise StoreError(
            f"{path}: it belongs to the user {about.st_uid}; find out why, and `chown` it to {permissions.user()}"
        )
    if about.st_mode & 0o077:
        raise StoreError(f"{path}: others may read it; `chmod 600` it, and replace the secret if they did")
    return data


def read_swapped(path: str) -> bytes | None:
    """The content of a secret that another program keeps fresh; None if there is no such file.

    Links are followed: that is how such programs swap files (the token of a Kubernetes projected volume is a link to a
    link). StoreError if others may read or change it: by its own mode, and by that of every folder on its way.
    """
    with storage_errors(path):
        try:
            fd = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        except FileNotFoundError:
            return None
        with closing(fd):
            data, about = _content(fd)
            # Where it really lies, whatever the links say by now (proc(5)).
            folder = os.path.dirname(os.readlink(f"/proc/self/fd/{fd}"))
        exposed = about.st_mode & 0o066
        while exposed and os.stat(folder).st_mode & 0o011:
            if folder == "/":
                may = "read it" if about.st_mode & 0o044 else "write to it"
                raise StoreError(
                    f"{path}: others may {may}; `chmod 600` it, keep it in a folder of mode 0700, or set "
                    "defaultMode: 0400 where it is a projected volume"
                )
            folder = os.path.dirname(folder)
    return data
