"""What the log says of failures: one event for each sentence, and, in the daemon, only what is new or has recovered."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from datetime import UTC, datetime
from typing import Final

from vaultpki.errors import SigningPaused, VaultpkiError
from vaultpki.host.hooks import Owed
from vaultpki.host.log import Event
from vaultpki.redact import stamp

# Events that every pass repeats as long as their cause is there.
_STANDING: Final = frozenset({"config", "stranger", "kubeconfig", "turn"})


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


class FailureLog:
    """Logs, from one pass to the next, each failure once when it is new, and once when it is over."""

    def __init__(self, log: Callable[[Event], None]) -> None:
        self._log = log
        self._standing: set[str] = set()
        self.failures: dict[str, str] = {}

    def events(self, events: Iterable[Event]) -> None:
        """Log the events of a pass, but not again those that every pass repeats."""
        events = tuple(events)
        for event in events:
            if event.name not in _STANDING or event.text not in self._standing:
                self._log(event)
        self._standing = {event.text for event in events if event.name in _STANDING}

    def now(self, failures: dict[str, str], first_expiry: datetime | None) -> None:
        """Log what differs from the failures of the last pass; `failures` are sentences by what failed."""
        new = set(failures.values()) - set(self.failures.values())
        for event in failure_events({what: text for what, text in failures.items() if text in new}):
            self._log(event)
        if new and (ends := deadline(first_expiry)):
            self._log(ends)
        well = [what for what in self.failures if what not in failures]
        if well:
            self._log(Event("recovered", f"well again: {', '.join(well)}", fields={"what": ",".join(well)}))
        self.failures = failures
