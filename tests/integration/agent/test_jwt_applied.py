"""What `apply` makes for pools whose nodes log in by an issuer's token, and how such a node is locked and goes."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

from helpers.node.passes import passed_well
from helpers.node.vouched_nodes import EDGE, SPEC, WITHOUT, Vouched, entity, goes_on, place, sign
from helpers.vault.jwt_issuer import Issuer
from helpers.vault.plan_commands import changes, everything, fails, vaultpki
from helpers.vault.servers import Server


@pytest.fixture
def own(server: Server, tmp_path: Path, cluster_name: str) -> Vouched:
    """A cluster of the test's own, not applied yet."""
    cluster = Vouched(server, tmp_path, cluster_name, Issuer())
    cluster.write(SPEC)
    return cluster


# What apply makes of it


def records(cluster: Vouched) -> set[str]:
    """The paths of everything there is of the cluster, without folders."""
    return {path for path in everything(cluster.server) if cluster.prefix in path and not path.endswith("/")}


def test_apply_makes_it_once_shows_drift_and_takes_it_away(own: Vouched) -> None:
    own.write(WITHOUT)
    own.apply()
    before = records(own)
    own.write(SPEC)
    made = changes(own.plan())
    auth, mount = f"auth/{own.prefix}/jwt", f"{own.prefix}/jwt"
    assert made["auth", mount] == ("create", {"type": (None, "jwt"), "token_type": (None, "default-service")})
    assert made["config", f"{auth}/config"][1]["bound_issuer"] == (None, "https://issuer.example")
    assert made["config", f"{auth}/role/cloud"][1]["bound_claims"] == (None, {"node": ["c-*"]})
    assert {kind for kind, _ in made} <= {"mount", "issuer", "role", "policy", "auth", "approle", "config"}
    assert changes(own.applied()[0]).keys() == made.keys()
    own.settled()

    role = own.read(f"{auth}/role/cloud")
    wider = {"bound_claims": {"node": ["*"]}, "bound_audiences": ["vaultpki", "x"], "token_ttl": 9000}
    assert own.server.api("POST", f"{auth}/role/cloud", {**role, **wider, "token_max_ttl": 9000}).status == 204
    rogue = {"jwt_validation_pubkeys": [Issuer().public_pem], "bound_issuer": ""}
    assert own.server.api("POST", f"{auth}/config", rogue).status == 204
    assert own.server.api("POST", f"{auth}/role/theirs", role).status == 204
    assert own.server.api("POST", f"sys/{auth}/tune", {"token_type": "service"}).status == 204
    document, _ = own.applied()
    drift = changes(document)
    assert drift["config", f"{auth}/role/cloud"] == (
        "update",
        {
            "bound_claims": ({"node": ["*"]}, {"node": ["c-*"]}),
            "bound_audiences": (["vaultpki", "x"], ["vaultpki"]),
            "token_ttl": (9000, 7200),
            "token_max_ttl": (9000, 7200),
        },
    )
    action, fields = drift["config", f"{auth}/config"]
    assert action == "update" and fields.keys() >= {"jwt_validation_pubkeys", "bound_issuer", "jwt_supported_algs"}
    assert drift["auth", mount] == ("update", {"token_type": ("service", "default-service")})
    assert len(drift) == 3 and document["unmanaged"] == [f"config {auth}/role/theirs"]
    assert own.server.api("DELETE", f"{auth}/role/theirs").status == 204
    own.settled()

    # One of the two pools goes, then the other, and the mount with it.
    passed_well(own.image("c-1"))
    own.write(f"{WITHOUT}{EDGE}")
    gone = changes(own.applied()[0])
    assert {key for key, (action, _) in gone.items() if action == "delete"} == {
        ("config", f"{auth}/role/cloud"),
        ("config", f"{own.prefix}/config/pools/cloud"),
        ("policy", f"{own.prefix}/pool/cloud"),
        ("role", f"{own.prefix}/kubelet/kubelet-cloud"),
    }
    own.settled()
    assert f"root_sha256: {own.root_sha256}\n" in own.apply().stdout
    assert own.login(own.issuer.token("c-1")).status == 400
    assert own.login(own.issuer.token("e-1"), "edge").status == 200
    own.write(WITHOUT)
    gone = changes(own.applied()[0])
    assert gone["auth", mount][0] == "delete" and not [name for _, name in gone if name.startswith(f"{auth}/")]
    own.settled()
    # What the node reported goes with its pool.
    assert records(own) == before


