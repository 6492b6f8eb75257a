"""What a node trusts and signs by while one of its CAs is rotated: records, CAs and servers as they should not be."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from helpers.node import passes
from helpers.node.passes import passed, report
from helpers.node.resident_agent import figure, metrics_of
from helpers.vault.applied_cluster import AppliedCluster, NodeFolder, vaultpki
from helpers.vault.handmade_rotation import ETCD, STEMS, Rotation, delete, make_default, successor
from vaultpki.agent.context import Outcome
from vaultpki.certificates import MOST_ISSUERS
from vaultpki.pki import x509
from vaultpki.records.node_report import Seen
from vaultpki.records.rotation import CaRef, Method, State

IN_FULL = pytest.mark.conformance


ON_NODE = pytest.mark.on_node


@pytest.fixture
def cluster(handed_on: AppliedCluster) -> AppliedCluster:
    return handed_on


@pytest.fixture
def node(cluster: AppliedCluster, tmp_path: Path) -> NodeFolder:
    """An etcd member with all its certificates, on which no etcd runs."""
    made = cluster.equip("etcd-2", folder=tmp_path / "etcd-2")
    passed(made)
    return made


def bundle(node: NodeFolder, name: str = "etcd-ca.crt") -> set[str]:
    return passes.held(node, name)


def signers(node: NodeFolder, stems: tuple[str, ...] = STEMS) -> set[str]:
    """What stands behind the leaves, each of which it has signed."""
    found = set()
    for stem in stems:
        leaf, issuer = x509.read_certificates((node.pki / f"{stem}.crt").read_bytes())
        assert x509.signed_by(leaf, issuer)
        assert (node.pki / f"{stem}.pem").read_bytes().endswith((node.pki / f"{stem}.crt").read_bytes())
        found.add(issuer.fingerprint)
    return found


def serials(node: NodeFolder) -> dict[str, int]:
    return passes.serials(node, STEMS)


@IN_FULL
def test_an_abort_after_the_switch_leads_back(cluster: AppliedCluster, node: NodeFolder) -> None:
    rotation = Rotation.of(cluster, "etcd")
    passed(node)
    rotation.move(State.SWITCHED)
    passed(node)
    rotation.move(State.RETURNING)
    assert sorted(passed(node).renewed) == sorted(ETCD) and signers(node) == {rotation.old.sha256}
    assert bundle(node) == {rotation.old.sha256, rotation.new.sha256}
    rotation.move(State.STEADY)
    assert not passed(node).failures and bundle(node) == {rotation.old.sha256}


@ON_NODE
def test_leaves_are_replaced_over_the_spread(cluster: AppliedCluster, node: NodeFolder) -> None:
    rotation = Rotation.of(cluster, "etcd", spread=20_000)
    passed(node)
    rotation.move(State.SWITCHED)
    before, now = serials(node), time.time()
    done = passed(node)
    assert done.due is not None and now < done.due.timestamp() < now + 20_000
    counts = []
    for share in range(1, 6):
        passed(node, clock=now + share * 4_000 + 2)
        counts.append(sum(before[stem] != serial for stem, serial in serials(node).items()))
    assert counts == sorted(counts) and counts[-1] == len(STEMS) and signers(node) == {rotation.new.sha256}


@ON_NODE
def test_nothing_is_signed_by_a_ca_that_the_record_does_not_name(cluster: AppliedCluster, node: NodeFolder) -> None:
    rotation = Rotation.of(cluster, "etcd")
    passed(node)
    # The record says so, and the command was interrupted before it moved the default.
    rotation.move(State.SWITCHED)
    make_default(cluster, "etcd", rotation.old)
    since = cluster.server.audit_position()
    done = passed(node, "*")
    assert set(done.failures) == set(ETCD) and done.retry_at is not None
    assert "does not sign with the CA that the rotation of etcd names yet" in str(done.failures["etcd-peer"])
    assert not [r for r in cluster.server.requests(since) if "/etcd/sign/" in r[1]]
    make_default(cluster, "etcd", rotation.new)
    assert not passed(node).failures and signers(node) == {rotation.new.sha256}


@ON_NODE
def test_the_bundle_keeps_a_ca_until_this_nodes_own_leaves_of_it_are_replaced(
    cluster: AppliedCluster, node: NodeFolder
) -> None:
    rotation = Rotation.of(cluster, "etcd")
    passed(node)
    # The node was away during the switch, and its leaves cannot be signed at first.
    rotation.move(State.RETIRED)
    make_default(cluster, "etcd", rotation.old)
    done = passed(node)
    both = {rotation.old.sha256, rotation.new.sha256}
    assert set(done.failures) == set(ETCD) and bundle(node) == both and signers(node) == {rotation.old.sha256}
    make_default(cluster, "etcd", rotation.new)
    assert sorted(passed(node).renewed) == sorted(ETCD)
    assert bundle(node) == {rotation.new.sha256} == signers(node)


@IN_FULL
def test_in_an_emergency_the_old_ca_goes_first(cluster: AppliedCluster, node: NodeFolder) -> None:
    rotation = Rotation.of(cluster, "etcd", method=Method.EMERGENCY)
    rotation.move(State.RETIRED)
    make_default(cluster, "etcd", rotation.old)
    passed(node)
    assert bundle(node) == {rotation.new.sha256} and signers(node) == {rotation.old.sha256}
    make_default(cluster, "etcd", rotation.new)
    passed(node)
    assert signers(node) == {rotation.new.sha256}


def test_a_ca_renewed_for_its_key_signs_nothing_anew(cluster: AppliedCluster, node: NodeFolder) -> None:
    rotation = Rotation.of(cluster, "etcd", method=Method.SAME_KEY)
    before = serials(node)
    old, new = rotation.old.sha256, rotation.new.sha256
    since = cluster.server.audit_position()
    passed(node)
    assert bundle(node) == {old, new} and signers(node) == {old}
    for state, served in ((State.SWITCHED, new), (State.RETURNING, old), (State.SWITCHED, new)):
        rotation.move(state)
        done = passed(node)
        assert not done.failures and done.renewed == () and signers(node) == {served}
        assert {one.served for one in report(cluster, node).certificates.values() if one.ca == "etcd"} == {(served,)}
    rotation.move(State.RETIRED)
    passed(node)
    assert bundle(node) == {new} and serials(node) == before
    assert not [r for r in cluster.server.requests(since) if "/etcd/sign/" in r[1]]
    # What is due later is served with the new one too.
    passed(node, "etcd-peer")
    assert signers(node) == {new} and serials(node)["etcd-peer"] != before["etcd-peer"]


def lost(rotation: Rotation) -> None:
    rotation.lose()
    make_default(rotation.cluster, "etcd", rotation.old)


def set_back(rotation: Rotation) -> None:
    rotation.set_back(State.PUBLISHED, 1)


@ON_NODE
@pytest.mark.parametrize("act", [pytest.param(lost, marks=IN_FULL), set_back])
@pytest.mark.parametrize("forget", [False, pytest.param(True, marks=IN_FULL)], ids=["", "state-lost"])
def test_a_server_set_back_takes_nothing_away(
    cluster: AppliedCluster, node: NodeFolder, act: Callable[[Rotation], None], *, forget: bool
) -> None:
    rotation = Rotation.of(cluster, "etcd")
    passed(node)
    rotation.move(State.SWITCHED)
    passed(node)
    rotation.move(State.RETIRED)
    passed(node)
    assert bundle(node) == {rotation.new.sha256}
    revision, before = rotation.record.revision, serials(node)
    act(rotation)
    if forget:
        # The copy of Vault's answer knows the revision too.
        (node.state / "agent.json").unlink()
    done = passed(node)
    assert set(done.failures) == {"etcd rotation"} and "`vaultpki ca recover etcd`" in str(
        done.failures["etcd rotation"]
    )
    assert bundle(node) == {rotation.old.sha256, rotation.new.sha256} and serials(node) == before
    told = report(cluster, node)
    assert told.seen["etcd"].behind and told.seen["etcd"].highest == revision
    assert measured(node, done) == (1, 1)
    passed(node, "*")
    assert serials(node) == before
    # Vault's answer is used again as long as it is fresh, and says the same.
    assert set(passed(node, asks=False).failures) >= {"etcd rotation"}
    # A newer record ends it.
    rotation.write(rotation.record.moved(State.RETRUSTING, rotation.record.since))
    rotation.write(rotation.record.changed())
    while rotation.record.revision <= revision:
        rotation.write(rotation.record.changed())
    make_default(cluster, "etcd", rotation.new)
    done = passed(node)
    assert not done.failures and not report(cluster, node).seen["etcd"].behind
    assert measured(node, done) == (0, 0)


def measured(node: NodeFolder, outcome: Outcome) -> tuple[float | None, float | None]:
    """What the metrics of an agent say of the record of etcd after this pass: `server-behind`, and the CA's own."""
    with metrics_of(node, outcome) as port:
        return figure(port, "finding", finding="server-behind"), figure(port, "ca_rotation_behind", ca="etcd")


