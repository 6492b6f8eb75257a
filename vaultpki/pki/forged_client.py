"""Makes a pair that no CA of the cluster signed, with which `verify` probes listeners."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Final

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from vaultpki.model import KeyType, Subject
from vaultpki.pki.keys import generate_key, key_pem
from vaultpki.values import der

# Long enough for the handshakes of one command, and no use afterwards.
_LIFE: Final = timedelta(minutes=15)
_BACKDATE: Final = timedelta(minutes=5)


def forged_pair(subject: Subject, ca_der: bytes, now: datetime) -> tuple[bytes, bytes]:
    """Return a client's certificate with its forged CA, and the key, all as PEM; they exist in memory only.

    The certificate claims the CN and O of `subject`. Its CA has the subject and key id of the one in `ca_der`, and
    another key: a server that compares names alone accepts it.
    """
    copied = x509.load_der_x509_certificate(der.readable(ca_der))
    ca_key, key = generate_key(KeyType.EC_P256), generate_key(KeyType.EC_P256)
    if not isinstance(ca_key, ec.EllipticCurvePrivateKey) or not isinstance(key, ec.EllipticCurvePrivateKey):
        raise TypeError("not a key for ECDSA")
    names = [x509.NameAttribute(NameOID.ORGANIZATION_NAME, value) for value in subject.organization]
    names.append(x509.NameAttribute(NameOID.COMMON_NAME, subject.common_name))
    forged = _builder(copied.subject, copied.subject, ca_key.public_key(), now)
    for extension in copied.extensions:
        forged = forged.add_extension(extension.value, extension.critical)
    leaf = _builder(x509.Name(names), copied.subject, key.public_key(), now)
    leaf = leaf.add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.CLIENT_AUTH]), critical=False)
    leaf = leaf.add_extension(_DIGITAL_SIGNATURE, critical=True)
    try:
        own_id = copied.extensions.get_extension_for_class(x509.SubjectKeyIdentifier).value
        leaf = leaf.add_extension(
            x509.AuthorityKeyIdentifier.from_issuer_subject_key_identifier(own_id), critical=False
        )
    except x509.ExtensionNotFound:
        pass
    pem = serialization.Encoding.PEM
    chain = [builder.sign(ca_key, hashes.SHA256()).public_bytes(pem) for builder in (leaf, forged)]
    return b"".join(chain), key_pem(key)


_DIGITAL_SIGNATURE: Final = x509.KeyUsage(
    digital_signature=True,
    content_commitment=False,
    key_encipherment=False,
    data_encipherment=False,
    key_agreement=False,
    key_cert_sign=False,
    crl_sign=False,
    encipher_only=False,
    decipher_only=False,
)


def _builder(
    subject: x509.Name, issuer: x509.Name, public: ec.EllipticCurvePublicKey, now: datetime
) -> x509.CertificateBuilder:
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(public)
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - _BACKDATE)
        .not_valid_after(now + _LIFE)
    )
