"""From `ca csr` over a signer without network to `ca import`: what is installed, what is refused, what is kept."""

from __future__ import annotations

import json
from datetime import timedelta
from pathlib import Path

import pytest

from helpers.faults.cutting_proxy import Proxy, proxied
from helpers.vault.applied_cluster import AppliedCluster, Ran, vaultpki
from helpers.vault.cluster_factory import ClusterFactory
from helpers.vault.outside_signer import SPEC, OutsideSigner, openssl
from helpers.vault.server_contents import listing
from helpers.vault.servers import Server

CAS = ("kubernetes", "kubelet", "etcd", "front-proxy")


@pytest.fixture
def signer(tmp_path: Path) -> OutsideSigner:
    return OutsideSigner.made(tmp_path / "offline")


@pytest.fixture
def cluster(clusters: ClusterFactory, signer: OutsideSigner) -> AppliedCluster:
    """A cluster whose issuing CAs wait."""
    made = clusters.written(SPEC, {"corp-root.pem": signer.chain})
    made.apply(expect=3)
    return made


def ca(cluster: AppliedCluster, *words: str | Path, expect: int = 0) -> Ran:
    return vaultpki("ca", words[0], "-f", cluster.file, *words[1:], env=cluster.environment(), expect=expect)


def requests(cluster: AppliedCluster) -> dict[str, Path]:
    folder = cluster.folder / "requests"
    ca(cluster, "csr", "-o", folder)
    return {name: folder / f"{cluster.name}-{name}-1.csr" for name in CAS}


def signed(cluster: AppliedCluster, signer: OutsideSigner) -> list[Path]:
    return [signer.sign(csr, csr.with_suffix(".ext").read_text()) for csr in requests(cluster).values()]


def issuers(cluster: AppliedCluster, name: str) -> dict[str, dict[str, object]]:
    answer = cluster.server.api("LIST", f"{cluster.prefix}/{name}/issuers")
    return answer.data["key_info"] if answer.status == 200 else {}


def whole(cluster: AppliedCluster) -> None:
    """Each issuing CA is there once, with our key and name, as the default; a further apply writes nothing."""
    for name in CAS:
        ((id_, about),) = issuers(cluster, name).items()
        assert (about["issuer_name"], about["is_default"]) == (f"{name}-1", True)
        issuer = cluster.read(f"{cluster.prefix}/{name}/issuer/{id_}")
        keys = cluster.server.api("LIST", f"{cluster.prefix}/{name}/keys").data
        assert list(keys["key_info"]) == [issuer["key_id"]]
        assert issuer["usage"] == "crl-signing,issuing-certificates,ocsp-signing,read-only"
    since = cluster.server.audit_position()
    cluster.apply()
    assert cluster.server.writes(since) == []


def test_from_the_request_to_a_working_cluster(cluster: AppliedCluster, signer: OutsideSigner) -> None:
    files = signed(cluster, signer)
    before = listing(cluster.server, cluster.name)
    dry = ca(cluster, "import", "--dry-run", *files)
    assert dry.stdout.count("+ CA ") == 4
    assert listing(cluster.server, cluster.name) == before
    ran = ca(cluster, "import", *files)
    assert ran.stdout.startswith("+ CA kubernetes: CN="), ran.stdout
    whole(cluster)
    cluster.issue("admin", cluster.folder / "operator")
    chain = cluster.folder / "chain.pem"
    chain.write_text(signer.chain)
    leaf = cluster.folder / "operator" / "admin.crt"
    openssl("verify", "-CAfile", chain, "-untrusted", leaf, leaf)
    join = cluster.folder / "worker-1.json"
    vaultpki("enroll", "-f", cluster.file, "worker-1", "-o", join, env=cluster.environment())
    assert json.loads(join.read_text())["root_sha256"] == signer.root_sha256
    again = ca(cluster, "import", *files)
    assert again.stdout.count("is installed already") == 4
    whole(cluster)
    vaultpki("destroy", "-f", cluster.file, "--confirm", cluster.name, env=cluster.environment())
    mounts = cluster.server.api("GET", "sys/mounts").data
    assert not any(path.startswith(f"{cluster.prefix}/") for path in mounts)


