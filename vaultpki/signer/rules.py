"""Decides whether a certificate request is signed: an ordered list of rules, the first that fails refuses it; pure.

The contract has the rules by these numbers; the first eleven are in `pki/csr.py`. Approval is no rule: whoever approves
may be careless, and kube-controller-manager approves whatever a bootstrap token asks.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from ipaddress import ip_address, ip_network
from typing import Final, Protocol

from vaultpki.csr_roles import (
    NODE_PREFIX,
    NODES_GROUP,
    CsrRole,
    SignerFacts,
    csr_roles,
    fits_node,
    is_person,
    reserved,
    token_pool_of,
)
from vaultpki.errors import RequestRefused
from vaultpki.model import Subject, TokenPool
from vaultpki.pki.csr import CsrContent, read_request
from vaultpki.redact import printable
from vaultpki.signer.requests import CLIENT, CLIENT_KUBELET, SAID, SERVING, CsrObject
from vaultpki.values import hosts, names

ALIVE: Final = timedelta(minutes=5)
"""A node whose Lease was renewed within this time is alive; a kubelet renews it every ten seconds."""

SHORTEST_LIFE: Final = 600
"""Seconds below which no certificate is asked for, as kube-apiserver takes no shorter `expirationSeconds`."""

MOST_ALTERNATIVE_NAMES: Final = 16
_LONGEST_USER: Final = 100

# kubernetes pkg/apis/certificates/helpers.go: with and without key encipherment, which RSA keys have.
_CLIENT_USAGES: Final = frozenset({"client auth", "digital signature"})
_SERVER_USAGES: Final = frozenset({"server auth", "digital signature"})
_ENCIPHERMENT: Final = frozenset({"key encipherment"})
# keyUsage, extendedKeyUsage and basicConstraints (RFC 5280 section 4.2.1): Vault copies none of them.
_DROPPED: Final = frozenset({"2.5.29.15", "2.5.29.37", "2.5.29.19"})


class ClusterLook(Protocol):
    """What the rules look at in the running cluster; each is asked for only by a rule that needs it."""

    @property
    def now(self) -> datetime:
        """The time at which a request is judged."""

    def renewed(self, node: str) -> datetime | None:
        """Return when the node's Lease was renewed; None if there is none."""

    def issued(self, common_name: str) -> str | None:
        """Return the name of a request by which a bootstrap token got a certificate with this common name."""

    def addresses(self) -> Mapping[str, Collection[str]]:
        """Return the addresses in the status of each Node, by its name."""


@dataclass(frozen=True, slots=True)
class BrokenRule:
    """The first rule that a request breaks, by its number, and the sentence for its owner and for people."""

    rule: str
    problem: str

    @property
    def message(self) -> str:
        """The message of the condition that refuses the request; a kubelet logs it word for word."""
        return f"{SAID}{self.problem}"


@dataclass(frozen=True, slots=True)
class SigningOrder:
    """What Vault is asked for: by which role, for which names and key, for how many seconds."""

    role: CsrRole
    subject: Subject
    public_key: bytes
    ttl: int


@dataclass(frozen=True, slots=True)
class _Judged:
    """A request while it is judged."""

    request: CsrObject
    content: CsrContent
    facts: SignerFacts
    seen: ClusterLook | None

    @property
    def node(self) -> str:
        return self.content.common_name.removeprefix(NODE_PREFIX)

    @property
    def pool(self) -> TokenPool | None:
        return token_pool_of(self.node, self.facts.token_pools)


_Rule = Callable[[_Judged], Iterator[tuple[str, str]]]


def served(facts: SignerFacts) -> tuple[str, ...]:
    """Return the signer names whose requests are looked at in this cluster."""
    return (CLIENT_KUBELET, SERVING, *((CLIENT,) if facts.signer.people else ()))


def verdict(request: CsrObject, facts: SignerFacts, seen: ClusterLook | None) -> SigningOrder | BrokenRule:
    """Return what to ask Vault for, or the first rule that the request breaks; approval and age are not looked at.

    Without `seen` the parts of rules 20 and 25 that look at the cluster are left out. Raises ValueError for a signer
    name that is not served, and what `seen` raises.
    """
    if request.signer not in served(facts):
        raise ValueError(request.signer)
    try:
        asked = _Judged(request, read_request(request.request), facts, seen)
    except RequestRefused as error:
        return BrokenRule(error.rule, str(error))
    for rule in _RULES[request.signer]:
        for number, problem in rule(asked):
            return BrokenRule(number, problem)
    content, role = asked.content, _role(asked)
    wished = max(SHORTEST_LIFE, request.expiration or role.ttl)
    # A name that is asked for twice stands in the certificate once.
    names_asked = (tuple(dict.fromkeys(each)) for each in (content.dns, content.ips))
    subject = Subject(content.common_name, role.organization, *names_asked)
    return SigningOrder(role, subject, content.public_key, min(role.ttl, wished))


