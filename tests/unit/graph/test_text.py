"""Mermaid and DOT: every pair is there, and no name is read as their syntax."""

from __future__ import annotations

import re
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from helpers.drawn_scenes import NODES, OWN_ROWS, own_row
from helpers.example_cluster import load
from vaultpki.certificates import ISSUING_CAS
from vaultpki.graph.content import ExpirySummary, Graph, graph
from vaultpki.graph.text import dot, mermaid
from vaultpki.model import Usage

NOW = datetime(2026, 11, 26, 12, tzinfo=UTC)


@pytest.fixture
def drawn(tmp_path: Path) -> Graph:
    expiries = {"kubelet": ExpirySummary(NOW - timedelta(days=1)), "admin": ExpirySummary(NOW - timedelta(days=1))}
    return graph(load(tmp_path, NODES + OWN_ROWS), NOW, expiries=expiries, rotations={"etcd": "switched"})


def test_mermaid_has_every_pair_arrow_and_border(drawn: Graph) -> None:
    text = mermaid(drawn)
    for pair in drawn.pairs:
        assert re.search(rf'["/>]{re.escape(pair.name)}<br/>{re.escape(pair.files)}', text), pair.name
    arrows = re.findall(r'^  (c\d+) -->\|"[^"|]+"\| (c\d+)$', text, re.MULTILINE)
    # The two of etcd to itself are one.
    assert len(arrows) == len(drawn.arrows) - 1 == text.count("linkStyle")
    assert text.count("subgraph ") == 1 + len(ISSUING_CAS) == len(re.findall(r"^ +end$", text, re.MULTILINE))
    assert 'subgraph domain2["CA etcd, rotation: switched"]' in text
    assert re.search(r"linkStyle 0 stroke:#2860c5,color:#b3261e", text)


def test_dot_has_every_pair_arrow_and_border(drawn: Graph) -> None:
    text = dot(drawn)
    for pair in drawn.pairs:
        assert f"{pair.name}\\n{pair.files}" in text
    assert len(re.findall(r"^  c\d+ -> c\d+ \[label=", text, re.MULTILINE)) == len(drawn.arrows)
    assert text.count("subgraph cluster_") == 1 + len(ISSUING_CAS)
    assert text.count("{") == text.count("}")


@pytest.mark.parametrize(
    ("name", "in_mermaid", "in_dot"),
    [
        ('a"b', "a#34;b", r"a\"b"),
        ("a\\nb", "a#92;nb", r"a\\nb"),
        ("<b>x</b>", "#60;b#62;x#60;/b#62;", "<b>x</b>"),
        ("a|b]", "a#124;b#93;", "a|b]"),
        ("x\nend", "x#10;end", "x?end"),
        ("#quot;", "#35;quot#59;", "#quot;"),
        ("`md`", "#96;md#96;", "`md`"),
        ("%%{init}%%", "#37;#37;#123;init#125;#37;#37;", "%%{init}%%"),
    ],
)
def test_hostile_names_are_text(tmp_path: Path, name: str, in_mermaid: str, in_dot: str) -> None:
    row = own_row("row", Usage.CLIENT, name, "etcd", "etcd")
    found = graph(replace(load(tmp_path, NODES), rows=(row,)), NOW)
    assert f'["{in_mermaid}<br/>' in mermaid(found)
    assert f'[label="{in_dot}\\n' in dot(found)
