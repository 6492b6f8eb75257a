"""Each token does its whole job without root, each of its grants is needed for it, and what it could do if stolen."""

from __future__ import annotations

import functools
import json
import os
import shutil
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import pytest

from helpers.faults.drawn import Drawn
from helpers.node import enrolled_nodes
from helpers.vault import handmade_rotation
from helpers.vault.applied_cluster import AppliedCluster, NodeFolder
from helpers.vault.cluster_factory import ClusterFactory
from helpers.vault.jwt_issuer import Issuer
from helpers.vault.least_privilege import Rules, Step, each_grant_is_needed, first_refused, holder, made, status, write
from helpers.vault.servers import Server
from vaultpki.agent import run
from vaultpki.ca import imported
from vaultpki.certificates import resolve, row_named, sign_parameters
from vaultpki.config.agent import load_agent
from vaultpki.disk.files import write_private
from vaultpki.errors import Denied, StateConflict
from vaultpki.identity import access, asked_server, ending, enrol, nodes
from vaultpki.issue import operator
from vaultpki.model import Certificate
from vaultpki.pki import keys, x509
from vaultpki.procedures import ON_NODES
from vaultpki.provision import destroy
from vaultpki.records.join_file import dump_join
from vaultpki.records.server_facts import ServerFacts
from vaultpki.vault import Request, Vault
from vaultpki.verify import vault_trial

ISSUER = Issuer()
JWT = f"{{issuer: {ISSUER.name}, audiences: [vaultpki], node_claim: node, public_keys_file: keys.pem}}"
SPEC = f'{enrolled_nodes.SPEC}- {{name: cloud, roles: [worker], node_names: "c-*", jwt: {JWT}}}\n'


@pytest.fixture(scope="module")
def cluster(shared_clusters: ClusterFactory) -> AppliedCluster:
    return shared_clusters.applied(SPEC, {"keys.pem": ISSUER.public_pem})


CHANGED = (
    SPEC.replace("10.0.0.21", "10.0.0.22").replace('- {name: batch, roles: [worker], node_names: "batch-*"}\n', "")
    + "defaults: {ttl: 40d}\n"
)


def apply(cluster: AppliedCluster, vault: Vault, text: str) -> None:
    cluster.write(text)
    cluster.applied_here(vault)


def applying(cluster: AppliedCluster, vault: Vault) -> list[Step]:
    """The applier's whole job on a cluster that is there already; at its end it is there again, and new."""

    def enroll(node: str, pool: str | None) -> None:
        model = cluster.model
        who = enrol.holder(model, node, pool)
        where = enrol.place(model, vault)
        join = enrol.enroll(model, vault, node, who, where, wrap_ttl=60, replace=True, wait=0)
        secret = cluster.server.api("POST", "sys/wrapping/unwrap", token=join.wrap_token).data["secret_id"]
        assert enrolled_nodes.login(cluster, "pooled" if pool else "listed", join.role_id, secret) is not None

    def lock_by_token(node: str) -> None:
        login = {"role": "cloud", "jwt": ISSUER.token(node)}
        assert cluster.server.api("POST", f"auth/{cluster.prefix}/jwt/login", login, token="").status == 200
        assert enrol.lock(cluster.model, vault, node, wait=0) == {"jwt"} and enrol.unlock(cluster.model, vault, node)
        assert enrol.unenroll(cluster.model, vault, node, wait=0)

    def token_owner() -> None:
        if asked_server.read(cluster.model, vault).owner is None:
            raise Denied("whose token it is was not read")

    def visit() -> None:
        checks = vault_trial.verify_vault(cluster.model, vault, now=datetime.now(UTC))
        assert checks and all(check.ok for check in checks)

    return [
        ("enroll", lambda: enroll("worker-1", None)),
        ("enroll of a pool's node", lambda: enroll("w-1", "autoscaled")),
        ("nodes", lambda: nodes.members(cluster.model, vault)),
        ("lock", lambda: enrol.lock(cluster.model, vault, "worker-1", wait=0)),
        ("lock of a pool's node", lambda: enrol.lock(cluster.model, vault, "w-1", wait=0)),
        ("unenroll", lambda: enrol.unenroll(cluster.model, vault, "w-1", wait=0)),
        ("lock of a node with a token", lambda: lock_by_token(f"c-{os.urandom(4).hex()}")),
        ("the lines above a plan", token_owner),
        ("apply of a change", lambda: apply(cluster, vault, CHANGED)),
        ("destroy", lambda: destroy.destroy(cluster.model, vault, ServerFacts((), None), progress=lambda path: None)),
        ("apply", lambda: apply(cluster, vault, SPEC)),
        ("verify --vault", visit),
        ("ca import --key", lambda: imported.look(cluster.model, vault, "etcd")),
    ]


