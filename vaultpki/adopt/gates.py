"""Decides whether an adoption may take its next step, and whose turn it is; pure.

A gate counts every Node object and every member of etcd, whether it has an agent or not. Its tables are those of
`rotation.adoption_states`, which were explored exhaustively; the order of its questions is that of the model too.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from datetime import datetime, timedelta
from typing import Final

from vaultpki.errors import StateConflict
from vaultpki.kube.cluster import AUTHENTICATION, CLUSTER_INFO
from vaultpki.kube.objects import CLUSTER_TRUST_BUNDLES, ROOT_COPY
from vaultpki.kube.whole import BINDINGS
from vaultpki.procedure.gate import Gate, InLine, Waiting, whose_turn
from vaultpki.procedure.phases import Side
from vaultpki.records.adoption import OLD_CAS, WRITE_BACK, AdoptionRecord, AdoptionState
from vaultpki.records.adoption_report import Held, OldKeys
from vaultpki.records.rotation import MOST_AHEAD
from vaultpki.redact import first_few, stamp
from vaultpki.rotation import adoption_reasons as reasons
from vaultpki.rotation.adoption_evidence import AdoptedMachine, ClusterSeen
from vaultpki.rotation.adoption_states import (
    FREE_STEPS,
    HOMEWARD,
    LAST_STEP,
    LEAVES_OF,
    ONWARD,
    STEPS_BY_TRUST,
    TRUSTED,
    AdoptionStep,
    command_to,
)
from vaultpki.rotation.root_gates import RESTARTED, WRITTEN_ANEW, started_before

_S = AdoptionState

OUTSIDE: Final = "outside"
"""A person's word that kubeconfigs and programs outside the cluster hold what the state asks for."""

OTHER_SERVERS: Final = "webhooks"
"""A person's word that the servers whose CA bundles hold an old CA do without it."""

CONFIRMABLE: Final = frozenset({OUTSIDE, OTHER_SERVERS})

TOKENS: Final = "bootstrap tokens"
KEYS_SECRET: Final = "kubeadm-certs"  # noqa: S105 - the name of an object
REQUESTS: Final = "CSRs"
PODS: Final = "pods"
RIGHTS: Final = "rights"

JOINS_BY: Final = frozenset({TOKENS, KEYS_SECRET, CLUSTER_INFO})
"""The parts of the cluster that a join begins with: as long as one is not known, older joins may still end."""

JOIN: Final = 600
"""Seconds after which no join can end any more that began before its token was deleted.

kubeadm gives up after five minutes in each of the phases that need the API server (kubeadm.k8s.io/v1beta4, Timeouts).
"""

_REVISIONS: Final = 500
"""More than an adoption writes: a machine that was away for the whole of it still follows its last record."""

_JOINS: Final = frozenset({_S.PUBLISHED, _S.RETRUSTING, _S.RETIRED})
"""The states that begin with another cluster-info: who has read it before joins with the CAs of before."""

_REOPENED: Final = frozenset({_S.RETURNING, _S.PREPARED})
"""The states in which control planes may join with the keys of the old CAs again."""

# Without one of these a gate knows nothing of what it counts.
_NEEDED: Final = ("nodes", "static pods", "certificatesigningrequests", "bootstrap tokens", KEYS_SECRET, CLUSTER_INFO)
_NEEDED_FOR_TRUST: Final = ("pods", "namespaces", ROOT_COPY, AUTHENTICATION)

# While one of these is away, no other machine restarts its own.
_SERVING: Final = ("etcd", "kube-apiserver")

# Where objects name a CA for a server of their own.
_OF_SERVERS: Final = (
    "validatingwebhookconfigurations",
    "mutatingwebhookconfigurations",
    "apiservices",
    "customresourcedefinitions",
    CLUSTER_TRUST_BUNDLES,
)


def next_state(state: AdoptionState, *, back: bool) -> AdoptionState | None:
    """Return the state that `adopt continue`, or with `back` `adopt abort`, leads to; None if there is none."""
    return (HOMEWARD if back else ONWARD).get(state)


def gate(step: AdoptionStep, seen: ClusterSeen) -> Gate:
    """Return the gate before a step, by what the machines report and what the cluster showed after that."""
    record = step.record
    if step.path in FREE_STEPS:
        apart = tuple(reasons.waiting(step, seen.machines))
        return Gate(apart, opens=record.since, turn=turn(record, seen.machines))
    waiting = list[Waiting]()
    for check in ADOPTION_CHECKS:
        # Controller managers write the copies, so pods are looked at once all of them are known to hold what they give.
        if check is not _pods or not waiting:
            waiting += check(step, seen)
    opens = max([record.since, *(reasons.settled(step, machine) for machine in seen.machines)])
    if record.state in _JOINS and record.joins_closed is not None:
        opens = max(opens, record.joins_closed + timedelta(seconds=JOIN))
    excused = tuple(Waiting(name, "has an agent, and the cluster has no such node") for name in seen.spare)
    return Gate(tuple(waiting), excused, opens, turn(record, seen.machines))


