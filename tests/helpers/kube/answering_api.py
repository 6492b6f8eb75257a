"""An API server that answers paths with values over TLS, for what reads a cluster, and changes single objects of it."""

from __future__ import annotations

import base64
import contextlib
import json
import ssl
import threading
from collections.abc import Callable, Iterator, Mapping
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from vaultpki.kube import kubeconfig
from vaultpki.kube.kubeconfig import KubeAccess


class Api(ThreadingHTTPServer):
    """An API server that answers paths with values, and others with 404; a number is a status.

    `answers` tells values otherwise: by a path with its query, and by whether the client has shown who it is.
    `configure` gives it its pair. It notes the methods, what was asked for in which form, and what was changed. An
    object is replaced only over the version that was read; `after` is called once one was replaced or deleted. `made`
    returns what becomes of an object that somebody makes, or a status.
    """

    daemon_threads = True

    def __init__(self, values: Mapping[str, Any], configure: Callable[[ssl.SSLContext], None]) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.values = dict(values)
        self.methods: set[str] = set()
        self.asked: dict[str, str] = {}
        self.changed: list[tuple[str, str]] = []
        self.after: Callable[[str, str], None] = lambda method, path: None
        self.made: Callable[[str, dict[str, Any]], Any] = lambda path, body: 403
        self.answers: Callable[[str, bool], Any] = lambda path, known: self.values.get(path.partition("?")[0], 404)
        tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        # Nobody comes back to a session.
        tls.num_tickets = 0
        configure(tls)
        self.socket = tls.wrap_socket(self.socket, server_side=True)

    def handle_error(self, *_: object) -> None:
        pass


class _Handler(BaseHTTPRequestHandler):
    def handle_one_request(self) -> None:
        super().handle_one_request()
        if getattr(self, "command", None) and isinstance(self.server, Api):
            self.server.methods.add(self.command)

    def do_GET(self) -> None:
        assert isinstance(self.server, Api)
        self.server.asked[self.path] = self.headers.get("Accept", "")
        shown = isinstance(self.connection, ssl.SSLSocket) and self.connection.getpeercert()
        known = bool(shown) or self.headers.get("Authorization") == "Bearer s3cret"
        self._answer(self.server.answers(self.path, known))

    def do_PUT(self) -> None:
        assert isinstance(self.server, Api)
        found, sent = self.server.values.get(self.path, 404), json.loads(self._body())
        if isinstance(found, int):
            self._answer(found)
        elif _version(found) != _version(sent):
            self._answer(409)
        else:
            about = {**sent.get("metadata", {}), "resourceVersion": f"{int(_version(sent) or 0) + 1}"}
            self.server.values[self.path] = {**sent, "metadata": about}
            self._done("PUT")

    def do_POST(self) -> None:
        assert isinstance(self.server, Api)
        made = self.server.made(self.path, json.loads(self._body()))
        if isinstance(made, int):
            self._answer(made)
        else:
            self.server.values[f"{self.path}/{made['metadata']['name']}"] = made
            self._answer(made)

    def do_DELETE(self) -> None:
        assert isinstance(self.server, Api)
        self._body()
        found = self.server.values.get(self.path, 404)
        if isinstance(found, int):
            self._answer(found)
        else:
            del self.server.values[self.path]
            self._done("DELETE")

    def _body(self) -> bytes:
        return self.rfile.read(int(self.headers.get("Content-Length", "0")))

    def _done(self, method: str) -> None:
        assert isinstance(self.server, Api)
        self.server.changed.append((method, self.path))
        self.server.after(method, self.path)
        self._answer({"kind": "Status", "status": "Success"})

    def _answer(self, value: Any) -> None:
        body = value if isinstance(value, bytes) else json.dumps(value).encode()
        self.send_response(value if isinstance(value, int) else 200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        pass


def _version(found: Mapping[str, Any]) -> str:
    return str(found.get("metadata", {}).get("resourceVersion", ""))


@contextlib.contextmanager
def serving(values: Mapping[str, Any], configure: Callable[[ssl.SSLContext], None]) -> Iterator[Api]:
    """A running API server."""
    server = Api(values, configure)
    thread = threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True)
    thread.start()
    try:
        yield server
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def access(api: Api, folder: Path, ca_pem: bytes) -> KubeAccess:
    """The way to it, by a kubeconfig in this folder with a token."""
    ca = base64.b64encode(ca_pem).decode()
    cluster = {"server": f"https://127.0.0.1:{api.server_address[1]}", "certificate-authority-data": ca}
    config = {
        "current-context": "a",
        "contexts": [{"name": "a", "context": {"cluster": "a", "user": "a"}}],
        "clusters": [{"name": "a", "cluster": cluster}],
        "users": [{"name": "a", "user": {"token": "s3cret"}}],
    }
    file = folder / "admin.conf"
    file.write_text(json.dumps(config))
    file.chmod(0o600)
    return kubeconfig.read(file)


def items(*found: Mapping[str, Any]) -> dict[str, Any]:
    """A list as an API server answers it."""
    return {"items": found, "metadata": {}}
