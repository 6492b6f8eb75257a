"""Makes the CAs of a cluster: the root, and the issuing CAs that it signs. Vault makes every key and keeps it."""

from __future__ import annotations

import time
from collections.abc import Collection
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

from vaultpki.certificates import ISSUING_BACKDATE, ROOT, ROOT_BACKDATE, ca_subject
from vaultpki.errors import BadAnswer
from vaultpki.identity import outside_signer
from vaultpki.identity.revoked_list import stored_certificates
from vaultpki.model import Cluster, OutsideRoot
from vaultpki.provision.read_back import own_issuer
from vaultpki.records import above
from vaultpki.records.server_facts import Fields
from vaultpki.vault import Json, Request, Vault, check_named, member, text
from vaultpki.vault.issuer import CUT_SHORT, FULL, READ_ONLY

if TYPE_CHECKING:
    from vaultpki.pki.facts import Facts

# hvac has no method for keys or for a mount's defaults: those requests are written here.

# One that was signed before and lacks more of the life that is asked for now is not taken: another is signed.
_OLDEST = timedelta(days=1)
_SLACK = timedelta(hours=1)

# In seconds: more than the signing can take, and far less than any TTL of a CA.
_CLOCK_SLACK = 3600

# Vault warns of these at every CA; they are intended.
_NO_AIA = ("authority information access", "AIA configuration")
_PATHLEN = ("Max path length of the signed certificate is zero",)
# OpenBao warns that a mount's maximum shortens a CA's life, Vault does not; `_check_life` looks at what was granted.
_CUT_SHORT = ("is longer than permitted maxTTL",)
# Of a root from outside; every other default issuer has a key, or `rotation` says that it lacks one.
_KEYLESS = ("default issuer has no key",)
# Of a CA that may sign no CRLs: nothing is signed there.
_MUTE = ("crl-signing", "CRL")
_NO_DEFAULT = ("this was configured as the default issuer", "this was configured as the default key")

# The fields of an issuer that a PATCH sets; the others are set when it is made, or on its mount.
_URLS = ("issuing_certificates", "crl_distribution_points", "ocsp_servers")
_PATCHED = ("issuer_name", "leaf_not_after_behavior", "usage", *_URLS)


def make_root(cluster: Cluster, vault: Vault, mount: str, wanted: Fields, keys: frozenset[str]) -> str:
    """Make the root CA and return the SHA-256 of its certificate.

    `keys` are the names of the keys that the mount has. Raises BadAnswer if the CA got a shorter life than asked.
    """
    way, key = _key(cluster, vault, mount, keys)
    parameters = {
        **key,
        "issuer_name": wanted["issuer_name"],
        "ttl": wanted["ttl"],
        "not_before_duration": ROOT_BACKDATE,
        "exclude_cn_from_sans": True,
        "format": "pem",
    }
    pki = vault.sending(once=True, warnings=_NO_AIA + _CUT_SHORT).api.secrets.pki
    data = pki.generate_root(way, ca_subject(cluster.name, ROOT), parameters, mount_point=mount).data
    check_named(data, "issuer_name", wanted["issuer_name"], f"{mount}/root/generate")
    certificate = text(data, "certificate")
    try:
        check_life(mount, data, wanted)
    except BadAnswer:
        # The next apply would take it for the cluster's root.
        issuer, key_id = text(data, "issuer_id"), text(data, "key_id")
        delete_issuer(vault, mount, issuer)
        delete_key(vault, mount, key_id)
        raise
    from vaultpki.pki import x509

    return x509.fingerprint(certificate.encode())


def make_issuing(cluster: Cluster, vault: Vault, mount: str, wanted: Fields, keys: frozenset[str]) -> None:
    """Make an issuing CA, signed by the root. `keys` and what is raised are as for `make_root`."""
    way, key = _key(cluster, vault, mount, keys)
    subject = ca_subject(cluster.name, mount.rpartition("/")[2])
    issuer = _install(cluster, vault, mount, NewCa(subject, wanted["ttl"], way, key))
    _patch_issuer(vault, mount, issuer, {name: wanted[name] for name in _PATCHED})


def install_chain(vault: Vault, mount: str, outside: OutsideRoot, left_out: Collection[str] = ()) -> str:
    """Install the CAs of a root from outside on the root's mount, without keys, and return the SHA-256 of the anchor.

    The anchor comes first and is the default, since the mount has none. What is there already stays. Those are not
    installed whose issuers would have a name in `left_out`.
    """
    make_default(vault, mount, _install_above(vault, mount, outside.anchor, own_issuer(mount)))
    for pem in outside.others:
        if above.name(pem) not in left_out:
            install_above(vault, mount, pem)
    return above.sha256(outside.anchor)


