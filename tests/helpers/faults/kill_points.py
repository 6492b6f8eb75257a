"""Work that dies: in a process of its own, at a request or at the change of a file, with nothing cleaned up."""

from __future__ import annotations

import mmap
import os
import re
import sys
import threading
import time
import traceback
from collections.abc import Callable, Sequence
from typing import Any

from vaultpki import cli
from vaultpki.kube import writer
from vaultpki.vault.transport import Transport

KILLED = 77
NEVER = 1 << 20
# Those of pytest and xdist, which Python's list of threads may not have.
_FIRST_THREADS = frozenset(os.listdir("/proc/self/task"))


def command(*arguments: object) -> Callable[[], None]:
    """A command of the product, to be run in the dying process."""

    def run() -> None:
        sys.argv = ["vaultpki", *map(str, arguments)]
        cli.main()

    return run


class Events:
    """How many events several works have had, each in a process of its own, one after the other."""

    def __init__(self) -> None:
        self._memory = mmap.mmap(-1, 8)

    @property
    def past(self) -> int:
        return int.from_bytes(self._memory[:8], "little")

    def next(self) -> int:
        number = self.past
        self._memory[:8] = (number + 1).to_bytes(8, "little")
        return number


def died(
    work: Callable[[], object],
    at: int,
    *,
    files: str = "",
    methods: Sequence[str] = ("POST", "DELETE"),
    events: Events | None = None,
) -> bool:
    """Whether `work` died at its event number `at`, counted from 0; False where it was through before that.

    Events are: right before and right after each request of one of `methods` to Vault, or to an API server to change an
    object, and each rename and removal of a file whose name matches `files`. With `events` those of earlier works count
    too.
    """
    return ended(begun(work, at, files=files, methods=methods, events=events))


def begun(
    work: Callable[[], object],
    at: int,
    *,
    files: str = "",
    methods: Sequence[str] = ("POST", "DELETE"),
    events: Events | None = None,
) -> int:
    """The process of such a work, for `ended`."""
    _await_ended_threads()
    pid = os.fork()
    if pid == 0:
        try:
            _die_at(at, files, methods, events or Events())
            work()
            os._exit(0)
        except SystemExit as ending:
            os._exit(int(ending.code or 0))
        except BaseException:  # noqa: BLE001 -- a forked pytest must not go on
            traceback.print_exc()
            os._exit(1)
    return pid


def ended(pid: int) -> bool:
    """Waits for the process; whether it died at its event."""
    code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    assert code in (0, KILLED), f"the work neither died nor ended well: exit {code}"
    return code == KILLED


def _await_ended_threads() -> None:
    """Return once no thread is on its way out.

    For Python it has ended already, and OpenSSL locks what it shares with all others. Nobody unlocks that in a fork.
    """
    end = time.monotonic() + 10
    while time.monotonic() < end:
        known = {str(thread.native_id) for thread in threading.enumerate()}
        if known | _FIRST_THREADS >= set(os.listdir("/proc/self/task")):
            return
        time.sleep(0.001)


def _die_at(at: int, files: str, methods: Sequence[str], events: Events) -> None:
    lock = threading.Lock()

    def event() -> None:
        with lock:
            if events.next() == at:
                os._exit(KILLED)

    def around(real: Callable[..., Any], counts: Callable[..., bool]) -> Callable[..., Any]:
        def wrapped(*arguments: Any, **options: Any) -> Any:
            if not counts(*arguments, **options):
                return real(*arguments, **options)
            event()
            result = real(*arguments, **options)
            event()
            return result

        return wrapped

    def named(*arguments: Any, **_: Any) -> bool:
        return bool(files) and re.search(files, str(arguments[-1])) is not None

    Transport.send = around(Transport.send, lambda _, __, request, *___: request.method in methods)  # type: ignore[method-assign]
    writer.exchange = around(writer.exchange, lambda _, __, method, *___, **____: method in methods)  # type: ignore[attr-defined]
    os.rename = around(os.rename, named)
    os.unlink = around(os.unlink, named)
