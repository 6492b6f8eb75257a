"""Lists the nodes of a cluster with their credentials and their reports, as Vault has them.

A name counts only as what its identity proves: a listed node, or a node of the pool that its name fits. Whoever may
enrol pooled nodes may also make an AppRole called `cp-1`; it is listed apart, and counts nowhere.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final, Literal

from vaultpki.identity import reports
from vaultpki.identity.access import APPROLE, fits_pattern, holder_of, takes
from vaultpki.identity.applied import APPLIED, AppliedRecord
from vaultpki.identity.credentials import Identity, SecretId, count, held_credentials
from vaultpki.identity.ending import find_entity, read_accessors
from vaultpki.identity.reports import TokenIdentity
from vaultpki.model import Cluster, Node, NodeRole, Pool
from vaultpki.records import report_paths
from vaultpki.records.node_report import NodeReport
from vaultpki.records.service_account import MOST_IN_UNION
from vaultpki.redact import printable
from vaultpki.values import hosts, names
from vaultpki.vault import Vault

# Of a report: lists of more entries and longer texts than any node of ours writes are left out, and shown as this.
_LEFT_OUT: Final = "..."
_MOST: Final = MOST_IN_UNION
_LONGEST: Final = 8192

NodeKind = Literal["listed", "pooled", "jwt"]


@dataclass(frozen=True, slots=True)
class Member:
    """One node with its holder in cluster.yaml, None for one of a pool that was applied and that cluster.yaml lacks.

    `credentials` is how many secret ids it has; None if the token may not look, and for a node that logs in by a token.
    `report` has of its certificates only those that it may hold; None if it never reported, or if that cannot be read.
    `stored` is the report as it is stored, as JSON text for people; empty if there is none. `disabled` is a
    node by token whose entity opens nothing.
    `join_until` is until when a join file can be used, of a node that has nothing else. `secret_ids` are looked up only
    for a node that has reported and has more than it needs at rest.
    """

    name: str
    kind: NodeKind
    holder: Node | Pool | None
    credentials: int | None
    report: NodeReport | None = None
    stored: str = ""
    disabled: bool = False
    join_until: datetime | None = None
    secret_ids: tuple[SecretId, ...] = ()

    @property
    def pool(self) -> str | None:
        """The name of its pool; None for a listed node, and "-" for a pool that cluster.yaml lacks."""
        if self.kind == "listed":
            return None
        return self.holder.name if self.holder else "-"

    @property
    def roles(self) -> tuple[str, ...]:
        return tuple(sorted(role.value for role in self.holder.roles)) if self.holder else ()

    @property
    def locked(self) -> bool:
        """Whether nobody can log in as this node, so that its report counts nowhere."""
        return self.credentials == 0 or self.disabled


@dataclass(frozen=True, slots=True)
class Unfit:
    """An identity that does not belong to a node: its name fits no pool, so it counts nowhere.

    `credentials` is as in Member. `namesake` says that the name is a listed node's, or fits a pool whose nodes have no
    AppRoles.
    """

    name: str
    kind: NodeKind
    credentials: int | None
    namesake: bool = False

    @property
    def sentence(self) -> str:
        """What it is and what ends it, as one sentence without a subject."""
        if self.kind == "jwt":
            return "logged in by an issuer's token, fits no pool and counts nowhere; let its issuer sign no such name"
        ends = "`vaultpki apply`"
        # That command would end the access of a node of this name too.
        if not self.namesake and names.fits(self.name, hosts.node_name):
            ends = f"`vaultpki unenroll {self.name}`"
        return f"is an AppRole on the mount of pools that fits no pool, and counts nowhere; {ends} ends it"


@dataclass(frozen=True, slots=True)
class NodeList:
    """The nodes of a cluster, each name once, and the identities that do not belong to a node.

    `lacking` are pools by token that were applied and that cluster.yaml lacks, in which a node has reported.
    """

    members: tuple[Member, ...]
    unfit: tuple[Unfit, ...] = ()
    lacking: tuple[str, ...] = ()


def members(cluster: Cluster, vault: Vault) -> tuple[Member, ...]:
    """Return the listed nodes and the pooled ones that were enrolled or have reported."""
    return read_nodes(cluster, vault).members


def read_nodes(cluster: Cluster, vault: Vault) -> NodeList:
    """Return the nodes with their reports, and what else can log in on the mounts of nodes."""
    approles = vault.api.auth.approle.list_roles(mount_point=f"{cluster.prefix}/pooled").keys
    holders = {name: _pool(cluster, name, jwt=False) for name in approles}
    # Its nodes may live though cluster.yaml lacks their pool: who reads on must know of them.
    others = [name for name, pool in holders.items() if pool is None]
    former_pools = _applied_pools(cluster, vault) if others else {}
    homeless = {name: pool for name in others if (pool := _home(cluster, former_pools, name))}
    unfit = [name for name in others if name not in homeless]
    tokens = reports.token_identities(cluster, vault)
    pools = {pool.name: pool for pool in cluster.pools if pool.jwt}
    by_token = [each for each in tokens if each.pool in pools and takes(pools[each.pool], each.name)]
    known = {each.entity for each in by_token}
    # By roles, of which there are few.
    by_roles: dict[frozenset[NodeRole], Node | Pool] = {each.roles: each for each in cluster.nodes}
    by_roles |= {each.roles: each for each in cluster.pools}
    held = {roles: reports.cas_of_rows(cluster, one) for roles, one in by_roles.items()}
    of_any = reports.cas_of_rows(cluster, None)

    def listed(node: Node) -> Member:
        place = reports.place_of(node, node.name)
        return _with_approle(cluster, vault, Identity("listed", node.name), node, place, held[node.roles])

    def pooled(name: str) -> Member:
        pool = holders[name]
        place = report_paths.pooled(pool.name if pool is not None else homeless[name], name)
        own = held[pool.roles] if pool is not None else of_any
        return _with_approle(cluster, vault, Identity("pooled", name), pool, place, own)

    def token(each: TokenIdentity) -> Member:
        pool, place = pools[each.pool], report_paths.by_token(each.pool, each.entity)
        found = reports.read(cluster, vault, place, held[pool.roles])
        return Member(each.name, "jwt", pool, None, found.report, found.text, disabled=each.disabled)

    def unfit_identity(name: str) -> Unfit:
        counted = count(cluster, vault, Identity("pooled", name)) if APPROLE.fullmatch(name) else None
        namesake = any(node.name == name for node in cluster.nodes) or _pool(cluster, name, jwt=True) is not None
        return Unfit(name, "pooled", counted, namesake)

    enrolled = sorted(name for name, pool in holders.items() if pool is not None or name in homeless)
    return NodeList(
        (
            *vault.map(listed, cluster.nodes),
            *vault.map(pooled, enrolled),
            *sorted(vault.map(token, by_token), key=lambda each: each.name),
        ),
        (
            *vault.map(unfit_identity, sorted(unfit)),
            *(Unfit(each.name, "jwt", None) for each in tokens if each.pool in pools and each.entity not in known),
        ),
        tuple(sorted(pool for pool in {each.pool for each in tokens} - pools.keys() if _applied(cluster, vault, pool))),
    )


def own_report(cluster: Cluster, vault: Vault, name: str) -> NodeReport | None:
    """Return the report of a node by its name, also of one whose AppRole has just been deleted; None if it has none."""
    holder = holder_of(cluster, name)
    if isinstance(holder, Pool) and holder.jwt:
        accessor = read_accessors(cluster, vault).get("jwt", "")
        entity = find_entity(vault, accessor, name) if accessor else None
        places = [report_paths.by_token(holder.name, entity.id)] if entity is not None else []
    elif holder is not None:
        places = [reports.place_of(holder, name)]
    else:
        # It was taken off cluster.yaml, and no apply has ended it yet.
        homes = [pool for pool, pattern in _applied_pools(cluster, vault).items() if fits_pattern(pattern, name)]
        places = [report_paths.listed(name), *(report_paths.pooled(pool, name) for pool in homes)]
    held = reports.cas_of_rows(cluster, holder)
    found = vault.map(lambda place: reports.read(cluster, vault, place, held).report, places)
    return next((each for each in found if each is not None), None)


def _with_approle(
    cluster: Cluster,
    vault: Vault,
    identity: Identity,
    holder: Node | Pool | None,
    place: str,
    held: Mapping[str, str],
) -> Member:
    name = identity.name
    found = reports.read(cluster, vault, place, held)
    own = held_credentials(cluster, vault, identity, found.report)
    # Gates leave a node without any out, and an expired join file lets in for some minutes more.
    credentials = own.count if found.text else own.used
    return Member(
        *(name, "listed" if identity.kind == "listed" else "pooled", holder, credentials, found.report, found.text),
        join_until=own.join_until,
        secret_ids=own.secret_ids,
    )


def _pool(cluster: Cluster, name: str, *, jwt: bool) -> Pool | None:
    """Return the pool of which a name is a node's; cluster.yaml has no two pools, and no listed node, of one name."""
    return next((pool for pool in cluster.pools if takes(pool, name) and (pool.jwt is not None) is jwt), None)


