"""Tells what a plan means for nodes that take part already: who re-issues what, who loses access; pure."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from vaultpki import readers
from vaultpki.certificates import ROOT, rows, stored
from vaultpki.identity.access import approle_pools, fits_pattern, node_certificates, takes, unmatched
from vaultpki.layout import own_server
from vaultpki.model import Cluster, Node, NodeRole, Pool, Row
from vaultpki.provision import foreign_cas
from vaultpki.provision.causes import AwaitedPath, RecordChange, record_changes, waits
from vaultpki.provision.differences import certificate_differences
from vaultpki.provision.plan import Change, Colour, Impact, Live
from vaultpki.provision.quorum import NO_CONTROL_PLANE, NO_ETCD, SMALLER_QUORUM
from vaultpki.records import published
from vaultpki.records.node_report import PRUNE
from vaultpki.records.server_facts import Key
from vaultpki.records.service_account import SERVICE_ACCOUNT_KEYS
from vaultpki.records.signer import SIGNER_RECORD
from vaultpki.redact import escaped, named
from vaultpki.values.durations import format_duration

REISSUES: Final = "reissues"
ISSUES: Final = "issues"
REWRITES: Final = "rewrites"
WAITS: Final = "waits"
NOT_RENEWED: Final = "not-renewed"
LOSES_ACCESS: Final = "loses-access"
REJOINS: Final = "rejoins"
NOT_STORED: Final = "not-stored"
RESTARTS: Final = "restarts"
BY_HAND: Final = "by-hand"
TOKEN_KEYS: Final = "token-keys"  # noqa: S105 -- a word for programs
TOKEN_KEYS_STAY: Final = "token-keys-stay"  # noqa: S105
TRUSTS: Final = "trusts"
DISTRUSTS: Final = "distrusts"

# Fields of a certificate in a record that are not in the certificate itself: a change needs no new certificate.
_BESIDE: Final = frozenset({"file", "kubeconfig", "reload", "role"})
GRAVE: Final = frozenset({LOSES_ACCESS, DISTRUSTS, TOKEN_KEYS_STAY, SMALLER_QUORUM, NO_ETCD, NO_CONTROL_PLANE})
_POLL: Final = "within its agent's `poll` (5m by default)"
_WHEN: Final = f"{_POLL} or in its next window"
_ROTATE_KEYS: Final = f"`vaultpki ca rotate {SERVICE_ACCOUNT_KEYS}`"
# What one node does, and what several do.
_VERBS: Final[Mapping[str, tuple[str, str]]] = {
    REISSUES: ("issues {} anew", "issue {} anew, each"),
    ISSUES: ("issues {}", "issue {}, each"),
    REWRITES: ("writes the files of {} anew", "write the files of {} anew, each"),
}


@dataclass(frozen=True, slots=True)
class _PlanScope:
    """A plan and who takes part. `going` are the nodes whose AppRoles of a pool are deleted."""

    cluster: Cluster
    changes: Mapping[Key, Change]
    records: Sequence[RecordChange]
    live: Live
    going: Sequence[str]


def concerns_nodes(cluster: Cluster, changes: Sequence[Change]) -> bool:
    """Return whether any change can matter to a node that takes part."""
    store = cluster.mount("config")
    heads = (f"{store}/nodes/", f"{store}/pools/", f"{store}/cluster", f"auth/{cluster.prefix}/jwt/role/")
    if any((change.action, *change.key) == ("create", "mount", store) for change in changes):
        return False
    return any(
        change.kind in ("approle", "issuer")
        or (change.kind == "config" and change.action != "create" and change.name.startswith(heads))
        for change in changes
    )


def impact_of(cluster: Cluster, changes: Sequence[Change], live: Live) -> tuple[Impact, ...]:
    """Return what the changes mean, node by node, then pool by pool, then for all nodes that take part."""
    pooled = [change for change in changes if change.name.startswith(f"{cluster.prefix}/pooled/")]
    going = sorted(c.name.rpartition("/")[2] for c in pooled if c.kind == "approle" and c.action == "delete")
    records = record_changes(cluster, changes)
    context = _PlanScope(cluster, {change.key: change for change in changes}, records, live, going)
    impact: list[Impact] = []
    for record in records:
        impact += _node(context, record) if record.folder == "nodes" else _pool(context, record)
    return (*impact, *_ended(context), *_rejoining(context), *_everybody(context))


def of_signer(cluster: Cluster, changes: Sequence[Change]) -> Iterator[Impact]:
    """Return what it means that the cluster gets a signer or has none any more, or that a token pool is gone."""
    record = next((each for each in changes if each.name == f"{cluster.mount('config')}/{SIGNER_RECORD}"), None)
    if record is None:
        return
    if record.action == "create":
        kept = (
            "the signer needs the controllers csrapproving and csrcleaner of kube-controller-manager; "
            "`vaultpki verify --live` says if one is off"
        )
        yield Impact(BY_HAND, kept, nodes=0)
        return
    valid = "what it has signed stays valid until it expires, or its CA is rotated"
    if record.action == "delete":
        yield Impact(LOSES_ACCESS, f"every signer of certificate requests loses access at once; {valid}", nodes=0)
    elif "token_pools" in record.fields:
        before, after = ({*_pool_names(side)} for side in record.fields["token_pools"])
        for name in sorted(before - after):
            shown = escaped(name)
            detail = f"nodes of {shown} that joined by token get no further certificate from the signer; {valid}"
            yield Impact(NOT_RENEWED, detail, pool=shown, nodes=0)


def _pool_names(pools: object) -> list[str]:
    """Return the names and patterns of token pools, as a record has them."""
    found = pools if isinstance(pools, list) else []
    return [f"{each.get('name')} ({each.get('node_names')})" for each in found if isinstance(each, Mapping)]


def of_storage(cluster: Cluster, changes: Sequence[Change]) -> Iterator[Impact]:
    """Return what it means that roles store their certificates no more, or do not from the beginning."""
    unstored = {row.name: f"{cluster.mount(row.ca)}/{row.name}" for row in rows(cluster) if not stored(row, cluster)}
    changed = {c.name: c.fields.get("no_store", (None, None)) for c in changes if c.kind == "role"}
    names = [name for name, role in unstored.items() if changed.get(role, (None, None))[1] is True]
    if names:
        yield Impact(
            NOT_STORED,
            f"Vault keeps no copy of certificates of {named(names)} that it signs from now on (no_store). "
            "`revoke NODE`, `revoke --serial` and `show --serial` do not find them. `revoke --certificate FILE` "
            "revokes one whose file you have. Renewals and rotations go on as before",
            nodes=0,
        )


def sentences(impact: Sequence[Impact], *, merged: bool) -> Iterator[tuple[Colour, str]]:
    """Return the impact in sentences; with `merged` one for all nodes that do the same with the same certificates."""
    if not merged:
        # Two certificates that wait for each other have one sentence.
        yield from dict.fromkeys((_colour(each), each.detail) for each in impact)
        return
    of_holder: dict[tuple[str, str], list[Impact]] = {}
    for each in impact:
        # An impact that says more than which certificate it is has a sentence of its own.
        alike = each.certificate is not None and each.effect in _VERBS
        key = (each.effect, each.node or f"pool {each.pool}") if alike else ("", f"{each.node}\n{each.detail}")
        of_holder.setdefault(key, []).append(each)
    together: dict[tuple[str, tuple[str, ...]], list[Impact]] = {}
    for (effect, _), some in of_holder.items():
        names = tuple(escaped(each.certificate or "") for each in some) if effect else (_of_any_node(some[0]),)
        together.setdefault((effect, names), []).append(some[0])
    for (effect, names), some in together.items():
        first = some[0]
        if not effect:
            alone = len(some) == 1
            yield _colour(first), first.detail if alone else f"{named([str(e.node) for e in some])}: each {names[0]}"
            continue
        who = named([each.node or f"{_nodes(each.nodes)} of pool {each.pool}" for each in some])
        verb = _VERBS[effect][0 if len(some) == 1 and first.node else 1]
        yield _colour(first), f"{who} {verb.format(', '.join(names))} {_WHEN}"


def _of_any_node(impact: Impact) -> str:
    """Return the sentence of one node without its name, by which several nodes are told together."""
    name = f"{escaped(impact.node)} " if impact.node else ""
    return impact.detail.removeprefix(name) if name and impact.nodes == 1 else impact.detail


def _colour(impact: Impact) -> Colour:
    return "red" if impact.effect in GRAVE else "yellow"


def _node(context: _PlanScope, record: RecordChange) -> Iterator[Impact]:
    if record.name not in context.live.reported:
        return
    name = escaped(record.name)
    if record.action == "update":
        for effect, certificate, detail in _certificates(record):
            yield Impact(effect, f"{name} {detail}", node=record.name, certificate=certificate)
        for effect, detail in _beside_certificates(context.cluster, record):
            yield Impact(effect, f"{name} {detail}", node=record.name)
    elif record.action == "delete":
        detail = (
            f"{name} loses its identity at once and can renew nothing; its certificates stay valid "
            f"{_at_most(record.longest_ttl)}"
        )
        pool = next((pool for pool in context.cluster.pools if takes(pool, record.name)), None)
        if pool is not None:
            how = "an issuer's token" if pool.jwt else f"a new join file (--pool {pool.name})"
            detail += f"; as a node of pool {pool.name} it needs {how}"
        yield Impact(LOSES_ACCESS, detail, node=record.name)


def _pool(context: _PlanScope, record: RecordChange) -> Iterator[Impact]:
    cluster, live, name = context.cluster, context.live, record.name
    pool = next((pool for pool in cluster.pools if pool.name == name), None)
    if pool is not None and record.action == "update":
        there = live.reported if pool.jwt else set(live.pooled) - set(context.going)
        count = sum(takes(pool, node) for node in there)
        for effect, certificate, what in _certificates(record) if count else ():
            detail = f"{_nodes(count)} of pool {name}: each {what}"
            yield Impact(effect, detail, pool=name, certificate=certificate, nodes=count)
    # Whether its nodes logged in by an issuer's token; their names are known from their reports alone.
    jwt = f"{cluster.prefix}/jwt"
    removed = [context.changes.get(key) for key in (("auth", jwt), ("config", f"auth/{jwt}/role/{name}"))]
    by_token = (pool is not None and pool.jwt) or any(each and each.action == "delete" for each in removed)
    nodes = [node for node in unmatched(cluster, live.reported) if fits_pattern(record.node_names, node)]
    lost = sorted(set(nodes) - set(live.pooled)) if by_token and record.node_names else []
    if lost:
        yield Impact(
            LOSES_ACCESS,
            f"{_lose(len(lost))} and can renew nothing: {named(lost)}, which logged in by an issuer's token and "
            f"{'fit' if len(lost) > 1 else 'fits'} no pool any more; their certificates stay valid "
            f"{_at_most(record.longest_ttl)}",
            pool=name,
            nodes=len(lost),
        )


def _certificates(record: RecordChange) -> Iterator[tuple[str, str, str]]:
    """Return what a changed record means for each certificate: the effect, the certificate's name, a description."""
    waiting = waits(record)
    for wait in waiting:
        yield WAITS, wait.name, _waits(wait, waiting)
    for name, (before, after) in record.certificates.items():
        shown = escaped(name)
        if any(wait.name == name and wait.pair for wait in waiting):
            continue
        if after is None:
            ttl = before.get("ttl") if before else None
            valid = f" {_at_most(ttl)}" if isinstance(ttl, int) and ttl > 0 else ""
            yield NOT_RENEWED, name, f"does not renew {shown} any more: it stays on disk, and valid{valid}"
        elif before is None:
            yield ISSUES, name, f"issues {shown} {_WHEN}"
        elif differing := certificate_differences(before, after):
            inside = {*before, *after} - _BESIDE
            new = certificate_differences(*({field: side.get(field) for field in inside} for side in (before, after)))
            effect, verb = (REISSUES, "issues") if new else (REWRITES, "writes")
            yield effect, name, f"{verb} {shown} anew ({', '.join(differing)}) {_WHEN}"


