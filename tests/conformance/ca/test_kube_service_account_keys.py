"""Two real control planes whose service-account keys are their own: a rotation and an abort, and no token is refused.

Tokens of each API server are used at both, all the time. A quarter of an hour, and mostly of waiting: no token lives
shorter than ten minutes, and those that the old keys have signed must end first. An abort of later states waits for as
long again: `make soak-keys` has all of them.
"""

from __future__ import annotations

import base64
import hashlib
import json
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature

from helpers.kube import kube_cluster, operator_under_load, own_keys
from helpers.kube.components import Programs
from helpers.kube.kube_cluster import Kubernetes
from helpers.kube.operator_under_load import OperatorUnderLoad
from helpers.kube.restarts import API_SERVER
from helpers.kube.token_load import LIFE, Token, TokenLoad, legacy
from helpers.vault import servers
from helpers.vault.servers import wait_for
from vaultpki.model import NodeRole
from vaultpki.pki import keys, x509
from vaultpki.records import service_account
from vaultpki.records.service_account import KEYS_RECORD, SERVICE_ACCOUNT_KEYS, DepartedKey, Departure, KeyState

pytestmark = pytest.mark.conformance

SPEC = f"""\
service_account_keys: true
{kube_cluster.GROWING}\
certificates:
  extension: {{kind: server, ca: kubernetes, common_name: extension, names: [extension.default.svc], roles: [etcd]}}
"""
# What a person states: a minute more than any token of this cluster lives.
STATED = LIFE + 60
STEP_SECONDS = 1500.0


@dataclass(slots=True)
class KeyOperator:
    """Who rotates the keys of a cluster under load, and which states they went through."""

    operator: OperatorUnderLoad
    tokens: TokenLoad
    states: list[KeyState] = field(default_factory=list)

    @property
    def kubernetes(self) -> Kubernetes:
        return self.operator.kubernetes

    def state(self) -> KeyState:
        found = own_keys.record(self.kubernetes)
        assert found is not None
        return found.state

    def until_published(self) -> None:
        """Take steps until the first API server is to be restarted, to accept the next keys too."""

        def begun() -> bool:
            self.operator.ca("continue", expect=(0, 1, 3))
            found = own_keys.record(self.kubernetes)
            assert found is not None and found.state is KeyState.PUBLISHED, found
            return bool(found.turn)

        wait_for(begun, STEP_SECONDS, lambda: "nobody has the turn", pause=1)

    def restart_managers(self) -> None:
        """Restart the controller managers once every API server signs with the key of this state.

        They keep tokens of an hour, so who states that tokens live shorter restarts them, as the page says.
        """

        def signing() -> bool:
            self.operator.ca("continue", expect=(0, 1, 3))
            found = own_keys.record(self.kubernetes)
            return found is not None and found.waits_for_tokens

        wait_for(signing, STEP_SECONDS, lambda: "API servers do not sign with the keys of this state", pause=3)
        for node in self.kubernetes.having(NodeRole.CONTROL_PLANE):
            self.kubernetes.restart("kube-controller-manager", node.name)

    def settle(self, goal: KeyState, act: str = "continue", *words: str) -> None:
        """Take steps until the keys are in this state."""
        looks = ("--kubeconfig", self.kubernetes.admin)
        last = [""]

        def there() -> bool:
            ran = self.operator.ca(act, *looks, *words, expect=(0, 1, 3))
            last[0] = ran.stdout + ran.stderr
            # The API server that the kubeconfig names may be restarted just now.
            assert ran.returncode != 1 or "cannot be reached" in ran.stderr or "in time" in ran.stderr, last[0]
            if (state := self.state()) not in self.states[-1:]:
                self.states.append(state)
            return state is goal

        wait_for(there, STEP_SECONDS, lambda: f"{goal} is not reached: {last[0]}", pause=3)


