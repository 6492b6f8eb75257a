"""An adoption whose old CAs were imported with their keys: who signs when, an abort without keys on disks, the end."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from helpers.kube.adopted_cluster import AdoptedCluster, adopted
from helpers.kube.kubeadm_objects import Shape, authority
from helpers.vault import imported_cas
from helpers.vault.applied_cluster import vaultpki
from helpers.vault.cluster_factory import ClusterFactory
from helpers.vault.least_privilege import each_grant_is_needed, first_refused, holder, made
from helpers.vault.server_contents import listing
from integration.adopt.test_adoption import OUTSIDE, begin, lead_to
from vaultpki.adopt import imported_keys
from vaultpki.ca import imported
from vaultpki.errors import Denied, StateConflict
from vaultpki.identity import access
from vaultpki.identity.imported import AT_REST, MAY_SIGN
from vaultpki.records.adoption import OLD_CAS
from vaultpki.records.adoption import AdoptionState as S
from vaultpki.records.adoption_report import OldKeys

AT_REST_ALL = dict.fromkeys(OLD_CAS, AT_REST)
SIGN_ALL = dict.fromkeys(OLD_CAS, MAY_SIGN)


def old_cas(one: AdoptedCluster) -> dict[str, imported_cas.KeptCa]:
    return {"kubernetes": one.objects.ca, "etcd": one.objects.etcd, "front-proxy": one.objects.front}


def bring_in(one: AdoptedCluster) -> None:
    """Import all three; from now on the operator has what `vaultpki policy --imported adopter` prints."""
    imported_cas.bring_in(one.cluster, old_cas(one))
    words = ("policy", "-f", one.cluster.file, "--imported", "adopter")
    rules = json.loads(vaultpki(*words).stdout)["path"]
    one.vault = holder(one.cluster.server, rules)
    # `apply` has written the same.
    name = f"sys/policies/acl/{one.cluster.prefix}/adopter"
    assert json.loads(one.cluster.server.api("GET", name).data["policy"])["path"] == rules


def loses_keys(one: AdoptedCluster) -> None:
    for each in one.machines.values():
        each.lost, each.keys = True, OldKeys.NONE
    one.passes()


def status(one: AdoptedCluster) -> dict[str, object]:
    words = ("-f", one.cluster.file, "--kubeconfig", one.config)
    ran = vaultpki("adopt", "status", *words, "--json", env=one.cluster.environment("adopter"))
    found: dict[str, object] = json.loads(ran.stdout)
    return found


def test_to_the_end_it_signs_nothing_and_then_it_is_gone(clusters: ClusterFactory, tmp_path: Path) -> None:
    with adopted(clusters, tmp_path, Shape(planes=1)) as one:
        before = listing(one.cluster.server, one.cluster.name)
        bring_in(one)
        for state in ("prepared", "published", "switched", "closed", "retired"):
            (begin if state == "prepared" else lambda one, to=state: onward_to(one, to))(one)
            assert imported_cas.usages(one.cluster) == AT_REST_ALL, state
            record = one.record()
            assert record is not None and record.imported == OLD_CAS, state
            # Nothing of this is `plan`'s, and nothing that `apply` does changes it.
            since = one.cluster.server.audit_position()
            one.cluster.apply()
            assert one.cluster.server.writes(since) == []
        shown = status(one)["imported"]
        assert isinstance(shown, dict) and set(shown) == set(OLD_CAS)
        assert all(each["old_ca"] and not each["signs"] for each in shown.values())
        words = ("-f", one.cluster.file, "--kubeconfig", one.config)
        env = one.cluster.environment("adopter")
        text = vaultpki("adopt", "status", *words, env=env).stdout
        assert "of kubernetes, etcd, front-proxy are in Vault too, and they sign nothing now" in text
        viewer = one.cluster.environment("viewer")
        for command in (("ca", "status"), ("nodes",)):
            ran = vaultpki(*command, "-f", one.cluster.file, env=viewer, expect={0, 3})
            assert "with imported keys of kubernetes, etcd, front-proxy" in ran.stdout, command
        onward_to(one, "done")
        assert "delete the imported CAs of kubernetes, etcd, front-proxy in Vault" in " ".join(one.asked)
        assert imported_cas.usages(one.cluster) == {}
        record = one.record()
        assert record is not None and record.imported == ()
        one.settle()
        assert one.advance().over
        one.cluster.apply()
        rules = one.cluster.server.api("GET", f"sys/policies/acl/{one.cluster.prefix}/adopter").data["policy"]
        assert "imported" not in rules
        left = set(listing(one.cluster.server, one.cluster.name)) - set(before)
        assert not [each for each in left if "imported" in str(each)]


def onward_to(one: AdoptedCluster, state: str) -> None:
    for _ in range(12):
        found = one.onward(OUTSIDE if one.state in ("published", "closed", "returning", "re-trusting") else None)
        if one.state == state:
            one.settle()
            return
        if [each.node for each in found.gate.waiting] == ["pods"]:
            one.restart_pods()
    raise AssertionError((one.state, found.gate))


def back_to(one: AdoptedCluster, state: str) -> None:
    for _ in range(12):
        found = one.onward(OUTSIDE if one.state in ("returning", "re-trusting") else None, back=True)
        if [each.node for each in found.gate.waiting] == ["pods"]:
            one.restart_pods()
        if one.state == state:
            return
    raise AssertionError((one.state, found.gate))


def test_it_signs_while_nodes_go_back_and_at_no_other_time(clusters: ClusterFactory, tmp_path: Path) -> None:
    with adopted(clusters, tmp_path, Shape(planes=1)) as one:
        bring_in(one)
        lead_to(one, "switched")
        back_to(one, "returning")
        assert imported_cas.usages(one.cluster) == SIGN_ALL
        assert "signs now" in imported_cas.remove(one.cluster, "etcd", expect=1)
        # Forward again: it is at rest before a gate looks whether a certificate of it is left.
        assert one.advance().moved and one.state == "switched"
        assert imported_cas.usages(one.cluster) == AT_REST_ALL
        back_to(one, "returning")
        back_to(one, "prepared")
        assert imported_cas.usages(one.cluster) == AT_REST_ALL
        for _ in range(6):
            one.passes()
            found = one.advance(back=True)
            if found.over:
                break
        assert one.state == "" and any("are in Vault still, and sign nothing" in note for note in found.notes)
        assert imported_cas.usages(one.cluster) == AT_REST_ALL
        for ca in OLD_CAS:
            imported_cas.remove(one.cluster, ca)


def test_an_abort_works_with_the_keys_in_vault_alone(clusters: ClusterFactory, tmp_path: Path) -> None:
    with adopted(clusters, tmp_path, Shape(planes=1)) as one:
        lead_to(one, "switched")
        loses_keys(one)
        with pytest.raises(StateConflict, match="import the keys of kubernetes, etcd, front-proxy"):
            one.advance(back=True)
        some = {ca: each for ca, each in old_cas(one).items() if ca != "etcd"}
        imported_cas.bring_in(one.cluster, some)
        one.vault = holder(one.cluster.server, access.policy_of(one.cluster.model, "adopter", OLD_CAS))
        with pytest.raises(StateConflict, match="import the keys of etcd from there"):
            one.advance(back=True)
        # In the middle of the adoption, and whoever leads it sees it with the next command.
        bring_in(one)
        back_to(one, "returning")
        assert imported_cas.usages(one.cluster) == SIGN_ALL
        back_to(one, "prepared")
        text = "\n".join(status_lines(one))
        assert "No CSRs are signed by the controller manager of cp-1" in text


def status_lines(one: AdoptedCluster) -> list[str]:
    words = ("-f", one.cluster.file, "--kubeconfig", one.config)
    return vaultpki("adopt", "status", *words, env=one.cluster.environment("adopter")).stdout.splitlines()


def test_a_run_that_was_killed_is_continued(clusters: ClusterFactory, tmp_path: Path) -> None:
    with adopted(clusters, tmp_path, Shape(planes=1)) as one:
        bring_in(one)
        lead_to(one, "switched")
        look = one.look()
        # The record is written, and nothing else.
        look.writing(look.record.moved(S.RETURNING, one.now))
        assert imported_cas.usages(one.cluster) == AT_REST_ALL
        one.advance(back=True)
        assert imported_cas.usages(one.cluster) == SIGN_ALL
        look = one.look()
        look.writing(look.record.moved(S.DONE, one.now))
        # Somebody is killed after the first issuer, and after the first mount.
        model, root = one.cluster.model, one.cluster.client()
        imported.let_sign(model, root, "kubernetes", on=False)
        assert one.cluster.server.api("DELETE", f"{one.cluster.prefix}/imported-etcd/issuer/imported").status in (
            200,
            204,
        )
        imported.remove(model, root, "kubernetes")
        assert imported_keys.settle(one.look())
        assert imported_cas.usages(one.cluster) == {}
        record = one.record()
        assert record is not None and record.imported == ()
        assert not imported_keys.settle(one.look())


def test_before_apply_the_adopter_may_not_and_is_told(clusters: ClusterFactory, tmp_path: Path) -> None:
    with adopted(clusters, tmp_path, Shape(planes=1)) as one:
        lead_to(one, "switched")
        imported_cas.bring_in(one.cluster, old_cas(one), apply=False)
        with pytest.raises(StateConflict, match=r"run `vaultpki apply -f .*which adds the grants"):
            one.advance(back=True)
        assert one.state == "returning" and imported_cas.usages(one.cluster) == AT_REST_ALL
        bring_in(one)
        one.advance(back=True)
        assert imported_cas.usages(one.cluster) == SIGN_ALL


def test_another_ca_does_not_count(clusters: ClusterFactory, tmp_path: Path) -> None:
    with adopted(clusters, tmp_path, Shape(planes=1)) as one:
        imported_cas.bring_in(one.cluster, {"kubernetes": authority("kubernetes", number=9)})
        one.vault = holder(one.cluster.server, access.policy_of(one.cluster.model, "adopter", {"kubernetes"}))
        lead_to(one, "switched")
        record = one.record()
        assert record is not None and record.imported == ()
        assert any("for kubernetes is not the old CA of this cluster" in line for line in status_lines(one))
        back_to(one, "returning")
        assert imported_cas.usages(one.cluster) == {"kubernetes": AT_REST}


def test_the_adopter_needs_each_grant_on_them(clusters: ClusterFactory, tmp_path: Path) -> None:
    """A look at them in RETURNING, which has them sign, and one in DONE, which removes them."""
    with adopted(clusters, tmp_path, Shape(planes=1)) as one:
        bring_in(one)
        begin(one)
        model, base = one.cluster.model, access.policy_of(one.cluster.model, "adopter")
        more = {path: rule for path, rule in access.policy_of(model, "adopter", {"etcd"}).items() if path not in base}
        for ca in ("kubernetes", "front-proxy"):
            imported_cas.remove(one.cluster, ca)
        fresh = one.look()
        path = f"{one.cluster.prefix}/config/data/rotation/adoption"

        def refused(some: dict[str, object]) -> str | None:
            # Each one begins with all three states before it.
            imported_cas.bring_in(one.cluster, {"etcd": one.objects.etcd}, apply=False)
            one.vault = holder(one.cluster.server, base | some)

            def settled(state: S) -> None:
                look = one.look()
                stored = replace(look.stored, record=replace(fresh.record, state=state, imported=("etcd",)))
                imported_keys.settle(replace(look, stored=stored))

            steps = [
                ("signs", lambda: settled(S.RETURNING)),
                ("is seen", lambda: seen(SIGN_ALL)),
                ("is at rest", lambda: settled(S.PREPARED)),
                ("is removed", lambda: settled(S.DONE)),
                ("is gone", lambda: seen({})),
            ]
            failed = first_refused(steps)
            one.vault = one.cluster.client()
            if (usage := imported_cas.usages(one.cluster).get("etcd")) == MAY_SIGN:
                imported.let_sign(model, one.vault, "etcd", on=False)
            if usage is not None or one.cluster.server.api("GET", f"sys/mounts/{one.cluster.prefix}/imported-etcd"):
                imported.remove(model, one.vault, "etcd")
            body = {"data": json.loads(json.dumps({**one.cluster.read(path)["data"], "imported": ["etcd"]}))}
            assert one.cluster.server.api("POST", path, body).status == 200
            return failed

        def seen(wanted: dict[str, str]) -> None:
            if imported_cas.usages(one.cluster) != {ca: use for ca, use in wanted.items() if ca == "etcd"}:
                raise Denied("it is not so")

        each_grant_is_needed(more, refused)


def test_a_stolen_adopter_cannot_sign_with_them(clusters: ClusterFactory, tmp_path: Path) -> None:
    """It could have them sign, and get no certificate by that: only nodes can, each its own."""
    with adopted(clusters, tmp_path, Shape(planes=1), enrolled=False) as one:
        bring_in(one)
        ask = made(one.cluster.server, one.client())
        mount = f"{one.cluster.prefix}/imported-kubernetes"
        (key,) = one.cluster.server.api("LIST", f"{mount}/keys").data["keys"]
        for method, path, body in (
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
            ("DELETE", f"sys/mounts/{one.cluster.prefix}/kubernetes", None),
            ("DELETE", f"{one.cluster.prefix}/kubernetes/key/{key}", None),
        ):
            assert ask(method, path, body) == 403, path
