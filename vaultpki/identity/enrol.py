"""Enrols nodes and ends their identities: join files for listed and pooled nodes, lock, unenroll.

A listed node's AppRole is made by apply, and its join file by the applier. A pooled node's AppRole is made here, by an
enroller who may make such AppRoles and nothing else. A node that logs in by a token of an issuer is never enrolled.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path
from typing import Literal

from vaultpki.certificates import SKEW
from vaultpki.errors import ArgumentError, Denied, Refused, SpecError, StateConflict
from vaultpki.identity import anchor, credentials, join_files, jwt_nodes, reports
from vaultpki.identity.access import fits_pattern, node_certificates, pooled_approle, signing_certificates, takes
from vaultpki.identity.anchor import Anchors
from vaultpki.identity.credentials import JOINING, Identity, role_id
from vaultpki.identity.ending import (
    LOGIN_IN_FLIGHT,
    await_logins,
    end_entities,
    find_lock,
    is_unfinished,
    note_lock,
    noted,
    read_accessors,
    read_note,
    remove_locks,
    remove_note,
    store_again,
    write_note,
)
from vaultpki.layout import own_server
from vaultpki.model import Cluster, Node, NodeRole, Pool
from vaultpki.records import foreign_cas, published
from vaultpki.records.join_file import Join
from vaultpki.records.paths import LEAVING
from vaultpki.values import hosts, names
from vaultpki.vault import Answer, Request, Vault, member
from vaultpki.vault.answers import server_time, wrapping_token


def place(cluster: Cluster, vault: Vault, former_root: str | None = None) -> Anchors:
    """Return what all join files of a cluster have in common.

    `former_root` is the SHA-256 of the root from which nodes come. Raises as `anchor.find`, and StateConflict if
    another layout was applied: the node would refuse its record; or if nodes from another root would not be offered the
    foreign CAs of cluster.yaml.
    """
    found = anchor.find(cluster, vault, datetime.now(UTC))
    if {"layout", "version"}.intersection(found.drift):
        raise StateConflict(
            f"{cluster.file}: layout: the record {cluster.mount('config')}/cluster in Vault is for another layout; run "
            f"`vaultpki apply{cluster.file_option}` first"
        )
    if former_root is not None and {foreign_cas.FIELD, "all of it"}.intersection(found.drift):
        raise StateConflict(
            f"{cluster.file}: ca.also_trust: Vault does not offer these CAs to nodes yet; run `vaultpki apply"
            f"{cluster.file_option}` first"
        )
    return dataclasses.replace(found, former_root_sha256=former_root)


def holder(cluster: Cluster, name: str, pool: str | None) -> Node | Pool:
    """Return the listed node, or the pool named `pool`, as which `name` may be enrolled; ArgumentError says why not."""
    if pool is None:
        for node in cluster.nodes:
            if node.name == name:
                return node
        _refuse_token_pool(cluster, name)
        fits = next((each for each in cluster.pools if takes(each, name)), None)
        _refuse_jwt_pool(fits)
        near = names.close(name.lower(), [node.name for node in cluster.nodes])
        hint = f"did you mean {near}? Else add it" if near else "add it"
        hint = f"pass --pool {fits.name}" if fits else f"{hint} to `nodes` in {cluster.file} and apply"
        raise ArgumentError(f"{name!r} is not a listed node of {cluster.name}; {hint}")
    found = next((each for each in cluster.pools if each.name == pool), None)
    if found is None:
        raise ArgumentError(
            f"{cluster.file} has no pool {pool!r}; it has: {', '.join(p.name for p in cluster.pools) or 'none'}"
        )
    _refuse_jwt_pool(found)
    if not takes(found, name):
        raise ArgumentError(f"{name!r} cannot be a node of pool {pool}, whose names are {found.node_names}")
    record = published.pool_record(found, node_certificates(cluster, found), cluster.layout)
    try:
        # As its agent will read it.
        published.read_certificates(record, node=name, prefix=cluster.prefix, layout=cluster.layout, where=cluster.file)
    except SpecError:
        raise ArgumentError(
            f"{name!r} is too long: a common name has at most 64 characters, and a DNS name 253; choose a shorter one"
        ) from None
    return found


@dataclass(frozen=True, slots=True)
class SignerOn:
    """The signer of certificate requests on a control plane, which has a credential of its own."""

    node: Node


Holder = Node | Pool | SignerOn


def signer_on(cluster: Cluster, name: str) -> SignerOn:
    """Return the signer on the node `name`; ArgumentError says why it may not be enrolled."""
    who = holder(cluster, name, None)
    if cluster.signer is None:
        raise ArgumentError(f"{cluster.file} has no `signer`, so nothing signs certificate requests of the cluster")
    if isinstance(who, Pool) or NodeRole.CONTROL_PLANE not in who.roles:
        raise ArgumentError(f"{name} is no control plane, and signers run only there")
    return SignerOn(who)


def enroll(
    cluster: Cluster,
    vault: Vault,
    name: str,
    who: Holder,
    where: Anchors,
    *,
    wrap_ttl: int,
    replace: bool = False,
    wait: float = LOGIN_IN_FLIGHT,
    say: Callable[[str], None] = lambda line: None,
) -> Join:
    """Make a join file for a node, and a pooled node's AppRole if it is missing.

    The join file can be used for `wrap_ttl` seconds. Raises StateConflict if the node has a live credential already;
    with `replace` every credential of the node is ended first, with that of a signer on it; `wait` and `say` are as for
    `credentials.end`. Of a signer only its own credentials are meant.
    """
    identity = _identity(name, who)
    if replace and role_id(cluster, vault, identity) is not None:
        credentials.end(cluster, vault, _with_signers(cluster, vault, [identity]), wait=wait, say=say)
    elif why := _occupied(cluster, vault, identity, noted(cluster, vault)):
        raise StateConflict(f"{'the signer on ' if identity.kind == 'signer' else ''}{name} {why}")
    return _invite(cluster, vault, name, who, where, wrap_ttl=wrap_ttl)


def _with_signers(cluster: Cluster, vault: Vault, identities: Sequence[Identity]) -> list[Identity]:
    """Return the identities of nodes with those of the signers on them."""
    listed = [Identity("signer", each.name) for each in identities if each.kind == "listed" and cluster.signer]
    there = vault.map(lambda each: role_id(cluster, vault, each) is not None, listed)
    return [*identities, *(each for each, known in zip(listed, there, strict=True) if known)]


def _invite(cluster: Cluster, vault: Vault, name: str, who: Holder, where: Anchors, *, wrap_ttl: int) -> Join:
    """Make a join file with a new secret id, whatever other credentials the node has."""
    identity = _identity(name, who)
    role = identity.role(cluster)
    known = role_id(cluster, vault, identity)
    if known is None and isinstance(who, Pool):
        # The policy allows create and not update: an AppRole that appears meanwhile is not changed. hvac would write
        # lists as one string.
        vault.write(role, pooled_approle(cluster, who), once=True)
        known = role_id(cluster, vault, identity)
    if known is None:
        raise StateConflict(f"{name} has no AppRole yet; run `vaultpki apply{cluster.file_option}` first")
    token = wrapping_token(_minted(cluster, vault, identity, wrap_ttl), f"{role}/secret-id")
    expires = datetime.now(UTC).replace(microsecond=0) + timedelta(seconds=wrap_ttl)
    return _join(cluster, name, who, where, known, token, expires)


def _minted(cluster: Cluster, vault: Vault, identity: Identity, wrap_ttl: int) -> Answer:
    """Return a new secret id, wrapped. It ends soon after its join file: the node replaces it when it joins."""
    generate, mount = vault.prepare.auth.approle.generate_secret_id, identity.mount(cluster)
    plain: Request = generate(identity.name, mount_point=mount, wrap_ttl=f"{wrap_ttl}s")
    # hvac's method has no TTL.
    return vault.call(dataclasses.replace(plain, once=True, body={"ttl": f"{wrap_ttl + JOINING}s"}))


def _identity(name: str, who: Holder) -> Identity:
    if isinstance(who, SignerOn):
        return Identity("signer", name)
    return Identity("pooled" if isinstance(who, Pool) else "listed", name)


def _occupied(cluster: Cluster, vault: Vault, identity: Identity, with_note: frozenset[str]) -> str:
    """Return why the node may get no join file beside what it has, and what to do; empty if it may.

    `with_note` are the nodes that `noted` returns.
    """
    if role_id(cluster, vault, identity) is None:
        return ""
    live = credentials.count(cluster, vault, identity)
    if live is None:
        return (
            "may have a live credential, and this token may not look; `vaultpki apply` gives enrollers that right, or "
            "take an applier's token"
        )
    whose = "its own" if identity.kind == "signer" else "its agent's"
    if live:
        which = "1 live credential" if live == 1 else f"{live} live credentials"
        return (
            f"has {which} ({whose}, an unused join file's or a stolen one). Pass --replace to end "
            f"{'it' if live == 1 else 'them'} and to enrol the node anew, as the applier may"
        )
    unfinished = identity.name in with_note and is_unfinished(cluster, vault, identity.name)
    if unfinished or (identity.kind == "signer" and read_note(cluster, vault, identity.note)):
        return "has credentials whose end was interrupted; pass --replace to complete it and to enrol the node anew"
    return ""


@dataclass(frozen=True, slots=True)
class Enrolled:
    """How many join files a run for many nodes wrote and kept, and which nodes got none."""

    written: int
    kept: int
    left: tuple[str, ...]


def enroll_many(
    cluster: Cluster,
    vault: Vault,
    wanted: Sequence[tuple[str, Node | Pool]],
    folder: Path,
    where: Anchors,
    *,
    wrap_ttl: int,
    done: Callable[[], None],
    replace: bool = False,
    say: Callable[[str], None] = lambda line: None,
) -> Enrolled:
    """Write `folder`/NODE.json for each; a join file of an earlier run that is still good is kept.

    A node that has another live credential gets none. With `replace` every credential of all these nodes is ended
    first, and no file is kept. Raises StoreError, before anything is written to Vault, if one of the files cannot be
    written. `done` is called after each node, from any thread. `say` is as for `credentials.end`.
    """
    join_files.check_targets(cluster, folder, [name for name, _ in wanted])
    written, left = [], []
    if replace:
        identities = [_identity(name, who) for name, who in wanted]
        there = vault.map(lambda each: role_id(cluster, vault, each) is not None, identities)
        ending = [each for each, known in zip(identities, there, strict=True) if known]
        credentials.end(cluster, vault, _with_signers(cluster, vault, ending), say=say)
    with_note = noted(cluster, vault)

    def one(entry: tuple[str, Node | Pool]) -> None:
        name, who = entry
        path = folder / f"{name}.json"
        if replace or not _is_good(cluster, path, vault, name, who, where, wrap_ttl):
            if not replace and _occupied(cluster, vault, _identity(name, who), with_note):
                left.append(name)
            else:
                with join_files.reserved(cluster, path, name) as put:
                    put(_invite(cluster, vault, name, who, where, wrap_ttl=wrap_ttl))
                written.append(name)
        done()

    vault.map(one, wanted)
    return Enrolled(len(written), len(wanted) - len(written) - len(left), tuple(sorted(left)))


def drift(cluster: Cluster, vault: Vault, node: Holder) -> bool:
    """Return whether Vault's record of a listed node differs from cluster.yaml; apply corrects it."""
    if not isinstance(node, Node):
        return False
    found = vault.stored(cluster.mount("config"), f"nodes/{node.name}").get("data")
    # A cluster that was not applied has its own error.
    if not found:
        return False
    role_id = str(found.get("role_id"))
    certificates = node_certificates(cluster, node)
    key = next(iter(signing_certificates(cluster, node)), None)
    wanted = published.node_record(node, certificates, role_id, cluster.layout, own_server(cluster, node), key)
    return bool(found != wanted)


