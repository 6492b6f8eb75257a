"""What `verify` tries with the token of a node."""

from __future__ import annotations

from pathlib import Path

import pytest

from helpers.example_cluster import load
from helpers.node import handmade_files
from vaultpki import certificates
from vaultpki.model import Cluster
from vaultpki.verify.forbidden_paths import Forbidden
from vaultpki.verify.forbidden_signing import forbidden


@pytest.fixture
def listed(tmp_path: Path) -> tuple[Cluster, tuple[Forbidden, ...]]:
    """A cluster, and what one of its nodes must not do."""
    cluster = load(tmp_path, handmade_files.SPEC)
    node = next(node for node in cluster.nodes if node.name == "cp-1")
    return cluster, forbidden(cluster, "cp-1", node, lambda kind, subject: f"{kind.value} {subject}")


def test_each_role_of_each_ca_is_among_what_a_node_must_not_change(
    listed: tuple[Cluster, tuple[Forbidden, ...]],
) -> None:
    cluster, requests = listed
    paths = {each.path for each in requests if each.method == "POST"}
    for row in certificates.rows(cluster):
        assert f"{cluster.mount(row.ca)}/roles/{row.name}" in paths, row.name


def test_an_approle_without_a_secret_is_tried(listed: tuple[Cluster, tuple[Forbidden, ...]]) -> None:
    """Whoever knows the role id, which is no secret, could log in."""
    tried = [body["bind_secret_id"] for each in listed[1] if "bind_secret_id" in (body := each.body or {})]
    assert tried and not any(tried)


@pytest.mark.parametrize("other", ["worker-1", "w-other", "cp-1x", "xcp-1", "cp"])
def test_names_of_other_nodes_and_those_that_look_alike_are_tried(
    listed: tuple[Cluster, tuple[Forbidden, ...]], other: str
) -> None:
    """In the place of its own one too, among the others of a certificate."""
    names = {
        str((each.body or {}).get("alt_names")) for each in listed[1] if each.own and "cp-1" in each.own.subject.dns
    }
    several = {",".join(each.own.subject.dns) for each in listed[1] if each.own and len(each.own.subject.dns) > 1}
    assert any(dns.replace("cp-1", other) in names for dns in several if "cp-1" in dns.split(","))
