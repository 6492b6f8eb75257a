"""Finds the processes of this node that run a component, and when each was started.

The command line, the start and the network of a process can be read by every user (proc(5)); its files only by who may
trace it, which the agent in its unit and in its pod may not, so that nothing here depends on them. Nothing here writes.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from typing import Final

from vaultpki.host import boot_time, setting_files
from vaultpki.host.boot_time import Moment
from vaultpki.kube import flags as component_flags
from vaultpki.places import is_below

_LONGEST: Final = 64 * 1024
_API_SERVER: Final = "kube-apiserver"
_ETCD: Final = "etcd"
_LISTENERS: Final = ("listen-client-urls", "listen-peer-urls")
# With one of these a program says something and ends. This agent asks for versions itself, as people do. A version as
# the value is the one that a program shall report (kubernetes component-base/version/verflag).
_ASKED: Final = frozenset({("version", "true"), ("version", "raw"), ("help", "true"), ("h", "true")})

# Fields of /proc/PID/stat, counted from the one after the command's name: ppid is the fourth, starttime the 22nd.
_PARENT, _STARTED = 1, 19


@dataclass(frozen=True, slots=True)
class Process:
    """A process that runs `component`: when it was started, and its arguments without the program itself.

    `program` is the path of that as it was started, which may be a name alone.
    """

    component: str
    pid: int
    started: Moment
    arguments: tuple[str, ...]
    parent: int = 0
    program: str = ""

    @property
    def flags(self) -> dict[str, str]:
        """The flags on its command line with their values."""
        return component_flags.flags_of(self.arguments)


def find(component: str, files: Collection[str], processes: str = "/proc") -> tuple[Process, ...]:
    """Return the processes that run `component` and read one of `files`, the oldest first.

    `files` are absolute paths of files, or of folders that stand for every file below them. A process is another node's
    if it is in another network, or if its flags say so: they name other files, or none where no other setting could
    name one. Left out are those, and programs that are asked for their version or help. A process and its children with
    the same command line are one. What ends meanwhile is left out.
    """
    return find_all((component,), files, processes)[component]


def find_all(
    components: Collection[str], files: Collection[str], processes: str = "/proc"
) -> dict[str, tuple[Process, ...]]:
    """Return the processes of each of `components`, as `find`, in one go through all processes of this machine."""
    found = {each.pid: each for each in _running(components, processes) if _ours(each, files, processes)}
    return {each: _oldest_first(found, each) for each in components}


def here(component: str, processes: str = "/proc") -> tuple[Process, ...]:
    """Return the processes that run `component` in this machine's network, the oldest first, whatever files they read.

    A process and its children with the same command line are one.
    """
    found = {each.pid: each for each in _running((component,), processes) if _same_network(each.pid, processes)}
    return _oldest_first(found, component)


def running(processes: str = "/proc") -> dict[str, tuple[str, ...]]:
    """Return the arguments of each component that runs on this machine, by component; of several, the first process's.

    A component in another network belongs to another node, such as one in a container.
    """
    here = [each for each in _running(component_flags.COMPONENTS, processes) if _same_network(each.pid, processes)]
    return {each.component: each.arguments for each in sorted(here, key=lambda each: -each.pid)}


def _oldest_first(found: Mapping[int, Process], component: str) -> tuple[Process, ...]:
    mine = {pid: each for pid, each in found.items() if each.component == component}
    alone = [each for each in mine.values() if not _same_program(each, mine.get(each.parent))]
    return tuple(sorted(alone, key=lambda each: (each.started.uptime, each.pid)))


def _same_program(process: Process, parent: Process | None) -> bool:
    return parent is not None and parent.arguments == process.arguments


def _running(components: Collection[str], processes: str) -> Iterator[Process]:
    boot, ticks = boot_time.boot(processes), os.sysconf("SC_CLK_TCK")
    wanted = {os.fsencode(each): each for each in components}
    for name in _names(processes):
        # A process that ends, or one that this user may not see (hidepid).
        with contextlib.suppress(OSError, ValueError, IndexError):
            with open(f"{processes}/{name}/cmdline", "rb") as file:
                line = file.read(_LONGEST)
            component = wanted.get(line.partition(b"\0")[0].rpartition(b"/")[2])
            if component is None:
                continue
            words = line.split(b"\0")[:-1]
            with open(f"{processes}/{name}/stat", "rb") as file:
                # The command's own name may have spaces and brackets.
                fields = file.read(_LONGEST).rpartition(b")")[2].split()
            started = Moment(boot, int(fields[_STARTED]) / ticks)
            program, *arguments = map(os.fsdecode, words)
            found = Process(component, int(name), started, tuple(arguments), int(fields[_PARENT]), program)
            if _ASKED.isdisjoint(found.flags.items()):
                yield found


def _names(processes: str) -> list[str]:
    try:
        return [name for name in os.listdir(processes) if name.isdecimal()]
    except OSError:
        return []


def _ours(process: Process, files: Collection[str], processes: str) -> bool:
    """Return whether a process reads one of `files` of this node, as far as this user can see."""
    if not _same_network(process.pid, processes):
        return False
    if named := list(_named_files(process)):
        return any(_among(path, files) for path in named)
    if process.component == _API_SERVER:
        # It has no other settings than its flags.
        return False
    return not _plain_member(process) and _by_kubeconfig(process, files) is not False


def _by_kubeconfig(process: Process, files: Collection[str]) -> bool | None:
    """Return whether the kubeconfig on a command line is one of `files`, or names one; None if that is not known."""
    path = process.flags.get("kubeconfig", "")
    if not path:
        return None
    if _among(os.path.normpath(path), files):
        return True
    text = setting_files.content(path)
    return any(os.fsencode(each) in text for each in files) if text else None


def _plain_member(process: Process) -> bool:
    """Return whether a process is an etcd that its flags let listen without TLS alone: its flags beat all settings."""
    flags = process.flags
    given = [url for name in _LISTENERS for url in flags.get(name, "").split(",") if url]
    return bool(given) and "config-file" not in flags and all(url.startswith("http://") for url in given)


def _named_files(process: Process) -> Iterator[str]:
    flags = process.flags
    if process.component == _ETCD:
        flags = flags | setting_files.etcd(flags.get("config-file", ""))
    for flag in component_flags.FLAGS:
        if flag.component == process.component and flags.get(flag.name):
            yield os.path.normpath(flags[flag.name])


def _among(path: str, files: Collection[str]) -> bool:
    return any(is_below(path, each) for each in map(os.path.normpath, files))


def _number(path: str) -> tuple[int, int] | None:
    try:
        found = os.stat(path)
    except (OSError, ValueError):
        return None
    return found.st_dev, found.st_ino


def _same_network(pid: int, processes: str) -> bool:
    """Return whether a process is in this network namespace; also if that cannot be seen.

    A link in `ns` is only for who may trace the process. Each network has files of its own below `net`, which everybody
    may look at (Linux fs/proc/proc_net.c).
    """
    own, other = _number(f"{processes}/self/net/dev"), _number(f"{processes}/{pid}/net/dev")
    return own is None or other is None or own == other
