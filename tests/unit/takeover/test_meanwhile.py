"""What happens while a machine stands half-way: kubeadm renews and upgrades, old pairs end, users have their flags."""

from __future__ import annotations

import base64
import contextlib
import copy
import time
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
import yaml
from cryptography import x509 as crypto
from cryptography.hazmat.primitives import hashes, serialization

from helpers.kube import answering_api
from helpers.kube.answering_api import Api
from helpers.kube.kubeadm_objects import authority, encoded, leaf
from helpers.kube.taken_over_machine import TakenOverMachine
from vaultpki.disk import exchange
from vaultpki.errors import StateConflict, StoreError
from vaultpki.pki import x509
from vaultpki.records.adoption import AdoptionState as S
from vaultpki.takeover import carry_out

DAY = 86400.0


@pytest.fixture
def machine(tmp_path: Path) -> TakenOverMachine:
    return TakenOverMachine(tmp_path)


def test_a_pair_that_kubeadm_renews_in_published_goes_back_too(machine: TakenOverMachine) -> None:
    before = machine.snapshot()
    machine.go(S.PUBLISHED)
    pki = Path(machine.where.directory)
    renewed = leaf("kube-apiserver", machine.old["kubernetes"], names=["cp-1"], kind="ECDSA-P256")
    (pki / "apiserver.crt").write_text(renewed.pem)
    machine.go(S.SWITCHED)
    machine.go(S.RETURNING)
    assert (pki / "apiserver.crt").read_text() == renewed.pem
    machine.go(S.PREPARED)
    assert machine.run(S.PREPARED).journal.value.changed == ("apiserver.crt",)
    machine.go(None)
    after = machine.snapshot()
    assert {name for name in before if before[name] != after[name]} == {"etc/kubernetes/pki/apiserver.crt"}
    assert (pki / "apiserver.crt").read_text() == renewed.pem


@pytest.mark.parametrize("state", [S.PUBLISHED, S.SWITCHED])
def test_an_upgrade_of_kubeadms_in_between_stays(machine: TakenOverMachine, state: S) -> None:
    before = machine.snapshot()
    for each in (S.PUBLISHED, S.SWITCHED)[: 2 if state is S.SWITCHED else 1]:
        machine.go(each)
    manifest = Path(machine.where.kubeconfigs) / "manifests/kube-apiserver.yaml"
    manifest.write_text(manifest.read_text().replace("v1.36.3", "v1.36.4"))
    settings = Path(machine.where.kubelet).parent / "config.yaml"
    settings.write_text(settings.read_text().replace("syncFrequency: 0s", "syncFrequency: 1s"))
    machine.go(state)
    assert "v1.36.4" in manifest.read_text() and "syncFrequency: 1s" in settings.read_text()
    for back in (S.RETURNING, S.PREPARED, None) if state is S.SWITCHED else (S.PREPARED, None):
        machine.go(back)
    after = machine.snapshot()
    changed = {"etc/kubernetes/manifests/kube-apiserver.yaml", "var/lib/kubelet/config.yaml"}
    assert {name for name in before if before[name] != after[name]} == changed
    assert "v1.36.4" in manifest.read_text() and "vaultpki" not in manifest.read_text()
    assert "tlsCertFile" not in settings.read_text() and "rotateCertificates: true" in settings.read_text()


def test_old_pairs_that_have_ended_are_signed_again(tmp_path: Path) -> None:
    machine = TakenOverMachine(tmp_path, days=30)
    pki = Path(machine.where.directory)
    before = {name: x509.readable((pki / name).read_text())[0] for name in ("apiserver.crt", "etcd/server.crt")}
    machine.go(S.PUBLISHED)
    machine.go(S.SWITCHED)
    later = time.time() + 40 * DAY
    machine.go(S.RETURNING, clock=later)
    for name, old in before.items():
        new = x509.readable((pki / name).read_text())[0]
        assert new.not_after > old.not_after and new.subject == old.subject and new.public_key == old.public_key
        assert new.extensions == old.extensions
        assert x509.issuer_of(new, x509.readable(machine.old["etcd" if "etcd" in name else "kubernetes"].pem))
    journal = machine.run(S.RETURNING, clock=later).journal.value
    assert {"apiserver.crt", "etcd/peer.crt", f"{machine.where.kubeconfigs}/admin.conf"} <= set(journal.signed_again)
    assert any(name.endswith("kubelet-client-2026-01-01.pem") for name in journal.signed_again)
    machine.go(S.PREPARED, clock=later)
    assert carry_out.left(machine.run(S.PREPARED, clock=later)) == []
    assert all(not machine.processes.problem(each) for each in machine.processes.load())


