"""What a node's report says of an adoption: written and read alike, and a false one says nothing that opens a gate."""

from __future__ import annotations

import json
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

import pytest

from vaultpki.records import adoption_report, node_report
from vaultpki.records.adoption import AdoptionState
from vaultpki.records.adoption_report import (
    AdoptionReport,
    ComponentReport,
    Held,
    KubeconfigReport,
    MountReport,
    OldKeys,
    common,
)
from vaultpki.records.node_report import NodeReport

NOW = datetime(2026, 11, 29, 4, 0, tzinfo=UTC)
REPORT = AdoptionReport(
    revision=7,
    reached=AdoptionState.PUBLISHED,
    trust=Held.BOTH,
    leaves=Held.OLD,
    components={
        "etcd": ComponentReport(NOW, Held.BOTH, Held.OLD, healthy=True),
        "kube-scheduler": ComponentReport(problem="no process of it was seen"),
    },
    signer=True,
    rotates=None,
    keys=OldKeys.IN_PLACE,
    kept_until=NOW,
    by_agent=True,
    owed=("restart kube-scheduler",),
    since=NOW,
    highest=15,
    not_followed=5000,
    no_signer=True,
    mounts=(MountReport("the static pod kube-vip", "/etc/kubernetes/admin.conf", True, Held.BOTH, Held.OLD),),
    pairs=("/etc/kubernetes/own/x.crt (--tls-cert-file of kube-scheduler.yaml)",),
    kubeconfigs=(KubeconfigReport("/root/.kube/config", Held.BOTH, Held.OLD),),
)


def test_it_is_read_as_it_was_written() -> None:
    written = json.loads(json.dumps(node_report.to_json(NodeReport(NOW, adoption=REPORT))))
    read = node_report.read(written)
    assert read is not None and read.adoption == REPORT
    assert node_report.read(node_report.to_json(NodeReport(NOW))) == NodeReport(NOW)


@pytest.mark.parametrize("change", [{"revision": True}, {"revision": -1}, {"reached": "gone"}, {"reached": 3}])
def test_without_a_revision_or_a_state_it_is_none(change: dict[str, Any]) -> None:
    assert adoption_report.read({**adoption_report.to_json(REPORT), **change}) is None


def test_what_cannot_be_read_holds_a_gate_closed() -> None:
    odd = {
        "trust": "all",
        "leaves": ["new"],
        "components": {
            "etcd": {"started": "soon", "trust": "both", "healthy": True},
            "sshd": {"trust": "both"},
            "x": 1,
        },
        "signer": "no",
        "rotates": 0,
        "keys": "somewhere",
        "kept_until": 1,
        "by_agent": "yes",
        "owed": [1, "a\nb", ""],
        "highest": "9",
        "not_followed": -1,
        "no_signer": "yes",
        "mounts": [{"who": 3, "path": "/a", "fresh": "yes", "trust": 1}, 7],
        "pairs": "all",
        "kubeconfigs": [{"trust": "old"}, {"path": "/b\n", "trust": 1}, 7],
    }
    read = adoption_report.read({**adoption_report.to_json(REPORT), **odd})
    assert read == AdoptionReport(
        revision=7,
        reached=AdoptionState.PUBLISHED,
        components={"etcd": ComponentReport()},
        keys=OldKeys.IN_PLACE,
        owed=("a?b",),
        since=NOW,
        mounts=(MountReport("", "/a", fresh=False),),
        kubeconfigs=(KubeconfigReport("/b?"),),
    )
    assert adoption_report.read({**adoption_report.to_json(REPORT), "mounts": {}}) == replace(REPORT, mounts=None)
    assert read.memory is Held.UNKNOWN


def test_what_people_have_on_a_machine_is_bounded() -> None:
    many = tuple(KubeconfigReport(f"/home/{'x' * 5000}{number}/.kube/config") for number in range(500))
    written = adoption_report.to_json(replace(REPORT, kubeconfigs=many))["kubeconfigs"]
    assert len(written) == 64 and len(json.dumps(written)) < 64 * 1024
    assert adoption_report.read({**adoption_report.to_json(REPORT), "kubeconfigs": written * 9}) is not None
    older = {key: value for key, value in adoption_report.to_json(REPORT).items() if key != "kubeconfigs"}
    assert adoption_report.read(older) == replace(REPORT, kubeconfigs=())


def test_components_that_differ_are_mixed() -> None:
    assert common([Held.BOTH, Held.BOTH]) is Held.BOTH
    assert common([Held.BOTH, Held.OLD]) is Held.MIXED
    assert common([Held.BOTH, Held.UNKNOWN]) is Held.UNKNOWN
    assert common([]) is Held.UNKNOWN
    assert REPORT.memory is Held.UNKNOWN and REPORT.shown is Held.UNKNOWN
