"""A port of the host's loopback that a machine of a cluster finds on its own loopback."""

from __future__ import annotations

import contextlib
import functools
import socket
import threading
from collections.abc import Iterator
from contextlib import AbstractContextManager
from urllib.parse import urlsplit

from helpers.kube.machines import Lan, Machine, accepting
from helpers.vault.servers import Server

_MOST = 1 << 16


def forwarded(machine: Machine, port: int) -> AbstractContextManager[int]:
    """Connections to 127.0.0.1:PORT on the machine reach whoever listens there on the host."""
    with machine.network():
        listening = socket.create_server(("127.0.0.1", port))
    return accepting(listening, functools.partial(_forward, port))


@contextlib.contextmanager
def everywhere(network: Lan, server: Server) -> Iterator[None]:
    """Every machine finds the Vault server, which is on the host, by the same address as the host does."""
    port = urlsplit(server.address).port
    assert port is not None, server.address
    with contextlib.ExitStack() as stack:
        for machine in (network.outside, *network.machines.values()):
            stack.enter_context(forwarded(machine, port))
        yield


def _forward(port: int, near: socket.socket) -> None:
    with near, contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port)) as far:
        back = threading.Thread(target=_copy, args=(far, near), daemon=True)
        back.start()
        _copy(near, far)
        back.join()


def _copy(source: socket.socket, target: socket.socket) -> None:
    with contextlib.suppress(OSError):
        while data := source.recv(_MOST):
            target.sendall(data)
    with contextlib.suppress(OSError):
        target.shutdown(socket.SHUT_WR)
