"""Passes of `agent --once` that are cut or disturbed at a system call, each on a copy of a node of its own."""

from __future__ import annotations

import os
import re
import shutil
import sys
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from helpers.faults import system_calls
from helpers.faults.system_calls import Call, Fault
from helpers.vault import forked_command
from helpers.vault.applied_cluster import AppliedCluster, NodeFolder, Ran, environment
from vaultpki.agent import run as agent
from vaultpki.certificates import BUNDLES, pair_files
from vaultpki.config.agent import load_agent
from vaultpki.pki import x509
from vaultpki.procedures import ON_NODES

SPEC = """\
api_server: {names: [api.example.com], endpoint: "https://api.example.com:6443"}
nodes:
- {name: worker-1, roles: [worker], addresses: [10.0.0.21]}
"""
NODE = "worker-1"
STEMS = ("kubelet", "kubelet-client", "kube-proxy")
RENEWED = ("kubelet", "kube-proxy")
HOOKED = ("kubelet", "kubernetes-ca")
Files = dict[str, bytes]


@dataclass(frozen=True)
class Trials:
    """A node in a state to start from, and how copies of it are made and run."""

    base: NodeFolder
    place: Path

    def copy(self, name: str) -> NodeFolder:
        """The base on another path, which agent.yaml and kubeconfigs name."""
        node = NodeFolder(self.base.name, self.place / name)
        shutil.copytree(self.base.folder, node.folder, symlinks=True)
        node.configure(str(self.base.folder), str(node.folder))
        return node

    def run(self, node: NodeFolder, *strace: str) -> Ran:
        """One pass under strace."""
        words = ["agent", "-c", str(node.config), "--once", "--if-due"]
        return forked_command.run(words, env=environment(), umask=0o022, timeout=120, strace=strace)

    def recorded(self) -> tuple[NodeFolder, list[Call]]:
        """A pass in which nothing goes wrong, and all that its main thread did."""
        # The calls are counted, so all must make the same: what is first imported in a pass is compiled by now.
        self.copy("warm-up").run()
        node, log = self.copy("recorded"), self.place / "log"
        done = self.run(node, "-o", str(log), "-e", f"trace={system_calls.CHANGING}")
        assert done.returncode == 0, done.stderr
        return node, system_calls.calls(log)

    def points(self) -> list[Call]:
        """Every call of the main thread that changes something below the node's folder."""
        node, calls = self.recorded()
        return [call for call in calls if call.changes and str(node.folder) in call.line]


def command(node: NodeFolder) -> list[str]:
    return [sys.executable, "-m", "vaultpki", "agent", "-c", str(node.config), "--once", "--if-due"]


def first_issue(cluster: AppliedCluster, place: Path) -> Trials:
    """A node that has nothing yet."""
    return _trials(_node(cluster), place)


def renewal(cluster: AppliedCluster, place: Path) -> Trials:
    """A node whose good pairs are due because cluster.yaml has changed."""
    node = _node(cluster)
    node.run()
    cluster.write(
        SPEC + "certificates:\n  kubelet: {extra_names: [kubelet.example.com]}\n  kube-proxy: {key: ec-p384}\n"
    )
    cluster.apply()
    node.age(100_000)
    return _trials(node, place)


def _node(cluster: AppliedCluster) -> NodeFolder:
    folder = cluster.folder / "nodes" / NODE
    hooks = ", ".join(f"{key}: [[sh, -c, 'echo {key} >> {folder}/hooks']]" for key in HOOKED)
    return cluster.equip(NODE, folder=folder, further=f"hooks: {{{hooks}}}\n")


def _trials(base: NodeFolder, place: Path) -> Trials:
    (place / "trials").mkdir()
    return Trials(base, place / "trials")


def pairs(node: NodeFolder) -> dict[str, Files]:
    return {
        stem: {name: (node.pki / name).read_bytes() for name in pair_files(stem) if (node.pki / name).exists()}
        for stem in STEMS
    }


def others(node: NodeFolder, *folders: Path) -> Files:
    """Bundles and kubeconfigs, the node's folder in them, or that of `folders`, aside."""
    if not node.pki.exists():
        return {}
    mine = {name for stem in STEMS for name in pair_files(stem)}
    return {
        path.name: re.sub(b"|".join(str(each).encode() for each in (node.folder, *folders)), b"HERE", path.read_bytes())
        for path in node.pki.iterdir()
        if path.is_symlink() and path.exists() and path.name not in mine
    }


def hooked(node: NodeFolder) -> dict[str, int]:
    """How often each hook has run."""
    log = node.folder / "hooks"
    ran = log.read_text().splitlines() if log.exists() else []
    assert set(ran) <= set(HOOKED), ran
    return {key: ran.count(key) for key in HOOKED}


