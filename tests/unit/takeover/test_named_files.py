"""Pairs of the old CAs beside the table are found by the flags that name them, until another one lies there."""

from __future__ import annotations

from pathlib import Path

import pytest

from helpers.kube.kubeadm_objects import encoded, leaf
from helpers.kube.taken_over_machine import TakenOverMachine, conf
from vaultpki.errors import StateConflict
from vaultpki.records.adoption import AdoptionState as S
from vaultpki.takeover import carry_out, exchanging


@pytest.fixture
def machine(tmp_path: Path) -> TakenOverMachine:
    return TakenOverMachine(tmp_path)


def pair(machine: TakenOverMachine, path: Path, ca: str = "kubernetes") -> Path:
    """A pair that somebody has had the old CA of a domain sign."""
    made = leaf("own.example.com", machine.old[ca], names=["own.example.com"], kind="ECDSA-P256")
    path.parent.mkdir(exist_ok=True, parents=True)
    path.write_text(made.pem)
    path.with_suffix(".key").write_text(made.key_pem)
    return path


def flag(machine: TakenOverMachine, component: str, words: str) -> None:
    path = Path(machine.where.kubeconfigs, f"manifests/{component}.yaml")
    path.write_text(path.read_text().replace(f"    - {component}\n", f"    - {component}\n    - {words}\n"))


def named(machine: TakenOverMachine, state: S = S.PREPARED) -> tuple[str, ...]:
    machine.agent_pass(state)
    return machine.report(state).pairs


def test_kubeadms_own_pairs_are_none(machine: TakenOverMachine) -> None:
    assert named(machine) == ()
    for state in (S.PREPARED, S.PUBLISHED, S.SWITCHED):
        machine.go(state)
        assert machine.report(state).pairs == ()


@pytest.mark.parametrize("component", ["kube-controller-manager", "kube-apiserver"])
@pytest.mark.parametrize("words", ["--tls-cert-file={crt}", "--tls-sni-cert-key={crt},{key}:own.example.com"])
def test_a_pair_of_the_old_ca_is_named_until_it_is_replaced(
    machine: TakenOverMachine, component: str, words: str
) -> None:
    own = pair(machine, Path(machine.where.directory, "own/serving.crt"))
    flag(machine, component, words.format(crt=own, key=own.with_suffix(".key")))
    name = words.partition("=")[0]
    assert named(machine) == (f"{own} ({name} of {component}.yaml)",)
    # In every state: the folder of the agent has a copy.
    for state in (S.PREPARED, S.PUBLISHED, S.SWITCHED, S.CLOSED):
        machine.go(state)
        assert machine.report(state).pairs == (f"{own} ({name} of {component}.yaml)",), state
    own.write_text(leaf("own.example.com", machine.new["kubernetes"], kind="ECDSA-P256").pem)
    assert machine.report(S.CLOSED).pairs == ()


def test_a_flag_of_another_static_pod_is_read_where_its_volume_lies(machine: TakenOverMachine, tmp_path: Path) -> None:
    own = pair(machine, tmp_path / "etc/konnectivity/agent.crt", "front-proxy")
    Path(machine.where.kubeconfigs, "manifests/konnectivity.yaml").write_text(
        "apiVersion: v1\nkind: Pod\nmetadata: {name: konnectivity}\nspec:\n  containers:\n"
        "  - {name: a, command: [/proxy-server], args: [--cluster-cert, /in/agent.crt, --other=/in/none.crt],\n"
        "     volumeMounts: [{name: v, mountPath: /in}]}\n"
        f"  volumes: [{{name: v, hostPath: {{path: {own.parent}}}}}]\n"
    )
    assert named(machine) == (f"{own} (--cluster-cert of konnectivity.yaml)",)


def test_the_kubelets_own_flags_count(machine: TakenOverMachine, tmp_path: Path) -> None:
    own = pair(machine, tmp_path / "etc/ssl/kubelet.crt")
    extra = tmp_path / "etc/default/kubelet"
    extra.parent.mkdir()
    extra.write_text(f'KUBELET_EXTRA_ARGS="--v=2 --tls-cert-file={own}"\n')
    assert named(machine) == (f"{own} (--tls-cert-file of {extra})",)
    # In the kubelet's folder it would not be there any more, and the kubelet would not start.
    lost = f"{machine.where.kubelet}/kubelet.crt"
    extra.write_text(f"KUBELET_EXTRA_ARGS=--tls-cert-file={lost}\n")
    with pytest.raises(StateConflict, match=f"{extra}: --tls-cert-file names {lost}, which is put aside"):
        carry_out.carry_out(machine.run(S.PREPARED))


