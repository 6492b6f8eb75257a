"""One finding: what was found, how heavy it is, and the one command that comes next.

Every view takes its findings from this room, so that none says that all is well while another does not.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, Final

from vaultpki.findings.catalogue import KINDS, FindingKind, NodeState, Severity, Where
from vaultpki.pki.ca_life import CaExpiry, Level
from vaultpki.places import file_option
from vaultpki.redact import first_few, printable

STILL: Final = timedelta(days=1)
"""A step that agents take by themselves needs a person if it is not taken for longer. Longer than any `poll`."""

_SEVERITIES: Final[Mapping[Level, Severity]] = {
    Level.NOTICE: Severity.INFO,
    Level.WARNING: Severity.WARNING,
    Level.CRITICAL: Severity.CRITICAL,
    Level.EXPIRED: Severity.CRITICAL,
}
_ON_NODES: Final = (
    "systemctl ",
    *(
        f"vaultpki {each}"
        for each in ("adopt node", "agent", "doctor", "join", "renew", "signer", "status", "template")
    ),
)
_WITHOUT_FILE: Final = ("bao ", "vault ", "vaultpki adopt inventory", *_ON_NODES)
_COMMAND: Final = re.compile(r"`((?:vaultpki|vault|bao) [^`]+)`")


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that was found: its kind, a few words for people, and the one command that comes next.

    `state` is the state that it gives a node; `severity` is the kind's unless the end of a CA says how urgent it is.
    """

    kind: FindingKind
    text: str
    command: str
    state: NodeState
    severity: Severity

    @property
    def name(self) -> str:
        """Its name for programs."""
        return self.kind.name

    @property
    def attention(self) -> bool:
        """Whether a person must act."""
        return self.severity.attention

    @property
    def where(self) -> Where:
        """Who runs the command: a person on the node, or an operator."""
        return "node" if self.command.startswith(_ON_NODES) else "operator"

    def advice(self, node: str = "") -> str:
        """Return the text with the command, as one sentence without a full stop.

        `node` is the name of the node for a view that is not made there; without it a command for operators says so.
        """
        if names_command(self.text, self.command):
            return self.text
        there = ""
        if self.where == "node":
            there = f" on {node}" if node else ""
        elif not node and self.kind.own:
            there = " on the operator's machine"
        # What the text names comes first, and mends the cause.
        run = "; after that run" if _COMMAND.search(self.text) else ": run"
        return f"{self.text}{run} `{self.command}`{there}"


def found(
    name: str,
    text: str,
    *,
    state: NodeState | None = None,
    severity: Severity | None = None,
    file: str = "",
    template: str = "",
    command: str = "",
    **places: str,
) -> Finding:
    """Return a finding of the kind `name`; what is not given is the kind's.

    `places` are what the kind's command names: `node`, `pool`, `names` and `ca`. `file` is the cluster.yaml as the
    operator named it. A `template` takes the place of the kind's command, and has the same places; a `command` is one
    without places.
    """
    kind, pool = KINDS[name], places.pop("pool", "")
    values = {"node": "NODE", "names": "", "ca": "", **places, "file": file_option(file)}
    values["pool"] = f" --pool {pool}" if pool not in ("", "-") else ""
    made = command or (template or kind.command).format(**values)
    return Finding(kind, text, printable(made), state or kind.state or NodeState.OK, severity or kind.severity)


def names_command(text: str, command: str) -> bool:
    """Return whether a text names this command, perhaps with other options if an operator runs it."""
    words = command if command.startswith(_ON_NODES) else command.partition(" -")[0]
    return words in text


def named_command(text: str, file: str, default: str = "") -> str:
    """Return the last command that a sentence names, with the option for the file if an operator runs it.

    What rotations wait for is said with its command, by those who know it. A text without one gives `default`.
    """
    commands = _COMMAND.findall(text)
    if not commands:
        return default
    last = str(commands[-1])
    return last if " -f " in last or last.startswith(_WITHOUT_FILE) else f"{last}{file_option(file)}"


def of_ends(ends: Iterable[CaExpiry], file: str = "") -> Iterator[Finding]:
    """Yield a finding for each CA that ends soon, also for those that need only a plan."""
    for end in ends:
        if end.level is not Level.NONE:
            yield found(
                "ca-expires",
                end.sentence,
                state=None if end.level.attention else NodeState.OK,
                severity=_SEVERITIES[end.level],
                ca=end.ca,
                file=file,
                command=named_command(end.sentence, file),
            )


def to_json(finding: Finding) -> dict[str, Any]:
    """Return a finding as every view has it for programs."""
    return {
        "name": finding.name,
        "severity": finding.severity.value,
        "message": printable(finding.text),
        "command": finding.command or None,
        "run": finding.where,
    }


def some(names: Collection[str], most: int = 5, longest: int = 100) -> str:
    """Return the first few of these names, each cut to a length."""
    return first_few([name[:longest] for name in names], most)