@pytest.mark.parametrize(
    "step",
    [
        pytest.param(10, id="sample", marks=pytest.mark.sample),
        pytest.param(1, id="each", marks=pytest.mark.conformance),
    ],
)
def test_the_applier(cluster: AppliedCluster, drawn: Drawn, step: int) -> None:
    root = cluster.client()

    def refused(rules: Rules) -> str | None:
        found = first_refused(applying(cluster, holder(cluster.server, rules)))
        if found is not None:
            enrol.unenroll(cluster.model, root, "w-1", wait=0)
            apply(cluster, root, SPEC)
        return found

    rules = access.policy("applier.json", {"prefix": cluster.prefix})
    each_grant_is_needed(rules, refused, step, start=drawn.below(step))


def test_the_applier_is_root_in_all_but_name(cluster: AppliedCluster) -> None:
    """It writes policies and hands them to nodes, so it can make itself any token that there can be."""
    applier = holder(cluster.server, access.policy("applier.json", {"prefix": cluster.prefix}))
    applier.write(f"sys/policies/acl/{cluster.prefix}/node/worker-1", {"policy": json.dumps({"path": ANYTHING})})
    mount = f"auth/{cluster.prefix}/listed"
    role_id = applier.call(Request("GET", f"{mount}/role/worker-1/role-id")).data["role_id"]
    secret_id = applier.write(f"{mount}/role/worker-1/secret-id", {})["data"]["secret_id"]
    root = applier.login(Request("POST", f"{mount}/login", {"role_id": role_id, "secret_id": secret_id}))
    assert root.write("sys/policies/acl/anything-at-all", {"policy": json.dumps({"path": ANYTHING})}) == {}
    assert cluster.server.api("DELETE", "sys/policies/acl/anything-at-all").status == 204
    apply(cluster, cluster.client(), SPEC)
    # Its own policy alone reaches nothing that is not the cluster's.
    for path in (
        *("sys/policies/acl/other", "secret/data/x", "auth/token/create", "sys/audit", "vaultpki/other/root"),
        *(f"sys/mounts/{cluster.prefix}", f"sys/mounts/{cluster.prefix}x/root"),
    ):
        with pytest.raises(Denied):
            applier.write(path, {"policy": ""})


LOCKS = (("GET", "data"), ("POST", "data"), ("DELETE", "data"), ("DELETE", "metadata"))
ANYTHING = {"*": {"capabilities": ["create", "read", "update", "delete", "list", "sudo"]}}


def enrolling(cluster: AppliedCluster, vault: Vault) -> list[Step]:
    model, node = cluster.model, f"w-{os.urandom(4).hex()}"
    who = enrol.holder(model, node, "autoscaled")

    def enroll() -> None:
        join = enrol.enroll(model, vault, node, who, enrol.place(model, vault), wrap_ttl=60)
        secret = cluster.server.api("POST", "sys/wrapping/unwrap", token=join.wrap_token).data["secret_id"]
        assert enrolled_nodes.login(cluster, "pooled", join.role_id, secret) is not None

    def again() -> None:
        """After somebody has locked it: it looks whether there is a live credential, and sees that there is none."""
        enrolled_nodes.vacate(cluster, node)
        enroll()

    def occupied() -> None:
        try:
            enroll()
        except StateConflict as error:
            if "has 1 live credential " not in str(error):
                raise
        else:
            raise AssertionError("there is a live credential")

    def unlock(name: str) -> None:
        """What `enroll` looks at before it asks, and does once it may."""
        path = f"{cluster.prefix}/config/data/locked/{name}"
        assert cluster.server.api("POST", path, {"data": {"by": "somebody"}}).status == 200
        assert ending.find_lock(model, vault, name) is not None
        ending.remove_locks(model, vault, [name])

    return [
        ("enroll", enroll),
        ("enroll where there is a live credential", occupied),
        ("enroll again", again),
        *((f"enroll of {name}, which is locked", functools.partial(unlock, name)) for name in (node, "batch-1")),
    ]


