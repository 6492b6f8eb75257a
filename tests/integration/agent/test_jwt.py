"""Nodes that prove who they are by an issuer's token: each gets its own certificates, and the rest Vault refuses."""

from __future__ import annotations

import json
import subprocess
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa

from helpers.faults.forbidden_requests import wire
from helpers.vault.applied_cluster import ALONE, NodeFolder, Ran
from helpers.vault.jwt_issuer import Issuer, showing
from helpers.vault.plan_commands import AuditedCluster, changes, everything, fails, vaultpki
from helpers.vault.server_calls import Answer
from helpers.vault.servers import Server
from vaultpki.certificates import LEAF_BACKDATE
from vaultpki.identity import nodes
from vaultpki.model import Certificate, KeyType, Pool, Subject
from vaultpki.pki import keys, x509
from vaultpki.records import report_paths
from vaultpki.verify.forbidden_signing import allowed, forbidden

NODES = "nodes:\n- {name: cp-1, roles: [control-plane, etcd], addresses: [10.0.0.11]}\n"
LISTED = '- {name: autoscaled, roles: [worker], node_names: "w-*"}\n'
JWT = "{issuer: https://issuer.example, audiences: [vaultpki], node_claim: node, public_keys_file: keys.pem}"
CLOUD = f'- {{name: cloud, roles: [worker], node_names: "c-*", jwt: {JWT}}}\n'
EDGE = f'- {{name: edge, roles: [worker], node_names: "e-*", jwt: {JWT}}}\n'
SPEC = f"{NODES}pools:\n{LISTED}{CLOUD}{EDGE}"
WITHOUT = f"{NODES}pools:\n{LISTED}"


@dataclass(frozen=True, slots=True)
class Vouched(AuditedCluster):
    """A cluster whose pools trust an issuer; keys.pem lies beside its cluster.yaml."""

    issuer: Issuer

    def write(self, text: str) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        (self.folder / "keys.pem").write_text(self.issuer.public_pem)
        AuditedCluster.write(self, text)

    def login(self, token: str, pool: str = "cloud") -> Answer:
        return self.server.api("POST", f"auth/{self.prefix}/jwt/login", {"role": pool, "jwt": token}, token="")

    def logged_in(self, node: str, pool: str = "cloud") -> str:
        """A Vault token of the node."""
        answer = self.login(self.issuer.token(node), pool)
        assert answer.status == 200, answer
        made: str = answer.body["auth"]["client_token"]
        return made

    def image(self, node: str, *, pool: str = "cloud", token: str | None = None) -> NodeFolder:
        """A node's folder as an image would bring it: agent.yaml, and the issuer's token."""
        node_folder = NodeFolder(node, self.folder / "nodes" / node)
        node_folder.folder.mkdir(parents=True)
        put(node_folder, self.issuer.token(node) if token is None else token)
        node_folder.config.write_text(
            f"version: 1\ncluster: {self.name}\nnode: {node}\npool: {pool}\n"
            f"vault: {{addresses: ['{self.server.address}'], ca_file: {self.server.ca_file}}}\n"
            f"root_sha256: {self.root_sha256}\n"
            f"auth: {{method: jwt, path: {node_folder.folder}/token}}\n"
            f"directory: {node_folder.pki}\nstate: {node_folder.state}\n"
        )
        return node_folder

    def pool(self, name: str) -> Pool:
        return next(pool for pool in self.model.pools if pool.name == name)


def put(node: NodeFolder, token: str) -> None:
    file = node.folder / "token"
    file.unlink(missing_ok=True)
    file.touch(mode=0o600)
    file.write_text(f"{token}\n")


def csr(key: KeyType, subject: Subject) -> str:
    return keys.request(keys.generate_key(key), subject)


def sign(cluster: Vouched, token: str, node: str, pool: str = "cloud", row: str = "kubelet-client") -> Answer:
    """What the node's own request for a row brings with this token."""
    for own in allowed(cluster.model, node, cluster.pool(pool), csr):
        if own.certificate.name == row:
            return cluster.server.api("POST", own.path, own.body, token=token)
    raise AssertionError(row)


def shown(node: NodeFolder, file: str) -> str:
    command = ["openssl", "x509", "-in", f"{node.pki}/{file}", "-noout", "-subject", "-ext", "subjectAltName"]
    return subprocess.run(command, capture_output=True, text=True, check=False).stdout


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
    own.image("c-1").run()
    own.write(f"layout: kubeadm\n{document}")
    for command in (["plan"], ["apply", "--yes"]):
        ran = vaultpki(*command, "-f", own.file, env=own.environment(), expect=1)
        assert "end the credentials of c-1 (`vaultpki lock`; take a pool with jwt out and apply)" in ran.stderr
    own.write(document.replace(CLOUD, ""))
    own.apply()
    own.write(f"layout: kubeadm\n{document}")
    own.apply()


def goes_on(ran: Ran, *fragments: str) -> None:
    """What is wrong in one sentence, and when the first of the pairs ends that lie there."""
    wrong, ends = ran.stderr.splitlines()
    assert all(fragment in wrong for fragment in fragments), ran.stderr
    assert ends.startswith("vaultpki: the first certificate here ends at "), ran.stderr


