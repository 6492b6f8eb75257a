"""A cluster that grows: two control planes behind one name, and a worker of a pool, with no address in its pairs."""

from __future__ import annotations

import json
import ssl
from collections.abc import Iterator

import pytest

from helpers.kube.access_matrix import SERVERS, holders
from helpers.kube.certificates_in_use import CLIENTS
from helpers.kube.kube_cluster import KubeNode, Kubernetes
from helpers.vault.applied_cluster import vaultpki
from helpers.vault.servers import wait_for
from vaultpki.certificates import bundle, pair_files, row_named
from vaultpki.pki import x509

pytestmark = pytest.mark.conformance

POD = "hello"


@pytest.fixture(params=["cp-1", "cp-2"])
def at(growing: Kubernetes, request: pytest.FixtureRequest) -> Iterator[KubeNode]:
    """The control-plane node that answers by the API server's name for the time of a test."""
    node = growing.nodes[request.param]
    growing.name_api_server(node)
    yield node
    growing.name_api_server(growing.control_plane)


@pytest.fixture(scope="module")
def pod(growing: Kubernetes) -> str:
    growing.run_pod(POD)
    return POD


def logs(growing: Kubernetes) -> str:
    ran = growing.kubectl(growing.admin, "logs", POD, expect=None)
    return ran.stdout + ran.stderr


def shown(growing: Kubernetes, node: KubeNode, row: str) -> str:
    """The serial of what the row's server shows now to whoever asks it by its node's name and trusts its CA alone."""
    ca = row_named(growing.cluster.model, row).ca
    context = ssl.create_default_context(cafile=str(node.pki / bundle(ca)))
    context.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN
    if ca == "etcd":
        crt, key, _ = pair_files("etcd-peer")
        context.load_cert_chain(node.pki / crt, node.pki / key)
    with (
        growing.outside.connect(node.address, SERVERS[row]) as connection,
        context.wrap_socket(connection, server_hostname=node.name) as secure,
    ):
        der = secure.getpeercert(binary_form=True)
    assert der is not None
    return serial(ssl.DER_cert_to_PEM_cert(der).encode())


def behind(growing: Kubernetes) -> list[str]:
    """The servers that show another certificate than lies in their place."""
    found = []
    for row in SERVERS:
        crt, _, _ = pair_files(row_named(growing.cluster.model, row).stem)
        for node, folder in holders(growing, row_named(growing.cluster.model, row)):
            assert node is not None
            if shown(growing, node, row) != serial((folder / crt).read_bytes()):
                found.append(f"{node.name}'s {row}")
    return found


def serial(pem: bytes) -> str:
    return f"{x509.read_certificates(pem)[0].serial:x}"


def test_each_kubeconfig_is_who_the_table_says_at_either_control_plane(growing: Kubernetes, at: KubeNode) -> None:
    for row in CLIENTS:
        for node, folder in holders(growing, row):
            said = growing.kubectl(folder / str(row.kubeconfig), "auth", "whoami", "-o", "json").stdout
            user = json.loads(said)["status"]["userInfo"]
            assert user["username"] == row.common_name.format(node=node.name if node else "")
            assert sorted(user["groups"]) == sorted((*row.organization, "system:authenticated"))


def test_a_kubelet_of_a_pool_is_reached_by_its_nodes_name(growing: Kubernetes, pod: str, at: KubeNode) -> None:
    crt = growing.worker.pki / pair_files("kubelet")[0]
    subject = x509.read_certificates(crt.read_bytes())[0].subject
    assert (subject.dns, subject.ips) == ((growing.worker.name,), ())
    wait_for(lambda: logs(growing) == "hello\n", 20, lambda: logs(growing))
    said = growing.kubectl(growing.admin, "exec", "-i", pod, "--", "cat", stdin="there and back\n").stdout
    assert said == "there and back\n"


def test_and_by_no_address(growing: Kubernetes, pod: str) -> None:
    """As kube-apiserver is told by some installers, kubeadm for one."""
    apiserver = growing.component("kube-apiserver", "cp-2")
    before = apiserver.command
    growing.name_api_server(growing.nodes["cp-2"])
    try:
        apiserver.command = [*before, "--kubelet-preferred-address-types=InternalIP,Hostname"]
        growing.restart("kube-apiserver", "cp-2")
        wait_for(growing.ready, 60, apiserver.last_words, pause=0.3)
        assert f"cannot validate certificate for {growing.worker.address} because it doesn't contain any IP SANs" in (
            logs(growing)
        )
    finally:
        apiserver.command = before
        growing.restart("kube-apiserver", "cp-2")
        wait_for(growing.ready, 60, apiserver.last_words, pause=0.3)
        growing.name_api_server(growing.control_plane)


def test_every_leaf_is_renewed_in_turn_and_nobody_is_turned_away(growing: Kubernetes, pod: str) -> None:
    since, before = growing.audit_position(), growing.running()
    for node in growing.nodes.values():
        growing.vaultpki(node.name, "renew", "--all")
    wait_for(lambda: not behind(growing), 15, lambda: f"these show their old pairs: {behind(growing)}", pause=0.3)
    # kube-apiserver closes its connections to the kubelet for its own new pair, and may just have taken one of them.
    wait_for(lambda: logs(growing) == "hello\n", 20, lambda: logs(growing), pause=1)
    for member in growing.members:
        found = json.loads(growing.etcdctl(member, "endpoint", "health", "--write-out=json").stdout)
        assert [one["health"] for one in found] == [True] * len(growing.members)
    refused = [event["requestURI"] for event in growing.audit(since) if event["responseStatus"]["code"] == 401]
    assert refused == [] and growing.running() == before


def test_a_comer_that_is_unenrolled_works_on_and_gets_nothing_new(growing: Kubernetes, pod: str) -> None:
    worker = growing.worker
    vaultpki("unenroll", "-f", growing.cluster.file, worker.name, env=growing.cluster.environment())
    ran = growing.vaultpki(worker.name, "renew", "--all", expect=1)
    assert "Vault rejects this node's credential" in ran.stderr
    growing.await_node(worker.name)
    assert logs(growing) == "hello\n"
