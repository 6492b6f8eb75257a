"""Text for people, and JSON for programs, on where service-account keys stand; pure."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from datetime import datetime
from typing import Any, Final

from vaultpki.kube.token_flags import TokensInUse
from vaultpki.places import file_option
from vaultpki.procedure import standing
from vaultpki.procedure.gate import Gate
from vaultpki.provision.cluster_facts import KeyStepDone
from vaultpki.records.service_account import SERVICE_ACCOUNT_KEYS, Departure, KeyMethod, KeyRecord, KeyState
from vaultpki.redact import printable, stamp, stamped
from vaultpki.token_keys.course import next_key_state
from vaultpki.values.durations import format_duration

# Seconds: for as long it asks for them (kubernetes staging/src/k8s.io/controller-manager/pkg/clientbuilder).
_CONTROLLER_TOKENS: Final = 3600

# What holds in a state.
_IS: Final = {
    KeyState.STEADY: "each node signs tokens with its key, and every API server accepts those of all",
    KeyState.PUBLISHED: "nodes make their next keys, and API servers learn to accept them; tokens are of the old ones",
    KeyState.SWITCHED: "nodes sign with their next keys; tokens of the old ones are still accepted",
    KeyState.RETIRED: "API servers stop accepting tokens of the old keys",
    KeyState.DONE: "each node signs tokens with its new key, and its old one is deleted",
    KeyState.RETRUSTING: "API servers learn to accept tokens of the old keys again; nodes still sign with the new ones",
    KeyState.RETURNING: "nodes sign with their old keys again; tokens of the new ones are still accepted",
}
_EMERGENCY: Final = "tokens of the old keys are not accepted any more; nodes make new ones and sign with those"
# What a step does, as the rest of a sentence.
_DOES: Final = {
    KeyState.STEADY: "deletes the next keys; only the old ones are accepted",
    KeyState.PUBLISHED: "has nodes make their next keys",
    KeyState.SWITCHED: "has nodes sign with their next keys",
    KeyState.RETIRED: "ends the trust in tokens of the old keys",
    KeyState.DONE: "deletes the old keys. This cannot be undone",
    KeyState.RETRUSTING: "has API servers accept tokens of the old keys again",
    KeyState.RETURNING: "has nodes sign with their old keys again",
}


def key_lines(done: KeyStepDone, now: datetime, file: str) -> Iterator[str]:
    """Yield where service-account keys stand: what holds, what is waited for, what comes next, and the rollback."""
    record = done.record
    if record is not None:
        yield from _state_lines(record, done, now, file)
    elif done.sharing:
        yield (
            f"{', '.join(done.sharing)} have a sa.key that was not made here: `vaultpki ca rotate "
            f"{SERVICE_ACCOUNT_KEYS}{file_option(file)}` begins to give each node one of its own."
        )
    else:
        yield "No service-account key is in use yet."
    yield from standing.listed("These nodes join:", done.joining)
    yield from start_lines(done)
    yield from standing.listed("These keys were stolen:", done.counting)
    yield from standing.listed("These nodes do not accept every key of the record:", done.differing)
    yield from standing.listed("Files of these keys have changed:", done.restarts)
    yield from note_lines(done)


def start_lines(done: KeyStepDone) -> Iterator[str]:
    """Yield which nodes may start for the first time."""
    if done.to_read:
        yield (
            "The agent writes sa.key at its next pass, and then kube-apiserver may start, on: "
            f"{', '.join(done.to_read)} (`vaultpki agent --once` there does it at once)."
        )
    if done.may_start:
        yield f"kube-apiserver may run, and is not seen there now, on: {', '.join(done.may_start)}."


def note_lines(done: KeyStepDone) -> Iterator[str]:
    """Yield what is unusual."""
    for note in done.notes:
        yield printable(f"{note[0].upper()}{note[1:]}.")


def state_sentence(record: KeyRecord, *, differ: bool = False) -> str:
    """Return what holds in the state of the record, as a sentence without its end; `differ` if not all follow it."""
    if differ and record.state is KeyState.STEADY:
        return "each node signs tokens with its key"
    return _EMERGENCY if record.active and record.method is KeyMethod.EMERGENCY else _IS[record.state]


def _state_lines(record: KeyRecord, done: KeyStepDone, now: datetime, file: str) -> Iterator[str]:
    holds = state_sentence(record, differ=bool(done.differing))
    yield f"{SERVICE_ACCOUNT_KEYS} are {record.state.value} since {stamp(record.since)}: {holds}."
    if record.shared and record.state is not KeyState.DONE:
        yield "The old key is one sa.key that several nodes share."
    if done.gate is not None:
        yield from standing.gate_lines(done.gate, now)
        if done.gate.turn:
            yield (
                "Turns move on to the next node only while `vaultpki ca continue` or `vaultpki ca abort` runs: run it "
                "again, or with `--wait`."
            )
    if record.signing_since is not None and record.life:
        said = "as was stated" if record.stated else "by the flags of the API servers"
        yield (
            f"Every API server signs with the key of this state since {stamp(record.signing_since)}; tokens live "
            f"{format_duration(record.life)} at most, {said}."
        )
    yield from _departed_lines(record)
    to, back = next_key_state(record), next_key_state(record, back=True)
    yield from standing.ways(done.gate, now, file, to, back, _DOES.__getitem__)


def _departed_lines(record: KeyRecord) -> Iterator[str]:
    for each in record.departed:
        if each.why is Departure.STOLEN:
            continue
        what = "was removed" if each.why is Departure.REMOVED else "was installed anew"
        until = f"until {stamp(each.until)}" if each.until is not None else "until it is known how long they live"
        yield f"{each.node} {what} at {stamp(each.since)}: tokens of its former key are accepted {until}."


def progress_line(done: KeyStepDone, now: datetime) -> str:
    """Return one line about a wait, as that of CAs."""
    record = done.record
    head = f"{SERVICE_ACCOUNT_KEYS} are {record.state.value}" if record is not None else "no service-account key yet"
    also = (*done.differing, *done.joining, *done.counting, *done.restarts)
    return standing.progress_line(head, done.gate, now, also)


def emergency_lines(stolen: Iterable[str]) -> Iterator[str]:
    """Yield what an emergency does to a cluster, for a person to confirm."""
    nodes = ", ".join(sorted(set(stolen)))
    if nodes:
        yield f"The key of {nodes} was stolen. Its certificate leaves every sa.pub at once, and nobody is waited for:"
        yield "- Tokens that it has signed are refused, those of pods too, at each API server once that has restarted."
        yield "  Restarts take turns, so until the last one they still count there; `vaultpki ca status` says where."
        yield "- Pods get other tokens within minutes; restart those that keep failing."
        return
    yield f"An emergency rotation of {SERVICE_ACCOUNT_KEYS} is for stolen keys. It does not wait for any node:"
    yield "- All API servers restart at once, and refuse all tokens of before. This outage of pods ends"
    yield "  once pods have new tokens: restart those that keep failing."
    yield "- Each node makes a new key. Until `vaultpki ca continue --wait` has spread their certificates, API servers"
    yield "  refuse each other's tokens too."
    yield "- Secrets of type kubernetes.io/service-account-token end: delete each and make it again."


def life_lines(seconds: int, known: int | None, tokens: TokensInUse | None) -> Iterator[str]:
    """Yield what a shorter life of tokens than the flags say puts at risk, for a person to confirm."""
    flags = "is not known" if known is None else f"is {format_duration(known)} by the flags of the API servers"
    yield f"The longest life of tokens {flags}, and you say {format_duration(seconds)}."
    yield "A pod or a client with an older token is refused (401) once the old keys are not accepted any more."
    if seconds < _CONTROLLER_TOKENS:
        yield "kube-controller-manager with --use-service-account-credentials keeps tokens of an hour. It is refused"
        yield "once (401), unless it was restarted after all API servers began to sign with the next keys."
    if tokens is None or tokens.stale is None:
        yield "Pass `--kubeconfig` to see how many requests with older tokens each API server has counted."
        return
    for node, count in sorted(tokens.stale.items()):
        yield f"  {node}  serviceaccount_stale_tokens_total {count} since its last start"
    silent = sorted(tokens.flags.keys() - tokens.stale.keys())
    if silent:
        yield f"  not known of {', '.join(silent)}"
    yield "A counter that grows means that clients with older tokens are there: find them in the audit log first"
    yield "(annotation authentication.k8s.io/stale-token)."


def key_json(done: KeyStepDone) -> dict[str, Any]:
    """Return where service-account keys stand, for programs."""
    record, gate = done.record, done.gate or Gate()
    to, back = next_key_state(record), next_key_state(record, back=True)
    return {
        "domain": SERVICE_ACCOUNT_KEYS,
        "state": None if record is None else record.state.value,
        "since": None if record is None else stamp(record.since),
        "method": None if record is None else record.method.value,
        "nodes": {
            name: {"old": keys.old, "new": keys.new, "admitted": keys.admitted}
            for name, keys in sorted((record.nodes if record is not None else {}).items())
        },
        "shared": bool(record is not None and record.shared),
        "waiting_for": standing.waiting_json(gate.waiting),
        "opens": stamped(gate.opens),
        "turn": None if record is None else record.turn or None,
        "signing_since": stamped(record.signing_since if record is not None else None),
        "token_life": None if record is None else record.life or None,
        "token_life_stated": bool(record is not None and record.stated),
        "departed": [
            {"node": each.node, "why": each.why.value, "since": stamp(each.since), "until": stamped(each.until)}
            for each in (record.departed if record is not None else ())
        ],
        "joining": standing.waiting_json(done.joining),
        "may_start": list(done.may_start),
        "to_read": list(done.to_read),
        "sharing": list(done.sharing),
        "stolen": standing.waiting_json(done.counting),
        "differing": standing.waiting_json(done.differing),
        "restarts": standing.waiting_json(done.restarts),
        "notes": [printable(note) for note in done.notes],
        "next": None if to is None else to.value,
        "back": None if back is None else back.value,
    }
