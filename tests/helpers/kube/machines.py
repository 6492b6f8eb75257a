"""Machines of a conformance cluster: a network and mounts of their own, which end with the process that holds them.

Nothing here has a name on the host, so nothing is left behind, whatever becomes of the test run.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import signal
import socket
import subprocess
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from helpers.vault.servers import tied, wait_for

# For documentation only (RFC 5737), so no route of the host's is hidden. kubelet and kube-apiserver refuse loopback.
NETWORK = "198.51.100"
OUTSIDE = f"{NETWORK}.1"
STOP_SECONDS = 20.0
CLONE_NEWNET = 0x40000000

# What components write at fixed places, whatever their flags say: sockets and locks, pods' logs, plug-ins' sockets.
HIDDEN = ("/run", "/var/lib", "/var/log")

Ran = subprocess.CompletedProcess[str]


def environment(home: Path) -> dict[str, str]:
    """What every component and client gets; nothing of the tester's own."""
    return {"PATH": f"{os.environ['PATH']}:/usr/sbin:/sbin", "HOME": str(home), "LC_ALL": "C.UTF-8"}


@dataclass(slots=True)
class Process:
    """A program that runs until it is stopped, and never longer than the test run.

    Start it from the main thread, or from one that lives as long: the kernel ties it to the thread that made it
    (prctl(2), PR_SET_PDEATHSIG).
    """

    name: str
    command: Sequence[str]
    log: Path
    env: Mapping[str, str]
    ending: signal.Signals = signal.SIGTERM
    running: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        assert not self.alive(), f"{self.name} runs already"
        with self.log.open("ab") as output:
            self.running = subprocess.Popen(
                tied(*self.command),
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                env=dict(self.env),
                start_new_session=True,
            )

    @property
    def pid(self) -> int:
        assert self.running is not None, f"{self.name} was not started"
        return self.running.pid

    def alive(self) -> bool:
        return self.running is not None and self.running.poll() is None

    def check(self) -> None:
        """Fails with the program's own last words where it has ended."""
        assert self.alive(), f"{self.name} ended:\n{self.last_words()}"

    def stop(self) -> None:
        """Asks it to end, and makes it end where it does not."""
        if self.running is not None:
            self.running.send_signal(self.ending)
            try:
                self.running.wait(STOP_SECONDS)
            except subprocess.TimeoutExpired:
                self.kill()
            self.running = None

    def kill(self) -> None:
        if self.running is not None:
            self.running.kill()
            self.running.wait()
            self.running = None

    def restart(self) -> None:
        self.stop()
        self.start()

    def send(self, number: signal.Signals) -> None:
        assert self.running is not None, f"{self.name} was not started"
        self.running.send_signal(number)

    def said(self) -> str:
        return self.log.read_text(errors="replace") if self.log.exists() else ""

    def last_words(self, lines: int = 20) -> str:
        return "\n".join(self.said().splitlines()[-lines:])


@dataclass(slots=True)
class Machine:
    """One machine: its address on the common network, and what runs there.

    `folder` holds the logs and whatever the programs keep.
    """

    name: str
    address: str
    folder: Path
    holder: Process
    processes: dict[str, Process] = field(default_factory=dict)

    @property
    def inside(self) -> list[str]:
        """What to put before a command so that it runs on this machine."""
        # Not `ip netns exec`: it hides /sys/fs/cgroup, and the kubelet dies.
        return ["/usr/bin/nsenter", "--target", str(self.holder.pid), "--net", "--mount", "--"]

    @property
    def behind(self) -> list[str]:
        """What to put before a command of the host, with the host's files, so that it has this machine's network."""
        return ["/usr/bin/nsenter", "--target", str(self.holder.pid), "--net", "--"]

    def run(self, *command: str | Path, expect: int | None = 0, stdin: str = "", timeout: float = 300) -> Ran:
        """A command to its end; fails where it ends with another code than `expect`, unless that is None."""
        ran = subprocess.run(
            [*self.inside, *map(str, command)],
            env=environment(self.folder),
            input=stdin,
            capture_output=True,
            text=True,
            check=False,
            timeout=timeout,
        )
        if expect is not None:
            assert ran.returncode == expect, f"{command}: exit {ran.returncode}\n{ran.stdout}\n{ran.stderr}"
        return ran

    def start(self, name: str, *command: str | Path, ending: signal.Signals = signal.SIGTERM) -> Process:
        """A program that stays; its log is `NAME.log` in the machine's folder."""
        words = [*self.inside, *map(str, command)]
        process = Process(name, words, self.folder / f"{name}.log", environment(self.folder), ending)
        self.processes[name] = process
        process.start()
        return process

    @contextlib.contextmanager
    def network(self) -> Iterator[None]:
        """Sockets made by this thread now are of this machine, and stay so."""
        libc = ctypes.CDLL(None, use_errno=True)

        def enter(file: int) -> None:
            if libc.setns(file, CLONE_NEWNET):
                raise OSError(ctypes.get_errno(), "setns")

        with open("/proc/thread-self/ns/net") as home, open(f"/proc/{self.holder.pid}/ns/net") as there:
            enter(there.fileno())
            try:
                yield
            finally:
                enter(home.fileno())

    def connect(self, address: str, port: int, timeout: float = 10) -> socket.socket:
        """A connection from this machine."""
        with self.network():
            return socket.create_connection((address, port), timeout)

    def listen(self) -> socket.socket:
        """A listening socket of this machine's address, at a port of the kernel's choice."""
        with self.network():
            return socket.create_server((self.address, 0))

    def answers(self, port: int, address: str | None = None) -> bool:
        """Whether somebody listens at this port of the machine."""
        with contextlib.suppress(OSError):
            self.connect(address or self.address, port, timeout=2).close()
            return True
        return False


