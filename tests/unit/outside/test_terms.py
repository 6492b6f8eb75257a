"""What a signer must grant, as real `openssl` grants it: `openssl x509 -req`, and `openssl ca` as it is delivered."""

from __future__ import annotations

import re
import subprocess
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from cryptography import x509 as c
from cryptography.x509.name import _ASN1Type
from cryptography.x509.oid import NameOID

from helpers.outside_signers import csr, key, name
from vaultpki.outside.files import SentFile, read_sent
from vaultpki.outside.request import SignerTerms, WaitingRequest, terms, waiting_request
from vaultpki.outside.verdicts import Verdict, judge

DELIVERED = Path("/etc/ssl/openssl.cnf")

SHORT = name("prod etcd CA")
# What Vault writes for `ca.subject`: organizations and countries stand before the common name.
LONG = c.Name(
    [
        c.NameAttribute(NameOID.COUNTRY_NAME, "DE", _ASN1Type.PrintableString),
        c.NameAttribute(NameOID.ORGANIZATION_NAME, "Example Bank", _ASN1Type.PrintableString),
        c.NameAttribute(NameOID.ORGANIZATIONAL_UNIT_NAME, "Plattform München", _ASN1Type.UTF8String),
        c.NameAttribute(NameOID.COMMON_NAME, "prod etcd CA", _ASN1Type.PrintableString),
    ]
)
# An order that no policy of OpenSSL has.
ODD = c.Name([*list(name("prod etcd CA")), c.NameAttribute(NameOID.ORGANIZATION_NAME, "Example Bank")])


class Signer:
    """A folder on an offline machine with a root by OpenSSL alone."""

    def __init__(self, folder: Path, algorithm: str) -> None:
        self.folder = folder
        self.hash = [] if algorithm == "ED25519" else ["-sha256"]
        words = {"RSA": ["-pkeyopt", "rsa_keygen_bits:2048"], "EC": ["-pkeyopt", "ec_paramgen_curve:P-384"]}
        self.run("genpkey", "-algorithm", algorithm, *words.get(algorithm, []), "-out", "signer.key")
        self.run(
            "req",
            "-x509",
            "-new",
            "-key",
            "signer.key",
            "-subj",
            "/CN=Corp Root",
            "-days",
            "7300",
            "-out",
            "signer.crt",
        )

    def run(self, *words: str) -> str:
        done = subprocess.run(
            ["openssl", *words], cwd=self.folder, capture_output=True, text=True, timeout=60, check=False
        )
        assert done.returncode == 0, done.stderr
        return done.stdout

    def database(self) -> None:
        """Make what `openssl ca` needs, with the sections of the file that OpenSSL delivers."""
        (self.folder / "demoCA" / "newcerts").mkdir(parents=True)
        (self.folder / "demoCA" / "index.txt").touch()
        (self.folder / "demoCA" / "serial").write_text("1000\n")

    def judged(self, request: WaitingRequest, file: str, later: timedelta = timedelta(minutes=6)) -> Verdict:
        sent = read_sent([SentFile(file, (self.folder / file).read_bytes())])
        root = read_sent([SentFile("root", (self.folder / "signer.crt").read_bytes())]).certificates[0].facts
        return judge(sent, [request], root, [], datetime.now(UTC) + later)


def commands(found: SignerTerms, program: str) -> list[str]:
    """The command in the comment of the extensions file, as a shell reads it."""
    text = re.sub(r"(?m)^# ?", "", found.openssl).replace("\\\n", " ")
    (line,) = re.findall(rf"(?m)^ +openssl ({program} .*)$", text)
    return str(line).split()


def asked(folder: Path, subject: c.Name = SHORT) -> tuple[WaitingRequest, SignerTerms]:
    request = waiting_request("etcd", csr(subject, key("terms")), ttl=1825 * 86400, longest_ttl=30 * 86400)
    found = terms(request, "etcd")
    (folder / "etcd.csr").write_text(request.csr)
    (folder / "etcd.ext").write_text(found.openssl)
    return request, found


@pytest.mark.parametrize("algorithm", ["RSA", "EC", "ED25519"])
@pytest.mark.parametrize("subject", [name("prod etcd CA"), LONG, ODD], ids=["CN", "long", "odd"])
def test_openssl_x509_with_the_extensions_makes_what_is_accepted(
    tmp_path: Path, algorithm: str, subject: c.Name
) -> None:
    signer = Signer(tmp_path, algorithm)
    request, found = asked(tmp_path, subject)
    words = commands(found, "x509 -req")
    signer.run(*(word for word in words if algorithm != "ED25519" or word != "-sha256"))
    judged = signer.judged(request, "etcd.crt")
    assert judged.ok, judged
    young = signer.judged(request, "etcd.crt", timedelta(minutes=1))
    assert [each.reason for each in young.refused] == ["too-young"]


