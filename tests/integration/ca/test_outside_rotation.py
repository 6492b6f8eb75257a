"""The rotation of an issuing CA whose signer is outside: it waits in prepared, by the old CA's side; the way back."""

from __future__ import annotations

from pathlib import Path

from helpers.vault.applied_cluster import vaultpki
from helpers.vault.cluster_factory import ClusterFactory
from helpers.vault.outside_signer import SPEC, OutsideSigner
from helpers.vault.plan_commands import AuditedCluster
from vaultpki.certificates import ISSUING_CAS

NODELESS = """\
api_server: {names: [api.example.com], endpoint: "https://api.example.com:6443"}
"""


def names(cluster: AuditedCluster) -> tuple[set[str], set[str]]:
    return cluster.issuer_names("etcd"), cluster.issuer_names("etcd", "keys")


def asked_subjects(cluster: AuditedCluster) -> dict[str, dict[str, str]]:
    """What `plan` says of names of CAs that differ from cluster.yaml."""
    return {each["ca"]: each["fields"]["subject"] for each in cluster.plan()["rotation_needed"]}


def test_it_waits_for_the_import_and_goes_on_or_back(clusters: ClusterFactory, tmp_path: Path) -> None:
    """A cluster without nodes, whose CAs the signer has signed, through a CA between."""
    signer = OutsideSigner.made(tmp_path / "offline", ["Corp Policy CA"])
    cluster = clusters.written(
        NODELESS + SPEC[SPEC.index("ca: {") :].replace("issuing_ttl", "subject: {O: Corp}, issuing_ttl")
    )
    signer.apply(cluster)
    ran = cluster.ca("rotate", "root", expect=1)
    assert "is from outside, and" in ran.stderr and "names the same one" in ran.stderr
    # An abort before anything is signed.
    assert "has not signed key 2 of the CA etcd yet" in cluster.ca("rotate", "etcd").stdout
    (late,) = signer.answers(cluster, "late")
    cluster.ca("abort")
    assert names(cluster) == ({"etcd-1"}, {"etcd-1"})
    assert "no request waits" in cluster.ca("import", late, expect=1).stdout

    cluster.ca("rotate", "etcd")
    assert cluster.rotated == "prepared"
    assert "ca import" in cluster.ca("continue", expect=3).stdout
    assert names(cluster)[0] == {"etcd-1"}
    (file,) = signer.answers(cluster, "second")
    assert file.name == f"{cluster.name}-etcd-3.crt"
    cluster.ca("import", file)
    assert cluster.rotated == "published" and names(cluster)[0] == {"etcd-1", "etcd-3"}
    default = cluster.read(f"{cluster.prefix}/etcd/config/issuers")["default"]
    assert cluster.read(f"{cluster.prefix}/etcd/issuer/etcd-1")["issuer_id"] == default
    cluster.ca("abort")
    assert names(cluster) == ({"etcd-1"}, {"etcd-1"})
    with cluster.untouched():
        cluster.apply()
    another_subject_waits_for_the_next_rotation(cluster, signer)


def another_subject_waits_for_the_next_rotation(cluster: AuditedCluster, signer: OutsideSigner) -> None:
    assert asked_subjects(cluster) == {}
    text = cluster.file.read_text()
    cluster.file.write_text(text.replace("subject: {O: Corp}", "subject: {O: Corp Two, C: DE}"))
    change = {"from": "O=Corp", "to": "O=Corp Two, C=DE"}
    assert asked_subjects(cluster) == dict.fromkeys(ISSUING_CAS, change)
    shown = " ".join(vaultpki("plan", "-f", cluster.file, env=cluster.environment()).stdout.split())
    assert "etcd CA: a name with O=Corp until" in shown and "asks a name with O=Corp Two, C=DE: it needs" in shown
    assert "`vaultpki ca rotate etcd`" in shown and "Nothing to change." in shown
    with cluster.untouched():
        cluster.apply()
    # A renewal with the same key keeps the name, or leaves would lose their issuer.
    cluster.ca("rotate", "etcd", "--same-key")
    (file,) = signer.answers(cluster, "renewal")
    assert file.name.startswith(f"{cluster.name}-etcd-1r")
    cluster.ca("import", file)
    assert cluster.rotated == "published"
    cluster.ca("abort")
    assert asked_subjects(cluster).keys() == {*ISSUING_CAS}
    cluster.ca("rotate", "etcd")
    cluster.ca("import", *signer.answers(cluster, "fourth"))
    while cluster.rotated:
        cluster.ca("continue")
    assert asked_subjects(cluster).keys() == {*ISSUING_CAS} - {"etcd"}
