"""Finds in a plan what changes in the records of nodes and pools: their certificates before and after; pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from vaultpki.model import Cluster
from vaultpki.provision.plan import Action, Change

Entry = Mapping[str, Any]
"""A certificate as a record describes it."""


@dataclass(frozen=True, slots=True)
class RecordChange:
    """A change of the record of one node or pool.

    `folder` is `nodes` or `pools`. `certificates` are by name, each before and after, with None if it is missing.
    `node_names` is what the pool had before, empty if the record does not say.
    """

    folder: str
    name: str
    action: Action
    certificates: Mapping[str, tuple[Entry | None, Entry | None]]
    node_names: str = ""

    @property
    def holder(self) -> str:
        """The end of the name of the policy: `node/NAME` or `pool/NAME`."""
        return f"{self.folder[:-1]}/{self.name}"

    @property
    def longest_ttl(self) -> int:
        """Return the longest TTL in seconds of the certificates before the change; 0 if the record does not say."""
        ttls = [before.get("ttl") for before, _ in self.certificates.values() if before]
        return max((ttl for ttl in ttls if isinstance(ttl, int)), default=0)


def record_changes(cluster: Cluster, changes: Sequence[Change]) -> list[RecordChange]:
    """Return the changes of records, nodes first."""
    found = []
    for folder in ("nodes", "pools"):
        head = f"{cluster.mount('config')}/{folder}/"
        for change in changes:
            if change.kind == "config" and change.name.startswith(head):
                name = change.name.removeprefix(head)
                before, after = (by_name(side) for side in change.fields.get("certificates", (None, None)))
                pairs = {each: (before.get(each), after.get(each)) for each in dict.fromkeys((*before, *after))}
                node_names = str(change.fields.get("node_names", ("", ""))[0] or "")
                found.append(RecordChange(folder, name, change.action, pairs, node_names))
    return found


def by_name(entries: object) -> dict[str, Entry]:
    """Return the certificates of a record by their names; anything else in it is left out."""
    found = entries if isinstance(entries, list) else []
    return {str(entry["name"]): entry for entry in found if isinstance(entry, Mapping) and "name" in entry}
