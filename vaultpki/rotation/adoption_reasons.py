"""Finds why a machine keeps the gate of an adoption closed: ordered checks, each with a sentence; pure.

A report counts if its pass has read the record of this state, and what the cluster shows must not contradict it. A
false report harms its own machine, or delays the step.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from datetime import datetime, timedelta
from typing import Final

from vaultpki.procedure.gate import GateCheck, Waiting, first_found
from vaultpki.procedure.phases import Side
from vaultpki.procedure.words import AGENT_DOES, OR_AGENT
from vaultpki.records.adoption import WRITE_BACK, AdoptionRecord, AdoptionState
from vaultpki.records.adoption_report import AdoptionReport, Held, OldKeys
from vaultpki.redact import printable, stamp
from vaultpki.rotation import adoption_files
from vaultpki.rotation.adoption_evidence import HELD, AdoptedMachine
from vaultpki.rotation.adoption_states import FREE_STEPS, LAST_STEP, LEAVES_OF, AdoptionStep

LONGEST_LOOK_AGAIN: Final = 360
"""Seconds for which a gate waits after the last change on a machine: the slowest reader looks every five minutes.

client-go closes connections with its old certificate at that interval (client-go transport/cert_rotation.go).
"""

_CLOCKS: Final = timedelta(seconds=120)
"""By how much the API server's view of a start may differ from the machine's own: clocks, and the status that lags."""


def waits_for(step: AdoptionStep, machine: AdoptedMachine) -> Waiting:
    """Return what must happen on a machine before the step; without a reason if nothing."""
    if not machine.enrolled or machine.report is None:
        return Waiting(machine.name, _no_agent(machine))
    return first_found(machine.name, MACHINE_CHECKS, step, machine, machine.report)


def waiting(step: AdoptionStep, machines: Iterable[AdoptedMachine]) -> Iterator[Waiting]:
    """Yield the machines that the step waits for, by their names, each with its reason; every view says so by this.

    A machine without an agent need not have one in the first state. A step that takes nothing away waits only for those
    that have read a later record.
    """
    free = step.path in FREE_STEPS
    for machine in sorted(machines, key=lambda each: each.name):
        if free:
            apart = _set_back(step, machine, machine.report) if machine.enrolled and machine.report is not None else ""
            if apart:
                yield Waiting(machine.name, apart)
            continue
        optional = step.resting and step.to is not AdoptionState.DONE
        if optional and machine.report is None and not machine.enrolled:
            continue
        if (found := waits_for(step, machine)).reason:
            yield found


def settled(step: AdoptionStep, machine: AdoptedMachine) -> datetime:
    """Return from when on a machine without a reason counts: when its last change has reached every reader."""
    report = machine.report
    since = (report.since if report is not None else None) or machine.time or step.record.since
    # The node's clock may be wrong, and a report can claim anything: never before the state began.
    return max(since, step.record.since) + timedelta(seconds=LONGEST_LOOK_AGAIN)


def fresh(record: AdoptionRecord, report: AdoptionReport) -> bool:
    """Return whether a report's pass has read the record of this state, and no pass there a later one."""
    return record.read_by(report.revision, max(report.highest, report.revision))


def answers(step: AdoptionStep, report: AdoptionReport) -> bool:
    """Return whether a report answers the record as it stands.

    Where the SHA-256 of the old CAs is out of agent.yaml at the end, nobody asks for the record any more.
    """
    ended = step.resting and step.to is AdoptionState.DONE and report.reached is AdoptionState.DONE
    return ended or fresh(step.record, report)


def arrived(record: AdoptionRecord, machine: AdoptedMachine) -> bool:
    """Return whether a machine has done all steps of this state, with every component healthy."""
    report = machine.report
    if report is None or not fresh(record, report) or report.reached is not record.state:
        return False
    return not report.owed and all(each.healthy for each in report.components.values())


def _no_agent(machine: AdoptedMachine) -> str:
    if machine.enrolled and machine.unknown:
        return (
            f"the configuration of its kubelet cannot be read ({printable(machine.unknown)}), so nobody knows whether "
            f"it uses the agent's certificates. Cure that. {_gone(machine)}"
        )
    if machine.enrolled and machine.time is not None:
        return (
            "its agent reports nothing of the adoption. It is older than this vaultpki, or it did not join where "
            f"kubeadm's files lie. In the second case its agent.yaml lacks `adopt`. Upgrade the agent. {AGENT_DOES}. "
            f"Or enrol it again: `{_enroll(machine)}`. Then join it with the folder of kubeadm's certificates: "
            "`vaultpki join FILE --dir DIR`"
        )
    if machine.enrolled:
        return (
            f"is enrolled and reports nothing of the adoption. Start its agent, {OR_AGENT}. Or if it never joined, end "
            f"its credentials: `vaultpki lock {machine.name}`"
        )
    what = "has no agent" if machine.kubelet else "is a member of etcd without an agent"
    return f"{what}. Enrol it: `{_enroll(machine)}`. {_gone(machine)}"


