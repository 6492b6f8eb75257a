"""Connections that do not come up: who the server is must be proven, and one sentence says what a person does."""

from __future__ import annotations

import contextlib
import ipaddress
import socket
import ssl
import warnings
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
import trustme
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from helpers.faults import hostile_server
from helpers.faults.hostile_server import Behaviour, Guest
from helpers.faults.server_behaviours import (
    READ,
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
from helpers.signed_certificates import Extension, named, signed
from helpers.vault.servers import Server, free_ports
from vaultpki.errors import BadAnswer, Unavailable, Untrusted
from vaultpki.vault import Settings, Vault, from_environment

ANSWERS = always(200, {"data": {}})
DAY = timedelta(days=1)


def certified(
    folder: Path, common_name: str, *names: str, begin: timedelta = -DAY, end: timedelta = DAY
) -> ssl.SSLContext:
    """A server's TLS with a certificate that names itself so; `folder`/ca.pem is the CA's.

    `names` become subject alternative names: an address one of those, all else a DNS name.
    """
    now, above = datetime.now(UTC), named("the CA")
    root, key = (ec.generate_private_key(ec.SECP256R1()) for _ in range(2))
    own_life, life = (now - 2 * DAY, now + 2 * DAY), (now + begin, now + end)
    ca = signed(above, root.public_key(), above, root, own_life, [(x509.BasicConstraints(True, None), True)])
    said: list[Extension] = [(x509.BasicConstraints(False, None), True)]
    if names:
        each = [x509.IPAddress(ipaddress.ip_address(n)) if n[0].isdigit() else x509.DNSName(n) for n in names]
        said.append((x509.SubjectAlternativeName(each), False))
    leaf = signed(named(common_name), key.public_key(), above, root, life, said)
    (folder / "ca.pem").write_bytes(ca.public_bytes(Encoding.PEM))
    private = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    (folder / "pair.pem").write_bytes(private + leaf.public_bytes(Encoding.PEM))
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(folder / "pair.pem")
    return context


def refused(address: str, caplog: pytest.LogCaptureFixture, **settings: str) -> str:
    """The sentence with which the server's certificate is refused, at once and for every request."""
    found = outcome(client(address, **settings), READ)
    assert type(found.error) is Untrusted, found.told
    assert "does not verify" in str(found.error)
    fit(found, caplog)
    return str(found.error)


def test_a_server_is_who_its_alternative_names_say(tmp_path: Path) -> None:
    """The control: the same certificate with the name is taken."""
    with hostile_server.serving(ANSWERS, tls=certified(tmp_path, "x", "127.0.0.1", "vault.example.com")) as server:
        ca_file = str(tmp_path / "ca.pem")
        client(server.address, ca_file=ca_file).call(READ)
        client(server.address, ca_file=ca_file, server_name="vault.example.com").call(READ)


@pytest.mark.parametrize("common_name", ["localhost", "127.0.0.1", "*.example.com", "vault.example.com"])
@pytest.mark.parametrize("names", [(), ("other.example.net",), ("10.9.9.9",)])
def test_a_common_name_is_no_name(
    common_name: str, names: tuple[str, ...], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Not in place of alternative names, nor beside those that are no DNS names (RFC 9525, 1.2)."""
    context = certified(tmp_path, common_name, *names)
    asked = common_name.replace("*", "vault")
    with hostile_server.serving(ANSWERS, tls=context) as server:
        settings = {"ca_file": str(tmp_path / "ca.pem"), "server_name": asked}
        said = refused(server.address, caplog, **settings)
        assert f"; it has no subject alternative name {asked} (a common name does not count)" in said
        assert "VAULT_TLS_SERVER_NAME" in said and "CACERT" not in said
        if common_name in ("localhost", "127.0.0.1"):
            address = server.address.replace("127.0.0.1", common_name)
            assert f"alternative name {common_name} " in refused(address, caplog, ca_file=settings["ca_file"])
        assert server.heard == b""


@pytest.mark.parametrize(
    ("begin", "end", "words"),
    [
        (-2 * DAY, -DAY, "(certificate has expired); renew it on the server, and check this machine's clock"),
        (DAY, 2 * DAY, "(certificate is not yet valid); check this machine's clock"),
    ],
)
def test_a_certificate_out_of_date(
    begin: timedelta, end: timedelta, words: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    context = certified(tmp_path, "x", "127.0.0.1", begin=begin, end=end)
    with hostile_server.serving(ANSWERS, tls=context) as server:
        said = refused(server.address, caplog, ca_file=str(tmp_path / "ca.pem"))
        assert words in said and "CACERT" not in said and server.heard == b""


def test_another_ca_is_told_with_what_to_do(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """As the one who gave the CA says; and that of the system is no exception."""
    other = trustme.CA().cert_pem.bytes().decode()
    with hostile_server.serving(ANSWERS, tls=certified(tmp_path, "x", "127.0.0.1")) as server:
        assert "; give its CA as vault.ca_file or VAULT_CACERT" in refused(server.address, caplog)
        said = refused(server.address, caplog, ca_pem=other, ca_hint="ask for a new join file")
        assert said.endswith("(unable to get local issuer certificate); ask for a new join file")
        # At once: each client came once.
        assert len(server.guests) == 2 and server.heard == b""


def test_open_http_to_a_port_of_tls(server: Server, caplog: pytest.LogCaptureFixture) -> None:
    """The real server says so in text, others by an alert of TLS, nginx in HTML."""
    nginx = b"<html><center>The plain HTTP request was sent to HTTPS port</center></html>"

    def alert(guest: Guest) -> None:
        guest.request()
        guest.say(b"\x15\x03\x03\x00\x02\x02\x46")

    with hostile_server.serving(always(400, nginx)) as gateway, hostile_server.serving(alert) as other:
        for address in (server.address.replace("https:", "http:"), gateway.address, other.address):
            for request in (READ, WRITE):
                found = outcome(client(address), request)
                assert type(found.error) is BadAnswer, found.told
                assert str(found.error) == f"the port of {address} speaks TLS; write https:// instead of http://"
                fit(found, caplog)


def says_so(guest: Guest) -> None:
    guest.say("HTTP/1.1 400 Bad Request\r\nConnection: close\r\n\r\n")
    guest.wait(0.2)


@pytest.mark.parametrize(
    ("behaviour", "no_tls"),
    [(says_so, True), (garbage, True), (hangs, False), (closes, False), (resets_at_once, False), (ANSWERS, False)],
)
def test_no_tls_where_tls_should_be(behaviour: Behaviour, no_tls: bool, caplog: pytest.LogCaptureFixture) -> None:
    """One that hangs up in the handshake may speak it."""
    with hostile_server.serving(behaviour) as server:
        found = outcome(client(server.address.replace("http:", "https:")), READ)
    assert type(found.error) is Unavailable
    words = "does not speak TLS; check the port, and write http:// only for"
    assert (words in str(found.error)) is no_tls and TOKEN.encode() not in server.heard
    fit(found, caplog)


def unused() -> str:
    return f"https://127.0.0.1:{free_ports(1)[0]}"


@pytest.mark.parametrize(
    ("address", "words"),
    [
        (unused, "cannot be reached (Connection refused); check that Vault runs there, and the port"),
        (lambda: "https://vault.invalid:8200", "; check the host name"),
    ],
)
def test_nobody_there(address: Callable[[], str], words: str, caplog: pytest.LogCaptureFixture) -> None:
    found = outcome(client(address()), READ)
    assert type(found.error) is Unavailable
    assert words in str(found.error)
    fit(found, caplog)


def test_nobody_who_answers(caplog: pytest.LogCaptureFixture) -> None:
    """An address that takes no connection and does not refuse one: what it may hold ready is held."""
    with contextlib.ExitStack() as stack:
        listener = stack.enter_context(socket.socket())
        listener.bind(("127.0.0.1", 0))
        listener.listen(0)
        for _ in range(3):
            early = stack.enter_context(socket.socket())
            early.setblocking(False)
            early.connect_ex(listener.getsockname())
        found = outcome(client(f"https://127.0.0.1:{listener.getsockname()[1]}"), READ)
    assert type(found.error) is Unavailable
    assert "does not answer; check the address, and any firewall in between" in str(found.error)
    fit(found, caplog)


def test_tls_older_than_ours(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    context = certified(tmp_path, "x", "127.0.0.1")
    context.set_ciphers("ALL:@SECLEVEL=0")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        context.minimum_version = ssl.TLSVersion.TLSv1
        context.maximum_version = ssl.TLSVersion.TLSv1_1
    with hostile_server.serving(ANSWERS, tls=context) as server:
        found = outcome(client(server.address, ca_file=str(tmp_path / "ca.pem")), READ)
        assert type(found.error) is Unavailable
        assert "offers no TLS 1.2 or newer" in str(found.error)
        assert server.heard == b""
        fit(found, caplog)


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
def test_a_server_that_wants_a_client_certificate(
    version: ssl.TLSVersion, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    context = certified(tmp_path, "x", "127.0.0.1")
    context.verify_mode = ssl.CERT_REQUIRED
    context.load_verify_locations(tmp_path / "ca.pem")
    context.maximum_version = version

    def refuses(guest: Guest) -> None:
        # The alert is read by the client before the connection ends.
        with pytest.raises(ssl.SSLError), context.wrap_socket(guest.socket.dup(), server_side=True):
            pass
        guest.wait(0.2)

    with hostile_server.serving(refuses) as server:
        address = server.address.replace("http:", "https:")
        found = outcome(client(address, ca_file=str(tmp_path / "ca.pem")), READ)
    assert type(found.error) is Unavailable
    assert "set VAULT_CLIENT_CERT and VAULT_CLIENT_KEY" in str(found.error), found.told
    fit(found, caplog)


def test_nobody_is_asked_by_a_common_name_of_the_environments_choice(tmp_path: Path) -> None:
    """The name is the address's, or that of VAULT_TLS_SERVER_NAME; nothing switches the check off."""
    with hostile_server.serving(ANSWERS, tls=certified(tmp_path, "127.0.0.1")) as server:
        environment = {"VAULT_ADDR": server.address, "VAULT_CACERT": str(tmp_path / "ca.pem")}
        for further in ({}, {"VAULT_SKIP_VERIFY": "true"}, {"VAULT_TLS_SERVER_NAME": "127.0.0.1"}):
            settings: Settings = from_environment({**environment, **further})
            with pytest.raises(Untrusted):
                Vault(settings).call(READ)
        assert server.heard == b""
