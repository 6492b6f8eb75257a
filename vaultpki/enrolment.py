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

from vaultpki import anchor, join_files, live_credentials, records, words
from vaultpki.anchor import Place
from vaultpki.certificates import SKEW
from vaultpki.errors import BadAnswer, Denied, Refused, SpecError
from vaultpki.identities import node_certificates, pooled_approle, takes
from vaultpki.join import Join
from vaultpki.live_credentials import LOGIN_IN_FLIGHT, Identity
from vaultpki.model import Cluster, Node, Pool
from vaultpki.plain import printable
from vaultpki.values import dataclass
from vaultpki.vault import Json, Request, Vault, check_named, member

# Of a report: no more entries, and no longer texts, than any node of ours writes.
_MOST: Final = 64
_LONGEST: Final = 100


def place(cluster: Cluster, vault: Vault) -> Place:
    """What every join file of a cluster says alike. Raises as `anchor.find`."""
    return anchor.find(cluster, vault, datetime.now(UTC))


def holder(cluster: Cluster, name: str, pool: str | None) -> Node | Pool:
    """The listed node or the pool by which `name` may be enrolled; SpecError says why there is none."""
    if pool is None:
        for node in cluster.nodes:
            if node.name == name:
                return node
        fits = next((p for p in cluster.pools if takes(p, name)), None)
        if fits and fits.jwt:
            raise _by_token(fits)
        hint = f"pass --pool {fits.name}" if fits else f"add it to `nodes` in {cluster.file} and apply"
        raise SpecError(f"{name!r} is no listed node of {cluster.name}; {hint}")
    for found in cluster.pools:
        if found.name == pool:
            if found.jwt:
                raise _by_token(found)
            if not takes(found, name):
                raise SpecError(f"{name!r} cannot be a node of pool {pool}, whose names are {found.node_names}")
            _refuse_too_long(cluster, found, name)
            return found
    raise SpecError(
        f"{cluster.file} has no pool {pool!r}; it has: {', '.join(p.name for p in cluster.pools) or 'none'}"
    )


def enroll(
    cluster: Cluster,
    vault: Vault,
    name: str,
    who: Node | Pool,
    where: Place,
    *,
    wrap_ttl: int,
    replace: bool = False,
    wait: float = LOGIN_IN_FLIGHT,
) -> Join:
    """Makes the pooled node's AppRole where it is missing, and a new join file for it.

    `wrap_ttl` is the seconds for which the join file is worth anything. SpecError where the node has a live credential
    already; with `replace` every credential of the node ends first, and `wait` is as for `live_credentials.end`.
    """
    identity = _identity(name, who)
    if replace and live_credentials.role_id(cluster, vault, identity) is not None:
        live_credentials.end(cluster, vault, [identity], wait=wait)
    elif why := _occupied(cluster, vault, identity, live_credentials.unfinished(cluster, vault)):
        raise SpecError(f"{name} {why}")
    return _invite(cluster, vault, name, who, where, wrap_ttl=wrap_ttl)


def _invite(cluster: Cluster, vault: Vault, name: str, who: Node | Pool, where: Place, *, wrap_ttl: int) -> Join:
    """A join file with a new secret id, whatever other credentials the node has."""
    role = _identity(name, who).role(cluster)
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
    expires = datetime.now(UTC).replace(microsecond=0) + timedelta(seconds=wrap_ttl)
    return _join(cluster, name, who, where, str(found.get("role_id")), token, expires)


def _identity(name: str, who: Node | Pool) -> Identity:
    return Identity("pooled" if isinstance(who, Pool) else "listed", name)


def _occupied(cluster: Cluster, vault: Vault, identity: Identity, unfinished: frozenset[str]) -> str:
    """Why the node may get no join file beside what it has, and what to do; empty where nothing is in the way."""
    if live_credentials.role_id(cluster, vault, identity) is None:
        return ""
    live = live_credentials.count(cluster, vault, identity)
    if live is None:
        return (
            "may have a live credential, and this token may not look; `vaultpki apply` gives enrollers that right, or "
            "take an applier's token"
        )
    if live:
        which = "1 live credential" if live == 1 else f"{live} live credentials"
        return (
            f"has {which} (its agent's, an unused join file's or a stolen one); pass --replace to end "
            f"{'it' if live == 1 else 'them'} and to enrol the node anew, as the applier may"
        )
    if identity.name in unfinished:
        return "has credentials whose end was cut off; pass --replace to complete it and to enrol the node anew"
    return ""


@dataclass(frozen=True, slots=True)
class Enrolled:
    """What a run for many nodes did: how many join files it wrote, how many it kept, and whom it left alone."""

    written: int
    kept: int
    left: tuple[str, ...]


