"""Shows who wrote the records that nodes follow, the same in every view; pure."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from vaultpki.model import Cluster
from vaultpki.records.changes import CHANGES
from vaultpki.records.written import Written


def writer_lines(cluster: Cluster, written: Mapping[str, Written]) -> Iterator[str]:
    """Yield a line for each record that has a writer or a version, by path; nothing if there is none."""
    if written:
        yield f"Who wrote the records in {cluster.mount('config')}/data, which nodes follow:"
    for path, each in sorted(written.items()):
        covers = " (cluster, nodes and pools)" if path == CHANGES else ""
        yield f"  {path}{covers}  {each.sentence}"


def writers_json(written: Mapping[str, Written]) -> dict[str, Any]:
    """Return the same for programs, by the paths of the records."""
    return {path: each.document for path, each in sorted(written.items())}
