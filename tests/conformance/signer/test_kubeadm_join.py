"""The real `kubeadm join` with a token, where the signer has the cluster's certificate requests signed by Vault.

One cluster for the whole module, and the tests continue each other: a machine joins by what `kubeadm token create`
prints, another one that has the token tries to be it, and to be the control plane, and a CA is rotated.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from helpers.kube import kubeadm_cluster, kubeadm_planes, kubeadm_use
from helpers.kube.ca_operator import Operator
from helpers.kube.client_load import OPERATORS
from helpers.kube.components import Programs
from helpers.kube.kubeadm_cluster import IGNORED, KubeadmCluster
from helpers.vault import servers
from helpers.vault.servers import wait_for
from vaultpki.records.rotation import State
from vaultpki.signer.requests import CLIENT_KUBELET, SERVING

pytestmark = [pytest.mark.conformance, pytest.mark.timeout(2400)]

SPEC = """\
cluster: joined
layout: kubeadm
vault: {{addresses: ["{address}"], ca_file: vault-ca.crt}}
api_server: {{endpoint: "https://api.example.com:6443", names: [api.example.com]}}
nodes:
- {{name: cp-1, roles: [control-plane, etcd, worker], addresses: [198.51.100.11]}}
signer: {{ttl: 7d}}
pools:
- {{name: joined, roles: [worker], node_names: "w-*", join: token, networks: [198.51.100.0/24]}}
"""
JOINED, THIEF = "w-1", "w-2"
ADDRESSES = {JOINED: "198.51.100.41", THIEF: "198.51.100.42"}
SECONDS = servers.SHARED * 120.0
PATCHES = "/etc/kubernetes/patches"
KUBELET = "/var/lib/kubelet"


@pytest.fixture(scope="module")
def cluster(
    programs: Programs, vault_binary: Path | None, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[KubeadmCluster]:
    """One control plane by docs/kubeadm.md, with a signer by docs/signer.md."""
    folder = tmp_path_factory.mktemp("joined")
    with (
        servers.running("vault" if vault_binary else "bao", folder / "server", vault_binary) as server,
        kubeadm_cluster.machines(
            server, programs, folder / "kube", SPEC.format(address=server.address), comers=ADDRESSES
        ) as made,
    ):
        run = made.run
        run("vaultpki apply --yes")
        made.one_key()
        run("vaultpki enroll cp-1 -o cp-1.json && scp -p cp-1.json root@cp-1:")
        run("vaultpki join cp-1.json --hooks static-pods", "cp-1")
        for person in ("super-admin", "admin"):
            run(f"vaultpki issue {person} --dir operator")
        run("scp -p operator/admin.conf operator/super-admin.conf root@cp-1:/etc/kubernetes/")
        run("vaultpki kubeadm config cp-1 --init -o cp-1")
        kubeadm_cluster.adapt(made.folder / "cp-1", programs.version)
        run("scp -rp cp-1 root@cp-1:/etc/kubernetes/kubeadm")
        run("kubeadm init --config /etc/kubernetes/kubeadm/kubeadm.yaml", "cp-1")
        run("kubectl --kubeconfig operator/super-admin.conf apply -f operator/manifests")
        run("vaultpki enroll --signer cp-1 -o signer-join.json && scp -p signer-join.json root@cp-1:")
        # A tmpfs here, in which anybody may write.
        run("chmod 755 /var/lib", "cp-1")
        # Another user could not read the tester's Python.
        run("vaultpki join signer-join.json --user root", "cp-1")
        plane = made.nodes["cp-1"]
        plane.machine.start("signer", plane.tools / "vaultpki", "signer", "-c", "/var/lib/vaultpki-signer/signer.yaml")
        yield made


def said_by_signer(cluster: KubeadmCluster) -> str:
    return cluster.nodes["cp-1"].machine.processes["signer"].last_words(30)


def requests(cluster: KubeadmCluster, signer: str, name: str) -> list[dict[str, Any]]:
    """The requests of a signer name that were made by this user."""
    found = cluster.kubernetes.get("csr")["items"]
    return [each for each in found if each["spec"]["signerName"] == signer and each["spec"]["username"] == name]


def logs(cluster: KubeadmCluster, pod: str) -> str:
    kubernetes = cluster.kubernetes
    return kubernetes.kubectl(kubernetes.admin, "logs", pod, expect=None).stdout


def ready(cluster: KubeadmCluster, name: str) -> bool:
    kubernetes, path = cluster.kubernetes, "jsonpath={.status.conditions[?(@.type=='Ready')].status}"
    return kubernetes.kubectl(kubernetes.admin, "get", "node", name, "-o", path, expect=None).stdout == "True"


def new_token(cluster: KubeadmCluster) -> tuple[str, list[str]]:
    """What a person is told to run on a machine: the command without its pins, and the pins of the CAs."""
    printed = cluster.run("kubeadm token create --ttl 1h --print-join-command", "cp-1").splitlines()[-1]
    pins = re.findall(r"--discovery-token-ca-cert-hash (\S+)", printed)
    return re.sub(r" --discovery-token-ca-cert-hash \S+", "", printed).strip(), pins


def join(cluster: KubeadmCluster, name: str, pins: list[str], command: str) -> str:
    """`kubeadm join` as it was printed, with what the machines of tests lack: a host name and settings."""
    node = cluster.nodes[name]
    node.run("mkdir", "-p", PATCHES)
    kubeadm_cluster.patch_kubelet(node.seen(PATCHES), name)
    hashes = " ".join(f"--discovery-token-ca-cert-hash {pin}" for pin in pins)
    own = f"--node-name {name} --patches {PATCHES} --ignore-preflight-errors={IGNORED}"
    return cluster.run(f"{command} {hashes} {own}", name)


def root_pin(cluster: KubeadmCluster) -> str:
    """The pin of the root alone, which no rotation of an issuing CA changes."""
    chain = cluster.nodes["cp-1"].seen("/etc/kubernetes/pki/ca-chain.crt").read_bytes()
    (root,) = [each for each in x509.load_pem_x509_certificates(chain) if each.issuer == each.subject]
    key = root.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    return f"sha256:{hashlib.sha256(key).hexdigest()}"


def test_a_machine_joins_by_a_token_and_the_pin_of_the_root(cluster: KubeadmCluster) -> None:
    command, pins = new_token(cluster)
    pin = root_pin(cluster)
    assert len(pins) == 2 and pin in pins, pins
    said = join(cluster, JOINED, [pin], command)
    assert "This node has joined the cluster" in said
    wait_for(lambda: ready(cluster, JOINED), SECONDS, lambda: said_by_signer(cluster), pause=1)


def test_logs_work_once_the_serving_certificate_is_approved(cluster: KubeadmCluster) -> None:
    kubernetes = cluster.kubernetes
    kubernetes.run_pod("on-joined", node=JOINED, seconds=SECONDS)
    assert logs(cluster, "on-joined") == ""
    found = requests(cluster, SERVING, f"system:node:{JOINED}")
    assert found and not any(each["status"].get("certificate") for each in found)
    names = [each["metadata"]["name"] for each in found]
    kubernetes.kubectl(kubernetes.admin, "certificate", "approve", *names)
    wait_for(lambda: logs(cluster, "on-joined") == "hello\n", SECONDS, lambda: said_by_signer(cluster), pause=1)


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
    kubernetes, plane = cluster.kubernetes, cluster.nodes["cp-1"]
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
    assert "This node has joined the cluster" in join(cluster, JOINED, [root_pin(cluster)], command)
    wait_for(lambda: ready(cluster, JOINED), SECONDS, lambda: said_by_signer(cluster), pause=1)
    operator.rest("kubernetes", *without)
    assert [state for _, state in operator.steps][-3:] == [State.SWITCHED, State.RETIRED, State.DONE]
    assert ready(cluster, JOINED)
    audit.read()
    assert audit.unauthorized == []
