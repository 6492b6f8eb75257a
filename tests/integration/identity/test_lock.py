"""A stolen credential: `lock` and `enroll --replace` end every one of a node at once, and the node goes on anew."""

from __future__ import annotations

import http.client
import json
import re
import ssl
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from helpers.faults import hostile_server
from helpers.faults.hostile_server import Guest, Hostile
from helpers.faults.kill_points import NEVER, command, died
from helpers.node import enrolled_nodes
from helpers.node.enrolled_nodes import Enroller
from helpers.vault.applied_cluster import AppliedCluster, NodeFolder, vaultpki
from helpers.vault.cluster_factory import ClusterFactory
from helpers.vault.jwt_issuer import Issuer
from helpers.vault.servers import Server
from vaultpki.config.agent import load_agent
from vaultpki.errors import Denied, StateConflict
from vaultpki.identity import credentials, ending, enrol
from vaultpki.identity.credentials import Identity
from vaultpki.provision import destroy
from vaultpki.records.server_facts import ServerFacts
from vaultpki.vault import Settings, Vault

METHODS = ("POST", "DELETE")
TIME = r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ"
NODES = [("worker-1", None), ("w-1", "autoscaled")]
# A listed one everywhere, a pooled one too in conformance.
ONE_HERE = [pytest.param(*each, marks=[pytest.mark.conformance] if each[1] else []) for each in NODES]


@dataclass(frozen=True)
class Stolen:
    """What somebody has who read a node's disk, and all that its rights make of that."""

    cluster: AppliedCluster
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
            answer = self.cluster.server.api("POST", "sys/wrapping/unwrap", token=token)
            if answer.status == 200:
                secret_ids[what] = answer.data["secret_id"]
        logins = {
            what: enrolled_nodes.login(self.cluster, self.kind, role_id or self.role_id, s)
            for what, s in secret_ids.items()
        }
        works = [what for what, token in logins.items() if token is not None]
        return works + [
            f"token {n}" for n, token in enumerate(self.tokens) if enrolled_nodes.works(self.cluster, token)
        ]


def steal(cluster: AppliedCluster, node: str, kind: str, role_id: str, secret_id: str) -> Stolen:
    token = str(enrolled_nodes.login(cluster, kind, role_id, secret_id))
    minted = enrolled_nodes.minted(cluster, kind, node, token)
    mint = f"auth/{cluster.prefix}/{kind}/role/{node}/secret-id"
    wrapped = {
        "one that was minted and is still wrapped": enrolled_nodes.wrapped(cluster, mint, token=token),
        "an open join file": enrolled_nodes.wrapped(cluster, mint, ttl="30m"),
    }
    tokens = (token, str(enrolled_nodes.login(cluster, kind, role_id, minted)))
    return Stolen(cluster, kind, node, role_id, {"its own": secret_id, "one minted": minted}, tokens, wrapped)


def joined(enroller: Enroller, node: str, pool: str | None, folder: Path) -> tuple[NodeFolder, Stolen]:
    """A node that takes part, and a thief of all it has."""
    node_folder = NodeFolder(node, folder)
    folder.mkdir()
    enrolled_nodes.join(node_folder, enroller.join_file(node, folder / "join.json", pool=pool))
    role_id = str(load_agent(node_folder.config).auth.role_id)
    kind = "pooled" if pool else "listed"
    return node_folder, steal(enroller.cluster, node, kind, role_id, (node_folder.state / "secret-id").read_text())


def equipped(cluster: AppliedCluster, node: str, pool: str | None) -> Stolen:
    """The same, without an agent: by the functions alone."""
    vault, model = cluster.client(), cluster.model
    who, where = enrol.holder(model, node, pool), enrol.place(model, vault)
    join = enrol.enroll(model, vault, node, who, where, wrap_ttl=300, replace=True, wait=0)
    secret_id = cluster.server.api("POST", "sys/wrapping/unwrap", token=join.wrap_token).data["secret_id"]
    return steal(cluster, node, "pooled" if pool else "listed", join.role_id, secret_id)


def role_id_of(stolen: Stolen) -> str:
    path = f"auth/{stolen.cluster.prefix}/{stolen.kind}/role/{stolen.node}/role-id"
    return str(stolen.cluster.read(path)["role_id"])


