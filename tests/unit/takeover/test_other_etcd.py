"""A control plane whose etcd is run by others, and keeps a CA of its own: that CA has no part in the adoption."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from helpers.kube.taken_over_machine import TakenOverMachine
from vaultpki.records.adoption import AdoptionState as S
from vaultpki.records.adoption_report import Held

OWN = "external-etcd"


@pytest.fixture
def machine(tmp_path: Path) -> TakenOverMachine:
    """What kubeadm leaves that was told of an etcd elsewhere, with the files for it in a folder of the user's own."""
    made = TakenOverMachine(tmp_path)
    pki, manifests = Path(made.where.directory), Path(made.where.kubeconfigs, "manifests")
    (manifests / "etcd.yaml").unlink()
    own = pki / OWN
    own.mkdir()
    (pki / "etcd/ca.crt").rename(own / "ca.crt")
    for end in ("crt", "key"):
        (pki / f"apiserver-etcd-client.{end}").rename(own / f"apiserver-etcd-client.{end}")
    shutil.rmtree(pki / "etcd")
    path = manifests / "kube-apiserver.yaml"
    text = path.read_text().replace(f"{pki}/etcd/ca.crt", f"{own}/ca.crt")
    path.write_text(text.replace(f"{pki}/apiserver-etcd-client", f"{own}/apiserver-etcd-client"))
    del made.old["etcd"]
    made.config = replace(made.config, also_trust={ca: made.config.also_trust[ca] for ca in made.old})
    made.processes.boot()
    return made


def test_it_goes_there_and_back_byte_for_byte(machine: TakenOverMachine) -> None:
    before = machine.snapshot()
    wanted = {
        S.PREPARED: (Held.OLD, Held.OLD),
        S.PUBLISHED: (Held.BOTH, Held.OLD),
        S.SWITCHED: (Held.BOTH, Held.NEW),
        S.RETIRED: (Held.NEW, Held.NEW),
        S.RETRUSTING: (Held.BOTH, Held.NEW),
        S.RETURNING: (Held.BOTH, Held.OLD),
    }
    for state, what in wanted.items():
        machine.go(state)
        found = machine.report(state)
        assert (found.trust, found.leaves, found.owed) == (*what, ()), state
        assert found.components["kube-apiserver"].trust is what[0], state
        assert found.components["kube-apiserver"].leaves is what[1], state
        # Its files lie where the flags name them, whatever folder is in place.
        assert {each.name for each in Path(machine.where.directory, OWN).iterdir()} == {
            "ca.crt",
            "apiserver-etcd-client.crt",
            "apiserver-etcd-client.key",
        }, state
    machine.go(S.PREPARED)
    machine.go(None)
    after = machine.snapshot()
    assert after == before


def test_it_goes_to_the_end(machine: TakenOverMachine) -> None:
    for state in (S.PREPARED, S.PUBLISHED, S.SWITCHED, S.CLOSED, S.RETIRED, S.DONE):
        machine.go(state)
    found = machine.report(S.DONE)
    assert (found.trust, found.leaves, found.owed) == (Held.NEW, Held.NEW, ())
    assert Path(machine.where.directory, OWN, "apiserver-etcd-client.key").is_file()
