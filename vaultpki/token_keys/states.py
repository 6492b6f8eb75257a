"""Holds the states in which service-account keys are rotated: what each means, and which comes next.

Each control-plane node has an old key and makes a new one, and all nodes go together. The states and the ways back were
explored exhaustively by tests/models/service_account.py; no other transition is safe.
"""

from __future__ import annotations

from typing import Final

from vaultpki.procedure.phases import Side
from vaultpki.records.service_account import KEY_TABLE, KeyState

KEYS_ONWARD: Final = KEY_TABLE.onward
"""The state that `ca continue` leads to; from STEADY it is `ca rotate`."""

KEYS_HOMEWARD: Final = KEY_TABLE.home
"""The state that `ca abort` leads to."""

FREE_KEY_STEPS: Final = KEY_TABLE.free
"""The steps that wait for no report: no key in use leaves a union, and none is used that is not in all of them."""

STEPS_BY_UNION: Final = KEY_TABLE.by_trust
"""The steps before which every API server, on its disk and in its memory, must accept exactly these keys of all."""

STEPS_BY_SIGNING: Final = KEY_TABLE.by_use
"""The steps before which every API server must have been started to sign with this key.

Then one longest life of tokens must pass, counted from the last report that says so.
"""

STEPS_OF_KEY_SETS: Final = frozenset(step for step, side in STEPS_BY_UNION.items() if side is Side.BOTH)
"""The steps before which whoever checks tokens by a key set outside of the cluster must have the keys of all too."""

STEPS_HOME: Final = frozenset(step for step in KEYS_HOMEWARD.items() if step[1] is KeyState.STEADY)
"""The steps after which only the old keys count.

Where these are one shared `sa.key`, they wait until no node without it is left, and until its tokens have ended.
"""
