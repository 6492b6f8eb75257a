"""Refusals of cluster.yaml's certificates and templates: the file, the line, the field and what would be right."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest

from helpers.example_cluster import BASE, CP, W, check_refused
from vaultpki.config import consistency
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


Refused = tuple[str, int, str, str]


def inline(name: str, key: str, value: str, hint: str, at: str = "") -> Refused:
    """One key of a certificate of the table is wrong."""
    return CERT + f"{{{name}: {{{key}: {value}}}}}\n", 5, f"certificates.{name}.{key}{at}", hint


def own(field: str, hint: str, *, name: str = "app", after: str = "", **keys: str) -> Refused:
    """A certificate of one's own is wrong in this field, or as a whole; `after` is the rest of the file."""
    text = certificate(name, **keys)
    (line,) = [
        n for n, each in enumerate(text.splitlines(), 1) if each.startswith(f"    {field.partition('[')[0]}:")
    ] or [6]
    where = "['a*']" if name == '"a*"' else f".{name}"
    return text + after, line, f"certificates{where}" + f".{field}" * bool(field), hint


EXTRA_ALONE = """cluster: prod
api_server: {endpoint: https://api.internal}
certificates:
  app: {kind: server, common_name: a, ca: kubernetes, roles: [worker], names: [api.internal]}
  kube-apiserver: {extra_names: [api.internal]}
"""

