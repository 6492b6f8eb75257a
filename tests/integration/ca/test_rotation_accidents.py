"""What happens to a rotation by hand, by chance or by another operator: it ends well, or in one sentence.

One cluster meets a kind of accident in each state, one rotation after the other: a sample for every run, and all of
them for `make conformance`.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from typing import Any

import pytest

from helpers.node.reporting_nodes import shown
from helpers.vault.rotations import Rotation
from helpers.vault.snapshots import Snapshot
from vaultpki.ca import commands
from vaultpki.ca.run import Step
from vaultpki.errors import Attention, Refused, SpecError, StateConflict, VaultpkiError
from vaultpki.provision import apply, authorities
from vaultpki.provision.carry_out import carry_out
from vaultpki.records import rotation as rotation_record
from vaultpki.records.rotation import CaRef, Kept, Method, State
from vaultpki.records.server_facts import ServerFacts
from vaultpki.vault.issuer import NO_SIGNING

conformance = pytest.mark.conformance


def sample_and_all(name: str, cases: Sequence[Any], sample: int) -> pytest.MarkDecorator:
    """The case of this number for every run, and all of them for `make conformance`."""
    params = [
        pytest.param([cases[sample]], id="sample", marks=pytest.mark.sample),
        pytest.param([*cases], id="all", marks=conformance),
    ]
    return pytest.mark.parametrize(name, params)


def deleted(rotation: Rotation, what: str, name: str) -> None:
    assert rotation.cluster.server.api("DELETE", f"{rotation.cluster.prefix}/etcd/{what}/{name}").status in (200, 204)


def ends_with(rotation: Rotation, name: str) -> None:
    """The rotation goes on to its end, or back if `name` is that of the old CA, which alone is left then."""
    back = rotation.record.old.name == name
    while rotation.record.active:
        rotation.moved(rotation.abort if back else None)
    assert rotation.names() == ({name}, {name}, name)
    rotation.settled()


def names_of(rotation: Rotation) -> tuple[str, str]:
    """The names of the old CA and the new one."""
    record = rotation.record
    assert record.new is not None
    return record.old.name, record.new.name


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
    # Both servers answer with 500 for an issuer that is gone, and a command would ask again until it gives up.
    pki = vaults[0].api.secrets.pki
    answer = pki.read_issuer("0f1d7d4e-3f5b-4a6c-9d1e-2b3c4d5e6f70", mount_point=cluster.mount("etcd"))
    assert not answer.found and answer.data == {}
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
    ends_with(rotation, "etcd-2")


@pytest.mark.on_node
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


@sample_and_all("states", (State.PREPARED, State.PUBLISHED, State.SWITCHED, State.RETIRED, State.DONE), 2)
def test_an_issuer_that_was_deleted_is_signed_again_for_its_key(rotation: Rotation, states: Sequence[State]) -> None:
    an_apply_that_was_planned_before_the_rotation_changes_no_ca(rotation)
    for state in states:
        rotation.reach(state)
        leaf, new = rotation.record.leaf, names_of(rotation)[1]
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
        ends_with(rotation, new)


def an_apply_that_was_planned_before_the_rotation_changes_no_ca(rotation: Rotation) -> None:
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
    assert rotation.abort().ended


@sample_and_all(
    "cases",
    (
        (State.PUBLISHED, "ca continue"),
        (State.SWITCHED, "ca abort"),
        (State.RETIRED, "ca abort"),
        (State.DONE, "ca rotate etcd"),
    ),
    2,
)
def test_a_ca_whose_key_is_gone_too(rotation: Rotation, cases: Sequence[tuple[State, str]]) -> None:
    for state, words in cases:
        rotation.reach(state)
        old, new = names_of(rotation)
        name = rotation.record.leaf.name
        deleted(rotation, "issuer", name)
        deleted(rotation, "key", name)
        rotation.reported()
        (one,) = [each for each in rotation.status() if each.record]
        assert one.problem.startswith(f"{CaRef(name).title} and its certificate are gone from") and words in one.problem
        if state is State.DONE:
            assert "ca rotate etcd" in rotation.advance().note
            rotation.reach(State.DONE)
            ends_with(rotation, names_of(rotation)[1])
        else:
            onward = state is State.PUBLISHED
            with pytest.raises(StateConflict, match=words):
                (rotation.abort if onward else rotation.advance)()
            ends_with(rotation, new if onward else old)


@pytest.mark.conformance
def test_a_ca_that_was_revoked_is_left(rotation: Rotation) -> None:
    """The new one by the way back, the old one by going on."""
    for state, index, act in ((State.SWITCHED, 1, rotation.advance), (State.PUBLISHED, 0, rotation.abort)):
        rotation.reach(state)
        names = names_of(rotation)
        path = f"{rotation.cluster.prefix}/etcd/issuer/{names[index]}/revoke"
        assert rotation.cluster.server.api("POST", path).status == 200
        rotation.reported()
        with pytest.raises(StateConflict, match=f"somebody revoked {CaRef(names[index]).title} "):
            act()
        ends_with(rotation, names[1 - index])


@pytest.mark.conformance
def test_changes_of_the_mount_by_hand(rotation: Rotation) -> None:
    """What two operators signed for one key is one issuer then, and each new issuer would become the default."""
    mount, name = f"{rotation.cluster.prefix}/etcd", f"{rotation.cluster.name} etcd CA 2"
    api, default = rotation.cluster.server.api, rotation.cluster.read(f"{mount}/config/issuers")["default"]
    body: dict[str, Any] = {"default": default, "default_follows_latest_issuer": True}
    assert api("POST", f"{mount}/config/issuers", body).status == 200
    rotation.reach(State.PREPARED)
    key = rotation.cluster.read(f"{mount}/key/etcd-2")["key_id"]

    def sign() -> str:
        body: dict[str, Any] = {"common_name": name, "key_ref": key}
        csr = api("POST", f"{mount}/intermediate/generate/existing", body).data["csr"]
        body = {"common_name": name, "csr": csr, "ttl": "8760h", "max_path_length": 0, "not_before_duration": "10m"}
        pem = api("POST", f"{rotation.cluster.prefix}/root/root/sign-intermediate", body).data["certificate"]
        taken = api("POST", f"{mount}/intermediate/set-signed", {"certificate": pem}).data
        return str(taken["imported_issuers"][0])

    made = {sign(), sign()}
    assert rotation.moved() is State.PUBLISHED
    assert rotation.names()[0] == {"etcd-1", "etcd-2"} and rotation.names()[2] == "etcd-1"
    assert rotation.record.new is not None and rotation.record.new.issuer in made
    # A late change is corrected before the next step.
    rotation.reach_on(State.RETIRED)
    api("POST", f"{mount}/config/issuers", {"default": default})
    shown_changes = {each["name"]: each["fields"] for each in rotation.cluster.plan()["changes"]}
    assert {name: (side["from"], side["to"]) for name, side in shown_changes[mount].items()} == {
        "default": (False, True)
    }
    assert not rotation.advance().moved
    assert rotation.names()[2] == "etcd-2" and not rotation.signs("etcd-1")
    rotation.settled()


# A server that was set back to a snapshot: the mount and the store as they were, the nodes as they are.


def trusted_by_all(rotation: Rotation) -> bool:
    """Whether each node trusts the CA of every node's leaves, on disk and in its processes."""
    certificates = shown(rotation.cluster, "etcd").values()
    by_key = {facts.subject_key_id: facts.fingerprint for facts in certificates}
    used = {by_key[node.leaf] for node in rotation.nodes}
    return all(used <= node.trust and used <= node.started for node in rotation.nodes)


