"""What happens to a rotation by hand, by chance or by another operator: it ends well, or in one sentence."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

import pytest

from helpers.node.reporting_nodes import Reporter, shown
from helpers.vault.rotations import SPEC, Rotation
from vaultpki.ca import commands
from vaultpki.ca.run import Step
from vaultpki.errors import Attention, Refused, SpecError, StateConflict, VaultpkiError
from vaultpki.provision import apply, authorities
from vaultpki.provision.carry_out import carry_out
from vaultpki.records import rotation as rotation_record
from vaultpki.records.rotation import Kept, Method, State
from vaultpki.records.server_facts import ServerFacts
from vaultpki.rotation.states import FULL, NO_SIGNING

conformance = pytest.mark.conformance


def some(*sample: Any, of: tuple[Any, ...]) -> list[Any]:
    """Every case for `make conformance`, and those of the sample for every run."""
    return [
        pytest.param(*(each if isinstance(each, tuple) else (each,)), marks=() if each in sample else conformance)
        for each in of
    ]


def deleted(rotation: Rotation, what: str, name: str) -> None:
    assert rotation.cluster.server.api("DELETE", f"{rotation.cluster.prefix}/etcd/{what}/{name}").status in (200, 204)


def at_once(*acts: Callable[[], object]) -> list[object]:
    """What each of these gives or raises, begun in the same moment."""
    start = threading.Barrier(len(acts))
    results: list[object] = [None] * len(acts)

    def run(index: int) -> None:
        start.wait()
        try:
            results[index] = acts[index]()
        except VaultpkiError as error:
            results[index] = error

    threads = [threading.Thread(target=run, args=(index,)) for index in range(len(acts))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return results


def test_two_operators_never_both_take_a_step(rotation: Rotation) -> None:
    cluster = rotation.cluster.model
    vaults = rotation.cluster.client(), rotation.cluster.client()
    rotation.begin()
    while rotation.record.active:
        before = rotation.record
        rotation.reported()
        results = at_once(*(lambda v=vault: commands.advance(cluster, v, rotation.now) for vault in vaults))
        moved = [each for each in results if isinstance(each, Step) and each.moved]
        errors = [each for each in results if isinstance(each, Exception)]
        assert len(moved) <= 1, results
        assert all(isinstance(error, Refused) and "another operator" in str(error) for error in errors), errors
        after = rotation.record
        assert after.state in (before.state, *(step.record.state for step in moved))
        if not moved and after.state is before.state:
            rotation.advance()
    with pytest.raises(StateConflict, match="no CA of"):
        rotation.advance()
    assert rotation.names() == ({"etcd-2"}, {"etcd-2"}, "etcd-2")
    rotation.settled()


def test_an_issuer_that_another_operator_deletes_meanwhile_is_gone_and_no_outage(rotation: Rotation) -> None:
    """Both servers answer with 500 then, which would be asked again until the command gives up."""
    pki = rotation.cluster.client().api.secrets.pki
    answer = pki.read_issuer("0f1d7d4e-3f5b-4a6c-9d1e-2b3c4d5e6f70", mount_point=rotation.cluster.model.mount("etcd"))
    assert not answer.found and answer.data == {}


@pytest.mark.conformance
def test_two_operators_who_begin_two_rotations(rotation: Rotation) -> None:
    cluster = rotation.cluster.model

    def begin(domain: str) -> Callable[[], object]:
        vault = rotation.cluster.client()
        return lambda: commands.rotate(cluster, vault, domain, Method.NEW_KEY, 60, rotation.now)

    results = at_once(begin("etcd"), begin("kubernetes"))
    begun = [each for each in results if not isinstance(each, Exception)]
    assert len(begun) <= 1
    for error in results:
        assert not isinstance(error, Exception) or "is being rotated" in str(error), error
    active = [each.record for each in commands.status(cluster, rotation.vault, rotation.now) if each.record]
    assert sum(record.active for record in active) == len(begun)


@pytest.mark.parametrize(
    "state", some(State.SWITCHED, of=(State.PREPARED, State.PUBLISHED, State.SWITCHED, State.RETIRED, State.DONE))
)
def test_an_issuer_that_was_deleted_is_signed_again_for_its_key(rotation: Rotation, state: State) -> None:
    rotation.reach(state)
    leaf = rotation.record.leaf
    key = shown(rotation.cluster, "etcd")[leaf.name].public_key
    deleted(rotation, "issuer", leaf.name)
    plan = rotation.cluster.plan()
    (danger,) = plan["dangers"]
    assert leaf.name in danger["name"] and "vaultpki ca continue" in danger["reason"]
    assert [change for change in plan["changes"] if change["kind"] == "issuer"] == []
    rotation.advance()
    again = shown(rotation.cluster, "etcd")[leaf.name]
    assert again.public_key == key
    record = rotation.record
    # From prepared the next step waits for nobody.
    assert record.state is (State.PUBLISHED if state is State.PREPARED else state)
    assert record.leaf.sha256 == again.fingerprint and again.fingerprint in record.trust
    assert rotation.names()[2] == leaf.name
    rotation.settled()
    while rotation.record.active:
        rotation.moved()
    assert rotation.names() == ({"etcd-2"}, {"etcd-2"}, "etcd-2")


@pytest.mark.parametrize(
    ("state", "words"),
    some(
        (State.RETIRED, "ca abort"),
        of=(
            (State.PUBLISHED, "ca continue"),
            (State.SWITCHED, "ca abort"),
            (State.RETIRED, "ca abort"),
            (State.DONE, "ca rotate etcd"),
        ),
    ),
)
def test_a_ca_whose_key_is_gone_too(rotation: Rotation, state: State, words: str) -> None:
    rotation.reach(state)
    name = rotation.record.leaf.name
    deleted(rotation, "issuer", name)
    deleted(rotation, "key", name)
    rotation.reported()
    (one,) = [each for each in rotation.status() if each.record]
    assert one.problem.startswith(f"the CA {name} and its key are gone from") and words in one.problem
    if state in (State.SWITCHED, State.RETIRED):
        with pytest.raises(StateConflict, match="ca abort"):
            rotation.advance()
        while rotation.record.active:
            rotation.moved(rotation.abort)
        assert rotation.names() == ({"etcd-1"}, {"etcd-1"}, "etcd-1")
    elif state is State.PUBLISHED:
        with pytest.raises(StateConflict, match="ca continue"):
            rotation.abort()
        while rotation.record.active:
            rotation.moved()
        assert rotation.names() == ({"etcd-2"}, {"etcd-2"}, "etcd-2")
    else:
        assert "ca rotate etcd" in rotation.advance().note
        rotation.reach(State.DONE)
        assert rotation.names() == ({"etcd-3"}, {"etcd-3"}, "etcd-3")
    rotation.settled()


def revoked(rotation: Rotation, name: str) -> None:
    path = f"{rotation.cluster.prefix}/etcd/issuer/{name}/revoke"
    assert rotation.cluster.server.api("POST", path).status == 200


@pytest.mark.conformance
def test_a_new_ca_that_was_revoked_is_left_by_the_way_back(rotation: Rotation) -> None:
    rotation.reach(State.SWITCHED)
    revoked(rotation, "etcd-2")
    rotation.reported()
    with pytest.raises(
        StateConflict, match=r"somebody revoked the CA etcd-2 .*`vaultpki ca abort` goes back to etcd-1"
    ):
        rotation.advance()
    while rotation.record.active:
        rotation.moved(rotation.abort)
    assert rotation.names() == ({"etcd-1"}, {"etcd-1"}, "etcd-1")
    rotation.settled()


@pytest.mark.conformance
def test_an_old_ca_that_was_revoked_is_left_by_going_on(rotation: Rotation) -> None:
    rotation.reach(State.PUBLISHED)
    revoked(rotation, "etcd-1")
    rotation.reported()
    with pytest.raises(StateConflict, match="somebody revoked the CA etcd-1"):
        rotation.abort()
    while rotation.record.active:
        rotation.moved()
    assert rotation.names() == ({"etcd-2"}, {"etcd-2"}, "etcd-2")
    rotation.settled()


@pytest.mark.conformance
def test_a_late_change_by_hand_is_corrected_before_the_next_step(rotation: Rotation) -> None:
    rotation.reach(State.RETIRED)
    mount = f"{rotation.cluster.prefix}/etcd"
    ids = {
        each["issuer_name"]: id_
        for id_, each in rotation.cluster.server.api("LIST", f"{mount}/issuers").data["key_info"].items()
    }
    rotation.cluster.server.api("POST", f"{mount}/config/issuers", {"default": ids["etcd-1"]})
    change = {"default": (False, True)}
    shown_changes = {each["name"]: each["fields"] for each in rotation.cluster.plan()["changes"]}
    assert {name: (side["from"], side["to"]) for name, side in shown_changes[mount].items()} == change
    assert not rotation.advance().moved
    assert rotation.names()[2] == "etcd-2" and not rotation.signs("etcd-1")
    rotation.settled()


@pytest.mark.conformance
def test_a_server_where_each_new_issuer_becomes_the_default(rotation: Rotation) -> None:
    mount = f"{rotation.cluster.prefix}/etcd"
    default = rotation.cluster.read(f"{mount}/config/issuers")["default"]
    body = {"default": default, "default_follows_latest_issuer": True}
    assert rotation.cluster.server.api("POST", f"{mount}/config/issuers", body).status == 200
    rotation.reach(State.PUBLISHED)
    assert rotation.names()[2] == "etcd-1"


@pytest.mark.conformance
def test_what_a_second_operator_signed_for_the_same_key_is_deleted(rotation: Rotation) -> None:
    rotation.reach(State.PREPARED)
    mount, name = f"{rotation.cluster.prefix}/etcd", f"{rotation.cluster.name} etcd CA 2"
    key = rotation.cluster.read(f"{mount}/key/etcd-2")["key_id"]
    server = rotation.cluster.server

    def sign() -> str:
        body: dict[str, Any] = {"common_name": name, "key_ref": key}
        csr = server.api("POST", f"{mount}/intermediate/generate/existing", body).data["csr"]
        body = {"common_name": name, "csr": csr, "ttl": "8760h", "max_path_length": 0, "not_before_duration": "10m"}
        pem = server.api("POST", f"{rotation.cluster.prefix}/root/root/sign-intermediate", body).data["certificate"]
        taken = server.api("POST", f"{mount}/intermediate/set-signed", {"certificate": pem}).data
        return str(taken["imported_issuers"][0])

    made = {sign(), sign()}
    assert rotation.moved() is State.PUBLISHED
    assert rotation.names()[0] == {"etcd-1", "etcd-2"}
    assert rotation.record.new is not None and rotation.record.new.issuer in made


# A server that was set back to a snapshot: the mount and the store as they were, the nodes as they are.


class Snapshot:
    """The record, the reports and the default of a moment, which a test brings back. The issuers are still there."""

    def __init__(self, rotation: Rotation) -> None:
        self.rotation = rotation
        self.paths = [
            f"rotation/{rotation.domain}",
            *(rotation.cluster.report_place(node.name) for node in rotation.nodes),
        ]
        self.values = {path: self._read(path) for path in self.paths}
        self.default = rotation.cluster.read(f"{rotation.cluster.prefix}/etcd/config/issuers")["default"]

    def _read(self, path: str) -> Any:
        answer = self.rotation.cluster.server.api("GET", f"{self.rotation.cluster.prefix}/config/data/{path}")
        return answer.data["data"] if answer.status == 200 else None

    def restore(self) -> None:
        cluster = self.rotation.cluster
        for path, value in self.values.items():
            if value is None:
                assert cluster.server.api("DELETE", f"{cluster.prefix}/config/metadata/{path}").status in (200, 204)
            else:
                assert cluster.server.api("POST", f"{cluster.prefix}/config/data/{path}", {"data": value}).status == 200
        body = {"default": self.default}
        assert cluster.server.api("POST", f"{cluster.prefix}/etcd/config/issuers", body).status == 200


def trusted_by_all(rotation: Rotation) -> bool:
    """Whether each node trusts the CA of every node's leaves, on disk and in its processes."""
    certificates = shown(rotation.cluster, "etcd").values()
    by_key = {facts.subject_key_id: facts.fingerprint for facts in certificates}
    used = {by_key[node.leaf] for node in rotation.nodes}
    return all(used <= node.trust and used <= node.started for node in rotation.nodes)


