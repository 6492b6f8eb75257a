"""The phases on three control planes behind a balancer, with agents that do the steps: there, back, and afterwards."""

from __future__ import annotations

import contextlib
import functools
import subprocess
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from helpers.kube import adopted_disks, adoption_under_load, kubeadm_adoption
from helpers.kube.adopted_disks import FileSeen
from helpers.kube.adoption_under_load import under_load
from helpers.kube.clients_in_pods import ClientsInPods
from helpers.kube.components import Programs
from helpers.kube.kubeadm_adoption import PLANES, WORKER, Adoption
from helpers.vault import servers
from soak.adoption import afterwards
from soak.phases import Phase
from soak.printed import say
from vaultpki.records.adoption import AdoptionState

S = AdoptionState


@dataclass(slots=True)
class Run:
    """The cluster on one server, what lay on each machine before, and the phases so far."""

    server: str
    adoption: Adoption
    clients: ClientsInPods
    before: Mapping[str, Mapping[str, FileSeen]]
    phases: list[Phase]

    @contextlib.contextmanager
    def phase(self, name: str) -> Iterator[None]:
        """What happens in the block, and what it did to clients and to etcd."""
        say(f"{self.server}, three control planes: {name}")
        broken: BaseException | None = None
        with under_load(self.adoption, self.clients) as seen:
            try:
                yield
            except (AssertionError, subprocess.SubprocessError, OSError, KeyboardInterrupt) as error:
                broken = error
        why = f"{type(broken).__name__}: {broken}" if broken else ""
        self.phases += afterwards.phases_of(self.server, name, seen, why)
        if broken:
            raise broken

    def to(self, goal: AdoptionState) -> None:
        """Forward, from whatever state it has."""
        made = self.adoption
        if made.record() is None:
            made.adopt("start")
        for state in (S.PUBLISHED, S.SWITCHED, S.CLOSED, S.RETIRED, S.DONE):
            record = made.record()
            if record is not None and record.state is goal:
                return
            made.to(state)
            say(state.value)
            if state is goal:
                return

    def aborted(self, at: AdoptionState) -> None:
        self.to(at)
        made = self.adoption
        with self.phase(f"aborted when {at.value}"):
            made.to(S.PREPARED, "abort")
            made.finish("abort")
        assert made.record() is None
        for name, before in self.before.items():
            changed = adopted_disks.changed(before, adopted_disks.files(made.nodes[name]))
            assert not changed, (name, changed)

    def whole(self) -> None:
        with self.phase("whole, to done"):
            self.to(S.DONE)
            self.adoption.finish()
        self.adoption.forget_old()

    def rotated(self, domain: str) -> None:
        """Once the adoption is done."""
        afterwards.rotated(self.server, self.adoption, self.clients, self.phases, domain)


PHASES: Mapping[str, Callable[[Run], None]] = {
    "planes-abort-switched": functools.partial(Run.aborted, at=S.SWITCHED),
    "planes-abort-retired": functools.partial(Run.aborted, at=S.RETIRED),
    "planes-whole": Run.whole,
    "planes-etcd": functools.partial(Run.rotated, domain="etcd"),
    "planes-root": functools.partial(Run.rotated, domain="root"),
}
"""What a run consists of, in this order unless another one is asked for.

After `planes-whole` there is no way back; the rotations come after it, in the same run.
"""


def on(
    kind: str, programs: Programs, binary: Path | None, folder: Path, names: Sequence[str], phases: list[Phase]
) -> None:
    """Adds the phases on one server to `phases`; they end with the first one that could not be ended."""
    with (
        servers.running(kind, folder / "server", binary) as server,
        kubeadm_adoption.standing(server, programs, folder / "kube") as made,
    ):
        made.quick = True
        clients = adoption_under_load.start(made)
        made.draft()
        made.vaultpki("apply", "--yes", who="applier")
        before = {name: adopted_disks.files(made.nodes[name]) for name in (*PLANES, WORKER)}
        run = Run(kind, made, clients, before, phases)
        made.adopt("start")
        for name in (*PLANES, WORKER):
            made.enrol(name)
        for name in names:
            PHASES[name](run)
