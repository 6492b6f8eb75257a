"""Kept connections and threads, of a server that breaks off: one request at a time, and no answer is another's."""

from __future__ import annotations

import contextlib
import gc
import subprocess
import sys
import threading
import time
import warnings
from collections.abc import Callable, Iterator

import pytest

from helpers.faults import hostile_server
from helpers.faults.hostile_server import Behaviour, Guest
from helpers.faults.server_behaviours import READ, TOKEN, WRITE, client, closes, hangs, resets_at_once
from vaultpki.errors import Denied, Unavailable
from vaultpki.vault import Request, Settings, Vault
from vaultpki.vault.transport import CONNECTIONS


def test_a_connection_that_the_server_closed_meanwhile_is_no_failure() -> None:
    """What may be sent once only goes out on a connection that is seen to be open."""

    def one_each(guest: Guest) -> None:
        guest.request()
        guest.answer(200, {"data": {}})

    with hostile_server.serving(one_each) as server:
        vault = client(server.address)
        for request in (READ, WRITE, READ, WRITE):
            vault.call(request)
            time.sleep(0.05)
        assert len(server.guests) == 4


def test_a_retry_after_is_waited_for_within_patience() -> None:
    answers: Iterator[tuple[int, object, str]] = iter([(429, {}, "Retry-After: 1"), (200, {"data": {}}, "X: y")])

    def once_busy(guest: Guest) -> None:
        while True:
            guest.request()
            guest.answer(*next(answers))

    with hostile_server.serving(once_busy) as server:
        begun = time.monotonic()
        Vault(Settings((server.address,)), patience=3).call(READ)
        assert time.monotonic() - begun >= 1.0


def refuses_one_path(guest: Guest) -> None:
    """Turns down what is asked of `refused`, a little later, and is away for all else."""
    while True:
        if b"/v1/refused" in guest.request():
            guest.wait(0.2)
            guest.answer(403, {"errors": ["no"]})
        else:
            guest.answer(502, "")


def deep(vault: Vault, refused: Request, away: list[Request]) -> None:
    works = [lambda: vault.call(refused), lambda: vault.many(away)]
    vault.map(lambda work: work(), works)


@pytest.mark.parametrize("work", [lambda vault, refused, away: vault.many([refused, *away]), deep])
def test_one_failure_ends_what_waits_in_other_threads(work: Callable[..., object]) -> None:
    """The part that is refused ends the patience of those whose address is away, however deep they are in the work."""
    with hostile_server.serving(refuses_one_path) as server:
        vault = Vault(Settings((server.address,)), patience=30)
        vault._route.met = True
        begun = time.monotonic()
        with pytest.raises(Denied):
            work(vault, Request("GET", "refused"), [Request("GET", f"away/{n}") for n in range(20)])
        assert time.monotonic() - begun < 15
        assert vault._work.ended == ()


def test_ctrl_c_is_not_kept_waiting() -> None:
    code = (
        "import sys; from vaultpki.vault import *\n"
        "vault = Vault(Settings((sys.argv[1],)), patience=60, request_seconds=60)\n"
        "vault._route.met = True\n"
        "try: vault.many([Request('GET', f'x/{n}') for n in range(60)])\n"
        "except KeyboardInterrupt: print('interrupted')\n"
    )
    with hostile_server.serving(hangs) as server:
        child = subprocess.Popen([sys.executable, "-c", code, server.address], stdout=subprocess.PIPE, text=True)
        try:
            while len(server.guests) < CONNECTIONS:
                assert child.poll() is None
                time.sleep(0.02)
            time.sleep(0.2)
            child.send_signal(2)
            assert child.communicate(timeout=20)[0] == "interrupted\n"
        finally:
            child.kill()
            child.wait()


def test_nothing_stays_behind() -> None:
    """Threads of an ended `map` are gone, whatever the server did."""
    before = threading.active_count()
    with hostile_server.serving(closes) as server, pytest.raises(Unavailable):
        client(server.address).many([READ] * 20)
    assert threading.active_count() <= before


def test_no_socket_stays_open_where_the_server_hangs_up_before_tls() -> None:
    with hostile_server.serving(resets_at_once) as server, warnings.catch_warnings(record=True) as warned:
        warnings.simplefilter("always")
        vault = Vault(Settings((server.address.replace("http:", "https:"),)), patience=0.01, request_seconds=1)
        for _ in range(200):
            with pytest.raises(Unavailable):
                vault.call(READ)
        gc.collect()
    assert [str(each.message) for each in warned] == []


READS = [Request("GET", f"x/{n}") for n in range(40)]
PATHS: list[object] = [f"/v1/x/{n}" for n in range(40)]


def asked(vault: Vault) -> list[object]:
    """What a server that repeats the path says to READS."""
    return [answer.data["path"] for answer in vault.many(READS)]


