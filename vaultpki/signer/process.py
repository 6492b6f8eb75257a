"""The signer that stays: one list and watch of requests, four workers, the Lease, and the orders from Vault.

Nothing is kept on disk but the secret id: a signer that is killed leaves requests as they are, and the next one answers
them.
"""

from __future__ import annotations

import heapq
import signal
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Final

from vaultpki.csr_roles import SignerFacts
from vaultpki.errors import Denied, StateConflict, VaultpkiError, fault
from vaultpki.host.log import Event
from vaultpki.host.systemd import Notifier
from vaultpki.kube import kubeconfig
from vaultpki.kube.objects import metadata, text
from vaultpki.model import AgentConfig
from vaultpki.signer import lease
from vaultpki.signer.brakes import Key
from vaultpki.signer.known import KnownRequest, KnownRequests
from vaultpki.signer.lease import Leadership
from vaultpki.signer.requests import WAITS_LONG
from vaultpki.signer.requests_api import RequestsApi, Stale
from vaultpki.signer.rules import BrokenRule
from vaultpki.signer.seen import LiveLook, NodesSeen
from vaultpki.signer.session import LOOK_SECONDS, NO_FACTS, Orders, VaultSession
from vaultpki.signer.work import Answerer, Later

# That of the table's row, beside its pair.
_KUBECONFIG: Final = "signer.conf"

WORKERS: Final = 4
_FIRST_PAUSE: Final = 0.5
_LONGEST_PAUSE: Final = 60.0
_TICK: Final = 1.0
_MOST_DOUBLINGS: Final = 7


@dataclass(frozen=True, slots=True)
class SignerView:
    """What a signer shows of itself: times are seconds, and `troubles` are sentences by the part that fails.

    `oldest` is for how long the oldest approved request waits; None without one. `braked` counts what brakes hold.
    `ends` are sentences on what of its own ends, its certificate or its secret id.
    """

    cluster: str
    node: str
    leads: bool
    silent: str
    waiting: int
    braked: int
    oldest: float | None
    signed: dict[str, int]
    refused: dict[tuple[str, str], int]
    troubles: dict[str, str]
    ends: tuple[str, ...] = ()

    @property
    def problems(self) -> list[str]:
        """What is wrong, as sentences."""
        found = [*self.troubles.values(), *self.ends]
        late = timedelta(seconds=self.oldest or 0.0) > WAITS_LONG
        if self.leads and not self.silent and self.waiting > self.braked and late:
            found.append(f"an approved request has waited for {self.oldest:.0f} s")
        return found


@dataclass(frozen=True, slots=True)
class Planned:
    """A request that waits: how often it has failed in a row, and the brakes that hold it."""

    failed: int = 0
    keys: tuple[Key, ...] = ()


