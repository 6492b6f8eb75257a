"""A node's part: look at the disk, ask Vault for what is missing or due, lay it down, and say how it stands.

One pass (`run`) works on one locked directory. Where nothing changed since the last pass found nothing to do, and
nothing is due, it touches nothing and asks nobody.
"""

from __future__ import annotations

import contextlib
import random
import threading
import time
from collections.abc import Collection, Iterable, Mapping
from dataclasses import field, replace
from datetime import UTC, datetime
from importlib import import_module
from typing import TYPE_CHECKING, Final

from vaultpki import holding, hooks, memory, quiet
from vaultpki.certificates import BUNDLES, SKEW, bundle, chain_bundle, pair_files, unit
from vaultpki.errors import (
    Busy,
    CertificateRefused,
    CertificateUnreadable,
    Denied,
    Held,
    Refused,
    StoreError,
    TemplateError,
    Unavailable,
    Untrusted,
    VaultpkiError,
)
from vaultpki.files import probe_folder
from vaultpki.holding import Holding
from vaultpki.log import Event, Value
from vaultpki.memory import Memory
from vaultpki.model import AgentConfig
from vaultpki.plain import stamp
from vaultpki.store import Directory, File
from vaultpki.values import dataclass

if TYPE_CHECKING:
    from vaultpki.facts import Trust
    from vaultpki.pairs import Item
    from vaultpki.vault import Vault

