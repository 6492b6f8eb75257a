"""The code does what the models of rotations say (tests/models); both have one table of states."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from datetime import UTC, datetime
from importlib import import_module
from itertools import pairwise

import pytest

from models import root_rotation as root_model
from models import rotation
from models import rotation_tables as model
from models.code import CHECKS, KEPT_BY
from vaultpki.procedure.gate import Gate
from vaultpki.procedure.phases import CA_PHASES
from vaultpki.records.rotation import MOST_AHEAD, CaRef, Kept, RotationRecord, State
from vaultpki.rotation import reasons, root_gates, states
from vaultpki.rotation.states import Presence

OLD, NEW = "a" * 64, "b" * 64
BITS = {OLD: model.OLD, NEW: model.NEW}
PLAIN = {letter: State(word) for letter, word in model.STATES.items() if letter not in model.KEPT}
USAGES = {Presence.ABSENT: "-", Presence.KEY: "K", Presence.MUTE: "C", Presence.SIGNING: "F"}


def record(letter: str, domain: str = "etcd") -> RotationRecord:
    return RotationRecord(
        domain=domain,
        state=State(model.STATES[letter]),
        revision=7,
        since=datetime(2026, 11, 25, tzinfo=UTC),
        old=CaRef(f"{domain}-1", "1", "1", OLD),
        # In `k` nobody has named the new CA, which the server has lost.
        new=CaRef(f"{domain}-2", "2", "2", OLD if letter == "k" else NEW),
        kept={"K": Kept.OLD, "k": Kept.OLD, "L": Kept.NEW}.get(letter),
    )


def bits(cas: frozenset[str]) -> int:
    return sum(BITS[sha256] for sha256 in cas)


def steps() -> Iterator[str]:
    """Yield the steps of the model between states that no recovery leads to."""
    for table in (model.FORWARD, model.BACK):
        yield from (a + b for a, b in table.items() if a not in model.KEPT)


def named(table: Mapping[str, str]) -> dict[State, State]:
    return {PLAIN[a]: PLAIN[b] for a, b in table.items() if a in PLAIN}


def test_what_comes_next_by_a_command() -> None:
    assert set(PLAIN.values()) == set(State)
    for letter, state in PLAIN.items():
        assert states.next_state(record(letter), back=True) == named(model.BACK).get(state)
        # From rest `ca rotate` leads on, and from a rollback `ca continue` leads home.
        after = None if state.resting else named(model.HOME if letter == "B" else model.FORWARD)[state]
        assert states.next_state(record(letter)) == after


@pytest.mark.parametrize("letter", model.STATES)
def test_whom_the_record_has_nodes_trust_and_whose_leaves_they_take(letter: str) -> None:
    found = record(letter)
    assert bits(found.trust) == model.TRUST[letter]
    assert (model.OLD if found.leaf is found.old else model.NEW) == model.LEAF[letter]


@pytest.mark.parametrize("step", sorted({*steps(), "KS", "LS", "KB", "LB"}))
def test_what_the_server_holds_in_the_end(step: str) -> None:
    """Each state's writes begin where those of the state before it ended."""
    server = rotation.beginning(rotation.Settings()).server
    way = {"0": "0", "P": "0P", "U": "0PU", "S": "0PUS", "R": "0PUSR", "B": "0PUSB", "T": "0PUSRT"}
    for _, letter in pairwise(way.get(step[0], f"0PUSRT{step[0]}") + step[1]):
        while (after := rotation.server_write(server, letter, rotation.Settings())) is not None:
            server = after
        wanted = states.server_state(record(letter))
        assert (server.old, server.new) == (USAGES[wanted.old], USAGES[wanted.new])
        assert server.default == (model.OLD if wanted.default.name == "etcd-1" else model.NEW)


def test_which_cas_must_be_trusted_before_a_step() -> None:
    for step, must in model.TRUST_STEPS.items():
        if step != "RD":
            wanted = reasons.wanted_cas(record("T" if step == "kB" else step[0]), PLAIN[step[1]])
            assert bits(frozenset(ca.sha256 for ca in wanted)) == must


def test_every_check_of_a_report_is_in_the_model_or_is_left_out_for_a_reason() -> None:
    assert tuple(CHECKS) == tuple(check.finds.__name__ for check in reasons.GATE_CHECKS)
    assert {rule for rules in CHECKS.values() if not isinstance(rules, str) for rule in rules} <= set(model.RULES)


@pytest.mark.parametrize("rule", [*model.RULES, *root_model.ROOT_RULES])
def test_the_code_that_keeps_each_rule_is_there(rule: str) -> None:
    module, _, name = KEPT_BY[rule].partition(":")
    found = import_module(f"vaultpki.{module}")
    for each in name.split("."):
        found = getattr(found, each)


def test_every_rule_says_what_keeps_it() -> None:
    assert set(KEPT_BY) == {*model.RULES, *root_model.ROOT_RULES}
    assert f"{MOST_AHEAD:,}" in model.RULES["limit"]


def test_the_root_waits_where_issuing_cas_do() -> None:
    letters = {word: letter for letter, words in root_model.ROOT_STATES.items() for word in words.split(", ")}
    waits = {letters[a] + letters[b] for a, b in (*CA_PHASES.by_trust, *CA_PHASES.by_use)}
    # In the model published and returning are one state, from which home waits for nobody; nothing is left at rest.
    assert waits - {"U0", "00"} == root_model.ROOT_WAITS.keys()


@pytest.mark.parametrize("state", State)
@pytest.mark.parametrize("to", State)
def test_what_steps_of_the_root_wait_for_beside_reports(state: State, to: State) -> None:
    letters = {
        State(word): letter
        for letter, words in root_model.ROOT_STATES.items()
        if letter != "N"
        for word in words.split(", ")
    }
    asks = root_model.ROOT_WAITS.get(letters[state] + letters[to], ())
    known = to in (states.BACK.get(state), states.FORWARD.get(state))
    if not known or letters[state] == letters[to] or (state, to) == (State.RETURNING, State.SWITCHED):
        return
    at = replace(record("S", "root"), state=state)
    found = {one.node for one in root_gates.gate(at, to, Gate(opens=at.since), {}, None).waiting}
    outside = root_gates.OUTSIDE in found
    assert outside == bool({"outside", "again"} & set(asks))
    # During the rollback pods are asked for too, which the model shows to be more than is needed.
    assert (root_gates.PODS in found) == ("pods" in asks or (state, to) == (State.RETRUSTING, State.RETURNING))
    # What nodes send is in the gates of the issuing CAs, which go along.
    assert ("sent" in asks) <= ((state, to) in root_gates.WITH_COMPANIONS)
