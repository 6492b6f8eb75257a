"""The rounds of an apply: what was agreed to is done, each change is told once, and nobody is fought for ever."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from helpers.example_cluster import BASE, load
from vaultpki.errors import BadAnswer, Refused
from vaultpki.provision import apply, leftovers
from vaultpki.provision.plan import Change, Plan
from vaultpki.records.server_facts import ServerFacts
from vaultpki.vault import Settings, Vault

ONE, TWO = (Change("create", "policy", f"vaultpki/prod/{name}", {}) for name in ("one", "two"))
MANY = 50

Run = Callable[..., Plan]


@pytest.fixture
def made() -> list[Change]:
    return []


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, made: list[Change]) -> Run:
    """Runs an apply to which the server looks as these plans say, one in each round; the last one stays."""
    cluster, vault = load(tmp_path, BASE), Vault(Settings(("https://127.0.0.1:1",)))

    def carry_out(cluster: Any, vault: Vault, seen: Any, todo: Plan, counted: Any, say: Any) -> Iterator[Change]:
        made.extend(todo.changes)
        assert len(made) < MANY, "it never ends"
        yield from todo.changes

    def ran(*plans: tuple[Change, ...], **options: Any) -> Plan:
        left = list(plans)

        def look(*given: Any) -> tuple[Any, Plan]:
            changes = left.pop(0) if len(left) > 1 else left[0]
            found = SimpleNamespace(applied="as it is", notice=None)
            seen = SimpleNamespace(cluster=cluster, facts=ServerFacts(), wanted={}, found=found)
            return seen, Plan(changes)

        monkeypatch.setattr(apply, "observe_and_plan", look)
        return apply.apply(cluster, vault, ServerFacts(), progress=lambda change: None, **options)

    monkeypatch.setattr("vaultpki.provision.carry_out.carry_out", carry_out)
    monkeypatch.setattr(apply, "of_cluster", lambda cluster, facts, wanted: "as it is")
    monkeypatch.setattr(apply, "with_impact", lambda cluster, vault, seen, todo: todo)
    monkeypatch.setattr(apply, "refuse_weak_token", lambda cluster, vault, needs: None)
    monkeypatch.setattr(apply, "_rights", lambda *given: {})
    monkeypatch.setattr(apply, "_begun", lambda *given: None)
    monkeypatch.setattr(leftovers, "end", lambda cluster, vault: ())
    return ran


def test_nothing_is_written_that_the_person_has_not_seen(run: Run, made: list[Change]) -> None:
    with pytest.raises(Refused, match="has changed since the plan was shown; nothing was written"):
        run((ONE, TWO), first=Plan((ONE,)))
    assert made == []
    assert run((ONE,), (), first=Plan((ONE,))).changes == (ONE,)


def test_each_change_is_told_in_the_end(run: Run, made: list[Change]) -> None:
    """Those of a second round too, which another command has made necessary meanwhile."""
    assert run((ONE,), (TWO,), (), first=None).changes == (ONE, TWO) == tuple(made)


def test_somebody_who_undoes_every_change_is_not_fought_for_ever(run: Run, made: list[Change]) -> None:
    with pytest.raises(BadAnswer, match="changes come back after every apply, such as that of policy vaultpki"):
        run((ONE,), first=None)
    assert 1 < len(made) < MANY
