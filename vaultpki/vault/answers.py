"""Requests to Vault's API and their answers, checked strictly; no message about them holds a secret."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import cached_property
from http import HTTPStatus
from typing import Any, Final

from vaultpki.errors import BadAnswer, Denied, Refused, Sealed, Unavailable
from vaultpki.redact import HIDDEN, hide, printable
from vaultpki.vault.messages import speaks_tls

Json = dict[str, Any]

_SAID_LENGTH: Final = 300

# Statuses that pass by themselves: overload, failover, standby (codes of /sys/health); so does every 5xx, whether of
# Vault or of a gateway before it.
_PASSING = frozenset({412, 429, 472, 473})
# A KV v2 mount, and a PKI mount on OpenBao, answer 400 until their own upgrade after mounting is through.
_SETTLING = re.compile(r"migration has completed|[Uu]pgrading from non-versioned|Waiting for the primary", re.ASCII)

_PHRASES: Final = {status.value: status.phrase for status in HTTPStatus}

# What OpenBao answers to every request in a namespace that does not exist.
_NO_NAMESPACE: Final = ["namespace not found"]
# What Go (net/http, server.go) and nginx answer to plain http on a TLS port: one sentence, no JSON.
_SPEAKS_TLS = re.compile(rb"sent an HTTP request to an HTTPS server|plain HTTP request was sent to HTTPS port")

# Both servers answer a read of an issuer that does not exist with 500 (builtin/logical/pki/issuing/issuers.go).
_NO_ISSUER: Final = "unable to find PKI issuer for reference"

# Both servers say so if the policies of a token are the reason (vault/request_handling.go, a multierror of one). Of a
# token that they do not know Vault says two errors, and OpenBao only "permission denied".
_BY_POLICY: Final = "1 error occurred: * permission denied"

# Fields of requests that no message may repeat, if a server sends them back in an error.
_SECRET_FIELDS = frozenset({"secret_id", "token", "jwt", "password", "private_key", "pem_bundle"})

BODY_LIMIT: Final = 1 << 20
LIST_LIMIT: Final = 32 << 20
# Every mount is told twice, in some 600 bytes each: a thousand mounts pass 1 MiB.
_WHOLE_LISTS: Final = frozenset({"sys/mounts", "sys/auth", "sys/policies/acl"})
_LOOKUPS: Final = ("identity/lookup/entity", "/secret-id-accessor/lookup")


@dataclass(frozen=True, slots=True)
class Request:
    """One call. `once` says that it must not be sent twice, since each makes a key or a certificate.

    `login` says that the answer must hold a token, and that after a refusal the other addresses are asked too.
    `warnings` are fragments of the warnings that this call is known to bring; any other warning is an error.
    `seconds` is how long its answer may take, if not as long as that of other calls. `unforwarded` says that the server
    that is asked must answer from its own copy: a standby that would ask the active node counts as unavailable.
    """

    method: str
    path: str
    body: Mapping[str, Any] | None = field(default=None, repr=False)
    once: bool = False
    login: bool = False
    warnings: tuple[str, ...] = ()
    wrap_ttl: str | None = None
    seconds: float | None = None
    unforwarded: bool = False

    @property
    def whole_server(self) -> bool:
        """Return whether it is about the server itself, which no namespace answers (api-docs/system/namespaces)."""
        return self.path.partition("?")[0] in ("sys/health", "sys/leader")

    @property
    def most(self) -> int:
        """Return how many bytes its answer may have: the lists of a whole server grow with everybody who uses it.

        So do the lists of a mount's certificates with its nodes: each takes some 65 bytes.
        """
        large = self.path in _WHOLE_LISTS or self.path.endswith(("/certs", "/certs/revoked"))
        return LIST_LIMIT if large else BODY_LIMIT

    @property
    def reads(self) -> bool:
        return self.method in ("GET", "LIST")

    @property
    def changes_nothing(self) -> bool:
        """Return whether it only reads; Vault answers some questions to a POST alone.

        api-docs/secret/identity/entity and api-docs/auth/approle have them.
        """
        return self.reads or self.path.endswith(_LOOKUPS)

    def __str__(self) -> str:
        return f"{self.method} {self.path}"


@dataclass(frozen=True, eq=False)
class Raw:
    """An answer as it came: status, headers by their names in lower case, and the bytes of the body."""

    status: int
    headers: Mapping[str, str] = field(repr=False)
    body: bytes = field(repr=False)

    @property
    def compressed(self) -> bool:
        """Return whether the body is encoded, which no request asks for."""
        return self.headers.get("content-encoding", "identity") != "identity"

    @cached_property
    def json(self) -> Json | None:
        """Return the JSON object in the body; None if there is none."""
        return None if self.compressed else json_object(self.body)


@dataclass(frozen=True, slots=True)
class Answer:
    """What came back: `status` and the JSON object; `body` is empty for 204 and 404."""

    status: int
    body: Json = field(repr=False)
    dated: str | None = field(default=None, repr=False, compare=False)

    @property
    def date(self) -> float | None:
        """Return the server's clock at its answer, in Unix seconds rounded down; None if it did not say."""
        return http_date(self.dated)

    @property
    def found(self) -> bool:
        return self.status != 404

    @property
    def data(self) -> Json:
        """Return the `data` member; empty if there is none. Raises BadAnswer if it is not an object."""
        return member(self.body, "data")

    @property
    def entries(self) -> dict[str, Json]:
        """Return `data` if it is a table of objects, such as the one of all mounts."""
        return {name: member(self.data, name) for name in self.data}

    @property
    def key_info(self) -> dict[str, Json]:
        """Return what a LIST says about each of its names; empty if it says nothing."""
        told = member(self.data, "key_info")
        return {name: member(told, name) for name in told}

    @property
    def keys(self) -> tuple[str, ...]:
        """Return the names of a LIST; empty if nothing is listed."""
        keys = self.data.get("keys") or []
        if not isinstance(keys, list) or not all(isinstance(key, str) for key in keys):
            raise BadAnswer("the server's list is not a list of names; check the address and any proxy in between")
        return tuple(keys)


