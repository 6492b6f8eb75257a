"""One request to one address and its answer, bounded in time and size: no http.client exception gets past here."""

from __future__ import annotations

import contextlib
import http.client
import io
import json
import socket
import ssl
import time
import weakref
from collections import defaultdict
from typing import Any, Final
from urllib.parse import urlsplit

from vaultpki.errors import BadAnswer, Unavailable, Untrusted, VaultError
from vaultpki.vault.settings import Settings, tls_context
from vaultpki.vault.wire import Raw, Request, printable

# Beside the body: headers, and what a chunked body is wrapped in.
_WRAPPING: Final = 1 << 20


class _Bounded:
    """A socket whose every operation ends at `deadline` (monotonic seconds) and which reads at most `budget` bytes.

    `http.client` uses just these methods of its socket. A timeout of its own would be for each read, however few bytes
    drip; and it reads a chunk of "-1" bytes to the end of the stream.
    """

    def __init__(self, plain: socket.socket) -> None:
        self._plain = plain
        self.deadline = 0.0
        self.budget = 0
        # A connection that is still kept ends with whoever keeps it.
        self.end = weakref.finalize(self, plain.close)

    def _arm(self) -> None:
        left = self.deadline - time.monotonic()
        if left <= 0:
            raise TimeoutError
        self._plain.settimeout(left)

    def sendall(self, data: Any) -> None:
        rest = memoryview(data)
        while rest:
            self._arm()
            rest = rest[self._plain.send(rest) :]

    def makefile(self, _mode: str) -> io.BufferedReader:
        return io.BufferedReader(_Reading(self))

    def recv_into(self, buffer: Any) -> int:
        if self.budget <= 0:
            raise _too_large()
        self._arm()
        got = self._plain.recv_into(buffer)
        self.budget -= got
        return got

    def quiet(self) -> bool:
        """Whether nothing came since the last answer: not the server's farewell, nor bytes that nobody asked for."""
        self._plain.settimeout(0)
        try:
            # Not poll(): what lies there may be tickets for later sessions, which TLS keeps to itself (RFC 8446 4.6.1).
            self._plain.recv(1)
        except (ssl.SSLWantReadError, BlockingIOError):
            return True
        except OSError:
            pass
        return False

    def close(self) -> None:
        """Nothing: http.client closes before it has read an answer that is the last of its connection; see `end`."""


class _Reading(io.RawIOBase):
    def __init__(self, source: _Bounded) -> None:
        self._source = source

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        return self._source.recv_into(buffer)


class _Connection(http.client.HTTPConnection):
    """An HTTP connection over a socket that is open already."""

    # Without its socket it would connect by itself, and in the open.
    auto_open = 0

    def __init__(self, host: str, port: int, bounded: _Bounded) -> None:
        super().__init__(host, port)
        self.bounded = bounded
        self.sock = bounded

    def end(self) -> None:
        self.close()
        self.bounded.end()


class Exchange:
    """Requests to servers that share one TLS setting, over connections that are kept and lent to one thread at a time.

    Neither proxies, .netrc nor the variables of other libraries have a say: the standard library's http.client knows
    none of them.
    """

    def __init__(self, settings: Settings) -> None:
        self._tls = tls_context(settings)
        self._server_name = settings.server_name
        self._namespace = settings.namespace
        self._idle: dict[str, list[_Connection]] = defaultdict(list)

    def send(self, origin: str, request: Request, token: str, deadline: float) -> Raw:
        """Sends the request to `origin` and reads the whole answer, by `deadline` (monotonic seconds).

        Raises Unavailable, Untrusted, and BadAnswer for an answer larger than `request.most`.
        """
        headers = {"Accept": "application/json", "Accept-Encoding": "identity", "X-Vault-Request": "true"}
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
        kept = self._kept(origin)
        while True:
            connection = kept or self._connect(origin, deadline)
            connection.bounded.deadline, connection.bounded.budget = deadline, request.most + _WRAPPING
            try:
                connection.request(request.method, f"/v1/{request.path}", body=body, headers=headers)
                response = connection.getresponse()
                raw = Raw(response.status, response.headers, _whole(response, request.most))
            except (http.client.RemoteDisconnected, BrokenPipeError, ConnectionResetError):
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
            except (OSError, http.client.HTTPException, ValueError) as error:
                connection.end()
                raise Unavailable(f"the answer of {origin} broke off ({_cause(error)})", sent=True) from None
            except BaseException:
                connection.end()
                raise
            if response.will_close:
                connection.end()
            else:
                self._idle[origin].append(connection)
            return raw

    def open(self, origin: str, deadline: float) -> None:
        """Opens one connection more and keeps it; does nothing where that fails."""
        with contextlib.suppress(VaultError):
            self._idle[origin].append(self._connect(origin, deadline))

    def _kept(self, origin: str) -> _Connection | None:
        idle = self._idle[origin]
        with contextlib.suppress(IndexError):
            while True:
                connection = idle.pop()
                if connection.bounded.quiet():
                    return connection
                connection.end()
        return None

    def _connect(self, origin: str, deadline: float) -> _Connection:
        parts = urlsplit(origin)
        host, port = parts.hostname or "", parts.port or 0
        try:
            plain = _reach(host, port, deadline)
            try:
                plain.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                if parts.scheme == "https":
                    plain.settimeout(max(0.01, deadline - time.monotonic()))
                    plain = self._tls.wrap_socket(plain, server_hostname=self._server_name or host)
            except BaseException:
                plain.close()
                raise
        except ssl.SSLCertVerificationError as error:
            raise Untrusted(
                f"the TLS certificate of {origin} does not verify ({error.verify_message}); give its CA as "
                "vault.ca_file or VAULT_CACERT"
            ) from None
        except TimeoutError:
            raise Unavailable(f"{origin} does not answer") from None
        except (OSError, ValueError) as error:
            raise Unavailable(f"{origin} cannot be reached ({_cause(error)})") from None
        return _Connection(host, port, _Bounded(plain))


def _reach(host: str, port: int, deadline: float) -> socket.socket:
    """A connection to the first of the host's addresses that takes one, each of them given its share of the time."""
    # socket.create_connection would give every address of a name the whole time anew.
    found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    last: OSError = TimeoutError()
    for left, (family, kind, protocol, _, address) in zip(range(len(found), 0, -1), found, strict=True):
        plain = socket.socket(family, kind, protocol)
        try:
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


def _whole(response: http.client.HTTPResponse, most: int) -> bytes:
    """The whole body, at most `most` bytes; BadAnswer where there is more, IncompleteRead where it broke off."""
    # A server which announces too much is not even read.
    if response.length is not None and response.length > most:
        raise _too_large()
    raw = response.read(most + 1)
    # The second read is for the end of a chunked body, without which the connection cannot be used again.
    if len(raw) > most or (not response.length and response.read(1)):
        raise _too_large()
    if response.length:
        raise http.client.IncompleteRead(b"")
    return raw


def _too_large() -> BadAnswer:
    return BadAnswer("an answer is larger than any answer may be; look at what stands there")


def _cause(error: Exception) -> str:
    """A few words for why the network failed."""
    return printable(getattr(error, "strerror", None) or type(error).__name__)
