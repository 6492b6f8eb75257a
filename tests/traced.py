"""System calls as strace writes them down: which change a file, what can be injected, and what a power cut would find."""

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
READING = "read,pread64,readlink,readlinkat,getdents64,fstat,newfstatat,statx"
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
        # `when=` counts each thread's calls of that name. Not --seccomp-bpf: strace 6.1 then injects nothing.
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


def everything(points: Iterable[Call]) -> list[Fault]:
    """Each error in each call, once and for good, and results that are not so."""
    found = []
    for call in points:
        if call.changes:
            found += [Fault(call, f"error={error}") for error in ERRORS]
            # Where every write fails, nothing can be told.
            found += [Fault(call, "error=EIO", lasting=True)] * (call.name != "write")
        else:
            found += [Fault(call, f"error={error}") for error in ("EIO", "EACCES")]
        found += [Fault(call, f"retval={result}") for result in _untrue(call)]
    return found


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


def _untrue(call: Call) -> tuple[int, ...]:
    # Nothing is written, and one byte is said to be: what a short write is to who does not look.
    return (0, 1) if call.name in ("read", "write") else ()


# -- the order in which things reach the disk ------------------------------------------------------------------------

_AT = re.compile(r'(?:\d+|AT_FDCWD)<([^>]*)>, "([^"]*)"')
_FD = re.compile(r"\w+\(\d+<([^>]*)>")


def hasty(lines: Iterable[str], below: Path, told: str) -> list[str]:
    """What a power cut could take away though it should last: a sentence for each.

    Looked at is what lies below the folder. A name may lead to a file only once that is on the disk, what it replaces
    may go only once the new name is, and when a line matches `told` everything must be.
    """
    contents: dict[str, str] = {}
    entries: dict[str, set[str]] = defaultdict(set)
    swapped: set[str] = set()
    leads: dict[str, str] = {}
    wrong = []

    def pending(path: str) -> list[str]:
        """What is not on the disk of the file or folder `path`, and of all below it."""
        inside = f"{path}/"
        late = [f"{file} ({why})" for file, why in contents.items() if file == path or file.startswith(inside)]
        for folder, names in entries.items():
            if folder == path or folder.startswith(inside):
                late += [f"{folder}/{name} (its entry)" for name in sorted(names)]
        return late

    def made(path: str) -> None:
        entries[os.path.dirname(path)].add(os.path.basename(path))

    def gone(path: str) -> None:
        contents.pop(path, None)
        entries[os.path.dirname(path)].discard(os.path.basename(path))

    for line in lines:
        if re.search(told, line):
            wrong += [f"success is told before {what} is on the disk" for what in pending(str(below.parent))]
        name = line.partition("(")[0]
        if " = -1 " in line or str(below) not in line:
            continue
        paths = [os.path.normpath(os.path.join(*found)) for found in _AT.findall(line)]
        match = _FD.match(line)
        if name == "openat" and "O_EXCL" in line:
            contents[paths[0]] = "its content"
            made(paths[0])
        elif name in ("write", "fchmod", "fchown") and match:
            contents[match[1]] = f"after {name}"
        elif name == "fsync" and match:
            contents.pop(match[1], None)
            entries.pop(match[1], None)
            swapped.discard(match[1])
        elif name == "mkdirat":
            made(paths[0])
        elif name == "symlinkat":
            leads[paths[-1]] = os.path.join(os.path.dirname(paths[-1]), re.findall(r'"([^"]*)"', line)[0])
            made(paths[-1])
        elif name.startswith("rename"):
            old, new = paths
            target = leads.pop(old, old)
            wrong += [f"{new} is renamed before {what} is on the disk" for what in pending(target)]
            leads[new] = target
            gone(old)
            made(new)
            swapped.add(os.path.dirname(new))
        elif name == "unlinkat":
            wrong += [f"{paths[0]} is removed before the new name is on the disk" for at in swapped if at in paths[0]]
            gone(paths[0])
    return wrong
