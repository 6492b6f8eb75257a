"""Several addresses, of which some mislead: the next one is asked where that is safe, and no secret goes astray."""

from __future__ import annotations

import logging
import re
import ssl
import time
from datetime import UTC, datetime
from pathlib import Path

import pytest
import trustme

from helpers.faults import hostile_server
from helpers.faults.hostile_server import Behaviour, Guest
from helpers.faults.server_behaviours import (
    BOMB,
    BOUND,
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
from vaultpki.errors import BadAnswer, Denied, Refused, Sealed, Unavailable, Untrusted
from vaultpki.vault import Request


@pytest.fixture(autouse=True)
def debug(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)


@pytest.mark.parametrize("status", [307, 301, 302, 303, 308])
def test_no_redirect_takes_the_token_elsewhere(status: int) -> None:
    with hostile_server.serving(always(200, {"data": {}})) as other:
        location = f"Location: {other.address}/v1/sys/mounts"
        with (
            hostile_server.serving(always(status, "", location)) as server,
            pytest.raises(Unavailable, match="none of the"),
        ):
            client(server.address).call(READ)
    assert other.guests == []
    assert TOKEN.encode() in server.heard


def test_a_redirect_to_an_address_given_is_followed() -> None:
    with (
        hostile_server.serving(always(200, {"data": {"x": 1}})) as other,
        hostile_server.serving(always(307, "", f"Location: {other.address}/v1/elsewhere?x=y")) as server,
    ):
        assert client(server.address, other.address).call(READ).data == {"x": 1}
    assert other.heard.startswith(b"GET /v1/sys/seal-status HTTP/1.1\r\n")


def test_redirects_in_a_circle_end(caplog: pytest.LogCaptureFixture) -> None:
    def circles(guest: Guest) -> None:
        always(307, "", f"Location: {server.address}/")(guest)

    with hostile_server.serving(circles) as server:
        found = outcome(client(server.address), READ)
    assert "in a loop" in str(found.error)
    fit(found, caplog)


def test_a_leader_that_does_not_lead_is_not_followed() -> None:
    """sys/leader may name any address; the token goes there only where TLS and the cluster are the same."""
    said = {"ha_enabled": True, "is_self": False, "leader_cluster_address": "https://10.0.0.1:8201"}
    with hostile_server.serving(always(200, {"ha_enabled": True, "is_self": True})) as other:
        named = {**said, "leader_address": other.address}
        with hostile_server.serving(always(200, named)) as server:
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
    with hostile_server.serving(always(200, foreign), tls=context) as other:
        said = {"ha_enabled": True, "is_self": False, "leader_cluster_address": "https://10.0.0.1:8201"}
        with hostile_server.serving(always(200, {**said, "leader_address": other.address}), tls=context) as server:
            vault = client(server.address, ca_file=str(tmp_path / "ca.pem"))
            vault.pin_to_leader()
            vault.call(READ)
            assert vault.address == server.address
    # It was asked for sys/leader, which needs no token, and was sent none.
    assert other.heard.startswith(b"GET /v1/sys/leader ")
    assert TOKEN.encode() not in other.heard


def test_a_cluster_without_leader_is_waited_for_and_told() -> None:
    with hostile_server.serving(always(200, {"ha_enabled": True, "is_self": False, "leader_address": ""})) as server:
        begun = time.monotonic()
        with pytest.raises(Unavailable, match="has no leader"):
            client(server.address).pin_to_leader()
        assert time.monotonic() - begun < BOUND


def test_the_next_address_is_asked() -> None:
    for broken in (closes, always(503, {"errors": ["Vault is sealed"]}), always(502, "<html>"), hangs):
        with hostile_server.serving(broken) as first, hostile_server.serving(always(200, {"data": {"x": 1}})) as second:
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
    with hostile_server.serving(NO_VAULTS[name]) as first, hostile_server.serving(good) as second:
        for request in (READ, Request("LIST", "x/roles"), Request("POST", "x/roles/y", {}), Request("DELETE", "x/y")):
            vault = client(first.address, second.address)
            assert vault.call(request).data == {"x": 1}
            assert vault.address == second.address


def test_where_no_vault_stands_at_any_address_that_is_told_at_once(caplog: pytest.LogCaptureFixture) -> None:
    with (
        hostile_server.serving(NO_VAULTS["a web page"]) as first,
        hostile_server.serving(NO_VAULTS["no page"]) as second,
    ):
        found = outcome(client(first.address, second.address), READ)
        assert type(found.error) is BadAnswer
        assert first.address in str(found.error)
        assert len(first.guests) == len(second.guests) == 1
        fit(found, caplog)


def test_while_the_others_are_away_they_are_waited_for() -> None:
    with hostile_server.serving(NO_VAULTS["a web page"]) as first, hostile_server.serving(closes) as second:
        with pytest.raises(Unavailable, match=re.escape(second.address)):
            client(first.address, second.address).call(READ)
        assert len(second.guests) > 1


@pytest.mark.parametrize("name", NO_VAULTS)
def test_what_makes_a_key_goes_to_no_second_address(name: str) -> None:
    """A gateway may have put its page in place of what the Vault behind it said."""
    with hostile_server.serving(NO_VAULTS[name]) as first, hostile_server.serving(always(200, {"data": {}})) as second:
        with pytest.raises(BadAnswer):
            client(first.address, second.address).call(WRITE)
        assert second.guests == []


def test_what_a_vault_took_with_a_warning_goes_to_no_second_address() -> None:
    warns = always(200, {"data": {}, "warnings": ["ttl was capped"]})
    with hostile_server.serving(warns) as first, hostile_server.serving(always(200, {"data": {}})) as second:
        with pytest.raises(BadAnswer, match="but warns"):
            client(first.address, second.address).call(Request("POST", "x/roles/y", {}))
        assert second.guests == []


def test_many_writes_go_on_at_the_next_address() -> None:
    with (
        hostile_server.serving(NO_VAULTS["no page"]) as first,
        hostile_server.serving(always(200, {"data": {"x": 1}})) as second,
    ):
        vault = client(first.address, second.address)
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
    with hostile_server.serving(behaviour) as first, hostile_server.serving(LET_IN) as second:
        vault = client(first.address, second.address)
        node = vault.login(Request("POST", LOGIN, {"role_id": "r", "secret_id": SECRET_ID}))
        asked = len(first.heard)
        assert node.call(READ).data == {"x": 1}
        assert node.address == second.address
        assert len(first.heard) == asked
        assert b"X-Vault-Token: hvs.node\r\n" in second.heard


def test_a_login_that_every_address_turns_down() -> None:
    """400 is the word of the Vault that has the mount, wherever it stands; and who is away changes nothing in it."""
    unknown, elsewhere = OTHER_VAULTS["no such credential"], OTHER_VAULTS["no such mount"]
    for behaviours in ((unknown, elsewhere), (elsewhere, unknown), (unknown, closes), (closes, unknown)):
        with hostile_server.serving(behaviours[0]) as first, hostile_server.serving(behaviours[1]) as second:
            with pytest.raises(Refused, match="invalid role or secret ID") as caught:
                client(first.address, second.address).login(Request("POST", LOGIN, {"secret_id": SECRET_ID}))
            assert len(first.guests) == len(second.guests) == 1
            assert SECRET_ID not in str(caught.value)
    with hostile_server.serving(elsewhere) as first, hostile_server.serving(elsewhere) as second, pytest.raises(Denied):
        client(first.address, second.address).login(Request("POST", LOGIN, {"secret_id": SECRET_ID}))


def test_what_is_no_login_is_turned_down_by_one_address_for_all() -> None:
    for behaviour, kind in ((OTHER_VAULTS["no such credential"], Refused), (OTHER_VAULTS["no such mount"], Denied)):
        with hostile_server.serving(behaviour) as first, hostile_server.serving(LET_IN) as second:
            with pytest.raises(kind):
                client(first.address, second.address).call(READ)
            assert second.guests == []


def test_sealed_everywhere_is_told_at_once_and_sealed_somewhere_is_waited_for() -> None:
    sealed = always(503, {"errors": ["Vault is sealed"]})
    with hostile_server.serving(sealed) as first, hostile_server.serving(sealed) as second:
        with pytest.raises(Sealed):
            client(first.address, second.address).call(READ)
        assert len(first.guests) == len(second.guests) == 1
    # Whichever is asked first: the one that is sealed answers, and says more than one that is away.
    for behaviours in ((closes, sealed), (sealed, closes)):
        with hostile_server.serving(behaviours[0]) as first, hostile_server.serving(behaviours[1]) as second:
            begun = time.monotonic()
            with pytest.raises(Unavailable, match="is sealed") as caught:
                client(first.address, second.address).call(READ)
            assert type(caught.value) is Unavailable
            assert time.monotonic() - begun > 0.1
            # The one that is sealed keeps its connection.
            assert len(first.guests) + len(second.guests) > 2


def test_one_node_with_a_bad_certificate_does_not_end_it(tmp_path: Path) -> None:
    good, bad = trustme.CA(), trustme.CA()
    contexts = []
    for ca in (bad, good):
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        ca.issue_cert("127.0.0.1").configure_cert(context)
        contexts.append(context)
    good.cert_pem.write_to_path(tmp_path / "ca.pem")
    with (
        hostile_server.serving(always(200, {"data": {}}), tls=contexts[0]) as first,
        hostile_server.serving(always(200, {"data": {}}), tls=contexts[1]) as second,
    ):
        vault = client(first.address, second.address, ca_file=str(tmp_path / "ca.pem"))
        vault.call(READ)
        assert vault.address == second.address
    assert first.heard == b""


def test_a_wrong_ca_is_told_at_once_and_nothing_is_sent(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    trustme.CA().issue_cert("127.0.0.1").configure_cert(context)
    trustme.CA().cert_pem.write_to_path(tmp_path / "other.pem")
    with hostile_server.serving(always(200, {"data": {}}), tls=context) as server:
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
    with hostile_server.serving(always(200, {"data": {}}), tls=context) as server:
        with pytest.raises(
            Untrusted, match=r"; it has no subject alternative name 127\.0\.0\.1 .*VAULT_TLS_SERVER_NAME"
        ) as told:
            client(server.address, ca_file=str(tmp_path / "ca.pem")).call(READ)
        assert server.heard == b"" and "CACERT" not in str(told.value)
        named = client(server.address, ca_file=str(tmp_path / "ca.pem"), server_name="vault.example.com")
        assert named.call(READ).data == {}


def test_a_certificate_that_has_expired_is_no_matter_of_its_ca(tmp_path: Path) -> None:
    ca = trustme.CA()
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    ca.issue_cert("127.0.0.1", not_after=datetime(2020, 1, 1, tzinfo=UTC)).configure_cert(context)
    ca.cert_pem.write_to_path(tmp_path / "ca.pem")
    with hostile_server.serving(always(200, {"data": {}}), tls=context) as server:
        with pytest.raises(Untrusted, match="; renew it on the server, and check this machine's clock") as told:
            client(server.address, ca_file=str(tmp_path / "ca.pem")).call(READ)
        assert "CACERT" not in str(told.value) and server.heard == b""
