"""What `vaultpki doctor` finds on a node and before a join, and that it changes nothing and uses nothing up."""

from __future__ import annotations

import json
import os
import shutil
import socket
import sys
from pathlib import Path
from typing import Any

import pytest

from helpers.faults.small_disks import private_disk
from helpers.node import enrolled_nodes
from helpers.node.enrolled_nodes import Enroller
from helpers.node.passes import command_here, passed_well
from helpers.vault.applied_cluster import ALONE, AppliedCluster, NodeFolder, Ran, environment, vaultpki
from helpers.vault.cluster_factory import ClusterFactory
from helpers.vault.servers import Server
from vaultpki.host import processes

# How doctor shows what other commands are told; those are on both servers.
pytestmark = pytest.mark.on_node

Found = dict[str, tuple[str, str]]


@pytest.fixture(scope="module")
def cluster(shared_clusters: ClusterFactory) -> AppliedCluster:
    return shared_clusters.applied(enrolled_nodes.SPEC)


@pytest.fixture(scope="module")
def joined(cluster: AppliedCluster, tmp_path_factory: pytest.TempPathFactory) -> NodeFolder:
    """A node with all its files; a test that changes it works on a copy."""
    folder = tmp_path_factory.mktemp("joined")
    node = NodeFolder("w-2", folder / "node")
    enrolled_nodes.join(
        node, Enroller(cluster, cluster.token()).join_file("w-2", folder / "join.json", pool="autoscaled")
    )
    return node


@pytest.fixture
def node(joined: NodeFolder, tmp_path: Path) -> NodeFolder:
    copied = joined.copied(tmp_path / "node")
    # Its kubeconfigs name the files of the copy.
    passed_well(copied)
    return copied


