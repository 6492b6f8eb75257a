"""Places the legend below a picture: whose border is whose, and what the colours mean."""

from __future__ import annotations

from typing import Final

from vaultpki.certificates import ISSUING_CAS
from vaultpki.graph.content import STATES, Health
from vaultpki.graph.scene import Chip, Label, Rect, text_width

_ORDER: Final = sorted(Health, key=lambda health: health is Health.UNKNOWN)


def legend(above: Rect, *, known: bool) -> tuple[tuple[Chip, ...], tuple[Label, ...], float]:
    """Return the samples of a legend, their texts, and its lower end; it is as wide as what is above it.

    `known` says that expiries are shown.
    """
    borders = [(ca, Health.UNKNOWN, f"signed by CA {ca}") for ca in ISSUING_CAS]
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
