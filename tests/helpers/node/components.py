"""A small real process that stands for a component of a node: its name, its flags, and its own health endpoint.

It is a program of its own, started as `etcd` and the like with the flags of the real one. Its folder holds what a test
may change: `answer`, the status and the text of the endpoint, and `slow`, for how many seconds it does not listen.
"""

from __future__ import annotations

import contextlib
import errno
import http.server
import os
import shlex
import ssl
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

HOST = "127.0.0.1"
POLL = 0.02


@dataclass(slots=True)
class Component:
    """A component; `flags` are as the real one has them, and say where it listens.

    With a `version` (v1.36.3) the program that it was started as prints that as Kubernetes' programs do.
    """

    name: str
    folder: Path
    flags: Sequence[str]
    starts: int = 0
    version: str = ""
    running: subprocess.Popen[bytes] | None = None
    lock: threading.RLock = field(default_factory=threading.RLock)

    def __post_init__(self) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        if self.version:
            self.upgrade(self.version)
        else:
            (self.folder / self.name).symlink_to(os.path.realpath(sys.executable))

    def upgrade(self, version: str) -> None:
        """Replace its program, as a package does; what runs is the one of before until the next start."""
        new = self.folder / f"{self.name}.new"
        new.write_text(f"#!/bin/sh\necho Kubernetes {version}\n")
        new.chmod(0o755)
        new.replace(self.folder / self.name)

    @property
    def pid(self) -> int:
        assert self.running is not None, f"{self.name} was not started"
        return self.running.pid

    @property
    def hook(self) -> list[str]:
        """A hook that has it restarted while `supervised`, and waits for that."""
        return [sys.executable, __file__, "restart", str(self.folder)]

    def answers(self, status: int, text: str = "") -> None:
        """Let its endpoint answer so, at once and after a restart."""
        new = self.folder / "answer.new"
        new.write_text(f"{status} {text}")
        new.replace(self.folder / "answer")

    def slow(self, seconds: float = float("inf")) -> None:
        """Let it listen only so long after its next start, or once it is released."""
        (self.folder / "slow").write_text(str(seconds))

    def release(self) -> None:
        """Let it listen at once."""
        (self.folder / "slow").unlink()

    def start(self) -> None:
        from helpers.vault.servers import tied

        with self.lock:
            self.stop()
            (self.folder / "pid").unlink(missing_ok=True)
            command = [str(self.folder / self.name), "-I", "-S", __file__, *self.flags]
            if self.version:
                # Python under the name of a program that says its version.
                command = ["/bin/bash", "-c", 'exec -a "$1" "$0" "${@:2}"', os.path.realpath(sys.executable), *command]
            with (self.folder / "log").open("ab") as log:
                self.running = subprocess.Popen(
                    tied(*command), cwd=self.folder, stdin=subprocess.DEVNULL, stdout=log, stderr=log
                )
            self.starts += 1
            # By then it has its name and its flags.
            _wait((self.folder / "pid").exists, lambda: f"{self.name} did not start")

    def serves(self) -> None:
        """Wait until the process that runs listens."""
        _wait(
            lambda: _text(self.folder / "serving") == _text(self.folder / "pid") != "",
            lambda: f"{self.name} does not serve: {_text(self.folder / 'log')[-1000:]}",
        )

    def restart(self) -> None:
        """Have it restarted while `supervised`, as a person does, and wait until it listens."""
        _restart(self.folder)
        self.serves()

    def stop(self) -> None:
        with self.lock:
            if self.running is not None:
                self.running.kill()
                self.running.wait()
                self.running = None

    @contextlib.contextmanager
    def supervised(self, watched: Path | None = None) -> Iterator[Component]:
        """Start it, and start it again whenever its `hook` runs or `watched` is replaced, as the kubelet does."""
        ended = threading.Event()
        # The kernel ends it with the thread that has started it.
        thread = threading.Thread(target=self._supervise, args=(watched, ended), name=self.name, daemon=True)
        thread.start()
        try:
            _wait(
                lambda: self.running is not None and (self.folder / "pid").exists(),
                lambda: f"{self.name} did not start",
            )
            yield self
        finally:
            ended.set()
            thread.join()

    def _supervise(self, watched: Path | None, ended: threading.Event) -> None:
        wanted, seen = self.folder / "restart", _version(watched)
        self.start()
        while not ended.wait(POLL):
            now = _version(watched)
            if wanted.exists() or now != seen:
                wanted.unlink(missing_ok=True)
                seen = now
                self.start()
        self.stop()


