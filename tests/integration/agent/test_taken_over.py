"""A machine of kubeadm's enrols beside kubeadm's files, and follows the record of an adoption there and back."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from helpers.kube.kubeadm_objects import authority
from helpers.node.enrolled_machine import EnrolledMachine, Ground, kubeadms
from helpers.node.reporting_nodes import shown
from helpers.vault.applied_cluster import vaultpki
from helpers.vault.cluster_factory import ClusterFactory
from vaultpki.certificates import ca_subject
from vaultpki.config.agent import load_agent
from vaultpki.config.hooks import plain_hooks
from vaultpki.pki import x509
from vaultpki.pki.facts import Facts
from vaultpki.records.adoption import AdoptionState as S
from vaultpki.records.adoption_report import Held, OldKeys


def test_a_machine_of_etcd_alone_has_no_kubelet(
    clusters: ClusterFactory, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    enrolled = EnrolledMachine(Ground.of(clusters, "etcd-1"), tmp_path, monkeypatch)
    kubelet = Path(enrolled.machine.where.kubelet)
    assert not kubelet.exists()
    enrolled.join()
    for state in (S.PREPARED, S.PUBLISHED, S.SWITCHED):
        enrolled.go(state)
    assert enrolled.report().leaves is Held.NEW
    for state in (S.RETURNING, S.PREPARED):
        enrolled.go(state)
    enrolled.record(None)
    enrolled.passes()
    assert vaultpki("adopt", "node", "-c", enrolled.file).returncode == 0
    assert kubeadms(enrolled.machine.snapshot()) == enrolled.fresh and not kubelet.exists()


def certificates(folder: str, name: str) -> tuple[Facts, ...]:
    return x509.read_certificates(Path(folder, name).read_bytes())


@pytest.mark.on_node
def test_it_joins_beside_kubeadms_files_and_stands_for_weeks(enrolled: EnrolledMachine) -> None:
    enrolled.join()
    text = enrolled.file.read_text()
    assert "adopt:" in text and "by_agent: false" in text
    assert f"directory: {enrolled.machine.where.directory}\n" in text
    for _ in range(3):
        enrolled.passes()
        assert kubeadms(enrolled.machine.snapshot()) == enrolled.fresh
    own = Path(enrolled.machine.where.aside) / "agent"
    assert (own / "apiserver.crt").is_file() and (own / "scheduler/scheduler.key").is_file()
    # No record, so nothing is asked for; and nothing of the machine was touched.
    report = enrolled.report()
    assert (report.revision, report.reached, report.owed) == (0, None, ())
    assert (report.trust, report.leaves, report.keys) == (Held.OLD, Held.OLD, OldKeys.IN_PLACE)
    assert report.memory is Held.OLD and report.shown is Held.OLD and report.signer and report.rotates
    stands = vaultpki("status", "-c", enrolled.file, "--offline").stdout
    assert f"it is as kubeadm left it, and the agent's files lie aside, in {own}" in stands
    assert vaultpki("adopt", "node", "-c", enrolled.file).stdout.endswith(
        "no adoption is under way, so no step is to be taken on this machine\n"
    )
    assert kubeadms(enrolled.machine.snapshot()) == enrolled.fresh


@pytest.mark.on_node
def test_with_adopt_the_agent_does_each_step(enrolled: EnrolledMachine) -> None:
    enrolled.join("--adopt")
    config = load_agent(enrolled.file)
    assert config.taken_over is not None and config.taken_over.by_agent
    # What runs here as a static pod gets the hooks of kubeadm's clusters, which begin when the adoption has ended.
    assert plain_hooks(config.hooks) == {
        "kubernetes-ca": [{"static_pod": "kube-controller-manager"}],
        "etcd-ca": [{"static_pod": "etcd"}, {"static_pod": "kube-apiserver"}],
        "kubeconfigs": [{"static_pod": "kube-scheduler"}, {"static_pod": "kube-controller-manager"}],
    }
    enrolled.record(S.PREPARED)
    # One step in each pass.
    for _ in range(6):
        enrolled.passes()
    assert enrolled.report().reached is S.PREPARED and enrolled.report().by_agent


@pytest.mark.on_node
def test_with_adopt_a_new_machine_does_not_join(
    clusters: ClusterFactory, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    enrolled = EnrolledMachine(Ground.of(clusters), tmp_path, monkeypatch)
    for folder in (enrolled.machine.where.directory, enrolled.machine.where.kubelet):
        shutil.rmtree(folder)
    for file in Path(enrolled.machine.where.kubeconfigs).glob("*.conf"):
        file.unlink()
    assert "there is nothing to take over" in enrolled.join("--adopt", expect=1).stderr
    assert not enrolled.file.exists()


@pytest.mark.on_node
def test_without_the_pin_of_its_ca_it_does_not_join(enrolled: EnrolledMachine) -> None:
    join = json.loads(enrolled.join_file.read_text())
    join["also_trust"]["kubernetes"] = ["0" * 64]
    enrolled.join_file.write_text(json.dumps(join))
    ran = enrolled.join(expect=1)
    assert "is not in the join file, so this machine is not of the cluster" in ran.stderr
    assert enrolled.machine.snapshot() == enrolled.fresh and not enrolled.file.exists()


def test_one_that_kubeadm_joined_while_all_trust_both_enrols(enrolled: EnrolledMachine) -> None:
    """Its ca.crt is what cluster-info held: the old CA and Vault's."""
    (new,) = shown(enrolled.cluster, "kubernetes").values()
    file = Path(enrolled.machine.where.directory, "ca.crt")
    file.write_text(file.read_text() + new.pem)
    enrolled.join()
    enrolled.passes()
    assert enrolled.report().trust is not Held.OLD


