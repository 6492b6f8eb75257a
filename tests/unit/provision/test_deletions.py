"""What a deletion is sent for, and whose access ends with a pool: nothing else may go."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from helpers.example_cluster import WITH_POOL, load
from vaultpki.identity import reports
from vaultpki.identity.applied import AppliedRecord
from vaultpki.provision import api_calls, carry_out
from vaultpki.provision.plan import Change, Plan
from vaultpki.records.server_facts import Key, ServerFacts
from vaultpki.vault import Settings, Vault

P = "vaultpki/prod"
DELETED: dict[Key, str] = {
    ("mount", f"{P}/etcd"): f"sys/mounts/{P}/etcd",
    ("auth", f"{P}/jwt"): f"sys/auth/{P}/jwt",
    ("policy", f"{P}/node"): f"sys/policies/acl/{P}/node",
    ("role", f"{P}/etcd/etcd-peer"): f"{P}/etcd/roles/etcd-peer",
    ("approle", f"{P}/pooled/w-1"): f"auth/{P}/pooled/role/w-1",
    ("config", f"{P}/config/pools/spot"): f"{P}/config/metadata/pools/spot",
    ("config", f"auth/{P}/jwt/role/spot"): f"auth/{P}/jwt/role/spot",
    ("issuer", f"{P}/root/issuer/above-1"): f"{P}/root/issuer/above-1",
}


@pytest.mark.parametrize("key", DELETED, ids=lambda key: key[1])
def test_a_deletion_is_sent_for_this_object_alone(tmp_path: Path, key: Key) -> None:
    """A wrong path deletes what nobody wanted to lose, such as a mount in place of a policy."""
    vault = Vault(Settings(("https://127.0.0.1:1",)))
    request = api_calls.delete_request(load(tmp_path, WITH_POOL), vault, key)
    assert (request.method, request.path) == ("DELETE", DELETED[key])


def _run(folder: Path, accessors: dict[str, str], *changes: Change) -> Any:
    cluster, facts = load(folder, WITH_POOL), ServerFacts(accessors=accessors)
    vault = Vault(Settings(("https://127.0.0.1:1",)))
    found = SimpleNamespace(applied=AppliedRecord(), role_ids={})
    seen: Any = SimpleNamespace(facts=facts, found=found, wanted={}, ending=())
    return carry_out._Run(cluster, vault, seen, Plan(changes), facts, {}, AppliedRecord())


def test_a_pool_that_goes_or_gets_other_names_ends_its_nodes_by_token(tmp_path: Path) -> None:
    """They log in without an AppRole that could be deleted, so their tokens are ended one by one."""

    def pool(name: str, action: Any, *fields: str) -> Change:
        return Change(action, "config", f"{P}/config/pools/{name}", dict.fromkeys(fields, (1, 2)))

    changes = (
        pool("gone", "delete", "node_names", "roles"),
        pool("renamed", "update", "node_names"),
        pool("new", "create", "node_names"),
        pool("kept", "update", "roles"),
        Change("update", "config", f"{P}/config/cluster", {"node_names": (1, 2)}),
    )
    run = _run(tmp_path, {"listed": "a", "jwt": "j"}, *changes)
    assert carry_out._removed_pools(run) == ["gone", "renamed"]
    # Without a jwt mount nobody has logged in by a token.
    assert carry_out._removed_pools(_run(tmp_path, {"listed": "a"}, *changes)) == []


def test_a_pool_that_comes_back_has_its_locked_nodes_with_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of a node by token the disabled entity is the lock; the entities of AppRoles go with them."""
    kept = dict[str, bool]()

    def end(vault: Vault, accessor: str, aliases: Any, *, waiting: Any, keep_disabled: bool) -> None:
        kept[accessor] = keep_disabled

    monkeypatch.setattr(carry_out, "end_entities", end)
    monkeypatch.setattr(reports, "remove", lambda *given, **places: None)
    run = _run(tmp_path, {"listed": "l", "pooled": "p", "jwt": "j"})
    carry_out._end_tokens(run, {}, lambda line: None)
    assert kept == {"l": False, "p": False, "j": True}


def test_a_node_keeps_the_role_id_that_it_has(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Another one would lock it out, and open join files with it; a new node gets one of its own."""
    written = list[AppliedRecord]()
    monkeypatch.setattr(carry_out, "_write_applied", lambda run, applied: written.append(applied))
    monkeypatch.setattr(carry_out, "_end_tokens", lambda run, noted, say: None)
    run = _run(tmp_path, {"listed": "l", "pooled": "p"})
    run.seen.facts = replace(run.seen.facts, role_ids={"cp-1": "its own"})
    assert list(carry_out.carry_out(run.cluster, run.vault, run.seen, Plan(()), lambda change: None)) == []
    ids = written[-1].role_ids
    assert ids["cp-1"] == "its own" and len(set(ids.values())) == len(ids) == len(run.cluster.nodes)
    assert all(ids.values())
