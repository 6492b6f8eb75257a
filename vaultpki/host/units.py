"""Asks systemd whether a unit exists that a hook restarts."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from typing import Final

from vaultpki.host import printed
from vaultpki.host.hook_files import PATH
from vaultpki.model import Hook

# Commands of systemctl whose arguments are units.
_ON_UNITS: Final = frozenset(
    f"{may}{verb}" for may in ("", "try-", "reload-or-", "try-reload-or-") for verb in ("restart", "reload")
) | {"start", "kill"}


def unit_problem(hook: Hook) -> str | None:
    """Return what is wrong with a unit that the hook restarts, and what to do; None if it names none, or all is well.

    None also where systemd does not answer: nothing is known of its units then.
    """
    program = shutil.which("systemctl", path=PATH)
    if program is None:
        return None
    for unit in _units(hook):
        state = _load_state(program, unit)
        if state == "not-found":
            return f"there is no systemd unit {unit}; correct the hook in agent.yaml, or install the unit"
        if state == "masked":
            return f"the systemd unit {unit} is masked, so nothing restarts it; run `systemctl unmask {unit}`"
        if state in ("bad-setting", "error"):
            return f"systemd cannot load the unit {unit}; `systemctl status {unit}` says why"
    return None


def _units(hook: Hook) -> Iterator[str]:
    if hook.kind == "systemd":
        yield hook.name
    elif hook.kind == "command" and hook.argv[0].rpartition("/")[2] == "systemctl":
        words = [word for word in hook.argv[1:] if not word.startswith("-")]
        if words and words[0] in _ON_UNITS:
            yield from words[1:]


def _load_state(program: str, unit: str) -> str:
    """Return systemd's LoadState of a unit (org.freedesktop.systemd1(5)); empty if it does not answer."""
    return printed.by([program, "show", "--property=LoadState", "--value", "--", unit]).strip()
