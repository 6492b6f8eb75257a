"""The part of `make soak-rotations` on three control planes that the real kubeadm made, with the hooks of its page.

Behind a balancer that asks /readyz: every CA, one with the same key, an abort, the root, and an emergency. A request
that failed at the balancer is told; more than one member of etcd that was down at once is wrong.
"""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from helpers.kube import kubeadm_planes
from helpers.kube.components import Programs
from helpers.kube.kubeadm_planes import POD, Planes, Seen
from helpers.vault import servers
from soak.ca_run import CaRun
from soak.phases import Phase
from soak.printed import say
from vaultpki.records.rotation import State

# Whoever reads a CA in an emergency only every five minutes ends it.
MOST_OUTAGE = 900.0


@dataclass(slots=True)
class Run(CaRun):
    """Three control planes behind a balancer."""

    planes: Planes

    def looks(self, domain: str) -> bool:
        return True

    @contextlib.contextmanager
    def watched(self, name: str, *, outage: bool) -> Iterator[Callable[[], tuple[Phase, ...]]]:
        with self.planes.under_load() as seen:
            yield lambda: tuple(self._seen(name, seen, outage=outage))

    def _seen(self, name: str, seen: Seen, *, outage: bool) -> Iterator[Phase]:
        say(seen.told())
        failures = tuple(seen.load.failures)
        yield Phase(
            server=self.server,
            name=f"kubeadm: {name}",
            seconds=seen.seconds,
            requests=seen.load.worked.total() + len(failures),
            failures=failures,
            unauthorized=tuple(seen.unauthorized),
            complaints=tuple(seen.complaints()),
        )
        if seen.watch.most_down > 1 and not outage:
            yield Phase.of_members(self.server, name, seen.watch.most_down, seen.watch.seconds(2))

    def answer(self, waiting: Mapping[str, str]) -> list[str]:
        kubernetes, pods = self.planes.kubernetes, waiting.get("pods", "")
        if f"default/{POD}" in pods:
            kubernetes.kubectl(kubernetes.admin, "delete", "pod", POD, "--wait=true")
            kubernetes.run_pod(POD, node="cp-2", seconds=kubeadm_planes.READY_SECONDS)
        if "kube-proxy" in pods:
            place = ("-n", "kube-system", "daemonset/kube-proxy")
            kubernetes.kubectl(kubernetes.admin, "rollout", "restart", *place)
            kubernetes.kubectl(kubernetes.admin, "rollout", "status", *place, "--timeout=50s", expect=None)
        return []

    def forget(self, domain: str) -> None:
        if self.operator.record(domain).state is State.STEADY:
            # Steady, and yet in memory somewhere: this waits for that.
            self.operator.rest(domain, act="abort")
        CaRun.forget(self, domain)

    def calm(self) -> None:
        self.planes.await_ready()


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
        run = Run(kind, planes, phases, MOST_OUTAGE, planes)
        run.steady("before")
        for name in names:
            PHASES[name](run)
