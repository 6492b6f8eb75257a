"""The new server of a move is made: CAs below the root that nodes have, and all else that apply makes."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import pytest

from helpers.faults.cutting_proxy import Proxy, proxied
from helpers.faults.drawn import Drawn
from helpers.vault.cluster_factory import ClusterFactory
from helpers.vault.moved_cluster import MovedCluster
from helpers.vault.server_contents import ISSUERS
from helpers.vault.servers import Server
from vaultpki.certificates import ISSUING_CAS
from vaultpki.errors import Sealed, StateConflict, Unavailable
from vaultpki.move import prepare, trial
from vaultpki.move.server import MoveServer
from vaultpki.pki import x509
from vaultpki.pki.facts import Facts
from vaultpki.pki.trust import named
from vaultpki.provision import apply
from vaultpki.provision.desired import marker
from vaultpki.records.rotation import State
from vaultpki.records.server_facts import ServerFacts
from vaultpki.vault.issuer import FULL, READ_ONLY


@pytest.fixture
def moved(clusters: ClusterFactory, own_server: Server) -> MovedCluster:
    return MovedCluster.applied(clusters, own_server)


def shown(moved: MovedCluster, ca: str) -> dict[str, Facts]:
    """The certificates on a mount of the new server, by the names of their issuers."""
    listed = moved.to.api("LIST", f"{moved.prefix}/{ca}/issuers").data["key_info"]
    found = {}
    for id_, about in listed.items():
        pem = moved.read(f"{moved.prefix}/{ca}/issuer/{id_}")["certificate"]
        found[str(about["issuer_name"])] = x509.read_certificates(pem.encode())[0]
    return found


def left(server: MoveServer) -> tuple[str, ...]:
    """What a plan says of one server: its changes, and what a person must look at."""
    _, todo = apply.observe_and_plan(server.cluster, server.vault, ServerFacts((), None))
    changes = [f"{each.action} {each.kind} {each.name} {sorted(each.fields)}" for each in todo.changes]
    needed = [each.ca for each in todo.rotations]
    return (*changes, *(each.name for each in todo.dangers), *needed, *(each.domain for each in todo.active))


def test_what_is_made(moved: MovedCluster) -> None:
    before = moved.cluster.root_sha256
    assert moved.begin().record.state is State.PREPARED
    record = moved.record
    assert record.root == before and record.number == 1
    root = shown(moved, "root")
    assert set(root) == {"root-1", "root-2", "root-2-by-root-1"}
    old, new, cross = root["root-1"], root["root-2"], root["root-2-by-root-1"]
    assert (old.fingerprint, new.fingerprint) == (record.root, record.new_root)
    assert x509.signed_by(cross, old) and cross.public_key == new.public_key != old.public_key
    assert named(new, f"{moved.cluster.name} root CA")
    for ca in ISSUING_CAS:
        (own,) = shown(moved, ca).values()
        assert x509.signed_by(own, old) and own.fingerprint == record.cas[ca].new_sha256
        assert own.subject.common_name == f"{moved.cluster.name} {ca} CA 2"
        issuer = moved.read(f"{moved.prefix}/{ca}/issuer/default")
        assert (issuer["issuer_name"], issuer["usage"]) == (f"{ca}-2", FULL)
    keyless = moved.read(f"{moved.prefix}/root/issuer/default")
    assert (keyless["issuer_name"], keyless["usage"], keyless["key_id"]) == ("root-1", READ_ONLY, "")
    # The new server is told by its own records, and the pin of nodes is the old root.
    assert moved.read(f"{moved.prefix}/config/data/cluster")["data"]["root_sha256"] == before
    assert moved.read(f"{moved.prefix}/config/data/rotation/root")["data"]["state"] == "prepared"
    # Neither server's plan sees anything to change, or a rotation of its own.
    assert left(moved.old) == left(moved.new) == ()
    assert trial.problems(moved.old, moved.new, record) == ()


def test_again_it_writes_nothing(moved: MovedCluster) -> None:
    moved.begin()
    before, since = moved.there(), moved.to.audit_position()
    assert prepare.prepare(moved.old, moved.new, moved.record) == moved.record
    # But for the trial: logins with secret ids that end at once, and certificates for keys that are thrown away.
    paths = [str(write) for write in moved.to.writes(since)]
    assert [path for path in paths if not any(part in path for part in ("/sign/", "/secret-id", "/login"))] == []
    assert moved.there() == before


@pytest.fixture
def proxy(own_server: Server) -> Iterator[Proxy]:
    with proxied(own_server) as one:
        yield one


@pytest.mark.parametrize(
    "step", [pytest.param(1, id="each", marks=pytest.mark.exhaustive), pytest.param(40, id="at times")]
)
def test_cut_after_every_write(
    clusters: ClusterFactory, own_server: Server, proxy: Proxy, drawn: Drawn, step: int
) -> None:
    whole = MovedCluster.applied(clusters, own_server)
    since = own_server.audit_position()
    whole.begin()
    expected, writes = whole.there(), len(own_server.writes(since))
    assert writes > 100
    for name in ISSUERS:
        assert len(expected[f"moved/CLUSTER/{name}/keys"]) == 1
    for cut in range(1 + drawn.below(step), writes + 1, step):
        moved = MovedCluster.applied(clusters, own_server)
        proxy.arm(cut, reopens=False)
        with pytest.raises((Sealed, Unavailable)):
            moved.begin(new=moved.new_through(proxy))
        assert moved.begin().record.state is State.PREPARED
        assert moved.there() == expected, f"cut after write {cut} of {writes}"
        assert left(moved.new) == ()


def test_cut_off_from_the_old_server(clusters: ClusterFactory, own_server: Server, server: Server) -> None:
    """Its root has signed, and nobody has the answer: the next run finds what was signed."""
    whole = MovedCluster.applied(clusters, own_server)
    whole.begin()
    with proxied(server) as proxy:
        for cut in range(1, 9):
            moved = MovedCluster.applied(clusters, own_server)
            proxy.arm(cut, reopens=False)
            with pytest.raises((Sealed, Unavailable)):
                moved.begin(old=moved.old_through(proxy))
            moved.begin()
            assert moved.there() == whole.there(), f"cut after write {cut}"
            signed = server.api("LIST", f"{moved.cluster.prefix}/root/certs").data["keys"]
            # The root itself, its four CAs, those of the new server, and the cross certificate.
            assert len(signed) == 1 + 4 + 4 + 1, f"cut after write {cut}"


def test_what_others_have_there_is_refused(moved: MovedCluster) -> None:
    for kind, body in (("mounts", {"type": "kv"}), ("auth", {"type": "approle"})):
        path = f"sys/{kind}/{moved.prefix}/other"
        assert moved.to.api("POST", path, body).status in (200, 204)
        with pytest.raises(StateConflict, match="which this move did not make"):
            moved.begin()
        assert moved.to.api("DELETE", path).status in (200, 204)
    # Nothing was begun.
    assert moved.cluster.server.api("GET", f"{moved.cluster.prefix}/config/data/rotation/move").status == 404
    store = f"sys/mounts/{moved.prefix}/config"
    empty = {"type": "kv", "options": {"version": "2"}, "description": marker(moved.new.cluster)}
    assert moved.to.api("POST", store, empty).status in (200, 204)
    # That is how a run that was killed leaves it.
    assert moved.begin().record.state is State.PREPARED


def test_a_store_with_records_of_another_is_refused(moved: MovedCluster) -> None:
    body = {"type": "kv", "options": {"version": "2"}, "description": marker(moved.new.cluster)}
    assert moved.to.api("POST", f"sys/mounts/{moved.prefix}/config", body).status in (200, 204)
    written = {"data": {"version": 1}}
    assert moved.to.api("POST", f"{moved.prefix}/config/data/cluster", written).status == 200
    with pytest.raises(StateConflict, match="which this move did not make"):
        moved.begin()
    assert moved.read(f"{moved.prefix}/config/data/cluster")["data"] == {"version": 1}


def test_an_abort_removes_nothing_of_another_move(moved: MovedCluster) -> None:
    moved.begin()
    record, before = moved.record, moved.there()
    for other in (replace(record, number=2), replace(record, root="ab" * 32)):
        with pytest.raises(StateConflict, match="which this move did not make"):
            prepare.remove(moved.new, other)
    assert moved.there() == before


def test_an_abort_leaves_nothing_there(moved: MovedCluster) -> None:
    before = moved.cluster.server.api("LIST", f"{moved.cluster.prefix}/kubernetes/issuers").data["keys"]
    moved.begin()
    moved.step(back=True)
    assert moved.record.state is State.STEADY
    assert not [path for path in moved.to.api("GET", "sys/mounts").data if path.startswith("moved/")]
    assert not [path for path in moved.to.api("GET", "sys/auth").data if path.startswith("moved/")]
    policies = moved.to.api("LIST", "sys/policies/acl").data["keys"]
    assert not [name for name in policies if name.startswith(f"{moved.prefix}/")]
    assert moved.cluster.server.api("LIST", f"{moved.cluster.prefix}/kubernetes/issuers").data["keys"] == before
    assert left(moved.old) == ()
    # The next move has the next numbers.
    moved.begin()
    assert moved.record.number == 2 and set(shown(moved, "etcd")) == {"etcd-3"}


def test_problems(moved: MovedCluster) -> None:
    moved.begin()
    record = moved.record
    role = f"{moved.prefix}/etcd/roles/etcd-server"
    assert moved.to.api("POST", role, {**moved.read(role), "ttl": "1h"}).status in (200, 204)
    (why,) = trial.problems(moved.old, moved.new, record)
    assert "etcd-server" in why
    apply.apply(moved.new.cluster, moved.new.vault, ServerFacts((), None), first=None, progress=lambda change: None)
    assert trial.problems(moved.old, moved.new, record) == ()
    etcd = f"{moved.prefix}/etcd"
    assert moved.to.api("POST", f"{etcd}/root/generate/internal", {"common_name": "other"}).status == 200
    other = next(id_ for id_, each in moved.read_list(f"{etcd}/issuers").items() if each["issuer_name"] == "")
    assert moved.to.api("POST", f"{etcd}/config/issuers", {"default": other}).status == 200
    several = trial.problems(moved.old, moved.new, record)
    assert f"{etcd} does not sign by etcd-2" in several[0] and any("foreign and dangerous" in each for each in several)
