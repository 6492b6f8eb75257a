"""`agent --once` in kubeadm's layout, killed or failed at the calls by which it changes its folders.

Each trial works on a copy of a node. What a reader finds afterwards in any folder is whole: each pair is the old or the
new one, each bundle and kubeconfig too. A kubeconfig that a static pod mounts is the same file as before. One more pass
sets everything right, and leaves nothing behind.
"""

from __future__ import annotations

import os
import re
import shutil
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import pytest

from helpers.faults import system_calls
from helpers.faults.disturbed_passes import Trials, command, whole
from helpers.faults.small_disks import private_disk
from helpers.faults.system_calls import Call, Fault
from helpers.vault.applied_cluster import AppliedCluster, NodeFolder, Ran, environment, vaultpki
from helpers.vault.cluster_factory import ClusterFactory
from vaultpki.agent import run as agent
from vaultpki.config.agent import load_agent
from vaultpki.pki import x509

pytestmark = pytest.mark.on_node

SPEC = """\
layout: kubeadm
api_server: {names: [api.example.com], endpoint: "https://10.0.0.11:6443"}
nodes:
- {name: cp-1, roles: [control-plane, etcd, worker], addresses: [10.0.0.11]}
"""
CHANGED = """\
certificates:
  etcd-server: {extra_names: [etcd.example.com]}
  kube-scheduler: {key: ec-p384}
  kubelet-client: {key: ec-p384}
"""
RENEWED = {"pki/etcd/server", "pki/scheduler/scheduler", "kubelet/kubelet-client"}
FIXED = ("scheduler.conf", "controller-manager.conf")
# Other calls work on the first folder, as in the other layout, whose tests take all kinds of them.
FURTHER = re.compile(r"/(pki/etcd|pki/scheduler|kubelet)[/>\"]|\.conf\b")
SAMPLE = 4

Files = dict[str, bytes]


class Copies(Trials):
    """As Trials; but a plain kubeconfig names its pair by the path of its node, and is foreign on another one."""

    def copy(self, name: str) -> NodeFolder:
        node = super().copy(name)
        for path in node.folder.glob("*.conf"):
            text = path.read_text().replace(str(self.base.folder), str(node.folder))
            path.write_text(text)
        return node


@dataclass(frozen=True)
class Found:
    """What a reader finds on a node: pairs by folder and stem, everything else by path, and inodes of kubeconfigs."""

    pairs: dict[str, Files]
    others: Files
    inodes: dict[str, int]


def found(node: NodeFolder, *others: Path) -> Found:
    """Read a node as its components do, by the stable names; its own path and `others` read as HERE."""
    pairs: dict[str, Files] = {}
    rest: Files = {}
    for path in _files(node):
        key = str(path.relative_to(node.folder).with_suffix(""))
        data = path.read_bytes()
        if path.suffix in (".key", ".pem") or path.with_suffix(".key").exists():
            pairs.setdefault(key, {})[path.name] = data
        else:
            here = b"|".join(str(each).encode() for each in (node.folder, *others))
            rest[str(path.relative_to(node.folder))] = re.sub(here, b"HERE", data)
    return Found(pairs, rest, {path.name: path.stat().st_ino for path in node.folder.glob("*.conf")})


def _files(node: NodeFolder) -> Iterator[Path]:
    for folder in (node.folder, node.pki, node.pki / "etcd", node.pki / "scheduler", node.folder / "kubelet"):
        for path in sorted(folder.glob("*")):
            plain = folder == node.folder
            if path.name.startswith(".") or path.name == "agent.yaml":
                continue
            if path.is_file() and (plain or path.is_symlink()):
                yield path


@pytest.fixture
def cluster(clusters: ClusterFactory) -> AppliedCluster:
    return clusters.applied(SPEC)


def _node(cluster: AppliedCluster) -> NodeFolder:
    folder = cluster.folder / "nodes" / "cp-1"
    return cluster.equip("cp-1", folder=folder, further=f"layout: kubeadm\nfolders: {{kubelet: {folder}/kubelet}}\n")


def first_issue(cluster: AppliedCluster, place: Path) -> Copies:
    """A node that has nothing yet."""
    return _copies(_node(cluster), place)


def renewal(cluster: AppliedCluster, place: Path) -> Copies:
    """A node with a pair to replace in each further folder, and another API server for its kubeconfigs."""
    node = _node(cluster)
    node.run()
    cluster.write(SPEC.replace(":6443", ":8443") + CHANGED)
    cluster.apply()
    node.age(100_000)
    return _copies(node, place)


def _copies(base: NodeFolder, place: Path) -> Copies:
    (place / "trials").mkdir()
    return Copies(base, place / "trials")


