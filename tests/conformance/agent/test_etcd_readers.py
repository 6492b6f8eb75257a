"""etcd reads its trusted CAs only when it starts, as the table of readers says (vaultpki/readers.py)."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from helpers.kube.etcd_member import lets_in, member
from helpers.vault.cluster_factory import ClusterFactory
from helpers.vault.servers import wait_for

pytestmark = [pytest.mark.conformance, pytest.mark.on_node]

SPEC = "nodes: [{name: cp-1, roles: [control-plane, etcd], addresses: [10.0.0.11]}]\n"


def test_it_accepts_clients_of_the_cas_that_it_started_with(
    clusters: ClusterFactory, tmp_path: Path, etcd_binaries: Path
) -> None:
    node = clusters.applied(SPEC).equip("cp-1")
    node.run()
    trusted = tmp_path / "trusted.crt"
    stems = {"etcd-ca.crt": "kube-apiserver-etcd", "front-proxy-ca.crt": "front-proxy-client"}

    def whom(port: int) -> set[str]:
        return {bundle for bundle, stem in stems.items() if lets_in(etcd_binaries, port, node, stem)}

    before, after = stems
    shutil.copy(node.pki / before, trusted)
    with member(etcd_binaries, node, tmp_path / "data", trusted=trusted) as port:
        wait_for(lambda: whom(port) == {before}, 30, lambda: "etcd lets nobody in")
        # By rename, as the agent installs every file.
        shutil.copy(node.pki / after, tmp_path / "new")
        (tmp_path / "new").rename(trusted)
        assert whom(port) == {before}
    with member(etcd_binaries, node, tmp_path / "data", trusted=trusted) as port:
        wait_for(lambda: whom(port) == {after}, 30, lambda: "etcd lets nobody in")
