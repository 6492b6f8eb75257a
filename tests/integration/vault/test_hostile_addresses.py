"""Several addresses, of which some mislead: the next one is asked where that is safe, and no secret goes astray."""

from __future__ import annotations

import contextlib
import logging
import re
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from helpers.faults import hostile_server
from helpers.faults.hostile_server import Behaviour, Guest, Hostile
from helpers.faults.server_behaviours import (
    ANSWERED,
    BOMB,
    BOUND,
    PATIENCE,
    READ,
    SECRET_ID,
    TOKEN,
    WRITE,
    always,
    client,
    closes,
    fit,
    hangs,
    outcome,
)
from vaultpki.errors import BadAnswer, Denied, Refused, Sealed, Unavailable, VaultError
from vaultpki.vault import Request, Vault

GOOD = always(200, {"data": {"x": 1}})
ROLE = Request("POST", "x/roles/y", {})
LOGIN = Request("POST", "auth/x/listed/login", {"role_id": "r", "secret_id": SECRET_ID})


@contextlib.contextmanager
def both(one: Behaviour, other: Behaviour) -> Iterator[tuple[Hostile, Hostile, Vault]]:
    """Two servers that behave so, and a client that has the addresses of both in this order."""
    with hostile_server.serving(one) as first, hostile_server.serving(other) as second:
        seconds = PATIENCE if {one, other} & {hangs, closes} else ANSWERED
        yield first, second, client(first.address, second.address, seconds=seconds)


def once_each(*servers: Hostile) -> bool:
    return [len(server.guests) for server in servers] == [1] * len(servers)


@pytest.fixture(autouse=True)
def debug(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)


@pytest.mark.parametrize("status", [307, 301, 302, 303, 308])
def test_no_redirect_takes_the_token_elsewhere(status: int) -> None:
    with hostile_server.serving(GOOD) as other:
        location = f"Location: {other.address}/v1/sys/mounts"
        with (
            hostile_server.serving(always(status, "", location)) as server,
            pytest.raises(Unavailable, match="none of the"),
        ):
            client(server.address).call(READ)
    assert other.guests == [] and TOKEN.encode() in server.heard


def test_a_redirect_is_followed_to_an_address_given_and_not_in_a_circle(caplog: pytest.LogCaptureFixture) -> None:
    def circles(guest: Guest) -> None:
        always(307, "", f"Location: {circle.address}/")(guest)

    with (
        hostile_server.serving(GOOD) as other,
        hostile_server.serving(always(307, "", f"Location: {other.address}/v1/elsewhere?x=y")) as server,
        hostile_server.serving(circles) as circle,
    ):
        assert client(server.address, other.address).call(READ).data == {"x": 1}
        found = outcome(client(circle.address), READ)
    assert other.heard.startswith(b"GET /v1/sys/seal-status HTTP/1.1\r\n")
    assert "in a loop" in str(found.error)
    fit(found, caplog)


@pytest.mark.parametrize("tls", [False, True], ids=["no leader over TLS", "another cluster's leader"])
def test_a_leader_that_is_not_ours_is_not_followed(tls: bool, tmp_path: Path) -> None:
    """sys/leader may name any address; the token goes there only where TLS and the cluster are the same."""
    said = {"ha_enabled": True, "is_self": False, "leader_cluster_address": "https://10.0.0.1:8201"}
    foreign = {"ha_enabled": True, "is_self": True, "leader_cluster_address": "https://10.9.9.9:8201"}
    ca_file = tmp_path / "ca.pem"
    context = hostile_server.certified(ca_file) if tls else None
    with hostile_server.serving(always(200, foreign), tls=context) as other:
        named = {**said, "leader_address": other.address}
        with hostile_server.serving(always(200, named), tls=context) as server:
            vault = client(server.address, **({"ca_file": str(ca_file)} if tls else {}))
            vault.pin_to_leader()
            vault.call(READ)
            assert vault.address == server.address
    # What it was asked needs no token, and it was sent none.
    assert TOKEN.encode() not in other.heard
    assert other.heard.startswith(b"GET /v1/sys/leader ") if tls else other.guests == []


def test_a_cluster_without_leader_is_waited_for_and_told() -> None:
    with hostile_server.serving(always(200, {"ha_enabled": True, "is_self": False, "leader_address": ""})) as server:
        begun = time.monotonic()
        with pytest.raises(Unavailable, match="has no leader"):
            client(server.address).pin_to_leader()
        assert time.monotonic() - begun < BOUND


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
AWAY: dict[str, Behaviour] = {
    "closes": closes,
    "sealed": always(503, {"errors": ["Vault is sealed"]}),
    "a gateway's": always(502, "<html>"),
    "hangs": hangs,
}


