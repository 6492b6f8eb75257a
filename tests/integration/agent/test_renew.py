"""`vaultpki renew`, beside a resident agent and without one; and what is damaged on a node while the agent runs."""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from helpers.node.resident_agent import AT_ONCE, POLL, WORKER, leaves, resident, signs
from helpers.vault.applied_cluster import Ran, Seat, Site, standing, vaultpki
from helpers.vault.servers import Server, wait_for
from vaultpki.agent import state
from vaultpki.disk.store import GRACE


@pytest.fixture
def site(server: Server, tmp_path: Path, cluster_name: str) -> Site:
    return standing(server, tmp_path / "site", cluster_name)


@pytest.fixture
def seat(site: Site) -> Seat:
    seat = site.equip("worker-1", further=f"poll: {POLL}s\n")
    seat.run()
    return seat


def renew(seat: Seat, *names: str, expect: int = 0) -> Ran:
    return vaultpki("renew", "-c", seat.config, *names, expect=expect)


def changed(before: dict[str, object], seat: Seat) -> set[str]:
    return {name for name, found in leaves(seat).items() if found != before[name]}


def test_a_name_or_all_beside_a_resident_agent(site: Site, seat: Seat) -> None:
    """Whoever comes second waits for the other; the agent goes on, and takes what it finds for granted."""
    before: dict[str, object] = {**leaves(seat)}
    since = site.server.audit_position()
    (seat.pki / "kube-proxy.crt").unlink()
    with resident(seat) as agent:
        # It holds the directory while it waits for watchers of what it mends.
        wait_for((seat.pki / "kube-proxy.crt").exists, 20, agent.log.read_text)
        ran = renew(seat, "kubelet")
        assert ran.stdout.splitlines() == ["renewed kubelet"] and ran.stderr == "", ran
        assert changed(before, seat) == {"kubelet", "kube-proxy"}
        now: dict[str, object] = {**leaves(seat)}
        # Every one of them, and none of them twice.
        assert sorted(renew(seat, "--force").stdout.splitlines()) == [f"renewed {name}" for name in sorted(WORKER)]
        assert changed(now, seat) == set(WORKER)
        time.sleep(POLL + 1)
        assert agent.status(expect=0)["ok"]
        assert agent.end() < AT_ONCE
    asked = signs(site.server, site.prefix, since)
    assert {name: asked.count(name) for name in WORKER} == {"kubelet": 2, "kube-proxy": 2, "kubelet-client": 1}


def test_what_is_not_done(site: Site, seat: Seat) -> None:
    before, since = seat.snapshot(), site.server.audit_position()
    assert "name the certificates to renew, or pass --force to renew all of this node" in renew(seat, expect=2).stderr
    said = renew(seat, "kubelet", "apiserver", expect=1).stderr.splitlines()
    assert said == [
        "vaultpki: worker-1 holds no certificate apiserver; it holds kube-proxy, kubelet-client, kubelet"
    ], said
    assert seat.snapshot() == before and signs(site.server, site.prefix, since) == []


@pytest.mark.parametrize("how", ["renew", "once"])
def test_a_hook_that_is_owed_is_said_and_ends_in_exit_3(how: str, seat: Seat) -> None:
    """By the run in which it fails, and by each later one until it has worked, whether or not anything else is done."""
    mended = seat.folder / "mended"
    with seat.config.open("a") as file:
        file.write(f"hooks: {{kubelet: [['true'], [sh, -c, 'test -e {mended}']]}}\n")
    seat.run()

    def run(expect: int) -> Ran:
        return renew(seat, "kubelet", expect=expect) if how == "renew" else seat.run(expect=expect)

    failed = "hook 2 of kubelet (sh) failed with exit code 1; its output is in the agent's log"
    owed = "the hooks of kubelet are still owed, and the next run tries them again"
    if how == "once":
        (seat.pki / "kubelet.crt").write_text("damaged")
        shutil.rmtree(seat.pki / ".vaultpki" / (seat.pki / ".vaultpki/kubelet").readlink())
        (seat.pki / "kubelet.crt").unlink()
    for _ in range(2):
        (said,) = run(expect=3).stderr.splitlines()
        assert said == f"vaultpki: {failed}; {owed}", said
    told = vaultpki("agent", "-c", seat.config, "--once", "--log-format", "json", expect=3)
    event = json.loads(told.stderr)
    assert (event["event"], event["level"], event["hook"]) == ("hook-failed", "warning", "kubelet"), told
    assert "nothing-to-do" not in told.stdout, told
    mended.touch()
    # Nobody who has mended a hook waits for the pause of an agent that stays.
    assert seat.run().stdout.splitlines() == ["ran the hooks of kubelet"]
    assert state.load(str(seat.state)).owed == {}


GARBAGE = (b"", b"{", b"[]", b"null", b'{"version": 1}', b"\xff\x00\xfe" * 100, b"[" * 100_000, b'{"fetched": NaN}')


@pytest.mark.parametrize("file", ["agent.json", "spec.json", "secret-id.json"])
def test_what_the_agent_remembers_may_be_garbage(file: str, site: Site, seat: Seat) -> None:
    """Nothing is signed for it, and nobody is told more than there is to do."""
    before, since = leaves(seat), site.server.audit_position()
    for garbage in GARBAGE:
        path = seat.state / file
        path.touch(mode=0o600)
        path.write_bytes(garbage)
        if garbage is GARBAGE[-1]:
            shown = vaultpki("status", "-c", seat.config, "--offline", expect=3 if file == "spec.json" else 0)
            assert "Traceback" not in shown.stdout + shown.stderr
        ran = seat.run()
        assert ran.stderr == "", (garbage[:20], ran)
    assert leaves(seat) == before and signs(site.server, site.prefix, since) == []


def one_link(seat: Seat) -> None:
    (seat.pki / "kube-proxy.key").unlink()


def a_whole_pair(seat: Seat) -> None:
    shutil.rmtree(seat.pki / ".vaultpki" / (seat.pki / ".vaultpki/kubelet").readlink())


def a_bundle(seat: Seat) -> None:
    (seat.pki / "kubernetes-ca.crt").unlink()


def everything(seat: Seat) -> None:
    shutil.rmtree(seat.pki)


def its_memory(seat: Seat) -> None:
    (seat.state / "agent.json").unlink()
    (seat.state / "spec.json").unlink()


DAMAGES: tuple[tuple[Callable[[Seat], None], ...], ...] = (
    (one_link, a_whole_pair, a_bundle),
    (everything, its_memory),
)


def test_what_is_taken_away_while_it_runs_is_back_within_the_poll_interval(site: Site, seat: Seat) -> None:
    names = {path.name for path in seat.pki.iterdir()}

    def complete() -> bool:
        there = {path.name for path in seat.pki.iterdir() if path.exists()} if seat.pki.exists() else set()
        return there == names and (seat.state / "spec.json").exists()

    with resident(seat) as agent:
        agent.await_said("has started", 20)
        for damages in DAMAGES:
            for damage in damages:
                damage(seat)
            wait_for(complete, POLL + GRACE + 5, agent.log.read_text)
            leaves(seat)
        assert [event for event in agent.events() if event["level"] == "error"] == []
        assert agent.end() < AT_ONCE
    seat.run()
