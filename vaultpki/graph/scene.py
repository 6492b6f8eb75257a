"""Defines the values of a laid-out picture: boxes, texts and lines with their places, in pixels."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from vaultpki.graph.content import Health
from vaultpki.graph.text_width import width

SIZES: Final = {"title": 20, "about": 13, "name": 15, "where": 12, "pair": 13, "files": 11, "border": 13, "key": 12}
"""The font size of each kind of text."""

BOLD: Final = frozenset({"title", "name", "pair", "border"})
"""The kinds of text that are bold."""


def text_width(text: str, kind: str) -> float:
    """Return the width in pixels that a text of this kind needs at most."""
    return width(text, SIZES[kind], bold=kind in BOLD)


@dataclass(frozen=True, slots=True)
class Rect:
    """A rectangle: its upper left corner, width and height."""

    x: float
    y: float
    w: float
    h: float

    @property
    def right(self) -> float:
        return self.x + self.w

    @property
    def bottom(self) -> float:
        return self.y + self.h

    @property
    def middle(self) -> float:
        return self.y + self.h / 2

    def meets(self, other: Rect) -> bool:
        """Return whether the two have a common area."""
        return self.x < other.right and other.x < self.right and self.y < other.bottom and other.y < self.bottom


@dataclass(frozen=True, slots=True)
class Label:
    """One line of text: its kind in SIZES, and the left end (or with `centred` the middle) of its base line."""

    x: float
    y: float
    text: str
    kind: str
    centred: bool = False
    health: Health = Health.UNKNOWN

    @property
    def rect(self) -> Rect:
        """The area that the text needs at most."""
        size = SIZES[self.kind]
        wide = text_width(self.text, self.kind)
        return Rect(self.x - wide / 2 if self.centred else self.x, self.y - size * 0.8, wide, size)


@dataclass(frozen=True, slots=True)
class Chip:
    """A pair: a small box with the border of the CA that signed it; `tip` is shown under the pointer.

    `pair` is the name of the pair, empty in the legend.
    """

    rect: Rect
    ca: str
    health: Health
    labels: tuple[Label, ...]
    tip: str
    pair: str = ""


@dataclass(frozen=True, slots=True)
class Card:
    """A component; `many` draws it as a pile."""

    name: str
    rect: Rect
    many: bool
    labels: tuple[Label, ...]


@dataclass(frozen=True, slots=True)
class Frame:
    """The border of a CA, an empty `ca` being the root. `label` stands at its top, `notice` below that."""

    rect: Rect
    ca: str
    label: Label
    notice: Label | None = None


@dataclass(frozen=True, slots=True)
class DrawnArrow:
    """An arrow through `points`, in the colour of a CA; `source`, `target` and `pair` are names."""

    points: tuple[tuple[float, float], ...]
    ca: str
    source: str
    target: str
    pair: str


@dataclass(frozen=True, slots=True)
class Picture:
    """A whole picture. `labels` are the texts that belong to no box, `keys` the samples of the legend."""

    width: float
    height: float
    frames: tuple[Frame, ...]
    cards: tuple[Card, ...]
    chips: tuple[Chip, ...]
    lines: tuple[DrawnArrow, ...]
    labels: tuple[Label, ...]
    keys: tuple[Chip, ...]

    @property
    def texts(self) -> tuple[Label, ...]:
        """Every text of the picture."""
        return (
            *self.labels,
            *(label for frame in self.frames for label in (frame.label, frame.notice) if label is not None),
            *(label for card in self.cards for label in card.labels),
            *(label for chip in (*self.chips, *self.keys) for label in chip.labels),
        )
