"""Finds why a node keeps a gate closed, and since when it does not: ordered checks of its report, each with a sentence.

Pure. A report counts only if its pass read the record as it stands now, and a process counts by the bundle that it
started with, once it was seen to run and to be healthy. A report is a node's own word: a false one affects that node,
or delays the gate.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Final

from vaultpki.certificates import ROOT, SERVICE_ACCOUNT, SKEW, bundle
from vaultpki.kubernetes_versions import minors, oldest
from vaultpki.procedure import words
from vaultpki.procedure.gate import GateCheck, Waiting, first_found
from vaultpki.procedure.phases import Side
from vaultpki.procedure.words import AGENT_DOES, OR_AGENT, WITHOUT
from vaultpki.readers import READERS
from vaultpki.records import gaps
from vaultpki.records.node_report import PRUNE, CertificateReport, NodeReport
from vaultpki.records.rotation import CA_TABLE, CaRef, Method, RotationRecord, State
from vaultpki.redact import printable, stamp

SETTLE: Final = 60
"""Seconds after a change on a node before a gate counts it as done."""

ETCD_MEMBER: Final = "etcd/etcd"
"""The reader of a node that is a member of etcd."""

TRUST_STEPS: Final = frozenset(CA_TABLE.by_trust)
"""The steps that wait for bundles, and for the processes that read them."""

LEAF_STEPS: Final = frozenset(CA_TABLE.by_use)
"""The steps that wait until every leaf is of the CA that the record names."""


@dataclass(frozen=True, slots=True)
class Participant:
    """A node that a gate may wait for.

    `kind` is "listed" or "pooled", and `pool` the pool of one that joins by a join file. `certificates` are its rows of
    the record's CA, `bundle` whether it has that CA's bundle, and `readers` the components (`etcd/etcd`) that read it
    only when they start, by the versions that the node reports. `member` says that it is a member of etcd, and `signs`
    that it signs tokens with a key of its own, whatever the CA. `unversioned` are those of which the version would
    decide that, and is not known. `credentials` is how many live secret ids it has; None if unknown, and for a node
    that needs none. `report` is None if it never reported, and for a node that is `locked`: nobody can log in as it.
    `last_expiry` is when the last certificate expires that a locked node reported. `join_until` is until when its join
    file can be used, of a node that has nothing else.
    """

    name: str
    kind: str
    certificates: frozenset[str]
    bundle: bool
    readers: tuple[str, ...]
    credentials: int | None
    report: NodeReport | None
    locked: bool = False
    last_expiry: datetime | None = None
    join_until: datetime | None = None
    unversioned: tuple[str, ...] = ()
    member: bool = False
    signs: bool = False
    pool: str = ""


@dataclass(frozen=True, slots=True)
class Transition:
    """A step that is wanted: from the state of the record to `to`, at the server's time `now`.

    `reload` is how many seconds components take at most to notice a new file of this CA, `longest_ttl` the longest life
    of its leaves in seconds. `key_ids` has the key ids in hex of the "old" and the "new" CA, and `signer_ends` is when
    the CA expires that signs the new one. `turn` is the node that restarts, or keeps the turn whatever it reports.
    `record.since` must not be before the server did what the state says: leaves of the other CA count as expired
    `longest_ttl` after it.
    """

    record: RotationRecord
    to: State
    now: datetime
    reload: int = 0
    longest_ttl: int = 0
    key_ids: Mapping[str, str] = field(default_factory=dict)
    signer_ends: datetime | None = None
    turn: str = ""

    @property
    def path(self) -> tuple[State, State]:
        return self.record.state, self.to

    @property
    def key(self) -> str:
        """The key of the hooks that follow the bundle."""
        # Of the root's, those of the controller manager, which alone reads it when it starts.
        domain = "kubernetes" if self.record.domain == ROOT else self.record.domain
        return bundle(domain).removesuffix(".crt")

    @property
    def outlived(self) -> bool:
        """Whether every leaf that was signed before this state has expired by now."""
        life = timedelta(seconds=self.longest_ttl + SKEW)
        return self.path in LEAF_STEPS and self.now >= self.record.since + life


def command(to: State) -> str:
    """Return the command that leads to this state: from re-trusting, `continue` leads to another one."""
    return "vaultpki ca abort" if to in (State.RETURNING, State.STEADY) else "vaultpki ca continue"


def waits_for(step: Transition, node: Participant) -> Waiting:
    """Return what must happen on a node that counts before the step may be taken; without a reason if nothing."""
    if node.report is None:
        return Waiting(node.name, unreported(step, node))
    return first_found(node.name, GATE_CHECKS, step, node, node.report)


def unreported(step: Transition, node: Participant) -> str:
    """Return the same of a node that has no report that counts."""
    if step.outlived or not _concerned(step, node):
        return ""
    if node.locked:
        return _or_without(step, node, words.locked(node.name))
    end = "lock" if node.kind == "listed" else "unenroll"
    return _or_without(step, node, words.never_reported(node.name, node.join_until, end))


def settled(step: Transition, node: Participant) -> datetime:
    """Return from when on a node without a reason counts: when its last change has reached every process there."""
    report, record = node.report, step.record
    moments = [record.since]
    if report is None or not _concerned(step, node):
        return record.since
    late = timedelta(seconds=SETTLE + step.reload)
    if step.path in TRUST_STEPS:
        if node.bundle and record.domain in report.bundles:
            moments.append(report.bundles[record.domain].installed + late)
        starts = [report.readers[name].started for name in _awaited(step, node) if name in report.readers]
        moments += [moment + timedelta(seconds=SETTLE) for moment in starts if moment is not None]
    elif not step.outlived:
        moments += [(leaf.installed or report.time) + late for _, leaf in _leaves(node, report) if leaf is not None]
    return max(moments)


def wanted_cas(record: RotationRecord, to: State) -> tuple[CaRef, ...]:
    """Return the CAs that everybody must trust before leaves of the next state are installed."""
    wanted = CA_TABLE.by_trust.get((record.state, to), Side.BOTH)
    if record.new is None:
        return (record.old,)
    if record.drops and Side.NEW in wanted:
        # Who never trusted the old one does not learn of it any more.
        return (record.new,)
    return tuple(ca for side, ca in ((Side.OLD, record.old), (Side.NEW, record.new)) if side in wanted)


def in_use(record: RotationRecord, node: Participant, now: datetime) -> bool:
    """Return whether a node is a member of etcd that other members need, so that no gate may leave it out."""
    member = node.member if record.domain == ROOT else record.domain == "etcd" and ETCD_MEMBER in node.readers
    return member and (node.report is None or alive(node.report, now))


def signs_tokens(record: RotationRecord, node: Participant) -> bool:
    """Return whether others check tokens of a node by what this CA, or one below it, has certified."""
    return not node.locked and (
        node.signs if record.domain == ROOT else record.domain == SERVICE_ACCOUNT and node.bundle
    )


def alive(report: NodeReport, now: datetime) -> bool:
    """Return whether a report shows a certificate that is in date."""
    return any(one.not_after is not None and one.not_after > now for one in report.held)


def fresh(step: Transition, report: NodeReport) -> bool:
    """Return whether the report answers the record as it stands."""
    seen = report.seen.get(step.record.domain)
    return seen is not None and step.record.read_by(seen.revision, seen.highest)


def holds_final(step: Transition, report: NodeReport) -> bool:
    """Return whether the bundle on the node's disk is the one that the step waits for."""
    found = report.bundles.get(step.record.domain)
    return found is not None and _fits(step, found.sha256)


