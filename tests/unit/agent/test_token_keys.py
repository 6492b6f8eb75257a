"""The service-account keys of a node: which are deleted, and when kube-apiserver may start."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from helpers.example_agent import agent_config
from helpers.foreign_ca import ForeignCa
from vaultpki.agent import token_keys
from vaultpki.agent.context import Contact, Context, PassOptions
from vaultpki.agent.readers_seen import OF_TOKEN_KEYS
from vaultpki.agent.token_keys import KeysOnDisk
from vaultpki.certificates import SERVICE_ACCOUNT, file_set, pair_files
from vaultpki.disk.folders import Folders
from vaultpki.disk.generations import File
from vaultpki.issue.issuers import Issuers
from vaultpki.issue.rotations import Rotations
from vaultpki.model import Certificate, KeyType, Subject, Usage
from vaultpki.node.assignment import Assignment
from vaultpki.node.state import StateFile
from vaultpki.pki.facts import Trust
from vaultpki.pki.key_plan import KeyPlan, KeysHeld
from vaultpki.places import PKI

KEY = Certificate(
    SERVICE_ACCOUNT,
    Usage.SIGNING,
    Subject("service-account:cp-1:1"),
    SERVICE_ACCOUNT,
    f"m/{SERVICE_ACCOUNT}",
    SERVICE_ACCOUNT,
    86400,
    KeyType.EC_P256,
    "service-account-1",
)
CA = ForeignCa("prod service-account CA").facts
PLAN: dict[str, Any] = {"make": (), "signing": None, "union": (), "refused": (), "lowest": {}}


@pytest.fixture
def context(tmp_path: Path) -> Iterator[Context]:
    (tmp_path / "state").mkdir(mode=0o700)
    with Folders.open({PKI: str(tmp_path / "pki")}) as folders:
        config = agent_config(state=str(tmp_path / "state"), directory=folders.path)
        yield Context(config, PassOptions(()), folders, 1e9, StateFile(config.state), None)


def planned(*, delete: tuple[int, ...] = (), admitted: bool = True, shared: str = "") -> KeysOnDisk:
    return KeysOnDisk({}, KeysHeld(), KeyPlan(delete=delete, admitted=admitted, **PLAN), shared=shared)


def test_the_private_key_of_a_number_that_the_record_has_ended_is_deleted(
    context: Context, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whoever finds it later could sign tokens, and the other keys stay."""
    stems = [token_keys.certificate(KEY, number).stem for number in (1, 2)]
    for stem in stems:
        files = {name: File(b"a private key\n", 0o600) for name in pair_files(stem)}
        context.folders.install(PKI, file_set(stem), files)
    monkeypatch.setattr(token_keys, "look", lambda *given: planned(delete=(1,)))
    wanted = Assignment(0.0, "", "", frozenset(), (), (), Issuers({}, ()), {}, Rotations(), token_key=KEY)
    trust = {SERVICE_ACCOUNT: Trust(CA, (), (), frozen=True)}
    assert not token_keys.reconcile_keys(context, Contact(), wanted, trust).refused
    context.folders.settle(0.0)
    left = {path.name for path in Path(context.folders.path).rglob("*") if path.is_file()}
    assert not left.intersection(pair_files(stems[0])) and left.issuperset(pair_files(stems[1]))
    assert [event.text for event in context.found.events] == [
        "deleted service-account key 1 of this node, which the record has ended"
    ]


@pytest.mark.parametrize(
    ("keys", "waits"),
    [
        (None, False),
        (planned(), False),
        (planned(admitted=False), True),
        # Where nodes share a key that no agent has made, it runs as before.
        (planned(admitted=False, shared="4f" * 32), False),
    ],
)
def test_kube_apiserver_waits_until_the_record_admits_the_nodes_own_key(
    context: Context, keys: KeysOnDisk | None, waits: bool
) -> None:
    """Other API servers would refuse its tokens."""
    token_keys.note_admission(context, keys, OF_TOKEN_KEYS)
    assert bool(context.state.value.not_admitted) is waits
    assert [event.name for event in context.found.events] == (["service-account-keys"] if waits else [])
