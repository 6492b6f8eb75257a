"""Restart components by hooks, and wait until each is seen: running since then, and healthy.

A static pod's new manifest is written in a moment, while the kubelet takes half a minute to start the pod, and a
stopped kubelet never does. A member of etcd that is restarted before the one before it is back costs the quorum.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final

from vaultpki.host import boot_time, component_health, processes, setting_files, static_pod
from vaultpki.host.boot_time import Moment
from vaultpki.host.hooks import Job
from vaultpki.host.processes import Process
from vaultpki.model import Hook

_PAUSE: Final = 0.5
# Seconds for one question. etcd takes up to 5 s, and an election more, to say that it has no quorum.
_LEAST, _MOST = 1.0, 10.0


@dataclass(frozen=True, slots=True)
class _Restart:
    """A restart of this process's: for which changes (key and digest), and a moment before it."""

    changes: frozenset[tuple[str, str]]
    at: Moment


class Restarts:
    """The restarts of one agent.

    `pause` waits for so many seconds and returns whether the agent stops, then at once.
    """

    def __init__(self, pause: Callable[[float], bool]) -> None:
        self._pause = pause
        self._made: dict[Hook, _Restart] = {}

    def run(self, hook: Hook, sharing: Sequence[Job], restart: Callable[[], str]) -> str:
        """Restart what `hook` names for all jobs that share it, by `restart`; return "", or the rest of a sentence.

        A component that runs now is waited for, as long as the hook may take. One that was started after all the files
        were installed is not restarted again.
        """
        component = component_of(hook)
        if component is None:
            return restart()
        until = time.monotonic() + sharing[0].timeout
        files = {folder for job in sharing for folder in job.folders}
        if hook.kind == "static_pod" and not os.path.lexists(static_pod.manifest(hook.name)):
            if processes.find(component, files):
                path = static_pod.manifest(hook.name)
                return f"failed: {path} is missing, and {component} runs: correct the hook, or put the manifest back"
            return restart()
        changes = frozenset((job.key, job.digest) for job in sharing)
        since = _newest(sharing)
        made = self._made.get(hook)
        if made is not None and (not changes <= made.changes or (since is not None and not made.at.later_than(since))):
            made = None
        if made is not None and since is None:
            since = made.at
        running = processes.find(component, files)
        if not running and made is None:
            # A node that boots, or one whose agent cannot see it. What starts later reads the new files.
            return restart()
        if not _is_new(running, since, again=made is not None):
            # Noted before: one that was interrupted may have been done all the same.
            self._made[hook] = _Restart(changes, boot_time.now())
            if error := restart():
                return error
        return self._wait(hook, component, files, since or self._made[hook].at, until, sharing[0].timeout)

    def _wait(self, hook: Hook, component: str, files: set[str], since: Moment, until: float, timeout: float) -> str:
        while True:
            running = processes.find(component, files)
            said = _not_restarted(hook, component, running, since, timeout)
            if not said:
                asked = (
                    component_health.why_unhealthy(each, max(_LEAST, min(_MOST, until - time.monotonic())))
                    for each in running
                )
                said = next(filter(None, asked), "")
                if not said:
                    return ""
                said = f"{component} was restarted and is not healthy after {timeout:g} s: {said}"
            if self._pause(_PAUSE):
                return "was stopped"
            if time.monotonic() >= until:
                return f"failed: {said}"


def component_of(hook: Hook) -> str | None:
    """Return the component that a hook restarts, if it is one that can be asked for its health; else None."""
    if hook.kind == "systemd":
        names = [hook.name.removesuffix(".service").partition("@")[0]]
    elif hook.kind == "static_pod":
        path = static_pod.manifest(hook.name)
        names = [_program(path), os.path.basename(path).removesuffix(".yaml")]
    else:
        return None
    return next((name for name in names if name in component_health.KNOWN), None)


def _program(path: str) -> str:
    """Return the name of the program of the first container in a manifest; empty if there is none."""
    found = setting_files.mapping(path)
    for key in ("spec", "containers", 0, "command", 0):
        try:
            found = found[key]  # type: ignore[index]
        except (KeyError, IndexError, TypeError):
            return ""
    return os.path.basename(found) if isinstance(found, str) else ""


def _newest(jobs: Sequence[Job]) -> Moment | None:
    """Return when the last of the jobs' files was installed; None if that is not known of each."""
    newest = jobs[0].installed
    for job in jobs[1:]:
        if newest is None or job.installed is None:
            return None
        if job.installed.later_than(newest):
            newest = job.installed
    return newest


def _is_new(running: Sequence[Process], since: Moment | None, *, again: bool) -> bool:
    """Return whether a component need not be restarted; `again` after a restart that was not seen to its end."""
    new = [since is not None and each.started.later_than(since) for each in running]
    return all(new) or (again and any(new))


def _not_restarted(hook: Hook, component: str, running: Sequence[Process], since: Moment, timeout: float) -> str:
    """Return what is wrong as long as the component does not run with a start after `since`, and only so."""
    old = [each for each in running if not each.started.later_than(since)]
    if not running:
        whose = "its log and the kubelet's" if hook.kind == "static_pod" else "its log"
        return f"{component} was stopped and does not run again after {timeout:g} s: look at {whose}"
    if len(old) < len(running) and old:
        return f"{component} was restarted, but its process {old[0].pid} still runs after {timeout:g} s: end that one"
    if old:
        why = "does the kubelet run?" if hook.kind == "static_pod" else f"does the unit {hook.name} run it?"
        return f"{component} was not restarted within {timeout:g} s: {why}"
    return ""
