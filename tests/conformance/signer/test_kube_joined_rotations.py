"""A node that has joined by a token lives through rotations of the CAs kubelet and kubernetes, and of the root.

One cluster for the whole module: a control plane, the signer at work, a joined worker, and clients who run commands and
read logs there. Its certificates live for minutes, so its kubelet renews all the time, and gates open by that alone.
"""

from __future__ import annotations

import contextlib
import json
import signal
import time
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path

import pytest
from cryptography import x509

from helpers.kube import joined_cluster, kubeadm_planes, kubeadm_use
from helpers.kube.ca_operator import GATE_SECONDS, Operator, complains
from helpers.kube.client_load import OPERATORS, Load
from helpers.kube.components import Programs
from helpers.kube.joined_cluster import PLANE, SECONDS, held, sha256
from helpers.kube.kubeadm_cluster import KubeadmCluster
from helpers.vault import servers
from helpers.vault.servers import wait_for
from vaultpki.kube.objects import SERVING_CA
from vaultpki.records.rotation import State
from vaultpki.redact import moment
from vaultpki.signer.requests import CLIENT_KUBELET, SERVING

pytestmark = [pytest.mark.conformance, pytest.mark.timeout(3000)]

JOINED, POD = "w-1", "on-joined"
SIGNERS = {"kubelet": SERVING, "kubernetes": CLIENT_KUBELET}
ROLES = {"kubelet": "csr-kubelet-serving", "kubernetes": "csr-kubelet-client"}
# Vault backdates by five minutes, and a kubelet renews at 70 to 90 % of the whole: 2 to 4 minutes after the signature.
LIFE = 300
# While the only API server restarts, as the root is rotated, nobody can renew: 5.5 to 8.5 minutes.
LIFE_WITH_ROOT = 600


