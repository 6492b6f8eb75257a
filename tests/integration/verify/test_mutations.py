"""Each single change of a right folder is found by the check that must name it; the right folder has none."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any, Final

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from helpers.node.handmade_files import NOW, HandmadeFiles, authority, build, key_usage, made, put
from vaultpki import certificates
from vaultpki.model import Usage
from vaultpki.verify import folders
from vaultpki.verify.bundles_on_disk import bundle_checks
from vaultpki.verify.on_disk import Check, pair_checks

# What is changed, in the folder of cp-1; which file the check must name, and with which words.
Change = Callable[[HandmadeFiles, Path], Any]
Mutation = tuple[str, Change, str, str]


def checks(files: HandmadeFiles) -> Iterator[Check]:
    """The checks of cp-1's files, without handshakes."""
    rows = {row.name: row for row in certificates.rows(files.cluster)}
    (holder,) = (each for each in folders.find(files.cluster, files.folder) if each.name == "cp-1")
    yield from holder.found
    yield from bundle_checks(holder, rows, NOW)
    for certificate in holder.certificates:
        yield from pair_checks(holder, rows[certificate.name], certificate, NOW)[1]


def leaf(**options: Any) -> Change:
    """Another certificate of the API server with one thing changed."""

    def change(files: HandmadeFiles, pki: Path) -> None:
        names = {key: options.pop(key) for key in ("common_name", "organization", "dns", "ips") if key in options}
        usage = options.pop("purpose", None)
        want = files.want("cp-1", "kube-apiserver")
        want = replace(want, subject=replace(want.subject, **names), usage=usage or want.usage)
        files.lay(pki, want, **options)

    return change


def without(what: str, name: str) -> Change:
    def change(files: HandmadeFiles, pki: Path) -> None:
        want = files.want("cp-1", "kube-apiserver")
        names = tuple(one for one in getattr(want.subject, what) if one != name)
        assert names != getattr(want.subject, what)
        leaf(**{what: names})(files, pki)

    return change


def beside(what: str, name: str) -> Change:
    def change(files: HandmadeFiles, pki: Path) -> None:
        leaf(**{what: (*getattr(files.want("cp-1", "kube-apiserver").subject, what), name)})(files, pki)

    return change


def of_ca(ca: str) -> Change:
    """The pair of kube-apiserver for etcd, signed by the CA of another domain."""

    def change(files: HandmadeFiles, pki: Path) -> None:
        files.lay(pki, replace(files.want("cp-1", "kube-apiserver-etcd"), ca=ca))

    return change


def edit(name: str, change: Callable[[bytes], bytes]) -> Change:
    def apply(files: HandmadeFiles, pki: Path) -> None:
        path = pki / name
        mode = path.stat().st_mode & 0o777
        after = change(path.read_bytes())
        assert after != path.read_bytes()
        put(path, after, mode)

    return apply


def copied(source: str, name: str) -> Change:
    return lambda files, pki: put(pki / name, (pki / source).read_bytes(), (pki / name).stat().st_mode & 0o777)


def mode(name: str, bits: int) -> Change:
    return lambda files, pki: (pki / name).chmod(bits)


def owner(name: str) -> Change:
    return lambda files, pki: os.chown(pki / name, 1234, 1234)


def key_of(kind: str) -> Change:
    """A right certificate for a key of another kind."""

    def change(files: HandmadeFiles, pki: Path) -> None:
        key = rsa.generate_private_key(65537, 2048) if kind == "rsa" else ec.generate_private_key(ec.SECP384R1())
        pem = key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )
        signer = files.issuing["kubernetes"]
        subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "system:kube-scheduler")])
        extensions: list[tuple[x509.ExtensionType, bool]] = [
            (key_usage("digital_signature"), True),
            (x509.ExtendedKeyUsage([ExtendedKeyUsageOID.CLIENT_AUTH]), False),
        ]
        made = build(subject, key, signer, (-timedelta(minutes=5), timedelta(hours=1)), extensions)  # type: ignore[arg-type]
        crt = made.public_bytes(serialization.Encoding.PEM) + signer.pem
        put(pki / "kube-scheduler.crt", crt, 0o644)
        put(pki / "kube-scheduler.key", pem, 0o600)
        put(pki / "kube-scheduler.pem", pem + crt, 0o600)

    return change


def stranger(name: str) -> Change:
    """A bundle with a CA that has the right name and another root's signature beside the right one."""

    def change(files: HandmadeFiles, pki: Path) -> None:
        forged = authority("etcd", authority("root"))
        put(pki / name, (pki / name).read_bytes() + forged.pem, 0o644)

    return change


