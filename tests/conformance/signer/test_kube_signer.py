"""The signer on a real cluster: tokens, kubelets and people get certificates, and hostile requests are refused.

One cluster for the whole module, with a signer on each of two control planes; each test leaves both running.
"""

from __future__ import annotations

import json
import signal
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from helpers.hostile_samples import samples
from helpers.kube import kube_cluster, signer_stand
from helpers.kube.components import Programs
from helpers.kube.kube_cluster import Kubernetes
from helpers.kube.signer_stand import SignerStand, kubelet_client, kubelet_serving, person, resident_bytes
from helpers.vault import applied_cluster, servers
from helpers.vault.servers import wait_for
from vaultpki.signer.brakes import ALL_PEOPLE
from vaultpki.signer.lease import LEASE_SECONDS
from vaultpki.signer.process import WORKERS
from vaultpki.signer.requests import CLIENT, CLIENT_KUBELET, SERVING
from vaultpki.signer.session import LOOK_SECONDS

pytestmark = [pytest.mark.conformance, pytest.mark.timeout(1800)]

SPEC = """\
api_server: {endpoint: "https://198.51.100.11:6443"}
nodes:
- {name: cp-1, roles: [control-plane, etcd], addresses: [198.51.100.11]}
- {name: cp-2, roles: [control-plane], addresses: [198.51.100.12]}
signer:
  approve_serving: false
  people: {ttl: 1d, names: ["*@example.com", carol], groups: [[], [dev], [dev, oncall]]}
pools:
- {name: joined, roles: [worker], node_names: "w-*", join: token, networks: [198.51.100.0/24, 10.0.0.0/16]}
"""
FIRST, SECOND = "cp-1", "cp-2"
JOINED = "w-1"
STORM = 300
STORM_SECONDS = 90.0
# Vault signs, and nothing is written: the process ends at that very point.
DIES_BEFORE_THE_WRITE = """\
import os
from vaultpki.signer.requests_api import RequestsApi
RequestsApi.write_certificate = lambda self, found, pem: os._exit(9)
"""


