"""Rules 12 to 30a one by one, each with its sentence; and what Vault is asked for when all of them hold."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta
from ipaddress import ip_address
from typing import Any

import pytest

from helpers import asked_of_signer as asked
from helpers import hostile_requests as hostile
from helpers.asked_of_signer import ALIVE, FACTS, NOW, QUIET, WEEK, Running, joins, person, renews, serves
from helpers.hostile_requests import CN, O, name, pem, request_der, subject
from vaultpki.model import Subject
from vaultpki.signer.requests import CLIENT, CLIENT_KUBELET, SERVING, CsrObject, csr_object, issued_to_tokens, supposed
from vaultpki.signer.rules import BrokenRule, SigningOrder, served, verdict

LONG = "w-" + "a" * 49


def broken(request: CsrObject, running: Running = QUIET) -> tuple[str, str]:
    found = verdict(request, FACTS, running)
    assert isinstance(found, BrokenRule)
    assert found.message == f"vaultpki signer: {found.problem}"
    assert found.message.isprintable() and len(found.message) < 200
    return found.rule, found.problem


def signed(request: CsrObject, running: Running = QUIET) -> SigningOrder:
    found = verdict(request, FACTS, running)
    assert isinstance(found, SigningOrder), found
    return found


def ip(text: str) -> tuple[int, bytes]:
    return 0x87, ip_address(text).packed


# What is signed


def test_a_node_joins_by_token_and_renews() -> None:
    for request in (
        joins(),
        renews(),
        joins(LONG),
        joins("x.far-1"),
        joins(usages=(*asked.CLIENT_USAGES, "key encipherment")),
    ):
        order = signed(request)
        assert (order.role.name, order.role.ca, order.ttl) == ("csr-kubelet-client", "kubernetes", WEEK)
        assert order.subject == Subject(order.subject.common_name, ("system:nodes",))
        assert len(order.public_key) > 90


def test_a_node_serves_with_its_own_name_and_addresses() -> None:
    names = [*hostile.dns("w-1"), ip("10.0.0.21"), ip("fd00::21")]
    order = signed(serves(names=names, usages=(*asked.SERVER_USAGES, "key encipherment")))
    assert (order.role.name, order.role.ca) == ("csr-kubelet-serving", "kubelet")
    assert order.subject == Subject("system:node:w-1", ("system:nodes",), ("w-1",), ("10.0.0.21", "fd00::21"))
    assert signed(serves(names=hostile.dns("w-1"))).subject.ips == ()
    assert signed(serves(names=[ip("10.0.0.21")])).subject.dns == ()


@pytest.mark.parametrize(
    ("groups", "role", "organization"),
    [
        ((), "csr-person", ()),
        (("dev",), "csr-person-1", ("dev",)),
        (("dev", "oncall"), "csr-person-2", ("dev", "oncall")),
        (("oncall", "dev"), "csr-person-2", ("dev", "oncall")),
    ],
)
def test_a_person_gets_the_role_of_the_groups(
    groups: tuple[str, ...], role: str, organization: tuple[str, ...]
) -> None:
    order = signed(person(groups=groups))
    assert (order.role.name, order.role.ca, order.ttl) == (role, "kubernetes", 86400)
    assert order.subject == Subject("alice@example.com", organization)


@pytest.mark.parametrize(
    ("wished", "ttl"), [(None, WEEK), (600, 600), (1, 600), (3600, 3600), (WEEK, WEEK), (WEEK + 1, WEEK), (10**9, WEEK)]
)
def test_the_life_is_the_wished_one_within_bounds(wished: int | None, ttl: int) -> None:
    assert signed(joins(expirationSeconds=wished)).ttl == ttl


def test_a_role_of_less_than_ten_minutes_does_not_exist_so_the_role_is_the_bound() -> None:
    """A TTL above the role's is capped with a warning, which is an error here: it would be tried for ever."""
    short = replace(FACTS, signer=replace(FACTS.signer, ttl=3600))
    order = verdict(joins(expirationSeconds=7200), short, QUIET)
    assert isinstance(order, SigningOrder) and order.ttl == 3600


# Nodes


