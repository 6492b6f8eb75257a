"""Serve `/metrics`, `/metrics/x509`, `/healthz` and `/livez` to Prometheus and to probes, on a loopback port.

A web page of any site may have its own name point to 127.0.0.1, and then read what answers there (DNS rebinding). The
browser still sends that name, so only requests for a name or address of this machine are answered.

Each connection has a thread. A connection is reset at its deadline, a request of more than `MAX_REQUEST` bytes is not
answered, and where `MAX_CONNECTIONS` are open a further one is closed at once. So a program on this machine can keep
others from an answer, and cost the agent no more than that.
"""

from __future__ import annotations

import contextlib
import errno
import io
import os
import re
import socket
import socketserver
import struct
import threading
import time
from collections.abc import Callable, Collection, Mapping
from http import HTTPStatus
from typing import Any, Final

from prometheus_client import MetricsHandler
from prometheus_client.registry import Collector, CollectorRegistry

from vaultpki.daemon.metric_families import Collector as AgentCollector
from vaultpki.daemon.metric_families import X509Collector, certificate_problems
from vaultpki.daemon.view import Counts, View
from vaultpki.errors import VaultpkiError
from vaultpki.values import hosts

DEADLINE: Final = 5.0
"""Seconds that a connection may last."""

MAX_CONNECTIONS: Final = 32
"""The most connections, and so threads, at a time."""

MAX_REQUEST: Final = 8192
"""The most bytes of a request line and headers."""

_NO_DESCRIPTOR_PAUSE: Final = 0.2

_UNLISTED: Final = (
    "the Host header names neither localhost nor a loopback address; ask for 127.0.0.1, or list the name under "
    "`metrics.hosts` in agent.yaml"
)

# RFC 9110, section 7.2; a browser writes a name in lower case, and an address in its normal form.
_HOST: Final = re.compile(r"(?:\[([0-9a-f:.]{2,45})\]|([a-z0-9._-]{1,253}))(?::[0-9]{0,5})?", re.ASCII)


def is_listed(header: str, listed: Collection[str]) -> bool:
    """Return whether a Host header names this machine: localhost, a loopback address, or one of `listed`.

    `listed` has names and addresses, IPv6 without brackets. The port counts for nothing.
    """
    match = _HOST.fullmatch(header.strip(" \t").lower())
    if match is None:
        return False
    if match[1]:
        return ":" in match[1] and (hosts.is_loopback(match[1]) or hosts.is_same_address(match[1], listed))
    return match[2] in ("localhost", *listed) or hosts.is_loopback(match[2])


class LoopbackServer(socketserver.ThreadingTCPServer):
    """Listen on `address`, an IP address and port; VaultpkiError if that cannot be used.

    `collectors` are those of each path. `problems` returns what is wrong, as sentences: for `/healthz` all of it, and
    for `/livez`, which asks with False, only whether the program is stuck. `listed` has the names and addresses, beside
    those of loopback and its own, under which it may be asked. `file` is where the address is configured.
    """

    # Not http.server's class: that one asks the resolver for the name of the address.
    allow_reuse_address = True
    request_queue_size = 128

    def __init__(
        self,
        address: str,
        collectors: Mapping[str, Collector],
        problems: Callable[[bool], list[str]],
        *,
        listed: Collection[str] = (),
        file: str = "agent.yaml",
    ) -> None:
        self.problems = problems
        self.registries = {path: CollectorRegistry() for path in collectors}
        for path, collector in collectors.items():
            self.registries[path].register(collector)
        self._ends: dict[socket.socket, float] = {}
        self._thread = threading.Thread(target=self.serve_forever, name="vaultpki-metrics", daemon=True)
        host, _, port = address.rpartition(":")
        self.listed = frozenset((*listed, host.strip("[]")))
        self.address_family = socket.AF_INET6 if host.startswith("[") else socket.AF_INET
        try:
            super().__init__((host.strip("[]"), int(port)), _Handler)
        except OSError as error:
            raise VaultpkiError(
                f"metrics: cannot listen on {address}: {os.strerror(error.errno or errno.EIO)}; write another loopback "
                f"address and port under `metrics` in {file}, such as 127.0.0.1:9910"
            ) from None
        self.address = f"{host}:{self.server_address[1]}"

    # Connections

    def start(self) -> None:
        """Answer in the background."""
        self._thread.start()

    def close(self) -> None:
        """Reset every connection, end every thread and free the port."""
        self.shutdown()
        self._thread.join()
        for each in list(self._ends):
            _reset(each)
        self.server_close()

    def get_request(self) -> tuple[socket.socket, Any]:
        try:
            return super().get_request()
        except OSError:
            # Without a free descriptor (accept(2)) the connection goes on waiting, and `serve_forever` would spin.
            time.sleep(_NO_DESCRIPTOR_PAUSE)
            raise

    def verify_request(self, request: Any, client_address: Any) -> bool:
        """Return whether a connection may have a thread."""
        return len(self._ends) < MAX_CONNECTIONS

    def process_request(self, request: Any, client_address: Any) -> None:
        self._ends[request] = time.monotonic() + DEADLINE
        super().process_request(request, client_address)

    def service_actions(self) -> None:
        for each, end in list(self._ends.items()):
            if end < time.monotonic():
                _reset(each)

    def shutdown_request(self, request: Any) -> None:
        super().shutdown_request(request)
        self._ends.pop(request, None)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Log nothing: the caller has gone, or was reset."""


class Server(LoopbackServer):
    """The server of an agent.

    `view` returns the state after the last pass, or None before the first one has ended; `counts` are there before.
    `look` returns the view with the certificates as they are on disk now; it bounds its own time, and one thread at a
    time calls it, for all paths but `/livez`. Before there is a view the agent counts as stuck after `stale_after`
    seconds.
    """

    def __init__(
        self,
        address: str,
        view: Callable[[], View | None],
        counts: Callable[[], Counts],
        *,
        listed: Collection[str] = (),
        look: Callable[[], View | None] | None = None,
        stale_after: float = 900.0,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._view, self._look_now, self._stale_after, self._clock = view, look or view, stale_after, clock
        self._looking = threading.Lock()
        self._started = clock()
        own, x509 = AgentCollector(self._look, counts, clock), X509Collector(self._look)
        super().__init__(address, {"/metrics": own, "/metrics/x509": x509}, self._problems, listed=listed)

    def _look(self) -> View | None:
        with self._looking:
            return self._look_now()

    def _problems(self, certificates: bool) -> list[str]:
        """Return what is wrong with the agent, and with its `certificates` if asked for, as sentences."""
        view, now = self._look() if certificates else self._view(), self._clock()
        since, most = (self._started, self._stale_after) if view is None else (view.last_pass, view.stale_after)
        stuck = [f"the agent has ended no pass for {now - since:.0f} s"] if now - since > most else []
        return [*stuck, *certificate_problems(view, now)] if certificates else stuck


def _reset(connection: socket.socket) -> None:
    """Wake the connection's thread, which closes it."""
    with contextlib.suppress(OSError):
        # No cut answer may look whole, nor stay in the kernel's memory for minutes (socket(7), SO_LINGER).
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        connection.shutdown(socket.SHUT_RDWR)


