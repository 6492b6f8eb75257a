"""plan and apply against a real server: it becomes the cluster's CA, twice is once, and what is refused is refused."""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import trustme
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.x509.oid import ExtensionOID

from helpers.vault import operator_tokens, servers
from helpers.vault.cluster_factory import ClusterFactory
from helpers.vault.plan_commands import SPEC, AuditedCluster, changes, fails, vaultpki
from helpers.vault.servers import Server
from vaultpki.certificates import ISSUING_CAS, ROOT
from vaultpki.config.cluster import load_cluster
from vaultpki.errors import BadAnswer, Refused
from vaultpki.identity.access import node_certificates
from vaultpki.provision import authorities, carry_out
from vaultpki.provision.desired import desired
from vaultpki.provision.plan import Observed, plan
from vaultpki.records import published
from vaultpki.records.server_facts import ServerFacts

DAY = 86400
KINDS = {"mount", "issuer", "role", "policy", "auth", "approle", "config"}
# Fields of a PKI role that we leave to the server, each with why it widens nothing.
LEFT_ALONE = {
    "allow_token_displayname": "neither server lets anybody set it",
    "allow_globs_in_identity_templates": "without effect where allow_glob_domains is off",
    "serial_number_source": "allowed_serial_numbers is empty",
    "signature_bits": "no value of it is weaker than SHA-256",
}


@pytest.fixture
def cluster(clusters: ClusterFactory) -> AuditedCluster:
    """A cluster that is not applied yet."""
    return clusters.written(SPEC)


@pytest.fixture(scope="module")
def applied(shared_clusters: ClusterFactory) -> Iterator[AuditedCluster]:
    """One that is: each test leaves it as it found it."""
    cluster = shared_clusters.applied(SPEC)
    yield cluster
    cluster.settled()


@pytest.fixture(scope="module")
def ambient(shared_clusters: ClusterFactory) -> AuditedCluster:
    """Another one, whose cluster.yaml does not say where Vault is."""
    cluster = shared_clusters.written(SPEC)
    cluster.file.write_text(f"cluster: {cluster.name}\n{SPEC}")
    cluster.apply()
    return cluster


def certificate(cluster: AuditedCluster, ca: str) -> x509.Certificate:
    return x509.load_pem_x509_certificate(cluster.read(f"{cluster.prefix}/{ca}/issuer/default")["certificate"].encode())


def test_an_empty_server_becomes_the_ca_and_a_second_apply_writes_nothing(cluster: AuditedCluster) -> None:
    shown = cluster.plan()
    fields = {"changes", "impact", "rotation_needed", "expires", "unmanaged", "dangers", "requests", "server"}
    assert shown.keys() == fields
    assert (
        shown["unmanaged"] == shown["dangers"] == shown["impact"] == shown["rotation_needed"] == []
        and shown["requests"]["writes"] == 0 < shown["requests"]["reads"]
    )
    for change in shown["changes"]:
        assert change.keys() == {"action", "kind", "name", "fields"} and change["action"] == "create"
        assert change["kind"] in KINDS
        assert all(field.keys() == {"from", "to"} and field["from"] is None for field in change["fields"].values())
    wanted = desired(cluster.model, ServerFacts(addresses=(cluster.server.address,)))
    assert {(change["kind"], change["name"]) for change in shown["changes"]} == wanted.keys()

    document, writes = cluster.applied()
    assert changes(document).keys() == wanted.keys() and document["unmanaged"] == []
    # Counted by the server: we also ask once what the token may do.
    assert document["requests"]["writes"] == len(writes) + 1
    again, writes = cluster.applied()
    assert (again["changes"], writes, again["requests"]["writes"]) == ([], [], 0)
    told = vaultpki("plan", "-f", cluster.file, env=cluster.environment("viewer"))
    assert told.stdout.splitlines()[-1] == "Nothing to change." and told.stdout.count("\n") == 3


