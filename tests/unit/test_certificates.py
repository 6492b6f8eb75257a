"""The table beside the document it comes from, and the table's own order."""

from __future__ import annotations

import re
from collections import Counter
from dataclasses import FrozenInstanceError

import pytest

from vaultpki import certificates
from vaultpki.certificates import CSR_SIGNER, ISSUING_CAS, TABLE, bundle, chain_bundle, pair_files, resolve
from vaultpki.model import (
    ApiServer,
    Authority,
    Certificate,
    Cluster,
    KeyType,
    Node,
    NodeRole,
    Override,
    Pool,
    Row,
    Usage,
    VaultAddress,
)

# "Client Certificates for Clients" of the document: From, To, crt, key, as written there.
CLIENTS = """
| admin                   | kube-apiserver | admin.crt                  | admin.key                  |
| kube-scheduler          | kube-apiserver | kube-scheduler.crt         | kube-scheduler.key         |
| kube-controller-manager | kube-apiserver | controller-manager.crt     | controller-manager.key     |
| kube-proxy              | kube-apiserver | kube-proxy.crt             | kube-proxy.key             |
| kube-apiserver          | ETCD Server    | kube-apiserver-etcd.crt    | kube-apiserver-etcd.key    |
| kube-apiserver          | Kubelet Server | kube-apiserver-kubelet.crt | kube-apiserver-kubelet.key |
| kubelet Server          | kube-apiserver | kubelet-client.crt         | kubelet-client.key         |
"""
# "Server Certificates for Servers": Server, crt, key.
SERVERS = """
| kube-apiserver | kube-apiserver.crt | kube-apiserver.key |
| ETCD Server    | etcdserver.crt     | etcdserver.key     |
| Kubelet Server | kubelet.crt        | kubelet.key        |
"""
COMPONENT = {"etcd server": "etcd", "kubelet server": "kubelet"}

# The design's table: CN, O, issuing CA, kubeconfig, usage, the roles of the nodes that hold it.
CP, ETCD, WORKER = NodeRole.CONTROL_PLANE, NodeRole.ETCD, NodeRole.WORKER
DESIGN: list[tuple[str, str, tuple[str, ...], str, str | None, Usage, set[NodeRole]]] = [
    ("admin", "kubernetes-admin", ("kubeadm:cluster-admins",), "kubernetes", "admin.conf", Usage.CLIENT, set()),
    ("kube-scheduler", "system:kube-scheduler", (), "kubernetes", "scheduler.conf", Usage.CLIENT, {CP}),
    (
        "kube-controller-manager", "system:kube-controller-manager", (), "kubernetes", "controller-manager.conf",
        Usage.CLIENT, {CP},
    ),
    ("kube-proxy", "system:kube-proxy", (), "kubernetes", "kube-proxy.conf", Usage.CLIENT, {WORKER}),
    ("kube-apiserver-etcd", "kube-apiserver-etcd-client", (), "etcd", None, Usage.CLIENT, {CP}),
    ("kube-apiserver-kubelet", "kube-apiserver-kubelet-client", (), "kubernetes", None, Usage.CLIENT, {CP}),
    ("kubelet-client", "system:node:{node}", ("system:nodes",), "kubernetes", "kubelet.conf", Usage.CLIENT, {WORKER}),
    ("kube-apiserver", "kube-apiserver", (), "kubernetes", None, Usage.SERVER, {CP}),
    ("etcd-server", "{node}", (), "etcd", None, Usage.BOTH, {ETCD}),
    ("kubelet", "system:node:{node}", ("system:nodes",), "kubelet", None, Usage.SERVER, {WORKER}),
    ("etcd-peer", "{node}", (), "etcd", None, Usage.BOTH, {ETCD}),
    ("etcd-healthcheck-client", "kube-etcd-healthcheck-client", (), "etcd", None, Usage.CLIENT, {ETCD}),
    ("front-proxy-client", "front-proxy-client", (), "front-proxy", None, Usage.CLIENT, {CP}),
    (
        "super-admin", "kubernetes-super-admin", ("system:masters",), "kubernetes", "super-admin.conf", Usage.CLIENT,
        set(),
    ),
    ("signer", "vaultpki:signer", (), "kubernetes", "signer.conf", Usage.CLIENT, {CP}),
    ("service-account", "sa:{node}:{number}", (), "service-account", None, Usage.SIGNING, {CP}),
]  # fmt: skip

