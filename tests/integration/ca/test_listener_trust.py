"""Before an old CA is deleted, real TLS listeners are asked whether they still accept certificates of it."""

from __future__ import annotations

import contextlib
import functools
import os
import subprocess
from collections.abc import Iterator, Mapping
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import pytest

from helpers.vault.rotations import Rotation
from helpers.vault.servers import wait_for
from vaultpki.ca import commands
from vaultpki.ca import listeners as listener_look
from vaultpki.ca.run import Step
from vaultpki.certificates import ca_subject
from vaultpki.host import presented
from vaultpki.layout import API_PORT, ETCD_PEER_PORT, ETCD_PORT
from vaultpki.model import Cluster, NodeRole
from vaultpki.records.rotation import CaRef, RotationRecord, State
from vaultpki.rotation.confirmations import Confirmations
from vaultpki.rotation.listener_trust import Listener, Said, listeners

# Listeners are the components' own; the rotation around them is on both servers elsewhere.
pytestmark = pytest.mark.on_node

# Of cp-1 and etcd-2: addresses of this machine at which nobody else listens, other tests neither. A cluster.yaml takes
# no such address.
REST = (State.STEADY, 1, datetime.now(UTC), CaRef("x-1"))
ADDRESSES = tuple(f"127.83.{os.getpid() % 250}.{os.getpid() // 250 % 120 + last}" for last in (1, 121))


@contextlib.contextmanager
def listening(
    address: str, port: int, clients: Path, folder: Path, *options: str, name: str = "listener"
) -> Iterator[None]:
    """A TLS server that accepts client certificates of the CAs in the file `clients`, and names them.

    Its own certificate says that `name` has signed it.
    """
    key, certificate = folder / f"{name}.key", folder / f"{name}.crt"
    if not key.exists():
        made = ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes"]
        made += ["-subj", f"/CN={name}", "-keyout", str(key), "-out", str(certificate)]
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
    return str(rotation.cluster.read(f"{rotation.cluster.prefix}/etcd/issuer/{issuer}")["certificate"])


def here(cluster: Cluster) -> Cluster:
    """The cluster with its nodes at addresses of this machine."""
    nodes = zip(cluster.nodes, ADDRESSES, strict=True)
    return replace(cluster, nodes=tuple(replace(node, addresses=(address,)) for node, address in nodes))


def advance(rotation: Rotation, *restarted: str) -> Step:
    """`ca continue`, which looks at the listeners."""

    said = Confirmations(restarted=restarted, look=look)
    return commands.advance(rotation.cluster.model, rotation.vault, rotation.now, said)


def look(cluster: Cluster, record: RotationRecord) -> Mapping[Listener, Said]:
    return listener_look.probe_listeners(here(cluster), record)


def waits(step: Step) -> dict[str, str]:
    assert not step.moved and step.gate is not None
    return {each.node: each.reason for each in step.gate.waiting}


