"""Run one command of a hook, and kill all that it started when its time is up or the agent is gone.

This is a program of its own, which `host.command` starts for each command. It makes itself the new parent of every
descendant whose own parent has ended (prctl(2), PR_SET_CHILD_SUBREAPER), in whatever session or process group that is.
So as soon as it has no child, nothing of the command is left. It signals its own children only: until it has reaped
one, no other process can get its number. Their children become its own in turn.

It imports the standard library only: the agent gives its text to the interpreter, so that an upgrade of the files
beside an agent that runs cannot mix two versions. Standard input is a socket: the agent writes the command
(`message`), and closes its side to have it killed. The answer is one line, which `host.command` reads.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import select
import signal
import sys
import time

# linux/prctl.h
_PR_SET_NAME, _PR_SET_CHILD_SUBREAPER = 15, 36

_SIZE = 8


def message(
    program: str,
    argv: tuple[str, ...],
    environment: dict[str, str],
    *,
    timeout: float,
    grace: float,
    stuck: float,
) -> bytes:
    """Return what the agent writes: the command, and the seconds until SIGTERM, from then to SIGKILL, and from then on.

    No part of a command can contain NUL (execve(2)).
    """
    variables = [f"{name}={value}" for name, value in environment.items()]
    fields = [str(timeout), str(grace), str(stuck), str(len(argv)), program, *argv, *variables]
    text = b"\0".join(map(os.fsencode, fields))
    return len(text).to_bytes(_SIZE, "big") + text


def main() -> None:
    """Run the command that standard input names, and write how it ended."""
    prctl = ctypes.CDLL(None, use_errno=True).prctl
    prctl(_PR_SET_NAME, b"vaultpki-hook", 0, 0, 0)
    if prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0):
        # A command whose end cannot be promised is not begun.
        _answer(f"refused {ctypes.get_errno()}")
        return
    text = _read(int.from_bytes(_read(_SIZE), "big"))
    timeout, grace, stuck, count, program, *words = text.split(b"\0")
    argv, variables = words[: int(count)], words[int(count) :]
    environment = dict(each.split(b"=", 1) for each in variables)
    if _is_agent_gone(0):
        return
    # The same for every start of the agent, and it keeps no file system from being unmounted.
    os.chdir("/")
    try:
        pid = _spawn(program, argv, environment)
    except OSError as error:
        _answer(f"refused {error.errno}")
        return
    ended = _watch(pid, float(timeout))
    if ended in ("timeout", "stopped"):
        if ended == "timeout":
            _terminate(pid, float(grace))
        left = _kill(pid, float(stuck))
        ended = " ".join([ended, *map(str, left)])
    # What a command that ended by itself has left running goes on, with another parent.
    _answer(ended)


def _spawn(program: bytes, argv: list[bytes], environment: dict[bytes, bytes]) -> int:
    return os.posix_spawn(
        program,
        argv,
        environment,
        file_actions=[(os.POSIX_SPAWN_OPEN, 0, os.devnull, os.O_RDONLY, 0)],
        setsid=True,
        setsigmask=(),
        setsigdef=sorted(signal.valid_signals() - {signal.SIGKILL, signal.SIGSTOP}),
    )


def _read(size: int) -> bytes:
    found = b""
    while len(found) < size:
        more = os.read(0, min(size - len(found), 1 << 20))
        if not more:
            # The agent has gone before it had written the command.
            sys.exit(1)
        found += more
    return found


def _answer(line: str) -> None:
    with contextlib.suppress(OSError):
        os.write(0, line.encode())


def _is_agent_gone(milliseconds: float) -> bool:
    """Wait so long; return True at once when the agent has closed its side, or has ended."""
    waiting = select.poll()
    waiting.register(0, select.POLLIN)
    return bool(waiting.poll(milliseconds))


def _watch(pid: int, timeout: float) -> str:
    """Return how the command ended by itself, or `timeout`, or `stopped`; it is not reaped."""
    until, pause = time.monotonic() + timeout, 1.0
    while (ended := os.waitid(os.P_PID, pid, os.WEXITED | os.WNOHANG | os.WNOWAIT)) is None:
        _reap_all_but(pid)
        if time.monotonic() >= until:
            return "timeout"
        if _is_agent_gone(pause):
            return "stopped"
        pause = min(pause * 2, 50)
    return f"{'exited' if ended.si_code == os.CLD_EXITED else 'killed'} {ended.si_status}"


def _terminate(pid: int, grace: float) -> None:
    """Send SIGTERM to the command's group and to what it has left, and wait until all have ended, or so long."""
    _signal_group(pid, signal.SIGTERM)
    told = {pid}
    until = time.monotonic() + grace
    while time.monotonic() < until:
        for child in set(_children()) - told:
            _signal(child, signal.SIGTERM)
            told.add(child)
        _reap_all_but(pid)
        gone = os.waitid(os.P_PID, pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is not None
        if (gone and _children() == [pid]) or _is_agent_gone(10):
            return


def _kill(pid: int, stuck: float) -> list[int]:
    """Kill everything and reap it; return the children that could not be killed within `stuck` seconds.

    A process that waits for a dead disk cannot be killed, nor one of another user without CAP_KILL.
    """
    # At once, for all processes that fork within the group of the command, which is not reaped yet.
    _signal_group(pid, signal.SIGKILL)
    before: list[int] = []
    until = time.monotonic() + stuck
    while True:
        children = _children()
        for child in children:
            _signal(child, signal.SIGKILL)
        try:
            while os.waitpid(-1, os.WNOHANG)[0]:
                pass
        except ChildProcessError:
            return []
        if time.monotonic() >= until:
            return children
        # Without a pause as long as new ones come: some processes fork faster than they are killed.
        if children == before:
            time.sleep(0.002)
        before = children


def _reap_all_but(pid: int) -> None:
    for child in _children():
        if child != pid:
            with contextlib.suppress(ChildProcessError):
                os.waitpid(child, os.WNOHANG)


def _signal(child: int, number: int) -> None:
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.kill(child, number)


def _signal_group(pid: int, number: int) -> None:
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(pid, number)


def _children() -> list[int]:
    """Return the children of this process, also those that wait to be reaped."""
    own = os.getpid()
    try:
        with open(f"/proc/{own}/task/{own}/children", "rb") as listed:
            return [int(pid) for pid in listed.read().split()]
    except OSError:
        # A kernel without CONFIG_PROC_CHILDREN (proc(5)).
        return [pid for pid in map(int, filter(str.isdigit, os.listdir("/proc"))) if _parent(pid) == own]


def _parent(pid: int) -> int | None:
    """Return the parent of a process; None if the process has gone."""
    try:
        with open(f"/proc/{pid}/stat", "rb") as stat:
            return int(stat.read().rpartition(b")")[2].split()[1])
    except OSError:
        return None


if __name__ == "__main__":
    main()
