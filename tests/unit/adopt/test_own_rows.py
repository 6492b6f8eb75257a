"""A certificate beside the table that an old CA has signed is named, with who signs it afterwards."""

from __future__ import annotations

from pathlib import Path

import pytest

from helpers.kube.kubeadm_inventory import judged, named, served, whole
from helpers.kube.kubeadm_manifests import manifest
from helpers.kube.kubeadm_objects import NOW, KubeadmObjects, Shape, Signed, authority, leaf
from vaultpki import certificates
from vaultpki.adopt import assembly, machine
from vaultpki.adopt.found import ClusterInventory
from vaultpki.kube.kubeconfig import KubeAccess
from vaultpki.model import NodeRole, Usage

PKI = "/etc/kubernetes/pki"


@pytest.fixture
def objects() -> KubeadmObjects:
    return KubeadmObjects(Shape())


def found(objects: KubeadmObjects, root: Path, crt: str, key: str, signer: Signed | None = None) -> ClusterInventory:
    """The inventory of a cluster whose controller manager serves with a pair of its owner's."""
    disk = objects.disk(root, "cp-1")
    own = leaf(
        "cp-1.example.com",
        signer or objects.ca,
        names=["cp-1.example.com", "localhost"],
        addresses=["198.51.100.11", "127.0.0.1"],
        kind="ECDSA-P256",
    )
    (disk / crt[1:]).parent.mkdir(parents=True, exist_ok=True)
    (disk / crt[1:]).write_text(own.pem)
    (disk / key[1:]).write_text(own.key_pem)
    text = manifest("kube-controller-manager", "cp-1").replace(
        "    - --bind-address", f"    - --tls-cert-file={crt}\n    - --tls-private-key-file={key}\n    - --bind-address"
    )
    (disk / "etc/kubernetes/manifests/kube-controller-manager.yaml").write_text(text)
    access = KubeAccess("admin.conf", "https://198.51.100.11:6443", objects.ca.pem, token="x")
    machines = [machine.read(str(disk))]
    return assembly.assemble(access, whole(objects.values()), machines, served(objects), NOW, lambda host: ())


def test_a_pair_in_the_folder_of_certificates_gets_a_row_of_its_own(objects: KubeadmObjects, tmp_path: Path) -> None:
    """Its files are then made at the same place, so the flag stays as it is."""
    taken = found(objects, tmp_path / "a", f"{PKI}/manager-serving.crt", f"{PKI}/manager-serving.key")
    made, every = judged(taken)
    assert made.cluster is not None
    row = certificates.row_named(made.cluster, "manager-serving")
    assert (row.stem, row.ca, row.usage) == ("manager-serving", "kubernetes", Usage.BOTH)
    assert row.node_roles == {NodeRole.CONTROL_PLANE}
    resolved = certificates.resolve(row, made.cluster, next(n for n in made.cluster.nodes if n.name == "cp-1")).subject
    assert resolved.common_name == "cp-1.example.com" and set(resolved.dns) == {"cp-1.example.com", "localhost"}
    assert set(resolved.ips) == {"198.51.100.11", "127.0.0.1"}
    (text,) = named(every)["pair-beside"]
    assert text == (
        f"cp-1: {PKI}/manager-serving.crt (--tls-cert-file of kube-controller-manager.yaml), of the CA kubernetes; "
        "afterwards the drafted row manager-serving must sign it"
    )


@pytest.mark.parametrize(
    ("crt", "key"),
    [
        # A row could not write there, or its key would have another name and the pair would not fit.
        (f"{PKI}/own/serving.crt", f"{PKI}/own/serving.key"),
        (f"{PKI}/serving.crt", f"{PKI}/serving-key.key"),
        # No name of a row.
        (f"{PKI}/Serving_1.crt", f"{PKI}/Serving_1.key"),
    ],
)
def test_elsewhere_a_person_must_replace_it(objects: KubeadmObjects, tmp_path: Path, crt: str, key: str) -> None:
    made, every = judged(found(objects, tmp_path / "a", crt, key))
    assert made.cluster is not None and all(row.built_in for row in certificates.rows(made.cluster))
    (text,) = named(every)["pair-beside"]
    assert text.startswith(f"cp-1: {crt} ") and text.endswith("afterwards you must sign it")


def test_what_another_ca_has_signed_is_its_owners_affair(objects: KubeadmObjects, tmp_path: Path) -> None:
    corp = authority("Corp CA", "ECDSA-P256")
    made, every = judged(found(objects, tmp_path / "a", f"{PKI}/x.crt", f"{PKI}/x.key", corp))
    assert "pair-beside" not in named(every) and made.cluster is not None
