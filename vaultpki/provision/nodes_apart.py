"""Finds nodes that do not have the rotation records that the server has, for `plan`, from a few reports alone."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from vaultpki.errors import BadAnswer, Denied
from vaultpki.identity import reports
from vaultpki.model import Cluster, Node, NodeRole
from vaultpki.provision.plan import Danger
from vaultpki.records import gaps
from vaultpki.records.rotation import ROTATION_FOLDER, RotationRecord
from vaultpki.vault import Vault

# Every node reads the records, so a few tell it; `ca status` reads the reports of all.
_ASKED: Final = 5


def find(cluster: Cluster, vault: Vault, records: Mapping[str, RotationRecord]) -> tuple[Danger, ...]:
    """Return the gaps that listed nodes report, at most five of them, those of the control plane first.

    Reads nothing else, and nothing that the token may not read.
    """
    revisions = {domain: record.revision for domain, record in records.items()}
    asked = sorted(cluster.nodes, key=lambda node: NodeRole.CONTROL_PLANE not in node.roles)[:_ASKED]

    def look(node: Node) -> list[Danger]:
        try:
            held = reports.cas_of_rows(cluster, node)
            report = reports.read(cluster, vault, reports.place_of(node, node.name), held).report
        except (BadAnswer, Denied):
            return []
        return [
            Danger(f"config {cluster.mount('config')}/{ROTATION_FOLDER}/{gap.domain}", f"{node.name} {gap.text}")
            for gap in (gaps.of_report(report, revisions) if report is not None else ())
        ]

    return tuple(danger for found in vault.map(look, asked) for danger in found)
