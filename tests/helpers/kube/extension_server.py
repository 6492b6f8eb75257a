"""A server of the user's own that kube-apiserver calls for an aggregated API and a webhook, on a renewed pair."""

from __future__ import annotations

import contextlib
import http.server
import json
import socket
import ssl
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from helpers.kube import recording_servers
from helpers.kube.client_load import load_pair
from helpers.kube.kube_cluster import Kubernetes
from helpers.kube.machines import Ran, accepting
from helpers.vault.servers import wait_for
from vaultpki.certificates import bundle, chain_bundle

SERVICE = "extension"
GROUP = "extension.invalid"
PATH = f"/apis/{GROUP}/v1"
"""What to ask kube-apiserver for."""

_API = {"kind": "APIResourceList", "apiVersion": "v1", "groupVersion": f"{GROUP}/v1", "resources": []}


@dataclass(slots=True)
class Extension:
    """What it was asked, by kind, and what went wrong with a connection. Its pair lies in `pki`."""

    pki: Path
    port: int
    asked: Counter[str] = field(default_factory=Counter)
    refused: list[str] = field(default_factory=list)

    def context(self) -> ssl.SSLContext:
        """For one connection, since the files are renewed."""
        context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH, cafile=str(self.pki / bundle("front-proxy")))
        # kube-apiserver shows its pair to an aggregated API, and none to a webhook.
        context.verify_mode = ssl.CERT_OPTIONAL
        context.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN
        load_pair(context, self.pki / f"{SERVICE}.pem")
        context.set_alpn_protocols(["http/1.1"])
        return context

    def register(self, kubernetes: Kubernetes) -> None:
        """Tell kube-apiserver of it, and by which CAs to trust it: the chain bundle of now."""
        ca = (self.pki / chain_bundle("kubernetes")).read_bytes()
        recording_servers.register_api(kubernetes, GROUP, SERVICE, self.port, ca)
        kubernetes.apply(_webhook(ca))

    def serve(self, connection: socket.socket) -> None:
        """One request: the next one comes by a handshake of its own."""
        with contextlib.suppress(ConnectionError, TimeoutError, ssl.SSLEOFError), connection:
            connection.settimeout(20)
            try:
                with self.context().wrap_socket(connection, server_side=True) as session:
                    _handler(self)(session, ("", 0), None)  # type: ignore[arg-type]
            except ssl.SSLError as error:
                if not isinstance(error, ssl.SSLEOFError):
                    self.refused.append(str(error))


def _handler(extension: Extension) -> type[http.server.BaseHTTPRequestHandler]:
    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            assert isinstance(self.connection, ssl.SSLSocket)
            known = self.connection.getpeercert() is not None
            extension.asked["api" if known else "stranger"] += 1
            self._answer(200 if known else 401, _API)

        def do_POST(self) -> None:
            review = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            extension.asked["webhook"] += 1
            said = {"uid": review["request"]["uid"], "allowed": True}
            self._answer(200, {"apiVersion": review["apiVersion"], "kind": review["kind"], "response": said})

        def _answer(self, status: int, content: Any) -> None:
            body = json.dumps(content).encode()
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(body)))
            self.send_header("Connection", "close")
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the name is the base's
            pass

    return Handler


@contextlib.contextmanager
def running(kubernetes: Kubernetes) -> Iterator[Extension]:
    """Serves outside, with the first control plane's pair; kube-apiserver trusts it by the chain bundle of now."""
    listening = kubernetes.outside.listen()
    extension = Extension(kubernetes.control_plane.pki, listening.getsockname()[1])
    with accepting(listening, extension.serve):
        extension.register(kubernetes)
        for address, port in kubernetes.apis:

            def ask(server: str = f"--server=https://{address}:{port}") -> Ran:
                return kubernetes.kubectl(kubernetes.admin, server, "get", "--raw", PATH, expect=None)

            wait_for(lambda ask=ask: ask().returncode == 0, 30, lambda ask=ask: ask().stderr, pause=0.3)  # type: ignore[misc]
        yield extension


def _webhook(ca: bytes) -> dict[str, Any]:
    """Asks at every write of a ConfigMap in the namespace `default`."""
    return {
        "apiVersion": "admissionregistration.k8s.io/v1",
        "kind": "ValidatingWebhookConfiguration",
        "metadata": {"name": SERVICE},
        "webhooks": [
            {
                "name": f"configmaps.{GROUP}",
                "clientConfig": {
                    "service": {"namespace": "default", "name": SERVICE, "path": "/validate", "port": 443},
                    "caBundle": recording_servers.encoded(ca),
                },
                "rules": [
                    {
                        "apiGroups": [""],
                        "apiVersions": ["v1"],
                        "operations": ["CREATE", "UPDATE"],
                        "resources": ["configmaps"],
                    }
                ],
                "namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": "default"}},
                "failurePolicy": "Fail",
                "sideEffects": "None",
                "admissionReviewVersions": ["v1"],
                "timeoutSeconds": 20,
            }
        ],
    }
