"""Ctrl-C in a command that changes something: it says what to do, and the same command does the rest."""

from __future__ import annotations

import os
import signal
import time
from tempfile import TemporaryFile

import pytest

from helpers.vault.applied_cluster import environment, vaultpki
from helpers.vault.cluster_factory import ClusterFactory
from helpers.vault.forked_command import Fork
from helpers.vault.plan_commands import AuditedCluster, fails

# Ctrl-C is the command's own; what a cut leaves on a server is in test_apply_killed.py, on both.
pytestmark = pytest.mark.on_node

SPEC = "api_server: {names: [api.example.com], endpoint: 'https://api.example.com:6443'}\nnodes:\n" + "\n".join(
    f"- {{name: n-{number}, roles: [worker], addresses: [10.0.1.{number}]}}" for number in range(1, 4)
)


def interrupted(cluster: AuditedCluster, *words: str, writes: int) -> tuple[str, str]:
    """The command, with Ctrl-C once it has sent so many writes; what it printed."""
    start = cluster.server.audit_position()
    with open(os.devnull) as nothing, TemporaryFile("w+") as output, TemporaryFile("w+") as errors:

        def said() -> tuple[str, str]:
            for stream in (output, errors):
                stream.seek(0)
            return output.read(), errors.read()

        # As the command that saves the plan is one: forks keep their version while somebody commits to the checkout.
        streams = [each.fileno() for each in (nothing, output, errors)]
        with Fork(words, environment(cluster.environment()), streams) as running:
            end = time.monotonic() + 60
            while len([path for _, path in cluster.server.writes(start) if cluster.name in path]) < writes:
                assert running.poll() is None and time.monotonic() < end, said()
                time.sleep(0.002)
            running.send_signal(signal.SIGINT)
            assert running.wait(60) == 130, said()
        return said()


def test_the_same_apply_goes_on_and_of_a_saved_plan_a_new_one(clusters: ClusterFactory) -> None:
    cluster = clusters.written(SPEC)
    file = cluster.folder / "plan.json"

    def save() -> None:
        vaultpki("plan", "-f", cluster.file, "-o", file, env=cluster.environment("viewer"))

    save()
    said, _ = interrupted(cluster, "apply", str(file), writes=2)
    assert said.splitlines()[-1] == "Save a new plan, which has the rest: this one is refused from now on."
    fails(vaultpki("apply", file, env=cluster.environment(), expect=1), f"{file} is not applied, and nothing was")
    _, error = interrupted(cluster, "apply", "--yes", "-f", str(cluster.file), writes=1)
    assert error.strip() == (
        "vaultpki: interrupted. Run the same command again to finish. After `apply FILE` save a new plan first."
    )
    save()
    vaultpki("apply", file, env=cluster.environment())
    cluster.settled()
