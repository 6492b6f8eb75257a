"""Gives nodes an identity and takes it away: join files for listed and pooled nodes, and the end of a node's tokens.

A listed node's AppRole is apply's work and its join file the applier's. A pooled node's AppRole is made here, by an
enroller who may make such AppRoles and nothing else.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Final

from vaultpki import bootstrap, records
from vaultpki.desired import node_certificates, pooled_approle
from vaultpki.errors import BadAnswer, SpecError
from vaultpki.files import write_private
from vaultpki.join import Join, dump_join, load_join
from vaultpki.model import Cluster, Node, Pool
from vaultpki.vault import Request, Vault

_NODE_NAME = re.compile(r"(?=.{1,63}$)[a-z0-9]([a-z0-9-]*[a-z0-9])?(\.[a-z0-9]([a-z0-9-]*[a-z0-9])?)*")
_LEAVING: Final = "leaving"


@dataclass(frozen=True, slots=True)
class Place:
    """What every join file of a cluster says alike."""

    addresses: tuple[str, ...]
    ca_pem: str | None
    root_sha256: str


def place(cluster: Cluster, vault: Vault) -> Place:
    """What the cluster's record tells nodes; SpecError where the cluster was not applied."""
    path = f"{cluster.mount('config')}/data/cluster"
    record = (vault.read(path) or {}).get("data")
    if record is None:
        raise SpecError(f"cluster {cluster.name} is not in this Vault; run `vaultpki apply -f {cluster.file}` first")
    known = records.read_cluster(record, where=path)
    where = record.get("vault") or {}
    return Place(tuple(where.get("addresses") or ()), where.get("ca_pem") or None, known.root_sha256)


def holder(cluster: Cluster, name: str, pool: str | None) -> Node | Pool:
    """The listed node or the pool by which `name` may be enrolled; SpecError says why there is none."""
    if pool is None:
        for node in cluster.nodes:
            if node.name == name:
                return node
        fits = [p.name for p in cluster.pools if _takes(p, name)]
        hint = f"pass --pool {fits[0]}" if fits else f"add it to `nodes` in {cluster.file} and apply"
        raise SpecError(f"{name!r} is no listed node of {cluster.name}; {hint}")
    for found in cluster.pools:
        if found.name == pool:
            if not _takes(found, name):
                raise SpecError(f"{name!r} cannot be a node of pool {pool}, whose names are {found.node_names}")
            longest = max((len(c.subject.common_name) for c in node_certificates(cluster, found)), default=0)
            if longest - len("{node}") + len(name) > 64:
                raise SpecError(f"{name!r} is too long: a common name has at most 64 characters")
            return found
    raise SpecError(
        f"{cluster.file} has no pool {pool!r}; it has: {', '.join(p.name for p in cluster.pools) or 'none'}"
    )


def enroll(cluster: Cluster, vault: Vault, name: str, who: Node | Pool, where: Place, *, wrap_ttl: int) -> Join:
    """Makes the pooled node's AppRole where it is missing, and a new join file for it.

    `wrap_ttl` is the seconds for which the join file is worth anything. Repeating it changes nothing in Vault but that
    there is one more secret id.
    """
    mount = f"auth/{cluster.prefix}/{'pooled' if isinstance(who, Pool) else 'listed'}"
    role = f"{mount}/role/{name}"
    found = vault.read(f"{role}/role-id")
    if found is None and isinstance(who, Pool):
        # Create, not update: one that appears meanwhile is not bent, and Vault refuses an enroller that tries.
        vault.write(role, pooled_approle(cluster, who), once=True)
        found = vault.read(f"{role}/role-id")
    if found is None:
        raise SpecError(f"{name} has no AppRole yet; run `vaultpki apply -f {cluster.file}` first")
    answer = vault.call(Request("POST", f"{role}/secret-id", {}, once=True, wrap_ttl=f"{wrap_ttl}s")).body
    wrapped = answer.get("wrap_info")
    token = wrapped.get("token") if isinstance(wrapped, dict) else None
    if not isinstance(token, str):
        raise BadAnswer(f"Vault gave {name} a secret id that is not wrapped; it was thrown away")
    return Join(
        cluster=cluster.name,
        prefix=cluster.prefix,
        node=name,
        pool=who.name if isinstance(who, Pool) else None,
        addresses=where.addresses,
        ca_pem=where.ca_pem,
        root_sha256=where.root_sha256,
        role_id=str(found.get("role_id")),
        wrap_token=token,
        expires=datetime.now(UTC).replace(microsecond=0) + timedelta(seconds=wrap_ttl),
    )


