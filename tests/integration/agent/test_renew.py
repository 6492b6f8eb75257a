"""`vaultpki renew`, beside a resident agent and without one; and what is damaged on a node while the agent runs."""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from helpers.faults.unexpected_files import removed
from helpers.node.passes import passed, passed_well
from helpers.node.resident_agent import AT_ONCE, POLL, WORKER, leaves, resident, signs
from helpers.vault.applied_cluster import AppliedCluster, NodeFolder, Ran, vaultpki
from helpers.vault.servers import wait_for
from vaultpki.disk.store import OLD_FILES_GRACE
from vaultpki.node import state
from vaultpki.pki import x509
from vaultpki.redact import stamp

pytestmark = pytest.mark.on_node


@pytest.fixture
def node(shared: AppliedCluster, tmp_path: Path) -> NodeFolder:
    node = shared.equip("worker-1", folder=tmp_path / "worker-1", further=f"poll: {POLL}s\n")
    passed_well(node)
    return node


def renew(node: NodeFolder, *names: str, expect: int = 0) -> Ran:
    return vaultpki("renew", "-c", node.config, *names, expect=expect)


def changed(before: dict[str, object], node: NodeFolder) -> set[str]:
    return {name for name, found in leaves(node).items() if found != before[name]}


def test_a_name_or_all_beside_a_resident_agent(shared: AppliedCluster, node: NodeFolder) -> None:
    """Whoever comes second waits for the other; the agent goes on, and takes what it finds for granted."""
    before: dict[str, object] = {**leaves(node)}
    since = shared.server.audit_position()
    (node.pki / "kube-proxy.crt").unlink()
    with resident(node) as agent:
        # It holds the directory while it waits for watchers of what it mends.
        wait_for((node.pki / "kube-proxy.crt").exists, 20, agent.log.read_text)
        ran = renew(node, "kubelet")
        assert ran.stdout.splitlines() == ["renewed kubelet"] and ran.stderr == "", ran
        assert changed(before, node) == {"kubelet", "kube-proxy"}
        now: dict[str, object] = {**leaves(node)}
        # Every one of them, and none of them twice.
        assert sorted(renew(node, "--all").stdout.splitlines()) == [f"renewed {name}" for name in sorted(WORKER)]
        assert changed(now, node) == set(WORKER)
        time.sleep(POLL + 1)
        assert agent.status(expect=0)["ok"]
        assert agent.end() < AT_ONCE
    asked = signs(shared.server, shared.prefix, since)
    assert {name: asked.count(name) for name in WORKER} == {"kubelet": 2, "kube-proxy": 2, "kubelet-client": 1}


def test_what_is_not_done(shared: AppliedCluster, node: NodeFolder) -> None:
    before, since = node.snapshot(), shared.server.audit_position()
    assert "name the certificates to renew, or pass --all to renew all of this node" in renew(node, expect=2).stderr
    said = renew(node, "kubelet", "apiserver", expect=1).stderr.splitlines()
    assert said == [
        "vaultpki: worker-1 holds no certificate apiserver; it holds kube-proxy, kubelet-client, kubelet"
    ], said
    assert node.snapshot() == before and signs(shared.server, shared.prefix, since) == []


def test_what_a_program_reads(node: NodeFolder) -> None:
    ran = renew(node, "kubelet", "--json")
    leaf = x509.read_certificates((node.pki / "kubelet.crt").read_bytes())[0]
    renewed = [{"name": "kubelet", "serial": f"{leaf.serial:x}", "not_after": stamp(leaf.not_after)}]
    assert ran.stderr == "" and json.loads(ran.stdout)["renewed"] == renewed, ran
    with node.config.open("a") as file:
        file.write("hooks: {kubelet: [['false']]}\n")
    passed(node, asks=False)
    ran = renew(node, "kubelet", "--json", expect=3)
    document = json.loads(ran.stdout)
    assert (document["node"], document["ok"], document["hooks_owed"]) == ("worker-1", False, ["kubelet"]), ran
    assert "are still owed" in ran.stderr and "PRIVATE KEY" not in ran.stdout


