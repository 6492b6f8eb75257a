"""The real `kubeadm join` with a token, where the signer has the cluster's certificate requests signed by Vault.

One cluster for the whole module, and the tests continue each other: a machine joins by what `kubeadm token create`
prints, another one that has the token tries to be it, and to be the control plane, and a CA is rotated.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from helpers.kube import joined_cluster, kubeadm_planes, kubeadm_use
from helpers.kube.ca_operator import Operator
from helpers.kube.client_load import OPERATORS
from helpers.kube.components import Programs
from helpers.kube.joined_cluster import KUBELET, PLANE, SECONDS, await_ready, join, logs, new_token, ready, requests
from helpers.kube.kubeadm_cluster import KubeadmCluster
from helpers.vault import servers
from helpers.vault.servers import wait_for
from vaultpki.records.rotation import State
from vaultpki.signer.requests import CLIENT_KUBELET, SERVING

pytestmark = [pytest.mark.conformance, pytest.mark.timeout(2400)]

JOINED, THIEF = "w-1", "w-2"
ADDRESSES = {JOINED: "198.51.100.41", THIEF: "198.51.100.42"}


@pytest.fixture(scope="module")
def cluster(
    programs: Programs, vault_binary: Path | None, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[KubeadmCluster]:
    folder = tmp_path_factory.mktemp("joined")
    with (
        servers.running("vault" if vault_binary else "bao", folder / "server", vault_binary) as server,
        joined_cluster.standing(server, programs, folder / "kube", "{ttl: 7d}", ADDRESSES) as made,
    ):
        yield made


def test_a_machine_joins_by_a_token_and_the_pin_of_the_root(cluster: KubeadmCluster) -> None:
    command, pins = new_token(cluster)
    (pin,) = joined_cluster.root_pins(cluster)
    assert len(pins) == 2 and pin in pins, pins
    said = join(cluster, JOINED, [pin], command)
    assert "This node has joined the cluster" in said
    await_ready(cluster, JOINED)


def test_logs_work_once_the_serving_certificate_is_approved(cluster: KubeadmCluster) -> None:
    kubernetes = cluster.kubernetes
    kubernetes.run_pod("on-joined", node=JOINED, seconds=SECONDS)
    assert logs(cluster, "on-joined") == ""
    found = requests(cluster, SERVING, f"system:node:{JOINED}")
    assert found and not any(each["status"].get("certificate") for each in found)
    names = [each["metadata"]["name"] for each in found]
    kubernetes.kubectl(kubernetes.admin, "certificate", "approve", *names)
    wait_for(
        lambda: logs(cluster, "on-joined") == "hello\n",
        SECONDS,
        lambda: joined_cluster.said_by_signer(cluster),
        pause=1,
    )


@pytest.mark.parametrize(("name", "sentence"), [(JOINED, f"{JOINED} "), ("cp-1", "cp-1 is a node of cluster.yaml")])
def test_another_machine_with_the_token_becomes_no_node_that_is_there(
    cluster: KubeadmCluster, name: str, sentence: str
) -> None:
    """kubeadm itself refuses the name of a node that is ready; a thief starts a kubelet without it."""
    command, _ = new_token(cluster)
    (token,) = re.findall(r"--token (\S+)", command)
    own, good = cluster.nodes[THIEF], cluster.nodes[JOINED]
    own.run("systemctl", "stop", "kubelet")
    own.run("mkdir", "-p", "/etc/kubernetes/pki", KUBELET)
    for path in ("/etc/kubernetes/pki/ca.crt", f"{KUBELET}/config.yaml"):
        own.seen(path).write_bytes(good.seen(path).read_bytes())
    own.seen(f"{KUBELET}/kubeadm-flags.env").write_text(f'KUBELET_KUBEADM_ARGS="--hostname-override={name}"\n')
    conf = yaml.safe_load(good.seen("/etc/kubernetes/kubelet.conf").read_text())
    conf["users"] = [{"name": each["name"], "user": {"token": token}} for each in conf["users"]]
    own.seen("/etc/kubernetes/bootstrap-kubelet.conf").write_text(yaml.safe_dump(conf))
    log = own.machine.processes["kubelet"]
    position = len(log.said())
    own.run("systemctl", "start", "kubelet")
    try:
        wait_for(lambda: "VaultpkiRefused" in log.said()[position:], SECONDS, lambda: f"{log.last_words()}", pause=1)
    finally:
        own.run("systemctl", "stop", "kubelet")
    (line, *_) = [each for each in log.said()[position:].splitlines() if "VaultpkiRefused" in each]
    assert sentence in line, line
    user = f"system:bootstrap:{token.partition('.')[0]}"
    found = requests(cluster, CLIENT_KUBELET, user)
    assert found and not any(each["status"].get("certificate") for each in found)


def test_a_rotation_waits_for_the_joined_node_and_nobody_is_refused(cluster: KubeadmCluster) -> None:
    """It joins anew by a token, as docs/signer.md has it, instead of waiting for nine tenths of its TTL."""
    kubernetes, plane = cluster.kubernetes, cluster.nodes[PLANE]
    kubeadm_planes.configure(plane, "poll: 5m", "poll: 10s")
    plane.resident()
    audit = kubeadm_use.Audit(cluster)
    operator = Operator(kubernetes)
    operator.rotate("kubernetes", spread=10)
    operator.advance("kubernetes", State.SWITCHED)
    operator.issue()
    without = [f"--without={person}" for person in OPERATORS]

    def waits() -> dict[str, str]:
        return operator.waiting("continue", *without)

    wait_for(lambda: [*waits()] == [JOINED], SECONDS, lambda: str(waits()), pause=2)
    assert ready(cluster, JOINED)
    command, _ = new_token(cluster)
    kubeadm_planes.reset(cluster, JOINED)
    kubernetes.kubectl(kubernetes.admin, "delete", "node", JOINED)
    kubernetes.kubectl(kubernetes.admin, "delete", "csr", "--all")
    assert "This node has joined the cluster" in join(cluster, JOINED, joined_cluster.root_pins(cluster), command)
    await_ready(cluster, JOINED)
    operator.rest("kubernetes", *without)
    assert [state for _, state in operator.steps][-3:] == [State.SWITCHED, State.RETIRED, State.DONE]
    assert ready(cluster, JOINED)
    audit.read()
    assert audit.unauthorized == []
    # Else nobody would have been refused who never came.
    assert joined_cluster.sha256(joined_cluster.held(cluster, JOINED, CLIENT_KUBELET)[0]) in audit.uses