def test_nodes_whose_pool_goes_or_takes_them_no_more_are_told_and_ended(own: Vouched) -> None:
    own.apply()
    document, tokens = SPEC, dict[str, str]()
    for change, gone, stays in (
        ((EDGE, ""), ("e-1", "edge"), ("c-1", "cloud")),
        (("c-*", "c-a*"), ("c-1", "cloud"), ("c-a1", "cloud")),
    ):
        for node, pool in (gone, stays):
            tokens[node] = own.logged_in(node, pool)
            path = f"{own.prefix}/config/data/{place(own, tokens[node], pool)}"
            assert own.server.api("POST", path, {"data": {"time": "now"}}, token=tokens[node]).status == 200
        document = document.replace(*change)
        own.write(document)
        said = vaultpki("plan", "-f", own.file, env=own.environment("viewer")).stdout.replace("\n      ", " ")
        words = f"1 node loses its identity and can renew nothing: {gone[0]}, which logged in by an issuer's token"
        assert words in said
        (impact,) = own.plan()["impact"]
        assert (impact["effect"], impact["pool"], impact["nodes"]) == ("loses-access", gone[1], 1)
        kept = place(own, tokens[stays[0]], stays[1])
        own.applied()
        assert entity(own, gone[0]) is None and entity(own, stays[0]) is not None
        read = f"{own.prefix}/config/data/cluster"
        assert own.server.api("GET", read, token=tokens[gone[0]]).status == 403
        assert own.server.api("GET", read, token=tokens[stays[0]]).status == 200
        folder, _, last = kept.rpartition("/")
        assert own.read_names(f"{own.prefix}/config/metadata/{folder}") == [last]
        assert own.read_names(f"{own.prefix}/config/metadata/reports/jwt") == [f"{stays[1]}/"]
    own.settled()


def test_a_mount_of_others_is_not_taken_over(own: Vouched) -> None:
    path = f"sys/auth/{own.prefix}/jwt"
    assert own.server.api("POST", path, {"type": "jwt", "description": "theirs"}).status == 204
    own.refused(f"auth/{own.prefix}/jwt already exists in Vault", "theirs")
    # A cluster that needs none leaves it alone.
    own.write(WITHOUT)
    own.apply()
    own.settled()
    own.destroy()
    assert own.server.api("DELETE", path).status == 204


def test_destroy_leaves_nothing_of_it_and_the_applier_may_do_all_this(own: Vouched) -> None:
    printed = vaultpki("policy", "-f", own.file, "applier", env={}).stdout
    policy = f"applier-{own.name}"
    assert own.server.api("POST", f"sys/policies/acl/{policy}", {"policy": printed}).status == 204
    answer = own.server.api("POST", "auth/token/create", {"policies": [policy], "no_default_policy": True})
    token = answer.body["auth"]["client_token"]
    before = everything(own.server)
    own.applied(token=token)
    assert own.applied(token=token)[1] == []
    passed_well(own.image("c-1"), own.image("c-2"))
    live = own.logged_in("c-1")
    vaultpki("unenroll", "-f", own.file, "c-2", env=own.server.environment(token))
    own.destroy(token=token)
    assert everything(own.server) == before
    assert own.server.api("POST", "sys/capabilities-self", {"paths": ["a"]}, token=live).status == 403


# A stolen token


def opens(cluster: Vouched, node: str, *tokens: str) -> bool:
    """Whether the issuer's token of a node, or one of its Vault tokens, still opens anything."""
    login = cluster.login(cluster.issuer.token(node))
    more = [login.body["auth"]["client_token"]] if login.status == 200 else []
    assert login.status in (200, 403), login
    paths = (f"{cluster.prefix}/config/data/cluster", f"{cluster.prefix}/config/data/pools/cloud")
    read = {cluster.server.api("GET", path, token=token).status for path in paths for token in (*tokens, *more)}
    signed = {sign(cluster, token, node).status for token in (*tokens, *more)}
    assert (read | signed) <= {200, 403}, (read, signed)
    return 200 in read | signed


def entity_fields(cluster: Vouched, node: str) -> dict[str, Any]:
    """What the server keeps of the node's identity, without times."""
    fields = cluster.read(f"identity/entity/id/{entity(cluster, node)}")
    kept = ("id", "name", "policies", "metadata", "disabled", "direct_group_ids")
    return {name: fields[name] for name in kept} | {"aliases": [alias["name"] for alias in fields["aliases"]]}


