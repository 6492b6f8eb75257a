"""`adopt node` is killed around each of its requests and each file that it puts in place; it goes on, and back."""

from __future__ import annotations

import pytest

from helpers.faults.drawn import Drawn
from helpers.faults.kill_points import command, died
from helpers.node.enrolled_machine import EnrolledMachine, kubeadms
from vaultpki.records.adoption import AdoptionState as S

# What a machine is left with.
pytestmark = pytest.mark.on_node

METHODS = ("GET", "LIST", "POST", "PUT", "DELETE")


def killed_all_the_way(one: EnrolledMachine, state: S | None, step: int, first: int) -> int:
    """Run it again and again, each time killed a little later, until it is through; how often it died."""
    one.record(state)
    deaths = 0
    while died(command("adopt", "node", "-c", one.file), first + deaths * step, files=".", methods=METHODS):
        deaths += 1
        one.machine.processes.restart_all()
        for component in one.machine.processes.load():
            assert not one.machine.processes.problem(component), (state, deaths)
    return deaths


@pytest.mark.parametrize(
    "step",
    [
        pytest.param(40, id="sample", marks=pytest.mark.sample),
        pytest.param(13, id="some", marks=pytest.mark.conformance),
        pytest.param(1, id="each", marks=pytest.mark.exhaustive),
    ],
)
def test_killed_at_each_of_its_events(enrolled: EnrolledMachine, step: int, drawn: Drawn) -> None:
    """Each state begins at another event, which is drawn."""
    enrolled.join()
    deaths = []
    for state in (S.PREPARED, S.PUBLISHED, S.SWITCHED, S.RETURNING, S.PREPARED):
        deaths.append(killed_all_the_way(enrolled, state, step, drawn.below(step)))
        report = enrolled.report()
        assert (report.reached, report.owed) == (state, ()), deaths
    deaths.append(killed_all_the_way(enrolled, None, step, drawn.below(step)))
    assert sum(deaths) * step > 6 * 20, deaths
    assert kubeadms(enrolled.machine.snapshot()) == enrolled.fresh
