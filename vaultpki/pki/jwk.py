"""Writes public keys as the JSON Web Key Set that kube-apiserver shows at `/openid/v1/jwks` (RFC 7517)."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Iterable, Mapping
from typing import Any, Final

from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa

from vaultpki.errors import CertificateUnreadable
from vaultpki.pki.facts import Facts

# The algorithm of a curve (RFC 7518, section 3.4), its name there, and the bytes of a coordinate.
_CURVES: Final = {"secp256r1": ("ES256", "P-256", 32), "secp384r1": ("ES384", "P-384", 48)}

# What makes a key, by its type (RFC 7518, section 6).
_MEMBERS: Final = {"RSA": ("n", "e"), "EC": ("crv", "x", "y")}


def key_set(certificates: Iterable[Facts]) -> dict[str, Any]:
    """Return the key set of the public keys of these certificates, each once.

    Raises CertificateUnreadable for a key with which kube-apiserver signs no tokens.
    """
    keys = {each.public_key: key(each.public_key) for each in certificates}
    return {"keys": list(keys.values())}


def key(public_key: bytes) -> dict[str, str]:
    """Return one public key, the DER of its SubjectPublicKeyInfo, as a JSON Web Key; otherwise as `key_set`."""
    public = serialization.load_der_public_key(public_key)
    # The key id by which tokens name it (kubernetes pkg/serviceaccount/jwt.go, keyIDFromPublicKey).
    head = {"use": "sig", "kid": _text(hashlib.sha256(public_key).digest())}
    if isinstance(public, rsa.RSAPublicKey):
        numbers = public.public_numbers()
        return {**head, "kty": "RSA", "alg": "RS256", "n": _number(numbers.n), "e": _number(numbers.e)}
    if isinstance(public, ec.EllipticCurvePublicKey) and public.curve.name in _CURVES:
        algorithm, curve, length = _CURVES[public.curve.name]
        point = public.public_numbers()
        x, y = (_text(each.to_bytes(length, "big")) for each in (point.x, point.y))
        return {**head, "kty": "EC", "alg": algorithm, "crv": curve, "x": x, "y": y}
    raise CertificateUnreadable("this is a key with which kube-apiserver signs no tokens")


def material(key: Mapping[str, Any]) -> tuple[str, ...]:
    """Return what a JSON Web Key is, without its name and use; empty for one of a type that signs no tokens."""
    kind = str(key.get("kty"))
    return (kind, *(str(key.get(name)) for name in _MEMBERS[kind])) if kind in _MEMBERS else ()


def _number(value: int) -> str:
    return _text(value.to_bytes((value.bit_length() + 7) // 8, "big"))


def _text(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()
