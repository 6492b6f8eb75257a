"""What `verify` tries with each server by itself: as whom it passes, and for whom it does not."""

from __future__ import annotations

from pathlib import Path

from helpers.node import handmade_files
from vaultpki.certificates import ISSUING_CAS, bundle


def test_a_server_passes_for_its_own_names_and_by_its_own_ca_alone(tmp_path: Path) -> None:
    files = handmade_files.made(tmp_path)
    # What else lies there is nobody's, and hides no node.
    (files.folder / "nodes/.git").mkdir()
    (files.folder / "nodes/README").write_text("of this folder\n")
    for number in range(9):
        (files.folder / f"nodes/.hidden-{number}").mkdir()
    checks = files.verify()
    servers = {check.target for check in checks if check.name.startswith("a client to ")}
    assert {"cp-1/kube-apiserver", "cp-1/etcd-server", "worker-1/kubelet"} <= servers
    for server in servers:
        tried = [check for check in checks if check.target == server and check.name.startswith("a client to ")]
        accepted = {check.source for check in tried if check.expect == "accept"}
        refused = {check.source for check in tried if check.expect == "refuse"}
        assert len(accepted) == 1 and accepted < refused
        assert refused == {f"a client of {bundle(ca)}" for ca in ISSUING_CAS}
