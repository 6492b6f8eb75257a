"""Signers of certificate requests on a real cluster, and people, kubelets and tokens who make requests there."""

from __future__ import annotations

import base64
import contextlib
import http.client
import ipaddress
import json
import os
import sys
import time
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID
from prometheus_client.parser import text_string_to_metric_families

from helpers.kube.kube_cluster import Kubernetes
from helpers.kube.machines import Process, Ran
from helpers.vault import applied_cluster
from helpers.vault.servers import wait_for
from vaultpki.signer.requests import CLIENT, CLIENT_KUBELET, SERVING

SIGNED_SECONDS = 20.0
METRICS_PORT = 9911
TOKEN = "abcdef"
TOKEN_USER = f"system:bootstrap:{TOKEN}"
TOKEN_GROUPS = ("system:bootstrappers", "system:bootstrappers:kubeadm:default-node-token", "system:authenticated")
CLIENT_USAGES = ("digital signature", "client auth")
SERVER_USAGES = ("digital signature", "server auth")


def request(common_name: str, groups: Sequence[str] = (), dns: Sequence[str] = (), ips: Sequence[str] = ()) -> bytes:
    """A request for these names with a new key, as PEM."""
    names = [x509.NameAttribute(NameOID.ORGANIZATION_NAME, group) for group in groups]
    names.append(x509.NameAttribute(NameOID.COMMON_NAME, common_name))
    builder = x509.CertificateSigningRequestBuilder().subject_name(x509.Name(names))
    if dns or ips:
        alternative = [*map(x509.DNSName, dns), *(x509.IPAddress(ipaddress.ip_address(each)) for each in ips)]
        builder = builder.add_extension(x509.SubjectAlternativeName(alternative), critical=False)
    made = builder.sign(ec.generate_private_key(ec.SECP256R1()), hashes.SHA256())
    return made.public_bytes(serialization.Encoding.PEM)


def item(name: str, signer: str, pem: bytes, usages: Sequence[str], expires: int | None = None) -> dict[str, Any]:
    """A CertificateSigningRequest as `kubectl create` takes it."""
    spec: dict[str, Any] = {"request": base64.b64encode(pem).decode(), "signerName": signer, "usages": list(usages)}
    spec |= {"expirationSeconds": expires} if expires else {}
    kind = {"apiVersion": "certificates.k8s.io/v1", "kind": "CertificateSigningRequest"}
    return {**kind, "metadata": {"name": name}, "spec": spec}


def kubelet_client(name: str, node: str) -> dict[str, Any]:
    """What a kubelet asks for itself."""
    pem = request(f"system:node:{node}", ["system:nodes"])
    return item(name, CLIENT_KUBELET, pem, CLIENT_USAGES)


def kubelet_serving(name: str, node: str, *ips: str) -> dict[str, Any]:
    """What a kubelet asks for its own server."""
    return item(name, SERVING, request(f"system:node:{node}", ["system:nodes"], [node], ips), SERVER_USAGES)


def person(name: str, common_name: str, *groups: str, expires: int | None = None) -> dict[str, Any]:
    """What a person asks."""
    return item(name, CLIENT, request(common_name, groups), ("client auth",), expires)


