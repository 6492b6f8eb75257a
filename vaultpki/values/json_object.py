"""Reads JSON objects that only vaultpki writes: records of the config store, join files, files in the state folder."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from datetime import datetime
from typing import Any, Final

from vaultpki.errors import SpecError
from vaultpki.model import VERSION
from vaultpki.places import Layout
from vaultpki.redact import moment
from vaultpki.values import names

_YEARS: Final = range(1970, 9001)
LAST_SECOND: Final = 253402300799
"""Unix time of the end of the year 9999, the last that `datetime` supports."""


def parse(raw: bytes) -> dict[str, Any] | None:
    """Return the JSON object in these bytes; None if they are anything else."""
    try:
        value = json.loads(raw)
    except (ValueError, RecursionError):
        return None
    return value if isinstance(value, dict) else None


class JsonObject:
    """One JSON object. Every method returns a field's value, or raises SpecError.

    The error consists of `file`, the name of the field and `problem`.
    """

    def __init__(self, value: Mapping[str, Any], file: str, problem: str) -> None:
        self.value, self._file, self._problem = value, file, problem

    def wrong(self, key: str) -> SpecError:
        return SpecError(self._problem, file=self._file, field=key)

    def refuse_other_version(self, newest: int = VERSION) -> None:
        """Raise SpecError for another version than ours, of which `newest` is the last; a newer one needs an update."""
        version = self.value.get("version")
        if isinstance(version, bool) or not isinstance(version, int) or version < VERSION:
            raise self.wrong("version")
        if version > newest:
            raise SpecError(
                f"has version {version} and this vaultpki speaks {newest}; install the newer vaultpki here",
                file=self._file,
                field="version",
            )

    def layout(self) -> Layout:
        """Return the layout that the object is for; raise SpecError if its version is not the one of that layout."""
        try:
            layout = Layout(self.value.get("layout", Layout.DOCUMENT.value))
        except ValueError:
            self.refuse_other_version(max(layout.version for layout in Layout))
            raise self.wrong("layout") from None
        self.refuse_other_version(layout.version)
        if self.value["version"] != layout.version:
            raise self.wrong("layout")
        return layout

    def text(self, key: str, pattern: re.Pattern[str] | None = None) -> str:
        value = self.value.get(key)
        if not isinstance(value, str) or (pattern is not None and not pattern.fullmatch(value)):
            raise self.wrong(key)
        return value

    def word(self, key: str, check: Callable[[str], str]) -> str:
        """Return text in the normal form that `check` returns."""
        value = self.value.get(key)
        if not names.fits(value, check):
            raise self.wrong(key)
        return value

    def optional(self, key: str, check: Callable[[str], str]) -> str | None:
        """Return the same as `word`, or None if the field is null or missing."""
        return None if self.value.get(key) is None else self.word(key, check)

    def time(self, key: str) -> datetime:
        """Return a time as `redact.stamp` writes it; one so far off that sums overflow is wrong."""
        found = moment(self.value.get(key))
        if found is None or found.year not in _YEARS:
            raise self.wrong(key)
        return found

    def texts(self, key: str) -> list[str]:
        """Return a list of different texts."""
        value = self.value.get(key)
        if not isinstance(value, list) or not all(isinstance(v, str) for v in value) or len(set(value)) != len(value):
            raise self.wrong(key)
        return value

    def integer(self, key: str, least: int = 0, most: int = LAST_SECOND) -> int:
        value = self.value.get(key)
        # In Python, bool is a subclass of int.
        if isinstance(value, bool) or not isinstance(value, int) or not least <= value <= most:
            raise self.wrong(key)
        return value
