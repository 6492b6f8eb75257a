"""A pod with the token that its kubelet asks for, mounts, and replaces in time, as a projected volume has it."""

from __future__ import annotations

import base64
import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from helpers.kube import containerd
from helpers.kube.kube_cluster import KubeNode, Kubernetes
from helpers.kube.token_load import LIFE, Token
from helpers.vault.servers import wait_for

_RUNS_SECONDS = 120.0


@dataclass(slots=True)
class PodToken:
    """The pod `name` on a node; its token lives as short as tokens may, so it is replaced within ten minutes.

    `seen` are the tokens that it has been given, oldest first.
    """

    kubernetes: Kubernetes
    node: KubeNode
    name: str = "tokens"
    file: Path | None = None
    seen: list[Token] = field(default_factory=list)

    def start(self) -> None:
        """Makes the pod, and waits until it runs with a token."""
        container = {
            "name": "only",
            "image": containerd.IMAGE,
            "imagePullPolicy": "Never",
            "command": ["/bin/sh", "-c", "sleep 100000"],
            "volumeMounts": [{"name": "token", "mountPath": "/token", "readOnly": True}],
        }
        source = {"serviceAccountToken": {"path": "token", "expirationSeconds": LIFE}}
        spec = {
            "hostNetwork": True,
            "nodeName": self.node.name,
            "automountServiceAccountToken": False,
            "terminationGracePeriodSeconds": 0,
            "containers": [container],
            "volumes": [{"name": "token", "projected": {"sources": [source]}}],
        }
        self.kubernetes.apply({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": self.name}, "spec": spec})
        uid = self.kubernetes.get("pod", self.name)["metadata"]["uid"]
        place = self.node.machine.folder / "kubelet" / "pods" / uid / "volumes" / "kubernetes.io~projected"
        # The volume is mounted for the machine alone.
        machine = Path(f"/proc/{self.node.machine.holder.pid}/root")
        file = machine / (place / "token" / "token").relative_to("/")
        wait_for(file.exists, _RUNS_SECONDS, lambda: f"pod {self.name} has no token", pause=0.3)
        self.file = file

    def forget(self) -> None:
        """Has nobody read its token any more."""
        self.file = None

    def end(self) -> None:
        self.forget()
        conf = self.kubernetes.admin
        self.kubernetes.kubectl(conf, "delete", "pod", self.name, "--grace-period=0", "--force", "--wait=true")

    def read(self) -> Sequence[Token]:
        """The token that the pod has now; nothing while it is made."""
        try:
            text = self.file.read_text().strip() if self.file is not None else ""
        except OSError:
            text = ""
        if not text:
            return ()
        if not self.seen or self.seen[-1].text != text:
            # Who issued it is not to be seen: the kubelet asks any of them.
            self.seen.append(Token((f"pod {self.name}", 0), _until(text), text))
        return self.seen[-1:]


def _until(token: str) -> float:
    body = token.split(".")[1]
    found: dict[str, float] = json.loads(base64.urlsafe_b64decode(body + "=" * (-len(body) % 4)))
    return found["exp"]
