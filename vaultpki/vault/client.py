"""A Vault or OpenBao server, or a cluster of them, asked in a way that is bounded under any server, honest or not.

Over the standard library: hvac's `requests` costs more to import than a whole plan may take. hvac's calls, for commands
where that start-up does not count, ride on the same road (`Vault.hvac`).
"""

from __future__ import annotations

import copy
import random
import re
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Final

from vaultpki.errors import BadAnswer, Denied, Refused, Sealed, SpecError, Unavailable, Untrusted, VaultError
from vaultpki.plain import printable
from vaultpki.values import dataclass
from vaultpki.vault.exchange import CONNECTIONS, Exchange
from vaultpki.vault.settings import Settings, parse_origin
from vaultpki.vault.wire import Answer, Json, Raw, Request, check_named, http_date, judge, login_token, member, quoted
from vaultpki.vault.work import Work

if TYPE_CHECKING:
    import hvac

REQUEST_SECONDS: Final = 10.0
PATIENCE_SECONDS: Final = 45.0
FIRST_CONTACT_SECONDS: Final = 4.0
# A connection more takes two round trips before its first request, and the server's time: fewer do not pay for it.
_LEAST: Final = 6
# No longer than policies/node.json and pool.json let a node wrap what it mints.
_WRAPPED: Final = "60s"
_REDIRECTS = 3
# What one may do without is not waited for longer.
_GLANCE_SECONDS: Final = 2.0
# A leader that does not say so within this is none: an election alone takes longer.
_LEADER_SECONDS = 2.0

_LEADER: Final = Request("GET", "sys/leader")
_REDIRECTING: Final = frozenset({301, 302, 303, 307, 308})
_PATH = re.compile(r"[A-Za-z0-9_.:+/-]+(\?[A-Za-z0-9_=&.-]+)?")