@pytest.mark.parametrize(
    ("taken", "later", "then"),
    some(
        (State.PUBLISHED, State.RETIRED, Kept.NEW),
        of=(
            (State.PUBLISHED, State.SWITCHED, Kept.NEW),
            (State.PUBLISHED, State.RETIRED, Kept.NEW),
            (State.SWITCHED, State.RETIRED, Kept.NEW),
        ),
    ),
)
def test_a_server_that_was_set_back(rotation: Rotation, taken: State, later: State, then: Kept) -> None:
    rotation.reach(taken)
    snapshot = Snapshot(rotation)
    while rotation.record.state is not later:
        rotation.moved()
    rotation.reported()
    snapshot.restore()
    before, leaves = max(node.highest for node in rotation.nodes), [node.leaf for node in rotation.nodes]
    # One node finds it out; from then on every command but one only says so.
    rotation.nodes[0].passed(rotation.now)
    start = rotation.cluster.server.audit_position()
    acts: tuple[Callable[[], object], ...] = (rotation.advance, rotation.abort, lambda: begin_other(rotation))
    for act in acts:
        with pytest.raises(Attention, match=r"cp-1 says that it has read a newer record.*vaultpki ca recover etcd"):
            act()
    (told,) = [each.problem for each in rotation.status() if each.problem]
    assert "vaultpki ca recover etcd" in told
    assert rotation.cluster.server.writes(start) == []
    rotation.later(5)
    rotation.nodes[1].passed(rotation.now)
    record = rotation.recover()
    assert (record.state, record.kept) == (State.RETRUSTING, then) and record.revision > before
    for turn in range(8):
        for node in rotation.nodes:
            node.passed(rotation.now, restarts=turn % 2 == 1)
            assert trusted_by_all(rotation)
        if rotation.record.kept is not None:
            assert [node.leaf for node in rotation.nodes] == leaves
        rotation.later()
        if rotation.record.active:
            rotation.advance()
    assert rotation.record.state is State.DONE
    assert rotation.names() == ({"etcd-2"}, {"etcd-2"}, "etcd-2")
    rotation.settled()


