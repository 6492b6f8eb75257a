"""What a real API server says of `kube-root-ca.crt`, ClusterTrustBundles and pods, by the product's own reader."""

from __future__ import annotations

import json
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from helpers.kube.kube_cluster import Kubernetes
from helpers.kube.live_faults import GROUP
from helpers.kube.trust_bundles import reader, serves_trust_bundles, trust_bundle_of
from helpers.node.handmade_files import authority
from helpers.vault.applied_cluster import ROOT
from helpers.vault.servers import wait_for
from vaultpki.kube.objects import ClusterTrustBundle, KubeTrust, RootCopy
from vaultpki.pki import x509
from vaultpki.procedure.gate import Gate
from vaultpki.records.rotation import CaRef, RotationRecord, State
from vaultpki.rotation import root_gates

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


def trust(found: dict[str, Any]) -> KubeTrust:
    """The same as the gate gets it; pods play no part here."""
    copies = tuple(RootCopy(each["namespace"], each["pem"], None) for each in found["copies"])
    bundles = tuple(ClusterTrustBundle(**each) for each in found["bundles"])
    return KubeTrust(tuple(found["namespaces"]), copies, (), (), bundles, found["bundles_unread"])


def waits(kubernetes: Kubernetes, found: dict[str, Any], state: State, to: State, *, left: bool = False) -> list[str]:
    """What the root's rotation waits for at ClusterTrustBundles; with `left` the cluster's root is the new one."""
    chain = (kubernetes.control_plane.pki / "kubernetes-ca-chain.crt").read_bytes()
    (root,) = (each for each in x509.read_certificates(chain) if each.subject_text == each.issuer_text)
    here, other = CaRef("root-1", sha256=root.fingerprint), CaRef("root-2", sha256="0" * 64)
    old, new = (other, here) if left else (here, other)
    record = RotationRecord("root", state, 3, datetime.now(UTC), old, new, checked=("outside",))
    gate = root_gates.gate(record, to, Gate(opens=datetime.now(UTC)), {}, trust(found))
    return [each.reason for each in gate.waiting if each.node == root_gates.CLUSTER_TRUST_BUNDLE]


def test_the_controller_manager_publishes_the_root_in_a_bundle_of_its_own(one_node: Kubernetes) -> None:
    found = read(one_node, one_node.admin)
    if not serves_trust_bundles(one_node):
        assert (found["bundles"], found["bundles_unread"]) == ([], "")
        return
    (bundle,) = found["bundles"]
    assert bundle["signer"] == "kubernetes.io/kube-apiserver-serving"
    assert bundle["pem"] == (one_node.control_plane.pki / "kubernetes-ca-chain.crt").read_text()
    # It has the root as it is, and no other.
    (reason,) = waits(one_node, found, State.PUBLISHED, State.SWITCHED)
    assert reason.startswith(f"does not hold the new root yet in {bundle['name']}. Once it is deleted, ")
    assert reason.endswith(" Delete it: `kubectl delete clustertrustbundle NAME`")
    assert waits(one_node, found, State.PUBLISHED, State.SWITCHED, left=True) == []
    assert waits(one_node, found, State.RETIRED, State.DONE, left=True) == []


def test_a_bundle_with_the_old_root_keeps_the_root_waiting(one_node: Kubernetes) -> None:
    if not serves_trust_bundles(one_node):
        pytest.skip("this Kubernetes has no ClusterTrustBundles")
    own, chain = authority("somebody").pem.decode(), one_node.control_plane.pki / "kubernetes-ca-chain.crt"
    try:
        one_node.apply(trust_bundle_of(own + chain.read_text()))
        found = read(one_node, one_node.admin)
        reasons = waits(one_node, found, State.PUBLISHED, State.SWITCHED)
        how = "`kubectl edit clustertrustbundle NAME`"
        assert f"does not hold the new root yet in {GROUP}. Add it, as every kube-root-ca.crt has it: {how}" in reasons
        reasons = waits(one_node, found, State.RETIRED, State.DONE)
        assert f"still holds the old root in {GROUP}. Take it out: {how}" in reasons
        one_node.apply(trust_bundle_of(own))
        found = read(one_node, one_node.admin)
        assert [each["name"] for each in found["bundles"]].count(GROUP) == 1
        assert not any(GROUP in each for each in waits(one_node, found, State.PUBLISHED, State.SWITCHED))
    finally:
        one_node.kubectl(one_node.admin, "delete", "clustertrustbundle", GROUP)


def test_the_role_of_the_page_is_enough_and_bundles_alone_may_be_missing(one_node: Kubernetes) -> None:
    served = serves_trust_bundles(one_node)
    with reader(one_node, "ca-root") as conf:
        found = read(one_node, conf)
        assert len(found["bundles"]) == served and found["bundles_unread"] == ""
    with reader(one_node, "ca-root", without="clustertrustbundles") as conf:
        found = read(one_node, conf)
    assert found["copies"] and found["bundles"] == []
    why = f"the user of {conf} may not list clustertrustbundles of certificates.k8s.io"
    assert found["bundles_unread"] == (why if served else "")
    reasons = waits(one_node, found, State.PUBLISHED, State.SWITCHED)
    assert [each.partition(". Allow it")[0] for each in reasons] == ([f"cannot be looked at: {why}"] if served else [])


def test_who_may_not_list_them_reads_one_sentence(one_node: Kubernetes) -> None:
    conf = one_node.worker.pki / "kube-proxy.conf"
    assert "may not list namespaces in all namespaces" in read(one_node, conf)["error"]
