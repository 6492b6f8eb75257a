"""Serve `/metrics`, `/metrics/x509`, `/healthz` and `/livez` to Prometheus and to probes, on a loopback port.

A web page of any site may have its own name point to 127.0.0.1, and then read what answers there (DNS rebinding). The
browser still sends that name, so only requests for a name or address of this machine are answered.

Each connection has a thread, and both are bounded: a connection is reset at its deadline, and where there are too many
the one that has waited longest is reset for each new one. One whose answer is being made is never reset for another.
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
from collections.abc import Callable, Collection
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler
from typing import Any, Final

from vaultpki.daemon.metric_families import View, certificate_problems, exposition, x509_exposition
from vaultpki.errors import VaultpkiError
from vaultpki.values import hosts

DEADLINE: Final = 5.0
"""Seconds that a connection may last."""

MAX_CONNECTIONS: Final = 32
"""The most connections, and so threads, at a time."""

MAX_REQUEST: Final = 8192
"""The most bytes of a request line and headers."""

# accept(2): nothing can be accepted for want of file descriptors or memory.
_EXHAUSTED: Final = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM})
_EXHAUSTED_PAUSE: Final = 0.2

TEXTS: Final = {"/metrics": exposition, "/metrics/x509": x509_exposition}
"""The paths for Prometheus, and what makes the answer."""

# Status, content type, body.
_Answer = tuple[HTTPStatus, str, bytes]

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


class Server(socketserver.ThreadingTCPServer):
    """Listen on `address`, an IP address and port; VaultpkiError if that cannot be used.

    `listed` has the names and addresses, beside those of loopback and its own, under which it may be asked.
    `view` returns the state after the last pass, or None before the first one has ended. `look` returns the same with
    the certificates as they are on disk now; it bounds its own time, and one thread at a time calls it, for all paths
    but `/livez`. Before there is a view the agent counts as stuck after `stale_after` seconds.
    """

    allow_reuse_address = True
    request_queue_size = 4096  # the kernel's limit, by default (listen(2))

    def __init__(
        self,
        address: str,
        view: Callable[[], View | None],
        *,
        listed: Collection[str] = (),
        look: Callable[[], View | None] | None = None,
        stale_after: float = 900.0,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._view, self._look, self._stale_after, self._clock = view, look or view, stale_after, clock
        self._looking = threading.Lock()
        self._shown: dict[str, tuple[View | None, bytes]] = {}
        self._started = clock()
        self._ends: dict[socket.socket, float] = {}
        self._closed_one = threading.Condition()
        self.busy: set[socket.socket] = set()
        self._thread = threading.Thread(target=self.serve_forever, name="vaultpki-metrics", daemon=True)
        host, _, port = address.rpartition(":")
        self.listed = frozenset((*listed, host.strip("[]")))
        self.address_family = socket.AF_INET6 if host.startswith("[") else socket.AF_INET
        try:
            super().__init__((host.strip("[]"), int(port)), _Handler)
        except OSError as error:
            raise VaultpkiError(
                f"metrics: cannot listen on {address}: {os.strerror(error.errno or errno.EIO)}; write another loopback "
                "address and port under `metrics` in agent.yaml, such as 127.0.0.1:9910"
            ) from None
        self.address = f"{host}:{self.server_address[1]}"

    def answer(self, path: str) -> _Answer:
        """Return the answer for a path."""
        if path not in (*TEXTS, "/healthz", "/livez"):
            return _text(HTTPStatus.NOT_FOUND)
        if path == "/livez":
            view = self._view()
        else:
            with self._looking:
                view = self._look()
        if path in TEXTS:
            if path not in self._shown or self._shown[path][0] is not view:
                self._shown[path] = view, TEXTS[path](view)
            return HTTPStatus.OK, "text/plain; version=0.0.4; charset=utf-8", self._shown[path][1]
        now = self._clock()
        since, most = (self._started, self._stale_after) if view is None else (view.last_pass, view.stale_after)
        problems = [f"the agent has ended no pass for {now - since:.0f} s"] if now - since > most else []
        if path == "/healthz":
            problems += certificate_problems(view, now)
        return _text(HTTPStatus.SERVICE_UNAVAILABLE, *problems) if problems else _text(HTTPStatus.OK)

    # Connections

    def start(self) -> None:
        """Answer in the background."""
        self._thread.start()

    def close(self) -> None:
        """Reset every connection, end every thread and free the port."""
        self.shutdown()
        self._thread.join()
        with self._closed_one:
            for each in self._ends:
                _reset(each)
        self.server_close()

    def server_activate(self) -> None:
        # A connection that has sent nothing for a second stays in the kernel, and takes no place here (tcp(7)).
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_DEFER_ACCEPT, 1)
        super().server_activate()

    def get_request(self) -> tuple[socket.socket, Any]:
        try:
            return super().get_request()
        except OSError as error:
            # The connection still waits in the kernel, so `serve_forever` would try again at once, for ever.
            if error.errno in _EXHAUSTED:
                time.sleep(_EXHAUSTED_PAUSE)
            raise

    def verify_request(self, request: Any, client_address: Any) -> bool:
        """Return False for a caller that has already gone: where thousands connect a second, a thread is too dear."""
        try:
            return bool(request.recv(1, socket.MSG_PEEK | socket.MSG_DONTWAIT))
        except OSError as error:
            return isinstance(error, BlockingIOError)

    def process_request(self, request: Any, client_address: Any) -> None:
        with self._closed_one:
            while len(self._ends) >= MAX_CONNECTIONS:
                for oldest in [each for each in self._ends if each not in self.busy][:1]:
                    _reset(oldest)
                self._closed_one.wait(0.1)
            self._ends[request] = time.monotonic() + DEADLINE
        super().process_request(request, client_address)

    def service_actions(self) -> None:
        with self._closed_one:
            for each, end in self._ends.items():
                if end < time.monotonic():
                    _reset(each)

    def shutdown_request(self, request: Any) -> None:
        with self._closed_one:
            request.close()
            self._ends.pop(request, None)
            self.busy.discard(request)
            self._closed_one.notify()

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Log nothing: the caller has gone, or was reset."""