def test_it_is_all_there(applied: AuditedCluster) -> None:
    cluster = applied
    mounts, auths = cluster.read("sys/mounts"), cluster.read("sys/auth")
    for ca in (ROOT, *ISSUING_CAS):
        config = mounts[f"{cluster.prefix}/{ca}/"]["config"]
        assert config["max_lease_ttl"] == (3650 if ca == ROOT else 1825) * DAY, ca
        issuers = cluster.read_names(f"{cluster.prefix}/{ca}/issuers")
        assert len(issuers) == 1, ca
        urls = cluster.read(f"{cluster.prefix}/{ca}/config/urls")
        assert urls["crl_distribution_points"] == [
            f"{cluster.server.address}/v1/{cluster.prefix}/{ca}/issuer/{{{{issuer_id}}}}/crl/der"
        ]
    # A signer's URLs are written into what it signs, so the root's are there before it signs.
    for ca in ISSUING_CAS:
        points = certificate(cluster, ca).extensions.get_extension_for_class(x509.CRLDistributionPoints).value
        (url,) = (name.value for point in points for name in point.full_name or ())
        assert url.startswith(f"{cluster.server.address}/v1/{cluster.prefix}/root/issuer/"), ca
    assert {f"{cluster.prefix}/listed/", f"{cluster.prefix}/pooled/"} <= auths.keys()
    assert cluster.read_names(f"{cluster.prefix}/root/roles") == []
    assert "kubelet-autoscaled" in cluster.read_names(f"{cluster.prefix}/kubelet/roles")
    assert cluster.read_names(f"auth/{cluster.prefix}/listed/role") == ["cp-1", "worker-1"]


@pytest.mark.parametrize("key", ["ec-p256", "rsa-2048"])
def test_the_cas_are_what_was_asked_for(applied: AuditedCluster, clusters: ClusterFactory, key: str) -> None:
    asked = f"{SPEC}ca: {{root_ttl: 8y, issuing_ttl: 3y, key: {key}}}\n"
    cluster, years = (applied, (10, 5)) if key == "ec-p256" else (clusters.applied(asked), (8, 3))
    root = certificate(cluster, ROOT)
    for ca in (ROOT, *ISSUING_CAS):
        cert = certificate(cluster, ca)
        public = cert.public_key()
        if key == "ec-p256":
            assert isinstance(public, ec.EllipticCurvePublicKey) and public.curve.name == "secp256r1"
        else:
            assert isinstance(public, rsa.RSAPublicKey) and public.key_size == 2048
        assert cert.subject.rfc4514_string() == f"CN={cluster.name} {ca} CA"
        assert cert.issuer == root.subject
        cert.verify_directly_issued_by(root)
        constraints = cert.extensions.get_extension_for_class(x509.BasicConstraints)
        assert constraints.critical and constraints.value == x509.BasicConstraints(True, None if ca == ROOT else 0)
        usage = cert.extensions.get_extension_for_class(x509.KeyUsage)
        bits = {name.strip("_") for name, set_ in vars(usage.value).items() if set_}
        assert usage.critical and bits == {"key_cert_sign", "crl_sign"}
        present = {extension.oid for extension in cert.extensions}
        assert ExtensionOID.EXTENDED_KEY_USAGE not in present
        assert ExtensionOID.SUBJECT_ALTERNATIVE_NAME not in present
        assert ExtensionOID.NAME_CONSTRAINTS not in present
        backdate = (15 if ca == ROOT else 10) * 60
        life = (cert.not_valid_after_utc - cert.not_valid_before_utc).total_seconds()
        assert abs(life - years[ca != ROOT] * 365 * DAY - backdate) <= 2, ca
        assert abs(cert.not_valid_before_utc.timestamp() + backdate - time.time()) < 300


