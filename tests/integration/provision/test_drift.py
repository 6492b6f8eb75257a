"""What people change by hand is shown field by field and mended, no more; so is what changes in cluster.yaml."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from helpers.vault.cluster_factory import ClusterFactory
from helpers.vault.plan_commands import SPEC, AuditedCluster, changes
from helpers.vault.servers import Server

DAY = 86400


@pytest.fixture(scope="module")
def cluster(shared_clusters: ClusterFactory) -> Iterator[AuditedCluster]:
    """One applied cluster for all of these tests: each leaves it as it found it, which it also checks."""
    cluster = shared_clusters.applied(SPEC)
    yield cluster
    cluster.write(SPEC)
    cluster.settled()


def patch(cluster: AuditedCluster, path: str, fields: dict[str, Any]) -> None:
    """Changes some fields and keeps the others, as a person with Vault's CLI or UI does: read, edit, write."""
    assert cluster.server.api("POST", path, {**cluster.read(path), **fields}).status in (200, 204)


Drift = tuple[Callable[[AuditedCluster, str], object], tuple[str, str], dict[str, tuple[Any, Any]], str]
DRIFT: dict[str, Drift] = {
    "role": (
        lambda cluster, p: patch(
            cluster, f"{p}/kubernetes/roles/kube-proxy", {"max_ttl": 999 * DAY, "allowed_domains": ["a", "b"]}
        ),
        ("role", "{p}/kubernetes/kube-proxy"),
        {"max_ttl": (999 * DAY, 30 * DAY), "allowed_domains": (["a", "b"], ["system:kube-proxy"])},
        "{p}/kubernetes/roles/kube-proxy",
    ),
    "role, a date that goes before its TTL": (
        lambda cluster, p: patch(cluster, f"{p}/kubelet/roles/kubelet", {"not_after": "2099-01-01T00:00:00Z"}),
        ("role", "{p}/kubelet/kubelet"),
        {"not_after": ("2099-01-01T00:00:00Z", "")},
        "{p}/kubelet/roles/kubelet",
    ),
    "mount": (
        lambda cluster, p: cluster.server.api("POST", f"sys/mounts/{p}/etcd/tune", {"max_lease_ttl": "9000h"}),
        ("mount", "{p}/etcd"),
        {"max_ttl": (9000 * 3600, 1825 * DAY)},
        "sys/mounts/{p}/etcd/tune",
    ),
    "store": (
        lambda cluster, p: cluster.server.api(
            "POST", f"{p}/config/config", {"cas_required": True, "delete_version_after": "3h", "max_versions": 1}
        ),
        ("mount", "{p}/config"),
        {"cas_required": (True, False), "delete_version_after": ("3h0m0s", "0s"), "max_versions": (1, 0)},
        "{p}/config/config",
    ),
    "auth mount": (
        lambda cluster, p: cluster.server.api("POST", f"sys/auth/{p}/listed/tune", {"max_lease_ttl": "2000h"}),
        ("auth", "{p}/listed"),
        {"max_ttl": (2000 * 3600, 60 * DAY)},
        "sys/auth/{p}/listed/tune",
    ),
    "auth mount, lockout": (
        lambda cluster, p: cluster.server.api(
            "POST", f"sys/auth/{p}/pooled/tune", {"user_lockout_config": {"lockout_disable": False}}
        ),
        ("auth", "{p}/pooled"),
        {"lockout": (True, False)},
        "sys/auth/{p}/pooled/tune",
    ),
    "auth mount, type of tokens": (
        lambda cluster, p: cluster.server.api("POST", f"sys/auth/{p}/listed/tune", {"token_type": "service"}),
        ("auth", "{p}/listed"),
        {"token_type": ("service", "default-service")},
        "sys/auth/{p}/listed/tune",
    ),
    "urls": (
        lambda cluster, p: cluster.server.api(
            "POST", f"{p}/etcd/config/urls", {"ocsp_servers": ["https://x.example.com"]}
        ),
        ("config", "{p}/etcd/config/urls"),
        {"ocsp_servers": (["https://x.example.com"], ["{a}/v1/{p}/etcd/ocsp"])},
        "{p}/etcd/config/urls",
    ),
    "crl": (
        lambda cluster, p: cluster.server.api("POST", f"{p}/etcd/config/crl", {"expiry": "70h", "auto_rebuild": False}),
        ("config", "{p}/etcd/config/crl"),
        {"expiry": ("70h", "72h"), "auto_rebuild": (False, True)},
        "{p}/etcd/config/crl",
    ),
    "auto-tidy": (
        lambda cluster, p: cluster.server.api("POST", f"{p}/root/config/auto-tidy", {"enabled": False}),
        ("config", "{p}/root/config/auto-tidy"),
        {"enabled": (False, True)},
        "{p}/root/config/auto-tidy",
    ),
    "acme": (
        lambda cluster, p: (
            cluster.server.api("POST", f"{p}/etcd/config/cluster", {"path": f"{cluster.server.address}/v1/{p}/etcd"}),
            cluster.server.api("POST", f"{p}/etcd/config/acme", {"enabled": True}),
        ),
        ("config", "{p}/etcd/config/acme"),
        {"enabled": (True, False)},
        "{p}/etcd/config/acme",
    ),
    "approle": (
        lambda cluster, p: cluster.server.api("POST", f"auth/{p}/listed/role/cp-1", {"token_policies": "root-of-all"}),
        ("approle", "{p}/listed/cp-1"),
        {"token_policies": (["root-of-all"], ["{p}/node/cp-1"])},
        "auth/{p}/listed/role/cp-1",
    ),
    "approle, a period that no batch token has": (
        lambda cluster, p: cluster.server.api(
            "POST", f"auth/{p}/listed/role/cp-1", {"token_type": "service", "token_period": "1h"}
        ),
        ("approle", "{p}/listed/cp-1"),
        {"token_type": ("service", "batch"), "token_period": (3600, 0)},
        "auth/{p}/listed/role/cp-1",
    ),
    "approle, a number of uses": (
        lambda cluster, p: cluster.server.api(
            "POST", f"auth/{p}/listed/role/cp-1", {"token_type": "service", "token_num_uses": 1}
        ),
        ("approle", "{p}/listed/cp-1"),
        {"token_type": ("service", "batch"), "token_num_uses": (1, 0)},
        "auth/{p}/listed/role/cp-1",
    ),
    "approle, an end and networks": (
        lambda cluster, p: cluster.server.api(
            "POST",
            f"auth/{p}/listed/role/cp-1",
            {
                "token_explicit_max_ttl": "1m",
                "token_bound_cidrs": "192.0.2.0/24",
                "secret_id_bound_cidrs": "198.51.100.0/24",
            },
        ),
        ("approle", "{p}/listed/cp-1"),
        {
            "token_explicit_max_ttl": (60, 0),
            "token_bound_cidrs": (["192.0.2.0/24"], []),
            "secret_id_bound_cidrs": (["198.51.100.0/24"], []),
        },
        "auth/{p}/listed/role/cp-1",
    ),
    "issuer's name": (
        lambda cluster, p: patch(cluster, f"{p}/kubelet/issuer/kubelet-1", {"issuer_name": "mine"}),
        ("issuer", "{p}/kubelet"),
        {"issuer_name": ("mine", "kubelet-1")},
        "{p}/kubelet/issuer/{i}",
    ),
    "issuer's behaviour": (
        lambda cluster, p: patch(cluster, f"{p}/kubelet/issuer/kubelet-1", {"leaf_not_after_behavior": "permit"}),
        ("issuer", "{p}/kubelet"),
        {"leaf_not_after_behavior": ("permit", "truncate")},
        "{p}/kubelet/issuer/{i}",
    ),
    "issuer's usage": (
        lambda cluster, p: patch(cluster, f"{p}/kubelet/issuer/kubelet-1", {"usage": "read-only,issuing-certificates"}),
        ("issuer", "{p}/kubelet"),
        {"usage": ("issuing-certificates,read-only", "crl-signing,issuing-certificates,ocsp-signing,read-only")},
        "{p}/kubelet/issuer/{i}",
    ),
    "issuer's URLs": (
        lambda cluster, p: patch(
            cluster, f"{p}/kubelet/issuer/kubelet-1", {"crl_distribution_points": ["https://x.example.com/crl"]}
        ),
        ("issuer", "{p}/kubelet"),
        {"crl_distribution_points": (["https://x.example.com/crl"], [])},
        "{p}/kubelet/issuer/{i}",
    ),
}

