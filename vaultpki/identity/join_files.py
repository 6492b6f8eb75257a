"""Writes join files: the place of one is checked and reserved before Vault is asked for its content.

Vault gives a wrapped secret id once. So the file is created and its disk space allocated before that; what can fail
then is a write and a rename, and if the rename fails the complete file stays beside its place.
"""

from __future__ import annotations

import contextlib
import os
import re
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Final

from vaultpki.disk.files import NEW_FILE, closing, open_folder, prove_writable, random_suffix, storage_errors
from vaultpki.errors import SpecError, StoreError
from vaultpki.model import Cluster
from vaultpki.records import join_file
from vaultpki.records.join_file import Join

# In bytes. The CA of Vault's certificate may have 256 KiB, the rest takes less than one.
_ROOM: Final = 512 * 1024


def check_targets(cluster: Cluster, folder: Path, nodes: Iterable[str]) -> None:
    """Raise StoreError if the join file of one of these nodes could not be written to `folder`/NODE.json.

    Only a join file of the same node may be replaced. Writes nothing.
    """
    with closing(open_folder(str(folder), create=False)) as fd, storage_errors(str(folder)):
        prove_writable(f".probe.{random_suffix()}", fd, _ROOM, 1)
    for node in nodes:
        _refuse_other_file(cluster, folder / f"{node}.json", node)


def read_own_join_file(path: Path) -> Join | None:
    """Return the join file of an earlier run; None for one that another user may have made, changed or read.

    Raises StoreError if others may write to its folder.
    """
    os.close(open_folder(str(path.absolute().parent), create=False))
    try:
        raw, about = join_file.read(path)
        ours = about.st_uid == os.geteuid() and about.st_mode & 0o7777 == 0o600 and about.st_nlink == 1
        return join_file.parse(raw, str(path)) if ours else None
    except SpecError:
        return None


@contextlib.contextmanager
def reserved(cluster: Cluster, path: Path, node: str) -> Iterator[Callable[[Join], None]]:
    """Reserve `path` for the join file of `node`; yields the function that puts it there.

    Raises StoreError if `path` is anything but a join file of this node, or cannot be written. If the function
    fails in its last step, its StoreError names the file that has the content; otherwise a failure leaves no file.
    """
    name = path.absolute().name
    folder = open_folder(str(path.absolute().parent), create=False)
    try:
        _refuse_other_file(cluster, path, node)
        temporary = f".{name}.{random_suffix()}"
        with storage_errors(str(path)):
            _remove_leftovers(folder, name)
            fd = os.open(temporary, NEW_FILE, 0o600, dir_fd=folder)
        complete = False

        def put(join: Join) -> None:
            nonlocal complete
            with storage_errors(str(path)):
                _fill(fd, join_file.dump_join(join).encode())
            complete = True
            try:
                os.rename(temporary, name, src_dir_fd=folder, dst_dir_fd=folder)
                os.fsync(folder)
            except OSError as error:
                raise StoreError(
                    f"{path}: the join file could not be put there ({error.strerror}); it is complete at "
                    f"{path.absolute().parent / temporary}, move it from there"
                ) from None

        try:
            with storage_errors(str(path)):
                # Under any umask.
                os.fchmod(fd, 0o600)
                os.posix_fallocate(fd, 0, _ROOM)
            yield put
        finally:
            os.close(fd)
            if not complete:
                with contextlib.suppress(OSError):
                    os.unlink(temporary, dir_fd=folder)
    finally:
        os.close(folder)


def _fill(fd: int, data: bytes) -> None:
    at = 0
    while at < len(data):
        at += os.pwrite(fd, data[at:], at)
    os.ftruncate(fd, len(data))
    os.fsync(fd)


def _remove_leftovers(folder: int, name: str) -> None:
    """Remove what a killed run left beside `name`."""
    leftover = re.compile(rf"\.{re.escape(name)}\.[0-9a-f]{{16}}")
    for entry in os.listdir(folder):
        if leftover.fullmatch(entry):
            os.unlink(entry, dir_fd=folder)


def _refuse_other_file(cluster: Cluster, path: Path, node: str) -> None:
    with storage_errors(str(path)):
        try:
            os.lstat(path)
        except FileNotFoundError:
            return
    owner = join_file.owner(path)
    if owner == (cluster.name, cluster.prefix, node):
        return
    what = "this is not a join file" if owner is None else f"this is the join file of {owner[2]} of {owner[0]}"
    raise StoreError(
        f"{path}: {what}, and only a join file of {node} of {cluster.name} is overwritten; name another place with "
        "-o, or move it away"
    )
