"""The viewer and the locker do their work with exactly their policies, need each grant, and may do nothing else."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

import pytest

from helpers.faults.drawn import Drawn
from helpers.node import enrolled_nodes
from helpers.vault.applied_cluster import vaultpki
from helpers.vault.cluster_factory import ClusterFactory
from helpers.vault.jwt_issuer import Issuer
from helpers.vault.least_privilege import Rules, Step, each_grant_is_needed, first_refused, holder, made
from helpers.vault.plan_commands import AuditedCluster
from helpers.vault.rotations import Rotation
from helpers.vault.servers import OF_TESTS, Server
from vaultpki.ca import commands, fleet
from vaultpki.errors import Denied
from vaultpki.identity import access, asked_server, credentials, ending, enrol, revoked_list
from vaultpki.identity import nodes as node_list
from vaultpki.identity.credentials import Identity
from vaultpki.provision import apply, ca_ends
from vaultpki.records.rotation import State
from vaultpki.records.server_facts import ServerFacts
from vaultpki.vault import Vault

ISSUER = Issuer()
JWT = f"{{issuer: {ISSUER.name}, audiences: [vaultpki], node_claim: node, public_keys_file: keys.pem}}"
SPEC = f'{enrolled_nodes.SPEC}- {{name: cloud, roles: [worker], node_names: "c-*", jwt: {JWT}}}\n'
SAMPLE = pytest.mark.parametrize(
    "step",
    [
        pytest.param(7, id="sample", marks=pytest.mark.sample),
        pytest.param(1, id="each", marks=pytest.mark.conformance),
    ],
)
METHODS: Final = {"create": "POST", "update": "POST", "patch": "PATCH", "delete": "DELETE"}


@dataclass(frozen=True, slots=True)
class ClusterInRotation:
    """A cluster in the middle of a rotation, and every write that its applier has made until now."""

    cluster: AuditedCluster
    rotation: Rotation
    writes: frozenset[tuple[str, str]]


@pytest.fixture(scope="module")
def in_rotation(server: Server, shared_clusters: ClusterFactory) -> ClusterInRotation:
    since = server.audit_position()
    cluster = shared_clusters.applied(SPEC, {"keys.pem": ISSUER.public_pem})
    folder = cluster.folder
    for name in ("cp-1", "worker-1"):
        cluster.equip(name)
    operator = folder / "operator"
    vaultpki("issue", "-f", cluster.file, "admin", "--dir", operator, env=cluster.environment())
    enroll = ("enroll", "-f", cluster.file, "--pool", "autoscaled", "--wrap-ttl", "24h", "-o")
    vaultpki(*enroll, folder / "join.json", "w-1", env=cluster.environment())
    login(cluster, "c-1")
    enrol.lock(cluster.model, cluster.client(), "w-1", wait=0)
    enrol.lock(cluster.model, cluster.client(), "c-1", wait=0)
    enrol.unlock(cluster.model, cluster.client(), "c-1")
    vaultpki("revoke", "-f", cluster.file, "cp-1", "--yes", env=cluster.environment(), expect={0, 1, 3})
    rotation = Rotation(cluster, "kubernetes")
    enrol.unenroll(cluster.model, cluster.client(), "w-1", wait=0)
    rotation.reach(State.SWITCHED)
    vaultpki(*enroll, folder / "unused.json", "w-join", env=cluster.environment())
    report = f"{cluster.prefix}/config/data/reports/jwt/cloud/{entity(cluster, 'c-1')}"
    assert server.api("POST", report, {"data": {"time": "2026-01-01T00:00:00Z"}}).status == 200
    applier = f"{OF_TESTS}/{cluster.prefix}/applier"
    writes = {
        (METHODS[entry["request"]["operation"]], entry["request"]["path"])
        for entry in server.audited(since)
        if entry["type"] == "request"
        and entry["request"]["operation"] in METHODS
        and applier in entry["auth"].get("policies", ())
    }
    assert len(writes) > 80
    return ClusterInRotation(cluster, rotation, frozenset(writes))


def login(cluster: AuditedCluster, node: str) -> None:
    """A node that logs in by a token; Vault makes its entity."""
    body = {"role": "cloud", "jwt": ISSUER.token(node)}
    assert cluster.server.api("POST", f"auth/{cluster.prefix}/jwt/login", body, token="").status == 200


def entity(cluster: AuditedCluster, node: str) -> str:
    """The id of the entity of a node that has logged in by a token."""
    accessor = cluster.read("sys/auth")[f"{cluster.prefix}/jwt/"]["accessor"]
    alias = {"alias_name": node, "alias_mount_accessor": accessor}
    made: str = cluster.server.api("POST", "identity/lookup/entity", alias).data["id"]
    return made


def viewing(in_rotation: ClusterInRotation, vault: Vault) -> list[Step]:
    """What the viewer is for, but for what is printed."""
    cluster, now = in_rotation.cluster.model, in_rotation.rotation.now

    def plan() -> None:
        seen, made = apply.observe_and_plan(cluster, vault, ServerFacts((), None))
        assert not apply.with_impact(cluster, vault, seen, made).changes
        if asked_server.read(cluster, vault).owner is None:
            raise Denied("whose token it is was not read")

    def nodes() -> None:
        members = node_list.members(cluster, vault)
        if "c-1" not in {member.name for member in members}:
            raise Denied("the node that logs in by a token was not found")
        for member in members:
            if member.kind != "jwt" and member.credentials is None:
                raise Denied("live credentials were not counted")
        ca_ends.read(cluster, vault, datetime.now(UTC))
        if problems := revoked_list.read(cluster, vault).problems:
            raise Denied(problems[0])
        if credentials.held_credentials(cluster, vault, Identity("pooled", "w-join")).join_until is None:
            raise Denied("an unused join file was not told from a node")

    def status() -> None:
        found = {each.domain: each for each in commands.status(cluster, vault, now)}
        assert not [each.problem for each in found.values() if each.problem]
        gate = found["kubernetes"].gate
        assert gate is not None
        if "admin" not in str(gate):
            raise Denied("the operator's certificate was not seen")

    def report() -> None:
        if problems := fleet.read(cluster, vault, now, now).problems:
            raise Denied(problems[0])

    return [("plan", plan), ("nodes", nodes), ("ca status", status), ("report", report)]


@SAMPLE
def test_the_viewer_needs_each_grant(in_rotation: ClusterInRotation, drawn: Drawn, step: int) -> None:
    each_grant_is_needed(
        access.policy_of(in_rotation.cluster.model, "viewer"),
        lambda rules: first_refused(viewing(in_rotation, holder(in_rotation.cluster.server, rules))),
        step,
        start=drawn.below(step),
    )


def test_the_viewers_commands(in_rotation: ClusterInRotation, tmp_path: Path) -> None:
    cluster = in_rotation.cluster
    env, start = cluster.environment("viewer"), cluster.server.audit_position()
    for words, code in (
        (("plan",), {0}),
        (("nodes",), {0, 3}),
        (("nodes", "--json"), {0, 3}),
        (("ca", "status"), {0, 3}),
        (("report", "--from-vault", "-o", tmp_path / "report.html"), {0, 3}),
        (("graph", "--from-vault", "-o", tmp_path / "graph.svg"), {0, 3}),
    ):
        ran = vaultpki(*words, "-f", cluster.file, env=env, expect=code)
        assert "may not" not in ran.stderr and "permission denied" not in ran.stderr, ran.stderr
    looks = ("identity/lookup/entity", "sys/capabilities-self", "/secret-id-accessor/lookup")
    assert not [path for _, path in cluster.server.writes(start) if not path.endswith(looks)]
    denied = [
        entry["request"]["path"]
        for entry in cluster.server.audited(start)
        if entry["type"] == "response" and "permission denied" in entry.get("error", "")
    ]
    assert denied == []


def forbidden(in_rotation: ClusterInRotation, own: Rules) -> Iterator[tuple[str, str]]:
    """Every write that the applier has made but those of the policy, and what it has not made."""
    prefix = in_rotation.cluster.prefix
    allowed = {path.replace("+", "*") for path, rule in own.items() if {*rule["capabilities"]} & {*METHODS}}
    for method, path in sorted(in_rotation.writes):
        if not any(Path(path).match(f"/{glob}") or _fits(path, glob) for glob in allowed):
            yield method, path
    for path in ("crl/rotate", "crl/rotate-delta", "root/rotate/exported"):
        yield "GET", f"{prefix}/kubernetes/{path}"
    for path in (
        f"{prefix}/kubernetes/sign/kubelet-client",
        f"{prefix}/kubernetes/issue/admin",
        f"{prefix}/kubernetes/revoke",
        f"{prefix}/kubernetes/tidy",
        f"{prefix}/root/root/sign-intermediate",
        f"{prefix}/root/sign-self-issued",
        f"{prefix}/config/data/cluster",
        f"{prefix}/config/data/reports/worker-1",
        f"{prefix}/config/data/rotation/kubernetes",
        f"{prefix}/config/delete/cluster",
        f"{prefix}/config/destroy/cluster",
        f"auth/{prefix}/listed/role/cp-1/secret-id",
        f"auth/{prefix}/listed/role/cp-1/custom-secret-id",
        f"auth/{prefix}/listed/role/cp-1/secret-id/lookup",
        f"auth/{prefix}/listed/role/cp-1/policies",
        f"auth/{prefix}/pooled/role/w-9",
        "auth/token/create",
        "auth/token/revoke-accessor",
        "identity/entity",
        "identity/entity-alias",
        "identity/group",
        "sys/policies/acl/mine",
        f"sys/policies/acl/{prefix}/viewer",
        f"sys/policies/acl/{prefix}/locker",
        f"sys/mounts/{prefix}/kubernetes/tune",
        "sys/remount",
        "sys/seal",
    ):
        yield "POST", path
    for path in (f"{prefix}/config/metadata/cluster", f"{prefix}/root/issuer/root-1", f"sys/mounts/{prefix}/root"):
        yield "DELETE", path


def _fits(path: str, glob: str) -> bool:
    """Whether a path of a request is one of a policy's path, in which `*` stands for one part."""
    parts, wanted = path.split("/"), glob.split("/")
    return len(parts) == len(wanted) and all(want in ("*", part) for part, want in zip(parts, wanted, strict=True))


