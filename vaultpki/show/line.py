"""Defines a line for a terminal and an entry of a plan, and wraps text into such lines; pure."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from vaultpki.provision.plan import Colour

WIDTH: Final = 100
"""How many columns a plan takes at most, unless every field is asked for."""


SIGN_COLOURS: Final[Mapping[str, Colour]] = {"+": "green", "~": "yellow", "-": "red"}


@dataclass(frozen=True, slots=True)
class Line:
    """One line for a terminal; `colour` is None if it has none. Nothing in it can steer the terminal."""

    text: str
    colour: Colour | None = None


def wrapped(text: str, colour: Colour | None, width: int) -> list[Line]:
    """Return the text in lines of at most `width` columns, the later ones indented; 0 for no limit."""
    if len(text) <= width or not width:
        return [Line(text, colour)]
    indent = " " * (len(text) - len(text.lstrip()) + 4)
    return [Line(line, colour) for line in textwrap.wrap(text, width, subsequent_indent=indent, break_on_hyphens=False)]


@dataclass(frozen=True, slots=True)
class Entry:
    """One thing that a person decides on: its sign, what it is, and what changes in it."""

    sign: str
    subject: str
    parts: tuple[str, ...] = ()

    def lines(self) -> list[Line]:
        head, colour = f"{self.sign} {self.subject}", SIGN_COLOURS[self.sign]
        whole = f"{head}: {'; '.join(self.parts)}" if self.parts else head
        if len(whole) <= WIDTH or len(self.parts) < 2:
            return wrapped(whole, colour, WIDTH)
        texts = (f"{head}:", *(f"    {part}" for part in self.parts))
        return [line for text in texts for line in wrapped(text, colour, WIDTH)]
