"""Estimates how wide a text is in a picture whose fonts are not known."""

from __future__ import annotations

import unicodedata
from typing import Final

# Hundredths of the font size. Advances of DejaVu Sans, rounded up: of the usual sans-serif fonts, only Verdana is as
# wide, so a text that fits in it fits in the others.
_GROUPS: Final = {
    28: "'ijl",
    32: "IJ ,.·",
    38: "/:;\\|f-",
    42: "()[]t!r",
    50: '"*_`',
    56: "sz?cL",
    62: "FkvxyPTYaeo",
    64: "$0123456789ESbdghnpqu{}",
    70: "KABVXZCR",
    77: "UNHD",
    84: "&GOQw#+<=>^~",
    100: "Mm%W@…",
}
_WIDTHS: Final = {character: width for width, characters in _GROUPS.items() for character in characters}
_BOLD: Final = 1.15
_OTHER: Final = 80
_WIDE: Final = 105


def width(text: str, size: float, *, bold: bool = False) -> float:
    """Return the width of a text of this font size, in the same unit; rather too wide than too narrow."""
    hundredths = sum(_WIDTHS.get(each) or (_WIDE if _is_wide(each) else _OTHER) for each in text)
    return hundredths / 100 * size * (_BOLD if bold else 1.0)


def shortened(text: str, size: float, most: float, *, bold: bool = False) -> str:
    """Return the text, with an ellipsis in its middle if it is wider than `most`."""
    if width(text, size, bold=bold) <= most:
        return text
    for kept in range(len(text) - 1, 1, -1):
        begin = (kept + 1) // 2
        short = f"{text[:begin]}…{text[len(text) - (kept - begin) :]}"
        if width(short, size, bold=bold) <= most:
            return short
    return "…"


def _is_wide(character: str) -> bool:
    return unicodedata.east_asian_width(character) in {"W", "F"} or ord(character) > 0xFFFF
