"""hvac on our road: its exceptions stop at the module that imports it, and none is forgotten."""

from __future__ import annotations

import ast
import inspect
import os
import traceback
from collections.abc import Callable
from pathlib import Path

import hvac
import pytest

from vaultpki import vault as package
from vaultpki.errors import BadAnswer, Unavailable
from vaultpki.vault import Request, Settings, Vault
from vaultpki.vault.adapter import Api, client

SECRET = "hvs.CANARYcanaryCANARYcanary"
OF_HVAC = [
    kind
    for _, kind in inspect.getmembers(hvac.exceptions, inspect.isclass)
    if issubclass(kind, Exception) and kind.__module__ == hvac.exceptions.__name__
]


def nowhere() -> Vault:
    return Vault(Settings(("http://127.0.0.1:1",), token=SECRET), patience=0)


@pytest.mark.parametrize("kind", OF_HVAC)
def test_no_exception_of_hvac_gets_out_of_a_method(kind: type[hvac.exceptions.VaultError]) -> None:
    """They carry the answer's body. Fails when hvac adds one beside its own tree."""

    class Part:
        def method(self) -> None:
            raise kind(SECRET)

    with pytest.raises(BadAnswer, match=kind.__name__) as caught:
        Api(Part(), lambda request: request).method()
    assert SECRET not in "".join(traceback.format_exception(caught.value))


def test_what_hvac_finds_wrong_itself_is_ours_too() -> None:
    with pytest.raises(BadAnswer, match="ParamValidationError"):
        nowhere().api.auth.approle.create_or_update_approle("x", token_type="no-such-type")


def test_our_own_errors_come_out_as_they_are() -> None:
    with pytest.raises(Unavailable, match="cannot be reached") as caught:
        nowhere().api.sys.list_mounted_secrets_engines()
    assert SECRET not in str(caught.value)


@pytest.mark.parametrize(
    "name", ["../../sys/seal", "a/../b", "a//b", "a?list=true", "a%2e%2e", "a b", "a\r\nX: y", "\u00e9"]
)
def test_a_name_never_leads_elsewhere(name: str) -> None:
    """hvac itself posts to sys/seal for a role of the first name."""
    api = nowhere().api
    calls: list[Callable[[], object]] = [
        lambda: api.secrets.pki.read_role(name, mount_point="pki"),
        lambda: api.secrets.pki.list_roles(mount_point=name),
        lambda: api.sys.create_or_update_acl_policy(name, "{}"),
        lambda: api.auth.token.create(role_name=name),
        lambda: api.read(name),
    ]
    for call in calls:
        with pytest.raises(BadAnswer, match="is not a path of vaultpki"):
            call()


def test_hvac_reads_no_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """It would take VAULT_ADDR, VAULT_TOKEN, ~/.vault-token, VAULT_CACERT and VAULT_CLIENT_CERT."""

    def read(*_: object) -> None:
        pytest.fail("hvac looks into the environment")

    monkeypatch.setattr(os, "getenv", read)
    monkeypatch.setattr(hvac.utils, "get_token_from_env", read)
    for name in ("VAULT_CACERT", "VAULT_CAPATH", "VAULT_CLIENT_CERT", "VAULT_CLIENT_KEY"):
        monkeypatch.setattr(hvac.v1, name, "/canary")
    client.cache_clear()
    adapter = client().adapter
    assert (adapter.token, adapter.namespace) == ("", "")
    assert (adapter._kwargs["cert"], adapter._kwargs["verify"]) == ((), True)


def test_a_request_is_the_one_that_we_would_write() -> None:
    made = nowhere().prepare
    kv = made.secrets.kv.v2
    assert kv.read_secret("a/b", mount_point="x/y", raise_on_deleted_version=False) == Request("GET", "x/y/data/a/b")
    assert made.secrets.pki.read_role("system:node", mount_point="x/y") == Request("GET", "x/y/roles/system:node")
    assert made.sys.create_or_update_acl_policy("a/b", "{}") == Request(
        "POST", "sys/policies/acl/a/b", {"policy": "{}"}
    )
    assert made.auth.approle.generate_secret_id("n", mount_point="m", wrap_ttl="60s") == Request(
        "POST", "auth/m/role/n/secret-id", {}, wrap_ttl="60s"
    )
    assert made.sys.wrap({"a": 1}, ttl="60s") == Request("POST", "sys/wrapping/wrap", {"a": 1}, wrap_ttl="60s")


def test_nobody_else_imports_hvac() -> None:
    folder = Path(inspect.getfile(package)).parents[1]
    importers = set()
    for path in folder.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            names += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            if any(name.split(".")[0] in ("hvac", "requests") for name in names):
                importers.add(path.relative_to(folder).as_posix())
    assert importers == {"vault/adapter.py"}
