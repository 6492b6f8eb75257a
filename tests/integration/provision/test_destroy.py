"""destroy takes away all of one cluster, asks first, and goes on after a cut; two clusters do not see each other."""

from __future__ import annotations

import json
from pathlib import Path
from threading import Lock
from typing import Any, ClassVar

import pytest

from helpers.vault.plan_commands import SPEC, Watched, everything, fails, vaultpki
from helpers.vault.servers import Server
from vaultpki.errors import Unavailable
from vaultpki.provision import destroy
from vaultpki.provision.server_facts import ServerFacts
from vaultpki.vault import Answer, Request, Settings, Vault


@pytest.fixture
def site(server: Server, tmp_path: Path, cluster_name: str) -> Watched:
    site = Watched(server, tmp_path, cluster_name)
    site.write(SPEC)
    return site


def traces(site: Watched) -> list[str]:
    """What of a cluster is left on its server: mounts, auth mounts, policies."""
    names = [*site.read("sys/mounts"), *site.read("sys/auth"), *site.read_names("sys/policies/acl")]
    return [name for name in names if name.startswith(f"{site.prefix}/")]


def log_in(site: Watched, mount: str, node: str) -> str:
    """Logs a node in; answers the entity that Vault made for it."""
    api = site.server.api
    role = f"auth/{site.prefix}/{mount}/role/{node}"
    pair = {
        "role_id": api("GET", f"{role}/role-id").data["role_id"],
        "secret_id": api("POST", f"{role}/secret-id").data["secret_id"],
    }
    answer = api("POST", f"auth/{site.prefix}/{mount}/login", pair, token="")
    entity: str = answer.body["auth"]["entity_id"]
    return entity


def test_one_of_two_clusters_goes_and_everything_else_stays(own_server: Server, tmp_path: Path) -> None:
    server, site = own_server, Watched(own_server, tmp_path, "one")
    site.write(SPEC)
    # Its prefix begins with the other's, and lies below it, as far as names go.
    longer = Watched(server, tmp_path / "longer", f"{site.name}-b")
    longer.write(SPEC)
    below = Watched(server, tmp_path / "below", f"{site.name}-c")
    below.write(SPEC + f"prefix: {site.prefix}/more\n")
    for path, body in {
        f"sys/mounts/{site.name}-theirs": {"type": "pki"},
        f"{site.name}-theirs/root/generate/internal": {"common_name": "theirs", "ttl": "24h"},
        f"{site.name}-theirs/roles/kubelet": {"allowed_domains": "theirs"},
        f"sys/policies/acl/{site.prefix}": {"policy": '{"path": {}}'},
        f"sys/policies/acl/{site.prefix}/theirs": {"policy": '{"path": {}}'},
        f"sys/policies/acl/{site.prefix}/node/theirs": {"policy": '{"path": {}}'},
        f"sys/policies/acl/{site.prefix}b/theirs": {"policy": '{"path": {}}'},
        f"sys/auth/{site.name}-theirs": {"type": "approle"},
        f"auth/{site.name}-theirs/role/worker-1": {"token_policies": "theirs"},
        f"identity/entity/name/{site.name}-theirs": {},
    }.items():
        assert server.api("POST", path, body).status in (200, 204), path
    longer.apply()
    below.apply()
    kept = log_in(longer, "listed", "worker-1")
    before = everything(server)

    site.apply()
    longer.settled()
    below.settled()
    site.settled()
    assert site.plan()["unmanaged"] == [f"policy {site.prefix}/node/theirs"]
    pooled = f"auth/{site.prefix}/pooled/role/w-1"
    assert server.api("POST", pooled, {"token_policies": f"{site.prefix}/pool/autoscaled"}).status == 204
    ended = [log_in(site, "listed", "cp-1"), log_in(site, "pooled", "w-1")]

    ran = site.destroy()
    assert ran.stdout.endswith(f"Done: nothing of {site.name} is left at {server.address}.\n")
    for entity in ended:
        assert server.api("GET", f"identity/entity/id/{entity}").status == 404
    assert server.api("GET", f"identity/entity/id/{kept}").status == 200
    assert everything(server) == before
    longer.settled()
    below.settled()
    # Nothing is there, which is as it should be.
    start = server.audit_position()
    site.destroy()
    assert server.writes(start) == []
    longer.destroy()
    below.destroy()


def test_clusters_whose_policies_would_share_names_do_not_live_in_one_vault(own_server: Server, tmp_path: Path) -> None:
    above, below = Watched(own_server, tmp_path / "above", "above"), Watched(own_server, tmp_path / "below", "below")
    above.write(SPEC)
    for prefix, folder in ((f"{above.prefix}/node", "node"), (f"{above.prefix}/pool/more", "pool")):
        below.write(SPEC + f"prefix: {prefix}\n")
        sentence = (
            f"the clusters at {above.prefix} and {prefix} cannot live in one Vault",
            f"policies below {above.prefix}/{folder}",
            "choose another `prefix` in",
        )
        # Whichever of the two comes second.
        above.apply()
        below.refused(*sentence, command="plan")
        below.refused(*sentence)
        above.settled()
        above.destroy()
        below.apply()
        above.refused(*sentence)
        below.settled()
        below.destroy()
    assert traces(above) == []


