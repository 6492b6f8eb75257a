"""One pass over a node: ask Vault, install new trust, renew pairs, remove old trust, run hooks.

The order protects the node. New trust is installed before any leaf that needs it. Each signing attempt is recorded on
disk before Vault is asked. Old trust is removed last, and the agent's state is written once it is true.
"""

from __future__ import annotations

import contextlib
from collections.abc import Collection, Mapping
from dataclasses import replace

from vaultpki.agent import (
    bundles,
    ca_trust,
    hook_schedule,
    kubeconfigs,
    pairs,
    readers_seen,
    report,
    sign_due,
    surplus,
    token_keys,
)
from vaultpki.agent.context import Contact, Context, Outcome
from vaultpki.agent.pairs import PairStatus
from vaultpki.agent.revoked import note_revoked
from vaultpki.certificates import BUNDLES, ROOT, SKEW
from vaultpki.errors import (
    CertificateRefused,
    CertificateUnreadable,
    StoreError,
    Unavailable,
    Unsafe,
    Untrusted,
    VaultError,
    VaultpkiError,
)
from vaultpki.host.log import Event, Value
from vaultpki.issue.issuers import installed_bundles, installed_roots, untrusted_cas
from vaultpki.node import assignment, at_rest, credential, pins
from vaultpki.node import state as agent_state
from vaultpki.node.assignment import Assignment, SurplusPair
from vaultpki.node.at_rest import AtRest
from vaultpki.node.secret_id import SECRET_ID
from vaultpki.node.state import AgentState
from vaultpki.pki import foreign_cas
from vaultpki.pki.facts import Trust
from vaultpki.records.changes import Mark
from vaultpki.vault import Vault


def reconcile(context: Context) -> Outcome:
    """Make the node's files what Vault says they should be; the directory of `context` is locked."""
    wanted, trust, items, contact = _assigned_pairs(context)
    found, config = context.found, context.config
    wanted, items = _with_surplus(context, contact, wanted, items, trust)
    found.failures.update(ca_trust.complaints(wanted, trust, context.state.value))
    untrusted = [*_report_untrusted_cas(context, wanted, trust), *_report_ignored_cas(context, trust)]
    # New trust first: a leaf of a new issuing CA must not come before its readers know the CA. Old trust last: a CA
    # must not go before its leaves.
    during = bundles.with_outgoing(config, context.folders, wanted, trust, items, context.now)
    during = bundles.in_order(config, during, items)
    # No kubeconfig may point at a pair that is not there yet.
    waiting = {item.want.name for item in items if not item.ready}
    first = _install_bundles(context, wanted, during, waiting)
    signed = sign_due.renew(context, contact, wanted, items, trust)
    items = _inspect(context, wanted, trust)
    after = bundles.with_outgoing(config, context.folders, wanted, trust, items, context.now)
    after = bundles.in_order(config, after, items)
    if during != after or (first.kept and waiting.intersection(signed.renewed)):
        _install_bundles(context, wanted, after, waiting.difference(signed.renewed))
    kubeconfigs.install(context, wanted.server, items)
    keys = token_keys.reconcile_keys(context, contact, wanted, trust)
    untrusted += keys.refused
    if all(item.ready for item in items):
        _remove_old_files(context, wanted)
    found.events.extend(Event("rewritten", text, "warning") for text in context.folders.rewritten)
    report.note_installed(context, wanted, items, keys.keys)
    readers_seen.note(context, wanted)
    token_keys.note_admission(context, keys.keys, readers_seen.OF_TOKEN_KEYS)
    held = bundles.digests(context.folders, config.layout, {ca: known.foreign for ca, known in trust.items()})
    hook_schedule.note_trust(context, held)
    live = hook_schedule.live(items, held) | (keys.keys.live if keys.keys is not None else {})
    vault = contact.vault if contact.away is None else None
    before = None
    if vault is not None:
        _roll_credential(context, vault)
        if context.runner is None:
            # A hook may take long, and may end this process.
            before = report.build(context, wanted, items, untrusted, trust, keys.keys)
            report.send(context, vault, before)
    hook_schedule.run_hooks(context, live, wanted, held)
    last = report.build(context, wanted, items, untrusted, trust, keys.keys)
    if vault is None:
        report.send_if_awaited(context, contact, wanted, last)
    elif (before is None and not contact.polled) or report.is_news(context, last):
        report.send(context, vault, last)
    context.state.value = _remembered(context, items, keys.names)
    if context.folders.unsettled:
        # Settling takes some seconds, and a crash must not lose this.
        context.state.save()
    return Outcome(
        renewed=signed.renewed + keys.signed.renewed,
        requested=signed.requested + keys.signed.requested,
        failures=found.failures,
        due=min((item.verdict.renew_after for item in items if item.verdict.renew_after is not None), default=None),
        first_expiry=min((item.not_after for item in items if item.not_after is not None), default=None),
        retry_at=min(found.retry_at, default=None),
        reached=contact.reached,
        events=tuple(found.events),
        items=items,
        urgent=min(
            (
                item.not_after
                for item in items
                if item.not_after is not None
                and not pairs.needs_another_ca(item, found.failures.get(item.want.name), context.now)
            ),
            default=None,
        ),
        lives=ca_trust.lives(wanted, trust, cluster=config.cluster),
        foreign=tuple(ca_trust.foreign_complaints(trust)),
        awaited=readers_seen.awaited(context, wanted),
        rest=_at_rest(context, contact, wanted),
        surplus=wanted.surplus,
    )