def whole(stem: str, found: Files) -> bool:
    crt, key, pem = (found.get(name, b"") for name in pair_files(stem))
    leaf, *issuing = x509.read_certificates(crt)
    return x509.matches(key, leaf) and pem == key + crt and len(issuing) == 1


def clean(node: NodeFolder) -> None:
    """Nothing lies on the node but what is live, with its modes."""
    hidden = node.pki / ".vaultpki"
    units = {BUNDLES, *STEMS}
    live = {os.readlink(hidden / unit) for unit in units}
    assert {path.name for path in hidden.iterdir()} == {"lock", "owner.json", *units, *live}
    names = {path.name for path in node.pki.iterdir()} - {".vaultpki"}
    assert names == {path.name for unit in live for path in (hidden / unit).iterdir()}
    for name in names:
        mode = 0o644 if name.endswith(".crt") else 0o600
        assert (node.pki / name).stat().st_mode & 0o7777 == mode, name
    left = {path.name for path in node.state.iterdir()}
    assert left <= {"secret-id", "secret-id.json", "spec.json", "agent.json"}, left
    assert {path.stat().st_mode & 0o7777 for path in node.state.iterdir()} == {0o600}


class Judge:
    """What passes of copies of a node may leave where they are disturbed; `due` are the pairs that they replace.

    `good` is a node on which one pass came through.
    """

    def __init__(self, trials: Trials, good: NodeFolder, due: tuple[str, ...]) -> None:
        self.base, self.due = trials.base.folder, due
        self.before, self.recorded, self.ran = pairs(trials.base), others(trials.base), hooked(trials.base)
        self.good = others(good)
        self.changed = {key for key in HOOKED if key in due or not self.recorded}

    def pairs_are_whole(self, node: NodeFolder, what: str, *, through: bool = False) -> None:
        """Every pair is as it was (or not there at all), or new if it is due; new for certain if all was done."""
        for stem, found in pairs(node).items():
            if through and stem in self.due:
                assert found != self.before[stem], f"{what}: told a success that was none: {stem}"
            old = found == self.before[stem]
            assert old or (stem in self.due and whole(stem, found)), f"{what}: {stem} is torn or short: {sorted(found)}"

    def others_are_whole(self, node: NodeFolder, what: str, *folders: Path, through: bool = False) -> None:
        """And so is everything else."""
        assert others(node, self.base, *folders) in ([self.good] if through else [self.recorded, self.good]), what

    def one_more_pass(self, node: NodeFolder, what: str) -> None:
        """It sets everything right, runs hooks that are owed, and leaves nothing behind; then the node is removed."""
        for settle in (False, True):
            # The second one removes at once what the first one has replaced.
            again = agent.run(load_agent(node.config), agent.PassOptions(ON_NODES, settle=settle, wait=30.0))
            assert not again.failures, f"{what}, then run again: {again.failures}"
        for stem, found in pairs(node).items():
            new = found != self.before[stem]
            assert whole(stem, found) and new is (stem in self.due), f"{what}, then run again: {stem}"
        assert others(node) == self.good, what
        for key, count in hooked(node).items():
            runs = count - self.ran[key]
            assert runs in ((1, 2) if key in self.changed else (0,)), f"{what}: {runs} runs of the hook of {key}"
        clean(node)
        shutil.rmtree(node.folder)


def each_disturbed(
    trials: Trials, faults: Sequence[Fault], due: tuple[str, ...], judge: Callable[[Ran, str], bool]
) -> None:
    """A pass with each fault finds every pair of `due` old (or not there at all) or new, and every other as it was.

    `judge` says of how the pass ended whether all was done. One more pass sets everything right.
    """
    may = Judge(trials, NodeFolder(trials.base.name, trials.place / "recorded"), due)

    def one(number: int) -> None:
        fault = faults[number]
        what = str(fault)
        node = trials.copy(f"case-{number}")
        log = trials.place / f"log-{number}"
        done = trials.run(node, "-o", str(log), *fault.options)
        if not fault.what.startswith("signal"):
            assert "(INJECTED)" in log.read_text(errors="replace"), f"{what}: nothing injected"
        through = judge(done, what)
        may.pairs_are_whole(node, what, through=through)
        may.others_are_whole(node, what, through=through)
        may.one_more_pass(node, what)
        log.unlink()

    # More than there are processors: a run that replaced something waits some seconds for watchers.
    with ThreadPoolExecutor(max_workers=16) as pool:
        for _ in pool.map(one, range(len(faults))):
            pass


def killed(done: Ran, what: str) -> bool:
    """How a pass ended that was killed."""
    assert done.returncode in (-9, 137), f"{what}: not killed: {done.stdout}{done.stderr}"
    return False
