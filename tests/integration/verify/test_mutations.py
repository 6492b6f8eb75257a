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
from cryptography.x509.name import _ASN1Type
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from helpers import go_refusals
from helpers.node.handmade_files import NOW, HandmadeFiles, authority, build, key_usage, made, put
from helpers.outside_signers import pem
from vaultpki import certificates
from vaultpki.model import Usage
from vaultpki.verify import folders
from vaultpki.verify.bundles_on_disk import bundle_checks
from vaultpki.verify.kubeconfig_files import kubeconfig_checks
from vaultpki.verify.on_disk import Check, pair_checks

# What is changed, in the folder of cp-1; which file the check must name, and with which words.
Change = Callable[[HandmadeFiles, Path], Any]
Mutation = tuple[str, Change, str, str]


def checks(files: HandmadeFiles) -> Iterator[Check]:
    """The checks of cp-1's files, without handshakes."""
    rows = {row.name: row for row in certificates.rows(files.cluster)}
    (holder,) = (each for each in folders.find_holders(files.cluster, files.folder) if each.name == "cp-1")
    yield from holder.found
    yield from bundle_checks(holder, rows, NOW)
    for certificate in holder.certificates:
        pair, found = pair_checks(holder, rows[certificate.name], certificate, NOW)
        yield from (*found, *kubeconfig_checks(pair))


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
            (CLIENT_USE, False),
        ]
        made = build(subject, key, signer, (-timedelta(minutes=5), timedelta(hours=1)), extensions)  # type: ignore[arg-type]
        crt = made.public_bytes(serialization.Encoding.PEM) + signer.pem
        put(pki / "kube-scheduler.crt", crt, 0o644)
        put(pki / "kube-scheduler.key", pem, 0o600)
        put(pki / "kube-scheduler.pem", pem + crt, 0o600)

    return change


def planted(bundle: str, name: str = "etcd", *, forged: bool = False, **options: Any) -> Change:
    """A bundle with one more CA; a forged one has the right name and another root's signature."""

    def change(files: HandmadeFiles, pki: Path) -> None:
        further = authority(name, authority("root") if forged else files.root, **options)
        put(pki / bundle, (pki / bundle).read_bytes() + further.pem, 0o644)

    return change


def none(name: str, how: str) -> Change:
    """Something in the place of a file that is none, or not the node's."""

    def change(files: HandmadeFiles, pki: Path) -> None:
        path, outside = pki / name, files.folder / "elsewhere"
        path.unlink()
        if how == "a folder":
            path.mkdir()
        elif how == "a fifo":
            os.mkfifo(path)
        elif how == "a device":
            path.symlink_to("/dev/zero")
        elif how == "endless":
            with path.open("wb") as file:
                file.truncate(1 << 40)
        elif how == "outside":
            shutil.copy(pki / "controller-manager.crt", outside)
            path.symlink_to(outside)
        elif how != "missing":
            mode = 0o644 if name.endswith(".crt") else 0o600
            put(path, b"" if how == "empty" else b"\xff\0garbage" * 100, mode)

    return change


def replaced(old: str, new: str) -> Change:
    """The scheduler's kubeconfig with another text."""
    return edit("scheduler.conf", lambda data: data.replace(old.encode(), new.encode()))


