"""A whole adoption, and the way back from each state: a server, and a cluster that only answers and reports."""

from __future__ import annotations

import copy
import json
import shlex
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
import yaml

from helpers import page_runner, pages
from helpers.kube.adopted_cluster import (
    AUTHENTICATION_PATH,
    INFO_PATH,
    KEYS_PATH,
    REQUESTS_PATH,
    AdoptedCluster,
    adopted,
    spec_of,
)
from helpers.kube.kubeadm_objects import BINDINGS, SYSTEM, KubeadmObjects, Shape, authority, encoded, items, leaf, token
from helpers.vault.applied_cluster import vaultpki
from helpers.vault.cluster_factory import ClusterFactory
from helpers.vault.outside_signer import OutsideSigner
from vaultpki.adopt import drive
from vaultpki.adopt import look as looks
from vaultpki.adopt.drive import AdoptionWords
from vaultpki.certificates import ISSUING_CAS
from vaultpki.errors import ChangedMeanwhile, StateConflict
from vaultpki.records.adoption import AdoptionState
from vaultpki.records.adoption_report import ComponentReport, OldKeys
from vaultpki.rotation.adoption_states import Side

OUTSIDE = AdoptionWords(confirmed=("outside",))


def begin(one: AdoptedCluster) -> None:
    words = ("-f", one.cluster.file, "--kubeconfig", one.config, "--yes")
    vaultpki("adopt", "start", *words, env=one.cluster.environment("adopter"))
    one.passes()
    assert one.state == "prepared"


def lead_to(one: AdoptedCluster, state: str) -> None:
    """Go forward until the adoption is in this state, with all that a person does on the way."""
    begin(one)
    for _ in range(20):
        if one.state == state:
            one.settle()
            return
        found = one.onward(OUTSIDE if one.state in ("published", "closed") else None)
        if [each.node for each in found.gate.waiting] == ["pods"]:
            one.restart_pods()
    raise AssertionError((one.state, found.gate))


def test_a_whole_adoption(clusters: ClusterFactory, tmp_path: Path) -> None:
    with adopted(clusters, tmp_path, Shape(planes=2)) as one:
        begin(one)
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
        assert {each.node for each in found.gate.waiting} == {"pods", "outside"} and not found.moved
        one.restart_pods()
        given, one.api.values[BINDINGS] = one.api.values[BINDINGS], items([])
        found = one.advance(OUTSIDE)
        assert [each.node for each in found.gate.waiting] == ["rights"] and one.state == "published"
        one.api.values[BINDINGS] = given
        assert one.advance().moved and one.state == "switched"
        for state in ("closed", "retired", "done"):
            found = one.onward(OUTSIDE if state == "retired" else None)
            assert found.moved and one.state == state, found.gate
            one.settle()
        assert one.info().count("BEGIN CERTIFICATE") == 1 and first not in one.info()
        found = one.advance()
        assert found.over and not found.gate.waiting, found.gate
        # Every write that was made had been named.
        assert len(one.api.changed) == sum("kube-" in line for line in one.asked)
        text = one.held(f"{SYSTEM}/configmaps/kubeadm-config", "ClusterConfiguration")
        assert "kubelet-certificate-authority" in text and "ca-chain.crt" in text
        assert "rotateCertificates: false" in one.held(f"{SYSTEM}/configmaps/kubelet-config", "kubelet")
        assert one.objects.ca.pem not in one.held(AUTHENTICATION_PATH, "client-ca-file")
        assert all(each.keys is OldKeys.NONE for each in one.machines.values())
        one.look()
        ran = vaultpki(
            *("adopt", "status", "-f", one.cluster.file, "--kubeconfig", one.config),
            env=one.cluster.environment("adopter"),
        )
        assert "take `ca.also_trust` out of" in ran.stdout
        # Once the SHA-256 of the old CAs is out of agent.yaml, agents ask for the record no more.
        record = one.record()
        assert record is not None
        for each in one.machines.values():
            one.write(each.name, replace(each.report(record), revision=0))
        found = one.advance()
        assert found.over and not found.gate.waiting, found.gate


