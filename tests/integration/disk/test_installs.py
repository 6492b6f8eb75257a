"""The install killed at each call that changes a file, on a disk that fails, lies, fills up, or loses its power.

Never a torn, short or missing pair: whatever happens, what was live stays live and whole, one sentence says so, and one
more install sets all right.
"""

from __future__ import annotations

import re
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from helpers.faults import os_calls, system_calls
from helpers.faults.drawn import Drawn
from helpers.faults.os_calls import CHANGING, ERRORS, READING, Before, copied, moments
from helpers.node.install_driver import install
from helpers.node.pair_installs import (
    clean,
    command,
    content,
    converges,
    environment,
    installed,
    make_pair,
    matching,
)
from vaultpki.errors import VaultpkiError

TOLD = r'^write\(1<.*"done'
Begin = Callable[[Path, Path, Path], Path]


@pytest.fixture(scope="module")
def pairs(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    folder = tmp_path_factory.mktemp("pairs")
    return make_pair(folder / "old"), make_pair(folder / "new")


def nothing(folder: Path, old: Path, new: Path) -> Path:
    """The first install of all."""
    return folder / "none" / "pki"


def swap(folder: Path, old: Path, new: Path) -> Path:
    return installed(folder, old)


def remains(folder: Path, old: Path, new: Path) -> Path:
    """A live pair beside what a run left that was killed right before its swap."""
    base = installed(folder, old)
    trial = copied(base, folder / "counted" / "pki")
    with os_calls.seen(lambda *_: None) as made:
        install(trial, new)
    (found, _) = moments(lambda: install(base, new), base, folder, lambda at: at == made.index("rename")).values()
    assert len(list((found / ".vaultpki").iterdir())) == 5 and content(found) == content(old)
    return found


BEGINS = pytest.mark.parametrize("begin", [nothing, swap, remains])


@BEGINS
def test_killed_right_before_each_call(begin: Begin, pairs: tuple[Path, Path], tmp_path: Path) -> None:
    old, new = pairs
    base = begin(tmp_path, old, new)
    before, trial = content(base), copied(base, tmp_path / "trial" / "pki")
    found = moments(lambda: install(trial, new), trial, tmp_path / "killed", lambda _: True)
    clean(trial)
    assert len(found) > 20 and content(trial) == content(new)
    for number, target in found.items():
        now = content(target)
        assert now in (before, content(new)) and (not now or matching(now)), f"{number}: {sorted(now)}"
        converges(target, new)


@BEGINS
@pytest.mark.parametrize(
    "whole", [pytest.param(False, id="sample"), pytest.param(True, id="everything", marks=pytest.mark.exhaustive)]
)
def test_a_fault_leaves_what_was_there(
    begin: Begin, whole: bool, pairs: tuple[Path, Path], tmp_path: Path, drawn: Drawn
) -> None:
    """Each call fails once, by errors in turn; the whole is every error at each call, and those that only read."""
    old, new = pairs
    base, watched = begin(tmp_path, old, new), CHANGING + (READING if whole else ())
    trial = copied(base, tmp_path / "trial" / "pki")
    with os_calls.seen(lambda *_: None, watched) as made:
        install(trial, new)
    flip = max(index for index, name in enumerate(made) if name == "rename")
    lasting = made.index("fsync", flip)
    first = drawn.below(len(ERRORS))
    faults: list[tuple[int, str, Before]] = []
    for at, name in enumerate(made):
        errors = ERRORS if whole else [ERRORS[(first + at) % len(ERRORS)]]
        faults += [(at, f"{error} of {name} {at}", os_calls.failing(at, error)) for error in errors]
        if whole:
            faults.append((at, f"EIO of {name} from {at} on", os_calls.failing(at, "EIO", lasting=True)))
        if name == "write":
            faults += [(at, f"{size} of write {at}", os_calls.untrue(at, size)) for size in (0, 1)]
    assert len(faults) > 25
    for number, (at, what, fault) in enumerate(faults):
        target, said = copied(base, tmp_path / f"case-{number}" / "pki"), ""
        with os_calls.seen(fault, watched):
            try:
                install(target, new)
            except VaultpkiError as error:
                said = str(error)
        assert not said or (said.startswith("/") and "\n" not in said), what
        found = content(target)
        assert not found or matching(found), f"{what}: torn"
        # What is left after the swap, and whatever cannot be removed before, stops no swap.
        harmless = at > lasting or made[at] in ("unlink", "rmdir")
        allowed = [content(new)] if not said else [content(base), content(new)] if harmless else [content(base)]
        assert found in allowed, f"{what}: {said or 'told a success that was none'}"
        converges(target, new)


# -- a real full disk, a real read-only one --------------------------------------------------------------------------


@contextmanager
def disk(folder: Path, options: str) -> Iterator[Path]:
    """The directory on a small disk."""
    folder.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"mode=755,{options}", "tmpfs", folder], check=True)
    try:
        yield folder / "pki"
    finally:
        subprocess.run(["umount", folder], check=True)