class SignerProcess:
    """The signer of a signer.yaml, which logs each event."""

    def __init__(self, config: AgentConfig, log: Callable[[Event], None], *, allow_http: bool) -> None:
        self._log = log
        self._session, self._api, self._known, self._answerer = _parts(config, log, allow_http=allow_http)
        self._leadership = Leadership(config.node)
        self._changed = threading.Condition()
        self._stopped = threading.Event()
        # When it is due, when it was made, and its name.
        self._due: list[tuple[float, float, str]] = []
        self._planned: dict[str, Planned] = {}
        self._working: set[str] = set()
        self._again: set[str] = set()
        self._busy: set[str] = set()
        self._orders = Orders(None, "it has not read its orders yet")
        self._listed = self._barred = False
        self._troubles: dict[str, str] = {}

    def view(self) -> SignerView:
        """Return what the signer shows of itself now."""
        now, tally = datetime.now(UTC), self._answerer.tally
        with self._changed:
            known = [each.request for each in self._known.waiting() if each.name in self._planned]
            waiting = [each for each in known if each.waits]
            made = [each.created for each in waiting if each.created is not None]
            oldest = (now - min(made)).total_seconds() if made else None
            braked = sum(bool(each.keys) for each in self._planned.values())
            troubles = dict(self._troubles)
        with tally.lock:
            signed, refused = dict(tally.signed), dict(tally.refused)
        config, silent = self._session.config, self._orders.silent
        leads = self._leadership.leads
        return SignerView(
            config.cluster,
            config.node,
            leads,
            silent,
            len(waiting),
            braked,
            oldest,
            signed,
            refused,
            troubles,
            self._session.ending(now),
        )

    def stay(self) -> None:
        """Sign until SIGTERM or SIGINT. For the main thread; threads that still run may be ended with the process."""
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, lambda *_: self._stopped.set())
        config, notifier = self._session.config, Notifier()
        self._log(Event("started", f"{config.node} of {config.cluster}: the signer has started"))
        loops = [
            threading.Thread(target=self._repeat, args=(part, pause, step), daemon=True)
            for part, pause, step in (
                ("vault", LOOK_SECONDS, self._look),
                ("lease", lease.RENEW_SECONDS, self._lead),
                ("api", 0.0, self._follow),
                *(("requests", 0.0, self._work),) * WORKERS,
            )
        ]
        for each in loops:
            each.start()
        ready = False
        while not self._stopped.wait(min(notifier.interval or _TICK, _TICK)):
            if not ready and self._listed and self._orders.facts is not None:
                ready = True
                notifier.ready("signs what it may")
            if all(each.is_alive() for each in loops):
                notifier.watchdog()
        notifier.stopping()
        self._give_lease_back()
        self._log(Event("stopped", "the signer ends; requests stay as they are"))

    def _give_lease_back(self) -> None:
        try:
            self._leadership.release(self._api.writer)
        except VaultpkiError as error:
            self._trouble("lease", str(error))

    def _repeat(self, part: str, pause: float, step: Callable[[], object]) -> None:
        """Do one step again and again; after an error the pauses double, up to a minute."""
        failed = 0
        while not self._stopped.is_set():
            try:
                step()
            except VaultpkiError as error:
                failed += 1
                self._trouble(part, str(error))
            except Exception as error:  # noqa: BLE001 - one step must not end the signer; logged, and tried again
                failed += 1
                self._trouble(part, fault(error))
            else:
                failed = 0
                if part != "requests":
                    self._trouble(part, "")
            self._stopped.wait(_pause(failed) if failed else pause)

    def _trouble(self, part: str, sentence: str) -> None:
        """Note what fails, and log it once."""
        with self._changed:
            before = self._troubles.pop(part, "")
            if sentence:
                self._troubles[part] = sentence
        if sentence and sentence != before:
            self._log(Event("trouble", sentence, "error", {"part": part}))
        elif before and not sentence:
            self._log(Event("works-again", f"this works again: {before}", fields={"part": part}))

    # What there is to do

    def _lead(self) -> None:
        """Take or keep the Lease; a signer that Vault lets in no more leaves it to another one."""
        if not self._barred:
            self._leadership.renew(self._api.writer)
        elif self._leadership.leads:
            self._leadership.release(self._api.writer)

    def _look(self) -> None:
        try:
            found = self._session.look()
        except Denied:
            self._barred = True
            raise
        self._barred = False
        before, self._orders = self._orders, found
        if self._orders.silent != before.silent:
            text = f"nothing is signed now: {self._orders.silent}" if self._orders.silent else "requests are signed"
            self._log(Event("orders", text))
        with self._changed:
            self._changed.notify_all()

    def _follow(self) -> None:
        """Read every request, and follow each change until the API server ends the watch for good."""
        items, version = self._api.list()
        with self._changed:
            self._plan(self._known.replace(items))
            self._listed = True
        self._trouble("api", "")
        try:
            while version and not self._stopped.is_set():
                for kind, item in self._api.watch(version):
                    version = text(metadata(item).get("resourceVersion"))
                    with self._changed:
                        self._plan(self._known.note(item, gone=kind == "DELETED") if kind != "BOOKMARK" else ())
                self._stopped.wait(_TICK)
        except Stale:
            self._stopped.wait(_TICK)

    def _plan(self, waiting: Iterable[KnownRequest]) -> None:
        """Have these requests worked on, the oldest first; one that is worked on just now once more."""
        for each in waiting:
            if each.name in self._working:
                self._again.add(each.name)
            elif each.name not in self._planned:
                self._planned[each.name] = Planned()
                self._push(each, 0.0)
        self._changed.notify_all()

    def _push(self, each: KnownRequest, seconds: float) -> None:
        made = each.request.created
        heapq.heappush(self._due, (time.monotonic() + seconds, made.timestamp() if made else 0.0, each.name))

    # The work

    def _work(self) -> None:
        orders = self._orders
        taken = self._take(may_sign=orders.facts is not None and not orders.silent)
        if taken is None or orders.facts is None:
            return
        part, planned = f"request {taken.name}", self._planned[taken.name]
        try:
            found = self._answerer.answer(taken.name, orders.facts)
        except Exception as error:  # noqa: BLE001 - one request must not end the signer; logged, and tried again
            why = str(error) if isinstance(error, VaultpkiError) else fault(error)
            self._trouble(part, f"{taken.name} is tried again: {why}")
            planned = Planned(planned.failed + 1)
            found = Later(_pause(planned.failed))
        else:
            self._trouble(part, "")
            planned = Planned(0, found.keys) if isinstance(found, Later) else Planned()
        with self._changed:
            self._working.discard(taken.name)
            self._busy.discard(taken.common_name)
            if isinstance(found, Later):
                self._planned[taken.name] = planned
                self._push(taken, found.seconds)
                return
            del self._planned[taken.name]
            again = taken.name in self._again
            self._again.discard(taken.name)
            # The second of one name must see it before the watch shows it.
            if not again:
                self._known.done(taken.name, issued=found)
            elif (seen := self._known.get(taken.name)) is not None and seen.waits:
                self._plan([seen])

    def _take(self, *, may_sign: bool) -> KnownRequest | None:
        """Wait for a request that is due, and take it; None after a while, or at the end.

        No two of one name are worked on at once: the second must see what came of the first.
        """
        with self._changed:
            found = self._next() if may_sign and self._leadership.leads else None
            if found is None:
                self._changed.wait(_TICK)
                return None
            self._busy.add(found.common_name)
            self._working.add(found.name)
        self._stopped.wait(self._answerer.pace())
        return found

    def _next(self) -> KnownRequest | None:
        now, busy = time.monotonic(), list[tuple[float, float, str]]()
        found = None
        while found is None and self._due and self._due[0][0] <= now:
            entry = heapq.heappop(self._due)
            each = self._known.get(entry[2])
            if each is None or not each.waits:
                self._planned.pop(entry[2], None)
            elif each.common_name and each.common_name in self._busy:
                busy.append(entry)
            elif held := self._answerer.held(self._planned[each.name].keys):
                self._push(each, held)
            else:
                found = each
        for entry in busy:
            heapq.heappush(self._due, entry)
        return found