def _beside_certificates(cluster: Cluster, record: RecordChange) -> Iterator[tuple[str, str]]:
    """Return the effect and a description of what changes in a node's record beside its certificates."""
    # No node follows another layout.
    if "server" in record.others and "layout" not in record.others:
        kept = "; `vaultpki status` there names those that static pods mount, which stay"
        yield REWRITES, f"writes its kubeconfigs anew {_POLL}{kept}"
        roles = next((node.roles for node in cluster.nodes if node.name == record.name), frozenset[NodeRole]())
        yield RESTARTS, _restarts(readers.server_readers(roles, cluster.layout))
    if published.KEY_FIELD in record.others:
        old, new = (side if isinstance(side, Mapping) else {} for side in record.others[published.KEY_FIELD])
        if not old:
            yield TOKEN_KEYS, f"keeps an sa.key that is there until {_ROTATE_KEYS} replaces it"
            first = "may start there only after `vaultpki admit`"
            yield TOKEN_KEYS, f"makes a service-account key if there is no sa.key, and kube-apiserver {first}"
        elif not new:
            kept = "keeps sa.key and sa.pub as they are"
            yield TOKEN_KEYS_STAY, f"{kept}, and nobody rotates them or takes a stolen key out"
        elif old.get("key") != new.get("key"):
            kind = escaped(str(new.get("key")))
            yield TOKEN_KEYS, f"keeps the type of the key that it uses until {_ROTATE_KEYS} makes one of {kind}"


