"""From `ca csr` over a signer without network to `ca import`: what is installed, what is refused, what is kept."""

from __future__ import annotations

import json
import re
from datetime import timedelta
from pathlib import Path

import pytest

from helpers.corporate_certificates import Ca
from helpers.faults.cutting_proxy import proxied
from helpers.faults.drawn import Drawn
from helpers.vault.applied_cluster import vaultpki
from helpers.vault.cluster_factory import ClusterFactory
from helpers.vault.outside_root import put_outside
from helpers.vault.outside_signer import SPEC, OutsideSigner, openssl
from helpers.vault.plan_commands import AuditedCluster
from helpers.vault.server_contents import listing

CAS = ("kubernetes", "kubelet", "etcd", "front-proxy")
TWO = ("Corp Policy CA", "Corp Kubernetes CA")
GENEROUS = "nameConstraints=critical,excluded;DNS:web.example,excluded;IP:192.168.0.0/255.255.0.0\n"
NARROW = "nameConstraints=critical,permitted;DNS:corp.example,permitted;IP:10.0.0.0/255.0.0.0\n"
NOBODY = {"VAULT_ADDR": "https://127.0.0.1:1"}


def waiting(clusters: ClusterFactory, signer: OutsideSigner, spec: str = SPEC) -> AuditedCluster:
    """A cluster whose issuing CAs wait."""
    made = clusters.written(spec, {"corp-root.pem": signer.chain})
    made.apply(expect=3)
    return made


def requests(cluster: AuditedCluster) -> dict[str, Path]:
    folder = cluster.folder / "requests"
    cluster.ca("csr", "-o", folder)
    return {name: folder / f"{cluster.name}-{name}-1.csr" for name in CAS}


def issuers(cluster: AuditedCluster, name: str) -> dict[str, dict[str, object]]:
    answer = cluster.server.api("LIST", f"{cluster.prefix}/{name}/issuers")
    return answer.data["key_info"] if answer.status == 200 else {}


def whole(cluster: AuditedCluster) -> None:
    """Each issuing CA is there once, with our key and name, as the default; a further apply writes nothing."""
    for name in CAS:
        ((id_, about),) = issuers(cluster, name).items()
        assert (about["issuer_name"], about["is_default"]) == (f"{name}-1", True)
        issuer = cluster.read(f"{cluster.prefix}/{name}/issuer/{id_}")
        keys = cluster.server.api("LIST", f"{cluster.prefix}/{name}/keys").data
        assert list(keys["key_info"]) == [issuer["key_id"]]
        assert issuer["usage"] == "crl-signing,issuing-certificates,ocsp-signing,read-only"
    with cluster.untouched():
        cluster.apply()


def test_from_the_request_to_a_working_cluster(clusters: ClusterFactory, tmp_path: Path) -> None:
    signer = OutsideSigner.made(tmp_path / "offline")
    cluster = waiting(clusters, signer)
    requests_are_never_written_over_other_files(cluster)
    what_is_refused_changes_nothing(cluster, signer, tmp_path)
    files = [signer.sign(csr, csr.with_suffix(".ext").read_text()) for csr in requests(cluster).values()]
    files_are_checked_without_a_server(cluster, files)
    before = listing(cluster.server, cluster.name)
    assert cluster.ca("import", "--dry-run", *files).stdout.count("+ CA ") == 4
    # Changes that cluster.yaml asks for too are not made unseen.
    text = cluster.file.read_text()
    cluster.file.write_text(text + "defaults: {ttl: 20d}\n")
    for words in ((), ("--json",)):
        assert "further changes" in cluster.ca("import", *words, *files, expect=1).stderr
    assert listing(cluster.server, cluster.name) == before
    # One after the other.
    ran = cluster.ca("import", "--yes", files[0], expect=3)
    assert "the issuing CAs kubelet, etcd, front-proxy wait" in ran.stderr
    assert ran.stdout.startswith("+ CA kubernetes: CN="), ran.stdout
    assert len(issuers(cluster, "kubernetes")) == 1 and issuers(cluster, "etcd") == {}
    cluster.ca("import", *files)
    whole(cluster)
    cluster.issue("admin", cluster.folder / "operator")
    chain = cluster.folder / "chain.pem"
    chain.write_text(signer.chain)
    leaf = cluster.folder / "operator" / "admin.crt"
    openssl("verify", "-CAfile", chain, "-untrusted", leaf, leaf)
    join = cluster.folder / "worker-1.json"
    vaultpki("enroll", "-f", cluster.file, "worker-1", "-o", join, env=cluster.environment())
    assert json.loads(join.read_text())["root_sha256"] == signer.root_sha256
    with cluster.untouched():
        assert cluster.ca("import", *files).stdout.count("is installed already") == 4
    cluster.destroy()
    mounts = cluster.server.api("GET", "sys/mounts").data
    assert not any(path.startswith(f"{cluster.prefix}/") for path in mounts)


