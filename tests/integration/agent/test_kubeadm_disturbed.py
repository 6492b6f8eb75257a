"""A pass in kubeadm's layout, killed or failed at the calls by which it changes its folders.

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
from dataclasses import dataclass
from pathlib import Path

import pytest

from helpers.faults import os_calls
from helpers.faults.disturbed_passes import command, whole
from helpers.faults.drawn import Drawn
from helpers.faults.os_calls import ERRORS, moments
from helpers.faults.small_disks import private_disk
from helpers.node.passes import passed, passed_well
from helpers.vault.applied_cluster import AppliedCluster, NodeFolder, Ran, environment, vaultpki
from helpers.vault.cluster_factory import ClusterFactory
from vaultpki.errors import VaultpkiError
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

Files = dict[str, bytes]


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


def first_issue(cluster: AppliedCluster) -> NodeFolder:
    """A node that has nothing yet."""
    return _node(cluster)


def renewal(cluster: AppliedCluster) -> NodeFolder:
    """A node with a pair to replace in each further folder, and another API server for its kubeconfigs."""
    node = _node(cluster)
    passed_well(node)
    cluster.write(SPEC.replace(":6443", ":8443") + CHANGED)
    cluster.apply()
    node.age(100_000)
    return node


def copied(node: NodeFolder, folder: Path) -> NodeFolder:
    """A copy; a plain kubeconfig names its pair by the path of its node, and would be foreign on another one."""
    return renamed(node.copied(folder), node.folder)


def renamed(node: NodeFolder, before: Path) -> NodeFolder:
    for path in node.folder.glob("*.conf"):
        path.write_text(path.read_text().replace(str(before), str(node.folder)))
    return node


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


class Judge:
    """What a pass that is disturbed may leave in every folder; `good` is a node on which one came through."""

    def __init__(self, base: NodeFolder, good: NodeFolder) -> None:
        self.base, self.before, self.good = base.folder, found(base), found(good)
        self.due = RENEWED if self.before.pairs else set(self.good.pairs)
        assert len(self.good.pairs) == 11

    def looks_at(self, node: NodeFolder, what: str, fixed: dict[str, int]) -> None:
        """Each pair is the old or the new one, and so is everything else; `fixed` files are the very same."""
        now = found(node, self.base)
        for key, files in now.pairs.items():
            old = files == self.before.pairs.get(key)
            assert old or (key in self.due and whole(Path(key).name, files)), f"{what}: {key}"
        for name, data in now.others.items():
            assert data in (self.before.others.get(name), self.good.others[name]), f"{what}: {name}"
        for name, inode in fixed.items():
            assert name not in FIXED or now.inodes.get(name) == inode, f"{what}: {name} was replaced"

    def one_more_pass(self, node: NodeFolder, what: str) -> None:
        passed_well(node)
        # What was replaced goes with the next one.
        passed_well(node)
        end = found(node)
        assert end.pairs.keys() == self.good.pairs.keys() and end.others == self.good.others, what
        for key, files in end.pairs.items():
            new = files != self.before.pairs.get(key)
            assert whole(Path(key).name, files) and new is (key in self.due), f"{what}: {key}"
        clean(node)
        shutil.rmtree(node.folder)


def told(done: Ran, what: str) -> bool:
    assert "Traceback" not in done.stdout + done.stderr, f"{what}: {done.stderr}"
    assert done.returncode in (0, 1), f"{what}: exit {done.returncode}: {done.stderr}"
    assert done.returncode == 0 or done.stderr.startswith("vaultpki: "), f"{what}: {done.stderr}"
    return done.returncode == 0


BEGINS = pytest.mark.parametrize("begin", [first_issue, renewal])
Begin = Callable[[AppliedCluster], NodeFolder]


@BEGINS
@pytest.mark.parametrize(
    "step", [pytest.param(80, id="some"), pytest.param(1, id="each", marks=pytest.mark.exhaustive)]
)
def test_killed_right_before_a_call(
    begin: Begin, step: int, cluster: AppliedCluster, tmp_path: Path, drawn: Drawn
) -> None:
    """One call in so many is looked at, and followed by another pass."""
    base, offset = begin(cluster), drawn.below(step)
    good, node = copied(base, tmp_path / "good"), copied(base, tmp_path / "killed")
    passed_well(good)
    may, fixed = Judge(base, good), found(node).inodes

    def looked_at(number: int) -> bool:
        if number % step == offset:
            may.looks_at(node, f"call {number}", fixed)
        return number % step == offset

    places = moments(lambda: passed_well(node), node.folder, tmp_path / "moments", looked_at)
    assert max(places) > 150, places
    for number, folder in places.items():
        copy = NodeFolder(node.name, folder)
        copy.configure(str(node.folder), str(folder))
        may.one_more_pass(renamed(copy, node.folder), f"call {number}")


@BEGINS
@pytest.mark.parametrize(
    "step",
    [
        pytest.param(20, id="some", marks=pytest.mark.conformance),
        pytest.param(1, id="each", marks=pytest.mark.exhaustive),
    ],
)
def test_a_failing_call(begin: Begin, step: int, cluster: AppliedCluster, tmp_path: Path, drawn: Drawn) -> None:
    """Sentences say what was wrong, and nothing is told to be done that was not."""
    base, offset = begin(cluster), drawn.below(step)
    good = copied(base, tmp_path / "good")
    with os_calls.seen(lambda *_: None) as made:
        passed_well(good)
    may = Judge(base, good)
    for at in range(offset, len(made), step):
        what = f"{ERRORS[at % len(ERRORS)]} of {made[at]} {at}"
        node = copied(base, tmp_path / f"case-{at}")
        fixed = found(node).inodes
        with os_calls.seen(os_calls.failing(at, ERRORS[at % len(ERRORS)])):
            try:
                through = not passed(node).failures
            except VaultpkiError:
                through = False
        may.looks_at(node, what, fixed)
        now = found(node).pairs
        assert not through or all(now[key] != may.before.pairs.get(key) for key in may.due), f"{what}: success told"
        may.one_more_pass(node, what)


def signed(cluster: AppliedCluster, since: int) -> list[str]:
    """The names of the roles by which Vault was asked to sign."""
    paths = [path for _, path in cluster.server.writes(since) if f"{cluster.prefix}/" in path and "/sign/" in path]
    return sorted(path.rpartition("/")[2] for path in paths)


@pytest.mark.parametrize("how", ["full", "read-only"])
def test_a_folder_that_cannot_be_written_holds_no_other_back(cluster: AppliedCluster, tmp_path: Path, how: str) -> None:
    """The kubelet's folder fails alone, and costs no signature."""
    node = renewal(cluster)
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
    passed_well(node)
    before = found(node)
    (node.pki / "etcd").chmod(0o777)
    ran = vaultpki("renew", "-c", node.config, "--all", expect=1)
    (said,) = (line for line in ran.stderr.splitlines() if f"{node.pki}/etcd: " in line)
    assert "kube-apiserver-etcd, etcd-server" in said and "choose another place" in said
    renewed = {key for key, files in found(node).pairs.items() if files != before.pairs[key]}
    # kube-apiserver checks etcd with the bundle in that folder, so its own pair for etcd waits, too.
    assert before.pairs.keys() - renewed == {
        *(f"pki/etcd/{stem}" for stem in ("server", "peer", "healthcheck-client")),
        "pki/apiserver-etcd-client",
    }
    (node.pki / "etcd").chmod(0o755)
    vaultpki("renew", "-c", node.config, "--all")
    assert all(files != before.pairs[key] for key, files in found(node).pairs.items())


def test_readers_find_whole_files_in_every_folder_at_every_moment(cluster: AppliedCluster, tmp_path: Path) -> None:
    node = _node(cluster)
    passed_well(node)
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
            vaultpki("renew", "-c", node.config, "--all")
    finally:
        ended.set()
        reader.join()
    assert problems == [] and looks > 50
