"""What is in the way of another root is said before anything begins, and nobody but the old root vouches for it."""

from __future__ import annotations

from pathlib import Path

import pytest

from helpers.node.reporting_nodes import shown
from helpers.vault.applied_cluster import vaultpki
from helpers.vault.cluster_factory import ClusterFactory
from helpers.vault.outside_signer import OutsideSigner, openssl
from helpers.vault.plan_commands import AuditedCluster
from vaultpki.pki import x509

SPEC = """\
api_server: {names: [api.example.com], endpoint: "https://api.example.com:6443"}
"""
CROSS = "basicConstraints=critical,CA:TRUE\nkeyUsage=critical,keyCertSign,cRLSign\nsubjectKeyIdentifier=hash\n"


def asks(cluster: AuditedCluster, spec: str, authority: str) -> None:
    cluster.file.write_text(f"{spec}ca: {{{authority}}}\n")


@pytest.fixture
def ours(clusters: ClusterFactory) -> tuple[AuditedCluster, str, str]:
    """A cluster without nodes, its cluster.yaml, and the SHA-256 of its root."""
    cluster = clusters.applied(SPEC)
    return cluster, cluster.file.read_text(), shown(cluster, "root")["root-1"].fingerprint


def outside(cluster: AuditedCluster, signer: OutsideSigner, *further: str) -> str:
    (cluster.folder / "corp-root.pem").write_text(signer.chain)
    return f"root: external, root_file: corp-root.pem, root_sha256: [{', '.join((signer.root_sha256, *further))}]"


@pytest.mark.on_node
def test_what_is_refused_before_anything_begins(ours: tuple[AuditedCluster, str, str], tmp_path: Path) -> None:
    cluster, spec, first = ours
    # Of a root of ours there is nothing to carry.
    for asked in (("csr", "-o", tmp_path / "r"), ("import", cluster.file)):
        assert "is made by vaultpki" in cluster.ca(*asked, expect=1).stderr
    # A root in cluster.yaml alone.
    signer = OutsideSigner.made(tmp_path / "offline")
    asks(cluster, spec, outside(cluster, signer))
    sentence = f"root_sha256: [{signer.root_sha256}, {first}]"
    for words in (("plan",), ("apply", "--yes"), ("ca", "rotate", "root"), ("ca", "status")):
        ran = vaultpki(*words, "-f", cluster.file, env=cluster.environment(), expect=1)
        assert sentence in ran.stderr.replace("\n", " "), (words, ran.stderr)
    asks(cluster, spec, outside(cluster, signer, "ab" * 32))
    assert "This is another Vault" in cluster.ca("rotate", "root", expect=1).stderr
    asks(cluster, spec, outside(cluster, signer, first))
    plan = vaultpki("plan", "-f", cluster.file, env=cluster.environment(), expect=0).stdout
    assert "`vaultpki ca rotate root`" in plan and signer.root_sha256 in plan
    # No issuing CA is rotated below a root that is to go: nobody would know by whom.
    assert "rotate the root first" in cluster.ca("rotate", "etcd", expect=1).stderr
    assert cluster.rotated == ""
    # A root outside that cannot take over.
    for number, (extra, why) in enumerate(UNABLE.items()):
        signer = OutsideSigner.made(tmp_path / f"unable-{number}", extra="" if extra == SHORT else extra)
        if extra == SHORT:
            signer.sign_itself(SHORT)
        asks(cluster, spec, outside(cluster, signer, first))
        with cluster.untouched():
            assert why in cluster.ca("rotate", "root", expect=1).stderr
        assert cluster.rotated == ""


SHORT = "basicConstraints=critical,CA:TRUE,pathlen:0\nkeyUsage=critical,keyCertSign\n"
UNABLE = {
    SHORT: "path length",
    "extendedKeyUsage=serverAuth\n": "extended key usage",
    "nameConstraints=critical,permitted;DNS:corp.example\n": "name constraints",
}


