"""`plan -o FILE` and `apply FILE`: applied is what was approved, or nothing, and what differs is named."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from helpers.node import enrolled_nodes
from helpers.vault import rotations
from helpers.vault.applied_cluster import Ran, vaultpki
from helpers.vault.cluster_factory import ClusterFactory
from helpers.vault.jwt_issuer import Issuer
from helpers.vault.plan_commands import AuditedCluster, fails
from helpers.vault.rotations import rotation_of
from helpers.vault.servers import Server
from vaultpki.cli import saved_plan
from vaultpki.errors import Refused
from vaultpki.provision import apply
from vaultpki.provision.plan import Change, Plan, without_notice
from vaultpki.records.server_facts import ServerFacts
from vaultpki.vault import Vault

ISSUER = Issuer()
JWT = f"{{issuer: {ISSUER.name}, audiences: [vaultpki], node_claim: node, public_keys_file: keys.pem}}"
SPEC = f"""\
api_server: {{names: [api.example.com]}}
nodes:
- {{name: cp-1, roles: [control-plane, etcd], addresses: [10.0.0.11]}}
- {{name: worker-1, roles: [worker], addresses: [10.0.0.21]}}
pools:
- {{name: autoscaled, roles: [worker], node_names: "w-*"}}
- {{name: cloud, roles: [worker], node_names: "c-*", jwt: {JWT}}}
templates:
  audit: {{file: audit.yaml, template: audit.yaml.tmpl, roles: [control-plane]}}
