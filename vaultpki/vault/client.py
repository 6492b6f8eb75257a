"""A Vault or OpenBao server, or a cluster of them, asked in a way that is bounded under any server, honest or not."""

from __future__ import annotations

import copy
import re
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import replace
from typing import Any, Final

from vaultpki.errors import ArgumentError, BadAnswer, Denied, Refused, VaultError
from vaultpki.redact import printable
from vaultpki.vault.answers import (
    HEALTH,
    Answer,
    Capabilities,
    Json,
    Request,
    check_named,
    http_date,
    login_entity,
    login_token,
    member,
    own_program,
    wrapping_token,
)
from vaultpki.vault.route import LEADER, Route, StandbyReads
from vaultpki.vault.settings import Settings
from vaultpki.vault.token_owner import TokenOwner, token_owner
from vaultpki.vault.transport import CONNECTIONS
from vaultpki.vault.work import Work

REQUEST_SECONDS: Final = 10.0
PATIENCE_SECONDS: Final = 45.0
# A standby that takes longer is left for another server, which answers within some milliseconds.
_STANDBY_SECONDS: Final = 2.0
# As many go over one connection, since a node asks for little and a thousand nodes would else make eight thousand TLS
# handshakes; more are a person's command, which is faster on all connections (benchmarks/RESULTS.md).
_FEW: Final = 6
# Items of one `map`; fewer are done in a second.
_MANY: Final = 200
# No longer than policies/node.json and pool.json let a node wrap what it mints.
_WRAPPED: Final = "60s"

_PATH = re.compile(r"[A-Za-z0-9_.:+/-]+(\?[A-Za-z0-9_=&.-]+)?")


class _Count:
    """How many requests a token has sent: reads, and writes, which change something."""

    def __init__(self) -> None:
        self.reads = self.writes = 0
        self._lock = threading.Lock()

    def add(self, requests: Sequence[Request]) -> None:
        reads = sum(request.changes_nothing for request in requests)
        with self._lock:
            self.reads += reads
            self.writes += len(requests) - reads


class _Pieces:
    """Counts the items of long lists, from any thread; tells `step` after each how many there are in all."""

    def __init__(self, step: Callable[[int], None]) -> None:
        self._step = step
        self._total = 0

    def counted(self, work: Callable[[Any], Any], count: int) -> Callable[[Any], Any]:
        """Return work that is counted, for a list of this many items."""
        self._total += count

        def one(item: Any) -> Any:
            found = work(item)
            self._step(self._total)
            return found

        return one