def install_above(vault: Vault, mount: str, pem: str) -> None:
    """Install a CA of the chain other than the anchor on the root's mount, under its name, for nodes to read."""
    _install_above(vault, mount, pem, above.name(pem))


def _install_above(vault: Vault, mount: str, pem: str, name: str) -> str:
    id_ = import_keyless(vault, mount, pem)
    _patch_issuer(vault, mount, id_, {"issuer_name": name, "usage": READ_ONLY})
    return id_


def import_keyless(vault: Vault, mount: str, pem: str) -> str:
    """Import a certificate without a key, and return the id of its issuer; the same one again if it is there."""
    # hvac has no method for it.
    request = Request("POST", f"{mount}/issuers/import/cert", {"pem_bundle": pem}, warnings=_NO_AIA + _MUTE)
    data = vault.call(request).data
    ids = [*(data.get("imported_issuers") or ()), *(data.get("existing_issuers") or ())]
    if len(ids) != 1:
        raise BadAnswer(f"{mount} imported one CA, and names {len(ids)} issuers; run this again")
    return str(ids[0])


def make_waiting_key(cluster: Cluster, vault: Vault, mount: str) -> None:
    """Make the key of an issuing CA that a signer outside is to sign, if the mount does not have it."""
    key = cluster.authority.key
    named = {"key_name": own_issuer(mount), "key_type": key.vault_type, "key_bits": key.vault_bits}
    _request(cluster, vault, mount, NewCa(ca_subject(cluster.name, mount.rpartition("/")[2]), 0, "internal", named))


def signing_request(cluster: Cluster, vault: Vault, mount: str, subject: str, key: str) -> str:
    """Return a signing request in PEM for a key that the mount has, by its id or name; nothing is changed.

    The signature of a request may differ from time to time; its subject and its key do not.
    """
    return text(_request(cluster, vault, mount, NewCa(subject, 0, "existing", {"key_ref": key})), "csr")


def cross_request(vault: Vault, mount: str, subject: str, key: str) -> str:
    """Return a request in PEM by which another root vouches for one that the mount made, by its name and key."""
    body = {"key_ref": key, "common_name": subject, "exclude_cn_from_sans": True, "format": "pem"}
    # hvac has no method for it.
    request = Request("POST", f"{mount}/intermediate/cross-sign", body, warnings=_NO_AIA + _MUTE)
    return text(vault.call(request).data, "csr")


def _request(cluster: Cluster, vault: Vault, mount: str, new: NewCa) -> Json:
    """Have a mount make the signing request of an issuing CA, with what signers outside want to see."""
    pki = vault.sending(once=new.way == "internal", warnings=_NO_AIA).api.secrets.pki
    parameters = {
        **new.key,
        **{name: list(values) for name, values in cluster.authority.subject.items()},
        "exclude_cn_from_sans": True,
        "add_basic_constraints": True,
    }
    made: Json = pki.generate_intermediate(new.way, new.subject, parameters, mount_point=mount).data
    return made


def sign_successor(cluster: Cluster, vault: Vault, mount: str, subject: str, key: str, ttl: int) -> str:
    """Sign a CA for a key that the mount has, and return the id of its issuer, which has no name yet.

    `subject` is its common name, `key` the id of the key, `ttl` its life in seconds. Raises BadAnswer, and leaves
    nothing behind, if the certificate is not exactly that.
    """
    return _install(cluster, vault, mount, NewCa(subject, ttl, "existing", {"key_ref": key}))


def make_key(cluster: Cluster, vault: Vault, mount: str, name: str) -> str:
    """Make a key of this name and return its id."""
    key = cluster.authority.key
    body = {"key_name": name, "key_type": key.vault_type, "key_bits": key.vault_bits}
    made = member(vault.write(f"{mount}/keys/generate/internal", body, once=True), "data")
    check_named(made, "key_name", name, f"{mount}/keys/generate/internal")
    return text(made, "key_id")


@dataclass(frozen=True, slots=True)
class NewCa:
    """An issuing CA to be signed: its common name, its life in seconds, and how its request is made.

    `way` is the last part of the path that makes the request, `key` the parameters of its key.
    """

    subject: str
    ttl: int
    way: str
    key: Json


def _install(cluster: Cluster, vault: Vault, mount: str, new: NewCa) -> str:
    """Have the root sign a CA, check it, and install it on its mount; returns the id of its issuer."""
    pki = vault.sending(once=True, warnings=_NO_AIA).api.secrets.pki
    if cluster.authority.outside is None:
        own = {"exclude_cn_from_sans": True}
        request = pki.generate_intermediate(new.way, new.subject, {**new.key, **own}, mount_point=mount).data
        held = fingerprints(vault, mount) if new.way == "existing" else None
        certificate = signed_by_root(cluster, vault, mount, new, text(request, "csr"), held)
    else:
        request = _request(cluster, vault, mount, new)
        domain, csr = mount.rpartition("/")[2], text(request, "csr")
        certificate = outside_signer.sign(cluster, vault, domain, csr, new.subject, new.ttl)
    return install_signed(vault, mount, certificate, str(request.get("key_id") or new.key.get("key_ref")))


