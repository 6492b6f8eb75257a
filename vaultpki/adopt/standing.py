"""Shows where an adoption stands: for people with each machine's place and one next command, and for programs; pure."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Final

from vaultpki.adopt import gates, imported_keys, writes
from vaultpki.adopt.drive import AdoptionOutcome
from vaultpki.adopt.look import AdoptionLook
from vaultpki.procedure.standing import MOST_LINES, gate_lines, progress_line, waiting_json
from vaultpki.records.adoption import RECORD, AdoptionRecord, AdoptionState
from vaultpki.records.adoption_report import Held, OldKeys
from vaultpki.records.written import Written
from vaultpki.redact import first_few, printable, stamp, stamped
from vaultpki.rotation import adoption_files
from vaultpki.rotation import adoption_reasons as reasons
from vaultpki.rotation.adoption_evidence import AdoptedMachine
from vaultpki.rotation.adoption_states import WITH_KUBECONFIG, AdoptionStep
from vaultpki.show import table
from vaultpki.show.record_writers import writer_lines, writers_json
from vaultpki.show.table import Column, fitted

_S = AdoptionState

_IS: Final = {
    _S.PREPARED: "all is as kubeadm made it, and nodes enrol one by one",
    _S.PUBLISHED: "everybody learns to trust the new CAs beside the old ones; certificates are the old ones",
    _S.SWITCHED: "nodes take certificates of the new CAs; the old pairs and keys are put aside",
    _S.CLOSED: "controller managers stop signing CSRs with the old CA",
    _S.RETIRED: "nobody trusts the old CAs any more",
    _S.DONE: "the cluster is Vault's; what is left of the old CAs is removed",
    _S.RETRUSTING: "the old CAs are trusted again beside the new ones; certificates stay those of the new ones",
    _S.RETURNING: "nodes take certificates of the old CAs again; CSRs are signed first",
}

_DOES: Final = {
    _S.PUBLISHED: "has everybody trust both",
    _S.SWITCHED: "has nodes take certificates of the new CAs",
    _S.CLOSED: "turns the CSR signers off",
    _S.RETIRED: "takes the old CAs out of every bundle",
    _S.DONE: "ends the adoption: after it there is no way back",
    _S.RETRUSTING: "has everybody trust the old CAs again",
    _S.RETURNING: "has nodes take certificates of the old CAs again",
    _S.PREPARED: "takes the new CAs out of every bundle",
}

_WIDE: Final = 4096
_COLUMNS: Final = (
    Column("NODE", most=_WIDE),
    Column("RUNS", most=_WIDE),
    Column("AGENT", most=_WIDE),
    Column("DONE", most=_WIDE),
    Column("TRUSTS", most=_WIDE),
    Column("CERTIFICATES", most=_WIDE),
    Column("CSR SIGNER", most=_WIDE),
    Column("OLD KEYS", most=_WIDE),
)


def standing_lines(
    outcome: AdoptionOutcome, kubeconfig: str, width: int | None = None, *, back: bool = False
) -> Iterator[str]:
    """Yield where the adoption stands; `back` after a command that leads back. Lines are cut or broken to `width`."""
    if outcome.look.stored.record is None:
        yield from fitted(_without_record(outcome), width)
        return
    yield from fitted(_head(outcome), width)
    yield ""
    yield from table.lines(_COLUMNS, _rows(outcome), width=width)
    yield ""
    yield from fitted(_below(outcome, kubeconfig, back=back), width)


def _without_record(outcome: AdoptionOutcome) -> Iterator[str]:
    for note in outcome.notes:
        yield f"{note[0].upper()}{note[1:]}."
    if not outcome.notes:
        cluster = outcome.look.cluster
        yield f"{cluster.name} is not being taken over."


def _head(outcome: AdoptionOutcome) -> Iterator[str]:
    record = outcome.look.record
    yield f"The adoption of {outcome.look.cluster.name} is {record.state.value} since {stamp(record.since)}:"
    yield f"{_IS[record.state]}."
    if record.state in (_S.CLOSED, _S.RETIRED):
        then = ", when the signer signs" if outcome.look.cluster.signer is not None else ""
        yield f"Nobody signs requests of machines that join by token: they wait until the adoption is done{then}."
    if record.kept:
        yield f"The keys of the old CAs were not deleted; they are kept: {printable(record.kept)}."
    yield from writer_lines(outcome.look.cluster, _written(outcome.look))
    yield from _imported(outcome)
    yield from _still_trusting(outcome.look)


def _written(look: AdoptionLook) -> dict[str, Written]:
    """Return who wrote the record; nothing after a write of this command, which did not read it again."""
    return {RECORD: look.stored.written} if look.stored.written.version else {}


def _imported(outcome: AdoptionOutcome) -> Iterator[str]:
    """Yield what is in Vault of the keys of old CAs, and where they alone are left."""
    look = outcome.look
    there = imported_keys.domains(look)
    if there:
        signing = all(look.imported[ca].signs for ca in there)
        now = "they sign certificates of nodes that go back" if signing else "they sign nothing now"
        yield f"The keys of the old CAs of {first_few(there)} are in Vault too, and {now}."
    other = [ca for ca in look.imported if ca not in there]
    if other:
        yield f"The CA that was imported for {first_few(other)} is not the old CA of this cluster: it does not count."
    alone = [each.name for each in look.seen.machines if each.report is not None and each.report.no_signer]
    if alone:
        yield printable(
            f"No CSRs are signed by the controller manager of {first_few(alone)}, since the key of the old CA is not "
            "there. Put ca.key back before the certificates of kubelets end: after the way back nobody renews them."
        )


def _still_trusting(look: AdoptionLook) -> Iterator[str]:
    """Yield what machines have found at the end that does not belong there any more."""
    for each in look.seen.machines if look.record.state is _S.DONE else ():
        if each.report is not None and each.report.pairs:
            yield printable(
                f"{each.name} has {first_few(each.report.pairs)}: write what `vaultpki issue admin --dir DIR` makes "
                "into that file, once `ca.also_trust` is out of cluster.yaml and applied."
            )


def _rows(outcome: AdoptionOutcome) -> Iterator[tuple[str, ...]]:
    record = outcome.look.record
    step = AdoptionStep(record, record.state, outcome.look.now)
    for each in sorted(outcome.look.seen.machines, key=lambda one: (not one.plane, one.name)):
        report = each.report
        name = f"{each.name} (has the turn)" if each.name == record.turn else each.name
        agent = "none" if not each.enrolled else "reports" if report is not None else "silent"
        if report is None:
            yield printable(name), _runs(each), agent, "-", "-", "-", _signer(each.signs), "-"
            continue
        done = report.reached.value if report.reached is not None else "nothing"
        yield (
            printable(name),
            _runs(each),
            agent if reasons.answers(step, report) else "has not read the record",
            done,
            _held(report.trust, report.memory),
            _held(report.leaves, report.shown),
            _signer(report.signer),
            {OldKeys.IN_PLACE: "in place", OldKeys.ASIDE: "aside", OldKeys.NONE: "-"}[report.keys],
        )


def _runs(each: AdoptedMachine) -> str:
    parts = (("control plane", each.plane), ("etcd", each.member), ("kubelet", each.kubelet))
    return ", ".join(name for name, there in parts if there)


def _held(disk: Held, memory: Held) -> str:
    return disk.value if disk is memory else f"{disk.value}, in memory {memory.value}"


def _signer(signs: bool | None) -> str:
    return {True: "on", False: "off", None: "-"}[signs]


def _below(outcome: AdoptionOutcome, kubeconfig: str, *, back: bool) -> Iterator[str]:
    look = outcome.look
    record, now = look.record, look.now
    due = writes.due(record, look.seen)
    if due:
        yield "Not done yet in the cluster's API server:"
        for each in due:
            yield printable(f"  {each.text}")
    command = f"{look.cluster.file_option} --kubeconfig {kubeconfig}".lstrip()
    lines = gate_lines(outcome.gate, now, f"vaultpki adopt status {command} --json")
    yield from (printable(line.replace(WITH_KUBECONFIG, command)) for line in lines)
    yield from lacking_lines(outcome)
    for note in outcome.notes:
        yield printable(f"{note[0].upper()}{note[1:]}.")
    yield printable(f"Next: {_next(outcome, command, back=back)}.")
    home = gates.next_state(record.state, back=True)
    if home is not None and not back:
        yield printable(f"Back: `vaultpki adopt abort {command}` {_DOES[home]}.")


def lacking_lines(outcome: AdoptionOutcome) -> Iterator[str]:
    """Yield the kubeconfigs on machines that a person's word is about; nothing if nobody asks for it."""
    found = _lacking(outcome)
    if found and outcome.to is not None:
        step = AdoptionStep(outcome.look.record, outcome.to, outcome.look.now)
        yield f"Kubeconfigs without {gates.held_outside(step)}, as agents see them:"
        yield from (f"  {each}" for each in found[:MOST_LINES])
    if found[MOST_LINES:]:
        yield f"  and {len(found) - MOST_LINES} more; `vaultpki adopt status --json` lists them"


