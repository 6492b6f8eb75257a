"""Pods that mount kubeadm's files get those of now, by turns, and no file that one mounts becomes a folder."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
import yaml

from helpers.kube.kubeadm_objects import encoded, leaf
from helpers.kube.taken_over_machine import TakenOverMachine
from vaultpki.errors import Attention, StateConflict
from vaultpki.records.adoption import AdoptionState as S
from vaultpki.records.adoption_report import Held, MountReport
from vaultpki.takeover import carry_out, steps

# kube-vip's own: no command, one container, one file of the host (kube-vip manifest pod --controlplane --arp).
VIP = """\
apiVersion: v1
kind: Pod
metadata:
  name: kube-vip
  namespace: kube-system
spec:
  containers:
  - args:
    - manager
    image: ghcr.io/kube-vip/kube-vip:v0.9.2  # pinned
    name: kube-vip
    volumeMounts:
    - mountPath: /etc/kubernetes/admin.conf
      name: kubeconfig
  hostAliases:
  - hostnames: [kubernetes]
    ip: 127.0.0.1
  hostNetwork: true
  volumes:
  - hostPath:
      path: PATH
    name: kubeconfig
status: {}
"""
ONWARD = (S.PREPARED, S.PUBLISHED, S.SWITCHED, S.CLOSED, S.RETIRED)


@pytest.fixture
def machine(tmp_path: Path) -> TakenOverMachine:
    made = TakenOverMachine(tmp_path)
    manifest(made).write_text(VIP.replace("PATH", str(admin(made))))
    return made


def manifest(machine: TakenOverMachine) -> Path:
    return Path(machine.where.kubeconfigs, "manifests/kube-vip.yaml")


def admin(machine: TakenOverMachine) -> Path:
    return Path(machine.where.kubeconfigs, "admin.conf")


def of_vault(machine: TakenOverMachine) -> None:
    """A person writes a kubeconfig with a pair of the new CA over admin.conf, in place."""
    made = leaf("kubernetes-admin", machine.new["kubernetes"], kind="ECDSA-P256")
    text = admin(machine).read_text()
    old = yaml.safe_load(text)["users"][0]["user"]["client-certificate-data"]
    admin(machine).write_text(text.replace(old, encoded(made.pem)))


def said(machine: TakenOverMachine, state: S) -> tuple[MountReport, ...]:
    found = machine.report(state).mounts
    assert found is not None
    return found


def started(machine: TakenOverMachine) -> float:
    uptime: float = machine.processes.containers()["kube-vip"]["moment"][1]
    return uptime


def test_a_static_pod_is_started_anew_whenever_what_it_mounts_has_changed(machine: TakenOverMachine) -> None:
    before = machine.snapshot()
    for state in ONWARD[:4]:
        first = started(machine) if state is not S.PREPARED else 0.0
        machine.go(state)
        # admin.conf gets both CAs in published, and stays as it is until the old one leaves.
        assert (started(machine) > first) is (state in (S.PREPARED, S.PUBLISHED)), state
        (one,) = said(machine, state)
        assert one.fresh and one.who == "the static pod kube-vip" and one.path == str(admin(machine)), state
        assert one.leaves is Held.OLD and one.trust is (Held.OLD if state is S.PREPARED else Held.BOTH)
    of_vault(machine)
    assert [each.fresh for each in said(machine, S.CLOSED)] == [False]
    machine.go(S.CLOSED)
    assert [(each.fresh, each.leaves) for each in said(machine, S.CLOSED)] == [(True, Held.NEW)]
    for state in (S.RETURNING, S.PREPARED):
        machine.go(state)
        assert [(each.fresh, each.leaves) for each in said(machine, state)] == [(True, Held.OLD)]
    machine.go(None)
    assert machine.snapshot() == before


def test_it_waits_for_the_turn_and_the_machine_owes_it(machine: TakenOverMachine) -> None:
    for state in ONWARD[:3]:
        machine.go(state)
    of_vault(machine)
    run = replace(machine.run(S.SWITCHED), turn=False)
    assert [step.what for step in carry_out.left(run)] == [f"restart kube-vip, which mounts {admin(machine)}"]
    assert steps.needs_turn(run) and machine.report(S.SWITCHED).owed
    with pytest.raises(Attention, match="restart on one machine at a time"):
        carry_out.carry_out(run)


def test_a_release_that_did_not_look_may_have_left_it_with_the_file_of_before(machine: TakenOverMachine) -> None:
    """An upgrade of vaultpki in the middle of an adoption."""
    for state in ONWARD[:2]:
        machine.go(state)
    journal = machine.run(S.PUBLISHED).journal
    path, held = str(manifest(machine)), machine.processes.containers()
    manifest(machine).write_text(VIP.replace("PATH", str(admin(machine))))
    known = journal.value
    journal.save(
        prepared={name: each for name, each in known.prepared.items() if name != path},
        kept={name: each for name, each in known.kept.items() if name != path},
        written={name: each for name, each in known.written.items() if name != path},
    )
    machine.processes.mount("kube-vip", str(admin(machine)), digest="")
    machine.processes.holders(())
    # It has the inode of before.
    found = machine.processes.containers()
    found["kube-vip"]["held"] = {str(admin(machine)): 1}
    (machine.root / "containers.json").write_text(json.dumps(found))
    assert [step.what for step in carry_out.left(machine.run(S.PUBLISHED))][-1].startswith("restart kube-vip")
    carry_out.carry_out(machine.run(S.PUBLISHED))
    assert all(each.fresh for each in said(machine, S.PUBLISHED)) and started(machine) > held["kube-vip"]["moment"][1]


def test_the_mark_is_all_that_changes_in_its_manifest(machine: TakenOverMachine) -> None:
    before = manifest(machine).read_text().splitlines()
    for state in ONWARD[:2]:
        machine.go(state)
    after = manifest(machine).read_text().splitlines()
    added = [line for line in after if line not in before]
    assert [line for line in after if line in before] == before
    assert "annotations" in added[0] and "vaultpki/taken-over" in added[1] and len(added) == 2


def test_admin_conf_stays_a_file_at_the_end_where_a_pod_mounts_it(machine: TakenOverMachine) -> None:
    for state in (*ONWARD, S.DONE):
        machine.go(state)
    # Its pair is of no use any more; a person has passed by the gate.
    assert admin(machine).is_file()
    assert not Path(machine.where.kubeconfigs, "super-admin.conf").exists()


def test_other_containers_are_named_until_they_are_started_anew(machine: TakenOverMachine) -> None:
    """One of a DaemonSet, say: nobody here restarts it."""
    pki = machine.where.directory
    machine.processes.mount("exporter", f"{pki}/etcd", pki)
    machine.go(S.PREPARED)
    assert [each.who for each in said(machine, S.PREPARED)] == ["the static pod kube-vip"]
    machine.go(S.PUBLISHED)
    named = [each for each in said(machine, S.PUBLISHED) if not each.fresh]
    assert {each.who for each in named} == {"exporter (process 1)"}
    machine.processes.mount("exporter", f"{pki}/etcd", pki)
    assert all(each.fresh for each in said(machine, S.PUBLISHED))


@pytest.mark.parametrize("end", [S.DONE, None])
def test_what_a_container_has_mounted_is_not_deleted(machine: TakenOverMachine, end: S | None) -> None:
    machine.processes.mount("exporter", machine.where.directory)
    way = (*ONWARD, S.DONE) if end is S.DONE else (S.PREPARED, S.PUBLISHED, S.PREPARED, None)
    for state in way[:-1]:
        machine.go(state)
    if end is None:
        # kubeadm's own folder is in place again, and this one was started in between.
        machine.processes.mount("exporter", f"{machine.where.aside}/both")
    with pytest.raises(
        StateConflict, match=r"exporter \(process 1\) has .*/vaultpki/.* mounted, which is to be deleted"
    ):
        machine.go(end)
    machine.processes.mount("exporter", machine.where.directory)
    machine.go(end)


@pytest.mark.parametrize("name", ["pki/ca.key", "pki/etcd/ca.key"])
def test_a_mounted_file_that_is_put_aside_is_refused_before_anything_is_changed(
    machine: TakenOverMachine, name: str
) -> None:
    path = f"{machine.where.kubeconfigs}/{name}"
    manifest(machine).write_text(VIP.replace("PATH", path))
    machine.agent_pass(S.PREPARED)
    before = machine.snapshot()
    with pytest.raises(StateConflict, match=f"a pod mounts {path}, which is put aside"):
        carry_out.carry_out(machine.run(S.PREPARED))
    assert machine.snapshot() == before


def test_a_manifest_that_cannot_be_read_and_names_kubeadms_folder_is_refused(machine: TakenOverMachine) -> None:
    manifest(machine).write_text(f"a: &b {admin(machine)}\nc: *b\n")
    machine.agent_pass(S.PREPARED)
    with pytest.raises(StateConflict, match=r"kube-vip\.yaml: .* it may mount kubeadm's files"):
        carry_out.carry_out(machine.run(S.PREPARED))
