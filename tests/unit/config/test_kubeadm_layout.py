"""kubeadm's layout: its names beside kubeadm's own, what cluster.yaml and agent.yaml may say, and its records."""

from __future__ import annotations

import json
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from vaultpki.certificates import TABLE, node_rows, resolve, rows
from vaultpki.config.agent import dump_agent, load_agent
from vaultpki.config.cluster import load_cluster
from vaultpki.errors import SpecError
from vaultpki.identity.access import node_certificates
from vaultpki.layout import TRUST_BUNDLES, bundle_of, node_folders
from vaultpki.model import Cluster
from vaultpki.places import ETCD, KUBECONFIGS, KUBELET, PKI, SCHEDULER, KubeconfigFile, Layout
from vaultpki.records import published
from vaultpki.records.join_file import Join, dump_join, load_join

# kubernetes cmd/kubeadm/app/constants/constants.go and phases/certs/certlist.go; those below the line are ours.
KUBEADMS = {
    "kube-apiserver": "pki/apiserver",
    "kube-apiserver-kubelet": "pki/apiserver-kubelet-client",
    "kube-apiserver-etcd": "pki/apiserver-etcd-client",
    "front-proxy-client": "pki/front-proxy-client",
    "etcd-server": "etcd/server",
    "etcd-peer": "etcd/peer",
    "etcd-healthcheck-client": "etcd/healthcheck-client",
    "kubelet": "kubelet/kubelet",
    # ---
    "kubelet-client": "kubelet/kubelet-client",
    "kube-scheduler": "scheduler/scheduler",
    "kube-controller-manager": "pki/controller-manager",
}
SPEC = """\
cluster: prod
layout: kubeadm
nodes:
- {name: cp-1, roles: [control-plane, etcd, worker], addresses: [10.0.0.11]}
- {name: w-1, roles: [worker], addresses: [10.0.0.21]}
certificates:
  app: {kind: client, common_name: app, ca: etcd, roles: [worker], kubeconfig: }
"""


def cluster(folder: Path, text: str = SPEC.replace(", kubeconfig: ", "")) -> Cluster:
    (folder / "cluster.yaml").write_text(text)
    (folder / "a.tmpl").write_text("${node}\n")
    return load_cluster(folder / "cluster.yaml")


def test_every_certificate_of_a_node_has_kubeadms_name(tmp_path: Path) -> None:
    spec = cluster(tmp_path)
    found = {
        each.name: f"{each.folder}/{each.stem}"
        for each in (resolve(row, spec, spec.nodes[0]) for row in rows(spec) if not row.operator)
    }
    assert found == {**KUBEADMS, "app": "pki/app"}
    assert {row.name for row in TABLE if row.kubeadm is None} == {"kube-proxy"}
    fixed = {row.kubeconfig for row in TABLE if row.kubeadm and row.kubeadm.kubeconfig is KubeconfigFile.FIXED}
    assert fixed == {"scheduler.conf", "controller-manager.conf"}


def test_bundles_are_where_kubeadm_and_its_static_pods_read_them() -> None:
    placed = {f"{each.folder}/{each.file}": (each.ca, each.chain) for each in TRUST_BUNDLES[Layout.KUBEADM]}
    assert placed["pki/ca.crt"] == placed["scheduler/ca.crt"] == ("kubernetes", False)
    assert placed["etcd/ca.crt"] == ("etcd", False) and placed["pki/front-proxy-ca.crt"] == ("front-proxy", False)
    assert {ca for ca, chain in placed.values() if chain} == {"kubernetes", "kubelet", "etcd", "front-proxy"}
    assert bundle_of(Layout.KUBEADM, "kubernetes", SCHEDULER).folder == SCHEDULER
    assert bundle_of(Layout.KUBEADM, "kubernetes", KUBELET).folder == PKI
    assert bundle_of(Layout.KUBEADM, "etcd").folder == ETCD


def test_an_operators_folder_is_the_same_in_every_layout(tmp_path: Path) -> None:
    spec = cluster(tmp_path)
    for row in rows(spec):
        if row.operator:
            assert resolve(row, spec, None) == resolve(row, replace(spec, layout=Layout.DOCUMENT), None)


