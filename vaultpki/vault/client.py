"""A Vault or OpenBao server, or a cluster of them, asked in a way that is bounded under any server, honest or not.

One HTTP/1.1 connection for each thread, over the standard library: hvac's `requests` costs more to import than a whole
plan may take. hvac's calls, for commands where that start-up does not count, ride on the same road (`Vault.hvac`).
"""

from __future__ import annotations

import http.client
import json
import random
import re
import socket
import ssl
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import urlsplit

from vaultpki.errors import BadAnswer, Denied, Refused, Sealed, SpecError, Unavailable, Untrusted, VaultError
from vaultpki.vault.settings import Settings, parse_origin, tls_context
from vaultpki.vault.wire import (
    Answer,
    Bounded,
    Capabilities,
    Json,
    Request,
    cause,
    json_object,
    no_surprise,
    printable,
    read_all,
    reasons,
)

if TYPE_CHECKING:
    import hvac

REQUEST_SECONDS: Final = 10.0
PATIENCE_SECONDS: Final = 45.0
FIRST_CONTACT_SECONDS: Final = 4.0
WIDTH: Final = 8
_REDIRECTS = 3

_PATH = re.compile(r"[A-Za-z0-9_.:+/-]+(\?[a-z=&]+)?")

# Answers of a server that may be well again in a moment: overload, failover, standby (Vault: /sys/health codes), or a
# gateway before it.
_PASSING = frozenset({412, 429, 472, 473, 500, 502, 503, 504})
# A KV v2 mount, and a PKI mount on OpenBao, answer 400 until their own upgrade after mounting is through.
_SETTLING = re.compile(r"migration has completed|[Uu]pgrading from non-versioned|Waiting for the primary", re.ASCII)


