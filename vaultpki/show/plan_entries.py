"""Groups the changes of a plan into what a person decides on: by node and certificate, each change once; pure."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, Final

from vaultpki.certificates import NODE_ADDRESSES, ROOT, all_cas, all_rows, node_rows, resolve, rows
from vaultpki.identity.access import WRITTEN
from vaultpki.model import NODE, Cluster, KeyType, Node, Pool, Row, Usage
from vaultpki.places import Layout
from vaultpki.provision import causes
from vaultpki.provision.causes import Entry as CertificateEntry
from vaultpki.provision.causes import RecordChange
from vaultpki.provision.desired import ENGINE_CONFIG
from vaultpki.provision.differences import as_text, certificate_differences, differences
from vaultpki.provision.plan import Action, Change, is_notice, without_notice
from vaultpki.records.changes import PARTS
from vaultpki.records.paths import LEAVING
from vaultpki.records.server_facts import Key
from vaultpki.redact import escaped, named
from vaultpki.show.line import Entry
from vaultpki.show.plan_record import foreign_ca_entries, template_entries
from vaultpki.values.durations import format_duration

ACTION_SIGNS: Final[Mapping[Action, str]] = {"create": "+", "update": "~", "delete": "-"}
# The fields of a new object that are shown.
_SHOWN: Final[Mapping[str, tuple[str, ...]]] = {
    "mount": ("type", "max_ttl"),
    "auth": ("type", "max_ttl"),
    "issuer": ("common_name", "ttl", "key"),
    "role": ("ttl", "key_type", "key_bits", "server_flag", "client_flag"),
    "approle": ("token_policies", "secret_id_ttl"),
}

# The kinds of object that every cluster has: one of it, and several.
_COMMON: Final[Mapping[str, tuple[str, str]]] = {
    "mount": ("mount", "mounts"),
    "auth": ("auth mount", "auth mounts"),
    "config": ("setting", "settings"),
    "policy": ("policy", "policies"),
}

# How a role names the node that logged in at an auth mount, which is known by its accessor.
_OWN_NAME: Final = re.compile(r"\{\{identity\.entity\.aliases\.([^.}]+)\.[a-z_.]+\}\}")
_Left = dict[Key, Change]
"""The changes that are not shown yet; a function that shows some removes them."""


def entries(cluster: Cluster, changes: Sequence[Change]) -> list[Entry]:
    """Return the entries of a plan; every change is in one of them, by itself or within its cause."""
    left = {change.key: change for change in without_notice(changes)}
    templates = [*template_entries(cluster, left), *foreign_ca_entries(cluster, left)]
    new = [*_new_cluster(cluster, left), *_new_cas(cluster, left)]
    new_holders = [*_new_holders(cluster, left)]
    updated, unexplained = causes.folded(cluster, tuple(left.values()))
    removed = [*_removed(cluster, left), *_ended_identities(cluster, left), *_left_chain(cluster, left)]
    removed += _removed_cas(left)
    left = {change.key: change for change in unexplained if change.key in left}
    certificates = [*_new_certificates(cluster, left), *_changed_certificates(cluster, updated)]
    notice = [_notice(change) for change in changes if is_notice(change)]
    return [*new, *certificates, *templates, *new_holders, *_single(cluster, left), *removed, *notice]


def _notice(change: Change) -> Entry:
    """The record that agents poll, with what it says that is wrong in place of digests."""
    if change.action == "create":
        part = "agents poll it, and look at everything only when it has changed"
    elif "state" in change.fields:
        part = "a command was interrupted: agents look at everything at each poll"
    else:
        before, after = change.fields.get("digests", ({}, {}))
        wrong = [part for part in PARTS if before.get(part) != after.get(part)]
        part = f"agents were not told of changes ({', '.join(wrong)})"
    return Entry(ACTION_SIGNS[change.action], title(change), (part,))


def _take(left: _Left, action: Action, keys: Iterable[Key]) -> list[Change]:
    """Remove and return the changes of these objects that have this action."""
    taken = [left[key] for key in keys if key in left and left[key].action == action]
    for change in taken:
        del left[change.key]
    return taken


def _new_cluster(cluster: Cluster, left: _Left) -> Iterator[Entry]:
    """A new cluster in one entry: what every cluster has."""
    root = left.get(("mount", cluster.mount(ROOT)))
    if root is None or root.action != "create":
        return
    records = tuple(f"{cluster.mount('config')}/{folder}/" for folder in ("nodes", "pools"))
    policies = tuple(f"{cluster.prefix}/{who}" for who in WRITTEN)
    common = [
        (kind, name)
        for kind, name in left
        if kind in ("mount", "auth") or name in policies or (kind == "config" and not name.startswith(records))
    ]
    counts = Counter(change.kind for change in _take(left, "create", common))
    parts = ", ".join(f"{count} {_COMMON[kind][count != 1]}" for kind, count in counts.items())
    yield Entry("+", f"cluster {cluster.name} below {cluster.prefix}", (parts,))


def _new_cas(cluster: Cluster, left: _Left) -> Iterator[Entry]:
    outside = cluster.authority.outside
    for change in _take(left, "create", [("key", cluster.mount(ca)) for ca in all_cas(cluster)]):
        name, key = (change.fields[field][1] for field in ("common_name", "key"))
        about = f'"{name}", key {key}; the signer outside makes its CA'
        yield Entry("+", f"key of the CA {change.name.rpartition('/')[2]}", (about,))
    for change in _take(left, "create", [("issuer", cluster.mount(ca)) for ca in all_cas(cluster)]):
        ca = change.name.rpartition("/")[2]
        # Of a new mount the CA says enough.
        beside = [("config", f"{change.name}/config/{each}") for each in ENGINE_CONFIG]
        _take(left, "create", [("mount", change.name), *beside])
        if ca == ROOT and outside is not None:
            between = f" and {len(outside.others)} further CAs" if len(outside.others) > 1 else ""
            between = " and 1 further CA" if len(outside.others) == 1 else between
            yield Entry("+", f"CA {ca}", (f"from outside, without its key: {cluster.authority.root_sha256}{between}",))
            continue
        name, ttl, key = (change.fields[field][1] for field in _SHOWN["issuer"])
        signed = "" if ca == ROOT else ", signed by the root"
        if outside is not None:
            signed = f", signed by {outside.mount}/issuer/{outside.issuer}"
        yield Entry("+", f"CA {ca}", (f'"{name}", life {format_duration(ttl)}, key {key}{signed}',))


def _new_holders(cluster: Cluster, left: _Left) -> Iterator[Entry]:
    """Nodes and pools that are new."""
    for folder, record, _ in _records_and_owned(cluster, left, "create"):
        name = record.name.rpartition("/")[2]
        yield Entry("+", f"{folder[:-1]} {escaped(name)}", _described(cluster, folder, name))


def _records_and_owned(cluster: Cluster, left: _Left, action: Action) -> Iterator[tuple[str, Change, list[str]]]:
    """Take the records of nodes and pools that are made or removed, with words for all that goes with each."""
    for folder in ("nodes", "pools"):
        head = f"{cluster.mount('config')}/{folder}/"
        records = [key for key in left if key[0] == "config" and key[1].startswith(head)]
        for record in _take(left, action, records):
            owned = _owned(cluster, folder, record.name.removeprefix(head))
            yield folder, record, [owned[change.key] for change in _take(left, action, owned)]


def _owned(cluster: Cluster, folder: str, name: str) -> dict[Key, str]:
    """Return the objects that belong to a node or a pool, each with a word for it."""
    prefix = cluster.prefix
    owned: dict[Key, str] = {("policy", f"{prefix}/{folder[:-1]}/{name}"): "policy"}
    if folder == "nodes":
        return {**owned, ("approle", f"{prefix}/listed/{name}"): "AppRole"}
    roles: dict[Key, str] = {("role", f"{cluster.mount(row.ca)}/{row.name}-{name}"): "role" for row in rows(cluster)}
    return {**owned, ("config", f"auth/{prefix}/jwt/role/{name}"): "auth role", **roles}


def _removed(cluster: Cluster, left: _Left) -> Iterator[Entry]:
    """Nodes and pools that are removed; those of the same roles are one entry."""
    together: dict[tuple[str, str, str], list[str]] = {}
    for folder, record, words in _records_and_owned(cluster, left, "delete"):
        roles, _ = record.fields.get("roles", (None, None))
        what = "+".join(escaped(str(role)) for role in roles) if isinstance(roles, list) else ""
        key = folder, f" ({what})" if what else "", ", ".join(["record", *words])
        together.setdefault(key, []).append(record.name.rpartition("/")[2])
    for (folder, roles_, what), names in together.items():
        one = len(names) == 1
        subject = f"{folder[:-1]} {escaped(names[0])}" if one else f"{len(names)} {folder} {named(names)}"
        yield Entry("-", f"{subject}{roles_}", (f"{'its' if one else 'of each its'} {what}",))


def _described(cluster: Cluster, folder: str, name: str) -> tuple[str, ...]:
    """Return what a new node or pool is."""
    holders: tuple[Node | Pool, ...] = cluster.nodes if folder == "nodes" else cluster.pools
    who = next(each for each in holders if each.name == name)
    what = "+".join(sorted(role.value for role in who.roles))
    if isinstance(who, Node):
        about = f"{what}, addresses {', '.join(who.addresses) or 'none'}"
    else:
        about = f"{what}, names {who.node_names}" + (", by an issuer's token" if who.jwt else "")
    held = [row.name for row in node_rows(cluster, who)]
    return about, f"{len(held)} certificates: {', '.join(held)}"


def _ended_identities(cluster: Cluster, left: _Left) -> Iterator[Entry]:
    """AppRoles of the pooled mount that are deleted, and notes of ends and locks whose nodes are gone."""
    why: dict[str, list[str]] = {}
    heads = {"approle": f"{cluster.prefix}/pooled/", "config": f"{cluster.mount('config')}/{LEAVING}/"}
    keys = [(kind, name) for kind, name in left if kind in heads and name.startswith(heads[kind])]
    for change in _take(left, "delete", keys):
        # Policies are read only for AppRoles whose names fit a pool.
        policies, _ = change.fields.get("token_policies", (None, None))
        if change.kind == "config":
            reason = "locked, or a run that was interrupted has not ended all"
        elif policies is None:
            reason = "no pool has the name"
        else:
            reason = f"no such pool has its policy {as_text('', policies)}"
        why.setdefault(reason, []).append(change.name.removeprefix(heads[change.kind]))
    for reason, names in why.items():
        what = "1 identity" if len(names) == 1 else f"{len(names)} identities"
        yield Entry("-", f"{what} of pooled nodes", (f"{named(sorted(names))} ({reason})",))


def _left_chain(cluster: Cluster, left: _Left) -> Iterator[Entry]:
    """CAs above the issuing ones that nothing needs any more."""
    head = f"{cluster.mount(ROOT)}/issuer/"
    for change in _take(left, "delete", [("issuer", name) for kind, name in left if name.startswith(head)]):
        subject, _ = change.fields.get("subject", ("", None))
        why = "it has expired, or ca.root has it no more; nothing is below it"
        yield Entry("-", f"CA {escaped(str(subject))}", (why,))


def _removed_cas(left: _Left) -> Iterator[Entry]:
    """CAs that are removed with their mounts and all that is on them."""
    gone = [name for (kind, name), change in left.items() if kind == "mount" and change.action == "delete"]
    for name in gone:
        inside = [key for key in left if key[1] == name or key[1].startswith(f"{name}/")]
        if ("issuer", name) in inside:
            _take(left, "delete", inside)
            yield Entry("-", f"CA {escaped(name.rpartition('/')[2])}", ("its key, its mount and what is on it",))


def _new_certificates(cluster: Cluster, left: _Left) -> Iterator[Entry]:
    known = {f"{cluster.mount(row.ca)}/{row.name}": row for row in all_rows(cluster)}
    for change in _take(left, "create", [(kind, name) for kind, name in left if kind == "role" and name in known]):
        row = known[change.name]
        usage = {Usage.BOTH: "client and server"}.get(row.usage, row.usage.value)
        made = change.fields["key_type"][1], change.fields["key_bits"][1]
        key = next((key.value for key in KeyType if (key.vault_type, key.vault_bits) == made), "of another type")
        ttl = as_text("ttl", change.fields["ttl"][1])
        about = f"{usage}, ttl {ttl}, key {key}, CA {row.ca}"
        yield Entry("+", f"certificate {row.name}", (about, *_subject(cluster, row)))


def _subject(cluster: Cluster, row: Row) -> tuple[str, ...]:
    """Return the names in a certificate, with words in place of what each node has of its own."""
    subject = resolve(row, cluster, None).subject
    organizations = "".join(f", O {escaped(each)}" for each in subject.organization)
    parts = [f"CN {escaped(subject.common_name.replace(NODE, 'NODE'))}{organizations}"]
    dns = ["the node's name" if name == NODE else escaped(name.replace(NODE, "NODE")) for name in subject.dns]
    ips = [*subject.ips, *(["the node's addresses"] if NODE_ADDRESSES in row.ips else [])]
    parts += [f"{what} {', '.join(values)}" for what, values in (("names", dns), ("addresses", ips)) if values]
    return tuple(parts)


def _changed_certificates(cluster: Cluster, records: Iterable[RecordChange]) -> Iterator[Entry]:
    """The certificates that change in records; the same change on many nodes, or of many on the same, is one entry."""
    together: dict[tuple[str, str, tuple[str, ...]], list[str]] = {}
    for record in records:
        holder = record.name if record.folder == "nodes" else f"pool {record.name}"
        for name, (before, after) in record.certificates.items():
            sign = "+" if before is None else "-" if after is None else "~"
            parts: list[str] = []
            if before is not None and after is not None:
                parts = certificate_differences(before, after)
            elif after is not None:
                parts = [f"ttl {as_text('ttl', after.get('ttl'))}", *_alternative_names(cluster, record, after)]
            if parts or sign == "-":
                together.setdefault((sign, name, tuple(parts)), []).append(holder)
    alike: dict[tuple[str, tuple[str, ...], tuple[str, ...]], list[str]] = {}
    for (sign, name, words), holders in together.items():
        alike.setdefault((sign, tuple(holders), words), []).append(name)
    for (sign, of, words), names in alike.items():
        yield Entry(sign, f"{named(of)}: {', '.join(map(escaped, names))}", words)


def _alternative_names(cluster: Cluster, record: RecordChange, entry: CertificateEntry) -> list[str]:
    """Return the names and addresses in a record's certificate, with words for those of its node."""
    node = next((node for node in cluster.nodes if record.folder == "nodes" and node.name == record.name), None)
    own_addresses = node.addresses if node else ()
    own_names = (NODE, *([node.name] if node else []))
    parts = []
    for what, field, own in (("name", "dns", own_names), ("address", "ips", own_addresses)):
        values = entry.get(field)
        values = [str(value) for value in values] if isinstance(values, list) else []
        its = f"the node's {what}{'' if what == 'name' else 'es'}"
        words = dict.fromkeys(its if value in own else escaped(value) for value in values)
        if words:
            parts.append(f"{what}{'s' if what == 'name' else 'es'} {', '.join(words)}")
    return parts


