"""Nodes that prove who they are by an issuer's token: each gets its own certificates, and the rest Vault refuses."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa

from helpers.faults.drawn import Drawn
from helpers.faults.forbidden_requests import wire
from helpers.node.passes import passed_well
from helpers.node.vouched_nodes import CLOUD, SPEC, Vouched, csr, goes_on, place, put, shown, sign
from helpers.vault.applied_cluster import ALONE
from helpers.vault.jwt_issuer import Issuer, showing
from helpers.vault.plan_commands import fails, vaultpki
from helpers.vault.server_calls import Answer
from helpers.vault.servers import Server
from vaultpki.certificates import LEAF_BACKDATE
from vaultpki.identity import nodes
from vaultpki.model import Certificate
from vaultpki.pki import x509
from vaultpki.records import report_paths
from vaultpki.verify.forbidden_signing import allowed, forbidden


@pytest.fixture(scope="module")
def server(server_on_disk: Server) -> Server:
    return server_on_disk


@pytest.fixture(scope="module")
def cluster(server: Server, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Vouched]:
    """One applied cluster for all tests that leave it as it was."""
    cluster = Vouched(server, tmp_path_factory.mktemp("jwt"), f"jwt{server.product}", Issuer())
    cluster.write(SPEC)
    cluster.apply()
    yield cluster
    cluster.settled()


@pytest.fixture
def own(server: Server, tmp_path: Path, cluster_name: str) -> Vouched:
    """A cluster of the test's own, not applied yet."""
    cluster = Vouched(server, tmp_path, cluster_name, Issuer())
    cluster.write(SPEC)
    return cluster


# What a node gets


def test_a_node_gets_its_own_certificates_and_keeps_them(cluster: Vouched) -> None:
    node = cluster.image("c-1")
    assert "issued kubelet" in node.run().stdout
    assert "CN = system:node:c-1" in shown(node, "kubelet.crt").replace("CN=", "CN = ")
    assert "DNS:c-1" in shown(node, "kubelet.crt") and "IP Address" not in shown(node, "kubelet.crt")
    assert {path.name for path in node.pki.glob("*.crt")} >= {"kubelet.crt", "kubelet-client.crt", "kube-proxy.crt"}
    assert not list(node.state.glob("secret-id*"))
    before = node.snapshot()
    assert "nothing to do" in node.run().stdout
    after = node.snapshot()
    assert {name: before[name] for name in before if name.startswith("pki/")} == {
        name: after[name] for name in after if name.startswith("pki/")
    }
    listed = json.loads(
        vaultpki("nodes", "-f", cluster.file, "--json", env=cluster.environment("viewer")).stdout,
    )["nodes"]
    (seen,) = [entry for entry in listed if entry["node"] == "c-1"]
    assert seen["pool"] == "cloud" and seen["report"]["certificates"]["kubelet"]["state"] == "ok"


def test_another_layout_is_refused_once_a_node_has_reported(own: Vouched) -> None:
    """Such a node has no credential in Vault, so its report is what shows that it takes part."""
    document = SPEC.replace("[control-plane, etcd]", "[control-plane, etcd, worker]")
    own.write(document)
    own.apply()
    own.write(f"layout: kubeadm\n{document}")
    own.plan()
    own.write(document)
    passed_well(own.image("c-1"))
    own.write(f"layout: kubeadm\n{document}")
    for command in (["plan"], ["apply", "--yes"]):
        ran = vaultpki(*command, "-f", own.file, env=own.environment(), expect=1)
        assert "End the credentials of c-1 (`vaultpki lock`; take a pool with jwt out and apply)" in ran.stderr
    own.write(document.replace(CLOUD, ""))
    own.apply()
    own.write(f"layout: kubeadm\n{document}")
    own.apply()


def test_the_token_is_read_at_each_login_and_a_bad_one_harms_nothing(cluster: Vouched) -> None:
    node = cluster.image("c-swap")
    passed_well(node)
    before = shown(node, "kubelet.crt")
    now = int(time.time())
    put(node, cluster.issuer.token("c-swap", iat=now - 900, nbf=now - 900, exp=now - 600))
    node.age()
    goes_on(node.run(expect=1), "Vault rejects the token in", "expired", "pool cloud")
    put(node, "no token at all")
    goes_on(node.run(expect=1), "holds no token")
    (node.folder / "token").unlink()
    goes_on(node.run(expect=1), "is missing, so this node cannot prove who it is")
    put(node, cluster.issuer.token("c-swap"))
    (node.folder / "token").chmod(0o644)
    node.folder.chmod(0o700)
    node.run()
    assert shown(node, "kubelet.crt") == before


