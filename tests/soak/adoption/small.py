"""The phases on the smallest cluster: aborts and joins in every state, commands that are killed, and the whole way.

They continue each other on one cluster, and each leads to the state that it needs first.
"""

from __future__ import annotations

import functools
import random
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from helpers.kube import held_on_disks
from helpers.kube.components import Programs
from helpers.vault import servers
from soak.adoption import cluster as clusters
from soak.adoption.cluster import FORWARD, Soaked, Watched
from soak.phases import Phase
from soak.printed import brief, say

ABORTS = ("published", "switched", "closed", "retired")
BY_KUBEADM = ("prepared", "published", "switched", "returning")
"""The states in which somebody signs the CSR of a node that joins by kubeadm."""
BY_AGENT = ("switched", "closed", "retired", "re-trusting")
"""The states in which a node may join with Vault's certificates."""

# A join in which nobody signs would wait for five minutes.
IN_VAIN_SECONDS = 60
COMER = "w-2"
DRAWN = ("published", "switched", "closed", "retired", "re-trusting", "returning")
"""The states that a run with kills may be led to."""
DRAWN_GOALS = 4


def whole(run: Watched) -> None:
    """From the beginning to the end, and nothing of the old CAs' keys is left."""
    one = run.cluster
    one.lead("prepared")
    with run.phase("whole, to done"):
        one.lead("done")
        assert one.adopt("continue", "--yes", expect=[0])["over"], one.said[-1]
        one.works()
    keys = {name: held_on_disks.ca_keys(one.nodes[name]) for name in one.nodes_at_first}
    assert not any(keys.values()), keys
    one.forget()
    assert one.adopt("status", expect=[0])["over"], one.said[-1]


def aborted(run: Watched, at: str) -> None:
    """Back from a state, byte for byte; then the next start goes on."""
    one = run.cluster
    one.lead(at)
    with run.phase(f"aborted when {at}"):
        one.home()
        one.works()
    one.is_kubeadms()
    with run.phase(f"begun again after the abort when {at}"):
        one.lead("published")
        one.works()


def joined_by_kubeadm(run: Watched, at: str) -> None:
    """A worker joins by kubeadm, keeps the gate closed until it is enrolled, and takes part in the next step."""
    one = run.cluster
    one.lead(at)
    with run.phase(f"a worker joins by kubeadm when {at}"):
        assert "This node has joined the cluster" in one.join(COMER, one.token())
        one.works(*one.nodes_at_first, COMER)
        if at not in ("prepared", "switched"):
            _keeps_the_gate_closed(one, back=at == "returning")
        one.list(COMER)
        one.enrol(COMER)
        one.lead(_next(at))
        one.works(*one.nodes_at_first, COMER)
    one.remove(COMER)


def joined_by_agent(run: Watched, at: str) -> None:
    """A worker joins with its agent first; where nobody signs, kubeadm's own join waits in vain."""
    one = run.cluster
    one.lead(at)
    with run.phase(f"a worker joins with its agent first when {at}"):
        if at == "closed":
            # Kubernetes keeps those of the nodes that are there for an hour.
            one.kubectl("delete csr --all")
            one.join(COMER, one.token(), within=IN_VAIN_SECONDS, expect=124)
            said = one.kubectl("get csr")
            assert "Approved" in said and "Issued" not in said, said
            say(f"kubeadm's own join waits in vain: {brief(said)}")
            one.clear(COMER)
            one.kubectl("delete csr --all")
        one.join_with_agent(COMER)
        one.works(*one.nodes_at_first, COMER)
        one.lead(_next(at))
        one.works(*one.nodes_at_first, COMER)
    one.remove(COMER)


def cut_at_random(run: Watched) -> None:
    """To and fro between states that are drawn, by commands that are killed at any moment; then home, byte for byte."""
    one = run.cluster
    one.lead("prepared")
    drawn = random.Random()  # noqa: S311 - faults, no secrets
    goals = ["prepared"]
    while len(goals) <= DRAWN_GOALS:
        goals.append(drawn.choice([each for each in DRAWN if each != goals[-1]]))
    with run.phase(f"killed at random on the way to {', '.join(goals[1:])} and home"):
        one.rude = drawn
        try:
            for goal in goals[1:]:
                one.lead(goal)
                one.works()
            one.home()
        finally:
            one.rude = None
        one.works()
    say(f"{one.kills} commands were killed")
    assert one.kills > DRAWN_GOALS, one.kills
    one.is_kubeadms()


def _next(state: str) -> str:
    """The state that is led to from one, with no end in sight."""
    if state in FORWARD[:-2]:
        return FORWARD[FORWARD.index(state) + 1]
    return {"retired": "re-trusting", "re-trusting": "returning", "returning": "switched"}[state]


def _keeps_the_gate_closed(one: Soaked, *, back: bool) -> None:
    found = one.adopt("abort" if back else "continue", "--yes")
    reasons = {each["node"]: each["reason"] for each in found["waiting_for"]}
    assert "has no agent" in reasons.get(COMER, ""), reasons


PHASES: Mapping[str, Callable[[Watched], None]] = {
    "join-prepared": functools.partial(joined_by_kubeadm, at="prepared"),
    "join-published": functools.partial(joined_by_kubeadm, at="published"),
    "abort-published": functools.partial(aborted, at="published"),
    "join-switched": functools.partial(joined_by_kubeadm, at="switched"),
    "abort-switched": functools.partial(aborted, at="switched"),
    "abort-closed": functools.partial(aborted, at="closed"),
    "join-closed": functools.partial(joined_by_agent, at="closed"),
    "join-retired": functools.partial(joined_by_agent, at="retired"),
    "join-re-trusting": functools.partial(joined_by_agent, at="re-trusting"),
    "join-returning": functools.partial(joined_by_kubeadm, at="returning"),
    "abort-retired": functools.partial(aborted, at="retired"),
    "join-agent-switched": functools.partial(joined_by_agent, at="switched"),
    "cut-at-random": cut_at_random,
    "whole": whole,
}
"""What a run consists of, in this order unless another one is asked for; after `whole` there is no way back."""


def on(
    kind: str, programs: Programs, binary: Path | None, folder: Path, names: Sequence[str], phases: list[Phase]
) -> None:
    """Adds the phases on one server to `phases`; they end with the first one that could not be ended."""
    with (
        servers.running(kind, folder / "server", binary) as server,
        clusters.small(server, programs, folder / "kube") as cluster,
    ):
        run = Watched(kind, cluster, phases)
        try:
            with run.phase("described and enrolled"):
                cluster.describe()
                for name in cluster.nodes_at_first:
                    cluster.enrol(name)
            for name in names:
                PHASES[name](run)
        finally:
            (folder / "said.log").write_text("\n".join(cluster.said))
