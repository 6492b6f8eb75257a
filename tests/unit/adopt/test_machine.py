"""What is read from a machine's disk: links stay below its root, keys are not kept, what cannot be read is named."""

from __future__ import annotations

from pathlib import Path

import pytest

from helpers.kube.kubeadm_objects import KubeadmObjects, Shape
from vaultpki.adopt import machine


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return KubeadmObjects(Shape()).disk(tmp_path / "root", "cp-1")


def test_a_control_plane_is_read_whole(root: Path) -> None:
    assert machine.there(str(root)) and not machine.there(str(root / "etc"))
    found = machine.read(str(root))
    assert (found.node, found.directory, found.unread) == ("cp-1", "/etc/kubernetes/pki", {})
    rows = {row for row, _, _ in found.leaves}
    assert {
        "kube-apiserver",
        "etcd-server",
        "etcd-peer",
        "kubelet",
        "kubelet-client",
        "admin",
        "kube-scheduler",
    } <= rows
    assert {ca: len(held) for ca, held in found.cas.items()} == {"kubernetes": 1, "front-proxy": 1, "etcd": 1}
    assert len(found.ca_keys) == 3
    assert {pod.component for pod in found.static} >= {"etcd", "kube-apiserver"}
    assert "PRIVATE KEY" not in repr(found)


def test_links_are_followed_below_the_root_alone(root: Path, tmp_path: Path) -> None:
    """The kubelet's own link is absolute; another one must not lead out of the machine's disk."""
    link = "var/lib/kubelet/pki/kubelet-client-current.pem"
    assert (root / link).readlink().is_absolute()
    outside = tmp_path / "outside.pem"
    outside.write_text(KubeadmObjects(Shape()).ca.pem)
    ca = root / "etc/kubernetes/pki/front-proxy-ca.crt"
    ca.unlink()
    ca.symlink_to(f"../../../../../../../..{outside}")
    found = machine.read(str(root))
    assert "front-proxy" not in found.cas and "kubelet-client" in {row for row, _, _ in found.leaves}


def test_links_in_a_circle_and_odd_files_are_named(root: Path) -> None:
    pki = root / "etc/kubernetes/pki"
    (pki / "apiserver.crt").unlink()
    (pki / "apiserver.crt").symlink_to("apiserver.crt")
    (pki / "front-proxy-client.crt").write_text("no certificate")
    (root / "etc/kubernetes/admin.conf").write_text("kind: Other\n")
    (root / "etc/kubernetes/manifests/odd.yaml").write_text("a: &b 1\nc: *b\n")
    found = machine.read(str(root))
    assert found.unread == {
        "/etc/kubernetes/pki/apiserver.crt": "it has too many links",
        "/etc/kubernetes/pki/front-proxy-client.crt": "no certificate in it can be read",
        "/etc/kubernetes/admin.conf": "it is not a kubeconfig that can be read",
        "/etc/kubernetes/manifests/odd.yaml": "it is not YAML of one pod, or has anchors or tags",
    }


def test_what_a_join_would_refuse_is_said_of_a_mounted_disk(root: Path) -> None:
    assert machine.read(str(root)).unfit == ()
    kubernetes = root / "etc/kubernetes"
    server = kubernetes / "manifests/kube-apiserver.yaml"
    server.chmod(0o622)
    (kubernetes / "manifests/mine.yaml").write_bytes((kubernetes / "manifests/etcd.yaml").read_bytes())
    (kubernetes / "pki").rename(root / "etc/pki")
    (kubernetes / "pki").symlink_to("/etc/pki")
    link, writable, spare = machine.read(str(root)).unfit
    assert link.startswith("/etc/kubernetes/pki is a symbolic link to /etc/pki, ")
    assert writable.startswith(f"{server}: others may write to the file (mode 0622)")
    assert spare.startswith("/etc/kubernetes/manifests/mine.yaml: etcd has another manifest, ")
    # A machine that has joined is changed, and its agent says what is wrong.
    (kubernetes / "vaultpki").mkdir()
    assert machine.read(str(root)).unfit == ()


def test_a_worker_has_its_name_from_its_kubelet(tmp_path: Path) -> None:
    root = KubeadmObjects(Shape(serving_by_csr=True)).disk(tmp_path, "w-1")
    found = machine.read(str(root))
    assert (found.node, found.ca_keys) == ("w-1", ())
    assert [path for row, path, _ in found.leaves if row == "kubelet"] == [
        "/var/lib/kubelet/pki/kubelet-server-current.pem"
    ]


