"""A real Kubernetes under load lives through a whole rotation of etcd's CA, and one of the kubernetes CA and its abort.

Twenty-four minutes, mostly of waiting, beside the other tests of `make conformance`.
"""

from __future__ import annotations

import dataclasses
import itertools
import shutil
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from helpers.kube import cas_in_use, kube_cluster, operator_under_load
from helpers.kube.access_matrix import Heard
from helpers.kube.ca_operator import SPREAD, STEP_SECONDS
from helpers.kube.client_load import OPERATORS
from helpers.kube.components import Programs
from helpers.kube.kube_cluster import Kubernetes
from helpers.kube.operator_under_load import OperatorUnderLoad
from helpers.kube.restarts import Restart, unexplained
from helpers.vault import handmade_rotation, servers
from helpers.vault.servers import wait_for
from vaultpki.records.rotation import RotationRecord, State

pytestmark = pytest.mark.conformance

# How a component says that it refuses a CA, or that the other end does.
UNKNOWN_CA = ("certificate signed by unknown authority", "unknown certificate authority")


@dataclass(frozen=True, slots=True)
class Outcome:
    """What happened, to be judged by the tests.

    `old_etcd` and `new_kubernetes` are leaves of the two CAs that nobody may trust in the end, with their keys.
    """

    operator: OperatorUnderLoad
    faults: dict[str, list[str]]
    restarts: tuple[Restart, ...]
    let_in: dict[str, Heard]
    old_etcd: Path
    new_kubernetes: Path
    switched: RotationRecord


