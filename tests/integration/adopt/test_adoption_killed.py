"""Each command of an adoption is killed around each of its writes, in Vault and in the cluster's API server.

The next one goes on, or back. A command keeps nothing on its own machine, so one that is killed at a read leaves what
the write before left.
"""

from __future__ import annotations

import functools
import json
from collections.abc import Callable, Sequence
from datetime import timedelta
from pathlib import Path

import pytest

from helpers.faults.drawn import Drawn
from helpers.faults.kill_points import NEVER, Events, died
from helpers.kube.adopted_cluster import AUTHENTICATION_PATH, INFO_PATH, KEYS_PATH, AdoptedCluster, adopted
from helpers.kube.kubeadm_objects import Shape
from helpers.vault.cluster_factory import ClusterFactory
from vaultpki.adopt import drive, gates, writes
from vaultpki.adopt.drive import AdoptionWords
from vaultpki.identity import change_notice
from vaultpki.procedure.phases import Side

METHODS = ("POST", "PUT", "DELETE")


class Operator:
    """Runs commands of one adoption, each in a process of its own: they die at these numbers of the events of them all.

    The events of a command that takes up another's work count too.
    """

    def __init__(self, one: AdoptedCluster, *cuts: int) -> None:
        self.one, self.cuts = one, [*cuts]
        self.events = Events()
        self.died = False

    def runs(self, command: Callable[[], object]) -> bool:
        """Run a command, and look at what it left if it died; whether it came to its end."""
        before, told = self.one.record(), self._told()
        if not died(command, self.cuts[0] if self.cuts else NEVER, methods=METHODS, events=self.events):
            return True
        self.died = True
        self.cuts.pop(0)
        after = self.one.record()
        if after != before:
            # Nodes look again once the record of changes is a later one, so that comes before all that they follow.
            assert self._told() > told
            # One step at most, and never back.
            if before is not None and after is not None:
                known = before.state, *(gates.next_state(before.state, back=each) for each in (False, True))
                assert after.revision > before.revision and after.state in known
        return False

    def _told(self) -> int:
        return change_notice.read(self.one.cluster.model, self.one.cluster.client()).version

    def begins(self) -> None:
        through = False
        while not through:
            through = self.runs(
                functools.partial(self.one.advance, AdoptionWords()) if self.one.state else self.one.start
            )
        self.one.passes()

    def leads(self, goal: str = "done", *, back: bool = False, until_death: bool = False) -> None:
        """Lead the adoption to a state, of which "done" and "" are its ends; or until a command has died."""
        one = self.one
        for _ in range(60):
            if not one.state or one.state == goal != "done" or (until_death and self.died):
                return
            found = drive.standing(one.look(), back=back)
            if found.over and not back and not writes.due(found.look.record, found.look.seen):
                return
            waiting = [each.node for each in found.gate.waiting if not each.itself]
            if waiting == ["pods"]:
                one.restart_pods()
            said = AdoptionWords(confirmed=("outside",) if "outside" in waiting else ())
            self.runs(functools.partial(one.advance, said, back=back))
            one.passes()
            one.now += timedelta(minutes=20)
        raise AssertionError((one.state, found.gate))


def shown(one: AdoptedCluster) -> dict[str, str]:
    """What an adoption changes in the API server."""
    values = one.api.values
    paths = (INFO_PATH, KEYS_PATH, AUTHENTICATION_PATH, writes.SETTINGS_PATH, writes.DEFAULTS_PATH)
    return {path: json.dumps(values[path]["data"]) for path in paths if path in values and "data" in values[path]}


def whole(clusters: ClusterFactory, folder: Path, way: str, cuts: Sequence[int], later: Sequence[int] = ()) -> int:
    """An adoption whose commands die at some events; how many events it had.

    The ways are: on after that; back after the first one, with further ones at events that are counted from there; and
    back from retired with an `abort` that dies.
    """
    folder.mkdir()
    with adopted(clusters, folder, Shape(planes=1)) as one:
        before, operator = shown(one), Operator(one, *(() if way == "abort" else cuts))
        operator.begins()
        if way == "abort":
            operator.leads("retired")
            one.settle()
            operator = Operator(one, *cuts)
        else:
            operator.leads(until_death=way == "back")
        if way == "on" or one.state == "done":
            operator.leads()
            ended(one)
        else:
            operator.cuts += [operator.events.past + each for each in later]
            operator.leads("", back=True)
            assert one.state == "" and all(each.trust is each.leaves is Side.OLD for each in one.machines.values())
            # kube-apiserver writes that one.
            assert {**shown(one), AUTHENTICATION_PATH: ""} == {**before, AUTHENTICATION_PATH: ""}
            assert one.objects.ca.pem in one.held(AUTHENTICATION_PATH, "client-ca-file")
            operator.begins()
        assert operator.died or not cuts
        assert not change_notice.is_changing(change_notice.read(one.cluster.model, one.cluster.client()))
        return operator.events.past


def ended(one: AdoptedCluster) -> None:
    """All is of the new CAs, and nothing was changed twice in the API server."""
    assert one.state == "done" and all(each.trust is each.leaves is Side.NEW for each in one.machines.values())
    assert one.objects.ca.pem not in one.held(AUTHENTICATION_PATH, "client-ca-file")
    assert one.info().count("BEGIN CERTIFICATE") == 1 and one.objects.ca.pem not in one.info()
    # Of cluster-info the old CA leaves after the new one has come.
    assert len(one.api.changed) == len(set(one.api.changed)) + 1, one.api.changed


# An event before and one after each write; what is between two writes is one moment.
EVENTS = {"on": 94, "back": 94, "abort": 66}
PART = 24


@pytest.mark.sample
def test_commands_that_die_are_taken_up(clusters: ClusterFactory, tmp_path: Path, drawn: Drawn) -> None:
    """One adoption goes on after each of some deaths, and one goes back after the first."""
    # A death takes away an event that would have come.
    whole(clusters, tmp_path / "on", "on", drawn.some(range(EVENTS["on"] - 5), 5))
    whole(clusters, tmp_path / "back", "back", [40 + drawn.below(50)], drawn.some(range(40), 3))


@pytest.mark.on_node
@pytest.mark.parametrize(
    ("way", "cuts"),
    [
        *(
            pytest.param(way, range(3, events, 28), id=f"{way}, some", marks=pytest.mark.conformance)
            for way, events in EVENTS.items()
        ),
        *(
            pytest.param(
                way, range(first, min(first + PART, events), 2), id=f"{way} {first}", marks=pytest.mark.exhaustive
            )
            for way, events in EVENTS.items()
            for first in range(1, events, PART)
        ),
    ],
)
def test_a_command_that_dies_is_taken_up(
    clusters: ClusterFactory, tmp_path: Path, way: str, cuts: Sequence[int]
) -> None:
    for at in cuts:
        assert at < whole(clusters, tmp_path / str(at), way, [at])


@pytest.mark.conformance
@pytest.mark.on_node
@pytest.mark.parametrize("way", ["on", "abort"])
def test_these_are_all_the_events(clusters: ClusterFactory, tmp_path: Path, way: str) -> None:
    assert whole(clusters, tmp_path / "uncut", way, ()) == EVENTS[way]
