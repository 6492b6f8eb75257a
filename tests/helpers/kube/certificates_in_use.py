"""Which generation of each pair a cluster of one node uses: what lies in its files, and what its components show."""

from __future__ import annotations

import contextlib
import hashlib
import ssl
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any

from helpers.kube.audit_log import AuditLog
from helpers.kube.components import API_PORT, ETCD_PEER_PORT, ETCD_PORT, KUBELET_PORT
from helpers.kube.kube_cluster import KubeNode, Kubernetes
from vaultpki.certificates import CLIENT_LOOK, laid_out, pair_files, resolve, row_named
from vaultpki.model import Row
from vaultpki.pki import x509
from vaultpki.places import Layout

PORTS = {"kube-apiserver": API_PORT, "kubelet": KUBELET_PORT, "etcd-server": ETCD_PORT, "etcd-peer": ETCD_PEER_PORT}
OF_TLS = laid_out(Layout.DOCUMENT)
"""The rows of the table whose certificates TLS peers show."""

CLIENTS = tuple(row for row in OF_TLS if row.kubeconfig)
"""Whom kube-apiserver's audit log knows."""
CALLERS = frozenset({"kube-apiserver-kubelet", "front-proxy-client", "kube-apiserver-etcd"})
"""As whom kube-apiserver itself is a client."""
CREDENTIAL, X509 = "authentication.kubernetes.io/credential-id", "X509SHA256="
# client-go looks at the pair of a kubeconfig so often, as it is built; then the connections have to be made anew, by
# components that share the processors with everything else.
LOOK_SECONDS, MARGIN_SECONDS = CLIENT_LOOK, 30


@dataclass(frozen=True, slots=True)
class Use:
    """One request: whose pair it came with (the row), the SHA-256 of the certificate, and when (Unix time)."""

    row: str
    pair: str
    at: float


def only_node(kubernetes: Kubernetes) -> KubeNode:
    (node,) = kubernetes.nodes.values()
    return node


def folder(kubernetes: Kubernetes, row: Row) -> Path:
    """Where the row's files lie."""
    return kubernetes.operator if row.operator else only_node(kubernetes).pki


def user(kubernetes: Kubernetes, row: Row) -> str:
    """Whom kube-apiserver takes the row's holder for."""
    cluster = kubernetes.cluster.model
    holder = None if row.operator else next(n for n in cluster.nodes if n.name == only_node(kubernetes).name)
    return resolve(row_named(cluster, row.name), cluster, holder).subject.common_name


def lying(kubernetes: Kubernetes) -> dict[str, str]:
    """The SHA-256 of the certificate in each row's file."""
    return {row.name: _sha256(folder(kubernetes, row) / pair_files(row.stem)[0]) for row in OF_TLS}


def pairs(event: dict[str, Any]) -> Iterator[tuple[str, float]]:
    """Yield with which pair (SHA-256) somebody came in an event of an audit log, and when (Unix time)."""
    for credential in event["user"].get("extra", {}).get(CREDENTIAL, ()):
        # Service accounts' credentials are others.
        if credential.startswith(X509):
            received = datetime.fromisoformat(event["requestReceivedTimestamp"]).timestamp()
            yield credential.removeprefix(X509), received


def _sha256(crt: Path) -> str:
    leaf = x509.read_certificates(crt.read_bytes())[0]
    return hashlib.sha256(ssl.PEM_cert_to_DER_cert(leaf.pem)).hexdigest()


def shown(kubernetes: Kubernetes, name: str) -> str:
    """The SHA-256 of the certificate that the server of a row shows in a new handshake."""
    # etcd complains in its log of whoever connects without a pair, or with a peer's from elsewhere.
    return shown_at(kubernetes, PORTS[name], "etcd-peer" if name.startswith("etcd") else None)


def shown_at(kubernetes: Kubernetes, port: int, pair: str | None = None) -> str:
    """The same at any port of the node, to a client with a pair of the node or with none."""
    node = only_node(kubernetes)
    context = ssl.create_default_context()
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    if pair:
        context.load_cert_chain(node.pki / f"{pair}.pem")
    with node.machine.connect(node.address, port) as connection, context.wrap_socket(connection) as session:
        return hashlib.sha256(session.getpeercert(binary_form=True) or b"").hexdigest()


