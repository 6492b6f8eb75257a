"""Counts the live credentials of nodes and ends them: secret ids, open join files, tokens, and logins in flight.

A node's AppRole stays. It gets a new role id, which no earlier credential knows; then the entity goes by which Vault
knows the tokens of the old one, and every secret id is destroyed. What a node itself may do ends none of this, since
whoever stole its credential may do the same.
"""

from __future__ import annotations

import contextlib
import time
import uuid
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Final, Literal

from vaultpki.errors import BadAnswer, Denied, Refused, SpecError, Unavailable
from vaultpki.model import VERSION, Cluster
from vaultpki.reading import APPLIED, LEAVING, Memory
from vaultpki.values import dataclass
from vaultpki.vault import Json, Request, Vault, member
from vaultpki.vault.wire import BODY_LIMIT

LOGIN_IN_FLIGHT: Final = 10.0
"""Seconds after which a login is through that was under way when its AppRole was deleted or got a new role id."""

FLOOD: Final = BODY_LIMIT // 40
"""How many secret ids a node has at least where their list is too large to read: each is named in some 40 bytes."""

_ROUNDS: Final = 6
_TIDYING: Final = 0.25


@dataclass(frozen=True, slots=True)
class Identity:
    """A node's AppRole: the kind of its mount, and its name."""

    kind: Literal["listed", "pooled"]
    name: str

    def role(self, cluster: Cluster) -> str:
        """The AppRole's path."""
        return f"auth/{cluster.prefix}/{self.kind}/role/{self.name}"


def role_id(cluster: Cluster, vault: Vault, identity: Identity) -> str | None:
    """The AppRole's role id; None where there is no AppRole."""
    found = vault.read(f"{identity.role(cluster)}/role-id")
    return None if found is None else str(found.get("role_id"))


def count(cluster: Cluster, vault: Vault, identity: Identity) -> int | None:
    """How many secret ids the node has, each of which lets somebody log in; None where the token may not look.

    A join file that is open is one of them, and so is one that ended unused, until its secret id ends.
    """
    try:
        return len(_secret_ids(cluster, vault, identity))
    except Denied:
        return None
    except BadAnswer:
        return FLOOD
    except Refused:
        # Both servers answer 400 where there is no such AppRole.
        return 0


def _secret_ids(cluster: Cluster, vault: Vault, identity: Identity) -> tuple[str, ...]:
    """The accessors of the node's secret ids."""
    listing = Request("LIST", f"{identity.role(cluster)}/secret-id")
    try:
        return vault.call(listing).keys
    except Denied:
        # An enroller may do nothing on this path but wrapped: the rule that makes it wrap secret ids holds for lists.
        return vault.unwrapped(listing).keys


def noted(cluster: Cluster, vault: Vault, name: str) -> frozenset[str]:
    """The role ids of a node whose end was begun and is not done; none where nothing was begun."""
    return _ids(vault.read(_note(cluster, name)))


def unfinished(cluster: Cluster, vault: Vault) -> frozenset[str]:
    """The nodes whose end was begun and is not done; none where the token may not look."""
    try:
        return frozenset(vault.names(f"{cluster.mount('config')}/metadata/{LEAVING}"))
    except Denied:
        return frozenset()


def note(cluster: Cluster, vault: Vault, name: str, role_ids: Iterable[str]) -> frozenset[str]:
    """Writes down that the node's end begins, before anything is ended; gives all role ids noted, now and earlier."""
    added = frozenset(role_ids)

    def more(record: Json) -> Json:
        return {"version": VERSION, "role_ids": sorted(_ids({"data": record}) | added)}

    return _ids({"data": _change(vault, _note(cluster, name), more)})


def forget(cluster: Cluster, vault: Vault, name: str) -> None:
    """Takes the note away: the end is done."""
    vault.call(Request("DELETE", f"{cluster.mount('config')}/metadata/{LEAVING}/{name}"))


