"""A resident agent that a soak kills, ends and starts again."""

from __future__ import annotations

import subprocess
import time
from dataclasses import dataclass, field
from pathlib import Path

from helpers.node import resident_agent
from helpers.vault.applied_cluster import NodeFolder, environment


@dataclass(slots=True)
class Agent:
    """The agent of a node. `memory` is what it took, in KiB, with the moment of each measurement."""

    node: NodeFolder
    process: subprocess.Popen[bytes] | None = None
    memory: list[tuple[float, int]] = field(default_factory=list)

    def start(self) -> None:
        with self._log.open("ab") as log:
            self.process = subprocess.Popen(
                resident_agent.command(self.node), env=environment(), stdin=subprocess.DEVNULL, stdout=log, stderr=log
            )

    def kill(self) -> None:
        if self.process is not None:
            self.process.kill()
            self.process.wait()
            self.process = None

    def measure(self) -> None:
        if self.process is not None:
            status = Path(f"/proc/{self.process.pid}/status").read_text()
            (line,) = (line for line in status.splitlines() if line.startswith("VmRSS:"))
            self.memory.append((time.time(), int(line.split()[1])))

    def faulty(self) -> bool:
        """Whether it ever told of a fault of its own."""
        return told_of_a_fault(self._log.read_text())

    @property
    def _log(self) -> Path:
        return self.node.folder / "log"


def told_of_a_fault(text: str) -> bool:
    """Whether what vaultpki printed tells of a fault of its own."""
    return "Traceback" in text or "fault of vaultpki" in text