@contextlib.contextmanager
def accepting(listening: socket.socket, serve: Callable[[socket.socket], None]) -> Iterator[int]:
    """Has each connection served by a thread of its own until the end of the block; yields the port."""

    def accept() -> None:
        with contextlib.suppress(OSError):
            while True:
                connection, _ = listening.accept()
                threading.Thread(target=serve, args=(connection,), daemon=True).start()

    thread = threading.Thread(target=accept, daemon=True)
    thread.start()
    try:
        yield listening.getsockname()[1]
    finally:
        # Closing alone leaves accept(2) waiting.
        with contextlib.suppress(OSError):
            listening.shutdown(socket.SHUT_RDWR)
        listening.close()
        thread.join()


@dataclass(frozen=True, slots=True)
class Lan:
    """Machines on one bridge. `outside` is one more of them, with no component: people and strangers sit there."""

    outside: Machine
    machines: Mapping[str, Machine]
    hosts: Path

    def tell(self, names: Mapping[str, str]) -> None:
        """Has every machine find these names, by their addresses, and no other from now on."""
        known = {"localhost": "127.0.0.1", **names}
        # Where it lies, since the machines have mounted this very file.
        self.hosts.write_text("".join(f"{address} {name}\n" for name, address in known.items()))


@contextlib.contextmanager
def lan(folder: Path, addresses: Mapping[str, str]) -> Iterator[Lan]:
    """A machine for each name, all of them ended with everything that runs on them on the way out.

    They find each other by their addresses, and by name only once `tell` has been told.
    """
    assert os.geteuid() == 0, "machines of their own are made by root only: run this as root"
    with contextlib.ExitStack() as stack:
        outside = stack.enter_context(_machine("outside", OUTSIDE, folder))
        # The bridge is outside's own: no interface, address or firewall of the host's has a part in this.
        _ip(outside, "link add lan type bridge")
        _ip(outside, f"addr add {OUTSIDE}/24 dev lan")
        _ip(outside, "link set lan up")
        made = {}
        for number, (name, address) in enumerate(addresses.items()):
            machine = made[name] = stack.enter_context(_machine(name, address, folder))
            _ip(outside, f"link add port{number} type veth peer name eth0 netns {machine.holder.pid}")
            _ip(outside, f"link set port{number} master lan up")
            _ip(machine, f"addr add {address}/24 dev eth0")
            _ip(machine, "link set eth0 up")
            # kube-apiserver wants a default route to find its own address.
            _ip(machine, f"route add default via {OUTSIDE}")
        network = Lan(outside, made, folder / "hosts")
        network.tell({})
        for machine in (outside, *made.values()):
            machine.run("mount", "--bind", network.hosts, "/etc/hosts")
        yield network


@contextlib.contextmanager
def _machine(name: str, address: str, folder: Path) -> Iterator[Machine]:
    place = folder / name
    place.mkdir(parents=True)
    assert not any(place.is_relative_to(hidden) for hidden in HIDDEN), f"choose a --basetemp outside {HIDDEN}"
    own = ("/usr/bin/unshare", "--net", "--mount", "--propagation", "private")
    command = (*own, "sh", "-c", "echo up; exec sleep inf")
    holder = Process(f"{name}'s namespaces", command, place / "machine.log", environment(place))
    machine = Machine(name, address, place, holder)
    holder.start()
    try:
        wait_for(lambda: "up" in holder.said(), 10, lambda: f"{name} has no namespaces:\n{holder.last_words()}")
        # A container runtime has mounts of its own below these, and must see what the kubelet mounts later.
        machine.run("mount", "--make-rshared", "/")
        for hidden in HIDDEN:
            machine.run("mount", "-t", "tmpfs", "tmpfs", hidden)
        # Nobody resolves names here, and whoever asks the host's own resolver waits ten seconds for that.
        machine.run("mount", "--bind", "/dev/null", "/etc/resolv.conf")
        _ip(machine, "link set lo up")
        yield machine
    finally:
        for process in machine.processes.values():
            process.kill()
        holder.kill()


def _ip(machine: Machine, arguments: str) -> None:
    machine.run("ip", *arguments.split())
