"""The rotation of service-account keys with real agents: no token that lives is refused, whatever the way."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest
import trustme

from helpers.kube import answering_api
from helpers.node.agents_with_keys import OF_KUBEADM, SPEC, AgentsWithKeys, Plane
from helpers.vault.cluster_factory import ClusterFactory
from helpers.vault.plan_commands import Ran, fails, vaultpki
from vaultpki.agent import run
from vaultpki.ca import commands as ca_commands
from vaultpki.config.agent import load_agent
from vaultpki.errors import ChangedMeanwhile, SpecError, StateConflict
from vaultpki.identity import enrol
from vaultpki.key_rotation import commands
from vaultpki.live import trust
from vaultpki.model import KeyType, Subject
from vaultpki.pki import jwk, keys, x509
from vaultpki.procedures import ON_NODES
from vaultpki.provision.cluster_facts import KeyStepDone
from vaultpki.records.rotation import Method
from vaultpki.records.service_account import KEYS_RECORD, Departure, KeyState, NodeKeys, to_json

ONWARD = (KeyState.SWITCHED, KeyState.RETIRED, KeyState.DONE)


def allowed(made: AgentsWithKeys, name: str) -> set[int]:
    """The numbers for which the server signs a certificate of a node's key, of the first four."""
    cluster = made.cluster
    role = f"auth/{cluster.prefix}/listed/role/{name}"
    body = {
        "role_id": cluster.server.api("GET", f"{role}/role-id").data["role_id"],
        "secret_id": cluster.server.api("POST", f"{role}/secret-id").data["secret_id"],
    }
    answer = cluster.server.api("POST", f"auth/{cluster.prefix}/listed/login", body, token="")
    token = answer.body["auth"]["client_token"]
    found = set()
    for number in range(1, 5):
        common_name = f"sa:{name}:{number}"
        csr = keys.request(keys.generate_key(KeyType.EC_P256), Subject(common_name))
        parameters = {"csr": csr, "common_name": common_name, "exclude_cn_from_sans": "true", "format": "pem"}
        path = f"{cluster.prefix}/service-account/sign/service-account"
        if cluster.server.api("POST", path, parameters, token=token).status == 200:
            found.add(number)
    return found


def quiet_passes(made: AgentsWithKeys, expect: set[str] | None = None) -> None:
    """A pass of every agent that looks at a record which nobody should have written; these alone may fail."""
    for plane in made.planes.values():
        plane.node.age(1e7)
        options = run.PassOptions(ON_NODES, settle=False, share=0.0)
        failed = run.run(load_agent(plane.node.config), options, clock=made.now.timestamp()).failures
        assert expect is None or {*failed} <= expect, failed


def record_path(made: AgentsWithKeys) -> str:
    return f"{made.cluster.prefix}/config/data/{KEYS_RECORD}"


def put(made: AgentsWithKeys, value: object) -> None:
    assert made.cluster.server.api("POST", record_path(made), {"data": value}).status == 200


def comes_to(made: AgentsWithKeys, reached: Callable[[], object]) -> None:
    """Commands, passes and time, until it is so."""
    for _ in range(8):
        if reached():
            return
        made.passes()
        made.later(61)
        made.advance()
    assert reached(), made.status()


def led_back(made: AgentsWithKeys, *states: KeyState) -> None:
    for wanted in states:
        made.moved(wanted, back=True)
        made.passes()


