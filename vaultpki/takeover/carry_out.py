"""Leads a machine to what a state asks: the steps in their order, or what each of them would change."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace

from vaultpki.errors import Attention, Busy, StateConflict, VaultpkiError
from vaultpki.model import AgentConfig
from vaultpki.node import state
from vaultpki.node.assignment import Assignment
from vaultpki.records.adoption import NAME, OLD_CAS, WRITE_BACK, AdoptionRecord, AdoptionState
from vaultpki.rotation.adoption_states import command_to
from vaultpki.takeover import asked, csr_signer, folders, journal, plain_files, removal, steps, unfit
from vaultpki.takeover.arrangement import Arrangement
from vaultpki.takeover.asked import AskedOfMachine
from vaultpki.takeover.context import OldCaSigner, TakeOver
from vaultpki.takeover.journal import JournalFile
from vaultpki.takeover.machine import KubeadmMachine, OldAndNew
from vaultpki.takeover.processes import Components
from vaultpki.takeover.steps import MachineStep

_LOCK_WAIT = 60.0


def prepare(
    config: AgentConfig,
    assignment: Assignment,
    target: Arrangement,
    components: Components,
    *,
    clock: float | None = None,
    tell: Callable[[str], None] = lambda text: None,
    sign: OldCaSigner | None = None,
    finish: bool = False,
) -> TakeOver:
    """Return the run that leads this machine to `target`; nothing is changed.

    `sign` has Vault sign with an old CA that was imported; None where Vault is not asked. `finish` is whether what
    cannot be undone may be done.

    Raises StateConflict if the machine is not taken over, or if the agent has prepared nothing yet.
    """
    where, record = config.taken_over, assignment.adoption.record
    if where is None:
        raise StateConflict(
            f"{config.file} does not say that this machine is taken over: the join writes `adopt` into it where "
            "kubeadm's own files lie"
        )
    _refuse_other_cas(config, record)
    machine = KubeadmMachine(where, record.old if record is not None else config.also_trust)
    try:
        cas = machine.cas()
    except StateConflict:
        if not target.home:
            raise
        cas = OldAndNew({}, {})
    run = TakeOver(
        config=config,
        where=where,
        machine=machine,
        journal=JournalFile(config.state),
        assignment=assignment,
        cas=cas,
        target=target,
        components=components,
        clock=time.time() if clock is None else clock,
        turn=record is None or record.turn == config.node or not machine.static_pods(),
        tell=tell,
        kept_keys=record.kept if record is not None else "",
        sign=sign,
        finish=finish,
    )
    return run if csr_signer.can_sign(run) else replace(run, target=replace(target, signer=False))


def _refuse_other_cas(config: AgentConfig, record: AdoptionRecord | None) -> None:
    """Raise StateConflict for a record about other old CAs than those that the owner of this machine lets in.

    By such a record a bundle would be made without the CA whose certificates are in use. One that leaves a domain out
    would have nodes show its new certificates before anybody trusts them. After the end the owner may have taken them
    out.
    """
    if record is not None and record.active:
        lacking = [ca for ca in OLD_CAS if ca in config.also_trust and ca not in record.old]
        if lacking:
            raise StateConflict(
                f"the record of the adoption names no old CA of {lacking[0]}, and also_trust of {config.file} has one; "
                f"find out who wrote the record, and {WRITE_BACK}"
            )
    for ca, hashes in record.old.items() if record is not None and record.active else ():
        other = set(hashes).difference(config.also_trust.get(ca, ()))
        if other:
            raise StateConflict(
                f"the record of the adoption names the old CA {min(other)} of {ca}, and {config.file} does not have "
                f"it in also_trust. Find out who wrote the record, and {WRITE_BACK}. Or if it is right, enrol this "
                f"machine again (`vaultpki enroll {config.node} --replace`)"
            )


def asked_of(config: AgentConfig, wanted: Assignment, highest: int | None = None) -> AskedOfMachine:
    """Return what is asked of the machine of an agent.yaml that is taken over; `wanted` is what its agent read last.

    `highest` is the highest revision of the record that was ever read here; None takes it from the agent's state.

    Raises StateConflict if the machine's journal cannot be read.
    """
    where, record = config.taken_over, wanted.adoption.record
    if where is None:
        return AskedOfMachine(None)
    if highest is None:
        highest = state.load(config.state).revisions.get(NAME, 0)
    machine, known = KubeadmMachine(where, record.old if record is not None else {}), JournalFile(config.state).value
    both = record is not None and known.reached is None and machine.joined_by_both()
    return asked.asked(wanted, known, highest, machine.kind(), trusts_both=both)


def way_home(config: AgentConfig) -> tuple[Arrangement, ...]:
    """Return what the machine of an agent.yaml is led through, one after the other, until it is as kubeadm left it."""
    return asked.way_home(JournalFile(config.state).value)


def refuse_leaving(config: AgentConfig, wanted: Assignment) -> None:
    """Raise StateConflict if a person may not lead this machine home now, where no abort has led it back."""
    record, known = wanted.adoption.record, JournalFile(config.state).value
    found = asked_of(config, wanted)
    if AdoptionState.DONE in (known.asked, known.reached):
        raise StateConflict(
            "the adoption is done on this machine, and kubeadm's files are deleted; there is no way back"
        )
    at_home = {known.asked, known.reached} <= {None, AdoptionState.PREPARED}
    if found.stays and not at_home and (record is not None or wanted.adoption.not_followed):
        raise StateConflict(found.stays)
    if not found.stays and record is not None and record.state is not AdoptionState.PREPARED:
        raise StateConflict(
            f"the adoption is {record.state.value}, and a machine leaves it only in prepared; `vaultpki adopt abort` "
            "leads back there"
        )


def left(run: TakeOver) -> list[MachineStep]:
    """Return the steps that are not done, in their order.

    Raises StateConflict if a manifest would be left out, or if the machine cannot be led there and back as it is.
    """
    if not run.target.home or run.journal.value.kept:
        unfit.refuse_unreadable(run)
    found = [step for step in steps.steps(run) if not step.done()]
    # Once kubeadm's own files are deleted there is no way back that could fail, and nothing to compare with.
    if found and not run.target.home and run.journal.value.reached is not AdoptionState.DONE:
        unfit.refuse_unfit(run)
    return found


def lines(run: TakeOver) -> Iterator[str]:
    """Yield what the steps that are left would change, in their order, and how to go back. Raises as `carry_out`."""
    unfit.refuse_writable(run)
    todo = {step.what for step in left(run)}
    # A process that runs with what lies there now is restarted once that has changed.
    shown = [step for step in steps.steps(run) if step.what in todo or step.after & todo]
    for number, step in enumerate(shown, 1):
        yield f"{number}. {step.what}"
        yield from (f"   {each}" for each in step.details())
    if todo:
        yield _way_back(run)


def _way_back(run: TakeOver) -> str:
    if run.target.state is AdoptionState.DONE:
        return "There is no way back after this."
    if run.target.home:
        return "The machine is then as kubeadm left it."
    return "To go back: `vaultpki adopt abort` where the cluster is applied, then this command again on each machine."


def carry_out(run: TakeOver, *, most: int | None = None) -> bool:
    """Do every step that is left, with `most` at most so many of those that restart something.

    Returns whether anything was done, so that a further run may find more.

    Raises Attention if it is another machine's turn, or for a last step that nobody has agreed to, and StateConflict if
    a component is not healthy, or if others may write what root starts here; a further run goes on.
    """
    unfit.refuse_writable(run)
    try:
        _clean(run, 0.0)
    except Busy:
        # Whoever is at work has put right what an interrupted run left, and may hold the lock for long.
        if is_whole(run):
            return False
        _clean(run, _LOCK_WAIT)
    todo, done, restarts = left(run), False, 0
    if todo and not run.turn and steps.needs_turn(run):
        record = run.assignment.adoption.record
        named = record is not None and record.turn
        whose = f"it is the turn of {named}" if named else "no machine has its turn yet"
        command = command_to(record.state if record is not None else AdoptionState.PUBLISHED)
        raise Attention(
            f"etcd and kube-apiserver restart on one machine at a time, and {whose}; `{command}` gives turns where the "
            "cluster is applied"
        )
    if not run.finish and is_final(run, todo):
        raise Attention(
            "this is the last step on this machine, and there is no way back from it: `vaultpki adopt node --finish` "
            "as root takes it"
        )
    if not run.target.home:
        run.journal.save(asked=run.target.state)
    for step in steps.steps(run):
        if step.done():
            continue
        if step.locked:
            with locked(run.config, _LOCK_WAIT):
                _tidy(run)
                step.do()
        else:
            step.do()
        done = True
        if not step.done():
            raise StateConflict(f"{step.what}: it is not as it should be afterwards; run this again")
        restarts += bool(step.restarts)
        if most is not None and restarts >= most:
            return True
    if not run.target.home:
        run.journal.save(reached=run.target.state, ended=removal.ended(run))
    return done


def is_final(run: TakeOver, todo: Sequence[MachineStep]) -> bool:
    """Return whether steps that are left, or that they are noted as done, cannot be undone."""
    ends = run.target.state is AdoptionState.DONE and run.journal.value.reached is not AdoptionState.DONE
    return ends or any(step.final for step in todo)


def is_whole(run: TakeOver) -> bool:
    """Return whether no step is left, and that is noted; False too where it cannot be told while another is at work."""
    known = run.journal.value
    with contextlib.suppress(VaultpkiError):
        return not left(run) and (run.target.home or known.asked is known.reached is run.target.state)
    return False


def _clean(run: TakeOver, wait: float) -> None:
    """Put right what an interrupted run left. Raises Busy if another process is at work for `wait` seconds."""
    with locked(run.config, wait):
        run.journal.read_again()
        _tidy(run)
        plain_files.remove_leftovers(run)


def _tidy(run: TakeOver) -> None:
    folders.tidy(run.where.directory, run.where.aside)
    folders.tidy(run.where.kubelet, run.where.kubelet_aside)


def tidy(config: AgentConfig) -> None:
    """Put right what an interrupted exchange of folders left, before anybody looks where the agent's files lie."""
    where = config.taken_over
    if where is not None:
        folders.tidy(where.directory, where.aside)
        folders.tidy(where.kubelet, where.kubelet_aside)


@contextlib.contextmanager
def locked(config: AgentConfig, wait: float) -> Iterator[None]:
    """Hold the lock of this machine's take-over; Busy if another process holds it for `wait` seconds."""
    if config.taken_over is None:
        yield
        return
    with contextlib.ExitStack() as stack:
        try:
            stack.enter_context(journal.lock(config.state, wait))
        except BlockingIOError:
            raise Busy(
                f"{config.state}: `vaultpki adopt node` or the agent is at work on this machine; wait for it to end"
            ) from None
        yield