def test_a_node_with_the_token_of_another_gets_nothing(cluster: Vouched) -> None:
    node = cluster.image("c-victim", token=cluster.issuer.token("c-thief"))
    assert "not allowed by this role" in node.run(expect=1).stderr
    assert not (node.pki / "kubelet.crt").exists() and not (node.pki / "kubelet-client.crt").exists()


@pytest.mark.on_node
def test_doctor_says_whose_token_it_is(cluster: Vouched) -> None:
    node = cluster.image("c-there", token=cluster.issuer.token("c-elsewhere"))
    ran = vaultpki("doctor", "-c", node.config, "--json", env={}, expect=3)
    checks = {each["check"]: each for each in json.loads(ran.stdout)["checks"]}
    assert checks["login"]["verdict"] == "failed"
    assert (
        f"Vault takes the token in {node.folder}/token, but it is of c-elsewhere, and this is c-there"
        in (checks["login"]["detail"])
    )
    put(node, cluster.issuer.token("c-there"))
    node.run()
    ran = vaultpki("doctor", "-c", node.config, "--json", env={}, behind=ALONE)
    assert {"check": "login", "verdict": "ok", "detail": ""} in json.loads(ran.stdout)["checks"]


def test_an_auth_mount_that_is_gone_is_not_a_locked_node(own: Vouched) -> None:
    own.apply()
    by_token, listed = own.image("c-1"), own.equip("cp-1")
    for kind, node in (("jwt", by_token), ("listed", listed)):
        assert own.server.api("DELETE", f"sys/auth/{own.prefix}/{kind}").status == 204
        said = node.run(expect=1).stderr
        assert f"Vault has no auth mount auth/{own.prefix}/{kind}, so no node can log in there" in said, said
        assert "Then make it: `vaultpki apply`" in said and "unlock" not in said


# Who gets in


Bad = Callable[[Vouched], str]


def _ago(cluster: Vouched, seconds: int) -> str:
    now = int(time.time())
    return cluster.issuer.token("c-1", iat=now - seconds - 300, nbf=now - seconds - 300, exp=now - seconds)


def _tampered(cluster: Vouched) -> str:
    mine, other = cluster.issuer.token("c-1").split("."), cluster.issuer.token("c-2").split(".")
    return f"{mine[0]}.{other[1]}.{mine[2]}"


REFUSED: dict[str, Bad] = {
    "another audience": lambda cluster: cluster.issuer.token("c-1", aud="kubernetes"),
    "no audience": lambda cluster: cluster.issuer.token("c-1", aud=None),
    "another issuer": lambda cluster: cluster.issuer.token("c-1", iss="https://other.example"),
    "the issuer's name with a slash": lambda cluster: cluster.issuer.token("c-1", iss="https://issuer.example/"),
    "no issuer": lambda cluster: cluster.issuer.token("c-1", iss=None),
    "expired": lambda cluster: _ago(cluster, 12),
    "expired long ago": lambda cluster: _ago(cluster, 100_000),
    "not valid yet": lambda cluster: cluster.issuer.token("c-1", nbf=int(time.time()) + 60),
    "no times": lambda cluster: cluster.issuer.token("c-1", iat=None, nbf=None, exp=None),
    "no end, and old": lambda cluster: cluster.issuer.token(
        "c-1", exp=None, iat=int(time.time()) - 60, nbf=int(time.time()) - 60
    ),
    "another key of the issuer's name": lambda cluster: replace(cluster.issuer, key=Issuer().key).token("c-1"),
    "an RSA key": lambda cluster: replace(cluster.issuer, key=rsa.generate_private_key(65537, 2048)).token("c-1"),
    "alg none": lambda cluster: cluster.issuer.sign(cluster.issuer.claims("c-1"), alg="none"),
    "an HMAC by the public key": lambda cluster: cluster.issuer.sign(cluster.issuer.claims("c-1"), alg="HS256"),
    "another token's claims": _tampered,
    "no signature": lambda cluster: cluster.issuer.token("c-1").rpartition(".")[0] + ".",
    "no node claim": lambda cluster: cluster.issuer.token(None),
    "a node of no pool": lambda cluster: cluster.issuer.token("d-1"),
    "a listed node": lambda cluster: cluster.issuer.token("cp-1"),
    "a node of another pool": lambda cluster: cluster.issuer.token("e-1"),
    "a node that joins by a file": lambda cluster: cluster.issuer.token("w-1"),
    "upper case": lambda cluster: cluster.issuer.token("C-1"),
    "the pattern inside": lambda cluster: cluster.issuer.token("x-c-1"),
    "a blank before": lambda cluster: cluster.issuer.token(" c-1"),
    "a list of names": lambda cluster: cluster.issuer.token(["c-1", "c-2"]),
    "a list of one": lambda cluster: cluster.issuer.token(["c-1"]),
    "a number": lambda cluster: cluster.issuer.token(1),
    "a mapping": lambda cluster: cluster.issuer.token({"c-1": True}),
    "the name in another claim": lambda cluster: cluster.issuer.token(None, sub="c-1"),
    "nothing": lambda cluster: "",
    "no token": lambda cluster: "c-1",
}


