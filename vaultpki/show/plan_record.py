"""Shows what the cluster's record has in a plan: templates with the lines that change, and foreign CAs; pure."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, MutableMapping
from dataclasses import replace
from typing import Final

from vaultpki.model import Cluster
from vaultpki.pki.facts import Facts
from vaultpki.provision import foreign_cas
from vaultpki.provision.differences import differences, line_changes
from vaultpki.provision.plan import Change
from vaultpki.records.foreign_cas import FIELD
from vaultpki.records.server_facts import Key
from vaultpki.redact import escaped
from vaultpki.show.line import Entry

# The lines of a changed template that are shown.
_SHOWN_LINES: Final = 10


def template_entries(cluster: Cluster, left: MutableMapping[Key, Change]) -> Iterator[Entry]:
    """Return the templates that are new, changed or removed, and take them out of the changes that are `left`."""
    key = ("config", f"{cluster.mount('config')}/cluster")
    change = left.get(key)
    if change is None or "templates" not in change.fields or change.action == "delete":
        return
    sides = [{} if side is None else side for side in change.fields["templates"]]
    if not all(_are_templates(side) for side in sides):
        # Somebody else wrote it; it is shown field by field.
        return
    if others := {name: pair for name, pair in change.fields.items() if name != "templates"}:
        left[key] = replace(change, fields=others)
    else:
        del left[key]
    old, new = sides
    sources = {template.name: template.source for template in cluster.templates}
    for name in dict.fromkeys((*old, *new)):
        before, after = old.get(name), new.get(name)
        entry = after or before
        where = f"{_label(entry['file'])} on nodes with the role {' or '.join(map(_label, entry['roles']))}"
        if before is None:
            about = f"{_label(sources.get(name, ''))} is rendered to {where} ({_lines(entry['text'])})"
            yield Entry("+", f"template {_label(name)}", (about,))
        elif after is None:
            yield Entry("-", f"template {_label(name)}", (f"{where} is removed",))
        elif before != after:
            fields_ = (field for field in ("file", "roles") if before[field] != after[field])
            parts = [part for field in fields_ for part in differences(field, before[field], after[field])]
            yield Entry(
                "~", f"template {_label(name)}", (where, *parts, *_changed_lines(before["text"], after["text"]))
            )


def foreign_ca_entries(cluster: Cluster, left: MutableMapping[Key, Change]) -> Iterator[Entry]:
    """Return the foreign CAs that are new or removed, and take them out of the changes that are `left`."""
    key = ("config", f"{cluster.mount('config')}/cluster")
    change = left.get(key)
    if change is None or FIELD not in change.fields or change.action == "delete":
        return
    found = [*foreign_cas.changes_of(cluster, change)]
    if not found or any(each.unreadable or not (each.added or each.removed) for each in found):
        # Somebody else wrote it; it is shown field by field.
        return
    if others := {name: pair for name, pair in change.fields.items() if name != FIELD}:
        left[key] = replace(change, fields=others)
    else:
        del left[key]
    sources = {(each.ca, each.sha256): each.source for each in cluster.authority.also_trust}
    for each in found:
        for sign, cas in (("+", each.added), ("-", each.removed)):
            for facts in cas:
                yield Entry(
                    sign, f"foreign CA of {each.ca}", _described(facts, sources.get((each.ca, facts.fingerprint), ""))
                )


def _described(facts: Facts, source: str) -> tuple[str, ...]:
    ends = f"until {facts.not_after:%Y-%m-%d}"
    return (
        f"{escaped(facts.subject_text)}, {ends}" + (f", from {escaped(source)}" if source else ""),
        f"SHA-256 {facts.fingerprint}",
    )


def _are_templates(side: object) -> bool:
    """Return whether a field of the cluster's record has templates as we write them."""
    return isinstance(side, Mapping) and all(
        isinstance(entry, Mapping)
        and entry.keys() == {"file", "text", "roles"}
        and isinstance(entry["text"], str)
        and isinstance(entry["roles"], list)
        for entry in side.values()
    )


def _changed_lines(old: str, new: str) -> list[str]:
    """Return the first few lines that a template loses and gains, as `diff` shows them."""
    lines = line_changes(old, new)
    shown = lines[:_SHOWN_LINES]
    more = len(lines) - len(shown)
    return shown + ([f"and {_lines_count(more)} more (--verbose shows all)"] if more else [])


def _lines(text: str) -> str:
    return _lines_count(len(text.splitlines()))


def _lines_count(count: int) -> str:
    return f"{count} {'line' if count == 1 else 'lines'}"


def _label(value: object) -> str:
    return escaped(str(value))
