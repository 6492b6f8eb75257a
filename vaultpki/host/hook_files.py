"""Check the files that a command of a hook names: who can change one of them could run commands as the agent's user.

Checked are, with the rule of `permissions`: the program, the interpreter of a script (`#!`) and what that line names,
every argument that names a file, and programs that `env`, `sh` and the like are told to run. Not checked is what a
program or script reads by itself.
"""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import stat
from collections.abc import Collection, Iterator, Sequence
from typing import Final

from vaultpki.config.hooks import CARRIERS
from vaultpki.disk.files import closing
from vaultpki.errors import StoreError
from vaultpki.model import Hook
from vaultpki.values import permissions

PATH: Final = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
"""The PATH of hooks, and of programs that are asked something; that of the agent does not count."""

WORKING_FOLDER: Final = "/"
"""The folder in which a hook runs, so that a relative path means the same wherever the agent was started."""

# The kernel takes as many interpreters of interpreters, and as much of the first line (execve(2)).
_MOST_INTERPRETERS: Final = 5
_FIRST_LINE: Final = 256

# Programs whose first argument beside options, NAME=VALUE and numbers is what they run.
_RUN_THE_FIRST: Final = frozenset({"sh", "bash", "dash", "env", "nice", "ionice", "nohup", "setsid", "timeout"})
_NO_PROGRAM: Final = re.compile(r"-.*|[A-Za-z_][A-Za-z0-9_]*=.*|[0-9.]+[smhd]?", re.DOTALL)
_INTERPRETERS: Final = re.compile(
    r"(?:python|perl|ruby|lua|php|tclsh|node|nodejs|awk|gawk|mawk|ksh|mksh|zsh|fish|csh|tcsh|ash)[0-9.]*"
)
# What may stand between the words of a command that is one argument, as for `sh -c`.
_BETWEEN: Final = re.compile(r"[\s;&|()<>`\"'=,:{}]+")


def refuse(argv: Sequence[str], *, path: str, own: Collection[str] = ()) -> None:
    """Raise StoreError if other users could change a file that this command names.

    Programs without a slash are looked up in `path`. Arguments below the folders `own` are certificates of this node,
    which may have another owner: they are passed over.
    """
    _Command(path, tuple(f"{folder}/" for folder in own)).check(argv, 0)


def why_refused(hook: Hook, *, path: str, own: Collection[str] = ()) -> str | None:
    """Return why a hook would not be run, with its place in agent.yaml; None if nothing is wrong with its files."""
    if hook.kind == "static_pod":
        return None
    try:
        refuse(hook.argv if hook.kind == "command" else ("systemctl",), path=path, own=own)
    except StoreError as error:
        return f"{hook.place}: {error}"
    return None


class _Command:
    """What has been checked of a command so far."""

    def __init__(self, path: str, own: tuple[str, ...]) -> None:
        self._path, self._own = path, own
        self._seen: set[str] = set()

    def check(self, words: Sequence[str], depth: int) -> None:
        """Check a program and its arguments."""
        if "/" in words[0]:
            # Whether it may be executed counts for nothing: its owner could change that.
            if not os.path.lexists(_from_root(words[0])):
                raise _missing(words[0])
            self._file(_from_root(words[0]), depth)
        else:
            self._found(words[0], depth)
        name = os.path.basename(words[0])
        carries = name in CARRIERS
        for word in words[1:]:
            for named in _named(word):
                file = _from_root(named)
                if not file.startswith(self._own) and _is_file(file):
                    self._file(file, depth)
            if carries:
                for each in filter(None, _BETWEEN.split(word)):
                    self._found(each, depth)
        if name in _RUN_THE_FIRST or _INTERPRETERS.fullmatch(name):
            _refuse_missing(words[1:])

    def _found(self, name: str, depth: int) -> None:
        """Check a program that is looked up by its name, if there is one."""
        found = None if "/" in name else shutil.which(name, path=self._path)
        if found is not None:
            self._file(found, depth)

    def _file(self, file: str, depth: int) -> None:
        """Check a file, and if it is a script, what its first line names."""
        if file in self._seen:
            return
        self._seen.add(file)
        interpreter = _interpreter(_first_line(file))
        if not interpreter:
            return
        if depth >= _MOST_INTERPRETERS:
            raise StoreError(
                f"{file}: its interpreter is a script of a script, and so on; name a program in its #! line"
            )
        self.check(interpreter, depth + 1)


def _named(word: str) -> Iterator[str]:
    """Yield what may be the path of a file in an argument: all of it, or a part such as in --option=/path."""
    yield word
    if word.startswith("-") and "/" in word:
        yield word[word.index("/") :]
    yield from (each for each in (word.partition("=")[2], *_BETWEEN.split(word)) if "/" in each)


def _is_file(file: str) -> bool:
    with contextlib.suppress(OSError, ValueError):
        return stat.S_ISREG(os.stat(file).st_mode)
    return False


def _first_line(file: str) -> bytes:
    """Return the first line of a file, as far as the kernel looks at it; StoreError if others could change the file."""
    try:
        fd = permissions.open_file(file)
    except PermissionError:
        # It can be run, but not read.
        with contextlib.suppress(OSError):
            permissions.refuse_file(file)
        return b""
    except OSError:
        # It has gone, or cannot be reached: nor can it be run.
        return b""
    with closing(fd):
        return os.read(fd, _FIRST_LINE).partition(b"\n")[0]


def _interpreter(line: bytes) -> list[str]:
    """Return the words after `#!`; none if the file is not a script."""
    # A carriage return, as editors on Windows leave it, is part of the name.
    return [os.fsdecode(word) for word in re.split(rb"[ \t]+", line[2:]) if word] if line.startswith(b"#!") else []


def _refuse_missing(words: Sequence[str]) -> None:
    """Raise StoreError if the file that is to be run is missing: others could make it before it is run."""
    words = [word for word in words if not _NO_PROGRAM.fullmatch(word)]
    if words and "/" in words[0] and not _BETWEEN.search(words[0]) and not os.path.lexists(_from_root(words[0])):
        raise _missing(words[0])


def _missing(file: str) -> StoreError:
    return StoreError(f"{ascii(file)[1:-1]}: there is no such file; correct the hook in agent.yaml, or the script")


def _from_root(path: str) -> str:
    return os.path.normpath(os.path.join(WORKING_FOLDER, path))