def echo(guest: Guest, *headers: str) -> None:
    """Repeats the path, once nothing has come behind the request for a moment."""
    path = guest.request().split(b" ")[1].decode()
    guest.socket.settimeout(0.01)
    with contextlib.suppress(TimeoutError):
        assert not guest.socket.recv(1), "a second request came before the first was answered"
    guest.socket.settimeout(30)
    guest.answer(200, {"data": {"path": path}}, *headers)


def echoes(guest: Guest) -> None:
    while True:
        echo(guest)


def closes_after_three(guest: Guest) -> None:
    for _ in range(3):
        echo(guest)


def says_that_it_closes(guest: Guest) -> None:
    echo(guest, "Connection: close")


def breaks_off(guest: Guest) -> None:
    echo(guest)
    guest.request()
    guest.say("HTTP/1.1 200 OK\r\nContent-Le")


def passes_away(guest: Guest) -> None:
    """Every third answer is that of a gateway whose server is away."""
    for number in range(1000):
        if number % 3 == 2:
            guest.request()
            guest.answer(502, "<html>")
        else:
            echo(guest)


def test_many_requests_take_few_connections_and_keep_their_order() -> None:
    """One at a time on each: nothing is sent before the answer to what was sent before (RFC 9112, 9.3.2)."""
    with hostile_server.serving(echoes) as server:
        vault = client(server.address)
        assert asked(vault) == PATHS
        assert asked(vault) == PATHS
        assert vault.sent.reads == 80
        assert len(server.guests) <= CONNECTIONS
        assert server.heard.count(b"GET ") == 80


def test_the_items_of_long_lists_are_counted() -> None:
    """Those of 200 and more: of what a bar is drawn."""
    told: list[int] = []
    with hostile_server.serving(echoes) as server:
        vault = client(server.address).counting(told.append)
        vault.many([READ] * 199)
        assert told == []
        vault.many([READ] * 200)
    assert told == [200] * 200


def test_a_few_requests_take_one_connection() -> None:
    """A node asks for little, and a thousand nodes would else come with a handshake for each request."""
    with hostile_server.serving(echoes) as server:
        vault = client(server.address)
        for number in range(1, 7):
            assert [answer.data["path"] for answer in vault.many(READS[:number])] == PATHS[:number]
        assert len(server.guests) == 1


def test_work_within_work_takes_no_more_connections() -> None:
    with hostile_server.serving(echoes) as server:
        vault = client(server.address)
        found = vault.map(lambda _: asked(vault), range(4))
        assert found == [PATHS] * 4
        assert len(server.guests) <= CONNECTIONS


def test_who_waits_for_a_connection_waits_no_longer_than_patience() -> None:
    """Every connection is taken by a request that is not answered."""
    with hostile_server.serving(hangs) as server:
        vault = Vault(Settings((server.address,)), patience=0.5, request_seconds=2.0)
        vault._route.met = True
        begun = time.monotonic()
        with pytest.raises(Unavailable):
            vault.many(READS)
        assert time.monotonic() - begun < 15
        assert len(server.guests) <= CONNECTIONS


@pytest.mark.parametrize("behaviour", [closes_after_three, says_that_it_closes, breaks_off, passes_away])
def test_connections_that_break_off_are_replaced(behaviour: Behaviour) -> None:
    with hostile_server.serving(behaviour) as server:
        vault = Vault(Settings((server.address,), token=TOKEN), patience=20)
        assert asked(vault) == PATHS
        assert asked(vault) == PATHS


def test_what_may_be_sent_once_is_sent_once() -> None:
    def answers(guest: Guest) -> None:
        while True:
            guest.request()
            guest.answer(200, {"data": {}})

    with hostile_server.serving(answers) as server:
        vault = client(server.address)
        vault.many([WRITE] * 20)
        assert server.heard.count(b"root/generate/internal") == 20
        assert vault.sent.writes == 20


def test_requests_of_much_more_than_a_socket_holds() -> None:
    """A server that answers at length, to requests that are long, too."""

    def repeats(guest: Guest) -> None:
        while True:
            guest.answer(200, {"data": {"length": len(guest.request()), "filler": "y" * 40_000}})

    with hostile_server.serving(repeats) as server:
        vault = Vault(Settings((server.address,), token=TOKEN), patience=20)
        big = [Request("POST", f"x/{n}", {"filler": "x" * (n * 2000)}) for n in range(60)]
        lengths = [answer.data["length"] for answer in vault.many(big)]
        assert lengths == sorted(lengths)
        assert len(set(lengths)) == 60


def test_a_refusal_among_many_is_told_and_ends_the_rest() -> None:
    def refuses(guest: Guest) -> None:
        while True:
            refused = b"/v1/x/3 " in guest.request()
            guest.answer(403 if refused else 200, {"errors": ["permission denied"], "data": {}})
            guest.wait(0.02)

    with hostile_server.serving(refuses) as server:
        with pytest.raises(Denied):
            client(server.address).many([Request("POST", f"x/{n}", {}) for n in range(400)])
        assert server.heard.count(b"POST ") < 100
