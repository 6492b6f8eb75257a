"""`agent --once` on nodes of every role: each file is what the table says, as OpenSSL reads it."""

from __future__ import annotations

import re
import subprocess
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
import yaml

from helpers.vault.applied_cluster import AppliedCluster, NodeFolder
from helpers.vault.cluster_factory import ClusterFactory

SPEC = """\
api_server:
  endpoint: https://api.example.com:6443
  names: [api.example.com]
  addresses: [10.0.0.10, "fd00::10"]
  service_cidr: [10.96.0.0/12, "fd00:96::/108"]
nodes:
- {name: cp-1, roles: [control-plane], addresses: [10.0.0.11, "fd00::11"]}
- {name: etcd-1, roles: [etcd], addresses: [10.0.0.31]}
- {name: worker-1, roles: [worker], addresses: [10.0.0.21]}
- {name: all-1, roles: [control-plane, etcd, worker], addresses: [10.0.0.41]}
pools:
- {name: autoscaled, roles: [worker], node_names: "w-*"}
certificates:
  kube-apiserver: {ttl: 7d, key: ec-p384, extra_names: [api.internal]}
  kubelet: {key: rsa-2048}
  kube-proxy: {key: rsa-3072, file: proxy}
  etcd-healthcheck-client: {key: ed25519}
  metrics:
    kind: both
    common_name: metrics
    ca: kubelet
    roles: [worker]
    names: ["{node}", metrics.example.com]
    addresses: ["{node_addresses}"]
    ttl: 2d
  scraper:
    kind: client
    common_name: "scraper:{node}"
    organization: ["monitoring:scrapers"]
    ca: kubernetes
    roles: [worker]
    kubeconfig: scraper.conf
templates:
  motd: {file: motd.conf, template: motd.tmpl, roles: [worker]}
"""
MOTD = "node ${node.json} of ${cluster}, ${endpoint}, $$5 in ${directory}\n"

EC = "id-ecPublicKey"
CLIENT, SERVER = "TLS Web Client Authentication", "TLS Web Server Authentication"


@dataclass(frozen=True)
class Row:
    """What the design's table, and the spec above, say of one certificate on one node."""

    ca: str
    subject: str
    usage: frozenset[str]
    dns: tuple[str, ...] = ()
    ips: tuple[str, ...] = ()
    key: tuple[str, int] = (EC, 256)
    days: int = 30
    kubeconfig: str | None = None


def client(ca: str, subject: str, **more: object) -> Row:
    return Row(ca, subject, frozenset({CLIENT}), **more)  # type: ignore[arg-type]


def server_row(ca: str, subject: str, **more: object) -> Row:
    return Row(ca, subject, frozenset({SERVER}), **more)  # type: ignore[arg-type]


def both(ca: str, subject: str, **more: object) -> Row:
    return Row(ca, subject, frozenset({CLIENT, SERVER}), **more)  # type: ignore[arg-type]


def control_plane(node: str, *addresses: str) -> dict[str, Row]:
    return {
        "kube-apiserver": server_row(
            "kubernetes",
            "CN=kube-apiserver",
            dns=(
                *("kubernetes", "kubernetes.default", "kubernetes.default.svc", "kubernetes.default.svc.cluster.local"),
                *(node, "api.example.com", "api.internal"),
            ),
            ips=("10.96.0.1", "FD00:96:0:0:0:0:0:1", *addresses, "10.0.0.10", "FD00:0:0:0:0:0:0:10", "127.0.0.1"),
            key=(EC, 384),
            days=7,
        ),
        "kube-scheduler": client("kubernetes", "CN=system:kube-scheduler", kubeconfig="scheduler.conf"),
        "controller-manager": client(
            "kubernetes", "CN=system:kube-controller-manager", kubeconfig="controller-manager.conf"
        ),
        "kube-apiserver-etcd": client("etcd", "CN=kube-apiserver-etcd-client"),
        "kube-apiserver-kubelet": client("kubernetes", "CN=kube-apiserver-kubelet-client"),
        "front-proxy-client": client("front-proxy", "CN=front-proxy-client"),
    }


def etcd(node: str, *addresses: str) -> dict[str, Row]:
    names = {"dns": (node, "localhost"), "ips": (*addresses, "127.0.0.1", "0:0:0:0:0:0:0:1")}
    return {
        "etcdserver": both("etcd", f"CN={node}", **names),
        "etcd-peer": both("etcd", f"CN={node}", **names),
        "etcd-healthcheck-client": client("etcd", "CN=kube-etcd-healthcheck-client", key=("ED25519", 0)),
    }


