"""The daemon: one pass after another in one thread, signals and systemd's watchdog in another, so that neither waits.

Every pass starts from what is on disk, so the process may end at any moment: SIGTERM ends it at once, in whatever state
the pass is, and the next start goes on from there.
"""

from __future__ import annotations

import collections
import contextlib
import functools
import os
import select
import signal
import socket
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from types import FrameType
from typing import TYPE_CHECKING, Final

from vaultpki.agent import readers_seen, run
from vaultpki.agent.context import Outcome, PassOptions
from vaultpki.config.agent import is_current
from vaultpki.config.taken_over import located
from vaultpki.daemon import pace
from vaultpki.daemon.lock import DaemonLock
from vaultpki.daemon.outcome_events import FailureLog
from vaultpki.daemon.resident import Pulled, ResidentNote
from vaultpki.disk import files
from vaultpki.errors import (
    CertificateRefused,
    Denied,
    NeedsJoin,
    Refused,
    Unavailable,
    Untrusted,
    VaultpkiError,
    fault,
)
from vaultpki.host import hook_runner
from vaultpki.host.log import Event
from vaultpki.host.systemd import Notifier
from vaultpki.model import AgentConfig
from vaultpki.node import assignment, backoff, state
from vaultpki.node.procedures import Procedures
from vaultpki.node.secret_id import SECRET_ID

if TYPE_CHECKING:
    from vaultpki.daemon.metrics import DaemonMetrics
    from vaultpki.node.at_rest import AtRest

# A pass that takes longer without a sign of life hangs: systemd's watchdog may end the process.
_LONGEST_PASS: Final = 600.0
_TICK: Final = 30.0
_LOCK_WAIT: Final = 10.0
# After five refused logins within 15 minutes Vault locks an AppRole out for 15 minutes more, and a new join file with
# it, unless the mount is tuned otherwise as apply does (user lockout, api-docs/system/user-lockout).
_NEEDS_JOIN_PAUSE: Final = 300.0
_NEEDS_JOIN_TICK: Final = 2.0


def stay(
    config: AgentConfig,
    procedures: Procedures,
    *,
    load: Callable[[], AgentConfig],
    log: Callable[[Event], None],
    allow_http: bool = False,
) -> None:
    """Renew until SIGTERM or SIGINT; on SIGHUP `load` reads agent.yaml again, and Vault is asked. For the main thread.

    `procedures` are as in PassOptions. Raises, before anything is done, Busy if another daemon holds the same directory
    or state folder, and StoreError if others could replace one of them. If `load` raises a VaultpkiError, that is
    logged and the old configuration stays in force. Threads that still run when this returns may be ended with the
    process.
    """
    for path in (config.state, *config.paths.values()):
        files.refuse_unsafe_way(path)
    _Daemon(config, procedures, load, log, allow_http=allow_http).stay()


