"""Finds the names of a cluster that the name constraints of a CA above it forbid (RFC 5280 section 4.2.1.10); pure.

Go and OpenSSL check them for every name of a leaf. A constraint on one kind of name says nothing about the others, and
IPv4 and IPv6 addresses are one kind: who permits 10.0.0.0/8 only forbids ::1.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from ipaddress import IPv4Network, IPv6Network, ip_address
from typing import Final

from cryptography import x509 as certificates

from vaultpki.certificates import node_rows, resolve, rows
from vaultpki.model import NODE, Cluster, Node, Pool, Row
from vaultpki.pki.facts import Facts
from vaultpki.values import der

Network = IPv4Network | IPv6Network

_REMEMBERED: Final = 64

# Those that Go knows and that leaves of a cluster have no names of.
_WITHOUT_NAMES: Final = (certificates.RFC822Name, certificates.UniformResourceIdentifier)


@dataclass(frozen=True, slots=True)
class LeafNames:
    """The names that leaves of one CA, or of a whole cluster, have.

    `dns` are DNS names, `ips` addresses. `patterns` are those of pools, with a `*` for the rest of one label: `w-*`,
    `w-*.example.com`.
    """

    dns: tuple[str, ...] = ()
    patterns: tuple[str, ...] = ()
    ips: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class NameConstraints:
    """The name constraints of one CA; None for a kind of name that it does not constrain.

    `unknown` are the kinds that Go does not know, such as directory names: it rejects everything below such a CA if the
    extension is critical, and OpenSSL holds every subject against them.
    """

    permitted_dns: tuple[str, ...] | None = None
    excluded_dns: tuple[str, ...] = ()
    permitted_ips: tuple[Network, ...] | None = None
    excluded_ips: tuple[Network, ...] = ()
    unknown: tuple[str, ...] = ()


NO_NAMES: Final = LeafNames()
"""The names of leaves that have none, as those of front-proxy."""


@lru_cache(maxsize=_REMEMBERED)
def constraints_of(facts: Facts) -> NameConstraints | None:
    """Return the name constraints of a CA; None if it has none."""
    read = certificates.load_der_x509_certificate(der.readable(facts.der))
    try:
        found = read.extensions.get_extension_for_class(certificates.NameConstraints).value
    except certificates.ExtensionNotFound:
        return None
    permitted, excluded = tuple(found.permitted_subtrees or ()), tuple(found.excluded_subtrees or ())
    kinds = {type(name).__name__ for name in (*permitted, *excluded) if not isinstance(name, _KNOWN)}
    # Go rejects a certificate with such a constraint (crypto/x509, domainNameValid).
    odd = {f"DNSName {name!r}" for name in (*_dns(permitted), *_dns(excluded)) if name.endswith(".") or ".." in name}
    return NameConstraints(
        _dns(permitted) or None, _dns(excluded), _ips(permitted) or None, _ips(excluded), tuple(sorted(kinds | odd))
    )


_KNOWN: Final = (certificates.DNSName, certificates.IPAddress, *_WITHOUT_NAMES)


def forbidden(constraints: NameConstraints, names: LeafNames) -> tuple[str, ...]:
    """Return the names that these constraints forbid, in their order: DNS names, patterns of pools, addresses.

    A pattern is forbidden if some name of it is: one that no permitted name covers, or one that is excluded.
    """
    permitted, excluded = constraints.permitted_dns, constraints.excluded_dns
    found = [
        name
        for name in names.dns
        if (permitted is not None and not any(_covers(each, name) for each in permitted))
        or any(_covers(each, name) for each in excluded)
    ]
    found += [
        pattern
        for pattern in names.patterns
        if (permitted is not None and not any(_always_covers(each, pattern) for each in permitted))
        or any(_may_cover(each, pattern) for each in excluded)
    ]
    for ip in names.ips:
        address = ip_address(ip)
        outside = constraints.permitted_ips is not None and not any(
            address in each for each in constraints.permitted_ips
        )
        if outside or any(address in each for each in constraints.excluded_ips):
            found.append(ip)
    return tuple(dict.fromkeys(found))


def cluster_names(cluster: Cluster, ca: str | None = None) -> LeafNames:
    """Return the names of all leaves that a cluster has now and its pools may have; of one CA, or of all for None."""
    dns: dict[str, None] = {}
    patterns: dict[str, None] = {}
    ips: dict[str, None] = {}
    holders: tuple[Node | Pool, ...] = (*cluster.nodes, *cluster.pools)
    held: list[tuple[Row, Node | Pool | None]] = [(row, None) for row in rows(cluster) if row.operator]
    held += [(row, node) for node in holders for row in node_rows(cluster, node)]
    for row, holder in held:
        if ca is not None and row.ca != ca:
            continue
        subject = resolve(row, cluster, holder).subject
        ips.update(dict.fromkeys(subject.ips))
        for name in subject.dns or _host_names(subject.common_name):
            if isinstance(holder, Pool) and NODE in name:
                patterns[name.replace(NODE, holder.node_names)] = None
            else:
                dns[name] = None
    return LeafNames(tuple(dns), tuple(patterns), tuple(ips))


def _host_names(common_name: str) -> tuple[str, ...]:
    # OpenSSL holds a common name with dots against constraints where a leaf has no DNS name (cn2dnsid in v3_ncons.c).
    plain = common_name.replace(NODE, "").replace("-", "").replace(".", "")
    return (common_name,) if "." in common_name and plain.isalnum() else ()


def _dns(names: Sequence[certificates.GeneralName]) -> tuple[str, ...]:
    return tuple(name.value.lower() for name in names if isinstance(name, certificates.DNSName))


def _ips(names: Sequence[certificates.GeneralName]) -> tuple[Network, ...]:
    values = [name.value for name in names if isinstance(name, certificates.IPAddress)]
    return tuple(value for value in values if isinstance(value, Network))


def _covers(constraint: str, name: str) -> bool:
    """Return whether a DNS constraint covers a name: itself and all below it; with a leading dot only those below."""
    name = name.lower()
    if not constraint:
        return True
    return name.endswith(constraint) if constraint.startswith(".") else f".{name}".endswith(f".{constraint}")


def _always_covers(constraint: str, pattern: str) -> bool:
    """Return whether a DNS constraint covers every name that `pattern` stands for."""
    return not constraint or pattern.lower().partition("*")[2].endswith(f".{constraint.removeprefix('.')}")


def _may_cover(constraint: str, pattern: str) -> bool:
    """Return whether a DNS constraint covers some name that `pattern` stands for."""
    start, _, rest = pattern.lower().partition("*")
    # Whatever the star stands for, the labels after it are fixed, and the label of the star begins in a fixed way.
    *before, begins = start.split(".")
    end, *after = rest.split(".")
    labels = [*before, None, *after]
    wanted = constraint.removeprefix(".").split(".") if constraint else []
    shortest = len(wanted) + constraint.startswith(".")
    if len(labels) < shortest:
        return False
    tail = labels[len(labels) - len(wanted) :]
    return all(
        (want.startswith(begins) and want.endswith(end) and len(want) >= len(begins) + len(end))
        if have is None
        else have == want
        for have, want in zip(tail, wanted, strict=True)
    )
