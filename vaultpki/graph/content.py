"""Decides what the picture of a cluster shows: components, pairs and trust domains, derived from the table."""

from __future__ import annotations

import enum
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Final

from vaultpki.certificates import ISSUING_CAS, ROOT, SERVICE_ACCOUNT, all_cas, all_rows, pair_files
from vaultpki.layout import shown
from vaultpki.model import Cluster, NodeRole, Row
from vaultpki.places import PKI, Layout
from vaultpki.values.durations import long_span

HUB: Final = "kube-apiserver"
"""The component in the middle of every picture."""

_FEW: Final = 3
_NO_TARGET: Final = "-"
_KUBELET: Final = "kubelet"


class Health(enum.Enum):
    """The state of the worst certificate of a row; UNKNOWN if none was looked at."""

    UNKNOWN = "unknown"
    VALID = "valid"
    DUE = "due"
    REVOKED = "revoked"
    BROKEN = "broken"
    EXPIRED = "expired"
    MISSING = "missing"


STATES: Final[Mapping[Health, str]] = {
    Health.EXPIRED: "expired",
    Health.MISSING: "missing",
    Health.BROKEN: "broken",
    Health.REVOKED: "revoked",
    Health.DUE: "renewal overdue",
    Health.UNKNOWN: "not read",
    Health.VALID: "valid",
}
"""The states in words, the worst first."""


@dataclass(frozen=True, slots=True)
class ExpirySummary:
    """What was found of one row or CA: `first` is when the first of `read` certificates expires.

    `lacking` counts the certificates that should be there and could not be read. `due` says that a renewal is overdue,
    or for a CA that it must be rotated soon. `revoked` counts those of the certificates that were revoked,
    `broken` those that cannot be used: with another key, or with files that are not as they should be.
    """

    first: datetime | None
    read: int = 1
    lacking: int = 0
    due: bool = False
    revoked: int = 0
    broken: int = 0

    def health(self, now: datetime) -> Health:
        if self.first is not None and self.first <= now:
            return Health.EXPIRED
        if self.lacking or (self.first is None and not self.broken):
            return Health.MISSING
        if self.broken:
            return Health.BROKEN
        if self.revoked:
            return Health.REVOKED
        return Health.DUE if self.due else Health.VALID


@dataclass(frozen=True, slots=True)
class PictureRow:
    """One row of the table in the picture. `files` is a short text with its files, `health` and `until` its expiry.

    `kubeconfig` and `until` are empty if there is none. `server` is False for a pair that only clients have.
    """

    name: str
    ca: str
    purpose: str
    files: str
    kubeconfig: str
    server: bool
    health: Health = Health.UNKNOWN
    until: str = ""


@dataclass(frozen=True, slots=True)
class Component:
    """A program or a person, drawn once however many nodes have it.

    `where` says on which nodes; `many` is whether there are several. `pairs` are those that no arrow shows: server
    pairs, and clients' pairs whose target is not known. `domain` is the CA whose border is drawn around it, or empty.
    """

    name: str
    where: str
    many: bool
    pairs: tuple[PictureRow, ...]
    domain: str


@dataclass(frozen=True, slots=True)
class Arrow:
    """`source` logs in to `target` with `pair`; both are names of components."""

    source: str
    target: str
    pair: PictureRow


@dataclass(frozen=True, slots=True)
class Domain:
    """A trust domain: an issuing CA and the components inside its border. `rotation` is a state, or empty."""

    ca: str
    components: tuple[str, ...]
    health: Health = Health.UNKNOWN
    until: str = ""
    rotation: str = ""


