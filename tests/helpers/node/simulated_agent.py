"""A resident agent as passes in this process, whose clock only the test moves, and the record that it polls."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, Self

from helpers.vault.applied_cluster import AppliedCluster, NodeFolder
from vaultpki.agent import run
from vaultpki.agent.context import Outcome
from vaultpki.config.agent import load_agent
from vaultpki.host import hook_runner
from vaultpki.node.procedures import Procedures
from vaultpki.procedures import ON_NODES
from vaultpki.records import changes
from vaultpki.records.changes import Changes

ONE_WORKER: Final = """\
api_server: {endpoint: "https://api.example.com:6443", names: [api.example.com]}
nodes:
- {name: worker-1, roles: [worker], addresses: [10.0.0.21]}
"""
"""A cluster.yaml for whom any node will do."""


@dataclass(slots=True)
class SimulatedAgent:
    """An agent that stays; `outcome` is that of its last pass, an empty one after a pass that failed as a whole."""

    cluster: AppliedCluster
    node: NodeFolder
    clock: float = field(default_factory=time.time)
    outcome: Outcome = field(default_factory=Outcome)
    procedures: Procedures = ON_NODES
    runner: hook_runner.Runner = field(default_factory=lambda: hook_runner.Runner(done=lambda: None))

    @classmethod
    @contextlib.contextmanager
    def standing(cls, cluster: AppliedCluster, folder: Path) -> Iterator[Self]:
        """One of worker-1 in a new folder that has looked at everything, while nobody changes anything."""
        settle(cluster)
        made = cls(cluster, cluster.equip("worker-1", folder=folder))
        assert made.at(made.clock).renewed
        yield made
        made.runner.stop()

    def at(self, clock: float, *, share: float = run.DAEMON_SHARE, force: Collection[str] = ()) -> Outcome:
        """A pass at this time, with what the one before has left in memory."""
        rest, self.clock, self.outcome = self.outcome.rest, clock, Outcome()
        options = run.PassOptions(self.procedures, settle=False, share=share, rest=rest, force=frozenset(force))
        self.outcome = run.run(load_agent(self.node.config), options, clock=clock, runner=self.runner)
        return self.outcome


def put_changes(cluster: AppliedCluster, record: Mapping[str, Any]) -> None:
    """Write anything in the place of the record that agents poll."""
    answer = cluster.server.api("POST", f"{cluster.prefix}/config/data/{changes.CHANGES}", {"data": dict(record)})
    assert answer.status == 200, answer


def settle(cluster: AppliedCluster, *, settled: bool = True) -> None:
    """A new version of that record."""
    put_changes(cluster, changes.to_json(Changes(settled=settled)))


def delete_entities(cluster: AppliedCluster) -> None:
    """No token that a listed node has is of use any more."""
    api = cluster.server.api
    listed = api("GET", "identity/entity/id?list=true")
    for each in listed.data["keys"] if listed.status == 200 else ():
        about = api("GET", f"identity/entity/id/{each}").data
        # The alias of a mount that another test removed names none.
        if any(alias.get("mount_path") == f"auth/{cluster.prefix}/listed/" for alias in about["aliases"]):
            assert api("DELETE", f"identity/entity/id/{each}").status == 204
