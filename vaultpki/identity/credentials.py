"""Counts the live credentials of nodes and ends them: secret ids, open join files, tokens, and logins in flight.

A node's AppRole stays. It gets a new role id, which no earlier credential knows; then the entity is deleted by which
Vault knows the tokens of the old role id, and every secret id is destroyed. A node's own token may do none of this:
whoever stole the node's credential would have the same rights.
"""

from __future__ import annotations

import time
import uuid
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import Final, Literal

from vaultpki.errors import BadAnswer, Denied, Refused, StateConflict, TokenTooWeak, Unavailable
from vaultpki.identity.ending import (
    LOGIN_IN_FLIGHT,
    await_logins,
    end_entities,
    note_ended,
    read_accessors,
    remove_note,
    store_again,
    write_note,
)
from vaultpki.identity.token_rights import missing_right
from vaultpki.model import Cluster
from vaultpki.records.node_report import NodeReport
from vaultpki.records.paths import LEAVING
from vaultpki.vault import Request, Vault
from vaultpki.vault.answers import BODY_LIMIT, server_time

FLOOD: Final = BODY_LIMIT // 40
"""How many secret ids a node has at least when their list is too large to read: each takes about 40 bytes."""

JOINING: Final = 600
"""For how many seconds a join file's secret id outlives the file: a join that was interrupted goes on with it."""

# The secret id that a node mints for itself lives for a week at least, and a join file for a day at most.
LONGEST_JOIN: Final = 86400 + JOINING
"""For how many seconds the secret id of a join file lives at most."""

# Whoever has more has more than a join file.
_MOST_JOINS: Final = 8
_ROUNDS: Final = 6
_GONE: Final = "invalid secret id accessor"
_TIDYING: Final = 0.25
# The waits of the rounds from this one on take 7 seconds, those before it less than one.
_TIDYING_LONG: Final = 3


@dataclass(frozen=True, slots=True)
class Identity:
    """A node's AppRole, or that of a signer on it: the kind of its mount, and the node's name."""

    kind: Literal["listed", "pooled", "signer"]
    name: str

    @property
    def note(self) -> str:
        """The name of the note about its end; a signer's is none that a node can have."""
        return f"signer:{self.name}" if self.kind == "signer" else self.name

    def mount(self, cluster: Cluster) -> str:
        """Return the path of the auth mount, below `auth`."""
        return f"{cluster.prefix}/{self.kind}"

    def role(self, cluster: Cluster) -> str:
        """Return the AppRole's path."""
        return f"auth/{self.mount(cluster)}/role/{self.name}"


@dataclass(frozen=True, slots=True)
class SecretId:
    """A live secret id of a node: its accessor, which opens nothing, when it was made, and its life in seconds."""

    accessor: str
    created: datetime
    ttl: int


def role_id(cluster: Cluster, vault: Vault, identity: Identity) -> str | None:
    """Return the AppRole's role id; None if there is no AppRole."""
    answer = vault.api.auth.approle.read_role_id(identity.name, mount_point=identity.mount(cluster))
    return str(answer.data.get("role_id")) if answer.found else None


def count(cluster: Cluster, vault: Vault, identity: Identity) -> int | None:
    """Return how many secret ids the node has, each of which allows logins; None if the token may not list them.

    An open join file is one of them. An expired one counts for `JOINING` seconds more, since what was in it may have
    been taken out.
    """
    live = _listed(cluster, vault, identity)
    return len(live) if isinstance(live, tuple) else live


def _listed(cluster: Cluster, vault: Vault, identity: Identity) -> tuple[str, ...] | int | None:
    """Return the accessors of the node's secret ids; how many there are if they are too many, None as in `count`."""
    try:
        return secret_ids(cluster, vault, identity)
    except Denied:
        return None
    except BadAnswer:
        return FLOOD
    except Refused:
        # Both servers answer 400 if there is no such AppRole.
        return ()


@dataclass(frozen=True, slots=True)
class HeldCredentials:
    """What a node can log in with.

    `count` is as that function has it, and `used` the same without join files that have expired. `join_until` is until
    when the last of its join files can be used, if it has nothing else; None otherwise, and where that is not known.
    `secret_ids` are those of a node that has more than it needs at rest, where the token may look each of them up.
    """

    count: int | None
    used: int | None
    join_until: datetime | None = None
    secret_ids: tuple[SecretId, ...] = ()


