"""`signer` in cluster.yaml and pools that join by token: what they mean, and what is refused, where and how."""

from __future__ import annotations

from pathlib import Path

import pytest

from helpers.example_cluster import BASE, check_refused, load
from vaultpki import certificates
from vaultpki.certificates import CSR_SIGNER, TABLE
from vaultpki.csr_roles import CsrRole, SignerFacts, csr_roles, fits_node, fits_pattern, reserved, signer_facts
from vaultpki.model import People, Signer, TokenPool, Usage
from vaultpki.places import Layout

WEEK, DAY = 7 * 86400, 86400
ON = "signer: {}\n"
PEOPLE = 'people: {names: ["*@example.com"], groups: [[], [dev], [dev, oncall]]}'
POOL = '- {name: joined, roles: [worker], node_names: "j-*", join: token, networks: [10.0.0.0/16]}\n'


def pool(**keys: str) -> str:
    own = {"name": "joined", "roles": "[worker]", "node_names": '"j-*"', "join": "token", "networks": "[10.0.0.0/16]"}
    return "pools:\n- {" + ", ".join(f"{key}: {value}" for key, value in {**own, **keys}.items() if value) + "}\n"


def test_it_is_off_by_default_and_then_the_table_has_no_such_row(tmp_path: Path) -> None:
    cluster = load(tmp_path, BASE)
    assert (cluster.signer, cluster.token_pools, csr_roles(cluster), signer_facts(cluster)) == (None, (), (), None)
    assert CSR_SIGNER not in {row.name for row in certificates.all_rows(cluster)}
    for layout in Layout:
        assert CSR_SIGNER not in {row.name for row in certificates.laid_out(layout)}


def test_defaults(tmp_path: Path) -> None:
    assert load(tmp_path, BASE + ON).signer == Signer(WEEK, approve_serving=False, people=None)


def test_it_adds_one_row_on_control_planes_after_those_of_the_table(tmp_path: Path) -> None:
    cluster = load(tmp_path, BASE + ON)
    before = certificates.rows(load(tmp_path, BASE))
    (row,) = certificates.rows(cluster)[len(before) :]
    assert (*before, row) == tuple(each for each in TABLE if each.usage.tls)
    assert [CSR_SIGNER in {each.name for each in certificates.node_rows(cluster, node)} for node in cluster.nodes] == [
        True,
        False,
    ]
    made = certificates.resolve(row, cluster, cluster.nodes[0])
    assert (made.subject.common_name, made.subject.organization, made.ca) == ("vaultpki:signer", (), "kubernetes")
    assert (made.folder, made.stem, made.kubeconfig) == ("pki", "signer", "signer.conf")


def test_its_row_may_be_changed_as_others(tmp_path: Path) -> None:
    cluster = load(tmp_path, BASE + ON + "certificates: {signer: {ttl: 3d, key: ec-p384}}\n")
    assert certificates.row_named(cluster, CSR_SIGNER).ttl == 3 * DAY


def test_pools_by_token_stand_apart_from_those_with_agents(tmp_path: Path) -> None:
    text = f"{BASE}signer: {{{PEOPLE}, ttl: 1h, approve_serving: true}}\n{pool()}"
    cluster = load(tmp_path, text + '- {name: auto, roles: [worker], node_names: "a-*"}\n')
    assert [each.name for each in cluster.pools] == ["auto"]
    assert cluster.token_pools == (TokenPool("joined", "j-*", ("10.0.0.0/16",)),)
    people = People(DAY, ("*@example.com",), ((), ("dev",), ("dev", "oncall")))
    assert cluster.signer == Signer(3600, approve_serving=True, people=people)


def test_roles_are_fixed_by_the_spec(tmp_path: Path) -> None:
    more = '- {name: far, roles: [worker], node_names: "far.", join: token, networks: ["fd00::/64"]}\n'
    more = more.replace("far.", "x.far.*")
    cluster = load(tmp_path, f"{BASE}signer: {{{PEOPLE}}}\n{pool()}{more}")
    nodes, names = ("system:node:j-*", "system:node:x.far.*"), ("*@example.com",)
    expected = (
        CsrRole("csr-kubelet-client", "kubernetes", Usage.CLIENT, nodes, ("system:nodes",), WEEK),
        CsrRole(
            "csr-kubelet-serving",
            "kubelet",
            Usage.SERVER,
            nodes,
            ("system:nodes",),
            WEEK,
            ("j-*", "x.far.*"),
            ("10.0.0.0/16", "fd00::/64"),
        ),
        CsrRole("csr-person", "kubernetes", Usage.CLIENT, names, (), DAY),
        CsrRole("csr-person-1", "kubernetes", Usage.CLIENT, names, ("dev",), DAY),
        CsrRole("csr-person-2", "kubernetes", Usage.CLIENT, names, ("dev", "oncall"), DAY),
    )
    assert csr_roles(cluster) == expected
    facts = signer_facts(cluster)
    assert facts is not None and csr_roles(facts) == expected


