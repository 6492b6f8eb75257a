"""What a pass does: install new trust, renew pairs, remove old trust, and remember how the files lie now.

The order protects the node. New trust is installed before any leaf that needs it. Each signing attempt is recorded on
disk before Vault is asked. Old trust is removed last, and the agent's state is written once it is true.
"""

from __future__ import annotations

import contextlib
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field, replace
from hashlib import sha256

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
from vaultpki.agent.bundles import BundleDigest
from vaultpki.agent.context import Contact, Context
from vaultpki.agent.known import compare
from vaultpki.agent.pairs import PairStatus
from vaultpki.agent.sign_due import Renewed
from vaultpki.agent.token_keys import KeysResult
from vaultpki.agent.wanted import Wanted
from vaultpki.certificates import BUNDLES, ROOT
from vaultpki.disk.generations import StoredFile
from vaultpki.errors import StoreError, VaultpkiError
from vaultpki.host.log import Event, Value
from vaultpki.issue.issuers import untrusted_cas
from vaultpki.layout import shown
from vaultpki.node import credential
from vaultpki.node.assignment import Assignment, SurplusPair
from vaultpki.pki import foreign_cas
from vaultpki.pki.facts import Trust
from vaultpki.vault import Vault


@dataclass(frozen=True, slots=True)
class Done:
    """What was wanted, with the surplus pairs that stay, and how the pairs are now; `signed` is what was renewed.

    `held` is what the installed bundles hold. `untrusted` are sentences about CAs that Vault shows or offers and this
    node does not take. `mended` are the files that somebody else had changed, as in Outcome. `servers` are those that
    the installed kubeconfigs name, each with its CA file.
    """

    wanted: Wanted
    items: tuple[PairStatus, ...]
    signed: Renewed
    keys: KeysResult
    held: Mapping[str, BundleDigest]
    untrusted: tuple[str, ...]
    mended: tuple[str, ...] = ()
    servers: Mapping[str, str] = field(default_factory=dict)


def carry_out(context: Context, contact: Contact, wanted: Wanted) -> Done:
    """Make the node's files what they should be; the directory of `context` is locked."""
    found, config = context.found, context.config
    wanted = _with_surplus(context, contact, wanted)
    assigned, trust, items = wanted.assigned, wanted.trust, wanted.items
    left, before = context.state.value.left, _files(context, items)
    found.failures.update(ca_trust.complaints(assigned, trust, context.state.value))
    untrusted = [*_report_untrusted_cas(context, assigned, trust), *_report_ignored_cas(context, trust)]
    # New trust first: a leaf of a new issuing CA must not come before its readers know the CA. Old trust last: a CA
    # must not go before its leaves.
    during = bundles.with_outgoing(config, context.folders, assigned, trust, items, context.now)
    during = bundles.in_order(config, during, items)
    # No kubeconfig may point at a pair that is not there yet.
    waiting = {item.want.name for item in items if not item.ready}
    first = _install_bundles(context, assigned, during, waiting)
    if first.changed:
        # The pass may be killed while it waits for Vault.
        context.state.value = replace(context.state.value, left={**left, **_files(context, items)})
    signed = sign_due.renew(context, contact, assigned, items, trust)
    items = compare(context, pairs.read(context.folders, assigned.certificates), trust)
    after = bundles.with_outgoing(config, context.folders, assigned, trust, items, context.now)
    after = bundles.in_order(config, after, items)
    if during != after or (first.kept and waiting.intersection(signed.renewed)):
        _install_bundles(context, assigned, after, waiting.difference(signed.renewed))
    kubeconfigs.install(context, assigned.server, items)
    keys = token_keys.reconcile_keys(context, contact, assigned, trust)
    if all(item.ready for item in items):
        _remove_old_files(context, assigned)
    found.events.extend(Event("rewritten", text, "warning") for text in context.folders.rewritten)
    mended = _tell_mended(context, assigned, left, before, _files(context, items), keys)
    # What cannot be read cannot be put right either.
    servers = dict[str, str]()
    with contextlib.suppress(StoreError):
        servers = kubeconfigs.servers(context, items)
    report.note_installed(context, assigned, items, keys.keys, servers)
    readers_seen.note(context, assigned)
    stored = assigned.keys.record
    nobody = stored is None or not any(each.admitted for each in stored.nodes.values())
    token_keys.note_admission(context, keys.keys, readers_seen.OF_TOKEN_KEYS, first=nobody)
    held = bundles.digests(context.folders, config.layout, {ca: known.foreign for ca, known in trust.items()})
    hook_schedule.note_trust(context, held)
    if contact.usable is not None:
        _roll_credential(context, contact.usable)
    return Done(wanted, items, signed, keys, held, (*untrusted, *keys.refused), mended, servers)


