"""Which names of files a node's directory has room for, and that nobody gets a bundle's, kubeadm's or another's."""

from __future__ import annotations

import dataclasses

import pytest

from vaultpki.certificates import BUNDLES, ISSUING_CAS, TABLE, bundle, chain_bundle, laid_out, pair_files
from vaultpki.disk import generations
from vaultpki.places import Layout
from vaultpki.values import file_names
from vaultpki.values.file_names import FileUse

TABLES_OWN = [claim for row in laid_out(Layout.DOCUMENT) for claim in file_names.of_row(row)]


def problem(*claims: FileUse) -> str | None:
    """What is wrong with the last of the claims, where the ones before it are all right."""
    found = dict(file_names.refused(claims))
    assert set(found) <= {len(claims) - 1}, found
    return found.get(len(claims) - 1)


def test_the_table_has_room_for_itself() -> None:
    assert list(file_names.refused(TABLES_OWN)) == []


@pytest.mark.parametrize("kind", ["pair", "kubeconfig", "template"])
@pytest.mark.parametrize(
    "stem",
    [name.removesuffix(".crt") for ca in ISSUING_CAS for name in (bundle(ca), chain_bundle(ca))]
    + ["ca", "sa", "sa-1", "sa-12"],
)
def test_bundles_and_kubeadms_own_belong_to_nobody(kind: str, stem: str) -> None:
    for twin in (stem, stem.upper()):
        names = {"pair": [twin], "kubeconfig": [f"{twin}.conf"]}.get(
            kind, [f"{twin}{ending}" for ending in (".crt", ".key", ".pem", ".pub", ".conf", ".CRT", ".srl")]
        )
        for name in names:
            found = problem(*TABLES_OWN, FileUse("mine", kind, name))  # type: ignore[arg-type]
            assert found is not None and "choose another file name" in found, name


@pytest.mark.parametrize(
    "name",
    [
        *(file for row in TABLE for file in pair_files(row.stem)),
        *(row.kubeconfig for row in TABLE if row.kubeconfig),
        *("Kubelet.KEY", "SCHEDULER.conf", "kubelet-client.conf", "etcd-peer.pub", "etcd", "bundles", "lock"),
        *("mine.crt", "mine.key", "mine.pem", "mine.PUB"),
    ],
)
def test_a_template_makes_no_pair_kubeconfig_or_key(name: str) -> None:
    assert problem(*TABLES_OWN, FileUse("template mine", "template", name))
    # Nor where the row itself is called otherwise, or is not a row of this node's.
    renamed = [dataclasses.replace(claim, name=f"other-{claim.name}") for claim in TABLES_OWN]
    assert problem(*renamed, FileUse("template mine", "template", name))


@pytest.mark.parametrize(
    "name", ["audit.yaml", "haproxy.conf", "etcd.yaml", "etcd.conf", "kubelet.yaml", "ca.yaml", "kubelet", "ca"]
)
def test_other_files_are_free(name: str) -> None:
    assert problem(*TABLES_OWN, FileUse("template mine", "template", name)) is None
    other = FileUse("template other", "template", name.upper())
    assert "also the file of template other" in str(
        problem(*TABLES_OWN, other, FileUse("template b", "template", name))
    )


@pytest.mark.parametrize(
    ("claim", "said"),
    [
        (FileUse("mine", "pair", "kubelet"), "'kubelet.crt' is also the file of kubelet"),
        (FileUse("mine", "pair", "scheduler"), "'scheduler.crt' is also the file of kube-scheduler"),
        (FileUse("kubelet", "pair", "scheduler"), "also the file of kube-scheduler"),
        (FileUse("mine", "kubeconfig", "kubelet.conf"), "also the file of kubelet"),
        (FileUse("mine", "kubeconfig", "etcd-peer.conf"), "'etcd-peer.conf' is also the file of etcd-peer"),
        (FileUse("mine", "kubeconfig", "Admin.conf"), "also the file of admin"),
        (FileUse("mine", "pair", "etcd_peer"), None),
        (FileUse("mine", "pair", "etcd"), None),
        (FileUse("mine", "kubeconfig", "mine.conf"), None),
        (FileUse("mine", "pair", "lock"), "'lock' has the same name as the lock of the store"),
        (FileUse("mine", "pair", "bundles"), "'bundles' has the same name as the bundles of the store"),
    ],
)
def test_a_certificate_of_ones_own(claim: FileUse, said: str | None) -> None:
    others = [each for each in TABLES_OWN if each.holder != claim.holder]
    found = problem(*others, claim)
    assert found is None if said is None else found is not None and said in found, found


def test_dots_and_underscores_are_one() -> None:
    found = problem(FileUse("a", "pair", "x.y"), FileUse("b", "pair", "x_y"))
    assert found is not None and "same folder as a" in found
    assert problem(FileUse("a", "kubeconfig", "x.y.conf"), FileUse("b", "pair", "x_y"))


def test_the_stores_own_names_are_known() -> None:
    for name in (BUNDLES, generations.LOCK):
        assert problem(FileUse("mine", "pair", name))