def has_ended(stolen: Stolen) -> None:
    cluster = stolen.cluster
    new = role_id_of(stolen)
    assert new != stolen.role_id
    assert stolen.lets_in() == []
    assert stolen.lets_in(new) == []
    assert enrolled_nodes.entity(cluster, stolen.kind, stolen.role_id) is None
    assert enrolled_nodes.accessors(cluster, stolen.node, stolen.kind) == []
    note = cluster.server.api("GET", f"{cluster.prefix}/config/data/leaving/{stolen.node}")
    if stolen.kind == "pooled":
        assert note.status == 404
    else:
        # By which an applier of 0.2.0 knows the AppRole as ours.
        assert note.data["data"] == {"version": 1, "role_ids": [new], "ended": True}


def seen(cluster: AppliedCluster, node: str) -> tuple[str, list[str], int]:
    """The node in `nodes`, as the viewer sees it: its state, the reasons, and its live credentials."""
    ran = vaultpki("nodes", "-f", cluster.file, "--json", env=cluster.environment("viewer"), expect={0, 3})
    (row,) = [each for each in json.loads(ran.stdout)["nodes"] if each["node"] == node]
    if "locked" in row["reasons"]:
        assert re.fullmatch(rf"locked at {TIME} by token", row["message"]), row
        assert row["findings"][0]["command"].startswith(f"vaultpki enroll {node} -f {cluster.file}")
    return row["state"], row["reasons"], row["credentials"]


def nothing_to_change(cluster: AppliedCluster) -> None:
    mark = cluster.server.audit_position()
    assert vaultpki("plan", "-f", cluster.file, env=cluster.environment("viewer")).stdout.endswith(
        "\nNothing to change.\n"
    )
    cluster.apply()
    writes = [path for _, path in cluster.server.writes(mark)]
    assert writes == [], writes


@pytest.mark.parametrize(("node", "pool"), NODES)
def test_lock_ends_all_that_was_stolen_and_the_node_comes_back(
    cluster: AppliedCluster, applier: Enroller, tmp_path: Path, node: str, pool: str | None
) -> None:
    enrolled_nodes.vacate(cluster, node)
    node_folder, stolen = joined(applier, node, pool, tmp_path / "node")
    other = equipped(cluster, "w-bystander", "autoscaled")
    role = f"auth/{cluster.prefix}/{stolen.kind}/role/{node}"
    before, held = cluster.read(role), sorted(path.name for path in node_folder.pki.iterdir())
    began = time.monotonic()
    ran = applier.run("lock", "-f", cluster.file, node)
    took = time.monotonic() - began
    assert ran.stderr == (
        "waiting 10 seconds until logins that are under way have ended; at most 2 minutes if the server is slow\n"
    )
    assert ran.stdout == (
        f"{node} is locked: all its credentials have ended; `vaultpki enroll` gives it a new one. Its certificates end "
        "by themselves, at their not_after\n"
    )
    print(f"locked in {took:.1f} s")
    # In full, with the ten seconds to its second look.
    assert 10 < took < 30
    has_ended(stolen)
    assert len(other.lets_in()) == 6 and cluster.read(role) == before
    nothing_to_change(cluster)
    # Its agent says what it needs, and its files stay.
    (node_folder.pki / "kubelet.crt").unlink()
    node_folder.age()
    said = vaultpki("agent", "-c", node_folder.config, "--once", expect=1).stderr
    assert "rejects this node's credential; join with a new join file" in said
    status = json.loads(vaultpki("status", "-c", node_folder.config, "--json", expect=3).stdout)
    assert status["agent"]["state"] == "needs-join"
    assert sorted({path.name for path in node_folder.pki.iterdir()} | {"kubelet.crt"}) == held
    again = tmp_path / "again.json"
    words: list[str | Path] = [node, *(["--pool", pool] if pool else []), "-o", again]
    assert seen(cluster, node) == ("locked", ["locked"], 0)
    refused = applier.enroll(*words, expect=1).stderr
    assert re.fullmatch(
        rf"vaultpki: {node} was locked at {TIME} by token, and got no join file; pass --yes to end the lock\n", refused
    )
    assert not again.exists() and enrolled_nodes.accessors(cluster, node, stolen.kind) == []
    applier.enroll(*words, "--yes")
    # Its old report and a file that nobody has used make no node ok.
    assert seen(cluster, node) == ("needs-join", ["not-joined-again"], 1)
    enrolled_nodes.join(node_folder, again)
    assert seen(cluster, node) == ("ok", [], 1)
    assert json.loads(vaultpki("status", "-c", node_folder.config, "--json").stdout)["agent"]["state"] == "ok"
    assert len(enrolled_nodes.accessors(cluster, node, stolen.kind)) == 1
    assert stolen.lets_in() == stolen.lets_in(role_id_of(stolen)) == []
    nothing_to_change(cluster)


