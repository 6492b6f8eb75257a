"""Tells which server a command asks, and whose token it has, so that a person sees both before agreeing to anything."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from vaultpki.errors import ForeignObject, StateConflict, VaultError
from vaultpki.model import Cluster
from vaultpki.redact import first_few
from vaultpki.vault import HEALTH, Capabilities, Vault
from vaultpki.vault.token_owner import TokenOwner

_ROOT_NAMESPACE = "root"


@dataclass(frozen=True, slots=True)
class AskedServer:
    """The server that a command asks, the namespace, and the owner of its token.

    `variable` is the environment variable that named the address, empty if cluster.yaml did. `of_spec` are the
    addresses in cluster.yaml if the variable names another server than they do. `owner` is None if it cannot be read.
    `ignored` is a namespace that was asked for on a server that has none.
    """

    address: str
    namespace: str
    variable: str = ""
    of_spec: tuple[str, ...] = ()
    owner: TokenOwner | None = None
    ignored: str = ""


def elsewhere(cluster: Cluster, vault: Vault) -> tuple[str, ...]:
    """Return the addresses in cluster.yaml if the environment names another server; empty if it does not."""
    settings = vault.settings
    other = settings.address_variable and not {*settings.addresses} <= {*cluster.vault.addresses}
    return cluster.vault.addresses if other else ()


@contextmanager
def told(cluster: Cluster, vault: Vault) -> Iterator[None]:
    """Add to what another server than that of cluster.yaml refuses, or does not have, who named that server."""
    try:
        yield
    except (VaultError, ForeignObject, StateConflict) as error:
        if (ours := elsewhere(cluster, vault)) and error.args:
            names = f"{vault.settings.address_variable} names {vault.address}, and {cluster.file} {first_few(ours)}"
            error.args = (f"{error}; {names}", *error.args[1:])
        raise


def read(cluster: Cluster, vault: Vault) -> AskedServer:
    """Return the server that `vault` asks: once for its token, and for a namespace whether it has namespaces."""
    settings = vault.settings
    asked_for = settings.namespace or _ROOT_NAMESPACE
    # HashiCorp's community edition does not look at the header, and answers from the only namespace that it has.
    has = asked_for == _ROOT_NAMESPACE or Capabilities.of(vault.call(HEALTH)).namespaces
    return AskedServer(
        vault.address,
        asked_for if has else _ROOT_NAMESPACE,
        settings.address_variable,
        elsewhere(cluster, vault),
        vault.owner(),
        "" if has else asked_for,
    )


def to_json(asked: AskedServer) -> dict[str, Any]:
    """Return the server as programs read it: `server` in `plan --json` and `apply --json`."""
    owner = asked.owner
    token = owner and {
        "name": owner.name,
        "policies": list(owner.policies),
        "entity": owner.entity,
        "accessor": owner.accessor,
    }
    return {
        "address": asked.address,
        "namespace": asked.namespace,
        "variable": asked.variable,
        "cluster_yaml": list(asked.of_spec),
        "token": token,
    }
