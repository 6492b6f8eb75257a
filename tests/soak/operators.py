"""Hours of CA rotations by operators who get in each other's way: `make soak-operators`, on each server in turn.

Clusters of three shapes stand on one server, and each rotates one CA after the other, the root too, forward and back
as it comes. Up to two operators at once take each step, and are killed at any moment. Meanwhile agents are killed and
stay away, somebody plans, applies and changes issuers by hand, and the server is frozen. `--liars` has one cluster of
forty nodes in their place, of which five lie in their reports. Ends with 1, and says why, where a leaf was of no CA in
a bundle of its domain, where a rotation did not end or `plan` wanted something after it, or where a command or an agent
told of a fault of its own; prints its figures as Markdown.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import platform
import random
import re
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, wait
from dataclasses import dataclass, field
from pathlib import Path

from helpers.node import node_components
from helpers.node.reporting_nodes import record_of
from helpers.vault import servers
from helpers.vault.applied_cluster import AppliedCluster, Ran, environment
from helpers.vault.servers import Server
from soak.agents import Agent, told_of_a_fault
from soak.liars import Liar
from soak.printed import brief, say
from soak.watch import working
from vaultpki.certificates import ROOT, bundle, pair_files, rows
from vaultpki.pki import x509
from vaultpki.records.rotation import DOMAINS
from vaultpki.rotation.root_gates import OUTSIDE, PODS

KINDS = ("bao", "vault")
SHAPES = (
    {"cp-1": "control-plane, etcd", "m-2": "etcd", "m-3": "etcd", "w-9": "worker"},
    {"cp-1": "control-plane, etcd, worker", "cp-2": "control-plane, etcd"},
    {"only": "control-plane, etcd, worker"},
)
# Forty nodes of which five lie; those of the pool do.
FLEET = {f"cp-{number}": "control-plane, etcd" for number in range(1, 4)} | {
    f"w-{number}": "worker" for number in range(4, 39)
}
POOLED, LIARS = ("p-1", "p-2"), ("w-36", "w-37", "w-38")
# A fleet of which every node makes a pass every ten seconds would leave nothing of two processors for operators.
POLL = {len(FLEET): "30s"}
COMMAND_SECONDS = 300.0
# A gate opens within seven minutes, and a node is away for two.
MOST_SECONDS = 30 * 60.0
PASS_SECONDS = 30.0
# How often: an operator is killed; a second one is there; one thinks again, once for each state.
KILLED, BESIDE, THINKS_AGAIN = 0.4, 0.5, 0.2
# How often something happens to a cluster between two steps, and how often somebody changes issuers before one.
DISTURBED, MEDDLED = 0.3, 0.05


@dataclass(slots=True)
class BusyCluster:
    """A cluster, its agents, and all who work on it until it is `over`.

    `back_at` are the nodes that are away, with when they return. `done` counts what was done and seen; `wrong` are
    sentences about what must not be. `liars` report what is false; `named` are those that a command has named, which
    operators leave out from then on.
    """

    cluster: AppliedCluster
    agents: Mapping[str, Agent]
    chance: random.Random
    over: threading.Event
    back_at: dict[str, float] = field(default_factory=dict)
    done: Counter[str] = field(default_factory=Counter)
    wrong: list[str] = field(default_factory=list)
    liars: Mapping[str, Liar] = field(default_factory=dict)
    named: set[str] = field(default_factory=set)

    def command(self, *words: str, killed: float = 0.0) -> Ran | None:
        """What an operator runs; None if it was killed at some moment, which happens so often."""
        strikes = self.chance.random() < killed
        command = [sys.executable, "-m", "vaultpki", *words, "-f", str(self.cluster.file)]
        self.done["commands"] += 1
        try:
            ran = subprocess.run(
                command,
                env=environment(self.cluster.environment()),
                stdin=subprocess.DEVNULL,
                capture_output=True,
                text=True,
                check=False,
                timeout=self.chance.uniform(0.3, 2.5) if strikes else COMMAND_SECONDS,
            )
        except subprocess.TimeoutExpired:
            self.done["commands killed"] += 1
            if not strikes:
                self.tell(f"`{' '.join(words)}` did not end in {COMMAND_SECONDS:.0f} s")
            return None
        if told_of_a_fault(ran.stderr):
            self.tell(f"`{' '.join(words)}` failed: {ran.stderr}")
        if ran.returncode in (1, 3):
            self.named |= {name for name in self.liars if name in re.split(r"[^a-z0-9-]+", ran.stdout + ran.stderr)}
        if ran.returncode not in (0, 3):
            self.done["commands refused"] += 1
            say(f"{self.cluster.name}: {' '.join(words)}: {brief(ran.stderr)}")
        return ran

    def tell(self, sentence: str) -> None:
        say(f"{self.cluster.name}: WRONG: {sentence}")
        self.wrong.append(f"{self.cluster.name}: {brief(sentence)}")

    # Rotations

    def work(self) -> None:
        """Rotates one CA after the other."""
        try:
            while not self.over.is_set():
                self.rotate()
        except (AssertionError, OSError, ValueError, LookupError) as error:
            self.tell(f"{type(error).__name__}: {error}")

    def rotate(self) -> None:
        """One CA, until its rotation is at rest."""
        domain = self.chance.choice(DOMAINS)
        how = ["--spread", "5s"]
        if domain != ROOT and self.chance.random() < 0.25:
            how.append("--same-key")
        say(f"{self.cluster.name}: rotate {domain} {' '.join(how)}")
        before = record_of(self.cluster, domain)
        last, since, back, words = None, time.monotonic(), False, set[str]()
        while (record := record_of(self.cluster, domain)) == before or (record is not None and record.active):
            if self.over.is_set():
                return
            if record is not None and record.active:
                if record.state is not last:
                    last, since = record.state, time.monotonic()
                    back ^= self.chance.random() < THINKS_AGAIN
                    say(f"{self.cluster.name}: {domain} is {record.state.value}{', goes back' if back else ''}")
                if self.chance.random() < MEDDLED:
                    self.meddle(domain)
                words = self.step("abort" if back else "continue", words)
            else:
                self.command("ca", "rotate", domain, *how, *self.without(), killed=KILLED)
            if time.monotonic() - since > MOST_SECONDS:
                status = self.command("ca", "status")
                raise AssertionError(
                    f"{domain} stays {last.value if last else 'as it was'}: {status and status.stdout}"
                )
            self.disturb()
            self.judge()
            time.sleep(self.chance.uniform(0.5, 6))
        ended = record.state.value if record is not None else "nothing"
        self.done[f"{domain}{' --same-key' if '--same-key' in how else ''} {ended}"] += 1
        say(f"{self.cluster.name}: {domain} is {ended}")
        self.settle()

    def step(self, act: str, words: set[str]) -> set[str]:
        """One step, by two operators now and then; what only a person can do of what it waits for then."""
        both = 1 + (self.chance.random() < BESIDE)
        told = [word for name in sorted(words) for word in ("--checked", name)] + self.without()
        with ThreadPoolExecutor(both) as operators:
            ran = operators.map(lambda _: self.command("ca", act, *told, "--json", killed=KILLED), range(both))
        found = set[str]()
        for each in ran:
            if each is not None and each.returncode in (0, 3):
                rotation = json.loads(each.stdout)["rotation"]
                found |= {one["node"] for one in rotation["waiting_for"]} & {OUTSIDE, PODS}
        return found

    def without(self) -> list[str]:
        """The words by which an operator leaves out the nodes that are known to lie."""
        return [word for name in sorted(self.named) for word in ("--without", name)]

    def settle(self) -> None:
        """Everybody is back and has passed; then all is trusted, and nothing is left to do."""
        self.come_back(everybody=True)
        time.sleep(PASS_SECONDS)
        self.judge()
        # Who was killed at the last write leaves the rest to the next command.
        self.command("ca", "continue")
        plan = self.command("plan", "--json")
        if plan is None or plan.returncode != 0 or json.loads(plan.stdout)["changes"]:
            self.tell(f"`plan` after a rotation: {plan and plan.stdout + plan.stderr}")

    # What else happens

    def disturb(self) -> None:
        self.come_back()
        if self.chance.random() < DISTURBED:
            acts: list[Callable[[], None]] = [self.kill, self.kill, self.send_away, self.plan, self.apply]
            self.chance.choice(acts)()

    def kill(self) -> None:
        """An agent is killed, and is soon back."""
        agent = self.chance.choice([*self.agents.values()])
        if agent.process is not None:
            self.done["agents killed"] += 1
            agent.kill()
            time.sleep(self.chance.uniform(0, 3))
            agent.start()

    def send_away(self) -> None:
        name = self.chance.choice([*self.agents])
        if not self.back_at:
            self.done["agents away"] += 1
            self.agents[name].kill()
            self.back_at[name] = time.monotonic() + self.chance.uniform(20, 120)

    def come_back(self, *, everybody: bool = False) -> None:
        for name, when in [*self.back_at.items()]:
            if everybody or when < time.monotonic():
                del self.back_at[name]
                self.agents[name].start()

    def plan(self) -> None:
        self.command("plan")

    def apply(self) -> None:
        self.command("apply", "--yes", killed=KILLED)

    def meddle(self, domain: str) -> None:
        """Somebody makes another issuer the default by hand, or forbids one to sign; the next step puts it right."""
        mount = f"{self.cluster.prefix}/{domain}"
        listed = self.cluster.server.api("LIST", f"{mount}/issuers").data["key_info"]
        issuer = self.chance.choice([*listed])
        self.done["changes by hand"] += 1
        if self.chance.random() < 0.5:
            self.cluster.server.api("POST", f"{mount}/config/issuers", {"default": issuer})
        else:
            usage = {"issuer_name": listed[issuer]["issuer_name"], "usage": "read-only,crl-signing"}
            self.cluster.server.api("POST", f"{mount}/issuer/{issuer}", usage)

    # What is looked at

    def judge(self) -> None:
        """Every leaf on every node is signed by a CA in each bundle of its domain; what a liar has is its own harm."""
        honest = [agent for name, agent in self.agents.items() if name not in self.liars]
        table = rows(self.cluster.model)
        # The leaves first: one may be replaced meanwhile, and trust in its CA ends only after that.
        leaves = [
            (holder, row, pem)
            for row in table
            for holder in honest
            if (pem := content(holder.node.pki / pair_files(row.stem)[0])) is not None
        ]
        # Most nodes have the same bundles.
        bundles: dict[str, dict[bytes, str]] = {}
        for ca in {row.ca for row in table}:
            for truster in honest:
                pem = content(truster.node.pki / bundle(ca))
                # A node without them trusts nobody, and needs nobody.
                if pem is not None:
                    bundles.setdefault(ca, {}).setdefault(pem, truster.node.name)
        for holder, row, leaf in leaves:
            for cas, truster_name in bundles.get(row.ca, {}).items():
                self.done["looks"] += 1
                if not trusted(leaf, cas):
                    self.tell(f"{holder.node.name}'s {row.name} is of no CA in {truster_name}'s bundle")


def content(file: Path) -> bytes | None:
    """What is in a file; None if it is not there."""
    with contextlib.suppress(FileNotFoundError):
        return file.read_bytes()
    return None


def trusted(leaf: bytes, cas: bytes) -> bool:
    """Whether a leaf is of one of these CAs."""
    return x509.issuer_of(x509.read_certificates(leaf)[0], x509.read_certificates(cas)) is not None


@contextlib.contextmanager
def standing(
    server: Server, folder: Path, shape: Mapping[str, str], chance: random.Random, over: threading.Event
) -> Iterator[BusyCluster]:
    """A cluster that is applied, whose agents run and have all their certificates."""
    cluster = AppliedCluster(server, folder, folder.name)
    nodes = [
        f"- {{name: {name}, roles: [{roles}], addresses: [10.0.0.{number}]}}"
        for number, (name, roles) in enumerate(shape.items(), start=11)
    ]
    head = 'api_server: {names: [api.example.com], endpoint: "https://api.example.com:6443"}'
    pools = ['pools: [{name: pool, roles: [worker], node_names: "p-*"}]'] if shape is FLEET else []
    cluster.write("\n".join((head, "nodes:", *nodes, *pools, "")))
    cluster.apply()
    further = f"poll: {POLL.get(len(shape), '10s')}\n"
    agents = {name: Agent(cluster.equip(name, further=further)) for name in shape}
    agents |= {name: Agent(cluster.equip(name, pool="pool", further="poll: 30s\n")) for name in POOLED if pools}
    liars = {
        name: Liar(cluster, agents[name].node, random.Random(chance.random()), "pool" if name in POOLED else None)  # noqa: S311
        for name in (*LIARS, *POOLED)
        if pools
    }
    with contextlib.ExitStack() as stack:
        for node in cluster.model.nodes:
            node_folder = agents[node.name].node
            # As the hooks of a real cluster, which restart components.
            node_components.add_hooks(node_folder)
            stack.enter_context(node_components.standing(node_folder, node.roles))
        for agent in agents.values():
            stack.callback(agent.kill)
            agent.start()
        servers.wait_for(
            lambda: all(any(agent.node.pki.glob("*.pem")) for agent in agents.values()),
            PASS_SECONDS * max(1, len(agents) // 3),
            lambda: "no certificates came",
        )
        stack.enter_context(lying(liars.values(), chance))
        yield BusyCluster(cluster, agents, chance, over, liars=liars)


@contextlib.contextmanager
def lying(liars: Collection[Liar], chance: random.Random) -> Iterator[None]:
    """Every liar writes a false report again and again, over those of its own agent."""
    ended = threading.Event()

    def lie() -> None:
        while not ended.wait(chance.uniform(0.5, 3)):
            chance.choice([*liars]).lie()

    with working(ended, lie) if liars else contextlib.nullcontext():
        yield


@contextlib.contextmanager
def frozen_now_and_then(server: Server, chance: random.Random, done: Counter[str]) -> Iterator[None]:
    """A server that takes connections and answers nobody for some seconds, every other minute."""
    ended = threading.Event()

    def freeze() -> None:
        while not ended.wait(chance.uniform(60, 180)):
            server.freeze()
            ended.wait(chance.uniform(2, 10))
            server.thaw()
            done["times that the server was frozen"] += 1

    with working(ended, freeze):
        yield


def on(
    kind: str, binary: Path | None, folder: Path, hours: float, seed: int, shapes: Sequence[Mapping[str, str]]
) -> tuple[Counter[str], list[str]]:
    """All clusters on one server: what was done, and what was wrong. Ctrl-C ends it early."""
    chances = [random.Random(f"{seed} {kind} {number}") for number in range(len(shapes) + 1)]  # noqa: S311 - no secrets
    done, over = Counter[str](), threading.Event()
    with contextlib.ExitStack() as stack:
        server = stack.enter_context(servers.running(kind, folder / "server", binary))
        clusters = [
            stack.enter_context(standing(server, folder / f"{kind}-{number}", shape, chances[number], over))
            for number, shape in enumerate(shapes)
        ]
        stack.enter_context(frozen_now_and_then(server, chances[-1], done))
        with ThreadPoolExecutor(len(clusters)) as together:
            works = [together.submit(busy.work) for busy in clusters]
            with contextlib.suppress(KeyboardInterrupt):
                wait(works, timeout=hours * 3600)
            over.set()
        for busy in clusters:
            if busy.liars:
                busy.done["lies that Vault took"] = sum(liar.told for liar in busy.liars.values())
            for name, agent in busy.agents.items():
                if agent.faulty():
                    busy.tell(f"{name} told of a fault of its own")
    return sum((busy.done for busy in clusters), done), [sentence for busy in clusters for sentence in busy.wrong]


def report(found: Sequence[tuple[str, Counter[str], Sequence[str]]], hours: float, seed: int) -> int:
    """Print the table, and what was wrong; return the exit code."""
    print(
        f"\nSeed {seed}, {platform.python_implementation()} {platform.python_version()}, {os.cpu_count()} cores, ",
        end="",
    )
    print(f"{hours:.2f} h on each server.\n")
    print(f"| what | {' | '.join(kind for kind, _, _ in found)} |\n|---|{'---|' * len(found)}")
    for what in sorted(set[str]().union(*(done for _, done, _ in found))):
        print(f"| {what} | {' | '.join(str(done[what]) for _, done, _ in found)} |")
    wrong = [f"{kind}: {sentence}" for kind, _, sentences in found for sentence in sentences]
    print("\n" + ("\n".join(wrong) or "nothing was wrong"), flush=True)
    return 1 if wrong else 0


def main() -> int:
    parser = argparse.ArgumentParser(prog="soak.operators", description=__doc__)
    parser.add_argument("--vault-binary", type=Path)
    parser.add_argument("--server", action="append", choices=KINDS, help="default: both in turn")
    parser.add_argument("--liars", action="store_true", help="one cluster of forty nodes, of which five lie")
    asked = parser.parse_args()
    shapes = (FLEET,) if asked.liars else SHAPES
    hours = float(os.environ.get("SOAK_HOURS", "2"))
    seed = int(os.environ.get("SOAK_SEED", str(random.SystemRandom().randrange(1 << 30))))
    with tempfile.TemporaryDirectory(prefix="vaultpki-soak-") as place:
        found = [
            (kind, *on(kind, asked.vault_binary, Path(place) / kind, hours, seed, shapes))
            for kind in asked.server or KINDS
        ]
    return report(found, hours, seed)


if __name__ == "__main__":
    sys.exit(main())
