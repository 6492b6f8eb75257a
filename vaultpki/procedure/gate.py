"""Defines the gate before a step: what it waits for, whom it leaves out, when it opens, and whose turn it is."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime
from typing import Generic, ParamSpec

_Asked = ParamSpec("_Asked")


@dataclass(frozen=True, slots=True)
class GateCheck(Generic[_Asked]):
    """One thing that a gate asks of a node.

    `finds` returns what must happen there, as one sentence without a subject that names the commands for it; "" if
    nothing must. `itself` is whether agents do that without a person; None if they never do.
    """

    finds: Callable[_Asked, str]
    itself: Callable[_Asked, bool] | None = None


@dataclass(frozen=True, slots=True)
class Waiting:
    """A node, or an operator's certificate, and what must happen there, as one sentence without a subject.

    `itself` says that agents do it without a person.
    """

    node: str
    reason: str
    itself: bool = field(default=False, compare=False)


@dataclass(frozen=True, slots=True)
class Gate:
    """What stands before a step.

    `waiting` keeps it closed. `excused` are the nodes that it does not wait for, and why. `opens` is from when on it is
    open if nothing changes; None as long as something is waited for, whatever it was made with. `turn` is the node that
    restarts now, or "". `unversioned` are the components that older versions of Kubernetes would have to restart, by
    the nodes that do not report their versions: nothing waits for those.
    """

    waiting: tuple[Waiting, ...] = ()
    excused: tuple[Waiting, ...] = ()
    opens: datetime | None = None
    turn: str = ""
    unversioned: Mapping[str, tuple[str, ...]] = field(default_factory=dict, compare=False)

    def __post_init__(self) -> None:
        if self.waiting:
            object.__setattr__(self, "opens", None)

    def open(self, now: datetime) -> bool:
        """Return whether the step may be taken at the server's time `now`."""
        return not self.waiting and self.opens is not None and now >= self.opens

    def also(self, more: Iterable[Waiting]) -> Gate:
        """Return the gate with more that it waits for."""
        return replace(self, waiting=(*self.waiting, *more))


def first_found(node: str, checks: Iterable[GateCheck[_Asked]], *asked: _Asked.args, **named: _Asked.kwargs) -> Waiting:
    """Return what the first of the `checks` that finds something says of a node; without a reason if none does."""
    for check in checks:
        if reason := check.finds(*asked, **named):
            return Waiting(node, reason, itself=check.itself is not None and check.itself(*asked, **named))
    return Waiting(node, "")


@dataclass(frozen=True, slots=True)
class InLine:
    """A node of which restarts may be asked, one node at a time.

    `done` is whether its report answers the record, owes nothing and shows everything healthy, and `ready` whether it
    has what a restart is to read. `ailing` is whether a component there is down or not healthy, and `away` whether no
    other node may restart meanwhile. `member` is whether it is a member of etcd.
    """

    name: str
    done: bool
    ready: bool
    ailing: bool
    away: bool = False
    member: bool = False


def whose_turn(turn: str, line: Collection[InLine]) -> str:
    """Return the node that may restart what reads trust only when it starts; "" if none has to.

    The one that has the `turn` keeps it until it is done. While a node is away, only such a one gets it: its restart
    takes nothing away. Those come first where a component is down, then members of etcd.
    """
    if any(each.name == turn and not each.done for each in line):
        return turn
    away = any(each.away for each in line)
    ready = [each for each in line if each.ready and not each.done and (each.away or not away)]
    first = min(ready, key=lambda each: (not each.ailing, not each.member, each.name), default=None)
    return first.name if first is not None else ""
