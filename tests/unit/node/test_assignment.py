"""The copy of what Vault said last: read strictly, believed for as long as it is fresh, and never a reason to stop."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from helpers.example_agent import agent_config
from vaultpki.assets import starter
from vaultpki.certificates import ISSUING_CAS, node_rows, resolve
from vaultpki.config.cluster import load_cluster
from vaultpki.errors import SpecError
from vaultpki.model import AgentConfig, NodeRole
from vaultpki.node import assignment
from vaultpki.procedure.envelope import ProcedureRecord
from vaultpki.records.adoption import AdoptionRecord, AdoptionState
from vaultpki.records.published import cluster_record, node_record

Json = dict[str, Any]

NOW = 1_780_000_000.0
POLL = 300.0


@pytest.fixture
def state(tmp_path: Path) -> Path:
    folder = tmp_path / "state"
    folder.mkdir(mode=0o700)
    return folder


@pytest.fixture
def said(tmp_path: Path) -> Json:
    """What Vault says to the first worker of the starter's cluster."""
    file = tmp_path / "cluster.yaml"
    file.write_text(starter())
    cluster = load_cluster(file)
    node = next(node for node in cluster.nodes if node.roles == {NodeRole.WORKER})
    return {
        "version": 1,
        "fetched": NOW,
        "cluster": cluster_record(cluster, ("https://v",), None, "4f" * 32),
        "own": node_record(node, tuple(resolve(row, cluster, node) for row in node_rows(cluster, node)), "9a0e"),
        "issuing": {ca: [f"{ca} new", f"{ca} old"] for ca in ISSUING_CAS},
        "roots": ["root"],
        "defaults": {},
        "unshown": {},
        "trusted": {ca: [f"{ca} new"] for ca in ISSUING_CAS},
        "rotation": {},
        "look": 0,
    }


def config(state: Path, said: Json) -> AgentConfig:
    cluster = said["cluster"]["cluster"]
    return agent_config(cluster=cluster, prefix=f"vaultpki/{cluster}", node=said["own"]["node"], state=str(state))


def lay(state: Path, said: object, mode: int = 0o600) -> None:
    path = state / assignment.COPY
    path.write_text(said if isinstance(said, str) else json.dumps(said))
    path.chmod(mode)


def test_the_copy_says_what_vault_said(state: Path, said: Json) -> None:
    lay(state, said)
    found = assignment.copy(config(state, said))
    assert found is not None
    assert found.fetched == NOW and found.issuers.roots == ("root",) and found.roles == {NodeRole.WORKER}
    assert found.endpoint == said["cluster"]["endpoint"]
    assert {want.name for want in found.certificates} == {"kubelet", "kubelet-client", "kube-proxy"}
    assert found.issuers.issuing == {ca: (f"{ca} new", f"{ca} old") for ca in ISSUING_CAS}


def test_templates_are_those_of_the_nodes_roles(state: Path, said: Json) -> None:
    said["cluster"]["templates"] = {
        "a": {"file": "a.conf", "text": "x", "roles": ["worker", "etcd"]},
        "b": {"file": "b.conf", "text": "x", "roles": ["control-plane"]},
    }
    lay(state, said)
    found = assignment.copy(config(state, said))
    assert found is not None and [template.name for template in found.templates] == ["a"]


def without(*path: str | int) -> Callable[[Json], object]:
    def change(said: Json) -> object:
        at: Any = said
        for part in path[:-1]:
            at = at[part]
        del at[path[-1]]
        return said

    return change


def changed(*path: str | int, to: object) -> Callable[[Json], object]:
    def change(said: Json) -> object:
        at: Any = said
        for part in path[:-1]:
            at = at[part]
        at[path[-1]] = to
        return said

    return change


