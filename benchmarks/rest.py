"""A fleet at rest: what 100 agents cost the server in a simulated hour, ours of 0.1.0, ours now, and `bao agent`."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from benchmarks import agents
from benchmarks.relay import Relay, relaying
from benchmarks.timing import Result
from vaultpki.config.cluster import load_cluster
from vaultpki.demo import openbao, run
from vaultpki.model import Cluster
from vaultpki.pki.x509 import fingerprint
from vaultpki.provision import apply
from vaultpki.records.server_facts import ServerFacts
from vaultpki.vault import Request, Settings, Vault

FLEET: Final = 100
GOAL: Final = 0.2
HOUR: Final = 3600.0
# Before that no agent of ours makes its next whole look.
_POLLS_ONLY: Final = 0.7 * HOUR
_OURS_HOURS: Final = 3
_IDLE_SECONDS: Final = 15.0
_PEERS: Final = 4
# The peer's token lives for a minute instead of an hour, so each minute is an hour of it.
_PEER_TTL: Final = 60
_PEER_HOURS: Final = 3
_RENEWALS: Final = 1000
_NAME: Final = "100 agents at rest for an hour"
_BEFORE: Final = "0.1.0"
_SPEC: Final = """\
cluster: {name}
vault: {{addresses: ["https://127.0.0.1:{port}"], ca_file: server/ca.crt}}
api_server: {{endpoint: "https://api.bench.example:6443", names: [api.bench.example], addresses: [10.0.0.10]}}
nodes:
"""
_WRITES: Final = frozenset({"create", "update", "delete", "patch"})


@dataclass(frozen=True, slots=True)
class Cost:
    """What a fleet costs: requests, those that write, entries of the raft log, bytes, and the server's CPU seconds."""

    requests: float = 0.0
    writes: float = 0.0
    entries: float = 0.0
    size: float = 0.0
    cpu: float = 0.0

    def of(self, each: float) -> Cost:
        """Return it multiplied by `each`."""
        return Cost(*(value * each for value in (self.requests, self.writes, self.entries, self.size, self.cpu)))

    def since(self, before: Cost) -> Cost:
        return Cost(
            self.requests - before.requests,
            self.writes - before.writes,
            self.entries - before.entries,
            self.size - before.size,
            self.cpu - before.cpu,
        )


@dataclass(slots=True)
class Ground:
    """A server on raft, its audit log, and a relay before it that counts bytes; the cluster has nodes for all sides."""

    folder: Path
    server: openbao.Embedded
    relay: Relay
    vault: Vault
    clusters: dict[str, Cluster]
    idle: tuple[float, float] = (0.0, 0.0)
    _read: int = 0
    _seen: Cost = field(default_factory=Cost)

    @property
    def audit(self) -> Path:
        return self.folder / "audit.log"

    def pin(self, cluster: Cluster) -> str:
        root = self.vault.call(Request("GET", f"{cluster.mount('root')}/issuer/default/json")).data
        return fingerprint(str(root.get("certificate")).encode())

    def cost(self) -> Cost:
        """Return what everything until now has cost. No audit log has this request."""
        leader = self.vault.call(Request("GET", "sys/leader")).body
        with self.audit.open("rb") as stream:
            stream.seek(self._read)
            new = stream.read()
        new = new[: new.rfind(b"\n") + 1]
        self._read += len(new)
        asked = [entry["request"] for entry in map(json.loads, new.splitlines()) if entry["type"] == "request"]
        self._seen = Cost(
            self._seen.requests + len(asked),
            self._seen.writes + sum(each["operation"] in _WRITES for each in asked),
        )
        return Cost(
            self._seen.requests,
            self._seen.writes,
            float(leader["raft_applied_index"]),
            float(self.relay.passed),
            agents.cpu(self.server.pid),
        )

    def rest(self) -> None:
        """Measure what the server does by itself: CPU and entries of its log, in a second."""
        before = self.cost()
        time.sleep(_IDLE_SECONDS)
        spent = self.cost().since(before)
        self.idle = (spent.cpu / _IDLE_SECONDS, spent.entries / _IDLE_SECONDS)

    @contextlib.contextmanager
    def counting(self, into: list[Cost]) -> Iterator[None]:
        """Append what the block costs, without what the server does by itself."""
        before, began = self.cost(), time.monotonic()
        yield
        spent, seconds = self.cost().since(before), time.monotonic() - began
        cpu, entries = self.idle
        into.append(
            Cost(spent.requests, spent.writes, spent.entries - entries * seconds, spent.size, spent.cpu - cpu * seconds)
        )


