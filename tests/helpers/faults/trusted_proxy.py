"""A proxy that a client trusts, before a real server: it may ask for something else, or say more than it heard."""

from __future__ import annotations

import contextlib
import http.client
import ssl
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import urlsplit

import trustme

from helpers.faults import hostile_server
from helpers.faults.hostile_server import Guest
from helpers.vault.servers import Server

# The guest, the path it asked for, and the status and body that the server gave.
Say = Callable[[Guest, str, int, bytes], None]
# The path to ask the server for in place of the one asked for.
Ask = Callable[[str], str]


@dataclass(slots=True)
class Relay:
    """A running proxy; `asked` are the paths that came, in order. `ask` and `say` may be exchanged at any time."""

    address: str
    ca_file: Path
    ask: Ask
    say: Say
    asked: list[str] = field(default_factory=list)

    @property
    def environment(self) -> dict[str, str]:
        """What sends a person's command here in place of the server."""
        return {"VAULT_ADDR": self.address, "VAULT_CACERT": str(self.ca_file)}


def same(path: str) -> str:
    return path


def as_heard(guest: Guest, path: str, status: int, body: bytes) -> None:
    guest.answer(status, body)


@contextlib.contextmanager
def relaying(server: Server, folder: Path, *, ask: Ask = same, say: Say = as_heard) -> Iterator[Relay]:
    """Passes requests on to `server`; the CA of the proxy's own certificate lies in `folder`."""
    ca = trustme.CA()
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    ca.issue_cert("127.0.0.1").configure_cert(context)
    ca_file = folder / "relay.pem"
    ca.cert_pem.write_to_path(ca_file)
    url = urlsplit(server.address)
    upwards = ssl.create_default_context(cafile=server.ca_file)

    def behave(guest: Guest) -> None:
        while True:
            head, _, body = guest.request().partition(b"\r\n\r\n")
            first, *lines = head.decode().split("\r\n")
            method, target, _ = first.split(" ")
            path = target.removeprefix("/v1/")
            relay.asked.append(path)
            headers = {name: value for name, _, value in (line.partition(": ") for line in lines) if name != "Host"}
            above = http.client.HTTPSConnection(str(url.hostname), url.port, context=upwards, timeout=30)
            with contextlib.closing(above):
                above.request(method, f"/v1/{relay.ask(path)}", body or None, headers)
                answer = above.getresponse()
                content = answer.read()
            relay.say(guest, path, answer.status, content)

    with hostile_server.serving(behave, tls=context) as proxy:
        relay = Relay(proxy.address, ca_file, ask, say)
        yield relay
