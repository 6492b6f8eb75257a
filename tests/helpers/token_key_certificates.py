"""Certificates of service-account keys, made in memory: as Vault signs them, or with one thing changed."""

from __future__ import annotations

from datetime import datetime, timedelta

from cryptography import x509 as certificates
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519

from helpers.ca_certificates import BEGUN, key_of
from vaultpki.model import Usage
from vaultpki.pki import x509
from vaultpki.pki.facts import EKU, Facts

OWN = tuple(EKU[Usage.SIGNING])


def token_key(
    common_name: str,
    *,
    signer: str,
    usages: tuple[str, ...] = OWN,
    dns: tuple[str, ...] = (),
    is_ca: bool = False,
    begun: datetime = BEGUN,
    days: int = 30,
    ed: bool = False,
) -> Facts:
    """A certificate of a new key with this CN, signed by the key of the CA that is called `signer`."""
    key = ed25519.Ed25519PrivateKey.generate() if ed else ec.generate_private_key(ec.SECP256R1())
    return _signed(key, common_name, signer=signer, usages=usages, dns=dns, is_ca=is_ca, begun=begun, days=days)


def certified(common_name: str, key: str, *, signer: str, days: int = 3650) -> Facts:
    """A certificate with this CN of the key that is called `key`, made once."""
    return _signed(key_of(key), common_name, signer=signer, days=days)


def _signed(
    key: ec.EllipticCurvePrivateKey | ed25519.Ed25519PrivateKey,
    common_name: str,
    *,
    signer: str,
    usages: tuple[str, ...] = OWN,
    dns: tuple[str, ...] = (),
    is_ca: bool = False,
    begun: datetime = BEGUN,
    days: int = 30,
) -> Facts:
    bits = ("content_commitment", "key_encipherment", "data_encipherment", "key_agreement", "key_cert_sign")
    usage = dict.fromkeys((*bits, "crl_sign", "encipher_only", "decipher_only"), False)
    made = (
        certificates.CertificateBuilder()
        .subject_name(_name(common_name))
        .issuer_name(_name(signer))
        .public_key(key.public_key())
        .serial_number(certificates.random_serial_number())
        .not_valid_before(begun)
        .not_valid_after(begun + timedelta(days=days))
        .add_extension(certificates.KeyUsage(digital_signature=True, **usage), critical=True)
    )
    if usages:
        oids = [certificates.ObjectIdentifier(each) for each in usages]
        made = made.add_extension(certificates.ExtendedKeyUsage(oids), critical=False)
    if dns:
        names = certificates.SubjectAlternativeName([certificates.DNSName(each) for each in dns])
        made = made.add_extension(names, critical=False)
    if is_ca:
        made = made.add_extension(certificates.BasicConstraints(ca=True, path_length=0), critical=True)
    signed = made.sign(key_of(signer), hashes.SHA256())
    return x509.read_certificates(signed.public_bytes(serialization.Encoding.PEM))[0]


def _name(common_name: str) -> certificates.Name:
    return certificates.Name([certificates.NameAttribute(certificates.NameOID.COMMON_NAME, common_name)])
