"""destroy takes away all of one cluster, asks first, and goes on after a cut; two clusters do not see each other."""

from __future__ import annotations

import json
from pathlib import Path
from threading import Lock
from typing import Any, ClassVar

import pytest

from helpers.vault.cluster_factory import ClusterFactory
from helpers.vault.plan_commands import SPEC, AuditedCluster, everything, fails, vaultpki
from helpers.vault.servers import Server
from vaultpki.errors import Unavailable
from vaultpki.provision import destroy
from vaultpki.records.server_facts import ServerFacts
from vaultpki.vault import Answer, Request, Vault


@pytest.fixture
def cluster(clusters: ClusterFactory) -> AuditedCluster:
    return clusters.written(SPEC)


def traces(cluster: AuditedCluster) -> list[str]:
    """What of a cluster is left on its server: mounts, auth mounts, policies."""
    names = [*cluster.read("sys/mounts"), *cluster.read("sys/auth"), *cluster.read_names("sys/policies/acl")]
    return [name for name in names if name.startswith(f"{cluster.prefix}/")]


def log_in(cluster: AuditedCluster, mount: str, node: str) -> str:
    """Logs a node in; answers the entity that Vault made for it."""
    api = cluster.server.api
    role = f"auth/{cluster.prefix}/{mount}/role/{node}"
    pair = {
        "role_id": api("GET", f"{role}/role-id").data["role_id"],
        "secret_id": api("POST", f"{role}/secret-id").data["secret_id"],
    }
    answer = api("POST", f"auth/{cluster.prefix}/{mount}/login", pair, token="")
    entity: str = answer.body["auth"]["entity_id"]
    return entity


def test_one_of_two_clusters_goes_and_everything_else_stays(own_server: Server, tmp_path: Path) -> None:
    server, cluster = own_server, AuditedCluster(own_server, tmp_path, "one")
    cluster.write(SPEC)
    # Its prefix begins with the other's, and lies below it, as far as names go.
    longer = AuditedCluster(server, tmp_path / "longer", f"{cluster.name}-b")
    longer.write(SPEC)
    below = AuditedCluster(server, tmp_path / "below", f"{cluster.name}-c")
    below.write(SPEC + f"prefix: {cluster.prefix}/more\n")
    for path, body in {
        f"sys/mounts/{cluster.name}-theirs": {"type": "pki"},
        f"{cluster.name}-theirs/root/generate/internal": {"common_name": "theirs", "ttl": "24h"},
        f"{cluster.name}-theirs/roles/kubelet": {"allowed_domains": "theirs"},
        f"sys/policies/acl/{cluster.prefix}": {"policy": '{"path": {}}'},
        f"sys/policies/acl/{cluster.prefix}/theirs": {"policy": '{"path": {}}'},
        f"sys/policies/acl/{cluster.prefix}/node/theirs": {"policy": '{"path": {}}'},
        f"sys/policies/acl/{cluster.prefix}b/theirs": {"policy": '{"path": {}}'},
        f"sys/auth/{cluster.name}-theirs": {"type": "approle"},
        f"auth/{cluster.name}-theirs/role/worker-1": {"token_policies": "theirs"},
        f"identity/entity/name/{cluster.name}-theirs": {},
    }.items():
        assert server.api("POST", path, body).status in (200, 204), path
    longer.apply()
    below.apply()
    kept = log_in(longer, "listed", "worker-1")
    before = everything(server)

    cluster.apply()
    assert longer.plan()["changes"] == below.plan()["changes"] == cluster.plan()["changes"] == []
    assert cluster.plan()["unmanaged"] == [f"policy {cluster.prefix}/node/theirs"]
    pooled = f"auth/{cluster.prefix}/pooled/role/w-1"
    assert server.api("POST", pooled, {"token_policies": f"{cluster.prefix}/pool/autoscaled"}).status == 204
    ended = [log_in(cluster, "listed", "cp-1"), log_in(cluster, "pooled", "w-1")]

    ran = cluster.destroy()
    assert f"This removes {cluster.name} at {server.address}, also its CAs. It cannot be undone." in ran.stdout
    assert "2 auth mounts: " in ran.stdout and "2 nodes depend on it: 2 can log in, 0 have reported." in ran.stdout
    assert ran.stdout.endswith(f"Done: nothing of {cluster.name} is left at {server.address}.\n")
    for entity in ended:
        assert server.api("GET", f"identity/entity/id/{entity}").status == 404
    assert server.api("GET", f"identity/entity/id/{kept}").status == 200
    assert everything(server) == before
    # Nothing is there, and nobody knows whether there ever was: it may live elsewhere.
    start = server.audit_position()
    cluster.refused(f"cluster {cluster.name} is not in this Vault", command="destroy")
    assert server.writes(start) == []