def _single(cluster: Cluster, left: _Left) -> Iterator[Entry]:
    """Return the changes without a larger cause; those that differ by a node's or a CA's name alone are one entry."""
    together: dict[tuple[Action, str, tuple[str, ...]], list[Change]] = {}
    for change in left.values():
        name, placeholder = _varying(cluster, change)
        parts = tuple(part.replace(name, placeholder) if name else part for part in fields(change))
        subject = change.name.replace(name, placeholder) if name else change.name
        together.setdefault((change.action, f"{change.kind} {escaped(subject)}", parts), []).append(change)
    for (action, subject, parts), some in together.items():
        if len(some) == 1:
            yield Entry(
                ACTION_SIGNS[action], _usual_name(cluster, some[0]), (*fields(some[0]), *_note(cluster, some[0]))
            )
            continue
        names = named([_varying(cluster, change)[0].rpartition("/")[2] for change in some])
        of_nodes = some[0].kind == "config" and some[0].name.startswith(f"{cluster.mount('config')}/nodes/")
        yield Entry(ACTION_SIGNS[action], f"{len(some)} nodes {names}" if of_nodes else f"{subject} ({names})", parts)


def _note(cluster: Cluster, change: Change) -> tuple[str, ...]:
    """Return what a person could misunderstand in a change."""
    if change.key == ("config", f"{cluster.mount('config')}/cluster") and "vault" in change.fields:
        return ("only for new join files; joined nodes keep their addresses",)
    return ()


