"""Foreign CAs in a plan: which are refused, which are added and removed, and what that means for nodes; pure."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING, Any, Final

from vaultpki import readers
from vaultpki.certificates import ISSUING_CAS, all_cas, ca_subject
from vaultpki.model import Cluster, NodeRole
from vaultpki.pki import foreign_cas
from vaultpki.pki.facts import Facts
from vaultpki.pki.trust import named, named_by_owner
from vaultpki.provision.plan import Change
from vaultpki.records.foreign_cas import FIELD
from vaultpki.redact import escaped

if TYPE_CHECKING:
    from vaultpki.provision.observe import Observation


@dataclass(frozen=True, slots=True)
class ForeignChange:
    """What changes in the foreign CAs of one domain: the certificates that are offered anew, and those no more.

    `unreadable` says that the record had something else, which no vaultpki wrote.
    """

    ca: str
    added: tuple[Facts, ...]
    removed: tuple[Facts, ...]
    unreadable: bool = False


def refuse_unfit(cluster: Cluster, seen: Observation, now: datetime) -> None:
    """Raise SpecError if a foreign CA of cluster.yaml is one of the cluster's own, or is new and not in date."""
    if not cluster.authority.also_trust:
        return
    foreign_cas.refuse_own(cluster, _own(cluster, seen))
    record = seen.observed.objects.get(("config", f"{cluster.mount('config')}/cluster"), {})
    foreign_cas.refuse_expired(cluster, _pems(record.get(FIELD)), now)


def changes_of(cluster: Cluster, change: Change) -> Iterator[ForeignChange]:
    """Yield what a change of the cluster's record does to foreign CAs, by domain in the order of the table."""
    if change.key != ("config", f"{cluster.mount('config')}/cluster") or FIELD not in change.fields:
        return
    old, new = change.fields[FIELD]
    before, after = _pems(old), _pems(new)
    for ca in ISSUING_CAS:
        had, has = before.get(ca, ()), after.get(ca, ())
        if had == has:
            continue
        sides = [[facts for pem in pems for facts in _readable(pem)] for pems in (had, has)]
        yield ForeignChange(
            ca,
            tuple(facts for facts in sides[1] if facts not in sides[0]),
            tuple(facts for facts in sides[0] if facts not in sides[1]),
            unreadable=len(sides[0]) != len(had),
        )


def sentences(change: ForeignChange) -> Iterator[tuple[bool, str, tuple[str, ...]]]:
    """Yield whether trust is taken away, what each node does, and sentences on what that means."""
    if change.added:
        what = f"each whose agent.yaml has its SHA-256 takes {_named(change, change.added)} into the bundles of"
        yield False, f"{what} {change.ca}", (*_MEANS[change.ca], "Other nodes ignore it: see `vaultpki nodes`")
    if change.removed:
        what = f"each takes {_named(change, change.removed)} out of the bundles of {change.ca}"
        yield True, what, ("Whoever has a certificate of it is refused",)


def restarts(cluster: Cluster, ca: str) -> Iterator[tuple[NodeRole, str]]:
    """Yield which nodes have components that read the bundle of a CA only when they start, and who restarts them."""
    for role in NodeRole:
        names = [each.component for each in readers.start_only(ca, {role}, cluster.layout)]
        if names:
            what = f"needs a restart of {', '.join(names)}"
            yield role, f"{what}: run on one node after the other `vaultpki agent --once`"


# What a CA in the bundles of a domain is good for (facts about components, as in `readers`).
_MEANS: Final[Mapping[str, tuple[str, ...]]] = {
    "kubernetes": (
        "Whoever holds a client certificate of it gets the user and groups that it names",
        "A server certificate of it passes for kube-apiserver",
    ),
    "kubelet": ("A server certificate of it passes for a kubelet",),
    "etcd": (
        "Whoever holds a client certificate of it may read and write all of etcd",
        "A server certificate of it passes for etcd",
    ),
    "front-proxy": ("Whoever holds a client certificate of it may act as any user at kube-apiserver",),
}


def _named(change: ForeignChange, cas: tuple[Facts, ...]) -> str:
    # The entry of the plan has it, unless it shows the record field by field.
    sha256 = {facts: f" (SHA-256 {facts.fingerprint})" if change.unreadable else "" for facts in cas}
    return ", ".join(f"{escaped(facts.subject_text)}{sha256[facts]}" for facts in cas)


def _own(cluster: Cluster, seen: Observation) -> Iterator[Facts]:
    outside = cluster.authority.outside
    # A CA above the cluster's would let every CA below it into that bundle.
    yield from (facts for pem in (outside.certificates if outside is not None else ()) for facts in _readable(pem))
    is_own = named if outside is None else named_by_owner
    for ca in all_cas(cluster):
        mount = seen.found.cas.get(cluster.mount(ca))
        for pem in (mount.pem, *mount.certificates.values()) if mount is not None else ():
            # What else is on a mount may well be a foreign CA that somebody imported there.
            yield from (facts for facts in _readable(pem) if is_own(facts, ca_subject(cluster.name, ca)))


def _pems(value: Any) -> Mapping[str, tuple[str, ...]]:
    """Return what a record offers, by domain; what no vaultpki writes is left out."""
    found = value if isinstance(value, Mapping) else {}
    lists = {ca: found.get(ca) for ca in ISSUING_CAS}
    return {
        ca: tuple(pem for pem in pems if isinstance(pem, str)) for ca, pems in lists.items() if isinstance(pems, list)
    }


def _readable(pem: str) -> tuple[Facts, ...]:
    from vaultpki.pki import x509

    return x509.readable(pem)[:1]
