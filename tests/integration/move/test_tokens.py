"""Nodes of a pool that log in by a token of an issuer move with their cluster: no credential is handed to them."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from helpers.node.moving_cluster import MovingCluster
from helpers.node.vouched_nodes import JWT, Vouched
from helpers.vault.applied_cluster import NodeFolder, vaultpki
from helpers.vault.jwt_issuer import Issuer
from helpers.vault.servers import Server
from vaultpki.agent import run
from vaultpki.agent.context import Outcome
from vaultpki.agent.pairs import EVERY
from vaultpki.config.agent import load_agent
from vaultpki.node import servers
from vaultpki.procedures import ON_NODES
from vaultpki.records.move import move_json
from vaultpki.records.rotation import State

pytestmark = pytest.mark.on_node

SPEC = f"""\
api_server: {{names: [api.example.com], endpoint: "https://api.example.com:6443"}}
pools:
- {{name: cloud, roles: [worker], node_names: "c-*", jwt: {JWT}}}
"""


def test_a_node_with_a_token_moves(server: Server, own_server: Server, tmp_path: Path, cluster_name: str) -> None:
    cluster = Vouched(server, tmp_path, cluster_name, Issuer())
    cluster.write(SPEC)
    cluster.apply()
    node, locked = cluster.image("c-1"), cluster.image("c-2")
    moving = MovingCluster(cluster, own_server, {"c-1": node, "c-2": locked})
    moving.passes()
    vaultpki("lock", "c-2", "-f", cluster.file, env=cluster.environment())
    (cluster.folder / "new-ca.crt").write_bytes(own_server.ca_file.read_bytes())
    place = f"{{addresses: ['{own_server.address}'], ca_file: new-ca.crt, prefix: elsewhere/moved}}"
    cluster.write(f"{SPEC}move: {place}\n")
    moving.begin(spread=0)
    moving.moved(State.PUBLISHED, but=("c-2",))
    done = passed(node)
    assert not done.failures and [each.text for each in done.events if each.name == "move"] == [
        f"took its credential at {own_server.address} (hand-over 1)"
    ]
    assert not (node.state / "move" / "secret-id").exists()
    # Whoever was locked is locked there too, before it ever logged in.
    answer = own_server.api(
        "POST", "auth/elsewhere/moved/jwt/login", {"role": "cloud", "jwt": cluster.issuer.token("c-2")}, token=""
    )
    assert answer.status in (400, 403), answer
    moving.moved(State.SWITCHED, but=("c-2",))
    assert not passed(node).failures and servers.load(str(node.state)).at_new
    assert not passed(node, EVERY).failures
    moving.of("new", "c-1")
    for state in (State.RETIRED, State.DONE):
        moving.moved(state, but=("c-2",))
    assert not passed(node).failures and servers.load(str(node.state)).closed
    # Whoever has the root token of the old server reaches nobody any more.
    record = moving.record()
    assert record is not None
    for number, back in enumerate((State.STEADY, State.RETURNING, State.PUBLISHED), 1):
        forged = move_json(replace(record, state=back, revision=record.revision + number))
        assert server.api("POST", f"{cluster.prefix}/config/data/rotation/move", {"data": forged}).status == 200
        since = server.audit_position()
        assert not passed(node).failures and list(server.requests(since)) == []


def passed(node: NodeFolder, force: str = "") -> Outcome:
    node.age()
    options = run.PassOptions(ON_NODES, settle=False, share=0.0, force=frozenset({force} - {""}))
    return run.run(load_agent(node.config), options)
