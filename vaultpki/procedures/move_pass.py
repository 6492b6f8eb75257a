"""Does what a node has to do at the other server of a move, after a pass that has worked at one of them."""

from __future__ import annotations

from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Final

from vaultpki.agent import ca_trust
from vaultpki.agent.report import digest, place_of
from vaultpki.errors import StateConflict, VaultpkiError
from vaultpki.host.log import Event
from vaultpki.join import hand_over
from vaultpki.model import AgentConfig
from vaultpki.node import assignment, credential, servers, state
from vaultpki.node.procedures import Followed, PassMade
from vaultpki.node.secret_id import SecretIdFiles
from vaultpki.node.servers import KnownServers
from vaultpki.pki.hand_over import HAND_OVER_SIGNER
from vaultpki.records import node_report
from vaultpki.records.move import MOVE, MOVE_RECORD, MoveRecord, read_move
from vaultpki.records.node_report import NodeReport
from vaultpki.records.rotation import MOST_AHEAD, State
from vaultpki.vault import Vault

# Seconds after which the other server gets a report again that says nothing new.
_REPORT_AGAIN: Final = 1800
_NOT_HANDED: Final = "there is no credential for the new server that can be taken; `vaultpki move continue` makes one"


@dataclass(frozen=True, slots=True)
class _OtherServer:
    """What the other server said: `vault` is logged in there, None if it did not let the node in."""

    vault: Vault | None = None
    record: MoveRecord | None = None
    error: str = ""


def after(
    config: AgentConfig,
    clock: float,
    made: PassMade,
    known: KnownServers,
    record: MoveRecord | None,
    *,
    allow_http: bool,
) -> Followed:
    """Take the credential, read the record at the other server, report there, and say where the next pass goes.

    `config` is that of agent.yaml, `record` what the pass has read at its own server, and `known` what was known
    before. Raises StoreError if it cannot be kept.
    """
    events, failed, note = list[Event](), list[str](), ""
    before, home = known, servers.NEW if known.at_new else servers.OLD
    record = _counts(record, home)
    in_place = servers.at_new(config, known) is not None
    if made.reached and record is not None and hand_over.wanted(known, record, in_place=in_place):
        known, note, why = _taken(config, clock, made, known, record, allow_http=allow_http)
        failed += [why] if why else []
        if known is not before:
            # Before anything else can fail: the token that brought it works only once.
            servers.save(config.state, known)
            events.append(Event("move", f"took its credential at {record.new.addresses[0]} (hand-over {known.number})"))
    there = config if known.at_new else servers.at_new(config, known)
    away = servers.OLD if known.at_new else servers.NEW
    ignored = known.heeded is not None and known.heeded.value == away
    # After an abort nothing of this node is at the new server any more.
    over = made.reached and record is not None and servers.followed(known, record).ended != known.ended
    seen = _OtherServer() if there is None or ignored or over else _look(there, clock, known, allow_http=allow_http)
    failed += [seen.error] if seen.error else []
    reached = {*([home] if made.reached else []), *([away] if seen.vault is not None else [])}
    beside = _counts(seen.record, away)
    best = beside if record is None or _above(beside, record) else record
    if known.heeded is not None and known.heeded.value == home:
        best = beside
    known = servers.counted(known, reached)
    known = servers.followed(known, best) if best is not None else known
    known = replace(known, reached=tuple(sorted(reached, reverse=True)))
    known = replace(known, error="; ".join(dict.fromkeys((*failed, *([note] if note else []))))[:300])
    if known.ended != before.ended:
        # An abort has ended it: nothing of the new server stays.
        servers.remove_credential(config.state)
    elif seen.vault is not None and there is not None and made.report is not None:
        known, why = _reported(there, seen.vault, made.report, clock, known)
        failed += [why] if why else []
    closed = best is not None and closes(known, best, made.report)
    moves = known.at_new != before.at_new
    if moves or closed:
        events.append(Event("move", _says(config, known, closed=closed)))
    known = replace(known, closed=closed)
    if known != servers.load(config.state):
        servers.save(config.state, known)
    if moves:
        # The next pass asks the other server, and what this one said is still there if that one is away.
        assignment.outdate(config)
    failures = {MOVE: StateConflict("; ".join(failed))} if failed else {}
    return Followed(failures, tuple(events), clock if moves else None)


def _counts(record: MoveRecord | None, server: str) -> MoveRecord | None:
    """Return a record that `server` shows, if it counts: only the old server ends a hand-over, by an abort."""
    return None if record is not None and record.state is State.STEADY and server == servers.NEW else record


