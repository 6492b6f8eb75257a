"""`vaultpki` as a process that is forked from one with all modules loaded, for a third of the CPU time.

It has its own arguments, environment, folder, umask and streams, and runs as `python -m vaultpki` does. What differs is
the start: others see another command line, and all is imported. A test of these starts a process of its own, and so
does that of README.md, which shows that commands start as people start them; the other pages run forks.
"""

from __future__ import annotations

import atexit
import contextlib
import functools
import gc
import importlib
import io
import json
import os
import pkgutil
import runpy
import secrets
import select
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Final, Self

import vaultpki

ROOM: Final = 1 << 20
_CHECKOUT: Final = str(Path(__file__).parents[3])


class Fork:
    """A command that has begun on these streams: its standard input, output and errors; as a `subprocess.Popen`.

    `replaced` has other values for names of the product, as `module:name`.
    """

    def __init__(
        self,
        arguments: Sequence[str],
        env: Mapping[str, str],
        streams: Sequence[int],
        *,
        umask: int = 0o022,
        stops: bool = False,
        replaced: Mapping[str, object] | None = None,
    ) -> None:
        self._ends, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        request = [list(arguments), dict(env), os.getcwd(), umask, stops, dict(replaced or {})]
        given, output, errors = streams
        with theirs:
            places = [output, errors, theirs.fileno(), given]
            driver = _driver(env.get("PYTHONPATH", _CHECKOUT))
            socket.send_fds(driver, [json.dumps(request).encode()], places)
        self.arguments, self.pid = list(arguments), _number(self._ends)
        self.returncode: int | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._ends.close()

    def wait(self, timeout: float | None = None) -> int:
        if self.returncode is None:
            self._ends.settimeout(timeout)
            try:
                self.returncode = _number(self._ends)
            except TimeoutError:
                raise subprocess.TimeoutExpired(self.arguments, timeout or 0) from None
            self._ends.close()
        return self.returncode

    def poll(self) -> int | None:
        with contextlib.suppress(subprocess.TimeoutExpired, BlockingIOError):
            self.wait(0)
        return self.returncode

    def send_signal(self, number: int) -> None:
        if self.poll() is None:
            os.kill(self.pid, number)

    def kill(self) -> None:
        self.send_signal(signal.SIGKILL)


def run(
    arguments: Sequence[str], *, env: Mapping[str, str], umask: int, timeout: float, strace: Sequence[str] = ()
) -> subprocess.CompletedProcess[str]:
    """Run `vaultpki` with these arguments as `subprocess.run` would, with nothing on standard input.

    With options for `strace`, which name a log file, the process is followed from its first step of its own on.
    Raises subprocess.TimeoutExpired after `timeout` seconds, when the process has been killed.
    """
    with (
        open(os.devnull) as nothing,
        tempfile.TemporaryFile("w+") as output,
        tempfile.TemporaryFile("w+") as errors,
    ):
        streams = [nothing.fileno(), output.fileno(), errors.fileno()]
        with (
            Fork(arguments, env, streams, umask=umask, stops=bool(strace)) as fork,
            _followed(fork.pid, strace) if strace else contextlib.nullcontext(),
        ):
            try:
                status = fork.wait(timeout)
            except subprocess.TimeoutExpired:
                fork.kill()
                fork.wait()
                raise
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


_PROGRAM = """\
#!{python} -IS
import json, os, signal, socket, sys
ENDS = {{signal.SIGINT, signal.SIGTERM}}
signal.pthread_sigmask(signal.SIG_BLOCK, ENDS)
door = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
door.connect({place!r})
request = [sys.argv[1:], dict(os.environ), os.getcwd(), os.umask(0), False, {{}}]
socket.send_fds(door, [json.dumps(request).encode()], [0, 1, 2])
pid = int(door.recv(64))
for number in ENDS:
    signal.signal(number, lambda number, _: os.kill(pid, number))
signal.pthread_sigmask(signal.SIG_UNBLOCK, ENDS)
status = int(door.recv(64))
sys.exit(status if status >= 0 else 128 - status)
"""


@contextlib.contextmanager
def program(path: Path) -> Iterator[None]:
    """Make a program that a shell calls as `vaultpki`: a fork with the three streams of the caller, who signals it."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as door:
        # An abstract name (unix(7)) is short, wherever the tests' folder is.
        place = f"\0vaultpki-{secrets.token_hex(16)}"
        door.bind(place)
        door.listen(64)
        path.write_text(_PROGRAM.format(python=sys.executable, place=place))
        path.chmod(0o755)
        passing = threading.Thread(target=_pass_on, args=(door,), daemon=True)
        passing.start()
        yield
        door.shutdown(socket.SHUT_RDWR)
        passing.join()


def _pass_on(door: socket.socket) -> None:
    # The end of the door is an error of `accept`.
    with contextlib.suppress(OSError):
        while True:
            caller, _ = door.accept()
            with caller:
                request, (given, *places), _, _ = socket.recv_fds(caller, ROOM, 3)
                socket.send_fds(_driver(_CHECKOUT), [request], [*places, caller.fileno(), given])
                for each in (given, *places):
                    os.close(each)


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
            request, places, _, _ = socket.recv_fds(calls, ROOM, 4)
            if not request:
                return
            pid = os.fork()
            if pid == 0:
                _become(request, places)
                return
            caller = socket.socket(fileno=places.pop(2))
            for each in places:
                os.close(each)
            with contextlib.suppress(OSError):
                caller.send(str(pid).encode())
            ended = os.pidfd_open(pid)
            running[ended] = (pid, caller)
            ready.register(ended, select.POLLIN)


def _become(request: bytes, places: Sequence[int]) -> None:
    arguments, environment, folder, umask, stops, replaced = json.loads(request)
    for place, value in replaced.items():
        module, _, name = place.partition(":")
        setattr(sys.modules[module], name, value)
    output, errors, _, given = places
    for number, place in enumerate((given, output, errors)):
        os.dup2(place, number)
    if os.isatty(0):
        # A session of its own, which no signal to the tests' terminal reaches.
        os.setsid()
        # As Python has it where it starts on one (`sys.stdout`).
        assert isinstance(sys.stdout, io.TextIOWrapper)
        sys.stdout.reconfigure(line_buffering=True)
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