def stays_trusted(rotation: Rotation, act: Callable[[], object], rounds: int = 5) -> None:
    for _ in range(rounds):
        rotation.reported()
        assert trusted_by_all(rotation)
        if rotation.record.active:
            act()


@pytest.mark.on_node
@sample_and_all(
    "cases",
    (
        (State.PUBLISHED, State.SWITCHED),
        (State.PUBLISHED, State.RETIRED),
        (State.SWITCHED, State.RETIRED),
    ),
    1,
)
def test_a_server_that_was_set_back(rotation: Rotation, cases: Sequence[tuple[State, State]]) -> None:
    for taken, later in cases:
        rotation.reach(taken)
        snapshot = Snapshot.of(rotation.cluster, ["etcd"], usages=False)
        rotation.reach_on(later)
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
        assert (record.state, record.kept) == (State.RETRUSTING, Kept.NEW) and record.revision > before
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
        ends_with(rotation, names_of(rotation)[1])


def begin_other(rotation: Rotation) -> object:
    return commands.rotate(rotation.cluster.model, rotation.vault, "kubelet", Method.NEW_KEY, 60, rotation.now)


@pytest.mark.on_node
@pytest.mark.conformance
def test_a_server_that_was_set_back_after_the_way_back(rotation: Rotation) -> None:
    """Every leaf is of the old CA again, and nobody trusts the new one: each node keeps its leaf, and goes back."""
    rotation.reach(State.PUBLISHED)
    snapshot = Snapshot.of(rotation.cluster, ["etcd"], usages=False)
    rotation.reported()
    # The snapshot has the new issuer, so it stays here.
    steady = rotation_record.to_json(rotation.record.moved(State.STEADY, rotation.now))
    put(rotation, steady)
    rotation.reported()
    assert all(len(node.trust) == 1 for node in rotation.nodes)
    snapshot.restore()
    rotation.reported()
    assert rotation.recover().kept is Kept.OLD
    stays_trusted(rotation, rotation.abort)
    ends_with(rotation, "etcd-1")


