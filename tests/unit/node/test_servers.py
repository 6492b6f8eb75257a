"""At which server a node gets its certificates during a move: by the records that it reads, and what it has read."""

from __future__ import annotations

import json
import stat
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import pytest

from helpers.example_agent import agent_config
from vaultpki.errors import SpecError, StoreError
from vaultpki.join import hand_over
from vaultpki.node import servers
from vaultpki.node.servers import KnownServers
from vaultpki.records.move import LostServer, MovedCa, MoveRecord, ServerPlace
from vaultpki.records.rotation import Kept, State

OLD = ServerPlace(("https://old:8200",), "vaultpki/prod")
NEW = ServerPlace(("https://new:8200",), "vaultpki/moved", "team1")
CA = MovedCa("kubernetes-1", "1f" * 32, "kubernetes-2", "2f" * 32)
AT_OLD = KnownServers(number=3, place=NEW, role_id="9a0f", highest=5)
AT_NEW = replace(AT_OLD, at_new=True)


def record(state: State, revision: int = 6, **fields: object) -> MoveRecord:
    made = MoveRecord(
        state, revision, datetime(2026, 6, 1, tzinfo=UTC), 3, OLD, NEW, {"kubernetes": CA}, "4f" * 32, "5f" * 32, "PEM"
    )
    return replace(made, **fields)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("state", "at_new"),
    [
        (State.PREPARED, False),
        (State.PUBLISHED, False),
        (State.SWITCHED, True),
        (State.RETIRED, True),
        (State.DONE, True),
        (State.RETRUSTING, True),
        (State.RETURNING, False),
    ],
)
@pytest.mark.parametrize("known", [AT_OLD, AT_NEW])
def test_the_record_says_at_which_server_leaves_are_signed(state: State, at_new: bool, known: KnownServers) -> None:
    found = servers.followed(known, record(state))
    assert (found.at_new, found.highest, found.place) == (at_new, 6, NEW)


@pytest.mark.parametrize("state", list(State))
@pytest.mark.parametrize("known", [AT_OLD, AT_NEW])
def test_an_older_record_changes_nothing(state: State, known: KnownServers) -> None:
    assert servers.followed(known, record(state, 4)) == known


@pytest.mark.parametrize("state", [each for each in State if each is not State.STEADY])
def test_without_a_credential_no_record_leads_to_the_new_server(state: State) -> None:
    assert not servers.followed(KnownServers(), record(state)).at_new
    # Nor does one of another hand-over than the one that was taken.
    assert servers.followed(AT_OLD, record(state, number=4)).at_new is False
    assert servers.followed(AT_OLD, record(state, number=2)).at_new is False


@pytest.mark.parametrize("known", [AT_OLD, AT_NEW, KnownServers()])
def test_an_abort_ends_the_hand_over_for_good(known: KnownServers) -> None:
    ended = servers.followed(known, record(State.STEADY, 9))
    assert ended == KnownServers(highest=9, ended=3)
    replayed = record(State.PUBLISHED, 12)
    assert not hand_over.wanted(ended, replayed, in_place=False)
    assert not servers.followed(ended, record(State.SWITCHED, 13)).at_new
    assert hand_over.wanted(ended, replace(replayed, number=4), in_place=False)


def test_a_hand_over_is_wanted_once() -> None:
    published = record(State.PUBLISHED)
    assert hand_over.wanted(KnownServers(), published, in_place=False)
    assert not hand_over.wanted(AT_OLD, published, in_place=True)
    # A credential that was lost is taken anew; a lower number never is.
    assert hand_over.wanted(AT_OLD, published, in_place=False)
    assert not hand_over.wanted(AT_OLD, replace(published, number=2), in_place=False)
    assert hand_over.wanted(AT_OLD, replace(published, number=4), in_place=True)
    for state in (State.STEADY, State.PREPARED, State.DONE):
        assert not hand_over.wanted(KnownServers(), record(state), in_place=False)
    assert not hand_over.wanted(KnownServers(), replace(published, hand_over=""), in_place=False)
    assert not hand_over.wanted(replace(AT_NEW, closed=True), replace(published, number=9), in_place=True)


@pytest.mark.parametrize("known", [AT_OLD, AT_NEW])
def test_after_a_recovery_each_node_stays_where_it_is(known: KnownServers) -> None:
    kept = record(State.RETRUSTING, kept=Kept.NEW)
    assert servers.followed(known, kept).at_new is known.at_new


