"""The steps of a machine that is taken over: which hold the agent's lock, what they tell, and what they refuse."""

from __future__ import annotations

import functools
import time
from dataclasses import replace
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest

from helpers.kube.taken_over_machine import TakenOverMachine
from vaultpki.errors import StateConflict, Unavailable
from vaultpki.model import Certificate
from vaultpki.pki.facts import Facts
from vaultpki.records.adoption import OLD_CAS, ClusterShape
from vaultpki.records.adoption import AdoptionState as S
from vaultpki.takeover import carry_out, kubelet_request, old_pairs, plain_files, starts, steps
from vaultpki.takeover.context import TakeOver

YEARS = 3 * 365 * 86400


def test_every_step_that_changes_folders_holds_the_agents_lock(tmp_path: Path) -> None:
    """A pass of the agent in between would write into a folder that goes away. A restart may take long."""
    machine = TakenOverMachine(tmp_path)
    machine.go(S.PREPARED)
    found = {step.what: step for state in (*S, None) for step in steps.steps(machine.run(state))}
    assert {what for what, step in found.items() if step.locked == bool(step.restarts)} == {"keep kubeadm's own files"}
    assert found["take the new CAs out of kubeadm's own folder"].locked


@pytest.mark.parametrize("shape", ClusterShape)
def test_etcd_and_kube_apiserver_restart_at_once_on_the_only_control_plane(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, shape: ClusterShape
) -> None:
    """The kubelet and kube-apiserver wait for each other while etcd alone is away."""
    machine, did = TakenOverMachine(tmp_path), list[str]()
    machine.go(S.PREPARED)
    run = machine.run(S.PUBLISHED, shape=shape)
    told = "\n".join(carry_out.lines(run))

    def noted(real: Any, what: str, *words: Any) -> Any:
        did.append(f"{what} {words[1]}")
        return real(*words)

    monkeypatch.setattr(starts, "_write", functools.partial(noted, starts._write, "write"))
    monkeypatch.setattr(starts, "_wait", functools.partial(noted, starts._wait, "wait"))
    machine.agent_pass(S.PUBLISHED)
    assert carry_out.carry_out(run)
    both = ["write etcd", "write kube-apiserver", "wait etcd", "wait kube-apiserver"]
    one_by_one = ["write etcd", "wait etcd", "write kube-apiserver", "wait kube-apiserver"]
    at_once = shape is ClusterShape.ONE_PLANE
    assert did[:4] == (both if at_once else one_by_one)
    assert ("restart etcd and kube-apiserver\n" in told) is at_once
    assert told.count("the API of the whole cluster is away") == (shape is not ClusterShape.OTHER)


def test_a_restart_at_once_that_was_cut_off_starts_only_what_is_left(tmp_path: Path) -> None:
    machine = TakenOverMachine(tmp_path)
    fresh = machine.snapshot()
    machine.go(S.PREPARED)
    machine.agent_pass(S.PUBLISHED)
    run = machine.run(S.PUBLISHED, shape=ClusterShape.ONE_PLANE)
    for step in steps.steps(run):
        if step.what == "restart etcd and kube-apiserver":
            break
        if not step.done():
            step.do()
    starts.start_pod(run, "etcd")
    before = machine.processes.load()["etcd"]["moment"]
    assert not step.done()
    step.do()
    assert step.done() and machine.processes.load()["etcd"]["moment"] == before
    # Back, in place of on.
    machine.go(S.PREPARED, shape=ClusterShape.ONE_PLANE)
    machine.go(None)
    assert machine.snapshot() == fresh


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
