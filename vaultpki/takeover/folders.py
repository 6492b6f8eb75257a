"""The folders of certificates of a machine that is taken over: kubeadm's, the copy with both CAs, and the agent's.

One of them is in place, the others lie aside, each under the name of its kind. Which is which is told by what is in
them, so a machine that lost its power between an exchange and the names is put right by `tidy`.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator, Mapping
from hashlib import sha256
from typing import Final, NamedTuple

from vaultpki.certificates import laid_out, pair_files
from vaultpki.disk import exchange, files
from vaultpki.disk.generations import link_of
from vaultpki.errors import StateConflict, StoreError
from vaultpki.layout import CA_KEYS, OLD_CA_FILES, TRUST_BUNDLES
from vaultpki.places import ETCD, HIDDEN_FOLDER, KUBECONFIGS, KUBELET, PKI, Layout, inner_folders
from vaultpki.takeover.arrangement import SIGNER_FOLDER, FolderKind

MARK: Final = "vaultpki-takes-over"
"""The file that tells the copy with both CAs from kubeadm's own folder."""

_MARK_TEXT: Final = b"The bundles here hold the old and the new CA; kubeadm's own folder is kept.\n"
_NEW: Final = "new"
_MOST: Final = 500


def kind(folder: str) -> FolderKind | None:
    """Return the kind of a folder; None if there is none."""
    if not os.path.isdir(folder):
        return None
    if os.path.isdir(f"{folder}/{HIDDEN_FOLDER}"):
        return FolderKind.AGENT
    return FolderKind.BOTH if os.path.exists(f"{folder}/{MARK}") else FolderKind.KUBEADM


def path_of(place: str, aside: str, wanted: FolderKind) -> str:
    """Return where the folder of a kind lies: in `place`, or aside."""
    return place if kind(place) is wanted else f"{aside}/{wanted.value}"


def tidy(place: str, aside: str) -> None:
    """Give each folder aside the name of its kind, and remove copies and files that were not finished."""
    if not os.path.isdir(aside):
        return
    exchange.remove(f"{aside}/{_NEW}")
    _remove_leftovers(place, aside)
    for each in FolderKind:
        path = f"{aside}/{each.value}"
        found = kind(path)
        if found is not None and found is not each and kind(place) is not found:
            to = f"{aside}/{found.value}"
            if not files.exists(to):
                exchange.move(path, to)


def _remove_leftovers(place: str, aside: str) -> None:
    """Remove what killed runs left of files that they were to put into a folder: some hold keys, and no state may
    take one for a file of kubeadm's.
    """
    tops = [place, *(f"{aside}/{each.value}" for each in FolderKind), os.path.dirname(signer_files(aside)[0])]
    walked = [(path, held) for top in tops for path, held in _walk(top)]
    # A file that was to be copied may be in the other folder alone.
    names = {os.path.basename(name) for name in known_files()}.union(*(held for _, held in walked))
    for path, held in walked:
        if any(name.startswith(".") for name in held):
            with files.closing(files.open_folder(path, create=False)) as fd, files.storage_errors(path):
                files.remove_leftovers(fd, names)


def _walk(top: str) -> Iterator[tuple[str, list[str]]]:
    """Yield each folder from `top` down with the names of its files, without those of the agent's generations."""
    for path, names, held in os.walk(top):
        names[:] = [name for name in names if name != HIDDEN_FOLDER]
        yield path, held


def put(place: str, aside: str, wanted: FolderKind) -> None:
    """Put the folder of a kind in place, in one step. Raises StateConflict if there is none."""
    tidy(place, aside)
    if kind(place) is wanted:
        return
    path = f"{aside}/{wanted.value}"
    if kind(path) is not wanted:
        raise StateConflict(f"{path} is missing, which was to take the place of {place}; run `vaultpki agent --once`")
    exchange.exchange(place, path)
    tidy(place, aside)


def known_files() -> frozenset[str]:
    """Return the files of both layouts that hold CAs, their keys and pairs, by path below the folder."""
    found = set()
    for folder, name in CA_KEYS:
        found.add(_relative(folder, name))
    for each in TRUST_BUNDLES[Layout.KUBEADM]:
        found.add(_relative(each.folder, each.file))
    for row in laid_out(Layout.KUBEADM):
        place = row.kubeadm
        if place is not None and place.folder not in (KUBELET, KUBECONFIGS):
            found |= {_relative(place.folder, name) for name in pair_files(place.stem)}
    return frozenset(found)


class OldPair(NamedTuple):
    """A pair that kubeadm makes: row and domain of the CA, and certificate and key by path below the folder."""

    row: str
    ca: str
    crt: str
    key: str


def old_pairs() -> Iterator[OldPair]:
    """Yield the pairs that kubeadm makes."""
    for row in laid_out(Layout.KUBEADM):
        place = row.kubeadm
        if place is not None and place.folder in (PKI, ETCD) and not row.kubeconfig:
            crt, key, _ = pair_files(place.stem)
            yield OldPair(row.name, row.ca, _relative(place.folder, crt), _relative(place.folder, key))


def _relative(folder: str, name: str) -> str:
    path = {PKI: "", **inner_folders("")}[folder]
    return f"{path}/{name}".lstrip("/")


CA_FILES: Final = {ca: _relative(each.folder, each.crt) for ca, each in OLD_CA_FILES.items()}
"""The bundle of each domain by its path below the folder."""

