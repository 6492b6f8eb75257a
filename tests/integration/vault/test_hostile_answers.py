"""Answers that come early, late, twice or in another's place: none is taken for that of the request it was not for."""

from __future__ import annotations

import json
import threading
import time

import pytest

from helpers.faults import hostile_server
from helpers.faults.hostile_server import Guest
from helpers.faults.server_behaviours import READ, client
from vaultpki.errors import BadAnswer
from vaultpki.vault import Request
from vaultpki.vault.answers import Raw
from vaultpki.vault.transport import _REMEMBERED_IDS, CONNECTIONS


def reply(guest: Guest, path: bytes, **further: object) -> None:
    guest.answer(200, {"data": {"path": path.split(b" ")[1].decode()}, **further})


def path_of(name: str) -> str:
    return f"/v1/x/{name}"


def test_an_interim_answer_and_a_late_one_are_one_request() -> None:
    """A 103 (RFC 8297), and 200 ms later the 200: what is taken for the answer decides what the next request gets."""

    def hints(guest: Guest) -> None:
        while True:
            asked = guest.request()
            guest.say("HTTP/1.1 103 Early Hints\r\nLink: </x>\r\n\r\n")
            guest.wait(0.2)
            reply(guest, asked)

    with hostile_server.serving(hints) as server:
        vault = client(server.address)
        for name in "abc":
            assert vault.call(Request("GET", f"x/{name}")).data["path"] == path_of(name)
        names = [f"m{number}" for number in range(20)]
        answers = vault.many([Request("GET", f"x/{name}") for name in names])
        assert [answer.data["path"] for answer in answers] == [path_of(name) for name in names]
        assert len(server.guests) <= CONNECTIONS


@pytest.mark.parametrize("seconds", [0.0, 0.1])
def test_a_second_answer_ends_the_connection(seconds: float) -> None:
    """In the same packet, and while nobody asks anything."""
    again = threading.Event()

    def twice(guest: Guest) -> None:
        while True:
            asked = guest.request()
            body = json.dumps({"data": {"path": asked.split(b" ")[1].decode()}})
            answer = f"HTTP/1.1 200 OK\r\nContent-Length: {len(body)}\r\n\r\n{body}"
            guest.say(answer if seconds else answer * 2)
            if seconds:
                guest.wait(seconds)
                guest.say(answer)
                again.set()

    with hostile_server.serving(twice) as server:
        vault = client(server.address)
        for name in "abc":
            assert vault.call(Request("GET", f"x/{name}")).data["path"] == path_of(name)
            assert not seconds or again.wait(10)
            again.clear()
        assert len(server.guests) == 3


@pytest.mark.parametrize("tail", ["x", "HTTP/1.1 200 OK\r\n", "\r\n"])
@pytest.mark.parametrize("head", ["204 No Content", "304 Not Modified", "200 OK\r\nContent-Length: 2\r\n\r\n{}"])
def test_bytes_behind_an_answer_end_the_connection(head: str, tail: str) -> None:
    def adds(guest: Guest) -> None:
        guest.request()
        guest.say(f"HTTP/1.1 {head}" + ("" if "{}" in head else "\r\n\r\n") + tail)
        reply(guest, guest.request())

    with hostile_server.serving(adds) as server:
        vault = client(server.address)
        for _ in range(2):
            try:
                vault.call(READ)
            except BadAnswer:
                # A 304 is none of Vault's answers.
                assert "304" in head
        assert len(server.guests) >= 2
        assert [guest.heard.count(b"GET ") for guest in server.guests] == [1] * len(server.guests)


def test_bytes_before_the_first_request_are_no_answer() -> None:
    """The connection stands for a moment before anything is sent on it."""

    def greets(guest: Guest) -> None:
        guest.answer(200, {"data": {"path": "forged"}})
        while True:
            reply(guest, guest.request())

    def answers(guest: Guest) -> None:
        (greets if guest.number == 0 else polite)(guest)

    def polite(guest: Guest) -> None:
        while True:
            reply(guest, guest.request())

    with hostile_server.serving(answers) as server:
        vault = client(server.address)
        transport = vault._route.transport
        transport._idle[server.address].append(transport._connect(server.address, time.monotonic() + 5))
        time.sleep(0.2)
        assert vault.call(Request("GET", "x/a")).data["path"] == path_of("a")
        assert server.guests[0].heard == b""


def test_an_answer_that_came_before_is_refused_and_the_connection_with_it() -> None:
    """The copy overtakes the answer, which is then on its way to nobody."""

    def repeats(guest: Guest) -> None:
        if guest.number:
            while True:
                reply(guest, guest.request(), request_id=f"{guest.number}-{guest.taken}")
        first = guest.request()
        reply(guest, first, request_id="first")
        second = guest.request()
        reply(guest, first, request_id="first")
        guest.wait(0.1)
        reply(guest, second, request_id="second")
        guest.request()

    with hostile_server.serving(repeats) as server:
        vault = client(server.address)
        assert vault.call(Request("GET", "x/a")).data["path"] == path_of("a")
        with pytest.raises(BadAnswer, match="earlier request") as caught:
            vault.as_token("hvs.other").call(Request("GET", "x/b"))
        assert "GET x/b" in str(caught.value)
        time.sleep(0.2)
        assert vault.call(Request("GET", "x/c")).data["path"] == path_of("c")
        assert server.guests[0].heard.count(b"GET ") == 2


def test_what_changes_something_is_not_sent_again_after_a_repeated_answer() -> None:
    def repeats(guest: Guest) -> None:
        while True:
            reply(guest, guest.request(), request_id="always")

    with hostile_server.serving(repeats) as server:
        vault = client(server.address)
        vault.call(READ)
        with pytest.raises(BadAnswer, match="earlier request"):
            vault.call(Request("POST", "x/issue", {}, once=True))
        assert server.heard.count(b"POST ") == 1


def test_answers_without_an_id_and_wrapped_ones_are_no_repetition() -> None:
    """sys/health says none, and a wrapped answer an empty one."""
    said: list[dict[str, object]] = [{}, {}, {"request_id": ""}, {"request_id": ""}, {"request_id": None}]

    def answers(guest: Guest) -> None:
        for further in said:
            reply(guest, guest.request(), **further)

    with hostile_server.serving(answers) as server:
        vault = client(server.address)
        for _ in said:
            vault.call(READ)
        assert len(server.guests) == 1


def test_a_bounded_number_of_ids_is_remembered() -> None:
    with hostile_server.serving(lambda guest: guest.wait()) as server:
        transport = client(server.address)._route.transport

        def note(id_: str) -> None:
            transport._refuse_repeated(server.address, READ, Raw(200, {}, json.dumps({"request_id": id_}).encode()))

        said = [f"{number:036}" for number in range(_REMEMBERED_IDS + 100)]
        for id_ in ["9" * 100_000, *said]:
            note(id_)
        assert list(transport._ids) == said[100:]
        with pytest.raises(BadAnswer):
            note(said[100])
