"""The record of service-account keys: it is read as it was written, and nothing else is read."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from vaultpki.errors import SpecError
from vaultpki.records import service_account
from vaultpki.records.service_account import DepartedKey, Departure, KeyMethod, KeyRecord, KeyState, NodeKeys

NOW = datetime(2027, 1, 1, tzinfo=UTC)
PEM = "-----BEGIN CERTIFICATE-----\n{}\n-----END CERTIFICATE-----\n"
GONE = DepartedKey("cp-9", "c" * 64, Departure.REMOVED, NOW, PEM.format("nine"), NOW + timedelta(days=365))
RECORD = KeyRecord(
    KeyState.SWITCHED,
    9,
    NOW,
    {
        "cp-1": NodeKeys(1, 2, admitted=True, certificates={1: PEM.format("one"), 2: PEM.format("two")}),
        "cp-2": NodeKeys(3, 3, certificates={3: PEM.format("three")}),
    },
    KeyMethod.ROTATION,
    {"cp-1": 2, "cp-2": 3, "cp-9": 4},
    {"cp-1": 1, "cp-2": 3},
    (GONE, DepartedKey("cp-8", "d" * 64, Departure.STOLEN, NOW)),
    "e" * 64,
    "cp-2",
    ("cp-1",),
    NOW,
    3600,
    stated=True,
)


def read(value: Any) -> KeyRecord:
    return service_account.read(value, where="keys")


def test_it_is_read_as_it_was_written() -> None:
    assert read(service_account.to_json(RECORD)) == RECORD
    plain = KeyRecord(KeyState.STEADY, 1, NOW)
    assert read(service_account.to_json(plain)) == plain


@pytest.mark.parametrize(
    ("state", "held"),
    [
        (KeyState.STEADY, ("one",)),
        (KeyState.PUBLISHED, ("one", "two")),
        (KeyState.SWITCHED, ("one", "two")),
        (KeyState.RETIRED, ("two",)),
        (KeyState.DONE, ("two",)),
        (KeyState.RETRUSTING, ("one", "two")),
        (KeyState.RETURNING, ("one", "two")),
    ],
)
def test_what_unions_hold(state: KeyState, held: tuple[str, ...]) -> None:
    wanted = tuple(PEM.format(word) for word in (*held, "three", "nine"))
    assert replace(RECORD, state=state).offered == wanted
    assert RECORD.key_nodes == {"cp-1", "cp-2", "cp-9"}


def test_numbers_of_nodes() -> None:
    assert RECORD.numbers("cp-1") == (1, 2)
    assert RECORD.numbers("cp-2") == (3,)
    # One that was there before gets no number twice; one that nobody knows gets the first.
    assert (RECORD.numbers("cp-9"), RECORD.numbers("cp-3")) == ((5,), (1,))
    keys = RECORD.nodes["cp-1"]
    signs = {state: keys.signs_with(state) for state in KeyState}
    assert {state for state, number in signs.items() if number == 1} == {
        KeyState.STEADY,
        KeyState.PUBLISHED,
        KeyState.RETURNING,
    }


def test_a_step_forgets_what_was_said() -> None:
    after = RECORD.moved(KeyState.RETIRED, NOW + timedelta(days=1))
    assert (after.revision, after.restarted, after.signing_since, after.life) == (10, (), None, 0)
    assert after.departed == RECORD.departed and not after.stated


KEYS = service_account.to_json(RECORD)["nodes"]["cp-1"]
DEPARTED = service_account.to_json(RECORD)["departed"][0]


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        ({"version": 2}, "version"),
        ({"state": "prepared"}, "state"),
        ({"method": "same-key"}, "method"),
        ({"revision": 0}, "revision"),
        ({"revision": 1 << 53}, "revision"),
        ({"since": "today"}, "since"),
        ({"nodes": []}, "nodes"),
        ({"nodes": {"cp 1": KEYS}}, "nodes"),
        ({"nodes": {"cp-1": KEYS | {"old": 0}}}, "old"),
        ({"nodes": {"cp-1": KEYS | {"new": True}}}, "new"),
        ({"nodes": {"cp-1": KEYS | {"certificates": {"7": PEM}}}}, "certificates"),
        ({"nodes": {"cp-1": KEYS | {"certificates": {"1": ""}}}}, "certificates"),
        ({"nodes": {"cp-1": KEYS | {"certificates": {"1": "x" * 9000}}}}, "certificates"),
        ({"state": "steady"}, "nodes"),
        ({"highest": {"cp-1": 1, "cp-2": 3}}, "highest"),
        ({"nodes": {"cp-1": KEYS | {"old": 2, "new": 1}}}, "highest"),
        ({"lowest": {"cp-1": "1"}}, "lowest"),
        ({"departed": [DEPARTED | {"sha256": "c"}]}, "sha256"),
        ({"departed": [DEPARTED | {"why": "stolen"}]}, "pem"),
        ({"departed": [DEPARTED | {"node": "cp 9"}]}, "node"),
        ({"departed": {}}, "departed"),
        ({"departed": [DEPARTED] * (service_account.MOST_DEPARTED + 1)}, "departed"),
        ({"shared": "e"}, "shared"),
        ({"turn": "cp 2"}, "turn"),
        ({"restarted": ["cp-1", "cp-1"]}, "restarted"),
        ({"restarted": ["-"]}, "restarted"),
        ({"signing_since": 1}, "signing_since"),
        ({"life": -1}, "life"),
    ],
)
def test_what_no_vaultpki_writes_is_refused_by_name(changes: dict[str, Any], field: str) -> None:
    with pytest.raises(SpecError) as caught:
        read(service_account.to_json(RECORD) | changes)
    assert caught.value.field == field and str(caught.value.file).startswith("keys")


def test_a_record_that_is_none() -> None:
    with pytest.raises(SpecError, match="not a record of vaultpki"):
        read([])
