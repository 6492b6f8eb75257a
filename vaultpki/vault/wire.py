"""One HTTP answer read strictly: no odd shape of it gets past here, and no secret gets into what people read."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import field
from typing import Any, Final

from vaultpki.errors import BadAnswer, Denied, Refused, Sealed, Unavailable
from vaultpki.plain import HIDDEN, hide, printable
from vaultpki.values import dataclass
from vaultpki.vault.advice import speaks_tls

Json = dict[str, Any]

_SAID_LENGTH: Final = 300

# Answers of a server that may be well again in a moment: overload, failover, standby (Vault: /sys/health codes); so is
# every 5xx, whether of Vault or of a gateway before it.
_PASSING = frozenset({412, 429, 472, 473})
# A KV v2 mount, and a PKI mount on OpenBao, answer 400 until their own upgrade after mounting is through.
_SETTLING = re.compile(r"migration has completed|[Uu]pgrading from non-versioned|Waiting for the primary", re.ASCII)

# What OpenBao answers to everything in a namespace that it does not have: not that something is missing in there.
_NO_NAMESPACE: Final = ["namespace not found"]
# What Go's server says of open http on a port of TLS (net/http, server.go), and nginx: one sentence, no JSON.
_SPEAKS_TLS = re.compile(rb"sent an HTTP request to an HTTPS server|plain HTTP request was sent to HTTPS port")

# What requests carry that no message may repeat, should a server send it back to us in an error.
_SECRET_FIELDS = frozenset({"secret_id", "token", "jwt", "password", "private_key", "pem_bundle"})

# Compiled when it is needed: most commands never look at the clock.
_DATE: Final = (
    r"[A-Z][a-z]{2}, (?P<day>[0-9]{2}) (?P<month>[A-Z][a-z]{2}) (?P<year>[0-9]{4}) "
    r"(?P<hour>[0-9]{2}):(?P<minute>[0-9]{2}):(?P<second>[0-9]{2}) GMT"
)
_MONTHS: Final = ("Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec")


BODY_LIMIT: Final = 1 << 20
LIST_LIMIT: Final = 32 << 20
# Every mount is told twice, in some 600 bytes each: a thousand mounts pass 1 MiB.
_WHOLE_LISTS: Final = frozenset({"sys/mounts", "sys/auth", "sys/policies/acl"})


@dataclass(frozen=True, slots=True)
class Request:
    """One call. `once` marks what must not be sent twice (it makes a key or a certificate each time).

    `login` marks one that must bring a token, and that is no more than one address's word where it is turned down.
    `warnings` are fragments of the warnings this call is known to bring; any other is an error.
    """

    method: str
    path: str
    body: Mapping[str, Any] | None = field(default=None, repr=False)
    once: bool = False
    login: bool = False
    warnings: tuple[str, ...] = ()
    wrap_ttl: str | None = None
    merge_patch: bool = False

    @property
    def whole_server(self) -> bool:
        """Whether it asks about the server itself, which no namespace answers (api-docs/system/namespaces)."""
        return self.path.partition("?")[0] in ("sys/health", "sys/leader")

    @property
    def most(self) -> int:
        """The most bytes its answer may have: what lists a whole server grows with all who use it."""
        return LIST_LIMIT if self.path in _WHOLE_LISTS else BODY_LIMIT

    @property
    def reads(self) -> bool:
        return self.method in ("GET", "LIST")

    def __str__(self) -> str:
        return f"{self.method} {self.path}"


@dataclass(frozen=True, slots=True, eq=False)
class Raw:
    """An answer as it came: status, headers by their names in lower case, and the bytes of the body.

    `json` is the object that the body holds, once `parsed` has looked; None where it is none.
    """

    status: int
    headers: Mapping[str, str] = field(repr=False)
    body: bytes = field(repr=False)
    json: Json | None = field(default=None, repr=False)

    @property
    def compressed(self) -> bool:
        """Whether the body is encoded, which nobody asks for."""
        return self.headers.get("content-encoding", "identity") != "identity"


@dataclass(frozen=True, slots=True)
class Answer:
    """What came back: `status` and the JSON object; `body` is empty for 204 and 404."""

    status: int
    body: Json = field(repr=False)
    dated: str | None = field(default=None, repr=False, compare=False)

    @property
    def date(self) -> float | None:
        """The server's clock as it answered, in Unix seconds rounded down; None where it did not say."""
        return http_date(self.dated)

    @property
    def found(self) -> bool:
        return self.status != 404

    @property
    def data(self) -> Json:
        """The `data` member; empty where there is none. Raises BadAnswer where it is no object."""
        return member(self.body, "data")

    @property
    def entries(self) -> dict[str, Json]:
        """`data` where it is a table of objects, such as that of all mounts."""
        return {name: member(self.data, name) for name in self.data}

    @property
    def key_info(self) -> dict[str, Json]:
        """What a LIST says of each name that it gave, where it does; empty where it does not."""
        told = member(self.data, "key_info")
        return {name: member(told, name) for name in told}

    @property
    def keys(self) -> tuple[str, ...]:
        """The names a LIST gave; empty where nothing is listed."""
        keys = self.data.get("keys") or []
        if not isinstance(keys, list) or not all(isinstance(key, str) for key in keys):
            raise BadAnswer("the server's list is no list of names; is this address really a Vault?")
        return tuple(keys)


