"""The resident agent against a Vault whose answers are wrong, and where something else answers."""

from __future__ import annotations

import itertools
import signal
import time
from typing import Any

import pytest

from helpers.faults.hostile_server import Guest, serving
from helpers.faults.kill_points import NEVER, died
from helpers.node import resident_agent
from helpers.node.passes import passed, passed_well
from helpers.node.resident_agent import AT_ONCE, PASS, POLL, leaf, leaves, polling_node, resident, short_and_long
from helpers.vault.cluster_factory import ClusterFactory
from helpers.vault.servers import Server, wait_for
from vaultpki.node import backoff

# What is wrong stands between the server and the agent.
pytestmark = pytest.mark.on_node


def test_wrong_signatures_are_asked_for_few_times(server: Server, clusters: ClusterFactory) -> None:
    """Every answer holds the certificate of another key, and the agent is killed again and again."""
    cluster = clusters.applied(short_and_long("30s"))
    node = polling_node(cluster)
    foreign: dict[str, Any] = {}

    def swapped(method: str, path: str, status: int, body: dict[str, Any]) -> tuple[int, dict[str, Any]]:
        """The first certificate that was signed for a role, again and again: of another key, as a mirror would do."""
        if "/sign/" in path and status == 200:
            return status, foreign.setdefault(path, body)
        return status, body

    with resident_agent.proxy(server, swapped) as between:
        node.configure(server.address, between.address)
        passed_well(node)
        good = leaves(node)
        # Wanted again, though the ones that lie there are good.
        cluster.write(short_and_long("30s") + "certificates:\n  kubelet: {extra_names: [kubelet.example.com]}\n")
        cluster.apply()
        began = time.time()
        # Each in a process of its own, at one moment; one of them dies between the asking and the answer.
        for start in range(2 * backoff.AT_ONCE):
            died(lambda: passed(node, clock=began), 3 if start == 5 else NEVER)
        asked = between.count("/sign/kubelet", began)
        assert 0 < asked <= backoff.AT_ONCE + 4, asked
        assert leaves(node) == good
        # Once it is honest, a pause is all there is to wait for.
        between.alter = resident_agent.honest
        with resident(node) as agent:
            wait_for(
                lambda: "kubelet.example.com" in leaf(node, "kubelet").subject.dns, 40, agent.log.read_text, pause=0.5
            )


LIES: tuple[object, ...] = (
    b"<html>please log in</html>",
    {"errors": ["internal error"]},
    {"auth": {"client_token": "hvs.nothing"}},
    {"data": {"keys": ["x"] * 1000}},
    {},
)


def test_good_pairs_stay_where_something_else_answers(server: Server, clusters: ClusterFactory) -> None:
    """It is asked now and then only, and the agent renews once agent.yaml names a Vault again."""
    answers = itertools.cycle((status, body) for body in LIES for status in (200, 500, 403))

    def lie(guest: Guest) -> None:
        while True:
            guest.request()
            status, body = next(answers)
            guest.answer(status, body)

    node = polling_node(clusters.applied(resident_agent.SPEC))
    passed_well(node)
    before = leaves(node)
    honest = node.config.read_text()
    with serving(lie) as other:
        node.configure(server.address, other.address)
        with resident(node) as agent:
            time.sleep(2 * POLL + 15)
            assert leaves(node) == before
            asked = other.heard.count(b"HTTP/1.1\r\n")
            assert 2 <= asked <= 150, asked
            assert agent.said("the first certificate here ends at")
            node.config.write_text(honest)
            agent.process.send_signal(signal.SIGHUP)
            agent.await_said("renewed kubelet", POLL + PASS)
            assert agent.end() < AT_ONCE
