"""Which processes of a made-up /proc run a component of this node, and when they were started."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from vaultpki.host import boot_time, processes
from vaultpki.host.boot_time import Moment

BOOT = "6f1f6c1a-0000-4000-8000-000000000000"
CA = "--trusted-ca-file"


class Proc:
    """A /proc folder: this process's own network is `here`; others are asked for by name."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        (folder / "sys/kernel/random").mkdir(parents=True)
        (folder / "sys/kernel/random/boot_id").write_text(f"{BOOT}\n")
        self._net("self", "here")

    def add(
        self, pid: int, *words: str, started: int = 100, parent: int = 1, root: Path | None = None, network: str = ""
    ) -> None:
        one = self.folder / str(pid)
        one.mkdir()
        (one / "cmdline").write_bytes(b"".join(os.fsencode(word) + b"\0" for word in words))
        # A command may call itself what it likes.
        fields = ["S", str(parent), *["0"] * 17, str(started), *["0"] * 30]
        (one / "stat").write_text(f"{pid} (a) b) {' '.join(fields)}\n")
        if root is not None:
            (one / "root").symlink_to(root)
        if network:
            self._net(str(pid), network)

    def find(self, component: str, *files: Path | str) -> list[int]:
        return [each.pid for each in processes.find(component, [str(file) for file in files], str(self.folder))]

    def _net(self, name: str, network: str) -> None:
        there = self.folder / "networks" / network
        there.mkdir(parents=True, exist_ok=True)
        (there / "dev").touch()
        (self.folder / name).mkdir(exist_ok=True)
        (self.folder / name / "net").symlink_to(there)


@pytest.fixture
def proc(tmp_path: Path) -> Proc:
    return Proc(tmp_path / "proc")


@pytest.fixture
def bundle(tmp_path: Path) -> Path:
    path = tmp_path / "pki/etcd-ca.crt"
    path.parent.mkdir()
    path.touch()
    return path


def test_what_reads_a_file_of_this_node_is_found_with_its_start(proc: Proc, bundle: Path) -> None:
    proc.add(7, "/usr/bin/etcd", "--name=a", f"{CA}={bundle}", started=12345)

    [found] = processes.find("etcd", [str(bundle)], str(proc.folder))

    ticks = os.sysconf("SC_CLK_TCK")
    assert (found.component, found.pid, found.started) == ("etcd", 7, Moment(BOOT, 12345 / ticks))
    assert found.arguments == ("--name=a", f"{CA}={bundle}")


@pytest.mark.parametrize(
    "words",
    [
        [f"{CA}=BUNDLE"],
        [CA, "BUNDLE"],
        ["-trusted-ca-file=BUNDLE"],
        ["--data-dir", "/var/lib/etcd", "--peer-trusted-ca-file=BUNDLE"],
        [f"{CA}=FOLDER/../pki/./etcd-ca.crt"],
    ],
)
def test_flags_count_in_every_form_that_go_reads(proc: Proc, bundle: Path, words: list[str]) -> None:
    given = [word.replace("BUNDLE", str(bundle)).replace("FOLDER", str(bundle.parent)) for word in words]
    proc.add(7, "etcd", *given)

    assert proc.find("etcd", bundle) == proc.find("etcd", bundle.parent) == [7]


def test_others_are_left_out(proc: Proc, bundle: Path) -> None:
    proc.add(2)
    proc.add(3, "etcdctl", f"{CA}={bundle}")
    proc.add(4, "kube-apiserver", f"--etcd-cafile={bundle}")
    proc.add(5, "etcd", f"{CA}=/etc/other/etcd-ca.crt")
    proc.add(6, "etcd", f"{CA}={bundle}-old")
    (proc.folder / "8").mkdir()
    (proc.folder / "9").mkdir()
    (proc.folder / "9/cmdline").write_bytes(f"etcd\0{CA}={bundle}\0".encode())

    assert proc.find("etcd", bundle) == []
    assert proc.find("kube-apiserver", bundle) == [4]
    assert processes.find("etcd", [str(bundle)], str(proc.folder / "missing")) == ()


def test_the_components_of_this_machine_are_found_with_their_arguments(proc: Proc) -> None:
    proc.add(9, "/usr/bin/etcd", "--name=b", network="here")
    proc.add(7, "/usr/bin/etcd", "--name=a", network="here")
    proc.add(8, "kubelet", network="a-container's")
    proc.add(10, "sh", network="here")

    assert processes.running(str(proc.folder)) == {"etcd": ("--name=a",)}
    assert processes.running(str(proc.folder / "missing")) == {}


def test_nodes_that_share_a_process_table_are_told_apart_by_their_networks(proc: Proc, bundle: Path) -> None:
    """Whatever files a process could open: who may trace none sees the same as root does."""
    proc.add(7, "etcd", f"{CA}={bundle}", network="here")
    proc.add(8, "etcd", f"{CA}={bundle}", network="a-container's")
    proc.add(9, "etcd", f"{CA}={bundle}")
    proc.add(10, "etcd", f"{CA}={bundle}", root=Path("/"), network="a-container's")

    assert proc.find("etcd", bundle) == [7, 9]


