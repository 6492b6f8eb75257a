"""Places what is below a picture: whose border is whose, what the colours mean, and what needs attention."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from vaultpki.graph.content import STATES, Health
from vaultpki.graph.scene import SIZES, Chip, Label, Rect, text_width
from vaultpki.graph.text_width import shortened

_ORDER: Final = sorted(Health, key=lambda health: health is Health.UNKNOWN)

MOST: Final = 10
"""How many sentences a picture has at most."""


def legend(above: Rect, cas: Sequence[str], *, known: bool) -> tuple[tuple[Chip, ...], tuple[Label, ...], float]:
    """Return the samples of a legend, their texts, and its lower end; it is as wide as what is above it.

    `cas` are the issuing CAs of the picture, and `known` says that expiries are shown.
    """
    borders = [(ca, Health.UNKNOWN, f"signed by CA {ca}") for ca in cas]
    colours = [("", health, STATES[health]) for health in _ORDER] if known else []
    samples: list[Chip] = []
    labels: list[Label] = []
    y = above.bottom + 24
    for line in (borders, colours):
        x = above.x
        for ca, health, words in line:
            wide = 38 + text_width(words, "key")
            if x > above.x and x + wide > above.right:
                x, y = above.x, y + 24
            samples.append(Chip(Rect(x, y, 30, 16), ca, health, (), words))
            labels.append(Label(x + 38, y + 12, words, "key"))
            x += wide + 26
        y += 26 if line else 0
    return tuple(samples), tuple(labels), y


def listed(notices: Sequence[str], above: Rect, y: float) -> tuple[tuple[Label, ...], float]:
    """Return the labels of what needs attention, below `y` and as wide as `above`, and their lower end."""
    if not notices:
        return (), y
    labels = [Label(above.x, y + 20, "Needs attention", "border")]
    for at, sentence in enumerate(first(notices), 2):
        labels.append(Label(above.x, y + 20 * at, shortened(sentence, SIZES["about"], above.w, bold=False), "about"))
    return tuple(labels), y + 20 * len(labels) + 8


def first(notices: Sequence[str]) -> list[str]:
    """Return as many sentences as a picture has, and how many more there are."""
    more = len(notices) - MOST
    return [*notices[:MOST], *([f"and {more:,} more"] if more > 0 else [])]
