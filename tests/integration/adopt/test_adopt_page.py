"""Every command of the page "Take over a cluster", in order: a server, kubeadm's disks, and a cluster that answers."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
import yaml

from helpers import page_runner, pages, terminals
from helpers.kube.adopted_cluster import AdoptedCluster, serving
from helpers.kube.kubeadm_objects import BINDINGS, KubeadmObjects, Shape, items
from helpers.terminals import OnTerminal
from helpers.vault.applied_cluster import AppliedCluster, vaultpki
from helpers.vault.cluster_factory import ClusterFactory
from helpers.vault.operator_tokens import Who
from vaultpki.config.agent import load_agent

MOST_COMMANDS, MORE_FOR_A_MACHINE = 15, 2
QUICK = {
    "vaultpki.adopt.gates:JOIN": 1,
    "vaultpki.rotation.adoption_reasons:LONGEST_LOOK_AGAIN": 1,
    "vaultpki.cli.adopt_run:_LOOK": 0.2,
}
AGREE, WORD = "Go on? [y/N]: ", "or nothing to look again: "
SECONDS = 120


def test_the_walk_has_no_more_commands_than_it_says() -> None:
    every = commands()
    assert len(every) == MOST_COMMANDS
    of_worker = [each for each in every if each.node == "w-1" or "w-1.json" in each.text]
    assert len(of_worker) == MORE_FOR_A_MACHINE
    assert len(pages.text("adopt").split()) <= 1500


def commands() -> list[pages.Command]:
    return [each for block in pages.blocks(pages.text("adopt")) for each in block.commands()]


@dataclass(slots=True)
class Walk:
    """The operator's folder, the cluster, and its machines' disks; `adopted` stands for machines that have joined."""

    cluster: AppliedCluster
    objects: KubeadmObjects
    folder: Path
    config: Path
    port: int
    adopted: Callable[[], AdoptedCluster]
    left: list[pages.Command] = field(default_factory=commands)

    @property
    def places(self) -> dict[str, str]:
        """What stands on the page for the paths here."""
        operator = self.cluster.folder
        return {
            "cluster.yaml": str(self.cluster.file),
            "/etc/kubernetes/admin.conf": str(self.config),
            "operator/admin.conf": str(self.config),
            "admin.conf": str(self.config),
            "operator": str(operator / "operator"),
            "joins": str(operator / "joins"),
            "prod": self.cluster.name,
        }

    def next(self, begins: str) -> pages.Command:
        command = self.left.pop(0)
        assert command.text.startswith(begins), command.text
        return command

    def words(self, command: pages.Command) -> list[str]:
        return [self.places.get(word, word) for word in command.text.split()[1:]]

    def environment(self, who: Who) -> dict[str, str]:
        return self.cluster.environment(who) | {"VAULTPKI_FILE": str(self.cluster.file)}

    def ran(self, begins: str, who: Who, *more: str | Path) -> None:
        """The next command of the page, which prints what is shown there."""
        command = self.next(begins)
        self.compare(command, vaultpki(*self.words(command), *more, env=self.environment(who)).stdout)

    @contextlib.contextmanager
    def on_terminal(self, begins: str, who: Who) -> Iterator[OnTerminal]:
        """The next command of the page on a terminal."""
        command = self.next(begins)
        environment = self.environment(who)
        with terminals.on_terminal(*self.words(command), env=environment, columns=400, replaced=QUICK) as term:
            yield term
        self.compare(command, "\n".join(term.lines))

    def compare(self, command: pages.Command, printed: str) -> None:
        for word, path in self.places.items():
            printed = printed.replace(path, word)
        printed = printed.replace(f"127.0.0.1:{self.port}", "198.51.100.11:6443").replace(" -f cluster.yaml", "")
        lines, shown = (page_runner.alike(text, self.folder) for text in (printed, "\n".join(command.shown)))
        missing = page_runner.found_in_order(shown, lines)
        assert not shown or missing is None, f"{command.text} does not print {missing!r}\n{printed}"

    def joins(self, name: str) -> None:
        """A machine joins beside kubeadm's files; its units are written by test_units.py."""
        self.next(f"scp -p joins/{name}.json")
        command = self.next(f"vaultpki join {name}.json --adopt --unit")
        root = self.folder / name
        if not root.exists():
            self.objects.disk(root, name)
        settings = root / "var/lib/kubelet/config.yaml"
        settings.write_text(settings.read_text().replace("/etc/kubernetes/pki", f"{root}/etc/kubernetes/pki"))
        file = root / "etc/vaultpki/agent.yaml"
        file.parent.mkdir(parents=True, mode=0o700)
        places = [f"--dir={root}/etc/kubernetes/pki", f"--kubelet-dir={root}/var/lib/kubelet/pki"]
        ran = vaultpki("join", self.cluster.folder / f"joins/{name}.json", "--adopt", "-c", file, *places)
        taken_over = load_agent(file).taken_over
        assert taken_over is not None and taken_over.by_agent
        self.compare(command, ran.stdout.replace(str(file), "/etc/vaultpki/agent.yaml"))