@dataclass(frozen=True, slots=True)
class Graph:
    """The picture of a cluster. `about` is one line on it: nodes, layout, what was read when.

    `root` is the domain of the root CA, without components. `known` says whether anything is known of expiries.
    `notices` are sentences on what needs attention, the worst first.
    """

    cluster: str
    about: str
    components: tuple[Component, ...]
    arrows: tuple[Arrow, ...]
    domains: tuple[Domain, ...]
    root: Domain
    known: bool
    notices: tuple[str, ...] = ()

    @property
    def pairs(self) -> tuple[PictureRow, ...]:
        """Every pair of the picture, those of the arrows first."""
        held = [pair for component in self.components for pair in component.pairs]
        return (*(arrow.pair for arrow in self.arrows), *held)


def graph(
    cluster: Cluster,
    now: datetime,
    *,
    expiries: Mapping[str, ExpirySummary] | None = None,
    cas: Mapping[str, ExpirySummary] | None = None,
    rotations: Mapping[str, str] | None = None,
    source: str = "",
    notices: Iterable[str] = (),
) -> Graph:
    """Return the picture of a cluster at the time `now`.

    `expiries` has what was found of certificates by the row's name, `cas` of CAs by the CA's name; both are empty for a
    picture of cluster.yaml alone. `rotations` has the state of a CA's rotation by its name. `source` says what was
    read, such as `files of 3 folders`, and `notices` what needs attention.
    """
    expiries, cas, rotations = expiries or {}, cas or {}, rotations or {}
    table = all_rows(cluster)
    spelled = _spelled(table)
    pairs = {row.name: _pair(row, cluster.layout, expiries.get(row.name), now) for row in table}
    arrows = tuple(
        Arrow(row.source, spelled[row.target.casefold()], pairs[row.name]) for row in table if _has_target(row)
    )
    drawn = {arrow.pair.name for arrow in arrows}
    components = []
    for name in dict.fromkeys([HUB, *(row.source for row in table), *(arrow.target for arrow in arrows)]):
        own = tuple(row for row in table if row.source == name)
        held = tuple(pairs[row.name] for row in own if row.name not in drawn)
        where, many = _where(cluster, own)
        components.append(Component(name, where, many, held, _domain(name, held, arrows)))
    root, *domains = (
        Domain(
            ca,
            tuple(component.name for component in components if component.domain == ca),
            cas[ca].health(now) if ca in cas else Health.UNKNOWN,
            ca_until(cas[ca], now) if ca in cas else "",
            rotations.get(ca, ""),
        )
        for ca in all_cas(cluster)
    )
    about = _about(cluster, now, source)
    return Graph(cluster.name, about, tuple(components), arrows, tuple(domains), root, bool(expiries), tuple(notices))


def root_title(graph: Graph) -> str:
    """Return the words on the outer border."""
    until = f", {graph.root.until}" if graph.root.until else ""
    return f"{ca_title(ROOT, graph.cluster)}{until}: signs the issuing CAs, nothing else"


def domain_title(domain: Domain) -> str:
    """Return the words on a domain's border."""
    return ca_title(domain.ca, "") + (f", {domain.until}" if domain.until else "")


def ca_title(ca: str, cluster: str) -> str:
    """Return what a CA is called on its border."""
    if ca == ROOT:
        return f"{ROOT} CA of {cluster}"
    return f"CA {ca}" if ca in (*ISSUING_CAS, SERVICE_ACCOUNT) else ca


def sentence(arrow: Arrow) -> str:
    """Return an arrow in words, for people who cannot see the picture."""
    return f"{arrow.source} to {arrow.target}: {_words(arrow.pair)}."


def pair_sentence(component: Component, pair: PictureRow) -> str:
    """Return a pair that no arrow shows in words."""
    return f"{component.name}: {_words(pair)}."


def _words(pair: PictureRow) -> str:
    return f"{pair.name}, signed by CA {pair.ca}" + (f", {pair.until}" if pair.until else "")


def _spelled(table: Iterable[Row]) -> dict[str, str]:
    """Return how a component's name is written first: cluster.yaml may write it in another case."""
    spelled: dict[str, str] = {}
    names = [name for row in table for name in (row.source, row.target)]
    for name in names:
        spelled.setdefault(name.casefold(), name)
    return spelled


