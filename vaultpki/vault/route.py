"""Which address a request goes to: retries, redirects between the addresses given, the cluster's leader, standbys."""

from __future__ import annotations

import contextlib
import copy
import random
import time
from collections import deque
from collections.abc import Callable, Sequence
from typing import Final, Generic, TypeVar

from vaultpki.errors import BadAnswer, Denied, Refused, Sealed, SpecError, Unavailable, Untrusted, VaultError
from vaultpki.values.hosts import parse_origin
from vaultpki.vault.answers import HEALTH, Answer, Json, Raw, Request, quoted, read_answer
from vaultpki.vault.long_waits import Awaited, LongWaits
from vaultpki.vault.settings import Settings
from vaultpki.vault.transport import Transport

FIRST_CONTACT_SECONDS: Final = 4.0
"""How long a request is repeated while no address has ever answered."""

_REDIRECTS: Final = 3
_REDIRECTING: Final = frozenset({301, 302, 303, 307, 308})
# A node that does not answer as the leader within this time is none: an election alone takes longer.
_LEADER_SECONDS: Final = 2.0
# The route also asks it by itself, where hvac's client is not.
LEADER: Final = Request("GET", "sys/leader")

Asked = TypeVar("Asked")


class Route:
    """The way to one server or cluster, shared by every token of it.

    `origins` are the addresses given, `preferred` is the one asked first, `pinned` says that no other may be asked,
    `met` that some address has answered before. `standbys` are the addresses of standbys that `prefer_active` found;
    `moved` says that another address than the one that it preferred has answered since. `patience` and
    `request_seconds` are those of Vault; `given_up` waits some seconds, and returns whether the caller's work is no
    longer wanted.
    """

    def __init__(
        self, settings: Settings, patience: float, request_seconds: float, given_up: Callable[[float], bool]
    ) -> None:
        self.origins = tuple(parse_origin(address, allow_http=settings.allow_http) for address in settings.addresses)
        self.preferred = self.origins[0]
        self.pinned = False
        self.met = False
        self.standbys: tuple[str, ...] = ()
        self.moved = False
        self.transport = Transport(settings)
        self._settings = settings
        self._trusted = {*self.origins}
        self._patience, self._request_seconds, self._given_up = patience, request_seconds, given_up
        self._waits = LongWaits()

    def ask(self, request: Request, token: str) -> Answer:
        """Send the request until it has an answer, or patience ends. Raises as `Vault.call`."""
        with self._waits.answer_from(self.preferred) as awaited:
            return self._ask(request, token, awaited)

    def _ask(self, request: Request, token: str, awaited: Awaited) -> Answer:
        patience = self._patience if self.met else min(self._patience, FIRST_CONTACT_SECONDS)
        give_up = time.monotonic() + patience
        attempt = 0
        while True:
            try:
                return self._round(request, token, give_up)
            except Sealed as error:
                raise self._as_health_says(error) from None
            except Unavailable as error:
                wait = _pause(attempt, error)
                attempt += 1
                awaited.line = f"{error}; trying again"
                if (request.once and error.sent) or time.monotonic() + wait >= give_up or self._given_up(wait):
                    raise
            if self.pinned:
                self._find_leader_again()

    def _as_health_says(self, error: Sealed) -> Sealed:
        """Return the error as sys/health tells it: all else calls a server sealed that was never initialised."""
        try:
            with self.transport.turns:
                raw = self.transport.send(error.origin, HEALTH, "", time.monotonic() + _LEADER_SECONDS)
            read_answer(error.origin, HEALTH, raw, "")
        except Sealed as told:
            return told
        except VaultError:
            pass
        return error

    def _ask_once(self, origin: str, request: Request, token: str, give_up: float) -> Answer:
        """Send the request to one address, and on to where it redirects; one try, until about `give_up`."""
        with self.transport.turns:
            for _ in range(_REDIRECTS):
                now = time.monotonic()
                deadline = min(now + self._request_seconds, max(give_up, now + 1.0))
                if request.seconds is not None:
                    deadline = now + request.seconds
                raw = self.transport.send(origin, request, token, deadline)
                if date := raw.headers.get("date"):
                    self.transport.dated = date, time.time()
                if request.unforwarded and raw.status in _REDIRECTING:
                    raise Unavailable(f"{origin} is a standby that does not answer reads by itself", forwards=True)
                if raw.status not in _REDIRECTING:
                    try:
                        return read_answer(origin, request, raw, token, self._no_namespace())
                    except Sealed as error:
                        error.origin = origin
                        raise
                origin = self._redirected(origin, request, raw, token)
        raise Unavailable(f"{origin} redirects in a loop; the cluster is choosing a leader, try again")

    def pin_to_leader(self, said: Json) -> None:
        """Ask only the active node from now on. `said` is what the preferred address answers to sys/leader.

        Raises Unavailable if the cluster has no leader before patience ends.
        """
        give_up = time.monotonic() + self._patience
        with self._waits.answer_from(self.preferred) as awaited:
            awaited.line = f"waiting until the cluster at {self.preferred} has a leader"
            while not self._pin(said, self.preferred):
                if time.monotonic() >= give_up:
                    raise Unavailable(
                        f"the cluster at {self.preferred} has no leader; look at `bao operator raft list-peers` "
                        "or `vault operator raft list-peers`, and try again"
                    )
                time.sleep(0.25)
                said = self.ask(LEADER, "").body

    def prefer_active(self) -> bool:
        """Find the active node and its standbys among the addresses given. As `Vault.prefer_active`."""
        self.moved = False
        # One address may be a load balancer, behind which servers have copies of different age.
        self.transport.never_older = len(self.origins) < 2
        if self.transport.never_older:
            return True
        said: dict[str, Json] = {}
        for origin in self.origins:
            with contextlib.suppress(VaultError):
                said[origin] = self._leader_as_told_by(origin)
        claiming = [origin for origin, each in said.items() if each.get("is_self") is True]
        if not claiming:
            self.standbys = ()
            return False
        # OpenBao 2.7.2: one that was frozen while another was elected may still say so minutes after it goes on.
        active = max(claiming, key=lambda origin: str(said[origin].get("active_time")))
        self.preferred = active
        # One that names another leader, or none, may have an old copy. One that is cut off goes on naming the last.
        cluster = said.pop(active).get("leader_cluster_address")
        self.standbys = tuple(origin for origin, each in said.items() if each.get("leader_cluster_address") == cluster)
        return True

    def only(self, origin: str) -> Route:
        """Return the way to one of the addresses over the same connections; a request is tried once."""
        other = copy.copy(self)
        other.origins, other.preferred, other.standbys = (origin,), origin, ()
        other._patience = 0.0
        return other

    def _no_namespace(self) -> str:
        settings = self._settings
        return f"the namespace {settings.namespace} does not exist at {self.preferred}; {settings.namespace_hint}"

    def _round(self, request: Request, token: str, give_up: float) -> Answer:
        """One try at each address, the one that answered last first; at the leader only, if we are pinned to it."""
        preferred = self.preferred
        known = list(dict.fromkeys((preferred, *self.origins)))
        errors: list[VaultError] = []
        for origin in known[:1] if self.pinned else known:
            try:
                answer = self._ask_once(origin, request, token, give_up)
            except VaultError as error:
                if _final(request, error):
                    raise
                errors.append(error)
            else:
                self.met = True
                if not self.pinned:
                    self.moved |= origin != self.preferred
                    self.preferred = origin
                return answer
        raise _most_telling(errors, len(known))

    def _redirected(self, origin: str, request: Request, raw: Raw, token: str) -> str:
        location = raw.headers.get("location") or ""
        try:
            target = parse_origin("/".join(location.split("/", 3)[:3]), allow_http=True)
        except SpecError:
            target = ""
        if target not in self._trusted:
            raise Unavailable(
                f"{origin} redirects to {quoted(target or location, request, token) or 'nowhere'}, which is none of "
                "the addresses given; name it in vault.addresses if it is yours"
            )
        return target

    def _pin(self, said: Json, origin: str) -> bool:
        """Pin to the leader that `origin` names when asked for sys/leader; False if the cluster has none now."""
        if not said.get("ha_enabled"):
            return True
        if said.get("is_self") is True:
            self.preferred, self.pinned = origin, True
            return True
        named = said.get("leader_address")
        if not isinstance(named, str) or not named:
            return False
        try:
            leader = parse_origin(named, allow_http=True)
        except SpecError:
            return True
        secure = [leader] if leader.startswith("https:") else []
        for candidate in dict.fromkeys((*secure, *self.origins)):
            try:
                seen = self._leader_as_told_by(candidate)
            except VaultError:
                continue
            if seen.get("is_self") is True and seen.get("leader_cluster_address") == said.get("leader_cluster_address"):
                self._trusted.add(candidate)
                self.preferred, self.pinned = candidate, True
                return True
        # A leader that only a load balancer reaches stays behind it; one that was given to us is coming or going.
        return leader not in self.origins

    def _leader_as_told_by(self, origin: str) -> Json:
        """Ask for sys/leader, which needs no token: none is sent."""
        with self.transport.turns:
            raw = self.transport.send(origin, LEADER, "", time.monotonic() + _LEADER_SECONDS)
        return read_answer(origin, LEADER, raw, "").body

    def _find_leader_again(self) -> None:
        """Ask every address once; a leader found nowhere is looked for again after the next try."""
        asked = dict.fromkeys((self.preferred, *self.origins))
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