def test_without_a_certificate_of_its_kubelet_a_control_plane_has_its_name_from_etcd(root: Path) -> None:
    (root / "var/lib/kubelet/pki/kubelet-client-current.pem").unlink()
    found = machine.read(str(root))
    assert "kubelet-client" not in {row for row, _, _ in found.leaves} and found.node == "cp-1"


EXTRA = "etc/default/kubelet"
DROP_IN = "etc/systemd/system/kubelet.service.d/20-own.conf"
KUBEADMS = (
    '[Service]\nEnvironment="KUBELET_KUBECONFIG_ARGS=--bootstrap-kubeconfig=/etc/kubernetes/bootstrap-kubelet.conf '
    '--kubeconfig=/etc/kubernetes/kubelet.conf"\nEnvironment="KUBELET_CONFIG_ARGS=--config=/var/lib/kubelet/'
    'config.yaml"\nEnvironmentFile=-/var/lib/kubelet/kubeadm-flags.env\nEnvironmentFile=-/etc/default/kubelet\n'
    "ExecStart=\nExecStart=/usr/bin/kubelet $KUBELET_KUBECONFIG_ARGS $KUBELET_CONFIG_ARGS $KUBELET_EXTRA_ARGS\n"
)


def laid(root: Path, path: str, text: str) -> None:
    (root / path).parent.mkdir(parents=True, exist_ok=True)
    (root / path).write_text(text)


def beaten(root: Path) -> list[str]:
    return [each for each in machine.read(str(root)).unfit if ": --" in each]


def test_kubeadms_own_flags_of_the_kubelet_are_no_problem(root: Path) -> None:
    laid(root, "usr/lib/systemd/system/kubelet.service.d/10-kubeadm.conf", KUBEADMS)
    laid(root, "var/lib/kubelet/kubeadm-flags.env", 'KUBELET_KUBEADM_ARGS="--rotate-certificates=false --v=2"\n')
    assert beaten(root) == []


@pytest.mark.parametrize(
    ("path", "text", "says"),
    [
        (EXTRA, "KUBELET_EXTRA_ARGS=--rotate-certificates\n", "--rotate-certificates has it ask for client"),
        (EXTRA, "KUBELET_EXTRA_ARGS=--rotate-certificates $MORE\n", "--rotate-certificates has it ask for client"),
        (EXTRA, 'KUBELET_EXTRA_ARGS="--client-ca-file /own/ca.crt"\n', "--client-ca-file names /own/ca.crt"),
        (EXTRA, "KUBELET_EXTRA_ARGS=--cert-dir=/own\n", "and a take-over changes /var/lib/kubelet/pki alone"),
        (EXTRA, "KUBELET_EXTRA_ARGS=--tls-cert-file=/var/lib/kubelet/pki/x.crt\n", "which is put aside from switched"),
        (
            DROP_IN,
            '[Service]\n# --cert-dir=/none\nEnvironment="KUBELET_EXTRA_ARGS=--rotate-server-certificates=true"\n',
            "--rotate-server-certificates has it ask for serving",
        ),
        (DROP_IN, "[Service]\nExecStart=\nExecStart=/usr/bin/kubelet --kubeconfig=/own.conf\n", "names /own.conf"),
    ],
)
def test_a_flag_of_the_kubelet_that_beats_the_take_over_is_named_with_its_file(
    root: Path, path: str, text: str, says: str
) -> None:
    laid(root, "usr/lib/systemd/system/kubelet.service.d/10-kubeadm.conf", KUBEADMS)
    laid(root, path, text)
    (problem,) = beaten(root)
    assert problem.startswith(f"/{path}: --") and says in problem


def test_a_drop_in_hides_the_one_of_its_name_and_names_further_files(root: Path) -> None:
    laid(root, "usr/lib/systemd/system/kubelet.service.d/10-kubeadm.conf", "ExecStart=kubelet --cert-dir=/hidden\n")
    laid(root, "etc/systemd/system/kubelet.service.d/10-kubeadm.conf", "EnvironmentFile=/etc/own.env\n")
    laid(root, "etc/own.env", "ARGS=--cert-dir=/own\n")
    # Nothing reads it there.
    laid(root, EXTRA, "KUBELET_EXTRA_ARGS=--cert-dir=/other\n")
    (problem,) = beaten(root)
    assert problem.startswith("/etc/own.env: --cert-dir names /own")
