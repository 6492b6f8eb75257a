"""Values that several tests begin from; each changes what it is about."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

from vaultpki.model import KeyType, Subject, Usage
from vaultpki.pki.facts import EKU, Facts

SIGNED = datetime(2026, 5, 1, 12, 0, tzinfo=UTC)

LEAF = Facts(
    subject=Subject("w-1"),
    further_names=(),
    subject_text="",
    issuer_text="",
    serial=1,
    not_before=SIGNED - timedelta(minutes=5),
    not_after=SIGNED + timedelta(days=1),
    usages=EKU[Usage.SERVER],
    key_usage=frozenset({"digital_signature"}),
    critical=frozenset(),
    is_ca=False,
    path_length=None,
    public_key=b"",
    key=KeyType.EC_P256,
    signature="sha256",
    subject_key_id=None,
    authority_key_id=None,
    fingerprint="",
    der=b"",
)
"""A server's leaf of a day, signed at `SIGNED`; nothing about it is read from a real certificate."""
