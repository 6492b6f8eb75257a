"""Every file of a cluster before checkers that share no code with what made it: pkilint, zlint, GnuTLS and NSS.

OpenSSL's turn is in the integration tests. A finding that is no fault has its name and its reason here.
"""

from __future__ import annotations

import csv
import json
import re
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import pytest

from helpers.vault.cluster_factory import ClusterFactory
from vaultpki.certificates import ISSUING_CAS, bundle, chain_bundle, pair_files
from vaultpki.model import Certificate, KeyType
from vaultpki.verify.folders import find_holders

pytestmark = [pytest.mark.conformance, pytest.mark.on_both]

SPEC = """\
api_server: {names: [api.example.com], addresses: [10.0.0.10], service_cidr: [10.96.0.0/12, "fd00:96::/108"]}
nodes:
- {name: cp-1, roles: [control-plane, etcd], addresses: [10.0.0.11, "fd00::11"]}
- {name: worker-1.example.com, roles: [worker], addresses: [10.0.0.21]}
- {name: all-1, roles: [control-plane, etcd, worker], addresses: [10.0.0.31]}
pools:
- {name: autoscaled, roles: [worker], node_names: "w-*"}
certificates:
  kube-apiserver: {key: ec-p384}
  kubelet: {key: rsa-2048}
  kube-proxy: {key: rsa-4096}
  front-proxy-client: {key: ed25519}
"""

PKILINT_EXCEPTIONS = {
    # pkilint wants a dot in every DNS name. RFC 5280 (4.2.1.6) refers to RFC 1034's "preferred name syntax", in which
    # one label is a name; and `kubernetes`, `localhost` and short node names are what clients of these servers call.
    "pkix.invalid_domain_name_syntax": re.compile(r'Invalid domain name syntax: "[a-z0-9-]+"'),
}
ZLINT_EXCEPTIONS = {
    # Both lints take http:// and ldap:// alone (RFC 5280, 4.2.1.13 and 4.2.2.1, "SHOULD"). The only place that has
    # these is Vault, which speaks TLS, and no component of a cluster fetches them on its own.
    "w_distribution_point_missing_ldap_or_uri": "https://127.0.0.1:",
    "w_ext_aia_access_location_missing": "https://127.0.0.1:",
}
TOOLS = Path(sys.executable).parent


@dataclass(frozen=True)
class Laid:
    """A certificate as it lies on the disk, each of its chain in a file of its own, as the checkers want it."""

    certificate: Certificate
    leaf: Path
    issuing: Path
    root: Path

    def __str__(self) -> str:
        return f"{self.leaf.parent.name} {self.certificate.name}"


def blocks(data: str) -> list[str]:
    return re.findall(r"-----BEGIN CERTIFICATE-----\n[^-]+-----END CERTIFICATE-----\n", data)


@pytest.fixture(scope="module")
def laid(shared_clusters: ClusterFactory) -> tuple[Laid, ...]:
    """All certificates of all nodes and of the operator, laid down by the product and taken apart here."""
    cluster = shared_clusters.applied(SPEC)
    folder = cluster.folder
    for node in cluster.model.nodes:
        cluster.equip(node.name).run()
    cluster.equip("w-7", pool="autoscaled").run()
    for name in ("admin", "super-admin"):
        cluster.issue(name, folder / "operator")
    apart = folder / "apart"
    found = []
    for holder in find_holders(cluster.model, folder):
        place = apart / holder.name
        place.mkdir(parents=True)
        for ca in ISSUING_CAS:
            assert blocks((holder.folder / bundle(ca)).read_text())
            (place / f"{ca}-root.pem").write_text(blocks((holder.folder / chain_bundle(ca)).read_text())[1])
        for certificate in holder.certificates:
            leaf, issuing = blocks((holder.folder / pair_files(certificate.stem)[0]).read_text())
            (place / f"{certificate.stem}.pem").write_text(leaf)
            (place / f"{certificate.stem}-ca.pem").write_text(issuing)
            stem = place / certificate.stem
            found.append(
                Laid(
                    certificate,
                    stem.with_name(f"{stem.name}.pem"),
                    stem.with_name(f"{stem.name}-ca.pem"),
                    place / f"{certificate.ca}-root.pem",
                )
            )
    assert len(found) == 9 + 3 + 12 + 3 + 2
    return tuple(found)


def run(*command: str | Path, codes: tuple[int, ...] = (0,)) -> str:
    done = subprocess.run(list(map(str, command)), capture_output=True, text=True, check=False, timeout=120)
    assert done.returncode in codes, (command, done.returncode, done.stdout, done.stderr)
    return done.stdout + done.stderr


