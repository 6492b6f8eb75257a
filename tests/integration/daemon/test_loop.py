"""The resident agent as a process: signals, its output, its folders, and agent.yaml read again."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

from helpers.faults.drawn import Drawn
from helpers.node import resident_agent
from helpers.node.passes import passed_well
from helpers.node.resident_agent import (
    AT_ONCE,
    POLL,
    WORKER,
    figure,
    get,
    leaf,
    leaves,
    polling_node,
    resident,
    short_and_long,
    signs,
)
from helpers.vault.applied_cluster import AppliedCluster, NodeFolder, environment
from helpers.vault.cluster_factory import ClusterFactory
from helpers.vault.servers import Server, free_ports, wait_for
from vaultpki.certificates import pair_files

pytestmark = pytest.mark.on_node


@pytest.fixture(scope="module")
def cluster(shared_clusters: ClusterFactory) -> AppliedCluster:
    return shared_clusters.applied(resident_agent.SPEC)


@pytest.fixture
def node(cluster: AppliedCluster, tmp_path: Path) -> NodeFolder:
    return polling_node(cluster, folder=tmp_path / "worker-1")


@pytest.mark.parametrize(
    "trials", [pytest.param(4, id="sample"), pytest.param(24, id="each", marks=pytest.mark.exhaustive)]
)
def test_a_signal_ends_it_at_once(trials: int, clusters: ClusterFactory, drawn: Drawn) -> None:
    """While it signs, installs, waits for watchers or sleeps: early signals meet the signing, late ones the rest."""
    node = polling_node(clusters.applied(short_and_long("30s")))
    for trial in range(trials):
        instant = (drawn.below(400) if trial % 2 == 0 else 400 + drawn.below(3600)) / 1000
        damaged = trial // 2 % 2 == 1
        if damaged:
            # Signed anew, and the damaged ones wait for their watchers.
            for name in WORKER:
                (node.pki / f"{name}.crt").write_text("damaged")
        else:
            shutil.rmtree(node.pki, ignore_errors=True)
        with resident(node) as agent:
            agent.await_said("has started", 20, trial + 1)
            time.sleep(instant)
            took = agent.end(signal.SIGINT if trial % 4 == 1 else signal.SIGTERM)
            assert took < AT_ONCE, (instant, took)
        if damaged:
            continue
        for name in WORKER:
            found = [name_ for name_ in pair_files(name) if (node.pki / name_).exists()]
            assert len(found) in (0, 3), found
            if found:
                leaf(node, name)
        passed_well(node)
        passed_well(node)
        leaves(node)
        hidden = {path.name.partition(".")[0] for path in (node.pki / ".vaultpki").iterdir()}
        assert hidden == {"lock", "owner", "bundles", *WORKER}
        assert len(list((node.pki / ".vaultpki").iterdir())) == 2 + 2 * 4


def test_it_ends_at_once_as_the_first_process_of_a_container(cluster: AppliedCluster, tmp_path: Path) -> None:
    """The kernel gives the first process of a container no default action for a signal."""
    hook = f"hooks: {{kubelet: [[sh, -c, 'echo $$ > {tmp_path}/pid; sleep 1000']]}}\n"
    node = polling_node(cluster, further=hook, folder=tmp_path / "worker-1")
    with resident(node, "unshare", "--pid", "--fork", "--kill-child", "--mount-proc") as agent:
        agent.await_issued()
        wait_for((tmp_path / "pid").exists, 10, agent.log.read_text)
        children = Path(f"/proc/{agent.process.pid}/task/{agent.process.pid}/children")
        (first,) = children.read_text().split()
        os.kill(int(first), signal.SIGTERM)
        began = time.monotonic()
        assert agent.process.wait(10) == 0
        assert time.monotonic() - began < AT_ONCE


@contextmanager
def silent_names(folder: Path) -> Iterator[tuple[tuple[str, ...], socket.socket]]:
    """What to run a command behind so that every look-up of a name waits, and the name server that never answers."""
    file = folder / "resolv.conf"
    file.write_text("nameserver 127.0.0.153\noptions timeout:30\n")
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as listener:
        listener.bind(("127.0.0.153", 53))
        script = 'mount --bind "$1" /etc/resolv.conf && shift && exec "$@"'
        listener.settimeout(20)
        yield ("unshare", "--mount", "--propagation=private", "sh", "-c", script, "sh", str(file)), listener


def test_a_signal_ends_it_while_a_name_is_looked_up(server: Server, node: NodeFolder, tmp_path: Path) -> None:
    """No thread can be woken from a look-up."""
    node.configure(server.address, "https://vault.example:8200")
    with silent_names(tmp_path) as (behind, listener), resident(node, *behind) as agent:
        agent.await_said("has started", 20)
        assert listener.recv(512)
        assert agent.end() < AT_ONCE
    assert not (node.pki / "kubelet.crt").exists()


def test_it_renews_while_nobody_reads_its_output(node: NodeFolder) -> None:
    """Its output goes to a pipe that is full, and a signal still ends it."""
    reading, writing = os.pipe()
    try:
        os.set_blocking(writing, False)
        with suppress(BlockingIOError):
            while True:
                os.write(writing, b"." * 65536)
        os.set_blocking(writing, True)
        process = subprocess.Popen(
            resident_agent.command(node), env=environment(), stdin=subprocess.DEVNULL, stdout=writing, stderr=writing
        )
        try:
            wait_for((node.pki / "kubelet.pem").exists, 20, lambda: "nothing was issued")
            first = leaf(node, "kubelet")
            wait_for(lambda: leaf(node, "kubelet") != first, 30, lambda: "nothing was renewed")
            process.send_signal(signal.SIGTERM)
            began = time.monotonic()
            assert process.wait(10) == 0
            assert time.monotonic() - began < AT_ONCE
        finally:
            process.kill()
            process.wait()
    finally:
        os.close(reading)
        os.close(writing)


def test_sighup_reads_agent_yaml_again(node: NodeFolder) -> None:
    """A file that is wrong is reported, and the agent continues with what it read before."""
    one, other = free_ports(2)
    good = node.config.read_text()

    def reread(text: str, said: str) -> None:
        before = len(agent.said(said))
        node.config.write_text(text)
        agent.process.send_signal(signal.SIGHUP)
        agent.await_said(said, 5, before + 1)

    with resident(node) as agent:
        agent.await_issued()
        reread(good.replace(f"poll: {POLL}s", "poll: soon"), "what was read before goes on")
        (told,) = agent.said("what was read before goes on")
        assert "poll" in told["message"] and "Traceback" not in told["message"], told
        reread(f"{good}metrics: 127.0.0.1:{one}\n", "was read again")
        wait_for(lambda: get(one, "healthz") == (200, "ok\n"), 10, lambda: str(get(one, "healthz")))
        for name in WORKER:
            assert figure(one, "certificate_not_after_timestamp_seconds", name=name), get(one, "metrics")[1]
        reread(f"{good}metrics: 127.0.0.1:{other}\n", "was read again")
        wait_for(lambda: get(other, "livez")[0] == 200, 10, lambda: "the new port is silent")
        with pytest.raises(ConnectionRefusedError):
            socket.create_connection(("127.0.0.1", one), 1).close()
        reread(good, "was read again")
        wait_for(lambda: get(other, "livez")[0] == 0, 10, lambda: "the port is still open")
        # A restart with nothing to do shows every certificate all the same.
        assert agent.end() < AT_ONCE
    reread_text = f"{good}metrics: 127.0.0.1:{one}\n"
    node.config.write_text(reread_text)
    with resident(node) as agent:
        agent.await_said("has started", 20, 2)
        name = "vaultpki_certificate_not_after_timestamp_seconds"
        wait_for(lambda: get(one, "metrics")[1].count(name + "{") == 3, 10, lambda: get(one, "metrics")[1])


@pytest.mark.parametrize("folder", ["pki", "state"])
def test_nothing_is_signed_while_a_folder_is_read_only(
    folder: str, server: Server, cluster: AppliedCluster, node: NodeFolder
) -> None:
    """It renews once the folder can be written again."""
    passed_well(node)
    script = 'mount --bind "$1" "$1" && mount -o remount,bind,ro "$1" && shift && exec "$@"'
    read_only = ("unshare", "--mount", "--propagation=private", "sh", "-c", script, "sh", str(node.folder / folder))
    since = server.audit_position()
    with resident(node, *read_only) as agent:
        agent.await_said("read-only", 30)
        time.sleep(8)
        assert agent.process.poll() is None
        assert agent.end() < AT_ONCE
    assert signs(server, cluster.prefix, since) == []
    assert len(agent.said("read-only")) <= 2, agent.log.read_text()
    leaves(node)
    with resident(node) as agent:
        agent.await_said("renewed kubelet", 20)
