"""When a component of which no process is seen is known to be stopped: on made-up /proc folders."""

from __future__ import annotations

import os
import socket
from pathlib import Path

import pytest

from vaultpki.host import stopped
from vaultpki.host.stopped import is_stopped

LOCAL = """\
Local:
  +-- 0.0.0.0/0 3 0 5
     |-- 10.0.0.0
        /24 link UNICAST
     |-- 10.0.0.11
        /32 host LOCAL
     |-- 10.0.0.255
        /32 link BROADCAST
"""
HEAD = "  sl  local_address rem_address   st tx_queue rx_queue\n"


def listener(address: str, port: int, state: str = "0A") -> str:
    return f"   0: {address}:{port:04X} 00000000:0000 {state} 00000000:00000000\n"


def machine(folder: Path, tcp: str = "", tcp6: str = "", *, boots: str = "systemd", network: str = "self") -> str:
    """A /proc of a machine whose process 1 is `boots`, in the network of this process or in another one."""
    for name in ("self", "1"):
        (folder / name / "net").mkdir(parents=True)
    (folder / "self/ns").mkdir()
    (folder / "self/ns/pid").touch()
    (folder / "self/net/dev").touch()
    os.link(folder / "self/net/dev", folder / "1/net/dev") if network == "self" else (folder / "1/net/dev").touch()
    (folder / "1/comm").write_text(f"{boots}\n")
    (folder / "1/cmdline").write_text("/sbin/init\0")
    (folder / "self/net/fib_trie").write_text(LOCAL)
    (folder / "self/net/if_inet6").write_text("fd000000000000000000000000000011 02 40 00 80     eth0\n")
    (folder / "self/net/tcp").write_text(HEAD + tcp)
    (folder / "self/net/tcp6").write_text(HEAD + tcp6)
    return str(folder)


def test_it_is_stopped_where_nothing_listens_and_all_processes_are_seen(tmp_path: Path) -> None:
    assert is_stopped("kube-apiserver", ["10.0.0.11"], [], machine(tmp_path))


@pytest.mark.parametrize(
    ("tcp", "tcp6"),
    [
        (listener("00000000", 6443), ""),
        (listener("0100007F", 6443), ""),
        (listener("0B00000A", 6443), ""),
        ("", listener("0" * 32, 6443)),
        ("", listener("0000000000000000FFFF00000B00000A", 6443)),
        (listener("00000000", 22) + listener("00000000", 443), ""),
    ],
)
def test_whatever_listens_at_its_address_may_be_it(tmp_path: Path, tcp: str, tcp6: str) -> None:
    assert not is_stopped("kube-apiserver", ["10.0.0.11"], [443], machine(tmp_path, tcp, tcp6))


@pytest.mark.parametrize(
    "tcp",
    [
        # Another port, an address of another cluster on this machine, and a connection to that port.
        listener("00000000", 6444),
        listener("0C00000A", 6443),
        listener("00000000", 22) + listener("0B00000A", 6443, "01"),
    ],
)
def test_what_listens_elsewhere_is_something_else(tmp_path: Path, tcp: str) -> None:
    assert is_stopped("kube-apiserver", ["10.0.0.11"], [], machine(tmp_path, tcp))


def test_a_component_whose_addresses_are_of_no_interface_here_may_run_on_another_machine(tmp_path: Path) -> None:
    folder = machine(tmp_path)
    assert not is_stopped("kube-apiserver", ["10.0.0.12", "127.0.0.1"], [], folder)
    # A network and a broadcast address are none of its own.
    assert not is_stopped("kube-apiserver", ["10.0.0.0", "10.0.0.255"], [], folder)
    for one in (["10.0.0.12", "10.0.0.11"], ["fd00::11"], ["127.0.0.1"]):
        assert is_stopped("kube-apiserver", one, [], folder)


def test_a_process_that_does_not_see_the_machine_knows_nothing(tmp_path: Path) -> None:
    """A pod with processes of its own, one in a network of its own, and one from which others' are hidden."""
    assert not is_stopped("etcd", [], [], machine(tmp_path / "pod", boots="pause"))
    assert not is_stopped("etcd", [], [], machine(tmp_path / "network", network="its own"))
    hidden = machine(tmp_path / "hidden")
    Path(hidden, "1/cmdline").unlink()
    assert not is_stopped("etcd", [], [], hidden)
    unread = machine(tmp_path / "unread")
    Path(unread, "self/net/tcp").unlink()
    assert not is_stopped("etcd", [], [], unread)
    old = machine(tmp_path / "old")
    Path(old, "self/net/tcp6").unlink()
    assert is_stopped("etcd", [], [], old)


def test_a_real_listener_is_read_from_the_kernel() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        found = list(stopped._listening("/proc"))
    assert server is not None and any(address.is_loopback for address, _ in found)
    assert any(address.is_loopback for address in stopped._local("/proc"))
