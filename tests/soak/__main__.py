"""Hours of renewals under faults: `make soak` (SOAK_HOURS, default 2; SOAK_SEED for the same faults once more).

Three resident agents hold every row of the table at the shortest comfortable life, 60 seconds, from a raft cluster of
three OpenBao servers. All the while servers are killed, sealed and frozen, one or all of them, and agents are killed
and restarted. Ends with 1, and says why, where any reader ever met an expired, torn or missing file, where more was
signed than the bound, or where an agent grew; prints its figures as Markdown.
"""

from __future__ import annotations

import contextlib
import http.client
import os
import platform
import random
import signal
import statistics
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from helpers.vault import raft_cluster, servers
from helpers.vault.applied_cluster import AppliedCluster
from helpers.vault.raft_cluster import Cluster
from helpers.vault.servers import Server
from soak.agents import Agent
from soak.watch import Reader, Waiter, watching, working
from vaultpki.certificates import laid_out
from vaultpki.model import NodeRole
from vaultpki.places import Layout

TTL = 60
# A renewal is due after half of the life at the earliest.
EARLIEST = TTL / 2
# With a renewal due after two thirds of the life at the latest, so long may nobody lead.
BEARABLE = TTL / 3 - 2
# What may come to nothing within an hour before the brakes pause (node/backoff.py), plus those after the pauses.
SPENT_AN_HOUR = 40

SPEC = f"""\
allow_short_ttl: true
defaults: {{ttl: {TTL}s}}
certificates:
  admin: {{ttl: 1h}}
api_server: {{names: [api.example.com], endpoint: "https://api.example.com:6443"}}
nodes:
- {{name: cp-1, roles: [control-plane, etcd], addresses: [10.0.0.11]}}
- {{name: worker-1, roles: [worker], addresses: [10.0.0.21]}}
pools:
- {{name: autoscaled, roles: [worker], node_names: "w-*"}}
"""
ROLES: dict[str, set[NodeRole]] = {
    "cp-1": {NodeRole.CONTROL_PLANE, NodeRole.ETCD},
    "worker-1": {NodeRole.WORKER},
    "w-1": {NodeRole.WORKER},
}
POOL, POOLED = "autoscaled", "w-1"
# This one is never restarted, so that hours of its memory can be seen.
OLDEST = "cp-1"


