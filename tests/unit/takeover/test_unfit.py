"""A machine that cannot be taken over as it is, is refused by the name of the file before anything is changed."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from subprocess import run

import pytest

from helpers.kube.taken_over_machine import TakenOverMachine
from vaultpki.errors import StateConflict, VaultpkiError
from vaultpki.records.adoption import AdoptionState as S
from vaultpki.takeover import carry_out, unfit


@pytest.fixture
def machine(tmp_path: Path) -> TakenOverMachine:
    made = TakenOverMachine(tmp_path)
    made.agent_pass(S.PREPARED)
    return made


def refused(machine: TakenOverMachine, words: str, state: S | None = S.PREPARED) -> None:
    before = machine.snapshot()
    for attempt in (carry_out.carry_out, lambda run: list(carry_out.lines(run))):
        with pytest.raises(StateConflict, match=words):
            attempt(machine.run(state))
    assert machine.snapshot() == before


def manifest(machine: TakenOverMachine, component: str) -> Path:
    return Path(machine.where.kubeconfigs) / f"manifests/{component}.yaml"


def test_a_manifest_that_cannot_be_read_is_not_left_out(machine: TakenOverMachine) -> None:
    path = manifest(machine, "kube-scheduler")
    text = path.read_text()
    path.write_text(f"{text}---\n{text}")
    refused(machine, rf"no step of the adoption is taken: {path}: ")
    # Under another name too.
    other = path.with_name("my-scheduler.yaml")
    path.rename(other)
    refused(machine, rf"no step of the adoption is taken: {other}: ")
    other.write_text(text)
    path.write_text(text)
    refused(machine, rf"{other}: kube-scheduler has another manifest, {path}")
    other.unlink()
    # The kubelet runs a copy that somebody has left there as well.
    copy = path.with_name("kube-scheduler.yaml.bak")
    copy.write_text(text)
    refused(machine, rf"{copy}: kube-scheduler has another manifest, {path}")
    copy.unlink()
    path.with_name("backup").mkdir()
    assert carry_out.left(machine.run(S.PREPARED))


def test_manifests_of_others_may_have_any_form(machine: TakenOverMachine) -> None:
    two = "- {name: a, image: a, command: [/usr/bin/a, --server, kube-apiserver]}\n  - {name: b, image: b}\n"
    pod = f"apiVersion: v1\nkind: Pod\nmetadata: {{name: x}}\nspec:\n  containers:\n  {two}"
    manifest(machine, "kube-vip").write_text(pod)
    manifest(machine, "broken").write_text("kind: [\n")
    assert carry_out.left(machine.run(S.PREPARED))


def test_a_manifest_that_a_later_state_could_not_edit_is_refused_at_once(machine: TakenOverMachine) -> None:
    path = manifest(machine, "kube-controller-manager")
    text = path.read_text()
    root = f"    - --root-ca-file={machine.where.directory}/ca.crt\n"
    assert root in text
    path.write_text(text.replace(root, root * 2))
    refused(machine, rf"{path}: the flag --root-ca-file is there twice")
    path.write_text(text)
    carry_out.carry_out(machine.run(S.PREPARED))


def test_a_file_with_cas_elsewhere_is_refused(machine: TakenOverMachine) -> None:
    path, pki = manifest(machine, "kube-apiserver"), machine.where.directory
    text = path.read_text()
    for value in ("/etc/ssl/clients.crt", f"{pki}/clients.crt"):
        path.write_text(text.replace(f"--client-ca-file={pki}/ca.crt", f"--client-ca-file={value}"))
        refused(machine, rf"{path}: --client-ca-file names {value}, and a take-over .*\. Let it name {pki}/ca\.crt")
    path.write_text(text)
    settings = Path(machine.where.kubelet).parent / "config.yaml"
    held = settings.read_text()
    settings.write_text(held.replace(f"clientCAFile: {pki}/ca.crt", "clientCAFile: /etc/ssl/ca.crt"))
    refused(machine, rf"{settings}: clientCAFile names /etc/ssl/ca\.crt")
    settings.write_text(held)
    carry_out.carry_out(machine.run(S.PREPARED))


def test_a_pair_or_a_kubeconfig_elsewhere_is_refused(
    machine: TakenOverMachine, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """The component would go on with a certificate of the old CA, and no report would say so."""
    path, pki = manifest(machine, "kube-apiserver"), Path(machine.where.directory)
    text = path.read_text()
    for folder in (pki, tmp_path_factory.mktemp("ssl")):
        own = folder / "kubelet-client-of-ours.crt"
        own.write_bytes((pki / "apiserver-kubelet-client.crt").read_bytes())
        path.write_text(text.replace(f"{pki}/apiserver-kubelet-client.crt", str(own)))
        refused(machine, rf"{path}: --kubelet-client-certificate names {own}, which no state changes")
        # One that the old CA has not signed is nobody's affair here.
        own.write_text(machine.objects.leaves["cp-1", "kubelet"].pem)
        assert carry_out.left(machine.run(S.PREPARED))
        own.unlink()
    path.write_text(text)
    path, config = manifest(machine, "kube-scheduler"), f"{machine.where.kubeconfigs}/scheduler.conf"
    text = path.read_text()
    path.write_text(text.replace(f"--authorization-kubeconfig={config}", "--authorization-kubeconfig=/etc/other.conf"))
    assert path.read_text() != text
    refused(machine, rf"--authorization-kubeconfig names /etc/other\.conf, .*\. Let it name {config}")
    path.write_text(text)
    carry_out.carry_out(machine.run(S.PREPARED))


def test_two_items_and_a_second_container_are_taken_over_and_led_back_to_the_byte(machine: TakenOverMachine) -> None:
    path, pki = manifest(machine, "kube-controller-manager"), machine.where.directory
    text = path.read_text()
    root = f"    - --root-ca-file={pki}/ca.crt\n"
    assert root in text
    text = text.replace(root, f"    - --root-ca-file\n    - {pki}/ca.crt  # as we write it\n")
    text = text.replace(
        "  hostNetwork: true\n", "  - {name: logs, image: logs, args: [--root-ca-file, /a]}\n  hostNetwork: true\n"
    )
    path.write_text(text)
    machine.processes.boot()
    machine.go(S.PUBLISHED)
    after = path.read_text()
    assert f"    - {pki}/ca-chain.crt  # as we write it\n" in after and "args: [--root-ca-file, /a]" in after
    machine.go(S.PREPARED)
    machine.go(None)
    assert path.read_text() == text


def joining(machine: TakenOverMachine) -> tuple[str, ...]:
    return unfit.on_disk(machine.where, machine.config.also_trust, str)


def test_before_it_joins_all_that_is_in_the_way_is_said_at_once(tmp_path: Path) -> None:
    machine = TakenOverMachine(tmp_path)
    assert joining(machine) == () and not unfit.has_links(machine.where, machine.config.also_trust)
    scheduler, pki = manifest(machine, "kube-scheduler"), Path(machine.where.directory)
    spare = scheduler.with_name("kube-scheduler.yaml.old")
    spare.write_text(scheduler.read_text())
    server = manifest(machine, "kube-apiserver")
    server.write_text(server.read_text().replace(f"--client-ca-file={pki}/ca.crt", "--client-ca-file=/etc/a.crt"))
    server.chmod(0o666)
    real = pki.rename(pki.with_name("real"))
    pki.symlink_to(real)
    said = joining(machine)
    assert len(said) == 4
    assert f"mv {real} {pki} && ln -s {pki} {real}" in said[0] and said[0].startswith(f"{pki} is a symbolic link to")
    assert f"{server}: others may write to the file (mode 0666)" in said[1]
    assert said[2].endswith(f"such as by `mv {spare} {machine.where.kubeconfigs}/`")
    assert "--client-ca-file names /etc/a.crt" in said[3]
    assert unfit.has_links(machine.where, machine.config.also_trust)
    with pytest.raises(StateConflict, match=r"the join file is still good: \(1\) .*\. \(4\) "):
        unfit.refuse_joining(machine.where, machine.config.also_trust)


def test_links_are_cured_by_the_commands_that_are_said(tmp_path: Path) -> None:
    machine = TakenOverMachine(tmp_path)
    kubernetes, scheduler = Path(machine.where.kubeconfigs), manifest(machine, "kube-scheduler")
    scheduler.rename(kubernetes / "own.yaml")
    scheduler.symlink_to(kubernetes / "own.yaml")
    (said,) = joining(machine)
    run(["sh", "-c", said.split("`")[1]], check=True)
    real = kubernetes.rename(tmp_path / "elsewhere")
    kubernetes.symlink_to(real)
    (said,) = joining(machine)
    commands = said.split("`")[1].replace("systemctl stop kubelet", "true").replace("systemctl start kubelet", "true")
    run(["sh", "-c", commands], check=True)
    assert joining(machine) == () and not kubernetes.is_symlink() and real.is_symlink()
    # Of a folder above all of kubeadm's no command is said that moves what is others'.
    top = kubernetes.parent.rename(tmp_path / "top")
    kubernetes.parent.symlink_to(top)
    (said,) = joining(machine)
    assert said.endswith(f"no link is followed there. Mount {top} at {kubernetes.parent} instead")


def test_the_way_home_leaves_no_manifest_out(machine: TakenOverMachine) -> None:
    machine.go(S.PUBLISHED)
    path = manifest(machine, "etcd")
    path.write_text("kind: Pod\n")
    refused(machine, rf"no step of the adoption is taken: {path}: ", None)


def test_an_etcd_that_keeps_its_own_ca_must_not_lie_where_the_agent_writes(machine: TakenOverMachine) -> None:
    del machine.old["etcd"]
    machine.config = replace(
        machine.config, also_trust={ca: found for ca, found in machine.config.also_trust.items() if ca != "etcd"}
    )
    path = manifest(machine, "kube-apiserver")
    refused(machine, "--etcd-cafile names .*/pki/etcd/ca.crt, where the agent has a file of its own")
    text = path.read_text()
    pki = machine.where.directory
    for name in ("etcd/ca.crt", "apiserver-etcd-client.crt", "apiserver-etcd-client.key"):
        kept = f"{pki}/external-etcd/{name.rpartition('/')[2]}"
        Path(kept).parent.mkdir(exist_ok=True)
        Path(kept).write_bytes(Path(f"{pki}/{name}").read_bytes())
        text = text.replace(f"{pki}/{name}", kept)
    path.write_text(text)
    assert carry_out.left(machine.run(S.PREPARED))


@pytest.mark.parametrize("name", ["manifests/kube-apiserver.yaml", "kubelet.conf", "config.yaml", "kubeadm-flags.env"])
def test_what_others_may_write_is_refused_as_such_an_agent_yaml_is(machine: TakenOverMachine, name: str) -> None:
    """It says what root starts on this machine."""
    kubelet = Path(machine.where.kubelet).parent
    path = (kubelet if name in ("config.yaml", "kubeadm-flags.env") else Path(machine.where.kubeconfigs)) / name
    path.chmod(0o666)
    refused(machine, rf"nothing was changed: {path}: others may write to the file \(mode 0666\); run `chmod go-w")
    path.chmod(0o600)
    path.parent.chmod(0o777)
    with pytest.raises(VaultpkiError, match=rf"{path.parent}: others may write to the folder \(mode 0777\)"):
        list(carry_out.lines(machine.run(S.PREPARED)))
    # A link in a path is followed by no command, and the message has what it leads to.
    real = path.parent.rename(path.parent.with_name("real"))
    path.parent.symlink_to(real)
    with pytest.raises(VaultpkiError, match=rf"a symbolic link; name the real folder, {real}$"):
        list(carry_out.lines(machine.run(S.PREPARED)))
