"""`vaultpki show` and `revoke --serial`: one certificate on disk and on a real server, and only that one is revoked."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509

from helpers.node.resident_agent import leaf
from helpers.terminals import on_terminal
from helpers.vault.applied_cluster import AppliedCluster, NodeFolder, Ran, vaultpki
from helpers.vault.cluster_factory import ClusterFactory
from helpers.vault.operator_tokens import Who
from vaultpki.certificates import ISSUING_CAS, TABLE
from vaultpki.errors import ArgumentError
from vaultpki.identity import by_serial
from vaultpki.pki.facts import serial_text
from vaultpki.pki.x509 import read_certificates
from vaultpki.records import node_report
from vaultpki.records.node_report import CertificateReport, NodeReport

SPEC = """\
api_server: {names: [api.example.com], endpoint: "https://api.example.com:6443"}
nodes:
- {name: cp-1, roles: [control-plane, etcd], addresses: [10.0.0.11]}
- {name: cp-2, roles: [control-plane, etcd], addresses: [10.0.0.12]}
"""


@pytest.fixture(scope="module")
def cluster(shared_clusters: ClusterFactory) -> AppliedCluster:
    return shared_clusters.applied(SPEC)


@pytest.fixture(scope="module")
def node(cluster: AppliedCluster) -> NodeFolder:
    node = cluster.equip("cp-1")
    node.run()
    return node


def said(*words: str | Path, expect: int = 0, cluster: AppliedCluster | None = None, who: Who = "viewer") -> Ran:
    return vaultpki("show", *words, env=cluster.environment(who) if cluster else {}, expect=expect)


def document(*words: str | Path, expect: int = 0, cluster: AppliedCluster | None = None) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(said(*words, "--json", expect=expect, cluster=cluster).stdout)
    assert found["ok"] is (expect == 0)
    return found


def on_server(cluster: AppliedCluster, serial: str) -> dict[str, Any]:
    """What the server says, to whoever has exactly the viewer's policy."""
    return document("-f", cluster.file, "--serial", serial, cluster=cluster)


def openssl(file: Path) -> dict[str, str]:
    """What another program reads in a certificate."""
    command = ["openssl", "x509", "-in", file, "-noout", "-serial", "-fingerprint", "-sha256"]
    printed = subprocess.run([*map(str, command)], capture_output=True, text=True, check=True).stdout
    return dict(line.split("=", 1) for line in printed.splitlines())


def on_crls(cluster: AppliedCluster) -> set[int]:
    """The serial numbers on the CRLs of all CAs."""
    texts = [cluster.read(f"{cluster.prefix}/{ca}/issuer/default/crl")["crl"] for ca in ISSUING_CAS]
    return {entry.serial_number for text in texts for entry in x509.load_pem_x509_crl(text.encode())}


@pytest.mark.on_node
def test_every_certificate_of_a_node(node: NodeFolder) -> None:
    keys = [line for file in node.pki.glob("*.key") for line in file.read_text().splitlines() if "-----" not in line]
    assert keys
    for row in (row for row in TABLE if (node.pki / f"{row.stem}.crt").exists()):
        file, crt = node.pki / f"{row.stem}.crt", leaf(node, row.stem)
        found = document(row.name, "-c", node.config)
        printed = openssl(file)
        assert int(printed["serial"], 16) == int(found["serial"], 16)
        assert (
            next(value for name, value in printed.items() if "ingerprint" in name).replace(":", "").lower()
            == (found["sha256"])
        )
        assert (found["name"], found["node"], found["path"]) == (row.name, "cp-1", str(file))
        assert found["dns"] == list(crt.subject.dns) and found["ips"] == list(crt.subject.ips)
        assert found["key"] == {
            "type": "ec-p256",
            "path": str(file.with_suffix(".key")),
            "matches": True,
            "problem": None,
        }
        (use,) = found["used"]
        assert use["purpose"] == row.purpose and use["from"] == row.source and use["read_by"]
        assert found["kubeconfig"] == (str(node.pki / row.kubeconfig) if row.kubeconfig else None)
        assert [each["subject"] for each in found["chain"]] == [found["issuer"]]
        assert found["revoked"] is False and found["reasons"] == []
        assert 29 * 86400 < found["seconds_left"] < 30 * 86400
        text = said(row.name, "-c", node.config).stdout
        values = (row.purpose, serial_text(crt.serial), found["sha256"], *found["dns"], *found["ips"])
        assert all(value in text for value in values)
        assert not any(line in text + json.dumps(found) for line in keys)


