"""Clients of three control planes that are taken over: outside, behind the balancer, and in pods; and what they saw."""

from __future__ import annotations

import contextlib
import re
import time
from collections.abc import Iterator
from dataclasses import dataclass, field

from helpers.kube import kubeadm_adoption, kubeadm_use
from helpers.kube.client_load import Failure, Load
from helpers.kube.clients_in_pods import ClientsInPods
from helpers.kube.etcd_watch import EtcdWatch
from helpers.kube.kubeadm_adoption import PLANES, WORKER, Adoption
from helpers.kube.kubelet_restarts import KubeletRestarts

POD = "load"
# Half as many requests as a soak makes, since other tests need the processors too.
PACE = 2
# A kubelet that ends and starts answers nobody for a moment.
KUBELET_SECONDS = 8.0
# Then it hears of its pods from the API server, and says until then that there is none, which takes longer where the
# machine has much else to do.
KNOWS_PODS_SECONDS = 60.0
_NO_POD = re.compile(r"the server could not find the requested resource|pod does not exist|pod not found")


def start(adoption: Adoption) -> ClientsInPods:
    """Starts the pods, which are restarted whenever the adoption asks for that."""
    adoption.kubernetes.run_pod(POD, node=WORKER, seconds=kubeadm_adoption.READY_SECONDS)
    programs = adoption.cluster.programs.kubernetes
    clients = ClientsInPods(adoption.kubernetes, adoption.nodes[WORKER], adoption.balancer.at, programs)
    clients.start()
    adoption.restarted = lambda: restart_pods(adoption, clients)
    return clients


def restart_pods(made: Adoption, clients: ClientsInPods) -> None:
    made.kubectl("delete", "pod", POD, "--wait=true")
    made.kubernetes.run_pod(POD, node=WORKER, seconds=kubeadm_adoption.READY_SECONDS)
    clients.restart()


@dataclass(slots=True)
class Seen:
    """What clients went through while something was done."""

    adoption: Adoption
    load: Load
    clients: ClientsInPods
    audit: kubeadm_use.Audit
    kubelets: KubeletRestarts
    watch: EtcdWatch
    begin: float = field(default_factory=time.time)
    seconds: float = 0.0

    @property
    def failures(self) -> list[Failure]:
        """Every request that failed since the beginning."""
        return [*self.load.failures, *(each for each in self.clients.failures() if each.at >= self.begin)]

    def told(self) -> str:
        """The figures."""
        self.audit.read()
        load = self.load
        failed, excused = len([each for each in self.failures if each not in self.excused]), len(self.excused)
        return (
            f"{self.seconds:.0f} s, {load.worked.total()} requests outside, in pods so far {self.clients.worked()}; "
            f"{failed} failed, {excused} beside a kubelet's restart, {len(self.audit.unauthorized)} times 401; "
            f"{self.watch.most_down} members of etcd down at once at most"
        )

    @property
    def excused(self) -> list[Failure]:
        """Logs and exec that came while the kubelet that was to answer them was restarted, or knew no pod yet."""
        return [
            each
            for each in self.load.failures
            if each.client in ("logs", "exec")
            and not each.of_tls
            and self.kubelets.near(
                WORKER, each.at, KNOWS_PODS_SECONDS if _NO_POD.search(each.text) else KUBELET_SECONDS
            )
        ]


@contextlib.contextmanager
def under_load(adoption: Adoption, clients: ClientsInPods) -> Iterator[Seen]:
    """Clients outside and in pods, until the end of the block."""
    load = Load(adoption.kubernetes, [POD], servers=lambda: [adoption.balancer.at], pace=PACE)
    watch = EtcdWatch({name: adoption.nodes[name].machine for name in PLANES})
    kubelets = KubeletRestarts(adoption.nodes)
    seen = Seen(adoption, load, clients, kubeadm_use.Audit(adoption.cluster), kubelets, watch)
    with watch.running(), kubelets.running(), load.running():
        yield seen
    seen.seconds = time.time() - seen.begin
    print(f"\n{seen.told()}\n{seen.failures}")
