"""System calls as strace writes them down: which change a file, what to inject, and what a power cut would find."""

from __future__ import annotations

import os
import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

CHANGING = (
    "openat,creat,write,writev,pwrite64,ftruncate,truncate,fallocate,chmod,fchmod,fchmodat,chown,fchown,lchown,fchownat,"
    "fsync,fdatasync,sync,mkdir,mkdirat,symlink,symlinkat,link,linkat,rename,renameat,renameat2,unlink,unlinkat,rmdir,flock"
)
ERRORS = ("ENOSPC", "EIO", "EROFS", "EDQUOT", "EACCES")


@dataclass(frozen=True, slots=True)
class Call:
    """One system call: its name, its number among the thread's calls of that name, and the whole line."""

    name: str
    number: int
    line: str

    @property
    def changes(self) -> bool:
        return self.name in CHANGING.split(",") and (self.name != "openat" or "O_CREAT" in self.line)

    def __str__(self) -> str:
        return f"{self.name} {self.number}"


@dataclass(frozen=True, slots=True)
class Fault:
    """What is done to one call: a signal, an error, or a result that is not so."""

    call: Call
    what: str
    lasting: bool = False

    @property
    def options(self) -> list[str]:
        # `when=` counts each thread's calls of that name.
        when = f"{self.call.number}{'+' if self.lasting else ''}"
        return ["-e", f"trace={self.call.name}", "-e", f"inject={self.call.name}:{self.what}:when={when}"]

    def __str__(self) -> str:
        return f"{self.what}{' from' if self.lasting else ' at'} {self.call}"


def calls(log: Path) -> list[Call]:
    """The calls of the first thread in a log of `strace -f -y`, each on one line."""
    begun: dict[str, str] = {}
    counted: Counter[str] = Counter()
    found = []
    main = None
    for line in log.read_text(errors="replace").splitlines():
        thread, _, text = line.partition(" ")
        text = text.strip()
        main = main or thread
        if thread != main:
            continue
        if text.endswith("<unfinished ...>"):
            begun[thread] = text.removesuffix("<unfinished ...>").rstrip()
            continue
        if resumed := re.match(r"<\.\.\. \w+ resumed>(.*)", text):
            text = begun.pop(thread, "") + resumed[1]
        if match := re.match(r"(\w+)\(", text):
            counted[match[1]] += 1
            found.append(Call(match[1], counted[match[1]], text))
    return found


def of_each_kind(points: Sequence[Call]) -> list[Call]:
    """The first and the last call of each kind; the same call on the same sort of place is of one kind."""
    chosen = {*{_kind(call): call for call in points}.values()}
    chosen |= {*{_kind(call): call for call in reversed(points)}.values()}
    return [call for call in points if call in chosen]


def _kind(call: Call) -> tuple[str, ...]:
    """The call and its places, whatever pair, CA or generation they are of."""
    # What is written is no place.
    places = [f"{folder}/{name}" for folder, name in _PLACES.findall(call.line)] if call.name != "write" else []
    places += _FD.findall(call.line)
    return (call.name, *(_OWN_NAMES.sub("*", each) for each in places))


def rotating(points: Sequence[Call], size: int) -> list[Fault]:
    """About `size` faults, spread over the calls, each kind of call among them and each kind of error."""
    changing = [call for call in points if call.changes]
    firsts = {call.name: call for call in reversed(changing)}
    chosen = {(call.name, call.number) for call in firsts.values()}
    chosen |= {(call.name, call.number) for call in changing[:: max(1, len(changing) // size)]}
    picked = [call for call in changing if (call.name, call.number) in chosen]
    found = [Fault(call, f"error={ERRORS[index % len(ERRORS)]}") for index, call in enumerate(picked)]
    writes = [call for call in changing if call.name == "write"]
    return found + [Fault(call, f"retval={index % 2}") for index, call in enumerate(writes[:4])]


_PLACES = re.compile(r'(?:(?:\d+|AT_FDCWD)<([^>]*)>, )?"([^"]*)"')
_FD = re.compile(r"\w+\(\d+<([^>]*)>")
# Numbers, names of generations, of what .vaultpki holds, and of files before their ending.
_OWN_NAMES = re.compile(r"[0-9a-f]{12,}|\d+|(?<=\.vaultpki/)[\w-]+|[\w-]+(?=\.(?:crt|key|pem|pub|conf)\b)")


# -- the order in which things reach the disk ------------------------------------------------------------------------

_AT = re.compile(r'(?:\d+|AT_FDCWD)<([^>]*)>, "([^"]*)"')


class _Late:
    """What has been done and is not on the disk: to the contents of files, and to the entries of folders."""

    def __init__(self) -> None:
        self.contents: dict[str, str] = {}
        self.entries: dict[str, set[str]] = defaultdict(set)

    def made(self, path: str) -> None:
        self.entries[os.path.dirname(path)].add(os.path.basename(path))

    def gone(self, path: str) -> None:
        self.contents.pop(path, None)
        self.entries[os.path.dirname(path)].discard(os.path.basename(path))

    def synced(self, path: str) -> None:
        self.contents.pop(path, None)
        self.entries.pop(path, None)

    def of(self, path: str) -> list[str]:
        """A phrase for each that concerns `path`, or anything below it."""
        inside = f"{path}/"
        found = [f"{file} ({why})" for file, why in self.contents.items() if f"{file}/".startswith(inside)]
        for folder, names in self.entries.items():
            if f"{folder}/".startswith(inside):
                found += [f"{folder}/{name} (its entry)" for name in sorted(names)]
        return found


def hasty(lines: Iterable[str], below: Path, told: str) -> list[str]:
    """What a power cut could take away though it should last: a sentence for each.

    Looked at is what lies below the folder. A name may lead to a file only once that is on the disk, what it replaces
    may go only once the new name is, and when a line matches `told` everything must be.
    """
    late, swapped = _Late(), set[str]()
    leads: dict[str, str] = {}
    wrong = []
    for line in lines:
        if re.search(told, line):
            wrong += [f"success is told before {what} is on the disk" for what in late.of(str(below.parent))]
        if " = -1 " in line or str(below) not in line:
            continue
        name = line.partition("(")[0]
        paths = [os.path.normpath(os.path.join(*found)) for found in _AT.findall(line)]
        opened = match[1] if (match := _FD.match(line)) else ""
        if name == "openat" and "O_EXCL" in line:
            late.made(paths[0])
        elif name in ("write", "fchmod", "fchown"):
            late.contents[opened] = f"after {name}"
        elif name == "fsync":
            late.synced(opened)
            swapped.discard(opened)
        elif name == "mkdirat":
            late.made(paths[0])
        elif name == "symlinkat":
            leads[paths[-1]] = os.path.join(os.path.dirname(paths[-1]), re.findall(r'"([^"]*)"', line)[0])
            late.made(paths[-1])
        elif name.startswith("rename"):
            old, new = paths
            leads[new] = leads.pop(old, old)
            wrong += [f"{new} is renamed before {what} is on the disk" for what in late.of(leads[new])]
            late.gone(old)
            late.made(new)
            swapped.add(os.path.dirname(new))
        elif name == "unlinkat":
            wrong += [f"{paths[0]} is removed before the new name is on the disk" for at in swapped if at in paths[0]]
            late.gone(paths[0])
    return wrong
