"""What is changed in cluster.yaml and on the server reaches the node of a resident agent in time."""

from __future__ import annotations

import time
from datetime import timedelta

import pytest

from helpers.node.resident_agent import (
    AT_ONCE,
    PASS,
    POLL,
    Watcher,
    leaf,
    leaves,
    polling_node,
    resident,
    short_and_long,
    signs,
)
from helpers.vault.applied_cluster import AppliedCluster, NodeFolder
from helpers.vault.cluster_factory import ClusterFactory
from helpers.vault.handmade_rotation import Rotation, delete
from helpers.vault.servers import Server, wait_for
from vaultpki.node import state
from vaultpki.pki import x509
from vaultpki.records.rotation import State

FURTHER = """\
certificates:
  kubelet: {extra_names: [kubelet.example.com]}
  monitoring: {kind: client, common_name: monitoring, ca: kubernetes, roles: [worker]}
"""
BY_THE_NEXT_POLL = POLL + PASS


def change(cluster: AppliedCluster, text: str) -> None:
    cluster.write(text)
    cluster.apply()


def test_what_is_applied_is_on_the_node_in_time(server: Server, clusters: ClusterFactory) -> None:
    """A new name, a new row and a shorter TTL come within the poll interval; so does the end of the first two."""
    cluster = clusters.applied(short_and_long("30d"))
    node = polling_node(cluster)
    with resident(node) as agent:
        agent.await_issued()
        before = leaves(node)
        since = server.audit_position()
        change(cluster, short_and_long("30d") + FURTHER)
        changed_at = time.time()
        # Vault sorts them.
        names = {"worker-1", "kubelet.example.com"}
        wait_for(lambda: set(leaf(node, "kubelet").subject.dns) == names, BY_THE_NEXT_POLL, str)
        wait_for((node.pki / "monitoring.crt").exists, 2, lambda: "the new row did not come")
        assert leaf(node, "monitoring").subject.common_name == "monitoring"
        assert leaf(node, "kubelet-client") == before["kubelet-client"]
        assert time.time() - changed_at < BY_THE_NEXT_POLL

        change(cluster, short_and_long("20d", "kubelet-client"))

        def shorter() -> bool:
            found = leaf(node, "kubelet-client")
            return found.not_after - found.not_before < timedelta(days=21)

        wait_for(shorter, BY_THE_NEXT_POLL, lambda: "the shorter TTL did not come")
        left = lambda: "monitoring.crt" in state.load(str(node.state)).surplus  # noqa: E731
        wait_for(left, 2, lambda: "the row that went is not said to be surplus")
        assert leaf(node, "monitoring").subject.common_name == "monitoring"
        wait_for(lambda: leaf(node, "kubelet").subject.dns == ("worker-1",), 2, lambda: "the name that went is there")
        assert agent.end() < AT_ONCE
    asked = signs(server, cluster.prefix, since)
    assert sorted(asked) == ["kubelet", "kubelet", "kubelet-client", "monitoring"], asked
    assert [event for event in agent.events() if event["level"] != "info"] == [], agent.log.read_text()


@pytest.mark.on_node
def test_a_role_that_grants_less_than_asked_is_reported_once(server: Server, clusters: ClusterFactory) -> None:
    """Each certificate of the shorter life is renewed in time, and no more is signed than that needs."""
    cluster = clusters.applied(short_and_long("60s", "kube-proxy"))
    node = polling_node(cluster)
    role = f"{cluster.prefix}/kubernetes/roles/kube-proxy"
    with resident(node) as agent:
        agent.await_issued()
        # Somebody changes by hand what the role grants; apply would put it right.
        now = cluster.read(role)
        assert now["ttl"] == 60, now
        assert server.api("POST", role, {**now, "ttl": 30, "max_ttl": 30}).status in (200, 204)
        since, began = server.audit_position(), time.time()
        # Three lives, of which the first may be held back for half of what is left.
        agent.await_said("renewed kube-proxy", 80, 3)
        assert agent.end() < AT_ONCE
    asked = signs(server, cluster.prefix, since)
    assert set(asked) == {"kube-proxy"} and 3 <= len(asked) <= (time.time() - began + 60) / 15, asked
    short = agent.said("granted only")
    assert len(short) == 1 and "kube-proxy" in short[0]["message"] and short[0]["granted"] <= 30, short
    # What would end sooner than the one in use is not installed, and that is reported once, with the date.
    wrong = [event["event"] for event in agent.events() if event["level"] != "info"]
    assert wrong in ([], ["failed", "deadline"]), agent.log.read_text()


def bundle(node: NodeFolder, name: str = "kubernetes-ca.crt") -> list[str]:
    return [facts.fingerprint for facts in x509.read_certificates((node.pki / name).read_bytes())]


def issuer(node: NodeFolder, stem: str) -> str:
    return x509.read_certificates((node.pki / f"{stem}.crt").read_bytes())[1].fingerprint


class IssuerWatcher(Watcher):
    """Looks besides for leaves whose issuer is not in the bundle."""

    def look(self) -> None:
        # A leaf is read before the bundle, so a bundle that came in time holds its issuer.
        issuers = {stem: issuer(self.node, stem) for stem in ("kube-proxy", "kubelet-client")}
        known = bundle(self.node)
        self.problems.extend(f"{stem}: unknown issuer" for stem, each in issuers.items() if each not in known)
        Watcher.look(self)


def test_a_rotation_brings_trust_before_leaves_and_takes_it_after_them(
    server: Server, clusters: ClusterFactory
) -> None:
    """The bundles hold both, and the old one goes last; tests/unit/pki holds their order, which dates decide."""
    cluster = clusters.applied(short_and_long("30s", "kube-proxy"))
    node = polling_node(cluster)
    with resident(node) as agent:
        agent.await_issued()
        (old,) = bundle(node)
        before = leaf(node, "kubelet-client")
        with IssuerWatcher(node).watching() as watched:
            rotation = Rotation.of(cluster, "kubernetes")
            new = rotation.new.sha256
            wait_for(lambda: set(bundle(node)) == {new, old}, BY_THE_NEXT_POLL, lambda: f"{new}: {bundle(node)}")
            chain = bundle(node, "kubernetes-ca-chain.crt")
            assert set(chain[:2]) == {new, old} and len(chain) == 3
            assert leaf(node, "kubelet-client") == before
            since = server.audit_position()
            rotation.move(State.SWITCHED)
            wait_for(
                lambda: issuer(node, "kubelet-client") == new, BY_THE_NEXT_POLL, lambda: "a leaf of the old CA is left"
            )
            # A CA that is only missing on the server stays trusted.
            delete(cluster, "kubernetes", rotation.old)
            fetched = (node.state / "spec.json").read_bytes()
            wait_for(lambda: (node.state / "spec.json").read_bytes() != fetched, BY_THE_NEXT_POLL, lambda: "no pass")
            assert set(bundle(node)) == {new, old}
            rotation.move(State.RETIRED)
            wait_for(lambda: bundle(node) == [new], BY_THE_NEXT_POLL, lambda: str(bundle(node)))
            assert issuer(node, "kube-proxy") == new
        assert watched.looks > 50
        assert signs(server, cluster.prefix, since).count("kubelet-client") == 1
        assert agent.end() < AT_ONCE