@pytest.mark.parametrize(("node", "pool"), ONE_HERE)
def test_a_new_enrolment_ends_all_others(
    cluster: AppliedCluster, applier: Enroller, tmp_path: Path, node: str, pool: str | None
) -> None:
    enrolled_nodes.vacate(cluster, node)
    stolen = equipped(cluster, node, pool)
    number = len(enrolled_nodes.accessors(cluster, node, stolen.kind))
    mark = cluster.server.audit_position()
    arguments: list[str | Path] = [node, *(["--pool", pool] if pool else []), "-o", tmp_path / "new.json"]
    said = applier.enroll(*arguments, expect=1).stderr
    assert said == (
        f"vaultpki: {node} has {number} live credentials (its agent's, an unused join file's or a stolen one). Pass "
        "--replace to end them and to enrol the node anew, as the applier may\n"
    )
    assert cluster.server.writes(mark) == [] and not (tmp_path / "new.json").exists()
    ran = applier.enroll(*arguments, "--replace", "--json", "--with-spec")
    assert ran.stderr.startswith("waiting 10 seconds until logins that are under way have ended;")
    assert json.loads(ran.stdout) == {"node": node, "file": str(tmp_path / "new.json"), "seconds": 1800}
    assert (tmp_path / cluster.file.name).read_bytes() == cluster.file.read_bytes()
    assert len(enrolled_nodes.accessors(cluster, node, stolen.kind)) == 1
    assert stolen.lets_in() == stolen.lets_in(role_id_of(stolen)) == []
    nothing_to_change(cluster)
    enrolled_nodes.join(NodeFolder(node, tmp_path / "node"), tmp_path / "new.json")
    assert len(enrolled_nodes.accessors(cluster, node, stolen.kind)) == 1


@pytest.mark.on_node
def test_one_who_may_not_end_them_is_told_who_may(cluster: AppliedCluster, enroller: Enroller, tmp_path: Path) -> None:
    equipped(cluster, "w-kept", "autoscaled")
    arguments = ("w-kept", "--pool", "autoscaled", "-o", tmp_path / "join.json")
    # With the default policy, which lets a token ask what it may do, and without.
    made = cluster.server.api("POST", "auth/token/create", {"policies": [f"{cluster.prefix}/enroller"]})
    for someone in (enroller, Enroller(cluster, made.body["auth"]["client_token"])):
        mark = cluster.server.audit_position()
        assert "w-kept has 4 live credentials" in someone.enroll(*arguments, expect=1).stderr
        for said in (
            someone.enroll(*arguments, "--replace", expect=1).stderr,
            someone.run("lock", "-f", cluster.file, "w-kept", expect=1).stderr,
        ):
            assert said == (
                "vaultpki: this token may not end the credentials of w-kept, and none was ended; `vaultpki lock` "
                f"needs the policy that `vaultpki policy -f {cluster.file} locker` prints, and `vaultpki enroll "
                "--replace` the applier's\n"
            )
        changed = [path for _, path in cluster.server.writes(mark) if not path.startswith("sys/")]
        assert changed == [], changed
    assert len(enrolled_nodes.accessors(cluster, "w-kept", "pooled")) == 4 and not (tmp_path / "join.json").exists()
    # A node that has nothing to end is theirs to enrol, also where its AppRole is there.
    enrolled_nodes.vacate(cluster, "w-kept")
    enroller.enroll(*arguments)


