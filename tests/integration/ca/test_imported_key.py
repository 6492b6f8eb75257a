"""`ca import --key`: what is refused before it is sent, what a server keeps, kills, and where the key is not."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from helpers.former_ca import FormerCa
from helpers.vault.applied_cluster import NodeFolder, Ran, vaultpki
from helpers.vault.cluster_factory import ClusterFactory
from helpers.vault.plan_commands import AuditedCluster
from helpers.vault.server_contents import listing
from vaultpki.ca import imported
from vaultpki.errors import Denied
from vaultpki.model import KeyType, Subject
from vaultpki.pki import keys

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
def cluster(clusters: ClusterFactory, former: FormerCa) -> AuditedCluster:
    return clusters.applied(SPEC, {"former-ca.crt": former.crt.read_text()})


def importer(cluster: AuditedCluster) -> dict[str, str]:
    """The environment with the policy that `vaultpki policy importer` prints, and no other."""
    return cluster.environment("importer")


def bring(cluster: AuditedCluster, *words: str | Path, expect: int = 0) -> Ran:
    return vaultpki("ca", "import", "-f", cluster.file, *words, env=importer(cluster), expect=expect)


def mount(cluster: AuditedCluster, ca: str = "kubernetes") -> str:
    return f"{cluster.prefix}/imported-{ca}"


def there(cluster: AuditedCluster, ca: str = "kubernetes") -> bool:
    return cluster.server.api("GET", f"sys/mounts/{mount(cluster, ca)}").status == 200


def listed(cluster: AuditedCluster, what: str, ca: str = "kubernetes") -> dict[str, dict[str, Any]]:
    answer = cluster.server.api("LIST", f"{mount(cluster, ca)}/{what}")
    found: dict[str, dict[str, Any]] = answer.data["key_info"] if answer.status == 200 else {}
    return found


def whole(cluster: AuditedCluster, former: FormerCa, ca: str = "kubernetes") -> None:
    """The CA is there once, with its key and its name, and signs nothing."""
    ((id_, about),) = listed(cluster, "issuers", ca).items()
    ((key, _),) = listed(cluster, "keys", ca).items()
    assert (about["issuer_name"], about["key_id"]) == ("imported", key)
    issuer = cluster.read(f"{mount(cluster, ca)}/issuer/{id_}")
    assert issuer["usage"] == "read-only"
    assert issuer["certificate"].split() == former.crt.read_text().split()


def signed(cluster: AuditedCluster, node: NodeFolder, where: str, row: str, names: dict[str, str]) -> int:
    """The status of a node's own request for a certificate, at a mount."""
    login = {"role_id": role_id(cluster, node), "secret_id": (node.state / "secret-id").read_text().strip()}
    answer = cluster.server.api("POST", f"auth/{cluster.prefix}/listed/login", login, token="")
    token = answer.body["auth"]["client_token"]
    csr = keys.request(keys.generate_key(KeyType.EC_P256), Subject(names["common_name"]))
    body = {"csr": csr, "format": "pem", "exclude_cn_from_sans": "true", **names}
    return cluster.server.api("POST", f"{where}/sign/{row}", body, token=token).status


def role_id(cluster: AuditedCluster, node: NodeFolder) -> str:
    found: str = cluster.read(f"auth/{cluster.prefix}/listed/role/{node.name}/role-id")["role_id"]
    return found


def test_a_ca_of_kubeadm_is_imported_at_rest_and_twice_is_once(cluster: AuditedCluster, former: FormerCa) -> None:
    before = listing(cluster.server, cluster.name)
    own = cluster.server.api("LIST", f"{cluster.prefix}/kubernetes/issuers").data
    assert "No CA was imported" in bring(cluster, "--remove", "kubernetes").stdout
    dry = bring(cluster, "--dry-run", "--key", former.key, former.crt)
    assert "can be imported; nothing was changed" in dry.stdout
    assert not there(cluster)
    ran = bring(cluster, "--key", former.key, former.crt)
    assert ran.stdout.startswith("+ CA kubernetes: CN=kubernetes, until ")
    assert "no node trusts it" not in ran.stdout
    whole(cluster, former)
    since = cluster.server.audit_position()
    document = json.loads(bring(cluster, "--json", "--key", former.key, former.crt).stdout)
    assert (document["domain"], document["changed"], document["trusted"]) == ("kubernetes", False, True)
    assert cluster.server.writes(since) == []
    assert cluster.server.api("LIST", f"{cluster.prefix}/kubernetes/issuers").data == own
    assert "pass --yes" in bring(cluster, "--remove", "kubernetes", expect=1).stderr
    whole(cluster, former)
    assert "issuer, key and mount are deleted" in bring(cluster, "--yes", "--remove", "kubernetes").stdout
    assert not there(cluster) and listing(cluster.server, cluster.name) == before