def enroll_many(
    cluster: Cluster,
    vault: Vault,
    wanted: Sequence[tuple[str, Node | Pool]],
    folder: Path,
    where: Place,
    *,
    wrap_ttl: int,
    done: Callable[[], None],
    replace: bool = False,
    wait: float = LOGIN_IN_FLIGHT,
) -> Enrolled:
    """Writes `folder`/NODE.json for each; one of an earlier run that is just what would be written is kept.

    A node that has a live credential otherwise is left alone. With `replace` every credential of all these nodes ends
    first, and no file is kept. StoreError before anything is registered in Vault where one of the files cannot be
    written. `done` is called after each, from any thread.
    """
    join_files.check_targets(cluster, folder, [name for name, _ in wanted])
    written, left = [], []
    if replace:
        identities = [_identity(name, who) for name, who in wanted]
        there = vault.map(lambda each: live_credentials.role_id(cluster, vault, each) is not None, identities)
        ending = [each for each, known in zip(identities, there, strict=True) if known]
        live_credentials.end(cluster, vault, ending, wait=wait)
    unfinished = live_credentials.unfinished(cluster, vault)

    def one(entry: tuple[str, Node | Pool]) -> None:
        name, who = entry
        path = folder / f"{name}.json"
        if replace or not _lives(cluster, path, vault, name, who, where, wrap_ttl):
            if not replace and _occupied(cluster, vault, _identity(name, who), unfinished):
                left.append(name)
            else:
                with join_files.reserved(cluster, path, name) as put:
                    put(_invite(cluster, vault, name, who, where, wrap_ttl=wrap_ttl))
                written.append(name)
        done()

    vault.map(one, wanted)
    return Enrolled(len(written), len(wanted) - len(written) - len(left), tuple(sorted(left)))


def drift(cluster: Cluster, vault: Vault, node: Node | Pool) -> bool:
    """Whether Vault's record of a listed node says otherwise than cluster.yaml, which is apply's work to mend."""
    if isinstance(node, Pool):
        return False
    found = (vault.read(f"{cluster.mount('config')}/data/nodes/{node.name}") or {}).get("data")
    # Not applied at all is told in other words.
    if not found:
        return False
    return bool(found != records.node_record(node, node_certificates(cluster, node), str(found.get("role_id"))))


def unenroll(cluster: Cluster, vault: Vault, name: str, *, wait: float = LOGIN_IN_FLIGHT) -> bool:
    """Takes a pooled node's identity away: its AppRole, its tokens at once, its report; False where it had none.

    What is to be ended is written down first, so a run cut off anywhere goes on when it is repeated. A listed node is
    refused, on the list or just taken off it: apply ends it then. `wait` is as for `live_credentials.end_entities`.
    """
    if any(node.name == name for node in cluster.nodes):
        raise SpecError(
            f"{name} is listed in {cluster.file}; `vaultpki lock -f {cluster.file} {name}` ends all that it can log in "
            f"with, and to end the node itself take it off the list and run `vaultpki apply -f {cluster.file}`"
        )
    if not words.fits(name, words.node_name):
        raise SpecError(f"{name!r} is no node name")
    identity = Identity("pooled", name)
    found = live_credentials.role_id(cluster, vault, identity)
    if found is None:
        ids = live_credentials.noted(cluster, vault, name)
    else:
        ids = live_credentials.note(cluster, vault, name, {found})
        vault.call(Request("DELETE", identity.role(cluster)))
    if not ids:
        _refuse_jwt(cluster, name)
        if live_credentials.role_id(cluster, vault, Identity("listed", name)) is not None:
            raise SpecError(
                f"{name} was a listed node and has its identity still; run `vaultpki apply -f {cluster.file}`, which "
                "ends it"
            )
        return False
    accessor = live_credentials.accessors(cluster, vault)["pooled"]
    live_credentials.end_entities(vault, accessor, sorted(ids), wait=wait)
    vault.call(Request("DELETE", f"{cluster.mount('config')}/metadata/reports/{name}"))
    live_credentials.forget(cluster, vault, name)
    return True


def lock(cluster: Cluster, vault: Vault, name: str, *, wait: float = LOGIN_IN_FLIGHT) -> None:
    """Ends every credential of a listed or a pooled node; the node stays, and can be enrolled anew.

    A run cut off anywhere goes on when it is repeated. SpecError where there is nothing to lock, and for a node that
    gets in by a token of others. `wait` is as for `live_credentials.end`.
    """
    if not words.fits(name, words.node_name):
        raise SpecError(f"{name!r} is no node name")
    both = [Identity("listed", name), Identity("pooled", name)]
    try:
        found = [each for each in both if live_credentials.role_id(cluster, vault, each) is not None]
    except Denied:
        raise live_credentials.may_not(cluster, both[:1]) from None
    if not found:
        if any(node.name == name for node in cluster.nodes):
            raise SpecError(
                f"{name} has no AppRole yet, so there is nothing to lock; run `vaultpki apply -f {cluster.file}`"
            )
        _refuse_jwt(cluster, name)
        raise SpecError(
            f"{name} has no identity in this Vault, so there is nothing to lock; `vaultpki nodes -f {cluster.file}` "
            "lists the nodes that have one"
        )
    live_credentials.end(cluster, vault, found, wait=wait)


