"""Finds the version of Kubernetes that a running component has: by its static pod's image, or by its own program.

A file that was replaced after the process had started says nothing about that process: the version is then unknown. A
program is run only if it is the one that the process was started with, and no other user could change it.
"""

from __future__ import annotations

import os
import time
from typing import Any, Final

from vaultpki import kubernetes_versions
from vaultpki.errors import StoreError
from vaultpki.host import boot_time, hook_files, printed, setting_files, static_pod
from vaultpki.host.processes import Process

_LARGEST: Final = 64 * 1024


def of_process(process: Process, processes: str = "/proc", manifests: str = static_pod.MANIFEST_FOLDER) -> str:
    """Return the version of the program that a process runs, such as v1.36.3; "" if that is not known."""
    path = f"{manifests}/{process.component}.yaml"
    if os.path.lexists(path):
        return _tag(path, process.component) if _was_there(path, process) else ""
    here = os.path.isabs(process.program) and not _in_pod(process.pid, processes)
    return _ask(process.program) if here and _was_there(process.program, process) else ""


def _was_there(path: str, process: Process) -> bool:
    """Return whether a file is as it was when a process started: since then it was neither replaced nor changed."""
    try:
        changed = max(os.stat(path).st_ctime, os.lstat(path).st_ctime)
    except (OSError, ValueError):
        return False
    now = boot_time.now()
    return process.started.boot == now.boot and changed < time.time() - (now.uptime - process.started.uptime)


def _tag(path: str, component: str) -> str:
    """Return the version in the tag of the image with which a static pod runs a component."""
    found: Any = setting_files.mapping(path)
    try:
        containers = found["spec"]["containers"]
        images = [each["image"] for each in containers if os.path.basename(each["command"][0]) == component]
    except (KeyError, IndexError, TypeError):
        return ""
    return kubernetes_versions.tagged(images[0]) if images and isinstance(images[0], str) else ""


def _in_pod(pid: int, processes: str) -> bool:
    """Return whether a process may be a pod's: its program is then not the file of this name here.

    The control group of a process can be read by everybody (cgroups(7)), and the kubelet puts those of pods below
    `kubepods` (kubernetes pkg/kubelet/cm/cgroup_manager_linux.go).
    """
    try:
        with open(f"{processes}/{pid}/cgroup", "rb") as file:
            return b"kubepods" in file.read(_LARGEST)
    except OSError:
        return True


def _ask(program: str) -> str:
    """Return the version that a program prints; "" if others could change it, or if it prints none."""
    try:
        hook_files.refuse((program, "--version"), path=hook_files.PATH)
    except (OSError, ValueError, StoreError):
        return ""
    return kubernetes_versions.said(printed.by([program, "--version"])[:_LARGEST])