@dataclass(slots=True)
class Soak:
    """The run: who takes part, what was done to them, and what is to be said at the end."""

    cluster: Cluster
    agents: dict[str, Agent]
    chance: random.Random
    done: dict[str, int] = field(default_factory=dict)
    outages: list[tuple[float, float]] = field(default_factory=list)
    ends: list[float] = field(default_factory=list)
    wrong: list[str] = field(default_factory=list)

    # Faults: each leaves everything running again

    def leader_killed(self) -> None:
        leader = self.cluster.leader()
        leader.stop()
        self.pause(4, 10)
        revive(leader)

    def all_killed(self) -> None:
        for node in self.cluster.nodes:
            node.stop()
        self.pause(1, 4)
        self.start_all()

    def start_all(self) -> None:
        for node in self.cluster.nodes:
            node.stop()
            node.runner.start()
        for node in self.cluster.nodes:
            raft_cluster.join_cluster(node)

    def leader_sealed(self) -> None:
        leader = self.cluster.leader()
        leader.seal()
        self.pause(3, 8)
        # Unsealed as it is, OpenBao 2.7.2 may answer for a leader that it is not any more, and the cluster has none.
        leader.stop()
        revive(leader)

    def all_sealed(self) -> None:
        for node in sorted(self.cluster.nodes, key=lambda node: node is self.cluster.leader()):
            with contextlib.suppress(AssertionError, OSError):
                node.seal()
        self.pause(2, 5)
        self.start_all()

    def leader_frozen(self) -> None:
        leader = self.cluster.leader()
        leader.freeze()
        self.pause(3, 10)
        leader.thaw()

    def all_frozen(self) -> None:
        for node in self.cluster.nodes:
            node.freeze()
        self.pause(2, 9)
        for node in self.cluster.nodes:
            node.thaw()

    def agent_killed(self) -> None:
        one = self.another()
        one.kill()
        self.pause(0, 5)
        one.start()

    def agent_ended(self) -> None:
        one = self.another()
        assert one.process is not None
        began = time.monotonic()
        one.process.send_signal(signal.SIGTERM)
        code = one.process.wait(30)
        self.ends.append(time.monotonic() - began)
        if code != 0:
            self.wrong.append(f"{one.node.name} ended with {code} after SIGTERM")
        self.pause(0, 5)
        one.start()

    def agent_reread(self) -> None:
        one = self.chance.choice([*self.agents.values()])
        assert one.process is not None
        one.process.send_signal(signal.SIGHUP)

    def recover(self) -> None:
        """Waits for a leader, and starts all servers again where none comes."""
        for _ in range(10):
            with contextlib.suppress(AssertionError):
                self.cluster.leader(20)
                return
            self.done["no leader came, all restarted"] = self.done.get("no leader came, all restarted", 0) + 1
            with contextlib.suppress(AssertionError):
                self.start_all()
        raise AssertionError("the servers could not be brought back")

    def another(self) -> Agent:
        return self.chance.choice([one for name, one in self.agents.items() if name != OLDEST])

    def pause(self, least: float, most: float) -> None:
        time.sleep(self.chance.uniform(least, most))

    # The run

    def faults(self) -> list[Callable[[], None]]:
        servers_ = [self.leader_killed, self.all_killed, self.leader_sealed, self.all_sealed]
        servers_ += [self.leader_frozen, self.all_frozen]
        return [*servers_, self.agent_killed, self.agent_killed, self.agent_ended, self.agent_reread]

    def run(self, until: float) -> None:
        """Fault after fault, each when the last one is over and every certificate had the time to be renewed."""
        while time.time() < until:
            one = self.chance.choice(self.faults())
            name = one.__name__.replace("_", " ")
            print(f"{clock(time.time())} {name}", flush=True)
            # Under load a fault may meet servers that still choose a leader.
            with contextlib.suppress(AssertionError):
                one()
            self.done[name] = self.done.get(name, 0) + 1
            self.recover()
            for agent in self.agents.values():
                if agent.process is None or agent.process.poll() is not None:
                    self.wrong.append(f"{agent.node.name} is not running any more")
                    agent.start()
            time.sleep(min(self.chance.uniform(TTL / 3, TTL), max(until - time.time(), 0)))

    @contextlib.contextmanager
    def measured(self) -> Iterator[None]:
        """What agents take of memory, and when no server leads, until the block is left."""
        ended = threading.Event()

        def memory() -> None:
            while not ended.wait(10):
                for agent in self.agents.values():
                    with contextlib.suppress(OSError, ValueError):
                        agent.measure()

        def away() -> None:
            since: float | None = None
            while not ended.wait(0.3):
                if any(leads(node) for node in self.cluster.nodes):
                    if since is not None:
                        self.outages.append((since, time.time()))
                    since = None
                elif since is None:
                    since = time.time()

        with working(ended, memory, away):
            yield


def leads(node: Server) -> bool:
    if not node.runner.alive():
        return False
    try:
        # A read proves nothing: OpenBao's standbys answer those by themselves, and nobody may be there to sign.
        return node.api("GET", "sys/health", token="", timeout=1).status == 200
    except (OSError, http.client.HTTPException, ValueError):
        return False


def revive(node: Server) -> None:
    node.runner.start()
    raft_cluster.join_cluster(node)


def clock(when: float) -> str:
    return time.strftime("%H:%M:%S", time.gmtime(when))


def stems(node: str) -> tuple[str, ...]:
    return tuple(row.stem for row in laid_out(Layout.DOCUMENT) if row.node_roles & ROLES[node])


