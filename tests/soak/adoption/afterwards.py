"""The first rotations of an adopted cluster of three control planes, with gates that wait as for people."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

import yaml

from helpers.kube.adoption_under_load import Seen, under_load
from helpers.kube.ca_operator import Operator
from helpers.kube.clients_in_pods import ClientsInPods
from helpers.kube.kubeadm_adoption import PLANES, Adoption
from helpers.kube.kubeadm_planes import AGENT
from soak.ca_run import CaRun
from soak.phases import Phase
from soak.printed import say

# As docs/kubeadm.md has them for a node that has joined without.
HOOKS = {
    "kubernetes-ca": [{"static_pod": "kube-controller-manager"}],
    "etcd-ca": [{"static_pod": "etcd"}, {"static_pod": "kube-apiserver"}],
    "kubeconfigs": [{"static_pod": "kube-scheduler"}, {"static_pod": "kube-controller-manager"}],
}


@dataclass(slots=True)
class Adopter(Operator):
    """Who has led the adoption: people's files are replaced one by one, since clients read them."""

    adoption: Adoption

    def issue(self) -> None:
        self.adoption.people_of_vault()

    def apply_manifests(self) -> None:
        self.adoption.people_of_vault()
        self.adoption.kubectl("apply", "-f", str(self.adoption.folder / "issued/manifests"))


@dataclass(slots=True)
class Rotations(CaRun):
    """Rotations of the adopted cluster's CAs under the load of its adoption."""

    adoption: Adoption
    clients: ClientsInPods

    def looks(self, domain: str) -> bool:
        return True

    @contextlib.contextmanager
    def watched(self, name: str, *, outage: bool) -> Iterator[Callable[[], tuple[Phase, ...]]]:
        with under_load(self.adoption, self.clients) as seen:
            yield lambda: phases_of(self.server, name, seen)

    def answer(self, waiting: Mapping[str, str]) -> list[str]:
        if "pods" in waiting:
            self.adoption.restart_pods()
        return []


def phases_of(server: str, name: str, seen: Seen, broken: str = "") -> tuple[Phase, ...]:
    """What clients and members of etcd went through, as phases of a soak."""
    say(seen.told())
    failures = tuple(each for each in seen.failures if each not in seen.excused)
    found = Phase(
        server=server,
        name=f"three control planes: {name}",
        seconds=seen.seconds,
        requests=seen.load.worked.total() + len(failures),
        failures=failures,
        unauthorized=tuple(seen.audit.unauthorized),
        broken=broken,
    )
    if seen.watch.most_down > 1:
        return found, Phase.of_members(server, name, seen.watch.most_down, seen.watch.seconds(2))
    return (found,)


def rotated(server: str, made: Adoption, clients: ClientsInPods, phases: list[Phase], domain: str) -> None:
    """A whole rotation of one CA; agents restart static pods by hooks."""
    for name in PLANES:
        file = made.nodes[name].seen(AGENT)
        document = yaml.safe_load(file.read_text())
        if "hooks" not in document:
            file.write_text(yaml.safe_dump(document | {"hooks": HOOKS, "hook_timeout": "4m"}, sort_keys=False))
            made.nodes[name].machine.processes["agent"].restart()
    made.await_ready()
    Rotations(server, Adopter(made.kubernetes, made), phases, 0.0, made, clients).rotated(domain)
    made.await_ready()