@pytest.mark.parametrize("how", ["renew", "once"])
def test_a_hook_that_is_owed_is_said_and_ends_in_exit_3(how: str, node: NodeFolder) -> None:
    """By the run in which it fails, and by each later one until it has worked, whether or not anything else is done."""
    mended = node.folder / "mended"
    with node.config.open("a") as file:
        file.write(f"hooks: {{kubelet: [['true'], [sh, -c, 'test -e {mended}']]}}\n")
    passed(node, asks=False)

    def run(expect: int) -> Ran:
        return renew(node, "kubelet", expect=expect) if how == "renew" else node.run(expect=expect)

    failed = "hook 2 of kubelet (sh) failed with exit code 1; its output is in the agent's log"
    owed = "the hooks of kubelet are still owed, and the next run tries them again"
    if how == "once":
        (node.pki / "kubelet.crt").write_text("damaged")
        shutil.rmtree(generation(node, "kubelet"))
        (node.pki / "kubelet.crt").unlink()
    for number in range(2):
        *others, said = run(expect=3).stderr.splitlines()
        assert said == f"vaultpki: {failed}; {owed}", said
        # The damage is told in the pass that mends it.
        assert len(others) == (how == "once" and number == 0), others
    told = vaultpki("agent", "-c", node.config, "--once", "--log-format", "json", expect=3)
    event = json.loads(told.stderr)
    assert (event["event"], event["level"], event["hook"]) == ("hook-failed", "warning", "kubelet"), told
    assert "nothing-to-do" not in told.stdout, told
    mended.touch()
    # Nobody who has mended a hook waits for the pause of an agent that stays.
    assert node.run().stdout.splitlines() == ["ran the hooks of kubelet"]
    assert state.load(str(node.state)).owed == {}


GARBAGE = (b"", b"{", b"[]", b"null", b'{"version": 1}', b"\xff\x00\xfe" * 100, b"[" * 100_000, b'{"fetched": NaN}')


@pytest.mark.parametrize("file", ["agent.json", "spec.json", "secret-id.json"])
def test_what_the_agent_remembers_may_be_garbage(file: str, shared: AppliedCluster, node: NodeFolder) -> None:
    """Nothing is signed for it, and nobody is told more than there is to do."""
    before, since = leaves(node), shared.server.audit_position()
    for garbage in GARBAGE:
        path = node.state / file
        path.touch(mode=0o600)
        path.write_bytes(garbage)
        if garbage is GARBAGE[-1]:
            shown = vaultpki("status", "-c", node.config, "--offline", expect=3 if file == "spec.json" else 0)
            assert "Traceback" not in shown.stdout + shown.stderr
        outcome = passed(node, asks=False)
        told = [event for event in outcome.events if event.level != "info"]
        assert not outcome.failures and not told, (garbage[:20], told)
    assert leaves(node) == before and signs(shared.server, shared.prefix, since) == []


def generation(node: NodeFolder, name: str) -> Path:
    return node.pki / ".vaultpki" / (node.pki / ".vaultpki" / name).readlink()


DAMAGES: tuple[Callable[[NodeFolder], list[Path]], ...] = (
    # A link, a whole pair, a bundle; then everything, and what the agent remembers.
    lambda node: [node.pki / "kube-proxy.key", generation(node, "kubelet"), node.pki / "kubernetes-ca.crt"],
    lambda node: [node.pki, node.state / "agent.json", node.state / "spec.json"],
)


def test_what_is_taken_away_while_it_runs_is_back_within_the_poll_interval(node: NodeFolder) -> None:
    names = {path.name for path in node.pki.iterdir()}

    def complete() -> bool:
        there = {path.name for path in node.pki.iterdir() if path.exists()} if node.pki.exists() else set()
        return there == names and (node.state / "spec.json").exists()

    with resident(node) as agent:
        agent.await_said("has started", 20)
        for damage in DAMAGES:
            for path in damage(node):
                removed(path)
            wait_for(complete, POLL + OLD_FILES_GRACE + 5, agent.log.read_text)
            leaves(node)
        assert {event["event"] for event in agent.events() if event["level"] == "error"} == {"tampered"}
        assert agent.end() < AT_ONCE
    node.run()