def clean(node: NodeFolder) -> None:
    """Nothing lies on the node but what is live."""
    for folder in (node.pki, node.pki / "etcd", node.pki / "scheduler", node.folder / "kubelet"):
        hidden = folder / ".vaultpki"
        sets = {path.name for path in hidden.iterdir() if path.is_symlink()}
        live = {os.readlink(hidden / name) for name in sets}
        assert {path.name for path in hidden.iterdir()} == {"lock", "owner.json", *sets, *live}, folder
        names = {path.name for path in folder.iterdir() if path.is_symlink()}
        assert names == {path.name for name in live for path in (hidden / name).iterdir()}, folder
    plain = {path.name for path in node.folder.iterdir()}
    assert plain == {"agent.yaml", "state", "pki", "kubelet", "kubelet.conf", *FIXED}


def each_disturbed(trials: Copies, faults: list[Fault], judge: Callable[[Ran, str], bool]) -> None:
    before = found(trials.base)
    good = found(NodeFolder("cp-1", trials.place / "recorded"))
    due = RENEWED if before.pairs else set(good.pairs)
    assert len(good.pairs) == 11

    def one(number: int) -> None:
        fault = faults[number]
        node = trials.copy(f"case-{number}")
        what, at_start = str(fault), found(node).inodes
        through = judge(trials.run(node, "-o", str(trials.place / f"log-{number}"), *fault.options), what)
        now = found(node, trials.base.folder)
        for key, files in now.pairs.items():
            assert files == before.pairs.get(key) or (key in due and whole(Path(key).name, files)), f"{what}: {key}"
            assert not through or key not in due or files != before.pairs.get(key), f"{what}: success told: {key}"
        assert through is False or now.pairs.keys() == good.pairs.keys(), what
        for name, data in now.others.items():
            assert data in (before.others.get(name), good.others[name]), f"{what}: {name}"
        for name, inode in at_start.items():
            assert name not in FIXED or now.inodes.get(name) == inode, f"{what}: {name} was replaced"
        again = agent.run(load_agent(node.config))
        assert not again.failures, f"{what}, then run again: {again.failures}"
        end = found(node)
        assert end.pairs.keys() == good.pairs.keys() and end.others == good.others, what
        for key, files in end.pairs.items():
            assert whole(Path(key).name, files) and (files != before.pairs.get(key)) is (key in due), f"{what}: {key}"
        clean(node)
        shutil.rmtree(node.folder)

    # More than there are processors: a pass that replaced something waits some seconds for watchers.
    with ThreadPoolExecutor(max_workers=8) as pool:
        for _ in pool.map(one, range(len(faults))):
            pass


def killed(done: Ran, what: str) -> bool:
    assert done.returncode in (-9, 137), f"{what}: not killed: {done.stdout}{done.stderr}"
    return False


def told(done: Ran, what: str) -> bool:
    assert "Traceback" not in done.stdout + done.stderr, f"{what}: {done.stderr}"
    assert done.returncode in (0, 1), f"{what}: exit {done.returncode}: {done.stderr}"
    assert done.returncode == 0 or done.stderr.startswith("vaultpki: "), f"{what}: {done.stderr}"
    return done.returncode == 0


