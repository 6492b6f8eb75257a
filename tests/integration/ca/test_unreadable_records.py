"""Records that nobody can read stop no emergency, and `apply` writes anew what only informs."""

from __future__ import annotations

import pytest

from helpers.vault.applied_cluster import vaultpki
from helpers.vault.rotations import Rotation
from vaultpki.identity import change_notice

NEWER = {"version": 2}


def test_an_emergency_leaves_them_aside_and_says_so(rotation: Rotation) -> None:
    """Whoever may write one of them could else keep a stolen CA in force."""
    cluster = rotation.cluster
    store = f"{cluster.prefix}/config/data"
    for name, data in (("changes", NEWER), ("rotation/adoption", {"version": 1, "state": "nowhere"})):
        assert cluster.server.api("POST", f"{store}/{name}", {"data": data}).status == 200
    words = ("ca", "rotate", "etcd", "--emergency", "--yes", "-f", cluster.file)
    ran = vaultpki(*words, env=cluster.environment())
    assert "the record of an adoption was left aside, since it cannot be read" in ran.stderr
    assert rotation.record.active


@pytest.mark.on_node
def test_apply_writes_the_record_that_agents_poll_anew(rotation: Rotation) -> None:
    cluster = rotation.cluster
    path = f"{cluster.prefix}/config/data/changes"
    assert cluster.server.api("POST", path, {"data": NEWER}).status == 200
    vaultpki("plan", "-f", cluster.file, env=cluster.environment())
    vaultpki("revoke", "etcd-2", "-f", cluster.file, "--yes", env=cluster.environment(), expect={0, 3})
    cluster.apply()
    now = change_notice.read(cluster.model, rotation.vault)
    assert not now.changing and now.changes is not None and now.changes.digests
    assert cluster.read(path)["data"]["version"] == 1