@contextlib.contextmanager
def ground(folder: Path) -> Iterator[Ground]:
    """A server with three clusters of workers: `old`, which 0.1.0 applied, `now` and `peer`, which this release did."""
    folder.mkdir()
    (folder / "raft").mkdir()
    extract(commit(_BEFORE), folder / _BEFORE)
    with (
        openbao.start(folder / "server", audit_file=folder / "audit.log", raft=folder / "raft") as server,
        relaying(int(server.address.rpartition(":")[2])) as relay,
    ):
        vault = Vault(Settings((server.address,), ca_file=str(server.ca_file), token=server.token))
        clusters = {}
        for side, count in (("old", FLEET), ("now", FLEET), ("peer", _PEERS)):
            lines = [f"- {{name: w-{n}, roles: [worker], addresses: [10.0.1.{n + 1}]}}\n" for n in range(count)]
            spec = folder / f"{side}.yaml"
            spec.write_text(_SPEC.format(name=side, port=relay.port) + "".join(lines), encoding="utf-8")
            clusters[side] = cluster = load_cluster(spec)
            if side == "old":
                _apply(folder / _BEFORE, spec, server)
            else:
                where = ServerFacts(cluster.vault.addresses, cluster.vault.ca_pem)
                apply.apply(cluster, vault, where, first=None, progress=lambda change: None)
        made = Ground(folder, server, relay, vault, clusters)
        # What apply set going is done by then.
        time.sleep(_IDLE_SECONDS)
        made.rest()
        yield made


