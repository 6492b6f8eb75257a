"""Tokens with exactly the policies that `vaultpki policy` prints, for whoever runs commands; root's is refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Final, Literal

from helpers.vault.servers import OF_TESTS, ROOT_TOKENS, Server
from vaultpki.config.cluster import load_cluster
from vaultpki.identity import access
from vaultpki.model import at_new

Who = Literal["applier", "enroller", "operator", "viewer", "locker", "adopter", "importer", "mover"]

# The rest depends on the prefix alone.
_OF_SPEC: Final = ("enroller", "operator", "importer")
_Key = tuple[str, str, str, str, str]

_made: dict[_Key, tuple[dict[str, Any], str]] = {}


def token(server: Server, prefix: str, who: Who, *, spec: Path | None = None, namespace: str = "") -> str:
    """Return a token with the printed policy of `who` and no other, not even the default one.

    It is made once for a cluster; its policy is written again when cluster.yaml, which is `spec`, has changed it.
    """
    if who == "applier" and spec is not None:
        # With a root from outside it has the path of a signer.
        rules = access.policy_of(load_cluster(spec), who) if "root:" in spec.read_text() else _of_prefix(who, prefix)
    elif who == access.MOVER:
        assert spec is not None
        rules = access.policy_of(at_new(load_cluster(spec)), who)
    elif who in _OF_SPEC:
        assert spec is not None, f"the policy of the {who} depends on cluster.yaml"
        rules = access.policy_of(load_cluster(spec), who)
    else:
        rules = _of_prefix(who, prefix)
    key = (server.address, server.token, namespace, prefix, who)
    known, made = _made.get(key, ({}, ""))
    within, name = f"{namespace}/" if namespace else "", f"{OF_TESTS}/{prefix}/{who}"
    if rules != known:
        body: dict[str, object] = {"policy": json.dumps({"path": rules})}
        answer = server.api("PUT", f"{within}sys/policies/acl/{name}", body)
        assert answer.status in (200, 204), answer
    if not made:
        body = {"policies": [name], "no_default_policy": True, "ttl": "24h"}
        answer = server.api("POST", f"{within}auth/token/create", body)
        assert answer.status == 200, answer
        made = answer.body["auth"]["client_token"]
    _made[key] = rules, made
    return made


def _of_prefix(who: Who, prefix: str) -> dict[str, Any]:
    return access.policy(f"{who}.json", {"prefix": prefix})


def refuse_root(environment: dict[str, str], why: str = "") -> None:
    """Fail if a command would run with a root token, unless `why` says what for."""
    tokens = {environment.get("VAULT_TOKEN"), environment.get("BAO_TOKEN")}
    assert why or not tokens & ROOT_TOKENS, (
        "an operator's command in a test has the root token: take `cluster.environment()`, which has the printed "
        "policy, or say with `root=` why it must be root's"
    )