def test_the_enroller(cluster: AppliedCluster) -> None:
    each_grant_is_needed(
        access.policy_of(cluster.model, "enroller"),
        lambda rules: first_refused(enrolling(cluster, holder(cluster.server, rules))),
    )


def test_a_stolen_enroller(cluster: AppliedCluster) -> None:
    """It can be any node of a pool, and nothing else."""
    server, model = cluster.server, cluster.model
    enroller = holder(server, access.policy_of(model, "enroller"))
    ask = made(server, enroller)
    good = access.pooled_approle(model, model.pools[0])
    pooled, listed = f"auth/{cluster.prefix}/pooled/role", f"auth/{cluster.prefix}/listed/role"
    # What it may, so that the refusals below have a counterpart that passes.
    assert ask("POST", f"{pooled}/w-7", good) == 204
    assert ask("POST", f"{pooled}/w-7/secret-id", {}, "60s") == 200
    # No other policy, and no more than what an AppRole of ours has.
    assert (
        ask("PUT", f"sys/policies/acl/{cluster.prefix}/pool/autoscaled", {"policy": json.dumps({"path": ANYTHING})})
        == 403
    )
    assert ask("PUT", f"sys/policies/acl/{cluster.prefix}/more", {"policy": ""}) == 403
    for changed in (
        {"token_policies": "root"},
        {"token_policies": f"{cluster.prefix}/node/cp-1"},
        {"token_policies": f"{cluster.prefix}/pool/autoscaled,{cluster.prefix}/node/cp-1"},
        {"token_policies": [f"{cluster.prefix}/pool/autoscaled", "root"]},
        {"policies": "root"},
        {"role_id": "mine"},
        {"token_type": "service"},
        {"token_type": "default"},
        {"token_no_default_policy": "false"},
        {"token_ttl": "86400"},
        {"token_max_ttl": "0"},
        {"token_period": "60"},
        {"bind_secret_id": "false", "token_bound_cidrs": "0.0.0.0/0"},
        {"bind_secret_id": "false"},
        {"secret_id_ttl": "0"},
        {"local_secret_ids": "true"},
    ):
        assert ask("POST", f"{pooled}/w-8", good | changed) == 403, changed
    for name in good:
        assert ask("POST", f"{pooled}/w-8", {key: value for key, value in good.items() if key != name}) == 403, name
    assert cluster.server.api("GET", f"{pooled}/w-8").status == 404
    # An AppRole that is there is not bent, not even by one of its own sub-paths.
    for body in (good, good | {"token_policies": f"{cluster.prefix}/pool/batch"}):
        assert ask("POST", f"{pooled}/w-7", body) == 403
        assert ask("PUT", f"{pooled}/w-7", body) == 403
    for part in (
        *("policies", "token-policies", "secret-id-num-uses", "secret-id-ttl", "token-ttl", "token-max-ttl", "period"),
        *("bind-secret-id", "secret-id-bound-cidrs", "token-bound-cidrs", "bound-cidr-list", "role-id"),
        *("custom-secret-id", "secret-id/destroy", "secret-id/lookup", "secret-id-accessor/destroy"),
        "secret-id-accessor/lookup",
    ):
        for method in ("POST", "DELETE"):
            assert ask(method, f"{pooled}/w-7/{part}", {part.replace("-", "_"): "x", "secret_id": "x"}, "60s") == 403, (
                part
            )
    for method, path in (("DELETE", f"{pooled}/w-7"), ("LIST", pooled), ("GET", f"{pooled}/w-7")):
        assert ask(method, path) == 403, path
    # It sees how many secret ids there are, wrapped, and can do nothing to one.
    assert ask("LIST", f"{pooled}/w-7/secret-id") == 403
    assert ask("LIST", f"{pooled}/w-7/secret-id", None, "60s") == 200
    assert ask("LIST", f"{listed}/cp-1/secret-id", None, "60s") == 403
    # A secret id only wrapped, and with nothing of its own choice but a shorter life.
    assert ask("POST", f"{pooled}/w-7/secret-id", {}) in (400, 403)
    for body in ({"metadata": '{"a": "b"}'}, {"num_uses": "1"}, {"ttl": "1h", "cidr_list": "127.0.0.1/32"}):
        assert ask("POST", f"{pooled}/w-7/secret-id", body, "60s") == 403, body
    for ttl in ("", "0", 0, "8760h", "-1s"):
        assert ask("POST", f"{pooled}/w-7/secret-id", {"ttl": ttl}, "60s") == 400, ttl
    assert ask("POST", f"{pooled}/w-7/secret-id", {}, "48h") in (400, 403)
    # Nothing of listed nodes, nor of those that join by token, nor of the cluster.
    for method, path in (
        *(
            (method, f"{cluster.prefix}/config/{kind}/locked/{node}")
            for method, kind in LOCKS
            for node in ("cp-1", "c-1")
        ),
        ("POST", f"{cluster.prefix}/config/data/locked/w-7"),
        ("GET", f"{listed}/cp-1/role-id"),
        ("POST", f"{listed}/cp-1/secret-id"),
        ("POST", f"{listed}/cp-2"),
        ("GET", f"{cluster.prefix}/config/data/nodes/cp-1"),
        ("POST", f"{cluster.prefix}/config/data/cluster"),
        ("POST", f"{cluster.prefix}/kubernetes/sign/kubelet-client"),
        ("POST", f"{cluster.prefix}/kubernetes/sign/admin"),
        ("POST", "auth/token/create"),
        ("POST", "identity/entity"),
        ("POST", "identity/entity-alias"),
    ):
        assert ask(method, path, good, "60s") == 403, path
    assert ask("POST", f"{pooled}/../../listed/role/cp-1/secret-id", {}, "60s") in (307, 400, 403, 404)


