"""The tests' own balancer leaves no connection open behind it: such a warning would fail a run in which all is well."""

from __future__ import annotations

import contextlib
import gc
import socket
import sys
import threading
from collections.abc import Iterator
from typing import cast

import pytest

from helpers.kube import balancer
from helpers.kube.balancer import Balancer
from helpers.kube.machines import Machine


class Here:
    """Stands for a machine: its network is the one of this process."""

    @contextlib.contextmanager
    def network(self) -> Iterator[None]:
        yield


@contextlib.contextmanager
def silent(address: str, port: int) -> Iterator[None]:
    """A server that takes connections and never reads."""
    taken: list[socket.socket] = []
    with socket.create_server((address, port)) as server:

        def take() -> None:
            with contextlib.suppress(OSError):
                while True:
                    taken.append(server.accept()[0])

        thread = threading.Thread(target=take, daemon=True)
        thread.start()
        yield
        server.shutdown(socket.SHUT_RDWR)
        thread.join(10)
    for each in taken:
        each.close()


def test_its_end_closes_what_comes_in_that_moment_and_what_nobody_reads(monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    monkeypatch.setattr(balancer, "OUTSIDE", "127.0.0.1")
    left: list[object] = []
    monkeypatch.setattr(sys, "unraisablehook", left.append)
    with contextlib.ExitStack() as stack:
        stack.enter_context(silent("127.0.0.2", port))
        with Balancer(cast(Machine, Here()), {"cp-1": "127.0.0.2"}, port).running():
            full = stack.enter_context(socket.create_connection(("127.0.0.1", port)))
            full.settimeout(0.5)
            with contextlib.suppress(TimeoutError):
                while True:
                    full.sendall(b"x" * 65536)
            for _ in range(20):
                stack.enter_context(socket.create_connection(("127.0.0.1", port)))
    gc.collect()
    assert left == []
