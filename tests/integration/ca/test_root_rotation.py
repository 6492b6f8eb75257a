"""The rotation of the root on a real server, with real passes of the agents of its nodes."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import pytest

from helpers.node.root_rotation import RootRotation, everybody_verifies, renew
from helpers.vault.cluster_factory import ClusterFactory
from helpers.vault.plan_commands import AuditedCluster
from vaultpki.ca import commands
from vaultpki.ca.root import correct_pin
from vaultpki.ca.scene import read_scene
from vaultpki.errors import ChangedMeanwhile, StateConflict
from vaultpki.identity.change_notice import ChangeNotice
from vaultpki.kube.objects import KubeTrust, PodStart, RootCopy
from vaultpki.pki import x509
from vaultpki.records.rotation import CaRef, Method, RotationRecord, State
from vaultpki.vault import Vault
from vaultpki.vault.kv import Stored

CAS = ("kubernetes", "kubelet", "etcd", "front-proxy")


@pytest.fixture
def rotation(clusters: ClusterFactory) -> Iterator[RootRotation]:
    with RootRotation.standing(clusters) as made:
        yield made


def test_a_whole_rotation(rotation: RootRotation, tmp_path: Path) -> None:
    cluster = rotation.cluster
    (first,) = rotation.certificates().values()
    leaves = {name: chain[0] for name, chain in rotation.chains()}
    record = rotation.begin()
    assert record.state is State.PREPARED and set(rotation.certificates()) == {"root-1"}
    assert rotation.keys() == {"root-1", "root-2"}
    with pytest.raises(StateConflict, match="one is rotated at a time"):
        commands.rotate(cluster.model, rotation.vault, "etcd", Method.NEW_KEY, 60, rotation.now)

    rotation.moved(State.PUBLISHED)
    shown = rotation.certificates()
    assert set(shown) == {"root-1", "root-2", "root-2-by-root-1"} and rotation.default("root") == "root-1"
    second, cross = shown["root-2"], shown["root-2-by-root-1"]
    assert second.subject.common_name == f"{cluster.name} root CA 2" and x509.signed_by(second, second)
    assert x509.signed_by(cross, first) and cross.public_key == second.public_key and cross.path_length == 1
    assert cross.not_after <= first.not_after and (first.not_after - cross.not_after).total_seconds() < 600
    rotation.settled()
    rotation.passes()
    for node in rotation.nodes.values():
        assert rotation.roots(node) == {first.fingerprint, second.fingerprint}
    everybody_verifies(rotation, tmp_path, first)
    a_second_operator_has_it_signed_too(rotation)

    rotation.moved(State.SWITCHED)
    assert {ca: rotation.default(ca) for ca in CAS} == {ca: f"{ca}-1r2" for ca in CAS}
    assert rotation.default("root") == "root-2"
    rotation.settled()
    # Some serve the certificate of before.
    everybody_verifies(rotation, tmp_path, first)
    rotation.passes()
    for _, chain in rotation.chains():
        # GnuTLS looks for the end of the chain by the last one.
        assert chain[2] == cross and x509.signed_by(chain[1], second) and x509.signed_by(chain[3], first)
        assert len(chain) == 4 and chain[3].public_key == chain[1].public_key
    everybody_verifies(rotation, tmp_path, first, second)

    rotation.moved(State.RETIRED)
    everybody_verifies(rotation, tmp_path, second)
    rotation.passes()
    for node in rotation.nodes.values():
        assert rotation.roots(node) == {second.fingerprint}
    assert all(len(chain) == 2 for _, chain in rotation.chains())
    everybody_verifies(rotation, tmp_path, second)

    step = rotation.moved(State.DONE)
    assert step.gate is None
    assert set(rotation.certificates()) == {"root-2", "root-2-by-root-1"} and rotation.keys() == {"root-2"}
    for ca in CAS:
        listed = cluster.server.api("LIST", f"{cluster.prefix}/{ca}/issuers").data["key_info"].values()
        assert [each["issuer_name"] for each in listed] == [f"{ca}-1r2"]
    assert cluster.root_sha256 == second.fingerprint
    rotation.settled()
    for node in rotation.nodes.values():
        assert f"root_sha256: {first.fingerprint}" in node.config.read_text()
    rotation.passes()
    # Each is restarted for the files that it reads, and once for both certificates of its CA.
    assert sorted(rotation.restarts.read_text().splitlines()) == ["cp-1 etcd-ca", *["cp-1 kubernetes-ca"] * 2]
    assert {name: chain[0] for name, chain in rotation.chains()} == leaves
    assert all(rotation.roots(node) == {second.fingerprint} for node in rotation.nodes.values())
    # Leaves are signed as ever, and a CA is rotated below the new root.
    node = rotation.nodes["worker-1"]
    node.configure("version: 1", "version: 1\n")
    renew(node, "kubelet")
    rotation.now = max(rotation.now, rotation.record.since)
    begun = commands.rotate(cluster.model, rotation.vault, "etcd", Method.NEW_KEY, 60, rotation.now).record
    assert begun.new is not None and begun.new.name == "etcd-2"
    assert commands.advance(cluster.model, rotation.vault, rotation.now).record.state is State.PUBLISHED


def a_second_operator_has_it_signed_too(rotation: RootRotation) -> None:
    """Two at once may both have the old root sign the new one, and only one gives its cross certificate the name."""
    record, api, mount = rotation.record, rotation.cluster.server.api, f"{rotation.cluster.prefix}/root"
    assert record.new is not None
    name = {"common_name": f"{rotation.cluster.name} root CA 2", "exclude_cn_from_sans": True}
    csr = api("POST", f"{mount}/intermediate/cross-sign", {"key_ref": record.new.key, **name}).data["csr"]
    body = {"csr": csr, "ttl": "8760h", "max_path_length": 1, "use_csr_values": False, **name}
    pem = api("POST", f"{mount}/issuer/{record.old.issuer}/sign-intermediate", body).data["certificate"]
    imported = api("POST", f"{mount}/issuers/import/cert", {"pem_bundle": pem}).data["imported_issuers"]
    assert len(imported) == 1 and len(api("LIST", f"{mount}/issuers").data["keys"]) == 4


@pytest.mark.conformance
def test_the_way_back(rotation: RootRotation, tmp_path: Path) -> None:
    (first,) = rotation.certificates().values()
    issuing = {ca: rotation.default(ca) for ca in CAS}
    rotation.reach(State.PUBLISHED, State.SWITCHED, State.RETIRED)
    rotation.passes()
    for wanted in (State.RETRUSTING, State.RETURNING, State.STEADY):
        rotation.moved(wanted, back=True)
        rotation.settled()
        everybody_verifies(rotation, tmp_path)
        rotation.passes()
        everybody_verifies(rotation, tmp_path)
    assert set(rotation.certificates()) == {"root-1"} and rotation.keys() == {"root-1"}
    assert {ca: rotation.default(ca) for ca in CAS} == issuing
    rotation.passes()
    assert all(rotation.roots(node) == {first.fingerprint} for node in rotation.nodes.values())
    everybody_verifies(rotation, tmp_path, first)
    # The number is not used again.
    begun = rotation.begin()
    assert begun.new is not None and begun.new.name == "root-3"


@pytest.mark.on_node
def test_the_way_back_restarts_nothing_at_its_end_and_the_next_rotation_does(rotation: RootRotation) -> None:
    """Members of etcd would restart all at once: the record gives no turns any more."""
    runs = rotation.restarts
    rotation.reach(State.PUBLISHED)
    rotation.passes()
    # The turn is given, and nobody says that the pods were restarted.
    assert not rotation.advance().moved
    rotation.passes()
    before = runs.read_text()
    # Only the controller manager reads the roots.
    assert "cp-1 kubernetes-ca" in before and "cp-1 etcd-ca" not in before
    rotation.moved(State.STEADY, back=True)
    for _ in range(2):
        rotation.passes()
    assert runs.read_text() == before
    reports = {name: rotation.report(name) for name in rotation.nodes}
    assert {name: (told.owed, told.waiting) for name, told in reports.items()} == dict.fromkeys(reports, ((), ()))
    # Agents may see the end of the one and the beginning of the next at once.
    rotation.begin()
    rotation.moved(State.PUBLISHED)
    pods_and_kubeconfigs_outside_hold_it_up(rotation)
    assert "cp-1 kubernetes-ca" in runs.read_text()[len(before) :]


def pods_and_kubeconfigs_outside_hold_it_up(rotation: RootRotation) -> None:
    """Until it is switched; from there a person says too that the way back is clear."""
    record, shown = rotation.record, rotation.certificates()
    assert record.new is not None
    first, second = shown[record.old.name], shown[record.new.name]
    for _ in range(4):
        rotation.passes()
        rotation.advance()
    old = RootCopy("default", first.pem, rotation.now)
    rotation.pods = KubeTrust(("default",), (old,), ())
    rotation.now += rotation.minutes(7)
    step = rotation.advance()
    assert step.gate is not None and [each.node for each in step.gate.waiting] == ["kube-root-ca.crt"]
    both = replace(old, pem=first.pem + second.pem)
    pod = PodStart("default", "web", rotation.now.replace(year=2020), rotation.now.replace(year=2020))
    rotation.pods = KubeTrust(("default",), (both,), (pod,))
    step = rotation.advance()
    assert step.gate is not None and "default/web" in step.gate.waiting[0].reason
    rotation.pods = KubeTrust(("default",), (both,), ())
    assert rotation.advance().record.state is State.SWITCHED
    with pytest.raises(StateConflict, match="outside"):
        rotation.abort("outside")


class Overtaken(ChangeNotice):
    """The notice of a command that another one overtakes between its look at the cluster's record and its write."""

    def __init__(self, cluster: AuditedCluster, vault: Vault) -> None:
        super().__init__(cluster.model, vault)
        self._path, self._api = f"{cluster.prefix}/config/data/cluster", cluster.server.api

    def begin(self) -> None:
        super().begin()
        value = self._api("GET", self._path).data["data"]
        assert self._api("POST", self._path, {"data": value}).status == 200


def test_who_writes_the_new_pin_too_late_is_told_that_somebody_else_was_faster(clusters: ClusterFactory) -> None:
    cluster = clusters.applied()
    vault, pin, now = cluster.client(), cluster.root_sha256, datetime.now(UTC)
    done = RotationRecord("root", State.DONE, 7, now, CaRef("root-1", sha256=pin), CaRef("root-2", sha256="4f" * 32))
    seen = read_scene(cluster.model, vault, now, notice=Overtaken(cluster, vault))
    seen = replace(seen, records={**seen.records, "root": Stored(done, 1)})
    told = f"another operator has changed the record of the cluster {cluster.name} meanwhile"
    with pytest.raises(ChangedMeanwhile, match=told):
        correct_pin(seen)
    assert cluster.root_sha256 == pin
    assert correct_pin(replace(seen, notice=ChangeNotice(cluster.model, vault)))
    assert cluster.root_sha256 == "4f" * 32
