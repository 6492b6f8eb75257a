"""Work on all folders of a node as one: they are locked together, and each keeps its own generations.

A static pod mounts only some of the folders, and a link must not lead out of a mount. So each folder has its own hidden
folder. The one called PKI is always there, and its lock is taken first. The others are made when something is written.
"""

from __future__ import annotations

import contextlib
from collections.abc import Collection, Iterable, Mapping
from typing import Self

from vaultpki.disk import files, owner_mark
from vaultpki.disk.generations import File, StoredFile
from vaultpki.disk.plain_files import PlainFolder
from vaultpki.disk.store import OLD_FILES_GRACE, Check, Directory
from vaultpki.errors import StoreError
from vaultpki.places import KUBECONFIGS, PKI, is_below


class Folders:
    """The folders of a node, held open; `Folders.open` opens them, leaving the `with` block closes them.

    `paths` are by name. The folder KUBECONFIGS has plain files and is reached by `kubeconfigs` alone. A folder that
    cannot be opened fails only what is done in it.
    """

    def __init__(self, paths: Mapping[str, str], *, write: bool, wait: float) -> None:
        self.paths = dict(paths)
        self.kubeconfigs = PlainFolder(self.paths.pop(KUBECONFIGS)) if KUBECONFIGS in paths else None
        self._write, self._wait = write, wait
        self._opened: dict[str, Directory] = {}
        self._failed: dict[str, StoreError] = {}
        self._holder: owner_mark.DirectoryOwner | None = None

    @classmethod
    def open(cls, paths: Mapping[str, str], *, create: bool = True, write: bool = True, wait: float = 0.0) -> Folders:
        """Open the folders at `paths`, locked for this process if `write` is true; only PKI is made if it is missing.

        Raises as `Directory.open` for the folder PKI.
        """
        folders = cls(paths, write=write, wait=wait)
        folders._opened[PKI] = Directory.open(folders.paths[PKI], create=create, write=write, wait=wait)
        try:
            for name in folders.paths:
                with contextlib.suppress(StoreError):
                    folders._find(name, make=False)
        except BaseException:
            folders.close()
            raise
        return folders

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close every folder, and release the locks; those of PKI last."""
        for directory in reversed(self._opened.values()):
            directory.close()

    @property
    def path(self) -> str:
        """The path of the folder PKI."""
        return self._opened[PKI].path

    def _find(self, name: str, *, make: bool) -> Directory | None:
        """Return a folder; None if it is missing. The StoreError that a folder gave once is raised again."""
        if name in self._opened:
            return self._opened[name]
        if name in self._failed:
            raise self._failed[name]
        path = self.paths[name]
        try:
            if not make and not files.exists(path):
                return None
            directory = Directory.open(path, create=make, write=self._write, wait=self._wait)
            try:
                if self._holder is not None:
                    owner_mark.claim(directory, self._holder)
                    directory.sweep()
            except BaseException:
                directory.close()
                raise
        except StoreError as error:
            self._failed[name] = error
            raise
        self._opened[name] = directory
        return directory

    def _made(self, name: str) -> Directory:
        directory = self._find(name, make=True)
        assert directory is not None  # noqa: S101 - for mypy: with `make` it is there, or an error is raised
        return directory

    # -- reading -----------------------------------------------------------------------------------------------------

    def read(self, folder: str, file_set: str, names: Iterable[str]) -> dict[str, StoredFile]:
        """Read files of a file set as `Generations.read`; in a folder that is missing, they are missing."""
        directory = self._find(folder, make=False)
        if directory is None:
            return {name: StoredFile(None, problem="missing") for name in names}
        return directory.read(file_set, names)

    def read_foreign(self, folder: str, name: str) -> StoredFile:
        """Read a file of a folder that is not ours, as `Generations.read_foreign`."""
        directory = self._find(folder, make=False)
        return StoredFile(None, problem="missing") if directory is None else directory.read_foreign(name)

    def file_sets(self) -> dict[tuple[str, str], tuple[str, ...]]:
        """Return the installed file sets by folder and name, each with the names of its files."""
        return {
            (name, file_set): held
            for name, directory in self._opened.items()
            for file_set, held in directory.file_sets().items()
        }

    # -- writing -----------------------------------------------------------------------------------------------------

    def claim(self, holder: owner_mark.DirectoryOwner) -> None:
        """Mark every folder as `holder`'s, those that are made later too, as `owner_mark.claim` does.

        Raises StoreError if PKI belongs to somebody else; another folder then fails alone.
        """
        owner_mark.claim(self._opened[PKI], holder)
        self._holder = holder
        for name, directory in [entry for entry in self._opened.items() if entry[0] != PKI]:
            try:
                owner_mark.claim(directory, holder)
            except StoreError as error:
                self._failed[name] = error
                self._opened.pop(name).close()

    def probe(self, folder: str, generations: int) -> None:
        """Prove that so many generations can be written in a folder now; StoreError if they cannot."""
        self._made(folder).probe(generations)

    def refuse_taken(self, folder: str, file_set: str, names: Iterable[str]) -> None:
        """Raise StoreError if `install` cannot use these names, as `Directory.refuse_taken`."""
        directory = self._find(folder, make=False)
        if directory is not None:
            directory.refuse_taken(file_set, names)

    def install(
        self,
        folder: str,
        file_set: str,
        wanted: Mapping[str, File],
        *,
        check: Check | None = None,
        taking: Collection[str] = (),
    ) -> bool:
        """Make the files of the set exactly `wanted`, as `Directory.install`."""
        return self._made(folder).install(file_set, wanted, check=check, taking=taking)

    def remove(self, folder: str, file_set: str) -> bool:
        """Remove the files of the set in one step; return whether there were any."""
        return self._made(folder).remove(file_set)

    def refresh(self, unsafe: Collection[str]) -> dict[str, StoreError]:
        """Give every file another inode in folders that others could write to; return the paths that failed, and why.

        Those are the folders at and below the paths `unsafe`, and any whose hidden folder was so until now.
        """
        failed = {}
        for directory in self._opened.values():
            if directory.suspect or _below(directory.path, unsafe):
                try:
                    directory.refresh()
                except StoreError as error:
                    failed[directory.path] = error
        if self.kubeconfigs is not None and _below(self.kubeconfigs.path, unsafe):
            self.kubeconfigs.suspect = True
        return failed

    @property
    def rewritten(self) -> tuple[str, ...]:
        """Sentences on files that got another inode, since others may have them open for writing."""
        found = [text for directory in self._opened.values() for text in directory.rewritten]
        return (*found, *(self.kubeconfigs.rewritten if self.kubeconfigs else ()))

    # -- cleaning up -------------------------------------------------------------------------------------------------

    @property
    def unsettled(self) -> bool:
        """Whether a replaced generation is not removed yet."""
        return any(directory.unsettled for directory in self._opened.values())

    def settle(self, grace: float = OLD_FILES_GRACE) -> None:
        """Wait until every replaced generation is `grace` seconds old, and remove it."""
        for directory in self._opened.values():
            directory.settle(grace)

    def sweep(self, kubeconfigs: Iterable[str] = ()) -> int:
        """Remove what a killed or failed run left behind, also beside the plain files of these names."""
        swept = self._opened[PKI].sweep()
        for name, directory in [entry for entry in self._opened.items() if entry[0] != PKI]:
            try:
                swept += directory.sweep()
            except StoreError as error:
                self._failed[name] = error
                self._opened.pop(name).close()
        if self.kubeconfigs is not None:
            with contextlib.suppress(StoreError):
                # What cannot be swept cannot be written either, and that is reported.
                swept += self.kubeconfigs.sweep(kubeconfigs)
        return swept


def _below(path: str, places: Collection[str]) -> bool:
    """Return whether a path is one of these or lies below one."""
    return any(is_below(path, place) for place in places)
