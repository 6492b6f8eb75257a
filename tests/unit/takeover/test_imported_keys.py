"""A machine whose old CAs are in Vault with their keys: who signs its old pairs, and what it does without a key."""

from __future__ import annotations

from dataclasses import replace
from datetime import datetime, timedelta
from pathlib import Path

import pytest

from helpers.kube.kubeadm_objects import NOW, authority, leaf
from helpers.kube.taken_over_machine import TakenOverMachine
from vaultpki.errors import CertificateRefused, StateConflict, Unavailable
from vaultpki.identity import imported
from vaultpki.model import Certificate
from vaultpki.pki import keys, x509
from vaultpki.pki.facts import Facts
from vaultpki.pki.signed import check_of_old_ca
from vaultpki.pki.signed_again import signed_again
from vaultpki.records.adoption import OLD_CAS
from vaultpki.records.adoption import AdoptionState as S
from vaultpki.takeover import carry_out, old_pairs

ONWARD = (S.PREPARED, S.PUBLISHED, S.SWITCHED)
# The kubelet's has been signed by the key on the machine, before that was lost.
ASKED = {
    "kube-apiserver",
    "kube-apiserver-kubelet",
    "kube-apiserver-etcd",
    "front-proxy-client",
    "etcd-server",
    "etcd-peer",
    "etcd-healthcheck-client",
    "kube-controller-manager",
    "kube-scheduler",
}


class SigningVault:
    """Signs with the key of the old CA as a server would, and remembers for which certificates it was asked."""

    def __init__(self, machine: TakenOverMachine) -> None:
        self.machine, self.asked = machine, set[str]()
        self.down = False

    def sign(self, want: Certificate, key_pem: bytes, ca: Facts, now: datetime) -> bytes:
        if self.down:
            raise Unavailable("nobody answers")
        old = self.machine.old[want.ca]
        assert ca.pem == old.pem
        self.asked.add(want.name)
        assert keys.read_key(key_pem)
        again = leaf(want.subject.common_name, old, kind="ECDSA-P256", days=365)
        return signed_again(again.pem.encode(), old.pem.encode(), old.key_pem.encode(), now)


def go(machine: TakenOverMachine, vault: SigningVault, state: S | None) -> None:
    if state is not None:
        machine.agent_pass(state)
    run = machine.run(state, imported=OLD_CAS) if state is not None else machine.run(None)
    carry_out.carry_out(replace(run, sign=vault.sign))


def lose_keys(machine: TakenOverMachine) -> None:
    for path in (machine.root / "etc/kubernetes").rglob("*.key"):
        if path.name in ("ca.key", "front-proxy-ca.key"):
            path.unlink()


def test_vault_signs_all_pairs_of_the_node_and_none_of_people(tmp_path: Path) -> None:
    machine = TakenOverMachine(tmp_path, days=3)
    vault = SigningVault(machine)
    for state in ONWARD:
        go(machine, vault, state)
    assert not vault.asked
    lose_keys(machine)
    go(machine, vault, S.RETURNING)
    assert vault.asked == ASKED
    again = machine.run(S.RETURNING)
    (admin,) = again.machine.kubeconfig_leaf(f"{machine.where.kubeconfigs}/admin.conf")
    assert admin.not_after < again.now + timedelta(days=9)
    assert not carry_out.left(replace(machine.run(S.RETURNING, imported=OLD_CAS), sign=vault.sign))


def test_with_the_key_here_a_vault_that_is_away_stops_nothing(tmp_path: Path) -> None:
    machine = TakenOverMachine(tmp_path, days=3)
    vault = SigningVault(machine)
    vault.down = True
    for state in (*ONWARD, S.RETURNING, S.PREPARED):
        go(machine, vault, state)
    assert not vault.asked and not old_pairs.ended(machine.run(S.PREPARED))


def test_without_any_key_it_waits_for_vault_and_says_why(tmp_path: Path) -> None:
    machine = TakenOverMachine(tmp_path, days=3)
    vault = SigningVault(machine)
    for state in ONWARD:
        go(machine, vault, state)
    lose_keys(machine)
    vault.down = True
    with pytest.raises(StateConflict, match="does not sign it: nobody answers"):
        go(machine, vault, S.RETURNING)
    assert machine.processes.shows("kube-apiserver") == "new"
    vault.down = False
    go(machine, vault, S.RETURNING)
    assert machine.processes.shows("kube-apiserver") == "old"
    # And it can turn round from there.
    go(machine, vault, S.SWITCHED)
    assert machine.processes.shows("kube-apiserver") == "new"


@pytest.mark.parametrize(("days", "asked"), [(60, True), (200, False)])
def test_without_a_key_pairs_are_signed_well_before_they_end(tmp_path: Path, days: int, asked: bool) -> None:
    machine = TakenOverMachine(tmp_path, days=days)
    vault = SigningVault(machine)
    for state in ONWARD:
        go(machine, vault, state)
    lose_keys(machine)
    go(machine, vault, S.RETURNING)
    assert bool(vault.asked) is asked


def test_a_controller_manager_without_the_key_runs_and_signs_nothing_to_the_end(tmp_path: Path) -> None:
    machine = TakenOverMachine(tmp_path)
    vault = SigningVault(machine)
    for state in ONWARD:
        go(machine, vault, state)
    lose_keys(machine)
    for each in (S.RETURNING, S.PREPARED, None):
        go(machine, vault, each)
        words = machine.processes.words("kube-controller-manager")
        assert words["cluster-signing-key-file"] == "" and words["cluster-signing-cert-file"] == "", each
        assert not machine.processes.problem("kube-controller-manager"), each
    assert carry_out.left(machine.run(None)) == []


def test_without_an_import_a_lost_key_is_asked_for(tmp_path: Path) -> None:
    machine = TakenOverMachine(tmp_path)
    (Path(machine.where.directory) / "ca.key").unlink()
    machine.agent_pass(S.PREPARED)
    with pytest.raises(StateConflict, match="Copy it here from another control plane"):
        carry_out.carry_out(machine.run(S.PREPARED))


def test_what_vault_signs_is_checked(tmp_path: Path) -> None:
    machine = TakenOverMachine(tmp_path)
    want = next(each for each in machine.certificates() if each.name == "kube-scheduler")
    want = imported.of_old_ca(want, "vaultpki/prod")
    assert (want.mount, want.ttl) == ("vaultpki/prod/imported-kubernetes", 365 * 86400)
    ca = x509.read_certificates(machine.old["kubernetes"].pem.encode())[0]
    other = authority("kubernetes", "ECDSA-P256", number=8)
    right = leaf("system:kube-scheduler", machine.old["kubernetes"], kind="ECDSA-P256", days=300)
    for signed, why in (
        (
            leaf("system:kube-controller-manager", machine.old["kubernetes"], kind="ECDSA-P256", days=300),
            "names-differ",
        ),
        (leaf("system:kube-scheduler", other, kind="ECDSA-P256", days=300), "usage-differs"),
    ):
        key = keys.read_key(signed.key_pem.encode())
        with pytest.raises(CertificateRefused) as refused:
            check_of_old_ca(signed.pem.encode(), key, want, ca, NOW + timedelta(hours=1))
        assert refused.value.reason == why
    with pytest.raises(CertificateRefused) as refused:
        check_of_old_ca(right.pem.encode(), keys.generate_key(want.key), want, ca, NOW)
    assert refused.value.reason == "key-mismatch"