def _refuse_jwt(cluster: Cluster, name: str) -> None:
    jwt = next((pool.jwt for pool in cluster.pools if pool.jwt and takes(pool, name)), None)
    if jwt:
        raise SpecError(f"{name} gets in by a token of {jwt.issuer}; block it there, Vault holds nothing of it")


@dataclass(frozen=True, slots=True)
class Seen:
    """One node as Vault knows it. `report` is what it last said of itself: for display only, and held to a size.

    `credentials` is how many secret ids it has; None where the token may not look, and for a node that needs none.
    """

    node: str
    pool: str | None
    roles: tuple[str, ...]
    report: dict[str, Any]
    credentials: int | None


def nodes(cluster: Cluster, vault: Vault) -> tuple[Seen, ...]:
    """The listed nodes, the pooled ones that were enrolled or have reported, each with its last report."""
    listed = {node.name: node for node in cluster.nodes}
    enrolled = [name for name in vault.names(f"auth/{cluster.prefix}/pooled/role") if words.fits(name, words.node_name)]
    pooled = list(enrolled)
    by_token = [pool for pool in cluster.pools if pool.jwt]
    if by_token:
        # Nobody enrolled these: what they report is all there is of them.
        reported = vault.names(f"{cluster.mount('config')}/metadata/reports")
        pooled += [name for name in reported if any(takes(pool, name) for pool in by_token) and name not in pooled]
    names = list(dict.fromkeys([*listed, *sorted(pooled)]))
    reports = dict(zip(names, vault.map(lambda name: _report(cluster, vault, name), names), strict=True))
    identities = [Identity("listed", name) for name in listed] + [Identity("pooled", name) for name in enrolled]
    counts = vault.map(lambda each: live_credentials.count(cluster, vault, each), identities)
    live = dict(zip(identities, counts, strict=True))
    seen = [
        Seen(name, None, _roles(node), reports[name], live[Identity("listed", name)]) for name, node in listed.items()
    ]
    for name in sorted(pooled):
        pool = next((p for p in cluster.pools if takes(p, name)), None)
        number = live.get(Identity("pooled", name))
        seen.append(Seen(name, pool.name if pool else "-", _roles(pool), reports[name], number))
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


def _refuse_too_long(cluster: Cluster, pool: Pool, name: str) -> None:
    """Raises SpecError where a certificate of the pool could not carry the name, as its agent would say."""
    record = records.pool_record(pool, node_certificates(cluster, pool))
    try:
        records.read_certificates(record, node=name, prefix=cluster.prefix, where=cluster.file)
    except SpecError:
        raise SpecError(
            f"{name!r} is too long: a common name has at most 64 characters, and a DNS name 253; choose a shorter one"
        ) from None


def _join(
    cluster: Cluster, name: str, who: Node | Pool, where: Place, role_id: str, wrap_token: str, expires: datetime
) -> Join:
    return Join(
        cluster=cluster.name,
        prefix=cluster.prefix,
        node=name,
        pool=who.name if isinstance(who, Pool) else None,
        addresses=where.addresses,
        ca_pem=where.ca_pem,
        root_sha256=where.root_sha256,
        role_id=role_id,
        wrap_token=wrap_token,
        expires=expires,
        namespace=where.namespace,
    )


def _lives(
    cluster: Cluster, path: Path, vault: Vault, name: str, who: Node | Pool, where: Place, wrap_ttl: int
) -> bool:
    """Whether a join file from an earlier run is what would be written now, and nobody has used it yet."""
    found = join_files.kept(path)
    if found is None:
        return False
    role = f"auth/{cluster.prefix}/{'pooled' if isinstance(who, Pool) else 'listed'}/role/{name}"
    role_id = str((vault.read(f"{role}/role-id") or {}).get("role_id"))
    now = datetime.now(UTC)
    left = (found.expires - now).total_seconds()
    wanted = _join(cluster, name, who, where, role_id, found.wrap_token, found.expires)
    if found != wanted or not wrap_ttl / 4 < left <= wrap_ttl:
        return False
    try:
        data = member(vault.write("sys/wrapping/lookup", {"token": found.wrap_token}), "data")
    except (Refused, Denied):
        return False
    return data.get("creation_path") == f"{role}/secret-id" and _wrapped_until(data, found.expires)


def _wrapped_until(data: Json, expires: datetime) -> bool:
    """Whether what Vault says of a wrapping token agrees with the end that the join file says."""
    born, ttl = data.get("creation_time"), data.get("creation_ttl")
    if not isinstance(born, str) or not isinstance(ttl, int):
        return False
    try:
        ends = datetime.fromisoformat(born) + timedelta(seconds=ttl)
        return abs((ends - expires).total_seconds()) <= SKEW
    except (ValueError, OverflowError, TypeError):
        return False