def test_a_whole_rotation_of_two_and_the_way_back(clusters: ClusterFactory) -> None:
    with AgentsWithKeys.standing(clusters, "cp-1", "cp-2") as made:
        made.settled()
        assert made.record.state is KeyState.STEADY and made.admitted() == {"cp-1", "cp-2"}
        assert allowed(made, "cp-1") == {1}
        done = made.begin()
        assert done.record is not None and done.record.state is KeyState.PUBLISHED
        made.settled()
        assert allowed(made, "cp-1") == {1, 2}
        made.passes()
        for state in ONWARD:
            made.moved(state)
            made.settled()
            made.passes()
        assert {name: keys.numbers for name, keys in made.record.nodes.items()} == {"cp-1": (2,), "cp-2": (2,)}
        assert allowed(made, "cp-1") == {2}
        made.passes()
        for plane in made.planes.values():
            assert plane.union() == ["sa:cp-1:2", "sa:cp-2:2"]
            assert {path.name for path in plane.node.pki.glob("sa*.key")} == {"sa.key", "sa-2.key"}
        # Back as soon as it has begun, and nearly from the end. No number is given twice.
        for number, way, ways in (
            (3, (), (KeyState.STEADY,)),
            (4, ONWARD[:2], (KeyState.RETRUSTING, KeyState.RETURNING, KeyState.STEADY)),
        ):
            done = made.begin()
            assert done.record is not None and done.record.nodes["cp-1"].numbers == (2, number)
            made.passes()
            made.reach(*way)
            led_back(made, *ways)
            made.settled()
            assert made.planes["cp-1"].union() == ["sa:cp-1:2", "sa:cp-2:2"]
            assert allowed(made, "cp-2") == {2}


@pytest.mark.on_node
def test_two_join_an_empty_cluster_at_once_and_a_third_waits_for_their_first_start(clusters: ClusterFactory) -> None:
    """One command lets both start, with the certificates of both, in any order and without a restart."""
    with AgentsWithKeys.joined(clusters.applied(SPEC)) as made:
        # Nothing is to be taken in yet, and no rotation is what somebody wants who runs this.
        ran = made.cluster.ca("continue", expect=1)
        fails(ran, "no control-plane node has joined", f"`vaultpki enroll -f {made.cluster.file} NODE`")
        planes = {name: made.equip(name) for name in ("cp-1", "cp-2")}
        assert [each.node for each in made.status().joining] == [*planes]
        for plane in planes.values():
            assert not (plane.node.pki / "sa.key").exists() and not (plane.node.pki / "sa.pub").exists()
        env = made.cluster.environment("applier")
        for _ in range(2):
            said = vaultpki("ca", "continue", "-f", made.cluster.file, env=env).stdout
            assert "kube-apiserver may start, on: cp-1, cp-2 (`vaultpki agent --once` there" in said
        assert made.admitted() == {*planes}
        # The record alone starts nothing: each node has read it first.
        assert not any((plane.node.pki / "sa.key").exists() for plane in planes.values())
        planes["cp-3"] = made.equip("cp-3")
        for _ in range(2):
            done = made.advance()
            assert made.admitted() == {"cp-1", "cp-2"} and [each.node for each in done.joining] == ["cp-3"]
            made.passes()
            made.later(61)
        assert "Start kube-apiserver of cp-1, cp-2 first. Or if" in done.joining[0].reason and not done.restarts
        assert not (planes["cp-3"].node.pki / "sa.key").exists()
        # Those who may start take the key of the one who waits.
        assert {len(planes[name].union()) for name in ("cp-1", "cp-2")} == {3}
        done = made.advance()
        assert done.may_start == ("cp-1", "cp-2") and not done.to_read
        text = vaultpki("ca", "status", "-f", made.cluster.file, env=made.cluster.environment("viewer")).stdout
        assert "kube-apiserver may run, and is not seen there now, on: cp-1, cp-2." in text
        assert re.search(r"\n  rotation/service-account-keys  version \d+, written \S+Z by token\n", text), text
        for name in ("cp-2", "cp-1"):
            made.start(planes[name])
        assert not made.advance().waits and made.admitted() == {*planes}
        made.passes()
        made.start(planes["cp-3"])
        made.passes()
        assert {len(plane.accepts()) for plane in planes.values()} == {3}
        assert not made.status().may_start and not made.advance().waits


