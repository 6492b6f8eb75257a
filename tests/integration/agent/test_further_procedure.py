"""A procedure that this file declares, and nothing else names: one record, two phases, and a file on the node."""

from __future__ import annotations

import contextlib
import enum
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import ClassVar, Final

import pytest

from helpers.node.simulated_agent import SimulatedAgent, settle
from helpers.vault.applied_cluster import AppliedCluster, NodeFolder
from helpers.vault.cluster_factory import ClusterFactory
from vaultpki.agent import run, status
from vaultpki.agent.context import Outcome
from vaultpki.ca.announced import announced
from vaultpki.config.agent import load_agent
from vaultpki.disk import files
from vaultpki.errors import StateConflict, VaultpkiError
from vaultpki.host.log import Event
from vaultpki.issue.rotations import RecordRead
from vaultpki.model import AgentConfig
from vaultpki.node import assignment, state
from vaultpki.node.assignment import Assignment
from vaultpki.node.procedures import Followed, MachineStanding, PassMade, Procedures
from vaultpki.node.state import AgentState
from vaultpki.procedure.envelope import Envelope, ProcedureRecord
from vaultpki.procedure.phases import NEW, OLD, Phase, Side, table
from vaultpki.procedures import ON_NODES
from vaultpki.records.node_report import NodeReport
from vaultpki.records.rotation import MOST_AHEAD, REVISION, ROTATION_FOLDER
from vaultpki.values.json_object import TIME, Object, OneOf

pytestmark = pytest.mark.on_node

SPEC = """\
api_server: {names: [api.example.com], endpoint: "https://api.example.com:6443"}
nodes:
- {name: worker-1, roles: [worker], addresses: [10.0.0.21]}
"""
NAME: Final = "lamp"
POLL: Final = 300.0
RECORD: Final = f"config/data/{ROTATION_FOLDER}/{NAME}"


class LampState(enum.Enum):
    DARK = "dark"
    LIT = "lit"


LAMP: Final = table({"dark": Phase(OLD, OLD, OLD, OLD, "lit"), "lit": Phase(NEW, NEW, NEW, NEW, home="dark")}).of(
    LampState
)


@dataclass(frozen=True, slots=True)
class LampRecord(Envelope[LampState]):
    FORGOTTEN: ClassVar = ()

    state: LampState
    revision: int
    since: datetime


FIELDS: Final = Object(
    LampRecord,
    {"state": OneOf(LampState), "revision": REVISION, "since": TIME},
    "a record of a lamp",
    "look at it",
    version=True,
)


class Lamp:
    """Keeps a file on each node in LIT, with the revision that asked for it, and none in DARK."""

    OWN_RECORD = ProcedureRecord(NAME, FIELDS.read)

    @contextlib.contextmanager
    def entered(self, config: AgentConfig, wait: float) -> Iterator[AgentConfig]:
        yield config

    def standing(self, config: AgentConfig, wanted: Assignment | None, known: AgentState) -> MachineStanding:
        return MachineStanding(sentence="The lamp is lit." if files.exists(_file(config)) else "")

    def report(
        self, made: NodeReport, config: AgentConfig, wanted: Assignment, known: AgentState, clock: float
    ) -> NodeReport:
        # Whether Vault was asked or the copy was enough.
        assert NAME in wanted.procedures
        return made

    def follow(
        self, config: AgentConfig, clock: float, made: PassMade, *, allow_http: bool, alive: Callable[[], None]
    ) -> Followed:
        try:
            wanted = assignment.copy(config, (self.OWN_RECORD,))
            read = wanted.procedures[NAME] if wanted is not None else RecordRead()
            record, held = read.record, int(files.read_private(_file(config)) or 0)
            if read.not_followed:
                return Followed({"lamp": StateConflict(f"its record is of revision {read.not_followed}")})
            lit = record is not None and LAMP.phases[record.state].takes is Side.NEW
            if record is None or record.revision == held or not (lit or held):
                return Followed()
            if record.revision < held:
                return Followed({"lamp": StateConflict(f"its record is older than revision {held}")})
            if lit:
                files.write_private(_file(config), str(record.revision).encode())
            else:
                Path(_file(config)).unlink(missing_ok=True)
        except VaultpkiError as error:
            return Followed({"lamp": error})
        return Followed(events=(Event("lamp", f"the lamp is {record.state.value}"),))


