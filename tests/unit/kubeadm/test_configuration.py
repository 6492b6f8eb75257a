"""What kubeadm is told, from values of cluster.yaml; the real kubeadm judges it in tests/conformance/kubeadm."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import yaml
from click.testing import CliRunner

from vaultpki.cli import vaultpki
from vaultpki.config.cluster import load_cluster
from vaultpki.errors import ArgumentError, SpecError
from vaultpki.kubeadm import configuration, files
from vaultpki.kubeadm.configuration import Document, KubeadmFolders
from vaultpki.model import Cluster

HEAD = "cluster: prod\nlayout: kubeadm\n"
STACKED = """\
api_server: {endpoint: "https://api.example.com:6443", names: [api.example.com]}
nodes:
- {name: cp-1, roles: [control-plane, etcd, worker], addresses: [10.0.0.11]}
- {name: cp-2, roles: [control-plane, etcd, worker], addresses: [10.0.0.12]}
- {name: worker-1, roles: [worker], addresses: [10.0.0.21]}
"""
EXTERNAL = """\
api_server:
  endpoint: https://api.example.com:6443
  names: [api.example.com]
  service_cidr: ["fd00:1::/112", 10.96.0.0/12]
nodes:
- {name: cp-1, roles: [control-plane, worker], addresses: [10.0.0.11, "fd00::11", 10.0.1.11]}
- {name: etcd-1, roles: [etcd], addresses: [10.0.0.13, "fd00::13"]}
"""
POOL = 'pools:\n- {name: autoscaled, roles: [worker], node_names: "w-*"}\n'
PLACES = KubeadmFolders("/etc/kubernetes/pki", "/var/lib/kubelet/pki", "/etc/kubernetes/kubeadm")


def read(folder: Path, text: str) -> Cluster:
    (folder / "cluster.yaml").write_text(HEAD + text)
    return load_cluster(folder / "cluster.yaml")


def init(folder: Path, text: str, places: KubeadmFolders = PLACES) -> tuple[Document, Document]:
    cluster = read(folder, text)
    first, second = configuration.init(cluster, cluster.nodes[0], places)
    return first, second


def args(component: Document) -> dict[str, str]:
    return {each["name"]: each["value"] for each in component.get("extraArgs") or component["kubeletExtraArgs"]}


def test_init_of_stacked_etcd(tmp_path: Path) -> None:
    node, cluster = init(tmp_path, STACKED)
    assert node["localAPIEndpoint"] == {"advertiseAddress": "10.0.0.11", "bindPort": 6443}
    assert args(node["nodeRegistration"]) == {"rotate-certificates": "false", "node-ip": "10.0.0.11"}
    # No token is made, and no command with one is printed.
    assert node["skipPhases"] == ["bootstrap-token", "show-join-command"]
    assert cluster["controlPlaneEndpoint"] == "api.example.com:6443"
    assert cluster["etcd"] == {"local": {"dataDir": "/var/lib/etcd"}}
    assert args(cluster["controllerManager"]) == {"root-ca-file": "/etc/kubernetes/pki/ca-chain.crt"}
    assert args(cluster["apiServer"]) == {"kubelet-certificate-authority": "/etc/kubernetes/pki/kubelet-ca.crt"}
    (volume,) = cluster["scheduler"]["extraVolumes"]
    assert volume["hostPath"] == volume["mountPath"] == "/etc/kubernetes/pki/scheduler" and volume["readOnly"]


def test_where_nodes_join_with_a_token_the_first_node_makes_what_they_need(tmp_path: Path) -> None:
    joined = '- {name: joined, roles: [worker], node_names: "w-*", join: token, networks: [10.1.0.0/16]}'
    cluster = read(tmp_path, f"{STACKED}signer: {{}}\npools:\n{joined}\n")
    node, _, kubelets = configuration.init(cluster, cluster.nodes[0], PLACES)
    # cluster-info and the rights of tokens are the work of this phase.
    assert node["skipPhases"] == ["show-join-command"]
    assert kubelets == {
        "apiVersion": "kubelet.config.k8s.io/v1beta1",
        "kind": "KubeletConfiguration",
        "rotateCertificates": True,
        "serverTLSBootstrap": True,
    }
    # A node with an agent has its own pair all the same.
    (patch,) = configuration.patches(PLACES).values()
    assert not patch["rotateCertificates"] and not patch["serverTLSBootstrap"]


def test_external_etcd_and_two_families(tmp_path: Path) -> None:
    node, cluster = init(tmp_path, EXTERNAL)
    # The family of the first range comes first, and each family has one address.
    assert node["localAPIEndpoint"]["advertiseAddress"] == "fd00::11"
    assert args(node["nodeRegistration"])["node-ip"] == "fd00::11,10.0.0.11"
    assert cluster["networking"]["serviceSubnet"] == "fd00:1::/112,10.96.0.0/12"
    assert cluster["etcd"] == {
        "external": {
            "endpoints": ["https://[fd00::13]:2379"],
            "caFile": "/etc/kubernetes/pki/etcd/ca.crt",
            "certFile": "/etc/kubernetes/pki/apiserver-etcd-client.crt",
            "keyFile": "/etc/kubernetes/pki/apiserver-etcd-client.key",
        }
    }


@pytest.mark.parametrize(
    ("roles", "stacked"),
    [
        (("[control-plane, etcd, worker]", "[control-plane, etcd, worker]", "[worker]"), True),
        (("[control-plane, etcd, worker]", "[control-plane, worker]", "[worker]"), False),
        (("[control-plane, etcd, worker]", "[control-plane, etcd, worker]", "[etcd]"), False),
    ],
)
def test_etcd_is_kubeadms_if_it_is_on_exactly_the_control_planes(
    tmp_path: Path, roles: tuple[str, ...], stacked: bool
) -> None:
    nodes = (f"- {{name: n-{at}, roles: {each}, addresses: [10.0.0.{at + 1}]}}\n" for at, each in enumerate(roles))
    assert configuration.stacked(read(tmp_path, "nodes:\n" + "".join(nodes))) is stacked


def test_pooled_kubelets_are_reached_by_name(tmp_path: Path) -> None:
    _, cluster = init(tmp_path, STACKED + POOL)
    assert args(cluster["apiServer"])["kubelet-preferred-address-types"].startswith("Hostname,")


def test_own_names_keys_and_folders(tmp_path: Path) -> None:
    more = "{kube-apiserver: {extra_names: [api.internal], extra_addresses: [10.9.9.9]}}"
    text = f"{STACKED}defaults: {{key: rsa-3072}}\ncertificates: {more}\n"
    _, cluster = init(tmp_path, text, KubeadmFolders("/srv/k8s/certs", "/srv/kubelet", "/srv/kubeadm"))
    assert cluster["apiServer"]["certSANs"] == ["api.example.com", "api.internal", "10.9.9.9"]
    assert cluster["encryptionAlgorithm"] == "RSA-3072" and cluster["certificatesDir"] == "/srv/k8s/certs"
    written = yaml.safe_dump(cluster)
    assert "/etc/kubernetes/pki" not in written


@pytest.mark.parametrize("key", ["ec-p256", "ec-p384", "ed25519"])
def test_the_service_account_key_has_a_type_that_kubeadm_1_31_knows(tmp_path: Path, key: str) -> None:
    _, cluster = init(tmp_path, f"{STACKED}defaults: {{key: {key}}}\n")
    assert cluster["encryptionAlgorithm"] == "ECDSA-P256"


@pytest.mark.parametrize(
    ("version", "key", "algorithm"),
    [
        ("v1.31.0", "ec-p384", "ECDSA-P256"),
        ("v1.33.7", "ec-p384", "ECDSA-P256"),
        ("v1.34.4", "ec-p384", "ECDSA-P384"),
        ("v1.35.4", "ec-p384", "ECDSA-P384"),
        ("v1.36.3", "ec-p384", "ECDSA-P384"),
        ("v1.37.2", "ec-p384", "ECDSA-P384"),
        ("v1.37.2", "ed25519", "ECDSA-P256"),
        ("v1.34.4", "rsa-4096", "RSA-4096"),
        ("v1.31.0", "rsa-2048", "RSA-2048"),
    ],
)
def test_the_service_account_key_has_the_clusters_type_where_that_kubeadm_knows_it(
    tmp_path: Path, version: str, key: str, algorithm: str
) -> None:
    cluster = read(tmp_path, f"{STACKED}defaults: {{key: {key}}}\n")
    _, found = configuration.init(cluster, cluster.nodes[0], PLACES, version=version)
    assert found["encryptionAlgorithm"] == algorithm


@pytest.mark.parametrize("version", ["v1.31.0", "v1.34.4", "v1.37.2", "v1.38.0", None])
def test_every_kubeadm_that_is_not_refused_gets_the_same_version_of_the_configuration(
    tmp_path: Path, version: str | None
) -> None:
    cluster = read(tmp_path, STACKED)
    made = configuration.init(cluster, cluster.nodes[0], PLACES, version=version)
    assert {each["apiVersion"] for each in made} == {"kubeadm.k8s.io/v1beta4"}


def test_the_port_is_the_endpoints_if_that_is_a_node(tmp_path: Path) -> None:
    node, cluster = init(tmp_path, STACKED.replace("https://api.example.com:6443", "https://10.0.0.11:8443"))
    assert node["localAPIEndpoint"]["bindPort"] == 8443 and cluster["controlPlaneEndpoint"] == "10.0.0.11:8443"
    node, cluster = init(tmp_path, STACKED.replace("https://api.example.com:6443", "https://api.example.com"))
    assert node["localAPIEndpoint"]["bindPort"] == 6443 and cluster["controlPlaneEndpoint"] == "api.example.com:443"


def test_join_of_each_kind(tmp_path: Path) -> None:
    cluster = read(tmp_path, STACKED + POOL)
    (joined,) = configuration.join(cluster, files.holder(cluster, "cp-2", None), PLACES)
    assert joined["controlPlane"] == {"localAPIEndpoint": {"advertiseAddress": "10.0.0.12", "bindPort": 6443}}
    assert joined["nodeRegistration"]["ignorePreflightErrors"] == ["FileAvailable--etc-kubernetes-kubelet.conf"]
    (joined,) = configuration.join(cluster, files.holder(cluster, "w-17", None), PLACES)
    assert "controlPlane" not in joined and joined["nodeRegistration"]["name"] == "w-17"
    assert args(joined["nodeRegistration"]) == {"rotate-certificates": "false"}
    assert joined["nodeRegistration"]["ignorePreflightErrors"] == [
        "FileAvailable--etc-kubernetes-kubelet.conf",
        "FileAvailable--etc-kubernetes-pki-ca.crt",
    ]
    assert "bootstrapToken" not in joined["discovery"]
    (joined,) = configuration.join(cluster, files.holder(cluster, None, "autoscaled"), PLACES)
    assert "name" not in joined["nodeRegistration"]


def test_discovery_names_the_endpoint_and_no_key(tmp_path: Path) -> None:
    found = configuration.discovery(read(tmp_path, STACKED), PLACES)
    assert found["clusters"][0]["cluster"]["server"] == "https://api.example.com:6443"
    assert found["users"][0]["user"] == {
        "client-certificate": "/var/lib/kubelet/pki/kubelet-client.crt",
        "client-key": "/var/lib/kubelet/pki/kubelet-client.key",
    }


def test_upgrades_renew_nothing_and_patch_again() -> None:
    (found,) = configuration.upgrade(PLACES, version="v1.36.3")
    for each in (found["apply"], found["node"]):
        assert each["certificateRenewal"] is False
        assert each["patches"] == {"directory": "/etc/kubernetes/kubeadm/patches"}
    assert found["apply"]["kubernetesVersion"] == "v1.36.3"
    (patch,) = configuration.patches(PLACES).values()
    assert patch["rotateCertificates"] is False and patch["tlsCertFile"] == "/var/lib/kubelet/pki/kubelet.crt"


@pytest.mark.parametrize(
    ("arguments", "text", "message"),
    [
        (["cp-1"], STACKED, "cp-1 is a control-plane node: pass --init if it is the first one, else --join"),
        (["worker-1", "--init"], STACKED, "worker-1 is not a control-plane node"),
        (["etcd-1"], EXTERNAL, "etcd-1 has the role etcd only"),
        (["nobody"], STACKED, "'nobody' is not a listed node of prod, and no pool takes this name"),
        (["--pool", "none"], STACKED, "has no pool 'none'; it has: none"),
        (["cp-1", "--init", "--dir", "pki"], STACKED, "--dir: 'pki' is a relative path"),
    ],
)
def test_refusals(tmp_path: Path, arguments: list[str], text: str, message: str) -> None:
    read(tmp_path, text)
    ran = CliRunner().invoke(vaultpki, ["kubeadm", "config", "-f", str(tmp_path / "cluster.yaml"), *arguments])
    assert isinstance(ran.exception, ArgumentError) and message in str(ran.exception), ran.exception


def test_a_cluster_without_etcd_is_refused(tmp_path: Path) -> None:
    read(tmp_path, STACKED.replace(", etcd", ""))
    ran = CliRunner().invoke(vaultpki, ["kubeadm", "config", "-f", str(tmp_path / "cluster.yaml"), "cp-1", "--init"])
    assert isinstance(ran.exception, SpecError) and "no node has the role etcd" in str(ran.exception), ran.exception


@pytest.mark.parametrize(
    "version", ["v1.36.3", "1.36.3", "v1.37.0-alpha.1", "v1.36.3-rc.0", "v1.36.3+k3s1", "v1.31.0-a+b"]
)
def test_versions_of_kubernetes(version: str, tmp_path: Path) -> None:
    read(tmp_path, STACKED)
    asked = ["kubeadm", "config", "-f", str(tmp_path / "cluster.yaml"), "--kubernetes-version", version]
    for mode, at in ((["cp-1", "--init"], 1), (["cp-1", "--upgrade"], 0)):
        found = documents(CliRunner().invoke(vaultpki, [*asked, *mode]).output)[at]
        assert found.get("apply", found)["kubernetesVersion"] == f"v{version.removeprefix('v')}"


@pytest.mark.parametrize(
    "version",
    [
        "",
        "v1.36",
        "1.36",
        "v1.36.3.1",
        "v01.36.3",
        "1e3",
        "stable",
        "stable-1",
        "latest",
        "ci/latest",
        "v1.36.3-",
        "v1.36.3 ",
        "v1.36.3\n",
        "V1.36.3",
    ],
)
def test_what_is_no_version_is_a_mistake_in_the_command(version: str, tmp_path: Path) -> None:
    read(tmp_path, STACKED)
    asked = [
        "kubeadm",
        "config",
        "-f",
        str(tmp_path / "cluster.yaml"),
        "cp-1",
        "--init",
        "--kubernetes-version",
        version,
    ]
    ran = CliRunner().invoke(vaultpki, asked)
    assert ran.exit_code == 2 and "is not a Kubernetes version: write one such as v1.37.2" in ran.stderr, ran.output


@pytest.mark.parametrize("version", ["v1.30.14", "1.29.0", "v0.99.1", "v1.30.0-rc.1"])
def test_a_kubeadm_that_reads_no_such_configuration_is_refused(version: str, tmp_path: Path) -> None:
    read(tmp_path, STACKED)
    asked = ["kubeadm", "config", "-f", str(tmp_path / "cluster.yaml"), "--kubernetes-version", version]
    for mode in ("--init", "--upgrade"):
        ran = CliRunner().invoke(vaultpki, [*asked, "cp-1", mode])
        assert ran.exit_code == 2, ran.output
        assert "does not read kubeadm.k8s.io/v1beta4" in ran.stderr and "use Kubernetes 1.31 or newer" in ran.stderr


def test_another_layout_is_refused(tmp_path: Path) -> None:
    (tmp_path / "cluster.yaml").write_text("cluster: prod\n" + STACKED)
    ran = CliRunner().invoke(vaultpki, ["kubeadm", "config", "-f", str(tmp_path / "cluster.yaml"), "worker-1"])
    assert "layout: kubeadm needs" in str(ran.exception) or "write layout: kubeadm" in str(ran.exception)


def test_what_is_written_is_what_is_printed(tmp_path: Path) -> None:
    read(tmp_path, STACKED)
    asked = ["kubeadm", "config", "-f", str(tmp_path / "cluster.yaml"), "cp-2", "--join"]
    printed = CliRunner().invoke(vaultpki, asked)
    # A folder of an earlier run is overwritten.
    for _ in range(2):
        ran = CliRunner().invoke(vaultpki, [*asked, "-o", str(tmp_path / "out")])
        assert ran.exit_code == 0, ran.output
    *wrote, then = ran.output.splitlines()
    names = [line.removeprefix("wrote ") for line in wrote]
    assert then == (
        f"copy the folder {tmp_path}/out to cp-2 as /etc/kubernetes/kubeadm, and run `kubeadm join` there with "
        "`--config /etc/kubernetes/kubeadm/kubeadm.yaml`"
    )
    assert [Path(name).relative_to(tmp_path / "out").as_posix() for name in names] == [
        "kubeadm.yaml",
        "discovery.conf",
        "patches/kubeletconfiguration+merge.yaml",
    ]
    assert documents(printed.output) == [each for name in names for each in documents(Path(name).read_text())]


def documents(text: str) -> list[Any]:
    """The YAML documents of a text, in which a comment may begin a file."""
    separate = re.sub("^# /.*$", "---", text, flags=re.MULTILINE)
    return [each for each in yaml.safe_load_all(separate) if each is not None]
