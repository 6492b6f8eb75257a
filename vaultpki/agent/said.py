"""What Vault says in a pass: whether anything has changed, what this node is assigned, and what of it was revoked."""

from __future__ import annotations

import contextlib
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

from vaultpki.agent import ca_trust
from vaultpki.agent.context import Contact, Context
from vaultpki.agent.known import Known
from vaultpki.agent.pairs import PairStatus
from vaultpki.certificates import ROOT, SKEW
from vaultpki.errors import (
    CertificateUnreadable,
    SpecError,
    StoreError,
    Unavailable,
    Untrusted,
    VaultError,
    VaultpkiError,
)
from vaultpki.host.log import Event, Value
from vaultpki.issue.issuers import installed_bundles, installed_roots
from vaultpki.issue.rotations import RecordRead
from vaultpki.node import assignment, credential, pins
from vaultpki.node.assignment import Assignment, HeldBefore
from vaultpki.node.at_rest import AtRest
from vaultpki.node.procedures import records_of
from vaultpki.node.secret_id import SECRET_ID
from vaultpki.pki import x509
from vaultpki.pki.facts import Facts, serial_text
from vaultpki.records.changes import CHANGES, Mark
from vaultpki.records.rotation import ROTATION_FOLDER
from vaultpki.records.service_account import SERVICE_ACCOUNT_KEYS
from vaultpki.records.written import Written
from vaultpki.vault import Vault, text


@dataclass(frozen=True, slots=True)
class SaidByVault:
    """The newest answer of Vault, which is the copy on the disk if Vault did not say more, and the contact with it."""

    answer: Assignment
    contact: Contact


def ask(context: Context, known: Known) -> SaidByVault:
    """Return what Vault says, as far as this pass has to ask; raises VaultpkiError if nobody ever said what to hold.

    Vault is asked only if the copy is old or something is due, and for everything only if something has changed.
    """
    if known.copy is not None and known.enough:
        return SaidByVault(known.copy, Contact())
    found = _poll(context, known.copy, known.rest) if known.copy is not None and known.rest is not None else None
    if found is not None and found.contact.polled:
        return found
    found = found or _fetch(context, known.copy)
    if known.copy is not None:
        context.found.events.extend(_followed(known.copy, found.answer, context.state.value.revisions))
    vault = found.contact.vault
    offset = vault.clock_offset if vault is not None else None
    _remember_answer(context, found.answer, context.state.value.clock_offset if offset is None else offset)
    return found


def _followed(before: Assignment, now: Assignment, highest: Mapping[str, int]) -> Iterator[Event]:
    """Yield which records this node follows since the copy of `before`, each with who wrote it.

    `highest` are the highest revisions that were ever read: an older one is not followed.
    """
    if _assigned(now) != _assigned(before):
        by = now.applied if now.applied != before.applied else Written()
        text = f"follows the changed records of this node ({CHANGES}: {by.sentence})"
        yield Event("followed", text, fields={"record": CHANGES, **_fields(by)})
    records = _records(before)
    for name, read in _records(now).items():
        known, record = records.get(name, RecordRead()).record, read.record
        if record is None or read.frozen(highest.get(name, 0)):
            continue
        if known is not None and record.revision <= known.revision:
            continue
        path = f"{ROTATION_FOLDER}/{name}"
        text = f"follows revision {record.revision} of {path} ({record.state.value}), {read.written.sentence}"
        yield Event("followed", text, fields={"record": path, "revision": record.revision, **_fields(read.written)})


def _assigned(answer: Assignment) -> tuple[object, ...]:
    """Return what the records of the cluster, and of this node or its pool, say."""
    own = (answer.endpoint, answer.server, answer.roles, answer.certificates, answer.templates)
    return *own, answer.foreign, answer.token_key


def _records(answer: Assignment) -> dict[str, RecordRead[Any]]:
    return {**answer.rotations.read, SERVICE_ACCOUNT_KEYS: answer.keys, **answer.procedures}


def _fields(by: Written) -> dict[str, Value]:
    return {"by": by.by, "entity": by.entity}


def _poll(context: Context, copy: Assignment, rest: AtRest) -> SaidByVault | None:
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
        return SaidByVault(confirmed, _checked_clock(context, Contact(rest.vault, polled=True)))
    except Unavailable as error:
        context.state.value = replace(context.state.value, asked=context.clock)
        context.found.failures["vault"] = error
        return SaidByVault(copy, Contact(away=error, polled=True))
    except VaultpkiError:
        return None


def _step(context: Context, copy: Assignment, rest: AtRest, mark: Mark | None) -> SaidByVault | None:
    """Return what Vault says after one step of a rotation, with the kept login; None if more may have changed."""
    if mark is None or not rest.may_step(mark):
        return None
    step = assignment.SeenStep(copy, mark, rest.issuers)
    fetched = assignment.fetch_step(context.config, rest.vault, context.clock, _before(context, copy), step)
    return None if fetched is None else SaidByVault(fetched, _checked_clock(context, Contact(rest.vault, stepped=True)))


