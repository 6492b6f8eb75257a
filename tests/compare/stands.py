"""What stands around the product while it is compared: a node's components, a kubeadm cluster, a signer outside.

They are the tests' own; a step's commands act on them, and both sides meet the same ones.
"""

from __future__ import annotations

import contextlib
import json
import re
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import trustme

from compare.recorded_run import ROOT_TOKEN, api
from helpers.kube import answering_api
from helpers.kube.adopted_cluster import AdoptedCluster, serving, spec_of
from helpers.kube.answering_api import Api
from helpers.kube.kubeadm_objects import SYSTEM, KubeadmObjects, Shape
from helpers.node import node_components
from helpers.node.agents_with_keys import LIFE, Plane
from helpers.vault.applied_cluster import AppliedCluster, NodeFolder
from helpers.vault.outside_signer import OutsideSigner
from helpers.vault.server_calls import Answer
from vaultpki.model import NodeRole
from vaultpki.vault import Settings, Vault

# So that nobody waits for tokens to end.
TOKEN_LIFE = "1s"


@dataclass(frozen=True, slots=True)
class _Server:
    """The server of a life, as helpers ask one."""

    port: int

    def api(self, method: str, path: str, body: object = None) -> Answer:
        found = api(self.port, method, path, body)
        return Answer(404 if "errors" in found else 200, found)


@dataclass(slots=True)
class Stands:
    """What stands around the cluster in `folder`, whose server is at this port of loopback."""

    folder: Path
    port: int
    stack: contextlib.ExitStack
    signers: dict[str, OutsideSigner] = field(default_factory=dict)
    planes: dict[str, Plane] = field(default_factory=dict)
    objects: KubeadmObjects | None = None
    api: Api | None = None
    config: Path = Path()
    adopted: AdoptedCluster | None = None
    told: int = 0

    def passed(self) -> None:
        """All agents have passed. Machines that are taken over do their steps, which the agents here cannot."""
        if self.adopted is not None:
            # A pass of theirs takes half a minute.
            self.adopted.now = datetime.now(UTC).replace(microsecond=0) - timedelta(seconds=30)
            self.adopted.passes()

    def changed(self) -> list[tuple[str, bytes]]:
        """Return what was changed in the cluster's API server since this was asked last."""
        changed = self.api.changed[self.told :] if self.api is not None else []
        self.told += len(changed)
        values = self.api.values if self.api is not None else {}
        return [(f"{method} {path}", json.dumps(values.get(path, {})).encode()) for method, path in changed]

    # Nodes

    def components(self, node: str, *roles: str) -> None:
        """What reads a bundle only when it starts runs on a node, and hooks restart it."""
        place = NodeFolder(node, self.folder / node)
        node_components.add_hooks(place)
        self.stack.enter_context(node_components.standing(place, frozenset(map(NodeRole, roles))))

    def apiserver(self, node: str) -> None:
        """A kube-apiserver that reads the service-account keys is ready to start on a node; a hook restarts it."""
        made = self.planes[node] = Plane.of(NodeFolder(node, self.folder / node))
        made.server.flags = [word.replace(f"={LIFE}s", f"={TOKEN_LIFE}") for word in made.server.flags]

    def serves(self, node: str) -> None:
        """It starts."""
        self.planes[node].load()
        self.stack.enter_context(self.planes[node].server.supervised())
        self.planes[node].server.serves()

    def stops(self, node: str) -> None:
        """Its machine is gone."""
        (self.folder / node / "components/kube-apiserver/serving").unlink()

    def tokens(self, *nodes: str) -> None:
        """The cluster's API server shows the flags of these nodes' kube-apiserver, and no Secret with a token."""
        flags = ["--service-account-extend-token-expiration=false"]
        flags += [f"--service-account-max-token-expiration={TOKEN_LIFE}"]
        values = {
            "/api/v1/namespaces/kube-system/pods": answering_api.items(*(_static_pod(node, flags) for node in nodes)),
            "/api/v1/secrets": answering_api.items(),
            "/api/v1/nodes": answering_api.items(),
        }
        ca = trustme.CA()
        served = answering_api.serving(values, ca.issue_cert("127.0.0.1").configure_cert)
        answering_api.access(self.stack.enter_context(served), self.folder, ca.cert_pem.bytes())

    # A signer outside

    def signer(self, name: str) -> None:
        """A PKI outside; its chain is in NAME.pem, and cluster.yaml gets its SHA-256 for the word NAME-SHA256."""
        made = self.signers[name] = OutsideSigner.made(self.folder / name, ["Corp Policy CA"])
        (self.folder / f"{name}.pem").write_text(made.chain)
        self._spec(lambda text: text.replace(f"{name}-SHA256", made.root_sha256))

    def signs(self, name: str, requests: str) -> None:
        """It signs what `ca csr` wrote to a folder, as is asked there."""
        folder = self.folder / requests
        for csr in sorted(folder.glob("*.csr")):
            signed = self.signers[name].sign(csr, csr.with_suffix(".ext").read_text(), days=1825)
            signed.rename(csr.with_suffix(".crt"))

    def crosses(self, name: str, requests: str) -> None:
        """Its root vouches for the new root of a folder."""
        (extensions,) = (self.folder / requests).glob("*.ext")
        self.signers[name].cross(extensions, "-sha384")

    def home(self) -> None:
        """A person takes the signer outside out of cluster.yaml."""
        self._spec(lambda text: re.sub(r"(?m)^ca: .*\n", "", text))

    def _spec(self, change: Callable[[str], str]) -> None:
        file = self.folder / "cluster.yaml"
        file.write_text(change(file.read_text()))

    # A kubeadm cluster

    def kubeadm(self) -> None:
        """There is a cluster of kubeadm, whose API server answers; cluster.yaml describes it."""
        shape = Shape(planes=2, key="ECDSA-P256")
        self.objects = KubeadmObjects(shape)
        self.api, self.config = self.stack.enter_context(serving(self.objects, self.folder))
        self.api.values[f"{SYSTEM}/configmaps"] = answering_api.items()
        (self.folder / "cluster.yaml").write_text(f"cluster: demo\n{spec_of(shape)}")
        cas = {"": self.objects.ca, "front-proxy-": self.objects.front, "etcd-": self.objects.etcd}
        for name, ca in cas.items():
            (self.folder / f"old-{name}ca.crt").write_text(ca.pem)

    def taken(self) -> None:
        """Its machines have agents from now on, and follow the record."""
        assert self.objects is not None and self.api is not None
        cluster = AppliedCluster(_Server(self.port), self.folder, "demo")  # type: ignore[arg-type]
        self.adopted = AdoptedCluster(cluster, self.objects, self.api, self.config)
        self.adopted.vault = Vault(Settings((f"http://127.0.0.1:{self.port}",), token=ROOT_TOKEN))

    def pods(self) -> None:
        """A person restarts the pods."""
        assert self.adopted is not None
        self.adopted.now = datetime.now(UTC).replace(microsecond=0) - timedelta(minutes=5)
        self.adopted.restart_pods()


def _static_pod(node: str, flags: list[str]) -> dict[str, Any]:
    container = {"name": "kube-apiserver", "command": ["kube-apiserver", *flags]}
    about = {"annotations": {"kubernetes.io/config.mirror": "x"}}
    return {"metadata": about, "spec": {"nodeName": node, "containers": [container]}}