def _has_target(row: Row) -> bool:
    return row.usage.client and row.target != _NO_TARGET


def _pair(row: Row, layout: Layout, expiry: ExpirySummary | None, now: datetime) -> PictureRow:
    place = row.kubeadm if layout is Layout.KUBEADM and not row.operator else None
    crt, _, _ = pair_files(row.stem)
    files = f"{shown(place.folder if place else PKI, crt)} .key" if row.usage.tls else f"{row.stem}.pub .key"
    pair = PictureRow(row.name, row.ca, row.purpose, files, row.kubeconfig or "", row.usage.server)
    return pair if expiry is None else replace(pair, health=expiry.health(now), until=_until(expiry, now))


def _until(expiry: ExpirySummary, now: datetime) -> str:
    """Return an expiry in a few words."""
    lacking = "missing"
    if expiry.read:
        lacking = f"{expiry.lacking} of {expiry.lacking + expiry.read} missing"
    if expiry.first is None:
        return lacking if expiry.lacking or not expiry.broken else "broken"
    day = f"{expiry.first:%Y-%m-%d}"
    said = f"expired {day}" if expiry.first <= now else f"until {day}"
    if expiry.lacking:
        return f"{lacking}, {said}"
    if expiry.first <= now:
        return said
    for number, what in ((expiry.broken, "broken"), (expiry.revoked, "revoked")):
        if number:
            return f"{number} of {expiry.read} {what}, {said}" if expiry.read > 1 else f"{what}, {said}"
    return f"overdue, {said}" if expiry.due else f"{said} ({long_span(expiry.first - now)})"


def ca_until(expiry: ExpirySummary, now: datetime) -> str:
    """Return the end of a CA in a few words; "" if it is not known."""
    if expiry.first is None:
        return ""
    said = "expired" if expiry.first <= now else "rotate soon, until" if expiry.due else "until"
    return f"{said} {expiry.first:%Y-%m-%d}"


def _where(cluster: Cluster, own: tuple[Row, ...]) -> tuple[str, bool]:
    """Return where the component of these rows is, and whether it is in several places."""
    roles: frozenset[NodeRole] = frozenset().union(*(row.node_roles for row in own))
    if not roles:
        return ("operator" if own else ""), False
    nodes = [node.name for node in cluster.nodes if node.roles & roles]
    pools = [pool.name for pool in cluster.pools if pool.roles & roles]
    # On nodes that join by token nothing else has a pair of this cluster's CAs.
    pools += [pool.name for pool in cluster.token_pools if any(row.source == _KUBELET for row in own)]
    said = []
    if nodes:
        said.append(", ".join(nodes) if len(nodes) <= _FEW and len(", ".join(nodes)) <= 30 else f"{len(nodes)} nodes")
    if pools:
        said.append(f"pool {pools[0]}" if len(pools) == 1 else f"{len(pools)} pools")
    return " and ".join(said) or "no node yet", len(nodes) > 1 or bool(pools)


def _domain(name: str, held: tuple[PictureRow, ...], arrows: tuple[Arrow, ...]) -> str:
    """Return the CA that signs the component's server pairs; without one, the first whose clients it lets in."""
    signed = [pair.ca for pair in held if pair.server]
    return next(iter((*signed, *(arrow.pair.ca for arrow in arrows if arrow.target == name))), "")


def _about(cluster: Cluster, now: datetime, source: str) -> str:
    pools = len(cluster.pools) + len(cluster.token_pools)
    parts = [count(len(cluster.nodes), "node"), *([count(pools, "pool")] if pools else [])]
    parts.append(f"layout {cluster.layout.value}")
    if source:
        parts.append(f"{source} read on {now:%Y-%m-%d at %H:%M} UTC")
    return ", ".join(parts)


def count(number: int, what: str) -> str:
    """Return a number with a noun, in the plural unless it is one."""
    return f"{number:,} {what}" + ("" if number == 1 else "s")
