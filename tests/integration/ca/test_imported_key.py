"""`ca import --key`: what is refused before it is sent, what a server keeps, kills, and where the key is not."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from helpers.former_ca import FormerCa
from helpers.vault.applied_cluster import AppliedCluster, Ran, vaultpki
from helpers.vault.cluster_factory import ClusterFactory
from helpers.vault.server_contents import listing

SPEC = """\
layout: kubeadm
api_server: {endpoint: "https://api.example.com:6443", names: [api.example.com]}
nodes:
  - {name: cp-1, roles: [control-plane, etcd, worker], addresses: [10.1.0.11]}
pools:
  - {name: workers, roles: [worker], node_names: "w-*"}
ca: {also_trust: {kubernetes: [former-ca.crt]}}
"""


@pytest.fixture(scope="module")
def former(tmp_path_factory: pytest.TempPathFactory) -> FormerCa:
    return FormerCa.made(tmp_path_factory.mktemp("former"))


@pytest.fixture
def cluster(clusters: ClusterFactory, former: FormerCa) -> AppliedCluster:
    return clusters.applied(SPEC, {"former-ca.crt": former.crt.read_text()})


def importer(cluster: AppliedCluster) -> dict[str, str]:
    """The environment with the policy that `vaultpki policy importer` prints, and no other."""
    return cluster.environment("importer")


def bring(cluster: AppliedCluster, *words: str | Path, expect: int = 0) -> Ran:
    return vaultpki("ca", "import", "-f", cluster.file, *words, env=importer(cluster), expect=expect)


def mount(cluster: AppliedCluster, ca: str = "kubernetes") -> str:
    return f"{cluster.prefix}/imported-{ca}"


def there(cluster: AppliedCluster, ca: str = "kubernetes") -> bool:
    return cluster.server.api("GET", f"sys/mounts/{mount(cluster, ca)}").status == 200


def listed(cluster: AppliedCluster, what: str, ca: str = "kubernetes") -> dict[str, dict[str, Any]]:
    answer = cluster.server.api("LIST", f"{mount(cluster, ca)}/{what}")
    found: dict[str, dict[str, Any]] = answer.data["key_info"] if answer.status == 200 else {}
    return found


def whole(cluster: AppliedCluster, former: FormerCa, ca: str = "kubernetes") -> None:
    """The CA is there once, with its key and its name, and signs nothing."""
    ((id_, about),) = listed(cluster, "issuers", ca).items()
    ((key, _),) = listed(cluster, "keys", ca).items()
    assert (about["issuer_name"], about["key_id"]) == ("imported", key)
    issuer = cluster.read(f"{mount(cluster, ca)}/issuer/{id_}")
    assert issuer["usage"] == "read-only"
    assert issuer["certificate"].split() == former.crt.read_text().split()


def test_a_ca_of_kubeadm_is_imported_at_rest_and_twice_is_once(cluster: AppliedCluster, former: FormerCa) -> None:
    own = cluster.server.api("LIST", f"{cluster.prefix}/kubernetes/issuers").data
    dry = bring(cluster, "--dry-run", "--key", former.key, former.crt)
    assert "can be imported; nothing was changed" in dry.stdout
    assert not there(cluster)
    ran = bring(cluster, "--key", former.key, former.crt)
    assert ran.stdout.startswith("+ CA kubernetes: CN=kubernetes, until ")
    assert "no node trusts it" not in ran.stdout
    whole(cluster, former)
    since = cluster.server.audit_position()
    again = bring(cluster, "--json", "--key", former.key, former.crt)
    document = json.loads(again.stdout)
    assert (document["domain"], document["changed"], document["trusted"]) == ("kubernetes", False, True)
    assert cluster.server.writes(since) == []
    assert cluster.server.api("LIST", f"{cluster.prefix}/kubernetes/issuers").data == own


def test_the_end(cluster: AppliedCluster, former: FormerCa) -> None:
    before = listing(cluster.server, cluster.name)
    assert "No CA was imported" in bring(cluster, "--remove", "kubernetes").stdout
    bring(cluster, "--key", former.key, former.crt)
    assert "pass --yes" in bring(cluster, "--remove", "kubernetes", expect=1).stderr
    whole(cluster, former)
    assert "issuer, key and mount are deleted" in bring(cluster, "--yes", "--remove", "kubernetes").stdout
    assert not there(cluster)
    assert listing(cluster.server, cluster.name) == before
