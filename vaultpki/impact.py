"""What the changes of a plan mean for nodes that take part already: who issues anew, and who loses access; pure."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, Final

from vaultpki.config.durations import format_duration
from vaultpki.differences import by_name, certificate_differences
from vaultpki.identities import approle_pools, fits_pattern, node_certificates, takes
from vaultpki.model import Cluster, Pool
from vaultpki.plain import escaped
from vaultpki.plan import Change, Colour, Impact
from vaultpki.values import dataclass

SHOWN: Final = 10
"""How many names of a long list a person is shown."""

REISSUES: Final = "reissues"
ISSUES: Final = "issues"
REWRITES: Final = "rewrites"
NOT_RENEWED: Final = "not-renewed"
LOSES_ACCESS: Final = "loses-access"
REJOINS: Final = "rejoins"

# A certificate's fields that lie beside it: another of them is no reason for another certificate.
_BESIDE: Final = frozenset({"file", "kubeconfig", "reload", "role"})
_WHEN: Final = "within its agent's `poll` (5m by default) or in its next window"


@dataclass(frozen=True, slots=True)
class Live:
    """Who takes part: the nodes that have reported, and those with an AppRole of a pool."""

    reported: frozenset[str] = frozenset()
    pooled: tuple[str, ...] = ()


def concerns_nodes(cluster: Cluster, changes: Sequence[Change]) -> bool:
    """Whether any change can mean something to a node that takes part: only then it is worth asking who does."""
    if ("create", "mount", cluster.mount("config")) in ((c.action, c.kind, c.name) for c in changes):
        return False
    return any(
        change.action != "create" or change.kind in ("approle", "issuer") for change in _of_nodes(cluster, changes)
    )


def impact_of(cluster: Cluster, changes: Sequence[Change], live: Live) -> tuple[Impact, ...]:
    """What the changes mean for nodes that take part, node by node, pool by pool, and for all of them at last."""
    return tuple(_Impacts(cluster, changes, live).all())


def sentences(impact: Sequence[Impact], *, merged: bool) -> Iterator[tuple[Colour, str]]:
    """The impact in sentences; `merged` says at once what several nodes do alike with several certificates."""
    if not merged:
        for each in impact:
            yield _colour(each), each.detail
        return
    held: dict[tuple[str, str], list[Impact]] = {}
    for each in impact:
        who = each.node or f"pool {each.pool}"
        # By itself where there is more to it than which certificate it is.
        alike = each.certificate is not None and each.effect in _VERBS
        held.setdefault((each.effect, who) if alike else ("", f"{len(held)}"), []).append(each)
    together: dict[tuple[str, tuple[str, ...]], list[Impact]] = {}
    for (effect, who), some in held.items():
        names = tuple(escaped(each.certificate or "") for each in some)
        together.setdefault((effect, names) if effect else ("", (who,)), []).append(some[0])
    for (effect, names), some in together.items():
        if not effect:
            yield _colour(some[0]), some[0].detail
            continue
        who = named([_who(each) for each in some])
        one, many = _VERBS[effect]
        verb = one if len(some) == 1 and some[0].node else many
        yield _colour(some[0]), f"{who} {verb.format(', '.join(names))} {_WHEN}"


# What one node does, and what several do.
_VERBS: Final[Mapping[str, tuple[str, str]]] = {
    REISSUES: ("issues {} anew", "issue {} anew, each"),
    ISSUES: ("issues {}", "issue {}, each"),
    REWRITES: ("writes the files of {} anew", "write the files of {} anew, each"),
}


def _who(impact: Impact) -> str:
    return impact.node or f"{_nodes(impact.nodes)} of pool {impact.pool}"


def _colour(impact: Impact) -> Colour:
    return "red" if impact.effect == LOSES_ACCESS else "yellow"


def named(names: Sequence[str]) -> str:
    """The first few names, and how many more there are."""
    shown = ", ".join(escaped(name) for name in names[:SHOWN])
    return f"{shown} and {len(names) - SHOWN} more" if len(names) > SHOWN else shown


def _of_nodes(cluster: Cluster, changes: Iterable[Change]) -> Iterator[Change]:
    store = cluster.mount("config")
    heads = (f"{store}/nodes/", f"{store}/pools/", f"{store}/cluster", f"auth/{cluster.prefix}/jwt/role/")
    for change in changes:
        if change.kind in ("approle", "issuer") or (change.kind == "config" and change.name.startswith(heads)):
            yield change


class _Impacts:
    """One plan looked at for what it means."""

    def __init__(self, cluster: Cluster, changes: Sequence[Change], live: Live) -> None:
        self._cluster, self._live = cluster, live
        self._changes = {change.key: change for change in changes}
        self._going = [c.name.rpartition("/")[2] for c in changes if c.action == "delete" and self._pooled(c)]
        self._listed = {node.name for node in cluster.nodes}

    def all(self) -> Iterator[Impact]:
        store = self._cluster.mount("config")
        for (kind, name), change in self._changes.items():
            folder, _, last = name.rpartition("/")
            if kind == "config" and folder == f"{store}/nodes":
                yield from self._node(last, change)
        for (kind, name), change in self._changes.items():
            folder, _, last = name.rpartition("/")
            if kind == "config" and folder == f"{store}/pools":
                yield from self._pool(last, change)
        yield from self._ended()
        yield from self._rejoining()
        yield from self._everybody()

    def _pooled(self, change: Change) -> bool:
        return change.kind == "approle" and change.name.startswith(f"{self._cluster.prefix}/pooled/")

    def _node(self, name: str, change: Change) -> Iterator[Impact]:
        if name not in self._live.reported:
            return
        if change.action == "delete":
            detail = (
                f"{escaped(name)} loses its identity at once and can renew nothing; its certificates stay valid "
                f"{_at_most(change)}"
            )
            pool = next((pool for pool in self._cluster.pools if takes(pool, name)), None)
            if pool is not None:
                how = "an issuer's token" if pool.jwt else f"a new join file (--pool {pool.name})"
                detail += f"; as a node of pool {pool.name} it needs {how}"
            yield Impact(LOSES_ACCESS, detail, node=name)
        elif change.action == "update":
            for effect, certificate, detail in _certificates(change):
                yield Impact(effect, f"{escaped(name)} {detail}", node=name, certificate=certificate)

    def _pool(self, name: str, change: Change) -> Iterator[Impact]:
        pool = next((pool for pool in self._cluster.pools if pool.name == name), None)
        if pool is not None and change.action == "update":
            there = self._live.reported if pool.jwt else set(self._live.pooled) - set(self._going)
            count = sum(takes(pool, node) for node in there)
            if count:
                for effect, certificate, what in _certificates(change):
                    detail = f"{_nodes(count)} of pool {name}: each {what}"
                    yield Impact(effect, detail, pool=name, certificate=certificate, nodes=count)
        pattern = str(change.fields.get("node_names", ("", ""))[0] or "")
        lost = self._by_token(pattern) if pattern and self._had_tokens(name, pool) else []
        if lost:
            yield Impact(
                LOSES_ACCESS,
                f"{_lose(len(lost))} and can renew nothing: {named(lost)}, which got in by an issuer's token and "
                f"{'fit' if len(lost) > 1 else 'fits'} no pool any more; their certificates stay valid "
                f"{_at_most(change)}",
                pool=name,
                nodes=len(lost),
            )

    def _had_tokens(self, name: str, pool: Pool | None) -> bool:
        """Whether the nodes of a pool that changes or goes got in by an issuer's token."""
        jwt = f"{self._cluster.prefix}/jwt"
        gone = (("auth", jwt), ("config", f"auth/{jwt}/role/{name}"))
        if any(key in self._changes and self._changes[key].action == "delete" for key in gone):
            return True
        return pool is not None and pool.jwt is not None

    def _by_token(self, pattern: str) -> list[str]:
        """The nodes that a pool had by its issuer's tokens, by their reports, and that fit no pool any more."""
        known = {*self._live.pooled, *self._listed}
        return sorted(
            name
            for name in self._live.reported - known
            if fits_pattern(pattern, name) and not any(takes(pool, name) for pool in self._cluster.pools)
        )

    def _ended(self) -> Iterator[Impact]:
        going = sorted(self._going)
        if not going:
            return
        unfit = [name for name in going if not any(takes(pool, name) for pool in approle_pools(self._cluster))]
        others = [name for name in going if name not in unfit]
        for one, many, names in (
            ("which fits no pool", "which fit no pool", unfit),
            ("whose pool is gone", "whose pool is gone", others),
        ):
            if not names:
                continue
            why, whose = (one, "its certificates") if len(names) == 1 else (many, "certificates that they have")
            detail = (
                f"{_lose(len(names))} at once and can renew nothing: {named(names)}, {why}; {whose} stay valid "
                f"{self._longest()}"
            )
            listed = [name for name in names if name in self._listed]
            if listed:
                detail += f"; {named(listed)} now listed: a new join file is needed there"
            yield Impact(LOSES_ACCESS, detail, node=names[0] if len(names) == 1 else None, nodes=len(names))

    def _longest(self) -> str:
        """For how long the certificates of pools that go are valid, where their records still say so."""
        store = self._cluster.mount("config")
        records = [
            change
            for (kind, name), change in self._changes.items()
            if kind == "config" and name.startswith(f"{store}/pools/") and change.action != "create"
        ]
        lives = [_longest_ttl(record) for record in records]
        for pool in self._cluster.pools:
            if any(record.name == f"{store}/pools/{pool.name}" for record in records):
                lives += [certificate.ttl for certificate in node_certificates(self._cluster, pool)]
        return f"for at most {format_duration(max(lives))}" if any(lives) else "until their own ends"

    def _rejoining(self) -> Iterator[Impact]:
        """Nodes whose AppRole is made anew: whatever secret id they hold is worth nothing."""
        for node in self._cluster.nodes:
            approle = self._changes.get(("approle", f"{self._cluster.prefix}/listed/{node.name}"))
            if approle is not None and approle.action == "create" and node.name in self._live.reported:
                detail = f"{node.name} has reported and gets a new AppRole: a new join file is needed there"
                yield Impact(REJOINS, detail, node=node.name)

    def _everybody(self) -> Iterator[Impact]:
        count = len((self._live.reported | set(self._live.pooled)) - set(self._going))
        if not count:
            return
        record = self._changes.get(("config", f"{self._cluster.mount('config')}/cluster"))
        for field, what in (("endpoint", "kubeconfigs"), ("templates", "files of templates")):
            if record is not None and record.action == "update" and field in record.fields:
                detail = f"{_nodes(count)}: each writes its {what} anew, if it has any, {_WHEN}"
                yield Impact(REWRITES, detail, nodes=count)
        for (kind, name), change in self._changes.items():
            if kind == "issuer" and change.action == "create":
                ca = name.rpartition("/")[2]
                detail = (
                    f"{_nodes(count)}: the {ca} CA is made anew, each issues its certificates again, and whoever "
                    "trusts only the CA before it refuses them"
                )
                yield Impact(REISSUES, detail, nodes=count)


