"""A whole adoption, and the way back: a server, and a cluster that only answers and reports."""

from __future__ import annotations

import copy
import json
import shlex
import uuid
from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
import yaml

from helpers import page_runner, pages
from helpers.faults.trusted_proxy import relaying
from helpers.kube.adopted_cluster import (
    AUTHENTICATION_PATH,
    INFO_PATH,
    KEYS_PATH,
    OUTSIDE,
    REQUESTS_PATH,
    AdoptedCluster,
    adopted,
    spec_of,
    waiting,
)
from helpers.kube.kubeadm_objects import BINDINGS, SYSTEM, KubeadmObjects, Shape, authority, encoded, items, leaf, token
from helpers.vault import imported_cas
from helpers.vault.applied_cluster import vaultpki
from helpers.vault.cluster_factory import ClusterFactory
from helpers.vault.least_privilege import holder
from helpers.vault.outside_signer import OutsideSigner
from vaultpki.adopt import drive
from vaultpki.adopt import look as looks
from vaultpki.adopt.drive import AdoptionWords
from vaultpki.certificates import ISSUING_CAS
from vaultpki.errors import ChangedMeanwhile, StateConflict
from vaultpki.identity import access
from vaultpki.identity.imported import AT_REST
from vaultpki.procedure.phases import Side
from vaultpki.records.adoption import AdoptionState, ClusterShape
from vaultpki.records.adoption_report import ComponentReport, OldKeys
from vaultpki.vault import Settings, Vault

JOINED = 'pools:\n- {name: joined, roles: [worker], node_names: "j-*", join: token, networks: [10.9.0.0/16]}\n'


def test_a_whole_adoption(clusters: ClusterFactory, tmp_path: Path) -> None:
    with adopted(clusters, tmp_path, Shape(planes=2)) as one:
        one.begin()
        first = one.info()
        assert one.onward().moved and one.state == "published"
        # Before anybody has a report: cluster-info has both, and who had begun to join cannot end that.
        assert [method for method, _ in one.api.changed] == ["PUT", "DELETE", "DELETE"]
        assert one.info().count("BEGIN CERTIFICATE") == 2 and first in one.info()
        assert KEYS_PATH not in one.api.values
        assert not one.api.values[f"{SYSTEM}/secrets"]["items"]
        record = one.record()
        assert record is not None and record.joins_closed is not None
        turns = []
        for _ in range(5):
            one.passes()
            one.now += timedelta(minutes=20)
            found = one.advance()
            turns.append(found.look.record.turn)
        # One after the other, and nobody at the end.
        assert list(dict.fromkeys(turns)) == ["cp-1", "cp-2", ""]
        assert {*waiting(found)} == {"pods", "outside"} and not found.moved
        one.restart_pods()
        given, one.api.values[BINDINGS] = one.api.values[BINDINGS], items([])
        assert waiting(one.advance(OUTSIDE)) == ["rights"] and one.state == "published"
        one.api.values[BINDINGS] = given
        assert one.advance().moved and one.state == "switched"
        a_late_node_is_named(one)
        assert one.onward().moved and one.state == "closed"
        a_late_kubelet_is_waited_for(one)
        assert one.state == "retired"
        one.settle()
        assert one.onward().moved and one.state == "done"
        one.settle()
        assert one.info().count("BEGIN CERTIFICATE") == 1 and first not in one.info()
        found = one.advance()
        assert found.over and not found.gate.waiting, found.gate
        # Every write that was made had been named, and a role of the page has it.
        assert len(one.api.changed) == sum("kube-" in line for line in one.asked)
        assert changed_kinds(one) == granted_changes()
        text = one.held(f"{SYSTEM}/configmaps/kubeadm-config", "ClusterConfiguration")
        assert "kubelet-certificate-authority" in text and "ca-chain.crt" in text
        assert "rotateCertificates: false" in one.held(f"{SYSTEM}/configmaps/kubelet-config", "kubelet")
        assert one.objects.ca.pem not in one.held(AUTHENTICATION_PATH, "client-ca-file")
        assert all(each.keys is OldKeys.NONE for each in one.machines.values())
        assert "take `ca.also_trust` out of" in one.command("status").stdout
        # Once the SHA-256 of the old CAs is out of agent.yaml, agents ask for the record no more.
        record = one.record()
        assert record is not None
        for each in one.machines.values():
            one.write(each.name, replace(each.report(record), revision=0))
        found = one.advance()
        assert found.over and not found.gate.waiting, found.gate
        # Without the record every bundle would get the old CAs back, as long as `ca.also_trust` names them.
        with pytest.raises(StateConflict, match="is done, and there is no way back"):
            one.advance(back=True)
        assert one.state == "done"
        assert "no way back" in one.command("abort", "--yes", expect=1).stderr


