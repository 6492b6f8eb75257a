"""What a machine does where the record of its adoption is missing, older than one before, or too far ahead."""

from __future__ import annotations

import itertools
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import pytest

from helpers.kube.taken_over_machine import TakenOverMachine
from vaultpki.errors import StateConflict
from vaultpki.node import state
from vaultpki.records.adoption import NAME
from vaultpki.records.adoption import AdoptionState as S
from vaultpki.records.adoption_report import Held
from vaultpki.rotation.adoption_states import FREE_STEPS, HOMEWARD, ONWARD
from vaultpki.takeover import carry_out, report
from vaultpki.takeover.arrangement import HOME, FolderKind, arrangement
from vaultpki.takeover.asked import AskedOfMachine, asked, follows
from vaultpki.takeover.journal import Journal

REVISION = 7  # of each record of TakenOverMachine
LATER = (S.PUBLISHED, S.SWITCHED, S.CLOSED, S.RETIRED, S.RETRUSTING, S.RETURNING)
World = tuple[S, tuple[S | None, S | None]]
WAY = (S.PREPARED, S.PUBLISHED, S.SWITCHED, S.CLOSED, S.RETIRED, S.DONE)


@pytest.fixture
def machine(tmp_path: Path) -> TakenOverMachine:
    return TakenOverMachine(tmp_path)


def has_read(machine: TakenOverMachine, revision: int) -> None:
    known = state.load(str(machine.state))
    state.save(str(machine.state), replace(known, revisions={NAME: revision}, root="pin"))


def asked_of(machine: TakenOverMachine, shown: S | None, *, ahead: int = 0) -> AskedOfMachine:
    wanted = machine.assignment(machine.record(shown) if shown is not None else None, ahead=ahead)
    return carry_out.asked_of(machine.config, wanted)


def stand_in(machine: TakenOverMachine, state: S) -> None:
    for each in WAY[: WAY.index(state) + 1]:
        machine.go(each)


def test_without_a_record_a_machine_that_never_began_changes_nothing(machine: TakenOverMachine) -> None:
    assert asked_of(machine, None) == AskedOfMachine(None)


def test_without_a_record_it_goes_home_from_prepared_alone(machine: TakenOverMachine) -> None:
    before = machine.snapshot()
    machine.go(S.PREPARED)
    assert asked_of(machine, None) == AskedOfMachine(HOME)
    for each in (S.PUBLISHED, S.SWITCHED, S.RETURNING):
        machine.go(each)
        found = asked_of(machine, None)
        assert found.target is None and f"this machine is {each.value}" in found.stays, each
    machine.go(S.PREPARED)
    machine.go(None)
    assert machine.snapshot() == before and asked_of(machine, None) == AskedOfMachine(None)


def test_without_a_record_it_stays_and_says_what_to_do(machine: TakenOverMachine) -> None:
    nothing = machine.assignment(None)
    for stands, kind in itertools.product(LATER, FolderKind):
        for known in (Journal(reached=stands), Journal(reached=S.PREPARED, asked=stands)):
            found = asked(nothing, known, REVISION, kind)
            assert found.target is None
            assert found.stays.startswith("Vault has no record of the adoption any more, and this machine is ")
            assert "Restore a later snapshot or the record" in found.stays and "adopt node --leave" in found.stays


def test_the_record_that_it_read_last_counts(machine: TakenOverMachine) -> None:
    nothing = machine.assignment(None)
    # Not home at once: what CSRs are signed with is a copy until the bundles hold one CA again.
    found = asked(nothing, Journal(S.RETURNING, asked=S.PREPARED), 9, FolderKind.BOTH)
    assert found == AskedOfMachine(arrangement(S.PREPARED))
    assert asked(nothing, Journal(S.PREPARED, asked=S.PREPARED), 9, FolderKind.KUBEADM) == AskedOfMachine(HOME)
    assert asked(nothing, Journal(S.PREPARED, asked=S.PUBLISHED), 9, FolderKind.KUBEADM).target is None
    # It has ended there, and nothing is left to do.
    assert asked(nothing, Journal(S.DONE, asked=S.DONE), 9, FolderKind.AGENT) == AskedOfMachine(None)


