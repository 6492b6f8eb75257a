"""A node's token is refused all that is not the node's, by the server itself; and the suite finds a lock left open.

Requests go raw over the wire (`forbidden_requests`). `make test` sends a sample of them to OpenBao, `make conformance`
all of them to both servers.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from helpers.faults.forbidden_requests import Intruder, found, holes, sent, wire
from helpers.vault.applied_cluster import AppliedCluster, Ran, vaultpki
from helpers.vault.cluster_factory import ClusterFactory
from helpers.vault.servers import Server
from vaultpki.errors import CertificateRefused
from vaultpki.identity.access import pooled_approle
from vaultpki.verify import forbidden_signing
from vaultpki.verify.forbidden_paths import Forbidden

# Rows of the user's own, one of them with addresses and two names: the list has to follow the table.
SPEC = """\
api_server:
  endpoint: https://api.example.com:6443
  names: [api.example.com]
  addresses: [10.0.0.10, "fd00::10"]
nodes:
- {name: cp-1, roles: [control-plane, etcd], addresses: [10.0.0.11, "fd00::11"]}
- {name: cp-2, roles: [control-plane, etcd], addresses: [10.0.0.12]}
- {name: worker-1, roles: [worker], addresses: [10.0.0.21]}
- {name: worker-2, roles: [worker], addresses: [10.0.0.22]}
pools:
- {name: autoscaled, roles: [worker], node_names: "w-*"}
- {name: gpu, roles: [worker], node_names: "gpu-*"}
certificates:
  metrics:
    kind: both
    common_name: metrics
    ca: kubelet
    roles: [worker]
    names: ["{node}", metrics.example.com]
    addresses: ["{node_addresses}"]
