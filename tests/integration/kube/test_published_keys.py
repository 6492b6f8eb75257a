"""What is read of a key set that is published outside of the cluster: over TLS, and of servers that mean no good."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import trustme

from helpers.kube import answering_api
from helpers.kube.answering_api import Api
from vaultpki.errors import BadAnswer, Unavailable
from vaultpki.kube import published_keys

CA = trustme.CA()
EC = {"kty": "EC", "crv": "P-256", "x": "eA", "y": "eQ", "kid": "other", "use": "sig"}
RSA = {"kty": "RSA", "n": "bg", "e": "AQAB"}
KEYS = frozenset({("EC", "P-256", "eA", "eQ"), ("RSA", "bg", "AQAB")})
FOUND = "/.well-known/openid-configuration"


@pytest.fixture
def api(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Api]:
    trusted = tmp_path / "trusted.crt"
    CA.cert_pem.write_to_path(str(trusted))
    monkeypatch.setenv("SSL_CERT_FILE", str(trusted))
    with answering_api.serving({}, CA.issue_cert("localhost", "127.0.0.1").configure_cert) as server:
        server.values["/keys.json"] = {"keys": [EC, RSA, {"kty": "oct", "k": "secret"}, 7]}
        server.values[FOUND] = {"issuer": "x", "jwks_uri": url(server, "/keys.json")}
        yield server


def url(api: Api, path: str) -> str:
    return f"https://127.0.0.1:{api.server_address[1]}{path}"


def test_keys_are_read_by_their_url_and_by_that_of_the_issuer_and_nobody_shows_who_it_is(api: Api) -> None:
    assert published_keys.read(url(api, "/keys.json")) == KEYS == published_keys.read(url(api, FOUND))
    assert api.methods == {"GET"} and set(api.asked) == {"/keys.json", FOUND}
    shown = list[bool]()

    def answers(path: str, known: bool) -> object:
        shown.append(known)
        return api.values[path]

    api.answers = answers
    published_keys.read(url(api, "/keys.json"))
    assert shown == [False]


@pytest.mark.parametrize("value", [404, [], {"keys": {}}, {"no": 1}, {"keys": "x" * 2_000_000}])
def test_what_is_no_key_set_is_refused(api: Api, value: object) -> None:
    api.values["/keys.json"] = value
    for path in ("/keys.json", FOUND):
        with pytest.raises(BadAnswer):
            published_keys.read(url(api, path))


@pytest.mark.parametrize(
    "target", ["http://127.0.0.1/keys", "file:///etc/passwd", "https://", "https://a@b/x", None, "x\n"]
)
def test_a_discovery_document_leads_to_https_alone(api: Api, target: object) -> None:
    api.values[FOUND] = {"jwks_uri": target}
    with pytest.raises(BadAnswer):
        published_keys.read(url(api, FOUND))


def test_a_server_that_this_machine_does_not_trust_is_not_read(api: Api, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SSL_CERT_FILE", "/nonexistent")
    with pytest.raises(Unavailable, match="SSLCertVerificationError"):
        published_keys.read(url(api, "/keys.json"))


def test_one_that_never_answers_takes_no_longer_than_its_time(api: Api, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(published_keys, "_SECONDS", 0.5)
    api.answers = lambda path, known: time.sleep(3)
    began = time.monotonic()
    with pytest.raises(Unavailable, match="TimeoutError"):
        published_keys.read(url(api, "/keys.json"))
    assert time.monotonic() - began < 2
