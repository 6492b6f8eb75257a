"""Places a picture's boxes, texts and lines, so that no text meets another one and no line crosses a foreign box.

Every arrow has a height of its own (a slot) at each component that it touches, and every way around one has a track of
its own at the edge. Libraries were tried: those that need no program beside them either know neither borders nor
straight lanes (grandalf), or bring numpy and scipy (archgraph).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import groupby
from typing import Final

from vaultpki.graph.columns import Columns, columns
from vaultpki.graph.content import Arrow, Component, Domain, Graph, PictureRow, domain_title, root_title
from vaultpki.graph.legend import legend, listed
from vaultpki.graph.scene import BOLD, SIZES, Card, Chip, DrawnArrow, Frame, Label, Picture, Rect, text_width
from vaultpki.graph.text_width import shortened

_EDGE: Final = 24.0
_GAP: Final = 14.0
_BORDER: Final = 16.0
"""Between a frame and what is in it."""
_STUB: Final = 16.0
"""The shortest visible piece of a line beside a chip."""
_TRACK: Final = 12.0
_MOST: Final = 290.0
"""The widest text in a box."""
_LOOP: Final = 10.0
"""Between the tracks of loops, and between their chips."""
_OUT: Final = 18.0
_PILE: Final = 8.0
_BAND: Final = 34.0
"""The room for the words on a frame."""
_HEAD: Final = 56.0
"""The room for the words in a component."""


@dataclass(frozen=True, slots=True)
class _Slot:
    """A height at the right side of a component: for one at the far right, or for an end of a detour.

    `way` is `in` or `out` for a detour, and empty otherwise.
    """

    high: float
    arrows: tuple[Arrow, ...]
    far: Component | None = None
    way: str = ""


@dataclass(slots=True)
class _Drawing:
    """What has been placed so far."""

    chip_high: float
    domains: dict[str, Domain]
    frames: list[Frame] = field(default_factory=list)
    cards: list[Card] = field(default_factory=list)
    chips: list[Chip] = field(default_factory=list)
    lines: list[DrawnArrow] = field(default_factory=list)
    # The ends of detours: where an arrow leaves its source, and where it reaches its target.
    begins: dict[str, tuple[float, float]] = field(default_factory=dict)
    ends: dict[str, tuple[float, float]] = field(default_factory=dict)

    def chip(self, pair: PictureRow, x: float, middle: float, wide: float) -> Chip:
        made = chip(pair, Rect(x, middle - self.chip_high / 2, wide, self.chip_high))
        self.chips.append(made)
        return made

    def card(self, component: Component, rect: Rect, loops: Sequence[Arrow] = ()) -> None:
        """Draw a component, and below it its arrows to itself."""
        inside = _inside(component, self.chip_high)
        y, middle = rect.y + (rect.h - inside) / 2, rect.x + rect.w / 2
        labels = [_label(middle, y + 26, component.name, "name", centred=True)]
        if component.where:
            labels.append(_label(middle, y + 44, component.where, "where", centred=True))
        self.cards.append(Card(component.name, rect, component.many, tuple(labels)))
        y += _HEAD
        wide = chips_width(component.pairs)
        for pair in component.pairs:
            self.chip(pair, middle - wide / 2, y + self.chip_high / 2, wide)
            y += self.chip_high + 8
        wide = chips_width(arrow.pair for arrow in loops)
        for index, arrow in enumerate(loops, 1):
            at = rect.bottom + _PILE + (_LOOP + self.chip_high) * index - self.chip_high / 2
            made = self.chip(arrow.pair, middle - wide / 2, at, wide).rect
            out, back = made.x - _LOOP * index, made.right + _LOOP * index
            below = rect.bottom + _pile(component)
            self.line(arrow, (out, below), (out, at), (back, at), (back, below))

    def line(self, arrow: Arrow, *points: tuple[float, float]) -> None:
        self.lines.append(DrawnArrow(points, arrow.pair.ca, arrow.source, arrow.target, arrow.pair.name))

    def leave(self, arrows: Sequence[Arrow], rect: Rect, x: float) -> None:
        """Note where detours leave a side of a component."""
        for index, arrow in enumerate(arrows, 1):
            self.begins[arrow.pair.name] = (x, rect.y + index * rect.h / (len(arrows) + 1))

    def frame(self, ca: str, rect: Rect) -> None:
        domain = self.domains[ca]
        x, y = rect.x + _BORDER, rect.y + 22
        label = Label(x, y, domain_title(domain), "border", health=domain.health)
        notice = Label(x, y + 19, f"rotation: {domain.rotation}", "border") if domain.rotation else None
        self.frames.append(Frame(rect, ca, label, notice))

    def band(self, ca: str) -> float:
        return _BAND + (19 if self.domains[ca].rotation else 0)


def scene(graph: Graph) -> Picture:
    """Return the picture of a graph, laid out."""
    cols = columns(graph)
    drawing = _Drawing(62.0 if graph.known else 46.0, {domain.ca: domain for domain in graph.domains})
    top = _EDGE + 56 + _BAND
    tracks = len(cols.detours) if any(_from_left(cols, arrow) for arrow in cols.detours) else 0
    left_x = _EDGE + _BORDER + _TRACK * tracks
    xs = _across(cols, drawing, left_x)
    highs = {component.name: _right_high(cols, component, drawing.chip_high) for component in cols.right}
    left_highs = [_left_high(cols, component, drawing.chip_high) for component in cols.left]
    around = drawing.band(cols.hub.domain) + _BORDER
    right_total = _groups_high(cols, drawing, highs)
    hub_high = max(right_total - around, _stack(left_highs), _inside(cols.hub, drawing.chip_high))
    _right_side(cols, drawing, highs, top + (hub_high + around - right_total) / 2, xs)
    hub = Rect(xs[0], top + drawing.band(cols.hub.domain), _wide(cols, (cols.hub,), drawing), hub_high)
    below = _loops_high(cols, cols.hub, drawing.chip_high)
    drawing.frame(cols.hub.domain, Rect(hub.x - _BORDER, top, hub.w + 2 * _BORDER, hub.h + around + below))
    drawing.card(cols.hub, hub, cols.loops.get(cols.hub.name, ()))
    _left_side(cols, drawing, left_highs, Rect(left_x, hub.y, _wide(cols, cols.left, drawing), hub_high), xs[0])
    return _whole(graph, cols, drawing, left_x)


def chip(pair: PictureRow, rect: Rect) -> Chip:
    """Return a pair as a box."""
    texts = [(pair.name, "pair", 19.0), (pair.files, "files", 35.0)]
    if pair.until:
        texts.append((pair.until, "files", 51.0))
    shift = (rect.h - texts[-1][2] - 11) / 2
    labels = [_label(rect.x + 14, rect.y + shift + down, text, kind) for text, kind, down in texts]
    kubeconfig = f" {pair.kubeconfig}" if pair.kubeconfig else ""
    tip = f"{pair.name}: {pair.files}{kubeconfig}, signed by CA {pair.ca}"
    tip += (f", {pair.until}" if pair.until else "") + (f". {pair.purpose}" if pair.purpose else "")
    return Chip(rect, pair.ca, pair.health, tuple(labels), tip, pair.name)


def chips_width(pairs: Iterable[PictureRow]) -> float:
    """Return the width that fits all these pairs; 0 for none."""
    found = [
        text_width(text, kind)
        for pair in pairs
        for text, kind in ((pair.name, "pair"), (pair.files, "files"), (pair.until, "files"))
    ]
    return min(max(found), _MOST) + 25 if found else 0.0


def _pile(component: Component) -> float:
    """Return how far a component's pile reaches beyond its box."""
    return _PILE if component.many else 0.0


