"""`vaultpki report --from-vault`: the reports of all nodes, the CAs, and the rotation that is under way."""

from __future__ import annotations

import re
from dataclasses import replace
from html import unescape

import pytest

from helpers.node.reporting_nodes import shown
from helpers.vault.cluster_factory import ClusterFactory
from helpers.vault.plan_commands import vaultpki
from helpers.vault.rotations import Rotation, rotation_of
from vaultpki.records.rotation import State


@pytest.fixture
def rotation(clusters: ClusterFactory) -> Rotation:
    return rotation_of(clusters)


def page(rotation: Rotation, *, expect: int = 3) -> tuple[str, str]:
    """The page, and what was printed beside it."""
    cluster = rotation.cluster
    file = cluster.file.parent / "report.html"
    words = ("report", "-f", cluster.file, "--from-vault", "-o", file)
    done = vaultpki(*words, env=cluster.environment("viewer"), expect=expect)
    return unescape(file.read_text()), done.stderr


def test_nodes_cas_and_the_rotation_are_on_it(rotation: Rotation) -> None:
    text, said = page(rotation)
    assert "No CA is being rotated." in text and "Nothing was verified" in text
    # These nodes report the pairs of one CA only.
    assert "kube-apiserver: missing on cp-1" in said and "etcd-server" not in said
    assert re.findall(r'<details data-node="([\w-]+)"', text) == ["cp-1", "etcd-2"]
    assert "Last report: " in text and "agent 0.2.0" in text
    for domain in ("root", "kubernetes", "kubelet", "etcd", "front-proxy"):
        (facts,) = shown(rotation.cluster, domain).values()
        assert facts.fingerprint in text, domain
    assert "etcd-1" in text

    rotation.reach(State.PUBLISHED)
    text, _ = page(rotation)
    lines = text.partition('id="rotation"')[2]
    assert "etcd is published since" in lines and "nodes learn to trust etcd-2 beside etcd-1" in lines
    assert "vaultpki ca continue" in lines
    assert "<strong>rotation: published</strong>" in text
    banner = text.partition('class="banner"')[2].partition("</section>")[0]
    assert "CA etcd is being rotated: published <span>since " in banner
    assert "It waits for cp-1, etcd-2: " in banner


def test_a_node_that_says_nothing_or_failed_is_named(rotation: Rotation) -> None:
    cluster = rotation.cluster
    assert cluster.server.api("DELETE", cluster.report_path("etcd-2", data="metadata")).status == 204
    failed = replace(rotation.nodes[0].report(rotation.now, 0), failures=("<b>Vault is sealed</b>\x1b[31m",))
    rotation.nodes[0].write(failed)
    text, said = page(rotation)
    assert "etcd-2 never reported" in said.splitlines()
    assert "the last pass of the agent failed on cp-1" in said.splitlines()
    raw = (cluster.file.parent / "report.html").read_text()
    assert "It reported: &lt;b&gt;Vault is sealed&lt;/b&gt;?[31m" in raw
    assert "This node has never reported." in text
    block = text.partition('<details data-node="etcd-2"')[2].partition("</details>")[0]
    assert set(re.findall(r'<tr data-state="(\w+)"', block)) == {"unknown"}


def test_a_stranger_that_can_log_in_hides_no_node(rotation: Rotation) -> None:
    cluster = rotation.cluster
    path = f"auth/{cluster.prefix}/listed/role/gone"
    assert cluster.server.api("POST", path, {"token_policies": ["default"]}).status == 204
    text, said = page(rotation)
    assert "where the CAs stand is not known: " in said and "gone can log in" in said
    assert "where the CAs stand is not known" in text
    lines = text.partition('id="rotation"')[2].partition("</section>")[0]
    assert "Not known: " in lines and "gone can log in" in lines and "No CA is being" not in lines
    assert re.findall(r'<details data-node="([\w-]+)"', text) == ["cp-1", "etcd-2"]