class _Daemon:
    def __init__(
        self,
        config: AgentConfig,
        procedures: Procedures,
        load: Callable[[], AgentConfig],
        log: Callable[[Event], None],
        *,
        allow_http: bool,
    ) -> None:
        self._config, self._load, self._log = config, load, log
        self._procedures, self._allow_http = procedures, allow_http
        self._notifier = Notifier()
        self._wake = threading.Event()
        self._runner = hook_runner.Runner(done=self._wake.set)
        self._lock = DaemonLock()
        self._note = ResidentNote()
        # One for each SIGHUP that no pass has followed yet: what is wrong with agent.yaml, as sentences.
        self._pulls: collections.deque[dict[str, str]] = collections.deque()
        self._pull_budget = backoff.PullBudget()
        self._signals: set[int] = set()
        self._last_sign_of_life = time.monotonic()
        self._failures = FailureLog(log)
        self._ready = False
        self._unread = ""
        self._refused: _JoinFiles | None = None
        self._metrics: DaemonMetrics | None = None
        self._urgent: datetime | None = None
        self._rest: AtRest | None = None

    # The thread that listens

    def stay(self) -> None:
        reading, writing = socket.socketpair()
        for end in (reading, writing):
            end.setblocking(False)
        # Python runs a handler only between two steps of the main thread; the byte wakes it out of select.
        signal.set_wakeup_fd(writing.fileno(), warn_on_full_buffer=False)
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
            signal.signal(number, self._on_signal)
        self._lock.hold(self._config)
        self._note.hold(self._config)
        self._log(Event("started", f"{self._config.node} of {self._config.cluster}: the agent has started"))
        self._serve_metrics()
        worker = threading.Thread(target=self._work, daemon=True)
        worker.start()
        while not self._signals & {signal.SIGTERM, signal.SIGINT}:
            select.select([reading], [], [], min(self._notifier.interval or _TICK, _TICK))
            while _drained(reading):
                pass
            if signal.SIGHUP in self._signals:
                self._signals.discard(signal.SIGHUP)
                self._reload()
            self._serve_metrics()
            if worker.is_alive() and time.monotonic() - self._last_sign_of_life < _LONGEST_PASS:
                self._notifier.watchdog()
        self._notifier.stopping()
        self._runner.stop()
        self._log(Event("stopped", "the agent ends; the files stay as they are"))

    def _on_signal(self, number: int, frame: FrameType | None) -> None:
        self._signals.add(number)

    def _reload(self) -> None:
        if self._ready:
            self._notifier.reloading()
        wrong = {}
        try:
            self._config = self._load()
        except VaultpkiError as error:
            wrong = {"config": f"{error}; what was read before goes on"}
            self._log(Event("config", wrong["config"], "error"))
        else:
            self._log(Event("config", f"{self._config.file} was read again"))
        if self._ready:
            self._notifier.ready(self._status())
        self._pulls.append(wrong)
        if self._pull_pause() <= 0:
            self._wake.set()

    def _serve_metrics(self) -> None:
        if self._metrics is None:
            if self._config.metrics is None:
                return
            from vaultpki.daemon.metrics import DaemonMetrics

            self._metrics = DaemonMetrics(
                lambda: located(self._config), self._procedures, self._log, longest_pass=_LONGEST_PASS
            )
        self._metrics.serve()

    # The thread that works

    def _work(self) -> None:
        failed = 0
        while True:
            self._alive()
            pulls = self._pulls_to_follow()
            self._read_for_hooks()
            # On a machine that is taken over folders change places between two passes.
            config, began, events = located(self._config), time.monotonic(), list[Event]()
            try:
                outcome = self._pass(config, events, share=0.0 if pulls else run.DAEMON_SHARE)
            except Exception as error:  # noqa: BLE001 - one pass must not end the daemon; logged, and tried again
                outcome = None
                self._failures.now({"agent": fault(error)}, time.time())
                if self._metrics is not None:
                    self._metrics.record_fault(fault(error))
            failed = failed + 1 if outcome is None or outcome.failures else 0
            pulled, hooks = None, self._runner.under_way
            if pulls:
                pulled = Pulled(began, tuple(events), {**pulls[-1], **self._failures.failures}, hooks)
            self._note.passed(config, pulled, hooks)
            wait = pace.pause(config, outcome, failed, self._urgent, assignment.fetched(config.state), time.time())
            if failed and (end := self._failures.next_end(time.time())) is not None:
                # It is said when it has expired.
                wait = min(wait, end - time.time() + 0.5)
            if self._refused is not None:
                self._sleep(max(wait, _NEEDS_JOIN_PAUSE), _NEEDS_JOIN_TICK, self._joined)
            elif outcome is not None and outcome.awaited and wait > readers_seen.AGAIN:
                self._sleep(wait, readers_seen.AGAIN, functools.partial(readers_seen.changed, config, outcome.awaited))
            else:
                self._sleep(wait)

    def _alive(self) -> None:
        self._last_sign_of_life = time.monotonic()

    def _pull_pause(self) -> float:
        """Return after how many seconds a look may be made that a SIGHUP asked for; 0 or less if at once."""
        now = time.monotonic()
        return self._pull_budget.next(now) - now

    def _pulls_to_follow(self) -> list[dict[str, str]]:
        """Take the SIGHUPs that this pass follows; none while they come in a loop and must wait."""
        if not self._pulls or self._pull_pause() > 0:
            return []
        self._pull_budget = self._pull_budget.taken(time.monotonic())
        return [self._pulls.popleft() for _ in range(len(self._pulls))]

    def _read_for_hooks(self) -> None:
        """Read agent.yaml again if it has changed and a hook is owed: `renew` may have run one that is new there."""
        config = self._config
        if not state.load(config.state).owed or is_current(config):
            return
        try:
            self._config = self._load()
        except VaultpkiError as error:
            text = f"{error}; the hooks that are owed wait until it can be read"
            if text != self._unread:
                self._log(Event("config", text, "error"))
            self._unread = text
        else:
            self._log(Event("config", f"{config.file} was read again, because it has changed and a hook is owed"))

    def _pass(self, config: AgentConfig, events: list[Event], *, share: float) -> Outcome | None:
        """Make one pass; None if it ended with an error. What it did is added to `events`."""
        # Noted before the pass, since a join may come while it runs. agent.yaml was read at another time.
        used = replace(_join_files(config), agent_yaml=None)
        options = PassOptions(
            self._procedures,
            allow_http=self._allow_http,
            wait=_LOCK_WAIT,
            share=share,
            rest=self._rest,
            alive=self._alive,
        )
        # A pass that ends with an error leaves nothing to poll with.
        self._rest = None
        try:
            self._lock.hold(config)
            self._note.hold(config)
            outcome = run.run(config, options, runner=self._runner)
        except VaultpkiError as error:
            self._failures.now({"agent": str(error)}, time.time())
            self._show(config, _nothing_done(config, error))
            self._refused = used if isinstance(error, NeedsJoin) else None
            if isinstance(error, CertificateRefused):
                # Without a root that is in date, asking more often renews nothing.
                self._urgent = None
            return None
        self._rest = outcome.rest
        events.extend(outcome.events)
        self._failures.events(outcome.events)
        self._urgent = outcome.urgent
        ends = {item.want.name: item.not_after.timestamp() for item in outcome.items if item.not_after is not None}
        self._failures.holds(ends, outcome.state.owed)
        self._failures.now({what: str(error) for what, error in outcome.failures.items()}, time.time())
        self._show(config, outcome)
        needs_join = any(isinstance(error, NeedsJoin) for error in outcome.failures.values())
        self._refused = used if needs_join else None
        return outcome

    def _joined(self) -> bool:
        """Whether a join has taken place since Vault refused the credential: then its files have changed."""
        before, self._refused = self._refused, _join_files(self._config)
        if before == self._refused:
            return False
        config = self._config
        with contextlib.suppress(VaultpkiError):
            self._config = self._load()
        return self._config != config or before is None or before.secret_id != self._refused.secret_id

    def _show(self, config: AgentConfig, outcome: Outcome) -> None:
        """Report the state of the node to systemd and to the metrics server."""
        whole = outcome.first_expiry is not None and outcome.first_expiry > datetime.now(UTC)
        whole = whole and all(item.leaf is not None for item in outcome.items)
        if whole and not self._ready:
            self._ready = True
            self._notifier.ready(self._status())
        elif self._ready:
            self._notifier.status(self._status())
        if self._metrics is not None:
            self._metrics.record(config, outcome)

    def _status(self) -> str:
        failing = ", ".join(self._failures.failures)
        return f"failing: {failing}"[:200] if failing else "every certificate is in place"

    def _sleep(self, seconds: float, tick: float = _TICK, until: Callable[[], bool] = lambda: False) -> None:
        """Sleep until the time is over by either clock, something is to be done, or `until` returns true.

        `until` is asked every `tick` seconds.
        """
        began, clock = time.monotonic(), time.time() + seconds
        while (left := began + seconds - time.monotonic()) > 0:
            self._last_sign_of_life = time.monotonic()
            # The monotonic clock stands still while the machine is suspended, so the other one is read now and then.
            # Not at once: one that jumps again and again would make a pass each time.
            if self._last_sign_of_life - began >= _TICK:
                left = min(left, clock - time.time())
            if self._pulls:
                left = min(left, self._pull_pause())
            if left <= 0 or self._wake.wait(min(left, tick)) or until():
                break
        self._wake.clear()


@dataclass(frozen=True, slots=True)
class _JoinFiles:
    """Inode and change time of the two files that a join replaces; None for one that is missing or not known."""

    agent_yaml: tuple[int, int] | None
    secret_id: tuple[int, int] | None


def _join_files(config: AgentConfig) -> _JoinFiles:
    return _JoinFiles(_identity(config.file), _identity(f"{config.state}/{SECRET_ID}"))


def _identity(path: str) -> tuple[int, int] | None:
    try:
        about = os.stat(path)
    except OSError:
        return None
    return about.st_ino, about.st_mtime_ns


def _nothing_done(config: AgentConfig, error: VaultpkiError) -> Outcome:
    """The outcome of a pass that ended with an error."""
    reached = None
    if isinstance(error, Unavailable | Untrusted):
        reached = False
    elif isinstance(error, Denied | Refused):
        # A refusal proves that Vault is reachable.
        reached = True
    known = replace(state.load(config.state), state=state.state_of([error]))
    return Outcome(failures={"agent": error}, reached=reached, state=known)


def _drained(reading: socket.socket) -> bool:
    try:
        return bool(reading.recv(4096))
    except BlockingIOError:
        return False