def test_a_stolen_viewer_writes_nothing(in_rotation: ClusterInRotation) -> None:
    rules = access.policy_of(in_rotation.cluster.model, "viewer")
    writing = {path for path, rule in rules.items() if {*rule["capabilities"]} & {*METHODS, "sudo"}}
    # Both servers ask for `update` where somebody looks up an entity or a secret id.
    lookup = f"auth/{in_rotation.cluster.prefix}/+/role/+/secret-id-accessor/lookup"
    assert writing == {"identity/lookup/entity", lookup}
    ask = made(in_rotation.cluster.server, holder(in_rotation.cluster.server, rules))
    for method, path in forbidden(in_rotation, rules):
        assert ask(method, path, None if method == "GET" else {}) == 403, (method, path)
    assert ask("GET", f"{in_rotation.cluster.prefix}/config/data/cluster") == 200
    # Nor does it see what is not the cluster's.
    for method, path in (("GET", "secret/data/x"), ("LIST", "auth/token/accessors"), ("LIST", "identity/entity/id")):
        assert ask(method, path) == 403, path


def locking(in_rotation: ClusterInRotation, vault: Vault) -> list[Step]:
    """Every kind of node, with live credentials and tokens; and one whose last lock was interrupted."""
    cluster = in_rotation.cluster

    def lock(kind: str, node: str) -> None:
        role = f"auth/{cluster.prefix}/{kind}/role/{node}"
        secret_id = cluster.server.api("POST", f"{role}/secret-id", {}).data["secret_id"]
        role_id = cluster.read(f"{role}/role-id")["role_id"]
        token = enrolled_nodes.login(cluster, kind, role_id, secret_id)
        assert token is not None and enrolled_nodes.works(cluster, token)
        assert cluster.server.api("DELETE", f"{cluster.prefix}/config/metadata/locked/{node}").status == 204
        enrol.lock(cluster.model, vault, node, wait=0)
        noted = ending.find_lock(cluster.model, cluster.client("viewer"), node)
        if noted is None or noted.by != "token":
            raise Denied("who locked it was not recorded")
        assert not enrolled_nodes.works(cluster, token)
        assert enrolled_nodes.login(cluster, kind, role_id, secret_id) is None
        assert enrolled_nodes.accessors(cluster, node, kind) == []
        left = f"{cluster.prefix}/config/metadata/leaving/{node}"
        assert cluster.server.api("GET", left).status == (404 if kind == "pooled" else 200)

    def after_a_cut(node: str) -> None:
        note = {"data": {"version": 1, "role_ids": ["00000000-0000-0000-0000-000000000000"]}}
        assert cluster.server.api("POST", f"{cluster.prefix}/config/data/leaving/{node}", note).status == 200
        lock("listed", node)

    def by_token(node: str) -> None:
        login(cluster, node)
        assert enrol.lock(cluster.model, vault, node, wait=0) == {"jwt"}
        # The record of a lock is the first one's.
        assert enrol.lock(cluster.model, vault, node, wait=0) == {"jwt"}
        body = {"role": "cloud", "jwt": ISSUER.token(node)}
        assert cluster.server.api("POST", f"auth/{cluster.prefix}/jwt/login", body, token="").status in (400, 403)
        with pytest.raises(Exception, match="may not"):
            enrol.unlock(cluster.model, vault, node)

    return [
        ("lock of a listed node", lambda: lock("listed", "worker-1")),
        ("lock of a pool's node", lambda: lock("pooled", "w-lock")),
        ("lock after one that was interrupted", lambda: after_a_cut("worker-1")),
        ("lock of a node with a token", lambda: by_token(f"c-{os.urandom(4).hex()}")),
    ]