def _at_rest(context: Context, contact: Contact, wanted: Assignment) -> AtRest | None:
    """Return what the next pass may poll with; None makes it look at everything.

    After a poll, answered or not, and where Vault was not asked, it is what this pass got. A failure that may be mended
    by looking again ends it.
    """
    if contact.polled and contact.away is not None:
        return context.options.rest
    if any(isinstance(error, VaultError | CertificateRefused) for error in context.found.failures.values()):
        return None
    if contact.polled or (contact.vault is None and contact.away is None):
        return context.options.rest
    if contact.vault is None:
        return None
    before = context.options.rest if contact.stepped else None
    return at_rest.after_look(context.config, contact.vault, wanted, context.clock, context.began, before)


def remember_failure(context: Context, what: str, error: VaultpkiError) -> None:
    """Add a failure that came after `reconcile` to the outcome and to the agent's state."""
    context.found.failures[what] = error
    state = context.state.value
    failures = {what: str(error) for what, error in context.found.failures.items()}
    state = agent_state.with_faults(state, failures, context.clock)
    context.state.save(replace(state, state=agent_state.state_of(context.found.failures.values())))


def _assigned_pairs(context: Context) -> tuple[Assignment, dict[str, Trust], tuple[PairStatus, ...], Contact]:
    """Return what this node is assigned, the trust in each CA, its pairs, and whether Vault was reached.

    Asks Vault only if the copy on disk is old or something is due, and for everything only if something has changed.
    """
    copy = assignment.copy(context.config)
    known, items, asked = None, None, None
    fresh = copy is not None and copy.fresh(context.clock, context.age)
    rest = _rest(context)
    if copy is not None and (fresh or rest is not None):
        # A copy whose CAs have expired meanwhile says nothing.
        with contextlib.suppress(CertificateRefused, CertificateUnreadable):
            known = _trust(context, copy)
            items = _inspect(context, copy, known, context.options.force)
            if fresh and not any(item.wants_signing for item in items):
                return copy, known, items, Contact()
            asked = _poll(context, copy, rest) if rest is not None else None
            if asked is not None and asked[1].polled:
                confirmed, contact = asked
                if sign_due.postpone_late(context, contact, copy.fetched, items):
                    items = _inspect(context, copy, known, context.options.force)
                return confirmed, known, items, contact
    fetched, contact = asked or _fetch(context, copy)
    known_clock = contact.vault is not None and contact.vault.clock_offset is not None
    _remember_answer(context, fetched, contact.clock_offset if known_clock else context.state.value.clock_offset)
    trust = _trust(context, fetched)
    if items is None or copy is None or fetched.certificates != copy.certificates or trust != known:
        items = _inspect(context, fetched, trust, context.options.force)
    if not contact.stepped and note_revoked(context, contact, items):
        items = _inspect(context, fetched, trust, context.options.force)
    if sign_due.postpone_late(context, contact, copy.fetched if copy is not None else None, items):
        items = _inspect(context, fetched, trust, context.options.force)
    return fetched, trust, items, contact


