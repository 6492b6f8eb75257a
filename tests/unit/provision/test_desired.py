"""What should be in Vault follows from table and spec alone, and none of it is wider than its row."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from helpers.example_cluster import load
from vaultpki.certificates import ISSUING_CAS, ROOT, laid_out, rows
from vaultpki.model import Cluster
from vaultpki.places import Layout
from vaultpki.provision.desired import desired
from vaultpki.records.server_facts import UNKNOWN, Fields, Key, ServerFacts

DAY = 86400
SPEC = """\
cluster: prod
api_server: {names: [api.example.com], addresses: [10.0.0.10]}
nodes:
- {name: cp-1, roles: [control-plane, etcd], addresses: [10.0.0.11]}
- {name: worker-1, roles: [worker], addresses: [10.0.0.21, "fd00::21"]}
pools:
- {name: autoscaled, roles: [worker], node_names: "w-*"}
- {name: spot, roles: [worker], node_names: "s-*"}
"""
KNOWN = ServerFacts(
    addresses=("https://a.example.com:8200", "https://b.example.com:8200"),
    accessors={"listed": "auth_l", "pooled": "auth_p"},
    root_sha256="ab" * 32,
    role_ids={"cp-1": "id-cp-1", "worker-1": "id-worker-1"},
)
P = "vaultpki/prod"


@pytest.fixture
def cluster(tmp_path: Path) -> Cluster:
    return load(tmp_path, SPEC)


@pytest.fixture
def wanted(cluster: Cluster) -> dict[Key, Fields]:
    return desired(cluster, KNOWN)


def of_kind(wanted: dict[Key, Fields], kind: str) -> dict[str, Fields]:
    return {name: fields for (each, name), fields in wanted.items() if each == kind}


def test_the_mounts(wanted: dict[Key, Fields]) -> None:
    assert of_kind(wanted, "mount") == {
        f"{P}/root": {"type": "pki", "default_ttl": 1825 * DAY, "max_ttl": 3650 * DAY},
        **{f"{P}/{ca}": {"type": "pki", "default_ttl": 30 * DAY, "max_ttl": 1825 * DAY} for ca in ISSUING_CAS},
        f"{P}/config": {
            "type": "kv",
            "version": "2",
            "cas_required": False,
            "delete_version_after": "0s",
            "max_versions": 0,
        },
    }
    # A secret id lives no longer than its mount lets it.
    auth = {
        "type": "approle",
        "token_type": "default-service",
        "default_ttl": 7200,
        "max_ttl": 60 * DAY,
        "lockout": False,
    }
    assert of_kind(wanted, "auth") == {f"{P}/listed": auth, f"{P}/pooled": auth}


def test_each_row_has_one_role_on_its_cas_mount_and_the_root_none(wanted: dict[Key, Fields]) -> None:
    expected = {f"{P}/{row.ca}/{row.name}" for row in laid_out(Layout.DOCUMENT)}
    # Pools carry no addresses, so what is addressed needs a role without.
    expected |= {f"{P}/kubelet/kubelet-autoscaled", f"{P}/kubelet/kubelet-spot"}
    assert of_kind(wanted, "role").keys() == expected
    assert not [name for name in of_kind(wanted, "role") if name.startswith(f"{P}/{ROOT}/")]


def test_no_role_is_wider_than_its_row(cluster: Cluster, wanted: dict[Key, Fields]) -> None:
    by_name = {f"{P}/{row.ca}/{row.name}": row for row in rows(cluster)}
    for name, role in of_kind(wanted, "role").items():
        row = by_name[name.removesuffix("-autoscaled").removesuffix("-spot")]
        assert (role["client_flag"], role["server_flag"]) == (row.usage.client, row.usage.server)
        assert role["organization"] == list(row.organization)
        assert role["ttl"] == role["max_ttl"] == (8 * 3600 if row.name == "super-admin" else 30 * DAY)
        assert role["allow_ip_sans"] is (row.addressed and name in by_name)
        assert role["allow_any_name"] is role["allow_glob_domains"] is role["allow_wildcard_certificates"] is False
        assert role["allow_subdomains"] is role["allow_localhost"] is False
        assert role["use_csr_common_name"] is role["use_csr_sans"] is role["generate_lease"] is False
        assert role["cn_validations"] == ["hostname"] and role["key_usage"] == ["DigitalSignature"]
        assert role["not_after"] == "" and role["not_before_duration"] == 300
        assert not [domain for domain in role["allowed_domains"] if "*" in domain or not domain]


def test_a_nodes_own_name_comes_by_template_from_its_login(wanted: dict[Key, Fields]) -> None:
    listed, pooled = (f"{{{{identity.entity.aliases.{a}.metadata.role_name}}}}" for a in ("auth_l", "auth_p"))
    roles = of_kind(wanted, "role")
    shared = roles[f"{P}/kubernetes/kubelet-client"]
    assert shared["allowed_domains"] == [f"system:node:{listed}", f"system:node:{pooled}"]
    assert shared["allowed_domains_template"] is True
    assert roles[f"{P}/kubelet/kubelet"]["allowed_domains"] == [f"system:node:{listed}", listed]
    assert roles[f"{P}/kubelet/kubelet-spot"]["allowed_domains"] == [f"system:node:{pooled}", pooled]
    assert roles[f"{P}/etcd/etcd-peer"]["allowed_domains"] == [listed, "localhost"]
    literal = roles[f"{P}/kubernetes/kube-scheduler"]
    assert (literal["allowed_domains"], literal["allowed_domains_template"]) == (["system:kube-scheduler"], False)
    # A person holds these, so no node's name is in them.
    assert roles[f"{P}/kubernetes/admin"]["allowed_domains"] == ["kubernetes-admin"]


def test_rsa_leaves_may_encipher_keys(tmp_path: Path) -> None:
    cluster = load(tmp_path, SPEC + "certificates: {kubelet: {key: rsa-3072}, kube-proxy: {key: ed25519}}\n")
    roles = of_kind(desired(cluster, KNOWN), "role")
    kubelet, proxy = roles[f"{P}/kubelet/kubelet"], roles[f"{P}/kubernetes/kube-proxy"]
    assert (kubelet["key_type"], kubelet["key_bits"]) == ("rsa", 3072)
    assert kubelet["key_usage"] == ["DigitalSignature", "KeyEncipherment"]
    assert (proxy["key_type"], proxy["key_bits"], proxy["key_usage"]) == ("ed25519", 0, ["DigitalSignature"])


def test_a_listed_nodes_policy_spells_out_every_name_and_address(wanted: dict[Key, Fields]) -> None:
    rules = of_kind(wanted, "policy")[f"{P}/node/worker-1"]
    signing = {path: rule for path, rule in rules.items() if "/sign/" in path}
    assert signing.keys() == {
        f"{P}/kubernetes/sign/kube-proxy",
        f"{P}/kubernetes/sign/kubelet-client",
        f"{P}/kubelet/sign/kubelet",
    }
    assert signing[f"{P}/kubelet/sign/kubelet"] == {
        "capabilities": ["update"],
        "allowed_parameters": {
            "csr": [],
            "format": ["pem"],
            "exclude_cn_from_sans": ["true"],
            "common_name": ["system:node:worker-1"],
            "alt_names": ["worker-1"],
            "ip_sans": ["10.0.0.21,fd00::21"],
        },
        "denied_parameters": {"exclude_cn_from_sans": [""]},
        "required_parameters": ["exclude_cn_from_sans"],
    }


ROTATIONS = f"{P}/config/data/rotation/+"


def test_no_nodes_policy_reaches_another_node_or_more_than_its_tables_rows(wanted: dict[Key, Fields]) -> None:
    for name, rules in of_kind(wanted, "policy").items():
        if name.startswith((f"{P}/node/", f"{P}/pool/")):
            other = "cp-1" if name.endswith("worker-1") else "worker-1"
            assert other not in json.dumps(rules)
            # The rotation records are the same for every node.
            assert rules[ROTATIONS] == {"capabilities": ["read"]}
            assert not [
                path
                for path in rules.keys() - {ROTATIONS}
                if "*" in path or "+" in path or not path.removeprefix("auth/").startswith(P)
            ]
            for path, rule in rules.items():
                assert {"sudo", "delete", "list", "patch"}.isdisjoint(rule["capabilities"]), path
                if "/sign/" in path:
                    assert "ttl" not in rule["allowed_parameters"] and "not_after" not in rule["allowed_parameters"]
                    assert "*" not in rule["allowed_parameters"]
    assert "admin" not in json.dumps([rules for name, rules in of_kind(wanted, "policy").items() if "/node/" in name])


def test_a_pools_policy_holds_names_to_its_pattern(wanted: dict[Key, Fields]) -> None:
    rules = of_kind(wanted, "policy")[f"{P}/pool/spot"]
    kubelet = rules[f"{P}/kubelet/sign/kubelet-spot"]["allowed_parameters"]
    assert kubelet["common_name"] == ["system:node:s-*"] and kubelet["alt_names"] == ["s-*"]
    assert "ip_sans" not in kubelet
    own = "{{identity.entity.aliases.auth_p.metadata.role_name}}"
    assert f"auth/{P}/pooled/role/{own}/secret-id" in rules


def test_an_approle_holds_one_policy_and_outlives_an_outage(wanted: dict[Key, Fields], tmp_path: Path) -> None:
    role = of_kind(wanted, "approle")[f"{P}/listed/cp-1"]
    assert role["token_policies"] == [f"{P}/node/cp-1"] and role["token_no_default_policy"] is True
    assert role["token_type"] == "batch" and role["bind_secret_id"] is True
    assert role["secret_id_ttl"] == 60 * DAY
    short = load(tmp_path, SPEC + "defaults: {ttl: 2d}\n")
    assert of_kind(desired(short, KNOWN), "approle")[f"{P}/listed/cp-1"]["secret_id_ttl"] == 7 * DAY


def test_urls_come_from_where_nodes_find_vault(wanted: dict[Key, Fields]) -> None:
    urls = of_kind(wanted, "config")[f"{P}/etcd/config/urls"]
    assert urls["ocsp_servers"] == [f"https://{host}.example.com:8200/v1/{P}/etcd/ocsp" for host in "ab"]
    assert urls["enable_templating"] is True


def test_what_the_server_alone_knows_is_marked(cluster: Cluster) -> None:
    before = desired(cluster, ServerFacts())
    assert UNKNOWN in before["role", f"{P}/kubelet/kubelet"]["allowed_domains"][0]
    assert before["config", f"{P}/config/nodes/cp-1"]["role_id"] == UNKNOWN
    assert before["config", f"{P}/config/cluster"]["root_sha256"] == UNKNOWN
    assert UNKNOWN not in json.dumps(list(desired(cluster, KNOWN).values()))
    assert desired(cluster, KNOWN).keys() == before.keys()


def test_the_bounds_of_dates_are_asked_for_where_the_server_has_them(cluster: Cluster) -> None:
    role = ("role", f"{P}/kubernetes/kube-proxy")
    assert not {"not_after_bound", "not_before_bound", "not_before"} & desired(cluster, KNOWN)[role].keys()
    bounded = desired(cluster, ServerFacts(openbao=True))[role]
    assert bounded["not_after_bound"] == bounded["not_before_bound"] == "forbid" and bounded["not_before"] == ""


def test_what_only_some_servers_have_is_asked_for_there(cluster: Cluster) -> None:
    role, approle = ("role", f"{P}/kubelet/kubelet"), ("approle", f"{P}/listed/cp-1")
    here, there = desired(cluster, ServerFacts()), desired(cluster, ServerFacts(openbao=True))
    bounds = {"not_before": "", "not_before_bound": "forbid", "not_after_bound": "forbid"}
    assert there[role] == here[role] | bounds | {"allowed_ip_sans_cidr": []}
    assert there[approle] == here[approle] | {"token_strictly_bind_ip": False}


def test_no_secret_lies_in_the_store(wanted: dict[Key, Fields]) -> None:
    records = {name: fields for name, fields in of_kind(wanted, "config").items() if name.startswith(f"{P}/config/")}
    assert records.keys() == {
        f"{P}/config/{name}" for name in ("cluster", "nodes/cp-1", "nodes/worker-1", "pools/autoscaled", "pools/spot")
    }
    text = json.dumps(records)
    assert "PRIVATE" not in text and "secret" not in text and "token" not in text


def test_two_clusters_share_no_object(cluster: Cluster, tmp_path: Path) -> None:
    other = load(tmp_path, SPEC.replace("cluster: prod", "cluster: prod-b"))
    assert not desired(cluster, KNOWN).keys() & desired(other, KNOWN).keys()


def test_roles_of_nodes_store_nothing_where_cluster_yaml_says_so_and_those_of_operators_always_store(
    tmp_path: Path,
) -> None:
    own = "certificates: {etcd-server: {no_store: false}, kubelet: {no_store: true}}\n"
    for default, among in (("true", True), ("false", False)):
        cluster = load(tmp_path, SPEC + f"defaults: {{no_store: {default}}}\n" + own)
        roles = {name: role["no_store"] for name, role in of_kind(desired(cluster, KNOWN), "role").items()}
        assert {role for name, role in roles.items() if name.startswith(f"{P}/kubelet/")} == {True}
        assert roles[f"{P}/etcd/etcd-server"] is False
        assert roles[f"{P}/kubernetes/admin"] is roles[f"{P}/kubernetes/super-admin"] is False
        assert roles[f"{P}/etcd/etcd-peer"] is roles[f"{P}/kubernetes/kube-proxy"] is among


def test_a_cluster_without_a_signer_has_nothing_of_it(wanted: dict[Key, Fields]) -> None:
    assert not [key for key in wanted if "signer" in key[1] or "csr-" in key[1]]


@pytest.mark.parametrize("openbao", [True, False])
def test_a_signers_roles_and_policy(tmp_path: Path, openbao: bool) -> None:
    """Where a role holds no addresses, the policy does."""
    pool = '- {name: joined, roles: [worker], node_names: "j-*", join: token, networks: [10.1.0.0/16, "fd00::/64"]}'
    more = f"{pool}\nsigner: {{people: {{names: ['*@example.com'], groups: [[], [dev]]}}}}\n"
    wanted = desired(load(tmp_path, SPEC + more), replace(KNOWN, openbao=openbao))
    roles = {name: fields for name, fields in of_kind(wanted, "role").items() if "/csr-" in name}
    assert {name.removeprefix(f"{P}/"): fields["organization"] for name, fields in roles.items()} == {
        "kubernetes/csr-kubelet-client": ["system:nodes"],
        "kubelet/csr-kubelet-serving": ["system:nodes"],
        "kubernetes/csr-person": [],
        "kubernetes/csr-person-1": ["dev"],
    }
    for name, fields in roles.items():
        serving = "serving" in name
        assert (fields["server_flag"], fields["client_flag"], fields["no_store"]) == (serving, not serving, False)
        assert not (fields["allow_any_name"] or fields["use_csr_common_name"] or fields["use_csr_sans"])
        assert fields["max_ttl"] == fields["ttl"] == (DAY if "person" in name else 7 * DAY)
        assert fields.get("allowed_ip_sans_cidr", []) == (["10.1.0.0/16", "fd00::/64"] if serving and openbao else [])
    rules = of_kind(wanted, "policy")[f"{P}/signer"]
    addresses = rules[f"{P}/kubelet/sign/csr-kubelet-serving"]["allowed_parameters"]["ip_sans"]
    assert addresses == ([] if openbao else ["10.1.*", "fd00:0000:0000:0000:*"])
    for name in roles:
        rule = rules[name.replace("/csr-", "/sign/csr-")]
        assert "" in rule["denied_parameters"]["common_name"] and rule["allowed_parameters"]["common_name"]
        assert set(rule["required_parameters"]) == {"csr", "common_name", "ttl", "exclude_cn_from_sans"}
    approles = [name for name in of_kind(wanted, "approle") if "/signer/" in name]
    assert approles == [f"{P}/signer/cp-1"]
    assert wanted["approle", approles[0]]["token_ttl"] == 1200
    assert wanted["auth", f"{P}/signer"]["lockout"] is False
