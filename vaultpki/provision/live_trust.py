"""Looks, before an old CA is deleted, whether a component of a listed node still accepts certificates of it.

Reports say what nodes believe; a handshake says what a process does. What cannot be reached from here is counted and
told, and does not keep the gate closed.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Final

from vaultpki.certificates import ca_subject
from vaultpki.host import tls_listeners
from vaultpki.host.tls_listeners import Listener
from vaultpki.layout import ETCD_PEER_PORT, ETCD_PORT, KUBELET_PORT, advertised, api_port
from vaultpki.model import Cluster, NodeRole
from vaultpki.provision.gates import Gate, Waiting
from vaultpki.provision.rotation import number
from vaultpki.spec.rotation_record import Method, RotationRecord, State

_SECONDS: Final = 30.0


@dataclass(frozen=True, slots=True)
class LiveTrust:
    """What listeners said: nodes that still accept the old CA, and how many listeners answered out of all."""

    waiting: tuple[Waiting, ...] = ()
    answered: int = 0
    listeners: int = 0

    @property
    def note(self) -> str:
        """Return how much was not looked at, as a sentence without a full stop; "" if nothing."""
        missed = self.listeners - self.answered
        if not missed:
            return ""
        return (
            f"{missed} of {self.listeners} listeners that must refuse the old CA could not be asked from this machine; "
            "for them the nodes' reports count"
        )


Look = Callable[[Cluster, RotationRecord], LiveTrust]
"""What looks at the listeners of a cluster; `look` is the one that does it."""


def look(cluster: Cluster, record: RotationRecord) -> LiveTrust:
    """Ask every listener of a listed node that accepted the old CA of `record` whether it still does.

    It takes at most 40 seconds, and a listener is asked by a handshake without a certificate.
    """
    # A renewed certificate has the same subject, and is the same CA for whoever accepts it.
    if record.method is Method.SAME_KEY:
        return LiveTrust()
    old = f"CN={ca_subject(cluster.name, record.domain, number(record.old.name))}"
    asked = [each for each in listeners(cluster, record.domain) if each.node not in record.excused]
    found = tls_listeners.accepted_cas(asked, _SECONDS)
    waiting = [
        Waiting(
            each.node,
            f"its {each.component} at port {each.port} still accepts certificates of the old CA: restart it there, "
            "and look at the file that it reads",
        )
        for each, names in found.items()
        if names is not None and old in names
    ]
    return LiveTrust(tuple(waiting), sum(names is not None for names in found.values()), len(found))


def listeners(cluster: Cluster, domain: str) -> tuple[Listener, ...]:
    """Return the listeners of listed nodes that accept client certificates of a CA."""
    return tuple(
        Listener(node.name, component, advertised(cluster, node)[0], port)
        for node in cluster.nodes
        if advertised(cluster, node)
        for role, component, ports in _LISTENERS.get(domain, ())
        if role in node.roles
        for port in ports or (api_port(cluster),)
    )


def narrowed(gate: Gate, seen: LiveTrust) -> Gate:
    """Return the gate with what the listeners keep it closed for."""
    return gate if not seen.waiting else replace(gate, waiting=(*gate.waiting, *seen.waiting), opens=None)


def wanted(record: RotationRecord, to: State) -> bool:
    """Return whether a step is the one before which listeners are looked at."""
    return (record.state, to) == (State.RETIRED, State.DONE)


_API = (NodeRole.CONTROL_PLANE, "kube-apiserver", ())
# Who accepts client certificates of a CA, by role; no ports means the API server's. The CA kubelet signs servers only.
_LISTENERS: Final[dict[str, tuple[tuple[NodeRole, str, tuple[int, ...]], ...]]] = {
    "etcd": ((NodeRole.ETCD, "etcd", (ETCD_PORT, ETCD_PEER_PORT)),),
    "kubernetes": (_API, (NodeRole.WORKER, "kubelet", (KUBELET_PORT,))),
    "front-proxy": (_API,),
}
