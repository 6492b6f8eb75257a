"""What counts as started with a bundle, by the clock since boot, and what is said of a component that was not."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from helpers.example_agent import agent_config
from vaultpki.agent import readers_seen
from vaultpki.agent.context import Context, PassOptions
from vaultpki.disk.folders import Folders
from vaultpki.host import boot_time
from vaultpki.host.boot_time import Moment
from vaultpki.host.processes import Process
from vaultpki.issue.issuers import Issuers
from vaultpki.issue.rotations import Rotations
from vaultpki.model import NodeRole
from vaultpki.node.assignment import Assignment
from vaultpki.node.state import AgentState, ReaderSeen, Since, StateFile
from vaultpki.places import PKI
from vaultpki.readers import KUBECONFIG_SERVERS

BOOT = boot_time.boot()
OLD, BOTH = ("4f" * 32,), ("4f" * 32, "9a" * 32)
WANTED = Assignment(0.0, "", "", frozenset({NodeRole.WORKER}), (), (), Issuers({}, ()), {}, Rotations())
BUNDLE = Since(5000.0, BOTH, moment=Moment(BOOT, 100.0))


def process(uptime: float, *, boot: str = BOOT, since: float = 0.0, **changes: object) -> ReaderSeen:
    seen = {"since": since, "sha256": OLD, "moment": Moment(boot, uptime), "running": True, **changes}
    return ReaderSeen(**seen)  # type: ignore[arg-type]


@pytest.mark.parametrize("wall", [0.0, 4999.0, 9e9])
def test_a_start_counts_by_the_clock_since_boot(wall: float) -> None:
    """Somebody may have set the wall clock in between."""
    assert readers_seen.started_with(process(100.5, since=wall), BUNDLE)
    assert not readers_seen.started_with(process(99.5, since=wall), BUNDLE)
    assert not readers_seen.started_with(process(100.0, since=wall), BUNDLE)


def test_after_a_boot_every_process_is_new() -> None:
    before = Since(5000.0, BOTH, moment=Moment("another", 1e6))
    assert readers_seen.started_with(process(3.0), before)


@pytest.mark.parametrize(
    ("seen", "bundle"),
    [
        (None, BUNDLE),
        (process(200.0), None),
        (process(200.0, running=False), BUNDLE),
        (process(200.0), Since(5.0, BOTH)),
        (ReaderSeen(since=9e9, sha256=BOTH, running=True), BUNDLE),
    ],
)
def test_what_is_not_seen_does_not_count(seen: ReaderSeen | None, bundle: Since | None) -> None:
    assert not readers_seen.started_with(seen, bundle)


@pytest.mark.parametrize(("uptime", "known"), [(45.0, OLD), (50.0, ()), (55.0, ())])
def test_what_a_process_read_that_started_during_the_pass_is_not_known(
    tmp_path: Path, uptime: float, known: tuple[str, ...]
) -> None:
    """It may have read the bundle of before or the new one, and a gate must not count it as either."""
    state = StateFile(str(tmp_path / "state"))
    state.at_start = AgentState(bundles={"etcd": Since(0.0, OLD, moment=Moment(BOOT, 40.0))})
    state.value = AgentState(bundles={"etcd": Since(0.0, BOTH, moment=Moment(BOOT, 60.0))})
    with Folders.open({PKI: str(tmp_path / "pki")}) as folders:
        began = Moment(BOOT, 50.0)
        context = Context(agent_config(), PassOptions(()), folders, 1e9, state, None, began=began)
        assert readers_seen._cas_in_memory(context, "etcd", process(uptime, sha256=())) == known


def test_what_is_said_of_a_component() -> None:
    def said(seen: ReaderSeen) -> dict[str, str]:
        return readers_seen.behind(AgentState(readers={"etcd/etcd": seen}, bundles={"etcd": BUNDLE}))

    stale = "etcd was not started again since the bundle of the CA of etcd changed"
    assert said(process(99.0)) == {"etcd/etcd": stale}
    assert said(process(101.0)) == {}
    # It holds the same CAs: the bundle went and came back, or the state of the agent was lost.
    assert said(process(99.0, sha256=BOTH)) == {}
    assert said(process(99.0, sha256=())) == {}
    ill = process(101.0, problem="/readyz answers 500")
    assert said(ill) == {"etcd/etcd": "etcd is not healthy: /readyz answers 500"}
    # Nobody knows whether it should run: the machine may be about to get it, or the agent may not see it.
    assert said(process(99.0, running=False, problem="no process of etcd was seen")) == {}


def test_a_component_runs_with_the_server_of_its_start_until_it_starts_again(tmp_path: Path) -> None:
    """A server that came and went, as a wrong endpoint does, asks for no restart of what has never read it."""
    state, new = StateFile(str(tmp_path / "state")), ("9a" * 32,)
    text = "kube-proxy was not started again since the server in its kubeconfig changed: restart it on this node"
    with Folders.open({PKI: str(tmp_path / "pki")}) as folders:
        context = Context(agent_config(), PassOptions(()), folders, 1e9, state, None)

        def said(servers: tuple[str, ...], changed: float | None, started: float) -> list[str]:
            moment = None if changed is None else Moment(BOOT, changed)
            known = replace(state.value, leaves={KUBECONFIG_SERVERS: Since(0.0, servers, moment=moment)})
            state.value = known
            runs = Process("kube-proxy", 1, Moment(BOOT, started), ())
            found = readers_seen._held_servers(context, WANTED, {"kube-proxy": (runs,), "kube-scheduler": (runs,)})
            state.value = replace(known, readers=found)
            return list(readers_seen.behind(state.value).values())

        assert said(OLD, None, 50.0) == []
        assert said(new, 60.0, 50.0) == [text]
        assert said(OLD, 70.0, 50.0) == []
        assert said(new, 80.0, 50.0) == [text] and said(new, 80.0, 90.0) == []
        # It was started with the other one, or nobody knows with which.
        assert said(OLD, 95.0, 90.0) == [text] and said(OLD, 95.0, 94.0) == [text]


def test_the_moment_of_a_key_is_that_of_its_newest_file() -> None:
    def at(uptime: float, boot: str = BOOT) -> Since:
        return Since(0.0, OLD, moment=Moment(boot, uptime))

    known = AgentState(
        bundles={
            "etcd": at(5.0),
            "kubernetes": at(7.0),
            "root": at(9.0),
            "kubelet": at(9.0, "x"),
            "front-proxy": at(1),
        },
        leaves={"etcd-peer": at(6.0), "kubelet": Since(0.0, OLD)},
    )
    keys = ("etcd-ca", "kubernetes-ca", "etcd-peer", "kubelet", "kube-proxy")
    found = readers_seen.installed(known, keys)
    assert found == {"etcd-ca": Moment(BOOT, 5.0), "kubernetes-ca": Moment(BOOT, 9.0), "etcd-peer": Moment(BOOT, 6.0)}
    # Of two boots the one of now is later, however long the other was.
    booted = AgentState(bundles={"kubernetes": at(900.0, "x"), "root": at(2.0)})
    assert readers_seen.installed(booted, ["kubernetes-ca"]) == {"kubernetes-ca": Moment(BOOT, 2.0)}