# Where the server has these fields.
OPENBAO: dict[str, Drift] = {
    "role, networks of its addresses": (
        lambda cluster, p: patch(cluster, f"{p}/kubelet/roles/kubelet", {"allowed_ip_sans_cidr": ["192.0.2.0/24"]}),
        ("role", "{p}/kubelet/kubelet"),
        {"allowed_ip_sans_cidr": (["192.0.2.0/24"], [])},
        "{p}/kubelet/roles/kubelet",
    ),
    "approle, tokens for one address only": (
        lambda cluster, p: cluster.server.api("POST", f"auth/{p}/listed/role/cp-1", {"token_strictly_bind_ip": True}),
        ("approle", "{p}/listed/cp-1"),
        {"token_strictly_bind_ip": (True, False)},
        "auth/{p}/listed/role/cp-1",
    ),
}


@pytest.mark.parametrize("name", DRIFT)
def test_a_change_by_hand_is_shown_and_mended(cluster: AuditedCluster, name: str) -> None:
    shown_and_mended(cluster, *DRIFT[name])


@pytest.mark.parametrize("name", OPENBAO)
def test_so_is_one_of_what_only_openbao_has(cluster: AuditedCluster, name: str) -> None:
    if cluster.server.product == "vault":
        # Vault drops what it does not know.
        OPENBAO[name][0](cluster, cluster.prefix)
        assert cluster.plan()["changes"] == []
        return
    shown_and_mended(cluster, *OPENBAO[name])


