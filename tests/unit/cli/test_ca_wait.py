"""How `--wait` goes on when something is away, and what ends it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from types import SimpleNamespace
from typing import Any

import click
import pytest

from vaultpki.ca.run import Step
from vaultpki.cli import ca_wait
from vaultpki.errors import ChangedMeanwhile, Denied, Sealed, SpecError, Unavailable, VaultpkiError
from vaultpki.kube.objects import KubeTrust
from vaultpki.records.rotation import CaRef, RotationRecord, State
from vaultpki.rotation.course import Course

WHEN = datetime(2026, 11, 26, 12, tzinfo=UTC)
PODS = KubeTrust((), (), ())
SEALED = Sealed("the Vault at https://v:8200 is sealed; unseal it and try again")


def step(state: State, **changes: Any) -> Step:
    old, new = CaRef("etcd-1", sha256="a1" * 32), CaRef("etcd-2", sha256="b2" * 32)
    return Step(RotationRecord("etcd", state, 4, WHEN, old, new), **changes)


PUBLISHED, DONE = step(State.PUBLISHED), step(State.DONE, moved=True)


@pytest.fixture(autouse=True)
def no_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("vaultpki.cli.ca_wait.time.sleep", lambda seconds: None)


def each(events: list[Any]) -> Callable[..., Any]:
    """A function that returns or raises one of these at each call."""
    left: Iterator[Any] = iter(events)

    def act(*_: object) -> Any:
        event = next(left)
        if isinstance(event, BaseException):
            raise event
        return event

    return act


def waited(events: list[Any], pods: list[Any] | None = None, **options: Any) -> Step:
    vault: Any = SimpleNamespace(clock_offset=0.0)
    look = each(pods) if pods is not None else lambda: None
    course = options.pop("course", None)
    return ca_wait.until_rest(vault, each(events), look, course, back=False, **options)


def test_each_reason_of_a_server_that_is_away_is_told_once_and_when_it_is_back(
    capsys: pytest.CaptureFixture[str],
) -> None:
    away = Unavailable("https://v:8200 cannot be reached (refused)")
    assert waited([PUBLISHED, SEALED, SEALED, away, PUBLISHED, away, DONE]) == DONE
    assert capsys.readouterr().err.splitlines() == [
        "etcd is published",
        f"{SEALED}; waiting until it answers again",
        f"{away}; waiting until it answers again",
        "it answers again",
        "etcd is published",
        f"{away}; waiting until it answers again",
        "it answers again",
    ]


def test_programs_are_told_too(capsys: pytest.CaptureFixture[str]) -> None:
    waited([PUBLISHED, SEALED, DONE], quiet=True)
    assert capsys.readouterr().err.splitlines() == [f"{SEALED}; waiting until it answers again", "it answers again"]


def test_what_the_first_step_raises_ends_it() -> None:
    with pytest.raises(Sealed):
        waited([SEALED])
    assert waited([SEALED, DONE], begun=True) == DONE


def test_another_operator_who_was_faster_is_no_end() -> None:
    faster = ChangedMeanwhile("another operator has changed the rotation of etcd meanwhile", status=409)
    assert waited([faster, PUBLISHED, faster, faster, DONE]) == DONE


def test_it_stops_when_another_operator_has_decided_otherwise() -> None:
    turned = step(State.RETURNING, note="another operator has turned it back", stopped=True)
    assert waited([PUBLISHED, turned]) == turned


def test_each_step_is_told_how_the_rotation_stood_before() -> None:
    seen: list[Course | None] = []
    steps = iter([PUBLISHED, step(State.SWITCHED), DONE])

    def take(course: Course | None, pods: KubeTrust | None) -> Step:
        seen.append(course)
        return next(steps)

    vault: Any = SimpleNamespace(clock_offset=0.0)
    ca_wait.until_rest(vault, take, lambda: None, None, back=True)
    assert [course and (course.last.state, course.back) for course in seen] == [
        None,
        (State.PUBLISHED, True),
        (State.SWITCHED, True),
    ]


def test_a_token_that_has_expired_ends_it(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(Denied):
        waited([PUBLISHED, Denied("permission denied")])
    assert "the same command goes on with another token" in capsys.readouterr().err


def test_an_api_server_that_is_away_or_has_just_started(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    refused = VaultpkiError("the user of admin.conf may not list pods")
    away = Unavailable("https://k:6443 cannot be reached (ConnectionRefusedError)")
    assert waited([PUBLISHED, PUBLISHED, DONE], [PODS, away, refused, PODS, PODS]) == DONE
    assert f"{away}; waiting until it answers again" in capsys.readouterr().err
    with pytest.raises(VaultpkiError, match="may not list"):
        waited([], [refused])
    with pytest.raises(SpecError):
        waited([PUBLISHED], [PODS, SpecError("no kubeconfig")])
    monkeypatch.setattr(ca_wait, "_STARTS", -1.0)
    with pytest.raises(VaultpkiError, match="may not list"):
        waited([PUBLISHED], [PODS, refused])


def test_the_first_look_waits_for_an_api_server_that_a_rotation_restarts(monkeypatch: pytest.MonkeyPatch) -> None:
    refused = VaultpkiError("the user of admin.conf may not list pods")
    away = Unavailable("https://k:6443 cannot be reached (ConnectionRefusedError)")
    under_way = Course(PUBLISHED.record, back=False)
    assert waited([DONE], [away, away, refused, PODS], course=under_way) == DONE
    assert waited([DONE], [away, PODS], begun=True) == DONE
    # A user who may not is told at once, and so is who names a wrong address while nothing is rotated.
    for look, course in ((refused, under_way), (away, None)):
        with pytest.raises(VaultpkiError):
            waited([DONE], [look, PODS], course=course)
    # Roles are read after the server is back, which may take longer than they do.
    now = [0.0]
    monkeypatch.setattr("vaultpki.cli.ca_wait.time.monotonic", lambda: now[0])
    monkeypatch.setattr("vaultpki.cli.ca_wait.time.sleep", lambda seconds: now.__setitem__(0, now[0] + 70))
    assert waited([PUBLISHED, PUBLISHED, DONE], [PODS, away, away, refused, PODS, PODS]) == DONE


@pytest.mark.parametrize("within_threading", [False, True])
def test_ctrl_c(within_threading: bool, capsys: pytest.CaptureFixture[str]) -> None:
    error: BaseException = KeyboardInterrupt()
    if within_threading:
        error = RuntimeError("cannot release un-acquired lock")
        error.__context__ = KeyboardInterrupt()
    with pytest.raises(click.exceptions.Abort):
        waited([PUBLISHED, error])
    assert "stopped waiting; nothing is lost" in capsys.readouterr().err