@pytest.mark.parametrize("ask", [joins, renews, serves])
@pytest.mark.parametrize(
    "groups", [[], ["system:masters"], ["system:nodes", "system:masters"], ["System:nodes"], ["system:node"], ["dev"]]
)
def test_rule_12(ask: Any, groups: list[str]) -> None:
    request = ask(pem=hostile.simple("system:node:w-1", groups))
    assert broken(request) == ("12", "O is not system:nodes alone")


@pytest.mark.parametrize("ask", [joins, renews, serves])
@pytest.mark.parametrize(
    "common_name",
    [
        "system:node:",
        "system:node",
        "w-1",
        "system:node:w_1",
        "system:node:W-1",
        "SYSTEM:NODE:w-1",
        "System:node:w-1",
        "system:node:w-1.",
        "system:node:.w-1",
        "system:node:-w",
        "system:node:w-",
        "system:node:w-1:x",
        "system:node:w-1/x",
        "system:node:w-1@x",
        "system:node:w-1+x",
        "system:node:w-1%00",
        "xsystem:node:w-1",
        "system:node:system:node:w-1",
        f"system:node:{LONG}a",
        "system:masters",
        "kubernetes-admin",
        "system:node:w-1;",
        "system:node:w..1",
        "system:node:[w]",
    ],
)
def test_rule_13(ask: Any, common_name: str) -> None:
    request = ask(pem=hostile.simple(common_name, ["system:nodes"]), username=common_name)
    assert broken(request) == ("13", "CN is not system:node: and the name of a node")


@pytest.mark.parametrize(
    "extension",
    [
        hostile.basic(ca=True),
        hostile.basic(ca=False),
        hostile.extension(hostile.KEY_USAGE, b"\x03\x02\x01\x06", critical=True),
        hostile.extension(hostile.EKU, b"\x30\x06\x06\x04\x55\x1d\x25\x00"),
        hostile.extension("1.2.3.4", b"\x05\x00", critical=True),
    ],
)
def test_rule_14(extension: bytes) -> None:
    own = hostile.simple("system:node:w-1", ["system:nodes"], [extension])
    expected = ("14", "the request asks for extensions")
    assert broken(joins(pem=own)) == broken(renews(pem=own)) == broken(serves(pem=own)) == expected
    both = hostile.simple("system:node:w-1", ["system:nodes"], [extension, hostile.alternative(*hostile.dns("w-1"))])
    assert broken(serves(pem=both)) == expected


def test_rule_14_an_attribute_that_is_no_extension() -> None:
    password = hostile.attribute(hostile.CHALLENGE, b"\x0c\x01x")
    names = subject([[name(O, "system:nodes")], [name(CN, "system:node:w-1")]])
    assert broken(joins(pem=pem(request_der(names, attributes=[password]))))[0] == "14"


@pytest.mark.parametrize("ask", [joins, renews, serves])
@pytest.mark.parametrize("node", ["cp-1", "old-1"])
def test_rule_15(ask: Any, node: str) -> None:
    """csrapproving approves what a token asks for any node, control planes too: nobody else stops it."""
    assert broken(ask(node)) == ("15", f"{node} is a node of cluster.yaml: its agent has its certificates")


@pytest.mark.parametrize("ask", [joins, renews, serves])
@pytest.mark.parametrize(
    "node", ["cp-2", "kubernetes", "w", "v-1", "w-9.evil.com", "far-1", "x.far-1.evil.com", "y.far-1", "1"]
)
def test_rule_16(ask: Any, node: str) -> None:
    assert broken(ask(node)) == ("16", f"{node} is in no pool that joins by token")


BAD_CLIENT_USAGES = [
    (),
    ("client auth",),
    ("digital signature",),
    ("server auth", "digital signature"),
    ("client auth", "server auth", "digital signature"),
    ("client auth", "key encipherment"),
    (*asked.CLIENT_USAGES, "key encipherment", "server auth"),
    (*asked.CLIENT_USAGES, "cert sign"),
    (*asked.CLIENT_USAGES, "any"),
    ("Client Auth", "Digital Signature"),
]


@pytest.mark.parametrize("ask", [joins, renews])
@pytest.mark.parametrize("usages", BAD_CLIENT_USAGES)
def test_rule_17(ask: Any, usages: tuple[str, ...]) -> None:
    assert broken(ask(usages=usages)) == ("17", "the usages are not those of a client")


