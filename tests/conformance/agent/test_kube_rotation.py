"""A real Kubernetes under load goes on while every pair of every component is renewed three times.

Three times as long as clients take to look at their files, and half a life of a certificate.
"""

from __future__ import annotations

import functools
import re
import shutil
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from helpers import pages
from helpers.kube import certificates_in_use, kube_cluster, recording_servers
from helpers.kube.certificates_in_use import (
    CALLERS,
    CLIENTS,
    LOOK_SECONDS,
    MARGIN_SECONDS,
    OF_TLS,
    PORTS,
    Lookout,
    Record,
    only_node,
)
from helpers.kube.client_load import OPERATORS, Load, of_tls
from helpers.kube.components import Programs
from helpers.kube.kube_cluster import Kubernetes
from helpers.vault import servers
from helpers.vault.applied_cluster import NodeFolder
from helpers.vault.servers import wait_for
from vaultpki import readers
from vaultpki.host import hooks

pytestmark = pytest.mark.conformance

# Half of it is the earliest that a renewal is ever due, and leaves clients of kube-apiserver more than they take.
# cluster.yaml has to be told that this is meant: with another machine's clock it could be too short.
TTL = 2 * (LOOK_SECONDS + 210)
SPEC = f"defaults: {{ttl: {TTL}s, allow_short_ttl: true}}\n{kube_cluster.ONE}"
POD = "load"
# kube-controller-manager's and kube-scheduler's.
OWN_PORTS = (10257, 10259)
# The agent takes the old files away five seconds after the new ones are there, and that is what watchers notice. A
# server that looks from time to time does so every five minutes.
SECONDS_FOR_SERVERS = 15
# kube-apiserver shows its own pair for etcd only to whoever it connects to anew.
CALLING = {row.name for row in CLIENTS} | CALLERS - {recording_servers.ETCD}
# How the lines of components begin that complain, and those of etcd.
LEVEL = re.compile(r'^[EWF]\d{4} |"level":"(warn|error|fatal)"')


@dataclass(frozen=True, slots=True)
class ClusterUnderLoad:
    """The cluster under load, and all who look on."""

    kubernetes: Kubernetes
    lookout: Lookout
    record: Record
    load: Load
    witness: NodeFolder

    def force(self) -> float:
        """Renews all that the node has, and the operators'; the moment after which all of the node's is new."""
        before = self.lookout.renewed()
        self.kubernetes.vaultpki(only_node(self.kubernetes).name, "renew", "--all")
        self.lookout.look()
        assert self.lookout.renewed() == before + 1
        done = time.time()
        self.issue()
        return done

    def issue(self) -> None:
        """Renews what no agent does: the operators' pairs, and those of the witness."""
        for person in OPERATORS:
            self.kubernetes.cluster.issue(person, self.kubernetes.operator)
        self.witness.run()
        self.lookout.look()

    def call(self) -> None:
        """Has kube-apiserver call the witnesses."""
        for name, path in recording_servers.PATHS.items():
            self.load.attempt(f"call by {name}", functools.partial(self.load.request, "admin", "GET", path))

    def await_all(self, generation: int) -> None:
        """Waits until every client has come with its pair of that generation."""
        missing: list[str] = []

        def all_came() -> bool:
            self.kubernetes.running()
            self.call()
            self.record.read()
            pairs = {name: self.lookout.changes[name][generation].pair for name in CALLING}
            missing[:] = [name for name, pair in sorted(pairs.items()) if self.record.first(name, pair) is None]
            return not missing

        wait_for(all_came, LOOK_SECONDS + 2 * MARGIN_SECONDS, lambda: f"on an older pair: {missing}", pause=1)

    def cut(self) -> Cut:
        """Cuts kube-apiserver's connections to etcd, and waits until there are others."""
        begin, before = time.time(), recording_servers.connections_to_etcd(self.kubernetes)
        pair = self.lookout.changes[recording_servers.ETCD][-1].pair
        with recording_servers.instead_of_etcd(self.kubernetes, self.record.uses):
            came = functools.partial(self.record.first, recording_servers.ETCD, pair)
            # `ss --kill` does nothing, and says so nowhere, where the kernel has no CONFIG_INET_DIAG_DESTROY.
            wait_for(lambda: came() is not None, 20, lambda: "kube-apiserver was not cut off from etcd", pause=0.1)
        wait_for(self.kubernetes.ready, 30, lambda: "kube-apiserver has no etcd any more", pause=0.2)
        return Cut(begin, time.time(), before, recording_servers.connections_to_etcd(self.kubernetes))


