"""Clients in Python and in Node.js that have what a pod is given and nothing else: the projected volume of a real pod.

They run beside the pod, on its machine, and read the very files that the kubelet keeps for it: `ca.crt` is the
ConfigMap kube-root-ca.crt.
"""

from __future__ import annotations

import contextlib
import json
import shutil
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from helpers.kube.client_load import Failure
from helpers.kube.kube_cluster import KubeNode, Kubernetes
from helpers.kube.machines import Process, environment
from helpers.vault.servers import wait_for

_HERE = Path(__file__).parent
_SECONDS = 60.0
# A load balancer drains a server for two seconds (restarts.py).
_TOLD_EVERY = 0.3


@dataclass(slots=True)
class PodClient:
    """One client beside one pod; its log has a line for each request."""

    pod: str
    language: str
    process: Process
    read: int = 0

    def taken(self) -> tuple[int, list[Failure]]:
        """How many requests worked since the last call, and the failures."""
        new = self._new()
        self.read += len(new)
        return self._judged(new)

    def failed(self) -> int:
        """How many failed since they were last taken."""
        return len(self._judged(self._new())[1])

    def _judged(self, log: bytes) -> tuple[int, list[Failure]]:
        lines = [json.loads(line) for line in log.splitlines() if line.startswith(b"{")]
        name = f"{self.language} beside {self.pod}"
        failures = [Failure(line["at"], name, line["error"]) for line in lines if line["error"]]
        return len(lines) - len(failures), failures

    def _new(self) -> bytes:
        with self.process.log.open("rb") as file:
            file.seek(self.read)
            whole = file.read()
        # The last line may still be on its way.
        return whole[: whole.rfind(b"\n") + 1]


@dataclass(slots=True)
class PodClients:
    """All of them: two for each pod. `servers` are the API servers that a load balancer would send somebody to now."""

    kubernetes: Kubernetes
    pods: Sequence[str]
    servers: Callable[[], Sequence[tuple[str, int]]]
    clients: list[PodClient] = field(default_factory=list)

    @property
    def _told(self) -> Path:
        return self.kubernetes.folder / "servers.json"

    def _tell(self) -> None:
        new = self._told.with_suffix(".new")
        new.write_text(json.dumps(self.servers()))
        new.rename(self._told)

    def start(self, pod: str) -> None:
        """The two of a pod that runs, by the files that it has now."""
        node = self.kubernetes.nodes[pod]
        volume = self._volume(node)
        python = [sys.executable, "-I", str(_HERE / "file_client.py")]
        node_js = shutil.which("node")
        assert node_js, "node is missing; as root, run: apt-get install nodejs"
        for language, program in (("Python", python), ("Node.js", [node_js, str(_HERE / "file_client.cjs")])):
            words = [*node.machine.inside, *program, f"{volume}/ca.crt", f"{volume}/token", str(self._told)]
            log = node.machine.folder / f"client-{language}-{volume.parts[-4]}.log"
            process = Process(f"{language} beside {pod}", words, log, environment(node.machine.folder))
            process.start()
            self.clients.append(PodClient(pod, language, process))

    def _volume(self, node: KubeNode) -> Path:
        """Where the kubelet has put what the pod of this node is given."""
        uid = self.kubernetes.get("pod", node.name)["metadata"]["uid"]
        place = node.machine.folder / "kubelet" / "pods" / uid / "volumes" / "kubernetes.io~projected"
        found: list[Path] = []

        def there() -> bool:
            # The volume is mounted for the machine alone.
            said = node.machine.run("find", place, "-name", "ca.crt", expect=None).stdout.split()
            found[:] = [Path(one).parent for one in said if Path(one).parent.parent == place]
            return len(found) == 1

        wait_for(there, _SECONDS, lambda: f"{node.name} has no volume: {found}", pause=0.3)
        return found[0]

    def restart(self, pod: str) -> None:
        """Delete the pod and make it again, as a rollout would, with its clients."""
        for client in [each for each in self.clients if each.pod == pod]:
            client.process.kill()
        conf = self.kubernetes.admin
        self.kubernetes.kubectl(conf, "delete", "pod", pod, "--grace-period=0", "--force", "--wait=true")
        self.kubernetes.run_pod(pod, node=pod)
        self.start(pod)

    def taken(self) -> tuple[int, list[Failure]]:
        """How many requests worked since the last call, and the failures, of all clients."""
        worked, failures = 0, []
        for client in self.clients:
            count, wrong = client.taken()
            worked += count
            failures += wrong
        return worked, failures

    def check(self) -> None:
        """Fails where one of them has ended that was not restarted."""
        last = {(each.pod, each.language): each for each in self.clients}
        for client in last.values():
            client.process.check()

    @contextlib.contextmanager
    def running(self) -> Iterator[None]:
        """Starts the clients of every pod, and ends them on the way out."""
        ending = threading.Event()

        def tell() -> None:
            while not ending.wait(_TOLD_EVERY):
                self._tell()

        self._tell()
        thread = threading.Thread(target=tell, daemon=True)
        thread.start()
        try:
            for pod in self.pods:
                self.start(pod)
            yield
        finally:
            ending.set()
            thread.join()
            for client in self.clients:
                client.process.kill()
