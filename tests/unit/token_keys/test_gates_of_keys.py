"""What a gate of service-account keys says: the life of tokens, Secrets that never expire, and who is waited for."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta

import pytest

from helpers.node.imagined_planes import ImaginedCluster, ImaginedPlane
from vaultpki.certificates import SKEW
from vaultpki.errors import ArgumentError, StateConflict
from vaultpki.kube.token_flags import YEAR, LegacyToken, TokenFlags, TokensInUse
from vaultpki.records.node_report import Seen
from vaultpki.records.service_account import KeyState
from vaultpki.rotation.gates import Gate
from vaultpki.token_keys.course import KeyScene
from vaultpki.token_keys.gates import LEGACY, LIFE
from vaultpki.token_keys.life import TokenLife, longest_life
from vaultpki.token_keys.steps import KeysSaid, next_record, transition_gate
from vaultpki.token_keys.turns import still_accepted_by


@pytest.fixture
def switched() -> ImaginedCluster:
    """Two nodes that sign with their next keys, and have said so."""
    cluster = ImaginedCluster({})
    for name in ("cp-1", "cp-2"):
        plane = cluster.planes[name] = ImaginedPlane(name)
        for _ in range(9):
            passes(cluster)
            if plane.may and not plane.running:
                plane.start(cluster.now)
            cluster.operate()
    cluster.rotate()
    for _ in range(20):
        passes(cluster)
        cluster.operate()
        if cluster.record is not None and cluster.record.waits_for_tokens and not cluster.record.turn:
            passes(cluster)
            return cluster
    raise AssertionError(cluster.record)


def passes(cluster: ImaginedCluster) -> None:
    for plane in cluster.planes.values():
        plane.passed(cluster.record, cluster.now, reports=True)
    cluster.later(70)


def scene(cluster: ImaginedCluster, life: TokenLife) -> KeyScene:
    found = cluster.scene
    return KeyScene(found.holders, found.issuing, found.roots, found.now, life)


def gate(cluster: ImaginedCluster, life: int | None = 3600, **said: object) -> Gate:
    assert cluster.record is not None
    words = KeysSaid(**({"tokens": TokensInUse({}, ())} | said))  # type: ignore[arg-type]
    return transition_gate(cluster.record, KeyState.RETIRED, scene(cluster, TokenLife(life)), words)


def test_it_opens_after_the_longest_life_since_the_last_start(switched: ImaginedCluster) -> None:
    record = switched.record
    assert record is not None and record.state is KeyState.SWITCHED and record.signing_since is not None
    assert record.signing_since == max(plane.started for plane in switched.planes.values() if plane.started)
    found = gate(switched)
    assert not found.waiting and found.opens == record.signing_since + timedelta(seconds=3600 + SKEW)
    year = gate(switched, YEAR)
    assert year.opens == record.signing_since + timedelta(days=365, seconds=SKEW)
    # Flags that allow less at a later look do not shorten the life of tokens that exist.
    assert record.life == 3600 and gate(switched, 60).opens == found.opens


def test_after_a_persons_word_the_life_begins_when_it_is_given(switched: ImaginedCluster) -> None:
    """Whoever restarts API servers that no agent sees may do it days after the switch, and does not say when."""
    assert switched.record is not None
    switched.write(switched.record.changed(signing_since=None))
    passes(switched)
    switched.later(5 * 86400)
    # Nobody has used tokens meanwhile: only the rule is asked.
    every = KeysSaid(restarted=("cp-1", "cp-2"), tokens=TokensInUse({}, ()))
    found = next_record(switched.record, switched.scene, every)
    assert not found.moved and found.record is not None and found.record.signing_since == switched.now
    said = switched.now
    switched.write(found.record)
    passes(switched)
    assert gate(switched).opens == said + timedelta(seconds=3600 + SKEW)


def test_what_one_says_that_has_read_a_newer_record_does_not_count(switched: ImaginedCluster) -> None:
    """The server was set back: a certificate that left the unions may be in use there still."""
    record, holders = switched.record, switched.scene.holders
    assert record is not None and still_accepted_by(record, holders, "0" * 64) == ()
    report = holders["cp-1"].report
    assert report is not None and report.token_keys is not None
    keys = replace(report.token_keys, seen=Seen(record.revision, record.revision + 1))
    ahead = replace(holders["cp-1"], report=replace(report, token_keys=keys))
    assert still_accepted_by(record, {**holders, "cp-1": ahead}, "0" * 64) == ("cp-1",)


def test_no_node_can_be_left_out(switched: ImaginedCluster) -> None:
    with pytest.raises(ArgumentError, match="cp-2 cannot be left out"):
        next_record(switched.record, switched.scene, KeysSaid(without=("cp-2", LEGACY)))


def test_a_life_that_nobody_knows_is_asked_for(switched: ImaginedCluster) -> None:
    record = switched.record
    assert record is not None
    switched.record = record.changed(life=0)
    for plane in switched.planes.values():
        plane.passed(switched.record, switched.now, reports=True)
    (waiting,) = gate(switched, None).waiting
    assert waiting.node == LIFE and "--kubeconfig" in waiting.reason and "--token-life" in waiting.reason


def test_a_stated_life_counts_whatever_flags_say(switched: ImaginedCluster) -> None:
    assert switched.record is not None
    year = scene(switched, longest_life(("cp-1",), {"cp-1": TokenFlags()}))
    found = next_record(switched.record, year, KeysSaid(token_life=600, tokens=TokensInUse({}, ())))
    assert found.record is not None and not found.moved
    assert (found.record.life, found.record.stated) == (600, True)
    switched.write(found.record)
    passes(switched)
    switched.later(1200)
    assert gate(switched, YEAR).open(switched.now)


def test_secrets_that_never_expire_are_named_before_anything_is_lost(switched: ImaginedCluster) -> None:
    record = switched.record
    assert record is not None and record.signing_since is not None
    (waiting,) = gate(switched, tokens=None).waiting
    assert waiting.node == LEGACY and f"--without {LEGACY}" in waiting.reason
    before, after = (record.signing_since + timedelta(seconds=each) for each in (-60, 60))
    secrets = (LegacyToken("ci/robot", before), LegacyToken("ci/new", after), LegacyToken("ops/old", None))
    (waiting,) = gate(switched, tokens=TokensInUse({}, secrets)).waiting
    assert "2 Secrets" in waiting.reason and "ci/robot" in waiting.reason and "ops/old" in waiting.reason
    assert "ci/new" not in waiting.reason
    assert not gate(switched, tokens=TokensInUse({}, secrets), without=(LEGACY,)).waiting
    assert not gate(switched, tokens=None, without=(LEGACY,)).waiting


def test_who_is_waited_for_and_why(switched: ImaginedCluster) -> None:
    two = switched.planes["cp-2"]
    two.locked = True
    (waiting,) = gate(switched).waiting
    assert waiting.node == "cp-2" and "is locked" in waiting.reason and "vaultpki enroll cp-2" in waiting.reason
    two.locked = False
    assert switched.record is not None
    switched.write(switched.record.changed())
    reasons = {each.node: each.reason for each in gate(switched).waiting}
    assert set(reasons) == {"cp-1", "cp-2"} and all("has not read the latest step" in each for each in reasons.values())
    # One that joins, and one whose process has the key of before.
    passes(switched)
    switched.planes["cp-3"] = ImaginedPlane("cp-3")
    passes(switched)
    assert (
        "joins, and its key is in no union yet" in {each.node: each.reason for each in gate(switched).waiting}["cp-3"]
    )
    del switched.planes["cp-3"]
    two.signs = two.held.own[1]
    passes(switched)
    (waiting,) = gate(switched).waiting
    assert waiting.node == "cp-2" and "does not sign with the key of this state yet" in waiting.reason
    assert "--restarted cp-2" in waiting.reason
    # It has to be counted anew from its next start.
    switched.operate()
    assert switched.record.signing_since is None


def test_a_persons_word_counts_only_after_the_files_were_reported(switched: ImaginedCluster) -> None:
    assert switched.record is not None
    with pytest.raises(StateConflict, match="cp-9 has no service-account keys"):
        next_record(switched.record, switched.scene, KeysSaid(restarted=("cp-9",)))
    with pytest.raises(ArgumentError, match="cp-9 has no service-account keys"):
        next_record(switched.record, switched.scene, KeysSaid(replaced=("cp-9",)))
    switched.write(switched.record.changed())
    with pytest.raises(StateConflict, match="has not reported the files of this step yet"):
        next_record(switched.record, switched.scene, KeysSaid(restarted=("cp-1",)))
    passes(switched)
    found = next_record(switched.record, switched.scene, KeysSaid(restarted=("cp-1",)))
    assert found.record is not None and found.record.restarted == ("cp-1",)


def test_another_key_of_a_node_is_taken_in_only_on_a_persons_word(switched: ImaginedCluster) -> None:
    two = switched.planes["cp-2"]
    lost = two.signs
    # Its disk was lost, and it joins with the same numbers.
    switched.planes["cp-2"] = again = ImaginedPlane("cp-2")
    again.passed(switched.record, switched.now, reports=True)
    found = next_record(switched.record, switched.scene)
    assert "cp-2 reports another key" in found.notes[0] and "--replaced cp-2" in found.notes[0]
    assert found.record is not None and switched.record is not None
    assert found.record.nodes["cp-2"].certificates == switched.record.nodes["cp-2"].certificates
    found = next_record(switched.record, switched.scene, KeysSaid(replaced=("cp-2",)))
    assert found.record is not None
    entry = found.record.nodes["cp-2"]
    assert not entry.admitted and entry.old == entry.new
    assert lost is not None and lost.pem in found.record.offered
    assert {each.why.value for each in found.record.departed} == {"replaced"}
