"""A proxy before a real server that mixes its answers up: no node and no command takes one object for another."""

from __future__ import annotations

import contextlib
import json
import secrets
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from helpers.faults import trusted_proxy
from helpers.faults.hostile_server import Guest
from helpers.faults.trusted_proxy import Relay
from helpers.vault.applied_cluster import Seat, Site, vaultpki
from helpers.vault.servers import Server
from vaultpki.agent import run
from vaultpki.certificates import ISSUING_CAS
from vaultpki.errors import VaultpkiError
from vaultpki.model import KeyType, Subject
from vaultpki.pki import keys, x509
from vaultpki.spec import load_agent

SPEC = """\
api_server: {names: [api.example.com], endpoint: "https://api.example.com:6443"}
nodes:
- {name: worker-1, roles: [worker], addresses: [10.0.0.21]}
- {name: worker-2, roles: [worker], addresses: [10.0.0.22]}
pools:
- {name: blue, roles: [worker], node_names: "b-*"}
- {name: green, roles: [worker], node_names: "g-*"}
"""


@pytest.fixture(scope="module")
def site(server: Server, tmp_path_factory: pytest.TempPathFactory) -> Site:
    made = Site(server, tmp_path_factory.mktemp("relay"), f"t{secrets.token_hex(5)}")
    made.write(SPEC)
    made.apply()
    return made


@pytest.fixture
def proxy(site: Site, tmp_path: Path) -> Iterator[Relay]:
    with trusted_proxy.relaying(site.server, tmp_path) as running:
        yield running


def seated(site: Site, proxy: Relay, folder: Path, node: str = "worker-1", pool: str | None = None) -> Seat:
    """A node that reaches the server by the proxy."""
    seat = site.equip(node, pool=pool, folder=folder / node)
    seat.configure(site.server.address, proxy.address)
    seat.configure(str(site.server.ca_file), str(proxy.ca_file))
    return seat


def authorities(site: Site) -> dict[str, str]:
    """The fingerprint of each issuing CA, by its name."""
    pems = {ca: site.read(f"{site.prefix}/{ca}/issuer/default")["certificate"] for ca in ISSUING_CAS}
    return {ca: x509.fingerprint(pem.encode()) for ca, pem in pems.items()}


def trusted(seat: Seat) -> dict[str, list[str]]:
    """The fingerprints in each bundle that is there."""
    files = {ca: seat.pki / f"{ca}-ca.crt" for ca in ISSUING_CAS}
    return {
        ca: [facts.fingerprint for facts in x509.read_certificates(file.read_bytes())]
        for ca, file in files.items()
        if file.exists()
    }


def at_once(path_part: str) -> trusted_proxy.Say:
    """Says an answer twice in one breath."""

    def say(guest: Guest, path: str, status: int, body: bytes) -> None:
        head = f"HTTP/1.1 {status} x\r\nContent-Length: {len(body)}\r\n\r\n".encode()
        guest.say((head + body) * (2 if path_part in path else 1))

    return say


def late(path_part: str) -> trusted_proxy.Say:
    """Says an answer again 200 ms later: while nothing is asked, or before the answer to what is asked by then."""
    copies: dict[int, bytes] = {}

    def say(guest: Guest, path: str, status: int, body: bytes) -> None:
        if guest.number in copies:
            guest.wait(0.2)
            guest.answer(200, copies.pop(guest.number))
            guest.wait(0.1)
        guest.answer(status, body)
        if path_part in path and path.endswith("/json"):
            copies[guest.number] = body

    return say


def late_without_ids(path_part: str) -> trusted_proxy.Say:
    """As `late`, of a server whose answers have no ids: what an answer says of itself must do."""
    said = late(path_part)

    def say(guest: Guest, path: str, status: int, body: bytes) -> None:
        plain = {name: value for name, value in json.loads(body or b"{}").items() if name != "request_id"}
        said(guest, path, status, json.dumps(plain).encode() if body else b"")

    return say


@pytest.mark.parametrize("ca", ["kubernetes", "etcd"])
@pytest.mark.parametrize("twice", [at_once, late, late_without_ids])
def test_an_issuers_answer_that_comes_twice_is_no_other_issuer(
    twice: Callable[[str], trusted_proxy.Say], ca: str, site: Site, proxy: Relay, tmp_path: Path
) -> None:
    seat = seated(site, proxy, tmp_path)
    right = {name: [fingerprint] for name, fingerprint in authorities(site).items()}
    proxy.say = twice(f"/{ca}/issuer/")
    for _ in range(3):
        with contextlib.suppress(VaultpkiError):
            run.run(load_agent(seat.config))
        seat_trusts = trusted(seat)
        assert seat_trusts == {name: right[name] for name in seat_trusts}
        if seat.state.joinpath("spec.json").exists():
            seat.age()
    proxy.say = trusted_proxy.as_heard
    run.run(load_agent(seat.config))
    assert trusted(seat) == right


