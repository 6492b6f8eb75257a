"""What the rules look at of a cluster: Leases, Nodes, and what was issued to tokens; read when a rule asks for it."""

from __future__ import annotations

import threading
import time
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Final

from vaultpki.signer.known import KnownRequests
from vaultpki.signer.requests_api import RequestsApi

# In a storm every request of a kubelet would else list the Nodes.
_KEPT: Final = 10.0


class NodesSeen:
    """The addresses of the Nodes as they were read last. Safe to use from several threads."""

    def __init__(self, api: RequestsApi) -> None:
        self._api, self._lock = api, threading.Lock()
        self._read = 0.0
        self._addresses: Mapping[str, Collection[str]] | None = None

    def addresses(self, *, anew: bool) -> Mapping[str, Collection[str]]:
        """Return the addresses in the status of each Node, by its name; `anew` if those of before do not count."""
        asked = time.monotonic()
        with self._lock:
            # Another thread may have read them since.
            if self._addresses is None or (self._read < asked if anew else asked - self._read > _KEPT):
                self._read = time.monotonic()
                self._addresses = {
                    node.name: tuple(text for kind, text in node.addresses if kind in ("InternalIP", "ExternalIP"))
                    for node in self._api.nodes()
                }
            return self._addresses


@dataclass(slots=True)
class LiveLook:
    """One look at the cluster, as `rules.ClusterLook`."""

    api: RequestsApi
    known: KnownRequests
    nodes: NodesSeen
    anew: bool
    now: datetime

    def renewed(self, node: str) -> datetime | None:
        """Return when the kubelet of a node last renewed its Lease; None without one."""
        return self.api.seen_alive(node)

    def issued(self, common_name: str) -> str | None:
        """Return the name of an issued request of a token for this common name; None without one."""
        return self.known.issued(common_name)

    def addresses(self) -> Mapping[str, Collection[str]]:
        """Return the addresses in the status of each Node, by its name."""
        return self.nodes.addresses(anew=self.anew)
