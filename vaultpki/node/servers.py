"""The two servers of a cluster that moves, as one node knows them, in STATE/servers.json.

agent.yaml names the old server, and nobody rewrites it. What names the new one to this node was bound by a hand-over,
and lies here. In STATE/move/ lie its credential there and the CA by which it reaches it. No credential of the old
server ends because of a move.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field, replace
from typing import Final

from vaultpki.disk.files import closing, exists, open_folder, read_private, remove_tree, storage_errors, write_private
from vaultpki.errors import SpecError, StoreError
from vaultpki.model import AgentConfig, Auth
from vaultpki.node.secret_id import SECRET_ID
from vaultpki.records.move import DOMAINS_MOVED, PLACE, LostServer, MoveRecord, ServerPlace
from vaultpki.records.node_report import MoveReport
from vaultpki.records.rotation import BEYOND, State
from vaultpki.values import json_object, names
from vaultpki.values.json_object import (
    FLAG,
    ByName,
    Integer,
    Items,
    JsonMember,
    JsonText,
    Object,
    OneOf,
    word,
)

SERVERS_FILE: Final = "servers.json"
_FOLDER: Final = "move"
NEW_CA_FILE: Final = "ca.pem"

MISSED: Final = 3
"""How many passes in a row must fail to reach a server that a person has called lost until a node ignores it."""

OLD, NEW = LostServer.OLD.value, LostServer.NEW.value


@dataclass(frozen=True, slots=True)
class KnownServers:
    """What a node knows of the new server, and where it gets its certificates: there, if it is `at_new`.

    `number` is of the hand-over that it has taken, 0 for none, and `place` the server that this one names. `role_id`
    is the node's at that server, and `cas` are the key ids of the new server's CAs by domain, in hex. `highest` is the
    highest revision of the move's record that was read on either server. Hand-overs up to the number `ended` do not
    count any more. With `closed` the move is done here: the old server is asked for nothing. `lost` is the server that
    a person has called lost, and `missed` how many passes in a row did not reach it since. `reached` are the servers at
    which the last pass logged in, and `error` is what went wrong, in one sentence. `reported` is a digest of the report
    that the other server has, and `reported_at` when it was sent (Unix time).
    """

    at_new: bool = False
    number: int = 0
    place: ServerPlace | None = None
    role_id: str = ""
    cas: Mapping[str, str] = field(default_factory=dict)
    highest: int = 0
    ended: int = 0
    closed: bool = False
    lost: LostServer | None = None
    missed: int = 0
    reached: tuple[str, ...] = ()
    error: str = ""
    reported: str = ""
    reported_at: int = 0

    @property
    def heeded(self) -> LostServer | None:
        """The server that is ignored, since a person has called it lost and this node does not reach it either."""
        return self.lost if self.missed >= MISSED else None


_NUMBER: Final = Integer(0, 999_999)
_KNOWN: Final = Object(
    KnownServers,
    {
        "at_new": FLAG,
        "number": _NUMBER,
        "place": JsonMember(PLACE, null=True),
        "role_id": word(names.token, or_empty=True),
        "cas": ByName(DOMAINS_MOVED.__contains__, JsonText(re.compile(r"[0-9a-f]{1,64}").fullmatch)),
        "highest": Integer(0, BEYOND - 1),
        "ended": _NUMBER,
        "closed": FLAG,
        "lost": JsonMember(OneOf(LostServer), left_out=True),
        "missed": Integer(0, MISSED),
        "reached": Items(JsonText((OLD, NEW).__contains__), 2),
        "error": JsonText(),
        "reported": JsonText(),
        "reported_at": Integer(),
    },
    "what a vaultpki writes",
    "join this node with a new join file of the server that the cluster uses now",
    version=True,
)


def load(state: str) -> KnownServers:
    """Read what a node knows, from its folder `state`. Raises SpecError for what no vaultpki wrote, and StoreError."""
    path = f"{state}/{SERVERS_FILE}"
    raw = read_private(path)
    return KnownServers() if raw is None else _KNOWN.read(json_object.parse(raw), path)


def save(state: str, known: KnownServers) -> None:
    """Write it in one step that survives a crash. Raises StoreError."""
    write_private(f"{state}/{SERVERS_FILE}", json.dumps(_KNOWN.write(known), sort_keys=True).encode())


def forget(state: str) -> None:
    """Forget the new server, since the node joins anew; what was ended stays ended. Raises StoreError."""
    if not exists(f"{state}/{SERVERS_FILE}"):
        return
    with contextlib.suppress(SpecError):
        save(state, KnownServers(ended=load(state).ended))
        remove_credential(state)
        return
    with storage_errors(f"{state}/{SERVERS_FILE}"):
        os.unlink(f"{state}/{SERVERS_FILE}")
    remove_credential(state)


def folder(state: str) -> str:
    """Return the folder of the credential at the new server."""
    return f"{state}/{_FOLDER}"


def remove_credential(state: str) -> None:
    """Remove what this node has of the new server. Raises StoreError."""
    if exists(folder(state)):
        with storage_errors(folder(state)), closing(open_folder(state, create=False)) as above:
            remove_tree(_FOLDER, above)


def at_server(config: AgentConfig, place: ServerPlace, role_id: str) -> AgentConfig:
    """Return the configuration of the same node at the new server: its files, hooks and pins stay.

    So does the token of an issuer by which it logs in; any other node has an AppRole of its own there.
    """
    own = config.auth if config.auth.method == "jwt" else Auth("approle", role_id=role_id)
    return replace(
        config,
        addresses=place.addresses,
        namespace=place.namespace or None,
        prefix=place.prefix,
        ca_file=f"{folder(config.state)}/{NEW_CA_FILE}" if place.ca_pem else None,
        auth=own,
        credential_folder=folder(config.state),
    )


def at_new(config: AgentConfig, known: KnownServers) -> AgentConfig | None:
    """Return the node's configuration at the new server; None if it has no credential there."""
    if known.place is None:
        return None
    here = at_server(config, known.place, known.role_id)
    lost = here.auth.method == "approle" and not exists(f"{here.credentials}/{SECRET_ID}")
    return None if lost else here


