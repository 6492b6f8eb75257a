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
from vaultpki.errors import StateConflict
from vaultpki.model import Cluster
from vaultpki.records.node_report import BundleReport, CertificateReport, NodeReport, Seen
from vaultpki.records.rotation import MOST_AHEAD, CaRef, Kept, Method, RotationRecord, State
from vaultpki.rotation.gates import Participant
from vaultpki.rotation.mount_steps import MountIssuer, RotationMount
from vaultpki.rotation.recovery import (
    ahead,
    emergency_revision,
    key_ids,
    lost,
    named_since,
    next_revision,
    out_of_reach,
    recovered,
)
from vaultpki.rotation.start import first_record, withdrawn
from vaultpki.vault.issuer import FULL, number

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


def made(before: RotationRecord | None, mount: RotationMount, nodes: list[Participant], *aside: str) -> RotationRecord:
    return recovered("prod", "etcd", before, mount, nodes, aside, LATER)


@pytest.mark.parametrize("state", [State.PUBLISHED, State.SWITCHED, State.RETIRED, State.RETURNING, State.RETRUSTING])
@pytest.mark.parametrize(("leaves", "kept"), [((TWO, TWO), Kept.NEW), ((ONE, TWO), Kept.OLD), ((ONE, ONE), Kept.OLD)])
def test_it_leads_back_and_each_node_keeps_its_leaf(state: State, leaves: tuple[MountIssuer, ...], kept: Kept) -> None:
    nodes = [node(f"n{index}", ONE, TWO, leaf=leaf, highest=14) for index, leaf in enumerate(leaves)]
    found = made(record(state), BOTH, nodes)
    assert (found.state, found.kept) == (State.RETRUSTING, kept) and found.revision > 14
    assert found.trust == {ONE.sha256, TWO.sha256}


def test_one_liar_cannot_have_the_new_ca_sign() -> None:
    """Certificates of operators would be of it, and not everybody may trust it."""
    nodes = [node("n1", ONE, highest=14), *(node(f"l{i}", ONE, TWO, leaf=TWO, highest=14) for i in range(3))]
    assert made(record(State.PUBLISHED), BOTH, nodes).kept is Kept.OLD
    pooled = replace(node("w", ONE, TWO, leaf=ONE, highest=14), kind="pooled")
    assert made(record(State.PUBLISHED), BOTH, [node("n1", TWO, leaf=TWO, highest=14), pooled]).kept is Kept.NEW
    # A row that the node may not hold says nothing.
    foreign = replace(node("n2", TWO, leaf=TWO, highest=14), certificates=frozenset({"etcd-server"}))
    assert made(record(State.PUBLISHED), BOTH, [node("n1", ONE, highest=14), foreign]).kept is Kept.OLD


def test_a_stolen_key_is_not_trusted_again() -> None:
    before = replace(record(State.RETIRED), method=Method.EMERGENCY)
    nodes = [node("n1", ONE, TWO, leaf=ONE, highest=14), node("n2", TWO, leaf=TWO, highest=14)]
    found = made(before, BOTH, nodes)
    assert found.state is State.RETIRED and found.trust == {TWO.sha256} and found.revision > 14


@pytest.mark.parametrize("state", [State.STEADY, State.DONE, State.PREPARED])
def test_nothing_was_lost_where_every_leaf_is_of_the_ca_that_is_there(state: State) -> None:
    before = record(state)
    if state is State.PREPARED:
        before = replace(before, new=CaRef("etcd-2", key="k-etcd-2"))
    mount = ALONE if state is not State.DONE else replace(BOTH, issuers=(TWO,), default=TWO.id)
    leaf = TWO if state is State.DONE else ONE
    found = made(before, mount, [node("n1", leaf, leaf=leaf, highest=12)])
    assert found.state is (State.DONE if state is State.DONE else State.STEADY) and found.revision > 12


def test_a_ca_that_the_snapshot_does_not_have_is_trusted_where_it_is_used() -> None:
    before = RotationRecord("etcd", State.STEADY, 10, BEGUN, ref(ONE), highest=1)
    nodes = [node("n1", TWO, leaf=TWO, highest=16), node("n2", TWO, leaf=TWO, highest=16)]
    found = made(before, ALONE, nodes)
    assert (found.state, found.kept) == (State.RETRUSTING, Kept.OLD) and found.trust == {ONE.sha256, TWO.sha256}
    assert found.new == CaRef("etcd-2", sha256=TWO.sha256) and found.highest == 2
    assert TWO.facts is not None and key_ids(found, ALONE, nodes)["new"] == TWO.facts.subject_key_id


def test_of_a_ca_whose_key_the_snapshot_has_the_same_key_goes_on() -> None:
    before = replace(record(State.PREPARED), new=CaRef("etcd-2", key="k-etcd-2"))
    found = made(before, replace(ALONE, keys=KEYS), [node("n1", ONE, TWO, leaf=TWO, highest=12)])
    assert found.state is State.RETRUSTING
    assert found.new == CaRef("etcd-2", key="k-etcd-2", sha256=TWO.sha256)


