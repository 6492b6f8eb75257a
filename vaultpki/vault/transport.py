"""One HTTP/1.1 request and its answer over h11, on connections that are kept, bounded in time, size and number.

h11 reads and writes HTTP; what it lets through and RFC 9112 forbids, or no Vault sends, is refused here.
"""

from __future__ import annotations

import contextlib
import json
import re
import threading
from collections import defaultdict
from typing import Any, Final
from urllib.parse import urlsplit

import h11

from vaultpki.errors import BadAnswer, Unavailable
from vaultpki.vault import messages
from vaultpki.vault.answers import Raw, Request
from vaultpki.vault.settings import Settings, tls_context
from vaultpki.vault.sockets import Channel, connect

CONNECTIONS: Final = 8
"""How many requests are under way at once, each on a connection of its own."""

# Bytes beside the body: heads, and what a chunked body is wrapped in.
_WRAPPING: Final = 1 << 20
_HEAD_LIMIT: Final = 1 << 16
# A record of TLS (RFC 8446, 5.1).
_PIECE: Final = 1 << 14
# No Vault sends any, and a proxy one or two (RFC 8297).
_MOST_INTERIM: Final = 8
# A bare LF, a bare CR, or a folded line, all of which h11 accepts between answers' lines.
_LOOSE_LINES: Final = re.compile(rb"(?<!\r)\n|\r(?!\n)|\n[ \t]")
# How new a server's copy is, in base64; nothing else is sent back.
_INDEX: Final = re.compile(r"[A-Za-z0-9+/_-]{1,512}={0,2}", re.ASCII)
# The largest plan asks for fewer answers than this; one that is repeated later was kept on purpose.
_REMEMBERED_IDS: Final = 4096


class _NoAnswer(Exception):
    """The connection ended before the first byte of an answer."""


class Transport:
    """Requests to servers that share one TLS setting, one at a time on each connection.

    Proxies, .netrc and the environment variables of other libraries are ignored.
    """

    def __init__(self, settings: Settings) -> None:
        self._tls = tls_context(settings)
        self._settings = settings
        self._idle: dict[str, list[Channel]] = defaultdict(list)
        # Each sender holds one of these while it sends.
        self.turns = threading.BoundedSemaphore(CONNECTIONS)
        self._ids: dict[str, None] = {}
        self._ids_lock = threading.Lock()
        # The Date header that came last, beside our own clock at that moment.
        self.dated: tuple[str, float] | None = None
        # Whether no answer may be from an older copy than the one before it, and how new that one was, as it said.
        self.never_older = False
        self._index = ""

    def send(self, origin: str, request: Request, token: str, deadline: float) -> Raw:
        """Send the request to `origin` and return the whole answer, by `deadline` (monotonic seconds).

        Raises Unavailable, Untrusted, and BadAnswer for an answer that is larger than `request.most`, or that was
        given to an earlier request.
        """
        kept = self._kept(origin)
        while True:
            channel = kept or self._connect(origin, deadline)
            http = h11.Connection(h11.CLIENT, max_incomplete_event_size=_HEAD_LIMIT)
            try:
                if kept is None and channel.waiting():
                    raise Unavailable(
                        f"{origin} answers before it is asked; check the address and any proxy in between"
                    )
                channel.send(self._bytes(http, origin, request, token), deadline)
                raw = _AnswerReader(http, channel, deadline, request.most).answer()
                self._refuse_repeated(origin, request, raw)
                self._note_index(raw)
            except (_NoAnswer, BrokenPipeError, ConnectionResetError):
                channel.close()
                # The server closed a kept connection meanwhile: RFC 9112 section 9.3.1 allows to try again what may be
                # repeated.
                if kept is not None and not request.once:
                    kept = None
                    continue
                raise Unavailable(
                    f"{origin} closed the connection without an answer; check that Vault listens there", sent=True
                ) from None
            except TimeoutError:
                channel.close()
                raise Unavailable(f"{origin} gave no whole answer in time", sent=True) from None
            except OSError as error:
                channel.close()
                raise messages.broken_off(origin, error) from None
            except h11.RemoteProtocolError:
                channel.close()
                raise messages.no_http(origin, *http.trailing_data) from None
            except BaseException:
                channel.close()
                raise
            # Bytes behind the answer belong to no request, and so would all that follow them.
            if (http.our_state, http.their_state) == (h11.DONE, h11.DONE) and not http.trailing_data[0]:
                self._idle[origin].append(channel)
            else:
                channel.close()
            return raw

    def _connect(self, origin: str, deadline: float) -> Channel:
        try:
            return connect(origin, self._tls, self._settings.server_name, deadline)
        except (OSError, ValueError) as error:
            raise messages.unreachable(origin, error, self._settings) from None

    def _kept(self, origin: str) -> Channel | None:
        """Return a connection on which nothing came since its last answer, not even its end."""
        idle = self._idle[origin]
        with contextlib.suppress(IndexError):
            while True:
                channel = idle.pop()
                with contextlib.suppress(OSError):
                    if channel.waiting() is None:
                        return channel
                channel.close()
        return None

    def _bytes(self, http: h11.Connection, origin: str, request: Request, token: str) -> bytes:
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
        if request.unforwarded:
            # A standby that does not read by itself then redirects (docs/concepts/ha, "Request forwarding").
            headers["X-Vault-No-Request-Forwarding"] = "true"
        if self.never_older and self._index and not request.whole_server:
            # Since OpenBao 2.7: a standby that has not come so far asks the active node (docs/concepts/consistency).
            headers["X-Vault-Index"], headers["X-Vault-Inconsistent"] = self._index, "forward-active-node"
        body = b""
        if request.body is not None:
            body = json.dumps(request.body, separators=(",", ":")).encode()
            headers["Content-Length"] = str(len(body))
            patches = request.method == "PATCH"
            headers["Content-Type"] = "application/merge-patch+json" if patches else "application/json"
        try:
            head = h11.Request(method=request.method, target=f"/v1/{request.path}", headers=list(headers.items()))
        except (h11.LocalProtocolError, UnicodeEncodeError):
            # Their own words would repeat the token.
            raise ValueError("a request's line holds characters that no line may") from None
        return b"".join(http.send(event) or b"" for event in (head, h11.Data(data=body), h11.EndOfMessage()))

    def _note_index(self, raw: Raw) -> None:
        index = raw.headers.get("x-vault-index", "")
        if _INDEX.fullmatch(index):
            self._index = index

    def _refuse_repeated(self, origin: str, request: Request, raw: Raw) -> None:
        """Raise BadAnswer if the answer's `request_id` came before: each request has its own."""
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


