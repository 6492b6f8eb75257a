"""The plan that a person approves: by node and certificate, each change once, and at most a hundred columns wide."""

from __future__ import annotations

import copy
from dataclasses import replace
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest

from helpers.example_cluster import WITH_POOL, load
from vaultpki.model import Cluster
from vaultpki.provision.desired import desired
from vaultpki.provision.impact import impact_of
from vaultpki.provision.plan import Change, Impact, Live, Observed, Plan, plan
from vaultpki.records.server_facts import Fields, Key, ServerFacts
from vaultpki.show.line import WIDTH
from vaultpki.show.plan import change_lines, lines

KNOWN = ServerFacts(
    addresses=("https://vault.example.com:8200",), root_sha256="ab", role_ids={"cp-1": "r1", "cp-2": "r2"}
)


Objects = dict[Key, Fields]


def objects(cluster: Cluster) -> Objects:
    """A server that is as a cluster wants it."""
    return copy.deepcopy(desired(cluster, KNOWN))


def planned(wanted: Cluster, found: Objects) -> Plan:
    return plan(desired(wanted, KNOWN), Observed(found, frozenset(found)))


def told(cluster: Cluster, made: Plan, *, verbose: bool = False) -> list[str]:
    shown = [line.text for line in lines(cluster, made, verbose=verbose)]
    assert all(text.isprintable() for text in shown)
    assert verbose or max(map(len, shown)) <= WIDTH
    return shown


def text(shown: list[str]) -> str:
    """What is shown with its lines joined again, as a person reads it."""
    return " ".join(line.strip() for line in shown)


def replaced(*pairs: tuple[str, str]) -> str:
    text = WITH_POOL
    for old, new in pairs:
        assert old in text
        text = text.replace(old, new)
    return text


KEYS = "service_account_keys: true\n"
OWN = "{audit: {kind: client, common_name: audit, ca: kubernetes, roles: [control-plane]}}"
HEAD = replaced(("{names:", "{endpoint: https://api.example.com:6443, names:"))
# What cluster.yaml said and says, and the first lines of the plan, or all of them.
CHANGES: dict[str, tuple[str, str, list[str]]] = {
    "one address is one entry for all certificates of a node": (
        WITH_POOL,
        replaced(("10.0.0.11", "10.0.0.12")),
        [
            "~ cp-1: kube-apiserver, etcd-server, etcd-peer: addresses + 10.0.0.12 - 10.0.0.11",
            "~ cluster prod: endpoint https://10.0.0.11:6443 -> https://10.0.0.12:6443",
            "Plan: 0 to create, 3 to update, 0 to delete.",
        ],
    ),
    "the same change on many nodes is one entry": (
        WITH_POOL,
        replaced(("[api.example.com]", "[api.example.com, k8s.example.com]")),
        ["~ cp-1, cp-2: kube-apiserver: names + k8s.example.com", "Plan: 0 to create, 5 to update, 0 to delete."],
    ),
    "durations are as people write them, and a role follows its certificate": (
        WITH_POOL,
        WITH_POOL + "certificates: {etcd-peer: {ttl: 7d, key: rsa-2048}, admin: {ttl: 12h}}\n",
        [
            "~ cp-1, cp-2: etcd-peer: ttl 30d -> 7d; key ec-p256 -> rsa-2048",
            "~ certificate admin: ttl 30d -> 12h",
            "Plan: 0 to create, 4 to update, 0 to delete.",
        ],
    ),
    "an operator's key is told as cluster.yaml writes it": (
        WITH_POOL,
        WITH_POOL + "certificates: {admin: {key: rsa-2048}}\n",
        ["~ certificate admin: key ec-p256 -> rsa-2048"],
    ),
    "a pool's names change in one entry beside the enroller's rights": (
        WITH_POOL,
        replaced(("w-*", "v-*")),
        [
            # An enroller may see the locks of a pool's nodes, and end them.
            "~ policy vaultpki/prod/enroller:",
            "    + vaultpki/prod/config/data/locked/v-* (read)",
            "    + vaultpki/prod/config/metadata/locked/v-* (delete)",
            "    - vaultpki/prod/config/data/locked/w-* (read)",
            "    - vaultpki/prod/config/metadata/locked/w-* (delete)",
            "~ pool autoscaled: node_names w-* -> v-*",
            "Plan: 0 to create, 3 to update, 0 to delete.",
        ],
    ),
    "nodes that lose the same roles are one entry": (
        HEAD,
        HEAD.replace("control-plane, etcd", "control-plane"),
        [
            "- cp-1, cp-2: etcd-server, etcd-peer, etcd-healthcheck-client",
            "~ 2 nodes cp-1, cp-2: roles - etcd",
            "Plan: 0 to create, 4 to update, 0 to delete.",
        ],
    ),
    "a certificate of a user's own that goes is told by its name": (
        WITH_POOL + f"certificates: {OWN}\n",
        WITH_POOL,
        ["- cp-1, cp-2: audit", "- certificate audit", "Plan: 0 to create, 4 to update, 1 to delete."],
    ),
    "service-account keys that come are told with their CA": (
        WITH_POOL,
        WITH_POOL + KEYS,
        [
            '+ CA service-account: "prod service-account CA", life 5y, key ec-p256, signed by the root',
            "+ certificate service-account: signing, ttl 30d, key ec-p256, CA service-account; CN sa:NODE:1",
            "~ policy vaultpki/prod/node/NODE (cp-1, cp-2): + vaultpki/prod/service-account/sign/service-account",
            "    (update, with limits)",
            "~ 2 nodes cp-1, cp-2: service_account.ttl nothing -> 30d; service_account.key nothing -> ec-p256",
            "Plan: 7 to create, 4 to update, 0 to delete.",
        ],
    ),
    "service-account keys that go take their CA along": (
        WITH_POOL + KEYS,
        WITH_POOL,
        [
            "~ policy vaultpki/prod/node/NODE (cp-1, cp-2): - vaultpki/prod/service-account/sign/service-account",
            "    (update, with limits)",
            "~ 2 nodes cp-1, cp-2: service_account.ttl 30d -> nothing; service_account.key ec-p256 -> nothing",
            "- CA service-account: its key, its mount and what is on it",
            "Plan: 0 to create, 4 to update, 7 to delete.",
        ],
    ),
    "a certificate that a node gets is told with its names": (
        WITH_POOL,
        replaced(("[worker], addresses: [10", "[worker, etcd], addresses: [10")),
        [
            "+ worker-1: etcd-server, etcd-peer:",
            "    ttl 30d",
            "    names the node's name, localhost",
            "    addresses the node's addresses, 127.0.0.1, ::1",
            "+ worker-1: etcd-healthcheck-client: ttl 30d",
        ],
    ),
}