def files_are_checked_without_a_server(cluster: AuditedCluster, files: list[Path]) -> None:
    words = ("ca", "import", "-f", cluster.file, "--dry-run", "--csr", cluster.folder / "requests", "--json")
    document = json.loads(vaultpki(*words, *files, env=NOBODY).stdout)
    assert [each["domain"] for each in document["accepted"]] == sorted(CAS)
    assert "kubelet" in vaultpki(*words, files[0], env=NOBODY, expect=3).stderr


def requests_are_never_written_over_other_files(cluster: AuditedCluster) -> None:
    first = requests(cluster)["etcd"]
    text = first.read_bytes()
    assert {path.suffix for path in first.parent.iterdir()} == {".csr", ".ext", ".txt"}
    assert "was there already" in cluster.ca("csr", "-o", first.parent).stdout
    assert first.read_bytes() == text
    other = cluster.folder / "other"
    other.mkdir()
    (other / first.name).write_text("mine\n")
    assert "is not overwritten" in cluster.ca("csr", "-o", other, expect=1).stderr
    assert [path.name for path in other.iterdir()] == [first.name]
    (other / first.name).rename(other / first.with_suffix(".txt").name)
    assert "is not overwritten" in cluster.ca("csr", "-o", other, expect=1).stderr


def what_is_refused_changes_nothing(cluster: AuditedCluster, signer: OutsideSigner, folder: Path) -> None:
    csr = requests(cluster)
    before = listing(cluster.server, cluster.name)
    terms = csr["etcd"].with_suffix(".ext").read_text()
    good, stranger = signer.sign(csr["kubernetes"], terms), OutsideSigner.made(folder / "stranger")
    cases = {
        "another root": (stranger.sign(csr["etcd"], terms), "etcd"),
        "no CA": (signer.sign(csr["kubelet"], "basicConstraints=CA:FALSE\n"), "not for a CA"),
        "a key": (signer.folder / "Corp Root.key", "private key"),
        "its request": (csr["front-proxy"], "a signing request"),
    }
    for name, (file, hint) in cases.items():
        ran = cluster.ca("import", good, file, expect=1)
        assert hint in ran.stdout and "nothing was changed" in ran.stderr, (name, ran.stdout)
        assert listing(cluster.server, cluster.name) == before, name
    # A signer whose list of serial numbers was set back: to revoke one of these would revoke all.
    place, twins = signer.folder / signer.names[-1], list[Path]()
    for request in csr.values():
        (place / "index.txt").write_text("")
        (place / "serial").write_text("4D\n")
        twins.append(signer.sign(request, terms))
    ran = cluster.ca("import", *twins, expect=1)
    assert ran.stdout.count("has the serial number 4d, which") == 4 and "nothing was changed" in ran.stderr, ran.stdout
    assert listing(cluster.server, cluster.name) == before
    late = signer.sign(csr["kubelet"], terms, begun=timedelta(days=-1))
    assert "is not valid before" in cluster.ca("import", late, expect=1).stdout


def test_a_chain_that_root_file_lacks(clusters: ClusterFactory, tmp_path: Path) -> None:
    """Through CAs between, all in one PKCS 7."""
    signer = OutsideSigner.made(tmp_path / "offline", TWO)
    subject = "subject: {O: Corp, OU: [Platform, Clusters], C: DE}, issuing_ttl"
    cluster = clusters.written(SPEC.replace("issuing_ttl", subject), {"corp-root.pem": signer.pem("Corp Root")})
    cluster.apply(expect=3)
    bundle = tmp_path / "all.p7b"
    certificates = [*signer.answers(cluster), *(signer.folder / f"{name}.crt" for name in TWO)]
    words = [word for file in certificates for word in ("-certfile", file)]
    openssl("crl2pkcs7", "-nocrl", *words, "-out", bundle)
    ran = cluster.ca("import", bundle, expect=1)
    assert "ca.root_file" in ran.stdout and "CN=Corp Policy CA" in ran.stdout, ran.stdout
    (cluster.folder / "corp-root.pem").write_text(signer.chain)
    cluster.ca("import", bundle)
    whole(cluster)
    names = cluster.issuer_names("root")
    assert len(names) == 3 and "root-1" in names
    (tmp_path / "etcd.pem").write_text(cluster.read(f"{cluster.prefix}/etcd/issuer/etcd-1")["certificate"])
    shown = openssl("x509", "-in", tmp_path / "etcd.pem", "-noout", "-subject", "-nameopt", "RFC2253")
    assert shown.strip() == f"subject=CN={cluster.name} etcd CA,OU=Platform+OU=Clusters,O=Corp,C=DE"


