"""A cluster under load whose CAs are rotated: what an operator does to them, and what a rotation may break."""

from __future__ import annotations

import contextlib
import json
import re
import time
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from helpers.kube import cas_in_use, extension_server
from helpers.kube.client_load import OPERATORS, Load, of_tls
from helpers.kube.extension_server import Extension
from helpers.kube.kube_cluster import Kubernetes
from helpers.kube.restarts import Restarts
from helpers.vault import servers
from helpers.vault.applied_cluster import Ran, vaultpki
from helpers.vault.servers import wait_for
from vaultpki.model import NodeRole
from vaultpki.spec import rotation_record
from vaultpki.spec.rotation_record import RotationRecord, State

SPREAD = 60
# The gate of the kubernetes CA opens six minutes after the last report that it waited for.
GATE_SECONDS = 600.0
STEP_SECONDS = 120.0
# How the lines of components begin that complain, and those of etcd.
LEVEL = re.compile(r'^[EWF]\d{4} |"level":"(warn|error|fatal)"')


@dataclass(slots=True)
class Stage:
    """The cluster under load, and what an operator does to its CAs."""

    kubernetes: Kubernetes
    restarts: Restarts
    load: Load
    extension: Extension
    audits: dict[str, int] = field(default_factory=dict)
    logs: dict[tuple[str, str], int] = field(default_factory=dict)
    steps: list[tuple[str, State]] = field(default_factory=list)

    def mark(self) -> None:
        """What the API servers and the components write from now on is judged."""
        self.load.failures.clear()
        for node in self.kubernetes.nodes.values():
            if (node.machine.folder / "audit.log").exists():
                self.audits[node.name] = (node.machine.folder / "audit.log").stat().st_size
            for name, process in node.machine.processes.items():
                self.logs[node.name, name] = len(process.said())

    def ca(
        self, *words: str | Path, expect: Collection[int] = (0, 3), timeout: float = 90, behind: Sequence[str] = ()
    ) -> Ran:
        """A command of the operator's, behind another one; 3 is how one ends that waits for something."""
        site = self.kubernetes.site
        command = ("ca", *words, "-f", site.file)
        env = site.environment("viewer" if words[0] == "status" else "applier")
        return vaultpki(*command, env=env, expect=set(expect), timeout=timeout, behind=behind)

    def record(self, domain: str) -> RotationRecord:
        site = self.kubernetes.site
        data = site.read(f"{site.prefix}/config/data/{rotation_record.FOLDER}/{domain}")["data"]
        return rotation_record.read(data, domain, where=domain)

    def rotate(self, domain: str, *words: str) -> None:
        self.ca("rotate", domain, "--spread", f"{SPREAD}s", *words, timeout=servers.SHARED * STEP_SECONDS)
        self._note(domain, self.record(domain).state)

    def advance(self, domain: str, to: State) -> None:
        """Has the rotation continued as soon as it may, until it has this state."""
        deadline = time.monotonic() + servers.SHARED * GATE_SECONDS
        while (state := self.record(domain).state) is not to:
            self._note(domain, state)
            said = self.ca("continue").stdout
            assert time.monotonic() < deadline, said
            time.sleep(2)
        self._note(domain, to)

    def rest(self, domain: str, *words: str) -> None:
        """Has it continued until it is at rest."""
        ran = self.ca("continue", "--wait", *words, expect=[0], timeout=servers.SHARED * 3 * GATE_SECONDS)
        for state in re.findall(f"^{domain} is ([a-z-]+)", ran.stderr + ran.stdout, re.MULTILINE):
            self._note(domain, State(state))

    def _note(self, domain: str, state: State) -> None:
        if (domain, state) not in self.steps[-1:]:
            self.steps.append((domain, state))

    def await_bundles(self, domain: str, *sha256: str) -> None:
        def others() -> list[str]:
            return [name for name, found in cas_in_use.trusted(self.kubernetes, domain).items() if found != set(sha256)]

        wait_for(lambda: not others(), STEP_SECONDS, lambda: f"with other CAs of {domain}: {others()}", pause=1)

    def await_leaves(self, domain: str, sha256: str) -> None:
        def others() -> list[str]:
            return [name for name, issuer in cas_in_use.leaves(self.kubernetes, domain).items() if issuer != sha256]

        wait_for(lambda: not others(), SPREAD + STEP_SECONDS, lambda: f"of another CA: {others()}", pause=1)

    def issue(self) -> None:
        for person in OPERATORS:
            self.kubernetes.site.issue(person, self.kubernetes.operator)

    def complaints(self) -> list[str]:
        """What the components' logs have of TLS."""
        found = []
        for node in self.kubernetes.nodes.values():
            for name, process in node.machine.processes.items():
                lines = process.said()[self.logs.get((node.name, name), 0) :].splitlines()
                found += [f"{node.name}'s {name}: {line}" for line in lines if LEVEL.search(line) and of_tls(line)]
        return found

    def unauthorized(self) -> list[str]:
        """Requests that an API server answered with 401."""
        found = []
        for name, position in self.audits.items():
            with (self.kubernetes.nodes[name].machine.folder / "audit.log").open("rb") as file:
                file.seek(position)
                lines = [json.loads(line) for line in file.read().splitlines(keepends=True) if line.endswith(b"\n")]
            refused = [event for event in lines if event.get("responseStatus", {}).get("code") == 401]
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
def standing(cluster: Kubernetes, pace: float = 1.0) -> Iterator[Stage]:
    """The cluster with its agents, its hooks and its clients, who have not begun yet; `pace` is that of Load."""
    restarts = Restarts(cluster)
    for node in cluster.nodes.values():
        node.seat.configure("poll: 5m\n", "poll: 10s\n")
        restarts.configure(node)
    workers = cluster.having(NodeRole.WORKER)
    for node in workers:
        cluster.run_pod(node.name, node=node.name)
    with restarts.running(), extension_server.running(cluster) as extension:
        for name in cluster.nodes:
            cluster.resident(name)
        further = {"aggregated": extension_server.PATH}
        load = Load(cluster, [node.name for node in workers], further, restarts.serving, pace)
        yield Stage(cluster, restarts, load, extension)
        cluster.end_agents()
