"""Prepares text from servers and files for people: without secrets and without terminal control characters."""

from __future__ import annotations

import re
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Final

HIDDEN: Final = "(hidden)"
"""Replaces a secret."""

# Tokens of Vault (hvs., hvb., hvr.) and OpenBao (s., b., r.), and private keys of any kind.
_SECRET = re.compile(
    r"\b(?:hv[sbr]|[sbr])\.[A-Za-z0-9_-]{20,}|-----BEGIN [A-Z ]*PRIVATE KEY-----.*?(?:-----END [A-Z ]*KEY-----|\Z)",
    re.DOTALL,
)


def hide(text: str) -> str:
    """Return the text without tokens and private keys, which are recognised by their form."""
    return _SECRET.sub(HIDDEN, text)


def printable(text: str) -> str:
    """Return the text with every unprintable character replaced by a question mark."""
    # A report of a node has a hundred texts, and a fleet a thousand reports.
    return text if text.isprintable() else "".join(c if c.isprintable() else "?" for c in text)


def escaped(text: str) -> str:
    """Return the text with unprintable characters and backslashes escaped, so that different texts stay different."""
    if text.isprintable() and "\\" not in text:
        return text
    return "".join(c if c.isprintable() and c != "\\" else ascii(c)[1:-1] for c in text)


def first_few(names: Sequence[str], most: int = 5) -> str:
    """Return the names in one line, and of more than `most` of them only how many more there are."""
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return f"{', '.join(names[:most])}{more}"


def named(names: Sequence[str]) -> str:
    """Return the first ten names, escaped, and how many more there are."""
    return first_few([escaped(name) for name in names], 10)


_STAMP: Final = "%Y-%m-%dT%H:%M:%SZ"
# A fleet's reports have a hundred thousand times, and strptime is slow. `fromisoformat` takes other forms too, such as
# the hour 24 since Python 3.14.
_MOMENT: Final = re.compile(r"[1-9][0-9]{3}-[0-9]{2}-[0-9]{2}T(?:[01][0-9]|2[0-3]):[0-9]{2}:[0-9]{2}Z")


def stamp(when: datetime) -> str:
    """Return a time as RFC 3339 in UTC, to the second."""
    return f"{when.astimezone(UTC):{_STAMP}}"


def stamped(when: datetime | None) -> str | None:
    """Return the same of a time that may not be known, for programs."""
    return None if when is None else stamp(when)


def moment(value: object) -> datetime | None:
    """Return the time that `stamp` wrote as this text; None for anything else."""
    if not isinstance(value, str) or not _MOMENT.fullmatch(value):
        return None
    try:
        return datetime.fromisoformat(value)
    except ValueError:
        return None
