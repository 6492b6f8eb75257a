"""A server that lies, drips, floods or hangs: one sentence, in bounded time and memory, and no secret leaves."""

from __future__ import annotations

import gc
import gzip
import json
import logging
import os
import re
import ssl
import subprocess
import sys
import threading
import time
import traceback
import tracemalloc
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from email.utils import formatdate
from pathlib import Path

import hostile
import pytest
import trustme
from hostile import Behaviour, Guest

from vaultpki.errors import BadAnswer, Denied, Refused, Sealed, Unavailable, Untrusted, VaultError
from vaultpki.vault import Request, Settings, Vault
from vaultpki.vault.client import WIDTH

TOKEN = "hvs.CANARYcanaryCANARYcanary01"
SECRET_ID = "5ec9e7aa-0000-4000-8000-canarycanary"
PATIENCE = 0.6
REQUEST_SECONDS = 0.8
# A try under way when patience ends is given a second (client.py), and this machine may be busy.
BOUND = PATIENCE + max(REQUEST_SECONDS, 1.0) + 5.0
MEMORY = 12 << 20

READ = Request("GET", "sys/seal-status")
WRITE = Request("POST", "vaultpki/x/root/root/generate/internal", {"secret_id": SECRET_ID}, once=True)


def always(status: int, body: object, *headers: str) -> Behaviour:
    def behave(guest: Guest) -> None:
        while True:
            guest.request()
            guest.answer(status, body, *headers)

    return behave


def bare(*parts: bytes | str) -> Behaviour:
    def behave(guest: Guest) -> None:
        guest.request()
        guest.say(*parts)
        guest.wait(0.3)

    return behave


def drips_headers(guest: Guest) -> None:
    guest.request()
    guest.drip("HTTP/1.1 200 OK\r\n" + "X-A: b\r\n" * 400)


def drips_body(guest: Guest) -> None:
    guest.request()
    guest.say("HTTP/1.1 200 OK\r\nContent-Length: 5000\r\n\r\n")
    guest.drip("x" * 5000)


def resets(guest: Guest) -> None:
    guest.request()
    guest.reset()


def resets_at_once(guest: Guest) -> None:
    guest.reset()


def resets_in_body(guest: Guest) -> None:
    guest.request()
    guest.say("HTTP/1.1 200 OK\r\nContent-Length: 500\r\n\r\n{")
    guest.reset()


def hangs(guest: Guest) -> None:
    guest.request()
    guest.wait()


def closes(guest: Guest) -> None:
    guest.wait(0)


def closes_after_request(guest: Guest) -> None:
    guest.request()


def floods(head: str, piece: bytes) -> Behaviour:
    def behave(guest: Guest) -> None:
        guest.request()
        guest.say(head)
        while True:
            guest.say(piece)

    return behave


def garbage(guest: Guest) -> None:
    guest.say(bytes(range(256)) * 16)
    guest.wait(0.3)


BOMB = gzip.compress(b'{"data":"' + b"0" * (200 << 20) + b'"}', 1)
DEEP = "[" * 100_000 + "]" * 100_000
PIECE = b"x" * 65536
LINE = b"X-A: " + b"b" * 8000 + b"\r\n"