@pytest.mark.on_node
def test_wrong_cross_certificates(ours: tuple[AuditedCluster, str, str], tmp_path: Path) -> None:
    cluster, spec, first = ours
    signer, other = OutsideSigner.made(tmp_path / "offline", ["Corp Policy CA"]), OutsideSigner.made(tmp_path / "other")
    asks(cluster, spec, outside(cluster, signer, first))
    cluster.ca("rotate", "root")
    for _ in range(2):
        cluster.ca("continue", "--checked", "pods") if cluster.rotated == "published" else cluster.ca("continue")
    assert cluster.rotated == "switched"
    # That the old root vouches for one from outside proves nothing of the old one: anybody's could.
    asks(cluster, spec, outside(cluster, signer))
    ran = vaultpki("plan", "-f", cluster.file, env=cluster.environment(), expect=1)
    assert f"[{signer.root_sha256}, {first}]" in ran.stderr.replace("\n", " "), ran
    asks(cluster, spec, outside(cluster, signer, first))
    files = signer.answers(cluster, days=1825)
    cluster.ca("import", *files)
    cluster.ca("continue", "--checked", "outside")
    cluster.ca("continue")
    assert cluster.rotated == ""
    asks(cluster, spec, f"root_sha256: {signer.root_sha256}")
    ran = cluster.ca("rotate", "root")
    assert "ca csr" in ran.stdout and "signer outside" in ran.stdout, ran.stdout
    crossing = tmp_path / "crossing"
    made = cluster.ca("csr", "-o", crossing).stdout
    assert "Sign " in made and "by CN=Corp Root,O=Corp itself" in made
    assert cluster.ca("csr", "-o", crossing).stdout.count("was there already") == 1
    (extensions,) = crossing.glob("*.ext")
    (csr,) = crossing.glob("*.csr")

    def signed(by: OutsideSigner, ca_name: str, ext: str, *options: str) -> Path:
        (crossing / "used").write_text(ext)
        out = crossing / f"answer-{len(list(crossing.glob('answer-*')))}.crt"
        key = ("-CA", by.folder / f"{ca_name}.crt", "-CAkey", by.folder / f"{ca_name}.key", "-CAcreateserial")
        openssl(
            "x509",
            "-req",
            "-in",
            csr,
            *key,
            "-sha256",
            "-days",
            "3000",
            *options,
            "-extfile",
            crossing / "used",
            "-out",
            out,
        )
        return out

    right = extensions.read_text()
    before = shown(cluster, "root")
    for answer, reason in (
        (signed(other, "Corp Root", right), "was not signed by the root that nodes trust"),
        (signed(signer, "Corp Policy CA", right), "was not signed by the root that nodes trust"),
        (signed(signer, "Corp Root", right.replace("pathlen:1", "pathlen:0")), "path length 0"),
        (signed(signer, "Corp Root", right.replace("keyCertSign, ", "")), "is not for a CA that may sign"),
        (signed(signer, "Corp Root", f"{right}extendedKeyUsage = serverAuth\n"), "extended key usage"),
        (signed(signer, "Corp Root", right, "-subj", "/CN=Corp New Root"), "has another subject"),
        (files[0], "has no certificate of key 3 of the CA root"),
    ):
        ran = cluster.ca("import", answer, expect=1)
        assert reason in ran.stdout, (reason, ran.stdout)
        assert shown(cluster, "root") == before and cluster.rotated == "prepared"
    answer = signed(signer, "Corp Root", right)
    assert "vouches for key 3 of the CA root" in cluster.ca("import", "--dry-run", answer).stdout
    assert shown(cluster, "root") == before
    cluster.ca("import", answer)
    assert cluster.rotated == "published"
    # Another cluster.yaml by now would lead elsewhere.
    asks(cluster, spec, outside(cluster, other, signer.root_sha256))
    assert "write `ca.root` as it was" in cluster.ca("continue", "--checked", "pods", expect=1).stderr
    cluster.ca("abort")
    assert cluster.rotated == ""


def test_to_an_issuer_of_this_server_and_back(ours: tuple[AuditedCluster, str, str]) -> None:
    cluster, spec, first = ours
    api, mount = cluster.server.api, f"{cluster.name}-corp"
    assert api("POST", f"sys/mounts/{mount}", {"type": "pki", "config": {"max_lease_ttl": "87600h"}}).status in (
        200,
        204,
    )
    body = {"common_name": "Corp Server Root", "issuer_name": "corp", "ttl": "80000h", "not_before_duration": "1h"}
    made = api("POST", f"{mount}/root/generate/internal", body).data["certificate"]
    root = x509.fingerprint(made.encode())
    signer = f"root: {{mount: {mount}, issuer: corp}}"
    asks(cluster, spec, f"{signer}, root_sha256: [{root}, {first}]")

    def through() -> None:
        for words in ((), ("--checked", "pods"), ("--checked", "outside"), ()):
            cluster.ca("continue", *words)

    cluster.ca("rotate", "root")
    through()
    assert cluster.rotated == ""
    asks(cluster, spec, f"{signer}, root_sha256: {root}")
    cluster.apply()
    plan = cluster.plan()
    assert (plan["changes"], plan["unmanaged"], plan["dangers"], plan["rotation_needed"]) == ([], [], [], [])
    assert x509.signed_by(shown(cluster, "etcd")["etcd-1r2"], x509.read_certificates(made.encode())[0])
    # Its path length allows another root; whoever keeps the mount signs that as any other root outside does.
    asks(cluster, spec, f"root_sha256: {root}")
    cluster.ca("rotate", "root")
    folder = cluster.folder / "crossing"
    cluster.ca("csr", "-o", folder)
    (csr,) = folder.glob("*.csr")
    asked = {"csr": csr.read_text(), "common_name": f"{cluster.name} root CA 3", "max_path_length": 1, "ttl": "70000h"}
    answer = api("POST", f"{mount}/issuer/corp/sign-intermediate", {**asked, "exclude_cn_from_sans": True})
    (folder / "answer.crt").write_text(answer.data["certificate"])
    cluster.ca("import", folder / "answer.crt")
    for words in (("--checked", "pods"), ("--checked", "outside"), ()):
        cluster.ca("continue", *words)
    assert set(shown(cluster, "root")) == {"root-3", "root-3-by-root-2"}
    asks(cluster, spec, f"root_sha256: {shown(cluster, 'root')['root-3'].fingerprint}")
    assert cluster.rotated == ""
