"""`vaultpki status`: every state and why, for people and for programs, with an exit code that says whether to look."""

from __future__ import annotations

import contextlib
import json
import os
import re
import tempfile
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from helpers.node.passes import passed
from helpers.node.resident_agent import WORKER, leaf, proxy
from helpers.vault.applied_cluster import ONE_WORKER, AppliedCluster, NodeFolder, vaultpki
from helpers.vault.servers import free_ports
from vaultpki.agent.status import Status, of_folder, of_node
from vaultpki.config.agent import load_agent
from vaultpki.findings.nodes import of_status
from vaultpki.node import state as memory
from vaultpki.procedures import ON_NODES

pytestmark = pytest.mark.on_node

NOBODY = 65534
TIME = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ")


@pytest.fixture
def node(shared: AppliedCluster, tmp_path: Path) -> NodeFolder:
    return shared.equip("worker-1", folder=tmp_path / "worker-1")


def status(node: NodeFolder, *options: str | Path, expect: int) -> dict[str, Any]:
    """What it says for programs; and for people it says no less, with the same exit code."""
    options = options or ("-c", node.config)
    ran = vaultpki("status", *options, "--json", expect=expect)
    assert (ran.stderr == "vaultpki: something here needs attention; see above\n") is (expect == 3), ran.stderr
    found: dict[str, Any] = json.loads(ran.stdout)
    assert found["ok"] is (expect == 0)
    people = vaultpki("status", *options, expect=expect).stdout
    for one in found["certificates"]:
        (line,) = (line for line in people.splitlines() if line.split()[0] == one["name"])
        assert one["state"] in line and ", ".join(one["reasons"]) in line
    return found


def states(found: dict[str, Any]) -> dict[str, tuple[str, list[str]]]:
    return {one["name"]: (one["state"], one["reasons"]) for one in found["certificates"]}


REACHED = {"reachable": True, "error": None}
FINE: dict[str, tuple[str, list[str]]] = dict.fromkeys(WORKER, ("ok", []))


def well(seen: Status) -> bool:
    return not of_status(seen, datetime.now(UTC), name="").attention


def test_before_and_after_the_first_run(node: NodeFolder) -> None:
    found = status(node, expect=3)
    assert found["certificates"] == [] and found["vault"] == {**REACHED, "asked": None, "answered": None}
    assert found["agent"]["faults"] == {"agent": "nothing was ever issued here; run `vaultpki agent`"}
    passed(node, asks=False)
    found = status(node, expect=0)
    assert set(found) == {"node", "agent", "certificates", "cas", "trust", "vault", "ok", "summary"}
    first = min(found["certificates"], key=lambda one: one["not_after"])
    summary = found["summary"]
    assert 0.99 < summary.pop("life_left") <= 1
    assert summary == {
        "node": "worker-1",
        "pool": None,
        "roles": ["worker"],
        "state": "ok",
        "reasons": [],
        "message": None,
        "first_expiry": first["not_after"],
        "reported": None,
        "agent_version": None,
        "kubernetes": {},
        "ca_generation": found["trust"]["generation"],
        "hooks_owed": [],
        "credentials": None,
        "findings": [],
    }
    assert found["node"] == "worker-1"
    assert found["agent"] == {"state": "ok", "hooks_owed": [], "faults": {}, "readers": {}}
    asked = found["vault"]["asked"]
    assert TIME.fullmatch(asked) and found["vault"] == {**REACHED, "asked": asked, "answered": asked}
    assert states(found) == FINE
    for one in found["certificates"]:
        its = leaf(node, one["name"])
        times = {name: one.pop(name) for name in ("not_before", "not_after", "renew_after")}
        assert all(TIME.fullmatch(when) for when in times.values())
        assert times["not_before"] < times["renew_after"] < times["not_after"] == f"{its.not_after:%Y-%m-%dT%H:%M:%SZ}"
        assert one == {
            "name": one["name"],
            "path": str(node.pki / f"{one['name']}.crt"),
            "subject": its.subject_text,
            "issuer": its.issuer_text,
            "serial": f"{its.serial:x}",
            "state": "ok",
            "reasons": [],
        }
    offline = status(node, "-c", node.config, "--offline", expect=0)
    assert offline["vault"] == {"reachable": None, "error": None, "asked": asked, "answered": asked}