def pairs(role: str) -> int:
    """How many pairs are signed by a PKI role: a pool has roles of its own for the rows with addresses alone."""
    own = {name: f"-{POOL}" if name == POOLED else "" for name in ROLES}
    return sum(
        role == f"{row.name}{own[name] if row.addressed else ''}"
        for name, roles in ROLES.items()
        for row in laid_out(Layout.DOCUMENT)
        if row.node_roles & roles
    )


def equipped(cluster: Cluster, place: Path) -> dict[str, Agent]:
    applied = AppliedCluster(cluster.leader(), place / "cluster", "soak")
    applied.write(SPEC)
    addresses = ", ".join(f"'{one}'" for one in cluster.addresses)
    applied.file.write_text(applied.file.read_text().replace(f"['{applied.server.address}']", f"[{addresses}]"))
    applied.apply()
    cluster.leader()
    agents = {}
    for name in ROLES:
        node = applied.equip(name, pool=POOL if name == POOLED else None, further="poll: 30s\n")
        node.configure(f"['{applied.server.address}']", f"[{addresses}]")
        agents[name] = Agent(node)
    return agents


def signings(cluster: Cluster, prefix: str) -> dict[tuple[str, str], int]:
    """How often the servers were asked to sign, by node's kind of AppRole and PKI role, out of their audit log."""
    found: dict[tuple[str, str], int] = {}
    # All of them write to one.
    for entry in cluster.nodes[0].audited():
        path, operation = entry["request"]["path"], entry["request"]["operation"]
        if not path.startswith(f"{prefix}/") or "/sign/" not in path or operation not in servers.WRITES:
            continue
        # A standby tries by itself before it hands a request on to the leader, and both log it.
        turned_down = entry["type"] == "response" and "readonly storage" in (entry.get("error") or "")
        mount, _, role = path.partition("/sign/")
        count = 1 if entry["type"] == "request" else -turned_down
        found[mount, role] = found.get((mount, role), 0) + count
    return found


def main() -> int:
    hours = float(os.environ.get("SOAK_HOURS", "2"))
    seed = int(os.environ.get("SOAK_SEED", str(random.SystemRandom().randrange(1 << 30))))
    with contextlib.ExitStack() as stack:
        place = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="vaultpki-soak-")))
        (place / "raft").mkdir()
        # Quicker elections than by default, when one takes as long as a 60-second certificate bears.
        running = raft_cluster.running_cluster("bao", place / "raft", raft="  performance_multiplier = 3\n", audit=True)
        soak = Soak(stack.enter_context(running), {}, random.Random(seed))  # noqa: S311 - faults, no secrets
        soak.agents = agents = equipped(soak.cluster, place)
        for agent in agents.values():
            stack.callback(agent.kill)
            agent.start()
        readers = [Reader(name, agent.node.pki, stems(name)) for name, agent in agents.items()]
        servers.wait_for(
            lambda: all((reader.pki / f"{stem}.pem").exists() for reader in readers for stem in reader.stems),
            60,
            lambda: "no certificates came",
        )
        waiters = {
            (reader.node, stem): Waiter(reader.pki / f"{stem}.crt") for reader in readers for stem in reader.stems
        }
        began = time.time()
        with watching(readers, waiters), soak.measured():
            soak.run(began + hours * 3600)
            # Long enough for whatever was due in the last outage.
            time.sleep(TTL / 2)
        took = time.time() - began
        for name, agent in agents.items():
            if agent.faulty():
                soak.wrong.append(f"{name} told of a fault of its own")
        signed = signings(soak.cluster, "vaultpki/soak")
        report(soak, readers, waiters, signed, took, seed)
        keep = os.environ.get("SOAK_LOGS")
        if keep:
            for name, agent in agents.items():
                (Path(keep) / f"{name}.log").write_bytes((agent.node.folder / "log").read_bytes())
    print("\n".join(soak.wrong) or "nothing was wrong", flush=True)
    return 1 if soak.wrong else 0