Ended = Literal["approle", "jwt"]
"""How a node logged in whose access was ended."""


def unenroll(
    cluster: Cluster,
    vault: Vault,
    name: str,
    *,
    wait: float = LOGIN_IN_FLIGHT,
    say: Callable[[str], None] = lambda line: None,
    last: Callable[[], None] | None = None,
) -> frozenset[Ended]:
    """End a pooled node's identity: its AppRole, its tokens at once, its report. Returns how it logged in.

    The identity of a node that logs in by a token of an issuer is kept and disabled, since a deleted one would come
    back with the next login. A note is written first, so a run that was interrupted continues when it is repeated. A
    listed node is refused, also one that was just taken off the list: apply ends it then. `wait` and `say` are as for
    `await_logins`. `last` is called once all its tokens have ended, before its report is deleted. Returns nothing if it
    has no identity; StateConflict if it fits a pool with `jwt` and has never logged in.
    """
    if any(node.name == name for node in cluster.nodes):
        raise ArgumentError(
            f"{name} is listed in {cluster.file}. To end the node itself take it off the list and run `vaultpki apply"
            f"{cluster.file_option}`. To end only all that it can log in with, run `vaultpki lock{cluster.file_option} "
            f"{name}`"
        )
    _check_node_name(name)
    # A standby may not know an entity yet whose tokens are to end.
    vault.pin_to_leader()
    identity = Identity("pooled", name)
    found = role_id(cluster, vault, identity)
    accessors = read_accessors(cluster, vault)
    accessor = accessors.get("jwt", "")
    entity = jwt_nodes.find_identity(vault, accessor, name)
    if found is None:
        ids = read_note(cluster, vault, name)
    else:
        ids = write_note(cluster, vault, name, {found})
        vault.api.auth.approle.delete_role(name, mount_point=identity.mount(cluster))
    if not ids and entity is None:
        jwt_nodes.refuse_unknown(cluster, name)
        if role_id(cluster, vault, Identity("listed", name)) is not None:
            raise StateConflict(
                f"{name} was a listed node and has its identity still; run `vaultpki apply{cluster.file_option}`, "
                "which ends it"
            )
        return frozenset()
    if entity is not None:
        jwt_nodes.lock(cluster, vault, accessor, name, entity)
    if ids:
        waiting = partial(await_logins, partial(store_again, cluster, vault, f"{LEAVING}/{name}"), wait, say)
        end_entities(vault, accessors.get("pooled", ""), sorted(ids), waiting=waiting)
    if last is not None:
        last()
    entities = {entity.id: name} if entity is not None else {}
    reports.remove(cluster, vault, pooled=[name], entities=entities)
    if entity is None:
        remove_locks(cluster, vault, [name])
    # Last: a run that was cut goes on by it.
    remove_note(cluster, vault, name)
    return _kinds(approle=bool(ids), jwt=entity is not None)


