"""What is in the way of another root is said before anything begins, and nobody but the old root vouches for it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from helpers.node.reporting_nodes import shown
from helpers.vault.applied_cluster import AppliedCluster, Ran, vaultpki
from helpers.vault.cluster_factory import ClusterFactory
from helpers.vault.outside_signer import OutsideSigner, openssl
from helpers.vault.plan_commands import AuditedCluster
from vaultpki.pki import x509

SPEC = """\
api_server: {names: [api.example.com], endpoint: "https://api.example.com:6443"}
"""
CROSS = "basicConstraints=critical,CA:TRUE\nkeyUsage=critical,keyCertSign,cRLSign\nsubjectKeyIdentifier=hash\n"


def ca(cluster: AppliedCluster, *words: str | Path, expect: int = 0) -> Ran:
    return vaultpki("ca", words[0], "-f", cluster.file, *words[1:], env=cluster.environment(), expect=expect)


def asks(cluster: AppliedCluster, spec: str, authority: str) -> None:
    cluster.file.write_text(f"{spec}ca: {{{authority}}}\n")


def state(cluster: AppliedCluster) -> str:
    found = json.loads(ca(cluster, "status", "--json").stdout)["rotation"]
    return str(found["state"]) if found else ""


@pytest.fixture
def ours(clusters: ClusterFactory) -> tuple[AuditedCluster, str, str]:
    """A cluster without nodes, its cluster.yaml, and the SHA-256 of its root."""
    cluster = clusters.applied(SPEC)
    return cluster, cluster.file.read_text(), shown(cluster, "root")["root-1"].fingerprint


def outside(cluster: AppliedCluster, signer: OutsideSigner, *further: str) -> str:
    (cluster.folder / "corp-root.pem").write_text(signer.chain)
    return f"root: external, root_file: corp-root.pem, root_sha256: [{', '.join((signer.root_sha256, *further))}]"


def test_a_root_in_cluster_yaml_alone_is_refused(ours: tuple[AuditedCluster, str, str], tmp_path: Path) -> None:
    cluster, spec, first = ours
    signer = OutsideSigner.made(tmp_path / "offline")
    asks(cluster, spec, outside(cluster, signer))
    sentence = f"root_sha256: [{signer.root_sha256}, {first}]"
    for words in (("plan",), ("apply", "--yes"), ("ca", "rotate", "root"), ("ca", "status")):
        ran = vaultpki(*words, "-f", cluster.file, env=cluster.environment(), expect=1)
        assert sentence in ran.stderr.replace("\n", " "), (words, ran.stderr)
    asks(cluster, spec, outside(cluster, signer, "ab" * 32))
    assert "this is another Vault" in ca(cluster, "rotate", "root", expect=1).stderr
    asks(cluster, spec, outside(cluster, signer, first))
    plan = vaultpki("plan", "-f", cluster.file, env=cluster.environment(), expect=0).stdout
    assert "`vaultpki ca rotate root`" in plan and signer.root_sha256 in plan
    # No issuing CA is rotated below a root that is to go: nobody would know by whom.
    assert "rotate the root first" in ca(cluster, "rotate", "etcd", expect=1).stderr
    assert state(cluster) == ""


@pytest.mark.parametrize(
    ("extra", "why"),
    [
        ("pathlen:0", "path length"),
        ("extendedKeyUsage=serverAuth\n", "extended key usage"),
        ("nameConstraints=critical,permitted;DNS:corp.example\n", "name constraints"),
    ],
)
def test_a_root_outside_that_cannot_take_over_is_told_before(
    ours: tuple[AuditedCluster, str, str], tmp_path: Path, extra: str, why: str
) -> None:
    cluster, spec, first = ours
    signer = OutsideSigner.made(tmp_path / "offline", extra="" if extra.startswith("pathlen") else extra)
    if extra.startswith("pathlen"):
        root = signer.folder / "Corp Root"
        (signer.folder / "short.ext").write_text(
            "basicConstraints=critical,CA:TRUE,pathlen:0\nkeyUsage=critical,keyCertSign\n"
        )
        csr, key, crt = (root.with_name(f"Corp Root.{ending}") for ending in ("csr", "key", "crt"))
        openssl(
            "x509",
            "-req",
            "-in",
            csr,
            "-signkey",
            key,
            "-days",
            "3650",
            "-extfile",
            signer.folder / "short.ext",
            "-out",
            crt,
        )
    asks(cluster, spec, outside(cluster, signer, first))
    before = cluster.server.audit_position()
    assert why in ca(cluster, "rotate", "root", expect=1).stderr
    assert cluster.server.writes(before) == [] and state(cluster) == ""


def test_wrong_cross_certificates(ours: tuple[AuditedCluster, str, str], tmp_path: Path) -> None:
    cluster, spec, first = ours
    signer, other = OutsideSigner.made(tmp_path / "offline", ["Corp Policy CA"]), OutsideSigner.made(tmp_path / "other")
    asks(cluster, spec, outside(cluster, signer, first))
    ca(cluster, "rotate", "root")
    for _ in range(2):
        ca(cluster, "continue", "--restarted", "pods") if state(cluster) == "published" else ca(cluster, "continue")
    assert state(cluster) == "switched"
    # That the old root vouches for one from outside proves nothing of the old one: anybody's could.
    asks(cluster, spec, outside(cluster, signer))
    ran = vaultpki("plan", "-f", cluster.file, env=cluster.environment(), expect=1)
    assert f"[{signer.root_sha256}, {first}]" in ran.stderr.replace("\n", " "), ran
    asks(cluster, spec, outside(cluster, signer, first))
    requests = tmp_path / "requests"
    ca(cluster, "csr", "-o", requests)
    files = [signer.sign(csr, csr.with_suffix(".ext").read_text(), days=1825) for csr in sorted(requests.glob("*.csr"))]
    ca(cluster, "import", *files)
    ca(cluster, "continue", "--restarted", "outside")
    ca(cluster, "continue")
    assert state(cluster) == ""
    asks(cluster, spec, f"root_sha256: {signer.root_sha256}")
    ran = ca(cluster, "rotate", "root")
    assert "ca csr" in ran.stdout and "signer outside" in ran.stdout, ran.stdout
    crossing = tmp_path / "crossing"
    made = ca(cluster, "csr", "-o", crossing).stdout
    assert "Sign " in made and "by CN=Corp Root,O=Corp itself" in made
    assert ca(cluster, "csr", "-o", crossing).stdout.count("was there already") == 1
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
        (files[0], "has no certificate of root-3"),
    ):
        ran = ca(cluster, "import", answer, expect=1)
        assert reason in ran.stdout, (reason, ran.stdout)
        assert shown(cluster, "root") == before and state(cluster) == "prepared"
    answer = signed(signer, "Corp Root", right)
    assert "vouches for root-3" in ca(cluster, "import", "--dry-run", answer).stdout
    assert shown(cluster, "root") == before
    ca(cluster, "import", answer)
    assert state(cluster) == "published"
    # Another cluster.yaml by now would lead elsewhere.
    asks(cluster, spec, outside(cluster, other, signer.root_sha256))
    assert "write `ca.root` as it was" in ca(cluster, "continue", "--restarted", "pods", expect=1).stderr
    ca(cluster, "abort")
    assert state(cluster) == ""


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
        for words in ((), ("--restarted", "pods"), ("--restarted", "outside"), ()):
            ca(cluster, "continue", *words)

    ca(cluster, "rotate", "root")
    through()
    assert state(cluster) == ""
    asks(cluster, spec, f"{signer}, root_sha256: {root}")
    cluster.apply()
    plan = cluster.plan()
    assert (plan["changes"], plan["unmanaged"], plan["dangers"], plan["rotation_needed"]) == ([], [], [], [])
    assert x509.signed_by(shown(cluster, "etcd")["etcd-1r2"], x509.read_certificates(made.encode())[0])
    # Its path length allows another root; whoever keeps the mount signs that as any other root outside does.
    asks(cluster, spec, f"root_sha256: {root}")
    ca(cluster, "rotate", "root")
    folder = cluster.folder / "crossing"
    ca(cluster, "csr", "-o", folder)
    (csr,) = folder.glob("*.csr")
    asked = {"csr": csr.read_text(), "common_name": f"{cluster.name} root CA 3", "max_path_length": 1, "ttl": "70000h"}
    answer = api("POST", f"{mount}/issuer/corp/sign-intermediate", {**asked, "exclude_cn_from_sans": True})
    (folder / "answer.crt").write_text(answer.data["certificate"])
    ca(cluster, "import", folder / "answer.crt")
    for words in (("--restarted", "pods"), ("--restarted", "outside"), ()):
        ca(cluster, "continue", *words)
    assert set(shown(cluster, "root")) == {"root-3", "root-3-by-root-2"}
    asks(cluster, spec, f"root_sha256: {shown(cluster, 'root')['root-3'].fingerprint}")
    assert state(cluster) == ""
