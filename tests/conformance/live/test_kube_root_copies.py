"""What a real API server says of `kube-root-ca.crt` and of pods, by the product's own reader of it."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest

from helpers.kube.kube_cluster import Kubernetes
from helpers.vault.applied_cluster import ROOT
from helpers.vault.servers import wait_for

pytestmark = pytest.mark.conformance

SCRIPT = f"""\
import json, sys
from dataclasses import asdict
from pathlib import Path
sys.path.insert(0, {str(ROOT)!r})
from vaultpki.errors import VaultpkiError
from vaultpki.kube import api as kube_api
from vaultpki.kube import kubeconfig
try:
    found = asdict(kube_api.read_trust(kubeconfig.read(Path(sys.argv[1]))))
except VaultpkiError as error:
    found = {{"error": str(error)}}
print(json.dumps(found, default=str))
"""


def read(kubernetes: Kubernetes, conf: Path) -> dict[str, Any]:
    """What the reader finds, outside of the cluster and on its network."""
    found: dict[str, Any] = json.loads(kubernetes.outside.run(sys.executable, "-c", SCRIPT, conf).stdout)
    return found


def test_every_namespace_has_a_copy_that_says_when_it_changed(one_node: Kubernetes) -> None:
    one_node.kubectl(one_node.admin, "create", "namespace", "copied")
    try:
        names = {each["metadata"]["name"] for each in one_node.get("namespaces")["items"]}
        wait_for(lambda: len(read(one_node, one_node.admin)["copies"]) == len(names), 30, lambda: "no copies")
        found = read(one_node, one_node.admin)
        assert set(found["namespaces"]) == names and "copied" in names
        chain = (one_node.control_plane.pki / "kubernetes-ca-chain.crt").read_text()
        assert {(each["namespace"], each["pem"].strip()) for each in found["copies"]} == {
            (name, chain.strip()) for name in names
        }
        assert all(each["changed"] for each in found["copies"])
    finally:
        one_node.kubectl(one_node.admin, "delete", "namespace", "copied", "--wait=false")


def test_who_may_not_list_them_reads_one_sentence(one_node: Kubernetes) -> None:
    conf = one_node.worker.pki / "kube-proxy.conf"
    assert "may not list namespaces in all namespaces" in read(one_node, conf)["error"]