@pytest.fixture(scope="module")
def cluster(
    stands: Callable[[], None],
    programs: Programs,
    vault_binary: Path | None,
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[Kubernetes]:
    """Two control planes, three members of etcd and two workers, enrolled through HashiCorp Vault."""
    folder = tmp_path_factory.mktemp("ca-rotation")
    with (
        servers.running("vault", folder / "server", vault_binary) as server,
        kube_cluster.cluster(
            server, programs, folder / "kube", kube_cluster.TURNING, comers=kube_cluster.COMERS
        ) as running,
    ):
        stands()
        yield running


@pytest.fixture(scope="module")
def operator(cluster: Kubernetes) -> Iterator[OperatorUnderLoad]:
    """The cluster with its agents, its hooks and its clients, who have not begun yet."""
    # A third of the requests of `make soak-rotations`, since other tests need the processors too.
    with operator_under_load.standing(cluster, pace=3) as operator:
        yield operator


@pytest.fixture(scope="module")
def outcome(operator: OperatorUnderLoad, tmp_path_factory: pytest.TempPathFactory) -> Outcome:
    """The cluster's twenty minutes; afterwards it stands without load."""
    kubernetes, folder = operator.kubernetes, tmp_path_factory.mktemp("outcome")
    old_etcd, new_kubernetes = folder / "old-etcd.pem", folder / "new-kubernetes.pem"
    shutil.copy(kubernetes.members[-1].pki / "etcd-peer.pem", old_etcd)
    operator.mark()
    with operator.load.running():
        let_in = cas_in_use.at_etcd(kubernetes, old_etcd)
        operator.rotate("etcd")
        operator.rest("etcd")
        operator.rotate("kubernetes")
        operator.advance("kubernetes", State.SWITCHED)
        switched = operator.record("kubernetes")
        assert switched.new is not None
        operator.issue()
        operator.await_leaves("kubernetes", switched.new.sha256)
        shutil.copy(kubernetes.operator / "admin.pem", new_kubernetes)
        let_in |= cas_in_use.all_let_in(kubernetes, new_kubernetes)
        operator.ca("abort")
        operator.issue()
        # Nobody has the operators' certificates of the new CA any more, which only an operator can know.
        operator.rest("kubernetes", *(f"--without={person}" for person in OPERATORS))
        operator.await_leaves("kubernetes", switched.old.sha256)
        operator.await_bundles("kubernetes", switched.old.sha256)
        time.sleep(10)
    kubernetes.running()
    for agent in kubernetes.agents.values():
        agent.check()
    restarts = tuple(operator.restarts.done)
    return Outcome(operator, operator.faults(), restarts, let_in, old_etcd, new_kubernetes, switched)


def test_both_went_through_every_state(outcome: Outcome) -> None:
    states: dict[str, list[State]] = {"etcd": [], "kubernetes": []}
    for domain, state in outcome.operator.steps:
        states[domain].append(state)
    forward = [State.PREPARED, State.PUBLISHED, State.SWITCHED]
    assert states["etcd"] == [*forward, State.RETIRED, State.DONE], states
    assert states["kubernetes"] == [*forward, State.RETURNING, State.STEADY], states


def test_no_request_failed_for_a_reason_of_tls_and_nobody_was_unauthorized(outcome: Outcome) -> None:
    """Nor does any component complain of TLS."""
    assert outcome.faults == {}


def test_hardly_a_request_failed_at_all(outcome: Outcome) -> None:
    """But those on the connections that an API server or a member of etcd ended as it was restarted."""
    load = outcome.operator.load
    others = unexplained(outcome.restarts, load.failures)
    assert len(others) <= load.worked.total() / 1000, others
    assert len(load.failures) <= load.worked.total() / 100, load.failures


def test_there_was_load(outcome: Outcome) -> None:
    load, asked = outcome.operator.load, outcome.operator.extension.asked
    # A quarter of what a machine does that has nothing else to do.
    assert all(load.worked[f"list as {who}"] > 150 for who in OPERATORS), load.worked
    assert load.worked["write"] > 250 and load.worked["exec"] > 50 and load.worked["logs"] > 100, load.worked
    assert load.worked["aggregated"] > 100 and asked["api"] > 100 and asked["webhook"] > 250, asked
    assert asked["stranger"] == 0
    for who in OPERATORS:
        assert load.worked[f"watch as {who}"] > 10
        assert load.missed(who) == []


def test_every_leaf_and_bundle_is_of_the_right_ca(outcome: Outcome) -> None:
    kubernetes = outcome.operator.kubernetes
    etcd, aborted = outcome.operator.record("etcd"), outcome.operator.record("kubernetes")
    assert etcd.new is not None and etcd.new.name == "etcd-2" and aborted.old.name == "kubernetes-1"
    for domain, ca, name in (("etcd", etcd.new, "etcd-2"), ("kubernetes", aborted.old, "kubernetes-1")):
        assert set(cas_in_use.leaves(kubernetes, domain).values()) == {ca.sha256}
        assert all(found == {ca.sha256} for found in cas_in_use.trusted(kubernetes, domain).values())
        mount = f"{kubernetes.cluster.prefix}/{domain}"
        issuers = kubernetes.cluster.server.api("LIST", f"{mount}/issuers").data["key_info"]
        keys = kubernetes.cluster.server.api("LIST", f"{mount}/keys").data["key_info"]
        assert [one["issuer_name"] for one in issuers.values()] == [name]
        assert [one["key_name"] for one in keys.values()] == [name]


def test_restarts_took_turns(outcome: Outcome) -> None:
    """Nobody was restarted while another node was; everyone was whose old memory would have been wrong."""
    for before, after in itertools.pairwise(sorted(outcome.restarts, key=lambda restart: restart.begin)):
        assert before.node == after.node or before.end <= after.begin, (before, after)
    counted = Counter((restart.node, restart.component) for restart in outcome.restarts)
    for node in outcome.operator.kubernetes.nodes.values():
        for key, components in outcome.operator.restarts.of(node).items():
            # etcd's CA: once for both CAs, once without the old one.
            assert all(counted[node.name, name] >= (2 if key == "etcd-ca" else 1) for name in components), counted
            assert all(counted[node.name, name] <= 3 for name in components), counted


def test_every_listener_refuses_the_leaves_of_the_ca_that_left(outcome: Outcome) -> None:
    kubernetes = outcome.operator.kubernetes
    assert {at: heard.status for at, heard in outcome.let_in.items()} == dict.fromkeys(outcome.let_in, 200)
    refused = cas_in_use.at_etcd(kubernetes, outcome.old_etcd)
    assert {at: "unknown_ca" in heard.alert for at, heard in refused.items()} == dict.fromkeys(refused, True)
    cas_in_use.await_refusal(kubernetes, outcome.new_kubernetes, STEP_SECONDS)
    assert refused.keys() | cas_in_use.at_kubernetes(kubernetes, outcome.new_kubernetes).keys() == outcome.let_in.keys()


def test_control_a_skipped_gate_is_told(outcome: Outcome) -> None:
    """With etcd's CA switched before anybody was restarted what has to be empty is not, and the cluster is lost."""
    operator, cluster = outcome.operator, outcome.operator.kubernetes.cluster
    operator.load = dataclasses.replace(operator.load, failures=[], worked=Counter(), ending=threading.Event())
    operator.mark()
    with operator.load.running():
        operator.rotate("etcd")
        operator.advance("etcd", State.PUBLISHED)
        record = operator.record("etcd")
        assert record.new is not None and operator.faults() == {}
        operator.await_bundles("etcd", record.old.sha256, record.new.sha256)
        handmade_rotation.Rotation(cluster, operator.record("etcd")).move(State.SWITCHED)
        # A server that is refused may log it first, and hears no more than "bad certificate".
        wait_for(
            lambda: any(said in line for line in operator.complaints() for said in UNKNOWN_CA),
            SPREAD + STEP_SECONDS,
            lambda: str(operator.faults() or "nobody complains"),
            pause=1,
        )
    assert operator.faults() != {}