def test_an_interrupted_step_is_remembered(machine: TakenOverMachine) -> None:
    machine.go(S.PREPARED)
    machine.agent_pass(S.PUBLISHED)
    carry_out.carry_out(machine.run(S.PUBLISHED), most=1)
    assert (machine.run(None).journal.value.reached, machine.run(None).journal.value.asked) == (S.PREPARED, S.PUBLISHED)
    assert asked_of(machine, None).stays


def test_a_person_may_lead_it_home_without_a_record(machine: TakenOverMachine) -> None:
    before = machine.snapshot()
    stand_in(machine, S.SWITCHED)
    carry_out.refuse_leaving(machine.config, machine.assignment(None))
    way = carry_out.way_home(machine.config)
    assert [each.name for each in way] == ["returning", "prepared", "kubeadm"]
    for target in way:
        made = carry_out.prepare(machine.config, machine.assignment(None), target, machine.processes)
        carry_out.carry_out(replace(made, timeout=3.0))
        assert not [each for each in ("kube-controller-manager", "etcd") if machine.processes.problem(each)]
    assert machine.snapshot() == before


def test_nobody_leaves_by_a_record_that_is_not_followed(machine: TakenOverMachine) -> None:
    stand_in(machine, S.SWITCHED)
    with pytest.raises(StateConflict, match="a machine leaves it only in prepared"):
        carry_out.refuse_leaving(machine.config, machine.assignment(machine.record(S.SWITCHED)))
    has_read(machine, REVISION + 1)
    # The record says prepared, and is not what others have gone by.
    with pytest.raises(StateConflict, match=r"has read revision 8 .* and Vault has revision 7 \(prepared\)"):
        carry_out.refuse_leaving(machine.config, machine.assignment(machine.record(S.PREPARED)))


def test_an_older_record_only_adds_trust(machine: TakenOverMachine) -> None:
    for stands, shown in itertools.product([None, *S], S):
        now = arrangement(stands) if stands is not None else HOME
        older = machine.assignment(machine.record(shown))
        found = asked(older, Journal(reached=stands), REVISION + 1, now.folder)
        assert f"has read revision 8 of the adoption's record, and Vault has revision 7 ({shown.value})" in found.stays
        if found.target is not None:
            assert found.target.leaves is now.leaves and found.target.ours == now.ours
            assert found.target.trust is Held.BOTH and now.trust is not Held.BOTH
            assert found.target.signer == now.signer and not found.target.verify
        wanted = arrangement(shown).trust
        assert (found.target is None) == (now.trust in (wanted, Held.BOTH) or stands is S.DONE)


def test_the_same_record_and_a_later_one_are_followed(machine: TakenOverMachine) -> None:
    stand_in(machine, S.PUBLISHED)
    for read in (0, REVISION - 1, REVISION):
        has_read(machine, read)
        assert asked_of(machine, S.SWITCHED) == AskedOfMachine(arrangement(S.SWITCHED))


def test_a_machine_that_was_retired_trusts_the_old_cas_again(machine: TakenOverMachine) -> None:
    stand_in(machine, S.RETIRED)
    has_read(machine, REVISION + 4)
    found = asked_of(machine, S.PUBLISHED)
    assert found.target is not None and found.target.state is S.RETRUSTING
    # The agent's bundles hold both: an older record takes no CA away.
    machine.go(S.RETRUSTING)
    for component in ("kube-apiserver", "kubelet"):
        assert machine.processes.trust(component) == {"old", "new"}
    assert machine.processes.shows("kube-apiserver") == "new"
    found = asked_of(machine, S.PUBLISHED)
    assert found.target is None and found.stays


