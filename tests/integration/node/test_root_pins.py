"""Which roots a node trusts while the root is rotated: by an old pin, after it was away, under a server that lies."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from helpers.node.root_rotation import WORKER_HOOKS, RootRotation
from helpers.vault.applied_cluster import NodeFolder, vaultpki
from helpers.vault.cluster_factory import ClusterFactory
from vaultpki.errors import CertificateRefused, StoreError
from vaultpki.node import pins
from vaultpki.pki import x509
from vaultpki.pki.facts import Facts
from vaultpki.records import rotation as rotation_record
from vaultpki.records.rotation import CaRef, RotationRecord, State


@pytest.fixture
def rotation(clusters: ClusterFactory) -> Iterator[RootRotation]:
    with RootRotation.standing(clusters) as made:
        yield made


def joined(rotation: RootRotation, name: str, pin: str) -> NodeFolder:
    """A machine of an image that has this pin, and its first pass."""
    node = rotation.cluster.equip(name, pool="autoscaled", further=WORKER_HOOKS)
    text = node.config.read_text()
    node.config.write_text(text.replace(rotation.cluster.root_sha256, pin))
    rotation.pass_of(node)
    return node


@pytest.mark.conformance
def test_an_image_with_the_old_pin_joins_until_the_old_root_is_gone(rotation: RootRotation, tmp_path: Path) -> None:
    cluster = rotation.cluster
    first = rotation.certificates()["root-1"].fingerprint
    rotation.begin()
    expected: dict[State, set[str]] = {}
    for number, state in enumerate((State.PREPARED, State.PUBLISHED, State.SWITCHED, State.RETIRED)):
        if state is not State.PREPARED:
            rotation.moved(state)
        second = rotation.record.new.sha256 if rotation.record.new is not None else ""
        expected[state] = {State.PREPARED: {first}, State.RETIRED: {second}}.get(state, {first, second})
        # What a person writes into the image is what the join files have.
        file = tmp_path / f"{number}.json"
        vaultpki(
            *("enroll", "-f", cluster.file, f"w-9{number}", "--pool", "autoscaled", "-o", file),
            env=cluster.environment(),
        )
        assert json.loads(file.read_text())["root_sha256"] == first, state
        vaultpki("unenroll", "-f", cluster.file, f"w-9{number}", env=cluster.environment())
        node = joined(rotation, f"w-{number}", first)
        rotation.nodes[node.name] = node
        assert rotation.roots(node) == expected[state], state
        assert set(rotation.report(node.name).pins) == expected[state]
    rotation.moved(State.DONE)
    with pytest.raises(CertificateRefused, match="not the pinned"):
        joined(rotation, "w-7", first)
    file = tmp_path / "after.json"
    vaultpki("enroll", "-f", cluster.file, "w-8", "--pool", "autoscaled", "-o", file, env=cluster.environment())
    assert json.loads(file.read_text())["root_sha256"] == rotation.certificates()["root-2"].fingerprint
    node = NodeFolder("w-8", tmp_path / "w-8")
    vaultpki("join", "-c", node.config, file, "--dir", node.pki)
    assert rotation.roots(node) == {rotation.certificates()["root-2"].fingerprint}


def test_a_node_that_was_away_learns_the_new_root_by_the_cross_certificate(rotation: RootRotation) -> None:
    away = rotation.nodes.pop("worker-1")
    first = rotation.certificates()["root-1"].fingerprint
    rotation.begin()
    for state in (State.PUBLISHED, State.SWITCHED, State.RETIRED, State.DONE):
        rotation.moved(state, without=("worker-1",))
    second = rotation.certificates()["root-2"].fingerprint
    assert rotation.roots(away) == {first}
    assert not rotation.pass_of(away).failures
    assert rotation.roots(away) == {second} and rotation.report(away.name).pins == (second,)
    chains = [x509.read_certificates((away.pki / f"{name}.crt").read_bytes()) for name in ("kubelet", "kubelet-client")]
    shown = {ca: rotation.default(ca) for ca in ("kubelet", "kubernetes")}
    assert shown == {"kubelet": "kubelet-1r2", "kubernetes": "kubernetes-1r2"}
    assert all(len(chain) == 2 and chain[1].issuer_text.endswith("root CA 2") for chain in chains)

    # An agent.yaml that says the old root, or the new one, is of the same node.
    assert f"root_sha256: {first}" in away.config.read_text()
    away.configure(first, second)
    assert not rotation.pass_of(away).failures
    away.configure(second, first)
    assert not rotation.pass_of(away).failures
    assert rotation.roots(away) == {second}
    # Without what it has learnt it is a machine with the old pin: its files stay as they are.
    before = rotation.roots(away)
    (away.state / pins.PINS_FILE).unlink()
    (away.state / "spec.json").unlink()
    with pytest.raises((CertificateRefused, StoreError)):
        rotation.pass_of(away)
    assert rotation.roots(away) == before
    away.configure(first, second)
    assert not rotation.pass_of(away).failures


def written(rotation: RootRotation, record: RotationRecord) -> None:
    path = f"{rotation.cluster.prefix}/config/data/rotation/root"
    assert rotation.cluster.server.api("POST", path, {"data": rotation_record.to_json(record)}).status == 200


def post(rotation: RootRotation, path: str, body: dict[str, Any]) -> dict[str, Any]:
    answer = rotation.cluster.server.api("POST", path, body)
    assert answer.status == 200, answer
    return answer.data


def test_a_server_that_lies_brings_in_no_root(rotation: RootRotation) -> None:
    cluster, node = rotation.cluster, rotation.nodes["worker-1"]
    mount = f"{cluster.prefix}/root"
    (first,) = rotation.certificates().values()
    name = f"{cluster.name} root CA 2"
    made = post(
        rotation, f"{mount}/root/rotate/internal", {"common_name": name, "issuer_name": "root-2", "ttl": "8760h"}
    )
    second = x509.read_certificates(made["certificate"].encode())[0]
    old = CaRef("root-1", sha256=first.fingerprint)
    record = RotationRecord("root", State.PUBLISHED, 1, rotation.now.replace(microsecond=0), old)
    states = (State.PUBLISHED, State.SWITCHED, State.RETIRED, State.DONE)
    records = [
        RotationRecord("root", state, revision, record.since, old, CaRef("root-2", sha256=second.fingerprint))
        for revision, state in enumerate(states, 1)
    ]

    def refused() -> None:
        for each in records:
            written(rotation, each)
            rotation.pass_of(node)
            assert rotation.roots(node) == {first.fingerprint}
            assert rotation.report(node.name).pins == (first.fingerprint,)
        records[:] = [
            RotationRecord("root", each.state, each.revision + len(states), each.since, old, each.new)
            for each in records
        ]

    refused()
    # One for the same name and key, of a root that nobody is pinned to.
    stranger = f"{cluster.prefix}-stranger"
    assert cluster.server.api("POST", f"sys/mounts/{stranger}", {"type": "pki"}).status in (200, 204)
    post(rotation, f"{stranger}/root/generate/internal", {"common_name": f"{cluster.name} root CA", "ttl": "700h"})
    csr = post(rotation, f"{mount}/intermediate/cross-sign", {"key_ref": made["key_id"], "common_name": name})["csr"]
    body = {"csr": csr, "common_name": name, "ttl": "500h", "max_path_length": 1}
    cross = post(rotation, f"{stranger}/root/sign-intermediate", body)["certificate"]
    post(rotation, f"{mount}/issuers/import/cert", {"pem_bundle": cross})
    refused()
    # And one of the right root: now it is trusted, which shows that the rest was right.
    cross = post(rotation, f"{mount}/issuer/root-1/sign-intermediate", body)["certificate"]
    post(rotation, f"{mount}/issuers/import/cert", {"pem_bundle": cross})
    written(rotation, records[0])
    rotation.pass_of(node)
    assert rotation.roots(node) == {first.fingerprint, second.fingerprint}


def bundles(folder: Path) -> dict[str, bytes]:
    return {file.name: file.read_bytes() for file in sorted(folder.glob("*-ca*.crt"))}


@pytest.mark.on_node
def test_no_record_takes_away_the_root_that_every_issuing_ca_is_below(rotation: RootRotation, tmp_path: Path) -> None:
    operator = tmp_path / "operator"
    issue = ("issue", "-f", rotation.cluster.file, "admin", "--dir", operator)
    vaultpki(*issue, env=rotation.cluster.environment())
    rotation.reach(State.PUBLISHED)
    rotation.passes()
    node, first = rotation.nodes["cp-1"], rotation.certificates()["root-1"].fingerprint
    before, published = bundles(node.pki), rotation.record
    assert len(before) == 8
    for number, state in enumerate((State.RETIRED, State.DONE), 1):
        written(rotation, replace(published, state=state, revision=published.revision + number))
        for each in rotation.nodes.values():
            assert "does not name" in str(rotation.pass_of(each).failures["root rotation"])
        assert bundles(node.pki) == before
        assert first in rotation.report(node.name).pins
    held = bundles(operator)
    vaultpki(*issue, env=rotation.cluster.environment())
    assert bundles(operator).keys() == held.keys() and first in {
        facts.fingerprint for facts in x509.read_certificates((operator / "etcd-ca-chain.crt").read_bytes())
    }
    written(rotation, replace(published, revision=published.revision + 3))
    assert not rotation.pass_of(node).failures
    assert bundles(node.pki) == before


@pytest.mark.on_node
def test_a_root_that_was_given_up_does_not_return(rotation: RootRotation) -> None:
    cluster, node, mount = rotation.cluster, rotation.nodes["worker-1"], f"{rotation.cluster.prefix}/root"
    rotation.reach(State.PUBLISHED)
    rotation.passes()
    published, made = rotation.record, rotation.certificates()
    first, second, cross = (made[name] for name in ("root-1", "root-2", "root-2-by-root-1"))
    assert rotation.roots(node) == {first.fingerprint, second.fingerprint}
    rotation.moved(State.STEADY, back=True)
    rotation.passes()
    assert rotation.roots(node) == {first.fingerprint} and set(rotation.certificates()) == {"root-1"}
    # Both certificates are public, and whoever may write to the mount brings them back.
    aborted = rotation.record.revision
    for facts in (second, cross):
        post(rotation, f"{mount}/issuers/import/cert", {"pem_bundle": facts.pem})
    # Newer records, and the one of before the abort.
    for state, revision in ((State.PUBLISHED, aborted + 1), (State.SWITCHED, aborted + 2), (State.PUBLISHED, aborted)):
        written(rotation, replace(published, state=state, revision=revision))
        assert "root rotation" in rotation.pass_of(node).failures
        assert rotation.roots(node) == {first.fingerprint}
        assert rotation.report(node.name).pins == (first.fingerprint,)
    # The next rotation has another key.
    for facts in (second, cross):
        (issuer,) = [key for key, each in _issuers(rotation).items() if each == facts]
        assert cluster.server.api("DELETE", f"{mount}/issuer/{issuer}").status in (200, 204)
    written(rotation, replace(published, state=State.STEADY, revision=aborted + 3))
    rotation.reach(State.PUBLISHED)
    rotation.passes()
    third = rotation.certificates()["root-3"]
    assert rotation.roots(node) == {first.fingerprint, third.fingerprint} and third.public_key != second.public_key


def _issuers(rotation: RootRotation) -> dict[str, Facts]:
    """What is on the root's mount, by the ids of issuers."""
    api, mount = rotation.cluster.server.api, f"{rotation.cluster.prefix}/root"
    shown = {
        key: api("GET", f"{mount}/issuer/{key}/json").data["certificate"]
        for key in api("LIST", f"{mount}/issuers").data["keys"]
    }
    return {key: x509.read_certificates(pem.encode())[0] for key, pem in shown.items()}


@pytest.mark.on_node
def test_a_server_that_was_set_back_takes_no_root_away(rotation: RootRotation) -> None:
    node = rotation.nodes["worker-1"]
    first = rotation.certificates()["root-1"].fingerprint
    rotation.reach(State.PUBLISHED)
    published = rotation.record
    for state in (State.SWITCHED, State.RETIRED):
        rotation.moved(state)
    rotation.passes()
    second = rotation.certificates()["root-2"].fingerprint
    assert rotation.roots(node) == {second}
    written(rotation, published)
    chain = x509.read_certificates((node.pki / "kubelet.crt").read_bytes())
    assert "root rotation" in rotation.pass_of(node).failures
    assert rotation.roots(node) == {first, second}
    assert x509.read_certificates((node.pki / "kubelet.crt").read_bytes()) == chain
    assert rotation.report(node.name).seen["root"].behind