@pytest.mark.parametrize(
    ("old", "new", "field", "why"),
    [
        ("layout: kubeadm", "layout: kubeadmin", "layout", "mean kubeadm?"),
        ("[control-plane, etcd, worker]", "[control-plane, etcd]", "nodes[0].roles", "add worker to the roles of cp-1"),
        ("certificates:", "certificates:\n  kube-proxy: {ttl: 7d}", "certificates.kube-proxy", "ServiceAccount"),
        ("certificates:", "certificates:\n  etcd-peer: {file: peer-2}", "certificates.etcd-peer.file", "leave file"),
        ("common_name: app", "common_name: app, file: apiserver", "certificates.app.file", "kube-apiserver"),
        ("common_name: app", "common_name: app, file: scheduler", "certificates.app.file", "kube-scheduler"),
        ("common_name: app", "common_name: app, file: peer", "certificates.app.file", "etcd-peer"),
        ("common_name: app", "common_name: app, file: ca-chain", "certificates.app.file", "bundle of CA"),
        ("common_name: app", "common_name: app, file: sa", "certificates.app.file", "service-account keys"),
        ("certificates:", T := "templates: {t: {file: scheduler, template: a.tmpl, roles: [worker]}}\ncertificates:",
         "templates.t.file", "the folder of kube-scheduler"),
        ("certificates:", T.replace("file: scheduler", "file: etcd"), "templates.t.file", "folder for etcd"),
        ("certificates:", T.replace("file: scheduler", "file: admin.conf"), "templates.t.file", "admin"),
    ],
)  # fmt: skip
def test_refused(tmp_path: Path, old: str, new: str, field: str, why: str) -> None:
    text = SPEC.replace(", kubeconfig: ", "")
    assert old in text
    with pytest.raises(SpecError) as told:
        cluster(tmp_path, text.replace(old, new, 1))
    assert told.value.field == field and why in str(told.value), told.value


def test_names_of_the_other_layout_are_free(tmp_path: Path) -> None:
    spec = cluster(tmp_path, SPEC.replace(", kubeconfig: ", ", file: kube-apiserver"))
    assert resolve(spec.rows[0], spec, spec.nodes[1]).stem == "kube-apiserver"


AGENT = f"""\
cluster: prod
node: cp-1
vault: {{addresses: ['https://vault.example.com:8200']}}
root_sha256: '{"4f" * 32}'
auth: {{method: approle, role_id: 9a0e-1}}
"""


def agent(folder: Path, further: str) -> Any:
    (folder / "agent.yaml").write_text(AGENT + further)
    return load_agent(folder / "agent.yaml")


@pytest.mark.parametrize(
    ("further", "kubeconfigs", "kubelet"),
    [
        ("", "/etc/kubernetes", "/var/lib/kubelet/pki"),
        ("directory: /srv/k/pki\n", "/srv/k", "/var/lib/kubelet/pki"),
        ("directory: /srv/certs\n", "/etc/kubernetes", "/var/lib/kubelet/pki"),
        ("folders: {kubelet: /srv/kubelet}\n", "/etc/kubernetes", "/srv/kubelet"),
        ("folders: {kubeconfigs: /srv/c}\n", "/srv/c", "/var/lib/kubelet/pki"),
    ],
)
def test_folders_of_agent_yaml(tmp_path: Path, further: str, kubeconfigs: str, kubelet: str) -> None:
    config = agent(tmp_path, f"layout: kubeadm\n{further}")
    assert config.folders == {KUBECONFIGS: kubeconfigs, KUBELET: kubelet}
    inner = {ETCD: f"{config.directory}/etcd", SCHEDULER: f"{config.directory}/scheduler"}
    assert config.paths == {PKI: config.directory, **inner, **config.folders}
    (tmp_path / "agent.yaml").write_text(dump_agent(config))
    assert load_agent(tmp_path / "agent.yaml") == config


@pytest.mark.parametrize(
    "further",
    [
        "folders: {kubelet: /srv/kubelet}\n",
        "layout: kubeadm\nfolders: {kubelet: /etc/kubernetes/pki/kubelet}\n",
        "layout: kubeadm\nfolders: {kubeconfigs: /etc/kubernetes/pki}\n",
        "layout: kubeadm\nfolders: {kubeconfigs: /var/lib/kubelet/pki}\n",
        "layout: kubeadm\nfolders: {kubelet: /var/lib}\n",
        "layout: kubeadm\nfolders: {kubelet: /var/lib/vaultpki/kubelet}\n",
        "layout: kubeadm\nfolders: {kubelet: srv}\n",
        "layout: kubeadm\nfolders: {etcd: /srv/etcd}\n",
        "layout: other\n",
    ],
)
def test_folders_that_agent_yaml_may_not_name(tmp_path: Path, further: str) -> None:
    with pytest.raises(SpecError, match=r"agent\.yaml:\d+: (folders|layout)"):
        agent(tmp_path, further)