def _set_back(step: AdoptionStep, machine: AdoptedMachine, report: AdoptionReport) -> str:
    highest = max(report.highest, report.revision)
    if report.not_followed:
        return (
            f"has read revision {highest} of the record, and does not follow revision {report.not_followed}. No "
            f"adoption comes so far ahead, so no vaultpki wrote it. Find out who did, and {WRITE_BACK}"
        )
    if highest > step.record.revision:
        return (
            f"has read revision {highest} of the record, and Vault has {step.record.revision}. Vault was restored "
            f"from a snapshot, or somebody changed the record. Restore a later snapshot, or {WRITE_BACK}. Or if the "
            f"machine is wrong about that, join it anew: `{_enroll(machine)}`"
        )
    return ""


def _echo(step: AdoptionStep, machine: AdoptedMachine, report: AdoptionReport) -> str:
    if answers(step, report):
        return ""
    last = f", and last reported at {stamp(machine.time)}" if machine.time is not None else ""
    if machine.silent:
        held = " Until then no other one restarts etcd or kube-apiserver." if machine.by_turn else ""
        return (
            f"has not read the record of {step.record.state.value} yet{last}, and its kubelet is silent. Bring it "
            f"back.{held} {AGENT_DOES}. {_gone(machine)}"
        )
    # Of one whose Node object was deleted nobody knows whether it is silent.
    gone = "" if machine.kubelet else f". {_gone(machine)}"
    late = f"has not read the record of {step.record.state.value} yet{last}"
    return f"{late}. Wait for its agent's next pass, {OR_AGENT}{gone}"


def _steps(step: AdoptionStep, machine: AdoptedMachine, report: AdoptionReport) -> str:
    if report.reached is step.record.state and not report.owed:
        return ""
    first = report.owed[0].rstrip(".") if report.owed else f"its steps of {step.record.state.value}"
    whose = step.record.turn
    if step.record.state is AdoptionState.DONE:
        # Nothing is restarted for it, and no record makes a machine delete what the way back needs.
        how = "Its agent does that. To do it at once, run there as root" if report.by_agent else "Run there as root"
        return f"still owes: {printable(first)}. {how}: {_FINISH}"
    if machine.by_turn and whose and whose != machine.name:
        return (
            f"waits for its turn after {whose}. It still owes: {printable(first)}. Pass the turn on: `{step.command}`"
        )
    if machine.by_turn and not whose:
        return (
            f"waits for its turn, which it gets while no other control plane or member of etcd is away. It still "
            f"owes: {printable(first)}. Give it the turn: `{step.command}`"
        )
    how = f"Its agent does them. To do them at once, run there as root: {_NODE}" if report.by_agent else _MACHINE_DOES
    return f"has not done the steps of {step.record.state.value}: {printable(first)}. {how}"


def _components(step: AdoptionStep, machine: AdoptedMachine, report: AdoptionReport) -> str:
    onward = not step.resting and LEAVES_OF[step.to] is Side.NEW
    if onward and machine.kubelet and "kubelet" not in report.components:
        return (
            "its agent finds no kubelet there, which would be locked out. Correct `folders.kubelet` in its agent.yaml: "
            f"the kubelet's config.yaml lies beside that folder. {AGENT_DOES}"
        )
    if machine.stopped:
        return (
            f"{machine.stopped[0]} does not run there, as the API server shows. Look at its log, and cure that. Have "
            f"its kubelet start it again: {_KUBELET_ANEW}"
        )
    for name, one in report.components.items():
        if not one.healthy:
            why = printable(one.problem) or "it does not say why"
            return f"{name} is not healthy there ({why}). Look at its log, and cure that. {AGENT_DOES}"
    return ""


