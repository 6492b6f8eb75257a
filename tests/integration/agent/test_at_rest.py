"""A resident agent at rest: one read at a poll, a look at everything each hour or when something may have changed."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from helpers.node.simulated_agent import ONE_WORKER, SimulatedAgent, delete_entities, put_changes, settle
from helpers.vault.applied_cluster import AppliedCluster
from helpers.vault.cluster_factory import ClusterFactory
from helpers.vault.handmade_rotation import successor
from vaultpki.agent import run
from vaultpki.errors import Denied
from vaultpki.records.changes import LONGEST_LOOK

# What the agent asks for, and when; tests/integration/daemon/test_changes.py is on both servers.
pytestmark = pytest.mark.on_node

POLL = 300


class Agent(SimulatedAgent):
    """One whose requests are told."""

    def after(self, seconds: float = POLL, *, share: float = run.DAEMON_SHARE) -> list[tuple[str, str]]:
        """A pass after `seconds`, and what it asked: operations and paths below the cluster's prefix."""
        since = self.cluster.server.audit_position()
        self.at(self.clock + seconds, share=share)
        prefix = f"{self.cluster.prefix}/"
        asked = self.cluster.server.requests(since)
        return [(operation, path.replace(prefix, "", 1)) for operation, path in asked if prefix in path]

    @property
    def token(self) -> str:
        assert self.outcome.rest is not None, self.outcome.failures
        return self.outcome.rest.vault.settings.token


POLLED = [("read", "config/data/changes")]


def is_look(asked: list[tuple[str, str]]) -> bool:
    """Whether these requests look at everything, after a login, and read the record of changes first."""
    paths = [path for _, path in asked]
    whole = {"config/data/cluster", "config/data/rotation/root", "root/issuers/", "etcd/issuers/"}
    records = [path for path in paths if path.startswith("config/data/")]
    return whole <= set(paths) and paths[0].endswith("/login") and records[0] == "config/data/changes"


@pytest.fixture(scope="module")
def cluster(shared_clusters: ClusterFactory) -> AppliedCluster:
    return shared_clusters.applied(ONE_WORKER)


@pytest.fixture
def agent(cluster: AppliedCluster, tmp_path: Path) -> Iterator[Agent]:
    """An agent that has looked at everything, of a node in a new folder."""
    with Agent.standing(cluster, tmp_path / "worker-1") as made:
        yield made


def test_an_hour_at_rest_is_one_read_a_poll_and_one_look(agent: Agent) -> None:
    kept = agent.token
    hour = [agent.after() for _ in range(12)]
    looks = [index for index, asked in enumerate(hour) if is_look(asked)]
    assert len(looks) == 1 and looks[0] >= 9, hour
    for asked in hour[: looks[0]] + hour[looks[0] + 1 :]:
        assert asked == POLLED, asked
    # The look has replaced the token, and written the report. An issuer's certificate never changes.
    assert agent.token != kept and not [path for _, path in hour[looks[0]] if "/issuer/" in path]
    assert ("update", "config/data/reports/listed/worker-1") in hour[looks[0]]
    # The node knows too when nobody makes its passes any more, as who reads that report does.
    assert agent.outcome.state.next_within == LONGEST_LOOK + 2 * 300


def test_the_token_is_in_memory_only(agent: Agent) -> None:
    for _ in range(2):
        agent.after()
    held = agent.token.encode()
    folder = agent.node.config.parent
    files = [path for path in folder.rglob("*") if path.is_file()]
    assert len(files) > 10 and not [path for path in files if held in path.read_bytes()]
    assert agent.token not in repr(agent.outcome)


@pytest.mark.parametrize("kind", ["same content", "changing", "garbled", "removed", "deleted for good"])
def test_a_record_that_is_not_the_one_seen_is_followed_by_a_look_at_once(agent: Agent, kind: str) -> None:
    """Also where the same content is written again: a node that saw the one before may have missed what it told."""
    assert agent.after() == POLLED
    path = f"{agent.cluster.prefix}/config"
    if kind == "same content":
        settle(agent.cluster)
    elif kind == "changing":
        settle(agent.cluster, settled=False)
    elif kind == "garbled":
        put_changes(agent.cluster, {"state": ["settled"]})
    else:
        way = "data" if kind == "removed" else "metadata"
        assert agent.cluster.server.api("DELETE", f"{path}/{way}/changes").status == 204
    asked = agent.after()
    assert asked[0] == POLLED[0] and is_look(asked[1:]), asked
    again = agent.after()
    # Nothing tells this node any more when it has seen it all, so each poll looks.
    assert again == POLLED if kind == "same content" else is_look(again), again
    settle(agent.cluster)
    agent.after()
    assert agent.after() == POLLED


