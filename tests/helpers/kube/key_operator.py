"""Who rotates the service-account keys of a cluster, while tokens of each API server are used at every one."""

from __future__ import annotations

import base64
import contextlib
import hashlib
import http.client
import json
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature

from helpers.kube import own_keys
from helpers.kube.client_load import connection
from helpers.kube.components import API_PORT
from helpers.kube.kube_cluster import KubeNode, Kubernetes
from helpers.kube.operator_under_load import OperatorUnderLoad
from helpers.kube.restarts import API_SERVER
from helpers.kube.token_load import LIFE, Api, Token, TokenLoad
from helpers.vault.servers import wait_for
from vaultpki.certificates import SKEW
from vaultpki.model import NodeRole
from vaultpki.pki import keys
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
# What a command says whose API server is restarted just now, or that has nothing to do.
PASSES: Final = ("cannot be reached", "in time", "is being rotated; `vaultpki ca rotate")
_ENDED: Final = object()

Task = Iterator[None]
"""What happens beside the steps of an operator; each `yield` lets the operator go on."""


@dataclass(slots=True)
class KeyOperator:
    """One cluster under load, what is done to its keys, and the states that they went through, oldest first."""

    operator: OperatorUnderLoad
    tokens: TokenLoad
    states: list[KeyState] = field(default_factory=list, kw_only=True)
    said: str = field(default="", kw_only=True)

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

    def rotate(self, *words: str) -> None:
        """Begin; a command that had no answer in time is run again, and goes on where it stopped."""
        wait_for(
            lambda: self._ran("rotate", SERVICE_ACCOUNT_KEYS, *words), _ATTEMPTS_SECONDS, lambda: self.said, pause=_LOOK
        )

    def step(self, act: str = "continue", *words: str | Path) -> None:
        """One run of a command, with what a person has to say in this state."""
        record, said = self.record, list[str | Path](words)
        if record is not None and record.state in SIGNING:
            said += ["--kubeconfig", self.kubernetes.admin]
            said += [] if record.stated else ["--token-life", f"{STATED}s", "--yes"]
        self._ran(act, *said)

    def _ran(self, *words: str | Path) -> bool:
        ran = self.operator.ca(*words, expect=(0, 1, 3), timeout=_COMMAND_SECONDS)
        self.said = ran.stdout + ran.stderr
        assert ran.returncode != 1 or any(each in ran.stderr for each in PASSES), self.said
        return ran.returncode != 1

    def lead(
        self, there: Callable[[KeyRecord], bool], act: str = "continue", *tasks: Task, words: tuple[str, ...] = ()
    ) -> None:
        """Take steps until the record is as it shall be, and the tasks beside have ended."""
        deadline, running = time.monotonic() + _MOST_SECONDS, list(tasks)
        while True:
            running = [each for each in running if next(each, _ENDED) is not _ENDED]
            record = self.record
            assert record is not None, self.said
            if record.state not in self.states[-1:]:
                self.states.append(record.state)
                self.note(f"{SERVICE_ACCOUNT_KEYS} are {record.state.value}")
            if there(record) and not running:
                return
            self.step(act, *words)
            if not running:
                self.renew()
            assert time.monotonic() < deadline, f"stays {record.state.value}: {self.said}"
            time.sleep(_PATIENT_LOOK if record.waits_for_tokens and not running else _LOOK)

    def reach(self, state: KeyState, act: str = "continue", *tasks: Task, words: tuple[str, ...] = ()) -> None:
        self.lead(lambda record: record.state is state, act, *tasks, words=words)

    def settle(self) -> None:
        """Take turns until every API server accepts the tokens of the record's keys, and no other."""
        self.lead(lambda record: self.shown_everywhere())

    def note(self, text: str) -> None:
        """What a run tells as it happens; a soak prints it."""

    def renew(self) -> None:
        """What is done after each step while tokens are waited for; nothing here."""

    def restart_managers(self) -> None:
        """Restart the controller managers, which keep tokens of an hour."""
        for node in self.kubernetes.having(NodeRole.CONTROL_PLANE):
            self.kubernetes.restart("kube-controller-manager", node.name)

    def await_ready(self, node: KubeNode) -> None:
        """Wait until an API server is ready; people are sent there from then on."""
        log = node.machine.processes[API_SERVER]
        wait_for(lambda: self.kubernetes.ready(at=node), _READY_SECONDS, log.last_words, pause=0.5)
        self.operator.restarts.away.discard((node.address, API_PORT))

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


def _ids(text: str) -> frozenset[str]:
    found: dict[str, Any] = json.loads(text)
    return frozenset(each["kid"] for each in found["keys"])


def signed_by(token: Token, key: keys.PrivateKey) -> Token:
    """The same claims signed with another key, under that key's id."""
    assert isinstance(key, ec.EllipticCurvePrivateKey)
    _, claims, _ = token.text.split(".")
    # kube-apiserver looks a key up by this id, which it makes of the public key.
    kid = _encoded(hashlib.sha256(keys.public_der(key)).digest())
    signed = f"{_encoded(json.dumps({'alg': 'ES256', 'kid': kid}).encode())}.{claims}"
    r, s = decode_dss_signature(key.sign(signed.encode(), ec.ECDSA(hashes.SHA256())))
    return Token(token.issuer, token.until, f"{signed}.{_encoded(r.to_bytes(32, 'big') + s.to_bytes(32, 'big'))}")


def _encoded(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()
