"""What the agent remembers between passes, in STATE/agent.json: what was signed, what went wrong, what is owed.

Nothing in it is needed to be right: a node whose memory is lost looks at its files as if for the first time, and runs
each hook once more. It holds no secret.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping
from dataclasses import field, fields, replace
from typing import TYPE_CHECKING, Any, Final, Literal, get_args

from vaultpki.brakes import MOST_REMEMBERED
from vaultpki.errors import NeedsJoin, StoreError, VaultpkiError
from vaultpki.files import read_private, write_private
from vaultpki.values import dataclass

if TYPE_CHECKING:
    from vaultpki.hooks import Owed

FILE: Final = "agent.json"
State = Literal["ok", "backing-off", "needs-join"]

_VERSION: Final = 1
_STATES: Final[Mapping[str, State]] = {state: state for state in get_args(State)}
# The last second of the year 9999: nothing beyond is a time to `datetime`.
_LAST: Final = 253402300799


@dataclass(frozen=True, slots=True)
class Known:
    """A certificate as this agent had it signed. `signed` is Unix time, `asked` and `granted` are seconds."""

    serial: int
    signed: float
    asked: int
    granted: int


@dataclass(frozen=True, slots=True)
class Fault:
    """Something that goes wrong, in one sentence; when it began and was last seen (Unix time), and how often."""

    text: str
    since: float
    last: float
    count: int


@dataclass(frozen=True, slots=True)
class Memory:
    """The agent's memory. Certificates, faults and hooks by their names; all times are Unix time in seconds.

    `spent` are the moments of signings that brought nothing, or came before any were due; `held` is until when none is
    asked for where a certificate is only due. `hooked` are the digests for which hooks last ran. `trust` is the digest
    of the bundles, `trust_since` when they became so. `quiet` is the digest of all that a pass looked at when it found
    nothing left to do, `quiet_until` when something will be due, and `quiet_dies` when the first certificate ends;
    `quiet_directory` and `quiet_poll` are what agent.yaml said then.
    """

    certificates: Mapping[str, Known] = field(default_factory=dict)
    spent: Mapping[str, tuple[float, ...]] = field(default_factory=dict)
    held: Mapping[str, float] = field(default_factory=dict)
    faults: Mapping[str, Fault] = field(default_factory=dict)
    hooked: Mapping[str, str] = field(default_factory=dict)
    owed: Mapping[str, Owed] = field(default_factory=dict)
    trust: str = ""
    trust_since: float = 0.0
    state: State = "ok"
    quiet: str = ""
    quiet_since: float = 0.0
    quiet_until: float = 0.0
    quiet_dies: float = 0.0
    quiet_directory: str = ""
    quiet_poll: float = 0.0


def load(state: str) -> Memory:
    """The memory in the folder `state`; an empty one where there is none, or none that this version understands."""
    try:
        raw = read_private(f"{state}/{FILE}")
        value = json.loads(raw or b"{}")
        return _read(value) if value.get("version") == _VERSION else Memory()
    except (StoreError, ValueError, KeyError, TypeError, AttributeError, OverflowError, RecursionError):
        return Memory()


def save(state: str, memory: Memory) -> None:
    """Writes it in one step that lasts; StoreError where the folder cannot be written."""
    value = {"version": _VERSION, **_members(memory)}
    write_private(f"{state}/{FILE}", json.dumps(value, sort_keys=True, default=_members).encode())


def _members(value: Any) -> dict[str, Any]:
    # Not asdict, which copies every number of every list before anybody looks at it.
    return {each.name: getattr(value, each.name) for each in fields(value)}


def with_faults(memory: Memory, failing: Mapping[str, str], now: float) -> Memory:
    """The memory after a pass in which just `failing` went wrong: sentences by what failed."""
    faults: dict[str, Fault] = {}
    for what, text in failing.items():
        old = memory.faults.get(what)
        faults[what] = Fault(text, old.since if old else now, now, old.count + 1 if old else 1)
    return replace(memory, faults=faults)


def with_spent(memory: Memory, names: Mapping[str, float | None]) -> Memory:
    """Adds a signing for each name at the time given, and takes the newest one away where that is None.

    One that is remembered for a later time is put down for this one, since it was no later: a clock that jumps to and
    fro makes no signing forgotten, and holds none up until it comes to such a time again.
    """
    spent = dict(memory.spent)
    for name, when in names.items():
        held = spent.get(name, ())
        held = held[:-1] if when is None else (*sorted(min(t, when) for t in held), when)[-MOST_REMEMBERED:]
        if held:
            spent[name] = held
        else:
            spent.pop(name, None)
    return replace(memory, spent=spent)


def state_of(failures: Collection[VaultpkiError]) -> State:
    """One word for the agent: ok, backing-off, or needs-join, which no patience heals."""
    if any(isinstance(error, NeedsJoin) for error in failures):
        return "needs-join"
    return "backing-off" if failures else "ok"


def _read(value: Mapping[str, Any]) -> Memory:
    return Memory(
        certificates={
            str(name): Known(
                int(k["serial"]), _number(k["signed"]), int(_number(k["asked"])), int(_number(k["granted"]))
            )
            for name, k in value["certificates"].items()
        },
        spent={str(name): tuple(_number(when) for when in times) for name, times in value["spent"].items()},
        held={str(name): _number(until) for name, until in value["held"].items()},
        faults={
            str(what): Fault(str(f["text"]), _number(f["since"]), _number(f["last"]), int(_number(f["count"])))
            for what, f in value["faults"].items()
        },
        hooked={str(name): str(digest) for name, digest in value["hooked"].items()},
        owed=_owed(value["owed"]),
        trust=str(value["trust"]),
        trust_since=_number(value["trust_since"]),
        state=_STATES[str(value["state"])],
        quiet=str(value["quiet"]),
        quiet_since=_number(value["quiet_since"]),
        quiet_until=_number(value["quiet_until"]),
        quiet_dies=_number(value["quiet_dies"]),
        quiet_directory=str(value["quiet_directory"]),
        quiet_poll=_number(value["quiet_poll"]),
    )


def _owed(value: Mapping[str, Any]) -> dict[str, Owed]:
    if not value:
        return {}
    from vaultpki.hooks import Owed

    return {
        str(name): Owed(_number(o["since"]), int(_number(o["attempts"])), _number(o["not_before"]), str(o["error"]))
        for name, o in value.items()
    }


def _number(value: Any) -> float:
    """A time or a number of seconds; ValueError for what neither can be, such as JSON's NaN and Infinity."""
    number = float(value)
    if not 0 <= number <= _LAST:
        raise ValueError(number)
    return number