def _version(path: Path | None) -> tuple[int, int] | None:
    if path is None or not path.exists():
        return None
    about = path.stat()
    return about.st_ino, about.st_mtime_ns


def _wait(reached: Callable[[], bool], otherwise: Callable[[], str], seconds: float = 60.0) -> None:
    until = time.monotonic() + seconds
    while not reached():
        assert time.monotonic() < until, otherwise()
        time.sleep(POLL)


def _text(file: Path) -> str:
    with contextlib.suppress(FileNotFoundError):
        return file.read_text()
    return ""


def _restart(folder: Path) -> None:
    """What `Component.hook` runs."""
    before = _text(folder / "pid")
    (folder / "restart").touch()

    def restarted() -> bool:
        return not (folder / "restart").exists() and _text(folder / "pid") not in ("", before)

    _wait(restarted, lambda: f"nobody restarts the component of {folder}")


def _write(name: str, text: str) -> None:
    new = Path(f"{name}.new")
    new.write_text(text)
    new.replace(name)


class _Health(http.server.BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        said = Path("answer").read_text() if Path("answer").exists() else "200 ok"
        status, _, text = said.partition(" ")
        if self.path.partition("?")[0] not in ("/readyz", "/healthz", "/livez"):
            status, text = "404", ""
        self.send_response(int(status))
        self.end_headers()
        self.wfile.write(text.encode())

    def log_message(self, *_: object) -> None:
        """Say nothing."""


class _TlsServer(http.server.ThreadingHTTPServer):
    """Reads its pair anew for each connection, as components of Kubernetes do when the files change."""

    flags: dict[str, str]

    def finish_request(self, request: Any, client_address: Any) -> None:
        certificate, key = (
            ("cert-file", "key-file") if "cert-file" in self.flags else ("tls-cert-file", "tls-private-key-file")
        )
        tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        tls.load_cert_chain(self.flags[certificate], self.flags[key])
        with contextlib.suppress(OSError), tls.wrap_socket(request, server_side=True) as wrapped:
            super().finish_request(wrapped, client_address)


def _listening(
    made: type[http.server.ThreadingHTTPServer], port: int, seconds: float = 50.0
) -> http.server.ThreadingHTTPServer:
    """Listen on a port that was free before; a connection of somebody else may have it for a while."""
    until = time.monotonic() + seconds
    while True:
        try:
            return made((HOST, port), _Health)
        except OSError as error:
            if error.errno != errno.EADDRINUSE or time.monotonic() > until:
                raise
        time.sleep(POLL)


def _serve(flags: dict[str, str]) -> None:
    url = (
        flags.get("listen-metrics-urls")
        or flags.get("listen-client-urls")
        or (f"http://{HOST}:{flags['healthz-port']}" if "healthz-port" in flags else "")
        or f"https://{HOST}:{flags['secure-port']}"
    )
    parts = urlsplit(url)
    made = _TlsServer if parts.scheme == "https" else http.server.ThreadingHTTPServer
    server = _listening(made, parts.port or 0)
    if isinstance(server, _TlsServer):
        server.flags = flags
    _write("serving", str(os.getpid()))
    server.serve_forever()


def main() -> None:
    """Be a component in the folder where this was started, or have one restarted."""
    if sys.argv[1:2] == ["restart"]:
        _restart(Path(sys.argv[2]))
        return
    _write("pid", str(os.getpid()))
    started, slow = time.monotonic(), Path("slow")
    with contextlib.suppress(FileNotFoundError):
        while time.monotonic() < started + float(slow.read_text()):
            time.sleep(POLL)
    flags = dict(word.removeprefix("--").split("=", 1) for word in sys.argv[1:])
    print("serves", shlex.join(sys.argv[1:]), flush=True)
    _serve(flags)


if __name__ == "__main__":
    main()
