"""Holds the states in which service-account keys are rotated: what each means, and which comes next.

Each control-plane node has an old key and makes a new one, and all nodes go together. The states and the ways back were
explored exhaustively by tests/models/service_account.py, whose tables these are; no other transition is safe.
"""

from __future__ import annotations

from typing import Final

from vaultpki.records.service_account import ACCEPTED, SIGNED_WITH, KeyAge, KeyState

__all__ = [
    "ACCEPTED",
    "FREE_KEY_STEPS",
    "KEYS_HOMEWARD",
    "KEYS_ONWARD",
    "OLD_KEYS_DELETED",
    "SIGNED_WITH",
    "STEPS_BY_SIGNING",
    "STEPS_BY_UNION",
    "STEPS_HOME",
    "STEPS_OF_KEY_SETS",
    "KeyAge",
    "KeyState",
    "KeyStep",
]

KeyStep = tuple[KeyState, KeyState]
"""A change from one state to another."""

_S = KeyState

KEYS_ONWARD: Final = {
    _S.STEADY: _S.PUBLISHED,
    _S.PUBLISHED: _S.SWITCHED,
    _S.SWITCHED: _S.RETIRED,
    _S.RETIRED: _S.DONE,
    _S.RETURNING: _S.SWITCHED,
    _S.RETRUSTING: _S.SWITCHED,
}
"""The state that `ca continue` leads to; from STEADY it is `ca rotate`."""

KEYS_HOMEWARD: Final = {
    _S.PUBLISHED: _S.STEADY,
    _S.SWITCHED: _S.RETURNING,
    _S.RETURNING: _S.STEADY,
    _S.RETIRED: _S.RETRUSTING,
    _S.RETRUSTING: _S.RETURNING,
}
"""The state that `ca abort` leads to."""

OLD_KEYS_DELETED: Final = frozenset({_S.DONE})
"""The states in which old private keys are deleted; from every other one there is a way back to them."""

FREE_KEY_STEPS: Final = frozenset(
    {
        (_S.STEADY, _S.PUBLISHED),
        (_S.PUBLISHED, _S.STEADY),
        (_S.SWITCHED, _S.RETURNING),
        (_S.RETIRED, _S.RETRUSTING),
        (_S.RETURNING, _S.SWITCHED),
    }
)
"""The steps that wait for no report: no key in use leaves a union, and none is used that is not in all of them."""

STEPS_BY_UNION: Final[dict[KeyStep, KeyAge]] = {
    (_S.PUBLISHED, _S.SWITCHED): KeyAge.BOTH,
    (_S.RETRUSTING, _S.SWITCHED): KeyAge.BOTH,
    (_S.RETRUSTING, _S.RETURNING): KeyAge.BOTH,
    (_S.RETIRED, _S.DONE): KeyAge.NEW,
}
"""The steps before which every API server, on its disk and in its memory, must accept exactly these keys of all."""

STEPS_BY_SIGNING: Final[dict[KeyStep, KeyAge]] = {
    (_S.SWITCHED, _S.RETIRED): KeyAge.NEW,
    (_S.RETURNING, _S.STEADY): KeyAge.OLD,
}
"""The steps before which every API server must have been started to sign with this key.

Then one longest life of tokens must pass, counted from the last report that says so.
"""

STEPS_OF_KEY_SETS: Final = frozenset(step for step, age in STEPS_BY_UNION.items() if age is KeyAge.BOTH)
"""The steps before which whoever checks tokens by a key set outside of the cluster must have the keys of all too."""

STEPS_HOME: Final = frozenset({(_S.PUBLISHED, _S.STEADY), (_S.RETURNING, _S.STEADY)})
"""The steps after which only the old keys count.

Where these are one shared `sa.key`, they wait until no node without it is left, and until its tokens have ended.
"""