def owes_restart(step: Transition, node: Participant) -> bool:
    """Return whether a component of the node has not been seen yet to run, healthy, with the bundle of the step."""
    report = node.report
    if report is None or step.path not in TRUST_STEPS:
        return False
    return any(not ready(step, report, name) for name in _awaited(step, node))


def needs_no_restart(step: Transition, node: Participant) -> bool:
    """Return whether a person has answered for all that reads the bundle only at its start there, or it is stopped."""
    return bool(_readers(step, node)) and not _awaited(step, node)


def ailing(step: Transition, node: Participant) -> bool:
    """Return whether the node says that a component, which reads the bundle only at its start, is down or not healthy.

    None of the others may restart theirs then. A person's word that it is healthy counts more.
    """
    readers = node.report.readers if node.report is not None else {}
    found = [readers[name] for name in _awaited(step, node) if name in readers]
    return any(each.problem and not each.sound for each in found)


def _future(step: Transition, node: Participant, report: NodeReport) -> str:
    late = report.time > step.now + timedelta(seconds=SKEW)
    return f"its report is from the future ({stamp(report.time)}). Set its clock. {AGENT_DOES}" if late else ""


def _old_agent(step: Transition, node: Participant, report: NodeReport) -> str:
    # Agents since 0.2.0 say what they have read of records. One that can read none says nothing, and is not ready.
    if report.seen or not _concerned(step, node) or (step.outlived and not alive(report, step.now)):
        return ""
    version = f" ({printable(report.agent)})" if report.agent else ""
    return _or_without(step, node, f"its agent is too old to take part{version}. Upgrade it. {AGENT_DOES}")