@dataclass(slots=True)
class _Route:
    """Where requests go, learnt on the way and shared by every token of one server.

    `origins` are the addresses given, `trusted` those and the leader they named, `preferred` the one to ask first,
    `pinned` that no other may be asked, `met` that some address has answered before. `dated` is the Date header that
    came last, beside our own clock at that moment.
    """

    origins: tuple[str, ...]
    trusted: set[str]
    preferred: str
    pinned: bool = False
    met: bool = False
    dated: tuple[str, float] | None = None


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
        origins = tuple(parse_origin(address, allow_http=settings.allow_http) for address in settings.addresses)
        self._route = _Route(origins, set(origins), origins[0])
        self._exchange = Exchange(settings)
        self._patience = patience
        self._request_seconds = request_seconds
        self._work = Work()
        self._count_lock = threading.Lock()
        self.reads = 0
        self.writes = 0

    def __repr__(self) -> str:
        return f"Vault({self.address!r})"

    @property
    def address(self) -> str:
        return self._route.preferred

    @property
    def addresses(self) -> tuple[str, ...]:
        """The addresses that were given, in their normal form."""
        return self._route.origins

    @property
    def ca_pem(self) -> str | None:
        """The CA that was given for the server's certificate, as PEM; None where the system's verify it."""
        return self._settings.ca_pem

    @property
    def namespace(self) -> str | None:
        """The namespace that requests name; None for none."""
        return self._settings.namespace

    @property
    def _no_space(self) -> str:
        """The sentence to tell where the server has no such namespace."""
        settings = self._settings
        return f"the namespace {settings.namespace} does not exist at {self.address}; {settings.namespace_hint}"

    @property
    def server_time(self) -> float | None:
        """The server's clock as it last answered, whatever it answered: Unix seconds, rounded down."""
        dated = self._route.dated
        return http_date(dated[0]) if dated else None

    @property
    def clock_offset(self) -> float | None:
        """By how many seconds the server's clock is ahead of ours, as of its last answer; None while nobody knows.

        A Date header leaves the fraction out and an answer takes its time, so two clocks that agree give 0 to -1 and
        a little more.
        """
        dated = self._route.dated
        theirs = http_date(dated[0]) if dated else None
        return None if dated is None or theirs is None else theirs - dated[1]

    def as_token(self, token: str) -> Vault:
        """The same server for another token, over the same connections; it counts its own requests."""
        other = copy.copy(self)
        other._settings = replace(self._settings, token=token)
        other.reads = other.writes = 0
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

    def unwrapped(self, request: Request) -> Answer:
        """The answer to a request that a policy allows only wrapped: it is wrapped for a minute, and unwrapped at once.

        Where nothing is found nothing is wrapped. Raises as `call` does.
        """
        answer = self.call(replace(request, wrap_ttl=_WRAPPED))
        if not answer.found:
            return answer
        wrapped = member(answer.body, "wrap_info")
        # Of a LIST it ends with a slash.
        path = {"creation_path": str(wrapped.get("creation_path")).rstrip("/")}
        check_named(path, "creation_path", request.path, request.path)
        token = wrapped.get("token")
        if not isinstance(token, str) or not token:
            raise BadAnswer(f"the answer to {request} did not come wrapped; is this address really a Vault?")
        # The wrapping token alone, as the client's own: no other token is in the request.
        return self.as_token(token).call(Request("POST", "sys/wrapping/unwrap", {}, once=True))

    def login(self, path: str, body: Mapping[str, Any], *, who: tuple[str, str] | None = None) -> Vault:
        """Logs in at an auth mount's `login` path and gives the same server as the one who logged in.

        Who turns us down may be another Vault, so every address is asked before that is raised, and the one that let
        us in is asked first from then on. The credential in `body` may thus be sent to each address that was given.

        `who` is a field of the login's metadata and its value, by which Vault names the one who logged in; BadAnswer
        where it names another.
        """
        answer = self.write(path, body, login=True)
        metadata = member(member(answer, "auth"), "metadata")
        if who is not None and who[0] in metadata:
            check_named(metadata, *who, path)
        return self.as_token(login_token(answer, path))

    def many(self, requests: Sequence[Request]) -> list[Answer]:
        """The answers in the order of the requests, of which several are under way at once; the first error ends all.

        Each is alone on its connection: what follows another without waiting may be given the other's answer by a
        proxy.
        """
        _check(requests)
        self._count(requests)
        return self.map(self._patiently, requests, width=_width(requests))

    def glance(self, reads: Sequence[Request]) -> list[Answer | None]:
        """What the server says at once to reads of which one may do without; None where it does not, or refuses.

        Once it is found away no more is sent.
        """
        _check(reads)
        away = threading.Event()

        def look(read: Request) -> Answer | None:
            if away.is_set():
                return None
            try:
                return self._follow(self.address, read, time.monotonic() + _GLANCE_SECONDS)
            except Unavailable:
                away.set()
            except VaultError:
                pass
            return None

        answers: list[Answer | None] = self.map(look, reads, width=_width(reads))
        self._count([read for read, answer in zip(reads, answers, strict=True) if answer])
        self._route.met = self._route.met or any(answers)
        return answers

    def map(self, work: Callable[[Any], Any], items: Iterable[Any], *, width: int = CONNECTIONS) -> list[Any]:
        """`work` of each item, in order, with at most `width` threads.

        After an error nothing new begins, and what is waiting for the server waits no longer. `work` may use it again.
        """
        return self._work.map(work, items, width=width)

    def call(self, request: Request) -> Answer:
        """Sends one request and gives its answer (2xx, or 404 for a read).

        Raises Unavailable after `patience` seconds without a usable answer, Sealed at once where every address says
        so, Untrusted, Denied (403), Refused (another 4xx) and BadAnswer. Nothing of a secret is in their words.
        """
        _check([request])
        self._count([request])
        return self._patiently(request)

    def _count(self, requests: Sequence[Request]) -> None:
        reads = sum(request.reads for request in requests)
        with self._count_lock:
            self.reads += reads
            self.writes += len(requests) - reads

    def _patiently(self, request: Request) -> Answer:
        patience = self._patience if self._route.met else min(self._patience, FIRST_CONTACT_SECONDS)
        give_up = time.monotonic() + patience
        attempt = 0
        while True:
            try:
                return self._round(request, give_up)
            except Sealed:
                raise
            except Unavailable as error:
                wait = _pause(attempt, error)
                attempt += 1
                if (request.once and error.sent) or time.monotonic() + wait >= give_up:
                    raise
                if self._work.given_up(wait):
                    raise
            if self._route.pinned:
                self._find_leader_again()

    def pin_to_leader(self, *reads: Request) -> list[Answer | None]:
        """Sends what follows to the cluster's active node: a standby answers reads from a copy some 100 ms old.

        Waits while no leader is known. An address that was not given is used only over TLS, and only where it answers
        as the leader of the same cluster; else the ones given are, and Vault forwards.

        `reads` are sent along with the question; gives their answers, and None for what must be asked anew: who was
        asked is not the leader, or did not answer so at once.
        """
        self._route.pinned = False
        asked = self.address
        answer, *others = self.glance((_LEADER, *reads))
        said = (answer or self.call(_LEADER)).body
        give_up = time.monotonic() + self._patience
        while not self._pin(said, self.address):
            if time.monotonic() >= give_up:
                raise Unavailable(
                    f"the cluster at {self.address} has no leader; look at `bao operator raft list-peers`, "
                    "and try again"
                )
            time.sleep(0.25)
            said = self.call(_LEADER).body
        return others if self.address == asked else [None] * len(reads)

    def hvac(self) -> AbstractContextManager[hvac.Client]:
        """An hvac client on this road, as a context manager: the same limits, addresses, token and errors."""
        from vaultpki.vault.hvac_client import client

        return client(self)

    # The road itself

    def _note_date(self, raw: Raw) -> None:
        if date := raw.headers.get("date"):
            self._route.dated = date, time.time()

    def _round(self, request: Request, give_up: float) -> Answer:
        """One try at each address, the one that answered last first; at the leader only, where we are pinned to it."""
        route = self._route
        preferred = route.preferred
        known = list(dict.fromkeys((preferred, *route.origins)))
        errors: list[VaultError] = []
        for origin in known[:1] if route.pinned else known:
            try:
                answer = self._follow(origin, request, give_up)
            except VaultError as error:
                if _final(request, error):
                    raise
                errors.append(error)
            else:
                route.met = True
                if not route.pinned:
                    route.preferred = origin
                return answer
        raise _telling(errors, len(known))

    def _follow(self, origin: str, request: Request, give_up: float) -> Answer:
        with self._exchange.turns:
            return self._ask(origin, request, give_up)

    def _ask(self, origin: str, request: Request, give_up: float) -> Answer:
        token = self._settings.token
        for _ in range(_REDIRECTS):
            now = time.monotonic()
            deadline = min(now + self._request_seconds, max(give_up, now + 1.0))
            raw = self._exchange.send(origin, request, token, deadline)
            self._note_date(raw)
            if raw.status not in _REDIRECTING:
                return judge(origin, request, raw, token, self._no_space)
            location = raw.headers.get("location") or ""
            try:
                target = parse_origin("/".join(location.split("/", 3)[:3]), allow_http=True)
            except SpecError:
                target = ""
            if target not in self._route.trusted:
                raise Unavailable(
                    f"{origin} sends us on to {quoted(target or location, request, token) or 'nowhere'}, which is none "
                    "of the addresses given; name it in vault.addresses if it is yours"
                )
            origin = target
        raise Unavailable(f"{origin} sends us round in circles; the cluster is choosing a leader, try again")

    def _pin(self, said: Json, origin: str) -> bool:
        """Pins to the leader that `origin` names when asked for sys/leader; False where the cluster has none now."""
        route = self._route
        if not said.get("ha_enabled"):
            return True
        if said.get("is_self") is True:
            route.preferred, route.pinned = origin, True
            return True
        named = said.get("leader_address")
        if not isinstance(named, str) or not named:
            return False
        try:
            leader = parse_origin(named, allow_http=True)
        except SpecError:
            return True
        secure = [leader] if leader.startswith("https:") else []
        for candidate in dict.fromkeys((*secure, *route.origins)):
            try:
                seen = self._leader_as_told_by(candidate)
            except VaultError:
                continue
            if seen.get("is_self") is True and seen.get("leader_cluster_address") == said.get("leader_cluster_address"):
                route.trusted.add(candidate)
                route.preferred, route.pinned = candidate, True
                return True
        # A leader that only a load balancer reaches stays behind it; one that was given to us is coming or going.
        return leader not in route.origins

    def _leader_as_told_by(self, origin: str) -> Json:
        with self._exchange.turns:
            raw = self._exchange.send(origin, _LEADER, "", time.monotonic() + _LEADER_SECONDS)
        return judge(origin, _LEADER, raw, "").body

    def _find_leader_again(self) -> None:
        """Looks round once; a leader found nowhere is looked for again after the next try."""
        asked = dict.fromkeys((self._route.preferred, *self._route.origins))
        sealed = 0
        for origin in asked:
            try:
                said = self._leader_as_told_by(origin)
            except Sealed:
                sealed += 1
                if sealed == len(asked):
                    raise
            except VaultError:
                continue
            else:
                if self._pin(said, origin):
                    return


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


