"""The pairs and kubeconfigs on a node that its record does not name: each stays until its certificate has expired.

A record takes nothing away: whoever can write one must not be able to delete a node's keys. Such a pair is not renewed,
nothing else takes its path, and only root on the node removes it sooner (`vaultpki agent --once --prune`).
"""

from __future__ import annotations

import contextlib
from collections.abc import Collection, Iterator, Sequence
from dataclasses import replace

from vaultpki.agent import token_keys
from vaultpki.agent.context import Contact, Context
from vaultpki.agent.pairs import PairStatus, holder, of_another
from vaultpki.certificates import BUNDLES, ISSUING_CAS, ca_subject, file_set, pair_files
from vaultpki.disk.folders import Folders
from vaultpki.errors import CertificateUnreadable, StoreError, VaultpkiError
from vaultpki.host.log import Event, Value
from vaultpki.layout import shown
from vaultpki.model import NodeRole
from vaultpki.node.assignment import Assignment, SurplusPair
from vaultpki.node.state import AgentState
from vaultpki.pki import x509
from vaultpki.pki.facts import Facts
from vaultpki.pki.trust import named_by_owner
from vaultpki.places import PKI
from vaultpki.records.node_report import PRUNE
from vaultpki.redact import stamp


def find_surplus(
    cluster: str, folders: Folders, items: Collection[PairStatus], state: AgentState
) -> tuple[SurplusPair, ...]:
    """Return the pairs on the disk that are not of the certificate that is wanted there, if any is.

    `items` are the wanted certificates as `pairs.inspect` found them: what it could read in a place belongs there.
    Raises StoreError if a folder cannot be read.
    """
    at = {(item.want.folder, file_set(item.want.stem)): item for item in items}
    found = []
    for folder, stem in _stems(folders):
        item = at.get((folder, file_set(stem)))
        if item is not None and item.problem is None:
            continue
        leaf, *served = _read(folders, folder, stem) or (None,)
        name = holder(state, folder, stem, leaf)
        if item is None or (leaf is not None and of_another(item.want, name, leaf)):
            found.append(SurplusPair(name or stem, _domain(cluster, served), folder, stem, leaf, tuple(served)))
    return tuple(found)


def _stems(folders: Folders) -> Iterator[tuple[str, str]]:
    """Yield folder and stem of each pair on the disk; keys for tokens have rules of their own."""
    for (folder, name), held in folders.file_sets().items():
        stems = {one.removesuffix(".crt") for one in held if one.endswith(".crt")} or {name}
        if name != BUNDLES and not (folder == PKI and token_keys.is_ours(name)) and len(stems) == 1:
            yield folder, stems.pop()


def _read(folders: Folders, folder: str, stem: str) -> tuple[Facts, ...]:
    """Return the leaf and the chain after it; nothing for a pair that cannot be read, which stays all the more."""
    file = pair_files(stem)[0]
    with contextlib.suppress(StoreError, CertificateUnreadable):
        return x509.read_certificates(folders.read(folder, file_set(stem), [file])[file].data or b"")
    return ()


def _domain(cluster: str, served: Sequence[Facts]) -> str:
    """Return the domain of the CA after a leaf, which was checked when the leaf came; "" if there is none."""
    signers = [ca for facts in served[:1] for ca in ISSUING_CAS if named_by_owner(facts, ca_subject(cluster, ca))]
    return next(iter(signers), "")


def remove(
    context: Context, contact: Contact, wanted: Assignment, found: tuple[SurplusPair, ...]
) -> tuple[SurplusPair, ...]:
    """Remove the surplus pairs that have expired, with `prune` all of them; return those that stay.

    One in the place of a wanted certificate is given up instead, and replaced in one step once that is signed. Without
    a word of Vault in this pass nothing is removed: its clock says what has expired, and its record what is surplus.
    Raises StoreError.
    """
    if contact.usable is None or "clock" in context.found.failures:
        if context.options.prune:
            context.found.failures["prune"] = VaultpkiError(
                "nothing was removed, since Vault did not say what this node holds; run it again when Vault answers"
            )
        return found
    prune, left = context.options.prune, []
    places = {(want.folder, file_set(want.stem)) for want in wanted.certificates}
    for pair in found:
        if not prune and (pair.leaf is None or pair.leaf.not_after > context.now):
            left.append(pair)
        elif (pair.folder, file_set(pair.stem)) in places:
            _give_up(context, pair)
        else:
            remove_set(context, pair.folder, file_set(pair.stem))
    if prune and NodeRole.CONTROL_PLANE not in wanted.roles:
        for folder, name in context.folders.file_sets():
            if folder == PKI and token_keys.is_ours(name):
                remove_set(context, folder, name)
    return tuple(left)


def _give_up(context: Context, pair: SurplusPair) -> None:
    """Forget of which certificate a pair is, so that the one that is wanted in its place may replace it."""
    state, sha256 = context.state.value, pair.leaf.fingerprint if pair.leaf is not None else ""
    leaves = {name: each for name, each in state.leaves.items() if each.sha256[:1] != (sha256,)}
    surplus = {place: each for place, each in state.surplus.items() if place != pair.place}
    context.state.value = replace(state, leaves=leaves, surplus=surplus)


def remove_set(context: Context, folder: str, name: str) -> None:
    """Remove a file set, and say so; raises StoreError."""
    context.folders.remove(folder, name)
    text = f"removed {shown(folder, name)}, which this node no longer holds"
    context.found.events.append(Event("removed", text))


def note(context: Context, pairs: Collection[SurplusPair]) -> None:
    """Remember the surplus pairs, and say of each new one that it stays."""
    before = context.state.value.surplus
    for pair in pairs:
        if pair.place not in before:
            fields: dict[str, Value] = {"certificate": pair.name, "path": pair.place}
            context.found.events.append(Event("surplus", f"{sentence(pair)}; `{PRUNE}` removes it", "warning", fields))
    remembered = {pair.place: (pair.name, pair.leaf.fingerprint if pair.leaf else "") for pair in pairs}
    context.state.value = replace(context.state.value, surplus=remembered)


def sentence(pair: SurplusPair) -> str:
    """Return what a surplus pair is, and until when it stays."""
    until = f"until {stamp(pair.leaf.not_after)}" if pair.leaf is not None else "though it cannot be read"
    return f"{pair.place}: {pair.name} is surplus, since this node's record does not name it, and stays {until}"
