"""A plan in the words in which a person approves it: by node and certificate, each change once; pure."""

from __future__ import annotations

import json
import textwrap
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final

from vaultpki import causes
from vaultpki.certificates import ISSUING_CAS, ROOT, rows
from vaultpki.config.durations import format_duration
from vaultpki.differences import differences, word
from vaultpki.impact import named, sentences
from vaultpki.known import Key
from vaultpki.model import Cluster, KeyType, Node, Pool, Row
from vaultpki.plain import escaped
from vaultpki.plan import UNCHANGED, Change, Colour, Plan, Rotation
from vaultpki.values import dataclass

WIDTH: Final = 100
"""How many columns a plan takes at most, unless every field is asked for."""

_SIGNS: Final[Mapping[str, tuple[str, Colour]]] = {
    "create": ("+", "green"),
    "update": ("~", "yellow"),
    "delete": ("-", "red"),
}
_CAS: Final = (ROOT, *ISSUING_CAS)


@dataclass(frozen=True, slots=True)
class Line:
    """One line for a terminal; `colour` is None where it has none. Nothing in it steers the terminal."""

    text: str
    colour: Colour | None = None


def lines(cluster: Cluster, plan: Plan, *, verbose: bool = False) -> list[Line]:
    """The plan as it is shown; with `verbose` object by object and field by field, uncut and unwrapped."""
    told: list[Line] = []
    if verbose:
        for change in plan.changes:
            told += _whole(change)
    else:
        told += [Line(line, entry.colour) for entry in _Story(cluster, plan.changes).told() for line in entry.lines()]
    width = 0 if verbose else WIDTH
    dangerous = {danger.name for danger in plan.dangers}
    for kind, name in plan.unmanaged:
        if f"{kind} {name}" in dangerous:
            continue
        told += _wrapped(f"? {kind} {escaped(name)}  (not made by vaultpki; left alone)", "yellow", width)
    told += attention_lines(cluster, plan, width=width)
    if plan.impact:
        told.append(Line("Impact:"))
        for colour, text in sentences(plan.impact, merged=not verbose):
            told += _wrapped(f"  {text}", colour, width)
    return [*told, Line(_counts(plan.changes))]


def attention_lines(cluster: Cluster, plan: Plan, *, width: int = WIDTH) -> list[Line]:
    """What needs a person and is changed by no apply; `width` is in columns, 0 for as many as it takes."""
    told: list[Line] = []
    for danger in plan.dangers:
        told += _wrapped(f"! {escaped(danger.name)}: {escaped(danger.reason)}", "red", width)
    for rotation in plan.rotations:
        told += _wrapped(f"! {rotation_sentence(cluster.file, rotation)}", "yellow", width)
    return told


def change_lines(change: Change) -> list[Line]:
    """One change by itself, as apply tells that it is done."""
    sign, colour = _SIGNS[change.action]
    parts = _fields(change) if change.action == "update" else ()
    return [Line(line, colour) for line in _Entry(sign, colour, _subject(change), parts).lines()]


def rotation_sentence(file: str, rotation: Rotation) -> str:
    """What a CA is, what is asked of it, and that nothing here changes it."""
    is_, wanted = (", ".join(_ca_words(name, pair[side]) for name, pair in rotation.fields.items()) for side in (0, 1))
    names = named(rotation.refused)
    refused = f"; until then Vault refuses {names}, which would outlive it" if names else ""
    return (
        f"{rotation.ca} CA: {is_} until {rotation.not_after:%Y-%m-%d}; {escaped(file)} asks {wanted}: it needs a "
        f"rotation, which this version cannot do; nothing is changed{refused}"
    )


def _ca_words(name: str, value: Any) -> str:
    if name == "ttl":
        # Two readings of one clock lie in a certificate's life.
        return f"a life of {format_duration(max(60, round(value / 60) * 60))}"
    return f'"{escaped(value)}"' if name == "common_name" else escaped(str(value))


def _counts(changes: Sequence[Change]) -> str:
    if not changes:
        return UNCHANGED
    counts = {action: sum(change.action == action for change in changes) for action in _SIGNS}
    return f"Plan: {counts['create']} to create, {counts['update']} to update, {counts['delete']} to delete."


def _whole(change: Change) -> Iterator[Line]:
    sign, colour = _SIGNS[change.action]
    yield Line(f"{sign} {change.kind} {escaped(change.name)}", colour)
    for name, (old, new) in change.fields.items():
        sides = {"create": [new], "update": [old, new], "delete": [old]}[change.action]
        # In ASCII, JSON escapes all that could steer a terminal.
        yield Line(f"    {escaped(name)}: {' -> '.join(json.dumps(side, default=str) for side in sides)}")


