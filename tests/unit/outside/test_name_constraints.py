"""Name constraints of CAs above, against the names of a cluster and of its pools; `openssl verify` says the same."""

from __future__ import annotations

import subprocess
from datetime import timedelta
from ipaddress import ip_address, ip_network
from pathlib import Path

import pytest
from cryptography import x509 as c
from hypothesis import given, settings
from hypothesis import strategies as st

from helpers.example_cluster import load
from helpers.outside_signers import NOW, Level, Options, facts, key, name, pem, usage
from vaultpki.assets import starter
from vaultpki.outside.name_constraints import LeafNames, NameConstraints, cluster_names, constraints_of, forbidden

DNS = c.DNSName


def net(text: str) -> c.IPAddress:
    return c.IPAddress(ip_network(text))


def constrained(permitted: list[c.GeneralName] | None, excluded: list[c.GeneralName] | None = None) -> Level:
    options: Options = {"more": [(c.NameConstraints(permitted, excluded), True)]}
    return Level(name("Corp Root"), key("constrained"), options)


def read(permitted: list[c.GeneralName] | None, excluded: list[c.GeneralName] | None = None) -> NameConstraints:
    level = constrained(permitted, excluded)
    found = constraints_of(facts(level.certificate(level)))
    assert found is not None
    return found


def test_a_ca_without_constraints_has_none() -> None:
    level = Level(name("Corp Root"), key("constrained"))
    assert constraints_of(facts(level.certificate(level))) is None


APISERVER = LeafNames(
    ("kubernetes", "kubernetes.default.svc", "api.corp.example", "corp.example"), ips=("10.96.0.1", "127.0.0.1")
)
ETCD = LeafNames(("etcd-1", "localhost"), ips=("10.0.0.2", "127.0.0.1", "::1"))


@pytest.mark.parametrize(
    ("permitted", "excluded", "names", "broken"),
    [
        ([DNS("corp.example")], None, APISERVER, ("kubernetes", "kubernetes.default.svc")),
        ([DNS("corp.example")], None, ETCD, ("etcd-1", "localhost")),
        ([DNS("CORP.example")], None, LeafNames(("api.Corp.Example",)), ()),
        ([DNS(".corp.example")], None, APISERVER, ("kubernetes", "kubernetes.default.svc", "corp.example")),
        ([DNS("")], None, APISERVER, ()),
        ([DNS("corp.example")], None, LeafNames(("acorp.example",)), ("acorp.example",)),
        ([net("10.0.0.0/8")], None, APISERVER, ("127.0.0.1",)),
        ([net("10.0.0.0/8")], None, ETCD, ("127.0.0.1", "::1")),
        ([net("0.0.0.0/0")], None, ETCD, ("::1",)),
        ([net("0.0.0.0/0"), net("::/0")], None, ETCD, ()),
        ([c.RFC822Name("corp.example"), c.UniformResourceIdentifier("corp.example")], None, ETCD, ()),
        (None, [net("0.0.0.0/0"), net("::/0")], ETCD, ("10.0.0.2", "127.0.0.1", "::1")),
        (None, [DNS("default.svc")], APISERVER, ("kubernetes.default.svc",)),
        (None, [DNS("kubernetes")], APISERVER, ("kubernetes",)),
        (None, [DNS("")], ETCD, ("etcd-1", "localhost")),
        ([DNS("corp.example")], [DNS("a.corp.example")], LeafNames(("b.a.corp.example",)), ("b.a.corp.example",)),
        ([DNS("corp.example")], None, LeafNames(), ()),
        ([DNS("corp.example")], None, LeafNames(patterns=("w-*",)), ("w-*",)),
        ([DNS("corp.example")], None, LeafNames(patterns=("w-*.corp.example",)), ()),
        ([DNS(".corp.example")], None, LeafNames(patterns=("w-*.corp.example",)), ()),
        ([DNS("")], None, LeafNames(patterns=("w-*",)), ()),
        ([net("10.0.0.0/8")], None, LeafNames(patterns=("w-*",)), ()),
        (None, [DNS("corp.example")], LeafNames(patterns=("w-*", "w-*.corp.example")), ("w-*.corp.example",)),
        (None, [DNS("w-1")], LeafNames(patterns=("w-*", "v-*")), ("w-*",)),
        (None, [DNS("")], LeafNames(patterns=("w-*",)), ("w-*",)),
        (None, [DNS(".")], LeafNames(patterns=()), ()),
    ],
)  # fmt: skip
def test_names_that_constraints_forbid(
    permitted: list[c.GeneralName] | None,
    excluded: list[c.GeneralName] | None,
    names: LeafNames,
    broken: tuple[str, ...],
) -> None:
    assert forbidden(read(permitted, excluded), names) == broken


