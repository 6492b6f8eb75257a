"""A real Kubernetes under load goes on while every pair of every component is renewed three times.

A quarter of an hour, mostly of waiting: `make conformance` runs it beside the other suites.
"""

from __future__ import annotations

import re
import shutil
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import generations
import kube
import pytest
import readme
import servers
import witnesses
from applied import vaultpki
from components import Programs
from generations import CALLERS, CLIENTS, LOOK_SECONDS, MARGIN_SECONDS, PORTS, Lookout, Record, only_node
from kube import Kubernetes
from load import OPERATORS, Load
from machines import Process
from servers import wait_for

from vaultpki import hooks
from vaultpki.certificates import TABLE, pair_files, row_named

pytestmark = pytest.mark.conformance

# Half of it is the earliest that a renewal is ever due, and leaves clients of kube-apiserver two minutes more than the
# five they take. cluster.yaml has to be told that this is meant: with another machine's clock it could be too short.
TTL = 14 * 60
POD = "load"
SECONDS_FOR_SERVERS = 10
# What a component says where trust is the reason; each of them writes its level first or as a field.
COMPLAINT = re.compile(r"x509|\btls\b|certificate|handshake|Unauthorized", re.IGNORECASE)
LEVEL = re.compile(r'^[EWF]\d{4} |"level":"(warn|error|fatal)"')


@dataclass(frozen=True, slots=True)
class Story:
    """What happened in the quarter of an hour, to be judged by the tests; times are Unix time."""

    begin: float
    end: float
    processes: dict[tuple[str, str], int]
    forced: tuple[float, float]
    cut: tuple[float, float]
    before_the_cut: set[str]
    after_the_cut: set[str]
    lookout: Lookout
    load: Load
    record: Record
    agent: str
    # The second generation's files, while the third is in use.
    older: Path


@pytest.fixture(scope="module")
def cluster(
    programs: Programs, vault_binary: Path | None, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Kubernetes]:
    """One node with every role, enrolled through HashiCorp Vault, whose pairs do not live long."""
    folder = tmp_path_factory.mktemp("rotation")
    (folder / "server").mkdir()
    with servers.running("vault", folder / "server", vault_binary) as server:
        spec = f"defaults: {{ttl: {TTL}s, allow_short_ttl: true}}\n{kube.ONE}"
        with kube.cluster(server, programs, folder / "kube", spec) as running:
            yield running


@pytest.fixture(scope="module")
def story(cluster: Kubernetes, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Story]:
    """The cluster's quarter of an hour; it stands when the tests judge it, without load."""
    node, folder = only_node(cluster), tmp_path_factory.mktemp("story")
    lookout, record, load = Lookout(cluster), Record(cluster), Load(cluster, POD)
    begin, processes = time.time(), cluster.running()
    cluster.run_pod(POD)
    cluster.site.write(cluster.site.file.read_text().partition("\n")[2].partition("\n")[2] + witnesses.spec(cluster))
    cluster.site.apply()
    witness = cluster.site.equip(witnesses.NODE)
    witness.run()
    with witnesses.called(cluster, witness.pki, folder, record.uses), load.running(), lookout.running():
        resident = cluster.resident(node.name)

        first = force(cluster, lookout)
        await_all(cluster, lookout, record, 1, LOOK_SECONDS)
        # The second comes by itself.
        wait_for(lambda: lookout.of_node() == 2, TTL * 2 / 3, resident.last_words, pause=1)
        issue(cluster)
        await_all(cluster, lookout, record, 2, LOOK_SECONDS)
        shutil.copytree(node.pki, folder / "older")
        third = force(cluster, lookout)
        before, cut = witnesses.connections_to_etcd(cluster), time.time()
        with witnesses.instead_of_etcd(cluster, record.uses):
            wait_for(lambda: record.first(witnesses.ETCD, now(lookout, witnesses.ETCD)) is not None, 20, str, pause=0.1)
        wait_for(lambda: bool(witnesses.connections_to_etcd(cluster)), 30, str, pause=0.1)
        mended, after = time.time(), witnesses.connections_to_etcd(cluster)
        # To the end, though all may be on the new pair before: nobody may come with an older one later.
        await_all(cluster, lookout, record, 3, LOOK_SECONDS)
        while time.time() < third + LOOK_SECONDS + 2 * MARGIN_SECONDS:
            call(load)
            time.sleep(1)
        record.read()
    resident.stop()
    yield Story(
        begin,
        time.time(),
        processes,
        (first, third),
        (cut, mended),
        before,
        after,
        lookout,
        load,
        record,
        resident.said(),
        folder / "older",
    )


def now(lookout: Lookout, name: str) -> str:
    """The newest generation of a row."""
    return lookout.changes[name][-1][0]


def force(kubernetes: Kubernetes, lookout: Lookout) -> float:
    """Renews all that the node has, and the operators'; the moment after which all of it is new."""
    before = lookout.of_node()
    vaultpki("renew", "-c", only_node(kubernetes).seat.config, "--force")
    lookout.look()
    assert lookout.of_node() == before + 1
    done = time.time()
    issue(kubernetes)
    return done


def issue(kubernetes: Kubernetes) -> None:
    for person in OPERATORS:
        kubernetes.site.issue(person, kubernetes.operator)


def call(load: Load) -> None:
    """Has kube-apiserver call the witnesses."""
    for name, path in witnesses.PATHS.items():
        load.attempt(f"call {name}", lambda path=path: load.request("admin", "GET", path))  # type: ignore[misc]


def await_all(kubernetes: Kubernetes, lookout: Lookout, record: Record, generation: int, seconds: float) -> None:
    """Waits until every client has come with its pair of that generation."""
    clients = {row.name for row in CLIENTS} | CALLERS - {witnesses.ETCD}
    missing: list[str] = []

    def all_came() -> bool:
        call(load_of(record))
        record.read()
        pairs = {name: lookout.changes[name][generation][0] for name in clients if len(lookout.changes[name]) > generation}
        missing[:] = [name for name in sorted(clients) if record.first(name, pairs.get(name, "")) is None]
        return not missing

    wait_for(all_came, seconds + 2 * MARGIN_SECONDS, lambda: f"on an older pair: {missing}", pause=1)
