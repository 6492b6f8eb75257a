"""The key set is what kube-apiserver shows for the same keys, and a token signed with a key is found by its id."""

from __future__ import annotations

import base64
import hashlib
from dataclasses import replace

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa

from helpers.token_key_certificates import token_key
from vaultpki.errors import CertificateUnreadable
from vaultpki.pki import jwk

NAME = "prod service-account CA"


def number(text: str) -> int:
    return int.from_bytes(base64.urlsafe_b64decode(text + "=" * (-len(text) % 4)), "big")


def der(public: ec.EllipticCurvePublicKey | rsa.RSAPublicKey | ed25519.Ed25519PublicKey) -> bytes:
    return public.public_bytes(serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo)


@pytest.mark.parametrize(
    ("curve", "alg", "crv"), [(ec.SECP256R1(), "ES256", "P-256"), (ec.SECP384R1(), "ES384", "P-384")]
)
def test_an_elliptic_key(curve: ec.EllipticCurve, alg: str, crv: str) -> None:
    public = ec.generate_private_key(curve).public_key()
    made = jwk.key(der(public))
    assert (made["kty"], made["alg"], made["crv"], made["use"]) == ("EC", alg, crv, "sig")
    point = ec.EllipticCurvePublicNumbers(number(made["x"]), number(made["y"]), curve).public_key()
    assert der(point) == der(public)
    # Coordinates have the length of the curve (RFC 7518, section 6.2.1.2).
    assert len(made["x"]) == len(made["y"]) == -(-(curve.key_size // 8) * 4 // 3)


def test_an_rsa_key_and_the_key_id() -> None:
    public = rsa.generate_private_key(65537, 2048).public_key()
    made = jwk.key(der(public))
    assert (made["kty"], made["alg"]) == ("RSA", "RS256")
    assert (number(made["n"]), number(made["e"])) == (public.public_numbers().n, 65537)
    wanted = base64.urlsafe_b64encode(hashlib.sha256(der(public)).digest()).rstrip(b"=").decode()
    assert made["kid"] == wanted


def test_each_key_is_there_once_and_no_key_of_another_kind() -> None:
    one, two = (token_key(f"sa:cp-{index}:1", signer=NAME) for index in (1, 2))
    shared = replace(two, public_key=one.public_key)
    assert [each["kid"] for each in jwk.key_set([one, two, shared])["keys"]] == [
        jwk.key(each.public_key)["kid"] for each in (one, two)
    ]
    with pytest.raises(CertificateUnreadable):
        jwk.key(der(ed25519.Ed25519PrivateKey.generate().public_key()))
