"""A run dies at every call that changes the disk; the machine works in between, and goes on or back afterwards."""

from __future__ import annotations

import os
import shutil
import sys
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from helpers.kube.taken_over_machine import TakenOverMachine
from vaultpki.disk import exchange
from vaultpki.host import pod_manifest
from vaultpki.records.adoption import AdoptionState as S
from vaultpki.records.adoption import ClusterShape
from vaultpki.takeover import carry_out

KILLED = 77
CALLS = (
    "rename",
    "unlink",
    "mkdir",
    "rmdir",
    "symlink",
    "link",
    "fsync",
    "fchmod",
    "fchown",
    "utime",
    "chmod",
    "write",
)
EVERY = os.environ.get("VAULTPKI_EVERY_CUT") == "1"


def run_until(work: Callable[[], object], at: int) -> bool:
    """Whether `work` died right before its change number `at`; False where it was through before that."""
    pid = os.fork()
    if pid == 0:
        try:
            count = iter(range(1 << 20))

            def counted(real: Callable[..., Any]) -> Callable[..., Any]:
                def wrapped(*arguments: Any, **options: Any) -> Any:
                    if next(count) == at:
                        os._exit(KILLED)
                    return real(*arguments, **options)

                return wrapped

            for name in CALLS:
                setattr(os, name, counted(getattr(os, name)))
            exchange.swap_names = counted(exchange.swap_names)
            work()
            os._exit(0)
        except BaseException:  # noqa: BLE001 -- a forked pytest must not go on
            traceback.print_exc(file=sys.__stderr__)
            os._exit(1)
    code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    assert code in (0, KILLED), f"the run neither died nor ended well: exit {code}"
    return code == KILLED


def works(machine: TakenOverMachine) -> None:
    """Every file that a manifest or kubeconfig names is there, a pair is whole, and everybody can be started anew."""
    machine.processes.restart_all()
    for component in machine.processes.load():
        problem = machine.processes.problem(component)
        assert not problem, f"{component}: {problem}"
    signing = machine.processes.load()["kube-controller-manager"]["read"].get("cluster-signing-cert-file", "")
    assert signing in ("", machine.old["kubernetes"].pem)


def between(machine: TakenOverMachine, state: S, after: S) -> None:
    """After a reboot in between, whoever shows a certificate is trusted by whoever checks it."""
    trusted = {name: machine.processes.trust(name, mixed=True) for name in machine.processes.load()}
    shown = {name: machine.processes.shows(name) for name in machine.processes.load()}
    for server, sides in trusted.items():
        for client, side in shown.items():
            assert side in sides, f"{state} -> {after}: {client} shows {side}, {server} trusts {sides}"


STEPS = [
    ((), S.PUBLISHED),
    ((S.PUBLISHED,), S.SWITCHED),
    ((S.PUBLISHED, S.SWITCHED), S.CLOSED),
    ((S.PUBLISHED, S.SWITCHED, S.CLOSED), S.RETIRED),
    ((S.PUBLISHED, S.SWITCHED, S.CLOSED, S.RETIRED), S.DONE),
    ((S.PUBLISHED, S.SWITCHED, S.CLOSED, S.RETIRED), S.RETRUSTING),
    ((S.PUBLISHED, S.SWITCHED), S.RETURNING),
    ((S.PUBLISHED, S.SWITCHED, S.RETURNING), S.PREPARED),
    ((S.PUBLISHED,), S.PREPARED),
    ((S.PREPARED,), None),
]


AT_ONCE = {(S.PUBLISHED,): S.SWITCHED, (S.PUBLISHED, S.SWITCHED, S.RETURNING): S.PREPARED}


