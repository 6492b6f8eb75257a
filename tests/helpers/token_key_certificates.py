"""Certificates of service-account keys, made in memory: as Vault signs them, or with one thing changed."""

from __future__ import annotations

from datetime import datetime, timedelta

from cryptography import x509 as c
from cryptography.hazmat.primitives.asymmetric import ec, ed25519

from helpers.ca_certificates import BEGUN, key_of
from helpers.signed_certificates import Extension, facts, named, signed, usage
from vaultpki.model import Usage
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
    key: ec.EllipticCurvePrivateKey | None = None,
) -> Facts:
    """A certificate of a new key, or of `key`, with this CN, signed by the key of the CA that is called `signer`."""
    own = ed25519.Ed25519PrivateKey.generate() if ed else key or ec.generate_private_key(ec.SECP256R1())
    said: list[Extension] = [(usage("digital_signature"), True)]
    if usages:
        said.append((c.ExtendedKeyUsage([c.ObjectIdentifier(each) for each in usages]), False))
    if dns:
        said.append((c.SubjectAlternativeName([c.DNSName(each) for each in dns]), False))
    if is_ca:
        said.append((c.BasicConstraints(ca=True, path_length=0), True))
    life = begun, begun + timedelta(days=days)
    return facts(signed(named(common_name), own.public_key(), named(signer), key_of(signer), life, said))


def certified(common_name: str, key: str, *, signer: str, days: int = 3650) -> Facts:
    """A certificate with this CN of the key that is called `key`, made once."""
    return token_key(common_name, signer=signer, days=days, key=key_of(key))
