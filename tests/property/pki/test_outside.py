"""Answers of an outside signer: no mixture of faults is accepted, and a right bundle is, however it is sent."""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from datetime import timedelta
from ipaddress import ip_network
from typing import Any

from cryptography import x509 as c
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.serialization import Encoding, pkcs7
from cryptography.x509.name import _ASN1Type
from cryptography.x509.oid import ExtendedKeyUsageOID
from hypothesis import assume, example, given, settings
from hypothesis import strategies as st

from helpers.outside_signers import (
    DAY,
    NOW,
    RIGHT,
    YEAR,
    Options,
    chain,
    judged,
    key,
    name,
    pem,
    unknown_extension,
    usage,
)
from vaultpki.outside.checks import ASKS
from vaultpki.outside.files import SentFile, read_sent
from vaultpki.outside.verdicts import Verdict, judge

SERVERS = [(c.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), False)]
CORP = [(c.NameConstraints([c.DNSName("corp.example")], None), True)]
TEN = [(c.NameConstraints([c.IPAddress(ip_network("10.0.0.0/8"))], None), True)]
UNKNOWN = [(unknown_extension(), True)]

OWN: Sequence[tuple[str, Options]] = (
    ("not-a-ca", {"ca": False}),
    ("another-key", {"public": key("other").public_key()}),
    ("subject-encoded", {"subject": name("prod etcd CA", _ASN1Type.UTF8String)}),
    ("expired", {"not_after": NOW - timedelta(minutes=1)}),
    ("not-yet-valid", {"not_before": NOW + DAY}),
    ("too-young", {"not_before": NOW}),
    ("path-length", {"path_length": 1}),
    ("path-length", {"path_length": None}),
    ("no-cert-sign", {"usage": usage("crl_sign")}),
    ("no-crl-sign", {"usage": usage("key_cert_sign")}),
    ("not-critical", {"bc_critical": False}),
    ("no-subject-key-id", {"without": ("ski",)}),
    ("no-authority-key-id", {"without": ("aki",)}),
    ("extended-key-usage", {"more": SERVERS}),
    ("own-constraints", {"more": CORP}),
    ("critical-extension", {"more": UNKNOWN}),
    ("weak-signature", {"hash": hashes.SHA224()}),
    ("signature-wrong", {"forger": key("forger")}),
    ("outlives-signer", {"not_after": NOW + 19 * YEAR}),
    ("too-short", {"not_after": NOW + 10 * DAY}),
)
ABOVE: Sequence[tuple[str, str, Options]] = (
    ("weak-signature", "lower", {"hash": hashes.SHA224()}),
    ("signature-wrong", "lower", {"forger": key("forger")}),
    ("above-expired", "upper", {"not_after": NOW - DAY}),
    ("above-expired", "root", {"not_after": NOW - DAY}),
    ("above-not-yet-valid", "lower", {"not_before": NOW + DAY}),
    ("above-path-length", "lower", {"path_length": 0}),
    ("above-path-length", "upper", {"path_length": 1}),
    ("above-extended-key-usage", "lower", {"more": SERVERS}),
    ("above-no-cert-sign", "upper", {"usage": usage("crl_sign")}),
    ("above-critical-extension", "upper", {"more": UNKNOWN}),
    ("above-constraints", "lower", {"more": CORP}),
    ("above-constraints", "root", {"more": TEN}),
    ("outlives-signer", "lower", {"not_after": NOW + 2 * YEAR}),
)
EVERY = [*((reason, "own", options) for reason, options in OWN), *ABOVE]
MADE = chain()


def wrong(faults: Sequence[tuple[str, str, Options]]) -> dict[str, bytes]:
    """A chain with all these faults; where two change the same, the later one counts."""
    changes: dict[str, dict[str, Any]] = {}
    for _, level, options in faults:
        at = changes.setdefault(level, {})
        # A certificate has each extension once.
        more = {each.oid: (each, critical) for each, critical in (*at.get("more", []), *options.get("more", []))}
        lacking = (*at.get("without", ()), *options.get("without", ()))
        at.update(options, more=list(more.values()), without=lacking)
    for level, options in changes.items():
        dates = {**RIGHT[level], **options}
        assume(dates.get("not_before", NOW) < dates.get("not_after", NOW + DAY))
    return chain(changes)


@settings(max_examples=150, deadline=None)
@given(st.lists(st.sampled_from(EVERY), min_size=1, max_size=6, unique_by=str))
def test_no_mixture_of_faults_is_accepted(faults: list[tuple[str, str, Options]]) -> None:
    made = wrong(faults)
    found = judged([pem(*made.values())], made["root"])
    assert found.accepted == () and not found.ok
    assert {each.reason for each in found.refused} <= {*ASKS}


