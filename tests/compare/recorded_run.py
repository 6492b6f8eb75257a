"""A fresh server behind a proxy that records every request, and what one command did, as it came."""

from __future__ import annotations

import contextlib
import http.client
import itertools
import json
import os
import subprocess
import threading
import time
import urllib.parse
from collections.abc import Iterator
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from compare.normal import Block, Normaliser

ROOT_TOKEN = "root-of-the-comparison"
START_SECONDS = 60.0
COMMAND_SECONDS = 180.0
# Headers that change what a request means.
HEADERS = ("X-Vault-Token", "X-Vault-Namespace", "X-Vault-Wrap-TTL", "X-Vault-Wrap-Format", "Authorization")
# Headers of one connection, which the proxy makes itself.
OF_THE_CONNECTION = frozenset({"connection", "content-length", "host", "keep-alive", "transfer-encoding"})


@dataclass(frozen=True, slots=True)
class Request:
    """One request as it came, and the answer; `begun` and `ended` are seconds of the monotonic clock."""

    connection: int
    begun: float
    ended: float
    method: str
    path: str
    headers: dict[str, str]
    body: bytes
    status: int
    answer: bytes

    def block(self, normaliser: Normaliser) -> Block:
        path, _, query = self.path.partition("?")
        parameters = sorted(urllib.parse.parse_qsl(query, keep_blank_values=True))
        # The servers take PUT as POST, and a GET with list=true as a LIST.
        method = "POST" if self.method == "PUT" else self.method
        if method == "GET" and ("list", "true") in parameters:
            method = "LIST"
            parameters.remove(("list", "true"))
        said = "".join(f" {name}={value}" for name, value in parameters)
        headers = [f"{name}: {normaliser.text(value)}" for name, value in self.headers.items()]
        # An empty object and no body mean the same.
        body = () if self.body in {b"", b"{}"} else normaliser.lines(self.body)
        return f"{method} {normaliser.text(path + said)}", (*headers, *body, f"-> {self.status}")


def sequential(requests: list[Request]) -> bool:
    """Return whether each connection was used only after the one before, so that the order is no chance."""
    spans: dict[int, tuple[float, float]] = {}
    for each in requests:
        begun, ended = spans.get(each.connection, (each.begun, each.ended))
        spans[each.connection] = (min(begun, each.begun), max(ended, each.ended))
    return all(one[1] <= other[0] for one, other in itertools.pairwise(sorted(spans.values())))


@dataclass(frozen=True, slots=True)
class Step:
    """What one command did, as it came; `tree` is path -> (facts, content).

    `outside` is what it changed in the cluster's API server: method and path, and the object. Lines of a `shuffled` one
    are ordered by chance.
    """

    exit: int
    stdout: bytes
    stderr: bytes
    requests: list[Request]
    tree: dict[str, tuple[str, bytes]]
    outside: list[tuple[str, bytes]]
    machine_read: bool
    shuffled: bool

    def sections(self, normaliser: Normaliser) -> dict[str, list[Block]]:
        """Return what is compared, by section; `text` is only what people read."""
        # An agent sends its CSRs in parallel, and everything else in order.
        ordered = [request for request in self.requests if "/sign/" not in request.path]
        order = tuple(request.block(normaliser)[0] for request in ordered)
        lines = [normaliser.lines(said) for said in (self.stdout, self.stderr)]
        spoken = [*zip(("stdout", "stderr"), map(tuple, map(sorted, lines)) if self.shuffled else lines, strict=True)]
        return {
            "exit": [("exit code", (str(self.exit),))],
            "requests": [request.block(normaliser) for request in self.requests],
            "order": [("order", order)] if sequential(ordered) else [],
            "stdout": spoken[:1] if self.machine_read else [],
            "tree": [
                (normaliser.text(path), (normaliser.text(facts), *normaliser.lines(content)))
                for path, (facts, content) in self.tree.items()
            ],
            "outside": [(normaliser.text(head), normaliser.lines(content)) for head, content in self.outside],
            "text": spoken[1:] if self.machine_read else spoken,
        }


