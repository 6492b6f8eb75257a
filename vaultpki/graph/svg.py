"""Draws the picture of a cluster as SVG: one file without fonts, scripts or network, in light or dark."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Final
from xml.sax.saxutils import escape

from vaultpki.graph.content import Graph, Health, pair_sentence, sentence
from vaultpki.graph.placement import scene
from vaultpki.graph.scene import BOLD, SIZES, Card, Chip, DrawnArrow, Frame, Label, Picture, Rect

GRAPH_MARK: Final = "<!-- vaultpki graph -->"
"""The first line of every picture."""

_ROOT: Final = "root"

# Colours by name: in light, in dark. Each text has a contrast of at least 4.5 to what is behind it (WCAG 2.2, 1.4.3).
COLOURS: Final[Mapping[str, tuple[str, str]]] = {
    "page": ("#ffffff", "#12161f"),
    "card": ("#f3f5fa", "#1d2433"),
    "edge": ("#5b6579", "#8a95aa"),
    "text": ("#1b2230", "#e8ecf4"),
    "quiet": ("#4f596c", "#aab4c6"),
    "root": ("#6b7588", "#8a95aa"),
    "kubernetes": ("#2860c5", "#7aa7ff"),
    "kubelet": ("#0b7a75", "#4fc9bf"),
    "etcd": ("#7a3fb5", "#c39bff"),
    "front-proxy": ("#a8326e", "#ff8fc2"),
    "service-account": ("#8a4b08", "#ffb454"),
    "unknown": ("#ffffff", "#171d29"),
    "valid": ("#e4f5e6", "#15301e"),
    "due": ("#fdf0cf", "#3b2f10"),
    **dict.fromkeys(("revoked", "expired", "missing", "broken"), ("#fde3e1", "#43191a")),
    "valid-text": ("#1f6e34", "#6fd58b"),
    "due-text": ("#8a5a00", "#f0b73a"),
    **dict.fromkeys(("revoked-text", "expired-text", "missing-text", "broken-text"), ("#b3261e", "#ff8f87")),
    "valid-bar": ("#2e8b45", "#58c878"),
    "due-bar": ("#b87a00", "#f0b73a"),
    **dict.fromkeys(("revoked-bar", "expired-bar", "missing-bar", "broken-bar"), ("#c8322b", "#ff7b72")),
}

_QUIET: Final = frozenset({"about", "where", "files", "key"})

DASHES: Final = {
    "kubernetes": "none",
    "kubelet": "9 4",
    "etcd": "2.5 3.5",
    "front-proxy": "11 4 2.5 4",
    "service-account": "6 3 2 3 2 3",
    _ROOT: "none",
}
"""The dashes of each CA's border as SVG writes them, for readers who do not see the colours."""


def svg(graph: Graph) -> str:
    """Return the picture as SVG."""
    placed = scene(graph)
    return "\n".join((GRAPH_MARK, *_lines(graph, placed), ""))


def _lines(graph: Graph, placed: Picture) -> Iterator[str]:
    wide, high = _n(placed.width), _n(placed.height)
    yield (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {wide} {high}" width="{wide}" height="{high}" '
        'class="vaultpki-graph" role="img" '
        'aria-labelledby="vaultpki-graph-title vaultpki-graph-desc" '
        "font-family=\"system-ui, 'DejaVu Sans', Verdana, sans-serif\">"
    )
    title = f"Cluster {graph.cluster}: who logs in to whom, with which pair"
    yield f'<title id="vaultpki-graph-title">{_text(title)}</title>'
    said = [sentence(arrow) for arrow in graph.arrows]
    said += [pair_sentence(component, pair) for component in graph.components for pair in component.pairs]
    said += [f"Needs attention: {each}." for each in graph.notices]
    yield f'<desc id="vaultpki-graph-desc">{_text(" ".join((f"{graph.about}.", *said)))}</desc>'
    yield f"<style>{''.join(_style())}</style>"
    yield f"<defs>{''.join(map(_head, DASHES))}</defs>"
    yield f'<rect class="page" width="{wide}" height="{high}" rx="12"/>'
    yield from map(_frame, placed.frames)
    for card in placed.cards:
        yield from _card(card)
    yield from map(_line, placed.lines)
    for chip in (*placed.chips, *placed.keys):
        yield from _chip(chip)
    yield from map(_label, placed.labels)
    yield "</svg>"


