"""A kubeadm cluster that is taken over, without Kubernetes: its API server only answers, and its nodes only report.

Machines follow the adoption's record as the contract says, in one step each; what a real cluster would show of that
changes with them. Only the test moves the clock.
"""

from __future__ import annotations

import base64
import json
import ssl
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from helpers.kube import answering_api
from helpers.kube.answering_api import Api
from helpers.kube.kubeadm_objects import (
    BINDINGS,
    PUBLIC,
    SYSTEM,
    KubeadmObjects,
    Shape,
    binding,
    encoded,
    items,
    leaf,
    token,
    user_pod,
)
from helpers.node.reporting_nodes import shown
from helpers.vault.applied_cluster import AppliedCluster, Ran, vaultpki
from helpers.vault.cluster_factory import ClusterFactory
from vaultpki.adopt import drive
from vaultpki.adopt import look as looks
from vaultpki.adopt.draft import draft
from vaultpki.adopt.drive import AdoptionOutcome, AdoptionWords
from vaultpki.adopt.look import AdoptionLook
from vaultpki.ca.announced import announced
from vaultpki.identity.adoption_record import read_adoption
from vaultpki.kube import kubeconfig
from vaultpki.procedure.phases import Side
from vaultpki.records import node_report
from vaultpki.records.adoption import AdoptionRecord, AdoptionState
from vaultpki.records.adoption_report import AdoptionReport, ComponentReport, Held, OldKeys
from vaultpki.records.node_report import NodeReport
from vaultpki.redact import stamp
from vaultpki.rotation.adoption_evidence import HELD
from vaultpki.rotation.adoption_states import LEAVES_OF, SIGNER_ON, TRUSTED
from vaultpki.vault import Vault

KEYS_PATH = f"{SYSTEM}/secrets/kubeadm-certs"
INFO_PATH = f"{PUBLIC}/configmaps/cluster-info"
AUTHENTICATION_PATH = f"{SYSTEM}/configmaps/extension-apiserver-authentication"
REQUESTS_PATH = "/apis/certificates.k8s.io/v1/certificatesigningrequests"
OUTSIDE = AdoptionWords(confirmed=("outside",))
# The states whose next step, forward or back, waits for what lies outside.
_ASKED = (("published", "closed"), ("returning", "re-trusting"))
_FILES = {"kubernetes": "old-ca.crt", "front-proxy": "old-front-proxy-ca.crt", "etcd": "old-etcd-ca.crt"}


@dataclass(slots=True)
class Machine:
    """One machine: what lies on it and runs there, and whether it has an agent that passes."""

    name: str
    plane: bool
    agent: bool = True
    trust: Side = Side.OLD
    leaves: Side = Side.OLD
    signer: bool = True
    keys: OldKeys = OldKeys.IN_PLACE
    reached: AdoptionState = AdoptionState.PREPARED
    started: datetime = field(default_factory=lambda: datetime.now(UTC).replace(microsecond=0))
    since: datetime = field(default_factory=lambda: datetime.now(UTC).replace(microsecond=0))
    healthy: bool = True
    lost: bool = False

    @property
    def components(self) -> tuple[str, ...]:
        planes = ("etcd", "kube-apiserver", "kube-controller-manager", "kube-scheduler") if self.plane else ()
        return (*planes, "kubelet")

    def follow(self, record: AdoptionRecord, now: datetime) -> None:
        """Do the steps of the record's state, if it is this machine's turn where it needs one."""
        state = record.state
        keys = OldKeys.ASIDE if LEAVES_OF[state] is Side.NEW else OldKeys.IN_PLACE
        if not self.plane or self.lost or (state is AdoptionState.DONE and not record.kept):
            keys = OldKeys.NONE
        # A controller manager signs with a copy of the key, and there is none.
        signer = self.plane and state in SIGNER_ON and not self.lost
        wanted = (TRUSTED[state], LEAVES_OF[state], signer, keys)
        if wanted != (self.trust, self.leaves, self.signer, self.keys):
            if self.plane and record.turn != self.name:
                return
            self.trust, self.leaves, self.signer, self.keys = wanted
            self.started = self.since = now
        self.reached = state

    def report(self, record: AdoptionRecord) -> AdoptionReport:
        one = ComponentReport(self.started, HELD[self.trust], HELD[self.leaves], self.healthy, "")
        done = self.reached is record.state
        return AdoptionReport(
            revision=record.revision,
            reached=self.reached,
            trust=HELD[self.trust],
            leaves=HELD[self.leaves],
            components=dict.fromkeys(self.components, one),
            signer=self.signer if self.plane else None,
            no_signer=self.plane and self.lost and record.state in SIGNER_ON,
            rotates=self.leaves is Side.OLD,
            keys=self.keys,
            by_agent=True,
            owed=() if done else ("restart its components",),
            since=self.since,
        )