def halves(name: str) -> Change:
    return edit(name, lambda data: data[: len(data) // 2])


def end_of(data: bytes) -> int:
    return data.index(b"-----END CERTIFICATE-----\n") + len(b"-----END CERTIFICATE-----\n")


STRANGE: Final = x509.UnrecognizedExtension(x509.ObjectIdentifier("1.2.3.4"), b"\x05\x00")
CLIENT_USE: Final = x509.ExtendedKeyUsage([ExtendedKeyUsageOID.CLIENT_AUTH])
ONE_NAME: Final = x509.NameConstraints([x509.DNSName("x")], None)
UNREAD: Final = pem(go_refusals.REFUSED["a UniversalString"].made())
MUTATIONS: Final[tuple[Mutation, ...]] = (
    # Keys
    ("keys-swapped", copied("kube-scheduler.key", "kube-apiserver.key"), "kube-apiserver.key", "not the key of"),
    ("key-of-another-kind", key_of("rsa"), "kube-scheduler.crt", "key of another type"),
    ("key-of-another-size", key_of("p384"), "kube-scheduler.crt", "key of another type"),
    ("key-truncated", halves("etcdserver.key"), "etcdserver.key", ""),
    ("certificate-in-place-of-the-key", copied("etcdserver.crt", "etcdserver.key"), "etcdserver.key", ""),
    # Certificates
    ("pairs-swapped", copied("etcd-peer.crt", "etcdserver.crt"), "etcdserver.key", "not the key of"),
    ("certificate-truncated", halves("etcd-peer.crt"), "etcd-peer.crt", ""),
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
    ("another-cn", leaf(common_name="system:apiserver"), "kube-apiserver.crt", 'CN is "system:apiserver", should be'),
    ("in-a-group", leaf(organization=("system:masters",)), "kube-apiserver.crt", "O is"),
    ("client-too", leaf(purpose=Usage.BOTH), "kube-apiserver.crt", "extended key usage"),
    ("client-instead", leaf(purpose=Usage.CLIENT), "kube-apiserver.crt", "extended key usage"),
    ("may-sign", leaf(usage=key_usage("digital_signature", "key_cert_sign")), "kube-apiserver.crt", "key usage"),
    ("is-a-ca", leaf(ca=True), "kube-apiserver.crt", "is a CA"),
    ("ca-of-another-domain", of_ca("kubernetes"), "kube-apiserver-etcd.crt", "followed by its issuing CA"),
    ("critical-extension", leaf(further=[(STRANGE, True)]), "kube-apiserver.crt", "extension that was not requested"),
    *(
        (f"name-as-{kind}", leaf(encoding=_ASN1Type[kind]), "kube-apiserver.crt", "names that are not in the table")
        for kind in ("UniversalString", "BMPString", "T61String", "IA5String")
    ),
    # Bundles
    ("bundle-truncated", halves("etcd-ca.crt"), "etcd-ca.crt", ""),
    (
        "bundle-of-another-domain",
        copied("kubernetes-ca.crt", "etcd-ca.crt"),
        "etcd-ca.crt",
        "not an issuing CA of etcd",
    ),
    ("root-among-clients", copied("etcd-ca-chain.crt", "etcd-ca.crt"), "etcd-ca.crt", "holds the root CA"),
    ("root-missing", copied("etcd-ca.crt", "etcd-ca-chain.crt"), "etcd-ca-chain.crt", "lacks the root CA"),
    (
        "ca-that-go-does-not-read",
        lambda files, pki: put(pki / "etcd-ca-chain.crt", (pki / "etcd-ca-chain.crt").read_bytes() + UNREAD, 0o644),
        "etcd-ca-chain.crt",
        "holds CN=Corp Root, which has a name that is a UniversalString, which no component of Kubernetes reads",
    ),
    ("bundle-twice", edit("etcd-ca.crt", lambda data: data * 2), "etcd-ca.crt", "holds a certificate twice"),
    ("bundle-lines", edit("etcd-ca.crt", lambda data: data.replace(b"\n", b"\r\n")), "etcd-ca.crt", "plain form"),
    ("bundle-comment", edit("etcd-ca.crt", lambda data: b"# etcd\n" + data), "etcd-ca.crt", "PEM certificates only"),
    ("bundle-and-key", edit("etcd-ca.crt", lambda data: data + b"-----BEGIN PRIVATE KEY-----\n"), "etcd-ca.crt", ""),
    *(
        (f"{file}: {words}", planted(file, name, **options), file, words)
        for file in ("etcd-ca.crt", "etcd-ca-chain.crt")
        for name, options, words in (
            ("etcd", {"forged": True}, "holds an issuing CA that its root did not sign"),
            ("kubernetes", {}, "not an issuing CA of etcd: its name is not CN=prod etcd CA alone"),
            ("etcd", {"path_length": None}, "its path length is not 0"),
            ("etcd", {"further": [(CLIENT_USE, False)]}, "extended key usage"),
            (
                "etcd",
                {"further": [(x509.NameConstraints([x509.DNSName("x")], None), False)]},
                "it has name constraints",
            ),
            ("etcd", {"further": [(STRANGE, True)]}, "a critical extension that no CA of ours has (1.2.3.4)"),
        )
    ),
    # What is no file, or not the node's
    *(
        (f"{name} is {how}", none(name, how), name, "is missing" if how == "missing" else "")
        for name in ("kube-scheduler.crt", "kube-scheduler.key", "kube-scheduler.pem", "scheduler.conf", "etcd-ca.crt")
        for how in ("missing", "empty", "a folder", "a fifo", "garbage", "a device", "endless", "outside")
    ),
    # Modes and owners
    ("certificate-too-strict", mode("etcd-peer.crt", 0o600), "etcd-peer.crt", "mode is 0600, should be 0644"),
    ("chain-too-strict", mode("etcd-ca-chain.crt", 0o640), "etcd-ca-chain.crt", "mode is 0640, should be 0644"),
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
        'should be "/etc/kubernetes/pki/kube-scheduler.crt"',
    ),
    *(
        (f"kubeconfig: {old.strip()}", replaced(old, new), "scheduler.conf", words)
        for old, new, words in (
            ("https://api", "https://elsewhere", 'server is "https://elsewhere.example.com:6443", should be "https'),
            ("    server:", "    insecure-skip-tls-verify: true\n    server:", "holds insecure-skip-tls-verify"),
            ("kubernetes-ca.crt", "etcd-ca.crt", "certificate-authority is "),
            ("/etc/kubernetes/pki/kubernetes-ca.crt", "kubernetes-ca.crt", "certificate-authority is "),
            ("current-context: ", "current-context: x", 'should be "its user on its cluster"'),
            ("users:", "nobody:", "is not a kubeconfig"),
            ("kind: Config", "kind: [" * 2000, "is not a kubeconfig"),
        )
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
    files = template.copied(tmp_path / "files")
    change(files, files.pki("cp-1"))
    found = {check.target: check.detail for check in checks(files) if not check.ok}
    assert words in found.get(file, "nothing was found") and found[file], found
