"""A wave: 1,000 nodes renew three certificates each by the agent's own code, beside the most that the server signs.

The agents run in one process, `agent.run.run` with files on a RAM disk, and renew by force, since nothing is due so
soon. In life each has a machine of its own, and here all share two cores with the server: so what counts is the
server's CPU for each certificate, beside that of a bare signature. What a second brings is told too.
"""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Final
from urllib.parse import urlsplit

from benchmarks import fleet
from benchmarks.agents import cpu
from benchmarks.timing import Result
from vaultpki.agent import pairs
from vaultpki.agent import run as agent_run
from vaultpki.agent.context import Outcome, PassOptions
from vaultpki.certificates import sign_parameters
from vaultpki.config.agent import load_agent
from vaultpki.config.cluster import load_cluster
from vaultpki.demo import run as demo_run
from vaultpki.host import hook_runner
from vaultpki.identity.access import node_certificates
from vaultpki.model import AgentConfig, Certificate, Cluster, KeyType, NodeRole
from vaultpki.pki import keys, x509
from vaultpki.provision import apply
from vaultpki.records import report_paths
from vaultpki.records.changes import CHANGES
from vaultpki.records.server_facts import ServerFacts
from vaultpki.vault import Request, Settings, Vault

# The servers are those of the tests, since a cluster of three is made there.
sys.path.append(str(Path(__file__).parents[1] / "tests"))
from helpers.vault import raft_cluster, servers
from vaultpki.procedures import ON_NODES

FLEET: Final = 1000
# As many more look at everything, as agents do that do not stay.
LOOKING: Final = 100
GOAL: Final = 2.0
_THREADS: Final = 4
_IDLE_SECONDS: Final = 5.0
_PROCESSES: Final = 3
_RAM: Final = Path("/dev/shm")  # noqa: S108 - files of a benchmark
_NAME: Final = f"wave of {FLEET} nodes x 3 certificates"
_SPEC: Final = """\
cluster: bench
vault: {{addresses: ["{address}"], ca_file: "{ca_file}"}}
api_server: {{endpoint: "https://api.bench.example:6443", names: [api.bench.example], addresses: [10.0.0.10]}}
defaults: {{no_store: {no_store}}}
"""


_Ready = tuple[str, str, str]


@dataclass(frozen=True, slots=True)
class Servers:
    """Running servers with one raft storage: how to reach the leader, all processes, its data and the audit log."""

    address: str
    ca_file: Path
    token: str = field(repr=False)
    pids: tuple[int, ...]
    data: Path
    audit: Path

    def cpu(self) -> float:
        """Return the CPU seconds of all of them until now."""
        return sum(cpu(pid) for pid in self.pids)

    def stored(self) -> int:
        """Return the bytes on the leader's disk."""
        return sum(file.stat().st_blocks * 512 for file in self.data.rglob("*") if file.is_file())

    def requests(self) -> int:
        """Return how many requests the audit log has."""
        with self.audit.open("rb") as stream:
            return sum(b'"type":"request"' in line for line in stream)


@dataclass(slots=True)
class Agent:
    """One resident agent: its configuration, and what its last pass left."""

    config: AgentConfig
    certificates: tuple[Certificate, ...]
    outcome: Outcome = field(default_factory=Outcome)
    runner: hook_runner.Runner = field(default_factory=lambda: hook_runner.Runner(done=lambda: None))

    def run(self, *, look: bool = False) -> int:
        """Make a pass, and return how many certificates it got; ends the benchmark if it failed."""
        rest = None if look else self.outcome.rest
        options = PassOptions(
            ON_NODES, force=frozenset({pairs.EVERY}), settle=False, share=agent_run.DAEMON_SHARE, rest=rest
        )
        self.outcome = agent_run.run(self.config, options, runner=self.runner)
        if self.outcome.failures or len(self.outcome.renewed) != len(self.certificates):
            sys.exit(f"{self.config.node} did not renew, so the figures mean nothing: {self.outcome.failures}")
        return len(self.outcome.renewed)