def _applied(cluster: Cluster, vault: Vault, pool: str) -> bool:
    """Return whether a pool was applied and not removed since."""
    return bool(vault.stored(cluster.mount("config"), f"pools/{pool}").get("data"))


def _applied_pools(cluster: Cluster, vault: Vault) -> dict[str, str]:
    """Return the `node_names` of every pool of AppRoles that an apply made, by its name."""
    record = vault.stored(cluster.mount("config"), APPLIED).get("data")
    return dict(AppliedRecord.read(cluster, record).pools) if isinstance(record, dict) else {}


def _home(cluster: Cluster, applied: Mapping[str, str], name: str) -> str:
    """Return the applied pool that a name fits; empty if it fits none, or is a listed node's."""
    if any(node.name == name for node in cluster.nodes):
        return ""
    return next((pool for pool, pattern in applied.items() if fits_pattern(pattern, name)), "")


def shown_report(stored: str) -> Any:
    """Return a stored report as it is shown to programs; None if there is none."""
    return bounded(json.loads(stored)) if stored else None


def bounded(value: Any, depth: int = 4) -> Any:
    """Return a value that a node wrote, to be shown to programs: each text and list is whole or left out."""
    if isinstance(value, str) and len(value) <= _LONGEST:
        # A PEM has lines.
        return "\n".join(map(printable, value.split("\n")))
    if isinstance(value, dict) and depth and len(value) <= _MOST:
        return {bounded(key): bounded(each, depth - 1) for key, each in value.items()}
    if isinstance(value, list) and depth and len(value) <= _MOST:
        return [bounded(each, depth - 1) for each in value]
    plain = value is None or (isinstance(value, int | float) and abs(value) < 1 << 53)
    return value if plain else _LEFT_OUT