def test_a_worker_whose_old_certificate_has_ended_is_named(tmp_path: Path) -> None:
    machine = TakenOverMachine(tmp_path, "w-1", days=30)
    machine.go(S.PUBLISHED)
    machine.go(S.SWITCHED)
    machine.agent_pass(S.RETURNING)
    with pytest.raises(
        StateConflict, match=r"kubelet-client-2026-01-01\.pem ended on .* The cluster did not sign it again"
    ):
        carry_out.carry_out(machine.run(S.RETURNING, clock=time.time() + 40 * DAY))
    # It goes on with the new pair.
    assert machine.processes.shows("kubelet") == "new"
    machine.go(S.SWITCHED)


@contextlib.contextmanager
def signing(machine: TakenOverMachine, folder: Path) -> Iterator[Api]:
    """An API server with a certificate of the new CA, whose controller manager signs CSRs with the old one."""
    served = leaf("kube-apiserver", machine.new["kubernetes"], addresses=["127.0.0.1"], kind="ECDSA-P256")
    pair = folder / "apiserver.pem"
    pair.write_text(served.pem + served.key_pem)

    def signs(path: str, body: dict[str, Any]) -> dict[str, Any]:
        spec = body["spec"]
        assert spec["signerName"] == "kubernetes.io/kube-apiserver-client-kubelet" and "client auth" in spec["usages"]
        request = crypto.load_pem_x509_csr(base64.b64decode(spec["request"]))
        old = machine.old["kubernetes"]
        now = datetime.now(UTC)
        made = (
            crypto.CertificateBuilder(old.certificate.subject, request.subject, request.public_key(), 7)
            .not_valid_before(now)
            .not_valid_after(now + timedelta(days=365))
            .add_extension(crypto.BasicConstraints(ca=False, path_length=None), critical=True)
            .sign(old.key, hashes.SHA256())
        )
        pem = made.public_bytes(serialization.Encoding.PEM).decode()
        return {"metadata": {"name": "vaultpki-x"}, "status": {"certificate": encoded(pem)}}

    with answering_api.serving({}, lambda tls: tls.load_cert_chain(pair)) as api:
        api.made = signs
        yield api


