"""What `ca status` and the other commands say about a rotation: restarts, turns, and what the next step does."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

import pytest

from vaultpki.procedure.gate import Gate, Waiting
from vaultpki.procedures import ca_text
from vaultpki.provision.cluster_facts import CaStatus
from vaultpki.records.rotation import CaRef, Method, RotationRecord, State
from vaultpki.show import table

WHEN = datetime(2026, 11, 26, 12, tzinfo=UTC)
OLDER: dict[str, dict[str, tuple[str, ...]]] = {
    "kubernetes": {"cp-1": ("kube-scheduler",), "worker-1": ("kubelet", "kube-proxy")},
    "kubelet": {"cp-1": ("kube-apiserver",)},
}
ADVICE = {
    "kubernetes": (
        "Before Kubernetes 1.36, restart kubelet, kube-scheduler, kube-proxy first, node by node: no step waits for "
        "that on nodes that do not report the version (cp-1, worker-1)."
    ),
    "kubelet": (
        "Before Kubernetes 1.36, restart kube-apiserver first, node by node: no step waits for that on nodes that do "
        "not report the version (cp-1)."
    ),
}


@pytest.mark.parametrize("state", [state for state in State if not state.resting])
@pytest.mark.parametrize("domain", ["kubernetes", "kubelet", "etcd", "front-proxy", "root"])
def test_restarts_of_an_older_kubernetes(domain: str, state: State) -> None:
    old, new = (CaRef(f"{domain}-{number}", "", "", str(number) * 64) for number in (1, 2))
    record = RotationRecord(domain=domain, state=state, revision=3, since=WHEN, old=old, new=new)
    gate = Gate(opens=WHEN, unversioned=OLDER.get(domain, {}))
    said = list(ca_text.record_lines(record, gate, WHEN, "cluster.yaml"))
    changing = state in (State.PUBLISHED, State.RETIRED, State.RETRUSTING)
    expected = [ADVICE[domain]] if changing and domain in OLDER else []
    assert [line for line in said if line.startswith("Before Kubernetes")] == expected
    if expected and state is not State.RETRUSTING:
        assert said[said.index(expected[0]) + 1].startswith("Next: ")
    # Nothing is said of nodes whose versions are known, and with an unknown gate all that may be older is.
    assert not [line for line in ca_text.record_lines(record, Gate(opens=WHEN), WHEN, "c.yaml") if "Before" in line]
    general = [line for line in ca_text.record_lines(record, None, WHEN, "c.yaml") if line.startswith("Before")]
    assert [line.partition(" on nodes")[0] for line in expected] == [line.partition(" on nodes")[0] for line in general]


def lines(state: State, turn: str = "", gate: Gate | None = None, **changes: Any) -> list[str]:
    """What is said about a rotation of etcd's CA."""
    old, new = (CaRef(f"etcd-{number}", "", "", str(number) * 64) for number in (1, 2))
    record = RotationRecord("etcd", state, 3, WHEN, old, new, turn=turn)
    record = replace(record, **changes)
    return list(ca_text.record_lines(record, gate or Gate(opens=WHEN), WHEN, "cluster.yaml"))


@pytest.mark.parametrize("domain", ["etcd", "root"])
@pytest.mark.parametrize("method", [Method.NEW_KEY, Method.SAME_KEY])
def test_from_re_trusting_the_new_ca_signs_already(domain: str, method: Method) -> None:
    (said,) = [line for line in lines(State.RETRUSTING, domain=domain, method=method) if line.startswith("Next: ")]
    assert "goes forward again" in said and "key 2 of the CA etcd" in said and "already" in said
    assert "makes" not in said and "has key 2 of the CA etcd sign" not in said
    (said,) = [line for line in lines(State.PUBLISHED, domain=domain, method=method) if line.startswith("Next: ")]
    assert "already" not in said


def test_no_turn_moves_on_by_itself() -> None:
    waits = Gate((Waiting("cp-1", "has the turn"),), turn="cp-1")
    assert "Turns move on to the next node only while `vaultpki ca continue` runs: run it again, or with `--wait`." in (
        lines(State.PUBLISHED, "cp-1", waits)
    )
    assert "The turn goes to cp-1 only when `vaultpki ca continue` runs: run it again, or with `--wait`." in (
        lines(State.PUBLISHED, "cp-9", waits)
    )
    both = [line for line in lines(State.RETRUSTING, "cp-1", waits) if line.startswith("Turns")]
    assert "`vaultpki ca continue` or `vaultpki ca abort` runs" in both[0]
    assert not [line for line in lines(State.PUBLISHED) if "turn" in line.lower()]


def test_the_spread_stays_as_it_was_begun() -> None:
    old, new = CaRef("etcd-1", sha256="1" * 64), CaRef("etcd-2")
    record = RotationRecord("etcd", State.PREPARED, 3, WHEN, old, new, spread=1)
    assert ca_text.spread_sentence(record, 1) == ""
    assert ca_text.spread_sentence(record, 60) == (
        "the rotation of etcd has begun already, with `--spread 1s`, and that stays; for another one go back with "
        "`vaultpki ca abort` and begin again"
    )
    assert ca_text.spread_sentence(replace(record, method=Method.EMERGENCY, spread=0), 60) == ""


def wide_status(width: int | None) -> list[str]:
    """What `ca status` says while a CA is rotated: long names of CAs and nodes, long reasons, and a problem."""
    old, new = (CaRef(f"front-proxy-{number}", "", "", str(number) * 64) for number in (118, 119))
    record = RotationRecord("front-proxy", State.RETRUSTING, 3, WHEN, old, new)
    node = "worker-in-a-rack-with-a-very-long-name.example.com"
    reason = "has not installed the bundle that holds both CAs; run `vaultpki agent -c /etc/vaultpki/agent.yaml --once`"
    gate = Gate((Waiting(node, reason), Waiting("cp-1", reason)), excused=(Waiting(node, "was left out by name"),))
    cas = (
        CaStatus(
            "root", "root-1", "", WHEN, key="ec-p384", problem="it cannot sign, since it expired " + "a while ago " * 9
        ),
        CaStatus("front-proxy", "front-proxy-119", "", WHEN, record, gate=gate, key="ec-p256", advice=reason),
    )
    return list(ca_text.status_lines(cas, WHEN, "cluster.yaml", pin=f"write it down {reason}", width=width))


@pytest.mark.parametrize("width", [60, 80, 100, 130])
def test_what_ca_status_says_fits_the_terminal(width: int) -> None:
    made, whole = wide_status(width), wide_status(None)
    assert max(map(table.cells, made)) <= width
    # Only the table leaves something out; a command that fits stays whole.
    assert made[0].split()[:3] == ["CA", "NAME", "KEY"][: 3 if width >= 100 else 2] + (
        ["EXPIRES"] if width < 100 else []
    )
    assert " ".join(" ".join(made[3:]).split()) == " ".join(" ".join(whole[3:]).split())
    assert any("`vaultpki agent -c /etc/vaultpki/agent.yaml --once`" in line for line in made)


def test_a_path_that_is_wider_than_the_terminal_is_not_cut() -> None:
    path = "/srv/" + "clusters/" * 9 + "cluster.yaml"
    made = list(table.fitted([f"Next: `vaultpki ca continue -f {path}` goes on."], 40))
    assert made == ["Next: `vaultpki ca continue -f", f"    {path}`", "    goes on."]