RESIDENT_SHARE: Final = 0.8
"""The part of the poll interval after which an agent that stays asks again, so that it never comes late."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """What one pass did and how it left the node.

    `renewed` are the names of the certificates laid down, `companions` whether bundles or kubeconfigs changed,
    `failures` what failed, by name. `due` is when the next certificate wants renewing, `dies` when the first one
    expires; None where none is there. `short` names certificates that Vault granted less time than asked, with the
    seconds granted. `again` is when something held back may be tried, as Unix time. `reached` tells whether Vault
    answered; None where nobody asked. `items` is empty where the pass found at once that nothing had changed.
    """

    renewed: tuple[str, ...] = ()
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


def run(
    config: AgentConfig,
    *,
    clock: float | None = None,
    settle: bool = True,
    allow_http: bool = False,
    force: Collection[str] = (),
    runner: hooks.Runner | None = None,
    wait: float = 0.0,
    share: float = 1.0,
    look: bool = False,
) -> Outcome:
    """One pass over this node. `clock` is Unix time in seconds; the machine's own where it is None.

    `settle` waits some seconds after a replacement, until the old files are gone and every watcher has seen it.
    `force` names certificates to renew though they are not due (`pairs.EVERY`: all). Hooks are left to `runner`, or
    run before this returns where there is none. `wait` is how many seconds another process may hold the directory,
    `share` the part of the poll interval for which what Vault said last is not asked for again. `look` has every file
    looked at, though nothing may have changed, so that `items` tells of all.
    Raises where nothing could be done at all; a certificate that failed by itself is told in the outcome.
    """
    now = time.time() if clock is None else clock
    age = config.poll * share
    known = memory.load(config.state)
    if not force and not look and (idle := _nothing_to_do(config, known, now, age, allow_http=allow_http)):
        return idle
    try:
        with Directory.open(config.directory, wait=wait) as directory:
            directory.sweep()
            # Whoever held the directory until now may have written it.
            known = memory.load(config.state)
            this = _Pass(config, directory, known, now, age, frozenset(force), runner, allow_http=allow_http)
            outcome = this.run()
            if settle:
                try:
                    directory.settle()
                except StoreError as error:
                    # What is done is done; an old generation that cannot be removed is the next pass's to sweep.
                    this.fail("old files", error)
            return replace(outcome, memory=this.remember())
    except Busy:
        # Whoever holds the directory writes the memory too.
        raise
    except VaultpkiError as error:
        # The next run, and `status`, shall know; a state folder that cannot be written is a fault of its own.
        with contextlib.suppress(StoreError):
            # As it is on the disk by now: what the pass had put down of its signings stays.
            failed = memory.with_faults(memory.load(config.state), {"agent": str(error)}, now)
            memory.save(config.state, replace(failed, state=memory.state_of([error]), quiet=""))
        raise


def told(failures: Mapping[str, str]) -> list[Event]:
    """One event for each different sentence in `failures`, with the names of all that failed so."""
    names: dict[str, list[str]] = {}
    for what, text in failures.items():
        names.setdefault(text, []).append(what)
    events = []
    for text, failed in names.items():
        alone = failed == ["agent"] or text.startswith(f"{failed[0]}: ")
        said = text if alone else f"{', '.join(failed)}: {text}"
        events.append(Event("failed", said, "error", {"what": ",".join(failed)}))
    return events


def deadline(dies: datetime | None) -> Event | None:
    """By when what fails must be mended, where the first certificate ends at `dies`; None where there is none."""
    if dies is None:
        return None
    ends = stamp(dies)
    return Event("deadline", f"the first certificate here ends at {ends}", "warning", {"not_after": ends})


def _nothing_to_do(config: AgentConfig, known: Memory, now: float, age: float, *, allow_http: bool) -> Outcome | None:
    """The outcome of a pass that can end before it begins: all is as the last one left it, and nothing is due."""
    same = quiet.unchanged(
        known,
        _source(config),
        state=config.state,
        directory=config.directory,
        age=age,
        allow_http=allow_http,
        now=now,
    )
    if not same:
        return None
    due, dies = (datetime.fromtimestamp(when, UTC) for when in (known.quiet_until, known.quiet_dies))
    return Outcome(due=due, dies=dies, memory=known)


def _source(config: AgentConfig) -> str:
    return config.source or repr(config)


class _Pass:
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
        self._items: tuple[Item, ...] = ()

    def run(self) -> Outcome:
        spec = holding.copy(self._config)
        if spec is None or not spec.fresh(self._clock, self._age) or self._wants_signing(spec):
            spec = self._fetch(spec)
        trust = self._trust(spec)
        items = self._look(spec, trust, self._force)
        # New trust first: a leaf of a new issuing CA must not come before those who check it know the CA. Old trust
        # last: nor may a CA go before its leaves.
        meanwhile = self._with_outgoing(trust, items)
        companions = self._lay_companions(spec, meanwhile)
        renewed, short = self._renew(items, trust)
        if meanwhile != trust:
            companions |= self._lay_companions(spec, trust)
        self._remove_surplus(spec)
        self._items = items = self._look(spec, trust)
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

        try:
            return issuance.trusts(issuance.Issuers(spec.issuing, spec.roots), self._config.root_sha256, self._now)
        except CertificateRefused as error:
            # By a clock that is wrong every date is.
            raise self._failures.get("clock", error) from None

    # What Vault says

    def _wants_signing(self, spec: Holding) -> bool:
        try:
            trust = self._trust(spec)
        except (CertificateRefused, CertificateUnreadable):
            return True
        return any(item.verdict.sign for item in self._look(spec, trust, self._force))

    def _fetch(self, old: Holding | None) -> Holding:
        """What Vault says now; the copy where it says nothing usable, and then why is told."""
        from vaultpki import credential

        # Needed next, and long to load: Vault's first answers take some time too.
        threading.Thread(target=import_module, args=("vaultpki.x509",), daemon=True).start()
        try:
            self._vault = credential.login(self._config, allow_http=self._allow_http)
            spec = holding.fetch(self._config, self._vault, self._clock)
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
            if item.verdict.mend:
                pairs.mend(self._config, self._directory, item)
        wanting = {item.want.name: item for item in items if item.verdict.sign}
        allowed = self._allowed(wanting)
        vault = self._vault
        if not allowed or vault is None:
            return [], {}
        early = {item.want.name for item in allowed if pairs.premature(item, self._memory, self._clock)}
        # On disk before Vault is asked: a crash between the two must not make room for one more.
        self._save(memory.with_spent(self._memory, {item.want.name: self._clock for item in allowed}))
        renewed: list[str] = []
        short: dict[str, int] = {}
        for name, signed in pairs.sign(self._config, self._directory, vault, allowed, trust, self._now).items():
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

    def _allowed(self, wanting: Mapping[str, Item]) -> list[Item]:
        """Those that may be signed now; why the others may not is told with their names."""
        from vaultpki import pairs

        if not wanting:
            return []
        common = self._away or self._failures.get("bundles")
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
            held = common or self._taken(item) or pairs.held_back(item, self._memory, self._clock, self._config.poll)
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

    def _with_outgoing(self, trust: Mapping[str, Trust], items: Iterable[Item]) -> Mapping[str, Trust]:
        """The trust until leaves of CAs that Vault has no more are replaced: these CAs are still in it."""
        from vaultpki import x509
        from vaultpki.renewal import Reason

        wide = dict(trust)
        for ca in {item.want.ca for item in items if Reason.ISSUER_CHANGED in item.verdict.reasons}:
            live, name = trust[ca], bundle(ca)
            held = self._directory.read(BUNDLES, [name])[name].data or b""
            with contextlib.suppress(CertificateRefused, CertificateUnreadable):
                issuing = [facts.pem.encode() for facts in (*live.issuing, *x509.read_certificates(held))]
                wide[ca] = x509.trust(issuing, live.root.pem.encode(), live.root.fingerprint, self._now)
        return wide

    def _lay_companions(self, spec: Holding, trust: Mapping[str, Trust]) -> bool:
        from vaultpki import assets, issuance
        from vaultpki.pairs import owner_of

        config, owner = self._config, owner_of(self._config.owner)
        files = issuance.companions(
            trust,
            spec.certificates,
            cluster=config.cluster,
            endpoint=spec.endpoint,
            directory=config.directory,
            owner=owner,
            chain=False,
        )
        taken = {*files, *(name for want in spec.certificates for name in pair_files(want.stem))}
        for template in spec.templates:
            try:
                files[template.file] = issuance.user_file(
                    template,
                    taken,
                    cluster=config.cluster,
                    endpoint=spec.endpoint,
                    directory=config.directory,
                    node=config.node,
                    owner=owner,
                )
            except TemplateError as error:
                # A template that went bad takes neither the file it made before nor anybody's certificate with it.
                self._failures[f"template {template.name}"] = error
                if template.file not in taken and assets.plain_file_name(template.file):
                    old = self._directory.read(BUNDLES, [template.file])[template.file].data
                    if old is not None:
                        files[template.file] = File(old, issuance.KEY_MODE, owner.uid, owner.gid)
            else:
                taken.add(template.file)
        try:
            changed = self._directory.install(BUNDLES, files)
        except StoreError as error:
            self._failures["bundles"] = error
            return False
        if changed:
            self._events.append(Event("bundles", "wrote bundles and kubeconfigs"))
        return changed

    def _remove_surplus(self, spec: Holding) -> None:
        wanted = {BUNDLES, *(unit(want.stem) for want in spec.certificates)}
        for name in self._directory.units():
            if name not in wanted:
                self._directory.remove(name)
                self._events.append(Event("removed", f"removed {name}, which this node holds no more"))

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
        }
        # Nobody trusts it and nothing depends on it, so neither does this pass.
        with contextlib.suppress(VaultpkiError):
            vault.write(f"{self._config.prefix}/config/data/reports/{self._config.node}", {"data": report})

    # What is owed

    def _live(self) -> dict[str, str]:
        """A digest of what lies on the disk for each key that hooks may have: certificates and bundles."""
        from hashlib import sha256

        found = {}
        for item in self._items:
            data = item.stored[pair_files(item.want.stem)[0]].data
            if data is not None:
                found[item.want.name] = sha256(data).hexdigest()[:32]
        for key, ca in hooks.BUNDLES.items():
            stored = self._directory.read(BUNDLES, (bundle(ca), chain_bundle(ca)))
            data = b"".join(one.data or b"" for one in stored.values())
            if data:
                found[key] = sha256(data).hexdigest()[:32]
        return found

    def _run_hooks(self, spec: Holding) -> None:
        """Has hooks run for what changed; in the background where somebody takes the results later."""
        from hashlib import sha256

        config, now, live = self._config, self._clock, self._live()
        done, owing = dict(self._memory.hooked), dict(self._memory.owed)
        self._advise(spec, live, done)

        def take(results: Iterable[hooks.Result]) -> None:
            for result in results:
                about: dict[str, Value] = {"hook": result.key, "attempts": result.attempts}
                if result.ok:
                    done[result.key] = result.digest
                    self._events.append(Event("hook", f"ran the hooks of {result.key}", fields=about))
                else:
                    before = owing.get(result.key) or hooks.Owed(since=now)
                    owing[result.key] = hooks.failed(before, result.error, now, random.random())  # noqa: S311 - jitter
                    self._events.append(Event("hook-failed", result.error, "warning", about))

        if self._runner is not None:
            take(self._runner.results())
        done = hooks.settled(live, done, config.hooks)
        owing = hooks.pending(hooks.owed(live, done, config.hooks), owing, now)
        jobs = hooks.jobs(config, hooks.ready(owing, now), live, owing)
        if self._runner is None:
            take(hooks.run_now(jobs) if jobs else ())
            owing = hooks.pending(hooks.owed(live, done, config.hooks), owing, now)
            waiting = list(owing)
        else:
            self._runner.submit(jobs)
            waiting = [key for key in owing if key not in self._runner.busy]
        self._again += [owing[key].not_before for key in waiting if owing[key].not_before > now]
        trust = sha256("-".join(live.get(key, "") for key in hooks.BUNDLES).encode()).hexdigest()[:16]
        since = self._memory.trust_since if trust == self._memory.trust else now
        self._memory = replace(self._memory, hooked=done, owed=owing, trust=trust, trust_since=since)

    def _advise(self, spec: Holding, live: Mapping[str, str], done: Mapping[str, str]) -> None:
        """Says what a person must restart, where new trust came and no hook is there to do it."""
        for key, digest in live.items():
            if done.get(key, digest) != digest and not self._config.hooks.get(key):
                advice = hooks.advice(key, spec.roles)
                if advice:
                    self._events.append(Event("advice", advice, "warning", {"bundle": key}))
        for key in hooks.unknown(self._config, live):
            text = f"{self._config.file}: hooks: {key} is no certificate or bundle of this node; its hooks never run"
            self._events.append(Event("config", text, "warning", {"hook": key}))

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
        now_quiet = quiet.digest(_source(self._config), spec[1], self._directory, allow_http=self._allow_http)
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
