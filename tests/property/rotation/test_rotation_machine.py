"""A CA's rotation, whatever happens in which order: no leaf in use is refused, and in the end nobody trusts the old CA.

The control breaks one rule at a time and must find a failure.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import ClassVar

import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from property.rotation.simulated_cluster import Broken, Shape, SimulatedCluster
from vaultpki.records.rotation import State

NODES = st.integers(0, 3)
OPERATORS = st.integers(0, 1)


class Machine(RuleBasedStateMachine):
    """What agents, components, operators and time may do, in any order."""

    shape: ClassVar[Shape] = Shape()

    def __init__(self) -> None:
        super().__init__()
        self.cluster = SimulatedCluster(self.shape)
        self.lied = False

    @initialize(
        state=st.sampled_from([None, *(state for state in State if state is not State.STEADY)]),
        halfway=st.integers(0, 3),
        back=st.booleans(),
    )
    def begins(self, state: State | None, halfway: int, *, back: bool) -> None:
        """A rotation that came to some state without trouble; a second operator may be in the middle of a step."""
        if state is not None and (self.shape.back or state not in (State.RETURNING, State.RETRUSTING)):
            self.cluster.bring_to(state)
        for _ in range(halfway):
            self.cluster.operates(1, back=back and self.shape.back)

    @precondition(lambda self: any(not node.joined for node in self.cluster.nodes))
    @rule(reports=st.booleans())
    def a_node_joins(self, *, reports: bool) -> None:
        """A node logs in for the first time, and may be interrupted before its first report."""
        for node in self.cluster.nodes:
            if not node.joined:
                self.cluster.installs(node, reports=reports)
                node.away = node.joined and not reports

    @rule(admin=st.booleans())
    def a_quiet_time(self, *, admin: bool) -> None:
        self.cluster.quiet_minutes(admin=admin)

    @rule(i=NODES)
    def a_node_goes_away_or_comes_back(self, i: int) -> None:
        """Its files and processes stay; its agent does not pass."""
        node = self.cluster.nodes[i % len(self.cluster.nodes)]
        node.away = not node.away

    @rule(seconds=st.sampled_from([10, 61, 200, 400, 7200, 31 * 86400]))
    def time_passes(self, seconds: int) -> None:
        self.cluster.passes(seconds)

    @rule(i=NODES, lags=st.booleans(), signs=st.booleans(), reports=st.booleans())
    def a_pass(self, i: int, *, lags: bool, signs: bool, reports: bool) -> None:
        """A pass reads the server, and installs what it read, now or much later."""
        node = self.cluster.nodes[i % len(self.cluster.nodes)]
        if lags and node.view is None:
            self.cluster.reads(node)
        else:
            self.cluster.installs(node, signs=signs, reports=reports)

    @rule(settles=st.booleans())
    def all_pass(self, *, settles: bool) -> None:
        for node in self.cluster.at_work():
            self.cluster.installs(node)
            self.check()
        if settles:
            self.cluster.passes(400)
            for node in self.cluster.at_work():
                self.cluster.installs(node)

    @precondition(lambda self: not self.shape.late)
    @rule(i=NODES)
    def a_restart(self, i: int) -> None:
        self.cluster.restarts(self.cluster.nodes[i % len(self.cluster.nodes)])

    @precondition(lambda self: self.shape.hooks and not self.shape.late)
    @rule(i=NODES)
    def hooks_run(self, i: int) -> None:
        node = self.cluster.nodes[i % len(self.cluster.nodes)]
        self.cluster.runs_hooks(node)
        self.cluster.installs(node)

    @precondition(lambda self: not self.shape.hooks)
    @rule(i=NODES)
    def a_person_restarts(self, i: int) -> None:
        self.cluster.confirms(self.cluster.nodes[i % len(self.cluster.nodes)], restarts_first=True)

    @rule(i=OPERATORS, requests=st.sampled_from([1, 2, 3, 8, 8, 8]))
    def an_operator_goes_on(self, i: int, requests: int) -> None:
        for _ in range(requests):
            if not self.cluster.operates(i):
                break
            self.check()

    @precondition(lambda self: self.shape.back)
    @rule(i=OPERATORS, requests=st.integers(1, 8))
    def an_operator_goes_back(self, i: int, requests: int) -> None:
        for _ in range(requests):
            if not self.cluster.operates(i, back=True):
                break
            self.check()

    @rule(i=OPERATORS)
    def an_operator_is_killed(self, i: int) -> None:
        self.cluster.operators[i] = None

    @precondition(lambda self: self.shape.admin)
    @rule()
    def the_admin_takes_a_new_certificate(self) -> None:
        self.cluster.renews_admin()

    @precondition(lambda self: self.shape.excused)
    @rule()
    def a_node_is_excused(self) -> None:
        self.cluster.excuses(self.cluster.nodes[self.shape.nodes - 1])

    @precondition(lambda self: self.shape.setback and self.cluster.snapshot is None)
    @rule()
    def a_snapshot(self) -> None:
        record = self.cluster.server.record
        if record is not None and record.new is not None and record.new.sha256 and not any(self.cluster.operators):
            self.cluster.snapshot = self.cluster.server.copy()

    @precondition(lambda self: self.shape.setback and self.cluster.snapshot is not None)
    @rule()
    def the_server_is_set_back(self) -> None:
        self.cluster.set_back()

    @precondition(lambda self: self.shape.liar)
    @rule(claim=st.sampled_from([0, 5, 900]), believed=st.booleans())
    def a_node_says_that_it_has_read_more(self, claim: int, *, believed: bool) -> None:
        """An operator recovers then, again and again, or leaves the node out."""
        self.lied = self.lied or claim > 0
        self.cluster.claim, self.cluster.disbelieved = claim, not believed
        self.cluster.installs(self.cluster.nodes[self.shape.nodes - 1])

    @invariant()
    def check(self) -> None:
        self.cluster.check()

    def teardown(self) -> None:
        # A member of etcd that lies may hold a step for ever, since no gate leaves it out; it breaks nothing.
        if not self.shape.broken and not self.lied:
            assert self.cluster.drained(), f"the rotation does not end: {self.cluster.server}"


SHAPES = {
    "etcd, hooks": Shape(),
    "etcd, a person restarts": Shape(hooks=False),
    "etcd, a node joins": Shape(nodes=1, joins=True),
    "etcd, set back": Shape(setback=True),
    "etcd, a liar": Shape(nodes=3, liar=True),
    "etcd, a liar, set back": Shape(nodes=3, liar=True, setback=True),
    "etcd, one excused": Shape(nodes=3, excused=True),
    "kubernetes": Shape(late=True),
    "kubernetes, admin": Shape(late=True, nodes=1, admin=True),
    "kubernetes, a node joins": Shape(late=True, nodes=1, joins=True),
}

# In which shape the lack of a rule is found.
CONTROLS = {
    "counted": Shape(nodes=1, joins=True, back=False),
    "settle": Shape(late=True, nodes=1, back=False),
    "memory": Shape(back=False),
    "newstate": Shape(hooks=False, back=False),
    "bound": Shape(hooks=False, back=False),
    "operators": Shape(late=True, nodes=1, admin=True, back=False),
    "retrust": Shape(),
    "kept": Shape(nodes=3, liar=True),
    "word": Shape(),
}


def explore(shape: Shape, examples: int, *, steps: int = 40, control: bool = False) -> None:
    machine = type("Machine", (Machine,), {"shape": shape})
    phases = [Phase.explicit, Phase.generate, *([] if control else [Phase.shrink])]
    run_state_machine_as_test(
        machine,
        settings=settings(
            max_examples=examples,
            stateful_step_count=steps,
            deadline=None,
            phases=phases,
            database=None,
            # A control finds its failure always or never.
            derandomize=control,
            suppress_health_check=list(HealthCheck),
        ),
    )


@pytest.mark.parametrize("name", SHAPES)
def test_no_order_of_events_breaks_a_cluster_or_leaves_it_halfway(name: str) -> None:
    explore(SHAPES[name], 12)


@pytest.mark.conformance
@pytest.mark.parametrize("name", SHAPES)
def test_no_order_of_many_more_events_does(name: str) -> None:
    explore(SHAPES[name], 400)


@pytest.mark.parametrize(
    "rule",
    [
        pytest.param(rule, marks=() if rule in ("memory", "newstate", "settle") else pytest.mark.conformance)
        for rule in CONTROLS
    ],
)
def test_without_a_rule_a_failure_is_found(rule: str) -> None:
    with pytest.raises(Broken):
        explore(replace(CONTROLS[rule], broken=rule), 800, control=True)


# Two rules that only a rare order of events needs: by hand, with the rule and without.


def late_pass_after_a_way_back(shape: Shape) -> SimulatedCluster:
    """A pass that read that the old CA leaves installs this only after everybody has gone back."""
    cluster = SimulatedCluster(shape)
    cluster.bring_to(State.SWITCHED)
    late, other = cluster.nodes
    for node in cluster.nodes:
        cluster.installs(node)
    cluster.passes(400)
    while cluster.operates(0, rotates=False):
        pass
    cluster.reads(late)
    assert late.view is not None and late.view.record is not None and late.view.record.state is State.RETIRED
    for _ in range(12):
        cluster.operates(0, back=True)
        cluster.passes(400)
        cluster.installs(other)
    cluster.installs(late)
    cluster.passes(400)
    cluster.check()
    return cluster


def default_moved_by_a_command_that_was_overtaken(shape: Shape) -> SimulatedCluster:
    """A command that was to switch goes on after another operator has gone back."""
    cluster = SimulatedCluster(shape)
    cluster.bring_to(State.PUBLISHED)
    first, other = cluster.nodes
    for node in cluster.nodes:
        cluster.installs(node)
    cluster.passes(400)
    # It has written its record, and is then cut off for a while.
    while cluster.operators[1] is None or cluster.operators[1][0] != "server":
        cluster.operates(1)
    while not (cluster.operators[0] and cluster.operators[0][1].state is State.STEADY):
        cluster.operates(0, back=True)
        cluster.passes(400)
        for node in cluster.nodes:
            cluster.installs(node)
    while cluster.operators[1] is not None:
        cluster.operates(1)
    cluster.installs(first)
    while cluster.operates(0, back=True, rotates=False):
        pass
    cluster.installs(other)
    cluster.passes(400)
    cluster.check()
    return cluster


@pytest.mark.parametrize(
    ("rule", "events"),
    [("echo", late_pass_after_a_way_back), ("leafword", default_moved_by_a_command_that_was_overtaken)],
)
def test_a_rare_order_of_events_breaks_a_cluster_only_without_a_rule(
    rule: str, events: Callable[[Shape], SimulatedCluster]
) -> None:
    assert events(Shape(late=True)).drained()
    with pytest.raises(Broken):
        events(Shape(late=True, broken=rule))