@pytest.mark.parametrize("case", CHANGES)
def test_a_change_of_cluster_yaml(case: str, tmp_path: Path) -> None:
    before, after, expected = CHANGES[case]
    found = objects(load(tmp_path, before))
    cluster = load(tmp_path, after)
    shown = told(cluster, planned(cluster, found))
    whole = expected[-1].startswith("Plan: ")
    assert shown[: len(expected)] == expected and (len(shown) == len(expected) or not whole)


def by_hand(found: Objects, key: Key, **fields: Any) -> None:
    found[key] = {**found[key], **fields}


def test_what_was_changed_by_hand_is_not_hidden_behind_a_cause(tmp_path: Path) -> None:
    cluster = load(tmp_path, WITH_POOL)
    found = objects(cluster)
    sign = "vaultpki/prod/etcd/sign/etcd-peer"
    rule = copy.deepcopy(found["policy", "vaultpki/prod/node/cp-1"][sign])
    rule["allowed_parameters"]["ip_sans"] = ["10.0.0.11,127.0.0.1,::1,192.0.2.66"]
    by_hand(found, ("policy", "vaultpki/prod/node/cp-1"), **{sign: rule, "sys/*": {"capabilities": ["sudo"]}})
    by_hand(found, ("role", "vaultpki/prod/etcd/etcd-peer"), max_ttl=999 * 86400, allowed_domains=["evil", "localhost"])
    after = load(tmp_path, WITH_POOL.replace("10.0.0.11", "10.0.0.12") + "certificates: {etcd-peer: {ttl: 7d}}\n")
    shown = text(told(after, planned(after, found)))
    assert "~ cp-1: etcd-peer: addresses + 10.0.0.12 - 10.0.0.11; ttl 30d -> 7d" in shown
    assert "ip_sans + 10.0.0.12 - 10.0.0.11, 192.0.2.66" in shown and "- sys/* (sudo)" in shown
    assert "~ certificate etcd-peer: " in shown and "- evil" in shown and "max_ttl 2y269d -> 7d" in shown
    assert "etcd-server: addresses" in shown and "sign/etcd-server" not in shown