def test_the_same_certificate_by_every_way(cluster: AppliedCluster, node: NodeFolder) -> None:
    wanted = document("etcd-server", "-c", node.config)
    file = node.pki / "etcdserver.crt"
    for words in (
        ("etcd-server", "--dir", node.pki),
        ("etcdserver", "--dir", node.pki),
        ("etcdserver.crt", "--dir", node.pki),
        ("etcd-server", "--dir", node.folder),
        ("etcd-server", "--dir", cluster.folder),
        (file,),
        (node.pki / "etcdserver.pem",),
    ):
        found = document(*words)
        same = ("name", "serial", "sha256", "used", "dns", "not_after", "chain", "usage", "key_usage")
        assert {key: found[key] for key in same} == {key: wanted[key] for key in same}, words
        assert found["key"]["matches"] is True
    plain = wanted["serial"]
    for written in (plain, plain.upper(), serial_text(int(plain, 16)), f"serial={plain.upper()}"):
        found = on_server(cluster, written)
        assert {key: found[key] for key in ("name", "sha256", "used", "dns", "revoked", "node")} == {
            **{key: wanted[key] for key in ("name", "sha256", "used", "dns")},
            "revoked": False,
            "node": "cp-1",
        }
        assert found["mount"] == f"{cluster.prefix}/etcd" and found["reported_by"] == ["cp-1"]
        assert [each["subject"] for each in found["chain"]] == [wanted["issuer"], f"CN={cluster.name} root CA"]


def test_bundles_and_cas(cluster: AppliedCluster, node: NodeFolder) -> None:
    found = document("etcd-ca-chain", "--dir", node.pki)
    assert found["ca"] and [each["subject"] for each in found["chain"]] == [f"CN={cluster.name} root CA"]
    assert {each["component"] for each in found["used"][0]["read_by"]} == {"etcd", "kube-apiserver"}
    assert found["key"]["path"] is None
    served = on_server(cluster, found["serial"])
    assert served["sha256"] == found["sha256"] and served["ca"] and served["mount"] == f"{cluster.prefix}/root"


@pytest.mark.on_node
def test_damaged_and_missing(cluster: AppliedCluster, tmp_path: Path) -> None:
    node = cluster.equip("cp-2")
    node.run()
    # A copy is judged by what is in it.
    shutil.copytree(node.folder, tmp_path / "cp-2", symlinks=True)
    (tmp_path / "cp-2/pki/etcd-peer.key").unlink()
    copied = document("etcd-peer", "--dir", tmp_path, expect=3)
    assert copied["path"] == str(tmp_path / "cp-2/pki/etcd-peer.crt") and copied["key"]["problem"] == "is missing"
    proxy = node.pki / "front-proxy-client.key"
    kept = proxy.read_bytes()
    proxy.write_bytes((node.pki / "kube-scheduler.key").read_bytes())
    found = document("front-proxy-client", "-c", node.config, expect=3)
    assert found["key"]["matches"] is False and found["reasons"] == ["key-mismatch"]
    assert "belongs to another certificate" in said(node.pki / "front-proxy-client.crt", expect=3).stdout
    proxy.write_bytes(kept)
    (node.pki / "kube-scheduler.key").unlink()
    assert document("kube-scheduler", "-c", node.config, expect=3)["key"]["problem"] == "is missing"
    (node.pki / "kube-apiserver.crt").write_text("damaged")
    for words, message in (
        (("kube-apiserver", "-c", node.config), "cannot be shown (unreadable)"),
        (("kubelet", "-c", node.config), "cp-2 holds no certificate 'kubelet'; it holds kube-scheduler"),
        (("etcd-server", "--dir", cluster.folder), "folders hold etcd-server: name one with --dir"),
        ((node.pki / "kube-apiserver.crt",), "holds no certificate in PEM"),
        ((node.pki / "nothing.crt",), "cannot be read (No such file"),
        ((node.pki,), "cannot be read (Is a directory)"),
        (("etcd-server", "--dir", node.folder / "nothing"), "does not exist"),
    ):
        ran = said(*words, expect=1)
        assert message in ran.stderr and ran.stderr.count("\n") == 1 and not ran.stdout, ran.stderr
    assert "name one certificate" in said(expect=2).stderr
    assert "choose one of them" in said("--serial", "1f", "--dir", node.pki, expect=2).stderr