@ON_NODE
@IN_FULL
def test_one_forged_record_does_not_make_a_node_deaf(cluster: AppliedCluster, node: NodeFolder) -> None:
    rotation = Rotation.of(cluster, "etcd")
    assert not passed(node).failures
    both, right = bundle(node), rotation.record
    rotation.write(replace(right, state=State.RETIRED, revision=10**9))
    told = str(passed(node).failures["etcd rotation"])
    assert "does not follow revision 1000000000" in told and "`vaultpki ca recover etcd`" in told
    assert bundle(node) == both and signers(node) == {rotation.old.sha256}
    reported = report(cluster, node)
    assert reported.not_followed == {"etcd": 10**9} and reported.seen["etcd"] == Seen(1, 1)
    # `status`, `nodes` and `ca status` say the same.
    shown = json.loads(vaultpki("status", "-c", node.config, "--json", "--offline", expect=3).stdout)
    assert told in shown["agent"]["faults"]["etcd rotation"]
    assert {ca["not_followed"] for ca in shown["cas"] if ca["domain"] == "etcd"} == {10**9}
    words, env = told.removeprefix("this node "), cluster.environment()
    rows = json.loads(vaultpki("nodes", "-f", cluster.file, "--json", env=env, expect=3).stdout)["nodes"]
    (row,) = [each for each in rows if each["node"] == node.name]
    assert "record-not-followed" in row["reasons"] and words in row["message"]
    cas = json.loads(vaultpki("ca", "status", "-f", cluster.file, "--json", env=env, expect=3).stdout)["cas"]
    assert {"node": node.name, "reason": words} in next(ca["apart"] for ca in cas if ca["domain"] == "etcd")
    assert words in vaultpki("ca", "status", "-f", cluster.file, env=env, expect=3).stdout
    planned = json.loads(vaultpki("plan", "-f", cluster.file, "--json", env=env).stdout)["dangers"]
    path = f"config {cluster.prefix}/config/rotation/etcd"
    assert planned == [{"name": path, "reason": f"{node.name} {words}"}]
    # An emergency with a right number is followed at once.
    rotation.write(replace(right, state=State.RETIRED, method=Method.EMERGENCY, revision=2))
    make_default(cluster, "etcd", rotation.new)
    assert not passed(node).failures
    assert bundle(node) == {rotation.new.sha256} == signers(node)
    assert report(cluster, node).not_followed == {}


