"""The server that tests share, and another one once they have left so many mounts on it that it is slow."""

from __future__ import annotations

import shutil
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Final, Self

import pytest

from helpers.vault import servers
from helpers.vault.servers import Server

# Every plan and apply reads the list of all mounts, which the server also writes into its audit log: with a hundred
# clusters of other tests they take two to four times as long as with none.
MOST_MOUNTS: Final = 200


@dataclass(slots=True)
class ServerOfManyTests:
    """One server of each kind at a time, whose files go as it does."""

    folders: pytest.TempPathFactory
    vault_binary: Path | None
    running: dict[str, tuple[Server, ExitStack]] = field(default_factory=dict)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        for each in [*self.running]:
            self._end(each)

    def server(self, kind: str) -> Server:
        """The server of this kind; another one than before, which has ended, if that had too many mounts."""
        if kind in self.running and len(self.running[kind][0].api("GET", "sys/mounts").data) > MOST_MOUNTS:
            self._end(kind)
        if kind not in self.running:
            stack = ExitStack()
            server = stack.enter_context(
                servers.running(kind, self.folders.mktemp(kind), self.vault_binary, in_memory=True)
            )
            self.running[kind] = server, stack
        return self.running[kind][0]

    def _end(self, kind: str) -> None:
        server, stack = self.running.pop(kind)
        stack.close()
        shutil.rmtree(server.folder, ignore_errors=True)
