"""The peers: a shell script of `bao` calls and a program with hvac, both made from the requests that ours sends."""

from __future__ import annotations

import json
import shlex
import threading
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vaultpki import bootstrap
from vaultpki.model import Cluster
from vaultpki.vault import Answer, Request, Settings, Vault

# What one call makes and a later one needs: a CA's request and its signed certificate.
_HANDED_ON = ("csr", "certificate")


@dataclass(frozen=True, slots=True)
class Step:
    """One request. `takes` is (field of the body, number of the step whose answer holds it under the same name)."""

    method: str
    path: str
    body: dict[str, Any]
    takes: tuple[str, int] | None = None
    gives: str | None = None


class _Recorder(Vault):
    """The product's own road to the server, keeping what went over it, in the order of the answers."""

    def __init__(self, settings: Settings) -> None:
        super().__init__(settings)
        self.taken: list[tuple[Request, Answer]] = []
        self._lock = threading.Lock()

    def call(self, request: Request) -> Answer:
        return self._kept([request], [super().call(request)])[0]

    def many(self, requests: Sequence[Request]) -> list[Answer]:
        return self._kept(requests, super().many(requests))

    def glance(self, reads: Sequence[Request]) -> list[Answer | None]:
        answers = super().glance(reads)
        told = [(read, answer) for read, answer in zip(reads, answers, strict=True) if answer]
        self._kept([read for read, _ in told], [answer for _, answer in told])
        return answers

    def _kept(self, requests: Sequence[Request], answers: list[Answer]) -> list[Answer]:
        with self._lock:
            self.taken += zip(requests, answers, strict=True)
        return answers


def writes_of_apply(cluster: Cluster, settings: Settings, where: bootstrap.Where) -> list[Step]:
    """Every write of an `apply` on this server, which must be empty.

    The peers send the same bodies; of what the server itself chooses (accessors, the root's fingerprint) they repeat
    this run's, which spares them the reads and changes no length.
    """
    recorder = _Recorder(settings)
    bootstrap.apply(cluster, recorder, where, first=None, progress=lambda change: None)
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
    return [_step(request, givers, needed.get(number)) for number, (request, _) in enumerate(writes)]


def reads_of_plan(cluster: Cluster, settings: Settings, where: bootstrap.Where) -> list[Step]:
    """Every read of a `plan` on this server."""
    recorder = _Recorder(settings)
    _, plan = bootstrap.look(cluster, recorder, where)
    if plan.changes:
        raise RuntimeError(f"the plan is not empty: {plan.changes[0]}")
    return [Step(request.method, _lasting(request.path), {}) for request, _ in recorder.taken]


def _lasting(path: str) -> str:
    """The path with an issuer's id, which is new at every apply, by `default`: it is the mount's only issuer."""
    before, found, _ = path.partition("/issuer/")
    return f"{before}/issuer/default" if found else path


def _step(request: Request, givers: dict[str, tuple[int, str]], gives: str | None) -> Step:
    body = dict(request.body or {})
    takes = next(((field, givers[body[field]][0]) for field in _HANDED_ON if body.get(field) in givers), None)
    if takes:
        del body[takes[0]]
    return Step(request.method, _lasting(request.path), body, takes, gives)


def shell_script(steps: Sequence[Step], bao: str, work: Path) -> str:
    """What a platform engineer would write: one `bao` call for each request, its body as JSON on standard input."""
    lines = ["set -eu"]
    for number, step in enumerate(steps):
        verb = {"POST": "write", "PATCH": "patch"}[step.method]
        words = [bao, verb, *([f"-field={step.gives}"] if step.gives else []), step.path, "-"]
        if step.takes:
            field, giver = step.takes
            words.append(f"{field}=@{work}/{giver}.pem")
        out = f"{work}/{number}.pem" if step.gives else "/dev/null"
        lines += [f"{shlex.join(words)} >{shlex.quote(out)} <<'END'", json.dumps(step.body), "END"]
    return "\n".join(lines) + "\n"


def to_json(steps: Sequence[Step]) -> str:
    """The steps for `benchmarks/hvac_peer.py`."""
    return json.dumps([[step.method, step.path, step.body, step.takes] for step in steps])