# Without hvac, which takes longer to load than this takes to be answered.
HEALTH: Final = Request("GET", "sys/health?standbyok=true&perfstandbyok=true")


@dataclass(frozen=True, slots=True)
class Capabilities:
    """What this server offers, as far as Vault and OpenBao differ.

    `openbao`: PKI roles have `not_before_bound`, `not_after_bound` and `allowed_ip_sans_cidr`, and auth roles have
    `token_strictly_bind_ip`. `namespaces`: it looks at the header that names one, as HashiCorp's server does in its
    Enterprise edition only.
    """

    version: str
    openbao: bool
    namespaces: bool

    @property
    def program(self) -> str:
        """The name of the server's own command line."""
        return own_program(openbao=self.openbao)

    @classmethod
    def of(cls, health: Answer) -> Capabilities:
        """Return what the server that gave this answer to HEALTH offers."""
        # Only HashiCorp's server says which edition it is (sys/health, api-docs/system/health).
        return cls(
            version=str(health.body.get("version", "")),
            openbao="enterprise" not in health.body,
            namespaces=health.body.get("enterprise", True) is True,
        )


def own_program(*, openbao: bool) -> str:
    """Return the name of the command line that comes with a server."""
    return "bao" if openbao else "vault"


def read_answer(origin: str, request: Request, raw: Raw, token: str, no_namespace: str = "") -> Answer:
    """Return the answer (2xx, or 404 for what may be missing), or raise the error that it means.

    `token` is the one in the request, which no message may repeat. `no_namespace` is the message for a namespace that
    does not exist.
    """
    if raw.status == 204:
        return Answer(204, {}, raw.headers.get("date"))
    body = raw.json
    if 200 <= raw.status < 300:
        if raw.compressed:
            raise BadAnswer(f"{origin} sent a compressed answer, which no request asks for; check any proxy in between")
        if body is None:
            raise _no_vault(origin, request)
        if not request.reads:
            _no_surprise(request, body, token)
        if request.login:
            login_token(body, request.path)
        return Answer(raw.status, body, raw.headers.get("date"))
    if raw.status == 404 and body is not None and no_namespace and body.get("errors") == _NO_NAMESPACE:
        raise Refused(no_namespace, status=404, reasons=tuple(_NO_NAMESPACE))
    if raw.status == 404 and body is not None and _of_vault(body) and (request.reads or request.method == "DELETE"):
        return Answer(404, {} if request.method == "LIST" else body, raw.headers.get("date"))
    if raw.status == 500 and request.reads and any(_NO_ISSUER in each for each in _reasons(body, request, token)):
        return Answer(404, {}, raw.headers.get("date"))
    raise _trouble(origin, request, raw, body, token)