def _check(requests: Iterable[Request]) -> None:
    """Raises BadAnswer where the path of one is none of ours."""
    for request in requests:
        if not _PATH.fullmatch(request.path) or ".." in request.path or "//" in request.path:
            raise BadAnswer(f"{printable(request.path)} is no path that any of ours has; who gave it that name?")


def _width(requests: Sequence[Request]) -> int:
    """On how many connections these are sent."""
    return min(CONNECTIONS, -(-len(requests) // _LEAST))


def _final(request: Request, error: VaultError) -> bool:
    """Whether no other address may be asked after this error of one."""
    if isinstance(error, Unavailable):
        return request.once and error.sent
    if isinstance(error, BadAnswer):
        # What stands before a Vault may have put its own page in place of an answer to what was done.
        return request.once or error.taken
    return not (isinstance(error, Untrusted) or request.login)


def _telling(errors: Sequence[VaultError], known: int) -> VaultError:
    """The one of a round's errors to tell. `known` is how many addresses there are."""
    refused = [error for error in errors if isinstance(error, (Denied, Refused))]
    if refused:
        # 400 is what the Vault that has the mount says to a credential; one without it says 403 to everybody.
        return next((error for error in refused if isinstance(error, Refused) and error.status == 400), refused[0])
    away = [error for error in errors if isinstance(error, Unavailable)]
    if not away:
        return errors[0]
    if isinstance(away[-1], Sealed) and sum(isinstance(error, Sealed) for error in away) < known:
        return Unavailable(str(away[-1]))
    return away[-1]


def _pause(attempt: int, error: Unavailable) -> float:
    grown: float = min(0.02 * 2**attempt, 2.0)
    return max(error.retry_after or 0.0, grown * random.uniform(0.7, 1.3))  # noqa: S311 -- jitter, not a secret
