"""Tells what a plan means for nodes that take part already: who re-issues what, who loses access; pure."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from vaultpki.identity.access import approle_pools, fits_pattern, node_certificates, takes, unmatched
from vaultpki.model import Cluster
from vaultpki.provision.differences import certificate_differences
from vaultpki.provision.plan import Change, Colour, Impact
from vaultpki.provision.record_changes import RecordChange, record_changes
from vaultpki.records.server_facts import Key
from vaultpki.redact import escaped, first_few
from vaultpki.values.durations import format_duration

SHOWN: Final = 10
"""How many names of a long list are shown."""

REISSUES: Final = "reissues"
ISSUES: Final = "issues"
REWRITES: Final = "rewrites"
NOT_RENEWED: Final = "not-renewed"
LOSES_ACCESS: Final = "loses-access"
REJOINS: Final = "rejoins"

# Fields of a certificate in a record that are not in the certificate itself: a change needs no new certificate.
_BESIDE: Final = frozenset({"file", "kubeconfig", "reload", "role"})
_WHEN: Final = "within its agent's `poll` (5m by default) or in its next window"
# What one node does, and what several do.
_VERBS: Final[Mapping[str, tuple[str, str]]] = {
    REISSUES: ("issues {} anew", "issue {} anew, each"),
    ISSUES: ("issues {}", "issue {}, each"),
    REWRITES: ("writes the files of {} anew", "write the files of {} anew, each"),
}


@dataclass(frozen=True, slots=True)
class Live:
    """Who takes part: the nodes that have reported, and those with an AppRole of a pool."""

    reported: frozenset[str] = frozenset()
    pooled: tuple[str, ...] = ()


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


def sentences(impact: Sequence[Impact], *, merged: bool) -> Iterator[tuple[Colour, str]]:
    """Return the impact in sentences; with `merged` one for all nodes that do the same with the same certificates."""
    if not merged:
        yield from ((_colour(each), each.detail) for each in impact)
        return
    of_holder: dict[tuple[str, str], list[Impact]] = {}
    for index, each in enumerate(impact):
        # An impact that says more than which certificate it is has a sentence of its own.
        alike = each.certificate is not None and each.effect in _VERBS
        key = (each.effect, each.node or f"pool {each.pool}") if alike else ("", str(index))
        of_holder.setdefault(key, []).append(each)
    together: dict[tuple[str, tuple[str, ...]], list[Impact]] = {}
    for (effect, holder), some in of_holder.items():
        names = tuple(escaped(each.certificate or "") for each in some) if effect else (holder,)
        together.setdefault((effect, names), []).append(some[0])
    for (effect, names), some in together.items():
        first = some[0]
        if not effect:
            yield _colour(first), first.detail
            continue
        who = named([each.node or f"{_nodes(each.nodes)} of pool {each.pool}" for each in some])
        verb = _VERBS[effect][0 if len(some) == 1 and first.node else 1]
        yield _colour(first), f"{who} {verb.format(', '.join(names))} {_WHEN}"


def named(names: Sequence[str]) -> str:
    """Return the first few names, and how many more there are."""
    return first_few([escaped(name) for name in names], SHOWN)


def _colour(impact: Impact) -> Colour:
    return "red" if impact.effect == LOSES_ACCESS else "yellow"


def _node(context: _PlanScope, record: RecordChange) -> Iterator[Impact]:
    if record.name not in context.live.reported:
        return
    name = escaped(record.name)
    if record.action == "update":
        for effect, certificate, detail in _certificates(record):
            yield Impact(effect, f"{name} {detail}", node=record.name, certificate=certificate)
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
    for name, (before, after) in record.certificates.items():
        shown = escaped(name)
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
    live = context.live
    count = len((live.reported | set(live.pooled)) - set(context.going))
    if not count:
        return
    record = context.changes.get(("config", f"{context.cluster.mount('config')}/cluster"))
    fields: Collection[str] = record.fields if record is not None and record.action == "update" else ()
    for field, what in (("endpoint", "kubeconfigs"), ("templates", "files of templates")):
        if field in fields:
            yield Impact(REWRITES, f"{_nodes(count)}: each writes its {what} anew, if it has any, {_WHEN}", nodes=count)
    for (kind, name), change in context.changes.items():
        if kind == "issuer" and change.action == "create":
            detail = (
                f"{_nodes(count)}: the {name.rpartition('/')[2]} CA is made anew, each issues its certificates again, "
                "and components that trust only the previous CA refuse them"
            )
            yield Impact(REISSUES, detail, nodes=count)


def _at_most(seconds: int) -> str:
    return f"for at most {format_duration(seconds)}" if seconds > 0 else "until their own ends"


def _nodes(count: int) -> str:
    return f"{count} {'node' if count == 1 else 'nodes'}"


def _lose(count: int) -> str:
    return f"{_nodes(count)} {'loses its' if count == 1 else 'lose their'} identity"