def begin_other(rotation: Rotation) -> object:
    return commands.rotate(rotation.cluster.model, rotation.vault, "kubelet", Method.NEW_KEY, 60, rotation.now)


@pytest.mark.conformance
def test_a_server_that_was_set_back_after_the_way_back(rotation: Rotation) -> None:
    """Every leaf is of the old CA again, and nobody trusts the new one: each node keeps its leaf, and goes back."""
    rotation.reach(State.PUBLISHED)
    snapshot = Snapshot(rotation)
    rotation.reported()
    # The snapshot has the new issuer, so it stays here.
    steady = rotation_record.to_json(rotation.record.moved(State.STEADY, rotation.now))
    path = f"{rotation.cluster.prefix}/config/data/rotation/etcd"
    assert rotation.cluster.server.api("POST", path, {"data": steady}).status == 200
    rotation.reported()
    assert all(len(node.trust) == 1 for node in rotation.nodes)
    snapshot.restore()
    rotation.reported()
    assert rotation.recover().kept is Kept.OLD
    for _ in range(5):
        rotation.reported()
        assert trusted_by_all(rotation)
        if rotation.record.active:
            rotation.abort()
    assert rotation.record.state is State.STEADY
    assert rotation.names() == ({"etcd-1"}, {"etcd-1"}, "etcd-1")


