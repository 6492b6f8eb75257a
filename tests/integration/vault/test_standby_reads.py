"""Reads at standbys: OpenBao's answer from their own copy, Vault's are left for the active node.

What ends credentials does not believe a standby.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest

from helpers.faults import hostile_server
from helpers.faults.server_behaviours import READ, TOKEN, always, client, hangs
from helpers.node import enrolled_nodes
from helpers.vault import raft_cluster
from helpers.vault.applied_cluster import AppliedCluster
from helpers.vault.cluster_factory import ClusterFactory
from helpers.vault.jwt_issuer import Issuer
from helpers.vault.raft_cluster import Cluster
from helpers.vault.servers import wait_for
from vaultpki.errors import VaultError
from vaultpki.identity import enrol
from vaultpki.vault import Settings, Vault

STORE = "kept"
JWT = "{issuer: https://issuer.example, audiences: [vaultpki], node_claim: node, public_keys_file: issuer.pem}"
ISSUED = f'- {{name: issued, roles: [worker], node_names: "x-*", jwt: {JWT}}}\n'


@pytest.fixture(scope="module")
def cluster(server_kind: str, tmp_path_factory: pytest.TempPathFactory, vault_binary: Path | None) -> Iterator[Cluster]:
    folder = tmp_path_factory.mktemp("standbys") / "raft"
    with raft_cluster.running_cluster(server_kind, folder, vault_binary) as cluster:
        leader = cluster.leader()
        assert leader.api("POST", f"sys/mounts/{STORE}", {"type": "kv", "options": {"version": "2"}}).status == 204
        # An upgrade of its own comes first.
        wait_for(lambda: write(cluster, 0), 30, leader.runner.log, pause=0.1)
        yield cluster


def write(cluster: Cluster, number: int) -> bool:
    answer = cluster.leader().api("POST", f"{STORE}/data/record", {"data": {"number": number}})
    return answer.status == 200


def looking(cluster: Cluster) -> Vault:
    vault = Vault(Settings(cluster.addresses, ca_file=str(cluster.ca_file), token=cluster.token))
    vault.prefer_active()
    return vault


def number(vault: Vault) -> int:
    found: int = vault.stored(STORE, "record")["data"]["number"]
    return found


def answers(vault: Vault, expected: int) -> bool:
    with contextlib.suppress(VaultError):
        return number(vault) == expected
    return False


def test_the_active_node_is_found_whichever_address_is_first(cluster: Cluster) -> None:
    for node in cluster.nodes:
        others = [address for address in cluster.addresses if address != node.address]
        vault = Vault(Settings((node.address, *others), ca_file=str(cluster.ca_file), token=cluster.token))
        vault.prefer_active()
        assert vault.address == cluster.leader().address


def test_a_read_is_answered_by_a_standby_where_standbys_read(cluster: Cluster) -> None:
    assert write(cluster, 1)
    vault = looking(cluster)
    reads = vault.standby_reads()
    assert {each.address for each in reads.standbys} == {node.address for node in cluster.standbys()}
    own = cluster.nodes[0].product == "openbao"
    for standby in reads.standbys if own else ():
        wait_for(partial(answers, standby, 1), 10, lambda: "a standby stays behind")
    asked: list[str] = []

    def same(at: Vault) -> bool:
        asked.append(at.address)
        return number(at) == 1

    assert all(reads.agree(same) for _ in range(4))
    assert (vault.address in asked) is not own
    assert len(reads.standbys) == (2 if own else 0)
    # The first of Vault's standbys says that it does not read, and so do the others.
    assert len(asked) == (4 if own else 5)


def test_a_change_is_told_by_the_active_node(cluster: Cluster) -> None:
    assert write(cluster, 2)
    reads = looking(cluster).standby_reads()
    assert reads.agree(lambda at: number(at) == 2)
    assert write(cluster, 3)
    wait_for(lambda: not reads.agree(lambda at: number(at) == 2), 10, lambda: "nobody tells the change")


def test_behind_one_address_no_answer_is_older_than_the_one_before() -> None:
    """It may be a load balancer: OpenBao's servers say how new their copy is, and take it back with a request."""
    good = always(200, {"data": {}}, "X-Vault-Index: eyJ2YWx1ZSI6IjQxIn0=")
    with hostile_server.serving(good) as server:
        vault = client(server.address)
        vault.call(READ)
        vault.prefer_active()
        vault.call(READ)
        vault.standby_reads()
        vault.call(READ)
    before, looking, after = (bytes(part) for part in server.heard.split(b"GET ")[1:])
    sent = b"X-Vault-Index: eyJ2YWx1ZSI6IjQxIn0=\r\nX-Vault-Inconsistent: forward-active-node\r\n"
    assert sent in looking
    assert b"X-Vault-In" not in before + after


