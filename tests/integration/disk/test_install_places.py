"""The install where somebody was before: links, strangers' folders, things in the place of files, another install.

Nothing is written through a link or beside a stranger; what is damaged and ours is replaced; what is not ours is told
in one sentence and left as it is.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from helpers.faults import unexpected_files
from helpers.faults.unexpected_files import Put
from helpers.node.pair_installs import NAMES, clean, command, content, environment, installed, matching, run, two_pairs

STRANGER = 1234
Act = Callable[[Path], object]


@pytest.fixture(scope="module")
def pairs(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    return two_pairs(tmp_path_factory.mktemp("pairs"))


def generation(pki: Path) -> Path:
    return (pki / ".vaultpki/pair").resolve()


def told(pki: Path, source: Path) -> str:
    """The one sentence of an install that fails."""
    done = run(pki, source)
    assert done.returncode == 1 and done.stdout == "", done
    assert done.stderr.startswith("vaultpki: /") and done.stderr.count("\n") == 1, done.stderr
    return done.stderr


def converges(pki: Path, source: Path) -> None:
    done = run(pki, source)
    assert done.stdout == "done\n", done.stderr
    assert content(pki) == content(source)
    clean(pki)


@pytest.mark.parametrize("put", unexpected_files.ALL)
@pytest.mark.parametrize("name", [NAMES[0], NAMES[1]])
def test_a_damaged_file_of_ours_is_replaced(name: str, put: Put, pairs: tuple[Path, Path], tmp_path: Path) -> None:
    old, new = pairs
    pki = installed(tmp_path, old)
    (generation(pki) / name).unlink()
    put(generation(pki) / name)
    converges(pki, new)


@pytest.mark.parametrize("put", [*unexpected_files.ALL, unexpected_files.removed])
def test_a_damaged_generation_is_replaced(put: Put, pairs: tuple[Path, Path], tmp_path: Path) -> None:
    old, new = pairs
    pki = installed(tmp_path, old)
    place = generation(pki)
    unexpected_files.removed(place)
    put(place)
    converges(pki, new)


def test_a_pair_that_is_live_by_a_strange_way_stays_until_the_new_one_is(
    pairs: tuple[Path, Path], tmp_path: Path
) -> None:
    old, new = pairs
    pki = installed(tmp_path, old)
    place = generation(pki)
    place.rename(tmp_path / "elsewhere")
    place.symlink_to(tmp_path / "elsewhere")
    # A run that fails before its swap takes nothing away.
    (pki / NAMES[2]).unlink()
    unexpected_files.text(pki / NAMES[2])
    before = content(pki)
    assert "not made by vaultpki" in told(pki, new) and content(pki) == before
    (pki / NAMES[2]).unlink()
    converges(pki, new)
    assert content(tmp_path / "elsewhere") == content(old)


@pytest.mark.parametrize("put", [put for put in unexpected_files.ALL if put is not unexpected_files.folder])
@pytest.mark.parametrize("name", NAMES)
def test_a_name_that_somebody_took_is_left_to_him(
    name: str, put: Put, pairs: tuple[Path, Path], tmp_path: Path
) -> None:
    old, new = pairs
    pki = installed(tmp_path, old)
    (pki / name).unlink()
    put(pki / name)
    before, about = {n: data for n, data in live(pki).items() if n != name}, (pki / name).lstat()
    assert f"{pki}/{name}: this file was not made by vaultpki; move it away" in told(pki, new)
    assert {n: data for n, data in live(pki).items() if n != name} == before
    assert (pki / name).lstat().st_ino == about.st_ino
    unexpected_files.removed(pki / name)
    converges(pki, new)


def live(pki: Path) -> dict[str, bytes]:
    return {name: (pki / name).read_bytes() for name in NAMES if (pki / name).resolve().parent == generation(pki)}


@pytest.mark.parametrize("put", unexpected_files.ALL)
def test_a_unit_that_is_no_link_of_ours_is_left(put: Put, pairs: tuple[Path, Path], tmp_path: Path) -> None:
    old, new = pairs
    pki = installed(tmp_path, old)
    link = pki / ".vaultpki/pair"
    kept = os.readlink(link)
    link.unlink()
    put(link)
    links = sorted(path.name for path in pki.iterdir())
    assert f"{link}: " in told(pki, new)
    assert sorted(path.name for path in pki.iterdir()) == links
    unexpected_files.removed(link)
    link.symlink_to(kept)
    converges(pki, new)


def test_a_directory_restored_without_its_links_keeps_what_is_live(pairs: tuple[Path, Path], tmp_path: Path) -> None:
    """`cp -rL` and some backups make folders of links."""
    old, new = pairs
    pki = installed(tmp_path, old)
    link = pki / ".vaultpki/pair"
    place = generation(pki)
    link.unlink()
    shutil.copytree(place, link)
    assert "move it away" in told(pki, new) and content(pki) == content(old)
    shutil.rmtree(link)
    converges(pki, new)


@pytest.mark.parametrize(
    "put",
    [
        put
        for put in unexpected_files.ALL
        if put not in {unexpected_files.huge, unexpected_files.text, unexpected_files.empty}
    ],
)
def test_a_lock_that_is_no_file(put: Put, pairs: tuple[Path, Path], tmp_path: Path) -> None:
    old, new = pairs
    pki = installed(tmp_path, old)
    lock = pki / ".vaultpki/lock"
    lock.unlink()
    put(lock)
    assert f"{lock}: " in told(pki, new) and content(pki) == content(old)
    unexpected_files.removed(lock)
    converges(pki, new)


def test_the_hidden_folder_behind_a_link(pairs: tuple[Path, Path], tmp_path: Path) -> None:
    old, new = pairs
    pki = installed(tmp_path, old)
    (pki / ".vaultpki").rename(tmp_path / "elsewhere")
    (pki / ".vaultpki").symlink_to(tmp_path / "elsewhere")
    before = sorted((path, path.lstat().st_mtime_ns) for path in (tmp_path / "elsewhere").rglob("*"))
    assert "symbolic link" in told(pki, new)
    assert sorted((path, path.lstat().st_mtime_ns) for path in (tmp_path / "elsewhere").rglob("*")) == before
    assert content(pki) == content(old)
    (pki / ".vaultpki").unlink()
    (tmp_path / "elsewhere").rename(pki / ".vaultpki")
    converges(pki, new)


def linked(pki: Path) -> None:
    pki.rename(pki.with_name("real"))
    pki.symlink_to("real")


def unlinked(pki: Path) -> None:
    pki.unlink()
    pki.with_name("real").rename(pki)


PLACES: dict[str, tuple[Act, Act, str]] = {
    "directory-is-a-link": (linked, unlinked, "symbolic link"),
    "parent-is-a-link": (lambda pki: linked(pki.parent), lambda pki: unlinked(pki.parent), "symbolic link"),
    "all-may-write": (lambda pki: pki.chmod(0o777), lambda pki: pki.chmod(0o755), "others may write"),
    "all-may-write-sticky": (lambda pki: pki.chmod(0o1777), lambda pki: pki.chmod(0o755), "others may write"),
    "all-may-write-above": (
        lambda pki: pki.parent.chmod(0o777),
        lambda pki: pki.parent.chmod(0o755),
        "others may write",
    ),
    "of-a-stranger": (
        lambda pki: os.chown(pki, STRANGER, 0),
        lambda pki: os.chown(pki, 0, 0),
        f"belongs to the user {STRANGER}",
    ),
    "below-a-stranger": (
        lambda pki: os.chown(pki.parent, STRANGER, 0),
        lambda pki: os.chown(pki.parent, 0, 0),
        f"belongs to the user {STRANGER}",
    ),
    "hidden-of-a-stranger": (
        lambda pki: os.chown(pki / ".vaultpki", STRANGER, 0),
        lambda pki: os.chown(pki / ".vaultpki", 0, 0),
        f"belongs to the user {STRANGER}",
    ),
}


@pytest.mark.parametrize("place", PLACES)
def test_an_unsafe_place_is_refused(place: str, pairs: tuple[Path, Path], tmp_path: Path) -> None:
    old, new = pairs
    pki = installed(tmp_path, old)
    spoil, repair, said = PLACES[place]
    spoil(pki)
    before = sorted((path, path.lstat().st_mtime_ns) for path in tmp_path.rglob("*"))
    assert said in told(pki, new) and content(pki) == content(old)
    assert sorted((path, path.lstat().st_mtime_ns) for path in tmp_path.rglob("*")) == before
    repair(pki)
    converges(pki, new)


def test_a_hidden_folder_that_all_may_write_to_is_closed(pairs: tuple[Path, Path], tmp_path: Path) -> None:
    old, new = pairs
    pki = installed(tmp_path, old)
    (pki / ".vaultpki").chmod(0o777)
    converges(pki, new)


@pytest.mark.parametrize("spoil", [lambda path: path.chmod(0o777), lambda path: os.chown(path, STRANGER, 0)])
def test_a_generation_that_others_could_write_to_is_replaced(
    spoil: Act, pairs: tuple[Path, Path], tmp_path: Path
) -> None:
    old, _ = pairs
    pki = installed(tmp_path, old)
    place = generation(pki)
    spoil(place)
    # The very same content, and yet not believed.
    converges(pki, old)
    assert generation(pki) != place


def test_a_generation_that_nobody_else_may_enter_is_opened(pairs: tuple[Path, Path], tmp_path: Path) -> None:
    old, _ = pairs
    pki = installed(tmp_path, old)
    place = generation(pki)
    place.chmod(0o700)
    converges(pki, old)
    assert generation(pki) == place


@pytest.mark.parametrize(
    ("wait", "rounds"),
    [
        pytest.param(0, 12, id="at once"),
        pytest.param(30, 4, id="one after another"),
        pytest.param(0, 40, id="at once, often", marks=pytest.mark.exhaustive),
    ],
)
def test_two_at_the_same_time(wait: int, rounds: int, pairs: tuple[Path, Path], tmp_path: Path) -> None:
    """Started together, again and again: who is second says so or waits, and a reader sees whole pairs only."""
    pki = tmp_path / "pki"
    allowed = {(source / NAMES[2]).read_bytes() for source in pairs}
    stop, seen = threading.Event(), set[bytes]()

    def read() -> None:
        while not stop.wait(0.001):
            if (pki / NAMES[2]).exists():
                seen.add((pki / NAMES[2]).read_bytes())

    reader = threading.Thread(target=read)
    reader.start()
    busy = 0
    try:
        for _ in range(rounds):
            started = [
                subprocess.Popen(
                    [*command(pki, source), str(wait)],
                    env=environment(source),
                    stdout=subprocess.PIPE,
                    stderr=subprocess.PIPE,
                    text=True,
                )
                for source in (*pairs, *pairs)
            ]
            ended = [(*process.communicate(timeout=60), process.returncode) for process in started]
            for out, err, code in ended:
                if code:
                    busy += 1
                    assert (out, code) == ("", 1) and "another vaultpki process is writing here" in err, err
                    assert err.count("\n") == 1
                else:
                    assert (out, err) == ("done\n", "")
            assert any(code == 0 for *_, code in ended)
            found = content(pki)
            assert matching(found) and found in [content(source) for source in pairs]
            clean(pki)
    finally:
        stop.set()
        reader.join()
    assert seen == allowed
    assert busy == 0 if wait else busy > 0
