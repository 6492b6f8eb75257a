"""The container image, built from the recipe, as static pod and as DaemonSet of a real Kubernetes."""

from __future__ import annotations

import io
import json
import re
import subprocess
import sys
import tarfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

import pytest
import yaml

from helpers.kube import containerd, kube_cluster, operator_crds
from helpers.kube.components import Programs
from helpers.kube.kube_cluster import READY_SECONDS, Kubernetes
from helpers.kube.machines import Machine, Process
from helpers.node import enrolled_nodes
from helpers.packages import bills, built
from helpers.pages import CHECKOUT
from helpers.vault import servers
from helpers.vault.applied_cluster import environment
from helpers.vault.servers import wait_for
from vaultpki import __version__
from vaultpki.host.systemd import recipe

pytestmark = [pytest.mark.conformance, pytest.mark.timeout(2 * built.BUILD_SECONDS)]

NAMESPACE = "kube-system"
MANIFESTS = "/etc/kubernetes/manifests"
PAIR = "/etc/kubernetes/pki/kube-proxy.crt"


@dataclass(frozen=True, slots=True)
class ClusterWithImage:
    """A cluster of one node that has joined with the default paths, and has the image."""

    kubernetes: Kubernetes
    machine: Machine

    def pod(self, selector: str) -> dict[str, object]:
        """The only pod with this label that is not on its way out; empty where there is none."""
        items = self.kubernetes.get("pods", "-n", NAMESPACE, "-l", selector)["items"]
        found = [each for each in items if "deletionTimestamp" not in each["metadata"]]
        assert len(found) <= 1
        return found[0] if found else {}

    def await_ready(self, selector: str = "app.kubernetes.io/name=vaultpki-agent") -> str:
        """The name of the agent's pod once it is ready, which is when its own /healthz says so."""
        seen: list[str] = []

        def ready() -> bool:
            pod = self.pod(selector)
            conditions = {each["type"]: each["status"] for each in pod.get("status", {}).get("conditions", [])}  # type: ignore[attr-defined]
            seen[:] = [pod["metadata"]["name"]] if pod else []  # type: ignore[index]
            return conditions.get("Ready") == "True"

        def why() -> str:
            said = self.kubernetes.kubectl(
                *(self.kubernetes.admin, "describe", "pod", "-n", NAMESPACE, "-l", selector), expect=None
            )
            logs = self.kubernetes.kubectl(
                *(self.kubernetes.admin, "logs", "-n", NAMESPACE, "-l", selector), expect=None
            )
            return f"no agent is ready:\n{said.stdout}\n{logs.stdout}{logs.stderr}"

        # The kubelet asks for readiness every thirty seconds.
        wait_for(ready, READY_SECONDS + 60, why, pause=0.5)
        return seen[0]

    def follow(self, pod: str) -> Process:
        """`kubectl logs --follow` of a pod."""
        command = self.kubernetes.kubectl_command(self.kubernetes.admin, "logs", "-n", NAMESPACE, "-f", pod)
        process = self.kubernetes.outside.start(f"logs-{pod}", *command)
        wait_for(lambda: '"started"' in process.said(), 20, lambda: f"no log of {pod}:\n{process.said()}")
        return process

    def renews(self) -> None:
        """A pair that is lost comes back, so the pod reaches Vault and writes the node's own files."""
        self.machine.run("rm", PAIR)
        back = ("test", "-s", PAIR)
        wait_for(
            lambda: self.machine.run(*back, expect=None).returncode == 0, 60, lambda: "the pair stays lost", pause=0.5
        )

    def gone(self, selector: str = "app.kubernetes.io/name=vaultpki-agent") -> bool:
        return not self.kubernetes.get("pods", "-n", NAMESPACE, "-l", selector)["items"]


