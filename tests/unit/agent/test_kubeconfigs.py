"""Kubeconfigs beside those of other programs: what is written, and what is left alone."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from helpers.example_agent import agent_config
from helpers.sample_certificates import LEAF, SIGNED
from vaultpki.agent import kubeconfigs
from vaultpki.agent.context import Context, PassOptions
from vaultpki.agent.pairs import PairStatus
from vaultpki.disk.folders import Folders
from vaultpki.model import Certificate, KeyType, Subject, Usage
from vaultpki.node.state import StateFile
from vaultpki.pki.renewal import Assessment
from vaultpki.places import KUBECONFIGS, KUBELET, PKI, KubeconfigFile, Layout, inner_folders

WANT = Certificate(
    "kube-scheduler",
    Usage.CLIENT,
    Subject("system:kube-scheduler"),
    "kubernetes",
    "m/kubernetes",
    "kube-scheduler",
    86400,
    KeyType.EC_P256,
    "kube-scheduler",
    kubeconfig="scheduler.conf",
    kubeconfig_file=KubeconfigFile.FIXED,
)
PAIR = PairStatus(WANT, {}, Assessment((), SIGNED), LEAF)
URL = "https://10.0.0.11:6443"


@pytest.fixture
def context(tmp_path: Path) -> Iterator[Context]:
    folders = {KUBELET: str(tmp_path / "kubelet"), KUBECONFIGS: str(tmp_path / "kubernetes")}
    pki = str(tmp_path / "kubernetes/pki")
    config = agent_config(directory=pki, state=str(tmp_path / "state"), layout=Layout.KUBEADM, folders=folders)
    for path in folders.values():
        Path(path).mkdir()
    with Folders.open({PKI: pki, **inner_folders(pki), **folders}) as opened:
        yield Context(config, PassOptions(()), opened, SIGNED.timestamp(), StateFile(config.state), None)


def test_a_kubeconfig_that_is_missing_is_written_and_told_once(context: Context) -> None:
    for _ in range(2):
        kubeconfigs.install(context, URL, [PAIR])
    assert URL in Path(context.config.paths[KUBECONFIGS], "scheduler.conf").read_text()
    assert [event.text for event in context.found.events] == ["wrote scheduler.conf"] and not context.found.failures


@pytest.mark.parametrize("taken", ["a folder", "a link", "too large"])
def test_what_cannot_be_read_in_its_place_is_left_to_a_person(context: Context, taken: str) -> None:
    """It may be somebody's own; and the sentence says what to do."""
    path = Path(context.config.paths[KUBECONFIGS], "scheduler.conf")
    if taken == "a folder":
        path.mkdir()
    elif taken == "a link":
        path.symlink_to("elsewhere.conf")
    else:
        path.write_bytes(b"x" * 2**23)
    before = path.lstat()
    kubeconfigs.install(context, URL, [PAIR])
    assert (path.lstat().st_ino, path.lstat().st_size) == (before.st_ino, before.st_size)
    assert "move it away and run again" in str(context.found.failures["scheduler.conf"])
