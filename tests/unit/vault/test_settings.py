"""Where Vault is and as whom we come: what Vault's own CLI understands, we do."""

from __future__ import annotations

import os
import ssl
from pathlib import Path

import pytest
import trustme

from vaultpki.errors import ArgumentError, SpecError
from vaultpki.values.hosts import parse_origin, vault_address
from vaultpki.vault import Settings, Vault, from_environment
from vaultpki.vault.settings import namespace_path, tls_context

TOKEN = "hvs.CANARYcanary"


@pytest.mark.parametrize("name", ["VAULT", "BAO"])
def test_the_environment_of_both_products(name: str) -> None:
    found = from_environment(
        {
            f"{name}_ADDR": "https://vault.example.com:8200",
            f"{name}_TOKEN": TOKEN,
            f"{name}_CACERT": "/ca.pem",
            f"{name}_NAMESPACE": "teams/platform",
            f"{name}_CLIENT_CERT": "/client.crt",
            f"{name}_CLIENT_KEY": "/client.key",
            f"{name}_TLS_SERVER_NAME": "vault.internal",
        }
    )
    assert found == Settings(
        addresses=("https://vault.example.com:8200",),
        ca_file="/ca.pem",
        token=TOKEN,
        namespace="teams/platform",
        client_certificate="/client.crt",
        client_key="/client.key",
        server_name="vault.internal",
        address_variable=f"{name}_ADDR",
    )


def test_vault_goes_before_bao_and_empty_is_unset() -> None:
    both = from_environment(
        {"VAULT_ADDR": "https://v:1", "BAO_ADDR": "https://b:1", "VAULT_TOKEN": "", "BAO_TOKEN": "b"}
    )
    assert (both.addresses, both.address_variable) == (("https://v:1",), "VAULT_ADDR")
    assert both.token == "b"


def test_arguments_go_before_the_environment() -> None:
    environment = {"VAULT_ADDR": "https://v:1", "VAULT_CACERT": "/ca.pem", "VAULT_TOKEN": TOKEN}
    found = from_environment(environment, addresses=("https://a:1", "https://b:1"), ca_pem="PEM", with_token=False)
    assert (found.addresses, found.ca_pem, found.ca_file, found.token) == (
        ("https://a:1", "https://b:1"),
        "PEM",
        None,
        "",
    )


def test_the_token_file_of_the_clis(tmp_path: Path) -> None:
    environment = {"HOME": str(tmp_path), "VAULT_ADDR": "https://v:1"}
    assert from_environment(environment).token == ""
    (tmp_path / ".vault-token").write_text(f"{TOKEN}\n")
    assert from_environment(environment).token == TOKEN
    assert from_environment({**environment, "BAO_TOKEN": "other"}).token == "other"
    assert from_environment(environment, with_token=False).token == ""
    assert from_environment({"VAULT_ADDR": "https://v:1"}).token == ""


@pytest.mark.parametrize("content", ["two words", "a\nb", "\u00e9", "x" * 5000, "nul\0"])
def test_a_token_that_cannot_be_one_is_refused_and_not_repeated(tmp_path: Path, content: str) -> None:
    (tmp_path / ".vault-token").write_text(content, encoding="utf-8")
    if content == "\u00e9":
        assert from_environment({"HOME": str(tmp_path)}).token == ""
    else:
        with pytest.raises(ArgumentError, match=r"~/\.vault-token") as caught:
            from_environment({"HOME": str(tmp_path)})
        assert content not in str(caught.value)
    with pytest.raises(ArgumentError, match="VAULT_TOKEN"):
        from_environment({"VAULT_TOKEN": content})


@pytest.mark.parametrize("namespace", ["a b", "a\r\nX-Vault-Token: x", "\u00e9"])
def test_a_namespace_that_is_no_header_is_refused(namespace: str) -> None:
    with pytest.raises(ArgumentError, match="VAULT_NAMESPACE"):
        from_environment({"VAULT_NAMESPACE": namespace})


