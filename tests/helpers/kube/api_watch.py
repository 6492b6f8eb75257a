"""A look at one API server, five times a second: for how long at a time it was not ready."""

from __future__ import annotations

import contextlib
import http.client
import ssl
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field

from helpers.kube.components import API_PORT
from helpers.kube.machines import Machine

EVERY_SECONDS = 0.2
# One that is ready answers at once; on a machine with much else to do it may wait for its turn.
ANSWER_SECONDS = 2.0


@dataclass(slots=True)
class ApiWatch:
    """What the API server of `machine` said at /readyz, which asks etcd; `outages` are pairs of Unix time."""

    machine: Machine
    outages: list[tuple[float, float]] = field(default_factory=list)

    @contextlib.contextmanager
    def running(self) -> Iterator[None]:
        ending = threading.Event()
        thread = threading.Thread(target=self._look, args=(ending,), daemon=True)
        thread.start()
        try:
            yield
        finally:
            ending.set()
            thread.join(2 * ANSWER_SECONDS)

    def since(self, moment: float) -> list[float]:
        """The seconds of each outage that began after a moment."""
        return [end - begin for begin, end in self.outages if begin >= moment]

    def _look(self, ending: threading.Event) -> None:
        last = time.time()
        with self.machine.network():
            away = False
            while not ending.is_set():
                now = time.time()
                if self._ready():
                    if away:
                        self.outages.append((last, time.time()))
                    away, last = False, now
                else:
                    away = True
                ending.wait(EVERY_SECONDS)

    def _ready(self) -> bool:
        """Whether it says so; whose certificate it shows is looked at elsewhere."""
        context = ssl.create_default_context()
        context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
        one = http.client.HTTPSConnection(self.machine.address, API_PORT, timeout=ANSWER_SECONDS, context=context)
        with contextlib.closing(one), contextlib.suppress(OSError, http.client.HTTPException):
            one.request("GET", "/readyz")
            return one.getresponse().status == 200
        return False
