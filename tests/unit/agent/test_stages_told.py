"""What a pass tells of: each thing by its own words, and when it has to look again."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from helpers.example_agent import agent_config
from helpers.foreign_ca import ForeignCa
from helpers.root_certificates import NOW, Key
from vaultpki.agent import done, said, told
from vaultpki.agent.context import Contact, Context, PassOptions
from vaultpki.agent.done import Done
from vaultpki.agent.sign_due import Renewed
from vaultpki.agent.token_keys import KeysResult
from vaultpki.agent.wanted import Wanted
from vaultpki.certificates import ISSUING_CAS, ROOT, ca_subject
from vaultpki.disk.folders import Folders
from vaultpki.errors import Unavailable
from vaultpki.issue.issuers import Issuers
from vaultpki.issue.rotations import RecordRead, Rotations
from vaultpki.node import credential
from vaultpki.node.assignment import Assignment
from vaultpki.node.state import StateFile
from vaultpki.pki.facts import Trust, UntrustedCa
from vaultpki.places import PKI
from vaultpki.records.rotation import CaRef, RotationRecord, State
from vaultpki.vault import Settings, Vault

SHOWN = Key(ca_subject("prod", ROOT)).root()


def answer_of(rotations: Rotations = Rotations()) -> Assignment:  # noqa: B008 - frozen
    """What Vault says to a node without certificates."""
    issuers = Issuers(dict.fromkeys(ISSUING_CAS, ()), (SHOWN.pem,))
    return Assignment(0.0, "", "", frozenset(), (), (), issuers, {}, rotations)


@pytest.fixture
def context(tmp_path: Path) -> Iterator[Context]:
    (tmp_path / "state").mkdir(mode=0o700)
    with Folders.open({PKI: str(tmp_path / "pki")}) as folders:
        config = agent_config(state=str(tmp_path / "state"), directory=folders.path)
        yield Context(config, PassOptions(()), folders, NOW.timestamp(), StateFile(config.state), None)


def test_each_foreign_ca_that_is_not_trusted_is_logged_by_its_own_name_and_hash(context: Context) -> None:
    """By the sentence a person finds whom the record offers, and what to take out."""
    root = ForeignCa("prod root CA").facts
    ignored = [UntrustedCa(f"CN=other {number}", f"{number}" * 64, "it has expired") for number in (1, 2)]
    trust = {"etcd": Trust(root, (), (), foreign_ignored=tuple(ignored))}
    sentences = done._report_ignored_cas(context, trust)
    logged = [event for event in context.found.events if event.name == "foreign-ca"]
    assert [event.text for event in logged] == sentences
    for one, event in zip(ignored, logged, strict=True):
        assert one.subject_text in event.text and one.fingerprint == event.fields["sha256"]


def test_a_pass_is_made_again_when_the_first_thing_may_be_tried_again(
    context: Context,
) -> None:
    """A later one would keep a certificate waiting behind a hook that may not run yet."""
    config = replace(context.config, root_sha256=SHOWN.fingerprint)
    contact = Contact(away=Unavailable("nobody answers", sent=False))
    trust = dict.fromkeys(ISSUING_CAS, Trust(SHOWN, (), ()))
    result = Done(Wanted(answer_of(), trust, (), ()), (), Renewed(), KeysResult(), {}, ())
    context.found.retry_at.extend([context.clock + 300, context.clock + 5, context.clock + 60])
    outcome = told.tell(replace(context, config=config), contact, result)
    assert outcome.retry_at == context.clock + 5


def test_a_newer_record_is_remembered_on_the_disk_before_anything_follows_from_it(context: Context) -> None:
    """A kill in between must not let an older server take it back."""
    config = replace(context.config, root_sha256=SHOWN.fingerprint)
    record = RotationRecord("etcd", State.STEADY, 7, NOW, CaRef("etcd-1", sha256="4f" * 32))
    answer = answer_of(Rotations({"etcd": RecordRead(record)}))
    said._remember_answer(replace(context, config=config), answer, 0.0)
    assert StateFile(config.state).value.revisions == {"etcd": 7}


def test_a_credential_that_was_replaced_is_logged(context: Context, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever looks for a stolen one compares these moments with the server's audit log."""
    vault = Vault(Settings(("https://127.0.0.1:1",)))
    for rolled in (False, True):
        monkeypatch.setattr(credential, "roll", lambda *args, rolled=rolled, **named: rolled)
        done._roll_credential(context, vault)
    assert [event.text for event in context.found.events] == ["replaced this node's own credential"]