@ON_NODE
def test_more_issuers_than_a_ca_has_do_not_break_a_pass(cluster: AppliedCluster, node: NodeFolder) -> None:
    for number in range(MOST_ISSUERS + 3):
        body = {"common_name": "x", "issuer_name": f"x{number}", "key_type": "ec"}
        assert cluster.server.api("POST", f"{cluster.prefix}/etcd/root/generate/internal", body).status == 200
    old = bundle(node)
    assert not passed(node).failures and bundle(node) == old
    # Those that the record names are read first.
    rotation = Rotation.of(cluster, "etcd")
    assert not passed(node).failures and bundle(node) == {rotation.old.sha256, rotation.new.sha256}


def no_issuer(cluster: AppliedCluster, old: CaRef) -> None:
    delete(cluster, "etcd", old)


def no_mount(cluster: AppliedCluster, old: CaRef) -> None:
    assert cluster.server.api("DELETE", f"sys/mounts/{cluster.prefix}/etcd").status in (200, 204)


@pytest.mark.parametrize("act", [pytest.param(no_issuer, marks=IN_FULL), no_mount])
def test_a_mount_without_an_issuer_takes_nothing_away(
    cluster: AppliedCluster, act: Callable[[AppliedCluster, CaRef], None], tmp_path: Path
) -> None:
    node = cluster.equip("cp-1", folder=tmp_path / "cp-1")
    passed(node)
    old, before = bundle(node), serials(node)
    ref = CaRef("etcd-1", "etcd-1")
    act(cluster, ref)
    done = passed(node)
    assert set(done.failures) == {"etcd CA"} and "the mount of etcd shows no CA" in str(done.failures["etcd CA"])
    assert bundle(node) == old and serials(node) == before
    # The other CAs go on.
    done = passed(node, "*")
    assert {"kube-apiserver", "front-proxy-client"} <= set(done.renewed) and serials(node) == before
    # A node that comes now gets what is there.
    other = cluster.equip("cp-1", folder=node.folder.parent / "fresh")
    done = passed(other)
    assert "kube-apiserver" in done.renewed and not (other.pki / "etcd-ca.crt").exists()


