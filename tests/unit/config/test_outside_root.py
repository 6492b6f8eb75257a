"""`ca.root`, `ca.root_file` and `ca.subject`: what is read, and each refusal with file, line and field."""

from __future__ import annotations

from pathlib import Path

import pytest
from cryptography import x509 as c
from cryptography.hazmat.primitives.serialization import Encoding, pkcs7

from helpers import outside_signers
from helpers.ca_certificates import ca, root
from helpers.corporate_certificates import Ca
from helpers.example_cluster import BASE, check_refused, load
from vaultpki.errors import SpecError
from vaultpki.identity import outside_signer
from vaultpki.model import OutsideRoot
from vaultpki.values import pem

ANCHOR = ca("Corp Root", key="Corp Root", years=20, path_length=None)
BETWEEN = ca("Corp Policy CA", key="Corp Policy CA", signer="Corp Root", years=10, path_length=1)
LOWER = ca("Corp Kubernetes CA", key="Corp Kubernetes CA", signer="Corp Policy CA", years=8, path_length=1)
STRANGER = root("other")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    files = {
        "chain.pem": LOWER.pem + ANCHOR.pem + BETWEEN.pem,
        "twice.pem": ANCHOR.pem + BETWEEN.pem + ANCHOR.pem,
        "rootless.pem": LOWER.pem + BETWEEN.pem,
        "two-roots.pem": ANCHOR.pem + STRANGER.pem,
        "stranger.pem": ANCHOR.pem + ca("x", key="x", signer="other root CA").pem,
        "key.pem": ANCHOR.pem + "-----BEGIN PRIVATE KEY-----\nhunter2\n-----END PRIVATE KEY-----\n",
        "empty.pem": "",
        "broken.pem": "-----BEGIN CERTIFICATE-----\nMAA=\n-----END CERTIFICATE-----\n",
        "many.pem": "".join(ca(f"c{n}", key=f"c{n}", signer="Corp Root").pem for n in range(6)) + ANCHOR.pem,
    }
    files["v1.pem"] = outside_signers.pem(outside_signers.version_1(BETWEEN.der, outside_signers.key("any"))).decode()
    files["odd.pem"] = pem.of_der(ANCHOR.der.replace(b"\x0c\x09Corp Root", b"\x13\x09Corp_Root"))
    files["two.pem"] = files["key.pem"] + BETWEEN.pem[:200]
    for name, text in files.items():
        (tmp_path / name).write_text(text)
    return tmp_path


def spec(text: str) -> str:
    return f"{BASE}ca:\n  {text}\n"


def test_without_these_keys_the_root_is_ours(folder: Path) -> None:
    authority = load(folder, BASE).authority
    assert (authority.outside, authority.subject, authority.root_sha256) == (None, {}, None)


def test_the_self_signed_certificate_is_the_anchor_and_the_pin(folder: Path) -> None:
    authority = load(folder, spec("root: external\n  root_file: chain.pem")).authority
    assert authority.outside == OutsideRoot(ANCHOR.pem, (LOWER.pem, BETWEEN.pem))
    assert authority.root_sha256 == ANCHOR.fingerprint
    assert authority.outside.by_people


def test_a_certificate_that_is_there_twice_counts_once(folder: Path) -> None:
    outside = load(folder, spec("root: external\n  root_file: twice.pem")).authority.outside
    assert outside is not None and outside.certificates == (ANCHOR.pem, BETWEEN.pem)


@pytest.mark.parametrize("form", ["DER", "PKCS#7 in DER", "PKCS#7 in PEM", "text around", "UTF-16"])
def test_the_file_may_have_every_form_that_ca_import_takes(folder: Path, form: str) -> None:
    chain = [c.load_der_x509_certificate(each.der) for each in (LOWER, ANCHOR, BETWEEN)]
    text = (folder / "chain.pem").read_bytes()
    forms = {
        "DER": LOWER.der + ANCHOR.der + BETWEEN.der,
        "PKCS#7 in DER": pkcs7.serialize_certificates(chain, Encoding.DER),
        "PKCS#7 in PEM": pkcs7.serialize_certificates(chain, Encoding.PEM),
        "text around": b"\xef\xbb\xbf# the chain\n" + text.replace(b"-----BEGIN", b"\xfcber\n-----BEGIN"),
        "UTF-16": text.decode().encode("utf-16"),
    }
    (folder / "chain.p7b").write_bytes(forms[form])
    outside = load(folder, spec("root: external\n  root_file: chain.p7b")).authority.outside
    assert outside is not None and outside.anchor == ANCHOR.pem and {*outside.others} == {LOWER.pem, BETWEEN.pem}