def test_a_lost_server_is_ignored_after_three_passes_that_did_not_reach_it() -> None:
    known = servers.followed(AT_OLD, record(State.PUBLISHED, lost=LostServer.OLD))
    assert (known.lost, known.missed, known.at_new) == (LostServer.OLD, 0, False)
    for passes in (1, 2, 3):
        known = servers.followed(servers.counted(known, {"new"}), record(State.PUBLISHED, lost=LostServer.OLD))
        assert (known.missed, known.at_new) == (passes, passes == 3)
    # Whoever writes the mark cannot cut anybody off from a server that answers.
    one = servers.counted(servers.counted(replace(known, missed=0), {"new"}), {"new"})
    assert servers.counted(one, {"old", "new"}).missed == 0
    # A newer record without the mark ends it at once.
    found = servers.followed(known, record(State.PUBLISHED, 7))
    assert (found.lost, found.heeded, found.at_new) == (None, None, False)
    lost = servers.followed(AT_NEW, record(State.SWITCHED, lost=LostServer.NEW))
    for _ in range(3):
        lost = servers.counted(lost, {"old"})
    assert not servers.followed(lost, record(State.SWITCHED, lost=LostServer.NEW)).at_new


def held(state: Path, known: KnownServers) -> None:
    servers.save(str(state), known)
    (state / "move").mkdir(mode=0o700)
    (state / "move" / "secret-id").write_text("secret")


def test_what_is_kept_is_read_again_and_leads_to_the_new_server(tmp_path: Path) -> None:
    config = agent_config(state=str(tmp_path))
    assert servers.load(str(tmp_path)) == KnownServers() and servers.at_home(config) is config
    place = replace(NEW, ca_pem="")
    known = replace(AT_NEW, place=place, cas={"etcd": "ab12"}, reached=("old", "new"), error="x", reported_at=7)
    held(tmp_path, known)
    assert servers.load(str(tmp_path)) == known
    assert stat.S_IMODE((tmp_path / "servers.json").stat().st_mode) == 0o600
    here = servers.at_home(config)
    assert (here.addresses, here.prefix, here.namespace) == (NEW.addresses, NEW.prefix, NEW.namespace)
    assert (here.auth.role_id, here.credentials, here.state) == ("9a0f", f"{tmp_path}/move", str(tmp_path))
    servers.save(str(tmp_path), replace(known, at_new=False))
    assert servers.at_home(config) is config


def test_without_its_credential_there_a_node_stays_with_agent_yaml(tmp_path: Path) -> None:
    config = agent_config(state=str(tmp_path))
    servers.save(str(tmp_path), AT_NEW)
    assert servers.at_home(config) is config


def test_a_file_that_cannot_be_read_leads_nowhere(tmp_path: Path) -> None:
    config = agent_config(state=str(tmp_path))
    held(tmp_path, AT_NEW)
    good = (tmp_path / "servers.json").read_bytes()
    garbage = [b"", b"[]", b"{}", b"null", b"\xff", b"[" * 20_000, good[:-9], b'{"version": 2}']
    for name, value in (("place", 7), ("number", -1), ("lost", "both"), ("cas", {"x": "ab"}), ("highest", 1e99)):
        garbage.append(json.dumps({**json.loads(good), name: value}).encode())
    garbage += [good[:at] + bytes([good[at] ^ 4]) + good[at + 1 :] for at in range(len(good))]
    for each in garbage:
        (tmp_path / "servers.json").write_bytes(each)
        here = servers.at_home(config)
        # A changed byte may be in what names the server: the file is as private as the credential.
        assert here is config or here.credentials == f"{tmp_path}/move"
    (tmp_path / "servers.json").write_bytes(b"{")
    with pytest.raises(SpecError, match="join this node"):
        servers.load(str(tmp_path))
    (tmp_path / "servers.json").chmod(0o644)
    with pytest.raises(StoreError):
        servers.load(str(tmp_path))
    assert servers.at_home(config) is config


def test_a_join_forgets_the_new_server_but_not_what_was_ended(tmp_path: Path) -> None:
    servers.forget(str(tmp_path))
    assert not (tmp_path / "servers.json").exists()
    held(tmp_path, replace(AT_NEW, ended=2))
    servers.forget(str(tmp_path))
    assert servers.load(str(tmp_path)) == KnownServers(ended=2) and not (tmp_path / "move").exists()
    held(tmp_path, AT_NEW)
    (tmp_path / "servers.json").write_bytes(b"{")
    servers.forget(str(tmp_path))
    assert not (tmp_path / "servers.json").exists() and not (tmp_path / "move").exists()
