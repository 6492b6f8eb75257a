"""Refusals of cluster.yaml's certificates and templates: the file, the line, the field and what would be right."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest

from helpers.example_cluster import BASE, CP, W, check_refused
from vaultpki.config import limits
from vaultpki.config.cluster import load_cluster
from vaultpki.config.cluster_schema import MOST_NODES, schema
from vaultpki.errors import SpecError
from vaultpki.identity.access import node_certificates
from vaultpki.identity.applied import AppliedRecord, node_objects, of_cluster
from vaultpki.identity.token_rights import PATHS_AT_ONCE
from vaultpki.provision.desired import desired
from vaultpki.records import published
from vaultpki.records.published import MOST_CERTIFICATES
from vaultpki.records.server_facts import ServerFacts
from vaultpki.vault.answers import BODY_LIMIT

CERT = BASE + "certificates: "


def certificate(name: str, **keys: str) -> str:
    own = {"kind": "client", "common_name": "app", "ca": "kubernetes", "roles": "[worker]", **keys}
    return BASE + f"certificates:\n  {name}:\n" + "".join(f"    {k}: {v}\n" for k, v in own.items() if v)


EXTRA_ALONE = """cluster: prod
api_server: {endpoint: https://api.internal}
certificates:
  app: {kind: server, common_name: a, ca: kubernetes, roles: [worker], names: [api.internal]}
  kube-apiserver: {extra_names: [api.internal]}
"""

REFUSED: dict[str, tuple[str, int | None, str, str]] = {
    # the table's certificates
    "misspelt certificate": (
        CERT + "{kube-api-server: {ttl: 7d}}\n",
        5,
        "certificates.kube-api-server",
        "mean kube-apiserver?",
    ),
    "names of a client": (
        CERT + "{admin: {extra_names: [a.b]}}\n",
        5,
        "certificates.admin.extra_names",
        "common name alone",
    ),
    "an operator's that is not stored": (
        CERT + "{admin: {no_store: true}}\n",
        5,
        "certificates.admin.no_store",
        "leave no_store out",
    ),
    "addresses of a client": (
        CERT + "{admin: {extra_addresses: [10.0.0.1]}}\n",
        5,
        "certificates.admin.extra_addresses",
        "client's",
    ),
    "extra name": (CERT + "{kubelet: {extra_names: ['*.x']}}\n", 5, "certificates.kubelet.extra_names[0]", "wildcard"),
    "file with folder": (CERT + "{admin: {file: ../x}}\n", 5, "certificates.admin.file", "plain file name"),
    "hidden file": (CERT + "{admin: {file: .x}}\n", 5, "certificates.admin.file", "plain file name"),
    "file with extension": (CERT + "{admin: {file: x.crt}}\n", 5, "certificates.admin.file", "write x"),
    "file of another": (CERT + "{admin: {file: kubelet}}\n", 5, "certificates.admin.file", "also the file of kubelet"),
    "file of a bundle": (CERT + "{admin: {file: etcd-ca-chain}}\n", 5, "certificates.admin.file", "bundle of CA etcd"),
    "folder of another": (
        CERT + "{admin: {file: kube.admin}, super-admin: {file: kube_admin}}\n",
        5,
        "certificates.super-admin.file",
        "same folder as admin",
    ),
    "file of kubeadm's CA": (CERT + "{admin: {file: ca}}\n", 5, "certificates.admin.file", "kubeadm's CA"),
    "file of kubeadm's keys": (CERT + "{admin: {file: sa}}\n", 5, "certificates.admin.file", "kubeadm's service"),
    "file of the lock": (CERT + "{admin: {file: lock}}\n", 5, "certificates.admin.file", "as the lock"),
    "kubeconfig of another's pair": (
        certificate("app", kubeconfig="kube-proxy.conf"),
        11,
        "certificates.app.kubeconfig",
        "of kube-proxy",
    ),
    "folder of the bundles": (CERT + "{admin: {file: bundles}}\n", 5, "certificates.admin.file", "as the bundles"),
    # a user's own certificates
    "own without CN": (certificate("app", common_name=""), 6, "certificates.app.common_name", "is missing"),
    "own upper-case": (certificate("App"), 6, "certificates.App", "write app"),
    "own with glob": (certificate('"a*"'), 6, "certificates['a*']", "not a valid name"),
    "own kind": (certificate("app", kind="peer"), 7, "certificates.app.kind", "client, server, both"),
    "own CA": (certificate("app", ca="root"), 9, "certificates.app.ca", "kubernetes, kubelet, etcd, front-proxy"),
    "own no roles": (certificate("app", roles="[]"), 10, "certificates.app.roles", "at least 1"),
    "CN comma": (certificate("app", common_name='"a,b"'), 8, "certificates.app.common_name", "ASCII"),
    "CN newline": (certificate("app", common_name='"a\\nb"'), 8, "certificates.app.common_name", "ASCII"),
    "CN glob": (certificate("app", common_name='"a*"'), 8, "certificates.app.common_name", "ASCII"),
    "CN mail": (certificate("app", common_name='"a@b"'), 8, "certificates.app.common_name", "ASCII"),
    "CN non-ASCII": (certificate("app", common_name="ä"), 8, "certificates.app.common_name", "ASCII"),
    "CN Vault's template": (
        certificate("app", common_name='"{{identity.x}}"'),
        8,
        "certificates.app.common_name",
        "{node}",
    ),
    "CN long": (certificate("app", common_name="a" * 65), 8, "certificates.app.common_name", "at most 64"),
    "CN long when filled": (
        certificate("app", common_name="'" + "a" * 62 + "{node}'"),
        8,
        "certificates.app.common_name",
        "65 char",
    ),
    "CN of another": (
        certificate("app", common_name='"system:kube-scheduler"'),
        8,
        "certificates.app.common_name",
        "kube-scheduler",
    ),
    "CN of another in other case": (
        certificate("app", common_name="Kubernetes-Admin"),
        8,
        "certificates.app.common_name",
        "the identity of admin",
    ),
    "CN of another by a pool": (
        certificate("app", common_name="'{node}'") + "pools: [{name: p, roles: [worker], node_names: 'kube-*'}]\n",
        8,
        "certificates.app.common_name",
        "the identity of kube-apiserver-kubelet",
    ),
    "CN of a node": (
        certificate("app", common_name='"system:node:cp-1"'),
        8,
        "certificates.app.common_name",
        "system:",
    ),
    "CN of a service account": (
        certificate("app", common_name='"system:serviceaccount:kube-system:x"'),
        8,
        "certificates.app.common_name",
        "reserved",
    ),
    "masters": (
        certificate("app", organization='["system:masters"]'),
        11,
        "certificates.app.organization[0]",
        "super-admin",
    ),
    "masters in other case": (
        certificate("app", organization='["System:Masters"]'),
        11,
        "certificates.app.organization[0]",
        "super-admin",
    ),
    "admins": (
        certificate("app", organization='["kubeadm:cluster-admins"]'),
        11,
        "certificates.app.organization[0]",
        "of admin",
    ),
    "nodes": (
        certificate("app", organization='["system:nodes"]'),
        11,
        "certificates.app.organization[0]",
        "common_name",
    ),
    "client with names": (certificate("app", names="[a.b]"), 11, "certificates.app.names", "kind client"),
    "server without names": (certificate("app", kind="server"), 6, "certificates.app", "add names or addresses"),
    "placeholder": (
        certificate("app", kind="server", names="['{pod}.x']"),
        11,
        "certificates.app.names[0]",
        "{node} and {domain}",
    ),
    "address placeholder": (
        certificate("app", kind="server", addresses="['{node}']"),
        11,
        "certificates.app.addresses[0]",
        "{node_addresses}",
    ),
    "API's name": (
        certificate("app", kind="server", names="[kubernetes.default.svc]"),
        11,
        "certificates.app.names[0]",
        "API server's",
    ),
    "API's service address": (
        certificate("app", kind="server", addresses="[10.96.0.1]"),
        11,
        "certificates.app.addresses[0]",
        "API server's",
    ),
    "API's node by its name": (
        certificate("app", kind="server", names="[a.b, cp-1]"),
        11,
        "certificates.app.names[1]",
        "with cp-1 this certificate could pass for the API server's",
    ),
    "API's node by its address": (
        certificate("app", kind="server", addresses="[10.0.0.11]"),
        11,
        "certificates.app.addresses[0]",
        "with 10.0.0.11 this certificate could pass for the API server's",
    ),
    "API's further name": (
        certificate("app", kind="server", names="[api.internal]") + "  kube-apiserver: {extra_names: [api.internal]}\n",
        11,
        "certificates.app.names[0]",
        "with api.internal this certificate could pass for the API server's",
    ),
    "API's further name on a worker": (
        CERT + "{kube-apiserver: {extra_names: [w-1]}}\n",
        4,
        "nodes[1].name",
        "also in certificates.kube-apiserver.extra_names",
    ),
    "API's further address": (
        certificate("app", kind="server", addresses="[10.0.0.99]")
        + "  kube-apiserver: {extra_addresses: [10.0.0.99]}\n",
        11,
        "certificates.app.addresses[0]",
        "with 10.0.0.99 this",
    ),
    "API's node, also on its own": (
        certificate("app", kind="both", roles="[control-plane, worker]", names="[cp-1]"),
        11,
        "certificates.app.names[0]",
        "with cp-1 this",
    ),
    "API's further name by a pool": (
        certificate("app", kind="server", names="['{node}']")
        + "  kube-apiserver: {extra_names: [api.internal]}\n"
        + "pools: [{name: p, roles: [worker], node_names: 'api.*'}]\n",
        11,
        "certificates.app.names[0]",
        "with api.internal this",
    ),
    "API's further name where no node is listed": (
        EXTRA_ALONE,
        4,
        "certificates.app.names[0]",
        "with api.internal this",
    ),
    "API's further name on another node, filled": (
        "cluster: prod\nnodes:\n" + CP + "\n- {name: cp-1.a, roles: [etcd], addresses: [10.0.0.21]}\n"
        "certificates: {kube-apiserver: {extra_names: ['{node}.a']}}\n",
        4,
        "nodes[1].name",
        "extra_names",
    ),
    "API's further address on a worker": (
        CERT + "{kube-apiserver: {extra_addresses: [10.0.0.21]}}\n",
        4,
        "nodes[1].addresses[0]",
        "certificates.kube-apiserver.extra_addresses",
    ),
    "kubeconfig name": (certificate("app", kubeconfig="app.yaml"), 11, "certificates.app.kubeconfig", ".conf"),
    "kubeconfig of a server": (
        certificate("app", kind="server", names="[a.b]", kubeconfig="app.conf"),
        12,
        "certificates.app.kubeconfig",
        "kind client",
    ),
    "kubeconfig of etcd": (
        certificate("app", ca="etcd", kubeconfig="app.conf"),
        11,
        "certificates.app.kubeconfig",
        "ca: kubernetes",
    ),
    "kubeconfig of another": (
        certificate("app", kubeconfig="scheduler.conf"),
        11,
        "certificates.app.kubeconfig",
        "kube-scheduler",
    ),
    "own file of another": (certificate("app", file="kubelet"), 11, "certificates.app.file", "kubelet"),
    "own name of a file": (certificate("etcdserver"), 6, "certificates.etcdserver", "etcd-server"),
    "own short": (certificate("app", ttl="1m"), 11, "certificates.app.ttl", "at least 15m"),
    "own name of a role": (
        certificate("kubelet-p") + "pools: [{name: p, roles: [worker], node_names: 'p-*'}]\n",
        6,
        "certificates.kubelet-p",
        "rename",
    ),
    # templates
    "template nowhere": (
        BASE + "templates: {a: {file: a.txt, template: nowhere.tmpl, roles: [worker]}}\n",
        5,
        "templates.a.template",
        "no such",
    ),
}


@pytest.mark.parametrize("case", REFUSED)
def test_refused(case: str, tmp_path: Path) -> None:
    check_refused(tmp_path, *REFUSED[case])


@pytest.mark.parametrize(
    ("file", "content", "field", "hint"),
    [
        ("a.txt", b"x" * (64 * 1024 + 1), "template", "larger than 64 KiB"),
        ("a.txt", b"a\0b", "template", "NUL"),
        ("a.txt", b"\xff", "template", "not UTF-8"),
        ("sub/a.txt", b"x", "file", "plain file name"),
        (".a", b"x", "file", "plain file name"),
        ("kubelet.crt", b"x", "file", "kubelet"),
        ("KUBELET.crt", b"x", "file", "kubelet"),
        ("kubelet.conf", b"x", "file", "kubelet-client"),
        ("etcd-ca.crt", b"x", "file", "bundle"),
        ("Etcd-CA-Chain.PEM", b"x", "file", "bundle"),
        ("ca.crt", b"x", "file", "kubeadm"),
        ("sa.pub", b"x", "file", "kubeadm"),
        ("front-proxy-ca.key", b"x", "file", "bundle"),
        ("etcd", b"x", "file", "kubeadm's folder"),
        ("bundles", b"x", "file", "store"),
        ("kubelet.pub", b"x", "file", "kubelet"),
        ("mine.key", b"x", "file", "no template"),
    ],
)
def test_template_refused(file: str, content: bytes, field: str, hint: str, tmp_path: Path) -> None:
    (tmp_path / "a.tmpl").write_bytes(content)
    path = tmp_path / "cluster.yaml"
    path.write_text(BASE + f"templates:\n  a:\n    template: a.tmpl\n    file: {file}\n    roles: [worker]\n")
    with pytest.raises(SpecError, match=hint) as caught:
        load_cluster(path)
    assert (caught.value.line, caught.value.field) == (7 if field == "template" else 8, f"templates.a.{field}")


def many(count: int, **keys: str) -> str:
    """As many certificates of one's own for workers; the first begins in line 6."""
    own = {"kind": "client", "ca": "kubernetes", "roles": "[worker]", **keys}
    rest = ", ".join(f"{k}: {v}" for k, v in own.items())
    return CERT + "\n" + "".join(f"  own-{n}: {{common_name: app-{n}, {rest}}}\n" for n in range(count))


def names(count: int, domain: str = "a") -> str:
    return "[" + ", ".join(f"n{n}.{domain}" for n in range(count)) + "]"


def addresses(network: str = "10.9.9") -> str:
    return "[" + ", ".join(f"{network}.{n}" for n in range(100)) + "]"


SERVER = {"kind": "server", "ca": "kubelet"}


def test_as_many_certificates_as_a_record_holds(tmp_path: Path) -> None:
    path = tmp_path / "cluster.yaml"
    path.write_text(many(MOST_CERTIFICATES - 3))
    cluster = load_cluster(path)
    worker = cluster.nodes[1]
    record = published.node_record(worker, node_certificates(cluster, worker), "r")
    assert len(record["certificates"]) == MOST_CERTIFICATES
    assert published.strings({"data": record}) < published.MOST_STRINGS
    assert len(published.read_certificates(record, node="w-1", prefix=cluster.prefix, where="record")[1]) == 40


@pytest.mark.parametrize(
    ("text", "line", "field", "hint"),
    [
        (many(MOST_CERTIFICATES - 2), 43, "certificates.own-37", "with this w-1 has 41 certificates"),
        (
            BASE.replace(W, "") + "pools: [{name: p, roles: [worker], node_names: 'p-*'}]\n" + many(98)[len(BASE) :],
            44,
            "certificates.own-37",
            "with this p has 101 certificates, and its record has room for 40",
        ),
        (many(9, **SERVER, names=names(90)), 6, "certificates.own-0", "more than 900 in one request"),
        (
            CERT + "{" + ", ".join(f"{n}: {{extra_names: {names(100)}, extra_addresses: {addresses()}}}"
                                   for n in ("etcd-server", "etcd-peer", "kube-apiserver", "kubelet")) + "}\n"
            + f"api_server: {{names: {names(100, 'b')}, addresses: {addresses('10.9.8')}}}\n",
            5,
            "certificates.kube-apiserver",
            "the certificates of cp-1, with all names and addresses",
        ),
    ],
)  # fmt: skip
def test_more_than_a_record_holds_is_refused(text: str, line: int, field: str, hint: str, tmp_path: Path) -> None:
    path = tmp_path / "cluster.yaml"
    path.write_text(text)
    with pytest.raises(SpecError, match=hint) as caught:
        load_cluster(path)
    assert (caught.value.file, caught.value.line, caught.value.field) == (str(path), line, field)


@pytest.mark.parametrize(
    ("count", "content", "roles", "field"),
    [
        (9, "x" * 65000, "[worker]", "templates.t0.template"),
        (3, "<" * 65000, "[worker]", "templates.t0.template"),
        (3, "\u20ac" * 21000 + "&" * 2000, "[worker]", None),
        (7, "x" * 65000, "[worker]", None),
        (100, "x", "[control-plane, etcd, worker]", "templates"),
        (100, "x", "[worker]", None),
    ],
)
def test_templates_together(count: int, content: str, roles: str, field: str | None, tmp_path: Path) -> None:
    (tmp_path / "a.tmpl").write_text(content)
    path = tmp_path / "cluster.yaml"
    lines = [f"  t{n}: {{file: f{n}, roles: {roles}, template: a.tmpl}}\n" for n in range(count)]
    path.write_text(BASE + "templates:\n" + "".join(lines))
    if field is None:
        record = published.cluster_record(load_cluster(path), ("https://v",) * 16, "x" * 262144, "a" * 64)
        assert len(json.dumps({"data": record})) < (1 << 20) and published.strings({"data": record}) < 1000
        return
    with pytest.raises(SpecError, match="leave some out") as caught:
        load_cluster(path)
    assert caught.value.field == field and caught.value.line == (6 if field != "templates" else 5)


def listed(count: int, ending: str = "", roles: str = "[worker]") -> str:
    """A cluster of `count` listed nodes, two of which are those of BASE."""
    made = (
        f"- {{name: n-{n:04}{ending}, roles: {roles}, addresses: [10.1.{n // 250}.{n % 250}]}}\n"
        for n in range(count - 2)
    )
    return BASE + "".join(made)


def test_nodes_that_apply_could_not_remember_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "cluster.yaml"
    # Who has no name of its own in a CN may have one of 200 characters.
    path.write_text(listed(MOST_NODES, f".{'.'.join(['c' * 60] * 3)}", "[control-plane]"))
    with pytest.raises(SpecError, match=f"{MOST_NODES} nodes") as caught:
        load_cluster(path)
    assert (caught.value.line, caught.value.field) == (2, "nodes")


def test_the_largest_cluster_is_remembered(tmp_path: Path) -> None:
    path = tmp_path / "cluster.yaml"
    # As long as a worker's name and a prefix may be.
    path.write_text(listed(MOST_NODES, f".{'d' * 45}") + f"prefix: {'p' * 63}/{'q' * 63}\n")
    cluster = load_cluster(path)
    known = ServerFacts(role_ids={node.name: str(uuid4()) for node in cluster.nodes})
    # The plain rules of one node stand for all: only the names count here.
    memory = of_cluster(cluster, known, desired(replace(cluster, nodes=cluster.nodes[:2]), known))
    names = {name: node_objects(cluster, name) for name in known.role_ids}
    memory = replace(memory, objects=memory.objects.union(*names.values()))
    record = memory.record(cluster)
    assert published.size(record) < limits._remembered_nodes(cluster) + limits._remembered_others(cluster)
    assert published.size(record) < published.MOST_APPLIED_BYTES // 2
    assert AppliedRecord.read(cluster, record) == memory
    # One of whose objects something is missing keeps its own lines.
    lacking = replace(memory, objects=memory.objects - {next(iter(names[cluster.nodes[0].name]))})
    assert AppliedRecord.read(cluster, lacking.record(cluster)) == lacking
    # A release that knows no other form reads that of every cluster it takes.
    small = replace(cluster, nodes=cluster.nodes[:1000])
    few = of_cluster(small, known, [key for node in small.nodes for key in names[node.name]]).record(small)
    assert few.keys() == {"version", "objects", "role_ids", "pools"}


def test_what_a_server_says_of_the_largest_cluster_fits_into_one_answer() -> None:
    # The longest names and prefixes that the spec takes.
    names = [f"{n:04}{'n' * 196}" for n in range(MOST_NODES)]
    assert len(json.dumps({"request_id": str(uuid4()), "data": {"keys": names}})) < BODY_LIMIT
    may = ["create", "delete", "list", "patch", "read", "sudo", "update"]
    paths = {f"{'p' * 128}/config/metadata/nodes/{name}": may for name in names[:PATHS_AT_ONCE]}
    assert len(json.dumps({**paths, "data": paths})) < BODY_LIMIT


def test_more_nodes_than_kubernetes_holds_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "cluster.yaml"
    path.write_text(listed(MOST_NODES + 1))
    with pytest.raises(SpecError, match="the list has 5001 items: write at most 5000") as caught:
        load_cluster(path)
    assert (caught.value.line, caught.value.field) == (2, "nodes")
    declared: Any = schema()
    assert declared["properties"]["nodes"]["maxItems"] == 5000
