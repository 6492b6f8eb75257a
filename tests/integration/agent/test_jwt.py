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
from helpers.vault.applied_cluster import Ran, Seat
from helpers.vault.jwt_issuer import Issuer, showing
from helpers.vault.plan_commands import Watched, changes, everything, fails, vaultpki
from helpers.vault.servers import Answer, Server
from vaultpki.certificates import LEAF_BACKDATE
from vaultpki.model import Certificate, KeyType, Pool, Subject
from vaultpki.pki import keys, x509
from vaultpki.provision import node_list
from vaultpki.spec import report_place
from vaultpki.verify.forbidden_signing import allowed, forbidden

NODES = "nodes:\n- {name: cp-1, roles: [control-plane, etcd], addresses: [10.0.0.11]}\n"
LISTED = '- {name: autoscaled, roles: [worker], node_names: "w-*"}\n'
JWT = "{issuer: https://issuer.example, audiences: [vaultpki], node_claim: node, public_keys_file: keys.pem}"
CLOUD = f'- {{name: cloud, roles: [worker], node_names: "c-*", jwt: {JWT}}}\n'
EDGE = f'- {{name: edge, roles: [worker], node_names: "e-*", jwt: {JWT}}}\n'
SPEC = f"{NODES}pools:\n{LISTED}{CLOUD}{EDGE}"
WITHOUT = f"{NODES}pools:\n{LISTED}"


@dataclass(frozen=True, slots=True)
class Vouched(Watched):
    """A cluster whose pools trust an issuer; keys.pem lies beside its cluster.yaml."""

    issuer: Issuer

    def write(self, text: str) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        (self.folder / "keys.pem").write_text(self.issuer.public_pem)
        Watched.write(self, text)

    def login(self, token: str, pool: str = "cloud") -> Answer:
        return self.server.api("POST", f"auth/{self.prefix}/jwt/login", {"role": pool, "jwt": token}, token="")

    def logged_in(self, node: str, pool: str = "cloud") -> str:
        """A Vault token of the node."""
        answer = self.login(self.issuer.token(node), pool)
        assert answer.status == 200, answer
        made: str = answer.body["auth"]["client_token"]
        return made

    def image(self, node: str, *, pool: str = "cloud", token: str | None = None) -> Seat:
        """A node's folder as an image would bring it: agent.yaml, and the issuer's token."""
        seat = Seat(node, self.folder / "nodes" / node)
        seat.folder.mkdir(parents=True)
        put(seat, self.issuer.token(node) if token is None else token)
        seat.config.write_text(
            f"version: 1\ncluster: {self.name}\nnode: {node}\npool: {pool}\n"
            f"vault: {{addresses: ['{self.server.address}'], ca_file: {self.server.ca_file}}}\n"
            f"root_sha256: {self.root_sha256}\n"
            f"auth: {{method: jwt, path: {seat.folder}/token}}\n"
            f"directory: {seat.pki}\nstate: {seat.state}\n"
        )
        return seat

    def pool(self, name: str) -> Pool:
        return next(pool for pool in self.cluster.pools if pool.name == name)


def put(seat: Seat, token: str) -> None:
    file = seat.folder / "token"
    file.unlink(missing_ok=True)
    file.touch(mode=0o600)
    file.write_text(f"{token}\n")


def csr(key: KeyType, subject: Subject) -> str:
    return keys.request(keys.generate_key(key), subject)


def sign(site: Vouched, token: str, node: str, pool: str = "cloud", row: str = "kubelet-client") -> Answer:
    """What the node's own request for a row brings with this token."""
    for own in allowed(site.cluster, node, site.pool(pool), csr):
        if own.certificate.name == row:
            return site.server.api("POST", own.path, own.body, token=token)
    raise AssertionError(row)


def shown(seat: Seat, file: str) -> str:
    command = ["openssl", "x509", "-in", f"{seat.pki}/{file}", "-noout", "-subject", "-ext", "subjectAltName"]
    return subprocess.run(command, capture_output=True, text=True, check=False).stdout


@pytest.fixture(scope="module")
def site(server: Server, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Vouched]:
    """One applied cluster for all tests that leave it as it was."""
    site = Vouched(server, tmp_path_factory.mktemp("jwt"), f"jwt{server.product}", Issuer())
    site.write(SPEC)
    site.apply()
    yield site
    site.settled()