def _starts(step: AdoptionStep, machine: AdoptedMachine, report: AdoptionReport) -> str:
    """Compare the starts that are reported with those that the API server shows of static pods."""
    del step
    # The agent of one that joined later looks at those components alone that read a CA only when they start.
    for name, shown in machine.started.items() if not machine.later else ():
        told = report.components[name].started if name in report.components else None
        if told is None:
            return f"does not say when {name} started there. {AGENT_DOES}"
        if machine.time is not None and shown > machine.time + _CLOCKS:
            return (
                f"{name} was started there at {stamp(shown)}, after its last report. Wait for the next one, {OR_AGENT}"
            )
        if told > shown + _CLOCKS:
            return (
                f"reports that {name} started at {stamp(told)}, and the API server shows {stamp(shown)}. Wait until "
                f"its kubelet shows the new start, or restart that: {_KUBELET_ANEW}"
            )
    return ""


def _trust(step: AdoptionStep, machine: AdoptedMachine, report: AdoptionReport) -> str:
    return _wrong(step.trust, report.trust, "on its disk", "trusts", machine)


def _memory(step: AdoptionStep, machine: AdoptedMachine, report: AdoptionReport) -> str:
    if step.trust is None:
        return ""
    for name, one in report.components.items():
        if one.trust is Held.UNKNOWN:
            if f"{machine.name}/{name}" in step.record.restarted:
                continue
            return (
                f"it is not known what {name} holds there{_because(one.problem)}. Restart it there, and run "
                f"`{step.command} --restarted {machine.name}/{name}`"
            )
        if found := _wrong(step.trust, one.trust, f"in {name}", "trusts", machine):
            return found
    return "" if report.components else f"reports no component. {AGENT_DOES}"


def _leaves(step: AdoptionStep, machine: AdoptedMachine, report: AdoptionReport) -> str:
    found = _wrong(step.leaves, report.leaves, "on its disk", "has certificates of", machine)
    if found and machine.later:
        return (
            f"joined with certificates of the new CAs, and has none to go back to. It joins again by kubeadm once the "
            f"way back has ended. Until then, {_taken_out(machine)}. Reset it: `kubeadm reset`"
        )
    kept = report.kept_until
    if found and step.leaves is Side.OLD and kept is not None and kept <= step.now:
        return (
            f"its kept certificates of the old CA expired at {stamp(kept)}. It goes on with those of the new one. "
            f"To sign them again with the old CA's key, run there as root: {_NODE}"
        )
    return found


def _shown(step: AdoptionStep, machine: AdoptedMachine, report: AdoptionReport) -> str:
    if step.leaves is None:
        return ""
    for each in machine.served:
        # What neither CA has signed may be presented by somebody on the way, such as a balancer.
        if each.side not in (None, step.leaves):
            which = f"of the {_WORDS[each.side]} CA"
        elif each.own and step.leaves is Side.NEW:
            which = "that its kubelet has made itself"
        else:
            continue
        how = _KUBELET_ANEW if each.row == "kubelet" else "`crictl stop ID`"
        return f"presents a certificate {which} at {each.place} ({each.row}). Restart what listens there: {how}"
    for name, one in report.components.items():
        if one.leaves is Held.UNKNOWN and f"{machine.name}/{name}" not in step.record.restarted:
            return (
                f"it is not known which certificate {name} shows{_because(one.problem)}. Restart it there, and run "
                f"`{step.command} --restarted {machine.name}/{name}`"
            )
        if one.leaves is not Held.UNKNOWN and (
            found := _wrong(step.leaves, one.leaves, f"in {name}", "shows", machine)
        ):
            return found
    return ""


def _signer(step: AdoptionStep, machine: AdoptedMachine, report: AdoptionReport) -> str:
    """Find a CSR signer that runs before the last step, or one that is off at the end of the way back."""
    off = {report.signer, machine.signs} == {False} if machine.plane else True not in (report.signer, machine.signs)
    if step.path == LAST_STEP and not off:
        return f"its controller manager still signs CSRs with the old CA, or does not say. {_does(machine)}"
    # With the key in Vault alone nothing on this machine could sign; its kubelets get their certificates of Vault.
    if report.no_signer and "kubernetes" in step.record.imported:
        return ""
    if step.to is AdoptionState.PREPARED and machine.plane and (report.signer is not True or machine.signs is False):
        # It may not restart that before its turn.
        owes = _steps(step, machine, report)
        return owes or f"its controller manager does not sign CSRs again yet. {_does(machine)}"
    return ""


