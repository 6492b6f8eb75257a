"""Each record is read as it was written, and whatever somebody makes of it is refused with its place, or is a record.

What the declarations accept, they write again byte for byte; a report accepts what is right in it, and no more.
"""

from __future__ import annotations

import copy
import json
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vaultpki.errors import SpecError
from vaultpki.records import adoption, join_file, node_report, rotation, service_account
from vaultpki.records.adoption import AdoptionRecord, AdoptionState, ClusterShape
from vaultpki.records.adoption_report import AdoptionReport, ComponentReport, Held, KubeconfigReport, MountReport
from vaultpki.records.join_file import Join, dump_join
from vaultpki.records.node_report import (
    BundleReport,
    CertificateReport,
    NodeReport,
    ReaderReport,
    Seen,
    TokenKeysReport,
)
from vaultpki.records.rotation import CaRef, RotationRecord, State
from vaultpki.records.service_account import DepartedKey, Departure, KeyRecord, KeyState, NodeKeys

NOW = datetime(2027, 1, 1, tzinfo=UTC)
ONE, TWO = "4f" * 32, "5e" * 32
ROTATION = RotationRecord(
    "etcd", State.RETIRED, 9, NOW, CaRef("etcd-1", "1-a", "2-b", ONE), CaRef("etcd-2", sha256=TWO)
)
KEYS = KeyRecord(
    KeyState.SWITCHED,
    9,
    NOW,
    {"cp-1": NodeKeys(9, 10, True, {9: "pem", 10: "pem"}), "cp-2": NodeKeys(1, 1)},
    highest={"cp-1": 10, "cp-2": 1},
    departed=(DepartedKey("cp-9", ONE, Departure.REMOVED, NOW, "pem", NOW),),
    checked=("cp-1",),
)
ADOPTION = AdoptionRecord(
    AdoptionState.CLOSED,
    9,
    3,
    NOW,
    {"kubernetes": (ONE, TWO)},
    "cp-1",
    ("cp-1/etcd",),
    ("pods",),
    NOW,
    "safe",
    ("etcd",),
    ClusterShape.TWO_MEMBERS,
)
JOIN = Join(
    cluster="prod",
    prefix="vaultpki/prod",
    node="w-1",
    pool="autoscaled",
    addresses=("https://127.0.0.1:8200",),
    ca_pem=None,
    root_sha256=ONE,
    role_id="r",
    wrap_token="t",
    expires=NOW,
    also_trust={"etcd": (ONE,)},
)
READER = ReaderReport(NOW, frozenset({ONE}), running=True, healthy=True)
REPORT = NodeReport(
    NOW,
    "0.3.0",
    {"etcd": Seen(3, 5)},
    {"kubelet": CertificateReport("kubelet", "ok", NOW, "1f", "ab", (ONE,), NOW, NOW, NOW)},
    {"etcd": BundleReport(frozenset({ONE, TWO}), NOW)},
    {"etcd/etcd": READER, "kubernetes/kubelet": ReaderReport(None, problem="no process of it was seen", stopped=NOW)},
    owed=("a",),
    failures=("b",),
    poll=300,
    not_followed={"etcd": 5000},
    foreign={"etcd": frozenset({ONE})},
    adoption=AdoptionReport(
        7,
        AdoptionState.CLOSED,
        Held.BOTH,
        components={"etcd": ComponentReport(NOW)},
        mounts=(MountReport("a", "/b", True),),
        kubeconfigs=(KubeconfigReport("/c", Held.OLD, Held.OLD),),
    ),
    token_keys=TokenKeysReport(Seen(1, 1), {1: "pem"}, frozenset({ONE}), ONE, NOW, reader=READER, admitted=False),
)

Reading = Callable[[Any], Any]
STRICT: dict[str, tuple[Any, Reading, Callable[[Any], Any]]] = {
    "rotation": (ROTATION, lambda value: rotation.read(value, "etcd", where="record"), rotation.to_json),
    "keys": (KEYS, lambda value: service_account.read(value, where="record"), service_account.to_json),
    "adoption": (ADOPTION, lambda value: adoption.read(value, where="record"), adoption.to_json),
    "join file": (
        JOIN,
        lambda value: join_file.parse(json.dumps(value).encode(), "record"),
        lambda join: json.loads(dump_join(join)),
    ),
}
ODD: st.SearchStrategy[Any] = st.sampled_from(
    [None, True, False, 0, 1, -1, 1 << 53, 1.5, "", "x", "x" * 400, "cp-1", "cp-1/etcd", ONE, ONE.upper(), "a\n",
     "9500-01-01T00:00:00Z", "retired", [], {}, [ONE, ONE], [1], ["cp-1"], {"cp-1": 1}, {"cp-1": {}}, [[]]]
)  # fmt: skip


def places(value: Any) -> list[tuple[Any, Any]]:
    """Every object or list in a value, with each of its keys."""
    keys = list(value) if isinstance(value, dict) else range(len(value)) if isinstance(value, list) else []
    return [(value, key) for key in keys] + [each for key in keys for each in places(value[key])]


def changed(data: st.DataObject, value: Any) -> Any:
    """The value with something in it dropped or replaced."""
    value = copy.deepcopy(value)
    for _ in range(data.draw(st.integers(1, 2))):
        holder, key = data.draw(st.sampled_from(places(value)))
        if data.draw(st.booleans()):
            holder[key] = copy.deepcopy(data.draw(ODD))
        else:
            del holder[key]
    return value


@pytest.mark.parametrize("name", STRICT)
@given(data=st.data())
def test_a_record_is_refused_with_its_place_or_written_again_as_it_was_read(name: str, data: st.DataObject) -> None:
    record, read, to_json = STRICT[name]
    written = json.loads(json.dumps(to_json(record)))
    assert read(written) == record
    try:
        found = read({**changed(data, written), **({} if name == "join file" else {"of a later release": 1})})
    except SpecError as error:
        place = error.file
    else:
        assert read(json.loads(json.dumps(to_json(found)))) == found
        return
    assert place.startswith("record")


@given(data=st.data())
def test_a_report_counts_as_far_as_it_is_right(data: st.DataObject) -> None:
    written = json.loads(json.dumps(node_report.to_json(REPORT)))
    assert node_report.read(written) == REPORT
    found = node_report.read(changed(data, written))
    assert found is None or node_report.read(json.loads(json.dumps(node_report.to_json(found)))) == found
