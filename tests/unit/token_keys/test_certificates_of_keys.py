"""What the rotation of the CA `service-account` waits for: certificates of the next CA in every union in use."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from datetime import timedelta

import pytest

from helpers.ca_certificates import ca
from helpers.node.imagined_planes import ISSUING, NAME, ImaginedCluster, ImaginedPlane
from helpers.token_key_certificates import certified
from vaultpki.pki.facts import Facts
from vaultpki.procedure.gate import Gate
from vaultpki.records.node_report import BundleReport, Seen
from vaultpki.records.rotation import CaRef, RotationRecord, State
from vaultpki.records.service_account import DepartedKey, Departure
from vaultpki.token_keys.certificates import with_unions
from vaultpki.token_keys.holders import KeyHolder

NEXT = ca("prod service-account CA 2", key="the next one", signer="prod root CA", serial=3)
DOMAIN = "service-account"


@pytest.fixture
def cluster() -> ImaginedCluster:
    """Two nodes that run with the keys of both."""
    made = ImaginedCluster({})
    for name in ("cp-1", "cp-2"):
        plane = made.planes[name] = ImaginedPlane(name)
        for _ in range(12):
            _passes(made)
            if plane.may and not plane.running:
                plane.start(made.now)
            made.operate()
    _passes(made)
    return made


def _passes(cluster: ImaginedCluster) -> None:
    for plane in cluster.planes.values():
        plane.passed(cluster.record, cluster.now, reports=True)
    cluster.later(70)


def rotation(cluster: ImaginedCluster, state: State) -> RotationRecord:
    old, new = (CaRef(f"{DOMAIN}-{number}", sha256=each.fingerprint) for number, each in ((1, ISSUING), (2, NEXT)))
    return RotationRecord(DOMAIN, state, 5, cluster.now, old, new, highest=2)


def holders(cluster: ImaginedCluster, *trusted: Facts, revision: int = 5) -> Mapping[str, KeyHolder]:
    """The nodes as they report, with the CAs by which they check keys."""
    known = BundleReport(frozenset(each.fingerprint for each in trusted), cluster.now)
    found = {}
    for name, each in cluster.scene.holders.items():
        assert each.report is not None
        report = replace(each.report, seen={DOMAIN: Seen(revision, revision)}, bundles={DOMAIN: known})
        found[name] = replace(each, report=report)
    return found


def gate(cluster: ImaginedCluster, record: RotationRecord, to: State, signer: Facts | None, **how: object) -> Gate:
    nodes = holders(cluster, ISSUING, NEXT, **how)  # type: ignore[arg-type]
    return with_unions(record, to, Gate(opens=cluster.now), signer, cluster.record, nodes)


def test_a_certificate_of_the_old_ca_keeps_it_switched(cluster: ImaginedCluster) -> None:
    record = rotation(cluster, State.SWITCHED)
    found = gate(cluster, record, State.RETIRED, NEXT)
    assert [each.node for each in found.waiting] == ["cp-1", "cp-2"] and found.opens is None
    assert all("key 2 of the CA service-account" in each.reason for each in found.waiting)
    left_out = gate(cluster, replace(record, excused=("cp-2",)), State.RETIRED, NEXT)
    assert [each.node for each in left_out.waiting] == ["cp-1"]
    # The CA whose certificates they are: nothing is waited for, as after a renewal with the same key.
    assert gate(cluster, record, State.RETIRED, ISSUING).open(cluster.now)
    assert gate(cluster, record, State.RETIRED, None).waiting


def test_a_node_that_has_not_read_the_record_is_waited_for(cluster: ImaginedCluster) -> None:
    found = gate(cluster, rotation(cluster, State.SWITCHED), State.RETIRED, ISSUING, revision=4)
    assert [each.node for each in found.waiting] == ["cp-1", "cp-2"]
    # The way back before anything was signed waits for nobody.
    assert gate(cluster, rotation(cluster, State.PUBLISHED), State.STEADY, ISSUING, revision=4).open(cluster.now)


def test_a_union_that_is_not_in_memory_is_waited_for(cluster: ImaginedCluster) -> None:
    assert cluster.record is not None
    entry = cluster.record.nodes["cp-2"]
    cluster.record = cluster.record.changed(nodes={"cp-1": cluster.record.nodes["cp-1"], "cp-2": entry})
    found = gate(cluster, rotation(cluster, State.SWITCHED), State.RETIRED, ISSUING)
    assert [each.node for each in found.waiting] == ["cp-1", "cp-2"]
    assert all("sa.pub" in each.reason for each in found.waiting)


def test_a_key_that_was_certified_twice_in_one_second_counts_by_what_the_node_has(cluster: ImaginedCluster) -> None:
    """As where a rotation turns back as soon as it had gone on."""
    assert cluster.record is not None
    plane = cluster.planes["cp-2"]
    known = plane.held.own[1]
    again = certified("sa:cp-2:1", plane.private[1], signer=NAME)
    assert again != known and again.not_before == known.not_before
    plane.held = replace(plane.held, own={1: again})
    _passes(cluster)
    cluster.operate()
    assert cluster.record.nodes["cp-2"].certificates[1] == again.pem


def test_a_key_of_a_node_that_is_gone_is_named_with_its_end(cluster: ImaginedCluster) -> None:
    assert cluster.record is not None
    until = cluster.now + timedelta(days=3)
    pem = cluster.record.nodes["cp-2"].certificates[1]
    gone = DepartedKey("cp-9", "0" * 64, Departure.REMOVED, cluster.now, pem, until)
    cluster.record = replace(cluster.record, departed=(gone,))
    record = rotation(cluster, State.SWITCHED)
    (waiting,) = [each for each in gate(cluster, record, State.RETIRED, NEXT).waiting if each.node == "cp-9"]
    assert "--without cp-9" in waiting.reason and f"{until:%Y-%m-%d}" in waiting.reason
    left_out = gate(cluster, replace(record, excused=("cp-9",)), State.RETIRED, NEXT)
    assert "cp-9" not in [each.node for each in left_out.waiting]
