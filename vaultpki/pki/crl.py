"""Reads certificate revocation lists."""

from __future__ import annotations

from cryptography import x509

from vaultpki.errors import CertificateUnreadable


def revoked_serials(pem: bytes) -> frozenset[int]:
    """Return the serial numbers on a CRL in PEM; raise CertificateUnreadable if it is none."""
    try:
        return frozenset(entry.serial_number for entry in x509.load_pem_x509_crl(pem))
    except ValueError:
        raise CertificateUnreadable("this is not a CRL in PEM; check the address and any proxy in between") from None
