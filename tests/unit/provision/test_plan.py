"""The plan is the difference of desired and observed, in an order in which it can be carried out."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import pytest

from helpers.example_cluster import load
from vaultpki.certificates import ISSUING_CAS, ROOT
from vaultpki.model import Cluster
from vaultpki.pki.ca_life import CaExpiry, Level
from vaultpki.provision.desired import desired
from vaultpki.provision.plan import STAGES, Change, Danger, Impact, Observed, Rotation, plan, stage, to_json
from vaultpki.records.server_facts import UNKNOWN, Fields, Key, ServerFacts

ROLE: Key = ("role", "vaultpki/prod/etcd/etcd-peer")
POLICY: Key = ("policy", "vaultpki/prod/node/cp-1")
RECORD: Key = ("config", "vaultpki/prod/config/nodes/cp-1")


@pytest.fixture
def cluster(tmp_path: Path) -> Cluster:
    return load(
        tmp_path,
        "cluster: prod\nnodes:\n- {name: cp-1, roles: [control-plane, etcd, worker], addresses: [10.0.0.11]}\n"
        'pools:\n- {name: autoscaled, roles: [worker], node_names: "w-*"}\n',
    )


def fields_of(key: Key, wanted: Fields, found: Fields) -> dict[str, tuple[object, object]]:
    changes = plan({key: wanted}, Observed({key: found})).changes
    assert len(changes) < 2
    return dict(changes[0].fields) if changes else {}


def test_nothing_to_do_where_all_is_as_wanted(cluster: Cluster) -> None:
    wanted = desired(cluster, ServerFacts())
    found = {key: dict(fields) for key, fields in wanted.items()}
    assert plan(wanted, Observed(found, frozenset(wanted))).changes == ()


def test_what_is_missing_is_created_with_every_field(cluster: Cluster) -> None:
    wanted = desired(cluster, ServerFacts())
    made = plan(wanted, Observed())
    assert {change.key for change in made.changes} == wanted.keys()
    for change in made.changes:
        assert change.action == "create"
        assert change.fields == {name: (None, value) for name, value in wanted[change.key].items()}


def test_only_the_fields_that_differ_are_shown() -> None:
    assert fields_of(ROLE, {"ttl": 1, "max_ttl": 2}, {"ttl": 1, "max_ttl": 3}) == {"max_ttl": (3, 2)}
    assert fields_of(ROLE, {"ttl": 1}, {}) == {"ttl": (None, 1)}


def test_lists_are_sets() -> None:
    assert fields_of(ROLE, {"names": ["a", "b"]}, {"names": ["b", "a"]}) == {}
    assert fields_of(ROLE, {"names": ["a"]}, {"names": ["a", "a"]}) != {}
    assert fields_of(ROLE, {"names": []}, {"names": ["a"]}) == {"names": (["a"], [])}


def test_false_is_not_none_and_zero_is() -> None:
    assert fields_of(ROLE, {"flag": False}, {"flag": None}) == {"flag": (None, False)}
    assert fields_of(ROLE, {"flag": False}, {"flag": True}) == {"flag": (True, False)}


@pytest.mark.parametrize("key", [POLICY, RECORD])
def test_more_in_a_policy_or_a_record_is_a_difference(key: Key) -> None:
    assert fields_of(key, {"a": 1}, {"a": 1, "b": 2}) == {"b": (2, None)}


def test_more_in_anything_else_is_the_servers_own() -> None:
    assert fields_of(ROLE, {"a": 1}, {"a": 1, "new_in_next_release": 2}) == {}


def test_what_is_known_only_after_apply_is_no_difference() -> None:
    assert fields_of(RECORD, {"root_sha256": UNKNOWN}, {"root_sha256": "ab"}) == {}
    assert fields_of(RECORD, {"root_sha256": UNKNOWN}, {}) == {"root_sha256": (None, UNKNOWN)}


def test_what_was_said_at_a_cas_birth_is_no_edit() -> None:
    key = ("issuer", "vaultpki/prod/etcd")
    wanted = {"common_name": "prod etcd CA", "key": "ec-p256", "ttl": 5, "issuer_name": "etcd-1"}
    assert fields_of(key, wanted, {"issuer_name": "etcd-1"}) == {}
    assert fields_of(key, wanted, {"issuer_name": "x"}) == {"issuer_name": ("x", "etcd-1")}


def test_only_what_an_apply_made_is_deleted() -> None:
    foreign = ("role", "vaultpki/prod/etcd/theirs")
    made = plan({}, Observed({ROLE: {"ttl": 1}, foreign: {"ttl": 1}}, frozenset({ROLE, POLICY})))
    assert made.changes == (Change("delete", *ROLE, {"ttl": (1, None)}),)
    assert made.unmanaged == (foreign,)


@pytest.mark.parametrize(
    ("found", "same"),
    [
        *((text, True) for text in ("72h", "72h0m0s", "259200s", "259200", "3d", "71h60m", "1d48h")),
        *((text, False) for text in ("70h", "72m", "72", "", "72h ", "-72h", "h", "forever", None)),
    ],
)
def test_a_duration_is_the_same_in_any_words(found: str | None, same: bool) -> None:
    crl: Key = ("config", "vaultpki/prod/etcd/config/crl")
    made = plan({crl: {"expiry": "72h"}}, Observed({crl: {"expiry": found}}))
    assert made.changes == (() if same else (Change("update", *crl, {"expiry": (found, "72h")}),))


def test_the_order_of_making(cluster: Cluster) -> None:
    made = [(change.kind, change.name) for change in plan(desired(cluster, ServerFacts()), Observed()).changes]
    place = {key: index for index, key in enumerate(made)}
    mount = cluster.mount
    assert place["mount", mount(ROOT)] == 0
    for ca in ISSUING_CAS:
        # A leaf's URLs are written into it, so they come before whatever is signed; the root before what it signs.
        assert place["mount", mount(ca)] < place["config", f"{mount(ca)}/config/urls"] < place["issuer", mount(ca)]
        assert place["issuer", mount(ROOT)] < place["config", f"{mount(ROOT)}/config/urls"] < place["issuer", mount(ca)]
        assert place["issuer", mount(ca)] < min(place[key] for key in made if key[0] in ("role", "policy"))
    # An AppRole is known as ours by its record, and nobody logs in before the policy is there.
    assert place["config", f"{mount('config')}/nodes/cp-1"] < place["approle", "vaultpki/prod/listed/cp-1"]
    assert place[POLICY] < place["approle", "vaultpki/prod/listed/cp-1"]


def test_the_order_of_removing() -> None:
    keys: list[Key] = [RECORD, POLICY, ("approle", "vaultpki/prod/listed/cp-1"), ROLE]
    made = plan({("policy", "vaultpki/prod/operator"): {}}, Observed({key: {"a": 1} for key in keys}, frozenset(keys)))
    assert {change.key for change in made.changes[:2]} == {("approle", "vaultpki/prod/listed/cp-1"), ROLE}
    assert {change.key for change in made.changes[2:]} == {RECORD, POLICY}


def test_a_node_or_pool_named_like_an_engines_configuration_is_a_record() -> None:
    for name in ("urls", "crl", "auto-tidy", "acme", "config"):
        for folder in ("nodes", "pools"):
            assert stage(Change("create", "config", f"vaultpki/prod/config/{folder}/{name}", {})) == "rules"
    assert stage(Change("update", "config", "vaultpki/prod/etcd/config/crl", {})) == "engines"


def test_every_change_has_a_stage(cluster: Cluster) -> None:
    for change in plan(desired(cluster, ServerFacts()), Observed()).changes:
        assert stage(change) in STAGES


def test_the_form_for_programs() -> None:
    end = datetime(2031, 11, 25, tzinfo=UTC)
    dangers = (Danger("issuer vaultpki/prod/etcd/issuer/x", "foreign"),)
    made = replace(
        plan({ROLE: {"ttl": 2}}, Observed({ROLE: {"ttl": 1}, POLICY: {}}, dangers=dangers)),
        impact=(Impact("reissues", "cp-1 issues etcd-peer anew", node="cp-1", certificate="etcd-peer"),),
        rotations=(Rotation("etcd", {"key": ("ec-p256", "rsa-2048")}, end, ("etcd-peer",)),),
        expires=(CaExpiry("etcd", end, Level.NOTICE, "etcd CA: it expires"),),
    )
    assert to_json(made, reads=3, writes=4) == {
        "changes": [
            {
                "action": "update",
                "kind": "role",
                "name": "vaultpki/prod/etcd/etcd-peer",
                "fields": {"ttl": {"from": 1, "to": 2}},
            }
        ],
        "impact": [
            {
                "node": "cp-1",
                "pool": None,
                "nodes": 1,
                "certificate": "etcd-peer",
                "effect": "reissues",
                "detail": "cp-1 issues etcd-peer anew",
            }
        ],
        "rotation_needed": [
            {
                "ca": "etcd",
                "fields": {"key": {"from": "ec-p256", "to": "rsa-2048"}},
                "not_after": "2031-11-25T00:00:00Z",
                "refused": ["etcd-peer"],
            }
        ],
        "expires": [
            {"ca": "etcd", "not_after": "2031-11-25T00:00:00Z", "level": "notice", "message": "etcd CA: it expires"}
        ],
        "unmanaged": ["policy vaultpki/prod/node/cp-1"],
        "dangers": [{"name": "issuer vaultpki/prod/etcd/issuer/x", "reason": "foreign"}],
        "requests": {"reads": 3, "writes": 4},
    }