@pytest.mark.conformance
def test_a_snapshot_of_before_the_rotation_loses_the_new_ca(rotation: Rotation) -> None:
    """The key is lost: nodes keep their certificates, trust the old CA again, and go back to it."""
    snapshot = Snapshot(rotation)
    old = rotation.cluster.read(f"{rotation.cluster.prefix}/etcd/config/issuers")["default"]
    rotation.reach(State.RETIRED)
    rotation.reported()
    snapshot.restore()
    deleted(rotation, "issuer", "etcd-2")
    deleted(rotation, "key", "etcd-2")
    authorities.update_issuer(rotation.vault, f"{rotation.cluster.prefix}/etcd", old, {"usage": FULL})
    rotation.reported()
    lost = {node.leaf for node in rotation.nodes}
    record = rotation.recover()
    assert (record.state, record.kept) == (State.RETRUSTING, Kept.OLD)
    rotation.reported()
    assert {node.leaf for node in rotation.nodes} == lost and all(len(node.trust) == 2 for node in rotation.nodes)
    with pytest.raises(StateConflict, match=r"the CA etcd-2 and its key are gone.*ca abort"):
        rotation.advance()
    while rotation.record.active:
        rotation.moved(rotation.abort)
    assert rotation.names() == ({"etcd-1"}, {"etcd-1"}, "etcd-1")
    rotation.settled()
    again = rotation.begin()
    assert again.new is not None and again.new.name == "etcd-3"