@pytest.mark.parametrize("ask", [joins, renews])
@pytest.mark.parametrize("names", [[], hostile.dns("w-1"), [(0x81, b"a@b")], [ip("10.0.0.21")]])
def test_rule_18(ask: Any, names: list[tuple[int, bytes]]) -> None:
    own = hostile.simple("system:node:w-1", ["system:nodes"], [hostile.alternative(*names)])
    assert broken(ask(pem=own)) == ("18", "a client certificate of a kubelet has no alternative name")


@pytest.mark.parametrize(
    ("username", "groups"),
    [
        ("system:node:w-2", ("system:nodes",)),
        ("system:node:w-1", ("system:authenticated",)),
        ("system:node:w-1", ()),
        ("SYSTEM:NODE:w-1", ("system:nodes",)),
        ("system:bootstrap:abcdef", ("system:authenticated",)),
        ("system:bootstrap", ("system:bootstrappers",)),
        ("alice", ("system:bootstrappers",)),
        ("alice", ("system:nodes", "system:bootstrappers")),
        ("kubernetes-admin", ("system:masters",)),
        ("system:serviceaccount:kube-system:default", ("system:serviceaccounts",)),
        ("", ("system:bootstrappers",)),
    ],
)
def test_rule_19(username: str, groups: tuple[str, ...]) -> None:
    expected = ("19", f"{username} is neither CN nor a bootstrap token")
    assert broken(joins(username=username, groups=groups)) == expected


def test_rule_19_shows_nothing_that_a_terminal_obeys() -> None:
    assert broken(joins(username="\x1b[2J" + "x" * 500, groups=()))[0] == "19"


def test_rule_20_a_living_node() -> None:
    expected = "node w-2 is alive: stop it or delete its Node and Lease before it joins again"
    assert broken(joins("w-2"), ALIVE) == ("20", expected)
    for age, alive in ((timedelta(), True), (timedelta(seconds=299), True), (timedelta(seconds=300), False)):
        found = verdict(joins("w-2"), FACTS, Running(leases={"w-2": NOW - age}))
        assert isinstance(found, BrokenRule) == alive
    # The clock of a node may be ahead.
    assert broken(joins("w-2"), Running(leases={"w-2": NOW + timedelta(hours=1)}))[0] == "20"
    signed(joins("w-1"), ALIVE)
    signed(renews("w-2"), ALIVE)


def test_rule_20_another_request_got_this_name() -> None:
    got = Running(tokens={"system:node:w-1": "node-csr-9"})
    expected = "w-1 got a certificate by node-csr-9: delete that request if the same machine joins again"
    assert broken(joins(), got) == ("20", expected)
    signed(joins("w-2"), got)
    signed(renews(), got)
    # A retry after its own certificate was written elsewhere: the object itself is no other.
    signed(joins(), Running(tokens={"system:node:w-1": "csr-1"}))


BAD_SERVER_USAGES = [
    (),
    ("server auth",),
    asked.CLIENT_USAGES,
    (*asked.SERVER_USAGES, "client auth"),
    (*asked.SERVER_USAGES, "cert sign"),
    ("server auth", "key encipherment"),
]


@pytest.mark.parametrize("usages", BAD_SERVER_USAGES)
def test_rule_21(usages: tuple[str, ...]) -> None:
    assert broken(serves(usages=usages)) == ("21", "the usages are not those of a server")


@pytest.mark.parametrize(
    ("username", "groups"),
    [
        ("system:node:w-2", ("system:nodes",)),
        ("system:node:w-1", ("system:authenticated",)),
        (asked.TOKEN[0], asked.TOKEN[1]),
        ("kubernetes-admin", ("system:masters",)),
    ],
)
def test_rule_22(username: str, groups: tuple[str, ...]) -> None:
    """A token gets no serving certificate: it says nothing about who owns the name."""
    assert broken(serves(username=username, groups=groups)) == ("22", f"{username} is not CN")