def test_a_file_with_a_leaf_is_refused(folder: Path) -> None:
    """It is below the root by its name."""
    leaf = Ca("www.corp.example", Ca("Corp Root"), ca=False)
    (folder / "leaf.pem").write_text(Ca("Corp Root").pem + leaf.pem)
    cluster = load(folder, spec("root: external\n  root_file: leaf.pem"))
    assert cluster.authority.outside is not None
    with pytest.raises(SpecError, match=r"has CN=www\.corp\.example.*, which is not for a CA") as refused:
        outside_signer.chain_of(cluster, cluster.authority.outside)
    assert refused.value.field == "ca.root_file"


@pytest.mark.parametrize("file", ["chain.pem", "rootless.pem"])
def test_the_pin_may_be_an_intermediate(folder: Path, file: str) -> None:
    text = f"root: external\n  root_file: {file}\n  root_sha256: {BETWEEN.fingerprint}"
    authority = load(folder, spec(text)).authority
    assert authority.outside is not None and authority.outside.anchor == BETWEEN.pem
    assert authority.root_sha256 == BETWEEN.fingerprint


def test_a_signer_on_the_same_server(folder: Path) -> None:
    text = "root: {mount: /pki/corp/, issuer: corp-2026}"
    assert load(folder, spec(text)).authority.outside == OutsideRoot(mount="pki/corp", issuer="corp-2026")
    outside = load(folder, spec(f"{text}\n  root_file: chain.pem")).authority.outside
    assert outside is not None and (outside.anchor, outside.by_people) == (ANCHOR.pem, False)


def test_a_subject_by_the_names_of_the_engine(folder: Path) -> None:
    text = 'root: {mount: m, issuer: i}\n  subject: {O: Example & Sons, OU: [A, B], C: DE, ST: Bayern, L: "Köln"}'
    assert load(folder, spec(text)).authority.subject == {
        "organization": ("Example & Sons",),
        "ou": ("A", "B"),
        "country": ("DE",),
        "province": ("Bayern",),
        "locality": ("Köln",),
    }