HEALTH: Final = Request("GET", "sys/health?standbyok=true&perfstandbyok=true")


@dataclass(frozen=True, slots=True)
class Capabilities:
    """Where Vault and OpenBao differ in what they offer, each difference by name.

    `bounds_dates`: roles have `not_before_bound` and `not_after_bound`. `bounds_addresses`: roles have
    `allowed_ip_sans_cidr`. `binds_tokens`: auth roles have `token_strictly_bind_ip`. `audit_by_api`: audit devices are
    made by a request, not in the server's configuration. `namespaces`: it looks at the header that names one, as
    HashiCorp's server does in its Enterprise edition only.
    """

    product: str
    version: str
    bounds_dates: bool
    bounds_addresses: bool
    binds_tokens: bool
    audit_by_api: bool
    namespaces: bool

    @classmethod
    def of(cls, health: Answer) -> Capabilities:
        """What the server that gave this answer to HEALTH offers."""
        # Only HashiCorp's server says which edition it is (sys/health, api-docs/system/health).
        vault = "enterprise" in health.body
        return cls(
            product="vault" if vault else "openbao",
            version=str(health.body.get("version", "")),
            bounds_dates=not vault,
            bounds_addresses=not vault,
            binds_tokens=not vault,
            audit_by_api=vault,
            namespaces=health.body.get("enterprise", True) is True,
        )


def parsed(raw: Raw) -> Raw:
    """The answer with its JSON object read."""
    return Raw(raw.status, raw.headers, raw.body, None if raw.compressed else json_object(raw.body))


def judge(origin: str, request: Request, raw: Raw, token: str, no_namespace: str = "") -> Answer:
    """The answer where it is one (2xx, or 404 for what may be missing), else the error that it means.

    `token` is what the request carried, which no message may repeat. `no_namespace` is the sentence to tell where the
    namespace that the request named does not exist.
    """
    if raw.status == 204:
        return Answer(204, {}, raw.headers.get("date"))
    body = raw.json
    if 200 <= raw.status < 300:
        if raw.compressed:
            raise BadAnswer(f"{origin} sent a compressed answer that nobody asked for; look at what stands before it")
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
    raise _trouble(origin, request, raw, body, token)


def _trouble(origin: str, request: Request, raw: Raw, body: Json | None, token: str) -> Exception:
    status = raw.status
    reasons = _reasons(body, request, token)
    said = "; ".join(reasons) or _phrase(status)
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
        return Denied(f"Vault refuses {request}: {said}")
    return Refused(f"Vault refuses {request}: {said}", status=status, reasons=reasons)