def _wrapped(text: str, colour: Colour | None, width: int) -> list[Line]:
    if len(text) <= width or not width:
        return [Line(text, colour)]
    indent = " " * (len(text) - len(text.lstrip()) + 4)
    return [Line(line, colour) for line in textwrap.wrap(text, width, subsequent_indent=indent, break_on_hyphens=False)]


@dataclass(frozen=True, slots=True)
class _Entry:
    """One thing that a person decides on: its sign, what it is about, and what of it."""

    sign: str
    colour: Colour
    subject: str
    parts: tuple[str, ...] = ()

    def lines(self) -> list[str]:
        head = f"{self.sign} {self.subject}"
        whole = f"{head}: {'; '.join(self.parts)}" if self.parts else head
        if len(whole) <= WIDTH or len(self.parts) < 2:
            return [line.text for line in _wrapped(whole, None, WIDTH)]
        return [
            line.text
            for text in (f"{head}:", *(f"    {part}" for part in self.parts))
            for line in _wrapped(text, None, WIDTH)
        ]


class _Story:
    """The changes told by what they are about; every change is told once, by itself or within its cause."""

    def __init__(self, cluster: Cluster, changes: Sequence[Change]) -> None:
        self._cluster = cluster
        self._left: dict[Key, Change] = {change.key: change for change in changes}
        self._store = cluster.mount("config")

    def told(self) -> list[_Entry]:
        cluster = self._whole_cluster()
        cas = list(self._cas())
        nodes = [entry for node in self._cluster.nodes for entry in self._come(node)]
        pools = [entry for pool in self._cluster.pools for entry in self._come(pool)]
        rest = causes.folded(self._cluster, tuple(self._left.values()))
        gone = [*self._gone(), *self._identities()]
        self._left = {change.key: change for change in rest.changes if change.key in self._left}
        certificates = [*self._certificates_made(), *self._certificate_changes(rest.certificates)]
        return [*cluster, *cas, *certificates, *nodes, *pools, *self._plain(), *gone]

    def _take(self, action: str, kind: str, name: str) -> Change | None:
        change = self._left.get((kind, name))
        return self._left.pop((kind, name)) if change is not None and change.action == action else None

    def _whole_cluster(self) -> Iterator[_Entry]:
        """A cluster that is not there yet, in one line: what every cluster has alike says nothing."""
        prefix = self._cluster.prefix
        root = self._left.get(("mount", self._cluster.mount(ROOT)))
        if root is None or root.action != "create":
            return
        counts: dict[str, int] = {}
        own = (f"{prefix}/operator", f"{prefix}/enroller")
        for (kind, name), change in list(self._left.items()):
            settings = kind == "config" and not name.startswith((f"{self._store}/nodes/", f"{self._store}/pools/"))
            if change.action == "create" and (kind in ("mount", "auth") or settings or name in own):
                what = {"auth": "auth mount", "config": "setting"}.get(kind, kind)
                counts[what] = counts.get(what, 0) + 1
                del self._left[kind, name]
        parts = (f"{count} {_plural(what, count)}" for what, count in counts.items())
        yield _Entry("+", "green", f"cluster {self._cluster.name} below {prefix}", (", ".join(parts),))

    def _cas(self) -> Iterator[_Entry]:
        for ca in _CAS:
            change = self._take("create", "issuer", self._cluster.mount(ca))
            if change is not None:
                wanted = {name: new for name, (_, new) in change.fields.items()}
                signed = "" if ca == ROOT else ", signed by the root"
                said = f'"{wanted["common_name"]}", life {format_duration(wanted["ttl"])}, key {wanted["key"]}{signed}'
                yield _Entry("+", "green", f"CA {ca}", (said,))

    def _come(self, who: Node | Pool) -> Iterator[_Entry]:
        """A node or a pool that is new: its record, and with it its policy and its way to log in."""
        cluster = self._cluster
        folder = "nodes" if isinstance(who, Node) else "pools"
        record = self._take("create", "config", f"{self._store}/{folder}/{who.name}")
        if record is None:
            return
        self._take("create", "policy", f"{cluster.prefix}/{folder[:-1]}/{who.name}")
        what = "+".join(sorted(role.value for role in who.roles))
        held = [row for row in rows(cluster) if row.node_roles & who.roles]
        if isinstance(who, Node):
            self._take("create", "approle", f"{cluster.prefix}/listed/{who.name}")
            about = f"{what}, addresses {', '.join(who.addresses) or 'none'}"
        else:
            self._take("create", "config", f"auth/{cluster.prefix}/jwt/role/{who.name}")
            for row in held:
                self._take("create", "role", f"{cluster.mount(row.ca)}/{row.name}-{who.name}")
            about = f"{what}, names {who.node_names}" + (", by an issuer's token" if who.jwt else "")
        certificates = f"{len(held)} certificates: {', '.join(row.name for row in held)}"
        yield _Entry("+", "green", f"{folder[:-1]} {who.name}", (about, certificates))

    def _gone(self) -> Iterator[_Entry]:
        """Nodes and pools that go: told by the record, which names what they held."""
        for folder in ("nodes", "pools"):
            head = f"{self._store}/{folder}/"
            for kind, name in list(self._left):
                if kind != "config" or not name.startswith(head):
                    continue
                if self._take("delete", kind, name) is None:
                    continue
                who, prefix = name.removeprefix(head), self._cluster.prefix
                also = [self._take("delete", "policy", f"{prefix}/{folder[:-1]}/{who}")]
                if folder == "nodes":
                    also.append(self._take("delete", "approle", f"{prefix}/listed/{who}"))
                else:
                    also.append(self._take("delete", "config", f"auth/{prefix}/jwt/role/{who}"))
                    roles = [f"{self._cluster.mount(row.ca)}/{row.name}-{who}" for row in rows(self._cluster)]
                    also += [self._take("delete", "role", role) for role in roles]
                words = {"policy": "policy", "approle": "AppRole", "config": "auth role", "role": "role"}
                ends = ["record", *(words[change.kind] for change in also if change is not None)]
                yield _Entry("-", "red", f"{folder[:-1]} {escaped(who)}", (f"its {', '.join(ends)}",))

    def _identities(self) -> Iterator[_Entry]:
        """AppRoles of the pooled mount that go, and what was left of such by a run that was cut off."""
        why: dict[str, list[str]] = {}
        heads = {"approle": f"{self._cluster.prefix}/pooled/", "config": f"{self._store}/leaving/"}
        for kind, name in list(self._left):
            head = heads.get(kind)
            if head is None or not name.startswith(head) or (change := self._take("delete", kind, name)) is None:
                continue
            # An AppRole whose policies were read has a name that fits: what it has not is the policy of such a pool.
            policies, _ = change.fields.get("token_policies", (None, None))
            reason = "no pool has the name" if policies is None else f"no such pool has its policy {word('', policies)}"
            reason = reason if kind == "approle" else "a run that was cut off has not ended all"
            why.setdefault(reason, []).append(name.removeprefix(head))
        for reason, names in why.items():
            what = f"{len(names)} {_plural('identity', len(names))} of pooled nodes"
            yield _Entry("-", "red", what, (f"{named(sorted(names))} ({reason})",))

    def _certificates_made(self) -> Iterator[_Entry]:
        known = {f"{self._cluster.mount(row.ca)}/{row.name}": row for row in rows(self._cluster)}
        for kind, name in list(self._left):
            if kind == "role" and name in known and (change := self._take("create", kind, name)):
                row = known[name]
                fields = {field: new for field, (_, new) in change.fields.items()}
                yield _Entry("+", "green", f"certificate {row.name}", (_row_words(row, fields),))

    def _certificate_changes(self, changes: Sequence[causes.CertificateChange]) -> Iterator[_Entry]:
        """The same change of a certificate on many nodes is one entry."""
        together: dict[tuple[str, str, tuple[str, ...]], list[str]] = {}
        for change in changes:
            together.setdefault((change.sign, change.certificate, change.parts), []).append(change.holder)
        for (sign, certificate, parts), holders in together.items():
            colour: Colour = {"+": "green", "-": "red"}.get(sign, "yellow")  # type: ignore[assignment]
            yield _Entry(sign, colour, f"{named(holders)}: {escaped(certificate)}", parts)

    def _plain(self) -> Iterator[_Entry]:
        """What has no larger cause, object by object; those that differ by a node's or a CA's name are one entry."""
        together: dict[tuple[str, str, tuple[str, ...]], list[Change]] = {}
        for change in self._left.values():
            name, placeholder = self._varying(change)
            parts = tuple(part.replace(name, placeholder) if name else part for part in _fields(change))
            subject = change.name.replace(name, placeholder) if name else change.name
            together.setdefault((change.action, f"{change.kind} {subject}", parts), []).append(change)
        for (action, subject, parts), some in together.items():
            sign, colour = _SIGNS[action]
            if len(some) == 1:
                yield _Entry(sign, colour, self._known_as(some[0]), _fields(some[0]))
                continue
            who = [self._varying(change)[0].rpartition("/")[2] for change in some]
            yield _Entry(sign, colour, f"{escaped(subject)} ({named(who)})", parts)

    def _known_as(self, change: Change) -> str:
        """What a person calls an object: a role by its certificate, a record by its node or pool."""
        mount, _, last = change.name.rpartition("/")
        for row in rows(self._cluster):
            if change.kind == "role" and mount == self._cluster.mount(row.ca) and row.name == last:
                return f"certificate {row.name}"
        if change.key == ("config", f"{self._store}/cluster"):
            return f"cluster {self._cluster.name}"
        for folder in ("node", "pool"):
            if change.kind == "config" and mount == f"{self._store}/{folder}s":
                return f"{folder} {escaped(last)}"
        return _subject(change)

    def _varying(self, change: Change) -> tuple[str, str]:
        """The part of an object's name in which it differs from others of its kind, and what stands for it."""
        prefix = self._cluster.prefix
        head, _, last = change.name.rpartition("/")
        if head in (f"{prefix}/listed", f"{prefix}/node", f"{self._store}/nodes"):
            return f"/{last}", "/NODE"
        for mount in map(self._cluster.mount, _CAS):
            if change.kind != "role" and f"{change.name}/".startswith(f"{mount}/"):
                return mount, f"{prefix}/CA"
        return "", ""


