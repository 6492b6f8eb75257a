"""A rotation knows the certificates that the signer had signed: no agent reports them, and their CA must not leave."""

from __future__ import annotations

from datetime import timedelta

import pytest

from helpers.node.root_rotation import SPEC as ROOT_SPEC
from helpers.node.root_rotation import RootRotation
from helpers.vault.applied_cluster import AppliedCluster
from helpers.vault.cluster_factory import ClusterFactory
from helpers.vault.rotations import SPEC, Rotation
from vaultpki.ca.run import Step
from vaultpki.errors import ArgumentError, StateConflict
from vaultpki.model import KeyType, Subject
from vaultpki.pki import keys
from vaultpki.records.rotation import State

JOINED = f"""\
{SPEC}- {{name: joined, roles: [worker], node_names: "j-*", join: token, networks: [10.0.0.0/16]}}
signer: {{people: {{names: ["*@example.com"], groups: [[], [dev]]}}}}
"""


def sign(cluster: AppliedCluster, role: str, name: str, ttl: str = "86400") -> str:
    """What the signer has signed, by another token; returns the serial number."""
    csr = keys.request(keys.generate_key(KeyType.EC_P256), Subject("x"))
    body = {"csr": csr, "common_name": name, "ttl": ttl, "exclude_cn_from_sans": "true"}
    more = {"alt_names": name.rpartition(":")[2]} if "serving" in role else {}
    answer = cluster.server.api("POST", f"{cluster.prefix}/{role.replace('/', '/sign/')}", body | more)
    assert answer.status == 200, answer
    return str(answer.data["serial_number"])


def begun(clusters: ClusterFactory, domain: str) -> Rotation:
    """A rotation of a CA in a cluster whose nodes with an agent are ready."""
    cluster = clusters.applied(JOINED)
    for node in cluster.model.nodes:
        cluster.equip(node.name)
    return Rotation(cluster, domain)


def switched(rotation: Rotation) -> None:
    """Takes the steps before the old CA leaves."""
    rotation.begin()
    # Whoever scrapes kubelets is no matter here.
    copy = ("kubelet-serving-ca",) if rotation.domain == "kubelet" else ()
    while rotation.record.state is not State.SWITCHED:
        rotation.moved(lambda: rotation.advance(without=copy))
    rotation.reported()


def waiting(step: Step) -> dict[str, str]:
    assert step.gate is not None and not step.moved
    return {each.node: each.reason for each in step.gate.waiting}


def test_the_ca_of_clients(clusters: ClusterFactory) -> None:
    rotation = begun(clusters, "kubernetes")
    cluster = rotation.cluster
    for name in ("system:node:j-1", "system:node:j-2", "system:node:j-3"):
        sign(cluster, "kubernetes/csr-kubelet-client", name, "86400" if name[-1] != "3" else "600")
    sign(cluster, "kubernetes/csr-kubelet-client", "system:node:j-1")
    sign(cluster, "kubernetes/csr-person", "alice@example.com")
    sign(cluster, "kubernetes/csr-person-1", "carol@example.com")
    revoked = sign(cluster, "kubernetes/csr-person-1", "bob@example.com")
    body = {"serial_number": revoked}
    assert cluster.server.api("POST", f"{cluster.prefix}/kubernetes/revoke", body).status == 200
    switched(rotation)
    found = waiting(rotation.advance())
    # The certificate for ten minutes has expired meanwhile, and the revoked one lets nobody in.
    assert set(found) == {"j-1", "j-2", "alice@example.com", "carol@example.com"}
    assert "renews before 20" in found["j-1"] and "--without j-1" in found["j-1"]
    assert "a new request in that name replaces it" in found["alice@example.com"]
    shown = next(each for each in rotation.status() if each.domain == "kubernetes")
    assert shown.gate is not None and {each.node for each in shown.gate.waiting} == set(found)

    # One certificate of the new CA replaces all in that name.
    sign(cluster, "kubernetes/csr-kubelet-client", "system:node:j-1")
    sign(cluster, "kubernetes/csr-person", "alice@example.com")
    assert set(waiting(rotation.advance())) == {"j-2", "carol@example.com"}
    with pytest.raises(ArgumentError, match="takes no part"):
        rotation.advance(without=("x-2",))
    left = rotation.advance(without=("j-2",))
    assert set(waiting(left)) == {"carol@example.com"}
    assert left.gate is not None and [each.node for each in left.gate.excused] == ["j-2"]
    # It opens by itself once the last one has expired.
    rotation.later(86400)
    assert rotation.moved() is State.RETIRED


def test_the_ca_of_servers(clusters: ClusterFactory) -> None:
    rotation = begun(clusters, "kubelet")
    cluster = rotation.cluster
    sign(cluster, "kubelet/csr-kubelet-serving", "system:node:j-1")
    switched(rotation)
    assert set(waiting(rotation.advance())) == {"j-1"}
    sign(cluster, "kubelet/csr-kubelet-serving", "system:node:j-1")
    assert rotation.moved() is State.RETIRED


def test_on_the_way_back_the_new_ca_waits_for_its_certificates(clusters: ClusterFactory) -> None:
    rotation = begun(clusters, "kubernetes")
    switched(rotation)
    cluster = rotation.cluster
    sign(cluster, "kubernetes/csr-kubelet-client", "system:node:j-1")
    assert rotation.abort().record.state is State.RETURNING
    rotation.reported()
    assert set(waiting(rotation.abort())) == {"j-1"}
    rotation.later(86400)
    assert rotation.abort().record.state is State.STEADY


@pytest.mark.conformance
def test_the_root_names_them_before_it_is_changed(clusters: ClusterFactory) -> None:
    with RootRotation.standing(clusters) as rotation:
        cluster = rotation.cluster
        cluster.write(JOINED.replace(SPEC, ROOT_SPEC))
        cluster.apply()
        for name in ("system:node:j-1", "system:node:j-2"):
            sign(cluster, "kubernetes/csr-kubelet-client", name)
        rotation.reach(State.PUBLISHED)
        while True:
            rotation.passes()
            rotation.now += timedelta(seconds=400)
            found = waiting(rotation.advance())
            if set(found) <= {"pods", "j-1", "j-2"}:
                break
        assert "has no agent, and trusts the root that it joined with" in found["j-1"]
        # The clock of tests is ahead of the server's, so that no certificate of now was signed since.
        with pytest.raises(StateConflict, match=r"j-1 got its newest certificate at .*, before root was published"):
            rotation.advance("j-1/kubelet")
        with pytest.raises(ArgumentError, match="x-1 takes no part"):
            rotation.advance("x-1/kubelet")
        rotation.moved(State.SWITCHED, without=("j-1", "j-2"))
