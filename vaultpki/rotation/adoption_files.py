"""Finds files beside the table's that an adoption waits for: those that containers have, and those of people; pure."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

from vaultpki.kube.objects import ROOT_COPY
from vaultpki.procedure.phases import Side
from vaultpki.procedure.words import AGENT_DOES
from vaultpki.records.adoption import AdoptionState
from vaultpki.records.adoption_report import STATIC_POD, AdoptionReport, Held, KubeconfigReport
from vaultpki.redact import first_few, printable
from vaultpki.rotation.adoption_evidence import HELD, AdoptedMachine
from vaultpki.rotation.adoption_states import LAST_STEP, AdoptionStep

_TO_THE_END: Final = (AdoptionState.RETIRED, AdoptionState.DONE)
_WORDS: Final = {Side.OLD: "old", Side.NEW: "new"}
_INSTEAD: Final = {
    Side.OLD: "Write an operator's kubeconfig into that file, as it is made by `vaultpki issue admin --dir DIR`",
    Side.NEW: (
        "Write one with a certificate of the old CA into that file, as a control plane prints it: `kubeadm kubeconfig "
        "user --client-name NAME`"
    ),
}


def mounts(step: AdoptionStep, machine: AdoptedMachine, report: AdoptionReport) -> str:
    """Find containers beside the components that would be refused, or refuse others: they read the file of before."""
    home = step.to is AdoptionState.PREPARED
    if machine.later or not (step.trust is Side.BOTH or step.path in (LAST_STEP, _TO_THE_END) or home):
        return ""
    if report.mounts is None:
        return _unseen(machine)
    for each in report.mounts:
        what = f"{each.path}, which {each.who} has mounted"
        if step.trust is Side.BOTH and each.trust in (Held.OLD, Held.NEW):
            lacks = "new" if each.trust is Held.OLD else "old"
            return printable(
                f"{what}, lacks the {lacks} CA. {ROOT_COPY} of any namespace has it. Write it into that file beside "
                f"the other one: `kubectl config set-cluster NAME --kubeconfig {each.path} --embed-certs "
                "--certificate-authority FILE`"
            )
        wrong = Side.NEW if home else Side.OLD
        if step.trust is not Side.BOTH and each.leaves is HELD[wrong]:
            return printable(f"{what}, logs in with a certificate of the {_WORDS[wrong]} CA. {_INSTEAD[wrong]}")
        if not each.fresh and step.path != _TO_THE_END:
            old = f"{each.who} has {each.path} mounted as it was before its last change"
            if each.who.startswith(STATIC_POD):
                # To delete what the API server shows of it restarts nothing.
                return printable(f"{old}. To have it restarted, run there as root: `vaultpki adopt node`")
            return printable(f"{old}{_named(machine)}. Restart it: `kubectl delete pod NAME -n NAMESPACE`")
    return ""


def pairs(step: AdoptionStep, machine: AdoptedMachine, report: AdoptionReport) -> str:
    """Find certificates of the old CAs beside the table: nobody trusts them any more, or can renew them."""
    del machine
    if step.path not in (LAST_STEP, _TO_THE_END) or not report.pairs:
        return ""
    return printable(
        f"{first_few(report.pairs)}: a certificate of the old CA that no state replaces. Put one of Vault's there, "
        "such as by a row of your own in cluster.yaml whose file the flag names. Run `vaultpki apply`. Then have the "
        "file written, and restart what reads it. For the file run there: `vaultpki agent --once`"
    )


def lacking(step: AdoptionStep, machines: Iterable[AdoptedMachine]) -> tuple[str, ...]:
    """Return the kubeconfigs of people that machines see without what the step asks of them: machine and path of each.

    They keep no gate closed: a person's word does.
    """
    return tuple(
        printable(f"{each.name}: {config.path}")
        for each in sorted(machines, key=lambda one: one.name)
        for config in (each.report.kubeconfigs if each.report is not None else ())
        if _lacks(step, config)
    )


def _lacks(step: AdoptionStep, config: KubeconfigReport) -> bool:
    if step.trust is Side.BOTH:
        return config.trust in (Held.OLD, Held.NEW)
    wrong = Held.NEW if step.to is AdoptionState.PREPARED else Held.OLD
    return config.leaves is wrong


def _unseen(machine: AdoptedMachine) -> str:
    if not machine.mounting:
        return ""
    return (
        f"its agent is too old to say which files pods have mounted there. {printable(machine.mounting[0])} mounts "
        f"one of kubeadm's. Upgrade the agent. {AGENT_DOES}"
    )


def _named(machine: AdoptedMachine) -> str:
    """Return which pods the API server shows that mount such files there."""
    return f". There these mount such files: {first_few(machine.mounting)}" if machine.mounting else ""
