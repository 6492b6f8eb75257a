"""Decides how a CA is rotated: its states, which comes next, and how a rollback goes, and what the server must hold.

Pure: `gates` decides whether a step may be taken; `ca.run` takes it, and `ca.mount_writes` changes the server.
The states and rollbacks were explored exhaustively by tests/models/rotation.py; no other transition is safe.
"""

from __future__ import annotations

import enum
from dataclasses import dataclass
from typing import Final

from vaultpki.records.rotation import CA_TABLE, CaRef, Method, RotationRecord, State

FORWARD: Final = CA_TABLE.onward
"""The state that `continue` leads to; from STEADY it is `rotate`."""

BACK: Final = CA_TABLE.home
"""The state that `abort` leads to. RETURNING is a rollback already, and ends in STEADY by `continue` too."""


class Presence(enum.Enum):
    """What the server must hold of one CA: nothing, its key alone, or its issuer with this usage."""

    ABSENT = "absent"
    KEY = "key"
    MUTE = "mute"
    SIGNING = "signing"


@dataclass(frozen=True, slots=True)
class ServerState:
    """What the mount must hold in a state: the old CA, the new one, and which of them is the default issuer."""

    old: Presence
    new: Presence
    default: CaRef


_SERVER: Final = {
    State.STEADY: (Presence.SIGNING, Presence.ABSENT),
    State.PREPARED: (Presence.SIGNING, Presence.KEY),
    State.PUBLISHED: (Presence.SIGNING, Presence.SIGNING),
    State.SWITCHED: (Presence.SIGNING, Presence.SIGNING),
    State.RETIRED: (Presence.MUTE, Presence.SIGNING),
    State.DONE: (Presence.ABSENT, Presence.SIGNING),
    State.RETRUSTING: (Presence.SIGNING, Presence.SIGNING),
    State.RETURNING: (Presence.SIGNING, Presence.MUTE),
}


def server_state(record: RotationRecord) -> ServerState:
    """Return what the server must hold for a record."""
    old, new = _SERVER[record.state]
    return ServerState(old, new, record.leaf)


def next_state(record: RotationRecord | None, *, back: bool = False) -> State | None:
    """Return the state that `continue`, or with `back` `abort`, leads to; None if there is none.

    An abort goes on with `continue`: from RETURNING to STEADY, never forward again by itself.
    """
    state = State.STEADY if record is None else record.state
    if back and record is not None and record.closing:
        return None
    if back or state is State.RETURNING:
        return BACK.get(state)
    if record is not None and record.method is Method.EMERGENCY and state is State.PUBLISHED:
        # Distrust comes first.
        return State.RETIRED
    return None if state.resting else FORWARD[state]
