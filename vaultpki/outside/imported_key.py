"""Reads the private key of an existing CA, and checks the pair before anything of it is sent to a server.

Both servers import nearly every key and certificate without a word, also a key of another certificate and RSA of 1024
bits, so all is checked here. The key is decrypted here too, and is in memory only: in no message and in no `repr`.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from datetime import datetime
from typing import Final

from cryptography import x509 as c
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.x509.oid import PublicKeyAlgorithmOID

from vaultpki.errors import CertificateUnreadable, SpecError
from vaultpki.outside.files import Sent
from vaultpki.pki import keys
from vaultpki.pki.facts import Facts
from vaultpki.pki.foreign_cas import not_a_ca
from vaultpki.redact import first_few, printable
from vaultpki.values import der

MOST_KEY_BYTES: Final = 64 * 1024
"""The largest file with a key, in bytes; RSA of 8192 bits has 7 KiB."""

MOST_PASSPHRASE_BYTES: Final = 1023
"""The longest passphrase, in bytes, that OpenSSL writes a key with (PEM_BUFSIZE)."""

_BLOCK: Final = re.compile(rb"-----BEGIN ([A-Z0-9 ]{0,40}PRIVATE KEY)-----(.{1,65536}?)-----END \1-----", re.DOTALL)
_READ: Final = {b"PRIVATE KEY", b"ENCRYPTED PRIVATE KEY", b"RSA PRIVATE KEY", b"EC PRIVATE KEY"}
# RFC 1421, section 4.6.1.1: how OpenSSL marks an encrypted key in the older forms.
_ENCRYPTED: Final = re.compile(rb"^Proc-Type: *4, *ENCRYPTED", re.MULTILINE)
_AGAIN: Final = "write it anew with `openssl pkcs8 -topk8 -in FILE`, which asks for a passphrase"


class WrongPassphrase(SpecError):
    """The key does not decrypt with this passphrase."""


@dataclass(frozen=True, slots=True)
class KeyFile:
    """The one private key of a file: its PEM block or DER, which may be encrypted. It is in no `repr`."""

    data: bytes = field(repr=False)
    pem: bool
    encrypted: bool


@dataclass(frozen=True, slots=True)
class ExistingCa:
    """A CA with its private key, both checked; the key is unencrypted PKCS#8 as PEM, and in no `repr`.

    `file` is the name of the file with its certificate. `others` are certificates that are not sent, with their files.
    """

    certificate: Facts
    key_pem: str = field(repr=False)
    file: str = ""
    others: tuple[str, ...] = ()


def find_key(data: bytes) -> KeyFile:
    """Find the private key in a file: PKCS#8, PKCS#1 or SEC1, as PEM or DER, encrypted or not.

    Certificates and parameters beside it are ignored. Raises SpecError with the rest of a sentence about the file.
    """
    if len(data) > MOST_KEY_BYTES:
        raise SpecError(f"is larger than {MOST_KEY_BYTES // 1024} KiB, so it holds more than one key")
    found = list(_BLOCK.finditer(data))
    if len(found) > 1:
        raise SpecError(f"holds {len(found)} private keys: name a file with the key of one CA")
    if found:
        label, whole = found[0][1], found[0][0]
        if label not in _READ:
            raise SpecError(f"holds a key of the form {label.decode('ascii')}, which no server imports: {_AGAIN}")
        return KeyFile(whole + b"\n", True, label.startswith(b"ENCRYPTED") or bool(_ENCRYPTED.search(whole)))
    if b"-----BEGIN " in data or not data.startswith(b"\x30"):
        beside = "a certificate" if b"-----BEGIN CERTIFICATE-----" in data else "nothing that can be read as one"
        raise SpecError(f"holds no private key, but {beside}: name the file with the key, such as ca.key")
    return KeyFile(data, False, _encrypted(data))


def read_key(file: KeyFile, passphrase: bytes | None) -> keys.PrivateKey:
    """Return the key, if it is fit for a CA. `passphrase` counts only for an encrypted one.

    Raises WrongPassphrase, or SpecError with the rest of a sentence about the file: for a key that cannot be read, one
    that is too weak, and one of a kind that OpenBao or Vault refuses. No message has a byte of the key.
    """
    load = serialization.load_pem_private_key if file.pem else serialization.load_der_private_key
    if file.encrypted and not passphrase:
        raise WrongPassphrase("is encrypted, and there is no passphrase for it")
    try:
        key = load(file.data, password=passphrase if file.encrypted else None)
    except UnsupportedAlgorithm:
        raise SpecError(
            f"holds a key that is of a kind, or encrypted in a way, that is not supported: {_AGAIN}"
        ) from None
    # cryptography documents no closed list for bytes from outside; as in `keys.parsing`.
    except Exception:  # noqa: BLE001 - the facts just above
        if file.encrypted:
            raise WrongPassphrase("does not decrypt: the passphrase is wrong, or the file is damaged") from None
        raise SpecError("holds a private key that is damaged: copy it again") from None
    why = _unfit(key)
    if why or not isinstance(key, keys.PrivateKey):
        raise SpecError(f"holds {why or 'a key of an unknown kind'}")
    return key


def pair(key: keys.PrivateKey, sent: Sent, now: datetime) -> ExistingCa:
    """Return the CA whose key this is, out of the certificates in all files; `now` is the server's time.

    Raises SpecError with a whole sentence if there is none, or more than one, or if it cannot be imported.
    """
    hints = {"private-key": ": its key is what --key names"}
    if sent.problems:
        raise SpecError("; ".join(f"{each.file} {each.problem}{hints.get(each.reason, '')}" for each in sent.problems))
    public = keys.public_der(key)
    mine = [each for each in sent.certificates if each.facts.public_key == public]
    others = [printable(each.facts.subject_text) for each in sent.certificates if each not in mine]
    if not mine:
        raise SpecError(
            f"the key is not that of {first_few(others) or 'any certificate in the files'}: name the key and the "
            "certificate of the same CA"
        )
    if len(mine) > 1:
        raise SpecError(
            f"the files hold {len(mine)} certificates of this key ({first_few([each.file for each in mine])}): leave "
            "one of them, that which the cluster trusts"
        )
    facts, file = mine[0].facts, mine[0].file
    odd = [f"it {problem}" for _, problem in der.oddities(facts.der)]
    no_ca = None if odd else not_a_ca(facts)
    if wrong := [each for each in (*odd, no_ca, _out_of_date(facts, now), _other_key_type(facts)) if each]:
        raise SpecError(f"{file}: {printable(facts.subject_text)} cannot be imported: {'; '.join(wrong)}")
    return ExistingCa(facts, keys.key_pem(key).decode("ascii"), file, tuple(others))


def _encrypted(data: bytes) -> bool:
    """Return whether a DER file is an encrypted key; SpecError if it is no key at all."""
    try:
        serialization.load_der_private_key(data, password=None)
    except TypeError:
        return True
    except UnsupportedAlgorithm:
        return False
    except Exception:  # noqa: BLE001 - as in `read_key`
        raise SpecError("holds no private key that can be read: name the file with the key, such as ca.key") from None
    return False


def _unfit(key: object) -> str | None:
    """Return what is wrong with a key, as the rest of a sentence; None for one that a CA may have.

    That is what `keys.fit_above` takes. Run on OpenBao 2.7.2 and Vault 1.21.1: both refuse secp256k1, brainpool curves,
    Ed448 and keys for RSASSA-PSS alone; both take RSA of 1024 bits and P-224, which nobody should.
    """
    if isinstance(key, keys.PrivateKey) and keys.fit_above(keys.public_der(key)):
        return None
    what = "a key of a kind that no server imports"
    if isinstance(key, rsa.RSAPrivateKey) and key.key_size < 2048:
        what = f"an RSA key of {key.key_size} bits, which is too weak for a CA: it needs at least 2048"
    elif isinstance(key, rsa.RSAPrivateKey):
        exponent = key.public_key().public_numbers().e
        what = f"an RSA key of {key.key_size} bits with the exponent {exponent}, which no CA should have"
    elif isinstance(key, ec.EllipticCurvePrivateKey):
        what = f"a key on the curve {key.curve.name}, which is too weak or which the servers refuse"
    return f"{what}; {_WITHOUT}"


_WITHOUT: Final = (
    "RSA of 2048 to 8192 bits, P-256, P-384, P-521 and Ed25519 can be imported; with another key take the cluster over "
    "without importing it"
)


def _out_of_date(facts: Facts, now: datetime) -> str | None:
    if facts.not_after <= now:
        return f"it expired on {facts.not_after:%Y-%m-%d}, so nobody accepts what it signs"
    if facts.not_before > now:
        return f"it begins only on {facts.not_before:%Y-%m-%d}; compare the clocks"
    return None


def _other_key_type(facts: Facts) -> str | None:
    # `Facts.public_key` is written by cryptography, which has one form for both kinds of RSA.
    try:
        oid = c.load_der_x509_certificate(der.readable(facts.der)).public_key_algorithm_oid
    except ValueError:
        raise CertificateUnreadable("this is not a certificate that can be read") from None
    if oid == PublicKeyAlgorithmOID.RSASSA_PSS:
        return f"its key is for RSASSA-PSS alone, which both servers refuse; {_WITHOUT}"
    return None