class _AnswerReader:
    """Reads one answer from a channel, in bounds. `most` is how many bytes its body may have."""

    def __init__(self, http: h11.Connection, channel: Channel, deadline: float, most: int) -> None:
        self._http, self._channel, self._deadline, self._most = http, channel, deadline, most
        self._read = 0
        # What was given to h11 and is not part of an event yet.
        self._pending = b""

    def answer(self) -> Raw:
        """Return the answer. Raises _NoAnswer, h11.RemoteProtocolError, BadAnswer, OSError."""
        head = self._head()
        headers: dict[str, str] = {}
        for name, value in head.headers:
            key, text = name.decode("ascii"), value.decode("latin-1")
            headers[key] = f"{headers[key]}, {text}" if key in headers else text
        if "content-length" in headers and "transfer-encoding" in headers:
            raise h11.RemoteProtocolError("both a Content-Length and a Transfer-Encoding")
        if int(headers.get("content-length", 0)) > self._most:
            raise _too_large()
        body = bytearray()
        while isinstance(event := self._event(), h11.Data):
            body += event.data
            if len(body) > self._most:
                raise _too_large()
        return Raw(head.status_code, headers, bytes(body))

    def _head(self) -> h11.Response:
        """Return the head of the answer itself; interim answers before it are skipped (RFC 9110, 15.2)."""
        for _ in range(_MOST_INTERIM + 1):
            event = self._event()
            if event.http_version not in (b"1.0", b"1.1"):
                raise h11.RemoteProtocolError("another version of HTTP")
            if isinstance(event, h11.Response):
                return event
        raise BadAnswer(
            f"more than {_MOST_INTERIM} interim answers (1xx) came and no answer; check the address and any proxy in "
            "between"
        )

    def _event(self) -> Any:
        """Return what h11 reads next, with the lines it was read from checked."""
        while (event := self._http.next_event()) is h11.NEED_DATA:
            if self._read > self._most + _WRAPPING:
                raise _too_large()
            piece = self._channel.receive(_PIECE, self._deadline)
            if not piece and not self._read:
                raise _NoAnswer
            self._read += len(piece)
            self._pending += piece
            self._http.receive_data(piece)
        rest = self._http.trailing_data[0]
        used, self._pending = self._pending[: len(self._pending) - len(rest)], rest
        if not isinstance(event, h11.Data) and _LOOSE_LINES.search(used):
            raise h11.RemoteProtocolError("lines that do not end in CRLF, or are folded")
        return event


def _too_large() -> BadAnswer:
    return BadAnswer(
        "an answer is larger than a Vault response may be, or has no end; check the address and any proxy in between"
    )
