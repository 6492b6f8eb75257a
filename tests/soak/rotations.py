"""Hours of CA rotations in a real cluster under load: `make soak-rotations`, on each server in turn.

Every issuing CA, a renewal with the same key, an abort from each state, the root and its aborts, the root that moves
outside and back, and at the end an emergency, whose outage is measured. All the while operators list, watch, write and
run commands in pods, and beside
each pod clients in Python and in Node.js use the files of that pod alone. Ends with 1, and says why, where a request
failed for a reason of TLS or was answered with 401 outside of the emergency, where a component complained of TLS,
where the outage was too long, or where a listener went on taking leaves of a CA that left; prints its figures as
Markdown. Three control planes that kubeadm made follow (control_planes.py).
"""

from __future__ import annotations

import contextlib
import functools
import json
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from helpers.kube import cas_in_use, kube_cluster, operator_under_load
from helpers.kube.access_matrix import Heard
from helpers.kube.ca_operator import STEP_SECONDS
from helpers.kube.client_load import OPERATORS
from helpers.kube.components import Programs
from helpers.kube.kube_cluster import Kubernetes
from helpers.kube.operator_under_load import OperatorUnderLoad
from helpers.kube.pod_clients import PodClients
from helpers.vault import servers
from helpers.vault.servers import wait_for
from soak import command, control_planes, outside
from soak.phases import Phase, report
from soak.printed import brief, say
from vaultpki.kube.objects import SERVING_CA
from vaultpki.records.rotation import State
from vaultpki.rotation.gates import SIGNER_OUTSIDE

# The slowest way of one CA: that of the root, all states there and back.
MOST_SECONDS = 2 * 3600.0
# client-go reads a pair again after five minutes, and only then does the last component show its new one.
MOST_OUTAGE = 600.0
CALM_SECONDS = 60.0
COMMAND_SECONDS = 600.0
# An API server that was restarted may take a minute where two clusters share two cores.
ATTEMPTS_SECONDS = 300.0
# kube-apiserver only ever adds to what it publishes for others as client CAs (docs/ca-rotation.md).
PUBLISHED = ("-n", "kube-system", "extension-apiserver-authentication")
ABORTS = (State.PREPARED, State.PUBLISHED, State.SWITCHED, State.RETIRED)


