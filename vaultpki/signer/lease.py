"""Decides which of a cluster's signers signs: the one that holds the Lease `vaultpki-signer` in kube-system.

Two at once are harmless: the API server takes the first certificate, and answers 409 to the other.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Final

from vaultpki.errors import ChangedMeanwhile, StateConflict
from vaultpki.kube.objects import mapping, text
from vaultpki.kube.writer import ClusterWriter

LEASE: Final = "/apis/coordination.k8s.io/v1/namespaces/kube-system/leases/vaultpki-signer"
LEASE_SECONDS: Final = 15.0
RENEW_SECONDS: Final = 4.0
"""How often its holder renews it, and the others look at it."""

# Until then the holder signs after its last renewal; another one takes the Lease later than that.
_HELD: Final = 10.0


class Leadership:
    """The Lease as one signer, `me`, has seen it; `clock` is monotonic seconds."""

    def __init__(self, me: str, clock: Callable[[], float] = time.monotonic) -> None:
        self._me, self._clock = me, clock
        self._seen: tuple[str, str] = "", ""
        self._since = clock()
        self._until = 0.0

    @property
    def leads(self) -> bool:
        """Whether this signer signs."""
        return self._clock() < self._until

    @property
    def holder(self) -> str:
        """Who held it at the last look; "" for nobody."""
        return self._seen[0]

    def renew(self, api: ClusterWriter) -> None:
        """Take or renew the Lease unless another one holds it. Raises StateConflict without a Lease, and as `api`.

        Another one's clock is not compared with ours: what counts is for how long its time of renewal has not changed.
        """
        now = self._clock()
        found = api.read(LEASE)
        if found is None:
            raise StateConflict(
                "there is no Lease vaultpki-signer in kube-system; apply the manifest signer.yaml, which "
                "`vaultpki issue` writes"
            )
        spec = dict(mapping(found.get("spec")))
        seen = text(spec.get("holderIdentity")), text(spec.get("renewTime"))
        if seen != self._seen:
            self._seen, self._since = seen, now
        if seen[0] not in ("", self._me) and now - self._since < LEASE_SECONDS:
            self._until = 0.0
            return
        self._write(api, found, spec, seen[0] != self._me)
        self._until = now + _HELD if self._seen[0] == self._me else 0.0

    def release(self, api: ClusterWriter) -> None:
        """Give the Lease back, so that another one need not wait for its end."""
        found = api.read(LEASE)
        spec = dict(mapping(found and found.get("spec")))
        self._until = 0.0
        if found is not None and spec.get("holderIdentity") == self._me:
            api.replace(LEASE, {**found, "spec": {**spec, "holderIdentity": ""}})

    def _write(self, api: ClusterWriter, found: dict[str, object], spec: dict[str, object], taken: bool) -> None:
        stamp = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")
        spec |= {"holderIdentity": self._me, "renewTime": stamp, "leaseDurationSeconds": int(LEASE_SECONDS)}
        if taken:
            count = spec.get("leaseTransitions")
            spec |= {"acquireTime": stamp, "leaseTransitions": count + 1 if isinstance(count, int) else 1}
        try:
            api.replace(LEASE, {**found, "spec": spec})
        except ChangedMeanwhile:
            return
        self._seen, self._since = (self._me, stamp), self._clock()
