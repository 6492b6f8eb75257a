"""Renew the certificates that are due: mend file modes, decide what may be signed now, have it signed, record it."""

from __future__ import annotations

import contextlib
from collections import Counter
from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from types import MappingProxyType
from typing import TYPE_CHECKING

from vaultpki.agent import bundles, ca_trust, pairs
from vaultpki.agent.context import Contact, Context
from vaultpki.agent.pairs import PairStatus
from vaultpki.certificates import BUNDLES, SKEW, file_set, pair_files
from vaultpki.disk.files import probe_folder
from vaultpki.errors import CertificateRefused, SigningPaused, StoreError, VaultpkiError
from vaultpki.host.log import Event, Value
from vaultpki.issue.signing import Signed
from vaultpki.layout import shown
from vaultpki.node.assignment import Assignment
from vaultpki.node.state import IssuedRecord, PostponedRenewal, with_spent, with_unanswered
from vaultpki.pki.facts import Trust
from vaultpki.pki.renewal import Reason
from vaultpki.redact import stamp

if TYPE_CHECKING:
    from vaultpki.pki.keys import PrivateKey


@dataclass(frozen=True, slots=True)
class Renewed:
    """The names of certificates that were installed, and how many Vault was asked to sign."""

    renewed: tuple[str, ...] = ()
    requested: int = 0


def renew(
    context: Context,
    contact: Contact,
    wanted: Assignment,
    items: Collection[PairStatus],
    trust: Mapping[str, Trust],
) -> Renewed:
    """Sign and install what is missing or due; failures go to `context.found` and keep no other certificate back."""
    _note_exposed(context, items)
    done = sign(context, contact, wanted, items, trust)
    mend(context, [item for item in items if item.want.name not in done.renewed])
    return done


def postpone_late(context: Context, contact: Contact, answered: float | None, items: Collection[PairStatus]) -> bool:
    """Postpone renewals that come late, and say so; return whether there are any.

    `answered` is when Vault had last answered before this pass (Unix time), None if nobody knows. A person who asks
    waits for nothing, and a clock that is wrong tells nothing.
    """
    if contact.usable is None or answered is None or not context.options.share or abs(contact.clock_offset) > SKEW:
        return False
    state, node, found = context.state.value, context.config.node, dict[str, PostponedRenewal]()
    for item in items:
        name, due = item.want.name, item.verdict.renew_after
        each = pairs.postponed(item, node, state, answered, context.now)
        if each is None or due is None:
            continue
        found[name], until = each, stamp(datetime.fromtimestamp(each.until, UTC))
        text = f"{name} was due for renewal at {stamp(due)}, when Vault could not be asked; it waits until {until}"
        text += ", so that not every node renews at once"
        context.found.events.append(Event("postponed", text, fields={"certificate": name, "renew_after": until}))
    context.state.value = replace(state, postponed={**state.postponed, **found})
    return bool(found)


def _note_exposed(context: Context, items: Collection[PairStatus]) -> None:
    """Record whose keys others could read, before the mode is corrected that tells it; logged once."""
    state, found = context.state.value, {}
    for item in items:
        name = item.want.name
        if item.leaf is not None and Reason.KEY_EXPOSED in item.verdict.reasons:
            found[name] = item.leaf.serial
            if state.exposed.get(name) != item.leaf.serial:
                text = f"others could read the key of {name}; it gets a new key and certificate"
                context.found.events.append(Event("exposed", text, "warning", {"certificate": name}))
    if found != state.exposed:
        context.state.value = replace(state, exposed=found)
        with contextlib.suppress(StoreError):
            context.state.save()


def sign(
    context: Context,
    contact: Contact,
    wanted: Assignment,
    items: Collection[PairStatus],
    trust: Mapping[str, Trust],
    keys: Mapping[str, PrivateKey] = MappingProxyType({}),
) -> Renewed:
    """Sign and install those of `items` that want it, as `renew`; `keys` are as in `pairs.sign`."""
    allowed = _allowed(context, contact, wanted, [item for item in items if item.wants_signing], trust)
    if not allowed or contact.vault is None:
        return Renewed()
    early = {item.want.name for item in allowed if pairs.premature(item, context.state.value, context.clock)}
    # Record each signing attempt before sending it: a crash in between must not allow one more.
    attempts = {item.want.name: context.clock for item in allowed}
    context.state.save(with_unanswered(with_spent(context.state.value, attempts), attempts, context.clock))
    first = {item.want.name for item in allowed if item.leaf is None}
    ends = {item.want.name: item.ends for item in allowed}
    renewed, requested = [], 0
    signed = pairs.sign(context.config, context.folders, contact.vault, allowed, trust, context.now, keys)
    for name, result in signed.items():
        # Without a valid CA Vault was not asked.
        requested += not (isinstance(result, CertificateRefused) and result.reason == "nothing-live")
        if isinstance(result, VaultpkiError):
            _record_failure(context, name, result)
            continue
        if name not in early:
            context.state.value = with_spent(context.state.value, {name: None})
        renewed.append(name)
        end = ends[name]
        final = end is not None and result.facts.not_after >= end
        _record(context, name, result, "issued" if name in first else "renewed", final=final)
    return Renewed(tuple(renewed), requested)


