"""What an adoption is to the views of a cluster, as `procedures.ca_standing`: which machine it waits for.

`adopt status` judges the machines by the same function, and looks at the Kubernetes cluster too.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from datetime import datetime

from vaultpki.findings.cluster import ProcedureView
from vaultpki.findings.finding import STILL, Finding, found
from vaultpki.identity.nodes import Member
from vaultpki.model import NodeRole
from vaultpki.procedure.standing import waits_for
from vaultpki.provision.cluster_facts import ClusterFacts
from vaultpki.records.adoption import AdoptionRecord, AdoptionState
from vaultpki.redact import first_few, printable, stamp
from vaultpki.rotation import adoption_reasons
from vaultpki.rotation.adoption_evidence import AdoptedMachine
from vaultpki.rotation.adoption_states import FREE_STEPS, ONWARD, AdoptionStep


def view(read: ClusterFacts) -> ProcedureView:
    """Return where an adoption stands; nothing without one, and once nothing of it is left to do."""
    finding = of_adoption(read.adopted, read.nodes.members, read.now, read.cluster.file)
    # Without lines: `adopt status` looks at the Kubernetes cluster too.
    return ProcedureView(() if finding is None else (finding,))


def of_adoption(
    record: AdoptionRecord | None, members: Iterable[Member], now: datetime, file: str = ""
) -> Finding | None:
    """Return where an adoption stands; None without one, and once nothing of it is left to do.

    `members` are all that can log in, with their reports. `now` is the server's time.
    """
    machines = tuple(_machines(members))
    if record is None:
        return _lost(machines, file)
    to = ONWARD.get(record.state, record.state)
    keys = f", with imported keys of {first_few(record.imported)}" if record.imported else ""
    said = f"adoption, {record.state.value} since {stamp(record.since)}{keys}"
    step = AdoptionStep(record, to, now)
    waiting = tuple(adoption_reasons.waiting(step, machines))
    if not waiting:
        if not record.active:
            return None
        owes = (
            "the next step waits for no machine" if step.path in FREE_STEPS else "no machine that reports owes anything"
        )
        return found("adoption-waits", f"{said}: {owes}", file=file)
    first, text = waits_for(said, waiting)
    blocked = not first.itself or now - record.since > STILL
    return found("adoption-blocked" if blocked else "adoption-waits", text, file=file)


def _lost(machines: Iterable[AdoptedMachine], file: str) -> Finding | None:
    """Return that machines stand in the middle of an adoption that has no record."""
    ends = (None, AdoptionState.PREPARED, AdoptionState.DONE)
    begun = [
        f"{each.name} ({each.report.reached.value})"
        for each in machines
        if each.enrolled and each.report is not None and each.report.reached not in ends
    ]
    if not begun:
        return None
    text = (
        f"{first_few(sorted(begun))} stand in an adoption whose record is gone, and stay as they are. The server was "
        "restored from a snapshot, or somebody deleted the record. Restore a later snapshot or the record"
    )
    return found("adoption-lost", printable(text), file=file)


def _machines(members: Iterable[Member]) -> Iterator[AdoptedMachine]:
    """Yield the machines that report of an adoption; what the cluster alone shows is as they say."""
    for each in members:
        told = each.report.adoption if each.report is not None else None
        if each.report is None or told is None or each.locked:
            continue
        roles = each.holder.roles if each.holder is not None else frozenset[NodeRole]()
        plane, member = NodeRole.CONTROL_PLANE in roles, NodeRole.ETCD in roles
        yield AdoptedMachine(
            each.name,
            plane=plane,
            member=member,
            kubelet=NodeRole.WORKER in roles,
            enrolled=True,
            report=told,
            time=each.report.time,
            signs=told.signer,
            rotates=told.rotates,
        )
