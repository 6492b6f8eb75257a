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
from collections.abc import Callable, Sequence
from typing import Final
from urllib.parse import urlsplit

from vaultpki.errors import Unavailable, Untrusted, VaultError
from vaultpki.plain import printable
from vaultpki.vault import http
from vaultpki.vault.settings import Settings, tls_context
from vaultpki.vault.wire import Raw, Request

# Less than any socket holds unread (tcp(7): 87380 bytes by default): a server that answers before it has read all, and
# is not read itself, can then never stand still facing us.
_AHEAD_BYTES: Final = 32 << 10
# Servers that cannot take a second request before they have answered the first leave it unanswered.
_AHEAD_SECONDS: Final = 2.0
# X509_V_ERR_HOSTNAME_MISMATCH and _IP_ADDRESS_MISMATCH; _CERT_NOT_YET_VALID and _CERT_HAS_EXPIRED (x509_vfy.h).
_OTHER_NAME: Final = frozenset({62, 64})
_OUT_OF_DATE: Final = frozenset({9, 10})


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

    def quiet(self) -> bool:
        """Whether nothing waits to be read: not the server's farewell, nor bytes that nobody asked for."""
        self._plain.settimeout(0)
        try:
            # Not poll(): what lies there may be tickets for later sessions, which TLS keeps to itself (RFC 8446 4.6.1).
            self._plain.recv(1)
        except (ssl.SSLWantReadError, BlockingIOError):
            return True
        except OSError:
            pass
        return False

    def _arm(self) -> None:
        # A socket's own timeout is for each operation, however few bytes drip.
        left = self.deadline - time.monotonic()
        if left <= 0:
            raise TimeoutError
        self._plain.settimeout(left)


class _Connection:
    """An open connection: `send` and `answers` go by the deadline set last."""

    def __init__(self, plain: socket.socket, host: str) -> None:
        self._bounded = _Bounded(plain)
        self.host = host
        self.send = self._bounded.send
        self.answers = http.Answers(self._bounded.receive)
        # A connection that is still kept ends with whoever keeps it.
        self.end = weakref.finalize(self, plain.close)

    def until(self, deadline: float) -> None:
        self._bounded.deadline = deadline

    def quiet(self) -> bool:
        """Whether nothing came since the last answer."""
        return not self.answers.ahead and self._bounded.quiet()


