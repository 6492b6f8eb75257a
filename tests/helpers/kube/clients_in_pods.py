"""Python, curl and client-go in pods of a cluster, which know its API server by what the kubelet gives to every pod.

The programs are the machine's own, mounted into the pods. Each request is a new TLS handshake at the balancer with the
token of the pod, and a line in a file of the machine. Python reads the CA when it starts, and never again.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from helpers.kube import containerd
from helpers.kube.client_load import Failure
from helpers.kube.kube_cluster import Kubernetes
from helpers.kube.kubeadm_nodes import KubeadmNode
from helpers.vault.servers import wait_for

_HERE = Path(__file__).parent
_LOGS = "/var/log/clients"
_GIVEN = "/var/run/secrets/kubernetes.io/serviceaccount"
_SECONDS = 180.0
# One line for each request, as file_client.py has it.
_LINE = """printf '{"at": %s, "error": "%s"}\\n' "$(date +%s)" "$(printf %s "$why" | tr -d '"\\\\' | tr '\\n' ' ')" """
_LOOP = "while :; do ASK; " + _LINE + "; sleep 0.7; done"
_CURL = (
    f'why=$(curl -sS --max-time 20 --cacert {_GIVEN}/ca.crt -H "Authorization: Bearer $(cat {_GIVEN}/token)" '
    "-o /dev/null -w '%{http_code}' https://$KUBERNETES_SERVICE_HOST:$KUBERNETES_SERVICE_PORT/api 2>&1); "
    '[ "$why" != 200 ] || why='
)
# With --request-timeout it would not look for what a pod is given.
_CLIENT_GO = "why=$(timeout 20 /programs/kubectl get --raw /api 2>&1 >/dev/null) && why="
LANGUAGES = {
    "python": f"exec python3.11 -I /here/file_client.py {_GIVEN}/ca.crt {_GIVEN}/token /log/servers.json",
    "curl": _LOOP.replace("ASK", _CURL),
    "client-go": _LOOP.replace("ASK", _CLIENT_GO),
}


@dataclass(slots=True)
class ClientsInPods:
    """The pods on one node, and what their clients did; `server` is the address and the port that they ask."""

    kubernetes: Kubernetes
    node: KubeadmNode
    server: tuple[str, int]
    programs: Path
    read: dict[str, int] = field(default_factory=dict)

    def start(self) -> None:
        """Makes the pods, and waits until each has had an answer."""
        logs = self.node.seen(_LOGS)
        logs.mkdir(exist_ok=True)
        (logs / "servers.json").write_text(json.dumps([self.server]))
        self.kubernetes.apply(*(self._pod(language) for language in LANGUAGES))
        self._await_answers()

    def restart(self) -> None:
        """Deletes the pods and makes them again, as a rollout would; what they wrote stays."""
        names = [f"client-{language}" for language in LANGUAGES]
        # Without force, or a client would go on for a moment with a token of a pod that is no more.
        words = ("delete", "pod", *names, "--wait=true")
        self.kubernetes.kubectl(self.kubernetes.admin, *words)
        self.kubernetes.apply(*(self._pod(language) for language in LANGUAGES))
        self._await_answers()

    def worked(self, since: float = 0.0) -> dict[str, int]:
        """How many requests worked since then (Unix time), by language."""
        return {
            language: sum(not each["error"] and each["at"] >= since for each in self._lines(language))
            for language in LANGUAGES
        }

    def failures(self) -> list[Failure]:
        """Every request that failed."""
        return [
            Failure(each["at"], f"{language} in a pod", each["error"])
            for language in LANGUAGES
            for each in self._lines(language)
            if each["error"]
        ]

    def _await_answers(self) -> None:
        before = self.worked()

        def missing() -> list[str]:
            return [language for language, count in self.worked().items() if count <= before[language]]

        wait_for(lambda: not missing(), _SECONDS, lambda: f"no answer: {missing()} {self.failures()[-3:]}", pause=1)

    def _lines(self, language: str) -> Sequence[dict[str, Any]]:
        found = []
        with contextlib.suppress(FileNotFoundError):
            for line in self.node.seen(f"{_LOGS}/{language}.log").read_text(errors="replace").splitlines():
                # The last line may still be on its way.
                with contextlib.suppress(ValueError):
                    found.append(json.loads(line))
        return found

    def _pod(self, language: str) -> dict[str, Any]:
        folders = {"usr": ("/usr", "/usr"), "lib": ("/usr/lib", "/lib"), "lib64": ("/usr/lib64", "/lib64")}
        folders |= {
            "here": (str(_HERE), "/here"),
            "programs": (str(self.programs), "/programs"),
            "log": (_LOGS, "/log"),
        }
        host, port = self.server
        container = {
            "name": "only",
            "image": containerd.IMAGE,
            "imagePullPolicy": "Never",
            "command": ["/bin/sh", "-c", f"{{ {LANGUAGES[language]}\n}} >>/log/{language}.log 2>>/log/{language}.err"],
            # The balancer, in place of the cluster's own address for services.
            "env": [
                {"name": "KUBERNETES_SERVICE_HOST", "value": host},
                {"name": "KUBERNETES_SERVICE_PORT", "value": str(port)},
            ],
            "volumeMounts": [
                {"name": name, "mountPath": inside, "readOnly": name != "log"} for name, (_, inside) in folders.items()
            ],
        }
        spec = {
            "hostNetwork": True,
            "nodeName": self.node.name,
            "terminationGracePeriodSeconds": 1,
            "containers": [container],
            "volumes": [{"name": name, "hostPath": {"path": outside}} for name, (outside, _) in folders.items()],
        }
        return {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": f"client-{language}"}, "spec": spec}