def test_there_is_no_role_without_names(tmp_path: Path) -> None:
    assert csr_roles(load(tmp_path, BASE + ON)) == ()
    assert {role.name for role in csr_roles(load(tmp_path, BASE + ON + pool()))} == {
        "csr-kubelet-client",
        "csr-kubelet-serving",
    }
    alone = csr_roles(load(tmp_path, f"{BASE}signer: {{{PEOPLE}}}\n"))
    assert [role.name for role in alone] == ["csr-person", "csr-person-1", "csr-person-2"]


def test_the_facts_are_the_names_and_addresses_that_nobody_else_gets(tmp_path: Path) -> None:
    own = "certificates:\n  kube-apiserver: {extra_addresses: [192.0.2.9]}\n"
    own += '  probe: {kind: client, common_name: "probe:{node}:x", ca: kubernetes, roles: [worker]}\n'
    own += '  back: {kind: client, common_name: "{node}:back", ca: kubernetes, roles: [worker]}\n'
    own += 'pools:\n- {name: auto, roles: [worker], node_names: "a-*"}\n'
    facts = signer_facts(load(tmp_path, f"{BASE}{ON}{own}api_server: {{addresses: [10.0.0.5]}}\n"))
    assert facts is not None
    assert facts.nodes == ("cp-1", "w-1")
    assert set(facts.addresses) == {"10.0.0.11", "10.0.0.21", "10.0.0.5", "10.96.0.1", "192.0.2.9"}
    known = ("kubernetes-admin", "Kube-Apiserver", "probe:a:x", "probe:a", "w-1:back", "a-7", "W-1")
    for name in ("system:x", "SYSTEM:masters", "vaultpki:signer", *known):
        assert reserved(name, facts), name
    for name in ("alice@example.com", "kubernetes-admin2", "oidc:system:x", "probe", "w-2:back"):
        assert not reserved(name, facts), name


def test_every_name_of_the_table_is_reserved_for_every_node(tmp_path: Path) -> None:
    """`{node}` alone, as the CN of etcd's rows, would be every name: those are of another CA."""
    facts = signer_facts(load(tmp_path, BASE + ON))
    assert facts is not None and not [name for name in facts.common_names if "{" in name or name == "*"]
    for row in TABLE:
        if row.usage.tls:
            assert reserved(row.common_name.replace("{node}", "w-1"), facts), row.name
    assert reserved("cp-1", facts) and reserved("w-1", facts)


@pytest.mark.parametrize(
    ("text", "pattern", "fits"),
    [
        ("w-1", "w-*", True),
        ("w-", "w-*", False),
        ("W-1", "w-*", False),
        ("a@x", "*@x", True),
        ("@x", "*@x", False),
        ("a", "a", True),
        ("b", "a", False),
    ],
)
def test_patterns(text: str, pattern: str, *, fits: bool) -> None:
    assert fits_pattern(text, pattern) is fits


@pytest.mark.parametrize(
    ("name", "fits"), [("a" * 51, True), ("a" * 52, False), ("a" * 50 + ".b", True), ("a" * 50 + ".bc", False)]
)
def test_names_for_which_vault_and_a_common_name_have_room(name: str, *, fits: bool) -> None:
    assert fits_node(name) is fits


def signing(keys: str) -> str:
    return f"signer: {{{keys}}}\n"


def people(names: str = '["*@example.com"]', groups: str = "[[]]", more: str = "") -> str:
    return signing(f"people: {{names: {names}, groups: {groups}{more}}}")


NETWORK = "pools[0].networks[0]"
GROUP = "signer.people.groups[0][0]"
NAME = "signer.people.names[0]"