def _behind(step: Transition, node: Participant, report: NodeReport) -> str:
    seen, revision = report.seen.get(step.record.domain), step.record.revision
    if seen is None or seen.highest <= revision:
        return ""
    what = f"says that it has read revision {seen.highest} of this rotation, and the server has {revision}"
    if node.kind == "listed":
        return f"{what}. Run `vaultpki ca recover {step.record.domain}`"
    anew = f"Make its machine anew, and lock it: `vaultpki lock {node.name}`"
    if node.pool:
        anew = f"Join it anew: `vaultpki enroll {node.name} --pool {node.pool} --replace -o {node.name}.json`"
    return _or_without(step, node, f"{what}. {anew}")


def _not_followed(step: Transition, node: Participant, report: NodeReport) -> str:
    found = gaps.of_report(report, {step.record.domain: step.record.revision})
    mine = (gap.text for gap in found if gap.domain == step.record.domain and gap.name == gaps.NOT_FOLLOWED)
    return next(mine, "")


def _echo(step: Transition, node: Participant, report: NodeReport) -> str:
    if fresh(step, report) or step.outlived or not _concerned(step, node):
        return ""
    if step.record.domain not in report.seen:
        return _or_without(step, node, f"cannot read the rotation's record. {AGENT_DOES}")
    return _or_without(step, node, words.not_read(report.time))


def _bundle(step: Transition, node: Participant, report: NodeReport) -> str:
    if not node.bundle or step.path not in TRUST_STEPS or holds_final(step, report):
        return ""
    if report.bundles.get(step.record.domain) is None:
        return _or_without(step, node, f"has no bundle of this CA. {AGENT_DOES}")
    if step.to in (State.DONE, State.STEADY):
        which = "old" if step.to is State.DONE else "deleted"
        return _or_without(step, node, f"still trusts the {which} CA on its disk. {AGENT_DOES}")
    lacks = "old" if step.record.old.sha256 in _wanted(step) - report.bundles[step.record.domain].sha256 else "new"
    return _or_without(step, node, f"does not trust the {lacks} CA on its disk. {AGENT_DOES}")


def _restarts(step: Transition, node: Participant, report: NodeReport) -> str:
    """Find components that were not seen to run, healthy, with the bundle: a hook's success alone says nothing."""
    if not owes_restart(step, node):
        return ""
    missing = [name for name in _awaited(step, node) if not ready(step, report, name)]
    old = [name for name in missing if not started(step, report, name)]
    if old and step.turn not in ("", node.name):
        return f"restarts {_components(old)} after {step.turn}, whose turn it is"
    if old and step.key in report.owed:
        return f"has the turn to restart {_components(old)}. Wait for its hook, {OR_AGENT}"
    for name in missing:
        reader, component = report.readers.get(name), _components([name])
        then = f"`{command(step.to)} --restarted {node.name}/{component}`"
        if reader is None or not (reader.sound or reader.problem):
            version = f" ({printable(report.agent)})" if report.agent else ""
            return (
                f"its agent does not say whether {component} runs{version}. Upgrade the agent. Or restart {component} "
                f"there, wait until it is healthy, and run {then}"
            )
        if reader.stopped is not None:
            return (
                f"{component} is stopped there since {stamp(reader.stopped)}. No other node restarts before it is "
                "healthy. Start it there, or restart it if only its agent does not see it. Wait until it is healthy, "
                f"and run {then}"
            )
        if not reader.running:
            return (
                f"{component} was not seen running there ({reader.problem}). Start it there, or restart it if only its "
                f"agent does not see it. Wait until it is healthy, and run {then}"
            )
        if name not in old:
            return (
                f"{component} was restarted there and is not healthy ({reader.problem}). Wait, or look at its log. If "
                f"it is healthy and only its agent does not see that, run {then}"
            )
    restart = f"restart {_components(old)} there{_because(report, old)}"
    return f"{restart}. Wait until its agent has seen it healthy, and run `{command(step.to)}`"


