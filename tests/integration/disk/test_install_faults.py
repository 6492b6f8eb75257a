"""The install on a disk that fails, lies, is full or read-only, and the order in which it makes things last.

Whatever fails: what was live stays live and whole, one sentence says so, and one more run sets all right.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from helpers.faults import system_calls
from helpers.faults.small_disks import Disk, private_disk
from helpers.faults.system_calls import Call, Fault
from helpers.node.pair_installs import (
    check_one_more_run,
    clean,
    command,
    content,
    copy,
    environment,
    installed,
    matching,
    record,
    run,
    two_pairs,
)

SAMPLE = 40
TOLD = r'^write\(1<.*"done'
Faults = Callable[[list[Call]], list[Fault]]


@pytest.fixture(scope="module")
def pairs(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    return two_pairs(tmp_path_factory.mktemp("pairs"))


def nothing(folder: Path, old: Path, new: Path) -> None:
    """The first install of all."""


def swap(folder: Path, old: Path, new: Path) -> Path:
    return installed(folder, old)


def remains(folder: Path, old: Path, new: Path) -> Path:
    """A live pair beside what a run left that was killed right before its swap."""
    base = installed(folder, old)
    trial = copy(base, folder / "killed" / "pki")
    rename = next(call for call in record(trial, new, folder / "killed-log") if call.name.startswith("rename"))
    assert run(base, new, "-o", "/dev/null", *Fault(rename, "signal=SIGKILL").options).returncode != 0
    assert len(list((base / ".vaultpki").iterdir())) == 5 and content(base) == content(old)
    return base


@pytest.mark.parametrize(
    "faults",
    [
        pytest.param(lambda points: system_calls.rotating(points, SAMPLE), id="sample"),
        pytest.param(system_calls.everything, id="everything", marks=pytest.mark.exhaustive),
    ],
)
@pytest.mark.parametrize("begin", [nothing, swap, remains])
def test_a_fault_leaves_what_was_there(
    begin: Callable[[Path, Path, Path], Path | None], faults: Faults, pairs: tuple[Path, Path], tmp_path: Path
) -> None:
    old, new = pairs
    base = begin(tmp_path, old, new)
    trial = copy(base, tmp_path / "trial" / "pki")
    points = [c for c in record(trial, new, tmp_path / "log", reading=True) if str(trial.parent) in c.line]
    before = content(base) if base is not None else {}
    flip = max(index for index, call in enumerate(points) if call.name.startswith("rename"))
    lasting = next(index for index, call in enumerate(points) if index > flip and call.name == "fsync")
    # What is left then, and whatever cannot be removed before, stops no swap.
    harmless = {call for index, call in enumerate(points) if index > lasting or call.name == "unlinkat"}
    chosen = faults(points)
    assert len(chosen) > 25 and all(
        f"error={error}" in {fault.what for fault in chosen} for error in system_calls.ERRORS
    )

    def one(number: int) -> None:
        fault = chosen[number]
        target = copy(base, tmp_path / f"case-{number}" / "pki")
        log = target.parent / "log"
        done = run(target, new, "-o", str(log), *fault.options)
        assert "(INJECTED)" in log.read_text(), f"{fault}: nothing injected"
        found = content(target)
        assert not found or matching(found), f"{fault}: torn"
        if done.returncode == 0:
            assert done.stdout == "done\n" and found == content(new), f"{fault}: told a success that was none"
        else:
            one_sentence(done.stderr, str(fault))
            allowed = [before, content(new)] if fault.call in harmless else [before]
            assert found in allowed, f"{fault}: failed, and yet changed"
        check_one_more_run(target, new, str(fault))

    with ThreadPoolExecutor(max_workers=4) as pool:
        for _ in pool.map(one, range(len(chosen))):
            pass


def one_sentence(said: str, what: str) -> None:
    assert said.startswith("vaultpki: /") and said.count("\n") == 1, f"{what}: {said}"


# -- a real full disk, a real read-only one --------------------------------------------------------------------------


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Disk]:
    with private_disk(tmp_path / "disk", "size=128k,mode=755") as made:
        yield made


def install(disk: Disk, source: Path) -> tuple[int, str]:
    done = disk.run(command(disk.folder / "pki", source), environment(source))
    assert "Traceback" not in done.stderr
    return done.returncode, done.stdout + done.stderr


def test_every_amount_of_free_space(pairs: tuple[Path, Path], disk: Disk) -> None:
    old, new = pairs
    assert install(disk, old) == (0, "done\n")
    pki = disk.seen(disk.folder / "pki")
    failures = 0
    for blocks in range(12):
        disk.fill(leaving=blocks)
        now = content(pki)
        code, said = install(disk, new)
        if code:
            failures += 1
            assert code == 1 and content(pki) == now, said
            one_sentence(said, f"{blocks} blocks")
            assert "the disk is full; free some space" in said
        disk.empty()
        assert install(disk, new) == (0, "done\n") and content(pki) == content(new)
        clean(pki)
        old, new = new, old
    # Each way of running out is met, and in the end there is room.
    assert 2 < failures < 12


def test_no_inode_left(pairs: tuple[Path, Path], tmp_path: Path) -> None:
    old, new = pairs
    # The mount's own, `pki`, `.vaultpki`, `lock`, and a generation with its link and the stable ones: twelve.
    for inodes in range(12, 18):
        with private_disk(tmp_path / f"disk-{inodes}", f"size=1m,mode=755,nr_inodes={inodes}") as disk:
            pki = disk.seen(disk.folder / "pki")
            code, said = install(disk, old)
            assert matching(content(pki)) if code == 0 else content(pki) == {}, said
            if code == 0:
                code, said = install(disk, new)
                assert content(pki) == content(old if code else new), said
            if code:
                one_sentence(said, f"{inodes} inodes")
    assert code == 0


def test_read_only(pairs: tuple[Path, Path], disk: Disk) -> None:
    old, new = pairs
    assert install(disk, old) == (0, "done\n")
    pki = disk.seen(disk.folder / "pki")
    disk.remount("ro")
    code, said = install(disk, new)
    assert code == 1 and "read-only" in said and content(pki) == content(old)
    one_sentence(said, "read-only")
    disk.remount("rw")
    assert install(disk, new) == (0, "done\n") and content(pki) == content(new)
    clean(pki)


# -- a power cut -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("begin", [nothing, swap, remains])
def test_nothing_is_told_or_removed_before_it_lasts(
    begin: Callable[[Path, Path, Path], Path | None], pairs: tuple[Path, Path], tmp_path: Path
) -> None:
    old, new = pairs
    trial = copy(begin(tmp_path, old, new), tmp_path / "trial" / "pki")
    record(trial, new, tmp_path / "log")
    lines = [call.line for call in system_calls.calls(tmp_path / "log")]
    assert system_calls.hasty(lines, trial.parent, TOLD) == []
    # The control: without any one of these the disk may hold what nobody should see.
    needed = [".crt>", ".key>", ".pem>", rf"{trial}/.vaultpki/pair\.[0-9a-f]{{16}}>", rf"{trial}/.vaultpki>"]
    if begin is nothing:
        needed += [f"{trial}>", f"{trial.parent}>"]
    for path in needed:
        kept = [line for line in lines if not re.match(rf"fsync\(\d+<.*{path}", line)]
        assert len(kept) < len(lines), path
        assert system_calls.hasty(kept, trial.parent, TOLD), path
