"""The service-account keys of nodes, on a real server: made there, certified, and accepted by the record alone."""

from __future__ import annotations

import time
from dataclasses import replace
from datetime import UTC, datetime
from hashlib import sha256

import pytest

from helpers.node.agents_with_keys import OF_KUBEADM, copied
from helpers.node.passes import passed, passed_well
from helpers.token_key_certificates import token_key
from helpers.vault.applied_cluster import AppliedCluster, NodeFolder
from helpers.vault.cluster_factory import ClusterFactory
from helpers.vault.handmade_keys import SPEC, HandmadeKeys, give_number, reported, told
from vaultpki.agent import pairs
from vaultpki.agent.status import of_folder
from vaultpki.errors import VaultpkiError
from vaultpki.model import KeyType, Subject
from vaultpki.node import state
from vaultpki.pki import keys, x509
from vaultpki.pki.facts import Facts
from vaultpki.records.service_account import KEYS_RECORD, DepartedKey, Departure, KeyRecord, KeyState, NodeKeys, to_json


@pytest.fixture
def cluster(with_keys: AppliedCluster) -> AppliedCluster:
    return with_keys


def failing(node: NodeFolder) -> dict[str, VaultpkiError]:
    return dict(passed(node, share=0.0).failures)


def union(node: NodeFolder) -> list[str]:
    return [facts.subject.common_name for facts in certificates(node)]


def certificates(node: NodeFolder) -> tuple[Facts, ...]:
    return x509.read_certificates((node.pki / "sa.pub").read_bytes())


def signs_with(node: NodeFolder) -> str:
    """The name in the certificate of the key with which the node signs; it is in the union of its own node."""
    key = (node.pki / "sa.key").read_bytes()
    (name,) = {facts.subject.common_name for facts in certificates(node) if x509.matches(key, facts)}
    return name


def private_keys(node: NodeFolder) -> set[bytes]:
    """The public halves of every private key on a node."""
    return {keys.public_der(keys.read_key(path.read_bytes())) for path in node.pki.glob("*.key")}


def test_two_nodes_from_an_empty_machine(cluster: AppliedCluster, planes: tuple[NodeFolder, NodeFolder]) -> None:
    one, two = planes
    outcome = passed_well(one, two)
    assert "service-account-1" in outcome.renewed
    for node in planes:
        # Nothing that kube-apiserver could start with, before the record admits the key.
        assert {path.name for path in node.pki.glob("sa*")} == {"sa-1.key", "sa-1.crt", "sa-1.pem"}
        told_keys = reported(cluster, node.name)
        assert [*told_keys.own] == [1] and not told_keys.signing and not told_keys.union
        assert told_keys.seen.revision == 0 and not told_keys.loaded
    HandmadeKeys.of(cluster, "cp-1", "cp-2")
    passed_well(one, two)
    for node in planes:
        assert (node.pki / "sa.key").stat().st_mode & 0o777 == 0o600
        assert (node.pki / "sa.pub").stat().st_mode & 0o777 == 0o644
        told_keys = reported(cluster, node.name)
        assert told_keys.signing in told_keys.union and not told_keys.loaded
    assert union(one) == union(two) == ["sa:cp-1:1", "sa:cp-2:1"]
    assert (signs_with(one), signs_with(two)) == ("sa:cp-1:1", "sa:cp-2:1")
    assert (one.pki / "sa.pub").read_bytes() == (two.pki / "sa.pub").read_bytes()
    # The same again changes nothing, and no two machines have one private key.
    before = one.snapshot(), (one.pki / "sa.key").stat().st_ino
    assert passed_well(one).requested == 0
    assert ((one.pki / "sa.key").stat().st_ino, union(one)) == (before[1], ["sa:cp-1:1", "sa:cp-2:1"])
    assert not private_keys(one) & private_keys(two)
    assert all(b"PRIVATE" not in path.read_bytes() for path in one.state.iterdir())
    # A worker has neither file, and reports nothing of them.
    worker = cluster.equip("worker-1", folder=one.folder.with_name("worker-1"))
    passed_well(worker)
    assert not list(worker.pki.glob("sa*")) and told(cluster, "worker-1").token_keys is None