@pytest.mark.parametrize(
    ("text", "field", "hint"),
    [
        (pool(), "pools[0].join", "nobody would sign the requests of nodes that join by token: write signer: {}"),
        ("certificates: {signer: {ttl: 7d}}\n", "certificates.signer", "there is no signer: write signer: {}"),
        (ON + pool(join="tokens"), "pools[0].join", "did you mean token?"),
        (ON + pool(join="agent"), "pools[0].join", "'agent' is not a valid way to join: allowed here: token"),
        (ON + pool(networks=""), "pools[0].networks", "the key networks is missing: write the networks of its nodes'"),
        (ON + pool(networks="[]"), "pools[0].networks", "at least 1 item"),
        (ON + pool(join=""), "pools[0].networks", "networks are for nodes that join by token"),
        (
            ON + pool(jwt='{issuer: "https://i", audiences: [a], node_claim: n, jwks_url: "https://i/k"}'),
            "pools[0].jwt",
            "nodes that join by token have no agent that could log in",
        ),
        (ON + pool(roles="[control-plane]"), "pools[0].roles[0]", "a pool cannot be control-plane"),
        (ON + pool(roles="[etcd]"), "pools[0].roles[0]", "a pool cannot be etcd"),
        (ON + pool(node_names='"*"'), "pools[0].node_names", "is not a pattern of node names"),
        (ON + pool(node_names='"w-*"'), "pools[0].node_names", "w-* also matches the listed node w-1"),
        (ON + pool(node_names='"cp*"'), "pools[0].node_names", "cp* also matches the listed node cp-1"),
        (ON + pool(node_names=f'"{"j" * 51}*"'), "pools[0].node_names", "at most 51 characters up to its first dot"),
        (
            ON + pool() + '- {name: auto, roles: [worker], node_names: "j-x*"}\n',
            "pools[1].node_names",
            "j-x* and j-* of pool joined match the same names",
        ),
        (
            ON + 'pools:\n- {name: auto, roles: [worker], node_names: "j*"}\n' + POOL,
            "pools[1].node_names",
            "j-* and j* of pool auto match the same names",
        ),
        (
            ON + pool() + POOL.replace("j-", "k-"),
            "pools[1].name",
            "another pool is called joined",
        ),
        (ON + pool(networks="[10.96.0.0/16]"), NETWORK, "has addresses of api_server.service_cidr (10.96.0.0/12)"),
        (ON + pool(networks="[10.0.0.0/8]"), NETWORK, "has addresses of api_server.service_cidr (10.96.0.0/12)"),
        (ON + pool(networks="[0.0.0.0/0]"), NETWORK, "has addresses of"),
        (ON + pool(networks="[127.0.0.0/16]"), NETWORK, "has addresses of loopback (127.0.0.0/8)"),
        (ON + pool(networks='["::/0"]'), NETWORK, "has addresses of loopback (::1/128)"),
        (ON + pool(networks='["::ffff:10.0.0.0/112"]'), NETWORK, "write the IPv4 range"),
        (ON + pool(networks="[10.0.0.1/16]"), NETWORK, "write 10.0.0.0/16"),
        (ON + pool(networks="[10.0.0.0/255.255.0.0]"), NETWORK, "write 10.0.0.0/16"),
        (ON + pool(networks="[net]"), NETWORK, "is not a network: write one such as 10.0.0.0/16"),
        (signing("ttl: 59m"), "signer.ttl", "59m is not allowed here: write 1h to 30d"),
        (signing("ttl: 31d"), "signer.ttl", "31d is not allowed here: write 1h to 30d"),
        (
            "ca: {issuing_ttl: 20d}\ndefaults: {ttl: 1d}\n" + signing("ttl: 20d"),
            "signer.ttl",
            "a certificate would live 20d, and its CA only 20d",
        ),
        (people(more=", ttl: 9m"), "signer.people.ttl", "9m is not allowed here: write 10m to 30d"),
        (people(more=", ttl: 31d"), "signer.people.ttl", "31d is not allowed here: write 10m to 30d"),
        (signing("people: {groups: [[]]}"), "signer.people.names", "the key names is missing"),
        (signing("people: {names: [a]}"), "signer.people.groups", "the key groups is missing"),
        (people(names="[]"), "signer.people.names", "at least 1 item"),
        (people(groups="[]"), "signer.people.groups", "at least 1 item"),
        (people(names='["*"]'), NAME, "* alone matches every name: write what people's names have in common"),
        (people(names='["a*b"]'), NAME, "is no pattern of names"),
        (people(names='["**"]'), NAME, "is no pattern of names"),
        (people(names='["a b"]'), NAME, "is no pattern of names"),
        (people(names='["system:*"]'), NAME, "is reserved, like all names of system: and vaultpki:"),
        (people(names='["Vaultpki:x"]'), NAME, "is reserved, like all names of system: and vaultpki:"),
        (people(groups='[["system:masters"]]'), GROUP, "is reserved, like all groups of system: and vaultpki:"),
        (people(groups='[["kubeadm:cluster-admins"]]'), GROUP, "kubeadm:cluster-admins is the group of admin"),
        (people(groups='[["Kubeadm:Cluster-Admins"]]'), GROUP, "is the group of admin"),
        (people(groups='[["a b"]]'), GROUP, "is not a group here"),
        (people(groups='[["a", "a"]]'), "signer.people.groups[0][1]", "twice"),
        (
            people(groups="[[a, b], [b, a]]"),
            "signer.people.groups[1]",
            "this list has the same groups as signer.people.groups[0]",
        ),
        (
            people() + "certificates: {csr-person: {kind: client, common_name: x, ca: kubernetes, roles: [worker]}}\n",
            "certificates.csr-person",
            "csr-person is also a role of the signer",
        ),
        (
            "certificates: {own: {kind: client, common_name: 'vaultpki:signer', ca: kubernetes, roles: [worker]}}\n",
            "certificates.own.common_name",
            "vaultpki:signer is the identity of signer",
        ),
        (signing("approve_serving: maybe"), "signer.approve_serving", "true or false"),
        ("signer:\n", "signer", "keys and values are expected"),
    ],
)
def test_what_is_refused(tmp_path: Path, text: str, field: str, hint: str) -> None:
    """The mistake is in the last line."""
    check_refused(tmp_path, BASE + text, (BASE + text).count("\n"), field, hint)


def test_facts_are_values() -> None:
    signer = Signer(WEEK)
    assert SignerFacts(signer, (), (), (), ()) == SignerFacts(signer, (), (), (), ())
