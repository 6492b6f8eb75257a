"""Undo a step that was refused: remove the folders it made, and restore one file."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterable

from vaultpki.disk import files
from vaultpki.errors import StoreError


class Undo:
    """Notes what is there when it is made; calling it restores that.

    A new folder `whole` is removed with its content, new folders of `others` if they are empty. `file` is a private
    file in `whole`.
    """

    def __init__(self, whole: str, others: Iterable[str], file: str) -> None:
        self._whole, self._file = whole, file
        self._new = sorted({path for each in (whole, *others) for path in _missing(each)}, key=len, reverse=True)
        self._before = files.read_private(file)

    def __call__(self) -> None:
        """Restore as much as possible; raises nothing."""
        if self._whole not in self._new:
            with contextlib.suppress(StoreError, OSError):
                if self._before is None:
                    os.unlink(self._file)
                elif files.read_private(self._file) != self._before:
                    files.write_private(self._file, self._before)
        for path in self._new:
            with contextlib.suppress(StoreError, OSError):
                above, name = os.path.split(path)
                with files.closing(files.open_folder(above, create=False)) as fd:
                    if path == self._whole:
                        files.remove_tree(name, fd)
                    else:
                        os.rmdir(name, dir_fd=fd)


def _missing(path: str) -> Iterable[str]:
    """Return the folders that do not exist yet, from `path` upwards."""
    while not files.exists(path):
        yield path
        path = os.path.dirname(path)