@pytest.mark.parametrize("version", [pytest.param("-tls1_2", marks=pytest.mark.conformance), "-tls1_3"])
def test_each_step_waits_for_what_listeners_say(rotation: Rotation, tmp_path: Path, version: str) -> None:
    cp, etcd = rotation.nodes
    cluster = rotation.cluster.model
    old, both, new = (tmp_path / f"{name}.crt" for name in ("old", "both", "new"))
    who_accepts_certificates_of_which_ca(here(cluster))
    rotation.begin()
    rotation.moved()
    old.write_text(pem(rotation, "etcd-1"))
    new.write_text(pem(rotation, "etcd-2"))
    both.write_text(f"{old.read_text()}\n{new.read_text()}\n")

    def listens(
        index: int, port: int, clients: Path, name: str = "listener"
    ) -> contextlib.AbstractContextManager[None]:
        return listening(ADDRESSES[index], port, clients, tmp_path, version, name=name)

    # The turn stays at a node whose listener is away.
    for node in rotation.nodes:
        node.passed(rotation.now, restarts=False)
    assert advance(rotation).record.turn == "cp-1"
    cp.passed(rotation.now)
    etcd.passed(rotation.now, restarts=False)
    with listens(1, ETCD_PORT, old):
        step = advance(rotation)
        told = waits(step)
        assert step.gate is not None and (step.record.turn, step.gate.turn) == ("cp-1", "cp-1")
        assert "its etcd does not answer at port 2379, and that of etcd-2 does" in told["cp-1"]
        assert told["etcd-2"] == "restarts etcd after cp-1, whose turn it is"
        with listens(0, ETCD_PORT, old):
            assert advance(rotation).record.turn == "etcd-2"

    # A listener that does not accept the new CA keeps leaves as they are.
    rotation.reported()
    with listens(0, ETCD_PORT, both), listens(1, ETCD_PORT, old):
        told = waits(advance(rotation))
        assert [*told] == ["etcd-2"] and "port 2379 does not accept certificates of the new CA" in told["etcd-2"]
    # Nobody has the turn any more, which the nodes read.
    rotation.reported()
    with listens(0, ETCD_PORT, both), listens(1, ETCD_PORT, both):
        step = advance(rotation)
    assert step.moved and step.note.startswith(
        "Could not connect to 2 of 4 servers to test that they accept the new CA"
    )

    # One that presents a leaf of the old CA keeps that trusted, also where the new pair lies on the disk.
    rotation.reported()
    signers = [ca_subject(cluster.name, "etcd", number) for number in (1, 2)]
    with listens(0, ETCD_PORT, both, signers[1]), listens(1, ETCD_PEER_PORT, both, signers[0]):
        step = advance(rotation)
        assert step.gate is not None and step.gate.opens is None
        assert waits(step) == {
            "etcd-2": "its etcd at port 2380 still presents a certificate of the old CA. Restart it there, and run "
            "`vaultpki ca continue`"
        }
        assert not advance(rotation).moved
    with listens(0, ETCD_PORT, both, signers[1]), listens(1, ETCD_PEER_PORT, both, signers[1]):
        step = advance(rotation)
    assert step.moved and step.record.state is State.RETIRED
    assert step.note.startswith(
        "Could not connect to 2 of 4 servers to test that they present a certificate of the new CA"
    )

    # One that accepts the old CA keeps its key.
    rotation.reported()
    with listens(0, ETCD_PORT, new), listens(1, ETCD_PEER_PORT, both):
        step = advance(rotation)
        told = waits(step)
        assert step.gate is not None and step.gate.opens is None
        assert [*told] == ["etcd-2"] and f"its etcd at port {ETCD_PEER_PORT} still accepts" in told["etcd-2"]
        assert (rotation.record.state, rotation.record.accepting) == (State.RETIRED, ("etcd-2/etcd",))
        assert not advance(rotation).moved
    # It restarts just now, so that nobody can ask it.
    with listens(0, ETCD_PORT, new):
        rotation.reported()
        told = waits(advance(rotation))
        assert [*told] == ["etcd-2"] and told["etcd-2"].startswith("its etcd was seen accepting")
        # `ca status`, which asks no listener, says the same.
        (shown,) = [each for each in rotation.status() if each.domain == "etcd"]
        assert shown.gate is not None and [each.node for each in shown.gate.waiting] == ["etcd-2"]
    with listens(0, ETCD_PORT, new), listens(1, ETCD_PORT, new), listens(1, ETCD_PEER_PORT, new):
        step = advance(rotation)
    assert step.moved and step.record.state is State.DONE and not step.record.accepting
    assert step.note.startswith("Could not connect to 1 of 4 servers to test that they refuse the old CA")


def test_a_person_may_say_that_a_component_was_restarted_that_nobody_can_ask(
    rotation: Rotation, tmp_path: Path
) -> None:
    rotation.reach(State.RETIRED)
    both = tmp_path / "both.crt"
    both.write_text(f"{pem(rotation, 'etcd-1')}\n{pem(rotation, 'etcd-2')}\n")
    with listening(ADDRESSES[1], ETCD_PORT, both, tmp_path):
        rotation.reported()
        assert not advance(rotation).moved
        rotation.reported()
        # What is seen counts more than a word.
        assert not advance(rotation, "etcd-2/etcd").moved
        assert rotation.record.accepting == ("etcd-2/etcd",) and rotation.record.restarted == ()
    rotation.reported()
    assert not advance(rotation).moved
    step = advance(rotation, "etcd-2/etcd")
    # What does not say anything is told, and keeps nothing closed.
    assert step.moved and step.note.startswith("Could not connect to 4 of 4 servers")


def who_accepts_certificates_of_which_ca(cluster: Cluster) -> None:
    planes = {("cp-1", API_PORT)}

    def asked(domain: str) -> set[tuple[str, int]]:
        return {(each.node, each.port) for each in listeners(cluster, RotationRecord(domain, *REST))}

    members = {
        (node.name, port)
        for node in cluster.nodes
        if NodeRole.ETCD in node.roles
        for port in (ETCD_PORT, ETCD_PEER_PORT)
    }
    # kube-apiserver restarts for etcd's CA too, so its answer counts where turns pass on.
    assert asked("etcd") == members | planes
    assert asked("front-proxy") == planes == asked("kubernetes")
    # The kubelet's CA signs no clients.
    assert asked("kubelet") == set()
    assert asked("root") == members | planes
