"""What an adoption is to the agent of a machine that is taken over: where its files lie, what it trusts and reports.

Its functions are those of `ProcedureOnNode`, and what `adopt node` asks before it does the steps by itself.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Final

from vaultpki.config.taken_over import in_place, located
from vaultpki.errors import StateConflict, VaultpkiError
from vaultpki.host.log import Event
from vaultpki.node.procedures import Followed, MachineStanding, PassMade
from vaultpki.procedure.envelope import ProcedureRecord
from vaultpki.records import adoption
from vaultpki.records.adoption import NAME
from vaultpki.redact import stamp

if TYPE_CHECKING:
    from collections.abc import Callable

    from vaultpki.model import AgentConfig
    from vaultpki.node.assignment import Assignment
    from vaultpki.node.state import AgentState
    from vaultpki.records.node_report import NodeReport

OWN_RECORD: Final = ProcedureRecord(NAME, adoption.read, only_with_foreign=True)

NEXT_STEP_AFTER = 5.0
"""Seconds until a resident agent makes its next pass while steps are left: it does one at a time."""


@contextlib.contextmanager
def entered(config: AgentConfig, wait: float) -> Iterator[AgentConfig]:
    """Yield the configuration with the folders in which the agent's files lie; they stay there until the block ends.

    While they lie aside, and while the take-over restarts components by turns, no hook restarts anything for them.
    Raises Busy if folders are being exchanged.
    """
    if config.taken_over is None:
        yield config
        return
    from vaultpki.takeover import carry_out

    with carry_out.locked(config, wait):
        carry_out.tidy(config)
        found = located(config)
        _make_aside(found)
        restarts = in_place(config.taken_over.directory) and not _led(config)
        yield found if restarts else replace(found, hooks={})


def _led(config: AgentConfig) -> bool:
    """Return whether the take-over has begun on this machine and is not at its end."""
    from vaultpki.records.adoption import AdoptionState
    from vaultpki.takeover.journal import JournalFile

    try:
        known = JournalFile(config.state).value
    except StateConflict:
        return True
    return known.asked not in (None, AdoptionState.DONE)


def _make_aside(config: AgentConfig) -> None:
    """Make the folders for what is not in place, which nobody else may enter."""
    from vaultpki.disk.files import private_folder

    machine = config.taken_over
    if machine is not None:
        if config.directory != machine.directory:
            private_folder(machine.aside)
        if config.folders["kubelet"] != machine.kubelet:
            private_folder(machine.kubelet_aside)


def standing(config: AgentConfig, wanted: Assignment | None, known: AgentState) -> MachineStanding:
    """Return where a machine that is taken over stands; any other one has no steps to do.

    It never trusts the old CAs again with which its adoption is done: their keys are deleted here, or lie where nobody
    looks after them. Of a journal that cannot be read its steps say so.
    """
    machine = config.taken_over
    if machine is None:
        return MachineStanding()
    from vaultpki.takeover import carry_out
    from vaultpki.takeover.journal import Journal, JournalFile

    journal, asked = Journal(), None
    try:
        journal = JournalFile(config.state).value
        if wanted is not None:
            asked = carry_out.asked_of(config, wanted, known.revisions.get(NAME, 0))
    except VaultpkiError as error:
        return MachineStanding(journal.ended, sentence=str(error))
    stands = f"it has done the steps of {journal.reached.value}" if journal.reached else "it is as kubeadm left it"
    where = "in place" if config.directory == machine.directory else f"aside, in {config.directory}"
    dry = "`vaultpki adopt node --dry-run` shows what is left"
    found = f"This machine is taken over: {stands}, and the agent's files lie {where}; {dry}."
    stays = f" {asked.stays[0].upper()}{asked.stays[1:]}." if asked is not None and asked.stays else ""
    return MachineStanding(journal.ended, asked is None or asked.target is not None, found + stays)


def report(made: NodeReport, config: AgentConfig, wanted: Assignment, known: AgentState, clock: float) -> NodeReport:
    """Return the report with what the node says of its take-over; as it is if its machine is not taken over."""
    if config.taken_over is None:
        return made
    from vaultpki.takeover import report as takeover_report
    from vaultpki.takeover.processes import RunningComponents

    highest, running = known.revisions.get(NAME, 0), RunningComponents()
    said = takeover_report.build(config, wanted, highest, running, known.by_vault, clock)
    return replace(made, adoption=said)


def look(config: AgentConfig, known: Assignment, *, allow_http: bool = False) -> tuple[Assignment, str]:
    """Return what the agent read last with the adoption's record as Vault has it now; changes nothing on this machine.

    With it comes a sentence if Vault did not say, "" if it did.
    """
    from vaultpki.agent import ca_trust
    from vaultpki.node import assignment, credential, pins, state

    try:
        highest = ca_trust.known_revisions(state.load(config.state), pins.roots_had(config))
        vault = credential.login(config, allow_http=allow_http, only_looks=True)
        vault.prefer_active()
        return assignment.with_record(config, vault, known, OWN_RECORD, highest), ""
    except VaultpkiError as error:
        return known, unread(known, error)


def unread(known: Assignment, error: VaultpkiError) -> str:
    """Return a sentence that says by what a command goes where Vault did not say where the adoption stands."""
    when = stamp(datetime.fromtimestamp(known.fetched, UTC))
    return (
        f"Vault does not say where the adoption stands ({error}); this goes by what the agent was told last, at {when}"
    )


def follow(
    config: AgentConfig, clock: float, made: PassMade, *, allow_http: bool, alive: Callable[[], None]
) -> Followed:
    """Do the next step that the record asks for, if agent.yaml lets the agent do it.

    A record that is not followed is a failure.
    """
    if config.taken_over is None:
        return Followed()
    from vaultpki.node import assignment
    from vaultpki.takeover import carry_out, consent, old_pairs
    from vaultpki.takeover.processes import RunningComponents

    failures, events, more = dict[str, VaultpkiError](), list[Event](), False
    try:
        wanted = assignment.copy(config, (OWN_RECORD,))
        if wanted is None:
            return Followed()
        asked = carry_out.asked_of(config, wanted)
        if asked.stays:
            failures["adoption"] = StateConflict(asked.stays)
        if asked.target is None or not config.taken_over.by_agent:
            return Followed(failures)
        _count(config)
        tell = lambda text: events.append(Event("take-over", text))  # noqa: E731
        sign = old_pairs.vault_signer(config, allow_http=allow_http)
        run = carry_out.prepare(
            config, wanted, asked.target, RunningComponents(alive=alive), clock=clock, tell=tell, sign=sign
        )
        if carry_out.is_final(run, carry_out.left(run)):
            if consent.waits(run):
                return Followed(failures)
            run = replace(run, finish=True)
        more = carry_out.carry_out(run, most=1)
    except VaultpkiError as error:
        failures["take-over"] = error
    return Followed(failures, tuple(events), clock + NEXT_STEP_AFTER if more else None)


def _count(config: AgentConfig) -> None:
    """Count the time for which this machine has seen retired; who is at work on it now is not disturbed."""
    from vaultpki.errors import Busy
    from vaultpki.takeover import carry_out, consent
    from vaultpki.takeover.journal import JournalFile

    with contextlib.suppress(Busy), carry_out.locked(config, 0.0):
        consent.count(JournalFile(config.state))
