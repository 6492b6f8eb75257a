"""How a rotation begins, and goes on after the server was set back: by what nodes report, and by a plausible one."""

from __future__ import annotations

from dataclasses import replace
from datetime import datetime, timedelta
from pathlib import Path

import pytest

from helpers import ca_certificates
from helpers.ca_certificates import BEGUN
from helpers.example_cluster import load
from vaultpki.certificates import ca_subject
from vaultpki.errors import SpecError
from vaultpki.model import Cluster
from vaultpki.provision.gates import Participant
from vaultpki.provision.rotation import FULL, number
from vaultpki.provision.rotation_recovery import behind, key_ids, lost, recovered
from vaultpki.provision.rotation_start import first_record, withdrawn
from vaultpki.provision.rotation_steps import MountIssuer, RotationMount
from vaultpki.spec.node_report import BundleReport, CertificateReport, NodeReport, Seen
from vaultpki.spec.rotation_record import CaRef, Method, RotationRecord, State

ROOT = ca_certificates.root("prod")
LATER = BEGUN + timedelta(days=30)


def issuer(name: str) -> MountIssuer:
    facts = ca_certificates.ca(ca_subject("prod", "etcd", number(name)), key=name, signer="prod root CA")
    return MountIssuer(f"i-{name}", name, f"k-{name}", frozenset(FULL.split(",")), facts=facts)


ONE, TWO, THREE = issuer("etcd-1"), issuer("etcd-2"), issuer("etcd-3")
KEYS = {"k-etcd-1": "etcd-1", "k-etcd-2": "etcd-2"}
BOTH = RotationMount("p/etcd", ROOT, (ONE, TWO), KEYS, ONE.id, ONE.key)
ALONE = replace(BOTH, issuers=(ONE,), keys={"k-etcd-1": "etcd-1"})


def ref(each: MountIssuer) -> CaRef:
    return CaRef(each.name, each.id, each.key, each.sha256)


def record(state: State, revision: int = 10) -> RotationRecord:
    return RotationRecord("etcd", state, revision, BEGUN, ref(ONE), ref(TWO), highest=2)


def node(
    name: str, *trust: MountIssuer, leaf: MountIssuer = ONE, revision: int = 10, highest: int = 0, at: datetime = LATER
) -> Participant:
    key_id = (leaf.facts.subject_key_id if leaf.facts is not None else None) or ""
    report = NodeReport(
        time=at,
        seen={"etcd": Seen(revision, highest or revision)},
        certificates={"etcd-peer": CertificateReport("etcd", "fresh", LATER, "1", key_id)},
        bundles={"etcd": BundleReport(frozenset(each.sha256 for each in trust), BEGUN)},
    )
    return Participant(name, "listed", frozenset({"etcd-peer"}), True, ("etcd/etcd",), 1, report)


@pytest.mark.parametrize(
    ("state", "leaves", "then"),
    [
        (State.PUBLISHED, (TWO, TWO), State.RETRUSTING),
        (State.PUBLISHED, (ONE, TWO), State.RETRUSTING),
        (State.PUBLISHED, (ONE, ONE), State.RETURNING),
        (State.SWITCHED, (TWO, TWO), State.SWITCHED),
        (State.SWITCHED, (ONE, TWO), State.RETRUSTING),
        (State.RETIRED, (TWO, TWO), State.RETIRED),
        (State.RETIRED, (ONE, ONE), State.RETURNING),
        (State.RETURNING, (TWO, TWO), State.RETRUSTING),
        (State.RETRUSTING, (TWO, TWO), State.RETRUSTING),
    ],
)
def test_what_is_in_use_stays_trusted(state: State, leaves: tuple[MountIssuer, ...], then: State) -> None:
    nodes = [node(f"n{index}", ONE, TWO, leaf=leaf, highest=14) for index, leaf in enumerate(leaves)]
    found = recovered("prod", "etcd", record(state), BOTH, nodes, (), LATER)
    assert found.record is not None and found.record.state is then and found.record.revision == 15
    assert {ONE.sha256, TWO.sha256} >= {leaf.sha256 for leaf in leaves}
    in_use = {leaf.sha256 for leaf in leaves}
    assert in_use <= found.record.trust


def test_a_stolen_key_is_not_trusted_again() -> None:
    before = replace(record(State.PUBLISHED), method=Method.EMERGENCY)
    nodes = [node("n1", ONE, TWO, leaf=ONE, highest=14), node("n2", TWO, leaf=TWO, highest=14)]
    made = recovered("prod", "etcd", before, BOTH, nodes, (), LATER).record
    assert made is not None and made.state is State.RETIRED and made.trust == {TWO.sha256}


@pytest.mark.parametrize("state", [State.STEADY, State.DONE, State.PREPARED])
def test_nothing_was_lost_where_every_leaf_is_of_the_ca_that_is_there(state: State) -> None:
    before = record(state)
    if state is State.PREPARED:
        before = replace(before, new=CaRef("etcd-2", key="k-etcd-2"))
    mount = ALONE if state is not State.DONE else replace(BOTH, issuers=(TWO,), default=TWO.id)
    leaf = TWO if state is State.DONE else ONE
    found = recovered("prod", "etcd", before, mount, [node("n1", leaf, leaf=leaf, highest=12)], (), LATER)
    assert found.record is not None and (found.record.state, found.record.revision) == (state, 13)