@pytest.fixture(scope="module")
def archive(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The image; a Docker daemon of its own has built it."""
    folder = tmp_path_factory.mktemp("image")
    built.wheel(tmp_path_factory, folder)
    built.make("image", folder, behind=(CHECKOUT / "tests/setup/with-docker", sys.executable))
    return built.only(folder, "*-image.tar")


def test_its_bill_lists_debian_and_python(archive: Path) -> None:
    bill = bills.read(archive)
    assert bill["metadata"]["component"]["type"] == "container"
    assert {"hvac", "vaultpki", "cryptography"} <= bills.components(bill, "pkg:pypi/").keys()
    assert {"libc6", "openssl", "ca-certificates"} <= bills.components(bill, "pkg:deb/debian/").keys()


@pytest.fixture(scope="module")
def cluster(archive: Path, programs: Programs, tmp_path_factory: pytest.TempPathFactory) -> Iterator[ClusterWithImage]:
    folder = tmp_path_factory.mktemp("kube-image")
    with (
        servers.running("bao", folder / "server") as server,
        kube_cluster.cluster(server, programs, folder / "kube", kube_cluster.ONE) as kubernetes,
    ):
        node = kubernetes.control_plane
        _own_etc(node.machine)
        enroller = enrolled_nodes.Enroller(kubernetes.cluster, kubernetes.cluster.token())
        _join(node.machine, enroller.join_file(node.name, folder / "join.json", replace=True))
        _import(node.machine, archive)
        _static_pods(kubernetes)
        yield ClusterWithImage(kubernetes, node.machine)


def _own_etc(machine: Machine) -> None:
    """An /etc of the machine's own, since pods mount folders of it."""
    machine.run("cp", "-a", "/etc/.", "/run/etc")
    machine.run("mount", "--bind", "/run/etc", "/etc")


def _join(machine: Machine, file: Path) -> None:
    """The node's join with the default paths: its files and its network are the machine's."""
    inside = ["nsenter", "--target", str(machine.holder.pid), "--net", "--mount", "--wdns=/"]
    command = [sys.executable, "-m", "vaultpki", "join", str(file)]
    ran = subprocess.run(
        [*inside, *command], env=environment(), capture_output=True, text=True, check=False, timeout=60
    )
    assert ran.returncode == 0, ran.stdout + ran.stderr
    machine.run("sed", "-i", "s/^poll: .*/poll: 10s/; $ a metrics: 127.0.0.1:9910", "/etc/vaultpki/agent.yaml")


def _import(machine: Machine, archive: Path) -> None:
    client = ("ctr", "--address", str(containerd.socket_of(machine)), "--namespace", "k8s.io")
    machine.run(*client, "images", "import", "--snapshotter", "native", archive, timeout=180)


def _static_pods(kubernetes: Kubernetes) -> None:
    node = kubernetes.control_plane
    node.machine.run("mkdir", "-p", MANIFESTS)
    file = node.machine.folder / "kubelet.yaml"
    file.write_text(yaml.safe_dump(yaml.safe_load(file.read_text()) | {"staticPodPath": MANIFESTS}))
    kubernetes.restart("kubelet")


@dataclass(frozen=True, slots=True)
class Unpacked:
    """What is in the archive: its labels, and each file by its path with its size in bytes."""

    labels: dict[str, str]
    files: dict[str, int]


def unpacked(archive: Path) -> Unpacked:
    files: dict[str, int] = {}
    with tarfile.open(archive) as image:

        def read(name: str) -> bytes:
            member = image.extractfile(name)
            assert member is not None
            return member.read()

        (manifest,) = json.loads(read("manifest.json"))
        for layer in manifest["Layers"]:
            with tarfile.open(fileobj=io.BytesIO(read(layer))) as contents:
                files |= {each.name.removeprefix("./"): each.size for each in contents}
        return Unpacked(json.loads(read(manifest["Config"]))["config"]["Labels"], files)


def test_it_is_small_and_brings_only_what_it_needs(archive: Path) -> None:
    files = unpacked(archive).files
    assert sum(files.values()) <= 150_000_000
    # perl-base is one of Debian's essential packages; the rest of perl is not.
    assert not [name for name in files if name.startswith("usr/share/perl/")]
    documents = [name for name in files if name.startswith("usr/share/doc/") and files[name]]
    assert documents and {name.rpartition("/")[2] for name in documents} == {"copyright"}
    translations = [name for name in files if name.startswith("usr/share/locale/") and name.endswith(".mo")]
    manuals = [name for name in files if name.startswith("usr/share/man/") and files[name]]
    tools = [name for name in files if re.search(r"/(pip|setuptools|ensurepip/_bundled|apt-get)(/|$)|\.cache/", name)]
    assert (translations, manuals, tools) == ([], [], [])
    # What the SBOM lists of Debian, and what verifies Vault's certificate where agent.yaml names no CA file.
    assert files["var/lib/dpkg/status"] and files["etc/ssl/certs/ca-certificates.crt"]


def test_its_labels_say_what_it_is(archive: Path) -> None:
    prefix = "org.opencontainers.image."
    labels = {name.removeprefix(prefix): value for name, value in unpacked(archive).labels.items()}
    # The commit of which it was made; the checkout may have a newer one by now.
    when = subprocess.run(
        ["git", "log", "-1", "--format=%ct", labels["revision"]],
        cwd=CHECKOUT,
        capture_output=True,
        text=True,
        check=True,
    )
    assert labels["title"] == "vaultpki" and labels["licenses"] == "Apache-2.0" and labels["description"]
    assert labels["version"] == __version__ and len(labels["revision"]) == 40
    assert datetime.fromisoformat(labels["created"]).timestamp() == int(when.stdout)
    assert re.fullmatch(r"localhost/vaultpki-base:\w+", labels["base.name"])


def test_it_is_built_from_the_recipe_and_runs(cluster: ClusterWithImage) -> None:
    client = ("ctr", "--address", str(containerd.socket_of(cluster.machine)), "--namespace", "k8s.io")
    image = f"docker.io/library/vaultpki:{__version__.replace('+', '_')}"
    ran = cluster.machine.run(
        *client, "run", "--rm", "--snapshotter", "native", image, "version", "env", "vaultpki", "--version", expect=None
    )
    assert ran.stdout == f"vaultpki, version {__version__}\n", ran.stderr


def test_static_pod(cluster: ClusterWithImage) -> None:
    manifest = f"{MANIFESTS}/vaultpki-agent.yaml"
    cluster.machine.run("sh", "-c", f"cat >{manifest}", stdin=recipe("static-pod.yaml"))
    pod = cluster.await_ready()
    assert pod == f"vaultpki-agent-{cluster.kubernetes.control_plane.name}"
    said = cluster.follow(pod)
    cluster.renews()
    cluster.machine.run("rm", manifest)
    _ends(cluster, said)


def test_daemon_set(cluster: ClusterWithImage) -> None:
    kubectl = (cluster.kubernetes.admin, "-n", NAMESPACE)
    cluster.kubernetes.kubectl(cluster.kubernetes.admin, "apply", "-f", "-", stdin=recipe("daemonset.yaml"))
    said = cluster.follow(cluster.await_ready())
    cluster.renews()
    rolled = ("rollout", "status", "daemonset/vaultpki-agent", "--timeout=60s")
    cluster.kubernetes.kubectl(cluster.kubernetes.admin, "-n", NAMESPACE, *rolled)
    cluster.kubernetes.kubectl(*kubectl, "delete", "daemonset", "vaultpki-agent")
    _ends(cluster, said)


def test_the_api_server_takes_the_manifests(cluster: ClusterWithImage) -> None:
    """All that is printed for a cluster, each field of it; those of the Prometheus operator by its own definitions."""
    kubernetes = cluster.kubernetes
    for kind in ("PodMonitor", "PrometheusRule"):
        # Too large for the annotation of `kubectl apply`.
        kubernetes.kubectl(kubernetes.super_admin, "create", "-f", operator_crds.file(kind))
    kinds = ("crd/podmonitors.monitoring.coreos.com", "crd/prometheusrules.monitoring.coreos.com")
    kubernetes.kubectl(kubernetes.super_admin, "wait", "--for=condition=Established", "--timeout=60s", *kinds)
    for name in (
        "daemonset.yaml",
        "static-pod.yaml",
        "kube-rbac-proxy.yaml",
        "podmonitor.yaml",
        "prometheus-rule.yaml",
    ):
        checked = ("apply", "--dry-run=server", "--validate=strict", "-f", "-")
        said = kubernetes.kubectl(kubernetes.super_admin, *checked, stdin=recipe(name))
        assert not said.stderr and "(server dry run)" in said.stdout, said.stderr


def _ends(cluster: ClusterWithImage, said: Process) -> None:
    """The agent ends by SIGTERM, in order, and not by the SIGKILL that comes ten seconds later."""
    begin = time.monotonic()
    wait_for(cluster.gone, READY_SECONDS, lambda: f"the pod stays:\n{said.last_words()}", pause=0.3)
    wait_for(lambda: not said.alive(), 20, lambda: f"its log does not end after {time.monotonic() - begin:.0f} s")
    assert json.loads(said.last_words(1))["event"] == "stopped", said.last_words()