def _usual_name(cluster: Cluster, change: Change) -> str:
    """Return what a person calls an object: a role by its certificate, a record by its node or pool."""
    store, (mount, _, last) = cluster.mount("config"), change.name.rpartition("/")
    known = any(change.name == f"{cluster.mount(row.ca)}/{row.name}" for row in all_rows(cluster))
    # What an earlier apply made there was a row too.
    known = known or (change.action == "delete" and mount in map(cluster.mount, all_cas(cluster)))
    if change.kind == "role" and known:
        return f"certificate {escaped(last)}"
    if change.key == ("config", f"{store}/cluster"):
        return f"cluster {cluster.name}"
    if change.kind == "config" and mount in (f"{store}/nodes", f"{store}/pools"):
        return f"{mount.rpartition('/')[2][:-1]} {escaped(last)}"
    return title(change)


def _varying(cluster: Cluster, change: Change) -> tuple[str, str]:
    """Return the part of an object's name in which it differs from others of its kind, and a placeholder for it."""
    prefix = cluster.prefix
    head, _, last = change.name.rpartition("/")
    if head in (f"{prefix}/listed", f"{prefix}/node", f"{cluster.mount('config')}/nodes"):
        return f"/{last}", "/NODE"
    for mount in map(cluster.mount, all_cas(cluster)):
        if change.kind != "role" and f"{change.name}/".startswith(f"{mount}/"):
            return mount, f"{prefix}/CA"
    return "", ""