@pytest.mark.parametrize(
    ("state", "then", "way"),
    some(
        (State.RETIRED, Kept.NEW, "data"),
        of=tuple(
            (state, then, way)
            for way in ("data", "metadata")
            for state, then in (
                (State.PUBLISHED, Kept.OLD),
                (State.SWITCHED, Kept.NEW),
                (State.RETIRED, Kept.NEW),
                (State.DONE, None),
            )
        ),
    ),
)
def test_a_record_that_was_deleted(rotation: Rotation, state: State, then: Kept | None, way: str) -> None:
    rotation.reach(state)
    rotation.reported()
    before = rotation.record.revision
    path = f"{rotation.cluster.prefix}/config/{way}/rotation/etcd"
    assert rotation.cluster.server.api("DELETE", path).status in (200, 204)
    plan, names = rotation.cluster.plan(), rotation.names()
    assert all("vaultpki ca recover etcd" in danger["reason"] for danger in plan["dangers"])
    assert any("etcd-2" in danger["name"] for danger in plan["dangers"])
    # An apply only tells agents that something has changed.
    notice = f"{rotation.cluster.prefix}/config/data/changes"
    assert [change["name"] for change in plan["changes"]] == [notice.replace("/data/", "/")]
    assert [where for _, where in rotation.cluster.applied()[1]] == [notice] and rotation.names() == names
    for act in (rotation.begin, rotation.advance):
        with pytest.raises(Attention, match="ca recover etcd"):
            act()
    (told,) = [each.problem for each in rotation.status() if each.problem]
    assert "record of etcd" in told and "vaultpki ca recover etcd" in told
    rotation.reported()
    record = rotation.recover()
    assert record.state is (State.RETRUSTING if then else State.STEADY)
    assert record.kept is then and record.revision > before
    for _ in range(5):
        rotation.reported()
        assert trusted_by_all(rotation)
        if rotation.record.active:
            rotation.advance()
    assert rotation.names() == ({"etcd-2"}, {"etcd-2"}, "etcd-2")
    rotation.settled()


