"""What `apply` makes for a CA that was imported with its key: a mount, roles of nodes, and grants to them alone."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from helpers.example_cluster import WITH_POOL, load
from vaultpki.identity import access, imported
from vaultpki.provision.desired import desired
from vaultpki.records.adoption import OLD_CAS
from vaultpki.records.server_facts import ServerFacts

FACTS = ServerFacts(accessors={"listed": "auth_l", "pooled": "auth_p"}, root_sha256="ab" * 32)


def test_an_imported_ca_adds_its_mount_its_roles_and_grants_and_changes_nothing_else(tmp_path: Path) -> None:
    cluster = load(tmp_path, WITH_POOL)
    before = desired(cluster, FACTS)
    after = desired(cluster, replace(FACTS, imported=frozenset({"kubernetes"})))
    mount = f"{cluster.prefix}/imported-kubernetes"
    added = after.keys() - before.keys()
    own = {name for kind, name in before if kind == "role" and name.startswith(f"{cluster.prefix}/kubernetes/")}
    roles = {name.rpartition("/")[2] for name in own} - {"admin", "super-admin"}
    assert added == {("mount", mount), *(("role", f"{mount}/{name}") for name in roles)}
    for name in roles:
        former, today = after["role", f"{mount}/{name}"], before["role", f"{cluster.prefix}/kubernetes/{name}"]
        assert former == today | imported.OLD_CA_ROLE
    changed = {key for key in before if before[key] != after[key]}
    assert changed == {
        key
        for key in before
        if key[0] == "policy" and "/kubernetes/sign/" in str(before[key]) and "/operator" not in key[1]
    }
    for key in changed:
        new = after[key].keys() - before[key].keys()
        assert new and all(path.startswith(f"{mount}/sign/") for path in new)
        for path in new:
            assert after[key][path] == before[key][path.replace("imported-kubernetes", "kubernetes")]


def test_the_adopter_may_let_it_sign_and_remove_it_and_no_more(tmp_path: Path) -> None:
    cluster = load(tmp_path, WITH_POOL)
    rules, more = access.policy_of(cluster, "adopter"), access.policy_of(cluster, "adopter", {"etcd"})
    assert "imported" not in str(rules)
    mount = f"{cluster.prefix}/imported-etcd"
    assert {path: rule["capabilities"] for path, rule in more.items() if path not in rules} == {
        f"{mount}/issuer/+": ["read", "patch", "delete"],
        f"{mount}/keys": ["list"],
        f"{mount}/key/+": ["delete"],
        f"sys/mounts/{mount}": ["read", "delete"],
    }
    assert more[f"{mount}/issuer/+"]["allowed_parameters"] == {"usage": [imported.AT_REST, imported.MAY_SIGN]}


def test_the_importer_reaches_the_mounts_of_imported_cas_alone_and_signs_nothing(tmp_path: Path) -> None:
    cluster = load(tmp_path, WITH_POOL)
    rules = access.policy_of(cluster, "importer")
    mounts = {imported.mount(cluster, ca) for ca in OLD_CAS}
    harmless = {"auth/token/lookup-self", f"{cluster.prefix}/config/data/cluster"}
    for path, rule in rules.items():
        assert path in harmless or any(path.removeprefix("sys/mounts/").startswith(mount) for mount in mounts), path
        assert "sign" not in path and "roles" not in path
        assert path not in harmless or rule["capabilities"] == ["read"]
        assert not {"sudo", "create"} & {*rule["capabilities"]}
    for mount in mounts:
        allowed = rules[f"{mount}/issuer/+"]["allowed_parameters"]
        assert allowed["usage"] == [imported.AT_REST] and "issuing" not in imported.AT_REST
