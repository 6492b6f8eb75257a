"""A step that a command with `--wait` wants, once another operator has decided otherwise: the record decides."""

from __future__ import annotations

from pathlib import Path

import pytest

from helpers.vault.rotations import Rotation, rotation_of
from helpers.vault.servers import Server
from vaultpki.errors import Attention
from vaultpki.provision import ca_commands
from vaultpki.provision.rotation_course import Course
from vaultpki.provision.rotation_run import Step
from vaultpki.spec.rotation_record import Method, State


@pytest.fixture
def rotation(server: Server, tmp_path: Path, cluster_name: str) -> Rotation:
    return rotation_of(server, tmp_path / "site", cluster_name)


def course_of(rotation: Rotation, *, back: bool = False) -> Course:
    """The rotation as a command that begins to wait finds it."""
    found = ca_commands.begun(rotation.site.cluster, rotation.vault, back=back)
    assert found is not None and found.last == rotation.record
    return found


def onward(rotation: Rotation, course: Course, restarted: tuple[str, ...] = ()) -> Step:
    """The next step of a command that goes on."""
    return ca_commands.advance(rotation.site.cluster, rotation.vault, rotation.now, restarted=restarted, course=course)


def backward(rotation: Rotation, course: Course) -> Step:
    return ca_commands.abort(rotation.site.cluster, rotation.vault, rotation.now, course=course)


def test_who_waits_takes_no_step_against_another_operator(rotation: Rotation) -> None:
    rotation.begin()
    rotation.reach_on(State.RETIRED)
    forward = course_of(rotation)
    assert rotation.moved(rotation.abort) is State.RETRUSTING
    rotation.reported()
    before, since = rotation.record, rotation.site.server.audit_position()
    # All is ready for `continue`, which leads forward again from here.
    step = onward(rotation, forward)
    assert step.stopped and not step.moved and step.gate is not None and "ca abort" in step.note
    assert rotation.record == before
    assert rotation.site.server.writes(since) == []

    backwards = course_of(rotation, back=True)
    assert rotation.moved(rotation.advance) is State.SWITCHED
    step = backward(rotation, backwards)
    assert step.stopped and "ca continue" in step.note and rotation.record.state is State.SWITCHED
    # Whoever begins now begins with what is there.
    assert rotation.moved(lambda: backward(rotation, course_of(rotation, back=True))) is State.RETURNING
    # And `continue` leads on back, if it was begun there.
    assert rotation.moved(lambda: onward(rotation, course_of(rotation))) is State.STEADY


def test_who_waits_leaves_the_next_rotation_alone(rotation: Rotation) -> None:
    """The rotation has ended, and another operator has begun one of another CA at once."""
    rotation.reach(State.RETIRED)
    course = course_of(rotation)
    assert rotation.moved() is State.DONE
    ca_commands.rotate(rotation.site.cluster, rotation.vault, "kubelet", Method.NEW_KEY, 60, rotation.now)
    step = onward(rotation, course)
    assert not step.stopped and step.record.domain == "etcd" and step.record.state is State.DONE and step.note == ""
    status = {each.domain: each.record for each in rotation.status()}
    assert status["kubelet"] is not None and status["kubelet"].state is State.PREPARED
    # Or of the same one.
    ca_commands.abort(rotation.site.cluster, rotation.vault, rotation.now)
    rotation.begin()
    step = onward(rotation, course)
    assert step.stopped and "another rotation of etcd to etcd-3" in step.note and step.record.state is State.PREPARED


def test_a_word_about_a_restart_counts_for_its_state_alone(rotation: Rotation) -> None:
    rotation.reach(State.PUBLISHED)
    course = course_of(rotation)
    rotation.moved()
    # Given before another operator took the step: it is no mistake, and says nothing of the new state.
    step = onward(rotation, course, ("cp-1",))
    assert not step.moved and step.record.restarted == ()


def test_a_record_that_is_gone_ends_the_waiting(rotation: Rotation) -> None:
    rotation.reach(State.PUBLISHED)
    course, site = course_of(rotation), rotation.site
    assert site.server.api("DELETE", f"{site.prefix}/config/metadata/rotation/etcd").status == 204
    with pytest.raises(Attention, match="shows no record of etcd's rotation"):
        onward(rotation, course)