@pytest.mark.on_node
def test_an_enroller_of_before_who_may_not_look_is_told_so(cluster: AppliedCluster, tmp_path: Path) -> None:
    path = f"sys/policies/acl/{cluster.prefix}/enroller"
    rules = json.loads(cluster.read(path)["policy"])
    rules["path"][f"auth/{cluster.prefix}/pooled/role/+/secret-id"]["capabilities"] = ["update"]
    rules["path"] = {path: rule for path, rule in rules["path"].items() if "/locked/" not in path}
    assert cluster.server.api("POST", "sys/policies/acl/old-enroller", {"policy": json.dumps(rules)}).status == 204
    enroller = Enroller(cluster, enrolled_nodes.token(cluster.server, "old-enroller"))
    ran = enroller.enroll("w-old", "--pool", "autoscaled", "-o", tmp_path / "join.json")
    assert ran.stderr == (
        "this token may not see whether nodes were locked; `vaultpki apply` gives enrollers that right\n"
    )
    said = enroller.enroll("w-old", "--pool", "autoscaled", "-o", tmp_path / "again.json", expect=1).stderr
    assert said == (
        "vaultpki: w-old may have a live credential, and this token may not look; `vaultpki apply` gives enrollers "
        "that right, or take an applier's token\n"
    )


@pytest.mark.on_node
def test_what_cannot_be_locked(cluster: AppliedCluster, applier: Enroller, tmp_path: Path) -> None:
    keys = tmp_path / "issuer.pem"
    keys.write_text(Issuer().public_pem)
    jwt = f"{{issuer: https://issuer.example, audiences: [vaultpki], node_claim: node, public_keys_file: {keys}}}"
    file = cluster.folder / f"{tmp_path.name}.yaml"
    more = "- {name: worker-9, roles: [worker], addresses: [10.0.0.29]}\npools:\n"
    text = cluster.file.read_text().replace("pools:\n", more)
    file.write_text(f"{text}\n- {{name: issued, roles: [worker], node_names: 'x-*', jwt: {jwt}}}\n")
    mark = cluster.server.audit_position()
    nothing = "has no identity in this Vault, so there is nothing to lock;"
    for name, said in (
        ("w-99", f"w-99 {nothing} `vaultpki nodes -f {file}` lists"),
        ("stranger", f"stranger {nothing}"),
        ("w-1/../w-2", "'w-1/../w-2' is not a node name"),
        ("x-7", "x-7 has never logged in, so Vault has no identity of it that could be disabled: block it at https://"),
        ("worker-9", f"worker-9 has no AppRole yet, so there is nothing to lock; run `vaultpki apply -f {file}`"),
    ):
        ran = applier.run("lock", "-f", file, name, expect=1)
        assert ran.stderr.startswith(f"vaultpki: {said}") and ran.stderr.count("\n") == 1, ran.stderr
    assert cluster.server.writes(mark) == []


@pytest.mark.conformance
@pytest.mark.parametrize(("node", "pool"), NODES)
def test_a_lock_cut_anywhere_goes_on(cluster: AppliedCluster, node: str, pool: str | None) -> None:
    """At every write: `apply` knows the AppRole as ours, whether it comes in between or not, and a rerun is all."""
    at = 0
    while True:
        stolen = equipped(cluster, node, pool)
        model, vault = cluster.model, cluster.client()
        work = lambda: enrol.lock(cluster.model, cluster.client("locker"), node, wait=0)  # noqa: E731
        cut = died(work, at, methods=METHODS)
        # Raises where the AppRole is taken for another's.
        cluster.left_to_apply()
        if at % 2:
            cluster.applied_here()
        if at % 3 == 0 and cut and node == "worker-1":
            # A node that has given up all it had is not enrolled beside an end that was interrupted.
            unfinished = node in ending.noted(model, vault) and ending.is_unfinished(model, vault, node)
            unfinished = unfinished or bool(enrolled_nodes.accessors(cluster, node, stolen.kind))
            who = enrol.holder(model, node, pool)
            if unfinished:
                with pytest.raises(StateConflict, match=r"(?i)pass --replace"):
                    enrol.enroll(model, vault, node, who, enrol.place(model, vault), wrap_ttl=60)
        if cut:
            enrol.lock(model, vault, node, wait=0)
        has_ended(stolen)
        assert cluster.left_to_apply() == (), at
        if not cut:
            break
        at += 1
    print(f"cut at {at} points")
    assert at > 15