@pytest.mark.on_node
@pytest.mark.parametrize("state", ["published", "switched", "closed", "retired"])
def test_the_way_back(clusters: ClusterFactory, tmp_path: Path, state: str) -> None:
    with adopted(clusters, tmp_path, Shape(planes=1)) as one:
        first = one.info()
        lead_to(one, state)
        passed = []
        for _ in range(12):
            said = OUTSIDE if one.state in ("returning", "re-trusting") else None
            found = one.onward(said, back=True)
            if [each.node for each in found.gate.waiting] == ["pods"]:
                one.restart_pods()
            passed.append(one.state)
            if one.state == "prepared":
                break
        way = list(dict.fromkeys(passed))
        assert way[-1] == "prepared" and ("returning" in way) is (state != "published")
        assert ("re-trusting" in way) is (state == "retired")
        for _ in range(6):
            one.passes()
            found = one.advance(back=True)
            if found.over:
                break
        assert all(each.trust is each.leaves is Side.OLD for each in one.machines.values())
        assert one.info() == first
        # The record goes once everybody is where kubeadm left it; what is left is told with its commands.
        assert found.over and one.state == "" and any("vaultpki lock" in note for note in found.notes)
        assert one.objects.ca.pem in one.held(AUTHENTICATION_PATH, "client-ca-file")
        # A later one begins with a higher revision.
        before = found.look.record.revision
        begin(one)
        record = one.record()
        assert record is not None and record.revision > before
        assert INFO_PATH in one.api.values


def test_a_person_says_at_home_too_that_a_member_was_restarted(clusters: ClusterFactory, tmp_path: Path) -> None:
    """Of an etcd that is no static pod nobody else knows what it has read."""
    with adopted(clusters, tmp_path, Shape(planes=1)) as one:
        begin(one)

        def passes() -> None:
            one.passes()
            record, plane = one.record(), one.machines["cp-1"]
            assert record is not None
            told = plane.report(record)
            unknown = ComponentReport(plane.started, healthy=True)
            one.write("cp-1", replace(told, components={**told.components, "etcd": unknown}))
            one.now += timedelta(minutes=20)

        passes()
        found = one.advance(back=True)
        assert not found.over and ["--restarted cp-1" in each.reason for each in found.gate.waiting] == [True]
        found = one.advance(AdoptionWords(restarted=("cp-1",)), back=True)
        assert found.over and one.state == "", found.gate


def test_the_page_shows_what_is_printed(clusters: ClusterFactory, tmp_path: Path) -> None:
    blocks = pages.blocks(pages.text("adopt"))
    every = [each for block in blocks for each in block.commands()]
    commands = [each for each in every if shlex.split(each.text)[2] not in ("inventory", "node")]
    assert [" ".join(shlex.split(each.text)[1:3]) for each in commands] == [
        *("adopt start", "adopt continue", "adopt status", "issue -f", "adopt abort")
    ]
    with adopted(clusters, tmp_path) as one:
        replaced = {"admin.conf": str(one.config), "cluster.yaml": str(one.cluster.file)}
        replaced["operator"] = str(tmp_path / "operator")
        for command in commands:
            words = [replaced.get(word, word) for word in shlex.split(command.text)[1:]]
            ran = vaultpki(*words, env=one.cluster.environment("operator" if words[0] == "issue" else "adopter"))
            printed = ran.stdout.replace(one.cluster.name, "prod")
            for word, path in replaced.items():
                printed = printed.replace(path.replace(one.cluster.name, "prod"), word)
            assert page_runner.found_in_order(list(command.shown), printed.splitlines()) is None, printed


def test_the_roles_on_the_page_are_enough(clusters: ClusterFactory, tmp_path: Path) -> None:
    """Each object that an adoption changes is of a kind and in a namespace that a role of the page has, by its verb."""
    texts = [block.text for block in pages.blocks(pages.text("adopt")) if "kind: Role\n" in block.text]
    granted = {
        (role["metadata"]["namespace"], kind, verb)
        for role in map(yaml.safe_load, texts)
        for rule in role["rules"]
        for kind in rule["resources"]
        for verb in rule["verbs"]
    }
    with adopted(clusters, tmp_path, Shape(planes=1)) as one:
        lead_to(one, "done")
        one.settle()
        one.advance()
        needed = {
            (path.split("/")[4], path.split("/")[5], {"PUT": "update", "DELETE": "delete"}[method])
            for method, path in one.api.changed
        }
    assert needed == {each for each in granted if each[2] not in ("get", "list")}


