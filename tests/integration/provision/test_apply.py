"""plan and apply against a real server: it becomes the cluster's CA, twice is once, and what is refused is refused."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import pytest
import trustme
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.x509.oid import ExtensionOID

from helpers.vault import servers
from helpers.vault.plan_commands import SPEC, Watched, changes, fails, vaultpki
from helpers.vault.servers import Server
from vaultpki.certificates import ISSUING_CAS, ROOT
from vaultpki.errors import BadAnswer, Refused
from vaultpki.provision import authorities, carry_out
from vaultpki.provision.desired import desired
from vaultpki.provision.identities import node_certificates
from vaultpki.provision.plan import Observed, plan
from vaultpki.provision.server_facts import ServerFacts
from vaultpki.spec import load_cluster, records
from vaultpki.vault import Vault

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
def site(server: Server, tmp_path: Path, cluster_name: str) -> Watched:
    site = Watched(server, tmp_path, cluster_name)
    site.write(SPEC)
    return site


def vault_of(site: Watched) -> tuple[Vault, ServerFacts]:
    return site.client(), ServerFacts((site.server.address,), site.server.ca_file.read_text())


def certificate(site: Watched, ca: str) -> x509.Certificate:
    return x509.load_pem_x509_certificate(site.read(f"{site.prefix}/{ca}/issuer/default")["certificate"].encode())


def test_an_empty_server_becomes_the_ca_and_a_second_apply_writes_nothing(site: Watched) -> None:
    shown = site.plan()
    assert shown.keys() == {"changes", "impact", "rotation_needed", "expires", "unmanaged", "dangers", "requests"}
    assert (
        shown["unmanaged"] == shown["dangers"] == shown["impact"] == shown["rotation_needed"] == []
        and shown["requests"]["writes"] == 0 < shown["requests"]["reads"]
    )
    for change in shown["changes"]:
        assert change.keys() == {"action", "kind", "name", "fields"} and change["action"] == "create"
        assert change["kind"] in KINDS
        assert all(field.keys() == {"from", "to"} and field["from"] is None for field in change["fields"].values())
    wanted = desired(site.cluster, ServerFacts(addresses=(site.server.address,)))
    assert {(change["kind"], change["name"]) for change in shown["changes"]} == wanted.keys()

    document, writes = site.applied()
    assert changes(document).keys() == wanted.keys() and document["unmanaged"] == []
    # Counted by the server: we also ask once what the token may do.
    assert document["requests"]["writes"] == len(writes) + 1
    site.settled()
    told = vaultpki("plan", "-f", site.file, env=site.environment("viewer"))
    assert told.stdout == "Nothing to change.\n"


def test_it_is_all_there(site: Watched) -> None:
    site.apply()
    mounts, auths = site.read("sys/mounts"), site.read("sys/auth")
    for ca in (ROOT, *ISSUING_CAS):
        config = mounts[f"{site.prefix}/{ca}/"]["config"]
        assert config["max_lease_ttl"] == (3650 if ca == ROOT else 1825) * DAY, ca
        issuers = site.read_names(f"{site.prefix}/{ca}/issuers")
        assert len(issuers) == 1, ca
        urls = site.read(f"{site.prefix}/{ca}/config/urls")
        assert urls["crl_distribution_points"] == [
            f"{site.server.address}/v1/{site.prefix}/{ca}/issuer/{{{{issuer_id}}}}/crl/der"
        ]
    # A signer's URLs are written into what it signs, so the root's are there before it signs.
    for ca in ISSUING_CAS:
        points = certificate(site, ca).extensions.get_extension_for_class(x509.CRLDistributionPoints).value
        (url,) = (name.value for point in points for name in point.full_name or ())
        assert url.startswith(f"{site.server.address}/v1/{site.prefix}/root/issuer/"), ca
    assert {f"{site.prefix}/listed/", f"{site.prefix}/pooled/"} <= auths.keys()
    assert site.read_names(f"{site.prefix}/root/roles") == []
    assert "kubelet-autoscaled" in site.read_names(f"{site.prefix}/kubelet/roles")
    assert site.read_names(f"auth/{site.prefix}/listed/role") == ["cp-1", "worker-1"]


@pytest.mark.parametrize("key", ["ec-p256", "rsa-2048"])
def test_the_cas_are_what_was_asked_for(site: Watched, key: str) -> None:
    site.write(SPEC + f"ca: {{root_ttl: 8y, issuing_ttl: 3y, key: {key}}}\n" if key != "ec-p256" else SPEC)
    years = (8, 3) if key != "ec-p256" else (10, 5)
    site.apply()
    root = certificate(site, ROOT)
    for ca in (ROOT, *ISSUING_CAS):
        cert = certificate(site, ca)
        public = cert.public_key()
        if key == "ec-p256":
            assert isinstance(public, ec.EllipticCurvePublicKey) and public.curve.name == "secp256r1"
        else:
            assert isinstance(public, rsa.RSAPublicKey) and public.key_size == 2048
        assert cert.subject.rfc4514_string() == f"CN={site.name} {ca} CA"
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
        assert abs(cert.not_valid_before_utc.timestamp() + backdate - time.time()) < 60
    site.settled()


def test_a_mount_with_a_short_maximum_is_tuned_before_its_ca_is_made(site: Watched) -> None:
    made = {"type": "pki", "description": f"made by vaultpki for cluster {site.name}", "config": {"max_lease_ttl": DAY}}
    assert site.server.api("POST", f"sys/mounts/{site.prefix}/root", made).status == 204
    assert changes(site.plan())["mount", f"{site.prefix}/root"] == (
        "update",
        {"max_ttl": (DAY, 3650 * DAY), "default_ttl": (0, 1825 * DAY)},
    )
    site.apply()
    assert (certificate(site, ROOT).not_valid_after_utc.timestamp() - time.time()) > 3649 * DAY


def test_a_ca_that_got_less_life_than_asked_is_not_kept(site: Watched) -> None:
    made = {"type": "pki", "description": "", "config": {"max_lease_ttl": 768 * 3600}}
    mount = f"{site.prefix}/root"
    assert site.server.api("POST", f"sys/mounts/{mount}", made).status == 204
    vault, _ = vault_of(site)
    wanted = desired(site.cluster, ServerFacts())["issuer", mount]
    with pytest.raises(BadAnswer, match=r"was asked for 3650 days and got 3[12] days, and was not kept"):
        authorities.make_root(site.cluster, vault, mount, wanted, frozenset())
    assert site.read_names(f"{mount}/issuers") == site.read_names(f"{mount}/keys") == []


def test_a_missing_engine_is_told_in_one_sentence(site: Watched) -> None:
    # Both servers have PKI built in, and deregistering a built-in plugin changes nothing; so another engine is missing.
    vault, _ = vault_of(site)
    mount = f"{site.prefix}/root"
    with pytest.raises(Refused, match=f"has no pki-of-nobody engine, which sys/mounts/{mount} needs"):
        carry_out.write_mount(site.cluster, vault, ("mount", mount), {"type": "pki-of-nobody"}, create=True)
    # Where the root's mount is refused, nothing else was begun.
    first = plan(desired(site.cluster, ServerFacts()), Observed()).changes
    assert (first[0].kind, first[0].name) == ("mount", f"{site.prefix}/root")


def test_every_field_of_a_role_that_could_widen_it_is_ours(site: Watched) -> None:
    site.apply()
    openbao = site.server.product == "openbao"
    wanted = desired(site.cluster, ServerFacts(openbao=openbao))
    for role in ("kubernetes/kubelet-client", "etcd/etcd-server"):
        mount, _, name = role.partition("/")
        there = site.read(f"{site.prefix}/{mount}/roles/{name}")
        assert there.keys() - wanted["role", f"{site.prefix}/{role}"].keys() <= LEFT_ALONE.keys()


def test_every_field_of_an_approle_is_ours(site: Watched) -> None:
    site.apply()
    wanted = desired(site.cluster, ServerFacts(openbao=site.server.product == "openbao"))
    there = site.read(f"auth/{site.prefix}/listed/role/cp-1")
    # Said once, when it is made, and refused from then on.
    assert there.keys() - wanted["approle", f"{site.prefix}/listed/cp-1"].keys() == {"local_secret_ids"}


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
def test_what_is_not_ours_is_refused(site: Watched, path: str, body: dict[str, Any], fragment: str) -> None:
    path = path.format(p=site.prefix)
    assert site.server.api("POST", path, body).status == 204
    site.refused(fragment.format(p=site.prefix))
    site.refused(fragment.format(p=site.prefix), command="plan")
    assert site.server.api("DELETE", path).status == 204


def test_another_clusters_mounts_are_not_taken_over(site: Watched, tmp_path: Path, cluster_name: str) -> None:
    site.apply()
    other = Watched(site.server, tmp_path / "other", f"{cluster_name}b")
    other.write(SPEC + f"prefix: {site.prefix}\n")
    other.refused(f"made by vaultpki for cluster {site.name}", f"was not made by vaultpki for cluster {other.name}")


def test_an_approle_planted_for_a_node_to_come_is_refused(site: Watched) -> None:
    site.apply()
    planted = f"auth/{site.prefix}/listed/role/worker-2"
    assert site.server.api("POST", planted, {"token_policies": f"{site.prefix}/node/worker-2"}).status == 204
    assert site.plan()["unmanaged"] == [f"approle {site.prefix}/listed/worker-2"]
    site.write(SPEC.replace("pools:", "- {name: worker-2, roles: [worker], addresses: [10.0.0.22]}\npools:"))
    site.refused(f"{planted} was not made by vaultpki", "secret id")
    assert site.server.api("DELETE", planted).status == 204
    site.apply()
    site.settled()


def test_a_lost_root_is_not_replaced_behind_the_nodes_backs(site: Watched) -> None:
    site.apply()
    assert site.server.api("DELETE", f"{site.prefix}/root/issuer/root-1").status == 200
    site.refused(f"the root CA of {site.prefix}/root is gone")
    site.destroy()
    site.apply()
    site.settled()


def test_a_sealed_server(own_server: Server, tmp_path: Path) -> None:
    site = Watched(own_server, tmp_path, "prod")
    site.write(SPEC)
    env = site.environment()
    own_server.seal()
    for command in ("plan", "apply", "destroy"):
        further = {"apply": ["--yes"], "destroy": ["--confirm", "prod"]}.get(command, [])
        ran = vaultpki(command, "-f", site.file, *further, env=env, expect=1)
        fails(ran, f"the Vault at {own_server.address} is sealed; unseal it")
    own_server.unseal()
    site.apply()
    site.settled()


def test_nobody_is_there(site: Watched, tmp_path: Path) -> None:
    address = f"https://127.0.0.1:{servers.free_ports(1)[0]}"
    start = time.monotonic()
    ran = vaultpki("apply", "-f", site.file, "--yes", env=site.environment() | {"VAULT_ADDR": address}, expect=1)
    fails(ran, f"{address} cannot be reached (Connection refused)")
    # An address that has answered before is waited for longer.
    assert time.monotonic() - start < 30


def test_another_ca(site: Watched, tmp_path: Path) -> None:
    trustme.CA().cert_pem.write_to_path(tmp_path / "other.crt")
    start = site.server.audit_position()
    env = site.environment() | {"VAULT_CACERT": str(tmp_path / "other.crt")}
    fails(vaultpki("apply", "-f", site.file, "--yes", env=env, expect=1), "does not verify", "VAULT_CACERT")
    env["VAULT_CACERT"] = str(tmp_path / "none.crt")
    fails(vaultpki("apply", "-f", site.file, "--yes", env=env, expect=1), "none.crt")
    assert site.server.requests(start) == []


def test_plain_http_beyond_loopback(site: Watched) -> None:
    env = site.environment() | {"VAULT_ADDR": "http://192.0.2.1:8200"}
    ran = vaultpki("apply", "-f", site.file, "--yes", env=env, expect=1)
    fails(ran, "http://192.0.2.1:8200' is plain http", "--allow-http")


def test_tokens_that_are_not_enough(site: Watched) -> None:
    def make(**body: object) -> str:
        token: str = site.server.api("POST", "auth/token/create", body).body["auth"]["client_token"]
        return token

    site.refused("there is no Vault token; set VAULT_TOKEN", token="")
    site.refused("the Vault token is not valid, has expired", token="s.nosuchtoken")
    short = make(ttl="1s")
    time.sleep(1.5)
    site.refused("the Vault token is not valid, has expired", token=short)
    site.refused("the Vault token is too weak", "sys/", token=make(policies=["default"]))
    # It may read everything and make mounts, and only then would it be stopped.
    half = {
        "path": {
            "*": {"capabilities": ["read", "list"]},
            "sys/mounts/*": {"capabilities": ["create", "update", "delete"]},
            "sys/auth/*": {"capabilities": ["create", "update", "delete", "sudo"]},
        }
    }
    name = f"half-{site.name}"
    assert site.server.api("POST", f"sys/policies/acl/{name}", {"policy": json.dumps(half)}).status == 204
    token = make(policies=[name])
    site.refused("the Vault token is too weak: it may not update", "vaultpki policy -f", token=token)
    site.refused("too weak", command="apply", token=token)
    assert f"{site.prefix}/root/" not in site.read("sys/mounts")


def test_the_applier_policy_is_enough(site: Watched) -> None:
    printed = vaultpki("policy", "-f", site.file, "applier", env={}).stdout
    name = f"applier-{site.name}"
    assert site.server.api("POST", f"sys/policies/acl/{name}", {"policy": printed}).status == 204
    made = site.server.api("POST", "auth/token/create", {"policies": [name], "no_default_policy": True, "ttl": "10m"})
    token = made.body["auth"]["client_token"]
    site.applied(token=token)
    document, writes = site.applied(token=token)
    assert (document["changes"], writes) == ([], [])
    prefix = site.prefix
    for path, body in (
        (f"{prefix}/etcd/config/urls", {"ocsp_servers": ["https://elsewhere.example.com"]}),
        (f"sys/mounts/{prefix}/etcd/tune", {"max_lease_ttl": "9000h"}),
        (f"{prefix}/etcd/issuer/etcd-1", {"leaf_not_after_behavior": "err", "issuer_name": "etcd-1"}),
        (f"auth/{prefix}/listed/role/cp-1", {"token_max_ttl": "1h"}),
    ):
        assert site.server.api("POST", path, body).status in (200, 204), path
    # It can do nothing beside its cluster.
    for path in (f"sys/mounts/{prefix}x/root", "sys/policies/acl/mine", f"sys/mounts/{prefix}", "sys/audit/x"):
        assert site.server.api("POST", path, {"type": "pki", "policy": ""}, token=token).status == 403, path
    document, _ = site.applied(token=token)
    assert len(document["changes"]) == 4
    site.settled()
    # A node logs in, so that there is an entity to end.
    site.equip("worker-1").run()
    site.destroy(token=token)
    assert not [path for path in site.read("sys/mounts") if path.startswith(prefix)]


def test_where_nodes_find_vault_is_what_the_environment_says(site: Watched) -> None:
    text = f"cluster: {site.name}\n{SPEC}"
    site.file.write_text(text)
    site.apply()
    stored = site.read(f"{site.prefix}/config/data/cluster")["data"]["vault"]
    assert stored == {"addresses": [site.server.address], "ca_pem": site.server.ca_file.read_text()}
    # Another way to the same server, as another applier may have it, is another answer, and shown before it is given.
    address = site.server.address.replace("127.0.0.1", "localhost")
    env = site.environment() | {"VAULT_ADDR": address}
    drift = changes(json.loads(vaultpki("plan", "-f", site.file, "--json", env=env).stdout))
    assert drift.pop(("config", f"{site.prefix}/config/cluster")) == (
        "update",
        {"vault": (stored, stored | {"addresses": [address]})},
    )
    assert drift.keys() == {("config", f"{site.prefix}/{ca}/config/urls") for ca in (ROOT, *ISSUING_CAS)}
    # With `vault` in cluster.yaml, all appliers have the same.
    site.write(SPEC)
    assert json.loads(vaultpki("plan", "-f", site.file, "--json", env=env).stdout)["changes"] == []


def test_a_cluster_of_many_nodes(site: Watched) -> None:
    # Both servers refuse a request with more than 500 entries in a list or an object.
    nodes = "".join(f"- {{name: n-{i}, roles: [worker], addresses: [10.1.0.{i + 1}]}}\n" for i in range(170))
    site.write("api_server: {endpoint: 'https://api.example.com:6443', names: [api.example.com]}\nnodes:\n" + nodes)
    document, _ = site.applied()
    assert len(document["changes"]) > 500
    assert site.applied()[1] == []


def test_the_largest_records_that_the_spec_takes_are_taken(site: Watched) -> None:
    (site.file.parent / "large.tmpl").write_text("<" * 10_000 + "x" * 14_000)
    names = ", ".join(f"n{n}.a" for n in range(50))
    rows = "".join(
        f"  own-{n}: {{kind: server, common_name: own, ca: kubelet, roles: [worker], names: [own-{n}.a]}}\n"
        for n in range(35)
    )
    templates = "".join(f"  t{n}: {{file: t{n}, template: large.tmpl, roles: [worker]}}\n" for n in range(7))
    site.write(
        "nodes:\n- {name: cp-1, roles: [control-plane, etcd], addresses: [10.0.0.11]}\n"
        "- {name: w-1, roles: [worker], addresses: [10.0.0.21]}\n"
        f"certificates:\n  kubelet: {{extra_names: [{names}]}}\n{rows}templates:\n{templates}"
    )
    site.applied()
    assert site.applied()[1] == []
    cluster = load_cluster(site.file)
    stored = site.read(f"{site.prefix}/config/data/nodes/w-1")["data"]
    assert 850 < records.strings(stored) <= records.MOST_STRINGS
    read = records.read_certificates(stored, node="w-1", prefix=cluster.prefix, where="record")
    assert read == (cluster.nodes[1].roles, node_certificates(cluster, cluster.nodes[1]))
    told = site.read(f"{site.prefix}/config/data/cluster")["data"]
    assert records.size(told) > 500_000
    assert records.read_cluster(told, where="record").templates == cluster.templates


def test_nothing_but_certificates_of_a_ca_file_is_published(site: Watched, tmp_path: Path) -> None:
    site.file.write_text(f"cluster: {site.name}\n{SPEC}")
    ca_pem = site.server.ca_file.read_text()
    file = tmp_path / "all.pem"
    env = site.environment() | {"VAULT_CACERT": str(file)}
    start = site.server.audit_position()
    key = (site.server.folder / "server.key").read_text()
    for content, said in (
        (ca_pem + key, "the file contains a private key"),
        ("hello", "no whole PEM certificate"),
        (ca_pem.replace("\nM", "\n!", 1), "no whole PEM certificate"),
    ):
        file.write_text(content)
        ran = vaultpki("apply", "-f", site.file, "--yes", env=env, expect=1)
        fails(ran, f"{file}: VAULT_CACERT: ", said)
        assert not any(line in ran.stderr for line in key.splitlines())
    assert site.server.requests(start) == []
    # As the bundles of some distributions have them.
    file.write_text(f"# F\u0151tan\u00fas\u00edtv\u00e1ny\n{ca_pem}password: hunter2\n", encoding="utf-8")
    vaultpki("apply", "-f", site.file, "--yes", env=env)
    assert site.read(f"{site.prefix}/config/data/cluster")["data"]["vault"]["ca_pem"] == ca_pem
    join = tmp_path / "join.json"
    vaultpki("enroll", "-f", site.file, "cp-1", "-o", join, env=env)
    assert json.loads(join.read_text())["ca_pem"] == ca_pem


@pytest.mark.parametrize("written", ["https://{}/", "HTTPS://{}", "HTTPS://LOCALHOST:{port}/"])
def test_nodes_are_told_the_normal_form_of_an_address(site: Watched, tmp_path: Path, written: str) -> None:
    site.file.write_text(f"cluster: {site.name}\n{SPEC}")
    host, _, port = site.server.address.removeprefix("https://").partition(":")
    address = f"https://{'localhost' if 'LOCAL' in written else host}:{port}"
    env = site.environment() | {"VAULT_ADDR": written.format(f"{host}:{port}", port=port)}
    vaultpki("apply", "-f", site.file, "--yes", env=env)
    stored = site.read(f"{site.prefix}/config/data/cluster")["data"]["vault"]
    assert stored["addresses"] == [address]
    urls = site.read(f"{site.prefix}/etcd/config/urls")
    assert urls["ocsp_servers"] == [f"{address}/v1/{site.prefix}/etcd/ocsp"]
    join, node = tmp_path / "join.json", tmp_path / "node"
    vaultpki("enroll", "-f", site.file, "worker-1", "-o", join, env=env)
    vaultpki("agent", "-c", node / "agent.yaml", "--join", join, "--dir", node / "pki", "--once")
    vaultpki("agent", "-c", node / "agent.yaml", "--once")


@pytest.mark.parametrize("host", ["0.0.0.0", "[::ffff:127.0.0.1]", f"{'a.' * 130}example"])  # noqa: S104 -- refused
def test_an_address_that_no_agent_yaml_takes_is_refused(site: Watched, host: str) -> None:
    env = site.environment() | {"VAULT_ADDR": f"https://{host}:{site.server.address.rpartition(':')[2]}"}
    start = site.server.audit_position()
    fails(vaultpki("apply", "-f", site.file, "--yes", env=env, expect=1), "VAULT_ADDR: ")
    assert site.server.requests(start) == []