def _above(found: MoveRecord | None, record: MoveRecord) -> bool:
    return found is not None and found.revision > record.revision


def _taken(
    config: AgentConfig,
    clock: float,
    made: PassMade,
    known: KnownServers,
    record: MoveRecord,
    *,
    allow_http: bool,
) -> tuple[KnownServers, str, str]:
    """Return what is known after the credential at the new server was taken; else why it was not.

    The second sentence is a failure, the first none: a command has to come first.
    """
    if known.at_new or made.assigned is None or made.report is None:
        return known, "", ""
    try:
        now, memory = datetime.fromtimestamp(clock, UTC), state.load(config.state)
        trust = ca_trust.trust_of(config, made.assigned, memory, now, ()).get(HAND_OVER_SIGNER)
        shown, leaves = made.assigned.issuers.issuing[HAND_OVER_SIGNER], made.report.certificates.values()
        held = {each.served[0] for each in leaves if each.ca == HAND_OVER_SIGNER and each.served}
        signers = hand_over.own_signers(trust, shown, held)
        hand_over.refuse_unbound(config, record, trust, signers, now)
        vault = credential.login(config, allow_http=allow_http)
        found = hand_over.take(config, vault, known, record, trust, signers, now, allow_http=allow_http)
    except VaultpkiError as error:
        return known, "", str(error)
    return (known, _NOT_HANDED, "") if found is None else (found, "", "")


def _look(there: AgentConfig, clock: float, known: KnownServers, *, allow_http: bool) -> _OtherServer:
    """Return what the other server says of the move; what fails there is a sentence."""
    vault: Vault | None = None
    try:
        vault = credential.login(there, allow_http=allow_http)
        vault.prefer_active()
        found = vault.stored(f"{there.prefix}/config", MOVE_RECORD).get("data")
        record = None
        if found is not None:
            record = read_move(found, where=f"{there.prefix}/config/data/{MOVE_RECORD}")
            if record.revision > known.highest + MOST_AHEAD:
                far = f"revision {record.revision} of the move's record at {there.addresses[0]} is too far ahead"
                return _OtherServer(vault, None, f"{far}; run `vaultpki move status`")
        credential.roll(there, vault, clock)
    except VaultpkiError as error:
        return _OtherServer(vault, None, _named(there, error))
    return _OtherServer(vault, record)


def _named(there: AgentConfig, error: VaultpkiError) -> str:
    """Return the sentence of an error with the server that it is about."""
    text, address = str(error), there.addresses[0]
    return text if address in text else f"{address}: {text}"


def _reported(
    there: AgentConfig, vault: Vault, made: NodeReport, clock: float, known: KnownServers
) -> tuple[KnownServers, str]:
    """Send the report to the other server if it says something new there; return why it did not take it too."""
    files = SecretIdFiles(there.credentials)
    if there.auth.method == "approle":
        made = replace(made, in_use=files.in_use(), lost=files.lost(clock))
    value = node_report.to_json(replace(made, move=servers.said(known)))
    now, said, place = int(clock), digest(value), place_of(there, vault)
    if place is None or (said == known.reported and 0 <= now - known.reported_at < _REPORT_AGAIN):
        return known, ""
    try:
        vault.api.secrets.kv.v2.create_or_update_secret(place, value, mount_point=f"{there.prefix}/config")
    except VaultpkiError as error:
        return known, _named(there, error)
    return replace(known, reported=said, reported_at=now), ""


def closes(known: KnownServers, record: MoveRecord, made: NodeReport | None) -> bool:
    """Return whether the move is done for this node: the new server has signed every leaf of it.

    By CAs that the hand-over named, and that are below its pin: what a record says is not enough to leave a server.
    """
    if record.state is not State.DONE or record.revision < known.highest or not known.at_new or made is None:
        return False
    # Their certificates differ by now: the rotation of the root gave these CAs others, with the same keys.
    return bool(made.certificates) and all(
        each.issuer_key_id and each.issuer_key_id == known.cas.get(each.ca) for each in made.certificates.values()
    )


def _says(config: AgentConfig, known: KnownServers, *, closed: bool) -> str:
    if closed:
        return "the move is done here: this node asks the old server for nothing any more"
    new = known.place.addresses[0] if known.place is not None else ""
    return f"gets its certificates at {new if known.at_new else config.addresses[0]} from the next pass on"