# (behaviour, the error of a read, a part of its sentence)
CASES: dict[str, tuple[Behaviour, type[VaultError], str]] = {
    "drips in headers": (drips_headers, Unavailable, "no whole answer in time"),
    "drips in body": (drips_body, Unavailable, "no whole answer in time"),
    "reset after the request": (resets, Unavailable, "closed the connection"),
    "reset at once": (resets_at_once, Unavailable, ""),
    "reset in body": (resets_in_body, Unavailable, ""),
    "half a body": (bare("HTTP/1.1 200 OK\r\nContent-Length: 50\r\nConnection: close\r\n\r\n{"), Unavailable, ""),
    "never answers": (hangs, Unavailable, "no whole answer in time"),
    "accepts and closes": (closes, Unavailable, "closed the connection"),
    "closes after the request": (closes_after_request, Unavailable, "closed the connection"),
    "length too large": (bare("HTTP/1.1 200 OK\r\nContent-Length: 999999999999\r\n\r\n{}"), BadAnswer, "larger"),
    "length beyond all": (bare("HTTP/1.1 200 OK\r\nContent-Length: " + "9" * 500 + "\r\n\r\n{}"), BadAnswer, "larger"),
    "length too short": (bare("HTTP/1.1 200 OK\r\nContent-Length: 1\r\n\r\n{}"), BadAnswer, "not what a Vault says"),
    "length negative": (floods("HTTP/1.1 200 OK\r\nContent-Length: -1\r\n\r\n", PIECE), BadAnswer, "larger"),
    "length is a word": (floods("HTTP/1.1 200 OK\r\nContent-Length: many\r\n\r\n", PIECE), BadAnswer, "larger"),
    "length missing": (floods("HTTP/1.1 200 OK\r\n\r\n", PIECE), BadAnswer, "larger"),
    "two lengths": (bare("HTTP/1.1 200 OK\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\n{}"), BadAnswer, ""),
    "chunk sizes are garbage": (bare("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n"), Unavailable, ""),
    "a chunk of -1": (
        floods("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n-1\r\n", PIECE),
        BadAnswer,
        "larger",
    ),
    "a chunk without end": (
        floods("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nffffffffffff\r\n", PIECE),
        BadAnswer,
        "larger",
    ),
    "chunks without end": (
        floods("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n", b"400\r\n" + b"x" * 1024 + b"\r\n"),
        BadAnswer,
        "larger",
    ),
    "trailers without end": (
        floods("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\n{}\r\n0\r\n", LINE * 8),
        BadAnswer,
        "larger",
    ),
    "a chunk line without end": (
        floods("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n", b"0" * 65536),
        Unavailable,
        "",
    ),
    "no HTTP": (garbage, Unavailable, ""),
    "HTTP 0.9": (bare("{}"), Unavailable, ""),
    "status is a word": (bare("HTTP/1.1 fine OK\r\n\r\n"), Unavailable, ""),
    "status 999": (always(999, {}), Unavailable, "999"),
    "status 103": (bare("HTTP/1.1 103 Early Hints\r\n\r\n"), BadAnswer, "not what a Vault says"),
    "status 304": (bare("HTTP/1.1 304 x\r\n\r\n"), BadAnswer, "not what a Vault says"),
    "HTML": (always(200, "<html><body>Welcome</body></html>"), BadAnswer, "not what a Vault says"),
    "nothing": (always(200, ""), BadAnswer, "not what a Vault says"),
    "null": (always(200, "null"), BadAnswer, "not what a Vault says"),
    "a list": (always(200, "[]"), BadAnswer, "not what a Vault says"),
    "a number": (always(200, "42"), BadAnswer, "not what a Vault says"),
    "a long number": (always(200, '{"a":' + "9" * 100_000 + "}"), BadAnswer, "not what a Vault says"),
    "not a number": (always(200, '{"data":{"a":NaN}}'), BadAnswer, "not what a Vault says"),
    "half a surrogate": (always(200, '{"data":{"a":"\\uD800"}}'), BadAnswer, "not what a Vault says"),
    "not UTF-8": (always(200, b'{"data":{"a":"\xff"}}'), BadAnswer, "not what a Vault says"),
    "deep JSON": (always(200, DEEP), BadAnswer, "not what a Vault says"),
    "deep JSON in an object": (always(200, '{"data":' + DEEP + "}"), BadAnswer, "not what a Vault says"),
    "data is a list": (always(200, {"data": [1]}), BadAnswer, "no object under `data`"),
    "a gzip bomb": (always(200, BOMB, "Content-Encoding: gzip"), BadAnswer, "compressed"),
    "a body of 2 MiB": (always(200, b" " * (2 << 20)), BadAnswer, "larger"),
    "100 without end": (
        floods("", (b"HTTP/1.1 100 Continue\r\nX-A: " + b"b" * 8000 + b"\r\n\r\n") * 8),
        BadAnswer,
        "larger",
    ),
    "headers without end": (floods("HTTP/1.1 200 OK\r\n", b"X-A: b\r\n" * 4096), Unavailable, ""),
    "a header line without end": (floods("HTTP/1.1 200 OK\r\nX-A: ", PIECE), Unavailable, ""),
    "a status line without end": (floods("", PIECE), Unavailable, ""),
    "429": (always(429, {"errors": ["slow down"]}, "Retry-After: 0"), Unavailable, "429"),
    "429, an hour": (always(429, {"errors": ["slow down"]}, "Retry-After: 3600"), Unavailable, "429"),
    "429, for ever": (always(429, {}, "Retry-After: 99999999999999999999"), Unavailable, "429"),
    "429, a date": (always(429, {}, "Retry-After: Wed, 21 Oct 2065 07:28:00 GMT"), Unavailable, "429"),
    "500": (always(500, {"errors": ["1 error occurred"]}), Unavailable, "500"),
    "502 of a gateway": (always(502, "<html>nginx</html>"), Unavailable, "502"),
    "502, compressed": (always(502, BOMB, "Content-Encoding: gzip"), Unavailable, "502"),
    "504 of a gateway": (always(504, "<html>nginx</html>"), Unavailable, "504"),
    "503 sealed": (always(503, {"errors": ["Vault is sealed"]}), Sealed, "unseal it"),
    "503 sealed, health": (always(503, {"initialized": True, "sealed": True}), Sealed, "unseal it"),
    "503 of a gateway": (always(503, "<html>maintenance</html>"), Unavailable, "503"),
    "472": (always(472, {}), Unavailable, "472"),
    "473": (always(473, {}), Unavailable, "473"),
    "501 not initialised": (always(501, {"initialized": False, "sealed": True}), Sealed, "not initialised"),
    "400 not initialised": (always(400, {"errors": ["Vault is not initialized"]}), Sealed, "not initialised"),
    "400": (always(400, {"errors": ["missing\nfield \x1b[31m"]}), Refused, "missing field ?[31m"),
    "400 with the token": (always(400, {"errors": [f"bad token {TOKEN}!"]}), Refused, "bad token (hidden)!"),
    "400 with a key": (
        always(400, {"errors": ["-----BEGIN EC PRIVATE KEY-----\nMHcCAQEEI\n-----END EC PRIVATE KEY-----"]}),
        Refused,
        "(hidden)",
    ),
    "400 with another's token": (always(400, {"errors": ["hvb.AAAAAQICAQICAQICAQICAQICAQIC"]}), Refused, "(hidden)"),
    "400 without words": (always(400, {"errors": "x"}), Refused, "Bad Request"),
    "400 of another service": (always(400, {"message": "Bad Request"}), BadAnswer, "not what a Vault says"),
    "400 in HTML": (always(400, "<html>"), BadAnswer, "not what a Vault says"),
    "403": (always(403, {"errors": ["permission denied"]}), Denied, "permission denied"),
    "403 of a gateway": (always(403, "<html>"), BadAnswer, "not what a Vault says"),
    "403 of another service": (always(403, {"message": "Forbidden"}), BadAnswer, "not what a Vault says"),
    "404 of another service": (always(404, {"message": "Not Found"}), BadAnswer, "not what a Vault says"),
    "404 of a web server": (always(404, "<html>"), BadAnswer, "not what a Vault says"),
    "405": (always(405, {"errors": ["unsupported operation"]}), Refused, "unsupported operation"),
    "307 to nowhere": (always(307, ""), Unavailable, "nowhere"),
    "307 to half an address": (always(307, "", "Location: https://[::1"), Unavailable, "none of the addresses"),
    "307 within": (always(307, "", "Location: /ui/vault"), Unavailable, "none of the addresses"),
    "307 with the token": (always(307, "", f"Location: https://{TOKEN}.example.com/"), Unavailable, "(hidden)"),
}