@pytest.mark.on_node
def test_a_node_joins_in_the_middle_and_one_leaves(clusters: ClusterFactory) -> None:
    with AgentsWithKeys.standing(clusters, "cp-1", "cp-2") as made:
        made.begin()
        made.passes()
        made.reach(KeyState.SWITCHED)
        # It waits until the others have restarted with its key.
        plane = made.equip("cp-3")
        assert made.advance().joining and "cp-3" not in made.admitted()
        comes_to(made, lambda: "cp-3" in made.admitted())
        made.pass_of(plane)
        made.start(plane)
        made.passes()
        # One leaves: its key counts as long as its tokens live.
        gone = made.planes.pop("cp-2")
        made.cluster.write("".join(line for line in SPEC.splitlines(keepends=True) if "cp-2" not in line))
        with pytest.raises(SpecError, match="cp-2 can log in"):
            made.advance()
        made.cluster.apply()
        done = made.advance()
        assert done.record is not None and {each.node for each in done.record.departed} == {"cp-2"}
        assert all(each.why is Departure.REMOVED and each.until is not None for each in done.record.departed)
        made.passes()
        assert gone.signs() in made.planes["cp-1"].accepts()
        made.reach(KeyState.RETIRED, KeyState.DONE)
        assert not made.record.departed
        made.settled()


@pytest.mark.on_node
def test_a_stolen_key_leaves_at_once_and_its_node_joins_with_another(clusters: ClusterFactory) -> None:
    with AgentsWithKeys.standing(clusters, "cp-1", "cp-2") as made:
        two = made.planes["cp-2"]
        with pytest.raises(StateConflict, match="vaultpki lock cp-2"):
            made.begin(emergency=True, stolen=["cp-2"])
        enrol.lock(made.cluster.model, made.vault, "cp-2")
        done = made.begin(emergency=True, stolen=["cp-2"])
        made.stolen.add(two.signs())
        assert [each.node for each in done.counting] == ["cp-2"] and "cp-1" in done.counting[0].reason
        del made.planes["cp-2"]
        for _ in range(6):
            made.passes()
            made.later(61)
            made.advance()
        one = made.planes["cp-1"]
        assert two.signs() not in one.accepts() and one.union() == ["sa:cp-1:1"]
        assert not made.status().counting and not made.record.departed
        assert made.record.numbers("cp-2") == (2,) and allowed(made, "cp-2") == {2}
        # Whoever writes records cannot bring it back.
        answer = made.cluster.read(record_path(made))["data"]
        answer["nodes"]["cp-2"] = {"old": 1, "new": 1, "admitted": True, "certificates": {"1": _own(two)}}
        answer["lowest"]["cp-2"], answer["revision"] = 1, answer["revision"] + 1
        put(made, answer)
        made.passes()
        assert one.union() == ["sa:cp-1:1"]


@pytest.mark.on_node
def test_an_emergency_begins_in_the_middle_of_other_rotations_and_everybody_restarts_at_once(
    clusters: ClusterFactory,
) -> None:
    """Neither that of keys nor that of a CA is waited for, and whoever writes records brings no stolen key back."""
    with AgentsWithKeys.standing(clusters, "cp-1", "cp-2") as made:
        first = {plane.signs() for plane in made.planes.values()}
        made.begin()
        made.passes()
        made.reach(KeyState.SWITCHED)
        comes_to(made, lambda: made.record.waits_for_tokens)
        ca_commands.rotate(made.cluster.model, made.vault, "front-proxy", Method.NEW_KEY, 0, made.now)
        with pytest.raises(StateConflict, match="front-proxy is being rotated"):
            made.begin()
        old, before = first | {plane.signs() for plane in made.planes.values()}, made.record
        assert len(old) == 4
        made.stolen |= old
        done = made.begin(emergency=True)
        assert done.record is not None and done.record.state is KeyState.RETIRED and done.record.hasty
        assert allowed(made, "cp-1") == {2, 3}
        with pytest.raises(StateConflict, match="no rollback"):
            made.advance(back=True)
        # New keys are known nowhere yet, which is the outage that a person has confirmed: only the end is looked at.
        made.life = 0
        for _ in range(4):
            made.passes()
            made.later(61)
            made.advance()
        made.passes()
        assert all(plane.union() == ["sa:cp-1:3", "sa:cp-2:3"] for plane in made.planes.values())
        assert not old & {plane.signs() for plane in made.planes.values()}
        for forged in (before, replace(before, state=KeyState.STEADY, nodes=_with_the_first(before.nodes))):
            put(made, to_json(replace(forged, revision=made.record.revision + 1, lowest={}, turn="cp-1")))
            quiet_passes(made, {"service-account-1"})
            for plane in made.planes.values():
                assert not old & (plane.accepts() | {plane.signs()}) and plane.union() == [f"sa:{plane.name}:3"]
                assert (plane.node.pki / "sa-3.key").exists()


