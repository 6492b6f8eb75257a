"""What a CA's certificate says of it, and which wish of cluster.yaml only a rotation would grant."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import NameOID

from helpers.example_cluster import BASE, load
from vaultpki.model import KeyType
from vaultpki.provision.ca_facts import CaFacts, lives, read_ca, rotations_needed
from vaultpki.provision.desired import desired
from vaultpki.records.rotation import CaRef, RotationRecord, State
from vaultpki.records.server_facts import ServerFacts
from vaultpki.show.plan import rotation_sentence

DAY = 86400
NOW = datetime(2026, 11, 25, 12, tzinfo=UTC)

KEYS = {
    KeyType.EC_P256: lambda: ec.generate_private_key(ec.SECP256R1()),
    KeyType.EC_P384: lambda: ec.generate_private_key(ec.SECP384R1()),
    KeyType.RSA_2048: lambda: rsa.generate_private_key(65537, 2048),
    KeyType.RSA_3072: lambda: rsa.generate_private_key(65537, 3072),
    KeyType.RSA_4096: lambda: rsa.generate_private_key(65537, 4096),
    KeyType.ED25519: ed25519.Ed25519PrivateKey.generate,
}


def pem(key: object, *, name: str = "prod etcd CA", life: int = 1825 * DAY, ca: bool = True) -> str:
    signer = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    made = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(subject)
        .public_key(key.public_key())  # type: ignore[attr-defined]
        .serial_number(x509.random_serial_number())
        .not_valid_before(NOW - timedelta(minutes=10))
        .not_valid_after(NOW + timedelta(seconds=life))
        .add_extension(x509.BasicConstraints(ca, None), critical=True)
        .sign(signer, hashes.SHA256())
    )
    return made.public_bytes(Encoding.PEM).decode()


@pytest.mark.parametrize("kind", KEYS)
def test_every_kind_of_key_is_told(kind: KeyType) -> None:
    facts = read_ca("etcd", pem(KEYS[kind]()))
    assert facts == CaFacts("prod etcd CA", kind, 1825 * DAY, NOW + timedelta(days=1825))


def test_a_key_that_we_never_make_is_another_key() -> None:
    facts = read_ca("etcd", pem(ec.generate_private_key(ec.SECP521R1())))
    assert facts is not None and facts.key is None


@pytest.mark.parametrize("text", ["", "None", "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----"])
def test_what_is_no_certificate_tells_nothing(text: str) -> None:
    assert read_ca("etcd", text) is None


def test_neither_is_a_leaf_nor_are_two_certificates_a_ca() -> None:
    key = KEYS[KeyType.EC_P256]()
    assert read_ca("etcd", pem(key, ca=False)) is None
    assert read_ca("etcd", pem(key) + pem(key)) is None


def facts_of(*, life: int = 1825 * DAY, common_name: str = "prod etcd CA") -> CaFacts:
    return CaFacts(common_name, KeyType.EC_P256, life, NOW)


def test_what_is_as_asked_needs_no_rotation(tmp_path: Path) -> None:
    cluster = load(tmp_path, BASE)
    for life in (1825 * DAY, 1825 * DAY + 1, 1825 * DAY - 2):
        assert rotations_needed(cluster, {"etcd": facts_of(life=life)}) == ()
        assert lives(cluster, {"etcd": facts_of(life=life)}, {}) == {"etcd": 1825 * DAY}


def test_what_is_not_is_said_in_one_sentence_for_each_ca(tmp_path: Path) -> None:
    cluster = load(tmp_path, BASE + "ca: {issuing_ttl: 3y, key: rsa-2048}\n")
    (one,) = rotations_needed(cluster, {"etcd": facts_of(life=1825 * DAY + 1)})
    assert one.fields == {"key": ("ec-p256", "rsa-2048"), "ttl": (1825 * DAY + 1, 1095 * DAY)}
    assert rotation_sentence("cluster.yaml", one) == (
        "etcd CA: ec-p256, a life of 5y until 2026-11-25; cluster.yaml asks rsa-2048, a life of 3y: it needs a "
        "rotation (`vaultpki ca rotate etcd`); nothing is changed"
    )
    evil = rotation_sentence("c.yaml", rotations_needed(cluster, {"etcd": facts_of(common_name="\x1b[2J\n")})[0])
    assert evil.isprintable() and '"\\x1b[2J\\n", ec-p256' in evil


def test_certificates_that_would_outlive_the_ca_are_named(tmp_path: Path) -> None:
    cluster = load(tmp_path, BASE + "ca: {issuing_ttl: 8y, root_ttl: 9y}\ncertificates: {etcd-peer: {ttl: 6y}}\n")
    (one,) = rotations_needed(cluster, {"etcd": facts_of()})
    assert one.refused == ("etcd-peer",)
    assert rotation_sentence("c", one).endswith("until then etcd-peer would outlive it and end with it")


def test_as_long_as_a_ca_stays_its_mount_stays_with_it(tmp_path: Path) -> None:
    cluster = load(tmp_path, BASE + "ca: {issuing_ttl: 3y, root_ttl: 20y}\n")
    found = {"root": facts_of(life=3650 * DAY + 1), "etcd": facts_of(life=1825 * DAY + 1)}
    known = lives(cluster, found, {"root": 3650 * DAY, "etcd": 9000 * 3600})
    # As the mount says it where that is the same; the certificate's own life where somebody has changed the mount.
    assert known == {"root": 3650 * DAY, "etcd": 1825 * DAY + 1}
    wanted = desired(cluster, ServerFacts(ca_lives=known))
    assert wanted["mount", "vaultpki/prod/root"]["max_ttl"] == 3650 * DAY
    assert wanted["mount", "vaultpki/prod/etcd"]["max_ttl"] == 1825 * DAY + 1
    # A CA that is not there is made as asked.
    assert wanted["mount", "vaultpki/prod/kubelet"]["max_ttl"] == 1095 * DAY


def rotated(state: State, leaf: str = "etcd-2") -> RotationRecord:
    return RotationRecord("etcd", state, 3, NOW, CaRef("etcd-1", sha256="a" * 64), CaRef(leaf, sha256="b" * 64))


def test_a_ca_that_was_rotated_has_the_number_of_its_key(tmp_path: Path) -> None:
    cluster = load(tmp_path, BASE)
    second = {"etcd": facts_of(common_name="prod etcd CA 2")}
    assert rotations_needed(cluster, second, {"etcd": rotated(State.DONE)}) == ()
    (one,) = rotations_needed(cluster, second, {"etcd": rotated(State.STEADY)})
    assert one.fields == {"common_name": ("prod etcd CA 2", "prod etcd CA")}
    # The same key keeps its name.
    first = {"etcd": facts_of()}
    assert rotations_needed(cluster, first, {"etcd": rotated(State.DONE, "etcd-1r2")}) == ()


def test_a_ca_that_is_being_rotated_needs_no_other_rotation(tmp_path: Path) -> None:
    cluster = load(tmp_path, BASE + "ca: {key: rsa-2048}\n")
    assert rotations_needed(cluster, {"etcd": facts_of()}, {"etcd": rotated(State.PUBLISHED)}) == ()
    assert len(rotations_needed(cluster, {"etcd": facts_of()}, {"etcd": rotated(State.DONE)})) == 1


def test_a_ca_that_the_root_cuts_short_needs_no_rotation(tmp_path: Path) -> None:
    cluster = load(tmp_path, BASE)
    ends = NOW + timedelta(days=1000)
    root = replace(facts_of(life=3650 * DAY, common_name="prod root CA"), not_after=ends)
    short = replace(facts_of(life=1000 * DAY - 3600), not_after=ends - timedelta(hours=1))
    assert rotations_needed(cluster, {"root": root, "etcd": short}) == ()
    other = replace(short, not_after=ends - timedelta(days=2))
    assert [each.ca for each in rotations_needed(cluster, {"root": root, "etcd": other})] == ["etcd"]