def turn(record: AdoptionRecord, machines: Collection[AdoptedMachine]) -> str:
    """Return the machine that restarts its components now; "" if none has to.

    One at a time, those first where a component is down, then members of etcd. The next one has it only when the one
    before has done all steps of the state and says that it is healthy; a machine that is gone loses it. Nobody gets it
    while another one is away: etcd could lose its majority.
    """
    line = [
        InLine(
            each.name,
            done=reasons.arrived(record, each),
            ready=each.enrolled and each.report is not None and reasons.fresh(record, each.report),
            ailing=_ailing(each),
            away=each.silent or _ailing(each, *_SERVING),
            member=each.member,
        )
        for each in machines
        if each.by_turn
    ]
    return whose_turn(record.turn, line)


def refuse_hopeless(
    step: AdoptionStep, seen: ClusterSeen, old_ends: datetime | None, imported: Collection[str] = ()
) -> None:
    """Raise StateConflict for a way back that cannot work; `old_ends` is when the first of the old CAs expires.

    From switched on the way back needs certificates of the old CA that somebody can renew: a machine with its key, or
    Vault, if the keys of all old CAs were imported. `imported` are the domains of those that were.
    """
    if LEAVES_OF[step.to] is not Side.OLD or LEAVES_OF[step.record.state] is not Side.NEW:
        return
    forward = f"go on to the end by `{command_to(_S.DONE)}`"
    if old_ends is not None and old_ends <= step.now:
        raise StateConflict(
            f"the way back cannot work: an old CA expired at {stamp(old_ends)}, and nobody would accept its "
            f"certificates; {forward}"
        )
    told = [each.report for each in seen.planes if each.report is not None]
    lacking = [ca for ca in OLD_CAS if ca in step.record.old and ca not in imported]
    if any(each.keys is not OldKeys.NONE for each in told) or not lacking:
        return
    silent = [each.name for each in seen.planes if each.report is None]
    if silent:
        raise StateConflict(
            f"the way back needs a key of the old CA, and no machine says that it has one. {first_few(silent)} did "
            f"not report. Try again after a pass there: `vaultpki agent --once`"
        )
    raise StateConflict(
        "the way back cannot work: the key of the old CA is on no machine any more, so its certificates could not be "
        f"renewed. Put it back from a backup. Or import the keys of {first_few(lacking)} from there: `vaultpki ca "
        f"import --key FILE FILE`. Or {forward}"
    )


def refuse_set_back(record: AdoptionRecord, seen: ClusterSeen) -> None:
    """Raise StateConflict if machines have read a later record: they stand elsewhere, and no step follows from it.

    A claim so far ahead that no machine follows it counts nowhere; what one of a pool says holds up its own step alone.
    """
    told = _told(seen)
    later = {name: told[name] for name in told if record.revision < told[name] <= record.revision + MOST_AHEAD}
    if later:
        raise StateConflict(
            f"{first_few(sorted(later))} read revision {max(later.values())} of the adoption's record, and Vault has "
            f"revision {record.revision}. Vault was restored from a snapshot, or somebody changed the record. No step "
            f"is taken by it. Restore a later snapshot, or {WRITE_BACK}. To leave a machine out that is wrong about "
            "that, run `vaultpki lock NODE`"
        )


def first_revision(seen: ClusterSeen, version: int) -> int:
    """Return the first revision of a new record: above all that machines have read, and the `version` in the store.

    A claim counts only as far as every other machine would still follow what comes after it.

    Raises StateConflict if machines stand in the middle of an adoption whose record is lost: the first state of a new
    one would lead them straight back.
    """
    begun = sorted(
        f"{each.name} ({each.report.reached.value})"
        for each in seen.machines
        if each.enrolled and each.report is not None and each.report.reached not in (None, _S.PREPARED)
    )
    if begun:
        raise StateConflict(
            f"{first_few(begun)} stand in an adoption whose record is gone. The server was restored from a snapshot, "
            "or somebody deleted the record. Restore a later snapshot or the record. Or before another adoption begins "
            "lead each of these machines home, there as root: `vaultpki adopt node --leave`. To leave a machine out "
            "that is wrong about that, run `vaultpki lock NODE`"
        )
    told = _told(seen).values()
    most = min(told, default=0) + MOST_AHEAD - _REVISIONS
    return max([version, *(highest for highest in told if highest <= most)]) + 1