def test_kinds_that_go_does_not_know_are_told() -> None:
    assert read([c.DirectoryName(name("Corp")), DNS("x")]).unknown == ("DirectoryName",)
    assert read(None, [c.RegisteredID(c.ObjectIdentifier("1.2.3"))]).unknown == ("RegisteredID",)
    assert read([c.RFC822Name("x"), net("10.0.0.0/8")]).unknown == ()


def test_the_names_of_a_cluster(tmp_path: Path) -> None:
    cluster = load(tmp_path, starter())
    every = cluster_names(cluster)
    kubernetes, etcd, front = (cluster_names(cluster, ca) for ca in ("kubernetes", "etcd", "front-proxy"))
    assert {"kubernetes", "kubernetes.default.svc.cluster.local"} <= set(kubernetes.dns)
    assert "localhost" in etcd.dns and "localhost" not in kubernetes.dns and {"127.0.0.1", "::1"} <= set(etcd.ips)
    assert front == LeafNames() and not any("{" in each for each in (*every.dns, *every.patterns))
    assert {pool.node_names for pool in cluster.pools} == set(every.patterns)
    assert set(every.dns) >= {*kubernetes.dns, *etcd.dns}


LABELS = st.sampled_from(["a", "b", "corp", "example", "w-1"])
NAMES = st.lists(LABELS, min_size=1, max_size=4).map(".".join)
ADDRESSES = st.sampled_from(["10.0.0.1", "10.96.0.1", "127.0.0.1", "::1", "fd00::1", "192.168.1.1"])
NETS = st.sampled_from(["10.0.0.0/8", "10.96.0.0/16", "0.0.0.0/0", "::/0", "fd00::/8", "127.0.0.0/8"])
BASES = st.one_of(NAMES.map(DNS), NAMES.map(lambda each: DNS(f".{each}")), NETS.map(net))


@settings(max_examples=40, deadline=None)
@given(st.lists(BASES, max_size=2), st.lists(BASES, max_size=2), st.one_of(NAMES, ADDRESSES))
def test_openssl_forbids_the_same_names(
    tmp_path_factory: pytest.TempPathFactory,
    permitted: list[c.GeneralName],
    excluded: list[c.GeneralName],
    text: str,
) -> None:
    if not permitted and not excluded:
        return
    folder: Path = tmp_path_factory.mktemp("verify")
    is_ip = text[0].isdigit() or ":" in text
    san = c.SubjectAlternativeName([c.IPAddress(ip_address(text)) if is_ip else DNS(text)])
    root = constrained(permitted or None, excluded or None)
    leaf = Level(name("leaf"), key("leaf"), {"ca": False, "usage": usage("digital_signature"), "more": [(san, False)]})
    (folder / "root.pem").write_bytes(pem(made := root.certificate(root)))
    (folder / "leaf.pem").write_bytes(pem(leaf.certificate(root)))
    when = str(int((NOW + timedelta(hours=1)).timestamp()))
    words = ["openssl", "verify", "-attime", when, "-CAfile", str(folder / "root.pem"), str(folder / "leaf.pem")]
    said = subprocess.run(words, capture_output=True, text=True, timeout=60, check=False)
    found = constraints_of(facts(made))
    assert found is not None
    names = LeafNames(ips=(text,)) if is_ip else LeafNames((text,))
    assert (said.returncode == 0) == (forbidden(found, names) == ()), said.stderr