def _with_the_first(nodes: Mapping[str, NodeKeys]) -> dict[str, NodeKeys]:
    return {name: NodeKeys(1, 1, True, {1: each.certificates[1]}) for name, each in nodes.items()}


@pytest.mark.on_node
def test_a_record_that_was_set_back_stops_commands_and_no_emergency(clusters: ClusterFactory) -> None:
    """Nodes say that they have read a newer one, and keep all that counted."""
    with AgentsWithKeys.standing(clusters, "cp-1", "cp-2") as made:
        former = made.cluster.read(record_path(made))["data"]
        made.begin()
        made.passes()
        made.reach(KeyState.SWITCHED)
        newest = made.record.revision
        before = {name: (plane.union(), plane.signs()) for name, plane in made.planes.items()}
        put(made, former)
        for act in (made.begin, made.advance, partial(made.advance, back=True)):
            with pytest.raises(StateConflict, match="cp-1, cp-2 read a newer record of service-account-keys"):
                act()
            assert made.cluster.read(record_path(made))["data"] == former
        quiet_passes(made)
        made.check()
        assert {name: (plane.union(), plane.signs()) for name, plane in made.planes.items()} == before
        made.stolen |= {plane.signs() for plane in made.planes.values()} | made.alive.keys()
        done = made.begin(emergency=True)
        assert done.record is not None and done.record.hasty and done.record.revision > newest


@pytest.mark.on_node
def test_who_refuses_a_key_by_one_forged_record_is_named_and_that_key_replaced(clusters: ClusterFactory) -> None:
    """It was shown once: nodes have retired the key of cp-1 for good. What helps concerns that node alone."""
    with AgentsWithKeys.standing(clusters, "cp-1", "cp-2", "cp-3") as made:
        made.settled()
        good, file = made.record, made.cluster.file
        forged = replace(good, lowest={**good.lowest, "cp-1": 99})
        put(made, to_json(forged))
        quiet_passes(made)
        put(made, to_json(good))
        quiet_passes(made)
        assert made.planes["cp-2"].union() == ["sa:cp-2:1", "sa:cp-3:1"]
        help_ = f"vaultpki ca continue --replaced cp-1 -f {file}"
        viewer, applier = made.cluster.environment("viewer"), made.cluster.environment("applier")
        for words, env in ((("ca", "status"), viewer), (("nodes",), viewer), (("ca", "continue"), applier)):
            ran = vaultpki(*words, "-f", file, env=env, expect=3)
            shown = " ".join(ran.stdout.split())
            assert "its sa.pub has no certificate of cp-1, though the record has it" in shown, shown
            assert "`vaultpki ca continue --replaced cp-1`" in shown and "accepts those of all" not in shown, shown
        found = json.loads(
            vaultpki("nodes", "-f", file, "--json", env=made.cluster.environment("viewer"), expect=3).stdout
        )
        assert help_ in [each["command"] for each in found["findings"]]
        own = vaultpki("status", "-c", made.planes["cp-3"].node.config, expect=3).stdout
        assert "its sa.pub has no certificate of cp-1" in " ".join(own.split())
        # Its tokens of before are refused where kube-apiserver starts again, whatever helps.
        made.stolen.add(made.planes["cp-1"].signs())
        vaultpki(*help_.split()[1:], env=applier, expect={0, 3})
        comes_to(made, lambda: not made.status().waits)
        numbers = {name: keys.numbers for name, keys in made.record.nodes.items()}
        assert numbers == {"cp-1": (2,), "cp-2": (1,), "cp-3": (1,)}
        for plane in made.planes.values():
            assert {"sa:cp-1:2", "sa:cp-2:1", "sa:cp-3:1"} <= set(plane.union())
            signing = {each.signs() for each in made.planes.values()}
            assert signing <= plane.accepts()
        shown = vaultpki("ca", "status", "-f", file, env=viewer).stdout
        assert "every API server accepts those of all" in " ".join(shown.split())
        # Who is not refused by anybody keeps its key.
        made.advance(replaced=["cp-2"])
        assert made.record.nodes["cp-2"].numbers == (1,)
        made.settled()