def _subject(change: Change) -> str:
    return f"{change.kind} {escaped(change.name)}"


def _fields(change: Change) -> tuple[str, ...]:
    """What an update changes, and the few values of something new that say what it is."""
    if change.action == "update":
        return tuple(_rules(change.fields) if change.kind == "policy" else _differences(change.fields))
    if change.action == "create" and change.kind in _TELLING:
        new = {name: pair[1] for name, pair in change.fields.items()}
        said = (f"{name} {word(name, new[name])}" for name in _TELLING[change.kind] if name in new)
        return (", ".join(said),)
    return ()


# Of a new object, the fields that say what it is.
_TELLING: Final[Mapping[str, tuple[str, ...]]] = {
    "mount": ("type", "max_ttl"),
    "auth": ("type", "max_ttl"),
    "issuer": ("common_name", "ttl", "key"),
    "role": ("ttl", "key_type", "key_bits", "server_flag", "client_flag"),
    "approle": ("token_policies", "secret_id_ttl"),
}


def _differences(fields: Mapping[str, tuple[Any, Any]]) -> Iterator[str]:
    for name, (old, new) in fields.items():
        # A role's two are always alike, unless somebody changed one of them.
        if name == "max_ttl" and fields.get("ttl") == (old, new):
            continue
        found = differences(escaped(name), old, new, field=name)
        yield from map(str, found) if found else iter([f"{escaped(name)} {word(name, old)} -> {word(name, new)}"])


