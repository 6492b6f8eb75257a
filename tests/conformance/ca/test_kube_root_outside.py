"""A real Kubernetes below a root outside and two CAs between lives under load through a rotation of etcd's CA.

What is new to it is who signs, and chains that are longer by two; `make soak-rotations` has the kubernetes CA, and the
root that moves from ours to that one and back.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from helpers.kube import cas_in_use, kube_cluster, operator_under_load
from helpers.kube.ca_operator import STEP_SECONDS
from helpers.kube.client_load import OPERATORS
from helpers.kube.components import Programs
from helpers.kube.kube_cluster import Kubernetes
from helpers.kube.operator_under_load import OperatorUnderLoad
from helpers.kube.restarts import unexplained
from helpers.vault import servers
from helpers.vault.outside_signer import OutsideSigner
from helpers.vault.servers import wait_for
from vaultpki.certificates import pair_files, rows
from vaultpki.pki import x509
from vaultpki.records.rotation import State

pytestmark = pytest.mark.conformance

SPEC = f"""\
{kube_cluster.TURNING}\
ca: {{root: external, root_file: corp-root.pem, issuing_ttl: 1y}}
"""
BETWEEN = ["Corp Policy CA", "Corp Platform CA"]


@pytest.fixture(scope="module")
def signer(tmp_path_factory: pytest.TempPathFactory) -> OutsideSigner:
    return OutsideSigner.made(tmp_path_factory.mktemp("offline") / "ca", BETWEEN)


@pytest.fixture(scope="module")
def cluster(
    signer: OutsideSigner,
    stands: Callable[[], None],
    programs: Programs,
    vault_binary: Path | None,
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[Kubernetes]:
    """Two control planes, three members of etcd and two workers, enrolled through HashiCorp Vault."""
    folder = tmp_path_factory.mktemp("outside")
    with (
        servers.running("vault", folder / "server", vault_binary) as server,
        kube_cluster.cluster(
            server, programs, folder / "kube", SPEC, comers=kube_cluster.COMERS, apply=signer.apply
        ) as running,
    ):
        stands()
        yield running


@pytest.fixture(scope="module")
def operator(cluster: Kubernetes, signer: OutsideSigner) -> Iterator[OperatorUnderLoad]:
    """The cluster after the rotation; it stands without load."""
    with operator_under_load.standing(cluster, pace=3) as operator:
        operator.mark()
        with operator.load.running():
            operator.rotate("etcd")
            wait_for(
                lambda: min(operator.load.worked.values(), default=0) > 5, STEP_SECONDS, lambda: "no load", pause=1
            )
            assert operator.record("etcd").state is State.PREPARED
            requests = cluster.cluster.folder / "second"
            operator.ca("csr", "-o", requests, expect=[0])
            operator.ca("import", *signer.sign_all(requests), expect=[0])
            operator.rest("etcd")
        cluster.running()
        for agent in cluster.agents.values():
            agent.check()
        yield operator


def test_it_waited_for_the_signer_and_went_through_every_state(operator: OperatorUnderLoad) -> None:
    forward = [State.PREPARED, State.PUBLISHED, State.SWITCHED, State.RETIRED, State.DONE]
    assert [state for _, state in operator.steps] == forward


def test_nobody_was_refused(operator: OperatorUnderLoad) -> None:
    """No request failed for a reason of TLS, none was answered 401, and no component complained."""
    assert operator.faults() == {}


def test_hardly_a_request_failed_at_all(operator: OperatorUnderLoad) -> None:
    """But those on the connections that an API server or a member of etcd ended as it was restarted."""
    load, restarts = operator.load, tuple(operator.restarts.done)
    others = unexplained(restarts, load.failures)
    assert len(others) <= load.worked.total() / 1000, others
    assert len(load.failures) <= load.worked.total() / 100, load.failures
    assert all(load.worked[f"list as {who}"] > 50 for who in OPERATORS), load.worked
    assert load.worked["write"] > 80 and load.worked["exec"] > 15 and load.worked["logs"] > 30, load.worked


def test_every_leaf_and_bundle_is_of_the_new_ca(operator: OperatorUnderLoad) -> None:
    new = operator.record("etcd").new
    assert new is not None and new.name == "etcd-2"
    assert set(cas_in_use.leaves(operator.kubernetes, "etcd").values()) == {new.sha256}
    assert all(found == {new.sha256} for found in cas_in_use.trusted(operator.kubernetes, "etcd").values())


def test_served_chains_are_short_and_bundles_for_clients_whole(
    operator: OperatorUnderLoad, signer: OutsideSigner
) -> None:
    """The leaf and its issuing CA are served; who checks the API server has all CAs up to the root."""
    kubernetes = operator.kubernetes
    for row in rows(kubernetes.cluster.model):
        for node in kubernetes.nodes.values():
            crt = node.pki / pair_files(row.stem)[0]
            if crt.exists():
                assert len(x509.read_certificates(crt.read_bytes())) == 2, crt
    above = {x509.read_certificates(signer.pem(name).encode())[0].fingerprint for name in signer.names}
    published = kubernetes.get("configmap", "-n", "default", "kube-root-ca.crt")["data"]["ca.crt"]
    held = {facts.fingerprint for facts in x509.read_certificates(published.encode())}
    assert above < held, published
