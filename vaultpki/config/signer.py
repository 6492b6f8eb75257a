"""Reads `signer` in cluster.yaml and its pools whose nodes join with a bootstrap token; pure."""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable
from typing import Final

from vaultpki import certificates
from vaultpki.config import kinds
from vaultpki.config.fields import Boolean, Choice, Field, FieldValue, ListOf, Record, Text, duration
from vaultpki.csr_roles import LONGEST_FIRST_LABEL, RESERVED, csr_roles, fits_node
from vaultpki.errors import SpecError
from vaultpki.model import Cluster, People, Signer, TokenPool
from vaultpki.values import names
from vaultpki.values.durations import format_duration
from vaultpki.values.names import quoted

_HOUR: Final = 3600
_DAY: Final = 24 * _HOUR
# The API server takes no expirationSeconds below it (kubernetes pkg/apis/certificates/validation).
_SHORTEST_PERSON: Final = 600
_MOST_GROUPS: Final = 16

_NAMES: Final = r"\*[A-Za-z0-9._:@-]{1,63}|[A-Za-z0-9][A-Za-z0-9._:@-]{0,62}\*?"
_group_name: Final = names.matching(
    r"[A-Za-z0-9](?:[A-Za-z0-9._:-]{0,62}[A-Za-z0-9])?",
    "is not a group here: write up to 64 letters, digits and . _ : -, beginning and ending with a letter or digit",
)


def _names_of_people(text: str) -> str:
    if text == "*":
        raise SpecError("* alone matches every name: write what people's names have in common, such as *@example.com")
    names.matching(
        _NAMES,
        "is no pattern of names: write letters, digits and . _ : @ -, and one * at an end, such as *@example.com",
    )(text)
    if text.lower().startswith(RESERVED):
        raise SpecError(f"{quoted(text)} is reserved, like all names of {' and '.join(RESERVED)}; write other names")
    return text


def _groups_of_people(text: str) -> str:
    if text.lower().startswith(RESERVED):
        raise SpecError(f"{quoted(text)} is reserved, like all groups of {' and '.join(RESERVED)}; choose another")
    return _group_name(text)


_PEOPLE: Final = Record(
    {
        "ttl": Field(duration("1d"), "Life of people's certificates: 10m to 30d", default="1d"),
        "names": Field(
            ListOf(Text(_names_of_people, "a pattern of names", f"^(?:{_NAMES})$", ("*@example.com",)), 1),
            "Their names: patterns with one * at an end, or whole names",
            required=True,
        ),
        "groups": Field(
            ListOf(ListOf(Text(_groups_of_people, "a group"), most=_MOST_GROUPS), 1),
            "Lists of groups: a request has exactly the groups of one list, and [] is a person without groups",
            required=True,
        ),
    }
)

SIGNER_KEYS: Final = Record(
    {
        "ttl": Field(
            duration("7d"), "Life of the certificates of kubelets that joined by token: 1h to 30d", default="7d"
        ),
        "approve_serving": Field(
            Boolean(), "The signer approves requests for serving certificates that pass its rules", default=False
        ),
        "people": Field(_PEOPLE, "Whose requests for client certificates are signed too; default: nobody's"),
    }
)

POOL_KEYS: Final = {
    "join": Field(
        Choice(("token",), "way to join"),
        "token: its nodes join by `kubeadm join` with a bootstrap token, and have no agent; needs signer",
    ),
    "networks": Field(
        ListOf(kinds.NETWORK, 1, 32),
        "With join: token: the networks of its nodes' addresses, for their serving certificates",
    ),
}


def read_pools(found: Iterable[FieldValue]) -> tuple[TokenPool, ...]:
    """Return the pools that join by token, of all pools of cluster.yaml; raise SpecError for keys that do not fit."""
    made = []
    for each in found:
        if not each.has("join"):
            if each.has("networks"):
                raise each["networks"].refuse(
                    "networks are for nodes that join by token: write join: token, or leave networks out"
                )
            continue
        if each.has("jwt"):
            raise each["jwt"].refuse("nodes that join by token have no agent that could log in: leave jwt or join out")
        if not each.has("networks"):
            raise each.place.under("networks").refuse(
                "the key networks is missing: write the networks of its nodes' addresses, such as [10.0.0.0/16]"
            )
        made.append(TokenPool(each.get("name"), each.get("node_names"), each.get("networks")))
    return tuple(made)


