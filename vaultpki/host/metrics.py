"""Serve `/metrics`, `/healthz` and `/livez` to Prometheus and to probes, on a loopback port.

Each connection has a thread, and both are bounded: a connection is reset at its deadline, and where there are too many
the one that has waited longest is reset for each new one. One whose answer is being made is never reset for another.
"""

from __future__ import annotations

import contextlib
import errno
import io
import os
import socket
import socketserver
import struct
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler
from typing import Any, Final, Literal

from prometheus_client import Metric, generate_latest

from vaultpki import __version__
from vaultpki.errors import VaultpkiError
from vaultpki.pki.ca_life import CaLife, Level

AgentState = Literal["ok", "backing-off", "needs-join"]

DEADLINE: Final = 5.0
"""Seconds that a connection may last."""

MAX_CONNECTIONS: Final = 32
"""The most connections, and so threads, at a time."""

MAX_REQUEST: Final = 8192
"""The most bytes of a request line and headers."""

# accept(2): nothing can be accepted for want of file descriptors or memory.
_EXHAUSTED: Final = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM})
_EXHAUSTED_PAUSE: Final = 0.2

# Status, content type, body.
_Answer = tuple[HTTPStatus, str, bytes]


@dataclass(frozen=True, slots=True)
class CertificateView:
    """One certificate on disk: Unix seconds, TTLs in seconds, and the state as `status` shows it.

    `not_after` is None if there is no certificate.
    """

    name: str
    not_after: float | None
    renew_after: float | None
    asked: int | None
    granted: int | None
    state: str
    last_error_time: float | None = None


@dataclass(frozen=True, slots=True)
class CaView:
    """The rotation of one CA: its state, "none" without a record, and whether the record is older than before."""

    domain: str
    state: str
    behind: bool


@dataclass(frozen=True, slots=True)
class View:
    """The agent at one moment; times are Unix seconds.

    `hooks` are those still owed: the attempts so far, and since when. `vault_reachable` is None until the first request
    to Vault. `outage_left` is the seconds until the first certificate expires. The agent counts as stuck `stale_after`
    seconds after `last_pass`. `unseen` says why the last pass was cut short, so that `certificates` are older than it,
    and `unread` why the files could not be read just now; both are usually "". `ends` are the lives of the root and
    of the CAs that sign this node's certificates.
    """

    node: str
    cluster: str
    state: AgentState
    certificates: tuple[CertificateView, ...]
    hooks: Mapping[str, tuple[int, float]]
    trust_generation: str
    trust_changed: float | None
    vault_reachable: bool | None
    vault_last_ok: float | None
    outage_left: float | None
    signs_total: int
    renewals_total: Mapping[str, int]
    last_pass: float
    stale_after: float
    unseen: str = ""
    unread: str = ""
    cas: tuple[CaView, ...] = ()
    ends: tuple[CaLife, ...] = ()


def exposition(view: View | None) -> bytes:
    """Return the metrics in Prometheus' text format."""
    # No registry: the default one adds metrics of the process and the platform, which a node exporter has.
    return generate_latest(_Collector(view))


