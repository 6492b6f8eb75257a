"""The agent that stays: pass after pass in one thread, signals and the watchdog in another, so that neither waits.

Every pass begins from what lies on the disk, so the process may end at any instant: SIGTERM ends it at once, wherever
the pass is, and the next start goes on from there.
"""

from __future__ import annotations

import contextlib
import os
import random
import select
import signal
import socket
import threading
import time
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime
from types import FrameType
from typing import TYPE_CHECKING, Final

from vaultpki import agent, brakes, files, footprint, holding, hooks, memory
from vaultpki.errors import Busy, Denied, NeedsJoin, Refused, Unavailable, Untrusted, VaultError, VaultpkiError, fault
from vaultpki.log import Event
from vaultpki.model import AgentConfig
from vaultpki.passing import Outcome
from vaultpki.residence import Residence
from vaultpki.systemd import Notifier
from vaultpki.values import dataclass

if TYPE_CHECKING:
    from vaultpki import metrics

# A pass that has not ended by then hangs: systemd's watchdog may end the process.
_LONGEST_PASS: Final = 600.0
_TICK: Final = 30.0
_LOCK_WAIT: Final = 10.0
# After five logins within 15 minutes that it turned down Vault locks an AppRole out for 15 minutes more, and a new join
# file with it, unless the mount is told otherwise as apply does (user lockout, api-docs/system/user-lockout).
_NEEDS_JOIN_PAUSE: Final = 300.0
_NEEDS_JOIN_TICK: Final = 2.0
# What each pass tells again as long as it is so.
_STANDING: Final = frozenset({"config", "stranger"})


def stay(
    config: AgentConfig,
    *,
    load: Callable[[], AgentConfig],
    tell: Callable[[Event], None],
    allow_http: bool = False,
) -> None:
    """Renews until SIGTERM or SIGINT; SIGHUP calls `load` for what agent.yaml says now. Returns once it shall end.

    Busy where another agent that stays holds the same directory or state folder, StoreError where others could exchange
    one of these; both before anything is done. `load` raises a VaultpkiError for a file that is wrong: it is told, and
    what was read before goes on. Only for the main thread. What still runs when this returns may be ended with the
    process.
    """
    for path in (config.state, config.directory):
        files.refuse_unsafe_way(path)
    _Resident(config, load, tell, allow_http=allow_http).stay()


