"""Imports an existing CA with its private key, lets it sign or stops it, and removes it in the end.

A cluster that is taken over has CAs of its own, each the self-signed root of one domain. With its key in Vault, nodes
that go back to such a CA get their certificates of it here, instead of taking old pairs or keys from their disks.

**Where it lives**: on a mount of its own, `PREFIX/imported-DOMAIN`, and never beside the domain's own CA.

- Roles of the domain sign with the default issuer of their mount. Here no import, no deletion and no setting of a mount
  can make a foreign CA that default, or take the default away.
- Who imports needs rights on this mount alone. On the domain's mount the same requests could delete the cluster's CA.
- Whatever is on the mount belongs to the import, so what is left of one that was refused or interrupted can be removed
  without a guess.
- Nodes trust what the domain's mount shows if the pinned root signed it. This CA they trust by its SHA-256 only
  (`ca.also_trust`), so its mount is not read for trust.

**Who can have it sign**: three things must hold, and each is another person's to give.

1. `apply` makes the roles of nodes on this mount, and grants each node exactly its own certificates there. It does so
   only while there is such a mount.
2. The issuer's usage. At rest it is `read-only`, and the server refuses every signature. What drives the adoption
   (`adopt.imported_keys`) makes it match the adoption's record by `let_sign`: on in `returning` alone, once that record
   is written, and off in all other states, so before a gate looks whether such a certificate is left.
3. A node installs them only when the record says so.

The importer's policy has neither a path that signs nor the right to set that usage.

**Interrupted**: the issuer gets its name last. A CA without it is continued if it is the same, else removed.
**The end**: the issuer, then the key (a key in use is not deleted), then the mount.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from vaultpki.ca import waiting
from vaultpki.errors import (
    ArgumentError,
    BadAnswer,
    Denied,
    ForeignObject,
    Refused,
    SpecError,
    StateConflict,
    VaultError,
)
from vaultpki.identity import imported
from vaultpki.model import Cluster
from vaultpki.provision import authorities, carry_out
from vaultpki.provision.api_calls import delete_request
from vaultpki.provision.desired import imported_mount, marker
from vaultpki.records.adoption import OLD_CAS
from vaultpki.redact import first_few, printable
from vaultpki.values import pem
from vaultpki.values.hosts import parse_origin
from vaultpki.vault import Json, Request, Vault, member
from vaultpki.vault.issuer import CUT_SHORT

if TYPE_CHECKING:
    from vaultpki.outside.imported_key import ExistingCa
    from vaultpki.pki.facts import Facts

# Both servers warn at an import that there are no URLs, and that kubeadm's CAs may sign no CRLs; nobody reads any.
_NO_URLS: Final = ("authority information access", "AIA", "CRL")
# And when it is deleted, that it was the default of its mount and the issuer of the roles there.
_GONE: Final = ("this was configured as the default issuer", "roles reference", "CRL")
# What both answer about a mount that is not there (vault/logical_system.go).
_NO_MOUNT: Final = "No secret engine mount at"

# Characters of base64. By chance no text has so many of a key, and fewer of them help nobody.
_PART: Final = 12


@dataclass(frozen=True, slots=True)
class OldIssuer:
    """An issuer on the mount: its id and name, that of its key (empty if it has none), SHA-256 and usage."""

    id: str
    name: str
    key: str
    sha256: str
    usage: str

    @property
    def finished(self) -> bool:
        """Whether its import has come to its end."""
        return self.name == imported.ISSUER_NAME and bool(self.key)

    @property
    def signs(self) -> bool:
        """Whether it signs certificates."""
        return "issuing-certificates" in self.usage


@dataclass(frozen=True, slots=True)
class OldCaMount:
    """What is on the mount of an imported CA: `there` says whether it exists, `keys` are ids of keys."""

    there: bool = False
    issuers: tuple[OldIssuer, ...] = ()
    keys: tuple[str, ...] = ()

    @property
    def ca(self) -> OldIssuer | None:
        """The CA whose import has come to its end; None if there is none."""
        return next((each for each in self.issuers if each.finished), None)

    @property
    def signs(self) -> bool:
        """Whether it signs certificates."""
        return self.ca is not None and self.ca.signs

    def left_by(self, kept: OldIssuer | None) -> bool:
        """Whether anything is there beside the CA that is `kept` and its key."""
        return set(self.issuers) != {kept} - {None} or set(self.keys) != ({kept.key} if kept else set())


def refuse_plain_http(vault: Vault) -> None:
    """Raise ArgumentError if the key could go over plain http to another machine; no option allows that."""
    for address in dict.fromkeys((*vault.addresses, vault.address)):
        try:
            parse_origin(address, allow_http=False)
        except SpecError:
            raise ArgumentError(
                f"the key of a CA is sent over TLS only, and {address} is plain http to another machine. Use an https "
                "address: --allow-http does not change that"
            ) from None


def domain_of(cluster: Cluster, certificate: Facts, named: str | None) -> str:
    """Return the domain that a CA is imported for: the one that is `named`, else what cluster.yaml or kubeadm says.

    Raises ArgumentError if neither says it, and for a CA of this cluster.
    """
    common_name = certificate.subject.common_name
    if own := waiting.domain_of(cluster, common_name):
        name = printable(common_name)
        raise ArgumentError(f"{name} is the name of a CA of this cluster ({own}), and not of a former one")
    if named is not None:
        return named
    trusting = {each.ca for each in cluster.authority.also_trust if each.sha256 == certificate.fingerprint}
    found = sorted(trusting & set(OLD_CAS)) or [imported.COMMON_NAMES.get(common_name, "")]
    if len(found) != 1 or not found[0]:
        subject, domains = printable(certificate.subject_text), first_few(OLD_CAS)
        raise ArgumentError(f"{subject} may be a CA of {domains}: say which by --domain")
    return found[0]


def look(cluster: Cluster, vault: Vault, ca: str) -> OldCaMount:
    """Return what is there of the imported CA of a domain; ForeignObject if something else has the mount's path."""
    vault.pin_to_leader()
    mount = imported.mount(cluster, ca)
    try:
        # hvac has no method that reads one mount.
        about = vault.call(Request("GET", f"sys/mounts/{mount}")).data
    except Refused as error:
        if any(_NO_MOUNT in reason for reason in error.reasons):
            return OldCaMount()
        raise
    if about.get("type") != "pki" or about.get("description") != marker(cluster):
        raise ForeignObject(
            f"{mount} exists in Vault and was not made by vaultpki for cluster {cluster.name}; choose another `prefix` "
            f"in {cluster.file}, or move that mount"
        )
    # hvac has no method for a list of keys.
    keys = vault.call(Request("LIST", f"{mount}/keys"))
    return OldCaMount(True, _issuers(vault, mount), tuple(keys.keys))