def test_a_locked_node_gets_nothing_with_its_token_until_it_is_unlocked(own: Vouched) -> None:
    own.apply()
    environment = own.environment()
    node = own.image("c-1")
    passed_well(node)
    stolen, other = own.logged_in("c-1"), own.logged_in("c-2")
    named = {"name": f"kept-{own.name}", "metadata": {"owner": "somebody"}}
    assert own.server.api("POST", f"identity/entity/id/{entity(own, 'c-1')}", named).status in (200, 204)
    before, held = entity_fields(own, "c-1"), node.snapshot()
    assert opens(own, "c-1", stolen)

    locker = own.environment("locker")
    said = vaultpki("lock", "-f", own.file, "c-1", env=locker).stdout
    assert "c-1 is locked: its identity in Vault is disabled" in said and "`vaultpki unlock`" in said
    assert not opens(own, "c-1", stolen) and opens(own, "c-2", other)
    assert entity_fields(own, "c-1") == {**before, "disabled": True}
    node.age()
    goes_on(
        node.run(expect=1),
        "refuses this node all the same",
        "It may be locked. To let it in again, run on an operator's machine: `vaultpki unlock",
    )
    after = node.snapshot()
    assert {n: v for n, v in held.items() if n.startswith("pki/")} == {
        n: v for n, v in after.items() if n.startswith("pki/")
    }
    vaultpki("lock", "-f", own.file, "c-1", env=environment)
    own.settled()
    assert not opens(own, "c-1", stolen)
    listed = json.loads(vaultpki("nodes", "-f", own.file, "--json", env=own.environment("viewer"), expect=3).stdout)
    (seen,) = [entry for entry in listed["nodes"] if entry["node"] == "c-1"]
    assert seen["state"] == "locked" and seen["reasons"] == ["locked"]
    assert re.fullmatch(r"locked at 20\S+Z by token", seen["message"])
    assert seen["findings"][0]["command"] == f"vaultpki unlock c-1 -f {own.file}"

    ran = vaultpki("unlock", "-f", own.file, "c-1", env=locker, expect=1)
    fails(ran, "this token may not disable or enable the identity of c-1")
    said = vaultpki("unlock", "-f", own.file, "c-1", env=environment).stdout
    assert "c-1 is unlocked" in said and entity_fields(own, "c-1") == before
    assert "was not locked" in vaultpki("unlock", "-f", own.file, "c-1", env=environment).stdout
    assert opens(own, "c-1")
    # Its tokens of before come back with it, until each of them expires.
    assert own.server.api("GET", f"{own.prefix}/config/data/cluster", token=stolen).status == 200
    node.run()
    assert own.read_names(f"{own.prefix}/config/metadata/locked") == []


def test_an_unenrolled_node_does_not_come_back_with_its_token(own: Vouched) -> None:
    own.apply()
    environment = own.environment()
    before = everything(own.server)
    passed_well(own.image("c-1"))
    stolen = own.logged_in("c-1")
    said = vaultpki("unenroll", "-f", own.file, "c-1", "--revoke", env=environment).stdout
    assert "c-1 has a disabled identity and no report any more" in said and "kubelet-client" in said
    assert not opens(own, "c-1", stolen)
    assert own.read_names(f"{own.prefix}/config/metadata/reports") == []
    listed = json.loads(vaultpki("nodes", "-f", own.file, "--json", env=environment, expect={0, 3}).stdout)["nodes"]
    assert "c-1" not in [entry["node"] for entry in listed]

    # The pool goes and comes back: the nodes that were locked are locked still.
    passed_well(own.image("c-3"))
    vaultpki("lock", "-f", own.file, "c-3", env=environment)
    own.write(f"{WITHOUT}{EDGE}")
    own.apply()
    own.write(SPEC)
    own.apply()
    assert not opens(own, "c-1", stolen) and not opens(own, "c-3")
    own.settled()

    # With the last such pool the mount goes, and all that Vault knew of who logged in there.
    assert own.server.api("POST", f"{own.prefix}/config/data/locked/cp-1", {"data": {}}).status == 200
    own.write(WITHOUT)
    own.apply()
    assert entity_ids(own) == entity_ids_in(before)
    assert own.read_names(f"{own.prefix}/config/metadata/locked") == ["cp-1"]
    own.settled()


def entity_ids(cluster: Vouched) -> list[str]:
    return sorted(cluster.read_names("identity/entity/id"))


def entity_ids_in(found: dict[str, Any]) -> list[str]:
    return sorted(found["identity/entity/id/"])


@pytest.mark.on_node
def test_what_is_no_name_of_a_node_is_not_asked_for(cluster: Vouched) -> None:
    start = cluster.server.audit_position()
    for command, names in (("lock", ("c-*", "../c-1")), ("unlock", ("c-2,c-1", "C-1")), ("unenroll", ("{{c-1}}",))):
        for name in names:
            ran = vaultpki(command, "-f", cluster.file, name, env=cluster.environment(), expect=1)
            fails(ran, "is not a node name")
    assert cluster.server.writes(start) == []


@pytest.mark.on_node
def test_a_node_with_an_approle_is_enrolled_again_and_not_unlocked(cluster: Vouched) -> None:
    ran = vaultpki("unlock", "-f", cluster.file, "cp-1", env=cluster.environment(), expect=1)
    fails(ran, "cp-1 does not log in by a token of an issuer", "`vaultpki enroll")