def _label(x: float, y: float, text: str, kind: str, *, centred: bool = False) -> Label:
    return Label(x, y, shortened(text, SIZES[kind], _MOST, bold=kind in BOLD), kind, centred)


def _from_left(cols: Columns, arrow: Arrow) -> bool:
    return any(component.name == arrow.source for component in cols.left)


def _inside(component: Component, chip_high: float) -> float:
    """Return the height that what is in a component needs."""
    return _HEAD + len(component.pairs) * (chip_high + 8) + (6 if component.pairs else 0)


def _loops_high(cols: Columns, component: Component, chip_high: float) -> float:
    """Return the height that a component's arrows to itself need below it."""
    loops = cols.loops.get(component.name, ())
    return _PILE + len(loops) * (chip_high + _LOOP) if loops else 0.0


def _wide(cols: Columns, components: Iterable[Component], drawing: _Drawing) -> float:
    """Return the width of a column: all its components have the same; 0 if there are none."""
    found = [0.0]
    for component in components:
        loops = cols.loops.get(component.name, ())
        needs = [
            100.0,
            min(text_width(component.name, "name"), _MOST),
            min(text_width(component.where, "where"), _MOST),
            chips_width(component.pairs),
            chips_width(arrow.pair for arrow in loops) + 2 * _LOOP * len(loops),
        ]
        if component.domain:
            needs.append(text_width(domain_title(drawing.domains[component.domain]), "border"))
        found.append(max(needs) + 26)
    return max(found)