@pytest.mark.on_node
def test_from_one_key_that_all_share_there_and_back_and_to_own_keys(clusters: ClusterFactory) -> None:
    with AgentsWithKeys.of_kubeadm(clusters, "cp-1", "cp-2") as made:
        # Nothing changes before a person begins.
        assert not made.advance().joining and made.known is None
        file, env = made.cluster.file, made.cluster.environment("viewer")
        assert "cp-1, cp-2 have a sa.key that was not made here" in vaultpki("ca", "status", "-f", file, env=env).stdout
        # What Vault would not certify is said before anything begins.
        made.cluster.write(SPEC)
        with pytest.raises(StateConflict, match="is rsa-2048, and Vault certifies keys of type ec-p256"):
            made.begin()
        made.cluster.write(OF_KUBEADM)
        made.begin()
        assert made.record.shared
        made.passes()
        made.reach(KeyState.SWITCHED)
        led_back(made, KeyState.RETURNING, KeyState.STEADY)
        assert {plane.signs() for plane in made.planes.values()} == {made.shared} and made.record.shared
        made.settled()
        # Who joins beside a shared key bars the way back to it.
        plane = made.equip("cp-3")
        (note,) = made.advance().notes
        assert "cp-3 waits: the other nodes share one sa.key" in note and "cp-3" not in made.admitted()
        made.begin()
        made.passes()
        comes_to(made, lambda: "cp-3" in made.admitted())
        made.pass_of(plane)
        made.start(plane)
        made.reach(KeyState.SWITCHED)
        led_back(made, KeyState.RETURNING)
        done = made.advance(back=True)
        assert done.gate is not None
        barred = [each.node for each in done.gate.waiting if "has joined with a key of its own" in each.reason]
        assert barred == ["cp-3"]
        made.reach(*ONWARD)
        made.settled()
        assert not made.record.shared
        for plane in made.planes.values():
            held = {keys.public_der(keys.read_key(each.read_bytes())) for each in plane.node.pki.glob("sa*.key")}
            assert held == {plane.signs()} and made.shared not in plane.accepts() | held


def _own(plane: Plane) -> str:
    """The certificate of a node's first key, as PEM."""
    return x509.read_certificates((plane.node.pki / "sa-1.crt").read_bytes())[0].pem


