"""What commands on identities make of a server's answers: whose access ends, and what an odd answer must not do."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from helpers.example_cluster import WITH_POOL, load
from helpers.faults.hostile_server import Guest, serving
from vaultpki.errors import BadAnswer
from vaultpki.identity import credentials, ending, enrol, nodes, reports, revoked_list
from vaultpki.identity.applied import APPLIED, AppliedRecord
from vaultpki.identity.credentials import Identity
from vaultpki.model import Cluster, Jwt
from vaultpki.vault import Settings, Vault

ENTITY, OTHER = "5f0c1d6e-1111-2222-3333-444444444444", "6f0c1d6e-1111-2222-3333-444444444444"
P = "vaultpki/prod"


@pytest.fixture
def cluster(tmp_path: Path) -> Cluster:
    return load(tmp_path, WITH_POOL)


@contextlib.contextmanager
def saying(answer: Callable[[str, str, Any], tuple[int, Any]]) -> Iterator[Vault]:
    """A server that answers each request, by its method, path and body, with a status and the member `data`."""

    def behaviour(guest: Guest) -> None:
        while True:
            method, path, _, body = guest.asked()
            status, data = answer(method, path.removeprefix("/v1/"), json.loads(body) if body else None)
            guest.answer(status, {"data": data} if status == 200 else {"errors": []})

    with serving(behaviour) as server:
        yield Vault(Settings((server.address,), token="hvs.test"), patience=1.0)


def entity(id_: str, name: str = "s-1") -> dict[str, Any]:
    return {"id": id_, "aliases": [{"name": name, "mount_accessor": "auth_j"}]}


@pytest.mark.parametrize("data", [entity(ENTITY, "s-2"), {"id": ENTITY}, entity("../../x")])
def test_an_answer_about_another_identity_ends_nobodys_tokens(data: dict[str, Any]) -> None:
    with (
        saying(lambda method, path, body: (200, data)) as vault,
        pytest.raises(BadAnswer, match="about another identity than the one asked for"),
    ):
        ending.find_entity(vault, "auth_j", "s-1")
    with saying(lambda method, path, body: (200, entity(ENTITY))) as vault:
        assert ending.find_entity(vault, "auth_j", "s-1") == ending.Entity(ENTITY, False)


@pytest.mark.parametrize(("there", "found"), [(entity(ENTITY), ["s-1"]), ({}, []), (entity(OTHER), None)])
def test_a_report_by_token_is_of_the_node_that_vault_names(
    cluster: Cluster, there: dict[str, Any], found: list[str] | None
) -> None:
    """The place has the entity's id alone; an entity that is gone is no node any more."""

    def answer(method: str, path: str, body: Any) -> tuple[int, Any]:
        if path == "sys/auth":
            return 200, {"token/": {"accessor": "t"}, f"{P}/jwt/": {"accessor": "auth_j"}}
        return 200, there if path == "identity/lookup/entity" else {"keys": [ENTITY]}

    with saying(answer) as vault:
        if found is None:
            with pytest.raises(BadAnswer, match="about another identity"):
                reports.token_identities(cluster, vault, ["spot"])
        else:
            assert [each.name for each in reports.token_identities(cluster, vault, ["spot"])] == found


@pytest.mark.parametrize("stored", [None, {"time": 7}, {"time": "yesterday", "version": 1}])
def test_a_report_that_nobody_can_read_says_nothing_and_stops_nothing(cluster: Cluster, stored: Any) -> None:
    with saying(lambda method, path, body: (200, {"data": stored, "metadata": {}})) as vault:
        found = reports.read(cluster, vault, "reports/listed/cp-1", {})
    assert found.report is None and json.loads(found.text or "null") == stored


def test_where_no_mount_for_tokens_is_nobody_has_logged_in_by_one(cluster: Cluster) -> None:
    spot = replace(cluster.pools[0], name="spot", node_names="s-*", jwt=Jwt("https://i.example.com", ("a",), "sub"))
    asked = list[str]()

    def answer(method: str, path: str, body: Any) -> tuple[int, Any]:
        asked.append(path)
        return 200, {"token/": {"accessor": "t"}}

    with saying(answer) as vault:
        assert nodes.own_report(replace(cluster, pools=(spot,)), vault, "s-1") is None
    assert asked == ["sys/auth"]


