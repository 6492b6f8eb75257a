"""`issue admin|super-admin`: a person's certificate, kubeconfig and the manifests, alone, side by side, and again."""

from __future__ import annotations

import json
import re
import subprocess
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
import yaml

from helpers.vault.applied_cluster import AppliedCluster, vaultpki
from helpers.vault.cluster_factory import ClusterFactory
from vaultpki.certificates import pair_files
from vaultpki.pki import x509
from vaultpki.redact import stamp

SPEC = """\
nodes:
- {name: cp-1, roles: [control-plane, etcd], addresses: [10.0.0.11]}
- {name: worker-1, roles: [worker], addresses: [10.0.0.21]}
"""
PEOPLE = {
    "admin": ("kubernetes-admin", "kubeadm:cluster-admins", timedelta(days=30)),
    "super-admin": ("kubernetes-super-admin", "system:masters", timedelta(hours=8)),
}
BUNDLES = {f"{ca}-ca{kind}.crt" for ca in ("kubernetes", "kubelet", "etcd", "front-proxy") for kind in ("", "-chain")}


@pytest.fixture(scope="module")
def cluster(shared_clusters: ClusterFactory) -> AppliedCluster:
    return shared_clusters.applied(SPEC)


def listing(folder: Path) -> dict[str, int]:
    return {
        path.name: path.stat().st_mode & 0o777
        for path in (*folder.iterdir(), *(folder / "manifests").iterdir())
        if path.name != ".vaultpki"
    }


def expected(*names: str) -> dict[str, int]:
    files = dict.fromkeys(BUNDLES, 0o644) | {"manifests": 0o755}
    files |= dict.fromkeys(("cluster-admins.yaml", "kubelet-api-admin.yaml", "kubelet-serving-ca.yaml"), 0o644)
    for name in names:
        files |= {f"{name}.crt": 0o644} | dict.fromkeys((f"{name}.key", f"{name}.pem", f"{name}.conf"), 0o600)
    return files


def check(cluster: AppliedCluster, folder: Path, name: str) -> None:
    common_name, group, life = PEOPLE[name]
    crt, key, pem = ((folder / file).read_bytes() for file in pair_files(name))
    leaf = x509.read_certificates(crt)[0]
    assert pem == key + crt and x509.matches(key, leaf)
    assert leaf.subject_text == f"CN={common_name},O={group}" and leaf.subject.dns == leaf.subject.ips == ()
    assert abs(leaf.not_after - datetime.now(UTC) - life) < timedelta(minutes=2)
    config = yaml.safe_load((folder / f"{name}.conf").read_text())
    assert config["clusters"][0]["cluster"] == {
        "server": "https://10.0.0.11:6443",
        # A person's tools may be OpenSSL's, which trust no chain without its root.
        "certificate-authority": str(folder / "kubernetes-ca-chain.crt"),
    }
    assert config["users"][0]["user"] == {
        "client-certificate": str(folder / f"{name}.crt"),
        "client-key": str(folder / f"{name}.key"),
    }
    for purpose, good in (("sslclient", True), ("sslserver", False)):
        command = ["openssl", "verify", "-x509_strict", "-no-CApath", "-no-CAstore", "-purpose", purpose]
        command += ["-CAfile", str(folder / "kubernetes-ca-chain.crt"), str(folder / f"{name}.crt")]
        assert (subprocess.run(command, capture_output=True, check=False).returncode == 0) is good


@pytest.mark.parametrize(("name", "umask"), [("admin", 0), ("super-admin", 0o077)])
def test_one_alone(cluster: AppliedCluster, tmp_path: Path, name: str, umask: int) -> None:
    folder = tmp_path / "mine"
    ran = cluster.issue(name, folder, umask=umask)
    assert listing(folder) == expected(name)
    check(cluster, folder, name)
    first, *others = ran.stdout.splitlines()
    assert re.fullmatch(rf"CN={PEOPLE[name][0]},O={PEOPLE[name][1]} until 20\S+Z", first)
    assert others == [
        f"kubeconfig: {folder}/{name}.conf",
        f"manifest: {folder}/manifests/cluster-admins.yaml",
        f"manifest: {folder}/manifests/kubelet-api-admin.yaml",
        f"manifest: {folder}/manifests/kubelet-serving-ca.yaml",
    ]


