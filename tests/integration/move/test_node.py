"""What a node does while its cluster moves, and what no writer of a KV store, no file and no answer can make of it."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from helpers.node.moving_cluster import WORKER_HOOKS, MovingCluster
from helpers.vault.applied_cluster import NodeFolder
from helpers.vault.cluster_factory import ClusterFactory
from helpers.vault.servers import Server
from vaultpki.agent import run, status
from vaultpki.agent.context import Outcome
from vaultpki.agent.pairs import EVERY
from vaultpki.config.agent import load_agent
from vaultpki.errors import SigningPaused
from vaultpki.identity.nodes import read_nodes
from vaultpki.move import credentials
from vaultpki.node import servers
from vaultpki.pki import x509
from vaultpki.procedures import ON_NODES
from vaultpki.records import node_report
from vaultpki.records.move import MoveRecord, ServerPlace, move_json
from vaultpki.records.node_report import NodeReport
from vaultpki.records.rotation import State
from vaultpki.rotation.confirmations import Confirmations

pytestmark = pytest.mark.on_node

SPEC = """\
api_server: {names: [api.example.com], endpoint: "https://api.example.com:6443"}
nodes:
- {name: worker-1, roles: [worker], addresses: [10.0.0.21]}
pools:
- {name: autoscaled, roles: [worker], node_names: "w-*"}
"""
NOWHERE = "https://127.0.0.1:9"


@pytest.fixture
def moving(clusters: ClusterFactory, own_server: Server) -> MovingCluster:
    """A listed worker and one of a pool, which run nothing that would have to be restarted; nothing moves yet."""
    cluster = clusters.applied(SPEC)
    nodes = {
        "worker-1": cluster.equip("worker-1", further=WORKER_HOOKS),
        "w-1": cluster.equip("w-1", pool="autoscaled", further=WORKER_HOOKS),
    }
    made = MovingCluster(cluster, own_server, nodes)
    made.passes()
    (cluster.folder / "new-ca.crt").write_bytes(own_server.ca_file.read_bytes())
    place = f"{{addresses: ['{own_server.address}'], ca_file: new-ca.crt, prefix: elsewhere/moved}}"
    cluster.write(f"{SPEC}move: {place}\n")
    made.begin(spread=0)
    return made


def to(moving: MovingCluster, state: State, *but: str, back: bool = False) -> MoveRecord:
    """Go there, as soon as the gate opens, with passes of every node but of these."""
    said: tuple[str, ...] = ()
    for _ in range(9):
        moving.passes(*but)
        step = moving.step(Confirmations(("kubelet-serving-ca", *but), checked=said), back=back)
        if step.record.state is state:
            return step.record
        said = ()
        if not step.moved and step.gate is not None:
            moving.now = max(moving.now, step.gate.opens or moving.now) + timedelta(seconds=1)
            waits = {each.node for each in step.gate.waiting}
            said = tuple(waits) if waits and waits <= {"pods", "outside"} else ()
    raise AssertionError(step.gate)


def passed(node: NodeFolder, force: str = "") -> Outcome:
    """One pass, which asks for everything, and renews what a person asks for."""
    node.age()
    options = run.PassOptions(ON_NODES, settle=False, share=0.0, force=frozenset({force} - {""}))
    return run.run(load_agent(node.config), options)


def renewed(moving: MovingCluster) -> None:
    """A pass by which each node learns at which server it gets its certificates, and one that renews them all."""
    for node in moving.nodes.values():
        assert not passed(node).failures
        assert not passed(node, EVERY).failures
    moving.all_trusted()


def files(node: NodeFolder) -> dict[str, bytes]:
    """What components read of a node: pairs, bundles and kubeconfigs."""
    seen = (path for path in sorted(node.pki.rglob("*")) if ".vaultpki" not in path.parts)
    return {str(path): path.read_bytes() for path in seen if path.is_file()}


def write(server: Server, prefix: str, record: MoveRecord) -> None:
    assert server.api("POST", f"{prefix}/config/data/rotation/move", {"data": move_json(record)}).status == 200


def at_old(moving: MovingCluster, record: MoveRecord) -> None:
    write(moving.cluster.server, moving.cluster.prefix, record)


def at_new(moving: MovingCluster, record: MoveRecord) -> None:
    write(moving.to, moving.new.cluster.prefix, record)


def reported(server: Server, prefix: str, place: str) -> NodeReport:
    found = node_report.read(server.api("GET", f"{prefix}/config/data/reports/{place}").data["data"])
    assert found is not None
    return found


def requests(server: Server, since: int) -> list[str]:
    return [path for _, path in server.requests(since)]


def test_a_node_takes_its_credential_and_reports_at_both(moving: MovingCluster) -> None:
    record = to(moving, State.PUBLISHED)
    new = moving.new.cluster.prefix
    for name, place in (("worker-1", "listed/worker-1"), ("w-1", "pooled/autoscaled/w-1")):
        node = moving.nodes[name]
        outcome = passed(node)
        assert not outcome.failures and [each.text for each in outcome.events if each.name == "move"] == [
            f"took its credential at {moving.to.address} (hand-over 1)"
        ]
        there, here = reported(moving.to, new, place), reported(moving.cluster.server, moving.cluster.prefix, place)
        assert there.move is not None and (there.move.revision, there.move.servers) == (record.revision, ("old", "new"))
        assert there.move.error == "" and there.bundles == here.bundles and there.certificates == here.certificates
        # Each server knows its own credential of this node by the report.
        mount = f"auth/{new}/{place.split('/')[0]}/role/{name}"
        known = moving.to.api("LIST", f"{mount}/secret-id").data["keys"]
        assert set(there.in_use) <= set(known) and there.in_use != here.in_use
        # The secret of the join is worth nothing any more, and no file for others has one.
        secret = (node.state / "move" / "secret-id").read_text()
        assert secret not in (node.state / "servers.json").read_text()
        assert (node.state / "move").stat().st_mode & 0o777 == 0o700
        quiet = passed(node)
        assert not quiet.failures and not [each for each in quiet.events if each.name == "move"]
        shown = status.of_node(load_agent(node.config), datetime.now(UTC), ON_NODES, ask=False).standings
        assert any(
            f"to {moving.to.address} (hand-over 1); this node uses {moving.cluster.server.address}" in each
            for each in shown
        )
    moving.of("old")


def test_a_writer_of_the_old_store_sends_nobody_elsewhere(moving: MovingCluster) -> None:
    record, node = to(moving, State.PUBLISHED, "worker-1", "w-1"), moving.nodes["worker-1"]
    held: dict[str, bytes] = {}
    own = moving.to.audit_position()
    elsewhere = ServerPlace((moving.to.address,), "their/prefix", "", record.new.ca_pem)
    forged = [
        replace(record, new=elsewhere),
        replace(record, new=replace(record.new, addresses=(NOWHERE,))),
        replace(record, number=2),
        replace(record, new_root="ab" * 32),
        replace(record, cas={**record.cas, "etcd": replace(record.cas["etcd"], new_sha256="ab" * 32)}),
        replace(record, hand_over=(node.pki / "kubelet-client.crt").read_text().strip() + "\n"),
        replace(record, new=elsewhere, hand_over=(node.pki / "kubelet.crt").read_text()),
        replace(record, root="ab" * 32),
    ]
    for revision, each in enumerate(forged, record.revision + 1):
        at_old(moving, replace(each, revision=revision))
        outcome = passed(node)
        assert [*outcome.failures] == ["move"], outcome.failures
        assert "takes no hand-over" in str(outcome.failures["move"])
        # The first pass gives it the new CAs to trust, as its own server says.
        held = held or files(node)
        assert not (node.state / "move").exists() and files(node) == held
    assert requests(moving.to, own) == []
    # The right one counts all the same.
    at_old(moving, replace(record, revision=record.revision + len(forged) + 1))
    assert not passed(node).failures and (node.state / "move" / "secret-id").exists()


def test_the_credential_of_another_node_is_not_taken(moving: MovingCluster) -> None:
    to(moving, State.PUBLISHED, "worker-1", "w-1")
    server, prefix, node = moving.cluster.server, moving.cluster.prefix, moving.nodes["worker-1"]
    path = f"{prefix}/config/data/move/listed/worker-1"
    own = server.api("GET", path).data["data"]
    server.api("POST", path, {"data": {**own, "number": 2}})
    assert not passed(node).failures
    other = server.api("GET", f"{prefix}/config/data/move/pooled/autoscaled/w-1").data["data"]
    held = files(node)
    for wrong, why in (
        (other, "is of another node"),
        ({**own, "wrap_token": other["wrap_token"]}, "was not made for this node"),
        ({**own, "wrap_token": "s.none"}, "used already"),
        ({**own, "wrap_token": 7}, "move/listed/worker-1"),
    ):
        server.api("POST", path, {"data": wrong})
        outcome = passed(node)
        assert why in str(outcome.failures["move"]), outcome.failures
        assert files(node) == held and not (node.state / "move" / "secret-id").exists()
    # Whoever takes it first is seen by both: the node says so, and so does the next command.
    stolen = moving.to.api("POST", "sys/wrapping/unwrap", None, token=own["wrap_token"]).body["data"]["secret_id"]
    login = {"role_id": own["role_id"], "secret_id": stolen}
    assert moving.to.api("POST", "auth/elsewhere/moved/listed/login", login, token="").status == 200
    server.api("POST", path, {"data": own})
    outcome = passed(node)
    assert "used already, and not by this node" in str(outcome.failures["move"]) and files(node) == held
    record = moving.record()
    assert record is not None
    members = read_nodes(moving.old.cluster, moving.old.vault).members
    seen = [who.name for who in members if credentials.intercepted(moving.old, moving.new, record, who)]
    assert seen == ["worker-1"]
    vault = moving.new.vault
    for accessor in vault.api.auth.approle.list_secret_id_accessors(
        "worker-1", mount_point="elsewhere/moved/listed"
    ).keys:
        vault.api.auth.approle.destroy_secret_id_accessor("worker-1", accessor, mount_point="elsewhere/moved/listed")
    assert credentials.give(moving.old, moving.new, record, members) == 1
    own = server.api("GET", path).data["data"]
    server.api("DELETE", path.replace("/data/", "/metadata/"))
    # None at all is no failure: a command has to come first.
    assert not passed(node).failures
    server.api("POST", path, {"data": own})
    assert not passed(node).failures and (node.state / "move" / "secret-id").exists()


def test_no_damaged_file_takes_anything_from_a_node(moving: MovingCluster, tmp_path: Path) -> None:
    to(moving, State.PUBLISHED)
    to(moving, State.SWITCHED)
    node = moving.nodes["worker-1"]
    renewed(moving)
    moving.of("new")
    held = files(node)
    shutil.copytree(node.state, tmp_path / "state", symlinks=True)

    def restored() -> None:
        shutil.rmtree(node.state)
        shutil.copytree(tmp_path / "state", node.state, symlinks=True)

    good = json.loads((node.state / "servers.json").read_text())
    damages: list[tuple[str, bytes | None]] = [
        *(("servers.json", raw) for raw in (b"", b"{", b"[]", b"null", b"\xff" * 40)),
        *(("servers.json", json.dumps({**good, key: None}).encode()) for key in good),
        ("servers.json", json.dumps({**good, "closed": True}).encode()),
        ("servers.json", json.dumps({**good, "role_id": "other"}).encode()),
        *(("move/secret-id", raw) for raw in (b"", b"other", None)),
        *(("move/ca.pem", raw) for raw in (b"", b"x", None)),
        ("servers.json", None),
        *(("move/joined", raw) for raw in (b"{", None)),
        # From here on the node rolls its credential, and the one in the copy of its folder is worth nothing.
        *(("move/secret-id.json", raw) for raw in (b"{", None)),
    ]
    for name, raw in damages:
        file = node.state / name
        file.unlink()
        if raw is not None:
            file.touch(mode=0o600)
            file.write_bytes(raw)
        outcome = passed(node)
        passed(node)
        assert files(node) == held, (name, raw, outcome.failures)
        restored()
        if name == "servers.json":
            assert not passed(node).failures
    shutil.rmtree(node.state / "move")
    assert passed(node).failures and files(node) == held


def test_a_server_that_is_away_takes_nothing(moving: MovingCluster) -> None:
    to(moving, State.PUBLISHED)
    node = moving.nodes["worker-1"]
    passed(node)
    known = servers.load(str(node.state))
    assert known.place is not None
    # The new one is away in published: the node says so, and works as ever.
    servers.save(str(node.state), replace(known, place=replace(known.place, addresses=(NOWHERE,))))
    held = files(node)
    outcome = passed(node)
    assert [*outcome.failures] == ["move"] and NOWHERE in str(outcome.failures["move"]) and files(node) == held
    servers.save(str(node.state), known)
    to(moving, State.SWITCHED)
    renewed(moving)
    moving.of("new")
    # The old one is away in switched: the node renews at the new one.
    node.configure(moving.cluster.server.address, NOWHERE)
    forced = passed(node, "kubelet")
    assert [*forced.failures] == ["move"] and "kubelet" in forced.renewed
    moving.of("new", "worker-1")


def test_an_abort_ends_the_hand_over_and_its_number(moving: MovingCluster) -> None:
    record = to(moving, State.PUBLISHED)
    node = moving.nodes["worker-1"]
    passed(node)
    to(moving, State.SWITCHED)
    renewed(moving)
    moving.of("new")
    to(moving, State.RETURNING, back=True)
    renewed(moving)
    moving.of("old")
    ended = to(moving, State.STEADY, back=True)
    outcome = passed(node)
    assert not outcome.failures and not (node.state / "move").exists()
    assert servers.load(str(node.state)) == servers.KnownServers(highest=ended.revision, ended=1, reached=("old",))
    moving.of("old")
    # Whoever writes the old record back, with its hand-over that has not ended, reaches nobody.
    at_old(moving, replace(record, revision=ended.revision + 1))
    again, since = passed(node), moving.to.audit_position()
    assert not again.failures and not (node.state / "move").exists()
    at_old(moving, replace(record, revision=ended.revision + 2, state=State.SWITCHED))
    passed(node)
    assert requests(moving.to, since) == [] and not servers.load(str(node.state)).at_new
    moving.of("old", "worker-1")


def test_a_writer_of_the_new_store_brings_in_nothing(moving: MovingCluster) -> None:
    record = to(moving, State.PUBLISHED)
    node = moving.nodes["worker-1"]
    passed(node)
    held = files(node)
    elsewhere = ServerPlace((NOWHERE,), "their/prefix")
    forged = [
        replace(record, new=elsewhere, old=elsewhere),
        replace(record, state=State.SWITCHED, new=elsewhere, number=7),
        replace(record, state=State.DONE, number=7),
        replace(record, state=State.STEADY, old=elsewhere, revision=record.revision + 5000),
        replace(record, state=State.STEADY, old=elsewhere),
    ]
    for revision, each in enumerate(forged, record.revision + 1):
        at_new(moving, replace(each, revision=max(each.revision, revision)))
        passed(node)
        known = servers.load(str(node.state))
        assert known.place == record.new and not known.closed and files(node) == held
    # Even where it leads the node there: what lies there still says whose leaves it takes.
    at_new(moving, replace(record, revision=record.revision + 50, state=State.SWITCHED))
    for _ in range(3):
        passed(node)
    assert servers.load(str(node.state)).at_new
    assert files(node) == held
    moving.of("old", "worker-1")


def test_a_node_that_slept_until_the_old_ca_is_retired_goes_over(moving: MovingCluster) -> None:
    to(moving, State.PUBLISHED)
    server, prefix = moving.cluster.server, moving.cluster.prefix
    path = f"{prefix}/config/data/move/pooled/autoscaled/w-1"
    own = server.api("GET", path).data["data"]
    # It trusts the new CAs, and falls asleep before it has a credential.
    server.api("POST", path, {"data": {**own, "number": 2}})
    assert not passed(moving.nodes["w-1"]).failures
    to(moving, State.SWITCHED, "w-1")
    node = moving.nodes["worker-1"]
    assert not passed(node).failures and not passed(node, EVERY).failures
    record = to(moving, State.RETIRED, "w-1")
    slept = moving.nodes["w-1"]
    moving.of("old", "w-1")
    moving.step(Confirmations(("kubelet-serving-ca", "w-1")))
    outcome = passed(slept)
    # The old server signs nothing any more; the next pass asks the new one.
    assert {type(each) for each in outcome.failures.values()} == {SigningPaused}
    assert servers.load(str(slept.state)).at_new
    assert not passed(slept, EVERY).failures
    moving.of("new")
    # A hand-over by a CA that this node has no leaf of is worth nothing by then.
    trust = x509.read_certificates((slept.pki / "kubernetes-ca.crt").read_bytes())
    assert record.cas["kubernetes"].old_sha256 not in {each.fingerprint for each in trust}
