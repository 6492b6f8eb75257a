"""Cuts texts for people into sentences, and counts the words of each."""

from __future__ import annotations

import re
from typing import Final

MOST: Final = 25
"""How many words a sentence of the program may have."""

FILLED: Final = "◇"
"""Stands for what is filled in, or quoted: a command, a path or a value is one word."""

_QUOTED = re.compile(r"`[^`]*`")
_ENDS = re.compile(r"(?<=[.!?])[\"')\]]*\s+(?=[A-Z`◇(\"'])|(?<=:)\s+(?=[A-Z])|\n\s*\n|\n(?=\s*[-*#] )|\n {4,}")
_WORD = re.compile(r"\S*[A-Za-z0-9◇]\S*")


def sentences(text: str) -> list[str]:
    """The sentences of a text, each in one line; what stands in backquotes is never cut."""
    kept = _QUOTED.sub(lambda quoted: quoted.group().replace(" ", "\0"), text)
    cut = (" ".join(part.split()).replace("\0", " ") for part in _ENDS.split(kept))
    return [sentence for sentence in cut if sentence]


def words(sentence: str) -> list[str]:
    """The words of a sentence, what stands in backquotes counting as one."""
    return _WORD.findall(_QUOTED.sub(FILLED, sentence))
