"""What people change by hand is shown field by field and mended, no more; so is what changes in cluster.yaml."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Final

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


Fields = dict[str, tuple[Any, Any]]


@dataclass(frozen=True)
class Drift:
    """A write by hand, the object that a plan then shows, the fields of it, and the write that mends it."""

    kind: str
    key: str
    path: str
    body: dict[str, Any]
    fields: Fields
    mended: str = ""
    reads_first: bool = False

    def by_hand(self, cluster: AuditedCluster, fill: Callable[[Any], Any]) -> None:
        path = fill(self.path)
        if self.reads_first:
            patch(cluster, path, self.body)
        else:
            assert cluster.server.api("POST", path, fill(self.body)).status in (200, 204), path


CP_1: Final = "auth/{p}/listed/role/cp-1"
ISSUER: Final = "{p}/kubelet/issuer/kubelet-1"
DRIFT: Final = (
    Drift(
        *("role", "{p}/kubernetes/kube-proxy", "{p}/kubernetes/roles/kube-proxy"),
        {"max_ttl": 999 * DAY, "allowed_domains": ["a", "b"]},
        {"max_ttl": (999 * DAY, 30 * DAY), "allowed_domains": (["a", "b"], ["system:kube-proxy"])},
        reads_first=True,
    ),
    # A date that goes before the role's TTL.
    Drift(
        *("role", "{p}/kubelet/kubelet", "{p}/kubelet/roles/kubelet"),
        {"not_after": "2099-01-01T00:00:00Z"},
        {"not_after": ("2099-01-01T00:00:00Z", "")},
        reads_first=True,
    ),
    Drift(
        *("mount", "{p}/etcd", "sys/mounts/{p}/etcd/tune"),
        {"max_lease_ttl": "9000h"},
        {"max_ttl": (9000 * 3600, 1825 * DAY)},
    ),
    Drift(
        *("mount", "{p}/config", "{p}/config/config"),
        {"delete_version_after": "3h", "max_versions": 1},
        {"delete_version_after": ("3h0m0s", "0s"), "max_versions": (1, 0)},
    ),
    Drift(
        *("auth", "{p}/listed", "sys/auth/{p}/listed/tune"),
        {"max_lease_ttl": "2000h", "token_type": "service"},
        {"max_ttl": (2000 * 3600, 60 * DAY), "token_type": ("service", "default-service")},
    ),
    Drift(
        *("auth", "{p}/pooled", "sys/auth/{p}/pooled/tune"),
        {"user_lockout_config": {"lockout_disable": False}},
        {"lockout": (True, False)},
    ),
    Drift(
        *("config", "{p}/etcd/config/urls", "{p}/etcd/config/urls"),
        {"ocsp_servers": ["https://x.example.com"]},
        {"ocsp_servers": (["https://x.example.com"], ["{a}/v1/{p}/etcd/ocsp"])},
    ),
    Drift(
        *("config", "{p}/etcd/config/crl", "{p}/etcd/config/crl"),
        {"expiry": "70h", "auto_rebuild": False},
        {"expiry": ("70h", "72h"), "auto_rebuild": (False, True)},
    ),
    Drift(
        *("config", "{p}/root/config/auto-tidy", "{p}/root/config/auto-tidy"),
        {"enabled": False},
        {"enabled": (False, True)},
    ),
    Drift(
        *("config", "{p}/etcd/config/acme", "{p}/etcd/config/acme"),
        {"enabled": True},
        {"enabled": (True, False)},
    ),
    # What no batch token has, among the rest.
    Drift(
        *("approle", "{p}/listed/cp-1", CP_1),
        {
            "token_policies": "root-of-all",
            "token_type": "service",
            "token_period": "1h",
            "token_num_uses": 1,
            "token_explicit_max_ttl": "1m",
            "token_bound_cidrs": "192.0.2.0/24",
            "secret_id_bound_cidrs": "198.51.100.0/24",
        },
        {
            "token_policies": (["root-of-all"], ["{p}/node/cp-1"]),
            "token_type": ("service", "batch"),
            "token_period": (3600, 0),
            "token_num_uses": (1, 0),
            "token_explicit_max_ttl": (60, 0),
            "token_bound_cidrs": (["192.0.2.0/24"], []),
            "secret_id_bound_cidrs": (["198.51.100.0/24"], []),
        },
    ),
    Drift(
        *("issuer", "{p}/kubelet", ISSUER),
        {
            "issuer_name": "mine",
            "leaf_not_after_behavior": "permit",
            "usage": "read-only,issuing-certificates",
            "crl_distribution_points": ["https://x.example.com/crl"],
        },
        {
            "issuer_name": ("mine", "kubelet-1"),
            "leaf_not_after_behavior": ("permit", "truncate"),
            "usage": ("issuing-certificates,read-only", "crl-signing,issuing-certificates,ocsp-signing,read-only"),
            "crl_distribution_points": (["https://x.example.com/crl"], []),
        },
        "{p}/kubelet/issuer/{i}",
        reads_first=True,
    ),
)
# Where the server has these fields; HashiCorp's drops what it does not know.
OPENBAO: Final = (
    Drift(
        *("role", "{p}/kubelet/kubelet-autoscaled", "{p}/kubelet/roles/kubelet-autoscaled"),
        {"allowed_ip_sans_cidr": ["192.0.2.0/24"]},
        {"allowed_ip_sans_cidr": (["192.0.2.0/24"], [])},
        reads_first=True,
    ),
    Drift(
        *("approle", "{p}/listed/worker-1", "auth/{p}/listed/role/worker-1"),
        {"token_strictly_bind_ip": True},
        {"token_strictly_bind_ip": (True, False)},
    ),
)


def test_what_people_change_by_hand_is_shown_field_by_field_and_mended_by_one_write_each(
    cluster: AuditedCluster,
) -> None:
    p, api = cluster.prefix, cluster.server.api
    issuer = cluster.read(f"{p}/kubelet/issuer/default")["issuer_id"]
    openbao = cluster.server.product == "openbao"

    def fill(value: Any) -> Any:
        if isinstance(value, (list, tuple)):
            return type(value)(fill(each) for each in value)
        if isinstance(value, dict):
            return {name: fill(each) for name, each in value.items()}
        return value.format(p=p, a=cluster.server.address, i=issuer) if isinstance(value, str) else value

    # Without it no ACME server is enabled.
    assert api("POST", f"{p}/etcd/config/cluster", {"path": f"{cluster.server.address}/v1/{p}/etcd"}).status == 200
    for drift in (*DRIFT, *OPENBAO):
        drift.by_hand(cluster, fill)
    expected = (*DRIFT, *OPENBAO) if openbao else DRIFT
    wanted = {(drift.kind, fill(drift.key)): ("update", fill(drift.fields)) for drift in expected}
    mended = [("update", fill(drift.mended or drift.path)) for drift in expected]

    # Records and a policy, in which whatever is more is shown too.
    node, record = (cluster.read(f"{p}/config/data/{name}")["data"] for name in ("nodes/cp-1", "cluster"))
    # Whoever changes a record's role id does not get another AppRole taken for the node's.
    assert api("POST", f"{p}/config/data/nodes/cp-1", {"data": {**node, "role_id": "other", "more": 1}}).status == 200
    assert api("POST", f"{p}/config/data/cluster", {"data": {**record, "root_sha256": "00" * 32}}).status == 200
    name, ours = f"{p}/node/cp-1", f"{p}/config/data/cluster"
    rules = json.loads(cluster.read(f"sys/policies/acl/{name}")["policy"])["path"]
    more, less = {"capabilities": ["read", "update"]}, {"capabilities": ["read"]}
    changed = {**rules, "sys/*": {"capabilities": ["sudo"]}, ours: more}
    assert api("POST", f"sys/policies/acl/{name}", {"policy": json.dumps({"path": changed})}).status == 204
    fields: dict[tuple[str, str], Fields] = {
        ("config", f"{p}/config/nodes/cp-1"): {"role_id": ("other", node["role_id"]), "more": (1, None)},
        ("config", f"{p}/config/cluster"): {"root_sha256": ("00" * 32, record["root_sha256"])},
        ("policy", name): {ours: (more, less), "sys/*": ({"capabilities": ["sudo"]}, None)},
    }
    wanted |= {key: ("update", value) for key, value in fields.items()}
    paths = (f"{p}/config/data/nodes/cp-1", f"{p}/config/data/cluster", f"sys/policies/acl/{name}")
    mended += [("update", path) for path in paths]

    assert changes(cluster.plan()) == wanted
    document, writes = cluster.applied()
    assert changes(document) == wanted
    told = ("update", f"{p}/config/data/changes")
    written = [(write.replace("patch", "update"), where) for write, where in writes]
    # Agents are told before what they follow changes, and at the end.
    at = [place for place, write in enumerate(written) if write == told]
    followed = [place for place, (_, where) in enumerate(written) if where in paths[:2]]
    assert len(at) == 2 and at[0] < min(followed) and at[1] == len(written) - 1
    assert sorted(write for write in written if write != told) == sorted(mended)
    assert cluster.plan()["changes"] == [] and cluster.read(f"{p}/config/data/nodes/cp-1")["data"] == node


def test_the_same_in_other_words(cluster: AuditedCluster) -> None:
    """A duration is no change; a policy in Vault's own language is never as we write it."""
    path = f"{cluster.prefix}/etcd/config/crl"
    for words in (
        {"expiry": "259200s", "auto_rebuild_grace_period": "12h0m0s"},
        {"expiry": "3d", "auto_rebuild_grace_period": "43200"},
    ):
        assert cluster.server.api("POST", path, words).status == 200
        assert cluster.read(path).items() >= words.items()
        assert cluster.plan()["changes"] == []
    name = f"{cluster.prefix}/node/cp-1"
    cluster.server.api("POST", f"sys/policies/acl/{name}", {"policy": 'path "sys/*" { capabilities = ["read"] }'})
    assert changes(cluster.plan())["policy", name][0] == "update"
    assert cluster.applied()[1] == [("update", f"sys/policies/acl/{name}")]


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
    # The same identity, and a CA with the key that the cluster's leaves were signed with.
    assert cluster.read(f"auth/{p}/listed/role/worker-1/role-id") == role_id
    assert cluster.read(f"{p}/front-proxy/issuer/default")["key_id"] == issuing["key_id"]
    assert len(cluster.read_names(f"{p}/front-proxy/issuers")) == len(cluster.read_names(f"{p}/front-proxy/keys")) == 1
    # A lost memory comes back, and is no change.
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


