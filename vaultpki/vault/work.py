"""Pieces of work in threads, which end together: the first failure is told, and no other piece goes on for nothing."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Iterator
from typing import Any

from vaultpki.errors import Unavailable


class _Ended(threading.Event):
    """Set when some work is no longer wanted, and with it all work that is a part of it."""

    def __init__(self, above: _Ended | None = None) -> None:
        super().__init__()
        self.below: list[_Ended] = []
        if above is not None:
            above.below.append(self)
            if above.is_set():
                self.set()

    def set(self) -> None:
        super().set()
        for part in tuple(self.below):
            part.set()


class Work(threading.local):
    """The work that the calling thread does."""

    def __init__(self) -> None:
        self.ended = _Ended()

    def map(self, work: Callable[[Any], Any], items: Iterable[Any], *, width: int) -> list[Any]:
        """`work` of each item, in order, with at most `width` threads; a piece may call this again.

        After an error nothing new begins, and what is waiting by `given_up` waits no longer.
        """
        items = list(items)
        if len(items) < 2:
            return [work(item) for item in items]
        results: list[Any] = [None] * len(items)
        failures: list[BaseException] = []
        pending: Iterator[int] = iter(range(len(items)))
        lock = threading.Lock()
        outer = self.ended
        ended = _Ended(outer)

        def run() -> None:
            self.ended = ended
            while not ended.is_set():
                with lock:
                    index = next(pending, None)
                if index is None:
                    return
                try:
                    results[index] = work(items[index])
                except BaseException as error:  # noqa: BLE001 -- raised again by the thread that called
                    failures.append(error)
                    ended.set()

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
            unwanted = outer.is_set()
            ended.set()
            outer.below.remove(ended)
            self.ended = outer
        if failures:
            raise failures[0]
        if unwanted:
            raise Unavailable("other work, of which this is a part, has failed")
        return results

    def given_up(self, seconds: float) -> bool:
        """Waits; whether meanwhile the thread's work is no longer wanted."""
        return self.ended.wait(seconds)