def test_a_record_changed_by_hand_is_shown_whole(tmp_path: Path) -> None:
    cluster = load(tmp_path, WITH_POOL)
    found = objects(cluster)
    record = found["config", "vaultpki/prod/config/nodes/cp-1"]
    by_hand(
        found, ("config", "vaultpki/prod/config/nodes/cp-1"), certificates=[*record["certificates"], 7], role_id="x"
    )
    shown = text(told(cluster, planned(cluster, found)))
    assert "~ node cp-1: role_id x -> r1; certificates - 7" in shown


def test_a_new_cluster_is_told_by_its_cas_certificates_and_nodes(tmp_path: Path) -> None:
    cluster = load(tmp_path, WITH_POOL + "certificates: {kube-apiserver: {ttl: 7d, key: rsa-3072}}\n")
    made = plan(desired(cluster, KNOWN), Observed())
    shown = told(cluster, made)
    assert shown[:3] == [
        "+ cluster prod below vaultpki/prod: 6 mounts, 2 auth mounts, 21 settings, 4 policies",
        '+ CA root: "prod root CA", life 10y, key ec-p256',
        '+ CA kubernetes: "prod kubernetes CA", life 5y, key ec-p256, signed by the root',
    ]
    at = shown.index("+ certificate kube-apiserver:")
    assert text(shown[at : shown.index("+ certificate etcd-server:")]) == (
        "+ certificate kube-apiserver: server, ttl 7d, key rsa-3072, CA kubernetes CN kube-apiserver names kubernetes, "
        "kubernetes.default, kubernetes.default.svc, kubernetes.default.svc.cluster.local, the node's name, "
        "api.example.com addresses 10.96.0.1, 127.0.0.1, the node's addresses"
    )
    assert "    CN system:node:NODE, O system:nodes" in shown
    assert "+ node worker-1: worker, addresses 10.0.0.21; 3 certificates: kube-proxy, kubelet-client, kubelet" in shown
    assert "+ pool autoscaled: worker, names w-*; 3 certificates: kube-proxy, kubelet-client, kubelet" in shown
    # Each object is told within one of these, and none of them twice.
    assert sum(line.startswith("+ ") for line in shown) == 1 + 5 + 14 + 3 + 1
    assert shown[-1] == f"Plan: {len(made.changes)} to create, 0 to update, 0 to delete."


def test_a_part_that_is_missing_is_told_by_itself(tmp_path: Path) -> None:
    cluster = load(tmp_path, WITH_POOL)
    found = objects(cluster)
    for key in (
        ("policy", "vaultpki/prod/node/cp-1"),
        ("mount", "vaultpki/prod/etcd"),
        ("approle", "vaultpki/prod/listed/cp-2"),
    ):
        del found[key]
    shown = told(cluster, planned(cluster, found))
    assert shown == [
        "+ mount vaultpki/prod/etcd: type pki, max_ttl 5y",
        "+ policy vaultpki/prod/node/cp-1",
        "+ approle vaultpki/prod/listed/cp-2: token_policies vaultpki/prod/node/cp-2, secret_id_ttl 60d",
        "Plan: 3 to create, 0 to update, 0 to delete.",
    ]


def test_a_node_and_a_pool_that_come_and_go(tmp_path: Path) -> None:
    less = load(tmp_path, WITH_POOL.partition("- {name: worker-1")[0])
    few = objects(less)
    whole = load(tmp_path, WITH_POOL)
    many = objects(whole)
    shown = told(whole, planned(whole, few))
    assert "+ node worker-1: worker, addresses 10.0.0.21; 3 certificates: kube-proxy, kubelet-client, kubelet" in shown
    assert "+ pool autoscaled: worker, names w-*; 3 certificates: kube-proxy, kubelet-client, kubelet" in shown
    shown = told(less, planned(less, many))
    assert "- node worker-1 (worker): its record, policy, AppRole" in shown
    assert "- pool autoscaled (worker): its record, policy, role" in shown


def test_nodes_removed_together_are_one_entry_for_the_same_roles(tmp_path: Path) -> None:
    more = "".join(
        f"- {{name: s-{number}, roles: [worker], addresses: [10.0.1.{number}]}}\n" for number in range(1, 13)
    )
    after = load(tmp_path, WITH_POOL)
    before = objects(load(tmp_path, WITH_POOL.replace("pools:", f"{more}pools:")))
    names = ", ".join(f"s-{number}" for number in range(1, 11))
    assert text(told(after, planned(after, before))) == (
        f"- 12 nodes {names} and 2 more (worker): of each its record, policy, AppRole "
        "Plan: 0 to create, 0 to update, 36 to delete."
    )