BROKEN: dict[str, Callable[[Json], object]] = {
    "nothing": lambda _: "",
    "no object": lambda said: [said],
    "null": lambda _: None,
    "half of it": lambda said: json.dumps(said)[: len(json.dumps(said)) // 2],
    "deep": lambda _: "[" * 100_000,
    "no time": without("fetched"),
    "a time that is none": changed("fetched", to="yesterday"),
    "a time beyond numbers": changed("fetched", to=10**400),
    "no cluster": without("cluster"),
    "another cluster's": changed("cluster", "cluster", to="other"),
    "a newer version's": changed("cluster", "version", to=2),
    "a newer version's own": changed("own", "version", to=2),
    "a file of a bundle": changed("own", "certificates", 0, "file", to="etcd-ca"),
    "a template beside a pair of its name": lambda said: changed("own", "certificates", 0, "file", to="mine")(
        changed("cluster", "templates", to={"a": {"file": "mine.conf", "text": "x", "roles": ["etcd"]}})(said)  # type: ignore[arg-type]
    ),
    "no certificates": changed("own", "certificates", to=[]),
    "a file elsewhere": changed("own", "certificates", 0, "file", to="../../etc/passwd"),
    "a CA missing": without("issuing", "etcd"),
    "a CA that is a text": changed("issuing", "etcd", to="-----BEGIN"),
    "a CA of numbers": changed("issuing", "etcd", to=[1]),
    "CAs that are a list": changed("issuing", to=[]),
    "no root": changed("roots", to=[]),
    "a root that is null": changed("roots", to=[None]),
}


@pytest.mark.parametrize("fault", BROKEN)
def test_what_no_vaultpki_wrote_is_no_copy(fault: str, state: Path, said: Json) -> None:
    node = config(state, said)
    lay(state, BROKEN[fault](said))
    assert assignment.copy(node) is None


def test_of_a_procedure_it_has_the_record_that_its_reader_names(state: Path, said: Json) -> None:
    def read(value: dict[str, Any], *, where: str) -> AdoptionRecord:
        if "state" not in value:
            raise SpecError("is no record", file=where)
        return AdoptionRecord(AdoptionState(value["state"]), 3, 3, datetime.fromtimestamp(NOW, UTC), {})

    record, node = ProcedureRecord("lamp", read), config(state, said)
    for content, kept, revision in (({"lamp": {"state": "done"}}, 3, 0), ({"lamp_ahead": 2000}, 0, 2000), ({}, 0, 0)):
        lay(state, {**said, **content})
        found, others = assignment.copy(node, (record,)), assignment.copy(node)
        assert found is not None and others is not None and others.procedures == {}
        assert found.procedures["lamp"].seen(0).highest == kept and found.procedures["lamp"].not_followed == revision
        assert found.adoption.record is None
    lay(state, {**said, "lamp": {"phase": "done"}})
    assert assignment.copy(node, (record,)) is None


@pytest.mark.parametrize("mode", [0o640, 0o604])
def test_a_copy_that_others_can_read_is_asked_for_again(mode: int, state: Path, said: Json) -> None:
    lay(state, said, mode)
    assert assignment.copy(config(state, said)) is None
    assert assignment.fetched(str(state)) is None


def test_no_copy_at_all(state: Path, said: Json) -> None:
    assert assignment.copy(config(state, said)) is None and assignment.fetched(str(state)) is None


def test_it_is_fresh_for_its_time_and_never_out_of_the_future(state: Path, said: Json) -> None:
    lay(state, said)
    found = assignment.copy(config(state, said))
    assert found is not None
    assert found.fresh(NOW, POLL) and found.fresh(NOW + 299.9, POLL) and not found.fresh(NOW + 300, POLL)
    assert not found.fresh(NOW - 0.1, POLL) and not found.fresh(NOW - 1e9, POLL)
    assert not dataclasses.replace(found, fetched=float("nan")).fresh(NOW, POLL)


def test_when_it_was_fetched_is_read_alone(state: Path, said: Json) -> None:
    node = config(state, said)
    lay(state, {**said, "fetched": NOW + 300})
    assert assignment.fetched(node.state) == NOW + 300
    for garbage in ("", "[]", "17", '{"fetched": "x"}', json.dumps({"fetched": 10**400}), "[" * 100_000):
        lay(state, garbage)
        assert assignment.fetched(node.state) is None
