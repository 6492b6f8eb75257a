"""What a wait for service-account keys, and for an adoption, has of its own; `test_ca_wait` has the rest."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from types import SimpleNamespace
from typing import Any

import pytest

from vaultpki.adopt.drive import AdoptionOutcome, AdoptionWords
from vaultpki.cli import adopt_run, ca_keys
from vaultpki.cli.ca_keys import StepOptions
from vaultpki.errors import ChangedMeanwhile, Unavailable, VaultpkiError
from vaultpki.procedure.gate import Gate, Waiting
from vaultpki.provision.cluster_facts import KeyStepDone
from vaultpki.records.adoption import AdoptionState
from vaultpki.records.service_account import KeyState

NOW = datetime.now(UTC)
AWAY = Unavailable("https://v:8200 cannot be reached (refused)")
FASTER = ChangedMeanwhile("another operator was faster", status=409)
CLOSED = Gate((Waiting("cp-1", "has not read revision 4"),))


@pytest.fixture(autouse=True)
def pauses(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    made: list[float] = []
    monkeypatch.setattr("vaultpki.cli.wait.time.sleep", made.append)
    return made


def keys(state: KeyState | None, **changes: Any) -> KeyStepDone:
    active = state not in (KeyState.STEADY, KeyState.DONE)
    record: Any = SimpleNamespace(state=state, active=active) if state is not None else None
    return KeyStepDone(record, **{"gate": CLOSED} | changes)


PUBLISHED, DONE = keys(KeyState.PUBLISHED), keys(KeyState.DONE, gate=None, moved=True)


def next_of(events: Iterator[Any]) -> Any:
    event = next(events)
    if isinstance(event, BaseException):
        raise event
    return event


def keys_waited(
    monkeypatch: pytest.MonkeyPatch, events: list[Any], *, back: bool = False, quiet: bool = False
) -> tuple[KeyStepDone, list[Any]]:
    """Where keys stand at the end, and what was said of a person at each step."""
    left, said = iter(events), []

    def advance(cluster: object, vault: object, now: datetime, words: object, *, back: bool) -> Any:
        said.append(words)
        return next_of(left)

    monkeypatch.setattr("vaultpki.key_rotation.commands.advance", advance)
    vault: Any = SimpleNamespace(clock_offset=0.0)
    cluster: Any = None
    options = StepOptions(restarted=["cp-1/kube-apiserver"], token_life=60)
    return ca_keys.until_rest(cluster, vault, options, back=back, quiet=quiet), said


def test_words_on_keys_count_until_a_step_is_taken(monkeypatch: pytest.MonkeyPatch, pauses: list[float]) -> None:
    done, said = keys_waited(monkeypatch, [FASTER, PUBLISHED, AWAY, PUBLISHED, DONE])
    assert done == DONE
    assert [tuple(each.restarted) for each in said] == [("cp-1/kube-apiserver",)] * 2 + [()] * 3
    assert {each.token_life for each in said} == {60}
    assert pauses == [1.0, 10.0, 10.0, 10.0]
    with pytest.raises(Unavailable):
        keys_waited(monkeypatch, [FASTER, AWAY])


def test_a_step_of_keys_is_looked_after_at_once(monkeypatch: pytest.MonkeyPatch, pauses: list[float]) -> None:
    opens = Gate(opens=datetime.now(UTC) + timedelta(seconds=5))
    keys_waited(monkeypatch, [keys(KeyState.SWITCHED, moved=True), keys(KeyState.SWITCHED, gate=opens), DONE])
    assert len(pauses) == 1 and 3 < pauses[0] <= 5


def test_keys_that_rest_are_waited_for_while_a_node_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    joining = keys(KeyState.STEADY, gate=None, joining=(Waiting("cp-2", "waits to start"),))
    steady = keys(KeyState.STEADY, gate=None)
    assert keys_waited(monkeypatch, [joining, steady])[0] == steady
    assert keys_waited(monkeypatch, [joining], back=True)[0] == joining
    assert keys_waited(monkeypatch, [keys(None, gate=None)])[0].record is None


@pytest.mark.parametrize(
    ("first", "state", "back", "stops"),
    [
        (KeyState.PUBLISHED, KeyState.RETURNING, False, True),
        (KeyState.PUBLISHED, KeyState.RETRUSTING, False, True),
        (KeyState.PUBLISHED, KeyState.SWITCHED, False, False),
        (KeyState.PUBLISHED, KeyState.SWITCHED, True, True),
        # It was taken back and is over: the command does not end as if it had come to its own end.
        (KeyState.PUBLISHED, KeyState.STEADY, False, True),
        (KeyState.SWITCHED, KeyState.RETURNING, True, False),
        # Somebody has led it on meanwhile, and back.
        (KeyState.PUBLISHED, KeyState.RETURNING, True, True),
        # It leads from there to switched, and `ca abort` home.
        (KeyState.RETRUSTING, KeyState.RETURNING, False, True),
    ],
)
def test_keys_that_another_operator_turns_round(
    first: KeyState,
    state: KeyState,
    back: bool,
    stops: bool,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    turned, rest = keys(state), keys(KeyState.STEADY if back else KeyState.DONE, gate=None, moved=True)
    done, _ = keys_waited(monkeypatch, [keys(first), turned, rest], back=back)
    assert done == (turned if stops else rest)
    said = "another operator has turned the rotation of service-account keys round; this command has stopped"
    assert (said in capsys.readouterr().err) == stops
    assert keys_waited(monkeypatch, [keys(first), turned, rest], back=back, quiet=True)[0] == done
    assert capsys.readouterr().err == ""


def test_a_rollback_of_keys_ends_by_continue_too(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    home = keys(KeyState.STEADY, gate=None)
    assert keys_waited(monkeypatch, [keys(KeyState.RETURNING), home])[0] == home
    assert "another operator" not in capsys.readouterr().err


def adopted(state: AdoptionState | None, **changes: Any) -> AdoptionOutcome:
    record = SimpleNamespace(state=state) if state is not None else None
    look: Any = SimpleNamespace(stored=SimpleNamespace(record=record), record=record, now=NOW)
    return AdoptionOutcome(look, None, CLOSED, **changes)


def adoption_waited(events: list[Any], *, back: bool = False) -> tuple[AdoptionOutcome, list[AdoptionWords]]:
    left, said = iter(events), list[AdoptionWords]()

    def once(words: AdoptionWords) -> Any:
        said.append(words)
        return next_of(left)

    first = AdoptionWords(("outside",), ("cp-1/etcd",), "in the safe", onward=True)
    return adopt_run._wait(once, first, back=back, quiet=False), said


def test_an_adoption_says_each_failure_and_goes_on(capsys: pytest.CaptureFixture[str], pauses: list[float]) -> None:
    over = adopted(AdoptionState.DONE, over=True)
    events = [adopted(AdoptionState.PUBLISHED), AWAY, AWAY, FASTER, adopted(AdoptionState.SWITCHED, moved=True), over]
    done, said = adoption_waited(events)
    assert done == over
    assert [(each.confirmed, each.restarted) for each in said] == [(("outside",), ("cp-1/etcd",)), *[((), ())] * 5]
    assert {(each.keep, each.onward) for each in said} == {("in the safe", True)}
    assert pauses == [20.0, 20.0, 20.0, 20.0, 1.0]
    assert capsys.readouterr().err.splitlines() == [
        "the adoption is published, waits for cp-1: has not read revision 4",
        f"{AWAY}; trying again",
        f"{FASTER}; trying again",
        "it answers again",
        "the adoption is switched, waits for cp-1: has not read revision 4",
    ]


def test_the_words_of_a_person_are_asked_for_on_the_terminal(
    monkeypatch: pytest.MonkeyPatch, pauses: list[float]
) -> None:
    """Only where nothing else is waited for; whoever writes no such word has it looked at again."""
    answers = iter(["", "no outside thing", "webhooks"])
    monkeypatch.setattr(adopt_run, "terminal", lambda: True)
    monkeypatch.setattr("click.prompt", lambda *texts, **options: next(answers))
    word, both = Gate((Waiting("outside", "once"),)), Gate((Waiting("outside", "once"), Waiting("cp-1", "owes")))
    events = [
        replace(adopted(AdoptionState.PUBLISHED), gate=both),
        *[replace(adopted(AdoptionState.PUBLISHED), gate=word)] * 2,
        adopted(AdoptionState.SWITCHED, moved=True),
        replace(adopted(AdoptionState.RETIRED), gate=Gate((Waiting("webhooks", "once"),))),
        adopted(AdoptionState.DONE, over=True),
    ]
    _, said = adoption_waited(events)
    assert [each.confirmed for each in said] == [("outside",), (), (), ("outside",), (), ("webhooks",)]
    assert pauses == [20.0, 1.0] and not list(answers)


@pytest.mark.parametrize("error", [AWAY, FASTER])
def test_what_the_first_step_of_an_adoption_raises_ends_it(error: VaultpkiError) -> None:
    with pytest.raises(type(error)):
        adoption_waited([error, adopted(AdoptionState.DONE, over=True)])


def test_what_ends_the_wait_for_an_adoption() -> None:
    for last in (adopted(AdoptionState.PUBLISHED, refused=True), adopted(None)):
        assert adoption_waited([adopted(AdoptionState.PUBLISHED), last])[0] == last
    turned = adopted(AdoptionState.RETURNING)
    with pytest.raises(VaultpkiError, match=r"leads the adoption the other way \(returning\)"):
        adoption_waited([adopted(AdoptionState.SWITCHED), turned])
    assert adoption_waited([adopted(AdoptionState.SWITCHED), turned, adopted(None)], back=True)[0].look.record is None