def worker(node: str, *addresses: str) -> dict[str, Row]:
    return {
        "kubelet": server_row(
            "kubelet",
            f"O=system:nodes,CN=system:node:{node}",
            dns=(node,),
            ips=addresses,
            key=("rsaEncryption", 2048),
        ),
        "kubelet-client": client("kubernetes", f"O=system:nodes,CN=system:node:{node}", kubeconfig="kubelet.conf"),
        "proxy": client(
            "kubernetes", "CN=system:kube-proxy", key=("rsaEncryption", 3072), kubeconfig="kube-proxy.conf"
        ),
        "metrics": both("kubelet", "CN=metrics", dns=(node, "metrics.example.com"), ips=addresses, days=2),
        "scraper": client("kubernetes", f"O=monitoring:scrapers,CN=scraper:{node}", kubeconfig="scraper.conf"),
    }


NODES: dict[str, dict[str, Row]] = {
    "cp-1": control_plane("cp-1", "10.0.0.11", "FD00:0:0:0:0:0:0:11"),
    "etcd-1": etcd("etcd-1", "10.0.0.31"),
    "worker-1": worker("worker-1", "10.0.0.21"),
    "all-1": control_plane("all-1", "10.0.0.41") | etcd("all-1", "10.0.0.41") | worker("all-1", "10.0.0.41"),
    "w-7": worker("w-7"),
}
CAS = ("kubernetes", "kubelet", "etcd", "front-proxy")
# A run in which every umask a service manager or a careless shell may leave behind comes up.
UMASKS = {"cp-1": 0o077, "etcd-1": 0, "worker-1": 0o777, "all-1": 0o022, "w-7": 0o027}


@pytest.fixture(scope="module")
def cluster(shared_clusters: ClusterFactory) -> AppliedCluster:
    return shared_clusters.applied(SPEC, {"motd.tmpl": MOTD})


@pytest.fixture(scope="module")
def nodes(cluster: AppliedCluster) -> dict[str, NodeFolder]:
    made = {}
    for name, held in NODES.items():
        node = cluster.equip(name, pool="autoscaled" if name == "w-7" else None)
        ran = node.run(umask=UMASKS[name])
        assert ran.stderr == "", ran.stderr
        assert ran.stdout.count("issued ") == len(held), ran.stdout
        made[name] = node
    return made


def openssl(*arguments: str | Path, data: bytes | None = None) -> str:
    done = subprocess.run(["openssl", *map(str, arguments)], input=data, capture_output=True, check=False)
    assert done.returncode == 0, (arguments, done.stderr)
    return done.stdout.decode()


def text_of(pem: bytes) -> str:
    return openssl("x509", "-noout", "-text", "-nameopt", "RFC2253,-esc_msb", data=pem)


def blocks(data: bytes) -> list[bytes]:
    """The PEM blocks of a file, which holds nothing else."""
    found = re.findall(rb"-----BEGIN ([A-Z ]+)-----\n(?:[A-Za-z0-9+/=]+\n)+-----END \1-----\n", data)
    parts = re.split(rb"(?<=-----\n)(?=-----BEGIN)", data)
    assert len(parts) == len(found), data
    return parts


def extension(text: str, name: str) -> tuple[bool, str] | None:
    match = re.search(rf"X509v3 {name}:( critical)?[ ]*\n\s+(.*)\n", text)
    return (bool(match[1]), match[2].strip()) if match else None


def key_of(text: str) -> tuple[str, int]:
    algorithm = re.search(r"Public Key Algorithm: (\S+)", text)
    size = re.search(r"Public-Key: \((\d+) bit\)", text)
    assert algorithm
    return algorithm[1], int(size[1]) if size and algorithm[1] != "ED25519" else 0


