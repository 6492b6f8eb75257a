"""A server that lies, drips, floods or hangs: one sentence, in bounded time and memory, and no secret leaves."""

from __future__ import annotations

import json
import logging
import os
import re
import ssl
import subprocess
import sys
import time
from email.utils import formatdate
from pathlib import Path

import pytest
import trustme

from helpers.faults import hostile_server
from helpers.faults.hostile_server import Behaviour, Guest
from helpers.faults.server_behaviours import (
    ANSWERED,
    BOMB,
    PATIENCE,
    READ,
    SECRET_ID,
    TOKEN,
    WRITE,
    always,
    client,
    closes,
    fit,
    garbage,
    hangs,
    outcome,
    resets_at_once,
)
from helpers.vault.applied_cluster import vaultpki
from vaultpki.errors import BadAnswer, Denied, Refused, Sealed, Unavailable, VaultError
from vaultpki.vault import Request


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


def resets_in_body(guest: Guest) -> None:
    guest.request()
    guest.say("HTTP/1.1 200 OK\r\nContent-Length: 500\r\n\r\n{")
    guest.reset()


def closes_after_request(guest: Guest) -> None:
    guest.request()


def floods(head: str, piece: bytes) -> Behaviour:
    def behave(guest: Guest) -> None:
        guest.request()
        guest.say(head)
        while True:
            guest.say(piece)

    return behave


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
    "length beyond all": (
        bare("HTTP/1.1 200 OK\r\nContent-Length: " + "9" * 500 + "\r\n\r\n{}"),
        Unavailable,
        "valid HTTP",
    ),
    "length too short": (bare("HTTP/1.1 200 OK\r\nContent-Length: 1\r\n\r\n{}"), BadAnswer, "not a Vault response"),
    "length negative": (floods("HTTP/1.1 200 OK\r\nContent-Length: -1\r\n\r\n", PIECE), Unavailable, "valid HTTP"),
    "length is a word": (floods("HTTP/1.1 200 OK\r\nContent-Length: many\r\n\r\n", PIECE), Unavailable, "valid HTTP"),
    "length missing": (floods("HTTP/1.1 200 OK\r\n\r\n", PIECE), BadAnswer, "larger"),
    "two lengths": (bare("HTTP/1.1 200 OK\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\n{}"), Unavailable, ""),
    "chunk sizes are garbage": (bare("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n"), Unavailable, ""),
    "a chunk of -1": (
        floods("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n-1\r\n", PIECE),
        Unavailable,
        "valid HTTP",
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
        Unavailable,
        "valid HTTP",
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
    "status 103": (bare("HTTP/1.1 103 Early Hints\r\n\r\n"), Unavailable, "broke off"),
    "103 for ever": (bare("HTTP/1.1 103 Early Hints\r\n\r\n" * 9), BadAnswer, "interim answers"),
    "status 101": (bare("HTTP/1.1 101 Switching Protocols\r\n\r\n{}"), Unavailable, "valid HTTP"),
    "status 304": (bare("HTTP/1.1 304 x\r\n\r\n"), BadAnswer, "not a Vault response"),
    "HTML": (always(200, "<html><body>Welcome</body></html>"), BadAnswer, "not a Vault response"),
    "nothing": (always(200, ""), BadAnswer, "not a Vault response"),
    "null": (always(200, "null"), BadAnswer, "not a Vault response"),
    "a list": (always(200, "[]"), BadAnswer, "not a Vault response"),
    "a number": (always(200, "42"), BadAnswer, "not a Vault response"),
    "a long number": (always(200, '{"a":' + "9" * 100_000 + "}"), BadAnswer, "not a Vault response"),
    "not a number": (always(200, '{"data":{"a":NaN}}'), BadAnswer, "not a Vault response"),
    "half a surrogate": (always(200, '{"data":{"a":"\\uD800"}}'), BadAnswer, "not a Vault response"),
    "not UTF-8": (always(200, b'{"data":{"a":"\xff"}}'), BadAnswer, "not a Vault response"),
    "deep JSON": (always(200, DEEP), BadAnswer, "not a Vault response"),
    "deep JSON in an object": (always(200, '{"data":' + DEEP + "}"), BadAnswer, "not a Vault response"),
    "data is a list": (always(200, {"data": [1]}), BadAnswer, "no object under `data`"),
    "a gzip bomb": (always(200, BOMB, "Content-Encoding: gzip"), BadAnswer, "compressed"),
    "a body of 2 MiB": (always(200, b" " * (2 << 20)), BadAnswer, "larger"),
    "100 without end": (
        floods("", (b"HTTP/1.1 100 Continue\r\nX-A: " + b"b" * 8000 + b"\r\n\r\n") * 8),
        BadAnswer,
        "interim answers",
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
    "400 of another service": (always(400, {"message": "Bad Request"}), BadAnswer, "not a Vault response"),
    "400 in HTML": (always(400, "<html>"), BadAnswer, "not a Vault response"),
    "403": (always(403, {"errors": ["permission denied"]}), Denied, "permission denied"),
    "403 of a gateway": (always(403, "<html>"), BadAnswer, "not a Vault response"),
    "403 of another service": (always(403, {"message": "Forbidden"}), BadAnswer, "not a Vault response"),
    "404 of another service": (always(404, {"message": "Not Found"}), BadAnswer, "not a Vault response"),
    "404 of a web server": (always(404, "<html>"), BadAnswer, "not a Vault response"),
    "405": (always(405, {"errors": ["unsupported operation"]}), Refused, "unsupported operation"),
    "307 to nowhere": (always(307, ""), Unavailable, "nowhere"),
    "307 to half an address": (always(307, "", "Location: https://[::1"), Unavailable, "none of the addresses"),
    "307 within": (always(307, "", "Location: /ui/vault"), Unavailable, "none of the addresses"),
    "307 with the token": (always(307, "", f"Location: https://{TOKEN}.example.com/"), Unavailable, "(hidden)"),
}


@pytest.fixture(autouse=True)
def debug(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)


@pytest.mark.parametrize("name", CASES)
def test_a_read_ends_in_one_sentence_and_what_makes_a_key_is_sent_once(
    name: str, caplog: pytest.LogCaptureFixture
) -> None:
    """A second try is made only where the server has said that it did not act on the first."""
    behaviour, kind, words = CASES[name]
    seconds = PATIENCE if kind is Unavailable else ANSWERED
    with hostile_server.serving(behaviour) as server:
        read, write = (outcome(client(server.address, seconds=seconds), request) for request in (READ, WRITE))
    assert type(read.error) is kind, read.told
    assert words in str(read.error)
    for found in (read, write):
        fit(found, caplog)
    harmless = isinstance(write.error, Unavailable) and not write.error.sent
    assert server.heard.count(b"root/generate/internal") <= 1 or harmless


NO_TOKENS = (None, "", 7, "hvs.x\nX-Evil: 1", "hvs.x\r\n\r\nGET /", "hvs.\u00e9", "s" * 5000)
TOO_LARGE = {"client_token": "hvs.x", "metadata": {"x": "y" * (2 << 20)}}


@pytest.mark.parametrize("auth", [None, [], "x", {}, *({"client_token": each} for each in NO_TOKENS), TOO_LARGE])
def test_a_login_that_brings_no_token(auth: object) -> None:
    with hostile_server.serving(always(200, {"auth": auth})) as server, pytest.raises(BadAnswer) as caught:
        client(server.address).login(Request("POST", "auth/x/listed/login", {"role_id": "r", "secret_id": SECRET_ID}))
    assert SECRET_ID not in str(caught.value) and str(caught.value).isprintable()
    assert ("larger" in str(caught.value)) is (auth is TOO_LARGE)


@pytest.mark.parametrize("warnings", [["ttl was capped"], "ttl was capped", [{"a": 1}], [f"role {SECRET_ID} is bad"]])
def test_a_warning_nobody_expected_is_an_error(warnings: object) -> None:
    write = Request("POST", "x/roles/y", {"secret_id": SECRET_ID}, warnings=("known",))
    with hostile_server.serving(always(200, {"data": {}, "warnings": warnings})) as server:
        with pytest.raises(BadAnswer, match="but warns") as caught:
            client(server.address, seconds=ANSWERED).call(write)
        assert SECRET_ID not in str(caught.value)
        client(server.address, seconds=ANSWERED).call(READ)
    with hostile_server.serving(always(200, {"data": {}, "warnings": ["a known one"]})) as server:
        client(server.address, seconds=ANSWERED).call(write)


def test_no_variable_of_another_library_has_a_say(tmp_path: Path) -> None:
    """Proxies, .netrc, REQUESTS_CA_BUNDLE and the keys of every connection for whoever names a file."""
    context = hostile_server.certified(tmp_path / "ca.pem")
    trustme.CA().cert_pem.write_to_path(tmp_path / "other.pem")
    (tmp_path / ".netrc").write_text("machine 127.0.0.1 login canary password canary\n")
    (tmp_path / ".netrc").chmod(0o600)
    code = (
        "from vaultpki.vault import *\n"
        "vault = Vault(from_environment(), patience=0)\n"
        "print(vault.call(Request('GET', 'x')).data)\n"
        "print(vault.api.read('y').data)\n"
    )
    with (
        hostile_server.serving(always(200, {"data": {}})) as proxy,
        hostile_server.serving(always(200, {"data": {}}), tls=context) as server,
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
def test_a_command_ends_in_one_sentence(shape: str, tmp_path: Path) -> None:
    """Answers that are JSON and yet nothing a Vault says: no traceback, and no fault of ours."""
    spec = tmp_path / "cluster.yaml"
    vaultpki("init", "-o", spec)
    with hostile_server.serving(SHAPES[shape]) as server:
        for command, *further in (["plan"], ["apply", "--yes"], ["destroy", "--confirm", "prod"]):
            env = {"VAULT_ADDR": server.address, "VAULT_TOKEN": TOKEN}
            ran = vaultpki(command, "-f", spec, *further, env=env, expect={0, 1})
            said = ran.stdout + ran.stderr
            assert TOKEN not in said and "fault of vaultpki" not in said and "Traceback" not in said, said
            assert ran.returncode == (0 if command in ("plan", "destroy") and ran.stderr == "" else 1), said
            assert len(ran.stderr.splitlines()) <= 1, said


def test_json_is_read_as_json() -> None:
    """The cap leaves room for the largest answer that a Vault gives: a list of a few thousand names."""
    names = [f"node-{n:05}" for n in range(40_000)]
    with hostile_server.serving(always(200, {"data": {"keys": names}})) as server:
        assert client(server.address).call(Request("LIST", "x/y")).keys == tuple(names)
        assert len(json.dumps(names)) > 300_000


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

    with hostile_server.serving(behave, tls=context) as server:
        told = {"ca_file": str(tmp_path / "ca.pem"), "namespace": "teams/platform"}
        with pytest.raises(Unavailable):
            client(server.address, **told).call(READ)
        known = {"client_certificate": str(tmp_path / "client.crt"), "client_key": str(tmp_path / "client.key")}
        client(server.address, **told, **known).call(READ)
    assert seen == [(("DNS", "applier.example.com"),)]
    assert b"X-Vault-Namespace: teams/platform\r\n" in server.heard
    assert b"X-Vault-Request: true\r\n" in server.heard


def test_ipv6_is_an_address_like_another() -> None:
    with hostile_server.serving(always(200, {"data": {"x": 6}}), host="::1") as server:
        assert client(server.address).call(READ).data == {"x": 6}
    assert f"Host: {server.address.removeprefix('http://')}\r\n".encode() in server.heard


def test_a_login_gives_a_vault_with_its_own_token() -> None:
    """What is no token never becomes one, and hvac's client, which all share, keeps none."""
    answers = iter([{"auth": {"client_token": "hvs.second"}}, {"data": {}}, {"auth": {"client_token": "a\nb"}}])

    def behave(guest: Guest) -> None:
        while True:
            guest.request()
            guest.answer(200, next(answers))

    with hostile_server.serving(behave) as server:
        vault = client(server.address)
        request = vault.prepare.auth.approle.login(role_id="r", secret_id=SECRET_ID, use_token=False)
        kv = vault.login(request).api.secrets.kv.v2
        kv.read_secret_version("x", version=3, raise_on_deleted_version=False)
        with pytest.raises(BadAnswer, match="brought no token"):
            vault.login(request)
        with pytest.raises(NotImplementedError, match=r"Vault\.login"):
            vault.api.auth.approle.login(role_id="r", secret_id=SECRET_ID)
    assert server.heard.count(b"X-Vault-Token: hvs.second\r\n") == 1 and len(server.heard.split(b" HTTP/1.1\r\n")) == 4
    assert b"GET /v1/secret/data/x?version=3 HTTP/1.1\r\n" in server.heard


def test_every_answer_tells_the_servers_clock() -> None:
    """Also one that refuses; the last one counts, for every token of the server."""
    ahead = time.time() + 3600

    def behave(guest: Guest) -> None:
        for status, moment in ((200, ahead), (403, ahead + 60), (200, None), (200, -1.0)):
            guest.request()
            told = "now" if moment == -1.0 else moment and formatdate(moment, usegmt=True)
            guest.answer(status, {"data": {}}, *([f"Date: {told}"] if told else []))

    with hostile_server.serving(behave) as server:
        vault = client(server.address)
        assert vault.clock_offset is None
        assert vault.call(READ).date == int(ahead)
        assert vault.clock_offset is not None and abs(vault.clock_offset - 3600) < 3
        other = vault.as_token("hvs.other")
        with pytest.raises(Denied):
            other.call(READ)
        assert vault.call(READ).date is None
        offset = vault.clock_offset
        assert offset is not None
        assert abs(offset - 3660) < 3
        assert vault.call(READ).date is None
        assert other.clock_offset is None
