"""Tells agents that what they follow changes: one record says `changing` before the first change, then `settled`.

A writer takes the record with a `changing` of its own version, and its `settled` is a later version than all of its
changes: whoever looked at everything after an earlier version looks again. Of two writers at once, the one that finds
the other's `settled` writes it once more, and the one that finds the other's `changing` leaves it, since that one ends
later. A writer that is killed leaves `changing`; if another one has settled over it, the digests are wrong, which
`plan` shows, and agents notice the last changes at their next whole look.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping
from datetime import UTC, datetime, timedelta
from typing import Any, Final

from vaultpki.errors import BadAnswer, Denied, Refused, Unavailable, VaultpkiError
from vaultpki.model import Cluster
from vaultpki.records import changes
from vaultpki.records.changes import CHANGES, Changes
from vaultpki.records.written import Written
from vaultpki.values.durations import format_duration
from vaultpki.vault import Vault, kv
from vaultpki.vault.kv import Stored

_TRIES: Final = 8

Digests = Mapping[str, str]


def stored(holding: Mapping[str, Any]) -> Stored[Changes]:
    """Return the record of what the KV store holds at its path: `data` and `metadata`."""
    return kv.stored(holding, changes.read)


def read(cluster: Cluster, vault: Vault) -> Stored[Changes]:
    """Read the record."""
    return kv.read_stored(vault, cluster.mount("config"), CHANGES, changes.read)


def shown_writer(cluster: Cluster, vault: Vault) -> dict[str, Written]:
    """Return who last changed the records of cluster, nodes and pools, by the path of this record, for a view."""
    with contextlib.suppress(Denied, Refused, BadAnswer):
        found = read(cluster, vault).record
        return {CHANGES: found.applied} if found is not None and found.applied.version else {}
    return {}


def is_changing(found: Stored[Changes]) -> bool:
    """Return whether a command changes something, or was killed while it did."""
    return found.record is not None and not found.record.settled


def begin(cluster: Cluster, vault: Vault, found: Stored[Changes], *, applies: bool = False) -> Stored[Changes]:
    """Write `changing` over the record that was `found`; returns it as it is then. The digests stay.

    Without a record nothing is written: agents look at everything at each poll. `applies` says that this command
    changes the records of cluster, nodes or pools.
    """
    for _ in range(_TRIES):
        if found.record is None:
            return found
        now = Changes(False, found.record.digests, _applied(vault, found, applies=applies))
        if _written(cluster, vault, now, found.version):
            return Stored(now, found.version + 1)
        found = read(cluster, vault)
    raise _contended(cluster)


def settle(cluster: Cluster, vault: Vault, found: Stored[Changes], digests: Digests, *, applies: bool = False) -> bool:
    """Write `settled` over the record that was `found`; return False if somebody else has written it meanwhile.

    `applies` is as in `begin`.
    """
    return _written(cluster, vault, Changes(True, digests, _applied(vault, found, applies=applies)), found.version)


def _applied(vault: Vault, found: Stored[Changes], *, applies: bool) -> Written:
    """Return who last changed the records of cluster, nodes and pools, as the next version of the record says it."""
    if not applies:
        return found.record.applied if found.record is not None else Written()
    owner, now = vault.owner(), datetime.now(UTC) + timedelta(seconds=vault.clock_offset or 0.0)
    return Written(owner.name if owner else "", owner.entity if owner else "", found.version + 1, now)


class ChangeNotice:
    """One command's notice to agents, which is given with its first change, if it makes any.

    An `urgent` command goes on with a token that may not write the record.
    """

    def __init__(self, cluster: Cluster, vault: Vault, *, urgent: bool = False) -> None:
        self._cluster, self._vault, self._urgent = cluster, vault, urgent
        self._begun: Stored[Changes] | None = None
        self._refused = False

    @property
    def untold(self) -> str:
        """Return a sentence for a person if the token did not allow to tell agents; "" if they know."""
        if not self._refused:
            return ""
        return (
            f"this token may not write {self._cluster.mount('config')}/{CHANGES}, so agents at rest notice the change "
            f"within {format_duration(changes.LONGEST_LOOK)}, and not at their next poll. What is needed is printed by "
            f"`vaultpki policy{self._cluster.file_option} applier`"
        )

    def begin(self) -> None:
        """Write `changing`, unless this command has; to be called before each change."""
        if self._begun is not None or self._refused:
            return
        try:
            self._begun = begin(self._cluster, self._vault, read(self._cluster, self._vault))
        except Denied:
            if not self._urgent:
                raise
            self._refused = True

    def end(self, digests: Callable[[], Digests] = dict) -> None:
        """Write `settled` if this command has written `changing`, or finds it of a command that was killed.

        `digests` reads those of the parts that it may have changed; the others stay as the record has them.
        """
        if self._refused:
            return
        found = self._begun or self._left()
        if found is None:
            return
        for _ in range(_TRIES):
            if found.record is not None and settle(
                self._cluster, self._vault, found, {**found.record.digests, **digests()}
            ):
                self._begun = None
                return
            found = read(self._cluster, self._vault)
            if found.record is None or is_changing(found):
                # Another one's, which settles later; without a record agents look at each poll.
                self._begun = None
                return
        raise _contended(self._cluster)

    def _left(self) -> Stored[Changes] | None:
        """Return the `changing` that a command has left; None if there is none, or the token may not read it."""
        with contextlib.suppress(Denied):
            found = read(self._cluster, self._vault)
            return found if is_changing(found) else None
        return None


@contextlib.contextmanager
def announced(
    cluster: Cluster, vault: Vault, digests: Callable[[], Digests] = dict, *, urgent: bool = False
) -> Iterator[ChangeNotice]:
    """Give the work within a notice that it begins before its first write, and end it when the work is done or fails.

    Work that writes nothing still ends the notice of a command that was killed. Of a server that is away nothing more
    is asked: then agents look at everything at each poll until a later command ends it. The arguments are as in
    ChangeNotice and its `end`.
    """
    notice = ChangeNotice(cluster, vault, urgent=urgent)
    try:
        yield notice
    except (Denied, Unavailable):
        raise
    except VaultpkiError:
        with contextlib.suppress(VaultpkiError):
            notice.end(digests)
        raise
    notice.end(digests)


def _written(cluster: Cluster, vault: Vault, record: Changes, version: int) -> bool:
    """Write the record by check-and-set; return False if it has another version by now."""
    return kv.write_over(vault, cluster.mount("config"), CHANGES, changes.to_json(record), version)


def _contended(cluster: Cluster) -> Refused:
    return Refused(
        f"other commands write {cluster.mount('config')}/{CHANGES} all the time; wait until they are through, and run "
        "the same again",
        status=409,
    )