def test_etcd_and_api_servers_of_other_clusters_on_this_machine_are_left_out(
    proc: Proc, bundle: Path, tmp_path: Path
) -> None:
    theirs = tmp_path / "theirs.yaml"
    theirs.write_text("client-transport-security: {trusted-ca-file: /srv/other/ca.crt}\n")
    plain = ("--listen-client-urls=http://127.0.0.1:12379", "--listen-peer-urls=http://127.0.0.1:12380")
    proc.add(7, "etcd", *plain, network="here")
    proc.add(8, "etcd", f"--config-file={theirs}", network="here")
    # It has no settings but its flags, and these name no file of ours.
    proc.add(9, "kube-apiserver", "--etcd-servers=http://127.0.0.1:12379", network="here")
    # Of one that is set up by its environment nobody knows.
    proc.add(10, "etcd", "--name=a", network="here")

    assert proc.find("etcd", bundle) == [10] and proc.find("kube-apiserver", bundle) == []


def test_one_whose_files_are_not_on_its_command_line_counts_by_its_network(proc: Proc, bundle: Path) -> None:
    proc.add(7, "etcd", "--config-file=/etc/etcd.yaml", root=Path("/"), network="here")
    proc.add(8, "etcd", network="a-container's")
    # It sees the same files under the same names, and yet names none of them.
    proc.add(10, "etcd", "--config-file=/etc/etcd.yaml", root=Path("/"), network="a-container's")
    proc.add(9, "kube-scheduler", "--kubeconfig=/etc/kubernetes/scheduler.conf", network="here")

    assert proc.find("etcd", bundle) == [7]
    assert proc.find("kube-scheduler", bundle) == [9]


@pytest.mark.parametrize("asked", ["--version", "-version", "--version=raw", "--help", "-h"])
def test_a_program_that_is_asked_what_it_is_runs_no_component(proc: Proc, bundle: Path, asked: str) -> None:
    proc.add(7, "/usr/bin/etcd", f"{CA}={bundle}", root=Path("/"), network="here")
    proc.add(8, "/usr/bin/etcd", asked, root=Path("/"), network="here", started=50)

    assert proc.find("etcd", bundle) == [7]
    assert processes.running(str(proc.folder)) == {"etcd": (f"{CA}={bundle}",)}


def test_a_component_may_be_told_which_version_to_report(proc: Proc, bundle: Path) -> None:
    proc.add(7, "kube-scheduler", "--version=v1.36.0", network="here")

    assert proc.find("kube-scheduler", bundle) == [7]


def test_a_process_and_its_children_are_one_and_the_oldest_is_first(proc: Proc, bundle: Path) -> None:
    proc.add(7, "etcd", f"{CA}={bundle}", started=300)
    proc.add(8, "etcd", f"{CA}={bundle}", started=301, parent=7)
    proc.add(9, "etcd", f"{CA}={bundle}", "--name=b", started=200, parent=7)

    assert proc.find("etcd", bundle) == [9, 7]


def test_a_real_process_is_found_on_the_clock_of_the_boot(bundle: Path) -> None:
    before = boot_time.now()
    # Starts are counted in ticks, so one in the same tick would count as before.
    time.sleep(0.05)
    words = ["etcd", "-c", "import sys; print(flush=True); sys.stdin.read()", f"{CA}={bundle}"]
    pipe = subprocess.PIPE
    with subprocess.Popen(words, executable=sys.executable, stdin=pipe, stdout=pipe) as running:
        # Popen returns while the kernel still replaces the command line.
        assert running.stdout is not None and running.stdout.readline() == b"\n"
        [found] = processes.find("etcd", [str(bundle)])
        assert found.pid == running.pid
        assert found.started.later_than(before) and not found.started.later_than(boot_time.now())
        running.communicate()

    assert processes.find("etcd", [str(bundle)]) == ()


def test_what_was_noted_in_another_boot_is_earlier() -> None:
    assert Moment("a", 5.0).later_than(Moment("b", 9.0))
    assert Moment("a", 5.0).later_than(Moment("a", 4.99))
    assert not Moment("a", 5.0).later_than(Moment("a", 5.0))


def test_a_machine_without_the_name_of_its_boot_has_one_all_the_same(tmp_path: Path) -> None:
    assert boot_time.now(str(tmp_path)).boot == ""


@pytest.mark.parametrize("component", ["kubelet", "kube-scheduler"])
def test_a_component_whose_files_are_in_a_kubeconfig_is_known_by_that(
    proc: Proc, tmp_path: Path, component: str
) -> None:
    """Of several nodes on one machine, as in a test, each finds its own."""
    mine, other = tmp_path / "mine", tmp_path / "other"
    for number, folder in enumerate((mine, other)):
        folder.mkdir()
        (folder / "kubelet.conf").write_text(f"client-certificate: {folder}/kubelet-client.pem\n")
        proc.add(20 + number, component, f"--kubeconfig={folder}/kubelet.conf", root=Path("/"), network="here")
    assert proc.find(component, mine) == [20] and proc.find(component, other) == [21]
    # One that its owner wrote, with our pair.
    (tmp_path / "own.conf").write_text(f"client-certificate: {mine}/kubelet-client.pem\n")
    proc.add(22, component, f"--kubeconfig={tmp_path}/own.conf", root=Path("/"), network="here")
    assert proc.find(component, mine) == [20, 22]


def test_without_a_name_of_a_file_the_network_tells_nodes_apart(proc: Proc, tmp_path: Path) -> None:
    (tmp_path / "pki").mkdir()
    proc.add(20, "kube-proxy", "--config=/nowhere", root=Path("/"), network="here")
    proc.add(21, "kube-proxy", "--config=/nowhere", root=Path("/"), network="elsewhere")
    proc.add(22, "kubelet", "--kubeconfig=/nowhere/kubelet.conf", root=Path("/"), network="here")
    assert proc.find("kube-proxy", tmp_path / "pki") == [20] and proc.find("kubelet", tmp_path / "pki") == [22]
