"""One pass over a node that may have something to do: what Vault says, new trust, new pairs, old trust, hooks.

The order is what this module is for. New trust lies there before any leaf that needs it; that a certificate is asked
for is on disk before Vault is asked; and what is remembered is written when it is true.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Collection, Mapping
from dataclasses import field, replace
from datetime import UTC, datetime
from importlib import import_module
from typing import TYPE_CHECKING

from vaultpki import holding, memory, quiet
from vaultpki.certificates import BUNDLES, SKEW, bundle, pair_files, unit
from vaultpki.errors import (
    CertificateRefused,
    CertificateUnreadable,
    Denied,
    Held,
    Refused,
    StoreError,
    Unavailable,
    Untrusted,
    VaultpkiError,
)
from vaultpki.files import probe_folder
from vaultpki.holding import Holding
from vaultpki.log import Event, Value
from vaultpki.memory import Memory
from vaultpki.model import AgentConfig
from vaultpki.plain import printable, stamp
from vaultpki.store import Directory
from vaultpki.values import dataclass

if TYPE_CHECKING:
    from vaultpki import bundles, hooks
    from vaultpki.facts import Trust
    from vaultpki.model import Certificate
    from vaultpki.pairs import Item
    from vaultpki.vault import Vault


# Of what a server says of itself, how many characters go into a node's report.
_LONGEST_TOLD = 300


@dataclass(frozen=True, slots=True)
class Outcome:
    """What one pass did and how it left the node.

    `renewed` are the names of the certificates laid down, `companions` whether bundles or kubeconfigs changed,
    `failures` what failed, by name. `due` is when the next certificate wants renewing, `dies` when the first one
    expires; None where none is there. `short` names certificates that Vault granted less time than asked, with the
    seconds granted. `again` is when something held back may be tried, as Unix time. `reached` tells whether Vault
    answered; None where nobody asked. `items` is empty where the pass found at once that nothing had changed.
    `asked` is how many certificates Vault was asked to sign.
    """

    renewed: tuple[str, ...] = ()
    asked: int = 0
    companions: bool = False
    failures: Mapping[str, VaultpkiError] = field(default_factory=dict)
    due: datetime | None = None
    dies: datetime | None = None
    short: Mapping[str, int] = field(default_factory=dict)
    again: float | None = None
    reached: bool | None = None
    events: tuple[Event, ...] = ()
    items: tuple[Item, ...] = ()
    memory: Memory = field(default_factory=Memory)


@dataclass(frozen=True, slots=True)
class _Seen:
    """The certificates as they lie there, looked at beside these wanted ones and this trust."""

    by: tuple[tuple[Certificate, ...], Mapping[str, Trust]]
    items: tuple[Item, ...]


class Pass:
    """A pass at the moment `now` (Unix time) over a node whose directory is held: `run` it, then `remember`.

    `known` is the memory as it lies on the disk, `age` the seconds for which what Vault said last holds, `force` the
    names of certificates to renew though they are not due.
    """

    def __init__(
        self,
        config: AgentConfig,
        directory: Directory,
        known: Memory,
        now: float,
        age: float,
        force: frozenset[str],
        runner: hooks.Runner | None,
        *,
        allow_http: bool,
    ) -> None:
        self._config, self._directory = config, directory
        self._clock, self._age = now, age
        self._now = datetime.fromtimestamp(now, UTC)
        self._force, self._runner = force, runner
        self._allow_http = allow_http
        self._before = self._memory = self._written = known
        self._vault: Vault | None = None
        self._away: VaultpkiError | None = None
        self._failures: dict[str, VaultpkiError] = {}
        self._events: list[Event] = []
        self._again: list[float] = []
        self._asked = 0
        self._items: tuple[Item, ...] = ()
        self._strangers: list[str] = []

    def run(self) -> Outcome:
        from vaultpki import bundles

        copy = holding.copy(self._config)
        seen = self._seen(copy) if copy is not None and copy.fresh(self._clock, self._age) else None
        spec = copy
        if spec is None or seen is None or any(item.wants_signing for item in seen.items):
            spec = self._fetch(copy)
        trust = self._trust(spec)
        self._tell_strangers(spec, trust)
        if seen is not None and seen.by == (spec.certificates, trust):
            items = seen.items
        else:
            items = self._look(spec, trust, self._force)
        # New trust first: a leaf of a new issuing CA must not come before those who check it know the CA. Old trust
        # last: nor may a CA go before its leaves.
        cluster = self._config.cluster
        meanwhile = bundles.with_outgoing(self._directory, trust, items, self._now, cluster=cluster)
        # And nobody is pointed at a pair that is not there yet.
        waiting = {item.want.name for item in items if not item.ready}
        first = self._lay_bundles(spec, meanwhile, waiting)
        renewed, short = self._renew(items, trust)
        companions = first.changed
        if meanwhile != trust or (first.kept and waiting.intersection(renewed)):
            companions |= self._lay_bundles(spec, trust, waiting.difference(renewed)).changed
        self._items = items = self._look(spec, trust)
        if all(item.ready for item in items):
            self._remove_surplus(spec)
        if self._vault is not None and self._away is None:
            self._after(self._vault)
        self._run_hooks(spec)
        self._memory = self._remembered()
        if self._directory.unsettled:
            # It is some seconds until `remember`.
            self._save(self._memory)
        ends = [item.not_after for item in items if item.not_after is not None]
        return Outcome(
            renewed=tuple(renewed),
            asked=self._asked,
            companions=companions,
            failures=self._failures,
            due=min(self._dues(), default=None),
            dies=min(ends, default=None),
            short=short,
            again=min(self._again, default=None),
            reached=self._reached(),
            events=tuple(self._events),
            items=items,
        )

    def _reached(self) -> bool | None:
        if self._away is None:
            return None if self._vault is None else True
        # Who turns a login down is there.
        return isinstance(self._away, Denied | Refused)

    def _look(self, spec: Holding, trust: Mapping[str, Trust], force: frozenset[str] = frozenset()) -> tuple[Item, ...]:
        from vaultpki import pairs

        return pairs.look(self._config, self._directory, spec.certificates, trust, self._memory, self._now, force)

    def _dues(self) -> list[datetime]:
        return [item.verdict.renew_after for item in self._items if item.verdict.renew_after is not None]

    def _trust(self, spec: Holding) -> dict[str, Trust]:
        from vaultpki import issuance

        issuers = issuance.Issuers(spec.issuing, spec.roots)
        try:
            return issuance.trusts(issuers, self._config.root_sha256, self._now, cluster=self._config.cluster)
        except CertificateRefused as error:
            # By a clock that is wrong every date is.
            raise self._failures.get("clock", error) from None

    def _tell_strangers(self, spec: Holding, trust: Mapping[str, Trust]) -> None:
        from vaultpki import issuance

        for ca, stranger in issuance.strangers(issuance.Issuers(spec.issuing, spec.roots), trust):
            text = stranger.sentence(ca)
            self._strangers.append(text)
            about: dict[str, Value] = {"ca": ca, "sha256": stranger.fingerprint, "reason": stranger.reason}
            self._events.append(Event("stranger", f"{text}; take it off the mount", "warning", about))

    # What Vault says

    def _seen(self, copy: Holding) -> _Seen | None:
        """The certificates by what Vault said last; None where its CAs are none any more."""
        try:
            trust = self._trust(copy)
        except (CertificateRefused, CertificateUnreadable):
            return None
        return _Seen((copy.certificates, trust), self._look(copy, trust, self._force))

    def _fetch(self, old: Holding | None) -> Holding:
        """What Vault says now; the copy where it says nothing usable, and then why is told."""
        from vaultpki import credential, issuance

        # Needed next, and long to load: Vault's first answers take some time too.
        threading.Thread(target=import_module, args=("vaultpki.x509",), daemon=True).start()
        try:
            self._vault = credential.login(self._config, allow_http=self._allow_http)
            held = {ca: [text] for ca, text in issuance.lying(self._directory).items()}
            for ca, pems in (old.issuing if old is not None else {}).items():
                held.setdefault(ca, []).extend(pems)
            spec = holding.fetch(self._config, self._vault, self._clock, held)
        except VaultpkiError as error:
            if old is None:
                raise
            self._failures["vault"] = error
            if self._vault is None or isinstance(error, Unavailable | Untrusted):
                self._away = error
            spec = old
        offset = self._clock_offset()
        if abs(offset) > SKEW:
            side, hint = ("behind", "; nothing is signed until then") if offset > 0 else ("ahead of", "")
            self._failures["clock"] = VaultpkiError(
                f"this machine's clock is {_roughly(abs(offset))} {side} Vault's; set it right{hint}"
            )
        return spec

    def _clock_offset(self) -> float:
        """By how many seconds Vault's clock, by which certificates are dated, is ahead of ours."""
        return (self._vault.clock_offset or 0.0) if self._vault is not None else 0.0

    # What is done about it

    def _renew(self, items: tuple[Item, ...], trust: Mapping[str, Trust]) -> tuple[list[str], dict[str, int]]:
        from vaultpki import pairs

        for item in items:
            if item.problem is not None:
                self._failures[item.want.name] = item.problem
            elif item.verdict.mend:
                try:
                    pairs.mend(self._config, self._directory, item)
                except StoreError as error:
                    self._failures[item.want.name] = error
        wanting = {item.want.name: item for item in items if item.wants_signing}
        allowed = self._allowed(wanting, trust)
        vault = self._vault
        if not allowed or vault is None:
            return [], {}
        early = {item.want.name for item in allowed if pairs.premature(item, self._memory, self._clock)}
        # On disk before Vault is asked: a crash between the two must not make room for one more.
        self._save(memory.with_spent(self._memory, {item.want.name: self._clock for item in allowed}))
        renewed: list[str] = []
        short: dict[str, int] = {}
        for name, signed in pairs.sign(self._config, self._directory, vault, allowed, trust, self._now).items():
            # With no CA in date nobody was asked.
            self._asked += not (isinstance(signed, CertificateRefused) and signed.reason == "nothing-live")
            if isinstance(signed, VaultpkiError):
                self._failures[name] = signed
                if isinstance(signed, Held):
                    self._memory = replace(self._memory, held={**self._memory.held, name: signed.at})
                    self._again.append(signed.at)
                if not pairs.may_have_signed(signed):
                    self._memory = memory.with_spent(self._memory, {name: None})
                continue
            if name not in early:
                self._memory = memory.with_spent(self._memory, {name: None})
            renewed.append(name)
            fresh, old = pairs.known(signed, self._now), self._memory.certificates.get(name)
            self._memory = replace(self._memory, certificates={**self._memory.certificates, name: fresh})
            first = wanting[name].leaf is None
            text = f"{'issued' if first else 'renewed'} {name}"
            if pairs.short(fresh):
                short[name] = fresh.granted
                # Told once, not at each renewal that is granted as little.
                if old is None or old.asked != fresh.asked or not pairs.short(old):
                    text += f" (Vault granted only {fresh.granted} s; the next renewal follows that)"
            fields: dict[str, Value] = {
                "certificate": name,
                "serial": f"{signed.facts.serial:x}",
                "not_after": stamp(signed.facts.not_after),
                "asked": fresh.asked,
                "granted": fresh.granted,
            }
            self._events.append(Event("issued" if first else "renewed", text, fields=fields))
        return renewed, short

    def _allowed(self, wanting: Mapping[str, Item], trust: Mapping[str, Trust]) -> list[Item]:
        """Those that may be signed now; why the others may not is told with their names."""
        from vaultpki import bundles, pairs

        if not wanting:
            return []
        common = self._away
        if common is None and self._clock_offset() > SKEW:
            common = self._failures["clock"]
        if common is None:
            try:
                self._directory.probe(len(wanting))
                probe_folder(self._config.state)
            except StoreError as error:
                common = error
        allowed = []
        for name, item in wanting.items():
            ca = item.want.ca
            held = common or self._taken(item)
            if held is None and (held := bundles.distrusted(self._directory, ca, trust[ca])) is not None:
                held = self._failures.get("bundles") or self._failures.get(bundle(ca)) or held
            held = held or pairs.held_back(item, self._memory, self._clock, self._config.poll)
            if held is None:
                allowed.append(item)
                continue
            self._failures[name] = held
            if isinstance(held, Held):
                self._again.append(held.at)
        return allowed

    def _taken(self, item: Item) -> StoreError | None:
        """Why the item's files cannot take their places, where somebody's own are there."""
        try:
            self._directory.refuse_taken(unit(item.want.stem), pair_files(item.want.stem))
        except StoreError as error:
            return error
        return None

    def _lay_bundles(self, spec: Holding, trust: Mapping[str, Trust], waiting: Collection[str]) -> bundles.Laid:
        from vaultpki import bundles

        laid = bundles.lay(self._config, self._directory, spec, trust, waiting)
        self._failures |= laid.failures
        if laid.changed:
            self._events.append(Event("bundles", "wrote bundles and kubeconfigs"))
        return laid

    def _remove_surplus(self, spec: Holding) -> None:
        wanted = {BUNDLES, *(unit(want.stem) for want in spec.certificates)}
        try:
            for name in self._directory.units():
                if name not in wanted:
                    self._directory.remove(name)
                    self._events.append(Event("removed", f"removed {name}, which this node holds no more"))
        except StoreError as error:
            self._failures["old files"] = error

    def _after(self, vault: Vault) -> None:
        """What can wait until the certificates lie: the credential's own renewal, and a report for people to read."""
        from vaultpki import credential

        try:
            if credential.roll(self._config, vault, self._clock):
                self._events.append(Event("credential", "replaced this node's own credential"))
        except VaultpkiError as error:
            self._failures["credential"] = error
        report = {
            "version": 1,
            "time": stamp(self._now),
            "certificates": {
                item.want.name: {
                    "state": item.verdict.state.value,
                    "not_after": None if item.not_after is None else stamp(item.not_after),
                }
                for item in self._items
            },
            "failures": sorted(self._failures),
            "strangers": [printable(text)[:_LONGEST_TOLD] for text in self._strangers],
        }
        # Nobody trusts it and nothing depends on it, so neither does this pass.
        with contextlib.suppress(VaultpkiError):
            vault.write(f"{self._config.prefix}/config/data/reports/{self._config.node}", {"data": report})

    def _run_hooks(self, spec: Holding) -> None:
        from vaultpki import aftermath

        found = aftermath.live(self._directory, self._items)
        done = aftermath.follow(self._config, found, spec, self._memory, self._runner, self._clock)
        self._memory = done.memory
        self._events += done.events
        self._again += done.again

    # What is remembered

    def _remembered(self) -> Memory:
        held = {item.want.name for item in self._items}
        kept = memory.with_faults(self._memory, {w: str(e) for w, e in self._failures.items()}, self._clock)
        return replace(
            kept,
            certificates={name: one for name, one in kept.certificates.items() if name in held},
            spent={name: times for name, times in kept.spent.items() if name in held},
            held={name: until for name, until in kept.held.items() if until > self._clock and name in held},
            state=memory.state_of(self._failures.values()),
            quiet="" if self._failures else kept.quiet,
        )

    def fail(self, what: str, error: VaultpkiError) -> None:
        """Adds a failure to what this pass tells and remembers."""
        self._failures[what] = error
        self._save(self._remembered())

    def remember(self) -> Memory:
        """Adds to the memory whether nothing is left to do, and gives it."""
        spec, dues = holding.stamp(self._config.state), self._dues()
        busy = self._failures or self._memory.owed or any(item.verdict.reasons for item in self._items)
        if busy or spec is None or not dues or self._directory.unsettled:
            self._save(replace(self._memory, quiet=""))
            return self._memory
        now_quiet = quiet.digest(quiet.source(self._config), spec[1], self._directory, allow_http=self._allow_http)
        same = now_quiet == self._before.quiet
        changed = replace(
            self._memory,
            quiet=now_quiet,
            quiet_since=self._before.quiet_since if same else self._clock,
            quiet_until=min(dues).timestamp(),
            quiet_dies=min(item.not_after.timestamp() for item in self._items if item.not_after),
            quiet_directory=self._config.directory,
            quiet_poll=float(self._config.poll),
        )
        self._save(changed)
        return changed

    def _save(self, changed: Memory) -> None:
        """Writes the memory where it is another than that on the disk."""
        self._memory = changed
        if changed != self._written:
            memory.save(self._config.state, changed)
            self._written = changed


def _roughly(seconds: float) -> str:
    """In words that stay the same from one look to the next, so that they are told once."""
    for name, length in (("days", 86400), ("hours", 3600)):
        if seconds >= 2 * length:
            return f"{seconds / length:.0f} {name}"
    return f"{max(round(seconds / 60), 1)} min"