def lock(
    cluster: Cluster,
    vault: Vault,
    name: str,
    *,
    wait: float = LOGIN_IN_FLIGHT,
    say: Callable[[str], None] = lambda line: None,
) -> frozenset[Ended]:
    """End every credential of a node; the node stays. Returns how it logged in.

    A listed or a pooled node can be enrolled again. Of a node that logs in by a token of an issuer the identity is
    disabled, until `unlock`. A run that was interrupted continues when it is repeated. Raises StateConflict if there is
    nothing to lock. `wait` and `say` are as for `credentials.end`.
    """
    _check_node_name(name)
    vault.pin_to_leader()
    both = [Identity("listed", name), Identity("pooled", name)]
    try:
        found = [each for each in (*both, Identity("signer", name)) if role_id(cluster, vault, each) is not None]
        accessor = jwt_nodes.accessor_of(cluster, vault)
        entity = jwt_nodes.find_identity(vault, accessor, name)
    except Denied:
        raise credentials.too_weak(cluster, both[:1]) from None
    if not found and entity is None:
        if any(node.name == name for node in cluster.nodes):
            raise StateConflict(
                f"{name} has no AppRole yet, so there is nothing to lock; run `vaultpki apply{cluster.file_option}`"
            )
        jwt_nodes.refuse_unknown(cluster, name)
        raise StateConflict(
            f"{name} has no identity in this Vault, so there is nothing to lock; `vaultpki nodes{cluster.file_option}` "
            "lists the nodes that have one"
        )
    if entity is not None:
        jwt_nodes.lock(cluster, vault, accessor, name, entity)

    def note() -> None:
        # It only informs, so the lock goes on without it.
        if not note_lock(cluster, vault, name):
            say(f"this token may not record the lock of {name}, so no view shows it; `vaultpki apply` gives that right")

    credentials.end(cluster, vault, found, wait=wait, say=say, begun=note)
    return _kinds(approle=bool(found), jwt=entity is not None)