def test_a_namespace_in_the_path_of_a_url() -> None:
    for namespace in (None, "", "/", "root", "root/"):
        assert namespace_path(namespace) == ""
    for namespace in ("teams/platform", "/teams/platform/"):
        assert namespace_path(namespace) == "teams/platform"
    assert namespace_path("a%b?") == "a%25b%3F"


def test_no_representation_shows_the_token() -> None:
    settings = Settings(("https://v:1",), token=TOKEN)
    assert TOKEN not in repr(settings)
    assert TOKEN not in repr(Vault(settings))


def test_no_address_is_told() -> None:
    with pytest.raises(ArgumentError, match="set VAULT_ADDR"):
        Vault(from_environment({}))


@pytest.mark.parametrize(
    ("address", "origin"),
    [
        ("https://vault.example.com:8200", "https://vault.example.com:8200"),
        ("https://vault.example.com:8200/", "https://vault.example.com:8200"),
        ("HTTPS://Vault.Example.COM", "https://vault.example.com:443"),
        ("https://vault_1.internal", "https://vault_1.internal:443"),
        ("https://10.0.0.1", "https://10.0.0.1:443"),
        ("https://[2001:DB8::1]:8200", "https://[2001:db8::1]:8200"),
        ("https://[2001:db8:0:0::1]", "https://[2001:db8::1]:443"),
        ("http://127.0.0.1", "http://127.0.0.1:80"),
        ("http://127.8.9.10:8200", "http://127.8.9.10:8200"),
        ("http://localhost:8200", "http://localhost:8200"),
        ("http://[::1]:8200", "http://[::1]:8200"),
    ],
)
def test_addresses_and_their_ports(address: str, origin: str) -> None:
    """Without a port, the scheme's own: Vault's CLI says 8200 only in its default address."""
    assert parse_origin(address, allow_http=False) == origin


def test_cluster_yaml_and_agent_yaml_take_the_hosts_that_we_do() -> None:
    for host in ("vault_1.internal", "_vault.a_", "vault.example.com", "10.0.0.1", "[2001:db8::1]"):
        origin = parse_origin(f"https://{host}", allow_http=False)
        assert vault_address(origin) == origin
    for host in ("vault_1.5", "_.-a", "a_..b", f"{'_' * 64}.b"):
        with pytest.raises(SpecError):
            parse_origin(f"https://{host}", allow_http=False)
        with pytest.raises(SpecError):
            vault_address(f"https://{host}")


@pytest.mark.parametrize(
    "address",
    [
        "http://vault.example.com:8200",
        "http://10.0.0.1:8200",
        "http://[2001:db8::1]:8200",
        "http://127.0.0.1.example.com:8200",
        "http://127.example.com",
        "http://localhost.example.com",
    ],
)
def test_open_http_is_for_loopback(address: str) -> None:
    with pytest.raises(SpecError, match="--allow-http"):
        parse_origin(address, allow_http=False)
    with pytest.raises(SpecError, match="--allow-http"):
        Vault(Settings((address,)))
    assert parse_origin(address, allow_http=True).startswith("http://")


@pytest.mark.parametrize(
    "address",
    [
        "",
        "vault.example.com",
        "vault.example.com:8200",
        "//vault:8200",
        "ftp://vault:21",
        "unix:///run/vault.sock",
        "https://",
        "https://:8200",
        "https://vault:0",
        "https://vault:65536",
        "https://vault:-1",
        "https://vault:8200:8200",
        "https://vault:8200/v1",
        "https://vault:8200?x=y",
        "https://vault:8200#x",
        "https://user:CANARY@vault:8200",
        "https://CANARY@vault",
        "https://va ult",
        "https://va\nult",
        "https://va\tult:8200",
        " https://vault",
        "https://vault\n",
        "https://v\u00e4ult",
        "https://127.1",
        "https://2130706433",
        "https://1.2.3.256",
        "http://0.0.0.0:8200",
        "https://[::ffff:10.0.0.1]:8200",
        "https://\u212a8s",
        "https://a..b",
        "https://-a.b",
        f"https://{'a' * 64}.b",
        "https://2001:db8::1",
        "https://[2001:db8::1",
        "https://[10.0.0.1:8200",
        "https://[::g]",
        "https://[fe80::1%25eth0]:8200",
    ],
)
def test_what_is_no_address_is_refused_in_one_sentence(address: str) -> None:
    with pytest.raises(SpecError, match="https://HOST:PORT") as caught:
        parse_origin(address, allow_http=True)
    assert str(caught.value).isprintable()
    assert "CANARY" not in str(caught.value)


