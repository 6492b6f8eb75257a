"""Asks the components of listed nodes, by handshakes, from which CAs they accept clients, and whether they answer."""

from __future__ import annotations

import time
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Final

from vaultpki.errors import ToolMissing
from vaultpki.host import presented
from vaultpki.model import Cluster
from vaultpki.records.rotation import RotationRecord
from vaultpki.rotation.listener_trust import Listener, Said, listeners

# For one listener, and for all of them.
_SECONDS: Final = 5.0
_MOST_SECONDS: Final = 30.0
_AT_ONCE: Final = 32


def probe_listeners(cluster: Cluster, record: RotationRecord) -> Mapping[Listener, Said]:
    """Ask every listener that matters in the rotation of `record`. It takes at most 35 seconds.

    A listener is asked by a handshake without a certificate: Go's servers, and so etcd and the components of
    Kubernetes, name the CAs whose clients they accept (RFC 8446, sections 4.2.4 and 4.3.2). No server name is sent, as
    by callers that connect by address.
    """
    deadline = time.monotonic() + _MOST_SECONDS

    def said(listener: Listener) -> Said:
        if time.monotonic() >= deadline:
            return Said(asked=False)
        try:
            seen = presented.ask(listener.address, listener.port, "", _SECONDS)
        except ToolMissing:
            return Said(asked=False)
        except presented.NotReached:
            return Said()
        return Said(seen.client_cas or (), issuer=seen.chain[0].issuer_text if seen.chain else "")

    asked = listeners(cluster, record)
    with ThreadPoolExecutor(_AT_ONCE) as pool:
        return dict(zip(asked, pool.map(said, asked), strict=True))