REFUSED: dict[str, Refused] = {
    # the table's certificates
    "misspelt certificate": (
        CERT + "{kube-api-server: {ttl: 7d}}\n",
        5,
        "certificates.kube-api-server",
        "mean kube-apiserver?",
    ),
    "names of a client": inline("admin", "extra_names", "[a.b]", "common name alone"),
    "an operator's that is not stored": inline("admin", "no_store", "true", "leave no_store out"),
    "addresses of a client": inline("admin", "extra_addresses", "[10.0.0.1]", "client's"),
    "extra name": inline("kubelet", "extra_names", "['*.x']", "wildcard", at="[0]"),
    "file with folder": inline("admin", "file", "../x", "plain file name"),
    "hidden file": inline("admin", "file", ".x", "plain file name"),
    "file with extension": inline("admin", "file", "x.crt", "write x"),
    "file of another": inline("admin", "file", "kubelet", "also the file of kubelet"),
    "file of a bundle": inline("admin", "file", "etcd-ca-chain", "bundle of CA etcd"),
    "folder of another": (
        CERT + "{admin: {file: kube.admin}, super-admin: {file: kube_admin}}\n",
        5,
        "certificates.super-admin.file",
        "same folder as admin",
    ),
    "file of kubeadm's CA": inline("admin", "file", "ca", "kubeadm's CA"),
    "file of kubeadm's keys": inline("admin", "file", "sa", "kubeadm's service"),
    "file of the lock": inline("admin", "file", "lock", "as the lock"),
    "kubeconfig of another's pair": own("kubeconfig", "of kube-proxy", kubeconfig="kube-proxy.conf"),
    "folder of the bundles": inline("admin", "file", "bundles", "as the bundles"),
    # a user's own certificates
    "own without CN": own("common_name", "is missing", common_name=""),
    "own upper-case": own("", "write app", name="App"),
    "own with glob": own("", "not a valid name", name='"a*"'),
    "own kind": own("kind", "client, server, both", kind="peer"),
    "own CA": own("ca", "kubernetes, kubelet, etcd, front-proxy", ca="root"),
    "own no roles": own("roles", "at least 1", roles="[]"),
    "CN comma": own("common_name", "ASCII", common_name='"a,b"'),
    "CN newline": own("common_name", "ASCII", common_name='"a\\nb"'),
    "CN glob": own("common_name", "ASCII", common_name='"a*"'),
    "CN mail": own("common_name", "ASCII", common_name='"a@b"'),
    "CN non-ASCII": own("common_name", "ASCII", common_name="ä"),
    "CN Vault's template": own("common_name", "{node}", common_name='"{{identity.x}}"'),
    "CN long": own("common_name", "at most 64", common_name="a" * 65),
    "CN long when filled": own("common_name", "65 char", common_name="'" + "a" * 62 + "{node}'"),
    "CN of another": own("common_name", "kube-scheduler", common_name='"system:kube-scheduler"'),
    "CN of another in other case": own("common_name", "the identity of admin", common_name="Kubernetes-Admin"),
    "CN of another by a pool": own(
        "common_name",
        "the identity of kube-apiserver-kubelet",
        after="pools: [{name: p, roles: [worker], node_names: 'kube-*'}]\n",
        common_name="'{node}'",
    ),
    "CN of a node": own("common_name", "system:", common_name='"system:node:cp-1"'),
    "CN of a service account": own("common_name", "reserved", common_name='"system:serviceaccount:kube-system:x"'),
    "masters": own("organization[0]", "super-admin", organization='["system:masters"]'),
    "masters in other case": own("organization[0]", "super-admin", organization='["System:Masters"]'),
    "admins": own("organization[0]", "of admin", organization='["kubeadm:cluster-admins"]'),
    "nodes": own("organization[0]", "common_name", organization='["system:nodes"]'),
    "client with names": own("names", "kind client", names="[a.b]"),
    "server without names": own("", "add names or addresses", kind="server"),
    "placeholder": own("names[0]", "{node} and {domain}", kind="server", names="['{pod}.x']"),
    "address placeholder": own("addresses[0]", "{node_addresses}", kind="server", addresses="['{node}']"),
    "API's name": own("names[0]", "API server's", kind="server", names="[kubernetes.default.svc]"),
    "API's service address": own("addresses[0]", "API server's", kind="server", addresses="[10.96.0.1]"),
    "API's node by its name": own(
        "names[1]", "with cp-1 this certificate could pass for the API server's", kind="server", names="[a.b, cp-1]"
    ),
    "API's node by its address": own(
        "addresses[0]",
        "with 10.0.0.11 this certificate could pass for the API server's",
        kind="server",
        addresses="[10.0.0.11]",
    ),
    "API's further name": own(
        "names[0]",
        "with api.internal this certificate could pass for the API server's",
        after="  kube-apiserver: {extra_names: [api.internal]}\n",
        kind="server",
        names="[api.internal]",
    ),
    "API's further name on a worker": (
        CERT + "{kube-apiserver: {extra_names: [w-1]}}\n",
        4,
        "nodes[1].name",
        "also in certificates.kube-apiserver.extra_names",
    ),
    "API's further address": own(
        "addresses[0]",
        "with 10.0.0.99 this",
        after="  kube-apiserver: {extra_addresses: [10.0.0.99]}\n",
        kind="server",
        addresses="[10.0.0.99]",
    ),
    "API's node, also on its own": own(
        "names[0]", "with cp-1 this", kind="both", roles="[control-plane, worker]", names="[cp-1]"
    ),
    "API's further name by a pool": own(
        "names[0]",
        "with api.internal this",
        after="  kube-apiserver: {extra_names: [api.internal]}\n"
        "pools: [{name: p, roles: [worker], node_names: 'api.*'}]\n",
        kind="server",
        names="['{node}']",
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
    "kubeconfig name": own("kubeconfig", ".conf", kubeconfig="app.yaml"),
    "kubeconfig of a server": own("kubeconfig", "kind client", kind="server", names="[a.b]", kubeconfig="app.conf"),
    "kubeconfig of etcd": own("kubeconfig", "ca: kubernetes", ca="etcd", kubeconfig="app.conf"),
    "kubeconfig of another": own("kubeconfig", "kube-scheduler", kubeconfig="scheduler.conf"),
    "own file of another": own("file", "kubelet", file="kubelet"),
    "own name of a file": own("", "etcd-server", name="etcdserver"),
    "own short": own("ttl", "at least 15m", ttl="1m"),
    "own name of a role": own(
        "", "rename", name="kubelet-p", after="pools: [{name: p, roles: [worker], node_names: 'p-*'}]\n"
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
    assert published.size(record) < consistency._remembered_nodes(cluster) + consistency._remembered_others(cluster)
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