def test_what_a_program_reads(cluster: AppliedCluster, tmp_path: Path) -> None:
    folder = tmp_path / "mine"
    words = ("issue", "-f", cluster.file, "admin", "--dir", folder, "--json")
    ran = vaultpki(*words, env=cluster.environment("operator"))
    leaf = x509.read_certificates((folder / "admin.crt").read_bytes())[0]
    assert ran.stderr == "" and json.loads(ran.stdout) == {
        "cluster": cluster.name,
        "name": "admin",
        "subject": leaf.subject_text,
        "serial": f"{leaf.serial:x}",
        "not_after": stamp(leaf.not_after),
        "directory": str(folder),
        "kubeconfig": f"{folder}/admin.conf",
        "manifests": sorted(str(path) for path in (folder / "manifests").iterdir()),
    }


def test_both_in_one_folder_and_again(cluster: AppliedCluster, tmp_path: Path) -> None:
    folder = tmp_path / "mine"
    cluster.issue("admin", folder)
    admin = (folder / "admin.crt").read_bytes()
    cluster.issue("super-admin", folder)
    assert listing(folder) == expected("admin", "super-admin")
    assert (folder / "admin.crt").read_bytes() == admin
    cluster.issue("admin", folder)
    assert listing(folder) == expected("admin", "super-admin")
    for name in PEOPLE:
        check(cluster, folder, name)
    assert (folder / "admin.crt").read_bytes() != admin
    generations = [path for path in (folder / ".vaultpki").iterdir() if path.is_dir() and not path.is_symlink()]
    assert len(generations) == 3, "nothing replaced is left behind"


@pytest.mark.on_node
def test_the_manifests_let_in_whom_the_table_says(cluster: AppliedCluster, tmp_path: Path) -> None:
    cluster.issue("super-admin", tmp_path / "mine")
    manifests = tmp_path / "mine" / "manifests"
    *bindings, trust = [yaml.safe_load(path.read_text()) for path in sorted(manifests.iterdir())]
    assert [(one["kind"], one["metadata"]["name"], one["roleRef"]["name"], one["subjects"][0]) for one in bindings] == [
        (
            "ClusterRoleBinding",
            "kubeadm:cluster-admins",
            "cluster-admin",
            {"apiGroup": "rbac.authorization.k8s.io", "kind": "Group", "name": "kubeadm:cluster-admins"},
        ),
        (
            "ClusterRoleBinding",
            "kubeadm:kubelet-api-admin",
            "system:kubelet-api-admin",
            {"apiGroup": "rbac.authorization.k8s.io", "kind": "User", "name": "kube-apiserver-kubelet-client"},
        ),
    ]
    names = ("kubelet-ca.crt", "kubelet-ca-chain.crt")
    assert (trust["kind"], trust["metadata"]["namespace"]) == ("ConfigMap", "kube-system")
    assert trust["data"] == {name: (tmp_path / "mine" / name).read_text() for name in names}


@pytest.mark.on_node
@pytest.mark.parametrize("name", ["kubelet", "kube-apiserver", "nobody", "../admin"])
def test_nobody_elses_certificate(cluster: AppliedCluster, tmp_path: Path, name: str) -> None:
    ran = cluster.issue(name, tmp_path / "mine", expect=1)
    assert ran.stderr == f"vaultpki: {name!r} is not an operator's certificate; choose one of: admin, super-admin\n"
    assert not (tmp_path / "mine").exists()


@pytest.mark.on_node
def test_a_file_of_somebody_elses_stays(cluster: AppliedCluster, tmp_path: Path) -> None:
    folder = tmp_path / "mine"
    folder.mkdir()
    (folder / "admin.key").write_text("precious")
    ran = cluster.issue("admin", folder, expect=1)
    assert ran.stderr.count("\n") == 1 and str(folder / "admin.key") in ran.stderr
    assert (folder / "admin.key").read_text() == "precious"
    (folder / "admin.key").unlink()
    cluster.issue("admin", folder)
    check(cluster, folder, "admin")


@pytest.mark.on_node
def test_a_cluster_that_was_never_applied(clusters: ClusterFactory, tmp_path: Path) -> None:
    ran = clusters.written(SPEC).issue("admin", tmp_path / "mine", expect=1)
    assert ran.stderr.count("\n") == 1 and "vaultpki apply" in ran.stderr
