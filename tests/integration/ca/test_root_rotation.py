"""The rotation of the root on a real server, with real passes of the agents of its nodes."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import pytest

from helpers.node.reporting_nodes import shown
from helpers.node.root_rotation import RootRotation, everybody_verifies, renew
from helpers.vault.applied_cluster import vaultpki
from helpers.vault.cluster_factory import ClusterFactory
from helpers.vault.plan_commands import fails
from helpers.vault.root_operator import RootOperator
from vaultpki.ca import commands
from vaultpki.errors import StateConflict
from vaultpki.identity import anchor
from vaultpki.kube.objects import KubeTrust, PodStart, RootCopy
from vaultpki.pki import x509
from vaultpki.records.rotation import Method, State

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


BACK = {
    State.PREPARED: (),
    State.PUBLISHED: (State.PUBLISHED,),
    State.SWITCHED: (State.PUBLISHED, State.SWITCHED),
    State.RETIRED: (State.PUBLISHED, State.SWITCHED, State.RETIRED),
}


# The least and the most that there is to take back; the others are on the way.
ENDS = (State.PREPARED, State.RETIRED)


@pytest.mark.parametrize(
    "state",
    [pytest.param(each, marks=pytest.mark.conformance if each in ENDS else pytest.mark.exhaustive) for each in BACK],
)
def test_the_way_back(rotation: RootRotation, tmp_path: Path, state: State) -> None:
    (first,) = rotation.certificates().values()
    issuing = {ca: rotation.default(ca) for ca in CAS}
    rotation.reach(*BACK[state])
    rotation.passes()
    while rotation.record.state is not State.STEADY:
        here = rotation.record.state
        to = {State.SWITCHED: State.RETURNING, State.RETIRED: State.RETRUSTING, State.RETRUSTING: State.RETURNING}
        rotation.moved(to.get(here, State.STEADY), back=True)
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


@pytest.mark.parametrize("state", [State.PUBLISHED, pytest.param(State.SWITCHED, marks=pytest.mark.conformance)])
def test_the_way_back_restarts_nothing_at_its_end_and_the_next_rotation_does(
    rotation: RootRotation, state: State
) -> None:
    """Members of etcd would restart all at once: the record gives no turns any more."""
    runs = rotation.restarts
    rotation.reach(*BACK[state])
    if state is State.PUBLISHED:
        rotation.passes()
        # The turn is given, and nobody says that the pods were restarted.
        assert not rotation.advance().moved
        rotation.passes()
    before = runs.read_text()
    # Only the controller manager reads the roots.
    assert "cp-1 kubernetes-ca" in before and "cp-1 etcd-ca" not in before
    if state is State.SWITCHED:
        rotation.moved(State.RETURNING, back=True)
        # The next step waits for leaves alone.
        rotation.passes()
        before = runs.read_text()
    rotation.moved(State.STEADY, back=True)
    for _ in range(2):
        rotation.passes()
    assert runs.read_text() == before
    reports = {name: rotation.report(name) for name in rotation.nodes}
    assert {name: (told.owed, told.waiting) for name, told in reports.items()} == dict.fromkeys(reports, ((), ()))
    # Agents may see the end of the one and the beginning of the next at once.
    rotation.begin()
    rotation.moved(State.PUBLISHED)
    rotation.moved(State.SWITCHED)
    assert "cp-1 kubernetes-ca" in runs.read_text()[len(before) :]


@pytest.mark.conformance
def test_from_re_trusting_it_goes_on_too(rotation: RootRotation, tmp_path: Path) -> None:
    rotation.reach(State.PUBLISHED, State.SWITCHED, State.RETIRED)
    rotation.moved(State.RETRUSTING, back=True)
    rotation.passes()
    first = rotation.certificates()["root-1"]
    everybody_verifies(rotation, tmp_path, first)
    rotation.moved(State.SWITCHED)
    rotation.moved(State.RETIRED)
    rotation.moved(State.DONE)


def test_what_a_second_operator_signed_goes(rotation: RootRotation, tmp_path: Path) -> None:
    """Two at once may both have the old root sign the new one, and only one gives its cross certificate the name."""
    rotation.reach(State.PUBLISHED)
    record, api, mount = rotation.record, rotation.cluster.server.api, f"{rotation.cluster.prefix}/root"
    assert record.new is not None
    name = {"common_name": f"{rotation.cluster.name} root CA 2", "exclude_cn_from_sans": True}
    csr = api("POST", f"{mount}/intermediate/cross-sign", {"key_ref": record.new.key, **name}).data["csr"]
    body = {"csr": csr, "ttl": "8760h", "max_path_length": 1, "use_csr_values": False, **name}
    pem = api("POST", f"{mount}/issuer/{record.old.issuer}/sign-intermediate", body).data["certificate"]
    imported = api("POST", f"{mount}/issuers/import/cert", {"pem_bundle": pem}).data["imported_issuers"]
    assert len(imported) == 1 and len(api("LIST", f"{mount}/issuers").data["keys"]) == 4
    for state in (State.SWITCHED, State.RETIRED, State.DONE):
        rotation.moved(state)
        rotation.settled()
        everybody_verifies(rotation, tmp_path)
    assert set(rotation.certificates()) == {"root-2", "root-2-by-root-1"}


def test_pods_and_kubeconfigs_outside_hold_it_up(rotation: RootRotation) -> None:
    first = rotation.certificates()["root-1"]
    rotation.reach(State.PUBLISHED)
    second = rotation.certificates()["root-2"]
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


@pytest.mark.conformance
def test_the_pin_in_cluster_yaml_is_the_old_root_until_it_is_gone(clusters: ClusterFactory, tmp_path: Path) -> None:
    operator = RootOperator.standing(clusters)
    cluster, spec = operator.cluster, operator.cluster.file.read_text()
    first = shown(cluster, "root")["root-1"].fingerprint

    def pinned(sha256: str) -> None:
        cluster.file.write_text(f"{spec}ca: {{root_sha256: {sha256}}}\n")

    def joins_by(sha256: str) -> bool:
        return anchor.find(cluster.model, operator.through, datetime.now(UTC)).root_sha256 == sha256

    for state in (State.PUBLISHED, State.SWITCHED, State.RETIRED):
        if state is State.PUBLISHED:
            operator.begin()
        operator.step()
        second = shown(cluster, "root")["root-2"].fingerprint
        for pin in (first, second):
            pinned(pin)
            assert cluster.plan()["changes"] == [] and joins_by(first), (state, pin)
        pinned("ab" * 32)
        fails(
            vaultpki("plan", "-f", cluster.file, env=cluster.environment("viewer"), expect=1), "this is another Vault"
        )
        cluster.file.write_text(spec)
        assert joins_by(first)
        directory = tmp_path / state.value
        cluster.issue("admin", directory)
        held = x509.read_certificates((directory / "kubernetes-ca-chain.crt").read_bytes())
        roots = {facts.fingerprint for facts in held if x509.signed_by(facts, facts)}
        assert roots == ({second} if state is State.RETIRED else {first, second}), state
    operator.step()
    assert operator.record.state is State.DONE
    pinned(first)
    sentence = f"write `root_sha256: {second}` into {cluster.file} below `ca`"
    fails(vaultpki("plan", "-f", cluster.file, env=cluster.environment("viewer"), expect=1), sentence)
    words = ("enroll", "-f", cluster.file, "w-1", "--pool", "autoscaled", "-o", tmp_path / "join.json")
    fails(vaultpki(*words, env=cluster.environment(), expect=1), sentence)
    fails(cluster.issue("admin", tmp_path / "retired", expect=1), sentence)
    for text in (f"{spec}ca: {{root_sha256: {second}}}\n", spec):
        cluster.file.write_text(text)
        assert cluster.plan()["changes"] == [] and joins_by(second)
        # The folders of before are the same operator's, whatever roots they hold.
        cluster.issue("admin", tmp_path / "retired")
        cluster.issue("admin", tmp_path / "published")
