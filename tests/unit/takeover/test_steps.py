"""The steps of a machine that is taken over: which hold the agent's lock, what they tell, and what they refuse."""

from __future__ import annotations

import time
from dataclasses import replace
from datetime import datetime
from pathlib import Path

import pytest

from helpers.kube.taken_over_machine import TakenOverMachine
from vaultpki.errors import StateConflict, Unavailable
from vaultpki.model import Certificate
from vaultpki.pki.facts import Facts
from vaultpki.records.adoption import OLD_CAS
from vaultpki.records.adoption import AdoptionState as S
from vaultpki.takeover import kubelet_request, old_pairs, plain_files, steps
from vaultpki.takeover.context import TakeOver

YEARS = 3 * 365 * 86400


def test_every_step_that_changes_folders_holds_the_agents_lock(tmp_path: Path) -> None:
    """A pass of the agent in between would write into a folder that goes away. A restart may take long."""
    machine = TakenOverMachine(tmp_path)
    machine.go(S.PREPARED)
    found = {step.what: step for state in (*S, None) for step in steps.steps(machine.run(state))}
    assert {what for what, step in found.items() if step.locked == bool(step.restarts)} == {"keep kubeadm's own files"}
    assert found["take the new CAs out of kubeadm's own folder"].locked


def test_before_the_last_step_a_person_reads_which_kubeconfigs_are_removed(tmp_path: Path) -> None:
    machine = TakenOverMachine(tmp_path)
    for state in (S.PREPARED, S.PUBLISHED, S.SWITCHED):
        machine.go(state)
    told = list(steps._kubeconfigs_to_write(machine.run(S.DONE)))
    for name in ("admin.conf", "super-admin.conf"):
        path = f"{machine.where.kubeconfigs}/{name}"
        assert f"{path}: removed, its certificate is of the old CA" in told


def test_a_manifest_that_goes_meanwhile_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    machine = TakenOverMachine(tmp_path)
    machine.agent_pass(S.PREPARED)
    run = machine.run(S.PREPARED)
    monkeypatch.setattr(plain_files, "original", lambda run, path: None)
    with pytest.raises(StateConflict, match=r"etcd\.yaml is missing; put it back"):
        plain_files.manifest(run, "etcd")


def test_where_vault_has_the_old_key_a_kubelet_that_nobody_signs_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """To copy a key here that is nowhere but in Vault would be no advice."""

    def away(want: Certificate, key_pem: bytes, ca: Facts, now: datetime) -> bytes:
        raise Unavailable("nobody answers")

    def unsigned(run: TakeOver, own_key: bytes) -> bytes:
        raise StateConflict("nobody has signed the CSR")

    machine = TakenOverMachine(tmp_path)
    machine.agent_pass(S.RETURNING)
    for name in ("ca.key", "front-proxy-ca.key", "etcd/ca.key"):
        Path(machine.where.directory, name).unlink()
    monkeypatch.setattr(kubelet_request, "signed", unsigned)
    run = replace(machine.run(S.RETURNING, clock=time.time() + YEARS, imported=OLD_CAS), sign=away)
    with pytest.raises(StateConflict, match="Vault, which has the key of the old CA, does not sign it: nobody answers"):
        old_pairs.renew_kubelet(run)
    with pytest.raises(StateConflict, match=r"not on this machine\. The cluster did not sign it again"):
        old_pairs.renew_kubelet(machine.run(S.RETURNING, clock=time.time() + YEARS))