LISTED = Node("cp-1", frozenset(NodeRole), ("10.0.0.11", "fd00::11"))
POOL = Pool("auto", frozenset({WORKER}), "w-*")
CLUSTER = Cluster(
    name="prod",
    prefix="vaultpki/prod",
    vault=VaultAddress(),
    api_server=ApiServer(
        "https://api.example.com:6443", ("api.example.com",), ("10.0.0.10",), ("10.96.0.0/12", "fd00:1::/112"), "k8s.x"
    ),
    nodes=(LISTED,),
    pools=(POOL,),
    authority=Authority(10 * 31536000, 5 * 31536000),
    ttl=2592000,
    key=KeyType.EC_P256,
)


def cells(table: str) -> list[list[str]]:
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in table.strip().splitlines()]


def component(spelling: str) -> str:
    return COMPONENT.get(spelling.lower(), spelling)


def test_client_rows_are_the_documents_in_its_order() -> None:
    expected = [[component(source), component(target), crt, key] for source, target, crt, key in cells(CLIENTS)]
    rows = [row for row in TABLE if row.document][: len(expected)]
    assert [[row.source, row.target, *pair_files(row.stem)[:2]] for row in rows] == expected
    assert {row.usage for row in rows} == {Usage.CLIENT}


def test_server_rows_are_the_documents_in_its_order() -> None:
    expected = [[component(server), crt, key] for server, crt, key in cells(SERVERS)]
    rows = [row for row in TABLE if row.document][len(cells(CLIENTS)) :]
    assert [[row.source, *pair_files(row.stem)[:2]] for row in rows] == expected
    assert all(row.usage.server for row in rows)


def test_the_documents_rows_come_first_and_are_ten() -> None:
    assert [row.document for row in TABLE] == [True] * 10 + [False] * 6


def test_rows_are_the_designs() -> None:
    assert [
        (row.name, row.common_name, row.organization, row.ca, row.kubeconfig, row.usage, set(row.node_roles))
        for row in TABLE
    ] == DESIGN


def test_every_row_says_in_one_sentence_what_it_is_for() -> None:
    for row in TABLE:
        assert re.fullmatch(r"[A-Z][^.]{20,118}\.", row.purpose), row.name
    assert len({row.purpose for row in TABLE}) == len(TABLE)


def test_further_rows_use_their_names_as_file_names() -> None:
    assert all(row.stem == row.name for row in TABLE if not row.document and row.usage.tls)


def test_names_and_files_are_unique_and_cas_known() -> None:
    assert not [name for name, count in Counter(row.name for row in TABLE).items() if count > 1]
    files = [file for row in TABLE for file in (*pair_files(row.stem), row.kubeconfig) if file]
    files += [file for ca in ISSUING_CAS for file in (bundle(ca), chain_bundle(ca))]
    assert not [file for file, count in Counter(files).items() if count > 1]
    assert {row.ca for row in TABLE if row.usage.tls} == set(ISSUING_CAS)


def test_bundles_are_the_designs() -> None:
    assert {bundle(ca) for ca in ISSUING_CAS} == {
        "kubernetes-ca.crt", "kubelet-ca.crt", "etcd-ca.crt", "front-proxy-ca.crt",
    }  # fmt: skip
    assert chain_bundle("etcd") == "etcd-ca-chain.crt"


def test_common_names_fit() -> None:
    assert all(len(row.common_name.replace("{node}", "n" * 52)) <= 64 for row in TABLE)


def test_super_admin_lives_eight_hours_and_no_operator_row_is_a_nodes() -> None:
    (super_admin,) = [row for row in TABLE if row.name == "super-admin"]
    assert super_admin.ttl == 8 * 3600
    assert [row.name for row in TABLE if row.operator] == ["admin", "super-admin"]
    assert not [row for row in certificates.node_rows(CLUSTER, LISTED) if row.operator]


def test_rows_are_frozen() -> None:
    with pytest.raises(FrozenInstanceError):
        TABLE[0].ttl = 1  # type: ignore[misc]


