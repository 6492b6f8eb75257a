"""Several operators with `ca ... --wait` at once, in processes of their own, who are killed at random."""

from __future__ import annotations

import random
import time
from pathlib import Path

import pytest

from helpers.vault.cluster_factory import ClusterFactory
from helpers.vault.servers import Server
from helpers.vault.waiting_operators import Operators
from vaultpki.records.rotation import Method, RotationRecord, State

SOME = pytest.param(range(1, 4), id="some", marks=pytest.mark.conformance)
MANY = pytest.param(range(1, 13), id="many", marks=[pytest.mark.exhaustive, pytest.mark.timeout(3000)])
SAMPLE = pytest.param(range(1), id="sample")
BACK = (State.STEADY, State.RETURNING, State.RETRUSTING)
# Where another operator comes in.
MEETING = (State.PREPARED, State.PUBLISHED, State.SWITCHED, State.RETIRED)


@pytest.fixture
def operators(clusters: ClusterFactory) -> Operators:
    return Operators.standing(clusters)


def luck(seed: int) -> random.Random:
    return random.Random(seed)  # noqa: S311 - no secrets


def killed_and_again(operators: Operators, chance: random.Random, *words: str) -> None:
    """A command that is killed at any moment."""
    with operators.run(*words) as operator:
        time.sleep(chance.uniform(0.2, 1.5))
        operator.kill()


@pytest.mark.parametrize("seeds", [SOME, MANY])
def test_two_who_wait(operators: Operators, seeds: range) -> None:
    for seed in seeds:
        chance = luck(seed)
        assert operators.done("rotate", "etcd", "--spread", "1m")[0] == 0
        with operators.nodes_pass(), operators.run("continue", "--wait") as one:
            if chance.random() < 0.5:
                time.sleep(chance.uniform(0, 1))
            killed_and_again(operators, chance, "continue", "--wait")
            with operators.run("continue", "--wait") as two:
                ended = one.end(), two.end()
        for code, said, lines in ended:
            # One of them may have come when all was done.
            assert code == 0 or "is being rotated" in lines, (seed, code, said, lines)
        assert any(code == 0 for code, _, _ in ended), (seed, ended)
        assert operators.state is State.DONE, seed
        operators.settled()


@pytest.mark.parametrize("seeds", [SAMPLE, SOME, MANY])
def test_one_who_waits_and_one_who_aborts(operators: Operators, seeds: range) -> None:
    for seed in seeds:
        chance, since = luck(seed), operators.version()
        meeting = MEETING[seed % len(MEETING)] if seed else State.SWITCHED
        with operators.nodes_pass(), operators.run("rotate", "etcd", "--spread", "1m", "--wait") as onward:
            operators.until(meeting, State.DONE)
            for _ in range(chance.randrange(3)):
                killed_and_again(operators, chance, "abort", "--wait")
            operators.done("abort", "--wait")
            code, said, lines = onward.end()
        states = [record.state for record in operators.history(since)]
        last = states[-1]
        if last is State.DONE:
            # It was done before anybody aborted.
            assert code == 0 and not set(states) & {*BACK}, (seed, states, lines)
        else:
            assert code == 3 and "`vaultpki ca abort`" in said, (seed, code, said, lines)
            turned = next(number for number, state in enumerate(states) if state in BACK)
            assert set(states[turned:]) <= {*BACK} and last is State.STEADY, (seed, states)
        operators.settled()


@pytest.mark.parametrize("seeds", [SOME, MANY])
def test_one_who_aborts_and_one_who_continues(operators: Operators, seeds: range) -> None:
    """From re-trusting, which both ways lead through."""
    for seed in seeds:
        chance, since = luck(seed), operators.version()
        with operators.nodes_pass():
            with operators.run("rotate", "etcd", "--spread", "1m", "--wait"):
                operators.until(State.RETIRED, State.DONE)
            if operators.state is State.DONE:
                continue
            with operators.run("abort", "--wait") as back:
                operators.until(State.RETRUSTING, State.RETURNING, State.STEADY)
                time.sleep(chance.uniform(0, 0.3))
                with operators.run("continue", "--wait") as onward:
                    (code, said, lines), other = back.end(), onward.end()
        states = [record.state for record in operators.history(since)]
        after = states[states.index(State.RETRUSTING) :]
        if State.SWITCHED in after:
            assert code == 3 and "`vaultpki ca continue`" in said, (seed, code, said, lines)
            assert after[-1] is State.DONE and other[0] == 0, (seed, states, other)
        else:
            assert code == 0 and after[-1] is State.STEADY, (seed, states, code, said, lines)
        operators.settled()


@pytest.mark.parametrize("seeds", [SOME, MANY])
def test_one_who_waits_and_an_emergency(operators: Operators, seeds: range) -> None:
    for seed in seeds:
        chance = luck(seed)
        with operators.nodes_pass(), operators.run("rotate", "etcd", "--spread", "1m", "--wait") as onward:
            operators.until(State.PREPARED, State.PUBLISHED, State.SWITCHED)
            time.sleep(chance.uniform(0, 1))
            aborted = operators.done("abort", "--wait")
            for _ in State:
                # The one who waits may be faster by a step, which stops the abort, but no step leads round.
                if operators.active:
                    aborted = operators.done("abort", "--wait")
            begun = operators.done("rotate", "etcd", "--emergency", "--yes")
            assert begun[0] == 0, (seed, begun, aborted)
            stolen = operators.record
            assert stolen is not None and stolen.method is Method.EMERGENCY
            code, said, lines = onward.end()
            assert code == 3 or is_done_before(code, stolen), (seed, code, said, lines)
            assert operators.done("continue", "--wait")[0] == 0
        record = operators.record
        assert record is not None and record.new is not None and stolen.new is not None
        assert (record.state, record.new.name) == (State.DONE, stolen.new.name), seed
        operators.settled()


def is_done_before(code: int, stolen: RotationRecord) -> bool:
    """Whether the rotation had ended when somebody wanted to abort it: the next one then replaces its CA."""
    return code == 0 and stolen.new is not None and stolen.old.name != "etcd-1"


def test_it_waits_for_a_server_that_is_sealed_or_restarts(own_server: Server, tmp_path: Path) -> None:
    operators = Operators.standing(ClusterFactory(own_server, tmp_path))
    with operators.run("rotate", "etcd", "--spread", "1m", "--wait") as waiting:
        operators.until(State.PUBLISHED)
        shown = waiting.lines()
        assert next(line for line in shown if "etcd is published, waits for" in line)
        own_server.seal()
        assert next(line for line in shown if "is sealed; unseal it and try again; waiting until" in line)
        own_server.unseal()
        assert next(line for line in shown if line == "it answers again")
        own_server.stop()
        assert next(line for line in shown if "cannot be reached" in line)
        own_server.start()
        assert next(line for line in shown if line == "it answers again")
        with operators.nodes_pass():
            assert waiting.end()[0] == 0
    assert operators.state is State.DONE
    operators.settled()