@pytest.fixture
def own(server: Server, tmp_path: Path, cluster_name: str) -> Vouched:
    """A cluster of the test's own, not applied yet."""
    site = Vouched(server, tmp_path, cluster_name, Issuer())
    site.write(SPEC)
    return site


# What a node gets


def test_a_node_gets_its_own_certificates_and_keeps_them(site: Vouched) -> None:
    seat = site.image("c-1")
    assert "issued kubelet" in seat.run().stdout
    assert "CN = system:node:c-1" in shown(seat, "kubelet.crt").replace("CN=", "CN = ")
    assert "DNS:c-1" in shown(seat, "kubelet.crt") and "IP Address" not in shown(seat, "kubelet.crt")
    assert {path.name for path in seat.pki.glob("*.crt")} >= {"kubelet.crt", "kubelet-client.crt", "kube-proxy.crt"}
    assert not list(seat.state.glob("secret-id*"))
    before = seat.snapshot()
    assert "nothing to do" in seat.run().stdout
    after = seat.snapshot()
    assert {name: before[name] for name in before if name.startswith("pki/")} == {
        name: after[name] for name in after if name.startswith("pki/")
    }
    listed = json.loads(
        vaultpki("nodes", "-f", site.file, "--json", env=site.environment("viewer")).stdout,
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


def test_the_token_is_read_at_each_login_and_a_bad_one_harms_nothing(site: Vouched) -> None:
    seat = site.image("c-swap")
    seat.run()
    before = shown(seat, "kubelet.crt")
    now = int(time.time())
    put(seat, site.issuer.token("c-swap", iat=now - 900, nbf=now - 900, exp=now - 600))
    seat.age()
    goes_on(seat.run(expect=1), "Vault does not take the token in", "expired", "pool cloud")
    put(seat, "no token at all")
    goes_on(seat.run(expect=1), "holds no token")
    (seat.folder / "token").unlink()
    goes_on(seat.run(expect=1), "is missing, so this node cannot prove who it is")
    put(seat, site.issuer.token("c-swap"))
    (seat.folder / "token").chmod(0o644)
    seat.folder.chmod(0o700)
    seat.run()
    assert shown(seat, "kubelet.crt") == before


def test_a_node_with_the_token_of_another_gets_nothing(site: Vouched) -> None:
    seat = site.image("c-victim", token=site.issuer.token("c-thief"))
    assert "not allowed by this role" in seat.run(expect=1).stderr
    assert not (seat.pki / "kubelet.crt").exists() and not (seat.pki / "kubelet-client.crt").exists()


# Who gets in


Bad = Callable[[Vouched], str]


def _ago(site: Vouched, seconds: int) -> str:
    now = int(time.time())
    return site.issuer.token("c-1", iat=now - seconds - 300, nbf=now - seconds - 300, exp=now - seconds)


def _tampered(site: Vouched) -> str:
    mine, other = site.issuer.token("c-1").split("."), site.issuer.token("c-2").split(".")
    return f"{mine[0]}.{other[1]}.{mine[2]}"


REFUSED: dict[str, Bad] = {
    "another audience": lambda site: site.issuer.token("c-1", aud="kubernetes"),
    "no audience": lambda site: site.issuer.token("c-1", aud=None),
    "another issuer": lambda site: site.issuer.token("c-1", iss="https://other.example"),
    "the issuer's name with a slash": lambda site: site.issuer.token("c-1", iss="https://issuer.example/"),
    "no issuer": lambda site: site.issuer.token("c-1", iss=None),
    "expired": lambda site: _ago(site, 12),
    "expired long ago": lambda site: _ago(site, 100_000),
    "not valid yet": lambda site: site.issuer.token("c-1", nbf=int(time.time()) + 60),
    "no times": lambda site: site.issuer.token("c-1", iat=None, nbf=None, exp=None),
    "no end, and old": lambda site: site.issuer.token(
        "c-1", exp=None, iat=int(time.time()) - 60, nbf=int(time.time()) - 60
    ),
    "another key of the issuer's name": lambda site: replace(site.issuer, key=Issuer().key).token("c-1"),
    "an RSA key": lambda site: replace(site.issuer, key=rsa.generate_private_key(65537, 2048)).token("c-1"),
    "alg none": lambda site: site.issuer.sign(site.issuer.claims("c-1"), alg="none"),
    "an HMAC by the public key": lambda site: site.issuer.sign(site.issuer.claims("c-1"), alg="HS256"),
    "another token's claims": _tampered,
    "no signature": lambda site: site.issuer.token("c-1").rpartition(".")[0] + ".",
    "no node claim": lambda site: site.issuer.token(None),
    "a node of no pool": lambda site: site.issuer.token("d-1"),
    "a listed node": lambda site: site.issuer.token("cp-1"),
    "a node of another pool": lambda site: site.issuer.token("e-1"),
    "a node that joins by a file": lambda site: site.issuer.token("w-1"),
    "upper case": lambda site: site.issuer.token("C-1"),
    "the pattern inside": lambda site: site.issuer.token("x-c-1"),
    "a blank before": lambda site: site.issuer.token(" c-1"),
    "a list of names": lambda site: site.issuer.token(["c-1", "c-2"]),
    "a list of one": lambda site: site.issuer.token(["c-1"]),
    "a number": lambda site: site.issuer.token(1),
    "a mapping": lambda site: site.issuer.token({"c-1": True}),
    "the name in another claim": lambda site: site.issuer.token(None, sub="c-1"),
    "nothing": lambda site: "",
    "no token": lambda site: "c-1",
}


@pytest.mark.parametrize("why", REFUSED)
def test_vault_refuses(why: str, site: Vouched) -> None:
    assert site.login(site.issuer.token("c-1")).status == 200
    answer = site.login(REFUSED[why](site))
    assert 400 <= answer.status < 404 and "auth" not in answer.body, answer


def test_a_token_is_good_at_its_own_pools_role_only(site: Vouched) -> None:
    cloud, edge = site.issuer.token("c-1"), site.issuer.token("e-1")
    assert [site.login(cloud, "cloud").status, site.login(edge, "edge").status] == [200, 200]
    for token, pool in ((cloud, "edge"), (edge, "cloud"), (cloud, "autoscaled"), (cloud, "nowhere"), (cloud, "")):
        assert site.login(token, pool).status == 400, pool
    # There is no default role.
    assert site.server.api("POST", f"auth/{site.prefix}/jwt/login", {"jwt": cloud}, token="").status == 400


def test_one_nodes_token_is_never_anothers(site: Vouched) -> None:
    # Their tokens differ in the one claim alone, and the second logs in while the first one's token lives.
    first, second = site.logged_in("c-1"), site.logged_in("c-2")
    other = site.logged_in("e-1", "edge")
    for token, mine, foreign in ((first, "c-1", "c-2"), (second, "c-2", "c-1")):
        assert sign(site, token, mine).status == 200
        for row in ("kubelet", "kubelet-client"):
            assert sign(site, token, foreign, row=row).status in (400, 403)
            assert sign(site, token, "e-1", "edge", row=row).status in (400, 403)
    assert sign(site, other, "e-1", "edge").status == 200 and sign(site, other, "c-1").status in (400, 403)
    entities = {site.server.api("POST", "auth/token/lookup", {"token": t}).data["entity_id"] for t in (first, second)}
    assert len(entities) == 2
    report, store = {"data": {"version": 1}}, f"{site.prefix}/config/data"
    for node, status in (("c-1", 200), ("c-2", 403), ("e-1", 403), ("listed/c-1", 403), ("pooled/cloud/c-1", 403)):
        assert site.server.api("POST", f"{store}/reports/{node}", report, token=first).status == status
    for token, status in ((first, 200), (second, 403), (other, 403)):
        assert site.server.api("POST", f"{store}/{place(site, token)}", report, token=first).status == status
    elsewhere = f"{store}/{place(site, first).replace('/cloud/', '/edge/')}"
    assert site.server.api("POST", elsewhere, report, token=first).status == 403


def place(site: Vouched, token: str, pool: str = "cloud") -> str:
    """The place where the holder of this token reports."""
    entity = site.server.api("POST", "auth/token/lookup", {"token": token}).data["entity_id"]
    return report_place.by_token(pool, entity)


ODD = ("c-*", "c-1/", "c-2,c-1", "c-1 ", "c-A", "c-1.", "c-/../listed/cp-1", "c-+", "c-1/*", "c-1@c-1", "c-%2f")


def test_an_odd_subject_is_no_node(own: Vouched) -> None:
    """An issuer may put any text into the claim, and the servers take the pool's `node_names` for a glob."""
    own.apply()
    good, store = own.logged_in("c-1"), f"{own.prefix}/config/data"
    report = {"data": {"version": 1, "time": "2026-11-27T12:00:00Z", "agent": "odd"}}
    assert own.server.api("POST", f"{store}/{place(own, good)}", report, token=good).status == 200
    others = [place(own, good), report_place.listed("cp-1"), report_place.pooled("autoscaled", "w-1")]
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
    found = node_list.read_nodes(own.cluster, own.client())
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


def test_what_a_node_must_not_have_is_refused_by_vault(site: Vouched) -> None:
    cluster, pool = site.cluster, site.pool("cloud")
    token = site.logged_in("c-17")
    for mine in allowed(cluster, "c-17", pool, csr):
        assert site.server.api("POST", mine.path, mine.body, token=token).status == 200, mine.path
    asked = [each for each in forbidden(cluster, "c-17", pool, csr) if each.held_by == "refusal"]
    got, own = [], 0
    with wire(site.server, token) as send:
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


def test_names_that_differ_in_case_alone_are_one_node_to_vault(site: Vouched) -> None:
    # Vault keeps one alias for both, so the issuer must not give them to two machines. No other name comes of it.
    mixed, lower = site.logged_in("c-Fold"), site.logged_in("c-fold")
    entities = {site.server.api("POST", "auth/token/lookup", {"token": t}).data["entity_id"] for t in (mixed, lower)}
    assert len(entities) == 1
    assert sign(site, mixed, "c-1").status in (400, 403)
    seat = site.image("c-fold2")
    seat.configure("node: c-fold2", "node: c-Fold2")
    fails(seat.run(expect=1), "upper-case letters, which Vault changes")


@pytest.mark.parametrize("key", [ed25519.Ed25519PrivateKey.generate(), rsa.generate_private_key(65537, 2048)])
def test_other_kinds_of_keys(key: Any, own: Vouched) -> None:
    site = replace(own, issuer=Issuer(key))
    site.write(SPEC)
    site.apply()
    site.settled()
    assert site.login(site.issuer.token("c-1")).status == 200
    assert site.login(Issuer(ec.generate_private_key(ec.SECP256R1())).token("c-1")).status == 400


def test_a_claim_below_another_as_kubernetes_has_it(own: Vouched) -> None:
    site = replace(own, issuer=replace(own.issuer, claim="kubernetes.io"))
    site.write(SPEC.replace("node_claim: node", "node_claim: /kubernetes.io/node/name"))
    site.apply()
    site.settled()
    seat = site.image("c-1", token=site.issuer.token({"namespace": "c-2", "node": {"name": "c-1", "uid": "1"}}))
    seat.run()
    assert "system:node:c-1" in shown(seat, "kubelet.crt")
    claims: tuple[Any, ...] = (
        {"node": {"name": "d-1"}},
        {"node": "c-1"},
        {"node": {}},
        "c-1",
        {"node": {"name": ["c-1"]}},
    )
    for claim in claims:
        assert site.login(site.issuer.token(claim)).status == 400, claim


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


def records(site: Vouched) -> set[str]:
    """The paths of everything there is of the cluster, without folders."""
    return {path for path in everything(site.server) if site.prefix in path and not path.endswith("/")}


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
            "token_ttl": (9000, 1200),
            "token_max_ttl": (9000, 1200),
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


def entity(site: Vouched, node: str) -> str | None:
    """The entity that Vault made when the node logged in; an alias there is the node's name."""
    accessor = site.read("sys/auth")[f"{site.prefix}/jwt/"]["accessor"]
    body = {"alias_name": node, "alias_mount_accessor": accessor}
    answer = site.server.api("POST", "identity/lookup/entity", body)
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


def opens(site: Vouched, node: str, *tokens: str) -> bool:
    """Whether the issuer's token of a node, or one of its Vault tokens, still opens anything."""
    login = site.login(site.issuer.token(node))
    more = [login.body["auth"]["client_token"]] if login.status == 200 else []
    assert login.status in (200, 403), login
    paths = (f"{site.prefix}/config/data/cluster", f"{site.prefix}/config/data/pools/cloud")
    read = {site.server.api("GET", path, token=token).status for path in paths for token in (*tokens, *more)}
    signed = {sign(site, token, node).status for token in (*tokens, *more)}
    assert (read | signed) <= {200, 403}, (read, signed)
    return 200 in read | signed


def entity_fields(site: Vouched, node: str) -> dict[str, Any]:
    """What the server keeps of the node's identity, without times."""
    fields = site.read(f"identity/entity/id/{entity(site, node)}")
    kept = ("id", "name", "policies", "metadata", "disabled", "direct_group_ids")
    return {name: fields[name] for name in kept} | {"aliases": [alias["name"] for alias in fields["aliases"]]}


def test_a_locked_node_gets_nothing_with_its_token_until_it_is_unlocked(own: Vouched) -> None:
    own.apply()
    environment = own.environment()
    seat = own.image("c-1")
    seat.run()
    stolen, other = own.logged_in("c-1"), own.logged_in("c-2")
    named = {"name": f"kept-{own.name}", "metadata": {"owner": "somebody"}}
    assert own.server.api("POST", f"identity/entity/id/{entity(own, 'c-1')}", named).status in (200, 204)
    before, held = entity_fields(own, "c-1"), seat.snapshot()
    assert opens(own, "c-1", stolen)

    locker = own.environment("locker")
    said = vaultpki("lock", "-f", own.file, "c-1", env=locker).stdout
    assert "c-1 is locked: its identity in Vault is disabled" in said and "`vaultpki unlock`" in said
    assert not opens(own, "c-1", stolen) and opens(own, "c-2", other)
    assert entity_fields(own, "c-1") == {**before, "disabled": True}
    seat.age()
    goes_on(seat.run(expect=1), "refuses this node all the same", "it may be locked; `vaultpki unlock")
    after = seat.snapshot()
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
    seat.run()
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


def entity_ids(site: Vouched) -> list[str]:
    return sorted(site.read_names("identity/entity/id"))


def entity_ids_in(found: dict[str, Any]) -> list[str]:
    return sorted(found["identity/entity/id/"])


@pytest.mark.parametrize("name", ["c-*", "c-1/", "c-2,c-1", "../c-1", "C-1", "{{c-1}}"])
def test_what_is_no_name_of_a_node_is_not_asked_for(site: Vouched, name: str) -> None:
    start = site.server.audit_position()
    for command in ("lock", "unlock", "unenroll"):
        fails(vaultpki(command, "-f", site.file, name, env=site.environment(), expect=1), "is no node name")
    assert site.server.writes(start) == []


def test_a_node_with_an_approle_is_enrolled_again_and_not_unlocked(site: Vouched) -> None:
    ran = vaultpki("unlock", "-f", site.file, "cp-1", env=site.environment(), expect=1)
    fails(ran, "cp-1 does not log in by a token of an issuer", "`vaultpki enroll")


# What people are told


def test_nobody_enrols_such_a_node(site: Vouched) -> None:
    environment = site.environment()
    for arguments in (("c-9", "--pool", "cloud"), ("c-9",)):
        ran = vaultpki("enroll", "-f", site.file, *arguments, env=environment, expect=1)
        fails(ran, "nodes of pool cloud join by their issuer's token and need no join file")
    for command in ("unenroll", "lock", "unlock"):
        fails(vaultpki(command, "-f", site.file, "c-9", env=environment, expect=1), "https://issuer.example")


def test_the_enroller_cannot_make_a_node_of_such_a_pool(site: Vouched) -> None:
    answer = site.server.api("POST", "auth/token/create", {"policies": [f"{site.prefix}/enroller"]})
    token, parameters = answer.body["auth"]["client_token"], site.read(f"sys/policies/acl/{site.prefix}/enroller")
    allowed = json.loads(parameters["policy"])["path"][f"auth/{site.prefix}/pooled/role/+"]["allowed_parameters"]
    wanted = {name: values[0] for name, values in allowed.items()}
    path = f"auth/{site.prefix}/pooled/role"
    assert wanted["token_policies"] == f"{site.prefix}/pool/autoscaled"
    assert site.server.api("POST", f"{path}/w-7", wanted, token=token).status == 204
    wanted["token_policies"] = f"{site.prefix}/pool/cloud"
    assert site.server.api("POST", f"{path}/c-7", wanted, token=token).status == 403
    assert site.server.api("DELETE", f"{path}/w-7").status == 204
