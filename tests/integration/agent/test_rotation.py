"""A node while one of its CAs is rotated, on a real server with records and CAs made by hand."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest

from helpers.node import node_components
from helpers.node.node_components import NodeComponents
from helpers.vault.applied_cluster import AppliedCluster, NodeFolder, vaultpki
from helpers.vault.cluster_factory import ClusterFactory
from helpers.vault.handmade_rotation import Rotation, delete, make_default, successor
from vaultpki.agent import run
from vaultpki.agent.context import Outcome
from vaultpki.certificates import MOST_ISSUERS
from vaultpki.config.agent import load_agent
from vaultpki.host import hook_runner
from vaultpki.model import NodeRole
from vaultpki.pki import x509
from vaultpki.records import node_report
from vaultpki.records.node_report import NodeReport, Seen
from vaultpki.records.rotation import CaRef, Method, State

SPEC = """\
api_server: {endpoint: "https://api.example.com:6443", names: [api.example.com]}
nodes:
- {name: cp-1, roles: [control-plane, etcd], addresses: [10.0.0.11]}
- {name: etcd-2, roles: [etcd], addresses: [10.0.0.12]}
"""
ETCD = ("etcd-server", "etcd-peer", "etcd-healthcheck-client")
IN_FULL = pytest.mark.conformance
STEMS = ("etcdserver", "etcd-peer", "etcd-healthcheck-client")


@pytest.fixture
def cluster(clusters: ClusterFactory) -> AppliedCluster:
    return clusters.applied(SPEC)


@pytest.fixture
def member(cluster: AppliedCluster) -> Iterator[NodeComponents]:
    """An etcd member with all its certificates, and the process that stands for etcd."""
    made = cluster.equip("etcd-2")
    passed(made)
    with node_components.standing(made, frozenset({NodeRole.ETCD})) as components:
        yield components


@pytest.fixture
def node(member: NodeComponents, tmp_path: Path) -> NodeFolder:
    """The same one with a hook that restarts etcd in earnest."""
    (tmp_path / "restarts").touch()
    node_components.add_hooks(member.node, tmp_path / "restarts")
    passed(member.node)
    return member.node


def passed(node: NodeFolder, *force: str, clock: float | None = None) -> Outcome:
    """A pass in this process that asks Vault, and does not wait for watchers."""
    if (node.state / "spec.json").exists():
        node.age(1e6)
    return run.run(load_agent(node.config), run.PassOptions(settle=False, force=frozenset(force)), clock=clock)


def bundle(node: NodeFolder, name: str = "etcd-ca.crt") -> set[str]:
    return {facts.fingerprint for facts in x509.read_certificates((node.pki / name).read_bytes())}


def signers(node: NodeFolder, stems: tuple[str, ...] = STEMS) -> set[str]:
    """What stands behind the leaves, each of which it has signed."""
    found = set()
    for stem in stems:
        leaf, issuer = x509.read_certificates((node.pki / f"{stem}.crt").read_bytes())
        assert x509.signed_by(leaf, issuer)
        assert (node.pki / f"{stem}.pem").read_bytes().endswith((node.pki / f"{stem}.crt").read_bytes())
        found.add(issuer.fingerprint)
    return found


def report(cluster: AppliedCluster, node: NodeFolder) -> NodeReport:
    found = node_report.read(cluster.read(cluster.report_path(node.name))["data"])
    assert found is not None
    return found


def serials(node: NodeFolder) -> dict[str, int]:
    return {stem: x509.read_certificates((node.pki / f"{stem}.crt").read_bytes())[0].serial for stem in STEMS}


def started(told: NodeReport) -> datetime:
    when = told.readers["etcd/etcd"].started
    assert when is not None
    return when


def restarts(tmp_path: Path) -> int:
    return (tmp_path / "restarts").read_text().count("etcd-ca")


def test_a_whole_rotation_of_etcds_ca(cluster: AppliedCluster, node: NodeFolder, tmp_path: Path) -> None:
    before = serials(node)
    assert report(cluster, node).seen["etcd"] == Seen(0, 0) and report(cluster, node).readers["etcd/etcd"].sha256
    rotation = Rotation.of(cluster, "etcd")
    old, new = rotation.old.sha256, rotation.new.sha256
    # Both are trusted; the restart waits for its turn.
    done = passed(node)
    assert not done.failures and bundle(node) == {old, new} and serials(node) == before and restarts(tmp_path) == 0
    told = report(cluster, node)
    assert told.seen["etcd"] == Seen(1, 1) and told.bundles["etcd"].sha256 == {old, new}
    assert told.waiting == ("etcd",) and "etcd-ca" in told.owed and told.readers["etcd/etcd"].sha256 == {old}
    ran = node.run(expect=3)
    assert ran.stdout == "the hooks of etcd-ca wait for this node's turn in the rotation of the CA of etcd\n"
    assert ran.stderr == ""
    rotation.turn("cp-1")
    passed(node)
    assert restarts(tmp_path) == 0
    rotation.turn("etcd-2")
    assert not passed(node).failures and restarts(tmp_path) == 1
    told = report(cluster, node)
    assert told.seen["etcd"].revision == 3 and told.waiting == () and told.owed == ()
    assert told.readers["etcd/etcd"].sha256 == {old, new}
    assert started(told) >= told.bundles["etcd"].installed
    # Leaves of the new one, without a restart.
    rotation.move(State.SWITCHED)
    done = passed(node)
    assert sorted(done.renewed) == sorted(ETCD) and not done.failures and signers(node) == {new}
    told = report(cluster, node)
    key_id = x509.read_certificates((node.pki / "etcd-peer.crt").read_bytes())[1].subject_key_id
    assert {told.certificates[name].issuer_key_id for name in ETCD} == {key_id}
    assert {told.certificates[name].served for name in ETCD} == {(new,)}
    installed = told.certificates["etcd-peer"].installed
    assert installed is not None and rotation.record.since <= installed <= told.time
    assert told.certificates["etcd-peer"].serial == f"{serials(node)['etcd-peer']:x}"
    assert restarts(tmp_path) == 1
    # Since when counts from the first time, so that a gate opens for a node that reports often.
    passed(node, clock=time.time() + 60)
    assert report(cluster, node).certificates["etcd-peer"].installed == installed
    # The old one is not trusted any more.
    rotation.move(State.RETIRED)
    assert not passed(node).failures and bundle(node) == {new} and restarts(tmp_path) == 1
    assert report(cluster, node).bundles["etcd"].sha256 == {new}
    rotation.turn("etcd-2")
    passed(node)
    assert restarts(tmp_path) == 2 and report(cluster, node).readers["etcd/etcd"].sha256 == {new}
    rotation.move(State.DONE)
    delete(cluster, "etcd", rotation.old)
    after = serials(node)
    done = passed(node)
    assert not done.failures and done.renewed == () and serials(node) == after and bundle(node) == {new}
    since, resting = cluster.server.audit_position(), node.snapshot()
    run.run(load_agent(node.config), run.PassOptions(settle=False))
    assert cluster.server.requests(since) == [] and node.snapshot() == resting


def test_what_a_hook_has_started_is_reported_at_once_and_only_what_it_has_started(
    cluster: AppliedCluster, member: NodeComponents, tmp_path: Path
) -> None:
    node = member.node
    hook = f"test ! -e {tmp_path}/broken && {node_components.restart(node, 'etcd')}"
    node.config.write_text(node.config.read_text() + json.dumps({"hooks": {"etcd-ca": [["sh", "-c", hook]]}})[1:-1])
    passed(node)
    rotation = Rotation.of(cluster, "etcd")
    rotation.turn("etcd-2")
    woken = threading.Event()
    runner = hook_runner.Runner(done=woken.set)
    node.age(1e6)
    (tmp_path / "broken").touch()

    def passing(later: float = 0.0) -> Outcome:
        return run.run(load_agent(node.config), run.PassOptions(settle=False), runner=runner, clock=time.time() + later)

    # As the daemon: the first pass asks Vault and starts the hooks, the next one takes their results.
    passing()
    assert woken.wait(10)
    woken.clear()
    passing()
    told = report(cluster, node)
    assert told.readers["etcd/etcd"].sha256 == {rotation.old.sha256}
    assert told.owed == ("etcd-ca",) and told.waiting == ()
    (tmp_path / "broken").unlink()
    # After the pause that follows a failure.
    passing(10)
    assert woken.wait(10)
    since = cluster.server.audit_position()
    passing()
    told = report(cluster, node)
    assert told.readers["etcd/etcd"].sha256 == {rotation.old.sha256, rotation.new.sha256} and told.owed == ()
    writes = cluster.server.writes(since)
    assert len([path for _, path in writes if "/reports/" in path]) == 1
    # Nothing is new, so nobody is asked.
    since = cluster.server.audit_position()
    passing()
    assert cluster.server.requests(since) == []


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


def test_a_bundle_that_went_and_came_back_is_read_again(
    cluster: AppliedCluster, node: NodeFolder, tmp_path: Path
) -> None:
    rotation = Rotation.of(cluster, "etcd")
    rotation.turn("etcd-2")
    passed(node)
    rotation.move(State.SWITCHED)
    passed(node)
    assert restarts(tmp_path) == 1
    # The old CA goes, its turn does not come, and the operator goes back.
    rotation.move(State.RETIRED)
    passed(node, clock=time.time() + 10)
    rotation.move(State.RETRUSTING)
    passed(node, clock=time.time() + 20)
    told = report(cluster, node)
    assert told.waiting == ("etcd",) and "etcd-ca" in told.owed and restarts(tmp_path) == 1
    assert started(told) < told.bundles["etcd"].installed
    rotation.turn("etcd-2")
    passed(node, clock=time.time() + 30)
    told = report(cluster, node)
    assert told.owed == () and restarts(tmp_path) == 2
    assert started(told) >= told.bundles["etcd"].installed


def test_an_aborted_rotation_restarts_members_by_turns_at_its_end(
    cluster: AppliedCluster, node: NodeFolder, tmp_path: Path
) -> None:
    """Members of etcd would restart all at once, or go on accepting the CA that was deleted."""
    rotation = Rotation.of(cluster, "etcd")
    rotation.turn("etcd-2")
    passed(node)
    assert restarts(tmp_path) == 1
    rotation.move(State.STEADY)
    assert not passed(node).failures and bundle(node) == {rotation.old.sha256}
    told = report(cluster, node)
    assert restarts(tmp_path) == 1 and "etcd-ca" in told.owed and told.waiting == ("etcd",)
    assert rotation.new.sha256 in told.readers["etcd/etcd"].sha256
    rotation.turn("etcd-2")
    passed(node, clock=time.time() + 10)
    told = report(cluster, node)
    assert restarts(tmp_path) == 2 and told.owed == () and told.waiting == ()
    assert told.readers["etcd/etcd"].sha256 == {rotation.old.sha256}
    # And the next rotation is as any other.
    rotation.move(State.PUBLISHED)
    passed(node, clock=time.time() + 20)
    assert report(cluster, node).waiting == ("etcd",)


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


def newer_version(rotation: Rotation) -> None:
    rotation.put({"version": 2})


def garbage(rotation: Rotation) -> None:
    rotation.put({"version": 1, "domain": "etcd", "state": "retired", "revision": 99})


def other_domain(rotation: Rotation) -> None:
    path = f"{rotation.cluster.prefix}/config/data/rotation/kubelet"
    rotation.put(rotation.cluster.server.api("GET", path).body.get("data") or {"version": 1, "domain": "kubelet"})


@pytest.mark.parametrize(
    "act", [newer_version, *(pytest.param(each, marks=IN_FULL) for each in (garbage, other_domain))]
)
def test_a_record_that_cannot_be_read_adds_trust_only(
    cluster: AppliedCluster, node: NodeFolder, act: Callable[[Rotation], None], tmp_path: Path
) -> None:
    rotation = Rotation.of(cluster, "etcd")
    rotation.move(State.SWITCHED)
    act(rotation)
    before = serials(node)
    done = passed(node)
    assert set(done.failures) == {"etcd rotation"} and "rotation/etcd" in str(done.failures["etcd rotation"])
    assert bundle(node) == {rotation.old.sha256, rotation.new.sha256} and serials(node) == before
    told = report(cluster, node)
    assert "etcd" not in told.seen and "kubelet" in told.seen and told.failures == ("etcd rotation",)
    # Who reads the CA only when it starts is not restarted on every node at once.
    assert restarts(tmp_path) == 0 and told.waiting == ("etcd",)
    # Other certificates are renewed, and those of etcd by the CA that signed them.
    done = passed(node, "*")
    assert set(ETCD) <= set(done.failures) and signers(node) == {rotation.old.sha256}


def lost(rotation: Rotation) -> None:
    rotation.lose()
    make_default(rotation.cluster, "etcd", rotation.old)


def set_back(rotation: Rotation) -> None:
    rotation.set_back(State.PUBLISHED, 1)


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
    passed(node, "*")
    assert serials(node) == before
    # Vault's answer is used again as long as it is fresh, and says the same.
    assert set(run.run(load_agent(node.config), run.PassOptions(settle=False)).failures) >= {"etcd rotation"}
    # A newer record ends it.
    rotation.write(rotation.record.moved(State.RETRUSTING, rotation.record.since))
    rotation.write(rotation.record.changed())
    while rotation.record.revision <= revision:
        rotation.write(rotation.record.changed())
    make_default(cluster, "etcd", rotation.new)
    assert not passed(node).failures and not report(cluster, node).seen["etcd"].behind


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
    cluster: AppliedCluster, act: Callable[[AppliedCluster, CaRef], None]
) -> None:
    node = cluster.equip("cp-1")
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


def test_a_policy_of_an_older_apply_is_as_no_record(cluster: AppliedCluster, node: NodeFolder) -> None:
    where = f"sys/policies/acl/{cluster.prefix}/node/{node.name}"
    policy = json.loads(cluster.read(where)["policy"])
    del policy["path"][f"{cluster.prefix}/config/data/rotation/+"]
    rotation = Rotation.of(cluster, "etcd")
    assert cluster.server.api("POST", where, {"policy": json.dumps(policy)}).status == 204
    assert not passed(node).failures and bundle(node) == {rotation.old.sha256, rotation.new.sha256}
    assert report(cluster, node).seen["etcd"] == Seen(0, 0)


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