@pytest.fixture(scope="module")
def stand(
    programs: Programs, vault_binary: Path | None, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[SignerStand]:
    folder = tmp_path_factory.mktemp("signer")
    kind = "vault" if vault_binary else "bao"
    with (
        servers.running(kind, folder / "server", vault_binary) as server,
        kube_cluster.cluster(server, programs, folder / "kube", SPEC) as kubernetes,
    ):
        signer_stand.allow_tokens(kubernetes)
        made = SignerStand(kubernetes)
        try:
            for node in (FIRST, SECOND):
                made.join(node)
                made.start(node)
            yield made
        finally:
            made.end()


@pytest.fixture(autouse=True)
def _clean(stand: SignerStand) -> Iterator[None]:
    yield
    stand.forget()


def add_node(kubernetes: Kubernetes, name: str, address: str) -> None:
    """A Node with an address, as a kubelet registers itself."""
    kubernetes.apply({"apiVersion": "v1", "kind": "Node", "metadata": {"name": name}}, conf=kubernetes.super_admin)
    status = json.dumps({"status": {"addresses": [{"type": "InternalIP", "address": address}]}})
    kubernetes.kubectl(
        kubernetes.super_admin, "patch", "node", name, "--subresource=status", "--type=merge", "-p", status
    )


def holder(stand: SignerStand) -> str:
    found = stand.kubernetes.get("lease", "vaultpki-signer", "-n", "kube-system", conf=stand.kubernetes.super_admin)
    name: str = found["spec"].get("holderIdentity", "")
    return name


def logged(stand: SignerStand, word: str) -> int:
    return sum(process.said().count(word) for process in stand.signers.values())


def test_a_token_gets_a_certificate_for_a_new_node(stand: SignerStand) -> None:
    stand.ask_by_token(kubelet_client("token-w-1", "w-1"))
    print(f"\na token's request was signed {stand.wait('token-w-1'):.1f} s after it was made")
    leaf, issuer = stand.certificates("token-w-1")
    assert leaf.subject.rfc4514_string() == "CN=system:node:w-1,O=system:nodes"
    leaf.verify_directly_issued_by(issuer)


def test_a_kubelet_gets_its_serving_certificate_once_somebody_approves(stand: SignerStand) -> None:
    add_node(stand.kubernetes, "w-1", "198.51.100.41")
    stand.ask_as_node("w-1", kubelet_serving("serving", "w-1", "198.51.100.41"), kubelet_client("renewed", "w-1"))
    # csrapproving approves the other one.
    stand.wait("renewed")
    assert stand.states()["serving"][0] == "Pending"
    stand.approve("serving")
    stand.wait("serving")
    assert [str(each) for each in signer_stand.addresses(stand.certificates("serving")[0])] == ["198.51.100.41"]


def test_a_person_gets_a_certificate_that_the_api_server_knows(stand: SignerStand, tmp_path: Path) -> None:
    stand.ask(person("alice", "alice@example.com", "dev", "oncall"), person("bob", "bob@example.com", expires=3600))
    stand.approve("alice", "bob")
    stand.wait("alice", "bob")
    leaf = stand.certificates("bob")[0]
    # Backdated by five minutes.
    assert 3600 <= (leaf.not_valid_after_utc - leaf.not_valid_before_utc).total_seconds() <= 3600 + 330


@dataclass(frozen=True)
class Attempt:
    """A hostile request, or a good one: who makes it, and whether it shall be signed."""

    what: str
    item: dict[str, Any]
    user: str
    groups: tuple[str, ...]
    signed: bool


def attempts() -> Iterator[Attempt]:
    """Every sample for each signer, in the name of the one who gets furthest with it."""
    node, token = (f"system:node:{JOINED}", ("system:nodes",)), (signer_stand.TOKEN_USER, signer_stand.TOKEN_GROUPS)
    for number, sample in enumerate(samples()):
        for signer, usages, rule in (
            (CLIENT_KUBELET, signer_stand.CLIENT_USAGES, sample.client),
            (SERVING, signer_stand.SERVER_USAGES, sample.serving),
            (CLIENT, ("client auth",), sample.person),
        ):
            item = signer_stand.item(f"sample-{number}-{signer.rpartition('/')[2]}", signer, sample.pem, usages)
            who = node if signer == SERVING or (signer == CLIENT_KUBELET and not rule) else token
            yield Attempt(f"{sample.what} for {signer}", item, who[0], who[1], not rule)


def test_of_all_hostile_requests_that_a_careless_administrator_approves_none_is_signed(stand: SignerStand) -> None:
    add_node(stand.kubernetes, JOINED, "10.0.0.21")
    taken = dict[str, Attempt]()
    # An address of another Node, and of nobody.
    add_node(stand.kubernetes, "w-2", "10.0.0.22")
    every = list(attempts())
    for who in sorted({(each.user, each.groups) for each in every}):
        mine = [each for each in every if (each.user, each.groups) == who]
        # The API server refuses some, and takes the others all the same.
        stand.ask(*(each.item for each in mine), user=who[0], groups=who[1], expect=None)
        taken |= {each.item["metadata"]["name"]: each for each in mine}
    there = [name for name in stand.states() if name in taken]
    assert len(there) > len(every) / 2
    stand.approve(*there)
    wait_for(
        lambda: not {state for name, (state, _) in stand.states().items() if name in there} - {"Issued", "Failed"},
        STORM_SECONDS,
        lambda: f"{ {name: each for name, each in stand.states().items() if each[0] == 'Approved'} }\n{stand.said()}",
        pause=1,
    )
    states = stand.states()
    wrong = [taken[name].what for name in there if (states[name][0] == "Issued") is not taken[name].signed]
    assert wrong == []
    signed = sum(states[name][0] == "Issued" for name in there)
    print(f"\nof {len(every)} requests the API server refused {len(every) - len(there)}, and {signed} were signed")


HOSTILE: dict[str, tuple[Callable[..., dict[str, Any]], tuple[str, ...], str]] = {
    "a control plane": (kubelet_client, ("cp-1",), "cp-1 is a node of cluster.yaml"),
    "no pool": (kubelet_client, ("x-1",), "x-1 is in no pool that joins by token"),
    "a dot": (kubelet_client, ("w-1.evil.com",), "is in no pool that joins by token"),
    "a living node": (kubelet_client, ("w-2",), "node w-2 is alive"),
    "reserved": (person, ("system:admin",), "CN system:admin is reserved"),
    "a stranger": (person, ("mallory@evil.com",), "the name is none of signer.people.names"),
    "groups": (person, ("alice@example.com", "oncall"), "the groups are none of signer.people"),
}


def test_what_a_careless_administrator_approves_is_refused_with_a_reason(stand: SignerStand) -> None:
    lease = {"apiVersion": "coordination.k8s.io/v1", "kind": "Lease"}
    about = {"name": "w-2", "namespace": "kube-node-lease"}
    now = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")
    living = {**lease, "metadata": about, "spec": {"holderIdentity": "w-2", "renewTime": now}}
    stand.kubernetes.apply(living, conf=stand.kubernetes.super_admin)
    by_token: list[dict[str, Any]] = []
    names = {}
    for number, (what, (make, arguments, _)) in enumerate(HOSTILE.items()):
        names[what] = f"hostile-{number}"
        made = make(names[what], *arguments)
        by_token.append(made) if make is kubelet_client else stand.ask(made)
    stand.ask_by_token(*by_token)
    stand.approve(*names.values())
    stand.wait(*names.values(), state="Failed")
    states = stand.states()
    for what, (_, _, sentence) in HOSTILE.items():
        message = states[names[what]][1]
        assert message.startswith("vaultpki signer: "), (what, message)
        assert sentence in message, (what, message)


def test_a_second_machine_does_not_get_the_name_of_the_first(stand: SignerStand) -> None:
    stand.ask_by_token(kubelet_client("first", "w-7"), kubelet_client("second", "w-7"))
    wait_for(
        lambda: {stand.states()[name][0] for name in ("first", "second")} == {"Issued", "Failed"},
        signer_stand.SIGNED_SECONDS,
        lambda: f"{stand.states()}\n{stand.said()}",
        pause=0.3,
    )
    refused = next(message for state, message in stand.states().values() if state == "Failed")
    assert "w-7 got a certificate by" in refused


def test_a_dry_run_says_each_verdict_and_writes_nothing(stand: SignerStand) -> None:
    stand.ask(person("alice", "alice@example.com"), person("mallory", "mallory@evil.com"))
    said = stand.run(SECOND, "--dry-run").stdout
    assert "alice: would be signed, once it is approved: alice@example.com, by role csr-person" in said
    assert "mallory: would be refused by rule 30a" in said
    assert {state for state, _ in stand.states().values()} == {"Pending"}


def test_one_signer_signs_and_another_takes_over(stand: SignerStand) -> None:
    first = holder(stand)
    other = SECOND if first == FIRST else FIRST
    stand.signers[first].kill()
    began = time.monotonic()
    stand.ask_by_token(kubelet_client("after", "w-21"))
    stand.wait("after", seconds=3 * LEASE_SECONDS)
    print(f"\nanother signer took over {time.monotonic() - began:.1f} s after the first was killed")
    assert holder(stand) == other
    stand.signers[first].start()
    # One that ends gives its Lease back.
    stand.signers[other].stop()
    began = time.monotonic()
    stand.ask_by_token(kubelet_client("soon", "w-22"))
    stand.wait("soon")
    print(f"and {time.monotonic() - began:.1f} s after the other one has ended")
    stand.signers[other].start()


def test_a_leader_that_is_killed_at_work_leaves_no_request_and_none_is_signed_again(stand: SignerStand) -> None:
    """But for those that it had in hand: what was signed and not written is signed once more."""
    names = [f"work-{number}" for number in range(120)]
    items = [kubelet_client(name, f"w-w{number}") for number, name in enumerate(names)]
    first = holder(stand)
    asking = threading.Thread(target=stand.ask_by_token, args=items)
    asking.start()
    wait_for(lambda: issued(stand) >= 5, signer_stand.SIGNED_SECONDS, stand.said, pause=0.1)
    stand.signers[first].kill()
    before = issued(stand)
    asking.join()
    assert before < len(names)
    print(f"\n{before} were signed, and the others {stand.wait(*names, seconds=4 * LEASE_SECONDS):.1f} s later")
    assert holder(stand) != first
    signed = stand.signed("w-w")
    assert len(signed) == len(names)
    twice = [name for name, count in signed.items() if count > 1]
    assert len(twice) <= WORKERS and max(signed.values()) <= 2, signed
    stand.signers[first].start()


def issued(stand: SignerStand) -> int:
    return sum(state == "Issued" for state, _ in stand.states().values())


def test_a_signer_that_is_killed_before_it_writes_leaves_nothing_to_repair(stand: SignerStand) -> None:
    for process in stand.signers.values():
        process.stop()
    dying = stand.start(FIRST, changed=DIES_BEFORE_THE_WRITE)
    stand.ask_by_token(*(kubelet_client(f"cut-{number}", f"w-3{number}") for number in range(5)))
    wait_for(lambda: not dying.alive(), 60, lambda: f"it did not die:\n{stand.said()}", pause=0.3)
    assert "Issued" not in {state for state, _ in stand.states().values()}
    stand.start(FIRST)
    print(f"\nall were signed {stand.wait(*(f'cut-{number}' for number in range(5))):.1f} s after the next start")
    stand.signers[SECOND].start()


def test_nothing_is_marked_while_vault_is_away(stand: SignerStand) -> None:
    stand.kubernetes.cluster.server.freeze()
    try:
        stand.ask_by_token(*(kubelet_client(f"away-{number}", f"w-4{number}") for number in range(5)))
        time.sleep(20)
        assert {state for state, _ in stand.states().values()} == {"Approved"}
    finally:
        stand.kubernetes.cluster.server.thaw()
    print(f"\nall were signed {stand.wait(*(f'away-{number}' for number in range(5)), seconds=60):.1f} s later")


def test_no_request_of_a_storm_is_lost(stand: SignerStand) -> None:
    items = [kubelet_client(f"storm-{number}", f"w-s{number}") for number in range(STORM)]
    began = time.monotonic()
    stand.ask_by_token(*items)
    asked = time.monotonic() - began
    stand.wait(*(f"storm-{number}" for number in range(STORM)), seconds=STORM_SECONDS)
    memory = max(resident_bytes(process) for process in stand.signers.values()) / 1024 / 1024
    took = time.monotonic() - began
    # Two signers are there, and one of them signs; what it could not write in time it signs again.
    signed = stand.signed("w-s")
    assert len(signed) == STORM and signed.total() <= STORM + WORKERS, signed
    print(f"\n{STORM} requests, asked in {asked:.0f} s, were signed after {took:.0f} s, {memory:.0f} MiB")


def test_a_node_that_asks_too_often_waits(stand: SignerStand) -> None:
    names = [f"often-{number}" for number in range(12)]
    stand.ask_as_node("w-50", *(kubelet_client(name, "w-50") for name in names))
    wait_for(
        lambda: sum(state == "Issued" for state, _ in stand.states().values()) == 10,
        signer_stand.SIGNED_SECONDS,
        lambda: f"{stand.states()}\n{stand.said()}",
        pause=0.3,
    )
    time.sleep(5)
    assert sorted(state for state, _ in stand.states().values()) == ["Approved"] * 2 + ["Issued"] * 10


def test_a_flood_of_people_waits_and_is_shown(stand: SignerStand) -> None:
    # They have counted others before.
    for process in stand.signers.values():
        process.restart()
    names = [f"flood-{number}" for number in range(ALL_PEOPLE + 5)]
    stand.ask(*(person(name, f"{name}@example.com") for name in names))
    stand.approve(*names)
    wait_for(lambda: issued(stand) == ALL_PEOPLE, STORM_SECONDS, lambda: f"{issued(stand)}\n{stand.said()}", pause=1)
    leader = holder(stand)
    wait_for(lambda: stand.metrics(leader)["vaultpki_signer_braked"] == 5, 2 * LEASE_SECONDS, stand.said, pause=1)
    # Kubelets are not held up by them.
    stand.ask_by_token(kubelet_client("beside", "w-80"))
    stand.wait("beside")
    assert issued(stand) == ALL_PEOPLE + 1
    # The alert signer-flood asks for this; nothing is late that brakes hold.
    found = stand.metrics(leader)
    assert found["vaultpki_signer_braked"] == found["vaultpki_signer_waiting"] == 5
    for process in stand.signers.values():
        process.restart()


def test_what_cluster_yaml_says_is_followed(stand: SignerStand) -> None:
    kubernetes = stand.kubernetes
    cluster = kubernetes.cluster
    cluster.file.write_text(cluster.file.read_text().replace("approve_serving: false", "approve_serving: true"))
    cluster.apply()
    cluster.issue("super-admin", kubernetes.operator)
    kubernetes.kubectl(kubernetes.super_admin, "apply", "-f", kubernetes.operator / "manifests")
    add_node(kubernetes, "w-60", "198.51.100.60")
    add_node(kubernetes, "w-61", "198.51.100.61")
    good, bad = kubelet_serving("good", "w-60", "198.51.100.60"), kubelet_serving("bad", "w-61", "198.51.100.60")
    time.sleep(LOOK_SECONDS)
    stand.ask_as_node("w-60", good)
    stand.ask_as_node("w-61", bad)
    stand.wait("good", seconds=LOOK_SECONDS)
    # Nobody has approved it, so it is nobody's to refuse.
    assert stand.states()["bad"][0] == "Pending"


def test_a_locked_signer_signs_nothing(stand: SignerStand) -> None:
    cluster = stand.kubernetes.cluster
    stand.signers[SECOND].stop()
    applied_cluster.vaultpki("lock", "-f", cluster.file, FIRST, env=cluster.environment("applier"))
    stand.ask_by_token(kubelet_client("locked", "w-70"))
    time.sleep(15)
    assert stand.states()["locked"][0] == "Approved"
    stand.signers[SECOND].start()
    stand.wait("locked", seconds=3 * LEASE_SECONDS)


def test_no_log_has_a_secret(stand: SignerStand) -> None:
    for node in (FIRST, SECOND):
        secret = (stand.config(node).parent / "secret-id").read_text()
        assert secret not in stand.signers[node].said()
        assert stand.signers[node].ending is signal.SIGTERM
