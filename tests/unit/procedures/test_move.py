"""What a node says of a move: to a person who asks it, and in its report."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

from helpers.example_agent import agent_config
from vaultpki.node import servers
from vaultpki.node.procedures import MachineStanding
from vaultpki.node.servers import KnownServers
from vaultpki.node.state import AgentState
from vaultpki.procedures import move, move_pass
from vaultpki.records import node_report
from vaultpki.records.move import MovedCa, MoveRecord, ServerPlace
from vaultpki.records.node_report import CertificateReport, MoveReport, NodeReport
from vaultpki.records.rotation import State

NOW = datetime(2026, 6, 1, 12, 0, tzinfo=UTC)
PLACE = ServerPlace(("https://new:8200", "https://new-2:8200"), "vaultpki/moved", "team1", "PEM")
KNOWN = KnownServers(
    at_new=True, number=3, place=PLACE, role_id="9a0f", cas={"etcd": "e2", "kubernetes": "c2"}, highest=8
)
DONE = MoveRecord(
    State.DONE,
    8,
    NOW,
    3,
    ServerPlace(("https://v",), "vaultpki/prod"),
    PLACE,
    {"etcd": MovedCa("etcd-1", "1f" * 32, "etcd-2", "2f" * 32)},
    "4f" * 32,
    "5f" * 32,
)


def kept(state: Path, known: KnownServers) -> None:
    (state / "move").mkdir(mode=0o700, exist_ok=True)
    (state / "move" / "secret-id").write_text("secret")
    # The CA of a test is none.
    place = replace(known.place, ca_pem="") if known.place is not None else None
    servers.save(str(state), replace(known, place=place))


def test_a_person_learns_where_the_node_is_and_what_to_write_at_the_end(tmp_path: Path) -> None:
    config = agent_config(state=str(tmp_path), file="/etc/vaultpki/agent.yaml")

    def said() -> str:
        return move.standing(config, None, AgentState()).sentence

    assert move.standing(config, None, AgentState()) == MachineStanding()
    kept(tmp_path, replace(KNOWN, at_new=False))
    assert said() == "The cluster moves from https://v to https://new:8200 (hand-over 3); this node uses https://v."
    kept(tmp_path, replace(KNOWN, error="the new server is away"))
    assert said().endswith("this node uses https://new:8200. The new server is away.")
    kept(tmp_path, replace(KNOWN, closed=True))
    assert said() == (
        "The cluster has moved to https://new:8200. Write there into /etc/vaultpki/agent.yaml: "
        "addresses: [https://new:8200, https://new-2:8200]; namespace: team1; prefix: vaultpki/moved; role_id: 9a0f."
    )
    # Once that is written nothing is left to say.
    config = replace(config, addresses=PLACE.addresses, prefix=PLACE.prefix, namespace=PLACE.namespace)
    assert said() == ""
    servers.save(str(tmp_path), KnownServers(ended=3))
    assert said() == ""
    (tmp_path / "servers.json").write_text("{")
    assert "join this node with a new join file" in said()


def test_a_node_leaves_the_old_server_only_with_leaves_of_the_new_one() -> None:
    own = CertificateReport("etcd", "ok", issuer_key_id="e2")
    made = NodeReport(
        NOW, certificates={"etcd-peer": own, "kubelet": replace(own, ca="kubernetes", issuer_key_id="c2")}
    )
    assert move_pass.closes(KNOWN, DONE, made)
    for other in (
        replace(made, certificates={}),
        replace(made, certificates={**made.certificates, "etcd-peer": replace(own, issuer_key_id="e1")}),
        replace(made, certificates={**made.certificates, "etcd-peer": replace(own, issuer_key_id="")}),
        replace(made, certificates={**made.certificates, "x": replace(own, ca="kubelet", issuer_key_id="")}),
    ):
        assert not move_pass.closes(KNOWN, DONE, other)
    assert not move_pass.closes(KNOWN, replace(DONE, state=State.RETIRED), made)
    assert not move_pass.closes(replace(KNOWN, at_new=False), DONE, made)
    # A record of before is no end.
    assert not move_pass.closes(replace(KNOWN, highest=9), DONE, made)
    assert not move_pass.closes(KNOWN, DONE, None)


def test_a_report_with_a_move_is_read_as_it_was_written() -> None:
    made = NodeReport(NOW, move=MoveReport(3, 8, ("old", "new"), "no route"))
    assert node_report.read(node_report.to_json(made)) == made
    value = node_report.to_json(made)
    for wrong in (7, {}, {"number": -1, "revision": 1}, {"number": 1, "revision": "1"}):
        found = node_report.read({**value, "move": wrong})
        assert found is not None and found.move is None
    assert "move" not in node_report.to_json(NodeReport(NOW))