def test_templates_say_which_file_is_rendered_to_what_and_where(tmp_path: Path) -> None:
    (tmp_path / "audit.tmpl").write_text("a\nb\n")
    none = load(tmp_path, WITH_POOL)
    one = load(
        tmp_path, WITH_POOL + "templates: {audit: {file: a.yaml, template: audit.tmpl, roles: [control-plane]}}\n"
    )
    about = "a.yaml on nodes with the role control-plane"
    for found in ({}, objects(none)):
        shown = text(told(one, plan(desired(one, KNOWN), Observed(found, frozenset(found)))))
        assert f"+ template audit: audit.tmpl is rendered to {about} (2 lines)" in shown
    assert told(none, planned(none, objects(one)))[0] == f"- template audit: {about} is removed"
    (tmp_path / "audit.tmpl").write_text("a\nc\n" + "d\n" * 20)
    two = load(tmp_path, WITH_POOL + "templates: {audit: {file: b.yaml, template: audit.tmpl, roles: [worker]}}\n")
    assert told(two, planned(two, objects(one)))[:-1] == [
        "~ template audit:",
        "    b.yaml on nodes with the role worker",
        "    file a.yaml -> b.yaml",
        "    roles + worker - control-plane",
        "    - b",
        "    + c",
        *["    + d"] * 8,
        "    and 12 lines more (--verbose shows all)",
    ]
    # Of YAML a line may begin as the headers of `diff` do.
    (tmp_path / "audit.tmpl").write_text("a\n--- old\n")
    found = objects(load(tmp_path, spec := (tmp_path / "cluster.yaml").read_text()))
    (tmp_path / "audit.tmpl").write_text("a\n+++ new\n---\n")
    after = load(tmp_path, spec)
    assert "- --- old; + +++ new; + ---" in text(told(after, planned(after, found)))
    assert "- --- old + +++ new + ---" in text(told(after, planned(after, found), verbose=True))
    # Others may have written anything there.
    found = objects(one)
    by_hand(found, ("config", "vaultpki/prod/config/cluster"), templates={"audit": EVIL, EVIL: {EVIL: EVIL}})
    assert "templates.audit" in text(told(one, planned(one, found)))


def test_an_unchanged_certificate_with_another_order_of_its_keys_is_not_shown(tmp_path: Path) -> None:
    cluster = load(tmp_path, WITH_POOL)
    found = objects(cluster)
    key = ("config", "vaultpki/prod/config/nodes/cp-1")
    entries = [dict(sorted(entry.items())) for entry in found[key]["certificates"]]
    by_hand(found, key, certificates=[*entries, 7])
    assert told(cluster, planned(cluster, found))[0] == "~ node cp-1: certificates - 7"


def test_what_differs_only_by_a_ca_is_one_entry(tmp_path: Path) -> None:
    cluster = load(tmp_path, WITH_POOL)
    found = objects(cluster)
    for ca in ("kubernetes", "kubelet", "etcd"):
        key = ("config", f"vaultpki/prod/{ca}/config/urls")
        by_hand(found, key, ocsp_servers=[f"https://old/v1/vaultpki/prod/{ca}/ocsp"])
    assert told(cluster, planned(cluster, found))[:-1] == [
        "~ config vaultpki/prod/CA/config/urls (kubernetes, kubelet, etcd): ocsp_servers +",
        "    https://vault.example.com:8200/v1/vaultpki/prod/CA/ocsp - https://old/v1/vaultpki/prod/CA/ocsp",
    ]


def test_identities_that_end_are_counted_and_the_first_ten_named(tmp_path: Path) -> None:
    cluster = load(tmp_path, WITH_POOL)
    found = objects(cluster)
    for number in range(10, 23):
        found["approle", f"vaultpki/prod/pooled/s-{number}"] = {}
    found["approle", "vaultpki/prod/pooled/w-1"] = {"token_policies": ["vaultpki/prod/pool/gone"]}
    found["config", "vaultpki/prod/config/leaving/s-1"] = {}
    shown = text(told(cluster, planned(cluster, found)))
    names = ", ".join(f"s-{number}" for number in range(10, 20))
    assert f"- 13 identities of pooled nodes: {names} and 3 more (no pool has the name)" in shown
    assert "- 1 identity of pooled nodes: w-1 (no such pool has its policy vaultpki/prod/pool/gone)" in shown
    assert "- 1 identity of pooled nodes: s-1 (locked, or a run that was interrupted has not ended all)" in shown
    assert shown.endswith("Plan: 0 to create, 0 to update, 15 to delete.")