def test_vault_refuses(cluster: Vouched) -> None:
    assert cluster.login(cluster.issuer.token("c-1")).status == 200
    for why, bad in REFUSED.items():
        answer = cluster.login(bad(cluster))
        assert 400 <= answer.status < 404 and "auth" not in answer.body, (why, answer)
    assert cluster.login(cluster.issuer.token("c-1")).status == 200


def test_a_token_is_good_at_its_own_pools_role_only(cluster: Vouched) -> None:
    cloud, edge = cluster.issuer.token("c-1"), cluster.issuer.token("e-1")
    assert [cluster.login(cloud, "cloud").status, cluster.login(edge, "edge").status] == [200, 200]
    for token, pool in ((cloud, "edge"), (edge, "cloud"), (cloud, "autoscaled"), (cloud, "nowhere"), (cloud, "")):
        assert cluster.login(token, pool).status == 400, pool
    # There is no default role.
    assert cluster.server.api("POST", f"auth/{cluster.prefix}/jwt/login", {"jwt": cloud}, token="").status == 400


def test_one_nodes_token_is_never_anothers(cluster: Vouched) -> None:
    # Their tokens differ in the one claim alone, and the second logs in while the first one's token lives.
    first, second = cluster.logged_in("c-1"), cluster.logged_in("c-2")
    other = cluster.logged_in("e-1", "edge")
    for token, mine, foreign in ((first, "c-1", "c-2"), (second, "c-2", "c-1")):
        assert sign(cluster, token, mine).status == 200
        for row in ("kubelet", "kubelet-client"):
            assert sign(cluster, token, foreign, row=row).status in (400, 403)
            assert sign(cluster, token, "e-1", "edge", row=row).status in (400, 403)
    assert sign(cluster, other, "e-1", "edge").status == 200 and sign(cluster, other, "c-1").status in (400, 403)
    entities = {
        cluster.server.api("POST", "auth/token/lookup", {"token": t}).data["entity_id"] for t in (first, second)
    }
    assert len(entities) == 2
    report, store = {"data": {"version": 1}}, f"{cluster.prefix}/config/data"
    for node in ("c-1", "c-2", "e-1", "listed/c-1", "pooled/cloud/c-1"):
        assert cluster.server.api("POST", f"{store}/reports/{node}", report, token=first).status == 403
    for token, status in ((first, 200), (second, 403), (other, 403)):
        assert cluster.server.api("POST", f"{store}/{place(cluster, token)}", report, token=first).status == status
    elsewhere = f"{store}/{place(cluster, first).replace('/cloud/', '/edge/')}"
    assert cluster.server.api("POST", elsewhere, report, token=first).status == 403


ODD = ("c-*", "c-1/", "c-2,c-1", "c-1 ", "c-A", "c-1.", "c-/../listed/cp-1", "c-+", "c-1/*", "c-1@c-1", "c-%2f")


