"""The resident agent on a machine whose clock is wrong."""

from __future__ import annotations

import signal
import time
from datetime import UTC, datetime
from pathlib import Path

import pytest

from helpers.node import resident_agent
from helpers.node.resident_agent import AT_ONCE, PASS, POLL, faked, leaves, polling_node, resident, signs
from helpers.vault.cluster_factory import ClusterFactory
from helpers.vault.servers import Server
from vaultpki.node import backoff

pytestmark = pytest.mark.on_node


def test_a_wrong_clock_is_reported_and_nothing_is_signed(
    server: Server, tmp_path: Path, clusters: ClusterFactory
) -> None:
    """It is behind by an hour and by a day, then ahead by a day; the agent continues once it is set right."""
    cluster = clusters.applied(resident_agent.SPEC)
    node = polling_node(cluster)
    env, set_clock = faked(tmp_path)

    def set_right(times: int) -> None:
        set_clock("+0s")
        agent.process.send_signal(signal.SIGHUP)
        agent.await_said("well again", POLL + PASS, times)
        assert all(found.not_after > datetime.now(UTC) for found in leaves(node).values())

    set_clock("+0s")
    # Once its offset has changed, libfaketime has sleep(3) fail, as no kernel does: the pause for watchers is
    # interrupted.
    with resident(node, env=env, foreign="OSError in vaultpki.disk.store") as agent:
        agent.await_issued()
        for number, to in enumerate(("-1h", "-1d"), 1):
            set_clock(to)
            agent.await_said("behind Vault's; set it right", POLL + PASS, number)
            since = server.audit_position()
            time.sleep(POLL + 2)
            assert signs(server, cluster.prefix, since) == []
            set_right(number)
        assert len(agent.said("behind Vault's")) == 2, agent.log.read_text()
        # Ahead, every certificate seems to have ended, and what Vault signs then too.
        since = server.audit_position()
        set_clock("+1d")
        agent.await_said("ahead of Vault's; set it right", POLL + PASS)
        time.sleep(POLL)
        assert len(signs(server, cluster.prefix, since)) <= 3 * backoff.AT_ONCE
        set_right(3)
        assert agent.end() < AT_ONCE