def test_a_flag_that_beats_what_a_state_writes_is_refused_with_its_file(
    machine: TakenOverMachine, tmp_path: Path
) -> None:
    """KUBELET_EXTRA_ARGS come last on the kubelet's command line."""
    machine.agent_pass(S.PREPARED)
    extra = tmp_path / "etc/default/kubelet"
    extra.parent.mkdir()
    extra.write_text("KUBELET_EXTRA_ARGS=--rotate-certificates=true\n")
    with pytest.raises(StateConflict, match=f"{extra}: --rotate-certificates has it ask for client certificates"):
        carry_out.carry_out(machine.run(S.PREPARED))
    extra.write_text(f"KUBELET_EXTRA_ARGS=--kubeconfig={machine.where.kubeconfigs}/kubelet.conf\n")
    carry_out.carry_out(machine.run(S.PREPARED))


def test_a_kubeconfig_with_an_old_pair_counts_and_a_stranger_and_a_ca_do_not(
    machine: TakenOverMachine, tmp_path: Path
) -> None:
    folder = tmp_path / "etc/own"
    folder.mkdir()
    config = folder / "scheduler-2.conf"
    config.write_bytes(Path(machine.where.kubeconfigs, "scheduler.conf").read_bytes())
    stranger = folder / "stranger.crt"
    stranger.write_text(machine.objects.leaves["cp-1", "kubelet"].pem)
    (folder / "ca.crt").write_text(machine.old["kubernetes"].pem)
    path = Path(machine.where.kubeconfigs, "manifests/other.yaml")
    path.write_text(
        "apiVersion: v1\nkind: Pod\nmetadata: {name: other}\nspec:\n  containers:\n"
        f"  - {{name: a, command: [x, --kubeconfig={config}, --cert={stranger}, --ca={folder}/ca.crt],\n"
        f"     volumeMounts: [{{name: v, mountPath: {folder}}}]}}\n"
        f"  volumes: [{{name: v, hostPath: {{path: {folder}}}}}]\n"
    )
    assert named(machine) == (f"{config} (--kubeconfig of other.yaml)",)


def test_at_the_end_an_admin_conf_that_trusts_the_old_ca_is_named(machine: TakenOverMachine) -> None:
    """`vaultpki issue` wrote it while cluster.yaml named the old CA; kubeadm's own is gone then."""
    for state in (S.PREPARED, S.PUBLISHED, S.SWITCHED, S.CLOSED, S.RETIRED):
        machine.go(state)
    admin = Path(machine.where.kubeconfigs, "admin.conf")
    made = leaf("admin", machine.new["kubernetes"], kind="ECDSA-P256")
    user = {"client-certificate-data": encoded(made.pem), "client-key-data": encoded(made.key_pem)}
    new, old = machine.new["kubernetes"].pem, machine.old["kubernetes"].pem
    admin.write_text(conf("https://api.example.com:6443", old + new, user))
    assert machine.report(S.RETIRED).pairs == ()
    machine.go(S.DONE)
    assert machine.report(S.DONE).pairs == (f"{admin} (trusts the old CA)",)
    admin.write_text(conf("https://api.example.com:6443", new, user))
    assert machine.report(S.DONE).pairs == ()


def test_a_row_of_the_users_own_at_the_same_place_takes_over(machine: TakenOverMachine) -> None:
    """The agent's folder has a link of that name, and what was there before does not go over it."""
    own = pair(machine, Path(machine.where.directory, "serving.crt"))
    flag(machine, "kube-controller-manager", f"--tls-cert-file={own}")
    machine.agent_pass(S.PREPARED)
    assert machine.report(S.PREPARED).pairs
    aside = Path(machine.where.aside, "agent")
    target = (aside / "apiserver.crt").readlink()
    (aside / "serving.crt").symlink_to(str(target).replace("apiserver.crt", "serving.crt"))
    assert machine.report(S.PREPARED).pairs == ()
    for state in (S.PREPARED, S.PUBLISHED):
        machine.go(state)
    exchanging.exchange_folders(machine.run(S.SWITCHED))
    assert own.is_symlink() and machine.report(S.PUBLISHED).pairs == ()
