"""The five stages of a pass, looked at one by one, and what each may ask, read and build only once."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest

from helpers.node.simulated_agent import ONE_WORKER, SimulatedAgent, put_changes
from helpers.vault.applied_cluster import AppliedCluster
from helpers.vault.cluster_factory import ClusterFactory
from vaultpki.agent import ca_trust, done, known, run, said, told, wanted
from vaultpki.agent.context import Outcome
from vaultpki.disk.folders import Folders
from vaultpki.records import changes
from vaultpki.records.changes import Changes

pytestmark = pytest.mark.on_node

POLL = 300
PAIR = "kubelet.crt"


class Stages:
    """What each stage gave in the last pass, and how often trust was built and the kubelet's pair was read."""

    def __init__(self, patch: pytest.MonkeyPatch) -> None:
        self.gave: dict[str, Any] = {}
        self.counts = Counter[str]()
        for module, name in (
            (known, "from_disk"),
            (said, "ask"),
            (wanted, "from_answer"),
            (done, "carry_out"),
            (told, "tell"),
        ):
            patch.setattr(module, name, self._kept(getattr(module, name), module.__name__.rpartition(".")[2]))
        patch.setattr(ca_trust, "trust_of", self._counted(ca_trust.trust_of, lambda *_: "trust"))
        patch.setattr(Folders, "read", self._counted(Folders.read, lambda _, folder, stem, names: names[0]))

    def _kept(self, function: Callable[..., Any], stage: str) -> Callable[..., Any]:
        def call(*values: Any) -> Any:
            self.gave[stage] = function(*values)
            return self.gave[stage]

        return call

    def _counted(self, function: Callable[..., Any], what: Callable[..., str]) -> Callable[..., Any]:
        def call(*values: Any) -> Any:
            self.counts[what(*values)] += 1
            return function(*values)

        return call


@pytest.fixture(scope="module")
def cluster(shared_clusters: ClusterFactory) -> AppliedCluster:
    return shared_clusters.applied(ONE_WORKER)


@pytest.fixture
def agent(cluster: AppliedCluster, tmp_path: Path) -> Iterator[SimulatedAgent]:
    """An agent that has looked at everything, of a node in a new folder."""
    with SimulatedAgent.standing(cluster, tmp_path / "worker-1") as made:
        yield made


@pytest.fixture
def stages(agent: SimulatedAgent, monkeypatch: pytest.MonkeyPatch) -> Stages:
    return Stages(monkeypatch)


def test_each_stage_is_a_value_that_nobody_changes(agent: SimulatedAgent, stages: Stages) -> None:
    agent.at(agent.clock + POLL)
    assert list(stages.gave) == ["known", "said", "wanted", "done", "told"]
    assert isinstance(stages.gave["told"], Outcome)
    for value in stages.gave.values():
        with pytest.raises(AttributeError):
            setattr(value, fields(value)[0].name, None)
    assert stages.gave["said"].answer.certificates == stages.gave["known"].copy.certificates
    assert stages.gave["wanted"].items == stages.gave["known"].items
    assert stages.gave["done"].wanted.trust is stages.gave["wanted"].trust


def test_a_pass_with_nothing_to_do_asks_nobody(agent: SimulatedAgent, stages: Stages) -> None:
    agent.at(agent.clock + 1)
    assert stages.gave["known"].enough and stages.gave["said"].contact.vault is None
    assert stages.counts["trust"] == 1 and stages.counts[PAIR] == 2, stages.counts


def test_a_poll_builds_trust_once(agent: SimulatedAgent, stages: Stages) -> None:
    agent.at(agent.clock + POLL)
    assert stages.gave["said"].contact.polled
    assert stages.counts["trust"] == 1 and stages.counts[PAIR] == 2, stages.counts


def test_a_look_at_everything_builds_trust_once(agent: SimulatedAgent, stages: Stages) -> None:
    # As after a start: nothing is left in memory.
    agent.outcome = Outcome()
    agent.at(agent.clock + POLL, share=0.0)
    assert stages.gave["known"].trust is None and not stages.gave["said"].contact.by_copy
    assert stages.counts["trust"] == 1 and stages.counts[PAIR] == 2, stages.counts


def test_a_change_at_a_poll_reads_no_pair_again(agent: SimulatedAgent, stages: Stages, cluster: AppliedCluster) -> None:
    put_changes(cluster, changes.to_json(Changes(settled=False)))
    agent.at(agent.clock + POLL)
    # What follows from the copy and from the answer are two things.
    assert not stages.gave["said"].contact.polled
    assert stages.counts["trust"] == 2 and stages.counts[PAIR] == 2, stages.counts


def test_a_forced_renewal_reads_its_pair_twice(agent: SimulatedAgent, stages: Stages) -> None:
    outcome = agent.at(agent.clock + run.DAEMON_SHARE, share=0.0, force={"kubelet"})
    assert outcome.renewed == ("kubelet",), outcome.failures
    assert [item.want.name for item in stages.gave["wanted"].items if item.wants_signing] == ["kubelet"]
    assert not any(item.wants_signing for item in stages.gave["done"].items)
    assert stages.counts[PAIR] == 2, stages.counts
