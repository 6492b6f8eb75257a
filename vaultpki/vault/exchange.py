"""Requests to one address and their answers, bounded in time and size: no fault of the network gets past here."""

from __future__ import annotations

import contextlib
import json
import socket
import ssl
import threading
import time
import weakref
from collections import defaultdict
from collections.abc import Callable
from typing import Final
from urllib.parse import urlsplit

from vaultpki.errors import BadAnswer, Unavailable
from vaultpki.vault import advice, http
from vaultpki.vault.settings import Settings, tls_context
from vaultpki.vault.wire import Raw, Request, parsed

CONNECTIONS: Final = 8
"""How many requests are under way at once, each on a connection of its own."""

# A plan of the largest cluster asks for more; an answer that is repeated so late was kept by somebody on purpose.
_REMEMBERED_IDS: Final = 4096


class _Bounded:
    """A socket whose every operation ends at `deadline` (monotonic seconds)."""

    def __init__(self, plain: socket.socket) -> None:
        self._plain = plain
        self.deadline = 0.0

    def send(self, data: bytes) -> None:
        rest = memoryview(data)
        while rest:
            self._arm()
            rest = rest[self._plain.send(rest) :]

    def receive(self, size: int) -> bytes:
        self._arm()
        return self._plain.recv(size)

    def waiting(self) -> bytes | None:
        """A byte that waits to be read, none where the server has ended the connection; None where nothing waits.

        Raises OSError where the connection has failed.
        """
        self._plain.settimeout(0)
        try:
            # Not poll(): what lies there may be tickets for later sessions, which TLS keeps to itself (RFC 8446 4.6.1).
            return self._plain.recv(1)
        except (ssl.SSLWantReadError, BlockingIOError):
            return None

    def _arm(self) -> None:
        # A socket's own timeout is for each operation, however few bytes drip.
        left = self.deadline - time.monotonic()
        if left <= 0:
            raise TimeoutError
        self._plain.settimeout(left)


class _Connection:
    """An open connection: `send` and `answers` go by the deadline set last."""

    def __init__(self, plain: socket.socket) -> None:
        self._bounded = _Bounded(plain)
        self.send, self.waiting = self._bounded.send, self._bounded.waiting
        self.answers = http.Answers(self._bounded.receive)
        # A connection that is still kept ends with whoever keeps it.
        self.end = weakref.finalize(self, plain.close)

    def until(self, deadline: float) -> None:
        self._bounded.deadline = deadline