def _style() -> Iterator[str]:
    for kind, size in SIZES.items():
        weight = "; font-weight: 600" if kind in BOLD else ""
        yield f"\n.vaultpki-graph .{kind} {{ font-size: {size}px{weight} }}"
    for ca, dash in DASHES.items():
        yield f"\n.vaultpki-graph .ca-{ca} {{ stroke-dasharray: {dash} }}"
    yield "\n.vaultpki-graph .middle { text-anchor: middle }"
    yield "\n.vaultpki-graph .line { fill: none; stroke-width: 1.8; stroke-dasharray: none }"
    yield "\n.vaultpki-graph .frame { fill-opacity: 0.05; stroke-width: 2 }"
    yield "\n.vaultpki-graph .chip { stroke-width: 1.6 }"
    yield "\n.vaultpki-graph .outer { fill: none; stroke-width: 1.6 }"
    yield "".join(_colours(0))
    # Paper is white whatever the screen is.
    yield f"\n@media screen and (prefers-color-scheme: dark) {{{''.join(_colours(1))}\n}}\n"


def _colours(mode: int) -> Iterator[str]:
    """Return the rules with colours, written out: few programs beside browsers know variables in SVG."""
    colour = {name: shades[mode] for name, shades in COLOURS.items()}

    def rule(selector: str, declarations: str) -> str:
        return f"\n.vaultpki-graph {selector} {{ {declarations} }}"

    yield rule(".page", f"fill: {colour['page']}")
    yield rule(".card", f"fill: {colour['card']}; stroke: {colour['edge']}")
    for kind in SIZES:
        yield rule(f".{kind}", f"fill: {colour['quiet' if kind in _QUIET else 'text']}")
    for ca in DASHES:
        yield rule(f".ca-{ca}", f"stroke: {colour[ca]}")
        yield rule(f".frame.ca-{ca}", f"fill: {colour[ca]}")
        yield rule(f".border.of-{ca}", f"fill: {colour[ca]}")
        yield rule(f".head-{ca}", f"fill: {colour[ca]}")
    for health in Health:
        yield rule(f".chip.{health.value}", f"fill: {colour[health.value]}")
        if health is not Health.UNKNOWN:
            yield rule(f".bar.{health.value}", f"fill: {colour[f'{health.value}-bar']}")
    yield rule(".border.expired", f"fill: {colour['expired-bar']}")
    yield rule(".border.due", f"fill: {colour['due-text']}")
    yield rule(".chip.ca-", f"stroke: {colour['edge']}")


def _head(ca: str) -> str:
    return (
        f'<marker id="vaultpki-graph-{ca}" viewBox="0 0 10 10" refX="9.5" refY="5" markerWidth="8" markerHeight="8" '
        f'markerUnits="userSpaceOnUse" orient="auto"><path class="head-{ca}" d="M0 0.5 L10 5 L0 9.5 z"/></marker>'
    )


def _frame(frame: Frame) -> str:
    ca = frame.ca or _ROOT
    kind = "frame" if frame.ca else "outer"
    words = [_label(label, f"of-{ca} {label.health.value}") for label in (frame.label, frame.notice) if label]
    return f'<rect class="{kind} ca-{ca}" {_place(frame.rect)} rx="14"/>{"".join(words)}'


def _card(card: Card) -> Iterator[str]:
    rect = card.rect
    for shift in (8, 4) if card.many else ():
        yield f'<rect class="card" {_place(Rect(rect.x + shift, rect.y + shift, rect.w, rect.h))} rx="9"/>'
    yield f'<rect class="card" {_place(rect)} rx="9"/>'
    yield from map(_label, card.labels)


def _chip(chip: Chip) -> Iterator[str]:
    rect = chip.rect
    yield f"<g><title>{_text(chip.tip)}</title>"
    yield f'<rect class="chip ca-{chip.ca} {chip.health.value}" {_place(rect)} rx="5"/>'
    if chip.health is not Health.UNKNOWN:
        yield f'<rect class="bar {chip.health.value}" {_place(Rect(rect.x + 4, rect.y + 4, 4, rect.h - 8))} rx="2"/>'
    yield from map(_label, chip.labels)
    yield "</g>"


def _line(line: DrawnArrow) -> str:
    (x, y), *rest = line.points
    path = [f"M{_n(x)} {_n(y)}"]
    for (_, before), (at_x, at_y) in zip(line.points, rest, strict=False):
        path.append(f"H{_n(at_x)}" if at_y == before else f"V{_n(at_y)}")
    return f'<path class="line ca-{line.ca}" d="{" ".join(path)}" marker-end="url(#vaultpki-graph-{line.ca})"/>'


def _label(label: Label, also: str = "") -> str:
    classes = " ".join(filter(None, (label.kind, "middle" if label.centred else "", also)))
    return f'<text class="{classes}" x="{_n(label.x)}" y="{_n(label.y)}">{_text(label.text)}</text>'


def _place(rect: Rect) -> str:
    return f'x="{_n(rect.x)}" y="{_n(rect.y)}" width="{_n(rect.w)}" height="{_n(rect.h)}"'


def _n(number: float) -> str:
    return f"{number:.1f}".removesuffix(".0")


def _text(text: str) -> str:
    """Return the text for XML, which forbids control characters even as references."""
    return escape("".join(each if each.isprintable() else "?" for each in text))
