"""A server that misbehaves in one way: real sockets on loopback, and it remembers every byte it was sent."""

from __future__ import annotations

import contextlib
import json
import socket
import ssl
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import trustme

Behaviour = Callable[["Guest"], None]


class Gone(Exception):
    """The client has closed the connection, as it may."""


@dataclass(slots=True)
class Guest:
    """One connection of a client."""

    socket: socket.socket
    number: int
    ending: threading.Event = field(repr=False)
    heard: bytearray = field(default_factory=bytearray, repr=False)
    taken: int = 0

    def request(self) -> bytes:
        """The next whole request, headers and body; others may follow it at once."""
        begun = self.taken
        while b"\r\n\r\n" not in self.heard[begun:]:
            self._hear()
        head, _, _ = bytes(self.heard[begun:]).partition(b"\r\n\r\n")
        length = 0
        for line in head.lower().split(b"\r\n"):
            if line.startswith(b"content-length:"):
                length = int(line.partition(b":")[2])
        self.taken = begun + len(head) + 4 + length
        while len(self.heard) < self.taken:
            self._hear()
        return bytes(self.heard[begun : self.taken])

    def asked(self) -> tuple[str, str, dict[str, str], bytes]:
        """The next request in parts: its method, its path with `/v1/`, its headers and its body."""
        head, _, body = self.request().partition(b"\r\n\r\n")
        first, *lines = head.decode().split("\r\n")
        method, path, _ = first.split(" ")
        return method, path, dict(line.split(": ", 1) for line in lines), body

    def say(self, *parts: bytes | str) -> None:
        for part in parts:
            try:
                self.socket.sendall(part.encode() if isinstance(part, str) else part)
            except OSError:
                raise Gone from None

    def answer(self, status: int, body: bytes | str | object, *headers: str) -> None:
        """One well-formed answer; anything but bytes and text is sent as JSON."""
        raw = body if isinstance(body, bytes) else (body if isinstance(body, str) else json.dumps(body)).encode()
        head = [f"HTTP/1.1 {status} x", "Content-Type: application/json", f"Content-Length: {len(raw)}", *headers]
        self.say("\r\n".join(head) + "\r\n\r\n", raw)

    def drip(self, text: bytes | str, pause: float = 0.05) -> None:
        """A byte at a time."""
        for byte in text.encode() if isinstance(text, str) else text:
            self.say(bytes([byte]))
            if self.ending.wait(pause):
                raise Gone

    def wait(self, seconds: float = 60.0) -> None:
        if self.ending.wait(seconds):
            raise Gone

    def reset(self) -> None:
        """Ends the connection by RST."""
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\x01\x00\x00\x00\x00\x00\x00\x00")
        self.socket.close()
        raise Gone

    def _hear(self) -> None:
        try:
            data = self.socket.recv(65536)
        except OSError:
            raise Gone from None
        if not data:
            raise Gone
        self.heard += data


@dataclass(slots=True)
class Hostile:
    """A listening server; `guests` are the connections it had, each with all that it heard."""

    address: str
    guests: list[Guest] = field(default_factory=list)

    @property
    def heard(self) -> bytes:
        return b"".join(bytes(guest.heard) for guest in self.guests)


def certified(ca_file: Path, *names: str, **options: Any) -> ssl.SSLContext:
    """A server's TLS: a certificate for these names (127.0.0.1 without any) of a new CA, which the file gets."""
    ca, context = trustme.CA(), ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    ca.issue_cert(*(names or ("127.0.0.1",)), **options).configure_cert(context)
    ca.cert_pem.write_to_path(ca_file)
    return context


@contextlib.contextmanager
def serving(behaviour: Behaviour, *, tls: ssl.SSLContext | None = None, host: str = "127.0.0.1") -> Iterator[Hostile]:
    """Gives every connection to `behaviour`, in a thread of its own, and closes it afterwards."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    ending = threading.Event()
    threads: list[threading.Thread] = []
    failures: list[BaseException] = []

    def meet(guest: Guest) -> None:
        try:
            if tls is not None:
                guest.socket = tls.wrap_socket(guest.socket, server_side=True)
            behaviour(guest)
        except (Gone, OSError):
            pass
        except BaseException as error:  # noqa: BLE001 -- told at the end of the test
            failures.append(error)
        finally:
            guest.socket.close()

    def listen() -> None:
        while not ending.is_set():
            try:
                connection, _ = listener.accept()
            except TimeoutError:
                continue
            connection.settimeout(30)
            guest = Guest(connection, len(hostile.guests), ending)
            hostile.guests.append(guest)
            thread = threading.Thread(target=meet, args=(guest,), daemon=True)
            threads.append(thread)
            thread.start()

    with socket.create_server((host, 0), family=family) as listener:
        listener.settimeout(0.05)
        scheme = "http" if tls is None else "https"
        shown = f"[{host}]" if ":" in host else host
        hostile = Hostile(f"{scheme}://{shown}:{listener.getsockname()[1]}")
        accepting = threading.Thread(target=listen, daemon=True)
        accepting.start()
        try:
            yield hostile
        finally:
            ending.set()
            accepting.join()
            for guest in hostile.guests:
                with contextlib.suppress(OSError):
                    guest.socket.shutdown(socket.SHUT_RDWR)
            for thread in threads:
                thread.join(5)
    assert not failures, failures
