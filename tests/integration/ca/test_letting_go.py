"""The end of a rollback: `ca abort` gives turns until no process holds the CA that was deleted."""

from __future__ import annotations

import pytest

from helpers.vault.rotations import Rotation
from vaultpki.ca.run import Step
from vaultpki.errors import StateConflict
from vaultpki.procedures import ca_text
from vaultpki.records.rotation import Method, State

# Whose turn it is follows from reports alone.
pytestmark = pytest.mark.on_node


def waits(step: Step) -> dict[str, str]:
    return {each.node: each.reason for each in step.gate.waiting} if step.gate is not None else {}


def test_members_restart_by_turns_once_the_new_ca_is_deleted(rotation: Rotation) -> None:
    cp, etcd = rotation.nodes
    rotation.reach(State.PUBLISHED)
    rotation.reported()
    step = rotation.abort()
    assert step.moved and not step.ended and step.record.state is State.STEADY
    assert "has not read the latest step" in waits(step)["cp-1"]
    for node in rotation.nodes:
        node.passed(rotation.now, restarts=False)
    step = rotation.abort()
    assert not step.moved and step.record.turn == "cp-1" and rotation.record.state is State.STEADY
    assert waits(step)["cp-1"].endswith("healthy, and run `vaultpki ca abort`")
    assert waits(step)["etcd-2"] == "restarts etcd after cp-1, whose turn it is"
    (shown,) = [each for each in rotation.status() if each.domain == "etcd"]
    assert shown.gate is not None and {each.node for each in shown.gate.waiting} == {"cp-1", "etcd-2"}
    cp.passed(rotation.now)
    etcd.passed(rotation.now, restarts=False)
    assert rotation.abort().record.turn == "etcd-2"
    rotation.reported()
    step = rotation.abort()
    assert step.moved and step.ended and rotation.record.turn == "" and rotation.record.let_go
    rotation.reported()
    with pytest.raises(StateConflict, match="no CA of"):
        rotation.abort()
    assert all(each.gate is None for each in rotation.status())
    rotation.settled()


def test_a_new_rotation_begins_before_that_and_another_way_back_has_nothing_to_wait_for(rotation: Rotation) -> None:
    rotation.reach(State.PUBLISHED)
    assert not rotation.abort().ended
    rotation.begin()
    assert rotation.record.state is State.PREPARED and rotation.record.turn == ""
    # Of this one no node ever had a certificate, so nothing holds it.
    assert rotation.abort().ended
    rotation.begin(Method.SAME_KEY)
    rotation.moved()
    # Its key is that of the CA that stays.
    assert rotation.abort().ended


def test_what_nodes_calls_behind_is_told_by_ca_status_too(rotation: Rotation) -> None:
    """A member that still holds the CA that has left: no view says `run ca status` and leaves that one silent."""
    cp, _ = rotation.nodes
    old = cp.trust
    rotation.reach(State.DONE)
    rotation.reported()
    assert all(not each.behind for each in rotation.status())
    cp.started = old
    cp.passed(rotation.now, restarts=False)
    (etcd,) = [each for each in rotation.status() if each.domain == "etcd"]
    assert {each.node for each in etcd.behind} == {"cp-1"}
    text = "\n".join(ca_text.status_lines(rotation.status(), rotation.now, "cluster.yaml"))
    assert "These nodes do not use the bundle of etcd as it is:\n  cp-1  etcd was not started again since the" in text
    (shown,) = [
        each for each in ca_text.status_json(rotation.status(), rotation.now)["cas"] if each["domain"] == "etcd"
    ]
    assert {each["node"] for each in shown["waiting_for"]} == {"cp-1"}