def test_rule_23() -> None:
    none = "the request has no alternative name"
    assert broken(serves(names=[])) == ("23", none)
    assert broken(serves(pem=hostile.simple("system:node:w-1", ["system:nodes"]))) == ("23", none)
    for other in ((0x81, b"a@b"), (0x86, b"spiffe://x"), (0x88, b"\x2a\x03")):
        expected = ("23", "an alternative name is neither DNS nor IP")
        assert broken(serves(names=[other])) == broken(serves(names=[*hostile.dns("w-1"), other])) == expected
    many = [*hostile.dns(*["w-1"] * 17)]
    assert broken(serves(names=many)) == ("23", "the request has more than 16 alternative names")
    assert signed(serves(names=many[:16])).subject.dns == ("w-1",)
    twice = [ip("10.0.0.21"), *hostile.dns("w-1"), ip("10.0.0.21")]
    assert signed(serves(names=twice)).subject.ips == ("10.0.0.21",)


@pytest.mark.parametrize(
    "dns",
    [
        "w-2",
        "cp-1",
        "kubernetes",
        "kubernetes.default.svc",
        "localhost",
        "*",
        "*.w-1",
        "W-1",
        "w-1.",
        "w-1.evil.com",
        "",
        "w-1\0",
        "w-1\0.evil.com",
        "10.0.0.21",
        "w-1 ",
        "w-1,cp-1",
    ],
)
def test_rule_24(dns: str) -> None:
    assert broken(serves(names=hostile.dns("w-1", dns))) == ("24", "a DNS name is not the node's")


def test_rule_24_bytes_beyond_ascii() -> None:
    assert broken(serves(names=[(0x82, "w-ü".encode())]))[0] in ("3", "24")


@pytest.mark.parametrize(
    "address",
    ["10.96.0.1", "127.0.0.1", "::1", "192.0.2.1", "10.1.0.1", "fd01::1", "::ffff:10.0.0.21", "10.9.0.1"],
)
def test_rule_25_outside_of_the_networks_of_its_own_pool(address: str) -> None:
    everywhere = Running(nodes={"w-1": (address, "10.0.0.21")})
    assert broken(serves(names=[ip(address)]), everywhere) == ("25", "an address is in no network of the pool")
    assert broken(serves(names=[ip("10.0.0.21"), ip(address)]), everywhere)[0] == "25"


@pytest.mark.parametrize("address", ["10.0.0.11", "10.0.0.31", "10.0.0.10", "10.0.0.22"])
def test_rule_25_of_another_node_or_of_the_api_server(address: str) -> None:
    """Also if the node has written the address into its own status."""
    for nodes in (asked.NODES, {**asked.NODES, "w-1": ("10.0.0.21", address)}):
        found = broken(serves(names=[ip("10.0.0.21"), ip(address)]), Running(nodes=nodes))
        assert found == ("25", "an address is of another node or of the API server")


def test_rule_25_another_spelling_of_the_same_address() -> None:
    nodes = {**asked.NODES, "w-2": ("FD00:0:0:0:0:0:0:0077", "no address", "10.0.0.300")}
    found = broken(serves(names=[ip("fd00::77")]), Running(nodes=nodes))
    assert found == ("25", "an address is of another node or of the API server")


def test_rule_25_not_in_the_status() -> None:
    expected = ("25", "an address is not in the status of its Node")
    assert broken(serves(names=[ip("10.0.0.99")])) == expected
    assert broken(serves("w-7", names=[ip("10.0.0.77")])) == expected
    assert signed(serves("w-7", names=hostile.dns("w-7"))).subject.dns == ("w-7",)


def test_what_cannot_be_seen_is_left_out_and_nothing_else() -> None:
    assert isinstance(verdict(joins("w-2"), FACTS, None), SigningOrder)
    assert isinstance(verdict(serves(names=[ip("10.0.0.99")]), FACTS, None), SigningOrder)
    for address, rule in (("192.0.2.1", "25"), ("10.0.0.11", "25")):
        found = verdict(serves(names=[ip(address)]), FACTS, None)
        assert isinstance(found, BrokenRule) and found.rule == rule


def test_the_cluster_is_asked_only_by_rules_that_need_it() -> None:
    class Nothing:
        now = NOW

        def __getattr__(self, asked_for: str) -> Any:
            raise AssertionError(asked_for)

    for request in (renews(), person(), serves(names=hostile.dns("w-1")), joins("cp-1"), joins("v-1")):
        verdict(request, FACTS, Nothing())


# People


