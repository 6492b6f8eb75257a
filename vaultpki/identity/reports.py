"""Reads and removes the reports of nodes in the KV store, and finds out whose the reports of the jwt mount are.

A name counts within its own kind alone.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime

from vaultpki.certificates import node_rows, signing_rows
from vaultpki.errors import BadAnswer
from vaultpki.identity.ending import is_alias, read_accessors
from vaultpki.model import Cluster, Node, Pool
from vaultpki.records import node_report, report_paths
from vaultpki.records.node_report import NodeReport
from vaultpki.values import hosts, names
from vaultpki.vault import Json, Vault, member
from vaultpki.vault.answers import server_time


@dataclass(frozen=True, slots=True)
class TokenIdentity:
    """A node that logged in by an issuer's token and has reported: its pool, and the id of its identity entity.

    `name` is what Vault says that its token named, which may not be a node's name. A `disabled` entity opens nothing.
    """

    pool: str
    entity: str
    name: str
    disabled: bool


@dataclass(frozen=True, slots=True)
class StoredReport:
    """A report as it is stored, as JSON text, empty if there is none; and what of it counts, None if it is unreadable.

    As text it takes a tenth of the memory.
    """

    text: str
    report: NodeReport | None


def read(cluster: Cluster, vault: Vault, place: str, held: Mapping[str, str]) -> StoredReport:
    """Read the report at a place. Of its certificates count those of the rows `held`, as `cas_of_rows` has them."""
    raw, _ = _stored(cluster, vault, place)
    found = node_report.read(raw)
    text = json.dumps(raw, separators=(",", ":")) if raw else ""
    return StoredReport(text, node_report.with_own_rows_only(found, held) if found is not None else None)


def cas_of_rows(cluster: Cluster, holder: Node | Pool | None) -> dict[str, str]:
    """Return the CAs of a holder's rows by the names of the rows; of any node's rows if it is None."""
    signing = (row for row in signing_rows(cluster) if holder is None or row.node_roles & holder.roles)
    return {row.name: row.ca for row in (*node_rows(cluster, holder), *signing)}


def of_lost_answers(cluster: Cluster, vault: Vault, place: str) -> tuple[NodeReport, datetime] | None:
    """Return the report at a place with when the server stored it, if the node says that secret ids may be lost."""
    raw, written = _stored(cluster, vault, place)
    # Of a thousand reports hardly one says so, and the others need not be taken apart.
    report = node_report.read(raw) if "lost_credentials" in raw else None
    return (report, written) if report is not None and report.lost and written is not None else None


def place_of(holder: Node | Pool, name: str) -> str:
    """Return the place of the report of a node with an AppRole."""
    return report_paths.pooled(holder.name, name) if isinstance(holder, Pool) else report_paths.listed(name)


def names_in(cluster: Cluster, vault: Vault, folder: str) -> tuple[str, ...]:
    """Return the names of the reports in a folder, of those that are names of nodes."""
    return tuple(name for name in _keys(cluster, vault, folder) if names.fits(name, hosts.node_name))


def pools_in(cluster: Cluster, vault: Vault, kind: report_paths.NodeKind) -> tuple[str, ...]:
    """Return the pools whose nodes have reported. Only a policy that `apply` wrote opens the place of a pool."""
    keys = (key.removesuffix("/") for key in _keys(cluster, vault, report_paths.folder(kind)) if key.endswith("/"))
    return tuple(key for key in keys if names.fits(key, names.pool_name))


def token_identities(cluster: Cluster, vault: Vault, pools: Iterable[str] | None = None) -> tuple[TokenIdentity, ...]:
    """Return the nodes that logged in by an issuer's token and reported, of these pools or of all.

    Vault's own entity says whose a report is, never the report. One whose entity is gone is left out.
    """
    folders = pools_in(cluster, vault, "jwt") if pools is None else tuple(pools)
    found = vault.map(lambda pool: _keys(cluster, vault, report_paths.folder("jwt", pool)), folders)
    entries = [
        (pool, entity)
        for pool, entities in zip(folders, found, strict=True)
        for entity in entities
        if report_paths.is_entity(entity)
    ]
    accessor = read_accessors(cluster, vault).get("jwt", "") if entries else ""
    if not accessor:
        return ()

    def look(entry: tuple[str, str]) -> TokenIdentity | None:
        pool, entity = entry
        data = vault.api.secrets.identity.lookup_entity(entity_id=entity).data
        if not data.get("id"):
            return None
        if data["id"] != entity:
            raise BadAnswer(
                "the answer to identity/lookup/entity is about another identity than the one asked for; check the "
                "address and any proxy in between"
            )
        aliases = [each for each in data.get("aliases") or () if is_alias(each, None, accessor)]
        name = str(aliases[0]["name"]) if len(aliases) == 1 else ""
        return TokenIdentity(pool, entity, name, data.get("disabled") is True) if name else None

    return tuple(each for each in vault.map(look, entries) if each is not None)


def remove(
    cluster: Cluster,
    vault: Vault,
    *,
    listed: Collection[str] = (),
    pooled: Collection[str] = (),
    entities: Mapping[str, str] = {},
    pools: Collection[str] = (),
) -> None:
    """Delete the reports of nodes of each kind at every place that they may have written, and those of whole pools.

    `entities` are the names of nodes by token, by the ids of their entities.
    """
    staying = {node.name for node in cluster.nodes}.difference(listed)
    every = {*listed, *pooled, *entities.values()} - staying
    # The first release reported there, and no apply removes that.
    places = [report_paths.former(name) for name in every if names.fits(name, hosts.node_name)]
    places += [report_paths.listed(name) for name in listed]
    kinds: tuple[report_paths.NodeKind, ...] = ("pooled", "jwt")
    for kind, gone in zip(kinds, (pooled, entities), strict=True):
        known = pools_in(cluster, vault, kind) if gone else ()
        places += [f"{report_paths.folder(kind, pool)}/{each}" for each in gone for pool in known]
    for folder in (report_paths.folder(kind, pool) for kind in kinds for pool in pools):
        places += [f"{folder}/{key}" for key in _keys(cluster, vault, folder)]
    delete = vault.prepare.secrets.kv.v2.delete_metadata_and_all_versions
    vault.many([delete(place, mount_point=cluster.mount("config")) for place in sorted(set(places))])


def _keys(cluster: Cluster, vault: Vault, folder: str) -> tuple[str, ...]:
    keys: tuple[str, ...] = vault.api.secrets.kv.v2.list_secrets(folder, mount_point=cluster.mount("config")).keys
    return keys


def _stored(cluster: Cluster, vault: Vault, place: str) -> tuple[Json, datetime | None]:
    """Return what is at a place, and when the server stored it; None if it does not say so."""
    try:
        found = vault.stored(cluster.mount("config"), place)
    except BadAnswer:
        # One node may write a report larger than any answer may be; the others are read all the same.
        return {"time": "a report too large to read"}, None
    data = found.get("data")
    if not isinstance(data, dict):
        return {}, None
    return data, server_time(member(found, "metadata").get("created_time"))