def _trouble(origin: str, request: Request, raw: Raw, body: Json | None, token: str) -> Exception:
    status = raw.status
    reasons = _reasons(body, request, token)
    said = "; ".join(reasons) or _PHRASES.get(status, "no reason given")
    # sys/health says it in fields, everything else in words.
    known = body or {}
    if status >= 400 and (known.get("initialized") is False or any("not initialized" in reason for reason in reasons)):
        return Sealed(f"the Vault at {origin} is not initialised; run `operator init` on it first")
    if status == 503 and (known.get("sealed") is True or any("sealed" in reason for reason in reasons)):
        return Sealed(f"the Vault at {origin} is sealed; unseal it and try again")
    if status in _PASSING or status >= 500 or (status == 400 and _SETTLING.search(said)):
        return Unavailable(
            f"{origin} cannot answer now ({status}: {said})",
            sent=status >= 500,
            retry_after=_seconds(raw.headers.get("retry-after")),
        )
    if body is None and origin.startswith("http:") and _SPEAKS_TLS.search(raw.body):
        return speaks_tls(origin)
    if body is None or not _of_vault(body) or status < 400:
        return _no_vault(origin, request)
    if status in (401, 403):
        return Denied(f"Vault refuses {request}: {said}", weak=any(_BY_POLICY in reason for reason in reasons))
    return Refused(f"Vault refuses {request}: {said}", status=status, reasons=reasons)


def _of_vault(body: Json) -> bool:
    """Return whether a 4xx with this body may be Vault's, and not that of a gateway or of another service."""
    # Vault always has `errors` (api-docs, "Error response"); a deleted version of KV v2 is a 404 with `data`.
    return "errors" in body or "data" in body


def _no_vault(origin: str, request: Request) -> BadAnswer:
    return BadAnswer(
        f"the answer of {origin} to {request} is not a Vault response; check the address and any proxy in between"
    )


def _no_surprise(request: Request, body: Json, token: str) -> None:
    """Raise BadAnswer for an unexpected warning of a write: Vault only warns if it ignored a field."""
    warnings = body.get("warnings") or []
    if not isinstance(warnings, list):
        warnings = [warnings]
    for warning in warnings:
        if not any(fragment in str(warning) for fragment in request.warnings):
            raise BadAnswer(f"Vault took {request}, but warns: {quoted(str(warning), request, token)}", taken=True)


def _reasons(body: Json | None, request: Request, token: str) -> tuple[str, ...]:
    errors = (body or {}).get("errors")
    if not isinstance(errors, list):
        return ()
    words = (quoted(str(error), request, token) for error in errors[:5])
    return tuple(word for word in words if word)


def quoted(text: str, request: Request, token: str) -> str:
    """Return a server's own words, printable and cut short, without the token or any other secret."""
    carried = [value for name, value in (request.body or {}).items() if name in _SECRET_FIELDS]
    for secret in (token, *carried):
        if isinstance(secret, str) and secret:
            text = text.replace(secret, HIDDEN)
    return printable(" ".join(hide(text).split()))[:_SAID_LENGTH]


def json_object(raw: bytes) -> Json | None:
    """Return the JSON object in the bytes; None if they hold anything else, or text that is not Unicode."""
    try:
        value = json.loads(raw, parse_constant=_no_number)
        # RFC 8259 section 8.2: an escape may spell half of a surrogate pair, which no file or terminal takes.
        if rb"\ud" in raw.lower():
            json.dumps(value, ensure_ascii=False).encode()
    except (ValueError, RecursionError):
        return None
    return value if isinstance(value, dict) else None