def test_a_whole_rotation(cluster: AppliedCluster, planes: tuple[NodeFolder, NodeFolder]) -> None:
    one, two = planes
    passed_well(one, two)
    made = HandmadeKeys.of(cluster, "cp-1", "cp-2")
    passed_well(one, two)
    made.write(KeyState.PUBLISHED, nodes={name: replace(keys, new=2) for name, keys in made.record.nodes.items()})
    give_number(cluster, 2)
    passed_well(one, two)
    # Each knows its own next key, and the other's once the record has it; nobody signs with it.
    assert union(one) == ["sa:cp-1:1", "sa:cp-1:2", "sa:cp-2:1"] and signs_with(one) == "sa:cp-1:1"
    made.write(nodes=made.taken_in())
    passed_well(one, two)
    everything = ["sa:cp-1:1", "sa:cp-1:2", "sa:cp-2:1", "sa:cp-2:2"]
    assert union(one) == union(two) == everything and signs_with(two) == "sa:cp-2:1"
    made.write(KeyState.SWITCHED)
    passed_well(one, two)
    assert union(one) == everything and (signs_with(one), signs_with(two)) == ("sa:cp-1:2", "sa:cp-2:2")
    made.write(KeyState.RETIRED)
    passed_well(one, two)
    assert union(one) == union(two) == ["sa:cp-1:2", "sa:cp-2:2"]
    assert (one.pki / "sa-1.key").exists()
    # The way back, as far as there is one.
    made.write(KeyState.RETRUSTING)
    passed_well(one, two)
    assert union(one) == everything and signs_with(one) == "sa:cp-1:2"
    made.write(KeyState.SWITCHED)
    made.write(KeyState.RETIRED)
    at_rest = {
        name: replace(keys, old=2, certificates={2: keys.certificates[2]}) for name, keys in made.record.nodes.items()
    }
    made.write(KeyState.DONE, nodes=at_rest, lowest={"cp-1": 2, "cp-2": 2})
    passed_well(one, two)
    assert union(one) == union(two) == ["sa:cp-1:2", "sa:cp-2:2"]
    assert {path.name for path in one.pki.glob("sa*.key")} == {"sa.key", "sa-2.key"}
    assert state.load(str(one.state)).lowest == {"cp-1": 2, "cp-2": 2}
    assert [*reported(cluster, "cp-1").own] == [2]


def test_what_a_writer_of_records_plants_is_refused(
    cluster: AppliedCluster, planes: tuple[NodeFolder, NodeFolder]
) -> None:
    one, two = planes
    passed_well(one, two)
    made = HandmadeKeys.of(cluster, "cp-1", "cp-2")
    passed_well(one, two)
    before = union(one)
    forged = token_key("sa:cp-2:1", signer="cp-2", begun=datetime.now(UTC)).pem
    served = (one.pki / "kube-apiserver.crt").read_text()
    wrong_names = other_node(cluster)
    for pem in (forged, served, wrong_names):
        # Beside the real one: as a node that has left and whose tokens still count.
        gone = DepartedKey("cp-9", x509.fingerprint(pem.encode()), Departure.REMOVED, datetime.now(UTC), pem)
        made.write(departed=(gone,))
        outcome = passed_well(one)
        assert union(one) == before, pem
        texts = [each.text.partition("; find out")[0] for each in outcome.events if each.name == "stranger"]
        assert texts and all("does not count" in text for text in texts)
        assert [text[:200] for text in texts] == [text[:200] for text in told(cluster, "cp-1").untrusted]
        made.write(departed=())
    # In the place of a real one it takes that away, but brings in nothing; this node's own stays.
    keys = made.record.nodes["cp-1"]
    made.write(nodes={**made.record.nodes, "cp-1": replace(keys, certificates={1: forged})})
    passed_well(one, two)
    assert union(one) == before and union(two) == ["sa:cp-2:1"]


def other_node(cluster: AppliedCluster) -> str:
    """A certificate of the right CA for a worker, which Vault makes only with the root token."""
    key, mount = keys.generate_key(KeyType.EC_P256), f"{cluster.prefix}/service-account"
    role = cluster.read(f"{mount}/roles/service-account")
    path = f"{mount}/roles/other"
    assert cluster.server.api("POST", path, {**role, "allow_any_name": True}).status in (200, 204)
    body = {"csr": keys.request(key, Subject("sa:worker-1:1")), "common_name": "sa:worker-1:1"}
    body["exclude_cn_from_sans"] = "true"
    signed = cluster.server.api("POST", f"{mount}/sign/other", body)
    assert signed.status == 200, signed
    pem: str = signed.data["certificate"]
    return pem + "\n"


