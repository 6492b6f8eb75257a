"""A stolen credential: `lock` and `enroll --replace` end every one of a node at once, and the node goes on anew."""

from __future__ import annotations

import http.client
import json
import os
import ssl
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from helpers.faults import hostile_server
from helpers.faults.hostile_server import Guest
from helpers.faults.kill_points import NEVER, command, died
from helpers.node import enrolled_nodes
from helpers.node.enrolled_nodes import Desk
from helpers.vault.applied_cluster import Seat, Site, vaultpki
from helpers.vault.jwt_issuer import Issuer
from helpers.vault.servers import Server
from vaultpki.errors import SpecError
from vaultpki.provision import apply, destroy, enrol, identity_end, live_credentials
from vaultpki.provision.live_credentials import Identity
from vaultpki.provision.server_facts import ServerFacts
from vaultpki.spec import load_agent
from vaultpki.vault import Settings, Vault

METHODS = ("POST", "DELETE")
NODES = [("worker-1", None), ("w-1", "autoscaled")]
# A listed one everywhere, a pooled one too in conformance.
ONE_HERE = [pytest.param(*each, marks=[pytest.mark.conformance] if each[1] else []) for each in NODES]


@pytest.fixture(scope="module")
def site(server: Server, tmp_path_factory: pytest.TempPathFactory) -> Site:
    return enrolled_nodes.site(server, tmp_path_factory.mktemp("lock"), f"k{os.urandom(4).hex()}")


@pytest.fixture
def applier(site: Site) -> Desk:
    return Desk(site, site.token())


@pytest.fixture
def enroller(site: Site) -> Desk:
    return Desk(site, enrolled_nodes.enroller(site))


@dataclass(frozen=True)
class Stolen:
    """What somebody has who read a node's disk, and all that its rights make of that."""

    site: Site
    kind: str
    node: str
    role_id: str
    secret_ids: dict[str, str]
    tokens: tuple[str, ...]
    wrapped: dict[str, str]

    def lets_in(self, role_id: str | None = None) -> list[str]:
        """What of it still works; with another role id where one is given."""
        secret_ids = dict(self.secret_ids)
        for what, token in self.wrapped.items():
            answer = self.site.server.api("POST", "sys/wrapping/unwrap", token=token)
            if answer.status == 200:
                secret_ids[what] = answer.data["secret_id"]
        logins = {
            what: enrolled_nodes.login(self.site, self.kind, role_id or self.role_id, s)
            for what, s in secret_ids.items()
        }
        works = [what for what, token in logins.items() if token is not None]
        return works + [f"token {n}" for n, token in enumerate(self.tokens) if enrolled_nodes.works(self.site, token)]


def steal(site: Site, node: str, kind: str, role_id: str, secret_id: str) -> Stolen:
    token = str(enrolled_nodes.login(site, kind, role_id, secret_id))
    minted = enrolled_nodes.minted(site, kind, node, token)
    mint = f"auth/{site.prefix}/{kind}/role/{node}/secret-id"
    wrapped = {
        "one that was minted and is still wrapped": enrolled_nodes.wrapped(site, mint, token=token),
        "an open join file": enrolled_nodes.wrapped(site, mint, ttl="30m"),
    }
    tokens = (token, str(enrolled_nodes.login(site, kind, role_id, minted)))
    return Stolen(site, kind, node, role_id, {"its own": secret_id, "one minted": minted}, tokens, wrapped)


def joined(desk: Desk, node: str, pool: str | None, folder: Path) -> tuple[Seat, Stolen]:
    """A node that takes part, and a thief of all it has."""
    seat = Seat(node, folder)
    folder.mkdir()
    enrolled_nodes.join(seat, desk.join_file(node, folder / "join.json", pool=pool))
    role_id = str(load_agent(seat.config).auth.role_id)
    kind = "pooled" if pool else "listed"
    return seat, steal(desk.site, node, kind, role_id, (seat.state / "secret-id").read_text())


def equipped(site: Site, node: str, pool: str | None) -> Stolen:
    """The same, without an agent: by the functions alone."""
    vault, cluster = site.client(), site.cluster
    who, where = enrol.holder(cluster, node, pool), enrol.place(cluster, vault)
    join = enrol.enroll(cluster, vault, node, who, where, wrap_ttl=300, replace=True, wait=0)
    secret_id = site.server.api("POST", "sys/wrapping/unwrap", token=join.wrap_token).data["secret_id"]
    return steal(site, node, "pooled" if pool else "listed", join.role_id, secret_id)


