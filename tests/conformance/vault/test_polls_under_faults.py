"""A hundred agents at rest on three OpenBao servers, whose leader is killed, frozen, or cut off from the others.

POLLS_SEED=N takes the faults in another order, POLLS_AGENTS=N as many agents.
"""

from __future__ import annotations

import contextlib
import http.client
import os
import random
import shutil
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest

from helpers.kube import machines
from helpers.kube.machines import Lan
from helpers.node.simulated_agent import SimulatedAgent
from helpers.vault import raft_cluster
from helpers.vault.applied_cluster import AppliedCluster
from helpers.vault.raft_cluster import Cluster, Place
from helpers.vault.servers import Server, wait_for
from vaultpki.config.agent import load_agent
from vaultpki.errors import Unavailable, VaultpkiError
from vaultpki.host.boot_time import Moment
from vaultpki.model import AgentConfig
from vaultpki.node import assignment, at_rest, credential
from vaultpki.node.assignment import Assignment, HeldBefore
from vaultpki.node.at_rest import AtRest
from vaultpki.node.procedures import records_of
from vaultpki.procedures import ON_NODES
from vaultpki.provision import apply
from vaultpki.records import changes
from vaultpki.records.changes import CHANGES, Changes
from vaultpki.records.server_facts import ServerFacts
from vaultpki.vault import client
from vaultpki.vault.answers import Raw, Request
from vaultpki.vault.transport import Transport

pytestmark = pytest.mark.conformance

AGENTS = int(os.environ.get("POLLS_AGENTS", "100"))
AT_ONCE = 8
# An agent gives a standby two seconds. Here all agents and servers share a machine, with clusters beside them: what is
# looked at is who is asked, and not how soon the answer comes.
STANDBY_SECONDS = 60.0
POLL = 300
PASSES = 60
SPEC = """\
api_server: {endpoint: "https://api.example.com:6443", names: [api.example.com]}
nodes:
- {name: worker-1, roles: [worker], addresses: [10.0.0.21]}
"""
HOSTS = {f"bao-{number}": f"{machines.NETWORK}.{10 + number}" for number in range(3)}
ASKED = f"config/data/{CHANGES}"
# Which no agent reads.
PROBE = "config/data/probe"


@dataclass(slots=True)
class Agent:
    """What an agent asks of Vault, without its files: a look at everything, and the polls after it."""

    config: AgentConfig
    rest: AtRest | None = None
    seen: Assignment | None = None
    looks: int = 0

    def poll(self) -> None:
        """As passes do: a poll, or a look at everything; again for a Vault that cannot answer now."""
        for _ in range(PASSES):
            try:
                if self.rest is not None and self.rest.ask() == self.rest.mark:
                    return
            except Unavailable:
                # A standby that becomes the leader answers nobody for a moment.
                time.sleep(0.5)
            except VaultpkiError:
                break
            else:
                break
        else:
            raise AssertionError("Vault does not answer any more")
        self.rest = None
        self.looks += 1
        now = time.time()
        vault = credential.login(self.config)
        vault.prefer_active()
        self.seen = assignment.fetch(self.config, vault, now, HeldBefore({}, None, records_of(ON_NODES)))
        self.rest = at_rest.after_look(self.config, vault, self.seen, now, Moment("", 0.0))

    def look_again(self) -> None:
        """What a look leaves that finds nothing new, without most of its requests."""
        vault = credential.login(self.config)
        vault.prefer_active()
        assert self.seen is not None
        mark = changes.settled_mark(vault.stored(f"{self.config.prefix}/config", CHANGES))
        seen = replace(self.seen, mark=mark)
        self.rest = at_rest.after_look(self.config, vault, seen, time.time(), Moment("", 0.0))