def told(pki: Path, source: Path) -> str:
    """What an install says, in one sentence, that changes nothing; "" where it succeeds."""
    before, said = content(pki), ""
    try:
        install(pki, source)
    except VaultpkiError as error:
        said = str(error)
    assert not said or (said.startswith("/") and "\n" not in said), said
    assert content(pki) == (before if said else content(source)), said
    return said


def test_every_amount_of_free_space_and_a_disk_that_is_read_only(pairs: tuple[Path, Path], tmp_path: Path) -> None:
    old, new = pairs
    failures = 0
    with disk(tmp_path / "disk", "size=128k") as pki:
        install(pki, old)
        ballast = pki.with_name("ballast")
        for blocks in range(12):
            with ballast.open("wb", buffering=0) as file:
                try:
                    while True:
                        file.write(b"x" * 4096)
                except OSError:
                    file.truncate(max(file.tell() // 4096 - blocks, 0) * 4096)
            said = told(pki, new)
            assert not said or "the disk is full; free some space" in said
            failures += bool(said)
            ballast.unlink()
            converges(pki, new)
            old, new = new, old
        # Each way of running out is met, and in the end there is room.
        assert 2 < failures < 12
        subprocess.run(["mount", "-o", "remount,ro", pki.parent], check=True)
        assert "read-only" in told(pki, new)
        subprocess.run(["mount", "-o", "remount,rw", pki.parent], check=True)
        converges(pki, new)


def test_no_inode_left(pairs: tuple[Path, Path], tmp_path: Path) -> None:
    old, new = pairs
    # The mount's own, `pki`, `.vaultpki`, `lock`, and a generation with its link and the stable ones: twelve.
    for inodes in range(12, 18):
        with disk(tmp_path / f"disk-{inodes}", f"size=1m,nr_inodes={inodes}") as pki:
            said = told(pki, old) or told(pki, new)
    assert not said


# -- a power cut -----------------------------------------------------------------------------------------------------


def named(call: system_calls.Call) -> str:
    """The function of Python by which a call is made."""
    if call.name == "unlinkat":
        return "rmdir" if "AT_REMOVEDIR" in call.line else "unlink"
    return call.name.removesuffix("at") if call.name != "fchmodat" else "chmod"


@BEGINS
def test_nothing_is_told_or_removed_before_it_lasts(begin: Begin, pairs: tuple[Path, Path], tmp_path: Path) -> None:
    """By a trace of a whole process; it makes the same calls as are watched above, and no others."""
    old, new = pairs
    trial = copied(begin(tmp_path, old, new), tmp_path / "trial" / "pki")
    again, log = copied(trial, tmp_path / "again" / "pki"), tmp_path / "log"
    trace = ["strace", "-f", "-y", "--seccomp-bpf", "-o", str(log), "-e", f"trace={system_calls.CHANGING}"]
    done = subprocess.run(
        [*trace, *command(trial, new)], env=environment(), capture_output=True, text=True, check=False
    )
    assert done.stdout == "done\n", done.stderr
    calls = [call for call in system_calls.calls(log) if str(trial.parent) in call.line]
    with os_calls.seen(lambda *_: None) as made:
        install(again, new)
    assert [named(call) for call in calls if call.changes] == made
    lines = [call.line for call in system_calls.calls(log)]
    assert system_calls.hasty(lines, trial.parent, TOLD) == []
    # The control: without any one of these the disk may hold what nobody should see.
    needed = [".crt>", ".key>", ".pem>", rf"{trial}/.vaultpki/pair\.[0-9a-f]{{16}}>", rf"{trial}/.vaultpki>"]
    if begin is nothing:
        needed += [f"{trial}>", f"{trial.parent}>"]
    for path in needed:
        kept = [line for line in lines if not re.match(rf"fsync\(\d+<.*{path}", line)]
        assert len(kept) < len(lines), path
        assert system_calls.hasty(kept, trial.parent, TOLD), path
