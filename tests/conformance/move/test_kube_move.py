"""A real Kubernetes with three control planes moves from OpenBao to HashiCorp Vault under load.

One cluster for the whole module. It goes to switched and all the way back, and then to the end: each server stops for a
while in each half, the root is replaced in the last phase, and in the end the old server is emptied and stopped for
good.
"""

from __future__ import annotations

import itertools
import json
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from helpers.kube import cas_in_use, forwarded_port, kube_cluster, operator_under_load
from helpers.kube.ca_operator import GATE_SECONDS
from helpers.kube.client_load import OPERATORS
from helpers.kube.components import Programs
from helpers.kube.kube_cluster import Kubernetes
from helpers.kube.operator_under_load import OperatorUnderLoad
from helpers.kube.restarts import Restart, bearable, unexplained
from helpers.vault import operator_tokens, servers
from helpers.vault.applied_cluster import AppliedCluster, Ran, vaultpki
from helpers.vault.servers import Server
from vaultpki.certificates import ISSUING_CAS, bundle
from vaultpki.model import NodeRole
from vaultpki.pki import x509
from vaultpki.records.move import MoveRecord, read_move
from vaultpki.records.rotation import State

pytestmark = pytest.mark.conformance

SPEC = """\
api_server: {endpoint: "https://api.example.com:6443", names: [api.example.com]}
nodes:
- {name: cp-1, roles: [control-plane, etcd], addresses: [198.51.100.11]}
- {name: cp-2, roles: [control-plane, etcd], addresses: [198.51.100.12]}
- {name: cp-3, roles: [control-plane, etcd], addresses: [198.51.100.13]}
- {name: worker-1, roles: [worker], addresses: [198.51.100.31]}
pools:
- {name: autoscaled, roles: [worker], node_names: "w-*"}
certificates:
  extension: {kind: server, ca: kubernetes, common_name: extension, names: [extension.default.svc], roles: [etcd]}
"""
# Over so many seconds nodes replace their leaves.
SPREAD_SECONDS = 20
# For so long a server is away: more than two polls of each agent.
AWAY_SECONDS = 30
WHOLE_SECONDS = 6 * GATE_SECONDS