def test_trust_that_is_half_added_is_added(machine: TakenOverMachine) -> None:
    older = machine.assignment(machine.record(S.SWITCHED))
    found = asked(older, Journal(S.PREPARED, asked=S.PUBLISHED), 9, FolderKind.BOTH)
    assert found.target == arrangement(S.PUBLISHED)
    assert asked(older, Journal(S.PUBLISHED, asked=S.PUBLISHED), 9, FolderKind.BOTH).target is None
    # Certificates that are half exchanged stay: everybody who counted trusted both.
    for kind in FolderKind:
        assert asked(older, Journal(S.PUBLISHED, asked=S.SWITCHED), 9, kind).target is None
        assert asked(older, Journal(S.SWITCHED, asked=S.RETURNING), 9, kind).target is None
    found = asked(older, Journal(S.CLOSED, asked=S.RETIRED), 9, FolderKind.AGENT)
    assert found.target == arrangement(S.RETRUSTING)


def test_a_record_too_far_ahead_is_not_followed(machine: TakenOverMachine) -> None:
    stand_in(machine, S.PUBLISHED)
    has_read(machine, REVISION)
    found = asked_of(machine, None, ahead=5000)
    assert found.target is None and "does not follow revision 5000" in found.stays
    with pytest.raises(StateConflict, match="does not follow revision 5000"):
        carry_out.refuse_leaving(machine.config, machine.assignment(None, ahead=5000))


def test_the_report_says_it(machine: TakenOverMachine) -> None:
    stand_in(machine, S.PUBLISHED)

    def made(shown: S | None, highest: int) -> tuple[int, int, tuple[str, ...]]:
        wanted = machine.assignment(machine.record(shown) if shown is not None else None)
        when = lambda clock: datetime.fromtimestamp(clock, UTC)  # noqa: E731
        found = report.build(machine.config, wanted, highest, machine.processes, when, 1_800_000_000.0)
        assert found is not None and found.reached is S.PUBLISHED
        return found.revision, found.highest, found.owed

    assert made(S.PUBLISHED, REVISION) == (7, 7, ())
    revision, highest, owed = made(S.PREPARED, 9)
    assert (revision, highest, len(owed)) == (7, 9, 1) and owed[0].startswith("this machine has read revision 9")
    revision, highest, owed = made(None, 9)
    assert (revision, highest, len(owed)) == (0, 9, 1) and owed[0].startswith("Vault has no record")


@pytest.mark.parametrize("stands", [None, *(each for each in S if each not in (S.RETIRED, S.DONE))])
def test_a_record_that_jumps_to_the_end_deletes_nothing(machine: TakenOverMachine, stands: S | None) -> None:
    """Whoever may write the record could else take the way back from everybody in one write."""
    wanted = machine.assignment(machine.record(S.DONE))
    kind = FolderKind.KUBEADM if stands is None else FolderKind.BOTH
    found = asked(wanted, Journal(stands, asked=S.DONE), REVISION, kind)
    assert found.target is None and "nothing is deleted here" in found.stays
    for reached in (S.RETIRED, S.DONE):
        assert asked(wanted, Journal(reached, asked=S.DONE), REVISION, FolderKind.AGENT).target == arrangement(S.DONE)