def _file(config: AgentConfig) -> str:
    return os.path.join(config.state, "lamp")


WITH_LAMP: Final[Procedures] = (*ON_NODES, Lamp())


@pytest.fixture(scope="module")
def cluster(shared_clusters: ClusterFactory) -> AppliedCluster:
    return shared_clusters.applied(SPEC)


def passed(node: NodeFolder) -> Outcome:
    return run.run(load_agent(node.config), run.PassOptions(WITH_LAMP, settle=False, share=0.0))


def lamp_events(outcome: Outcome) -> list[str]:
    assert not outcome.failures, outcome.failures
    return [each.text for each in outcome.events if each.name == "lamp"]


def write(cluster: AppliedCluster, record: LampRecord) -> None:
    path = f"{cluster.prefix}/{RECORD}"
    assert cluster.server.api("POST", path, {"data": FIELDS.write(record)}).status == 200


def test_a_further_procedure_needs_no_change_elsewhere(cluster: AppliedCluster, tmp_path: Path) -> None:
    node, now = cluster.equip("worker-1", folder=tmp_path / "node"), datetime.now(UTC)
    assert lamp_events(passed(node)) == [] and not (node.state / "lamp").exists()
    first = LampRecord(LampState.DARK, 1, now).moved(LAMP.onward[LampState.DARK], now)
    write(cluster, first)
    assert lamp_events(passed(node)) == ["the lamp is lit"] and lamp_events(passed(node)) == []
    config = load_agent(node.config)
    seen = status.of_node(config, now, WITH_LAMP, ask=False)
    assert seen.standings[-1] == "The lamp is lit." and not seen.faults
    # An older record is not followed, and the main job goes on.
    write(cluster, LampRecord(LampState.DARK, 1, now))
    behind = passed(node)
    assert [*behind.failures] == ["lamp"] and behind.first_expiry is not None and (node.state / "lamp").exists()
    write(cluster, first.moved(LAMP.home[LampState.LIT], now))
    assert lamp_events(passed(node)) == ["the lamp is dark"] and not (node.state / "lamp").exists()
    # An agent that does not have the procedure takes no notice of it.
    write(cluster, LampRecord(LampState.LIT, 9, now))
    assert not run.run(config, run.PassOptions(ON_NODES, settle=False, share=0.0)).failures
    assert not (node.state / "lamp").exists()


def test_its_record_is_polled_and_kept_as_that_of_an_adoption(cluster: AppliedCluster, tmp_path: Path) -> None:
    node, now = cluster.equip("worker-1", folder=tmp_path / "node"), datetime.now(UTC)
    agent = SimulatedAgent(cluster, node, procedures=WITH_LAMP)

    def asked() -> list[str]:
        """The records that it reads at its next poll."""
        since = cluster.server.audit_position()
        agent.at(agent.clock + POLL)
        prefix = f"{cluster.prefix}/"
        found = [path.removeprefix(prefix) for what, path in cluster.server.requests(since) if what == "read"]
        return [path for path in found if path.startswith("config/")]

    first = LampRecord(LampState.DARK, 20, now)
    write(cluster, first)
    settle(cluster)
    agent.at(agent.clock)
    assert asked() == ["config/data/changes"] and lamp_events(agent.outcome) == []
    # As a command of its own would do it.
    with announced(cluster.model, cluster.client()) as notice:
        notice.begin()
        write(cluster, first.moved(LAMP.onward[LampState.DARK], now))
    assert asked().count(RECORD) == 1 and lamp_events(agent.outcome) == ["the lamp is lit"]
    assert asked() == ["config/data/changes"] and lamp_events(agent.outcome) == []
    # What Vault said last is on the disk, and which revision was read.
    (node.state / "lamp").unlink()
    config = load_agent(node.config)
    assert lamp_events(run.run(config, run.PassOptions(WITH_LAMP, settle=False))) == ["the lamp is lit"]
    assert state.load(config.state).revisions[NAME] == 21
    write(cluster, LampRecord(LampState.DARK, 22 + MOST_AHEAD, now))
    far = passed(node)
    assert [*far.failures] == ["lamp"] and "revision 1022" in str(far.failures["lamp"])
    assert (node.state / "lamp").exists() and state.load(config.state).revisions[NAME] == 21
