"""The adopter's policy: each grant is needed by a command of an adoption, and what a stolen token of it may not do."""

from __future__ import annotations

from pathlib import Path

import pytest

from helpers.kube.adopted_cluster import AdoptedCluster, adopted
from helpers.kube.kubeadm_objects import Shape
from helpers.vault.cluster_factory import ClusterFactory
from helpers.vault.least_privilege import Rules, each_grant_is_needed, first_refused, holder, made
from vaultpki.errors import Denied
from vaultpki.identity import access

SELDOM = {
    # The nodes of pools that log in by an issuer's token, and pools that cluster.yaml lacks: this cluster has neither.
    ("identity/lookup/entity", "update"),
    ("applied", "read"),
}


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

    steps = [
        ("start", one.start),
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
def test_the_adopter_needs_each_grant(clusters: ClusterFactory, tmp_path: Path, step: int) -> None:
    with adopted(clusters, tmp_path, Shape(planes=1), enrolled=False) as one:
        rules = access.policy_of(one.cluster.model, "adopter")
        records = f"{one.cluster.prefix}/config/data"
        seldom = {(f"{records}/{path}" if path == "applied" else path, word) for path, word in SELDOM}
        each_grant_is_needed(rules, lambda some: refused(one, some), step, seldom)


def test_a_stolen_adopter(clusters: ClusterFactory, tmp_path: Path) -> None:
    """It delays or leads an adoption; it gets no certificate, lets nobody in, and changes nothing else."""
    with adopted(clusters, tmp_path, Shape(planes=1), enrolled=False) as one:
        ask = made(one.cluster.server, holder(one.cluster.server, access.policy_of(one.cluster.model, "adopter")))
        prefix = one.cluster.prefix
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
        ):
            assert ask(method, path, body) == 403, path


def test_the_policy_leaves_with_the_old_cas(clusters: ClusterFactory, tmp_path: Path) -> None:
    with adopted(clusters, tmp_path, Shape(planes=1), enrolled=False) as one:
        server, path = one.cluster.server, f"sys/policies/acl/{one.cluster.prefix}/adopter"
        assert server.api("GET", path).status == 200
        text = one.cluster.file.read_text()
        one.cluster.file.write_text(text[: text.index("ca:\n")])
        one.cluster.apply()
        assert server.api("GET", path).status == 404
