"""`enroll`, `lock`, `unlock` and `unenroll` for pipelines: small objects, without a secret."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator
from typing import Any

import pytest
from click.testing import CliRunner

from vaultpki.cli import enroll
from vaultpki.identity import adoption_record, enrol


@pytest.fixture(autouse=True)
def server(monkeypatch: pytest.MonkeyPatch) -> None:
    @contextlib.contextmanager
    def opened(*_: object, **__: object) -> Iterator[tuple[None, None, None]]:
        yield None, None, None

    monkeypatch.setattr(enroll, "opened", opened)
    monkeypatch.setattr(adoption_record, "refuse_leaving", lambda *_: None)


def said(command: Any, *words: str) -> Any:
    ran = CliRunner().invoke(command, [*words, "--json"], catch_exceptions=False)
    assert ran.exit_code == 0
    return json.loads(ran.stdout)


def test_what_ends_and_works_again_for_programs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(enrol, "lock", lambda *_, **__: frozenset({"approle"}))
    monkeypatch.setattr(enrol, "unlock", lambda *_: None)
    monkeypatch.setattr(enrol, "unenroll", lambda *_, **__: frozenset({"jwt", "approle"}))
    assert said(enroll.lock_command, "cp-1") == {"node": "cp-1", "locked": ["approle"]}
    assert said(enroll.unlock_command, "cp-1") == {"node": "cp-1", "unlocked": None}
    assert said(enroll.unenroll_command, "w-1") == {"node": "w-1", "ended": ["approle", "jwt"]}


def test_a_join_file_is_named_and_a_wait_is_announced(monkeypatch: pytest.MonkeyPatch, tmp_path: Any) -> None:
    from vaultpki.identity import ending, join_files

    @contextlib.contextmanager
    def reserved(*_: object) -> Iterator[Any]:
        yield lambda join: None

    def made(*_: object, say: Any, **__: object) -> str:
        say("waiting 10 seconds")
        return "a secret"

    monkeypatch.setattr(join_files, "reserved", reserved)
    monkeypatch.setattr(enrol, "holder", lambda *_: None)
    monkeypatch.setattr(enrol, "enroll", made)
    monkeypatch.setattr(ending, "remove_locks", lambda *_: None)
    for name in ("_locks", "_place", "_warn_of_drift"):
        monkeypatch.setattr(enroll, name, lambda *_: {})
    ran = CliRunner().invoke(enroll.enroll_command, ["cp-1", "--json", "-o", str(tmp_path / "j")])
    assert ran.exit_code == 0 and ran.stderr == "waiting 10 seconds\n"
    assert json.loads(ran.stdout) == {"node": "cp-1", "file": str(tmp_path / "j"), "seconds": 1800}
