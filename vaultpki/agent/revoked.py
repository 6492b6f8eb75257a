"""Notices that a certificate of this node was revoked: the CA's mount shows it, to everybody and without a token.

A node that is locked can ask too, so that it shows what it may not renew. A false answer makes the node renew, within
the brakes on signings, and nothing else.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from dataclasses import replace

from vaultpki.agent.context import Contact, Context
from vaultpki.agent.pairs import PairStatus
from vaultpki.errors import CertificateUnreadable, SpecError, Unavailable, Untrusted, VaultError
from vaultpki.host.log import Event
from vaultpki.node import credential
from vaultpki.pki import x509
from vaultpki.pki.facts import Facts, serial_text
from vaultpki.vault import Vault, text


def note_revoked(context: Context, contact: Contact, items: Collection[PairStatus]) -> bool:
    """Ask Vault for each installed leaf, and keep in the state what is revoked; return whether that is news.

    Vault is not asked if this pass did not reach it. What it does not answer, or answers in another form, says nothing.
    """
    vault = _anybody(context, contact)
    if vault is None:
        return False
    known = context.state.value.revoked
    found = dict(_revoked(vault, items, known))
    for name, leaf in found.items():
        serial = serial_text(leaf.serial)
        words = f"{name} was revoked (serial {serial}): it is replaced as soon as Vault signs another one"
        context.found.events.append(Event("revoked", words, "warning", {"certificate": name, "serial": serial}))
    serials = {name: leaf.serial for name, leaf in found.items()}
    context.state.value = replace(context.state.value, revoked={**known, **serials})
    return bool(found)


def _anybody(context: Context, contact: Contact) -> Vault | None:
    """Return Vault without a token: Vault refuses that of a locked node even what needs none."""
    if contact.vault is not None and contact.away is None:
        return contact.vault.as_token("")
    if contact.vault is None and contact.reached:
        try:
            return credential.server(context.config, allow_http=context.options.allow_http)
        except SpecError:
            return None
    return None


def _revoked(vault: Vault, items: Collection[PairStatus], known: Mapping[str, int]) -> Iterator[tuple[str, Facts]]:
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