def _lacking(outcome: AdoptionOutcome) -> tuple[str, ...]:
    if outcome.to is None or all(each.node != gates.OUTSIDE for each in outcome.gate.waiting):
        return ()
    look = outcome.look
    return adoption_files.lacking(AdoptionStep(look.record, outcome.to, look.now), look.seen.machines)


def _next(outcome: AdoptionOutcome, command: str, *, back: bool) -> str:
    """Return the one next thing to do, with its command."""
    look = outcome.look
    verb = "abort" if back else "continue"
    again = f"`vaultpki adopt {verb} {command}`"
    due, moves = writes.due(look.record, look.seen), outcome.gate.turn not in ("", look.record.turn)
    if outcome.over and not due:
        if look.record.state is _S.PREPARED:
            return f"`vaultpki adopt abort {command}` gives the adoption up, and each machine becomes kubeadm's again"
        if look.cluster.authority.also_trust:
            return f"take `ca.also_trust` out of {look.cluster.file}, and `vaultpki apply{look.cluster.file_option}`"
        return "nothing; the adoption is done"
    coming = [] if back else _coming_home(look)
    if coming:
        return (
            f"`vaultpki adopt abort {command}` gives {first_few(coming)} the turn to end the way back; {again} leads "
            "onward again"
        )
    if due or moves or gates.joins_open(look.record):
        return f"{again} goes on"
    if outcome.to is not None and outcome.gate.open(look.now):
        return f"{again} {_DOES[outcome.to]}"
    person = next((each for each in outcome.gate.waiting if not each.itself), None)
    if person is not None:
        return f"{person.node} {person.reason.replace(WITH_KUBECONFIG, command)}"
    return f"wait; `vaultpki adopt {verb} {command} --wait` goes on by itself"


