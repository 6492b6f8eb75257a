"""When the kubelets of machines were restarted, by a look at their process ids five times a second."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

from helpers.kube.kubeadm_nodes import KubeadmNode

_EVERY_SECONDS = 0.2


@dataclass(slots=True)
class KubeletRestarts:
    """For each node the times (Unix time) at which a kubelet was started, the last one before the first look too."""

    nodes: Mapping[str, KubeadmNode]
    times: dict[str, list[float]] = field(default_factory=dict)

    def near(self, name: str, at: float, seconds: float) -> bool:
        """Whether a kubelet was restarted within so many seconds of this time."""
        return any(abs(each - at) <= seconds for each in self.times.get(name, ()))

    @contextlib.contextmanager
    def running(self) -> Iterator[None]:
        ending = threading.Event()
        thread = threading.Thread(target=self._look, args=(ending,), daemon=True)
        thread.start()
        try:
            yield
        finally:
            ending.set()
            thread.join(10)

    def _look(self, ending: threading.Event) -> None:
        known: dict[str, str] = {}
        while not ending.wait(_EVERY_SECONDS):
            for name, node in self.nodes.items():
                with contextlib.suppress(OSError):
                    file = node.seen("/run/kubelet.pid")
                    found, started = file.read_text(), file.stat().st_mtime
                    # The one before may have ended in the moment before the first look.
                    if found != known.get(name):
                        self.times.setdefault(name, []).append(started)
                    known[name] = found