@pytest.mark.parametrize(
    "usages",
    [
        (),
        ("digital signature",),
        ("server auth",),
        ("client auth", "server auth"),
        ("client auth", "cert sign"),
        ("client auth", "any"),
        ("client auth", "code signing"),
    ],
)
def test_rule_26(usages: tuple[str, ...]) -> None:
    assert broken(person(usages=usages)) == ("26", "the usages are not those of a client")


@pytest.mark.parametrize(
    "usages",
    [
        ("client auth",),
        asked.CLIENT_USAGES,
        ("client auth", "key encipherment"),
        (*asked.CLIENT_USAGES, "key encipherment"),
    ],
)
def test_usages_of_people(usages: tuple[str, ...]) -> None:
    signed(person(usages=usages))


@pytest.mark.parametrize("names", [[], hostile.dns("kubernetes"), [(0x81, b"alice@example.com")], [ip("10.0.0.1")]])
def test_rule_27(names: list[tuple[int, bytes]]) -> None:
    own = hostile.simple("alice@example.com", [], [hostile.alternative(*names)])
    assert broken(person(pem=own)) == ("27", "a client certificate of a person has no alternative name")


def test_rule_28() -> None:
    for extension in (
        hostile.basic(ca=True),
        hostile.extension("1.2.3.4", b"\x05\x00"),
        hostile.extension(hostile.NAME_CONSTRAINTS, b"\x30\x00", critical=True),
    ):
        found = broken(person(pem=hostile.simple("alice@example.com", [], [extension])))
        assert found[0] in ("3", "28")
    assert broken(person(pem=hostile.simple("alice@example.com", [], [hostile.basic(ca=True)]))) == (
        "28",
        "the request asks for a CA or for extensions that we do not know",
    )


def test_extensions_that_are_dropped() -> None:
    known = [
        hostile.basic(ca=False),
        hostile.extension(hostile.KEY_USAGE, b"\x03\x02\x05\xa0", critical=True),
        hostile.extension(hostile.EKU, b"\x30\x0a\x06\x08\x2b\x06\x01\x05\x05\x07\x03\x02"),
    ]
    assert signed(person(pem=hostile.simple("alice@example.com", [], known))).subject == Subject("alice@example.com")


@pytest.mark.parametrize(
    "common_name",
    [
        "system:masters",
        "system:kube-controller-manager",
        "system:node:w-1",
        "system:node:cp-1",
        "SYSTEM:masters",
        "System:x",
        "vaultpki:signer",
        "vaultpki:x",
        "Vaultpki:x",
        "kubernetes-admin",
        "Kubernetes-Admin",
        "kube-apiserver-kubelet-client",
        "probe:x",
        "system:serviceaccount:kube-system:default",
        "cp-1",
        "system:x@example.com",
        "system:anonymous",
    ],
)
def test_rule_29(common_name: str) -> None:
    assert broken(person(common_name)) == ("29", f"CN {common_name} is reserved")


@pytest.mark.parametrize(
    "groups",
    [
        ("system:masters",),
        ("system:nodes",),
        ("kubeadm:cluster-admins",),
        ("oncall",),
        ("dev", "system:masters"),
        ("dev", "oncall", "x"),
        ("Dev",),
        ("dev,oncall",),
        ("system:authenticated",),
    ],
)
def test_rule_30(groups: tuple[str, ...]) -> None:
    expected = "30" if "," not in groups[0] else "10"
    found = broken(person(groups=groups))
    assert found[0] == expected
    if expected == "30":
        assert found[1] == "the groups are none of signer.people in cluster.yaml"


@pytest.mark.parametrize(
    "common_name",
    [
        "alice",
        "alice@evil.com",
        "ALICE@EXAMPLE.COM",
        "alice@example.com.evil",
        "@example.com",
        "carol2",
        "@@example.com",
        "x@evil@example.com",
        "Carol",
        "xcarol",
        "x@carol",
    ],
)
def test_rule_30a(common_name: str) -> None:
    assert broken(person(common_name)) == ("30a", "the name is none of signer.people.names")


def test_people_by_their_whole_name() -> None:
    assert signed(person("carol", ("dev",))).subject == Subject("carol", ("dev",))


# The object, and whom it concerns


