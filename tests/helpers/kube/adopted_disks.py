"""What lies on the disks of machines that are taken over: kubeadm's own files, and what holds something of its CAs."""

from __future__ import annotations

import base64
import contextlib
import os
import re
from collections.abc import Collection, Iterable, Sequence
from typing import NamedTuple

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat, load_pem_private_key

from helpers.kube.kubeadm_nodes import KubeadmNode

# kubeadm's own files, and what is not: the agent's folders aside, and this test's configuration.
_OWN = ("/etc/kubernetes", "/var/lib/kubelet/config.yaml", "/var/lib/kubelet/kubeadm-flags.env", "/var/lib/kubelet/pki")
_NOT_OWN = ("/etc/kubernetes/vaultpki", "/etc/kubernetes/kubeadm", "/etc/kubernetes/tmp")


class FileSeen(NamedTuple):
    """A file: its content, or where a link leads; its mode, and when it was changed (ns)."""

    data: bytes
    mode: int
    changed: int


def files(node: KubeadmNode) -> dict[str, FileSeen]:
    """What kubeadm and the kubelet have on a machine, by path."""
    found = {}
    for top in _OWN:
        for path in sorted([node.seen(top), *node.seen(top).rglob("*")]):
            place = str(path).removeprefix(str(node.seen("/")).rstrip("/"))
            if path.is_dir() and not path.is_symlink():
                continue
            if any(f"{place}/".startswith(f"{other}/") for other in _NOT_OWN):
                continue
            about = path.lstat()
            data = os.readlink(path).encode() if path.is_symlink() else path.read_bytes()
            found[place] = FileSeen(data, about.st_mode, about.st_mtime_ns)
    return found


def old_left(nodes: Iterable[KubeadmNode], old: Sequence[x509.Certificate], keys: Collection[bytes]) -> list[str]:
    """The files of machines that hold one of the CAs `old`, a certificate of one, or one of `keys` (public, in DER)."""
    found = []
    prints = {each.fingerprint(SHA256()) for each in old}
    for node in nodes:
        for top in ("/etc/kubernetes", "/etc/vaultpki", "/var/lib/kubelet", "/var/lib/vaultpki"):
            for path in node.seen(top).rglob("*"):
                if path.is_symlink() or not path.is_file() or path.stat().st_size > 1 << 20:
                    continue
                if why := _of_old(path.read_bytes(), old, prints, keys):
                    found.append(f"{node.name}: {path} {why}")
    return found


def _of_old(data: bytes, old: Sequence[x509.Certificate], prints: Collection[bytes], keys: Collection[bytes]) -> str:
    """What of kubeadm's CAs a file holds: kubeconfigs in base 64, and JSON with lines' ends in two signs."""
    held = map(_decoded, re.findall(rb"-data[\"']?: *[\"']?([\w+/=]{40,})", data))
    for text in (data.replace(b"\\n", b"\n"), *held):
        for pem in re.findall(rb"-----BEGIN CERTIFICATE-----.*?-----END CERTIFICATE-----", text, re.DOTALL):
            leaf = x509.load_pem_x509_certificate(pem)
            if leaf.fingerprint(SHA256()) in prints:
                return "holds an old CA"
            for ca in old:
                with contextlib.suppress(ValueError, TypeError, InvalidSignature):
                    leaf.verify_directly_issued_by(ca)
                    return f"holds a certificate of an old CA: {leaf.subject.rfc4514_string()}"
        for pem in re.findall(rb"-----BEGIN [A-Z ]*PRIVATE KEY-----.*?PRIVATE KEY-----", text, re.DOTALL):
            public = load_pem_private_key(pem, None).public_key()
            if public.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo) in keys:
                return "holds an old key"
    return ""


def _decoded(data: bytes) -> bytes:
    try:
        return base64.b64decode(data, validate=True)
    except ValueError:
        return b""
