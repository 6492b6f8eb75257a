"""Answers about identities and reports that are somebody else's, or unreadable: nothing follows from them."""

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
from vaultpki.identity import ending, nodes, reports, revoked_list
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
        yield Vault(Settings((server.address,), token="hvs.test"), patience=0.0)


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