def _because(report: NodeReport, names: Collection[str]) -> str:
    """Return why these are to be restarted where only their version is the reason; "" elsewhere."""
    if any(each.follows is None and f"{each.ca}/{each.component}" in names for each in READERS):
        return ""
    runs = oldest([name.partition("/")[2] for name in names], minors(report.kubernetes))
    return f" ({runs} reads this CA only at start)" if runs else ""


def _components(names: Collection[str]) -> str:
    return " and ".join(name.partition("/")[2] for name in names)


def _hooks(step: Transition, node: Participant, report: NodeReport) -> str:
    """Find hooks that tell a component of new files and have not succeeded."""
    if step.path in TRUST_STEPS:
        owed = [step.key] if step.key in report.owed and not needs_no_restart(step, node) else []
        if owed and step.record.domain in report.waiting:
            # A person, or `kubeadm upgrade`, has restarted what it restarts: it then only looks at that.
            return f"its hook for {owed[0]} waits for its turn. Run `{command(step.to)}`"
    else:
        owed = [name for name in report.owed if name in node.certificates]
    return f"its hook for {owed[0]} has not succeeded. Correct it in its agent.yaml. {AGENT_DOES}" if owed else ""


def _leaf(step: Transition, node: Participant, report: NodeReport) -> str:
    if step.path not in LEAF_STEPS and step.to is not State.DONE:
        return ""
    must = step.path in LEAF_STEPS and not step.outlived
    wanted, other = ("old", "new") if step.to is State.STEADY else ("new", "old")
    for name, leaf in _leaves(node, report):
        if leaf is None or leaf.not_after is None:
            if must:
                return _or_without(step, node, f"has no {name} yet. {AGENT_DOES}")
        elif leaf.not_after <= step.now and not must:
            continue
        elif step.record.method is Method.SAME_KEY:
            if step.record.new is not None and (step.record.new.sha256 in leaf.served) != (wanted == "new"):
                return f"{name} is still served with the {other} CA certificate. {AGENT_DOES}"
        elif leaf.issuer_key_id != step.key_ids.get(wanted, ""):
            within = f"Its agent renews it within {_spread(step)}, or at once if you run there: `vaultpki renew {name}`"
            return f"{name} is not of the {wanted} CA yet. {within}"
    return ""


def _surplus(step: Transition, node: Participant, report: NodeReport) -> str:
    """Find a pair of the other CA that the node's record does not name, and that nothing renews."""
    if step.record.method is Method.SAME_KEY or (step.path not in LEAF_STEPS and step.to is not State.DONE):
        return ""
    wanted, other = ("old", "new") if step.to is State.STEADY else ("new", "old")
    for place, leaf in sorted(surplus(report, step.record.domain).items()):
        ends = leaf.not_after
        if ends is not None and ends > step.now and leaf.issuer_key_id != step.key_ids.get(wanted, ""):
            is_surplus = f"{place} is surplus there, and of the {other} CA until {stamp(ends)}"
            return f"{is_surplus}. If nobody needs it, run there: `{PRUNE}`"
    return ""


def surplus(report: NodeReport, domain: str) -> dict[str, CertificateReport]:
    """Return the certificates of a CA that a node reports and its record does not name, by their files."""
    return {place: one for place, one in report.surplus.items() if one.ca == domain}


