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
import shutil
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

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
from soak.ca_run import CALM_SECONDS, CaRun
from soak.phases import Phase, report
from soak.printed import say
from vaultpki.records.rotation import State
from vaultpki.rotation.gates import SIGNER_OUTSIDE

# client-go reads a pair again after five minutes, and only then does the last component show its new one.
MOST_OUTAGE = 600.0
ABORTS = (State.PREPARED, State.PUBLISHED, State.SWITCHED, State.RETIRED)


@dataclass(slots=True)
class Run(CaRun):
    """The cluster of the document's layout, whose pods have clients beside them.

    While it is `reviving`, whatever has ended is started again, as in an emergency.
    """

    loaded: OperatorUnderLoad
    pods: PodClients
    reviving: bool = False

    def between(self) -> None:
        """In an emergency, starts again what has ended, as units and static pods do on a node.

        kube-scheduler reads its CA file every five minutes, and ends before that for want of its lease.
        """
        for node in self.loaded.kubernetes.nodes.values() if self.reviving else ():
            by_hooks = {name for names in self.loaded.restarts.of(node).values() for name in names}
            for name, process in node.machine.processes.items():
                if name not in by_hooks and not process.alive():
                    say(f"{node.name}'s {name} has ended, and is started again")
                    process.start()

    def answer(self, waiting: Mapping[str, str]) -> list[str]:
        if SIGNER_OUTSIDE in waiting:
            outside.carry(self)
        for pod in self.pods.pods if "pods" in waiting else ():
            if f"default/{pod}" in waiting["pods"]:
                self.pods.restart(pod)
        if "outside" in waiting:
            self.loaded.extension.register(self.loaded.kubernetes)
        return []

    @contextlib.contextmanager
    def watched(self, name: str, *, outage: bool) -> Iterator[Callable[[], tuple[Phase, ...]]]:
        operator = self.loaded
        self.pods.taken()
        operator.mark()
        refused, worked = len(operator.extension.refused), operator.load.worked.total()

        def seen() -> tuple[Phase, ...]:
            others, failures = self.pods.taken()
            failures += operator.load.failures
            phase = Phase(
                server=self.server,
                name=name,
                seconds=0.0,
                requests=operator.load.worked.total() - worked + others + len(failures),
                failures=tuple(failures),
                unauthorized=tuple(operator.unauthorized()),
                complaints=(*operator.complaints(), *operator.extension.refused[refused:]),
            )
            return (phase,)

        yield seen

    @contextlib.contextmanager
    def phase(self, name: str, *, outage: bool = False) -> Iterator[None]:
        with CaRun.phase(self, name, outage=outage):
            yield
            self.loaded.kubernetes.running()
            self.pods.check()
            for agent in self.loaded.kubernetes.agents.values():
                agent.check()

    @contextlib.contextmanager
    def around(self, domain: str, *words: str) -> Iterator[None]:
        """A leaf of the old CA is let in by every listener before, and refused by each one after.

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

    def emergency(self, domain: str) -> None:
        self.reviving = True
        CaRun.emergency(self, domain)

    def calm(self) -> None:
        wait_for(self._calm, MOST_OUTAGE, lambda: f"no calm: {self._faults()}", pause=1)
        self.reviving = False

    def _calm(self) -> bool:
        """Whether nothing failed for half of the time of a steady phase."""
        self.between()
        before = self._faults()
        time.sleep(CALM_SECONDS / 2)
        return self._faults() == before

    def _faults(self) -> dict[str, int]:
        found = {name: len(said) for name, said in self.loaded.faults().items()}
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
        run = Run(kind, operator, phases, MOST_OUTAGE, operator, pods)
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
