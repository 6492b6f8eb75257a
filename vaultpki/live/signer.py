"""Reads what a running cluster and its records show of its signer: GET requests only, no token's secret."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Mapping
from datetime import datetime
from typing import Final

from vaultpki.csr_roles import signer_facts
from vaultpki.errors import CertificateUnreadable
from vaultpki.findings.signer import SignerSeen
from vaultpki.kube import details
from vaultpki.kube.api import METADATA_LIST
from vaultpki.kube.details import SigningRequest
from vaultpki.kube.kubeconfig import KubeAccess
from vaultpki.kube.objects import mapping, text
from vaultpki.kube.reader import SYSTEM, ClusterReader
from vaultpki.live import trust
from vaultpki.live.trust import Expected
from vaultpki.model import Cluster
from vaultpki.pki import x509
from vaultpki.signer import permission
from vaultpki.signer.lease import LEASE
from vaultpki.signer.requests import SERVING
from vaultpki.signer.rules import served
from vaultpki.vault import Vault

Lives = Mapping[str, tuple[datetime, datetime]]

_SECONDS: Final = 60.0
_REQUESTS: Final = "certificatesigningrequests"
_GROUP: Final = "/apis/certificates.k8s.io/v1"
_TOKENS: Final = "fieldSelector=type%3Dbootstrap.kubernetes.io%2Ftoken"


def read(access: KubeAccess, cluster: Cluster, vault: Vault, now: datetime, joined: Lives) -> SignerSeen | None:
    """Return what a cluster shows of its signer; None if it has none. `joined` is as in `SignerSeen`.

    Raises Unavailable, Untrusted or VaultpkiError as `kube.reader.ClusterReader`, and what `vault` raises.
    """
    facts = signer_facts(cluster)
    if facts is None:
        return None
    reader = ClusterReader(access, time.monotonic() + _SECONDS)
    nodes = reader.part("nodes", lambda: tuple(details.node_objects(reader.list("nodes"))))
    lease = reader.part("the Lease vaultpki-signer", lambda: _lease(reader.object(LEASE)))
    requests = reader.part(_REQUESTS, lambda: tuple(details.signing_requests(reader.list(_REQUESTS, under=_GROUP))))
    tokens = reader.part(
        "bootstrap tokens",
        lambda: tuple(details.token_starts(reader.list("secrets", _TOKENS, under=SYSTEM, accept=METADATA_LIST))),
    )
    silent = permission.read_permission(vault, cluster.prefix).why
    issued = [each for each in requests or () if each.pem and each.signer in served(facts)]
    # While a cluster is taken over its controller managers sign, with another CA.
    expected = trust.from_vault(cluster, vault, now) if issued and not silent else None
    return SignerSeen(
        facts=facts,
        silent=silent,
        lease=lease,
        requests=requests or (),
        strangers=tuple(_strangers(issued, expected)) if expected is not None else (),
        tokens=tokens or (),
        nodes=nodes or (),
        joined=joined,
        unread=tuple(f"{name} of the cluster could not be read: {why}" for name, why in sorted(reader.unread.items())),
    )


def _lease(found: object) -> tuple[str, datetime | None] | None:
    if found is None:
        return None
    spec = mapping(mapping(found).get("spec"))
    return text(spec.get("holderIdentity")), details.micro_moment(spec.get("renewTime"))


def _strangers(issued: Iterable[SigningRequest], expected: Expected) -> Iterator[str]:
    for each in issued:
        try:
            leaf = x509.read_certificates(each.pem.encode())[0]
        except CertificateUnreadable:
            yield each.name
            continue
        cas = expected.of("kubelet" if each.signer == SERVING else "kubernetes")
        if x509.issuer_of(leaf, cas) is None:
            yield each.name
