"""Find the resident agent of a state folder, make it ask Vault now, and read how its pass ended.

    STATE/resident.json   the process id and start of the agent, its agent.yaml, the last pass that a SIGHUP asked
                          for, and the keys whose hooks go on since the last pass

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
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, TypeVar

from vaultpki.daemon.outcome_events import failure_events, owed_hook_events
from vaultpki.disk.files import read_private, write_private
from vaultpki.errors import AgentNotReached, StoreError
from vaultpki.host.log import Event, Level
from vaultpki.model import VERSION, AgentConfig
from vaultpki.node import state
from vaultpki.node.state import AgentState
from vaultpki.values import json_object

RESIDENT_FILE: Final = "resident.json"

_LONGEST: Final = 120.0
_LOOK: Final = 0.1
# Seconds after which a person is told what the command waits for.
_SLOW: Final = 3.0
_LEVELS: Final[Mapping[str, Level]] = {"info": "info", "warning": "warning", "error": "error"}

_T = TypeVar("_T")


@dataclass(frozen=True, slots=True)
class Pulled:
    """How a pass ended that a SIGHUP asked for. `began` is CLOCK_MONOTONIC in seconds.

    `events` are what it did, `failures` what failed, as sentences by what failed; `hooks` are the keys whose hooks go
    on after it.
    """

    began: float
    events: tuple[Event, ...] = ()
    failures: Mapping[str, str] = field(default_factory=dict)
    hooks: frozenset[str] = frozenset()

    @property
    def told(self) -> tuple[Event, ...]:
        """Everything to tell a person. A failed hook is owed, and told with the others that are."""
        return (*(event for event in self.events if event.name != "hook-failed"), *failure_events(self.failures))


class ResidentNote:
    """The note of this process in the state folder of its agent.yaml; a folder that cannot be written has none."""

    def __init__(self) -> None:
        self._state = ""
        self._pulled: Pulled | None = None
        self._hooks: frozenset[str] = frozenset()

    def hold(self, config: AgentConfig) -> None:
        """Note that this process is the resident agent, once for each state folder."""
        if config.state != self._state:
            self._write(config, None, frozenset())

    def passed(self, config: AgentConfig, pulled: Pulled | None, hooks: frozenset[str]) -> None:
        """Record the end of a pass: how it ended if a SIGHUP had asked for it, and the keys whose hooks go on."""
        if pulled is not None or hooks != self._hooks:
            self._write(config, pulled or self._pulled, hooks)

    def _write(self, config: AgentConfig, pulled: Pulled | None, hooks: frozenset[str]) -> None:
        value: dict[str, Any] = {"version": VERSION, "pid": os.getpid(), "started": _started(os.getpid())}
        value |= {"file": os.path.realpath(config.file), "hooks": sorted(hooks)}
        if pulled is not None:
            value["pulled"] = {
                "began": pulled.began,
                "events": [
                    {"event": each.name, "level": each.level, "message": each.text, "fields": dict(each.fields)}
                    for each in pulled.events
                ],
                "failures": dict(pulled.failures),
                "hooks": sorted(pulled.hooks),
            }
        with contextlib.suppress(StoreError):
            write_private(f"{config.state}/{RESIDENT_FILE}", json.dumps(value).encode())
            self._state, self._pulled, self._hooks = config.state, pulled, hooks


@dataclass(frozen=True, slots=True)
class Pull:
    """A resident agent that was asked to ask Vault: its process id and its pass.

    `before` is the agent's state when it was asked, `after` when the wait ended.
    """

    pid: int
    pulled: Pulled
    before: AgentState
    after: AgentState

    @property
    def owed(self) -> tuple[Event, ...]:
        """The hooks that have failed. What has not been tried yet is told in the agent's log."""
        return tuple(owed_hook_events({key: each for key, each in self.after.owed.items() if each.attempts}))

    @property
    def done(self) -> frozenset[str]:
        """The keys whose hooks went on after that pass, and are not owed any more."""
        return self.pulled.hooks - self.after.owed.keys()

    @property
    def left(self) -> frozenset[str]:
        """The keys whose hooks the agent left alone: they wait for a person, or for the end of a pause."""
        untried = {key for key, each in self.after.owed.items() if each.attempts and self.before.owed.get(key) == each}
        return frozenset(untried | {key for key in self.after.by_hand if key in self.after.owed})


