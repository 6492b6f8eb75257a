"""Answers that are not, or are just about, HTTP/1.1: each over a real socket, whole or cut into pieces."""

from __future__ import annotations

import socket
import time

import pytest

from helpers.faults import hostile_server
from helpers.faults.hostile_server import Behaviour, Guest
from helpers.faults.server_behaviours import READ, TOKEN, client
from vaultpki.errors import BadAnswer, Unavailable, VaultError
from vaultpki.vault import Request, Settings, Vault

OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}"
CHUNKED = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
HINTS = b"HTTP/1.1 103 Early Hints\r\nLink: </x>\r\n\r\nHTTP/1.1 100 Continue\r\n\r\n"


def closing(stream: bytes) -> Behaviour:
    """The bytes, and then the end of the connection."""

    def behave(guest: Guest) -> None:
        guest.request()
        guest.say(stream)

    return behave


def impatient(address: str) -> Vault:
    return Vault(Settings((address,), token=TOKEN), patience=0.0, request_seconds=0.5)


GOOD = {
    "length": (OK, True),
    "chunks": (CHUNKED + b"1;a=b\r\n{\r\n1 \r\n}\r\n0\r\nTrailer: x\r\n\r\n", True),
    "a name in capitals": (b"HTTP/1.1 200 OK\r\nX-A:\t b \r\nx-a: c\r\nCONTENT-LENGTH:2\r\n\r\n{}", True),
    "no reason": (b"HTTP/1.1 200\r\nContent-Length: 2\r\n\r\n{}", True),
    "interim answers": (HINTS + OK, True),
    "eight interim answers": (HINTS * 4 + OK, True),
    "close": (b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nConnection: Close\r\n\r\n{}", False),
    "HTTP/1.0": (b"HTTP/1.0 200 OK\r\nContent-Length: 2\r\n\r\n{}", False),
}


@pytest.mark.parametrize("size", [1, 7, 1 << 16])
@pytest.mark.parametrize("name", GOOD)
def test_an_answer_is_read_however_it_is_cut(name: str, size: int) -> None:
    """And the connection is used again, or not, as the answer says."""
    stream, goes_on = GOOD[name]

    def behave(guest: Guest) -> None:
        guest.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        while True:
            guest.request()
            for start in range(0, len(stream), size):
                guest.say(stream[start : start + size])

    with hostile_server.serving(behave) as server:
        vault = client(server.address)
        for _ in range(3):
            assert vault.call(READ).body == {}
        assert len(server.guests) == (1 if goes_on else 3)


def test_what_comes_until_the_end_is_a_body_too() -> None:
    with hostile_server.serving(closing(b"HTTP/1.1 200 OK\r\n\r\n{} ")) as server:
        vault = client(server.address)
        assert vault.call(READ).body == vault.call(READ).body == {}
        assert len(server.guests) == 2


BAD = {
    # What h11 accepts, and we refuse on top.
    "length and chunks": CHUNKED[:-2] + b"Content-Length: 2\r\n\r\n2\r\n{}\r\n0\r\n\r\n",
    "chunks and length": OK[:-4] + b"Transfer-Encoding: chunked\r\n\r\n2\r\n{}\r\n0\r\n\r\n",
    "HTTP/2.0": OK.replace(b"1.1", b"2.0", 1),
    "HTTP/1.2": OK.replace(b"1.1", b"1.2", 1),
    "HTTP/0.9": OK.replace(b"1.1", b"0.9", 1),
    "HTTP/3.0 in between": HINTS.replace(b"1.1", b"3.0", 1) + OK,
    "bare LF": OK.replace(b"\r\n", b"\n"),
    "one bare LF": OK.replace(b"\r\n", b"\n", 1),
    "a bare LF at the end of the head": OK.replace(b"\r\n\r\n", b"\r\n\n", 1),
    "a bare LF in an interim answer": HINTS.replace(b"\r\n", b"\n", 1) + OK,
    "a bare LF in a trailer": CHUNKED + b"2\r\n{}\r\n0\r\nX-A: b\n\r\n",
    "a bare LF after the last chunk": CHUNKED + b"2\r\n{}\r\n0\r\n\n",
    "folded": b"HTTP/1.1 200 OK\r\nX-A: b\r\n folded\r\nContent-Length: 2\r\n\r\n{}",
    "folded by a tab": b"HTTP/1.1 200 OK\r\nX-A: b\r\n\tfolded\r\nContent-Length: 2\r\n\r\n{}",
    "a folded length": b"HTTP/1.1 200 OK\r\nContent-Length:\r\n 2\r\n\r\n{}",
    "a folded trailer": CHUNKED + b"2\r\n{}\r\n0\r\nX-A: b\r\n c\r\n\r\n",
    # What h11 refuses itself.
    "HTTP/2": OK.replace(b"HTTP/1.1", b"HTTP/2", 1),
    "status 20": OK.replace(b"200", b"20", 1),
    "status 2000": OK.replace(b"200", b"2000", 1),
    "status 099": OK.replace(b"200", b"099", 1),
    "two blanks": OK.replace(b" 200", b"  200", 1),
    "small letters": OK.replace(b"HTTP", b"http", 1),
    "an empty line first": b"\r\n" + OK,
    "a blank before the colon": b"HTTP/1.1 200 OK\r\nContent-Length : 2\r\n\r\n{}",
    "a blank before the first name": b"HTTP/1.1 200 OK\r\n Content-Length: 2\r\n\r\n{}",
    "a CR in a value": b"HTTP/1.1 200 OK\r\nX-A: b\rContent-Length: 2\r\n\r\n{}",
    "a NUL in a value": b"HTTP/1.1 200 OK\r\nX-A: \0\r\nContent-Length: 2\r\n\r\n{}",
    "no colon": b"HTTP/1.1 200 OK\r\nno colon\r\nContent-Length: 2\r\n\r\n{}",
    "no name": b"HTTP/1.1 200 OK\r\n: no name\r\nContent-Length: 2\r\n\r\n{}",
    "length with a sign": b"HTTP/1.1 200 OK\r\nContent-Length: +2\r\n\r\n{}",
    "length in other digits": "HTTP/1.1 200 OK\r\nContent-Length: ٢\r\n\r\n{}".encode(),
    "two lengths": b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nContent-Length: 3\r\n\r\n{}",
    "two codings": b"HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip, chunked\r\n\r\n2\r\n{}\r\n0\r\n\r\n",
    "another coding": b"HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip\r\n\r\n{}",
    "a chunk too short": CHUNKED + b"2\r\n{}0\r\n\r\n",
    "a chunk line with a bare LF": CHUNKED + b"2\n{}\r\n0\r\n\r\n",
    "a chunk with 0x": CHUNKED + b"0x2\r\n{}\r\n0\r\n\r\n",
    "a chunk with a sign": CHUNKED + b"+2\r\n{}\r\n0\r\n\r\n",
    "a chunk without size": CHUNKED + b"\r\n{}\r\n0\r\n\r\n",
    "another protocol": b"HTTP/1.1 101 Switching Protocols\r\n\r\n" + OK,
    "an interim answer with a body": b"HTTP/1.1 103 Early Hints\r\nContent-Length: 2\r\n\r\n{}" + OK,
}


@pytest.mark.parametrize("name", BAD)
def test_what_is_no_http_is_refused_and_the_connection_with_it(name: str) -> None:
    def behave(guest: Guest) -> None:
        guest.request()
        guest.say(BAD[name])
        guest.request()

    with hostile_server.serving(behave) as server:
        vault = impatient(server.address)
        for _ in range(2):
            with pytest.raises(Unavailable, match="did not answer in valid HTTP"):
                vault.call(READ)
        assert [guest.heard.count(b"GET ") for guest in server.guests] == [1, 1]


@pytest.mark.parametrize(
    "stream",
    [b"H", OK[:-1], b"HTTP/1.1 200 OK\r\n", CHUNKED + b"2\r\n{}\r\n0\r\n", HINTS, CHUNKED + b"2\r\n{"],
)
def test_half_an_answer_broke_off(stream: bytes) -> None:
    with hostile_server.serving(closing(stream)) as server, pytest.raises(Unavailable, match="broke off") as caught:
        impatient(server.address).call(READ)
    assert caught.value.sent


BIG = 1 << 20


@pytest.mark.parametrize(
    "stream",
    [
        b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % (BIG + 1),
        b"HTTP/1.1 200 OK\r\n\r\n" + b" " * (BIG + 1),
        CHUNKED + b"%x\r\n" % (BIG + 1) + b" " * (BIG + 1),
        CHUNKED + (b"%x\r\n" % (BIG // 2 + 1) + b" " * (BIG // 2 + 1) + b"\r\n") * 2,
        # Beside the body 1 MiB may be needed for what it is wrapped in.
        CHUNKED + b"8;%s\r\n        \r\n" % (b"x" * 1000) * 2500,
    ],
)
def test_what_is_too_large(stream: bytes) -> None:
    with (
        hostile_server.serving(closing(stream)) as server,
        pytest.raises(BadAnswer, match="larger than a Vault response"),
    ):
        Vault(Settings((server.address,)), patience=0.0).call(READ)


def test_the_largest_answer_is_taken() -> None:
    body = b"{}".ljust(BIG)
    with hostile_server.serving(closing(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % BIG + body)) as server:
        assert Vault(Settings((server.address,)), patience=0.0).call(READ).body == {}


@pytest.mark.parametrize("size", [7, 1 << 16])
def test_nine_interim_answers_are_too_many(size: int) -> None:
    def behave(guest: Guest) -> None:
        guest.request()
        stream = HINTS * 5 + OK
        for start in range(0, len(stream), size):
            guest.say(stream[start : start + size])

    with hostile_server.serving(behave) as server, pytest.raises(BadAnswer, match="more than 8 interim answers"):
        impatient(server.address).call(READ)


@pytest.mark.parametrize("text", ["\r\nX-Evil: 1", "\n", "\r", "\0", "\u00e9"])
def test_nothing_breaks_out_of_a_requests_line(text: str) -> None:
    """Paths, tokens and namespaces are checked where they come in; this is the last door."""
    with hostile_server.serving(lambda guest: guest.wait(0.2)) as server:
        transport = impatient(server.address)._route.transport
        for request, token in (
            (Request("GET", f"x{text}"), ""),
            (Request(f"GET{text}", "x"), ""),
            (READ, f"hvs.secret{text}"),
            (Request("GET", "x", wrap_ttl=f"60s{text}"), ""),
        ):
            with pytest.raises((ValueError, VaultError)) as caught:
                transport.send(server.address, request, token, time.monotonic() + 5)
            assert "secret" not in str(caught.value)
            assert caught.value.__suppress_context__
    assert server.heard == b""


@pytest.mark.parametrize(
    ("request_", "tail"),
    [
        (Request("LIST", "x/y"), b"\r\n"),
        (Request("DELETE", "x/y"), b"\r\n"),
        (Request("POST", "x/y", {}), b"Content-Length: 2\r\nContent-Type: application/json\r\n\r\n{}"),
        (Request("PATCH", "x/y", {}), b"Content-Length: 2\r\nContent-Type: application/merge-patch+json\r\n\r\n{}"),
    ],
)
def test_a_request(request_: Request, tail: bytes) -> None:
    with hostile_server.serving(closing(OK)) as server:
        impatient(server.address).call(request_)
    host = server.address.removeprefix("http://")
    assert (
        server.heard
        == (
            f"{request_.method} /v1/x/y HTTP/1.1\r\nHost: {host}\r\nAccept: application/json\r\n"
            f"Accept-Encoding: identity\r\nX-Vault-Request: true\r\nX-Vault-Token: {TOKEN}\r\n"
        ).encode()
        + tail
    )