def test_changes_that_cluster_yaml_asks_for_too_are_not_made_unseen(
    cluster: AppliedCluster, signer: OutsideSigner
) -> None:
    files = signed(cluster, signer)
    cluster.file.write_text(cluster.file.read_text() + "defaults: {ttl: 20d}\n")
    before = listing(cluster.server, cluster.name)
    for words in ((), ("--json",)):
        assert "further changes" in ca(cluster, "import", *words, *files, expect=1).stderr
    assert listing(cluster.server, cluster.name) == before
    ca(cluster, "import", "--yes", *files)
    whole(cluster)


def test_files_are_checked_without_a_server(cluster: AppliedCluster, signer: OutsideSigner) -> None:
    files = signed(cluster, signer)
    words = ("ca", "import", "-f", cluster.file, "--dry-run", "--csr", cluster.folder / "requests", "--json")
    document = json.loads(vaultpki(*words, *files, env={"VAULT_ADDR": "https://127.0.0.1:1"}).stdout)
    assert [each["domain"] for each in document["accepted"]] == sorted(CAS)
    ran = vaultpki(*words, files[0], env={"VAULT_ADDR": "https://127.0.0.1:1"}, expect=3)
    assert "kubelet" in ran.stderr


def test_one_after_the_other(cluster: AppliedCluster, signer: OutsideSigner) -> None:
    first, *rest = signed(cluster, signer)
    ran = ca(cluster, "import", first, expect=3)
    assert "the issuing CAs kubelet, etcd, front-proxy wait" in ran.stderr
    assert len(issuers(cluster, "kubernetes")) == 1 and issuers(cluster, "etcd") == {}
    ca(cluster, "import", first, *rest)
    whole(cluster)


def test_requests_are_never_written_over_other_files(cluster: AppliedCluster) -> None:
    first = requests(cluster)["etcd"]
    text = first.read_bytes()
    assert {path.suffix for path in first.parent.iterdir()} == {".csr", ".ext", ".txt"}
    assert "was there already" in ca(cluster, "csr", "-o", first.parent).stdout
    assert first.read_bytes() == text
    other = cluster.folder / "other"
    other.mkdir()
    (other / first.name).write_text("mine\n")
    ran = ca(cluster, "csr", "-o", other, expect=1)
    assert "is not overwritten" in ran.stderr
    assert [path.name for path in other.iterdir()] == [first.name]
    (other / first.name).rename(other / first.with_suffix(".txt").name)
    assert "is not overwritten" in ca(cluster, "csr", "-o", other, expect=1).stderr


def test_what_is_refused_changes_nothing(cluster: AppliedCluster, signer: OutsideSigner, tmp_path: Path) -> None:
    csr = requests(cluster)
    before = listing(cluster.server, cluster.name)
    good = signer.sign(csr["kubernetes"], csr["kubernetes"].with_suffix(".ext").read_text())
    stranger = OutsideSigner.made(tmp_path / "stranger")
    cases = {
        "another root": (stranger.sign(csr["etcd"], csr["etcd"].with_suffix(".ext").read_text()), "etcd"),
        "no CA": (signer.sign(csr["kubelet"], "basicConstraints=CA:FALSE\n"), "not for a CA"),
        "a key": (signer.folder / "Corp Root.key", "private key"),
        "its request": (csr["front-proxy"], "a signing request"),
    }
    for name, (file, hint) in cases.items():
        ran = ca(cluster, "import", good, file, expect=1)
        assert hint in ran.stdout and "nothing was changed" in ran.stderr, (name, ran.stdout)
        assert listing(cluster.server, cluster.name) == before, name
    late = signer.sign(csr["kubelet"], csr["kubelet"].with_suffix(".ext").read_text(), begun=timedelta(days=-1))
    assert "is not valid before" in ca(cluster, "import", late, expect=1).stdout