def a_late_node_is_named(one: AdoptedCluster) -> None:
    late = one.objects.node("w-1")
    late["metadata"]["name"] = "w-9"
    nodes = one.api.values["/api/v1/nodes"]["items"]
    nodes.append(late)
    one.now += timedelta(hours=1)
    found = one.advance()
    assert {each.node: each.reason for each in found.gate.waiting}["w-9"].startswith("has no agent. Enrol it")
    assert one.state == "switched"
    nodes.remove(late)


def a_late_kubelet_is_waited_for(one: AdoptedCluster) -> None:
    """One that got a certificate and is not there yet could come with it."""
    request = one.objects.request("csr-9", "w-1")
    pem = leaf("system:node:w-9", one.objects.ca, groups=["system:nodes"], kind="ECDSA-P256").pem
    request["status"]["certificate"] = encoded(pem)
    one.api.values[REQUESTS_PATH]["items"].append(request)
    one.settle()
    one.now += timedelta(hours=1)
    assert waiting(one.advance(OUTSIDE)) == ["CSRs"] and one.state == "closed"
    one.api.values[REQUESTS_PATH]["items"].remove(request)
    assert one.advance().moved


def changed_kinds(one: AdoptedCluster) -> set[tuple[str, str, str]]:
    """Namespace, kind and verb of each object that was changed."""
    verbs = {"PUT": "update", "DELETE": "delete"}
    return {(path.split("/")[4], path.split("/")[5], verbs[method]) for method, path in one.api.changed}


def granted_changes() -> set[tuple[str, str, str]]:
    """The same of what the roles of the page let somebody change."""
    texts = [block.text for block in pages.blocks(pages.text("adopt-explained")) if "kind: Role\n" in block.text]
    return {
        (role["metadata"]["namespace"], kind, verb)
        for role in map(yaml.safe_load, texts)
        for rule in role["rules"]
        for kind in rule["resources"]
        for verb in rule["verbs"]
        if verb not in ("get", "list")
    }


@pytest.mark.on_node
@pytest.mark.parametrize(
    "states",
    [("retired",), pytest.param(("published", "switched", "closed"), marks=pytest.mark.conformance)],
    ids="-".join,
)
def test_the_way_back(clusters: ClusterFactory, tmp_path: Path, states: Sequence[str]) -> None:
    with adopted(clusters, tmp_path, Shape(planes=1)) as one:
        first, revision = one.info(), 0
        back_from_prepared(one)
        # A CA that is not this cluster's is imported, and never signs.
        imported_cas.bring_in(one.cluster, {"kubernetes": authority("kubernetes", number=9)})
        one.vault = holder(one.cluster.server, access.policy_of(one.cluster.model, "adopter", {"kubernetes"}))
        for state in states:
            one.lead_to(state)
            record = one.record()
            # A later one begins with a higher revision.
            assert record is not None and record.imported == () and record.revision > revision
            # Its machine reads there that etcd and kube-apiserver may restart at once.
            assert record.shape is ClusterShape.ONE_PLANE
            assert "for kubernetes is not the old CA of this cluster" in one.command("status").stdout
            passed = []
            while one.state != "prepared":
                one.lead_to(next_back(one.state), back=True)
                passed.append(one.state)
                assert imported_cas.usages(one.cluster) == {"kubernetes": AT_REST}
            assert ("returning" in passed) is (state != "published")
            assert ("re-trusting" in passed) is (state == "retired")
            for _ in range(6):
                one.passes()
                record = one.record()
                found = one.advance(back=True)
                if found.over:
                    break
            assert all(each.trust is each.leaves is Side.OLD for each in one.machines.values())
            assert one.info() == first
            # The record goes once everybody is where kubeadm left it; what is left is told with its commands.
            assert found.over and one.state == "" and any("vaultpki lock" in note for note in found.notes)
            assert one.objects.ca.pem in one.held(AUTHENTICATION_PATH, "client-ca-file")
            assert record is not None and found.look.stored.record is None
            revision = record.revision


