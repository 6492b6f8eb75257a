"""The part of `make soak-rotations` on three control planes that the real kubeadm made, with the hooks of its page.

Behind a balancer that asks /readyz: every CA, one with the same key, an abort, the root, and an emergency. A request
that failed at the balancer is told; more than one member of etcd that was down at once is wrong.
"""

from __future__ import annotations

import contextlib
import functools
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from helpers.kube import kubeadm_planes
from helpers.kube.client_load import OPERATORS
from helpers.kube.components import Programs
from helpers.kube.kubeadm_planes import POD, Planes
from helpers.vault import servers
from soak.phases import Phase
from soak.printed import brief, say
from vaultpki.kube.objects import SERVING_CA
from vaultpki.records.rotation import State

# The slowest is the root, whose turns restart every control plane three times.
MOST_SECONDS = 2 * 3600.0
# Whoever reads a CA in an emergency only every five minutes ends it.
MOST_OUTAGE = 900.0
CALM_SECONDS = 60.0
# kube-apiserver only ever adds to what it publishes for others as client CAs (docs/ca-rotation.md).
PUBLISHED = ("-n", "kube-system", "extension-apiserver-authentication")


@dataclass(slots=True)
class Run:
    """One cluster on one server: what is done to its CAs, and the phases so far."""

    server: str
    planes: Planes
    phases: list[Phase]

    @contextlib.contextmanager
    def phase(self, name: str, *, outage: bool = False) -> Iterator[None]:
        """What happens in the block, and what it did to clients and to etcd; `outage` says that there may be one."""
        say(f"{self.server}, kubeadm: {name}")
        broken: BaseException | None = None
        with self.planes.under_load() as seen:
            try:
                yield
            except (AssertionError, subprocess.SubprocessError, OSError, KeyboardInterrupt) as error:
                broken = error
        say(seen.told())
        failures = tuple(seen.load.failures)
        self.phases.append(
            Phase(
                server=self.server,
                name=f"kubeadm: {name}",
                seconds=seen.seconds,
                requests=seen.load.worked.total() + len(failures),
                failures=failures,
                unauthorized=tuple(seen.unauthorized),
                complaints=tuple(seen.complaints()),
                most_outage=MOST_OUTAGE if outage else 0.0,
                broken=f"{type(broken).__name__}: {broken}" if broken else "",
            )
        )
        if seen.watch.most_down > 1 and not outage:
            self.phases.append(Phase.of_members(self.server, name, seen.watch.most_down, seen.watch.seconds(2)))
        if broken:
            raise broken

    def settle(self, domain: str, goal: State, act: str = "continue") -> None:
        """Takes steps until the CA is in this state, and does what they wait for meanwhile."""
        kubernetes = self.planes.kubernetes
        deadline = time.monotonic() + MOST_SECONDS
        last: State | None = None
        words: list[str | Path] = []
        while (state := self.planes.record(domain).state) is not goal:
            if state is not last:
                say(f"{domain} is {state.value}")
            last = state
            waiting: dict[str, str] = {}
            # Vault is there all the time; a look with the kubeconfig may meet an API server that ends.
            try:
                waiting = self.planes.waiting(act, "--kubeconfig", kubernetes.admin, *words)
            except AssertionError as error:
                say(brief(str(error)))
            words = self._answer(waiting)
            assert time.monotonic() < deadline, f"{domain} stays {state.value}: {waiting}"
            time.sleep(3)
        say(f"{domain} is {goal.value}")

    def _answer(self, waiting: Mapping[str, str]) -> list[str | Path]:
        """Does what only a person can do; the words that say so to the next step."""
        words: list[str | Path] = []
        if pods := waiting.get("pods", ""):
            self._restart(pods)
        if "outside" in waiting:
            words += ["--restarted", "outside"]
        if SERVING_CA in waiting:
            self.planes.apply_manifests()
        people = [person for person in OPERATORS if person in waiting]
        for person in people:
            words += ["--without", person]
        if words:
            self.planes.issue()
        return words

    def _restart(self, pods: str) -> None:
        kubernetes = self.planes.kubernetes
        if f"default/{POD}" in pods:
            kubernetes.kubectl(kubernetes.admin, "delete", "pod", POD, "--wait=true")
            kubernetes.run_pod(POD, node="cp-2", seconds=kubeadm_planes.READY_SECONDS)
        if "kube-proxy" in pods:
            place = ("-n", "kube-system", "daemonset/kube-proxy")
            kubernetes.kubectl(kubernetes.admin, "rollout", "restart", *place)
            kubernetes.kubectl(kubernetes.admin, "rollout", "status", *place, "--timeout=50s", expect=None)

    def rotated(self, domain: str, *words: str) -> None:
        with self.phase(" ".join((f"{domain} rotated", *words))):
            self.planes.rotate(domain, *words)
            self.settle(domain, State.DONE)
            self._forget(domain)

    def aborted(self, domain: str, at: State) -> None:
        with self.phase(f"{domain} aborted when {at.value}"):
            self.planes.rotate(domain)
            self.settle(domain, at)
            self.settle(domain, State.STEADY, "abort")
            # Steady, and yet in memory somewhere: this waits for that.
            self.planes.rest(domain, act="abort")
            self._forget(domain)

    def emergency(self, domain: str) -> None:
        with self.phase(f"{domain} in an emergency", outage=True):
            self.planes.rotate(domain, "--emergency", "--yes")
            self.planes.issue()
            self.settle(domain, State.DONE)
            self._forget(domain)
            self.planes.await_ready()
        self.steady("after the emergency")

    def steady(self, name: str) -> None:
        with self.phase(name):
            time.sleep(CALM_SECONDS)

    def _forget(self, domain: str) -> None:
        if domain == "kubelet":
            self.planes.apply_manifests()
        if domain in ("kubernetes", "front-proxy"):
            self.planes.kubernetes.kubectl(self.planes.kubernetes.admin, "delete", "configmap", *PUBLISHED)


PHASES: Mapping[str, Callable[[Run], None]] = {
    **{
        f"kubeadm-{domain}": functools.partial(Run.rotated, domain=domain)
        for domain in ("kubelet", "front-proxy", "etcd", "kubernetes")
    },
    "kubeadm-same-key": lambda run: run.rotated("etcd", "--same-key"),
    "kubeadm-abort": functools.partial(Run.aborted, domain="etcd", at=State.SWITCHED),
    "kubeadm-root": functools.partial(Run.rotated, domain="root"),
    "kubeadm-emergency": functools.partial(Run.emergency, domain="kubernetes"),
}
"""What a run consists of, in this order unless another one is asked for."""


def on(
    kind: str, programs: Programs, binary: Path | None, folder: Path, names: Sequence[str], phases: list[Phase]
) -> None:
    """Adds the phases on one server to `phases`; they end with the first one that could not be ended."""
    with contextlib.ExitStack() as stack:
        server = stack.enter_context(servers.running(kind, folder / "server", binary))
        # At the pace of a cluster that people run: agents ask every five minutes.
        planes = stack.enter_context(kubeadm_planes.standing(server, programs, folder / "kube", poll="5m"))
        run = Run(kind, planes, phases)
        run.steady("before")
        for name in names:
            PHASES[name](run)