def test_the_commands(clusters: ClusterFactory, tmp_path: Path) -> None:
    with AgentsWithKeys.standing(clusters, "cp-1") as made:
        file, env = made.cluster.file, made.cluster.environment("applier")
        viewer = made.cluster.environment("viewer")

        def ca(*words: str | Path, expect: int = 0, env: Mapping[str, str] = env) -> Ran:
            return vaultpki("ca", *words, "-f", file, env=env, expect=expect)

        keys = "service-account-keys"
        assert "service-account-keys are steady" in ca("status", env=viewer).stdout
        # What nobody may say, and what a person must confirm.
        assert "--same-key is for CAs; leave it out" in ca("rotate", keys, "--same-key", expect=2).stderr
        assert "--stolen needs --emergency" in ca("rotate", keys, "--stolen", "cp-1", expect=2).stderr
        assert "no control-plane node can be left out" in ca("rotate", keys, "--without", "cp-1", expect=2).stderr
        assert "--wait cannot come to the end here" in ca("rotate", keys, "--wait", expect=2).stderr
        ran = ca("rotate", "etcd", "--emergency", "--stolen", "cp-1", expect=2)
        assert "--stolen is for service-account-keys" in ran.stderr
        fails(ca("rotate", keys, "--emergency", expect=1), "pass --yes")
        fails(ca("rotate", keys, "--emergency", "--stolen", "cp-1", "--yes", expect=1), "vaultpki lock cp-1")
        fails(ca("continue", "--token-life", "10m", expect=1), "pass --yes")
        fails(ca("abort", expect=1), "is being rotated, nor are service-account keys, so there is nothing to lead back")

        ran = ca("rotate", keys)
        assert "service-account-keys are published" in ran.stdout and "It waits for:" in ran.stdout
        fails(ca("rotate", "etcd", expect=1), "service-account-keys are being rotated (published)")
        document = json.loads(ca("status", "--json", env=viewer).stdout)
        assert document["rotation"] == document["service_account_keys"]
        rotation = document["rotation"]
        assert (rotation["domain"], rotation["state"], rotation["next"]) == (keys, "published", "switched")
        assert rotation["nodes"] == {"cp-1": {"old": 1, "new": 2, "admitted": True}}
        assert [each["node"] for each in rotation["waiting_for"]] == ["cp-1"]
        # Every view says so.
        shown = vaultpki("nodes", "-f", file, "--json", env=viewer, expect={0, 3})
        texts = [
            each["message"] for each in json.loads(shown.stdout)["findings"] if each["name"].startswith("rotation-")
        ]
        assert len(texts) == 1 and "rotation of service-account-keys, published since" in texts[0], texts
        page = tmp_path / "report.html"
        vaultpki("report", "-f", file, "--from-vault", "-o", page, env=viewer, expect={0, 3})
        assert "The service-account keys are being rotated: published" in page.read_text()
        document = json.loads(ca("continue", "--json", expect=3).stdout)
        assert document["moved"] is False and document["rotation"]["state"] == "published"

        # Those who check tokens outside get the keys of the union, and a file of others is not lost.
        made.passes()
        ca("continue", expect=3)
        written = tmp_path / "jwks.json"
        ca("jwks", "-o", written, env=viewer)
        shown = json.loads(written.read_text())["keys"]
        assert len(shown) == 2 and json.loads(ca("jwks", env=viewer).stdout)["keys"] == shown
        ca("jwks", "-o", written, env=viewer)
        (tmp_path / "other.json").write_text("{}")
        fails(ca("jwks", "-o", tmp_path / "other.json", env=viewer, expect=1), "is not a key set of vaultpki")

        assert "service-account-keys are steady" in ca("abort").stdout
        fails(ca("continue", "--replaced", "cp-9", expect=1), "cp-9 has no service-account keys")
        # It keeps its turn, and restarts once more.
        assert made.record.turn == "cp-1"
        made.passes()
        ca("continue")
        assert made.record.turn == ""

        a_key_counts_in_every_view_also_if_its_ca_was_revoked(made)


