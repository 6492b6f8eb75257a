"""What a gate of service-account keys says: the life of tokens, Secrets that never expire, and who is waited for."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta

import pytest

from helpers.node.imagined_planes import ImaginedCluster, ImaginedPlane, steady
from vaultpki.certificates import SKEW
from vaultpki.errors import ArgumentError, StateConflict
from vaultpki.kube.token_flags import YEAR, LegacyToken, TokenFlags, TokensInUse
from vaultpki.procedure.gate import Gate
from vaultpki.records.node_report import Seen
from vaultpki.records.service_account import KeyState
from vaultpki.token_keys.course import KeyScene
from vaultpki.token_keys.gates import LEGACY, LIFE, KeyTransition, key_gate, last_start
from vaultpki.token_keys.issuer import PublishedKeys, outside
from vaultpki.token_keys.life import TokenLife, longest_life
from vaultpki.token_keys.steps import KeysSaid, next_record, transition_gate
from vaultpki.token_keys.turns import next_turn, still_accepted_by
from vaultpki.token_keys.words import check_refused


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
    for plane in switched.planes.values():
        plane.unseen = True
    passes(switched)
    switched.later(5 * 86400)
    # Nobody has used tokens meanwhile: only the rule is asked.
    every = KeysSaid(restarted=("cp-1/kube-apiserver", "cp-2/kube-apiserver"), tokens=TokensInUse({}, ()))
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
    assert waiting.reason.endswith("Once its agent has seen it healthy, run `vaultpki ca continue`")
    # It has to be counted anew from its next start.
    switched.operate()
    assert switched.record.signing_since is None


def test_a_key_that_a_node_takes_for_retired_is_replaced_only_where_a_step_needs_it(switched: ImaginedCluster) -> None:
    """The step asks what API servers sign with: nobody is told to give up a key of another node for that."""
    record, holders = switched.record, switched.scene.holders
    report = holders["cp-2"].report
    assert record is not None and report is not None and report.token_keys is not None
    lacks = replace(report, token_keys=replace(report.token_keys, union=frozenset()))
    found = {**holders, "cp-2": replace(holders["cp-2"], report=lacks)}
    reasons = {
        to: {each.node: each.reason for each in key_gate(KeyTransition(state, to, found, switched.now)).waiting}["cp-2"]
        for state, to in (
            (record, KeyState.RETIRED),
            (replace(record, state=KeyState.RETRUSTING), KeyState.SWITCHED),
        )
    }
    assert reasons[KeyState.RETIRED].startswith("its sa.key is not the key of this state yet. ")
    assert "--replaced cp-1" in reasons[KeyState.SWITCHED]


def test_a_persons_word_counts_only_after_the_files_were_reported(switched: ImaginedCluster) -> None:
    assert switched.record is not None
    with pytest.raises(StateConflict, match="cp-9 has no service-account keys"):
        next_record(switched.record, switched.scene, KeysSaid(restarted=("cp-9/kube-apiserver",)))
    with pytest.raises(ArgumentError, match="cp-9 has no service-account keys"):
        next_record(switched.record, switched.scene, KeysSaid(replaced=("cp-9",)))
    switched.write(switched.record.changed())
    with pytest.raises(StateConflict, match="has not reported the files of this step yet"):
        next_record(switched.record, switched.scene, KeysSaid(restarted=("cp-1/kube-apiserver",)))
    passes(switched)
    with pytest.raises(StateConflict, match="has seen kube-apiserver restarted and healthy; leave out"):
        next_record(switched.record, switched.scene, KeysSaid(restarted=("cp-1/kube-apiserver",)))
    switched.planes["cp-1"].unseen = True
    passes(switched)
    with pytest.raises(StateConflict, match="write `--restarted cp-1/kube-apiserver`"):
        next_record(switched.record, switched.scene, KeysSaid(restarted=("cp-1",)))
    found = next_record(switched.record, switched.scene, KeysSaid(restarted=("cp-1/kube-apiserver",)))
    assert found.record is not None and found.record.restarted == ("cp-1",)
    # It was about these keys: a node that joins later has others in every union.
    switched.write(found.record)
    switched.planes["cp-3"] = ImaginedPlane("cp-3")
    passes(switched)
    assert switched.record is not None and [*switched.record.restarted] == ["cp-1"]
    switched.operate()
    assert "cp-3" in switched.record.nodes and [*switched.record.restarted] == []


def test_a_word_does_not_count_against_a_process_that_the_agent_sees(switched: ImaginedCluster) -> None:
    one = switched.planes["cp-1"]
    one.signs = one.held.own[1]
    passes(switched)
    with pytest.raises(StateConflict, match=r"sees that kube-apiserver runs since \S+, without the files of \S+"):
        next_record(switched.record, switched.scene, KeysSaid(restarted=("cp-1/kube-apiserver",)))


def test_an_api_server_that_is_stopped_holds_no_keys_and_one_that_nobody_sees_waits_for_a_word() -> None:
    cluster = steady("cp-1", "cp-2", "cp-3")
    two, three = cluster.planes["cp-2"], cluster.planes["cp-3"]
    two.running, two.stopped, three.unseen = False, cluster.now - timedelta(days=1), True
    cluster.rotate()
    for _ in range(9):
        passes(cluster)
        cluster.operate()
    record = cluster.record
    assert record is not None and record.state is KeyState.PUBLISHED
    found = transition_gate(record, KeyState.SWITCHED, cluster.scene)
    # The one that nobody sees has the turn, and the one that runs is next.
    assert [each.node for each in found.waiting] == ["cp-1", "cp-3"]
    assert found.waiting[1].reason.endswith("and run `vaultpki ca continue --restarted cp-3/kube-apiserver`")
    said = next_record(record, cluster.scene, KeysSaid(restarted=("cp-3/kube-apiserver",))).record
    assert said is not None
    cluster.write(said)
    for _ in range(4):
        passes(cluster)
        cluster.operate()
    # In the next state the word is forgotten.
    assert cluster.record is not None and cluster.record.state is KeyState.SWITCHED and not cluster.record.restarted


def test_one_that_was_stopped_in_its_turn_keeps_it(switched: ImaginedCluster) -> None:
    """It may have ended by what it read; the next one would too."""
    assert switched.record is not None
    one, two = switched.planes["cp-1"], switched.planes["cp-2"]
    switched.write(switched.record.changed(turn="cp-1"))
    one.running, one.stopped = False, switched.now
    two.signs = two.held.own[1]
    passes(switched)
    assert next_turn(switched.record, switched.scene.holders) == "cp-1"
    reasons = {each.node: each.reason for each in gate(switched).waiting}
    assert "It is stopped since" in reasons["cp-1"] and "--restarted cp-1/kube-apiserver`" in reasons["cp-1"]
    assert reasons["cp-2"].endswith("It restarts after cp-1, whose turn it is")
    said = next_record(switched.record, switched.scene, KeysSaid(restarted=("cp-1/kube-apiserver",))).record
    assert said is not None and said.turn == "cp-2"


def test_a_node_keeps_its_turn_over_steps_that_wait_for_nobody() -> None:
    """It may be about to restart, or be away: whoever got the turn then would restart at the same time."""
    cluster = steady("cp-1", "cp-2")
    cluster.rotate()
    for _ in range(3):
        if cluster.record is not None and not cluster.record.turn:
            passes(cluster)
            cluster.operate()
    assert cluster.record is not None and (cluster.record.state, cluster.record.turn) == (KeyState.PUBLISHED, "cp-1")
    one, two = cluster.planes["cp-1"], cluster.planes["cp-2"]
    # Its restart begins, and the operator goes back and on again.
    one.running, one.stopped = False, cluster.now
    for back in (True, False):
        if back:
            assert cluster.operate(back=True)
        else:
            cluster.rotate()
        two.passed(cluster.record, cluster.now, reports=True)
        cluster.operate(back=back)
        assert cluster.record.turn == "cp-1" and not two.turn
    one.stopped = None
    one.start(cluster.now)
    turns = []
    for _ in range(4):
        passes(cluster)
        cluster.operate()
        turns.append(cluster.record.turn)
    assert "cp-2" in turns, turns


def test_tokens_of_one_that_was_stopped_live_from_when_it_was(switched: ImaginedCluster) -> None:
    assert switched.record is not None
    one = switched.planes["cp-1"]
    one.running, one.stopped = False, switched.now
    passes(switched)
    assert last_start(switched.record, switched.scene.holders) == one.stopped


OUTSIDE = "https://keys.example.com/.well-known/openid-configuration"


def test_a_key_set_outside_is_waited_for_and_a_word_for_it_is_compared_with_what_is_there() -> None:
    cluster = steady("cp-1", "cp-2")
    cluster.rotate()
    for _ in range(9):
        passes(cluster)
        cluster.operate()
    record = cluster.record
    # Without one it would have become switched.
    assert record is not None and record.state is KeyState.SWITCHED
    record = replace(record, state=KeyState.PUBLISHED)
    step = KeyTransition(record, KeyState.SWITCHED, cluster.scene.holders, cluster.now)

    def waits(*published: PublishedKeys) -> list[str]:
        found = key_gate(replace(step, published=published)).waiting
        return [each.reason for each in found if each.node == "jwks"]

    assert waits() == []
    lacks = PublishedKeys(OUTSIDE, ("cp-2",))
    (told,) = waits(lacks)
    assert f"checked by {OUTSIDE}, which lacks keys of cp-2 too" in told and "`vaultpki ca jwks -o jwks.json`" in told
    assert told.endswith("run `vaultpki ca continue --checked jwks`")
    assert "cannot be read" in waits(PublishedKeys(OUTSIDE, unseen="it cannot be read"))[0]
    whole = replace(step, published=(PublishedKeys(OUTSIDE),))
    assert check_refused(whole, "jwks") == "" and check_refused(replace(whole, published=()), "jwks")
    assert "which lacks keys of cp-2" in check_refused(replace(step, published=(lacks,)), "jwks")
    assert "do not wait for pods" in check_refused(whole, "pods")
    said = replace(step, record=replace(record, checked=("jwks",)), published=(PublishedKeys(OUTSIDE),))
    assert not [each for each in key_gate(said).waiting if each.node == "jwks"]
    assert record.moved(KeyState.SWITCHED, cluster.now).checked == ()
    # An operator's run of `ca continue` notes it only where it counts.
    found = replace(cluster.scene, published=(PublishedKeys(OUTSIDE),))
    noted = next_record(record, found, KeysSaid(checked=("jwks",)), holds=True).record
    assert noted is not None and noted.checked == ("jwks",)
    with pytest.raises(StateConflict, match="which lacks keys of cp-2"):
        next_record(record, replace(found, published=(lacks,)), KeysSaid(checked=("jwks",)))
    # Before every next key is in the record no key set can be whole.
    young = replace(record.nodes["cp-2"], certificates={1: record.nodes["cp-2"].certificates[1]})
    early = replace(whole, record=replace(record, nodes={**record.nodes, "cp-2": young}))
    assert "the next key of cp-2 is not in the record yet" in check_refused(early, "jwks")


@pytest.mark.parametrize(
    ("flags", "found"),
    [
        (TokenFlags(issuer="https://kubernetes.default.svc"), ()),
        (TokenFlags(issuer="kubernetes/serviceaccount"), ()),
        (TokenFlags(issuer="https://[keys.example.com"), ()),
        (TokenFlags(issuer="https://keys.example.com/"), (OUTSIDE,)),
        (TokenFlags(issuer="https://api", jwks_uri="https://b.example.com/k.json"), ("https://b.example.com/k.json",)),
        (TokenFlags(issuer="https://keys.example.com", jwks_uri="https://api/openid/v1/jwks"), (OUTSIDE,)),
    ],
)
def test_what_is_no_api_server_is_a_key_set_outside(flags: TokenFlags, found: tuple[str, ...]) -> None:
    assert outside([flags, flags], {"kubernetes.default.svc", "api"}) == found


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
