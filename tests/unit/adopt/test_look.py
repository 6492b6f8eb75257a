"""What is made of a look: which machines count, whose certificates are seen, and nodes that join in the middle."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from helpers.foreign_ca import ForeignCa
from helpers.kube import kubeadm_inventory
from helpers.kube.kubeadm_objects import BINDINGS, KubeadmObjects, Shape, binding, encoded, leaf
from unit.adopt.test_gates import record
from vaultpki.adopt import gates, look
from vaultpki.adopt.look import Sides, joined_later
from vaultpki.config.cluster import load_cluster
from vaultpki.identity.nodes import Member
from vaultpki.kube.objects import KubeTrust, RootCopy
from vaultpki.live.trust import readable_certificates
from vaultpki.model import Cluster, Node, NodeRole
from vaultpki.pki.facts import Facts
from vaultpki.procedure.phases import Side
from vaultpki.records.adoption import AdoptionRecord, AdoptionState
from vaultpki.records.adoption_report import AdoptionReport, Held
from vaultpki.records.node_report import BundleReport, CertificateReport, NodeReport, ReaderReport
from vaultpki.rotation import adoption_reasons as reasons
from vaultpki.rotation.adoption_evidence import ClusterSeen
from vaultpki.rotation.adoption_states import AdoptionStep

REQUESTS = "/apis/certificates.k8s.io/v1/certificatesigningrequests"
_S = AdoptionState
NOW = datetime(2027, 3, 1, tzinfo=UTC)
NEW = ForeignCa("prod kubernetes CA")
ROOT = ForeignCa("prod root CA")


def facts(pem: str) -> Facts:
    return next(iter(readable_certificates(pem)))


def sides(objects: KubeadmObjects) -> Sides:
    old = {"kubernetes": objects.ca, "front-proxy": objects.front, "etcd": objects.etcd}
    return Sides({ca: (facts(each.pem),) for ca, each in old.items()}, {"kubernetes": (NEW.facts,)}, ROOT.facts)


def cluster(tmp: Path, objects: KubeadmObjects, *more: str) -> Cluster:
    file = tmp / "cluster.yaml"
    nodes = "".join(
        f"- {{name: {name}, roles: [{'control-plane, etcd, worker' if objects.shape.plane(name) else 'worker'}], "
        f"addresses: [{objects.shape.addresses(name)[0]}]}}\n"
        for name in objects.shape.names
    )
    file.write_text(
        "cluster: prod\nvault: {addresses: ['https://vault.example.com:8200']}\nlayout: kubeadm\n"
        "api_server: {endpoint: 'https://api.example.com:6443', names: [api.example.com]}\n"
        f"nodes:\n{nodes}{''.join(more)}"
    )
    return load_cluster(file)


def member(name: str, *roles: NodeRole, report: NodeReport | None = None, credentials: int = 1) -> Member:
    return Member(name, "listed", Node(name, frozenset(roles)), credentials, report)


def seen(of: Cluster, objects: KubeadmObjects, *agents: Member, more: tuple[Any, ...] = ()) -> ClusterSeen:
    found = kubeadm_inventory.taken(objects, change=lambda values: values[REQUESTS]["items"].extend(more))
    pods = KubeTrust(("default", "app"), (RootCopy("default", objects.ca.pem, NOW),), ())
    return look.seen_of(of, sides(objects), agents, found, pods, record(_S.PUBLISHED))


def test_node_objects_and_members_of_etcd_count(tmp_path: Path) -> None:
    objects = KubeadmObjects(Shape(planes=1, external=("198.51.100.21",)))
    of = cluster(tmp_path, objects, "- {name: etcd-a, roles: [etcd], addresses: [198.51.100.21]}\n")
    agents = (
        member("w-1", NodeRole.WORKER, report=NodeReport(NOW)),
        member("cp-1", NodeRole.CONTROL_PLANE, credentials=0),
        member("w-7", NodeRole.WORKER, report=NodeReport(NOW)),
    )
    found = seen(of, objects, *agents)
    assert {each.name: (each.plane, each.member, each.kubelet, each.enrolled) for each in found.machines} == {
        "cp-1": (True, False, True, False),
        "w-1": (False, False, True, True),
        # By its address: the API server knows no name of it.
        "etcd-a": (False, True, False, False),
    }
    assert found.spare == ("w-7",)
    assert found.info is Side.OLD and set(found.clients.values()) == {Side.OLD}
    assert found.roots == {"default": Side.OLD, "app": None}
    assert found.tokens == ("abcdef",)


def test_a_member_that_only_its_agent_knows_counts_too(tmp_path: Path) -> None:
    objects = KubeadmObjects(Shape())
    agent = member("cp-9", NodeRole.CONTROL_PLANE, NodeRole.ETCD, report=NodeReport(NOW))
    machine = seen(cluster(tmp_path, objects), objects, agent).machine("cp-9")
    assert machine is not None and machine.plane and machine.member and machine.report is None


def test_who_signs_and_who_rotates_is_read_from_the_cluster(tmp_path: Path) -> None:
    objects = KubeadmObjects(Shape())
    found = seen(cluster(tmp_path, objects), objects)
    plane, worker = found.machine("cp-1"), found.machine("w-1")
    assert plane is not None and worker is not None
    assert plane.signs is True and worker.signs is None and worker.rotates is True
    assert set(plane.started) == {"etcd", "kube-apiserver", "kube-controller-manager", "kube-scheduler"}


def test_a_static_pod_that_does_not_run_is_seen(tmp_path: Path) -> None:
    objects = KubeadmObjects(Shape())

    def stops(values: dict[str, Any]) -> None:
        pods = values["/api/v1/namespaces/kube-system/pods"]["items"]
        (etcd,) = (pod for pod in pods if pod["spec"]["containers"][0]["name"] == "etcd")
        etcd["status"]["containerStatuses"][0]["state"] = {"waiting": {"reason": "CrashLoopBackOff"}}

    found = kubeadm_inventory.taken(objects, change=stops)
    pods = KubeTrust(("default",), (RootCopy("default", objects.ca.pem, NOW),), ())
    of = look.seen_of(cluster(tmp_path, objects), sides(objects), (), found, pods, record(_S.PUBLISHED))
    assert {each.name: each.stopped for each in of.machines} == {"cp-1": ("etcd",), "w-1": ()}


def test_a_silent_kubelet_is_seen(tmp_path: Path) -> None:
    objects = KubeadmObjects(Shape())

    def silence(values: dict[str, Any]) -> None:
        values["/api/v1/nodes"]["items"][0]["status"]["conditions"] = [{"type": "Ready", "status": "Unknown"}]

    found = kubeadm_inventory.taken(objects, change=silence)
    whole = look.seen_of(cluster(tmp_path, objects), sides(objects), (), found, KubeTrust((), (), ()), None)
    assert {each.name: each.silent for each in whole.machines} == {"cp-1": True, "w-1": False}


def test_rights_are_what_a_cluster_role_binding_names(tmp_path: Path) -> None:
    objects = KubeadmObjects(Shape())
    of, user = cluster(tmp_path, objects), "kube-apiserver-kubelet-client"
    assert seen(of, objects).without_rights == (user,)
    found = kubeadm_inventory.taken(
        objects, change=lambda values: values[BINDINGS]["items"].append(binding("User", user))
    )
    whole = look.seen_of(of, sides(objects), (), found, KubeTrust((), (), ()), record(_S.PUBLISHED))
    assert whole.without_rights == ()


def test_issued_requests_are_known_by_their_certificates(tmp_path: Path) -> None:
    objects = KubeadmObjects(Shape())
    late, person = objects.request("csr-2", "w-1"), objects.request("csr-3", "w-1")
    late["status"]["certificate"] = encoded(leaf("system:node:w-9", objects.ca, groups=["system:nodes"]).pem)
    person["status"]["certificate"] = encoded(leaf("jane", objects.ca).pem)
    other = objects.request("csr-4", "w-1")
    other["status"]["certificate"] = encoded(leaf("system:node:w-8", objects.front).pem)
    more = (late, person, other, objects.request("csr-5", "w-1", "pending"))
    found = seen(cluster(tmp_path, objects), objects, more=more)
    assert {each.name: each.node for each in found.requests}.items() >= {"csr-2": "w-9", "csr-3": ""}.items()
    assert "csr-5" not in {each.name for each in found.requests}


def later(objects: KubeadmObjects, *held: str, time: datetime = NOW, leaf_of: str = "") -> NodeReport:
    installed = NOW - timedelta(hours=1)
    key = leaf_of or NEW.facts.subject_key_id or ""
    bundle = BundleReport(frozenset({NEW.sha256}), installed)
    old = facts(objects.ca.pem).fingerprint
    return NodeReport(
        time,
        certificates={"kubelet-client": CertificateReport("kubernetes", "fresh", None, "1", key, (), installed)},
        bundles={"kubernetes": bundle},
        foreign={"kubernetes": frozenset({old})} if "old" in held else {},
    )


def made(report: NodeReport, objects: KubeadmObjects, of: AdoptionRecord) -> AdoptionReport | None:
    return joined_later(report, of, sides(objects), signs=None)


def test_a_worker_that_joined_with_the_new_certificates_is_judged_by_its_bundles() -> None:
    objects = KubeadmObjects(Shape())
    state = record(_S.SWITCHED)
    both = made(later(objects, "old"), objects, state)
    assert both is not None and both.trust is both.memory is Held.BOTH and both.leaves is Held.NEW
    only = made(later(objects), objects, state)
    assert only is not None and only.trust is Held.NEW
    # Before the state began it says nothing of it.
    early = made(later(objects, "old", time=state.since), objects, state)
    assert early is not None and not reasons.fresh(state, early)
    # One with other certificates is a machine of kubeadm's that says nothing of the adoption.
    assert made(later(objects, "old", leaf_of="ab" * 20), objects, state) is None
    assert made(replace(later(objects, "old"), certificates={}), objects, state) is None


def test_a_component_that_was_not_started_since_holds_what_nobody_knows() -> None:
    objects = KubeadmObjects(Shape())
    reader = ReaderReport(NOW - timedelta(hours=2), frozenset(), running=True, healthy=True)
    found = made(replace(later(objects, "old"), readers={"kubernetes/kubelet": reader}), objects, record(_S.PUBLISHED))
    assert found is not None and found.memory is Held.UNKNOWN


def test_an_agent_beside_a_kubelet_of_kubeadms_speaks_for_nobody(tmp_path: Path) -> None:
    """It joined in a folder of its own: what it holds there the kubelet has never read."""
    objects = KubeadmObjects(Shape())
    agent = member("w-1", NodeRole.WORKER, report=later(objects, "old"))
    machine = seen(cluster(tmp_path, objects), objects, agent).machine("w-1")
    assert machine is not None and not machine.later and machine.report is None
    step = AdoptionStep(record(_S.PUBLISHED), _S.SWITCHED, NOW)
    assert "its agent.yaml lacks `adopt`" in reasons.waits_for(step, machine).reason


@pytest.mark.parametrize("lacks", ["configuration", "key"])
def test_a_kubelet_whose_configuration_cannot_be_read_has_not_joined_later(tmp_path: Path, lacks: str) -> None:
    objects = KubeadmObjects(Shape())
    agent = member("w-1", NodeRole.WORKER, report=later(objects, "old"))

    def change(values: dict[str, Any]) -> None:
        configz = "/api/v1/nodes/w-1/proxy/configz"
        if lacks == "configuration":
            del values[configz]
        else:
            # As a kubelet shows it that does not rotate.
            del values[configz]["kubeletconfig"]["rotateCertificates"]

    found = kubeadm_inventory.taken(objects, change=change)
    state = record(_S.PUBLISHED)
    of = cluster(tmp_path, objects)
    machine = look.seen_of(of, sides(objects), (agent,), found, KubeTrust((), (), ()), state).machine("w-1")
    assert machine is not None and machine.later == (lacks == "key")
    if lacks == "configuration":
        why = reasons.waits_for(AdoptionStep(state, _S.SWITCHED, NOW), machine).reason
        assert why.startswith("the configuration of its kubelet cannot be read (")


def test_a_node_that_joined_later_cannot_go_back(tmp_path: Path) -> None:
    objects = KubeadmObjects(Shape())
    agent = member("w-1", NodeRole.WORKER, report=later(objects, "old", time=NOW))
    configz = "/api/v1/nodes/w-1/proxy/configz"
    found = kubeadm_inventory.taken(
        objects, change=lambda values: values[configz]["kubeletconfig"].update(rotateCertificates=False)
    )
    state = record(_S.RETURNING)
    whole = look.seen_of(cluster(tmp_path, objects), sides(objects), (agent,), found, KubeTrust((), (), ()), state)
    machine = whole.machine("w-1")
    assert machine is not None and machine.later
    machine = replace(machine, rotates=None)
    step = AdoptionStep(state, _S.PREPARED, NOW)
    assert "has none to go back to" in reasons.waits_for(step, machine).reason
    assert "w-1" in {each.node for each in gates.gate(step, replace(whole, machines=(machine,))).waiting}


@pytest.mark.parametrize(
    ("held", "side"),
    [((), None), (("old",), Side.OLD), (("issuing",), None), (("old", "root"), Side.BOTH), (("root",), Side.NEW)],
)
def test_of_the_new_cas_pods_need_the_root(held: tuple[str, ...], side: Side | None) -> None:
    objects = KubeadmObjects(Shape())
    texts = {"old": objects.ca.pem, "issuing": NEW.pem, "root": ROOT.pem}
    assert sides(objects).of_root_copy("".join(texts[each] for each in held)) is side
