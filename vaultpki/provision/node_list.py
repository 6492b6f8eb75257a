"""Lists the nodes of a cluster with their credentials and their reports, as Vault has them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import islice
from typing import Any, Final, Literal

from vaultpki.errors import BadAnswer
from vaultpki.model import Cluster, Node, Pool
from vaultpki.provision.identities import takes
from vaultpki.provision.live_credentials import Identity, count
from vaultpki.redact import printable
from vaultpki.spec import hosts, names
from vaultpki.vault import Vault

# Of a report: more entries or longer texts than any node of ours writes are not shown.
_MOST: Final = 64
_LONGEST: Final = 100


@dataclass(frozen=True, slots=True)
class Member:
    """One node with its holder in cluster.yaml, None for a name that fits no pool, and its report as it is stored.

    `credentials` is how many secret ids it has; None if the token may not look, and for a node that logs in by a token.
    `report` is empty for a node that has never reported.
    """

    name: str
    kind: Literal["listed", "pooled", "jwt"]
    holder: Node | Pool | None
    credentials: int | None
    report: Mapping[str, Any]

    @property
    def pool(self) -> str | None:
        """The name of its pool; None for a listed node, and "-" for a name that fits no pool."""
        if self.kind == "listed":
            return None
        return self.holder.name if self.holder else "-"

    @property
    def roles(self) -> tuple[str, ...]:
        return tuple(sorted(role.value for role in self.holder.roles)) if self.holder else ()


def members(cluster: Cluster, vault: Vault) -> tuple[Member, ...]:
    """Return the listed nodes and the pooled ones that were enrolled or have reported."""
    listed = {node.name: node for node in cluster.nodes}
    approles = vault.api.auth.approle.list_roles(mount_point=f"{cluster.prefix}/pooled").keys
    enrolled = [name for name in approles if names.fits(name, hosts.node_name)]
    pooled = set(enrolled)
    jwt_pools = [pool for pool in cluster.pools if pool.jwt]
    if jwt_pools:
        # These are not enrolled: their reports are all there is of them.
        reported = vault.api.secrets.kv.v2.list_secrets("reports", mount_point=cluster.mount("config")).keys
        pooled.update(name for name in reported if any(takes(pool, name) for pool in jwt_pools))
    everyone = [Identity("listed", name) for name in listed] + [Identity("pooled", name) for name in sorted(pooled)]

    def look(identity: Identity) -> Member:
        name = identity.name
        report = _report(cluster, vault, name)
        if identity.kind == "listed":
            return Member(name, "listed", listed[name], count(cluster, vault, identity), report)
        pool = next((each for each in cluster.pools if takes(each, name)), None)
        if name in enrolled:
            return Member(name, "pooled", pool, count(cluster, vault, identity), report)
        return Member(name, "jwt", pool, None, report)

    return tuple(vault.map(look, everyone))


def _report(cluster: Cluster, vault: Vault, name: str) -> dict[str, Any]:
    try:
        found = vault.stored(cluster.mount("config"), f"reports/{name}")
    except BadAnswer:
        # One node may write a report larger than any answer may be; the others are shown all the same.
        return {"time": "a report too large to read"}
    report = found.get("data")
    return report if isinstance(report, dict) else {}


def bounded(value: Any, depth: int = 4) -> Any:
    """Return a value that a node wrote cut to a size and without control characters, to be shown."""
    if isinstance(value, str):
        return printable(value[:_LONGEST])
    if isinstance(value, dict) and depth:
        return {printable(key[:_LONGEST]): bounded(each, depth - 1) for key, each in islice(value.items(), _MOST)}
    if isinstance(value, list) and depth:
        return [bounded(each, depth - 1) for each in value[:_MOST]]
    plain = value is None or (isinstance(value, int | float) and abs(value) < 1 << 53)
    return value if plain else "..."