def test_a_mount_with_a_short_maximum_gives_no_ca_less_life(cluster: AuditedCluster) -> None:
    made = {
        "type": "pki",
        "description": f"made by vaultpki for cluster {cluster.name}",
        "config": {"max_lease_ttl": 32 * DAY},
    }
    mount = f"{cluster.prefix}/root"
    assert cluster.server.api("POST", f"sys/mounts/{mount}", made).status == 204
    # Both servers shorten it without a word; such a CA is not kept.
    wanted = desired(cluster.model, ServerFacts())["issuer", mount]
    with pytest.raises(BadAnswer, match=r"was asked for 3650 days and got 3[12] days, and was not kept"):
        authorities.make_root(cluster.model, cluster.client(), mount, wanted, frozenset())
    assert cluster.read_names(f"{mount}/issuers") == cluster.read_names(f"{mount}/keys") == []
    assert changes(cluster.plan())["mount", mount] == (
        "update",
        {"max_ttl": (32 * DAY, 3650 * DAY), "default_ttl": (0, 1825 * DAY)},
    )
    cluster.apply()
    assert (certificate(cluster, ROOT).not_valid_after_utc.timestamp() - time.time()) > 3649 * DAY


def test_a_missing_engine_is_told_in_one_sentence(cluster: AuditedCluster) -> None:
    # Both servers have PKI built in, and deregistering a built-in plugin changes nothing; so another engine is missing.
    mount = f"{cluster.prefix}/root"
    with pytest.raises(Refused, match=f"has no pki-of-nobody engine, which sys/mounts/{mount} needs"):
        carry_out.write_mount(cluster.model, cluster.client(), ("mount", mount), {"type": "pki-of-nobody"}, create=True)
    # Where the root's mount is refused, nothing else was begun.
    first = plan(desired(cluster.model, ServerFacts()), Observed()).changes
    assert (first[0].kind, first[0].name) == ("mount", f"{cluster.prefix}/root")


def test_every_field_that_could_widen_a_role_or_an_approle_is_ours(applied: AuditedCluster) -> None:
    cluster, p = applied, applied.prefix
    wanted = desired(cluster.model, ServerFacts(openbao=cluster.server.product == "openbao"))
    for mount, name in (("kubernetes", "kubelet-client"), ("etcd", "etcd-server")):
        there = cluster.read(f"{p}/{mount}/roles/{name}")
        assert there.keys() - wanted["role", f"{p}/{mount}/{name}"].keys() <= LEFT_ALONE.keys()
    there = cluster.read(f"auth/{p}/listed/role/cp-1")
    # Said once, when it is made, and refused from then on.
    assert there.keys() - wanted["approle", f"{p}/listed/cp-1"].keys() == {"local_secret_ids"}


@pytest.mark.parametrize(
    ("path", "body", "fragment"),
    [
        ("sys/mounts/{p}/kubelet", {"type": "kv"}, "{p}/kubelet already exists in Vault (kv, 'no description')"),
        ("sys/mounts/{p}/etcd", {"type": "pki"}, "{p}/etcd already exists in Vault (pki, 'no description')"),
        ("sys/mounts/{p}", {"type": "pki"}, "{p}/root cannot be mounted, since {p}/ exists"),
        ("sys/mounts/{p}/etcd/below", {"type": "kv"}, "{p}/etcd cannot be mounted, since {p}/etcd/below/ exists"),
        ("sys/auth/{p}/listed", {"type": "approle"}, "auth/{p}/listed already exists in Vault (approle"),
        ("sys/auth/{p}/pooled", {"type": "userpass"}, "auth/{p}/pooled already exists in Vault (userpass"),
        ("sys/auth/{p}", {"type": "approle"}, "auth/{p}/listed cannot be mounted, since auth/{p}/ exists"),
        ("sys/policies/acl/{p}/node/cp-1", {"policy": '{"path": {}}'}, "the policy {p}/node/cp-1 was not made by"),
    ],
)
def test_what_is_not_ours_is_refused(cluster: AuditedCluster, path: str, body: dict[str, Any], fragment: str) -> None:
    path = path.format(p=cluster.prefix)
    assert cluster.server.api("POST", path, body).status == 204
    # Both compute the same plan: test_destroy.py has both commands.
    cluster.refused(fragment.format(p=cluster.prefix))
    assert cluster.server.api("DELETE", path).status == 204