def _role(asked: _Judged) -> CsrRole:
    roles = {role.name: role for role in csr_roles(asked.facts)}
    if asked.request.signer == CLIENT_KUBELET:
        return roles["csr-kubelet-client"]
    if asked.request.signer == SERVING:
        return roles["csr-kubelet-serving"]
    groups = set(asked.content.organization)
    return next(
        role for role in roles.values() if role.name.startswith("csr-person") and {*role.organization} == groups
    )


def _of_node(asked: _Judged) -> Iterator[tuple[str, str]]:
    content, node = asked.content, asked.node
    if content.organization != (NODES_GROUP,):
        yield "12", "O is not system:nodes alone"
    if not content.common_name.startswith(NODE_PREFIX) or not re.fullmatch(names.DNS, node) or not fits_node(node):
        yield "13", "CN is not system:node: and the name of a node"
    if content.extensions:
        yield "14", "the request asks for extensions"
    if node in asked.facts.nodes:
        yield "15", f"{node} is a node of cluster.yaml: its agent has its certificates"
    if asked.pool is None:
        yield "16", f"{node} is in no pool that joins by token"


def _client_of_node(asked: _Judged) -> Iterator[tuple[str, str]]:
    request, node = asked.request, asked.node
    if not _are({*request.usages}, _CLIENT_USAGES):
        yield "17", "the usages are not those of a client"
    if asked.content.alternative:
        yield "18", "a client certificate of a kubelet has no alternative name"
    if not (_is_itself(asked) or request.by_token):
        yield "19", f"{_user(request)} is neither CN nor a bootstrap token"
    seen = asked.seen
    if seen is None or not request.by_token:
        return
    renewed = seen.renewed(node)
    if renewed is not None and seen.now - renewed < ALIVE:
        yield "20", f"node {node} is alive: stop it or delete its Node and Lease before it joins again"
    other = seen.issued(asked.content.common_name)
    if other is not None and other != request.name:
        yield "20", f"{node} got a certificate by {other}: delete that request if the same machine joins again"


def _server_of_node(asked: _Judged) -> Iterator[tuple[str, str]]:
    content = asked.content
    if not _are({*asked.request.usages}, _SERVER_USAGES):
        yield "21", "the usages are not those of a server"
    if not _is_itself(asked):
        yield "22", f"{_user(asked.request)} is not CN"
    if content.other_names:
        yield "23", "an alternative name is neither DNS nor IP"
    if not (content.dns or content.ips):
        yield "23", "the request has no alternative name"
    if len(content.dns) + len(content.ips) > MOST_ALTERNATIVE_NAMES:
        yield "23", "the request has more than 16 alternative names"
    if any(name != asked.node for name in content.dns):
        yield "24", "a DNS name is not the node's"
    yield from _addresses(asked)


def _addresses(asked: _Judged) -> Iterator[tuple[str, str]]:
    own = {ip_address(each) for each in asked.content.ips}
    networks = [ip_network(each) for each in (asked.pool.networks if asked.pool else ())]
    if not all(any(address in network for network in networks) for address in own):
        yield "25", "an address is in no network of the pool"
    if own & {ip_address(each) for each in asked.facts.addresses}:
        yield "25", "an address is of another node or of the API server"
    if asked.seen is None or not own:
        return
    held = {
        node: {ip_address(each) for each in listed if hosts.is_address(each)}
        for node, listed in asked.seen.addresses().items()
    }
    mine = held.pop(asked.node, set())
    if any(own & theirs for theirs in held.values()):
        yield "25", "an address is of another node or of the API server"
    if own - mine:
        yield "25", "an address is not in the status of its Node"


def _person(asked: _Judged) -> Iterator[tuple[str, str]]:
    content, people = asked.content, asked.facts.signer.people
    usages = {*asked.request.usages}
    if "client auth" not in usages or not usages <= _CLIENT_USAGES | _ENCIPHERMENT:
        yield "26", "the usages are not those of a client"
    if content.alternative:
        yield "27", "a client certificate of a person has no alternative name"
    if content.ca or content.extensions - _DROPPED:
        yield "28", "the request asks for a CA or for extensions that we do not know"
    if reserved(content.common_name, asked.facts):
        yield "29", f"CN {content.common_name} is reserved"
    if people is None or {*content.organization} not in [{*groups} for groups in people.groups]:
        yield "30", "the groups are none of signer.people in cluster.yaml"
    elif not is_person(content.common_name, people):
        yield "30a", "the name is none of signer.people.names"


_RULES: Final[Mapping[str, tuple[_Rule, ...]]] = {
    CLIENT_KUBELET: (_of_node, _client_of_node),
    SERVING: (_of_node, _server_of_node),
    CLIENT: (_person,),
}


def _are(usages: set[str], wanted: frozenset[str]) -> bool:
    return usages in (wanted, wanted | _ENCIPHERMENT)


def _is_itself(asked: _Judged) -> bool:
    """Return whether the node asks itself, by the certificate that it has."""
    return asked.request.username == asked.content.common_name and NODES_GROUP in asked.request.groups


def _user(request: CsrObject) -> str:
    return printable(request.username[:_LONGEST_USER])