@pytest.fixture
def pooled_node(in_rotation: ClusterInRotation) -> Iterator[None]:
    cluster = in_rotation.cluster
    good = access.pooled_approle(cluster.model, cluster.model.pools[0])
    assert cluster.server.api("POST", f"auth/{cluster.prefix}/pooled/role/w-lock", good).status == 204
    yield
    enrol.unenroll(cluster.model, cluster.client(), "w-lock", wait=0)


@pytest.mark.usefixtures("pooled_node")
@SAMPLE
def test_the_locker_needs_each_grant(in_rotation: ClusterInRotation, drawn: Drawn, step: int) -> None:
    cluster, prefix = in_rotation.cluster, in_rotation.cluster.prefix

    def refused(rules: Rules) -> str | None:
        found = first_refused(locking(in_rotation, holder(cluster.server, rules)))
        if found is not None:
            # With the record of a lock that was interrupted nobody knows the role ids.
            for node in ("worker-1", "w-lock"):
                enrol.lock(cluster.model, cluster.client(), node, wait=0)
        return found

    each_grant_is_needed(
        access.policy_of(cluster.model, "locker"),
        refused,
        step,
        start=drawn.below(step),
        # Only where a secret id was lost while it was destroyed.
        seldom={(f"auth/{prefix}/+/tidy/secret-id", "update")},
    )
    assert cluster.plan()["changes"] == []


def test_a_stolen_locker_locks_and_does_nothing_else(in_rotation: ClusterInRotation) -> None:
    cluster = in_rotation.cluster
    rules = access.policy_of(cluster.model, "locker")
    ask = made(cluster.server, holder(cluster.server, rules))
    for method, path in forbidden(in_rotation, rules):
        assert ask(method, path, None if method == "GET" else {}) == 403, (method, path)
    # An entity is disabled, and nothing else of it is changed: no name, no policy, no other state.
    login(cluster, "c-stolen")
    path = f"identity/entity/id/{entity(cluster, 'c-stolen')}"
    for body in (
        {"disabled": "true", "policies": ["root"]},
        {"policies": ["root"]},
        {"disabled": "true", "name": "other"},
        {"disabled": "true", "metadata": {"a": "b"}},
        {"disabled": "false"},
        {"disabled": ""},
        {"disabled": False},
        {},
    ):
        assert ask("POST", path, body) == 403, body
    assert ask("POST", path, {"disabled": "true"}) in (200, 204)
    assert cluster.read(path)["disabled"] is True
