"""The text of a new cluster.yaml: it loads whatever was answered; every node that runs pods has kubelet's pairs."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

import pytest

from vaultpki import assets
from vaultpki.certificates import node_rows
from vaultpki.config import starter
from vaultpki.config.cluster import read_cluster
from vaultpki.errors import SpecError
from vaultpki.places import Layout

NODES = tuple(map(starter.node, ("a=10.1.0.1:control-plane", "b=10.1.0.2")))


def test_without_answers_it_is_the_example() -> None:
    assert starter.filled(starter.StarterAnswers()) == assets.starter()


@pytest.mark.parametrize("layout", [None, *Layout])
@pytest.mark.parametrize("nodes", [(), NODES])
@pytest.mark.parametrize("api", [None, "api.lab", "10.1.0.9:7443"])
def test_it_loads_and_each_node_has_a_kubelet(
    layout: Layout | None, nodes: tuple[starter.NewNode, ...], api: str | None
) -> None:
    answers = starter.StarterAnswers("lab", layout, nodes, starter.api(api) if api else None)
    cluster = read_cluster(starter.filled(answers), Path("cluster.yaml"))
    assert (cluster.name, cluster.layout) == ("lab", layout or Layout.DOCUMENT)
    for node in cluster.nodes:
        assert {"kubelet", "kubelet-client"} <= {row.name for row in node_rows(cluster, node)}


def test_a_root_from_outside_is_all_that_differs() -> None:
    answers = starter.StarterAnswers(root="external", root_file="r.pem")
    text = starter.filled(answers)
    assert re.search(r"(?m)^  root: external .*\n  root_file: r\.pem ", text) and "root_ttl: 10y" not in text
    assert text.partition("\nca:")[0] == starter.filled(replace(answers, root="vault")).partition("\nca:")[0]


@pytest.mark.parametrize(
    ("text", "address", "roles"),
    [
        ("a=10.1.0.1", "10.1.0.1", set()),
        ("a=fd00::11", "fd00::11", set()),
        ("a=fd00::11:worker", "fd00::11", {"worker"}),
        ("a=[fd00::11]:etcd,worker", "fd00::11", {"etcd", "worker"}),
    ],
)
def test_a_node_in_one_word(text: str, address: str, roles: set[str]) -> None:
    node = starter.node(text)
    assert (node.name, node.address, {role.value for role in node.roles}) == ("a", address, roles)


@pytest.mark.parametrize("text", ["a", "a=", "=10.1.0.1", "a=x", "a=10.1.0.1:master", "A=10.1.0.1"])
def test_a_wrong_node_is_refused(text: str) -> None:
    with pytest.raises(SpecError):
        starter.node(text)