"""

# For what `verify --vault` does besides: two thirds of the requests.
ONE_POOL = """\
api_server: {endpoint: "https://api.example.com:6443", names: [api.example.com]}
nodes:
- {name: cp-1, roles: [control-plane, etcd], addresses: [10.0.0.11]}
pools:
- {name: autoscaled, roles: [worker], node_names: "w-*"}
"""

# With k and s, which Unicode has twice.
POOLED = "w-desk-1"
NODES = ("worker-1", "cp-1", POOLED)
FEWEST = 300

LOOSE = {
    "allow_any_name": True,
    "allow_ip_sans": True,
    "allow_wildcard_certificates": True,
    "allowed_uri_sans": ["*"],
    "cn_validations": ["disabled"],
    "enforce_hostnames": False,
}


@pytest.fixture(scope="module")
def server(server_on_disk: Server) -> Server:
    return server_on_disk


@pytest.fixture(scope="module")
def good(shared_clusters: ClusterFactory) -> AppliedCluster:
    """A cluster as apply makes it."""
    return shared_clusters.applied(SPEC)


@pytest.fixture
def cluster(good: AppliedCluster) -> Iterator[AppliedCluster]:
    """The same, whose locks a test may open: afterwards they are as apply makes them."""
    yield good
    good.apply()


@pytest.fixture(scope="module")
def one_pool(shared_clusters: ClusterFactory) -> AppliedCluster:
    return shared_clusters.applied(ONE_POOL)


@pytest.fixture
def small(one_pool: AppliedCluster) -> Iterator[AppliedCluster]:
    """The same, with one pool and one more node."""
    yield one_pool
    one_pool.apply()


@pytest.fixture(
    params=[
        pytest.param(5, id="sample", marks=pytest.mark.sample),
        pytest.param(1, id="each", marks=pytest.mark.conformance),
    ]
)
def step(request: pytest.FixtureRequest) -> int:
    """Of the requests that differ in one value only, each how many-th is sent."""
    found: int = request.param
    return found


SPARSE = 5
"""The same where a lock is open: each request is sent in `test_vault_refuses_a_node_all_that_is_not_its_own`."""


def intruder(cluster: AppliedCluster, name: str) -> Intruder:
    """A node with its own token; one in w- is of the pool of that pattern."""
    return Intruder.logged_in(cluster, name, "autoscaled" if name.startswith("w-") else None)


def loosen_role(cluster: AppliedCluster, *roles: str) -> None:
    for path in roles:
        fields = cluster.read(path)
        answer = cluster.server.api("POST", path, {**fields, **LOOSE})
        assert answer.status in (200, 204), answer


def loosen_policy(cluster: AppliedCluster, name: str, *paths: str) -> None:
    """Takes the bounds on parameters out of a policy; of the paths that begin so, or of all."""
    where = f"sys/policies/acl/{cluster.prefix}/{name}"
    policy = json.loads(cluster.read(where)["policy"])
    for path, rule in policy["path"].items():
        if not paths or path.startswith(paths):
            for bound in ("allowed_parameters", "denied_parameters", "required_parameters"):
                rule.pop(bound, None)
    assert cluster.server.api("POST", where, {"policy": json.dumps(policy)}).status == 204


def widen_policy(cluster: AppliedCluster, name: str, path: str, *capabilities: str) -> None:
    where = f"sys/policies/acl/{cluster.prefix}/{name}"
    policy = json.loads(cluster.read(where)["policy"])
    policy["path"][path] = {"capabilities": list(capabilities)}
    assert cluster.server.api("POST", where, {"policy": json.dumps(policy)}).status == 204


NAMES = ("names of others", "its own name in other spelling", "names in the certificate request")


# Each server has its own rules for policies and roles.
@pytest.mark.on_both
@pytest.mark.parametrize("name", NODES)
def test_vault_refuses_a_node_all_that_is_not_its_own(
    good: AppliedCluster, name: str, step: int, capsys: pytest.CaptureFixture[str]
) -> None:
    node = intruder(good, name)
    node.own()
    outcomes = node.tries(step=step)
    assert not holes(outcomes), "\n".join(holes(outcomes)[:20])
    turned_down = [o for o in outcomes if o.status >= 400]
    statuses = Counter(o.status for o in outcomes)
    with capsys.disabled():
        print(f"\n{good.server.kind} {name}: {len(turned_down)} forbidden requests refused by the server ({statuses})")
    assert len(turned_down) >= FEWEST
    # What is answered is its own name as Vault folds it, or its own certificate whatever else the request named.
    for outcome in outcomes:
        assert outcome.status >= 400 or outcome.request.held_by != "refusal" or dropped(outcome.request), outcome
    # Its own are signed still: no refusal came of a token that had ended, or of a request that nobody may make.
    node.own()


def dropped(request: Forbidden) -> bool:
    """Whether it asks a pool's node for a name that is no host's, which Vault leaves out without a word."""
    body = request.body or {}
    entries = str(body.get("alt_names", "")).split(",")
    return "ALT_NAMES" in body or any(not re.fullmatch(r"[A-Za-z0-9.-]+", entry) for entry in entries)


def test_where_vault_folds_case_our_check_of_the_answer_refuses(good: AppliedCluster) -> None:
    node = intruder(good, "w-desk-2")
    outcomes = node.tries("its own name in other spelling")
    folded = [o for o in outcomes if o.status == 200]
    assert folded and all(o.request.held_by == "check" for o in folded)
    assert any("W-DESK-2".removeprefix("W") in str(sent(o.request)) for o in folded)
    judge = node.judge()
    with wire(good.server, node.token) as send:
        for outcome in folded:
            assert outcome.request.own is not None
            with pytest.raises(CertificateRefused, match="name") as refusal:
                judge(send(outcome.request).data["certificate"], outcome.request.own)
            assert refusal.value.reason == "names-differ"


def test_a_listed_nodes_names_are_held_by_its_policy_where_the_role_is_loose(cluster: AppliedCluster) -> None:
    loosen_role(
        cluster, *(f"{cluster.prefix}/{role}" for role in ("kubernetes/roles/kubelet-client", "kubelet/roles/kubelet"))
    )
    node = intruder(cluster, "worker-1")
    node.own()
    outcomes = node.tries(step=SPARSE, below=f"{cluster.prefix}/ku")
    assert len(outcomes) > 50 and not holes(outcomes), "\n".join(holes(outcomes)[:20])


@pytest.mark.parametrize(
    ("name", "policy", "role", "stolen"),
    [
        ("worker-1", "node/worker-1", "kubernetes/roles/kubelet-client", ("system:node:worker-2", "kubernetes-admin")),
        (POOLED, "pool/autoscaled", "kubelet/roles/kubelet-autoscaled", ("worker-1", "10.0.0.11")),
    ],
)
def test_names_are_held_by_the_role_where_the_policy_is_loose_and_with_both_loose_the_hole_is_found(
    cluster: AppliedCluster, name: str, policy: str, role: str, stolen: tuple[str, ...]
) -> None:
    loosen_policy(cluster, policy, cluster.prefix)
    node = intruder(cluster, name)
    node.own()
    outcomes = node.tries(*NAMES, "addresses", step=SPARSE)
    # One lock: the addresses of a listed node are its policy's alone.
    addresses = [o for o in found(outcomes) if o.request.group == "addresses"]
    assert bool(addresses) is (name != POOLED)
    # An address of mail at the node's own name is the one thing that the role lets through.
    left = [o for o in found(outcomes) if o not in addresses and f"@{name}" not in str(sent(o.request))]
    assert not holes(left), "\n".join(holes(left)[:20])
    loosen_role(cluster, f"{cluster.prefix}/{role}")
    given = [str(sent(o.request)) for o in found(node.tries("names of others", "addresses"))]
    for what in stolen:
        assert any(what in each for each in given), what


def test_a_pools_addresses_and_foreign_names_are_held_by_its_policy_where_the_role_is_loose(
    cluster: AppliedCluster,
) -> None:
    loosen_role(
        cluster,
        f"{cluster.prefix}/kubernetes/roles/kubelet-client",
        f"{cluster.prefix}/kubelet/roles/kubelet-autoscaled",
    )
    node = intruder(cluster, POOLED)
    node.own()
    outcomes = node.tries(*NAMES, "addresses", step=SPARSE)
    names = {str(sent(o.request)) for o in found(outcomes)}
    # One lock: within the pattern it is the role alone that tells one node of the pool from another.
    assert any("system:node:w-other" in name for name in names)
    for foreign in ("worker-1", "worker-2", "cp-1", "gpu-other", "stranger", "kubernetes.default"):
        assert not [name for name in names if f"system:node:{foreign}'" in name], foreign
    assert not [name for name in names if "ip_sans" in name]


def test_a_pools_pattern_is_held_by_its_policy_alone_and_loosening_it_is_found(cluster: AppliedCluster) -> None:
    """An AppRole of a listed node's name on the pools' mount is what a stolen enroller can make at most."""
    assert by_another_name(cluster, "worker-1") == []
    loosen_policy(cluster, "pool/autoscaled", cluster.prefix)
    assert "system:node:worker-1" in by_another_name(cluster, "worker-1")


def by_another_name(cluster: AppliedCluster, name: str) -> list[str]:
    """The names with its own name in them that an AppRole outside the pool's pattern gets signed."""
    rogue = Intruder.logged_in(cluster, name, "autoscaled")
    signed = []
    for request in forbidden_signing.allowed(rogue.model, name, rogue.holder, rogue.keys.request):
        answer = cluster.server.api("POST", request.path, request.body, token=rogue.token)
        subject = request.certificate.subject
        if answer.status == 200 and name in (subject.common_name + "".join(subject.dns)):
            signed.append(subject.common_name)
    assert cluster.server.api("DELETE", f"auth/{cluster.prefix}/pooled/role/{name}").status == 204
    return signed


