"""A real Kubernetes below a root outside, with service-account keys of its own: keys and CAs are rotated under load.

One cluster for the whole module. Service-account keys are rotated and aborted, and rotated whole; while the tokens end
that old keys have signed, which takes ten minutes, since no token lives shorter, etcd's CA is rotated whole, signed
outside, and the CA kubernetes until it is switched, and back. `make soak-rotations` and `make soak-keys` have all other
ways.
"""

from __future__ import annotations

import dataclasses
import itertools
import shutil
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from helpers.kube import cas_in_use, held_on_disks, kube_cluster, operator_under_load, own_keys
from helpers.kube.access_matrix import Heard
from helpers.kube.ca_operator import SPREAD, STEP_SECONDS
from helpers.kube.client_load import OPERATORS
from helpers.kube.components import Programs
from helpers.kube.key_operator import KeyOperator, signed_by
from helpers.kube.kube_cluster import Kubernetes
from helpers.kube.operator_under_load import OperatorUnderLoad
from helpers.kube.restarts import API_SERVER, Restart, bearable, unexplained
from helpers.kube.token_load import TokenLoad, legacy
from helpers.vault import handmade_rotation, servers
from helpers.vault.outside_signer import OutsideSigner
from helpers.vault.servers import wait_for
from vaultpki.certificates import pair_files, rows
from vaultpki.model import NodeRole
from vaultpki.pki import keys, x509
from vaultpki.records import service_account
from vaultpki.records.rotation import RotationRecord, State
from vaultpki.records.service_account import KEYS_RECORD, SERVICE_ACCOUNT_KEYS, DepartedKey, Departure, KeyState

pytestmark = pytest.mark.conformance

SPEC = f"""\
service_account_keys: true
{kube_cluster.TURNING}\
ca: {{root: external, root_file: corp-root.pem, issuing_ttl: 1y}}
"""
# Over so many seconds nodes replace their leaves.
SPREAD_SECONDS = 20
BETWEEN = ["Corp Policy CA", "Corp Platform CA"]
# How a component says that it refuses a CA, or that the other end does.
UNKNOWN_CA = ("certificate signed by unknown authority", "unknown certificate authority")


@dataclass(frozen=True, slots=True)
class Outcome:
    """What happened, to be judged by the tests.

    `old_etcd` and `new_kubernetes` are leaves of the two CAs that nobody may trust in the end, with their keys.
    """

    keys: KeyOperator
    faults: dict[str, list[str]]
    restarts: tuple[Restart, ...]
    let_in: dict[str, Heard]
    old_etcd: Path
    new_kubernetes: Path
    switched: RotationRecord
    legacy: dict[str, str]

    @property
    def operator(self) -> OperatorUnderLoad:
        return self.keys.operator

    @property
    def kubernetes(self) -> Kubernetes:
        return self.keys.kubernetes


@pytest.fixture(scope="module")
def signer(tmp_path_factory: pytest.TempPathFactory) -> OutsideSigner:
    return OutsideSigner.made(tmp_path_factory.mktemp("offline") / "ca", BETWEEN)


