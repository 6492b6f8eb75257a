"""Taking away again what a step has made that was refused: folders that were not there, and one file as it was."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterable

from vaultpki import files
from vaultpki.errors import StoreError


class Undo:
    """What was there before: made at the beginning, called where all must be as it was then.

    `whole` is a folder that goes with all that is in it where it is new, `others` are folders that go where they are
    new and empty, `file` is a private file in `whole`.
    """

    def __init__(self, whole: str, others: Iterable[str], file: str) -> None:
        self._whole, self._file = whole, file
        self._new = sorted({path for each in (whole, *others) for path in _missing(each)}, key=len, reverse=True)
        self._before = files.read_private(file)

    def __call__(self) -> None:
        """Does it as far as it can be done, and raises nothing."""
        if self._whole not in self._new:
            with contextlib.suppress(StoreError, OSError):
                if self._before is None:
                    os.unlink(self._file)
                elif files.read_private(self._file) != self._before:
                    files.write_private(self._file, self._before)
        for path in self._new:
            with contextlib.suppress(StoreError, OSError):
                above, name = os.path.split(path)
                fd = files.open_folder(above, create=False)
                try:
                    if path == self._whole:
                        files.remove_tree(name, fd)
                    else:
                        os.rmdir(name, dir_fd=fd)
                finally:
                    os.close(fd)


def _missing(path: str) -> Iterable[str]:
    """The folders that will have to be made for `path`, itself among them."""
    while not files.there(path):
        yield path
        path = os.path.dirname(path)
