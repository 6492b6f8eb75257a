"""Files of nodes that were copied: they are judged by the agent.yaml that was collected with them."""

from __future__ import annotations

from pathlib import Path

import pytest

from vaultpki.agent import node_folders
from vaultpki.agent.node_folders import NodeFolder
from vaultpki.layout import DIRECTORY
from vaultpki.places import AGENT_FILE


@pytest.fixture
def pki(tmp_path: Path) -> Path:
    """The certificates in a copy of a node's file system, whose agent.yaml is wrong."""
    copied = Path(f"{tmp_path}/cp-1{DIRECTORY}")
    copied.mkdir(parents=True)
    file = Path(f"{tmp_path}/cp-1{AGENT_FILE}")
    file.parent.mkdir(parents=True)
    file.write_text("{}\n")
    return copied


def test_collected_certificates_belong_to_the_agent_yaml_collected_with_them(pki: Path, tmp_path: Path) -> None:
    """Else a wrong agent.yaml of the node would not be reported, and its layout and modes would not count."""
    copy = NodeFolder(tmp_path / "cp-1", file=AGENT_FILE.lstrip("/"))
    assert node_folders.collected_with(pki) == copy
    # Another folder of the same copy holds no node's certificates.
    (pki / "etcd").mkdir()
    assert node_folders.collected_with(pki / "etcd") is None
    assert node_folders.collected_with(tmp_path) is None
