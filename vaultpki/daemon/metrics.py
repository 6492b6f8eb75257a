"""What the daemon's metrics server shows: the outcome of the last pass, and the pairs as they are on disk now."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime
from typing import Final

from vaultpki.agent import ca_trust, readers_seen
from vaultpki.agent.ca_trust import CaOnNode
from vaultpki.agent.context import Outcome
from vaultpki.agent.files_seen import FilesSeen, look_at_files
from vaultpki.agent.pairs import PairStatus
from vaultpki.daemon import metrics_server
from vaultpki.daemon.view import CertificateView, Counts, LeafView, View
from vaultpki.disk.folders import Folders
from vaultpki.errors import (
    Busy,
    CertificateRefused,
    CertificateUnreadable,
    StoreError,
    VaultError,
    VaultpkiError,
    fault,
)
from vaultpki.host.log import Event
from vaultpki.model import AgentConfig
from vaultpki.node import assignment, state
from vaultpki.node.procedures import Procedures, records_of
from vaultpki.pki.renewal import Reason

_Found = tuple[AgentConfig, FilesSeen, tuple[CaOnNode, ...]]

PAUSE: Final = 1.0
"""Seconds from the start of one inspection to the next; a caller in between gets the result of the last one."""

METRICS_PATIENCE: Final = 2.0
"""Seconds that a caller waits for an inspection."""


class DaemonMetrics:
    """The metrics server of a daemon, and the view that it shows.

    `config` returns the agent.yaml in force. `longest_pass` is how many seconds a pass may take.
    """

    def __init__(
        self,
        config: Callable[[], AgentConfig],
        procedures: Procedures,
        log: Callable[[Event], None],
        *,
        longest_pass: float,
    ) -> None:
        self._config, self._procedures, self._log, self._longest_pass = config, procedures, log, longest_pass
        self._view: View | None = None
        self._server: metrics_server.Server | None = None
        self._served: tuple[str | None, tuple[str, ...]] = None, ()
        self._error = ""
        self._signs, self._tampered, self._renewals = 0, 0, dict[str, int]()

    def serve(self) -> None:
        """Listen where agent.yaml says now; a port that is in use is logged once and tried again at each call."""
        config = self._config()
        if self._server is not None:
            if self._served == (config.metrics, config.metrics_hosts):
                return
            self._server.close()
            self._server = None
        if config.metrics is None:
            return
        self._renewals = {**_wanted(config), **self._renewals}
        watch = PairWatch(lambda: self._view, self._config, self._procedures)
        try:
            server = metrics_server.Server(
                config.metrics,
                lambda: self._view,
                self.counts,
                listed=config.metrics_hosts,
                look=watch.view,
                stale_after=self._stale_after(config),
            )
            server.start()
            self._server, self._error = server, ""
            self._served = config.metrics, config.metrics_hosts
        except VaultpkiError as error:
            if str(error) != self._error:
                self._log(Event("metrics", str(error), "error"))
            self._error = str(error)

    def counts(self) -> Counts:
        """Return what was counted, under the names of the last pass, or of agent.yaml before the first has ended."""
        named = self._view or self._config()
        return Counts(named.cluster, named.node, self._signs, self._renewals, self._tampered)

    def record_fault(self, text: str) -> None:
        """Note a pass that ended with a fault of ours: it does not count as a pass, since a restart may heal it."""
        self._view = replace(self._view, unseen=text) if self._view else None

    def record(self, config: AgentConfig, outcome: Outcome) -> None:
        """Show the outcome of a pass."""
        self._signs += outcome.requested
        self._tampered += len(outcome.mended)
        # A new mapping, because another thread may read the old one.
        names = [item.want.name for item in outcome.items] + list(outcome.renewed)
        self._renewals = {
            **self._renewals,
            **{name: self._renewals.get(name, 0) + outcome.renewed.count(name) for name in names},
        }
        self._view = self._of(config, outcome) if config.metrics is not None else None

    def _of(self, config: AgentConfig, outcome: Outcome) -> View:
        now, known, before, reached = time.time(), outcome.state, self._view, outcome.reached
        found = tuple(certificate(item, config, known) for item in outcome.items)
        seen = found or (before.certificates if before else ())
        return View(
            node=config.node,
            cluster=config.cluster,
            state=known.state,
            certificates=seen,
            hooks={name: (owed.attempts, owed.since) for name, owed in known.owed.items()},
            readers=tuple(sorted(readers_seen.behind(known))),
            trust_generation=known.trust,
            trust_changed=known.trust_since or None,
            unseen=_unseen(outcome, before),
            vault_reachable=reached if reached is not None else (before.vault_reachable if before else None),
            vault_last_ok=now if reached else (before.vault_last_ok if before else None),
            outage_left=_seconds_left(seen),
            last_pass=now,
            stale_after=self._stale_after(config),
            cas=_cas(config, known),
            ends=outcome.lives or (before.ends if before else ()),
            faults={what: fault.text for what, fault in known.faults.items()},
            poll=config.poll,
            components=tuple(sorted(name for name, seen in known.readers.items() if seen.running)),
            hook_keys=tuple(config.hooks),
            foreign=outcome.foreign,
            by_hand=known.by_hand,
            not_admitted=known.not_admitted,
            next_within=known.next_within,
            surplus=outcome.surplus or (before.surplus if before and not outcome.items else ()),
        )

    def _stale_after(self, config: AgentConfig) -> float:
        """How many seconds after a pass the agent counts as stuck."""
        return 2 * config.poll + self._longest_pass


class PairWatch:
    """The view with the pairs as they are on disk now, inspected at most once a second; for one thread to call.

    The inspection has a thread of its own, so that a disk that hangs delays no caller by more than `METRICS_PATIENCE`.
    """

    def __init__(
        self, last: Callable[[], View | None], config: Callable[[], AgentConfig], procedures: Procedures
    ) -> None:
        self._last, self._config, self._procedures = last, config, procedures
        self._assignment: assignment.Assignment | None = None
        self._began = -PAUSE
        self._thread: threading.Thread | None = None
        # What the last inspection found; a text says why nothing could be read, None that nothing is wanted yet.
        self._found: _Found | str | None = None
        self._made: tuple[View, object, View] | None = None

    def view(self) -> View | None:
        """The view as of now, or of a second ago; None before the first pass has ended."""
        view = self._last()
        if view is None:
            return None
        waits = self._thread is not None and self._thread.is_alive()
        if not waits and time.monotonic() - self._began >= PAUSE:
            self._began = time.monotonic()
            self._thread = threading.Thread(target=self._work, name="pair-watch", daemon=True)
            self._thread.start()
            self._thread.join(METRICS_PATIENCE)
            waits = self._thread.is_alive()
        if waits:
            return replace(view, unread=f"the disk has not answered for {time.monotonic() - self._began:.0f} s")
        # The same object as long as nothing is new, so that its text is made only once.
        if self._made is None or self._made[0] is not view or self._made[1] is not self._found:
            self._made = view, self._found, _with(view, self._found)
        return self._made[2]

    def _work(self) -> None:
        try:
            self._found = self._inspect(self._config())
        except (StoreError, CertificateRefused, CertificateUnreadable) as error:
            self._found = str(error)
        except Exception as error:  # noqa: BLE001 - shown to the caller; the next inspection is made all the same
            self._found = fault(error)

    def _inspect(self, config: AgentConfig) -> _Found | None:
        now = datetime.now(UTC)
        # If somebody removed the copy, what was wanted before still is.
        copy = assignment.copy(config, records_of(self._procedures))
        self._assignment = wanted = copy or self._assignment
        if wanted is None:
            return None
        known = state.load(config.state)
        trust = ca_trust.trust_of(config, wanted, known, now, self._procedures)
        with Folders.open(config.paths, create=False, write=False) as folders:
            files = look_at_files(config, folders, wanted, trust, known, now)
        return config, files, ca_trust.statuses(wanted, trust, known)


def _wanted(config: AgentConfig) -> dict[str, int]:
    """Return 0 for each certificate that this node is to hold by the copy of Vault's last answer; none before it."""
    copy = assignment.copy(config)
    return {} if copy is None else dict.fromkeys((want.name for want in copy.certificates), 0)


