"""`vaultpki nodes --kubeconfig`: what a cluster's objects and its mounts show of the signer, with a viewer's token."""

from __future__ import annotations

import base64
import json
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
import trustme

from helpers.kube import answering_api, signer_stand
from helpers.kube.answering_api import Api
from helpers.vault.applied_cluster import AppliedCluster, vaultpki
from helpers.vault.cluster_factory import ClusterFactory
from vaultpki.kube.api import METADATA_LIST
from vaultpki.model import KeyType, Subject
from vaultpki.pki import keys
from vaultpki.redact import stamp
from vaultpki.signer.lease import LEASE
from vaultpki.signer.requests import CLIENT_KUBELET

SPEC = """\
nodes:
- {name: cp-1, roles: [control-plane, etcd], addresses: [10.20.0.11]}
signer: {}
pools:
- {name: by-token, roles: [worker], node_names: "w-*", join: token, networks: [10.20.1.0/24]}
"""
REQUESTS = "/apis/certificates.k8s.io/v1/certificatesigningrequests"
SECRETS = "/api/v1/namespaces/kube-system/secrets"


def ago(**span: float) -> str:
    return stamp(datetime.now(UTC) - timedelta(**span))


@pytest.fixture
def cluster(clusters: ClusterFactory) -> AppliedCluster:
    return clusters.applied(SPEC)


@pytest.fixture
def api(tmp_path: Path) -> Iterator[Api]:
    """An API server on which a signer leads, and nothing else is."""
    ca = trustme.CA()
    lease = {"spec": {"holderIdentity": "cp-1", "renewTime": ago().replace("Z", ".123456Z")}}
    empty: dict[str, Any] = {"items": []}
    values = {LEASE: lease, REQUESTS: empty, SECRETS: empty, "/api/v1/nodes": empty}
    with answering_api.serving(values, ca.issue_cert("127.0.0.1").configure_cert) as api:
        answering_api.access(api, tmp_path, ca.cert_pem.bytes())
        yield api


def shown(cluster: AppliedCluster, folder: Path, *words: str | Path, expect: int = 0) -> Any:
    more = ("--kubeconfig", folder / "admin.conf", *words)
    said = vaultpki("nodes", "-f", cluster.file, *more, env=cluster.environment("viewer"), expect=expect).stdout
    return json.loads(said) if "--json" in words else said


def signed(cluster: AppliedCluster, name: str) -> str:
    """A certificate that the signer had signed, by another token."""
    csr = keys.request(keys.generate_key(KeyType.EC_P256), Subject("x"))
    body = {"csr": csr, "common_name": name, "ttl": "86400", "exclude_cn_from_sans": "true"}
    answer = cluster.server.api("POST", f"{cluster.prefix}/kubernetes/sign/csr-kubelet-client", body)
    assert answer.status == 200, answer
    return str(answer.data["certificate"])


def request(name: str, pem: str = "", minutes: float = 5, **status: Any) -> dict[str, Any]:
    item = signer_stand.kubelet_client(name, "w-1")
    item["metadata"]["creationTimestamp"] = ago(minutes=minutes)
    item["spec"]["username"] = signer_stand.TOKEN_USER
    return item | {"status": status | ({"certificate": base64.b64encode(pem.encode()).decode()} if pem else {})}


def test_a_signer_that_is_well(cluster: AppliedCluster, api: Api, tmp_path: Path) -> None:
    ours = signed(cluster, "system:node:w-1")
    api.values[REQUESTS] = {"items": [request("csr-1", ours)]}
    api.values["/api/v1/nodes"] = {"items": [{"metadata": {"name": "w-1"}}, {"metadata": {"name": "cp-1"}}]}
    found = shown(cluster, tmp_path, "--json")
    assert found["ok"] and found["findings"] == []
    (row,) = (each for each in found["nodes"] if each["node"] == "w-1")
    assert (row["state"], row["pool"], row["reasons"]) == ("joined", "by-token", ["joined"])
    assert row["first_expiry"][:4] in ago(days=-1)
    # Of Secrets nothing but their metadata is asked for, and nothing is written.
    assert {form for path, form in api.asked.items() if path.startswith(SECRETS)} == {METADATA_LIST}
    assert api.methods == {"GET"}
    text = shown(cluster, tmp_path)
    assert " by-token " in text and " joined " in text
    metrics = shown(cluster, tmp_path, "--metrics", "-")
    assert 'vaultpki_fleet_finding{cluster="' in metrics and 'state="joined"} 1.0' in metrics
    # No agent is there that Prometheus could miss.
    assert not [line for line in metrics.splitlines() if line.startswith("vaultpki_fleet_node_info") and "w-1" in line]


