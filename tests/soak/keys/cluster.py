"""The cluster of the soak of service-account keys: its operator, its clients, and what they see."""

from __future__ import annotations

import contextlib
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

from helpers.kube import held_on_disks, kube_cluster, operator_under_load, token_load
from helpers.kube.components import Programs, ServiceAccountKeys
from helpers.kube.key_operator import PASSES, KeyOperator
from helpers.kube.kube_cluster import KubeNode
from helpers.kube.pod_token import PodToken
from helpers.kube.token_load import Api, TokenLoad
from helpers.vault import servers
from helpers.vault.applied_cluster import vaultpki
from helpers.vault.servers import wait_for
from soak.keys.audit import Audit
from soak.keys.shape import FIRST, LATER, Asked, spec
from soak.keys.table import KeyPhase
from soak.phases import Control
from soak.printed import say

_ATTEMPTS_SECONDS: Final = 300.0
_COMMAND_SECONDS: Final = 180.0
_PAIRS_SECONDS: Final = 120.0


@dataclass(slots=True)
class SoakedKeys(KeyOperator):
    """One cluster on one server: what is done to its keys, and the phases so far.

    `planes` are the control planes that cluster.yaml has. `renewed` is when the Secret with a legacy token was last
    made anew. `held` is what a control run saw while its rule was still on, and `common` are public keys of private
    keys that several machines may have, since kubeadm left them there.
    """

    server: str
    pod: PodToken
    phases: list[KeyPhase]
    planes: dict[str, str] = field(default_factory=lambda: dict(FIRST))
    asked: Asked = field(default_factory=Asked)
    renewed: datetime | None = None
    secrets: int = 0
    held: str = ""
    common: frozenset[bytes] = frozenset()
    since: int = 0

    @property
    def refusals(self) -> list[str]:
        """The tokens that were refused in this phase, and must not be."""
        return [str(each) for each in self.tokens.failures[self.since :] if each.text.startswith("401")]

    # What an operator does

    def rotate(self, *words: str) -> None:
        KeyOperator.rotate(self, *words)
        say(f"rotate {' '.join(words)}: {self.state.value}")

    def note(self, text: str) -> None:
        say(text)

    def waiting(self) -> dict[str, str]:
        return self.operator.waiting()

    def without(self, change: str, *words: str | Path) -> None:
        """A `ca` command in a process in which these lines of Python have switched a rule off."""
        cluster = self.kubernetes.cluster
        ran = vaultpki(
            *("ca", *words, "-f", cluster.file),
            env=cluster.environment(),
            expect={0, 1, 3},
            timeout=_COMMAND_SECONDS,
            behind=self.kubernetes.outside.inside,
            changed=change,
        )
        self.said = ran.stdout + ran.stderr
        assert ran.returncode in (0, 3) or any(each in ran.stderr for each in PASSES), self.said

    def renew(self) -> None:
        """What a person does once every API server signs with the key of a state, and again after each later restart.

        Controller managers sign Secrets, and have tokens of their own that live an hour: both are made anew.
        """
        record = self.record
        if record is None or not record.waits_for_tokens:
            return
        assert record.signing_since is not None
        if self.renewed is not None and record.signing_since < self.renewed:
            return
        self.restart_managers()
        self.renew_secret()

    def renew_secret(self) -> None:
        """Delete the Secret with a legacy token and make another one, which the leader signs."""
        self.tokens.let_go(self.tokens.kept.clear)
        if self.secrets:
            self._insist("delete", "secret", f"legacy-{self.secrets}", "--ignore-not-found")
        self.secrets += 1
        self.tokens.kept.append(token_load.legacy(self.kubernetes, f"legacy-{self.secrets}"))
        self.renewed = datetime.now(UTC)
        say("the Secret with a legacy token was made anew")

    def _insist(self, *words: str) -> None:
        """kubectl, as often as the API server is restarted meanwhile."""
        said = [""]

        def done() -> bool:
            ran = self.kubernetes.kubectl(self.kubernetes.admin, *words, expect=None)
            said[0] = ran.stderr
            return ran.returncode == 0

        wait_for(done, _ATTEMPTS_SECONDS, lambda: said[0], pause=2)

    def begin_again(self) -> None:
        """Nobody has the tokens of before any more; the pod is made anew, and the Secret."""

        def forget() -> None:
            self.pod.forget()
            self.tokens.kept.clear()
            self.tokens.tokens.clear()

        self.tokens.let_go(forget)
        self.restart_managers()
        self.pod.end()
        self.pod.start()
        self.renew_secret()

    def apply(self) -> None:
        """cluster.yaml as it is to be now, on the server."""
        self.kubernetes.cluster.write(spec(self.planes, self.asked))
        self.kubernetes.cluster.apply()

    # Phases

    @contextlib.contextmanager
    def phase(self, name: str, *, outage: bool = False, control: Control | None = None) -> Iterator[None]:
        """What happens in the block, and what it did to tokens and to clients."""
        load, tokens = self.operator.load, self.tokens
        load.failures.clear()
        audit = Audit([machine.folder for machine in self.kubernetes.lan.machines.values()])
        self.since, self.held = len(tokens.failures), ""
        used, refused, worked, begin = tokens.counted(), tokens.refused.total(), load.worked.total(), time.time()
        say(f"{self.server}: {name}")
        broken = ""
        try:
            yield
            if not outage and control is None:
                self._await_pairs(used)
            self._check()
        except (AssertionError, subprocess.SubprocessError, OSError, KeyboardInterrupt) as error:
            broken = f"{type(error).__name__}: {error}"
            raise
        finally:
            seen, failures = self.refusals, tokens.failures[self.since :]
            others = [*load.failures, *(each for each in failures if not each.text.startswith("401"))]
            self.phases.append(
                KeyPhase(
                    server=self.server,
                    name=name,
                    seconds=time.time() - begin,
                    used=tokens.counted().total() - used.total(),
                    unauthorized=(*seen, *audit.unauthorized()),
                    otherwise=tuple(map(str, others)),
                    refused=tokens.refused.total() - refused,
                    others=load.worked.total() - worked,
                    outage=outage,
                    control=None if control is None else Control(control.rule, control.model, self.held),
                    broken=broken,
                )
            )
            say(f"{name}: {len(self.phases[-1].unauthorized)} answered with 401, {len(others)} failed otherwise")

    def _await_pairs(self, before: Mapping[tuple[Api, Api], int]) -> None:
        """Tokens of each API server were used at each, within this phase."""

        def missing() -> list[str]:
            apis = self.kubernetes.apis
            return [
                f"{issuer[0]} at {at[0]}"
                for issuer in apis
                for at in apis
                if self.tokens.used[issuer, at] <= before.get((issuer, at), 0)
            ]

        wait_for(lambda: not missing(), _PAIRS_SECONDS, lambda: f"no tokens were used: {missing()}", pause=1)

    def _check(self) -> None:
        self.kubernetes.running()
        for agent in self.kubernetes.agents.values():
            agent.check()
        found = held_on_disks.on_two(
            {each.name: [each] for each in (self.kubernetes.folder / "agents").iterdir()}, self.common
        )
        assert not found, found