@dataclass(slots=True)
class Fleet:
    """The agents of a cluster on three servers, and one with its files; `sent` counts requests by server and path."""

    lan: Lan
    servers: Cluster
    cluster: AppliedCluster
    agents: list[Agent]
    whole: SimulatedAgent
    sent: Counter[tuple[str, str]]

    def poll(self) -> int:
        """Every agent polls once, many at a time; answers how many looked at everything."""
        self.sent.clear()
        before = sum(agent.looks for agent in self.agents)
        self._each(Agent.poll)
        return sum(agent.looks for agent in self.agents) - before

    def an_hour_later(self) -> None:
        # A standby that was away may be long in catching up where servers share a slow machine.
        self._wait_for_newest(ASKED)
        self._each(Agent.look_again)
        assert self.all_at_rest()

    def agree(self) -> None:
        """Wait until the one that leads takes a change, and each of the three has it.

        It may be the one that led before the fault, elected again: OpenBao then says of it that it led all the time.
        """
        self._write(self.servers.nodes, PROBE, {"data": {}})
        self._wait_for_newest(PROBE)

    def _wait_for_newest(self, path: str) -> None:
        wait_for(lambda: self._having_newest(path) == len(HOSTS), 120, lambda: "a server has an old copy", pause=0.2)

    def _write(self, nodes: Sequence[Server], path: str, record: dict[str, Any]) -> Server:
        """Write it through the one of these that leads, and answer which one that is."""
        led: list[Server] = []

        def taken() -> bool:
            # A new leader says that it leads some moments before it takes requests, a former one after.
            led[:] = [leader_of(nodes)]
            with contextlib.suppress(OSError, http.client.HTTPException):
                return led[0].api("POST", f"{self.cluster.prefix}/{path}", record, timeout=10).status == 200
            return False

        wait_for(taken, 60, lambda: "no change is taken", pause=0.2)
        return led[0]

    def _having_newest(self, path: str) -> int:
        """How many servers answer with the newest version of the record that any of them has."""
        found: Counter[int] = Counter()
        for node in self.servers.nodes:
            with contextlib.suppress(OSError, http.client.HTTPException):
                answer = node.api("GET", f"{self.cluster.prefix}/{path}", timeout=2)
                if answer.status == 200:
                    found[answer.data["metadata"]["version"]] += 1
        return found[max(found)] if found else 0

    def _each(self, work: Callable[[Agent], None]) -> None:
        with ThreadPoolExecutor(AT_ONCE) as pool:
            list(pool.map(work, self.agents))

    def whole_pass(self) -> None:
        assert not self.whole.at(self.whole.clock + POLL).failures

    def polls_at(self, server: Server) -> int:
        return sum(count for (at, path), count in self.sent.items() if at == server.address and path.endswith(ASKED))

    @property
    def requests(self) -> int:
        return self.sent.total()

    def change(self, nodes: Sequence[Server]) -> Server:
        """Tell nodes of a change through the one of these that leads; known to every server that is not cut off."""
        leader = self._write(nodes, ASKED, {"data": changes.to_json(Changes(settled=True))})
        # One of the three is cut off, or does not run.
        wait_for(lambda: self._having_newest(ASKED) > 1, 120, lambda: "only one server has it", pause=0.2)
        time.sleep(1)
        return leader

    def all_at_rest(self) -> bool:
        return all(agent.rest is not None for agent in self.agents)

    def cut_off(self, server: Server, *, off: bool = True) -> None:
        """Take this server's network to the two others, and theirs to it; people and agents still reach all three."""
        mine = urlsplit(server.address).hostname
        for machine in self.lan.machines.values():
            far = [mine] if machine.address != mine else [each for each in HOSTS.values() if each != mine]
            for host in far:
                machine.run("ip", "route", "add" if off else "del", "blackhole", f"{host}/32")


@pytest.fixture
def sent(monkeypatch: pytest.MonkeyPatch) -> Counter[tuple[str, str]]:
    """What is sent from now on."""
    counted: Counter[tuple[str, str]] = Counter()
    lock, send = threading.Lock(), Transport.send

    def counting(self: Transport, origin: str, request: Request, token: str, deadline: float) -> Raw:
        with lock:
            counted[origin, request.path] += 1
        return send(self, origin, request, token, deadline)

    monkeypatch.setattr(Transport, "send", counting)
    return counted


@pytest.fixture
def fleet(tmp_path: Path, sent: Counter[tuple[str, str]], monkeypatch: pytest.MonkeyPatch) -> Iterator[Fleet]:
    monkeypatch.setattr(client, "_STANDBY_SECONDS", STANDBY_SECONDS)
    with machines.lan(tmp_path / "lan", HOSTS) as lan, lan.outside.network():
        places = [Place(machine.address, tuple(machine.behind)) for machine in lan.machines.values()]
        with raft_cluster.running_cluster("bao", tmp_path / "raft", places=places) as servers:
            cluster = AppliedCluster(servers.leader(), tmp_path / "cluster", "fleet")
            cluster.write(SPEC)
            # Not as a process: the one that commands are forked from is in the network of the whole run.
            apply.apply(cluster.model, cluster.client(), ServerFacts((), None), first=None, progress=lambda _: None)
            node = cluster.equip("worker-1")
            node.configure(cluster.server.address, "', '".join(servers.addresses))
            agents = [Agent(load_agent(node.config)) for _ in range(AGENTS)]
            for number, agent in enumerate(agents):
                state = tmp_path / "states" / str(number)
                shutil.copytree(node.state, state)
                agent.config = replace(agent.config, state=str(state))
            time.sleep(1)
            made = Fleet(lan, servers, cluster, agents, SimulatedAgent(cluster, node), sent)
            assert made.poll() == AGENTS
            assert made.all_at_rest()
            made.whole_pass()
            yield made
            made.whole.runner.stop()


