"""Ends the secret ids of listed nodes whose answers were lost: they live for weeks, and nobody has them.

A node cannot do it: it does not know what was in a lost answer, and may not list its secret ids. Its report says how
many such answers there were, and by their accessors which secret ids it has. A false report can end the credentials of
its own node, and no others.

Pooled nodes are left out. Whoever may enrol them can become one and write its report, and must not be able to have the
credentials of true ones ended.
"""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from datetime import datetime, timedelta
from itertools import chain
from typing import Final

from vaultpki.errors import BadAnswer, Denied, Refused, Unavailable
from vaultpki.identity import reports
from vaultpki.identity.credentials import LONGEST_JOIN, Identity, SecretId, destroy, look_up, secret_ids
from vaultpki.model import Cluster
from vaultpki.provision.plan import SECRET_ID, Change
from vaultpki.records import report_paths
from vaultpki.records.node_report import NodeReport
from vaultpki.redact import stamp
from vaultpki.vault import Vault

SETTLED: Final = timedelta(seconds=LONGEST_JOIN)
"""How long before the report a secret id was made that is ended.

Every join file of that time has expired, and a node that mints one has reported many times since.
"""

# Of more secret ids that a node does not know, nobody can say that answers were lost.
_MOST: Final = 32


def unknown(report: NodeReport, live: Sequence[str]) -> tuple[str, ...]:
    """Return the accessors among a node's live ones that its report does not name.

    Returns none if the secret id that the report names as the current one has ended, since the node was enrolled again;
    and none if there are more than lost answers can explain.
    """
    if not report.lost or not report.in_use or report.in_use[0] not in live:
        return ()
    others = tuple(each for each in live if each not in report.in_use)
    return others if len(others) <= _MOST else ()


def chosen(report: NodeReport, written: datetime, others: Sequence[SecretId]) -> tuple[SecretId, ...]:
    """Return those of a node's live secret ids whose answers were lost; `others` are those that it does not name.

    `written` is when Vault stored the report: the report's own time is the node's word. Returns none if there are more
    than answers were lost, since somebody may have copied the node.
    """
    known = min(report.time, written)
    old = tuple(each for each in others if known - each.created > SETTLED)
    return old if len(old) <= report.lost else ()


def end(cluster: Cluster, vault: Vault) -> tuple[Change, ...]:
    """Destroy the secret ids of listed nodes whose answers were lost; returns what was destroyed.

    Reads one report for each listed node that has written one, and more only for nodes that report lost answers. What
    the token may not read or destroy is left.
    """
    reported: frozenset[str] = frozenset()
    with contextlib.suppress(Denied):
        reported = frozenset(reports.names_in(cluster, vault, report_paths.folder("listed")))
    reporting = [node.name for node in cluster.nodes if node.name in reported]
    return tuple(chain.from_iterable(vault.map(lambda name: _end(cluster, vault, Identity("listed", name)), reporting)))


def _end(cluster: Cluster, vault: Vault, identity: Identity) -> list[Change]:
    with contextlib.suppress(Denied, Refused, BadAnswer):
        found = reports.of_lost_answers(cluster, vault, report_paths.listed(identity.name))
        if found is None:
            return []
        report, written = found
        others = unknown(report, secret_ids(cluster, vault, identity))
        live = [one for each in others if (one := _living(cluster, vault, identity, each)) is not None]
        ended = chosen(report, written, live)
        destroy(cluster, vault, identity, [each.accessor for each in ended])
        # One that could not be destroyed is left to the next apply.
        left = set(secret_ids(cluster, vault, identity)) if ended else set()
        where = f"{identity.mount(cluster)}/{identity.name}"
        return [
            Change("delete", SECRET_ID, f"{where}/{each.accessor}", {"creation_time": (stamp(each.created), None)})
            for each in ended
            if each.accessor not in left
        ]
    return []


def _living(cluster: Cluster, vault: Vault, identity: Identity, accessor: str) -> SecretId | None:
    # Both servers answer 404 or 500 for one that has expired meanwhile.
    with contextlib.suppress(Refused, Unavailable):
        return look_up(cluster, vault, identity, accessor)
    return None
