"""A hostile middle: whatever comes back in place of the certificate asked for, nothing of it is installed."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from helpers.node.passes import passed
from helpers.node.resident_agent import proxy
from helpers.vault.applied_cluster import AppliedCluster, NodeFolder
from helpers.vault.cluster_factory import ClusterFactory
from helpers.vault.servers import Server
from vaultpki.certificates import pair_files
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
    """Between the node and the server, answering `sign` as `swap` says."""

    def alter(method: str, path: str, status: int, answer: Body) -> tuple[int, Body]:
        if "/sign/" in path:
            answer = swap(cluster, path.removeprefix("/v1/"), json.loads(between.bodies[path]), answer)
        return status, answer

    with proxy(cluster.server, alter) as between:
        node.configure(cluster.server.address, between.address)
        try:
            yield
        finally:
            node.configure(between.address, cluster.server.address)


def forged(
    cluster: AppliedCluster,
    path: str,
    body: Body,
    answer: Body,
    *,
    mount: str = "",
    role: Body | None = None,
    asked: Body | None = None,
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
    sent = {**body, **(asked or {})}
    signed = cluster.server.api("POST", f"{right}/sign/forged-{name}", sent)
    assert signed.status == 200, signed
    return swapped(answer, signed.data["certificate"])


def swapped(answer: Body, pem: object) -> Body:
    assert answer["data"]["certificate"]
    return {**answer, "data": {**answer["data"], "certificate": pem}}


def asks(**changed: Callable[[Body], object]) -> Swap:
    """A certificate for other words than the node's own."""

    def swap(cluster: AppliedCluster, path: str, body: Body, answer: Body) -> Body:
        return forged(cluster, path, body, answer, asked={name: made(body) for name, made in changed.items()})

    return swap


def by_role(**fields: object) -> Swap:
    """One by a role that allows something else."""
    return lambda cluster, path, body, answer: forged(cluster, path, body, answer, role=fields)


def beside(name: str, further: str) -> Callable[[Body], str]:
    return lambda body: ",".join(filter(None, (body.get(name, ""), further)))


def of_another_key(body: Body) -> str:
    return keys.request(keys.generate_key(KeyType.EC_P256), Subject(body["common_name"]))


def an_authority(cluster: AppliedCluster, path: str, body: Body, answer: Body) -> Body:
    sent = body | {"ttl": "24h"}
    signed = cluster.server.api("POST", f"{cluster.prefix}/root/root/sign-intermediate", sent)
    assert signed.status == 200, signed
    return swapped(answer, signed.data["certificate"])


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


def with_text(text: object) -> Swap:
    return lambda cluster, path, body, answer: swapped(answer, text)


def an_old_answer(cluster: AppliedCluster, path: str, body: Body, answer: Body) -> Body:
    """The first answer again, as somebody who recorded it would."""
    kept = cluster.folder / path.replace("/", "_")
    if not kept.exists():
        kept.write_text(answer["data"]["certificate"])
        return swapped(answer, ["x"])
    return swapped(answer, kept.read_text())


SWAPS: dict[str, tuple[Swap, str]] = {
    "another key": (asks(csr=of_another_key), "another key"),
    "a further name": (asks(alt_names=beside("alt_names", "evil.example.com")), "names"),
    "a further address": (asks(ip_sans=beside("ip_sans", "192.0.2.66")), "names"),
    "another name": (asks(common_name=lambda _: "system:admin"), "names"),
    "another case": (asks(common_name=lambda body: body["common_name"].upper()), "names"),
    "another group": (by_role(organization=["system:masters"]), "names"),
    "another use": (by_role(server_flag=True, client_flag=True), "extended key usage"),
    "another key usage": (by_role(key_usage=["DigitalSignature", "KeyAgreement"]), "key usage"),
    "a longer life": (asks(ttl=lambda _: "8000h"), "expires later"),
    "a CA": (an_authority, "CA"),
    "of another CA": (lambda *words: forged(*words, mount="kubelet"), "issuing CA"),
    "of a strange CA": (strange_ca, "issuing CA"),
    "two": (two, ""),
    "no certificate": (with_text("-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n"), ""),
    "no text": (with_text(["x"]), ""),
    "an old answer": (an_old_answer, ""),
}


@pytest.fixture(scope="module")
def cluster(server: Server, shared_clusters: ClusterFactory) -> AppliedCluster:
    made = shared_clusters.applied(SPEC)
    strange = f"strange-{made.name}"
    assert server.api("POST", f"sys/mounts/{strange}", {"type": "pki"}).status == 204
    # Backdated as ours are, or Vault signs no leaf that begins before.
    root = {"common_name": "root", "key_type": "ec", "ttl": "700h", "not_before_duration": "15m"}
    assert server.api("POST", f"{strange}/root/generate/internal", root).status == 200
    return made


@pytest.mark.parametrize("what", SWAPS)
def test_nothing_is_installed(what: str, cluster: AppliedCluster, tmp_path: Path) -> None:
    swap, said = SWAPS[what]
    node = cluster.equip("cp-1", folder=tmp_path / "cp-1")
    with middle(cluster, node, swap):
        for _ in range(2 if swap is an_old_answer else 1):
            done = passed(node, asks=False)
    assert done.renewed == () and len(done.failures) == len(STEMS)
    assert said in str(done.failures["kube-apiserver-etcd"]), done.failures
    assert not [path for path in node.pki.rglob("*") if path.suffix in (".key", ".pem")]
    assert {path.name for path in node.pki.glob("*.crt")} == {
        f"{ca}-ca{kind}.crt" for ca in ("kubernetes", "kubelet", "etcd", "front-proxy") for kind in ("", "-chain")
    }


def test_good_pairs_outlive_bad_answers(cluster: AppliedCluster, tmp_path: Path) -> None:
    """A pair that needs renewal stays as it is until a good one comes; then one run sets it right."""
    node = cluster.equip("cp-1", folder=tmp_path / "cp-1")
    passed(node)
    (node.pki / "kube-scheduler.pem").unlink()
    before = {stem: [(node.pki / name).read_bytes() for name in pair_files(stem)[:2]] for stem in STEMS}
    with middle(cluster, node, SWAPS["a further name"][0]):
        ran = node.run(expect=1)
    lines = ran.stderr.splitlines()
    assert len(lines) == 2 and "kube-scheduler" in lines[0] and "ends at" in lines[1], ran.stderr
    assert {stem: [(node.pki / name).read_bytes() for name in pair_files(stem)[:2]] for stem in STEMS} == before
    assert node.run().stdout == "renewed kube-scheduler\n"