class _Resident:
    def __init__(
        self,
        config: AgentConfig,
        load: Callable[[], AgentConfig],
        tell: Callable[[Event], None],
        *,
        allow_http: bool,
    ) -> None:
        self._config, self._load, self._tell = config, load, tell
        self._allow_http = allow_http
        self._notifier = Notifier()
        self._wake = threading.Event()
        self._runner = hooks.Runner(done=self._wake.set)
        self._residence = Residence()
        self._asked: set[int] = set()
        self._beat = time.monotonic()
        self._told: dict[str, str] = {}
        self._noticed: set[str] = set()
        self._ready = False
        self._refused: _Credential | None = None
        self._view: metrics.View | None = None
        self._metrics: metrics.Server | None = None
        self._unserved = ""
        self._dies: datetime | None = None
        self._counts: dict[str, int] = {}
        self._signs = 0

    # The thread that listens

    def stay(self) -> None:
        heard, said = socket.socketpair()
        for end in (heard, said):
            end.setblocking(False)
        # Python runs a handler only between two steps of the main thread; the byte wakes it out of select.
        signal.set_wakeup_fd(said.fileno(), warn_on_full_buffer=False)
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
            signal.signal(number, self._on_signal)
        self._residence.hold(self._config)
        self._tell(Event("started", f"{self._config.node} of {self._config.cluster}: the agent has started"))
        worker = threading.Thread(target=self._work, daemon=True)
        worker.start()
        self._serve_metrics()
        while not self._asked & {signal.SIGTERM, signal.SIGINT}:
            select.select([heard], [], [], min(self._notifier.interval or _TICK, _TICK))
            while _drained(heard):
                pass
            if signal.SIGHUP in self._asked:
                self._asked.discard(signal.SIGHUP)
                self._reload()
            self._serve_metrics()
            if worker.is_alive() and time.monotonic() - self._beat < _LONGEST_PASS:
                self._notifier.watchdog()
        self._notifier.stopping()
        self._runner.stop()
        self._tell(Event("stopped", "the agent ends; the files stay as they are"))

    def _on_signal(self, number: int, frame: FrameType | None) -> None:
        self._asked.add(number)

    def _reload(self) -> None:
        if self._ready:
            self._notifier.reloading()
        self._reread()
        if self._ready:
            self._notifier.ready(self._status())
        self._wake.set()

    def _reread(self) -> None:
        """Takes what agent.yaml says now; where it is wrong that is told, and what was read before goes on."""
        try:
            self._config = self._load()
        except VaultpkiError as error:
            self._tell(Event("config", f"{error}; what was read before goes on", "error"))
        else:
            self._tell(Event("config", f"{self._config.file} was read again"))

    def _serve_metrics(self) -> None:
        """Listens where agent.yaml says now; a port that is taken is told once and tried again at each call."""
        address = self._config.metrics
        if self._metrics is not None:
            if self._metrics.address == address:
                return
            self._metrics.close()
            self._metrics = None
        if address is None:
            return
        from vaultpki import glance, metrics

        look = glance.Glance(lambda: self._view, lambda: self._config).look
        try:
            server = metrics.Server(address, lambda: self._view, look=look, stale_after=_stale_after(self._config))
            server.start()
            self._metrics, self._unserved = server, ""
        except VaultpkiError as error:
            if str(error) != self._unserved:
                self._tell(Event("metrics", str(error), "error"))
            self._unserved = str(error)

    # The thread that works

    def _work(self) -> None:
        failed, first = 0, True
        while True:
            self._beat = time.monotonic()
            config = self._config
            try:
                outcome = self._pass(config)
            except Exception as error:  # noqa: BLE001 - the agent never dies of one pass; told, and tried again
                outcome = None
                self._say({"agent": fault(error)})
                # Not a pass for whoever asks when the last one ended: a fault may be one that a restart heals.
                self._view = replace(self._view, unseen=fault(error)) if self._view else None
            failed = failed + 1 if outcome is None or outcome.failures else 0
            if first:
                footprint.settle()
                first = False
            footprint.give_back()
            asked = holding.stamp(config.state)
            wait = _wait(config, outcome, failed, self._dies, asked[0] if asked else None)
            if self._refused is None:
                self._sleep(wait)
            else:
                self._sleep(max(wait, _NEEDS_JOIN_PAUSE), until=self._joined)

    def _pass(self, config: AgentConfig) -> Outcome | None:
        # A join may come while the pass runs. What is in force of agent.yaml was read at another time.
        used = replace(_credential(config), file=None)
        shown = self._view is not None and bool(self._view.certificates) and not self._view.unseen
        try:
            self._residence.hold(config)
            outcome = agent.run(
                config,
                allow_http=self._allow_http,
                runner=self._runner,
                wait=_LOCK_WAIT,
                share=agent.RESIDENT_SHARE,
                look=config.metrics is not None and not shown,
            )
        except VaultpkiError as error:
            self._say({"agent": str(error)})
            self._see(config, _nothing_done(config, error))
            self._refused = used if isinstance(error, NeedsJoin) else None
            return None
        for event in outcome.events:
            if event.name not in _STANDING or event.text not in self._noticed:
                self._tell(event)
        self._noticed = {event.text for event in outcome.events if event.name in _STANDING}
        self._dies = outcome.dies
        self._say({what: str(error) for what, error in outcome.failures.items()})
        self._signs += outcome.asked
        for name in outcome.renewed:
            self._counts[name] = self._counts.get(name, 0) + 1
        self._see(config, outcome)
        needs_join = any(isinstance(error, NeedsJoin) for error in outcome.failures.values())
        self._refused = used if needs_join else None
        return outcome

    def _joined(self) -> bool:
        """Whether a join has been here since, or before and unnoticed: then agent.yaml has another role id."""
        before, self._refused = self._refused, _credential(self._config)
        if before == self._refused:
            return False
        config = self._config
        with contextlib.suppress(VaultpkiError):
            self._config = self._load()
        return self._config != config or before is None or before.secret_id != self._refused.secret_id

    def _say(self, failures: dict[str, str]) -> None:
        """Tells what is wrong now and was not before, once, and what is well again."""
        new = set(failures.values()) - set(self._told.values())
        for event in agent.told({what: text for what, text in failures.items() if text in new}):
            self._tell(event)
        if new and (deadline := agent.deadline(self._dies)):
            self._tell(deadline)
        well = [what for what in self._told if what not in failures]
        if well:
            self._tell(Event("recovered", f"well again: {', '.join(well)}", fields={"what": ",".join(well)}))
        self._told = failures

    def _see(self, config: AgentConfig, outcome: Outcome) -> None:
        whole = outcome.dies is not None and outcome.dies > datetime.now(UTC)
        whole = whole and all(item.leaf is not None for item in outcome.items)
        if whole and not self._ready:
            self._ready = True
            self._notifier.ready(self._status())
        elif self._ready:
            self._notifier.status(self._status())
        shown = config.metrics is not None
        self._view = _view(config, outcome, self._view, self._counts, self._signs) if shown else None

    def _status(self) -> str:
        return f"failing: {', '.join(self._told)}"[:200] if self._told else "every certificate is in place"

    def _sleep(self, seconds: float, until: Callable[[], bool] | None = None) -> None:
        """Until the time is over by the machine's clock or its ticks, or there is something to do, or `until` says."""
        ticks, clock = time.monotonic() + seconds, time.time() + seconds
        while (left := min(ticks - time.monotonic(), clock - time.time())) > 0:
            # A machine that was suspended counts no ticks meanwhile, so the clock is looked at now and then.
            self._beat = time.monotonic()
            if (until and until()) or self._wake.wait(min(left, _NEEDS_JOIN_TICK if until else _TICK)):
                break
        self._wake.clear()


