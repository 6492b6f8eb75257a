"""Holds where service-account keys stand, as commands and views show it; pure."""

from __future__ import annotations

from dataclasses import dataclass

from vaultpki.procedure.gate import Gate, Waiting
from vaultpki.records.service_account import KeyRecord


@dataclass(frozen=True, slots=True)
class KeyStepDone:
    """What a command has done with service-account keys: the record as it is now, None if there is none.

    `moved` says that a step was made, `changed` that the record is another one. `gate` is what stands before the next
    step. `joining` are nodes that wait to start, and why. `counting` are stolen keys, by node, with the nodes that may
    still accept their tokens. `differing` are nodes whose union lacks keys of the record that they have read, and what
    helps. `may_start` are nodes that have read that their kube-apiserver may start, and where it
    was not seen yet, and `to_read` those whose agents have not read it yet. `sharing` are nodes with one `sa.key` that
    no agent has made, before a rotation takes it over. `notes` are sentences about something unusual.
    """

    record: KeyRecord | None
    gate: Gate | None = None
    moved: bool = False
    changed: bool = False
    joining: tuple[Waiting, ...] = ()
    counting: tuple[Waiting, ...] = ()
    restarts: tuple[Waiting, ...] = ()
    differing: tuple[Waiting, ...] = ()
    may_start: tuple[str, ...] = ()
    to_read: tuple[str, ...] = ()
    sharing: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()

    @property
    def waits(self) -> bool:
        """Whether anything is to be done, or waited for, by agents or by people."""
        active = self.record is not None and self.record.active
        return active or bool(self.joining or self.counting or self.restarts or self.differing)