def _rules(fields: Mapping[str, tuple[Any, Any]]) -> Iterator[str]:
    """What changes in a policy, path by path: a path that comes or goes by what it lets one do there."""
    for path, (old, new) in fields.items():
        if old is None or new is None:
            yield f"{'+' if old is None else '-'} {escaped(path)} ({_rule(new if old is None else old)})"
        else:
            yield from _differences({path: (old, new)})


def _rule(rule: Any) -> str:
    if not isinstance(rule, Mapping) or not isinstance(rule.get("capabilities"), list):
        return word("", rule)
    limits = ", with limits" if rule.keys() > {"capabilities"} else ""
    return f"{', '.join(escaped(str(each)) for each in rule['capabilities'])}{limits}"


def _row_words(row: Row, fields: Mapping[str, Any]) -> str:
    kind = {(True, True): "client and server", (True, False): "client", (False, True): "server"}[
        bool(fields.get("client_flag")), bool(fields.get("server_flag"))
    ]
    made = fields.get("key_type"), fields.get("key_bits")
    key = next((key.value for key in KeyType if (key.vault_type, key.vault_bits) == made), "of another type")
    return f"{kind}, ttl {word('ttl', fields.get('ttl'))}, key {key}, CA {row.ca}"


def _plural(what: str, count: int) -> str:
    if count == 1:
        return what
    return f"{what[:-1]}ies" if what.endswith("y") else f"{what}s"