def test_verbose_shows_every_object_and_field_uncut(tmp_path: Path) -> None:
    before = objects(load(tmp_path, WITH_POOL))
    after = load(tmp_path, WITH_POOL.replace("10.0.0.11", "10.0.0.12"))
    made = planned(after, before)
    shown = told(after, made, verbose=True)
    record, items = "vaultpki/prod/config", "+ 10.0.0.12 - 10.0.0.11"
    assert shown == [
        "~ policy vaultpki/prod/node/cp-1",
        f"    vaultpki/prod/etcd/sign/etcd-peer.allowed_parameters.ip_sans {items}",
        f"    vaultpki/prod/etcd/sign/etcd-server.allowed_parameters.ip_sans {items}",
        f"    vaultpki/prod/kubernetes/sign/kube-apiserver.allowed_parameters.ip_sans {items}",
        f"~ config {record}/cluster",
        "    endpoint https://10.0.0.11:6443 -> https://10.0.0.12:6443",
        f"~ config {record}/nodes/cp-1",
        *(f"    certificates.{name}.addresses {items}" for name in ("etcd-peer", "etcd-server", "kube-apiserver")),
        "Plan: 0 to create, 3 to update, 0 to delete.",
    ]
    made = plan(desired(after, KNOWN), Observed())
    created = told(after, made, verbose=True)
    for change in made.changes:
        place = created.index(f"+ {change.kind} {change.name}")
        for field in change.fields:
            assert any(line.startswith(f"    {field}") for line in created[place + 1 :])
    assert "    organization system:nodes" in created and "    certificates.kubelet.ttl 30d" in created


def test_verbose_is_a_diff_by_paths_whatever_order_a_server_gives_keys_in(tmp_path: Path) -> None:
    (tmp_path / "audit.tmpl").write_text("a\nb\n")
    spec = WITH_POOL + "templates: {audit: {file: a.yaml, template: audit.tmpl, roles: [worker]}}\n"
    found = objects(load(tmp_path, spec))
    record = found["config", "vaultpki/prod/config/nodes/cp-1"]
    entries = [dict(sorted(entry.items(), reverse=True)) for entry in reversed(record["certificates"])]
    by_hand(found, ("config", "vaultpki/prod/config/nodes/cp-1"), certificates=entries)
    by_hand(found, ("policy", "vaultpki/prod/node/cp-2"), **{"sys/*": {"capabilities": ["sudo", "read"]}})
    del found["policy", "vaultpki/prod/node/cp-2"]["vaultpki/prod/config/data/changes"]
    pem = f"-----BEGIN CERTIFICATE-----\n{'A' * 64}\n-----END CERTIFICATE-----\n"
    by_hand(found, ("config", "vaultpki/prod/config/cluster"), vault={"addresses": [], "ca_pem": pem})
    (tmp_path / "audit.tmpl").write_text("a\nc\n" + "d\n" * 20)
    after = load(tmp_path, spec + "certificates: {etcd-peer: {ttl: 7d}}\n")
    shown = told(after, planned(after, found), verbose=True)
    of_cluster, of_node, of_policy = (
        shown.index(f"~ {name}")
        for name in (
            "config vaultpki/prod/config/cluster",
            "config vaultpki/prod/config/nodes/cp-1",
            "policy vaultpki/prod/node/cp-2",
        )
    )
    assert shown[of_cluster + 1 : of_cluster + 4] == ["    templates.audit.text", "      - b", "      + c"]
    assert shown[of_cluster + 4 : of_cluster + 24] == ["      + d"] * 20
    assert shown[of_cluster + 24 : of_cluster + 26] == [
        "    vault.addresses + https://vault.example.com:8200",
        f"    vault.ca_pem (text with SHA-256 {sha256(pem.encode()).hexdigest()}) -> nothing",
    ]
    # The entries of the record stand in another order, and have their keys in another one.
    assert shown[of_node + 1] == "    certificates.etcd-peer.ttl 30d -> 7d" and shown[of_node + 2].startswith("~ ")
    assert shown[of_policy + 1 : of_policy + 3] == [
        "    - sys/*.capabilities sudo, read",
        "    + vaultpki/prod/config/data/changes.capabilities read",
    ]