def test_another_clusters_mounts_are_not_taken_over(applied: AuditedCluster, tmp_path: Path, cluster_name: str) -> None:
    other = AuditedCluster(applied.server, tmp_path / "other", f"{cluster_name}b")
    other.write(SPEC + f"prefix: {applied.prefix}\n")
    other.refused(f"made by vaultpki for cluster {applied.name}", f"was not made by vaultpki for cluster {other.name}")


def test_an_approle_planted_for_a_node_to_come_is_refused(applied: AuditedCluster) -> None:
    cluster, planted = applied, f"auth/{applied.prefix}/listed/role/worker-2"
    assert cluster.server.api("POST", planted, {"token_policies": f"{cluster.prefix}/node/worker-2"}).status == 204
    assert cluster.plan()["unmanaged"] == [f"approle {cluster.prefix}/listed/worker-2"]
    cluster.write(SPEC.replace("pools:", "- {name: worker-2, roles: [worker], addresses: [10.0.0.22]}\npools:"))
    cluster.refused(f"{planted} was not made by vaultpki", "secret id")
    cluster.write(SPEC)
    assert cluster.server.api("DELETE", planted).status == 204


def test_a_lost_root_is_not_replaced_behind_the_nodes_backs(clusters: ClusterFactory) -> None:
    cluster = clusters.applied(SPEC)
    assert cluster.server.api("DELETE", f"{cluster.prefix}/root/issuer/root-1").status == 200
    cluster.refused(f"the root CA of {cluster.prefix}/root is gone")
    cluster.destroy()
    assert not [path for path in cluster.read("sys/mounts") if path.startswith(cluster.prefix)]


def test_a_sealed_server(own_server: Server, tmp_path: Path) -> None:
    cluster = AuditedCluster(own_server, tmp_path, "prod")
    cluster.write(SPEC)
    env = cluster.environment()
    own_server.seal()
    for command in ("plan", "apply", "destroy"):
        further = {"apply": ["--yes"], "destroy": ["--confirm", "prod"]}.get(command, [])
        ran = vaultpki(command, "-f", cluster.file, *further, env=env, expect=1)
        fails(ran, f"the Vault at {own_server.address} is sealed; unseal it")


def test_a_server_that_was_never_initialised_is_not_called_sealed(own_server: Server, tmp_path: Path) -> None:
    cluster = AuditedCluster(own_server, tmp_path, "prod")
    cluster.write(SPEC)
    env = cluster.environment()
    own_server.stop()
    shutil.rmtree(own_server.folder / "data")
    (own_server.folder / "data").mkdir()
    own_server.runner.start()
    own_server.await_answer()
    ran = vaultpki("plan", "-f", cluster.file, env=env, expect=1)
    fails(ran, f"the Vault at {own_server.address} is not initialised; run `operator init` on it first")


def test_another_server_than_that_of_cluster_yaml_is_named(cluster: AuditedCluster, own_server: Server) -> None:
    """A cluster that lives elsewhere is not called destroyed, and a refusal names who chose that server."""
    cluster.apply()
    names = f"VAULT_ADDR names {own_server.address}, and {cluster.file} {cluster.server.address}"
    env = own_server.environment(operator_tokens.token(own_server, cluster.prefix, "applier", spec=cluster.file))
    for words in (("nodes",), ("ca", "status"), ("destroy", "--confirm", cluster.name)):
        ran = vaultpki(*words, "-f", cluster.file, env=env, expect=1)
        assert f"cluster {cluster.name} is not in this Vault ({own_server.address} has nothing" in ran.stderr, ran
        assert ran.stderr.endswith(f"; {names}\n") and "is left" not in ran.stdout, ran
    stranger = own_server.environment("hvs.unknown")
    ran = vaultpki("nodes", "-f", cluster.file, env=stranger, expect=1)
    assert "the Vault token is not valid" in ran.stderr and ran.stderr.endswith(f"; {names}\n"), ran


def test_nobody_is_there(cluster: AuditedCluster, tmp_path: Path) -> None:
    address = f"https://127.0.0.1:{servers.free_ports(1)[0]}"
    start = time.monotonic()
    ran = vaultpki("apply", "-f", cluster.file, "--yes", env=cluster.environment() | {"VAULT_ADDR": address}, expect=1)
    fails(ran, f"{address} cannot be reached (Connection refused)")
    # An address that has answered before is waited for longer.
    assert time.monotonic() - start < 30


