"""Makes the two certificates of a new root: by itself, and by the old root, which vouches for it."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Final

from vaultpki.certificates import ROOT, ROOT_BACKDATE, ca_subject
from vaultpki.errors import BadAnswer, StateConflict
from vaultpki.model import Cluster
from vaultpki.provision import authorities
from vaultpki.records.rotation import CaRef
from vaultpki.rotation.mount_steps import RotationMount
from vaultpki.values import der
from vaultpki.vault import Request, Vault, member, text
from vaultpki.vault.issuer import number

if TYPE_CHECKING:
    from vaultpki.pki.facts import Facts

# Seconds: a cross certificate that would outlive its signer is cut by Vault with a warning, and OpenBao warns too.
_BEFORE_OLD: Final = 60

# hvac has no method to make a further root on a mount, to sign by an issuer that is not the default, or to import a
# certificate: their requests are written here.
_NO_AIA = ("authority information access", "AIA configuration")


def sign_root(cluster: Cluster, vault: Vault, path: str, ca: CaRef) -> None:
    """Make the certificate of the new root, signed by itself, and check it; the default issuer stays."""
    from vaultpki.pki import x509
    from vaultpki.pki.trust import no_root

    ttl, name = cluster.authority.root_ttl, ca_subject(cluster.name, ROOT, number(ca.name))
    _allow(vault, path, ttl)
    body = {
        "key_ref": ca.key,
        # Without a name both servers call it `next`.
        "issuer_name": ca.name,
        "common_name": name,
        "ttl": ttl,
        "not_before_duration": ROOT_BACKDATE,
        "exclude_cn_from_sans": True,
        "format": "pem",
    }
    request = Request("POST", f"{path}/root/rotate/existing", body, once=True, warnings=_NO_AIA)
    made = vault.call(request).data
    facts = x509.read_certificates(text(made, "certificate").encode())[0]
    fit = no_root(facts) is None and x509.signed_by(facts, facts) and facts.subject.common_name == name
    try:
        authorities.check_life(path, made, {"ttl": ttl})
        if not fit or made.get("key_id") != ca.key:
            raise BadAnswer(f"{path} made another root than was asked for; check any proxy in between, run this again")
    except BadAnswer:
        authorities.delete_issuer(vault, path, text(made, "issuer_id"))
        raise


def sign_cross(cluster: Cluster, vault: Vault, mount: RotationMount, ca: CaRef, old: str, now: datetime) -> None:
    """Have the old root sign the new root's name and key, and install that certificate beside both."""
    path, name = mount.path, ca_subject(cluster.name, ROOT, number(ca.name))
    signer = mount.issuer(old)
    if signer is None or signer.facts is None:
        raise BadAnswer(f"{path} does not show the certificate of {old}; check any proxy in between")
    csr = authorities.cross_request(vault, path, name, ca.key)
    install_cross(vault, path, signed_cross(vault, path, old, signer.facts, name, csr, now), ca.key)


def install_cross(vault: Vault, path: str, pem: str, key: str) -> None:
    """Install a cross certificate on the mount that has its key, by the id of that; BadAnswer if it is for another."""
    request = Request("POST", f"{path}/issuers/import/cert", {"pem_bundle": pem}, once=True, warnings=_NO_AIA)
    imported = vault.call(request).data
    ids = [*(imported.get("imported_issuers") or ()), *(imported.get("existing_issuers") or ())]
    if len(ids) != 1 or member(imported, "mapping").get(str(ids[0])) != key:
        for id_ in ids:
            authorities.delete_issuer(vault, path, str(id_))
        raise BadAnswer(f"{path} has no key for the cross certificate; check any proxy in between, and run this again")


def signed_cross(vault: Vault, path: str, old: str, signer: Facts, name: str, csr: str, now: datetime) -> str:
    """Have the issuer `old` on the mount `path` sign another root's name and key, and return that certificate as PEM.

    `signer` is the certificate of `old`. Returns the one that it has signed already, if that is not on this mount.
    """
    from vaultpki.pki import x509

    ttl = int((signer.not_after - now).total_seconds()) - _BEFORE_OLD
    if ttl <= 0:
        raise StateConflict(
            f"the root CA ends at {signer.not_after:%Y-%m-%d %H:%M}Z and can vouch for no new one; "
            "make new join files for every node once there is one"
        )
    parameters = {
        "exclude_cn_from_sans": True,
        "format": "pem",
        "csr": csr,
        "common_name": name,
        "ttl": ttl,
        # The issuing CAs stand below it.
        "max_path_length": 1,
        "not_before_duration": ROOT_BACKDATE,
        "use_csr_values": False,
    }
    ends = now + timedelta(seconds=ttl)
    pem = authorities.signed_before(vault, path, signer, csr, name, ends, authorities.fingerprints(vault, path))
    if pem is None:
        request = Request("POST", f"{path}/issuer/{old}/sign-intermediate", parameters, once=True, warnings=_NO_AIA)
        pem = text(vault.call(request).data, "certificate")
    facts = x509.read_certificates(pem.encode())[0]
    if not x509.signed_by(facts, signer) or facts.path_length != 1 or facts.subject.common_name != name:
        raise BadAnswer(f"{path} signed another certificate than was asked for; check any proxy in between")
    return pem


def import_root(vault: Vault, mount: RotationMount, sha256: str) -> None:
    """Put a CA of the chain of a root from outside on the root's mount, without a key; the default issuer stays."""
    facts = next(each for each in mount.incoming if each.fingerprint == sha256)
    authorities.import_keyless(vault, mount.path, facts.pem)


def cross_outside(vault: Vault, mount: RotationMount, ca: CaRef, old: str) -> None:
    """Have the old root sign the certificate of a root from outside, and install that beside both.

    `sign-self-issued` keeps the bytes of its subject, its dates and its path length, and does not look whether the
    certificate was signed by its own key: `can_be_crossed` has. `sign-intermediate` would encode the subject anew.
    """
    from vaultpki.pki import x509

    path, signer = mount.path, mount.issuer(old)
    new = next(each.facts for each in mount.issuers if each.sha256 == ca.sha256)
    if signer is None or signer.facts is None or new is None:
        raise BadAnswer(f"{path} does not show the certificate of {old}; check any proxy in between")
    body = {"certificate": new.pem}
    request = Request("POST", f"{path}/issuer/{old}/sign-self-issued", body, once=True, warnings=_NO_AIA)
    pem = text(vault.call(request).data, "certificate")
    cross = x509.read_certificates(pem.encode())[0]
    same = (cross.public_key, cross.path_length, cross.subject_key_id) == (
        new.public_key,
        new.path_length,
        new.subject_key_id,
    )
    subjects = {der.certificate_parts(each.der).subject for each in (cross, new)}
    if not same or len(subjects) > 1 or not x509.signed_by(cross, signer.facts):
        raise BadAnswer(f"{path} signed another certificate than was asked for; check any proxy in between")
    authorities.import_keyless(vault, path, pem)


def _allow(vault: Vault, path: str, ttl: int) -> None:
    """Let the mount's certificates live as long as the new root: else the server makes it shorter."""
    # In the list of mounts, which a token for this may read anyway; 0 is the server's own maximum.
    mounts = vault.api.sys.list_mounted_secrets_engines().data
    longest = member(member(mounts, f"{path}/"), "config").get("max_lease_ttl")
    if not isinstance(longest, int) or longest < ttl:
        vault.api.sys.tune_mount_configuration(path, max_lease_ttl=ttl)
