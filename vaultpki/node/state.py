"""What the agent keeps between passes, in STATE/agent.json: what was signed, what failed, which hooks are owed.

A node that loses it inspects its files as if for the first time, and runs each hook once more. It holds no secret.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import KW_ONLY, asdict, dataclass, field, replace
from datetime import UTC, datetime, timedelta
from typing import Annotated, Any, Final, Literal, get_args

from vaultpki.disk.files import read_private, write_private
from vaultpki.errors import NeedsJoin, StoreError, VaultpkiError
from vaultpki.host.boot_time import Moment
from vaultpki.host.hooks import Owed
from vaultpki.node.backoff import MOST_SIGNINGS
from vaultpki.records.rotation import BEYOND
from vaultpki.values.json_object import LAST_SECOND, from_asdict

STATE_FILE: Final = "agent.json"
AgentHealth = Literal["ok", "backing-off", "needs-join"]

_VERSION: Final = 1
_STATES: Final[Mapping[str, AgentHealth]] = {state: state for state in get_args(AgentHealth)}
# The pause is at its limit long before this.
_UNANSWERED: Final = 20


def _revision(value: Any) -> int:
    """Read a revision; ValueError for what is none, so that no record counts as older for the sake of garbage."""
    if type(value) is not int or not 0 <= value < BEYOND:
        raise ValueError(value)
    return value


def _offset(value: Any) -> float:
    offset = float(value)
    if not abs(offset) <= LAST_SECOND:
        raise ValueError(offset)
    return offset


def _number(value: Any) -> float:
    """Read a time or a number of seconds; ValueError for what can be neither, such as JSON's NaN and Infinity."""
    number = float(value)
    if not 0 <= number <= LAST_SECOND:
        raise ValueError(number)
    return number


_Serial = Annotated[int, int]
_Revision = Annotated[int, _revision]
_BY_TYPE: Final[Mapping[Any, Callable[[Any], Any]]] = {
    float: _number,
    int: lambda value: int(_number(value)),
    bool: lambda value: value is True,
    AgentHealth: _STATES.__getitem__,
}


@dataclass(frozen=True, slots=True)
class IssuedRecord:
    """A certificate that this agent had signed. `signed` is Unix time, `asked` and `granted` are seconds."""

    serial: _Serial
    signed: float
    asked: int
    granted: int


@dataclass(frozen=True, slots=True)
class PostponedRenewal:
    """To when (Unix time) the renewal of the certificate with this serial number was postponed, and how often."""

    serial: _Serial
    until: float
    times: int


@dataclass(frozen=True, slots=True)
class Fault:
    """A failure in one sentence; when it began and was last seen (Unix time), and how often."""

    text: str
    since: float
    last: float
    count: int


@dataclass(frozen=True, slots=True)
class Since:
    """Certificates, as their SHA-256, and since when (Unix time) a file has them.

    `moment` is a moment after the file was installed; None if the state does not say.
    """

    since: float
    sha256: tuple[str, ...]
    moment: Moment | None = field(default=None, kw_only=True)


@dataclass(frozen=True, slots=True)
class ReaderSeen:
    """A component that reads a bundle only when it starts, as the last pass saw it.

    `since` (Unix time) and `moment` are its start, and `sha256` the certificates that the bundle had then; empty if
    nobody knows. `problem` says why it is not healthy, or that no process of it was seen; "" if it is. `stopped` is
    since when (Unix time) it is known not to run; 0 if it runs, or if nobody can know that here.
    """

    since: float = 0.0
    sha256: tuple[str, ...] = ()
    moment: Moment | None = None
    running: bool = False
    problem: str = ""
    stopped: float = field(default=0.0, kw_only=True)


@dataclass(frozen=True, slots=True)
class VersionSeen:
    """The version of Kubernetes that a component had (v1.36.3), of the process that was started at `moment`."""

    version: str
    moment: Moment | None = None


