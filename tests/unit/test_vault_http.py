"""Answers read from bytes, however they are cut into pieces, and what is no answer."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import pytest

from vaultpki.errors import BadAnswer
from vaultpki.vault import http

OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}"
CHUNKED = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"


def in_pieces(stream: bytes, size: int) -> http.Answers:
    """The answers in the stream, of which each read gives at most `size` bytes."""
    rest = bytearray(stream)

    def receive(most: int) -> bytes:
        piece = bytes(rest[: min(most, size)])
        del rest[: len(piece)]
        return piece

    return http.Answers(receive)


def said(stream: bytes, *, most: int = 100) -> tuple[int, bytes, bool]:
    raw, goes_on = in_pieces(stream, 1 << 16).next(most)
    return raw.status, raw.body, goes_on


@pytest.mark.parametrize("size", [1, 2, 3, 7, 1 << 16])
def test_answers_follow_each_other_however_they_are_cut(size: int) -> None:
    stream = (
        OK
        + b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 204 No Content\r\nDate: x\r\n\r\n"
        + CHUNKED
        + b"3;a=b\r\nabc\r\nA \r\n0123456789\r\n0\r\nTrailer: x\r\n\r\n"
        + b"HTTP/1.1 404 Not Found\r\nX-A:\t b \r\nx-a: c\r\nCONTENT-LENGTH:0\r\nConnection: Close\r\n\r\n"
    )
    answers = in_pieces(stream, size)
    got = [answers.next(100) for _ in range(4)]
    assert [(raw.status, raw.body, goes_on) for raw, goes_on in got] == [
        (200, b"{}", True),
        (204, b"", True),
        (200, b"abc0123456789", True),
        (404, b"", False),
    ]
    assert got[3][0].headers == {"x-a": "b, c", "content-length": "0", "connection": "Close"}
    assert not answers.ahead
    with pytest.raises(http.NoAnswer):
        answers.next(100)


def test_what_comes_until_the_end_is_a_body_too() -> None:
    assert said(b"HTTP/1.1 200 OK\r\n\r\n{} ") == (200, b"{} ", False)
    assert said(b"HTTP/1.0 200 OK\r\nContent-Length: 2\r\n\r\n{}") == (200, b"{}", False)


@pytest.mark.parametrize(
    "stream",
    [
        b"H",
        OK[:-1],
        b"HTTP/1.1 200 OK\r\n",
        b"HTTP/2 200 OK\r\n\r\n",
        b"HTTP/1.1 20 OK\r\n\r\n",
        b"HTTP/1.1 2000 OK\r\n\r\n",
        b"HTTP/1.1  200 OK\r\n\r\n",
        b"http/1.1 200 OK\r\n\r\n",
        b"\r\n" + OK,
        b"HTTP/1.1 200 OK\nContent-Length: 2\n\n{}",
        b"HTTP/1.1 200 OK\r\nContent-Length : 2\r\n\r\n{}",
        b"HTTP/1.1 200 OK\r\n Content-Length: 2\r\n\r\n{}",
        b"HTTP/1.1 200 OK\r\nX-A: b\r\n folded\r\n\r\n{}",
        b"HTTP/1.1 200 OK\r\nX-A: b\nContent-Length: 2\r\n\r\n{}",
        b"HTTP/1.1 200 OK\r\nX-A: b\rContent-Length: 2\r\n\r\n{}",
        b"HTTP/1.1 200 OK\r\nX-A: \0\r\n\r\n{}",
        b"HTTP/1.1 200 OK\r\nno colon\r\n\r\n{}",
        b"HTTP/1.1 200 OK\r\n: no name\r\n\r\n{}",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nContent-Length: 2\r\n\r\n0\r\n\r\n",
        CHUNKED + b"2\r\n{}0\r\n\r\n",
        CHUNKED + b"2\n{}\r\n0\r\n\r\n",
        CHUNKED + b"0x2\r\n{}\r\n0\r\n\r\n",
        CHUNKED + b"+2\r\n{}\r\n0\r\n\r\n",
        CHUNKED + b"\r\n",
        CHUNKED + b"2\r\n{}\r\n0\r\n",
        b"HTTP/1.1 101 Switching Protocols\r\n\r\n" + OK,
        b"HTTP/1.1 103 Early Hints\r\n\r\n",
        b"HTTP/1.1 103 Early Hints\r\nContent-Length: 2\r\n\r\n{}" + OK,
    ],
)
def test_what_is_no_answer(stream: bytes) -> None:
    with pytest.raises(http.NotHTTP):
        said(stream)


@pytest.mark.parametrize(
    "stream",
    [
        b"HTTP/1.1 200 OK\r\nContent-Length: 101\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: -1\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: +2\r\n\r\n{}",
        b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nContent-Length: 3\r\n\r\n{}",
        "HTTP/1.1 200 OK\r\nContent-Length: ٢\r\n\r\n{}".encode(),
        b"HTTP/1.1 200 OK\r\n\r\n" + b"x" * 101,
        CHUNKED + b"65\r\n",
        CHUNKED + b"-1\r\n",
        CHUNKED + b"32\r\n" + b"x" * 50 + b"\r\n33\r\n",
        CHUNKED + b"0\r\n" + b"X-A: b\r\n" * 200_000,
    ],
)
def test_what_is_too_large(stream: bytes) -> None:
    with pytest.raises(BadAnswer, match="larger than any answer"):
        said(stream)


@pytest.mark.parametrize("size", [1, 1 << 16])
def test_an_interim_answer_is_not_the_answer(size: int) -> None:
    """However many come, up to a bound, and whatever they say; what follows them is."""
    interim = b"HTTP/1.1 103 Early Hints\r\nLink: </x>\r\n\r\nHTTP/1.1 100 Continue\r\n\r\n"
    answers = in_pieces(interim + OK + interim * 4 + OK, size)
    assert [(raw.status, raw.body, goes_on) for raw, goes_on in (answers.next(100), answers.next(100))] == [
        (200, b"{}", True)
    ] * 2
    for stream in (interim * 5 + OK, interim * 100_000):
        with pytest.raises(BadAnswer, match="more than 8 interim answers"):
            in_pieces(stream, size).next(100)


@pytest.mark.parametrize(
    "build",
    [
        lambda text: ("GET", f"/v1/x{text}", {}),
        lambda text: (f"GET{text}", "/v1/x", {}),
        lambda text: ("GET", "/v1/x", {"X-Vault-Token": f"s.a{text}"}),
    ],
)
@pytest.mark.parametrize("text", ["\r\nX-Evil: 1", "\n", "\r", "\0", "\u00e9", "\x7f"])
def test_nothing_breaks_out_of_a_requests_line(
    build: Callable[[str], tuple[str, str, dict[str, str]]], text: str
) -> None:
    with pytest.raises(ValueError, match=r"line holds|ascii"):
        http.request(*build(text), None)


@pytest.mark.parametrize(
    ("body", "tail"), [(None, b"\r\n"), (b"", b"Content-Length: 0\r\n\r\n"), (b"{}", b"Content-Length: 2\r\n\r\n{}")]
)
def test_a_request(body: bytes | None, tail: bytes) -> None:
    assert http.request("LIST", "/v1/x/y", {"Host": "h:1"}, body) == b"LIST /v1/x/y HTTP/1.1\r\nHost: h:1\r\n" + tail


def test_no_piece_is_asked_for_beyond_what_is_needed() -> None:
    """A whole answer is given as soon as it is there: nothing waits for bytes that nobody will send."""
    pieces: Sequence[bytes] = [OK[:10], OK[10:]]
    rest = iter(pieces)
    answers = http.Answers(lambda _: next(rest))
    assert answers.next(100)[0].body == b"{}"
