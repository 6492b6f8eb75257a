"""A hostile middle: whatever comes back in place of the certificate asked for, nothing of it is installed."""

from __future__ import annotations

import contextlib
import json
import ssl
import threading
from collections.abc import Callable, Iterator
from http.client import HTTPSConnection
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
import trustme

from helpers.vault.applied_cluster import AppliedCluster, NodeFolder
from helpers.vault.cluster_factory import ClusterFactory
from helpers.vault.servers import Server
from vaultpki.agent import run
from vaultpki.certificates import pair_files
from vaultpki.config.agent import load_agent
from vaultpki.model import KeyType, Subject
from vaultpki.pki import keys

# What is wrong stands between the server and the agent.
pytestmark = pytest.mark.on_node

SPEC = """\
nodes:
- {name: cp-1, roles: [control-plane], addresses: [10.0.0.11]}
"""
STEMS = (
    *("kube-scheduler", "controller-manager", "kube-apiserver-etcd", "kube-apiserver-kubelet"),
    *("kube-apiserver", "front-proxy-client"),
)
Body = dict[str, Any]
Swap = Callable[[AppliedCluster, str, Body, Body], Body]


@contextlib.contextmanager
def middle(cluster: AppliedCluster, node: NodeFolder, swap: Swap) -> Iterator[None]:
    """Between the node and the server, with a TLS certificate that the node trusts, answering `sign` as `swap` says."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, *_: object) -> None:
            pass

        def pass_on(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            url = urlsplit(cluster.server.address)
            context = ssl.create_default_context(cafile=cluster.server.ca_file)
            upstream = HTTPSConnection(str(url.hostname), url.port, context=context, timeout=30)
            with contextlib.closing(upstream):
                headers = {name: value for name, value in self.headers.items() if name.lower() != "host"}
                upstream.request(self.command, self.path, body, headers)
                answer = upstream.getresponse()
                content = answer.read()
            path = self.path.removeprefix("/v1/")
            if "/sign/" in path:
                content = json.dumps(swap(cluster, path, json.loads(body), json.loads(content))).encode()
            self.send_response(answer.status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        do_GET = do_POST = do_PUT = do_LIST = pass_on  # noqa: N815 - the names http.server calls

    ca = trustme.CA()
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    ca.issue_cert("127.0.0.1").configure_cert(context)
    ca_file = node.folder / "middle.pem"
    ca.cert_pem.write_to_path(ca_file)
    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as http:
        http.socket = context.wrap_socket(http.socket, server_side=True)
        http.daemon_threads = True
        thread = threading.Thread(target=http.serve_forever, kwargs={"poll_interval": 0.02})
        thread.start()
        node.configure(cluster.server.address, f"https://127.0.0.1:{http.server_address[1]}")
        node.configure(str(cluster.server.ca_file), str(ca_file))
        try:
            yield
        finally:
            node.configure(f"https://127.0.0.1:{http.server_address[1]}", cluster.server.address)
            node.configure(str(ca_file), str(cluster.server.ca_file))
            http.shutdown()
            thread.join()


def forged(
    cluster: AppliedCluster,
    path: str,
    body: Body,
    answer: Body,
    *,
    mount: str = "",
    role: Body | None = None,
    **asked: object,
) -> Body:
    """The answer with a certificate from the cluster's own CA, by a role that should not be, in place of the right one.

    `role` widens the role, `asked` the request.
    """
    right, _, name = path.partition("/sign/")
    right = f"{cluster.prefix}/{mount}" if mount else right
    wide = cluster.read(f"{path.replace('/sign/', '/roles/')}")
    wide |= {"allow_any_name": True, "allow_ip_sans": True, "allowed_domains_template": False, "key_type": "any"}
    # OpenBao alone knows these; Vault ignores what it does not know.
    wide |= {"max_ttl": "9000h", "not_before_bound": "permit", "not_after_bound": "permit"} | (role or {})
    assert cluster.server.api("POST", f"{right}/roles/forged-{name}", wide).status in (200, 204)
    sent = {**body, **asked}
    signed = cluster.server.api("POST", f"{right}/sign/forged-{name}", sent)
    assert signed.status == 200, signed
    return swapped(answer, signed.data["certificate"])


def swapped(answer: Body, pem: object) -> Body:
    assert answer["data"]["certificate"]
    return {**answer, "data": {**answer["data"], "certificate": pem}}


def other_key(cluster: AppliedCluster, path: str, body: Body, answer: Body) -> Body:
    csr = keys.request(keys.generate_key(KeyType.EC_P256), Subject(body["common_name"]))
    return forged(cluster, path, body, answer, csr=csr)


def extra_name(cluster: AppliedCluster, path: str, body: Body, answer: Body) -> Body:
    names = ",".join(filter(None, (body.get("alt_names", ""), "evil.example.com")))
    return forged(cluster, path, body, answer, alt_names=names)


def extra_address(cluster: AppliedCluster, path: str, body: Body, answer: Body) -> Body:
    return forged(cluster, path, body, answer, ip_sans=",".join(filter(None, (body.get("ip_sans", ""), "192.0.2.66"))))


def other_name(cluster: AppliedCluster, path: str, body: Body, answer: Body) -> Body:
    return forged(cluster, path, body, answer, common_name="system:admin")


def other_case(cluster: AppliedCluster, path: str, body: Body, answer: Body) -> Body:
    return forged(cluster, path, body, answer, common_name=body["common_name"].upper())


def other_group(cluster: AppliedCluster, path: str, body: Body, answer: Body) -> Body:
    return forged(cluster, path, body, answer, role={"organization": ["system:masters"]})


def other_use(cluster: AppliedCluster, path: str, body: Body, answer: Body) -> Body:
    return forged(cluster, path, body, answer, role={"server_flag": True, "client_flag": True})


def other_key_usage(cluster: AppliedCluster, path: str, body: Body, answer: Body) -> Body:
    return forged(cluster, path, body, answer, role={"key_usage": ["DigitalSignature", "KeyAgreement"]})


def longer(cluster: AppliedCluster, path: str, body: Body, answer: Body) -> Body:
    return forged(cluster, path, body, answer, ttl="8000h")


def an_authority(cluster: AppliedCluster, path: str, body: Body, answer: Body) -> Body:
    sent = body | {"ttl": "24h"}
    signed = cluster.server.api("POST", f"{cluster.prefix}/root/root/sign-intermediate", sent)
    assert signed.status == 200, signed
    return swapped(answer, signed.data["certificate"])


def other_ca(cluster: AppliedCluster, path: str, body: Body, answer: Body) -> Body:
    return forged(cluster, path, body, answer, mount="kubelet")


def strange_ca(cluster: AppliedCluster, path: str, body: Body, answer: Body) -> Body:
    mount = f"strange-{cluster.name}"
    role = cluster.read(path.replace("/sign/", "/roles/")) | {
        "ttl": 3600,
        "allow_any_name": True,
        "issuer_ref": "default",
    }
    name = path.rpartition("/")[2]
    assert cluster.server.api("POST", f"{mount}/roles/{name}", role).status in (200, 204)
    signed = cluster.server.api("POST", f"{mount}/sign/{name}", body)
    assert signed.status == 200, signed
    return swapped(answer, signed.data["certificate"])


def two(cluster: AppliedCluster, path: str, body: Body, answer: Body) -> Body:
    pem = answer["data"]["certificate"]
    return swapped(answer, f"{strange_ca(cluster, path, body, answer)['data']['certificate']}\n{pem}")


def no_certificate(cluster: AppliedCluster, path: str, body: Body, answer: Body) -> Body:
    return swapped(answer, "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n")


def no_text(cluster: AppliedCluster, path: str, body: Body, answer: Body) -> Body:
    return swapped(answer, ["x"])


def an_old_answer(cluster: AppliedCluster, path: str, body: Body, answer: Body) -> Body:
    """The first answer again, as somebody who recorded it would."""
    kept = cluster.folder / path.replace("/", "_")
    if not kept.exists():
        kept.write_text(answer["data"]["certificate"])
        return no_text(cluster, path, body, answer)
    return swapped(answer, kept.read_text())


SWAPS: tuple[tuple[Swap, str], ...] = (
    (other_key, "another key"),
    (extra_name, "names"),
    (extra_address, "names"),
    (other_name, "names"),
    (other_case, "names"),
    (other_group, "names"),
    (other_use, "extended key usage"),
    (other_key_usage, "key usage"),
    (longer, "expires later"),
    (an_authority, "CA"),
    (other_ca, "issuing CA"),
    (strange_ca, "issuing CA"),
    (two, ""),
    (no_certificate, ""),
    (no_text, ""),
    (an_old_answer, ""),
)


@pytest.fixture(scope="module")
def cluster(server: Server, shared_clusters: ClusterFactory) -> AppliedCluster:
    made = shared_clusters.applied(SPEC)
    strange = f"strange-{made.name}"
    assert server.api("POST", f"sys/mounts/{strange}", {"type": "pki"}).status == 204
    # Backdated as ours are, or Vault signs no leaf that begins before.
    root = {"common_name": "root", "key_type": "ec", "ttl": "700h", "not_before_duration": "15m"}
    assert server.api("POST", f"{strange}/root/generate/internal", root).status == 200
    return made


@pytest.mark.parametrize(("swap", "said"), SWAPS, ids=[swap.__name__ for swap, _ in SWAPS])
def test_nothing_is_installed(swap: Swap, said: str, cluster: AppliedCluster, tmp_path: Path) -> None:
    node = cluster.equip("cp-1", folder=tmp_path / "cp-1")
    with middle(cluster, node, swap):
        for _ in range(2 if swap is an_old_answer else 1):
            done = run.run(load_agent(node.config))
    assert done.renewed == () and len(done.failures) == len(STEMS)
    assert said in str(done.failures["kube-apiserver-etcd"]), done.failures
    assert not [path for path in node.pki.rglob("*") if path.suffix in (".key", ".pem")]
    assert {path.name for path in node.pki.glob("*.crt")} == {
        f"{ca}-ca{kind}.crt" for ca in ("kubernetes", "kubelet", "etcd", "front-proxy") for kind in ("", "-chain")
    }


def test_good_pairs_outlive_bad_answers(cluster: AppliedCluster, tmp_path: Path) -> None:
    """A pair that needs renewal stays as it is until a good one comes; then one run sets it right."""
    node = cluster.equip("cp-1", folder=tmp_path / "cp-1")
    node.run()
    (node.pki / "kube-scheduler.pem").unlink()
    before = {stem: [(node.pki / name).read_bytes() for name in pair_files(stem)[:2]] for stem in STEMS}
    with middle(cluster, node, extra_name):
        ran = node.run(expect=1)
    lines = ran.stderr.splitlines()
    assert len(lines) == 2 and "kube-scheduler" in lines[0] and "ends at" in lines[1], ran.stderr
    assert {stem: [(node.pki / name).read_bytes() for name in pair_files(stem)[:2]] for stem in STEMS} == before
    assert node.run().stdout == "renewed kube-scheduler\n"