def test_what_is_revoked_counts_by_the_mount_of_the_rows_ca(cluster: Cluster) -> None:
    """A list that may not be read is said, and hides nothing of the others."""

    def answer(method: str, path: str, body: Any) -> tuple[int, Any]:
        if "/etcd/" in path:
            return 403, None
        return 200, {"keys": ["0a:ff", "nonsense"] if "/kubelet/" in path else []}

    with saying(answer) as vault:
        found = revoked_list.read(cluster, vault)
    assert found.has("kubelet", "aff") and not found.has("kubelet-client", "aff") and not found.has("kubelet", "")
    (problem,) = found.problems
    assert f"{P}/etcd/certs/revoked" in problem and "kubelet" not in problem


class Recorded:
    """What was asked of a server with one node that logs in by a token; `disabled` is whether its entity is."""

    def __init__(self) -> None:
        self.asked, self.disabled = list[str](), False

    def __call__(self, method: str, path: str, body: Any) -> tuple[int, Any]:
        self.asked.append(path)
        if path == "sys/leader":
            return 200, None
        if path == "sys/auth":
            return 200, {"token/": {"accessor": "t"}, f"{P}/jwt/": {"accessor": "auth_j"}}
        if path == "identity/lookup/entity":
            return 200, {**entity(ENTITY), "disabled": self.disabled}
        if path == f"identity/entity/id/{ENTITY}":
            self.disabled = body == {"disabled": "true"}
            return 200, {}
        return (404 if method in ("GET", "LIST") else 200), {}


@pytest.mark.parametrize("end", [enrol.lock, enrol.unenroll])
def test_a_node_that_logs_in_by_a_token_is_disabled_and_nobody_asks_a_standby(
    cluster: Cluster, end: Callable[..., frozenset[str]]
) -> None:
    """A deleted entity would come back with the next login; and a standby may not know the newest yet."""
    spot = replace(cluster.pools[0], name="spot", node_names="s-*", jwt=Jwt("https://i.example.com", ("a",), "sub"))
    server = Recorded()
    with saying(server) as vault:
        assert end(replace(cluster, pools=(spot,)), vault, "s-1", wait=0.0) == {"jwt"}
    assert server.disabled and server.asked[0] == "sys/leader"


def test_a_secret_id_that_has_gone_meanwhile_is_destroyed_once(cluster: Cluster) -> None:
    """Servers answer 500 for it, which would else be tried again and again while other credentials stay open."""
    asked = list[str]()

    def answer(method: str, path: str, body: Any) -> tuple[int, Any]:
        asked.append(body["secret_id_accessor"])
        return 500, None

    with saying(answer) as vault:
        credentials.destroy(cluster, vault, Identity("listed", "cp-1"), ["one", "two"])
    assert sorted(asked) == ["one", "two"]


def test_the_note_of_an_end_keeps_the_role_ids_of_earlier_runs(cluster: Cluster) -> None:
    """By them the tokens are found: those of a run that was interrupted end with this one."""
    before, written = {"version": 1, "role_ids": ["first"]}, list[Any]()

    def answer(method: str, path: str, body: Any) -> tuple[int, Any]:
        if method == "GET":
            return 200, {"data": before, "metadata": {"version": 3}}
        written.append(body)
        return 200, {"version": 4}

    with saying(answer) as vault:
        assert ending.write_note(cluster, vault, "cp-1", {"second"}) == {"first", "second"}
    (one,) = written
    assert one == {"options": {"cas": 3}, "data": {"version": 1, "role_ids": ["first", "second"]}}


def test_the_nodes_of_a_pool_that_cluster_yaml_lacks_are_nodes_still(cluster: Cluster) -> None:
    """Gates and `revoke` count them as long as no apply has ended them; what fits no pool counts nowhere."""
    applied = AppliedRecord(pools={"former": "f-*"}).record(cluster)

    def answer(method: str, path: str, body: Any) -> tuple[int, Any]:
        if path == f"auth/{P}/pooled/role":
            return 200, {"keys": ["f-1", "w-1", "x-1"]}
        if path == f"{P}/config/data/{APPLIED}":
            return 200, {"data": applied, "metadata": {"version": 1}}
        return 404, None

    with saying(answer) as vault:
        found = nodes.read_nodes(cluster, vault)
    pooled = {each.name: each.holder for each in found.members if each.kind == "pooled"}
    assert pooled == {"f-1": None, "w-1": cluster.pools[0]} and [each.name for each in found.unfit] == ["x-1"]
