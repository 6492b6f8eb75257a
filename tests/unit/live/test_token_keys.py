"""The key set of each API server beside the service-account keys that count."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping

import pytest
import trustme

from helpers.kube import answering_api
from helpers.token_key_certificates import token_key
from vaultpki.kube.key_sets import identity, read_key_sets
from vaultpki.kube.kubeconfig import KubeAccess
from vaultpki.live.token_keys import KeysExpected, token_key_checks
from vaultpki.pki import jwk
from vaultpki.pki.facts import Facts
from vaultpki.verify.on_disk import Check

NAME = "prod service-account CA"
FIRST, SECOND, OTHER = (token_key(name, signer=NAME) for name in ("sa:cp-1:1", "sa:cp-2:1", "sa:cp-9:1"))
BOTH = KeysExpected((FIRST, SECOND), "the record in Vault")


def shown(*held: Facts) -> frozenset[tuple[str, ...]]:
    return frozenset(identity(jwk.key(facts.public_key)) for facts in held)


def check(
    keys: frozenset[tuple[str, ...]] | str, expected: KeysExpected | None = BOTH, why: str = "Vault is away"
) -> Check:
    right = {"cp-1": expected} if expected is not None else {}
    (found,) = token_key_checks(["cp-1"], {"cp-1": keys}, right, why)
    assert found.name == "token keys" and found.source == "cp-1/kube-apiserver"
    return found


def test_exactly_the_keys_that_count_are_right() -> None:
    assert check(shown(FIRST, SECOND)).ok
    lacking, more = check(shown(FIRST)), check(shown(FIRST, SECOND, OTHER))
    assert lacking.ok is False and lacking.detail == "it refuses the tokens of sa:cp-2:1"
    assert more.ok is False and more.detail == "it accepts the tokens of a key that no node should have"


def test_what_cannot_be_compared_is_not_checked() -> None:
    assert check("it does not answer").ok is None and check("x").detail == "x"
    assert check(shown(FIRST), None).detail == "Vault is away"
    (asked,) = token_key_checks(["cp-1"], {}, {"cp-1": BOTH}, "")
    assert asked.ok is None


def test_while_keys_change_an_older_set_is_no_fault() -> None:
    changing = KeysExpected(BOTH.certificates, BOTH.source, changing=True)
    assert check(shown(FIRST), changing).ok is None and check(shown(FIRST, SECOND), changing).ok


CA = trustme.CA()
PATH = "/openid/v1/jwks"


@pytest.fixture
def api() -> Iterator[answering_api.Api]:
    with answering_api.serving({PATH: jwk.key_set((FIRST,))}, CA.issue_cert("kubernetes").configure_cert) as server:
        yield server


def asked(api: answering_api.Api, servers: Mapping[str, str], seconds: float = 60) -> dict[str, object]:
    access = KubeAccess("admin.conf", "https://api.example.com:6443", CA.cert_pem.bytes().decode(), token="t")
    found = read_key_sets(access, servers, api.server_address[1], time.monotonic() + seconds)
    return dict(found)


def test_each_api_server_is_asked_at_its_own_address(api: answering_api.Api) -> None:
    assert asked(api, {"cp-1": "127.0.0.1"}) == {"cp-1": shown(FIRST)}
    assert api.asked == {PATH: "application/jwk-set+json"} and api.methods == {"GET"}


@pytest.mark.parametrize(
    ("value", "says"),
    [(403, "answers 403"), (b"[]", ""), (b"no json", "shows no key set"), ({"keys": 7}, "no key set")],
)
def test_what_is_no_key_set_is_said(api: answering_api.Api, value: object, says: str) -> None:
    api.values[PATH] = value
    found = asked(api, {"cp-1": "127.0.0.1"})["cp-1"]
    assert says in found if isinstance(found, str) else found == frozenset()


def test_nobody_is_asked_when_the_time_is_over(api: answering_api.Api) -> None:
    assert asked(api, {"cp-1": "127.0.0.1"}, -1) == {"cp-1": "the time of this command is over"}