def role_id_of(stolen: Stolen) -> str:
    path = f"auth/{stolen.site.prefix}/{stolen.kind}/role/{stolen.node}/role-id"
    return str(stolen.site.read(path)["role_id"])


def has_ended(stolen: Stolen) -> None:
    site = stolen.site
    new = role_id_of(stolen)
    assert new != stolen.role_id
    assert stolen.lets_in() == []
    assert stolen.lets_in(new) == []
    assert enrolled_nodes.entity(site, stolen.kind, stolen.role_id) is None
    assert enrolled_nodes.accessors(site, stolen.node, stolen.kind) == []
    leaving = f"{site.prefix}/config/metadata/leaving/{stolen.node}"
    assert site.server.api("GET", leaving).status == 404


def nothing_to_change(site: Site) -> None:
    mark = site.server.audit_position()
    assert vaultpki("plan", "-f", site.file, env=site.environment("viewer")).stdout.startswith("Nothing to change.")
    site.apply()
    writes = [path for _, path in site.server.writes(mark)]
    assert writes == [], writes


@pytest.mark.parametrize(("node", "pool"), NODES)
def test_lock_ends_all_that_was_stolen_and_the_node_comes_back(
    site: Site, applier: Desk, tmp_path: Path, node: str, pool: str | None
) -> None:
    enrolled_nodes.vacate(site, node)
    seat, stolen = joined(applier, node, pool, tmp_path / "node")
    other = equipped(site, "w-bystander", "autoscaled")
    role = f"auth/{site.prefix}/{stolen.kind}/role/{node}"
    before, held = site.read(role), sorted(path.name for path in seat.pki.iterdir())
    began = time.monotonic()
    said = applier.run("lock", "-f", site.file, node).stdout
    took = time.monotonic() - began
    assert said == (
        f"{node} is locked: all its credentials have ended; `vaultpki enroll` gives it a new one. Its certificates end "
        "by themselves, at their not_after\n"
    )
    print(f"locked in {took:.1f} s")
    # In full, with the ten seconds to its second look.
    assert 10 < took < 30
    has_ended(stolen)
    assert len(other.lets_in()) == 6 and site.read(role) == before
    nothing_to_change(site)
    # Its agent says what it needs, and its files stay.
    (seat.pki / "kubelet.crt").unlink()
    seat.age()
    said = vaultpki("agent", "-c", seat.config, "--once", expect=1).stderr
    assert "does not take this node's credential; join with a new join file" in said
    status = json.loads(vaultpki("status", "-c", seat.config, "--json", expect=3).stdout)
    assert status["agent"]["state"] == "needs-join"
    assert sorted({path.name for path in seat.pki.iterdir()} | {"kubelet.crt"}) == held
    enrolled_nodes.join(seat, applier.join_file(node, tmp_path / "again.json", pool=pool))
    assert json.loads(vaultpki("status", "-c", seat.config, "--json").stdout)["agent"]["state"] == "ok"
    assert len(enrolled_nodes.accessors(site, node, stolen.kind)) == 1
    assert stolen.lets_in() == stolen.lets_in(role_id_of(stolen)) == []
    nothing_to_change(site)


@pytest.mark.parametrize(("node", "pool"), ONE_HERE)
def test_a_new_enrolment_ends_all_others(
    site: Site, applier: Desk, tmp_path: Path, node: str, pool: str | None
) -> None:
    enrolled_nodes.vacate(site, node)
    seat, stolen = joined(applier, node, pool, tmp_path / "node")
    number = len(enrolled_nodes.accessors(site, node, stolen.kind))
    mark = site.server.audit_position()
    arguments: list[str | Path] = [node, *(["--pool", pool] if pool else []), "-o", tmp_path / "new.json"]
    said = applier.enroll(*arguments, expect=1).stderr
    assert said == (
        f"vaultpki: {node} has {number} live credentials (its agent's, an unused join file's or a stolen one); pass "
        "--replace to end them and to enrol the node anew, as the applier may\n"
    )
    assert site.server.writes(mark) == [] and not (tmp_path / "new.json").exists()
    applier.enroll(*arguments, "--replace")
    assert len(enrolled_nodes.accessors(site, node, stolen.kind)) == 1
    assert stolen.lets_in() == stolen.lets_in(role_id_of(stolen)) == []
    nothing_to_change(site)
    enrolled_nodes.join(seat, tmp_path / "new.json")
    assert len(enrolled_nodes.accessors(site, node, stolen.kind)) == 1
    assert stolen.lets_in() == []