@dataclass(frozen=True, slots=True)
class _Credential:
    """How the two files that a join replaces lay there: inode and time; None for one that is missing or not known."""

    file: tuple[int, int] | None
    secret_id: tuple[int, int] | None


def _credential(config: AgentConfig) -> _Credential:
    from vaultpki.credential import SECRET_ID

    return _Credential(_lying(config.file), _lying(f"{config.state}/{SECRET_ID}"))


def _lying(path: str) -> tuple[int, int] | None:
    try:
        about = os.stat(path)
    except OSError:
        return None
    return about.st_ino, about.st_mtime_ns


def _nothing_done(config: AgentConfig, error: VaultpkiError) -> Outcome:
    """A pass that ended with an error, for those who look on."""
    known = replace(memory.load(config.state), state=memory.state_of([error]))
    return Outcome(failures={"agent": error}, reached=_reached(error), memory=known)


def _reached(error: VaultpkiError) -> bool | None:
    """Whether Vault answered in a pass that ended so; None where nobody asked."""
    if isinstance(error, Unavailable | Untrusted):
        return False
    # Who turns a request down is there.
    return True if isinstance(error, Denied | Refused) else None


def _wait(
    config: AgentConfig, outcome: Outcome | None, failed: int, dies: datetime | None, asked: float | None
) -> float:
    """Seconds until the next pass. `asked` is when Vault last said what this node holds, as Unix time."""
    now = time.time()
    # Not all nodes of a cluster at the same moment, and each within the interval that was promised.
    wait = config.poll * random.uniform(agent.RESIDENT_SHARE + 0.05, 1.0)  # noqa: S311 - jitter, not a secret
    if asked is not None and outcome is not None and "vault" not in outcome.failures:
        # Not from now on: a hook that ended may have called for this pass, and Vault was not asked in it. Never at
        # once, lest a Vault that takes a whole interval to answer is asked without end.
        wait = min(wait, max(asked + wait - now, config.poll / 10))
    if outcome is None or outcome.failures:
        left = None if dies is None else dies.timestamp() - now
        wait = min(wait, brakes.pause(failed, config.poll, left) * random.uniform(0.8, 1.2))  # noqa: S311
    if outcome is None:
        return wait
    # What still wants signing after the pass has failed, or is held back; all else may have come due meanwhile.
    moments = [item.verdict.renew_after for item in outcome.items if not item.verdict.sign]
    moments += [] if outcome.items else [outcome.due]
    coming = [when.timestamp() for when in moments if when is not None]
    coming += [outcome.again] if outcome.again is not None else []
    return min([wait, *(max(when - now, 0.0) + 0.5 for when in coming)])


def _view(
    config: AgentConfig, outcome: Outcome, before: metrics.View | None, counts: dict[str, int], signs: int
) -> metrics.View:
    from vaultpki import glance, metrics

    now, known = time.time(), outcome.memory
    seen = tuple(glance.certificate(item, known) for item in outcome.items) or (before.certificates if before else ())
    reached, ends = outcome.reached, [one.not_after for one in seen if one.not_after is not None]
    return metrics.View(
        node=config.node,
        cluster=config.cluster,
        state=known.state,
        certificates=seen,
        hooks={name: (owed.attempts, owed.since, owed.error) for name, owed in known.owed.items()},
        trust_generation=known.trust,
        trust_changed=known.trust_since or None,
        unseen=_unseen(outcome, before),
        vault_reachable=reached if reached is not None else (before.vault_reachable if before else None),
        vault_last_ok=now if reached else (before.vault_last_ok if before else None),
        outage_left=min(ends) - now if ends else None,
        signs_total=signs,
        renewals_total=dict(counts),
        last_pass=now,
        stale_after=_stale_after(config),
    )


def _stale_after(config: AgentConfig) -> float:
    """How many seconds after a pass the agent counts as stuck."""
    return 2 * config.poll + _LONGEST_PASS


def _unseen(outcome: Outcome, before: metrics.View | None) -> str:
    """Why the pass was broken off; as before where that was for want of Vault, or another process is at the files."""
    error = outcome.failures.get("agent")
    if isinstance(error, VaultError | Busy):
        return before.unseen if before else ""
    return "" if error is None else str(error)


def _drained(heard: socket.socket) -> bool:
    try:
        return bool(heard.recv(4096))
    except BlockingIOError:
        return False
