"""Values that carry a secret leave it out of their `repr`, which tracebacks and assertions show."""

from __future__ import annotations

import dataclasses
import importlib
import pkgutil
from typing import Any

import vaultpki

SECRET = "hvs.never-shown"
# Fields that hold a secret, wherever they are, and those of what goes to and comes from a server.
NAMES = {"token", "secret", "wrap_token"}
OF_VAULT = {"body", "headers", "json"}


def values() -> list[type[Any]]:
    """Every dataclass of the package."""
    names = [found.name for found in pkgutil.walk_packages(vaultpki.__path__, "vaultpki.")]
    modules = [importlib.import_module(name) for name in names if not name.endswith("__main__")]
    found = {each for module in modules for each in vars(module).values() if isinstance(each, type)}
    return [each for each in found if dataclasses.is_dataclass(each) and each.__module__.startswith("vaultpki.")]


def test_no_secret_is_in_a_repr() -> None:
    seen = set()
    for value in values():
        names = {field.name for field in dataclasses.fields(value)}
        hidden = names & (NAMES | OF_VAULT if value.__module__.startswith("vaultpki.vault.") else NAMES)
        if not hidden:
            continue
        seen |= {(value.__name__, name) for name in hidden}
        made = object.__new__(value)
        for name in names:
            object.__setattr__(made, name, SECRET if name in hidden else None)
        assert SECRET not in repr(made), f"{value.__qualname__} shows a secret"
    assert {("Join", "wrap_token"), ("Settings", "token"), ("Answer", "body"), ("Request", "body")} <= seen
