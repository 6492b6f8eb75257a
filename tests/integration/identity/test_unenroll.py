"""The end of a node's identity: at once, against a login in flight, and whatever cuts it short."""

from __future__ import annotations

import json
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import pytest

from helpers.faults.drawn import Drawn
from helpers.faults.kill_points import begun, died, ended
from helpers.node import enrolled_nodes
from helpers.node.enrolled_nodes import Enroller
from helpers.vault.applied_cluster import AppliedCluster
from helpers.vault.cluster_factory import ClusterFactory
from vaultpki.identity import ending, enrol
from vaultpki.records import report_paths


@dataclass(frozen=True)
class Identity:
    """What a node holds, and somebody who stole it all."""

    cluster: AppliedCluster
    kind: str
    node: str
    role_id: str
    secret_id: str
    token: str

    def login(self) -> str | None:
        return enrolled_nodes.login(self.cluster, self.kind, self.role_id, self.secret_id)

    def has_ended(self) -> bool:
        cluster = self.cluster
        gone = cluster.server.api("GET", f"auth/{cluster.prefix}/{self.kind}/role/{self.node}").status == 404
        gone = gone and enrolled_nodes.entity(cluster, self.kind, self.role_id) is None
        return gone and self.login() is None and not enrolled_nodes.works(cluster, self.token)

    def leaves_nothing(self) -> None:
        store = f"{self.cluster.prefix}/config/metadata"
        places = [report_paths.former(self.node), report_paths.listed(self.node)]
        for path in (
            *places,
            report_paths.pooled("autoscaled", self.node),
            f"leaving/{self.node}",
            f"locked/{self.node}",
            f"nodes/{self.node}",
        ):
            assert self.cluster.server.api("GET", f"{store}/{path}").status == 404, path
        name = f"{self.cluster.prefix}/node/{self.node}"
        assert self.cluster.server.api("GET", f"sys/policies/acl/{name}").status == 404


def identity(cluster: AppliedCluster, node: str, pool: str | None = "autoscaled") -> Identity:
    """A node that is enrolled, has logged in and has reported."""
    vault, model = cluster.client(), cluster.model
    who = enrol.holder(model, node, pool)
    join = enrol.enroll(model, vault, node, who, enrol.place(model, vault), wrap_ttl=300)
    kind = "pooled" if pool else "listed"
    secret_id = cluster.server.api("POST", "sys/wrapping/unwrap", token=join.wrap_token).data["secret_id"]
    token = enrolled_nodes.login(cluster, kind, join.role_id, secret_id)
    assert token is not None and token.startswith(("b.", "hvb.")) and enrolled_nodes.works(cluster, token)
    report = {"data": {"time": "now"}}
    assert cluster.server.api("POST", cluster.report_path(node), report, token=token).status == 200
    # As after a lock, whose record only informs.
    assert cluster.server.api("POST", f"{cluster.prefix}/config/data/locked/{node}", {"data": {}}).status == 200
    return Identity(cluster, kind, node, join.role_id, secret_id, token)


def test_it_ends_the_tokens_of_a_pooled_node_and_no_others(cluster: AppliedCluster, applier: Enroller) -> None:
    gone, stays = identity(cluster, "w-1"), identity(cluster, "w-2")
    assert enrol.unenroll(cluster.model, cluster.client(), "w-1", wait=0)
    assert gone.has_ended() and enrolled_nodes.works(cluster, stays.token)
    gone.leaves_nothing()
    for name in ("w-1", "no-pools-name"):
        assert_nothing_to_end(applier, name)
    # The name is free again, for another machine.
    again = identity(cluster, "w-1")
    assert again.role_id != gone.role_id and not enrolled_nodes.works(cluster, gone.token)