@dataclass(frozen=True, slots=True)
class Spent:
    """What `count` signatures took: seconds, CPU seconds of all servers, bytes on the leader's disk, and requests."""

    count: int
    seconds: float
    cpu: float
    size: int
    requests: int

    @property
    def each(self) -> float:
        """Milliseconds of the servers' CPU for each."""
        return self.cpu / self.count * 1000

    @property
    def rate(self) -> float:
        return self.count / self.seconds


def results(folder: Path, only: str) -> Iterator[Result]:
    """All that a wave is measured by, if `only` names it."""
    for count in (1, 3):
        name = f"{_NAME}, {'one server' if count == 1 else 'three servers'}"
        if only in name:
            with _servers(folder / f"wave-{count}", count) as there, tempfile.TemporaryDirectory(dir=_ram()) as place:
                yield from _measured(name, there, Path(place))


def _ram() -> Path | None:
    return _RAM if os.access(_RAM, os.W_OK) else None


def _measured(name: str, there: Servers, folder: Path) -> Iterator[Result]:
    vault = Vault(Settings((there.address,), ca_file=str(there.ca_file), token=there.token))
    cluster = _applied(there, vault, folder, no_store=False)
    agents = _agents(cluster, vault, folder)
    residents, others = agents[:FLEET], agents[FLEET:]
    with ThreadPoolExecutor(_THREADS) as pool:
        list(pool.map(Agent.run, agents))
        wave = _spent(there, lambda: sum(pool.map(Agent.run, residents)))
        looks = _spent(there, lambda: sum(pool.map(lambda agent: agent.run(look=True), others)))
    around = _around(cluster, vault, residents)
    limit, whole = _limit(there, residents, folder), _limit(there, residents, folder, around)
    _applied(there, vault, folder, no_store=True)
    unstored, whole_unstored = _limit(there, residents, folder), _limit(there, residents, folder, around)
    bare = "a bare signature"
    for what, ours, goal in (("", wave, GOAL), (", by whole looks", looks, None)):
        asked = f"{ours.requests / ours.count * 3:.1f} requests a node"
        label = f"{name}{what} ({asked}), CPU of the servers for each"
        yield Result(label, "ms", "a renewed certificate", bare, (ours.each,), (limit.each,), goal)
        label = f"{name}{what}, each second"
        yield Result(label, "/s", "renewed, in one Python", bare, (ours.rate,), (limit.rate,), None)
    stored = "stored"
    for each, beside, kept in ((whole, limit, stored), (whole_unstored, unstored, "no_store")):
        label = f"{name}, the same requests ready-made, {kept}"
        sides = [(1000 / spent.rate,) for spent in (each, beside)]
        goal = GOAL if kept == stored else None
        yield Result(label, "ms", "for a certificate", bare, sides[0], sides[1], goal)
    yield Result(f"{name}, a bare signature, CPU", "ms", "no_store", stored, (unstored.each,), (limit.each,), None)
    yield Result(f"{name}, bare signatures", "/s", "no_store", stored, (unstored.rate,), (limit.rate,), None)
    sizes = [each.size / each.count for each in (unstored, limit)]
    yield Result(f"{name}, bytes on each disk", "B", "no_store", stored, (sizes[0],), (sizes[1],), None)


def _applied(there: Servers, vault: Vault, folder: Path, *, no_store: bool) -> Cluster:
    spec = folder / "cluster.yaml"
    head = _SPEC.format(address=there.address, ca_file=there.ca_file, no_store=str(no_store).lower())
    spec.write_text(head + fleet.nodes(FLEET + LOOKING + 3), encoding="utf-8")
    cluster = load_cluster(spec)
    where = ServerFacts((there.address,), cluster.vault.ca_pem)
    apply.apply(cluster, vault, where, first=None, progress=lambda change: None)
    return cluster


