"""`adopt inventory` on clusters as kubeadm leaves them: a real API server's answers, a real disk, the real command."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
import yaml

from helpers import pages
from helpers.kube.adopted_cluster import serving
from helpers.kube.kubeadm_objects import SYSTEM, TOKEN_SECRET, KubeadmObjects, Shape, encoded
from helpers.vault.applied_cluster import Ran, vaultpki
from vaultpki.config.cluster import load_cluster
from vaultpki.places import Layout

OLD_CAS = ("old-kubernetes-ca.crt", "old-front-proxy-ca.crt", "old-etcd-ca.crt")


def inventory(config: Path, *words: str | Path, expect: int = 0) -> Ran:
    return vaultpki("adopt", "inventory", "--kubeconfig", config, *words, expect=expect)


def test_a_control_plane_is_shown_whole_and_its_draft_loads(tmp_path: Path) -> None:
    objects = KubeadmObjects(Shape(sans=("api.internal",)))
    root, written = objects.disk(tmp_path / "cp-1", "cp-1"), tmp_path / "cluster.yaml"
    with serving(objects, tmp_path) as (api, config):
        ran = inventory(config, "--machine", root, "-o", written, "--cluster", "prod")
        again = inventory(config, "--machine", root, "-o", written, expect=1)
        forced = inventory(config, "--machine", root, "-o", written, "--cluster", "prod", "--force", "--json")
        # Nothing but GET is ever sent, and of the keys of CAs not even what the API server would show of them.
        assert api.methods == {"GET"}
        assert "PartialObjectMetadata" in api.asked[f"{SYSTEM}/secrets/kubeadm-certs"]
    for line in (
        "cp-1  control-plane, etcd, worker  v1.36.3  yes    198.51.100.11 (InternalIP), cp-1 (Hostname)",
        "cp-1    cp-1  static pod  198.51.100.11",
        "kubernetes   CN=kubernetes      rsa-2048  3649 days  cp-1",
        "kube-root-ca.crt in default, kube-public, kube-system",
        "cp-1                   yes    --cluster-signing-cert-file=/etc/kubernetes/pki/ca.crt  1 year",
        "1 CSR of kubernetes.io/kube-apiserver-client-kubelet issued",
        "warning one-control-plane: cp-1 runs the only kube-apiserver",
        f"Wrote {written}, and today's CAs beside it: {', '.join(OLD_CAS)}. Compare it with what you know.",
    ):
        assert line in ran.stdout, ran.stdout
    assert "abcdef" in ran.stdout
    cluster = load_cluster(written)
    assert cluster.name == "prod" and cluster.layout is Layout.KUBEADM
    # The API server's own certificate was seen at its address, and that of the node on its disk.
    # Nobody has to copy today's CAs by hand.
    held = {(each.ca, each.pem) for each in cluster.authority.also_trust}
    assert held == {("kubernetes", objects.ca.pem), ("front-proxy", objects.front.pem), ("etcd", objects.etcd.pem)}
    assert set(cluster.overrides["kube-apiserver"].extra_names) == {"api.internal", "api.example.com"}
    assert again.stderr == f"vaultpki: {str(written)!r} exists already: choose another name with -o, or pass --force\n"
    shown = json.loads(forced.stdout)
    assert shown["ok"] and shown["draft"]["written"] == str(written)
    assert shown["draft"]["text"] == written.read_text()
    for secret in (TOKEN_SECRET, encoded(TOKEN_SECRET), "s3cret", "PRIVATE KEY"):
        assert secret not in ran.stdout + ran.stderr + forced.stdout + written.read_text()


def test_every_part_is_in_json(tmp_path: Path) -> None:
    objects = KubeadmObjects(Shape(planes=2, endpoint="api.example.com:6443", external=("198.51.100.21",)))
    with serving(objects, tmp_path) as (_, config):
        shown = json.loads(inventory(config, "--json").stdout)
    assert [node["name"] for node in shown["nodes"]] == ["cp-1", "cp-2", "w-1"]
    assert shown["etcd"] == [
        {"name": "etcd-1", "node": "etcd-1", "static_pod": False, "called_at": ["198.51.100.21"], "tls": True}
    ]
    assert {(pod["node"], pod["component"]) for pod in shown["static_pods"]} == {
        (node, component)
        for node in ("cp-1", "cp-2")
        for component in ("kube-apiserver", "kube-controller-manager", "kube-scheduler")
    }
    assert shown["tokens"][0].keys() == {"id", "expires"} and shown["tokens"][0]["id"] == "abcdef"
    assert {ca["ca"] for ca in shown["cas"]} == {"kubernetes", "front-proxy"}
    assert shown["places"][0]["holds"][0]["ca"] == "kubernetes"
    assert shown["kubelets"][2]["rotate_certificates"] is True
    assert shown["signers"][0] == {
        "node": "cp-1",
        "leads": True,
        "files": {"cluster-signing-cert-file": "/etc/kubernetes/pki/ca.crt"},
    }
    names = {each["name"] for each in shown["obstacles"]}
    assert "external-etcd" in names and all(each["cure"] for each in shown["obstacles"])
    assert shown["draft"]["written"] is None and "etcd-1" in shown["draft"]["text"]


def test_what_must_be_cured_ends_in_three(tmp_path: Path) -> None:
    objects = KubeadmObjects(Shape())
    with serving(objects, tmp_path) as (api, config):
        node = api.values["/api/v1/nodes"]["items"][1]["status"]
        node["nodeInfo"]["kubeletVersion"] = "v1.30.0"
        ran = inventory(config, "-o", tmp_path / "cluster.yaml", expect=3)
    assert "critical old-kubeadm: v1.30.0 is the version of kubelet of w-1" in ran.stdout
    assert ran.stderr == "vaultpki: something must be cured before this cluster can be taken over; see above\n"
    # The draft may be good all the same.
    assert (tmp_path / "cluster.yaml").exists()


def test_a_draft_that_is_refused_is_not_written(tmp_path: Path) -> None:
    objects = KubeadmObjects(Shape())
    with serving(objects, tmp_path) as (api, config):
        api.values["/api/v1/nodes"]["items"][1]["metadata"]["name"] = "localhost"
        ran = inventory(config, "-o", tmp_path / "cluster.yaml", expect=3)
    assert "critical draft-refused: " in ran.stdout and "localhost is reserved" in ran.stdout
    assert "so it is not written" in ran.stdout and not (tmp_path / "cluster.yaml").exists()


def test_a_missing_right_is_no_failure(tmp_path: Path) -> None:
    objects = KubeadmObjects(Shape())
    refused = (
        "/api/v1/pods",
        f"{SYSTEM}/secrets",
        f"{SYSTEM}/secrets/kubeadm-certs",
        "/apis/certificates.k8s.io/v1/certificatesigningrequests",
        "/api/v1/nodes/w-1/proxy/configz",
        f"{SYSTEM}/configmaps/kubeadm-config",
    )
    with serving(objects, tmp_path) as (api, config):
        api.values |= dict.fromkeys(refused, 403)
        shown = json.loads(inventory(config, "--json").stdout)
    assert set(shown["unread"]) == {
        "pods",
        "bootstrap tokens",
        "kubeadm-certs",
        "certificatesigningrequests",
        "kubelet of w-1",
        "kubeadm-config",
    }
    assert all("may not read it" in why for why in shown["unread"].values())
    assert "not-read" in {each["name"] for each in shown["obstacles"]}
    # What kubeadm gives to those that join stands for the kubelet, and says so.
    assert shown["kubelets"][1]["source"] == "kubelet-config" and shown["draft"]["problem"] is None


def test_a_user_without_any_right_reads_what_was_not_read(tmp_path: Path) -> None:
    objects = KubeadmObjects(Shape())
    with serving(objects, tmp_path) as (api, config):
        api.values = dict.fromkeys(api.values, 403)
        ran = inventory(config, expect=3)
    assert "info not-read: nodes, " in ran.stdout and "critical draft-refused: " in ran.stdout


def test_an_api_server_that_is_away_is_one_sentence(tmp_path: Path) -> None:
    objects = KubeadmObjects(Shape())
    with serving(objects, tmp_path) as (api, config):
        api.shutdown()
        api.server_close()
        ran = inventory(config, expect=1)
    assert ran.stdout == "" and "cannot be reached" in ran.stderr and ran.stderr.count("\n") == 1


@pytest.mark.parametrize(
    ("words", "expect", "says"),
    [
        (("--machine", "/nowhere"), 1, "below it is neither"),
        (("--cluster", "Not A Name"), 1, "--cluster: "),
    ],
)
def test_options_that_do_not_fit(tmp_path: Path, words: tuple[str, ...], expect: int, says: str) -> None:
    ran = inventory(tmp_path / "admin.conf", *words, expect=expect)
    assert says in ran.stderr and ran.stdout == ""


def test_the_role_on_the_page_is_enough(tmp_path: Path) -> None:
    """Each path that is asked for is of a kind that the role has, but for the Secrets that it leaves out."""
    role = next(
        yaml.safe_load(block.text)
        for block in pages.blocks(pages.text("adopt-explained"))
        if block.language == "yaml" and "vaultpki-adopt-inventory" in block.text
    )
    kinds = {kind for rule in role["rules"] for kind in rule["resources"]}
    objects = KubeadmObjects(Shape())
    with serving(objects, tmp_path) as (api, config):
        inventory(config)
        paths = [path.partition("?")[0] for path in api.asked]
    for path in paths:
        parts = re.sub(r"/namespaces/[^/]+(?=/)", "", path).split("/")
        kind = parts[3] if parts[1] == "api" else (parts[4:5] or ["discovery of the group"])[0]
        if path.endswith("/proxy/configz"):
            kind = "nodes/proxy"
        assert kind in kinds | {"secrets", "discovery of the group"}, path
    assert kinds - {"clustertrustbundles"} <= {part for path in paths for part in (*path.split("/"), "nodes/proxy")}