@pytest.mark.on_node
def test_a_node_still_listed_is_refused(cluster: AppliedCluster, applier: Enroller) -> None:
    listed = identity(cluster, "worker-1", None)
    mark = cluster.server.audit_position()
    said = applier.run("unenroll", "-f", cluster.file, "worker-1", expect=1).stderr
    assert said == (
        f"vaultpki: worker-1 is listed in {cluster.file}. To end the node itself take it off the list and run "
        f"`vaultpki apply -f {cluster.file}`. To end only all that it can log in with, run "
        f"`vaultpki lock -f {cluster.file} worker-1`\n"
    )
    assert cluster.server.writes(mark) == [] and enrolled_nodes.works(cluster, listed.token)
    for name in ("W-1", "w-1/secret-id", "../listed/role/worker-1", "x" * 300):
        assert "is not a node name" in applier.run("unenroll", "-f", cluster.file, name, expect=1).stderr
    assert cluster.server.writes(mark) == []


@pytest.mark.on_node
def test_a_node_taken_off_the_list_is_not_called_ended_before_apply_has_ended_it(clusters: ClusterFactory) -> None:
    cluster = clusters.applied(enrolled_nodes.SPEC)
    listed = identity(cluster, "worker-1", None)
    enroller = Enroller(cluster, cluster.token())
    cluster.write("".join(line for line in enrolled_nodes.SPEC.splitlines(keepends=True) if "worker-1" not in line))
    said = enroller.run("unenroll", "-f", cluster.file, "worker-1", expect=1).stderr
    assert said == (
        "vaultpki: worker-1 was a listed node and has its identity still; run "
        f"`vaultpki apply -f {cluster.file}`, which ends it\n"
    )
    assert enrolled_nodes.works(cluster, listed.token)
    cluster.apply()
    assert listed.has_ended()
    assert_nothing_to_end(enroller, "worker-1")


def assert_nothing_to_end(enroller: Enroller, name: str) -> None:
    """Fails where the end of a node without an identity passes for a success, or changes anything."""
    mark = enroller.cluster.server.audit_position()
    ran = enroller.run("unenroll", "-f", enroller.cluster.file, name, expect=1)
    assert ran.stdout == "" and ran.stderr == (
        f"vaultpki: {name} has no identity in this Vault, so there is nothing to end; "
        f"`vaultpki nodes -f {enroller.cluster.file}` lists the names that do\n"
    )
    assert enroller.cluster.server.writes(mark) == []


def hammering(node: Identity, over: threading.Event, refused: threading.Event | None = None) -> list[str]:
    """Logs in until it is over, seldom once it is refused; returns the tokens."""
    tokens = []
    while not over.is_set():
        token = node.login()
        if token is None:
            if refused is not None:
                refused.set()
            time.sleep(0.1)
        else:
            tokens.append(token)
    return tokens


def test_it_wins_against_a_login_in_flight(cluster: AppliedCluster, applier: Enroller) -> None:
    """Logins go on all through it, four at a time: afterwards no token of any of them works, and no entity is left."""
    node = identity(cluster, "w-racing")
    over = threading.Event()
    with ThreadPoolExecutor(4) as pool:
        hammers = [pool.submit(hammering, node, over) for _ in range(4)]
        try:
            time.sleep(0.3)
            began = time.monotonic()
            ran = applier.run("unenroll", "-f", cluster.file, node.node)
            # In full, with the ten seconds to its second look.
            assert ran.stdout.startswith("w-racing has no identity any more") and time.monotonic() - began > 10
            assert ran.stderr.startswith("waiting 10 seconds until logins that are under way have ended")
        finally:
            over.set()
        tokens = {token for each in hammers for token in each.result()}
    assert len(tokens) > 20 and node.has_ended()
    assert not any(enrolled_nodes.works(cluster, token) for token in tokens)


def test_a_server_that_is_frozen_meanwhile_is_looked_at_once_it_goes_on(cluster: AppliedCluster) -> None:
    """The time in which it is frozen does not count: what was under way goes on afterwards, a token kept as well."""
    node = identity(cluster, "w-frozen")
    begun, over = threading.Event(), threading.Event()

    def end() -> float:
        began = time.monotonic()
        assert enrol.unenroll(cluster.model, cluster.client(), node.node, wait=1.5)
        return time.monotonic() - began

    with ThreadPoolExecutor(3) as pool:
        hammers = [pool.submit(hammering, node, over, begun) for _ in range(2)]
        ending = pool.submit(end)
        try:
            assert begun.wait(30)
            cluster.server.freeze()
            time.sleep(2.5)
        finally:
            cluster.server.thaw()
        # Longer than frozen, and then the wait in full.
        assert ending.result() > 2.5 + 1.5
        over.set()
        tokens = {token for each in hammers for token in each.result()}
    assert node.has_ended() and not any(enrolled_nodes.works(cluster, token) for token in tokens)


