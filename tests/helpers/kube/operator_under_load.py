"""A cluster under load whose CAs are rotated: what an operator does to them, and what a rotation may break."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass, field

from helpers.kube import audit_log, cas_in_use, extension_server
from helpers.kube.ca_operator import SPREAD, STEP_SECONDS, Operator, complains
from helpers.kube.client_load import Load
from helpers.kube.extension_server import Extension
from helpers.kube.kube_cluster import Kubernetes
from helpers.kube.restarts import Restarts
from helpers.vault.servers import wait_for
from vaultpki.model import NodeRole


@dataclass(slots=True)
class OperatorUnderLoad(Operator):
    """The cluster under load, and what an operator does to its CAs."""

    restarts: Restarts
    load: Load
    extension: Extension
    audits: dict[str, int] = field(default_factory=dict)
    logs: dict[tuple[str, str], int] = field(default_factory=dict)

    def mark(self) -> None:
        """What the API servers and the components write from now on is judged."""
        self.load.failures.clear()
        for node in self.kubernetes.nodes.values():
            if (node.machine.folder / "audit.log").exists():
                self.audits[node.name] = (node.machine.folder / "audit.log").stat().st_size
            for name, process in node.machine.processes.items():
                self.logs[node.name, name] = len(process.said())

    def await_bundles(self, domain: str, *sha256: str) -> None:
        def others() -> list[str]:
            return [name for name, found in cas_in_use.trusted(self.kubernetes, domain).items() if found != set(sha256)]

        wait_for(lambda: not others(), STEP_SECONDS, lambda: f"with other CAs of {domain}: {others()}", pause=1)

    def await_leaves(self, domain: str, sha256: str) -> None:
        def others() -> list[str]:
            return [name for name, issuer in cas_in_use.leaves(self.kubernetes, domain).items() if issuer != sha256]

        wait_for(lambda: not others(), SPREAD + STEP_SECONDS, lambda: f"of another CA: {others()}", pause=1)

    def complaints(self) -> list[str]:
        """What the components' logs have of TLS."""
        found = []
        for node in self.kubernetes.nodes.values():
            for name, process in node.machine.processes.items():
                lines = process.said()[self.logs.get((node.name, name), 0) :].splitlines()
                found += [f"{node.name}'s {name}: {line}" for line in lines if complains(line)]
        return found

    def unauthorized(self) -> list[str]:
        """Requests that an API server answered with 401."""
        found = []
        for name, position in self.audits.items():
            refused = audit_log.refused(self.kubernetes.nodes[name].machine.folder, position)
            found += [f"{name}: {event['verb']} {event['requestURI']}" for event in refused]
        return found

    def faults(self) -> dict[str, list[str]]:
        """All that a CA change may break; nothing where all is well."""
        found = {
            "requests": [str(failure) for failure in self.load.failures if failure.of_tls],
            "unauthorized": self.unauthorized(),
            "complaints": self.complaints(),
            "extension": list(self.extension.refused),
        }
        return {name: said for name, said in found.items() if said}


@contextlib.contextmanager
def standing(cluster: Kubernetes, pace: float = 1.0) -> Iterator[OperatorUnderLoad]:
    """The cluster with its agents, its hooks and its clients, who have not begun yet; `pace` is that of Load."""
    restarts = Restarts(cluster)
    for node in cluster.nodes.values():
        node.node.configure("poll: 5m\n", "poll: 10s\n")
        restarts.configure(node)
    workers = cluster.having(NodeRole.WORKER)
    for node in workers:
        cluster.run_pod(node.name, node=node.name)
    with restarts.running(), extension_server.running(cluster) as extension:
        for name in cluster.nodes:
            cluster.resident(name)
        further = {"aggregated": extension_server.PATH}
        load = Load(cluster, [node.name for node in workers], further, restarts.serving, pace)
        yield OperatorUnderLoad(cluster, restarts, load, extension)
        cluster.end_agents()
