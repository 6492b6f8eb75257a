"""Text made fit for people: what a server or a file said, with no secret in it and nothing that steers a terminal."""

from __future__ import annotations

import re
from datetime import UTC, datetime
from typing import Final

HIDDEN: Final = "(hidden)"
"""What stands where a secret stood."""

# Tokens of Vault (hvs., hvb., hvr.) and OpenBao (s., b., r.), and private keys, whosever they are.
_SECRET = re.compile(
    r"\b(?:hv[sbr]|[sbr])\.[A-Za-z0-9_-]{20,}|-----BEGIN [A-Z ]*PRIVATE KEY-----.*?(?:-----END [A-Z ]*KEY-----|\Z)",
    re.DOTALL,
)


def hide(text: str) -> str:
    """The text without the tokens and private keys that are known by their look, whosever they are."""
    return _SECRET.sub(HIDDEN, text)


def printable(text: str) -> str:
    """The text with everything that could steer a terminal made a question mark."""
    return "".join(c if c.isprintable() else "?" for c in text)


def escaped(text: str) -> str:
    """The text with everything that could steer a terminal written as a Python escape, so that no two read alike."""
    if text.isprintable() and "\\" not in text:
        return text
    return "".join(c if c.isprintable() and c != "\\" else ascii(c)[1:-1] for c in text)


def stamp(when: datetime) -> str:
    """A moment as RFC 3339 in UTC, to the second."""
    return f"{when.astimezone(UTC):%Y-%m-%dT%H:%M:%SZ}"