@pytest.mark.on_node
def test_the_second_look_ends_what_came_after_the_first(cluster: AppliedCluster) -> None:
    """A login that was through only after the first look: made here by giving the AppRole back in between."""
    node = identity(cluster, "w-late")
    vault = cluster.client()
    accessor = cluster.read("sys/auth")[f"{cluster.prefix}/pooled/"]["accessor"]
    late: list[str | None] = []
    timer = threading.Timer(0.5, lambda: late.append(node.login()))
    timer.start()
    ending.end_entities(vault, accessor, [node.role_id], waiting=lambda: time.sleep(2))
    timer.join()
    assert (
        late[0] is not None
        and not enrolled_nodes.works(cluster, late[0])
        and not enrolled_nodes.works(cluster, node.token)
    )


@pytest.mark.on_node
@pytest.mark.parametrize("number", [6, pytest.param(28, id="each", marks=pytest.mark.exhaustive)])
def test_cut_anywhere_it_goes_on(cluster: AppliedCluster, drawn: Drawn, number: int) -> None:
    # Right before and right after each of its requests; with the last point it is through.
    for at in (*drawn.some(range(2 * 15), number), 2 * 15):
        node = identity(cluster, f"w-cut-{at}")
        # The second look comes at once here; in full it is looked at above.
        work = lambda: enrol.unenroll(cluster.model, cluster.client(), node.node, wait=0.01)  # noqa: B023, E731
        assert died(work, at, methods=("GET", "POST", "DELETE")) is (at < 2 * 15)
        assert enrol.unenroll(cluster.model, cluster.client(), node.node, wait=0) or node.has_ended()
        assert node.has_ended(), at
        node.leaves_nothing()


@pytest.mark.on_node
def test_enrolled_again_between_a_cut_and_its_rerun(cluster: AppliedCluster) -> None:
    """The machine's successor under the same name; ending that one ends the old one's tokens too."""
    old = identity(cluster, "w-again")
    work = lambda: enrol.unenroll(cluster.model, cluster.client(), "w-again", wait=0)  # noqa: E731
    # Through the note and the AppRole's end.
    assert died(work, 4, methods=("POST", "DELETE"))
    assert enrolled_nodes.works(cluster, old.token) and old.login() is None
    new = identity(cluster, "w-again")
    assert enrol.unenroll(cluster.model, cluster.client(), "w-again", wait=0)
    assert old.has_ended() and new.has_ended()


@pytest.mark.on_node
def test_apply_ends_a_node_taken_off_the_list_though_it_is_cut(clusters: ClusterFactory) -> None:
    """Each cut on a cluster of its own, all at once: a rerun looks twice with ten seconds between, like any."""

    def cluster_with_node() -> Identity:
        made = clusters.applied(enrolled_nodes.SPEC)
        node = identity(made, "worker-1", None)
        made.write(enrolled_nodes.SPEC.replace("- {name: worker-1, roles: [worker], addresses: [10.0.0.21]}\n", ""))
        return node

    # After the AppRole's end, after the entity's, and after the second look, where records go.
    points = (5, 9, 18)
    nodes = [cluster_with_node() for _ in points]
    children = [begun(node.cluster.applied_here, at) for at, node in zip(points, nodes, strict=True)]
    assert ended(children[0]) and nodes[0].login() is None and not nodes[0].has_ended()
    assert ended(children[1]) and nodes[1].has_ended()
    with ThreadPoolExecutor(2) as pool:
        list(pool.map(lambda node: node.cluster.applied_here(), nodes[:2]))
    assert ended(children[2])
    nodes[2].cluster.applied_here()
    for node in nodes:
        assert node.has_ended(), node.cluster.name
        node.leaves_nothing()
        applied = node.cluster.read(f"{node.cluster.prefix}/config/data/applied")["data"]
        assert "worker-1" not in json.dumps(applied)
