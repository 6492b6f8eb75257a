"""The phases on clusters of other shapes than the smallest one: two stacked members of etcd, and external etcd."""

from __future__ import annotations

import contextlib
import subprocess
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from helpers.kube import kubeadm_given
from helpers.kube.components import Programs
from helpers.vault import servers
from helpers.vault.servers import Server
from soak.adoption import cluster as clusters
from soak.adoption.cluster import Soaked, Watched
from soak.phases import Phase
from soak.printed import brief, say

# One restart of a member takes the majority away, and there are two of them in each state.
OUTAGE_IS_TOLD = "two stacked members of etcd have no majority while one restarts"


def two_members(server: Server, kind: str, programs: Programs, folder: Path, phases: list[Phase]) -> None:
    """The outage is told before anything begins, and measured; there and back."""
    roles = {"cp-1": kubeadm_given.PLANE, "cp-2": kubeadm_given.PLANE, "w-1": kubeadm_given.WORKER}
    with clusters.machines(server, programs, folder / "kube", roles, tuple(roles)) as one:
        run = Watched(kind, one, phases)
        one.init()
        one.join("cp-2", key=one.upload())
        one.join("w-1")
        one.stand()
        one.describe()
        for name in one.nodes_at_first:
            one.enrol(name)
        told = one.adopt("start", expect=(0, 3))
        assert not one.state and "majority" in str(told), told
        say(brief(str(told)))
        one.begin()
        with run.phase("two members: published and switched"):
            one.lead("switched")
            one.works()
        with run.phase("two members: back"):
            one.home()
            one.works()
        one.is_kubeadms()


def external_etcd(server: Server, kind: str, programs: Programs, folder: Path, phases: list[Phase]) -> None:
    """A member that kubeadm does not run goes over too: its machine has an agent, and a person restarts it."""
    with _external(server, programs, folder) as one:
        one.start_etcd("etcd-1", "")
        run = _standing(kind, one, phases)
        one.describe()
        for name in ("etcd-1", *one.nodes_at_first):
            one.enrol(name)
        one.begin()
        with run.phase("external etcd: to retired"):
            for state in ("published", "switched", "closed", "retired"):
                one.lead(state)
                one.works()
        with run.phase("external etcd: back"):
            one.home()
            one.works()
        one.is_kubeadms()


def external_etcd_alone(server: Server, kind: str, programs: Programs, folder: Path, phases: list[Phase]) -> None:
    """etcd keeps its own CA, whose files lie beside the places of the agent's; the rest goes to the end."""
    with _external(server, programs, folder) as one:
        one.start_etcd("etcd-1", "external-etcd")
        run = _standing(kind, one, phases)
        one.describe(without=("etcd-1",))
        for name in one.nodes_at_first:
            one.enrol(name)
        one.begin()
        with run.phase("external etcd with a CA of its own: to done"):
            one.lead("done")
            assert one.adopt("continue", "--yes", expect=[0])["over"], one.said[-1]
            one.works()


def _external(server: Server, programs: Programs, folder: Path) -> contextlib.AbstractContextManager[Soaked]:
    roles = {"cp-1": "control-plane, worker", "etcd-1": "etcd", "w-1": kubeadm_given.WORKER}
    return clusters.machines(server, programs, folder / "kube", roles, ("cp-1", "w-1"))


def _standing(kind: str, one: Soaked, phases: list[Phase]) -> Watched:
    one.init()
    one.join("w-1")
    one.stand()
    return Watched(kind, one, phases)


PHASES: Mapping[str, Callable[[Server, str, Programs, Path, list[Phase]], None]] = {
    "two-members": two_members,
    "external-etcd": external_etcd,
    "external-etcd-alone": external_etcd_alone,
}


def on(
    kind: str, programs: Programs, binary: Path | None, folder: Path, names: Sequence[str], phases: list[Phase]
) -> None:
    """Adds the phases on one server to `phases`, each on a cluster of its own."""
    for name in names:
        with servers.running(kind, folder / name / "server", binary) as server:
            try:
                PHASES[name](server, kind, programs, folder / name, phases)
            except (AssertionError, subprocess.SubprocessError, OSError) as error:
                say(f"{kind}, {name}: {brief(str(error))}")
                if not (phases and phases[-1].broken):
                    phases.append(Phase(kind, name, 0.0, 0, broken=f"{type(error).__name__}: {error}"))