class Vault:
    """A server, or a cluster of them, and one token.

    `api` is hvac's client, as in `vault.api.secrets.pki.read_role(name, mount_point=mount)`. `patience` is how
    long, in seconds, a request goes on trying while the server is away; `request_seconds` bounds each try from
    connecting to the last byte. `sent` counts the token's requests. `entity` is the id of the identity entity that its
    login named, empty if it named none. Safe to use from several threads.
    """

    def __init__(
        self, settings: Settings, *, patience: float = PATIENCE_SECONDS, request_seconds: float = REQUEST_SECONDS
    ) -> None:
        if not settings.addresses:
            raise ArgumentError("no Vault address is known; set VAULT_ADDR, or vault.addresses in cluster.yaml")
        self.settings = settings
        self._work = Work()
        self._route = Route(settings, patience, request_seconds, self._work.given_up)
        self.sent = _Count()
        self._options: dict[str, Any] = {}
        self._pieces: _Pieces | None = None
        # Empty until the server was asked; shared by all that send with this token.
        self._owners: list[TokenOwner | None] = []
        # As the owners, and of the server.
        self._programs: list[str] = []
        self.entity = ""

    def __repr__(self) -> str:
        return f"Vault({self.address!r})"

    @property
    def address(self) -> str:
        """The address that is asked first."""
        return self._route.preferred

    @property
    def addresses(self) -> tuple[str, ...]:
        """The addresses that were given, in their normal form."""
        return self._route.origins

    @property
    def clock_offset(self) -> float | None:
        """By how many seconds the server's clock is ahead of ours, as of its last answer; None while unknown.

        A Date header leaves the fraction out and an answer takes its time, so two clocks that agree give 0 to -1 and
        a little more.
        """
        dated = self._route.transport.dated
        theirs = http_date(dated[0]) if dated else None
        return None if dated is None or theirs is None else theirs - dated[1]

    def as_token(self, token: str) -> Vault:
        """Return the same server for another token, over the same connections; it counts its own requests."""
        other = copy.copy(self)
        other.settings = replace(self.settings, token=token)
        other.sent = _Count()
        other._owners = []
        other.entity = ""
        return other

    def sending(self, **options: Any) -> Vault:
        """Return the same server and token, whose requests have these options of Request."""
        other = copy.copy(self)
        other._options = {**self._options, **options}
        return other

    def counting(self, step: Callable[[int], None]) -> Vault:
        """Return the same server and token, whose `map` calls `step` after each item of a long list.

        `step` is told how many items there are in all, which may grow, and is called from any thread.
        """
        other = copy.copy(self)
        other._pieces = _Pieces(step)
        return other

    def owner(self) -> TokenOwner | None:
        """Return whose token it is, None if it may not look at itself; asks the server once."""
        if not self._owners:
            found = None
            # https://developer.hashicorp.com/vault/api-docs/auth/token#lookup-a-token-self
            with suppress(Denied, Refused, BadAnswer):
                found = token_owner(self.api.auth.token.lookup_self().data, self.settings.token)
            self._owners.append(found)
        return self._owners[0]

    def program(self) -> str:
        """Return the name of the server's own command line, asks the server once; raises nothing."""
        if not self._programs:
            with suppress(VaultError):
                self._programs.append(Capabilities.of(self.call(HEALTH)).program)
        # Messages have it: what they report must not be lost.
        return self._programs[0] if self._programs else own_program(openbao=True)

    # Calls

    @property
    def api(self) -> Any:
        """hvac's client, whose methods send their Request as `call` does and return the Answer."""
        from vaultpki.vault.adapter import Api, client

        return Api(client(), lambda request: self.call(replace(request, **self._options)))

    @property
    def prepare(self) -> Any:
        """hvac's client, whose methods send nothing and return their Request, for `many`, `unwrapped` and `login`.

        A method that logs in takes `use_token=False`.
        """
        from vaultpki.vault.adapter import Api, client

        return Api(client(), lambda request: request)

    def stored(self, store: str, path: str) -> Json:
        """Return what a KV v2 store holds at a path, its `data` and `metadata`; empty if there is nothing."""
        answer = self.api.secrets.kv.v2.read_secret(path, mount_point=store, raise_on_deleted_version=False)
        # A deleted version is a 404 that has `metadata`.
        found: Json = answer.data if answer.found else {}
        return found

    def write(self, path: str, body: Mapping[str, Any], **options: Any) -> Json:
        """POST, and return the whole answer's body. `options` are those of Request."""
        return self.call(Request("POST", path, body, **options)).body

    def unwrapped(self, request: Request) -> Answer:
        """Return the answer to a request that a policy allows only wrapped: wrap it, and unwrap it at once.

        Where nothing is found nothing is wrapped. Raises as `call` does.
        """
        answer = self.call(replace(request, wrap_ttl=_WRAPPED))
        if not answer.found:
            return answer
        token = wrapping_token(answer, request.path)
        # The wrapping token alone, as the client's own: no other token is in the request.
        unwrapped: Answer = self.as_token(token).sending(once=True).api.sys.unwrap()
        return unwrapped

    def login(self, request: Request, *, who: tuple[str, str] | None = None) -> Vault:
        """Log in by a request to an auth mount, and return the same server with the token that it gave.

        A refusal may come from another Vault, so every address is asked before it is raised, and the one that accepts
        is asked first from then on. The credential in the request may thus be sent to each address that was given.

        `who` is a field of the login's metadata and its value, by which Vault names the one who logged in; BadAnswer
        where it names another.
        """
        answer = self.call(replace(request, login=True)).body
        metadata = member(member(answer, "auth"), "metadata")
        if who is not None and who[0] in metadata:
            check_named(metadata, *who, request.path)
        other = self.as_token(login_token(answer, request.path))
        other.entity = login_entity(answer)
        return other

    def many(self, requests: Sequence[Request]) -> list[Answer]:
        """Return the answers in the order of the requests, several of which are under way at once.

        The first error ends all. Each request is alone on its connection: a proxy may give one that follows another
        without waiting the other's answer.
        """
        _check(requests)
        self.sent.add(requests)
        return self.map(self._ask, requests, width=1 if len(requests) <= _FEW else CONNECTIONS)

    def map(self, work: Callable[[Any], Any], items: Iterable[Any], *, width: int = CONNECTIONS) -> list[Any]:
        """Return `work` of each item, in order, with at most `width` threads; `work` may call this again.

        After an error nothing new begins, and what waits for the server stops waiting.
        """
        items = list(items)
        if self._pieces is not None and len(items) >= _MANY:
            work = self._pieces.counted(work, len(items))
        return self._work.map(work, items, width=width)

    def call(self, request: Request) -> Answer:
        """Send one request and return its answer (2xx, or 404 for a read).

        Raises Unavailable after `patience` seconds without a usable answer, Sealed at once if every address says
        so, Untrusted, Denied (403), Refused (another 4xx) and BadAnswer. Their words hold no secret.
        """
        _check([request])
        self.sent.add([request])
        return self._ask(request)

    def _ask(self, request: Request) -> Answer:
        return self._route.ask(request, self.settings.token)

    def pin_to_leader(self) -> None:
        """Send what follows to the cluster's active node: a standby answers reads from a copy some 100 ms old.

        Waits while no leader is known. An address that was not given is used only over TLS, and only if it answers as
        the leader of the same cluster; else the ones given are, and Vault forwards.
        """
        self._route.pinned = False
        self._route.pin_to_leader(self.call(LEADER).body)

    def prefer_active(self) -> bool:
        """Ask the cluster's active node first from now on; the others at once if it fails, as they forward.

        Asks each address once for sys/leader, without the token, and returns False if none of several says that it is
        active. If only one address was given, which may be a load balancer, nothing is asked; from then on no server
        of OpenBao answers from an older copy than the one before. Raises nothing.
        """
        return self._route.prefer_active()

    @property
    def moved(self) -> bool:
        """Whether another address has answered since `prefer_active`, so that one answer may be older than another."""
        return self._route.moved

    def standby_reads(self, *, ask: bool = True) -> StandbyReads[Vault]:
        """Return this server and its standbys, as of `prefer_active`, to ask for what a standby may answer.

        Unless `ask`, no standby is asked. A load balancer may send to any of them from now on.
        """
        self._route.transport.never_older = False
        standbys = [self._at(origin) for origin in self._route.standbys] if ask else []
        return StandbyReads(self, standbys, self.prefer_active)

    def _at(self, origin: str) -> Vault:
        """Return the same token at one standby, which is asked once and must answer from its own copy."""
        other = self.sending(unforwarded=True, seconds=_STANDBY_SECONDS)
        other._route = self._route.only(origin)
        return other