def get(name: str, holder: Node | Pool | None = LISTED, cluster: Cluster = CLUSTER) -> Certificate:
    return resolve(certificates.row_named(cluster, name), cluster, holder)


def test_kube_apiserver_of_a_listed_node() -> None:
    found = get("kube-apiserver")
    assert found.subject.common_name == "kube-apiserver"
    assert found.subject.dns == (
        "kubernetes", "kubernetes.default", "kubernetes.default.svc", "kubernetes.default.svc.k8s.x", "cp-1",
        "api.example.com",
    )  # fmt: skip
    assert found.subject.ips == ("10.96.0.1", "fd00:1::1", "10.0.0.11", "fd00::11", "10.0.0.10", "127.0.0.1")
    assert (found.mount, found.role, found.ttl) == ("vaultpki/prod/kubernetes", "kube-apiserver", 2592000)


@pytest.mark.parametrize("name", ["etcd-server", "etcd-peer"])
def test_etcd_of_a_listed_node(name: str) -> None:
    subject = get(name).subject
    assert (subject.common_name, subject.dns) == ("cp-1", ("cp-1", "localhost"))
    assert subject.ips == ("10.0.0.11", "fd00::11", "127.0.0.1", "::1")


def test_kubelet_of_a_listed_node_and_of_a_pool() -> None:
    listed, pooled = get("kubelet"), get("kubelet", POOL)
    assert (listed.subject.common_name, listed.subject.organization) == ("system:node:cp-1", ("system:nodes",))
    assert (listed.subject.dns, listed.subject.ips) == (("cp-1",), ("10.0.0.11", "fd00::11"))
    assert (listed.role, pooled.role) == ("kubelet", "kubelet-auto")
    assert pooled.subject.common_name == "system:node:{node}"
    assert (pooled.subject.dns, pooled.subject.ips) == (("{node}",), ())


def test_a_row_without_addresses_has_one_role_for_both() -> None:
    assert get("kubelet-client").role == get("kubelet-client", POOL).role == "kubelet-client"


def test_operators_rows_have_no_holder() -> None:
    assert get("admin", None).subject.common_name == "kubernetes-admin"
    assert get("super-admin", None).ttl == 8 * 3600


def test_node_rows_follow_roles() -> None:
    def names(*roles: NodeRole) -> set[str]:
        return {row.name for row in certificates.node_rows(CLUSTER, Node("n", frozenset(roles)))}

    assert names(WORKER) == {"kubelet", "kubelet-client", "kube-proxy"}
    assert names(ETCD) == {"etcd-server", "etcd-peer", "etcd-healthcheck-client"}
    assert names(CP) == {
        "kube-apiserver", "kube-apiserver-etcd", "kube-apiserver-kubelet", "front-proxy-client", "kube-scheduler",
        "kube-controller-manager",
    }  # fmt: skip
    assert names(CP, ETCD, WORKER) == names(CP) | names(ETCD) | names(WORKER)


def test_overrides_make_new_rows_and_leave_the_table() -> None:
    from dataclasses import replace

    before = tuple(TABLE)
    own = Row(
        name="app", usage=Usage.CLIENT, source="app", common_name="app", ca="kubernetes", stem="app", built_in=False
    )
    cluster = replace(
        CLUSTER,
        overrides={"kubelet": Override(60, KeyType.RSA_2048, ("k.{domain}",), ("192.0.2.1",), "kl")},
        rows=(own,),
    )
    found = get("kubelet", cluster=cluster)
    assert (found.ttl, found.key, found.stem) == (60, KeyType.RSA_2048, "kl")
    assert found.subject.dns == ("cp-1", "k.k8s.x")
    assert found.subject.ips == ("10.0.0.11", "fd00::11", "192.0.2.1")
    assert certificates.rows(cluster)[-1] == own
    assert before == TABLE
    assert certificates.rows(CLUSTER) == tuple(row for row in TABLE if row.usage.tls and row.name != CSR_SIGNER)


def test_shortest_ttl_leaves_a_third_for_the_consumer() -> None:
    shortest = {row.name: certificates.shortest_ttl(row) for row in TABLE}
    assert shortest["kube-scheduler"] == 1800
    assert shortest["kube-apiserver"] == 900
    assert all(shortest[row.name] / 3 >= row.reload + certificates.SKEW for row in TABLE)