@pytest.mark.on_node
def test_every_command_of_the_walk(clusters: ClusterFactory, tmp_path: Path) -> None:
    objects = KubeadmObjects(Shape(key="ECDSA-P256"))
    cluster = clusters.written()
    cluster.file.unlink()
    with serving(objects, tmp_path) as (api, config):
        walk = Walk(
            cluster,
            objects,
            tmp_path,
            config,
            api.server_address[1],
            lambda: AdoptedCluster(cluster, objects, api, config),
        )
        the_draft(walk)
        with walk.on_terminal("vaultpki apply", "applier") as term:
            term.until("[y/N]", SECONDS)
            term.typed("y")
            assert term.ended(seconds=SECONDS) == 0
        walk.ran("vaultpki enroll --all", "applier")
        walk.joins("cp-1")
        walk.joins("w-1")
        one = walk.adopted()
        one.api.values[BINDINGS], given = items([]), one.api.values[BINDINGS]
        walk.ran("vaultpki issue admin", "operator")
        assert list((cluster.folder / "operator/manifests").glob("kubelet-api-admin.yaml"))
        walk.next("kubectl --kubeconfig admin.conf apply -f operator/manifests")
        one.api.values[BINDINGS] = given
        with passing(one):
            the_adoption(walk, one)
        text = yaml.safe_load(cluster.file.read_text())
        del text["ca"]["also_trust"]
        cluster.file.write_text(yaml.safe_dump(text, sort_keys=False))
        with walk.on_terminal("vaultpki apply", "applier") as term:
            term.until("[y/N]", SECONDS)
            term.typed("y")
            assert term.ended(seconds=SECONDS) == 0
        # The machines that only report rotate nothing; tests/conformance/kubeadm has agents that do.
        assert walk.next("vaultpki ca rotate etcd --wait")
        vaultpki("ca", "rotate", "etcd", env=walk.environment("applier"))
        assert not walk.left


def the_draft(walk: Walk) -> None:
    """The inventory on the control plane, whose files come to the operator's folder."""
    root = walk.objects.disk(walk.folder / "cp-1", "cp-1")
    command = walk.next("vaultpki adopt inventory")
    walk.compare(command, vaultpki(*walk.words(command), "--machine", root).stdout)
    assert walk.next("scp -p 'root@cp-1:cluster.yaml' 'root@cp-1:old-*.crt'")


def the_adoption(walk: Walk, one: AdoptedCluster) -> None:
    with walk.on_terminal("vaultpki adopt start", "adopter") as term:
        agree(term, "runs the only kube-apiserver", AGREE)
        agree(term, "cluster-info", AGREE)
        term.until("waits for pods", SECONDS)
        assert walk.next("kubectl --kubeconfig admin.conf --namespace kube-system rollout restart daemonset kube-proxy")
        one.restart_pods()
        at = len(term.shown)
        term.until(WORD, SECONDS)
        term.typed("outside")
        term.until("is closed, waits for outside", SECONDS, since=at)
        term.until(WORD, SECONDS, since=term.shown.rindex("is closed, waits for outside"))
        # The end of input ends the question as Ctrl-C does; a signal could come just before it is read.
        term.typed("\x04")
        assert term.ended(seconds=SECONDS) == 130
    with walk.on_terminal("vaultpki adopt continue", "adopter") as term:
        term.until(WORD, SECONDS)
        term.typed("outside")
        agree(term, "cluster-info", AGREE)
        agree(term, "extension-apiserver-authentication", AGREE)
        agree(term, "The last step", AGREE)
        agree(term, "kubeadm-config", AGREE)
        assert term.ended(seconds=SECONDS) == 0


def agree(term: OnTerminal, about: str, asked: str) -> None:
    """Agree to what is named next."""
    at = len(term.shown)
    if about not in term.shown:
        term.until(about, SECONDS, since=at)
    term.until(asked, SECONDS, since=term.shown.rindex(about))
    term.typed("y")


@contextlib.contextmanager
def passing(one: AdoptedCluster) -> Iterator[None]:
    """Every machine follows the record by itself, as with a resident agent."""
    stop = threading.Event()

    def follow() -> None:
        while not stop.wait(0.3):
            one.now = datetime.now(UTC).replace(microsecond=0) - timedelta(seconds=30)
            one.passes()

    thread = threading.Thread(target=follow)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()
