"""What an operator's command says with a token that is too weak, and where the cluster is not: the right cure."""

from __future__ import annotations

from pathlib import Path

import pytest

from helpers.node import enrolled_nodes
from helpers.terminals import on_terminal
from helpers.vault.applied_cluster import vaultpki
from helpers.vault.cluster_factory import ClusterFactory
from helpers.vault.operator_tokens import Who
from helpers.vault.plan_commands import AuditedCluster, fails

# What a token of somebody else may not do: the command, whose policy it needs, and whose token it is tried with.
REFUSED: tuple[tuple[str, Who, Who], ...] = (
    ("plan", "viewer", "locker"),
    ("nodes", "viewer", "operator"),
    ("ca status", "viewer", "operator"),
    ("report --from-vault -o r.html", "viewer", "locker"),
    ("graph --from-vault -o g.svg", "viewer", "locker"),
    ("issue admin --dir operator", "operator", "enroller"),
    ("enroll w-9 --pool autoscaled -o w-9.json", "enroller", "viewer"),
    ("enroll worker-1 -o worker-1.json", "applier", "operator"),
    ("lock worker-1", "locker", "viewer"),
    ("apply --yes", "applier", "operator"),
    ("ca rotate etcd", "applier", "viewer"),
    ("ca recover etcd", "applier", "operator"),
    ("unenroll w-9", "applier", "operator"),
    ("revoke worker-1 --yes", "applier", "operator"),
    ("verify --vault", "applier", "viewer"),
    ("destroy --confirm NAME", "applier", "viewer"),
)


@pytest.fixture(scope="module")
def cluster(shared_clusters: ClusterFactory) -> AuditedCluster:
    return shared_clusters.applied(enrolled_nodes.SPEC)


def words(cluster: AuditedCluster, command: str, folder: Path) -> list[str | Path]:
    """The command, whose files lie in this folder."""
    given = command.replace("NAME", cluster.name).split()
    files = [
        folder / word if word.endswith((".html", ".svg", ".json")) or word == "operator" else word for word in given
    ]
    return [*files, "-f", cluster.file]


@pytest.mark.parametrize(("command", "needs", "has"), REFUSED, ids=lambda value: str(value).replace(" ", "-"))
def test_the_policy_that_a_command_needs_is_named(
    cluster: AuditedCluster, tmp_path: Path, command: str, needs: Who, has: Who
) -> None:
    ran = vaultpki(*words(cluster, command, tmp_path), env=cluster.environment(has), expect=1)
    fails(ran, f"`vaultpki policy -f {cluster.file} {needs}` prints")
    assert "may not end the credentials of" in ran.stderr or "the Vault token is too weak: " in ran.stderr, ran


@pytest.mark.parametrize("who", ["enroller", "viewer", "operator"])
def test_the_policy_that_is_named_is_enough(cluster: AuditedCluster, tmp_path: Path, who: Who) -> None:
    for command, needs, _ in REFUSED:
        if needs == who:
            ran = vaultpki(*words(cluster, command, tmp_path), env=cluster.environment(who), expect={0, 3})
            assert "too weak" not in ran.stdout + ran.stderr, ran


def test_a_token_that_the_server_does_not_know(cluster: AuditedCluster) -> None:
    env = cluster.server.environment("s.0123456789abcdefghijklmn")
    fails(vaultpki("nodes", "-f", cluster.file, env=env, expect=1), "is not valid or has expired", "log in again with")


def test_where_a_cluster_was_destroyed_there_is_none(clusters: ClusterFactory, tmp_path: Path) -> None:
    cluster = clusters.applied()
    cluster.destroy()
    for command in (
        *("nodes", "ca status", "report --from-vault -o r.html", "graph --from-vault -o g.svg"),
        *("ca rotate etcd", "ca continue", "revoke worker-1 --yes"),
    ):
        who: Who = "applier" if command in ("ca rotate etcd", "ca continue", "revoke worker-1 --yes") else "viewer"
        ran = vaultpki(*words(cluster, command, tmp_path), env=cluster.environment(who), expect=1)
        fails(ran, f"cluster {cluster.name} is not in this Vault", "never applied here, or it was destroyed")
        assert ran.stdout == "" and not [*tmp_path.glob("*.html"), *tmp_path.glob("*.svg")]


@pytest.mark.on_node
@pytest.mark.parametrize("columns", [60, 80])
def test_ca_status_fits_a_terminal(cluster: AuditedCluster, columns: int) -> None:
    env = cluster.environment("viewer")
    with on_terminal("ca", "status", "-f", cluster.file, env=env, columns=columns) as shown:
        assert shown.ended() == 0, shown.shown
    path = str(cluster.file)
    assert all(len(line) <= columns or path in line for line in shown.lines), shown.lines
    assert shown.lines[0].split()[:2] == ["CA", "NAME"]