def every(laid: tuple[Laid, ...]) -> list[Path]:
    """Each leaf, each issuing CA and the root, once."""
    files = [each.leaf for each in laid]
    for group in ([each.issuing for each in laid], [each.root for each in laid]):
        files += {file.read_text(): file for file in group}.values()
    assert len(files) == len(laid) + len(ISSUING_CAS) + 1
    return files


def test_pkilint(laid: tuple[Laid, ...]) -> None:
    """RFC 5280 and what it stands on, warnings included; the exit code is the number of findings."""

    def lint(file: Path) -> list[str]:
        said = run(TOOLS / "lint_pkix_cert", "lint", "-s", "WARNING", "-f", "CSV", file, codes=tuple(range(60)))
        return findings(said, file)

    with ThreadPoolExecutor(max_workers=2) as pool:
        assert [finding for found in pool.map(lint, every(laid)) for finding in found] == []


def test_pkilint_on_issuer_and_subject(laid: tuple[Laid, ...]) -> None:
    pairs = [(each.issuing, each.leaf) for each in laid]
    pairs += {each.certificate.ca: (each.root, each.issuing) for each in laid}.values()

    def lint(pair: tuple[Path, Path]) -> list[str]:
        tool = TOOLS / "lint_pkix_signer_signee_cert_chain"
        return findings(run(tool, "lint", "-s", "WARNING", "-f", "CSV", *pair, codes=tuple(range(60))), pair[1])

    with ThreadPoolExecutor(max_workers=2) as pool:
        assert [finding for found in pool.map(lint, pairs) for finding in found] == []


def findings(said: str, file: Path) -> list[str]:
    rows = list(csv.DictReader(said.splitlines()))
    assert said.startswith("node_path,"), said
    kept = []
    for row in rows:
        known = PKILINT_EXCEPTIONS.get(row["code"])
        if known is None or not known.fullmatch(row["message"]):
            kept.append(f"{file}: {row}")
    return kept


def test_zlint(laid: tuple[Laid, ...], zlint: Path) -> None:
    for file in every(laid):
        results = json.loads(run(zlint, "-includeSources", "RFC5280", file))
        assert len(results) > 100, results
        bad = {name: one["result"] for name, one in results.items() if one["result"] in ("warn", "error", "fatal")}
        text = run("openssl", "x509", "-noout", "-text", "-in", file)
        assert set(bad) <= set(ZLINT_EXCEPTIONS), (file, bad)
        assert all(ZLINT_EXCEPTIONS[name] in text for name in bad), (file, bad)


def test_gnutls(laid: tuple[Laid, ...], tmp_path: Path) -> None:
    """Accepted up to the root for its use, refused for the other, under another name, and with another CA."""
    for each in laid:
        usage = each.certificate.usage
        chain = tmp_path / "chain.pem"
        chain.write_text(each.leaf.read_text() + each.issuing.read_text())
        verify = ("certtool", "--verify", "--infile", chain, "--load-ca-certificate")
        for purpose, good in (("1.3.6.1.5.5.7.3.1", usage.server), ("1.3.6.1.5.5.7.3.2", usage.client)):
            run(*verify, each.root, "--verify-purpose", purpose, codes=(0,) if good else (1,))
        for name in each.certificate.subject.dns:
            run(*verify, each.root, "--verify-hostname", name)
        if usage.server:
            run(*verify, each.root, "--verify-hostname", "other.example.com", codes=(1,))
        other = next(one for one in laid if one.certificate.ca != each.certificate.ca)
        run(*verify, other.issuing, codes=(1,))


def test_nss(laid: tuple[Laid, ...], tmp_path: Path) -> None:
    """NSS keeps one nickname for a subject, so each certificate gets a database of its own."""
    for number, each in enumerate(laid):
        usage = each.certificate.usage
        if each.certificate.key is KeyType.ED25519:
            continue  # NSS 3.87 (Debian 12) takes no Ed25519 certificate into a database.
        folder = tmp_path / str(number)
        folder.mkdir()
        base = ("certutil", "-d", f"sql:{folder}")
        run(*base, "-N", "--empty-password")
        run(*base, "-A", "-n", "root", "-t", "CT,,", "-i", each.root)
        run(*base, "-A", "-n", "issuing", "-t", ",,", "-i", each.issuing)
        run(*base, "-A", "-n", "leaf", "-t", ",,", "-i", each.leaf)
        for letter, good in (("C", usage.client), ("V", usage.server), ("L", False)):
            run(*base, "-V", "-e", "-n", "leaf", "-u", letter, codes=(0,) if good else (255,))
