"""Names the records in a cluster's KV store."""

from __future__ import annotations

from typing import Final

from vaultpki.model import Cluster
from vaultpki.records.server_facts import Key

LEAVING: Final = "leaving"
"""The folder in the store of the notes about identities that are being ended, and of listed nodes that were locked."""

LOCKED: Final = "locked"
"""The folder in the store of the records of nodes that were locked: by whose token, and since when."""


def is_record(cluster: Cluster, key: Key) -> bool:
    """Return whether the object is a record of the cluster's KV store."""
    return key[0] == "config" and key[1].startswith(f"{cluster.mount('config')}/")


def record_name(cluster: Cluster, key: Key) -> str:
    """Return a record's name inside the store, such as `nodes/cp-1`."""
    return key[1].removeprefix(f"{cluster.mount('config')}/")
