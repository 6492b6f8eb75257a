"""No operator's command of a test runs with a root token, and the roles of `vaultpki policy` are those of the code."""

from __future__ import annotations

import ast
from pathlib import Path
from typing import Final, get_args

import click
import pytest

from helpers.vault import operator_tokens, servers
from helpers.vault.applied_cluster import environment
from vaultpki.cli.policy import policy_command
from vaultpki.identity import access

TESTS: Final = Path(__file__).parents[1]
OF_ROOT: Final = {
    "helpers/node/enrolled_nodes.py": "it sets the scene by raw requests",
    "helpers/page_runner.py": "the pages make an applier's token with it, as a reader would",
    "helpers/vault/operator_tokens.py": "it makes the other tokens",
    "helpers/vault/plan_commands.py": "it lists all that a server has",
    "helpers/vault/raft_cluster.py": "it joins the nodes",
    "helpers/vault/server_contents.py": "it lists all that a cluster has",
    "helpers/vault/servers.py": "it sets the server up",
    "integration/node/test_credential.py": "a node must not be helped by it",
    "integration/agent/test_unsafe_places.py": "a node must not send it",
    "integration/demo/test_openbao.py": "it is the demo's own server",
    "integration/provision/test_saved_plan.py": "it must not be in the file",
    "integration/provision/test_apply_raft.py": "the client is tried, and no command",
    "integration/identity/test_lock.py": "it cuts off raw requests",
}
"""The files that may name a server's root token, each with its reason."""


def root_tokens(source: str) -> bool:
    """Whether `server.token` or the like is there; `cluster.token()` is another thing, and a method."""
    return ".token" in source and any(
        isinstance(node, ast.Attribute)
        and node.attr == "token"
        and isinstance(node.value, ast.Name | ast.Attribute)
        and (node.value.id if isinstance(node.value, ast.Name) else node.value.attr).endswith(("server", "cluster3"))
        for node in ast.walk(ast.parse(source))
    )


def test_root_tokens_are_for_scenes_only() -> None:
    found = {str(path.relative_to(TESTS)) for path in TESTS.rglob("*.py") if root_tokens(path.read_text())}
    assert found <= OF_ROOT.keys(), "take `cluster.token()`, `cluster.environment()` or `cluster.client()`"


def test_a_root_token_is_found() -> None:
    assert root_tokens("Settings((server.address,), token=own_server.token)")
    assert root_tokens('env = {"VAULT_TOKEN": self.cluster.server.token}')
    assert not root_tokens("Enroller(cluster, cluster.token())")


@pytest.mark.parametrize("name", ["VAULT_TOKEN", "BAO_TOKEN"])
def test_a_command_with_a_root_token_is_refused(name: str) -> None:
    servers.ROOT_TOKENS.add("s.root-of-this-test")
    try:
        with pytest.raises(AssertionError, match="has the root token"):
            environment({name: "s.root-of-this-test"})
        assert environment({name: "s.root-of-this-test"}, "why")[name] == "s.root-of-this-test"
        assert environment({name: "s.other"})[name] == "s.other"
    finally:
        servers.ROOT_TOKENS.remove("s.root-of-this-test")


def test_the_roles_are_those_of_the_code() -> None:
    (who,) = [each for each in policy_command.params if isinstance(each, click.Argument)]
    assert isinstance(who.type, click.Choice)
    assert tuple(who.type.choices) == (
        "applier",
        "enroller",
        "operator",
        "viewer",
        "locker",
        "adopter",
        "importer",
        "mover",
    )
    assert {*who.type.choices} == {*access.POLICIES, access.MOVER}
    assert {f"{name}.json" for name in (*access.POLICIES, access.MOVER)} <= {
        path.name for path in (TESTS.parent / "policies").glob("*.json")
    }
    assert {*get_args(operator_tokens.Who)} == {*access.POLICIES, access.MOVER}