def check_leaf(pem: bytes, row: Row, cluster: str) -> None:
    """Every field and extension of the certificate, its value and its criticality."""
    text = text_of(pem)
    subject = re.search(r"Subject: *(.*)\n", text)
    issuer = re.search(r"Issuer: *(.*)\n", text)
    assert subject and issuer
    # RFC 4514 says the last RDN first.
    assert ",".join(reversed(subject[1].split(","))) == row.subject
    assert issuer[1] == f"CN={cluster} {row.ca} CA"
    assert key_of(text) == row.key
    usage = "Digital Signature" + (
        ", Key Encipherment" if row.key[0] == "rsaEncryption" and SERVER in row.usage else ""
    )
    assert extension(text, "Key Usage") == (True, usage)
    critical, purposes = extension(text, "Extended Key Usage") or (True, "")
    assert (critical, frozenset(purposes.split(", "))) == (False, row.usage)
    names = extension(text, "Subject Alternative Name")
    wanted = [*(f"DNS:{name}" for name in row.dns), *(f"IP Address:{ip}" for ip in row.ips)]
    assert (sorted(names[1].split(", ")) if names else []) == sorted(wanted)
    assert names is None or names[0] is False
    assert extension(text, "Basic Constraints") in (None, (True, "CA:FALSE"))
    assert "CA:TRUE" not in text
    assert extension(text, "Authority Key Identifier") and extension(text, "Subject Key Identifier")
    assert "OCSP - URI:https://127.0.0.1:" in text and "CA Issuers - URI:https://127.0.0.1:" in text
    assert re.search(r"X509v3 CRL Distribution Points: *\n\s+Full Name:\n\s+URI:https://127.0.0.1:", text)
    dates = openssl("x509", "-noout", "-dates", "-dateopt", "iso_8601", data=pem)
    begin, end = (
        datetime.strptime(line.split("=")[1].strip(), "%Y-%m-%d %H:%M:%SZ").replace(tzinfo=UTC)
        for line in dates.strip().splitlines()
    )
    # Issued within the last minutes, backdated by five, for as many days as asked.
    signed = begin + timedelta(minutes=5)
    assert abs(datetime.now(UTC) - signed) < timedelta(minutes=5)
    assert abs(end - signed - timedelta(days=row.days)) < timedelta(minutes=1)


def check_ca(pem: bytes, subject: str, issuer: str, path_length: str) -> None:
    text = text_of(pem)
    assert re.search(rf"Subject: *CN={re.escape(subject)}\n", text)
    assert re.search(rf"Issuer: *CN={re.escape(issuer)}\n", text)
    assert extension(text, "Basic Constraints") == (True, f"CA:TRUE{path_length}")
    assert extension(text, "Key Usage") == (True, "Certificate Sign, CRL Sign")
    assert extension(text, "Extended Key Usage") is None


@pytest.mark.parametrize("node", NODES)
def test_every_pair_is_what_the_table_says(node: str, cluster: AppliedCluster, nodes: dict[str, NodeFolder]) -> None:
    pki = nodes[node].pki
    for stem, row in NODES[node].items():
        crt, key, pem = ((pki / f"{stem}.{kind}").read_bytes() for kind in ("crt", "key", "pem"))
        leaf, issuing = blocks(crt)
        check_leaf(leaf, row, cluster.name)
        check_ca(issuing, f"{cluster.name} {row.ca} CA", f"{cluster.name} root CA", ", pathlen:0")
        assert blocks(pem) == [key, leaf, issuing]
        public = openssl("x509", "-noout", "-pubkey", data=leaf)
        assert openssl("pkey", "-pubout", data=key) == public
        assert issuing in (pki / f"{row.ca}-ca.crt").read_bytes()


@pytest.mark.on_node
@pytest.mark.parametrize("node", NODES)
def test_the_folder_holds_just_these_files_with_their_modes(node: str, nodes: dict[str, NodeFolder]) -> None:
    pki = nodes[node].pki
    kinds = (("crt", 0o644), ("key", 0o600), ("pem", 0o600))
    modes = {f"{stem}.{kind}": mode for stem in NODES[node] for kind, mode in kinds}
    modes |= {f"{ca}-ca{chain}.crt": 0o644 for ca in CAS for chain in ("", "-chain")}
    modes |= {row.kubeconfig: 0o600 for row in NODES[node].values() if row.kubeconfig}
    if "kubelet" in NODES[node]:
        modes["motd.conf"] = 0o600
    found = {path.name: path.stat().st_mode & 0o7777 for path in pki.iterdir() if path.name != ".vaultpki"}
    assert found == modes
    folders = [pki, *(path for path in pki.rglob("*") if path.is_dir() and not path.is_symlink())]
    assert {path.stat().st_mode & 0o7777 for path in folders} == {0o755}
    state = nodes[node].state
    assert {path.name: path.stat().st_mode & 0o7777 for path in state.iterdir()} == {
        "agent.json": 0o600,
        "secret-id": 0o600,
        "spec.json": 0o600,
    }


@pytest.mark.parametrize("node", NODES)
def test_bundles_hold_the_root_only_where_they_say_chain(
    node: str, cluster: AppliedCluster, nodes: dict[str, NodeFolder]
) -> None:
    roots = set()
    for ca in CAS:
        (issuing,) = blocks((nodes[node].pki / f"{ca}-ca.crt").read_bytes())
        check_ca(issuing, f"{cluster.name} {ca} CA", f"{cluster.name} root CA", ", pathlen:0")
        first, root = blocks((nodes[node].pki / f"{ca}-ca-chain.crt").read_bytes())
        assert first == issuing
        check_ca(root, f"{cluster.name} root CA", f"{cluster.name} root CA", "")
        roots.add(root)
    (root,) = roots
    print_ = openssl("x509", "-noout", "-fingerprint", "-sha256", data=root)
    assert print_.strip().partition("=")[2].replace(":", "").lower() == cluster.root_sha256


