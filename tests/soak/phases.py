"""The phases of a soak with rotations: what happened in each, what of that is wrong, and the table of them all."""

from __future__ import annotations

import os
import platform
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from helpers.kube.client_load import Failure
from soak.printed import brief

SHOWN = 5
"""How many of the same kind are printed."""

_TOGETHER = 10.0
"""Failures that are no further apart than these seconds are of one outage: clients that are refused ask again."""


@dataclass(frozen=True, slots=True)
class Control:
    """What a phase shows that is a control run: the rule of the model that is switched off, and the model's words.

    `held` is what happened with the rule, and `seen` what did without it.
    """

    rule: str
    model: str
    held: str = ""
    seen: str = ""


@dataclass(frozen=True, slots=True)
class Phase:
    """One phase: its length, the requests of all clients, and what went wrong.

    `unauthorized` are the requests that API servers answered with 401, by their audit logs, and `complaints` the lines
    of components about TLS. An outage of `most_outage` seconds is allowed. Where the only API server of a cluster is
    restarted it may be away for `most_away` seconds at a time. `broken` says why the phase did not end. A control run
    has no more than that, and its `control`.
    """

    server: str
    name: str
    seconds: float
    requests: int
    failures: tuple[Failure, ...] = ()
    unauthorized: tuple[str, ...] = ()
    complaints: tuple[str, ...] = ()
    most_outage: float = 0.0
    broken: str = ""
    most_away: float = 0.0
    control: Control | None = None

    @classmethod
    def of_watch(cls, server: str, who: str, missed: Sequence[int]) -> Phase:
        """The end of a run in which a watch did not see all that was written."""
        return cls(
            server, f"watch as {who}", 0.0, 0, broken=f"it did not see {len(missed)} of the writes: {missed[:5]}"
        )

    @classmethod
    def of_listeners(cls, server: str, domain: str, letting_in: Sequence[str]) -> Phase:
        """The end of a rotation after which listeners go on letting a leaf of the old CA in."""
        return cls(server, f"a leaf of the old {domain}", 0.0, 0, broken=f"let in by {', '.join(letting_in)}")

    @classmethod
    def of_members(cls, server: str, name: str, most: int, seconds: float) -> Phase:
        """The end of a phase in which members of etcd were down together."""
        said = f"{most} members of etcd were down at once, two or more for {seconds:.0f} s"
        return cls(server, f"etcd while {name}", 0.0, 0, broken=said)

    @property
    def of_tls(self) -> list[Failure]:
        return [each for each in self.failures if each.of_tls]

    @property
    def others(self) -> int:
        """Failures for other reasons, such as a connection that a restart has ended."""
        return len(self.failures) - len(self.of_tls)

    @property
    def outage(self) -> float:
        """The seconds from the first to the last failure for a reason of TLS."""
        when = [each.at for each in self.of_tls]
        return max(when) - min(when) if when else 0.0

    @property
    def away(self) -> float:
        """The longest time (seconds) for which requests went on failing for other reasons than TLS."""
        longest, begin, last = 0.0, 0.0, float("-inf")
        for at in sorted(each.at for each in self.failures if not each.of_tls):
            begin = begin if at - last <= _TOGETHER else at
            last = at
            longest = max(longest, last - begin)
        return longest

    def wrong(self) -> Iterator[str]:
        """Yield a sentence for each thing that must not be."""
        if self.broken:
            yield brief(self.broken)
        if self.most_outage:
            if self.outage > self.most_outage:
                yield f"the outage took {self.outage:.0f} s, and {self.most_outage:.0f} s is the bound"
            return
        for what, found in (
            ("failed for a reason of TLS", [f"{each.client}: {each.text}" for each in self.of_tls]),
            ("answered with 401", self.unauthorized),
            ("components complain of TLS", self.complaints),
        ):
            if found:
                yield f"{len(found)} {what}, such as {brief('; '.join(found[:SHOWN]))}"
        if self.most_away:
            if self.away > self.most_away:
                yield f"the API server was away for {self.away:.0f} s, and {self.most_away:.0f} s is the bound"
        elif self.others > self.requests / 100:
            texts = [f"{each.client}: {each.text}" for each in self.failures if not each.of_tls]
            such = brief("; ".join(texts[:SHOWN]))
            yield f"{self.others} of {self.requests} requests failed for other reasons, such as {such}"


def report(phases: Sequence[Phase]) -> int:
    """Print the table, and what was wrong; return the exit code."""
    print_head()
    heads = ["server", "phase", "took", "requests", "failed for TLS", "401", "complaints", "failed otherwise", "outage"]
    restarts = any(one.most_away for one in phases)
    heads += ["away at most"] if restarts else []
    rows = []
    for one in (each for each in phases if each.control is None):
        cells = [one.server, one.name, f"{one.seconds:.0f} s", one.requests, len(one.of_tls), len(one.unauthorized)]
        cells += [len(one.complaints), one.others, f"{one.outage:.1f} s"]
        cells += [f"{one.away:.0f} s"] if restarts else []
        rows.append(cells)
    print_table(heads, rows)
    print_controls([(one.server, one.control) for one in phases if one.control is not None])
    return told_wrong([f"{one.server}, {one.name}: {sentence}" for one in phases for sentence in one.wrong()])


def print_head() -> None:
    print(f"\n{platform.python_implementation()} {platform.python_version()}, {os.cpu_count()} cores.\n")


def print_table(heads: Sequence[str], rows: Sequence[Sequence[object]]) -> None:
    """Print a table in Markdown; nothing without rows."""
    for cells in (heads, ["---"] * len(heads), *rows) if rows else ():
        print(f"| {' | '.join(str(cell).replace('|', '/') for cell in cells)} |")


def print_controls(found: Sequence[tuple[str, Control]]) -> None:
    """Print the control runs, each with its server."""
    print()
    print_table(
        ("server", "rule that is switched off", "the model without it", "with it", "without it"),
        [(server, one.rule, one.model, one.held, brief(one.seen)) for server, one in found],
    )


def told_wrong(wrong: Sequence[str]) -> int:
    """Print what was wrong; return the exit code."""
    print("\n" + ("\n".join(wrong) or "nothing was wrong"), flush=True)
    return 1 if wrong else 0