@pytest.mark.on_node
def test_serial_numbers_that_are_none(cluster: AppliedCluster) -> None:
    for command, who in (("show", "viewer"), ("revoke", "applier")):
        environment = cluster.environment("viewer" if who == "viewer" else "applier")
        for serial, message in (
            ("cp-1", "'cp-1' is not a serial number: write it in hex"),
            ("", "'' is not a serial number"),
            ("5f:3a", f"no CA of {cluster.name} below {cluster.prefix} has a certificate with the serial number 5f:3a"),
        ):
            ran = vaultpki(command, "-f", cluster.file, "--serial", serial, env=environment, expect=1)
            assert message in ran.stderr and ran.stderr.count("\n") == 1, ran.stderr


def test_one_certificate_is_revoked(cluster: AppliedCluster, node: NodeFolder, tmp_path: Path) -> None:
    first = leaf(node, "etcdserver")
    serial = serial_text(first.serial)

    def run(*words: str, expect: int = 0, who: Who = "applier") -> Ran:
        return vaultpki("revoke", "-f", cluster.file, *words, env=cluster.environment(who), expect=expect)

    assert "pass --yes" in run("--serial", serial, expect=1).stderr
    assert "name what to revoke" in run("cp-1", "--serial", serial, expect=2).stderr
    assert "name what to revoke" in run(expect=2).stderr
    assert "permission denied" in run("--serial", serial, "--yes", who="viewer", expect=1).stderr
    environment = cluster.environment()
    with on_terminal("revoke", "-f", cluster.file, "--serial", serial, env=environment, columns=120) as asked:
        asked.until("Revoke this certificate?")
        assert "etcd-server of cp-1" in asked.shown and serial in asked.shown
        asked.typed("n")
        assert asked.ended() == 1 and "nothing was revoked" in asked.shown
    assert on_crls(cluster) == set()

    text = run("--serial", serial, "--yes").stdout
    assert on_crls(cluster) == {first.serial}
    assert "etcd-server is on the CRL of etcd" in text and "--client-crl-file" in text
    assert "run `vaultpki lock cp-1` first" in text and "its agent replaces this one" in text
    shown = on_server(cluster, serial)
    assert shown["revoked"] is True and abs(
        datetime.fromisoformat(shown["revoked_at"]) - datetime.now(UTC)
    ) < timedelta(minutes=5)
    # Again is as once; the agent replaces what was revoked, and nothing else.
    again = json.loads(run("--serial", serial, "--yes", "--json").stdout)
    assert [(one["ca"], one["name"], one["serial"]) for one in again["revoked"]] == [("etcd", "etcd-server", serial)]
    assert again["node"] == "cp-1" and again["left_alone"] == [] and again["notes"]
    others = leaf(node, "etcd-peer").serial
    vaultpki("agent", "-c", node.config, "--once")
    assert leaf(node, "etcdserver").serial != first.serial and leaf(node, "etcd-peer").serial == others
    assert on_crls(cluster) == {first.serial}

    # The node has another one now; no false report makes it anybody else's.
    certificate = CertificateReport("etcd", "ok", first.not_after, f"{first.serial:x}")
    lie = NodeReport(datetime.now(UTC), "test", certificates={"etcd-peer": certificate})
    body = {"data": node_report.to_json(lie)}
    assert cluster.server.api("POST", cluster.report_path("cp-2"), body).status == 200
    shown = on_server(cluster, serial)
    assert (shown["node"], shown["reported_by"]) == ("cp-1", ["cp-2"])
    assert {use["from"] for use in shown["used"]} == {"etcd"} and shown["name"] is None
    text = run("--serial", serial, "--yes").stdout
    assert (
        "cp-1 does not report it" in text
        and "run `vaultpki lock cp-1` first" in text
        and "cp-2" not in text[text.index("CRL") :]
    )

    # An operator's certificate, which no node reports.
    cluster.issue("admin", tmp_path / "operator")
    admin = read_certificates((tmp_path / "operator/admin.crt").read_bytes())[0]
    text = run("--serial", f"{admin.serial:x}", "--yes").stdout
    assert "`vaultpki issue admin`" in text and "lock" not in text
    assert on_crls(cluster) == {first.serial, admin.serial}

    # A CA has commands of its own; what has expired is refused by everybody.
    (ca,) = read_certificates((node.pki / "etcd-ca.crt").read_bytes())
    refused = run("--serial", f"{ca.serial:x}", "--yes", expect=1).stderr
    assert "is the certificate of a CA" in refused and re.search(r"ca rotate etcd --emergency", refused)
    found = by_serial.find_certificate(cluster.model, cluster.client(), first.serial)
    with pytest.raises(ArgumentError, match="there is nothing to revoke"):
        by_serial.to_revoke(cluster.model, found, first.not_after)
    assert on_crls(cluster) == {first.serial, admin.serial}