@dataclass(slots=True)
class Mover:
    """The operator who moves the cluster; `states` are those that the record has been seen in."""

    operator: OperatorUnderLoad
    new: Server
    there: AppliedCluster
    token: Path
    states: list[State] = field(default_factory=list)

    @property
    def kubernetes(self) -> Kubernetes:
        return self.operator.kubernetes

    def move(self, *words: str, expect: set[int] | None = None, timeout: float = GATE_SECONDS) -> Ran:
        """`vaultpki move ...` with the printed policies, from the machine that reaches the nodes."""
        cluster = self.kubernetes.cluster
        own = operator_tokens.token(self.new, cluster.prefix, "mover", spec=cluster.file)
        self.token.touch(mode=0o600)
        self.token.write_text(own)
        where = ("-f", cluster.file, "--to-token", self.token)
        further = () if words[0] == "start" else ("--kubeconfig", self.kubernetes.admin)
        ran = vaultpki(
            *("move", *words, *where, *further),
            env=cluster.environment(),
            expect={0, 3} if expect is None else expect,
            timeout=servers.SHARED * timeout,
            behind=self.kubernetes.outside.inside,
        )
        self.note()
        return ran

    def record(self) -> MoveRecord:
        """The one with the higher revision."""
        cluster, found = self.kubernetes.cluster, []
        for server in (cluster.server, self.new):
            answer = server.api("GET", f"{cluster.prefix}/config/data/rotation/move")
            if answer.status == 200:
                found.append(read_move(answer.data["data"], where=server.address))
        return max(found, key=lambda each: each.revision)

    def note(self) -> None:
        """Remember the state."""
        state = self.record().state
        if self.states[-1:] != [state]:
            self.states.append(state)

    def lead(self, to: State, act: str = "continue", *words: str) -> None:
        """Lead it there by one command after the other, saying what only a person knows."""
        deadline = time.monotonic() + servers.SHARED * WHOLE_SECONDS
        said: tuple[str, ...] = words
        while self.record().state is not to:
            # The API server whose name the kubeconfig has may be restarting, or a server have no time for an answer.
            ran = self.move(act, "--json", *said, expect={0, 1, 3})
            failed = ran.returncode == 1 and not any(
                each in ran.stderr for each in ("cannot be reached", "has just started", "in time")
            )
            assert not failed and time.monotonic() < deadline, ran.stdout + ran.stderr
            if ran.returncode == 1:
                continue
            waits = self._waiting(ran)
            said = words
            if waits and waits <= {"outside", "pods", "kubelet-serving-ca", *OPERATORS}:
                self._see_to(waits)
                said = (*words, *(f"--checked={each}" for each in waits & {"outside", "kubelet-serving-ca"}))
            time.sleep(2)

    def _waiting(self, ran: Ran) -> set[str]:
        told: dict[str, Any] = json.loads(ran.stdout)
        return {each["node"] for each in told["move"]["waiting_for"]}

    def _see_to(self, waits: set[str]) -> None:
        """Do what a person does: certificates of people, the objects in the cluster, pods with the old root."""
        self.issue()
        folder = self.kubernetes.operator / "manifests"
        self.kubernetes.kubectl(self.kubernetes.admin, "apply", "-f", folder)
        if "pods" in waits:
            for node in self.kubernetes.having(NodeRole.WORKER):
                self.kubernetes.kubectl(self.kubernetes.admin, "delete", "pod", node.name, "--ignore-not-found")
                self.kubernetes.run_pod(node.name, node=node.name)

    def issue(self) -> None:
        """New certificates for people, from the server that signs now."""
        at = self.there if self.record().at_new else self.kubernetes.cluster
        for person in OPERATORS:
            at.issue(person, self.kubernetes.operator)

    def without(self, server: Server) -> None:
        """A server is away for some polls of every agent, and nobody has lost anything."""
        server.stop()
        time.sleep(AWAY_SECONDS)
        self.kubernetes.running()
        server.start()


@dataclass(frozen=True, slots=True)
class Moved:
    """What happened, to be judged by the tests; `first` and `last` are the records after the abort and in the end."""

    mover: Mover
    first: MoveRecord
    last: MoveRecord
    faults: dict[str, list[str]]
    restarts: tuple[Restart, ...]
    signers: dict[str, set[str]]


@pytest.fixture(scope="module")
def cluster(
    stands: Callable[[], None], programs: Programs, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Kubernetes]:
    """Three control planes with etcd, and two workers, enrolled through OpenBao."""
    folder = tmp_path_factory.mktemp("move")
    with (
        servers.running("bao", folder / "old") as server,
        kube_cluster.cluster(server, programs, folder / "kube", SPEC, comers=kube_cluster.COMERS) as running,
    ):
        stands()
        yield running


@pytest.fixture(scope="module")
def mover(cluster: Kubernetes, vault_binary: Path | None, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Mover]:
    """The cluster with its agents, hooks and clients, and an empty HashiCorp Vault to which it goes."""
    folder, applied = tmp_path_factory.mktemp("new"), cluster.cluster
    with (
        servers.running("vault", folder / "server", vault_binary) as new,
        forwarded_port.everywhere(cluster.lan, new),
        operator_under_load.standing(cluster, pace=3) as operator,
    ):
        (applied.folder / "new-ca.crt").write_bytes(new.ca_file.read_bytes())
        applied.write(f"{SPEC}move: {{addresses: ['{new.address}'], ca_file: new-ca.crt}}\n")
        there = AppliedCluster(new, folder / "cluster", applied.name)
        there.write(SPEC)
        yield Mover(operator, new, there, folder / "token")