def killed(fleet: Fleet, leader: Server) -> Callable[[], None]:
    leader.stop()
    return leader.start


def frozen(fleet: Fleet, leader: Server) -> Callable[[], None]:
    leader.freeze()
    return leader.thaw


def cut_off(fleet: Fleet, leader: Server) -> Callable[[], None]:
    fleet.cut_off(leader)
    return lambda: fleet.cut_off(leader, off=False)


def test_nobody_needs_a_person(fleet: Fleet) -> None:
    faults = [killed, frozen, cut_off]
    # Another order is another story: each fault meets what the one before it left.
    random.Random(int(os.environ.get("POLLS_SEED", "0"))).shuffle(faults)  # noqa: S311 - faults, no secrets
    a_standby_is_cut_off(fleet)
    for fault in faults:
        fleet.an_hour_later()
        leader = leader_of(fleet.servers.nodes)
        others = [node for node in fleet.servers.nodes if node is not leader]
        mend = fault(fleet, leader)
        # Before another one leads, and while nobody knows yet that one does not: the standbys answer. On a slow machine
        # some polls come while one of them is elected, which takes a few requests more, and no look at everything.
        assert fleet.poll() == 0, fault
        assert fleet.requests < 30 * AGENTS
        successor = fleet.change(others)
        assert fleet.poll() == AGENTS, fault
        assert fleet.all_at_rest()
        assert fleet.requests < 30 * AGENTS
        fleet.whole_pass()
        assert fleet.poll() == 0, fault
        mend()
        # A frozen leader goes on where it stopped, and one that was cut off learns of the other. On a slow machine they
        # may elect once more, so that any of the three leads.
        fleet.agree()
        assert fleet.poll() == 0, fault
        # One standby is known of the time of the fault, and takes turns with the active node.
        calm = leader_of(fleet.servers.nodes) is successor
        assert fleet.requests <= (4 if calm else 30) * AGENTS


def a_standby_is_cut_off(fleet: Fleet) -> None:
    """It goes on answering from its copy, in which nothing changes."""
    leader = leader_of(fleet.servers.nodes)
    stale, standby = (node for node in fleet.servers.nodes if node is not leader)
    assert fleet.poll() == 0
    assert fleet.requests == AGENTS
    # The standbys carry them all, in equal parts.
    assert fleet.polls_at(leader) == 0
    assert min(fleet.polls_at(stale), fleet.polls_at(standby)) > AGENTS / 4
    fleet.cut_off(stale)
    fleet.change([leader])
    looks = fleet.poll(), fleet.poll()
    assert looks[0] < AGENTS
    assert sum(looks) == AGENTS
    # It still names the leader that it knew, so an agent that has looked asks it once, and sees that it is behind.
    assert (fleet.poll(), fleet.poll()) == (0, 0)
    assert fleet.poll() == 0
    assert fleet.polls_at(stale) == 0
    assert fleet.requests <= 4 * AGENTS
    fleet.whole_pass()
    fleet.cut_off(stale, off=False)


def leader_of(nodes: Sequence[Server]) -> Server:
    """The one of them that leads, waited for; of two that say so, the one that came later.

    OpenBao 2.7.2: a frozen leader that goes on may say so for minutes.
    """
    since: dict[str, Server] = {}

    def led() -> bool:
        since.clear()
        for node in nodes:
            said = leader_status(node)
            if said.get("is_self"):
                since[said["active_time"]] = node
        return bool(since)

    wait_for(led, 60, lambda: "nobody leads", pause=0.1)
    return since[max(since)]


def leader_status(node: Server) -> dict[str, Any]:
    """What it answers to sys/leader; empty if nothing."""
    with contextlib.suppress(OSError, http.client.HTTPException):
        return node.api("GET", "sys/leader", token="", timeout=2).body
    return {}