def _rest(context: Context) -> AtRest | None:
    """Return what this pass may poll with; None if it has to look at everything, such as for a person who asks."""
    rest, config = context.options.rest, context.config
    if rest is None or not context.options.share or not rest.holds(config, context.clock, context.began):
        return None
    return rest if credential.in_place(config) else None


def _poll(context: Context, copy: Assignment, rest: AtRest) -> tuple[Assignment, Contact] | None:
    """Return the copy and the contact if Vault says that nothing has changed; after a step of a rotation, its answer.

    None for another change and for a refusal: then the look that follows says what is wrong. A Vault that cannot answer
    now, such as one that limits its requests, is not asked for more: the pass fails, and the next one polls again.
    """
    try:
        _tighten(context)
        mark = rest.ask()
        if mark != rest.mark:
            return _step(context, copy, rest, mark)
        confirmed = assignment.confirm(context.config, copy, context.clock)
        return confirmed, _checked_clock(context, Contact(rest.vault, polled=True))
    except Unavailable as error:
        context.state.value = replace(context.state.value, asked=context.clock)
        context.found.failures["vault"] = error
        return copy, Contact(away=error, polled=True)
    except VaultpkiError:
        return None


def _step(context: Context, copy: Assignment, rest: AtRest, mark: Mark | None) -> tuple[Assignment, Contact] | None:
    """Return what Vault says after one step of a rotation, with the kept login; None if more may have changed."""
    if mark is None or not rest.may_step(mark):
        return None
    held, known = _held(context, copy)
    step = assignment.SeenStep(copy, mark, rest.issuers)
    fetched = assignment.fetch_step(context.config, rest.vault, context.clock, held, known, step)
    return None if fetched is None else (fetched, _checked_clock(context, Contact(rest.vault, stepped=True)))


def _held(context: Context, copy: Assignment | None) -> tuple[dict[str, list[str]], Mapping[str, int] | None]:
    """Return the CAs trusted here until now, as PEM by CA, and the highest revisions read, as `assignment.fetch`."""
    if copy is not None:
        # The agent's state may be lost, or another release's.
        _remember_answer(context, copy, context.state.value.clock_offset)
    folders, layout = context.folders, context.config.layout
    held = {ca: [pem] for ca, pem in installed_bundles(folders, layout).items()}
    held[ROOT] = list(installed_roots(folders, layout))
    before = {**copy.trusted, ROOT: (*copy.issuers.roots, *copy.issuers.kept)} if copy is not None else {}
    for ca, pems in before.items():
        held.setdefault(ca, []).extend(pems)
    return held, ca_trust.known_revisions(context.state.value, _roots(context))


def _tighten(context: Context) -> None:
    config = context.config
    if credential.tighten(config):
        text = f"others could read {config.state}/{SECRET_ID}; it is replaced now"
        context.found.events.append(Event("credential", text, "warning"))


