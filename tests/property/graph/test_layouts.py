"""Pictures of clusters with any rows of their own: nothing overlaps, whatever logs in to what."""

from __future__ import annotations

import tempfile
from dataclasses import replace
from datetime import UTC, datetime
from functools import cache
from pathlib import Path
from xml.etree import ElementTree as ET

from hypothesis import given, settings
from hypothesis import strategies as st

from helpers.drawn_scenes import NODES, own_row, problems
from helpers.example_cluster import load
from vaultpki.certificates import ISSUING_CAS
from vaultpki.graph.content import graph
from vaultpki.graph.placement import scene
from vaultpki.graph.svg import svg
from vaultpki.model import Cluster, Row, Usage

NOW = datetime(2026, 11, 26, tzinfo=UTC)
COMPONENTS = ("kube-apiserver", "etcd", "kubelet", "kube-proxy", "a", "b", "c", "M" * 60)


@cache
def plain() -> Cluster:
    with tempfile.TemporaryDirectory() as folder:
        return load(Path(folder), NODES)


ROWS = st.builds(
    lambda usage, source, target, ca: (usage, source, target, ca),
    st.sampled_from(Usage),
    st.sampled_from(COMPONENTS),
    st.sampled_from((*COMPONENTS, "-")),
    st.sampled_from(ISSUING_CAS),
)


def numbered(found: list[tuple[Usage, str, str, str]]) -> tuple[Row, ...]:
    return tuple(own_row(f"row-{number}", *each) for number, each in enumerate(found))


@settings(max_examples=40, deadline=None)
@given(st.lists(ROWS, max_size=12).map(numbered))
def test_nothing_overlaps(rows: tuple[Row, ...]) -> None:
    found = graph(replace(plain(), rows=rows), NOW)
    assert problems(scene(found)) == []
    assert len(found.pairs) == 14 + len(rows)


@settings(max_examples=40, deadline=None)
@given(st.text(max_size=40), st.text(max_size=40))
def test_names_of_any_kind_are_text(source: str, target: str) -> None:
    row = own_row("row", Usage.CLIENT, source, target, "etcd")
    drawn = svg(graph(replace(plain(), rows=(row,)), NOW))
    # The picture is our own text.
    ET.fromstring(drawn)  # noqa: S314
