"""An apply and a rotation that meet on one CA, and the numbers of their records."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from helpers.example_cluster import BASE, load
from vaultpki.errors import ChangedMeanwhile, Refused, SpecError
from vaultpki.identity.applied import AppliedRecord
from vaultpki.provision import authorities, carry_out, rotation_records
from vaultpki.provision.plan import Change, Plan
from vaultpki.provision.read_back import CaMount
from vaultpki.records.rotation import BEYOND, CaRef, RotationRecord, State
from vaultpki.records.server_facts import ServerFacts
from vaultpki.records.service_account import KeyRecord, KeyState
from vaultpki.vault import Settings, Vault
from vaultpki.vault.kv import Stored

WHEN = datetime(2026, 11, 26, 12, tzinfo=UTC)
VAULT = Vault(Settings(("https://127.0.0.1:1",)))
ETCD = RotationRecord("etcd", State.STEADY, 3, WHEN, CaRef("etcd-1", sha256="a1" * 32))
KEYS = KeyRecord(KeyState.STEADY, 3, WHEN)
MOUNT = "vaultpki/prod/etcd"


@pytest.mark.parametrize("gone_on", [False, True])
def test_the_issuer_of_a_ca_whose_rotation_has_gone_on_is_not_changed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, gone_on: bool
) -> None:
    """The plan was made for the issuer of before, and a rotation may have made another one the default."""
    changed = list[str]()
    now = replace(ETCD, state=State.PUBLISHED, revision=4, new=CaRef("etcd-2")) if gone_on else ETCD
    monkeypatch.setattr(carry_out, "read_record", lambda cluster, vault, ca: Stored(now, 4))
    monkeypatch.setattr(authorities, "update_issuer", lambda vault, mount, issuer, fields: changed.append(issuer))
    found = SimpleNamespace(cas={MOUNT: CaMount(issuer="5f0c")}, rotations={"etcd": ETCD}, as_stored={"etcd": ETCD})
    seen: Any = SimpleNamespace(found=found)
    run = carry_out._Run(load(tmp_path, BASE), VAULT, seen, Plan(()), ServerFacts(), {}, AppliedRecord())
    change = Change("update", "issuer", MOUNT, {"usage": ("crl-signing", "read-only")})
    if gone_on:
        with pytest.raises(Refused, match="the rotation of etcd has gone on since the plan was made"):
            carry_out._make_issuer(run, change, {"usage": "read-only"})
    else:
        carry_out._make_issuer(run, change, {"usage": "read-only"})
    assert changed == ([] if gone_on else ["5f0c"])


@pytest.mark.parametrize(
    ("write", "record"),
    [(rotation_records.write_record, ETCD), (rotation_records.write_key_record, KEYS)],
    ids=["ca", "keys"],
)
def test_no_record_is_written_that_nobody_could_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, write: Callable[..., Stored[Any]], record: Any
) -> None:
    """A forged revision at the end of the numbers leads there, and would stop every node and command."""
    written = list[int]()

    def once(vault: Vault, store: str, path: str, value: Any, version: int, lost: ChangedMeanwhile) -> None:
        written.append(value["revision"])

    monkeypatch.setattr(rotation_records, "write_once", once)
    cluster = load(tmp_path, BASE)
    for revision in (3, BEYOND - 1):
        assert write(cluster, VAULT, replace(record, revision=revision), 7).version == 8
    with pytest.raises(SpecError, match="has the highest revision that there is"):
        write(cluster, VAULT, replace(record, revision=BEYOND), 7)
    assert written == [3, BEYOND - 1]
