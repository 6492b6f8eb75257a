"""A look at a node's pairs for those who ask how it is: at what lies there now, at most once a second.

It is made in a thread of its own, so that a disk that does not answer holds nobody up for longer than `PATIENCE`.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime
from typing import Final

from vaultpki import footprint, holding, issuance, memory, pairs
from vaultpki.errors import CertificateRefused, CertificateUnreadable, StoreError, fault
from vaultpki.metrics import CertificateView, View
from vaultpki.model import AgentConfig
from vaultpki.pairs import Item
from vaultpki.store import Directory

PAUSE: Final = 1.0
"""Seconds from the beginning of one look to that of the next; who asks meanwhile is told what the last one saw."""

PATIENCE: Final = 2.0
"""Seconds that whoever asks waits for a look."""


class Glance:
    """`look` is what `view` hands out, with the certificates as they lie there; for one thread to call.

    `config` gives the agent.yaml in force.
    """

    def __init__(self, view: Callable[[], View | None], config: Callable[[], AgentConfig]) -> None:
        self._view, self._config = view, config
        self._spec: holding.Holding | None = None
        self._began = -PAUSE
        self._thread: threading.Thread | None = None
        # What the last look saw; a text says why nothing was seen, None that nothing is known to look for.
        self._seen: tuple[Item, ...] | str | None = None
        self._shown: tuple[View, object, View] | None = None

    def look(self) -> View | None:
        """The view as of now, or of a second ago; None before the first pass has ended."""
        view = self._view()
        if view is None:
            return None
        waited = self._thread is not None and self._thread.is_alive()
        if not waited and time.monotonic() - self._began >= PAUSE:
            self._began = time.monotonic()
            self._thread = threading.Thread(target=self._work, name="glance", daemon=True)
            self._thread.start()
            self._thread.join(PATIENCE)
            waited = self._thread.is_alive()
        if waited:
            return replace(view, unread=f"the disk has not answered for {time.monotonic() - self._began:.0f} s")
        # The same value as long as nothing is new, so that nobody makes anything of it twice.
        if self._shown is None or self._shown[0] is not view or self._shown[1] is not self._seen:
            self._shown = view, self._seen, _with(view, self._seen)
        return self._shown[2]

    def _work(self) -> None:
        try:
            self._seen = self._items(self._config())
        except (StoreError, CertificateRefused, CertificateUnreadable) as error:
            self._seen = str(error)
        except Exception as error:  # noqa: BLE001 - told to whoever asks; the next look is made all the same
            self._seen = fault(error)
        footprint.give_back()

    def _items(self, config: AgentConfig) -> tuple[Item, ...] | None:
        now = datetime.now(UTC)
        # What is wanted is known from before where somebody took the copy away.
        self._spec = spec = holding.copy(config) or self._spec
        if spec is None:
            return None
        issuers = issuance.Issuers(spec.issuing, spec.roots)
        trust = issuance.trusts(issuers, config.root_sha256, now, cluster=config.cluster)
        with Directory.open(config.directory, create=False, write=False) as directory:
            return pairs.look(config, directory, spec.certificates, trust, memory.load(config.state), now)


def certificate(item: Item, known: memory.Memory) -> CertificateView:
    """One certificate as a look or a pass found it, beside what is remembered of it."""
    name = item.want.name
    signed, wrong = known.certificates.get(name), known.faults.get(name)
    return CertificateView(
        name=name,
        not_after=None if item.not_after is None else item.not_after.timestamp(),
        renew_after=None if item.verdict.renew_after is None else item.verdict.renew_after.timestamp(),
        asked=item.want.ttl,
        granted=signed.granted if signed else None,
        state=item.verdict.state.value,
        last_error=wrong.text if wrong else "",
        last_error_time=wrong.last if wrong else None,
    )


def _with(view: View, seen: tuple[Item, ...] | str | None) -> View:
    if seen is None:
        return view
    if isinstance(seen, str):
        return replace(view, unread=seen)
    before = {one.name: one for one in view.certificates}
    found = []
    for fresh in (certificate(item, memory.Memory()) for item in seen):
        old = before.get(fresh.name, fresh)
        found.append(
            replace(old, not_after=fresh.not_after, renew_after=fresh.renew_after, asked=fresh.asked, state=fresh.state)
        )
    ends = [one.not_after for one in found if one.not_after is not None]
    return replace(view, certificates=tuple(found), outage_left=min(ends) - time.time() if ends else None)
