"""What a pass tells of: each thing by its own words, and when it has to look again."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from helpers.example_agent import agent_config
from helpers.foreign_ca import ForeignCa
from vaultpki.agent import reconcile
from vaultpki.agent.context import Context, PassOptions
from vaultpki.disk.folders import Folders
from vaultpki.node.state import StateFile
from vaultpki.pki.facts import Trust, UntrustedCa
from vaultpki.places import PKI


@pytest.fixture
def context(tmp_path: Path) -> Iterator[Context]:
    with Folders.open({PKI: str(tmp_path / "pki")}) as folders:
        config = agent_config(state=str(tmp_path / "state"), directory=folders.path)
        yield Context(config, PassOptions(), folders, 1e9, StateFile(config.state), None)


def test_each_foreign_ca_that_is_not_trusted_is_logged_by_its_own_name_and_hash(context: Context) -> None:
    """By the sentence a person finds whom the record offers, and what to take out."""
    root = ForeignCa("prod root CA").facts
    ignored = [UntrustedCa(f"CN=other {number}", f"{number}" * 64, "it has expired") for number in (1, 2)]
    trust = {"etcd": Trust(root, (), (), foreign_ignored=tuple(ignored))}
    said = reconcile._report_ignored_cas(context, trust)
    logged = [event for event in context.found.events if event.name == "foreign-ca"]
    assert [event.text for event in logged] == said
    for one, event in zip(ignored, logged, strict=True):
        assert one.subject_text in event.text and one.fingerprint == event.fields["sha256"]
