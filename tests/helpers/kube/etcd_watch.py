"""A look at every member of etcd, five times a second: which were down, and how many at once."""

from __future__ import annotations

import contextlib
import http.client
import threading
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

from helpers.kube.machines import Machine

EVERY_SECONDS = 0.2
# A member that is up answers at once; on a machine with much else to do it may wait for its turn.
ANSWER_SECONDS = 5.0
METRICS_PORT = 2381


@dataclass(frozen=True, slots=True)
class Change:
    """Which members were down from this moment (Unix time) on."""

    at: float
    down: frozenset[str]


@dataclass(slots=True)
class EtcdWatch:
    """What each member said at its own endpoint for health, on its machine's loopback.

    A member goes down when /livez does not answer, and is up again only when /readyz, which asks the quorum, says so.
    """

    machines: Mapping[str, Machine]
    changes: list[Change] = field(default_factory=list)
    looks: int = 0
    longest_pause: float = 0.0
    lock: threading.Lock = field(default_factory=threading.Lock)

    @property
    def most_down(self) -> int:
        """How many were down at once, at most."""
        return max((len(change.down) for change in self.changes), default=0)

    def seconds(self, least: int) -> float:
        """For how long so many members or more were down."""
        later = [change.at for change in self.changes[1:]] + [time.time()]
        return sum(end - one.at for one, end in zip(self.changes, later, strict=True) if len(one.down) >= least)

    def times_down(self, name: str) -> int:
        """How often this member went down."""
        befores = [frozenset[str](), *(change.down for change in self.changes)]
        return sum(name in now.down and name not in before for before, now in zip(befores, self.changes, strict=False))

    def shown(self) -> str:
        """Every change, for whoever reads of a failure."""
        begin = self.changes[0].at if self.changes else 0.0
        return "\n".join(f"{one.at - begin:7.1f} s: {', '.join(sorted(one.down)) or '-'}" for one in self.changes)

    @contextlib.contextmanager
    def running(self) -> Iterator[None]:
        ending = threading.Event()
        threads = [threading.Thread(target=self._look, args=(name, ending), daemon=True) for name in self.machines]
        for thread in threads:
            thread.start()
        try:
            yield
        finally:
            ending.set()
            for thread in threads:
                thread.join(2 * ANSWER_SECONDS)

    def _look(self, name: str, ending: threading.Event) -> None:
        down, last = False, time.monotonic()
        with self.machines[name].network():
            while not ending.is_set():
                now = not _says("/readyz") if down else not _says("/livez")
                with self.lock:
                    self.looks += 1
                    if now != down:
                        before = self.changes[-1].down if self.changes else frozenset()
                        self.changes.append(Change(time.time(), before | {name} if now else before - {name}))
                    self.longest_pause = max(self.longest_pause, time.monotonic() - last)
                down, last = now, time.monotonic()
                ending.wait(EVERY_SECONDS)


def _says(path: str) -> bool:
    """Whether the member on the loopback of this thread's network says that all is well."""
    one = http.client.HTTPConnection("127.0.0.1", METRICS_PORT, timeout=ANSWER_SECONDS)
    with contextlib.closing(one), contextlib.suppress(OSError, http.client.HTTPException):
        one.request("GET", path)
        return one.getresponse().status == 200
    return False