def end_entities(vault: Vault, accessor: str, aliases: Sequence[str], *, wait: float = LOGIN_IN_FLIGHT) -> None:
    """Deletes the entities Vault made when these logged in, which ends their tokens at once.

    An AppRole's alias is its role id. Looks a second time after `wait` seconds, for a login that was in flight when its
    AppRole was deleted.
    """
    ids = [alias for alias in aliases if alias]
    if not accessor or not ids:
        return

    def end(alias: str) -> None:
        found = vault.write("identity/lookup/entity", {"alias_name": alias, "alias_mount_accessor": accessor})
        data = member(found, "data")
        entity = data.get("id")
        if entity:
            # Nobody else's tokens end because an answer was another's.
            if not any(_is(each, alias, accessor) for each in data.get("aliases") or ()):
                raise BadAnswer(
                    "the answer to identity/lookup/entity is about another identity than the one asked for; check the "
                    "address and any proxy in between"
                )
            vault.call(Request("DELETE", f"identity/entity/id/{entity}"))

    vault.map(end, ids)
    if wait:
        time.sleep(wait)
        vault.map(end, ids)


def _is(alias: object, name: str, accessor: str) -> bool:
    return isinstance(alias, dict) and (alias.get("name"), alias.get("mount_accessor")) == (name, accessor)


def accessors(cluster: Cluster, vault: Vault) -> dict[str, str]:
    """The accessors of the cluster's auth mounts, by the last part of their paths."""
    found = vault.read("sys/auth") or {}
    # Every server has it, and so has every namespace: without it, it is another answer, and nothing would be ended.
    if "token/" not in found:
        raise BadAnswer("the answer to sys/auth does not list token/; check the address and any proxy in between")
    kinds = ("listed", "pooled")
    return {kind: str(member(found, f"{cluster.prefix}/{kind}/").get("accessor") or "") for kind in kinds}


def end(cluster: Cluster, vault: Vault, identities: Sequence[Identity], *, wait: float = LOGIN_IN_FLIGHT) -> None:
    """Ends every credential of these nodes; their AppRoles stay, each with a role id that nobody has been told.

    A run cut off anywhere goes on when it is repeated, and until then `apply` knows the AppRole as ours by the note.
    `wait` is as for `end_entities`, once for all of them. Raises SpecError, before anything is changed, where the token
    may not do it, and where a node has more secret ids than can be listed.
    """
    if not identities:
        return
    _refuse_weak_token(cluster, vault, identities)
    noted_ids: dict[Identity, frozenset[str]] = {}

    def begin(identity: Identity) -> None:
        current = role_id(cluster, vault, identity)
        if current is None:
            raise SpecError(f"{identity.name} has no AppRole any more: somebody deleted it while its credentials ended")
        fresh = str(uuid.uuid4())
        noted_ids[identity] = note(cluster, vault, identity.name, {current, fresh})
        vault.write(f"{identity.role(cluster)}/role-id", {"role_id": fresh})

    try:
        # The first alone: who may not write the note is told before anything is changed.
        begin(identities[0])
    except Denied:
        if not noted_ids:
            raise may_not(cluster, identities) from None
        raise
    vault.map(begin, identities[1:])
    known = accessors(cluster, vault)
    for last in (False, True):
        for kind in ("listed", "pooled"):
            ids = sorted(id_ for identity, noted in noted_ids.items() if identity.kind == kind for id_ in noted)
            end_entities(vault, known[kind], ids, wait=0)
        if not last:
            time.sleep(wait)
    # What they are now, whoever else wrote meanwhile.
    current = {identity: role_id(cluster, vault, identity) or "" for identity in identities}
    _remember(cluster, vault, {each.name: id_ for each, id_ in current.items() if each.kind == "listed" and id_})
    vault.map(lambda identity: _destroy(cluster, vault, identity), identities)
    vault.map(lambda identity: forget(cluster, vault, identity.name), identities)


def _note(cluster: Cluster, name: str) -> str:
    return f"{cluster.mount('config')}/data/{LEAVING}/{name}"


def _ids(found: Mapping[str, object] | None) -> frozenset[str]:
    record = (found or {}).get("data")
    ids = record.get("role_ids") if isinstance(record, dict) else None
    return frozenset(map(str, ids)) if isinstance(ids, list) else frozenset()


