"""What is said about `ca.root_sha256` in each state of the root."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path

import pytest

from helpers.example_cluster import BASE, load
from vaultpki.identity import root_pin
from vaultpki.records.rotation import CaRef, RotationRecord, State

WHEN = datetime(2026, 11, 26, 12, tzinfo=UTC)
FIRST, SECOND, OTHER = ("a1" * 32, "b2" * 32, "c9" * 32)
UNDER_WAY = [state for state in State if not state.resting]


def record(state: State, *, made: bool = True, domain: str = "root") -> RotationRecord:
    new = CaRef(f"{domain}-2", sha256=SECOND if made else "")
    return RotationRecord(domain, state, 3, WHEN, CaRef(f"{domain}-1", sha256=FIRST), new)


def advice(folder: Path, pin: str | None, about: RotationRecord | None) -> str:
    line = f"ca: {{root_sha256: {pin}}}\n" if pin else ""
    said = root_pin.advice(load(folder, BASE + line), about)
    return said.replace(f"{folder}/", "")


@pytest.mark.parametrize("state", UNDER_WAY)
def test_the_line_stays_until_the_rotation_is_done(tmp_path: Path, state: State) -> None:
    said = advice(tmp_path, FIRST, record(state))
    assert said == (
        "cluster.yaml names key 1 of the CA root (ca.root_sha256). Leave it so until the rotation is done, and then "
        f"write `root_sha256: {SECOND}` there. After `vaultpki ca abort` it stays"
    )
    assert "then write the new root there. After" in advice(tmp_path, FIRST, record(state, made=False))


@pytest.mark.parametrize("state", UNDER_WAY)
def test_a_line_that_was_changed_early_goes_back_with_an_abort(tmp_path: Path, state: State) -> None:
    said = advice(tmp_path, SECOND, record(state))
    assert said == (
        "cluster.yaml names key 2 of the CA root already (ca.root_sha256): if you go back with `vaultpki ca abort`, "
        f"write `root_sha256: {FIRST}` there again"
    )


def test_once_it_is_over_the_other_root_is_named(tmp_path: Path) -> None:
    assert advice(tmp_path, FIRST, record(State.DONE)) == (
        f"cluster.yaml names key 1 of the CA root, which was replaced by key 2 of the CA root: "
        f"write `root_sha256: {SECOND}` there, below `ca`"
    )
    assert advice(tmp_path, SECOND, record(State.STEADY)) == (
        f"cluster.yaml names key 2 of the CA root, which is deleted, and key 1 of the CA root stays: "
        f"write `root_sha256: {FIRST}` there, below `ca`"
    )


@pytest.mark.parametrize(
    ("pin", "about"),
    [
        (None, record(State.SWITCHED)),
        (FIRST, None),
        (OTHER, record(State.SWITCHED)),
        (FIRST, record(State.SWITCHED, domain="etcd")),
        (FIRST, record(State.STEADY)),
        (SECOND, record(State.DONE)),
        (OTHER, record(State.DONE)),
        (OTHER, record(State.STEADY)),
    ],
)
def test_otherwise_there_is_nothing_to_say(tmp_path: Path, pin: str | None, about: RotationRecord | None) -> None:
    assert advice(tmp_path, pin, about) == ""
    assert pin is None or root_pin.replaced_by(about, pin) == ""
