"""A step that a command with `--wait` wants, once another operator has decided otherwise: the record decides."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta

import pytest

from helpers.node.root_reporters import RootReporters
from helpers.vault.cluster_factory import ClusterFactory
from helpers.vault.root_operator import RootOperator
from helpers.vault.rotations import Rotation
from vaultpki.ca import commands, root
from vaultpki.ca.run import Step
from vaultpki.ca.scene import Scene, read_scene
from vaultpki.errors import ChangedMeanwhile, StateConflict, Unavailable
from vaultpki.records.rotation import RotationRecord, State
from vaultpki.rotation.confirmations import Confirmations
from vaultpki.rotation.course import Course
from vaultpki.rotation.states import next_state

# The record decides.
pytestmark = pytest.mark.on_node


def course_of(rotation: Rotation, *, back: bool = False) -> Course:
    """The rotation as a command that begins to wait finds it."""
    found = commands.begun(rotation.cluster.model, rotation.vault, back=back)
    assert found is not None and found.last == rotation.record
    return found


def onward(rotation: Rotation, course: Course, restarted: tuple[str, ...] = ()) -> Step:
    """The next step of a command that goes on."""
    said = Confirmations(restarted=restarted)
    return commands.advance(rotation.cluster.model, rotation.vault, rotation.now, said, course)


def backward(rotation: Rotation, course: Course) -> Step:
    return commands.advance(rotation.cluster.model, rotation.vault, rotation.now, course=course, back=True)


def test_who_waits_takes_no_step_against_another_operator(rotation: Rotation) -> None:
    rotation.begin()
    rotation.reach_on(State.RETIRED)
    forward = course_of(rotation)
    assert rotation.moved(rotation.abort) is State.RETRUSTING
    rotation.reported()
    before, since = rotation.record, rotation.cluster.server.audit_position()
    # All is ready for `continue`, which leads forward again from here.
    step = onward(rotation, forward)
    assert step.stopped and not step.moved and step.gate is not None and "ca abort" in step.note
    assert rotation.record == before
    assert rotation.cluster.server.writes(since) == []

    backwards = course_of(rotation, back=True)
    assert rotation.moved(rotation.advance) is State.SWITCHED
    step = backward(rotation, backwards)
    assert step.stopped and "ca continue" in step.note and rotation.record.state is State.SWITCHED
    # Whoever begins now begins with what is there.
    assert rotation.moved(lambda: backward(rotation, course_of(rotation, back=True))) is State.RETURNING
    # And `continue` leads on back, if it was begun there.
    assert rotation.moved(lambda: onward(rotation, course_of(rotation))) is State.STEADY


@pytest.mark.conformance
def test_who_was_overtaken_looks_again(rotation: Rotation, monkeypatch: pytest.MonkeyPatch) -> None:
    """The other operator was back before the first one had looked at the mount, where its CA is gone then."""
    rotation.reach(State.SWITCHED)
    course, cluster = course_of(rotation), rotation.cluster.model
    rotation.reported()
    before = read_scene(cluster, rotation.vault, rotation.now)
    for state in (State.RETURNING, State.STEADY):
        assert rotation.moved(rotation.abort) is state
    with monkeypatch.context() as patch:
        patch.setattr("vaultpki.ca.commands.read_scene", lambda *_, notice: replace(before, notice=notice))
        with pytest.raises(ChangedMeanwhile):
            onward(rotation, course)
    step = onward(rotation, course)
    assert step.stopped and step.record.state is State.STEADY


@pytest.mark.conformance
def test_a_word_about_a_restart_counts_for_its_state_alone(rotation: Rotation) -> None:
    rotation.reach(State.PUBLISHED)
    course = course_of(rotation)
    rotation.moved()
    # Given before another operator took the step: it is no mistake, and says nothing of the new state.
    step = onward(rotation, course, ("cp-1/etcd",))
    assert not step.moved and step.record.restarted == ()


@pytest.mark.conformance
def test_the_roots_way_back_ends_before_anything_of_the_old_root_is_deleted(
    clusters: ClusterFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another operator aborts as the issuing CAs begin to lose their certificates of the old root."""
    operator = RootOperator.standing(clusters)
    operator.reach(State.RETIRED)
    cluster, follow, said = operator.cluster.model, root._followed, list[str]()

    def crossed(scene: Scene, record: RotationRecord) -> Scene:
        if record.state is State.DONE and not said:
            with pytest.raises(StateConflict) as caught:
                commands.advance(cluster, operator.cluster.client(), operator.now, back=True)
            said.append(str(caught.value))
            # The command is killed then.
            raise Unavailable("killed")
        return follow(scene, record)

    monkeypatch.setattr(root, "_followed", crossed)
    RootReporters(operator.cluster).report(operator.now)
    operator.now += timedelta(minutes=7)
    with pytest.raises(Unavailable, match="killed"):
        commands.advance(cluster, operator.through, operator.now)
    assert "This cannot be undone" in said[0]
    record = operator.record
    assert record.state is State.RETIRED and record.closing
    (status,) = [each for each in commands.status(cluster, operator.through, operator.now) if each.domain == "root"]
    assert next_state(status.record, back=True) is None and status.gate is not None and status.gate.open(operator.now)
    # Nobody is waited for again.
    assert commands.advance(cluster, operator.through, operator.now).record.state is State.DONE
