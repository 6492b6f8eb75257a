"""A user who is not root, on a node: each command says to run as root, and not that a path or a mode is wrong."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from helpers.node.passes import passed_well
from helpers.vault.applied_cluster import AppliedCluster, environment

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


# Each command in a fork of one process: Python is not started for each.
FORKS = """\
import json, os, sys
from vaultpki import cli
for words in json.loads(sys.argv[1]):
    sys.stdout.flush()
    if os.fork() == 0:
        os.dup2(1, 2)
        sys.argv = ["vaultpki", *words]
        cli.main()
    print("exit", os.waitstatus_to_exitcode(os.wait()[1]))
"""


def test_a_user_who_is_not_root(
    shared: AppliedCluster, tmp_path_factory: pytest.TempPathFactory, tmp_path: Path, nobody: tuple[str, ...]
) -> None:
    node = shared.equip("worker-1", folder=tmp_path / "worker-1")
    passed_well(node)
    # pytest's own folder and those of its user are closed to others.
    base = tmp_path_factory.getbasetemp().parent
    for folder in (node.folder, *node.folder.parents):
        if folder.is_relative_to(base if base.name.startswith("pytest-of-") else base.parent):
            folder.chmod(0o755)
    join = node.folder / "join.json"
    join.touch(mode=0o600)
    commands = (["agent", "--once"], ["status"], ["renew", "--all"], ["pull"], ["doctor"], ["join", join])
    words = json.dumps([[*map(str, command), "-c", str(node.config)] for command in commands])
    for mode in (0o644, 0o600):
        node.config.chmod(mode)
        ran = subprocess.run(
            [*nobody, sys.executable, "-c", FORKS, words],
            env=environment(),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            check=True,
        )
        *each, _ = re.split(r"(?m)^exit (?=\d+$)", ran.stdout)
        codes = re.findall(r"(?m)^exit (\d+)$", ran.stdout)
        assert len(codes) == len(commands) and set(codes) <= {"1", "3"}, ran
        for said in each:
            assert "as root" in said, ran
            assert not any(wrong in said for wrong in ("check the path", "change its mode", "name the join file")), ran
            assert "Traceback" not in said
