"""What the pods of a node's kubelet write, kept also when a pod that was replaced takes its log along."""

from __future__ import annotations

import contextlib
import os
import threading
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

FOLDER = "/var/log/pods"
EVERY_SECONDS = 1.0


@dataclass(slots=True)
class PodLogs:
    """The lines of every container of the nodes, by the node's name and the pod's, from when this began to look.

    `folders` has each node's folder of pods' logs. A line is what the container wrote, without what the runtime puts
    before it (CRI: time, stream and a letter).
    """

    folders: Mapping[str, Path]
    lines: list[tuple[str, str]] = field(default_factory=list)
    positions: dict[Path, int] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self._read()
        self.lines.clear()

    @contextlib.contextmanager
    def running(self) -> Iterator[None]:
        ending = threading.Event()

        def read() -> None:
            while not ending.wait(EVERY_SECONDS):
                self._read()

        thread = threading.Thread(target=read, daemon=True)
        thread.start()
        try:
            yield
        finally:
            ending.set()
            thread.join(30)
            self._read()

    def _read(self) -> None:
        for node, folder in self.folders.items():
            # A pod and its log may go at any moment, which a walk passes over.
            for path in [
                Path(place, name) for place, _, names in os.walk(folder) for name in names if name.endswith(".log")
            ]:
                with contextlib.suppress(OSError), path.open("rb") as file:
                    file.seek(self.positions.get(path, 0))
                    written = file.read()
                    # The last line may still be on its way to the disk.
                    whole = written[: written.rfind(b"\n") + 1]
                    self.positions[path] = self.positions.get(path, 0) + len(whole)
                    where = f"{node}'s {path.parent.name}"
                    texts = (line.split(" ", 3)[-1] for line in whole.decode(errors="replace").splitlines())
                    self.lines += [(where, text) for text in texts]