def unlock(cluster: Cluster, vault: Vault, name: str) -> Ended | None:
    """Let a locked node that logs in by a token of an issuer log in again; return None if it was not locked.

    Of another node, which has a live credential though it was locked, the record of the lock is removed. Raises
    StateConflict for one that has none: `enroll` gives it one. Returns how the node logs in.
    """
    _check_node_name(name)
    vault.pin_to_leader()
    if jwt_nodes.issuer_of(cluster, name) is None and find_lock(cluster, vault, name) is not None:
        both = [Identity("listed", name), Identity("pooled", name)]
        if any(credentials.count(cluster, vault, each) for each in both):
            remove_locks(cluster, vault, [name])
            return "approle"
    return "jwt" if jwt_nodes.unlock(cluster, vault, name) else None


def _kinds(*, approle: bool, jwt: bool) -> frozenset[Ended]:
    kinds: tuple[tuple[Ended, bool], ...] = (("approle", approle), ("jwt", jwt))
    return frozenset(kind for kind, ended in kinds if ended)


def _check_node_name(name: str) -> None:
    if not names.fits(name, hosts.node_name):
        raise ArgumentError(f"{name!r} is not a node name")


def _refuse_jwt_pool(pool: Pool | None) -> None:
    if pool and pool.jwt:
        raise ArgumentError(
            f"nodes of pool {pool.name} join by their issuer's token and need no join file; write "
            "`auth: {method: jwt, path: ...}` into their agent.yaml"
        )