# What VAULT_ADDR or VAULT_CACERT says, and why nothing is asked then.
NOT_ASKED: dict[str, tuple[str, str, tuple[str, ...]]] = {
    "plain http": ("VAULT_ADDR", "http://192.0.2.1:8200", ("http://192.0.2.1:8200' is plain http", "--allow-http")),
    "every address": ("VAULT_ADDR", "https://0.0.0.0:{port}", ("VAULT_ADDR: ",)),
    "a mapped address": ("VAULT_ADDR", "https://[::ffff:127.0.0.1]:{port}", ("VAULT_ADDR: ",)),
    "too long a name": ("VAULT_ADDR", f"https://{'a.' * 130}example:{{port}}", ("VAULT_ADDR: ",)),
    "another CA": ("VAULT_CACERT", "{folder}/other.crt", ("does not verify", "VAULT_CACERT")),
    "no CA": ("VAULT_CACERT", "{folder}/none.crt", ("none.crt",)),
}


@pytest.mark.on_node
@pytest.mark.parametrize("what", NOT_ASKED)
def test_a_way_to_vault_that_cannot_be_taken(cluster: AuditedCluster, tmp_path: Path, what: str) -> None:
    trustme.CA().cert_pem.write_to_path(tmp_path / "other.crt")
    name, value, words = NOT_ASKED[what]
    value = value.format(port=cluster.server.address.rpartition(":")[2], folder=tmp_path)
    start = cluster.server.audit_position()
    ran = vaultpki("apply", "-f", cluster.file, "--yes", env=cluster.environment() | {name: value}, expect=1)
    fails(ran, *words)
    assert cluster.server.requests(start) == []


def test_tokens_that_are_not_enough(cluster: AuditedCluster) -> None:
    def make(**body: object) -> str:
        token: str = cluster.server.api("POST", "auth/token/create", body).body["auth"]["client_token"]
        return token

    cluster.refused("there is no Vault token; set VAULT_TOKEN", token="")
    cluster.refused("the Vault token is not valid or has expired", token="s.nosuchtoken")
    cluster.refused("the Vault token is too weak", "sys/", token=make(policies=["default"]))
    # It may read everything and make mounts, and only then would it be stopped.
    half = {
        "path": {
            "*": {"capabilities": ["read", "list"]},
            "sys/mounts/*": {"capabilities": ["create", "update", "delete"]},
            "sys/auth/*": {"capabilities": ["create", "update", "delete", "sudo"]},
        }
    }
    name = f"half-{cluster.name}"
    assert cluster.server.api("POST", f"sys/policies/acl/{name}", {"policy": json.dumps(half)}).status == 204
    token = make(policies=[name])
    cluster.refused("the Vault token is too weak: it may not update", "vaultpki policy -f", token=token)
    assert f"{cluster.prefix}/root/" not in cluster.read("sys/mounts")


def test_where_nodes_find_vault_is_what_the_environment_says(ambient: AuditedCluster, tmp_path: Path) -> None:
    cluster, text = ambient, ambient.file.read_text()
    stored = cluster.read(f"{cluster.prefix}/config/data/cluster")["data"]["vault"]
    assert stored == {"addresses": [cluster.server.address], "ca_pem": cluster.server.ca_file.read_text()}
    # Another way to the same server, as another applier may have it, is another answer, and shown before it is given;
    # in its normal form, which agent.yaml and URLs in certificates take.
    port = cluster.server.address.rpartition(":")[2]
    address, env = f"https://localhost:{port}", cluster.environment() | {"VAULT_ADDR": f"HTTPS://LOCALHOST:{port}/"}
    drift = changes(json.loads(vaultpki("plan", "-f", cluster.file, "--json", env=env).stdout))
    assert drift.pop(("config", f"{cluster.prefix}/config/cluster")) == (
        "update",
        {"vault": (stored, stored | {"addresses": [address]})},
    )
    assert drift.keys() == {("config", f"{cluster.prefix}/{ca}/config/urls") for ca in (ROOT, *ISSUING_CAS)}
    vaultpki("apply", "-f", cluster.file, "--yes", env=env)
    urls = cluster.read(f"{cluster.prefix}/etcd/config/urls")
    assert urls["ocsp_servers"] == [f"{address}/v1/{cluster.prefix}/etcd/ocsp"]
    join, node = tmp_path / "join.json", tmp_path / "node"
    vaultpki("enroll", "-f", cluster.file, "worker-1", "-o", join, env=env)
    vaultpki("join", "-c", node / "agent.yaml", join, "--dir", node / "pki")
    vaultpki("agent", "-c", node / "agent.yaml", "--once")
    cluster.apply()
    # With `vault` in cluster.yaml, all appliers have the same.
    cluster.write(SPEC)
    assert json.loads(vaultpki("plan", "-f", cluster.file, "--json", env=env).stdout)["changes"] == []
    cluster.file.write_text(text)


