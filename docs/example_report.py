"""Makes the reports of clusters that do not exist, for a page and for tests: the same for the same numbers."""

from __future__ import annotations

import random
import tempfile
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from hashlib import sha256
from pathlib import Path
from typing import Final

from vaultpki.certificates import ISSUING_CAS, ROOT, ca_subject, node_rows, rows
from vaultpki.config.cluster import load_cluster
from vaultpki.findings.finding import found as finding
from vaultpki.findings.nodes import NodeRow
from vaultpki.graph.content import ExpirySummary, Health
from vaultpki.layout import client_cas
from vaultpki.model import Cluster
from vaultpki.pki.ca_life import CaLife, expiry
from vaultpki.procedure.banner import Banner
from vaultpki.show import attention
from vaultpki.show.check_summary import check_summary
from vaultpki.show.inventory import FAULTS, CaFound, HolderPair, HolderSummary, Inventory
from vaultpki.show.report_model import Report, report
from vaultpki.verify.on_disk import Check, tried

NOW: Final = datetime(2026, 11, 26, 10, tzinfo=UTC)
"""When the examples were made."""

_DAYS: Final = 30


def cluster(control_plane: int, workers: int) -> Cluster:
    """Return a cluster with so many nodes."""
    lines = [
        f"- {{name: cp-{n}, roles: [control-plane, etcd], addresses: [10.0.0.{n}]}}"
        for n in range(1, control_plane + 1)
    ]
    lines += [
        f"- {{name: worker-{n}, roles: [worker], addresses: [10.{1 + n // 250}.0.{1 + n % 250}]}}"
        for n in range(1, workers + 1)
    ]
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "cluster.yaml"
        file.write_text("\n".join(("cluster: prod", "nodes:", *lines, "")), encoding="utf-8")
        return load_cluster(file, allow_http=True)


def found(of: Cluster, *, faults: bool, reported: bool) -> Inventory:
    """Return what is found of a cluster; with `faults`, one of each kind. `reported` is as from nodes' reports."""
    # Not for anything secret: the same numbers each time.
    chance = random.Random(7)  # noqa: S311
    pairs = list(_pairs(of, chance))
    holders = [HolderSummary(node.name, tuple(sorted(role.value for role in node.roles))) for node in of.nodes]
    if not reported:
        holders.append(HolderSummary("operator", ()))
        pairs.append(HolderPair("operator", "admin", "kubernetes", NOW + timedelta(days=61), signer="kubernetes"))
    if faults:
        pairs = list(_with_faults(pairs))
    minutes = {each.name: chance.randrange(1, 60) for each in holders}
    holders = [replace(each, row=_row(each, pairs, minutes[each.name], faults, reported)) for each in holders]
    rows_found = [each.row for each in holders if each.row is not None]
    rotations = {"etcd": "switched"} if faults and reported else {}
    cas = tuple(_cas(of))
    return Inventory(
        tuple(pairs),
        tuple(holders),
        {ca.ca: ExpirySummary(ca.not_after) for ca in cas},
        f"{'reports' if reported else 'files'} of {len(holders)} {'nodes' if reported else 'folders'}",
        cas,
        attention.worst_first(attention.of_nodes(rows_found, "certificates")),
        rotations=rotations,
    )


def example(control_plane: int, workers: int, *, faults: bool = True, reported: bool = False) -> Report:
    """Return the report of a cluster with so many nodes."""
    of = cluster(control_plane, workers)
    what = found(of, faults=faults, reported=reported)
    if reported:
        return report(of, what, NOW, rotation=_ROTATION if faults else (), banner=_BANNER if faults else None)
    return report(of, what, NOW, checks=check_summary(tuple(_checks(of, what)), [row.name for row in rows(of)], _AGAIN))


_ROTATION: Final = (
    "etcd is switched since 2026-11-26T09:12:00Z: key 2 of the CA etcd signs; nodes replace those of key 1 within 1h.",
    "It waits for:",
    "  cp-2  its etcd-server is still of key 1",
    "Next: once nothing is waited for, `vaultpki ca continue` ends the trust in key 1 of the CA etcd.",
    "Back: `vaultpki ca abort` makes key 1 of the CA etcd the CA that signs again.",
)
_AGAIN: Final = "vaultpki verify --dir nodes"

_BANNER: Final = Banner(
    title="CA etcd is being rotated: switched",
    since="since 2026-11-26 09:12 UTC, 48 minutes ago",
    holds="key 2 of the CA etcd signs; nodes trust both, and replace their certificates of key 1 within 1h",
    waits=("It waits for cp-2: its etcd-server is still of key 1",),
)