def test_one_who_may_not_end_them_is_told_who_may(site: Site, enroller: Desk, tmp_path: Path) -> None:
    equipped(site, "w-kept", "autoscaled")
    arguments = ("w-kept", "--pool", "autoscaled", "-o", tmp_path / "join.json")
    # With the default policy, which lets a token ask what it may do, and without.
    made = site.server.api("POST", "auth/token/create", {"policies": [f"{site.prefix}/enroller"]})
    for desk in (enroller, Desk(site, made.body["auth"]["client_token"])):
        mark = site.server.audit_position()
        assert "w-kept has 4 live credentials" in desk.enroll(*arguments, expect=1).stderr
        for said in (
            desk.enroll(*arguments, "--replace", expect=1).stderr,
            desk.run("lock", "-f", site.file, "w-kept", expect=1).stderr,
        ):
            assert said == (
                "vaultpki: this token may not end the credentials of w-kept, and nothing was changed; the applier may, "
                f"with `vaultpki enroll --replace` or `vaultpki lock` (`vaultpki policy -f {site.file} applier` prints "
                "what that needs)\n"
            )
        changed = [path for _, path in site.server.writes(mark) if not path.startswith("sys/")]
        assert changed == [], changed
    assert len(enrolled_nodes.accessors(site, "w-kept", "pooled")) == 4 and not (tmp_path / "join.json").exists()
    # A node that has nothing to end is theirs to enrol, also where its AppRole is there.
    enrolled_nodes.vacate(site, "w-kept")
    enroller.enroll(*arguments)


def test_an_enroller_of_before_who_may_not_look_is_told_so(site: Site, tmp_path: Path) -> None:
    path = f"sys/policies/acl/{site.prefix}/enroller"
    rules = json.loads(site.read(path)["policy"])
    rules["path"][f"auth/{site.prefix}/pooled/role/+/secret-id"]["capabilities"] = ["update"]
    assert site.server.api("POST", "sys/policies/acl/old-enroller", {"policy": json.dumps(rules)}).status == 204
    desk = Desk(site, enrolled_nodes.token(site.server, "old-enroller"))
    desk.join_file("w-old", tmp_path / "join.json", pool="autoscaled")
    said = desk.enroll("w-old", "--pool", "autoscaled", "-o", tmp_path / "again.json", expect=1).stderr
    assert said == (
        "vaultpki: w-old may have a live credential, and this token may not look; `vaultpki apply` gives enrollers "
        "that right, or take an applier's token\n"
    )


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("w-99", "w-99 has no identity in this Vault, so there is nothing to lock; `vaultpki nodes -f {file}` lists"),
        ("stranger", "stranger has no identity in this Vault, so there is nothing to lock;"),
        ("W-1", "'W-1' is no node name"),
        ("w-1/../w-2", "'w-1/../w-2' is no node name"),
        (
            "x-7",
            "x-7 has never logged in, so Vault has no identity of it that could be disabled: block it at https://issuer.example",
        ),
        ("worker-9", "worker-9 has no AppRole yet, so there is nothing to lock; run `vaultpki apply -f {file}`"),
    ],
)
def test_what_cannot_be_locked(site: Site, applier: Desk, tmp_path: Path, name: str, said: str) -> None:
    keys = tmp_path / "issuer.pem"
    keys.write_text(Issuer().public_pem)
    jwt = f"{{issuer: https://issuer.example, audiences: [vaultpki], node_claim: node, public_keys_file: {keys}}}"
    file = site.folder / f"{tmp_path.name}.yaml"
    more = "- {name: worker-9, roles: [worker], addresses: [10.0.0.29]}\npools:\n"
    text = site.file.read_text().replace("pools:\n", more)
    file.write_text(f"{text}\n- {{name: issued, roles: [worker], node_names: 'x-*', jwt: {jwt}}}\n")
    mark = site.server.audit_position()
    ran = applier.run("lock", "-f", file, name, expect=1)
    assert ran.stderr.startswith(f"vaultpki: {said.format(file=file)}") and ran.stderr.count("\n") == 1, ran.stderr
    assert site.server.writes(mark) == []


