"""Whatever is asked by whomever: no order names a listed node, a reserved name, or a node of no token pool."""

from __future__ import annotations

from dataclasses import replace
from ipaddress import ip_address, ip_network
from typing import NamedTuple

from hypothesis import event, given, settings
from hypothesis import strategies as st

from helpers import asked_of_signer as asked
from helpers import hostile_requests as hostile
from helpers.asked_of_signer import FACTS, NODES, Running
from vaultpki.model import Usage
from vaultpki.signer.requests import CLIENT, CLIENT_KUBELET, SERVING, CsrObject
from vaultpki.signer.rules import BrokenRule, SigningOrder, verdict

_KNOWN = (
    *(
        f"system:node:{each}"
        for each in ("w-1", "w-2", "w-", "w-9.evil.com", "W-1", "x.far-1", "cp-1", "old-1", "v-1", "")
    ),
    *(
        "system:masters",
        "kubernetes-admin",
        "vaultpki:signer",
        "probe:x",
        "cp-1",
        "carol",
        "alice@example.com",
        "@example.com",
    ),
)
_ENDS = (*[""] * 12, "\0", ".", "@example.com", ",system:node:cp-1", "\u200b", "\n")
_WORDS = st.text("wxacp1-.@:S", max_size=8)
_NODES = st.sampled_from(["w-1", "w-2", "x.far-1"]) | _WORDS.map(lambda text: f"w-{text}")
_PEOPLE = st.sampled_from(["alice@example.com", "carol"]) | _WORDS.map(lambda text: f"{text}@example.com")
_ADDRESSES = st.sampled_from([*FACTS.addresses, "10.0.0.21", "10.0.0.22", "fd00::21", "10.9.0.1", "127.0.0.1"])
_NETWORK = st.ip_addresses(network="10.0.0.0/8").map(str)


class Drawn(NamedTuple):
    """A request, the name and the groups in it, and the addresses that its node says it has."""

    request: CsrObject
    common_name: str
    groups: list[str]
    own: list[str]


@st.composite
def requests(draw: st.DrawFn) -> Drawn:
    """Requests that are as they should be but for some of their parts: else the first rules would refuse them all."""
    signer = draw(st.sampled_from([CLIENT_KUBELET, SERVING, CLIENT]))
    wrong = draw(st.sets(st.sampled_from(["name", "groups", "names", "usages", "by"]), max_size=2))
    if "name" in wrong:
        common_name = draw(st.sampled_from(_KNOWN) | st.text(max_size=9)) + draw(st.sampled_from(_ENDS))
    else:
        common_name = draw(_PEOPLE if signer == CLIENT else _NODES.map(lambda node: f"system:node:{node}"))
    node = common_name.removeprefix("system:node:")
    right = [[], ["dev"], ["oncall", "dev"]] if signer == CLIENT else [["system:nodes"]]
    some = st.lists(st.sampled_from(["system:nodes", "system:masters", "dev", "oncall", "a b"]), max_size=3)
    groups = draw(some if "groups" in wrong else st.sampled_from(right))
    dns, ips = (
        (["w-1", "w-2", "cp-1", "kubernetes"], _ADDRESSES) if "names" in wrong else ([node], _ADDRESSES | _NETWORK)
    )
    extensions = []
    if signer == SERVING or "names" in wrong:
        listed = draw(st.lists(ips, max_size=2))
        wanted = [*hostile.dns(*draw(st.lists(st.sampled_from(dns), max_size=2)))]
        extensions.append(hostile.alternative(*wanted, *((0x87, ip_address(each).packed) for each in listed)))
    else:
        listed = []
    usages = asked.SERVER_USAGES if (signer == SERVING) != ("usages" in wrong) else asked.CLIENT_USAGES
    itself = (common_name, ("system:nodes",))
    username, of = itself if "by" not in wrong else draw(st.sampled_from([asked.TOKEN, ("system:node:w-2", itself[1])]))
    expiration = draw(st.none() | st.integers(-(10**6), 10**8))
    made = hostile.simple(common_name, groups, extensions)
    value = asked.api_object(signer, made, username, of, usages, expirationSeconds=expiration)
    own = draw(st.sampled_from([listed, listed, listed[:1], []])) + draw(st.lists(_ADDRESSES, max_size=1))
    return Drawn(asked.read(value), common_name, groups, own)


@settings(max_examples=800, deadline=None)
@given(drawn=requests())
def test_what_is_ordered_is_free_and_allowed(drawn: Drawn) -> None:
    node = drawn.common_name.removeprefix("system:node:")
    running = Running(nodes={**NODES, node: drawn.own})
    found = verdict(drawn.request, FACTS, running)
    if isinstance(found, BrokenRule):
        event(f"rule {found.rule}")
        return
    event(f"signed for {drawn.request.signer}")
    _is_allowed(found, running, drawn.common_name, node, set(drawn.groups))


def _is_allowed(order: SigningOrder, running: Running, common_name: str, node: str, groups: set[str]) -> None:
    subject, role = order.subject, order.role
    assert subject.common_name == common_name and set(subject.organization) == groups
    assert common_name.isascii() and common_name.isprintable() and 0 < len(common_name) <= 64
    assert 600 <= order.ttl <= role.ttl
    if role.name.startswith("csr-person"):
        people = FACTS.signer.people
        assert people is not None and groups in [{*each} for each in people.groups]
        assert not common_name.lower().startswith(("system:", "vaultpki:", "probe:"))
        assert common_name not in (*FACTS.nodes, *FACTS.common_names)
        assert common_name == "carol" or (common_name.endswith("@example.com") and common_name.count("@") == 1)
        assert (subject.dns, subject.ips, role.usage) == ((), (), Usage.CLIENT)
        return
    assert common_name == f"system:node:{node}" and node not in FACTS.nodes and groups == {"system:nodes"}
    (pool,) = (each for each in FACTS.token_pools if node.startswith(each.node_names[:-1]))
    assert "." not in node[len(pool.node_names) - 1 :] and len(node) >= len(pool.node_names)
    assert set(subject.dns) <= {node}
    for text in subject.ips:
        assert role.usage is Usage.SERVER
        assert any(ip_address(text) in ip_network(each) for each in pool.networks)
        assert text not in FACTS.addresses
        assert text in {str(ip_address(each)) for each in running.nodes[node] if each != node}
        assert not [other for other, held in running.nodes.items() if other != node and text in held]


@settings(max_examples=100, deadline=None)
@given(
    node=st.from_regex(r"w-[a-z0-9]([a-z0-9-]{0,46}[a-z0-9])?", fullmatch=True),
    listed=st.booleans(),
    ttl=st.integers(3600, 10**6),
)
def test_every_free_name_of_a_pool_is_signed_and_no_listed_one(node: str, ttl: int, *, listed: bool) -> None:
    """A rule that refuses everything would pass the test above."""
    facts = replace(FACTS, signer=replace(FACTS.signer, ttl=ttl), nodes=(*FACTS.nodes, node) if listed else FACTS.nodes)
    for request in (asked.joins(node), asked.renews(node), asked.serves(node, names=hostile.dns(node))):
        found = verdict(request, facts, asked.QUIET)
        assert (found.rule if isinstance(found, BrokenRule) else found.ttl) == ("15" if listed else ttl)
