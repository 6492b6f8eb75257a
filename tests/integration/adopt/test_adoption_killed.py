"""Each command of an adoption is killed around each of its writes, in Vault and in the cluster's API server.

The next one goes on, or back. A command keeps nothing on its own machine, so one that is killed at a read leaves what
the write before left.
"""

from __future__ import annotations

import functools
import json
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path

import pytest

from helpers.faults.kill_points import NEVER, Events, died
from helpers.kube.adopted_cluster import AUTHENTICATION_PATH, INFO_PATH, KEYS_PATH, AdoptedCluster, adopted
from helpers.kube.kubeadm_objects import Shape
from helpers.vault.cluster_factory import ClusterFactory
from vaultpki.adopt import drive, gates, writes
from vaultpki.adopt.drive import AdoptionWords
from vaultpki.identity import change_notice
from vaultpki.rotation.adoption_states import Side

METHODS = ("POST", "PUT", "DELETE")


class Operator:
    """Runs commands of one adoption, each in a process of its own: one dies at event number `at` of them all."""

    def __init__(self, one: AdoptedCluster, at: int) -> None:
        self.one, self.at = one, at
        self.events = Events()
        self.died = False

    def runs(self, command: Callable[[], object]) -> None:
        """Run a command, and look at what it left if it died."""
        before, told = self.one.record(), self._told()
        if not died(command, self.at, methods=METHODS, events=self.events):
            return
        self.died = True
        after = self.one.record()
        if after != before:
            # Nodes look again once the record of changes is a later one, so that comes before all that they follow.
            assert self._told() > told
            # One step at most, and never back.
            if before is not None and after is not None:
                known = before.state, *(gates.next_state(before.state, back=each) for each in (False, True))
                assert after.revision > before.revision and after.state in known

    def _told(self) -> int:
        return change_notice.read(self.one.cluster.model, self.one.cluster.client()).version

    def begins(self) -> None:
        while not self.one.state:
            self.runs(self.one.start)
        self.one.passes()

    def leads(self, *, back: bool = False, until_death: bool = False) -> None:
        """Lead the adoption to its end, by one way; or until a command has died."""
        one = self.one
        for _ in range(60):
            if not one.state or (until_death and self.died):
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


def whole(clusters: ClusterFactory, folder: Path, at: int, *, back: bool) -> int:
    """An adoption of which one command dies, and which is led on or back after that; how many events it had."""
    folder.mkdir()
    with adopted(clusters, folder, Shape(planes=1)) as one:
        before, operator = shown(one), Operator(one, at)
        operator.begins()
        operator.leads(until_death=back)
        if not operator.died:
            assert at >= operator.events.past
            assert one.state == "done"
        if back and one.state not in ("", "done"):
            operator.leads(back=True)
            assert one.state == "" and all(each.trust is each.leaves is Side.OLD for each in one.machines.values())
            assert {**shown(one), AUTHENTICATION_PATH: ""} == {**before, AUTHENTICATION_PATH: ""}
            assert one.objects.ca.pem in one.held(AUTHENTICATION_PATH, "client-ca-file")
            # Another one begins.
            operator.begins()
            return operator.events.past
        operator.leads()
        assert one.state == "done" and all(each.trust is each.leaves is Side.NEW for each in one.machines.values())
        assert one.objects.ca.pem not in one.held(AUTHENTICATION_PATH, "client-ca-file")
        assert one.info().count("BEGIN CERTIFICATE") == 1 and one.objects.ca.pem not in one.info()
        # Nothing was done twice.
        assert len(one.api.changed) == len(set(one.api.changed)) + 1, one.api.changed
        notice = change_notice.read(one.cluster.model, one.cluster.client())
        assert not notice.changing
        return operator.events.past


# One event before and one after each of an adoption's writes; what is between two writes is one moment.
MOST = 94


@pytest.mark.parametrize(
    ("back", "cuts"),
    [
        pytest.param(False, [5, 31], id="on, sample", marks=pytest.mark.sample),
        pytest.param(True, [47], id="back, sample", marks=pytest.mark.sample),
        pytest.param(False, [NEVER, *range(1, MOST, 2)], id="on", marks=pytest.mark.conformance),
        pytest.param(True, [*range(1, MOST, 2)], id="back", marks=pytest.mark.conformance),
    ],
)
def test_a_command_that_dies_is_taken_up(clusters: ClusterFactory, tmp_path: Path, back: bool, cuts: list[int]) -> None:
    for at in cuts:
        past = whole(clusters, tmp_path / str(at), at, back=back)
        assert at < past or (at == NEVER and past == MOST), past
