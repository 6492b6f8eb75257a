"""hvac on our road: its exceptions stop at the module that imports it, and none is forgotten."""

from __future__ import annotations

import ast
import inspect
import traceback
from pathlib import Path

import hvac
import pytest

from vaultpki import vault as package
from vaultpki.errors import BadAnswer, Denied, Refused, Sealed, SpecError, Unavailable, VaultError
from vaultpki.vault import Settings, Vault
from vaultpki.vault.hvac_client import translate

SECRET = "hvs.CANARYcanaryCANARYcanary"
MAPPED: dict[type[hvac.exceptions.VaultError], type[VaultError]] = {
    hvac.exceptions.VaultError: BadAnswer,
    hvac.exceptions.InvalidRequest: Refused,
    hvac.exceptions.Unauthorized: Denied,
    hvac.exceptions.Forbidden: Denied,
    hvac.exceptions.InvalidPath: Refused,
    hvac.exceptions.UnsupportedOperation: Refused,
    hvac.exceptions.PreconditionFailed: Refused,
    hvac.exceptions.RateLimitExceeded: Unavailable,
    hvac.exceptions.InternalServerError: Unavailable,
    hvac.exceptions.VaultNotInitialized: Sealed,
    hvac.exceptions.VaultDown: Sealed,
    hvac.exceptions.UnexpectedError: BadAnswer,
    hvac.exceptions.BadGateway: Unavailable,
    hvac.exceptions.ParamValidationError: BadAnswer,
}


def nowhere() -> Vault:
    return Vault(Settings(("http://127.0.0.1:1",), token=SECRET), patience=0)


def test_every_exception_of_hvac_is_mapped() -> None:
    """Fails when hvac adds one: add it here and in the module's own tree."""
    of_hvac = {
        kind
        for _, kind in inspect.getmembers(hvac.exceptions, inspect.isclass)
        if issubclass(kind, Exception) and kind.__module__ == hvac.exceptions.__name__
    }
    assert of_hvac == MAPPED.keys()


@pytest.mark.parametrize("kind", MAPPED)
def test_it_becomes_one_of_ours_without_its_text(kind: type[hvac.exceptions.VaultError]) -> None:
    """hvac's exceptions carry the answer's body."""
    made = translate(kind(SECRET, errors=[SECRET], text=SECRET, json={"auth": SECRET}))
    assert type(made) is MAPPED[kind]
    assert SECRET not in str(made) + repr(made.__dict__)
    assert str(made).isprintable()


@pytest.mark.parametrize("kind", MAPPED)
def test_none_gets_out_of_the_block(kind: type[hvac.exceptions.VaultError]) -> None:
    with pytest.raises(VaultError) as caught, nowhere().hvac():
        raise kind(SECRET)
    assert type(caught.value) is MAPPED[kind]
    assert SECRET not in "".join(traceback.format_exception(caught.value))


def test_what_hvac_finds_wrong_itself_is_ours_too() -> None:
    with pytest.raises(BadAnswer, match="ParamValidationError"), nowhere().hvac() as client:
        client.auth.approle.create_or_update_approle("x", token_type="no-such-type")


def test_our_own_errors_come_out_as_they_are() -> None:
    with pytest.raises(Unavailable, match="cannot be reached") as caught, nowhere().hvac() as client:
        client.sys.list_mounted_secrets_engines()
    assert SECRET not in str(caught.value)
    with pytest.raises(SpecError), nowhere().hvac():
        raise SpecError("as it is")


def test_nobody_else_imports_hvac() -> None:
    folder = Path(inspect.getfile(package)).parents[1]
    importers = set()
    for path in folder.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            names += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            if any(name.split(".")[0] in ("hvac", "requests") for name in names):
                importers.add(path.relative_to(folder).as_posix())
    # client.py names hvac's type only.
    assert importers == {"vault/hvac_client.py", "vault/client.py"}