def install_signed(vault: Vault, mount: str, certificate: str, key: str) -> str:
    """Install a CA that was signed for the key with this id; returns the id of its issuer, which has no name yet.

    Raises BadAnswer, and leaves nothing behind, if it is for another key.
    """
    pki = vault.sending(once=True, warnings=_NO_AIA).api.secrets.pki
    # The CA alone: a chain would add the root as a second issuer of this mount.
    imported = pki.set_signed_intermediate(certificate, mount_point=mount).data
    issuers = imported.get("imported_issuers") or imported.get("existing_issuers")
    if not isinstance(issuers, list) or not issuers:
        raise BadAnswer(f"{mount} imported its signed CA, but names no issuer; run this again")
    # Both servers also import a CA of another key, which they do not have (set-signed's `mapping` is empty then).
    if member(imported, "mapping").get(str(issuers[0])) != key:
        delete_issuer(vault, mount, str(issuers[0]))
        raise BadAnswer(f"the root signed another key than that of {mount}; check any proxy in between, apply again")
    return str(issuers[0])


def signed_by_root(
    cluster: Cluster, vault: Vault, mount: str, new: NewCa, csr: str, held: Collection[str] | None
) -> str:
    """Have the cluster's own root sign a CA, or find the one that it has signed; check it, and return it as PEM.

    `held` are the SHA-256 of the CAs that the mount has; None if the root cannot have signed this one before.
    """
    own = {"exclude_cn_from_sans": True}
    parameters = {
        **own,
        **{name: list(values) for name, values in cluster.authority.subject.items()},
        "ttl": new.ttl,
        "max_path_length": 0,
        "not_before_duration": ISSUING_BACKDATE,
        "use_csr_values": False,
        "format": "pem",
    }
    root = vault.sending(once=True, warnings=_PATHLEN + _CUT_SHORT).api.secrets.pki
    certificate = None
    if held is not None:
        # An earlier run may have had it signed, and never got the answer.
        ends = datetime.now(UTC) + timedelta(seconds=new.ttl)
        signer = _default(vault, cluster.mount(ROOT))
        certificate = signed_before(vault, cluster.mount(ROOT), signer, csr, new.subject, ends, held)
    if certificate is None:
        signed = root.sign_intermediate(csr, new.subject, parameters, mount_point=cluster.mount(ROOT)).data
        certificate = text(signed, "certificate")
        check_life(mount, signed, {"ttl": new.ttl})
    _check_issuing(mount, certificate, new.subject, named=bool(cluster.authority.subject))
    return certificate


def _default(vault: Vault, mount: str) -> Facts:
    """Return the certificate by which a mount signs where no issuer is named."""
    from vaultpki.pki import x509

    answer = vault.api.secrets.pki.read_issuer("default", mount_point=mount).data
    return x509.read_certificates(text(answer, "certificate").encode())[0]


def _check_issuing(mount: str, certificate: str, subject: str, *, named: bool) -> None:
    """Raise BadAnswer if what the root signed is not an issuing CA of exactly this name."""
    from vaultpki.pki import trust, x509

    facts = x509.read_certificates(certificate.encode())[0]
    why = trust.no_issuing_ca(facts, subject)
    if why is None and (facts.subject.common_name != subject or (facts.further_names and not named)):
        why = f"its name is not CN={subject}"
    if why:
        raise BadAnswer(
            f"the CA that the root signed for {mount} is not what was asked for ({why}) and was not installed; check "
            "any proxy in between"
        )


def update_issuer(vault: Vault, mount: str, issuer: str, fields: Fields) -> None:
    """Give these fields of an existing CA the values wanted; `issuer` is its id."""
    patch = {name: value for name, value in fields.items() if name in _PATCHED}
    if patch:
        _patch_issuer(vault, mount, issuer, patch)
    if "default" in fields:
        vault.write(f"{mount}/config/issuers", {"default": issuer}, warnings=_KEYLESS)
    if "default_key" in fields:
        key = vault.api.secrets.pki.read_issuer(issuer, mount_point=mount).data.get("key_id")
        make_default_key(vault, mount, str(key))


def make_default(vault: Vault, mount: str, issuer: str) -> None:
    """Make an issuer the one that signs, and keep later ones from taking its place by themselves."""
    body = {"default": issuer, "default_follows_latest_issuer": False}
    vault.write(f"{mount}/config/issuers", body, warnings=_KEYLESS)