@pytest.mark.conformance
def test_a_replacement_cut_anywhere_goes_on(cluster: AppliedCluster, tmp_path: Path) -> None:
    at = 0
    with enrolled_nodes.variables(cluster.environment()):
        while True:
            stolen = equipped(cluster, "worker-1", None)
            file = tmp_path / f"{at}.json"

            def work() -> None:
                # In the process that dies, which need not wait for logins in flight.
                credentials.time.sleep = lambda seconds: None  # type: ignore[attr-defined]
                command("enroll", "-f", cluster.file, "worker-1", "--replace", "--yes", "-o", file)()  # noqa: B023

            cut = died(work, at, files=r"\.json$", methods=("POST", "DELETE"))
            cluster.left_to_apply()
            if cut:
                assert not died(work, NEVER)
            assert len(enrolled_nodes.accessors(cluster, "worker-1", "listed")) == 1, at
            assert stolen.lets_in() == stolen.lets_in(role_id_of(stolen)) == [], at
            assert cluster.left_to_apply() == (), at
            if at % 8 == 0:
                with enrolled_nodes.variables({}):
                    enrolled_nodes.join(NodeFolder("worker-1", tmp_path / str(at)), file)
            if not cut:
                break
            at += 1
    assert at > 20


def test_it_wins_against_a_thief_at_work(cluster: AppliedCluster, applier: Enroller) -> None:
    """Who logs in and mints all through it, four at a time, has nothing in the end."""
    stolen = equipped(cluster, "w-busy", "autoscaled")
    over, turns = threading.Event(), threading.Semaphore(0)

    def work() -> tuple[list[str], list[str]]:
        tokens, secret_ids = list(stolen.tokens[:1]), [stolen.secret_ids["its own"]]
        while not over.is_set():
            turns.release()
            token = enrolled_nodes.login(cluster, "pooled", stolen.role_id, secret_ids[-1])
            if token is not None:
                tokens.append(token)
            try:
                secret_ids.append(enrolled_nodes.minted(cluster, "pooled", "w-busy", tokens[-1]))
            except (KeyError, TypeError):
                time.sleep(0.1)
        return tokens, secret_ids

    with ThreadPoolExecutor(4) as threads:
        busy = [threads.submit(work) for _ in range(4)]
        try:
            # However slow the machine is, the thief has much by then.
            assert all(turns.acquire(timeout=30) for _ in range(32))
            applier.run("lock", "-f", cluster.file, "w-busy")
        finally:
            over.set()
        got = [each.result() for each in busy]
    tokens = {token for each in got for token in each[0]}
    secret_ids = {secret_id for each in got for secret_id in each[1]}
    assert len(tokens) > 20 and len(secret_ids) > 20
    has_ended(stolen)
    assert not any(enrolled_nodes.works(cluster, token) for token in tokens)
    new = role_id_of(stolen)
    assert not any(enrolled_nodes.login(cluster, "pooled", new, secret_id) for secret_id in secret_ids)


@pytest.mark.conformance
def test_a_destruction_cut_off_within_the_server(cluster: AppliedCluster) -> None:
    """A client's end is that of what the server does for it: a secret id may stay that has no accessor any more."""
    stolen = equipped(cluster, "w-cut-off", "autoscaled")
    role = f"auth/{cluster.prefix}/pooled/role/w-cut-off"
    url, context = urlsplit(cluster.server.address), ssl.create_default_context(cafile=cluster.server.ca_file)
    made = [cluster.server.api("POST", f"{role}/secret-id").data for _ in range(150)]
    for number, each in enumerate(made):
        body = json.dumps({"secret_id_accessor": each["secret_id_accessor"]})
        connection = http.client.HTTPSConnection(str(url.hostname), url.port, context=context, timeout=30)
        headers = {"X-Vault-Token": cluster.server.token}
        connection.request("POST", f"/v1/{role}/secret-id-accessor/destroy", body, headers)
        time.sleep(number / len(made) * 0.003)
        connection.close()
    lookup = f"{role}/secret-id-accessor/lookup"
    time.sleep(0.5)
    left = enrolled_nodes.accessors(cluster, "w-cut-off", "pooled")
    lost = [a for a in left if cluster.server.api("POST", lookup, {"secret_id_accessor": a}).status != 200]
    print(f"{len(left)} of {len(made)} stayed, {len(lost)} of them without an accessor")
    enrol.lock(cluster.model, cluster.client("locker"), "w-cut-off", wait=0)
    has_ended(stolen)
    new = role_id_of(stolen)
    assert not any(enrolled_nodes.login(cluster, "pooled", new, each["secret_id"]) for each in made)