@dataclass(slots=True)
class Run:
    """One cluster on one server: what is done to its CAs, and the phases so far."""

    server: str
    operator: OperatorUnderLoad
    pods: PodClients
    phases: list[Phase]
    reviving: bool = False

    # What an operator does

    def ca(self, *words: str | Path) -> dict[str, Any]:
        """A step, and what it waits for."""
        deadline = time.monotonic() + ATTEMPTS_SECONDS
        while True:
            ran = self.operator.ca(
                *(*words, "--json"),
                expect=(0, 1, 3),
                timeout=COMMAND_SECONDS,
            )
            if ran.returncode != 1:
                found: dict[str, Any] = json.loads(ran.stdout)["rotation"]
                return found
            # The API server that its kubeconfig names may be restarted just now.
            say(brief(ran.stderr))
            assert time.monotonic() < deadline, f"ca {' '.join(map(str, words))} goes on failing: {ran.stderr}"
            time.sleep(3)

    def settle(self, domain: str, goal: State, act: str = "continue") -> None:
        """Takes steps until the CA is in this state, and does what they wait for meanwhile."""
        deadline = time.monotonic() + MOST_SECONDS
        kubernetes = self.operator.kubernetes
        # For the root it looks at pods, for the kubelet's CA at a ConfigMap.
        looks: tuple[str | Path, ...] = ("--kubeconfig", kubernetes.admin) if domain in ("root", "kubelet") else ()
        last: State | None = None
        words: list[str] = []
        while (state := self.operator.record(domain).state) is not goal:
            if state is not last:
                say(f"{domain} is {state.value}")
            last = state
            rotation = self.ca(act, *looks, *words)
            words = self._answer({each["node"]: each["reason"] for each in rotation["waiting_for"]})
            self._revive()
            assert time.monotonic() < deadline, f"{domain} stays {state.value}: {rotation['waiting_for']}"
            time.sleep(2)
        say(f"{domain} is {goal.value}")

    def _revive(self) -> None:
        """In an emergency, starts again what has ended, as units and static pods do on a node.

        kube-scheduler reads its CA file every five minutes, and ends before that for want of its lease.
        """
        for node in self.operator.kubernetes.nodes.values() if self.reviving else ():
            by_hooks = {name for names in self.operator.restarts.of(node).values() for name in names}
            for name, process in node.machine.processes.items():
                if name not in by_hooks and not process.alive():
                    say(f"{node.name}'s {name} has ended, and is started again")
                    process.start()

    def _answer(self, waiting: Mapping[str, str]) -> list[str]:
        """Does what only a person can do; the words that say so to the next step."""
        words: list[str] = []
        if SIGNER_OUTSIDE in waiting:
            outside.carry(self)
        for pod in self.pods.pods if "pods" in waiting else ():
            if f"default/{pod}" in waiting["pods"]:
                self.pods.restart(pod)
        if SERVING_CA in waiting:
            self.operator.apply_manifests()
        if "outside" in waiting:
            self.operator.extension.register(self.operator.kubernetes)
            words += ["--restarted", "outside"]
        people = [person for person in OPERATORS if person in waiting]
        for person in people:
            words += ["--without", person]
        if words:
            self.operator.issue()
        return words

    # Phases

    @contextlib.contextmanager
    def phase(self, name: str, *, outage: bool = False) -> Iterator[None]:
        """What happens in the block, and what it did to clients; `outage` says that there may be one."""
        operator = self.operator
        self.pods.taken()
        operator.mark()
        refused, worked, begin = len(operator.extension.refused), operator.load.worked.total(), time.time()
        say(f"{self.server}: {name}")
        broken = ""
        try:
            yield
            operator.kubernetes.running()
            self.pods.check()
            for agent in operator.kubernetes.agents.values():
                agent.check()
        except (AssertionError, subprocess.SubprocessError, OSError, KeyboardInterrupt) as error:
            broken = f"{type(error).__name__}: {error}"
            raise
        finally:
            others, failures = self.pods.taken()
            failures += operator.load.failures
            self.phases.append(
                Phase(
                    server=self.server,
                    name=name,
                    seconds=time.time() - begin,
                    requests=operator.load.worked.total() - worked + others + len(failures),
                    failures=tuple(failures),
                    unauthorized=tuple(operator.unauthorized()),
                    complaints=(*operator.complaints(), *operator.extension.refused[refused:]),
                    most_outage=MOST_OUTAGE if outage else 0.0,
                    broken=broken,
                )
            )

    @contextlib.contextmanager
    def _replaced(self, domain: str, *words: str) -> Iterator[None]:
        """Around a phase: a leaf of the old CA is let in by every listener before, and refused by each one after.

        No part of the phase, in which a refusal would count as a failure.
        """
        kubernetes = self.operator.kubernetes
        at: Mapping[str, tuple[Callable[[Kubernetes, Path], Mapping[str, Heard]], Path]] = {
            "etcd": (cas_in_use.at_etcd, kubernetes.members[-1].pki / "etcd-peer.pem"),
            "kubernetes": (cas_in_use.at_kubernetes, kubernetes.operator / "admin.pem"),
        }
        # With the same key the new CA stands behind the old leaves too.
        if domain not in at or "--same-key" in words:
            yield
            return
        ask, leaf = at[domain]
        old = kubernetes.operator / f"old-{domain}.pem"
        shutil.copy(leaf, old)
        others: list[str] = []

        def all_say(answer: Callable[[Heard], bool]) -> bool:
            others[:] = [where for where, heard in ask(kubernetes, old).items() if not answer(heard)]
            return not others

        wait_for(lambda: all_say(lambda heard: heard.status == 200), STEP_SECONDS, lambda: str(others), pause=1)
        yield
        with contextlib.suppress(AssertionError):
            wait_for(lambda: all_say(_refused), STEP_SECONDS, lambda: "", pause=1)
        if others:
            self.phases.append(Phase.of_listeners(self.server, domain, others))
        say(f"a leaf of the old {domain} CA is let in by {', '.join(others) or 'no listener'}")

    def rotated(self, domain: str, *words: str) -> None:
        with self._replaced(domain, *words), self.phase(" ".join((f"{domain} rotated", *words))):
            self.operator.rotate(domain, *words)
            self.settle(domain, State.DONE)
            self._forget(domain)

    def aborted(self, domain: str, at: State) -> None:
        with self.phase(f"{domain} aborted when {at.value}"):
            self.operator.rotate(domain)
            self.settle(domain, at)
            self.settle(domain, State.STEADY, "abort")
            self._forget(domain)

    def emergency(self, domain: str) -> None:
        self.reviving = True
        with self._replaced(domain), self.phase(f"{domain} in an emergency", outage=True):
            self.operator.rotate(domain, "--emergency", "--yes")
            self.operator.issue()
            self.settle(domain, State.DONE)
            self._forget(domain)
            wait_for(self._calm, MOST_OUTAGE, lambda: f"no calm: {self._faults()}", pause=1)
        self.reviving = False
        self.steady("after the emergency")

    def steady(self, name: str) -> None:
        with self.phase(name):
            time.sleep(CALM_SECONDS)

    def _forget(self, domain: str) -> None:
        if domain == "kubelet":
            self.operator.apply_manifests()
        if domain in ("kubernetes", "front-proxy"):
            self.operator.kubernetes.kubectl(self.operator.kubernetes.admin, "delete", "configmap", *PUBLISHED)

    def _calm(self) -> bool:
        """Whether nothing failed for half of the time of a steady phase."""
        self._revive()
        before = self._faults()
        time.sleep(CALM_SECONDS / 2)
        return self._faults() == before

    def _faults(self) -> dict[str, int]:
        found = {name: len(said) for name, said in self.operator.faults().items()}
        return found | {"pods": sum(client.failed() for client in self.pods.clients)}