@pytest.mark.on_node
def test_a_retired_key_does_not_come_back(cluster: AppliedCluster, planes: tuple[NodeFolder, NodeFolder]) -> None:
    one, two = planes
    passed_well(one, two)
    made = HandmadeKeys.of(cluster, "cp-1", "cp-2")
    passed_well(one, two)
    former = dict(made.record.nodes)
    removed = {"cp-1": former["cp-1"]}
    made.write(nodes=removed, lowest={"cp-1": 1, "cp-2": 2})
    passed_well(one)
    assert union(one) == ["sa:cp-1:1"]
    # A later revision that brings it back, and forgets that it was retired.
    made.write(nodes=former, lowest={})
    outcome = passed_well(one)
    assert union(one) == ["sa:cp-1:1"]
    assert any("key 1 of cp-2 was retired" in each.text for each in outcome.events)
    # Nor after the node has joined anew, which forgets the revisions that it has read.
    state.forget_records(str(one.state))
    passed_well(one)
    assert union(one) == ["sa:cp-1:1"] and state.load(str(one.state)).lowest["cp-2"] == 2
    # The node of that name has the next number, and its own kube-apiserver goes on until it restarts.
    made.write(nodes={"cp-1": former["cp-1"], "cp-2": NodeKeys(2, 2)}, lowest={"cp-2": 2})
    give_number(cluster, 2)
    passed_well(two)
    made.write(nodes=made.taken_in())
    passed_well(one, two)
    assert union(one) == union(two) == ["sa:cp-1:1", "sa:cp-2:2"] and signs_with(two) == "sa:cp-2:2"


@pytest.mark.on_node
@pytest.mark.parametrize("how", ["older", "unreadable", "gone", "far ahead"])
def test_a_record_that_is_not_the_newest_takes_nothing_away(
    how: str, cluster: AppliedCluster, planes: tuple[NodeFolder, NodeFolder]
) -> None:
    one, two = planes
    passed_well(one, two)
    made = HandmadeKeys.of(cluster, "cp-1", "cp-2")
    made.write(KeyState.PUBLISHED, nodes={name: replace(each, new=2) for name, each in made.record.nodes.items()})
    give_number(cluster, 2)
    passed_well(one, two)
    made.write(nodes=made.taken_in())
    passed_well(one, two)
    before, alone = union(one), replace(made.record, state=KeyState.DONE, nodes={"cp-1": NodeKeys(2, 2)})
    path = f"{cluster.prefix}/config/metadata/{KEYS_RECORD}"
    if how == "gone":
        assert cluster.server.api("DELETE", path).status == 204
    else:
        revision = {"older": 1, "unreadable": 50, "far ahead": 100_000}[how]
        value = to_json(replace(alone, revision=revision, lowest={"cp-1": 2, "cp-2": 3}, highest={"cp-1": 2}))
        made.put({**value, "state": "strange"} if how == "unreadable" else value)
    assert [*failing(one)] == ["service-account-keys record"]
    assert union(one) == before and signs_with(one) == "sa:cp-1:1"
    assert (one.pki / "sa-1.key").exists() and (one.pki / "sa-2.key").exists()
    # The next one that is newer counts again.
    made.write()
    passed_well(one)
    assert union(one) == before


def test_an_expired_certificate_stays_and_no_key_is_renewed(clusters: ClusterFactory) -> None:
    spec = SPEC + "allow_short_ttl: true\ncertificates: {service-account: {ttl: 30s}}\n"
    cluster = clusters.applied(spec)
    one, two = cluster.equip("cp-1"), cluster.equip("cp-2")
    passed_well(one, two)
    HandmadeKeys.of(cluster, "cp-1", "cp-2")
    passed_well(one, two)
    key = (one.pki / "sa.key").read_bytes()
    later = time.time() + 3600
    outcome = passed(one, share=0.0, clock=later)
    assert not any(name.startswith("service-account") for name in (*outcome.renewed, *outcome.failures))
    assert union(one) == ["sa:cp-1:1", "sa:cp-2:1"] and (one.pki / "sa.key").read_bytes() == key
    looked = of_folder(str(one.pki), datetime.fromtimestamp(later, UTC))
    assert looked.seen and not any(each.name.startswith("sa") for each in looked.seen)
    # A person who renews everything renews no such key.
    forced = passed(one, pairs.EVERY, asks=False)
    assert not forced.failures and (one.pki / "sa.key").read_bytes() == key


@pytest.mark.on_node
def test_a_file_of_somebody_else_stops_these_keys_alone(
    cluster: AppliedCluster, planes: tuple[NodeFolder, NodeFolder]
) -> None:
    one, _ = planes
    one.pki.mkdir()
    (one.pki / "sa.pub").write_text("somebody's\n")
    passed_well(one)
    HandmadeKeys.of(cluster, "cp-1")
    failures = failing(one)
    assert [*failures] == ["service-account-keys"] and "sa.pub" in str(failures["service-account-keys"])
    assert (one.pki / "sa.pub").read_text() == "somebody's\n" and (one.pki / "kube-apiserver.crt").exists()
    (one.pki / "sa.pub").unlink()
    passed_well(one)
    assert signs_with(one) == "sa:cp-1:1"