def test_what_lies_there(node: NodeFolder) -> None:
    """Damages of files, each told by its reason, on the node and in the folder alone; one run mends them all."""
    passed(node, asks=False)
    pki = node.pki
    for damage, expected, by_folder in (
        ((pki / "kubelet.key").unlink, ("missing", ["missing"]), ("missing", ["missing"])),
        (lambda: (pki / "kubelet.crt").write_text("damaged"), ("broken", ["unreadable"]), ("broken", ["unreadable"])),
        (
            lambda: (pki / "kubelet.key").write_bytes((pki / "kube-proxy.key").read_bytes()),
            ("broken", ["key-mismatch"]),
            ("broken", ["key-mismatch"]),
        ),
        (lambda: (pki / "kubelet.key").chmod(0o644), ("broken", ["key-exposed", "wrong-mode"]), ("ok", [])),
        (lambda: os.chown(pki / "kubelet.pem", 1, 1), ("broken", ["key-exposed", "wrong-owner"]), ("ok", [])),
    ):
        damage()
        assert states(status(node, expect=3)) == FINE | {"kubelet": expected}
        folder = status(node, "--dir", pki, expect=0 if by_folder[0] == "ok" else 3)
        assert (folder["node"], folder["agent"]["state"], folder["vault"]["reachable"]) == (None, None, None)
        assert states(folder) == FINE | {"kubelet": by_folder}
        passed(node, asks=False)
        assert states(status(node, expect=0)) == FINE


def test_what_cannot_be_looked_at(node: NodeFolder) -> None:
    """However broken the node is, all of it is told, and why."""
    passed(node, asks=False)
    broken, missing = ("broken", ["unreadable"]), ("missing", ["missing"])
    link = node.pki / ".vaultpki" / "kube-proxy"
    generation = link.readlink()
    link.unlink()
    link.mkdir()
    found = status(node, expect=3)
    assert states(found) == FINE | {"kube-proxy": broken}
    assert found["agent"]["faults"] == {"kube-proxy": f"{link}: it was not made by vaultpki; move it away"}
    link.rmdir()
    link.symlink_to(generation)
    assert status(node, expect=0)["vault"].items() >= REACHED.items()

    node.configure("version: 1", "version: 1\nowner: no-one-here:no-one-here")
    found = status(node, expect=3)
    assert states(found) == dict.fromkeys(WORKER, ("broken", ["wrong-owner"]))
    (text,) = found["agent"]["faults"].values()
    assert text.startswith("owner no-one-here:no-one-here: this machine has no such user or group")
    # What can be told of a certificate is told.
    for one in found["certificates"]:
        assert one["not_after"] == f"{leaf(node, one['name']).not_after:%Y-%m-%dT%H:%M:%SZ}"
    node.configure("owner: no-one-here:no-one-here\n", "")

    aside = node.folder / "aside"
    node.pki.rename(aside)
    found = status(node, expect=3)
    assert states(found) == dict.fromkeys(WORKER, missing)
    assert found["agent"]["faults"] == {"directory": f"{node.pki}: it does not exist; create it or check the path"}
    assert {one["path"] for one in found["certificates"]} == {f"{node.pki}/{name}.crt" for name in WORKER}
    puts: list[Callable[[], None]] = [lambda: node.pki.symlink_to(aside), node.pki.touch]
    for put in puts:
        put()
        found = status(node, expect=3)
        assert states(found) == dict.fromkeys(WORKER, broken)
        (text,) = found["agent"]["faults"].values()
        assert text.startswith(f"{node.pki}: ")
        # What the agent says of it is not said twice.
        assert text in node.run(expect=1).stderr
        assert status(node, expect=3)["agent"]["faults"] == {"agent": text}
        node.pki.unlink()
        (node.state / "agent.json").unlink()
    aside.rename(node.pki)
    assert states(status(node, expect=0)) == FINE


def test_what_somebody_else_may_not_read(shared: AppliedCluster) -> None:
    """Whoever is neither root nor the owner hears that, and not that nothing is there."""
    with tempfile.TemporaryDirectory() as folder:
        os.chmod(folder, 0o755)
        node_folder = shared.equip("worker-1", folder=Path(folder) / "node")
        passed(node_folder)
        config, now = load_agent(node_folder.config), datetime.now(UTC)
        keys = list(node_folder.pki.glob(".vaultpki/*/*.key"))
        with closed(node_folder.state, *keys):
            node, alone = of_node(config, now, ON_NODES, ask=False), of_folder(str(node_folder.pki), now)
        assert well(of_node(config, now, ON_NODES, ask=False)) and well(of_folder(str(node_folder.pki), now))
    assert not well(node) and node.agent is None and node.seen == ()
    assert node.faults == {"state": f"{node_folder.state}/spec.json: permission denied; run as its owner or as root"}
    assert not well(alone)
    for one in alone.seen:
        assert (one.state.value, one.reasons) == ("broken", ("unreadable",)) and one.leaf is not None
        assert (
            alone.faults[one.name]
            == f"{node_folder.pki}/{one.name}.key: permission denied; run as its owner or as root"
        )
    assert alone.faults.keys() == {one.name for one in alone.seen} == set(WORKER)