@pytest.fixture(scope="module")
def cluster(
    stands: Callable[[], None],
    programs: Programs,
    vault_binary: Path | None,
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[Kubernetes]:
    """Two control planes with etcd and a worker of a pool, through HashiCorp Vault."""
    folder = tmp_path_factory.mktemp("keys")
    with (
        servers.running("vault", folder / "server", vault_binary) as server,
        kube_cluster.cluster(server, programs, folder / "kube", SPEC, comers=kube_cluster.COMERS) as running,
    ):
        stands()
        yield running


@pytest.fixture(scope="module")
def rotated(cluster: Kubernetes) -> Iterator[KeyOperator]:
    """The cluster after an abort and a whole rotation; tokens are no longer used."""
    with operator_under_load.standing(cluster, pace=3) as operator:
        tokens = TokenLoad(cluster, operator.restarts.serving)
        made = KeyOperator(operator, tokens)
        operator.mark()
        with operator.load.running(), tokens.running():
            tokens.kept.append(legacy(cluster, "legacy"))
            operator.ca("rotate", SERVICE_ACCOUNT_KEYS)
            made.until_published()
            made.settle(KeyState.STEADY, "abort")
            operator.ca("rotate", SERVICE_ACCOUNT_KEYS)
            made.settle(KeyState.SWITCHED)
            waiting = operator.waiting("continue", "--kubeconfig", cluster.admin)
            assert "legacy-tokens" in waiting and "default/legacy" in waiting["legacy-tokens"], waiting
            made.restart_managers()
            tokens.kept.clear()
            stated = ("--token-life", f"{STATED}s", "--yes", "--without", "legacy-tokens")
            made.settle(KeyState.RETIRED, "continue", *stated)
            made.settle(KeyState.DONE)
            time.sleep(20)
        yield made


def test_it_went_through_every_state(rotated: KeyOperator) -> None:
    forward = [KeyState.SWITCHED, KeyState.RETIRED, KeyState.DONE]
    assert [each for each in rotated.states if each is not KeyState.PUBLISHED] == [KeyState.STEADY, *forward]


def test_no_token_was_refused(rotated: KeyOperator) -> None:
    assert [str(each) for each in rotated.tokens.failures] == []
    assert rotated.operator.faults() == {}
    apis = rotated.kubernetes.apis
    assert all(rotated.tokens.used[issuer, at] > 100 for issuer in apis for at in apis), rotated.tokens.used
    # Each plane signed with its first key and its third: the abort came before any signed with its second.
    assert len(rotated.tokens.key_ids) == 4, rotated.tokens.key_ids


def test_no_private_key_is_on_two_machines(rotated: KeyOperator) -> None:
    held = [
        {keys.public_der(keys.read_key(path.read_bytes())) for path in node.pki.rglob("*.key")}
        for node in rotated.kubernetes.nodes.values()
    ]
    assert sum(map(len, held)) == len(set().union(*held))
    for node in rotated.kubernetes.having(NodeRole.WORKER):
        assert not list(node.pki.glob("sa*"))
    unions = {own_keys.of(node).public.read_bytes() for node in rotated.kubernetes.having(NodeRole.CONTROL_PLANE)}
    assert len(unions) == 1


def test_every_api_server_shows_the_keys_that_count(rotated: KeyOperator) -> None:
    """And no other: those of the rotation that went back are gone too."""
    cluster = rotated.kubernetes
    shown = [
        cluster.kubectl(cluster.admin, f"--server=https://{host}:{port}", "get", "--raw", "/openid/v1/jwks").stdout
        for host, port in cluster.apis
    ]
    ids = [{each["kid"] for each in json.loads(text)["keys"]} for text in shown]
    assert ids[0] == ids[1] and len(ids[0]) == 2
    written = json.loads(rotated.operator.ca("jwks", expect=[0]).stdout)["keys"]
    assert {each["kid"] for each in written} == ids[0]


def test_a_key_that_somebody_plants_in_the_record_signs_no_token(rotated: KeyOperator) -> None:
    """Whoever may write records, and has a key with a certificate of another CA, adds no key: here a worker's."""
    cluster = rotated.kubernetes
    planes = cluster.having(NodeRole.CONTROL_PLANE)
    worker = next(iter(cluster.having(NodeRole.WORKER)))
    (certificate, *_) = x509.read_certificates((worker.pki / "kubelet.crt").read_bytes())
    planted = keys.read_key((worker.pki / "kubelet.key").read_bytes())
    assert isinstance(planted, ec.EllipticCurvePrivateKey)
    path = f"{cluster.cluster.prefix}/config/data/{KEYS_RECORD}"
    data = cluster.cluster.server.api("GET", path).data["data"]
    record = service_account.read(data, where=path)
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
        wait_for(lambda node=node: cluster.ready(at=node), 60, lambda: "an API server is not ready", pause=0.3)  # type: ignore[misc]
    good = rotated.tokens.issue(cluster.apis[0])
    forged = Token(cluster.apis[0], time.time() + LIFE, _signed(good.text, planted))
    for at in cluster.apis:
        assert rotated.tokens.status_of(forged, at) == 401
        assert rotated.tokens.status_of(good, at) == 201


def test_control_the_same_token_by_a_key_of_the_union_is_accepted(rotated: KeyOperator) -> None:
    """What the test before it signs is well made: by the key of the other plane it counts."""
    one, other = rotated.kubernetes.having(NodeRole.CONTROL_PLANE)
    key = keys.read_key(own_keys.of(other).private.read_bytes())
    assert isinstance(key, ec.EllipticCurvePrivateKey)
    good = rotated.tokens.issue(rotated.kubernetes.apis[0])
    signed = Token(good.issuer, good.until, _signed(good.text, key))
    assert signed.text != good.text and one is not other
    for at in rotated.kubernetes.apis:
        assert rotated.tokens.status_of(signed, at) == 201


def _signed(token: str, key: ec.EllipticCurvePrivateKey) -> str:
    """The same claims signed with another key, under that key's id."""
    _, claims, _ = token.split(".")
    # kube-apiserver looks a key up by this id, which it makes of the public key.
    kid = _encoded(hashlib.sha256(keys.public_der(key)).digest())
    signed = f"{_encoded(json.dumps({'alg': 'ES256', 'kid': kid}).encode())}.{claims}"
    r, s = decode_dss_signature(key.sign(signed.encode(), ec.ECDSA(hashes.SHA256())))
    return f"{signed}.{_encoded(r.to_bytes(32, 'big') + s.to_bytes(32, 'big'))}"


def _encoded(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()
