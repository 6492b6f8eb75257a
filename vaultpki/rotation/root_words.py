"""Says what holds in a state of the root's rotation, and what a step does; a root may be from outside."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from vaultpki.records.rotation import RotationRecord, State

_HOLDS: Final = {
    State.PREPARED: "{new} has no certificate yet; nothing has changed for nodes",
    State.PUBLISHED: "nodes learn to trust {new}, for which {old} vouches; the issuing CAs are still of {old}",
    State.SWITCHED: "the issuing CAs are of {new}, with their keys; nodes serve the new CA certificates and the "
    "cross certificate ({new} signed by {old})",
    State.RETIRED: "nodes drop {old}, which signs no more, and trust {new} alone",
    State.DONE: "nodes trust {new} alone; {old} is deleted",
    State.RETRUSTING: "nodes learn to trust {old} again beside {new}; the issuing CAs are still of {new}",
    State.RETURNING: "the issuing CAs are of {old} again; nodes trust both, and serve their old certificates",
}
_DOES: Final = {
    State.PUBLISHED: "makes {new}, for which {old} vouches, and nodes learn to trust it",
    State.SWITCHED: "has {new} sign the issuing CAs, with their keys; nodes serve the new CA certificates",
    State.RETURNING: "makes the issuing CAs of {old} those that sign again; nodes serve them behind their certificates",
}
_NEW_OUTSIDE: Final = {
    State.PREPARED: "{new} is from outside; nothing has changed for nodes",
    State.SWITCHED: "the issuing CAs come below {new}, with their keys; nodes serve the new CA "
    "certificates and the cross certificate ({new} signed by {old})",
}
_DOES_NEW_OUTSIDE: Final = {
    State.PUBLISHED: "puts {new}, for which {old} vouches, beside {old}, and nodes learn to trust it",
    State.SWITCHED: "has the issuing CAs signed below {new}, with their keys; nodes serve the new CA certificates",
    State.STEADY: "takes {new} away, and nodes trust {old} alone",
}
_OLD_OUTSIDE: Final = {
    State.PREPARED: "{new} is there; nodes take it once {old}, or the owner of each node, has vouched for it",
    State.DONE: "nodes trust {new} alone; {old} is deleted",
}
_DOES_OLD_OUTSIDE: Final = {
    State.PUBLISHED: "has nodes learn to trust {new}",
    State.DONE: "deletes {old}. This cannot be undone",
}


def holds(record: RotationRecord) -> Mapping[State, str]:
    """Return what holds, by state; `{old}` and `{new}` are the names of the two roots."""
    return _HOLDS | (_NEW_OUTSIDE if _new_outside(record) else {}) | (_OLD_OUTSIDE if not record.old.key else {})


def does(record: RotationRecord) -> Mapping[State, str]:
    """Return what the step to a state does, as the rest of a sentence."""
    new = _DOES_NEW_OUTSIDE if _new_outside(record) else {}
    return _DOES | new | (_DOES_OLD_OUTSIDE if not record.old.key else {})


def _new_outside(record: RotationRecord) -> bool:
    return record.new is not None and bool(record.new.sha256) and not record.new.key