def test_the_document_has_no_further_folder(tmp_path: Path) -> None:
    config = agent(tmp_path, "")
    assert config.paths == {PKI: "/etc/kubernetes/pki"}
    assert "layout" not in dump_agent(config) and "folders" not in dump_agent(config)


def record(spec: Cluster, index: int = 0) -> dict[str, Any]:
    node = spec.nodes[index]
    made = published.node_record(node, node_certificates(spec, node), "r", spec.layout)
    copied: dict[str, Any] = json.loads(json.dumps(made))
    return copied


def read(spec: Cluster, value: dict[str, Any], layout: Layout = Layout.KUBEADM) -> Any:
    return published.read_certificates(value, node="cp-1", prefix=spec.prefix, layout=layout, where="record")


def test_a_record_says_for_which_layout_it_is(tmp_path: Path) -> None:
    spec = cluster(tmp_path)
    value = record(spec)
    assert (value["version"], value["layout"]) == (2, "kubeadm")
    _, held = read(spec, value)
    assert held == tuple(resolve(row, spec, spec.nodes[0]) for row in node_rows(spec, spec.nodes[0]))
    with pytest.raises(SpecError, match=r"is for the layout kubeadm, and agent\.yaml says document"):
        read(spec, value, Layout.DOCUMENT)
    document = record(replace(spec, layout=Layout.DOCUMENT))
    assert document["version"] == 1 and "layout" not in document
    with pytest.raises(SpecError, match=r"is for the layout document, and agent\.yaml says kubeadm"):
        read(spec, document)
    whole = published.cluster_record(spec, (), None, "4f" * 32)
    assert published.read_cluster(whole, where="record").layout is Layout.KUBEADM


@pytest.mark.parametrize(
    "fields",
    [
        {"version": 1},
        {"layout": "document"},
        {"layout": None},
        {"layout": "x"},
        {"layout": ["kubeadm"]},
        {"version": 3},
    ],
)
def test_a_record_whose_version_does_not_fit_is_refused(tmp_path: Path, fields: dict[str, Any]) -> None:
    spec = cluster(tmp_path)
    with pytest.raises(SpecError):
        read(spec, {**record(spec), **fields})


@pytest.mark.parametrize(
    ("name", "fields"),
    [
        *(("etcd-peer", {"file": file}) for file in ("etcd-peer", "../peer", "etcd/peer", "apiserver")),
        ("etcd-peer", {"name": "kube-proxy"}),
        ("kube-scheduler", {"kubeconfig": "admin.conf"}),
        ("kube-scheduler", {"kubeconfig": ""}),
    ],
)
def test_a_record_names_no_other_file(tmp_path: Path, name: str, fields: dict[str, Any]) -> None:
    spec = cluster(tmp_path)
    value = record(spec)
    next(each for each in value["certificates"] if each["name"] == name).update(fields)
    with pytest.raises(SpecError):
        read(spec, value)


def test_a_folder_in_a_record_moves_nothing(tmp_path: Path) -> None:
    spec = cluster(tmp_path)
    value = record(spec)
    for each in value["certificates"]:
        each["folder"] = "/etc"
    assert read(spec, value)[1] == read(spec, record(spec))[1]


def test_a_join_file_of_the_layout_is_refused_by_a_vaultpki_without_it(tmp_path: Path) -> None:
    join = Join(
        cluster="prod",
        prefix="vaultpki/prod",
        node="cp-1",
        pool=None,
        addresses=("https://vault.example.com:8200",),
        ca_pem=None,
        root_sha256="4f" * 32,
        role_id="r",
        wrap_token="s.x",
        expires=datetime(2030, 1, 1, tzinfo=UTC),
        layout=Layout.KUBEADM,
    )
    path = tmp_path / "join.json"
    path.touch(0o600)
    path.write_text(dump_join(join))
    assert load_join(path) == join and json.loads(path.read_text())["version"] == 2
    document = json.loads(dump_join(replace(join, layout=Layout.DOCUMENT)))
    assert document["version"] == 1 and "layout" not in document


def test_kubeconfigs_never_lie_in_the_root_folder() -> None:
    assert node_folders("/pki")[KUBECONFIGS] == "/etc/kubernetes"