@dataclass(slots=True)
class Rotations(Operator):
    """The operator of the cluster, and what was seen meanwhile.

    `named` is what the gate said of the joined node, by CA. `chains` are the node's certificates after each rotation,
    each with its CA, by CA and signer name, and `signs` the SHA-256 of the CA that signs then. `renewed` counts its own
    requests that were signed.
    """

    cluster: KubeadmCluster
    audit: kubeadm_use.Audit
    position: int = 0
    pins: list[str] = field(default_factory=list)
    named: dict[str, str] = field(default_factory=dict)
    chains: dict[tuple[str, str], list[x509.Certificate]] = field(default_factory=dict)
    signs: dict[str, str] = field(default_factory=dict)
    renewed: Counter[tuple[str, str]] = field(default_factory=Counter)
    worked: Counter[str] = field(default_factory=Counter)
    of_tls: list[str] = field(default_factory=list)
    complaints: list[str] = field(default_factory=list)

    @contextlib.contextmanager
    def under_load(self, *pods: str) -> Iterator[None]:
        """Clients at the API server, and through it in these pods, until the end of the block."""
        load = Load(self.kubernetes, pods, pace=2)
        with load.running():
            yield
        self.worked += load.worked
        self.of_tls += [str(each) for each in load.failures if each.of_tls]

    def settle(self, domain: str, goal: State) -> None:
        """Takes steps until the CA is in this state, and does what only a person can do."""
        deadline, words = time.monotonic() + servers.SHARED * 2 * GATE_SECONDS, list[str]()
        waiting: Mapping[str, str] = {}
        while (state := self.record(domain).state) is not goal:
            self._note(domain, state)
            assert time.monotonic() < deadline, f"{domain} stays {state.value}: {waiting}\n{self.said()}"
            ran = self.ca("continue", "--kubeconfig", self.kubernetes.admin, *words, "--json", expect=(0, 1, 3))
            # The only API server may be restarted just now.
            if ran.returncode == 1:
                waiting = {"the command": ran.stderr}
            else:
                waiting = {each["node"]: each["reason"] for each in json.loads(ran.stdout)["rotation"]["waiting_for"]}
                words = self.answer(waiting)
            time.sleep(1)
        self._note(domain, goal)

    def answer(self, waiting: Mapping[str, str]) -> list[str]:
        """Does what a person is asked for; the words that say so."""
        words = ["--checked", "outside"] if "outside" in waiting else []
        for person in OPERATORS:
            words += ["--without", person] if person in waiting else []
        if words:
            self.issue()
        if SERVING_CA in waiting:
            self.apply_manifests()
        self.restart_pods(waiting.get("pods", ""))
        if f"--restarted {JOINED}/kubelet" in waiting.get(JOINED, ""):
            self.named["root"] = waiting[JOINED]
            self.join_anew()
            words += ["--restarted", f"{JOINED}/kubelet"]
        return words

    def restart_pods(self, named: str) -> None:
        kubernetes = self.kubernetes
        if f"default/{POD}" in named:
            kubernetes.kubectl(kubernetes.admin, "delete", "pod", POD, "--wait=true")
            kubernetes.run_pod(POD, node=JOINED, seconds=SECONDS)
        if "kube-proxy" in named:
            place = ("-n", "kube-system", "daemonset/kube-proxy")
            kubernetes.kubectl(kubernetes.admin, "rollout", "restart", *place)
            kubernetes.kubectl(kubernetes.admin, "rollout", "status", *place, "--timeout=50s", expect=None)

    def switch(self, domain: str) -> None:
        """Takes the step to switched while nobody signs requests, so that the first look finds the old certificates."""
        wait_for(self.may_switch, servers.SHARED * GATE_SECONDS, lambda: str(self.waiting()), pause=1)
        signer = joined_cluster.signer_of(self.cluster)
        signer.send(signal.SIGSTOP)
        try:
            self.settle(domain, State.SWITCHED)
            self.named[domain] = self.waiting().get(JOINED, "")
        finally:
            signer.send(signal.SIGCONT)

    def may_switch(self) -> bool:
        look = ("status", "--kubeconfig", self.kubernetes.admin, "--json")
        found = json.loads(self.ca(*look).stdout)["rotation"]
        if found["waiting_for"]:
            self.answer({each["node"]: each["reason"] for each in found["waiting_for"]})
            # It gives turns. Once nobody is waited for, the gate opens seconds later.
            self.ca("continue", *look[1:])
        opens = moment(found["opens"])
        return not found["waiting_for"] and opens is not None and opens < datetime.now(UTC)

    def rotated(self, domain: str) -> None:
        """A rotation to its end. Nobody does anything for the joined node."""
        joined_cluster.signer_of(self.cluster).restart()
        self.rotate(domain, spread=10)
        self.settle(domain, State.PUBLISHED)
        self.switch(domain)
        self.settle(domain, State.DONE)
        self.keep(domain)

    def keep(self, domain: str) -> None:
        """Notes what the joined node has now, and what was signed for it since the last time."""
        new = self.record("kubernetes" if domain == "root" else domain).new
        self.signs[domain] = new.sha256 if new is not None else ""
        for signer in SIGNERS.values():
            self.chains[domain, signer] = held(self.cluster, JOINED, signer)
            asked = joined_cluster.requests(self.cluster, signer, f"system:node:{JOINED}")
            names = {each["metadata"]["name"] for each in asked if each["status"].get("certificate")}
            self.renewed[domain, signer] = len(names)

    def live_for(self, seconds: int) -> None:
        """Has the signer ask for lives that cluster.yaml does not allow, since tests cannot wait for hours."""
        server, prefix = self.kubernetes.cluster.server, self.kubernetes.cluster.prefix
        for ca, name in ROLES.items():
            path = f"{prefix}/{ca}/roles/{name}"
            role = self.kubernetes.cluster.read(path) | {"ttl": seconds, "max_ttl": seconds}
            assert server.api("POST", path, role).status < 300
        path = f"{prefix}/config/data/signer"
        record = self.kubernetes.cluster.read(path)["data"]
        record["signer"]["ttl"] = seconds
        assert server.api("POST", path, {"data": record}).status < 300
        joined_cluster.signer_of(self.cluster).restart()

    def join(self) -> None:
        """The machine joins by the newest root alone, and its pod runs; its kubelet has both certificates then."""
        command, _ = joined_cluster.new_token(self.cluster)
        pins = [pin for pin in joined_cluster.root_pins(self.cluster) if pin not in self.pins]
        self.pins += pins
        assert len(pins) == 1
        said = joined_cluster.join(self.cluster, JOINED, pins, command)
        assert "This node has joined the cluster" in said
        joined_cluster.await_ready(self.cluster, JOINED)
        self.kubernetes.run_pod(POD, node=JOINED, seconds=SECONDS)
        wait_for(lambda: joined_cluster.logs(self.cluster, POD) == "hello\n", SECONDS, self.said, pause=1)
        self.position = len(self.cluster.nodes[JOINED].machine.processes["kubelet"].said())

    def join_anew(self) -> None:
        """As docs/signer.md has it, for a root that is published: cluster-info first, and then the machine."""
        kubernetes, run = self.kubernetes, self.cluster.run
        self.judge_kubelet()
        self.issue()
        # kubeadm looks at both where it has no CA key.
        run("scp -p operator/admin.conf operator/super-admin.conf root@cp-1:/etc/kubernetes/")
        run(f"kubeadm init phase bootstrap-token --config {kubeadm_planes.CONFIGURATION} --skip-token-print", PLANE)
        self.live_for(LIFE_WITH_ROOT)
        kubeadm_planes.reset(self.cluster, JOINED)
        kubernetes.kubectl(kubernetes.admin, "delete", "pod", POD, "--force", "--ignore-not-found")
        kubernetes.kubectl(kubernetes.admin, "delete", "node", JOINED)
        kubernetes.kubectl(kubernetes.admin, "delete", "csr", "--all")
        self.join()

    def judge_kubelet(self) -> None:
        """Takes in what the joined node's kubelet has complained of since it joined."""
        said = self.cluster.nodes[JOINED].machine.processes["kubelet"].said()
        self.complaints += [line for line in said[self.position :].splitlines() if complains(line)]
        self.position = len(said)

    def said(self) -> str:
        kubelet = self.cluster.nodes[JOINED].machine.processes["kubelet"]
        return f"{joined_cluster.said_by_signer(self.cluster)}\n{kubelet.last_words()}"