class Exchange:
    """Requests to servers that share one TLS setting, over connections that are kept and lent to one thread at a time.

    Neither proxies, .netrc nor the variables of other libraries have a say.
    """

    def __init__(self, settings: Settings) -> None:
        self._tls = tls_context(settings)
        self._server_name = settings.server_name
        self._namespace = settings.namespace
        self._ca_hint = settings.ca_hint
        self._idle: dict[str, list[_Connection]] = defaultdict(list)
        self._coming: dict[str, list[threading.Thread]] = defaultdict(list)
        self._one_by_one: set[str] = set()

    def send(self, origin: str, request: Request, token: str, deadline: float) -> Raw:
        """Sends the request to `origin` and reads the whole answer, by `deadline` (monotonic seconds).

        Raises Unavailable, Untrusted, and BadAnswer for an answer larger than `request.most`.
        """
        kept = self._kept(origin, deadline)
        while True:
            connection = kept or self._connect(origin, deadline)
            connection.until(deadline)
            try:
                connection.send(self._bytes(connection, request, token))
                raw, goes_on = connection.answers.next(request.most)
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
                raise Unavailable(f"the answer of {origin} broke off ({_cause(error)})", sent=True) from None
            except BaseException:
                connection.end()
                raise
            self._keep(origin, connection, goes_on)
            return raw

    def send_all(self, origin: str, requests: Sequence[Request], token: str) -> list[Raw]:
        """Sends the requests one behind the other on one connection, without waiting for the answers (RFC 9112, 9.3.2).

        Gives the answers to the first of them, and to no more where the connection ended, is not there or the server
        took too long: what was not answered may have been done all the same. Raises BadAnswer as `send` does.
        """
        connection = None if origin in self._one_by_one else self._kept(origin, time.monotonic() + _AHEAD_SECONDS)
        raws: list[Raw] = []
        if connection is None:
            return raws
        lines = [self._bytes(connection, request, token) for request in requests]
        sent = ahead = 0
        goes_on = True
        try:
            while goes_on and len(raws) < len(lines):
                connection.until(time.monotonic() + _AHEAD_SECONDS)
                first = sent
                while sent < len(lines) and (not ahead or ahead + len(lines[sent]) <= _AHEAD_BYTES):
                    ahead += len(lines[sent])
                    sent += 1
                if first < sent:
                    connection.send(b"".join(lines[first:sent]))
                raw, goes_on = connection.answers.next(requests[len(raws)].most)
                ahead -= len(lines[len(raws)])
                raws.append(raw)
        except (http.NoAnswer, BrokenPipeError, ConnectionResetError):
            goes_on = False
        except (OSError, http.NotHTTP):
            goes_on = False
            self._one_by_one.add(origin)
        except BaseException:
            connection.end()
            raise
        if goes_on and connection.answers.ahead:
            # An answer that nobody asked for, and so perhaps all before it stand in another's place.
            raws, goes_on = [], False
            self._one_by_one.add(origin)
        if raws and len(raws) < len(lines):
            self._one_by_one.add(origin)
        self._keep(origin, connection, goes_on)
        return raws

    def open_ahead(self, origin: str, count: int, deadline: float) -> None:
        """Begins to open connections in the background; whoever finds none takes the next of these.

        What fails here is the first request's to tell.
        """

        def open_one() -> None:
            with contextlib.suppress(VaultError):
                self._idle[origin].append(self._connect(origin, deadline))

        for _ in range(count):
            thread = threading.Thread(target=open_one, daemon=True)
            thread.start()
            self._coming[origin].append(thread)

    def _bytes(self, connection: _Connection, request: Request, token: str) -> bytes:
        headers = {
            "Host": connection.host,
            "Accept": "application/json",
            "Accept-Encoding": "identity",
            "X-Vault-Request": "true",
        }
        if token:
            headers["X-Vault-Token"] = token
        if self._namespace and not request.whole_server:
            headers["X-Vault-Namespace"] = self._namespace
        if request.wrap_ttl:
            headers["X-Vault-Wrap-TTL"] = request.wrap_ttl
        body = None
        if request.body is not None:
            body = json.dumps(request.body, separators=(",", ":")).encode()
            headers["Content-Type"] = "application/merge-patch+json" if request.merge_patch else "application/json"
        return http.request(request.method, f"/v1/{request.path}", headers, body)

    def _keep(self, origin: str, connection: _Connection, goes_on: bool) -> None:
        if goes_on:
            self._idle[origin].append(connection)
        else:
            connection.end()

    def _kept(self, origin: str, deadline: float) -> _Connection | None:
        idle, coming = self._idle[origin], self._coming[origin]
        while True:
            with contextlib.suppress(IndexError):
                while True:
                    connection = idle.pop()
                    if connection.quiet():
                        return connection
                    connection.end()
            try:
                thread = coming.pop(0)
            except IndexError:
                return None
            thread.join(max(0.0, deadline - time.monotonic()))

    def _connect(self, origin: str, deadline: float) -> _Connection:
        parts = urlsplit(origin)
        host, port = parts.hostname or "", parts.port or 0

        def secured(plain: socket.socket) -> ssl.SSLSocket:
            name = _ascii(self._server_name or host)
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
        except ssl.SSLCertVerificationError as error:
            raise Untrusted(
                f"the TLS certificate of {origin} does not verify ({error.verify_message}); {self._hint(error)}"
            ) from None
        except TimeoutError:
            raise Unavailable(f"{origin} does not answer") from None
        except (OSError, ValueError) as error:
            raise Unavailable(f"{origin} cannot be reached ({_cause(error)})") from None
        return _Connection(plain, parts.netloc)

    def _hint(self, error: ssl.SSLCertVerificationError) -> str:
        """What to do about a certificate that does not verify."""
        if error.verify_code in _OTHER_NAME:
            return "name Vault as its certificate does, or say by VAULT_TLS_SERVER_NAME which name that is"
        if error.verify_code in _OUT_OF_DATE:
            return "look at its dates, and at this machine's clock"
        return self._ca_hint


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


def _cause(error: Exception) -> str:
    """A few words for why the network failed."""
    return printable(getattr(error, "strerror", None) or type(error).__name__)