def next_back(state: str) -> str:
    return {"switched": "returning", "closed": "returning", "retired": "re-trusting", "re-trusting": "returning"}.get(
        state, "prepared"
    )


def back_from_prepared(one: AdoptedCluster) -> None:
    """Of an etcd that is no static pod nobody but a person knows what it has read: also at home."""
    one.begin()
    one.passes()
    record, plane = one.record(), one.machines["cp-1"]
    assert record is not None
    told = plane.report(record)
    unknown = ComponentReport(plane.started, healthy=True)
    one.write("cp-1", replace(told, components={**told.components, "etcd": unknown}))
    one.now += timedelta(minutes=20)
    found = one.advance(back=True)
    assert not found.over and ["--restarted cp-1" in each.reason for each in found.gate.waiting] == [True]
    found = one.advance(AdoptionWords(restarted=("cp-1/etcd",)), back=True)
    assert found.over and one.state == "", found.gate


@pytest.mark.on_node
def test_the_page_shows_what_is_printed(clusters: ClusterFactory, tmp_path: Path) -> None:
    blocks = pages.blocks(pages.text("adopt-explained"))
    every = [each for block in blocks for each in block.commands()]
    commands = [each for each in every if shlex.split(each.text)[2] not in ("inventory", "node")]
    assert [" ".join(shlex.split(each.text)[1:3]) for each in commands] == [
        *("adopt start", "adopt continue", "adopt status", "adopt abort")
    ]
    with adopted(clusters, tmp_path) as one:
        replaced = {"admin.conf": str(one.config), "cluster.yaml": str(one.cluster.file)}
        for command in commands:
            words = [replaced.get(word, word) for word in shlex.split(command.text)[1:]]
            env = one.cluster.environment("adopter")
            ran = vaultpki(*words, env=env | {"VAULTPKI_FILE": str(one.cluster.file)})
            printed = ran.stdout.replace(one.cluster.name, "prod")
            for word, path in replaced.items():
                printed = printed.replace(path.replace(one.cluster.name, "prod"), word)
            # Whose name is the default is not named.
            printed = printed.replace(" -f cluster.yaml", "")
            assert page_runner.found_in_order(list(command.shown), printed.splitlines()) is None, printed


@pytest.mark.on_node
def test_what_a_person_does_not_agree_to_is_not_done(clusters: ClusterFactory, tmp_path: Path) -> None:
    with adopted(clusters, tmp_path, Shape(planes=1)) as one:
        # One control plane is away while it restarts, and there is no terminal to agree to that on.
        ran = one.command("start", expect=3)
        assert "runs the only kube-apiserver" in ran.stderr and "pass --yes" in ran.stderr and one.state == ""
        assert "is not being taken over" in one.command("status").stdout
        assert "begins" in one.command("continue", expect=1).stderr
        whole, old, other = one.cluster.file.read_text(), one.objects.ca.pem, authority("kubernetes", number=7).pem
        for text, ca, said in (
            (f"service_account_keys: true\n{whole}", old, "sa.key stays kubeadm's"),
            (f"signer: {{}}\n{whole}{JOINED}", old, "nodes of joined join by token"),
            (whole, other, "names another one; correct that"),
            # One more than the cluster has: its clients would be shut out with the old CA.
            (whole, old + other, "which is no CA of this cluster"),
            (whole.replace("    etcd: [old-etcd-ca.crt]\n", ""), old, "names no old CA of etcd"),
        ):
            one.cluster.file.write_text(text)
            (one.cluster.folder / "old-ca.crt").write_text(ca)
            assert said in one.command("start", "--yes", expect=1).stderr, said
            assert one.state == "" and not one.api.changed
        one.cluster.file.write_text(whole)
        (one.cluster.folder / "old-ca.crt").write_text(old)
        one.begin()
        assert "has begun before and is prepared" in one.command("start", "--yes", expect=1).stderr
        ran = one.command("continue")
        assert one.state == "published" and not one.api.changed
        assert "bootstrap token abcdef" in ran.stderr and "Not done yet in the cluster's API server" in ran.stdout
        shown = json.loads(one.command("continue", "--json", expect=3).stdout)
        assert len(shown["writes"]) == 3 and shown["state"] == "published" and not one.api.changed
        for wrong, said in (("nobody", "write one of outside, webhooks"), ("webhooks", "leave out")):
            assert said in one.command("continue", "--yes", "--checked", wrong, expect=1).stderr
        # Nothing else may be done to CAs and agents meanwhile.
        for words, said in (
            (("ca", "rotate", "etcd"), "is being taken over (published)"),
            (("unenroll", "w-1"), "needs its agent until that is over"),
        ):
            ran = vaultpki(*words, "-f", one.cluster.file, env=one.cluster.environment(), expect=1)
            assert said in ran.stderr