def test_a_ca_that_the_snapshot_does_not_have_is_trusted_where_it_is_used() -> None:
    before = RotationRecord("etcd", State.STEADY, 10, BEGUN, ref(ONE), highest=1)
    nodes = [node("n1", TWO, leaf=TWO, highest=16), node("n2", TWO, leaf=TWO, highest=16)]
    made = recovered("prod", "etcd", before, ALONE, nodes, (), LATER).record
    assert made is not None and made.state is State.RETRUSTING and made.trust == {ONE.sha256, TWO.sha256}
    assert made.new == CaRef("etcd-2", sha256=TWO.sha256) and made.highest == 2
    assert TWO.facts is not None and key_ids(made, ALONE, nodes)["new"] == TWO.facts.subject_key_id


def test_of_a_ca_whose_key_the_snapshot_has_the_same_key_goes_on() -> None:
    before = replace(record(State.PREPARED), new=CaRef("etcd-2", key="k-etcd-2"))
    mount = replace(ALONE, keys=KEYS)
    made = recovered("prod", "etcd", before, mount, [node("n1", ONE, TWO, leaf=TWO, highest=12)], (), LATER).record
    assert made is not None and made.state is State.RETRUSTING
    assert made.new == CaRef("etcd-2", key="k-etcd-2", sha256=TWO.sha256)


def test_every_node_is_heard_first() -> None:
    ahead = node("n1", ONE, TWO, highest=14, at=LATER)
    silent = node("n2", ONE, TWO, at=LATER - timedelta(hours=1))
    found = recovered("prod", "etcd", record(State.PUBLISHED), BOTH, [ahead, silent], (), LATER)
    assert found.record is None and [each.node for each in found.waiting] == ["n2"]
    found = recovered("prod", "etcd", record(State.PUBLISHED), BOTH, [ahead, silent], ("n2",), LATER)
    assert found.record is not None and found.record.excused == ("n2",)


def test_one_of_many_is_not_believed() -> None:
    honest = [node(f"n{index}", ONE, TWO) for index in range(4)]
    liar = node("liar", ONE, TWO, highest=14, at=LATER - timedelta(seconds=1))
    found = recovered("prod", "etcd", record(State.PUBLISHED), BOTH, [*honest, liar], (), LATER)
    assert found.record is None and [each.node for each in found.waiting] == ["liar"]
    assert behind("etcd", record(State.PUBLISHED), [*honest, liar], ("liar",)) == ()


def test_a_number_that_no_rotation_reaches_is_not_believed() -> None:
    assert behind("etcd", record(State.PUBLISHED), [node("liar", ONE, highest=1 << 52)]) == ()
    assert behind("etcd", None, [node("n1", ONE, revision=0, highest=3)]) != ()


@pytest.mark.parametrize(
    ("mount", "leaves", "then"),
    [
        (BOTH, (ONE, ONE), State.RETURNING),
        (BOTH, (TWO, ONE), State.RETRUSTING),
        (replace(BOTH, default=TWO.id), (TWO, TWO), State.RETRUSTING),
        (replace(BOTH, issuers=(TWO,), default=TWO.id), (TWO, TWO), State.STEADY),
    ],
)
def test_a_lost_record_is_made_from_names_and_the_default(
    mount: RotationMount, leaves: tuple[MountIssuer, ...], then: State
) -> None:
    nodes = [node(f"n{index}", *mount.issuers, leaf=leaf, revision=0, highest=9) for index, leaf in enumerate(leaves)]
    assert lost("prod", "etcd", mount)
    made = recovered("prod", "etcd", None, mount, nodes, (), LATER).record
    assert made is not None and (made.state, made.revision, made.highest) == (then, 10, 2)
    assert {leaf.sha256 for leaf in leaves} <= made.trust
    assert made.leaf.name == ("etcd-1" if then is State.RETURNING else "etcd-2")


def test_a_ca_that_was_never_rotated_has_lost_nothing() -> None:
    assert not lost("prod", "etcd", ALONE)
    foreign = replace(TWO, facts=ca_certificates.ca("prod etcd CA 2", key="theirs", signer="their root"))
    assert not lost("prod", "etcd", replace(BOTH, issuers=(ONE, foreign)))


@pytest.fixture
def cluster(tmp_path: Path) -> Cluster:
    return load(tmp_path, "cluster: prod\nnodes:\n- {name: n1, roles: [control-plane, etcd], addresses: [10.0.0.11]}\n")


def test_the_first_rotation_goes_on_trusting_what_nodes_trust(cluster: Cluster) -> None:
    """Without a record nodes trust every CA that the root signed: those on the mount, and those that they hold."""
    mount = replace(BOTH, issuers=(ONE, replace(TWO, name="by-hand")))
    made = first_record(cluster, "etcd", Method.NEW_KEY, 60, None, mount, [node("n1", ONE, THREE)], LATER)
    assert made.old == ref(ONE) and made.new == CaRef("etcd-3") and made.highest == 3
    assert made.trust == {ONE.sha256, TWO.sha256, THREE.sha256}
    assert withdrawn(made, None, LATER).trust == made.trust
    assert withdrawn(made, None, LATER).revision == 2 and not withdrawn(made, None, LATER).active
    # Nor does a later one trust again what was retired.
    done = replace(record(State.DONE), also=(THREE.sha256,))
    later = first_record(cluster, "etcd", Method.NEW_KEY, 60, done, BOTH, [node("n1", TWO, THREE)], LATER)
    assert (later.old, later.new, later.also, later.revision) == (ref(TWO), CaRef("etcd-3"), (), 11)
    assert withdrawn(later, done, LATER) == replace(done, revision=12, highest=3)


def test_a_mount_that_signs_by_another_ca_is_applied_first(cluster: Cluster) -> None:
    for mount in (replace(BOTH, default=TWO.id), replace(BOTH, issuers=(TWO,))):
        with pytest.raises(SpecError, match="vaultpki apply"):
            first_record(cluster, "etcd", Method.NEW_KEY, 60, None, mount, [], LATER)
