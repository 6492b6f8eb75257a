"""Where boxes, texts and lines are: at every size, and with rows that go every way."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from helpers.drawn_scenes import NODES, OWN_ROWS, listed, own_row, problems
from helpers.example_cluster import load
from vaultpki.certificates import ISSUING_CAS, ROOT, TABLE
from vaultpki.graph.columns import columns
from vaultpki.graph.content import ExpirySummary, Graph, graph
from vaultpki.graph.placement import scene
from vaultpki.graph.scene import Chip, Rect
from vaultpki.graph.text_width import shortened, width
from vaultpki.model import Usage

NOW = datetime(2026, 11, 26, 12, tzinfo=UTC)
SHAPES = {
    "one": NODES,
    "nine": listed(3, 6),
    "sixty": listed(3, 57) + 'pools:\n- {name: autoscaled, roles: [worker], node_names: "x-*"}\n',
    "kubeadm": f"layout: kubeadm\n{NODES}",
    "own rows": NODES + OWN_ROWS,
}


def drawn(folder: Path, shape: str, *, known: bool) -> Graph:
    worst = ExpirySummary(NOW + timedelta(days=1), 57, 3)
    expiries = {row.name: worst for row in TABLE} if known else {}
    cas = {ca: ExpirySummary(NOW + timedelta(days=1800)) for ca in (ROOT, *ISSUING_CAS)} if known else {}
    rotations = {"etcd": "published", "kubernetes": "re-trusting", "root": "published"} if known else {}
    source = "reports of 60 nodes" if known else ""
    return graph(load(folder, SHAPES[shape]), NOW, expiries=expiries, cas=cas, rotations=rotations, source=source)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("known", [False, True])
def test_no_text_meets_another_and_no_line_crosses_a_box(tmp_path: Path, shape: str, known: bool) -> None:
    found = drawn(tmp_path, shape, known=known)
    placed = scene(found)
    assert problems(placed) == []
    assert sorted(chip.pair for chip in placed.chips) == sorted(pair.name for pair in found.pairs)
    assert sorted(card.name for card in placed.cards) == sorted(component.name for component in found.components)
    assert sorted(line.pair for line in placed.lines) == sorted(arrow.pair.name for arrow in found.arrows)
    assert {frame.ca for frame in placed.frames} == {"", *ISSUING_CAS}


def test_components_are_inside_the_border_of_their_ca_and_clients_outside(tmp_path: Path) -> None:
    found = drawn(tmp_path, "nine", known=False)
    placed = scene(found)
    for component in found.components:
        (card,) = (card for card in placed.cards if card.name == component.name)
        around = {frame.ca for frame in placed.frames if frame.rect.meets(card.rect)}
        assert around == {"", component.domain} if component.domain else {""}, component.name


def test_size_does_not_grow_with_the_number_of_nodes(tmp_path: Path) -> None:
    sizes = [scene(graph(load(tmp_path, listed(3, workers)), NOW)) for workers in (6, 200)]
    assert sizes[0].height == sizes[1].height and abs(sizes[0].width - sizes[1].width) < 50


def test_arrows_of_the_table_are_straight(tmp_path: Path) -> None:
    placed = scene(drawn(tmp_path, "nine", known=False))
    assert {line.pair for line in placed.lines if len(line.points) > 2} == {"etcd-peer", "etcd-healthcheck-client"}


def test_own_rows_take_every_way(tmp_path: Path) -> None:
    cols = columns(drawn(tmp_path, "own rows", known=False))
    assert [component.name for component in cols.left][-2:] == ["prometheus", "alone"]
    assert cols.far["etcd"][0].name == "etcd backup"
    assert {arrow.pair.name for arrow in cols.detours} == {"prom-etcd", "backup-log", "kubelet-log"}
    assert cols.loops["kube-apiserver"][0].pair.name == "self"


def test_long_names_are_shortened_in_the_picture_and_whole_in_the_tip(tmp_path: Path) -> None:
    name = "w" * 63
    row = own_row(name, Usage.CLIENT, "M" * 64, "kube-apiserver", "kubernetes")
    other = own_row("other", Usage.CLIENT, "M" * 64, "etcd", "etcd")
    far = own_row("far", Usage.CLIENT, "N" * 64, "O" * 64, "etcd")
    second = own_row("second", Usage.CLIENT, "N" * 64, "etcd", "etcd")
    placed = scene(graph(replace(load(tmp_path, NODES), rows=(row, other, far, second)), NOW))
    assert problems(placed) == []
    (chip,) = (chip for chip in placed.chips if chip.pair == name)
    assert "…" in chip.labels[0].text and name in chip.tip


def test_a_text_that_meets_another_is_found(tmp_path: Path) -> None:
    placed = scene(drawn(tmp_path, "nine", known=False))
    chip = placed.chips[0]
    moved = replace(chip, labels=tuple(replace(label, x=label.x + 500) for label in chip.labels))
    assert any("leaves its box" in each for each in problems(replace(placed, chips=(moved, *placed.chips[1:]))))
    lines = {line.pair: line for line in placed.lines}
    high = replace(lines["admin"], points=lines["kube-proxy"].points)
    assert any("admin crosses" in each for each in problems(replace(placed, lines=(*placed.lines, high))))
    twice = Chip(Rect(chip.rect.x + 5, chip.rect.y, 50, 50), chip.ca, chip.health, (), "another")
    assert any("meets" in each for each in problems(replace(placed, chips=(*placed.chips, twice))))


def test_shortened_texts_keep_their_ends_and_fit() -> None:
    assert shortened("kube-apiserver", 13, 500) == "kube-apiserver"
    short = shortened("kube-controller-manager.crt", 11, 100)
    assert short.startswith("kube-") and short.endswith(".crt") and width(short, 11) <= 100
    assert width("漢字", 10) == 21