def _fetch(context: Context, copy: Assignment | None) -> tuple[Assignment, Contact]:
    """What Vault says now; the copy if Vault says nothing usable, with the reason among the failures."""
    config, vault, away = context.config, None, None
    held, known = _held(context, copy)
    try:
        _tighten(context)
        rest = context.options.rest
        kept = rest.vault if rest is not None else None
        vault = credential.login(config, allow_http=context.options.allow_http, kept=kept)
        vault.prefer_active()
        shown_before = rest.issuers if rest is not None and rest.config == config else {}
        fetched = assignment.fetch(config, vault, context.clock, held, known, shown_before)
    except VaultpkiError as error:
        context.state.value = replace(context.state.value, asked=context.clock)
        if copy is None:
            with contextlib.suppress(StoreError):
                context.state.save()
            raise
        context.found.failures["vault"] = error
        away = error if vault is None or isinstance(error, Unavailable | Untrusted) else None
        fetched = copy
    return fetched, _checked_clock(context, Contact(vault, away))


def _checked_clock(context: Context, contact: Contact) -> Contact:
    """Return the contact; a clock that is too far from Vault's is a failure of the pass."""
    if abs(contact.clock_offset) > SKEW:
        side, hint = ("behind", "; nothing is signed until then") if contact.clock_offset > 0 else ("ahead of", "")
        context.found.failures["clock"] = VaultpkiError(
            f"this machine's clock is {_roughly(abs(contact.clock_offset))} {side} Vault's; set it right{hint}"
        )
    return contact


def _remember_answer(context: Context, answer: Assignment, clock_offset: float) -> None:
    """Keep what must be known before anything follows from the answer: a restored server shows an older one later."""
    roots = _roots(context)
    context.state.value = ca_trust.remembered(context.state.value, answer, roots, context.clock, clock_offset)
    if context.state.value.revisions != context.state.at_start.revisions:
        # A state that cannot be written is a fault at the end of the pass.
        with contextlib.suppress(StoreError):
            context.state.save()


def _roots(context: Context) -> tuple[str, ...]:
    """The SHA-256 of the roots that this node has had, the pin first."""
    named = pins.every_pin(context.config)
    return (*named, *pins.every(context.config.state, *named))


def _trust(context: Context, wanted: Assignment) -> dict[str, Trust]:
    try:
        procedures = context.options.procedures
        return ca_trust.trust_of(context.config, wanted, context.state.value, context.now, procedures)
    except CertificateRefused as error:
        # With a wrong clock every date is wrong: say that instead.
        raise context.found.failures.get("clock", error) from None


def _inspect(
    context: Context, wanted: Assignment, trust: Mapping[str, Trust], force: frozenset[str] = frozenset()
) -> tuple[PairStatus, ...]:
    state = context.state.value
    return pairs.inspect(context.config, context.folders, wanted.certificates, trust, state, context.now, force)


def _report_untrusted_cas(context: Context, wanted: Assignment, trust: Mapping[str, Trust]) -> list[str]:
    """Add an event for each CA on our mounts that is not trusted; return the sentences."""
    sentences = []
    above = ca_trust.roots_of(context.config, wanted, context.state.value, context.now)
    record, cluster = wanted.rotations.records.get(ROOT), context.config.cluster
    for ca, ca_found in untrusted_cas(wanted.issuers, trust, above, record, cluster):
        sentences.append(ca_found.sentence(ca))
        fields: dict[str, Value] = {"ca": ca, "sha256": ca_found.fingerprint, "reason": ca_found.reason}
        context.found.events.append(Event("stranger", f"{sentences[-1]}; find out who put it there", "warning", fields))
    return sentences


def _report_ignored_cas(context: Context, trust: Mapping[str, Trust]) -> list[str]:
    """Add an event for each foreign CA that the cluster's record offers in vain; return the sentences."""
    sentences = []
    for ca, known in trust.items():
        for each in known.foreign_ignored:
            sentences.append(foreign_cas.ignored_sentence(ca, each))
            fields: dict[str, Value] = {"ca": ca, "sha256": each.fingerprint, "reason": each.reason}
            context.found.events.append(Event("foreign-ca", sentences[-1], "warning", fields))
    return sentences


