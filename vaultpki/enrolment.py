"""Gives nodes an identity and takes it away: join files for listed and pooled nodes, and the end of a node's tokens.

A listed node's AppRole is apply's work and its join file the applier's. A pooled node's AppRole is made here, by an
enroller who may make such AppRoles and nothing else.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import UTC, datetime, timedelta
from itertools import islice
from pathlib import Path
from typing import Any, Final

from vaultpki import bootstrap, records, words
from vaultpki.errors import BadAnswer, Denied, Refused, SpecError
from vaultpki.files import write_private
from vaultpki.identities import node_certificates, pooled_approle
from vaultpki.join import Join, dump_join, load_join
from vaultpki.model import Cluster, Node, Pool
from vaultpki.plain import printable
from vaultpki.values import dataclass
from vaultpki.vault import Request, Vault, check_named

_LEAVING: Final = "leaving"
# Of a report: no more entries, and no longer texts, than any node of ours writes.
_MOST: Final = 64
_LONGEST: Final = 100


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
    known = records.read_cluster(record, where=path, cluster=cluster.name)
    where = record.get("vault") or {}
    return Place(tuple(where.get("addresses") or ()), where.get("ca_pem") or None, known.root_sha256)


def holder(cluster: Cluster, name: str, pool: str | None) -> Node | Pool:
    """The listed node or the pool by which `name` may be enrolled; SpecError says why there is none."""
    if pool is None:
        for node in cluster.nodes:
            if node.name == name:
                return node
        fits = next((p for p in cluster.pools if _takes(p, name)), None)
        if fits and fits.jwt:
            raise _by_token(fits)
        hint = f"pass --pool {fits.name}" if fits else f"add it to `nodes` in {cluster.file} and apply"
        raise SpecError(f"{name!r} is no listed node of {cluster.name}; {hint}")
    for found in cluster.pools:
        if found.name == pool:
            if found.jwt:
                raise _by_token(found)
            if not _takes(found, name):
                raise SpecError(f"{name!r} cannot be a node of pool {pool}, whose names are {found.node_names}")
            _refuse_too_long(cluster, found, name)
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
    if not isinstance(wrapped, dict) or not isinstance(token, str):
        raise BadAnswer(f"Vault gave {name} a secret id that is not wrapped; it was thrown away")
    check_named(wrapped, "creation_path", f"{role}/secret-id", f"{role}/secret-id")
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
        if not _lives(path, vault, name, who, where, soon):
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
    found = (vault.read(f"{cluster.mount('config')}/data/nodes/{node.name}") or {}).get("data")
    # Not applied at all is told in other words.
    if not found:
        return False
    return bool(found != records.node_record(node, node_certificates(cluster, node), str(found.get("role_id"))))


def unenroll(cluster: Cluster, vault: Vault, name: str, *, wait: float = bootstrap.LOGIN_IN_FLIGHT) -> bool:
    """Takes a pooled node's identity away: its AppRole, its tokens at once, its report; False where it had none.

    What is to be ended is written down first, so a run cut off anywhere goes on when it is repeated. A listed node is
    refused, on the list or just taken off it: apply ends it then. `wait` is as for `bootstrap.end_entities`.
    """
    if any(node.name == name for node in cluster.nodes):
        raise SpecError(
            f"{name} is listed in {cluster.file}; take it off the list and run `vaultpki apply`, which ends it"
        )
    if not words.fits(name, words.node_name):
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
        jwt = next((p.jwt for p in cluster.pools if p.jwt and _takes(p, name)), None)
        if jwt:
            raise SpecError(f"{name} gets in by a token of {jwt.issuer}; block it there, Vault holds nothing of it")
        if vault.read(f"auth/{cluster.prefix}/listed/role/{name}/role-id") is not None:
            raise SpecError(f"{name} was a listed node and has its identity still; run `vaultpki apply`, which ends it")
        return False
    accessor = str(((vault.read("sys/auth") or {}).get(f"{cluster.prefix}/pooled/") or {}).get("accessor"))
    bootstrap.end_entities(vault, accessor, sorted(ids), wait=wait)
    vault.call(Request("DELETE", f"{store}/metadata/reports/{name}"))
    vault.call(Request("DELETE", f"{store}/metadata/{_LEAVING}/{name}"))
    return True


@dataclass(frozen=True, slots=True)
class Seen:
    """One node as Vault knows it. `report` is what it last said of itself: for display only, and held to a size."""

    node: str
    pool: str | None
    roles: tuple[str, ...]
    report: dict[str, Any]


def nodes(cluster: Cluster, vault: Vault) -> tuple[Seen, ...]:
    """The listed nodes, the pooled ones that were enrolled or have reported, each with its last report."""
    listed = {node.name: node for node in cluster.nodes}
    pooled = [name for name in vault.names(f"auth/{cluster.prefix}/pooled/role") if words.fits(name, words.node_name)]
    by_token = [pool for pool in cluster.pools if pool.jwt]
    if by_token:
        # Nobody enrolled these: what they report is all there is of them.
        reported = vault.names(f"{cluster.mount('config')}/metadata/reports")
        pooled += [name for name in reported if any(_takes(pool, name) for pool in by_token) and name not in pooled]
    names = list(dict.fromkeys([*listed, *sorted(pooled)]))
    reports = dict(zip(names, vault.map(lambda name: _report(cluster, vault, name), names), strict=True))
    seen = [Seen(name, None, _roles(node), reports[name]) for name, node in listed.items()]
    for name in sorted(pooled):
        pool = next((p for p in cluster.pools if _takes(p, name)), None)
        seen.append(Seen(name, pool.name if pool else "-", _roles(pool), reports[name]))
    return tuple(seen)


def _by_token(pool: Pool) -> SpecError:
    return SpecError(
        f"nodes of pool {pool.name} join by their issuer's token and need no join file; write "
        "`auth: {method: jwt, path: ...}` into their agent.yaml"
    )


def _roles(who: Node | Pool | None) -> tuple[str, ...]:
    return tuple(sorted(role.value for role in who.roles)) if who else ()


def _report(cluster: Cluster, vault: Vault, name: str) -> dict[str, Any]:
    try:
        found = vault.read(f"{cluster.mount('config')}/data/reports/{name}") or {}
    except BadAnswer:
        # Larger than any answer may be: that node's doing, and no reason to show nothing of the others.
        return {"time": "a report too large to read"}
    shown = _shown(found.get("data"))
    return shown if isinstance(shown, dict) else {}


def _shown(value: Any, depth: int = 4) -> Any:
    """What may be shown of a value that was perhaps made to do harm: little of it, and no control characters."""
    if isinstance(value, str):
        return printable(value[:_LONGEST])
    if isinstance(value, dict) and depth:
        return {printable(key[:_LONGEST]): _shown(each, depth - 1) for key, each in islice(value.items(), _MOST)}
    if isinstance(value, list) and depth:
        return [_shown(each, depth - 1) for each in value[:_MOST]]
    plain = value is None or (isinstance(value, int | float) and abs(value) < 1 << 53)
    return value if plain else "..."


def _takes(pool: Pool, name: str) -> bool:
    start = pool.node_names.removesuffix("*")
    return words.fits(name, words.node_name) and name.startswith(start) and len(name) > len(start)


def _refuse_too_long(cluster: Cluster, pool: Pool, name: str) -> None:
    """Raises SpecError where a certificate of the pool could not carry the name, as its agent would say."""
    record = records.pool_record(pool, node_certificates(cluster, pool))
    try:
        records.read_certificates(record, node=name, prefix=cluster.prefix, where=cluster.file)
    except SpecError:
        raise SpecError(
            f"{name!r} is too long: a common name has at most 64 characters, and a DNS name 253; choose a shorter one"
        ) from None


def _lives(path: Path, vault: Vault, name: str, who: Node | Pool, where: Place, soon: datetime) -> bool:
    """Whether a join file from an earlier run is for this node, and nobody has used it yet."""
    try:
        join = load_join(path)
    except SpecError:
        return False
    pool = who.name if isinstance(who, Pool) else None
    if (join.node, join.pool, join.root_sha256) != (name, pool, where.root_sha256) or join.expires <= soon:
        return False
    try:
        vault.write("sys/wrapping/lookup", {"token": join.wrap_token})
    except (Refused, Denied):
        return False
    return True