def enroll_many(
    cluster: Cluster,
    vault: Vault,
    wanted: Sequence[tuple[str, Node | Pool]],
    folder: Path,
    *,
    wrap_ttl: int,
    done: Callable[[], None],
) -> int:
    """Writes `folder`/NODE.json for each; one that a run cut short left, and that still lives, is kept.

    Gives how many were written. `done` is called after each, from any thread.
    """
    where = place(cluster, vault)
    soon = datetime.now(UTC) + timedelta(seconds=wrap_ttl / 4)
    written = []

    def one(entry: tuple[str, Node | Pool]) -> None:
        name, who = entry
        path = folder / f"{name}.json"
        if not _lives(path, cluster, name, where, soon):
            join = enroll(cluster, vault, name, who, where, wrap_ttl=wrap_ttl)
            write_private(str(path.absolute()), dump_join(join).encode())
            written.append(name)
        done()

    vault.map(one, wanted)
    return len(written)


def drift(cluster: Cluster, vault: Vault, node: Node | Pool) -> bool:
    """Whether Vault's record of a listed node says otherwise than cluster.yaml, which is apply's work to mend."""
    if isinstance(node, Pool):
        return False
    found = (vault.read(f"{cluster.mount('config')}/data/nodes/{node.name}") or {}).get("data") or {}
    wanted = records.node_record(node, node_certificates(cluster, node), str(found.get("role_id")))
    return bool(found != wanted)


def unenroll(cluster: Cluster, vault: Vault, name: str) -> bool:
    """Takes a pooled node's identity away: its AppRole, its tokens at once, its report; False where it had none.

    What is to be ended is written down first, so a run cut off anywhere goes on when it is repeated. A node still
    listed is refused: apply ends it once it is taken off the list.
    """
    if any(node.name == name for node in cluster.nodes):
        raise SpecError(
            f"{name} is listed in {cluster.file}; take it off the list and run `vaultpki apply`, which ends it"
        )
    if not _NODE_NAME.fullmatch(name):
        raise SpecError(f"{name!r} is no node name")
    store, mount = cluster.mount("config"), f"auth/{cluster.prefix}/pooled"
    note = f"{store}/data/{_LEAVING}/{name}"
    found = vault.read(f"{mount}/role/{name}/role-id")
    noted = (vault.read(note) or {}).get("data") or {}
    ids = {str(role_id) for role_id in noted.get("role_ids") or ()}
    if found is not None:
        ids.add(str(found.get("role_id")))
        vault.write(note, {"data": {"version": 1, "role_ids": sorted(ids)}})
        vault.call(Request("DELETE", f"{mount}/role/{name}"))
    if not ids:
        return False
    accessor = str(((vault.read("sys/auth") or {}).get(f"{cluster.prefix}/pooled/") or {}).get("accessor"))
    bootstrap.end_entities(vault, accessor, sorted(ids))
    vault.call(Request("DELETE", f"{store}/metadata/reports/{name}"))
    vault.call(Request("DELETE", f"{store}/metadata/{_LEAVING}/{name}"))
    return True


@dataclass(frozen=True, slots=True)
class Seen:
    """One node as Vault knows it; `report` is what it last said of itself, for display only."""

    node: str
    pool: str | None
    roles: tuple[str, ...]
    report: dict[str, Any]


def nodes(cluster: Cluster, vault: Vault) -> tuple[Seen, ...]:
    """The listed nodes and the pooled ones that were enrolled, each with its last report."""
    store = cluster.mount("config")
    pooled = vault.names(f"auth/{cluster.prefix}/pooled/role")
    reports = vault.names(f"{store}/metadata/reports")
    answers = vault.many([Request("GET", f"{store}/data/reports/{name}") for name in reports])
    told = {name: a.data.get("data") or {} for name, a in zip(reports, answers, strict=True) if a.found}
    seen = [
        Seen(node.name, None, tuple(sorted(r.value for r in node.roles)), told.get(node.name, {}))
        for node in cluster.nodes
    ]
    for name in sorted(pooled):
        pool = next((p for p in cluster.pools if _takes(p, name)), None)
        roles = tuple(sorted(r.value for r in pool.roles)) if pool else ()
        seen.append(Seen(name, pool.name if pool else "-", roles, told.get(name, {})))
    return tuple(seen)


def _takes(pool: Pool, name: str) -> bool:
    start = pool.node_names.removesuffix("*")
    return bool(_NODE_NAME.fullmatch(name)) and name.startswith(start) and len(name) > len(start)


def _lives(path: Path, cluster: Cluster, name: str, where: Place, soon: datetime) -> bool:
    try:
        join = load_join(path)
    except SpecError:
        return False
    same = (join.cluster, join.prefix, join.node, join.root_sha256) == (
        cluster.name,
        cluster.prefix,
        name,
        where.root_sha256,
    )
    return same and join.expires > soon
