"""What the log says of failures: one event for each sentence; in the daemon what is new, recovered, or stays wrong."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Final

from vaultpki.errors import SigningPaused, VaultpkiError
from vaultpki.host.hooks import Owed
from vaultpki.host.log import Event, Value
from vaultpki.redact import first_few, stamp
from vaultpki.values.durations import short_span

# Events that every pass repeats as long as their cause is there.
_STANDING: Final = frozenset({"config", "stranger", "foreign-ca", "kubeconfig", "turn", "by-hand"})
# Seconds until what stays wrong is said again.
_AGAIN: Final = 86400.0
_MOST_NAMES: Final = 20
_MOST_SENTENCES: Final = 3


def failure_events(failures: Mapping[str, str]) -> list[Event]:
    """Return one event for each different sentence in `failures`, with the names of all that failed so."""
    names: dict[str, list[str]] = {}
    for what, text in failures.items():
        names.setdefault(text, []).append(what)
    events = []
    for text, failed in names.items():
        alone = failed == ["agent"] or text.startswith(f"{failed[0]}: ")
        said = text if alone else f"{', '.join(failed)}: {text}"
        events.append(Event("failed", said, "error", {"what": ",".join(failed)}))
    return events


def owed_hook_events(owed: Mapping[str, Owed]) -> list[Event]:
    """Return one event for each key whose hooks are owed: which hook failed and why."""
    events = []
    for key, each in owed.items():
        why = f"{each.error}; " if each.error else ""
        text = f"{why}the hooks of {key} are still owed, and the next run tries them again"
        events.append(Event("hook-failed", text, "warning", {"hook": key, "attempts": each.attempts}))
    return events


def paused(failures: Mapping[str, VaultpkiError]) -> Event | None:
    """Return when what failed is asked for again, and how a person asks now; None if nothing waits."""
    waits = {name: error.at for name, error in failures.items() if isinstance(error, SigningPaused)}
    if not waits:
        return None
    again = stamp(datetime.fromtimestamp(min(waits.values()), UTC))
    text = f"Vault is not asked again for {', '.join(waits)} before {again}, so that no fault becomes a loop"
    return Event("paused", f"{text}; `vaultpki renew NAME` asks now", "warning", {"what": ",".join(waits)})


def deadline(first_expiry: datetime | None) -> Event | None:
    """By when what fails must be mended: when the first certificate expires; None if there is none."""
    if first_expiry is None:
        return None
    ends = stamp(first_expiry)
    return Event("deadline", f"the first certificate here ends at {ends}", "warning", {"not_after": ends})


@dataclass(frozen=True, slots=True)
class Wrong:
    """What is wrong after a pass: sentences by what failed, standing warnings, hooks that failed, expired certificates.

    `first_end` is when the next certificate expires (Unix seconds), None if no other one is held.
    """

    failures: Mapping[str, str]
    warnings: tuple[str, ...] = ()
    hooks: tuple[str, ...] = ()
    expired: tuple[str, ...] = ()
    first_end: float | None = None

    def __bool__(self) -> bool:
        return bool(self.failures or self.warnings or self.hooks or self.expired)


def reminder(wrong: Wrong, since: float, now: float) -> Event:
    """Return the one line that says again what is wrong, `since` when (Unix seconds)."""
    sentences = [event.text for event in failure_events(wrong.failures)] + list(wrong.warnings)
    parts = [f"still wrong after {short_span(timedelta(seconds=max(now - since, 0.0)))}"]
    if wrong.expired:
        parts.append(f"expired: {first_few(wrong.expired, _MOST_NAMES)}")
    parts += sentences[:_MOST_SENTENCES]
    if more := sentences[_MOST_SENTENCES:]:
        parts.append(f"{len(more)} more, which `vaultpki status` shows")
    if wrong.hooks:
        parts.append(f"hooks that fail: {first_few(wrong.hooks, _MOST_NAMES)}")
    if wrong.first_end is not None:
        another = "next" if wrong.expired else "first"
        parts.append(f"the {another} certificate here ends at {stamp(datetime.fromtimestamp(wrong.first_end, UTC))}")
    fields: dict[str, Value] = {
        "what": ",".join(wrong.failures),
        "expired": ",".join(wrong.expired),
        "since": stamp(datetime.fromtimestamp(since, UTC)),
    }
    return Event("still-wrong", "; ".join(parts), "error", fields)


class FailureLog:
    """Logs, from one pass to the next, each failure once when it is new, and once when it is over.

    What stays wrong is said again in one line once a day, and when a certificate expires meanwhile.
    """

    def __init__(self, log: Callable[[Event], None]) -> None:
        self._log = log
        self._standing: tuple[Event, ...] = ()
        self._hooks: tuple[str, ...] = ()
        self._ends: Mapping[str, float] = {}
        self._expired: frozenset[str] = frozenset()
        # Since when something is wrong, and when all of it was last said.
        self._since: float | None = None
        self._said = 0.0
        self.failures: dict[str, str] = {}

    def events(self, events: Iterable[Event]) -> None:
        """Log the events of a pass, but not again those that every pass repeats."""
        events, known = tuple(events), {event.text for event in self._standing}
        for event in events:
            if event.name not in _STANDING or event.text not in known:
                self._log(event)
        self._standing = tuple(event for event in events if event.name in _STANDING)

    def holds(self, ends: Mapping[str, float], owed: Mapping[str, Owed]) -> None:
        """Note when each certificate of the node expires (Unix seconds), and which hooks are owed, after a pass."""
        self._ends, self._hooks = ends, tuple(sorted(key for key, each in owed.items() if each.attempts))

    def now(self, failures: dict[str, str], now: float) -> None:
        """Log what differs from the failures of the last pass, and what is due to be said again.

        `failures` are sentences by what failed, `now` is Unix time in seconds.
        """
        new = set(failures.values()) - set(self.failures.values())
        for event in failure_events({what: text for what, text in failures.items() if text in new}):
            self._log(event)
        first = min(self._ends.values(), default=None)
        if new and (ends := deadline(None if first is None else datetime.fromtimestamp(first, UTC))):
            self._log(ends)
        well = [what for what in self.failures if what not in failures]
        if well:
            self._log(Event("recovered", f"well again: {', '.join(well)}", fields={"what": ",".join(well)}))
        self.failures = failures
        self._remind(now)

    def next_end(self, now: float) -> float | None:
        """Return when the next certificate expires, as Unix time; None if none is to expire."""
        return min((end for end in self._ends.values() if end > now), default=None)

    def _remind(self, now: float) -> None:
        expired = frozenset(name for name, end in self._ends.items() if end <= now)
        fresh, self._expired = expired - self._expired, expired
        warnings = tuple(event.text for event in self._standing if event.level != "info")
        wrong = Wrong(self.failures, warnings, self._hooks, tuple(sorted(expired)), self.next_end(now))
        if not wrong:
            self._since = None
        elif self._since is None:
            # What is new was said just now.
            self._since = self._said = now
        elif fresh or not 0 <= now - self._said < _AGAIN:
            self._said = now
            self._log(reminder(wrong, self._since, now))