def test_they_are_switched_only_once_the_key_set_outside_has_the_next_ones(
    clusters: ClusterFactory, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whoever checks tokens by a bucket would refuse those of the next keys."""
    authority, trusted, written = trustme.CA(), tmp_path / "trusted.crt", tmp_path / "jwks.json"
    authority.cert_pem.write_to_path(str(trusted))
    bucket = answering_api.serving({}, authority.issue_cert("localhost").configure_cert)
    with bucket as api, AgentsWithKeys.standing(clusters, "cp-1", "cp-2") as made:
        env = made.cluster.environment("applier") | {"SSL_CERT_FILE": str(trusted)}
        # The operator's own commands are asked in this process too.
        monkeypatch.setenv("SSL_CERT_FILE", str(trusted))

        def ca(*words: str | Path, expect: int = 0) -> Ran:
            return vaultpki("ca", *words, "-f", made.cluster.file, env=env, expect=expect)

        def publish() -> None:
            ca("jwks", "-o", written)
            api.values["/jwks.json"] = json.loads(written.read_text())

        one, url = made.planes["cp-1"], f"https://localhost:{api.server_address[1]}/jwks.json"
        one.server.flags = [*one.server.flags, f"--service-account-jwks-uri={url}"]
        one.load()
        one.server.restart()
        made.passes()
        publish()
        made.begin()
        fails(ca("continue", "--checked", "jwks", expect=1), "the next key of cp-1, cp-2 is not in the record yet")
        for _ in range(9):
            made.later(61)
            made.passes()
            assert not made.advance().moved
        (waiting,) = json.loads(ca("status", "--json").stdout)["rotation"]["waiting_for"]
        assert waiting["node"] == "jwks" and f"{url}, which lacks keys of cp-1, cp-2 too" in waiting["reason"]
        fails(ca("continue", "--checked", "jwks", expect=1), "which lacks keys of cp-1, cp-2")
        publish()
        assert "which has every key" in ca("status").stdout and not made.advance().moved
        done = made.advance(checked=("jwks",))
        assert done.moved and made.record.state is KeyState.SWITCHED and made.record.checked == ()
        # Back: both were published, and nothing new is to be signed with.
        back = made.advance(back=True)
        assert back.moved and back.record is not None and back.record.state is KeyState.RETURNING


def a_key_counts_in_every_view_also_if_its_ca_was_revoked(made: AgentsWithKeys) -> None:
    """Until the record takes it out."""
    cluster, plane = made.cluster, made.planes["cp-1"]
    made.passes()
    names = plane.union()
    path = f"{cluster.prefix}/service-account/issuer/default"
    assert cluster.server.api("POST", f"{path}/revoke").status == 200
    assert cluster.server.api("GET", path).data["revoked"] is True
    made.passes()
    assert plane.union() == names == ["sa:cp-1:1"]
    wanted = jwk.key_set(x509.read_certificates((plane.node.pki / "sa.pub").read_bytes()))["keys"]
    env = cluster.environment("viewer")
    assert json.loads(vaultpki("ca", "jwks", "-f", cluster.file, env=env).stdout)["keys"] == wanted
    viewer = cluster.client("viewer")
    expected = trust.token_keys_in_vault(cluster.model, viewer, trust.from_vault(cluster.model, viewer, made.now))
    assert jwk.key_set(expected.certificates)["keys"] == wanted and not expected.changing


@pytest.mark.parametrize(
    "rounds", [pytest.param(1, marks=pytest.mark.sample), pytest.param(3, marks=pytest.mark.conformance)]
)
def test_two_operators_at_once_take_one_step_and_the_slower_one_is_told(clusters: ClusterFactory, rounds: int) -> None:
    with AgentsWithKeys.standing(clusters, "cp-1", "cp-2") as made, ThreadPoolExecutor(2) as pool:
        model, said = made.cluster.model, made.said()

        def rotates() -> KeyStepDone:
            return commands.rotate(model, made.cluster.client("applier"), made.now)

        def continues() -> KeyStepDone:
            return commands.advance(model, made.cluster.client("applier"), made.now, said)

        def aborts() -> KeyStepDone:
            return commands.advance(model, made.cluster.client("applier"), made.now, said, back=True)

        def at_once(*acts: Callable[[], KeyStepDone]) -> None:
            done = [pool.submit(act) for act in acts]
            told = [each.exception() for each in done]
            assert all(each is None or isinstance(each, (ChangedMeanwhile, StateConflict)) for each in told), told
            assert any(each is None for each in told), told
            # Who was too slow looks again, and the server is made to match.
            made.advance()
            made.passes()
            made.later(61)

        for _ in range(rounds):
            at_once(rotates, rotates)
            at_once(continues, continues)
            at_once(continues, aborts)
            assert made.record.state in (KeyState.PUBLISHED, KeyState.SWITCHED, KeyState.STEADY, KeyState.RETURNING)
            for _ in range(20):
                if not made.record.active:
                    break
                made.advance(back=True)
                made.passes()
                made.later(61)
            assert made.record.state is KeyState.STEADY and made.record.numbers("cp-1") == (1,)
            made.settled()


@pytest.mark.on_node
def test_a_cluster_without_such_keys_has_none_to_rotate(clusters: ClusterFactory) -> None:
    cluster = clusters.applied(SPEC.replace("service_account_keys: true\n", ""))
    env = cluster.environment("applier")
    fails(
        vaultpki("ca", "rotate", "service-account-keys", "-f", cluster.file, env=env, expect=1),
        "service_account_keys: true",
    )
    ran = vaultpki("ca", "continue", "--token-life", "1d", "-f", cluster.file, env=env, expect=2)
    assert "--token-life" in ran.stderr
    assert "service-account-keys" not in vaultpki("ca", "status", "-f", cluster.file, env=env).stdout