def _before(context: Context, copy: Assignment | None) -> HeldBefore:
    """Return what this node knows of before, from its files and what it remembers."""
    if copy is not None:
        # The agent's state may be lost, or another release's.
        _remember_answer(context, copy, context.state.value.clock_offset)
    folders, layout = context.folders, context.config.layout
    held = {ca: [pem] for ca, pem in installed_bundles(folders, layout).items()}
    held[ROOT] = list(installed_roots(folders, layout))
    before = {**copy.trusted, ROOT: (*copy.issuers.roots, *copy.issuers.kept)} if copy is not None else {}
    for ca, pems in before.items():
        held.setdefault(ca, []).extend(pems)
    highest = ca_trust.known_revisions(context.state.value, pins.roots_had(context.config))
    return HeldBefore(held, highest, records_of(context.options.procedures))


def _tighten(context: Context) -> None:
    config = context.config
    if credential.tighten(config):
        text = f"others could read {config.credentials}/{SECRET_ID}; it is replaced now"
        context.found.events.append(Event("credential", text, "warning"))


def _fetch(context: Context, copy: Assignment | None) -> SaidByVault:
    """What Vault says now; the copy if Vault says nothing usable, with the reason among the failures."""
    config, vault, away = context.config, None, None
    before = _before(context, copy)
    try:
        _tighten(context)
        rest = context.options.rest
        kept = rest.vault if rest is not None else None
        vault = credential.login(config, allow_http=context.options.allow_http, kept=kept)
        vault.prefer_active()
        shown_before = rest.issuers if rest is not None and rest.config == config else {}
        fetched = assignment.fetch(config, vault, context.clock, before, shown_before)
    except VaultpkiError as error:
        context.state.value = replace(context.state.value, asked=context.clock)
        if copy is None:
            with contextlib.suppress(StoreError):
                context.state.save()
            raise
        context.found.failures["vault"] = error
        away = error if vault is None or isinstance(error, Unavailable | Untrusted) else None
        fetched = copy
    return SaidByVault(fetched, _checked_clock(context, Contact(vault, away)))


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
    roots = pins.roots_had(context.config)
    context.state.value = ca_trust.remembered(context.state.value, answer, roots, context.clock, clock_offset)
    if context.state.value.revisions != context.state.at_start.revisions:
        # A state that cannot be written is a fault at the end of the pass.
        with contextlib.suppress(StoreError):
            context.state.save()


def _roughly(seconds: float) -> str:
    """A duration in words that stay the same from one pass to the next, so that they are logged once."""
    for name, length in (("days", 86400), ("hours", 3600)):
        if seconds >= 2 * length:
            return f"{seconds / length:.0f} {name}"
    return f"{max(round(seconds / 60), 1)} min"


def note_revoked(context: Context, contact: Contact, items: Collection[PairStatus]) -> bool:
    """Ask Vault for each installed leaf, and keep in the state what is revoked; return whether that is news.

    Vault is not asked if this pass did not reach it. What it does not answer, or answers in another form, says nothing.
    """
    vault = _anybody(context, contact)
    if vault is None:
        return False
    known = context.state.value.revoked
    found = dict(revoked_leaves(vault, items, known))
    for name, leaf in found.items():
        serial = serial_text(leaf.serial)
        words = f"{name} was revoked (serial {serial}): it is replaced as soon as Vault signs another one"
        context.found.events.append(Event("revoked", words, "warning", {"certificate": name, "serial": serial}))
    serials = {name: leaf.serial for name, leaf in found.items()}
    context.state.value = replace(context.state.value, revoked={**known, **serials})
    return bool(found)


def _anybody(context: Context, contact: Contact) -> Vault | None:
    """Return Vault without a token: Vault refuses that of a locked node even what needs none."""
    if contact.usable is not None:
        return contact.usable.as_token("")
    if contact.vault is None and contact.reached:
        try:
            return credential.server(context.config, allow_http=context.options.allow_http)
        except SpecError:
            return None
    return None


def revoked_leaves(
    vault: Vault, items: Collection[PairStatus], known: Mapping[str, int]
) -> Iterator[tuple[str, Facts]]:
    """Yield the installed leaves, by their names, that Vault shows as revoked and that are not among the `known` ones.

    `known` are serial numbers by name. `vault` needs no token (Vault's API page of PKI, Read certificate).
    """
    for item in items:
        # Nothing takes a revocation back.
        if item.leaf is None or known.get(item.want.name) == item.leaf.serial:
            continue
        try:
            if _shown_as_revoked(vault, item.want.mount, item.leaf):
                yield item.want.name, item.leaf
        except (Unavailable, Untrusted):
            return
        except (VaultError, CertificateUnreadable):
            continue


def _shown_as_revoked(vault: Vault, mount: str, leaf: Facts) -> bool:
    answer = vault.api.secrets.pki.read_certificate(serial_text(leaf.serial), mount_point=mount)
    when = answer.data.get("revocation_time") if answer.found else 0
    if type(when) is not int or when <= 0:
        return False
    # The answer about another certificate says nothing about this one.
    return x509.fingerprint(text(answer.data, "certificate").encode()) == leaf.fingerprint