@pytest.mark.parametrize("name", [*NO_VAULTS, *AWAY])
def test_the_next_address_is_asked(name: str) -> None:
    """Not for what makes a key: a gateway may have put its page in place of what the Vault behind it said."""
    behaviour = (NO_VAULTS | AWAY)[name]
    if name in NO_VAULTS:
        with both(behaviour, GOOD) as (_, second, vault):
            with pytest.raises(BadAnswer):
                vault.call(WRITE)
            assert second.guests == []
    for request in (READ, Request("LIST", "x/roles"), ROLE, Request("DELETE", "x/y")) if name in NO_VAULTS else (READ,):
        with both(behaviour, GOOD) as (_, second, vault):
            assert vault.call(request).data == {"x": 1} and vault.address == second.address


def test_where_no_vault_stands_at_any_address_that_is_told_at_once(caplog: pytest.LogCaptureFixture) -> None:
    with both(NO_VAULTS["a web page"], NO_VAULTS["no page"]) as (first, second, vault):
        found = outcome(vault, READ)
        assert type(found.error) is BadAnswer and first.address in str(found.error)
        assert once_each(first, second)
        fit(found, caplog)


def test_while_the_others_are_away_they_are_waited_for() -> None:
    with both(NO_VAULTS["a web page"], closes) as (_, second, vault):
        with pytest.raises(Unavailable, match=re.escape(second.address)):
            vault.call(READ)
        assert len(second.guests) > 1


def test_what_a_vault_took_with_a_warning_goes_to_no_second_address() -> None:
    with both(always(200, {"data": {}, "warnings": ["ttl was capped"]}), GOOD) as (_, second, vault):
        with pytest.raises(BadAnswer, match="but warns"):
            vault.call(ROLE)
        assert second.guests == []


def test_many_writes_go_on_at_the_next_address() -> None:
    with both(NO_VAULTS["no page"], GOOD) as (_, _, vault):
        answers = vault.many([Request("POST", f"x/{n}", {}) for n in range(6)])
        assert [answer.data for answer in answers] == [{"x": 1}] * 6


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
    with both(behaviour, LET_IN) as (first, second, vault):
        node = vault.login(LOGIN)
        asked = len(first.heard)
        assert node.call(READ).data == {"x": 1} and node.address == second.address
        assert len(first.heard) == asked
        assert b"X-Vault-Token: hvs.node\r\n" in second.heard


UNKNOWN, ELSEWHERE = OTHER_VAULTS["no such credential"], OTHER_VAULTS["no such mount"]


@pytest.mark.parametrize(
    ("one", "other", "kind"),
    [
        (UNKNOWN, ELSEWHERE, Refused),
        (ELSEWHERE, UNKNOWN, Refused),
        (UNKNOWN, closes, Refused),
        (closes, UNKNOWN, Refused),
        (ELSEWHERE, ELSEWHERE, Denied),
    ],
)
def test_a_login_that_every_address_turns_down(one: Behaviour, other: Behaviour, kind: type[VaultError]) -> None:
    """400 is the word of the Vault that has the mount, wherever it stands; and who is away changes nothing in it."""
    with both(one, other) as (first, second, vault):
        with pytest.raises(kind, match="invalid role or secret ID" if kind is Refused else "denied") as caught:
            vault.login(LOGIN)
        assert once_each(first, second) and SECRET_ID not in str(caught.value)


@pytest.mark.parametrize(("one", "kind"), [(UNKNOWN, Refused), (ELSEWHERE, Denied)])
def test_what_is_no_login_is_turned_down_by_one_address_for_all(one: Behaviour, kind: type[VaultError]) -> None:
    with both(one, LET_IN) as (_, second, vault):
        with pytest.raises(kind):
            vault.call(READ)
        assert second.guests == []


def test_sealed_everywhere_is_told_at_once_and_sealed_somewhere_is_waited_for() -> None:
    with both(AWAY["sealed"], AWAY["sealed"]) as (first, second, vault):
        with pytest.raises(Sealed):
            vault.call(READ)
        assert once_each(first, second)
    # Whichever is asked first: the one that is sealed answers, and says more than one that is away.
    for behaviours in ((closes, AWAY["sealed"]), (AWAY["sealed"], closes)):
        with both(*behaviours) as (first, second, vault):
            begun = time.monotonic()
            with pytest.raises(Unavailable, match="is sealed") as caught:
                vault.call(READ)
            assert type(caught.value) is Unavailable
            assert time.monotonic() - begun > 0.1
            # The one that is sealed keeps its connection.
            assert len(first.guests) + len(second.guests) > 2


def test_one_node_with_a_bad_certificate_does_not_end_it(tmp_path: Path) -> None:
    bad, good = (hostile_server.certified(tmp_path / name) for name in ("bad.pem", "good.pem"))
    with (
        hostile_server.serving(GOOD, tls=bad) as first,
        hostile_server.serving(GOOD, tls=good) as second,
    ):
        vault = client(first.address, second.address, ca_file=str(tmp_path / "good.pem"))
        vault.call(READ)
        assert vault.address == second.address
    assert first.heard == b""
