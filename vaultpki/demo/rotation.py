"""Rotates etcd's CA with three agents, and makes at each state the TLS handshakes that show who is let in.

The steps are those of `vaultpki ca`, the files are those that passes of the agents install. Only time is left out: the
demo moves the clock of operator and agents to where the next step may be taken.
"""

from __future__ import annotations

import ssl
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Final

from vaultpki.agent import run as agent
from vaultpki.ca import commands
from vaultpki.ca.run import Step
from vaultpki.certificates import bundle, pair_files
from vaultpki.config.agent import load_agent
from vaultpki.demo import run
from vaultpki.demo.run import DEMO_HEAD, AppliedExample
from vaultpki.errors import StateConflict
from vaultpki.model import AgentConfig
from vaultpki.pki import x509
from vaultpki.procedures import ON_NODES
from vaultpki.records.rotation import Method, State
from vaultpki.rotation.confirmations import Confirmations
from vaultpki.verify import handshake

_CA: Final = "etcd"
_SERVER, _CLIENT, _OUTSIDER = "etcdserver", "kube-apiserver-etcd", "kube-apiserver-kubelet"
_OUTSIDERS_CA: Final = "kubernetes"
# More than any state needs: each node gets its turn, and reports before and after.
_MOST_ROUNDS: Final = 20

_EXAMPLE: Final = (
    DEMO_HEAD
    + """\
nodes:
  - {{name: cp-1, roles: [control-plane, etcd, worker], addresses: [10.0.0.11]}}
  - {{name: cp-2, roles: [control-plane, etcd, worker], addresses: [10.0.0.12]}}
  - {{name: cp-3, roles: [control-plane, etcd, worker], addresses: [10.0.0.13]}}
"""
)


@dataclass(frozen=True, slots=True)
class Attempt:
    """One handshake: whether the client was let in, and whether it should have been.

    `why` is which side refused, and why. A client that gives up by itself was not refused.
    """

    let_in: bool
    expected: bool
    why: str = ""

    @property
    def ok(self) -> bool:
        return self.let_in == self.expected and (self.let_in or self.why.startswith("the server refuses"))


@dataclass(frozen=True, slots=True)
class ClientRow:
    """A client at one moment: what it is, and its attempts at the etcd server of each node."""

    client: str
    attempts: tuple[Attempt, ...]


@dataclass(frozen=True, slots=True)
class ShownState:
    """One moment of the rotation: what was done, in a sentence, and who is let in. `command` led to it, if any did.

    `waits` is for how many seconds the next step would wait from here if nothing else happened.
    """

    state: str
    command: str
    sentence: str
    clients: tuple[ClientRow, ...]
    waits: int = 0


@dataclass(slots=True)
class _PlayedNode:
    """A node on which the demo plays the TLS sides of etcd and of its client, kube-apiserver.

    As theirs, the pairs are read for each handshake and the CAs when the component starts. `knows_old` is whether a
    start was the last one before the old CA left the bundle.
    """

    config: AgentConfig
    server: ssl.SSLContext = field(init=False)
    client: ssl.SSLContext = field(init=False)
    knows_old: bool = True

    def pair(self, stem: str) -> tuple[Path, Path]:
        crt, key, _ = pair_files(stem)
        return Path(self.config.directory) / crt, Path(self.config.directory) / key

    def start(self, *, knows_old: bool) -> None:
        """Start both components: they read the bundle of etcd's CA."""
        trusted = (Path(self.config.directory) / bundle(_CA),)
        self.server = handshake.context(server=True, pair=self.pair(_SERVER), trusted=trusted)
        self.client = handshake.context(server=False, pair=self.pair(_CLIENT), trusted=trusted, names=True)
        self.knows_old = knows_old

    def serving(self) -> ssl.SSLContext:
        return _with_pair(self.server, self.pair(_SERVER))

    def calling(self) -> ssl.SSLContext:
        return _with_pair(self.client, self.pair(_CLIENT))

    def signer(self) -> str:
        """Return the CA that signed the client's certificate."""
        return x509.read_certificates(self.pair(_CLIENT)[0].read_bytes())[0].issuer_text.removeprefix("CN=")


@contextmanager
def rotation(directory: Path, *, port: int = 0) -> Iterator[CaRotation]:
    """Prepare the demo in `directory`; the server stops when the block ends. Raises as `run.applied`."""
    with run.applied(directory, _EXAMPLE, port=port) as example:
        yield CaRotation(example)


