"""The rotation of an issuing CA whose signer is outside: it waits in prepared, by the old CA's side; the way back."""

from __future__ import annotations

import json
from pathlib import Path

from helpers.vault.applied_cluster import AppliedCluster, Ran, vaultpki
from helpers.vault.cluster_factory import ClusterFactory
from helpers.vault.outside_signer import SPEC, OutsideSigner

NODELESS = """\
api_server: {names: [api.example.com], endpoint: "https://api.example.com:6443"}
"""


def ca(cluster: AppliedCluster, *words: str | Path, expect: int = 0) -> Ran:
    return vaultpki("ca", words[0], "-f", cluster.file, *words[1:], env=cluster.environment(), expect=expect)


def imported(clusters: ClusterFactory, folder: Path) -> tuple[AppliedCluster, OutsideSigner]:
    """A cluster without nodes, whose CAs the signer has signed, through a CA between."""
    signer = OutsideSigner.made(folder / "offline", ["Corp Policy CA"])
    spec = NODELESS + SPEC[SPEC.index("ca: {") :].replace("issuing_ttl", "subject: {O: Corp}, issuing_ttl")
    cluster = clusters.written(spec, {"corp-root.pem": signer.chain})
    cluster.apply(expect=3)
    ca(cluster, "import", *signed(cluster, signer, "requests"))
    return cluster, signer


def signed(cluster: AppliedCluster, signer: OutsideSigner, folder: str) -> list[Path]:
    place = cluster.folder / folder
    ca(cluster, "csr", "-o", place)
    return signer.sign_all(place)


def state(cluster: AppliedCluster) -> str:
    found = json.loads(ca(cluster, "status", "--json").stdout)["rotation"]
    return str(found["state"]) if found else ""


def names(cluster: AppliedCluster, what: str) -> set[str]:
    answer = cluster.server.api("LIST", f"{cluster.prefix}/etcd/{what}")
    return {str(each[f"{what[:-1]}_name"]) for each in answer.data["key_info"].values()}


def test_it_waits_for_the_import_and_goes_on(clusters: ClusterFactory, tmp_path: Path) -> None:
    cluster, signer = imported(clusters, tmp_path)
    ran = ca(cluster, "rotate", "etcd")
    assert "has not signed etcd-2 yet" in ran.stdout, ran.stdout
    assert state(cluster) == "prepared"
    assert "ca import" in ca(cluster, "continue", expect=3).stdout
    assert names(cluster, "issuers") == {"etcd-1"}
    (file,) = signed(cluster, signer, "second")
    assert file.name == f"{cluster.name}-etcd-2.crt"
    ca(cluster, "import", file)
    assert state(cluster) == "published"
    assert names(cluster, "issuers") == {"etcd-1", "etcd-2"}
    default = cluster.read(f"{cluster.prefix}/etcd/config/issuers")["default"]
    assert cluster.read(f"{cluster.prefix}/etcd/issuer/etcd-1")["issuer_id"] == default
    ca(cluster, "abort")
    assert names(cluster, "issuers") == {"etcd-1"} and names(cluster, "keys") == {"etcd-1"}
    since = cluster.server.audit_position()
    cluster.apply()
    assert cluster.server.writes(since) == []


def test_an_abort_before_anything_is_signed(clusters: ClusterFactory, tmp_path: Path) -> None:
    cluster, signer = imported(clusters, tmp_path)
    ran = ca(cluster, "rotate", "root", expect=1)
    assert "is from outside, and" in ran.stderr and "names the same one" in ran.stderr
    ca(cluster, "rotate", "etcd")
    (late,) = signed(cluster, signer, "second")
    ca(cluster, "abort")
    assert names(cluster, "issuers") == {"etcd-1"} and names(cluster, "keys") == {"etcd-1"}
    ran = ca(cluster, "import", late, expect=1)
    assert "no request waits" in ran.stdout


def asked_subjects(cluster: AppliedCluster) -> dict[str, dict[str, str]]:
    """What `plan` says of names of CAs that differ from cluster.yaml."""
    ran = vaultpki("plan", "-f", cluster.file, "--json", env=cluster.environment())
    return {each["ca"]: each["fields"]["subject"] for each in json.loads(ran.stdout)["rotation_needed"]}


def test_another_subject_waits_for_the_next_rotation(clusters: ClusterFactory, tmp_path: Path) -> None:
    cluster, signer = imported(clusters, tmp_path)
    assert asked_subjects(cluster) == {}
    text = cluster.file.read_text()
    cluster.file.write_text(text.replace("subject: {O: Corp}", "subject: {O: Corp Two, C: DE}"))
    change = {"from": "O=Corp", "to": "O=Corp Two, C=DE"}
    assert asked_subjects(cluster) == dict.fromkeys(("kubernetes", "kubelet", "etcd", "front-proxy"), change)
    shown = " ".join(vaultpki("plan", "-f", cluster.file, env=cluster.environment()).stdout.split())
    assert "etcd CA: a name with O=Corp until" in shown and "asks a name with O=Corp Two, C=DE: it needs" in shown
    assert "`vaultpki ca rotate etcd`" in shown and "Nothing to change." in shown
    since = cluster.server.audit_position()
    cluster.apply()
    assert cluster.server.writes(since) == []
    # A renewal with the same key keeps the name, or leaves would lose their issuer.
    ca(cluster, "rotate", "etcd", "--same-key")
    (file,) = signed(cluster, signer, "renewal")
    assert file.name == f"{cluster.name}-etcd-1r2.crt"
    ca(cluster, "import", file)
    assert state(cluster) == "published"
    ca(cluster, "abort")
    assert asked_subjects(cluster).keys() == {"kubernetes", "kubelet", "etcd", "front-proxy"}
    ca(cluster, "rotate", "etcd")
    (file,) = signed(cluster, signer, "second")
    ca(cluster, "import", file)
    while state(cluster):
        ca(cluster, "continue")
    assert asked_subjects(cluster).keys() == {"kubernetes", "kubelet", "front-proxy"}