def shown_and_mended(
    cluster: AuditedCluster,
    by_hand: Callable[[AuditedCluster, str], object],
    changed: tuple[str, str],
    fields: dict[str, tuple[Any, Any]],
    path: str,
) -> None:
    """Changes an object by hand: a plan shows just these fields of it, and an apply mends them by one write."""
    kind, key = changed
    p = cluster.prefix
    issuer = cluster.read(f"{p}/kubelet/issuer/default")["issuer_id"]

    def fill(value: Any) -> Any:
        if isinstance(value, list):
            return [fill(each) for each in value]
        return value.format(p=p, a=cluster.server.address, i=issuer) if isinstance(value, str) else value

    by_hand(cluster, p)
    wanted = {(kind, fill(key)): ("update", {name: (fill(old), fill(new)) for name, (old, new) in fields.items()})}
    assert changes(cluster.plan()) == wanted
    document, writes = cluster.applied()
    assert changes(document) == wanted
    assert [(write.replace("patch", "update"), where) for write, where in writes] == [("update", fill(path))]


def test_a_duration_in_other_words_is_no_change(cluster: AuditedCluster) -> None:
    path = f"{cluster.prefix}/etcd/config/crl"
    for words in (
        {"expiry": "259200s", "auto_rebuild_grace_period": "12h0m0s"},
        {"expiry": "3d", "auto_rebuild_grace_period": "43200"},
    ):
        assert cluster.server.api("POST", path, words).status == 200
        assert cluster.read(path).items() >= words.items()
        cluster.settled()


def test_a_policy_changed_by_hand(cluster: AuditedCluster) -> None:
    name = f"{cluster.prefix}/node/cp-1"
    rules = json.loads(cluster.read(f"sys/policies/acl/{name}")["policy"])["path"]
    ours = f"{cluster.prefix}/config/data/cluster"
    changed = {**rules, "sys/*": {"capabilities": ["sudo"]}, ours: {"capabilities": ["read", "update"]}}
    cluster.server.api("POST", f"sys/policies/acl/{name}", {"policy": json.dumps({"path": changed})})
    wanted = {
        ("policy", name): (
            "update",
            {
                ours: ({"capabilities": ["read", "update"]}, {"capabilities": ["read"]}),
                "sys/*": ({"capabilities": ["sudo"]}, None),
            },
        )
    }
    assert changes(cluster.plan()) == wanted
    document, writes = cluster.applied()
    assert changes(document) == wanted and writes == [("update", f"sys/policies/acl/{name}")]
    # A policy in Vault's own language, or with more than paths in it, is never as we write it.
    cluster.server.api("POST", f"sys/policies/acl/{name}", {"policy": 'path "sys/*" { capabilities = ["read"] }'})
    assert changes(cluster.plan())["policy", name][0] == "update"
    cluster.applied()
    assert cluster.plan()["changes"] == []


