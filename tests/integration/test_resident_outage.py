"""Vault frozen, sealed, gone, slow, or no Vault at all: the pairs stay, the agent stays, says by when, and is back."""

from __future__ import annotations

import itertools
import json
import shutil
import signal
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path

import pytest
import residents
from applied import Seat, Site
from hostile import Guest, serving
from residents import POLL, WORKER, Resident, Watcher, leaves, resident
from servers import Server, free_ports, wait_for

from vaultpki.store import GRACE

PASS = GRACE + 5
NODES = 3


@pytest.fixture
def site(own_server: Server, tmp_path: Path, cluster_name: str) -> Site:
    listed = "".join(
        f"- {{name: worker-{n}, roles: [worker], addresses: [10.0.0.{20 + n}]}}\n" for n in range(3, NODES + 1)
    )
    site = Site(own_server, tmp_path / "site", cluster_name)
    site.write(residents.SPEC + listed)
    site.apply()
    return site


def seat_of(site: Site, number: int, *addresses: str) -> Seat:
    """A node whose agent.yaml names these addresses before the real one."""
    seat = site.equip(f"worker-{number}", further=f"poll: {POLL}s\n")
    real = site.server.address
    seat.configure(f"['{real}']", json.dumps([*addresses, real]))
    return seat


def ended(seat: Seat) -> bool:
    return all(found.not_after <= datetime.now(UTC) for found in leaves(seat).values())


def good(seat: Seat) -> bool:
    return all(found.not_after > datetime.now(UTC) for found in leaves(seat).values())


def silence(guest: Guest) -> None:
    guest.request()
    guest.wait()


def test_it_sits_out_every_outage(site: Site, own_server: Server) -> None:
    (dead,) = free_ports(1)
    with serving(silence) as silent:
        # One has a single address; the other knows a dead and a silent one besides, and asks those first.
        single = seat_of(site, 1)
        several = seat_of(site, 2, f"http://127.0.0.1:{dead}", silent.address)
        with resident(single) as one, resident(several) as other:
            agents = (one, other)
            for agent in agents:
                agent.await_issued()
            with Watcher(single).watching(), Watcher(several).watching():
                frozen(site, own_server, agents)
            sealed_until_all_have_ended(own_server, agents)
            own_server.stop()
            time.sleep(2)
            for agent in agents:
                assert agent.process.poll() is None
            own_server.start()
            for agent in agents:
                wait_for(lambda agent=agent: good(agent.seat), POLL + PASS, agent.log.read_text)  # type: ignore[misc]
            with Watcher(single).watching(), Watcher(several).watching():
                time.sleep(20)
            for agent in agents:
                assert agent.status(expect=0)["ok"]
                assert agent.end() < 1


def frozen(site: Site, server: Server, agents: tuple[Resident, ...]) -> None:
    """Connections are taken and never answered, for less than the certificates bear; a signal ends it then too."""
    server.freeze()
    try:
        waiting = seat_of_frozen(agents[0])
        with resident(waiting) as third:
            third.await_said("has started", 20)
            time.sleep(1)
            assert third.end() < 1
        for agent in agents:
            assert agent.await_said("the first certificate here ends at", POLL + PASS)
    finally:
        server.thaw()
    for agent in agents:
        agent.await_said("well again", POLL + PASS)


def seat_of_frozen(agent: Resident) -> Seat:
    """A copy of the node, which knows nothing of Vault's but what its credential is."""
    seat = Seat(agent.seat.name, agent.seat.folder.with_name("third"))
    seat.state.mkdir(parents=True, mode=0o700)
    shutil.copy(agent.seat.state / "secret-id", seat.state)
    seat.config.write_text(agent.seat.config.read_text().replace(str(agent.seat.folder), str(seat.folder)))
    return seat


def sealed_until_all_have_ended(server: Server, agents: tuple[Resident, ...]) -> None:
    told = [len(agent.said("ends at")) for agent in agents]
    server.seal()
    for agent, before in zip(agents, told, strict=True):
        (said, *_) = agent.await_said("is sealed", POLL + PASS)
        assert said["level"] == "error"
        agent.await_said("the first certificate here ends at", 2, before + 1)
    for agent in agents:
        wait_for(lambda agent=agent: ended(agent.seat), 40, lambda: "still good")  # type: ignore[misc]
        state = agent.status(expect=3)
        assert state["agent"]["state"] == "backing-off" and not state["vault"]["reachable"], state
        assert "sealed" in state["vault"]["error"]
        assert {one["state"] for one in state["certificates"]} == {"expired"}
        # Told once, however often it was tried.
        assert len(agent.said("is sealed")) <= 2, agent.log.read_text()


LIES: tuple[object, ...] = (
    b"<html>please log in</html>",
    {"errors": ["internal error"]},
    {"auth": {"client_token": "hvs.nothing"}},
    {"data": {"keys": ["x"] * 1000}},
    {},
)


def test_a_server_that_lies_changes_nothing_and_is_not_stormed(site: Site) -> None:
    """All that it says is wrong, in turn: the good pairs stay, and it is asked a bounded number of times."""
    answers = itertools.cycle((status, body) for body in LIES for status in (200, 500, 403))

    def lie(guest: Guest) -> None:
        while True:
            guest.request()
            status, body = next(answers)
            guest.answer(status, body)

    seat = seat_of(site, 3)
    seat.run()
    before = leaves(seat)
    honest = seat.config.read_text()
    with serving(lie) as liar:
        seat.configure(site.server.address, liar.address)
        with resident(seat) as agent:
            time.sleep(2 * POLL + 15)
            assert leaves(seat) == before
            asked = liar.heard.count(b"HTTP/1.1\r\n")
            assert 2 <= asked <= 150, asked
            assert agent.said("the first certificate here ends at")
            seat.config.write_text(honest)
            agent.process.send_signal(signal.SIGHUP)
            wait_for(lambda: good(seat), POLL + PASS, agent.log.read_text)
            assert agent.end() < 1


@contextmanager
def silent_names(folder: Path) -> Iterator[tuple[str, ...]]:
    """What to run a command behind so that every look-up of a name waits: a name server that never answers."""
    file = folder / "resolv.conf"
    file.write_text("nameserver 127.0.0.153\noptions timeout:30\n")
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as listener:
        listener.bind(("127.0.0.153", 53))
        script = 'mount --bind "$1" /etc/resolv.conf && shift && exec "$@"'
        yield ("unshare", "--mount", "--propagation=private", "sh", "-c", script, "sh", str(file))
        listener.settimeout(1)
        # It was asked.
        assert listener.recv(512)


def test_a_signal_ends_it_while_it_waits_for_a_name(site: Site, tmp_path: Path) -> None:
    seat = seat_of(site, 3)
    seat.configure(site.server.address, "https://vault.example:8200")
    with silent_names(tmp_path) as behind, resident(seat, *behind) as agent:
        agent.await_said("has started", 20)
        time.sleep(1)
        assert agent.end() < 1
    assert not any((seat.pki / f"{name}.crt").exists() for name in WORKER)
