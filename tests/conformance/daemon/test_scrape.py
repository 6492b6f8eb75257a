"""The recipes by which Prometheus gets at an agent: beside it, by a textfile collector, by the operator."""

from __future__ import annotations

import contextlib
import shlex
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml

from helpers import pages
from helpers.kube import operator_crds
from helpers.kube.components import Programs
from helpers.node import resident_agent
from helpers.node.resident_agent import get, resident
from helpers.prometheus import answer, prometheus
from helpers.vault.applied_cluster import AppliedCluster, NodeFolder
from helpers.vault.cluster_factory import ClusterFactory
from helpers.vault.servers import free_ports, wait_for
from vaultpki.host.systemd import recipe

pytestmark = [pytest.mark.conformance, pytest.mark.on_node]

FOLDER = "/var/lib/prometheus/node-exporter"


@pytest.fixture
def port() -> int:
    (port,) = free_ports(1)
    return port


@pytest.fixture
def cluster(clusters: ClusterFactory) -> AppliedCluster:
    return clusters.applied(resident_agent.SPEC.replace("defaults: {ttl: 30s}\n", ""))


@pytest.fixture
def node(cluster: AppliedCluster, port: int) -> NodeFolder:
    return cluster.equip("worker-1", further=f"poll: 10s\nmetrics: 127.0.0.1:{port}\n")


def job_of_the_page(cluster: str, port: int) -> dict[str, Any]:
    """The scrape of the page, for this cluster, worker-1 and the agent's port."""
    (text,) = (each.text for each in pages.blocks(pages.text("monitoring")) if "instance: cp-1" in each.text)
    text = text.replace("cluster: prod", f"cluster: {cluster}").replace("cp-1", "worker-1")
    (job,) = yaml.safe_load(text.replace("9910", str(port)))["scrape_configs"]
    return dict(job)


def settled(at: int, cluster: str) -> list[dict[str, str]]:
    """The labels of every series of vaultpki, once all have been scraped; no label was renamed."""
    wait_for(lambda: answer(at, "vaultpki_certificate_state") != [], 30, lambda: str(answer(at, "up")), 0.3)
    found = [one["metric"] for one in answer(at, '{__name__=~"vaultpki_.+"}')]
    assert len(found) > 40 and {(one["cluster"], one["node"]) for one in found} == {(cluster, "worker-1")}
    assert not {name for one in found for name in one if name.startswith("exported_")}
    # One of each: a join by cluster and node alone is never many-to-many.
    assert [one["value"][1] for one in answer(at, "count by (cluster, node) (vaultpki_build_info)")] == ["1"]
    return found


def test_a_prometheus_beside_the_agent(cluster: AppliedCluster, node: NodeFolder, port: int, tmp_path: Path) -> None:
    with (
        _prometheus(tmp_path, job_of_the_page(cluster.name, port)) as at,
        resident(node) as agent,
    ):
        agent.await_issued()
        assert {one["instance"] for one in settled(at, cluster.name)} == {"worker-1"}
        whose = {"job": "vaultpki", "instance": "worker-1", "cluster": cluster.name, "node": "worker-1"}
        assert answer(at, "up")[0]["metric"] == {"__name__": "up", **whose}
        joined = "vaultpki_build_info * on (cluster, node) group_left () up"
        assert [one["value"][1] for one in answer(at, joined)] == ["1"]
        agent.end()
        wait_for(lambda: [one["value"][1] for one in answer(at, "up")] == ["0"], 20, lambda: "up", 0.3)
        assert answer(at, "vaultpki_build_info") == []


def test_the_labels_that_the_pod_monitor_gives(
    cluster: AppliedCluster, node: NodeFolder, port: int, tmp_path: Path
) -> None:
    """Its relabelings, behind those that the operator writes before them for a pod of the proxy (promcfg.go there)."""
    (endpoint,) = yaml.safe_load(recipe("podmonitor.yaml").replace("CLUSTER", cluster.name))["spec"][
        "podMetricsEndpoints"
    ]
    pod = {"namespace": "kube-system", "pod": "vaultpki-metrics-x2x", "container": "kube-rbac-proxy"}
    fields = {"sourceLabels": "source_labels", "targetLabel": "target_label"}
    job = {
        "job_name": "podMonitor/kube-system/vaultpki/0",
        "honor_labels": endpoint["honorLabels"],
        "metrics_path": endpoint["path"],
        "static_configs": [
            {
                "targets": [f"127.0.0.1:{port}"],
                "labels": {**pod, "__meta_kubernetes_pod_node_name": "worker-1", "job": "kube-system/vaultpki"},
            }
        ],
        "relabel_configs": [{fields.get(name, name): rule[name] for name in rule} for rule in endpoint["relabelings"]],
    }
    with _prometheus(tmp_path, job) as at, resident(node) as agent:
        agent.await_issued()
        settled(at, cluster.name)
        whose = {"job": "vaultpki", "instance": f"127.0.0.1:{port}", "cluster": cluster.name, "node": "worker-1"}
        assert answer(at, "up")[0]["metric"] == {"__name__": "up", "namespace": "kube-system", **whose}