def issuer(site: Site, ca: str) -> str:
    """The path at which a node asks for the CA."""
    name = site.server.api("LIST", f"{site.prefix}/{ca}/issuers").data["keys"][0]
    return f"{site.prefix}/{ca}/issuer/{name}/json"


def exchanged(one: str, other: str) -> trusted_proxy.Ask:
    swap = {one: other, other: one}
    return lambda path: swap.get(path, path)


def in_place_of(path: str, body: Any) -> trusted_proxy.Say:
    """Says `body` to whoever asks for `path`, with an id of its own as a server would."""

    def say(guest: Guest, asked: str, status: int, heard: bytes) -> None:
        if asked == path:
            guest.answer(200, {**body, "request_id": str(uuid.uuid4())})
        else:
            guest.answer(status, heard)

    return say


def other_login(site: Site) -> trusted_proxy.Say:
    mount = f"auth/{site.prefix}/listed"
    role = f"{mount}/role/worker-2"
    sent = {
        "role_id": site.read(f"{role}/role-id")["role_id"],
        "secret_id": site.server.api("POST", f"{role}/secret-id").data["secret_id"],
    }
    return in_place_of(f"{mount}/login", site.server.api("POST", f"{mount}/login", sent, token="").body)


def other_record(site: Site) -> trusted_proxy.Say:
    records = f"{site.prefix}/config/data/nodes"
    return in_place_of(f"{records}/worker-1", site.server.api("GET", f"{records}/worker-2").body)


def other_cluster(site: Site) -> trusted_proxy.Say:
    path = f"{site.prefix}/config/data/cluster"
    body = site.server.api("GET", path).body
    body["data"]["data"]["cluster"] = "other"
    return in_place_of(path, body)


MIXED: dict[str, tuple[Callable[[Site], trusted_proxy.Say], str]] = {
    "login": (other_login, "is about worker-2, not worker-1"),
    "record": (other_record, "is not that of worker-1"),
    "cluster": (other_cluster, "belongs to cluster other"),
}


@pytest.mark.parametrize("name", MIXED)
def test_a_node_takes_nothing_of_anothers(name: str, site: Site, proxy: Relay, tmp_path: Path) -> None:
    seat = seated(site, proxy, tmp_path)
    seat.run()
    seat.age()
    before = {path: path.read_bytes() for path in seat.pki.rglob("*") if path.is_file()}
    make, words = MIXED[name]
    proxy.say = make(site)
    ran = seat.run(expect=1)
    assert words in ran.stderr, ran.stderr
    assert {path: path.read_bytes() for path in seat.pki.rglob("*") if path.is_file()} == before


def test_a_pooled_node_takes_no_other_pools_record(site: Site, proxy: Relay, tmp_path: Path) -> None:
    seat = seated(site, proxy, tmp_path, "b-1", "blue")
    records = f"{site.prefix}/config/data/pools"
    proxy.say = in_place_of(f"{records}/blue", site.server.api("GET", f"{records}/green").body)
    assert "is not that of blue" in seat.run(expect=1).stderr
    assert not list(seat.pki.rglob("*.key"))


def test_two_issuers_that_are_exchanged_are_refused(site: Site, proxy: Relay, tmp_path: Path) -> None:
    seat = seated(site, proxy, tmp_path)
    proxy.ask = exchanged(issuer(site, "kubernetes"), issuer(site, "kubelet"))
    assert "is about" in seat.run(expect=1).stderr
    assert trusted(seat) == {}
    proxy.ask = trusted_proxy.same
    seat.run()
    seat.age()
    right = trusted(seat)
    proxy.ask = exchanged(issuer(site, "etcd"), issuer(site, "front-proxy"))
    assert "is about" in seat.run(expect=1).stderr
    assert trusted(seat) == right


@pytest.mark.parametrize(
    ("one", "other", "words"),
    [
        ("sys/policies/acl/{prefix}/operator", "sys/policies/acl/{prefix}/enroller", "is about"),
        ("{prefix}/etcd/issuer/etcd-1", "{prefix}/kubelet/issuer/kubelet-1", "is about"),
        ("sys/mounts", "sys/auth", "does not list sys/"),
    ],
)
def test_a_plan_is_not_made_from_exchanged_answers(one: str, other: str, words: str, site: Site, proxy: Relay) -> None:
    environment = {**site.environment(), **proxy.environment}
    paths = one.format(prefix=site.prefix), other.format(prefix=site.prefix)
    proxy.ask = exchanged(*paths)
    ran = vaultpki("plan", "-f", site.file, env=environment, expect=1)
    assert words in ran.stderr, ran.stderr
    assert {*paths} <= {*proxy.asked}


def test_a_list_that_names_all_twice_is_read(site: Site, proxy: Relay) -> None:
    listing: list[str] = []

    def say(guest: Guest, path: str, status: int, body: bytes) -> None:
        answer = json.loads(body or b"{}")
        data = answer.get("data") or {}
        if isinstance(data.get("keys"), list):
            listing.append(path)
            data["keys"] *= 2
        guest.answer(status, json.dumps(answer).encode())

    proxy.say = say
    ran = vaultpki("plan", "-f", site.file, env=site.environment("viewer") | proxy.environment)
    assert ran.stdout == "Nothing to change.\n"
    assert {f"auth/{site.prefix}/listed/role", f"{site.prefix}/config/metadata/nodes"} <= {*listing}