@pytest.mark.on_node
def test_clusters_whose_policies_would_share_names_do_not_live_in_one_vault(clusters: ClusterFactory) -> None:
    above, below = clusters.applied(SPEC), clusters.written(SPEC)
    for prefix, folder in ((f"{above.prefix}/node", "node"), (f"{above.prefix}/pool/more", "pool")):
        below.write(SPEC + f"prefix: {prefix}\n")
        sentence = (
            f"the clusters at {above.prefix} and {prefix} cannot live in one Vault",
            f"policies below {above.prefix}/{folder}",
            "choose another `prefix` in",
        )
        below.refused(*sentence, command="plan")
        below.refused(*sentence)
    # Whichever of the two comes second.
    above.destroy()
    below.apply()
    above.refused(*sentence)
    below.destroy()
    assert traces(above) == []


def test_destroy_asks_and_takes_what_is_the_clusters_alone(cluster: AuditedCluster) -> None:
    cluster.apply()
    # An apply in the middle of a destroy makes it whole.
    for path in (f"sys/auth/{cluster.prefix}/listed", f"sys/policies/acl/{cluster.prefix}/operator"):
        assert cluster.server.api("DELETE", path).status == 204
    cluster.apply()
    cluster.settled()
    start = cluster.server.audit_position()
    env = cluster.environment()
    ran = vaultpki("destroy", "-f", cluster.file, env=env, expect=1)
    fails(ran, f"destroy removes the CAs of {cluster.name} for good; pass --confirm {cluster.name}")
    ran = vaultpki("destroy", "-f", cluster.file, "--confirm", "other", env=env, expect=1)
    fails(ran, f"that is not the cluster's name ({cluster.name}); nothing was removed")
    assert cluster.server.writes(start) == []
    rules = {"*": {"capabilities": ["read", "list"]}, "sys/auth/*": {"capabilities": ["delete", "sudo"]}}
    policy = {"policy": json.dumps({"path": rules})}
    assert cluster.server.api("POST", f"sys/policies/acl/{cluster.name}-half", policy).status == 204
    for name, said in (("default", ""), (f"{cluster.name}-half", ": it may not delete")):
        # With the default policy, which lets a token ask what it may do.
        token = cluster.server.api("POST", "auth/token/create", {"policies": [name]}).body["auth"]["client_token"]
        cluster.refused(f"the Vault token is too weak{said}", token=token, command="destroy")
    # What apply would mend is removed; what is of others under a name that only cluster.yaml gives is not.
    policies = f"sys/policies/acl/{cluster.prefix}/node"
    for node in ("cp-1", "worker-2"):
        assert cluster.server.api("POST", f"{policies}/{node}", THEIRS).status == 204
    cluster.write(SPEC.replace("worker-1", "worker-2"))
    fails(vaultpki("destroy", "-f", cluster.file, "--json", env=env, expect=1), f"pass --confirm {cluster.name}")
    ran = vaultpki("destroy", "-f", cluster.file, "--json", "--confirm", cluster.name, env=env)
    assert traces(cluster) == [f"{cluster.prefix}/node/worker-2"]
    said = json.loads(ran.stdout)
    assert said["kept"] == [f"{cluster.prefix}/node/worker-2"] and said["nodes"]["total"] == 0
    assert f"{cluster.prefix}/config" in said["removed"]["mount"]
    assert cluster.server.api("DELETE", f"{policies}/worker-2").status == 204