def _pause(failed: int) -> float:
    return float(min(_FIRST_PAUSE * 2 ** min(failed - 1, _MOST_DOUBLINGS), _LONGEST_PAUSE))


def answer_all(config: AgentConfig, log: Callable[[Event], None], *, allow_http: bool) -> int:
    """Answer the approved requests that wait now, and return how many could not be answered; needs no Lease.

    Raises as VaultSession and RequestsApi, and StateConflict if nothing is signed now.
    """
    session, api, known, answerer = _parts(config, log, allow_http=allow_http)
    facts, left = _facts(session), 0
    for each in known.replace(api.list()[0]):
        try:
            found = answerer.answer(each.name, facts)
        except VaultpkiError as error:
            found = Later(0.0)
            log(Event("trouble", f"{each.name} was not answered: {error}", "error", {"request": each.name}))
        if isinstance(found, Later):
            left += 1
        else:
            known.done(each.name, issued=found)
    return left


def verdicts(config: AgentConfig, log: Callable[[Event], None], *, allow_http: bool) -> Iterator[tuple[str, str]]:
    """Yield each open request by name, and what would come of it; writes nothing. Raises as `answer_all`."""
    session, api, known, answerer = _parts(config, log, allow_http=allow_http)
    facts = session.look().facts
    if facts is None:
        raise StateConflict(NO_FACTS)
    known.replace(api.list()[0])
    for each in known.open():
        found = answerer.judge(each.request, facts)
        if isinstance(found, BrokenRule):
            yield each.name, f"would be refused by rule {found.rule}: {found.message}"
        else:
            state = "" if each.request.approved else ", once it is approved"
            name = found.subject.common_name
            yield each.name, f"would be signed{state}: {name}, by role {found.role.name} for {found.ttl} s"


def _parts(
    config: AgentConfig, log: Callable[[Event], None], *, allow_http: bool
) -> tuple[VaultSession, RequestsApi, KnownRequests, Answerer]:
    session = VaultSession(config, allow_http=allow_http)
    api, known = RequestsApi(lambda: kubeconfig.read(Path(config.directory, _KUBECONFIG))), KnownRequests()
    nodes = NodesSeen(api)

    def look(anew: bool) -> LiveLook:
        return LiveLook(api, known, nodes, anew, datetime.now(UTC))

    return session, api, known, Answerer(session, api, look, log)


def _facts(session: VaultSession) -> SignerFacts:
    orders = session.look()
    if orders.facts is None or orders.silent:
        raise StateConflict(f"nothing is signed now: {orders.silent}")
    return orders.facts
