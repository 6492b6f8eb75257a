"""A report of a cluster in which everything that a server or a file can name has the same name."""

from __future__ import annotations

from dataclasses import replace

import example_report
from example_report import NOW
from vaultpki.findings.catalogue import Severity
from vaultpki.findings.finding import found as finding
from vaultpki.findings.nodes import NodeRow
from vaultpki.procedure.banner import Banner
from vaultpki.show import attention
from vaultpki.show.attention import Notice
from vaultpki.show.check_summary import check_summary
from vaultpki.show.inventory import CaFound, HolderPair
from vaultpki.show.report_model import Report, report
from vaultpki.verify.on_disk import tried


def named(name: str) -> Report:
    """The report of a cluster in which everything that a server or a file can name has this name."""
    cluster = replace(example_report.cluster(1, 1), name=name)
    clean = example_report.found(cluster, faults=True, reported=True)
    fault = finding("failed", name, node=name, names=name, command=f"vaultpki {name}")
    row = NodeRow(name, name, (name,), (fault,), reported=NOW, version=name, owed=(name,), credentials=1)
    found = replace(
        clean,
        pairs=(*clean.pairs, HolderPair(name, "kubelet", name, NOW, signer=name)),
        holders=(replace(clean.holders[0], name=name, pool=name, row=row, faults=(name,)), *clean.holders[1:]),
        source=name,
        cas=(*clean.cas, CaFound("etcd", name, name, NOW, sentence=name, key=name, problem=name)),
        notices=(*attention.of_nodes([row], "certificates"), Notice(name, (name,), Severity.INFO, "cas")),
        rotations={"etcd": name},
    )
    file = tried(name, "file", name, name, refusal=name)
    handshake = tried(name, "handshake", name, f"x/{name}", refusal=name)
    banner = Banner(name, name, name, (name,))
    return report(
        cluster, found, NOW, checks=check_summary([file, handshake], []), rotation=[name, f"  {name}"], banner=banner
    )
