"""What is said of one certificate and its holders, and who gets a join file."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from helpers.corporate_certificates import NOW, Corporate
from helpers.example_cluster import BASE, load
from vaultpki.certificates import row_named, rows
from vaultpki.identity import by_serial, enrol, nodes
from vaultpki.identity.anchor import Anchors
from vaultpki.identity.by_serial import ServerCertificate
from vaultpki.identity.nodes import Member
from vaultpki.identity.revocation import Chosen, StoredCertificate, Target
from vaultpki.model import Subject
from vaultpki.pki.facts import EKU
from vaultpki.records.join_file import Join
from vaultpki.records.node_report import CertificateReport, NodeReport
from vaultpki.vault import Settings, Vault

LEAF = replace(Corporate().issuing.facts, is_ca=False, subject=Subject("kubelet", (), (), ()))


@pytest.mark.parametrize(
    ("row", "named", "holders", "words"),
    [
        ("kubelet-client", "w-1", ("w-1",), "w-1 can still get new certificates, and its agent replaces this one"),
        ("kubelet-client", "w-1", (), "w-1 does not report it: "),
        ("kubelet-client", "w-1", ("w-2",), "w-1 does not report it: "),
        ("kube-scheduler", "", ("w-1",), "w-1 can still get new certificates"),
        ("kube-scheduler", "", ("w-1", "w-2"), "w-1, w-2 report it, and one node at most holds it"),
        ("kube-scheduler", "", (), "no node reports it: "),
        ("admin", "", (), "whoever needs it gets another one by `vaultpki issue admin`"),
    ],
)
def test_who_still_gets_another_one_stands_before_what_comes_next(
    tmp_path: Path, row: str, named: str, holders: tuple[str, ...], words: str
) -> None:
    its = row_named(load(tmp_path, BASE), row)
    found = ServerCertificate(its.ca, its.ca, LEAF, NOW, (), (its,), named, holders)
    chosen = Chosen((Target(row, StoredCertificate(its.ca, LEAF, revoked=True)),), ())
    said = by_serial.revocation_limits(found, chosen)
    assert said[-2].startswith(words), said


@pytest.mark.parametrize("name", ["kube-scheduler", "kube-controller-manager", "admin", "kube-apiserver-etcd"])
def test_a_certificate_is_of_the_row_whose_subject_it_has(tmp_path: Path, name: str) -> None:
    """Another one's command would be told to whoever looks for a stolen key."""
    cluster = load(tmp_path, BASE)
    row = row_named(cluster, name)
    subject = Subject(row.common_name, row.organization, (), ())
    leaf = replace(LEAF, subject=subject, usages=EKU[row.usage])
    assert [each.name for each in by_serial.rows_like(leaf, rows(cluster), row.ca)] == [name]
    other = replace(leaf, subject=replace(subject, common_name=f"{row.common_name}x"))
    assert by_serial.rows_like(other, rows(cluster), row.ca) == ()


def test_the_holders_of_a_certificate_are_those_that_report_its_number(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else whoever looks for a stolen key is sent to every node, and takes one node's certificate for another row."""
    cluster = load(tmp_path, BASE)
    row = row_named(cluster, "kube-scheduler")
    leaf = replace(LEAF, subject=Subject(row.common_name), usages=EKU[row.usage], serial=0xAFF)

    def member(name: str, **serials: str) -> Member:
        shown = {row.replace("_", "-"): CertificateReport("kubernetes", "ok", serial=s) for row, s in serials.items()}
        return Member(name, "listed", None, 1, NodeReport(NOW, certificates=shown))

    found = [
        member("cp-1", kube_scheduler="aff", kube_proxy="b00"),
        member("cp-2", kube_scheduler="b01"),
        member("cp-3", kube_scheduler=""),
        Member("cp-4", "listed", None, 1),
    ]
    monkeypatch.setattr(nodes, "members", lambda cluster, vault: found)
    monkeypatch.setattr(by_serial, "_signers", lambda vault, mount: [])
    shown = ServerCertificate("kubernetes", cluster.mount("kubernetes"), leaf, None)
    held = by_serial.with_holder(cluster, Vault(Settings(("https://127.0.0.1:1",))), shown)
    assert held.holders == ("cp-1",) and [each.name for each in held.rows] == ["kube-scheduler"]


def test_only_a_node_with_another_credential_gets_no_join_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever has that one may be a thief; and a new node must not wait for a word of a person."""
    cluster = load(tmp_path, BASE)
    monkeypatch.setattr(enrol, "noted", lambda cluster, vault: frozenset())
    monkeypatch.setattr(enrol, "_is_good", lambda *given: False)
    monkeypatch.setattr(enrol, "_occupied", lambda cluster, vault, who, notes: "has one" if who.name == "cp-1" else "")
    monkeypatch.setattr(enrol, "_invite", lambda cluster, vault, name, who, where, wrap_ttl: join(name))
    wanted = [(node.name, node) for node in cluster.nodes]
    where = Anchors(("https://v",), None, "4f" * 32)
    vault = Vault(Settings(("https://127.0.0.1:1",)))
    done = enrol.enroll_many(cluster, vault, wanted, tmp_path, where, wrap_ttl=60, done=lambda: None)
    assert (done.written, done.kept, done.left) == (1, 0, ("cp-1",))
    assert not (tmp_path / "cp-1.json").exists() and (tmp_path / "w-1.json").exists()


def join(name: str) -> Join:
    return Join(
        cluster="prod",
        prefix="vaultpki/prod",
        node=name,
        pool=None,
        addresses=("https://v",),
        ca_pem=None,
        root_sha256="4f" * 32,
        role_id="9a0e",
        wrap_token="hvs.token",
        expires=NOW,
    )