@dataclass(frozen=True, slots=True)
class AgentState:
    """The agent's state. Certificates, faults and hooks by their names; all times are Unix time in seconds.

    `spent` are the times of signings that were wasted or premature; `held` is until when a certificate that is only due
    is not signed. `hooked` are the digests for which hooks last ran. `trust` is the digest of the bundles,
    `trust_since` when they changed to it. `revisions` are the highest revisions of rotation records that were ever
    read, by domain; `vanished` is since when the server does not show a trusted CA any more, by its SHA-256. `bundles`
    are the installed bundles by CA, `leaves` the installed leaves with the chains after them by their names, and
    `readers` what was seen of the components that read a bundle only when they start, by `CA/COMPONENT`. `versions` are
    those of components whose version decides how they read a bundle, where it is known. `reported` is a digest of the
    last report, and `clock_offset` by how many seconds Vault's clock is ahead of this one. `root` is the pin that
    `revisions` belong to. `asked` is when Vault was last asked in vain; when it last answered is told by the copy of
    its answer. `revoked` are the serial numbers of installed certificates that Vault showed as revoked, by their names,
    `exposed` those of certificates whose key others could read, and `unsafe` the paths that others could write to.
    `unanswered` are the times of signings since the last one that was answered, and `postponed` are renewals that came
    late and wait for their turn.
    `hooked_own` are digests as `hooked`, of what the bundles hold of the cluster's own CAs, where they differ from
    those; `by_hand` are the keys of hooks that wait for a person, since only foreign CAs of their bundles have changed.
    `lowest` is, by node, the lowest number of its service-account keys that was accepted here, which only grows, and
    `lowest_root` the pin that these belong to. `token_life` are the flags of the kube-apiserver that runs which decide
    how long tokens live: `extends` (0 or 1) and `longest` in seconds; empty if they are not known. `token_issuer` are
    those that say where tokens are checked: `issuer` and `jwks_uri`, without what is not set. `not_admitted` is a
    sentence that kube-apiserver must not run yet, since the record does not admit its key; "" if it may. `surplus` are
    the pairs that the node's record does not name, by their files: the name of the certificate, and the leaf's SHA-256.
    `left` says in one line how the last pass left each file of the node; nothing in it is made from a private key.
    `next_within` is as in NodeReport.
    """

    certificates: Mapping[str, IssuedRecord] = field(default_factory=dict)
    spent: Mapping[str, tuple[float, ...]] = field(default_factory=dict)
    held: Mapping[str, float] = field(default_factory=dict)
    faults: Mapping[str, Fault] = field(default_factory=dict)
    hooked: Mapping[str, str] = field(default_factory=dict)
    owed: Mapping[str, Owed] = field(default_factory=dict)
    trust: str = ""
    trust_since: float = 0.0
    state: AgentHealth = "ok"
    _: KW_ONLY  # Vaultpki 0.3 leaves out those that are empty.
    revisions: Mapping[str, _Revision] = field(default_factory=dict)
    vanished: Mapping[str, float] = field(default_factory=dict)
    bundles: Mapping[str, Since] = field(default_factory=dict)
    leaves: Mapping[str, Since] = field(default_factory=dict)
    readers: Mapping[str, ReaderSeen] = field(default_factory=dict)
    versions: Mapping[str, VersionSeen] = field(default_factory=dict)
    reported: str = ""
    clock_offset: Annotated[float, _offset] = 0.0
    root: str = ""
    asked: float = 0.0
    revoked: Mapping[str, _Serial] = field(default_factory=dict)
    exposed: Mapping[str, _Serial] = field(default_factory=dict)
    unsafe: tuple[str, ...] = ()
    unanswered: Mapping[str, tuple[float, ...]] = field(default_factory=dict)
    postponed: Mapping[str, PostponedRenewal] = field(default_factory=dict)
    hooked_own: Mapping[str, str] = field(default_factory=dict)
    by_hand: tuple[str, ...] = ()
    lowest: Mapping[str, _Revision] = field(default_factory=dict)
    lowest_root: str = ""
    token_life: Mapping[str, int] = field(default_factory=dict)
    token_issuer: Mapping[str, str] = field(default_factory=dict)
    not_admitted: str = ""
    surplus: Mapping[str, tuple[str, str]] = field(default_factory=dict)
    left: Mapping[str, str] = field(default_factory=dict)
    next_within: int = 0

    def by_vault(self, clock: float) -> datetime:
        """Return a time of this machine's clock by Vault's, as far as that is known."""
        return datetime.fromtimestamp(clock, UTC) + timedelta(seconds=self.clock_offset)


