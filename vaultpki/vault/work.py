"""Work in threads that ends together: the first failure is raised, and no other piece goes on for nothing.

Not concurrent.futures: its threads are waited for at exit, so that Ctrl-C would wait for a server that does not answer.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable
from typing import Any, Final

from vaultpki.errors import Unavailable

_LOOK_SECONDS: Final = 0.05


class Work(threading.local):
    """The work of the calling thread: `ended` are the events that end it, its own and those of what it is a part of."""

    def __init__(self) -> None:
        self.ended: tuple[threading.Event, ...] = ()

    def map(self, work: Callable[[Any], Any], items: Iterable[Any], *, width: int) -> list[Any]:
        """Return `work` of each item, in order, with at most `width` threads; a piece may call this again.

        After an error nothing new begins, and what waits in `given_up` stops waiting.
        """
        items = list(items)
        if len(items) < 2:
            return [work(item) for item in items]
        results: list[Any] = [None] * len(items)
        failures: list[BaseException] = []
        pending = iter(range(len(items)))
        lock = threading.Lock()
        outer, own = self.ended, threading.Event()

        def run() -> None:
            self.ended = (*outer, own)
            while not self._unwanted():
                with lock:
                    index = next(pending, None)
                if index is None:
                    return
                try:
                    results[index] = work(items[index])
                except BaseException as error:  # noqa: BLE001 -- raised again by the thread that called
                    failures.append(error)
                    own.set()

        threads = [threading.Thread(target=run, daemon=True) for _ in range(min(width, len(items)) - 1)]
        try:
            for thread in threads:
                thread.start()
            run()
            # Ctrl-C is not kept waiting for answers.
            if not failures or isinstance(failures[0], Exception):
                for thread in threads:
                    thread.join()
        finally:
            own.set()
            self.ended = outer
        if failures:
            raise failures[0]
        if self._unwanted():
            raise Unavailable("other work, of which this is a part, has failed")
        return results

    def given_up(self, seconds: float) -> bool:
        """Wait, and return whether the thread's work is no longer wanted."""
        end = time.monotonic() + seconds
        while not self._unwanted():
            left = end - time.monotonic()
            if left <= 0:
                return False
            time.sleep(min(left, _LOOK_SECONDS))
        return True

    def _unwanted(self) -> bool:
        return any(event.is_set() for event in self.ended)