def tree(folder: Path) -> dict[str, tuple[str, bytes]]:
    """Return all below a folder but what stands for components: type, mode, owner, and what a file or link holds."""
    found = {}
    for path in sorted(each for each in folder.rglob("*") if "components" not in each.parts):
        about = path.lstat()
        facts = f"{about.st_mode:06o} {about.st_uid}:{about.st_gid}"
        if path.is_symlink():
            found[str(path.relative_to(folder))] = (f"{facts} link to {os.readlink(path)}", b"")
        else:
            found[str(path.relative_to(folder))] = (facts, path.read_bytes() if path.is_file() else b"")
    return found


def api(port: int, method: str, path: str, body: object = None) -> dict[str, Any]:
    """Ask the server itself, with the root token and past the proxy; return its JSON, {} where there was none."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=COMMAND_SECONDS)
    with contextlib.closing(connection):
        content = None if body is None else json.dumps(body)
        connection.request(method, f"/v1/{path}", content, {"X-Vault-Token": ROOT_TOKEN})
        found: dict[str, Any] = json.loads(connection.getresponse().read() or b"{}")
        return found


@contextlib.contextmanager
def recording(port: int) -> Iterator[tuple[str, list[Request]]]:
    """Run a proxy before the server at this port of loopback; yields its address, and the list it writes down in."""
    requests: list[Request] = []

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        # Else each answer waits for the acknowledgement of its head.
        disable_nagle_algorithm = True

        def handle(self) -> None:
            self.above = http.client.HTTPConnection("127.0.0.1", port, timeout=COMMAND_SECONDS)
            with contextlib.closing(self.above):
                super().handle()

        def pass_on(self) -> None:
            begun = time.monotonic()
            assert "Transfer-Encoding" not in self.headers, "the proxy reads only bodies with a Content-Length"
            body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
            own = {name: value for name, value in self.headers.items() if name.lower() not in OF_THE_CONNECTION}
            self.above.request(self.command, self.path, body or None, own)
            answer = self.above.getresponse()
            content = answer.read()
            # A PATCH says in its type how it is meant.
            counting = (*HEADERS, "Content-Type") if self.command == "PATCH" else HEADERS
            meant = {name: self.headers[name] for name in counting if name in self.headers}
            told = (self.command, self.path, meant, body, answer.status, content)
            requests.append(Request(self.client_address[1], begun, time.monotonic(), *told))
            self.send_response_only(answer.status)
            for name, value in answer.getheaders():
                if name.lower() not in OF_THE_CONNECTION:
                    self.send_header(name, value)
            if answer.status != http.HTTPStatus.NO_CONTENT:
                self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        def log_message(self, *_: Any) -> None:
            pass

    for method in ("GET", "LIST", "POST", "PUT", "PATCH", "DELETE", "HEAD"):
        setattr(Handler, f"do_{method}", Handler.pass_on)
    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as proxy:
        threading.Thread(target=proxy.serve_forever, daemon=True).start()
        try:
            yield f"http://127.0.0.1:{proxy.server_address[1]}", requests
        finally:
            proxy.shutdown()


@contextlib.contextmanager
def serving(binary: str, port: int, folder: Path) -> Iterator[None]:
    """Run a server in memory at this port of loopback."""
    environment = {"PATH": os.defpath, "HOME": str(folder)}
    options = (f"-dev-root-token-id={ROOT_TOKEN}", f"-dev-listen-address=127.0.0.1:{port}", "-dev-no-store-token")
    with (folder / "server.log").open("wb") as log:
        server = subprocess.Popen(
            [binary, "server", "-dev", *options], env=environment, stdin=subprocess.DEVNULL, stdout=log, stderr=log
        )
        try:
            deadline = time.monotonic() + START_SECONDS
            while not _ready(port):
                assert server.poll() is None, (folder / "server.log").read_text()
                assert time.monotonic() < deadline, "the server did not start in time"
                time.sleep(0.05)
            yield
        finally:
            server.kill()
            server.wait()


def _ready(port: int) -> bool:
    """Return whether the server answers; the KV mount of a dev server is its last preparation."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=5)
    with contextlib.closing(connection), contextlib.suppress(OSError, http.client.HTTPException):
        connection.request("GET", "/v1/secret/config", headers={"X-Vault-Token": ROOT_TOKEN})
        return connection.getresponse().status == http.HTTPStatus.OK
    return False
