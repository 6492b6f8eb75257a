"""What must hold in every picture: no text meets another one, no line crosses a box that is not its own."""

from __future__ import annotations

from itertools import combinations, pairwise

from vaultpki.graph.scene import Card, DrawnArrow, Picture, Rect
from vaultpki.model import NodeRole, Row, Usage

NODES = """\
cluster: prod
nodes:
- {name: cp-1, roles: [control-plane, etcd, worker], addresses: [10.0.0.11]}
"""

OWN_ROWS = """\
certificates:
  prometheus: {kind: client, common_name: p1, ca: kubernetes, roles: [worker], from: prometheus, to: kube-apiserver}
  prom-etcd: {kind: client, common_name: p2, ca: etcd, roles: [worker], from: prometheus, to: ETCD}
  backup: {kind: client, common_name: b1, ca: etcd, roles: [etcd], from: etcd backup, to: etcd}
  backup-log: {kind: client, common_name: b2, ca: etcd, roles: [etcd], from: etcd backup, to: log}
  log: {kind: server, common_name: log, names: [log.example.com], ca: kubernetes, roles: [worker]}
  kubelet-log: {kind: client, common_name: k1, ca: kubernetes, roles: [worker], from: kubelet, to: log}
  alone: {kind: client, common_name: a1, ca: kubernetes, roles: [worker]}
  self: {kind: client, common_name: s1, ca: etcd, roles: [control-plane], from: kube-apiserver, to: kube-apiserver}
"""
"""Every kind of way that an arrow can take."""


def listed(control_plane: int, workers: int) -> str:
    """A cluster.yaml with so many nodes."""
    lines = [
        f"- {{name: cp-{n}, roles: [control-plane, etcd], addresses: [10.0.0.{n}]}}"
        for n in range(1, control_plane + 1)
    ]
    lines += [f"- {{name: w-{n}, roles: [worker], addresses: [10.0.1.{n}]}}" for n in range(1, workers + 1)]
    return "\n".join(("cluster: prod", "nodes:", *lines, ""))


def own_row(name: str, usage: Usage, source: str, target: str, ca: str) -> Row:
    return Row(
        name=name,
        usage=usage,
        source=source,
        target=target,
        common_name=name,
        ca=ca,
        stem=name,
        node_roles=frozenset({NodeRole.WORKER}),
        built_in=False,
    )


def problems(scene: Picture) -> list[str]:
    """Everything that is wrong with the picture."""
    return [*_texts(scene), *_boxes(scene), *_lines(scene)]


def _texts(scene: Picture) -> list[str]:
    page = Rect(0, 0, scene.width, scene.height)
    found = [
        f"{one.text!r} meets {other.text!r}"
        for one, other in combinations(scene.texts, 2)
        if one.rect.meets(other.rect)
    ]
    found += [f"{text.text!r} leaves the page" for text in scene.texts if not _inside(text.rect, page)]
    boxes = [(card.rect, card.labels) for card in scene.cards] + [(chip.rect, chip.labels) for chip in scene.chips]
    boxes += [(frame.rect, tuple(filter(None, (frame.label, frame.notice)))) for frame in scene.frames]
    found += [
        f"{label.text!r} leaves its box" for rect, labels in boxes for label in labels if not _inside(label.rect, rect)
    ]
    return found


def _boxes(scene: Picture) -> list[str]:
    found = [
        f"{one.name} meets {other.name}" for one, other in combinations(scene.cards, 2) if one.rect.meets(other.rect)
    ]
    chips = (*scene.chips, *scene.keys)
    found += [f"{one.tip!r} meets {other.tip!r}" for one, other in combinations(chips, 2) if one.rect.meets(other.rect)]
    found += [
        f"{chip.tip!r} is half in {card.name}"
        for chip in chips
        for card in scene.cards
        if chip.rect.meets(_whole(card)) and not _inside(chip.rect, card.rect)
    ]
    root, *frames = scene.frames
    found += [f"{one.ca} meets {other.ca}" for one, other in combinations(frames, 2) if one.rect.meets(other.rect)]
    found += [f"{frame.ca} leaves the root" for frame in frames if not _inside(frame.rect, root.rect)]
    found += [f"{card.name} leaves the root" for card in scene.cards if not _inside(_whole(card), root.rect)]
    for card in scene.cards:
        for frame in frames:
            if frame.rect.meets(_whole(card)) and not _inside(_whole(card), frame.rect):
                found.append(f"{card.name} is half in {frame.ca}")
    return found


def _lines(scene: Picture) -> list[str]:
    found = []
    for line in scene.lines:
        parts = _parts(line)
        foreign = [(chip.pair, chip.rect) for chip in scene.chips if chip.pair != line.pair]
        foreign += [(card.name, _whole(card)) for card in scene.cards]
        foreign += [
            (label.text, label.rect) for frame in scene.frames for label in (frame.label, frame.notice) if label
        ]
        found += [
            f"{line.pair} crosses {name}" for name, rect in foreign for part in parts if part.meets(_shrunk(rect))
        ]
        ((own, chip),) = ((chip.pair, chip.rect) for chip in scene.chips if chip.pair == line.pair)
        found += [] if any(part.meets(chip) for part in parts) else [f"{own} is beside its line"]
        begin, end = line.points[0], line.points[-1]
        for name, (x, y) in ((line.source, begin), (line.target, end)):
            (card,) = (card for card in scene.cards if card.name == name)
            at = Rect(x - 1, y - 1, 2, 2)
            found += [] if at.meets(_whole(card)) else [f"{line.pair} does not reach {name}"]
        found += [
            f"{line.pair} is neither level nor upright" for (x, y), (u, v) in pairwise(line.points) if x != u and y != v
        ]
    return found


def _parts(line: DrawnArrow) -> list[Rect]:
    return [
        Rect(min(x, u) - 0.5, min(y, v) - 0.5, abs(x - u) + 1, abs(y - v) + 1)
        for (x, y), (u, v) in pairwise(line.points)
    ]


def _whole(card: Card) -> Rect:
    """A card with its pile."""
    rect = card.rect
    more = 8 if card.many else 0
    return Rect(rect.x, rect.y, rect.w + more, rect.h + more)


def _shrunk(rect: Rect) -> Rect:
    return Rect(rect.x + 1, rect.y + 1, rect.w - 2, rect.h - 2)


def _inside(one: Rect, other: Rect) -> bool:
    return other.x <= one.x and one.right <= other.right and other.y <= one.y and one.bottom <= other.bottom
