"""What is promised of files that others write too: the kubelet's own, and those that a killed run has left."""

from __future__ import annotations

from pathlib import Path

import pytest

from helpers.kube.kubeadm_objects import leaf
from helpers.kube.taken_over_machine import TakenOverMachine
from vaultpki.errors import StoreError
from vaultpki.pki import x509
from vaultpki.records.adoption import AdoptionState as S
from vaultpki.takeover import settings

PATH = "/var/lib/kubelet/config.yaml"


@pytest.mark.parametrize("data", [b"- kind: KubeletConfiguration\n", b"text\n", b"", b"a: &x 1\nb: *x\n"])
def test_what_is_no_configuration_of_a_kubelet_stays_as_it_is(data: bytes) -> None:
    with pytest.raises(StoreError, match=f"{PATH}: it is not the kubelet's configuration"):
        settings.with_values(data, {"rotateCertificates": False}, PATH)


@pytest.mark.parametrize("args", [b"", b"--container-runtime-endpoint=unix:///run/c.sock --v=2"])
def test_a_flag_is_added_once_and_taken_back(args: bytes) -> None:
    """A run that is repeated after a kill writes it no second time."""
    data = b'# kubeadm\nKUBELET_KUBEADM_ARGS="' + args + b'"\n'
    once = settings.with_flag(data, PATH)
    assert once != data and args in once
    assert settings.with_flag(once, PATH) == once
    assert settings.without_flag(once) == data


def test_flags_that_a_person_gives_the_kubelet_in_between_stay_without_ours(tmp_path: Path) -> None:
    machine = TakenOverMachine(tmp_path)
    for state in (S.PREPARED, S.PUBLISHED, S.SWITCHED):
        machine.go(state)
    flags = Path(machine.where.kubelet).parent / "kubeadm-flags.env"
    assert "--rotate-certificates=false" in flags.read_text()
    flags.write_text(flags.read_text().replace('="', '="--v=7 '))
    for back in (S.RETURNING, S.PREPARED, None):
        machine.go(back)
    assert "--v=7" in flags.read_text() and "--rotate-certificates" not in flags.read_text()


def test_what_a_killed_run_has_left_is_gone_from_the_folder_that_lies_aside_too(tmp_path: Path) -> None:
    machine = TakenOverMachine(tmp_path)
    machine.go(S.PREPARED)
    left = Path(machine.where.directory) / ".apiserver.key.0123456789abcdef"
    left.write_text("a private key")
    machine.go(S.PUBLISHED)
    assert not list(tmp_path.rglob(left.name))


def test_the_old_pair_that_ends_first_is_reported(tmp_path: Path) -> None:
    """Until then the way back needs no CA's key."""
    machine = TakenOverMachine(tmp_path)
    first = leaf("kube-apiserver", machine.old["kubernetes"], names=["cp-1"], kind="ECDSA-P256", days=20)
    (Path(machine.where.directory) / "apiserver.crt").write_text(first.pem)
    for state in (S.PREPARED, S.PUBLISHED, S.SWITCHED):
        machine.go(state)
    run = machine.run(S.SWITCHED)
    assert run.machine.kept_until(run.cas) == x509.readable(first.pem)[0].not_after
