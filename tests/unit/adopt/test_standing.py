"""What `adopt status` says, for people and for programs."""

from __future__ import annotations

from dataclasses import dataclass, replace
from datetime import timedelta
from types import SimpleNamespace
from typing import Any

import pytest

from unit.adopt.test_gates import NOW, machine, record, report, with_machine
from unit.adopt.test_look import ROOT
from vaultpki.adopt import drive, standing
from vaultpki.adopt.drive import AdoptionOutcome, AdoptionWords
from vaultpki.adopt.look import Sides
from vaultpki.errors import StateConflict
from vaultpki.model import Signer
from vaultpki.procedure.gate import Gate
from vaultpki.procedure.phases import Side
from vaultpki.records.adoption import AdoptionRecord, AdoptionState
from vaultpki.records.adoption_report import Held, KubeconfigReport, OldKeys
from vaultpki.records.written import Written
from vaultpki.rotation.adoption_evidence import ClusterSeen
from vaultpki.vault.kv import Stored


@dataclass(frozen=True)
class Look:
    """What `look_at` shows, as the frozen value that commands have."""

    record: AdoptionRecord
    stored: Any
    cluster: Any
    seen: ClusterSeen
    sides: Sides
    imported: dict[str, Any]
    now: Any
    vault: Any = None

    def writing(self, record: AdoptionRecord) -> Any:
        return replace(self, record=record)


def outcome(kept: str) -> AdoptionOutcome:
    return AdoptionOutcome(look_at(record(AdoptionState.DONE, kept=kept), ClusterSeen()), None, Gate(), over=True)


def look_at(held: AdoptionRecord, seen: ClusterSeen) -> Any:
    cluster = SimpleNamespace(
        name="prod",
        file="cluster.yaml",
        file_option="",
        authority=SimpleNamespace(also_trust={}),
        signer=None,
        mount=lambda name: f"vaultpki/prod/{name}",
    )
    return SimpleNamespace(
        record=held,
        stored=Stored(held, 7, written=Written("people-anna", version=7)),
        cluster=cluster,
        seen=seen,
        sides=Sides({}, {}, ROOT.facts),
        imported={},
        now=NOW,
    )


@pytest.mark.parametrize("kept", ["", "in the safe of the platform team"])
def test_where_old_keys_are_kept_is_said_for_good(kept: str) -> None:
    text = " ".join(" ".join(standing.standing_lines(outcome(kept), "admin.conf")).split())
    assert ("they are kept: in the safe of the platform team." in text) is bool(kept)
    assert standing.document(outcome(kept))["kept"] == (kept or None)


def test_who_wrote_the_record_is_said() -> None:
    found = outcome("")
    assert "  rotation/adoption  version 7, written by people-anna" in standing.standing_lines(found, "admin.conf")
    assert standing.document(found)["written"]["rotation/adoption"]["by"] == "people-anna"


@pytest.mark.parametrize("before", [None, AdoptionState.PREPARED, AdoptionState.PUBLISHED, AdoptionState.RETURNING])
def test_in_prepared_an_abort_gives_turns_to_machines_that_come_back(before: AdoptionState | None) -> None:
    """`adopt continue` waits for nobody there, and leads onward again."""
    prepared = AdoptionState.PREPARED
    planes = [
        machine("cp-1", prepared),
        machine("cp-2", prepared, report=report(prepared, reached=before, owed=("exchange it",))),
    ]
    found = drive.standing(look_at(record(prepared), ClusterSeen(machines=tuple(planes))))
    text = " ".join(" ".join(standing.standing_lines(found, "admin.conf")).split())
    words = "Next: `vaultpki adopt abort --kubeconfig admin.conf` gives cp-2 the turn to end the way back"
    assert (words in text) is (before not in (None, prepared))
    assert "`vaultpki adopt continue --kubeconfig admin.conf`" in text


def test_the_turn_that_a_command_gives_is_not_waited_for_any_more() -> None:
    published = AdoptionState.PUBLISHED
    owing = report(published, reached=AdoptionState.PREPARED, owed=("restart etcd",))
    planes = tuple(machine(name, published, report=owing) for name in ("cp-1", "cp-2"))
    now = record(published)

    def look() -> Any:
        found = look_at(now, ClusterSeen(machines=planes, info=Side.BOTH))
        found.writing = write
        return found

    def write(after: AdoptionRecord) -> Any:
        nonlocal now
        now = after
        return look()

    found = drive.advance(look, AdoptionWords(), lambda title, lines: True, back=False)
    said = {each.node: each.reason for each in found.gate.waiting}
    assert now.turn == "cp-1"
    assert said["cp-1"].startswith("has not done the steps of published: restart etcd. Its agent")
    assert said["cp-2"].startswith("waits for its turn after cp-1")


def test_what_was_given_up_is_over(monkeypatch: pytest.MonkeyPatch) -> None:
    """And no further abort gives it up."""
    held: Any = replace(Look(**vars(look_at(record(AdoptionState.PREPARED), ClusterSeen()))), vault=None)
    monkeypatch.setattr(drive, "delete_adoption", lambda cluster, vault: None)
    found = drive.advance(lambda: held, AdoptionWords(), lambda title, lines: True, back=True)
    lines = list(standing.standing_lines(found, "admin.conf", back=True))
    assert found.over and lines[0] == "The adoption is given up: its record is deleted."
    assert not any("Next:" in line or "prepared" in line for line in lines)
    assert standing.document(found)["state"] is None