def _certificates(change: Change) -> Iterator[tuple[str, str, str]]:
    """What another record means for each certificate: the effect, the certificate and the words for it."""
    before, after = (by_name(side) for side in change.fields.get("certificates", (None, None)))
    for name in dict.fromkeys((*before, *after)):
        shown = escaped(name)
        if name not in after:
            ttl = before[name].get("ttl")
            lives = f" for at most {format_duration(ttl)}" if isinstance(ttl, int) and ttl > 0 else ""
            yield NOT_RENEWED, name, f"renews {shown} no more: it stays on disk, and valid{lives}"
        elif name not in before:
            yield ISSUES, name, f"issues {shown} {_WHEN}"
        elif changed := _fields(before[name], after[name]):
            differing = ", ".join(map(str, certificate_differences(before[name], after[name])))
            effect, verb = (REWRITES, "writes") if changed <= _BESIDE else (REISSUES, "issues")
            yield effect, name, f"{verb} {shown} anew ({differing}) {_WHEN}"


def _fields(old: Mapping[str, Any], new: Mapping[str, Any]) -> set[str]:
    return {name for name in {*old, *new} if certificate_differences({name: old.get(name)}, {name: new.get(name)})}


def _longest_ttl(change: Change) -> int:
    certificates = by_name(change.fields.get("certificates", (None, None))[0])
    return max((c["ttl"] for c in certificates.values() if isinstance(c.get("ttl"), int)), default=0)


def _at_most(change: Change) -> str:
    longest = _longest_ttl(change)
    return f"for at most {format_duration(longest)}" if longest > 0 else "until their own ends"


def _nodes(count: int) -> str:
    return f"{count} {'node' if count == 1 else 'nodes'}"


def _lose(count: int) -> str:
    return f"{_nodes(count)} {'loses its' if count == 1 else 'lose their'} identity"
