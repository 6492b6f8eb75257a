"""A machine of kubeadm's that has joined a cluster beside kubeadm's files, and follows an adoption's record there."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from helpers.kube.kubeadm_objects import KubeadmObjects, Shape
from helpers.kube.taken_over_machine import TakenOverMachine
from helpers.node import enrolled_nodes
from helpers.node.enrolled_nodes import Enroller
from helpers.vault.applied_cluster import Ran, vaultpki
from helpers.vault.cluster_factory import ClusterFactory
from helpers.vault.handmade_rotation import tell_nodes
from helpers.vault.plan_commands import AuditedCluster
from vaultpki.agent import run
from vaultpki.agent.context import Outcome, PassOptions
from vaultpki.config.agent import load_agent
from vaultpki.node import assignment
from vaultpki.node.procedures import records_of
from vaultpki.pki import x509
from vaultpki.procedures import ON_NODES
from vaultpki.records import adoption, node_report
from vaultpki.records.adoption import AdoptionState as S
from vaultpki.records.adoption_report import AdoptionReport
from vaultpki.takeover import carry_out, old_pairs

NODES = """\
layout: kubeadm
api_server: {endpoint: "https://api.example.com:6443", names: [api.example.com]}
nodes:
- {name: cp-1, roles: [control-plane, etcd, worker], addresses: [198.51.100.11]}
ca: {also_trust: {kubernetes: [old.crt], etcd: [old-etcd.crt], front-proxy: [old-front.crt]}}
"""
MEMBER = "- {name: etcd-1, roles: [etcd], addresses: [198.51.100.21]}\n"


@dataclass(frozen=True, slots=True)
class Ground:
    """A cluster that was applied for machines with these CAs of kubeadm's; one after the other joins it."""

    cluster: AuditedCluster
    objects: KubeadmObjects
    name: str

    @classmethod
    def of(cls, clusters: ClusterFactory, name: str = "cp-1") -> Ground:
        objects = KubeadmObjects(Shape(key="ECDSA-P256", planes=3))
        files = {"old.crt": objects.ca.pem, "old-etcd.crt": objects.etcd.pem, "old-front.crt": objects.front.pem}
        nodes = NODES if name == "cp-1" else NODES.replace("ca: {", MEMBER + "ca: {")
        return cls(clusters.applied(nodes, files), objects, name)

    def leave(self) -> None:
        """Forget the machine and its adoption, for the next one."""
        self.cluster.write(NODES)
        enrolled_nodes.vacate(self.cluster, self.name)
        store = f"{self.cluster.prefix}/config/metadata"
        for path in (f"{store}/{adoption.RECORD}", self.cluster.report_path(self.name, data="metadata")):
            assert self.cluster.server.api("DELETE", path).status == 204
        tell_nodes(self.cluster)


class EnrolledMachine:
    """A control plane of kubeadm's, or another machine, that has joined a cluster that was applied on a server."""

    def __init__(self, ground: Ground, folder: Path, monkeypatch: pytest.MonkeyPatch, days: int = 365) -> None:
        self.name, self.cluster = ground.name, ground.cluster
        self.machine = TakenOverMachine(folder / "machine", self.name, days, ground.objects)
        self.imported: tuple[str, ...] = ()
        self.file = folder / "agent/agent.yaml"
        self.file.parent.mkdir(mode=0o700)
        self.fresh = self.machine.snapshot()
        self.revision = 0
        self.join_file = Enroller(self.cluster, self.cluster.token()).join_file(self.name, folder / "join.json")
        monkeypatch.setattr("vaultpki.takeover.processes.RunningComponents", lambda **options: self.machine.processes)

    def join(self, *words: str, expect: int = 0) -> Ran:
        where = self.machine.where
        places = ("--dir", where.directory, "--kubelet-dir", where.kubelet, "--kubeconfig-dir", where.kubeconfigs)
        return vaultpki("join", "-c", self.file, self.join_file, *places, *words, expect=expect)

    def record(self, state: S | None) -> None:
        """Somebody leads the adoption of the cluster to a state; None is the end of the way back."""
        path = f"{self.cluster.prefix}/config/data/{adoption.RECORD}"
        if state is None:
            assert self.cluster.server.api("DELETE", path).status == 204
        else:
            self.revision += 1
            record = replace(self.machine.record(state), revision=self.revision, entered=self.revision)
            record = replace(record, imported=self.imported)
            value = {"data": adoption.to_json(record)}
            assert self.cluster.server.api("POST", path, value).status == 200
        tell_nodes(self.cluster)

    def tries(self, *force: str) -> Outcome:
        """A pass that a person makes."""
        options = PassOptions(ON_NODES, share=0.0, settle=False, force=frozenset(force))
        return run.run(load_agent(self.file), options)

    def passes(self) -> Outcome:
        """The same, in which nothing fails."""
        made = self.tries()
        assert not made.failures, made.failures
        own = {
            "kubernetes": "ca.crt",
            "kubelet": "kubelet-ca.crt",
            "etcd": "etcd/ca.crt",
            "front-proxy": "front-proxy-ca.crt",
        }
        folder, old = load_agent(self.file).directory, {each.pem for each in self.machine.old.values()}
        self.machine.new = {
            ca: SimpleNamespace(
                pem=next(f.pem for f in x509.read_certificates(Path(folder, name).read_bytes()) if f.pem not in old)
            )  # type: ignore[misc]
            for ca, name in own.items()
        }
        return made

    def go(self, state: S | None) -> None:
        self.record(state)
        self.passes()
        config = load_agent(self.file)
        known = assignment.read_copy(config, records_of(ON_NODES))
        assert known is not None
        target = carry_out.asked_of(config, known).target
        assert target is not None
        sign = old_pairs.vault_signer(config)
        carry_out.carry_out(carry_out.prepare(config, known, target, self.machine.processes, sign=sign, finish=True))

    def report(self) -> AdoptionReport:
        self.passes()
        read = node_report.read(self.cluster.read(self.cluster.report_path(self.name))["data"])
        assert read is not None and read.adoption is not None
        return read.adoption


def kubeadms(snapshot: dict[str, Any]) -> dict[str, Any]:
    return {name: each for name, each in snapshot.items() if "/vaultpki" not in name}