def _install_bundles(
    context: Context, wanted: Assignment, trust: Mapping[str, Trust], waiting: Collection[str]
) -> bundles.BundlesResult:
    prune = context.options.prune and "prune" not in context.found.failures
    result = bundles.install(context.config, context.folders, wanted, trust, waiting, prune=prune)
    context.found.failures.update(result.failures)
    if result.changed:
        context.found.events.append(Event("bundles", "wrote bundles and kubeconfigs"))
    return result


def _with_surplus(
    context: Context, contact: Contact, wanted: Assignment, items: tuple[PairStatus, ...], trust: Mapping[str, Trust]
) -> tuple[Assignment, tuple[PairStatus, ...]]:
    """Return what is assigned with the surplus pairs that stay, and the pairs as they are once the others are gone."""
    found: tuple[SurplusPair, ...] = ()
    try:
        found = surplus.find_surplus(context.config.cluster, context.folders, items, context.state.value)
        left = surplus.remove(context, contact, wanted, found)
    except StoreError as error:
        context.found.failures["old files"] = error
        # One that cannot be removed takes the kubeconfig of no other.
        return replace(wanted, surplus=found), items
    wanted = replace(wanted, surplus=left)
    surplus.note(context, left)
    return wanted, items if left == found else _inspect(context, wanted, trust, context.options.force)


def _remove_old_files(context: Context, wanted: Assignment) -> None:
    """Remove the bundles beside pairs that are gone, and the kubeconfigs of those."""
    needed = {each.folder for each in bundles.needed(context.config, wanted)}
    try:
        kubeconfigs.remove_surplus(context, wanted.certificates)
        for folder, name in context.folders.file_sets():
            if name == BUNDLES and folder not in needed:
                surplus.remove_set(context, folder, name)
    except StoreError as error:
        context.found.failures["old files"] = error


def _roll_credential(context: Context, vault: Vault) -> None:
    try:
        force = bool(context.options.force)
        if credential.roll(context.config, vault, context.clock, force=force):
            context.found.events.append(Event("credential", "replaced this node's own credential"))
    except VaultpkiError as error:
        context.found.failures["credential"] = error


def _remembered(context: Context, items: Collection[PairStatus], further: Collection[str]) -> AgentState:
    """The agent's state after this pass, without what belongs to certificates that this node no longer holds.

    `further` are the names of those that are not for TLS.
    """
    names, failures = {item.want.name for item in items}.union(further), context.found.failures
    serials = {item.want.name: item.leaf.serial for item in items if item.leaf is not None}
    state = agent_state.with_faults(context.state.value, {w: str(e) for w, e in failures.items()}, context.clock)
    return replace(
        state,
        certificates={name: one for name, one in state.certificates.items() if name in names},
        exposed={name: serial for name, serial in state.exposed.items() if name in names},
        unsafe=_unsafe(context),
        spent={name: times for name, times in state.spent.items() if name in names},
        unanswered={name: times for name, times in state.unanswered.items() if name in names},
        held={name: until for name, until in state.held.items() if until > context.clock and name in names},
        revoked={name: serial for name, serial in state.revoked.items() if serials.get(name) == serial},
        postponed={name: each for name, each in state.postponed.items() if serials.get(name) == each.serial},
        state=agent_state.state_of(failures.values()),
    )


def _unsafe(context: Context) -> tuple[str, ...]:
    """Return the paths that others can write to, or whose files could not be replaced since they could."""
    places = {error.place for error in context.found.failures.values() if isinstance(error, Unsafe)}
    return tuple(sorted(places | context.found.unsafe))


def _roughly(seconds: float) -> str:
    """A duration in words that stay the same from one pass to the next, so that they are logged once."""
    for name, length in (("days", 86400), ("hours", 3600)):
        if seconds >= 2 * length:
            return f"{seconds / length:.0f} {name}"
    return f"{max(round(seconds / 60), 1)} min"