@dataclass(slots=True)
class Record:
    """Which pair every client has come with: from kube-apiserver's audit log, from where it ended when this was made.

    Those who are no clients of kube-apiserver's are noted in `uses` by whoever they call. `unauthorized` are the
    requests that were answered 401.
    """

    kubernetes: Kubernetes
    uses: list[Use] = field(default_factory=list)
    unauthorized: list[str] = field(default_factory=list)
    log: AuditLog = field(init=False)

    def __post_init__(self) -> None:
        self.log = AuditLog(self.kubernetes.control_plane.machine.folder)
        self.log.skip()

    def read(self) -> None:
        """Takes in what has been written since."""
        rows = {user(self.kubernetes, row): row.name for row in CLIENTS}
        for event in self.log.events():
            if event.get("responseStatus", {}).get("code") == 401:
                self.unauthorized.append(f"{event['requestReceivedTimestamp']} {event['verb']} {event['requestURI']}")
            row = rows.get(event["user"].get("username", ""))
            self.uses += [Use(row, pair, at) for pair, at in pairs(event) if row is not None]

    def first(self, row: str, pair: str) -> float | None:
        """When the row's holder came with this pair first."""
        return min((use.at for use in self.uses if (use.row, use.pair) == (row, pair)), default=None)

    def others(self, row: str, pair: str, since: float) -> list[Use]:
        """When the row's holder came with any other pair, later than `since`."""
        return [use for use in self.uses if use.row == row and use.pair != pair and use.at > since]


def faults(kubernetes: Kubernetes, record: Record, since: float) -> dict[str, str]:
    """What is not as it should be once every component had its time, by row; nothing where all is well.

    Every pair has to be one pair; every server has to show what lies in its file; every client has to have come with
    what lies in its file, and with nothing else `since` (Unix time).
    """
    found = {}
    record.read()
    for row in OF_TLS:
        crt, key, both = ((folder(kubernetes, row) / name).read_bytes() for name in pair_files(row.stem))
        if not x509.matches(key, x509.read_certificates(crt)[0]) or both != key + crt:
            found[row.name] = "torn: the key, the certificate and the file of both are not one pair"
    for name, pair in lying(kubernetes).items():
        if name in PORTS and (other := shown(kubernetes, name)) != pair:
            found.setdefault(name, f"stale: the server shows {other}, the file has {pair}")
        if name in {row.name for row in CLIENTS} | CALLERS:
            if older := record.others(name, pair, since):
                found.setdefault(name, f"stale: the client came with {older[-1].pair}, the file has {pair}")
            elif record.first(name, pair) is None:
                found.setdefault(name, f"stale: the client never came with {pair}, which the file has")
    return found


@dataclass(frozen=True, slots=True)
class Change:
    """A file that is new: the SHA-256 of its certificate, and when it was there first (Unix time)."""

    pair: str
    at: float


@dataclass(slots=True)
class Lookout:
    """Looks at every row's file all the time: `changes` has each generation of it, the first one too.

    `showing` has, for the certificate of a server, when a handshake showed it first (Unix time).
    """

    kubernetes: Kubernetes
    changes: dict[str, list[Change]] = field(default_factory=lambda: {row.name: [] for row in OF_TLS})
    showing: dict[str, float] = field(default_factory=dict)
    errors: list[str] = field(default_factory=list)
    _looking: threading.Lock = field(default_factory=threading.Lock)
    _ending: threading.Event = field(default_factory=threading.Event)

    def renewed(self) -> int:
        """How many times the node's row that is furthest behind was renewed."""
        return min(len(self.changes[row.name]) for row in OF_TLS if row.node_roles) - 1

    def look(self) -> None:
        with self._looking:
            for name, pair in lying(self.kubernetes).items():
                changes = self.changes[name]
                if not changes or changes[-1].pair != pair:
                    changes.append(Change(pair, time.time()))
            for name in PORTS:
                if self.changes[name][-1].pair not in self.showing:
                    self.showing.setdefault(shown(self.kubernetes, name), time.time())

    def _keep_looking(self) -> None:
        while not self._ending.wait(0.5):
            try:
                self.look()
            except Exception as error:  # noqa: BLE001 - whatever it is, the test has to tell it
                self.errors.append(f"{type(error).__name__}: {error}")

    @contextlib.contextmanager
    def running(self) -> Iterator[None]:
        self.look()
        thread = threading.Thread(target=self._keep_looking, daemon=True)
        thread.start()
        try:
            yield
        finally:
            self._ending.set()
            thread.join(30)
