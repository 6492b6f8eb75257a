"""Clusters for tests, each with a folder and a name of its own, so that one server serves them all."""

from __future__ import annotations

import secrets
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from helpers.vault.applied_cluster import ONE_WORKER
from helpers.vault.plan_commands import AuditedCluster
from helpers.vault.servers import Server


@dataclass(frozen=True, slots=True)
class ClusterFactory:
    """Makes clusters on a server, in folders below this one; see the fixtures in tests/conftest.py."""

    server: Server
    folder: Path

    def written(self, spec: str = ONE_WORKER, files: Mapping[str, str] | None = None) -> AuditedCluster:
        """A cluster that is not applied yet: its cluster.yaml, and `files` by their names beside it."""
        name = f"t{secrets.token_hex(5)}"
        made = AuditedCluster(self.server, self.folder / name, name)
        made.write(spec)
        for file, text in (files or {}).items():
            (made.folder / file).write_text(text)
        return made

    def applied(self, spec: str = ONE_WORKER, files: Mapping[str, str] | None = None) -> AuditedCluster:
        """The same, applied."""
        made = self.written(spec, files)
        made.apply()
        return made