GATE_CHECKS: Final[tuple[GateCheck[Transition, Participant, NodeReport], ...]] = (
    GateCheck(_future),
    GateCheck(_old_agent),
    GateCheck(_behind),
    GateCheck(_not_followed),
    GateCheck(_echo, lambda step, node, report: step.record.domain in report.seen),
    GateCheck(_bundle),
    GateCheck(_restarts, lambda step, node, report: step.turn not in ("", node.name) or step.key in report.owed),
    GateCheck(_hooks, lambda step, node, report: step.record.domain in report.waiting),
    GateCheck(_leaf, lambda step, node, report: any(leaf is not None for _, leaf in _leaves(node, report))),
    GateCheck(_surplus),
)
"""What a gate asks of a node's report, in this order, and when agents do it at their next pass or turn.

A test runs the command of each sentence.
"""


def _concerned(step: Transition, node: Participant) -> bool:
    """Return whether the node holds anything that the step waits for."""
    trusts = step.path in TRUST_STEPS and (node.bundle or bool(_readers(step, node)))
    held = bool(node.certificates) or (node.report is not None and bool(surplus(node.report, step.record.domain)))
    leaves = (step.path in LEAF_STEPS or step.to is State.DONE) and held
    return trusts or leaves


def _readers(step: Transition, node: Participant) -> tuple[str, ...]:
    return tuple(name for name in node.readers if name.startswith(f"{step.record.domain}/"))


def _awaited(step: Transition, node: Participant) -> tuple[str, ...]:
    """Return the readers that a step waits for: no person has answered for them, and they may hold something."""
    said = {name for name in _readers(step, node) if word(node.name, name) in step.record.restarted}
    return tuple(name for name in _readers(step, node) if name not in said and not _holds_nothing(step, node, name))


def word(node: str, reader: str) -> str:
    """Return what a person says who has restarted a reader (`etcd/kube-apiserver`) of a node: `cp-1/kube-apiserver`."""
    return f"{node}/{reader.rpartition('/')[2]}"


def _holds_nothing(step: Transition, node: Participant, name: str) -> bool:
    """Return whether a reader is stopped, and nobody waits for it to come back, as others do for a member of etcd."""
    reader = node.report.readers.get(name) if node.report is not None else None
    return reader is not None and name != ETCD_MEMBER and step.record.gone(node.name, reader.stopped)


def ready(step: Transition, report: NodeReport, name: str) -> bool:
    """Return whether a component was seen to run, healthy, with what the step waits for."""
    return started(step, report, name) and report.readers[name].sound


def started(step: Transition, report: NodeReport, name: str) -> bool:
    """Return whether a component is known to hold what the step waits for.

    Its last known start must be after the bundle was installed: one before may have been followed by another start,
    which nobody noticed, with a bundle that has gone since.
    """
    reader, found = report.readers.get(name), report.bundles.get(step.record.domain)
    if reader is None or reader.started is None or found is None:
        return False
    return reader.started >= found.installed and _fits(step, reader.sha256)


def _fits(step: Transition, held: frozenset[str]) -> bool:
    """Return whether a bundle with these CAs is what the step waits for."""
    record, new = step.record, step.record.new.sha256 if step.record.new is not None else ""
    if step.to is State.DONE:
        return new in held and held.isdisjoint({record.old.sha256, *record.also})
    if step.to is State.STEADY:
        return record.old.sha256 in held and new not in held
    return _wanted(step) <= held


def _wanted(step: Transition) -> frozenset[str]:
    return frozenset(ca.sha256 for ca in wanted_cas(step.record, step.to))


def _leaves(node: Participant, report: NodeReport) -> list[tuple[str, CertificateReport | None]]:
    return [(name, report.certificates.get(name)) for name in sorted(node.certificates)]


def _or_without(step: Transition, node: Participant, said: str) -> str:
    """Return what is waited for with the way on without the node, or before its command that there is none."""
    stays = (
        "A member of etcd"
        if in_use(step.record, node, step.now)
        else "A node that signs tokens"
        if signs_tokens(step.record, node)
        else ""
    )
    what, _, does = said.rpartition(". ")
    return f"{what}. {stays} cannot be left out. {does}" if stays else f"{said}. {WITHOUT.format(node.name)}"


def _spread(step: Transition) -> str:
    minutes = -(-step.record.spread // 60)
    return f"{minutes} min of {stamp(step.record.since)}"
