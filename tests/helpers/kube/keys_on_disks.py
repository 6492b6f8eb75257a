"""Private keys on the disks of machines: which ones lie where, by what they are keys to."""

from __future__ import annotations

import base64
import contextlib
import re
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat, load_pem_private_key

from helpers.kube.kubeadm_cluster import KubeadmCluster

# What a machine has of its own: its /etc lies below /run. Everything else is the host's.
_DISKS = ("/run", "/var/lib", "/var/log")
_PEM = re.compile(rb"-----BEGIN [A-Z ]*PRIVATE KEY-----.*?-----END [A-Z ]*PRIVATE KEY-----", re.DOTALL)
# How each block of PEM begins in base 64, as kubeconfigs and Secrets have it.
_ENCODED = re.compile(rb"LS0tLS1CRUdJTi[\w+/=]+")


def on_two(cluster: KubeadmCluster) -> list[str]:
    """Say which private keys lie on two machines, one of which may be the operator's, and where."""
    # Machines begin with a copy of the host's /etc.
    host = set(_keys([Path("/etc")]))
    machines = {name: _keys([*map(node.seen, _DISKS), node.home]) for name, node in cluster.nodes.items()}
    machines["operator"] = _keys([cluster.folder])
    places: dict[bytes, dict[str, str]] = {}
    for name, found in machines.items():
        own = found.keys() - host
        assert own, f"no key at all was found on {name}"
        for key in own:
            places.setdefault(key, {})[name] = found[key]
    return sorted(str(each) for each in places.values() if len(each) > 1)


def _keys(folders: Iterable[Path]) -> Mapping[bytes, str]:
    """The public halves of all private keys below these folders, each with a file that has it."""
    found: dict[bytes, str] = {}
    for path in (each for folder in folders for each in folder.rglob("*")):
        # Containers' images hold programs, and are large.
        if "containerd" in path.parts or path.suffix == ".tar" or path.is_symlink() or not path.is_file():
            continue
        with contextlib.suppress(FileNotFoundError):
            found |= dict.fromkeys(_held(path.read_bytes()), str(path))
    return found


def _held(data: bytes) -> Iterator[bytes]:
    texts = [data]
    for encoded in _ENCODED.findall(data):
        with contextlib.suppress(ValueError):
            texts.append(base64.b64decode(encoded))
    for text in texts:
        # In JSON, a line's end is two characters.
        for pem in _PEM.findall(text):
            with contextlib.suppress(ValueError, TypeError, UnsupportedAlgorithm):
                key = load_pem_private_key(pem.replace(b"\\n", b"\n"), None).public_key()
                yield key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
