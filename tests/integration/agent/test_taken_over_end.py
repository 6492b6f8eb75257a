"""The last step of a take-over on a machine: who may write the record alone has it not made; root, or a day, does."""

from __future__ import annotations

from pathlib import Path

import pytest

from helpers.node.enrolled_machine import EnrolledMachine, kubeadms
from helpers.node.passes import command_here
from vaultpki.config.agent import load_agent
from vaultpki.host import boot_time
from vaultpki.records.adoption import AdoptionState as S
from vaultpki.records.adoption_report import OldKeys
from vaultpki.takeover import consent
from vaultpki.takeover.journal import JournalFile

WAY = (S.PREPARED, S.PUBLISHED, S.SWITCHED, S.CLOSED, S.RETIRED)


@pytest.fixture(autouse=True)
def joined(enrolled: EnrolledMachine) -> None:
    enrolled.join()


def journal(one: EnrolledMachine) -> JournalFile:
    return JournalFile(load_agent(one.file).state)


@pytest.mark.on_node
def test_a_record_leads_an_agent_to_retired_and_no_further(enrolled: EnrolledMachine) -> None:
    """Whoever may write it could else have the old CAs' keys deleted within minutes."""
    enrolled.file.write_text(enrolled.file.read_text().replace("by_agent: false", "by_agent: true"))
    for state in WAY:
        enrolled.record(state)
        for _ in range(12):
            enrolled.passes()
            if journal(enrolled).value.reached is state:
                break
        assert journal(enrolled).value.reached is state
    enrolled.record(S.DONE)
    before = kubeadms(enrolled.machine.snapshot())
    for _ in range(3):
        report = enrolled.report()
        assert (report.reached, report.keys) == (S.RETIRED, OldKeys.ASIDE)
        assert report.owed[0].startswith("the last step, from which there is no way back: in about 24 hours")
    # After a day of uptime its own listeners must prove it too.
    journal(enrolled).save(in_retired=float(consent.FINISH_AFTER), counted=boot_time.now())
    enrolled.machine.processes.serves_old = True
    report = enrolled.report()
    assert report.keys is OldKeys.ASIDE and "shows a certificate of an old CA" in report.owed[0]
    assert kubeadms(enrolled.machine.snapshot()) == before
    enrolled.machine.processes.serves_old = False
    for _ in range(4):
        enrolled.passes()
    report = enrolled.report()
    assert (report.reached, report.keys, report.owed) == (S.DONE, OldKeys.NONE, ())


@pytest.mark.on_node
def test_root_takes_it_by_a_word_of_its_own(enrolled: EnrolledMachine) -> None:
    for state in WAY:
        enrolled.go(state)
    enrolled.record(S.DONE)
    ran = command_here("adopt", "node", "-c", enrolled.file, expect=3)
    assert "there is no way back from it: `vaultpki adopt node --finish` as root takes it" in " ".join(
        ran.stderr.split()
    )
    assert enrolled.report().keys is OldKeys.ASIDE
    assert "There is no way back after this." in command_here("adopt", "node", "-c", enrolled.file, "--dry-run").stdout
    command_here("adopt", "node", "-c", enrolled.file, "--finish")
    assert (enrolled.report().keys, enrolled.report().reached) == (OldKeys.NONE, S.DONE)
    # After that it is a command like any other.
    command_here("adopt", "node", "-c", enrolled.file)
    assert not Path(enrolled.machine.where.aside, "kubeadm").exists()