@pytest.mark.parametrize(
    ("remembered", "removals"),
    [(True, 2), (False, 3), *(pytest.param(each, 1, marks=pytest.mark.exhaustive) for each in (True, False))],
)
@pytest.mark.on_node
def test_a_destroy_cut_off_anywhere_goes_on_when_repeated(
    cluster: AuditedCluster, remembered: bool, removals: int
) -> None:
    where = ServerFacts((cluster.server.address,), None)

    class Cut(Vault):
        """The same server, which is gone after so many removals."""

        # Shared with the copies that `sending` makes.
        left: ClassVar = [0]
        lock = Lock()

        def call(self, request: Request) -> Answer:
            if request.method == "DELETE":
                with self.lock:
                    if self.left[0] == 0:
                        raise Unavailable("cut off")
                    self.left[0] -= 1
            return super().call(request)

    cluster.apply()
    entity = log_in(cluster, "listed", "cp-1")
    if not remembered:
        assert cluster.server.api("DELETE", f"{cluster.prefix}/config/metadata/applied").status == 204
    cut = Cut(cluster.client().settings)
    rounds = 0
    while True:
        cut.left[0], rounds = removals, rounds + 1
        try:
            destroy.destroy(cluster.model, cut, where, progress=lambda path: None)
            break
        except Unavailable:
            assert rounds < 40
    # One entity, two auth mounts, six policies, six mounts.
    assert rounds >= 14 // removals
    assert traces(cluster) == []
    assert cluster.server.api("GET", f"identity/entity/id/{entity}").status == 404


THEIRS = {"policy": '{"path": {"theirs": {"capabilities": ["read"]}}}'}


@pytest.mark.on_node
def test_a_policy_that_stands_where_ours_would_is_not_removed_before_a_first_apply(cluster: AuditedCluster) -> None:
    path = f"sys/policies/acl/{cluster.prefix}/operator"
    assert cluster.server.api("POST", path, THEIRS).status == 204
    cluster.refused(f"the policy {cluster.prefix}/operator was not made by vaultpki")
    start = cluster.server.audit_position()
    ran = cluster.destroy()
    assert cluster.server.writes(start) == []
    assert f"The policy {cluster.prefix}/operator stays" in ran.stdout
    assert json.loads(cluster.read(path)["policy"]) == json.loads(THEIRS["policy"])
    assert cluster.server.api("DELETE", path).status == 204


@pytest.mark.on_node
def test_what_apply_refuses_destroy_still_removes(cluster: AuditedCluster) -> None:
    cluster.apply()
    p, api = cluster.prefix, cluster.server.api
    damage: dict[str, dict[str, Any]] = {
        f"auth/{p}/listed/role/cp-1": {"token_policies": "theirs"},
        f"sys/policies/acl/{p}/node/cp-1": {"policy": '{"path": {}}'},
        f"{p}/config/data/nodes/cp-1": {"data": {"role_id": "other"}},
    }
    for path, body in damage.items():
        api("DELETE", path)
        assert api("POST", path, body).status in (200, 204)
    assert api("DELETE", f"{p}/config/metadata/applied").status == 204
    cluster.refused("was not made by vaultpki")
    ran = cluster.destroy()
    # Nothing tells whose this policy is: there is no memory, and it does not say what ours would.
    assert traces(cluster) == [f"{p}/node/cp-1"] and f"The policy {p}/node/cp-1 stays" in ran.stdout
    assert api("DELETE", f"sys/policies/acl/{p}/node/cp-1").status == 204