@pytest.mark.on_node
def test_a_stranger_with_the_name_of_the_new_ca_is_none(enrolled: EnrolledMachine) -> None:
    file = Path(enrolled.machine.where.directory, "ca.crt")
    name = ca_subject(enrolled.cluster.name, "kubernetes")
    file.write_text(file.read_text() + authority(name, "ECDSA-P256", number=3).pem)
    fresh = enrolled.machine.snapshot()
    assert "is not in the join file, so this machine is not of the cluster" in enrolled.join(expect=1).stderr
    assert enrolled.machine.snapshot() == fresh and not enrolled.file.exists()


def test_it_follows_the_record_to_the_end(enrolled: EnrolledMachine) -> None:
    enrolled.join()
    wanted = {
        S.PREPARED: (Held.OLD, Held.OLD, True, True, OldKeys.IN_PLACE),
        S.PUBLISHED: (Held.BOTH, Held.OLD, True, True, OldKeys.IN_PLACE),
        S.SWITCHED: (Held.BOTH, Held.NEW, True, False, OldKeys.ASIDE),
        S.CLOSED: (Held.BOTH, Held.NEW, False, False, OldKeys.ASIDE),
        S.RETIRED: (Held.NEW, Held.NEW, False, False, OldKeys.ASIDE),
        S.DONE: (Held.NEW, Held.NEW, False, False, OldKeys.NONE),
    }
    for state, (trust, leaves, signer, rotates, keys) in wanted.items():
        enrolled.record(state)
        report = enrolled.report()
        assert report.revision == enrolled.revision and report.owed and report.reached is not state
        enrolled.go(state)
        report = enrolled.report()
        assert (report.reached, report.owed) == (state, ()), state
        assert (report.trust, report.memory) == (trust, trust), state
        assert (report.leaves, report.shown) == (leaves, leaves), state
        assert (report.signer, report.rotates, report.keys) == (signer, rotates, keys), state
    # No record brings an old CA back, while agent.yaml still has its SHA-256.
    place, old = enrolled.machine.where.directory, {each.pem for each in enrolled.machine.old.values()}
    for shown_then in (S.RETRUSTING, S.PUBLISHED, None):
        enrolled.record(shown_then)
        enrolled.tries()
        held = {
            facts.pem for name in ("ca.crt", "etcd/ca.crt", "front-proxy-ca.crt") for facts in certificates(place, name)
        }
        assert held and not held & old, shown_then
    # It is an agent's node like any other then: its pairs are renewed in place.
    before = Path(enrolled.machine.where.directory, "apiserver.crt").read_bytes()
    made = enrolled.tries("kube-apiserver")
    assert made.renewed == ("kube-apiserver",)
    assert Path(enrolled.machine.where.directory, "apiserver.crt").read_bytes() != before


