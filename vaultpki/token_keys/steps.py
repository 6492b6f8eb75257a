"""Decides what one run of `ca continue` or `ca abort` makes of the record of service-account keys; pure.

It takes in what nodes report, and then takes a step if its gate is open; else it says whose turn it is to restart.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, replace

from vaultpki.errors import ArgumentError, StateConflict
from vaultpki.kube.token_flags import TokensInUse
from vaultpki.procedure.gate import Gate
from vaultpki.records.service_account import KeyMethod, KeyRecord, KeyState
from vaultpki.redact import first_few
from vaultpki.token_keys import course as key_course
from vaultpki.token_keys.course import KeyScene
from vaultpki.token_keys.gates import LEGACY, KeyTransition, key_gate
from vaultpki.token_keys.holders import wanted_union
from vaultpki.token_keys.states import FREE_KEY_STEPS
from vaultpki.token_keys.words import check_refused, restart_refused


@dataclass(frozen=True, slots=True)
class KeysSaid:
    """What an operator adds to what nodes report.

    `restarted` are the components (`cp-1/kube-apiserver`) that a person has restarted and that no agent can see, and
    `checked` further words of a person (`issuer.JWKS`). `replaced` are nodes that were installed anew. `without`
    may have the word for Secrets whose tokens never expire. `token_life` is how many seconds tokens live at most by
    a person's word, None if none was said. `tokens` is what the running cluster shows.
    """

    restarted: Collection[str] = ()
    replaced: Collection[str] = ()
    without: Collection[str] = ()
    token_life: int | None = None
    tokens: TokensInUse | None = None
    checked: Collection[str] = ()


NOTHING_SAID_OF_KEYS = KeysSaid()
"""What an operator says who only asks for the next step."""


@dataclass(frozen=True, slots=True)
class NextKeyRecord:
    """The record that is to be written, None if there is nothing to begin with; `moved` if it is in another state.

    It is the stored one itself if nothing is to be written. `notes` are sentences about something unusual.
    """

    record: KeyRecord | None
    moved: bool = False
    notes: tuple[str, ...] = ()


def next_record(
    stored: KeyRecord | None,
    scene: KeyScene,
    said: KeysSaid = NOTHING_SAID_OF_KEYS,
    *,
    back: bool = False,
    holds: bool = False,
) -> NextKeyRecord:
    """Return the record after one run; with `holds` no step is taken, since another rotation is under way.

    Raises ArgumentError and StateConflict for what a person says and does not count, and with `back` StateConflict
    where there is no way back.
    """
    if stored is not None and stored.active and (left_out := sorted({*said.without} - {LEGACY})):
        raise ArgumentError(
            f"{first_few(left_out)} cannot be left out of a rotation of these keys, since its kube-apiserver may sign "
            "tokens all the same. Repair the node, or remove it from cluster.yaml and run `vaultpki apply`"
        )
    taken = key_course.taken_in(stored, scene, _known(stored, said.replaced))
    record, notes = taken.record, taken.notes
    if back and (record is None or key_course.next_key_state(record, back=True) is None):
        raise StateConflict(_no_way_back(record))
    if record is None or stored is None:
        return NextKeyRecord(record, notes=notes)
    if wanted_union(record) != wanted_union(stored):
        # What a person said was about the keys of before.
        record = replace(record, restarted=(), checked=())
        if said.checked:
            raise StateConflict(
                "nodes have reported keys that are not in the record yet. Run `vaultpki ca continue` first, which "
                "takes them in. Then look at what it waits for: `vaultpki ca status`"
            )
    to = key_course.next_key_state(record, back=back)
    record = key_course.timed(_confirmed(record, to, scene, said, lenient=holds), scene, said.token_life)
    # What reports of another record say opens no gate, and a step that waits for none is not kept up by it.
    answered = (record.nodes, record.departed) == (stored.nodes, stored.departed)
    ready = to is not None and (answered or (record.state, to) in FREE_KEY_STEPS)
    found = transition_gate(record, to, scene, said) if to is not None and ready and not holds else None
    if to is not None and found is not None and found.open(scene.now):
        record = key_course.stepped(replace(record, turn=found.turn), to, scene.now)
        return NextKeyRecord(record, moved=True, notes=notes)
    record = key_course.with_turn(record, scene)
    return NextKeyRecord(stored if record == stored else record.changed(), notes=notes)


def transition_gate(record: KeyRecord, to: KeyState, scene: KeyScene, said: KeysSaid = NOTHING_SAID_OF_KEYS) -> Gate:
    """Return what stands before a step."""
    legacy = said.tokens.legacy if said.tokens is not None else None
    without = LEGACY in said.without
    step = KeyTransition(record, to, scene.holders, scene.now, scene.life, legacy, without, scene.published)
    return key_gate(step)


def _confirmed(
    record: KeyRecord, to: KeyState | None, scene: KeyScene, said: KeysSaid, *, lenient: bool = False
) -> KeyRecord:
    """Return the record with what a person says; StateConflict if it does not count, unless `lenient` leaves it out."""
    names = set[str]()
    for word in said.restarted:
        name = word.partition("/")[0]
        why = restart_refused(record, scene.holders.get(name), word)
        if why and not lenient:
            raise StateConflict(why)
        names |= set() if why else {name}
    for word in said.checked:
        step = KeyTransition(record, to or record.state, scene.holders, scene.now, published=scene.published)
        if why := check_refused(step, word):
            raise StateConflict(why)
    return record.noted(restarted=names, checked=said.checked)


def _known(record: KeyRecord | None, names: Collection[str]) -> Collection[str]:
    for name in names:
        if record is None or name not in record.nodes:
            raise ArgumentError(f"{name} has no service-account keys in this cluster; look at its name")
    return names


def _no_way_back(record: KeyRecord | None) -> str:
    if record is not None and record.active and record.method is KeyMethod.EMERGENCY:
        return "the old keys were stolen, so no rollback to them is possible; go on: `vaultpki ca continue`"
    return "no service-account keys are being rotated; `vaultpki ca rotate service-account-keys` begins"
