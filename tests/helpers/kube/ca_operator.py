"""What an operator does to the CAs of a running cluster, from a machine that reaches its nodes."""

from __future__ import annotations

import json
import re
import time
from collections.abc import Collection
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from helpers.kube.client_load import OPERATORS, of_tls
from helpers.kube.kube_cluster import Kubernetes
from helpers.kube.machines import OUTSIDE
from helpers.vault import servers
from helpers.vault.applied_cluster import Ran, vaultpki
from vaultpki.records import rotation as rotation_record
from vaultpki.records.rotation import RotationRecord, State

SPREAD = 60
# The gate of the kubernetes CA opens six minutes after the last report that it waited for.
GATE_SECONDS = 600.0
STEP_SECONDS = 120.0
COMMAND_SECONDS = 90.0
# How the lines of components begin that complain, and those of etcd.
LEVEL = re.compile(r'^[EWF]\d{4} |"level":"(warn|error|fatal)"')
# What has these words and no such reason: `ca continue` asks every listener, without a certificate, which CAs it
# accepts, and etcd says so; a request that took long is told with its key, and a status that was not written whole.
_ALLOWED = re.compile(
    rf'"remote-addr":"{re.escape(OUTSIDE)}:\d+".*"tls: client didn\'t provide a certificate"'
    '|"apply request took too long"|"Failed to update status for pod"'
)


def complains(line: str) -> bool:
    """Whether a component complains of TLS in this line of its log."""
    return bool(LEVEL.search(line)) and of_tls(line) and not _ALLOWED.search(line)


@dataclass(slots=True)
class Operator:
    """The operator of a cluster, and the steps that its CAs have gone, by domain, oldest first."""

    kubernetes: Kubernetes
    steps: list[tuple[str, State]] = field(default_factory=list, kw_only=True)

    def ca(
        self, *words: str | Path, expect: Collection[int] = (0, 3), timeout: float = servers.SHARED * COMMAND_SECONDS
    ) -> Ran:
        """A command of the operator's; 3 is how one ends that waits for something."""
        cluster = self.kubernetes.cluster
        command = ("ca", *words, "-f", cluster.file)
        env = cluster.environment("viewer" if words[0] == "status" else "applier")
        return vaultpki(*command, env=env, expect=set(expect), timeout=timeout, behind=self.kubernetes.outside.inside)

    def waiting(self, *words: str | Path) -> dict[str, str]:
        """What the rotation waits for, by node, as this command says, or `ca status`."""
        found: dict[str, Any] = json.loads(self.ca(*(words or ("status",)), "--json").stdout)
        return {each["node"]: each["reason"] for each in (found["rotation"] or {"waiting_for": []})["waiting_for"]}

    def record(self, domain: str) -> RotationRecord:
        cluster = self.kubernetes.cluster
        data = cluster.read(f"{cluster.prefix}/config/data/{rotation_record.ROTATION_FOLDER}/{domain}")["data"]
        return rotation_record.read(data, domain, where=domain)

    def rotate(self, domain: str, *words: str, spread: int = SPREAD) -> None:
        self.ca("rotate", domain, "--spread", f"{spread}s", *words, timeout=servers.SHARED * STEP_SECONDS)
        self._note(domain, self.record(domain).state)

    def advance(self, domain: str, to: State) -> None:
        """Has the rotation continued as soon as it may, until it has this state."""
        deadline = time.monotonic() + servers.SHARED * GATE_SECONDS
        while (state := self.record(domain).state) is not to:
            self._note(domain, state)
            # A server that shares the processors with everything else may have no time for an answer.
            ran = self.ca("continue", expect=(0, 1, 3))
            failed = ran.returncode == 1 and "in time" not in ran.stderr
            assert not failed and time.monotonic() < deadline, ran.stdout + ran.stderr
            time.sleep(2)
        self._note(domain, to)

    def rest(self, domain: str, *words: str, act: str = "continue") -> None:
        """Has it continued, or aborted, until it is at rest."""
        ran = self.ca(act, "--wait", *words, expect=[0], timeout=servers.SHARED * 3 * GATE_SECONDS)
        for state in re.findall(f"^{domain} is ([a-z-]+)", ran.stderr + ran.stdout, re.MULTILINE):
            self._note(domain, State(state))

    def _note(self, domain: str, state: State) -> None:
        if (domain, state) not in self.steps[-1:]:
            self.steps.append((domain, state))

    def issue(self) -> None:
        for person in OPERATORS:
            self.kubernetes.cluster.issue(person, self.kubernetes.operator)

    def apply_manifests(self) -> None:
        """Writes the cluster's objects as they are due now, and applies them."""
        self.issue()
        self.kubernetes.kubectl(self.kubernetes.admin, "apply", "-f", self.kubernetes.operator / "manifests")
