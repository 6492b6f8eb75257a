"""Tells which server a command asks, and whose token it has, so that a person sees both before agreeing to anything."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from vaultpki.errors import BadAnswer, Denied, ForeignObject, Refused, StateConflict, VaultError
from vaultpki.model import Cluster
from vaultpki.redact import HIDDEN, first_few, hide
from vaultpki.vault import HEALTH, Capabilities, Json, Vault

_ROOT_NAMESPACE = "root"


@dataclass(frozen=True, slots=True)
class TokenOwner:
    """Whose token it is, in the server's own words; never the token. `entity` is an id, empty if there is none."""

    name: str
    policies: tuple[str, ...]
    entity: str = ""
    accessor: str = ""


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
        token_owner(vault),
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


def token_owner(vault: Vault) -> TokenOwner | None:
    """Return the owner of the token, as the server's look-up says; None if the token may not look at itself."""
    # https://developer.hashicorp.com/vault/api-docs/auth/token#lookup-a-token-self
    try:
        found: Json = vault.api.auth.token.lookup_self().data
    except (Denied, Refused, BadAnswer):
        return None

    def said(value: object) -> str:
        # Its field `id` is the token itself. A server that is not honest may repeat it elsewhere.
        text = value if isinstance(value, str) else ""
        return hide(text.replace(vault.settings.token, HIDDEN) if vault.settings.token else text)

    policies = [each for field in ("policies", "identity_policies") for each in _list(found.get(field))]
    return TokenOwner(
        said(found.get("display_name")),
        tuple(dict.fromkeys(map(said, policies))),
        said(found.get("entity_id")),
        said(found.get("accessor")),
    )


def _list(value: object) -> list[object]:
    return value if isinstance(value, list) else []