def test_an_odd_subject_is_no_node(own: Vouched) -> None:
    """An issuer may put any text into the claim, and the servers take the pool's `node_names` for a glob."""
    own.apply()
    good, store = own.logged_in("c-1"), f"{own.prefix}/config/data"
    report = {"data": {"version": 1, "time": "2026-11-27T12:00:00Z", "agent": "odd"}}
    assert own.server.api("POST", f"{store}/{place(own, good)}", report, token=good).status == 200
    others = [place(own, good), report_paths.listed("cp-1"), report_paths.pooled("autoscaled", "w-1")]
    admitted, reported = set(), set()
    for subject in ODD:
        odd = own.login(own.issuer.token(subject))
        if odd.status != 200:
            assert odd.status in (400, 403), (subject, odd)
            continue
        admitted.add(subject)
        token = odd.body["auth"]["client_token"]
        # It reports at its own place alone, whatever its name is; a token whose policy such a name would bend opens
        # nothing at all on OpenBao, which answers 400.
        for where in (*others, place(own, token, "edge")):
            assert own.server.api("POST", f"{store}/{where}", report, token=token).status in (400, 403), subject
        if own.server.api("POST", f"{store}/{place(own, token)}", report, token=token).status == 200:
            reported.add(subject)
        for row in ("kubelet", "kubelet-client"):
            for name in ("c-1", "c-2", *([subject] if set(subject) & set("*/, +@%") else [])):
                assert sign(own, token, name, row=row).status in (400, 403), (subject, name, row)
    assert admitted >= {"c-*", "c-1/", "c-2,c-1"} and "c-2,c-1" in reported
    found = nodes.read_nodes(own.model, own.client())
    assert [each.name for each in found.members if each.kind == "jwt"] == ["c-1"]
    assert {each.name for each in found.unfit} == reported and all("fits no pool" in x.sentence for x in found.unfit)


def exactly(answer: Answer, own: Certificate | None) -> bool:
    """Whether Vault signed the node's own certificate all the same, and took no notice of what was asked beside it."""
    pem = answer.body.get("data", {}).get("certificate")
    if own is None or not pem:
        return False
    leaf = x509.read_certificates(pem.encode())[0]
    names = replace(leaf.subject, dns=tuple(sorted(leaf.subject.dns)))
    life = leaf.not_after - leaf.not_before
    return (
        names == replace(own.subject, dns=tuple(sorted(own.subject.dns)))
        and not (leaf.further_names or leaf.is_ca)
        and life <= timedelta(seconds=own.ttl + LEAF_BACKDATE + 1)
    )


@pytest.mark.parametrize(
    "size",
    [
        pytest.param(80, id="sample", marks=pytest.mark.sample),
        pytest.param(10_000, id="each", marks=pytest.mark.conformance),
    ],
)
def test_what_a_node_must_not_have_is_refused_by_vault(cluster: Vouched, size: int, drawn: Drawn) -> None:
    model, pool = cluster.model, cluster.pool("cloud")
    token = cluster.logged_in("c-17")
    for mine in allowed(model, "c-17", pool, csr):
        assert cluster.server.api("POST", mine.path, mine.body, token=token).status == 200, mine.path
    every = [each for each in forbidden(model, "c-17", pool, csr) if each.held_by == "refusal"]
    asked = drawn.some(every, size)
    got, own = [], 0
    with wire(cluster.server, token) as send:
        for each in asked:
            answer = send(each)
            if answer.status < 400 and exactly(answer, each.own):
                own += 1
            elif answer.status < 400:
                got.append(f"{each.method} {each.path} ({each.why})")
    print(
        f"{len(asked)} requests with a token by jwt: {len(got)} got through, {own} brought the node's own certificate"
    )
    assert got == [] and len(every) - own >= 300 and own <= 3