def _issuers(vault: Vault, mount: str) -> tuple[OldIssuer, ...]:
    """Return the issuers on a mount; none if there is no such mount."""
    return tuple(_issuer(vault, mount, id_) for id_ in vault.api.secrets.pki.list_issuers(mount_point=mount).keys)


def _issuer(vault: Vault, mount: str, id_: str) -> OldIssuer:
    data: Json = vault.api.secrets.pki.read_issuer(id_, mount_point=mount).data
    hashes = pem.fingerprints(str(data.get("certificate") or ""))
    name, key, usage = (str(data.get(field) or "") for field in ("issuer_name", "key_id", "usage"))
    return OldIssuer(id_, name, key, next(iter(hashes), ""), usage)


def shown(cluster: Cluster, vault: Vault) -> dict[str, OldIssuer]:
    """Return the imported CAs by domain, as whoever leads the adoption sees them, without a right on mounts.

    Both servers list the issuers of a mount to everybody; of a mount that is not there they say that it is denied.
    """
    found = {}
    for ca in OLD_CAS:
        try:
            ready = OldCaMount(True, _issuers(vault, imported.mount(cluster, ca))).ca
        except Denied:
            continue
        if ready is not None:
            found[ca] = ready
    return found


def bring(cluster: Cluster, vault: Vault, ca: str, existing: ExistingCa) -> bool:
    """Import the CA, at rest; returns False if it was there already, and then nothing is changed.

    Raises StateConflict for another CA that was imported for this domain, and Refused or BadAnswer, with nothing left
    on the server, if the server does anything else than it was asked.
    """
    refuse_plain_http(vault)
    found = look(cluster, vault, ca)
    mount, sha256 = imported.mount(cluster, ca), existing.certificate.fingerprint
    if found.ca is not None and found.ca.sha256 != sha256:
        raise StateConflict(
            f"{mount} has another CA already (SHA-256 {found.ca.sha256}): remove it first with "
            f"`vaultpki ca import{cluster.file_option} --remove {ca}`"
        )
    half = next((each for each in found.issuers if each.sha256 == sha256 and each.key), None)
    kept = found.ca or half
    changed = found.left_by(kept) or found.ca is None
    if not found.there:
        carry_out.write_mount(cluster, vault, ("mount", mount), imported_mount(), create=True)
    _clear(vault, mount, found, kept)
    if kept is None:
        with _undone(cluster, vault, ca, existing.key_pem):
            kept = _send(cluster, vault, ca, existing)
    if not kept.finished:
        fields = {"issuer_name": imported.ISSUER_NAME, "usage": imported.AT_REST, "leaf_not_after_behavior": CUT_SHORT}
        # Not hvac's update_issuer: it sends a POST, which resets every field that is not in it.
        vault.call(Request("PATCH", f"{mount}/issuer/{kept.id}", fields, warnings=_NO_URLS))
    return changed


