"""Each node that can log in at the old server gets a credential for the new one, and the hand-over that binds it."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest

from helpers.vault.cluster_factory import ClusterFactory
from helpers.vault.moved_cluster import MovedCluster
from helpers.vault.servers import Server
from vaultpki.errors import Denied, Refused
from vaultpki.identity import enrol
from vaultpki.move import credentials, hand_over
from vaultpki.pki import x509
from vaultpki.pki.hand_over import HAND_OVER_EKU, common_name, problem
from vaultpki.records.move import MoveRecord
from vaultpki.records.move_credential import Handed, read_credential
from vaultpki.records.rotation import State
from vaultpki.vault import Settings, Vault

CP, WORKER, POOLED = "move/listed/cp-1", "move/listed/worker-1", "move/pooled/autoscaled/w-1"


@pytest.fixture
def moved(clusters: ClusterFactory, own_server: Server) -> MovedCluster:
    """Two nodes that have their credentials, one of a pool, and a move that is prepared."""
    made = MovedCluster.applied(clusters, own_server)
    made.cluster.equip("cp-1")
    made.cluster.equip("worker-1")
    made.cluster.equip("w-1", pool="autoscaled")
    made.begin()
    return made


def given(moved: MovedCluster) -> int:
    return credentials.give(moved.old, moved.new, moved.record, moved.members())


def intercepted(moved: MovedCluster) -> list[str]:
    """The nodes whose credentials somebody has taken and that have not reported since."""
    look = credentials.intercepted
    return [each.name for each in moved.members() if look(moved.old, moved.new, moved.record, each)]


def held(moved: MovedCluster, path: str) -> Handed | None:
    """What lies at the old server for a node."""
    answer = moved.cluster.server.api("GET", f"{moved.cluster.prefix}/config/data/{path}")
    return read_credential(answer.data["data"], where=path) if answer.status == 200 else None


def wanted(moved: MovedCluster, path: str) -> Handed:
    found = held(moved, path)
    assert found is not None
    return found


def taken(moved: MovedCluster, handed: Handed) -> str:
    """The secret id that a credential wraps, for whoever comes first."""
    nobody = Vault(Settings((moved.to.address,), ca_pem=moved.to.ca_file.read_text(), token=handed.wrap_token))
    return str(nobody.write("sys/wrapping/unwrap", {}, once=True)["data"]["secret_id"])


def logged_in(moved: MovedCluster, handed: Handed, secret_id: str) -> str:
    kind = "pooled" if handed.pool else "listed"
    body = {"role_id": handed.role_id, "secret_id": secret_id}
    answer = moved.to.api("POST", f"auth/{moved.prefix}/{kind}/login", body)
    assert answer.status == 200
    return str(answer.body["auth"]["client_token"])


def reported(moved: MovedCluster, path: str, token: str) -> None:
    """A report at the new server, by the node itself."""
    node = Vault(Settings((moved.to.address,), ca_pem=moved.to.ca_file.read_text(), token=token))
    node.write(f"{moved.prefix}/config/data/{path.replace('move/', 'reports/')}", {"data": {"version": 1}})


def test_each_node_gets_its_own_once(moved: MovedCluster) -> None:
    assert given(moved) == 3
    before = {path: wanted(moved, path) for path in (CP, WORKER, POOLED)}
    assert given(moved) == 0
    assert {path: held(moved, path) for path in before} == before
    assert intercepted(moved) == []
    for path, handed in before.items():
        assert handed.number == 1 and timedelta(hours=23) < handed.expires - datetime.now(UTC) < timedelta(hours=25)
        token = logged_in(moved, handed, taken(moved, handed))
        reported(moved, path, token)
    assert given(moved) == 0
    # Whoever is there needs none any more.
    assert [held(moved, path) for path in before] == [None, None, None]
    assert intercepted(moved) == []


def test_it_opens_for_its_own_node_alone(moved: MovedCluster) -> None:
    given(moved)
    prefix, server = moved.cluster.prefix, moved.cluster.server
    tokens = {}
    for path, kind in ((CP, "listed"), (WORKER, "listed"), (POOLED, "pooled")):
        name = path.rpartition("/")[2]
        role = f"auth/{prefix}/{kind}/role/{name}"
        secret = server.api("POST", f"{role}/secret-id").data["secret_id"]
        body = {"role_id": server.api("GET", f"{role}/role-id").data["role_id"], "secret_id": secret}
        tokens[path] = server.api("POST", f"auth/{prefix}/{kind}/login", body).body["auth"]["client_token"]
    for path, token in tokens.items():
        node = Vault(Settings((server.address,), ca_pem=server.ca_file.read_text(), token=token))
        for other in tokens:
            where = (f"{prefix}/config", other)
            if other == path:
                assert node.stored(*where)["data"]["node"] == path.rpartition("/")[2]
                continue
            with pytest.raises(Denied):
                node.stored(*where)
        with pytest.raises(Denied):
            node.write(f"{prefix}/config/data/{path}", {"data": {}})
    for who in ("viewer", "operator", "enroller", "locker"):
        with pytest.raises(Denied):
            moved.cluster.client(who).stored(f"{prefix}/config", CP)
    # All else of the store is for the viewer.
    assert moved.cluster.client("viewer").stored(f"{prefix}/config", "rotation/move")["data"]["number"] == 1


def test_who_takes_it_first_is_seen(moved: MovedCluster) -> None:
    given(moved)
    stolen = wanted(moved, WORKER)
    secret = taken(moved, stolen)
    with pytest.raises((Refused, Denied)):
        taken(moved, stolen)
    assert intercepted(moved) == ["worker-1"]
    # The node gets no second one beside it, which would hide this.
    assert given(moved) == 0 and held(moved, WORKER) == stolen
    logged_in(moved, stolen, secret)
    enrol.lock(moved.new.cluster, moved.client("locker"), "worker-1", wait=0)
    assert intercepted(moved) == []
    assert given(moved) == 1
    again = wanted(moved, WORKER)
    assert again.role_id != stolen.role_id
    reported(moved, WORKER, logged_in(moved, again, taken(moved, again)))
    assert intercepted(moved) == []


def test_a_locked_node_gets_none(moved: MovedCluster) -> None:
    enrol.lock(moved.old.cluster, moved.cluster.client("locker"), "worker-1", wait=0)
    assert given(moved) == 2 and held(moved, WORKER) is None
    # Its AppRole there lets nobody in.
    assert moved.to.api("LIST", f"auth/{moved.prefix}/listed/role/worker-1/secret-id").status == 404


def test_one_that_ends_is_made_anew(moved: MovedCluster, monkeypatch: pytest.MonkeyPatch) -> None:
    given(moved)
    before = wanted(moved, CP)
    path = f"{moved.cluster.prefix}/config/data/{CP}"
    stored = moved.cluster.read(path)["data"]
    for expires in (datetime.now(UTC) + timedelta(hours=11), datetime.now(UTC) - timedelta(hours=1)):
        body = {"data": {**stored, "expires": f"{expires:%Y-%m-%dT%H:%M:%SZ}"}}
        assert moved.cluster.server.api("POST", path, body).status == 200
        assert given(moved) == 1
        assert wanted(moved, CP).wrap_token != before.wrap_token
    # What somebody has written there is written over.
    assert moved.cluster.server.api("POST", path, {"data": {"version": 1, "node": "worker-1"}}).status == 200
    assert given(moved) == 1 and wanted(moved, CP).node == "cp-1"
    other = moved.cluster.read(f"{moved.cluster.prefix}/config/data/{WORKER}")["data"]
    assert moved.cluster.server.api("POST", path, {"data": other}).status == 200
    assert given(moved) == 1 and wanted(moved, CP).node == "cp-1"


def test_they_are_taken_back(moved: MovedCluster) -> None:
    given(moved)
    credentials.take_back(moved.old, moved.record)
    assert [held(moved, path) for path in (CP, WORKER, POOLED)] == [None, None, None]
    credentials.take_back(moved.old, moved.record)
    assert moved.cluster.server.api("LIST", f"{moved.cluster.prefix}/config/metadata/move").status == 404


def signed(moved: MovedCluster, record: MoveRecord) -> str:
    return hand_over.sign(moved.old, record)


def test_a_hand_over_proves_one_text_and_no_more(moved: MovedCluster) -> None:
    record, now = moved.record, datetime.now(UTC)
    pem = signed(moved, record)
    facts = x509.read_certificates(pem.encode())[0]
    mount = f"{moved.cluster.prefix}/kubernetes"
    issuer = x509.read_certificates(moved.cluster.read(f"{mount}/issuer/default")["certificate"].encode())[0]
    name = moved.cluster.name
    assert problem(facts, [issuer], record.uri, name, now) is None
    assert facts.usages == {HAND_OVER_EKU} and not facts.is_ca and facts.subject.common_name == common_name(name)
    assert hand_over.ends(pem) == facts.not_after
    assert timedelta(days=6, hours=23) < facts.not_after - now < timedelta(days=7, minutes=1)
    # The role binds the same text: whoever may sign by it can have nothing else signed.
    body = {"csr": _csr(), "common_name": common_name(name), "exclude_cn_from_sans": True}
    assert moved.cluster.server.api("POST", f"{mount}/sign/hand-over", {**body, "uri_sans": record.uri}).status == 200
    for wrong in (
        {"uri_sans": f"{record.uri[:-1]}0"},
        {"uri_sans": "vaultpki:hand-over:*"},
        {"uri_sans": record.uri, "alt_names": "api.example.com"},
        {"uri_sans": record.uri, "ip_sans": "10.0.0.1"},
    ):
        answer = moved.cluster.server.api("POST", f"{mount}/sign/hand-over", {**body, **wrong})
        assert answer.status == 400, wrong
    hand_over.remove_role(moved.old)
    assert moved.cluster.server.api("POST", f"{mount}/sign/hand-over", {**body, "uri_sans": record.uri}).status == 400
    hand_over.remove_role(moved.old)


def test_when_it_is_due(moved: MovedCluster) -> None:
    record, now = moved.record, datetime.now(UTC)
    assert record.state is State.PREPARED and hand_over.is_due(record, now)
    with_one = replace(record, hand_over=signed(moved, record))
    assert not hand_over.is_due(with_one, now)
    assert hand_over.is_due(with_one, now + timedelta(days=4))
    assert hand_over.is_due(replace(with_one, number=2), now)
    assert hand_over.is_due(replace(with_one, new=replace(record.new, prefix="vaultpki/x")), now)
    assert not hand_over.is_due(replace(with_one, revision=record.revision + 1, state=State.PUBLISHED), now)


def _csr() -> str:
    from vaultpki.model import KeyType, Subject
    from vaultpki.pki import keys

    return keys.request(keys.generate_key(KeyType.EC_P256), Subject("x"))