@dataclass(frozen=True, slots=True)
class Cut:
    """When etcd could not be reached (Unix time), and the connections to it before and after."""

    begin: float
    end: float
    before: set[str]
    after: set[str]


@dataclass(frozen=True, slots=True)
class Outcome:
    """What happened, to be judged by the tests; `third` is Unix time.

    `processes`, `own` and `said` are the components' ids, the certificates that two of them make for themselves, and
    the length of their logs, as they were at the beginning. `older` holds the node's files of the second generation;
    the third is in use.
    """

    loaded: ClusterUnderLoad
    processes: dict[tuple[str, str], int]
    own: dict[int, str]
    said: dict[str, int]
    third: float
    cut: Cut
    agent: str
    older: Path


@pytest.fixture(scope="module")
def cluster(
    stands: Callable[[], None],
    programs: Programs,
    vault_binary: Path | None,
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[Kubernetes]:
    """One node with every role, enrolled through HashiCorp Vault, whose pairs do not live long."""
    folder = tmp_path_factory.mktemp("rotation")
    with (
        servers.running("vault", folder / "server", vault_binary) as server,
        kube_cluster.cluster(server, programs, folder / "kube", SPEC) as running,
    ):
        stands()
        yield running


@pytest.fixture(scope="module")
def outcome(cluster: Kubernetes, tmp_path_factory: pytest.TempPathFactory) -> Outcome:
    """All that is renewed; afterwards the cluster stands without load and without agents."""
    folder, node = tmp_path_factory.mktemp("outcome"), only_node(cluster)
    processes, own = cluster.running(), own_certificates(cluster)
    said = {name: len(process.said()) for name, process in node.machine.processes.items()}
    cluster.run_pod(POD)
    cluster.cluster.write(SPEC + recording_servers.spec(cluster))
    cluster.cluster.apply()
    witness = cluster.cluster.equip(recording_servers.NODE)
    witness.run()
    loaded = ClusterUnderLoad(cluster, Lookout(cluster), Record(cluster), Load(cluster, [POD], pace=2), witness)
    with (
        recording_servers.called(cluster, witness.pki, folder, loaded.record.uses),
        loaded.load.running(),
        loaded.lookout.running(),
    ):
        loaded.force()
        loaded.await_all(1)
        # The second renewal comes by itself. The agent is there from when all have come with the first one until the
        # third, so that on a slow machine too it renews just once, and beside the command.
        resident = cluster.resident(node.name)
        wait_for(lambda: loaded.lookout.renewed() == 2, TTL * 2 / 3, resident.last_words, pause=1)
        loaded.issue()
        loaded.await_all(2)
        shutil.copytree(node.pki, folder / "older")
        third = loaded.force()
        resident.stop()
        cut = loaded.cut()
        loaded.await_all(3)
        # To the end, though all may have come before: nobody may come with an older one later.
        while time.time() < third + LOOK_SECONDS + 2 * MARGIN_SECONDS + 5:
            loaded.call()
            time.sleep(1)
    loaded.record.read()
    return Outcome(loaded, processes, own, said, third, cut, resident.said(), folder / "older")


def own_certificates(kubernetes: Kubernetes) -> dict[int, str]:
    """What kube-controller-manager and kube-scheduler show: they make it for themselves, anew at each start."""
    return {port: certificates_in_use.shown_at(kubernetes, port) for port in OWN_PORTS}


def test_every_pair_was_renewed_three_times(outcome: Outcome) -> None:
    """Twice by force, and once between by the agent, since it was due."""
    lookout = outcome.loaded.lookout
    assert not lookout.errors
    for row in OF_TLS:
        changes = lookout.changes[row.name]
        assert len({change.pair for change in changes}) == len(changes) == 4, row.name
        if row.node_roles:
            assert outcome.agent.count(f"renewed {row.name}\n") == 1, outcome.agent
            assert changes[2].at - changes[1].at > TTL / 2 - 60


def test_no_request_failed_for_a_reason_of_tls(outcome: Outcome) -> None:
    """Nor for any other but that etcd was away; one in a thousand may, and some be late: others work here too."""
    load, cut = outcome.loaded.load, outcome.cut
    assert [failure for failure in load.failures if failure.of_tls] == []
    others = [failure for failure in load.failures if not cut.begin - 1 < failure.at < cut.end + 5]
    assert len([each for each in others if not each.late]) <= load.worked.total() / 1000, others
    assert len(others) <= load.worked.total() / 100, others


def test_there_was_load(outcome: Outcome) -> None:
    load = outcome.loaded.load
    assert load.lacking() == {}, load.worked
    for who in OPERATORS:
        # One of them ends after forty seconds.
        assert load.worked[f"watch as {who}"] >= load.seconds // 80
        assert load.missed(who) == []


def test_nobody_was_unauthorized(outcome: Outcome) -> None:
    assert outcome.loaded.record.unauthorized == []


def test_no_component_complains_of_tls(outcome: Outcome) -> None:
    """Nor was any request of their own refused for such a reason."""
    assert complaints(outcome) == []


def complaints(outcome: Outcome) -> list[str]:
    """What the components' logs have of it since the beginning."""
    found = []
    for name, process in only_node(outcome.loaded.kubernetes).machine.processes.items():
        lines = process.said()[outcome.said[name] :].splitlines()
        found += [f"{name}: {line}" for line in lines if LEVEL.search(line) and of_tls(line)]
    return found


@pytest.mark.parametrize("name", PORTS)
def test_servers_show_the_new_pair_at_their_next_handshake(outcome: Outcome, name: str) -> None:
    lookout = outcome.loaded.lookout
    for change in lookout.changes[name]:
        assert lookout.showing[change.pair] - change.at < servers.SHARED * SECONDS_FOR_SERVERS


@pytest.mark.parametrize("name", sorted(CALLING))
def test_clients_come_with_the_new_pair_at_their_next_look(outcome: Outcome, name: str) -> None:
    changes, record = outcome.loaded.lookout.changes[name], outcome.loaded.record
    for number, change in enumerate(changes[1:], start=1):
        latest = change.at + LOOK_SECONDS + 2 * MARGIN_SECONDS
        came = record.first(name, change.pair)
        assert came is not None and came < latest
        older = {change.pair for change in changes[:number]}
        assert [use for use in record.uses if use.row == name and use.pair in older and use.at > latest] == []
    assert {use.pair for use in record.uses if use.row == name} <= {change.pair for change in changes}


def test_the_connection_to_etcd_was_cut_and_came_back_with_the_new_pair(outcome: Outcome) -> None:
    assert outcome.cut.before - outcome.cut.after and outcome.cut.after - outcome.cut.before
    pairs = {use.pair for use in outcome.loaded.record.uses if use.row == recording_servers.ETCD}
    assert pairs == {outcome.loaded.lookout.changes[recording_servers.ETCD][-1].pair}


def test_etcds_health_check_uses_what_lies_there(outcome: Outcome) -> None:
    node = only_node(outcome.loaded.kubernetes)
    outcome.loaded.kubernetes.etcdctl(node, "endpoint", "health")


def test_no_restart_was_needed_and_none_happened(outcome: Outcome) -> None:
    kubernetes = outcome.loaded.kubernetes
    node = only_node(kubernetes)
    assert all(hooks.advice(row.name, node.roles) is None for row in OF_TLS)
    assert {reader.ca for reader in readers.READERS} == set(readers.CA_OF_BUNDLE.values())
    lines = [line for line in pages.text("components").splitlines() if line.startswith("|")]
    # What an older version needs is another matter: its agents say so.
    told = [line for line in lines if "**restart**" in line and "from Kubernetes 1." not in line]
    # Neither a pair nor its CA is in the line of another server.
    assert told and all(
        "CA" in line or "cafile" in line or line.startswith("| `server` in a kubeconfig") for line in told
    )
    assert "restart" not in outcome.agent and "hooks:" not in node.node.config.read_text()
    assert kubernetes.running() == outcome.processes
    assert own_certificates(kubernetes) == outcome.own
    (pod,) = kubernetes.get("pods")["items"]
    assert pod["status"]["containerStatuses"][0]["restartCount"] == 0


def test_in_the_end_all_is_well(outcome: Outcome) -> None:
    assert faults(outcome) == {}


def faults(outcome: Outcome, since: float | None = None) -> dict[str, str]:
    loaded = outcome.loaded
    latest = outcome.third + LOOK_SECONDS + 2 * MARGIN_SECONDS
    return certificates_in_use.faults(loaded.kubernetes, loaded.record, latest if since is None else since)


# The controls: with one thing wrong, each of those checks says just that. They leave the cluster as it was.


def test_control_a_torn_pair_is_told(outcome: Outcome) -> None:
    kubernetes = outcome.loaded.kubernetes
    node = only_node(kubernetes)
    key = node.pki / "kubelet.key"
    right = key.read_bytes()
    key.write_bytes((outcome.older / "kubelet.key").read_bytes())
    try:
        found = faults(outcome)
        wait_for(lambda: bool(complaints(outcome)), 10, lambda: "the kubelet says nothing of its key", pause=0.2)
    finally:
        # Not by the agent: on a slow machine it would renew all that is due by now, which clients see only later.
        key.write_bytes(right)
    assert set(found) == {"kubelet"} and found["kubelet"].startswith("torn"), found
    assert all(line.startswith("kubelet: ") for line in complaints(outcome))
    wait_for(lambda: faults(outcome) == {}, SECONDS_FOR_SERVERS, lambda: str(faults(outcome)), pause=0.5)


def test_control_a_stale_server_is_told(outcome: Outcome) -> None:
    kubernetes = outcome.loaded.kubernetes
    node = only_node(kubernetes)
    configuration = node.machine.folder / "kubelet.yaml"
    right = configuration.read_text()
    wrong = right.replace(str(node.pki / "kubelet."), str(outcome.older / "kubelet."))
    assert wrong != right
    try:
        configuration.write_text(wrong)
        kubernetes.restart("kubelet")
        wait_for(lambda: node.machine.answers(PORTS["kubelet"]), 20, kubernetes.component("kubelet").last_words)
        found = faults(outcome)
        assert set(found) == {"kubelet"} and found["kubelet"].startswith("stale"), found
    finally:
        configuration.write_text(right)
        kubernetes.restart("kubelet")
    wait_for(lambda: node.machine.answers(PORTS["kubelet"]), 20, kubernetes.component("kubelet").last_words)
    assert faults(outcome) == {}


def test_control_a_stale_client_is_told(outcome: Outcome) -> None:
    kubernetes, record = outcome.loaded.kubernetes, outcome.loaded.record
    node, scheduler = only_node(kubernetes), kubernetes.component("kube-scheduler")
    for row in OF_TLS:
        if row.name == "kube-scheduler" and row.kubeconfig:
            copy = outcome.older / row.kubeconfig
            copy.write_text(copy.read_text().replace(str(node.pki), str(outcome.older)))
    right = scheduler.command
    old = outcome.loaded.lookout.changes["kube-scheduler"][2].pair
    begin = time.time()

    def came() -> bool:
        record.read()
        return any(use.row == "kube-scheduler" and use.pair == old and use.at > begin for use in record.uses)

    try:
        scheduler.command = [word.replace(str(node.pki), str(outcome.older)) for word in right]
        scheduler.restart()
        wait_for(came, 20, scheduler.last_words, pause=0.2)
        found = faults(outcome)
        assert set(found) == {"kube-scheduler"} and found["kube-scheduler"].startswith("stale"), found
    finally:
        scheduler.command = right
        scheduler.restart()
    assert faults(outcome, time.time()) == {}


def test_control_a_stranger_is_told(outcome: Outcome) -> None:
    """Whom kube-apiserver does not know fails for a reason of TLS, and the audit log has it."""
    kubernetes, load = outcome.loaded.kubernetes, outcome.loaded.load
    failed = len(load.failures)
    shutil.copy(only_node(kubernetes).pki / "etcd-healthcheck-client.pem", kubernetes.operator / "stranger.pem")
    assert not load.attempt("stranger", lambda: load.request("stranger", "GET", "/api/v1/nodes"))
    assert all(failure.of_tls for failure in load.failures[failed:])

    def told() -> bool:
        outcome.loaded.record.read()
        return bool(outcome.loaded.record.unauthorized)

    wait_for(told, 10, lambda: "no 401 in the audit log", pause=0.2)
