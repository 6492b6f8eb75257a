"""Each procedure's table is here as text, so that whoever changes a phase reads what that does to gates."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest

from vaultpki.procedure import phases
from vaultpki.procedure.phases import ADOPTION_PHASES, CA_PHASES, KEY_PHASES, NEITHER, Phase, Side, Table, table, waits
from vaultpki.records.adoption import AdoptionState
from vaultpki.records.rotation import State
from vaultpki.records.service_account import KeyState

TABLES = {"keys": KEY_PHASES, "CAs": CA_PHASES, "adoption": ADOPTION_PHASES}
Rule = Callable[[Phase, Phase], tuple[Side, Side]]

# state: what readers accept, what users take, what is sure, what may be used, what is destroyed; where it leads.
AS_TEXT = {
    "keys": """
        steady: OLD OLD OLD OLD -; onward to published
        published: BOTH OLD OLD OLD -; onward to switched, home to steady
        switched: BOTH NEW BOTH BOTH -; onward to retired, home to returning
        retired: NEW NEW NEW NEW -; onward to done, home to re-trusting
        done: NEW NEW NEW NEW OLD; the end
        re-trusting: BOTH NEW NEW NEW -; onward to switched, home to returning
        returning: BOTH OLD BOTH BOTH -; onward to switched, home to steady
        """,
    "CAs": """
        steady: OLD OLD OLD OLD -; onward to prepared
        published: BOTH OLD OLD OLD -; onward to switched, home to steady
        switched: BOTH NEW BOTH BOTH -; onward to retired, home to returning
        retired: NEW NEW NEW NEW -; onward to done, home to re-trusting
        done: NEW NEW NEW NEW OLD; the end
        re-trusting: BOTH NEW NEW NEW -; onward to switched, home to returning
        returning: BOTH OLD OLD BOTH -; onward to switched, home to steady
        prepared: OLD OLD OLD OLD -; onward to published, home to steady
        """,
    "adoption": """
        prepared: OLD OLD OLD OLD -; onward to published
        published: BOTH OLD OLD OLD -; onward to switched, home to prepared
        switched: BOTH NEW BOTH BOTH -; onward to closed, home to returning
        retired: NEW NEW NEW NEW -; onward to done, home to re-trusting
        done: NEW NEW NEW NEW OLD; the end
        re-trusting: BOTH NEW NEW NEW -; onward to switched, home to returning
        returning: BOTH OLD BOTH BOTH -; onward to switched, home to prepared
        closed: BOTH NEW BOTH NEW -; onward to retired, home to returning
        """,
}
WAITS_AS_TEXT = {
    "keys": """
        published -> switched: all accept BOTH
        re-trusting -> returning: all accept BOTH
        re-trusting -> switched: all accept BOTH
        retired -> done: all accept NEW
        returning -> steady: all use OLD
        switched -> retired: all use NEW
        free: published -> steady, retired -> re-trusting, returning -> switched, steady -> published,
        switched -> returning
        """,
    "CAs": """
        published -> switched: all accept BOTH
        re-trusting -> returning: all accept OLD
        re-trusting -> switched: all accept BOTH
        retired -> done: all accept NEW
        returning -> steady: all use OLD
        returning -> switched: all accept NEW
        steady -> steady: all accept OLD
        switched -> retired: all use NEW
        free: prepared -> published, prepared -> steady, published -> steady, retired -> re-trusting,
        steady -> prepared, switched -> returning
        """,
    "adoption": """
        closed -> retired: all use NEW
        published -> switched: all accept BOTH
        re-trusting -> returning: all accept BOTH
        re-trusting -> switched: all accept BOTH
        retired -> done: all accept NEW, all use NEW
        returning -> prepared: all use OLD
        switched -> closed: all use NEW
        free: closed -> returning, prepared -> published, published -> prepared, retired -> re-trusting,
        returning -> switched, switched -> returning
        """,
}
MUTANTS: dict[str, Rule] = {
    "nothing is destroyed": lambda a, b: waits(a, replace(b, destroys=NEITHER)),
    "nothing becomes sure": lambda a, b: (b.sure if b.destroys else NEITHER, waits(a, b)[1]),
    "what was sure counts": lambda a, b: (b.sure if a.sure & ~b.sure or b.destroys else NEITHER, waits(a, b)[1]),
    "only what becomes sure": lambda a, b: (waits(a, b)[0] & ~a.sure, waits(a, b)[1]),
    "what is accepted counts": lambda a, b: waits(replace(a, sure=a.accepts), b),
    "no use ends": lambda a, b: (waits(a, b)[0], NEITHER),
    "uses that begin": lambda a, b: (waits(a, b)[0], b.uses if b.uses & ~a.uses else NEITHER),
    "what is taken is all that is used": lambda a, b: waits(replace(a, uses=a.takes), b),
    "the use that ends": lambda a, b: (waits(a, b)[0], a.uses & ~b.uses),
}


def words(side: Side) -> str:
    return side.name or "-"


def described(name: str, phase: Phase) -> str:
    sides = (phase.accepts, phase.takes, phase.sure, phase.uses, phase.destroys)
    ways = [f"{way} to {to}" for way, to in (("onward", phase.onward), ("home", phase.home)) if to]
    return f"{name}: {' '.join(map(words, sides))}; {', '.join(ways) or 'the end'}"


def waits_described(found: Table[str]) -> list[str]:
    lines = []
    for step in sorted({*found.by_trust, *found.by_use}):
        asks = (("accept", found.by_trust.get(step)), ("use", found.by_use.get(step)))
        lines.append(f"{' -> '.join(step)}: {', '.join(f'all {does} {words(side)}' for does, side in asks if side)}")
    return [*lines, "free: " + ", ".join(" -> ".join(step) for step in sorted(found.free))]


@pytest.mark.parametrize("name", TABLES)
def test_the_phases_are_these(name: str) -> None:
    lines = [described(state, phase) for state, phase in TABLES[name].phases.items()]
    assert lines == AS_TEXT[name].strip().replace(" " * 8, "").splitlines()


@pytest.mark.parametrize("name", TABLES)
def test_moves_wait_for_this(name: str) -> None:
    assert " ".join(waits_described(TABLES[name])) == " ".join(WAITS_AS_TEXT[name].split())


@pytest.mark.parametrize("mutant", MUTANTS)
def test_another_rule_is_seen(mutant: str, monkeypatch: pytest.MonkeyPatch) -> None:
    plain = waits_described(table(KEY_PHASES.phases))
    assert plain == waits_described(KEY_PHASES)
    monkeypatch.setattr(phases, "waits", MUTANTS[mutant])
    assert waits_described(table(KEY_PHASES.phases)) != plain


def test_what_is_beside_the_rule_is_named_here() -> None:
    differ = {
        name: {line.partition(":")[0] for line in {*waits_described(found)} ^ {*waits_described(table(found.phases))}}
        for name, found in TABLES.items()
    }
    assert {name: steps - {"free"} for name, steps in differ.items()} == {
        "keys": set(),
        "CAs": {"returning -> switched", "steady -> steady"},
        "adoption": {"closed -> retired", "retired -> done"},
    }


def test_states_are_those_of_the_records() -> None:
    for found, states in ((KEY_PHASES, KeyState), (CA_PHASES, State), (ADOPTION_PHASES, AdoptionState)):
        assert found.phases.keys() == {state.value for state in states}


@pytest.mark.parametrize("name", TABLES)
def test_what_a_phase_says_is_so(name: str) -> None:
    """What is sure was sure before or was waited for, and who may use what did so before, or is told to."""
    found = TABLES[name]
    for phase in found.phases.values():
        assert phase.takes in phase.accepts and phase.sure in phase.accepts and phase.takes in phase.uses
    for a, b in {*found.onward.items(), *found.home.items()}:
        before, after = found.phases[a], found.phases[b]
        assert after.sure in before.sure | found.by_trust.get((a, b), NEITHER)
        assert before.uses & found.by_use.get((a, b), Side.BOTH) | after.takes in after.uses
        # Nothing that is in use is refused, and nothing is taken that is not accepted by all.
        assert found.by_use.get((a, b), before.uses) in after.accepts
        assert after.takes in before.sure | found.by_trust.get((a, b), NEITHER)


@pytest.mark.parametrize("name", TABLES)
def test_what_may_be_used_is_accepted_by_every_reader(name: str) -> None:
    # After a recovery of CAs nothing is sure; nodes then keep what they hold until everybody trusts both.
    unsure = {state for state, phase in TABLES[name].phases.items() if phase.uses & ~phase.sure}
    assert unsure == ({"returning"} if name == "CAs" else set())


@pytest.mark.parametrize("name", TABLES)
def test_there_is_a_way_home_until_something_is_destroyed(name: str) -> None:
    found, start = TABLES[name], "prepared" if name == "adoption" else "steady"
    for way, end in ((found.onward, "done"), (found.home, start)):
        for state in found.phases.keys() - {"done"}:
            now = state
            for _ in found.phases:
                now = way.get(now, now)
            assert now == end
    assert {state for state, phase in found.phases.items() if phase.destroys} == {"done"}
