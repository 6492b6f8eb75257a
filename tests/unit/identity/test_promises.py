"""What the revocation of one certificate says at the end: who can still get another one, and what ends that."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from helpers.corporate_certificates import NOW, Corporate
from helpers.example_cluster import BASE, load
from vaultpki.certificates import row_named, rows
from vaultpki.identity import by_serial
from vaultpki.identity.by_serial import ServerCertificate
from vaultpki.identity.revocation import Chosen, StoredCertificate, Target
from vaultpki.model import Subject
from vaultpki.pki.facts import EKU

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