def _apply(source: Path, spec: Path, server: openbao.Embedded) -> None:
    environment = {
        "PATH": os.defpath,
        "PYTHONPATH": str(source),
        "VAULT_ADDR": server.address,
        "VAULT_CACERT": str(server.ca_file),
        "VAULT_TOKEN": server.token,
    }
    command = [sys.executable, "-m", "vaultpki", "apply", "-f", str(spec), "--yes"]
    done = subprocess.run(command, env=environment, cwd=spec.parent, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        sys.exit(f"the earlier release applied nothing: {done.stderr[-500:]}")


def results(folder: Path, only: str) -> Iterator[Result]:
    """What a fleet at rest is measured by, if `only` names it."""
    if only not in _NAME:
        return
    with ground(folder / "rest") as there:
        old, _ = _ours(there, "old", there.folder / _BEFORE, 1)
        now, polls = _ours(there, "now", Path(__file__).parents[1], _OURS_HOURS)
        peer = _peer(there)
    names = f"vaultpki {_BEFORE}", "vaultpki", "bao agent"
    for unit, what, goal in (
        ("requests", "requests", None),
        ("KiB", "size", None),
        ("entries", "entries", None),
        ("s", "cpu", GOAL),
    ):
        sides = [getattr(each, what) / (1024 if unit == "KiB" else 1) for each in (old, now, peer)]
        label = {"s": "CPU of the server", "entries": "raft log"}.get(unit, unit)
        yield Result(f"{_NAME}, {label}", unit, names[1], names[0], (sides[1],), (sides[0],), goal)
        yield Result(f"{_NAME}, {label}", unit, names[1], names[2], (sides[1],), (sides[2],), None)
    name = f"{_NAME}, between whole looks"
    yield Result(f"{name}, requests that write", "requests", names[1], "one", (polls.writes,), (1.0,), 0.0)
    # A server of its own accord writes a few entries, so less than one for ten agents is none.
    yield Result(f"{name}, raft log", "entries", names[1], "a tenth", (polls.entries,), (FLEET / 10,), 1.0)
    yield Result(f"{name}, CPU of the server", "s", names[1], names[0], (polls.cpu,), (old.cpu,), None)


def _ours(there: Ground, side: str, source: Path, hours: int) -> tuple[Cost, Cost]:
    """Return what an hour of a fleet of ours costs, and the first three quarters of one, in which it only polls."""
    folder = there.folder / side
    folder.mkdir()
    cluster = there.clusters[side]
    pin = there.pin(cluster)
    for number, node in enumerate(cluster.nodes):
        run.equip(folder / str(number), cluster, node, there.vault, pin)
    program = str(Path(__file__).with_name("rest_passes.py"))
    spent: list[Cost] = []
    with subprocess.Popen(
        [sys.executable, program, str(folder), str(FLEET)],
        env={"PATH": os.defpath, "PYTHONPATH": str(source)},
        cwd=there.folder,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        try:
            _until(process, 0.0)
            for end in (_POLLS_ONLY, hours * HOUR):
                with there.counting(spent):
                    _until(process, end)
        finally:
            process.kill()
    return spent[0].since(spent[1].of(-1.0)).of(1 / hours), spent[0]


def _until(process: subprocess.Popen[str], seconds: float) -> None:
    assert process.stdin is not None and process.stdout is not None  # noqa: S101 -- for mypy: they were asked for
    process.stdin.write(f"{seconds}\n")
    process.stdin.flush()
    told = process.stdout.readline().split()
    if len(told) != 2 or told[1] != "0":
        sys.exit(f"the agents did not rest, so their figures mean nothing: {told}")


def _peer(there: Ground) -> Cost:
    """Return what an hour of `bao agent`s costs: as many requests as real ones send, each at the CPU of a renewal."""
    folder, spent = there.folder / "peer", list[Cost]()
    folder.mkdir()
    cluster = there.clusters["peer"]
    address = cluster.vault.addresses[0]
    with contextlib.ExitStack() as stack:
        for node in cluster.nodes:
            place = folder / node.name
            agents.equip_peer(cluster, node, place, there.vault, address, there.server.ca_file, _PEER_TTL)
            command = (openbao._binary(), "agent", f"-config={place / 'stay.hcl'}", "-log-level=warn")
            stack.enter_context(agents.running(command, {"PATH": os.defpath, "HOME": str(place)}))
        time.sleep(_PEER_TTL / 2)
        with there.counting(spent):
            time.sleep(_PEER_HOURS * _PEER_TTL)
    hour = spent[0].of(FLEET / _PEERS / _PEER_HOURS)
    token = there.vault.write("auth/token/create", {"ttl": "1h", "policies": ["bench-peer"]})["auth"]["client_token"]
    own = there.vault.as_token(str(token))
    with there.counting(spent):
        for _ in range(_RENEWALS):
            own.write("auth/token/renew-self", {})
    each = spent[1].of(1 / _RENEWALS)
    return Cost(hour.requests, hour.writes, each.entries * hour.requests, hour.size, each.cpu * hour.requests)


def commit(version: str) -> str:
    """Return the commit of a release."""
    lines = (Path(__file__).parents[1] / "RELEASES").read_text(encoding="utf-8").splitlines()
    return next(line.split()[2] for line in lines if line.split()[0] == version)


def extract(name: str, folder: Path) -> None:
    """Put the files of a commit into a new folder."""
    folder.mkdir()
    archive = subprocess.run(
        ["git", "-C", Path(__file__).parents[1], "archive", name], capture_output=True, check=True
    ).stdout
    subprocess.run(["tar", "-x", "-C", folder], input=archive, check=True)
