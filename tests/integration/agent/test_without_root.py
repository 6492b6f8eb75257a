"""A user who is not root, on a node: each command says to run as root, and not that a path or a mode is wrong."""

from __future__ import annotations

import os
import sys

import pytest

from helpers.vault.applied_cluster import AppliedCluster, vaultpki

pytestmark = pytest.mark.on_node

NOBODY = "65534"


@pytest.fixture
def nobody() -> tuple[str, ...]:
    """What runs a command as a user who is nobody, and who can read Python wherever it is installed."""
    assert os.geteuid() == 0, "this test runs as root"
    # Python may lie in a home folder that only root may enter.
    python = os.path.realpath(sys.base_prefix)
    show = (
        'd=$(mktemp -d) && mount --bind "$1" $d && '
        'case "$1" in /root/*) mount -t tmpfs -o mode=755 tmpfs /root;; esac; '
        'mkdir -p "$1" && mount --bind $d "$1" && shift && '
        f'exec setpriv --reuid={NOBODY} --regid={NOBODY} --clear-groups "$@"'
    )
    return ("unshare", "--mount", "--propagation=private", "sh", "-c", show, "sh", python)


def test_a_user_who_is_not_root(
    cluster: AppliedCluster, tmp_path_factory: pytest.TempPathFactory, nobody: tuple[str, ...]
) -> None:
    node = cluster.equip("worker-1")
    node.run()
    # pytest's own folder and those of its user are closed to others.
    base = tmp_path_factory.getbasetemp().parent
    for folder in (node.folder, *node.folder.parents):
        if folder.is_relative_to(base if base.name.startswith("pytest-of-") else base.parent):
            folder.chmod(0o755)
    join = node.folder / "join.json"
    join.touch(mode=0o600)
    commands = (["agent", "--once"], ["status"], ["renew", "--force"], ["pull"], ["doctor"], ["agent", "--join", join])
    for mode, words in [(mode, words) for mode in (0o644, 0o600) for words in commands]:
        node.config.chmod(mode)
        ran = vaultpki(*words, "-c", node.config, behind=nobody, expect={1, 3})
        said = ran.stdout + ran.stderr
        assert "as root" in said, ran
        assert not any(wrong in said for wrong in ("check the path", "change its mode", "name the join file")), ran
        assert "Traceback" not in said
