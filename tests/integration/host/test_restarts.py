"""Hooks that restart a component are done when it is seen restarted and healthy: with real processes.

The kubelet and systemd are a thread that starts the process again when its manifest changes, or when it is asked to.
"""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from helpers.node.components import Component
from helpers.vault.servers import free_ports
from vaultpki.host import boot_time, component_health, hook_files, processes, static_pod
from vaultpki.host.boot_time import Moment
from vaultpki.host.hook_runner import Runner
from vaultpki.host.hooks import Job, Result
from vaultpki.host.processes import Process
from vaultpki.model import Hook

TIMEOUT = 60.0
# For what never comes; of a hook that does something first it is `LATER`.
SHORT, LATER = 1.0, 5.0
DIGEST = "0123456789abcdef0123456789abcdef"


class Node:
    """A node with one member of etcd, as a static pod; `unit` restarts it by systemd instead."""

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.pki = folder / "pki"
        self.pki.mkdir()
        self.bundle = self.pki / "etcd-ca.crt"
        self.bundle.touch()
        [port] = free_ports(1)
        self.at = f"127.0.0.1:{port}"
        flags = [f"--trusted-ca-file={self.bundle}", f"--listen-metrics-urls=http://{self.at}"]
        self.etcd = Component("etcd", folder / "etcd", flags)
        self.manifest = folder / "member.yaml"
        pod = {"kind": "Pod", "metadata": {"name": "member"}, "spec": {"containers": [{"command": ["/bin/etcd"]}]}}
        self.manifest.write_text(json.dumps(pod))
        self.pod = Hook("static_pod", name=str(self.manifest))
        self.unit = Hook("systemd", name="etcd.service")
        systemctl = folder / "systemctl"
        systemctl.write_text(f"#!/bin/sh\necho >> {folder}/asked\nexec {' '.join(self.etcd.hook)}\n")
        systemctl.chmod(0o755)
        self.asked = folder / "asked"
        monkeypatch.setattr(hook_files, "PATH", f"{folder}:{hook_files.PATH}")

    def job(self, hook: Hook, timeout: float = TIMEOUT, installed: Moment | None = None, digest: str = DIGEST) -> Job:
        return Job("etcd-ca", digest, (hook,), 0, str(self.pki), timeout, (str(self.pki),), installed)

    def run(
        self, hook: Hook, timeout: float = TIMEOUT, *, installed: Moment | None = None, runner: Runner | None = None
    ) -> Result:
        [result] = (runner or Runner()).run_all([self.job(hook, timeout, installed)])
        return result

    def fails(self, hook: Hook, timeout: float, said: str, *, installed: Moment, runner: Runner) -> None:
        """Retry the hook until its failure is this one: what is done by another process may take longer."""
        until(lambda: self.run(hook, timeout, installed=installed, runner=runner).error.endswith(f" failed: {said}"))

    @property
    def process(self) -> Process:
        [found] = processes.find("etcd", [str(self.bundle)])
        return found

    def healthy(self) -> bool:
        return component_health.why_unhealthy(self.process, TIMEOUT) == ""

    def install(self) -> Moment:
        """Note a moment that is later than every start by now; starts are counted in ticks."""
        time.sleep(0.05)
        return boot_time.now()