def _waits(wait: AwaitedPath, waiting: Iterable[AwaitedPath]) -> str:
    """Return what a node does not move, and until when; the same for both of two that wait for each other."""
    names = (wait.name, wait.holder)
    back = next((each for each in waiting if wait.pair and each.pair and (each.holder, each.name) == names), None)
    ttl, late = max(wait.ttl, back.ttl if back else 0), ", and is not issued until then"
    until = f"expire{'' if back else 's'}{f', {_at_most(ttl)},' if ttl > 0 else ''} or until root there runs `{PRUNE}`"
    if back is None:
        path, holder, name = map(escaped, (wait.path, wait.holder, wait.name))
        return f"keeps {path} of {holder} until that {until}; {name} waits for it{late if wait.pair else ''}"
    both = " and ".join(map(escaped, sorted(names)))
    return f"keeps {both} where they are until they {until}; each waits for the other's path{late}"


def _ended(context: _PlanScope) -> Iterator[Impact]:
    """Pooled nodes whose AppRoles are deleted."""
    unfit = [n for n in context.going if not any(takes(pool, n) for pool in approle_pools(context.cluster))]
    others = [name for name in context.going if name not in unfit]
    listed = {node.name for node in context.cluster.nodes}
    fits_none = "which fits no pool" if len(unfit) == 1 else "which fit no pool"
    for why, names in ((fits_none, unfit), ("whose pool is gone", others)):
        if not names:
            continue
        whose = "its certificates" if len(names) == 1 else "certificates that they have"
        detail = (
            f"{_lose(len(names))} at once and can renew nothing: {named(names)}, {why}; {whose} stay valid "
            f"{_longest(context)}"
        )
        if now_listed := [name for name in names if name in listed and _made(context, name)]:
            detail += f"; {named(now_listed)} now listed: a new join file is needed there"
        yield Impact(LOSES_ACCESS, detail, node=names[0] if len(names) == 1 else None, nodes=len(names))