@dataclass(frozen=True, slots=True)
class Outcome:
    error: BaseException
    seconds: float
    peak: int
    told: str


def outcome(vault: Vault, request: Request) -> Outcome:
    """What becomes of a request that cannot succeed, with everything a person or a log could see of it."""
    tracemalloc.start()
    begun = time.monotonic()
    try:
        answer = vault.call(request)
        _ = answer.data
    except VaultError as error:
        seconds = time.monotonic() - begun
        return Outcome(error, seconds, tracemalloc.get_traced_memory()[1], "".join(traceback.format_exception(error)))
    finally:
        tracemalloc.stop()
    raise AssertionError(f"it was taken for an answer: {answer}")


def client(*addresses: str, **settings: str) -> Vault:
    known = Settings(addresses, token=TOKEN, **settings)  # type: ignore[arg-type]
    return Vault(known, patience=PATIENCE, request_seconds=REQUEST_SECONDS)


def fit(found: Outcome, caplog: pytest.LogCaptureFixture) -> None:
    """The promises that hold for every outcome."""
    assert found.seconds < BOUND
    assert found.peak < MEMORY
    said = str(found.error)
    assert said
    assert said.isprintable()
    assert len(said) < 600
    assert found.error.__suppress_context__ or found.error.__context__ is None
    for secret in (TOKEN, SECRET_ID):
        assert secret not in found.told
        assert secret not in caplog.text


@pytest.fixture(autouse=True)
def debug(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)


@pytest.mark.parametrize("name", CASES)
def test_a_read_ends_in_one_sentence(name: str, caplog: pytest.LogCaptureFixture) -> None:
    behaviour, kind, words = CASES[name]
    with hostile.serving(behaviour) as server:
        found = outcome(client(server.address), READ)
    assert type(found.error) is kind, found.told
    assert words in str(found.error)
    fit(found, caplog)


@pytest.mark.parametrize("name", CASES)
def test_what_makes_a_key_is_sent_once(name: str, caplog: pytest.LogCaptureFixture) -> None:
    """A second try is made only where the server has said that it did not act on the first."""
    behaviour, _, _ = CASES[name]
    with hostile.serving(behaviour) as server:
        found = outcome(client(server.address), WRITE)
    fit(found, caplog)
    sent = server.heard.count(b"root/generate/internal")
    harmless = isinstance(found.error, Unavailable) and not found.error.sent
    assert sent <= 1 or harmless


@pytest.mark.parametrize("status", [307, 301, 302, 303, 308])
def test_no_redirect_takes_the_token_elsewhere(status: int) -> None:
    with hostile.serving(always(200, {"data": {}})) as other:
        location = f"Location: {other.address}/v1/sys/mounts"
        with hostile.serving(always(status, "", location)) as server, pytest.raises(Unavailable, match="none of the"):
            client(server.address).call(READ)
    assert other.guests == []
    assert TOKEN.encode() in server.heard


def test_a_redirect_to_an_address_given_is_followed() -> None:
    with (
        hostile.serving(always(200, {"data": {"x": 1}})) as other,
        hostile.serving(always(307, "", f"Location: {other.address}/v1/elsewhere?x=y")) as server,
    ):
        assert client(server.address, other.address).call(READ).data == {"x": 1}
    assert other.heard.startswith(b"GET /v1/sys/seal-status HTTP/1.1\r\n")


def test_redirects_in_a_circle_end(caplog: pytest.LogCaptureFixture) -> None:
    def circles(guest: Guest) -> None:
        always(307, "", f"Location: {server.address}/")(guest)

    with hostile.serving(circles) as server:
        found = outcome(client(server.address), READ)
    assert "circles" in str(found.error)
    fit(found, caplog)


def test_a_leader_that_does_not_lead_is_not_followed() -> None:
    """sys/leader may name any address; the token goes there only where TLS and the cluster are the same."""
    said = {"ha_enabled": True, "is_self": False, "leader_cluster_address": "https://10.0.0.1:8201"}
    with hostile.serving(always(200, {"ha_enabled": True, "is_self": True})) as other:
        named = {**said, "leader_address": other.address}
        with hostile.serving(always(200, named)) as server:
            vault = client(server.address)
            vault.pin_to_leader()
            assert vault.address == server.address
            vault.call(READ)
    assert other.guests == []


def test_another_clusters_leader_is_not_ours(tmp_path: Path) -> None:
    ca = trustme.CA()
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    ca.issue_cert("127.0.0.1").configure_cert(context)
    ca.cert_pem.write_to_path(tmp_path / "ca.pem")
    foreign = {"ha_enabled": True, "is_self": True, "leader_cluster_address": "https://10.9.9.9:8201"}
    with hostile.serving(always(200, foreign), tls=context) as other:
        said = {"ha_enabled": True, "is_self": False, "leader_cluster_address": "https://10.0.0.1:8201"}
        with hostile.serving(always(200, {**said, "leader_address": other.address}), tls=context) as server:
            vault = client(server.address, ca_file=str(tmp_path / "ca.pem"))
            vault.pin_to_leader()
            vault.call(READ)
            assert vault.address == server.address
    # It was asked for sys/leader, which needs no token, and was sent none.
    assert other.heard.startswith(b"GET /v1/sys/leader ")
    assert TOKEN.encode() not in other.heard


def test_a_cluster_without_leader_is_waited_for_and_told() -> None:
    with hostile.serving(always(200, {"ha_enabled": True, "is_self": False, "leader_address": ""})) as server:
        begun = time.monotonic()
        with pytest.raises(Unavailable, match="has no leader"):
            client(server.address).pin_to_leader()
        assert time.monotonic() - begun < BOUND


def test_the_next_address_is_asked() -> None:
    for broken in (closes, always(503, {"errors": ["Vault is sealed"]}), always(502, "<html>"), hangs):
        with hostile.serving(broken) as first, hostile.serving(always(200, {"data": {"x": 1}})) as second:
            vault = client(first.address, second.address)
            assert vault.call(READ).data == {"x": 1}
            assert vault.address == second.address


