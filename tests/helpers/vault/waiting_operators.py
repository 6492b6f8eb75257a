"""Operators in processes of their own who rotate one CA with `--wait`, and nodes that report all the time."""

from __future__ import annotations

import contextlib
import subprocess
import sys
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path

from helpers.node.reporting_nodes import Reporter, record_of
from helpers.vault.applied_cluster import environment
from helpers.vault.cluster_factory import ClusterFactory
from helpers.vault.plan_commands import AuditedCluster
from helpers.vault.servers import wait_for
from vaultpki.records import rotation as rotation_record
from vaultpki.records.rotation import RotationRecord, State

SPEC = """\
api_server: {names: [api.example.com]}
nodes:
- {name: cp-1, roles: [control-plane, etcd], addresses: [10.0.0.11]}
- {name: etcd-2, roles: [etcd], addresses: [10.0.0.12]}
"""
DOMAIN = "etcd"
# As the command, with shorter pauses.
_HASTY = """\
import time
from vaultpki import cli
pause = time.sleep
time.sleep = lambda seconds: pause(min(seconds, 0.3))
cli.main()
"""
_SECONDS = 120.0
# More than a rotation writes.
_VERSIONS = 200


@dataclass(slots=True)
class Operator:
    """One who has started a command."""

    process: subprocess.Popen[str]

    def end(self) -> tuple[int, str, str]:
        """Its exit code, and what it said, once it has ended by itself."""
        said, lines = self.process.communicate(timeout=_SECONDS)
        return self.process.returncode, said, lines

    def lines(self) -> Iterator[str]:
        """What it says on standard error, line by line as it comes."""
        assert self.process.stderr is not None
        for line in self.process.stderr:
            yield line.rstrip("\n")


@dataclass(slots=True)
class Operators:
    """The cluster, and those who work on its CA for etcd."""

    cluster: AuditedCluster
    folder: Path
    nodes: list[Reporter] = field(default_factory=list)

    @classmethod
    def standing(cls, clusters: ClusterFactory) -> Operators:
        cluster = clusters.applied(SPEC)
        for node in cluster.model.nodes:
            cluster.equip(node.name)
        # The server keeps ten versions of a record by itself.
        path = f"{cluster.prefix}/config/metadata/rotation/{DOMAIN}"
        assert clusters.server.api("POST", path, {"max_versions": _VERSIONS}).status in (200, 204)
        made = cls(cluster, clusters.folder, [Reporter(cluster, node.name, DOMAIN) for node in cluster.model.nodes])
        made.passes()
        return made

    def passes(self) -> None:
        """Every node passes, and did so some minutes ago."""
        for node in self.nodes:
            node.passed(datetime.now(UTC) - timedelta(minutes=3))

    @contextlib.contextmanager
    def nodes_pass(self) -> Iterator[None]:
        """Nodes pass all the time."""
        over = threading.Event()

        def work() -> None:
            while not over.wait(0.5):
                self.passes()

        thread = threading.Thread(target=work)
        thread.start()
        try:
            yield
        finally:
            over.set()
            thread.join()

    @contextlib.contextmanager
    def run(self, *words: str) -> Iterator[Operator]:
        """An operator who runs a command; he is killed at the end if he is still there."""
        command = [sys.executable, "-c", _HASTY, "ca", *words, "-f", str(self.cluster.file)]
        # Without openssl no listener is asked: the nodes' addresses are those of nobody's machines.
        env = environment(self.cluster.environment()) | {"PATH": str(self.folder)}
        with subprocess.Popen(
            command, env=env, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        ) as process:
            try:
                yield Operator(process)
            finally:
                if process.poll() is None:
                    process.kill()

    def done(self, *words: str) -> tuple[int, str, str]:
        """What a command came to that an operator ran to its end."""
        with self.run(*words) as operator:
            return operator.end()

    @property
    def record(self) -> RotationRecord | None:
        return record_of(self.cluster, DOMAIN)

    @property
    def state(self) -> State | None:
        record = self.record
        return None if record is None else record.state

    @property
    def resting(self) -> bool:
        """Whether no rotation is under way."""
        record = self.record
        return record is None or not record.active

    def until(self, *states: State) -> None:
        """Wait until the CA is in one of these states."""
        wait_for(lambda: self.state in states, _SECONDS, lambda: f"it is {self.state}")

    def version(self) -> int:
        """The number of the last version of the record; 0 if there is none."""
        answer = self.cluster.server.api("GET", f"{self.cluster.prefix}/config/metadata/rotation/{DOMAIN}")
        return int(answer.data.get("current_version") or 0) if answer.status == 200 else 0

    def history(self, since: int) -> list[RotationRecord]:
        """Every version of the record after the one with this number."""
        path = f"{self.cluster.prefix}/config/data/rotation/{DOMAIN}"
        found = [
            self.cluster.server.api("GET", f"{path}?version={number}").data["data"]
            for number in range(since + 1, self.version() + 1)
        ]
        return [rotation_record.read(each, DOMAIN, where=path) for each in found]

    def settled(self) -> None:
        """Nothing is left of another CA, and nobody has anything to do."""
        record = self.record
        assert record is not None and record.state.resting, record
        self.cluster.at_rest()
        assert self.cluster.issuer_names(DOMAIN, "keys") == {record.leaf.name}
