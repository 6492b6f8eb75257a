"""What tests of clusters with kubeadm's own CAs share: kubeadm's configuration, cluster.yaml, and gates in seconds."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from helpers.vault.applied_cluster import AppliedCluster

ENDPOINT = "api.example.com:6443"
CONFIGURATION = "/etc/kubernetes/kubeadm/kubeadm.yaml"
PATCHES = "/etc/kubernetes/kubeadm/patches"
PKI = "/etc/kubernetes/pki"
OLD_CAS = {"kubernetes": "ca.crt", "front-proxy": "front-proxy-ca.crt", "etcd": "etcd/ca.crt"}
"""kubeadm's CAs by domain, as files below its folder."""

_VERSION = "kubeadm.k8s.io/v1beta4"

Document = dict[str, Any]


def quick(joins: int, readers: int) -> str:
    """Lines of Python by which gates wait for so many seconds for older joins and for slow readers."""
    return (
        "from vaultpki.adopt import gates\nfrom vaultpki.rotation import adoption_reasons\n"
        f"gates.JOIN, adoption_reasons.LONGEST_LOOK_AGAIN = {joins}, {readers}\n"
    )


# kubeadm


def initial(name: str, address: str, token: str, names: Sequence[str], **further: Any) -> list[Document]:
    """The documents of `kubeadm init`: `names` are further ones of the API server, `further` is of the first one."""
    cluster = {
        "apiVersion": _VERSION,
        "kind": "ClusterConfiguration",
        "controlPlaneEndpoint": ENDPOINT,
        "apiServer": {"certSANs": list(names), "extraArgs": []},
        "etcd": {"local": {"dataDir": "/var/lib/etcd"}},
    }
    first = {
        "apiVersion": _VERSION,
        "kind": "InitConfiguration",
        "bootstrapTokens": [{"token": token, "ttl": "24h"}],
        "nodeRegistration": _registration(name, address),
        "localAPIEndpoint": _point(address),
        "skipPhases": ["addon/coredns", "show-join-command"],
        "patches": {"directory": PATCHES},
        **further,
    }
    return [first, cluster]


def joining(name: str, address: str, token: str, pinned: str, key: str = "") -> Document:
    """The document of `kubeadm join` by a token; of a control plane with the `key` of uploaded certificates."""
    found: Document = {
        "apiVersion": _VERSION,
        "kind": "JoinConfiguration",
        "discovery": {
            "bootstrapToken": {"apiServerEndpoint": ENDPOINT, "token": token, "caCertHashes": [pinned]},
        },
        "nodeRegistration": _registration(name, address),
        "patches": {"directory": PATCHES},
    }
    if key:
        found["controlPlane"] = {"localAPIEndpoint": _point(address), "certificateKey": key}
    return found


def pin(ca: bytes) -> str:
    """What kubeadm pins of a CA: the SHA-256 of its public key."""
    public = x509.load_pem_x509_certificates(ca)[0].public_key()
    return f"sha256:{hashlib.sha256(public.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)).hexdigest()}"


def _registration(name: str, address: str) -> Document:
    return {"name": name, "kubeletExtraArgs": [{"name": "node-ip", "value": address}]}


def _point(address: str) -> Document:
    return {"advertiseAddress": address, "bindPort": 6443}


# cluster.yaml


def spec(name: str, address: str, nodes: Mapping[str, tuple[str, str]]) -> str:
    """cluster.yaml for the machines alone, with roles and address by name; the one that is applied is drafted."""
    head = f"cluster: {name}\nlayout: kubeadm\nvault: {{addresses: ['{address}'], ca_file: vault-ca.crt}}\nnodes:\n"
    lines = [f"- {{name: {each}, roles: [{roles}], addresses: [{at}]}}\n" for each, (roles, at) in nodes.items()]
    return head + "".join(lines)


def completed(drafted: str, address: str) -> str:
    """cluster.yaml as a person completes the draft: with Vault's address."""
    document = yaml.safe_load(drafted)
    document["vault"] = {"addresses": [address], "ca_file": "vault-ca.crt"}
    return str(yaml.safe_dump(document, sort_keys=False))


def with_node(file: Path, name: str, roles: Sequence[str], address: str) -> None:
    """List a further machine in cluster.yaml."""
    document = yaml.safe_load(file.read_text())
    document["nodes"].append({"name": name, "roles": list(roles), "addresses": [address]})
    file.write_text(yaml.safe_dump(document, sort_keys=False))


def without_old_cas(file: Path) -> None:
    """Take the old CAs out of cluster.yaml, as the last step of an adoption says."""
    document = yaml.safe_load(file.read_text())
    del document["ca"]["also_trust"]
    file.write_text(yaml.safe_dump(document, sort_keys=False))


def record(cluster: AppliedCluster) -> dict[str, Any]:
    """The record of the adoption as it is stored; empty if there is none."""
    answer = cluster.server.api("GET", f"{cluster.prefix}/config/data/rotation/adoption")
    return dict(answer.data.get("data") or {}) if answer.status == 200 else {}