EXTERNAL = "root: external\n  "
REFUSED: dict[str, tuple[str, int, str, str]] = {
    "another word": ("root: own", 6, "ca.root", "write external, or {mount"),
    "a list": ("root: [external]", 6, "ca.root", "this is a list"),
    "no file": ("root: external", 6, "ca.root", "root_file"),
    "a file without a root": ("root_file: chain.pem", 6, "ca.root_file", "root: external"),
    "a subject without a root": ("subject: {O: x}", 6, "ca.subject", "root: external"),
    "no such file": (f"{EXTERNAL}root_file: no.pem", 7, "ca.root_file", "no such file"),
    "a key in the file": (f"{EXTERNAL}root_file: key.pem", 7, "ca.root_file", "private key"),
    "nothing in the file": (f"{EXTERNAL}root_file: empty.pem", 7, "ca.root_file", "the file is empty"),
    "a broken certificate": (f"{EXTERNAL}root_file: broken.pem", 7, "ca.root_file", "contains no certificate, but"),
    "no self-signed one": (f"{EXTERNAL}root_file: rootless.pem", 7, "ca.root_file", "ca.root_sha256"),
    "two roots": (f"{EXTERNAL}root_file: two-roots.pem", 7, "ca.root_file", "2 certificates that signed"),
    "a stranger": (f"{EXTERNAL}root_file: stranger.pem", 7, "ca.root_file", "certificate 2"),
    "version 1": (f"{EXTERNAL}root_file: v1.pem", 7, "ca.root_file", "certificate 1 of the file is not of version 3"),
    "a name that Go does not read": (f"{EXTERNAL}root_file: odd.pem", 7, "ca.root_file", "has `_` in a name that is a"),
    "a cut and a key": (f"{EXTERNAL}root_file: two.pem", 7, "ca.root_file", "private key and contains a block CERT"),
    "too many": (f"{EXTERNAL}root_file: many.pem", 7, "ca.root_file", "at most 6"),
    "another pin": (
        f"{EXTERNAL}root_file: chain.pem\n  root_sha256: {STRANGER.fingerprint}",
        8,
        "ca.root_sha256",
        "no certificate of chain.pem",
    ),
    "a life of the root": (f"{EXTERNAL}root_file: chain.pem\n  root_ttl: 20y", 8, "ca.root_ttl", "its own end"),
    "a leaf longer than the CAs": (
        f"{EXTERNAL}root_file: chain.pem\n  issuing_ttl: 10d",
        8,
        "ca.issuing_ttl",
        "its CA only 10d",
    ),
    "no issuer": ("root: {mount: pki-corp}", 6, "ca.root.issuer", "is missing"),
    "no mount": ("root: {issuer: x}", 6, "ca.root.mount", "is missing"),
    "an unknown key": ("root: {mount: m, issuer: i, role: r}", 6, "ca.root.role", "mount, issuer"),
    "the default issuer": ("root: {mount: pki-corp, issuer: default}", 6, "ca.root.issuer", "tomorrow"),
    "a glob in the mount": ('root: {mount: "pki-*", issuer: i}', 6, "ca.root.mount", "not the path of a mount"),
    "dots in the mount": ("root: {mount: a/../b, issuer: i}", 6, "ca.root.mount", "not the path of a mount"),
    "Vault's own mount": ("root: {mount: sys/x, issuer: i}", 6, "ca.root.mount", "Vault's own"),
    "a mount of the cluster": ("root: {mount: vaultpki/prod/root, issuer: i}", 6, "ca.root.mount", "own"),
    "a pattern in the issuer": ('root: {mount: m, issuer: "+"}', 6, "ca.root.issuer", "not the name"),
    "a common name": ("root: {mount: m, issuer: i}\n  subject: {CN: x}", 7, "ca.subject.CN", "O, OU, C"),
    "a comma": ('root: {mount: m, issuer: i}\n  subject: {O: "A, Inc"}', 7, "ca.subject.O", "comma"),
    "a blank at the end": ('root: {mount: m, issuer: i}\n  subject: {O: "A "}', 7, "ca.subject.O", "blanks"),
    "a long value": (f"root: {{mount: m, issuer: i}}\n  subject: {{O: {'a' * 65}}}", 7, "ca.subject.O", "1 to 64"),
    "a country in words": ("root: {mount: m, issuer: i}\n  subject: {C: Germany}", 7, "ca.subject.C", "two upper-case"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_refused(folder: Path, name: str) -> None:
    text, line, field, hint = REFUSED[name]
    check_refused(folder, spec(text), line, field, hint)


def test_a_list_names_the_root_that_leaves_too(folder: Path) -> None:
    leaving = "ab" * 32
    for pins in (f"[{ANCHOR.fingerprint}, {leaving}]", f"[{leaving}, {ANCHOR.fingerprint}]"):
        authority = load(folder, spec(f"root: external\n  root_file: chain.pem\n  root_sha256: {pins}")).authority
        assert (authority.root_sha256, authority.other_roots) == (ANCHOR.fingerprint, (leaving,))
        assert authority.outside is not None and authority.outside.anchor == ANCHOR.pem
    ours = load(folder, spec(f"root_sha256: [{leaving}, {'cd' * 32}]")).authority
    assert (ours.outside, ours.root_sha256, ours.other_roots) == (None, leaving, ("cd" * 32,))


@pytest.mark.parametrize(
    ("pins", "why"),
    [
        (f"[{'ab' * 32}]", "While the root is rotated write those of both roots, as a list"),
        (f"[{'ab' * 32}, {'cd' * 32}]", "no certificate of chain.pem has one of these SHA-256"),
        (f"[{ANCHOR.fingerprint}, {BETWEEN.fingerprint}]", "2 certificates of chain.pem have one of these SHA-256"),
    ],
)
def test_a_list_that_names_no_anchor_or_two(folder: Path, pins: str, why: str) -> None:
    text = spec(f"root: external\n  root_file: chain.pem\n  root_sha256: {pins}")
    with pytest.raises(SpecError, match=why):
        load(folder, text)