"""
FILES = {"keys.pem": ISSUER.public_pem, "audit.yaml.tmpl": "node: ${node}\n"}
CHANGED = f"{SPEC}certificates: {{kubelet: {{ttl: 9d}}}}\n"


@pytest.fixture(scope="module")
def cluster(shared_clusters: ClusterFactory) -> Iterator[AuditedCluster]:
    """One applied cluster for most of these tests, each of which leaves it as it was."""
    cluster = shared_clusters.applied(SPEC, FILES)
    yield cluster
    cluster.write(SPEC)
    cluster.settled()


def saved(cluster: AuditedCluster, spec: str = CHANGED, *, who: Any = "viewer") -> Path:
    """The plan for this cluster.yaml, saved by somebody who may write nothing."""
    cluster.write(spec)
    file = cluster.folder / "plan.json"
    file.unlink(missing_ok=True)
    start = cluster.server.audit_position()
    ran = vaultpki("plan", "-f", cluster.file, "-o", file, env=cluster.environment(who))
    assert cluster.server.writes(start) == []
    assert f"Saved in {file}: `vaultpki apply {file}` makes these changes, or none." in ran.stdout
    assert file.stat().st_mode & 0o777 == 0o644
    return file


def applied(cluster: AuditedCluster, file: Path, *further: str, expect: int = 0) -> Ran:
    return vaultpki("apply", file, *further, env=cluster.environment(), expect=expect)


def refused(cluster: AuditedCluster, file: Path, *fragments: str, **environment: str) -> None:
    """`apply FILE` names what differs, and writes nothing."""
    start = cluster.server.audit_position()
    ran = vaultpki("apply", file, env={**cluster.environment(), **environment}, expect=1)
    fails(ran, f"{file} is not applied, and nothing was written: ", *fragments, "save a new plan (`vaultpki plan -f ")
    assert cluster.server.writes(start) == []


def edited(file: Path, change: Callable[[dict[str, Any]], object]) -> Path:
    document = json.loads(file.read_text())
    change(document)
    file.write_text(json.dumps(document))
    return file


def test_a_first_plan_goes_from_one_job_to_the_next(clusters: ClusterFactory) -> None:
    cluster = clusters.written(SPEC, FILES)
    file = cluster.folder / "plan.json"
    env = cluster.environment("viewer")
    ran = vaultpki("plan", "-f", cluster.file, "--json", "--detailed-exitcode", "-o", file, env=env, expect=4)
    changes = json.loads(ran.stdout)["changes"]
    document = json.loads(file.read_text())
    assert document["digests"]["changes"].keys() == {f"{change['kind']} {change['name']}" for change in changes}
    assert document["plan"][0].startswith(f"+ cluster {cluster.name} below {cluster.prefix}")
    assert (document["root_sha256"], document["digests"]["server"]) == ("", {})
    # Of cluster.yaml counts what it says.
    cluster.file.write_text(f"# A comment.\n{cluster.file.read_text()}")
    made = json.loads(applied(cluster, file, "--json").stdout)
    assert [(each["kind"], each["name"]) for each in made["changes"]] == [(c["kind"], c["name"]) for c in changes]
    # Once more there is nothing left to do.
    start = cluster.server.audit_position()
    assert f"All that {file} says is applied already." in applied(cluster, file).stdout
    assert json.loads(applied(cluster, file, "--json").stdout)["changes"] == []
    assert [write for write in cluster.server.writes(start) if write[1] != "sys/capabilities-self"] == []
    # A plan with no change is saved too, so a pipeline needs no case for it.
    vaultpki("plan", "-f", cluster.file, "-o", file, env=env)
    assert f"All that {file} says is applied already." in applied(cluster, file).stdout
    # A root of somebody else is not what was approved, even if nothing is left to change.
    edited(file, lambda document: document.update(root_sha256="0" * 64))
    refused(cluster, file, f"the root CA of the server is another one: {cluster.root_sha256}, not {'0' * 64};")


@pytest.mark.on_node
def test_what_nodes_do_in_between_does_not_matter(cluster: AuditedCluster, tmp_path: Path) -> None:
    file = saved(cluster)
    assert cluster.equip("worker-1", folder=tmp_path / "worker-1").run().returncode == 0
    enroller = enrolled_nodes.Enroller(cluster, cluster.token("enroller"))
    node = cluster.equip("cp-1", folder=tmp_path / "cp-1")
    join = enroller.join_file("w-1", tmp_path / "join.json", pool="autoscaled")
    enrolled_nodes.join(type(node)("w-1", tmp_path / "w-1"), join)
    # A lock gives the node another role id, which the plan only copies.
    enrolled_nodes.vacate(cluster, "cp-1")
    ran = applied(cluster, file)
    assert f"Applying {file} to {cluster.server.address}: " in ran.stdout and "Plan: " not in ran.stdout
    assert "Done: " in ran.stdout and cluster.plan()["changes"] == []
    # The impact, which names who takes part, is for people.
    assert "worker-1" in "".join(json.loads(saved(cluster, SPEC).read_text())["impact"])
    applied(cluster, file)


def other_spec(cluster: AuditedCluster) -> None:
    cluster.write(CHANGED.replace("9d", "8d"))


def other_template(cluster: AuditedCluster) -> None:
    (cluster.folder / "audit.yaml.tmpl").write_text("node: ${node} # more\n")


def other_keys(cluster: AuditedCluster) -> None:
    (cluster.folder / "keys.pem").write_text(Issuer().public_pem)


def other_name(cluster: AuditedCluster) -> None:
    cluster.file.write_text(cluster.file.read_text().replace(f"cluster: {cluster.name}", "cluster: dev"))


BEFORE_THE_SERVER: dict[str, tuple[Callable[[AuditedCluster], None], tuple[str, ...]]] = {
    "cluster.yaml": (other_spec, ("{file} has changed since the plan was saved; save",)),
    "a template": (other_template, ("written: the template audit has changed since the plan was saved; save",)),
    "the issuer's keys": (
        other_keys,
        ("written: the public_keys_file of pool cloud has changed since the plan was saved; save",),
    ),
    "another cluster": (
        other_name,
        (
            "the cluster is another one: dev, not {name}; ",
            "the prefix is another one: vaultpki/dev, not vaultpki/{name}; save",
        ),
    ),
}


@pytest.mark.on_node
def test_what_is_compared_before_the_server_is_asked(cluster: AuditedCluster) -> None:
    file = saved(cluster)
    start = cluster.server.audit_position()
    for change, words in BEFORE_THE_SERVER.values():
        change(cluster)
        refused(cluster, file, *(word.format(file=cluster.file, name=cluster.name) for word in words))
        cluster.write(CHANGED)
        for name, text in FILES.items():
            (cluster.folder / name).write_text(text)
    other = "https://localhost:1"
    refused(cluster, file, f"the server is another one: {other}, not {cluster.server.address};", VAULT_ADDR=other)
    refused(cluster, file, "the namespace is another one: team1, not the root namespace;", VAULT_NAMESPACE="team1")
    edited(file, lambda document: document.update(vaultpki="0.0.9"))
    refused(cluster, file, "it was saved by vaultpki 0.0.9, and this is ")
    # No token goes to a server that is not the one of the plan.
    assert cluster.server.requests(start) == []


def by_hand(cluster: AuditedCluster) -> None:
    role = f"{cluster.prefix}/etcd/roles/etcd-peer"
    assert cluster.server.api("POST", role, {**cluster.read(role), "ttl": 3600}).status in (200, 204)
    policy = {"policy": json.dumps({"path": {"secret/a": {"capabilities": ["read"]}}})}
    assert cluster.server.api("PUT", f"sys/policies/acl/{cluster.prefix}/node/other", policy).status in (200, 204)
    assert cluster.server.api("DELETE", f"{cluster.prefix}/config/metadata/nodes/cp-1").status == 204


def by_another_operator(cluster: AuditedCluster) -> None:
    """Applies another cluster.yaml of the same cluster, and leaves ours as it is."""
    ours = cluster.file.read_text()
    cluster.write(SPEC.replace("10.0.0.21", "10.0.0.22"))
    cluster.apply()
    cluster.file.write_text(ours)


ON_THE_SERVER: dict[str, tuple[Callable[[AuditedCluster], None], tuple[str, ...]]] = {
    "by hand": (
        by_hand,
        (
            "role {p}/etcd/etcd-peer has changed",
            "config {p}/config/nodes/cp-1 is gone",
            "policy {p}/node/other is new since the plan was saved; save",
        ),
    ),
    "by another operator": (
        by_another_operator,
        ("config {p}/config/nodes/worker-1 has changed", "policy {p}/node/worker-1 has changed"),
    ),
}


@pytest.mark.parametrize("what", ON_THE_SERVER)
def test_what_others_change_on_the_server_is_named(cluster: AuditedCluster, what: str) -> None:
    change, words = ON_THE_SERVER[what]
    file = saved(cluster)
    change(cluster)
    refused(cluster, file, *(word.format(p=cluster.prefix) for word in words))
    cluster.server.api("DELETE", f"sys/policies/acl/{cluster.prefix}/node/other")
    cluster.write(SPEC)
    cluster.apply()


@pytest.mark.on_node
def test_a_rotation_in_between_is_named_and_reports_in_it_are_not(clusters: ClusterFactory) -> None:
    rotation = rotation_of(clusters)
    cluster = rotation.cluster
    spec = f"{rotations.SPEC}certificates: {{kubelet: {{ttl: 9d}}}}\n"
    file = saved(cluster, spec)
    rotation.begin()
    refused(cluster, file, "on the server the rotation of etcd is new since the plan was saved;")
    file = saved(cluster, spec)
    rotation.reported()
    assert "Done: " in applied(cluster, file).stdout


@pytest.mark.on_node
def test_an_edited_file_gains_nothing(cluster: AuditedCluster) -> None:
    """Every digest and every line of the changes counts; what is carried out is never read from the file."""
    role = f"role {cluster.prefix}/kubelet/kubelet"
    edits: list[tuple[Callable[[dict[str, Any]], object], str]] = [
        (lambda each: each["digests"]["changes"].update({role: "0" * 64}), f"the change of {role} has changed"),
        (lambda each: each["digests"]["changes"].pop(role), f"the change of {role} is new"),
        (lambda each: each["digests"]["changes"].update({"role a": "0" * 64}), "the change of role a is gone"),
        (lambda each: each["digests"]["server"].update({role: "0" * 64}), f"on the server {role} has changed"),
        (
            lambda each: each.update({"plan": each["plan"][1:]}),
            "the text of the plan in the file is not that of the plan",
        ),
        (lambda each: each.update(impact=["nothing changes for any node"]), "the impact in the file is not that of"),
        (lambda each: each.update(until="2026-01-01T00:00:00Z"), "it ended at 2026-01-01T00:00:00Z; save"),
        (lambda each: each.update(root_sha256="0" * 64), f"another one: {cluster.root_sha256}, not {'0' * 64}"),
    ]
    file = saved(cluster)
    text = file.read_text()
    for change, words in edits:
        file.write_text(text)
        refused(cluster, edited(file, change), words)
    # A path that no system takes.
    long = edited(file, lambda each: each.update(file="x" * 5000))
    for plan in (long, edited(file, lambda each: each.update(file="x" * 4000))):
        ran = vaultpki("apply", plan, env=cluster.environment(), expect=1)
        assert ran.stderr.count("\n") == 1 and "a fault of vaultpki" not in ran.stderr
    # Another cluster.yaml than the one that was planned.
    file.write_text(text)
    other = cluster.folder / "other.yaml"
    other.write_text(cluster.file.read_text().replace("9d", "7d"))
    refused(cluster, edited(file, lambda each: each.update(file=str(other))), f"{other} has changed")
    fails(
        vaultpki("apply", file, "-f", other, env=cluster.environment(), expect=1), f"{other} has changed", f"-f {other}"
    )
    # Whoever may write the file may say another path; what is applied is what was approved.
    vaultpki("apply", file, "-f", cluster.file, env=cluster.environment())
    assert cluster.plan()["changes"] == []
    cluster.write(SPEC)
    cluster.apply()


def computed_again(cluster: AuditedCluster, file: Path) -> tuple[Vault, ServerFacts, Plan]:
    """What `apply FILE` has compared, as it begins to write."""
    vault, where = cluster.client(), ServerFacts((cluster.server.address,), cluster.server.ca_file.read_text())
    return vault, where, saved_plan.computed_again(file, saved_plan.read(file), cluster.model, vault, where)


@pytest.mark.on_node
def test_a_change_between_the_comparison_and_the_writes(cluster: AuditedCluster) -> None:
    vault, where, plan = computed_again(cluster, saved(cluster))
    by_hand(cluster)
    start = cluster.server.audit_position()
    with pytest.raises(Refused, match="the server has changed since the plan was shown; nothing was written"):
        apply.apply(cluster.model, vault, where, first=plan, progress=lambda change: None)
    assert cluster.server.writes(start) == []
    cluster.server.api("DELETE", f"sys/policies/acl/{cluster.prefix}/node/other")
    cluster.write(SPEC)
    cluster.apply()


@pytest.mark.on_node
def test_a_change_of_others_during_the_writes_is_not_undone(cluster: AuditedCluster) -> None:
    """Another object than those of the plan is left as it is; one of the plan is written again."""
    vault, where, plan = computed_again(cluster, saved(cluster))
    own, other = (f"{cluster.prefix}/{role}" for role in ("kubelet/roles/kubelet", "etcd/roles/etcd-peer"))
    written = cluster.read(other)

    def drift(change: Change) -> None:
        assert cluster.server.api("POST", own, {**cluster.read(own), "ttl": 60}).status in (200, 204)
        assert cluster.server.api("DELETE", other).status == 204

    with pytest.raises(
        Refused, match=f"has changed role {other.replace('roles/', '')} at .* meanwhile.* 6 changes were made and"
    ):
        apply.apply(cluster.model, vault, where, first=plan, strict=True, progress=drift)
    assert cluster.server.api("GET", other).status == 404
    assert cluster.server.api("POST", other, written).status in (200, 204)
    # What is left are changes that were approved.
    left = apply.observe_and_plan(cluster.model, vault, where)[1]
    assert [change.key for change in without_notice(left.changes)] == [("role", f"{cluster.prefix}/kubelet/kubelet")]
    cluster.write(SPEC)
    cluster.apply()


@pytest.mark.on_node
def test_a_loss_that_was_not_approved_and_no_secret_in_the_file(
    clusters: ClusterFactory, server: Server, tmp_path: Path
) -> None:
    """The plan is the same, but the node that it removes takes part by now."""
    cluster = clusters.applied(SPEC, FILES)
    without = SPEC.replace("- {name: worker-1, roles: [worker], addresses: [10.0.0.21]}\n", "")
    file = saved(cluster, without)
    assert json.loads(file.read_text())["loses_access"] == []
    cluster.write(SPEC)
    node = cluster.equip("worker-1", folder=tmp_path / "worker-1")
    node.run()
    cluster.write(without)
    refused(cluster, file, "the saved plan does not say that worker-1 loses its identity at once")

    enroller = enrolled_nodes.Enroller(cluster, cluster.token("enroller"))
    join = enroller.join_file("w-1", tmp_path / "join.json", pool="autoscaled")
    secrets = {server.token, *server.unseal_keys, json.loads(join.read_text())["wrap_token"]}
    secrets |= {cluster.token(who) for who in ("applier", "enroller", "operator", "viewer", "locker")}
    secrets.add((node.state / "secret-id").read_text())
    for kind in ("listed", "pooled"):
        roles = f"auth/{cluster.prefix}/{kind}/role"
        for name in cluster.read_names(roles):
            secrets.add(cluster.read(f"{roles}/{name}/role-id")["role_id"])
            secrets.update(cluster.read_names(f"{roles}/{name}/secret-id"))
    for key in node.pki.glob("*.key"):
        secrets.update(re.findall(r"[A-Za-z0-9+/=]{40,}", key.read_text()))
    assert len(secrets) > 15
    # A node goes, and with it the record that has its role id; the jwt pool goes, and with it its configuration.
    gone = re.sub(r"- \{name: (cloud|autoscaled).*\n", "", without).replace("pools:\n", "")
    text = saved(cluster, gone).read_text()
    assert "- node worker-1" in text
    for secret in secrets:
        assert secret not in text
        quoted = json.dumps(secret)
        for digested in (secret, f"{secret}\n", quoted, f"[{quoted},null]"):
            assert hashlib.sha256(digested.encode()).hexdigest() not in text


@pytest.mark.on_node
def test_only_a_saved_plan_is_applied_and_overwritten(cluster: AuditedCluster) -> None:
    file = saved(cluster)
    text = file.read_text()
    edited(file, lambda document: document.update(file="nosuch/cluster.yaml"))
    fails(applied(cluster, file, expect=1), "was computed from nosuch/cluster.yaml, which is not here", "with -f")
    file.write_text(text[:-30])
    fails(applied(cluster, file, expect=1), f"{file}: is not as `vaultpki plan -o` writes it: it was changed or cut")
    fails(applied(cluster, cluster.file, expect=1), f"{cluster.file}: is not a plan that `vaultpki plan -o` has saved")
    file.write_text(text)
    vaultpki("plan", "-f", cluster.file, "-o", file, env=cluster.environment("viewer"), umask=0)
    # The same plan is the same file but for its end, and no other user may write it.
    until = re.compile(r'"until": "[^"]+"')
    assert until.sub("", file.read_text()) == until.sub("", text) and file.stat().st_mode & 0o777 == 0o644
    own = cluster.file.read_text()
    ran = vaultpki("plan", "-f", cluster.file, "-o", cluster.file, env=cluster.environment("viewer"), expect=1)
    fails(ran, f"'{cluster.file}' is not a saved plan of vaultpki: choose another name with -o")
    assert cluster.file.read_text() == own
    file.chmod(0o666)
    fails(applied(cluster, file, expect=1), "others may write to the file")
