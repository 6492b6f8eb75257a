"""What a plan and the log of an apply say: whom they ask and with whose token, each stage, and where it stopped."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from helpers.faults.cutting_proxy import proxied
from helpers.faults.hostile_server import Guest
from helpers.faults.trusted_proxy import relaying
from helpers.vault.cluster_factory import ClusterFactory
from helpers.vault.plan_commands import SPEC, AuditedCluster, fails, vaultpki
from helpers.vault.servers import OF_TESTS

pytestmark = pytest.mark.on_node

WORKERS = "".join(f"- {{name: w{n:02}, roles: [worker], addresses: [10.0.1.{n}]}}\n" for n in range(1, 31))
MANY = SPEC.replace("pools:", f"{WORKERS}pools:")


@pytest.fixture(scope="module")
def cluster(shared_clusters: ClusterFactory) -> AuditedCluster:
    """One applied cluster for all of these tests, each of which leaves it as it found it."""
    return shared_clusters.applied(SPEC)


def test_a_ttl_on_many_nodes_is_a_few_lines_and_one_for_each_stage(clusters: ClusterFactory) -> None:
    cluster = clusters.applied(MANY)
    cluster.write(MANY + "certificates: {kubelet: {ttl: 14d}}\n")
    said = cluster.apply().stdout
    names = ", ".join(["worker-1", *(f"w{n:02}" for n in range(1, 10))])
    entry = f"~ {names} and 22 more: kubelet: ttl 30d -> 14d\n"
    stage = "roles, policies and records: 34 of 34 written (2 roles, 1 record of a pool, 31 records of nodes)\n"
    joined = re.sub(r"\n +", " ", said)
    assert entry in joined and joined.index(entry) < joined.index("Plan: 0 to create, ") < joined.index(stage)
    # Neither an object by itself, nor a certificate that stays as it is.
    assert said.count("\n") < 15 and '{"' not in said and "kube-proxy" not in said
    assert max(map(len, said.splitlines()[:-2])) <= 100
    cluster.settled()


def test_an_apply_that_stops_says_what_was_made_and_a_rerun_goes_on(clusters: ClusterFactory, tmp_path: Path) -> None:
    cluster = clusters.written(SPEC)
    with proxied(cluster.server) as proxy:
        proxy.arm_at("roles/etcd-peer")
        ca_file = tmp_path / "proxy-ca.crt"
        ca_file.write_text(proxy.ca_pem)
        env = {"VAULT_ADDR": proxy.address, "VAULT_CACERT": str(ca_file), "VAULT_TOKEN": cluster.token()}
        ran = vaultpki("apply", "-f", cluster.file, "--yes", env=env, expect=1)
    fails(ran, "is sealed")
    stopped = re.sub(r"\n +", " ", ran.stdout)
    done = re.search(r"Stopped: (\d+) of (\d+) changes were made\. Not all is done of:", stopped)
    assert done is not None and 30 < int(done[1]) < int(done[2]), ran.stdout
    assert "issuing CAs: 4 of 4 made\n" in ran.stdout and "issuing CAs" not in stopped[done.end() :]
    assert re.search(r" roles, policies and records: \d+ of 2\d written \(\d+ of 15 roles, ", stopped[done.end() :])
    assert " AppRoles of nodes: 0 of 2 written" in stopped
    assert ran.stdout.endswith("Run the same apply again: it looks at what is there and goes on with the rest.\n")
    again = cluster.apply().stdout
    left = re.search(r"Plan: (\d+) to create, (\d+) to update", again)
    assert left is not None and int(left[1]) < int(done[2]) and "Stopped" not in again
    cluster.settled()


def test_nothing_to_change_needs_no_terminal(cluster: AuditedCluster) -> None:
    env, start = cluster.environment(), cluster.server.audit_position()
    ran = vaultpki("apply", "-f", cluster.file, env=env)
    assert "\nNothing to change.\n" in ran.stdout and "Done: 0 changes, 0 writes" in ran.stdout and ran.stderr == ""
    assert json.loads(vaultpki("apply", "-f", cluster.file, "--json", env=env).stdout)["changes"] == []
    assert vaultpki("plan", "-f", cluster.file, env=env).stdout.endswith("\nNothing to change.\n")
    cluster.write(SPEC.replace("10.0.0.21", "10.0.0.22"))
    for words in ([], ["--json"]):
        ran = vaultpki("apply", "-f", cluster.file, *words, env=env, expect=1)
        fails(ran, "apply would make 2 changes at ", "there is no terminal to ask on; ", ", and pass --yes")
        assert ran.stdout == ""
    assert cluster.server.writes(start) == []
    cluster.write(SPEC)


def test_a_plan_says_whom_it_asks_and_whose_token_it_has(cluster: AuditedCluster) -> None:
    token = cluster.token()
    policy = f"{OF_TESTS}/{cluster.prefix}/applier"
    owner = cluster.server.api("GET", "auth/token/lookup-self", token=token).data
    ca = {"VAULT_CACERT": str(cluster.server.ca_file), "VAULT_TOKEN": token}
    name = cluster.server.address.replace("127.0.0.1", "localhost")
    for variable in ("VAULT_ADDR", "BAO_ADDR"):
        said = vaultpki("plan", "-f", cluster.file, env={**ca, variable: name})
        joined = re.sub(r"\n +", " ", said.stdout)
        assert joined.startswith(
            f"Server: {name}, namespace root\n"
            f"! {variable} names this server; {cluster.file} names {cluster.server.address}\n"
            f"Token: {owner['display_name']}, policies {policy}, accessor {owner['accessor']}\n"
        )
        assert token not in said.stdout + said.stderr
    # An address that cluster.yaml names too beats nothing.
    shown = vaultpki("plan", "-f", cluster.file, env=ca).stdout
    assert shown.startswith(f"Server: {cluster.server.address}, namespace root\nToken: ")
    document = json.loads(vaultpki("plan", "-f", cluster.file, "--json", env={**ca, "VAULT_ADDR": name}).stdout)
    assert document["server"] == {
        "address": name,
        "namespace": "root",
        "variable": "VAULT_ADDR",
        "cluster_yaml": [cluster.server.address],
        "token": {
            "name": owner["display_name"],
            "policies": [policy],
            "entity": "",
            "accessor": owner["accessor"],
        },
    }


def test_a_token_that_may_not_look_at_itself_is_told(cluster: AuditedCluster) -> None:
    server, name = cluster.server, f"{OF_TESTS}/{cluster.prefix}/blind"
    rules = json.loads(vaultpki("policy", "-f", cluster.file, "viewer").stdout)
    del rules["path"]["auth/token/lookup-self"]
    assert server.api("PUT", f"sys/policies/acl/{name}", {"policy": json.dumps(rules)}).status in (200, 204)
    body = {"policies": [name], "no_default_policy": True, "ttl": "10m"}
    token = server.api("POST", "auth/token/create", body).body["auth"]["client_token"]
    said = vaultpki("plan", "-f", cluster.file, env=server.environment(token)).stdout
    assert "\nToken: cannot be read: its policies do not allow auth/token/lookup-self\n" in said
    assert said.endswith("\nNothing to change.\n")


def test_a_server_that_repeats_the_token_does_not_get_it_printed(cluster: AuditedCluster, tmp_path: Path) -> None:
    token = cluster.token()

    def repeat(guest: Guest, path: str, status: int, heard: bytes) -> None:
        body = json.loads(heard or b"{}")
        if path.endswith("lookup-self"):
            said = {"display_name": f"x {token}\x1b[2J", "policies": [token], "entity_id": token, "accessor": token}
            body["data"].update(said)
        guest.answer(status, body if heard else b"")

    with relaying(cluster.server, tmp_path, say=repeat) as liar:
        for words in ([], ["--json"]):
            env = {**cluster.environment(), **liar.environment}
            ran = vaultpki("plan", "-f", cluster.file, *words, env=env)
            assert token not in ran.stdout + ran.stderr and "(hidden)" in ran.stdout
            assert all(line.isprintable() for line in ran.stdout.splitlines())