FAULTS = st.lists(st.sampled_from(EVERY), min_size=1, max_size=5, unique_by=str)


@settings(max_examples=150, deadline=None)
@given(FAULTS)
@example([each for each in EVERY if each[0] in ("too-young", "path-length", "not-critical", "above-expired")][:4])
def test_all_faults_are_told_at_once_and_each_once(faults: list[tuple[str, str, Options]]) -> None:
    changed = [(level, option) for _, level, options in faults for option in {*options} - {"more", "without"}]
    assume(len({*changed}) == len(changed))
    made = wrong(faults)
    refused = judged([pem(*made.values())], made["root"]).refused
    sentences = [each.sentence for each in refused]
    assert len({*sentences}) == len(sentences)
    reasons, told = {reason for reason, _, _ in faults}, {each.reason for each in refused}
    hidden = {"path-length"} if "not-a-ca" in reasons else set()
    # Who ends that soon does not end after its signer.
    hidden |= {"outlives-signer"} if reasons & {"expired", "too-short"} else set()
    if "signature-wrong" in reasons:
        # Who is above is not known then.
        hidden |= {*(reason for reason, level, _ in faults if level != "own"), "outlives-signer"} - {"signature-wrong"}
    assert reasons - hidden <= told <= reasons


def sent_as(made: Mapping[str, bytes], how: str, levels: Sequence[str]) -> bytes:
    if how == "pem":
        return pem(*(made[each] for each in levels))
    if how == "crlf":
        return pem(*(made[each] for each in levels)).replace(b"\n", b"\r\n")
    if how == "glued":
        return pem(*(made[each] for each in levels)).replace(b"-----\n-----", b"----------")
    if how == "der":
        return b"".join(made[each] for each in levels)
    read = [c.load_der_x509_certificate(made[each]) for each in levels]
    return pkcs7.serialize_certificates(read, Encoding.DER if how == "p7b" else Encoding.PEM)


LEVELS = ("own", "lower", "upper", "root")
FILES = st.lists(
    st.tuples(
        st.sampled_from(["pem", "crlf", "glued", "der", "p7b", "p7c"]),
        st.lists(st.sampled_from(LEVELS), min_size=1, max_size=6),
    ),
    max_size=4,
)


@settings(max_examples=80, deadline=None)
@given(FILES, st.permutations(LEVELS), st.randoms(use_true_random=False))
def test_a_right_bundle_is_accepted_in_any_order_and_however_often(
    further: list[tuple[str, list[str]]], order: list[str], chance: random.Random
) -> None:
    files = [sent_as(MADE, "pem", order), *(sent_as(MADE, how, levels) for how, levels in further)]
    chance.shuffle(files)
    found = judged(files, MADE["root"])
    assert found.ok and found.ignored == ()
    (accepted,) = found.accepted
    assert [accepted.certificate.der, *(each.der for each in accepted.chain)] == [MADE[each] for each in LEVELS]


@settings(max_examples=40, deadline=None)
@given(st.lists(st.sampled_from(EVERY[: len(OWN)]), min_size=1, max_size=3, unique_by=str), st.booleans())
def test_a_right_answer_is_accepted_beside_wrong_ones(faults: list[tuple[str, str, Options]], first: bool) -> None:
    made = wrong(faults)
    files = [pem(made["own"]), pem(*MADE.values())]
    found = judged(files if first else files[::-1], MADE["root"])
    assert found.ok and [each.certificate.der for each in found.accepted] == [MADE["own"]]


@settings(max_examples=200, deadline=None)
@given(st.lists(st.binary(max_size=200), max_size=3), st.integers(0, 3000), st.binary(min_size=1, max_size=4))
def test_no_bytes_raise_anything(files: list[bytes], at: int, other: bytes) -> None:
    whole = b"".join(MADE.values())
    text, bundle = pem(*MADE.values()), sent_as(MADE, "p7b", LEVELS)
    # A PKCS#7 whose lengths are marks, too.
    ber = b"0\x80\x06\x09*\x86H\x86\xf7\r\x01\x07\x02\xa0\x80" + bundle[19:] + bytes(4)
    hurt = [data[: at % len(data)] + other + data[at % len(data) + len(other) :] for data in (whole, text, bundle, ber)]
    sent = read_sent([SentFile(f"{number}", data) for number, data in enumerate([*files, *hurt])])
    assert isinstance(judge(sent, [], sent.certificates[0].facts, [], NOW), Verdict) if sent.certificates else sent