def ask_to_sign(server: Server, want: Certificate, token: str) -> int:
    """What Vault answers to the request that the agent would make for this certificate."""
    parameters = sign_parameters(want, keys.request(keys.generate_key(want.key), want.subject))
    return server.api("POST", f"{want.mount}/sign/{want.role}", parameters, token=token).status


def test_a_name_outside_its_pool_gets_the_enroller_nothing(cluster: AppliedCluster) -> None:
    """The AppRole can be made (no policy knows names that begin so and so), and its token gets no certificate."""
    server, model = cluster.server, cluster.model
    enroller = holder(server, access.policy_of(model, "enroller"))
    good = access.pooled_approle(model, model.pools[0])
    for name in ("cp-1", "x-1", "batch-1", "admin"):
        role = f"auth/{cluster.prefix}/pooled/role/{name}"
        assert status(server, enroller, "POST", role, good, "") == 204
        role_id = cluster.read(f"{role}/role-id")["role_id"]
        secret_id = server.api("POST", f"{role}/secret-id", {}).data["secret_id"]
        token = enrolled_nodes.login(cluster, "pooled", role_id, secret_id)
        for row in access.node_certificates(model, model.pools[0]):
            subject = replace(
                row.subject,
                common_name=row.subject.common_name.replace("{node}", name),
                dns=tuple(each.replace("{node}", name) for each in row.subject.dns),
            )
            answer = ask_to_sign(server, replace(row, subject=subject), str(token))
            # A certificate that names no node, kube-proxy's, is any pool's.
            assert answer == (403 if "{node}" in row.subject.common_name else 200), (name, row.name)
        assert server.api("DELETE", role).status == 204


def test_the_operator(cluster: AppliedCluster, tmp_path: Path) -> None:
    count = iter(range(1000))

    def refused(rules: Rules) -> str | None:
        vault = holder(cluster.server, rules)
        folder = tmp_path / str(next(count))

        def issue(name: str) -> object:
            return operator.issue(cluster.model, vault, name, str(folder), datetime.now(UTC), grace=0)

        def known() -> None:
            if len(x509.read_certificates((folder / "kubernetes-ca.crt").read_bytes())) != 1:
                raise Denied("the record of the rotation was not read")

        return first_refused(
            [
                ("issue admin", lambda: issue("admin")),
                ("issue super-admin", lambda: issue("super-admin")),
                ("trust by the record", known),
            ]
        )

    with handmade_rotation.steady(cluster, "kubernetes"):
        each_grant_is_needed(access.policy_of(cluster.model, "operator"), refused)