def test_the_token_is_read_at_each_login_and_a_bad_one_harms_nothing(cluster: Vouched) -> None:
    node = cluster.image("c-swap")
    node.run()
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
    ran = vaultpki("doctor", "-c", node.config, "--json", env={}, behind=ALONE)
    assert {"check": "login", "verdict": "ok", "detail": ""} in json.loads(ran.stdout)["checks"]


def test_an_auth_mount_that_is_gone_is_not_a_locked_node(own: Vouched) -> None:
    own.apply()
    by_token, listed = own.image("c-1"), own.equip("cp-1")
    for kind, node in (("jwt", by_token), ("listed", listed)):
        assert own.server.api("DELETE", f"sys/auth/{own.prefix}/{kind}").status == 204
        said = node.run(expect=1).stderr
        assert f"Vault has no auth mount auth/{own.prefix}/{kind}, so no node can log in there" in said, said
        assert "`vaultpki apply -f cluster.yaml`, which makes it" in said and "unlock" not in said


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


@pytest.mark.parametrize("why", REFUSED)
def test_vault_refuses(why: str, cluster: Vouched) -> None:
    assert cluster.login(cluster.issuer.token("c-1")).status == 200
    answer = cluster.login(REFUSED[why](cluster))
    assert 400 <= answer.status < 404 and "auth" not in answer.body, answer


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
    for node, status in (("c-1", 200), ("c-2", 403), ("e-1", 403), ("listed/c-1", 403), ("pooled/cloud/c-1", 403)):
        assert cluster.server.api("POST", f"{store}/reports/{node}", report, token=first).status == status
    for token, status in ((first, 200), (second, 403), (other, 403)):
        assert cluster.server.api("POST", f"{store}/{place(cluster, token)}", report, token=first).status == status
    elsewhere = f"{store}/{place(cluster, first).replace('/cloud/', '/edge/')}"
    assert cluster.server.api("POST", elsewhere, report, token=first).status == 403


def place(cluster: Vouched, token: str, pool: str = "cloud") -> str:
    """The place where the holder of this token reports."""
    entity = cluster.server.api("POST", "auth/token/lookup", {"token": token}).data["entity_id"]
    return report_paths.by_token(pool, entity)


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


def test_what_a_node_must_not_have_is_refused_by_vault(cluster: Vouched) -> None:
    model, pool = cluster.model, cluster.pool("cloud")
    token = cluster.logged_in("c-17")
    for mine in allowed(model, "c-17", pool, csr):
        assert cluster.server.api("POST", mine.path, mine.body, token=token).status == 200, mine.path
    asked = [each for each in forbidden(model, "c-17", pool, csr) if each.held_by == "refusal"]
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
    assert got == [] and len(asked) - own >= 300 and own <= 3


def test_names_that_differ_in_case_alone_are_one_node_to_vault(cluster: Vouched) -> None:
    # Vault keeps one alias for both, so the issuer must not give them to two machines. No other name comes of it.
    mixed, lower = cluster.logged_in("c-Fold"), cluster.logged_in("c-fold")
    entities = {cluster.server.api("POST", "auth/token/lookup", {"token": t}).data["entity_id"] for t in (mixed, lower)}
    assert len(entities) == 1
    assert sign(cluster, mixed, "c-1").status in (400, 403)
    node = cluster.image("c-fold2")
    node.configure("node: c-fold2", "node: c-Fold2")
    fails(node.run(expect=1), "upper-case letters, which Vault changes")


@pytest.mark.parametrize("key", [ed25519.Ed25519PrivateKey.generate(), rsa.generate_private_key(65537, 2048)])
def test_other_kinds_of_keys(key: Any, own: Vouched) -> None:
    cluster = replace(own, issuer=Issuer(key))
    cluster.write(SPEC)
    cluster.apply()
    cluster.settled()
    assert cluster.login(cluster.issuer.token("c-1")).status == 200
    assert cluster.login(Issuer(ec.generate_private_key(ec.SECP256R1())).token("c-1")).status == 400


def test_a_claim_below_another_as_kubernetes_has_it(own: Vouched) -> None:
    cluster = replace(own, issuer=replace(own.issuer, claim="kubernetes.io"))
    cluster.write(SPEC.replace("node_claim: node", "node_claim: /kubernetes.io/node/name"))
    cluster.apply()
    cluster.settled()
    node = cluster.image("c-1", token=cluster.issuer.token({"namespace": "c-2", "node": {"name": "c-1", "uid": "1"}}))
    node.run()
    assert "system:node:c-1" in shown(node, "kubelet.crt")
    claims: tuple[Any, ...] = (
        {"node": {"name": "d-1"}},
        {"node": "c-1"},
        {"node": {}},
        "c-1",
        {"node": {"name": ["c-1"]}},
    )
    for claim in claims:
        assert cluster.login(cluster.issuer.token(claim)).status == 400, claim


