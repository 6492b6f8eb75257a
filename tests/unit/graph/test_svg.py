"""The SVG itself: whole, readable in light and dark and without eyes, and safe whatever the names are."""

from __future__ import annotations

import re
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from itertools import product
from pathlib import Path
from xml.etree import ElementTree as ET

import pytest

from helpers.drawn_scenes import NODES, OWN_ROWS, own_row, problems
from helpers.example_cluster import load
from helpers.shown_text import HOSTILE, contrast
from vaultpki.certificates import ISSUING_CAS
from vaultpki.graph.content import ExpirySummary, Graph, graph
from vaultpki.graph.placement import scene
from vaultpki.graph.svg import COLOURS, GRAPH_MARK, svg
from vaultpki.graph.text import dot, mermaid
from vaultpki.model import Usage

NOW = datetime(2026, 11, 26, 12, tzinfo=UTC)
SVG = "{http://www.w3.org/2000/svg}"


@pytest.fixture
def drawn(tmp_path: Path) -> Graph:
    expiries = {"kubelet": ExpirySummary(NOW - timedelta(days=1)), "admin": ExpirySummary(NOW + timedelta(days=28))}
    return graph(load(tmp_path, NODES + OWN_ROWS), NOW, expiries=expiries, rotations={"etcd": "switched"})


def parsed(text: str) -> ET.Element:
    return ET.fromstring(text)  # noqa: S314 - our own text


def test_it_is_xml_that_needs_nothing_else(drawn: Graph) -> None:
    text = svg(drawn)
    root = parsed(text)
    assert text.startswith(f"{GRAPH_MARK}\n<svg ")
    assert root.tag == f"{SVG}svg" and root.get("viewBox") == f"0 0 {root.get('width')} {root.get('height')}"
    assert {element.tag for element in root.iter()} == {
        f"{SVG}{name}" for name in ("svg", "title", "desc", "style", "defs", "marker", "path", "rect", "text", "g")
    }
    assert "http" not in text.replace("http://www.w3.org/2000/svg", "")
    assert not re.search(r"@import|url\((?!#)|@font-face", text)


def test_every_text_and_arrow_of_the_layout_is_in_it(drawn: Graph) -> None:
    root = parsed(svg(drawn))
    placed = scene(drawn)
    assert sorted(str(each.text) for each in root.iter(f"{SVG}text")) == sorted(label.text for label in placed.texts)
    lines = [each for each in root.iter(f"{SVG}path") if each.get("marker-end")]
    assert len(lines) == len(drawn.arrows)
    markers = {f"url(#{each.get('id')})" for each in root.iter(f"{SVG}marker")}
    assert {each.get("marker-end") for each in lines} <= markers


def test_who_cannot_see_it_gets_all_of_it_in_words(drawn: Graph) -> None:
    root = parsed(svg(drawn))
    assert root.get("role") == "img"
    named = str(root.get("aria-labelledby")).split()
    title, desc = (next(each for each in root.iter() if each.get("id") == name) for name in named)
    assert (title.tag, desc.tag) == (f"{SVG}title", f"{SVG}desc")
    said = str(desc.text)
    for pair in drawn.pairs:
        assert f"{pair.name}, signed by CA {pair.ca}" in said
    assert "kubelet: kubelet, signed by CA kubelet, expired 2026-11-25." in said


def test_each_ca_has_a_border_of_its_own_colour_and_dashes(drawn: Graph) -> None:
    text = svg(drawn)
    root = parsed(text)
    frames = [each.get("class") for each in root.iter(f"{SVG}rect") if str(each.get("class")).startswith("frame ")]
    assert set(frames) == {f"frame ca-{ca}" for ca in ISSUING_CAS}
    dashes = re.findall(r"\.ca-([a-z-]+) \{ stroke-dasharray: ([^}]+) \}", text)
    assert len({dash for ca, dash in dashes if ca in ISSUING_CAS}) == len(ISSUING_CAS)


def test_the_colour_of_a_pair_is_its_health_and_words_say_it_too(drawn: Graph) -> None:
    root = parsed(svg(drawn))
    chips = {str(group[0].text).partition(":")[0]: group for group in root.iter(f"{SVG}g")}
    assert chips["kubelet"][1].get("class") == "chip ca-kubelet expired"
    assert [each.text for each in chips["kubelet"].iter(f"{SVG}text")][-1] == "expired 2026-11-25"
    assert chips["admin"][1].get("class") == "chip ca-kubernetes valid"
    assert chips["kube-proxy"][1].get("class") == "chip ca-kubernetes unknown"


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_names_are_text(tmp_path: Path, name: str) -> None:
    row = replace(own_row("row", Usage.CLIENT, name, "etcd", "etcd"), purpose=name)
    cluster = replace(load(tmp_path, NODES), rows=(row,), name=name)
    root = parsed(svg(graph(cluster, NOW, rotations={"etcd": name})))
    assert {element.tag for element in root.iter()} == {
        f"{SVG}{tag}" for tag in ("svg", "title", "desc", "style", "defs", "marker", "path", "rect", "text", "g")
    }
    shown = "".join(each if each.isprintable() else "?" for each in name)
    assert shown in [each.text for each in root.iter(f"{SVG}text")]
    assert f"Cluster {shown}" in [each.text for each in root.iter(f"{SVG}text")]


@pytest.mark.parametrize("mode", [0, 1])
def test_texts_and_borders_can_be_told_from_what_is_behind_them(mode: int) -> None:
    behind = [COLOURS[name][mode] for name in ("page", "card", "unknown", "valid", "due", "expired", "missing")]
    for text, below in product(("text", "quiet"), behind):
        assert contrast(COLOURS[text][mode], below) >= 4.5, (text, below)
    for ca in (*ISSUING_CAS, "root", "expired-bar", "due-text"):
        assert contrast(COLOURS[ca][mode], COLOURS["page"][mode]) >= 4.5, ca
    for name in ("edge", "valid-bar", "due-bar", "missing-bar"):
        assert contrast(COLOURS[name][mode], COLOURS["page"][mode]) >= 3, name


def test_what_needs_attention_stands_below_and_is_read_aloud(tmp_path: Path) -> None:
    said = [f"worker-{number}: last report 3d ago: run `systemctl status vaultpki-agent`" for number in range(12)]
    said[0] = "n" * 600
    made = graph(load(tmp_path, NODES), NOW, notices=said)
    assert problems(scene(made)) == []
    root = parsed(svg(made))
    texts = [str(each.text) for each in root.iter(f"{SVG}text")]
    assert texts[-11:] == [texts[-11], *said[1:10], "and 2 more"]
    assert texts[-12] == "Needs attention" and re.fullmatch("n+…n+", texts[-11])
    (desc,) = root.iter(f"{SVG}desc")
    assert all(f"Needs attention: {each}." in str(desc.text) for each in said)
    for text in (mermaid(made), dot(made)):
        assert "Needs attention" in text and "worker-9" in text and "worker-10" not in text and "and 2 more" in text