@pytest.mark.parametrize(
    ("before", "state", "shape"),
    [
        *((*each, ClusterShape.OTHER) for each in STEPS),
        *((before, state, ClusterShape.ONE_PLANE) for before, state in AT_ONCE.items()),
    ],
)
def test_a_run_that_dies_goes_on_and_back(
    tmp_path: Path, before: tuple[S, ...], state: S | None, shape: ClusterShape
) -> None:
    root = tmp_path / "m"
    root.mkdir()
    machine = TakenOverMachine(root)
    fresh = machine.snapshot()
    for each in before:
        machine.go(each)
    if state is not None:
        machine.agent_pass(state)
    saved = tmp_path / "saved"
    _copy(root, saved)

    def restored() -> None:
        shutil.rmtree(root)
        _copy(saved, root)
        # Moments of the processes are those of before.

    assert not run_until(lambda: carry_out.carry_out(machine.run(state, shape=shape)), 1 << 19)
    wanted, manifests = machine.snapshot(), _manifests(machine)
    # Home is a short way, at whose end everything is removed that a manifest could still name.
    at, step = 0, 1 if EVERY else 5 if state is None else 17
    while True:
        restored()
        if not run_until(lambda: carry_out.carry_out(machine.run(state, shape=shape)), at):
            break
        works(machine)
        if state not in (None, S.DONE):
            between(machine, before[-1] if before else S.PREPARED, state)
        # On, from a machine that was booted anew.
        machine.go(state, shape=shape)
        assert carry_out.left(machine.run(state, shape=shape)) == [], at
        _same(machine.snapshot(), wanted, at)
        assert _manifests(machine) == manifests, at
        assert state is not None or machine.snapshot() == fresh, at
        if state is S.PUBLISHED and not before:
            # Back, in place of on.
            restored()
            run_until(lambda: carry_out.carry_out(machine.run(state, shape=shape)), at)
            machine.go(S.PREPARED, shape=shape)
            machine.go(None)
            assert machine.snapshot() == fresh, at
        at += step
    assert at > 20


def test_a_removal_that_dies_is_finished_by_the_next_run(tmp_path: Path) -> None:
    """Nothing but what agent.yaml and the record say leads there: the record is deleted by then."""
    root = tmp_path / "m"
    root.mkdir()
    machine = TakenOverMachine(root)
    fresh = machine.snapshot()
    machine.go(S.PREPARED)
    assert Path(machine.where.aside, "signer/ca.key").exists()
    for step in carry_out.left(machine.run(None))[:-1]:
        step.do()
    saved = tmp_path / "saved"
    _copy(root, saved)
    nothing, at = machine.assignment(None), 0

    def home() -> bool:
        target = carry_out.asked_of(machine.config, nothing).target
        return target is not None and carry_out.carry_out(machine.run(target.state))

    dies = True
    while dies:
        shutil.rmtree(root)
        _copy(saved, root)
        # The files are kubeadm's own again, and only what was prepared is left.
        (removal,) = carry_out.left(machine.run(None))
        dies = run_until(removal.do, at)
        home()
        kept = [path for top in (machine.where.aside, f"{machine.state}/takeover") for path in Path(top).rglob("*")]
        assert (kept, machine.snapshot()) == ([], fresh), at
        at += 1 if EVERY else 7
    assert at > 20


def _copy(source: Path, to: Path) -> None:
    os.system(f"cp -a {source} {to}")  # noqa: S605 -- with links, owners and times


def _manifests(machine: TakenOverMachine) -> dict[str, bytes]:
    """The manifests without the marks of restarts."""
    folder = Path(machine.where.kubeconfigs, "manifests")
    return {path.name: pod_manifest.plain(path.read_bytes(), str(path)) for path in sorted(folder.iterdir())}


def _same(found: dict[str, tuple[str, int, int]], wanted: dict[str, tuple[str, int, int]], at: int) -> None:
    """The same files with the same modes; manifests, names of generations and times are free."""
    free = ("manifests/", ".vaultpki/")
    assert found.keys() - {n for n in found if ".vaultpki/" in n} == wanted.keys() - {
        n for n in wanted if ".vaultpki/" in n
    }, at
    for name, (digest, mode, _) in found.items():
        if not any(each in name for each in free):
            assert (digest, mode) == wanted[name][:2], (at, name)