@pytest.fixture(scope="module")
def moved(mover: Mover) -> Moved:
    """There and back, and there to the end; afterwards the cluster stands without load, and without the old server."""
    operator, kubernetes, old = mover.operator, mover.kubernetes, mover.kubernetes.cluster.server
    operator.mark()
    with operator.load.running():
        start(mover)
        mover.lead(State.PUBLISHED)
        mover.without(mover.new)
        mover.lead(State.SWITCHED)
        mover.without(old)
        mover.lead(State.STEADY, "abort", *(f"--without={person}" for person in OPERATORS))
        first = mover.record()
        start(mover)
        mover.lead(State.PUBLISHED)
        mover.without(old)
        mover.lead(State.SWITCHED)
        mover.without(mover.new)
        mover.lead(State.DONE)
        last = mover.record()
        mover.move("continue", "--yes", expect={0})
        old.stop()
        for name in kubernetes.nodes:
            kubernetes.agents[name].check()
        for name in kubernetes.nodes:
            kubernetes.vaultpki(name, "renew", "--all")
        time.sleep(10)
    kubernetes.running()
    signers = {domain: set(cas_in_use.leaves(kubernetes, domain).values()) for domain in ISSUING_CAS}
    return Moved(mover, first, last, operator.faults(), tuple(operator.restarts.done), signers)


def start(mover: Mover) -> None:
    """A move begins."""
    mover.move("start", "--spread", f"{SPREAD_SECONDS}s", expect={0})
    assert mover.record().state is State.PREPARED


def test_it_went_there_and_back_and_to_the_end(moved: Moved) -> None:
    forward = [State.PREPARED, State.PUBLISHED, State.SWITCHED]
    assert moved.mover.states == [*forward, State.RETURNING, State.STEADY, *forward, State.RETIRED, State.DONE]
    assert moved.last.number > moved.first.number


def test_no_request_failed_for_a_reason_of_tls_and_nobody_was_unauthorized(moved: Moved) -> None:
    """Nor does any component complain of TLS."""
    assert moved.faults == {}


def test_hardly_a_request_failed_at_all(moved: Moved) -> None:
    """But those on the connections that an API server or a member of etcd ended as it was restarted."""
    load = moved.mover.operator.load
    others = unexplained(moved.restarts, load.failures)
    assert len(others) <= load.worked.total() / 1000, others
    assert len(load.failures) <= bearable(moved.restarts, load.worked.total()), load.failures
    assert load.lacking() == {}


def test_restarts_took_turns(moved: Moved) -> None:
    for before, after in itertools.pairwise(sorted(moved.restarts, key=lambda restart: restart.begin)):
        assert before.node == after.node or before.end <= after.begin, (before, after)


def test_every_leaf_and_bundle_is_of_the_new_server_alone(moved: Moved) -> None:
    """Also those that were issued after the old server had gone."""
    kubernetes, there = moved.mover.kubernetes, moved.mover.there
    for domain in ISSUING_CAS:
        answer = moved.mover.new.api("GET", f"{there.prefix}/{domain}/issuer/default")
        if answer.status != 200:
            continue
        key = x509.read_certificates(str(answer.data["certificate"]).encode())[0].subject_key_id
        for name, held in cas_in_use.trusted(kubernetes, domain).items():
            file = kubernetes.nodes[name].pki / bundle(domain)
            assert {each.subject_key_id for each in x509.read_certificates(file.read_bytes())} == {key}, (name, held)
        assert len(moved.signers[domain]) == 1, (domain, moved.signers)


def test_no_node_is_left_with_the_old_root(moved: Moved) -> None:
    kubernetes = moved.mover.kubernetes
    for node in kubernetes.nodes.values():
        held = x509.read_certificates((node.pki / "kubernetes-ca-chain.crt").read_bytes())
        assert moved.last.root not in {each.fingerprint for each in held}, node.name
    published = kubernetes.get("configmap", "-n", "default", "kube-root-ca.crt")["data"]["ca.crt"]
    assert moved.last.root not in {each.fingerprint for each in x509.read_certificates(published.encode())}


def test_the_api_still_answers_everybody(moved: Moved) -> None:
    kubernetes = moved.mover.kubernetes
    for node in kubernetes.having(NodeRole.CONTROL_PLANE):
        assert kubernetes.ready(kubernetes.admin, node)