@pytest.mark.conformance
@pytest.mark.parametrize(("node", "pool"), NODES)
def test_a_lock_cut_anywhere_goes_on(site: Site, node: str, pool: str | None) -> None:
    """At every write: `apply` knows the AppRole as ours, whether it comes in between or not, and a rerun is all."""
    at = 0
    while True:
        stolen = equipped(site, node, pool)
        cluster, vault = site.cluster, site.client()
        work = lambda: enrol.lock(site.cluster, site.client("locker"), node, wait=0)  # noqa: E731
        cut = died(work, at, methods=METHODS)
        # Raises where the AppRole is taken for another's.
        apply.look(cluster, vault, ServerFacts((), None))
        if at % 2:
            apply.apply(cluster, vault, ServerFacts((), None), first=None, progress=lambda change: None)
        if at % 3 == 0 and cut and node == "worker-1":
            # A node that has given up all it had is not enrolled beside an end that was cut off.
            unfinished = identity_end.unfinished(cluster, vault) | set(
                enrolled_nodes.accessors(site, node, stolen.kind)
            )
            who = enrol.holder(cluster, node, pool)
            if unfinished:
                with pytest.raises(SpecError, match="pass --replace"):
                    enrol.enroll(cluster, vault, node, who, enrol.place(cluster, vault), wrap_ttl=60)
        if cut:
            enrol.lock(cluster, vault, node, wait=0)
        has_ended(stolen)
        assert apply.look(cluster, vault, ServerFacts((), None))[1].changes == (), at
        if not cut:
            break
        at += 1
    print(f"cut at {at} points")
    assert at > 15


@pytest.mark.conformance
def test_a_replacement_cut_anywhere_goes_on(site: Site, tmp_path: Path) -> None:
    at = 0
    with enrolled_nodes.variables(site.environment()):
        while True:
            stolen = equipped(site, "worker-1", None)
            cluster, vault, file = site.cluster, site.client(), tmp_path / f"{at}.json"

            def work() -> None:
                # In the process that dies, which need not wait for logins in flight.
                live_credentials.time.sleep = lambda seconds: None  # type: ignore[attr-defined]
                command("enroll", "-f", site.file, "worker-1", "--replace", "-o", file)()  # noqa: B023

            cut = died(work, at, files=r"\.json$", methods=("POST", "DELETE"))
            apply.look(cluster, vault, ServerFacts((), None))
            if cut:
                assert not died(work, NEVER)
            assert len(enrolled_nodes.accessors(site, "worker-1", "listed")) == 1, at
            assert stolen.lets_in() == stolen.lets_in(role_id_of(stolen)) == [], at
            assert apply.look(cluster, vault, ServerFacts((), None))[1].changes == (), at
            if at % 8 == 0:
                with enrolled_nodes.variables({}):
                    enrolled_nodes.join(Seat("worker-1", tmp_path / str(at)), file)
            if not cut:
                break
            at += 1
    assert at > 20


def test_it_wins_against_a_thief_at_work(site: Site, applier: Desk) -> None:
    """Who logs in and mints all through it, four at a time, has nothing in the end."""
    stolen = equipped(site, "w-busy", "autoscaled")
    over, turns = threading.Event(), threading.Semaphore(0)

    def work() -> tuple[list[str], list[str]]:
        tokens, secret_ids = list(stolen.tokens[:1]), [stolen.secret_ids["its own"]]
        while not over.is_set():
            turns.release()
            token = enrolled_nodes.login(site, "pooled", stolen.role_id, secret_ids[-1])
            if token is not None:
                tokens.append(token)
            try:
                secret_ids.append(enrolled_nodes.minted(site, "pooled", "w-busy", tokens[-1]))
            except (KeyError, TypeError):
                time.sleep(0.02)
        return tokens, secret_ids

    with ThreadPoolExecutor(4) as threads:
        busy = [threads.submit(work) for _ in range(4)]
        try:
            # However slow the machine is, the thief has much by then.
            assert all(turns.acquire(timeout=30) for _ in range(32))
            applier.run("lock", "-f", site.file, "w-busy")
        finally:
            over.set()
        got = [each.result() for each in busy]
    tokens = {token for each in got for token in each[0]}
    secret_ids = {secret_id for each in got for secret_id in each[1]}
    assert len(tokens) > 20 and len(secret_ids) > 20
    has_ended(stolen)
    assert not any(enrolled_nodes.works(site, token) for token in tokens)
    new = role_id_of(stolen)
    assert not any(enrolled_nodes.login(site, "pooled", new, secret_id) for secret_id in secret_ids)