def test_only_what_the_cluster_is_configured_for_is_served() -> None:
    assert served(FACTS) == (CLIENT_KUBELET, SERVING, CLIENT)
    alone = replace(FACTS, signer=replace(FACTS.signer, people=None))
    assert served(alone) == (CLIENT_KUBELET, SERVING)
    people = replace(FACTS, token_pools=())
    assert served(people) == served(FACTS)
    for request in (joins(), renews(), serves()):
        found = verdict(request, people, QUIET)
        assert isinstance(found, BrokenRule) and found.rule == "16"
    with pytest.raises(ValueError, match=CLIENT):
        verdict(person(), alone, QUIET)
    for other in ("kubernetes.io/legacy-unknown", "example.com/x", "", "kubernetes.io/kubelet-serving/"):
        with pytest.raises(ValueError, match="^" + other):
            verdict(replace(person(), signer=other), FACTS, QUIET)


def test_the_object_is_read_as_the_api_server_lists_it() -> None:
    request = joins()
    assert request.name == "csr-1"
    assert request.created is not None and request.waits and request.by_token


@pytest.mark.parametrize(
    ("status", "waits"),
    [
        ({}, False),
        ({"conditions": [{"type": "Approved"}]}, True),
        ({"conditions": [{"type": "Denied"}]}, False),
        ({"conditions": [{"type": "Approved"}, {"type": "Denied"}]}, False),
        ({"conditions": [{"type": "Approved"}, {"type": "Failed"}]}, False),
        ({"conditions": [{"type": "Approved"}], "certificate": "eA=="}, False),
        ({"conditions": [{"type": "approved"}]}, False),
        ({"conditions": None}, False),
    ],
)
def test_which_requests_wait(status: dict[str, Any], *, waits: bool) -> None:
    value = asked.api_object(CLIENT, b"x", "a", [], [])
    assert asked.read({**value, "status": status}).waits is waits


@pytest.mark.parametrize(
    "changed",
    [
        {"metadata": {}},
        {"metadata": {"name": 1}},
        {"spec": {}},
        {"spec": {"request": "%", "signerName": "x"}},
        {"spec": {"request": 1, "signerName": "x"}},
        {"spec": {"request": "eA==", "signerName": None}},
        {"spec": {"request": "eA==", "signerName": "x", "groups": [1]}},
        {"spec": {"request": "eA==", "signerName": "x", "usages": 5}},
        {"spec": {"request": "eA==", "signerName": "x", "username": {}}, "status": {"conditions": 5}},
        {"status": {"conditions": 5}},
    ],
)
def test_another_object_is_no_request(changed: dict[str, Any]) -> None:
    assert csr_object({**asked.api_object(CLIENT, b"x", "a", [], []), **changed}) is None
    assert csr_object("x") is None and csr_object(None) is None


@pytest.mark.parametrize(
    ("pem", "signer", "usage"),
    [
        (hostile.simple("system:node:w-1", ["system:nodes"]), CLIENT_KUBELET, "client auth"),
        (hostile.simple("w-1", ["system:nodes"]), CLIENT_KUBELET, "client auth"),
        (hostile.simple("system:node:w-1", [], [hostile.alternative(*hostile.dns("w-1"))]), SERVING, "server auth"),
        (hostile.simple("alice@example.com", [], [hostile.alternative()]), CLIENT, "client auth"),
        (b"x", CLIENT_KUBELET, None),
    ],
)
def test_a_pem_alone_is_taken_for_its_owners(pem: bytes, signer: str, usage: str | None) -> None:
    request = supposed(pem, "a.pem")
    assert (request.name, request.signer, request.request) == ("a.pem", signer, pem)
    assert not (request.approved or request.waits or request.certificate)
    assert {*request.usages} == ({"digital signature", usage} if usage else set())


def test_what_tokens_got_is_known_by_common_name() -> None:
    requests = [
        replace(joins("w-1"), certificate=True, name="node-csr-1"),
        replace(joins("w-2"), name="node-csr-2"),
        replace(renews("w-3"), certificate=True),
        replace(joins("w-4", pem=b"x"), certificate=True),
        replace(joins("w-5"), certificate=True, signer=SERVING),
    ]
    assert issued_to_tokens(requests) == {"system:node:w-1": "node-csr-1"}
