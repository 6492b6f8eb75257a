"""Tells whoever waits for a server that it takes long to answer, and why."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Final

UNTOLD_SECONDS: Final = 3.0
"""How long a request may take before it is told."""

_LOOK_SECONDS: Final = 0.25

TELL_WAITS: ContextVar[Callable[[str], None] | None] = ContextVar("TELL_WAITS", default=None)
"""Gets the line that says what is waited for, from a thread of its own; None for agents and programs.

It counts for the servers that are opened from then on.
"""


@dataclass(slots=True)
class Awaited:
    """A request that has no answer yet: since when (monotonic seconds), what is told, and whether it was."""

    since: float
    line: str
    told: bool = False


class LongWaits:
    """The requests to one server that are under way.

    It tells one that takes long, and no other until the server has answered: a command may send many.
    """

    def __init__(self) -> None:
        self._tell = TELL_WAITS.get()
        self._awaited: list[Awaited] = []
        self._silent = self._watched = False
        self._lock = threading.Lock()

    @contextmanager
    def answer_from(self, origin: str) -> Iterator[Awaited]:
        """Take the work within for a wait for this server; it may give a better line while it goes on."""
        awaited = Awaited(time.monotonic(), f"waiting for an answer from {origin}")
        if self._tell is None:
            yield awaited
            return
        with self._lock:
            self._awaited.append(awaited)
            if not self._watched:
                self._watched = True
                threading.Thread(target=self._watch, args=(self._tell,), daemon=True).start()
        try:
            yield awaited
            self._silent = False
        finally:
            with self._lock:
                self._awaited.remove(awaited)

    def _watch(self, tell: Callable[[str], None]) -> None:
        """Look again and again, as long as the process lives: a thread for each request would take longer than it."""
        while True:
            time.sleep(_LOOK_SECONDS)
            with self._lock:
                due = bool(self._awaited) and time.monotonic() - self._awaited[0].since > UNTOLD_SECONDS
                if not due or self._silent or self._awaited[0].told:
                    continue
                self._silent, line = True, self._awaited[0].line
                # Those beside it wait for the same.
                for each in self._awaited:
                    each.told = True
            tell(line)