def test_a_chain_through_an_intermediate(clusters: ClusterFactory, tmp_path: Path) -> None:
    signer = OutsideSigner.made(tmp_path / "offline", ["Corp Policy CA", "Corp Kubernetes CA"])
    subject = "  subject: {O: Corp, OU: [Platform, Clusters], C: DE}\n"
    text = SPEC[: SPEC.index("ca: {")]
    text += f"ca:\n  root: external\n  root_file: corp.pem\n  issuing_ttl: 1y\n{subject}"
    cluster = clusters.written(text, {"corp.pem": signer.chain})
    cluster.apply(expect=3)
    files = signed(cluster, signer)
    bundle = tmp_path / "all.p7b"
    words = [word for file in files for word in ("-certfile", file)]
    openssl("crl2pkcs7", "-nocrl", *words, "-out", bundle)
    ca(cluster, "import", bundle)
    whole(cluster)
    names = {each["issuer_name"] for each in issuers(cluster, "root").values()}
    assert len(names) == 3 and "root-1" in names
    pem = cluster.read(f"{cluster.prefix}/etcd/issuer/etcd-1")["certificate"]
    (tmp_path / "etcd.pem").write_text(pem)
    shown = openssl("x509", "-in", tmp_path / "etcd.pem", "-noout", "-subject", "-nameopt", "RFC2253")
    assert shown.strip() == f"subject=CN={cluster.name} etcd CA,OU=Platform+OU=Clusters,O=Corp,C=DE"


def test_a_chain_that_root_file_lacks(clusters: ClusterFactory, tmp_path: Path) -> None:
    signer = OutsideSigner.made(tmp_path / "offline", ["Corp Policy CA"])
    cluster = clusters.written(SPEC, {"corp-root.pem": signer.pem("Corp Root")})
    cluster.apply(expect=3)
    files = signed(cluster, signer)
    ran = ca(cluster, "import", *files, signer.folder / "Corp Policy CA.crt", expect=1)
    assert "ca.root_file" in ran.stdout and "CN=Corp Policy CA" in ran.stdout, ran.stdout
    (cluster.folder / "corp-root.pem").write_text(signer.chain)
    ca(cluster, "import", *files)
    whole(cluster)


def cut_off(cluster: AppliedCluster, proxy: Proxy, *words: str | Path) -> None:
    """Run `ca import` through the proxy, which ends it."""
    trust = cluster.folder / "proxy-ca.crt"
    trust.write_text(proxy.ca_pem)
    env = {**cluster.environment(), "VAULT_ADDR": proxy.address, "VAULT_CACERT": str(trust)}
    vaultpki("ca", "import", "-f", cluster.file, *words, env=env, expect=1)


@pytest.mark.parametrize(
    "step", [pytest.param(1, marks=pytest.mark.exhaustive), pytest.param(5, id="every fifth write")]
)
def test_killed_after_any_write(server: Server, cluster: AppliedCluster, signer: OutsideSigner, step: int) -> None:
    files = signed(cluster, signer)

    def reset() -> None:
        for name in CAS:
            for id_ in issuers(cluster, name):
                assert cluster.server.api("DELETE", f"{cluster.prefix}/{name}/issuer/{id_}").status in (200, 204)

    since = server.audit_position()
    ca(cluster, "import", *files)
    # As the proxy counts: requests for a signing request, and a question for rights, are no writes to the client.
    last = len(server.writes(since))
    with proxied(server) as proxy:
        for cut in range(1, last + 1, step):
            reset()
            proxy.arm(cut, reopens=False)
            cut_off(cluster, proxy, *files)
            ca(cluster, "import", *files)
            whole(cluster)


def test_of_a_root_of_ours_there_is_nothing_to_carry(clusters: ClusterFactory) -> None:
    cluster = clusters.applied()
    assert "is made by vaultpki" in ca(cluster, "csr", "-o", cluster.folder / "r", expect=1).stderr
    assert "is made by vaultpki" in ca(cluster, "import", cluster.file, expect=1).stderr
