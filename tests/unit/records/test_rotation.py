"""What was seen of a rotation's last step is kept in its record, and forgotten with the state."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import pytest

from vaultpki.errors import SpecError
from vaultpki.records import rotation as rotation_record
from vaultpki.records.rotation import CaRef, RotationRecord, State

NOW = datetime(2027, 1, 1, tzinfo=UTC)
RECORD = RotationRecord(
    "etcd", State.RETIRED, 9, NOW, CaRef("etcd-1", sha256="a" * 64), CaRef("etcd-2", sha256="b" * 64)
)


def read(value: dict[str, Any]) -> RotationRecord:
    return rotation_record.read(value, "etcd", where="etcd")


def test_components_that_were_seen_accepting_the_old_ca_are_optional_and_forgotten_with_the_state() -> None:
    seen = RECORD.changed(accepting=("cp-1/etcd", "cp-2.example.com/kube-apiserver"))
    assert read(rotation_record.to_json(seen)) == seen
    # Earlier releases write no such field, and read past it.
    plain = rotation_record.to_json(RECORD)
    assert "accepting" not in plain and read(plain) == RECORD
    assert seen.moved(State.RETRUSTING, NOW).accepting == ()


@pytest.mark.parametrize("odd", ["cp-1", ["cp-1"], ["cp-1/"], ["/etcd"], ["cp-1/etcd/x"], ["cp 1/etcd"], [1], ["c/é"]])
def test_an_odd_list_of_components_is_refused(odd: object) -> None:
    with pytest.raises(SpecError) as caught:
        read(rotation_record.to_json(RECORD) | {"accepting": odd})
    assert caught.value.field == "accepting"


def test_words_of_a_person_are_about_one_component_and_one_state() -> None:
    said = RECORD.changed(restarted=("cp-1/etcd", "cp-2.example.com/kube-apiserver"), checked=("kubelet-serving-ca",))
    assert read(rotation_record.to_json(said)) == said
    moved = said.moved(State.RETRUSTING, NOW)
    assert (moved.restarted, moved.checked) == ((), ())


@pytest.mark.parametrize("key", ["restarted_components", "checked"])
def test_odd_words_are_refused(key: str) -> None:
    with pytest.raises(SpecError) as caught:
        read(rotation_record.to_json(RECORD) | {key: ["/"]})
    assert caught.value.field == key


@pytest.mark.parametrize(
    ("name", "title"),
    [
        ("etcd-2", "key 2 of the CA etcd"),
        ("front-proxy-12", "key 12 of the CA front-proxy"),
        ("kubelet-1r3", "key 1 of the CA kubelet (certificate 3)"),
    ],
)
def test_a_key_is_not_called_like_a_node(name: str, title: str) -> None:
    assert CaRef(name).title == title
