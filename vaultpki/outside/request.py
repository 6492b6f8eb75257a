"""Describes an issuing CA that waits for the signer of an outside root, and what that signer must grant; pure."""

from __future__ import annotations

import base64
from dataclasses import dataclass
from typing import Final

from cryptography import x509 as certificates
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from cryptography.x509.oid import NameOID

from vaultpki.certificates import ISSUING_BACKDATE, LEAF_BACKDATE
from vaultpki.model import Usage
from vaultpki.outside.name_constraints import NO_NAMES, LeafNames
from vaultpki.pki.facts import EKU, Facts
from vaultpki.pki.keys import parsing
from vaultpki.redact import printable
from vaultpki.values import der
from vaultpki.values.pem import pem_bodies

_DAY: Final = 86400


@dataclass(frozen=True, slots=True)
class WaitingRequest:
    """A signing request for an issuing CA, and what the CA must meet to be of use.

    `domain` is kubernetes, etcd, ...; `csr` the request in PEM. `subject` is the DER of its name byte for byte,
    `subject_text` the same for people, and `public_key` the DER of its SubjectPublicKeyInfo. `ttl` is the life in
    seconds that is asked for, `longest_ttl` the longest TTL of its leaves, in seconds. Whoever signs begins the CA
    `backdate` seconds before the signing, and the CA's leaves begin `leaf_backdate` seconds before theirs. `names` are
    those of its leaves, and `uses` their extended key usages as dotted OIDs.
    """

    domain: str
    csr: str
    subject: bytes
    subject_text: str
    common_name: str
    public_key: bytes
    ttl: int
    longest_ttl: int
    names: LeafNames = NO_NAMES
    uses: frozenset[str] = EKU[Usage.BOTH]
    backdate: int = ISSUING_BACKDATE
    leaf_backdate: int = LEAF_BACKDATE

    @property
    def days(self) -> int:
        """The life that is asked for in whole days, rounded up."""
        return -(-self.ttl // _DAY)


def waiting_request(
    domain: str, csr: str, *, ttl: int, longest_ttl: int, names: LeafNames = NO_NAMES
) -> WaitingRequest:
    """Read a signing request in PEM; arguments are the fields of WaitingRequest.

    Raises CertificateUnreadable if it is not a request, or if its own key did not sign it.
    """
    with parsing("a signing request"):
        (body,) = pem_bodies(csr, "CERTIFICATE REQUEST")
        data = base64.b64decode("".join(body.split()), validate=True)
        read = certificates.load_der_x509_csr(data)
        if not read.is_signature_valid:
            raise ValueError("not signed by its own key")
        parts = der.request_parts(data)
        public = read.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
        names_read = read.subject.get_attributes_for_oid(NameOID.COMMON_NAME)
        common_name = "".join(str(each.value) for each in names_read[:1])
    text = printable(read.subject.rfc4514_string())
    return WaitingRequest(domain, csr, parts.subject, text, common_name, public, ttl, longest_ttl, names)


def installed_request(domain: str, ca: Facts, names: LeafNames = NO_NAMES) -> WaitingRequest:
    """Return an issuing CA that is installed as a request that it answers itself: it has no CSR, and asks for no life.

    So CAs above it that were renewed with the same keys are checked like those of a new CA.
    """
    subject = der.certificate_parts(ca.der).subject
    text, common_name = printable(ca.subject_text), ca.subject.common_name
    return WaitingRequest(domain, "", subject, text, common_name, ca.public_key, 0, 0, names)


@dataclass(frozen=True, slots=True)
class SignerTerms:
    """What the signer must grant for one request: a sentence, a file of OpenSSL extensions, and text for a form."""

    sentence: str
    openssl: str
    form: str


def terms(request: WaitingRequest, stem: str) -> SignerTerms:
    """Return what the signer must grant.

    `stem` is the name of the request's files without extension: the request is STEM.csr, the extensions STEM.ext.
    """
    minutes = request.backdate // 60
    sentence = (
        f"Sign {stem}.csr as a subordinate CA: its subject ({request.subject_text}) byte for byte as in the request, "
        "basic constraints CA:TRUE with path length 0 (critical), key usage certificate sign and CRL sign (critical), "
        "subject and authority key identifiers, no extended key usage, no name constraints, no other critical "
        f"extension, signed with SHA-256, SHA-384, SHA-512 or Ed25519, valid for {request.days} days from "
        f"{minutes} minutes before the signing on, and not longer than the certificate of the CA that signs."
    )
    return SignerTerms(sentence, _openssl(request, stem), _form(request, stem, minutes))


def _openssl(request: WaitingRequest, stem: str) -> str:
    usable = request.leaf_backdate // 60
    return f"""\
# Extensions of the issuing CA {request.subject_text}, for OpenSSL 1.1.1 and later.
#
# With the certificate and the key of the CA that signs (for an Ed25519 key leave -sha256 out):
#   openssl x509 -req -in {stem}.csr -CA signer.crt -CAkey signer.key -CAcreateserial \\
#     -days {request.days} -sha256 -extfile {stem}.ext -out {stem}.crt
# The certificate begins at the moment of the signing; it can be imported {usable} minutes later.
#
# With the database of `openssl ca`. Its usual policy_match refuses a name without country and organization, and its
# usual extensions usr_cert and v3_ca are others than these, so the command names its own; -preserveDN keeps the name:
#   openssl ca -in {stem}.csr -days {request.days} -md sha256 -policy policy_anything -preserveDN -notext \\
#     -extfile {stem}.ext -out {stem}.crt
# Send back {stem}.crt, and the certificates of all CAs above it.

extensions = issuing_ca

[ issuing_ca ]
basicConstraints = critical, CA:TRUE, pathlen:0
keyUsage = critical, keyCertSign, cRLSign
subjectKeyIdentifier = hash
authorityKeyIdentifier = keyid:always
"""


def _form(request: WaitingRequest, stem: str, minutes: int) -> str:
    lines = (
        ("Request", f"{stem}.csr (PKCS#10, PEM)"),
        ("Profile", "subordinate CA (issuing CA)"),
        ("Subject", request.subject_text),
        ("Subject encoding", "byte for byte as in the request; the name is not encoded again, reordered or completed"),
        ("Public key", "that of the request"),
        ("Basic constraints", "critical; CA: yes; path length: 0"),
        ("Key usage", "critical; certificate sign, CRL sign"),
        ("Extended key usage", "none; the extension is absent"),
        ("Name constraints", "none; the extension is absent"),
        ("Other extensions", "none is critical"),
        ("Subject key identifier", "present, not critical"),
        ("Authority key identifier", "present, not critical, by key identifier alone"),
        ("Subject alternative names", "none"),
        ("Validity", f"{request.days} days; within the validity of the CA that signs"),
        ("Not before", f"{minutes} minutes before the signing, if the CA can do so"),
        ("Signature", "SHA-256, SHA-384 or SHA-512 with RSA (at least 2048 bits) or ECDSA (P-256, P-384, P-521)"),
        ("", "or Ed25519; not SHA-1, not Ed448, no RSASSA-PSS key"),
        ("Format of the answer", "PEM, DER or PKCS#7, with the certificates of all CAs above it; no private key"),
    )
    width = max(len(name) for name, _ in lines) + 1
    return "".join(f"{f'{name}:' if name else '':<{width}} {value}\n" for name, value in lines)
