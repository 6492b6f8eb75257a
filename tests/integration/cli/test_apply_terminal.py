"""`apply` and the streams it is given: a terminal that it asks on, none, one that is full, closed or gone."""

from __future__ import annotations

import os
import pty
import re
import select
import subprocess
import sys
from typing import Any

import pytest

from helpers.vault.cluster_factory import ClusterFactory
from helpers.vault.plan_commands import SPEC, AuditedCluster, environment, fails, vaultpki

pytestmark = pytest.mark.on_node


@pytest.fixture
def cluster(clusters: ClusterFactory) -> AuditedCluster:
    return clusters.written(SPEC)


def test_without_a_terminal_apply_wants_yes(cluster: AuditedCluster) -> None:
    start = cluster.server.audit_position()
    ran = vaultpki("apply", "-f", cluster.file, env=cluster.environment(), expect=1)
    fails(ran, "apply would make ", " changes at ", "there is no terminal to ask on; ", ", and pass --yes")
    assert ran.stdout == "" and cluster.server.writes(start) == []
    ran = vaultpki("apply", "--no-such-option", env=cluster.environment(), expect=2)
    assert "No such option" in ran.stderr


def redirected(cluster: AuditedCluster, redirection: str, *arguments: str, expect: int) -> tuple[str, str]:
    """What a command says whose streams a shell has redirected so; fails where it ends with another code."""
    ran = subprocess.run(
        ["sh", "-c", f'exec "$@" {redirection}', "sh", sys.executable, "-m", "vaultpki", *arguments],
        env=environment(cluster.environment()),
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
        timeout=90,
    )
    assert ran.returncode == expect, ran
    return ran.stdout, ran.stderr


def test_work_goes_on_where_output_cannot_be_written(cluster: AuditedCluster) -> None:
    lost = "vaultpki: standard output cannot be written (No space left on device); "
    for command in (
        ["schema"],
        ["plan", "-f", str(cluster.file), "--json"],
        ["apply", "-f", str(cluster.file), "--yes"],
    ):
        said, error = redirected(cluster, ">/dev/full", *command, expect=1)
        assert said == "" and error.startswith(lost) and error.count("\n") == 1, error
    cluster.settled()
    _, error = redirected(
        cluster, ">/dev/full", "destroy", "-f", str(cluster.file), "--confirm", cluster.name, expect=1
    )
    assert error.startswith(lost) and error.count("\n") == 1, error
    assert not [path for path in cluster.read("sys/mounts") if path.startswith(f"{cluster.prefix}/")]
    # Where an error cannot be told, the exit code tells it.
    _, error = redirected(cluster, "2>/dev/full", "plan", "-f", "nowhere.yaml", expect=1)
    assert error == ""


def test_streams_that_are_closed(cluster: AuditedCluster) -> None:
    file = str(cluster.file)
    assert redirected(cluster, ">&-", "plan", "-f", file, "--json", expect=0) == ("", "")
    _, error = redirected(cluster, "<&-", "apply", "-f", file, expect=1)
    assert "there is no terminal to ask on" in error and error.count("\n") == 1, error
    _, error = redirected(cluster, "<&-", "enroll", "-f", file, "-", "-o", "joins", expect=1)
    assert error == "vaultpki: no names came on standard input; give one a line\n"
    redirected(cluster, "2>&-", "plan", "-f", "nowhere.yaml", expect=1)
    redirected(cluster, "<&- >&- 2>&-", "apply", "-f", file, "--yes", expect=0)
    cluster.settled()


def test_a_reader_that_has_gone_is_told_nothing() -> None:
    reader, end = os.pipe()
    os.close(reader)
    with os.fdopen(end, "w") as stream:
        ran = subprocess.run(
            [sys.executable, "-m", "vaultpki", "schema"],
            env=environment(),
            stdout=stream,
            stderr=subprocess.PIPE,
            check=False,
            timeout=30,
        )
    assert (ran.returncode, ran.stderr) == (1, b"")


def at_a_terminal(cluster: AuditedCluster, answer: str, between: Any = None) -> tuple[int, str]:
    """`apply` on a pseudo-terminal; `between` is called when it asks, before `answer` is typed."""
    leader, follower = pty.openpty()
    running = subprocess.Popen(
        [sys.executable, "-m", "vaultpki", "apply", "-f", str(cluster.file)],
        env=environment(cluster.environment()),
        stdin=follower,
        stdout=follower,
        stderr=follower,
        start_new_session=True,
    )
    os.close(follower)
    said = b""
    try:
        while True:
            assert select.select([leader], [], [], 60)[0], said
            try:
                read = os.read(leader, 65536)
            except OSError:  # EIO: the other end was closed
                break
            if not read:
                break
            said += read
            if b"[y/N]:" in said and answer:
                if between is not None:
                    between()
                os.write(leader, f"{answer}\n".encode())
                answer = ""
    finally:
        os.close(leader)
        code = running.wait(60)
    return code, re.sub(r"\x1b\[[0-9;]*m", "", said.decode())


def test_at_a_terminal_apply_shows_and_asks(cluster: AuditedCluster) -> None:
    start = cluster.server.audit_position()
    code, said = at_a_terminal(cluster, "n")
    assert code == 1 and "vaultpki: nothing was changed" in said and "to create, 0 to update, 0 to delete." in said
    assert f"+ cluster {cluster.name} below {cluster.prefix}: 6 mounts, 2 auth mounts, " in said
    assert f'+ CA root: "{cluster.name} root CA", life 10y, key ec-p256' in said
    assert cluster.server.writes(start) == []
    code, said = at_a_terminal(cluster, "y")
    assert code == 0 and "Done: " in said, said
    cluster.settled()


def test_a_server_that_changed_since_the_plan_was_agreed_to_is_not_written(cluster: AuditedCluster) -> None:
    cluster.apply()
    cluster.write(SPEC.replace("w-*", "v-*"))
    since = []

    def meddle() -> None:
        assert cluster.server.api("DELETE", f"{cluster.prefix}/etcd/roles/etcd-peer").status == 204
        since.append(cluster.server.audit_position())

    code, said = at_a_terminal(cluster, "y", meddle)
    assert code == 1 and "the server has changed since the plan was shown" in said, said
    assert cluster.server.writes(since[0]) == []
