"""Says what ends the wait for a kube-apiserver that was not seen with the service-account keys of now; pure."""

from __future__ import annotations

from typing import Final

from vaultpki.redact import printable, stamp
from vaultpki.token_keys.holders import KeyHolder

READS_KEYS: Final = "kube-apiserver"
"""The one component that reads these keys when it starts."""


def to_start(holder: KeyHolder, command: str, turn: str) -> str:
    """Return what to do so that kube-apiserver of a node counts, as the rest of a sentence; `command` goes on then.

    `turn` is the node that restarts now, "" for none.
    """
    if turn not in ("", holder.name):
        return f"it restarts after {turn}, whose turn it is"
    word = f"`{command} --restarted {holder.name}/{READS_KEYS}`"
    reader = holder.keys.reader if holder.keys is not None else None
    if reader is not None and reader.stopped is not None:
        return (
            f"it is stopped since {stamp(reader.stopped)}, and no other one restarts before it is healthy. Start it, "
            f"or if only its agent takes it so, restart it there. Wait until it is healthy, and run {word}"
        )
    if reader is None or not reader.running:
        why = f" ({printable(reader.problem)})" if reader is not None and reader.problem else ""
        return (
            f"it was not seen running there{why}. Start it, or if only its agent cannot see it, restart it there. "
            f"Wait until it is healthy, and run {word}"
        )
    if holder.keys is not None and holder.keys.holds_files:
        return (
            f"it was restarted and is not healthy ({printable(reader.problem)}); wait, or look at its log, or if only "
            f"its agent takes it so, run {word}"
        )
    return f"wait for its hook, or restart it there, and wait until its agent has seen it healthy; `{command}` goes on"
