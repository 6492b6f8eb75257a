"""People outside with kubeadm's own kubeconfigs, as files that are replaced in one step while somebody reads them."""

from __future__ import annotations

import base64
import os
from pathlib import Path

import yaml

CHAIN = "kubernetes-ca-chain.crt"
"""The CAs that people trust, beside their kubeconfigs."""


def kubeconfig_in_files(source: Path, folder: Path, person: str) -> None:
    """Write what a kubeconfig of kubeadm's holds to files, as `vaultpki issue` does, and one that names them."""
    document = yaml.safe_load(source.read_text())
    user, cluster = document["users"][0]["user"], document["clusters"][0]["cluster"]
    crt, key, ca = (
        base64.b64decode(value)
        for value in (user["client-certificate-data"], user["client-key-data"], cluster["certificate-authority-data"])
    )
    folder.mkdir(parents=True, exist_ok=True)
    put(folder / CHAIN, ca)
    # In one file, since it is replaced while somebody reads it.
    put(folder / f"{person}.pem", key + crt)
    document["users"][0]["user"] = {"client-certificate": f"{person}.pem", "client-key": f"{person}.pem"}
    document["clusters"][0]["cluster"] = {"server": cluster["server"], "certificate-authority": CHAIN}
    put(folder / f"{person}.conf", yaml.safe_dump(document, sort_keys=False).encode())


def put(path: Path, data: bytes) -> None:
    """Replace a file in one step: somebody reads it all the time."""
    new = path.with_name(f".{path.name}.new")
    new.write_bytes(data)
    new.chmod(0o600)
    os.replace(new, path)
