"""The agent's memory: what it keeps, and that nothing found in its place can harm or stop anybody."""

from __future__ import annotations

import json
import os
import typing
from dataclasses import fields, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vaultpki.errors import Denied, NeedsJoin, Refused, StoreError, Unavailable, VaultpkiError
from vaultpki.host.boot_time import Moment
from vaultpki.host.hooks import Owed
from vaultpki.node.backoff import MOST_SIGNINGS, next_try
from vaultpki.node.state import (
    STATE_FILE,
    AgentState,
    Fault,
    IssuedRecord,
    PostponedRenewal,
    ReaderSeen,
    Since,
    load,
    save,
    state_of,
    with_faults,
    with_spent,
)

NOW = 1_780_000_000.25
FULL = AgentState(
    certificates={"kubelet": IssuedRecord(2**159 - 1, NOW, 2592000, 86400)},
    spent={"kubelet": (NOW - 5, NOW)},
    faults={"vault": Fault("no answer in time", NOW - 60, NOW, 3)},
    hooked={"kubelet": "4f1c"},
    owed={"etcd-ca": Owed(NOW, 2, NOW + 30, "systemctl exited with 1")},
    trust="4f1c-9a0e",
    trust_since=NOW - 3600,
    state="backing-off",
    held={"etcd-peer": NOW + 600},
    revisions={"etcd": 7},
    vanished={"4f" * 32: NOW - 60},
    bundles={"etcd": Since(NOW - 600, ("4f" * 32,))},
    leaves={"etcd-peer": Since(NOW - 400, ("9a" * 32, "4f" * 32), moment=Moment("9a0e", 70.5))},
    readers={"etcd/etcd": ReaderSeen(NOW - 500, ("4f" * 32,), Moment("9a0e", 77.25), True, "/readyz answers 500")},
    reported="9a0e",
    clock_offset=-42.5,
    root="4f" * 32,
    asked=NOW - 30,
    revoked={"etcd-peer": 2**159 - 1},
    exposed={"kubelet": 7},
    unsafe=("/etc/kubernetes",),
    unanswered={"kubelet": (NOW,)},
    postponed={"kubelet": PostponedRenewal(7, NOW + 86400.0, 1)},
    surplus={"old.crt": ("kubelet", "4f" * 32)},
    left={"kubelet.crt": "644 600 600 " + "4f" * 32},
    next_within=4200,
)
LATER = (
    *("revisions", "vanished", "bundles", "leaves", "readers", "versions", "reported"),
    *("clock_offset", "root", "asked", "revoked", "exposed", "unsafe", "unanswered", "postponed"),
    *("hooked_own", "by_hand", "lowest", "lowest_root", "token_life", "token_issuer", "not_admitted", "surplus"),
    *("left", "next_within"),
)


def written(folder: Path, data: bytes) -> str:
    path = folder / STATE_FILE
    path.write_bytes(data)
    path.chmod(0o600)
    return str(folder)


def as_json(folder: Path) -> dict[str, Any]:
    value = json.loads((folder / STATE_FILE).read_bytes())
    assert isinstance(value, dict)
    return value


def test_what_is_saved_is_loaded_by_the_next_process(tmp_path: Path) -> None:
    assert load(str(tmp_path)) == AgentState()
    for memory in (FULL, AgentState()):
        save(str(tmp_path), memory)
        assert load(str(tmp_path)) == memory
    assert (tmp_path / STATE_FILE).stat().st_mode & 0o777 == 0o600
    assert os.listdir(tmp_path) == [STATE_FILE]


def test_what_vaultpki_0_3_leaves_out_is_read_as_empty(tmp_path: Path) -> None:
    save(str(tmp_path), FULL)
    value = as_json(tmp_path)
    written(tmp_path, json.dumps({name: each for name, each in value.items() if name not in LATER}).encode())
    assert load(str(tmp_path)) == replace(FULL, **{name: getattr(AgentState(), name) for name in LATER})