def held_credentials(
    cluster: Cluster, vault: Vault, identity: Identity, report: NodeReport | None = None
) -> HeldCredentials:
    """Return what a node holds; `report` is its own, None if it never reported.

    Whoever joins replaces the secret id of the join file at once, before its first certificate. So nothing more is
    asked about a node at rest of which a reported one is live.
    """
    live = _listed(cluster, vault, identity)
    if not isinstance(live, tuple):
        return HeldCredentials(live, live)
    number = len(live)
    own_one = report is not None and not set(live).isdisjoint(report.in_use)
    joins = 0 < number <= _MOST_JOINS and not own_one
    many = report is not None and 1 + report.lost < number <= _MOST_JOINS + 1
    found = _looked_up(cluster, vault, identity, live) if joins or many else None
    if found is None:
        return HeldCredentials(number, number)
    known = tuple(each for each in found if each is not None)
    secret_ids = known if many and len(known) == number else ()
    if not joins:
        return HeldCredentials(number, number, secret_ids=secret_ids)
    now = datetime.now(UTC) + timedelta(seconds=vault.clock_offset or 0.0)
    ends = [end for each in known if (end := _join_end(each)) is not None]
    there = [end for end in ends if end > now]
    own = number - len(ends)
    return HeldCredentials(number, own + len(there), max(there) if there and not own else None, secret_ids)


def _looked_up(
    cluster: Cluster, vault: Vault, identity: Identity, accessors: Sequence[str]
) -> list[SecretId | None] | None:
    """Return what the server knows of each; None if the token may not look, or if one has expired in this moment."""
    try:
        return [look_up(cluster, vault, identity, each) for each in accessors]
    except (Denied, Refused, Unavailable, BadAnswer):
        return None


def _join_end(found: SecretId) -> datetime | None:
    """Return when the join file of a secret id ends; None for a secret id that the node has minted, or an older one."""
    return found.created + timedelta(seconds=found.ttl - JOINING) if 0 < found.ttl <= LONGEST_JOIN else None


def look_up(cluster: Cluster, vault: Vault, identity: Identity, accessor: str) -> SecretId | None:
    """Return what the server knows of one of the node's secret ids; None if there is none, or if it says no such thing.

    Raises Unavailable or Refused for one that has expired in this moment.
    """
    approle = vault.sending(once=True).api.auth.approle
    found = approle.read_secret_id_accessor(identity.name, accessor, mount_point=identity.mount(cluster)).data
    ttl, born = found.get("secret_id_ttl"), server_time(found.get("creation_time"))
    return SecretId(accessor, born, ttl) if type(ttl) is int and born is not None else None


def secret_ids(cluster: Cluster, vault: Vault, identity: Identity) -> tuple[str, ...]:
    """Return the accessors of the node's secret ids."""
    approle = vault.prepare.auth.approle
    listing: Request = approle.list_secret_id_accessors(identity.name, mount_point=identity.mount(cluster))
    try:
        return vault.call(listing).keys
    except Denied:
        # The enroller's policy allows this path with wrapping only, for the sake of new secret ids.
        return vault.unwrapped(listing).keys