def doctor(*arguments: str | Path, expect: int) -> Ran:
    """In this process, to which no component of another test is one of its node's."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(processes, "running", dict)
        return command_here("doctor", *arguments, expect=expect)


def examined(*arguments: str | Path, expect: int) -> Found:
    """Verdict and detail by check; of several with one name, the first that failed."""
    return verdicts(doctor(*arguments, "--json", expect=expect))


def verdicts(ran: Ran) -> Found:
    found: Found = {}
    told: dict[str, Any] = json.loads(ran.stdout)
    assert told["ok"] is (ran.returncode == 0)
    for each in told["checks"]:
        if found.get(each["check"], ("ok", ""))[0] != "failed":
            found[each["check"]] = each["verdict"], each["detail"]
    return found


def failed(found: Found) -> dict[str, str]:
    return {check: detail for check, (verdict, detail) in found.items() if verdict == "failed"}


def test_a_machine_that_is_fit_to_join(cluster: AppliedCluster, file: Path, tmp_path: Path) -> None:
    file.chmod(0o644)
    found = failed(examined("-c", tmp_path / "agent.yaml", file, expect=3))
    assert "others may read or write it" in found["join file"]
    file.chmod(0o600)
    node = NodeFolder("w-1", tmp_path / "fresh")
    arguments = ("-c", node.config, file, "--dir", node.pki)
    for _ in range(2):
        ready = examined(*arguments, expect=0)
    assert ready["join file"][1].startswith("good until 20") and ready["cluster"] == ("ok", "")
    assert not node.folder.exists()
    # The file is as good as before.
    enrolled_nodes.join(node, file)
    assert examined(*arguments, expect=0)["join file"] == ("ok", "this node has used it already")
    # On another machine it is not.
    other = NodeFolder("w-1", tmp_path / "node")
    found = failed(examined("-c", other.config, file, "--dir", other.pki, expect=3))
    assert found.keys() == {"join file"} and "somebody may have intercepted it" in found["join file"]


def test_a_node_that_is_well(node: NodeFolder, cluster: AppliedCluster) -> None:
    before, since = node.snapshot(memory=False), cluster.server.audit_position()
    found = verdicts(vaultpki("doctor", "-c", node.config, "--json", behind=ALONE))
    assert found["login"] == ("ok", "") and found["files"] == ("ok", "") and found["cluster"] == ("ok", "")
    # That a folder takes new files is tried, which changes its own time.
    after = node.snapshot(memory=False)
    assert {name: (about[0], *about[2:]) for name, about in after.items()} == {
        name: (about[0], *about[2:]) for name, about in before.items()
    }
    assert not [path for _, path in cluster.server.requests(since) if "sign" in path]


def test_addresses_one_by_one(node: NodeFolder, cluster: AppliedCluster) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        away = f"https://127.0.0.1:{taken.getsockname()[1]}"
        node.configure(cluster.server.address, f"{away}', '{cluster.server.address}")
        found = examined("-c", node.config, expect=3)
    assert failed(found).keys() == {f"Vault at {away}"}
    assert found["login"] == ("ok", "")


def test_a_ca_that_did_not_sign_vaults_certificate(node: NodeFolder) -> None:
    (node.state / "vault-ca.pem").write_bytes((node.pki / "kubernetes-ca-chain.crt").read_bytes())
    found = examined("-c", node.config, expect=3)
    (problem,) = failed(found).values()
    assert "did not sign it" in problem
    assert found["cluster"][0] == found["login"][0] == "unchecked"


def test_another_root(node: NodeFolder) -> None:
    (pin,) = [line.split()[1] for line in node.config.read_text().splitlines() if line.startswith("root_sha256:")]
    node.configure(pin, "a" * 64)
    found = failed(examined("-c", node.config, expect=3))
    assert "not the pinned" in found["cluster"] and f"directory {node.pki}" in found


def test_a_credential_that_vault_does_not_take(node: NodeFolder) -> None:
    (node.state / "secret-id").write_text("11111111-2222-3333-4444-555555555555")
    found = failed(examined("-c", node.config, expect=3))
    assert found.keys() == {"login"} and "join with a new join file" in found["login"]
    (node.state / "secret-id").unlink()
    assert failed(examined("-c", node.config, expect=3)).keys() == {"state folder", "login"}


def test_foreign_and_missing_files_and_hooks_that_cannot_run(node: NodeFolder) -> None:
    (node.pki / "kubelet.crt").unlink()
    (node.pki / "kubelet.crt").write_text("somebody else's")
    (node.pki / "kubelet-client.key").unlink()
    node.config.write_text(
        node.config.read_text()
        + "hooks:\n  kubelet: [[/no/such/program, secret-word]]\n  etcd-ca: [{static_pod: nothing-here}]\n"
    )
    ran = doctor("-c", node.config, expect=3)
    told = [line.removeprefix("FAILED       files: ") for line in ran.stdout.splitlines() if "FAILED" in line]
    assert "kubelet-client.key: missing" in told and any("kubelet.crt" in line for line in told), ran
    assert "FAILED       hook of kubelet: /no/such/program is not a program that can be run" in ran.stdout, ran
    assert "FAILED       hook of etcd-ca: /etc/kubernetes/manifests/nothing-here.yaml is missing" in ran.stdout, ran
    assert "secret-word" not in ran.stdout + ran.stderr


def beside(folder: Path, component: str, flags: str) -> tuple[str, ...]:
    """What to put before a command so that this component runs beside it, where no other test sees it."""
    program = folder / component
    program.symlink_to("/bin/bash")
    script = folder / f"beside-{component}"
    # What it waits by is ended first: a shell that is killed would leave its `sleep` behind, with our output open.
    start = f'{program} -c "sleep 60; true" {flags} &'
    script.write_text(f'#!/bin/bash\n{start}\nsleep 0.2\n"$@"\ncode=$?\npkill -P $!\nwait\nexit $code\n')
    script.chmod(0o755)
    return ("unshare", "--net", str(script))


def test_flags_of_a_component_that_runs_here(node: NodeFolder, tmp_path: Path) -> None:
    """In a network namespace of its own, so that no other test sees this etcd."""
    flags = f"--trusted-ca-file={node.pki}/etcd-ca-chain.crt --client-cert-auth --peer-client-cert-auth"
    ran = vaultpki("doctor", "-c", node.config, behind=beside(tmp_path, "etcd", flags), expect=3)
    found = [line for line in ran.stdout.splitlines() if "flags of etcd" in line]
    assert any("lets in the clients of every CA of the cluster" in line for line in found), ran
    assert "flags of etcd" not in doctor("-c", node.config, expect=0).stdout


def test_the_file_of_authorizers_is_read(node: NodeFolder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """kube-apiserver takes it in place of the mode."""
    file = tmp_path / "authorizers.yaml"
    running = {"kube-apiserver": (f"--authorization-config={file}",)}
    monkeypatch.setattr(processes, "running", lambda: running)

    def examine() -> str:
        return command_here("doctor", "-c", node.config, expect=3).stdout

    assert f"{file} of --authorization-config cannot be read here" in examine()
    file.write_text("authorizers: [{type: RBAC, name: rbac}]\n")
    assert "the file of --authorization-config has the types RBAC, so certificates give other rights" in examine()
    file.write_text("authorizers: [{type: Node, name: node}, {type: RBAC, name: rbac}]\n")
    told = examine()
    assert "FAILED       flags of kube-apiserver" in told, "its other flags are missing"
    assert "--authorization" not in told


def test_what_is_wrong_with_the_command_itself(tmp_path: Path) -> None:
    assert failed(examined("-c", tmp_path / "agent.yaml", expect=3)).keys() == {"agent.yaml"}
    assert "--dir goes with a join FILE" in doctor("--dir", tmp_path, expect=2).stderr


# On disks, in hooks, of what is lost


def test_a_directory_that_is_full_or_read_only(node: NodeFolder, tmp_path: Path) -> None:
    kept = node.pki.rename(tmp_path / "kept")
    node.pki.mkdir()
    with private_disk(node.pki, "size=4m,nr_inodes=400,mode=0755") as disk:
        shutil.copytree(kept, disk.seen(node.pki), symlinks=True, dirs_exist_ok=True)

        def found() -> dict[str, str]:
            command = [*ALONE, sys.executable, "-m", "vaultpki", "doctor", "--json", "-c", str(node.config)]
            return failed(verdicts(disk.run(command, environment())))

        assert found() == {}
        disk.fill(leaving=8)
        assert found() == {f"{node.pki} can be written": f"{node.pki}: the disk is full; free some space and run again"}
        disk.empty()
        for number in range(400):
            try:
                disk.seen(node.pki / f"file-{number}").touch()
            except OSError:
                break
        (said,) = found().values()
        assert "has no free inodes (0 left)" in said, said
        disk.remount("ro")
        (said,) = found().values()
        assert "the file system is mounted read-only" in said, said


def test_a_directory_that_takes_no_file(node: NodeFolder) -> None:
    node.pki.chmod(0o555)
    bounded = ("setpriv", "--bounding-set", "-dac_override,-dac_read_search") if os.geteuid() == 0 else ()
    ran = vaultpki("doctor", "-c", node.config, "--json", behind=bounded, expect={0, 3})
    said = failed(verdicts(ran)).values()
    assert f"{node.pki}: permission denied; run as its owner or as root" in said, said


def test_a_hook_of_a_unit_that_does_not_exist(node: NodeFolder, tmp_path: Path) -> None:
    """By a systemctl of the test's own, in the first folder of the agent's PATH, which only this process sees."""
    systemctl = tmp_path / "systemctl"
    systemctl.write_text(
        "#!/bin/sh\nfor unit; do :; done\n"
        'case "$unit" in kubelet*) echo loaded;; off*) echo masked;; *) echo not-found;; esac\n'
    )
    systemctl.chmod(0o755)
    node.config.write_text(
        f"{node.config.read_text()}hooks:\n  kubelet: [{{systemd: kubelet.service}}, {{systemd: kubelte}}]\n"
        "  kubelet-client: [[systemctl, try-restart, kubelet, no-such.service], [systemctl, daemon-reload]]\n"
        "  kube-proxy: [{systemd: off.service}]\n"
    )
    mounted = f'mount -t tmpfs tmpfs /usr/local/sbin && cp {systemctl} /usr/local/sbin && exec "$@"'
    behind = ("unshare", "--mount", "--propagation=private", "sh", "-c", mounted, "sh")
    ran = vaultpki("doctor", "-c", node.config, "--json", behind=behind, expect=3)
    checks = [each for each in json.loads(ran.stdout)["checks"] if each["check"].startswith("hook of ")]
    assert [(each["check"].split()[-1], each["verdict"], each["detail"].partition(";")[0]) for each in checks] == [
        ("kubelet", "ok", ""),
        ("kubelet", "failed", "there is no systemd unit kubelte"),
        ("kubelet-client", "failed", "there is no systemd unit no-such.service"),
        ("kubelet-client", "ok", ""),
        ("kube-proxy", "failed", "the systemd unit off.service is masked, so nothing restarts it"),
    ]


def test_a_lost_state_folder(cluster: AppliedCluster, tmp_path: Path) -> None:
    node = cluster.equip("worker-1", folder=tmp_path / "worker-1")
    passed_well(node)
    shutil.rmtree(node.state)
    enroll = "`vaultpki enroll worker-1 --replace`"
    lost = f"{node.state} is missing, and with it this node's credential"
    for ran in (node.run(expect=1), vaultpki("renew", "--all", "-c", node.config, expect=1)):
        assert lost in ran.stderr and enroll in ran.stderr, ran
    for command in ("status", "doctor"):
        ran = vaultpki(command, "-c", node.config, expect=3)
        assert lost in ran.stdout and enroll in ran.stdout and "nothing was ever issued here; run" not in ran.stdout
    # The cure works.
    file = node.folder / "join.json"
    vaultpki(*("enroll", "-f", cluster.file, "worker-1", "--replace", "-o", file), env=cluster.environment())
    vaultpki("join", "-c", node.config, file)
    assert failed(examined("-c", node.config, expect=0)) == {}


def test_a_machine_that_has_not_joined(tmp_path: Path) -> None:
    config = tmp_path / "agent.yaml"
    for command in (("agent", "--once"), ("status",), ("renew", "--all"), ("pull",), ("doctor",)):
        ran = vaultpki(*command, "-c", config, expect={1, 3})
        said = ran.stdout + ran.stderr
        assert "this machine has not joined a cluster" in said and "check the path" not in said, ran
        assert "`vaultpki enroll NODE -o join.json`" in said
        assert f"`vaultpki join -c {config} join.json`" in said


def test_a_sealed_vault(own_server: Server, tmp_path: Path) -> None:
    cluster = ClusterFactory(own_server, tmp_path).applied()
    node = cluster.equip("worker-1")
    passed_well(node)
    assert own_server.api("PUT", "sys/seal").status == 204
    found = examined("-c", node.config, expect=3)
    for check in (f"Vault at {own_server.address}", "cluster", "login"):
        assert "is sealed; unseal it and try again" in found[check][1], found[check]
    assert not [detail for _, detail in found.values() if "no address of Vault answers" in detail]
