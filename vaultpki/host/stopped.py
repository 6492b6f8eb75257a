"""Tells whether a component of which no process was found is stopped, and not merely unseen by this process.

A stopped component holds nothing, so that a rotation need not wait for it. In doubt it counts as unseen.
"""

from __future__ import annotations

import ipaddress
import os
import socket
import struct
from collections.abc import Collection, Iterator
from typing import Final

# The initial namespace of processes (PROC_PID_INIT_INO of Linux include/linux/proc_ns.h).
_FIRST_NAMESPACE: Final = 0xEFFFFFFC
# What is process 1 of a machine, and of a container that boots as one (LXC, kind).
_BOOTS: Final = b"systemd"

# By default (k8s.io/kubernetes pkg/cluster/ports/ports.go; etcd server/embed/config.go).
_PORTS: Final = {
    "kube-apiserver": {6443},
    "etcd": {2379, 2380},
    "kube-controller-manager": {10257},
    "kube-scheduler": {10259},
    "kubelet": {10250, 10248},
    "kube-proxy": {10256},
}
_LISTENS: Final = "0A"


def is_stopped(component: str, addresses: Collection[str], ports: Collection[int], processes: str = "/proc") -> bool:
    """Return whether a component that no process of this machine seems to run is known not to run.

    It is if this process sees all processes of the machine in the machine's own network, and nothing listens at a port
    of the component: the usual one or one of `ports`, at a loopback address or one of `addresses`. One of those that is
    no loopback address must be of this machine, else the component may run on another one.
    """
    if not _sees_machine(processes):
        return False
    here = {ipaddress.ip_address(each) for each in addresses}
    try:
        elsewhere = {each for each in here if not each.is_loopback}
        if elsewhere and elsewhere.isdisjoint(_local(processes)):
            return False
        found = list(_listening(processes))
    except (OSError, ValueError, IndexError):
        return False
    wanted = _PORTS[component] | {*ports}
    return not any(
        port in wanted and (address.is_unspecified or address.is_loopback or address in here) for address, port in found
    )


def _sees_machine(processes: str) -> bool:
    try:
        own = os.stat(f"{processes}/self/ns/pid").st_ino
        networks = [os.stat(f"{processes}/{each}/net/dev") for each in ("self", "1")]
        with open(f"{processes}/1/comm", "rb") as file:
            boots = file.read(64).strip() == _BOOTS
        # With hidepid the command lines of other users' processes are hidden.
        with open(f"{processes}/1/cmdline", "rb") as file:
            seen = bool(file.read(1))
    except OSError:
        return False
    return seen and (own == _FIRST_NAMESPACE or boots) and os.path.samestat(*networks)


def _local(processes: str) -> Iterator[ipaddress.IPv4Address | ipaddress.IPv6Address]:
    """Yield the addresses of this machine (Linux net/ipv4/fib_trie.c, net/ipv6/addrconf.c)."""
    with open(f"{processes}/self/net/fib_trie", encoding="ascii") as file:
        last = ""
        for line in file:
            if "|--" in line:
                last = line.split()[-1]
            elif "host LOCAL" in line:
                yield ipaddress.IPv4Address(last)
    path = f"{processes}/self/net/if_inet6"
    if os.path.exists(path):
        with open(path, encoding="ascii") as file:
            yield from (ipaddress.IPv6Address(bytes.fromhex(line.split()[0])) for line in file)


def _listening(processes: str) -> Iterator[tuple[ipaddress.IPv4Address | ipaddress.IPv6Address, int]]:
    """Yield address and port of each TCP listener of this network. Linux writes them before the connections."""
    for name in ("tcp", "tcp6"):
        path = f"{processes}/self/net/{name}"
        if name == "tcp6" and not os.path.exists(path):
            # A kernel without IPv6.
            continue
        with open(path, encoding="ascii") as file:
            next(file, "")
            for line in file:
                fields = line.split()
                if fields[3] != _LISTENS:
                    break
                address, _, port = fields[1].partition(":")
                yield _address(address), int(port, 16)


def _address(text: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address:
    """Return an address as the kernel writes it: words of 32 bits in the machine's order of bytes."""
    words = [int(text[start : start + 8], 16) for start in range(0, len(text), 8)]
    packed = struct.pack(f"={len(words)}I", *words)
    if len(words) == 1:
        return ipaddress.ip_address(socket.inet_ntop(socket.AF_INET, packed))
    found = ipaddress.IPv6Address(packed)
    return found.ipv4_mapped or found