def _told(seen: ClusterSeen) -> dict[str, int]:
    """Return the highest revisions that machines say they have read, by machine, 0 for none."""
    return {
        each.name: max(each.report.highest, each.report.revision)
        for each in seen.machines
        if each.enrolled and not each.pooled and each.report is not None
    }


def word_refused(step: AdoptionStep, word: str, seen: ClusterSeen) -> str:
    """Return why a person's word does not count now, as a sentence; "" if it does."""
    if word == OUTSIDE and not held_outside(step):
        return f"{step.record.state.value} waits for no kubeconfig outside; leave out `--checked {OUTSIDE}`"
    if word == OTHER_SERVERS and not (step.path == (_S.RETIRED, _S.DONE) and (seen.servers or _unread_servers(seen))):
        return (
            f"{step.record.state.value} waits for no CA bundle of another server; leave out `--checked {OTHER_SERVERS}`"
        )
    return ""


def restart_refused(step: AdoptionStep, machine: AdoptedMachine | None, said: str) -> str:
    """Return why a person's word that a component was restarted does not count, as a sentence; "" if it does.

    `said` is the word (`cp-1/etcd`). It counts for what the agent cannot see, and after it has done its steps.
    """
    name, _, component = said.partition("/")
    if machine is None:
        return f"the cluster has no node {name}, and no member of etcd there; look at `vaultpki adopt status`"
    report = machine.report
    if report is None or not reasons.answers(step, report) or report.reached is not step.record.state:
        return (
            f"{name} has not done the steps of {step.record.state.value} yet, so a restart may have read what was "
            f"there before. Wait for its report, restart it then, and pass `--restarted {said}` again"
        )
    unseen = {each for each, one in report.components.items() if Held.UNKNOWN in (one.trust, one.leaves)}
    if component in unseen:
        return ""
    words = " or ".join(f"`--restarted {name}/{each}`" for each in sorted(unseen))
    what = f"write {words}" if words else f"leave out `--restarted {said}`"
    return f"the agent of {name} sees what {component} holds; {what}" if component else f"name a component; {what}"


def joins_open(record: AdoptionRecord) -> bool:
    """Return whether bootstrap tokens of before this state may still be there."""
    return record.state in _JOINS | {_S.DONE} and record.joins_closed is None


def unread(step: AdoptionStep, seen: ClusterSeen) -> Iterator[Waiting]:
    """Yield the parts of the cluster that a gate must know of and that could not be read."""
    needed = _NEEDED + (_NEEDED_FOR_TRUST if step.trust is not None else ())
    needed += (BINDINGS,) if step.to is _S.SWITCHED else ()
    for part in needed:
        if part in seen.unread:
            yield Waiting(
                part,
                f"cannot be looked at: {seen.unread[part]}. With a kubeconfig that may read it, run `{step.command}`",
            )


def _ailing(machine: AdoptedMachine, *only: str) -> bool:
    """Return whether a component there is not healthy or does not run, with `only` one of these.

    A report may be an hour old, and its agent may have died with the component.
    """
    found = machine.report.components if machine.report is not None else {}
    ill = {*machine.stopped, *(name for name, one in found.items() if not one.healthy)}
    return bool(ill & set(only) if only else ill)


def _cluster(step: AdoptionStep, seen: ClusterSeen) -> Iterator[Waiting]:
    """Find what joining nodes could bring in, and certificates whose holder is not known."""
    state = step.record.state
    if seen.info not in (None, TRUSTED[state]):
        yield Waiting(CLUSTER_INFO, f"does not hold {_WORDS[TRUSTED[state]]} yet. To write it, run `{step.command}`")
    if joins_open(step.record):
        yield Waiting(TOKENS, f"those from before may still be used. To delete them, run `{step.command}`")
    if seen.keys_secret and state not in _REOPENED:
        yield Waiting(
            KEYS_SECRET,
            "is in kube-system and gives the keys of the old CAs to control planes that join. Once no join is under "
            f"way, delete it: `kubectl -n kube-system delete secret {KEYS_SECRET}`",
        )
    if step.path == LAST_STEP or state in _JOINS:
        known = {each.name for each in seen.machines}
        # A kubelet that has a certificate registers with it.
        for each in seen.requests:
            if each.node and each.node not in known:
                yield Waiting(
                    REQUESTS,
                    f"{each.name} gave {each.node} a certificate of the old CA, and there is no such node yet. Let it "
                    "join and enrol it. Or if nobody uses that certificate, delete the CSR: `kubectl delete csr "
                    f"{each.name}`",
                )


def _machines(step: AdoptionStep, seen: ClusterSeen) -> Iterator[Waiting]:
    """Find what is waited for on each machine."""
    return reasons.waiting(step, seen.machines)


