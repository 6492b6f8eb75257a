"""One agent and one cluster that have something to show of each metric: the tables on the page "Monitoring"."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Final

from prometheus_client import generate_latest

from vaultpki.agent.ca_trust import CaOnNode
from vaultpki.daemon import metric_families, view
from vaultpki.daemon.signer_metrics import SignerCollector
from vaultpki.findings import cluster as whole
from vaultpki.identity.nodes import Member, NodeList
from vaultpki.identity.revoked_list import Revoked
from vaultpki.model import Cluster
from vaultpki.pki.ca_life import CaLife, expiry
from vaultpki.procedures.in_cluster import IN_CLUSTER
from vaultpki.provision.cluster_facts import CaStatus, ClusterFacts
from vaultpki.records.node_report import CertificateReport, NodeReport
from vaultpki.records.rotation import CaRef, RotationRecord, State
from vaultpki.show import fleet_metrics
from vaultpki.signer.process import SignerView

_BEGIN: Final = datetime(2026, 1, 1, tzinfo=UTC)
_END: Final = datetime(2031, 1, 1, tzinfo=UTC)
_CA: Final = CaLife("etcd", False, _BEGIN, _END, 1)
_VIEW: Final = view.View(
    node="cp-1",
    cluster="prod",
    state="ok",
    certificates=(view.CertificateView("kubelet", 1.0, 1.0, 1, 1, "ok", 1.0),),
    hooks={"kubelet": (1, 1.0)},
    readers=("etcd/etcd",),
    trust_generation="1",
    trust_changed=1.0,
    vault_reachable=True,
    vault_last_ok=1.0,
    outage_left=1.0,
    last_pass=1.0,
    stale_after=1.0,
    ends=(_CA,),
    cas=(CaOnNode("etcd", None, 0, False, ()),),
)
_COUNTS: Final = view.Counts("prod", "cp-1", 1, {"kubelet": 1})


def agent() -> str:
    """Returns what the agent shows."""
    return generate_latest(metric_families.Collector(lambda: _VIEW, lambda: _COUNTS)).decode()


def signer() -> str:
    """Returns what a signer of certificate requests shows."""
    name = "kubernetes.io/kubelet-serving"
    shown = SignerView("prod", "cp-1", True, "", 1, 1, 1.0, {name: 1}, {(name, "12"): 1}, {})
    return generate_latest(SignerCollector(lambda: shown)).decode()


def fleet(cluster: Cluster) -> str:
    """Returns what `nodes --metrics` writes."""
    one = CertificateReport("kubelet", "ok", _BEGIN, "1f")
    report = NodeReport(_BEGIN, "0.2.0", certificates={"kubelet": one}, trust="5b0c2f6f")
    nodes = NodeList((Member("cp-1", "listed", None, 1, report, '{"version":1}'),))
    record = RotationRecord("etcd", State.PUBLISHED, 2, _BEGIN, CaRef("etcd-1"), CaRef("etcd-2"))
    cas = (CaStatus("etcd", "etcd-1", "", _END, record),)
    read = ClusterFacts(cluster, _BEGIN, nodes, Revoked(), {}, (expiry(_CA, _BEGIN),), cas, ())
    return fleet_metrics.text(read, whole.judge(read, IN_CLUSTER), _BEGIN)
