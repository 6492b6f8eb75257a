"""Find the resident agent of a state folder, make it ask Vault now, and read how its pass ended.

    STATE/resident.json   the process id and start of the agent, and the last pass that a SIGHUP asked for

A process id alone may be another process's by now, and SIGHUP ends most programs: the start of the process, as the
kernel tells it, must be the noted one too. The times of a pass are CLOCK_MONOTONIC, which all processes of a machine
share and nobody sets.
"""

from __future__ import annotations

import contextlib
import json
import os
import select
import signal
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from vaultpki.daemon.outcome_events import failure_events, owed_hook_events
from vaultpki.disk.files import read_private, write_private
from vaultpki.errors import StoreError, VaultpkiError
from vaultpki.host.log import Event, Level
from vaultpki.model import VERSION, AgentConfig
from vaultpki.node import state
from vaultpki.values import json_object

RESIDENT_FILE: Final = "resident.json"

_LONGEST: Final = 120.0
_LOOK: Final = 0.1
_LEVELS: Final[Mapping[str, Level]] = {"info": "info", "warning": "warning", "error": "error"}


@dataclass(frozen=True, slots=True)
class Pulled:
    """How a pass ended that a SIGHUP asked for. `began` is CLOCK_MONOTONIC in seconds.

    `events` are what it did, `failures` what failed, as sentences by what failed.
    """

    began: float
    events: tuple[Event, ...] = ()
    failures: Mapping[str, str] = field(default_factory=dict)

    @property
    def told(self) -> tuple[Event, ...]:
        """Everything to tell a person. A failed hook is owed, and told with the others that are."""
        return (*(event for event in self.events if event.name != "hook-failed"), *failure_events(self.failures))


class ResidentNote:
    """The note of this process in the state folder of its agent.yaml; a folder that cannot be written has none."""

    def __init__(self) -> None:
        self._state = ""

    def hold(self, config: AgentConfig) -> None:
        """Note that this process is the resident agent, once for each state folder."""
        if config.state != self._state:
            self._write(config.state, None)

    def pulled(self, config: AgentConfig, pulled: Pulled) -> None:
        """Record how the pass ended that a SIGHUP had asked for."""
        self._write(config.state, pulled)

    def _write(self, folder: str, pulled: Pulled | None) -> None:
        value: dict[str, Any] = {"version": VERSION, "pid": os.getpid(), "started": _started(os.getpid())}
        if pulled is not None:
            value["pulled"] = {
                "began": pulled.began,
                "events": [{"event": each.name, "level": each.level, "message": each.text} for each in pulled.events],
                "failures": dict(pulled.failures),
            }
        with contextlib.suppress(StoreError):
            write_private(f"{folder}/{RESIDENT_FILE}", json.dumps(value).encode())
            self._state = folder


@dataclass(frozen=True, slots=True)
class Pull:
    """A resident agent that was asked to ask Vault: its process id, its pass, and which hooks are owed since."""

    pid: int
    pulled: Pulled
    owed: tuple[Event, ...]


def pull(config: AgentConfig, *, longest: float = _LONGEST, tell: Callable[[int], object] = lambda pid: None) -> Pull:
    """Make the resident agent of this agent.yaml read it again and ask Vault now, and wait until that is done.

    `longest` is how many seconds to wait; `tell` gets the process id when the agent was told. Raises StoreError if
    none runs here, or if it has ended or not answered by then.
    """
    found = _read(config)
    if found is None:
        raise _none(config)
    pid, started = found
    try:
        # A descriptor of the process: what is checked is what gets the signal.
        process = os.pidfd_open(pid)
    except OSError:
        raise _none(config) from None
    try:
        if _started(pid) != started:
            raise _none(config)
        since = time.monotonic()
        try:
            signal.pidfd_send_signal(process, signal.SIGHUP)
        except ProcessLookupError:
            raise _none(config) from None
        except PermissionError:
            raise StoreError(
                f"the agent (process {pid}) runs as another user; run this as that user or as root"
            ) from None
        tell(pid)
        pulled = _await(config, process, pid, since, longest)
    finally:
        os.close(process)
    # What has not been tried yet runs in the background now, and is told in the agent's log.
    owed = {key: each for key, each in state.load(config.state).owed.items() if each.attempts}
    return Pull(pid, pulled, tuple(owed_hook_events(owed)))


def _await(config: AgentConfig, process: int, pid: int, since: float, longest: float) -> Pulled:
    ended = select.poll()
    ended.register(process, select.POLLIN)
    while True:
        over = bool(ended.poll(_LOOK * 1000))
        pulled = _pulled(config)
        if pulled is not None and pulled.began >= since:
            return pulled
        if over:
            raise StoreError(f"the agent (process {pid}) ended before it was done; look at its log")
        if time.monotonic() > since + longest:
            raise StoreError(
                f"the agent (process {pid}) was told, and its pass has not ended after {longest:.0f} s; look at its "
                f"log and at `vaultpki status -c {config.file}`"
            )


def _none(config: AgentConfig) -> VaultpkiError:
    return StoreError(
        f"no resident agent of {config.file} runs here. An agent in a container is reached from inside, or by SIGHUP. "
        "Else start the agent (`systemctl start vaultpki-agent`), or run "
        f"`vaultpki agent -c {config.file} --once`"
    )


def _note(config: AgentConfig) -> dict[str, Any]:
    value = json_object.parse(read_private(f"{config.state}/{RESIDENT_FILE}") or b"") or {}
    return value if value.get("version") == VERSION else {}


def _read(config: AgentConfig) -> tuple[int, int] | None:
    """Return the process id and the start of the agent; None if there is no note."""
    value = _note(config)
    pid, started = value.get("pid"), value.get("started")
    return (pid, started) if type(pid) is int and type(started) is int and pid > 0 else None


def _pulled(config: AgentConfig) -> Pulled | None:
    value = _note(config).get("pulled")
    try:
        return (
            None
            if value is None
            else Pulled(
                float(value["began"]),
                tuple(_events(value["events"])),
                {str(w): str(t) for w, t in value["failures"].items()},
            )
        )
    except (KeyError, TypeError, ValueError, AttributeError):
        return None


def _events(values: Iterable[Mapping[str, Any]]) -> Iterable[Event]:
    for each in values:
        yield Event(str(each["event"]), str(each["message"]), _LEVELS[str(each["level"])])


def _started(pid: int) -> int:
    """Return when a process started, in clock ticks since the machine did (proc(5), stat); -1 if there is none."""
    try:
        # After the name of the program, which may hold any byte.
        return int(Path(f"/proc/{pid}/stat").read_bytes().rpartition(b") ")[2].split()[19])
    except (OSError, ValueError, IndexError):
        return -1
