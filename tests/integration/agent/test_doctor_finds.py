"""What `vaultpki doctor` finds on disks, in hooks and of a sealed server; and the cure of what is lost."""

from __future__ import annotations

import json
import os
import shutil
import sys
from pathlib import Path

import pytest

from helpers.faults.small_disks import private_disk
from helpers.node import enrolled_nodes
from helpers.vault.applied_cluster import ALONE, AppliedCluster, NodeFolder, environment, vaultpki
from helpers.vault.cluster_factory import ClusterFactory
from helpers.vault.servers import Server

pytestmark = pytest.mark.on_node

DOCTOR = [*ALONE, sys.executable, "-m", "vaultpki", "doctor", "--json", "-c"]


@pytest.fixture(scope="module")
def cluster(shared_clusters: ClusterFactory) -> AppliedCluster:
    return shared_clusters.applied(enrolled_nodes.SPEC)


@pytest.fixture(scope="module")
def joined(cluster: AppliedCluster, tmp_path_factory: pytest.TempPathFactory) -> NodeFolder:
    node = cluster.equip("worker-1", folder=tmp_path_factory.mktemp("node") / "worker-1")
    node.run()
    return node


@pytest.fixture
def node(joined: NodeFolder, tmp_path: Path) -> NodeFolder:
    return joined.copied(tmp_path / "node")


def failed(text: str) -> dict[str, str]:
    return {each["check"]: each["detail"] for each in json.loads(text)["checks"] if each["verdict"] == "failed"}


def examined(node: NodeFolder) -> dict[str, str]:
    return failed(vaultpki("doctor", "-c", node.config, "--json", behind=ALONE, expect={0, 3}).stdout)


def test_a_directory_that_is_full_or_read_only(node: NodeFolder, tmp_path: Path) -> None:
    kept = tmp_path / "kept"
    node.pki.rename(kept)
    node.pki.mkdir()
    with private_disk(node.pki, "size=4m,nr_inodes=400,mode=0755") as disk:
        shutil.copytree(kept, disk.seen(node.pki), symlinks=True, dirs_exist_ok=True)

        def found() -> dict[str, str]:
            return failed(disk.run([*DOCTOR, str(node.config)], environment()).stdout)

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


def test_a_directory_that_takes_no_file(node: NodeFolder, tmp_path: Path) -> None:
    node.pki.chmod(0o555)
    bounded = ("setpriv", "--bounding-set", "-dac_override,-dac_read_search") if os.geteuid() == 0 else ()
    ran = vaultpki("doctor", "-c", node.config, "--json", behind=bounded, expect={0, 3})
    said = failed(ran.stdout)
    if os.stat(node.pki).st_uid == os.geteuid():
        assert f"{node.pki}: permission denied; run as its owner or as root" in said.values(), said


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


def test_a_lost_state_folder(cluster: AppliedCluster, node: NodeFolder) -> None:
    shutil.rmtree(node.state)
    enroll = "`vaultpki enroll -f cluster.yaml worker-1 --replace`"
    lost = f"{node.state} is missing, and with it this node's credential"
    for ran in (
        node.run(expect=1),
        vaultpki("renew", "--force", "-c", node.config, expect=1),
    ):
        assert lost in ran.stderr and enroll in ran.stderr, ran
    for command in ("status", "doctor"):
        ran = vaultpki(command, "-c", node.config, expect=3)
        assert lost in ran.stdout and enroll in ran.stdout and "nothing was ever issued here; run" not in ran.stdout
    # The cure works.
    file = node.folder / "join.json"
    vaultpki(*("enroll", "-f", cluster.file, "worker-1", "--replace", "-o", file), env=cluster.environment())
    vaultpki("agent", "-c", node.config, "--join", file, "--once")
    assert examined(node) == {}


def test_a_machine_that_has_not_joined(tmp_path: Path) -> None:
    config = tmp_path / "agent.yaml"
    for command in (("agent", "--once"), ("status",), ("renew", "--force"), ("pull",), ("doctor",)):
        ran = vaultpki(*command, "-c", config, expect={1, 3})
        said = ran.stdout + ran.stderr
        assert "this machine has not joined a cluster" in said and "check the path" not in said, ran
        assert "`vaultpki enroll -f cluster.yaml NODE -o join.json`" in said
        assert f"`vaultpki agent -c {config} --join join.json`" in said


def test_a_sealed_vault(own_server: Server, tmp_path: Path) -> None:
    cluster = ClusterFactory(own_server, tmp_path).applied()
    node = cluster.equip("worker-1")
    node.run()
    assert own_server.api("PUT", "sys/seal").status == 204
    ran = vaultpki("doctor", "-c", node.config, "--json", expect=3)
    checks = {each["check"]: each for each in json.loads(ran.stdout)["checks"]}
    for check in (f"Vault at {own_server.address}", "cluster", "login"):
        assert "is sealed; unseal it and try again" in checks[check]["detail"], checks[check]
    assert "no address of Vault answers" not in ran.stdout
