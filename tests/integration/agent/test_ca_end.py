"""A CA whose end nobody prevents: leaves live until it, nobody is asked again and again, and a new CA heals all."""

from __future__ import annotations

import json
import time
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from helpers.node import resident_agent
from helpers.node.resident_agent import PASS, POLL, leaf, leaves, polling_node, resident, signs
from helpers.vault.applied_cluster import AppliedCluster, NodeFolder, vaultpki
from helpers.vault.cluster_factory import ClusterFactory
from helpers.vault.servers import Server, wait_for
from vaultpki.pki import x509
from vaultpki.pki.facts import Facts

HELD = {"kubelet": ("kubelet",), "kubernetes": ("kubelet-client", "kube-proxy")}
"""The CAs of a worker's certificates, and these."""


def new_ca(cluster: AppliedCluster, ca: str, number: int, seconds: int, behaviour: str = "truncate") -> Facts:
    """A CA that an operator makes by hand, the default of its mount from now on."""
    api, mount = cluster.server.api, f"{cluster.prefix}/{ca}"
    name = {"common_name": f"{cluster.name} {ca} CA {number}"}
    csr = api("POST", f"{mount}/intermediate/generate/internal", {**name, "key_type": "ec", "key_bits": 256}).data[
        "csr"
    ]
    body = {**name, "csr": csr, "ttl": f"{seconds}s", "max_path_length": 0, "not_before_duration": "10m"}
    pem = api("POST", f"{cluster.prefix}/root/root/sign-intermediate", body).data["certificate"]
    (issuer,) = api("POST", f"{mount}/intermediate/set-signed", {"certificate": pem}).data["imported_issuers"]
    fields = {"leaf_not_after_behavior": behaviour, "issuer_name": f"{ca}-{number}"}
    assert api("POST", f"{mount}/issuer/{issuer}", fields).status == 200
    assert api("POST", f"{mount}/config/issuers", {"default": issuer}).status == 200
    return x509.read_certificates(pem.encode())[0]


def signing(cluster: AppliedCluster, ca: str) -> Facts:
    """The CA that signs on a mount."""
    return x509.read_certificates(cluster.read(f"{cluster.prefix}/{ca}/issuer/default")["certificate"].encode())[0]


def remove_first(cluster: AppliedCluster, ca: str) -> None:
    assert cluster.server.api("DELETE", f"{cluster.prefix}/{ca}/issuer/{ca}-1").status in (200, 204)


def until(when: datetime) -> None:
    time.sleep(max((when - datetime.now(UTC)).total_seconds(), 0) + 0.5)


def status(node: NodeFolder, *, expect: int) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(vaultpki("status", "-c", node.config, "--json", expect=expect).stdout)
    return found


def levels(found: dict[str, Any]) -> dict[str, str | None]:
    return {one["domain"]: one["level"] for one in found["cas"]}


def reasons(found: dict[str, Any], name: str) -> list[str]:
    (one,) = (one for one in found["certificates"] if one["name"] == name)
    return list(one["reasons"])


def test_a_leaf_ends_with_its_ca_and_is_not_renewed_in_vain(server: Server, clusters: ClusterFactory) -> None:
    cluster = clusters.applied()
    old = new_ca(cluster, "kubelet", 2, 25)
    remove_first(cluster, "kubelet")
    node = cluster.equip("worker-1")
    said = node.run().stdout
    first = leaf(node, "kubelet")
    assert first.not_after == old.not_after and "when its CA expires; run `vaultpki ca rotate kubelet`" in said
    assert leaf(node, "kubelet-client").not_after > datetime.now(UTC) + timedelta(days=29)
    found = status(node, expect=3)
    assert levels(found) == {"root": "none", "kubernetes": "none", "kubelet": "critical"} | dict.fromkeys(
        ("etcd", "front-proxy")
    )
    assert reasons(found, "kubelet") == ["ends-with-ca"] and found["agent"]["state"] == "ok"
    people = vaultpki("status", "-c", node.config, expect=3).stdout
    assert "! kubelet CA: it expires on " in people and "run `vaultpki ca rotate kubelet`" in people

    # Far beyond two thirds of its life there is nothing to renew.
    since = server.audit_position()
    until(old.not_after - timedelta(seconds=5))
    node.age()
    node.run()
    assert leaf(node, "kubelet") == first and signs(server, cluster.prefix, since) == []
    until(old.not_after)
    ran = node.run(expect=1)
    assert "kubelet: no issuing CA of kubelet is in date (it expired on " in ran.stderr
    assert signs(server, cluster.prefix, since) == [] and leaf(node, "kubelet") == first
    found = status(node, expect=3)
    assert levels(found)["kubelet"] == "expired" and "expired" in reasons(found, "kubelet")

    new = new_ca(cluster, "kubelet", 3, 86400 * 365)
    node.run()
    assert signs(server, cluster.prefix, since) == ["kubelet"]
    assert x509.issuer_of(leaf(node, "kubelet"), [new]) == new
    found = status(node, expect=0)
    assert levels(found)["kubelet"] == "none" and found["ok"]