def _kubelet(step: AdoptionStep, machine: AdoptedMachine, report: AdoptionReport) -> str:
    """Find a kubelet that asks for certificates of the old CA, or does not any more at the end of the way back."""
    if step.leaves is Side.NEW and True in (report.rotates, machine.rotates):
        return f"its kubelet runs with rotateCertificates, and would ask the old CA for a certificate. {_ROTATES}"
    if step.to is AdoptionState.PREPARED and machine.kubelet and False in (report.rotates, machine.rotates):
        return f"its kubelet runs without rotateCertificates, and would not renew its certificate. {_ROTATES}"
    return ""


def _keys(step: AdoptionStep, machine: AdoptedMachine, report: AdoptionReport) -> str:
    if step.resting and step.to is AdoptionState.DONE and report.keys is not OldKeys.NONE and not step.record.kept:
        return f"keys of the old CAs lie there still. Run there as root: {_FINISH}"
    if step.leaves is Side.NEW and report.keys is OldKeys.IN_PLACE:
        return f"the keys of the old CAs lie where kubeadm makes certificates with them. {_does(machine)}"
    if step.to is AdoptionState.PREPARED and report.keys is OldKeys.ASIDE:
        return f"the keys of the old CAs do not lie where kubeadm looks for them yet. {_does(machine)}"
    return ""


def _by_agent(step: AdoptionStep, machine: AdoptedMachine, report: AdoptionReport) -> bool:
    return report.by_agent


MACHINE_CHECKS: Final[tuple[GateCheck[AdoptionStep, AdoptedMachine, AdoptionReport], ...]] = (
    GateCheck(_set_back),
    GateCheck(_echo, lambda step, machine, report: True),
    GateCheck(_signer, _by_agent),
    GateCheck(_steps, _by_agent),
    GateCheck(_components),
    GateCheck(_starts),
    GateCheck(_trust, _by_agent),
    GateCheck(_memory, _by_agent),
    GateCheck(_leaves, _by_agent),
    GateCheck(_shown, _by_agent),
    GateCheck(_kubelet),
    GateCheck(adoption_files.mounts),
    GateCheck(adoption_files.pairs),
    GateCheck(_keys),
)
"""What a gate asks of a machine's report, in this order, and what its agent does at its next pass or turn.

A test runs the command of each sentence.
"""

_WORDS: Final = {Side.OLD: "old", Side.NEW: "new"}
_NODE: Final = "`vaultpki adopt node`"
_MACHINE_DOES: Final = f"Run there as root: {_NODE}"
_FINISH: Final = "`vaultpki adopt node --finish`"
_KUBELET_ANEW: Final = "`systemctl restart kubelet`"
_ROTATES: Final = (
    f"Where a flag or a drop-in of its own sets that, take that out. Then restart the kubelet there: {_KUBELET_ANEW}"
)


def _does(machine: AdoptedMachine) -> str:
    """Return what has a machine do what its state asks: one that joined later has only its agent's files."""
    return AGENT_DOES if machine.later else _MACHINE_DOES


def _enroll(machine: AdoptedMachine) -> str:
    """Return the command that enrols a machine; one with a live credential is enrolled with --replace only."""
    pool, again = " --pool POOL" if machine.pooled else "", " --replace" if machine.enrolled else ""
    return f"vaultpki enroll {machine.name}{pool}{again}"


def _gone(machine: AdoptedMachine) -> str:
    return f"Or if it is gone for good, {_taken_out(machine)}"


def _taken_out(machine: AdoptedMachine) -> str:
    """Return how a machine stops to count; one of the control plane or of etcd counts while its agent may report."""
    how = [f"`kubectl delete node {machine.name}`"] if machine.kubelet else []
    how += ["`etcdctl member remove ID`"] if machine.member else []
    how += [f"`vaultpki lock {machine.name}`"] if machine.by_turn and machine.enrolled else []
    return f"take it out of the cluster by {' and '.join(how)}"


def _wrong(wanted: Side | None, held: Held, where: str, verb: str, machine: AdoptedMachine) -> str:
    """Return what is wrong with CAs that are held, as the rest of a sentence; "" if they are as wanted."""
    if wanted is None or held is HELD[wanted]:
        return ""
    if held in (Held.MIXED, Held.UNKNOWN):
        return f"does not have the same everywhere {where}, or does not say. {_does(machine)}"
    if wanted is Side.BOTH:
        lacks = "new" if held is Held.OLD else "old"
        return f"does not trust the {lacks} CA {where} yet. {_does(machine)}"
    other = "old" if wanted is Side.NEW else "new"
    return f"still {verb} the {other} CA {where}. {_does(machine)}"


def _because(problem: str) -> str:
    return f" ({printable(problem)})" if problem else ""