def _stack(highs: Sequence[float]) -> float:
    return sum(highs) + _GAP * (len(highs) - 1) if highs else 0.0


def _slots(cols: Columns, component: Component, chip_high: float) -> tuple[_Slot, ...]:
    """Return the slots at the right side of a component, from top to bottom."""
    found = []
    for far in cols.far.get(component.name, ()):
        arrows = cols.outer.get(far.name, ())
        found.append(_Slot(max(_inside(far, chip_high), _stack([chip_high] * len(arrows))), arrows, far))
    found += [_Slot(chip_high, (arrow,), way="in") for arrow in cols.entering(component.name)]
    found += [_Slot(_OUT, (arrow,), way="out") for arrow in cols.leaving(component.name)]
    return tuple(found)


def _right_high(cols: Columns, component: Component, chip_high: float) -> float:
    inner = _stack([chip_high] * len(cols.inner.get(component.name, ())))
    outer = _stack([slot.high for slot in _slots(cols, component, chip_high)])
    return max(_inside(component, chip_high), inner + 20, outer + 20)


def _left_high(cols: Columns, component: Component, chip_high: float) -> float:
    lanes = _stack([chip_high] * len(cols.logins.get(component.name, ())))
    return max(_inside(component, chip_high), lanes, _OUT * (len(cols.leaving(component.name)) + 1))


def _groups(cols: Columns) -> list[tuple[str, tuple[Component, ...]]]:
    """Return the components at the right by their domain, in the order of the column."""
    return [(ca, tuple(found)) for ca, found in groupby(cols.right, key=lambda component: component.domain)]


def _groups_high(cols: Columns, drawing: _Drawing, highs: Mapping[str, float]) -> float:
    whole = {each.name: highs[each.name] + _loops_high(cols, each, drawing.chip_high) for each in cols.right}
    framed = (_stack([whole[each.name] for each in group]) for _, group in _groups(cols))
    bands = (drawing.band(ca) + _BORDER for ca, _ in _groups(cols))
    return _stack([inside + band for inside, band in zip(framed, bands, strict=True)])


def _across(cols: Columns, drawing: _Drawing, left_x: float) -> tuple[float, float, float]:
    """Return where the middle column, the pairs right of it and the right column begin."""
    logins = chips_width(arrow.pair for arrows in cols.logins.values() for arrow in arrows)
    hub_x = left_x + _wide(cols, cols.left, drawing) + _STUB + logins + _STUB + 8 + _BORDER
    inner = chips_width(arrow.pair for arrows in cols.inner.values() for arrow in arrows)
    inner_x = hub_x + _wide(cols, (cols.hub,), drawing) + _BORDER + _STUB + 8
    return hub_x, inner_x, inner_x + inner + _STUB + 8 + _BORDER


def _right_side(
    cols: Columns, drawing: _Drawing, highs: Mapping[str, float], y: float, xs: tuple[float, float, float]
) -> None:
    right_x = xs[2]
    wide = _wide(cols, cols.right, drawing)
    for ca, group in _groups(cols):
        top, y = y, y + drawing.band(ca)
        for component in group:
            rect = Rect(right_x, y, wide, highs[component.name])
            drawing.card(component, rect, cols.loops.get(component.name, ()))
            _inner_lines(cols, drawing, component, rect, xs)
            _outer_side(cols, drawing, component, rect)
            y = rect.bottom + _loops_high(cols, component, drawing.chip_high) + _GAP
        bottom = y - _GAP + _BORDER
        drawing.frame(ca, Rect(right_x - _BORDER, top, wide + 2 * _BORDER, bottom - top))
        y = bottom + _GAP


def _middles(rect: Rect, chip_high: float, number: int) -> Iterator[float]:
    """Return the heights of some arrows at the side of a box, around its middle."""
    first = rect.middle - _stack([chip_high] * number) / 2 + chip_high / 2
    return (first + index * (chip_high + _GAP) for index in range(number))


def _inner_lines(
    cols: Columns, drawing: _Drawing, component: Component, rect: Rect, xs: tuple[float, float, float]
) -> None:
    """Draw the arrows between the middle column and a component at the right."""
    hub_x, inner_x, right_x = xs
    hub_right = hub_x + _wide(cols, (cols.hub,), drawing)
    arrows = cols.inner.get(component.name, ())
    for arrow, middle in zip(arrows, _middles(rect, drawing.chip_high, len(arrows)), strict=True):
        drawing.chip(arrow.pair, inner_x, middle, right_x - _BORDER - 8 - _STUB - inner_x)
        ends = ((hub_right + _pile(cols.hub), middle), (rect.x, middle))
        drawing.line(arrow, *(ends if arrow.target == component.name else ends[::-1]))