NO_VAULTS: dict[str, Behaviour] = {
    "a web page": always(200, "<html>Welcome</html>"),
    "no page": always(404, "<html>Not Found</html>"),
    "nothing": always(404, ""),
    "forbidden": always(403, "<html>Forbidden</html>"),
    "another service's 400": always(400, {"message": "Bad Request"}),
    "another service's 403": always(403, {"message": "Forbidden"}),
    "another service's 404": always(404, {"message": "Not Found"}),
    "compressed": always(200, BOMB, "Content-Encoding: gzip"),
    "too large": always(200, b" " * (2 << 20)),
}


@pytest.mark.parametrize("name", NO_VAULTS)
def test_an_address_where_no_vault_stands_does_not_end_it(name: str) -> None:
    good = always(200, {"data": {"x": 1}})
    with hostile.serving(NO_VAULTS[name]) as first, hostile.serving(good) as second:
        for request in (READ, Request("LIST", "x/roles"), Request("POST", "x/roles/y", {}), Request("DELETE", "x/y")):
            vault = client(first.address, second.address)
            assert vault.call(request).data == {"x": 1}
            assert vault.address == second.address


def test_where_no_vault_stands_at_any_address_that_is_told_at_once(caplog: pytest.LogCaptureFixture) -> None:
    with hostile.serving(NO_VAULTS["a web page"]) as first, hostile.serving(NO_VAULTS["no page"]) as second:
        found = outcome(client(first.address, second.address), READ)
        assert type(found.error) is BadAnswer
        assert first.address in str(found.error)
        assert len(first.guests) == len(second.guests) == 1
        fit(found, caplog)


def test_while_the_others_are_away_they_are_waited_for() -> None:
    with hostile.serving(NO_VAULTS["a web page"]) as first, hostile.serving(closes) as second:
        with pytest.raises(Unavailable, match=re.escape(second.address)):
            client(first.address, second.address).call(READ)
        assert len(second.guests) > 1


@pytest.mark.parametrize("name", NO_VAULTS)
def test_what_makes_a_key_goes_to_no_second_address(name: str) -> None:
    """A gateway may have put its page in place of what the Vault behind it said."""
    with hostile.serving(NO_VAULTS[name]) as first, hostile.serving(always(200, {"data": {}})) as second:
        with pytest.raises(BadAnswer):
            client(first.address, second.address).call(WRITE)
        assert second.guests == []


def test_what_a_vault_took_with_a_warning_goes_to_no_second_address() -> None:
    warns = always(200, {"data": {}, "warnings": ["ttl was capped"]})
    with hostile.serving(warns) as first, hostile.serving(always(200, {"data": {}})) as second:
        with pytest.raises(BadAnswer, match="but warns"):
            client(first.address, second.address).call(Request("POST", "x/roles/y", {}))
        assert second.guests == []


def test_a_row_of_writes_goes_on_at_the_next_address() -> None:
    with hostile.serving(NO_VAULTS["no page"]) as first, hostile.serving(always(200, {"data": {"x": 1}})) as second:
        vault = client(first.address, second.address)
        vault.warm(1)
        answers = vault.many([Request("POST", f"x/{n}", {}) for n in range(6)])
        assert [answer.data for answer in answers] == [{"x": 1}] * 6


LOGIN = "auth/x/listed/login"
LET_IN = always(200, {"auth": {"client_token": "hvs.node"}, "data": {"x": 1}})
OTHER_VAULTS: dict[str, Behaviour] = {
    "no such credential": always(400, {"errors": ["invalid role or secret ID"]}),
    "no such mount": always(403, {"errors": ["permission denied"]}),
    "no route": always(404, {"errors": ["no handler for route"]}),
    "no such method": always(405, {"errors": []}),
    "no token": always(200, {"auth": None}),
    "no answer": always(200, {"status": "up"}),
}


@pytest.mark.parametrize("behaviour", [*OTHER_VAULTS.values(), *NO_VAULTS.values()], ids=[*OTHER_VAULTS, *NO_VAULTS])
def test_a_login_goes_on_to_the_vault_that_lets_us_in(behaviour: Behaviour) -> None:
    with hostile.serving(behaviour) as first, hostile.serving(LET_IN) as second:
        vault = client(first.address, second.address)
        node = vault.login(LOGIN, {"role_id": "r", "secret_id": SECRET_ID})
        asked = len(first.heard)
        assert node.call(READ).data == {"x": 1}
        assert node.address == second.address
        assert len(first.heard) == asked
        assert b"X-Vault-Token: hvs.node\r\n" in second.heard


def test_a_login_that_every_address_turns_down() -> None:
    """400 is the word of the Vault that has the mount, wherever it stands; and who is away changes nothing in it."""
    unknown, elsewhere = OTHER_VAULTS["no such credential"], OTHER_VAULTS["no such mount"]
    for behaviours in ((unknown, elsewhere), (elsewhere, unknown), (unknown, closes), (closes, unknown)):
        with hostile.serving(behaviours[0]) as first, hostile.serving(behaviours[1]) as second:
            with pytest.raises(Refused, match="invalid role or secret ID") as caught:
                client(first.address, second.address).login(LOGIN, {"secret_id": SECRET_ID})
            assert len(first.guests) == len(second.guests) == 1
            assert SECRET_ID not in str(caught.value)
    with hostile.serving(elsewhere) as first, hostile.serving(elsewhere) as second, pytest.raises(Denied):
        client(first.address, second.address).login(LOGIN, {"secret_id": SECRET_ID})


def test_what_is_no_login_is_turned_down_by_one_address_for_all() -> None:
    for behaviour, kind in ((OTHER_VAULTS["no such credential"], Refused), (OTHER_VAULTS["no such mount"], Denied)):
        with hostile.serving(behaviour) as first, hostile.serving(LET_IN) as second:
            with pytest.raises(kind):
                client(first.address, second.address).call(READ)
            assert second.guests == []