class Exchange:
    """Requests to servers that share one TLS setting, one at a time on each connection.

    Connections are kept, and lent to one thread at a time. Neither proxies, .netrc nor the variables of other libraries
    have a say.
    """

    def __init__(self, settings: Settings) -> None:
        self._tls = tls_context(settings)
        self._settings = settings
        self._idle: dict[str, list[_Connection]] = defaultdict(list)
        # Whoever sends holds one of these.
        self.turns = threading.BoundedSemaphore(CONNECTIONS)
        self._ids: dict[str, None] = {}
        self._ids_lock = threading.Lock()

    def send(self, origin: str, request: Request, token: str, deadline: float) -> Raw:
        """Sends the request to `origin` and reads the whole answer, by `deadline` (monotonic seconds).

        Raises Unavailable, Untrusted, and BadAnswer for an answer larger than `request.most` or to an earlier request.
        """
        data = self._bytes(origin, request, token)
        kept = self._kept(origin)
        while True:
            connection = kept or self._connect(origin, deadline)
            connection.until(deadline)
            try:
                # Bytes that come before the request are no answer to it.
                if kept is None and connection.waiting():
                    raise Unavailable(
                        f"{origin} answers before it is asked; check the address and any proxy in between"
                    )
                connection.send(data)
                raw, goes_on = connection.answers.next(request.most)
                raw = parsed(raw)
                self._refuse_repeated(origin, request, raw)
            except (http.NoAnswer, BrokenPipeError, ConnectionResetError):
                connection.end()
                # A kept connection that the server has closed meanwhile: RFC 9112 section 9.3.1 lets one try again
                # what may be repeated.
                if kept is not None and not request.once:
                    kept = None
                    continue
                raise Unavailable(f"{origin} closed the connection without an answer", sent=True) from None
            except TimeoutError:
                connection.end()
                raise Unavailable(f"{origin} gave no whole answer in time", sent=True) from None
            except (OSError, http.NotHTTP) as error:
                connection.end()
                raise advice.broken_off(origin, error, tls_alert=connection.answers.alert) from None
            except BaseException:
                connection.end()
                raise
            # Bytes behind the answer belong to no request, and so would all that follow them.
            if goes_on and not connection.answers.ahead:
                self._idle[origin].append(connection)
            else:
                connection.end()
            return raw

    def _refuse_repeated(self, origin: str, request: Request, raw: Raw) -> None:
        """Raises BadAnswer where the answer's `request_id` came before: each request has its own."""
        # sys/health and the like have none, and a wrapped answer has an empty one.
        id_ = (raw.json or {}).get("request_id")
        if not isinstance(id_, str) or not id_:
            return
        with self._ids_lock:
            if id_ in self._ids:
                raise BadAnswer(
                    f"{origin} gave the answer to an earlier request again, as that to {request}; check any proxy or "
                    "cache in between"
                )
            # An id of theirs is a UUID; none of a megabyte is kept.
            if len(id_) <= 64:
                self._ids[id_] = None
            if len(self._ids) > _REMEMBERED_IDS:
                del self._ids[next(iter(self._ids))]

    def _bytes(self, origin: str, request: Request, token: str) -> bytes:
        headers = {
            "Host": urlsplit(origin).netloc,
            "Accept": "application/json",
            "Accept-Encoding": "identity",
            "X-Vault-Request": "true",
        }
        if token:
            headers["X-Vault-Token"] = token
        if self._settings.namespace and not request.whole_server:
            headers["X-Vault-Namespace"] = self._settings.namespace
        if request.wrap_ttl:
            headers["X-Vault-Wrap-TTL"] = request.wrap_ttl
        body = None
        if request.body is not None:
            body = json.dumps(request.body, separators=(",", ":")).encode()
            headers["Content-Type"] = "application/merge-patch+json" if request.merge_patch else "application/json"
        return http.request(request.method, f"/v1/{request.path}", headers, body)

    def _kept(self, origin: str) -> _Connection | None:
        """A connection on which nothing came since its last answer, not even its end."""
        idle = self._idle[origin]
        with contextlib.suppress(IndexError):
            while True:
                connection = idle.pop()
                with contextlib.suppress(OSError):
                    if connection.waiting() is None:
                        return connection
                connection.end()
        return None

    def _connect(self, origin: str, deadline: float) -> _Connection:
        parts = urlsplit(origin)
        host, port = parts.hostname or "", parts.port or 0

        def secured(plain: socket.socket) -> ssl.SSLSocket:
            name = _ascii(self._settings.server_name or host)
            return self._tls.wrap_socket(plain, server_hostname=name, do_handshake_on_connect=False)

        try:
            plain = _reach(host, port, deadline, secured if parts.scheme == "https" else None)
            try:
                plain.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                if isinstance(plain, ssl.SSLSocket):
                    plain.settimeout(max(0.01, deadline - time.monotonic()))
                    plain.do_handshake()
            except BaseException:
                plain.close()
                raise
        except (OSError, ValueError) as error:
            raise advice.unreachable(origin, error, self._settings) from None
        return _Connection(plain)


def _reach(
    host: str, port: int, deadline: float, wrap: Callable[[socket.socket], socket.socket] | None
) -> socket.socket:
    """A connection to the first of the host's addresses that takes one, each of them given its share of the time.

    `wrap` makes a socket one of TLS. It is given sockets that do not lead anywhere yet: of one that the server has cut
    off by then Python loses track (ssl.py, SSLSocket._create), and it stays open.
    """
    # socket.create_connection would give every address of a name the whole time anew.
    found = socket.getaddrinfo(_ascii(host), port, type=socket.SOCK_STREAM)
    last: OSError = TimeoutError()
    for left, (family, kind, protocol, _, address) in zip(range(len(found), 0, -1), found, strict=True):
        plain = socket.socket(family, kind, protocol)
        try:
            if wrap is not None:
                plain = wrap(plain)
            plain.settimeout(max(0.01, (deadline - time.monotonic()) / left))
            plain.connect(address)
        except OSError as error:
            plain.close()
            last = error
        except BaseException:
            plain.close()
            raise
        else:
            return plain
    raise last


def _ascii(host: str) -> str | bytes:
    """The name as bytes, where it is ASCII: for text, Python would load all of IDNA first."""
    return host.encode() if host.isascii() else host