def _of_vault(body: Json) -> bool:
    """Whether a 4xx with this body may be Vault's, and not that of a gateway or of another service."""
    # It tells its errors, be there none (api-docs, "Error response"); a deleted version of KV v2 is a 404 with `data`.
    return "errors" in body or "data" in body


def _phrase(status: int) -> str:
    from http import HTTPStatus

    try:
        return HTTPStatus(status).phrase
    except ValueError:
        return "no reason given"


def _no_vault(origin: str, request: Request) -> BadAnswer:
    return BadAnswer(f"the answer of {origin} to {request} is not what a Vault says; look at what stands there")


def _no_surprise(request: Request, body: Json, token: str) -> None:
    """Raises BadAnswer where a write brought a warning nobody expected: Vault only warns where it ignored a field."""
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
    """A server's own words, fit for a terminal and cut short, without the token or any other secret in them."""
    carried = [value for name, value in (request.body or {}).items() if name in _SECRET_FIELDS]
    for secret in (token, *carried):
        if isinstance(secret, str) and secret:
            text = text.replace(secret, HIDDEN)
    return printable(" ".join(hide(text).split()))[:_SAID_LENGTH]


def json_object(raw: bytes) -> Json | None:
    """The JSON object in the bytes; None where they hold anything else, however deep, or text that is no Unicode."""
    try:
        value = json.loads(raw, parse_constant=_no_number)
        # RFC 8259 section 8.2: an escape may spell half of a surrogate pair, which no file or terminal takes.
        if rb"\ud" in raw.lower():
            json.dumps(value, ensure_ascii=False).encode()
    except (ValueError, RecursionError):
        return None
    return value if isinstance(value, dict) else None


def member(body: Mapping[str, Any], name: str) -> Json:
    """The object under `name`; empty where there is none. Raises BadAnswer where it is something else."""
    found = body.get(name)
    if found is None:
        return {}
    if not isinstance(found, dict):
        raise BadAnswer(
            f"the server's answer holds no object under `{printable(name)}`; is this address really a Vault?"
        )
    return found


def text(body: Mapping[str, Any], name: str) -> str:
    """The text under `name`; BadAnswer where there is none."""
    found = body.get(name)
    if not isinstance(found, str) or not found:
        raise BadAnswer(f"the server's answer holds no `{printable(name)}`; is this address really a Vault?")
    return found


def check_named(data: Mapping[str, Any], field: str, wanted: str, asked: str) -> None:
    """Raises BadAnswer where an answer is about another object than `wanted`, of which `asked` was the request."""
    found = data.get(field)
    if found != wanted:
        other = f"is about {hide(printable(found[:100]))}" if isinstance(found, str) else f"holds no `{field}`"
        raise BadAnswer(f"the answer to {asked} {other}, not {wanted}; check the address and any proxy in between")


def login_token(answer: Json, path: str) -> str:
    """The token that a login brought; BadAnswer where there is none that could be one."""
    auth = answer.get("auth")
    token = auth.get("client_token") if isinstance(auth, dict) else None
    if not isinstance(token, str) or not re.fullmatch(r"[\x21-\x7e]{1,4096}", token):
        raise BadAnswer(f"the login at {path} brought no token; is this address really a Vault?")
    return token


def http_date(text: str | None) -> float | None:
    """Unix seconds of a Date header; None where it is not in the one form that servers send (RFC 9110, 5.6.7)."""
    if text is None:
        return None
    from datetime import UTC, datetime

    found = re.fullmatch(_DATE, text)
    if found is None or found["month"] not in _MONTHS:
        return None
    day, year, hour, minute, second = (int(found[name]) for name in ("day", "year", "hour", "minute", "second"))
    try:
        return datetime(year, _MONTHS.index(found["month"]) + 1, day, hour, minute, second, tzinfo=UTC).timestamp()
    except ValueError:
        return None


def _no_number(constant: str) -> None:
    raise ValueError(f"{constant} is no JSON")


def _seconds(text: str | None) -> float | None:
    return float(text) if text is not None and re.fullmatch(r"[0-9]{1,9}", text) else None
