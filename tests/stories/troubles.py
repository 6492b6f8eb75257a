"""Liars, disks, clocks, and addresses where no Vault is."""

from __future__ import annotations

import itertools
import signal
import time
from datetime import UTC, datetime
from typing import Any

import residents
from hostile import Guest, serving
from residents import AT_ONCE, POLL, faked, leaf, leaves, resident, short_and_long, signs
from servers import wait_for
from stories.stage import PASS, Stage

from vaultpki import brakes


def liar(stage: Stage) -> None:
    """A Vault whose every signing is somebody else's, and an agent that is killed all the time: few are asked for."""
    site = stage.site(short_and_long("30s"))
    seat = stage.seat(site)
    foreign: dict[str, Any] = {}

    def swapped(method: str, path: str, status: int, body: dict[str, Any]) -> tuple[int, dict[str, Any]]:
        """The first certificate that was signed for a role, again and again: of another key, as a mirror would do."""
        if "/sign/" in path and status == 200:
            return status, foreign.setdefault(path, body)
        return status, body

    with residents.proxy(stage.server, swapped) as between:
        seat.configure(stage.server.address, between.address)
        seat.run()
        good = leaves(seat)
        # Wanted again, though the ones that lie there are good.
        site.write(short_and_long("30s") + "certificates:\n  kubelet: {extra_names: [kubelet.example.com]}\n")
        site.apply()
        seat.age()
        start = len(between.asked)
        until = time.monotonic() + 45
        starts = 0
        while time.monotonic() < until or starts <= 15:
            with resident(seat) as agent:
                starts += 1
                time.sleep(1)
                agent.process.kill()
        asked = sum("/sign/kubelet" in path for _, _, path in between.asked[start:])
        assert 1 <= asked <= brakes.AT_ONCE + 4, (starts, asked)
        assert leaves(seat) == good
        # Once it is honest, a pause is all there is to wait for.
        between.alter = residents.honest
        with resident(seat) as agent:
            wait_for(
                lambda: "kubelet.example.com" in leaf(seat, "kubelet").subject.dns, 40, agent.log.read_text, pause=0.5
            )


def unwritable(stage: Stage) -> None:
    """While the directory or the state cannot be written nothing is signed; and then all goes on."""
    for which in ("pki", "state"):
        site = Stage(stage.server, stage.folder / which).site()
        seat = stage.seat(site)
        seat.run()
        place = seat.folder / which
        script = 'mount --bind "$1" "$1" && mount -o remount,bind,ro "$1" && shift && exec "$@"'
        since = stage.server.audit_position()
        with resident(
            seat, "unshare", "--mount", "--propagation=private", "sh", "-c", script, "sh", str(place)
        ) as agent:
            agent.await_said("read-only", 30)
            time.sleep(8)
            assert agent.process.poll() is None
            assert agent.end() < AT_ONCE
        assert signs(stage.server, site.prefix, since) == []
        assert len(agent.said("read-only")) <= 2, agent.log.read_text()
        leaves(seat)
        with resident(seat) as agent:
            agent.await_said("renewed kubelet", 20)


def clocks(stage: Stage) -> None:
    """A clock set back by an hour and by a day: nothing is signed, and it is told; set right, all goes on."""
    site = stage.site()
    seat = stage.seat(site)
    env, set_clock = faked(stage.folder)

    def set_right(times: int) -> None:
        set_clock("+0s")
        agent.process.send_signal(signal.SIGHUP)
        agent.await_said("well again", POLL + PASS, times)
        assert all(found.not_after > datetime.now(UTC) for found in leaves(seat).values())

    set_clock("+0s")
    # Once its offset has changed, libfaketime has sleep(3) fail, as no kernel does: the pause for watchers is cut off.
    with resident(seat, env=env, foreign="OSError in vaultpki.store") as agent:
        agent.await_issued()
        for number, to in enumerate(("-1h", "-1d"), 1):
            set_clock(to)
            agent.await_said("behind Vault's; set it right", POLL + PASS, number)
            since = stage.server.audit_position()
            time.sleep(POLL + 2)
            assert signs(stage.server, site.prefix, since) == []
            set_right(number)
        assert len(agent.said("behind Vault's")) == 2, agent.log.read_text()
        # Ahead, every certificate seems to have ended, and what Vault signs then too.
        since = stage.server.audit_position()
        set_clock("+1d")
        agent.await_said("ahead of Vault's; set it right", POLL + PASS)
        time.sleep(POLL)
        assert len(signs(stage.server, site.prefix, since)) <= 3 * brakes.AT_ONCE
        set_right(3)
        assert agent.end() < AT_ONCE


LIES: tuple[object, ...] = (
    b"<html>please log in</html>",
    {"errors": ["internal error"]},
    {"auth": {"client_token": "hvs.nothing"}},
    {"data": {"keys": ["x"] * 1000}},
    {},
)


def no_vault(stage: Stage) -> None:
    """Something else answers, and all that it says is wrong: good pairs stay, and it is asked now and then only."""
    answers = itertools.cycle((status, body) for body in LIES for status in (200, 500, 403))

    def lie(guest: Guest) -> None:
        while True:
            guest.request()
            status, body = next(answers)
            guest.answer(status, body)

    seat = stage.seat(stage.site())
    seat.run()
    before = leaves(seat)
    honest = seat.config.read_text()
    with serving(lie) as other:
        seat.configure(stage.server.address, other.address)
        with resident(seat) as agent:
            time.sleep(2 * POLL + 15)
            assert leaves(seat) == before
            asked = other.heard.count(b"HTTP/1.1\r\n")
            assert 2 <= asked <= 150, asked
            assert agent.said("the first certificate here ends at")
            seat.config.write_text(honest)
            agent.process.send_signal(signal.SIGHUP)
            agent.await_said("renewed kubelet", POLL + PASS)
            assert agent.end() < AT_ONCE