@pytest.mark.parametrize(
    "size", [pytest.param(3, id="some"), pytest.param(10**6, id="each", marks=pytest.mark.exhaustive)]
)
def test_killed_after_any_write(clusters: ClusterFactory, tmp_path: Path, drawn: Drawn, size: int) -> None:
    signer = OutsideSigner.made(tmp_path / "offline")
    cluster = waiting(clusters, signer)
    files = signer.answers(cluster)
    since = cluster.server.audit_position()
    cluster.ca("import", *files)
    # As the proxy counts: requests for a signing request, and a question for rights, are no writes to the client.
    last = len(cluster.server.writes(since))
    with proxied(cluster.server) as proxy:
        for cut in drawn.some(range(1, last + 1), size):
            for name in CAS:
                for id_ in issuers(cluster, name):
                    path = f"{cluster.prefix}/{name}/issuer/{id_}"
                    assert cluster.server.api("DELETE", path).status in (200, 204)
            proxy.arm(cut, reopens=False)
            proxy.cut_off(cluster, "ca", "import", "-f", cluster.file, *files)
            cluster.ca("import", *files)
            whole(cluster)


@pytest.mark.parametrize(
    ("kind", "between", "extra"),
    [
        pytest.param("rsa4096", (), "", id="RSA-4096 with SHA-512", marks=pytest.mark.conformance),
        pytest.param("p384", TWO[:1], "", id="P-384 below a root", marks=pytest.mark.conformance),
        pytest.param("ed25519", TWO, GENEROUS, id="Ed25519 with constraints that forbid other names"),
    ],
)
def test_leaves_chain_to_the_root_of_every_signer(
    clusters: ClusterFactory, tmp_path: Path, kind: str, between: tuple[str, ...], extra: str
) -> None:
    signer = OutsideSigner.made(tmp_path / "offline", between, kind=kind, extra=extra)
    cluster = waiting(clusters, signer)
    files = signer.answers(cluster)
    cluster.ca("import", *files)
    with cluster.untouched():
        cluster.ca("import", *files)
        cluster.apply()
    chain = cluster.folder / "chain.pem"
    chain.write_text(signer.chain)
    node = cluster.equip("cp-1")
    node.run()
    for name in ("kube-apiserver", "etcdserver", "front-proxy-client", "kube-apiserver-etcd"):
        leaf = node.pki / f"{name}.crt"
        openssl("verify", "-x509_strict", "-CAfile", chain, "-untrusted", leaf, leaf)
    vaultpki("status", "-c", node.config)


@pytest.mark.on_node
def test_a_signer_with_narrow_constraints_is_told_before_and_refused_after(
    clusters: ClusterFactory, tmp_path: Path
) -> None:
    signer = OutsideSigner.made(tmp_path / "offline", TWO, extra=NARROW)
    cluster = clusters.written(SPEC, {"corp-root.pem": signer.chain})
    planned = vaultpki("plan", "-f", cluster.file, env=cluster.environment()).stdout
    assert "forbid names of this cluster" in " ".join(planned.split())
    cluster.apply(expect=3)
    before = listing(cluster.server, cluster.name)
    ran = cluster.ca("import", *signer.answers(cluster), expect=1)
    assert ran.stdout.count("forbid names of this cluster") >= 2, ran.stdout
    assert listing(cluster.server, cluster.name) == before


def test_what_ca_status_says_of_a_ca_that_is_there_ends_it(clusters: ClusterFactory) -> None:
    """Its owner gave the CA above it another key, and root_file has that; somebody renamed its issuer and its key."""
    outside = put_outside(clusters, SPEC[: SPEC.index("ca: {")])
    cluster, facts = outside.cluster, outside.lower.facts
    rekeyed = Ca("Corp Platform CA", outside.upper, begins=facts.not_before, ends=facts.not_after)
    outside.write_chain(outside.root, outside.upper, rekeyed)
    cluster.apply()
    # Nodes get the chain from the root's mount, which keeps what something is below. The plan's advice works.
    planned = vaultpki("plan", "-f", cluster.file, env=cluster.environment()).stdout
    assert "vaultpki ca rotate kubernetes" in " ".join(planned.split())
    cluster.ca("status", who="viewer")
    assert "kubernetes is prepared" in cluster.ca("rotate", "kubernetes").stdout
    cluster.ca("abort")
    ((id_, _),) = issuers(cluster, "etcd").items()
    (key,) = cluster.server.api("LIST", f"{cluster.prefix}/etcd/keys").data["keys"]
    for path, name in ((f"etcd/issuer/{id_}", "issuer_name"), (f"etcd/key/{key}", "key_name")):
        outside.api("POST", f"{cluster.prefix}/{path}", {name: "mine"})
    said = cluster.ca("status", expect=3, who="viewer").stdout
    assert "vaultpki apply" not in said and "vaultpki apply" not in cluster.ca("rotate", "etcd", expect=1).stderr
    found = re.search(r"under the name mine; give its name back: `bao write (\S+) issuer_name=(\S+)`", said)
    assert found is not None, said
    given = cluster.server.api("POST", found[1], {"issuer_name": found[2]}, token=cluster.token("applier"))
    assert given.status == 200
    cluster.ca("status", who="viewer")
