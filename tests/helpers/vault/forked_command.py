"""`vaultpki` as a process that is forked from one with all modules loaded, for a third of the CPU time.

It has its own arguments, environment, folder, umask and streams, and runs as `python -m vaultpki` does. What differs is
the start: others see another command line, and all is imported. A test of these starts a process of its own, and so
do the tests of the pages, which run every command.
"""

from __future__ import annotations

import atexit
import contextlib
import functools
import gc
import importlib
import json
import os
import pkgutil
import runpy
import select
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Final

import vaultpki

ROOM: Final = 1 << 20
_CHECKOUT: Final = str(Path(__file__).parents[3])


def run(
    arguments: Sequence[str], *, env: Mapping[str, str], umask: int, timeout: float, strace: Sequence[str] = ()
) -> subprocess.CompletedProcess[str]:
    """Run `vaultpki` with these arguments as `subprocess.run` would, with nothing on standard input.

    With options for `strace`, which name a log file, the process is followed from its first step of its own on.
    Raises subprocess.TimeoutExpired after `timeout` seconds, when the process has been killed.
    """
    request = json.dumps([list(arguments), dict(env), os.getcwd(), umask, bool(strace)]).encode()
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with tempfile.TemporaryFile("w+") as output, tempfile.TemporaryFile("w+") as errors, ours:
        with theirs:
            socket.send_fds(
                _driver(env.get("PYTHONPATH", _CHECKOUT)),
                [request],
                [output.fileno(), errors.fileno(), theirs.fileno()],
            )
        pid = _number(ours)
        ours.settimeout(timeout)
        with _followed(pid, strace) if strace else contextlib.nullcontext():
            try:
                status = _number(ours)
            except TimeoutError:
                os.kill(pid, signal.SIGKILL)
                ours.settimeout(None)
                _number(ours)
                raise subprocess.TimeoutExpired(list(arguments), timeout) from None
        for stream in (output, errors):
            stream.seek(0)
        return subprocess.CompletedProcess(list(arguments), status, output.read(), errors.read())


@contextlib.contextmanager
def _followed(pid: int, options: Sequence[str]) -> Iterator[None]:
    """Let a process that has stopped itself go on under strace, and wait for the end of strace's log."""
    while "State:\tT" not in Path(f"/proc/{pid}/status").read_text():
        time.sleep(0.002)
    command = ["strace", "-f", "-y", *options, "-p", str(pid)]
    with subprocess.Popen(command, stdin=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True) as tracer:
        # Not before strace says so: until then it would miss calls.
        said = tracer.stderr.readline() if tracer.stderr else ""
        os.kill(pid, signal.SIGCONT)
        assert said == f"strace: Process {pid} attached\n", said
        yield


def _number(answers: socket.socket) -> int:
    answer = answers.recv(ROOM)
    assert answer, "the process that commands are forked from has ended"
    return int(answer)


@functools.cache
def _driver(path: str) -> socket.socket:
    """Start the process to fork from, with this PYTHONPATH; it ends with this one. Return the way to it."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with theirs:
        driver = subprocess.Popen(
            [sys.executable, "-P", __file__, str(theirs.fileno())],
            env={"PATH": os.defpath, "PYTHONPATH": path, "LC_ALL": "C.UTF-8"},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            pass_fds=[theirs.fileno()],
        )

    def end() -> None:
        ours.close()
        driver.wait()

    atexit.register(end)
    return ours


def main(place: str) -> None:
    """Fork a command for each request, tell its pid at once and its exit status at its end."""
    for module in pkgutil.walk_packages(vaultpki.__path__, "vaultpki."):
        if module.name != "vaultpki.__main__":
            importlib.import_module(module.name)
    # A checkout asks git for it, once for all forks.
    assert vaultpki.__version__
    # What is here is never collected, so no fork copies the memory that a collection would write to.
    gc.freeze()
    calls = socket.socket(fileno=int(place))
    running: dict[int, tuple[int, socket.socket]] = {}
    ready = select.poll()
    ready.register(calls, select.POLLIN)
    while True:
        for descriptor, _ in ready.poll():
            if descriptor in running:
                ready.unregister(descriptor)
                os.close(descriptor)
                pid, caller = running.pop(descriptor)
                status = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
                # A caller may have been killed.
                with caller, contextlib.suppress(OSError):
                    caller.send(str(status).encode())
                continue
            request, places, _, _ = socket.recv_fds(calls, ROOM, 3)
            if not request:
                return
            pid = os.fork()
            if pid == 0:
                _become(request, places)
                return
            for each in places[:2]:
                os.close(each)
            caller = socket.socket(fileno=places[2])
            with contextlib.suppress(OSError):
                caller.send(str(pid).encode())
            ended = os.pidfd_open(pid)
            running[ended] = (pid, caller)
            ready.register(ended, select.POLLIN)


def _become(request: bytes, places: Sequence[int]) -> None:
    arguments, environment, folder, umask, stops = json.loads(request)
    os.dup2(places[0], 1)
    os.dup2(places[1], 2)
    os.closerange(3, 1 << 20)
    os.environ.clear()
    os.environ.update(environment)
    os.chdir(folder)
    os.umask(umask)
    # Where `python -m` has the folder it was started in.
    sys.path.insert(0, folder)
    sys.argv = ["vaultpki", *arguments]
    if stops:
        os.kill(os.getpid(), signal.SIGSTOP)
    runpy.run_module("vaultpki", run_name="__main__", alter_sys=True)


if __name__ == "__main__":
    main(sys.argv[1])
