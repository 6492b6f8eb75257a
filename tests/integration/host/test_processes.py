"""The processes of a node are seen with the rights of the unit too, which may trace nobody, and are told apart."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest

from helpers.vault.servers import tied

# The unit's own rights (templates/sandbox.conf).
UNIT = ["setpriv", "--no-new-privs", "--inh-caps", "-all", "--bounding-set", "-all,+chown,+dac_override,+fowner"]
LOOK = """\
import sys
from vaultpki.host import processes
print(*(each.pid for each in processes.find("etcd", sys.argv[1:])))
"""
# Says that it runs, and waits for its end.
RUN = "import sys; print(flush=True); sys.stdin.read()"


def seen(file: Path, rights: Sequence[str] = ()) -> list[int]:
    command = [*rights, sys.executable, "-c", LOOK, str(file)]
    ran = subprocess.run(command, capture_output=True, text=True, check=True, timeout=60)
    return [int(pid) for pid in ran.stdout.split()]


@pytest.mark.parametrize("flag", ["--trusted-ca-file={}", "--config-file=/etc/etcd.yaml"], ids=["named", "not named"])
def test_the_unit_sees_what_runs_on_its_node_and_nothing_of_a_container(flag: str, tmp_path: Path) -> None:
    bundle = tmp_path / "etcd-ca.crt"
    bundle.touch()
    # A container's files are not ours: here it sees an empty folder instead.
    inside = f"mount -t tmpfs tmpfs {tmp_path}; exec -a etcd {sys.executable} -I -S -c '{RUN}' {flag.format(bundle)}"
    here = f"exec -a etcd {sys.executable} -I -S -c '{RUN}' {flag.format(bundle)}"
    own = ["--user", "--map-root-user"] if os.geteuid() else []
    commands = (
        tied("/bin/bash", "-c", here),
        tied("/usr/bin/unshare", *own, "--net", "--mount", "--propagation", "private", "/bin/bash", "-c", inside),
    )
    running = [subprocess.Popen(each, stdin=subprocess.PIPE, stdout=subprocess.PIPE) for each in commands]
    try:
        for each in running:
            assert each.stdout is not None and each.stdout.readline() == b"\n"
        # Another user than root has no such rights to give up.
        assert seen(bundle) == seen(bundle, () if os.geteuid() else UNIT) == [running[0].pid]
    finally:
        for each in running:
            each.communicate()
    assert seen(bundle) == []