@pytest.mark.conformance
def test_a_record_that_was_deleted_where_nobody_reports(rotation: Rotation) -> None:
    rotation.reach(State.DONE)
    for node in rotation.nodes:
        rotation.cluster.server.api("DELETE", rotation.cluster.report_path(node.name, data="metadata"))
    rotation.cluster.server.api("DELETE", f"{rotation.cluster.prefix}/config/metadata/rotation/etcd")
    assert rotation.recover().state is State.STEADY
    rotation.settled()
    again = rotation.begin()
    assert again.new is not None and again.new.name == "etcd-3"


@pytest.mark.conformance
def test_a_record_that_somebody_edited(rotation: Rotation) -> None:
    rotation.reach(State.SWITCHED)
    rotation.reported()
    path = f"{rotation.cluster.prefix}/config/data/rotation/etcd"
    value = {**rotation.cluster.read(path)["data"], "state": "nearly done"}
    assert rotation.cluster.server.api("POST", path, {"data": value}).status == 200
    start = rotation.cluster.server.audit_position()
    for act in (rotation.status, rotation.advance, rotation.abort):
        with pytest.raises(SpecError, match=r"is not a record that vaultpki wrote.*metadata delete.*ca recover etcd"):
            act()
    rotation.cluster.refused("is not a record that vaultpki wrote")
    assert rotation.cluster.server.writes(start) == []
    deletion = f"{rotation.cluster.prefix}/config/metadata/rotation/etcd"
    assert rotation.cluster.server.api("DELETE", deletion).status in (200, 204)
    rotation.reported()
    assert rotation.recover().state is State.RETRUSTING
    rotation.reach_on(State.DONE)
    rotation.settled()
    # What a newer vaultpki wrote is left alone.
    value = {**rotation.cluster.read(path)["data"], "version": 9}
    rotation.cluster.server.api("POST", path, {"data": value})
    with pytest.raises(SpecError, match="version") as error:
        rotation.status()
    assert "delete" not in str(error.value)


def test_an_apply_that_was_planned_before_the_rotation_changes_no_ca(rotation: Rotation) -> None:
    cluster, mount = rotation.cluster, f"{rotation.cluster.prefix}/etcd"
    vault = cluster.client()
    authorities.update_issuer(vault, mount, "etcd-1", {"usage": NO_SIGNING})
    seen, todo = apply.observe_and_plan(cluster.model, vault, ServerFacts(vault.addresses, vault.settings.ca_pem))
    assert [change.key for change in todo.changes] == [("issuer", mount)]
    rotation.begin()
    assert rotation.signs("etcd-1")
    before = rotation.names()
    with pytest.raises(Refused, match="the rotation of etcd has gone on since the plan was made"):
        list(carry_out(cluster.model, vault, seen, todo, lambda change: None))
    assert rotation.names() == before
    rotation.settled()


@pytest.mark.conformance
def test_a_false_report_delays_and_sets_nothing_back(rotation: Rotation) -> None:
    """Two of three nodes say what is so; the third one holds the gate until a person leaves it out."""
    rotation.cluster.write(
        SPEC.replace("pools:", "- {name: cp-3, roles: [control-plane], addresses: [10.0.0.13]}\npools:")
    )
    rotation.cluster.apply()
    rotation.cluster.equip("cp-3")
    liar = Reporter(rotation.cluster, "cp-3", "etcd")
    rotation.nodes.append(liar)
    rotation.reach(State.PUBLISHED)
    liar.highest = 900
    rotation.reported()
    with pytest.raises(Attention, match="cp-3 says that it has read a newer record"):
        rotation.advance()
    (claim,) = [each for each in rotation.proposed().claims if each.note]
    assert claim.node == "cp-3" and "alone says so" in claim.note and claim.highest == 900
    assert not rotation.proposed("cp-3").why and rotation.record.state is State.PUBLISHED
    assert rotation.advance(without=("cp-3",)).record.state is State.SWITCHED