def _coming_home(look: AdoptionLook) -> list[str]:
    """Return the machines that take their turns in prepared and come from a later state: only an abort gives turns."""
    if look.record.state is not _S.PREPARED:
        return []
    told = ((each.name, each.report) for each in look.seen.machines if each.by_turn and each.report is not None)
    return [name for name, report in told if report.reached not in (None, _S.PREPARED)]


def progress(outcome: AdoptionOutcome) -> str:
    """Return one line about a wait, as that of CAs."""
    look = outcome.look
    return progress_line(f"the adoption is {look.record.state.value}", outcome.gate, look.now)


def document(outcome: AdoptionOutcome) -> dict[str, Any]:
    """Return where the adoption stands, for programs."""
    look = outcome.look
    record: AdoptionRecord | None = look.stored.record
    return {
        "cluster": look.cluster.name,
        "state": record.state.value if record is not None else None,
        "since": stamp(record.since) if record is not None else None,
        "revision": record.revision if record is not None else None,
        "turn": record.turn or None if record is not None else None,
        "next": outcome.to.value if outcome.to is not None else None,
        "kept": (record.kept or None) if record is not None else None,
        "moved": outcome.moved,
        "over": outcome.over,
        "opens": stamped(outcome.gate.opens),
        "waiting_for": waiting_json(outcome.gate.waiting),
        "kubeconfigs": list(_lacking(outcome)),
        "writes": [each.text for each in writes.due(record, look.seen)] if record is not None else [],
        "nodes": [_machine(each) for each in look.seen.machines],
        "imported": {
            ca: {"sha256": each.sha256, "signs": each.signs, "old_ca": ca in imported_keys.domains(look)}
            for ca, each in look.imported.items()
        },
        "notes": list(outcome.notes),
        "written": writers_json(_written(look)),
    }


def _machine(each: AdoptedMachine) -> dict[str, Any]:
    report = each.report
    return {
        "name": each.name,
        "control_plane": each.plane,
        "etcd": each.member,
        "agent": each.enrolled,
        "revision": report.revision if report is not None else None,
        "reached": report.reached.value if report is not None and report.reached is not None else None,
        "trust": report.trust.value if report is not None else None,
        "in_memory": report.memory.value if report is not None else None,
        "certificates": report.leaves.value if report is not None else None,
        "shown": report.shown.value if report is not None else None,
        "signer": report.signer if report is not None else None,
        "old_keys": report.keys.value if report is not None else None,
        "owed": list(report.owed) if report is not None else [],
    }
