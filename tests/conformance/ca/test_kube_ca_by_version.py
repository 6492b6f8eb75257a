"""A real Kubernetes of whatever version is given lives under load through one whole rotation of the kubernetes CA.

This CA is the one at which versions differ: before 1.36 clients of kube-apiserver read its bundle only when they start.
`make kubernetes` runs it, twenty minutes and mostly of waiting; `make conformance` has the longer rotations.
"""

from __future__ import annotations

import itertools
import shutil
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from helpers.kube import cas_in_use, kube_cluster, operator_under_load
from helpers.kube.access_matrix import Heard
from helpers.kube.ca_operator import STEP_SECONDS
from helpers.kube.client_load import OPERATORS
from helpers.kube.components import Programs
from helpers.kube.kube_cluster import Kubernetes
from helpers.kube.operator_under_load import OperatorUnderLoad
from helpers.kube.restarts import Restart, bearable, unexplained
from helpers.vault import servers
from vaultpki.records.rotation import State

pytestmark = pytest.mark.conformance

CA = "kubernetes"
SPEC = f"""\
{kube_cluster.GROWING}\
certificates:
  extension: {{kind: server, ca: {CA}, common_name: extension, names: [extension.default.svc], roles: [etcd]}}
"""
# Readers of bundles look every five minutes, and this long after the end nobody may complain.
CALM_SECONDS = 20.0


@dataclass(frozen=True, slots=True)
class Outcome:
    """What happened, to be judged by the tests; `old` is a leaf of the CA that left, with its key."""

    operator: OperatorUnderLoad
    faults: dict[str, list[str]]
    restarts: tuple[Restart, ...]
    let_in: dict[str, Heard]
    old: Path


@pytest.fixture(scope="module")
def cluster(
    stands: Callable[[], None], programs: Programs, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Kubernetes]:
    """Two control planes with etcd behind one name, and a worker of a pool, enrolled through OpenBao."""
    folder = tmp_path_factory.mktemp("by-version")
    with (
        servers.running("bao", folder / "server", None) as server,
        kube_cluster.cluster(server, programs, folder / "kube", SPEC, comers=kube_cluster.COMERS) as running,
    ):
        stands()
        yield running


@pytest.fixture(scope="module")
def outcome(cluster: Kubernetes, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Outcome]:
    """The cluster after the rotation; it stands without load."""
    old = tmp_path_factory.mktemp("outcome") / "old.pem"
    with operator_under_load.standing(cluster, pace=3) as operator:
        shutil.copy(cluster.operator / "admin.pem", old)
        begin = time.time()
        operator.mark()
        with operator.load.running():
            let_in = cas_in_use.all_let_in(cluster, old)
            operator.rotate(CA)
            operator.advance(CA, State.SWITCHED)
            operator.issue()
            # Only an operator knows that nobody has certificates of the old CA any more.
            operator.rest(CA, *(f"--without={person}" for person in OPERATORS))
            time.sleep(CALM_SECONDS)
        cluster.running()
        for agent in cluster.agents.values():
            agent.check()
        load, restarts = operator.load, tuple(operator.restarts.done)
        print(
            f"\n| {cluster.programs.named} | {CA} | {time.time() - begin:.0f} s "
            f"| {load.worked.total() + len(load.failures)} | {sum(each.of_tls for each in load.failures)} "
            f"| {len(operator.unauthorized())} | {len(operator.complaints())} "
            f"| {sum(not each.of_tls for each in load.failures)} | {_told(restarts)} |"
        )
        yield Outcome(operator, operator.faults(), restarts, let_in, old)


def _told(restarts: tuple[Restart, ...]) -> str:
    counted = Counter(restart.component for restart in restarts)
    return ", ".join(f"{count} {name}" for name, count in counted.items())


def test_it_went_through_every_state(outcome: Outcome) -> None:
    forward = [State.PREPARED, State.PUBLISHED, State.SWITCHED, State.RETIRED, State.DONE]
    assert [state for _, state in outcome.operator.steps] == forward


def test_nobody_was_refused(outcome: Outcome) -> None:
    """No request failed for a reason of TLS, none was answered 401, and no component complained."""
    assert outcome.faults == {}


def test_hardly_a_request_failed_at_all(outcome: Outcome) -> None:
    """But those on the connections that an API server or a kubelet ended as it was restarted."""
    load = outcome.operator.load
    others = unexplained(outcome.restarts, load.failures)
    assert len(others) <= load.worked.total() / 1000, others
    assert len(load.failures) <= bearable(outcome.restarts, load.worked.total()), load.failures
    assert load.lacking() == {}, load.worked
    assert [load.missed(who) for who in OPERATORS] == [[], []]


def test_every_leaf_and_bundle_is_of_the_new_ca(outcome: Outcome) -> None:
    kubernetes, new = outcome.operator.kubernetes, outcome.operator.record(CA).new
    assert new is not None and new.name == f"{CA}-2"
    assert set(cas_in_use.leaves(kubernetes, CA).values()) == {new.sha256}
    assert all(found == {new.sha256} for found in cas_in_use.trusted(kubernetes, CA).values())


def test_whoever_reads_the_bundle_only_at_start_was_restarted(outcome: Outcome) -> None:
    """Once for both CAs and once without the old one; nobody else was, and control planes took turns."""
    kubernetes = outcome.operator.kubernetes
    expected = {
        (node.name, name): 2
        for node in kubernetes.nodes.values()
        for name in outcome.operator.restarts.of(node).get(f"{CA}-ca", [])
    }
    assert expected and Counter((each.node, each.component) for each in outcome.restarts) == expected
    planes = [each for each in outcome.restarts if each.node in ("cp-1", "cp-2")]
    for before, after in itertools.pairwise(sorted(planes, key=lambda restart: restart.begin)):
        assert before.node == after.node or before.end <= after.begin, (before, after)


def test_every_listener_refuses_a_leaf_of_the_ca_that_left(outcome: Outcome) -> None:
    kubernetes = outcome.operator.kubernetes
    assert {at: heard.status for at, heard in outcome.let_in.items()} == dict.fromkeys(outcome.let_in, 200)
    cas_in_use.await_refusal(kubernetes, outcome.old, STEP_SECONDS)
