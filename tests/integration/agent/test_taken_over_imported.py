"""A machine goes back to its old CAs with certificates of Vault, where their keys were imported."""

from __future__ import annotations

from pathlib import Path

import pytest
from cryptography import x509 as c
from cryptography.hazmat.primitives.serialization import load_pem_private_key

from helpers.node.enrolled_machine import EnrolledMachine, Ground
from helpers.vault import imported_cas
from helpers.vault.cluster_factory import ClusterFactory
from vaultpki.ca import imported
from vaultpki.errors import StateConflict
from vaultpki.pki import x509
from vaultpki.records.adoption import OLD_CAS
from vaultpki.records.adoption import AdoptionState as S
from vaultpki.records.adoption_report import Held, OldKeys

PAIRS = (
    "apiserver",
    "apiserver-kubelet-client",
    "apiserver-etcd-client",
    "front-proxy-client",
    "etcd/server",
    "etcd/peer",
    "etcd/healthcheck-client",
)


def joined(clusters: ClusterFactory, folder: Path, monkeypatch: pytest.MonkeyPatch, days: int) -> EnrolledMachine:
    one = EnrolledMachine(Ground.of(clusters), folder, monkeypatch, days)
    imported_cas.bring_in(one.cluster, one.machine.old)
    one.imported = OLD_CAS
    one.join()
    return one


def let_sign(one: EnrolledMachine, *, on: bool) -> None:
    for ca in OLD_CAS:
        imported.let_sign(one.cluster.model, one.cluster.client(), ca, on=on)


def lead(one: EnrolledMachine, *states: S) -> None:
    for state in states:
        one.go(state)


def loses_its_keys(one: EnrolledMachine) -> None:
    root = one.machine.root / "etc/kubernetes"
    gone = [path for path in root.rglob("*.key") if path.name in ("ca.key", "front-proxy-ca.key")]
    assert len(gone) >= 3
    for path in gone:
        path.unlink()


def signed_again(one: EnrolledMachine) -> set[str]:
    """Which old pairs have new certificates of their old CAs, a year long, for the keys that they had."""
    pki, found = Path(one.machine.where.directory), set()
    for name in PAIRS:
        (leaf,) = x509.read_certificates((pki / f"{name}.crt").read_bytes())
        ca = {"etcd": "etcd", "front-proxy-client": "front-proxy"}.get(name.partition("/")[0], "kubernetes")
        ca = "etcd" if name == "apiserver-etcd-client" else ca
        signed = x509.read_certificates(one.machine.old[ca].pem.encode())[0]
        assert x509.signed_by(leaf, signed), name
        pair = c.load_pem_x509_certificate((pki / f"{name}.crt").read_bytes())
        key = load_pem_private_key((pki / f"{name}.key").read_bytes(), None)
        assert key.public_key() == pair.public_key(), name
        life = leaf.not_after - leaf.not_before
        if 364 <= life.days <= 366:
            found.add(name)
    return found


def test_old_pairs_that_end_are_signed_by_vault(
    clusters: ClusterFactory, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    one = joined(clusters, tmp_path, monkeypatch, days=3)
    lead(one, S.PREPARED, S.PUBLISHED, S.SWITCHED)
    let_sign(one, on=True)
    since = one.cluster.server.audit_position()
    one.go(S.RETURNING)
    assert signed_again(one) == set(PAIRS)
    asked = {path for _, path in one.cluster.server.writes(since) if "/sign/" in path}
    assert len(asked) >= len(PAIRS) + 2 and all("/imported-" in path for path in asked)
    report = one.report()
    assert (report.reached, report.owed, report.leaves, report.signer) == (S.RETURNING, (), Held.OLD, True)
    let_sign(one, on=False)
    lead(one, S.PREPARED)
    assert one.report().reached is S.PREPARED
    one.go(None)


def test_without_a_key_on_the_disk_it_comes_back_too(
    clusters: ClusterFactory, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    one = joined(clusters, tmp_path, monkeypatch, days=60)
    lead(one, S.PREPARED, S.PUBLISHED, S.SWITCHED, S.CLOSED)
    loses_its_keys(one)
    # As long as Vault does not sign, it says why, and goes on with the pairs that it has.
    with pytest.raises(StateConflict, match="Vault, which has the key of the old CA, does not sign it"):
        one.go(S.RETURNING)
    assert one.report().leaves is Held.NEW
    let_sign(one, on=True)
    one.go(S.RETURNING)
    assert signed_again(one) == set(PAIRS)
    report = one.report()
    assert (report.reached, report.owed, report.leaves) == (S.RETURNING, (), Held.OLD)
    assert (report.no_signer, report.signer, report.keys) == (True, False, OldKeys.NONE)
    let_sign(one, on=False)
    one.go(S.PREPARED)
    report = one.report()
    assert (report.reached, report.owed, report.no_signer) == (S.PREPARED, (), True)
    one.go(None)
    # A controller manager whose flags name a missing key would not start; kubeadm leaves them empty then.
    words = one.machine.processes.words("kube-controller-manager")
    assert (words["cluster-signing-cert-file"], words["cluster-signing-key-file"]) == ("", "")
    assert not one.machine.processes.problem("kube-controller-manager")
    assert not Path(one.machine.where.aside).exists()


def test_the_key_on_the_disk_helps_where_vault_does_not_sign(
    clusters: ClusterFactory, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    one = joined(clusters, tmp_path, monkeypatch, days=3)
    lead(one, S.PREPARED, S.PUBLISHED, S.SWITCHED)
    one.go(S.RETURNING)
    assert signed_again(one) == set(PAIRS)
    assert one.report().reached is S.RETURNING