class CaRotation:
    """The rotation, state by state; `example` is the cluster, and `skipped` the seconds that were not waited."""

    def __init__(self, example: AppliedExample) -> None:
        self.example = example
        self.skipped = 0.0
        self._now = datetime.now(UTC)
        self._nodes: dict[str, _PlayedNode] = {}
        for node in example.cluster.nodes:
            folder = example.directory / "nodes" / node.name
            file = run.equip(folder, example.cluster, node, example.vault, example.root_sha256)
            self._nodes[node.name] = _PlayedNode(load_agent(file))
        self._copy: ssl.SSLContext | None = None

    @property
    def nodes(self) -> tuple[str, ...]:
        """The names of the nodes, in the order of the attempts."""
        return tuple(self._nodes)

    def states(self) -> Iterator[ShownState]:
        """Rotate the CA, and yield each moment that is worth a look."""
        self._passes(*self._nodes)
        run.admit_all(self.example, self._now)
        self._passes(*self._nodes)
        for node in self._nodes.values():
            node.start(knows_old=True)
        first = next(iter(self._nodes.values()))
        # Whoever has stolen the pair checks no server.
        self._copy = handshake.context(server=False, pair=first.pair(_CLIENT), trusted=())
        yield self._shown("before", "", "All certificates of etcd are of one CA.")
        example = self.example
        commands.rotate(example.cluster, example.vault, _CA, Method.NEW_KEY, 0, self._now)
        yield self._shown("prepared", f"ca rotate {_CA} --spread 0s", "Vault has made a key for the new CA.")

        self._reach(State.PUBLISHED)
        waits = self._settle()
        text = "Every bundle has both CAs, and each etcd was restarted with it, one after the other."
        yield self._shown("published", "ca continue", text, waits)

        self._reach(State.SWITCHED)
        *some, last = self._nodes
        self._passes(*some)
        text = f"Agents replace certificates by those of the new CA. That of {last} has not run yet; all talk to all."
        yield self._shown("switched", "ca continue", text)
        waits = self._settle()
        yield self._shown(
            "switched", "", "Every certificate in use is of the new CA. A copy of an old one still opens etcd.", waits
        )

        self._reach(State.RETIRED)
        self._passes(*self._nodes)
        restarted = self._restart_first()
        text = f"The old CA has left every bundle. {restarted} was restarted and refuses it; the others follow."
        yield self._shown("retired", "ca continue", text)
        waits = self._settle()
        yield self._shown("retired", "", "Every etcd has restarted: a certificate of the old CA opens nothing.", waits)

        self._reach(State.DONE)
        self._passes(*self._nodes)
        yield self._shown(
            "done", "ca continue", "The old CA and its key are deleted in Vault. Agents go on with the new one."
        )

    def _reach(self, state: State) -> None:
        """Take the step to a state, which must be the next one."""
        step = self._advance()
        if not step.moved or step.record.state is not state:
            waiting = step.gate.waiting if step.gate is not None else ()
            why = f"{waiting[0].node} {waiting[0].reason}" if waiting else f"it is {step.record.state.value}"
            raise StateConflict(f"the demo's rotation does not become {state.value}: {why}; please report it")

    def _settle(self) -> int:
        """Have agents pass and components restart by turns, until the next step waits for time only, and skip that.

        Returns how many seconds that is.
        """
        before = None
        for _ in range(_MOST_ROUNDS):
            self._passes(*self._nodes)
            step = self._advance()
            gate = step.gate
            # A turn that has ended is written down too, and every agent must read that.
            settled, before = step.record == before, step.record
            if gate is not None and gate.opens is not None and not gate.waiting and settled:
                waits = max((gate.opens - self._now).total_seconds(), 0.0)
                self.skipped += waits
                self._now = max(self._now, gate.opens) + timedelta(seconds=1)
                return round(waits)
            self._restart(step)
        raise StateConflict("the demo's rotation waits for a node for too long; please report it")

    def _restart_first(self) -> str:
        """Give the first turn, and return the node that has restarted."""
        for _ in range(_MOST_ROUNDS):
            step = self._advance()
            if name := self._restart(step):
                return name
            self._passes(*self._nodes)
        raise StateConflict("the demo's rotation gives no turn; please report it")

    def _restart(self, step: Step) -> str:
        """Restart the components of the node that has the turn, and confirm it; return the node, "" if none has."""
        name = step.gate.turn if step.gate is not None else ""
        if not name:
            return ""
        self._nodes[name].start(knows_old=step.record.state is not State.RETIRED)
        self._passes(*self._nodes)
        self._advance(restarted=(f"{name}/etcd", f"{name}/kube-apiserver"))
        return name

    def _advance(self, *, restarted: tuple[str, ...] = ()) -> Step:
        example = self.example
        return commands.advance(example.cluster, example.vault, self._now, Confirmations(restarted=restarted))

    def _passes(self, *names: str) -> None:
        """Make a pass of the agents of these nodes, as `vaultpki agent --once` does."""
        # A slow machine must not fall behind the server, whose clock is real.
        self._now = max(self._now, datetime.now(UTC)) + timedelta(seconds=1)
        for name in names:
            options = agent.PassOptions(ON_NODES, settle=False, share=0.0)
            done = agent.run(self._nodes[name].config, options, clock=self._now.timestamp())
            for failure in done.failures.values():
                raise failure

    def _shown(self, state: str, command: str, sentence: str, waits: int = 0) -> ShownState:
        rows = []
        for name, node in self._nodes.items():
            tries = (self._attempt(node.calling(), other, expected=True, checks=True) for other in self._nodes)
            rows.append(ClientRow(f"kube-apiserver of {name}, signed by {node.signer()}", tuple(tries)))
        first = next(iter(self._nodes))
        if self._copy is not None:
            tries = (self._attempt(self._copy, other, expected=self._nodes[other].knows_old) for other in self._nodes)
            rows.append(ClientRow(f"copy of the old certificate of {first}", tuple(tries)))
        pair = self._nodes[first].pair(_OUTSIDER)
        tries = (
            self._attempt(handshake.context(server=False, pair=pair, trusted=()), other, expected=False)
            for other in self._nodes
        )
        rows.append(ClientRow(f"outsider: a certificate of the CA {_OUTSIDERS_CA}", tuple(tries)))
        return ShownState(state, command, sentence, tuple(rows), waits)

    def _attempt(self, client: ssl.SSLContext, to: str, *, expected: bool, checks: bool = False) -> Attempt:
        why = handshake.shake(self._nodes[to].serving(), client, to if checks else None)
        return Attempt(not why, expected, why)


def _with_pair(context: ssl.SSLContext, pair: tuple[Path, Path]) -> ssl.SSLContext:
    """Let a component that runs present the pair that is installed now."""
    context.load_cert_chain(pair[0], pair[1], password="")
    return context
