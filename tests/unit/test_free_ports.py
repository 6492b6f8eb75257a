"""The ports that tests' servers get are theirs, also while they are restarted."""

from __future__ import annotations

import secrets
import socket
from pathlib import Path

import pytest

from helpers.node.node_components import free_port
from helpers.vault.servers import free_ports


def test_no_connection_gets_the_port_of_a_server_that_is_restarted() -> None:
    first, last = map(int, Path("/proc/sys/net/ipv4/ip_local_port_range").read_text().split())
    found = free_ports(50)
    assert len(set(found)) == 50
    assert not [port for port in [*found, free_port()] if first <= port <= last]


def test_a_port_that_somebody_has_is_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    one, other = free_ports(2)
    with socket.create_server(("127.0.0.1", one)):
        drawn = iter([one, other])
        monkeypatch.setattr(secrets, "choice", lambda among: next(drawn))
        assert free_ports(1) == [other]