@pytest.mark.conformance
def test_a_destruction_cut_off_within_the_server(site: Site) -> None:
    """A client's end is that of what the server does for it: a secret id may stay that has no accessor any more."""
    stolen = equipped(site, "w-cut-off", "autoscaled")
    role = f"auth/{site.prefix}/pooled/role/w-cut-off"
    url, context = urlsplit(site.server.address), ssl.create_default_context(cafile=site.server.ca_file)
    made = [site.server.api("POST", f"{role}/secret-id").data for _ in range(150)]
    for number, each in enumerate(made):
        body = json.dumps({"secret_id_accessor": each["secret_id_accessor"]})
        connection = http.client.HTTPSConnection(str(url.hostname), url.port, context=context, timeout=30)
        headers = {"X-Vault-Token": site.server.token}
        connection.request("POST", f"/v1/{role}/secret-id-accessor/destroy", body, headers)
        time.sleep(number / len(made) * 0.003)
        connection.close()
    lookup = f"{role}/secret-id-accessor/lookup"
    time.sleep(0.5)
    left = enrolled_nodes.accessors(site, "w-cut-off", "pooled")
    lost = [a for a in left if site.server.api("POST", lookup, {"secret_id_accessor": a}).status != 200]
    print(f"{len(left)} of {len(made)} stayed, {len(lost)} of them without an accessor")
    enrol.lock(site.cluster, site.client("locker"), "w-cut-off", wait=0)
    has_ended(stolen)
    new = role_id_of(stolen)
    assert not any(enrolled_nodes.login(site, "pooled", new, each["secret_id"]) for each in made)


def test_two_at_once_both_end_well(site: Site) -> None:
    stolen = equipped(site, "worker-1", None)
    with ThreadPoolExecutor(2) as threads:
        lock = lambda _: enrol.lock(site.cluster, site.client("locker"), "worker-1", wait=1)  # noqa: E731
        list(threads.map(lock, range(2)))
    has_ended(stolen)
    nothing_to_change(site)


@pytest.mark.conformance
def test_a_node_taken_off_the_list_after_a_cut_lock_is_ended_whole(server: Server, tmp_path: Path) -> None:
    """`apply` has mended the records in between, so that only the note tells whose tokens must end."""
    site = enrolled_nodes.site(server, tmp_path, f"k{os.urandom(4).hex()}")
    stolen = equipped(site, "worker-1", None)
    vault, cluster = site.client(), site.cluster
    work = lambda: enrol.lock(cluster, site.client("locker"), "worker-1", wait=0)  # noqa: E731
    # Through the right to do it, the note, and the new role id.
    assert died(work, 6, methods=("POST",))
    assert role_id_of(stolen) != stolen.role_id and enrolled_nodes.works(site, stolen.tokens[0])
    apply.apply(cluster, vault, ServerFacts((), None), first=None, progress=lambda change: None)
    assert enrolled_nodes.works(site, stolen.tokens[0])
    site.write("".join(line for line in enrolled_nodes.SPEC.splitlines(keepends=True) if "worker-1" not in line))
    apply.apply(site.cluster, vault, ServerFacts((), None), first=None, progress=lambda change: None)
    assert stolen.lets_in() == [] and enrolled_nodes.entity(site, "listed", stolen.role_id) is None
    assert server.api("GET", f"{site.prefix}/config/metadata/leaving/worker-1").status == 404


def test_a_cluster_is_destroyed_after_a_cut_lock(server: Server, tmp_path: Path) -> None:
    site = enrolled_nodes.site(server, tmp_path, f"k{os.urandom(4).hex()}")
    stolen = equipped(site, "worker-1", None)
    accessor = site.read("sys/auth")[f"{site.prefix}/listed/"]["accessor"]
    work = lambda: enrol.lock(site.cluster, site.client("locker"), "worker-1", wait=0)  # noqa: E731
    assert died(work, 6, methods=("POST",))
    vault = site.client()
    apply.apply(site.cluster, vault, ServerFacts((), None), first=None, progress=lambda change: None)
    destroy.destroy(site.cluster, vault, ServerFacts((), None), progress=lambda path: None)
    body = {"alias_name": stolen.role_id, "alias_mount_accessor": accessor}
    assert server.api("POST", "identity/lookup/entity", body).status == 204


