"""`apply` and the streams it is given: a terminal that it asks on and draws on, one that is full, closed or gone."""

from __future__ import annotations

import json
import os
import pty
import subprocess
import sys
from pathlib import Path

import pytest

from helpers.terminals import OnTerminal, on_terminal
from helpers.vault.cluster_factory import ClusterFactory
from helpers.vault.forked_command import Fork
from helpers.vault.plan_commands import SPEC, AuditedCluster, environment, vaultpki

pytestmark = pytest.mark.on_node


@pytest.fixture
def cluster(clusters: ClusterFactory) -> AuditedCluster:
    return clusters.written(SPEC)


def test_apply_asks_shows_a_bar_and_changes_what_was_agreed_to(cluster: AuditedCluster) -> None:
    words, env, server = ("apply", "-f", cluster.file), cluster.environment(), cluster.server
    start = server.audit_position()
    with on_terminal(*words, env=env, columns=100) as shown:
        shown.until("[y/N]:")
        shown.typed("n")
        assert shown.ended() == 1 and "vaultpki: nothing was changed" in shown.shown
    assert not has_bar(shown, "Applying") and server.writes(start) == []
    said = "\n".join(shown.lines)
    assert "to create, 0 to update, 0 to delete." in said
    assert f"+ cluster {cluster.name} below {cluster.prefix}: 6 mounts, 2 auth mounts, " in said
    assert f'+ CA root: "{cluster.name} root CA", life 10y, key ec-p256' in said

    with on_terminal(*words, env=env, columns=100) as shown:
        shown.until("[y/N]:")
        assert "Applying" not in shown.shown
        shown.typed("y")
        assert shown.ended() == 0
    assert has_bar(shown, "Applying") and "Done: " in shown.shown
    cluster.settled()

    # Work that does not begin has no bar.
    weak = server.api("POST", "auth/token/create", {"policies": ["default"], "ttl": "5m"}).body["auth"]
    with on_terminal(*words, "--yes", env={**env, "VAULT_TOKEN": weak["client_token"]}) as shown:
        assert shown.ended() == 1
    assert "Applying" not in shown.shown and [line[:10] for line in shown.lines if line] == ["vaultpki: "]
    with on_terminal(*words, "--yes", env=env, columns=200) as shown:
        assert shown.ended() == 0
    assert "Applying" not in shown.shown and "Done: 0 changes" in shown.shown

    # A server that changed since the plan was agreed to is not written.
    cluster.write(SPEC.replace("w-*", "v-*"))
    with on_terminal(*words, env=env) as shown:
        shown.until("[y/N]:")
        assert server.api("DELETE", f"{cluster.prefix}/etcd/roles/etcd-peer").status == 204
        start = server.audit_position()
        shown.typed("y")
        assert shown.ended() == 1
    assert "the server has changed since the plan was shown" in " ".join(shown.shown.split())
    assert server.writes(start) == []


def has_bar(shown: OnTerminal, label: str) -> bool:
    return label in shown.shown and "100%" in shown.shown


def lines_of(text: list[str], sign: str) -> list[str]:
    return [line for line in text if line.startswith(sign)]


def test_a_bar_spoils_no_line_of_apply_and_destroy(cluster: AuditedCluster) -> None:
    apply, env = ("apply", "-f", cluster.file, "--yes"), cluster.environment()
    destroy = ("destroy", "-f", cluster.file, "--confirm", cluster.name)
    with on_terminal(*apply, env=env, columns=100) as applied:
        assert applied.ended() == 0 and has_bar(applied, "Applying")
    removed = vaultpki(*destroy, env=env)
    # The same lines as in a file, with nothing of a bar in them.
    again = cluster.apply()
    assert removed.stderr == again.stderr == ""
    wanted = lines_of(again.stdout.splitlines(), "+ ")
    assert len(wanted) > 20 and lines_of(applied.left, "+ ") == wanted
    with on_terminal(*destroy, env=env, columns=100) as shown:
        assert shown.ended() == 0 and has_bar(shown, "Removing")
    assert sorted(lines_of(shown.left, "- ")) == sorted(lines_of(removed.stdout.splitlines(), "- "))
    # JSON stays whole beside one.
    leader, follower = pty.openpty()
    out = cluster.folder / "out"
    with open(os.devnull) as nothing, out.open("w") as output:
        process = Fork([*map(str, apply), "--json"], environment(env), [nothing.fileno(), output.fileno(), follower])
        assert process.wait(240) == 0
    assert b"Applying" in os.read(leader, 65536)
    os.close(follower)
    os.close(leader)
    assert json.loads(out.read_text())["changes"]


def full(cluster: AuditedCluster, output: Path, errors: Path, *arguments: str | Path) -> str:
    """What a command says on standard error with these streams; fails unless its exit code is 1."""
    with open(os.devnull) as nothing, output.open("w") as one, errors.open("w") as other:
        streams = [nothing.fileno(), one.fileno(), other.fileno()]
        assert Fork(list(map(str, arguments)), environment(cluster.environment()), streams).wait(240) == 1
    return errors.read_text() if errors.is_file() else ""


def closed(cluster: AuditedCluster, redirection: str, *arguments: str | Path, expect: int) -> tuple[str, str]:
    """What a command says whose streams a shell has redirected so; fails where it ends with another code."""
    ran = subprocess.run(
        ["sh", "-c", f'exec "$@" {redirection}', "sh", sys.executable, "-m", "vaultpki", *map(str, arguments)],
        env=environment(cluster.environment()),
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
        timeout=240,
    )
    assert ran.returncode == expect, ran
    return ran.stdout, ran.stderr


def test_work_goes_on_where_output_cannot_be_written(cluster: AuditedCluster, tmp_path: Path) -> None:
    file, errors, device = cluster.file, tmp_path / "errors", Path("/dev/full")
    lost = "vaultpki: standard output cannot be written (No space left on device); "
    for command in (["schema"], ["plan", "-f", file, "--json"], ["apply", "-f", file, "--yes"]):
        error = full(cluster, device, errors, *command)
        assert error.startswith(lost) and error.count("\n") == 1, error
    cluster.settled()
    error = full(cluster, device, errors, "destroy", "-f", file, "--confirm", cluster.name)
    assert error.startswith(lost) and error.count("\n") == 1, error
    assert not [path for path in cluster.read("sys/mounts") if path.startswith(f"{cluster.prefix}/")]
    # Where an error cannot be told, the exit code tells it.
    full(cluster, tmp_path / "output", device, "plan", "-f", "nowhere.yaml")

    assert closed(cluster, ">&-", "plan", "-f", file, "--json", expect=0) == ("", "")
    _, error = closed(cluster, "<&-", "apply", "-f", file, expect=1)
    assert "there is no terminal to ask on" in error and error.count("\n") == 1, error
    _, error = closed(cluster, "<&-", "enroll", "-f", file, "-", "-o", "joins", expect=1)
    assert error == "vaultpki: no names came on standard input; give one a line\n"
    closed(cluster, "2>&-", "plan", "-f", "nowhere.yaml", expect=1)
    closed(cluster, "<&- >&- 2>&-", "apply", "-f", file, "--yes", expect=0)
    cluster.settled()


def test_a_reader_that_has_gone_is_told_nothing(tmp_path: Path) -> None:
    reader, end = os.pipe()
    os.close(reader)
    with open(os.devnull) as nothing, (tmp_path / "errors").open("w+") as errors, os.fdopen(end, "w") as stream:
        streams = [nothing.fileno(), stream.fileno(), errors.fileno()]
        assert Fork(["schema"], environment(), streams).wait(60) == 1
        assert errors.read() == ""