def mend(context: Context, items: Collection[PairStatus]) -> None:
    """Correct the modes, owners and chains of pairs that are whole; failures go to `context.found`."""
    for item in items:
        if item.problem is not None:
            context.found.failures[item.want.name] = item.problem
        elif item.mendable:
            try:
                pairs.mend(context.config, context.folders, item)
            except StoreError as error:
                context.found.failures.setdefault(item.want.name, error)
            else:
                if Reason.CHAIN_OLD in item.verdict.reasons:
                    text = f"added the current CA certificate to the files of {item.want.name}"
                    context.found.events.append(Event("chain", text, fields={"certificate": item.want.name}))


def _allowed(
    context: Context,
    contact: Contact,
    wanted: Assignment,
    wanting: Collection[PairStatus],
    trust: Mapping[str, Trust],
) -> list[PairStatus]:
    """Those that may be signed now; the others become failures that say why not."""
    if not wanting:
        return []
    common = _nothing_can_be_signed(context, contact)
    full = {} if common is not None else _full(context, Counter(item.want.folder for item in wanting))
    allowed = []
    for item in wanting:
        reason = common or full.get(item.want.folder) or _cannot_install(context, wanted, item, trust[item.want.ca])
        reason = reason or ca_trust.wrong_default(
            wanted, trust[item.want.ca], item.want, item.issuer, context.clock + context.config.poll
        )
        reason = reason or pairs.held_back(item, context.state.value, context.clock, context.config.poll)
        if reason is None:
            allowed.append(item)
            continue
        context.found.failures[item.want.name] = reason
        if isinstance(reason, SigningPaused):
            context.found.retry_at.append(reason.at)
    return allowed


def _nothing_can_be_signed(context: Context, contact: Contact) -> VaultpkiError | None:
    if contact.away is not None:
        return contact.away
    if contact.clock_offset > SKEW:
        return context.found.failures["clock"]
    try:
        probe_folder(context.config.state)
    except StoreError as error:
        return error
    return None


def _full(context: Context, counts: Mapping[str, int]) -> dict[str, StoreError]:
    """The folders in which so many pairs cannot be written now, and why."""
    found = {}
    for folder, count in counts.items():
        try:
            context.folders.probe(folder, count)
        except StoreError as error:
            found[folder] = error
    return found


def _cannot_install(context: Context, wanted: Assignment, item: PairStatus, trust: Trust) -> VaultpkiError | None:
    """Why this pair must not be installed: somebody's own files are in its place, or readers do not know its CA."""
    failures = context.found.failures
    try:
        context.folders.refuse_taken(item.want.folder, file_set(item.want.stem), pair_files(item.want.stem))
    except StoreError as error:
        return error
    distrusted = bundles.distrusted(context.folders, bundles.needed(context.config, wanted), item.want.ca, trust)
    if distrusted is None:
        return None
    bundle, untrusted = distrusted
    whole, one = shown(bundle.folder, BUNDLES), shown(bundle.folder, bundle.file)
    return failures.get(whole) or failures.get(one) or untrusted


def _record_failure(context: Context, name: str, error: VaultpkiError) -> None:
    context.found.failures[name] = error
    state = context.state.value
    if isinstance(error, SigningPaused):
        state = replace(state, held={**state.held, name: error.at})
        context.found.retry_at.append(error.at)
    if not pairs.unanswered(error):
        state = with_unanswered(state, [name], None)
    context.state.value = state if pairs.may_have_signed(error) else with_spent(state, {name: None})


def _record(context: Context, name: str, signed: Signed, verb: str, *, final: bool) -> None:
    """Remember a certificate that was installed; `final` is whether it ends with the CA that signed it."""
    state = with_unanswered(context.state.value, [name], None)
    state = replace(state, exposed={each: serial for each, serial in state.exposed.items() if each != name})
    before, issued = state.certificates.get(name), pairs.known(signed, context.now)
    context.state.value = replace(state, certificates={**state.certificates, name: issued})
    text = f"{verb} {name}"
    if final:
        ends = stamp(signed.facts.not_after)
        text += f", until {ends}, when its CA expires; run `vaultpki ca rotate {signed.certificate.ca}`"
    elif pairs.short(issued) and not _said_before(before, issued):
        text += f" (Vault granted only {issued.granted} s; the next renewal follows that)"
    fields: dict[str, Value] = {
        "certificate": name,
        "serial": f"{signed.facts.serial:x}",
        "not_after": stamp(signed.facts.not_after),
        "asked": issued.asked,
        "granted": issued.granted,
    }
    context.found.events.append(Event(verb, text, fields=fields))


def _said_before(before: IssuedRecord | None, issued: IssuedRecord) -> bool:
    """Whether the renewal before was granted as little, which is logged once."""
    return before is not None and before.asked == issued.asked and pairs.short(before)
