"""What signers send, in every form that is in use, and what is made of several files together."""

from __future__ import annotations

import subprocess
import time
from collections.abc import Mapping
from datetime import timedelta
from pathlib import Path

import pytest
from cryptography import x509 as c
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.serialization import Encoding, pkcs7
from cryptography.x509.name import _ASN1Type

from helpers.outside_signers import (
    BEGIN,
    DAY,
    NAMES,
    NOW,
    YEAR,
    Level,
    chain,
    csr,
    facts,
    judged,
    key,
    name,
    own_request,
    pem,
    pss_key,
    resigned,
    unknown_extension,
    version_1,
)
from vaultpki.errors import CertificateUnreadable
from vaultpki.outside import verdicts
from vaultpki.outside.files import MOST_SENT_CERTIFICATES, SentFile, read_sent
from vaultpki.outside.request import installed_request, waiting_request
from vaultpki.values.certificate_forms import MOST_FILE_BYTES

MADE = chain()
STRANGER = chain({"root": {"serial": 77}}, {"root": "p384"})["root"]


def openssl(*words: str, given: bytes = b"") -> bytes:
    return subprocess.run(["openssl", *words], input=given, capture_output=True, check=True, timeout=60).stdout


def bundle() -> bytes:
    return pem(MADE["own"], MADE["lower"], MADE["upper"], MADE["root"])


def text() -> bytes:
    return b"".join(openssl("x509", "-text", given=pem(each)) for each in MADE.values())


def p7(encoding: Encoding, *certificates: bytes) -> bytes:
    return pkcs7.serialize_certificates([c.load_der_x509_certificate(each) for each in certificates], encoding)


def ber(tmp_path: Path) -> bytes:
    (tmp_path / "all.pem").write_bytes(bundle())
    # A streamed PKCS#7 has no lengths; the signer of the message travels with the certificates.
    (tmp_path / "key.pem").write_bytes(openssl("ecparam", "-name", "prime256v1", "-genkey", "-noout"))
    words = ["req", "-x509", "-new", "-key", str(tmp_path / "key.pem"), "-subj", "/CN=mailer"]
    (tmp_path / "mailer.pem").write_bytes(openssl(*words))
    words = f"smime -sign -binary -stream -nodetach -outform DER -signer {tmp_path}/mailer.pem".split()
    return openssl(*words, "-inkey", str(tmp_path / "key.pem"), "-certfile", str(tmp_path / "all.pem"), given=b"hi")


FORMS = {
    "PEM": [bundle()],
    "any order": [pem(MADE["root"], MADE["own"], MADE["upper"], MADE["lower"])],
    "CRLF": [bundle().replace(b"\n", b"\r\n")],
    "openssl -text": [text()],
    "a comment before each block": [bundle().replace(BEGIN.encode(), b"# a comment\n" + BEGIN.encode())],
    "bag attributes": [bundle().replace(BEGIN.encode(), b"Bag Attributes\n    friendlyName: x\n" + BEGIN.encode())],
    "no newline between blocks": [bundle().replace(b"-----\n-----", b"----------")],
    "no newline at the end": [bundle().rstrip()],
    "a BOM": [b"\xef\xbb\xbf" + bundle()],
    "UTF-16 of PowerShell": [bundle().decode().encode("utf-16")],
    "indentation": [b"".join(b"    " + line + b"\n" for line in bundle().splitlines())],
    "tabs and blanks at line ends": [bundle().replace(b"\n", b" \t\n")],
    "one line for each block": [
        b"".join(line + (b"\n" if line.startswith(b"--") else b"") for line in bundle().splitlines()).replace(
            b"-----END", b"\n-----END"
        )
    ],
    "X509 CERTIFICATE": [
        bundle().replace(b"N CERTIFICATE-", b"N X509 CERTIFICATE-").replace(b"D CERT", b"D X509 CERT")
    ],
    "TRUSTED CERTIFICATE": [
        *(openssl("x509", "-trustout", "-addtrust", "serverAuth", given=pem(each)) for each in MADE.values())
    ],
    "DER, one file each": list(MADE.values()),
    "DER with a newline behind": [each + b"\r\n" for each in MADE.values()],
    "DER, all in one file": [b"".join(MADE.values())],
    "PKCS#7 in PEM": [p7(Encoding.PEM, *MADE.values())],
    "PKCS#7 in DER": [p7(Encoding.DER, *MADE.values())],
    "PKCS#7 called CMS": [p7(Encoding.PEM, *MADE.values()).replace(b" PKCS7-", b" CMS-")],
    "PKCS#7 called a certificate": [p7(Encoding.PEM, *MADE.values()).replace(b" PKCS7-", b" CERTIFICATE-")],
    "PKCS#7 and PEM": [p7(Encoding.DER, MADE["lower"], MADE["upper"]), pem(MADE["own"]), MADE["root"]],
    "the same twice": [bundle(), bundle(), MADE["own"]],
    "with our request": [bundle() + own_request().csr.encode()],
}