def test_it_has_a_version_and_a_newer_one_is_not_guessed_at(tmp_path: Path) -> None:
    save(str(tmp_path), FULL)
    value = as_json(tmp_path)
    assert value["version"] == 1
    versions: tuple[object, ...] = (2, 0, "1", None, [])
    for version in versions:
        written(tmp_path, json.dumps({**value, "version": version}).encode())
        assert load(str(tmp_path)) == AgentState()


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"{}",
        b"[]",
        b"null",
        b"17",
        b'"version"',
        b'{"version": 1}',
        b'{"version": 1',
        b"\x00" * 4096,
        b"\xff\xfe{}",
        b"[" * 100_000,
        b'{"version": 1, "certificates": ' * 5000,
        b" " * (1024 * 1024 + 1) + b"{}",
    ],
    ids=lambda data: f"{data[:12]!r}-{len(data)}",
)
def test_garbage_is_no_memory(data: bytes, tmp_path: Path) -> None:
    assert load(written(tmp_path, data)) == AgentState()


def test_cut_short_anywhere_it_is_no_memory(tmp_path: Path) -> None:
    save(str(tmp_path), FULL)
    whole = (tmp_path / STATE_FILE).read_bytes()
    for end in range(len(whole)):
        assert load(written(tmp_path, whole[:end])) == AgentState(), whole[:end]


NUMBERS = [float("nan"), float("inf"), -float("inf"), 1e300, -1, 10**400, 253402300800, "x", None, [], {}]


@pytest.mark.parametrize("bad", NUMBERS, ids=lambda bad: str(bad)[:12])
@pytest.mark.parametrize(
    "path",
    [
        "certificates.kubelet.signed",
        "certificates.kubelet.granted",
        "trust_since",
        "spent",
        "vanished.x",
        "bundles.etcd.since",
    ],
)
def test_a_number_that_is_no_time_is_no_memory(path: str, bad: object, tmp_path: Path) -> None:
    save(str(tmp_path), FULL)
    value = as_json(tmp_path)
    *parents, last = path.split(".")
    at = value
    for part in parents:
        at = at[part]
    at[last] = {"kubelet": [NOW, bad]} if path == "spent" else bad
    assert load(written(tmp_path, json.dumps(value).encode())) == AgentState()


TEXT = st.text(max_size=8)
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | TEXT,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXT, inner, max_size=3),
    max_leaves=6,
)


@settings(max_examples=40, deadline=None)
@given(data=st.data())
def test_whatever_stands_there_loads_as_something_every_pass_can_use(
    data: st.DataObject, tmp_path_factory: pytest.TempPathFactory
) -> None:
    folder = tmp_path_factory.mktemp("state")
    save(str(folder), FULL)
    value = as_json(folder)
    at = value
    while True:
        key = data.draw(st.sampled_from(sorted(at)))
        if not isinstance(at[key], dict) or not at[key] or data.draw(st.booleans()):
            break
        at = at[key]
    at[key] = data.draw(JSON)
    memory = load(written(folder, json.dumps(value).encode()))
    for known in memory.certificates.values():
        assert datetime.fromtimestamp(known.signed, UTC) and known.granted * 0.4 >= 0
    for spent in memory.spent.values():
        assert next_try(spent, NOW, 300.0) >= NOW
    assert datetime.fromtimestamp(memory.trust_since, UTC)
    save(str(folder), memory)
    assert load(str(folder)) == memory


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o666])
def test_a_file_that_others_can_read_is_not_believed(mode: int, tmp_path: Path) -> None:
    save(str(tmp_path), FULL)
    (tmp_path / STATE_FILE).chmod(mode)
    assert load(str(tmp_path)) == AgentState()
    save(str(tmp_path), FULL)
    assert load(str(tmp_path)) == FULL


def test_a_link_a_folder_and_a_pipe_are_no_memory(tmp_path: Path) -> None:
    save(str(tmp_path), FULL)
    path = tmp_path / STATE_FILE
    path.rename(tmp_path / "elsewhere")
    path.symlink_to("elsewhere")
    assert load(str(tmp_path)) == AgentState()
    path.unlink()
    path.mkdir()
    assert load(str(tmp_path)) == AgentState()
    path.rmdir()
    os.mkfifo(path, 0o600)
    assert load(str(tmp_path)) == AgentState()
    assert load(str(tmp_path / "nowhere")) == AgentState()


