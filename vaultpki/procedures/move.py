"""What a move to another server is to the agent of a node: at which server it gets its certificates, and who says so.

A pass works at one server, as if there were no other. After it the node takes its credential at the other one, reads
the move's record there too, follows the higher revision of both, and reports at both. Its functions are those of
`ProcedureOnNode`.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Final

from vaultpki.disk.files import exists
from vaultpki.errors import SpecError, StateConflict, StoreError, VaultpkiError
from vaultpki.node.procedures import Followed, MachineStanding, PassMade
from vaultpki.procedure.envelope import ProcedureRecord

if TYPE_CHECKING:
    from collections.abc import Callable

    from vaultpki.model import AgentConfig
    from vaultpki.node.assignment import Assignment
    from vaultpki.node.servers import KnownServers
    from vaultpki.node.state import AgentState
    from vaultpki.records.move import MoveRecord
    from vaultpki.records.node_report import NodeReport

# As `records.move.MOVE`, which is loaded only where there is such a record.
_NAME: Final = "move"

_FILE: Final = "servers.json"


def _read(value: object, *, where: str) -> Any:
    from vaultpki.records.move import read_move

    return read_move(value, where=where)


OWN_RECORD: Final = ProcedureRecord(_NAME, _read)


def _known(config: AgentConfig) -> bool:
    """Return whether this node has ever followed a move."""
    return exists(f"{config.state}/{_FILE}")


def _record(wanted: Assignment | None) -> MoveRecord | None:
    read = wanted.procedures.get(_NAME) if wanted is not None else None
    return read.record if read is not None else None


@contextlib.contextmanager
def entered(config: AgentConfig, wait: float) -> Iterator[AgentConfig]:
    """Yield the configuration of the server at which this node gets its certificates; all else stays as it is."""
    if not _known(config):
        yield config
        return
    from vaultpki.node import servers

    yield servers.at_home(config)


def standing(config: AgentConfig, wanted: Assignment | None, known: AgentState) -> MachineStanding:
    """Return which server this node uses, and what to write into agent.yaml once the move is done."""
    record = _record(wanted)
    with contextlib.suppress(StoreError):
        # Whoever may not look into the state folder is told that by all else that is read there.
        if not _known(config) and (record is None or not record.active):
            return MachineStanding()
    from vaultpki.node import servers

    try:
        found = servers.load(config.state)
    except (SpecError, StoreError) as error:
        return MachineStanding(sentence=f"{error}.")
    if found.place is None:
        sentence = "The cluster moves to another server, and this node has no credential there yet."
        return MachineStanding(sentence=sentence if record is not None and record.active else "")
    new, old = found.place.addresses[0], config.addresses[0]
    here, number = (new if found.at_new else old), f"hand-over {found.number}"
    if found.closed:
        return MachineStanding(sentence=_to_write(config, found))
    why = f" {found.error[0].upper()}{found.error[1:]}." if found.error else ""
    return MachineStanding(sentence=f"The cluster moves from {old} to {new} ({number}); this node uses {here}.{why}")


def _to_write(config: AgentConfig, known: KnownServers) -> str:
    """Return the sentence of a node whose move is done: which lines of agent.yaml name the old server."""
    from vaultpki.node import servers

    place, here = known.place, servers.at_new(config, known)
    if place is None or here is None:
        return ""
    lines = [f"addresses: [{', '.join(place.addresses)}]"]
    lines += [f"namespace: {place.namespace}"] if place.namespace else []
    lines += [f"prefix: {place.prefix}", f"ca_file: {here.ca_file}"] if here.ca_file else [f"prefix: {place.prefix}"]
    lines += [f"role_id: {known.role_id}"] if known.role_id else []
    if (config.addresses, config.prefix, config.namespace) == (here.addresses, here.prefix, here.namespace):
        return ""
    return f"The cluster has moved to {place.addresses[0]}. Write there into {config.file}: {'; '.join(lines)}."


def report(made: NodeReport, config: AgentConfig, wanted: Assignment, known: AgentState, clock: float) -> NodeReport:
    """Return the report with what the node says of the move; as it is where there is none."""
    record = _record(wanted)
    if not _known(config) and (record is None or not record.active):
        return made
    from vaultpki.node import servers

    try:
        found = servers.load(config.state)
    except (SpecError, StoreError) as error:
        found = servers.KnownServers(error=str(error))
    if found.place is None and (record is None or not record.active):
        return made
    # What this very pass has read counts too.
    at_new = bool(config.credential_folder) or (record is not None and _is_new(config, record))
    here = servers.NEW if at_new else servers.OLD
    reached = tuple(sorted({*found.reached, here}, reverse=True))
    highest = max(found.highest, record.revision if record is not None else 0)
    return replace(made, move=servers.said(replace(found, highest=highest, reached=reached)))


def _is_new(config: AgentConfig, record: MoveRecord) -> bool:
    """Return whether agent.yaml names the new server, as that of a node which has joined there."""
    same = (config.prefix, config.namespace or "") == (record.new.prefix, record.new.namespace)
    return same and not set(config.addresses).isdisjoint(record.new.addresses)


def follow(
    config: AgentConfig, clock: float, made: PassMade, *, allow_http: bool, alive: Callable[[], None]
) -> Followed:
    """Take the credential at the other server, read the record there, report there, and say where the next pass goes.

    What goes wrong with that is a failure, and takes nothing from the pass.
    """
    record = _record(made.assigned)
    if not _known(config) and record is None:
        return Followed()
    from vaultpki.node import servers

    try:
        known = servers.load(config.state)
        if known.closed or (known.place is None and not _matters(config, known, record)):
            return Followed()
        if made.reached is None:
            # Nobody was asked, so nothing is known better.
            return Followed({_NAME: StateConflict(known.error)} if known.error else {})
        from vaultpki.procedures import move_pass

        return move_pass.after(config, clock, made, known, record, allow_http=allow_http)
    except VaultpkiError as error:
        return Followed({_NAME: StateConflict(str(error))})


def _matters(config: AgentConfig, known: KnownServers, record: MoveRecord | None) -> bool:
    """Return whether a node without a credential at the new server has something to take, or to remember."""
    if record is None or _is_new(config, record):
        return False
    return record.active or (record.state.value == "steady" and record.number > known.ended)
