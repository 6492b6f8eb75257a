"""Gates of files beside the table: pods that mount kubeadm's files keep them closed, each with what ends that."""

from __future__ import annotations

import pytest

from unit.adopt.test_gates import BP, NOW, RD, SC, TB, US, Step, machine, record, report, seen, waits, with_machine
from vaultpki.adopt import gates
from vaultpki.records.adoption import AdoptionState
from vaultpki.records.adoption_report import Held, KubeconfigReport, MountReport
from vaultpki.rotation import adoption_files
from vaultpki.rotation import adoption_reasons as reasons
from vaultpki.rotation.adoption_evidence import ClusterSeen
from vaultpki.rotation.adoption_states import LAST_STEP, AdoptionStep

_S = AdoptionState
ADMIN = "/etc/kubernetes/admin.conf"
VIP = "the static pod kube-vip"
TRUSTING = (US, TB, (_S.RETRUSTING, _S.SWITCHED))


def with_mounts(path: Step, *found: MountReport) -> ClusterSeen:
    return with_machine(path[0], "cp-1", report=report(path[0], mounts=found))


@pytest.mark.parametrize("path", [*TRUSTING, LAST_STEP, BP])
def test_a_container_with_the_file_of_before_is_waited_for(path: Step) -> None:
    """From the next state on it would be refused for ever: it never sees another file."""
    old = MountReport("exporter (process 7)", "/etc/kubernetes/pki/etcd", fresh=False)
    said = waits(path, with_mounts(path, old))["cp-1"]
    assert said.startswith("exporter (process 7) has /etc/kubernetes/pki/etcd mounted as it was before its last change")
    assert "kubectl delete pod" in said
    fresh = MountReport("exporter (process 9)", "/etc/kubernetes/pki/etcd", fresh=True)
    assert waits(path, with_mounts(path, fresh)) == {}


@pytest.mark.parametrize("path", [SC, RD])
def test_where_nothing_is_taken_from_it_nobody_waits(path: Step) -> None:
    assert waits(path, with_mounts(path, MountReport("a", "/etc/kubernetes/pki", fresh=False))) == {}


@pytest.mark.parametrize("path", TRUSTING)
@pytest.mark.parametrize(("held", "lacks"), [(Held.OLD, "new"), (Held.NEW, "old")])
def test_a_kubeconfig_of_somebodys_own_must_trust_both(path: Step, held: Held, lacks: str) -> None:
    """Nobody else writes it, such as that of konnectivity."""
    own = MountReport("the static pod konnectivity-server", "/etc/kubernetes/konnectivity-server.conf", True, held)
    assert f"konnectivity-server has mounted, lacks the {lacks} CA" in waits(path, with_mounts(path, own))["cp-1"]


@pytest.mark.parametrize("path", [LAST_STEP, RD])
def test_a_mounted_kubeconfig_must_log_in_with_the_new_ca_before_the_old_one_is_refused(path: Step) -> None:
    old = MountReport(VIP, ADMIN, True, Held.BOTH, Held.OLD)
    said = waits(path, with_mounts(path, old))["cp-1"]
    assert said.startswith(f"{ADMIN}, which {VIP} has mounted, logs in with a certificate of the old CA")
    assert "`vaultpki issue admin --dir DIR`" in said
    assert waits(path, with_mounts(path, MountReport(VIP, ADMIN, True, Held.BOTH, Held.NEW))) == {}


def test_and_with_the_old_one_before_the_way_back_ends() -> None:
    new = MountReport(VIP, ADMIN, True, Held.BOTH, Held.NEW)
    assert "logs in with a certificate of the new CA" in waits(BP, with_mounts(BP, new))["cp-1"]


def test_an_abort_is_over_only_when_nobody_has_a_file_of_ours() -> None:
    """What lies aside is removed then, and a container that has it mounted would find nothing."""
    home = AdoptionStep(record(_S.PREPARED), _S.PREPARED, record(_S.PREPARED).since)
    old = MountReport("a (process 1)", "/etc/kubernetes/vaultpki/both", fresh=False)
    one = machine("cp-1", _S.PREPARED, report=report(_S.PREPARED, mounts=(old,)))
    assert "has /etc/kubernetes/vaultpki/both mounted" in reasons.waits_for(home, one).reason


def test_an_agent_that_does_not_look_is_too_old_where_the_api_server_shows_such_a_pod() -> None:
    found = with_machine(_S.PUBLISHED, "cp-1", mounting=(f"kube-system/kube-vip-cp-1 ({ADMIN})",))
    assert "Upgrade the agent" in waits(US, found)["cp-1"]
    # One of 0.2.0 where nobody mounts anything goes on working.
    assert gates.gate(AdoptionStep(record(_S.PUBLISHED), _S.SWITCHED, record(_S.PUBLISHED).since), seen(_S.PUBLISHED))
    assert waits(US, seen(_S.PUBLISHED)) == {}


def test_the_pods_that_the_api_server_shows_are_named_beside_the_process() -> None:
    old = MountReport("exporter (process 7)", "/etc/kubernetes/pki", fresh=False)
    found = with_machine(
        _S.PUBLISHED,
        "cp-1",
        report=report(_S.PUBLISHED, mounts=(old,)),
        mounting=("app/exporter-x1 (/etc/kubernetes)",),
    )
    assert "There these mount such files: app/exporter-x1 (/etc/kubernetes)" in waits(US, found)["cp-1"]


@pytest.mark.parametrize("path", [LAST_STEP, RD])
def test_a_pair_of_the_old_ca_beside_the_table_keeps_retired_closed(path: Step) -> None:
    """Both ways in and out: nobody trusts it there, and after that nobody could sign another one."""
    left = ("/etc/own/x.crt (--tls-cert-file of kube-scheduler.yaml)",)
    said = waits(path, with_machine(path[0], "cp-1", report=report(path[0], pairs=left)))["cp-1"]
    assert said.startswith(f"{left[0]}: a certificate of the old CA that no state replaces. Put one of Vault's there")
    assert waits(SC, with_machine(SC[0], "cp-1", report=report(SC[0], pairs=left))) == {}


@pytest.mark.parametrize(
    ("path", "trust", "leaves", "lacks"),
    [
        *(
            (path, held, Held.OLD, held is not Held.BOTH)
            for path in TRUSTING
            for held in (Held.OLD, Held.BOTH, Held.NEW)
        ),
        (US, Held.UNKNOWN, Held.OLD, False),
        (LAST_STEP, Held.BOTH, Held.OLD, True),
        (LAST_STEP, Held.OLD, Held.NEW, False),
        (LAST_STEP, Held.OLD, Held.UNKNOWN, False),
        (BP, Held.BOTH, Held.NEW, True),
        (BP, Held.BOTH, Held.OLD, False),
    ],
)
def test_kubeconfigs_of_people_are_named_and_their_word_alone_keeps_the_gate(
    path: Step, trust: Held, leaves: Held, lacks: bool
) -> None:
    found = with_machine(
        path[0], "cp-1", report=report(path[0], kubeconfigs=(KubeconfigReport("/root/.kube/config", trust, leaves),))
    )
    said = adoption_files.lacking(AdoptionStep(record(path[0]), path[1], NOW), found.machines)
    assert said == (("cp-1: /root/.kube/config",) if lacks else ())
    assert waits(path, found) == {}