def test_at_the_end_nobody_has_to_read_the_record() -> None:
    """An agent whose agent.yaml names no old CA any more does not ask for it."""
    done = AdoptionState.DONE
    ended = replace(report(done), revision=0)
    found = drive.standing(look_at(record(done), ClusterSeen(machines=(machine("cp-1", done, report=ended),))))
    text = "\n".join(standing.standing_lines(found, "admin.conf"))
    assert "has not read the record" not in text and "cp-1  control plane, etcd, kubelet  reports" in text


def test_at_the_end_it_is_said_what_of_kubeadms_is_otherwise() -> None:
    done = AdoptionState.DONE
    conf = "/etc/kubernetes/admin.conf (trusts the old CA)"
    one = machine("cp-1", done, report=report(done, keys=OldKeys.NONE, pairs=(conf,)))
    held: Any = Look(**vars(look_at(record(done), ClusterSeen(machines=(one,), info=Side.NEW))))
    found = drive.advance(lambda: held, AdoptionWords(), lambda title, lines: True, back=False)
    text = " ".join(" ".join(standing.standing_lines(found, "admin.conf")).split())
    assert found.over and f"cp-1 has {conf}: write what `vaultpki issue admin --dir DIR` makes into that file" in text
    assert "`kubeadm certs check-expiration` fails from now on" in text
    assert "An admin.conf that was issued while cluster.yaml had `ca.also_trust` trusts the old CAs still" in text


def noting(held: AdoptionRecord, asked: list[str], **said: Any) -> AdoptionRecord:
    """The record after `adopt continue` with these words; nobody agrees to the last step."""
    now = held

    def look() -> Any:
        found = look_at(now, ClusterSeen(info=Side.NEW))
        found.writing = write
        return found

    def write(after: AdoptionRecord) -> Any:
        nonlocal now
        now = after
        return look()

    def ask(title: str, lines: Any) -> bool:
        asked.extend(lines)
        return False

    drive.advance(look, AdoptionWords(**said), ask, back=False)
    return now


@pytest.mark.parametrize("state", [each for each in AdoptionState if each.value not in ("retired", "done")])
def test_where_old_keys_are_kept_is_not_said_before_the_last_step(state: AdoptionState) -> None:
    """Nobody would note it, and the last step would delete the keys."""
    with pytest.raises(StateConflict, match=f"--keep-keys belongs to the last step, and the adoption is {state.value}"):
        noting(record(state), [], keep="a safe")


def test_where_old_keys_are_kept_is_noted_in_retired() -> None:
    asked = list[str]()
    held = noting(record(AdoptionState.RETIRED, joins_closed=NOW - timedelta(days=1)), asked, keep="a safe")
    assert held.state is AdoptionState.RETIRED and held.kept == "a safe"
    # Whoever takes the last step later need not say it again.
    again = list[str]()
    assert noting(held, again).kept == "a safe"
    assert asked and asked == again and asked[0].startswith("keep the keys of the old CAs (a safe)")


@pytest.mark.parametrize(("kept", "noted"), [("", "are deleted"), ("a vault", "are kept, as was said then: a vault")])
def test_where_old_keys_are_kept_is_not_said_after_the_last_step(kept: str, noted: str) -> None:
    with pytest.raises(StateConflict, match=f"comes too late: the keys of the old CAs {noted}"):
        noting(record(AdoptionState.DONE, kept=kept), [], keep="a safe")


def test_commands_in_reasons_name_the_files_of_this_one() -> None:
    found = drive.standing(look_at(record(AdoptionState.PUBLISHED, confirmed=()), ClusterSeen(info=Side.BOTH)))
    text = " ".join(" ".join(standing.standing_lines(found, "admin.conf")).split())
    command = "`vaultpki adopt continue --kubeconfig admin.conf --checked outside`"
    assert text.count(command) == 2 and "FILE" not in text


def test_kubeconfigs_on_machines_are_named_where_a_persons_word_is_missing() -> None:
    closed = AdoptionState.CLOSED
    many = tuple(KubeconfigReport(f"/home/u{number}/.kube/config", Held.BOTH, Held.OLD) for number in range(30))
    shown = with_machine(closed, "cp-1", report=report(closed, kubeconfigs=many))
    found = drive.standing(look_at(record(closed, confirmed=()), shown))
    lines = list(standing.standing_lines(found, "admin.conf"))
    begins = lines.index("Kubeconfigs without a pair of the new CA, as agents see them:")
    assert lines[begins + 1] == "  cp-1: /home/u0/.kube/config"
    assert lines[begins + 21] == "  and 10 more; `vaultpki adopt status --json` lists them"
    assert standing.document(found)["kubeconfigs"] == [f"cp-1: {each.path}" for each in many]
    # With the word there is nothing more to look at.
    said = drive.standing(look_at(record(closed), shown))
    assert not list(standing.lacking_lines(said)) and standing.document(said)["kubeconfigs"] == []


@pytest.mark.parametrize("state", AdoptionState)
@pytest.mark.parametrize("signer", [None, Signer(600)])
def test_from_closed_to_done_machines_that_join_wait_and_are_told_so(
    state: AdoptionState, signer: Signer | None
) -> None:
    look = look_at(record(state), ClusterSeen())
    look.cluster.signer = signer
    text = " ".join(" ".join(standing.standing_lines(AdoptionOutcome(look, None, Gate()), "admin.conf")).split())
    waits = state in (AdoptionState.CLOSED, AdoptionState.RETIRED)
    assert ("machines that join by token: they wait until the adoption is done" in text) is waits
    assert ("when the signer signs" in text) is (waits and signer is not None)