def kubernetes(state: AgentState) -> dict[str, str]:
    """Return the versions of Kubernetes that components of the node have, where they are known."""
    return {component: seen.version for component, seen in state.versions.items()}


def load(state: str) -> AgentState:
    """Read the state in the folder `state`; an empty one if there is none that this version can read."""
    try:
        raw = read_private(f"{state}/{STATE_FILE}")
        value = json.loads(raw or b"{}")
        known = value.get("version") == _VERSION
        return from_asdict(AgentState, value, _BY_TYPE) if known else AgentState()
    except (StoreError, ValueError, KeyError, TypeError, AttributeError, OverflowError, RecursionError):
        return AgentState()


def save(state: str, content: AgentState) -> None:
    """Write it in one step that survives a crash; StoreError if the folder cannot be written."""
    value = {"version": _VERSION, **asdict(content)}
    write_private(f"{state}/{STATE_FILE}", json.dumps(value, sort_keys=True).encode())


def forget_records(state: str, *, keys: bool = False) -> None:
    """Forget the rotation records that were read, since the node joins anew. Raises StoreError.

    With `keys` also the numbers of service-account keys: below another root they begin anew.
    """
    before = load(state)
    content = replace(before, revisions={}, root="", vanished={})
    if keys:
        content = replace(content, lowest={}, lowest_root="")
    if content != before:
        save(state, content)


class StateFile:
    """The agent's state during one pass: `value` is current, `at_start` as read; written only if it changed."""

    def __init__(self, state: str) -> None:
        self._folder = state
        self.value = self.at_start = self._written = load(state)

    def save(self, value: AgentState | None = None) -> AgentState:
        """Write `value`, or the current value, if the disk has another; StoreError if it cannot be written."""
        self.value = self.value if value is None else value
        if self.value != self._written:
            save(self._folder, self.value)
            self._written = self.value
        return self.value


def with_faults(memory: AgentState, failing: Mapping[str, str], now: float) -> AgentState:
    """Return the state after a pass in which exactly `failing` failed: sentences by what failed."""
    faults: dict[str, Fault] = {}
    for what, text in failing.items():
        old = memory.faults.get(what)
        faults[what] = Fault(text, old.since if old else now, now, old.count + 1 if old else 1)
    return replace(memory, faults=faults)


def with_spent(memory: AgentState, names: Mapping[str, float | None]) -> AgentState:
    """Add a signing for each name at the given time, or remove the newest one if the time is None.

    A recorded time later than the new one becomes the new one: with a clock that jumps back and forth no signing is
    forgotten, and none waits until that later time comes again.
    """
    spent = dict(memory.spent)
    for name, when in names.items():
        held = spent.get(name, ())
        held = held[:-1] if when is None else (*sorted(min(t, when) for t in held), when)[-MOST_SIGNINGS:]
        if held:
            spent[name] = held
        else:
            spent.pop(name, None)
    return replace(memory, spent=spent)


def with_unanswered(memory: AgentState, names: Iterable[str], when: float | None) -> AgentState:
    """Return the state after a signing of each name was asked for at `when`; after an answer to each if it is None."""
    unanswered = dict(memory.unanswered)
    for name in names:
        before = unanswered.pop(name, ())
        if when is not None:
            # As in `with_spent`: a clock that was ahead forgets none, and holds none back for long.
            unanswered[name] = (*(min(each, when) for each in before), when)[-_UNANSWERED:]
    return replace(memory, unanswered=unanswered)


def state_of(failures: Collection[VaultpkiError]) -> AgentHealth:
    """Return one word for the agent: ok, backing-off, or needs-join, which waiting does not repair."""
    if any(isinstance(error, NeedsJoin) for error in failures):
        return "needs-join"
    return "backing-off" if failures else "ok"
