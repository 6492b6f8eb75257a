"""The agent that stays: pass after pass in one thread, signals and the watchdog in another, so that neither waits.

Every pass begins from what lies on the disk, so the process may end at any instant: SIGTERM ends it at once, wherever
the pass is, and the next start goes on from there.
"""

from __future__ import annotations

import random
import select
import signal
import socket
import threading
import time
from collections.abc import Callable
from datetime import UTC, datetime
from types import FrameType
from typing import TYPE_CHECKING, Final

from vaultpki import agent, brakes, hooks
from vaultpki.agent import Outcome
from vaultpki.errors import NeedsJoin, VaultpkiError
from vaultpki.log import Event
from vaultpki.model import AgentConfig
from vaultpki.systemd import Notifier

if TYPE_CHECKING:
    from vaultpki import metrics

# A pass that has not ended by then hangs: systemd's watchdog may end the process.
_LONGEST_PASS: Final = 600.0
_TICK: Final = 30.0
_LOCK_WAIT: Final = 10.0


def stay(
    config: AgentConfig,
    *,
    load: Callable[[], AgentConfig],
    tell: Callable[[Event], None],
    allow_http: bool = False,
) -> None:
    """Renews until SIGTERM or SIGINT; SIGHUP calls `load` for what agent.yaml says now. Returns once it shall end.

    `load` raises a VaultpkiError for a file that is wrong: it is told, and what was read before goes on. Only for the
    main thread. What still runs when this returns may be ended with the process.
    """
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
        self._asked: set[int] = set()
        self._beat = time.monotonic()
        self._told: dict[str, str] = {}
        self._noticed: set[str] = set()
        self._ready = False
        self._view: metrics.View | None = None
        self._metrics: metrics.Server | None = None
        self._counts: dict[str, int] = {}

    # The thread that listens

    def stay(self) -> None:
        heard, said = socket.socketpair()
        for end in (heard, said):
            end.setblocking(False)
        # Python runs a handler only between two steps of the main thread; the byte wakes it out of select.
        signal.set_wakeup_fd(said.fileno(), warn_on_full_buffer=False)
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
            signal.signal(number, self._on_signal)
        self._tell(Event("started", f"{self._config.node} of {self._config.cluster}: the agent has started"))
        self._serve_metrics()
        worker = threading.Thread(target=self._work, daemon=True)
        worker.start()
        while not self._asked & {signal.SIGTERM, signal.SIGINT}:
            select.select([heard], [], [], min(self._notifier.interval or _TICK, _TICK))
            while _drained(heard):
                pass
            if signal.SIGHUP in self._asked:
                self._asked.discard(signal.SIGHUP)
                self._reload()
            if worker.is_alive() and time.monotonic() - self._beat < _LONGEST_PASS:
                self._notifier.watchdog()
        self._notifier.stopping()
        self._runner.stop()
        self._tell(Event("stopped", "the agent ends; the files stay as they are"))

    def _on_signal(self, number: int, frame: FrameType | None) -> None:
        self._asked.add(number)

    def _reload(self) -> None:
        self._notifier.reloading()
        if self._reread():
            self._serve_metrics()
        self._notifier.ready(self._status())
        self._wake.set()

    def _reread(self) -> bool:
        """Takes what agent.yaml says now; False, and told, where it is wrong."""
        try:
            self._config = self._load()
        except VaultpkiError as error:
            self._tell(Event("config", f"{error}; what was read before goes on", "error"))
            return False
        self._tell(Event("config", f"{self._config.file} was read again"))
        return True

    def _serve_metrics(self) -> None:
        address = self._config.metrics
        if self._metrics is not None:
            if self._metrics.address == address:
                return
            self._metrics.close()
            self._metrics = None
        if address is None:
            return
        from vaultpki import metrics

        try:
            self._metrics = metrics.Server(address, lambda: self._view)
            self._metrics.start()
        except VaultpkiError as error:
            self._metrics = None
            self._tell(Event("metrics", str(error), "error"))

    # The thread that works

    def _work(self) -> None:
        failed = 0
        while True:
            self._beat = time.monotonic()
            config = self._config
            try:
                outcome = self._pass(config)
            except Exception as error:  # noqa: BLE001 - the agent never dies of one pass; told, and tried again
                # A traceback's lines may quote what a server or a file said, so only its kind is told.
                outcome = None
                self._say({"agent": f"a fault of vaultpki itself ({type(error).__name__}); please report it"}, None)
            failed = failed + 1 if outcome is None or outcome.failures else 0
            self._sleep(_wait(config, outcome, failed))

    def _pass(self, config: AgentConfig) -> Outcome | None:
        try:
            outcome = agent.run(
                config,
                allow_http=self._allow_http,
                runner=self._runner,
                wait=_LOCK_WAIT,
                share=agent.RESIDENT_SHARE,
            )
        except VaultpkiError as error:
            self._say({"agent": str(error)}, None)
            if isinstance(error, NeedsJoin):
                self._reread_after_join()
            return None
        for event in outcome.events:
            # What agent.yaml says amiss is told again by each pass.
            if event.name != "config" or event.text not in self._noticed:
                self._tell(event)
        self._noticed = {event.text for event in outcome.events if event.name == "config"}
        self._say({what: str(error) for what, error in outcome.failures.items()}, outcome)
        for name in outcome.renewed:
            self._counts[name] = self._counts.get(name, 0) + 1
        self._see(config, outcome)
        if any(isinstance(error, NeedsJoin) for error in outcome.failures.values()):
            self._reread_after_join()
        return outcome

    def _reread_after_join(self) -> None:
        """A new join may have brought another role id into agent.yaml."""
        try:
            config = self._load()
        except VaultpkiError:
            return
        if config != self._config:
            self._config = config
            self._wake.set()

    def _say(self, failures: dict[str, str], outcome: Outcome | None) -> None:
        """Tells what is wrong now and was not before, once, and what is well again."""
        new = {text for what, text in failures.items() if self._told.get(what) != text}
        for event in agent.told({what: text for what, text in failures.items() if text in new}):
            self._tell(event)
        if new and outcome is not None and (deadline := agent.deadline(outcome)):
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
        if config.metrics is not None:
            self._view = _view(config, outcome, self._view, self._counts)

    def _status(self) -> str:
        return f"failing: {', '.join(self._told)}"[:200] if self._told else "every certificate is in place"

    def _sleep(self, seconds: float) -> None:
        """Until the time is over by the machine's clock or its ticks, or there is something to do."""
        ticks, clock = time.monotonic() + seconds, time.time() + seconds
        while (left := min(ticks - time.monotonic(), clock - time.time())) > 0:
            # A machine that was suspended counts no ticks meanwhile, so the clock is looked at now and then.
            self._beat = time.monotonic()
            if self._wake.wait(min(left, _TICK)):
                break
        self._wake.clear()


