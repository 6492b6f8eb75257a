"""Which pairs a kubeadm cluster uses: what lies on the nodes, what servers show, and what clients come with."""

from __future__ import annotations

import hashlib
import json
import shlex
import ssl
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from helpers.kube import certificates_in_use
from helpers.kube.audit_log import AuditLog
from helpers.kube.components import API_PORT, ETCD_PEER_PORT, ETCD_PORT, KUBELET_PORT
from helpers.kube.kubeadm_cluster import KubeadmCluster
from helpers.kube.kubeadm_nodes import KubeadmNode
from helpers.kube.token_load import TokenLoad
from vaultpki.certificates import laid_out, pair_files
from vaultpki.kubernetes_versions import PAIR_OF_KUBELET
from vaultpki.layout import DIRECTORY, node_folders
from vaultpki.model import Row
from vaultpki.pki import x509
from vaultpki.places import PKI, Layout, inner_folders

FOLDERS = {PKI: DIRECTORY, **inner_folders(DIRECTORY), **node_folders(DIRECTORY)}
ROWS = tuple(row for row in laid_out(Layout.KUBEADM) if row.node_roles)
SERVERS = {"kube-apiserver": API_PORT, "kubelet": KUBELET_PORT, "etcd-server": ETCD_PORT, "etcd-peer": ETCD_PEER_PORT}
CLIENTS = tuple(row for row in ROWS if row.kubeconfig)

Holding = tuple[str, str]
"""A node's name and a row's."""


def held(cluster: KubeadmCluster) -> Iterator[tuple[KubeadmNode, Row]]:
    """Every row of every node."""
    for node in cluster.nodes.values():
        yield from ((node, row) for row in ROWS if row.node_roles & node.roles)


def file(node: KubeadmNode, row: Row, number: int = 0) -> Path:
    """A file of the node's pair: certificate, key, or both."""
    assert row.kubeadm is not None
    return node.seen(f"{FOLDERS[row.kubeadm.folder]}/{pair_files(row.stem)[number]}")


def row(name: str) -> Row:
    """The row of a node with this name."""
    return next(each for each in ROWS if each.name == name)


def sha256(crt: Path) -> str:
    """The SHA-256 of the first certificate in a file."""
    leaf = x509.read_certificates(crt.read_bytes())[0]
    return hashlib.sha256(ssl.PEM_cert_to_DER_cert(leaf.pem)).hexdigest()


def lying(cluster: KubeadmCluster) -> dict[Holding, str]:
    """The SHA-256 of each certificate that lies on a node; fails where a pair is torn."""
    found = {}
    for node, row in held(cluster):
        crt, key, both = (file(node, row, number).read_bytes() for number in range(3))
        leaf = x509.read_certificates(crt)[0]
        assert x509.matches(key, leaf) and both == key + crt, f"{row.name} of {node.name} is torn"
        found[node.name, row.name] = sha256(file(node, row))
    return found


def shown(cluster: KubeadmCluster) -> dict[Holding, str]:
    """The SHA-256 of the certificate that each server shows in a new handshake, to a caller by address.

    To one by name where only such callers see what a kubelet of this version has read since its start.
    """
    by_name = cluster.programs.minor < PAIR_OF_KUBELET
    found = {}
    for node, row in held(cluster):
        if row.name in SERVERS:
            context = ssl.create_default_context()
            context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
            if row.name.startswith("etcd"):
                # etcd complains in its log of whoever brings none.
                context.load_cert_chain(file(node, row, 2))
            opened = node.machine.connect(node.address, SERVERS[row.name])
            name = node.name if row.name == "kubelet" and by_name else None
            with opened, context.wrap_socket(opened, server_hostname=name) as session:
                found[node.name, row.name] = hashlib.sha256(session.getpeercert(binary_form=True) or b"").hexdigest()
    return found


def verify_live(cluster: KubeadmCluster, node: str | None = None) -> dict[str, Any]:
    """What `verify --live` says of the cluster, asked on a node, or outside as an operator."""
    machine = cluster.nodes[node].machine if node else cluster.kubernetes.outside
    enter = ["nsenter", "--target", str(machine.holder.pid), "--net", "--mount", f"--wdns={cluster.folder}", "--"]
    words = ["verify", "-f", "cluster.yaml", "--live", "--kubeconfig", "operator/admin.conf", "--json"]
    said = cluster.run(shlex.join([*enter, "vaultpki", *words]) + " 2>verify.log", expect=None)
    assert said, (cluster.folder / "verify.log").read_text()
    found: dict[str, Any] = json.loads(said)
    return found


def tokens(cluster: KubeadmCluster) -> tuple[set[str], dict[tuple[str, str], int]]:
    """Have each API server issue a token, and use it at every one.

    Returns the ids of the keys that signed, and what each server answered, by the addresses of issuer and server.
    """
    apis = cluster.kubernetes.apis
    load = TokenLoad(cluster.kubernetes, lambda: apis)
    issued = [load.issue(at) for at in apis]
    answers = {(token.issuer[0], at[0]): load.status_of(token, at) for token in issued for at in apis}
    return {token.key_id for token in issued}, answers


@dataclass(slots=True)
class Audit:
    """What both API servers have logged since this was made: who came with which pair, and who was not let in."""

    cluster: KubeadmCluster
    logs: dict[str, AuditLog] = field(default_factory=dict)
    uses: dict[str, float] = field(default_factory=dict)
    unauthorized: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.read()
        self.uses.clear()
        self.unauthorized.clear()

    def read(self) -> None:
        """Take in what is new. `uses` has the last time (Unix time) of each certificate, by its SHA-256."""
        for node in self.cluster.nodes.values():
            for event in self.logs.setdefault(node.name, AuditLog(node.machine.folder)).events():
                if event.get("responseStatus", {}).get("code") == 401:
                    received = event["requestReceivedTimestamp"]
                    self.unauthorized.append(f"{received} {event['verb']} {event['requestURI']}")
                self.uses.update(certificates_in_use.pairs(event))
