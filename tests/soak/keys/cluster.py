"""The cluster of the soak of service-account keys: its operator, its clients, and what they see."""

from __future__ import annotations

import contextlib
import http.client
import json
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

from helpers.kube import kube_cluster, operator_under_load, own_keys, token_load
from helpers.kube.client_load import connection
from helpers.kube.components import API_PORT, Programs, ServiceAccountKeys
from helpers.kube.kube_cluster import KubeNode, Kubernetes
from helpers.kube.operator_under_load import OperatorUnderLoad
from helpers.kube.pod_token import PodToken
from helpers.kube.restarts import API_SERVER
from helpers.kube.token_load import LIFE, Api, TokenLoad
from helpers.vault import applied_cluster, servers
from helpers.vault.servers import wait_for
from soak.keys import disks
from soak.keys.audit import Audit
from soak.keys.shape import FIRST, LATER, Asked, spec
from soak.keys.table import Control, KeyPhase
from soak.printed import say
from vaultpki.certificates import SKEW
from vaultpki.model import NodeRole
from vaultpki.records.service_account import SERVICE_ACCOUNT_KEYS, KeyRecord, KeyState

STATED: Final = LIFE - SKEW
"""What a person states (seconds). A gate adds some minutes for clocks that differ; all machines here have one clock, so
these minutes are a part of the life of tokens."""

SIGNING: Final = (KeyState.SWITCHED, KeyState.RETURNING)
_LOOK: Final = 2.0
# Where nothing but time is waited for, others need the processors more.
_PATIENT_LOOK: Final = 10.0
_MOST_SECONDS: Final = 2400.0
# An API server that was restarted may take a minute where all share two cores.
_READY_SECONDS: Final = 180.0
_ATTEMPTS_SECONDS: Final = 300.0
_COMMAND_SECONDS: Final = 180.0
_PAIRS_SECONDS: Final = 120.0
# What a command says whose API server is restarted just now, or that has nothing to do.
_PASSES: Final = ("cannot be reached", "in time", "is being rotated; `vaultpki ca rotate")

_ENDED: Final = object()

Task = Iterator[None]
"""What happens beside the steps of an operator; each `yield` lets the operator go on."""