def test_records_changed_by_hand(cluster: AuditedCluster) -> None:
    head = f"{cluster.prefix}/config"
    node = cluster.read(f"{head}/data/nodes/cp-1")["data"]
    record = cluster.read(f"{head}/data/cluster")["data"]
    # Whoever changes a record's role id does not get another AppRole taken for the node's.
    cluster.server.api("POST", f"{head}/data/nodes/cp-1", {"data": {**node, "role_id": "other", "more": 1}})
    cluster.server.api("POST", f"{head}/data/cluster", {"data": {**record, "root_sha256": "00" * 32}})
    wanted = {
        ("config", f"{head}/nodes/cp-1"): (
            "update",
            {"role_id": ("other", node["role_id"]), "more": (1, None)},
        ),
        ("config", f"{head}/cluster"): ("update", {"root_sha256": ("00" * 32, record["root_sha256"])}),
    }
    assert changes(cluster.plan()) == wanted
    document, writes = cluster.applied()
    assert changes(document) == wanted
    told = ("update", f"{head}/data/changes")
    assert writes[0] == writes[-1] == told
    assert sorted(writes[1:-1]) == [("update", f"{head}/data/cluster"), ("update", f"{head}/data/nodes/cp-1")]
    assert cluster.read(f"{head}/data/nodes/cp-1")["data"] == node


def test_what_was_deleted_by_hand_is_made_again(cluster: AuditedCluster) -> None:
    p = cluster.prefix
    role_id = cluster.read(f"auth/{p}/listed/role/worker-1/role-id")
    issuing = cluster.read(f"{p}/front-proxy/issuer/default")
    gone = {
        f"{p}/etcd/roles/etcd-peer": ("role", f"{p}/etcd/etcd-peer"),
        f"sys/policies/acl/{p}/node/worker-1": ("policy", f"{p}/node/worker-1"),
        f"auth/{p}/listed/role/worker-1": ("approle", f"{p}/listed/worker-1"),
        # One version of it, and all of it.
        f"{p}/config/data/nodes/worker-1": ("config", f"{p}/config/nodes/worker-1"),
        f"{p}/config/metadata/nodes/cp-1": ("config", f"{p}/config/nodes/cp-1"),
        f"{p}/front-proxy/issuer/front-proxy-1": ("issuer", f"{p}/front-proxy"),
    }
    for path in gone:
        assert cluster.server.api("DELETE", path).status in (200, 204), path
    shown = changes(cluster.plan())
    assert {key: action for key, (action, _) in shown.items()} == dict.fromkeys(gone.values(), "create")
    document, _ = cluster.applied()
    assert changes(document).keys() == shown.keys()
    assert cluster.plan()["changes"] == []
    # The same identity, and a CA with the key that the cluster's leaves were signed with.
    assert cluster.read(f"auth/{p}/listed/role/worker-1/role-id") == role_id
    assert cluster.read(f"{p}/front-proxy/issuer/default")["key_id"] == issuing["key_id"]
    assert len(cluster.read_names(f"{p}/front-proxy/issuers")) == len(cluster.read_names(f"{p}/front-proxy/keys")) == 1


def test_a_lost_memory_comes_back(cluster: AuditedCluster) -> None:
    p = cluster.prefix
    assert cluster.server.api("DELETE", f"{p}/config/metadata/applied").status == 204
    document, writes = cluster.applied()
    assert document["changes"] == [] and writes == [("create", f"{p}/config/data/applied")]


