"""What a soak does to the CAs of a cluster: rotations, aborts and emergencies, and what people do meanwhile."""

from __future__ import annotations

import contextlib
import json
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from helpers.kube.ca_operator import Operator
from helpers.kube.client_load import OPERATORS
from soak.command import ENDS
from soak.phases import Phase
from soak.printed import brief, say
from vaultpki.kube.objects import SERVING_CA
from vaultpki.records.rotation import State

# The slowest is the root, whose turns restart every control plane three times.
MOST_SECONDS = 2 * 3600.0
CALM_SECONDS = 60.0
COMMAND_SECONDS = 600.0
# An API server that was restarted may take a minute where two clusters share two cores.
ATTEMPTS_SECONDS = 300.0
# kube-apiserver only ever adds to what it publishes for others as client CAs (docs/ca-rotation.md).
PUBLISHED = ("-n", "kube-system", "extension-apiserver-authentication")


@dataclass(slots=True)
class CaRun:
    """One cluster on one server: what is done to its CAs, and the phases so far.

    `most_outage` is how many seconds an emergency may take. Clusters differ in who looks on, and what else people do.
    """

    server: str
    operator: Operator
    phases: list[Phase]
    most_outage: float

    def ca(self, *words: str | Path) -> dict[str, Any]:
        """A step, and what it waits for."""
        deadline = time.monotonic() + ATTEMPTS_SECONDS
        while True:
            ran = self.operator.ca(*words, "--json", expect=(0, 1, 3), timeout=COMMAND_SECONDS)
            if ran.returncode != 1:
                found: dict[str, Any] = json.loads(ran.stdout)["rotation"]
                return found
            # The API server that its kubeconfig names may be restarted just now.
            say(brief(ran.stderr))
            assert time.monotonic() < deadline, f"ca {' '.join(map(str, words))} goes on failing: {ran.stderr}"
            time.sleep(3)

    def settle(self, domain: str, goal: State, act: str = "continue") -> None:
        """Takes steps until the CA is in this state, and does what they wait for meanwhile."""
        deadline = time.monotonic() + MOST_SECONDS
        looks = ("--kubeconfig", self.operator.kubernetes.admin) if self.looks(domain) else ()
        last: State | None = None
        words: list[str] = []
        while (state := self.operator.record(domain).state) is not goal:
            if state is not last:
                say(f"{domain} is {state.value}")
            last = state
            waiting = {each["node"]: each["reason"] for each in self.ca(act, *looks, *words)["waiting_for"]}
            words = self._answer(waiting)
            self.between()
            assert time.monotonic() < deadline, f"{domain} stays {state.value}: {waiting}"
            time.sleep(2)
        say(f"{domain} is {goal.value}")

    def _answer(self, waiting: Mapping[str, str]) -> list[str]:
        """Does what only a person can do; the words that say so to the next step."""
        words = self.answer(waiting)
        if SERVING_CA in waiting:
            self.operator.apply_manifests()
        if "outside" in waiting:
            words += ["--checked", "outside"]
        for person in OPERATORS:
            words += ["--without", person] if person in waiting else []
        if words:
            self.operator.issue()
        return words

    # What clusters differ in

    def answer(self, waiting: Mapping[str, str]) -> list[str]:
        """Does what else is waited for; the words that say so."""
        raise NotImplementedError

    def looks(self, domain: str) -> bool:
        """Whether steps look at objects of the cluster: for the root at pods, for the kubelet's CA at a ConfigMap."""
        return domain in ("root", "kubelet")

    def between(self) -> None:
        """What is done between two steps."""

    def watched(self, name: str, *, outage: bool) -> AbstractContextManager[Callable[[], tuple[Phase, ...]]]:
        """All who look on until the end of the block; then what they saw, as a phase and maybe others."""
        raise NotImplementedError

    def around(self, domain: str, *words: str) -> AbstractContextManager[object]:
        """What is looked at before and after a rotation, and is no part of it."""
        return contextlib.nullcontext()

    # Phases

    @contextlib.contextmanager
    def phase(self, name: str, *, outage: bool = False) -> Iterator[None]:
        """What happens in the block, and what it did to clients; `outage` says that there may be one."""
        say(f"{self.server}: {name}")
        broken, begin = "", time.time()
        raised: BaseException | None = None
        with self.watched(name, outage=outage) as seen:
            try:
                yield
            except (*ENDS, KeyboardInterrupt) as error:
                broken, raised = f"{type(error).__name__}: {error}", error
            seconds = time.time() - begin
        first, *others = seen()
        most = self.most_outage if outage else 0.0
        self.phases += [replace(first, seconds=seconds, most_outage=most, broken=broken), *others]
        if raised is not None:
            raise raised

    def rotated(self, domain: str, *words: str) -> None:
        with self.around(domain, *words), self.phase(" ".join((f"{domain} rotated", *words))):
            self.operator.rotate(domain, *words)
            self.settle(domain, State.DONE)
            self.forget(domain)

    def aborted(self, domain: str, at: State) -> None:
        with self.phase(f"{domain} aborted when {at.value}"):
            self.operator.rotate(domain)
            self.settle(domain, at)
            self.settle(domain, State.STEADY, "abort")
            self.forget(domain)

    def emergency(self, domain: str) -> None:
        with self.around(domain), self.phase(f"{domain} in an emergency", outage=True):
            self.operator.rotate(domain, "--emergency", "--yes")
            self.operator.issue()
            self.settle(domain, State.DONE)
            self.forget(domain)
            self.calm()
        self.steady("after the emergency")

    def calm(self) -> None:
        """Waits until an emergency is over for clients."""
        raise NotImplementedError

    def steady(self, name: str) -> None:
        with self.phase(name):
            time.sleep(CALM_SECONDS)

    def forget(self, domain: str) -> None:
        if domain == "kubelet":
            self.operator.apply_manifests()
        if domain in ("kubernetes", "front-proxy"):
            kubernetes = self.operator.kubernetes
            kubernetes.kubectl(kubernetes.admin, "delete", "configmap", *PUBLISHED)
