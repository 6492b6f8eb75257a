"""Decides what takes a node too long: its next report or pass, and the end of the credential that it has replaced.

Pure: the time is an argument.
"""

from __future__ import annotations

from collections.abc import Collection
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from vaultpki.identity.credentials import SecretId
    from vaultpki.records.node_report import NodeReport

# Seconds. One that does not stay runs at a time that nobody has told.
_SLACK: Final = 600
_RUNS: Final = 2 * 86400
# A node reports a new secret id in the pass that makes it, and that of a join file ends in the same pass.
_SETTLES: Final = timedelta(minutes=10)


def silent(age: timedelta, next_within: int) -> bool:
    """Return whether a report or a pass is so old that the next one is late; `next_within` is as in NodeReport."""
    return age.total_seconds() > (next_within + _SLACK if next_within else _RUNS)


def copied(live: Collection[SecretId], report: NodeReport, now: datetime) -> bool:
    """Return whether somebody else seems to have one of a node's live secret ids.

    One may be unknown to the node. But a thief can name it in the report, so two of them must not stay either: a node
    destroys the former one in its first pass after five minutes, before it reports.
    """
    if len(live) <= 1 + report.lost:
        return False
    unknown = [each for each in live if each.accessor not in report.in_use and now - each.created > _SETTLES]
    # A node whose own one is not there was enrolled again, and has not reported since.
    same = any(each.accessor in report.in_use[:1] for each in live)
    last = max(each.created for each in live)
    return (same and len(unknown) > report.lost) or silent(report.time - last, report.next_within)