@contextmanager
def explained(vault: Vault, needs: str = "") -> Iterator[None]:
    """Turn a refusal for want of rights into words that tell an expired token from one that is too weak.

    `needs` is a sentence on the rights that the work needs, for a token that is too weak.
    """
    try:
        yield
    except Denied as error:
        if not vault.settings.token:
            raise Denied(
                "there is no Vault token; set VAULT_TOKEN, or log in with `bao login` or `vault login`"
            ) from None
        if not error.weak:
            try:
                vault.api.auth.token.lookup_self()
            except Denied as other:
                # Without the policy `default` a token may not look at itself.
                if not other.weak:
                    raise Denied(
                        f"the Vault token is not valid or has expired ({error}); log in again with `bao login` or "
                        "`vault login`, or set VAULT_TOKEN"
                    ) from None
            except VaultError:
                raise error from None
        more = f"; {needs}" if needs and "`vaultpki policy " not in str(error) else ""
        raise Denied(f"the Vault token is too weak: {error}{more}", weak=True) from None


def _check(requests: Iterable[Request]) -> None:
    """Raise BadAnswer if the path of one is none of ours."""
    for request in requests:
        if not _PATH.fullmatch(request.path) or ".." in request.path or "//" in request.path:
            raise BadAnswer(
                f"{printable(request.path)} is not a path of vaultpki; check the names in the file that you passed"
            )