@pytest.fixture(scope="module")
def cluster(
    signer: OutsideSigner,
    stands: Callable[[], None],
    programs: Programs,
    vault_binary: Path | None,
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[Kubernetes]:
    """Two control planes, three members of etcd and two workers, enrolled through HashiCorp Vault."""
    folder = tmp_path_factory.mktemp("rotations")
    with (
        servers.running("vault", folder / "server", vault_binary) as server,
        kube_cluster.cluster(
            server, programs, folder / "kube", SPEC, comers=kube_cluster.COMERS, apply=signer.apply
        ) as running,
    ):
        stands()
        yield running


@pytest.fixture(scope="module")
def begun(cluster: Kubernetes) -> Iterator[KeyOperator]:
    """The cluster with its agents, its hooks and its clients, who have not begun yet."""
    # A third of the requests of `make soak-rotations`, since other tests need the processors too.
    with operator_under_load.standing(cluster, pace=3) as operator:
        yield KeyOperator(operator, TokenLoad(cluster, operator.restarts.serving, pace=3))


@pytest.fixture(scope="module")
def outcome(begun: KeyOperator, signer: OutsideSigner, tmp_path_factory: pytest.TempPathFactory) -> Outcome:
    """All that is rotated; afterwards the cluster stands without load."""
    operator, kubernetes, folder = begun.operator, begun.kubernetes, tmp_path_factory.mktemp("outcome")
    old_etcd, new_kubernetes = folder / "old-etcd.pem", folder / "new-kubernetes.pem"
    shutil.copy(kubernetes.members[-1].pki / "etcd-peer.pem", old_etcd)
    operator.mark()
    with operator.load.running(), begun.tokens.running():
        held = keys_until_tokens_end(begun)
        # The rotation of keys waits for nothing but time now, and one of a CA may begin.
        let_in = cas_in_use.at_etcd(kubernetes, old_etcd)
        begin(operator, signer, "etcd", folder / "etcd")
        operator.rest("etcd")
        begin(operator, signer, "kubernetes", folder / "kubernetes")
        operator.advance("kubernetes", State.SWITCHED)
        switched = operator.record("kubernetes")
        assert switched.new is not None
        operator.issue()
        operator.await_leaves("kubernetes", switched.new.sha256)
        shutil.copy(kubernetes.operator / "admin.pem", new_kubernetes)
        let_in |= cas_in_use.all_let_in(kubernetes, new_kubernetes)
        operator.ca("abort")
        operator.issue()
        # Nobody has the operators' certificates of the new CA any more, which only an operator can know.
        operator.rest("kubernetes", *(f"--without={person}" for person in OPERATORS))
        operator.await_leaves("kubernetes", switched.old.sha256)
        operator.await_bundles("kubernetes", switched.old.sha256)
        begun.reach(KeyState.RETIRED, words=("--without", "legacy-tokens"))
        begun.reach(KeyState.DONE)
        begun.settle()
        time.sleep(10)
    kubernetes.running()
    for agent in kubernetes.agents.values():
        agent.check()
    restarts = tuple(operator.restarts.done)
    return Outcome(begun, operator.faults(), restarts, let_in, old_etcd, new_kubernetes, switched, held)


def keys_until_tokens_end(run: KeyOperator) -> dict[str, str]:
    """An abort while the first API server restarts, and a rotation until only tokens are waited for, and people.

    What the gate waits for is returned: a Secret with a token of the old keys, which is forgotten then.
    """
    run.tokens.kept.append(legacy(run.kubernetes, "legacy"))
    run.rotate()
    run.lead(lambda record: bool(record.turn))
    run.reach(KeyState.STEADY, "abort")
    run.rotate()
    run.lead(lambda record: record.waits_for_tokens)
    waiting = run.operator.waiting("continue", "--kubeconfig", run.kubernetes.admin)
    # They keep tokens of an hour, so who states that tokens live shorter restarts them, as the page says.
    run.restart_managers()
    run.tokens.let_go(run.tokens.kept.clear)
    return waiting


def begin(operator: OperatorUnderLoad, signer: OutsideSigner, domain: str, requests: Path) -> None:
    """A rotation begins, which waits for the signer outside."""
    operator.rotate(domain, spread=SPREAD_SECONDS)
    assert operator.record(domain).state is State.PREPARED
    operator.ca("csr", "-o", requests, expect=[0])
    operator.ca("import", *signer.sign_all(requests), expect=[0])


def test_all_went_through_every_state(outcome: Outcome) -> None:
    states: dict[str, list[State]] = {"etcd": [], "kubernetes": []}
    for domain, state in outcome.operator.steps:
        states[domain].append(state)
    forward = [State.PREPARED, State.PUBLISHED, State.SWITCHED]
    assert states["etcd"] == [*forward, State.RETIRED, State.DONE], states
    assert states["kubernetes"] == [*forward, State.RETURNING, State.STEADY], states
    passed = [each for each, _ in itertools.groupby(outcome.keys.states)]
    rotated = [KeyState.PUBLISHED, KeyState.SWITCHED, KeyState.RETIRED, KeyState.DONE]
    # A state may have passed between two looks.
    assert [each for each in passed if each is not KeyState.PUBLISHED] == [KeyState.STEADY, *rotated[1:]], passed


def test_no_request_failed_for_a_reason_of_tls_and_nobody_was_unauthorized(outcome: Outcome) -> None:
    """Nor does any component complain of TLS."""
    assert outcome.faults == {}


def test_no_token_was_refused(outcome: Outcome) -> None:
    tokens, apis = outcome.keys.tokens, outcome.kubernetes.apis
    assert [str(each) for each in tokens.failures] == []
    assert all(tokens.used[issuer, at] > 100 for issuer in apis for at in apis), tokens.used
    # Each plane signed with its first key and its third: the abort came before any signed with its second.
    assert len(tokens.key_ids) == 4, tokens.key_ids
    assert "default/legacy" in outcome.legacy["legacy-tokens"], outcome.legacy


def test_hardly_a_request_failed_at_all(outcome: Outcome) -> None:
    """But those on the connections that an API server or a member of etcd ended as it was restarted."""
    load = outcome.operator.load
    others = unexplained(outcome.restarts, load.failures)
    assert len(others) <= load.worked.total() / 1000, others
    assert len(load.failures) <= bearable(outcome.restarts, load.worked.total()), load.failures


def test_there_was_load(outcome: Outcome) -> None:
    load, asked = outcome.operator.load, outcome.operator.extension.asked
    assert load.lacking() == {}
    assert asked["api"] > 100 and asked["webhook"] > 250 and asked["stranger"] == 0, asked
    for who in OPERATORS:
        assert load.worked[f"watch as {who}"] > 10
        assert load.missed(who) == []


def test_every_leaf_and_bundle_is_of_the_right_ca(outcome: Outcome) -> None:
    kubernetes = outcome.kubernetes
    etcd, aborted = outcome.operator.record("etcd"), outcome.operator.record("kubernetes")
    assert etcd.new is not None and etcd.new.name == "etcd-2" and aborted.old.name == "kubernetes-1"
    for domain, ca, name in (("etcd", etcd.new, "etcd-2"), ("kubernetes", aborted.old, "kubernetes-1")):
        assert set(cas_in_use.leaves(kubernetes, domain).values()) == {ca.sha256}
        assert all(found == {ca.sha256} for found in cas_in_use.trusted(kubernetes, domain).values())
        mount = f"{kubernetes.cluster.prefix}/{domain}"
        issuers = kubernetes.cluster.server.api("LIST", f"{mount}/issuers").data["key_info"]
        own = kubernetes.cluster.server.api("LIST", f"{mount}/keys").data["key_info"]
        # Those above have no key here.
        assert [one["issuer_name"] for one in issuers.values() if one["key_id"]] == [name]
        assert [one["key_name"] for one in own.values()] == [name]


def test_served_chains_are_short_and_bundles_for_clients_whole(outcome: Outcome, signer: OutsideSigner) -> None:
    """The leaf and its issuing CA are served; who checks the API server has all CAs up to the root."""
    kubernetes = outcome.kubernetes
    for row in rows(kubernetes.cluster.model):
        for node in kubernetes.nodes.values():
            crt = node.pki / pair_files(row.stem)[0]
            if crt.exists():
                assert len(x509.read_certificates(crt.read_bytes())) == 2, crt
    above = {x509.read_certificates(signer.pem(name).encode())[0].fingerprint for name in signer.names}
    published = kubernetes.get("configmap", "-n", "default", "kube-root-ca.crt")["data"]["ca.crt"]
    held = {facts.fingerprint for facts in x509.read_certificates(published.encode())}
    assert above < held, published


def test_restarts_took_turns(outcome: Outcome) -> None:
    """Nobody was restarted while another node was; everyone was whose old memory would have been wrong."""
    for before, after in itertools.pairwise(sorted(outcome.restarts, key=lambda restart: restart.begin)):
        assert before.node == after.node or before.end <= after.begin, (before, after)
    counted = Counter((restart.node, restart.component) for restart in outcome.restarts)
    for node in outcome.kubernetes.nodes.values():
        for key, components in outcome.operator.restarts.of(node).items():
            # etcd's CA: once for both CAs, once without the old one. Keys: for the union, the next key, and without it.
            least = {"etcd-ca": 2, SERVICE_ACCOUNT_KEYS: 5}.get(key, 1)
            most = {API_SERVER: 8}
            assert all(least <= counted[node.name, name] <= most.get(name, 3) for name in components), counted


def test_every_listener_refuses_the_leaves_of_the_ca_that_left(outcome: Outcome) -> None:
    kubernetes = outcome.kubernetes
    assert {at: heard.status for at, heard in outcome.let_in.items()} == dict.fromkeys(outcome.let_in, 200)
    refused = cas_in_use.at_etcd(kubernetes, outcome.old_etcd)
    assert {at: "unknown_ca" in heard.alert for at, heard in refused.items()} == dict.fromkeys(refused, True)
    cas_in_use.await_refusal(kubernetes, outcome.new_kubernetes, STEP_SECONDS)
    assert refused.keys() | cas_in_use.at_kubernetes(kubernetes, outcome.new_kubernetes).keys() == outcome.let_in.keys()


def test_no_private_key_is_on_two_machines(outcome: Outcome) -> None:
    nodes = outcome.kubernetes.nodes
    assert held_on_disks.on_two({name: [node.node.folder] for name, node in nodes.items()}) == []
    planes = outcome.kubernetes.having(NodeRole.CONTROL_PLANE)
    assert all(node in planes or not list(node.pki.glob("sa*")) for node in nodes.values())
    assert len({own_keys.of(node).public.read_bytes() for node in planes}) == 1


def test_every_api_server_shows_the_keys_that_count(outcome: Outcome) -> None:
    """And no other: those of the rotation that went back are gone too."""
    shown = {outcome.keys.shown(at) for at in outcome.kubernetes.apis}
    assert len(shown) == 1 and len(shown.pop()) == 2 and outcome.keys.shown_everywhere()


def test_a_key_that_somebody_plants_in_the_record_signs_no_token(outcome: Outcome) -> None:
    """Whoever may write records, and has a key with a certificate of another CA, adds no key: here a worker's."""
    cluster, tokens = outcome.kubernetes, outcome.keys.tokens
    planes, worker = cluster.having(NodeRole.CONTROL_PLANE), cluster.worker
    (certificate, *_) = x509.read_certificates((worker.pki / "kubelet.crt").read_bytes())
    path = f"{cluster.cluster.prefix}/config/data/{KEYS_RECORD}"
    record = service_account.read(cluster.cluster.server.api("GET", path).data["data"], where=path)
    # Beside the real ones: as a node that has left, and whose tokens still count.
    gone = DepartedKey("cp-9", certificate.fingerprint, Departure.REMOVED, record.since, certificate.pem)
    data = service_account.to_json(record.changed(departed=(gone,)))
    before = own_keys.of(planes[0]).public.read_bytes()
    assert cluster.cluster.server.api("POST", path, {"data": data}).status == 200
    # An agent that starts looks at everything.
    for node in planes:
        cluster.agents[node.name].restart()
    time.sleep(30)
    assert all(own_keys.of(node).public.read_bytes() == before for node in planes)
    for node in planes:
        cluster.restart(API_SERVER, node.name)
        outcome.keys.await_ready(node)
    good = tokens.issue(cluster.apis[0])
    forged = signed_by(good, keys.read_key((worker.pki / "kubelet.key").read_bytes()))
    # What signs it is all that is wrong: by the key of the other plane it counts.
    other = signed_by(good, keys.read_key(own_keys.of(planes[1]).private.read_bytes()))
    assert other.text != good.text
    for at in cluster.apis:
        assert [tokens.status_of(each, at) for each in (forged, good, other)] == [401, 201, 201]


def test_control_a_skipped_gate_is_told(outcome: Outcome, signer: OutsideSigner, tmp_path: Path) -> None:
    """With etcd's CA switched before anybody was restarted what has to be empty is not, and the cluster is lost."""
    operator, cluster = outcome.operator, outcome.kubernetes.cluster
    operator.load = dataclasses.replace(operator.load, failures=[], worked=Counter(), ending=threading.Event())
    operator.mark()
    with operator.load.running():
        begin(operator, signer, "etcd", tmp_path / "requests")
        operator.advance("etcd", State.PUBLISHED)
        record = operator.record("etcd")
        assert record.new is not None and operator.faults() == {}
        operator.await_bundles("etcd", record.old.sha256, record.new.sha256)
        handmade_rotation.Rotation(cluster, operator.record("etcd")).move(State.SWITCHED)
        # A server that is refused may log it first, and hears no more than "bad certificate".
        wait_for(
            lambda: any(said in line for line in operator.complaints() for said in UNKNOWN_CA),
            SPREAD + STEP_SECONDS,
            lambda: str(operator.faults() or "nobody complains"),
            pause=1,
        )
    assert operator.faults() != {}