def _cas(config: AgentConfig, known: state.AgentState) -> tuple[CaOnNode, ...]:
    """The CAs by the copy of Vault's last answer; none before the first. Files show which ones are trusted."""
    copy = assignment.copy(config)
    return () if copy is None else ca_trust.statuses(copy, {}, known)


def certificate(item: PairStatus, config: AgentConfig, known: state.AgentState) -> CertificateView:
    """One certificate as it was inspected, with what the agent's state says of it."""
    name = item.want.name
    signed, wrong = known.certificates.get(name), known.faults.get(name)
    return CertificateView(
        name=name,
        not_after=None if item.not_after is None else item.not_after.timestamp(),
        renew_after=None if item.verdict.renew_after is None else item.verdict.renew_after.timestamp(),
        asked=item.want.ttl,
        granted=signed.granted if signed else None,
        state=item.verdict.state.value,
        last_error_time=wrong.last if wrong else None,
        leaf=_leaf(item, config),
        only_due=item.verdict.reasons == (Reason.DUE,),
    )


def _leaf(item: PairStatus, config: AgentConfig) -> LeafView | None:
    if item.leaf is None:
        return None
    return LeafView(
        path=f"{config.paths[item.want.folder]}/{item.want.stem}.crt",
        subject=item.leaf.subject.common_name,
        organization=item.leaf.subject.organization,
        issuer=item.issuer.subject.common_name if item.issuer else "",
        serial=item.leaf.serial,
        not_before=item.leaf.not_before.timestamp(),
        not_after=item.leaf.not_after.timestamp(),
    )


def _with(view: View, found: _Found | str | None) -> View:
    if found is None:
        return view
    if isinstance(found, str):
        return replace(view, unread=found)
    before = {one.name: one for one in view.certificates}
    certificates = []
    config, files, cas = found
    for item in files.items:
        fresh = certificate(item, config, state.AgentState())
        old = before.get(fresh.name, fresh)
        # What the agent's state says is as of the last pass.
        odd = files.kubeconfigs.get(fresh.name, "")
        certificates.append(replace(fresh, granted=old.granted, last_error_time=old.last_error_time, odd=odd))
    return replace(
        view,
        certificates=tuple(certificates),
        outage_left=_seconds_left(certificates),
        bundles=files.bundles,
        token_keys=files.token_keys,
        cas=cas,
    )


def _seconds_left(certificates: tuple[CertificateView, ...] | list[CertificateView]) -> float | None:
    """The seconds until the first certificate expires; None if there is none."""
    ends = [one.not_after for one in certificates if one.not_after is not None]
    return min(ends) - time.time() if ends else None


def _unseen(outcome: Outcome, before: View | None) -> str:
    """Why the pass could not read the pairs; as before if Vault was away or another process held the directory."""
    error = outcome.failures.get("agent")
    if isinstance(error, VaultError | Busy):
        return before.unseen if before else ""
    return "" if error is None else str(error)
