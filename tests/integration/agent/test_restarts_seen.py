"""What a node's agent sees and reports of etcd, whoever restarts it: real processes, and records made by hand."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from helpers.node import node_components
from helpers.node.node_components import NodeComponents
from helpers.node.resident_agent import PASS, resident
from helpers.vault.applied_cluster import Seat, Site, vaultpki
from helpers.vault.handmade_rotation import Rotation
from helpers.vault.servers import Server, wait_for
from vaultpki.agent import readers_seen, run, state
from vaultpki.model import NodeRole
from vaultpki.spec import load_agent, node_report
from vaultpki.spec.node_report import NodeReport, ReaderReport
from vaultpki.spec.rotation_record import State

SPEC = """\
api_server: {endpoint: "https://api.example.com:6443", names: [api.example.com]}
nodes:
- {name: etcd-1, roles: [etcd], addresses: [10.0.0.11]}
"""


@pytest.fixture
def site(server: Server, tmp_path: Path, cluster_name: str) -> Site:
    made = Site(server, tmp_path / "site", cluster_name)
    made.write(SPEC)
    made.apply()
    return made


@pytest.fixture
def member(site: Site) -> Iterator[NodeComponents]:
    seat = site.equip("etcd-1")
    passed(seat)
    with node_components.standing(seat, frozenset({NodeRole.ETCD})) as components:
        yield components


def passed(seat: Seat, clock: float | None = None) -> None:
    if (seat.state / "spec.json").exists():
        seat.age(1e7)
    assert not run.run(load_agent(seat.config), run.Options(settle=False), clock=clock).failures


def report(site: Site) -> NodeReport:
    found = node_report.read(site.read(site.report_path("etcd-1"))["data"])
    assert found is not None
    return found


def etcd(site: Site) -> ReaderReport:
    return report(site).readers["etcd/etcd"]


def current(told: NodeReport) -> bool:
    """Whether etcd was started with the bundle, as a gate compares it."""
    started = told.readers["etcd/etcd"].started
    return started is not None and started >= told.bundles["etcd"].installed


def status(seat: Seat) -> dict[str, str]:
    return readers_seen.behind(state.load(str(seat.state)))


def test_a_restart_counts_when_it_is_seen_and_not_when_a_hook_has_succeeded(site: Site, member: NodeComponents) -> None:
    seat = member.seat
    seat.config.write_text(f'{seat.config.read_text()}\nhooks: {{etcd-ca: [["true"]]}}\n')
    passed(seat)
    assert current(report(site)) and etcd(site).healthy
    rotation = Rotation.of(site, "etcd")
    rotation.turn("etcd-1")
    old, both = {rotation.old.sha256}, {rotation.old.sha256, rotation.new.sha256}
    passed(seat)
    told = report(site)
    # As with a kubelet that is stopped.
    assert told.owed == () and told.bundles["etcd"].sha256 == both
    assert told.readers["etcd/etcd"].sha256 == old and not current(told) and told.readers["etcd/etcd"].running
    assert "etcd was not started again since" in vaultpki("status", "-c", seat.config).stdout
    # Somebody restarts it by hand, and it is not healthy at first.
    member["etcd"].answers(500, "[-]etcd failed")
    member["etcd"].restart()
    passed(seat)
    assert current(report(site)) and etcd(site).sha256 == both and not etcd(site).healthy
    assert "500" in etcd(site).problem and "500" in status(seat)["etcd/etcd"]
    member["etcd"].answers(200, "ok")
    passed(seat)
    assert etcd(site).healthy and etcd(site).problem == "" and status(seat) == {}
    # What is not there is not running, and nothing of the process before counts for the next one.
    member["etcd"].stop()
    passed(seat)
    assert (etcd(site).running, etcd(site).healthy, etcd(site).started) == (False, False, None)
    assert "no process of etcd" in etcd(site).problem
    member["etcd"].start()
    member["etcd"].serves()
    passed(seat)
    assert current(report(site)) and etcd(site).healthy


def test_the_wall_clock_may_be_set_before_a_bundle_comes(site: Site, member: NodeComponents) -> None:
    """Neither way does a start count that came before the bundle, or not count that came after it."""
    seat, rotation = member.seat, None
    for minutes in (-4, 4):
        passed(seat)
        if rotation is None:
            rotation = Rotation.of(site, "etcd")
        else:
            rotation.move(State.SWITCHED)
            rotation.move(State.RETIRED)
        passed(seat, time.time() + minutes * 60)
        assert not current(report(site))
        member["etcd"].restart()
        passed(seat)
        assert current(report(site))


def test_a_resident_agent_looks_again_while_a_rotation_waits_and_reports_at_once(
    site: Site, member: NodeComponents
) -> None:
    """With a poll of an hour, and without a request until there is something to report."""
    seat = member.seat
    seat.config.write_text(f"{seat.config.read_text()}\npoll: 1h\n")
    Rotation.of(site, "etcd")
    seat.age(1e7)
    with resident(seat) as agent:
        wait_for(lambda: len(report(site).bundles["etcd"].sha256) == 2, PASS, agent.log.read_text)
        assert not current(report(site))
        time.sleep(1.2 * readers_seen.AGAIN)
        since = site.server.audit_position()
        time.sleep(1.2 * readers_seen.AGAIN)
        assert site.server.requests(since) == []
        member["etcd"].restart()
        wait_for(lambda: current(report(site)) and etcd(site).healthy, PASS + readers_seen.AGAIN, agent.log.read_text)