def test_what_a_person_does_not_agree_to_is_not_done(clusters: ClusterFactory, tmp_path: Path) -> None:
    with adopted(clusters, tmp_path, Shape(planes=1)) as one:
        words = ("-f", one.cluster.file, "--kubeconfig", one.config)
        env = one.cluster.environment("adopter")
        # One control plane is away while it restarts, and there is no terminal to agree to that on.
        ran = vaultpki("adopt", "start", *words, env=env, expect=3)
        assert "runs the only kube-apiserver" in ran.stderr and "pass --yes" in ran.stderr and one.state == ""
        assert "is not being taken over" in vaultpki("adopt", "status", *words, env=env).stdout
        assert "begins" in vaultpki("adopt", "continue", *words, env=env, expect=1).stderr
        whole = one.cluster.file.read_text()
        one.cluster.file.write_text(f"service_account_keys: true\n{whole}")
        refused = vaultpki("adopt", "start", *words, "--yes", env=env, expect=1)
        assert "sa.key stays kubeadm's" in refused.stderr and one.state == ""
        one.cluster.file.write_text(whole)
        begin(one)
        again = vaultpki("adopt", "start", *words, "--yes", env=env, expect=1)
        assert "has begun before and is prepared" in again.stderr
        ran = vaultpki("adopt", "continue", *words, env=env)
        assert one.state == "published" and not one.api.changed
        assert "bootstrap token abcdef" in ran.stderr and "Not done yet in the cluster's API server" in ran.stdout
        ran = vaultpki("adopt", "continue", *words, "--json", env=env, expect=3)
        shown = json.loads(ran.stdout)
        assert len(shown["writes"]) == 3 and shown["state"] == "published" and not one.api.changed
        for wrong, said in (("nobody", "write one of outside, webhooks"), ("webhooks", "leave out")):
            ran = vaultpki("adopt", "continue", *words, "--yes", "--confirm", wrong, env=env, expect=1)
            assert said in ran.stderr
        # Nothing else may be done to CAs and agents meanwhile.
        applier = one.cluster.environment()
        ran = vaultpki("ca", "rotate", "etcd", "-f", one.cluster.file, env=applier, expect=1)
        assert "is being taken over (published)" in ran.stderr
        ran = vaultpki("unenroll", "-f", one.cluster.file, "w-1", env=applier, expect=1)
        assert "needs its agent until that is over" in ran.stderr


def test_a_cluster_with_other_cas_is_refused(clusters: ClusterFactory, tmp_path: Path) -> None:
    with adopted(clusters, tmp_path, Shape(planes=1), enrolled=False) as one:
        words = ("-f", one.cluster.file, "--kubeconfig", one.config, "--yes")
        env = one.cluster.environment("adopter")
        other = authority("kubernetes", number=7)
        (one.cluster.folder / "old-ca.crt").write_text(other.pem)
        ran = vaultpki("adopt", "start", *words, env=env, expect=1)
        assert "names another one; correct that" in ran.stderr
        # One more than the cluster has: its clients would be shut out with the old CA.
        (one.cluster.folder / "old-ca.crt").write_text(one.objects.ca.pem + other.pem)
        ran = vaultpki("adopt", "start", *words, env=env, expect=1)
        assert "which is no CA of this cluster" in ran.stderr
        text = one.cluster.file.read_text()
        one.cluster.file.write_text(text.replace("    etcd: [old-etcd-ca.crt]\n", ""))
        ran = vaultpki("adopt", "start", *words, env=env, expect=1)
        assert "names no old CA of etcd" in ran.stderr
        assert one.state == "" and not one.api.changed