def _change(vault: Vault, path: str, change: Callable[[Json], Json]) -> Json:
    """Writes `change` of a record, also one not there yet, and nothing over what somebody wrote meanwhile."""
    for attempt in range(_ROUNDS):
        found = vault.read(path) or {}
        before = member(found, "data")
        after = change(before)
        if after == before:
            break
        try:
            version = member(found, "metadata").get("version", 0)
            vault.write(path, {"data": after, "options": {"cas": version}})
            break
        except Refused:
            # Both servers answer 400 to another version than the one there.
            if attempt == _ROUNDS - 1:
                raise
    return after


def _remember(cluster: Cluster, vault: Vault, role_ids: Mapping[str, str]) -> None:
    """Writes the listed nodes' new role ids where `apply` looks for them."""
    if not role_ids:
        return
    store = cluster.mount("config")

    def record(entry: tuple[str, str]) -> None:
        name, id_ = entry
        # One that is not there, or was changed by hand, is apply's to mend.
        _change(vault, f"{store}/data/nodes/{name}", lambda old: {**old, "role_id": id_} if old else old)

    vault.map(record, role_ids.items())

    def memory(old: Json) -> Json:
        known = Memory.read(old)
        # Where the memory is lost, the nodes' records are what apply goes by.
        return replace(known, role_ids={**known.role_ids, **role_ids}).record() if old else old

    _change(vault, f"{store}/data/{APPLIED}", memory)


def _destroy(cluster: Cluster, vault: Vault, identity: Identity) -> None:
    """Destroys every secret id of the node."""
    role = identity.role(cluster)

    def destroy(accessor: str) -> None:
        # Of one that has ended meanwhile both servers say 500, which would be asked again for long.
        with contextlib.suppress(Refused, Unavailable):
            vault.write(f"{role}/secret-id-accessor/destroy", {"secret_id_accessor": accessor}, once=True)

    for attempt in range(_ROUNDS):
        try:
            left = _secret_ids(cluster, vault, identity)
        except BadAnswer:
            raise SpecError(
                f"{identity.name} has more secret ids than can be listed, and none of them works with its new role id; "
                f"`bao delete {role}` ends them all, and `vaultpki apply` or `enroll` makes the AppRole again"
            ) from None
        if not left:
            return
        if attempt:
            # Where a client's end cuts its destruction off within the server, a secret id stays that its accessor does
            # not lead to any more. Tidying, which runs beside our requests, removes those (path_tidy_user_id.go).
            tidy = f"auth/{cluster.prefix}/{identity.kind}/tidy/secret-id"
            vault.write(tidy, {}, warnings=("Tidy operation",))
            time.sleep(_TIDYING * 2 ** (attempt - 1))
        vault.map(destroy, left)
    raise SpecError(f"{identity.name} got new secret ids while the old ones ended: who mints them? Run this again")


def _refuse_weak_token(cluster: Cluster, vault: Vault, identities: Sequence[Identity]) -> None:
    role = identities[0].role(cluster)
    needs = {
        _note(cluster, identities[0].name): "update",
        f"{role}/role-id": "update",
        f"{role}/secret-id": "list",
        f"{role}/secret-id-accessor/destroy": "update",
        "sys/auth": "read",
        "identity/lookup/entity": "update",
        "identity/entity/id/x": "delete",
    }
    try:
        answer = vault.write("sys/capabilities-self", {"paths": ",".join(needs)})
    except Denied:
        # A token without the default policy may not ask; it is told at the first write.
        return
    granted = member(answer, "data")
    for path, need in needs.items():
        may = granted.get(path)
        if isinstance(may, list) and not {"root", need} & {*may}:
            raise may_not(cluster, identities)


def may_not(cluster: Cluster, identities: Sequence[Identity]) -> SpecError:
    """The error that says who may end the credentials of these nodes, where the token may not."""
    name = identities[0].name
    nodes = name if len(identities) == 1 else f"{name} and {len(identities) - 1} more"
    return SpecError(
        f"this token may not end the credentials of {nodes}, and nothing was changed; the applier may, with "
        f"`vaultpki enroll --replace` or `vaultpki lock` (`vaultpki policy -f {cluster.file} applier` prints what that "
        "needs)"
    )
