"""A certificate of a node is revoked: its agent replaces it when it next asks Vault, unless the node is locked."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from helpers.node import enrolled_nodes
from helpers.node.enrolled_nodes import Enroller
from helpers.node.resident_agent import leaf
from helpers.vault.applied_cluster import AppliedCluster, NodeFolder, vaultpki
from vaultpki.pki.facts import serial_text

PAIRS = {"kubelet": "kubelet", "kubelet-client": "kubernetes", "kube-proxy": "kubernetes"}


def serials(node: NodeFolder) -> dict[str, str]:
    return {name: serial_text(leaf(node, name).serial) for name in PAIRS}


def revoked(cluster: AppliedCluster, held: Mapping[str, str]) -> set[str]:
    """Those of the certificates that their mounts list as revoked."""
    lists = {ca: cluster.server.api("LIST", f"{cluster.prefix}/{ca}/certs/revoked").body for ca in set(PAIRS.values())}
    return {name for name, serial in held.items() if serial in lists[PAIRS[name]].get("data", {}).get("keys", [])}


def revoke(cluster: AppliedCluster) -> None:
    vaultpki("revoke", "-f", cluster.file, "worker-1", "--yes", env=cluster.environment())


def states(node: NodeFolder) -> dict[str, tuple[str, list[str]]]:
    """What `status` says offline of each certificate; it needs attention where one is not ok."""
    ran = vaultpki("status", "-c", node.config, "--offline", "--json", expect={0, 3})
    document: dict[str, Any] = json.loads(ran.stdout)
    found = {one["name"]: (one["state"], one["reasons"]) for one in document["certificates"]}
    assert (ran.returncode == 0) is document["ok"]
    return found


def views_show_it(cluster: AppliedCluster, folder: Path) -> None:
    """What an operator sees who may only look, and that a token which may not see it is told so."""
    viewer = cluster.environment("viewer")
    ran = vaultpki("nodes", "-f", cluster.file, "--json", env=viewer, expect=3)
    (node,) = json.loads(ran.stdout)["nodes"]
    assert node["state"] == "revoked" and node["reasons"] == ["locked", "revoked"]
    assert node["message"].startswith(f"revoked: {', '.join(sorted(PAIRS))}")
    picture = ("graph", "-f", cluster.file, "--from-vault", "--format", "mermaid")
    drawn = vaultpki(*picture, env=viewer, expect=3).stdout
    assert drawn.count("revoked, until ") >= len(PAIRS), drawn
    page = vaultpki("report", "-f", cluster.file, "--from-vault", "-o", folder / "report.html", env=viewer, expect=3)
    assert f"worker-1: revoked: {', '.join(sorted(PAIRS))}: run `vaultpki renew " in page.stderr

    rules = json.loads(vaultpki("policy", "-f", cluster.file, "viewer").stdout)["path"]
    del rules[f"{cluster.prefix}/+/certs/revoked"]
    policy = {"policy": json.dumps({"path": rules})}
    assert cluster.server.api("POST", f"sys/policies/acl/blind-{cluster.name}", policy).status == 204
    blind = cluster.server.environment(enrolled_nodes.token(cluster.server, f"blind-{cluster.name}"))
    ran = vaultpki("nodes", "-f", cluster.file, env=blind, expect=3)
    assert "what was revoked is not known: this token may not list" in ran.stdout
    assert "what was revoked is not known" in vaultpki(*picture, env=blind, expect=3).stderr


def test_what_was_revoked_is_replaced_and_stays_revoked(cluster: AppliedCluster, tmp_path: Path) -> None:
    hook = f"hooks: {{kubelet-client: [[touch, {tmp_path}/ran]]}}\n"
    node = cluster.equip("worker-1", further=hook)
    node.run()
    (tmp_path / "ran").unlink()
    first = serials(node)
    revoke(cluster)
    assert revoked(cluster, first) == set(PAIRS)
    # Also while no agent runs that would find it, since Vault tells anybody.
    told = vaultpki("status", "-c", node.config, "--json", env={}, expect=3)
    assert [each["state"] for each in json.loads(told.stdout)["certificates"]] == ["revoked"] * len(PAIRS)
    assert "status, revoked: revoked: " in vaultpki("doctor", "-c", node.config, env={}, expect=3).stdout
    node.age()
    said = node.run()
    second = serials(node)
    assert all(f"renewed {name}" in said.stdout for name in PAIRS), said
    assert "kubelet-client was revoked (serial " in said.stdout + said.stderr
    assert not set(first.values()) & set(second.values())
    assert revoked(cluster, first) == set(PAIRS) and revoked(cluster, second) == set()
    assert (tmp_path / "ran").exists()
    assert states(node) == dict.fromkeys(PAIRS, ("ok", []))
    node.age()
    assert "nothing to do" in node.run().stdout

    # A server that shows each new certificate as revoked too does not have one signed at every pass.
    revoke(cluster)
    node.age()
    # As if it had been for ten times: the pause is then longer than any test.
    file = node.state / "agent.json"
    memory = json.loads(file.read_text())
    memory["spent"] = dict.fromkeys(PAIRS, [time.time()] * 10)
    file.write_text(json.dumps(memory))
    assert "it was signed again and again" in node.run(expect=1).stderr
    assert serials(node) == second
    assert states(node) == dict.fromkeys(PAIRS, ("revoked", ["revoked"]))


def test_a_locked_node_shows_what_was_revoked_and_replaces_it_once_it_is_enrolled_again(
    cluster: AppliedCluster, tmp_path: Path
) -> None:
    enroller = Enroller(cluster, cluster.token())
    node = NodeFolder("worker-1", tmp_path / "node")
    node.folder.mkdir()
    enrolled_nodes.join(node, enroller.join_file("worker-1", tmp_path / "join.json"))
    first = serials(node)
    enroller.run("lock", "-f", cluster.file, "worker-1")
    revoke(cluster)
    # The node has not noticed, and one that was stolen would not tell.
    assert states(node) == dict.fromkeys(PAIRS, ("ok", []))
    views_show_it(cluster, tmp_path)
    node.age()
    node.run(expect=1)
    assert serials(node) == first
    assert states(node) == dict.fromkeys(PAIRS, ("revoked", ["revoked"]))
    again = tmp_path / "again.json"
    enroller.enroll("worker-1", "--yes", "-o", again)
    assert "renewed kubelet" in enrolled_nodes.join(node, again).stdout
    assert not set(first.values()) & set(serials(node).values()) and revoked(cluster, serials(node)) == set()
    assert states(node) == dict.fromkeys(PAIRS, ("ok", []))