@pytest.mark.on_node
def test_no_hook_restarts_what_the_take_over_restarts_by_turns(enrolled: EnrolledMachine, tmp_path: Path) -> None:
    enrolled.join()
    for state in (S.PUBLISHED, S.SWITCHED, S.CLOSED):
        enrolled.go(state)
    ran = tmp_path / "ran"
    with enrolled.file.open("a") as file:
        file.write(f"hooks: {{etcd-ca: [[/usr/bin/touch, {ran}]]}}\n")
    enrolled.record(S.RETIRED)
    # The old CAs leave the bundles, and nobody is told to restart anything out of turn.
    events = [event.name for event in enrolled.passes().events]
    assert not {"hook", "advice", "turn"} & set(events) and not ran.exists(), events
    for state in (S.RETIRED, S.DONE):
        enrolled.go(state)
    assert not ran.exists()


@pytest.mark.on_node
@pytest.mark.parametrize("turned", [S.SWITCHED, S.RETIRED])
def test_it_follows_the_record_back_to_the_byte(enrolled: EnrolledMachine, turned: S) -> None:
    enrolled.join()
    way = [S.PREPARED, S.PUBLISHED, S.SWITCHED, S.CLOSED, S.RETIRED]
    for state in way[: way.index(turned) + 1]:
        enrolled.go(state)
    back = [S.RETRUSTING] if turned is S.RETIRED else []
    for state in (*back, S.RETURNING, S.PREPARED):
        enrolled.go(state)
        report = enrolled.report()
        assert (report.reached, report.owed) == (state, ())
    assert (report.memory, report.shown, report.signer, report.rotates) == (Held.OLD, Held.OLD, True, True)
    enrolled.go(None)
    assert kubeadms(enrolled.machine.snapshot()) == enrolled.fresh


@pytest.mark.on_node
def test_a_record_that_is_deleted_or_set_back_takes_nothing_away(enrolled: EnrolledMachine) -> None:
    enrolled.join()
    enrolled.file.write_text(enrolled.file.read_text().replace("by_agent: false", "by_agent: true"))
    for state in (S.PREPARED, S.PUBLISHED, S.SWITCHED):
        enrolled.go(state)
    before = kubeadms(enrolled.machine.snapshot())
    last = enrolled.revision

    def stays(words: str) -> None:
        made = enrolled.tries()
        assert set(made.failures) == {"adoption"} and words in str(made.failures["adoption"])
        assert kubeadms(enrolled.machine.snapshot()) == before
        assert words in vaultpki("adopt", "node", "-c", enrolled.file, expect=1).stderr
        assert words[1:] in vaultpki("status", "-c", enrolled.file, "--offline").stdout
        assert kubeadms(enrolled.machine.snapshot()) == before

    enrolled.record(None)
    stays("Vault has no record of the adoption any more, and this machine is switched")
    # Set back by a snapshot, and written by nobody who counts.
    enrolled.revision = last - 2
    enrolled.record(S.PREPARED)
    stays(f"this machine has read revision {last} of the adoption's record, and Vault has revision {last - 1}")
    enrolled.revision = last + 1000
    enrolled.record(S.PREPARED)
    stays(f"does not follow revision {last + 1001}")
    enrolled.revision = last
    enrolled.record(S.SWITCHED)
    report = enrolled.report()
    assert (report.reached, report.owed, report.revision) == (S.SWITCHED, (), last + 1)


@pytest.mark.on_node
def test_a_record_that_comes_too_early_takes_no_ca_out_of_a_bundle(enrolled: EnrolledMachine) -> None:
    """The agent's folder is in place in switched: others may have certificates of the old CAs still."""
    enrolled.join()
    for state in (S.PREPARED, S.PUBLISHED, S.SWITCHED):
        enrolled.go(state)
    before = kubeadms(enrolled.machine.snapshot())
    for state in (S.RETIRED, S.DONE):
        enrolled.record(state)
        made = enrolled.tries()
        assert f"says {state.value}, and this machine has done the steps of switched" in str(made.failures["adoption"])
        assert kubeadms(enrolled.machine.snapshot()) == before, state
    # In the right order it follows.
    for state in (S.CLOSED, S.RETIRED):
        enrolled.go(state)
    assert enrolled.report().trust is Held.NEW


