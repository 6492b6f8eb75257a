"""A cluster with a signer, what runs in it, and requests of its nodes and people as the API server lists them."""

from __future__ import annotations

import base64
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any, Final

from helpers import hostile_requests as hostile
from vaultpki.csr_roles import SignerFacts
from vaultpki.model import People, Signer, TokenPool
from vaultpki.signer.requests import CLIENT, CLIENT_KUBELET, SERVING, CsrObject, csr_object

NOW: Final = datetime(2026, 12, 3, 7, 0, tzinfo=UTC)
WEEK: Final = 7 * 86400
FACTS: Final = SignerFacts(
    signer=Signer(WEEK, people=People(86400, ("*@example.com", "carol"), ((), ("dev",), ("dev", "oncall")))),
    token_pools=(
        TokenPool("joined", "w-*", ("10.0.0.0/16", "fd00::/64")),
        TokenPool("far", "x.far-*", ("10.9.0.0/16",)),
    ),
    nodes=("cp-1", "old-1"),
    common_names=("kubernetes-admin", "kube-apiserver-kubelet-client", "system:node:*", "vaultpki:signer", "probe:*"),
    addresses=("10.0.0.11", "10.0.0.31", "10.0.0.10", "10.96.0.1"),
)
"""Nodes `w-*` join by token, cp-1 and old-1 have agents; people are `*@example.com` and carol, with three lists."""

TOKEN: Final = ("system:bootstrap:abcdef", ("system:bootstrappers", "system:authenticated"))
CLIENT_USAGES: Final = ("digital signature", "client auth")
SERVER_USAGES: Final = ("digital signature", "server auth")


NODES: Final[Mapping[str, Collection[str]]] = {
    "cp-1": ("10.0.0.11", "cp-1"),
    "w-1": ("10.0.0.21", "fd00::21", "w-1"),
    "w-2": ("10.0.0.22", "w-2"),
}


@dataclass
class Running:
    """What runs: when Leases were renewed, what tokens got, which Node has which addresses."""

    leases: Mapping[str, datetime] = field(default_factory=dict)
    tokens: Mapping[str, str] = field(default_factory=dict)
    nodes: Mapping[str, Collection[str]] = field(default_factory=lambda: dict(NODES))
    now: datetime = NOW

    def renewed(self, node: str) -> datetime | None:
        return self.leases.get(node)

    def issued(self, common_name: str) -> str | None:
        return self.tokens.get(common_name)

    def addresses(self) -> Mapping[str, Collection[str]]:
        return self.nodes


QUIET: Final = Running()
"""cp-1, w-1 and w-2 have Nodes, no Lease is fresh, and no token got anything."""
ALIVE: Final = Running(leases={"w-2": NOW - timedelta(seconds=10)})


def api_object(
    signer: str, pem: bytes, username: str, groups: Collection[str], usages: Collection[str], **more: Any
) -> dict[str, Any]:
    """The object as kube-apiserver lists it, approved."""
    return {
        "apiVersion": "certificates.k8s.io/v1",
        "kind": "CertificateSigningRequest",
        "metadata": {"name": "csr-1", "uid": "u", "resourceVersion": "7", "creationTimestamp": "2026-12-03T06:59:58Z"},
        "spec": {
            "request": base64.b64encode(pem).decode(),
            "signerName": signer,
            "username": username,
            "groups": [*groups],
            "usages": [*usages],
            **more,
        },
        "status": {"conditions": [{"type": "Approved", "status": "True", "reason": "AutoApproved"}]},
    }


def read(value: dict[str, Any]) -> CsrObject:
    """The request in such an object."""
    found = csr_object(value)
    assert found is not None
    return found


def joins(node: str = "w-1", pem: bytes | None = None, **changed: Any) -> CsrObject:
    """A bootstrap token asks for the client certificate of a node."""
    pem = hostile.simple(f"system:node:{node}", ["system:nodes"]) if pem is None else pem
    what = {"username": TOKEN[0], "groups": TOKEN[1], "usages": CLIENT_USAGES, **changed}
    return read(api_object(CLIENT_KUBELET, pem, **what))


def renews(node: str = "w-1", pem: bytes | None = None, **changed: Any) -> CsrObject:
    """A node asks for its next client certificate."""
    return joins(node, pem, **{"username": f"system:node:{node}", "groups": ("system:nodes",), **changed})


def serves(
    node: str = "w-1", names: Collection[tuple[int, bytes]] | None = None, pem: bytes | None = None, **changed: Any
) -> CsrObject:
    """A node asks for a serving certificate, by default for its name and its address 10.0.0.21."""
    names = (*hostile.dns(node), (0x87, bytes([10, 0, 0, 21]))) if names is None else names
    if pem is None:
        pem = hostile.simple(f"system:node:{node}", ["system:nodes"], [hostile.alternative(*names)])
    what = {"username": f"system:node:{node}", "groups": ("system:nodes",), "usages": SERVER_USAGES, **changed}
    return read(api_object(SERVING, pem, **what))


def person(
    name: str = "alice@example.com", groups: Collection[str] = (), pem: bytes | None = None, **changed: Any
) -> CsrObject:
    """Somebody asks for a person's client certificate."""
    pem = hostile.simple(name, [*groups]) if pem is None else pem
    what = {"username": "somebody", "groups": ("system:authenticated",), "usages": CLIENT_USAGES, **changed}
    return read(api_object(CLIENT, pem, **what))