# A path too many in a policy, and the group of requests that finds it.
TOO_MANY = (
    ("{prefix}/kubernetes/sign/*", "update", "rows of others"),
    ("{prefix}/kubernetes/issue/+", "update", "other ways to sign"),
    ("{prefix}/kubelet/sign-verbatim/*", "update", "other ways to sign"),
    ("{prefix}/etcd/issuer/+/sign/*", "update", "other ways to sign"),
    ("{prefix}/config/data/nodes/+", "read", "records"),
    ("auth/{prefix}/listed/role/+/secret-id", "update", "AppRoles of others"),
    ("auth/{prefix}/pooled/role/+/role-id", "read", "AppRoles of others"),
    ("sys/policies/acl/*", "read", "policies"),
    ("identity/entity/id", "list", "tokens and entities"),
    ("sys/mounts", "read", "the server"),
    ("secret/*", "read", "other mounts"),
)


def test_a_path_or_a_bound_in_a_policy_that_is_wrong_is_found(cluster: AppliedCluster) -> None:
    for path, capability, _ in TOO_MANY:
        widen_policy(cluster, "node/worker-2", path.format(prefix=cluster.prefix), capability)
    wrong = found(intruder(cluster, "worker-2").tries(*{group for *_, group in TOO_MANY}))
    for path, _, group in TOO_MANY:
        fits = re.escape(path.format(prefix=cluster.prefix)).replace(r"\+", "[^/]+").replace(r"\*", ".*")
        hit = [o for o in wrong if o.request.group == group and re.fullmatch(fits, o.request.path.rstrip("/"))]
        assert hit, (path, group)
    # A bound on what a node mints that is missing.
    cluster.apply()
    where = f"sys/policies/acl/{cluster.prefix}/node/worker-2"
    whole = cluster.read(where)["policy"]
    for bound, shown in (
        ("max_wrapping_ttl", {("", "{}"), ("61s", "{}"), ("720h", "{}")}),
        ("denied_parameters", {("60s", "{'ttl': '8760h'}"), ("60s", "{'num_uses': 1000}")}),
    ):
        policy = json.loads(whole)
        del policy["path"][f"auth/{cluster.prefix}/listed/role/worker-2/secret-id"][bound]
        assert cluster.server.api("POST", where, {"policy": json.dumps(policy)}).status == 204
        wrong = found(intruder(cluster, "worker-2").tries("its own AppRole"))
        assert shown <= {(o.request.wrap_ttl, repr(o.request.body)) for o in wrong}
        assert all((o.request.wrap_ttl == "60s") == (bound == "denied_parameters") for o in wrong)