@pytest.mark.parametrize("node", NODES)
def test_openssl_accepts_each_for_its_purpose_and_refuses_the_other(
    node: str, nodes: dict[str, NodeFolder], tmp_path: Path
) -> None:
    pki = nodes[node].pki
    (tmp_path / "root.pem").write_bytes(blocks((pki / "etcd-ca-chain.crt").read_bytes())[1])
    for stem, row in NODES[node].items():
        for purpose, usage in (("sslclient", CLIENT), ("sslserver", SERVER)):
            ways: tuple[tuple[str | Path, ...], ...] = (
                ("-CAfile", tmp_path / "root.pem", "-untrusted", pki / f"{row.ca}-ca.crt"),
                ("-CAfile", pki / f"{row.ca}-ca-chain.crt"),
                ("-partial_chain", "-CAfile", pki / f"{row.ca}-ca.crt"),
            )
            for trusted in ways:
                accepted = verifies(pki / f"{stem}.crt", "-purpose", purpose, *trusted)
                assert accepted == (usage in row.usage), (stem, purpose, trusted)
        other = "etcd" if row.ca != "etcd" else "kubernetes"
        assert not verifies(pki / f"{stem}.crt", "-partial_chain", "-CAfile", pki / f"{other}-ca.crt")
        # What is not under test here is which of the issuing CA's clients reach what: tests of `verify` show that.
        for option, names in (("-verify_hostname", row.dns), ("-verify_ip", row.ips)):
            for name in names:
                assert verifies(pki / f"{stem}.crt", option, name, "-CAfile", pki / f"{row.ca}-ca-chain.crt")
        wrong = verifies(
            pki / f"{stem}.crt", "-verify_hostname", "not.example.com", "-CAfile", pki / f"{row.ca}-ca-chain.crt"
        )
        assert not wrong, stem


def verifies(file: Path, *options: str | Path) -> bool:
    command = ["openssl", "verify", "-x509_strict", "-no-CApath", "-no-CAstore", *map(str, options), str(file)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0 or "verification failed" in done.stderr, done.stderr
    return done.returncode == 0


@pytest.mark.on_node
@pytest.mark.parametrize("node", ["cp-1", "worker-1", "all-1", "w-7"])
def test_kubeconfigs_name_files(node: str, cluster: AppliedCluster, nodes: dict[str, NodeFolder]) -> None:
    pki = nodes[node].pki
    for stem, row in NODES[node].items():
        if row.kubeconfig is None:
            continue
        config = yaml.safe_load((pki / row.kubeconfig).read_text())
        user = row.subject.partition("CN=")[2]
        assert config == {
            "apiVersion": "v1",
            "kind": "Config",
            "clusters": [
                {
                    "name": cluster.name,
                    "cluster": {
                        "server": "https://api.example.com:6443",
                        "certificate-authority": str(pki / "kubernetes-ca.crt"),
                    },
                }
            ],
            "users": [
                {
                    "name": user,
                    "user": {
                        "client-certificate": str(pki / f"{stem}.crt"),
                        "client-key": str(pki / f"{stem}.key"),
                    },
                }
            ],
            "contexts": [{"name": f"{user}@{cluster.name}", "context": {"cluster": cluster.name, "user": user}}],
            "current-context": f"{user}@{cluster.name}",
        }


@pytest.mark.on_node
def test_the_users_template_is_rendered(cluster: AppliedCluster, nodes: dict[str, NodeFolder]) -> None:
    pki = nodes["worker-1"].pki
    text = f'node "worker-1" of {cluster.name}, https://api.example.com:6443, $5 in {pki}\n'
    assert (pki / "motd.conf").read_text() == text


def test_a_second_run_touches_nothing_and_asks_nothing(cluster: AppliedCluster, nodes: dict[str, NodeFolder]) -> None:
    for node in nodes.values():
        before, since = node.snapshot(), cluster.server.audit_position()
        ran = node.run()
        assert ran.stdout.startswith("nothing to do until 20") and ran.stderr == ""
        assert node.snapshot() == before
        assert cluster.server.requests(since) == []


def test_no_secret_of_the_node_is_told_or_left(cluster: AppliedCluster, nodes: dict[str, NodeFolder]) -> None:
    for node in nodes.values():
        secret = (node.state / "secret-id").read_bytes()
        for path in node.folder.rglob("*"):
            if path.is_file() and path.name != "secret-id":
                assert secret not in path.read_bytes(), path