def member(body: Mapping[str, Any], name: str) -> Json:
    """Return the object under `name`; empty if there is none. Raises BadAnswer if it is something else."""
    found = body.get(name)
    if found is None:
        return {}
    if not isinstance(found, dict):
        raise BadAnswer(
            f"the server's answer holds no object under `{printable(name)}`; check the address and any proxy in between"
        )
    return found


def text(body: Mapping[str, Any], name: str) -> str:
    """Return the text under `name`. Raises BadAnswer if there is none."""
    found = body.get(name)
    if not isinstance(found, str) or not found:
        raise BadAnswer(f"the server's answer holds no `{printable(name)}`; check the address and any proxy in between")
    return found


def server_time(value: Any) -> datetime | None:
    """Return a time that a server shows (RFC 3339); None for all else, and for one so far off that sums overflow."""
    try:
        found = datetime.fromisoformat(value).astimezone(UTC)
    except (TypeError, ValueError, OverflowError):
        return None
    return found if 1970 <= found.year <= 9000 else None


def check_named(data: Mapping[str, Any], field: str, wanted: str, asked: str) -> None:
    """Raise BadAnswer if the answer to the request `asked` is about another object than `wanted`."""
    found = data.get(field)
    if found != wanted:
        other = f"is about {hide(printable(found[:100]))}" if isinstance(found, str) else f"holds no `{field}`"
        raise BadAnswer(f"the answer to {asked} {other}, not {wanted}; check the address and any proxy in between")


def shown_request(mount: str, issuer: str) -> Request:
    """Return the request for an issuer that needs no token, which hvac has no method for."""
    return Request("GET", f"{mount}/issuer/{issuer}/json")


def shown_certificate(mount: str, issuer: str, answer: Answer) -> str:
    """Return the PEM certificate in the answer to `MOUNT/issuer/ID/json`; BadAnswer if it is not that issuer's."""
    path = f"{mount}/issuer/{issuer}/json"
    check_named(answer.data, "issuer_id", issuer, path)
    pem = answer.data.get("certificate")
    if not isinstance(pem, str):
        raise BadAnswer(f"{path} shows no certificate; check the address and any proxy in between")
    return pem


def login_token(answer: Json, path: str) -> str:
    """Return the token in the answer to a login. Raises BadAnswer if there is none."""
    auth = answer.get("auth")
    token = auth.get("client_token") if isinstance(auth, dict) else None
    if not isinstance(token, str) or not re.fullmatch(r"[\x21-\x7e]{1,4096}", token):
        raise BadAnswer(f"the login at {path} brought no token; check the address and any proxy in between")
    return token


def login_entity(answer: Json) -> str:
    """Return the id of the identity entity in the answer to a login; empty if there is none."""
    entity = member(answer, "auth").get("entity_id")
    return entity if isinstance(entity, str) else ""


def wrapping_token(answer: Answer, path: str) -> str:
    """Return the token in the wrapped answer to a request to `path`. Raises BadAnswer if it is not such an answer."""
    wrapped = member(answer.body, "wrap_info")
    token = wrapped.get("token")
    if not isinstance(token, str) or not token:
        raise BadAnswer(
            f"the answer to {path} is not wrapped, and is not used; check the address and any proxy in between"
        )
    # That of a LIST ends with a slash.
    created = {"creation_path": str(wrapped.get("creation_path")).rstrip("/")}
    check_named(created, "creation_path", path, path)
    return token


def http_date(text: str | None) -> float | None:
    """Return the Unix seconds of a Date header; None if it is not the IMF-fixdate of RFC 9110, 5.6.7."""
    if text is None or not text.isascii():
        return None
    try:
        return datetime.strptime(text, "%a, %d %b %Y %H:%M:%S GMT").replace(tzinfo=UTC).timestamp()
    except ValueError:
        return None


def _no_number(constant: str) -> None:
    raise ValueError(f"{constant} is not JSON")


def _seconds(text: str | None) -> float | None:
    return float(text) if text is not None and re.fullmatch(r"[0-9]{1,9}", text) else None
