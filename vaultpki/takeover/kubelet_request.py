"""Has the cluster sign a kubelet's old pair again, as kubelets do: by a CSR, with the certificate that it has now.

On the way back controller managers sign CSRs before anybody takes old pairs, and kubeadm lets nodes ask for themselves
(kubeadm:node-autoapprove-certificate-rotation, cmd/kubeadm/app/phases/bootstraptoken/node/tlsbootstrap.go).
"""

from __future__ import annotations

import base64
import binascii
import contextlib
import http
import json
import time
from pathlib import Path
from typing import Any, Final

from vaultpki.errors import StateConflict
from vaultpki.kube import api, kubeconfig
from vaultpki.kube.objects import mapping, metadata, text
from vaultpki.model import Subject
from vaultpki.pki import keys, x509
from vaultpki.records.adoption_report import Held
from vaultpki.takeover.context import TakeOver
from vaultpki.values import json_object

_REQUESTS: Final = "/apis/certificates.k8s.io/v1/certificatesigningrequests"
_SIGNER: Final = "kubernetes.io/kube-apiserver-client-kubelet"
_LARGEST: Final = 1024 * 1024
_PAUSE: Final = 1.0


def signed(run: TakeOver, own_key: bytes) -> bytes:
    """Return a new certificate of the old CA for the kubelet's own old key, as PEM.

    Raises StateConflict if nobody signs it in time or if another certificate comes back, and Unavailable or Untrusted
    if the API server cannot be talked to.
    """
    key = keys.read_key(own_key)
    # Only RSA keys encrypt keys (client-go util/certificate/csr, and pkg/apis/certificates of Kubernetes).
    kind = keys.key_type(key.public_key())
    subject = Subject(common_name=f"system:node:{run.config.node}", organization=("system:nodes",))
    usages = ["digital signature", *(["key encipherment"] if kind is not None and kind.rsa else []), "client auth"]
    wanted = {
        "apiVersion": "certificates.k8s.io/v1",
        "kind": "CertificateSigningRequest",
        "metadata": {"generateName": "vaultpki-"},
        "spec": {
            "request": base64.b64encode(keys.request(key, subject).encode()).decode(),
            "signerName": _SIGNER,
            "usages": usages,
        },
    }
    access = kubeconfig.read(Path(str(run.machine.kubeconfig("kubelet"))))
    tls = api.context(access)

    def ask(method: str, path: str, body: bytes = b"") -> dict[str, Any]:
        status, answer = api.exchange(access, tls, method, path, _LARGEST, body=body)
        if status not in (http.HTTPStatus.OK, http.HTTPStatus.CREATED):
            raise StateConflict(f"{access.server} answers {status} to a CSR of this node")
        return json_object.parse(answer) or {}

    name = text(metadata(ask("POST", _REQUESTS, json.dumps(wanted).encode())).get("name"))
    end = time.monotonic() + run.timeout
    while not (pem := _certificate(ask("GET", f"{_REQUESTS}/{name}"))):
        if time.monotonic() >= end:
            raise StateConflict(
                f"nobody has signed the CSR {name} within {run.timeout:g} s: look whether it is approved (`kubectl get "
                f"csr {name}`), and whether a controller manager signs"
            )
        run.components.pause(_PAUSE)
    leaf = next(iter(x509.readable(pem)), None)
    fits = (
        leaf is not None and leaf.public_key == keys.public_der(key) and leaf.subject.common_name == subject.common_name
    )
    if leaf is None or not fits or run.cas.signer(leaf, "kubernetes") is not Held.OLD:
        raise StateConflict(
            f"the CSR {name} was answered with another certificate than one of the old CA for this node"
        )
    return leaf.pem.encode()


def _certificate(found: dict[str, Any]) -> str:
    held = mapping(found.get("status")).get("certificate")
    with contextlib.suppress(binascii.Error, ValueError):
        return base64.b64decode(held, validate=True).decode("ascii") if isinstance(held, str) else ""
    return ""