def _agents(cluster: Cluster, vault: Vault, folder: Path) -> list[Agent]:
    root = vault.call(Request("GET", f"{cluster.mount('root')}/issuer/default/json")).data
    pin = x509.fingerprint(str(root.get("certificate")).encode())
    nodes = [node for node in cluster.nodes if node.roles == {NodeRole.WORKER}]
    files = vault.map(lambda node: demo_run.equip(folder / node.name, cluster, node, vault, pin), nodes)
    return [Agent(load_agent(file), node_certificates(cluster, node)) for file, node in zip(files, nodes, strict=True)]


def _around(cluster: Cluster, vault: Vault, agents: Sequence[Agent]) -> dict[str, tuple[_Ready, _Ready]]:
    """Return what each agent sends before and after its signing requests: the poll, and its report."""
    store = cluster.mount("config")

    def of(agent: Agent) -> tuple[_Ready, _Ready]:
        path = report_paths.listed(agent.config.node)
        body = json.dumps({"data": vault.stored(store, path)["data"]})
        return ("GET", f"{store}/data/{CHANGES}", ""), ("POST", f"{store}/data/{path}", body)

    return dict(zip([agent.config.node for agent in agents], vault.map(of, agents), strict=True))


def _limit(
    there: Servers, agents: Sequence[Agent], folder: Path, around: Mapping[str, tuple[_Ready, _Ready]] | None = None
) -> Spent:
    """Return what the signatures take that the agents asked for, by ready requests with their own tokens.

    With `around` the agents' other requests are sent too.
    """
    requests = []
    csr = {kind: keys.request(keys.generate_key(kind), agents[0].certificates[0].subject) for kind in KeyType}
    for agent in agents:
        if agent.outcome.rest is None:
            sys.exit(f"{agent.config.node} keeps no token, so it does not poll")
        token = agent.outcome.rest.vault.settings.token
        ready = [
            ("POST", f"{want.mount}/sign/{want.role}", json.dumps(sign_parameters(want, csr[want.key])))
            for want in agent.certificates
        ]
        if around is not None:
            first, last = around[agent.config.node]
            ready = [first, *ready, last]
        requests += [(token, *each) for each in ready]
    count = sum(len(agent.certificates) for agent in agents)
    address = urlsplit(there.address)
    told = {"host": address.hostname, "port": address.port, "ca_file": str(there.ca_file), "requests": requests}
    file = folder / "signatures.json"
    file.touch(0o600)
    file.write_text(json.dumps(told), encoding="utf-8")
    seconds = 0.0

    def send() -> int:
        nonlocal seconds
        program = str(Path(__file__).with_name("signatures.py"))
        command = [sys.executable, program, str(file), str(_PROCESSES)]
        seconds = float(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
        return count

    return replace(_spent(there, send), seconds=seconds)


def _spent(there: Servers, work: Callable[[], int]) -> Spent:
    """Return what the work takes, without what idle servers take of themselves."""
    before = there.cpu()
    time.sleep(_IDLE_SECONDS)
    idle = (there.cpu() - before) / _IDLE_SECONDS
    size, asked, before, begin = there.stored(), there.requests(), there.cpu(), time.perf_counter()
    count = work()
    seconds = time.perf_counter() - begin
    spent = there.cpu() - before - idle * seconds
    return Spent(count, seconds, spent, there.stored() - size, there.requests() - asked)


@contextlib.contextmanager
def _servers(folder: Path, count: int) -> Iterator[Servers]:
    if count == 1:
        with servers.running("bao", folder) as server:
            yield _running([server], server.audit_log)
        return
    with raft_cluster.running_cluster("bao", folder, audit=True) as cluster:
        yield _running([cluster.leader(), *cluster.standbys()], folder / "audit.log")


def _running(every: Sequence[servers.Server], audit: Path) -> Servers:
    leader = every[0]
    runners = [each.runner for each in every]
    pids = [each.running.pid for each in runners if isinstance(each, servers.Process) and each.running is not None]
    return Servers(leader.address, leader.ca_file, leader.token, tuple(pids), leader.folder / "data", audit)