def test_what_others_change_meanwhile(clusters: ClusterFactory, tmp_path: Path) -> None:
    """A record is not written over; joins are over only once cluster-info is known to be right."""
    with adopted(clusters, tmp_path, Shape(planes=1)) as one:
        one.begin()
        early, first = one.look(), copy.deepcopy(one.api.values[INFO_PATH])
        one.api.values[INFO_PATH] = 403
        assert one.advance().moved
        with pytest.raises(ChangedMeanwhile, match="another operator has changed the adoption"):
            early.writing(early.record.moved(AdoptionState.PUBLISHED, one.now))
        # The last abort would delete what the other one has written.
        with pytest.raises(ChangedMeanwhile, match="another operator has changed the adoption"):
            drive.advance(lambda: early, AdoptionWords(), lambda title, lines: True, back=True)
        record = one.record()
        assert record is not None and one.state == "published" and record.joins_closed is None
        one.api.values[INFO_PATH] = copy.deepcopy(first)
        one.advance()
        record = one.record()
        assert record is not None and record.joins_closed is not None and one.info().count("BEGIN CERTIFICATE") == 2
        # As `kubeadm init phase bootstrap-token` does: who reads that joins with the old CA alone.
        one.api.values[INFO_PATH] = copy.deepcopy(first)
        one.api.values[f"{SYSTEM}/secrets/bootstrap-token-uvwxyz"] = token("uvwxyz", 3600)
        one.passes()
        one.now += timedelta(hours=1)
        one.advance()
        record = one.record()
        assert record is not None and record.joins_closed == one.now and one.info().count("BEGIN CERTIFICATE") == 2
        assert not one.api.values[f"{SYSTEM}/secrets"]["items"]


def test_new_cas_below_a_root_from_outside_count(clusters: ClusterFactory, tmp_path: Path) -> None:
    """The root's owner signs through a CA between, which only a look at the chain finds."""
    signer, objects = OutsideSigner.made(tmp_path / "offline", ["Corp Policy CA"]), KubeadmObjects(Shape(planes=1))
    spec = spec_of(Shape(planes=1)).replace("ca:\n", "ca:\n  root: external\n  root_file: corp-root.pem\n")
    old = {
        "old-ca.crt": objects.ca.pem,
        "old-front-proxy-ca.crt": objects.front.pem,
        "old-etcd-ca.crt": objects.etcd.pem,
    }
    cluster = clusters.written(spec, old)
    signer.apply(cluster)
    found = looks.read_sides(cluster.model, cluster.client("adopter"), None, datetime.now(UTC))
    assert found.root.fingerprint == signer.root_sha256
    assert {domain: len(cas) for domain, cas in found.new.items()} == dict.fromkeys(ISSUING_CAS, 1)
    # One that was deleted after they were listed is none, and no failure.
    mount = f"{cluster.prefix}/etcd/issuer/"
    with relaying(
        cluster.server, tmp_path, ask=lambda path: f"{mount}{uuid.uuid4()}" if path.startswith(mount) else path
    ) as relay:
        settings = Settings((relay.address,), ca_pem=relay.ca_file.read_text(), token=cluster.token("adopter"))
        found = looks.read_sides(cluster.model, Vault(settings), None, datetime.now(UTC))
    assert {domain for domain, cas in found.new.items() if not cas} == {"etcd"}