def test_leaves_of_a_ca_that_was_removed_by_hand_are_replaced_within_an_hour(
    cluster: AppliedCluster, node: NodeFolder
) -> None:
    (old,) = bundle(node)
    new = successor(cluster, "etcd")
    make_default(cluster, "etcd", new)
    delete(cluster, "etcd", CaRef("etcd-1", "etcd-1"))
    before, now = serials(node), time.time()
    done = passed(node, clock=now)
    assert not done.failures and done.renewed == () and bundle(node) == {old, new.sha256}
    assert done.due is not None and now <= done.due.timestamp() <= now + 3600
    # Noticed once: later passes do not begin anew.
    passed(node, clock=now + 1000)
    passed(node, clock=now + 3601)
    assert signers(node) == {new.sha256} and not {*before.values()} & {*serials(node).values()}
    assert bundle(node) == {old, new.sha256}


@ON_NODE
def test_a_policy_of_an_older_apply_is_as_no_record(cluster: AppliedCluster, node: NodeFolder) -> None:
    where = f"sys/policies/acl/{cluster.prefix}/node/{node.name}"
    whole = cluster.read(where)["policy"]
    policy = json.loads(whole)
    del policy["path"][f"{cluster.prefix}/config/data/rotation/+"]
    rotation = Rotation.of(cluster, "etcd")
    assert cluster.server.api("POST", where, {"policy": json.dumps(policy)}).status == 204
    try:
        assert not passed(node).failures and bundle(node) == {rotation.old.sha256, rotation.new.sha256}
        assert report(cluster, node).seen["etcd"] == Seen(0, 0)
    finally:
        assert cluster.server.api("POST", where, {"policy": whole}).status == 204


@IN_FULL
def test_an_operator_takes_leaves_and_trust_by_the_record(cluster: AppliedCluster, tmp_path: Path) -> None:
    rotation = Rotation.of(cluster, "kubernetes")
    folder = tmp_path / "operator"
    cluster.issue("admin", folder)

    def cas() -> tuple[set[str], str]:
        held = {facts.fingerprint for facts in x509.read_certificates((folder / "kubernetes-ca.crt").read_bytes())}
        return held, x509.read_certificates((folder / "admin.crt").read_bytes())[1].fingerprint

    both = {rotation.old.sha256, rotation.new.sha256}
    assert cas() == (both, rotation.old.sha256)
    rotation.move(State.SWITCHED)
    cluster.issue("admin", folder)
    assert cas() == (both, rotation.new.sha256)
    make_default(cluster, "kubernetes", rotation.old)
    assert "`vaultpki ca status" in cluster.issue("admin", folder, expect=1).stderr
    make_default(cluster, "kubernetes", rotation.new)
    rotation.move(State.RETIRED)
    cluster.issue("admin", folder)
    assert cas() == ({rotation.new.sha256}, rotation.new.sha256)


@ON_NODE
def test_status_shows_the_rotation(cluster: AppliedCluster, node: NodeFolder) -> None:

    def cas() -> Iterator[dict[str, Any]]:
        ran = vaultpki("status", "-c", node.config, "--json", expect={0, 3})
        yield from json.loads(ran.stdout)["cas"]

    assert {each["state"] for each in cas()} == {None}
    rotation = Rotation.of(cluster, "etcd")
    rotation.move(State.SWITCHED)
    passed(node)
    (etcd,) = (each for each in cas() if each["domain"] == "etcd")
    assert etcd["state"] == "switched" and etcd["revision"] == 2 and etcd["behind"] is False
    assert {one["sha256"] for one in etcd["certificates"]} == {rotation.old.sha256, rotation.new.sha256}
    rotation.lose()
    passed(node)
    (etcd,) = (each for each in cas() if each["domain"] == "etcd")
    assert etcd["state"] is None and etcd["behind"] is True
