"""Says what ends the wait for a kube-apiserver that was not seen with the service-account keys of now; pure."""

from __future__ import annotations

from typing import Final

from vaultpki.redact import printable, stamp
from vaultpki.token_keys.holders import KeyHolder

READS_KEYS: Final = "kube-apiserver"
"""The one component that reads these keys when it starts."""


def to_start(holder: KeyHolder, command: str, turn: str) -> str:
    """Return what to do so that kube-apiserver of a node counts, in sentences; `command` goes on then.

    `turn` is the node that restarts now, "" for none.
    """
    if turn not in ("", holder.name):
        return f"It restarts after {turn}, whose turn it is"
    word = f"`{command} --restarted {holder.name}/{READS_KEYS}`"
    reader = holder.keys.reader if holder.keys is not None else None
    if reader is not None and reader.stopped is not None:
        return (
            f"It is stopped since {stamp(reader.stopped)}, and no other one restarts before it is healthy. Start it "
            f"there, or restart it if only its agent does not see it. Wait until it is healthy, and run {word}"
        )
    if reader is None or not reader.running:
        why = f" ({printable(reader.problem)})" if reader is not None and reader.problem else ""
        return (
            f"It was not seen running there{why}. Start it there, or restart it if only its agent does not see it. "
            f"Wait until it is healthy, and run {word}"
        )
    if holder.keys is not None and holder.keys.holds_files:
        return (
            f"It was restarted and is not healthy ({printable(reader.problem)}). Wait, or look at its log. If it is "
            f"healthy and only its agent does not see that, run {word}"
        )
    return f"Wait for its hook, or restart it there. Once its agent has seen it healthy, run `{command}`"