@pytest.mark.parametrize(
    ("reached", "refused"),
    [
        (S.PREPARED, {S.SWITCHED, S.CLOSED, S.RETIRED, S.DONE, S.RETRUSTING}),
        (S.PUBLISHED, {S.RETIRED, S.DONE, S.RETRUSTING}),
        (S.SWITCHED, {S.PREPARED, S.PUBLISHED, S.RETIRED, S.DONE}),
        (S.CLOSED, {S.PREPARED, S.PUBLISHED, S.DONE}),
        (S.RETIRED, {S.PREPARED, S.PUBLISHED, S.RETURNING}),
        (S.RETRUSTING, {S.PREPARED, S.PUBLISHED, S.RETIRED, S.DONE}),
        (S.RETURNING, {S.RETIRED, S.DONE, S.RETRUSTING}),
        (S.DONE, set(S) - {S.DONE}),
    ],
)
def test_no_record_leads_past_a_state_that_everybody_does(
    machine: TakenOverMachine, reached: S, refused: set[S]
) -> None:
    for to in S:
        wanted = machine.assignment(machine.record(to))
        found = asked(wanted, Journal(reached, asked=reached), REVISION, arrangement(reached).folder)
        assert (found.target is None) is (to in refused), to
        if to in refused:
            assert f"says {to.value}, and this machine has done the steps of {reached.value} last" in found.stays
            assert "Find out who wrote the record" in found.stays
        else:
            assert found == AskedOfMachine(arrangement(to))


def test_one_that_joined_while_all_trusted_both_begins_where_the_others_are(machine: TakenOverMachine) -> None:
    machine.agent_pass(S.SWITCHED)
    found = asked_of(machine, S.SWITCHED)
    assert found.target is None and "says switched, and this machine is as kubeadm left it" in found.stays
    for to in (S.PREPARED, S.PUBLISHED, S.RETURNING):
        assert asked_of(machine, to) == AskedOfMachine(arrangement(to))
    machine.join_by_both()
    for to in S:
        followed = asked_of(machine, to).target is not None
        assert followed is (to not in (S.RETIRED, S.DONE, S.RETRUSTING)), to


def test_no_machine_that_was_away_is_left_behind() -> None:
    """Every way of an adoption with two machines that count, of which each reads the record and does its steps at will.

    A step that is not free waits for both, so what a machine finds when it comes back is always what it follows.
    """
    found, new = set[World](), list[World]([(S.PREPARED, (None, None))])
    while new:
        now, done = new.pop()
        if (now, done) in found:
            continue
        found.add((now, done))
        assert all(follows(now, each, trusts_both=False) for each in done), (now, done)
        onward = [table[now] for table in (ONWARD, HOMEWARD) if now in table]
        new += [(to, done) for to in onward if (now, to) in FREE_STEPS or set(done) == {now}]
        new += [(now, (now, done[1])), (now, (done[0], now))]
    assert {now for now, _ in found} == set(S)


def test_a_record_about_other_old_cas_than_those_of_agent_yaml_changes_nothing(machine: TakenOverMachine) -> None:
    machine.agent_pass(S.PUBLISHED)
    before = machine.snapshot()
    record = machine.record(S.PUBLISHED)
    other = replace(record, old={**record.old, "kubernetes": ("ab" * 32,)})
    with pytest.raises(StateConflict, match=r"names the old CA abab.* also_trust\. Find out who"):
        carry_out.prepare(machine.config, machine.assignment(other), arrangement(S.PUBLISHED), machine.processes)
    assert machine.snapshot() == before
    for ca in ("etcd", "front-proxy"):
        less = replace(record, old={name: prints for name, prints in record.old.items() if name != ca})
        with pytest.raises(StateConflict, match=f"names no old CA of {ca}, and also_trust of .*; find out who"):
            carry_out.prepare(machine.config, machine.assignment(less), arrangement(S.PUBLISHED), machine.processes)
        # Its owner has none there: etcd keeps its own CA.
        trusts = {name: prints for name, prints in machine.config.also_trust.items() if name != ca}
        own = replace(machine.config, also_trust=trusts)
        carry_out.prepare(own, machine.assignment(less), arrangement(S.PUBLISHED), machine.processes)
    # At the end people take them out of agent.yaml.
    ended = replace(machine.config, also_trust={"etcd": ("cd" * 32,)})
    carry_out.prepare(ended, machine.assignment(machine.record(S.DONE)), arrangement(S.DONE), machine.processes)