def test_a_join_file_is_not_made_from_another_nodes_answer(site: Site, proxy: Relay, tmp_path: Path) -> None:
    def say(guest: Guest, path: str, status: int, heard: bytes) -> None:
        body = json.loads(heard or b"{}")
        if path.endswith("/secret-id") and body.get("wrap_info"):
            body["wrap_info"]["creation_path"] = body["wrap_info"]["creation_path"].replace("b-7", "b-8")
        guest.answer(status, body if heard else b"")

    environment = {**site.environment(), **proxy.environment}
    file = tmp_path / "join.json"
    proxy.say = say
    line = ("enroll", "-f", site.file, "b-7", "--pool", "blue", "-o", file)
    ran = vaultpki(*line, env=environment, expect=1)
    assert "role/b-8/secret-id" in ran.stderr and not file.exists(), ran.stderr


def test_nobody_elses_tokens_end(site: Site, proxy: Relay, tmp_path: Path) -> None:
    """Where Vault shows another identity than the one to be ended, and where it shows no mounts of identities."""
    goes = site.equip("b-3", pool="blue", folder=tmp_path / "b-3")
    stays = site.equip("g-3", pool="green", folder=tmp_path / "g-3")
    for seat in (goes, stays):
        seat.run()
    accessor = site.read("sys/auth")[f"{site.prefix}/pooled/"]["accessor"]
    role_id = site.read(f"auth/{site.prefix}/pooled/role/g-3/role-id")["role_id"]
    sent = {"alias_name": role_id, "alias_mount_accessor": accessor}
    found = site.server.api("POST", "identity/lookup/entity", sent)
    line = ("unenroll", "-f", site.file, "b-3")
    environment = {**site.environment(), **proxy.environment}
    proxy.say = in_place_of("identity/lookup/entity", found.body)
    assert "another identity" in vaultpki(*line, env=environment, expect=1).stderr
    proxy.say = trusted_proxy.as_heard
    proxy.ask = exchanged("sys/auth", "sys/mounts")
    assert "does not list token/" in vaultpki(*line, env=environment, expect=1).stderr
    assert site.server.api("GET", f"identity/entity/id/{found.data['id']}").status == 200
    proxy.ask = trusted_proxy.same
    vaultpki(*line, env=environment)
    assert site.server.api("GET", f"identity/entity/id/{found.data['id']}").status == 200


def _signed_before(site: Site, asked: list[Any], told: dict[str, Any]) -> dict[str, Any]:
    """Give the first CA that was signed to every mount."""
    asked.append(told)
    return {**asked[0], "request_id": told["request_id"]}


def _signed_for_another_key(site: Site, asked: list[Any], told: dict[str, Any]) -> dict[str, Any]:
    """Give each mount a CA of the name that it asked for, signed by the true root, and with a key of somebody else."""
    name = x509.read_certificates(told["data"]["certificate"].encode())[0].subject.common_name
    csr = keys.request(keys.generate_key(KeyType.EC_P256), Subject(name))
    body = {"csr": csr, "common_name": name, "max_path_length": 0, "ttl": "43800h", "exclude_cn_from_sans": True}
    signed = site.server.api("POST", f"{site.prefix}/root/root/sign-intermediate", body)
    assert signed.status == 200, signed
    return {**told, "data": {**signed.data, "expiration": told["data"]["expiration"]}}


@pytest.mark.parametrize(
    ("lie", "said"),
    [(_signed_before, "and was not installed"), (_signed_for_another_key, "the root signed another key")],
)
def test_no_ca_of_another_key_stays_on_a_mount(
    server: Server, tmp_path: Path, lie: Callable[[Site, list[Any], dict[str, Any]], dict[str, Any]], said: str
) -> None:
    """Both servers take a signed CA whose key they do not have, and would make it the mount's own."""
    site = Site(server, tmp_path / "site", f"t{secrets.token_hex(5)}")
    site.write(SPEC)
    asked: list[Any] = []

    def say(guest: Guest, path: str, status: int, heard: bytes) -> None:
        body = json.loads(heard or b"{}")
        if path.endswith("/root/sign-intermediate"):
            body = lie(site, asked, body)
        guest.answer(status, body if heard else b"")

    with trusted_proxy.relaying(server, tmp_path, say=say) as proxy:
        environment = {**site.environment(), **proxy.environment}
        ran = vaultpki("apply", "-f", site.file, "--yes", env=environment, expect=1)
    assert said in ran.stderr, ran.stderr
    site.apply()
    assert "Nothing to change." in vaultpki("plan", "-f", site.file, env=site.environment("viewer")).stdout
    for ca in ISSUING_CAS:
        assert len(server.api("LIST", f"{site.prefix}/{ca}/issuers").data["keys"]) == 1
    assert len(set(authorities(site).values())) == len(ISSUING_CAS)
