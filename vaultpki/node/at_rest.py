"""What a resident agent keeps in memory while nothing changes: its login, and which version of the record it has seen.

At rest one read with that login tells whether anything that this node follows has changed. It is never on disk: a new
process looks at everything.
"""

from __future__ import annotations

import random
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Final

from vaultpki.host.boot_time import Moment
from vaultpki.model import AgentConfig
from vaultpki.node.assignment import Assignment
from vaultpki.records import changes
from vaultpki.records.changes import CHANGES, LONGEST_LOOK, Mark
from vaultpki.vault import StandbyReads, Vault

# Jitter: the nodes of a cluster that started together must not look together.
_EARLIEST_SHARE: Final = 0.9


@dataclass(frozen=True, slots=True)
class AtRest:
    """A node at rest: `vault` is logged in as the node, and `mark` is of the settled record as the last look began.

    `reads` are the servers that are asked whether it is still the same. `looked` (Unix time) and `moment` are when that
    look was made, and `span` the seconds after which comes the next. `issuers` are the certificates that it read, as
    `Issuers.by_id`.
    """

    config: AgentConfig
    vault: Vault
    mark: Mark
    reads: StandbyReads[Vault]
    looked: float
    moment: Moment
    span: float
    issuers: Mapping[tuple[str, str], str] = field(default_factory=dict, repr=False)

    def holds(self, config: AgentConfig, clock: float, moment: Moment) -> bool:
        """Return whether a poll is enough at this time: not if the next one would come after the next look is due.

        Both clocks count, for the wall clock may be set and the other stands still in a simulation. Another agent.yaml
        may name another server or another node.
        """
        left = self.span - config.poll
        by_clock = 0 <= clock - self.looked <= left
        by_boot = moment.boot == self.moment.boot and moment.uptime - self.moment.uptime <= left
        return by_clock and by_boot and config == self.config

    def ask(self) -> Mark | None:
        """Ask for the record, and return its mark, which is `mark` if nothing has changed. Raises as `Vault.call`."""
        said: list[Mark | None] = []

        def as_seen(server: Vault) -> bool:
            said.append(changes.settled_mark(server.stored(f"{self.config.prefix}/config", CHANGES)))
            return said[-1] == self.mark

        return self.mark if self.reads.agree(as_seen) else said[-1]

    def may_step(self, mark: Mark | None) -> bool:
        """Return whether one command alone has ended since, as the active node says, so that a step may be enough."""
        return mark is not None and mark.ends_one_command(self.mark) and not self.reads.standbys


def after_look(
    config: AgentConfig, vault: Vault, seen: Assignment, clock: float, moment: Moment, before: AtRest | None = None
) -> AtRest | None:
    """Return what to keep after a whole look that has seen this, or after a step since the look of `before`.

    None if the record of changes was not settled, or if several servers answered, since the record may be newer than
    the rest. While a rotation or an adoption is under way, the active node is polled.
    """
    if seen.mark is None or vault.moved:
        return None
    records = (*seen.rotations.read.values(), *seen.procedures.values(), seen.keys)
    reads = vault.standby_reads(ask=not any(each.under_way for each in records))
    if before is not None:
        # A step puts off no whole look.
        return replace(before, vault=vault, mark=seen.mark, reads=reads, issuers=seen.issuers.by_id)
    span = LONGEST_LOOK * random.uniform(_EARLIEST_SHARE, 1.0)  # noqa: S311 - not a secret
    return AtRest(config, vault, seen.mark, reads, clock, moment, span, seen.issuers.by_id)