@contextlib.contextmanager
def closed(*paths: Path) -> Iterator[None]:
    """Within the block this process is one of a user who may not look into these, as root may always."""
    modes = [path.stat().st_mode & 0o777 for path in paths]
    for path in paths:
        path.chmod(0o000)
    root = os.geteuid() == 0
    try:
        if root:
            os.seteuid(NOBODY)
        yield
    finally:
        if root:
            os.seteuid(0)
        for path, mode in zip(paths, modes, strict=True):
            path.chmod(mode)


def test_what_the_clock_says(node: NodeFolder) -> None:
    passed(node)
    config, now = load_agent(node.config), datetime.now(UTC)
    # Due is no news before the agent had the time to see to it; that it makes no pass is, two days after the last one.
    for days, expected, finds in (
        (1, ("ok", ()), set()),
        (14, ("ok", ()), {"silent"}),
        (25, ("due", ("due",)), {"silent", "overdue"}),
        (31, ("expired", ("expired",)), {"silent", "expired"}),
    ):
        when = now + timedelta(days=days)
        seen = of_node(config, when, ON_NODES, ask=False)
        assert {one.name: (one.state.value, one.reasons) for one in seen.seen} == dict.fromkeys(WORKER, expected)
        if days > 14:
            alone = of_folder(str(node.pki), when)
            assert {one.name: (one.state.value, one.reasons) for one in alone.seen} == dict.fromkeys(WORKER, expected)
        assert {each.name for each in of_status(seen, when, name="").findings} == finds


def test_what_cluster_yaml_says_now(cluster: AppliedCluster) -> None:
    """Changed, but not signed yet: Vault refuses, in words that are shown."""
    node = cluster.equip("worker-1")
    passed(node)

    def refused(method: str, path: str, code: int, body: dict[str, Any]) -> tuple[int, dict[str, Any]]:
        return (403, {"errors": ["permission denied"]}) if "/sign/" in path else (code, body)

    cluster.write(
        ONE_WORKER + "certificates:\n  kubelet: {extra_names: [kubelet.example.com]}\n"
        "  kubelet-client: {ttl: 20d}\n  kube-proxy: {key: ec-p384}\n"
    )
    cluster.apply()
    with proxy(cluster.server, refused) as between:
        node.configure(cluster.server.address, between.address)
        passed(node)
        found = status(node, expect=3)
    assert states(found) == {
        "kubelet": ("due", ["names-changed"]),
        "kubelet-client": ("due", ["ttl-changed"]),
        "kube-proxy": ("due", ["key-type-changed"]),
    }
    assert found["agent"]["state"] == "backing-off"
    assert found["agent"]["faults"].keys() == set(WORKER)
    assert all("permission denied" in text for text in found["agent"]["faults"].values())


def test_what_fails_beside_the_certificates(shared: AppliedCluster, node: NodeFolder) -> None:
    with node.config.open("a") as config:
        config.write("hooks: {kubelet: [['false']]}\n")
    assert "hook 1 of kubelet (false) failed with exit code 1" in node.run(expect=3).stderr
    found = status(node, expect=3)
    assert found["agent"]["hooks_owed"] == ["kubelet"] and states(found) == FINE
    assert "hook 1 of kubelet (false) failed with exit code 1" in vaultpki("status", "-c", node.config, expect=3).stdout
    node.configure("'false'", "'true'")
    # Its time has not come yet, but a person who runs it is not kept waiting.
    node.run()
    assert memory.load(str(node.state)).owed == {}
    assert states(status(node, expect=0)) == FINE

    (dead,) = free_ports(1)
    node.configure(shared.server.address, f"https://127.0.0.1:{dead}")
    found = status(node, expect=3)
    assert found["vault"]["reachable"] is False and str(dead) in found["vault"]["error"]
    assert status(node, "-c", node.config, "--offline", expect=0)["vault"]["reachable"] is None
    node.configure(f"https://127.0.0.1:{dead}", shared.server.address)

    (node.state / "secret-id").unlink()
    node.age()
    said = node.run(expect=1).stderr
    assert "vaultpki join" in said and said.count("is missing") == 1
    found = status(node, expect=3)
    assert found["agent"]["state"] == "needs-join" and states(found) == FINE


def test_a_folder_that_is_none(node: NodeFolder, tmp_path: Path) -> None:
    for folder in (tmp_path / "nowhere", node.config):
        ran = vaultpki("status", "--dir", folder, expect=1)
        assert ran.stdout == "" and ran.stderr.startswith("vaultpki: ") and ran.stderr.count("\n") == 1, ran
    empty = tmp_path / "empty"
    empty.mkdir(mode=0o755)
    assert status(node, "--dir", empty, expect=3)["certificates"] == []
    vaultpki("status", "-c", tmp_path / "none.yaml", expect=1)