def halves(name: str) -> Change:
    return edit(name, lambda data: data[: len(data) // 2])


def end_of(data: bytes) -> int:
    return data.index(b"-----END CERTIFICATE-----\n") + len(b"-----END CERTIFICATE-----\n")


AS_IT_WAS: Final = {"life": (-timedelta(minutes=5), timedelta(hours=1))}
MUTATIONS: Final[tuple[Mutation, ...]] = (
    # Keys
    ("keys-swapped", copied("kube-scheduler.key", "kube-apiserver.key"), "kube-apiserver.key", "not the key of"),
    ("key-of-another-kind", key_of("rsa"), "kube-scheduler.crt", "key of another type"),
    ("key-of-another-size", key_of("p384"), "kube-scheduler.crt", "key of another type"),
    ("key-missing", lambda files, pki: (pki / "etcdserver.key").unlink(), "etcdserver.key", "is missing"),
    ("key-truncated", halves("etcdserver.key"), "etcdserver.key", ""),
    ("key-empty", edit("etcdserver.key", lambda data: b""), "etcdserver.key", ""),
    ("certificate-in-place-of-the-key", copied("etcdserver.crt", "etcdserver.key"), "etcdserver.key", ""),
    # Certificates
    ("pairs-swapped", copied("etcd-peer.crt", "etcdserver.crt"), "etcdserver.key", "not the key of"),
    ("certificate-missing", lambda files, pki: (pki / "etcd-peer.crt").unlink(), "etcd-peer.crt", "is missing"),
    ("certificate-truncated", halves("etcd-peer.crt"), "etcd-peer.crt", ""),
    ("certificate-empty", edit("etcd-peer.crt", lambda data: b""), "etcd-peer.crt", ""),
    (
        "certificate-twice",
        edit("etcd-peer.crt", lambda data: data[: end_of(data)] + data),
        "etcd-peer.crt",
        "followed by",
    ),
    ("issuer-missing", edit("etcd-peer.crt", lambda data: data[: end_of(data)]), "etcd-peer.crt", "followed by its"),
    (
        "issuer-first",
        edit("etcd-peer.crt", lambda data: data[end_of(data) :] + data[: end_of(data)]),
        "etcd-peer.crt",
        "is a CA",
    ),
    (
        "lines-of-windows",
        edit("etcd-peer.crt", lambda data: data.replace(b"\n", b"\r\n")),
        "etcd-peer.pem",
        "followed by",
    ),
    ("text-before", edit("etcd-peer.crt", lambda data: b"subject: x\n" + data), "etcd-peer.pem", "followed by"),
    ("key-in-the-certificate", copied("etcd-peer.pem", "etcd-peer.crt"), "etcd-peer.crt", ""),
    ("pem-of-another", copied("etcdserver.pem", "etcd-peer.pem"), "etcd-peer.pem", "followed by"),
    ("pem-missing", lambda files, pki: (pki / "etcd-peer.pem").unlink(), "etcd-peer.pem", "is missing"),
    # What the certificate says
    ("expired", leaf(life=(-timedelta(hours=2), -timedelta(minutes=1))), "kube-apiserver.crt", "has expired"),
    ("not-yet-valid", leaf(life=(timedelta(hours=1), timedelta(hours=2))), "kube-apiserver.crt", "not valid yet"),
    (
        "too-long",
        leaf(life=(-timedelta(minutes=5), timedelta(days=400))),
        "kube-apiserver.crt",
        "longer than requested",
    ),
    ("name-missing", without("dns", "kubernetes.default.svc"), "kube-apiserver.crt", "DNS SAN is"),
    ("name-extra", beside("dns", "etcd.internal"), "kube-apiserver.crt", "DNS SAN is"),
    ("wildcard", beside("dns", "*.example.com"), "kube-apiserver.crt", "DNS SAN is"),
    ("address-missing", without("ips", "127.0.0.1"), "kube-apiserver.crt", "IP SAN is"),
    ("address-extra", beside("ips", "10.9.9.9"), "kube-apiserver.crt", "IP SAN is"),
    ("another-cn", leaf(common_name="system:apiserver"), "kube-apiserver.crt", "CN is"),
    ("in-a-group", leaf(organization=("system:masters",)), "kube-apiserver.crt", "O is"),
    ("client-too", leaf(purpose=Usage.BOTH), "kube-apiserver.crt", "extended key usage"),
    ("client-instead", leaf(purpose=Usage.CLIENT), "kube-apiserver.crt", "extended key usage"),
    ("may-sign", leaf(usage=key_usage("digital_signature", "key_cert_sign")), "kube-apiserver.crt", "key usage"),
    ("is-a-ca", leaf(ca=True), "kube-apiserver.crt", "is a CA"),
    ("ca-of-another-domain", of_ca("kubernetes"), "kube-apiserver-etcd.crt", "followed by its issuing CA"),
    # Bundles
    ("bundle-missing", lambda files, pki: (pki / "etcd-ca.crt").unlink(), "etcd-ca.crt", "is missing"),
    ("bundle-truncated", halves("etcd-ca.crt"), "etcd-ca.crt", ""),
    ("bundle-empty", edit("etcd-ca.crt", lambda data: b""), "etcd-ca.crt", ""),
    (
        "bundle-of-another-domain",
        copied("kubernetes-ca.crt", "etcd-ca.crt"),
        "etcd-ca.crt",
        "not an issuing CA of etcd",
    ),
    ("root-among-clients", copied("etcd-ca-chain.crt", "etcd-ca.crt"), "etcd-ca.crt", "holds the root CA"),
    ("root-missing", copied("etcd-ca.crt", "etcd-ca-chain.crt"), "etcd-ca-chain.crt", "lacks the root CA"),
    ("bundle-twice", edit("etcd-ca.crt", lambda data: data * 2), "etcd-ca.crt", "holds a certificate twice"),
    ("bundle-lines", edit("etcd-ca.crt", lambda data: data.replace(b"\n", b"\r\n")), "etcd-ca.crt", "plain form"),
    ("bundle-comment", edit("etcd-ca.crt", lambda data: b"# etcd\n" + data), "etcd-ca.crt", "PEM certificates only"),
    ("bundle-stranger", stranger("etcd-ca.crt"), "etcd-ca.crt", "its root did not sign"),
    ("bundle-and-key", edit("etcd-ca.crt", lambda data: data + b"-----BEGIN PRIVATE KEY-----\n"), "etcd-ca.crt", ""),
    # Modes and owners
    ("key-for-all", mode("kube-apiserver.key", 0o644), "kube-apiserver.key", "mode is 0644"),
    ("key-for-a-group", mode("kube-apiserver.key", 0o640), "kube-apiserver.key", "mode is 0640"),
    ("pem-for-all", mode("kube-apiserver.pem", 0o644), "kube-apiserver.pem", "mode is 0644"),
    ("certificate-for-writing", mode("kube-apiserver.crt", 0o666), "kube-apiserver.crt", "mode is 0666"),
    ("bundle-for-writing", mode("etcd-ca.crt", 0o666), "etcd-ca.crt", "mode is 0666"),
    ("kubeconfig-for-all", mode("scheduler.conf", 0o644), "scheduler.conf", "mode is 0644"),
    ("key-of-another-user", owner("kube-apiserver.key"), "kube-apiserver.key", "belongs to 1234:1234"),
    ("certificate-of-another-user", owner("kube-apiserver.crt"), "kube-apiserver.crt", "belongs to 1234:1234"),
    ("bundle-of-another-user", owner("etcd-ca.crt"), "etcd-ca.crt", "belongs to 1234:1234"),
    # Kubeconfigs
    (
        "kubeconfig-of-another",
        copied("controller-manager.conf", "scheduler.conf"),
        "scheduler.conf",
        "does not name kube-scheduler.crt",
    ),
    (
        "kubeconfig-in-clear",
        edit("scheduler.conf", lambda data: data.replace(b"https://", b"http://")),
        "scheduler.conf",
        "not an https URL",
    ),
    (
        "kubeconfig-insecure",
        edit(
            "scheduler.conf",
            lambda data: data.replace(b"    server:", b"    insecure-skip-tls-verify: true\n    server:"),
        ),
        "scheduler.conf",
        "insecure-skip-tls-verify",
    ),
    (
        "kubeconfig-other-ca",
        edit("scheduler.conf", lambda data: data.replace(b"kubernetes-ca.crt", b"etcd-ca.crt")),
        "scheduler.conf",
        "does not name a bundle of the CA kubernetes",
    ),
)


@pytest.fixture(scope="module")
def template(tmp_path_factory: pytest.TempPathFactory) -> HandmadeFiles:
    return made(tmp_path_factory.mktemp("right"))


def test_nothing_is_found_in_the_right_folder(template: HandmadeFiles) -> None:
    assert [check for check in checks(template) if not check.ok] == []


def test_there_are_enough_and_no_two_alike() -> None:
    assert len({name for name, *_ in MUTATIONS}) == len(MUTATIONS) >= 40


@pytest.mark.parametrize(
    ("change", "file", "words"), [each[1:] for each in MUTATIONS], ids=[each[0] for each in MUTATIONS]
)
def test_a_change_is_found(template: HandmadeFiles, tmp_path: Path, change: Change, file: str, words: str) -> None:
    folder = tmp_path / "files"
    shutil.copytree(template.folder, folder)
    files = replace(template, folder=folder, file=folder / "cluster.yaml")
    change(files, files.pki("cp-1"))
    found = {check.target: check.detail for check in checks(files) if not check.ok}
    assert words in found.get(file, "nothing was found") and found[file], found
