"""Puts the certificates of a node on the CRLs of their CAs, and checks that they are on them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from datetime import UTC, datetime

from vaultpki.certificates import issuing_cas
from vaultpki.errors import ArgumentError, BadAnswer, CertificateUnreadable, Refused
from vaultpki.identity import change_notice, nodes, revocation
from vaultpki.identity.revocation import Chosen, StoredCertificate
from vaultpki.identity.revoked_list import stored_certificates
from vaultpki.model import Cluster
from vaultpki.values import hosts, names
from vaultpki.vault import Request, Vault, text


def certificates_of(cluster: Cluster, vault: Vault, node: str, now: datetime) -> Chosen:
    """Find the node's certificates on the mounts that have not expired, also those that are revoked already.

    Raises ArgumentError for what cannot be a node's name.
    """
    if not names.fits(node, hosts.node_name):
        raise ArgumentError(f"{node!r} is not a node name")
    reports = {each.name: each.report for each in nodes.members(cluster, vault) if not each.locked}
    # Its AppRole may just have been deleted, and then it is not a member any more.
    reports[node] = nodes.own_report(cluster, vault, node)
    stored = _stored(cluster, vault, now)
    chosen = revocation.choose(cluster, node, stored, revocation.serials(reports), revocation.surplus(reports[node]))
    return replace(chosen, not_kept=revocation.not_kept(cluster, node, stored, reports[node], now))


def revoke(cluster: Cluster, vault: Vault, chosen: Chosen, say: Callable[[str], None] = lambda line: None) -> Chosen:
    """Revoke what `certificates_of` found, write the CRLs anew, and return what is revoked now.

    Raises BadAnswer if a CRL does not list a certificate then. A run that was interrupted is repeated. Agents are told,
    since they ask for revoked certificates when something has changed; a token that may not tell them revokes all the
    same, and they notice within the hour. `say` gets a line before the requests to each CA, which may take their time.
    """
    # A standby may not know yet what the record says now.
    vault.pin_to_leader()
    with change_notice.announced(cluster, vault, urgent=True) as notice:
        notice.begin()
        for ca in dict.fromkeys(target.certificate.ca for target in chosen.targets):
            mine = [target.certificate for target in chosen.targets if target.certificate.ca == ca]
            say(f"certificates of {ca} to revoke: {sum(not one.revoked for one in mine)}; then its CRL is written")
            _revoke(cluster, vault, ca, mine)
    done = tuple(replace(target, certificate=replace(target.certificate, revoked=True)) for target in chosen.targets)
    return replace(chosen, targets=done)


def _revoke(cluster: Cluster, vault: Vault, ca: str, certificates: Sequence[StoredCertificate]) -> None:
    mount = cluster.mount(ca)
    # One that has expired meanwhile needs no CRL, and Vault says so.
    requests = []
    for one in certificates:
        # hvac's method sends serial numbers only. Both servers take the certificate of a mount that has no copy of it.
        body = {"serial_number": one.serial} if one.kept else {"certificate": one.facts.pem}
        requests.append(Request("POST", f"{mount}/revoke", body, warnings=("already expired",)))
    vault.map(vault.call, [sent for sent, one in zip(requests, certificates, strict=True) if not one.revoked])
    # With auto_rebuild a CRL changes only when it is due (api-docs/secret/pki, "Rotate CRLs").
    vault.api.secrets.pki.rotate_crl(mount_point=mount)
    listed, now = _on_crls(vault, mount), datetime.now(UTC)
    missing = {one.facts.serial for one in certificates if one.facts.not_after > now} - listed
    if missing:
        raise BadAnswer(
            f"the CRL of {ca} does not list {len(missing)} of the certificates that were revoked; look at "
            f"{mount}/config/crl, and run the command again"
        )


def _on_crls(vault: Vault, mount: str) -> frozenset[int]:
    """Return the serial numbers on the CRLs of all issuers of a mount."""
    from vaultpki.pki import crl

    found: frozenset[int] = frozenset()
    for issuer in vault.api.secrets.pki.list_issuers(mount_point=mount).keys:
        try:
            # hvac has no method for the CRL of one issuer.
            answer = vault.call(Request("GET", f"{mount}/issuer/{issuer}/crl"))
            if answer.found:
                found |= crl.revoked_serials(text(answer.data, "crl").encode())
        except (Refused, BadAnswer, CertificateUnreadable):
            # An issuer that may not sign CRLs has none; what is on no other CRL is missing then.
            continue
    return found


def _stored(cluster: Cluster, vault: Vault, now: datetime) -> list[StoredCertificate]:
    """Read the leaves on the mounts of the issuing CAs that have not expired."""
    cas = issuing_cas(cluster)
    found = vault.map(lambda ca: stored_certificates(vault, cluster.mount(ca)), cas)
    return [
        StoredCertificate(ca, facts, revoked)
        for ca, stored in zip(cas, found, strict=True)
        for facts, revoked in stored
        if not facts.is_ca and facts.not_after > now
    ]