@pytest.mark.on_node
@pytest.mark.conformance
def test_a_snapshot_of_before_the_rotation_loses_the_new_ca(rotation: Rotation) -> None:
    """The key is lost: nodes keep their certificates, trust the old CA again, and go back to it."""
    snapshot = Snapshot.of(rotation.cluster, ["etcd"])
    rotation.reach(State.RETIRED)
    rotation.reported()
    snapshot.restore()
    deleted(rotation, "key", "etcd-2")
    rotation.reported()
    lost = {node.leaf for node in rotation.nodes}
    record = rotation.recover()
    assert (record.state, record.kept) == (State.RETRUSTING, Kept.OLD)
    rotation.reported()
    assert {node.leaf for node in rotation.nodes} == lost and all(len(node.trust) == 2 for node in rotation.nodes)
    with pytest.raises(StateConflict, match=r"key 2 of the CA etcd and its certificate are gone.*ca abort"):
        rotation.advance()
    ends_with(rotation, "etcd-1")
    again = rotation.begin()
    assert again.new is not None and again.new.name == "etcd-3"


def record_path(rotation: Rotation, way: str = "data") -> str:
    return f"{rotation.cluster.prefix}/config/{way}/rotation/etcd"


def put(rotation: Rotation, value: object) -> None:
    assert rotation.cluster.server.api("POST", record_path(rotation), {"data": value}).status == 200


def lose(rotation: Rotation, way: str = "metadata") -> None:
    assert rotation.cluster.server.api("DELETE", record_path(rotation, way)).status in (200, 204)


@pytest.mark.on_node
@sample_and_all(
    "cases",
    (
        (State.PUBLISHED, Kept.OLD, "data"),
        (State.SWITCHED, Kept.NEW, "metadata"),
        (State.RETIRED, Kept.NEW, "data"),
        (State.DONE, None, "metadata"),
    ),
    2,
)
def test_a_record_that_was_deleted(rotation: Rotation, cases: Sequence[tuple[State, Kept | None, str]]) -> None:
    for state, then, way in cases:
        rotation.reach(state)
        rotation.reported()
        before, new = rotation.record.revision, names_of(rotation)[1]
        lose(rotation, way)
        plan, names = rotation.cluster.plan(), rotation.names()
        assert all("vaultpki ca recover etcd" in danger["reason"] for danger in plan["dangers"])
        assert any(new in danger["name"] for danger in plan["dangers"])
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
        stays_trusted(rotation, rotation.advance)
        ends_with(rotation, new)


@pytest.mark.on_node
@pytest.mark.conformance
def test_a_record_that_somebody_edited(rotation: Rotation) -> None:
    rotation.reach(State.SWITCHED)
    rotation.reported()
    put(rotation, {**rotation.cluster.read(record_path(rotation))["data"], "state": "nearly done"})
    start = rotation.cluster.server.audit_position()
    for act in (rotation.status, rotation.advance, rotation.abort):
        with pytest.raises(SpecError, match=r"is not a record that vaultpki wrote.*metadata delete.*ca recover etcd"):
            act()
    rotation.cluster.refused("is not a record that vaultpki wrote")
    assert rotation.cluster.server.writes(start) == []
    lose(rotation)
    rotation.reported()
    assert rotation.recover().state is State.RETRUSTING
    rotation.reach_on(State.DONE)
    rotation.settled()
    # What a newer vaultpki wrote is left alone.
    put(rotation, {**rotation.cluster.read(record_path(rotation))["data"], "version": 9})
    with pytest.raises(SpecError, match="version") as error:
        rotation.status()
    assert "delete" not in str(error.value)
    # One that is gone where nobody reports.
    for node in rotation.nodes:
        rotation.cluster.server.api("DELETE", rotation.cluster.report_path(node.name, data="metadata"))
    lose(rotation)
    assert rotation.recover().state is State.STEADY
    rotation.settled()
    again = rotation.begin()
    assert again.new is not None and again.new.name == "etcd-3"