def read(spec: FieldValue) -> Signer | None:
    """Return the `signer` of cluster.yaml; None if there is none."""
    if not spec.has("signer"):
        return None
    found = spec["signer"]
    people = None
    if found.has("people"):
        said = found["people"]
        _lists_differ(said)
        people = People(said.get("ttl"), said.get("names"), said.get("groups"))
    return Signer(found.get("ttl"), found.get("approve_serving"), people)


def check(cluster: Cluster, spec: FieldValue) -> None:
    """Raise SpecError if the signer or its pools do not fit the rest of the cluster."""
    signer = cluster.signer
    own = spec["certificates"].value.get(certificates.CSR_SIGNER)
    if signer is None:
        if own is not None:
            raise own.refuse(f"there is no signer: write signer: {{}}, or leave {certificates.CSR_SIGNER} out")
        for each in spec.items("pools"):
            if each.has("join"):
                raise each["join"].refuse(
                    "nobody would sign the requests of nodes that join by token: write signer: {}, or leave join out"
                )
        return
    _ttl(cluster, spec["signer"]["ttl"], signer.ttl, _HOUR)
    for pool, found in zip(
        cluster.token_pools, (each for each in spec.items("pools") if each.has("join")), strict=True
    ):
        _pool(pool, found, cluster)
    if signer.people is not None:
        people = spec["signer"]["people"]
        _ttl(cluster, people["ttl"], signer.people.ttl, _SHORTEST_PERSON)
        _groups(cluster, people)
    taken = {role.name for role in csr_roles(cluster)}
    for row in cluster.rows:
        if row.name in taken:
            raise spec["certificates"][row.name].refuse(f"{row.name} is also a role of the signer: rename it")


def _ttl(cluster: Cluster, place: FieldValue, ttl: int, shortest: int) -> None:
    if not shortest <= ttl <= 30 * _DAY:
        raise place.refuse(f"{format_duration(ttl)} is not allowed here: write {format_duration(shortest)} to 30d")
    issuing = cluster.authority.issuing_ttl
    if ttl >= issuing:
        life, its_ca = format_duration(ttl), format_duration(issuing)
        raise place.refuse(f"a certificate would live {life}, and its CA only {its_ca}: make it shorter")


def _pool(pool: TokenPool, found: FieldValue, cluster: Cluster) -> None:
    if not fits_node(pool.node_names[:-1] + "x"):
        raise found["node_names"].refuse(
            f"{pool.node_names} is too long: a node's name has at most {LONGEST_FIRST_LABEL} characters up to its "
            "first dot, and 52 in all"
        )
    services = [ipaddress.ip_network(cidr) for cidr in cluster.api_server.service_cidr]
    loopback = [ipaddress.ip_network("127.0.0.0/8"), ipaddress.ip_network("::1/128")]
    for item in found.items("networks"):
        network = ipaddress.ip_network(item.value)
        for others, what in ((services, "api_server.service_cidr"), (loopback, "loopback")):
            for other in others:
                # overlaps() of one IP family never meets the other.
                if network.version == other.version and network.overlaps(other):
                    raise item.refuse(
                        f"{network} has addresses of {what} ({other}): write the networks of the nodes alone"
                    )


def _groups(cluster: Cluster, people: FieldValue) -> None:
    held = {group.lower(): row.name for row in certificates.all_rows(cluster) for group in row.organization}
    for listed in people.items("groups"):
        for item in listed.value:
            if item.value.lower() in held:
                raise item.refuse(
                    f"{item.value} is the group of {held[item.value.lower()]}: choose a group of people alone"
                )


def _lists_differ(people: FieldValue) -> None:
    seen: dict[frozenset[str], str] = {}
    for item in people.items("groups"):
        groups = frozenset(item.plain())
        if groups in seen:
            raise item.refuse(f"this list has the same groups as {seen[groups]}: keep one of them")
        seen[groups] = item.place.path