def test_the_largest_records_that_the_spec_takes_are_taken(cluster: AuditedCluster) -> None:
    (cluster.file.parent / "large.tmpl").write_text("<" * 10_000 + "x" * 14_000)
    names = ", ".join(f"n{n}.a" for n in range(50))
    rows = "".join(
        f"  own-{n}: {{kind: server, common_name: own, ca: kubelet, roles: [worker], names: [own-{n}.a]}}\n"
        for n in range(35)
    )
    templates = "".join(f"  t{n}: {{file: t{n}, template: large.tmpl, roles: [worker]}}\n" for n in range(7))
    cluster.write(
        "nodes:\n- {name: cp-1, roles: [control-plane, etcd], addresses: [10.0.0.11]}\n"
        "- {name: w-1, roles: [worker], addresses: [10.0.0.21]}\n"
        f"certificates:\n  kubelet: {{extra_names: [{names}]}}\n{rows}templates:\n{templates}"
    )
    cluster.applied()
    assert cluster.applied()[1] == []
    model = load_cluster(cluster.file)
    stored = cluster.read(f"{cluster.prefix}/config/data/nodes/w-1")["data"]
    assert 850 < published.strings(stored) <= published.MOST_STRINGS
    read = published.read_certificates(stored, node="w-1", prefix=model.prefix, where="record")
    assert read == (model.nodes[1].roles, node_certificates(model, model.nodes[1]))
    told = cluster.read(f"{cluster.prefix}/config/data/cluster")["data"]
    assert published.size(told) > 500_000
    assert published.read_cluster(told, where="record").templates == model.templates


@pytest.mark.on_node
def test_nothing_but_certificates_of_a_ca_file_is_published(ambient: AuditedCluster, tmp_path: Path) -> None:
    cluster, ca_pem = ambient, ambient.server.ca_file.read_text()
    file = tmp_path / "all.pem"
    env = cluster.environment() | {"VAULT_CACERT": str(file)}
    start = cluster.server.audit_position()
    key = (cluster.server.folder / "server.key").read_text()
    for content, said in (
        (ca_pem + key, "the file contains a private key"),
        ("hello", "no whole PEM certificate"),
        (ca_pem.replace("\nM", "\n!", 1), "no whole PEM certificate"),
    ):
        file.write_text(content)
        ran = vaultpki("apply", "-f", cluster.file, "--yes", env=env, expect=1)
        fails(ran, f"{file}: VAULT_CACERT: ", said)
        assert not any(line in ran.stderr for line in key.splitlines())
    assert cluster.server.requests(start) == []
    # As the bundles of some distributions have them.
    file.write_text(f"# F\u0151tan\u00fas\u00edtv\u00e1ny\n{ca_pem}password: hunter2\n", encoding="utf-8")
    assert json.loads(vaultpki("plan", "-f", cluster.file, "--json", env=env).stdout)["changes"] == []
    join = tmp_path / "join.json"
    vaultpki("enroll", "-f", cluster.file, "cp-1", "-o", join, env=env)
    assert json.loads(join.read_text())["ca_pem"] == ca_pem
