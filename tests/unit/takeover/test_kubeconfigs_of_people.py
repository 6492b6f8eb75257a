"""Kubeconfigs of people on a machine are named with what they hold, and no file of a user holds the agent up."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from helpers.kube.kubeadm_objects import encoded, leaf
from helpers.kube.taken_over_machine import TakenOverMachine, conf
from vaultpki.adopt import machine as inventory
from vaultpki.records.adoption import AdoptionState as S
from vaultpki.records.adoption_report import Held, KubeconfigReport
from vaultpki.takeover import beside

SERVER = "https://198.51.100.11:6443"


@pytest.fixture
def machine(tmp_path: Path) -> TakenOverMachine:
    return TakenOverMachine(tmp_path)


def home(machine: TakenOverMachine, name: str) -> Path:
    """Where a user has a kubeconfig."""
    path = machine.root / name / ".kube/config"
    path.parent.mkdir(parents=True)
    return path


def named(machine: TakenOverMachine, state: S) -> dict[str, KubeconfigReport]:
    found = machine.report(state).kubeconfigs
    return {each.path.removeprefix(str(machine.root)): each for each in found}


def of_new(machine: TakenOverMachine) -> str:
    made = leaf("anna", machine.new["kubernetes"], kind="ECDSA-P256")
    user = {"client-certificate-data": encoded(made.pem), "client-key-data": encoded(made.key_pem)}
    return conf(SERVER, machine.new["kubernetes"].pem, user)


def test_copies_of_admin_conf_keep_what_they_had(machine: TakenOverMachine) -> None:
    admin = Path(machine.where.kubeconfigs, "admin.conf")
    copy = home(machine, "root")
    copy.write_bytes(admin.read_bytes())
    machine.go(S.PREPARED)
    assert named(machine, S.PREPARED) == {}
    own, copied = "/etc/kubernetes/admin.conf", "/root/.kube/config"
    for state in (S.PUBLISHED, S.SWITCHED, S.CLOSED):
        machine.go(state)
        found = named(machine, state)
        # Those of components are not among them, since states change these.
        assert set(found) - {"/etc/kubernetes/super-admin.conf"} == {own, copied}
        assert (found[own].trust, found[own].leaves) == (Held.BOTH, Held.OLD)
        assert (found[copied].trust, found[copied].leaves) == (Held.OLD, Held.OLD)
    copy.write_text(of_new(machine))
    assert named(machine, S.CLOSED)[copied].leaves is Held.NEW


def test_those_that_the_inventory_sees_in_homes_are_those_that_the_agent_sees(machine: TakenOverMachine) -> None:
    admin = Path(machine.where.kubeconfigs, "admin.conf").read_bytes()
    for name in ("root", "home/anna", "home/ben"):
        home(machine, name).write_bytes(admin)
    machine.go(S.PUBLISHED)
    seen = {each.path for each in inventory.read(str(machine.root)).kubeconfigs if "/.kube/" in each.path}
    assert seen == {path for path in named(machine, S.PUBLISHED) if "/.kube/" in path} and len(seen) == 3


def test_what_a_user_makes_there_is_left_alone(machine: TakenOverMachine, monkeypatch: pytest.MonkeyPatch) -> None:
    admin = Path(machine.where.kubeconfigs, "admin.conf")
    home(machine, "home/a").symlink_to(admin)
    folder = machine.root / "home/b/.kube"
    folder.parent.mkdir()
    (machine.root / "elsewhere").mkdir()
    (machine.root / "elsewhere/config").write_bytes(admin.read_bytes())
    folder.symlink_to(machine.root / "elsewhere")
    os.mkfifo(home(machine, "home/c"))
    home(machine, "home/d").write_bytes(admin.read_bytes() + b"#" * (1 << 17))
    home(machine, "home/e").mkdir()
    home(machine, "home/f").write_text("kind: Config\nclusters: [&a [*a]]\nusers: 7\n")
    home(machine, "home/g").write_bytes(admin.read_bytes())
    machine.go(S.PUBLISHED)
    assert [path for path in named(machine, S.PUBLISHED) if "/.kube/" in path] == ["/home/g/.kube/config"]
    # A server of homes that is away would hold up each read.
    monkeypatch.setattr(beside, "remote", lambda: (f"{machine.root}/home",))
    assert not [path for path in named(machine, S.PUBLISHED) if "/home/" in path]