def _refuse_token_pool(cluster: Cluster, name: str) -> None:
    found = next((each for each in cluster.token_pools if fits_pattern(each.node_names, name)), None)
    if found is not None:
        raise ArgumentError(
            f"nodes of pool {found.name} join by `kubeadm join` with a bootstrap token, have no agent and need no join "
            "file"
        )


def _join(
    cluster: Cluster, name: str, who: Holder, where: Anchors, role_id: str, wrap_token: str, expires: datetime
) -> Join:
    return Join(
        cluster=cluster.name,
        prefix=cluster.prefix,
        node=name,
        signer=isinstance(who, SignerOn),
        pool=who.name if isinstance(who, Pool) else None,
        addresses=where.addresses,
        ca_pem=where.ca_pem,
        root_sha256=where.root_sha256,
        role_id=role_id,
        wrap_token=wrap_token,
        expires=expires,
        namespace=where.namespace,
        layout=cluster.layout,
        also_trust=foreign_cas.pins(cluster.authority.also_trust),
        former_root_sha256=where.former_root_sha256,
    )


def _is_good(
    cluster: Cluster, path: Path, vault: Vault, name: str, who: Node | Pool, where: Anchors, wrap_ttl: int
) -> bool:
    """Return whether the join file of an earlier run is what would be written now, and was not used yet."""
    found = join_files.read_own_join_file(path)
    if found is None:
        return False
    identity = _identity(name, who)
    known = str(role_id(cluster, vault, identity))
    left = (found.expires - datetime.now(UTC)).total_seconds()
    wanted = _join(cluster, name, who, where, known, found.wrap_token, found.expires)
    if found != wanted or not wrap_ttl / 4 < left <= wrap_ttl:
        return False
    try:
        # hvac has no method for it.
        data = member(vault.write("sys/wrapping/lookup", {"token": found.wrap_token}), "data")
    except (Refused, Denied):
        return False
    born, ttl = server_time(data.get("creation_time")), data.get("creation_ttl")
    if born is None or data.get("creation_path") != f"{identity.role(cluster)}/secret-id":
        return False
    return type(ttl) is int and 0 < ttl < 1 << 31 and abs((found.expires - born).total_seconds() - ttl) <= SKEW
