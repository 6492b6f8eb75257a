"""`jwt` of a pool in cluster.yaml: what it gives, and each refusal with its field and what would be right."""

from __future__ import annotations

from pathlib import Path

import pytest

from helpers import published_schema
from vaultpki.config.cluster import load_cluster
from vaultpki.errors import SpecError
from vaultpki.model import Cluster, Jwt

HEAD = "cluster: p\nnodes: [{name: cp-1, roles: [control-plane, etcd], addresses: [10.0.0.11]}]\npools:\n"
# P-256 and Ed25519 (RFC 8410 section 10.1), the first in lines of its own length.
EC = (
    "-----BEGIN PUBLIC KEY-----\nMFkwEwYHKoZIzj0CAQYIKoZIzj0DAQcDQgAE96jaY/8VIkoEFtEgGWW6flIfXq/9\n"
    "2FNzBUZWLjDS+L7ylfLyJ6NxezVmNmxYR+0lWuagHGZSAO3cgrrjvonwtw==\n-----END PUBLIC KEY-----"
)
ED = (
    "-----BEGIN PUBLIC KEY-----\nMCowBQYDK2VwAyEAGb9ECWmEzf6FQbrBZ9w7lshQhqowtrbLDFw4rXAxZuE=\n-----END PUBLIC KEY-----"
)
PEM = "-----BEGIN CERTIFICATE-----\nMIIBszCCAVqgAwIBAgIU\n-----END CERTIFICATE-----\n"

BY_FILE = {
    "issuer": "https://issuer.example",
    "audiences": "[vaultpki]",
    "node_claim": "node",
    "public_keys_file": "keys.pem",
}
BY_URL = {
    "public_keys_file": "",
    "jwks_url": "https://issuer.example/jwks",
    "jwks_ca_file": "ca.pem",
}


def jwt(**keys: str) -> str:
    return "{" + ", ".join(f"{key}: {value}" for key, value in {**BY_FILE, **keys}.items() if value) + "}"


def load(folder: Path, *pools: str, keys: str = f"of the issuer:\n{EC}\n") -> Cluster:
    (folder / "keys.pem").write_text(keys)
    (folder / "other.pem").write_text(ED)
    (folder / "ca.pem").write_text(PEM)
    text = HEAD + "".join(
        f'- {{name: p{index}, roles: [worker], node_names: "p{index}-*", jwt: {each}}}\n'
        for index, each in enumerate(pools)
    )
    (folder / "cluster.yaml").write_text(text)
    cluster = load_cluster(folder / "cluster.yaml")
    assert not published_schema.faults(text)
    return cluster


def test_keys_from_a_file(tmp_path: Path) -> None:
    (pool,) = load(tmp_path, jwt()).pools
    assert pool.jwt == Jwt("https://issuer.example", ("vaultpki",), "node", public_keys=(EC,))
    assert pool.auth_mount == "jwt"


def test_several_keys_each_once_and_in_one_form(tmp_path: Path) -> None:
    windows = EC.replace("\n", "\r\n")
    unwrapped = EC.replace("9\n2", "92")
    (pool,) = load(tmp_path, jwt(), keys=f"{windows}\n{ED}\n{unwrapped}").pools
    assert pool.jwt is not None and pool.jwt.public_keys == (EC, ED)


def test_keys_from_the_issuer(tmp_path: Path) -> None:
    (pool,) = load(tmp_path, jwt(**BY_URL)).pools
    url = "https://issuer.example/jwks"
    assert pool.jwt == Jwt("https://issuer.example", ("vaultpki",), "node", (), url, PEM)


@pytest.mark.parametrize(
    ("url", "read"),
    [
        ("https://a", "https://a"),
        ("https://a.b:8443/openid/v1/jwks", "https://a.b:8443/openid/v1/jwks"),
        ("https://[FD00::0:1]:443/k/", "https://[fd00::1]:443/k/"),
    ],
)
def test_urls(url: str, read: str, tmp_path: Path) -> None:
    (pool,) = load(tmp_path, jwt(**{**BY_URL, "jwks_url": f"'{url}'"})).pools
    assert pool.jwt is not None and pool.jwt.jwks_url == read


@pytest.mark.parametrize("claim", ["sub", "/kubernetes.io/node/name", "https://issuer.example/node", "a_b-c.d:e"])
def test_claims(claim: str, tmp_path: Path) -> None:
    (pool,) = load(tmp_path, jwt(node_claim=f"'{claim}'")).pools
    assert pool.jwt is not None and pool.jwt.node_claim == claim


