"""Lays tables and sentences out for a terminal or a file: what fits, and no character that could steer a terminal."""

from __future__ import annotations

import unicodedata
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Final

from vaultpki.redact import printable

_GAP: Final = "  "
_CUT: Final = "..."
_NARROWEST: Final = 8


@dataclass(frozen=True, slots=True)
class Column:
    """One column; all widths are in cells of a terminal.

    `most` is its greatest width. `least` is the width to which it is cut where the table is too wide, and further only
    if nothing else helps; 0 if it is never cut. Columns with `optional` are left out before that, the greatest number
    first.
    """

    title: str
    most: int = 60
    least: int = 0
    right: bool = False
    optional: int = 0


@dataclass(frozen=True, slots=True)
class Cell:
    """A text with the name of its colour, if it has one."""

    text: str
    colour: str | None = None


Paint = Callable[[str, str | None], str]


def plain(text: str, colour: str | None) -> str:
    """Return the text without a colour."""
    return text


def lines(
    columns: Sequence[Column],
    rows: Iterable[Sequence[str | Cell]],
    *,
    width: int | None = None,
    paint: Paint = plain,
) -> Iterator[str]:
    """Yield the head and the rows, without blanks at the end of a line.

    `width` is how wide a line may be; None for any width, as in a file. The last column is as wide as its text where
    `width` is None. `paint` colours the text of a cell.
    """
    table = [[Cell(column.title) for column in columns]]
    table += [[Cell(cell) if isinstance(cell, str) else cell for cell in row] for row in rows]
    texts = [[printable(cell.text) for cell in row] for row in table]
    kept = _columns_that_fit(columns, texts, width)
    widths = _widths(columns, texts, kept, width)
    for row, shown in zip(table, texts, strict=True):
        line = ""
        for index in kept:
            text = shortened(shown[index], widths[index])
            blank = " " * (widths[index] - cells(text))
            painted = paint(text, row[index].colour) if text else ""
            line += f"{_GAP if line or index != kept[0] else ''}"
            line += blank + painted if columns[index].right else painted + (blank if index != kept[-1] else "")
        yield line.rstrip()


def cells(text: str) -> int:
    """Return how many cells of a terminal a text takes; a character that joins the one before counts as one."""
    if text.isascii():
        return len(text)
    return sum(2 if unicodedata.east_asian_width(each) in "WF" else 1 for each in text)


def shortened(text: str, most: int) -> str:
    """Return the text, without its middle if it takes more than `most` cells."""
    if cells(text) <= most:
        return text
    if most <= len(_CUT):
        return "." * most
    kept = most - len(_CUT)
    head, tail = "", ""
    for each in text:
        if cells(head + each) > kept // 2:
            break
        head += each
    for each in reversed(text):
        if cells(each + tail) > kept - cells(head):
            break
        tail = each + tail
    return head + _CUT + tail


def wrapped(text: str, width: int, most: int) -> list[str]:
    """Return the text in lines of at most `width` cells, and of at most `most` lines; "..." stands for the rest."""
    made = [""]
    for word in printable(text).split(" "):
        line = f"{made[-1]} {word}" if made[-1] else word
        if cells(line) <= width:
            made[-1] = line
        else:
            made.append(shortened(word, width))
    made = made if made[0] else made[1:]
    return made if len(made) <= most else [*made[: most - 1], shortened(f"{made[most - 1]} {_CUT}{_CUT}", width)]


def _columns_that_fit(columns: Sequence[Column], texts: Sequence[Sequence[str]], width: int | None) -> list[int]:
    """Return the columns that are shown where a line may be so wide."""
    kept = list(range(len(columns)))
    natural = [_natural(column, texts, index) for index, column in enumerate(columns)]
    for index in sorted(kept, key=lambda each: columns[each].optional, reverse=True):
        narrow = sum(_narrow(columns[each], natural[each]) for each in kept) + len(_GAP) * (len(kept) - 1)
        if width is None or narrow <= width or not columns[index].optional:
            break
        kept.remove(index)
    return kept


def _widths(
    columns: Sequence[Column], texts: Sequence[Sequence[str]], kept: Sequence[int], width: int | None
) -> dict[int, int]:
    widths = {index: _natural(columns[index], texts, index) for index in kept}
    if width is None:
        last = kept[-1]
        widths[last] = max((cells(row[last]) for row in texts), default=0)
        return widths
    for last_resort in (False, True):
        # From the right: what names a row is on the left.
        for index in reversed(kept):
            spare = sum(widths.values()) + len(_GAP) * (len(kept) - 1) - width
            if spare > 0 and columns[index].least:
                least = _NARROWEST if last_resort else _narrow(columns[index], widths[index])
                widths[index] = max(widths[index] - spare, min(least, widths[index]))
    return widths


def _natural(column: Column, texts: Sequence[Sequence[str]], index: int) -> int:
    return max(min(max(cells(row[index]) for row in texts), column.most), cells(column.title))


def _narrow(column: Column, natural: int) -> int:
    return min(max(column.least, cells(column.title)), natural) if column.least else natural


def fitted(lines: Iterable[str], width: int | None) -> Iterator[str]:
    """Yield the lines, those that are wider than `width` broken between words; a command stays on one line if it fits.

    A word that is wider than a line is not cut: it may be a path in a command that a person copies.
    """
    for line in lines:
        if width is None or cells(line) <= width:
            yield line
            continue
        text = line.lstrip(" ")
        indent = " " * (len(line) - len(text))
        hanging = f"{indent}    "
        first, *rest = _words(text, width - len(hanging))
        made = f"{indent}{first}"
        for word in rest:
            if cells(f"{made} {word}") <= width:
                made = f"{made} {word}"
            elif word:
                yield made.rstrip(" ")
                made = f"{hanging}{word}"
        yield made


def _words(text: str, width: int) -> list[str]:
    """Return what no line is broken in: words, and commands in backticks that take at most `width` cells.

    Further blanks between two words are empty words.
    """
    # What is between two backticks has an odd number.
    parts = text.split("`")
    kept = [
        part.replace(" ", "\0") if index % 2 and len(part) <= width - 3 else part for index, part in enumerate(parts)
    ]
    return [word.replace("\0", " ") for word in "`".join(kept).split(" ")]