def title(change: Change) -> str:
    return f"{change.kind} {escaped(change.name)}"


def fields(change: Change) -> tuple[str, ...]:
    """Return what an update changes, and of a new object the few values that say what it is."""
    if change.action == "update":
        return tuple(part for name, pair in _with_key(change).items() for part in _field(change, name, *pair))
    if change.action == "create" and change.kind in _SHOWN:
        values = {name: change.fields[name][1] for name in _SHOWN[change.kind] if name in change.fields}
        return (", ".join(f"{name} {as_text(name, value)}" for name, value in values.items()),)
    return ()


def _with_key(change: Change) -> Mapping[str, tuple[Any, Any]]:
    """Return the fields of a change, with a role's key as cluster.yaml writes it if its type changes."""
    names = ("key_type", "key_bits")
    if change.kind != "role" or not all(name in change.fields for name in names):
        return change.fields
    keys = {(key.vault_type, key.vault_bits): key.value for key in KeyType}
    old, new = (keys.get((change.fields[names[0]][side], change.fields[names[1]][side])) for side in (0, 1))
    if old is None or new is None:
        return change.fields
    return {"key": (old, new), **{name: pair for name, pair in change.fields.items() if name not in names}}


def _field(change: Change, name: str, old: Any, new: Any) -> list[str]:
    if name == "max_ttl" and change.fields.get("ttl") == (old, new):
        # A role's two are always alike, unless somebody changed one of them.
        return []
    if change.kind == "policy" and (old is None or new is None):
        return [f"{'+' if old is None else '-'} {escaped(name)} ({_rule(new if old is None else old)})"]
    if change.kind == "role" and name == "allowed_domains":
        old, new = _in_words(old), _in_words(new)
    if name == "layout":
        # Records of the layout document do not name it.
        old, new = old or Layout.DOCUMENT.value, new or Layout.DOCUMENT.value
    return differences(escaped(name), old, new, field=name) or [
        f"{escaped(name)} {as_text(name, old)} -> {as_text(name, new)}"
    ]


def _in_words(names: Any) -> Any:
    """Return the names that a role allows with a word for the node's own name, which Vault fills in at a login."""
    if not isinstance(names, list):
        return names
    return [_OWN_NAME.sub(r"NODE(\1)", name) if isinstance(name, str) else name for name in names]


def _rule(rule: Any) -> str:
    if not isinstance(rule, Mapping) or not isinstance(rule.get("capabilities"), list):
        return as_text("", rule)
    limits = ", with limits" if rule.keys() > {"capabilities"} else ""
    return f"{', '.join(escaped(str(each)) for each in rule['capabilities'])}{limits}"