def _outer_side(cols: Columns, drawing: _Drawing, component: Component, rect: Rect) -> None:
    """Draw what is at the right of a component at the right, slot by slot."""
    pairs = [arrow.pair for arrows in (*cols.outer.values(), cols.detours) for arrow in arrows]
    side = rect.right + _pile(component)
    x, wide = rect.right + _BORDER + _STUB + 8, chips_width(pairs)
    far_wide = _wide(cols, [far for found in cols.far.values() for far in found], drawing)
    slots = _slots(cols, component, drawing.chip_high)
    at = rect.middle - _stack([slot.high for slot in slots]) / 2
    for slot in slots:
        room = Rect(x + wide + _STUB, at, far_wide, slot.high)
        if slot.far is not None:
            drawing.card(slot.far, room)
            drawing.leave(cols.leaving(slot.far.name), room, room.right + _pile(slot.far))
        if slot.way == "out":
            drawing.begins[slot.arrows[0].pair.name] = (side, room.middle)
        else:
            for arrow, middle in zip(slot.arrows, _middles(room, drawing.chip_high, len(slot.arrows)), strict=True):
                drawing.chip(arrow.pair, x, middle, wide)
                if slot.way == "in":
                    drawing.ends[arrow.pair.name] = (side, middle)
                else:
                    drawing.line(arrow, (room.x, middle), (side, middle))
        at += slot.high + _GAP


def _left_side(cols: Columns, drawing: _Drawing, highs: Sequence[float], room: Rect, hub_x: float) -> None:
    gap = min((room.h - sum(highs)) / max(len(highs) - 1, 1), 64.0)
    y = room.middle - (sum(highs) + gap * (len(highs) - 1)) / 2
    wide = hub_x - _BORDER - 8 - _STUB - room.right - _STUB
    for component, high in zip(cols.left, highs, strict=True):
        rect = Rect(room.x, y, room.w, high)
        drawing.card(component, rect)
        arrows = cols.logins.get(component.name, ())
        for arrow, middle in zip(arrows, _middles(rect, drawing.chip_high, len(arrows)), strict=True):
            drawing.chip(arrow.pair, rect.right + _STUB, middle, wide)
            drawing.line(arrow, (rect.right + _pile(component), middle), (hub_x, middle))
        drawing.leave(cols.leaving(component.name), rect, rect.x)
        y += high + gap


def _whole(graph: Graph, cols: Columns, drawing: _Drawing, left_x: float) -> Picture:
    """Add the ways around, the outer border, the title and the legend."""
    boxes = [frame.rect for frame in drawing.frames] + [chip.rect for chip in drawing.chips]
    right = max([*(rect.right for rect in boxes), *(card.rect.right + _PILE for card in drawing.cards)])
    bottom = max([*(rect.bottom for rect in boxes), *(card.rect.bottom + _PILE for card in drawing.cards)])
    for index, arrow in enumerate(cols.detours, 1):
        begin, end = drawing.begins[arrow.pair.name], drawing.ends[arrow.pair.name]
        x = right + _TRACK * index
        points = [(x, begin[1])]
        if _from_left(cols, arrow):
            before, below = left_x - _TRACK * index, bottom + _TRACK * index
            points = [(before, begin[1]), (before, below), (x, below)]
        drawing.line(arrow, begin, *points, (x, end[1]), end)
    around = _TRACK * (len(cols.detours) + 1)
    root = Rect(_EDGE, _EDGE + 56, 0, 0)
    labels = [
        Label(_EDGE, _EDGE + 16, f"Cluster {graph.cluster}", "title"),
        Label(_EDGE, _EDGE + 38, graph.about, "about"),
    ]
    title = f"{root_title(graph)}, rotation: {graph.root.rotation}" if graph.root.rotation else root_title(graph)
    label = Label(_EDGE + _BORDER, root.y + 22, title, "border", health=graph.root.health)
    widest = max(right + around + _BORDER, label.rect.right + 22, *(label.rect.right for label in labels))
    root = Rect(root.x, root.y, widest - root.x, bottom + around + _BORDER - root.y)
    drawing.frames.insert(0, Frame(root, "", label))
    keys, words, lowest = legend(root, [domain.ca for domain in graph.domains], known=graph.known)
    said, lowest = listed(graph.notices, root, lowest)
    return Picture(
        root.right + _EDGE,
        lowest + _EDGE - 8,
        tuple(drawing.frames),
        tuple(drawing.cards),
        tuple(drawing.chips),
        tuple(drawing.lines),
        (*labels, *words, *said),
        keys,
    )
