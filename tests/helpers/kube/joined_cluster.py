"""A control plane by docs/kubeadm.md with a signer by docs/signer.md, and machines that join it by a token."""

from __future__ import annotations

import contextlib
import hashlib
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from helpers.kube import kubeadm_cluster
from helpers.kube.components import Programs
from helpers.kube.kubeadm_cluster import IGNORED, KubeadmCluster
from helpers.kube.machines import Process
from helpers.vault import servers
from helpers.vault.servers import Server, wait_for
from vaultpki.signer.requests import CLIENT_KUBELET, SERVING

PLANE = "cp-1"
SECONDS = servers.SHARED * 120.0
KUBELET = "/var/lib/kubelet"
CURRENT = {CLIENT_KUBELET: f"{KUBELET}/pki/kubelet-client-current.pem"}
CURRENT[SERVING] = f"{KUBELET}/pki/kubelet-server-current.pem"
"""Where a kubelet keeps what it has asked for, by the signer names."""

_PATCHES = "/etc/kubernetes/patches"
_SPEC = """\
cluster: joined
layout: kubeadm
vault: {{addresses: ["{address}"], ca_file: vault-ca.crt}}
api_server: {{endpoint: "https://api.example.com:6443", names: [api.example.com]}}
nodes:
- {{name: cp-1, roles: [control-plane, etcd, worker], addresses: [198.51.100.11]}}
signer: {signer}
pools:
- {{name: joined, roles: [worker], node_names: "w-*", join: token, networks: [198.51.100.0/24]}}
"""


@contextlib.contextmanager
def standing(
    server: Server, programs: Programs, folder: Path, signer: str, comers: Mapping[str, str]
) -> Iterator[KubeadmCluster]:
    """The cluster; `signer` is that of cluster.yaml, and `comers` are addresses of machines by names of `w-*`."""
    spec = _SPEC.format(address=server.address, signer=signer)
    with kubeadm_cluster.machines(server, programs, folder, spec, comers=comers) as made:
        run = made.run
        run("vaultpki apply --yes")
        made.one_key()
        run("vaultpki enroll cp-1 -o cp-1.json && scp -p cp-1.json root@cp-1:")
        run("vaultpki join cp-1.json --hooks static-pods", PLANE)
        for person in ("super-admin", "admin"):
            run(f"vaultpki issue {person} --dir operator")
        run("scp -p operator/admin.conf operator/super-admin.conf root@cp-1:/etc/kubernetes/")
        run("vaultpki kubeadm config cp-1 --init -o cp-1")
        kubeadm_cluster.adapt(made.folder / PLANE, programs.version)
        run("scp -rp cp-1 root@cp-1:/etc/kubernetes/kubeadm")
        run("kubeadm init --config /etc/kubernetes/kubeadm/kubeadm.yaml", PLANE)
        run("kubectl --kubeconfig operator/super-admin.conf apply -f operator/manifests")
        run("vaultpki enroll --signer cp-1 -o signer-join.json && scp -p signer-join.json root@cp-1:")
        # A tmpfs here, in which anybody may write.
        run("chmod 755 /var/lib", PLANE)
        # Another user could not read the tester's Python.
        run("vaultpki join signer-join.json --user root", PLANE)
        plane = made.nodes[PLANE]
        plane.machine.start("signer", plane.tools / "vaultpki", "signer", "-c", "/var/lib/vaultpki-signer/signer.yaml")
        yield made


def signer_of(cluster: KubeadmCluster) -> Process:
    """The signer as a process."""
    return cluster.nodes[PLANE].machine.processes["signer"]


def said_by_signer(cluster: KubeadmCluster) -> str:
    return signer_of(cluster).last_words(30)


def requests(cluster: KubeadmCluster, signer: str, name: str) -> list[dict[str, Any]]:
    """The requests of a signer name that were made by this user."""
    found = cluster.kubernetes.get("csr")["items"]
    return [each for each in found if each["spec"]["signerName"] == signer and each["spec"]["username"] == name]


def logs(cluster: KubeadmCluster, pod: str) -> str:
    kubernetes = cluster.kubernetes
    return kubernetes.kubectl(kubernetes.admin, "logs", pod, expect=None).stdout


def ready(cluster: KubeadmCluster, name: str) -> bool:
    kubernetes, path = cluster.kubernetes, "jsonpath={.status.conditions[?(@.type=='Ready')].status}"
    return kubernetes.kubectl(kubernetes.admin, "get", "node", name, "-o", path, expect=None).stdout == "True"


def await_ready(cluster: KubeadmCluster, name: str) -> None:
    wait_for(lambda: ready(cluster, name), SECONDS, lambda: said_by_signer(cluster), pause=1)


def held(cluster: KubeadmCluster, name: str, signer: str) -> list[x509.Certificate]:
    """The leaf, and the CA above it, that a kubelet has now for this signer name."""
    # A link to an absolute path of the machine.
    return x509.load_pem_x509_certificates(cluster.nodes[name].run("cat", CURRENT[signer]).stdout.encode())


def sha256(leaf: x509.Certificate) -> str:
    """As audit logs have it."""
    return leaf.fingerprint(hashes.SHA256()).hex()


def new_token(cluster: KubeadmCluster) -> tuple[str, list[str]]:
    """What a person is told to run on a machine: the command without its pins, and the pins of the CAs."""
    printed = cluster.run("kubeadm token create --ttl 1h --print-join-command", PLANE).splitlines()[-1]
    pins = re.findall(r"--discovery-token-ca-cert-hash (\S+)", printed)
    return re.sub(r" --discovery-token-ca-cert-hash \S+", "", printed).strip(), pins


def join(cluster: KubeadmCluster, name: str, pins: Sequence[str], command: str) -> str:
    """`kubeadm join` as it was printed, with what the machines of tests lack: a host name and settings."""
    node = cluster.nodes[name]
    node.run("mkdir", "-p", _PATCHES)
    kubeadm_cluster.patch_kubelet(node.seen(_PATCHES), name)
    pinned = " ".join(f"--discovery-token-ca-cert-hash {pin}" for pin in pins)
    own = f"--node-name {name} --patches {_PATCHES} --ignore-preflight-errors={IGNORED}"
    return cluster.run(f"{command} {pinned} {own}", name)


def root_pins(cluster: KubeadmCluster) -> list[str]:
    """The pins of the roots alone, which no rotation of an issuing CA changes, as the agent keeps them in its chain."""
    chain = cluster.nodes[PLANE].seen("/etc/kubernetes/pki/ca-chain.crt").read_bytes()
    keys = [
        each.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
        for each in x509.load_pem_x509_certificates(chain)
        if each.issuer == each.subject
    ]
    return [f"sha256:{hashlib.sha256(key).hexdigest()}" for key in keys]