def _row(holder: HolderSummary, pairs: list[HolderPair], minutes: int, faults: bool, reported: bool) -> NodeRow:
    """Return what the judgement says of a node; with `faults`, one node is silent and a hook failed on two."""
    number = int(holder.name.rpartition("-")[2]) if holder.roles else 0
    worker = faults and holder.name.startswith("worker-")
    silent = worker and number == 2 and reported
    findings = []
    wrong: dict[str, list[str]] = {}
    for pair in pairs:
        if pair.holder == holder.name and pair.health(NOW) is not Health.VALID:
            wrong.setdefault(_NAMES[pair.health(NOW)], []).append(pair.row)
    for name, held in wrong.items():
        findings.append(finding(name, f"{name}: {', '.join(held)}", names=" ".join(held)))
    if worker and number in (3, 4):
        findings.append(finding("hook-failed", "hooks failed: kubelet"))
    if silent:
        findings.append(finding("silent", "last report 3d ago"))
    return NodeRow(
        holder.name,
        None,
        holder.roles,
        tuple(findings),
        reported=NOW - timedelta(minutes=minutes, days=3 * silent) if reported else None,
        version="0.2.0",
        owed=("kubelet",) if worker and number in (3, 4) else (),
        credentials=1 if reported else None,
    )


_NAMES: Final = {health: name for name, health in FAULTS.items()}


def _pairs(of: Cluster, chance: random.Random) -> Iterator[HolderPair]:
    for node in of.nodes:
        joined = chance.triangular(0, 14, 3)
        for row in node_rows(of, node):
            end = NOW + timedelta(days=_DAYS - joined - chance.random(), minutes=chance.randrange(1440))
            yield HolderPair(node.name, row.name, row.ca, end, signer=row.ca)


def _with_faults(pairs: list[HolderPair]) -> Iterator[HolderPair]:
    last = pairs[-2].holder if pairs[-1].holder == "operator" else pairs[-1].holder
    for pair in pairs:
        if (pair.holder, pair.row) in ((last, "kubelet"), ("cp-1", "etcd-peer")):
            yield HolderPair(pair.holder, pair.row, pair.ca, fault=Health.MISSING)
        elif (pair.holder, pair.row) == (last, "kube-proxy"):
            yield HolderPair(pair.holder, pair.row, pair.ca, NOW - timedelta(days=2, hours=3), Health.EXPIRED, pair.ca)
        elif (pair.holder, pair.row) == (last, "kubelet-client"):
            yield HolderPair(pair.holder, pair.row, pair.ca, NOW + timedelta(days=2), Health.DUE, pair.ca)
        else:
            yield pair


def _cas(of: Cluster) -> Iterator[CaFound]:
    for ca in (ROOT, *ISSUING_CAS):
        years = 10 if ca == ROOT else 5
        end = NOW + timedelta(days=365 * years - 40)
        life = CaLife(ca, ca == ROOT, NOW - timedelta(days=40), end, _DAYS * 86400)
        urgent = expiry(life, NOW)
        name = f"CN={ca_subject(of.name, ca)}"
        yield CaFound(ca, name, sha256(name.encode()).hexdigest(), end, urgent.level, urgent.sentence, "ec-p256", ca)


def _checks(of: Cluster, what: Inventory) -> Iterator[Check]:
    """Yield what `verify` would find: each client pair against each server row."""
    table = rows(of)
    servers = [row for row in table if row.usage.server]
    for pair in what.pairs:
        bad = "" if pair.not_after else "the file is missing"
        yield tried(f"{pair.row}.crt", "file", pair.holder, pair.row, refusal=bad)
        yield tried(pair.row, "chain", f"{pair.holder}/{pair.row}", "the root", refusal="")
        row = next(row for row in table if row.name == pair.row)
        for server in servers if pair.not_after else ():
            first = next((each.holder for each in what.pairs if each.row == server.name), None)
            cas = client_cas(server, table)
            if first is None or not cas:
                continue
            good = row.usage.client and row.ca in cas
            expired = pair.not_after is not None and pair.not_after <= NOW
            refusal = "certificate has expired" if good and expired else "" if good else "unknown CA"
            yield tried(
                f"{pair.row} to {server.name}",
                "handshake",
                f"{pair.holder}/{pair.row}",
                f"{first}/{server.name}",
                good=good,
                refusal=refusal,
            )