def test_a_worker_whose_old_certificate_has_ended_has_the_cluster_sign_it(
    tmp_path: Path, tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    machine = TakenOverMachine(tmp_path, "w-1", days=30)
    given = machine.assignment
    with signing(machine, tmp_path_factory.mktemp("api")) as api:
        server = f"https://127.0.0.1:{api.server_address[1]}"
        monkeypatch.setattr(machine, "assignment", lambda record: replace(given(record), server=server))
        machine.go(S.PUBLISHED)
        machine.go(S.SWITCHED)
        machine.go(S.RETURNING, clock=time.time() + 40 * DAY)
    pair = Path(machine.where.kubelet) / "kubelet-client-2026-01-01.pem"
    new = x509.readable(pair.read_text().partition("-----BEGIN EC")[0].partition("-----BEGIN PRIV")[0])[0]
    assert new.not_after > datetime.now(UTC) + timedelta(days=300)
    assert machine.processes.shows("kubelet") == "old" and not machine.processes.problem("kubelet")


def test_without_the_old_key_nothing_is_signed_again(tmp_path: Path) -> None:
    machine = TakenOverMachine(tmp_path, days=30)
    machine.go(S.PUBLISHED)
    machine.go(S.SWITCHED)
    for kind in ("both", "kubeadm"):
        (Path(machine.where.aside) / kind / "etcd/ca.key").unlink()
    machine.agent_pass(S.RETURNING)
    with pytest.raises(StateConflict, match="an old pair of etcd has ended, and the key of the old CA is not"):
        carry_out.carry_out(machine.run(S.RETURNING, clock=time.time() + 40 * DAY))


def test_a_kubelet_ca_of_the_users_own_holds_both_until_every_kubelet_is_ours(machine: TakenOverMachine) -> None:
    manifest = Path(machine.where.kubeconfigs) / "manifests/kube-apiserver.yaml"
    line = f"    - --kubelet-certificate-authority={machine.where.directory}/ca.crt\n"
    manifest.write_text(manifest.read_text().replace("    - --secure-port", f"{line}    - --secure-port"))
    machine.processes.boot()
    before = machine.snapshot()
    machine.go(S.PUBLISHED)
    read = machine.processes.load()["kube-apiserver"]["read"]["kubelet-certificate-authority"]
    assert machine.old["kubernetes"].pem in read and machine.new["kubelet"].pem in read
    machine.go(S.PREPARED)
    machine.go(None)
    assert machine.snapshot() == before


def test_keys_that_a_person_keeps_stay(machine: TakenOverMachine) -> None:
    for state in (S.PUBLISHED, S.SWITCHED, S.CLOSED, S.RETIRED):
        machine.go(state)
    machine.go(S.DONE, kept="in the safe")
    assert (Path(machine.where.aside) / "kubeadm/ca.key").exists()
    machine.go(S.DONE)
    assert not (Path(machine.where.aside) / "kubeadm").exists()


def test_a_journal_that_is_lost_stops_everything(machine: TakenOverMachine) -> None:
    machine.go(S.PUBLISHED)
    for path in (machine.state / "takeover").iterdir():
        path.unlink()
    with pytest.raises(StateConflict, match="is lost, which says how to go back"):
        machine.go(S.SWITCHED)


def test_an_etcd_that_is_not_healthy_is_not_restarted(
    machine: TakenOverMachine, monkeypatch: pytest.MonkeyPatch
) -> None:
    machine.agent_pass(S.PUBLISHED)
    real = machine.processes.problem
    monkeypatch.setattr(machine.processes, "problem", lambda name: "no quorum" if name == "etcd" else real(name))
    before = machine.processes.load()["etcd"]
    with pytest.raises(StateConflict, match=r"etcd is not healthy before its restart \(no quorum\)"):
        carry_out.carry_out(machine.run(S.PUBLISHED))
    assert machine.processes.load()["etcd"] == before


def test_folders_are_exchanged_and_copied_whole(tmp_path: Path) -> None:
    one, other = tmp_path / "one", tmp_path / "other"
    (one / "etcd").mkdir(parents=True)
    (one / "etcd/ca.crt").write_text("ca")
    (one / "link").symlink_to("etcd/ca.crt")
    (one / "etcd").chmod(0o750)
    exchange.copy_tree(str(one), str(other))
    assert (other / "link").readlink() == Path("etcd/ca.crt") and (other / "etcd").stat().st_mode & 0o777 == 0o750
    assert (other / "etcd/ca.crt").stat().st_mtime_ns == (one / "etcd/ca.crt").stat().st_mtime_ns
    (other / "etcd/ca.crt").write_text("other")
    exchange.exchange(str(one), str(other))
    assert (one / "etcd/ca.crt").read_text() == "other" and (other / "etcd/ca.crt").read_text() == "ca"
    with pytest.raises(StoreError, match="it does not exist"):
        exchange.exchange(str(one), str(tmp_path / "gone"))
    with pytest.raises(StoreError, match="file system"):
        exchange.exchangeable("/proc", str(tmp_path / "gone"))
    (one / "odd").mkdir()
    import os

    os.mkfifo(one / "odd/pipe")
    with pytest.raises(StoreError, match="neither a file, a folder nor a link"):
        exchange.copy_tree(str(one), str(tmp_path / "third"))


def test_a_merged_kubeconfig_keeps_the_cas_of_other_clusters(machine: TakenOverMachine) -> None:
    path = Path(machine.where.kubeconfigs) / "admin.conf"
    value, other = yaml.safe_load(path.read_text()), authority("another cluster", "ECDSA-P256")
    (own,) = value["clusters"]
    # Through a tunnel two clusters may be at one address.
    further = {"certificate-authority-data": encoded(other.pem), "server": own["cluster"]["server"]}
    value["clusters"] = [own, {"name": "other", "cluster": further}, {**copy.deepcopy(own), "name": "own-again"}]
    path.write_text(yaml.safe_dump(value))
    fresh = machine.snapshot()

    def held() -> list[str]:
        found = [each["cluster"]["certificate-authority-data"] for each in yaml.safe_load(path.read_text())["clusters"]]
        assert found[1] == encoded(other.pem) and found[0] == found[2]
        return [base64.b64decode(found[0]).decode()]

    old, new = (side["kubernetes"].pem for side in (machine.old, machine.new))
    machine.go(S.PUBLISHED)
    assert held() == [old + new]
    # kubeadm renews the pair in it, and it is kept anew.
    path.write_text(path.read_text().replace("current-context", "preferences: {}\ncurrent-context"))
    machine.go(S.SWITCHED)
    assert held() == [old + new]
    machine.go(S.CLOSED)
    machine.go(S.RETIRED)
    assert held() == [new]
    for state in (S.RETRUSTING, S.RETURNING, S.PREPARED):
        machine.go(state)
    assert held() == [old]
    machine.go(None)
    changed = {name for name, each in machine.snapshot().items() if each != fresh[name]}
    assert changed == {"etc/kubernetes/admin.conf"}