class _Handler(MetricsHandler):
    """Answer one request on a connection, which the server resets if it lasts too long."""

    server: LoopbackServer
    default_request_version = "HTTP/1.0"

    def handle(self) -> None:
        # http.server itself bounds a line and the number of lines: 6.5 MB in all.
        head = b""
        while b"\r\n\r\n" not in head and b"\n\n" not in head:
            more = self.connection.recv(MAX_REQUEST)
            head += more
            if not more or len(head) > MAX_REQUEST:
                return
        self.rfile.close()
        self.rfile = io.BytesIO(head)
        self.handle_one_request()

    def do_GET(self) -> None:  # noqa: N802 - the standard library's name
        named, path = self.headers.get_all("Host", []), self.path.partition("?")[0]
        try:
            if len(named) != 1:
                problem = f"the request has {'more than one' if named else 'no'} Host header"
                self._say(HTTPStatus.BAD_REQUEST, problem)
            elif not is_listed(named[0], self.server.listed):
                self._say(HTTPStatus.MISDIRECTED_REQUEST, _UNLISTED)
            elif path in self.server.registries:
                self.registry = self.server.registries[path]
                super().do_GET()
            elif path in ("/healthz", "/livez"):
                problems = self.server.problems(path == "/healthz")
                self._say(HTTPStatus.SERVICE_UNAVAILABLE if problems else HTTPStatus.OK, *problems)
            else:
                self._say(HTTPStatus.NOT_FOUND)
        except Exception:  # noqa: BLE001 - a fault of the view is one bad answer, without a traceback
            self._say(HTTPStatus.INTERNAL_SERVER_ERROR)

    do_HEAD = do_GET  # noqa: N815

    def send_error(self, code: int, message: str | None = None, explain: str | None = None) -> None:
        """Answer with the status alone; the standard library would repeat the request."""
        # It says 501 where there is no do_METHOD.
        self._say(HTTPStatus(405 if code == HTTPStatus.NOT_IMPLEMENTED else code))

    def send_response(self, code: int, message: str | None = None) -> None:
        """Begin an answer that does not say which program made it."""
        self.send_response_only(code)
        self.send_header("Cache-Control", "no-store")
        self.send_header("X-Content-Type-Options", "nosniff")
        if code == HTTPStatus.METHOD_NOT_ALLOWED:
            self.send_header("Allow", "GET, HEAD")

    def end_headers(self) -> None:
        super().end_headers()
        if self.command == "HEAD":
            self.wfile = io.BytesIO()

    def _say(self, status: HTTPStatus, *lines: str) -> None:
        body = "".join(f"{line}\n" for line in lines or (status.phrase.lower(),)).encode()
        self.send_response(status)
        self.send_header("Content-Type", "text/plain; charset=utf-8")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)