def test_a_node_that_joins_in_the_middle_is_named_and_an_abort_without_keys_refused(
    clusters: ClusterFactory, tmp_path: Path
) -> None:
    with adopted(clusters, tmp_path, Shape(planes=1)) as one:
        lead_to(one, "switched")
        late = one.objects.node("w-1")
        late["metadata"]["name"] = "w-9"
        one.api.values["/api/v1/nodes"]["items"].append(late)
        one.now += timedelta(hours=1)
        found = one.advance()
        assert {each.node: each.reason for each in found.gate.waiting}["w-9"].startswith("has no agent: enrol it")
        assert one.state == "switched"
        one.machines["cp-1"].lost = True
        one.machines["cp-1"].keys = OldKeys.NONE
        one.passes()
        with pytest.raises(StateConflict, match="on no machine any more"):
            one.advance(back=True)
        assert one.state == "switched"
        one.api.values["/api/v1/nodes"]["items"].remove(late)
        assert one.onward().moved and one.state == "closed"
        # A kubelet that got a certificate and is not there yet could come with it.
        leaf_pem = leaf("system:node:w-9", one.objects.ca, groups=["system:nodes"], kind="ECDSA-P256").pem
        request = one.objects.request("csr-9", "w-1")
        request["status"]["certificate"] = encoded(leaf_pem)
        one.api.values[REQUESTS_PATH]["items"].append(request)
        one.settle()
        one.now += timedelta(hours=1)
        found = one.advance(OUTSIDE)
        assert [each.node for each in found.gate.waiting] == ["CSRs"] and one.state == "closed"
        one.api.values[REQUESTS_PATH]["items"].remove(request)
        assert one.advance().moved and one.state == "retired"


def test_a_record_that_another_operator_has_changed_is_not_written_over(
    clusters: ClusterFactory, tmp_path: Path
) -> None:
    with adopted(clusters, tmp_path, Shape(planes=1)) as one:
        begin(one)
        early = one.look()
        assert one.advance().moved
        with pytest.raises(ChangedMeanwhile, match="another operator has changed the adoption"):
            early.writing(early.record.moved(AdoptionState.PUBLISHED, one.now))
        assert one.state == "published"
        # The last abort would delete what the other one has written.
        with pytest.raises(ChangedMeanwhile, match="another operator has changed the adoption"):
            drive.advance(lambda: early, AdoptionWords(), lambda title, lines: True, back=True)
        assert one.state == "published"


def test_new_cas_below_a_root_from_outside_count(clusters: ClusterFactory, tmp_path: Path) -> None:
    """The root's owner signs through a CA between, which only a look at the chain finds."""
    signer = OutsideSigner.made(tmp_path / "offline", ["Corp Policy CA"])
    spec = spec_of(Shape(planes=1)).replace("ca:\n", "ca:\n  root: external\n  root_file: corp-root.pem\n")
    objects = KubeadmObjects(Shape(planes=1))
    old = {
        "old-ca.crt": objects.ca.pem,
        "old-front-proxy-ca.crt": objects.front.pem,
        "old-etcd-ca.crt": objects.etcd.pem,
    }
    cluster = clusters.written(spec, old)
    signer.apply(cluster)
    now = datetime.now(UTC)
    found = looks.read_sides(cluster.model, cluster.client("adopter"), None, now)
    assert found.root.fingerprint == signer.root_sha256
    assert {domain: len(cas) for domain, cas in found.new.items()} == dict.fromkeys(ISSUING_CAS, 1)


def test_joins_of_before_are_over_only_once_cluster_info_is_known_to_be_right(
    clusters: ClusterFactory, tmp_path: Path
) -> None:
    with adopted(clusters, tmp_path, Shape(planes=1)) as one:
        begin(one)
        first = copy.deepcopy(one.api.values[INFO_PATH])
        one.api.values[INFO_PATH] = 403
        assert one.advance().moved
        record = one.record()
        assert record is not None and record.joins_closed is None
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


def test_an_abort_of_what_is_done_is_refused(clusters: ClusterFactory, tmp_path: Path) -> None:
    """Without the record every bundle would get the old CAs back, as long as `ca.also_trust` names them."""
    with adopted(clusters, tmp_path, Shape(planes=1)) as one:
        lead_to(one, "done")
        one.settle()
        assert one.advance().over
        with pytest.raises(StateConflict, match="is done, and there is no way back"):
            one.advance(back=True)
        assert one.state == "done"
        words = ("-f", one.cluster.file, "--kubeconfig", one.config, "--yes")
        ran = vaultpki("adopt", "abort", *words, env=one.cluster.environment("adopter"), expect=1)
        assert "no way back" in ran.stderr