def test_two_at_once_both_end_well(cluster: AppliedCluster) -> None:
    stolen = equipped(cluster, "worker-1", None)
    with ThreadPoolExecutor(2) as threads:
        lock = lambda _: enrol.lock(cluster.model, cluster.client("locker"), "worker-1", wait=1)  # noqa: E731
        list(threads.map(lock, range(2)))
    has_ended(stolen)
    nothing_to_change(cluster)


@pytest.mark.on_node
def test_answers_about_secret_ids_that_are_no_failure(cluster: AppliedCluster) -> None:
    """Vault answers 403 where one was destroyed in this moment, as for a token that is too weak, which is an error."""
    node = Identity("listed", "worker-1")

    def answering(status: int, body: object) -> AbstractContextManager[Hostile]:
        def answer(guest: Guest) -> None:
            while True:
                guest.request()
                guest.answer(status, body)

        return hostile_server.serving(answer)

    def asked(other: Hostile) -> Vault:
        return Vault(Settings((other.address,), token="x"))

    with answering(403, {"errors": ["invalid secret id accessor"]}) as other:
        credentials.destroy(cluster.model, asked(other), node, ["first", "second"])
        assert len(other.guests) >= 1
    with (
        answering(403, {"errors": ["1 error occurred:\n\t* permission denied\n\n"]}) as other,
        pytest.raises(Denied),
    ):
        credentials.destroy(cluster.model, asked(other), node, ["first"])
    # More than can be listed are a number.
    flood = {"data": {"keys": [f"{number:036d}" for number in range(30_000)]}}
    with answering(200, flood) as other:
        assert credentials.count(cluster.model, asked(other), Identity("pooled", "w-1")) == credentials.FLOOD


@pytest.mark.conformance
def test_a_node_taken_off_the_list_after_a_cut_lock_is_ended_whole(server: Server, clusters: ClusterFactory) -> None:
    """`apply` has mended the records in between, so that only the note tells whose tokens must end."""
    cluster = clusters.applied(enrolled_nodes.SPEC)
    stolen = equipped(cluster, "worker-1", None)
    model = cluster.model
    work = lambda: enrol.lock(model, cluster.client("locker"), "worker-1", wait=0)  # noqa: E731
    # Through the right to do it, the note, and the new role id.
    assert died(work, 6, methods=("POST",))
    assert role_id_of(stolen) != stolen.role_id and enrolled_nodes.works(cluster, stolen.tokens[0])
    cluster.applied_here()
    assert enrolled_nodes.works(cluster, stolen.tokens[0])
    cluster.write("".join(line for line in enrolled_nodes.SPEC.splitlines(keepends=True) if "worker-1" not in line))
    cluster.applied_here()
    assert stolen.lets_in() == [] and enrolled_nodes.entity(cluster, "listed", stolen.role_id) is None
    assert server.api("GET", f"{cluster.prefix}/config/metadata/leaving/worker-1").status == 404


@pytest.mark.on_node
def test_a_cluster_is_destroyed_after_a_cut_lock(server: Server, clusters: ClusterFactory) -> None:
    cluster = clusters.applied(enrolled_nodes.SPEC)
    stolen = equipped(cluster, "worker-1", None)
    accessor = cluster.read("sys/auth")[f"{cluster.prefix}/listed/"]["accessor"]
    work = lambda: enrol.lock(cluster.model, cluster.client("locker"), "worker-1", wait=0)  # noqa: E731
    assert died(work, 6, methods=("POST",))
    vault = cluster.client()
    cluster.applied_here()
    destroy.destroy(cluster.model, vault, ServerFacts((), None), progress=lambda path: None)
    body = {"alias_name": stolen.role_id, "alias_mount_accessor": accessor}
    assert server.api("POST", "identity/lookup/entity", body).status == 204