def test_a_standby_that_is_behind_asks_the_active_node(cluster: Cluster) -> None:
    """Each write is read at once at each server in turn, as through a load balancer."""
    assert write(cluster, 4)
    vaults = [
        Vault(Settings((node.address,), ca_file=str(cluster.ca_file), token=cluster.token)) for node in cluster.nodes
    ]
    for vault in vaults:
        vault.prefer_active()
        # They share what they know of each other's copies, as connections of one client do.
        vault._route.transport = vaults[0]._route.transport
    leader = next(vault for vault in vaults if vault.address == cluster.leader().address)
    for count in range(5, 15):
        assert write(cluster, count)
        assert number(leader) == count
        assert [number(vault) for vault in vaults] == [count] * 3


def test_one_address_is_asked_nothing() -> None:
    """It may be a load balancer, and one server has no standbys."""
    with hostile_server.serving(always(200, {"data": {}})) as server:
        vault = client(server.address)
        vault.prefer_active()
        assert vault.standby_reads().standbys == ()
    assert server.guests == []


def test_addresses_that_say_nothing_of_use_change_nothing() -> None:
    nobody = always(200, {"ha_enabled": True, "is_self": False, "leader_address": ""})
    for first in (hangs, always(502, "<html>"), always(200, {"ha_enabled": False, "is_self": False}), nobody):
        with hostile_server.serving(first) as one, hostile_server.serving(nobody) as other:
            vault = client(one.address, other.address)
            vault.prefer_active()
            assert vault.address == one.address
            assert vault.standby_reads().standbys == ()
        assert TOKEN.encode() not in one.heard + other.heard


def test_of_two_that_say_they_lead_the_later_one_is_asked() -> None:
    """A frozen leader that goes on says so for a while."""
    said = {"ha_enabled": True, "is_self": True, "leader_cluster_address": "https://10.0.0.1:8201"}
    old = always(200, {**said, "active_time": "2026-11-28T12:38:30.771025417Z"})
    new = always(200, {**said, "active_time": "2026-11-28T12:38:54.5Z", "leader_cluster_address": "https://10.0.0.2:1"})
    with hostile_server.serving(old) as one, hostile_server.serving(new) as other:
        vault = client(one.address, other.address)
        vault.prefer_active()
        assert vault.address == other.address
        assert vault.standby_reads().standbys == ()


def test_a_lock_through_a_standby_ends_the_login_of_this_moment(cluster: Cluster, tmp_path: Path) -> None:
    """Each is the first of its node, so that a standby learns of the node's entity after the command has begun."""
    leader, issuer = cluster.leader(), Issuer()
    files = {"issuer.pem": issuer.public_pem}
    applied = ClusterFactory(leader, tmp_path / "clusters").applied(enrolled_nodes.SPEC + ISSUED, files)
    model = applied.model
    for number, standby in enumerate(cluster.standbys()):
        for node in ("w-1", "x-1"):
            vault = enrolled_nodes.client(standby, applied.token("locker"))
            name = f"{node}{number}"
            token = first_login(applied, name) if node == "w-1" else vouched(applied, issuer, name)
            enrol.lock(model, vault, name, wait=0)
            assert not enrolled_nodes.works(applied, token), name
            assert vault.address == leader.address


def first_login(cluster: AppliedCluster, name: str) -> str:
    vault, model = cluster.client(), cluster.model
    who = enrol.holder(model, name, "autoscaled")
    join = enrol.enroll(model, vault, name, who, enrol.place(model, vault), wrap_ttl=300)
    secret_id = cluster.server.api("POST", "sys/wrapping/unwrap", token=join.wrap_token).data["secret_id"]
    return str(enrolled_nodes.login(cluster, "pooled", join.role_id, secret_id))


def vouched(cluster: AppliedCluster, issuer: Issuer, name: str) -> str:
    body = {"role": "issued", "jwt": issuer.token(name)}
    answer = cluster.server.api("POST", f"auth/{cluster.prefix}/jwt/login", body, token="")
    made: str = answer.body["auth"]["client_token"]
    return made