@pytest.mark.on_node
def test_no_record_removes_the_key_in_use(clusters: ClusterFactory) -> None:
    """Whoever writes the node's record, or takes the keys out of cluster.yaml, ends no token by it."""
    cluster = clusters.applied(SPEC)
    one = cluster.equip("cp-1")
    passed_well(one)
    HandmadeKeys.of(cluster, "cp-1")
    passed_well(one)
    before = certificates(one)
    cluster.write(SPEC.replace("service_account_keys: true\n", ""))
    cluster.apply()
    passed_well(one)
    assert certificates(one) == before and signs_with(one) == "sa:cp-1:1"
    # A node that never had them is as before.
    two = cluster.equip("cp-2")
    passed_well(two)
    assert not list(two.pki.glob("sa*")) and not state.load(str(two.state)).lowest


@pytest.fixture
def shared(clusters: ClusterFactory) -> tuple[AppliedCluster, NodeFolder, NodeFolder]:
    """Two nodes with the one sa.key that kubeadm has made and a person has copied."""
    cluster = clusters.applied(OF_KUBEADM)
    key = keys.generate_key(KeyType.RSA_2048)
    nodes = cluster.equip("cp-1"), cluster.equip("cp-2")
    for node in nodes:
        copied(node, key)
    return cluster, *nodes


def test_from_one_shared_key_to_own_keys(shared: tuple[AppliedCluster, NodeFolder, NodeFolder]) -> None:
    cluster, one, two = shared
    key = (one.pki / "sa.key").read_bytes()
    passed_well(one, two)
    # Nothing is touched, and nothing is certified, before the operator begins.
    assert {path.name for path in one.pki.glob("sa*")} == {"sa.key", "sa.pub"}
    assert not (one.pki / "sa.key").is_symlink() and (one.pki / "sa.key").read_bytes() == key
    said = reported(cluster, "cp-1").shared
    assert said == reported(cluster, "cp-2").shared == sha256(keys.public_der(keys.read_key(key))).hexdigest()
    assert reported(cluster, "cp-1").own == {}
    made = HandmadeKeys(cluster, KeyRecord(KeyState.STEADY, 1, datetime.now(UTC).replace(microsecond=0)))
    # Another key than the one that this node has is not taken.
    made.write(KeyState.PUBLISHED, nodes=dict.fromkeys(("cp-1", "cp-2"), NodeKeys(1, 2, True)), shared="5f" * 32)
    give_number(cluster, 2)
    passed_well(one)
    assert not (one.pki / "sa.key").is_symlink() and reported(cluster, "cp-1").own == {}
    made.write(shared=said)
    passed_well(one, two)
    for node in (one, two):
        assert (node.pki / "sa.key").is_symlink() and (node.pki / "sa.key").read_bytes() == key
        assert union(node) == [f"sa:{node.name}:1", f"sa:{node.name}:2"] and signs_with(node) == f"sa:{node.name}:1"
        assert reported(cluster, node.name).shared == ""
    made.write(nodes=made.taken_in())
    made.write(KeyState.SWITCHED)
    passed_well(one, two)
    assert signs_with(one) == "sa:cp-1:2" and len(union(two)) == 4
    at_rest = {
        name: replace(each, old=2, certificates={2: each.certificates[2]}) for name, each in made.record.nodes.items()
    }
    made.write(KeyState.DONE, nodes=at_rest, lowest={"cp-1": 2, "cp-2": 2}, shared="")
    passed_well(one, two)
    assert not private_keys(one) & private_keys(two) and union(one) == ["sa:cp-1:2", "sa:cp-2:2"]


def test_a_shared_key_that_vault_does_not_certify_stays(clusters: ClusterFactory) -> None:
    """And nobody is told to move it away: the agent says what Vault says of its type."""
    cluster, key = clusters.applied(SPEC), keys.generate_key(KeyType.RSA_2048)
    node = cluster.equip("cp-1")
    copied(node, key)
    passed_well(node)
    said = reported(cluster, "cp-1")
    assert said.shared_key == "rsa-2048"
    made = HandmadeKeys(cluster, KeyRecord(KeyState.STEADY, 1, datetime.now(UTC).replace(microsecond=0)))
    made.write(KeyState.PUBLISHED, nodes={"cp-1": NodeKeys(1, 2, True)}, shared=said.shared)
    give_number(cluster, 2)
    failures = failing(node)
    assert [*failures] == ["service-account-1"] and "keys of type ec" in str(failures["service-account-1"])
    assert (node.pki / "sa.key").read_bytes() == keys.key_pem(key) and not (node.pki / "sa.key").is_symlink()
    assert [*reported(cluster, "cp-1").own] == [2] and reported(cluster, "cp-1").shared == said.shared