def test_what_a_thief_does_to_the_node_itself(cluster: AppliedCluster, applier: Enroller, tmp_path: Path) -> None:
    """It can destroy a secret id that it knows, and then the node needs a join: noticed at once, and healed by one."""
    enrolled_nodes.vacate(cluster, "w-hit")
    node, stolen = joined(applier, "w-hit", "autoscaled", tmp_path / "node")
    destroy = f"auth/{cluster.prefix}/pooled/role/w-hit/secret-id/destroy"
    body = {"secret_id": stolen.secret_ids["its own"]}
    assert cluster.server.api("POST", destroy, body, token=stolen.tokens[0]).status == 204
    node.age()
    (node.pki / "kubelet.crt").unlink()
    assert "join with a new join file" in vaultpki("agent", "-c", node.config, "--once", expect=1).stderr
    enrolled_nodes.join(node, applier.join_file("w-hit", tmp_path / "new.json", pool="autoscaled", replace=True))
    assert stolen.lets_in() == []
    # It keeps nothing wrapped for longer than a minute, and mints nothing that is not wrapped.
    token = str(enrolled_nodes.login(cluster, "pooled", role_id_of(stolen), (node.state / "secret-id").read_text()))
    mint = f"auth/{cluster.prefix}/pooled/role/w-hit/secret-id"
    assert cluster.server.api("POST", mint, {}, token=token).status == 403
    with pytest.raises((KeyError, TypeError)):
        enrolled_nodes.wrapped(cluster, mint, token=token, ttl="61s")
    assert enrolled_nodes.wrapped(cluster, mint, token=token, ttl="60s")


@pytest.mark.on_node
def test_nodes_of_one_who_may_not_look(cluster: AppliedCluster, applier: Enroller) -> None:
    paths = {
        f"auth/{cluster.prefix}/pooled/role": {"capabilities": ["list"]},
        f"{cluster.prefix}/config/data/reports/*": {"capabilities": ["read"]},
        f"{cluster.prefix}/config/metadata/reports/jwt": {"capabilities": ["list"]},
        f"{cluster.prefix}/+/certs/revoked": {"capabilities": ["list"]},
    }
    policy = {"policy": json.dumps({"path": paths})}
    assert cluster.server.api("POST", "sys/policies/acl/watcher", policy).status == 204
    enroller = Enroller(cluster, enrolled_nodes.token(cluster.server, "watcher"))
    document = json.loads(enroller.run("nodes", "-f", cluster.file, "--json", expect=3).stdout)
    told = document["nodes"]
    # Where the CAs stand, who has locked nodes, and where an adoption stands.
    assert [each["name"] for each in document["findings"]] == ["not-read"] * 3
    assert told and all(entry["credentials"] is None for entry in told)
    lines = enroller.run("nodes", "-f", cluster.file, expect=3).stdout.splitlines()
    rows = [line.split() for line in lines if line.startswith(tuple(f"{entry['node']} " for entry in told))]
    assert len(rows) == len(told) and {row[-1] for row in rows} == {"-"}


@pytest.mark.conformance
def test_a_thousand_nodes_are_counted_in_parallel(clusters: ClusterFactory, tmp_path: Path) -> None:
    """And replaced together, with one wait for all of them."""
    cluster = clusters.applied(enrolled_nodes.SPEC)
    names = [f"w-{number}" for number in range(1000)]
    enroller = Enroller(cluster, cluster.token())
    enroller.enroll("-", "--pool", "autoscaled", "-o", tmp_path / "joins", names="\n".join(names))
    began = time.monotonic()
    told = json.loads(enroller.run("nodes", "-f", cluster.file, "--json").stdout)["nodes"]
    counted = time.monotonic() - began
    assert [entry["credentials"] for entry in told if entry["pool"]] == [1] * 1000
    began = time.monotonic()
    ran = enroller.enroll(
        *("-", "--pool", "autoscaled", "--replace", "-o", tmp_path / "joins"), names="\n".join(names), timeout=300
    )
    assert ran.stdout == f"wrote 1000 join files to {tmp_path / 'joins'}\n"
    print(f"1000 nodes counted in {counted:.1f} s, replaced in {time.monotonic() - began:.1f} s")
    told = json.loads(enroller.run("nodes", "-f", cluster.file, "--json").stdout)["nodes"]
    assert [entry["credentials"] for entry in told if entry["pool"]] == [1] * 1000