class AdoptedCluster:
    """The cluster of a shape, applied in Vault, and who operates it with the printed policy alone."""

    def __init__(self, cluster: AppliedCluster, objects: KubeadmObjects, api: Api, config: Path) -> None:
        self.cluster, self.objects, self.api, self.config = cluster, objects, api, config
        self.now = datetime.now(UTC).replace(microsecond=0) + timedelta(seconds=5)
        names = objects.shape.names
        self.machines = {name: Machine(name, objects.shape.plane(name)) for name in names}
        for each in self.machines.values():
            each.signer = each.plane
            each.keys = OldKeys.IN_PLACE if each.plane else OldKeys.NONE
        self.asked: list[str] = []
        self.vault: Vault | None = None
        self.folders = 0
        api.after = lambda method, path: self._after(path)
        api.values[f"{SYSTEM}/configmaps"] = items([])
        # As `vaultpki issue` writes it.
        api.values[BINDINGS] = items([binding("User", "kube-apiserver-kubelet-client")])
        api.values[KEYS_PATH] = {"metadata": {"name": "kubeadm-certs", "namespace": "kube-system", "uid": "1"}}
        api.values[f"{SYSTEM}/secrets/bootstrap-token-abcdef"] = token("abcdef", 3600)
        self._show()

    # The operator

    def client(self) -> Vault:
        """The product's client with the printed policy, or with what a test gives instead."""
        return self.vault or self.cluster.client("adopter")

    def look(self) -> AdoptionLook:
        vault = self.client()
        access = kubeconfig.read(self.config)
        with announced(self.cluster.model, vault) as notice:
            return drive.with_settings(looks.look(self.cluster.model, vault, access, self.now, notice))

    def record(self) -> AdoptionRecord | None:
        return read_adoption(self.cluster.model, self.client()).record

    @property
    def state(self) -> str:
        record = self.record()
        return record.state.value if record is not None else ""

    def start(self) -> AdoptionOutcome:
        """`adopt start`."""
        vault, access = self.client(), kubeconfig.read(self.config)
        with announced(self.cluster.model, vault) as notice:
            look = looks.look(self.cluster.model, vault, access, self.now, notice)
            return drive.start(look, draft(look.found, self.cluster.file), lambda title, lines: True)

    def advance(self, said: AdoptionWords | None = None, *, back: bool = False, agree: bool = True) -> AdoptionOutcome:
        """`adopt continue` or `adopt abort`, at the test's time."""
        vault = self.client()
        access = kubeconfig.read(self.config)
        model = self.cluster.model

        def ask(title: str, lines: Collection[str]) -> bool:
            self.asked += [title, *lines]
            return agree

        with announced(model, vault) as notice:

            def look_again() -> AdoptionLook:
                return drive.with_settings(looks.look(model, vault, access, self.now, notice))

            return drive.advance(look_again, said or AdoptionWords(), ask, back=back)

    def onward(self, said: AdoptionWords | None = None, *, back: bool = False) -> AdoptionOutcome:
        """Advance and let everybody pass until the state has changed, or a person must do something."""
        before = self.state
        for _ in range(4 * len(self.machines) + 8):
            found = self.advance(said, back=back)
            if self.state != before or found.over:
                return found
            said = None
            self.passes()
            self.now += timedelta(minutes=20)
            if (
                (first := next(iter(found.gate.waiting), None))
                and not first.itself
                and first.node in ("pods", "outside")
            ):
                return found
        return found

    def command(self, *words: str | Path, expect: int = 0) -> Ran:
        """`vaultpki adopt` with these words, for this cluster."""
        of_cluster = ("-f", self.cluster.file, "--kubeconfig", self.config)
        env = self.cluster.environment("adopter")
        return vaultpki("adopt", words[0], *of_cluster, *words[1:], env=env, expect=expect)

    def begin(self) -> None:
        self.command("start", "--yes")
        self.passes()
        assert self.state == "prepared"

    def lead_to(self, state: str, *, back: bool = False) -> AdoptionOutcome:
        """Go on until the adoption is in this state ("" is its end), with all that a person does on the way."""
        if not self.state:
            self.begin()
        for _ in range(20):
            said = OUTSIDE if self.state in _ASKED[back] else None
            found = self.onward(said, back=back)
            if waiting(found) == ["pods"]:
                self.restart_pods()
            if self.state == state:
                if not back:
                    self.settle()
                return found
        raise AssertionError((self.state, found.gate))

    # The nodes

    def enrol(self, name: str) -> None:
        """Give a machine an agent."""
        self.folders += 1
        self.cluster.equip(name, folder=self.cluster.folder / "nodes" / f"{name}-{self.folders}")
        self.machines[name].agent = True

    def passes(self) -> None:
        """Every agent makes a pass, and then the cluster shows what has changed."""
        self.now += timedelta(seconds=30)
        record = self.record()
        for each in self.machines.values():
            if each.agent:
                if record is not None:
                    each.follow(record, self.now)
                self.write(each.name, each.report(record) if record is not None else None)
        self._show()

    def settle(self) -> None:
        """Let everybody do the steps of the state, each at its turn."""
        for _ in range(2 * len(self.machines) + 2):
            self.passes()
            if all(each.reached.value == self.state for each in self.machines.values() if each.agent):
                return
            record = self.record()
            assert record is not None
            if not record.turn or self.machines[record.turn].reached is record.state:
                self.pass_turn()
        raise AssertionError([(each.name, each.reached) for each in self.machines.values()])

    def pass_turn(self) -> None:
        """What `adopt continue` does while a gate is closed, at a time when none can be open."""
        now, self.now = self.now, self.now
        self.advance(agree=True)
        self.now = max(now, self.now)

    def end(self, name: str) -> None:
        """End a machine's agent, as `unenroll` does."""
        self.machines[name].agent = False
        for accessor in self.accessors(name):
            body = {"secret_id_accessor": accessor}
            assert self.cluster.server.api("POST", f"{self.role(name)}/secret-id-accessor/destroy", body).status in (
                200,
                204,
            )
        path = self.cluster.report_path(name, data="metadata")
        assert self.cluster.server.api("DELETE", path).status == 204

    def role(self, name: str) -> str:
        return f"auth/{self.cluster.prefix}/listed/role/{name}"

    def accessors(self, name: str) -> tuple[str, ...]:
        """Those of the node's secret ids."""
        return tuple(self.cluster.server.api("LIST", f"{self.role(name)}/secret-id").data["keys"])

    def write(self, name: str, adoption: AdoptionReport | None) -> None:
        # Of a node that does not say which are its own, each command looks every one up.
        report = NodeReport(time=self.now, agent="0.3.0", in_use=self.accessors(name), adoption=adoption)
        path = self.cluster.report_path(name)
        assert self.cluster.server.api("POST", path, {"data": node_report.to_json(report)}).status == 200

    def restart_pods(self) -> None:
        self.now += timedelta(minutes=5)
        for pod in self.api.values["/api/v1/pods"]["items"]:
            if pod["metadata"]["namespace"] == "default":
                pod["status"]["startTime"] = stamp(self.now)
                pod["status"]["containerStatuses"][0]["state"]["running"]["startedAt"] = stamp(self.now)

    # What the cluster shows

    def cas(self, side: Side, domain: str) -> list[str]:
        """The certificates of a domain's CAs, as bundles of this side hold them."""
        old = {"kubernetes": self.objects.ca, "front-proxy": self.objects.front, "etcd": self.objects.etcd}[domain]
        new = [facts.pem for facts in shown(self.cluster, domain).values()]
        return [*([old.pem] if Side.OLD in side else []), *(new if Side.NEW in side else [])]

    def held(self, path: str, key: str) -> str:
        return str(self.api.values[path]["data"][key])

    def info(self) -> str:
        """The CAs in cluster-info."""
        whole = json.loads(self.held(INFO_PATH, "kubeconfig"))
        return base64.b64decode(whole["clusters"][0]["cluster"]["certificate-authority-data"]).decode()

    def _after(self, path: str) -> None:
        if path == AUTHENTICATION_PATH:
            # kube-apiserver writes it anew with what it holds.
            self.api.values[path] = {"data": {"requestheader-allowed-names": '["front-proxy-client"]'}}
        self._show()

    def _show(self) -> None:
        values = self.api.values
        planes = [each for each in self.machines.values() if each.plane]
        union = Side(0)
        for each in planes:
            union |= each.trust
        self._show_authentication(union)
        self._show_roots(planes[-1].trust)
        secrets = [each for path, each in values.items() if path.startswith(f"{SYSTEM}/secrets/bootstrap-token-")]
        values[f"{SYSTEM}/secrets"] = items(secrets)
        for pod in values[f"{SYSTEM}/pods"]["items"]:
            name, component = pod["spec"]["nodeName"], pod["spec"]["containers"][0]["name"]
            machine = self.machines[name]
            pod["status"]["containerStatuses"][0]["state"]["running"]["startedAt"] = stamp(machine.started)
            if component == "kube-controller-manager":
                container = pod["spec"]["containers"][0]
                rest = [word for word in container["command"] if not word.startswith("--cluster-signing-")]
                signing = ["--cluster-signing-cert-file=/etc/kubernetes/vaultpki/ca.crt"] if machine.signer else []
                container["command"] = [*rest, *signing]
        for name, machine in self.machines.items():
            if (path := f"/api/v1/nodes/{name}/proxy/configz") in values:
                values[path]["kubeletconfig"]["rotateCertificates"] = machine.leaves is Side.OLD

    def _show_authentication(self, union: Side) -> None:
        data = self.api.values[AUTHENTICATION_PATH].setdefault("data", {})
        for key, domain in (("client-ca-file", "kubernetes"), ("requestheader-client-ca-file", "front-proxy")):
            # It only adds.
            data[key] = data.get(key, "") + "".join(
                pem for pem in self.cas(union, domain) if pem not in data.get(key, "")
            )

    def _show_roots(self, side: Side) -> None:
        root = [facts.pem for facts in shown(self.cluster, "root").values()]
        pem = "".join([*self.cas(side, "kubernetes"), *(root if Side.NEW in side else [])])
        for each in self.api.values["/api/v1/configmaps"]["items"]:
            if each["data"].get("ca.crt") != pem:
                each["data"]["ca.crt"] = pem
                each["metadata"]["managedFields"] = [{"fieldsV1": {"f:data": {}}, "time": stamp(self.now)}]


