"""Looks, before an old CA is deleted, whether a component of a listed node still accepts certificates of it.

Reports say what nodes believe; a handshake says what a process does. What cannot be reached from here is counted and
told, and does not keep the gate closed.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import Final

from vaultpki.certificates import ca_subject, node_rows, rows
from vaultpki.errors import ToolMissing
from vaultpki.host import presented
from vaultpki.layout import advertised, listener_cas, listener_port
from vaultpki.model import Cluster
from vaultpki.provision.gates import Gate, Waiting
from vaultpki.provision.rotation import number
from vaultpki.spec.rotation_record import Method, RotationRecord, State

# For one listener, and for all of them.
_SECONDS: Final = 5.0
_MOST_SECONDS: Final = 30.0
_AT_ONCE: Final = 32


@dataclass(frozen=True, slots=True)
class Listener:
    """A TLS server: the component `component` of the node `node`, at an IP address and a port."""

    node: str
    component: str
    address: str
    port: int


@dataclass(frozen=True, slots=True)
class OldTrust:
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


Look = Callable[[Cluster, RotationRecord], OldTrust]
"""What looks at the listeners of a cluster; `look` is the one that does it."""


def look(cluster: Cluster, record: RotationRecord) -> OldTrust:
    """Ask every listener of a listed node that accepted the old CA of `record` whether it still does.

    It takes at most 35 seconds. A listener is asked by a handshake without a certificate: Go's servers, and so etcd and
    the components of Kubernetes, name the CAs whose clients they accept (RFC 8446, sections 4.2.4 and 4.3.2).
    """
    # A renewed certificate has the same subject, and is the same CA for whoever accepts it.
    if record.method is Method.SAME_KEY:
        return OldTrust()
    old = f"CN={ca_subject(cluster.name, record.domain, number(record.old.name))}"
    asked = [each for each in listeners(cluster, record.domain) if each.node not in record.excused]
    found = dict(zip(asked, _accepted(asked), strict=True))
    waiting = [
        Waiting(
            each.node,
            f"its {each.component} at port {each.port} still accepts certificates of the old CA: restart it there, "
            "and look at the file that it reads",
        )
        for each, names in found.items()
        if old in names
    ]
    return OldTrust(tuple(waiting), sum(bool(names) for names in found.values()), len(found))


def _accepted(asked: Sequence[Listener]) -> list[tuple[str, ...]]:
    """Return the CAs that each listener names; none for one that cannot be asked or names none."""
    deadline = time.monotonic() + _MOST_SECONDS

    def names(listener: Listener) -> tuple[str, ...]:
        if time.monotonic() >= deadline:
            return ()
        try:
            return presented.ask(listener.address, listener.port, "", _SECONDS).client_cas or ()
        except (presented.NotReached, ToolMissing):
            return ()

    with ThreadPoolExecutor(_AT_ONCE) as pool:
        return list(pool.map(names, asked))


def listeners(cluster: Cluster, domain: str) -> tuple[Listener, ...]:
    """Return the listeners of listed nodes that accept client certificates of a CA."""
    everything = rows(cluster)
    return tuple(
        Listener(node.name, row.source, advertised(cluster, node)[0], port)
        for node in cluster.nodes
        if advertised(cluster, node)
        for row in node_rows(cluster, node)
        if row.usage.server and domain in listener_cas(row, everything)
        if (port := listener_port(cluster, row.name)) is not None
    )


def narrowed(gate: Gate, seen: OldTrust) -> Gate:
    """Return the gate with what the listeners keep it closed for."""
    return gate if not seen.waiting else replace(gate, waiting=(*gate.waiting, *seen.waiting), opens=None)


def wanted(record: RotationRecord, to: State) -> bool:
    """Return whether a step is the one before which listeners are looked at."""
    return (record.state, to) == (State.RETIRED, State.DONE)