# cluster.yaml changes; which objects each change reaches: tests/unit/provision/test_spec_changes.py


def test_a_node_a_pool_and_a_row_come_and_go(cluster: AuditedCluster) -> None:
    p, api = cluster.prefix, cluster.server.api
    row = "certificates:\n  roles: {kind: client, common_name: mine, ca: kubernetes, roles: [worker]}\n"
    node = "- {name: worker-2, roles: [worker], addresses: [10.0.0.22]}\n"
    pool = '- {name: spot, roles: [worker], node_names: "s-*"}\n'
    more = f"{row}  etcd-peer: {{ttl: 7d}}\n{SPEC}".replace("pools:\n", f"{node}pools:\n{pool}")
    cluster.write(more.replace("names: [api.example.com]", "names: [api.example.com, k8s.example.com]"))
    # A store that would lose what is written, so it is mended before a record is.
    assert api("POST", f"{p}/config/config", {"cas_required": True, "delete_version_after": "3s"}).status == 204
    made = {
        ("role", f"{p}/kubernetes/roles"),
        ("role", f"{p}/kubelet/kubelet-spot"),
        *(("policy", f"{p}/{name}") for name in ("pool/spot", "node/worker-2")),
        ("approle", f"{p}/listed/worker-2"),
        *(("config", f"{p}/config/{name}") for name in ("pools/spot", "nodes/worker-2")),
    }
    changed = {
        ("role", f"{p}/etcd/etcd-peer"),
        ("role", f"{p}/kubernetes/kube-apiserver"),
        *(("policy", f"{p}/{name}") for name in ("node/cp-1", "node/worker-1", "pool/autoscaled", "enroller")),
        *(("config", f"{p}/config/{name}") for name in ("nodes/cp-1", "nodes/worker-1", "pools/autoscaled")),
    }
    planned = changes(cluster.plan())
    options: Fields = {"cas_required": (True, False), "delete_version_after": ("3s", "0s")}
    assert planned.pop(("mount", f"{p}/config")) == ("update", options)
    shown = {key: action for key, (action, _) in planned.items()}
    assert shown == dict.fromkeys(made, "create") | dict.fromkeys(changed, "update")
    document, _ = cluster.applied()
    assert changes(document).keys() - shown.keys() == {("mount", f"{p}/config")}
    cluster.settled()
    assert cluster.read(f"{p}/etcd/roles/etcd-peer")["max_ttl"] == 7 * DAY
    assert cluster.read(f"{p}/config/data/nodes/cp-1")["metadata"]["deletion_time"] == ""
    role_id = cluster.read(f"auth/{p}/listed/role/worker-2/role-id")["role_id"]
    secret_id = api("POST", f"auth/{p}/listed/role/worker-2/secret-id").data["secret_id"]
    login = api("POST", f"auth/{p}/listed/login", {"role_id": role_id, "secret_id": secret_id}, token="")
    token, entity = login.body["auth"]["client_token"], login.body["auth"]["entity_id"]
    assert api("GET", f"{p}/config/data/nodes/worker-2", token=token).status == 200

    cluster.write(SPEC)
    shown = {key: action for key, (action, _) in changes(cluster.plan()).items()}
    assert shown == dict.fromkeys(made, "delete") | dict.fromkeys(changed, "update")
    document, _ = cluster.applied()
    # First what gives rights, and the record that names its role id after the AppRole.
    order = [change["kind"] for change in document["changes"] if change["name"].endswith("/worker-2")]
    assert sorted(order) == ["approle", "config", "policy"] and order[0] == "approle"
    assert api("GET", f"identity/entity/id/{entity}").status == 404
    assert api("GET", f"{p}/config/data/cluster", token=token).status == 403
    assert api("GET", f"{p}/config/metadata/nodes/worker-2").status == 404
    cluster.settled()


def test_a_version_1_store_of_ours_is_upgraded(server: Server, clusters: ClusterFactory) -> None:
    cluster = clusters.written(SPEC)
    made = {"type": "kv", "description": f"made by vaultpki for cluster {cluster.name}", "options": {"version": "1"}}
    assert server.api("POST", f"sys/mounts/{cluster.prefix}/config", made).status == 204
    assert changes(cluster.plan())["mount", f"{cluster.prefix}/config"] == ("update", {"version": ("1", "2")})
    cluster.apply()
    cluster.settled()