def test_destroy_asks(site: Watched) -> None:
    site.apply()
    start = site.server.audit_position()
    env = site.environment()
    ran = vaultpki("destroy", "-f", site.file, env=env, expect=1)
    fails(ran, f"destroy removes the CAs of {site.name} for good; pass --confirm {site.name}")
    ran = vaultpki("destroy", "-f", site.file, "--confirm", "other", env=env, expect=1)
    fails(ran, f"that is not the cluster's name ({site.name}); nothing was removed")
    assert site.server.writes(start) == []
    weak = site.server.api("POST", "auth/token/create", {"policies": ["default"]}).body["auth"]["client_token"]
    site.refused("the Vault token is too weak", token=weak, command="destroy")
    rules = {"path": {"*": {"capabilities": ["read", "list"]}, "sys/auth/*": {"capabilities": ["delete", "sudo"]}}}
    policy = {"policy": json.dumps(rules)}
    assert site.server.api("POST", f"sys/policies/acl/{site.name}-half", policy).status == 204
    weak = site.server.api("POST", "auth/token/create", {"policies": [f"{site.name}-half"]}).body["auth"][
        "client_token"
    ]
    site.refused("the Vault token is too weak: it may not delete", token=weak, command="destroy")


@pytest.mark.parametrize("remembered", [True, False])
def test_a_destroy_cut_off_anywhere_goes_on_when_repeated(site: Watched, remembered: bool) -> None:
    vault = Vault(Settings((site.server.address,), ca_pem=site.server.ca_file.read_text(), token=site.token()))
    where = ServerFacts((site.server.address,), None)

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

    site.apply()
    entity = log_in(site, "listed", "cp-1")
    if not remembered:
        assert site.server.api("DELETE", f"{site.prefix}/config/metadata/applied").status == 204
    cut = Cut(vault._settings)
    rounds = 0
    while True:
        cut.left[0], rounds = 1, rounds + 1
        try:
            destroy.destroy(site.cluster, cut, where, progress=lambda path: None)
            break
        except Unavailable:
            assert rounds < 40
    # One entity, two auth mounts, five policies, six mounts, one at a time.
    assert rounds >= 14
    assert traces(site) == []
    assert site.server.api("GET", f"identity/entity/id/{entity}").status == 404
    site.apply()
    site.settled()


def test_an_apply_in_the_middle_of_a_destroy_makes_it_whole(site: Watched) -> None:
    site.apply()
    for path in (f"sys/auth/{site.prefix}/listed", f"sys/policies/acl/{site.prefix}/operator"):
        assert site.server.api("DELETE", path).status == 204
    site.apply()
    site.settled()


THEIRS = {"policy": '{"path": {"theirs": {"capabilities": ["read"]}}}'}


def test_a_policy_that_stands_where_ours_would_is_not_removed_before_a_first_apply(site: Watched) -> None:
    path = f"sys/policies/acl/{site.prefix}/operator"
    assert site.server.api("POST", path, THEIRS).status == 204
    site.refused(f"the policy {site.prefix}/operator was not made by vaultpki")
    start = site.server.audit_position()
    ran = site.destroy()
    assert site.server.writes(start) == []
    assert f"The policy {site.prefix}/operator stays" in ran.stdout
    assert json.loads(site.read(path)["policy"]) == json.loads(THEIRS["policy"])
    assert site.server.api("DELETE", path).status == 204


def test_a_policy_of_others_under_a_name_that_only_the_spec_gives_is_not_removed(site: Watched) -> None:
    site.apply()
    path = f"sys/policies/acl/{site.prefix}/node/worker-2"
    assert site.server.api("POST", path, THEIRS).status == 204
    site.write(SPEC.replace("worker-1", "worker-2"))
    ran = site.destroy()
    assert traces(site) == [f"{site.prefix}/node/worker-2"]
    assert f"The policy {site.prefix}/node/worker-2 stays" in ran.stdout
    assert site.server.api("DELETE", path).status == 204


def test_what_apply_refuses_destroy_still_removes(site: Watched) -> None:
    site.apply()
    p, api = site.prefix, site.server.api
    damage: dict[str, dict[str, Any]] = {
        f"auth/{p}/listed/role/cp-1": {"token_policies": "theirs"},
        f"sys/policies/acl/{p}/node/cp-1": {"policy": '{"path": {}}'},
        f"{p}/config/data/nodes/cp-1": {"data": {"role_id": "other"}},
    }
    for path, body in damage.items():
        api("DELETE", path)
        assert api("POST", path, body).status in (200, 204)
    assert api("DELETE", f"{p}/config/metadata/applied").status == 204
    site.refused("was not made by vaultpki")
    ran = site.destroy()
    # Nothing tells whose this policy is: there is no memory, and it does not say what ours would.
    assert traces(site) == [f"{p}/node/cp-1"] and f"The policy {p}/node/cp-1 stays" in ran.stdout
    assert api("DELETE", f"sys/policies/acl/{p}/node/cp-1").status == 204


def test_what_apply_would_mend_destroy_removes(site: Watched) -> None:
    site.apply()
    assert site.server.api("POST", f"sys/policies/acl/{site.prefix}/node/cp-1", THEIRS).status == 204
    site.destroy()
    assert traces(site) == []
