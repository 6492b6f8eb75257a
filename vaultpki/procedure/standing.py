"""Tells people and programs where something stands that is replaced in steps: a CA, keys, an adoption; pure."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from datetime import datetime
from typing import Final, TypeVar

from vaultpki.places import file_option
from vaultpki.procedure.gate import Gate, Waiting
from vaultpki.redact import first_few, printable, stamp
from vaultpki.values.durations import format_duration

_S = TypeVar("_S")

MOST_LINES: Final = 20
"""How many lines on nodes that wait are shown; JSON has all nodes."""

MANY: Final = 3
"""From how many nodes on what all of them must do is told in one line."""

_TIME: Final = re.compile(r"\d{4}-\d\d-\d\dT[\d:.]+Z")


_WHOLE: Final = "vaultpki ca status --json"


def gate_lines(gate: Gate, now: datetime, whole: str = _WHOLE) -> Iterator[str]:
    """Yield what a step waits for, and who is left out; the command `whole` lists all of them."""
    yield from listed("It waits for:", gate.waiting, whole)
    if gate.opens is not None and gate.opens > now:
        seconds = max(int((gate.opens - now).total_seconds()), 1)
        yield f"Every node is ready; it waits {format_duration(seconds)} more, until {stamp(gate.opens)}."
    yield from listed("It does not wait for:", gate.excused, whole)


def progress_line(head: str, gate: Gate | None, now: datetime, also: Iterable[Waiting] = ()) -> str:
    """Return one line about a wait: how many are missing, and the first of them with its reason.

    `head` is the beginning, which says where the procedure stands. `also` is waited for beside what the gate waits for.
    """
    waiting = [*(gate.waiting if gate is not None else ()), *also]
    if waiting:
        more = f" (and {len(waiting) - 1} more)" if len(waiting) > 1 else ""
        return printable(f"{head}, waits for {waiting[0].node}{more}: {waiting[0].reason}")
    if gate is not None and gate.opens is not None and gate.opens > now:
        return f"{head}, every node is ready, waits until {stamp(gate.opens)}"
    return head


def ways(
    gate: Gate | None, now: datetime, file: str, onward: _S | None, home: _S | None, does: Callable[[_S], str]
) -> Iterator[str]:
    """Yield the command that leads to the state `onward`, and the one that leads `home`; None is no state.

    `does` returns what the step to a state does, as the rest of a sentence.
    """
    if onward is not None:
        when = "" if gate is None or gate.open(now) else "once nothing is waited for, "
        yield f"Next: {when}`vaultpki ca continue{file_option(file)}` {does(onward)}."
    if home is not None and home is not onward:
        yield f"Back: `vaultpki ca abort{file_option(file)}` {does(home)}."


def listed(title: str, entries: Sequence[Waiting], whole: str = _WHOLE) -> Iterator[str]:
    """Yield a title, and below it the nodes with their sentences; nothing if there are none."""
    if not entries:
        return
    yield title
    found = alike(entries)
    shown = [(first_few(names, MANY), reason) for reason, names in found[:MOST_LINES]]
    width = min(max(len(who) for who, _ in shown), 30)
    for who, reason in shown:
        yield printable(f"  {who.ljust(width)}  {reason}")
    if left := sum(len(names) for _, names in found[MOST_LINES:]):
        yield f"  and {left} more; `{whole}` lists them"


def alike(entries: Iterable[Waiting], many: int = MANY) -> list[tuple[str, list[str]]]:
    """Return each sentence with the nodes that it is about: `many` or more that have the same, or one.

    Of several nodes it says NODE for the name of each, and the first of their times.
    """
    found: dict[str, list[Waiting]] = {}
    for each in entries:
        found.setdefault(_TIME.sub("", for_any(each.reason, each.node)), []).append(each)
    said: list[tuple[str, list[str]]] = []
    for some in found.values():
        if len(some) < many:
            said += [(each.reason, [each.node]) for each in some]
        else:
            said.append((min(for_any(each.reason, each.node) for each in some), [each.node for each in some]))
    return said


def for_any(text: str, node: str) -> str:
    """Return what is said of one node, or its command, as that of any."""
    return re.sub(rf"(?<![\w.-]){re.escape(node)}(?![\w-])", "NODE", text)


def waiting_json(entries: tuple[Waiting, ...]) -> list[dict[str, str]]:
    """Return what is waited for, for programs."""
    return [{"node": each.node, "reason": printable(each.reason)} for each in entries]


def waits_for(said: str, waiting: Sequence[Waiting]) -> tuple[Waiting, str]:
    """Return what a person must do first, or if agents do all of it the first of that, and a text on the wait.

    `said` is the beginning of the text, which says where the procedure stands.
    """
    first = next((each for each in waiting if not each.itself), waiting[0])
    return first, printable(f"{said}, waits for {first.node}{and_more(waiting)}: {first.reason}")


def and_more(waiting: Sequence[Waiting]) -> str:
    """Return how many are waited for beside the one that is named."""
    return f" and {len(waiting) - 1:,} more" if len(waiting) > 1 else ""