def test_report_and_picture_know_a_node_that_joined(cluster: AppliedCluster, api: Api, tmp_path: Path) -> None:
    def made(command: str, name: str, *more: str | Path, expect: int = 0) -> str:
        words = (command, "-f", cluster.file, "--from-vault", "-o", tmp_path / name, *more)
        vaultpki(*words, env=cluster.environment("viewer"), expect=expect)
        return (tmp_path / name).read_text()

    assert "that joined with a token" not in made("report", "report.html")
    signed(cluster, "system:node:w-1")
    for page in (made("report", "report.html"), made("graph", "graph.svg")):
        assert "reports of 0 nodes and 1 node that joined with a token" in page
    assert "worker, pool by-token" in (tmp_path / "report.html").read_text()
    # The row of kubelets has its certificate, and the component its pool.
    drawn = made("graph", "graph.mmd")
    assert '"kubelet<br/>pool by-token<br/>' in drawn and "kubelet-client.crt .key<br/>until 20" in drawn
    # Who is asked too shows the findings of the signer.
    api.values[REQUESTS] = {"items": [request("csr-3", conditions=[{"type": "Approved"}])]}
    api.answers = lambda path, known: api.values.get(path.partition("?")[0], answering_api.items())
    page = made("report", "report.html", "--kubeconfig", tmp_path / "admin.conf", expect=3)
    assert "approved and not signed, though cp-1 leads" in page and "has no Node now" in page


def test_what_the_objects_show(cluster: AppliedCluster, api: Api, tmp_path: Path) -> None:
    other = trustme.CA().issue_cert("w-1").cert_chain_pems[0].bytes().decode()
    why = "vaultpki signer: cp-1 is a node of cluster.yaml: its agent has its certificates"
    failed: dict[str, Any] = {"conditions": [{"type": "Approved"}, {"type": "Failed", "message": why}]}
    serving = signer_stand.kubelet_serving("csr-4", "w-1", "10.20.1.5")
    serving["metadata"]["creationTimestamp"] = ago(minutes=5)
    serving["spec"]["username"] = "system:node:w-1"
    waits = request("csr-3", conditions=[{"type": "Approved"}])
    items = [request("csr-1", other), request("csr-2", **failed), waits, serving]
    assert items[0]["spec"]["signerName"] == CLIENT_KUBELET
    api.values[REQUESTS] = {"items": items}
    api.values[SECRETS] = {
        "items": [{"metadata": {"name": "bootstrap-token-abcdef", "creationTimestamp": ago(days=2)}}]
    }
    found = shown(cluster, tmp_path, "--json", expect=3)
    assert {each["name"]: each["command"] for each in found["findings"]} == {
        "signer-silent": "systemctl status vaultpki-signer",
        "signer-refuses": "kubectl describe csr csr-2",
        "serving-unapproved": "kubectl certificate approve csr-4",
        "signer-stranger": "kubectl get csr csr-1 -o yaml",
        "token-open": "kubeadm token delete abcdef",
    }
    assert "csr-3" in next(each["message"] for each in found["findings"] if each["name"] == "signer-silent")
    assert 'finding="signer-stranger",severity="critical"} 1.0' in shown(cluster, tmp_path, "--metrics", "-")


def test_what_may_not_be_read_is_said(cluster: AppliedCluster, api: Api, tmp_path: Path) -> None:
    api.values |= {SECRETS: 403, LEASE: 403}
    found = shown(cluster, tmp_path, "--json", expect=3)
    assert [each["name"] for each in found["findings"]] == ["not-read", "not-read"]
    assert "bootstrap tokens of the cluster could not be read" in str(found["findings"])