def test_sealed_everywhere_is_told_at_once_and_sealed_somewhere_is_waited_for() -> None:
    sealed = always(503, {"errors": ["Vault is sealed"]})
    with hostile.serving(sealed) as first, hostile.serving(sealed) as second:
        with pytest.raises(Sealed):
            client(first.address, second.address).call(READ)
        assert len(first.guests) == len(second.guests) == 1
    with hostile.serving(closes) as first, hostile.serving(sealed) as second:
        begun = time.monotonic()
        with pytest.raises(Unavailable) as caught:
            client(first.address, second.address).call(READ)
        assert type(caught.value) is Unavailable
        assert time.monotonic() - begun > 0.1
        assert len(first.guests) > 1


def test_one_node_with_a_bad_certificate_does_not_end_it(tmp_path: Path) -> None:
    good, bad = trustme.CA(), trustme.CA()
    contexts = []
    for ca in (bad, good):
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        ca.issue_cert("127.0.0.1").configure_cert(context)
        contexts.append(context)
    good.cert_pem.write_to_path(tmp_path / "ca.pem")
    with (
        hostile.serving(always(200, {"data": {}}), tls=contexts[0]) as first,
        hostile.serving(always(200, {"data": {}}), tls=contexts[1]) as second,
    ):
        vault = client(first.address, second.address, ca_file=str(tmp_path / "ca.pem"))
        vault.call(READ)
        assert vault.address == second.address
    assert first.heard == b""