def test_a_boolean_in_a_policy_bounds_nothing_so_ours_is_text(good: AppliedCluster) -> None:
    """Both servers drop it, and an empty list lets all values pass: `exclude_cn_from_sans` was open that way."""
    node = intruder(good, "cp-2")
    (own,) = (
        a
        for a in forbidden_signing.allowed(node.model, node.name, node.holder, node.keys.request)
        if a.certificate.name == "kube-apiserver-etcd"
    )
    for value in (False, True, "false", 0, None):
        answer = good.server.api("POST", own.path, {**own.body, "exclude_cn_from_sans": value}, token=node.token)
        assert answer.status == 403, (value, answer)


def test_an_empty_value_bends_no_approle_that_an_enroller_makes(good: AppliedCluster) -> None:
    """Vault takes an empty text for every value that a policy allows; OpenBao does not."""
    token = good.token("enroller")
    pool = good.model.pools[0]
    parameters = pooled_approle(good.model, pool)
    for name in parameters:
        empties: tuple[Any, ...] = ("", [])
        for empty in empties:
            body = {**parameters, name: empty}
            role = f"auth/{good.prefix}/pooled/role/w-bent"
            answer = good.server.api("POST", role, body, token=token)
            made = good.server.api("GET", role)
            if answer.status == 204 and name == "token_policies":
                assert made.data["token_policies"] == []
            else:
                assert answer.status in (400, 403) and made.status == 404, (name, empty, answer)
            good.server.api("DELETE", role)
    assert good.server.api("POST", f"auth/{good.prefix}/pooled/role/w-good", parameters, token=token).status == 204


# verify --vault


def verify(cluster: AppliedCluster, *further: str | Path, token: str | None = None, expect: int = 0) -> Ran:
    return vaultpki(
        "verify", "-f", cluster.file, *further, env=cluster.server.environment(token or cluster.token()), expect=expect
    )


def left_over(cluster: AppliedCluster) -> list[str]:
    answer = cluster.server.api("LIST", f"auth/{cluster.prefix}/pooled/role")
    roles = answer.data["keys"] if answer.status == 200 else []
    return [role for role in roles if "verify" in role]


def entities(cluster: AppliedCluster) -> set[str]:
    answer = cluster.server.api("LIST", "identity/entity/id")
    return set(answer.data["keys"]) if answer.status == 200 else set()