@pytest.mark.conformance
def test_an_emergency_after_the_end_needs_no_other_node(clusters: ClusterFactory) -> None:
    """As the page on a CA's end says: the outage is there, so the way that waits for nobody costs nothing."""
    short = "ca: {issuing_ttl: 60s}\ncertificates: {super-admin: {ttl: 30s}}\n"
    cluster = clusters.applied(resident_agent.SPEC + short)
    node = cluster.equip("worker-1")
    node.run()
    until(signing(cluster, "kubelet").not_after)
    node.age()
    node.run(expect=1)
    # With the CAs of a minute, a cluster would always be near an end.
    cluster.write(resident_agent.SPEC)
    command = ("ca", "rotate", "kubelet", "-f", cluster.file, "--emergency", "--yes")
    vaultpki(*command, env=cluster.environment(), expect={0, 3})
    node.run(expect=1)
    new = signing(cluster, "kubelet")
    assert new.subject.common_name.endswith("kubelet CA 2") and new.not_after > datetime.now(UTC) + timedelta(
        minutes=30
    )
    assert x509.issuer_of(leaf(node, "kubelet"), [new]) == new
    assert new.pem == (node.pki / "kubelet-ca.crt").read_text()


def test_a_new_ca_before_the_end_is_taken_in_time(server: Server, clusters: ClusterFactory) -> None:
    cluster = clusters.applied()
    new_ca(cluster, "kubelet", 2, 60)
    remove_first(cluster, "kubelet")
    node = cluster.equip("worker-1")
    node.run()
    new = new_ca(cluster, "kubelet", 3, 86400 * 365)
    node.age()
    since = server.audit_position()
    node.run()
    found = status(node, expect=0)
    # It has another half minute, and is renewed when that of any other would be.
    assert signs(server, cluster.prefix, since) == [] and reasons(found, "kubelet") == []
    (due,) = (one["renew_after"] for one in found["certificates"] if one["name"] == "kubelet")
    until(datetime.fromisoformat(due) + timedelta(seconds=1))
    node.run()
    assert x509.issuer_of(leaf(node, "kubelet"), [new]) == new


@pytest.mark.parametrize(
    "behaviour",
    [
        pytest.param("truncate", marks=pytest.mark.conformance),
        pytest.param("err", marks=pytest.mark.exhaustive),
    ],
)
def test_a_cluster_that_nobody_looks_after(server: Server, clusters: ClusterFactory, behaviour: str) -> None:
    """Every CA of a node ends. With `err`, as release 0.1.0 made them, leaves end before; still there is no storm."""
    life = 120
    short = f"ca: {{issuing_ttl: {life}s, root_ttl: 1h}}\ncertificates: {{super-admin: {{ttl: 30s}}}}\n"
    cluster = clusters.applied(resident_agent.SPEC + short)
    old = {}
    for ca in HELD:
        path = f"{cluster.prefix}/{ca}/issuer/{ca}-1"
        about = cluster.read(path)
        assert about["leaf_not_after_behavior"] == "truncate"
        fields = {"leaf_not_after_behavior": behaviour, "issuer_name": f"{ca}-1", "usage": about["usage"]}
        assert server.api("POST", path, fields).status == 200
        old[ca] = signing(cluster, ca)
    node = polling_node(cluster)
    end = min(facts.not_after for facts in old.values())
    began = server.audit_position()
    with resident(node) as agent:
        agent.await_issued()
        if behaviour == "truncate":
            while datetime.now(UTC) < end - timedelta(seconds=6):
                assert all(found.not_after > datetime.now(UTC) for found in leaves(node).values())
                time.sleep(1)
            assert {found.not_after for found in leaves(node).values()} == {facts.not_after for facts in old.values()}
            assert set(agent.status(expect=3)["agent"]["faults"]) == set()
        until(max(facts.not_after for facts in old.values()))
        asked = signs(server, cluster.prefix, began)
        # Each 30 s leaf is renewed after 15 to 20 s; refusals come at most once in a pass.
        most = life // 15 + 2 if behaviour == "truncate" else life // 4
        assert max(map(asked.count, set(asked))) <= most, asked
        agent.await_said("is in date", POLL + PASS)
        after = server.audit_position()
        time.sleep(4 * POLL)
        assert signs(server, cluster.prefix, after) == []
        logins = [path for _, path in server.requests(after) if path.endswith("/login")]
        assert len(logins) <= 4 * POLL // (POLL // 2) + 1
        found = agent.status(expect=3)
        assert {levels(found)[ca] for ca in HELD} == {"expired"}
        # Of each certificate when it fails, and again if it expires only after that.
        assert len(agent.said("is in date")) <= 2 * 3
        new = [new_ca(cluster, ca, 3, 86400 * 365) for ca in HELD]
        wait_for(
            lambda: all(x509.issuer_of(found, new) for found in leaves(node).values()), POLL + PASS, agent.log.read_text
        )
        agent.await_said("well again", POLL + PASS)
        # The CAs came one after the other, and so may the passes that took them.
        wait_for(lambda: agent.status(expect={0, 3})["ok"], POLL + PASS, agent.log.read_text, pause=1)
