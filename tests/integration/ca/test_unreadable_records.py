"""Records that nobody can read stop no emergency, and `apply` writes anew what only informs."""

from __future__ import annotations

import pytest

from helpers.foreign_ca import ForeignCa
from helpers.vault.applied_cluster import vaultpki
from helpers.vault.cluster_factory import ClusterFactory
from helpers.vault.rotations import SPEC, Rotation
from vaultpki.identity import change_notice

NEWER = {"version": 2}


def test_an_emergency_leaves_them_aside_and_says_so(rotation: Rotation) -> None:
    """Whoever may write one of them could else keep a stolen CA in force."""
    cluster = rotation.cluster
    store = f"{cluster.prefix}/config/data"
    for name, data in (("changes", NEWER), ("rotation/adoption", {"version": 1, "state": "nowhere"})):
        assert cluster.server.api("POST", f"{store}/{name}", {"data": data}).status == 200
    words = ("ca", "rotate", "etcd", "--emergency", "--yes", "-f", cluster.file)
    ran = vaultpki(*words, env=cluster.environment())
    assert "the record of an adoption was left aside, since it cannot be read" in ran.stderr
    assert rotation.record.active


def test_an_emergency_leaves_the_rotation_of_another_ca_aside(rotation: Rotation) -> None:
    """And says so, before and after its step; the record of its own CA must be readable."""
    cluster = rotation.cluster
    for domain in ("kubernetes", "root"):
        path = f"{cluster.prefix}/config/data/rotation/{domain}"
        assert cluster.server.api("POST", path, {"data": {"version": 1}}).status == 200
    words = ("--emergency", "--yes", "-f", cluster.file)
    ran = vaultpki("ca", "rotate", "etcd", *words, env=cluster.environment())
    assert "the rotation of kubernetes was left aside, since it cannot be read" in ran.stderr
    assert "What it waits for is not known" in ran.stderr and "vaultpki ca recover" in ran.stderr
    assert rotation.record.active
    refused = vaultpki("ca", "rotate", "kubernetes", *words, env=cluster.environment(), expect=1).stderr
    assert f"`vaultpki ca recover kubernetes -f {cluster.file}`" in refused


FORGED = {
    "version": 1,
    "state": "switched",
    "revision": 7,
    "entered": 7,
    "since": "2026-01-01T00:00:00Z",
    "old": {"kubernetes": ["ab" * 32]},
    "turn": "",
    "restarted": [],
    "confirmed": [],
}


@pytest.mark.on_node
@pytest.mark.parametrize("forged", [FORGED, {"version": 1, "state": "nowhere"}, NEWER], ids=["good", "bad", "newer"])
def test_a_cluster_that_adopts_nothing_ignores_a_record_of_an_adoption(
    rotation: Rotation, forged: dict[str, object]
) -> None:
    """Whoever may lead adoptions could else stop every other command. Each view names the command that removes it."""
    cluster = rotation.cluster
    store = f"{cluster.prefix}/config"
    assert cluster.server.api("POST", f"{store}/data/rotation/adoption", {"data": forged}).status == 200
    assert cluster.left_to_apply() == ()
    remove = f"bao kv metadata delete -mount={store} rotation/adoption"
    for words in (("plan",), ("nodes",), ("ca", "status")):
        said = vaultpki(*words, "-f", cluster.file, env=cluster.environment("viewer"), expect={0, 3})
        assert "adopts nothing" in " ".join(said.stdout.split()), said.stdout
        assert remove in " ".join(said.stdout.split()), said.stdout
    cluster.apply()
    vaultpki("ca", "rotate", "etcd", "-f", cluster.file, env=cluster.environment())
    vaultpki("ca", "abort", "-f", cluster.file, env=cluster.environment(), expect={0, 3})
    assert cluster.left_to_apply() == ()
    assert cluster.server.api("DELETE", f"{store}/metadata/rotation/adoption").status == 204
    assert "adopts nothing" not in vaultpki("plan", "-f", cluster.file, env=cluster.environment("viewer")).stdout


@pytest.mark.on_node
def test_what_was_adopted_stays_so_when_cluster_yaml_forgets_it(clusters: ClusterFactory) -> None:
    """Else nodes would stop trusting the old CA while its certificates are in use."""
    old = ForeignCa("kubernetes")
    spec = SPEC.replace("etcd]", "etcd, worker]") + "layout: kubeadm\n"
    cluster = clusters.applied(f"{spec}ca: {{also_trust: {{kubernetes: [old.crt]}}}}\n", {"old.crt": old.pem})
    path = f"{cluster.prefix}/config/data/rotation/adoption"
    own = {**FORGED, "old": {"kubernetes": [old.sha256], "etcd": [old.sha256], "front-proxy": [old.sha256]}}
    assert cluster.server.api("POST", path, {"data": own}).status == 200
    cluster.write(spec)
    cluster.refused("is being taken over (switched), and the old CA of")


@pytest.mark.on_node
def test_apply_writes_the_record_that_agents_poll_anew(rotation: Rotation) -> None:
    cluster = rotation.cluster
    path = f"{cluster.prefix}/config/data/changes"
    assert cluster.server.api("POST", path, {"data": NEWER}).status == 200
    vaultpki("plan", "-f", cluster.file, env=cluster.environment())
    vaultpki("revoke", "etcd-2", "-f", cluster.file, "--yes", env=cluster.environment(), expect={0, 3})
    cluster.apply()
    now = change_notice.read(cluster.model, rotation.vault)
    assert now.record is not None and now.record.settled and now.record.digests
    assert cluster.read(path)["data"]["version"] == 1