def _final(request: Request, error: VaultError) -> bool:
    """Return whether no other address may be asked after this error of one."""
    if isinstance(error, Unavailable):
        return request.once and error.sent
    if isinstance(error, BadAnswer):
        # What stands before a Vault may have put its own page in place of an answer to what was done.
        return request.once or error.taken
    return not (isinstance(error, Untrusted) or request.login)


def _most_telling(errors: Sequence[VaultError], known: int) -> VaultError:
    """Return the one of a round's errors to raise. `known` is how many addresses there are."""
    refused = [error for error in errors if isinstance(error, (Denied, Refused))]
    if refused:
        # 400 comes from the Vault that has the mount; one without it says 403 to everybody.
        return next((error for error in refused if isinstance(error, Refused) and error.status == 400), refused[0])
    away = [error for error in errors if isinstance(error, Unavailable)]
    if not away:
        return errors[0]
    sealed = [error for error in away if isinstance(error, Sealed)]
    if sealed and len(sealed) < known:
        # It answers, so it says more than an address that is away. Another may still be unsealed.
        return Unavailable(str(sealed[-1]))
    return away[-1]


def _pause(attempt: int, error: Unavailable) -> float:
    grown: float = min(0.02 * 2**attempt, 2.0)
    return max(error.retry_after or 0.0, grown * random.uniform(0.7, 1.3))  # noqa: S311 -- jitter, not a secret