class Vault:
    """A server, or a cluster of them, and one token.

    `patience` is how long, in seconds, a request goes on trying while the server is away; `request_seconds` bounds
    each try from connecting to the last byte. Safe to use from several threads.
    """

    def __init__(
        self, settings: Settings, *, patience: float = PATIENCE_SECONDS, request_seconds: float = REQUEST_SECONDS
    ) -> None:
        if not settings.addresses:
            raise SpecError("no Vault address is known; set VAULT_ADDR, or vault.addresses in cluster.yaml")
        self._settings = settings
        self._origins = tuple(parse_origin(address, allow_http=settings.allow_http) for address in settings.addresses)
        self._preferred = self._origins[0]
        self._trusted_origins = set(self._origins)
        self._tls = tls_context(settings) if any(origin.startswith("https:") for origin in self._origins) else None
        self._patience = patience
        self._request_seconds = request_seconds
        self._local = threading.local()
        self._count_lock = threading.Lock()
        self._met = False
        self.reads = 0
        self.writes = 0

    def __repr__(self) -> str:
        return f"Vault({self._preferred!r})"

    @property
    def address(self) -> str:
        return self._preferred

    def as_token(self, token: str) -> Vault:
        """The same server for another token, with connections of its own."""
        other = Vault(
            replace(self._settings, token=token), patience=self._patience, request_seconds=self._request_seconds
        )
        other._preferred, other._met = self._preferred, self._met
        other._trusted_origins = set(self._trusted_origins)
        return other

    # Calls

    def read(self, path: str) -> Json | None:
        """The `data` at a path, or None where there is nothing."""
        answer = self.call(Request("GET", path))
        return answer.data if answer.found else None

    def names(self, path: str) -> tuple[str, ...]:
        """The names below a path; empty where there are none or the path does not exist."""
        return self.call(Request("LIST", path)).keys

    def write(self, path: str, body: Mapping[str, Any], **options: Any) -> Json:
        """POST; gives the whole answer's body. `options` are those of Request."""
        return self.call(Request("POST", path, body, **options)).body

    def login(self, path: str, body: Mapping[str, Any]) -> Vault:
        """Logs in at an auth mount's `login` path and gives the same server as the one who logged in."""
        answer = self.write(path, body)
        auth = answer.get("auth")
        token = auth.get("client_token") if isinstance(auth, dict) else None
        if not isinstance(token, str) or not re.fullmatch(r"[\x21-\x7e]{1,4096}", token):
            raise BadAnswer(f"the login at {path} brought no token; is this address really a Vault?")
        return self.as_token(token)

    def many(self, requests: Sequence[Request], *, width: int = WIDTH) -> list[Answer]:
        """The answers in the order of the requests, `width` of them under way at once; the first error ends all."""
        return list(self.map(self.call, requests, width=width))

    def map(self, work: Callable[[Any], Any], items: Iterable[Any], *, width: int = WIDTH) -> list[Any]:
        """`work` of each item, in order, with at most `width` threads; after an error nothing new begins."""
        items = list(items)
        if len(items) < 2:
            return [work(item) for item in items]
        results: list[Any] = [None] * len(items)
        failures: list[BaseException] = []
        pending: Iterator[int] = iter(range(len(items)))
        lock = threading.Lock()

        def run() -> None:
            while not failures:
                with lock:
                    index = next(pending, None)
                if index is None:
                    return
                try:
                    results[index] = work(items[index])
                except BaseException as error:
                    failures.append(error)

        threads = [threading.Thread(target=run, daemon=True) for _ in range(min(width, len(items)) - 1)]
        for thread in threads:
            thread.start()
        run()
        for thread in threads:
            thread.join()
        if failures:
            raise failures[0]
        return results

    def call(self, request: Request) -> Answer:
        """Sends one request and gives its answer (2xx, or 404 for a read).

        Raises Unavailable after `patience` seconds without a usable answer, Sealed at once where every address says
        so, Untrusted, Denied (403), Refused (another 4xx) and BadAnswer. Nothing of a secret is in their words.
        """
        if not _PATH.fullmatch(request.path) or ".." in request.path or "//" in request.path:
            raise ValueError(f"not a path of Vault: {request.path!r}")
        with self._count_lock:
            if request.method in ("GET", "LIST"):
                self.reads += 1
            else:
                self.writes += 1
        now = time.monotonic()
        give_up = now + (self._patience if self._met else min(self._patience, FIRST_CONTACT_SECONDS))
        attempt = 0
        while True:
            try:
                return self._round(request, give_up)
            except Sealed:
                raise
            except Unavailable as error:
                wait = _pause(attempt, error)
                attempt += 1
                if request.once or time.monotonic() + wait >= give_up:
                    raise
                time.sleep(wait)

    def pin_to_leader(self) -> None:
        """Sends what follows to the cluster's active node: a standby answers reads from a copy some 100 ms old.

        Waits while no leader is known. A leader address that is not TLS is used only where it was configured.
        """
        give_up = time.monotonic() + (self._patience if self._met else FIRST_CONTACT_SECONDS)
        while True:
            body = self.call(Request("GET", "sys/leader")).body
            if not body.get("ha_enabled") or body.get("is_self") is True:
                return
            leader = body.get("leader_address")
            if isinstance(leader, str) and leader:
                try:
                    origin = parse_origin(leader, allow_http=False)
                except SpecError:
                    return
                if origin in self._origins or origin.startswith("https:"):
                    self._trusted_origins.add(origin)
                    self._preferred = origin
                    self._forget()
                return
            if time.monotonic() >= give_up:
                raise Unavailable(
                    f"the cluster at {self._preferred} has no leader; look at `bao operator raft list-peers`, "
                    "and try again"
                )
            time.sleep(0.25)

    def capabilities(self) -> Capabilities:
        """What this server offers (one unauthenticated request)."""
        health = self.call(Request("GET", "sys/health?standbyok=true&perfstandbyok=true")).body
        # Only HashiCorp's server says which edition it is (sys/health, api-docs/system/health).
        vault = "enterprise" in health
        return Capabilities(
            product="vault" if vault else "openbao",
            version=str(health.get("version", "")),
            bounds_dates=not vault,
            bounds_addresses=not vault,
            audit_by_api=vault,
        )

    def hvac(self) -> hvac.Client:
        """An hvac client on this road: the same limits, addresses, token and errors."""
        from vaultpki.vault.hvac_client import client

        return client(self)

    # The road itself

    def _round(self, request: Request, give_up: float) -> Answer:
        """One try at each address, the one that answered last first."""
        last: VaultError | None = None
        sealed = 0
        origins = [self._preferred, *(o for o in self._origins if o != self._preferred)]
        for origin in origins:
            try:
                answer = self._follow(origin, request, give_up)
            except Sealed as error:
                sealed += 1
                last = error
            except Unavailable as error:
                last = error
                if request.once and error.sent:
                    raise
            else:
                self._preferred, self._met = origin if origin in self._trusted_origins else self._preferred, True
                return answer
        if last is not None and isinstance(last, Sealed) and sealed < len(origins):
            raise Unavailable(str(last))
        assert last is not None
        raise last

    def _follow(self, origin: str, request: Request, give_up: float) -> Answer:
        for _ in range(_REDIRECTS):
            status, headers, raw = self._send(origin, request, give_up)
            if status not in (301, 302, 303, 307, 308):
                return self._judge(origin, request, status, headers, raw)
            location = urlsplit(headers.get("Location") or "")
            target = f"{location.scheme}://{location.netloc}"
            if target not in self._trusted_origins:
                raise Unavailable(
                    f"{origin} sends us on to {printable(target)}, which is none of the addresses given; "
                    "name it in vault.addresses if it is yours"
                )
            origin = target
        raise Unavailable(f"{origin} sends us round in circles; the cluster is choosing a leader, try again")

    def _send(self, origin: str, request: Request, give_up: float) -> tuple[int, http.client.HTTPMessage, bytes]:
        deadline = min(time.monotonic() + self._request_seconds, max(give_up, time.monotonic() + 1.0))
        headers = {"Accept": "application/json", "Accept-Encoding": "identity", "X-Vault-Request": "true"}
        if self._settings.token:
            headers["X-Vault-Token"] = self._settings.token
        if self._settings.namespace:
            headers["X-Vault-Namespace"] = self._settings.namespace
        if request.wrap_ttl:
            headers["X-Vault-Wrap-TTL"] = request.wrap_ttl
        body = None
        if request.body is not None:
            body = json.dumps(request.body, separators=(",", ":")).encode()
            headers["Content-Type"] = "application/merge-patch+json" if request.merge_patch else "application/json"
        for fresh in (False, True):
            connection, reused = self._connection(origin, deadline, fresh=fresh)
            sent = False
            try:
                connection.request(request.method, f"/v1/{request.path}", body=body, headers=headers)
                sent = True
                response = connection.getresponse()
                raw = read_all(response)
                if response.will_close:
                    self._drop(origin)
                return response.status, response.headers, raw
            except (http.client.RemoteDisconnected, BrokenPipeError, ConnectionResetError):
                self._drop(origin)
                # A kept connection that the server has closed meanwhile: RFC 9112 section 9.3.1 lets one try again
                # what may be repeated.
                if reused and not request.once:
                    continue
                raise Unavailable(f"{origin} closed the connection without an answer", sent=sent) from None
            except TimeoutError:
                self._drop(origin)
                raise Unavailable(f"{origin} gave no whole answer in time", sent=sent) from None
            except (OSError, http.client.HTTPException, ValueError) as error:
                self._drop(origin)
                raise Unavailable(f"the answer of {origin} broke off ({cause(error)})", sent=sent) from None
            except BaseException:
                self._drop(origin)
                raise
        raise Unavailable(f"{origin} closed the connection without an answer", sent=False)

    def _judge(
        self, origin: str, request: Request, status: int, headers: http.client.HTTPMessage, raw: bytes
    ) -> Answer:
        if headers.get("Content-Encoding", "identity") != "identity":
            raise BadAnswer(f"{origin} sent a compressed answer that nobody asked for; look at what stands before it")
        if status == 204:
            return Answer(204, {})
        where = f"{request.method} {request.path}"
        body = json_object(raw)
        if 200 <= status < 300:
            if body is None:
                raise BadAnswer(
                    f"the answer of {origin} to {where} is not what a Vault says; look at what stands there"
                )
            if request.method not in ("GET", "LIST"):
                no_surprise(where, body, request.warnings)
            return Answer(status, body)
        said_by_server = reasons(body)
        if status == 404 and request.method in ("GET", "LIST", "DELETE") and body is not None:
            return Answer(404, body if request.method != "LIST" else {})
        said = "; ".join(said_by_server) or http.client.responses.get(status, "no reason given")
        if status == 503 and any("sealed" in reason for reason in said_by_server):
            raise Sealed(f"the Vault at {origin} is sealed; unseal it and try again")
        if any("not initialized" in reason for reason in said_by_server):
            raise Sealed(f"the Vault at {origin} is not initialised; run `operator init` on it first")
        if status in _PASSING or (status == 400 and _SETTLING.search(said)):
            raise Unavailable(
                f"{origin} cannot answer now ({status}: {said})",
                sent=status >= 500,
                retry_after=_seconds(headers.get("Retry-After")),
            )
        if status == 403:
            raise Denied(f"Vault refuses {where}: {said}")
        raise Refused(f"Vault refuses {where}: {said}", status=status, reasons=said_by_server)

    def _connection(self, origin: str, deadline: float, *, fresh: bool) -> tuple[http.client.HTTPConnection, bool]:
        """This thread's connection to `origin`, and whether it was kept from an earlier request."""
        kept: dict[str, http.client.HTTPConnection] = self._local.__dict__.setdefault("kept", {})
        connection = kept.get(origin)
        if connection is not None and not fresh and isinstance(connection.sock, Bounded):
            connection.sock.deadline = deadline
            return connection, True
        self._drop(origin)
        parts = urlsplit(origin)
        host, port = parts.hostname or "", parts.port or 8200
        connection = http.client.HTTPConnection(host, port)
        try:
            plain = socket.create_connection((host, port), timeout=max(0.01, deadline - time.monotonic()))
            try:
                plain.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                if parts.scheme == "https":
                    assert self._tls is not None
                    plain = self._tls.wrap_socket(plain, server_hostname=self._settings.server_name or host)
            except BaseException:
                plain.close()
                raise
        except ssl.SSLCertVerificationError as error:
            raise Untrusted(
                f"the TLS certificate of {origin} does not verify ({error.verify_message}); give its CA as "
                "vault.ca_file or VAULT_CACERT"
            ) from None
        except TimeoutError:
            raise Unavailable(f"{origin} does not answer", sent=False) from None
        except OSError as error:
            raise Unavailable(f"{origin} cannot be reached ({cause(error)})", sent=False) from None
        connection.sock = Bounded(plain, deadline)
        kept[origin] = connection
        return connection, False

    def _drop(self, origin: str) -> None:
        connection = self._local.__dict__.setdefault("kept", {}).pop(origin, None)
        if connection is not None:
            connection.close()

    def _forget(self) -> None:
        for origin in list(self._local.__dict__.setdefault("kept", {})):
            if origin != self._preferred:
                self._drop(origin)


@contextmanager
def explained(vault: Vault) -> Iterator[None]:
    """Turns a refusal for want of rights into words that tell an expired token from one that is too weak."""
    try:
        yield
    except Denied as error:
        if not vault._settings.token:
            raise Denied(
                "there is no Vault token; set VAULT_TOKEN, or log in with `bao login` or `vault login`"
            ) from None
        try:
            vault.call(Request("GET", "auth/token/lookup-self"))
        except Denied:
            raise Denied(f"the Vault token is not valid, has expired, or may do nothing here ({error})") from None
        except VaultError:
            raise error from None
        raise Denied(f"the Vault token is too weak: {error}") from None


def _seconds(text: str | None) -> float | None:
    return float(text) if text is not None and re.fullmatch(r"[0-9]{1,4}", text) else None


def _pause(attempt: int, error: Unavailable) -> float:
    grown: float = min(0.1 * 2**attempt, 2.0)
    return max(error.retry_after or 0.0, grown * random.uniform(0.7, 1.3))  # noqa: S311 -- jitter, not a secret
