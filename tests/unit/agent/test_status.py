"""What `status` reads of a folder, and that it asks nobody where nobody wants that."""

from __future__ import annotations

import socket
from datetime import UTC, datetime
from pathlib import Path

import pytest

from helpers.example_agent import agent_config
from helpers.kube.kubeadm_objects import authority, leaf
from vaultpki.agent import node_folders, status
from vaultpki.agent.node_folders import NodeFolder
from vaultpki.certificates import file_set, pair_files
from vaultpki.config.agent import dump_agent
from vaultpki.disk.folders import Folders
from vaultpki.disk.generations import File
from vaultpki.places import PKI

NOW = datetime.now(UTC)


def test_folders_of_nodes_are_read_without_asking_their_servers(tmp_path: Path) -> None:
    """Whoever looks at copies is elsewhere, and must not connect to a server of another network."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        server.settimeout(0.2)
        config = agent_config(
            directory=str(tmp_path / "pki"),
            state=str(tmp_path / "state"),
            addresses=(f"https://127.0.0.1:{server.getsockname()[1]}",),
        )
        (tmp_path / "agent.yaml").write_text(dump_agent(config))
        found = node_folders.read(NodeFolder(tmp_path), NOW, ())
        with pytest.raises(TimeoutError):
            server.accept()
    assert (found.node, found.reachable, found.error) == ("cp-1", None, None)
    assert "nothing was ever issued here" in found.faults["agent"]


def test_each_pair_in_a_folder_is_judged_under_its_name_in_the_table(tmp_path: Path) -> None:
    pki = str(tmp_path / "pki")
    made = leaf("system:node:w-1", authority("prod kubelet CA", "ECDSA-P256", number=2), kind="ECDSA-P256", days=9)
    contents = (made.pem, made.key_pem, made.pem + made.key_pem)
    pair = {name: File(data.encode(), 0o600) for name, data in zip(pair_files("kubelet"), contents, strict=True)}
    with Folders.open({PKI: pki}) as folders:
        folders.install(PKI, file_set("kubelet"), pair)
    (one,) = status.of_folder(pki, NOW).seen
    assert (one.name, one.path) == ("kubelet", f"{pki}/kubelet.crt")


def test_a_folder_that_is_missing_is_told_from_one_that_nobody_may_read(tmp_path: Path) -> None:
    """The one is to be filled by the agent, the other is to be read as root."""
    assert status._is_missing(str(tmp_path / "gone"))
    assert not status._is_missing(str(tmp_path))
