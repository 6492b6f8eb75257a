"""`adopt inventory` on clusters as kubeadm leaves them: a real API server's answers, a real disk, the real command."""

from __future__ import annotations

import json
import ssl
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from helpers.kube import answering_api
from helpers.kube.answering_api import Api
from helpers.kube.kubeadm_objects import KubeadmObjects, encoded, leaf
from helpers.vault.applied_cluster import Ran, vaultpki


@contextmanager
def running(objects: KubeadmObjects, folder: Path) -> Iterator[tuple[Api, Path]]:
    """The API server of a cluster, with a certificate of its CA, and a kubeconfig for it."""
    pair = leaf("kube-apiserver", objects.ca, names=["api.example.com"], addresses=["127.0.0.1"])
    file = folder / "pair.pem"
    file.write_text(pair.pem + pair.key_pem)

    def configure(tls: ssl.SSLContext) -> None:
        tls.load_cert_chain(file)

    with answering_api.serving(objects.values(), configure) as api:
        server = f"https://127.0.0.1:{api.server_address[1]}"
        cluster = {"server": server, "certificate-authority-data": encoded(objects.ca.pem)}
        config = folder / "admin.conf"
        config.write_text(
            json.dumps(
                {
                    "kind": "Config",
                    "current-context": "a",
                    "contexts": [{"name": "a", "context": {"cluster": "a", "user": "a"}}],
                    "clusters": [{"name": "a", "cluster": cluster}],
                    "users": [{"name": "a", "user": {"token": "s3cret"}}],
                }
            )
        )
        config.chmod(0o600)
        yield api, config


def inventory(config: Path, *words: str | Path, expect: int = 0) -> Ran:
    return vaultpki("adopt", "inventory", "--kubeconfig", config, *words, expect=expect)