def _wait(config: AgentConfig, outcome: Outcome | None, failed: int) -> float:
    """Seconds until the next pass."""
    now = time.time()
    # Not all nodes of a cluster at the same moment, and each within the interval that was promised.
    wait = config.poll * random.uniform(agent.RESIDENT_SHARE + 0.05, 1.0)  # noqa: S311 - jitter, not a secret
    if outcome is None:
        return min(wait, brakes.pause(failed, config.poll, None) * random.uniform(0.8, 1.2))  # noqa: S311
    if outcome.failures:
        left = None if outcome.dies is None else outcome.dies.timestamp() - now
        wait = min(wait, brakes.pause(failed, config.poll, left) * random.uniform(0.8, 1.2))  # noqa: S311
    elif outcome.due is not None:
        wait = min(wait, max(outcome.due.timestamp() - now, 0.0) + 0.5)
    if outcome.again is not None:
        wait = min(wait, max(outcome.again - now, 0.0) + 0.5)
    return wait


def _view(config: AgentConfig, outcome: Outcome, before: metrics.View | None, counts: dict[str, int]) -> metrics.View:
    from vaultpki import metrics

    now, known = time.time(), outcome.memory
    seen = tuple(
        metrics.CertificateView(
            name=item.want.name,
            not_after=None if item.not_after is None else item.not_after.timestamp(),
            renew_after=None if item.verdict.renew_after is None else item.verdict.renew_after.timestamp(),
            asked=item.want.ttl,
            granted=known.certificates[item.want.name].granted if item.want.name in known.certificates else None,
            state=item.verdict.state.value,
            last_error=known.faults[item.want.name].text if item.want.name in known.faults else "",
            last_error_time=known.faults[item.want.name].last if item.want.name in known.faults else None,
        )
        for item in outcome.items
    ) or (before.certificates if before else ())
    reached = outcome.reached
    return metrics.View(
        node=config.node,
        cluster=config.cluster,
        state=known.state,
        certificates=seen,
        hooks={name: (owed.attempts, owed.since, owed.error) for name, owed in known.owed.items()},
        trust_generation=known.trust,
        trust_changed=known.trust_since or None,
        vault_reachable=reached if reached is not None else (before.vault_reachable if before else False),
        vault_last_ok=now if reached else (before.vault_last_ok if before else None),
        outage_left=None if outcome.dies is None else outcome.dies.timestamp() - now,
        signs_total=sum(counts.values()),
        renewals_total=dict(counts),
        last_pass=now,
    )


def _drained(heard: socket.socket) -> bool:
    try:
        return bool(heard.recv(4096))
    except BlockingIOError:
        return False
