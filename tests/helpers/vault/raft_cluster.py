"""Three real servers as one raft cluster."""

from __future__ import annotations

import contextlib
import http.client
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from helpers.vault.servers import (
    START_SECONDS,
    UNSEALED,
    Server,
    configuration,
    free_ports,
    product_of,
    runner_of,
    wait_for,
    write_tls,
)

CLUSTER_SECONDS = 90.0
# Half a minute less until every node has a vote, and ten seconds until another one leads.
_EAGER = """\
  performance_multiplier = 2
  autopilot_update_interval = "500ms"
  autopilot_reconcile_interval = "1s"
"""


@dataclass(frozen=True)
class Place:
    """Where a node is: its address, and what is put before its command to run it there."""

    host: str = "127.0.0.1"
    before: Sequence[str] = ()


@dataclass(frozen=True, slots=True)
class Cluster:
    """Three servers that share their storage by raft; the nodes have one root token and one CA file."""

    nodes: tuple[Server, Server, Server]

    @property
    def token(self) -> str:
        return self.nodes[0].token

    @property
    def ca_file(self) -> Path:
        return self.nodes[0].ca_file

    @property
    def addresses(self) -> tuple[str, ...]:
        return tuple(node.address for node in self.nodes)

    def living(self) -> list[Server]:
        return [node for node in self.nodes if node.runner.alive()]

    def leader(self, seconds: float = CLUSTER_SECONDS) -> Server:
        """The node that leads and takes requests, waited for up to `seconds`."""
        found: list[Server] = []

        def look() -> bool:
            found[:] = [node for node in self.living() if self._health(node) == http.HTTPStatus.OK]
            return len(found) == 1

        wait_for(look, seconds, lambda: f"no node leads:\n{self.living()[0].runner.log()}", pause=0.1)
        return found[0]

    def standbys(self) -> list[Server]:
        leader = self.leader()
        return [node for node in self.living() if node is not leader]

    def await_voters(self) -> None:
        """Raft's new nodes have no vote at first; a leader killed before that is a quorum lost for good."""

        def all_vote() -> bool:
            answer = self.leader().api("GET", "sys/storage/raft/configuration")
            servers = answer.data["config"]["servers"] if answer.status == http.HTTPStatus.OK else []
            return [server["voter"] for server in servers] == [True] * len(self.nodes)

        wait_for(all_vote, CLUSTER_SECONDS, lambda: "not every node of the cluster came to vote", pause=0.2)

    def _health(self, node: Server) -> int:
        try:
            return node.api("GET", "sys/health", token="", timeout=2).status
        except (OSError, http.client.HTTPException):
            return 0


@contextlib.contextmanager
def running_cluster(
    kind: str,
    folder: Path,
    vault_binary: Path | None = None,
    *,
    raft: str = _EAGER,
    audit: bool = False,
    places: Sequence[Place] = (Place(),) * 3,
) -> Iterator[Cluster]:
    """Three nodes of this kind, all of them voters, ended on the way out.

    `raft` is put into the stanza of the storage; `audit` gives them an audit log, which needs OpenBao: one for all,
    since a node that is to log elsewhere than the cluster's storage says does not come to lead.
    """
    folder.mkdir(parents=True, exist_ok=True)
    product = product_of(kind)
    ports = free_ports(6)
    write_tls(folder, *(each.host for each in places if each.host != Place.host))
    nodes = []
    for index, at in enumerate(places):
        place = folder / f"node{index}"
        (place / "data").mkdir(parents=True)
        for name in ("server.crt", "server.key", "ca.crt"):
            (place / name).write_bytes((folder / name).read_bytes())
        join = (
            f'  retry_join {{\n    leader_api_addr = "https://{places[0].host}:{ports[0]}"\n'
            f'    leader_ca_cert_file = "{place}/ca.crt"\n  }}\n'
        )
        storage = (
            f'storage "raft" {{\n  path = "{place}/data"\n  node_id = "node{index}"\n{raft}{join if index else ""}}}'
        )
        log = folder / "audit.log" if audit else None
        if log is not None:
            (place / "audit.log").symlink_to(log)
        text = configuration(product, place, ports[index], ports[index + 3], storage, audit=log, host=at.host)
        (place / "server.hcl").write_text(text)
        address = f"https://{at.host}:{ports[index]}"
        runner = runner_of(kind, place, vault_binary, at.before)
        nodes.append(Server(kind, product, address, place / "ca.crt", place, runner, clustered=True))
    first, second, third = nodes
    try:
        first.initialise()
        wait_for(lambda: first.api("GET", "sys/health").status == 200, START_SECONDS, first.runner.log)
        settled = first.api("POST", "sys/storage/raft/autopilot/configuration", {"server_stabilization_time": "1s"})
        assert settled.status == http.HTTPStatus.NO_CONTENT, settled
        for node in (second, third):
            node.token, node.unseal_keys = first.token, first.unseal_keys
            node.runner.start()
        for node in (second, third):
            join_cluster(node)
        cluster = Cluster((first, second, third))
        cluster.await_voters()
        yield cluster
    finally:
        for node in nodes:
            node.stop()


def join_cluster(node: Server) -> None:
    """Unseal a new raft node: it takes keys only once its `retry_join` reached the leader."""

    def unsealed() -> bool:
        assert node.runner.alive(), node.runner.log()
        with contextlib.suppress(OSError, http.client.HTTPException):
            for key in node.unseal_keys:
                node.api("PUT", "sys/unseal", {"key": key}, token="")
            return node.api("GET", "sys/health", token="").status in UNSEALED
        return False

    wait_for(unsealed, CLUSTER_SECONDS, node.runner.log, pause=0.1)
