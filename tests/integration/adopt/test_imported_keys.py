"""An adoption whose old CAs were imported with their keys: who signs when, an abort without keys on disks, the end."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from helpers.kube.adopted_cluster import AdoptedCluster, adopted
from helpers.kube.kubeadm_objects import Shape
from helpers.vault import imported_cas
from helpers.vault.applied_cluster import vaultpki
from helpers.vault.cluster_factory import ClusterFactory
from helpers.vault.least_privilege import each_grant_is_needed, first_refused, holder
from helpers.vault.server_contents import listing
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


def no_apply_changes_it(one: AdoptedCluster) -> None:
    since = one.cluster.server.audit_position()
    one.cluster.apply()
    assert one.cluster.server.writes(since) == []


def known(one: AdoptedCluster) -> object:
    """The imported CAs that the adoption's record names."""
    record = one.record()
    return record and record.imported


@pytest.mark.on_node
def test_to_the_end_it_signs_nothing_and_then_it_is_gone(clusters: ClusterFactory, tmp_path: Path) -> None:
    with adopted(clusters, tmp_path, Shape(planes=1)) as one:
        before = listing(one.cluster.server, one.cluster.name)
        bring_in(one)
        one.begin()
        for state in ("prepared", "published", "switched", "closed", "retired"):
            if state != "prepared":
                one.lead_to(state)
            assert imported_cas.usages(one.cluster) == AT_REST_ALL and known(one) == OLD_CAS, state
            if state in ("published", "retired"):
                no_apply_changes_it(one)
        shown = json.loads(one.command("status", "--json").stdout)["imported"]
        assert set(shown) == set(OLD_CAS)
        assert all(each["old_ca"] and not each["signs"] for each in shown.values())
        said = "of kubernetes, etcd, front-proxy are in Vault too, and they sign nothing now"
        assert said in one.command("status").stdout
        viewer = one.cluster.environment("viewer")
        for command in (("ca", "status"), ("nodes",)):
            ran = vaultpki(*command, "-f", one.cluster.file, env=viewer, expect={0, 3})
            assert "with imported keys of kubernetes, etcd, front-proxy" in ran.stdout, command
        one.lead_to("done")
        assert "delete the imported CAs of kubernetes, etcd, front-proxy in Vault" in " ".join(one.asked)
        assert imported_cas.usages(one.cluster) == {} and known(one) == ()
        assert one.advance().over
        one.cluster.apply()
        rules = one.cluster.server.api("GET", f"sys/policies/acl/{one.cluster.prefix}/adopter").data["policy"]
        assert "imported" not in rules
        left = set(listing(one.cluster.server, one.cluster.name)) - set(before)
        assert not [each for each in left if "imported" in str(each)]


def test_it_signs_while_nodes_go_back_and_at_no_other_time(clusters: ClusterFactory, tmp_path: Path) -> None:
    with adopted(clusters, tmp_path, Shape(planes=1)) as one:
        bring_in(one)
        one.lead_to("switched")
        # A command is killed once it has written the record, and nothing else: the next one goes on.
        look = one.look()
        look.writing(look.record.moved(S.RETURNING, one.now))
        assert imported_cas.usages(one.cluster) == AT_REST_ALL
        one.advance(back=True)
        assert imported_cas.usages(one.cluster) == SIGN_ALL
        assert "signs now" in imported_cas.remove(one.cluster, "etcd", expect=1)
        # Forward again: it is at rest before a gate looks whether a certificate of it is left.
        assert one.advance().moved and one.state == "switched"
        assert imported_cas.usages(one.cluster) == AT_REST_ALL
        one.lead_to("returning", back=True)
        assert imported_cas.usages(one.cluster) == SIGN_ALL
        one.lead_to("prepared", back=True)
        assert imported_cas.usages(one.cluster) == AT_REST_ALL
        found = one.lead_to("", back=True)
        assert any("are in Vault still, and sign nothing" in note for note in found.notes)
        assert imported_cas.usages(one.cluster) == AT_REST_ALL
        # Somebody is killed in the last step, after the first issuer, and after the first mount.
        one.begin()
        look = one.look()
        look.writing(look.record.moved(S.DONE, one.now))
        model, root = one.cluster.model, one.cluster.client()
        issuer = f"{one.cluster.prefix}/imported-etcd/issuer/imported"
        assert one.cluster.server.api("DELETE", issuer).status in (200, 204)
        imported.remove(model, root, "kubernetes")
        assert imported_keys.settle(one.look())
        assert imported_cas.usages(one.cluster) == {} and known(one) == ()
        assert not imported_keys.settle(one.look())


@pytest.mark.on_node
def test_an_abort_works_with_the_keys_in_vault_alone(clusters: ClusterFactory, tmp_path: Path) -> None:
    with adopted(clusters, tmp_path, Shape(planes=1)) as one:
        one.lead_to("switched")
        for each in one.machines.values():
            each.lost, each.keys = True, OldKeys.NONE
        one.passes()
        with pytest.raises(StateConflict, match="import the keys of kubernetes, etcd, front-proxy") as refusal:
            one.advance(back=True)
        assert "on no machine any more" in str(refusal.value)
        some = {ca: each for ca, each in old_cas(one).items() if ca != "etcd"}
        imported_cas.bring_in(one.cluster, some)
        one.vault = holder(one.cluster.server, access.policy_of(one.cluster.model, "adopter", OLD_CAS))
        with pytest.raises(StateConflict, match="import the keys of etcd from there"):
            one.advance(back=True)
        assert one.state == "switched"
        # In the middle of the adoption: before `apply` the adopter may not have them sign, and is told.
        imported_cas.bring_in(one.cluster, {"etcd": one.objects.etcd}, apply=False)
        one.vault = None
        with pytest.raises(StateConflict, match=r"To add the grants to the adopter's policy, run `vaultpki apply -f "):
            one.advance(back=True)
        assert one.state == "returning" and imported_cas.usages(one.cluster)["etcd"] == AT_REST
        bring_in(one)
        one.advance(back=True)
        assert imported_cas.usages(one.cluster) == SIGN_ALL
        one.lead_to("prepared", back=True)
        assert "No CSRs are signed by the controller manager of cp-1" in one.command("status").stdout


def test_the_adopter_needs_each_grant_on_them(clusters: ClusterFactory, tmp_path: Path) -> None:
    """A look at them in RETURNING, which has them sign, and one in DONE, which removes them."""
    with adopted(clusters, tmp_path, Shape(planes=1)) as one:
        imported_cas.bring_in(one.cluster, {"etcd": one.objects.etcd})
        one.begin()
        model, base = one.cluster.model, access.policy_of(one.cluster.model, "adopter")
        more = {path: rule for path, rule in access.policy_of(model, "adopter", {"etcd"}).items() if path not in base}
        one.vault = holder(one.cluster.server, base | more)
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
                ("is seen", lambda: seen({"etcd": MAY_SIGN})),
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
            body = {"data": {**one.cluster.read(path)["data"], "imported": ["etcd"]}}
            assert one.cluster.server.api("POST", path, body).status == 200
            return failed

        def seen(wanted: dict[str, str]) -> None:
            if imported_cas.usages(one.cluster) != wanted:
                raise Denied("it is not so")

        each_grant_is_needed(more, refused)