def _made(context: _PlanScope, name: str) -> bool:
    """Return whether a listed node gets its AppRole now; one that has its own was never a node of a pool."""
    approle = context.changes.get(("approle", f"{context.cluster.prefix}/listed/{name}"))
    return approle is not None and approle.action == "create"


def _longest(context: _PlanScope) -> str:
    """Return how long the certificates of changed pools stay valid, as far as their records still say it."""
    changed = {record.name: record for record in context.records if record.folder == "pools"}
    ttls = [record.longest_ttl for record in changed.values() if record.action != "create"]
    for pool in context.cluster.pools:
        if pool.name in changed and changed[pool.name].action != "create":
            ttls += [certificate.ttl for certificate in node_certificates(context.cluster, pool)]
    return _at_most(max(ttls, default=0))


def _rejoining(context: _PlanScope) -> Iterator[Impact]:
    """Listed nodes whose AppRole is made anew: the secret ids they have do not work any more."""
    for node in context.cluster.nodes:
        if node.name in context.live.reported and _made(context, node.name):
            detail = f"{node.name} has reported and gets a new AppRole: a new join file is needed there"
            yield Impact(REJOINS, detail, node=node.name)


def _everybody(context: _PlanScope) -> Iterator[Impact]:
    """Changes of what many nodes share; each concerns the nodes of some roles."""
    cluster = context.cluster
    record = context.changes.get(("config", f"{cluster.mount('config')}/cluster"))
    fields: Mapping[str, tuple[object, object]] = record.fields if record and record.action == "update" else {}
    if "endpoint" in fields:
        holding = _roles_of(row for row in rows(cluster) if row.kubeconfig)
        there = [(who, count) for who, count in _taking_part(context) if not _own_kubeconfigs(cluster, who)]
        yield from _concerned(there, holding, REWRITES, f"each writes its kubeconfigs anew {_POLL}")
        for role in NodeRole:
            if components := readers.server_readers({role}, cluster.layout):
                yield from _concerned(there, {role}, RESTARTS, f"each {_restarts(components)}")
        old = escaped(str(fields["endpoint"][0]))
        text = f"kubeconfigs of people go on naming {old}: write them anew with `vaultpki issue`"
        yield from [Impact(BY_HAND, text, nodes=0)] if _taking_part(context) else []
    if "templates" in fields:
        names, roles = _changed_templates(*fields["templates"])
        what = f"each writes or removes its file of the {_templates_named(names)} {_WHEN}"
        yield from _concerned(_taking_part(context), roles, REWRITES, what)
    for foreign in foreign_cas.changes_of(cluster, record) if record and fields else ():
        concerned = frozenset(each.role for each in readers.READERS if each.ca == foreign.ca)
        for takes_away, what, means in foreign_cas.sentences(foreign):
            effect = DISTRUSTS if takes_away else TRUSTS
            told = [*_concerned(_taking_part(context), concerned, effect, what)]
            yield from told
            yield from (Impact(effect, each, nodes=0) for each in means if told)
        for role, what in foreign_cas.restarts(cluster, foreign.ca):
            yield from _concerned(_taking_part(context), {role}, RESTARTS, f"each {what}")
    for (kind, name), change in context.changes.items():
        if kind == "issuer" and change.action == "create":
            ca = name.rpartition("/")[2]
            holding = _roles_of(row for row in rows(cluster) if ca in (ROOT, row.ca))
            what = (
                f"the {ca} CA is made anew, each issues its certificates of it again, and components that trust only "
                "the previous CA refuse them"
            )
            yield from _concerned(_taking_part(context), holding, REISSUES, what)