@pytest.mark.parametrize("form", FORMS)
def test_every_form_that_signers_send_is_read(form: str) -> None:
    found = judged(FORMS[form], MADE["root"])
    assert [each.certificate.der for each in found.accepted] == [MADE["own"]]
    assert found.refused == () and found.unanswered == ()
    others = ["1.pem: a signing request is ignored"] if form == "with our request" else []
    assert [each.sentence for each in found.ignored] == others


def test_a_streamed_pkcs_7_is_read(tmp_path: Path) -> None:
    found = judged([ber(tmp_path)], MADE["root"])
    assert found.ok and [each.reason for each in found.ignored] == ["stranger"]
    assert "CN=mailer is ignored" in found.ignored[0].sentence


def test_clean_pem_is_handed_on() -> None:
    sent = read_sent([SentFile("a", FORMS["openssl -text"][0]), SentFile("b", bundle())])
    assert sent.pem.encode().split() == b"".join(facts(each).pem.encode() for each in MADE.values()).split()
    assert {each.file for each in sent.certificates} == {"a"}


def test_strangers_beside_ours_are_ignored_with_a_warning() -> None:
    leaf = chain({"own": {"ca": False, "public": key("web").public_key(), "subject": name("www.corp.example")}})["own"]
    old = chain({"own": {"rebuilt": version_1, "public": key("web").public_key()}})["own"]
    odd = chain({"own": {"rebuilt": pss_key, "public": key("pss", "rsa2048").public_key()}})["own"]
    found = judged([p7(Encoding.DER, STRANGER, MADE["own"], leaf), bundle(), pem(old)], MADE["root"])
    assert found.ok and len(found.accepted) == 1
    assert [(each.file, each.reason) for each in found.ignored] == [
        ("1.pem", "stranger"),
        ("1.pem", "stranger"),
        ("3.pem", "stranger"),
    ]
    told = " ".join(each.sentence for each in found.ignored)
    assert "www.corp.example is ignored: it belongs to no chain" in told
    assert judged([bundle(), pem(odd)], MADE["root"]).ok


def test_of_several_answers_the_one_that_ends_last_is_taken() -> None:
    longer = chain({"own": {"not_after": NOW + 6 * YEAR, "serial": 5}})["own"]
    for files in ([bundle(), longer], [longer, bundle()]):
        found = judged(files, MADE["root"])
        assert found.ok and [each.certificate.der for each in found.accepted] == [longer]
        (ignored,) = found.ignored
        assert ignored.reason == "other-answer" and "ends later" in ignored.sentence


def test_a_wrong_answer_beside_a_right_one_is_ignored_with_its_reason() -> None:
    wrong = chain({"own": {"path_length": 1, "serial": 5, "not_after": NOW + 6 * YEAR}})["own"]
    found = judged([wrong, bundle()], MADE["root"])
    assert found.ok and [each.certificate.der for each in found.accepted] == [MADE["own"]]
    assert [each.reason for each in found.ignored] == ["other-answer"]
    assert "has path length 1 instead of 0" in found.ignored[0].sentence


def test_an_older_certificate_of_that_name_beside_the_answer_is_ignored() -> None:
    older = chain({"own": {"public": key("older").public_key(), "serial": 5}})["own"]
    found = judged([older, bundle()], MADE["root"])
    assert found.ok and [each.reason for each in found.ignored] == ["stranger"]


def test_a_renewed_intermediate_leads_around_the_expired_one() -> None:
    expired = chain({"lower": {"not_after": NOW - DAY, "serial": 5}})["lower"]
    for files in ([expired, bundle()], [bundle(), expired]):
        found = judged(files, MADE["root"])
        assert found.ok and found.accepted[0].chain[0].der == MADE["lower"]


def test_of_two_roots_that_vouch_for_a_chain_the_pinned_one_counts() -> None:
    """A cross certificate of the root leads to another root, which was there before."""
    older = Level(name("Older Root"), key("older root"))
    cross = Level(name("Corp Root"), key("root p256", "p256"), {"serial": 7}).certificate(older)
    root = older.certificate(older)
    for anchor, length in ((MADE["root"], 3), (root, 4)):
        found = judged([pem(cross, root), bundle()], anchor)
        assert found.ok and len(found.accepted[0].chain) == length and found.accepted[0].chain[-1].der == anchor
    assert [each.reason for each in judged([bundle(), root], root).refused] == ["wrong-anchor"]