@pytest.fixture
def node(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Node:
    return Node(tmp_path, monkeypatch)


def until(true: Callable[[], bool]) -> None:
    end = time.monotonic() + TIMEOUT
    while not true():
        assert time.monotonic() < end, "it did not come in time"
        time.sleep(0.01)


def test_a_static_pod_is_waited_for_until_it_is_healthy(node: Node) -> None:
    with node.etcd.supervised(node.manifest):
        installed = node.install()
        # As the kubelet, which takes half a minute for it.
        node.etcd.slow(1.0)
        result = node.run(node.pod, installed=installed)
        assert (result.ok, result.error, node.etcd.starts) == (True, "", 2)
        assert node.process.started.later_than(installed) and node.healthy()
        # Whoever restarted it meanwhile: what is new and healthy already is left alone.
        assert node.run(node.pod, installed=installed).ok
        assert node.etcd.starts == 2


def test_a_unit_is_restarted_and_waited_for(node: Node) -> None:
    with node.etcd.supervised():
        node.etcd.slow(1.0)
        result = node.run(node.unit)
        assert (result.ok, result.error, node.etcd.starts) == (True, "", 2)
        assert node.healthy()


def test_a_component_without_a_manifest(node: Node, monkeypatch: pytest.MonkeyPatch) -> None:
    """Before kubeadm has made it, and after a reset, there is nothing to restart; one that runs is another matter."""
    monkeypatch.setattr(static_pod, "MANIFEST_FOLDER", str(node.pki))
    hook = Hook("static_pod", name="etcd")
    assert node.run(hook).ok
    with node.etcd.supervised():
        assert node.run(hook).error == (
            f"hook 1 of etcd-ca (static pod etcd) failed: {node.pki}/etcd.yaml is missing, and etcd runs: correct the "
            "hook, or put the manifest back"
        )
        assert node.etcd.starts == 1


def test_a_static_pod_that_is_never_restarted_is_a_failure(node: Node) -> None:
    with node.etcd.supervised():
        said = (
            f"hook 1 of etcd-ca (static pod {node.manifest}) failed: etcd was not restarted within 1 s: does the "
            "kubelet run?"
        )
        # Tried again, since a process that is just being forked looks like a second one.
        until(lambda: node.run(node.pod, SHORT).error == said)


def test_a_unit_that_does_not_run_the_component_is_a_failure(node: Node) -> None:
    # Somebody has started it by hand, and systemd knows nothing of it.
    (node.manifest.parent / "systemctl").write_text("#!/bin/sh\n")
    with node.etcd.supervised():
        result = node.run(node.unit, LATER)
        assert result.error == (
            "hook 1 of etcd-ca (restart of etcd.service) failed: etcd was not restarted within 5 s: does the unit "
            "etcd.service run it?"
        )


def test_one_that_never_becomes_healthy_is_a_failure_that_says_why(node: Node) -> None:
    with node.etcd.supervised(node.manifest):
        node.etcd.answers(503, "[+]data_corruption ok\n[-]linearizable_read failed: timed out\n")
        said = "etcd was restarted and is not healthy after 1 s: /readyz answers 503 (linearizable_read)"
        node.fails(node.pod, SHORT, said, installed=node.install(), runner=Runner())
        assert node.etcd.starts == 2


@pytest.mark.parametrize("kind", ["pod", "unit"])
def test_a_slow_member_is_restarted_once_however_often_its_hook_is_retried(node: Node, kind: str) -> None:
    hook = node.pod if kind == "pod" else node.unit
    runner = Runner()
    with node.etcd.supervised(node.manifest):
        node.etcd.slow()
        installed = node.install()
        for timeout in (LATER, SHORT):
            said = f"etcd was restarted and is not healthy after {timeout:g} s: nothing answers at {node.at}"
            node.fails(hook, timeout, said, installed=installed, runner=runner)
        manifest = node.manifest.read_bytes()
        node.etcd.release()
        assert node.run(hook, installed=installed, runner=runner).ok and node.healthy()
        # An agent that was restarted meanwhile knows it by its start.
        assert node.run(hook, installed=installed).ok
        assert node.etcd.starts == 2 and node.manifest.read_bytes() == manifest


def test_one_that_is_away_at_the_retry_is_waited_for(node: Node) -> None:
    runner = Runner()
    with node.etcd.supervised():
        installed = node.install()
        assert not node.run(node.pod, SHORT, installed=installed, runner=runner).ok
        node.etcd.stop()
        result = node.run(node.pod, SHORT, installed=installed, runner=runner)
        assert result.error.endswith(
            " failed: etcd was stopped and does not run again after 1 s: look at its log and the kubelet's"
        )


def test_what_did_not_run_before_is_not_waited_for(node: Node) -> None:
    result = node.run(node.pod, installed=boot_time.now())
    assert result.ok and static_pod.ANNOTATION in node.manifest.read_text()


def test_a_pod_that_is_no_component_is_not_waited_for(node: Node) -> None:
    other = node.manifest.with_name("haproxy.yaml")
    other.write_text(node.manifest.read_text().replace("/bin/etcd", "haproxy"))
    with node.etcd.supervised():
        assert node.run(Hook("static_pod", name=str(other))).ok


def test_a_file_that_came_back_restarts_the_pod_again(node: Node) -> None:
    """It was another one in between, which the component may have started with."""
    with node.etcd.supervised(node.manifest):
        first = node.install()
        assert node.run(node.pod, installed=first).ok and node.etcd.starts == 2
        again = node.install()
        assert node.run(node.pod, installed=again).ok and node.etcd.starts == 3
        assert node.process.started.later_than(again)


def test_a_hook_that_keys_share_counts_from_the_newest_of_their_files(node: Node) -> None:
    with node.etcd.supervised(node.manifest):
        before = node.install()
        runner, hook = Runner(), node.pod
        assert node.run(hook, installed=before, runner=runner).ok and node.etcd.starts == 2
        jobs = [
            replace(node.job(hook, installed=installed), key=key)
            for key, installed in (("etcd-ca", before), ("etcd-server", node.install()))
        ]
        assert [result.ok for result in runner.run_all(jobs)] == [True, True]
        assert node.etcd.starts == 3
        # One of them is tried again alone, later: it has what it needs.
        assert [result.ok for job in jobs for result in runner.run_all([job])] == [True, True]
        assert node.etcd.starts == 3


def test_a_new_process_beside_an_old_one_is_not_restarted_again(node: Node, tmp_path: Path) -> None:
    with node.etcd.supervised():
        old = Component("etcd", tmp_path / "old", [node.etcd.flags[0], "--listen-metrics-urls=http://127.0.0.1:0"])
        with old.supervised():
            runner, installed = Runner(), node.install()
            for timeout in (LATER, SHORT):
                said = f"etcd was restarted, but its process {old.pid} still runs after {timeout:g} s: end that one"
                node.fails(node.unit, timeout, said, installed=installed, runner=runner)
        assert node.run(node.unit, installed=installed, runner=runner).ok
        assert node.etcd.starts == 2


def test_the_end_of_the_agent_ends_the_wait(node: Node) -> None:
    told = threading.Event()
    runner = Runner(done=told.set)
    with node.etcd.supervised():
        runner.submit([node.job(node.pod)])
        until(lambda: static_pod.ANNOTATION in node.manifest.read_text())
        before = time.monotonic()
        runner.stop()
        until(lambda: not any(thread.name == "hooks" for thread in threading.enumerate()))
        assert time.monotonic() - before < TIMEOUT / 2
    # It runs again after the start of the next agent.
    assert runner.results() == () and not told.is_set()