def at_home(config: AgentConfig) -> AgentConfig:
    """Return the configuration of the server at which this node gets its certificates.

    What cannot be read leads nowhere else than agent.yaml.
    """
    try:
        known = load(config.state)
    except (SpecError, StoreError):
        return config
    return (at_new(config, known) or config) if known.at_new else config


def followed(known: KnownServers, record: MoveRecord) -> KnownServers:
    """Return what a node knows once it has read this record, the one with the higher revision of both servers.

    An older one than was read before changes nothing: a server was restored, or no command has written it there yet.
    """
    if record.revision < known.highest:
        return known
    known = replace(known, highest=record.revision)
    if record.state is State.STEADY and record.number > known.ended and record.number >= known.number:
        return KnownServers(highest=record.revision, ended=record.number)
    if record.lost is not known.lost:
        known = replace(known, lost=record.lost, missed=0)
    if record.number != known.number:
        return known
    heeded, wanted = known.heeded, record.at_new
    if heeded is not None:
        wanted = heeded is LostServer.OLD
    elif record.kept is not None:
        wanted = known.at_new
    return replace(known, at_new=wanted and known.place is not None)


def counted(known: KnownServers, reached: Collection[str]) -> KnownServers:
    """Return the same after a pass that has reached these servers: a lost one is ignored after several in a row."""
    if known.lost is None:
        return known
    return replace(known, missed=0 if known.lost.value in reached else min(known.missed + 1, MISSED))


def said(known: KnownServers) -> MoveReport:
    """Return what the node's report says of it."""
    ignores = known.heeded.value if known.heeded is not None else ""
    return MoveReport(known.number, known.highest, known.reached, known.error, ignores)