KEY_FILES: Final = {ca: _relative(each.folder, each.key) for ca, each in OLD_CA_FILES.items()}
"""The key of the old CA of each domain by its path below the folder."""


def further_files(folder: str) -> dict[str, bytes]:
    """Return the contents of files that are neither CAs nor pairs, such as sa.key, by path below the folder."""
    known = known_files() | {MARK}
    return {name: data for name, data in contents(folder).items() if name not in known}


def contents(folder: str) -> dict[str, bytes]:
    """Return the contents of all regular files by path below the folder; links are not followed."""
    found: dict[str, bytes] = {}
    for path, held in _walk(folder):
        for name in held:
            whole = f"{path}/{name}"
            with files.storage_errors(whole):
                if stat.S_ISREG(os.lstat(whole).st_mode):
                    with files.closing(files.open_folder(path, create=False)) as fd:
                        found[os.path.relpath(whole, folder)] = files.read_at(name, fd)[0]
        if len(found) > _MOST:
            raise StoreError(f"{folder}: it holds more than {_MOST} files; move away what is not kubeadm's")
    return found


def copy_files(names: Iterator[str] | list[str], source: str, to: str) -> list[str]:
    """Copy files that differ, with mode, owner and times, by path below the folders; return which."""
    copied = []
    for name in names:
        data, about = _read(f"{source}/{name}")
        if files.exists(f"{to}/{name}") and _read(f"{to}/{name}")[0] == data:
            continue
        _make_folder_of(name, source, to)
        folder, base = os.path.split(f"{to}/{name}")
        with files.closing(files.open_folder(folder, create=False)) as fd, files.storage_errors(f"{to}/{name}"):
            times = (about.st_atime_ns, about.st_mtime_ns)
            files.swap(base, fd, data, stat.S_IMODE(about.st_mode), about.st_uid, about.st_gid, times=times)
        copied.append(name)
    return copied


def copy_links(source: str, to: str) -> None:
    """Make the links of a folder that another one lacks, without those of the agent; they lead where they led."""
    known = known_files()
    for path, names, held in os.walk(source):
        names[:] = [name for name in names if name != HIDDEN_FOLDER]
        for name in (*names, *held):
            whole, below = f"{path}/{name}", os.path.relpath(f"{path}/{name}", source)
            if not os.path.islink(whole) or link_of(whole) or below in known or files.exists(f"{to}/{below}"):
                continue
            _make_folder_of(below, source, to)
            folder = os.path.dirname(f"{to}/{below}")
            with files.closing(files.open_folder(folder, create=False)) as fd, files.storage_errors(f"{to}/{below}"):
                os.symlink(os.readlink(whole), name, dir_fd=fd)
                os.fsync(fd)


def _make_folder_of(name: str, source: str, to: str) -> None:
    """Make the folder of a file, by path below both folders, as it is in `source`: it may keep others out."""
    inner = os.path.dirname(name)
    if not inner or files.exists(f"{to}/{inner}"):
        return
    _make_folder_of(inner, source, to)
    above, base = os.path.split(f"{to}/{inner}")
    with files.closing(files.open_folder(above, create=False)) as fd, files.storage_errors(f"{to}/{inner}"):
        about = os.stat(f"{source}/{inner}")
        mode = stat.S_IMODE(about.st_mode)
        with files.closing(files.make_folder(base, fd, mode)) as made:
            files.set_mode_and_owner(made, mode, about.st_uid, about.st_gid)


def _read(path: str) -> tuple[bytes, os.stat_result]:
    folder, name = os.path.split(path)
    with files.closing(files.open_folder(folder, create=False)) as fd, files.storage_errors(path):
        return files.read_at(name, fd)


def build_both(source: str, aside: str, added: Mapping[str, bytes]) -> dict[str, str]:
    """Make the copy with both CAs of kubeadm's folder `source`; return the SHA-256 of its files by path.

    `added` are the contents of bundles by path below the folder; those that are there are replaced.
    """
    path = f"{aside}/{_NEW}"
    exchange.remove(path)
    exchange.copy_tree(source, path)
    write_bundles(path, {**added, MARK: _MARK_TEXT})
    exchange.remove(f"{aside}/{FolderKind.BOTH.value}")
    exchange.move(path, f"{aside}/{FolderKind.BOTH.value}")
    return digests(f"{aside}/{FolderKind.BOTH.value}")


def write_bundles(folder: str, wanted: Mapping[str, bytes]) -> None:
    """Write bundles that differ, by path below the folder, each in one step."""
    for name, data in wanted.items():
        if files.exists(f"{folder}/{name}") and _read(f"{folder}/{name}")[0] == data:
            continue
        where, base = os.path.split(f"{folder}/{name}")
        with files.closing(files.open_folder(where, create=True)) as fd, files.storage_errors(f"{folder}/{name}"):
            files.swap(base, fd, data, 0o644)


def digests(folder: str) -> dict[str, str]:
    """Return the SHA-256 of every file by path below the folder."""
    return {name: sha256(data).hexdigest() for name, data in contents(folder).items()}


def keys_there(folder: str) -> list[str]:
    """Return the keys of old CAs in a folder, by path below it."""
    return [name for name in KEY_FILES.values() if os.path.lexists(f"{folder}/{name}")]


def signer_files(aside: str) -> tuple[str, str]:
    """Return the paths of the copy of the old CA, certificate and key, by which CSRs are signed."""
    return f"{aside}/{SIGNER_FOLDER}/ca.crt", f"{aside}/{SIGNER_FOLDER}/ca.key"