def test_names_that_differ_in_case_alone_are_one_node_to_vault(cluster: Vouched) -> None:
    # Vault keeps one alias for both, so the issuer must not give them to two machines. No other name comes of it.
    mixed, lower = cluster.logged_in("c-Fold"), cluster.logged_in("c-fold")
    entities = {cluster.server.api("POST", "auth/token/lookup", {"token": t}).data["entity_id"] for t in (mixed, lower)}
    assert len(entities) == 1
    assert sign(cluster, mixed, "c-1").status in (400, 403)
    node = cluster.image("c-fold2")
    node.configure("node: c-fold2", "node: c-Fold2")
    fails(node.run(expect=1), "upper-case letters, which Vault changes")


def test_other_keys_and_claims_and_keys_that_vault_fetches(own: Vouched) -> None:
    for key in (ed25519.Ed25519PrivateKey.generate(), rsa.generate_private_key(65537, 2048)):
        cluster = replace(own, issuer=Issuer(key))
        cluster.write(SPEC)
        cluster.apply()
        assert cluster.login(cluster.issuer.token("c-1")).status == 200
        assert cluster.login(Issuer(ec.generate_private_key(ec.SECP256R1())).token("c-1")).status == 400
    cluster.settled()
    # A claim below another, as Kubernetes has it.
    cluster = replace(own, issuer=replace(own.issuer, claim="kubernetes.io"))
    cluster.write(SPEC.replace("node_claim: node", "node_claim: /kubernetes.io/node/name"))
    cluster.apply()
    cluster.settled()
    node = cluster.image("c-1", token=cluster.issuer.token({"namespace": "c-2", "node": {"name": "c-1", "uid": "1"}}))
    passed_well(node)
    assert "system:node:c-1" in shown(node, "kubelet.crt")
    claims: tuple[Any, ...] = ({"name": "d-1"}, "c-1", {}, {"name": ["c-1"]})
    for claim in ("c-1", *({"node": each} for each in claims)):
        assert cluster.login(cluster.issuer.token(claim)).status == 400, claim
    with showing(own.issuer, own.folder) as url:
        own.write(SPEC.replace("public_keys_file: keys.pem", f"jwks_url: '{url}', jwks_ca_file: jwks-ca.pem"))
        own.apply()
        own.settled()
        passed_well(own.image("c-2"))
        # The issuer's key changes, and nobody tells Vault.
        rotated, own.issuer.key = own.issuer.token("c-1"), Issuer().key
        assert own.login(own.issuer.token("c-1")).status == 200
        assert own.login(rotated).status == 400
    own.write(SPEC.replace("public_keys_file: keys.pem", f"jwks_url: '{url}2', jwks_ca_file: jwks-ca.pem"))
    ran = vaultpki("apply", "-f", own.file, "--yes", "--json", env=own.environment(), expect=1)
    fails(ran, "Vault refuses POST auth/", "jwt/config")


# What people are told


@pytest.mark.on_node
def test_nobody_enrols_such_a_node(cluster: Vouched) -> None:
    environment = cluster.environment()
    for arguments in (("c-9", "--pool", "cloud"), ("c-9",)):
        ran = vaultpki("enroll", "-f", cluster.file, *arguments, env=environment, expect=1)
        fails(ran, "nodes of pool cloud join by their issuer's token and need no join file")
    for command in ("unenroll", "lock", "unlock"):
        fails(vaultpki(command, "-f", cluster.file, "c-9", env=environment, expect=1), "https://issuer.example")


def test_the_enroller_cannot_make_a_node_of_such_a_pool(cluster: Vouched) -> None:
    answer = cluster.server.api("POST", "auth/token/create", {"policies": [f"{cluster.prefix}/enroller"]})
    token, parameters = answer.body["auth"]["client_token"], cluster.read(f"sys/policies/acl/{cluster.prefix}/enroller")
    allowed = json.loads(parameters["policy"])["path"][f"auth/{cluster.prefix}/pooled/role/+"]["allowed_parameters"]
    wanted = {name: values[0] for name, values in allowed.items()}
    path = f"auth/{cluster.prefix}/pooled/role"
    assert wanted["token_policies"] == f"{cluster.prefix}/pool/autoscaled"
    assert cluster.server.api("POST", f"{path}/w-7", wanted, token=token).status == 204
    wanted["token_policies"] = f"{cluster.prefix}/pool/cloud"
    assert cluster.server.api("POST", f"{path}/c-7", wanted, token=token).status == 403
    assert cluster.server.api("DELETE", f"{path}/w-7").status == 204