PHASES: Mapping[str, Callable[[Run], None]] = {
    **{
        domain: functools.partial(Run.rotated, domain=domain)
        for domain in ("kubelet", "front-proxy", "etcd", "kubernetes")
    },
    "same-key": lambda run: run.rotated("etcd", "--same-key"),
    **{f"abort-{at.value}": functools.partial(Run.aborted, domain="etcd", at=at) for at in ABORTS},
    "root": functools.partial(Run.rotated, domain="root"),
    **{f"root-abort-{at.value}": functools.partial(Run.aborted, domain="root", at=at) for at in ABORTS},
    **outside.PHASES,
    "emergency": functools.partial(Run.emergency, domain="kubernetes"),
}
"""What a run consists of, in this order unless another one is asked for."""


def _refused(heard: Heard) -> bool:
    return heard.status == 401 or "unknown_ca" in heard.alert


def on(
    kind: str, programs: Programs, binary: Path | None, folder: Path, names: Sequence[str], phases: list[Phase]
) -> None:
    """Adds the phases on one server to `phases`; they end with the first one that could not be ended."""
    shape = kube_cluster.TURNING
    with contextlib.ExitStack() as stack:
        server = stack.enter_context(servers.running(kind, folder / "server", binary))
        cluster = stack.enter_context(
            kube_cluster.cluster(server, programs, folder / "kube", shape, comers=kube_cluster.COMERS)
        )
        operator = stack.enter_context(operator_under_load.standing(cluster))
        pods = PodClients(cluster, operator.load.pods, operator.restarts.serving)
        run = Run(kind, operator, pods, phases)
        with pods.running(), operator.load.running():
            run.steady("before")
            for name in names:
                PHASES[name](run)
        missed = {who: operator.load.missed(who) for who in OPERATORS}
        phases += [Phase.of_watch(kind, who, numbers) for who, numbers in missed.items() if numbers]


def main() -> int:
    def given_up(kind: str, why: str) -> Phase:
        return Phase(kind, "between phases", 0.0, 0, broken=why)

    # Each shape of a cluster in its turn.
    parts = ((on, PHASES), (control_planes.on, control_planes.PHASES))
    return report(command.run("soak.rotations", __doc__, parts, given_up))


if __name__ == "__main__":
    sys.exit(main())