def _files(context: Context, items: Collection[PairStatus]) -> dict[str, str]:
    """Return in one line what each bundle, kubeconfig and pair holds, and its mode; made from no private key.

    What cannot be read is left out: it cannot be put right either.
    """
    folders, found = context.folders, dict[str, str]()
    for item in items:
        whole = item.leaf.fingerprint if item.leaf is not None and not item.broken else "broken"
        modes = (f"{stored.mode:o}" for stored in item.stored.values())
        found[shown(item.want.folder, f"{item.want.stem}.crt")] = " ".join([*modes, whole])
        if folders.kubeconfigs is not None and kubeconfigs.is_plain(item.want):
            name = str(item.want.kubeconfig)
            with contextlib.suppress(StoreError):
                found[name] = _line(folders.kubeconfigs.read(name))
    with contextlib.suppress(StoreError):
        sets = [(folder, names) for (folder, name), names in folders.file_sets().items() if name == BUNDLES]
        for folder, names in sets:
            read = folders.read(folder, BUNDLES, names)
            found |= {shown(folder, each): _line(stored) for each, stored in read.items()}
    return found


def _line(stored: StoredFile) -> str:
    return f"{stored.mode:o} {sha256(stored.data or b'').hexdigest()}"


def _tell_mended(
    context: Context,
    assigned: Assignment,
    left: Mapping[str, str],
    before: Mapping[str, str],
    after: Mapping[str, str],
    keys: KeysResult,
) -> tuple[str, ...]:
    """Return and tell which files were not as the last pass `left` them and are now; keep how they are.

    What a pass that was killed has left is right already.
    """
    name, why = token_keys.KEY_FILE, ""
    if keys.before is not None and keys.keys is not None:
        before, after = {**before, name: keys.before.left}, {**after, name: keys.keys.left}
    mended = tuple(place for place, line in left.items() if before.get(place) not in (line, after.get(place)))
    if name in mended and keys.before is not None:
        from vaultpki.agent import token_key_faults

        why = "; ".join(token_key_faults.problems(context.config, context.folders, assigned, keys.before))
    for place in mended:
        said = why if place == name and why else f"{place}: it is not as this agent has left it"
        text = f"{said}; this agent puts it right: find out who has changed it"
        context.found.events.append(Event("tampered", text, "error", {"file": place}))
    context.state.value = replace(context.state.value, left=dict(sorted(after.items())))
    return mended


def _with_surplus(context: Context, contact: Contact, wanted: Wanted) -> Wanted:
    """Return what is wanted with the surplus pairs that stay, and the pairs as they are once the others are gone."""
    found: tuple[SurplusPair, ...] = ()
    assigned, items = wanted.assigned, wanted.items
    try:
        found = surplus.find_surplus(context.config.cluster, context.folders, items, context.state.value)
        left = surplus.remove(context, contact, assigned, found)
    except StoreError as error:
        context.found.failures["old files"] = error
        # One that cannot be removed takes the kubeconfig of no other.
        return replace(wanted, assigned=replace(assigned, surplus=found))
    if left != found:
        items = compare(context, wanted.on_disk, wanted.trust, context.options.force)
    surplus.note(context, left)
    return replace(wanted, assigned=replace(assigned, surplus=left), items=items)


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