def test_nodes_get_certificates_of_it_only_while_it_is_let_sign(cluster: AuditedCluster, former: FormerCa) -> None:
    node, row = cluster.equip("cp-1"), "kube-scheduler"
    names = {"common_name": "system:kube-scheduler"}
    bring(cluster, "--key", former.key, former.crt)
    assert signed(cluster, node, mount(cluster), row, names) == 403
    plan = vaultpki("plan", "-f", cluster.file, "--detailed-exitcode", env=cluster.environment("viewer"), expect=4)
    assert f"+ {mount(cluster)}/sign/kube-scheduler (update, with limits)" in plan.stdout
    assert "/sign/admin" not in plan.stdout and "etcd" not in plan.stdout
    cluster.apply()
    cluster.settled()
    the_importer_can_neither_sign_nor_let_sign(cluster, former)
    assert signed(cluster, node, mount(cluster), row, names) == 500
    assert signed(cluster, node, f"{cluster.prefix}/kubernetes", row, names) == 200
    vault, model = cluster.client(), cluster.model
    assert imported.let_sign(model, vault, "kubernetes", on=True)
    assert not imported.let_sign(model, vault, "kubernetes", on=True)
    assert signed(cluster, node, mount(cluster), row, names) == 200
    # No name but its own, and no operator's.
    for other, name in (
        (row, "system:kube-controller-manager"),
        ("admin", "kubernetes-admin"),
        (row, "system:node:w-1"),
    ):
        assert signed(cluster, node, mount(cluster), other, {"common_name": name}) == 403
    assert "signs now" in bring(cluster, "--yes", "--remove", "kubernetes", expect=1).stderr
    # The same again, as after a kill, does not stop it.
    assert "nothing was changed" in bring(cluster, "--key", former.key, former.crt).stdout
    assert signed(cluster, node, mount(cluster), row, names) == 200
    assert imported.let_sign(model, vault, "kubernetes", on=False)
    assert signed(cluster, node, mount(cluster), row, names) == 500
    bring(cluster, "--yes", "--remove", "kubernetes")
    assert signed(cluster, node, mount(cluster), row, names) in (403, 404)
    cluster.apply()
    rules = cluster.server.api("GET", f"sys/policies/acl/{cluster.prefix}/node/cp-1").data["policy"]
    assert "imported" not in rules
    cluster.settled()
    # `destroy` removes one too.
    bring(cluster, "--key", former.key, former.crt)
    cluster.destroy()
    assert not any(path.startswith(f"{cluster.prefix}/") for path in cluster.server.api("GET", "sys/mounts").data)


def the_importer_can_neither_sign_nor_let_sign(cluster: AuditedCluster, former: FormerCa) -> None:
    (issuer,) = listed(cluster, "issuers")
    (key,) = listed(cluster, "keys")
    token = cluster.token("importer")
    own = next(iter(cluster.server.api("LIST", f"{cluster.prefix}/kubernetes/issuers").data["keys"]))
    csr = keys.request(keys.generate_key(KeyType.EC_P256), Subject("x"))
    tried = [
        ("POST", f"{mount(cluster)}/sign/kube-scheduler", {"csr": csr, "common_name": "system:kube-scheduler"}),
        ("POST", f"{mount(cluster)}/sign-verbatim", {"csr": csr}),
        ("POST", f"{mount(cluster)}/issuer/{issuer}/sign-verbatim", {"csr": csr}),
        ("POST", f"{mount(cluster)}/issuer/{issuer}/sign-intermediate", {"csr": csr}),
        ("POST", f"{mount(cluster)}/issuer/{issuer}", {"usage": "issuing-certificates"}),
        ("POST", f"{mount(cluster)}/roles/r", {"allow_any_name": True}),
        ("GET", f"{mount(cluster)}/key/{key}", None),
        ("DELETE", f"{cluster.prefix}/kubernetes/issuer/{own}", None),
        ("POST", f"{cluster.prefix}/kubernetes/issuers/import/bundle", {"pem_bundle": former.crt.read_text()}),
        ("DELETE", f"sys/mounts/{cluster.prefix}/kubernetes", None),
        ("POST", f"sys/mounts/{cluster.prefix}/imported-etcd", {"type": "kv"}),
        ("POST", f"sys/mounts/{cluster.prefix}/imported-kubelet", {"type": "pki"}),
        ("GET", "sys/mounts", None),
        ("GET", f"{cluster.prefix}/config/data/nodes/cp-1", None),
    ]
    for method, path, body in tried:
        assert cluster.server.api(method, path, body, token=token).status == 403, path
    vault = cluster.client("importer")
    with pytest.raises(Denied):
        imported.let_sign(cluster.model, vault, "kubernetes", on=True)
    whole(cluster, former)
