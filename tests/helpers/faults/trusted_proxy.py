"""A proxy that a client trusts, before a real server: it may ask for something else, or say more than it heard."""

from __future__ import annotations

import contextlib
import http.client
import ssl
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import urlsplit

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
def upwards(server: Server) -> Iterator[http.client.HTTPSConnection]:
    """The connection to a real server over which one guest's requests are passed on."""
    url, trust = urlsplit(server.address), ssl.create_default_context(cafile=server.ca_file)
    connection = http.client.HTTPSConnection(str(url.hostname), url.port, context=trust, timeout=60)
    with contextlib.closing(connection):
        yield connection


@contextlib.contextmanager
def relaying(server: Server, folder: Path, *, ask: Ask = same, say: Say = as_heard) -> Iterator[Relay]:
    """Passes requests on to `server`; the CA of the proxy's own certificate lies in `folder`."""

    def behave(guest: Guest) -> None:
        with upwards(server) as above:
            while True:
                method, target, headers, body = guest.asked()
                path = target.removeprefix("/v1/")
                relay.asked.append(path)
                above.request(method, f"/v1/{relay.ask(path)}", body or None, headers)
                answer = above.getresponse()
                relay.say(guest, path, answer.status, answer.read())

    context = hostile_server.certified(folder / "relay.pem")
    with hostile_server.serving(behave, tls=context) as proxy:
        relay = Relay(proxy.address, folder / "relay.pem", ask, say)
        yield relay