@contextlib.contextmanager
def standing(
    kind: str,
    programs: Programs,
    binary: Path | None,
    folder: Path,
    phases: list[KeyPhase],
    given: Callable[[KubeNode], ServiceAccountKeys] | None = None,
    asked: Asked | None = None,
) -> Iterator[SoakedKeys]:
    """Three control planes and a worker on one server, under load.

    `given` makes the keys that nodes have at first; with it cluster.yaml asks for own keys, as `asked`, only then.
    """
    with contextlib.ExitStack() as stack:
        server = stack.enter_context(servers.running(kind, folder / "server", binary))
        wanted = asked or Asked()
        cluster = stack.enter_context(
            kube_cluster.cluster(
                *(server, programs, folder / "kube", spec(FIRST, Asked(own=False) if given else wanted)),
                comers=kube_cluster.COMERS,
                later=LATER,
                given=given,
            )
        )
        if given:
            cluster.cluster.write(spec(FIRST, wanted))
            cluster.cluster.apply()
        operator = stack.enter_context(operator_under_load.standing(cluster, pace=3))
        tokens = TokenLoad(cluster, operator.restarts.serving)
        pod = PodToken(cluster, cluster.worker)
        tokens.mounted = pod.read
        made = SoakedKeys(operator, tokens, kind, pod, phases, asked=wanted)
        with operator.load.running(), tokens.running():
            pod.start()
            made.renew_secret()
            yield made