def test_tls_verifies_and_is_not_old(tmp_path: Path) -> None:
    context = tls_context(Settings(("https://v:1",)))
    assert context.verify_mode is ssl.CERT_REQUIRED
    assert context.check_hostname
    assert context.minimum_version is ssl.TLSVersion.TLSv1_2


def test_the_ca_given_is_the_only_one(tmp_path: Path) -> None:
    ca = trustme.CA()
    ca.cert_pem.write_to_path(tmp_path / "ca.pem")
    by_file = tls_context(Settings(("https://v:1",), ca_file=str(tmp_path / "ca.pem")))
    by_text = tls_context(Settings(("https://v:1",), ca_pem=ca.cert_pem.bytes().decode()))
    assert by_file.get_ca_certs() == by_text.get_ca_certs()
    assert len(by_file.get_ca_certs()) == 1


def test_files_that_cannot_be_used_are_named(tmp_path: Path) -> None:
    broken = tmp_path / "broken.pem"
    broken.write_text("-----BEGIN CERTIFICATE-----\nx\n")
    for wrong in (broken, tmp_path / "missing.pem", tmp_path):
        with pytest.raises(SpecError, match="CA file") as caught:
            tls_context(Settings(("https://v:1",), ca_file=str(wrong)))
        assert str(wrong) in str(caught.value)
        with pytest.raises(SpecError, match="client certificate"):
            tls_context(Settings(("https://v:1",), client_certificate=str(wrong)))
    with pytest.raises(SpecError, match=r"vault\.ca_file"):
        tls_context(Settings(("https://v:1",), ca_pem="no PEM"))


@pytest.mark.parametrize("place", ["a FIFO", "a device"])
def test_what_never_ends_is_refused_at_once(tmp_path: Path, place: str) -> None:
    """Neither OpenSSL nor we may wait for it: the CA, the client's pair, and the token file."""
    path = tmp_path / ".vault-token"
    if place == "a FIFO":
        os.mkfifo(path)
    else:
        path.symlink_to("/dev/zero")
    with pytest.raises(SpecError, match="cannot be used as a CA file"):
        tls_context(Settings(("https://v:8200",), ca_file=str(path)))
    with pytest.raises(SpecError, match="cannot be used as a client certificate"):
        tls_context(Settings(("https://v:8200",), client_certificate=str(path), client_key=str(path)))
    assert from_environment({"VAULT_ADDR": "https://v:8200", "HOME": str(tmp_path)}).token == ""


def test_an_encrypted_client_key_asks_nobody(tmp_path: Path) -> None:
    from cryptography.hazmat.primitives.serialization import (
        BestAvailableEncryption,
        Encoding,
        PrivateFormat,
        load_pem_private_key,
    )

    pair = trustme.CA().issue_cert("client.example.com")
    pair.cert_chain_pems[0].write_to_path(tmp_path / "client.crt")
    key = load_pem_private_key(pair.private_key_pem.bytes(), None)
    sealed = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, BestAvailableEncryption(b"secret"))
    (tmp_path / "client.key").write_bytes(sealed)
    settings = Settings(
        ("https://v:1",), client_certificate=str(tmp_path / "client.crt"), client_key=str(tmp_path / "client.key")
    )
    with pytest.raises(SpecError, match="not encrypted"):
        tls_context(settings)
