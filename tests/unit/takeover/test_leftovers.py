"""What a killed run leaves beside the files that it was about to put in place is removed, and only that."""

from __future__ import annotations

from pathlib import Path

import pytest

from helpers.kube.taken_over_machine import TakenOverMachine
from vaultpki.records.adoption import AdoptionState as S
from vaultpki.takeover import carry_out

RANDOM = "0123456789abcdef"


@pytest.fixture
def machine(tmp_path: Path) -> TakenOverMachine:
    return TakenOverMachine(tmp_path)


def leave(*paths: Path) -> tuple[Path, ...]:
    """What a run that was killed leaves of these files."""
    found = tuple(path.with_name(f".{path.name}.{RANDOM}") for path in paths)
    for path in found:
        path.write_text("a private key\n")
    return found


def test_no_file_with_a_key_stays(machine: TakenOverMachine) -> None:
    where = machine.where
    pki, kubernetes, kubelet = Path(where.directory), Path(where.kubeconfigs), Path(where.kubelet)
    fresh = machine.snapshot()
    machine.go(S.PREPARED)
    left = leave(
        kubernetes / "super-admin.conf",
        kubernetes / "manifests/kube-apiserver.yaml",
        kubelet.parent / "config.yaml",
        kubelet / "kubelet-client-current.pem",
        pki / "ca.crt",
        # Those that it copies: there may be none of this name in the folder that it copies to.
        pki / "etcd/server.key",
        pki / "sa.key",
        Path(where.aside) / "signer/ca.key",
        Path(where.aside) / "agent/encryption.yaml",
    )
    machine.go(S.PUBLISHED)
    assert not [path for path in left if path.exists()]
    left = leave(pki / "apiserver.key", Path(where.aside) / "kubeadm/sa.key", kubernetes / "admin.conf")
    machine.go(S.PREPARED)
    assert not [path for path in left if path.exists()]
    machine.go(None)
    assert machine.snapshot() == fresh


def test_files_of_others_stay(machine: TakenOverMachine) -> None:
    pki, kubernetes = Path(machine.where.directory), Path(machine.where.kubeconfigs)
    own = [
        pki / ".hidden",
        pki / f".theirs.crt.{RANDOM}",
        kubernetes / f".own.conf.{RANDOM}",
        kubernetes / ".admin.conf.swp",
    ]
    for path in own:
        path.write_text("theirs\n")
    fresh = machine.snapshot()
    for state in (S.PREPARED, S.PUBLISHED, S.PREPARED, None):
        machine.go(state)
    assert machine.snapshot() == fresh


def test_an_end_that_was_killed_goes_on(machine: TakenOverMachine, monkeypatch: pytest.MonkeyPatch) -> None:
    """kubeadm's own files are forgotten first, and what lies in their places then is not taken for kubeadm's."""
    for state in (S.PREPARED, S.PUBLISHED, S.SWITCHED, S.CLOSED, S.RETIRED):
        machine.go(state)
    with monkeypatch.context() as patched:

        def dies(path: str) -> None:
            raise KeyboardInterrupt

        patched.setattr("vaultpki.disk.exchange.remove", dies)
        with pytest.raises(KeyboardInterrupt):
            carry_out.carry_out(machine.run(S.DONE))
    assert any(Path(machine.where.aside).rglob("ca.key"))
    machine.go(S.DONE)
    assert not any(Path(machine.where.aside).rglob("ca.key"))
    assert carry_out.left(machine.run(S.DONE)) == []
