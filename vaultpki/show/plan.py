"""Shows a plan in the words in which a person approves it, and which server is asked with whose token; pure."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final

from vaultpki.identity import root_pin
from vaultpki.identity.asked_server import AskedServer
from vaultpki.model import Cluster
from vaultpki.pki.ca_life import Level
from vaultpki.places import file_option
from vaultpki.provision.plan import SECRET_ID, Change, Colour, Plan, Rotation, without_notice
from vaultpki.records.rotation import RotationRecord
from vaultpki.redact import escaped, first_few, named, stamp
from vaultpki.show.line import SIGN_COLOURS, WIDTH, Entry, Line, wrapped
from vaultpki.show.plan_entries import ACTION_SIGNS, entries, fields, title
from vaultpki.values.durations import format_duration

_LEVELS: Final[Mapping[Level, Colour | None]] = {Level.NOTICE: None, Level.WARNING: "yellow"}


def server_lines(asked: AskedServer, file: str) -> list[Line]:
    """Return the lines that stand above a plan; `file` is the path of cluster.yaml."""
    shown = wrapped(f"Server: {escaped(asked.address)}, namespace {escaped(asked.namespace)}", None, WIDTH)
    if asked.of_spec:
        shown += wrapped(
            f"! {asked.variable} names this server; {escaped(file)} names {first_few(asked.of_spec)}", "yellow", WIDTH
        )
    if asked.ignored:
        text = f"! this server has no namespaces: it ignores VAULT_NAMESPACE ({escaped(asked.ignored)})"
        shown += wrapped(text, "yellow", WIDTH)
    owner = asked.owner
    if owner is None:
        text = "cannot be read: its policies do not allow auth/token/lookup-self"
        return [*shown, *wrapped(f"Token: {text}", "yellow", WIDTH)]
    parts = [
        escaped(owner.name) or "without a name",
        f"policies {', '.join(map(escaped, owner.policies)) or 'none'}",
        *([f"entity {escaped(owner.entity)}"] if owner.entity else []),
        *([f"accessor {escaped(owner.accessor)}"] if owner.accessor else []),
    ]
    return [*shown, *wrapped(f"Token: {', '.join(parts)}", None, WIDTH)]


def lines(cluster: Cluster, plan: Plan, *, verbose: bool = False) -> list[Line]:
    """Return the plan as it is shown; with `verbose` object by object and field by field, uncut and unwrapped."""
    shown: list[Line] = []
    if verbose:
        for change in plan.changes:
            shown += _in_full(change)
    else:
        for entry in entries(cluster, plan.changes):
            shown += entry.lines()
    width = 0 if verbose else WIDTH
    dangerous = {danger.name for danger in plan.dangers}
    for kind, name in plan.unmanaged:
        if f"{kind} {name}" not in dangerous:
            shown += wrapped(f"? {kind} {escaped(name)}  (not made by vaultpki; left alone)", "yellow", width)
    for record in plan.active:
        shown += wrapped(active_sentence(record), None, width)
        if line := root_pin.advice(cluster, record):
            shown += wrapped(f"{escaped(line)}.", None, width)
    shown += attention_lines(cluster, plan, width=width)
    if plan.impact:
        from vaultpki.provision.impact import sentences

        shown.append(Line("Impact:"))
        for colour, text in sentences(plan.impact, merged=not verbose):
            shown += wrapped(f"  {text}", colour, width)
    if not plan.changes:
        return [*shown, Line("Nothing to change.")]
    return [*shown, Line(f"Plan: {counts(plan)}.")]


def counts(plan: Plan) -> str:
    """Return how many objects a plan creates, updates and deletes."""
    return ", ".join(f"{sum(each.action == action for each in plan.changes)} to {action}" for action in ACTION_SIGNS)


def change_texts(cluster: Cluster, plan: Plan) -> list[str]:
    """Return the lines of the changes alone: what depends on neither reports, nor time, nor steps of a rotation."""
    return [line.text for entry in entries(cluster, without_notice(plan.changes)) for line in entry.lines()]


def attention_lines(cluster: Cluster, plan: Plan, *, width: int = WIDTH) -> list[Line]:
    """Return what needs a person and is changed by no apply; `width` is in columns, 0 for no limit."""
    shown: list[Line] = []
    for danger in plan.dangers:
        shown += wrapped(f"! {escaped(danger.name)}: {escaped(danger.reason)}", "red", width)
    if plan.waiting:
        shown += wrapped(f"! {waiting_sentence(cluster.file, plan.waiting)}", "yellow", width)
    for rotation in plan.rotations:
        shown += wrapped(f"! {rotation_sentence(cluster.file, rotation)}", "yellow", width)
    for end in plan.expires:
        if end.level is not Level.NONE:
            colour: Colour | None = _LEVELS.get(end.level, "red")
            shown += wrapped(f"{'!' if end.level.attention else '?'} {end.sentence}", colour, width)
    return shown


def waiting_sentence(file: str, waiting: Sequence[str]) -> str:
    """Return which issuing CAs a signer outside has not signed yet, and the two commands that come next."""
    one, option = len(waiting) == 1, escaped(file_option(file))
    return (
        f"the issuing CA{'' if one else 's'} {named(waiting)} wait{'s' if one else ''} for a certificate of the signer "
        f"outside: `vaultpki ca csr{option} -o DIR` writes {'its request' if one else 'their requests'}, and "
        f"`vaultpki ca import{option} FILE...` takes what comes back"
    )


def change_lines(change: Change) -> list[Line]:
    """Return one change by itself, as apply shows it when it is made."""
    parts = fields(change) if change.action == "update" else ()
    if change.kind == SECRET_ID:
        parts = ("its node never received it",)
    return Entry(ACTION_SIGNS[change.action], title(change), parts).lines()


def planned(change: Change) -> bool:
    """Return whether a plan shows such a change before it is made."""
    return change.kind != SECRET_ID


def rotation_sentence(file: str, rotation: Rotation) -> str:
    """Return what a CA is, what cluster.yaml asks, and that this needs a rotation."""
    is_, wanted = (", ".join(_ca_word(name, pair[side]) for name, pair in rotation.fields.items()) for side in (0, 1))
    names = named(rotation.refused)
    refused = f"; until then {names} would outlive it and end with it" if names else ""
    return (
        f"{rotation.ca} CA: {is_} until {rotation.not_after:%Y-%m-%d}; {escaped(file)} asks {wanted}: it needs a "
        f"rotation (`vaultpki ca rotate {rotation.ca}`); nothing is changed{refused}"
    )


def active_sentence(record: RotationRecord) -> str:
    """Return that a CA is being rotated, and the command that says what it waits for."""
    new = f" to {record.new.title}" if record.new is not None else ""
    return (
        f"{record.domain} CA: being rotated from {record.old.title}{new}, {record.state.value} since "
        f"{stamp(record.since)}; `vaultpki ca status` says what it waits for"
    )


def _ca_word(name: str, value: Any) -> str:
    if name == "ttl":
        # To the minute: Vault reads its clock twice for a certificate.
        return f"a life of {format_duration(max(60, round(value / 60) * 60))}"
    if name == "root":
        return f"a root {escaped(str(value))}"
    if name == "subject":
        return f"a name with {escaped(value)}" if value else "a name with the CN alone"
    return f'"{escaped(value)}"' if name == "common_name" else escaped(str(value))


def _in_full(change: Change) -> Iterator[Line]:
    sign = ACTION_SIGNS[change.action]
    yield Line(f"{sign} {title(change)}", SIGN_COLOURS[sign])
    from vaultpki.show.plan_diff import every_field

    yield from (Line(f"    {text}") for text in every_field(change))