@pytest.fixture(scope="module")
def outcome(
    programs: Programs, vault_binary: Path | None, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Rotations]:
    folder = tmp_path_factory.mktemp("rotations")
    with (
        servers.running("vault" if vault_binary else "bao", folder / "server", vault_binary) as server,
        joined_cluster.standing(
            server, programs, folder / "kube", "{ttl: 1h, approve_serving: true}", {JOINED: "198.51.100.41"}
        ) as cluster,
    ):
        plane = cluster.nodes[PLANE]
        kubeadm_planes.configure(plane, "poll: 5m", "poll: 10s")
        plane.resident()
        run = Rotations(cluster.kubernetes, cluster, kubeadm_use.Audit(cluster))
        run.live_for(LIFE)
        run.join()
        with run.under_load(POD):
            run.rotated("kubelet")
            run.rotated("kubernetes")
        with run.under_load():
            joined_cluster.signer_of(cluster).restart()
            run.rotate("root", spread=10)
            run.settle("root", State.SWITCHED)
        with run.under_load(POD):
            run.settle("root", State.DONE)
            run.keep("root")
            await_renewal(run)
        run.judge_kubelet()
        steps = ", ".join(f"{domain} {state.value}" for domain, state in run.steps)
        print(f"\n{steps}; {dict(run.renewed)} signed; {dict(run.worked)}, {len(run.audit.unauthorized)} times 401")
        yield run


def await_renewal(run: Rotations) -> None:
    """Until the joined node's kubelet has come with another client certificate."""
    before = sha256(run.chains["root", CLIENT_KUBELET][0])

    def comes() -> bool:
        run.keep("root")
        run.audit.read()
        return before != (now := sha256(run.chains["root", CLIENT_KUBELET][0])) and now in run.audit.uses

    wait_for(comes, LIFE_WITH_ROOT + SECONDS, run.said, pause=2)


@pytest.mark.parametrize("domain", SIGNERS)
def test_the_gate_waits_for_the_joined_node_and_opens_by_itself(outcome: Rotations, domain: str) -> None:
    assert "Its kubelet renews before" in outcome.named[domain], outcome.named
    states = [state for name, state in outcome.steps if name == domain]
    assert states[-4:] == [State.PUBLISHED, State.SWITCHED, State.RETIRED, State.DONE], outcome.steps
    leaf, ca = outcome.chains[domain, SIGNERS[domain]]
    leaf.verify_directly_issued_by(ca)
    assert sha256(ca) == outcome.signs[domain]


def test_its_kubelet_renews_by_requests(outcome: Rotations) -> None:
    assert all(outcome.renewed[each, name] for each in (*SIGNERS, "root") for name in SIGNERS.values()), outcome.renewed


def test_a_rotation_of_the_root_names_it(outcome: Rotations) -> None:
    assert "has no agent, and trusts the root that it joined with" in outcome.named["root"], outcome.named
    # The same key, in a certificate of the new root.
    assert sha256(outcome.chains["root", CLIENT_KUBELET][1]) == outcome.signs["root"]


def test_it_works_all_the_time(outcome: Rotations) -> None:
    """Commands and logs there are served, and no end rejects the other."""
    assert outcome.worked["exec"] > 50 and outcome.worked["logs"] > 100, outcome.worked
    assert outcome.of_tls == [] and outcome.complaints == []
    assert joined_cluster.ready(outcome.cluster, JOINED)


def test_nobody_was_unauthorized(outcome: Rotations) -> None:
    used = {sha256(chain[0]) for (_, name), chain in outcome.chains.items() if name == CLIENT_KUBELET}
    assert len(used) == 3 and used <= outcome.audit.uses.keys()
    assert outcome.audit.unauthorized == []
