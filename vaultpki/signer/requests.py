"""Reads CertificateSigningRequests of Kubernetes (certificates.k8s.io/v1), as the API server has checked them; pure."""

from __future__ import annotations

import base64
import binascii
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final

from vaultpki.csr_roles import NODE_PREFIX, NODES_GROUP
from vaultpki.errors import RequestRefused
from vaultpki.kube.objects import mapping
from vaultpki.pki import csr
from vaultpki.redact import moment

CLIENT_KUBELET: Final = "kubernetes.io/kube-apiserver-client-kubelet"
SERVING: Final = "kubernetes.io/kubelet-serving"
CLIENT: Final = "kubernetes.io/kube-apiserver-client"
"""The signer names that are served; that of people only with people in cluster.yaml."""

SAID: Final = "vaultpki signer: "
"""The beginning of each message of a condition that a signer writes."""

WAITS_LONG: Final = timedelta(minutes=2)
"""An approved request that has waited for longer is a finding."""

GIVEN_UP: Final = timedelta(minutes=15)
"""No kubelet waits longer for its request (kubernetes pkg/kubelet/certificate, certificateWaitTimeout)."""

# kubernetes staging/src/k8s.io/cluster-bootstrap/token/api/types.go.
BOOTSTRAP_USER: Final = "system:bootstrap:"
BOOTSTRAP_GROUP: Final = "system:bootstrappers"


@dataclass(frozen=True, slots=True)
class CsrObject:
    """One CertificateSigningRequest: who asks which signer for what, and what has become of it.

    `request` is the PEM as it was sent. `expiration` is the wished life in seconds. `certificate` says that it is
    issued.
    """

    name: str
    signer: str
    username: str
    groups: tuple[str, ...]
    usages: tuple[str, ...]
    request: bytes
    expiration: int | None = None
    created: datetime | None = None
    approved: bool = False
    denied: bool = False
    failed: bool = False
    certificate: bool = False

    @property
    def waits(self) -> bool:
        """Whether it is approved and has neither a certificate nor a verdict."""
        return self.approved and not (self.denied or self.failed or self.certificate)

    @property
    def by_token(self) -> bool:
        """Whether a bootstrap token asks."""
        return self.username.startswith(BOOTSTRAP_USER) and BOOTSTRAP_GROUP in self.groups


def csr_object(value: object) -> CsrObject | None:
    """Return the request in an object of the API; None if it is anything else."""
    whole = mapping(value)
    about, spec, status = (mapping(whole.get(key)) for key in ("metadata", "spec", "status"))
    try:
        request = base64.b64decode(spec["request"], validate=True)
        expiration = spec.get("expirationSeconds")
        conditions = {str(mapping(each).get("type")) for each in status.get("conditions") or ()}
        return CsrObject(
            name=_text(about["name"]),
            signer=_text(spec["signerName"]),
            username=_text(spec.get("username") or ""),
            groups=tuple(map(_text, spec.get("groups") or ())),
            usages=tuple(map(_text, spec.get("usages") or ())),
            request=request,
            expiration=expiration if type(expiration) is int else None,
            created=moment(about.get("creationTimestamp")),
            approved="Approved" in conditions,
            denied="Denied" in conditions,
            failed="Failed" in conditions,
            certificate=bool(status.get("certificate")),
        )
    except (KeyError, TypeError, ValueError, binascii.Error):
        return None


def supposed(pem: bytes, name: str) -> CsrObject:
    """Return the request that its owner would make of a PEM: a node for itself, or somebody for a person."""
    try:
        asked = csr.read_request(pem)
    except RequestRefused:
        return CsrObject(name, CLIENT_KUBELET, "", (), (), pem)
    signer = CLIENT
    if asked.common_name.lower().startswith(NODE_PREFIX) or NODES_GROUP in asked.organization:
        signer = SERVING if asked.alternative else CLIENT_KUBELET
    usages = ("digital signature", "server auth" if signer == SERVING else "client auth")
    return CsrObject(name, signer, asked.common_name, (NODES_GROUP,), usages, pem)


def issued_to_tokens(requests: Iterable[CsrObject]) -> dict[str, str]:
    """Return the names of requests by which a bootstrap token got a kubelet's client certificate, by common name."""
    found = {}
    for each in requests:
        if each.certificate and each.by_token and each.signer == CLIENT_KUBELET:
            try:
                found[csr.read_request(each.request).common_name] = each.name
            except RequestRefused:
                continue
    return found


def _text(value: object) -> str:
    if not isinstance(value, str):
        raise TypeError
    return value
