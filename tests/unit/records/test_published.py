"""What an agent takes from the config store: what apply could have written, and nothing that does harm."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest

from helpers.example_cluster import load
from vaultpki.errors import SpecError
from vaultpki.identity.access import node_certificates
from vaultpki.model import Cluster, NodeRole, Pool
from vaultpki.records import published
from vaultpki.records.join_file import load_join

SPEC = """\
cluster: prod
nodes:
- {name: cp-1, roles: [control-plane, etcd], addresses: [10.0.0.11]}
- {name: w-1, roles: [worker], addresses: [10.0.0.21]}
certificates:
  app: {kind: client, common_name: "team {node}", ca: kubernetes, roles: [worker], kubeconfig: Team.conf}
templates: {audit: {file: Audit.yaml, template: a.tmpl, roles: [worker]}}
"""


REFUSED = "contains a value that vaultpki does not write"


@pytest.fixture
def cluster(tmp_path: Path) -> Cluster:
    (tmp_path / "a.tmpl").write_text("${node}\n")
    return load(tmp_path, SPEC)


def of_node(cluster: Cluster) -> dict[str, Any]:
    node = cluster.nodes[1]
    made: dict[str, Any] = json.loads(json.dumps(published.node_record(node, node_certificates(cluster, node), "r")))
    return made


def read(cluster: Cluster, record: dict[str, Any], node: str = "w-1") -> Any:
    return published.read_certificates(record, node=node, prefix=cluster.prefix, where="record")


def test_what_apply_writes_is_taken(cluster: Cluster) -> None:
    roles, found = read(cluster, of_node(cluster))
    assert (roles, found) == (cluster.nodes[1].roles, node_certificates(cluster, cluster.nodes[1]))
    assert (found[-1].subject.common_name, found[-1].kubeconfig) == ("team w-1", "Team.conf")


# What no record may say of any certificate.
OF_ANY: list[tuple[str, object]] = [
    *(("file", text) for text in ("../x", "a/b", "/x", ".x", "", "a\nb", "a\0", "a b", "x.key", "A", "a" * 101)),
    *(("kubeconfig", text) for text in ("../x.conf", ".conf", "x.key", "a/x.conf", "a\n.conf", "ä.conf")),
    *(("common_name", text) for text in ("", "a\nb", "a\x1b[m", "a,b", "{domain}", "a ", "*", "a" * 65, None, 7)),
    *(("organization", [text]) for text in ("", "a\nb", "{node}", "a" * 65, None)),
    *(("dns", [text]) for text in ("", "*", "*.a", "a\nb", "a b", "a.", "a/b", "A", "a," * 2, "{domain}", "a" * 254)),
    *(("ips", [text]) for text in ("", "10.0.0.0/8", "010.0.0.1", "fe80::1%eth0", "{node_addresses}", 1)),
    *(("name", text) for text in ("../x", "a.b", "A", "", "a\n")),
    *(("role", text) for text in ("../x", "a/b", "a.b", "A", "", "a" * 128)),
    *(("ca", text) for text in ("root", "../root", "", None)),
]
# Nor of one of the cluster's own.
OF_OWN: list[tuple[str, object]] = [
    # a bundle, a file of kubeadm's, of the store's, of another row's
    *(("file", text) for text in ("etcd-ca", "etcd-ca-chain", "kubernetes-ca", "ca", "sa", "front-proxy-ca")),
    *(("file", text) for text in ("bundles", "lock", "kubelet", "kubelet-client")),
    *(("kubeconfig", text) for text in ("kubelet.conf", "Kube-Proxy.conf", "etcd-ca.conf", "sa.conf")),
    # somebody else, or what lets in nobody
    *(("common_name", text) for text in ("kubernetes-admin", "System:kube-scheduler", "system:node:cp-1")),
    *(("organization", [text]) for text in ("system:masters", "system:nodes", "kubeadm:cluster-admins", "system:x")),
    ("ca", "etcd"),
    ("usage", "server"),
    ("dns", ["w-1"]),
    ("ips", ["10.0.0.21"]),
    *(("name", text) for text in ("kubelet", "admin", "kube-scheduler")),
    *(("role", text) for text in ("kubelet", "app-w", "admin")),
    *(("ttl", number) for number in (0, 29, 100 * 365 * 86400, True, "30")),
]
# What cluster.yaml cannot change of the table.
OF_THE_TABLE: list[tuple[str, dict[str, object]]] = [
    ("kubelet", {"ca": "kubernetes"}),
    ("kubelet", {"usage": "both"}),
    ("kubelet", {"common_name": "system:node:cp-1"}),
    ("kubelet", {"organization": []}),
    ("kubelet", {"dns": ["api.example.com"]}),
    ("kubelet", {"kubeconfig": "k.conf"}),
    ("kubelet-client", {"organization": ["system:masters"]}),
    ("kubelet-client", {"kubeconfig": "other.conf"}),
    ("kubelet-client", {"kubeconfig": ""}),
    ("kubelet-client", {"dns": ["w-1"]}),
    ("kubelet-client", {"file": "kubelet"}),
    ("kube-proxy", {"role": "kubelet-client"}),
    ("kube-proxy", {"file": "etcd-ca"}),
]
OF_THE_HOLDER: list[tuple[str, object]] = [
    *(("node", node) for node in ("cp-1", None)),
    *(("roles", roles) for roles in (["etcd"], [], ["worker", "worker"])),
]


@pytest.mark.parametrize(
    ("name", "fields"),
    [
        *(("kube-proxy", {key: value}) for key, value in OF_ANY),
        *(("app", {key: value}) for key, value in OF_OWN),
        *OF_THE_TABLE,
        *(("", {key: value}) for key, value in OF_THE_HOLDER),
    ],
)
def test_a_record_that_apply_cannot_have_written_is_refused(
    cluster: Cluster, name: str, fields: dict[str, object]
) -> None:
    """Of a certificate, or of the holder."""
    record = of_node(cluster)
    (record if not name else next(each for each in record["certificates"] if each["name"] == name)).update(fields)
    with pytest.raises(SpecError, match=REFUSED):
        read(cluster, record)


@pytest.mark.parametrize(
    ("keys", "value"),
    [
        *((("templates", "audit", "file"), text) for text in ("../x", "a/b", ".x", "", "a\nb", "a b", "a" * 101)),
        *(
            (("endpoint",), text)
            for text in ("http://a", "https://", "https://a\n", "https://a/b", "https://u@a", None)
        ),
        *((("cluster",), text) for text in ("../x", "A", "a.b", "a" * 41)),
    ],
)
def test_a_cluster_record_that_apply_cannot_have_written_is_refused(
    cluster: Cluster, keys: tuple[str, ...], value: object
) -> None:
    record: dict[str, Any] = published.cluster_record(cluster, (), None, "a" * 64)
    assert published.read_cluster(record, where="record").templates == cluster.templates
    inner = record
    for key in keys[:-1]:
        inner = inner[key]
    inner[keys[-1]] = value
    with pytest.raises(SpecError, match=REFUSED):
        published.read_cluster(record, where="record")


@pytest.mark.parametrize(
    ("fields", "node"),
    [
        ({}, "x-1"),
        ({"roles": ["etcd"]}, "w-1"),
        ({"roles": ["worker", "control-plane"]}, "w-1"),
        ({"pool": "A"}, "w-1"),
    ],
)
def test_a_pools_record_is_for_workers_of_its_names(cluster: Cluster, fields: dict[str, object], node: str) -> None:
    pool = Pool("p", frozenset({NodeRole.WORKER}), "w-*")
    record = json.loads(json.dumps(published.pool_record(pool, node_certificates(cluster, pool))))
    assert read(cluster, record)[0] == pool.roles
    with pytest.raises(SpecError, match=REFUSED):
        read(cluster, {**record, **fields}, node)


@pytest.mark.parametrize(
    "file",
    [
        *("etcd-ca.crt", "Etcd-CA-chain.crt", "ca.crt", "ca.key", "sa.pub", "sa.key", "front-proxy-ca.key", "etcd"),
        *("kubelet.crt", "kubelet.conf", "KUBELET.key", "scheduler.conf", "admin.conf", "bundles", "x.key"),
    ],
)
def test_a_template_in_a_record_replaces_nothing(cluster: Cluster, file: str) -> None:
    record = published.cluster_record(cluster, (), None, "a" * 64)
    record["templates"]["bad"] = {"file": file, "text": "x", "roles": ["worker"]}
    with pytest.raises(SpecError, match=r"templates\.bad\.file: contains a value that vaultpki does not write"):
        published.read_cluster(record, where="record")


def test_a_template_in_a_record_has_no_file_of_the_nodes_own_certificates(cluster: Cluster) -> None:
    _, held = read(cluster, of_node(cluster))
    record = published.cluster_record(cluster, (), None, "a" * 64)
    published.refuse_file_names(held, published.read_cluster(record, where="record").templates, where="record")
    record["templates"]["bad"] = {"file": "TEAM.conf", "text": "x", "roles": ["worker"]}
    told = published.read_cluster(record, where="record")
    with pytest.raises(SpecError, match=r"templates\.bad\.file: .* also the file of app"):
        published.refuse_file_names(held, told.templates, where="record")


JOIN = {
    "version": 1,
    "cluster": "p",
    "prefix": "rr3",
    "namespace": "team1/prod",
    "node": "a" * 63 + ".b",
    "pool": None,
    "addresses": ["https://v:8200"],
    "ca_pem": None,
    "root_sha256": "a" * 64,
    "role_id": "r",
    "wrap_token": "t",
    "expires": "2026-05-01T12:00:00Z",
}


def test_a_join_file_with_a_short_prefix_and_a_long_name(tmp_path: Path) -> None:
    join = load_join(written(tmp_path, json.dumps(JOIN)))
    assert (join.prefix, join.node, join.namespace) == (JOIN["prefix"], JOIN["node"], "team1/prod")


def written(folder: Path, text: str, mode: int = 0o600) -> Path:
    path = folder / "join.json"
    path.write_text(text)
    path.chmod(mode)
    return path


@pytest.mark.parametrize("mode", [0o644, 0o640, 0o620, 0o602, 0o601, 0o660, 0o666])
def test_a_join_file_that_others_may_read_or_write_is_refused(tmp_path: Path, mode: int) -> None:
    with pytest.raises(SpecError, match="others may read or write it; `chmod 600` it, and ask for a new one if they"):
        load_join(written(tmp_path, json.dumps(JOIN), mode))


@pytest.mark.parametrize("mode", [0o400, 0o600, 0o700])
def test_a_join_file_of_its_owner_alone_is_taken(tmp_path: Path, mode: int) -> None:
    assert load_join(written(tmp_path, json.dumps(JOIN), mode)).node == JOIN["node"]


def test_a_link_to_a_join_file_and_what_is_no_file(tmp_path: Path) -> None:
    path = written(tmp_path, json.dumps(JOIN))
    (tmp_path / "link").symlink_to(path)
    with pytest.raises(SpecError, match=r"cannot be read \(it is a symbolic link\); name the join file"):
        load_join(tmp_path / "link")
    os.mkfifo(tmp_path / "fifo", 0o600)
    for other in (tmp_path / "fifo", tmp_path, Path("/dev/zero")):
        with pytest.raises(SpecError, match=r"(is not a file|cannot be read \(Is a directory\)); name the join file"):
            load_join(other)


def test_a_join_file_of_another_user_is_refused(tmp_path: Path) -> None:
    path = written(tmp_path, json.dumps(JOIN))
    if os.geteuid() == 0:
        os.chown(path, 65534, 65534)
        with pytest.raises(
            SpecError, match=r"belongs to the user 65534, who may have changed it\. If you trust it, give"
        ):
            load_join(path)
        os.chown(path, 0, 0)
    assert load_join(path).node == JOIN["node"]


def test_a_join_file_without_a_namespace_is_of_the_one_above_all(tmp_path: Path) -> None:
    for value in ({**JOIN, "namespace": None}, {key: value for key, value in JOIN.items() if key != "namespace"}):
        assert load_join(written(tmp_path, json.dumps(value))).namespace is None


@pytest.mark.parametrize(
    ("key", "value"),
    [
        *(("node", text) for text in ("../x", "a/b", "A", "", "a..b", "-a", "a\n", "10.0.0.1", "a" * 201, None)),
        *(("prefix", text) for text in ("", "/a", "a/", "a//b", "a/../b", "sys/a", "auth", "A", "a/*", "a\n")),
        *(("cluster", text) for text in ("../x", "a.b", "A", "", "a" * 41)),
        *(("pool", text) for text in ("../x", "a.b", "A", "", 7)),
        ("addresses", ["https://v:8200"] * 17),
        *(("namespace", text) for text in ("", "/", "a/", "/a", "a//b", "../a", "a b", "a\r\nX: y", "team1/sys", 7)),
        *(("ca_pem", text) for text in ("", "BEGIN CERTIFICATE", "-----BEGIN CERTIFICATE-----\nx", 7, False)),
        *(("version", value) for value in (0, "1", True, float("inf"))),
        *(("addresses", value) for value in ([], ["https://[::1"])),
        *(("expires", text) for text in ("2020-01-01", "2020-13-01T00:00:00Z")),
        ("role_id", 7),
        ("wrap_token", "s.a\r\nX-Vault-Token: b"),
        ("more", 1),
    ],
)
def test_a_join_file_that_enroll_cannot_have_written_is_refused(tmp_path: Path, key: str, value: object) -> None:
    with pytest.raises(SpecError, match="is not as `vaultpki enroll` writes it") as caught:
        load_join(written(tmp_path, json.dumps({**JOIN, key: value})))
    assert caught.value.field == key


WHOLE = json.dumps(JOIN)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "[]",
        "null",
        "version: 1\n",
        "[" * 200_000,
        '{"version": 1}' + " " * (1 << 20),
        *(WHOLE[:n] for n in range(5)),
    ]
    + [WHOLE[:length] for length in range(5, len(WHOLE), 17)],
    ids=len,
)
def test_what_is_no_whole_join_file_is_told(tmp_path: Path, text: str) -> None:
    with pytest.raises(SpecError, match="is not a join file"):
        load_join(written(tmp_path, text))