def chosen(points: list[Call], size: int) -> list[Call]:
    """Calls in every further folder and on plain kubeconfigs: the last of each kind, and evenly spread ones."""
    further = [call for call in points if FURTHER.search(call.line)]
    assert {"symlink", "rename", "fsync", "mkdir", "link"} & {call.name for call in further}
    size = min(size, len(further))
    kinds = {re.sub(r"at2?$", "", call.name): call for call in further}
    some = {*kinds.values(), *(further[index * len(further) // size] for index in range(size))}
    return [call for call in further if call in some]


@pytest.mark.parametrize(
    "size",
    [
        pytest.param(SAMPLE, id="some", marks=pytest.mark.conformance),
        pytest.param(10**6, id="every-call", marks=pytest.mark.exhaustive),
    ],
)
@pytest.mark.parametrize("begin", [first_issue, renewal])
def test_killed(
    begin: Callable[[AppliedCluster, Path], Copies], size: int, cluster: AppliedCluster, tmp_path: Path
) -> None:
    made = begin(cluster, tmp_path)
    points = chosen(made.points(), size)
    each_disturbed(made, [Fault(call, "signal=SIGKILL") for call in points], killed)


@pytest.mark.parametrize(
    "size",
    [
        pytest.param(SAMPLE, id="some", marks=pytest.mark.conformance),
        # Each call fails in the other layout; here, the folders differ.
        pytest.param(60, id="many", marks=pytest.mark.exhaustive),
    ],
)
@pytest.mark.parametrize("begin", [first_issue, renewal])
def test_a_failing_call(
    begin: Callable[[AppliedCluster, Path], Copies], size: int, cluster: AppliedCluster, tmp_path: Path
) -> None:
    made = begin(cluster, tmp_path)
    each_disturbed(made, system_calls.rotating(chosen(made.points(), size), size), told)


def signed(cluster: AppliedCluster, since: int) -> list[str]:
    """The names of the roles by which Vault was asked to sign."""
    paths = [path for _, path in cluster.server.writes(since) if f"{cluster.prefix}/" in path and "/sign/" in path]
    return sorted(path.rpartition("/")[2] for path in paths)


@pytest.mark.parametrize("how", ["full", "read-only"])
def test_a_folder_that_cannot_be_written_holds_no_other_back(cluster: AppliedCluster, tmp_path: Path, how: str) -> None:
    """The kubelet's folder fails alone, and costs no signature."""
    node = renewal(cluster, tmp_path).base
    before, folder = found(node), node.folder / "kubelet"
    aside = folder.rename(folder.with_name("aside"))
    with private_disk(folder, "size=256k,mode=755") as disk:
        # From within, since a mount covers the folder for nobody else.
        assert disk.run(["cp", "-a", f"{aside}/.", str(folder)], environment()).returncode == 0
        if how == "full":
            disk.fill(leaving=1)
        else:
            disk.remount("ro")
        start = cluster.server.audit_position()
        done = disk.run(command(node), environment())
        assert not told(done, how)
        assert "the disk is full" in done.stderr if how == "full" else "read-only" in done.stderr
        assert signed(cluster, start) == ["etcd-server", "kube-scheduler"]
        inside = NodeFolder(node.name, disk.seen(node.folder))
        now = found(inside, node.folder)
        assert {key for key, files in now.pairs.items() if files != before.pairs[key]} == RENEWED - {
            "kubelet/kubelet-client"
        }
        disk.remount("rw")
        disk.empty()
        done = disk.run(command(node), environment())
        assert told(done, how) and signed(cluster, start)[-1] == "kubelet-client"
        assert found(inside, node.folder).pairs["kubelet/kubelet-client"] != before.pairs["kubelet/kubelet-client"]


def test_a_folder_that_others_may_write_to_holds_no_other_back(cluster: AppliedCluster) -> None:
    node = _node(cluster)
    node.run()
    before = found(node)
    (node.pki / "etcd").chmod(0o777)
    ran = vaultpki("renew", "-c", node.config, "--force", expect=1)
    (said,) = (line for line in ran.stderr.splitlines() if f"{node.pki}/etcd: " in line)
    assert "kube-apiserver-etcd, etcd-server" in said and "choose another place" in said
    renewed = {key for key, files in found(node).pairs.items() if files != before.pairs[key]}
    # kube-apiserver checks etcd with the bundle in that folder, so its own pair for etcd waits, too.
    assert before.pairs.keys() - renewed == {
        *(f"pki/etcd/{stem}" for stem in ("server", "peer", "healthcheck-client")),
        "pki/apiserver-etcd-client",
    }
    (node.pki / "etcd").chmod(0o755)
    vaultpki("renew", "-c", node.config, "--force")
    assert all(files != before.pairs[key] for key, files in found(node).pairs.items())


def test_readers_find_whole_files_in_every_folder_at_every_moment(cluster: AppliedCluster, tmp_path: Path) -> None:
    node = _node(cluster)
    node.run()
    combined = [path for path in _files(node) if path.suffix == ".pem"]
    assert len(combined) == 11
    ended, problems, looks = threading.Event(), list[str](), 0

    def look() -> None:
        nonlocal looks
        while not ended.is_set():
            for path in combined:
                begin, middle, rest = path.read_bytes().partition(b"-----BEGIN CERTIFICATE-----")
                if not x509.matches(begin, x509.read_certificates(middle + rest)[0]):
                    problems.append(f"{path}: torn")
            for name, ports in (("kubelet.conf", (6443, 8443)), ("scheduler.conf", (6443,))):
                text = (node.folder / name).read_text()
                if not any(f"10.0.0.11:{port}" in text and text.endswith("\n") for port in ports):
                    problems.append(f"{name}: {text!r}")
            for folder in (node.pki, node.pki / "etcd", node.pki / "scheduler"):
                if len(x509.read_certificates((folder / "ca.crt").read_bytes())) != 1:
                    problems.append(f"{folder}/ca.crt: torn")
            looks += 1

    reader = threading.Thread(target=look)
    reader.start()
    try:
        cluster.write(SPEC.replace(":6443", ":8443"))
        cluster.apply()
        for _ in range(2):
            node.age(100_000)
            vaultpki("renew", "-c", node.config, "--force")
    finally:
        ended.set()
        reader.join()
    assert problems == [] and looks > 50