def test_what_others_put_beside_ours_is_named_and_left_alone(cluster: AuditedCluster) -> None:
    p, api = cluster.prefix, cluster.server.api
    root = {"common_name": "foreign", "ttl": "24h", "issuer_name": "foreign"}
    made = {
        f"{p}/etcd/roles/roles": {"allowed_domains": "a"},
        f"{p}/etcd/roles/Issuers": {"allowed_domains": "a"},
        f"sys/policies/acl/{p}/node/theirs": {"policy": '{"path": {}}'},
        f"sys/policies/acl/{p}/pool/with%20blank": {"policy": '{"path": {}}'},
        f"{p}/etcd/root/generate/internal": root,
        f"auth/{p}/listed/role/role-id": {"token_policies": "a"},
        f"{p}/config/data/nodes/urls": {"data": {"a": 1}},
        f"{p}/config/data/notes": {"data": {"a": 1}},
        f"{p}/config/data/their/notes": {"data": {"a": 1}},
        f"{p}/config/data/nodes/with%20blank": {"data": {"a": 1}},
    }
    for path, body in made.items():
        assert api("POST", path, body).status in (200, 204), path
    shown = cluster.plan()
    assert shown["changes"] == []
    assert shown["unmanaged"] == sorted(
        [
            f"approle {p}/listed/role-id",
            f"config {p}/config/nodes/urls",
            f"config {p}/config/nodes/with blank",
            f"config {p}/config/notes",
            f"config {p}/config/their/",
            f"issuer {p}/etcd/issuer/foreign",
            f"policy {p}/node/theirs",
            f"policy {p}/pool/with blank",
            f"role {p}/etcd/Issuers",
            f"role {p}/etcd/roles",
        ]
    )
    why = "foreign and dangerous: it was not signed by the cluster's root CA"
    assert shown["dangers"] == [{"name": f"issuer {p}/etcd/issuer/foreign", "reason": why}]
    assert cluster.applied()[1] == []
    # Our roles sign with the mount's default issuer, so that one is ours to say.
    assert api("POST", f"{p}/etcd/config/issuers", {"default": "foreign"}).status == 200
    wanted = {("issuer", f"{p}/etcd"): ("update", {"default": (False, True)})}
    assert changes(cluster.plan()) == wanted
    document, writes = cluster.applied()
    told = ("update", f"{p}/config/data/changes")
    assert changes(document) == wanted and writes == [told, ("update", f"{p}/etcd/config/issuers"), told]
    assert document["unmanaged"] == shown["unmanaged"] and document["dangers"] == shown["dangers"]
    # And who asks a mount to make a request or a CA without a word of the key means the default one.
    assert api("POST", f"{p}/etcd/config/keys", {"default": foreign_key(cluster)}).status == 200
    wanted = {("issuer", f"{p}/etcd"): ("update", {"default_key": (False, True)})}
    assert changes(cluster.plan()) == wanted
    document, writes = cluster.applied()
    assert changes(document) == wanted and writes == [("update", f"{p}/etcd/config/keys")]
    for path in made:
        target = path.replace("/data/", "/metadata/").replace("/root/generate/internal", "/issuer/foreign")
        assert api("DELETE", target).status in (200, 204), target


def foreign_key(cluster: AuditedCluster) -> str:
    """The id of etcd's key that is not ours."""
    issuer = cluster.read(f"{cluster.prefix}/etcd/issuer/foreign")
    return str(issuer["key_id"])


# cluster.yaml changes


@pytest.fixture
def respec(cluster: AuditedCluster) -> Iterator[Callable[[str, str], dict[tuple[str, str], str]]]:
    """Changes cluster.yaml and applies it; answers what was done. Afterwards all is put back."""

    def change(old: str, new: str) -> dict[tuple[str, str], str]:
        assert old in SPEC
        cluster.write(SPEC.replace(old, new))
        shown = changes(cluster.plan())
        document, _ = cluster.applied()
        assert changes(document).keys() == shown.keys()
        cluster.settled()
        return {key: action for key, (action, _) in shown.items()}

    yield change
    cluster.write(SPEC)
    cluster.apply()


def test_a_node_comes_and_goes(cluster: AuditedCluster) -> None:
    p, api = cluster.prefix, cluster.server.api
    further = "- {name: worker-2, roles: [worker], addresses: [10.0.0.22]}\npools:"
    cluster.write(SPEC.replace("pools:", further))
    its = {
        ("approle", f"{p}/listed/worker-2"),
        ("policy", f"{p}/node/worker-2"),
        ("config", f"{p}/config/nodes/worker-2"),
    }
    assert {key: action for key, (action, _) in changes(cluster.plan()).items()} == dict.fromkeys(its, "create")
    cluster.applied()
    cluster.settled()
    role_id = cluster.read(f"auth/{p}/listed/role/worker-2/role-id")["role_id"]
    secret_id = api("POST", f"auth/{p}/listed/role/worker-2/secret-id").data["secret_id"]
    login = api("POST", f"auth/{p}/listed/login", {"role_id": role_id, "secret_id": secret_id}, token="")
    token, entity = login.body["auth"]["client_token"], login.body["auth"]["entity_id"]
    assert api("GET", f"{p}/config/data/nodes/worker-2", token=token).status == 200

    cluster.write(SPEC)
    assert {key: action for key, (action, _) in changes(cluster.plan()).items()} == dict.fromkeys(its, "delete")
    document, _ = cluster.applied()
    # First what gives rights, and the record that names its role id after the AppRole.
    order = [change["kind"] for change in document["changes"]]
    assert order[0] == "approle"
    assert api("GET", f"identity/entity/id/{entity}").status == 404
    assert api("GET", f"{p}/config/data/cluster", token=token).status == 403
    assert api("GET", f"{p}/config/metadata/nodes/worker-2").status == 404
    cluster.settled()


