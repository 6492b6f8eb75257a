"""What a file with the key of a CA holds, and whether it is fit; `integration/ca` has the command and the servers."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from helpers.outside_signers import pem, version_1
from vaultpki.errors import SpecError
from vaultpki.outside import imported_key
from vaultpki.outside.files import SentFile, read_sent

NOW = datetime(2026, 11, 29, tzinfo=UTC)
DAY = timedelta(days=1)
KEY = ec.generate_private_key(ec.SECP256R1())
PASSPHRASE = b"of this test"
DER = serialization.Encoding.DER


def key_file(*, passphrase: bytes | None = None, pem: bool = True, pkcs8: bool = True) -> bytes:
    encryption = serialization.BestAvailableEncryption(passphrase) if passphrase else serialization.NoEncryption()
    kind = serialization.PrivateFormat.PKCS8 if pkcs8 else serialization.PrivateFormat.TraditionalOpenSSL
    return KEY.private_bytes(serialization.Encoding.PEM if pem else serialization.Encoding.DER, kind, encryption)


def certificate(begin: datetime = NOW - DAY, end: datetime = NOW + DAY, serial: int = 1) -> bytes:
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "kubernetes")])
    builder = x509.CertificateBuilder().subject_name(name).issuer_name(name).public_key(KEY.public_key())
    builder = builder.serial_number(serial).not_valid_before(begin).not_valid_after(end)
    builder = builder.add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
    return builder.sign(KEY, hashes.SHA256()).public_bytes(serialization.Encoding.PEM)


@pytest.mark.parametrize("pem", [True, False])
@pytest.mark.parametrize("pkcs8", [True, False])
def test_each_form_is_read(pem: bool, pkcs8: bool) -> None:
    found = imported_key.find_key(key_file(pem=pem, pkcs8=pkcs8))
    assert not found.encrypted
    assert imported_key.read_key(found, None).private_numbers() == KEY.private_numbers()  # type: ignore[union-attr]


@pytest.mark.parametrize("pem", [True, False])
def test_an_encrypted_one_needs_its_passphrase(pem: bool) -> None:
    found = imported_key.find_key(key_file(passphrase=PASSPHRASE, pem=pem))
    assert found.encrypted
    for wrong in (None, b"", b"another"):
        with pytest.raises(imported_key.WrongPassphrase):
            imported_key.read_key(found, wrong)
    assert imported_key.read_key(found, PASSPHRASE)


def test_a_key_beside_its_parameters_and_certificates_is_found() -> None:
    text = b"-----BEGIN EC PARAMETERS-----\nBggqhkjOPQMBBw==\n-----END EC PARAMETERS-----\n" + key_file(pkcs8=False)
    assert imported_key.read_key(imported_key.find_key(certificate() + text), None)


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (b"", "holds no private key"),
        (certificate(), "but a certificate"),
        (key_file() * 2, "holds 2 private keys"),
        (b"0\x03\x02\x01\x01", "holds no private key"),
        (key_file().replace(b"BEGIN PRIVATE", b"BEGIN OPENSSH PRIVATE").replace(b"END P", b"END OPENSSH P"), "OPENSSH"),
        (key_file()[:-40], "holds no private key"),
        (b"x" * 70_000, "is larger than 64 KiB"),
    ],
)
def test_what_is_no_key(data: bytes, words: str) -> None:
    with pytest.raises(SpecError, match=words):
        imported_key.find_key(data)


def test_neither_key_nor_pair_shows_the_key() -> None:
    found = imported_key.find_key(key_file())
    ca = imported_key.pair(KEY, read_sent([SentFile("ca.crt", certificate())]), NOW)
    for shown in (repr(found), repr(ca), str(ca)):
        assert "PRIVATE" not in shown and key_file().splitlines()[1].decode() not in shown
    assert ca.key_pem.encode() == key_file()


@pytest.mark.parametrize(
    ("files", "words"),
    [
        ([certificate(end=NOW)], "it expired on 2026-11-29"),
        ([certificate(begin=NOW + DAY, end=NOW + 2 * DAY)], "it begins only on 2026-11-30"),
        (
            [pem(version_1(x509.load_pem_x509_certificate(certificate(end=NOW)).public_bytes(DER), KEY))],
            "it is not of version 3, .*; it expired on 2026-11-29",
        ),
        ([b"nothing", key_file()], "is neither PEM nor DER nor PKCS#7; 1.crt contains a private key"),
        ([certificate(), certificate(serial=2)], "the files hold 2 certificates of this key"),
        ([key_file()], "contains a private key: its key is what --key names"),
        ([b"nothing"], "is neither PEM nor DER"),
    ],
)
def test_a_pair_that_is_refused(files: list[bytes], words: str) -> None:
    sent = read_sent([SentFile(f"{at}.crt", data) for at, data in enumerate(files)])
    with pytest.raises(SpecError, match=words):
        imported_key.pair(KEY, sent, NOW)