def test_a_record_of_the_same_version_and_another_time_is_noticed(agent: Agent) -> None:
    """One that was deleted and written again counts from one, as may one of a snapshot that was restored."""
    path = f"{agent.cluster.prefix}/config/metadata/changes"
    for _ in range(2):
        assert agent.cluster.server.api("DELETE", path).status == 204
        settle(agent.cluster)
        assert is_look(agent.after()[1:])
        assert agent.outcome.rest is not None and agent.outcome.rest.mark.version == 1
    assert agent.after() == POLLED


def test_what_no_record_tells_is_seen_within_the_hour(clusters: ClusterFactory) -> None:
    """An applier of 0.1.0, or one who writes and does not tell, delays a node by no more than that."""
    cluster = clusters.applied(ONE_WORKER)
    settle(cluster)
    agent = Agent(cluster, cluster.equip("worker-1"))
    agent.after(0)
    successor(cluster, "etcd")
    bundle = agent.node.pki / "etcd-ca.crt"
    assert agent.after() == POLLED and bundle.read_text().count("BEGIN") == 1
    assert sum(is_look(agent.after()) for _ in range(11)) == 1
    assert bundle.read_text().count("BEGIN") == 2


def test_a_token_that_ended_costs_a_login(agent: Agent) -> None:
    """As after `lock` and another join file: the entity is deleted, and the next login makes another one."""
    assert agent.outcome.rest is not None
    delete_entities(agent.cluster)
    kept = agent.token
    with pytest.raises(Denied):
        agent.outcome.rest.vault.stored(f"{agent.cluster.prefix}/config", "changes")
    asked = agent.after()
    assert is_look(asked[1:]) and agent.token != kept, asked
    assert agent.after() == POLLED


def test_a_person_who_asks_gets_a_look(agent: Agent) -> None:
    assert is_look(agent.after(5, share=0.0))


def test_a_clock_that_was_set_back_does_not_put_off_a_look(agent: Agent) -> None:
    agent.after()
    assert is_look(agent.after(-2 * POLL))


def test_a_changed_agent_yaml_is_followed_by_a_look(agent: Agent) -> None:
    agent.node.configure("worker-1", "worker-1")
    text = agent.node.config.read_text()
    agent.node.config.write_text(
        text.replace("{", "{poll: 200s, ", 1) if text.startswith("{") else text + "\npoll: 200s\n"
    )
    assert is_look(agent.after())


def test_what_is_due_is_signed_with_the_kept_login(agent: Agent) -> None:
    """Half of a life later one read comes first, and the report after it; nothing else is asked."""
    assert agent.outcome.rest is not None
    kept = agent.token
    (agent.node.pki / "kube-proxy.crt").unlink()
    asked = agent.after()
    assert asked == [
        POLLED[0],
        ("update", "kubernetes/sign/kube-proxy"),
        ("update", "config/data/reports/listed/worker-1"),
    ], asked
    assert agent.token == kept and agent.outcome.renewed == ("kube-proxy",)
    assert agent.after() == POLLED


def test_a_report_is_written_at_a_poll_only_if_it_differs(agent: Agent) -> None:
    place = ("update", "config/data/reports/listed/worker-1")
    assert agent.after() == POLLED
    own = agent.node.pki / "kubernetes-ca.crt"
    own.unlink()
    own.mkdir()
    asked = agent.after()
    assert agent.outcome.failures and place in asked, asked
    assert place not in agent.after()
    own.rmdir()
    assert place in agent.after()
    assert agent.after() == POLLED


def test_a_lost_credential_is_told_at_the_next_poll(agent: Agent) -> None:
    (agent.node.state / "secret-id").rename(agent.node.state / "elsewhere")
    agent.after()
    assert "secret-id is missing" in str(agent.outcome.failures["vault"])


def test_a_refusal_ends_the_rest(agent: Agent) -> None:
    """A CA that this node must sign by may have changed without a word: a look may mend it."""
    api, role = agent.cluster.server.api, f"{agent.cluster.prefix}/kubernetes/roles/kube-proxy"
    before = api("GET", role).data
    assert api("DELETE", role).status in (200, 204)
    (agent.node.pki / "kube-proxy.crt").unlink()
    agent.after()
    assert "kube-proxy" in agent.outcome.failures and agent.outcome.rest is None
    assert api("POST", role, before).status in (200, 204)
    assert is_look(agent.after())
    assert not agent.outcome.failures