def test_keys_that_vault_fetches(own: Vouched) -> None:
    with showing(own.issuer, own.folder) as url:
        own.write(SPEC.replace("public_keys_file: keys.pem", f"jwks_url: '{url}', jwks_ca_file: jwks-ca.pem"))
        own.apply()
        own.settled()
        own.image("c-1").run()
        # The issuer's key changes, and nobody tells Vault.
        rotated, own.issuer.key = own.issuer.token("c-1"), Issuer().key
        assert own.login(own.issuer.token("c-1")).status == 200
        assert own.login(rotated).status == 400
    own.write(SPEC.replace("public_keys_file: keys.pem", f"jwks_url: '{url}2', jwks_ca_file: jwks-ca.pem"))
    ran = vaultpki("apply", "-f", own.file, "--yes", "--json", env=own.environment(), expect=1)
    fails(ran, "Vault refuses POST auth/", "jwt/config")


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
    own.image("c-1").run()
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


def entity(cluster: Vouched, node: str) -> str | None:
    """The entity that Vault made when the node logged in; an alias there is the node's name."""
    accessor = cluster.read("sys/auth")[f"{cluster.prefix}/jwt/"]["accessor"]
    body = {"alias_name": node, "alias_mount_accessor": accessor}
    answer = cluster.server.api("POST", "identity/lookup/entity", body)
    return str(answer.data["id"]) if answer.status == 200 else None


@pytest.mark.parametrize(
    ("change", "gone", "stays"),
    [
        ((EDGE, ""), ("e-1", "edge"), ("c-1", "cloud")),
        (("c-*", "c-a*"), ("c-1", "cloud"), ("c-a1", "cloud")),
    ],
)
def test_nodes_whose_pool_goes_or_takes_them_no_more_are_told_and_ended(
    own: Vouched, change: tuple[str, str], gone: tuple[str, str], stays: tuple[str, str]
) -> None:
    own.apply()
    tokens = {}
    for node, pool in (gone, stays):
        tokens[node] = own.logged_in(node, pool)
        path = f"{own.prefix}/config/data/{place(own, tokens[node], pool)}"
        assert own.server.api("POST", path, {"data": {"time": "now"}}, token=tokens[node]).status == 200
    own.write(SPEC.replace(*change))
    said = vaultpki("plan", "-f", own.file, env=own.environment("viewer")).stdout.replace("\n      ", " ")
    assert f"1 node loses its identity and can renew nothing: {gone[0]}, which logged in by an issuer's token" in said
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
    for node in ("c-1", "c-2"):
        own.image(node).run()
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
    node.run()
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
    goes_on(node.run(expect=1), "refuses this node all the same", "it may be locked; `vaultpki unlock")
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
    own.image("c-1").run()
    stolen = own.logged_in("c-1")
    said = vaultpki("unenroll", "-f", own.file, "c-1", "--revoke", env=environment).stdout
    assert "c-1 has a disabled identity and no report any more" in said and "kubelet-client" in said
    assert not opens(own, "c-1", stolen)
    assert own.read_names(f"{own.prefix}/config/metadata/reports") == []
    listed = json.loads(vaultpki("nodes", "-f", own.file, "--json", env=environment, expect={0, 3}).stdout)["nodes"]
    assert "c-1" not in [entry["node"] for entry in listed]

    # The pool goes and comes back: the nodes that were locked are locked still.
    own.image("c-3").run()
    vaultpki("lock", "-f", own.file, "c-3", env=environment)
    own.write(f"{WITHOUT}{EDGE}")
    own.apply()
    own.write(SPEC)
    own.apply()
    assert not opens(own, "c-1", stolen) and not opens(own, "c-3")
    own.settled()

    # With the last such pool the mount goes, and all that Vault knew of who logged in there.
    own.write(WITHOUT)
    own.apply()
    assert entity_ids(own) == entity_ids_in(before)
    assert own.read_names(f"{own.prefix}/config/metadata/locked") == []
    own.settled()


def entity_ids(cluster: Vouched) -> list[str]:
    return sorted(cluster.read_names("identity/entity/id"))


def entity_ids_in(found: dict[str, Any]) -> list[str]:
    return sorted(found["identity/entity/id/"])


@pytest.mark.parametrize("name", ["c-*", "c-1/", "c-2,c-1", "../c-1", "C-1", "{{c-1}}"])
def test_what_is_no_name_of_a_node_is_not_asked_for(cluster: Vouched, name: str) -> None:
    start = cluster.server.audit_position()
    for command in ("lock", "unlock", "unenroll"):
        fails(vaultpki(command, "-f", cluster.file, name, env=cluster.environment(), expect=1), "is not a node name")
    assert cluster.server.writes(start) == []


def test_a_node_with_an_approle_is_enrolled_again_and_not_unlocked(cluster: Vouched) -> None:
    ran = vaultpki("unlock", "-f", cluster.file, "cp-1", env=cluster.environment(), expect=1)
    fails(ran, "cp-1 does not log in by a token of an issuer", "`vaultpki enroll")


# What people are told


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