def test_a_stolen_operator(cluster: AppliedCluster) -> None:
    """It is the two certificates of its own, and no other."""
    token = holder(cluster.server, access.policy_of(cluster.model, "operator"))
    ask = made(cluster.server, token)
    for path in ("kubernetes/sign/kube-scheduler", "kubernetes/sign/kubelet-client", "etcd/sign/etcd-server"):
        assert ask("POST", f"{cluster.prefix}/{path}", {"common_name": "x"}) == 403
    row = resolve(row_named(cluster.model, "admin"), cluster.model, None)
    asked = sign_parameters(row, keys.request(keys.generate_key(row.key), row.subject))
    admin = f"{row.mount}/sign/{row.role}"
    assert ask("POST", admin, asked) == 200
    for more in ({"common_name": "kubernetes-super-admin"}, {"common_name": "system:node:cp-1"}, {"ttl": "100d"}):
        assert ask("POST", admin, asked | more) == 403, more
    for method, path in (
        ("GET", f"{cluster.prefix}/config/data/nodes/cp-1"),
        ("LIST", f"{cluster.prefix}/config/metadata"),
        ("POST", f"auth/{cluster.prefix}/pooled/role/w-1/secret-id"),
        ("POST", f"{cluster.prefix}/kubernetes/issue/admin"),
        ("PUT", f"sys/policies/acl/{cluster.prefix}/operator"),
    ):
        assert ask(method, path, {}, "60s") == 403, path


def working(node: NodeFolder, cluster: AppliedCluster) -> list[Step]:
    """A node's whole job: learn, sign each of its certificates, roll and destroy its credential, report, and rest."""

    report = cluster.report_path(node.name)

    def work() -> None:
        shutil.rmtree(node.pki, ignore_errors=True)
        (node.state / "spec.json").unlink(missing_ok=True)
        # Not known to be its own, so it is replaced.
        (node.state / "secret-id.json").write_text("{}")
        outcome = run.run(load_agent(node.config), run.PassOptions(ON_NODES, settle=False))
        for name, failure in outcome.failures.items():
            raise Denied(f"{name}: {failure}")
        if outcome.rest is None:
            raise Denied("the record of changes was not read")

    def reported(times: int) -> None:
        found = cluster.server.api("GET", report)
        if (found.data["metadata"]["version"] if found.status == 200 else 0) < times:
            raise Denied("the report was not written")

    return [
        ("a pass", work),
        ("its report", lambda: reported(1)),
        ("the next pass", work),
        ("its report", lambda: reported(2)),
    ]


@pytest.mark.parametrize(
    "step",
    [
        pytest.param(5, id="sample", marks=pytest.mark.sample),
        pytest.param(1, id="each", marks=pytest.mark.conformance),
    ],
)
@pytest.mark.parametrize(("name", "pool"), [("cp-1", None), ("w-priv", "autoscaled")])
def test_a_node(cluster: AppliedCluster, tmp_path: Path, drawn: Drawn, name: str, pool: str | None, step: int) -> None:
    root = cluster.client()
    node = NodeFolder(name, tmp_path / "node")
    who = enrol.holder(cluster.model, name, pool)
    place = enrol.place(cluster.model, root)
    join = enrol.enroll(cluster.model, root, name, who, place, wrap_ttl=300)
    write_private(str(tmp_path / "join.json"), dump_join(join).encode())
    enrolled_nodes.join(node, tmp_path / "join.json")
    policy = f"{cluster.prefix}/pool/{pool}" if pool else f"{cluster.prefix}/node/{name}"
    whole = json.loads(cluster.read(f"sys/policies/acl/{policy}")["policy"])["path"]
    assert len(whole) > 7

    def refused(rules: Rules) -> str | None:
        write(cluster.server, policy, rules)
        # Made anew and written again, by turns.
        cluster.server.api("DELETE", cluster.report_path(name, data="metadata"))
        return first_refused(working(node, cluster))

    try:
        # A node that has read a record once complains if it cannot read it any more.
        with handmade_rotation.steady(cluster, "kubernetes"):
            # Its credential for another server lies there in a move alone (tests/integration/move/test_credentials.py).
            in_a_move = {(path, "read") for path in whole if "/config/data/move/" in path}
            each_grant_is_needed(whole, refused, step, in_a_move, drawn.below(step))
    finally:
        write(cluster.server, policy, whole)