EVIL = "\x1b[2J\x1b]0;owned\x07\nPlan: 0 to create, 0 to update, 0 to delete.\r\u202e\x9b1m\u2028"


@pytest.mark.parametrize("verbose", [False, True])
def test_nothing_of_a_servers_names_and_values_steers_a_terminal(tmp_path: Path, verbose: bool) -> None:
    """Each of them holds escapes, a line of ours, a bidi control and C1: told() fails where one gets through."""
    cluster = load(tmp_path, WITH_POOL)
    found = objects(cluster)
    node = found["config", "vaultpki/prod/config/nodes/cp-1"]
    first = {**node["certificates"][0], "dns": [EVIL], "common_name": EVIL, EVIL: EVIL}
    by_hand(
        found,
        ("config", "vaultpki/prod/config/nodes/cp-1"),
        **{EVIL: EVIL, "certificates": [first, {**first, "name": EVIL}], "node": EVIL},
    )
    by_hand(found, ("policy", "vaultpki/prod/node/cp-2"), **{EVIL: {"capabilities": [EVIL]}, f"{EVIL}2": EVIL})
    by_hand(found, ("role", "vaultpki/prod/etcd/etcd-peer"), allowed_domains=[EVIL], ttl=EVIL)
    by_hand(found, ("config", "vaultpki/prod/config/pools/autoscaled"), node_names=EVIL, certificates=EVIL)
    by_hand(found, ("config", "vaultpki/prod/config/cluster"), endpoint=EVIL, vault={EVIL: EVIL})
    for key in (
        ("approle", f"vaultpki/prod/pooled/{EVIL}"),
        ("config", f"vaultpki/prod/config/leaving/{EVIL}"),
        ("config", f"vaultpki/prod/config/nodes/{EVIL}"),
        ("role", f"vaultpki/prod/etcd/{EVIL}"),
        ("policy", f"vaultpki/prod/node/{EVIL}"),
    ):
        found[key] = {"token_policies": [EVIL], "certificates": [{"name": EVIL, "ttl": EVIL}]}
    made = planned(cluster, found)
    live = Live(frozenset({"cp-1", EVIL}), (f"w-{EVIL}",))
    whole = Plan(made.changes, (("issuer", EVIL),), impact=impact_of(cluster, made.changes, live))
    shown = told(cluster, whole, verbose=verbose)
    # A line that it brings stands within another one.
    assert [line for line in shown if line.startswith("Plan: ")] == [shown[-1]]
    for change in made.changes:
        assert all(line.text.isprintable() for line in change_lines(change))


def test_notes_come_before_the_last_line(tmp_path: Path) -> None:
    cluster = load(tmp_path, WITH_POOL)
    made = Plan((), (("role", "theirs"),), impact=(Impact("loses-access", "x " * 80, node="n"),))
    shown = told(cluster, made)
    assert shown[0] == "? role theirs  (not made by vaultpki; left alone)"
    assert shown[1] == "Impact:" and shown[2].startswith("  x x") and shown[3].startswith("      x")
    assert shown[-1] == "Nothing to change."


def test_apply_tells_a_change_in_its_own_lines() -> None:
    one = Change("update", "role", "vaultpki/prod/etcd/etcd-peer", {"ttl": (60, 120), "max_ttl": (60, 120)})
    assert [line.text for line in change_lines(one)] == ["~ role vaultpki/prod/etcd/etcd-peer: ttl 1m -> 2m"]
    made = Change("create", "mount", "vaultpki/prod/etcd", {"type": (None, "pki")})
    assert [line.text for line in change_lines(made)] == ["+ mount vaultpki/prod/etcd"]


def test_what_a_person_could_misunderstand_is_said(tmp_path: Path) -> None:
    before = objects(load(tmp_path, WITH_POOL))
    addresses = WITH_POOL + 'vault: {addresses: ["https://vault-2.example.com:8200"]}\n'
    after = load(tmp_path, addresses)
    addressed = replace(KNOWN, addresses=("https://vault-2.example.com:8200",))
    shown = text(told(after, plan(desired(after, addressed), Observed(before, frozenset(before)))))
    assert "vault.addresses + https://vault-2.example.com:8200 - https://vault.example.com:8200" in shown
    assert "only for new join files; joined nodes keep their addresses Plan: " in shown