def _send(cluster: Cluster, vault: Vault, ca: str, existing: ExistingCa) -> OldIssuer:
    """Send the pair, and return its issuer; BadAnswer if anything else came of it."""
    mount = imported.mount(cluster, ca)
    bundle = {"pem_bundle": existing.certificate.pem + existing.key_pem}
    # hvac has no method to import a certificate with its key.
    data = vault.call(Request("POST", f"{mount}/issuers/import/bundle", bundle, once=True, warnings=_NO_URLS)).data
    made = [str(id_) for id_ in data.get("imported_issuers") or ()]
    found = look(cluster, vault, ca)
    fits = [each for each in found.issuers if each.id in made and each.sha256 == existing.certificate.fingerprint]
    # Of a certificate that is not the key's, both servers keep both, and say an empty `mapping`.
    right = len(fits) == 1 and fits[0].key != "" and member(data, "mapping").get(fits[0].id) == fits[0].key
    if not right or found.left_by(fits[0]):
        raise BadAnswer(f"{mount} made something else than the CA that was sent; check any proxy in between")
    return fits[0]


@contextlib.contextmanager
def _undone(cluster: Cluster, vault: Vault, ca: str, key: str) -> Iterator[None]:
    """Remove whatever the server keeps if the import fails.

    Of a pair whose certificate it refuses Vault keeps the key, and of others both servers keep all.
    """
    try:
        yield
    except VaultError as error:
        mount, said = imported.mount(cluster, ca), str(error)
        if _repeats(said, key):
            said = f"the import into {mount} failed, and the answer repeats a part of the key, so it is not shown here"
            if isinstance(error, Refused):
                error.reasons = ()
        try:
            _remove(cluster, vault, ca)
        except VaultError:
            # The first error says what happened; whatever it was, the key may be on the server.
            remedy = f"run this again, or `vaultpki ca import{cluster.file_option} --remove {ca}`"
            error.args = (f"{said}; the key may be on {mount}: {remedy}, which removes it",)
        else:
            error.args = (f"{said}; nothing of it was kept on the server",)
        raise


def _repeats(text: str, key: str) -> bool:
    """Return whether a text holds a part of a key in PEM. `redact.hide` knows one by its first line only."""
    body = "".join(line for line in key.splitlines() if not line.startswith("-----"))
    said = "".join(text.split())
    return any(body[at : at + _PART] in said for at in range(len(body) - _PART + 1))


def let_sign(cluster: Cluster, vault: Vault, ca: str, *, on: bool) -> bool:
    """Let the imported CA of a domain sign certificates of nodes, or stop it; returns whether anything changed.

    Only what drives the adoption calls it, with what the adoption's record says. It needs the list of issuers on the
    mount, and `read` and `patch` of each. Raises StateConflict if no CA of this domain was imported.
    """
    vault.pin_to_leader()
    mount = imported.mount(cluster, ca)
    found = OldCaMount(True, _issuers(vault, mount))
    if found.ca is None:
        raise StateConflict(f"no CA was imported for {ca}; `vaultpki ca import{cluster.file_option} --key` imports it")
    if found.signs is on:
        return False
    usage = imported.MAY_SIGN if on else imported.AT_REST
    # As in `bring`: hvac sends a POST.
    vault.call(Request("PATCH", f"{mount}/issuer/{found.ca.id}", {"usage": usage}, warnings=_NO_URLS))
    return True


def remove(cluster: Cluster, vault: Vault, ca: str) -> bool:
    """Delete the imported CA of a domain, its key and its mount; returns False if there was none.

    Raises StateConflict as long as it signs: nodes are on the way back to it then. A run that was interrupted is
    continued when it is repeated.
    """
    if look(cluster, vault, ca).signs:
        raise StateConflict(
            f"the imported CA of {ca} signs now, for nodes that go back to it. It can be removed when the adoption "
            "has come to `prepared`, or is done. See `vaultpki adopt status`"
        )
    return _remove(cluster, vault, ca)


def _remove(cluster: Cluster, vault: Vault, ca: str) -> bool:
    found = look(cluster, vault, ca)
    if not found.there:
        return False
    mount = imported.mount(cluster, ca)
    _clear(vault, mount, found, None)
    vault.call(delete_request(cluster, vault, ("mount", mount)))
    return True


def _clear(vault: Vault, mount: str, found: OldCaMount, kept: OldIssuer | None) -> None:
    """Delete every issuer and key on the mount but those of `kept`."""
    for issuer in found.issuers:
        if issuer is not kept:
            pki = vault.sending(warnings=_GONE).api.secrets.pki
            pki.delete_issuer(issuer.id, mount_point=mount)
    for key in found.keys:
        if kept is None or key != kept.key:
            authorities.delete_key(vault, mount, key)