def make_default_key(vault: Vault, mount: str, key: str) -> None:
    """Make a key, by its id or name, the one that is used where none is named."""
    vault.write(f"{mount}/config/keys", {"default": key})


def delete_issuer(vault: Vault, mount: str, issuer: str) -> None:
    """Delete an issuer by its id; its key stays."""
    vault.sending(warnings=_NO_DEFAULT).api.secrets.pki.delete_issuer(issuer, mount_point=mount)


def delete_key(vault: Vault, mount: str, key: str) -> None:
    """Delete a key by its id."""
    vault.call(Request("DELETE", f"{mount}/key/{key}", warnings=_NO_DEFAULT))


def name_issuer(vault: Vault, mount: str, issuer: str, name: str) -> None:
    """Give a CA that was just installed its name and what every issuer of ours has."""
    fields = {"issuer_name": name, "leaf_not_after_behavior": CUT_SHORT, "usage": FULL, **{url: [] for url in _URLS}}
    _patch_issuer(vault, mount, issuer, fields)


def chain_alone(vault: Vault, mount: str, issuer: str) -> None:
    """Make a root its own whole chain, which the server then does not build.

    Of a root with a cross certificate, beside an older one, OpenBao builds a chain that it then refuses (500), and the
    root signs nothing.
    """
    _patch_issuer(vault, mount, issuer, {"manual_chain": [issuer]})


def _patch_issuer(vault: Vault, mount: str, issuer: str, fields: Fields) -> None:
    # Not hvac's update_issuer: it sends a POST, which resets every field that is not in it.
    vault.call(Request("PATCH", f"{mount}/issuer/{issuer}", fields))


def _key(cluster: Cluster, vault: Vault, mount: str, keys: frozenset[str]) -> tuple[str, Json]:
    """Return the last part of the path that makes a CA, and the parameters of its key."""
    name, key = own_issuer(mount), cluster.authority.key
    if name not in keys:
        return "internal", {"key_name": name, "key_type": key.vault_type, "key_bits": key.vault_bits}
    # An apply that was interrupted made the key; a second one would be left over for ever. If the server itself stopped
    # in that moment, the key is not the mount's default yet.
    make_default_key(vault, mount, name)
    return "existing", {"key_ref": name}


def check_life(mount: str, data: Json, wanted: Fields) -> None:
    """Raise BadAnswer if a CA lives shorter than asked: a mount's max_lease_ttl, 32 days by default, caps it."""
    expiration = data.get("expiration")
    asked = int(wanted["ttl"])
    left = expiration - time.time() if isinstance(expiration, int) else None
    if left is None or abs(left - asked) > _CLOCK_SLACK:
        got = "an unknown time" if left is None else f"{int(left) // 86400} days"
        raise BadAnswer(
            f"the CA of {mount} was asked for {asked // 86400} days and got {got}, and was not kept. Look at the "
            "mount's max_lease_ttl and at this machine's clock, and apply again"
        )


def signed_before(
    vault: Vault, root: str, signer: Facts, csr: str, subject: str, ends: datetime, installed: Collection[str]
) -> str | None:
    """Return, as PEM, the newest certificate of `signer`, of the mount `root`, for the key and the name of a request.

    An earlier run may have had it signed, and its answer was lost. The signer stores all that it signs, so no second
    one is signed for a key, which is made for one CA, or renewed with it on purpose.

    `csr` is the request as PEM, `subject` the common name, `ends` when one that is signed now would end. The SHA-256 in
    `installed` do not count. None if there is none of the last day, or if it was revoked. Whoever installs it checks
    the rest, as with one that is signed now.
    """
    from vaultpki.pki import keys, x509

    key = keys.requested_key(csr.encode())
    found = [
        facts
        for facts, revoked in stored_certificates(vault, root)
        if not revoked
        and facts.public_key == key
        and facts.subject.common_name == subject
        and facts.is_ca
        and facts.fingerprint not in installed
        and ends - _OLDEST <= facts.not_after <= ends + _SLACK
        and x509.signed_by(facts, signer)
    ]
    newest = max(found, key=lambda facts: facts.not_after, default=None)
    return newest.pem if newest is not None else None


def fingerprints(vault: Vault, mount: str) -> frozenset[str]:
    """Return the SHA-256 of the certificates of a mount's issuers."""
    from vaultpki.pki import x509

    issuers, read = vault.api.secrets.pki.list_issuers(mount_point=mount).keys, vault.prepare.secrets.pki.read_issuer
    pems = [
        text(answer.data, "certificate") for answer in vault.many([read(each, mount_point=mount) for each in issuers])
    ]
    return frozenset(facts.fingerprint for pem in pems for facts in x509.readable(pem)[:1])