def test_a_wrong_ca_is_told_at_once_and_nothing_is_sent(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    trustme.CA().issue_cert("127.0.0.1").configure_cert(context)
    trustme.CA().cert_pem.write_to_path(tmp_path / "other.pem")
    with hostile.serving(always(200, {"data": {}}), tls=context) as server:
        found = outcome(client(server.address, ca_file=str(tmp_path / "other.pem")), READ)
        assert type(found.error) is Untrusted
        assert "VAULT_CACERT" in str(found.error)
        fit(found, caplog)
        assert len(server.guests) == 1
    assert server.heard == b""


def test_a_certificate_for_another_name_is_not_trusted(tmp_path: Path) -> None:
    ca = trustme.CA()
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    ca.issue_cert("vault.example.com").configure_cert(context)
    ca.cert_pem.write_to_path(tmp_path / "ca.pem")
    with hostile.serving(always(200, {"data": {}}), tls=context) as server:
        with pytest.raises(Untrusted):
            client(server.address, ca_file=str(tmp_path / "ca.pem")).call(READ)
        assert server.heard == b""
        named = client(server.address, ca_file=str(tmp_path / "ca.pem"), server_name="vault.example.com")
        assert named.call(READ).data == {}


@pytest.mark.parametrize("behaviour", [garbage, hangs, closes, resets_at_once, always(200, {})])
def test_no_tls_where_tls_should_be(behaviour: Behaviour, caplog: pytest.LogCaptureFixture) -> None:
    with hostile.serving(behaviour) as server:
        found = outcome(client(server.address.replace("http:", "https:")), READ)
    assert type(found.error) is Unavailable
    assert TOKEN.encode() not in server.heard
    fit(found, caplog)


@pytest.mark.parametrize(
    "auth",
    [
        None,
        [],
        "x",
        {},
        {"client_token": None},
        {"client_token": ""},
        {"client_token": 7},
        {"client_token": "hvs.x\nX-Evil: 1"},
        {"client_token": "hvs.x\r\n\r\nGET /"},
        {"client_token": "hvs.\u00e9"},
        {"client_token": "s" * 5000},
    ],
)
def test_a_login_that_brings_no_token(auth: object) -> None:
    with hostile.serving(always(200, {"auth": auth})) as server, pytest.raises(BadAnswer) as caught:
        client(server.address).login("auth/x/listed/login", {"role_id": "r", "secret_id": SECRET_ID})
    assert SECRET_ID not in str(caught.value)
    assert str(caught.value).isprintable()


def test_a_login_answer_too_large() -> None:
    body = {"auth": {"client_token": "hvs.x", "metadata": {"x": "y" * (2 << 20)}}}
    with hostile.serving(always(200, body)) as server, pytest.raises(BadAnswer, match="larger"):
        client(server.address).login("auth/x/listed/login", {"secret_id": SECRET_ID})


@pytest.mark.parametrize("warnings", [["ttl was capped"], "ttl was capped", [{"a": 1}], [f"role {SECRET_ID} is bad"]])
def test_a_warning_nobody_expected_is_an_error(warnings: object) -> None:
    write = Request("POST", "x/roles/y", {"secret_id": SECRET_ID}, warnings=("known",))
    with hostile.serving(always(200, {"data": {}, "warnings": warnings})) as server:
        with pytest.raises(BadAnswer, match="but warns") as caught:
            client(server.address).call(write)
        assert SECRET_ID not in str(caught.value)
        client(server.address).call(READ)
    with hostile.serving(always(200, {"data": {}, "warnings": ["a known one"]})) as server:
        client(server.address).call(write)


def test_a_connection_that_the_server_closed_meanwhile_is_no_failure() -> None:
    """What may be sent once only goes out on a connection that is seen to be open."""

    def one_each(guest: Guest) -> None:
        guest.request()
        guest.answer(200, {"data": {}})

    with hostile.serving(one_each) as server:
        vault = client(server.address)
        for request in (READ, WRITE, READ, WRITE):
            vault.call(request)
            time.sleep(0.05)
        assert len(server.guests) == 4


def test_bytes_that_nobody_asked_for_are_no_answer() -> None:
    """A second answer sent ahead would else be taken for that of the next request."""

    def talks(guest: Guest) -> None:
        while True:
            guest.request()
            guest.answer(200, {"data": {"n": guest.number}})
            guest.answer(200, {"data": {"n": "forged"}})

    with hostile.serving(talks) as server:
        vault = client(server.address)
        seen = []
        for _ in range(3):
            seen.append(vault.call(READ).data["n"])
            time.sleep(0.05)
    assert len(seen) == 3
    assert "forged" not in seen


def test_a_retry_after_is_waited_for_within_patience() -> None:
    answers: Iterator[tuple[int, object, str]] = iter([(429, {}, "Retry-After: 1"), (200, {"data": {}}, "X: y")])

    def once_busy(guest: Guest) -> None:
        while True:
            guest.request()
            guest.answer(*next(answers))

    with hostile.serving(once_busy) as server:
        begun = time.monotonic()
        Vault(Settings((server.address,)), patience=3).call(READ)
        assert time.monotonic() - begun >= 1.0


def test_one_failure_ends_what_waits_in_other_threads() -> None:
    """The thread that is refused ends the patience of those whose address is away."""

    def by_path(guest: Guest) -> None:
        while True:
            told = guest.request()
            if b"/v1/refused" in told:
                guest.wait(0.2)
                guest.answer(403, {"errors": ["no"]})
            else:
                guest.answer(502, "")

    with hostile.serving(by_path) as server:
        vault = Vault(Settings((server.address,)), patience=30)
        vault._route.met = True
        begun = time.monotonic()
        with pytest.raises(Denied):
            vault.many([Request("GET", "refused"), *(Request("GET", f"away/{n}") for n in range(20))])
        assert time.monotonic() - begun < 15


def test_ctrl_c_is_not_kept_waiting() -> None:
    code = (
        "import sys; from vaultpki.vault import *\n"
        "vault = Vault(Settings((sys.argv[1],)), patience=60, request_seconds=60)\n"
        "vault._route.met = True\n"
        "try: vault.many([Request('GET', f'x/{n}') for n in range(20)])\n"
        "except KeyboardInterrupt: print('interrupted')\n"
    )
    with hostile.serving(hangs) as server:
        child = subprocess.Popen([sys.executable, "-c", code, server.address], stdout=subprocess.PIPE, text=True)
        try:
            while len(server.guests) < WIDTH:
                assert child.poll() is None
                time.sleep(0.02)
            time.sleep(0.2)
            child.send_signal(2)
            assert child.communicate(timeout=20)[0] == "interrupted\n"
        finally:
            child.kill()
            child.wait()


def test_threads_share_connections_and_never_answers() -> None:
    def echoes(guest: Guest) -> None:
        while True:
            path = guest.request().split(b" ")[1].decode()
            guest.answer(200, {"data": {"path": path}})

    with hostile.serving(echoes) as server:
        vault = client(server.address)
        for _ in range(5):
            answers = vault.many([Request("GET", f"x/{n}") for n in range(100)])
            assert [answer.data["path"] for answer in answers] == [f"/v1/x/{n}" for n in range(100)]
        assert len(server.guests) <= WIDTH


def test_no_variable_of_another_library_has_a_say(tmp_path: Path) -> None:
    """Proxies, .netrc, REQUESTS_CA_BUNDLE and the keys of every connection for whoever names a file."""
    ca = trustme.CA()
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    ca.issue_cert("127.0.0.1").configure_cert(context)
    ca.cert_pem.write_to_path(tmp_path / "ca.pem")
    trustme.CA().cert_pem.write_to_path(tmp_path / "other.pem")
    (tmp_path / ".netrc").write_text("machine 127.0.0.1 login canary password canary\n")
    (tmp_path / ".netrc").chmod(0o600)
    code = (
        "from vaultpki.vault import *\n"
        "vault = Vault(from_environment(), patience=0)\n"
        "print(vault.call(Request('GET', 'x')).data)\n"
        "with vault.hvac() as client: print(client.read('y')['data'])\n"
    )
    with (
        hostile.serving(always(200, {"data": {}})) as proxy,
        hostile.serving(always(200, {"data": {}}), tls=context) as server,
    ):
        environment = {
            "PATH": os.defpath,
            "PYTHONPATH": os.pathsep.join(sys.path),
            "HOME": str(tmp_path),
            "NETRC": str(tmp_path / ".netrc"),
            "VAULT_ADDR": server.address,
            "VAULT_CACERT": str(tmp_path / "ca.pem"),
            "VAULT_TOKEN": TOKEN,
            "VAULT_HTTP_PROXY": proxy.address,
            "REQUESTS_CA_BUNDLE": str(tmp_path / "other.pem"),
            "CURL_CA_BUNDLE": str(tmp_path / "other.pem"),
            "SSL_CERT_FILE": str(tmp_path / "other.pem"),
            "SSLKEYLOGFILE": str(tmp_path / "keys.log"),
            **{f"{name}_PROXY": proxy.address for name in ("HTTP", "HTTPS", "ALL")},
            **{f"{name}_proxy": proxy.address for name in ("http", "https", "all")},
        }
        ran = subprocess.run(
            [sys.executable, "-c", code], env=environment, capture_output=True, text=True, timeout=30, check=True
        )
    assert ran.stdout == "{}\n{}\n"
    assert ran.stderr == ""
    assert proxy.guests == []
    assert not (tmp_path / "keys.log").exists()
    assert b"canary" not in server.heard.lower().replace(TOKEN.lower().encode(), b"")
    heads = re.findall(rb"(?m)^([A-Za-z-]+): (.*)\r$", server.heard)
    assert {value for name, value in heads if name.lower() == b"accept-encoding"} == {b"identity"}
    assert {value for name, value in heads if name == b"X-Vault-Token"} == {TOKEN.encode()}


def _commands(folder: Path) -> dict[str, list[str]]:
    spec = folder / "cluster.yaml"
    run = [sys.executable, "-m", "vaultpki"]
    subprocess.run([*run, "init", "-o", str(spec)], check=True, capture_output=True)
    return {
        "plan": [*run, "plan", "-f", str(spec)],
        "apply": [*run, "apply", "-f", str(spec), "--yes"],
        "destroy": [*run, "destroy", "-f", str(spec), "--confirm", "prod"],
    }


SHAPES: dict[str, Behaviour] = {
    "empty object": always(200, {}),
    "empty data": always(200, {"data": {}}),
    "data of words": always(200, {"data": {"keys": ["a", "b"], "vaultpki/prod/root/": "x", "policy": 7}}),
    "keys of lists": always(200, {"data": {"keys": [["a"]], "key_info": []}}),
    "null data": always(200, {"data": None, "auth": None, "warnings": None}),
    "no content": always(204, ""),
    "not found": always(404, {"errors": []}),
    "refused": always(400, {"errors": [f"your {TOKEN} is bad"]}),
    "denied": always(403, {"errors": [f"your {TOKEN} is weak"]}),
    "HTML": always(200, "<html>"),
    "sealed": always(503, {"errors": ["Vault is sealed"]}),
}


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("command", ["plan", "apply", "destroy"])
def test_a_command_ends_in_one_sentence(command: str, shape: str, tmp_path: Path) -> None:
    """Answers that are JSON and yet nothing a Vault says: no traceback, and no fault of ours."""
    line = _commands(tmp_path)[command]
    with hostile.serving(SHAPES[shape]) as server:
        environment = {**os.environ, "VAULT_ADDR": server.address, "VAULT_TOKEN": TOKEN}
        ran = subprocess.run(line, env=environment, capture_output=True, text=True, timeout=60, check=False)
    said = ran.stdout + ran.stderr
    assert TOKEN not in said
    assert "fault of vaultpki" not in said, said
    assert "Traceback" not in said
    assert ran.returncode == (0 if command in ("plan", "destroy") and ran.stderr == "" else 1), said
    assert len(ran.stderr.splitlines()) <= 1, said


def test_json_is_read_as_json() -> None:
    """The cap leaves room for the largest answer that a Vault gives: a list of a few thousand names."""
    names = [f"node-{n:05}" for n in range(40_000)]
    with hostile.serving(always(200, {"data": {"keys": names}})) as server:
        assert client(server.address).names("x/y") == tuple(names)
        assert len(json.dumps(names)) > 300_000


def test_nothing_stays_behind() -> None:
    """Threads of an ended `map` are gone, whatever the server did."""
    before = threading.active_count()
    with hostile.serving(closes) as server, pytest.raises(Unavailable):
        client(server.address).many([READ] * 20)
    assert threading.active_count() <= before


def test_no_socket_stays_open_where_the_server_hangs_up_before_tls() -> None:
    with hostile.serving(resets_at_once) as server, warnings.catch_warnings(record=True) as warned:
        warnings.simplefilter("always")
        vault = Vault(Settings((server.address.replace("http:", "https:"),)), patience=0.01, request_seconds=1)
        for _ in range(200):
            with pytest.raises(Unavailable):
                vault.call(READ)
        gc.collect()
    assert [str(each.message) for each in warned] == []


def test_who_we_are_goes_with_every_request(tmp_path: Path) -> None:
    """Client certificate, namespace and token; and the certificate is asked of us by the server."""
    ca = trustme.CA()
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.verify_mode = ssl.CERT_REQUIRED
    ca.issue_cert("127.0.0.1").configure_cert(context)
    ca.configure_trust(context)
    ca.cert_pem.write_to_path(tmp_path / "ca.pem")
    pair = ca.issue_cert("applier.example.com")
    pair.cert_chain_pems[0].write_to_path(tmp_path / "client.crt")
    pair.private_key_pem.write_to_path(tmp_path / "client.key")
    seen = []

    def behave(guest: Guest) -> None:
        assert isinstance(guest.socket, ssl.SSLSocket)
        peer = guest.socket.getpeercert() or {}
        seen.append(dict(peer)["subjectAltName"])
        always(200, {"data": {}})(guest)

    with hostile.serving(behave, tls=context) as server:
        told = {"ca_file": str(tmp_path / "ca.pem"), "namespace": "teams/platform"}
        with pytest.raises(Unavailable):
            client(server.address, **told).call(READ)
        known = {"client_certificate": str(tmp_path / "client.crt"), "client_key": str(tmp_path / "client.key")}
        client(server.address, **told, **known).call(READ)
    assert seen == [(("DNS", "applier.example.com"),)]
    assert b"X-Vault-Namespace: teams/platform\r\n" in server.heard
    assert b"X-Vault-Request: true\r\n" in server.heard


def test_ipv6_is_an_address_like_another() -> None:
    with hostile.serving(always(200, {"data": {"x": 6}}), host="::1") as server:
        assert client(server.address).call(READ).data == {"x": 6}
    assert f"Host: {server.address.removeprefix('http://')}\r\n".encode() in server.heard


def test_hvac_logs_in_with_a_token_of_its_own() -> None:
    """What hvac was given by a login is what hvac sends, and what is no token never becomes one."""
    answers = iter([{"auth": {"client_token": "hvs.second"}}, {"data": {}}, {"auth": {"client_token": "a\nb"}}])

    def behave(guest: Guest) -> None:
        while True:
            guest.request()
            guest.answer(200, next(answers))

    with hostile.serving(behave) as server, client(server.address).hvac() as road:
        road.auth.approle.login(role_id="r", secret_id=SECRET_ID)
        road.secrets.kv.v2.read_secret_version("x", version=3, raise_on_deleted_version=False)
        with pytest.raises(BadAnswer):
            road.auth.approle.login(role_id="r", secret_id=SECRET_ID)
    assert server.heard.count(b"X-Vault-Token: hvs.second\r\n") == 2
    assert b"GET /v1/secret/data/x?version=3 HTTP/1.1\r\n" in server.heard


def test_every_answer_tells_the_servers_clock() -> None:
    """Also one that refuses; the last one counts, for every token of the server."""
    ahead = time.time() + 3600

    def behave(guest: Guest) -> None:
        for status, moment in ((200, ahead), (403, ahead + 60), (200, None), (200, -1.0)):
            guest.request()
            told = "now" if moment == -1.0 else moment and formatdate(moment, usegmt=True)
            guest.answer(status, {"data": {}}, *([f"Date: {told}"] if told else []))

    with hostile.serving(behave) as server:
        vault = client(server.address)
        assert (vault.server_time, vault.clock_offset) == (None, None)
        assert vault.call(READ).date == vault.server_time == int(ahead)
        other = vault.as_token("hvs.other")
        with pytest.raises(Denied):
            other.call(READ)
        assert vault.call(READ).date is None
        assert vault.server_time == int(ahead) + 60
        offset = vault.clock_offset
        assert offset is not None
        assert abs(offset - 3660) < 3
        assert vault.call(READ).date is None
        assert other.server_time is other.clock_offset is None


# Requests in a row, without waiting for the answers between


READS = [Request("GET", f"x/{n}") for n in range(40)]
PATHS: list[object] = [f"/v1/x/{n}" for n in range(40)]


def asked(vault: Vault) -> list[object]:
    """What a server that repeats the path says to READS, over connections opened beforehand."""
    vault.warm()
    return [answer.data["path"] for answer in vault.many(READS)]


def echo(guest: Guest, *headers: str) -> None:
    path = guest.request().split(b" ")[1].decode()
    guest.answer(200, {"data": {"path": path}}, *headers)


def echoes(guest: Guest) -> None:
    while True:
        echo(guest)


def closes_after_three(guest: Guest) -> None:
    for _ in range(3):
        echo(guest)


def says_that_it_closes(guest: Guest) -> None:
    echo(guest, "Connection: close")


def takes_one_at_a_time(guest: Guest) -> None:
    """Forgets what else came with the request that it answers."""
    while True:
        guest.taken = len(guest.heard)
        echo(guest)


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


def test_a_row_takes_few_connections_and_keeps_its_order() -> None:
    with hostile.serving(echoes) as server:
        vault = client(server.address)
        assert asked(vault) == PATHS
        assert vault.reads == 40
        assert len(server.guests) <= 4
        assert server.heard.count(b"GET ") == 40


@pytest.mark.parametrize(
    "behaviour", [closes_after_three, says_that_it_closes, takes_one_at_a_time, breaks_off, passes_away]
)
def test_a_row_that_broke_off_is_gone_on_with_one_by_one(behaviour: Behaviour) -> None:
    with hostile.serving(behaviour) as server:
        vault = Vault(Settings((server.address,), token=TOKEN), patience=20)
        assert asked(vault) == PATHS
        begun = time.monotonic()
        assert asked(vault) == PATHS
        # Who does not take a row is not waited for a second time.
        assert time.monotonic() - begun < 10


def test_what_may_be_sent_once_never_goes_in_a_row() -> None:
    """It would not be known whether the server had it."""

    def one_by_one(guest: Guest) -> None:
        while True:
            guest.request()
            assert len(guest.heard) == guest.taken
            guest.answer(200, {"data": {}})

    with hostile.serving(one_by_one) as server:
        vault = client(server.address)
        vault.warm()
        vault.many([WRITE] * 20)
        assert server.heard.count(b"root/generate/internal") == 20
        assert vault.writes == 20


def test_a_row_of_much_more_than_a_socket_holds() -> None:
    """A server that answers at once, and at length, while more is sent to it."""

    def repeats(guest: Guest) -> None:
        while True:
            guest.answer(200, {"data": {"length": len(guest.request()), "filler": "y" * 40_000}})

    with hostile.serving(repeats) as server:
        vault = Vault(Settings((server.address,), token=TOKEN), patience=20)
        vault.warm()
        big = [Request("POST", f"x/{n}", {"filler": "x" * (n * 2000)}) for n in range(60)]
        lengths = [answer.data["length"] for answer in vault.many(big)]
        assert lengths == sorted(lengths)
        assert len(set(lengths)) == 60


def test_a_refusal_in_a_row_is_told_and_ends_the_rest() -> None:
    def refuses(guest: Guest) -> None:
        for number in range(1000):
            guest.request()
            guest.answer(403 if number == 3 else 200, {"errors": ["permission denied"], "data": {}})

    with hostile.serving(refuses) as server:
        vault = client(server.address)
        vault.warm()
        with pytest.raises(Denied):
            vault.many([Request("POST", f"x/{n}", {}) for n in range(40)])


def test_a_glance_raises_nothing_and_sends_nothing_without_a_connection() -> None:
    def refuses(guest: Guest) -> None:
        for number in range(1000):
            guest.request()
            guest.answer((200, 403, 404, 500)[number % 4], {"errors": [], "data": {}})

    with hostile.serving(refuses) as server:
        vault = client(server.address)
        assert vault.glance(READS[:4]) == [None] * 4
        assert server.guests == []
        vault.warm(1)
        found = vault.glance(READS[:4])
        assert [answer.status if answer else None for answer in found] == [200, None, 404, None]
        assert vault.reads == 2


def test_work_within_work_ends_with_it() -> None:
    """A part that failed ends what other parts wait for, however deep they are in it."""

    def by_path(guest: Guest) -> None:
        while True:
            if b"/v1/refused" in guest.request():
                guest.wait(0.2)
                guest.answer(403, {"errors": ["no"]})
            else:
                guest.answer(502, "")

    with hostile.serving(by_path) as server:
        vault = Vault(Settings((server.address,)), patience=30)
        vault._route.met = True
        works = [
            lambda: vault.call(Request("GET", "refused")),
            lambda: vault.many([Request("GET", f"away/{n}") for n in range(20)]),
        ]
        begun = time.monotonic()
        with pytest.raises(Denied):
            vault.map(lambda work: work(), works)
        assert time.monotonic() - begun < 15
        assert vault._work.ended.below == []