def test_several_domains_are_judged_together() -> None:
    etcd = own_request()
    kubelet = waiting_request(
        "kubelet", csr(name("prod kubelet CA"), key("kubelet")), ttl=86400 * 400, longest_ttl=86400
    )
    front = waiting_request("front-proxy", csr(name("prod front"), key("front")), ttl=86400 * 400, longest_ttl=86400)
    wrong = chain(
        {"own": {"public": key("kubelet").public_key(), "subject": name("prod kubelet CA"), "path_length": 3}}
    )
    found = judged([bundle(), pem(wrong["own"])], MADE["root"], requests=[etcd, kubelet, front])
    assert [each.request.domain for each in found.accepted] == ["etcd"] and not found.ok
    assert [(each.domain, each.file, each.reason) for each in found.refused] == [("kubelet", "2.pem", "path-length")]
    assert found.unanswered == ("front-proxy",)


def test_a_key_in_any_file_refuses_all_of_them() -> None:
    secret = openssl("genpkey", "-algorithm", "ED25519")
    found = judged([bundle(), secret], MADE["root"])
    assert found.accepted == () and [(each.file, each.reason) for each in found.refused] == [("2.pem", "private-key")]
    assert "PRIVATE KEY" not in repr(found)


def test_a_pkcs_12_is_refused_as_a_key(tmp_path: Path) -> None:
    (tmp_path / "key.pem").write_bytes(openssl("genpkey", "-algorithm", "ED25519"))
    (tmp_path / "ca.pem").write_bytes(
        openssl("req", "-x509", "-new", "-key", str(tmp_path / "key.pem"), "-subj", "/CN=x")
    )
    words = f"pkcs12 -export -inkey {tmp_path}/key.pem -in {tmp_path}/ca.pem -passout pass:".split()
    (refusal,) = judged([openssl(*words)], MADE["root"]).refused
    assert refusal.reason == "private-key" and "PKCS#12" in refusal.sentence


def test_keys_of_every_label_are_refused() -> None:
    for label in ("OPENSSH PRIVATE KEY", "PGP PRIVATE KEY BLOCK", "ANY PRIVATE KEY", "EC PRIVATE KEY"):
        found = judged([bundle() + f"-----BEGIN {label}-----\nAAAA".encode()], MADE["root"])
        assert [each.reason for each in found.refused] == ["private-key"], label


def test_too_many_certificates_are_refused() -> None:
    many = [
        chain({"root": {"serial": number}}, {"root": "p384"})["root"] for number in range(1, MOST_SENT_CERTIFICATES + 2)
    ]
    found = judged([pem(*many)], MADE["root"])
    assert [each.reason for each in found.refused] == ["too-many"]


def test_a_name_cannot_write_to_the_terminal() -> None:
    evil = chain({"own": {"subject": name("prod etcd CA\x1b[2J\n", _ASN1Type.UTF8String)}})["own"]
    sent = read_sent([SentFile("a\x1b[31m.pem", pem(evil, MADE["lower"]))])
    found = verdicts.judge(sent, [own_request()], facts(MADE["root"]), [], NOW)
    assert all(each.sentence.isprintable() for each in found.refused) and found.refused


