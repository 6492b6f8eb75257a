"""What a node reports of its take-over: what lies on its disk, and what each process was started with."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from datetime import datetime

from vaultpki.errors import StateConflict, VaultpkiError
from vaultpki.host import boot_time
from vaultpki.host.boot_time import Moment
from vaultpki.host.pod_manifest import PodManifest
from vaultpki.model import AgentConfig
from vaultpki.node.assignment import Assignment
from vaultpki.records.adoption import AdoptionState
from vaultpki.records.adoption_report import AdoptionReport, ComponentReport, Held, common
from vaultpki.rotation.adoption_states import SIGNER_ON
from vaultpki.takeover import arrangement, beside, carry_out, consent, starts
from vaultpki.takeover.arrangement import FolderKind
from vaultpki.takeover.context import TakeOver
from vaultpki.takeover.journal import Prepared, read
from vaultpki.takeover.processes import Components


def build(
    config: AgentConfig,
    assignment: Assignment,
    highest: int,
    components: Components,
    when: Callable[[float], datetime],
    clock: float,
) -> AdoptionReport | None:
    """Return what this node reports of its take-over; None on a machine that is not taken over.

    `highest` is the highest revision of the record that was ever read here, 0 for none. `clock` is Unix time, and
    `when` makes a time of Vault's clock out of one of this machine's. Raises nothing: what fails is said in the report.
    """
    where, record = config.taken_over, assignment.adoption.record
    if where is None:
        return None
    revision, by_agent = (record.revision if record is not None else 0), where.by_agent
    try:
        found = carry_out.asked_of(config, assignment, highest)
        run = carry_out.prepare(config, assignment, found.target or arrangement.HOME, components, clock=clock)
        owed = [found.stays] if found.stays else []
        made = _report(run, revision, when, [*owed, *(_owed(run) if found.target is not None else [])])
    except VaultpkiError as error:
        made = AdoptionReport(revision, by_agent=by_agent, owed=(str(error),))
    return replace(made, highest=max(highest, revision), not_followed=assignment.adoption.not_followed)


def _report(run: TakeOver, revision: int, when: Callable[[float], datetime], owed: list[str]) -> AdoptionReport:
    found, now = {}, boot_time.now()

    def time_of(moment: Moment) -> datetime:
        return when(run.clock - max(now.uptime - moment.uptime, 0.0))

    trust, leaves, entries = [], [], dict[str, Prepared | None]()
    pods = run.machine.static_pods()
    for component in run.machine.components():
        path = pods.get(component)
        flags = PodManifest((read(path) or (b"", None))[0], path).flags if path is not None else {}
        trust.append(run.machine.trust(component, run.cas, flags))
        leaves.append(run.machine.leaves(component, run.cas, flags))
        entries[component] = _held(run, component)
        found[component] = _component(run, component, entries[component], time_of)
    if run.machine.has_other_member(run.assignment.roles):
        # Nobody but who runs it knows what it read, so a person says that it was restarted.
        trust.append(run.machine.trust("etcd", run.cas, run.machine.member_flags))
        leaves.append(run.machine.leaves("etcd", run.cas, run.machine.member_flags))
        found["etcd"] = _component(run, "etcd", None, time_of)
    signer, kubelet = entries.get("kube-controller-manager"), entries.get("kubelet")
    known = run.journal.value
    changes = [each.moment for held in known.prepared.values() for each in held if each.moment is not None]
    current = [each for each in changes if each.boot == now.boot]
    return AdoptionReport(
        revision=revision,
        reached=known.reached,
        trust=common(trust),
        leaves=common(leaves),
        components=found,
        signer=signer.active if signer is not None else None,
        rotates=kubelet.active if kubelet is not None else None,
        keys=run.machine.keys(),
        kept_until=run.machine.kept_until(run.cas),
        by_agent=run.where.by_agent,
        owed=tuple(owed),
        since=time_of(max(current, key=lambda each: each.uptime)) if current else None,
        mounts=beside.report(
            run, {pod.manifest: starts.mounting_pod_is_ready(run, pod) for pod in beside.pods(run.machine)}
        ),
        pairs=(*beside.named_pairs(run), *beside.still_trusting(run)),
        kubeconfigs=beside.kubeconfigs(run),
        no_signer=not run.target.signer and (run.target.home or run.target.state in SIGNER_ON),
    )


def _held(run: TakeOver, component: str) -> Prepared | None:
    """Return what a component was started with; what lies there, where nothing was changed since kubeadm."""
    if component in run.journal.value.prepared:
        return starts.held(run, component)
    if run.machine.kind() is not FolderKind.KUBEADM or not run.components.started(component):
        return None
    active = starts.signs(run) if component == "kube-controller-manager" else None
    active = starts.rotates(run) if component == "kubelet" else active
    return Prepared("", Held.OLD, Held.OLD, active, "", None)


def _component(
    run: TakeOver, component: str, entry: Prepared | None, time_of: Callable[[Moment], datetime]
) -> ComponentReport:
    started = run.components.started(component)
    problem = run.components.problem(component)
    if not started:
        return ComponentReport(problem=problem or "no process of it was seen")
    return ComponentReport(
        started=time_of(started[-1]).replace(microsecond=0),
        trust=entry.trust if entry is not None else Held.UNKNOWN,
        leaves=entry.leaves if entry is not None else Held.UNKNOWN,
        healthy=not problem,
        problem=problem,
    )


def _owed(run: TakeOver) -> list[str]:
    try:
        todo = [step.what for step in carry_out.left(run)]
    except StateConflict as error:
        return [str(error)]
    known = run.journal.value.reached
    if run.target.state is AdoptionState.DONE and known is not AdoptionState.DONE:
        # Before all else: nothing of it is done until then.
        last = consent.waits(run) if run.where.by_agent else ""
        todo = [last or "the last step, from which there is no way back", *todo]
    if not todo and not run.target.home and known is not run.target.state:
        return [f"note that the steps of {run.target.name} are done"]
    return todo
