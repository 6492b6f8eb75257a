"""The peers: a shell script of `bao` calls and a program with hvac, both made from the requests that ours sends."""

from __future__ import annotations

import json
import shlex
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from vaultpki.model import Cluster
from vaultpki.provision import apply, destroy
from vaultpki.records.server_facts import ServerFacts
from vaultpki.vault import Answer, Request, Settings, Vault

# What one call makes and a later one needs: a CA's request and its signed certificate.
_HANDED_ON = ("csr", "certificate")


@dataclass(frozen=True, slots=True)
class Step:
    """One request. `takes` is (field of the body, number of the step whose answer holds it under the same name).

    `token` is the one to send it with; empty for the caller's.
    """

    number: int
    method: str
    path: str
    body: dict[str, Any]
    takes: tuple[str, int] | None = None
    gives: str | None = None
    token: str = field(default="", repr=False)


class Recorder(Vault):
    """The product's own road to the server, keeping what went over it, in the order of the answers."""

    def __init__(self, settings: Settings) -> None:
        super().__init__(settings)
        self.taken: list[tuple[Request, Answer]] = []
        self._lock = threading.Lock()

    def call(self, request: Request) -> Answer:
        return self._kept([request], [super().call(request)])[0]

    def many(self, requests: Sequence[Request]) -> list[Answer]:
        return self._kept(requests, super().many(requests))

    def _kept(self, requests: Sequence[Request], answers: list[Answer]) -> list[Answer]:
        with self._lock:
            self.taken += zip(requests, answers, strict=True)
        return answers


def writes_of_apply(cluster: Cluster, settings: Settings, where: ServerFacts) -> list[Step]:
    """Every write of an `apply` on this server, which must be empty.

    The peers send the same bodies; of what the server itself chooses (accessors, the root's fingerprint) they repeat
    this run's, which spares them the reads and changes no length.
    """
    recorder = Recorder(settings)
    apply.apply(cluster, recorder, where, first=None, progress=lambda change: None)
    writes = [(request, answer) for request, answer in recorder.taken if request.method not in ("GET", "LIST")]
    givers = {
        str(value): (number, field)
        for number, (_, answer) in enumerate(writes)
        for field in _HANDED_ON
        if (value := (answer.body.get("data") or {}).get(field))
    }
    needed = {
        givers[str(value)][0]: field
        for request, _ in writes
        for field, value in (request.body or {}).items()
        if field in _HANDED_ON and str(value) in givers
    }
    return [_step(number, request, givers, needed.get(number)) for number, (request, _) in enumerate(writes)]


def reads_of_plan(cluster: Cluster, settings: Settings, where: ServerFacts) -> list[Step]:
    """Every read of a `plan` on this server."""
    recorder = Recorder(settings)
    _, plan = apply.observe_and_plan(cluster, recorder, where)
    if plan.changes:
        raise RuntimeError(f"the plan is not empty: {plan.changes[0]}")
    return steps(recorder)


def requests_of_destroy(cluster: Cluster, settings: Settings, where: ServerFacts) -> list[Step]:
    """Every request of a `destroy` on this server."""
    recorder = Recorder(settings)
    destroy.destroy(cluster, recorder, where, progress=lambda path: None)
    return steps(recorder)


def steps(recorder: Recorder) -> list[Step]:
    return [_step(number, request, {}, None) for number, (request, _) in enumerate(recorder.taken)]


def _lasting(path: str) -> str:
    """The path with an issuer's id, which is new at every apply, by `default`: it is the mount's only issuer."""
    before, found, _ = path.partition("/issuer/")
    return f"{before}/issuer/default" if found else path


def _step(number: int, request: Request, givers: dict[str, tuple[int, str]], gives: str | None) -> Step:
    body = dict(request.body or {})
    takes = next(((field, givers[body[field]][0]) for field in _HANDED_ON if body.get(field) in givers), None)
    if takes:
        del body[takes[0]]
    return Step(number, request.method, _lasting(request.path), body, takes, gives)


def shell_script(steps: Sequence[Step], bao: str, work: Path) -> str:
    """What a platform engineer would write: one `bao` call for each request, its body as JSON on standard input."""
    lines = ["set -eu"]
    for step in steps:
        verb = {"POST": "write", "PATCH": "patch"}[step.method]
        words = [bao, verb, *([f"-field={step.gives}"] if step.gives else []), step.path, "-"]
        if step.takes:
            field, giver = step.takes
            words.append(f"{field}=@{work}/{giver}.pem")
        out = f"{work}/{step.number}.pem" if step.gives else "/dev/null"
        lines += [f"{shlex.join(words)} >{shlex.quote(out)} <<'END'", json.dumps(step.body), "END"]
    return "\n".join(lines) + "\n"


def in_turn(steps: Sequence[Step]) -> list[list[Step]]:
    """Each step for itself, after the one before."""
    return [[step] for step in steps]


def apart(steps: Sequence[Step], many: Callable[[Step], bool]) -> list[list[Step]]:
    """Each step for itself, in their order, and at last those of which there are many, all at once."""
    return [*in_turn([step for step in steps if not many(step)]), [step for step in steps if many(step)]]


def to_json(phases: Sequence[Sequence[Step]]) -> str:
    """The steps for `benchmarks/hvac_peer.py`; those of a phase need nothing of each other."""
    return json.dumps([[[s.number, s.method, s.path, s.body, s.takes, s.token] for s in phase] for phase in phases])
