"""The forbidden list follows the table and the cluster, and holds every group that is promised."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest

from helpers.example_cluster import load
from helpers.node import handmade_files
from vaultpki.certificates import laid_out, rows
from vaultpki.model import Cluster, KeyType, Node, NodeRole, Pool, Row, Subject, Usage
from vaultpki.places import Layout
from vaultpki.records.service_account import KEYS_RECORD
from vaultpki.verify.forbidden_paths import Forbidden
from vaultpki.verify.forbidden_signing import allowed, forbidden

SPEC = handmade_files.SPEC.replace("pools:\n", "- {name: worker-2, roles: [worker], addresses: [10.0.0.22]}\npools:\n")
NAMES = ("cp-1", "worker-1", "w-7")
FEWEST = 300


@pytest.fixture
def cluster(tmp_path: Path) -> Cluster:
    return load(tmp_path, SPEC)


def csr(kind: KeyType, subject: Subject) -> str:
    return f"{kind.value} {subject}"


def holder(cluster: Cluster, name: str) -> Node | Pool:
    return next((node for node in cluster.nodes if node.name == name), cluster.pools[0])


def listed(cluster: Cluster, name: str) -> tuple[Forbidden, ...]:
    return forbidden(cluster, name, holder(cluster, name), csr)


@pytest.mark.parametrize("name", NAMES)
def test_there_are_enough_and_no_two_alike(cluster: Cluster, name: str) -> None:
    requests = listed(cluster, name)
    assert len(requests) >= FEWEST and requests == listed(cluster, name)
    assert max(Counter((each.method, each.path, repr(each.body), each.wrap_ttl) for each in requests).values()) == 1


@pytest.mark.parametrize("name", NAMES)
def test_nothing_of_its_own_is_forbidden(cluster: Cluster, name: str) -> None:
    own = {(each.path, repr(each.body)) for each in allowed(cluster, name, holder(cluster, name), csr)}
    assert own and not own & {(each.path, repr(each.body)) for each in listed(cluster, name)}
    kind = "pooled" if name == "w-7" else "listed"
    may = {
        ("GET", "vaultpki/prod/config/data/cluster"),
        ("GET", f"vaultpki/prod/config/data/{'pools/autoscaled' if kind == 'pooled' else f'nodes/{name}'}"),
        ("POST", f"vaultpki/prod/config/data/reports/{name}"),
    }
    assert not may & {(each.method, each.path) for each in listed(cluster, name)}
    mint = f"auth/vaultpki/prod/{kind}/role/{name}/secret-id"
    minting = [each for each in listed(cluster, name) if (each.method, each.path) == ("POST", mint)]
    assert all(each.body or each.wrap_ttl != "60s" for each in minting)
    # What only its body forbids is asked as the node may ask; and nothing else says that it may not be kept for longer.
    assert all(each.wrap_ttl == "60s" for each in minting if each.body)
    assert {each.wrap_ttl for each in minting if not each.body} == {"", "61s", "720h"}


@pytest.mark.parametrize("name", NAMES)
def test_a_request_to_sign_is_one_that_succeeds_with_one_thing_changed(cluster: Cluster, name: str) -> None:
    """Else a refusal could be of something else than of what the request is there for."""
    own = {each.path: each for each in allowed(cluster, name, holder(cluster, name), csr)}
    for request in listed(cluster, name):
        if request.own is not None:
            base, body = own[request.path].body, request.body or {}
            assert request.own == own[request.path].certificate
            changed = {key for key in {*base, *body} if base.get(key, ...) != body.get(key, ...)}
            # A request for a certificate with no parameters is the one that differs in more.
            assert len(changed) == 1 or body.keys() == {"csr", "format"}, (request.path, changed)


@pytest.mark.parametrize("name", NAMES)
def test_every_row_of_another_is_asked_for(cluster: Cluster, name: str) -> None:
    own = {each.path for each in allowed(cluster, name, holder(cluster, name), csr)}
    asked = {each.path for each in listed(cluster, name) if each.group == "rows of others"}
    for row in laid_out(Layout.DOCUMENT):
        path = f"vaultpki/prod/{row.ca}/sign/{row.name}"
        assert path in own or path in asked, path
        assert f"vaultpki/prod/{row.ca}/issue/{row.name}" in {each.path for each in listed(cluster, name)}


@pytest.mark.parametrize("name", NAMES)
def test_every_other_node_is_asked_for(cluster: Cluster, name: str) -> None:
    sent = [repr(each.body) for each in listed(cluster, name) if each.group == "names of others"]
    for other in (*NAMES[:2], "worker-2", "w-other", f"{name}x"):
        if other != name:
            assert any(repr(other) in body or f"{other}'" in body for body in sent), other
    for spelt in ("W-OTHER", "w-other.", "*.w-other", "x@w-other"):
        assert any(spelt in body for body in sent), spelt


def test_a_name_that_its_own_begins_with_is_asked_for(cluster: Cluster) -> None:
    """A rule that compares the beginning alone would give one node the names of others."""
    sent = [repr(each.body) for each in listed(cluster, "w-71") if each.group == "names of others"]
    for other in ("w-7", "w-71x", "xw-71"):
        assert any(f"'{other}'" in body for body in sent), other


def test_addresses_are_asked_for_in_each_form(cluster: Cluster) -> None:
    asked = [e for e in listed(cluster, "worker-1") if e.group == "addresses" and e.path.endswith("/kubelet")]
    sent = [(each.body or {}).get("ip_sans") for each in asked]
    for form in ("10.0.0.11", ["10.0.0.11"], "::ffff:10.0.0.11", "::ffff:0a00:000b", "10.0.0.21,fd00::21,10.0.0.11"):
        assert form in sent, form
    assert "10.0.0.21" not in sent


def test_a_new_row_is_covered_without_new_code(cluster: Cluster) -> None:
    new = Row(
        name="vpn",
        usage=Usage.CLIENT,
        source="vpn",
        target="-",
        common_name="vpn:{node}",
        organization=("vpn:gateways",),
        dns=(),
        ips=(),
        ca="etcd",
        stem="vpn",
        node_roles=frozenset({NodeRole.ETCD}),
        built_in=False,
    )
    wider = replace(cluster, rows=(new,))
    assert new in rows(wider)
    for name in NAMES:
        more = {(each.path, repr(each.body)) for each in listed(wider, name)}
        more -= {(each.path, repr(each.body)) for each in listed(cluster, name)}
        assert any(path == "vaultpki/prod/etcd/sign/vpn" for path, _ in more)
        assert any("vpn:gateways" in body for _, body in more)
    others = [each for each in listed(wider, "cp-1") if each.path == "vaultpki/prod/etcd/sign/vpn"]
    assert any((each.body or {}).get("common_name") == "vpn:worker-1" for each in others)


@pytest.mark.parametrize("name", NAMES)
def test_what_could_change_something_is_told_apart(cluster: Cluster, name: str) -> None:
    """`verify --vault` sends the harmless ones to a server in use."""
    for request in listed(cluster, name):
        signs = any(f"/{verb}" in request.path for verb in ("sign/", "issue/", "sign-verbatim"))
        if request.harmless:
            assert signs or request.method in ("GET", "LIST"), request
            assert "crl/rotate" not in request.path
        if request.spent:
            assert f"/role/{name}/" in request.path and not request.harmless
    for word in ("roles/", "sign-intermediate", "generate", "revoke", "tidy", "sys/seal", "token/create", "secret-id"):
        assert any(word in request.path for request in listed(cluster, name) if not request.harmless), word


@pytest.mark.parametrize("name", NAMES)
def test_no_node_writes_the_record_of_service_account_keys(name: str, tmp_path: Path) -> None:
    text = SPEC if "service_account_keys" in SPEC else f"service_account_keys: true\n{SPEC}"
    found = {each.method for each in listed(load(tmp_path, text), name) if each.path.endswith(f"/data/{KEYS_RECORD}")}
    assert found == {"POST", "PUT", "PATCH", "DELETE"}