class StandbyReads(Generic[Asked]):
    """A server that is asked first for everything, and its standbys, each of which is asked in its turn.

    A standby answers from its own copy, which is some 100 ms old, or older while it is cut off. The turns begin at a
    random one, so that clients spread over the standbys. One that is cut off answers from an old copy, and nothing in
    its answer says so: the next turn is another server's, so it hides a change once only.
    """

    def __init__(self, active: Asked, standbys: Sequence[Asked], find: Callable[[], bool]) -> None:
        """`find` makes `active` ask the node that is active now, and returns whether there is one that says so."""
        self._active = active
        self._standbys = list(standbys)
        self._find = find
        self._turns = self._in_turn(random.randrange(len(standbys)) if standbys else 0)  # noqa: S311 -- not a secret
        self._forwarded = False

    @property
    def standbys(self) -> tuple[Asked, ...]:
        """The standbys that are still asked."""
        return tuple(self._standbys)

    def agree(self, asks: Callable[[Asked], bool]) -> bool:
        """Return whether `asks` is true of one standby, or else of the active node.

        A standby that fails is left for the next one, and so is one that says no where the active node says yes; they
        are not asked again. Raises what `asks` raises of the active node.
        """
        behind = None
        while self._standbys and behind is None:
            server = self._turns[0]
            self._turns.rotate(-1)
            if server is self._active:
                break
            try:
                if asks(server):
                    return True
                behind = server
            except VaultError as error:
                self._leave(server)
                if isinstance(error, Unavailable) and error.forwards:
                    # So do the others, and no answer comes from an old copy.
                    self._standbys, self._forwarded = [], True
        # The one that was active before may be cut off, and answer from its own old copy.
        found = self._forwarded or self._find()
        if behind is not None and not found:
            return False
        agreed = asks(self._active)
        if agreed and behind is not None:
            self._leave(behind)
        return agreed

    def _leave(self, server: Asked) -> None:
        # In the order of the turns, so that the next one is not asked twice.
        self._standbys = [each for each in self._turns if each is not server and each is not self._active]
        self._turns = self._in_turn(0)

    def _in_turn(self, first: int) -> deque[Asked]:
        """Return whose turns are next. A standby that is the only one takes turns with the active node."""
        turns = deque(self._standbys if len(self._standbys) != 1 else [*self._standbys, self._active])
        turns.rotate(-first)
        return turns