def test_pools_of_one_issuer_may_differ_in_audience_and_claim(tmp_path: Path) -> None:
    first, second = load(tmp_path, jwt(), jwt(audiences="[other]", node_claim="sub")).pools
    assert first.jwt is not None and second.jwt is not None and first.jwt.trust == second.jwt.trust


@pytest.mark.parametrize(
    "second",
    [
        jwt(issuer="https://other.example"),
        jwt(public_keys_file="other.pem"),
        jwt(**BY_URL),
    ],
)
def test_a_second_issuer_is_refused(second: str, tmp_path: Path) -> None:
    with pytest.raises(SpecError, match="a cluster has one") as caught:
        load(tmp_path, jwt(), second)
    assert (caught.value.line, caught.value.field) == (5, "pools[1].jwt")


@pytest.mark.parametrize(
    ("changed", "field", "hint"),
    [
        ({"issuer": ""}, "issuer", "missing"),
        ({"issuer": "'a b'"}, "issuer", "printable ASCII"),
        ({"issuer": "''"}, "issuer", "printable ASCII"),
        ({"issuer": "x" * 513}, "issuer", "512"),
        ({"audiences": "[]"}, "audiences", "at least 1"),
        ({"audiences": "vaultpki"}, "audiences", "list"),
        ({"audiences": "[a, a]"}, "audiences[1]", "twice"),
        ({"audiences": "['a\u00e9']"}, "audiences[0]", "printable ASCII"),
        ({"node_claim": ""}, "node_claim", "missing"),
        ({"node_claim": "'a b'"}, "node_claim", "JSON pointer"),
        ({"node_claim": "'*'"}, "node_claim", "JSON pointer"),
        ({"node_claim": "'/'"}, "node_claim", "JSON pointer"),
        ({"node_claim": "'//a'"}, "node_claim", "JSON pointer"),
        ({"public_keys_file": ""}, "", "either"),
        ({"public_keys_file": "nowhere.pem"}, "public_keys_file", "no such file"),
        ({**BY_URL, "public_keys_file": "keys.pem"}, "jwks_url", "either"),
        ({"jwks_ca_file": "ca.pem"}, "jwks_ca_file", "leave jwks_ca_file out"),
        ({**BY_URL, "jwks_url": "'http://issuer.example/jwks'"}, "jwks_url", "https://"),
        ({**BY_URL, "jwks_url": "'https://user:hunter2@issuer.example/jwks'"}, "jwks_url", "without them"),
        ({**BY_URL, "jwks_url": "'https://issuer.example/a/../b c'"}, "jwks_url", "not a URL"),
        ({**BY_URL, "jwks_url": "'https://issuer.example/#a'"}, "jwks_url", "not a URL"),
        ({**BY_URL, "jwks_url": "'https://-a/jwks'"}, "jwks_url", "not a DNS name"),
        ({**BY_URL, "jwks_ca_file": "keys.pem"}, "jwks_ca_file", "no whole PEM certificate"),
        ({"audience": "x"}, "audience", "did you mean audiences?"),
    ],
)
def test_refused(changed: dict[str, str], field: str, hint: str, tmp_path: Path) -> None:
    with pytest.raises(SpecError) as caught:
        load(tmp_path, jwt(**changed))
    error = caught.value
    assert (error.line, error.field) == (4, ".".join(part for part in ("pools[0].jwt", field) if part)), str(error)
    assert hint in error.problem, error.problem
    assert "hunter2" not in str(error)


@pytest.mark.parametrize(
    ("keys", "hint"),
    [
        ("hello", "BEGIN PUBLIC KEY"),
        (PEM, "BEGIN PUBLIC KEY"),
        (EC + "\n" + PEM, "BEGIN PUBLIC KEY"),
        (EC[:-10], "BEGIN PUBLIC KEY"),
        (EC.replace("MFkw", "MFk"), "does not decode"),
        (EC.replace("MFkw", "AFkw"), "does not decode"),
        ("-----BEGIN PRIVATE KEY-----\nMAo=\n-----END PRIVATE KEY-----\n" + EC, "private key"),
        ("\n".join(EC.replace("96ja", f"9{index:03}") for index in range(17)), "at most 16"),
    ],
)
def test_keys_refused(keys: str, hint: str, tmp_path: Path) -> None:
    with pytest.raises(SpecError, match=hint) as caught:
        load(tmp_path, jwt(), keys=keys)
    assert (caught.value.line, caught.value.field) == (4, "pools[0].jwt.public_keys_file")
    assert "MAo=" not in str(caught.value)
