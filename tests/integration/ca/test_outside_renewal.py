"""A chain is renewed by `ca import` alone: the CAs above and the issuing CAs keep their keys, and leaves stay valid."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509 as c

from helpers.corporate_certificates import Ca, name
from helpers.faults.cutting_proxy import Proxy, proxied
from helpers.vault.applied_cluster import AppliedCluster, NodeFolder, Ran, vaultpki
from helpers.vault.cluster_factory import ClusterFactory
from helpers.vault.outside_root import OutsideRoot, put_outside
from helpers.vault.server_contents import listing
from helpers.vault.servers import Server
from vaultpki.certificates import bundle, chain_bundle
from vaultpki.pki import x509
from vaultpki.pki.facts import Facts

API = "api_server: {names: [api.example.com]"
NODELESS = f'{API}, endpoint: "https://api.example.com:6443"}}\n'
NODE = f"""{API}}}
nodes:
- {{name: cp-1, roles: [control-plane, etcd, worker], addresses: [10.0.0.11]}}
"""
BEGUN = timedelta(minutes=18)


@pytest.fixture
def outside(clusters: ClusterFactory) -> OutsideRoot:
    return put_outside(clusters, NODELESS, ends=datetime.now(UTC).replace(microsecond=0) + timedelta(days=1000))


def ca(outside: OutsideRoot, *words: str | Path, expect: int = 0) -> Ran:
    cluster = outside.cluster
    return vaultpki("ca", words[0], "-f", cluster.file, *words[1:], env=cluster.environment(), expect=expect)


def later(outside: OutsideRoot) -> Ca:
    """The lower CA, with its key, for a year longer."""
    old = outside.lower.facts
    return outside.lower.again(outside.upper, begins=old.not_before, ends=old.not_after + timedelta(days=365))


def put(outside: OutsideRoot, file: str, *pems: str) -> Path:
    path = outside.cluster.folder / file
    path.write_text("".join(pems))
    return path


def signed_again(outside: OutsideRoot, domain: str, signer: Ca | None = None, **options: Any) -> str:
    """Another certificate for the key and the name that an issuing CA has, as PEM."""
    csr = (outside.cluster.folder / "requests" / f"{outside.cluster.name}-{domain}-1.csr").read_text()
    now = datetime.now(UTC).replace(microsecond=0)
    dates = {"begins": now - BEGUN, "ends": now + timedelta(days=900)}
    return (signer or outside.lower).sign(csr, **{**dates, **options})


def state(outside: OutsideRoot, domain: str) -> str:
    found = json.loads(ca(outside, "status", "--json").stdout)["cas"]
    return next(str(each.get("state")) for each in found if each["domain"] == domain)


def shown(outside: OutsideRoot, mount: str) -> dict[str, Facts]:
    """The certificates on a mount by the names of their issuers."""
    listed = outside.cluster.server.api("LIST", f"{outside.cluster.prefix}/{mount}/issuers").data["keys"]
    found = [outside.cluster.read(f"{outside.cluster.prefix}/{mount}/issuer/{each}") for each in listed]
    return {str(each["issuer_name"]): x509.read_certificates(each["certificate"].encode())[0] for each in found}


def unchanged(outside: OutsideRoot, *words: str | Path) -> Ran:
    """The same import again writes nothing."""
    since = outside.cluster.server.audit_position()
    ran = ca(outside, *words)
    assert outside.cluster.server.writes(since) == []
    return ran


def held(node: NodeFolder, file: str) -> tuple[Facts, ...]:
    return x509.read_certificates((node.pki / file).read_bytes())


def test_a_ca_above_is_renewed_at_once(clusters: ClusterFactory) -> None:
    outside = put_outside(clusters, NODE)
    node, renewed = outside.equip("cp-1"), later(outside)
    node.run()
    leaf = (node.pki / "etcdserver.crt").read_bytes()
    file = put(outside, "renewed.pem", renewed.pem)
    before = listing(outside.cluster.server, outside.cluster.name)
    assert "+ CA " in ca(outside, "import", "--dry-run", file).stdout
    assert listing(outside.cluster.server, outside.cluster.name) == before
    ran = ca(outside, "import", file)
    assert f"+ CA {renewed.facts.subject_text}, until" in ran.stdout
    assert "ca.root_file of" in ran.stdout and "put the new one in its place there" in ran.stdout
    assert set(shown(outside, "root").values()) == {
        each.facts for each in (outside.root, outside.upper, outside.lower, renewed)
    }
    assert "installed already" in unchanged(outside, "import", file).stdout
    # An apply does not take it away again, and says what is to be written.
    plan = json.loads(vaultpki("plan", "-f", outside.cluster.file, "--json", env=outside.cluster.environment()).stdout)
    assert plan["changes"] == [] and plan["unmanaged"] == []
    (danger,) = plan["dangers"]
    assert danger["name"] == "ca.root_file" and renewed.facts.fingerprint in danger["reason"]
    vaultpki("agent", "-c", node.config, "--once")
    assert {*held(node, chain_bundle("etcd"))[1:]} == {
        each.facts for each in (outside.root, outside.upper, outside.lower, renewed)
    }
    # With the new one in the file the old one leaves, on the server and on the node.
    outside.write_chain(outside.root, outside.upper, renewed)
    outside.cluster.apply()
    assert set(shown(outside, "root").values()) == {each.facts for each in (outside.root, outside.upper, renewed)}
    assert "installed already" in unchanged(outside, "import", file).stdout
    vaultpki("agent", "-c", node.config, "--once")
    assert held(node, chain_bundle("etcd"))[1:] == (renewed.facts, outside.upper.facts, outside.root.facts)
    assert (node.pki / "etcdserver.crt").read_bytes() == leaf
    vaultpki("status", "-c", node.config)


def test_an_issuing_ca_is_renewed_by_its_rotation_with_the_same_key(clusters: ClusterFactory) -> None:
    outside = put_outside(clusters, NODE)
    node = outside.equip("cp-1")
    node.run()
    old, pem = shown(outside, "etcd")["etcd-1"], signed_again(outside, "etcd")
    file = put(outside, "etcd.pem", pem)
    assert "another certificate for the key" in ca(outside, "import", "--dry-run", file).stdout
    ran = ca(outside, "import", file)
    assert "certificates of nodes stay as they are" in ran.stdout
    assert state(outside, "etcd") == "published"
    assert set(shown(outside, "etcd")) == {"etcd-1", "etcd-1r2"}
    unchanged(outside, "import", file)
    (leaf, *behind) = held(node, "etcdserver.crt")
    assert behind == [old]
    vaultpki("agent", "-c", node.config, "--once")
    new = x509.read_certificates(pem.encode())[0]
    assert {*held(node, bundle("etcd"))} == {old, new}
    assert held(node, "etcdserver.crt")[0] == leaf
    ca(outside, "abort")
    assert state(outside, "etcd") == "steady"
    assert set(shown(outside, "etcd")) == {"etcd-1"}


def test_a_whole_chain_is_renewed_one_ca_after_the_other(outside: OutsideRoot) -> None:
    renewed, domains = later(outside), ("kubernetes", "kubelet", "etcd", "front-proxy")
    # They end after the old one above them, so they are of use below the new one alone.
    ends = outside.lower.facts.not_after + timedelta(days=30)
    pems = {domain: signed_again(outside, domain, renewed, ends=ends) for domain in domains}
    file = put(outside, "all.pem", renewed.pem, *pems.values())
    for number, domain in enumerate(domains):
        last = domain == domains[-1]
        ran = ca(outside, "import", file, expect=0 if last else 3)
        assert last or f"the rotation of {domain}" in ran.stderr, ran.stderr
        assert ("+ CA CN=Corp Platform CA" in ran.stdout.replace("C=DE,", "")) is (number == 0) or number, ran.stdout
        # Without nodes every gate is open.
        # A person says that nobody reads the copy of the CA of kubelets.
        words = ("--without", "kubelet-serving-ca") if domain == "kubelet" else ()
        while state(outside, domain) != "done":
            ca(outside, "continue", *words)
    assert [set(shown(outside, domain)) for domain in domains] == [{f"{domain}-1r2"} for domain in domains]
    unchanged(outside, "import", file)
    outside.write_chain(outside.root, outside.upper, renewed)
    outside.cluster.apply()
    assert set(shown(outside, "root").values()) == {each.facts for each in (outside.root, outside.upper, renewed)}
    outside.cluster.issue("admin", outside.cluster.folder / "operator")


def test_what_is_refused_changes_nothing(outside: OutsideRoot) -> None:
    lower, upper = outside.lower, outside.upper
    ends, now = lower.facts.not_after + timedelta(days=365), datetime.now(UTC)
    forger = Ca("", subject=upper.subject)
    cases = {
        "signed by another key": (lower.again(forger, ends=ends).pem, "another key signed it"),
        "no room below": (lower.again(upper, ends=ends, path_length=0).pem, "1 CA stands"),
        "not yet valid": (lower.again(upper, begins=now + timedelta(days=1), ends=ends).pem, "not valid before"),
        "no certSign": (lower.again(upper, ends=ends, signs=False).pem, "may not sign certificates"),
        "the root": (outside.root.again(outside.root, ends=ends).pem, "is pinned to the certificate"),
        "one that ends no later": (lower.again(upper, ends=now + timedelta(days=1)).pem, "is not needed"),
        "an older one": (signed_again(outside, "etcd", begins=now - timedelta(hours=2)), "is installed"),
        "another key": (lower.certify(upper.key.public_key(), named_ca(outside, "etcd")).pem, "is not needed"),
        "below a new CA": (signed_again(outside, "etcd", Ca("Corp New CA", upper)), "is missing"),
    }
    before = listing(outside.cluster.server, outside.cluster.name)
    for what, (pem, hint) in cases.items():
        ran = ca(outside, "import", put(outside, "wrong.pem", pem), expect=1)
        assert hint in ran.stdout and "nothing was changed" in ran.stderr, (what, ran.stdout)
        assert listing(outside.cluster.server, outside.cluster.name) == before, what


def named_ca(outside: OutsideRoot, domain: str) -> c.Name:
    return name(f"{outside.cluster.name} {domain} CA")


def cut_off(cluster: AppliedCluster, proxy: Proxy, *words: str | Path) -> None:
    """Run `ca import` through the proxy, which ends it."""
    trust = cluster.folder / "proxy-ca.crt"
    trust.write_text(proxy.ca_pem)
    env = {**cluster.environment(), "VAULT_ADDR": proxy.address, "VAULT_CACERT": str(trust)}
    vaultpki("ca", "import", "-f", cluster.file, *words, env=env, expect=1)


@pytest.mark.parametrize(
    "step", [pytest.param(1, marks=pytest.mark.exhaustive), pytest.param(4, id="every fourth write")]
)
def test_killed_after_any_write(server: Server, clusters: ClusterFactory, step: int) -> None:
    outside = put_outside(clusters, NODELESS)
    renewed = later(outside)
    file = put(outside, "both.pem", renewed.pem, signed_again(outside, "etcd", renewed))

    def whole() -> None:
        assert state(outside, "etcd") == "published"
        assert set(shown(outside, "etcd")) == {"etcd-1", "etcd-1r2"}
        (name_,) = (each for each, facts in shown(outside, "root").items() if facts == renewed.facts)
        unchanged(outside, "import", file)
        ca(outside, "abort")
        outside.forget("root", name_)

    since = server.audit_position()
    ca(outside, "import", file)
    last = len(server.writes(since))
    whole()
    with proxied(server) as proxy:
        for cut in range(1, last + 1, step):
            proxy.arm(cut, reopens=False)
            cut_off(outside.cluster, proxy, file)
            ca(outside, "import", file)
            whole()