def _reset(connection: socket.socket) -> None:
    """Wake the connection's thread, which closes it."""
    with contextlib.suppress(OSError):
        # What the caller does not take would stay in the kernel's memory for minutes (socket(7), SO_LINGER).
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        connection.shutdown(socket.SHUT_RDWR)


def _text(status: HTTPStatus, *lines: str) -> _Answer:
    lines = lines or (status.phrase.lower(),)
    return status, "text/plain; charset=utf-8", "".join(f"{line}\n" for line in lines).encode()


class _Handler(BaseHTTPRequestHandler):
    """Answer one request on a connection, which the server resets if it lasts too long."""

    server: Server
    protocol_version = default_request_version = "HTTP/1.1"
    wbufsize = -1

    def handle(self) -> None:
        # http.server itself bounds a line and the number of lines: 6.5 MB in all.
        head = b""
        while b"\r\n\r\n" not in head and b"\n\n" not in head and len(head) <= MAX_REQUEST:
            more = self.connection.recv(MAX_REQUEST)
            if not more:
                return
            head += more
        self.server.busy.add(self.connection)
        self.rfile.close()
        self.rfile = io.BytesIO(head)
        if len(head) > MAX_REQUEST:
            self.command = self.request_version = ""
            self.send_error(HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE)
        else:
            self.handle_one_request()
        self.wfile.flush()
        self.server.busy.discard(self.connection)
        # Closing with bytes unread resets the connection, and the answer is lost (RFC 9112, section 9.6).
        self.connection.shutdown(socket.SHUT_WR)
        while self.connection.recv(MAX_REQUEST):
            pass

    def do_GET(self) -> None:
        named = self.headers.get_all("Host", [])
        if len(named) != 1:
            problem = "the request has no Host header" if not named else "the request has more than one Host header"
            self._respond(*_text(HTTPStatus.BAD_REQUEST, problem))
            return
        if not is_listed(named[0], self.server.listed):
            self._respond(*_text(HTTPStatus.MISDIRECTED_REQUEST, _UNLISTED))
            return
        try:
            self._respond(*self.server.answer(self.path.partition("?")[0]))
        except Exception:  # noqa: BLE001 - a fault of the view is one bad answer, without a traceback
            self.send_error(HTTPStatus.INTERNAL_SERVER_ERROR)

    do_HEAD = do_GET  # noqa: N815 - the standard library's name

    def send_error(self, code: int, message: str | None = None, explain: str | None = None) -> None:
        """Answer with the status alone; the standard library would repeat the request."""
        # It says 501 where there is no do_METHOD.
        self._respond(*_text(HTTPStatus(405 if code == HTTPStatus.NOT_IMPLEMENTED else code)))

    def _respond(self, status: HTTPStatus, content_type: str, body: bytes) -> None:
        self.send_response_only(status)
        headers = {"Content-Type": content_type, "Content-Length": str(len(body)), "Cache-Control": "no-store"}
        headers |= {"X-Content-Type-Options": "nosniff", "Connection": "close"}
        headers |= {"Allow": "GET, HEAD"} if status == HTTPStatus.METHOD_NOT_ALLOWED else {}
        for name, value in headers.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)
