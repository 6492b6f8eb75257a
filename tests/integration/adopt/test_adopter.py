"""The adopter's policy: each grant is needed by a command of an adoption, and what a stolen token of it may not do."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from helpers.kube.adopted_cluster import AdoptedCluster, adopted
from helpers.kube.kubeadm_objects import Shape
from helpers.vault import imported_cas
from helpers.vault.cluster_factory import ClusterFactory
from helpers.vault.least_privilege import Rules, each_grant_is_needed, first_refused, holder, made
from vaultpki.errors import Denied
from vaultpki.identity import access

SELDOM = {
    # The nodes of pools that log in by an issuer's token, and pools that cluster.yaml lacks: this cluster has neither.
    ("identity/lookup/entity", "update"),
    ("applied", "read"),
}


@pytest.fixture(scope="module")
def one(shared_clusters: ClusterFactory, tmp_path_factory: pytest.TempPathFactory) -> Iterator[AdoptedCluster]:
    """A cluster whose adoption has not begun. The last test here ends what the others need."""
    folder = tmp_path_factory.mktemp("kubeadm")
    with adopted(shared_clusters, folder, Shape(planes=1), enrolled=False) as made:
        yield made


def refused(one: AdoptedCluster, rules: Rules) -> str | None:
    """Which command of an adoption that is given up again is refused with these rules; None for none of them."""
    one.vault = holder(one.cluster.server, rules)
    one.enrol("w-1")

    def seen() -> None:
        found = {each.name: each for each in one.look().seen.machines}
        if not found["w-1"].enrolled or found["cp-1"].enrolled:
            raise Denied("who is enrolled was not seen")
        if found["w-1"].report is None:
            raise Denied("the report was not read")

    def given_up() -> None:
        one.end("w-1")
        one.advance(back=True)
        if one.state:
            raise Denied("the record was not deleted")

    def told() -> None:
        if not one.look().stored.written.by:
            raise Denied("who wrote the record is not in it")

    steps = [
        ("start", one.start),
        ("who wrote it", told),
        ("report", one.passes),
        ("continue", one.advance),
        ("status", seen),
        ("abort", lambda: one.advance(back=True)),
        ("abort at the end", given_up),
    ]
    failed = first_refused(steps)
    # The next one begins anew.
    one.vault = one.cluster.client()
    path = f"{one.cluster.prefix}/config/metadata/rotation/adoption"
    assert one.cluster.server.api("DELETE", path).status == 204
    return failed


@pytest.mark.parametrize(
    "step",
    [
        pytest.param(5, id="sample", marks=pytest.mark.sample),
        pytest.param(1, id="each", marks=pytest.mark.conformance),
    ],
)
def test_the_adopter_needs_each_grant(one: AdoptedCluster, step: int) -> None:
    rules = access.policy_of(one.cluster.model, "adopter")
    records = f"{one.cluster.prefix}/config/data"
    seldom = {(f"{records}/{path}" if path == "applied" else path, word) for path, word in SELDOM}
    each_grant_is_needed(rules, lambda some: refused(one, some), step, seldom)


def test_a_stolen_adopter(one: AdoptedCluster) -> None:
    """It delays or leads an adoption; it gets no certificate, lets nobody in, and changes nothing else.

    It could have imported CAs sign, and get no certificate by that either: only nodes can, each its own.
    """
    imported_cas.bring_in(one.cluster, {"kubernetes": one.objects.ca})
    server, prefix = one.cluster.server, one.cluster.prefix
    ask = made(server, holder(server, access.policy_of(one.cluster.model, "adopter", {"kubernetes"})))
    mount = f"{prefix}/imported-kubernetes"
    (key,) = server.api("LIST", f"{mount}/keys").data["keys"]
    for method, path, body in (
        ("POST", f"{prefix}/kubernetes/sign/admin", {"common_name": "kubernetes-admin"}),
        ("POST", f"{prefix}/kubernetes/issuer/default", {"usage": "read-only"}),
        ("DELETE", f"{prefix}/kubernetes/issuer/kubernetes-1", None),
        ("POST", f"{prefix}/config/data/rotation/kubernetes", {"data": {}}),
        ("DELETE", f"{prefix}/config/data/rotation/kubernetes", None),
        ("POST", f"{prefix}/config/data/cluster", {"data": {}}),
        ("POST", f"{prefix}/config/data/nodes/cp-1", {"data": {}}),
        ("POST", f"{prefix}/config/data/reports/listed/cp-1", {"data": {}}),
        ("DELETE", f"{prefix}/config/metadata/rotation/adoption", None),
        ("POST", f"auth/{prefix}/listed/role/cp-1/secret-id", {}),
        ("POST", f"auth/{prefix}/listed/role/cp-1", {}),
        ("GET", f"auth/{prefix}/listed/role/cp-1/role-id", None),
        ("POST", "identity/entity/id/x", {"disabled": "true"}),
        ("GET", "sys/policies/acl/root", None),
        ("GET", "sys/mounts", None),
        ("POST", f"{mount}/sign/kube-scheduler", {"common_name": "system:kube-scheduler"}),
        ("POST", f"{mount}/sign-verbatim", {}),
        ("POST", f"{mount}/issuer/imported/sign-verbatim", {}),
        ("POST", f"{mount}/issuer/imported/sign-intermediate", {}),
        ("POST", f"{mount}/issuer/imported", {"usage": "read-only"}),
        ("PATCH", f"{mount}/issuer/imported", {"leaf_not_after_behavior": "permit"}),
        ("PATCH", f"{mount}/issuer/imported", {"usage": "crl-signing"}),
        ("POST", f"{mount}/roles/any", {"allow_any_name": "true"}),
        ("POST", f"{mount}/issuers/import/bundle", {"pem_bundle": "x"}),
        ("GET", f"{mount}/key/{key}", None),
        ("POST", f"sys/mounts/{mount}", {"type": "pki"}),
        ("POST", f"sys/mounts/{mount}/tune", {"max_lease_ttl": "9h"}),
        ("DELETE", f"sys/mounts/{prefix}/kubernetes", None),
        ("DELETE", f"{prefix}/kubernetes/key/{key}", None),
    ):
        assert ask(method, path, body) == 403, path
    # It leaves with the imported and the old CAs.
    imported_cas.remove(one.cluster, "kubernetes")
    path = f"sys/policies/acl/{prefix}/adopter"
    assert server.api("GET", path).status == 200
    text = one.cluster.file.read_text()
    one.cluster.file.write_text(text[: text.index("ca:\n")])
    one.cluster.apply()
    assert server.api("GET", path).status == 404