def _copies(step: AdoptionStep, seen: ClusterSeen) -> Iterator[Waiting]:
    """Find copies of CAs that do not hold what all must trust before the step."""
    wanted = step.trust
    if wanted is None:
        return
    late = [each.name for each in seen.planes if not reasons.arrived(step.record, each)]
    steps = f"once the steps of {step.record.state.value} are done on {first_few(late)}"
    wrong = sorted(space for space, side in seen.roots.items() if side is not wanted)
    if wrong:
        how = f"A controller manager writes it {steps}" if late else WRITTEN_ANEW
        yield Waiting(ROOT_COPY, f"does not hold {_WORDS[wanted]} in {first_few(wrong)}. {how}", itself=bool(late))
    if any(side is not wanted for side in seen.clients.values()):
        if late and wanted is not Side.NEW:
            yield Waiting(AUTHENTICATION, f"does not hold {_WORDS[wanted]}. kube-apiserver writes it {steps}", True)
            return
        # An API server that has not done its steps would write it as it was.
        how = (
            "Once it is deleted, kube-apiserver writes it anew. To delete it once every control plane is ready, run "
            f"`{step.command}`"
            if wanted is Side.NEW
            else "Once it is deleted, kube-apiserver writes it anew. If it is as before then, look at its log. Delete "
            f"it: `kubectl -n kube-system delete configmap {AUTHENTICATION}`"
        )
        yield Waiting(AUTHENTICATION, f"does not hold {_WORDS[wanted]}. {how}")


def _pods(step: AdoptionStep, seen: ClusterSeen) -> Iterator[Waiting]:
    """Find pods that may hold what their copy was before it had both CAs."""
    if step.trust is not Side.BOTH:
        return
    undated = sorted(space for space, when in seen.changed.items() if when is None)
    if undated:
        yield Waiting(ROOT_COPY, f"does not say when it changed in {first_few(undated)}. {WRITTEN_ANEW}")
    if old := started_before(seen.pods, seen.changed):
        yield Waiting(PODS, f"{first_few(old)} started before {ROOT_COPY} held both CAs. {RESTARTED}")


def _rights(step: AdoptionStep, seen: ClusterSeen) -> Iterator[Waiting]:
    """Find users of the new certificates who would be let in and be allowed nothing."""
    if step.to is _S.SWITCHED and seen.without_rights:
        yield Waiting(
            RIGHTS,
            f"no ClusterRoleBinding names {first_few(seen.without_rights)}, as which the new certificates let "
            "kube-apiserver in at kubelets. Logs, exec and metrics would be refused. Write the manifests: `vaultpki "
            "issue admin --dir operator`. Give that user its rights: `kubectl apply -f operator/manifests`",
        )


def held_outside(step: AdoptionStep) -> str:
    """Return what kubeconfigs outside must have before a step; "" if they do not matter."""
    if STEPS_BY_TRUST.get(step.path) is Side.BOTH:
        return "the old CA and the new one"
    return {LAST_STEP: "a pair of the new CA", (_S.RETURNING, _S.PREPARED): "a pair of the old CA"}.get(step.path, "")


def _unread_servers(seen: ClusterSeen) -> list[str]:
    return [part for part in _OF_SERVERS if part in seen.unread]


def _words(step: AdoptionStep, seen: ClusterSeen) -> Iterator[Waiting]:
    what = held_outside(step)
    if what and OUTSIDE not in step.record.confirmed:
        yield Waiting(
            OUTSIDE,
            f"once every kubeconfig and program outside the cluster has {what}, say so: `{step.command} --checked "
            f"{OUTSIDE}`",
        )
    if step.path != (_S.RETIRED, _S.DONE) or OTHER_SERVERS in step.record.confirmed:
        return
    for part in _unread_servers(seen):
        yield Waiting(
            part,
            f"cannot be looked at ({seen.unread[part]}), and may name an old CA for another server. With a kubeconfig "
            f"that may list them, run `{step.command}`. Or once you know that none does, say so: "
            f"`{step.command} --checked {OTHER_SERVERS}`",
        )
    if seen.servers:
        yield Waiting(
            OTHER_SERVERS,
            f"{first_few(sorted(seen.servers))} name an old CA for their own server. Give that server another "
            f"certificate and the object its CA. Or once you know that they may stay, say so: `{step.command} "
            f"--checked {OTHER_SERVERS}`",
        )


_WORDS: Final = {Side.OLD: "the old CA alone", Side.BOTH: "both CAs", Side.NEW: "the new CA alone"}

ADOPTION_CHECKS: Final = (unread, _cluster, _machines, _copies, _pods, _rights, _words)
"""What a gate asks, in this order. A test runs the command of each sentence."""