@dataclass(slots=True)
class SignerStand:
    """A cluster with a signer on each control plane, of which any may be started, killed and started again."""

    kubernetes: Kubernetes
    signers: dict[str, Process] = field(default_factory=dict)

    def join(self, node: str, *more: str | Path) -> Ran:
        """The signer of a node joins by a join file of its own."""
        cluster, on = self.kubernetes.cluster, self.kubernetes.nodes[node]
        file = on.node.folder / "signer-join.json"
        file.unlink(missing_ok=True)
        words: list[str | Path] = ["enroll", "-f", cluster.file, "--signer", node, "--replace", "-o", file]
        applied_cluster.vaultpki(*words, env=cluster.environment("applier"))
        ran = self.kubernetes.vaultpki(node, "join", file, "--user", "root", *more)
        with self.config(node).open("a") as written:
            written.write(f"metrics: 127.0.0.1:{METRICS_PORT}\n")
        return ran

    def config(self, node: str) -> Path:
        return self.kubernetes.nodes[node].node.config.parent / "signer" / "signer.yaml"

    def command(self, node: str, *words: str, changed: str = "") -> list[str]:
        """`vaultpki signer` on a node's network; `changed` are lines of Python that run before it."""
        main = "import sys; from vaultpki.cli import main; main()"
        product = ["-c", f"{changed}\n{main}"] if changed else ["-m", "vaultpki"]
        behind = self.kubernetes.nodes[node].machine.behind
        return [*behind, sys.executable, *product, "signer", "-c", str(self.config(node)), *words]

    def start(self, node: str, *, changed: str = "") -> Process:
        """The signer of a node as a process that stays."""
        log = self.kubernetes.nodes[node].node.folder / "signer.log"
        env = applied_cluster.environment()
        process = self.signers[node] = Process(f"{node}'s signer", self.command(node, changed=changed), log, env)
        process.start()
        return process

    def run(self, node: str, *words: str, expect: int = 0) -> Ran:
        """`vaultpki signer` to its end."""
        on = self.kubernetes.nodes[node]
        command: list[str | Path] = ["signer", "-c", self.config(node), *words]
        return applied_cluster.vaultpki(*command, expect=expect, behind=on.machine.behind)

    def end(self) -> None:
        for process in self.signers.values():
            process.kill()

    # Requests

    def ask(self, *items: dict[str, Any], user: str = "", groups: Iterable[str] = (), expect: int | None = 0) -> Ran:
        """Somebody makes requests; without a user the administrator."""
        who = [f"--as={user}", *(f"--as-group={group}" for group in groups)] if user else []
        whole = json.dumps({"apiVersion": "v1", "kind": "List", "items": items})
        conf = self.kubernetes.super_admin
        return self.kubernetes.kubectl(conf, *who, "create", "-f", "-", stdin=whole, expect=expect)

    def ask_by_token(self, *items: dict[str, Any], expect: int | None = 0) -> Ran:
        return self.ask(*items, user=TOKEN_USER, groups=TOKEN_GROUPS, expect=expect)

    def ask_as_node(self, node: str, *items: dict[str, Any]) -> Ran:
        return self.ask(*items, user=f"system:node:{node}", groups=("system:nodes", "system:authenticated"))

    def approve(self, *names: str) -> None:
        self.kubernetes.kubectl(self.kubernetes.super_admin, "certificate", "approve", *names)

    def states(self) -> dict[str, tuple[str, str]]:
        """The last condition, or Issued, of each request by name, and its message."""
        found = {}
        for each in self.kubernetes.get("csr", conf=self.kubernetes.super_admin)["items"]:
            status = each.get("status", {})
            last = (status.get("conditions") or [{}])[-1]
            kinds = {one["type"] for one in status.get("conditions") or []}
            state = "Failed" if "Failed" in kinds else "Issued" if status.get("certificate") else last.get("type", "")
            message = next((one["message"] for one in status.get("conditions") or [] if one["type"] == "Failed"), "")
            found[each["metadata"]["name"]] = state or "Pending", message
        return found

    def wait(self, *names: str, state: str = "Issued", seconds: float = SIGNED_SECONDS) -> float:
        """Wait until all these requests have come to a state; return after how many seconds."""
        began = time.monotonic()

        def there() -> bool:
            known = self.states()
            return all(known.get(name, ("",))[0] == state for name in names)

        wait_for(there, seconds, lambda: f"{ {name: self.states().get(name) for name in names} }\n{self.said()}", 0.3)
        return time.monotonic() - began

    def certificates(self, name: str) -> list[x509.Certificate]:
        """The chain that was written into a request."""
        found = self.kubernetes.get("csr", name, conf=self.kubernetes.super_admin)
        return x509.load_pem_x509_certificates(base64.b64decode(found["status"]["certificate"]))

    def signed(self, prefix: str) -> Counter[str]:
        """How many certificates Vault has signed for each node whose name begins so, by its name."""
        cluster = self.kubernetes.cluster
        mount, found = f"{cluster.prefix}/kubernetes", Counter[str]()
        for serial in cluster.server.api("LIST", f"{mount}/certs").data["keys"]:
            leaf = x509.load_pem_x509_certificate(cluster.read(f"{mount}/cert/{serial}")["certificate"].encode())
            name = leaf.subject.get_attributes_for_oid(NameOID.COMMON_NAME)[0].value
            if isinstance(name, str) and name.startswith(f"system:node:{prefix}"):
                found[name.removeprefix("system:node:")] += 1
        return found

    def metrics(self, node: str) -> dict[str, float]:
        """What the signer of a node shows to Prometheus, without labels; several samples of one name are summed."""
        opened = self.kubernetes.nodes[node].machine.connect("127.0.0.1", METRICS_PORT)
        one = http.client.HTTPConnection("127.0.0.1", METRICS_PORT)
        one.sock = opened
        with contextlib.closing(one):
            one.request("GET", "/metrics")
            text = one.getresponse().read().decode()
        found: dict[str, float] = {}
        for family in text_string_to_metric_families(text):
            for sample in family.samples:
                found[sample.name] = found.get(sample.name, 0.0) + sample.value
        return found

    def forget(self, *names: str) -> None:
        """Deletes requests; without names all of them."""
        which = names or ("--all",)
        self.kubernetes.kubectl(self.kubernetes.super_admin, "delete", "csr", "--ignore-not-found", *which)

    def said(self) -> str:
        return "\n".join(f"{node}:\n{process.last_words(30)}" for node, process in self.signers.items())


def addresses(leaf: x509.Certificate) -> list[Any]:
    """The addresses that a certificate is for."""
    found = leaf.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    return found.get_values_for_type(x509.IPAddress)


def allow_tokens(kubernetes: Kubernetes) -> None:
    """What `kubeadm init` binds to bootstrap tokens: they may ask, and kube-controller-manager approves it."""
    prefix, group = "system:certificates.k8s.io:certificatesigningrequests", "system:bootstrappers"
    roles = {"ask": ("system:node-bootstrapper", group), "approve": (f"{prefix}:nodeclient", group)}
    roles["renew"] = (f"{prefix}:selfnodeclient", "system:nodes")
    rbac = "rbac.authorization.k8s.io"
    kubernetes.apply(
        *(
            {
                "apiVersion": f"{rbac}/v1",
                "kind": "ClusterRoleBinding",
                "metadata": {"name": f"tests:token-{name}"},
                "roleRef": {"apiGroup": rbac, "kind": "ClusterRole", "name": role},
                "subjects": [{"apiGroup": rbac, "kind": "Group", "name": subject}],
            }
            for name, (role, subject) in roles.items()
        ),
        conf=kubernetes.super_admin,
    )


def resident_bytes(process: Process) -> int:
    """The memory that a process holds."""
    return int(Path(f"/proc/{process.pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
