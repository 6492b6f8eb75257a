"""Who wrote the records that nodes follow: in every view, in the agent's log, and in the server's own audit log."""

from __future__ import annotations

import json
import re
from html import unescape
from pathlib import Path
from typing import Any

from helpers.node.passes import passed, passed_well, said
from helpers.vault.applied_cluster import AppliedCluster, NodeFolder, vaultpki
from helpers.vault.cluster_factory import ClusterFactory
from helpers.vault.servers import OF_TESTS

SPEC = """\
api_server: {names: [api.example.com]}
nodes:
- {name: cp-1, roles: [control-plane, etcd], addresses: [10.0.0.11]}
"""


class Person:
    """Somebody who logs in by a name, with the policy that is printed for the applier."""

    def __init__(self, cluster: AppliedCluster, name: str) -> None:
        self.cluster, server, mount = cluster, cluster.server, f"people-{cluster.name}"
        cluster.token()
        rights = {"token_policies": [f"{OF_TESTS}/{cluster.prefix}/applier"], "token_no_default_policy": True}
        assert server.api("POST", f"sys/auth/{mount}", {"type": "userpass"}).status in (200, 204)
        made = server.api("POST", f"auth/{mount}/users/{name}", {"password": "correct-horse", **rights})
        assert made.status in (200, 204), made
        auth = server.api("POST", f"auth/{mount}/login/{name}", {"password": "correct-horse"}).body["auth"]
        self.environment = server.environment(auth["client_token"])
        self.name, self.entity = f"{mount}-{name}", str(auth["entity_id"])

    @property
    def who(self) -> str:
        return f"{self.name} (entity {self.entity})"

    def run(self, *words: str | Path, expect: int = 0) -> None:
        vaultpki(*words, "-f", self.cluster.file, env=self.environment, expect=expect)


def blind(cluster: AppliedCluster) -> dict[str, str]:
    """The environment of an applier whose token may not look at itself."""
    server, name = cluster.server, f"{OF_TESTS}/{cluster.prefix}/blind"
    rules = json.loads(vaultpki("policy", "-f", cluster.file, "applier").stdout)
    del rules["path"]["auth/token/lookup-self"]
    assert server.api("PUT", f"sys/policies/acl/{name}", {"policy": json.dumps(rules)}).status in (200, 204)
    body = {"policies": [name], "no_default_policy": True, "ttl": "10m"}
    return server.environment(server.api("POST", "auth/token/create", body).body["auth"]["client_token"])


def audited(cluster: AppliedCluster, path: str) -> list[tuple[int, str, str]]:
    """Of each write at a path: the version that the server gave it, and whose token it had, by the audit log."""
    return [
        (entry["response"]["data"]["version"], entry["auth"]["display_name"], entry["auth"].get("entity_id", ""))
        for entry in cluster.server.audited()
        if entry["type"] == "response"
        and entry["request"]["path"] == f"{cluster.prefix}/config/data/{path}"
        and entry["request"]["operation"] in ("create", "update")
    ]


def shown(cluster: AppliedCluster, command: str) -> tuple[dict[str, Any], str]:
    """What a view shows, for programs and for people."""
    words: tuple[str | Path, ...] = (*command.split(), "-f", cluster.file)
    env = cluster.environment("viewer")
    found = json.loads(vaultpki(*words, "--json", env=env, expect={0, 3}).stdout)["written"]
    return found, " ".join(vaultpki(*words, env=env, expect={0, 3}).stdout.split())


def followed(node: NodeFolder) -> list[str]:
    node.age()
    return said(passed_well(node), "followed")


def test_who_applied_and_who_rotates_is_shown_by_every_view_and_by_the_node(clusters: ClusterFactory) -> None:
    cluster = clusters.applied(SPEC)
    node, anna, server = cluster.equip("cp-1"), Person(cluster, "anna"), cluster.server
    assert said(passed_well(node), "followed") == [] == followed(node)

    cluster.write(SPEC.replace("[api.example.com]", "[api.example.com, api.internal]"))
    since = server.audit_position()
    anna.run("apply", "--yes")
    asked = [path for _, path in server.requests(since)]
    assert asked.count("auth/token/lookup-self") == 1
    version, *by = audited(cluster, "changes")[-1]
    assert by == [anna.name, anna.entity]
    (line,) = followed(node)
    assert re.fullmatch(rf"follows .* \(changes: version {version}, written 2\S+Z by {re.escape(anna.who)}\)", line)

    since = server.audit_position()
    anna.run("ca", "rotate", "etcd")
    assert [path for _, path in server.requests(since)].count("auth/token/lookup-self") == 1
    assert followed(node) == [f"follows revision 2 of rotation/etcd (prepared), written by {anna.who}"]
    assert followed(node) == []

    env = blind(cluster)
    vaultpki("ca", "continue", "-f", cluster.file, env=env)
    # A turn is a revision of its own.
    assert followed(node)[0].endswith("(published), written by somebody who is not recorded")
    anna.run("ca", "abort")
    writes = audited(cluster, "rotation/etcd")
    assert writes[0] == (1, anna.name, anna.entity) and writes[-1][1:] == (anna.name, anna.entity)
    page = cluster.file.parent / "report.html"
    words = ("report", "-f", cluster.file, "--from-vault", "-o", page)
    vaultpki(*words, env=cluster.environment("viewer"), expect={0, 3})
    for command in ("ca status", "nodes"):
        found, text = shown(cluster, command)
        assert found.keys() == {"changes", "rotation/etcd"}
        about = found["rotation/etcd"]
        assert (about["version"], about["by"], about["entity"]) == writes[-1]
        assert (found["changes"]["version"], found["changes"]["by"], found["changes"]["entity"]) == (version, *by)
        sentence = f"rotation/etcd version {writes[-1][0]}, written {about['at']} by {anna.who}"
        assert sentence in text and sentence in " ".join(unescape(page.read_text()).split())
        assert f"{cluster.prefix}/config/data" in text

    assert followed(node)
    record = f"{cluster.prefix}/config/data/rotation/etcd"
    for version in (2, 3):
        # Set back: an older record than this node has read, which it does not follow.
        before = cluster.read(f"{record}?version={version}")["data"]
        assert server.api("POST", record, {"data": before}).status == 200
        node.age()
        assert said(passed(node), "followed") == []