def waiting(found: AdoptionOutcome) -> list[str]:
    """Who is waited for."""
    return [each.node for each in found.gate.waiting]


def spec_of(shape: Shape) -> str:
    """cluster.yaml of a shape, with the old CAs below `also_trust`."""
    nodes = "".join(
        f"- {{name: {name}, roles: [{'control-plane, etcd, worker' if shape.plane(name) else 'worker'}], "
        f"addresses: [{shape.addresses(name)[0]}]}}\n"
        for name in shape.names
    )
    cas = "".join(f"    {domain}: [{file}]\n" for domain, file in _FILES.items())
    return (
        "layout: kubeadm\n"
        'api_server: {endpoint: "https://api.example.com:6443", names: [api.example.com]}\n'
        f"nodes:\n{nodes}ca:\n  also_trust:\n{cas}"
    )


@contextmanager
def adopted(
    clusters: ClusterFactory, folder: Path, shape: Shape | None = None, *, enrolled: bool = True
) -> Iterator[AdoptedCluster]:
    """A cluster of kubeadm with its API server, and its cluster.yaml applied; all machines have agents, or none."""
    shape = shape or Shape(planes=3)
    objects = KubeadmObjects(shape)
    files = {"kubernetes": objects.ca.pem, "front-proxy": objects.front.pem, "etcd": objects.etcd.pem}
    cluster = clusters.applied(spec_of(shape), {_FILES[domain]: pem for domain, pem in files.items()})
    with serving(objects, folder) as (api, config):
        made = AdoptedCluster(cluster, objects, api, config)
        for name in shape.names:
            made.machines[name].agent = False
            if enrolled:
                made.enrol(name)
        yield made