def test_the_time_to_read_grows_with_the_length_alone() -> None:
    for piece in (
        b"-----BEGIN CERTIFICATE-----\n",
        b"-----BEGIN ",
        b"-----BEGIN CERTIFICATE-----A-----END ",
        b"\x30\x82",
        b"\x30\x80",
        b"\x30\x80" + b"\x04\x00" * (MOST_FILE_BYTES // 2 - 1),
    ):
        data = piece * (MOST_FILE_BYTES // len(piece))
        begun = time.process_time()
        assert read_sent([SentFile("x", data)]).certificates == ()
        assert time.process_time() - begun < 5


def test_certificates_that_all_may_have_signed_each_other_are_tried_in_a_bounded_number_of_ways() -> None:
    same = [
        chain({"lower": {"serial": number, "issuer": name("Corp Cluster CA"), "forger": key("lower p256")}})["lower"]
        for number in range(1, 40)
    ]
    assert judged([MADE["own"], pem(*same)], MADE["root"]).accepted == ()


def loop(serial: int, subject: str, issuer: str) -> bytes:
    """A CA that another one of a ring signed."""
    made = c.CertificateBuilder(name(issuer), name(subject), key(subject).public_key(), serial, NOW - DAY, NOW + DAY)
    made = made.add_extension(c.BasicConstraints(True, None), True)
    return made.sign(key(issuer), hashes.SHA256()).public_bytes(Encoding.DER)


def test_a_chain_that_is_too_long_is_refused() -> None:
    links = [loop(number + 1, f"level {number}", f"level {number + 1}") for number in range(12)]
    bottom = chain({"own": {"issuer": name("level 0"), "forger": key("level 0")}})["own"]
    found = judged([bottom, pem(*links)], MADE["root"])
    # Each of these ends in a day.
    assert [each.reason for each in found.refused] == ["chain-too-long", "outlives-signer"]


def test_a_ring_of_cas_ends() -> None:
    links = [loop(number + 1, f"level {number}", f"level {(number + 1) % 3}") for number in range(3)]
    bottom = chain({"own": {"issuer": name("level 0"), "forger": key("level 0")}})["own"]
    assert judged([bottom, pem(*links)], MADE["root"]).refused[0].reason == "chain-incomplete"


def test_an_odd_certificate_of_our_key_is_refused_with_its_domain() -> None:
    twice = {"more": [(unknown_extension(), False), (c.InhibitAnyPolicy(5), False)]}
    odd = resigned(
        chain({"own": twice})["own"],
        key("lower p256"),
        # Two extensions of one kind.
        lambda fields: [
            (tag, value.replace(bytes.fromhex("551d36"), bytes.fromhex("551d13"))) for tag, value in fields
        ],
    )
    (refusal,) = judged([pem(MADE["lower"], MADE["upper"], MADE["root"], odd)], MADE["root"]).refused
    assert (refusal.domain, refusal.reason) == ("etcd", "odd-certificate")
    assert judged([bundle(), pem(odd)], MADE["root"]).ok


@pytest.mark.parametrize(
    "changes", [{}, {"lower": {"not_after": NOW + 8 * YEAR, "serial": 9}}], ids=["same", "renewed"]
)
def test_a_chain_alone_is_renewed_below_installed_cas(changes: Mapping[str, Mapping[str, object]]) -> None:
    made = chain(changes)
    installed = facts(MADE["own"])
    sent = read_sent([SentFile("chain.pem", pem(made["lower"], made["upper"]))]).adding([installed], "etcd")
    found = verdicts.judge(sent, [installed_request("etcd", installed, NAMES)], facts(made["root"]), [], NOW)
    assert found.ok and found.accepted[0].chain[0].der == made["lower"] and found.accepted[0].remarks == ()
    later = verdicts.judge(sent, [installed_request("etcd", installed)], facts(made["root"]), [], NOW + 9 * YEAR)
    assert {each.reason for each in later.refused} == {"expired", *(["above-expired"] if changes else [])}


def test_a_signer_is_asked_about_before_anything_is_sent() -> None:
    root, upper, lower = (facts(MADE[each]) for each in ("root", "upper", "lower"))
    request = own_request()
    assert verdicts.why_no_signer(root, [], root, request, NOW) == ()
    assert verdicts.why_no_signer(lower, [upper], root, request, NOW) == ()
    assert verdicts.why_no_signer(upper, [], root, request, NOW) == ()
    (narrow, bounded) = (
        facts(chain({"lower": change})["lower"])
        for change in (
            {"more": [(c.NameConstraints([c.DNSName("corp.example")], None), True)]},
            {"path_length": 0},
        )
    )
    for signer, reason, says in (
        (
            narrow,
            "above-constraints",
            "CN=Corp Cluster CA above the issuing CAs has name constraints that forbid names of this cluster",
        ),
        (bounded, "above-path-length", "path length 0, and 1 CA stands below it"),
        (facts(MADE["own"]), "above-path-length", "path length 0"),
    ):
        refusal = verdicts.why_no_signer(signer, [upper, lower], root, request, NOW)[0]
        assert refusal.reason == reason and says in refusal.sentence, refusal
    (late,) = verdicts.why_no_signer(lower, [upper], root, request, NOW + timedelta(days=3650 - 60))
    assert late.reason == "too-short"
    (missing,) = verdicts.why_no_signer(lower, [], root, request, NOW)
    assert missing.reason == "chain-incomplete"


def test_only_a_request_that_its_key_signed_waits() -> None:
    good = csr(name("prod etcd CA"), key("own p256"))
    for wrong in ("", "x", bundle().decode(), good + good):
        with pytest.raises(CertificateUnreadable, match="not a signing request"):
            waiting_request("etcd", wrong, ttl=1, longest_ttl=1)
    read = waiting_request("etcd", good, ttl=86401, longest_ttl=1)
    assert (read.common_name, read.subject_text, read.days) == ("prod etcd CA", "CN=prod etcd CA", 2)
    der = c.load_pem_x509_csr(good.encode()).public_bytes(Encoding.DER)
    forged = der[:-1] + bytes([der[-1] ^ 1])
    block = pem(forged).decode().replace("CERTIFICATE", "CERTIFICATE REQUEST")
    with pytest.raises(CertificateUnreadable):
        waiting_request("etcd", block, ttl=1, longest_ttl=1)