def test_a_node_that_has_not_reported_since_may_hold_what_nobody_told() -> None:
    """Then each node keeps what it trusts, and what is told later is trusted by all before any step."""
    before = RotationRecord("etcd", State.STEADY, 10, BEGUN, ref(ONE), highest=1)
    heard, silent = node("n1", ONE, highest=14), node("n2", ONE, at=LATER - timedelta(hours=3))
    found = made(before, ALONE, [heard, silent])
    assert (found.state, found.kept) == (State.RETRUSTING, Kept.OLD) and found.trust == {ONE.sha256}
    assert made(before, ALONE, [heard, silent], "n2").state is State.STEADY
    assert named_since(found, ALONE, [heard]) is found
    later = named_since(found, ALONE, [heard, node("n2", TWO, leaf=TWO)])
    assert later.trust == {ONE.sha256, TWO.sha256} and named_since(later, ALONE, [heard]) == later


def test_a_lying_node_cannot_make_the_record_too_large() -> None:
    """Each pass may name other CAs, and the record keeps those that were named before."""
    before = replace(record(State.RETRUSTING), kept=Kept.OLD, also=(THREE.sha256,))
    liar = node("liar", ONE)
    assert liar.report is not None
    for count, kept in ((99, 100), (100, 1)):
        bundle = BundleReport(frozenset(f"{number:064x}" for number in range(count)), BEGUN)
        told = replace(liar, report=replace(liar.report, bundles={"etcd": bundle}))
        assert len(named_since(before, BOTH, [told]).also) == kept


def test_a_node_at_rest_writes_seldom_and_is_not_missing_meanwhile() -> None:
    before = RotationRecord("etcd", State.STEADY, 10, BEGUN, ref(ONE), highest=1)
    heard, rest = node("n1", ONE, highest=14), node("n2", ONE, at=LATER - timedelta(minutes=65))
    assert rest.report is not None
    for look, state in ((3600, State.STEADY), (0, State.RETRUSTING)):
        told = replace(rest, report=replace(rest.report, poll=300, look=look))
        assert made(before, ALONE, [heard, told]).state is state


def test_only_listed_nodes_that_nobody_set_aside_count() -> None:
    liar = node("liar", ONE, TWO, highest=14)
    assert ahead("etcd", record(State.PUBLISHED), [node("n1", ONE, TWO), liar]) == (liar,)
    assert ahead("etcd", record(State.PUBLISHED), [liar], ("liar",)) == ()
    assert ahead("etcd", None, [replace(liar, kind="pooled")]) == ()
    assert ahead("etcd", None, [node("n1", ONE, revision=0, highest=3)]) != ()


def test_the_number_is_above_what_nodes_remember_and_each_takes_it() -> None:
    before = record(State.PUBLISHED)
    nodes = [node("n1", ONE, highest=14), node("n2", ONE, highest=900)]
    found = next_revision("etcd", before, nodes)
    assert 900 < found <= 14 + MOST_AHEAD
    for far in (14 + MOST_AHEAD, 10**9, (1 << 53) - 1):
        with pytest.raises(StateConflict, match=r"n2 has read revision.*--without n2"):
            next_revision("etcd", before, [node("n1", ONE, highest=14), node("n2", ONE, highest=far)])
        assert next_revision("etcd", before, [node("n1", ONE, highest=14), node("n2", ONE, highest=far)], ("n2",)) > 14
    # All of them have read a forged record that no longer stands there, or none takes the one that does.
    assert next_revision("etcd", before, [node("n1", ONE, highest=10**9)]) > 10**9
    with pytest.raises(StateConflict, match="Join"):
        next_revision("etcd", before, [node("n1", ONE, highest=(1 << 53) - 1)])
    forged = replace(before, revision=10**9)
    assert out_of_reach("etcd", forged, [node("n1", ONE, highest=14)])
    assert next_revision("etcd", forged, [node("n1", ONE, highest=14)]) < 14 + MOST_AHEAD


@pytest.mark.parametrize(
    ("claims", "revision"),
    [((), 11), ((14, 12), 15), ((14, 10**9), 15), ((10**9, 10**9), 11), ((1009, 11), 1010), ((1010, 11), 12)],
)
def test_an_emergency_begins_above_what_others_still_take(claims: tuple[int, ...], revision: int) -> None:
    begun = record(State.PREPARED, 11)
    nodes = [node(f"n{index}", ONE, highest=claim) for index, claim in enumerate(claims)]
    assert emergency_revision("etcd", begun, nodes) == revision


@pytest.mark.parametrize(
    ("mount", "leaves", "then"),
    [
        (BOTH, (ONE, ONE), Kept.OLD),
        (BOTH, (TWO, ONE), Kept.OLD),
        (replace(BOTH, default=TWO.id), (TWO, TWO), Kept.NEW),
        (replace(BOTH, issuers=(TWO,), default=TWO.id), (TWO, TWO), None),
    ],
)
def test_a_lost_record_is_made_from_names_and_what_nodes_hold(
    mount: RotationMount, leaves: tuple[MountIssuer, ...], then: Kept | None
) -> None:
    nodes = [node(f"n{index}", *mount.issuers, leaf=leaf, revision=0, highest=9) for index, leaf in enumerate(leaves)]
    assert lost("prod", "etcd", mount)
    found = made(None, mount, nodes)
    assert (found.kept, found.highest) == (then, 2) and found.revision > 9
    assert found.state is (State.RETRUSTING if then else State.STEADY)
    assert {leaf.sha256 for leaf in leaves} <= found.trust


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
        with pytest.raises(StateConflict, match="vaultpki apply"):
            first_record(cluster, "etcd", Method.NEW_KEY, 60, None, mount, [], LATER)
