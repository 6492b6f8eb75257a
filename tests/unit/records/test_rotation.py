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
