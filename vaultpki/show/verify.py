"""Writes what `vaultpki verify` found, for people."""

from __future__ import annotations

import textwrap
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Final

from vaultpki.redact import first_few, printable
from vaultpki.show import table
from vaultpki.show.table import Column
from vaultpki.verify.client_libraries import needs

if TYPE_CHECKING:
    from vaultpki.verify.client_libraries import LibraryNeed
    from vaultpki.verify.on_disk import Check

# Paths are never cut.
_COLUMNS: Final = tuple(Column(title, most=4096) for title in ("FROM", "TO", "SHOULD", "WHY"))
_LISTENERS: Final = tuple(Column(title, most=4096) for title in ("LISTENER", "ENDS IN"))
# Failures of one group that are shown; the rest is counted.
_SHOWN: Final = 3
# Listeners, and what one reason is for, that are named; the rest is counted.
_NAMED: Final = 20
# Columns of a line of text.
_WIDTH: Final = 96


def of_vault(checks: tuple[Check, ...]) -> str:
    """Return what Vault allowed, the first few of each group, and one line of counts."""
    failed = [check for check in checks if not check.ok]
    shown: dict[str, list[Check]] = {}
    for check in failed:
        shown.setdefault(check.name, []).append(check)
    lines = []
    for name, some in shown.items():
        lines += [printable(f"{name}: {check.target} {check.detail}") for check in some[:_SHOWN]]
        if len(some) > _SHOWN:
            lines.append(f"{name}: and {len(some) - _SHOWN} more")
    own = sum(check.expect == "accept" for check in checks)
    lines.append(
        f"{len(checks) - own} forbidden requests of the temporary node {checks[0].source}, and {own} of its own: "
        + (f"{len(failed)} failed." if failed else "all as they should be.")
    )
    return "\n".join(lines)


def of_files(checks: tuple[Check, ...], holders: int) -> str:
    """Return the failures as a table, what could not be checked, and one line of counts."""
    failed = [check for check in checks if not check.ok and check.got != "unchecked"]
    rows = []
    for check in failed:
        why = check.detail if check.got == "refuse" else f"was accepted {check.detail}".rstrip()
        source = check.source if check.kind != "file" else f"{check.source}/{check.name}"
        rows.append((source, check.target, check.expect, why))
    lines = list(table.lines(_COLUMNS, rows)) if failed else []
    unmade = [check for check in checks if check.got == "unchecked"]
    unread: dict[tuple[str, str], list[str]] = {}
    for check in unmade:
        if check.kind == "file":
            unread.setdefault((check.source, check.detail), []).append(check.target)
    lines += [printable(f"not checked: {', '.join(names)} of {who} {why}") for (who, why), names in unread.items()]
    lines += of_libraries(needs(checks))
    handshakes = [check for check in checks if check.kind == "handshake"]
    let_in, kept_out = (sum(check.got == got for check in checks) for got in ("accept", "refuse"))
    well = "all else as it should be." if unmade else "all as they should be."
    not_made = f", {len(unmade)} not made" if unmade else ""
    lines.append(
        f"{len(checks)} checks of {holders} {'holder' if holders == 1 else 'holders'}: {let_in} accepted and "
        f"{kept_out} refused{not_made}, {len(handshakes)} of them live handshakes; "
        + (f"{len(failed)} not as they should be." if failed else well)
    )
    return "\n".join(lines)


def of_libraries(found: Sequence[LibraryNeed]) -> Iterator[str]:
    """Yield what clients of each TLS library need in their bundle below a root outside; nothing below one of ours."""
    if found:
        yield "Clients below this root, by the library that checks a server's certificate:"
    for each in found:
        yield f"  {', '.join(each.libraries)}: {each.wants}"
        for word, files in (("enough", each.accepted), ("too little", each.refused)):
            text = f"    {word}: {first_few(files, _NAMED)}"
            yield from textwrap.wrap(text, _WIDTH, subsequent_indent="      ", break_long_words=False) if files else ()
    if found:
        yield "  GnuTLS needs besides that servers send nothing above their issuing CA, and Python from 3.13"
        yield "  that every CA has key identifiers and critical basic constraints; the checks look at both."


def of_live(checks: tuple[Check, ...], source: str) -> str:
    """Return what a running cluster presents, what is wrong, what was not checked, and one line of counts."""
    lines = [*_served(checks), *_wrong(checks)]
    unchecked: dict[str, list[str]] = {}
    for check in checks:
        if check.ok is None:
            unchecked.setdefault(check.detail, []).append(f"{check.name} of {_where(check)}")
    for why, what in unchecked.items():
        lines.append(f"not checked: {first_few(what, _NAMED)}: {why}")
    right, failed = (sum(check.ok is ok for check in checks) for ok in (True, False))
    left = sum(check.ok is None for check in checks)
    lines.append(
        f"{len(checks)} checks of the running cluster, by the CAs of {source}: {right} as they should be, "
        f"{failed} not, {left} not checked."
    )
    return "\n".join(map(printable, lines))


def _served(checks: tuple[Check, ...]) -> Iterator[str]:
    """Yield each listener and when its certificate ends."""
    served = [check for check in checks if check.name == "served certificate" and check.detail.startswith("ends in ")]
    if served:
        rows = [(check.source, check.detail.removeprefix("ends in ")) for check in served[:_NAMED]]
        yield from table.lines(_LISTENERS, rows)
    if len(served) > _NAMED:
        yield f"and {len(served) - _NAMED} more"


def _wrong(checks: tuple[Check, ...]) -> Iterator[str]:
    for check in checks:
        if check.ok is False:
            why = f"is let in ({check.detail})" if check.expect == "refuse" else check.detail
            yield f"{check.name}: {_where(check)} {why}"


def _where(check: Check) -> str:
    if check.expect == "refuse" or check.name == "own domain":
        return f"{check.source} at {check.target}"
    return check.target if check.source == "API server" else check.source
