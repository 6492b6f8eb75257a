"""The program of a `Component`; it imports little, since tests start it hundreds of times."""

from __future__ import annotations

import _thread
import errno
import os
import socket
import sys
import time

HOST = "127.0.0.1"
POLL = 0.02
PARENT = "COMPONENT_OF"
"""The variable that holds the process id of the test, with which this one ends."""


def text(file: str) -> str:
    """What is in a file; nothing where it is missing."""
    try:
        with open(file) as read:
            return read.read()
    except FileNotFoundError:
        return ""


def restart(folder: str) -> None:
    """What `Component.hook` runs: have the component of this folder restarted, and wait for its next process."""
    wanted, pid = f"{folder}/restart", f"{folder}/pid"
    before = text(pid)
    open(wanted, "a").close()
    until = time.monotonic() + 60
    while os.path.exists(wanted) or text(pid) in ("", before):
        assert time.monotonic() < until, f"nobody restarts the component of {folder}"
        time.sleep(POLL)


def _write(name: str, content: str) -> None:
    with open(f"{name}.new", "w") as new:
        new.write(content)
    os.replace(f"{name}.new", name)


def _listening(port: int, seconds: float = 50.0) -> socket.socket:
    """Listen on a port that was free before; a connection of somebody else may have it for a while."""
    until = time.monotonic() + seconds
    while True:
        try:
            return socket.create_server((HOST, port), backlog=64)
        except OSError as error:
            if error.errno != errno.EADDRINUSE or time.monotonic() > until:
                raise
        time.sleep(POLL)


def _answer(connection: socket.socket, flags: dict[str, str], *, tls: bool) -> None:
    try:
        with connection, _wrapped(connection, flags) if tls else connection as talk, talk.makefile("rb") as asked:
            path = asked.readline().split()[1].decode().partition("?")[0]
            while asked.readline().strip():
                pass
            status, _, said = (text("answer") or "200 ok").partition(" ")
            if path not in ("/readyz", "/healthz", "/livez"):
                status, said = "404", ""
            talk.sendall(f"HTTP/1.0 {status} \r\n\r\n{said}".encode())
    except (OSError, IndexError):
        # Who asked has gone, or spoke no TLS.
        return


def _wrapped(connection: socket.socket, flags: dict[str, str]) -> socket.socket:
    """Read the pair anew for each connection, as components of Kubernetes do when the files change."""
    import ssl

    names = ("cert-file", "key-file") if "cert-file" in flags else ("tls-cert-file", "tls-private-key-file")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(*(flags[name] for name in names))
    return context.wrap_socket(connection, server_side=True)


def _serve(flags: dict[str, str]) -> None:
    url = (
        flags.get("listen-metrics-urls")
        or flags.get("listen-client-urls")
        or (f"http://{HOST}:{flags['healthz-port']}" if "healthz-port" in flags else "")
        or f"https://{HOST}:{flags['secure-port']}"
    )
    server = _listening(int(url.rstrip("/").rpartition(":")[2]))
    _write("serving", str(os.getpid()))
    while True:
        connection, _ = server.accept()
        _thread.start_new_thread(_answer, (connection, flags), {"tls": url.startswith("https:")})


def main() -> None:
    """Be a component in the folder where this was started, or have one restarted."""
    if sys.argv[1:2] == ["restart"]:
        restart(sys.argv[2])
        return
    # The test may have ended before the kernel was told to end this one with it (prctl(2), PR_SET_PDEATHSIG).
    if os.getppid() != int(os.environ[PARENT]):
        sys.exit(1)
    _write("pid", str(os.getpid()))
    started = time.monotonic()
    while (slow := text("slow")) and time.monotonic() < started + float(slow):
        time.sleep(POLL)
    print("serves", *sys.argv[1:], flush=True)
    _serve(dict(word.removeprefix("--").split("=", 1) for word in sys.argv[1:]))


if __name__ == "__main__":
    main()
