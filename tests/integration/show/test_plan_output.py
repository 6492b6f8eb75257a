"""What `plan` shows of a real server: what a person approves, what a rotation would need, and nothing that steers."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from helpers.faults.hostile_server import Guest
from helpers.faults.trusted_proxy import Say, relaying
from helpers.vault.cluster_factory import ClusterFactory
from helpers.vault.plan_commands import SPEC, AuditedCluster, Ran, changes, vaultpki

pytestmark = pytest.mark.on_node

DAY = 86400
EVIL = "\x1b[2J\x1b]0;owned\x07\nNothing to change.\r\u202egpj\x9b1m"


@pytest.fixture(scope="module")
def applied(shared_clusters: ClusterFactory) -> Iterator[AuditedCluster]:
    """One applied cluster for all of these tests, each of which leaves it as it found it."""
    cluster = shared_clusters.applied(SPEC)
    yield cluster
    cluster.settled()


@pytest.fixture
def cluster(applied: AuditedCluster) -> Iterator[AuditedCluster]:
    yield applied
    applied.write(SPEC)


HEAD = re.compile(r"Server: .+\nToken: .+\n(?:    .+\n)*")


def plan(cluster: AuditedCluster, *options: str, expect: int = 0) -> str:
    """What plan prints, without the lines above it that name the server and the token."""
    said: str = vaultpki("plan", "-f", cluster.file, *options, env=cluster.environment("viewer"), expect=expect).stdout
    assert "--verbose" in options or max(map(len, said.splitlines())) <= 100
    head = HEAD.match(said)
    assert head is not None, said
    return said[head.end() :]


def joined(said: str) -> str:
    return re.sub(r"\n +", " ", said)


def test_a_changed_address_reads_as_one_and_says_what_the_node_does(cluster: AuditedCluster) -> None:
    cluster.write(SPEC.replace("10.0.0.21", "10.0.0.22"))
    entry = "~ worker-1: kubelet: addresses + 10.0.0.22 - 10.0.0.21\n"
    last = "Plan: 0 to create, 2 to update, 0 to delete.\n"
    assert plan(cluster) == entry + last
    assert cluster.plan()["impact"] == []
    assert cluster.server.api("POST", cluster.report_path("worker-1"), {"data": {"time": "now"}}).status == 200
    when = "within its agent's `poll` (5m by default) or in its next window"
    assert joined(plan(cluster)) == f"{entry}Impact: worker-1 issues kubelet anew {when}\n{last}"
    assert [(i["node"], i["certificate"], i["effect"]) for i in cluster.plan()["impact"]] == [
        ("worker-1", "kubelet", "reissues")
    ]
    said = plan(cluster, "--verbose")
    assert (
        f"~ policy {cluster.prefix}/node/worker-1\n" in said
        and f"~ config {cluster.prefix}/config/nodes/worker-1\n" in said
    )
    # Nothing else of them: the server gives keys back in another order than it was sent.
    rule, items = f"{cluster.prefix}/kubelet/sign/kubelet.allowed_parameters.ip_sans", "+ 10.0.0.22 - 10.0.0.21"
    fields = [line for line in said.partition("Impact:")[0].splitlines() if line.startswith(" ")]
    assert fields == [f"    {rule} {items}", f"    certificates.kubelet.addresses {items}"]
    # What apply --yes did is told, with what it meant.
    document, _ = cluster.applied()
    assert document["impact"][0]["node"] == "worker-1"
    # Two that exchange their paths wait for each other: no pair is taken away.
    cluster.write(SPEC + "certificates: {kube-proxy: {file: kubelet-client}, kubelet-client: {file: kube-proxy}}\n")
    keeps = "worker-1 keeps kube-proxy and kubelet-client where they are until they expire, for at most 30d, or until "
    assert keeps in joined(plan(cluster)) and "`vaultpki agent --once --prune`; each waits" in joined(plan(cluster))
    assert {(i["certificate"], i["effect"]) for i in cluster.plan()["impact"]} >= {("kube-proxy", "waits")}
    cluster.write(SPEC)
    cluster.apply()
    assert cluster.server.api("DELETE", cluster.report_path("worker-1", data="metadata")).status == 204
    cluster.settled()


@pytest.mark.parametrize(
    ("wish", "fields"),
    [
        ("key: rsa-2048", {"key": ("ec-p256", "rsa-2048")}),
        ("issuing_ttl: 4y", {"ttl": (1825 * DAY, 1460 * DAY)}),
        ("root_ttl: 20y, issuing_ttl: 9y", {"ttl": (1825 * DAY, 3285 * DAY)}),
    ],
)
def test_a_change_under_ca_needs_a_rotation_and_changes_nothing(
    cluster: AuditedCluster, wish: str, fields: dict[str, tuple[Any, Any]]
) -> None:
    cluster.write(SPEC + f"ca: {{{wish}}}\n")
    said = joined(plan(cluster, "--detailed-exitcode", expect=3))
    assert "! kubernetes CA: " in said and said.endswith("\nNothing to change.\n")
    assert "it needs a rotation (`vaultpki ca rotate kubernetes`); nothing is changed\n" in said
    of_root = "it needs a rotation (`vaultpki ca rotate root`); nothing is changed\n" in said
    assert of_root is not wish.startswith("issuing")
    start = cluster.server.audit_position()
    ran = vaultpki("apply", "-f", cluster.file, "--yes", "--json", env=cluster.environment())
    document = json.loads(ran.stdout)
    assert document["changes"] == [] and cluster.server.writes(start) == []
    needed = {entry["ca"]: entry["fields"] for entry in document["rotation_needed"]}
    assert needed.keys() >= {"kubernetes", "kubelet", "etcd", "front-proxy"}
    for name, (old, new) in fields.items():
        assert needed["etcd"][name]["to"] == new
        assert needed["etcd"][name]["from"] == old or abs(needed["etcd"][name]["from"] - old) < 3
    said = joined(vaultpki("apply", "-f", cluster.file, "--yes", env=cluster.environment()).stdout)
    assert "! etcd CA: " in said and said.endswith(f"Done: 0 changes, 0 writes to {cluster.server.address}.\n")
    # Changes come first: what needs a person is still told beside them.
    cluster.write(SPEC.replace("10.0.0.21", "10.0.0.22") + f"ca: {{{wish}}}\n")
    said = plan(cluster, "--detailed-exitcode", expect=4)
    assert "! etcd CA: " in said and said.endswith("\nPlan: 0 to create, 2 to update, 0 to delete.\n")


def test_a_longer_life_of_leaves_than_the_ca_has_is_told(cluster: AuditedCluster) -> None:
    cluster.write(SPEC + "ca: {root_ttl: 20y, issuing_ttl: 9y}\ncertificates: {etcd-peer: {ttl: 6y}}\n")
    assert "until then etcd-peer would outlive it and end with it" in joined(plan(cluster))


def test_as_asked_nothing_needs_a_rotation(cluster: AuditedCluster) -> None:
    cluster.write(SPEC)
    assert plan(cluster, "--detailed-exitcode") == "Nothing to change.\n"
    assert cluster.plan()["rotation_needed"] == []


def test_nothing_that_lies_on_the_server_steers_a_terminal(cluster: AuditedCluster) -> None:
    api, p = cluster.server.api, cluster.prefix
    record = cluster.read(f"{p}/config/data/nodes/cp-1")["data"]
    bad = {**record["certificates"][0], "name": EVIL, "dns": [EVIL]}
    evil = {**record, EVIL: EVIL, "certificates": [bad, *record["certificates"][1:]], "role_id": EVIL}
    assert api("POST", f"{p}/config/data/nodes/cp-1", {"data": evil}).status == 200
    rules = {"path": {EVIL: {"capabilities": ["read"]}, f"x/{EVIL}": {"capabilities": ["sudo"]}}}
    assert api("POST", f"sys/policies/acl/{p}/node/cp-1", {"policy": json.dumps(rules)}).status == 204
    role = cluster.read(f"{p}/etcd/roles/etcd-peer")
    assert (
        api("POST", f"{p}/etcd/roles/etcd-peer", {**role, "allowed_domains": [EVIL], "organization": [EVIL]}).status
        < 300
    )
    for options in ([], ["--verbose"]):
        said = plan(cluster, *options)
        assert all(line.isprintable() for line in said.splitlines()), said
        assert not [line for line in said.splitlines() if line.startswith("Nothing to change")]
    progress: Ran = vaultpki("apply", "-f", cluster.file, "--yes", env=cluster.environment())
    assert all(line.isprintable() for line in progress.stdout.splitlines()), progress.stdout
    cluster.settled()


def lying(prefix: str) -> Say:
    """What the real server said, but every list that it gives holds one more name, which no real one takes."""

    def lie(guest: Guest, path: str, status: int, heard: bytes) -> None:
        body = json.loads(heard or b"{}")
        data = body.get("data")
        if isinstance(data, dict) and isinstance(data.get("keys"), list):
            data["keys"].append(f"{prefix}/node/{EVIL}" if "policies/acl" in path else EVIL)
            if isinstance(data.get("key_info"), dict):
                data["key_info"][EVIL] = {"issuer_name": EVIL, "key_name": EVIL, "key_id": EVIL}
        guest.answer(status, body if heard else b"")

    return lie


def test_nor_does_a_name_that_only_a_lying_server_gives(cluster: AuditedCluster, tmp_path: Path) -> None:
    """Lists of records, policies, issuers, AppRoles and reports that hold it, printed by plan, nodes and destroy."""
    cluster.write(SPEC.replace("10.0.0.21", "10.0.0.22"))
    shown = "\\x1b[2J\\x1b]0;owned\\x07\\nNothing to change.\\r\\u202egpj\\x9b1m"
    with relaying(cluster.server, tmp_path, say=lying(cluster.prefix)) as liar:
        env = {**cluster.environment(), **liar.environment}
        for options in ([], ["--verbose"]):
            said = vaultpki("plan", "-f", cluster.file, *options, env=env).stdout
            assert all(line.isprintable() for line in said.splitlines()), said
            assert not [line for line in said.splitlines() if line.startswith("Nothing to change")]
            assert shown in said.replace("\n    ", " "), said
            for sign, kind, name in (
                ("!", "issuer", "/etcd/issuer/"),
                ("?", "approle", "/listed/"),
                ("?", "policy", "/node/"),
                ("?", "config", "/config/"),
            ):
                assert f"{sign} {kind} {cluster.prefix}{name}\\x1b[2J" in said, said
        # It gives a node that cluster.yaml does not name, too.
        said = vaultpki("nodes", "-f", cluster.file, env=env, expect=3).stdout
        assert all(line.isprintable() for line in said.splitlines()), said
        page = cluster.file.parent / "report.html"
        made = vaultpki("report", "-f", cluster.file, "--from-vault", "-o", page, env=env, expect=3)
        for text in (made.stderr, page.read_text()):
            assert all(line.isprintable() for line in text.splitlines()), text


def test_nor_do_names_in_an_error(cluster: AuditedCluster, tmp_path: Path, cluster_name: str) -> None:
    """A mount of somebody else where ours belongs, described with escapes: the refusal quotes it."""
    other = AuditedCluster(cluster.server, tmp_path, cluster_name)
    other.write(SPEC)
    body = {"type": "kv", "description": EVIL}
    assert other.server.api("POST", f"sys/mounts/{other.prefix}/etcd", body).status == 204
    for command in (["plan"], ["apply", "--yes"], ["destroy", "--confirm", other.name]):
        ran = vaultpki(*command, "-f", other.file, env=other.environment(), expect=1)
        assert ran.stdout == ""
        (line,) = ran.stderr.splitlines()
        assert line.isprintable() and line.startswith("vaultpki: ") and "owned" in line
    assert other.server.api("DELETE", f"sys/mounts/{other.prefix}/etcd").status == 204


def test_a_change_by_hand_is_told_in_words_too(cluster: AuditedCluster) -> None:
    role = cluster.read(f"{cluster.prefix}/kubernetes/roles/kube-proxy")
    path = f"{cluster.prefix}/kubernetes/roles/kube-proxy"
    assert cluster.server.api("POST", path, {**role, "max_ttl": 999 * DAY}).status < 300
    assert (
        plan(cluster)
        == "~ certificate kube-proxy: max_ttl 2y269d -> 30d\nPlan: 0 to create, 1 to update, 0 to delete.\n"
    )
    assert changes(cluster.plan()) == {
        ("role", path.replace("/roles", "")): ("update", {"max_ttl": (999 * DAY, 30 * DAY)})
    }
    cluster.apply()
