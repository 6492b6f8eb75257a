"""Defines a line for a terminal, and wraps text into such lines; pure."""

from __future__ import annotations

import textwrap
from dataclasses import dataclass
from typing import Final

from vaultpki.provision.plan import Colour

WIDTH: Final = 100
"""How many columns a plan takes at most, unless every field is asked for."""


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