def test_a_row_comes_and_goes(
    cluster: AuditedCluster, respec: Callable[[str, str], dict[tuple[str, str], str]]
) -> None:
    p = cluster.prefix
    row = "certificates:\n  roles: {kind: client, common_name: mine, ca: kubernetes, roles: [worker]}\n"
    made = respec("api_server:", row + "api_server:")
    assert made == {
        ("role", f"{p}/kubernetes/roles"): "create",
        ("policy", f"{p}/node/worker-1"): "update",
        ("policy", f"{p}/pool/autoscaled"): "update",
        ("config", f"{p}/config/nodes/worker-1"): "update",
        ("config", f"{p}/config/pools/autoscaled"): "update",
    }
    cluster.write(SPEC)
    gone = {key: action for key, (action, _) in changes(cluster.plan()).items()}
    assert gone == made | {("role", f"{p}/kubernetes/roles"): "delete"}


def test_a_ttl_changes(cluster: AuditedCluster, respec: Callable[[str, str], dict[tuple[str, str], str]]) -> None:
    p = cluster.prefix
    assert respec("api_server:", "certificates: {etcd-peer: {ttl: 7d}}\napi_server:") == {
        ("role", f"{p}/etcd/etcd-peer"): "update",
        ("config", f"{p}/config/nodes/cp-1"): "update",
    }
    assert cluster.read(f"{p}/etcd/roles/etcd-peer")["max_ttl"] == 7 * DAY


def test_a_store_with_other_options_is_mended_before_a_record_is_written(
    cluster: AuditedCluster, respec: Callable[[str, str], dict[tuple[str, str], str]]
) -> None:
    p = cluster.prefix
    options = {"cas_required": True, "delete_version_after": "3s"}
    assert cluster.server.api("POST", f"{p}/config/config", options).status == 204
    assert respec("api_server:", "certificates: {etcd-peer: {ttl: 7d}}\napi_server:") == {
        ("mount", f"{p}/config"): "update",
        ("role", f"{p}/etcd/etcd-peer"): "update",
        ("config", f"{p}/config/nodes/cp-1"): "update",
    }
    assert cluster.read(f"{p}/config/data/nodes/cp-1")["metadata"]["deletion_time"] == ""


def test_a_further_name_changes_only_what_carries_it(
    cluster: AuditedCluster, respec: Callable[[str, str], dict[tuple[str, str], str]]
) -> None:
    p = cluster.prefix
    assert respec("names: [api.example.com]", "names: [api.example.com, k8s.example.com]") == {
        ("role", f"{p}/kubernetes/kube-apiserver"): "update",
        ("policy", f"{p}/node/cp-1"): "update",
        ("config", f"{p}/config/nodes/cp-1"): "update",
    }


def test_a_pool_comes_and_goes(
    cluster: AuditedCluster, respec: Callable[[str, str], dict[tuple[str, str], str]]
) -> None:
    p = cluster.prefix
    made = respec("pools:\n", 'pools:\n- {name: spot, roles: [worker], node_names: "s-*"}\n')
    assert made == {
        ("role", f"{p}/kubelet/kubelet-spot"): "create",
        ("policy", f"{p}/pool/spot"): "create",
        ("policy", f"{p}/enroller"): "update",
        ("config", f"{p}/config/pools/spot"): "create",
    }
    cluster.write(SPEC)
    gone = {key: action for key, (action, _) in changes(cluster.plan()).items()}
    assert gone == {key: "update" if action == "update" else "delete" for key, action in made.items()}


def test_a_version_1_store_of_ours_is_upgraded(server: Server, clusters: ClusterFactory) -> None:
    cluster = clusters.written(SPEC)
    made = {"type": "kv", "description": f"made by vaultpki for cluster {cluster.name}", "options": {"version": "1"}}
    assert server.api("POST", f"sys/mounts/{cluster.prefix}/config", made).status == 204
    assert changes(cluster.plan())["mount", f"{cluster.prefix}/config"] == ("update", {"version": ("1", "2")})
    cluster.apply()
    cluster.settled()