def pull(
    config: AgentConfig,
    *,
    hooks: bool = False,
    longest: float = _LONGEST,
    slow: Callable[[str], object] = lambda text: None,
) -> Pull:
    """Make the resident agent of this agent.yaml read it again and ask Vault now, and wait until that is done.

    With `hooks` it waits for the hooks too that run after that pass. `longest` is how many seconds a pass may take;
    `slow` gets a sentence on what takes longer than a few seconds. Raises AgentNotReached if no agent can be asked or
    it ends meanwhile, and StoreError if it is not done in time.
    """
    before = state.load(config.state)
    with _resident(config) as (process, pid):
        wait = _AgentWait(config, process, pid, slow)
        since = time.monotonic()
        try:
            signal.pidfd_send_signal(process, signal.SIGHUP)
        except ProcessLookupError:
            raise _none(config) from None
        except PermissionError:
            raise AgentNotReached(
                f"the agent (process {pid}) runs as another user; run this as that user or as root"
            ) from None
        pulled = wait.for_pass(since, longest)
        if hooks and pulled.hooks:
            wait.for_hooks(pulled.hooks, longest)
    return Pull(pid, pulled, before, state.load(config.state))


@contextlib.contextmanager
def _resident(config: AgentConfig) -> Iterator[tuple[int, int]]:
    """Yield a descriptor of the resident agent's process, and its id."""
    try:
        found = _read(config)
    except StoreError as error:
        raise AgentNotReached(str(error)) from None
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
        yield process, pid
    finally:
        os.close(process)


@dataclass(frozen=True, slots=True)
class _AgentWait:
    """Waits for a resident agent, by its process and its note."""

    config: AgentConfig
    process: int
    pid: int
    slow: Callable[[str], object]

    def for_pass(self, since: float, longest: float) -> Pulled:
        """Return how the pass ended that began after `since`."""

        def found() -> Pulled | None:
            pulled = _pulled(self.config)
            return pulled if pulled is not None and pulled.began >= since else None

        return self._until(found, longest, "its pass has", "makes the pass")

    def for_hooks(self, hooks: frozenset[str], longest: float) -> None:
        """Wait until the hooks of these keys have ended, which run one after the other."""
        named, count = ", ".join(sorted(hooks)), sum(len(self.config.hooks.get(key, ())) for key in hooks)
        longest += count * self.config.hook_timeout

        def ended() -> bool | None:
            # A key that comes back later is of another change.
            nonlocal hooks
            hooks &= _keys(_note(self.config).get("hooks"))
            return None if hooks else True

        self._until(ended, longest, f"the hooks of {named} have", f"runs the hooks of {named}")

    def _until(self, found: Callable[[], _T | None], longest: float, what: str, does: str) -> _T:
        """Return what `found` returns first, which is asked once more after the agent has ended."""
        began, said = time.monotonic(), False
        ended = select.poll()
        ended.register(self.process, select.POLLIN)
        while True:
            over = bool(ended.poll(_LOOK * 1000))
            if (value := found()) is not None:
                return value
            if over:
                raise AgentNotReached(f"the agent (process {self.pid}) ended before it was done; look at its log")
            took = time.monotonic() - began
            if took > longest:
                raise StoreError(
                    f"the agent (process {self.pid}) was told, and {what} not ended after {longest:.0f} s; look at its "
                    f"log and at `vaultpki status -c {self.config.file}`"
                )
            if took > _SLOW and not said:
                said = True
                self.slow(f"the agent (process {self.pid}) {does}; this waits for it")


def _none(config: AgentConfig) -> AgentNotReached:
    return AgentNotReached(
        f"no resident agent of {config.file} runs here. An agent in a container is reached from inside, or by SIGHUP. "
        "Else start the agent (`systemctl start vaultpki-agent`), or run "
        f"`vaultpki agent -c {config.file} --once`"
    )


def _note(config: AgentConfig) -> dict[str, Any]:
    value = json_object.parse(read_private(f"{config.state}/{RESIDENT_FILE}") or b"") or {}
    return value if value.get("version") == VERSION else {}


def _read(config: AgentConfig) -> tuple[int, int] | None:
    """Return the process id and the start of the agent; None if there is no note, or one by another agent.yaml."""
    value, file = _note(config), os.path.realpath(config.file)
    if value.get("file", file) != file:
        return None
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
                _keys(value.get("hooks")),
            )
        )
    except (KeyError, TypeError, ValueError, AttributeError):
        return None


def _events(values: Iterable[Mapping[str, Any]]) -> Iterable[Event]:
    for each in values:
        # An agent of an earlier release notes no fields.
        fields = dict(each.get("fields", {}))
        yield Event(str(each["event"]), str(each["message"]), _LEVELS[str(each["level"])], fields)


def _keys(value: object) -> frozenset[str]:
    """Return the keys whose hooks go on; an agent of an earlier release does not note them."""
    return frozenset(map(str, value)) if isinstance(value, list) else frozenset()


def _started(pid: int) -> int:
    """Return when a process started, in clock ticks since the machine did (proc(5), stat); -1 if there is none."""
    try:
        # After the name of the program, which may hold any byte.
        return int(Path(f"/proc/{pid}/stat").read_bytes().rpartition(b") ")[2].split()[19])
    except (OSError, ValueError, IndexError):
        return -1
