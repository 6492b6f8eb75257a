"""systemd's own judges, and what a unit's sandbox allows, for programs that run without systemd."""

from __future__ import annotations

import os
import re
import subprocess
from collections.abc import Iterable
from pathlib import Path


def judged(*arguments: str | Path) -> str:
    ran = subprocess.run(
        ["systemd-analyze", *map(str, arguments)],
        env={"PATH": os.environ["PATH"], "LC_ALL": "C.UTF-8", "SYSTEMD_COLORS": "0"},
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert ran.returncode == 0, f"{arguments}: exit {ran.returncode}\n{ran.stdout}\n{ran.stderr}"
    return ran.stdout + ran.stderr


def exposure(unit: Path) -> float:
    """What `systemd-analyze security` finds of a unit; 10 is a service without any protection."""
    said = judged("security", "--offline=true", "--no-pager", "--threshold=100", unit)
    found = re.search(r"Overall exposure level for \S+: (\d+\.\d)", said)
    assert found is not None, said
    return float(found[1])


def allowed(name: str, sets: dict[str, set[str]]) -> set[str]:
    return {call for each in sets[name] for call in (allowed(each, sets) if each.startswith("@") else {each})}


def syscall_sets() -> dict[str, set[str]]:
    sets: dict[str, set[str]] = {}
    current: set[str] = set()
    for line in judged("--no-pager", "syscall-filter").splitlines():
        if line.startswith("@"):
            current = sets.setdefault(line.strip(), set())
        elif line.startswith("    ") and not line.strip().startswith("#"):
            current.add(line.strip())
    return sets


def refused(trace: Iterable[str], *without: str) -> list[str]:
    """What a unit would not allow of the calls in a trace of strace; `without` are sets that it takes away again.

    Its filter is @system-service, and it has MemoryDenyWriteExecute= and the families of sockets that our units have.
    """
    calls, sets = list(trace), syscall_sets()
    taken = set().union(*(allowed(each, sets) for each in without))
    names = {match[1] for call in calls if (match := re.match(r"(?:\d+ +)?(\w+)\(", call))}
    assert {"openat", "mmap", "connect"} <= names, names
    found = sorted(names - (allowed("@system-service", sets) - taken))
    # MemoryDenyWriteExecute= (systemd.exec(5)): no memory that is written and then run.
    found += [call for call in calls if re.search(r" mmap\(.*PROT_WRITE\|PROT_EXEC", call)]
    found += [call for call in calls if re.search(r" (pkey_)?mprotect\(.*PROT_EXEC", call)]
    families = {match[1] for call in calls if (match := re.search(r" socket\((\w+)", call))}
    return [*found, *sorted(families - {"AF_UNIX", "AF_INET", "AF_INET6"})]
