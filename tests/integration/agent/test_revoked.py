"""A certificate of a node is revoked: its agent replaces it when it next asks Vault, unless the node is locked."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from helpers.node import enrolled_nodes
from helpers.node.enrolled_nodes import Desk
from helpers.node.resident_agent import leaf
from helpers.vault.applied_cluster import Seat, Site, standing, vaultpki
from helpers.vault.servers import Server
from vaultpki.pki.facts import serial_text

PAIRS = {"kubelet": "kubelet", "kubelet-client": "kubernetes", "kube-proxy": "kubernetes"}


@pytest.fixture
def site(server: Server, tmp_path: Path, cluster_name: str) -> Site:
    return standing(server, tmp_path / "site", cluster_name)


def serials(seat: Seat) -> dict[str, str]:
    return {name: serial_text(leaf(seat, name).serial) for name in PAIRS}


def revoked(site: Site, held: Mapping[str, str]) -> set[str]:
    """Those of the certificates that their mounts list as revoked."""
    lists = {ca: site.server.api("LIST", f"{site.prefix}/{ca}/certs/revoked").body for ca in set(PAIRS.values())}
    return {name for name, serial in held.items() if serial in lists[PAIRS[name]].get("data", {}).get("keys", [])}


def revoke(site: Site) -> None:
    vaultpki("revoke", "-f", site.file, "worker-1", "--yes", env=site.environment())


def states(seat: Seat) -> dict[str, tuple[str, list[str]]]:
    """What `status` says offline of each certificate; it needs attention where one is not ok."""
    ran = vaultpki("status", "-c", seat.config, "--offline", "--json", expect={0, 3})
    document: dict[str, Any] = json.loads(ran.stdout)
    found = {one["name"]: (one["state"], one["reasons"]) for one in document["certificates"]}
    assert (ran.returncode == 0) is document["ok"]
    return found


def views_show_it(site: Site, folder: Path) -> None:
    """What an operator sees who may only look, and that a token which may not see it is told so."""
    viewer = site.environment("viewer")
    ran = vaultpki("nodes", "-f", site.file, "--json", env=viewer, expect=3)
    (node,) = json.loads(ran.stdout)["nodes"]
    assert node["state"] == "revoked" and node["reasons"] == ["no-credential", "revoked"]
    assert node["message"].startswith(f"revoked: {', '.join(sorted(PAIRS))}")
    drawn = vaultpki("graph", "-f", site.file, "--from-vault", "--format", "mermaid", env=viewer).stdout
    assert drawn.count("revoked, until ") >= len(PAIRS), drawn
    page = vaultpki("report", "-f", site.file, "--from-vault", "-o", folder / "report.html", env=viewer, expect=3)
    assert all(f"{name}: revoked on worker-1" in page.stderr for name in PAIRS), page.stderr

    rules = json.loads(vaultpki("policy", "-f", site.file, "viewer").stdout)["path"]
    del rules[f"{site.prefix}/+/certs/revoked"]
    policy = {"policy": json.dumps({"path": rules})}
    assert site.server.api("POST", f"sys/policies/acl/blind-{site.name}", policy).status == 204
    blind = site.server.environment(enrolled_nodes.token(site.server, f"blind-{site.name}"))
    ran = vaultpki("nodes", "-f", site.file, env=blind, expect=3)
    assert "what was revoked is not known: this token may not list" in ran.stdout
    assert (
        "what was revoked is not known"
        in vaultpki(*("graph", "-f", site.file, "--from-vault", "--format", "mermaid"), env=blind, expect=3).stderr
    )


def test_what_was_revoked_is_replaced_and_stays_revoked(site: Site, tmp_path: Path) -> None:
    hook = f"hooks: {{kubelet-client: [[touch, {tmp_path}/ran]]}}\n"
    seat = site.equip("worker-1", further=hook)
    seat.run()
    (tmp_path / "ran").unlink()
    first = serials(seat)
    revoke(site)
    assert revoked(site, first) == set(PAIRS)
    seat.age()
    said = seat.run()
    second = serials(seat)
    assert all(f"renewed {name}" in said.stdout for name in PAIRS), said
    assert "kubelet-client was revoked (serial " in said.stdout + said.stderr
    assert not set(first.values()) & set(second.values())
    assert revoked(site, first) == set(PAIRS) and revoked(site, second) == set()
    assert (tmp_path / "ran").exists()
    assert states(seat) == dict.fromkeys(PAIRS, ("ok", []))
    seat.age()
    assert "nothing to do" in seat.run().stdout

    # A server that shows each new certificate as revoked too does not have one signed at every pass.
    revoke(site)
    seat.age()
    # As if it had been for ten times: the pause is then longer than any test.
    file = seat.state / "agent.json"
    memory = json.loads(file.read_text())
    memory["spent"] = dict.fromkeys(PAIRS, [time.time()] * 10)
    file.write_text(json.dumps(memory))
    assert "it was signed again and again" in seat.run(expect=1).stderr
    assert serials(seat) == second
    assert states(seat) == dict.fromkeys(PAIRS, ("revoked", ["revoked"]))


def test_a_locked_node_shows_what_was_revoked_and_replaces_it_once_it_is_enrolled_again(
    site: Site, tmp_path: Path
) -> None:
    desk = Desk(site, site.token())
    seat = Seat("worker-1", tmp_path / "node")
    seat.folder.mkdir()
    enrolled_nodes.join(seat, desk.join_file("worker-1", tmp_path / "join.json"))
    first = serials(seat)
    desk.run("lock", "-f", site.file, "worker-1")
    revoke(site)
    # The node has not noticed, and one that was stolen would not tell.
    assert states(seat) == dict.fromkeys(PAIRS, ("ok", []))
    views_show_it(site, tmp_path)
    seat.age()
    seat.run(expect=1)
    assert serials(seat) == first
    assert states(seat) == dict.fromkeys(PAIRS, ("revoked", ["revoked"]))
    again = desk.join_file("worker-1", tmp_path / "again.json")
    assert "renewed kubelet" in enrolled_nodes.join(seat, again).stdout
    assert not set(first.values()) & set(serials(seat).values()) and revoked(site, serials(seat)) == set()
    assert states(seat) == dict.fromkeys(PAIRS, ("ok", []))