def end(
    cluster: Cluster,
    vault: Vault,
    identities: Sequence[Identity],
    *,
    wait: float = LOGIN_IN_FLIGHT,
    say: Callable[[str], None] = lambda line: None,
    begun: Callable[[], None] = lambda: None,
) -> None:
    """End every credential of these nodes. Their AppRoles stay, each with a role id that nobody has been told.

    A run that was interrupted continues when it is repeated. `wait` and `say` are as for `await_logins`, once for all
    nodes. `begun` is called once it is seen that the token may do it. Raises TokenTooWeak, before anything is changed,
    if it may not, and StateConflict if a node has more secret ids than can be listed, or as `await_logins`.
    """
    if not identities:
        return
    # A standby may not know an entity yet whose tokens are to end.
    vault.pin_to_leader()
    first = identities[0]
    needs = {
        f"{cluster.mount('config')}/data/{LEAVING}/{first.note}": "update",
        f"{first.role(cluster)}/role-id": "update",
        f"{first.role(cluster)}/secret-id": "list",
        f"{first.role(cluster)}/secret-id-accessor/destroy": "update",
        "sys/auth": "read",
        "identity/lookup/entity": "update",
        "identity/entity/id/x": "delete",
    }
    if missing_right(vault, needs):
        raise too_weak(cluster, identities)
    noted: dict[Identity, frozenset[str]] = {}

    def begin(identity: Identity) -> None:
        current = role_id(cluster, vault, identity)
        if current is None:
            raise StateConflict(
                f"{identity.name} has no AppRole any more: somebody deleted it while its credentials ended"
            )
        fresh = str(uuid.uuid4())
        noted[identity] = write_note(cluster, vault, identity.note, {current, fresh})
        vault.api.auth.approle.update_role_id(identity.name, fresh, mount_point=identity.mount(cluster))

    try:
        # The first one alone: a token that may not write the note fails before anything is changed.
        begin(first)
    except Denied:
        if not noted:
            raise too_weak(cluster, identities) from None
        raise
    begun()
    vault.map(begin, identities[1:])
    accessors = read_accessors(cluster, vault)
    for last in (False, True):
        for kind in ("listed", "pooled", "signer"):
            ids = sorted(id_ for identity, some in noted.items() if identity.kind == kind for id_ in some)
            end_entities(vault, accessors.get(kind, ""), ids)
        if not last:
            await_logins(partial(store_again, cluster, vault, f"{LEAVING}/{first.note}"), wait, say)

    def finish(identity: Identity) -> None:
        _destroy_secret_ids(cluster, vault, identity, say)
        # Read again: somebody else may have changed it meanwhile.
        current = role_id(cluster, vault, identity) if identity.kind == "listed" else None
        if current is None:
            remove_note(cluster, vault, identity.note)
        else:
            note_ended(cluster, vault, identity.name, current)

    vault.map(finish, identities)


def destroy(cluster: Cluster, vault: Vault, identity: Identity, accessors: Sequence[str]) -> None:
    """Destroy secret ids of a node by their accessors, as far as the server does it; some may be gone already."""
    approle = vault.sending(once=True).api.auth.approle

    def one(accessor: str) -> None:
        try:
            approle.destroy_secret_id_accessor(identity.name, accessor, mount_point=identity.mount(cluster))
        except (Refused, Unavailable):
            # Both servers answer 500 for one that has expired meanwhile; without `once` that would be retried for long.
            return
        except Denied as denied:
            # Vault answers 403 for one that somebody else destroys in this moment (path_role.go).
            if _GONE not in str(denied):
                raise

    vault.map(one, accessors)


def _destroy_secret_ids(cluster: Cluster, vault: Vault, identity: Identity, say: Callable[[str], None]) -> None:
    for attempt in range(_ROUNDS):
        try:
            left = secret_ids(cluster, vault, identity)
        except BadAnswer:
            raise StateConflict(
                f"{identity.name} has more secret ids than can be listed, and none of them works with its new role id. "
                "To end them all, delete the AppRole, and make it again with `vaultpki apply` or `enroll`: "
                f"`{vault.program()} delete {identity.role(cluster)}`"
            ) from None
        if not left:
            return
        if attempt:
            # If a client disconnects while Vault destroys a secret id, one may remain to which no accessor leads. Tidy,
            # which runs in the background, removes those (path_tidy_user_id.go). hvac has no method for it.
            tidy = f"auth/{identity.mount(cluster)}/tidy/secret-id"
            vault.write(tidy, {}, warnings=("Tidy operation",))
            if attempt == _TIDYING_LONG:
                say(f"waiting until the server has tidied up the secret ids of {identity.name}")
            time.sleep(_TIDYING * 2 ** (attempt - 1))
        destroy(cluster, vault, identity, left)
    raise StateConflict(f"{identity.name} got new secret ids meanwhile; find out what creates them and run this again")


def too_weak(cluster: Cluster, identities: Sequence[Identity]) -> TokenTooWeak:
    """Return the error for a token that may not end the credentials of these nodes."""
    name = identities[0].name
    nodes = name if len(identities) == 1 else f"{name} and {len(identities) - 1} more"
    return TokenTooWeak(
        f"this token may not end the credentials of {nodes}, and none was ended; `vaultpki lock` needs the policy "
        f"that `vaultpki policy{cluster.file_option} locker` prints, and `vaultpki enroll --replace` the applier's"
    )