@pytest.mark.conformance
def test_verify_vault_passes_a_good_cluster_and_leaves_nothing_behind(cluster: AppliedCluster) -> None:
    token = cluster.token()
    before = entities(cluster)
    position = cluster.server.audit_position()
    told = json.loads(verify(cluster, "--vault", "--json", token=token).stdout)
    assert told["ok"] and {check["kind"] for check in told["checks"]} == {"vault"}
    refused = [check for check in told["checks"] if check["expect"] == "refuse"]
    own = [check for check in told["checks"] if check["expect"] == "accept"]
    assert len(refused) >= FEWEST and len(own) == 4 and all(check["ok"] for check in told["checks"])
    assert all(check["from"].startswith("w-verify-") for check in told["checks"])
    assert not left_over(cluster) and entities(cluster) == before
    assert (
        vaultpki("plan", "-f", cluster.file, "--detailed-exitcode", env=cluster.environment("viewer")).returncode == 0
    )
    # Whatever it wrote, or asked to write, was its own AppRole and entity, or something to be signed.
    name = refused[0]["from"]
    for operation, path in cluster.server.writes(position):
        assert (
            f"/pooled/role/{name}" in path
            or path.startswith(("identity/", "sys/capabilities"))
            or path.endswith("/pooled/login")
            or any(f"/{verb}" in path for verb in ("sign", "issue", "sign-verbatim"))
        ), (operation, path)


@pytest.mark.conformance
def test_verify_vault_goes_with_verify_dir_and_is_told_in_words(small: AppliedCluster) -> None:
    node = small.equip("w-7", pool="autoscaled")
    node.run()
    said = verify(small, "--dir", node.pki, "--vault").stdout
    assert "checks of 1 holder" in said and "temporary node w-verify-" in said
    assert said.count("all as they should be") == 2


def test_verify_vault_finds_what_is_loose(small: AppliedCluster) -> None:
    policy = "pool/autoscaled"
    loosen_policy(small, policy, f"{small.prefix}/kubelet", f"auth/{small.prefix}/pooled")
    loosen_role(small, f"{small.prefix}/kubelet/roles/kubelet-autoscaled")
    widen_policy(small, policy, f"{small.prefix}/etcd/sign/+", "update")
    widen_policy(small, policy, f"{small.prefix}/config/data/nodes/+", "read")
    widen_policy(small, policy, f"{small.prefix}/kubernetes/roles/+", "update")
    widen_policy(small, policy, "sys/policies/acl/*", "create", "update")
    before = small.read(f"{small.prefix}/kubernetes/roles/kube-proxy")
    ran = verify(small, "--vault", "--json", token=small.token(), expect=3)
    told = json.loads(ran.stdout)
    wrong = {check["name"] for check in told["checks"] if not check["ok"]}
    assert not told["ok"] and wrong >= {
        "names of others",
        "addresses",
        "rows of others",
        "records",
        "the CAs' own settings",
        "policies",
        "its own AppRole",
    }
    assert all(check["got"] == "accept" for check in told["checks"] if not check["ok"])
    assert "checks failed" in ran.stderr
    # Nothing came of what was open.
    assert small.read(f"{small.prefix}/kubernetes/roles/kube-proxy") == before
    assert small.server.api("GET", "sys/policies/acl/of-my-own").status == 404
    assert not left_over(small)
    words = verify(small, "--vault", expect=3).stdout
    assert "records: GET" in words and "more" in words and "BEGIN CERTIFICATE" not in words


@pytest.mark.conformance
def test_verify_vault_with_a_node_that_gets_nothing_is_no_proof(small: AppliedCluster) -> None:
    where = f"sys/policies/acl/{small.prefix}/pool/autoscaled"
    assert small.server.api("POST", where, {"policy": '{"path": {}}'}).status == 204
    told = json.loads(verify(small, "--vault", "--json", expect=3).stdout)
    assert {check["expect"] for check in told["checks"] if not check["ok"]} == {"accept"}
    assert not left_over(small)


def test_verify_vault_that_can_prove_nothing(good: AppliedCluster, clusters: ClusterFactory) -> None:
    ran = verify(good, "--vault", token=good.token("enroller"), expect=1)
    assert ran.stderr.count("\n") == 1 and "as only the applier may" in ran.stderr
    assert not left_over(good)
    assert "--vault" in verify(good, expect=2).stderr
    without = clusters.written("nodes:\n- {name: cp-1, roles: [control-plane, etcd], addresses: [10.0.0.11]}\n")
    ran = verify(without, "--vault", expect=1)
    assert ran.stderr.count("\n") == 1 and "pools" in ran.stderr and "apply" in ran.stderr