@dataclass(slots=True)
class SoakedKeys:
    """One cluster on one server: what is done to its keys, and the phases so far.

    `planes` are the control planes that cluster.yaml has. `renewed` is when the Secret with a legacy token was last
    made anew. `held` is what a control run saw while its rule was still on, and `common` are public keys of private
    keys that several machines may have, since kubeadm left them there.
    """

    server: str
    operator: OperatorUnderLoad
    tokens: TokenLoad
    pod: PodToken
    phases: list[KeyPhase]
    planes: dict[str, str] = field(default_factory=lambda: dict(FIRST))
    asked: Asked = field(default_factory=Asked)
    renewed: datetime | None = None
    secrets: int = 0
    held: str = ""
    common: frozenset[bytes] = frozenset()
    since: int = 0
    said: str = ""

    @property
    def kubernetes(self) -> Kubernetes:
        return self.operator.kubernetes

    @property
    def record(self) -> KeyRecord | None:
        return own_keys.record(self.kubernetes)

    @property
    def state(self) -> KeyState:
        found = self.record
        return found.state if found is not None else KeyState.STEADY

    @property
    def refusals(self) -> list[str]:
        """The tokens that were refused in this phase, and must not be."""
        return [str(each) for each in self.tokens.failures[self.since :] if each.text.startswith("401")]

    # What an operator does

    def rotate(self, *words: str) -> None:
        """Begin; a command that had no answer in time is run again, and goes on where it stopped."""

        def begun() -> bool:
            command = ("rotate", SERVICE_ACCOUNT_KEYS, *words)
            ran = self.operator.ca(*command, expect=(0, 1, 3), timeout=_COMMAND_SECONDS)
            self.said = ran.stdout + ran.stderr
            assert ran.returncode != 1 or any(each in ran.stderr for each in _PASSES), self.said
            return ran.returncode != 1

        wait_for(begun, _ATTEMPTS_SECONDS, lambda: self.said, pause=_LOOK)
        say(f"rotate {' '.join(words)}: {self.state.value}")

    def step(self, act: str = "continue") -> None:
        """One run of a command, with what a person has to say in this state."""
        record, words = self.record, list[str | Path]()
        if record is not None and record.state in SIGNING:
            words += ["--kubeconfig", self.kubernetes.admin]
            words += [] if record.stated else ["--token-life", f"{STATED}s", "--yes"]
        ran = self.operator.ca(act, *words, expect=(0, 1, 3), timeout=_COMMAND_SECONDS)
        self.said = ran.stdout + ran.stderr
        assert ran.returncode != 1 or any(each in ran.stderr for each in _PASSES), self.said

    def lead(self, there: Callable[[KeyRecord], bool], act: str = "continue", *tasks: Task) -> None:
        """Take steps until the record is as it shall be, and the tasks beside have ended."""
        deadline, running, last = time.monotonic() + _MOST_SECONDS, list(tasks), self.state
        while True:
            running = [each for each in running if next(each, _ENDED) is not _ENDED]
            record = self.record
            assert record is not None, self.said
            if record.state is not last:
                last = record.state
                say(f"{SERVICE_ACCOUNT_KEYS} are {last.value}")
            if there(record) and not running:
                return
            self.step(act)
            if not running:
                self.renew()
            assert time.monotonic() < deadline, f"stays {last.value}: {self.said}"
            time.sleep(_PATIENT_LOOK if record.waits_for_tokens and not running else _LOOK)

    def reach(self, state: KeyState, act: str = "continue", *tasks: Task) -> None:
        self.lead(lambda record: record.state is state, act, *tasks)

    def settle(self) -> None:
        """Take turns until every API server accepts the tokens of the record's keys, and no other."""
        self.lead(lambda record: self.shown_everywhere())

    def waiting(self) -> dict[str, str]:
        return self.operator.waiting()

    def without(self, change: str, *words: str | Path) -> None:
        """A `ca` command in a process in which these lines of Python have switched a rule off."""
        cluster = self.kubernetes.cluster
        program = f"{change}import sys\nfrom vaultpki.__main__ import main\nsys.exit(main())\n"
        ran = subprocess.run(
            [*self.kubernetes.outside.inside, sys.executable, "-c", program, "ca", *words, "-f", cluster.file],
            env=applied_cluster.environment(cluster.environment()),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            check=False,
            timeout=_COMMAND_SECONDS,
        )
        self.said = ran.stdout + ran.stderr
        assert ran.returncode in (0, 3) or any(each in ran.stderr for each in _PASSES), self.said

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

    def restart_managers(self) -> None:
        for node in self.kubernetes.having(NodeRole.CONTROL_PLANE):
            self.kubernetes.restart("kube-controller-manager", node.name)

    def renew_secret(self) -> None:
        """Delete the Secret with a legacy token and make another one, which the leader signs."""
        self.tokens.let_go(self.tokens.kept.clear)
        if self.secrets:
            self._insist("delete", "secret", f"legacy-{self.secrets}", "--ignore-not-found")
        self.secrets += 1
        self.tokens.kept.append(token_load.legacy(self.kubernetes, f"legacy-{self.secrets}"))
        self.renewed = datetime.now(UTC)
        say("the Secret with a legacy token was made anew")

    def await_ready(self, node: KubeNode) -> None:
        """Wait until an API server is ready; people are sent there from then on."""
        log = node.machine.processes[API_SERVER]
        wait_for(lambda: self.kubernetes.ready(at=node), _READY_SECONDS, log.last_words, pause=0.5)
        self.operator.restarts.away.discard((node.address, API_PORT))

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

    # What API servers show

    def shown(self, at: Api) -> frozenset[str]:
        """The ids of the keys whose tokens an API server accepts."""
        with contextlib.closing(connection(self.kubernetes, "admin", at)) as one:
            one.request("GET", "/openid/v1/jwks")
            response = one.getresponse()
            text = response.read().decode()
        return _ids(text) if response.status == 200 else frozenset()

    def shown_everywhere(self) -> bool:
        """Whether every API server shows exactly the keys of the record."""
        wanted = _ids(self.operator.ca("jwks", expect=[0]).stdout)
        try:
            return all(self.shown(at) == wanted for at in self.kubernetes.apis)
        except (OSError, http.client.HTTPException):
            # That one is restarted just now.
            return False

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
        found = disks.on_two_machines(self.kubernetes.folder / "agents", self.common)
        assert not found, found


def _ids(text: str) -> frozenset[str]:
    found: dict[str, Any] = json.loads(text)
    return frozenset(each["kid"] for each in found["keys"])


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
        made = SoakedKeys(kind, operator, tokens, pod, phases, asked=wanted)
        with operator.load.running(), tokens.running():
            pod.start()
            made.renew_secret()
            yield made
