"""`adopt node` on a machine without a resident agent: it asks Vault first, and a dry run writes nothing."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest

from helpers.node.enrolled_machine import EnrolledMachine, kubeadms
from helpers.node.passes import command_here
from helpers.vault.applied_cluster import vaultpki
from vaultpki.config.agent import load_agent
from vaultpki.records.adoption import AdoptionState as S
from vaultpki.takeover import carry_out


@pytest.fixture(autouse=True)
def joined(enrolled: EnrolledMachine) -> None:
    enrolled.join()


def adopt_node(one: EnrolledMachine, *words: str, code: int = 0) -> tuple[str, str]:
    """`adopt node` in this process, where the machine's components are its stand-ins; what it prints on each stream."""
    ran = command_here("adopt", "node", "-c", one.file, *words, expect=code)
    return ran.stdout, ran.stderr


def whole(one: EnrolledMachine) -> dict[str, tuple[str, int, int]]:
    """Every file of the machine and of its agent: content, mode and time."""
    found = {}
    tops = {one.machine.root, one.file.parent, Path(load_agent(one.file).state)}
    for path in sorted({path for top in tops for path in top.rglob("*")}):
        if path.is_file() and path.name != "processes.json":
            about = path.lstat()
            found[str(path)] = (hashlib.sha256(path.read_bytes()).hexdigest(), about.st_mode, about.st_mtime_ns)
    return found


@pytest.mark.on_node
def test_a_dry_run_asks_vault_and_writes_nothing(enrolled: EnrolledMachine) -> None:
    assert "no adoption is under way" in adopt_node(enrolled, "--dry-run")[0]
    # Nobody makes a pass in between.
    enrolled.record(S.PREPARED)
    before = whole(enrolled)
    told, failed = adopt_node(enrolled, "--dry-run")
    assert told.startswith("1. keep kubeadm's own files\n") and not failed
    assert "sign CSRs by that copy" in told and "restart etcd" not in told
    enrolled.record(S.PUBLISHED)
    assert "restart etcd" in adopt_node(enrolled, "--dry-run")[0]
    assert whole(enrolled) == before
    # A record that is not followed is not shown as if it was.
    enrolled.revision += 5000
    enrolled.record(S.PUBLISHED)
    assert f"does not follow revision {enrolled.revision}" in adopt_node(enrolled, "--dry-run", code=1)[1]
    assert whole(enrolled) == before


@pytest.mark.on_node
def test_where_vault_is_away_it_says_when_it_was_told(enrolled: EnrolledMachine) -> None:
    enrolled.record(S.PREPARED)
    enrolled.passes()
    enrolled.file.write_text(enrolled.file.read_text().replace(enrolled.cluster.server.address, "https://127.0.0.1:1"))
    for words in (("--dry-run",), ()):
        said, failed = adopt_node(enrolled, *words)
        told = " ".join(failed.split())
        assert "Vault does not say where the adoption stands (" in told
        assert "; this goes by what the agent was told last, at 20" in told
        assert "keep kubeadm's own files" in said or not words
    assert "nothing is left to do for prepared" in adopt_node(enrolled, "--dry-run")[0]


def test_a_machine_that_went_home_is_told_to_end_its_credentials_and_that_works(enrolled: EnrolledMachine) -> None:
    """`unenroll` takes no listed node's agent away while cluster.yaml has the node."""
    enrolled.go(S.PREPARED)
    enrolled.record(None)
    said, _ = adopt_node(enrolled)
    assert said.endswith(
        "this machine is as kubeadm left it; stop its agent, and end its credentials (`vaultpki lock cp-1`)\n"
    )
    assert kubeadms(enrolled.machine.snapshot()) == enrolled.fresh
    cluster = enrolled.cluster
    ran = vaultpki("lock", "cp-1", "-f", cluster.file, env=cluster.environment("locker"))
    assert "cp-1 is locked: all its credentials have ended" in ran.stdout
    ended = vaultpki("agent", "-c", enrolled.file, "--once", expect=1).stderr
    assert "Vault rejects this node's credential" in ended


def test_by_leave_too(enrolled: EnrolledMachine) -> None:
    enrolled.record(S.PREPARED)
    adopt_node(enrolled)
    enrolled.record(S.PUBLISHED)
    # Nobody has told the agent.
    _, failed = adopt_node(enrolled, "--leave", code=1)
    assert "the adoption is published, and a machine leaves it only in prepared" in failed
    enrolled.record(S.PREPARED)
    said, _ = adopt_node(enrolled, "--leave")
    assert said.endswith("stop its agent, and end its credentials (`vaultpki lock cp-1`)\n")
    assert kubeadms(enrolled.machine.snapshot()) == enrolled.fresh


@pytest.mark.on_node
def test_an_agent_that_is_at_work_for_long_stops_nobody_who_has_nothing_to_do(
    enrolled: EnrolledMachine, monkeypatch: pytest.MonkeyPatch
) -> None:
    enrolled.record(S.PREPARED)
    adopt_node(enrolled)
    monkeypatch.setattr("vaultpki.cli.adopt_node._LOCK_WAIT", 0.2)
    monkeypatch.setattr(carry_out, "_LOCK_WAIT", 0.2)
    with carry_out.locked(load_agent(enrolled.file), 0.0):
        assert adopt_node(enrolled)[0].endswith("nothing was left to do for prepared\n")
        enrolled.record(S.PUBLISHED)
        assert "the agent is at work on this machine" in adopt_node(enrolled, code=1)[1]