def test_a_folder_that_is_not_there_is_told(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match="nowhere"):
        save(str(tmp_path / "nowhere"), FULL)
    (tmp_path / "open").mkdir()
    (tmp_path / "open").chmod(0o777)
    with pytest.raises(StoreError, match="open"):
        save(str(tmp_path / "open"), FULL)


def test_it_has_no_place_for_a_secret() -> None:
    """Nothing but names, numbers, digests and the sentences of faults; a field more must be thought about here."""
    assert {each.name for each in fields(AgentState)} == {
        *("certificates", "spent", "held", "faults", "hooked", "owed", "trust", "trust_since"),
        *("state", *LATER),
    }
    for row in (IssuedRecord, PostponedRenewal, Fault, Owed, Since, ReaderSeen, Moment):
        hints = typing.get_type_hints(row)
        texts = {name for name, hint in hints.items() if hint not in {int, float, bool, Moment | None}}
        assert texts <= {"text", "error", "sha256", "problem", "boot"}


def test_a_fault_keeps_its_beginning_and_counts_while_it_lasts() -> None:
    first = with_faults(AgentState(), {"vault": "sealed", "kubelet": "no"}, NOW)
    assert first.faults == {"vault": Fault("sealed", NOW, NOW, 1), "kubelet": Fault("no", NOW, NOW, 1)}
    second = with_faults(first, {"vault": "no answer"}, NOW + 9)
    assert second.faults == {"vault": Fault("no answer", NOW, NOW + 9, 2)}
    assert with_faults(second, {}, NOW + 10).faults == {}
    assert with_faults(with_faults(second, {}, NOW), {"vault": "x"}, NOW + 11).faults["vault"].since == NOW + 11
    assert first.faults["vault"].count == 1, "a memory is a value"


def test_a_signing_is_added_and_the_newest_taken_away() -> None:
    memory = with_spent(with_spent(AgentState(), {"a": NOW, "b": NOW}), {"a": NOW + 1})
    assert memory.spent == {"a": (NOW, NOW + 1), "b": (NOW,)}
    assert with_spent(memory, {"a": None, "b": None}).spent == {"a": (NOW,)}
    assert with_spent(memory, {"c": None}).spent == memory.spent


def test_no_more_is_kept_than_a_day_may_have() -> None:
    begin = MOST_SIGNINGS - 50
    memory = AgentState(spent={"a": tuple(NOW + second for second in range(begin))})
    for second in range(begin, MOST_SIGNINGS + 50):
        memory = with_spent(memory, {"a": NOW + second})
    assert memory.spent["a"] == tuple(NOW + second for second in range(50, MOST_SIGNINGS + 50))


def test_what_was_signed_later_than_now_was_signed_now_at_the_latest() -> None:
    memory = AgentState(spent={"a": (NOW + 9e9, NOW - 5, NOW + 60)})
    assert with_spent(memory, {"a": NOW}).spent["a"] == (NOW - 5, NOW, NOW, NOW)
    assert with_spent(with_spent(memory, {"a": NOW}), {"a": None}).spent["a"] == (NOW - 5, NOW, NOW)
    # Old ones stay for a clock that comes back to their day.
    assert with_spent(memory, {"a": NOW + 9e9 + 1}).spent["a"][0] == NOW - 5


@pytest.mark.parametrize(
    ("failures", "state"),
    [
        ([], "ok"),
        ([Unavailable("x")], "backing-off"),
        ([Denied("x"), Refused("x", status=400)], "backing-off"),
        ([StoreError("x"), NeedsJoin("x")], "needs-join"),
    ],
)
def test_one_word_for_the_agent(failures: list[VaultpkiError], state: str) -> None:
    assert state_of(failures) == state