@contextmanager
def serving(objects: KubeadmObjects, folder: Path) -> Iterator[tuple[Api, Path]]:
    """The API server of a cluster, with a certificate of its CA, and a kubeconfig for it."""
    # Each request has a connection of its own, and this kind of key signs in a twentieth of the time of RSA.
    pair = leaf("kube-apiserver", objects.ca, names=["api.example.com"], addresses=["127.0.0.1"], kind="ECDSA-P256")
    file = folder / "pair.pem"
    file.write_text(pair.pem + pair.key_pem)

    def configure(tls: ssl.SSLContext) -> None:
        tls.load_cert_chain(file)

    values: dict[str, Any] = objects.values()
    with answering_api.serving(values, configure) as api:
        server = f"https://127.0.0.1:{api.server_address[1]}"
        cluster = {"server": server, "certificate-authority-data": encoded(objects.ca.pem)}
        config = folder / "admin.conf"
        document = {
            "kind": "Config",
            "current-context": "a",
            "contexts": [{"name": "a", "context": {"cluster": "a", "user": "a"}}],
            "clusters": [{"name": "a", "cluster": cluster}],
            "users": [{"name": "a", "user": {"token": "s3cret"}}],
        }
        config.write_text(json.dumps(document))
        config.chmod(0o600)
        yield api, config


__all__ = ["OUTSIDE", "AdoptedCluster", "Held", "Machine", "adopted", "serving", "spec_of", "user_pod", "waiting"]