def _restarts(components: Sequence[str]) -> str:
    """Return who restarts what for another server in its kubeconfigs."""
    return f"needs a restart of {', '.join(components)}: by hooks of kubeconfigs, or by you, one node at a time"


def _taking_part(context: _PlanScope) -> list[tuple[Node | Pool, int]]:
    """Return the nodes and pools that take part, with how many nodes each is."""
    cluster, live = context.cluster, context.live
    listed: list[tuple[Node | Pool, int]] = [(node, 1) for node in cluster.nodes if node.name in live.reported]
    others = (live.reported | {*live.pooled}) - {*context.going} - {node.name for node in cluster.nodes}
    pools = ((pool, sum(takes(pool, name) for name in others)) for pool in cluster.pools)
    return [*listed, *((pool, count) for pool, count in pools if count)]


def _concerned(
    there: Sequence[tuple[Node | Pool, int]], roles: Collection[NodeRole], effect: str, what: str
) -> Iterator[Impact]:
    """Return one impact for those that have one of the roles; none if there are none."""
    count = sum(count for who, count in there if who.roles & {*roles})
    if count:
        with_roles = " or ".join(sorted(role.value for role in roles))
        yield Impact(effect, f"{_nodes(count)} with the role {with_roles}: {what}", nodes=count)


def _roles_of(holding: Iterable[Row]) -> frozenset[NodeRole]:
    return frozenset[NodeRole]().union(*(row.node_roles for row in holding))


def _own_kubeconfigs(cluster: Cluster, who: Node | Pool) -> bool:
    """Return whether its kubeconfigs name its own kube-apiserver and not the endpoint."""
    return isinstance(who, Node) and own_server(cluster, who) is not None


def _changed_templates(old: object, new: object) -> tuple[list[str], frozenset[NodeRole]]:
    """Return the names of templates that differ, and the roles of nodes that have or had them."""
    sides = [side if isinstance(side, Mapping) else {} for side in (old, new)]
    names = sorted(name for name in {*sides[0], *sides[1]} if sides[0].get(name) != sides[1].get(name))
    entries = [side[name] for side in sides for name in names if isinstance(side.get(name), Mapping)]
    said = {str(role) for entry in entries for role in (entry.get("roles") or ())}
    return names, frozenset(role for role in NodeRole if role.value in said)


def _templates_named(names: Sequence[str]) -> str:
    return f"{'template' if len(names) == 1 else 'templates'} {named(names)}"


def _at_most(seconds: int) -> str:
    return f"for at most {format_duration(seconds)}" if seconds > 0 else "until their own ends"


def _nodes(count: int) -> str:
    return f"{count} {'node' if count == 1 else 'nodes'}"


def _lose(count: int) -> str:
    return f"{_nodes(count)} {'loses its' if count == 1 else 'lose their'} identity"