class _Collector:
    def __init__(self, view: View | None) -> None:
        self._view = view

    def collect(self) -> Iterator[Metric]:
        view = self._view
        yield _metric("build_info", "The version that runs.", [({"version": __version__}, 1)])
        if view is None:
            return
        yield _metric("node_info", "The node of this agent.", [({"cluster": view.cluster, "node": view.node}, 1)])
        yield _metric("agent_state", "1 for the state: ok, backing-off or needs-join.", [({"state": view.state}, 1)])
        generation = {"generation": view.trust_generation}
        yield _metric("trust_generation_info", "Which issuing CAs the bundles hold.", [(generation, 1)])
        renewals = [({"name": name}, count) for name, count in view.renewals_total.items()]
        yield _metric("renewals_total", "Certificates installed.", renewals)
        for name, about, value in (
            ("last_pass_timestamp_seconds", "When the last pass ended.", view.last_pass),
            ("trust_changed_timestamp_seconds", "When the bundles last changed.", view.trust_changed),
            ("vault_reachable", "1 if Vault answered the last request; absent before the first.", view.vault_reachable),
            ("vault_last_contact_timestamp_seconds", "When Vault last answered.", view.vault_last_ok),
            ("outage_left_seconds", "Seconds until the first certificate expires.", view.outage_left),
            ("signs_total", "Certificates that Vault was asked to sign.", view.signs_total),
        ):
            yield _metric(name, about, [({}, value)])
        for name, about, read in _CERTIFICATE_METRICS:
            yield _metric(f"certificate_{name}", about, [({"name": one.name}, read(one)) for one in view.certificates])
        unknown = "unknown" if view.unseen or view.unread else ""
        about = "1 for the state: ok, due, expired, missing or broken; unknown if the files could not be read."
        states = [({"name": one.name, "state": unknown or one.state}, 1) for one in view.certificates]
        yield _metric("certificate_state", about, states)
        known = {"cluster": view.cluster}
        ends = [({**known, "ca": one.ca}, one.not_after.timestamp()) for one in view.ends]
        yield _metric("ca_not_after_timestamp_seconds", "When the CA expires.", ends)
        about = "When the end of the CA reaches a level: notice, warning or critical."
        begins = [
            ({**known, "ca": one.ca, "level": level.value}, one.begins(level)) for one in view.ends for level in _LEVELS
        ]
        yield _metric("ca_level_timestamp_seconds", about, [(labels, when.timestamp()) for labels, when in begins])
        about = "1 for the state of the CA's rotation; none if it was never rotated."
        rotations = [({"ca": one.domain, "state": one.state}, 1) for one in view.cas]
        yield _metric("ca_rotation_state", about, rotations)
        about = "1 while the rotation's record is older than before, as after a restored backup, or cannot be read."
        yield _metric("ca_rotation_behind", about, [({"ca": one.domain}, int(one.behind)) for one in view.cas])
        for name, about, column in (
            ("hook_owed", "1 while a change waits for this hook to succeed.", lambda attempts, since: 1),
            ("hook_owed_since_timestamp_seconds", "Since when it is owed.", lambda attempts, since: since),
            ("hook_attempts", "Attempts for this change.", lambda attempts, since: attempts),
        ):
            yield _metric(name, about, [({"hook": hook}, column(*owed)) for hook, owed in view.hooks.items()])


_LEVELS: Final = (Level.NOTICE, Level.WARNING, Level.CRITICAL)

_CERTIFICATE_METRICS: Final[tuple[tuple[str, str, Callable[[CertificateView], float | None]], ...]] = (
    ("not_after_timestamp_seconds", "When the certificate expires.", lambda one: one.not_after),
    ("renew_after_timestamp_seconds", "When the agent renews it.", lambda one: one.renew_after),
    ("ttl_asked_seconds", "The TTL that cluster.yaml asks for.", lambda one: one.asked),
    ("ttl_granted_seconds", "The TTL that Vault granted, counted from the signing.", lambda one: one.granted),
    ("last_error_timestamp_seconds", "When an attempt at it last failed.", lambda one: one.last_error_time),
)


def _metric(name: str, about: str, samples: Iterable[tuple[dict[str, str], float | None]]) -> Metric:
    full = f"vaultpki_{name}"
    metric = Metric(full.removesuffix("_total"), about, "counter" if full.endswith("_total") else "gauge")
    for labels, value in samples:
        if value is not None:
            metric.add_sample(full, labels, value)
    return metric


def certificate_problems(view: View | None, now: float) -> Iterator[str]:
    """Yield a line for each certificate that is missing, broken or expired, and one if they could not be read."""
    if view is None:
        yield "the agent has not ended its first pass"
        return
    if view.unseen:
        yield f"the last pass was cut short: {view.unseen}"
    elif view.unread:
        yield f"the files cannot be read: {view.unread}"
    elif not view.certificates:
        yield "there is no certificate here yet"
    for each in view.certificates:
        if each.not_after is None or each.state in ("missing", "broken"):
            yield f"{each.name}: {'missing' if each.state == 'missing' else 'broken'}"
        elif each.not_after <= now or each.state == "expired":
            yield f"{each.name}: expired"


class Server(socketserver.ThreadingTCPServer):
    """Listen on `address`, an IP address and port; VaultpkiError if that cannot be used.

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
        look: Callable[[], View | None] | None = None,
        stale_after: float = 900.0,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._view, self._look, self._stale_after, self._clock = view, look or view, stale_after, clock
        self._looking = threading.Lock()
        self._shown: tuple[View | None, bytes] | None = None
        self._started = clock()
        self._ends: dict[socket.socket, float] = {}
        self._closed_one = threading.Condition()
        self.busy: set[socket.socket] = set()
        self._thread = threading.Thread(target=self.serve_forever, name="vaultpki-metrics", daemon=True)
        host, _, port = address.rpartition(":")
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
        if path not in ("/metrics", "/healthz", "/livez"):
            return _text(HTTPStatus.NOT_FOUND)
        if path == "/livez":
            view = self._view()
        else:
            with self._looking:
                view = self._look()
        if path == "/metrics":
            if self._shown is None or self._shown[0] is not view:
                self._shown = view, exposition(view)
            return HTTPStatus.OK, "text/plain; version=0.0.4; charset=utf-8", self._shown[1]
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