def report(
    soak: Soak,
    readers: list[Reader],
    waiters: dict[tuple[str, str], Waiter],
    signed: dict[tuple[str, str], int],
    took: float,
    seed: int,
) -> None:
    """Judges and prints."""
    wrong, excused = soak.wrong, 0
    for reader in readers:
        for when, text in reader.faults:
            away = max((end - start for start, end in soak.outages if when - TTL < end and start < when), default=0.0)
            note = f" (nobody led for {away:.1f} s before)" if away else ""
            if text.endswith("expired") and away > BEARABLE:
                excused += 1
            else:
                wrong.append(f"{clock(when)} {text}{note}")
    rotations = {(reader.node, stem): seen for reader in readers for stem, seen in reader.rotations.items()}
    lags = list(missed(rotations, waiters, wrong))
    bound = took / EARLIEST + SPENT_AN_HOUR * (1 + took / 3600)
    each = {key: count / pairs(key[1]) for key, count in signed.items()}
    for (mount, role), count in each.items():
        if count > bound:
            wrong.append(f"{mount}/sign/{role} was asked {count:.0f} times for each pair, and {bound:.0f} is the bound")
    total, seen = sum(signed.values()), sum(map(len, rotations.values()))
    first, last = quarters(soak.agents[OLDEST].memory)
    if last > first * 1.05 + 1024:
        wrong.append(f"{OLDEST} grew from {first / 1024:.1f} to {last / 1024:.1f} MiB")
    lengths = [end - start for start, end in soak.outages] or [0.0]
    rows = [
        ("time", f"{took / 3600:.2f} h"),
        ("pairs watched", str(len(waiters))),
        ("faults", ", ".join(f"{count} {name}" for name, count in sorted(soak.done.items()))),
        ("time without a leader", f"{len(soak.outages)} times, the longest {max(lengths):.1f} s"),
        ("looks at all pairs", f"{min(reader.looks for reader in readers)}"),
        ("longest pause between two looks", f"{max(reader.longest_pause for reader in readers):.1f} s"),
        ("rotations seen", str(seen)),
        ("expired, torn or missing", str(sum(len(reader.faults) for reader in readers) - excused)),
        (f"expired after more than {BEARABLE:.0f} s without a leader", str(excused)),
        ("least life left in a live pair", f"{min(reader.least_left for reader in readers):.1f} s of {TTL}"),
        (
            "signings asked of the servers",
            f"{total}, {total / max(seen + len(waiters), 1):.3f} for each pair installed",
        ),
        ("most for one pair", f"{max(each.values()):.0f}; the bound is {bound:.0f}"),
        ("inotify after a swap", f"median {statistics.median(lags):.1f} s, longest {max(lags):.1f} s"),
        ("SIGTERM to end", f"longest {max(soak.ends, default=0.0):.2f} s of {len(soak.ends)}"),
        (f"memory of {OLDEST}", f"first quarter {first / 1024:.1f} MiB, last quarter {last / 1024:.1f} MiB"),
    ]
    print(f"\nSeed {seed}, {platform.python_implementation()} {platform.python_version()}, {os.cpu_count()} cores.\n")
    print("| what | figure |\n|---|---|")
    for what, figure in rows:
        print(f"| {what} | {figure} |")
    print(flush=True)


def missed(
    rotations: dict[tuple[str, str], list[tuple[float, int]]],
    waiters: dict[tuple[str, str], Waiter],
    wrong: list[str],
) -> Iterator[float]:
    """Seconds from each swap to its event; a swap whose event never came before the next one was missed."""
    yield 0.0
    for key, seen in rotations.items():
        met = {serial: when for when, serial in waiters[key].met}
        for when, serial in seen:
            if serial in met:
                yield met[serial] - when
            elif (when, serial) != seen[-1]:
                wrong.append(f"{clock(when)} {key[0]}: inotify told nothing of a new {key[1]}")


def quarters(memory: list[tuple[float, int]]) -> tuple[float, float]:
    """The medians of the first quarter, and of the last."""
    values = [taken for _, taken in memory]
    share = max(len(values) // 4, 1)
    return statistics.median(values[:share]), statistics.median(values[-share:])


if __name__ == "__main__":
    sys.exit(main())
