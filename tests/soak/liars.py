"""Nodes of a soak whose reports lie: their credentials are in foreign hands, beside an agent that goes on.

A liar logs in as its node and writes what it likes where its node's policy lets it write. So it harms its own node, and
may delay a step; whatever else happens to a cluster because of it is a fault.
"""

from __future__ import annotations

import contextlib
import random
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

from helpers.node.reporting_nodes import record_of
from helpers.vault.applied_cluster import AppliedCluster, NodeFolder
from vaultpki.certificates import rows
from vaultpki.records import report_paths
from vaultpki.records.rotation import DOMAINS
from vaultpki.redact import stamp

Lie = dict[str, Any]


@dataclass(slots=True)
class Liar:
    """A node that lies. `pool` is None for a listed one; `told` counts what Vault took of its lies."""

    cluster: AppliedCluster
    node: NodeFolder
    chance: random.Random
    pool: str | None = None
    told: int = 0

    def lie(self) -> None:
        """Write one false report as the node. Vault, or the node's own agent, may be away just then."""
        with contextlib.suppress(OSError, LookupError):
            token = self._login()
            kinds: list[Callable[[], Lie]] = [self._ready, self._ahead, self._far_ahead, self._others, self._nonsense]
            place = f"{self.cluster.prefix}/config/data/{self._place}"
            answer = self.cluster.server.api("POST", place, {"data": self.chance.choice(kinds)()}, token=token)
            self.told += answer.status == 200

    @property
    def _place(self) -> str:
        name = self.node.name
        return report_paths.listed(name) if self.pool is None else report_paths.pooled(self.pool, name)

    def _login(self) -> str:
        kind = "listed" if self.pool is None else "pooled"
        secret = (self.node.state / "secret-id").read_text().strip()
        (role_id,) = (
            line.partition("role_id: ")[2].rstrip("}")
            for line in self.node.config.read_text().splitlines()
            if "role_id: " in line
        )
        body = {"role_id": role_id, "secret_id": secret}
        answer = self.cluster.server.api("POST", f"auth/{self.cluster.prefix}/{kind}/login", body, token="")
        token: str = answer.body["auth"]["client_token"]
        return token

    def _ready(self) -> Lie:
        """All that any gate may wait for: the bundles of the records, processes started just now, leaves of any CA."""
        now = datetime.now(UTC)
        found = {domain: record_of(self.cluster, domain) for domain in DOMAINS}
        held = {domain: sorted(record.trust) for domain, record in found.items() if record is not None}
        return self._report(
            now,
            rotation={d: self._seen(record.revision if record is not None else 0) for d, record in found.items()},
            bundles={d: {"sha256": each, "installed": stamp(now - timedelta(hours=1))} for d, each in held.items()},
            readers={
                f"{d}/{component}": {"started": stamp(now), "sha256": each, "running": True, "healthy": True}
                for d, each in held.items()
                for component in ("etcd", "kube-apiserver", "kube-controller-manager")
            },
            certificates=self._certificates(now),
        )

    def _ahead(self) -> Lie:
        """A record that is somewhat newer than the server's, as after a restored snapshot."""
        found = {domain: record_of(self.cluster, domain) for domain in DOMAINS}
        ahead = {d: self._seen((r.revision if r else 0) + self.chance.randrange(1, 900)) for d, r in found.items()}
        return self._report(datetime.now(UTC), rotation=ahead)

    def _far_ahead(self) -> Lie:
        """A record that no rotation of a thousand years reaches."""
        far = self.chance.choice((10**6, 10**9, (1 << 53) - 1))
        return self._report(datetime.now(UTC), rotation={domain: self._seen(far) for domain in DOMAINS})

    def _others(self) -> Lie:
        """Certificates of all others, and CAs of nobody, from the future."""
        later = datetime.now(UTC) + timedelta(days=self.chance.randrange(1, 9000))
        hashes = [f"{self.chance.getrandbits(256):064x}" for _ in range(40)]
        return self._report(
            later,
            certificates=self._certificates(later),
            bundles={d: {"sha256": hashes, "installed": stamp(later)} for d in DOMAINS},
            pins=hashes,
        )

    def _nonsense(self) -> Lie:
        return {"version": 1, "time": self.chance.choice(["", "soon", 7, None]), "rotation": [], "certificates": "all"}

    def _report(self, when: datetime, **further: Any) -> Lie:
        return {"version": 1, "time": stamp(when), "agent": "0.2.0", "poll": 10, **further}

    def _certificates(self, now: datetime) -> Lie:
        """A certificate of every row, with serials that the CAs have given to others."""
        found = {}
        for row in rows(self.cluster.model):
            listed = self.cluster.server.api("LIST", f"{self.cluster.prefix}/{row.ca}/certs").body["data"]["keys"]
            found[row.name] = {
                "ca": row.ca,
                "state": "fresh",
                "not_after": stamp(now + timedelta(days=30)),
                "serial": self.chance.choice(listed).replace(":", ""),
                "issuer_key_id": f"{self.chance.getrandbits(160):040x}",
                "served": [],
                "installed": stamp(now - timedelta(hours=1)),
            }
        return found

    def _seen(self, highest: int) -> Lie:
        revision = self.chance.choice((highest, max(highest - 1, 0)))
        return {"revision": revision, "highest": highest, "behind": revision < highest}
