"""Certificates and private keys in the files of machines, whatever form they have there."""

from __future__ import annotations

import base64
import contextlib
import re
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from pathlib import Path

from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat, load_pem_private_key

from helpers.kube.kubeadm_cluster import KubeadmCluster
from helpers.kube.kubeadm_nodes import KubeadmNode

# What a machine has of its own: its /etc lies below /run. Everything else is the host's.
_OWN = ("/run", "/var/lib", "/var/log")
_OF_A_NODE = ("/etc/kubernetes", "/etc/vaultpki", "/var/lib/kubelet", "/var/lib/vaultpki")
_CERTIFICATE = re.compile(rb"-----BEGIN CERTIFICATE-----.*?-----END CERTIFICATE-----", re.DOTALL)
_KEY = re.compile(rb"-----BEGIN [A-Z ]*PRIVATE KEY-----.*?-----END [A-Z ]*PRIVATE KEY-----", re.DOTALL)
# How each block of PEM begins in base 64, as kubeconfigs and Secrets have it.
_ENCODED = re.compile(rb"LS0tLS1CRUdJTi[\w+/=]+")


def _texts(data: bytes) -> Iterator[bytes]:
    # In JSON, a line's end is two characters.
    yield data.replace(b"\\n", b"\n")
    for encoded in _ENCODED.findall(data):
        with contextlib.suppress(ValueError):
            yield base64.b64decode(encoded)


def certificates(data: bytes) -> Iterator[x509.Certificate]:
    """The certificates in a file."""
    for text in _texts(data):
        for pem in _CERTIFICATE.findall(text):
            yield x509.load_pem_x509_certificate(pem)


def keys(data: bytes) -> Iterator[bytes]:
    """The public halves, in DER, of the private keys in a file."""
    for text in _texts(data):
        for pem in _KEY.findall(text):
            with contextlib.suppress(ValueError, TypeError, UnsupportedAlgorithm):
                yield _der(load_pem_private_key(pem, None).public_key())


def _der(key: object) -> bytes:
    found: bytes = key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)  # type: ignore[attr-defined]
    return found


def files(folders: Iterable[Path], largest: int = 1 << 20) -> Iterator[tuple[Path, bytes]]:
    """The files below these folders that may hold such."""
    for path in (each for folder in folders for each in folder.rglob("*")):
        # Containers' images hold programs.
        if "containerd" in path.parts or path.suffix == ".tar" or path.is_symlink() or not path.is_file():
            continue
        # It may be replaced just now.
        with contextlib.suppress(OSError):
            if path.stat().st_size <= largest:
                yield path, path.read_bytes()


def places(folders: Iterable[Path]) -> dict[bytes, str]:
    """The private keys below these folders, by their public halves, each with a file that has it."""
    return {key: str(path) for path, data in files(folders, largest=1 << 30) for key in keys(data)}


def on_two(
    machines: Mapping[str, Iterable[Path]], common: Collection[bytes] = (), host: Collection[bytes] = ()
) -> list[str]:
    """Say which private keys lie below the folders of two machines, and where; those in `common` may.

    Those in `host` lie on all machines from the beginning.
    """
    found: dict[bytes, dict[str, str]] = {}
    for name, folders in machines.items():
        own = places(folders)
        assert own.keys() - host, f"no key at all was found on {name}"
        for key, place in own.items():
            found.setdefault(key, {})[name] = place
    return sorted(str(each) for key, each in found.items() if len(each) > 1 and key not in {*common, *host})


def on_two_of(cluster: KubeadmCluster) -> list[str]:
    """The same of a cluster's machines, one of which may be the operator's."""
    machines = {name: [*map(node.seen, _OWN), node.home] for name, node in cluster.nodes.items()}
    # Machines begin with a copy of the host's /etc.
    return on_two({**machines, "operator": [cluster.folder]}, host=places([Path("/etc")]))


def ca_keys(node: KubeadmNode) -> list[str]:
    """The files of a node with the private key of a CA that any file there names."""
    cas, held = set[bytes](), dict[str, bytes]()
    for path, data in files(map(node.seen, ("/etc/kubernetes", "/etc/vaultpki", "/var/lib", "/run/etc/kubernetes"))):
        for found in certificates(data):
            with contextlib.suppress(x509.ExtensionNotFound):
                if found.extensions.get_extension_for_class(x509.BasicConstraints).value.ca:
                    cas.add(_der(found.public_key()))
        held |= {str(path): key for key in keys(data)}
    assert held, f"no key at all was found on {node.name}"
    return [path for path, public in held.items() if public in cas]


def old_left(nodes: Iterable[KubeadmNode], old: Sequence[x509.Certificate], of_old: Collection[bytes]) -> list[str]:
    """The files of machines that hold a CA of `old`, a certificate of one, or a key of `of_old` (public, in DER)."""
    prints = {each.fingerprint(SHA256()) for each in old}
    found = []
    for node in nodes:
        for path, data in files(map(node.seen, _OF_A_NODE)):
            found += [f"{node.name}: {path} holds an old key" for key in keys(data) if key in of_old]
            for each in certificates(data):
                if each.fingerprint(SHA256()) in prints or any(_is_of(each, ca) for ca in old):
                    found.append(f"{node.name}: {path} holds {each.subject.rfc4514_string()} of an old CA")
    return found


def _is_of(certificate: x509.Certificate, ca: x509.Certificate) -> bool:
    try:
        certificate.verify_directly_issued_by(ca)
    except (ValueError, TypeError, InvalidSignature):
        return False
    return True