@pytest.mark.skipif(not DELIVERED.exists(), reason="OpenSSL's own file is elsewhere")
@pytest.mark.parametrize("subject", [name("prod etcd CA"), LONG, ODD], ids=["CN", "long", "odd"])
def test_openssl_ca_as_delivered_with_the_extensions_makes_what_is_accepted(tmp_path: Path, subject: c.Name) -> None:
    signer = Signer(tmp_path, "RSA")
    signer.database()
    request, found = asked(tmp_path, subject)
    words = commands(found, "ca")
    signer.run(*words, "-batch", "-cert", "signer.crt", "-keyfile", "signer.key", "-config", str(DELIVERED))
    judged = signer.judged(request, "etcd.crt")
    assert judged.ok, judged


@pytest.mark.skipif(not DELIVERED.exists(), reason="OpenSSL's own file is elsewhere")
def test_openssl_ca_by_its_defaults_makes_what_is_refused(tmp_path: Path) -> None:
    signer = Signer(tmp_path, "RSA")
    signer.database()
    request, _ = asked(tmp_path)
    common = ["ca", "-batch", "-in", "etcd.csr", "-cert", "signer.crt", "-keyfile", "signer.key", "-days", "1825"]
    common += ["-config", str(DELIVERED), "-notext", "-policy", "policy_anything"]
    for section, reasons in (
        ("usr_cert", ["not-a-ca", "no-cert-sign", "not-critical"]),
        ("v3_ca", ["path-length", "no-cert-sign"]),
    ):
        signer.run(*common, "-extensions", section, "-out", f"{section}.crt")
        (tmp_path / "demoCA" / "index.txt").write_text("")
        assert [each.reason for each in signer.judged(request, f"{section}.crt").refused] == reasons


def test_the_texts_name_everything_that_is_checked(tmp_path: Path) -> None:
    request, found = asked(tmp_path, LONG)
    assert request.subject_text == "CN=prod etcd CA,OU=Plattform München,O=Example Bank,C=DE"
    assert found.sentence.startswith(f"Sign etcd.csr as a subordinate CA: its subject ({request.subject_text})")
    for text in (found.sentence, found.form):
        for word in ("path length", "ritical", "ertificate sign", "CRL sign", "SHA-256", "1825 days", "10 minutes"):
            assert word in text, word
    assert re.fullmatch(r"[^.]+\.csr .*\.", found.sentence)
    assert all(len(line) <= 120 for line in found.form.splitlines())
    assert all(len(line) <= 120 for line in found.openssl.splitlines())


def test_a_name_cannot_leave_its_comment(tmp_path: Path) -> None:
    subject = name("prod\nkeyUsage = digitalSignature", _ASN1Type.UTF8String)
    _, found = asked(tmp_path, subject)
    lines = [line for line in found.openssl.splitlines() if line and not line.startswith("#")]
    assert len(lines) == 6 and lines[3] == "keyUsage = critical, keyCertSign, cRLSign"


@pytest.mark.parametrize("signer", ["cfssl-1.6.5", "step-0.21.0", "easy-rsa-3.1.0"])
def test_recipes_of_the_page_make_what_is_accepted(signer: str) -> None:
    """What each made of a request of OpenBao, as `docs/root-outside.md` has it: request, certificate and root."""
    data = (Path(__file__).parent / "signers" / f"{signer}.pem").read_bytes()
    sent = read_sent([SentFile(signer, data)])
    own, root = (each.facts for each in sent.certificates)
    text = data.decode()
    asked_for = text[: text.index("-----BEGIN CERTIFICATE-----")]
    request = waiting_request("etcd", asked_for, ttl=730 * 86400, longest_ttl=30 * 86400)
    verdict = judge(sent, [request], root, [], own.not_before + timedelta(days=1))
    assert verdict.ok, verdict.refused
    (accepted,) = verdict.accepted
    assert len(accepted.remarks) == (signer == "easy-rsa-3.1.0"), accepted.remarks
    page = (Path(__file__).parents[3] / "docs" / "root-outside.md").read_text()
    assert signer.replace("-", " ").lower().replace("easy rsa", "easy-rsa") in page.lower()