def test_what_a_thief_does_to_the_node_itself(site: Site, applier: Desk, tmp_path: Path) -> None:
    """It can destroy a secret id that it knows, and then the node needs a join: noticed at once, and healed by one."""
    enrolled_nodes.vacate(site, "w-hit")
    seat, stolen = joined(applier, "w-hit", "autoscaled", tmp_path / "node")
    destroy = f"auth/{site.prefix}/pooled/role/w-hit/secret-id/destroy"
    body = {"secret_id": stolen.secret_ids["its own"]}
    assert site.server.api("POST", destroy, body, token=stolen.tokens[0]).status == 204
    seat.age()
    (seat.pki / "kubelet.crt").unlink()
    assert "join with a new join file" in vaultpki("agent", "-c", seat.config, "--once", expect=1).stderr
    enrolled_nodes.join(seat, applier.join_file("w-hit", tmp_path / "new.json", pool="autoscaled", replace=True))
    assert stolen.lets_in() == []
    # It keeps nothing wrapped for longer than a minute, and mints nothing that is not wrapped.
    token = str(enrolled_nodes.login(site, "pooled", role_id_of(stolen), (seat.state / "secret-id").read_text()))
    mint = f"auth/{site.prefix}/pooled/role/w-hit/secret-id"
    assert site.server.api("POST", mint, {}, token=token).status == 403
    with pytest.raises((KeyError, TypeError)):
        enrolled_nodes.wrapped(site, mint, token=token, ttl="61s")
    assert enrolled_nodes.wrapped(site, mint, token=token, ttl="60s")


def test_more_secret_ids_than_can_be_listed_are_a_number_and_no_failure(site: Site) -> None:
    def flooded(guest: Guest) -> None:
        while True:
            guest.request()
            guest.answer(200, {"data": {"keys": [f"{number:036d}" for number in range(30_000)]}})

    with hostile_server.serving(flooded) as other:
        vault = Vault(Settings((other.address,), token="x"))
        assert live_credentials.count(site.cluster, vault, Identity("pooled", "w-1")) == live_credentials.FLOOD


def test_nodes_of_one_who_may_not_look(site: Site, applier: Desk) -> None:
    paths = {
        f"auth/{site.prefix}/pooled/role": {"capabilities": ["list"]},
        f"{site.prefix}/config/data/reports/*": {"capabilities": ["read"]},
        f"{site.prefix}/config/metadata/reports/jwt": {"capabilities": ["list"]},
        f"{site.prefix}/+/certs/revoked": {"capabilities": ["list"]},
    }
    policy = {"policy": json.dumps({"path": paths})}
    assert site.server.api("POST", "sys/policies/acl/watcher", policy).status == 204
    desk = Desk(site, enrolled_nodes.token(site.server, "watcher"))
    told = json.loads(desk.run("nodes", "-f", site.file, "--json").stdout)["nodes"]
    assert told and all(entry["credentials"] is None for entry in told)
    lines = desk.run("nodes", "-f", site.file).stdout.splitlines()
    rows = [line.split() for line in lines if line.startswith(tuple(f"{entry['node']} " for entry in told))]
    assert len(rows) == len(told) and {row[-1] for row in rows} == {"-"}


@pytest.mark.conformance
def test_a_thousand_nodes_are_counted_in_parallel(server: Server, tmp_path: Path) -> None:
    """And replaced together, with one wait for all of them."""
    site = enrolled_nodes.site(server, tmp_path, f"k{os.urandom(4).hex()}")
    names = [f"w-{number}" for number in range(1000)]
    desk = Desk(site, site.token())
    desk.enroll("-", "--pool", "autoscaled", "-o", tmp_path / "joins", names="\n".join(names))
    began = time.monotonic()
    told = json.loads(desk.run("nodes", "-f", site.file, "--json").stdout)["nodes"]
    counted = time.monotonic() - began
    assert [entry["credentials"] for entry in told if entry["pool"]] == [1] * 1000
    began = time.monotonic()
    ran = desk.enroll(
        *("-", "--pool", "autoscaled", "--replace", "-o", tmp_path / "joins"), names="\n".join(names), timeout=300
    )
    assert ran.stdout == f"wrote 1000 join files to {tmp_path / 'joins'}\n"
    print(f"1000 nodes counted in {counted:.1f} s, replaced in {time.monotonic() - began:.1f} s")
    told = json.loads(desk.run("nodes", "-f", site.file, "--json").stdout)["nodes"]
    assert [entry["credentials"] for entry in told if entry["pool"]] == [1] * 1000
