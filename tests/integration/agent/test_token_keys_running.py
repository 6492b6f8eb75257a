"""What a node sees, reports and says of its service-account keys while kube-apiserver runs, or waits for them."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest

from helpers.node import node_components
from helpers.node.components import Component
from helpers.node.passes import passed_well
from helpers.vault.applied_cluster import ALONE, AppliedCluster, NodeFolder, vaultpki
from helpers.vault.handmade_keys import HandmadeKeys, give_number, reported, told
from vaultpki.model import NodeRole
from vaultpki.pki import x509
from vaultpki.records.service_account import KeyState, NodeKeys

# What runs here, and what the record says of it.
pytestmark = pytest.mark.on_node


@pytest.fixture
def cluster(with_keys: AppliedCluster) -> AppliedCluster:
    return with_keys


def test_what_is_loaded_is_seen_by_the_start_of_the_process(
    cluster: AppliedCluster, planes: tuple[NodeFolder, NodeFolder]
) -> None:
    one, two = planes
    passed_well(one, two)
    made = HandmadeKeys.of(cluster, "cp-1")
    passed_well(one)
    with node_components.standing(one, frozenset({NodeRole.CONTROL_PLANE})) as components:
        passed_well(one)
        first = reported(cluster, "cp-1")
        assert first.loaded and first.loaded_union == first.union and first.reader.healthy
        made.admit("cp-2")
        passed_well(one)
        second = reported(cluster, "cp-1")
        assert not second.loaded and second.loaded_union == first.union < second.union
        assert second.loaded_signing == second.signing == first.signing
        assert "kube-apiserver was not started again since sa.key or .pub changed" in status(one)
        components["kube-apiserver"].restart()
        passed_well(one)
        assert reported(cluster, "cp-1").loaded
        # The next key, with which a process signs only once it was started with it.
        made.write(KeyState.PUBLISHED, nodes={name: replace(each, new=2) for name, each in made.record.nodes.items()})
        give_number(cluster, 2)
        passed_well(one, two)
        made.write(nodes=made.taken_in())
        made.write(KeyState.SWITCHED)
        passed_well(one, two)
        third = reported(cluster, "cp-1")
        assert third.signing == x509.fingerprint(third.own[2].encode()) and third.loaded_signing == first.signing
        components["kube-apiserver"].restart()
        passed_well(one)
        assert reported(cluster, "cp-1").loaded_signing == third.signing and reported(cluster, "cp-1").loaded


def status(node: NodeFolder) -> str:
    return vaultpki("status", "-c", node.config, expect={0, 3}).stdout


def test_hooks_wait_for_the_turn_that_the_record_gives(
    cluster: AppliedCluster, planes: tuple[NodeFolder, NodeFolder]
) -> None:
    one, two = planes
    log = one.folder / "hooks"
    line = node_components.restart(one, "kube-apiserver")
    one.config.write_text(
        one.config.read_text() + f"hooks:\n  service-account-keys: [[sh, -c, '{quoted(line)}; echo run >> {log}']]\n"
    )
    passed_well(one, two)
    made = HandmadeKeys.of(cluster, "cp-1")
    passed_well(one)
    # Nothing runs that has read other files, and a hook might start it too early.
    assert not log.exists() and told(cluster, "cp-1").owed == ()
    with node_components.standing(one, frozenset({NodeRole.CONTROL_PLANE})):
        passed_well(one)
        made.admit("cp-2")
        passed_well(one)
        owed = told(cluster, "cp-1")
        assert not log.exists() and owed.owed == owed.waiting == ("service-account-keys",)
        made.write(turn="cp-2")
        passed_well(one)
        assert not log.exists()
        made.write(turn="cp-1")
        passed_well(one)
        assert log.read_text() == "run\n" and reported(cluster, "cp-1").loaded
        assert told(cluster, "cp-1").owed == ()


def quoted(text: str) -> str:
    return text.replace("'", "''")


def test_the_flags_that_limit_tokens_are_reported(
    cluster: AppliedCluster, planes: tuple[NodeFolder, NodeFolder]
) -> None:
    one, _ = planes
    passed_well(one)
    assert (reported(cluster, "cp-1").extends, reported(cluster, "cp-1").longest) == (None, None)
    pair = [f"--tls-cert-file={one.pki}/kube-apiserver.crt", f"--tls-private-key-file={one.pki}/kube-apiserver.key"]
    flags = [*pair, f"--secure-port={node_components.free_port()}", "--service-account-max-token-expiration=48h"]
    component = Component("kube-apiserver", one.folder / "own", flags)
    try:
        component.start()
        passed_well(one)
        assert (reported(cluster, "cp-1").extends, reported(cluster, "cp-1").longest) == (True, 48 * 3600)
    finally:
        component.stop()


def test_a_node_that_joins_says_that_it_waits(cluster: AppliedCluster, planes: tuple[NodeFolder, NodeFolder]) -> None:
    one, two = planes
    passed_well(one)
    made = HandmadeKeys.of(cluster, "cp-1")
    passed_well(one, two)
    assert "Do not start kube-apiserver" not in status(one)
    for said in (status(two), doctor(two)):
        assert (
            "Do not start kube-apiserver here yet. First run on the operator's machine: `vaultpki admit --wait`" in said
        )
    assert "this node has made its key 1; sa.key and sa.pub are written once the record admits it" in status(two)
    assert not (two.pki / "sa.key").exists() and not (two.pki / "sa.pub").exists()
    ran = json.loads(vaultpki("status", "-c", two.config, "--json", expect=3).stdout)
    assert ran["service_account_keys"] == {
        "signing": None,
        "accepted": [],
        "own": [1],
        "shared": False,
        "state": "steady",
        "admitted": False,
    }
    assert "key-not-admitted" in ran["summary"]["reasons"]
    rows = vaultpki("nodes", "-f", cluster.file, "--json", env=cluster.environment("viewer"), expect=3)
    reasons = {each["node"]: each["reasons"] for each in json.loads(rows.stdout)["nodes"]}
    assert "key-not-admitted" in reasons["cp-2"] and "key-not-admitted" not in reasons["cp-1"]
    # It runs all the same.
    with node_components.standing(two, frozenset({NodeRole.CONTROL_PLANE})):
        passed_well(two)
        assert "kube-apiserver runs here, and other API servers may refuse" in status(two)
    entry = NodeKeys(1, 1, True, {1: made.own("cp-2")[1]})
    made.write(nodes={**made.record.nodes, "cp-2": entry})
    passed_well(two)
    assert "Do not start kube-apiserver" not in status(two) + doctor(two)
    # A key that the record does not have is not the one that it lets start.
    made.write(nodes={**made.record.nodes, "cp-2": replace(entry, certificates={})})
    passed_well(two)
    assert "Do not start kube-apiserver here yet" in status(two)


def doctor(node: NodeFolder) -> str:
    return vaultpki("doctor", "-c", node.config, expect={0, 1, 3}, behind=ALONE).stdout
