"""Before an old CA is deleted, real TLS listeners are asked whether they still accept certificates of it."""

from __future__ import annotations

import contextlib
import functools
import os
import subprocess
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from helpers.vault.rotations import Rotation, rotation_of
from helpers.vault.servers import Server, wait_for
from vaultpki.host import presented
from vaultpki.layout import ETCD_PEER_PORT, ETCD_PORT
from vaultpki.model import Cluster, NodeRole
from vaultpki.provision import ca_commands, old_trust
from vaultpki.provision.old_trust import OldTrust
from vaultpki.provision.rotation_run import Step
from vaultpki.spec.rotation_record import RotationRecord, State

# Of cp-1 and etcd-2: addresses of this machine at which nobody else listens, other tests neither. A cluster.yaml takes
# no such address.
ADDRESSES = tuple(f"127.83.{os.getpid() % 250}.{os.getpid() // 250 % 120 + last}" for last in (1, 121))


@contextlib.contextmanager
def listening(address: str, port: int, clients: Path, folder: Path, *options: str) -> Iterator[None]:
    """A TLS server that accepts client certificates of the CAs in the file `clients`, and names them."""
    key, certificate = folder / "listener.key", folder / "listener.crt"
    if not key.exists():
        made = ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes"]
        made += ["-subj", "/CN=listener", "-keyout", str(key), "-out", str(certificate)]
        subprocess.run(made, check=True, capture_output=True)
    command = ["openssl", "s_server", "-accept", f"{address}:{port}", "-cert", str(certificate), "-key", str(key)]
    command += ["-CAfile", str(clients), "-Verify", "1", "-quiet", *options]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
        try:
            wait_for(functools.partial(_listens, address, port), 20, lambda: f"nothing listens at {address}:{port}")
            yield
        finally:
            process.kill()


def _listens(address: str, port: int) -> bool:
    with contextlib.suppress(presented.NotReached):
        return bool(presented.ask(address, port, "", 10).client_cas)
    return False


def pem(rotation: Rotation, issuer: str) -> str:
    return str(rotation.site.read(f"{rotation.site.prefix}/etcd/issuer/{issuer}")["certificate"])


def here(cluster: Cluster) -> Cluster:
    """The cluster with its nodes at addresses of this machine."""
    nodes = zip(cluster.nodes, ADDRESSES, strict=True)
    return replace(cluster, nodes=tuple(replace(node, addresses=(address,)) for node, address in nodes))


def advance(rotation: Rotation) -> Step:
    """`ca continue`, which looks at the listeners."""

    def look(cluster: Cluster, record: RotationRecord) -> OldTrust:
        return old_trust.look(here(cluster), record)

    return ca_commands.advance(rotation.site.cluster, rotation.vault, rotation.now, look=look)


@pytest.fixture
def rotation(server: Server, tmp_path: Path, cluster_name: str) -> Rotation:
    return rotation_of(server, tmp_path / "site", cluster_name)


@pytest.mark.parametrize("version", [pytest.param("-tls1_2", marks=pytest.mark.conformance), "-tls1_3"])
def test_a_listener_that_accepts_the_old_ca_keeps_the_gate_closed(
    rotation: Rotation, tmp_path: Path, version: str
) -> None:
    rotation.reach(State.PUBLISHED)
    both, new = tmp_path / "both.crt", tmp_path / "new.crt"
    both.write_text(f"{pem(rotation, 'etcd-1')}\n{pem(rotation, 'etcd-2')}\n")
    new.write_text(pem(rotation, "etcd-2"))
    with (
        listening(ADDRESSES[0], ETCD_PORT, new, tmp_path, version),
        listening(ADDRESSES[1], ETCD_PEER_PORT, both, tmp_path, version),
    ):
        # What every listener accepts is right until the old CA has left.
        rotation.reach_on(State.RETIRED)
        rotation.reported()
        step = advance(rotation)
        assert not step.moved and step.gate is not None and step.gate.opens is None
        (waiting,) = step.gate.waiting
        assert waiting.node == "etcd-2" and f"its etcd at port {ETCD_PEER_PORT} still accepts" in waiting.reason
        assert rotation.record.state is State.RETIRED
    with (
        listening(ADDRESSES[0], ETCD_PORT, new, tmp_path, version),
        listening(ADDRESSES[1], ETCD_PEER_PORT, new, tmp_path, version),
    ):
        step = advance(rotation)
    assert step.moved and step.record.state is State.DONE
    assert step.note.startswith("2 of 4 listeners that must refuse the old CA could not be asked")


def test_what_does_not_say_is_told_and_keeps_nothing_closed(rotation: Rotation) -> None:
    rotation.reach(State.RETIRED)
    rotation.reported()
    step = advance(rotation)
    assert step.moved and step.note.startswith("4 of 4 listeners")


def test_who_accepts_certificates_of_which_ca(rotation: Rotation) -> None:
    cluster = here(rotation.site.cluster)
    assert {(each.node, each.port) for each in old_trust.listeners(cluster, "etcd")} == {
        (node.name, port)
        for node in cluster.nodes
        if NodeRole.ETCD in node.roles
        for port in (ETCD_PORT, ETCD_PEER_PORT)
    }
    for domain in ("kubernetes", "front-proxy"):
        assert [(each.component, each.address) for each in old_trust.listeners(cluster, domain)] == [
            ("kube-apiserver", ADDRESSES[0])
        ]
    # The kubelet's CA signs no clients.
    assert old_trust.listeners(cluster, "kubelet") == ()