@contextlib.contextmanager
def _prometheus(folder: Path, job: dict[str, Any]) -> Iterator[int]:
    (folder / "prometheus").mkdir()
    with prometheus(folder / "prometheus", job) as at:
        wait_for(lambda: get(at, "-/ready")[0] == 200, 30, (folder / "prometheus" / "log").read_text, 0.2)
        yield at


def collect(folder: Path, port: int) -> None:
    """Do what systemd does with vaultpki-metrics.service."""
    text = recipe("vaultpki-metrics.service").replace(FOLDER, str(folder)).replace("9910", str(port))
    lines = [line.partition("=")[::2] for line in text.splitlines() if line.startswith("Exec")]
    result = "success"
    for name, line in lines:
        # As systemd.service(5) has it, where two dollars are one.
        command = shlex.split(line.replace("$$", "$"))
        if name == "ExecStopPost" or result == "success":
            ran = subprocess.run(command, env={"SERVICE_RESULT": result}, capture_output=True, check=False, timeout=60)
            result = "success" if ran.returncode == 0 else "exit-code"


def test_a_textfile_collector(cluster: AppliedCluster, node: NodeFolder, port: int, tmp_path: Path) -> None:
    folder = tmp_path / "textfiles"
    folder.mkdir()
    (listening,) = free_ports(1)
    words = ["--collector.disable-defaults", "--collector.textfile", f"--collector.textfile.directory={folder}"]
    job = job_of_the_page(cluster.name, listening)
    exporter = subprocess.Popen(
        ["prometheus-node-exporter", *words, f"--web.listen-address=127.0.0.1:{listening}"],
        stderr=subprocess.DEVNULL,
    )
    try:
        with _prometheus(tmp_path, job) as at, resident(node) as agent:
            agent.await_issued()
            collect(folder, port)
            assert [path.name for path in folder.iterdir()] == ["vaultpki.prom"]
            settled(at, cluster.name)
            assert [one["value"][1] for one in answer(at, "node_textfile_scrape_error")] == ["0"]
            agent.end()
            collect(folder, port)
            assert list(folder.iterdir()) == []
            wait_for(lambda: answer(at, "vaultpki_build_info") == [], 20, lambda: "the series does not end", 0.3)
    finally:
        exporter.kill()
        exporter.wait()


def schema(kind: str) -> dict[str, Any]:
    """The operator's schema of a kind, in which a field that it does not know is a fault."""
    definition = yaml.safe_load(operator_crds.file(kind).read_text())
    (version,) = [each for each in definition["spec"]["versions"] if each["name"] == "v1"]
    found: dict[str, Any] = closed(version["schema"]["openAPIV3Schema"])
    found["properties"]["metadata"] = {"type": "object"}
    return found


def closed(part: Any) -> Any:
    """A schema of Kubernetes as JSON Schema has it, without fields that are not named."""
    if isinstance(part, list):
        return [closed(each) for each in part]
    if not isinstance(part, dict):
        return part
    found = {name: closed(each) for name, each in part.items()}
    if isinstance(part.get("properties"), dict) and part.get("type") == "object":
        found["additionalProperties"] = False
    return found


@pytest.mark.parametrize("name", ["podmonitor.yaml", "prometheus-rule.yaml"])
def test_the_operator_takes_the_manifest(name: str) -> None:
    manifest = yaml.safe_load(recipe(name))
    validator = jsonschema.Draft202012Validator(schema(manifest["kind"]))
    assert [each.message for each in validator.iter_errors(manifest)] == []
    spec = manifest["spec"]
    wrong = {**spec, "unknown": 1} if "groups" in spec else {**spec, "podMetricsEndpoints": [{"honourLabels": True}]}
    assert list(validator.iter_errors({**manifest, "spec": wrong})) != []


def test_kustomize_builds_on_the_base(programs: Programs, tmp_path: Path) -> None:
    (tmp_path / "base").mkdir()
    for name in ("daemonset.yaml", "kustomization.yaml"):
        (tmp_path / "base" / name).write_text(recipe(name))

    def build(folder: Path) -> dict[str, Any]:
        kubectl = programs.path("kubectl")
        ran = subprocess.run(
            [kubectl, "kustomize", folder], capture_output=True, text=True, check=False, timeout=60, env={}
        )
        assert ran.returncode == 0, ran.stderr
        found: dict[str, Any] = yaml.safe_load(ran.stdout)
        return found

    base = yaml.safe_load(recipe("daemonset.yaml"))
    assert build(tmp_path / "base") == base
    (tmp_path / "kustomization.yaml").write_text(pages.file("agent", "kustomization.yaml"))
    made = build(tmp_path)["spec"]["template"]["spec"]
    tag = base["spec"]["template"]["spec"]["containers"][0]["image"].partition(":")[2]
    assert made["containers"][0]["image"] == f"registry.example.com/pki/vaultpki:{tag}"
    assert {each["mountPath"] for each in made["containers"][0]["volumeMounts"]} >= {
        "/etc/kubernetes/manifests",
        "/etc/kubernetes/pki",
    }