@pytest.mark.on_node
def test_every_view_says_where_it_stands(enrolled: EnrolledMachine) -> None:
    enrolled.join()
    cluster = enrolled.cluster

    def said(name: str, words: str, code: int) -> None:
        enrolled.report()
        env = cluster.environment("viewer")
        found = json.loads(vaultpki("nodes", "-f", cluster.file, "--json", env=env, expect={0, 3}).stdout)["findings"]
        assert [each["message"] for each in found if each["name"] == name and words in each["message"]], found
        assert words in " ".join(vaultpki("ca", "status", "-f", cluster.file, env=env, expect=code).stdout.split())

    enrolled.go(S.PREPARED)
    said("adoption-waits", "the next step waits for no machine", 0)
    enrolled.record(S.PUBLISHED)
    said("adoption-blocked", "waits for cp-1: has not done the steps of published: ", 3)
    enrolled.go(S.PUBLISHED)
    said("adoption-waits", "no machine that reports owes anything", 0)
    enrolled.record(None)
    made = enrolled.tries()
    assert set(made.failures) == {"adoption"}
    env = cluster.environment("viewer")
    found = json.loads(vaultpki("nodes", "-f", cluster.file, "--json", env=env, expect=3).stdout)
    assert "adoption-lost" in [each["name"] for each in found["findings"]]


def test_no_apply_takes_away_what_an_adoption_needs(enrolled: EnrolledMachine) -> None:
    enrolled.join()
    cluster = enrolled.cluster
    whole = cluster.file.read_text()
    without_ca = whole.replace("etcd: [old-etcd.crt], ", "")
    without_node = whole.replace("cp-1", "cp-2").replace("198.51.100.11", "198.51.100.12")

    def refused(text: str, words: str) -> None:
        cluster.file.write_text(text)
        for command in (("plan",), ("apply", "--yes")):
            ran = vaultpki(*command, "-f", cluster.file, env=cluster.environment(), expect=1)
            assert words in ran.stderr, ran.stderr

    enrolled.record(S.PREPARED)
    refused(without_ca, "is being taken over (prepared), and the old CA of etcd with the SHA-256")
    refused(f"service_account_keys: true\n{whole}", "sa.key stays kubeadm's until that is done")
    cluster.file.write_text(without_node)
    vaultpki("plan", "-f", cluster.file, env=cluster.environment())
    enrolled.record(S.PUBLISHED)
    refused(without_ca, "Put its file back until the adoption is done")
    refused(without_node, "is being taken over (published), and cp-1 would lose the agent half-way")
    # What the refusal names: the machine is gone, and its credentials are ended.
    cluster.file.write_text(whole)
    vaultpki("lock", "cp-1", "-f", cluster.file, env=cluster.environment())
    cluster.file.write_text(without_node)
    vaultpki("plan", "-f", cluster.file, env=cluster.environment())
    enrolled.record(S.DONE)
    cluster.file.write_text(without_ca)
    vaultpki("plan", "-f", cluster.file, env=cluster.environment())


@pytest.mark.on_node
def test_every_file_flag_and_restart_is_shown_before(enrolled: EnrolledMachine) -> None:
    enrolled.join()
    enrolled.record(S.PUBLISHED)
    enrolled.passes()
    before = enrolled.machine.snapshot()
    ran = vaultpki("adopt", "node", "-c", enrolled.file, "--dry-run")
    where, told = enrolled.machine.where, ran.stdout
    assert enrolled.machine.snapshot() == before
    signer = f"{where.aside}/signer/ca.crt"
    assert f"--cluster-signing-cert-file={signer} instead of {where.directory}/ca.crt" in told
    order = [
        "copy the old CA",
        "sign CSRs by that copy",
        "with both CAs",
        f"exchange {where.directory}",
        "restart etcd",
    ]
    order += ["restart kube-apiserver", "restart kube-controller-manager", "restart kube-scheduler", "restart kubelet"]
    places = [told.index(each) for each in order]
    assert places == sorted(places), told
    assert f"{where.kubeconfigs}/kubelet.conf: changed" in told and "To go back:" in told
    assert f"--root-ca-file={where.directory}/ca-chain.crt instead of {where.directory}/ca.crt" in told


@pytest.mark.on_node
def test_the_agent_does_the_steps_where_agent_yaml_lets_it(enrolled: EnrolledMachine) -> None:
    enrolled.join()
    enrolled.record(S.PUBLISHED)
    enrolled.passes()
    assert kubeadms(enrolled.machine.snapshot()) == enrolled.fresh
    enrolled.file.write_text(enrolled.file.read_text().replace("by_agent: false", "by_agent: true"))
    for _ in range(12):
        made = enrolled.passes()
        if made.retry_at is None:
            break
    report = enrolled.report()
    assert (report.reached, report.owed, report.by_agent) == (S.PUBLISHED, (), True)
    assert report.memory is Held.BOTH
