"""The processes of a machine: since when each runs, whether it is healthy, and how the kubelet is restarted."""

from __future__ import annotations

import time
from collections.abc import Callable, Collection
from typing import Final, Protocol

from vaultpki.errors import ToolMissing
from vaultpki.host import component_health, mounts, presented, processes
from vaultpki.host.boot_time import Moment
from vaultpki.host.command import CommandRunner
from vaultpki.host.mounts import MountHolder
from vaultpki.host.presented import NotReached, Presented

_RESTART: Final = ("systemctl", "restart", "kubelet")
_RESTART_TIMEOUT: Final = 90.0
# etcd takes up to 5 s, and an election more, to say that it has no quorum.
_ASK: Final = 10.0
# Shorter than the pause in which a restart is waited for.
_FRESH: Final = 0.4


class Components(Protocol):
    """What is asked of the processes of a machine."""

    def started(self, component: str) -> tuple[Moment, ...]:
        """Return when each process of a component was started, the oldest first."""

    def problem(self, component: str) -> str:
        """Return what is wrong with a component by its own endpoint, as a part of a sentence; "" if it is healthy."""

    def holders(self, folders: Collection[str]) -> tuple[MountHolder, ...]:
        """Return the containers that have one of these folders, or something in it, mounted, the oldest first."""

    def presented(self, address: str, port: int) -> Presented | str:
        """Return what a listener presents, or why that is not known."""

    def restart_kubelet(self) -> str:
        """Restart the kubelet; return "", or what went wrong as the rest of a sentence."""

    def pause(self, seconds: float) -> None:
        """Wait."""


class RunningComponents:
    """The processes of this machine. `alive` is called at each pause of a wait for them."""

    def __init__(self, alive: Callable[[], None] = lambda: None) -> None:
        self._alive = alive
        self._held: tuple[float, tuple[MountHolder, ...]] | None = None

    def started(self, component: str) -> tuple[Moment, ...]:
        """Return when each process of a component was started, the oldest first."""
        return tuple(each.started for each in processes.here(component))

    def problem(self, component: str) -> str:
        """Return what is wrong with a component by its own endpoint; "" if each of its processes is healthy."""
        found = processes.here(component)
        if not found:
            return "no process of it was seen"
        return next(filter(None, (component_health.why_unhealthy(each, _ASK) for each in found)), "")

    def holders(self, folders: Collection[str]) -> tuple[MountHolder, ...]:
        """Return the containers that have one of these folders, or something in it, mounted, the oldest first."""
        # Every process is looked at, and a pass asks for the same folders several times.
        if self._held is None or time.monotonic() - self._held[0] > _FRESH:
            self._held = (time.monotonic(), mounts.holders(folders))
        return self._held[1]

    def presented(self, address: str, port: int) -> Presented | str:
        """Return what a listener presents, or why that is not known."""
        try:
            return presented.ask(address, port, "", _ASK)
        except (NotReached, ToolMissing) as error:
            return str(error)

    def restart_kubelet(self) -> str:
        """Restart the unit of the kubelet; return "", or what went wrong as the rest of a sentence."""
        return CommandRunner().run(_RESTART, {}, _RESTART_TIMEOUT, place="the take-over")

    def pause(self, seconds: float) -> None:
        """Wait for so many seconds."""
        self._alive()
        time.sleep(seconds)
