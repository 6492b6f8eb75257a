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
from helpers.faults.unexpected_files import ALL, Put, removed
from helpers.node.install_driver import install
from helpers.node.pair_installs import (
    NAMES,
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

STRANGER = 1234
Act = Callable[[Path], object]


@pytest.fixture(scope="module")
def pairs(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    folder = tmp_path_factory.mktemp("pairs")
    return make_pair(folder / "old"), make_pair(folder / "new")


@pytest.fixture
def new(pairs: tuple[Path, Path]) -> Path:
    return pairs[1]


@pytest.fixture
def pki(pairs: tuple[Path, Path], tmp_path: Path) -> Path:
    """A directory with the old pair."""
    return installed(tmp_path, pairs[0])


def generation(pki: Path) -> Path:
    return (pki / ".vaultpki/pair").resolve()


def told(pki: Path, source: Path) -> str:
    """The one sentence of an install that fails."""
    with pytest.raises(VaultpkiError, match=r"^/.*$") as caught:
        install(pki, source)
    return str(caught.value)


def inodes(folder: Path, *, below: bool) -> dict[Path, int]:
    return {path: path.lstat().st_ino for path in (folder.rglob("*") if below else folder.iterdir())}


def times(folder: Path) -> dict[Path, int]:
    return {path: path.lstat().st_mtime_ns for path in folder.rglob("*")}


@pytest.mark.parametrize("put", [*ALL, removed])
@pytest.mark.parametrize("name", [*NAMES[:2], ""], ids=["crt", "key", "all"])
def test_what_is_damaged_and_ours_is_replaced(name: str, put: Put, pki: Path, new: Path) -> None:
    place = generation(pki) / name
    removed(place)
    put(place)
    converges(pki, new)


def test_a_pair_that_is_live_by_a_strange_way_stays_until_the_new_one_is(
    pki: Path, pairs: tuple[Path, Path], tmp_path: Path
) -> None:
    old, new = pairs
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


NO_FILE = {unexpected_files.huge, unexpected_files.text, unexpected_files.empty}
TAKEN = [
    *((name, put, ": this file was not made by vaultpki; move it away") for name in NAMES for put in ALL),
    *((".vaultpki/pair", put, ": ") for put in ALL),
    # Any file is a lock.
    *((".vaultpki/lock", put, ": ") for put in ALL if put not in NO_FILE),
]


@pytest.mark.parametrize(
    ("name", "put", "said"),
    [each for each in TAKEN if each[0] not in NAMES or each[1] is not unexpected_files.folder],
)
def test_a_name_that_somebody_took_is_left_to_him(
    name: str, put: Put, said: str, pki: Path, new: Path, tmp_path: Path
) -> None:
    kept = (pki / name).rename(tmp_path / "kept")
    put(pki / name)
    # What the link of the unit led to is nobody's then.
    below = name != ".vaultpki/pair"
    before, about = inodes(pki, below=below), (pki / name).lstat().st_ino
    assert f"{pki}/{name}{said}" in told(pki, new)
    assert inodes(pki, below=below) == before and (pki / name).lstat().st_ino == about
    removed(pki / name)
    kept.rename(pki / name)
    converges(pki, new)


def linked(path: Path) -> None:
    path.rename(path.with_name("real"))
    path.symlink_to("real")


def unlinked(path: Path) -> None:
    path.unlink()
    path.with_name("real").rename(path)


def restored(pki: Path) -> None:
    """By `cp -rL` and some backups, which make folders of links."""
    place = generation(pki)
    (pki / ".vaultpki/pair").unlink()
    shutil.copytree(place, pki / ".vaultpki/pair")


def given(number: int, *below: str) -> Act:
    return lambda pki: os.chown(pki.joinpath(*below), number, 0)


def opened(mode: int, *below: str) -> Act:
    return lambda pki: pki.joinpath(*below).chmod(mode)


def behind(act: Act, *below: str) -> Act:
    return lambda pki: act(Path(os.path.normpath(pki.joinpath(*below))))


OTHERS = f"belongs to the user {STRANGER}"
PLACES: dict[str, tuple[Act, Act, str]] = {
    "directory-is-a-link": (linked, unlinked, "symbolic link"),
    "parent-is-a-link": (behind(linked, ".."), behind(unlinked, ".."), "symbolic link"),
    "hidden-is-a-link": (behind(linked, ".vaultpki"), behind(unlinked, ".vaultpki"), "symbolic link"),
    "without-its-links": (restored, lambda pki: shutil.rmtree(pki / ".vaultpki/pair"), "move it away"),
    "all-may-write": (opened(0o777), opened(0o755), "others may write"),
    "all-may-write-sticky": (opened(0o1777), opened(0o755), "others may write"),
    "all-may-write-above": (opened(0o777, ".."), opened(0o755, ".."), "others may write"),
    "of-a-stranger": (given(STRANGER), given(0), OTHERS),
    "below-a-stranger": (given(STRANGER, ".."), given(0, ".."), OTHERS),
    "hidden-of-a-stranger": (given(STRANGER, ".vaultpki"), given(0, ".vaultpki"), OTHERS),
}


@pytest.mark.parametrize("place", PLACES)
def test_an_unsafe_place_is_refused(place: str, pki: Path, pairs: tuple[Path, Path], tmp_path: Path) -> None:
    old, new = pairs
    spoil, repair, said = PLACES[place]
    spoil(pki)
    before = times(tmp_path)
    assert said in told(pki, new) and content(pki) == content(old)
    assert spoil is restored or times(tmp_path) == before
    repair(pki)
    converges(pki, new)


@pytest.mark.parametrize(
    ("below", "spoil", "stays"),
    [
        (".vaultpki", opened(0o777), None),
        # The very same content, and yet not believed.
        (".vaultpki/pair", opened(0o777), False),
        (".vaultpki/pair", given(STRANGER), False),
        # One that nobody else may enter is opened.
        (".vaultpki/pair", opened(0o700), True),
    ],
    ids=["hidden", "writable", "given away", "closed"],
)
def test_a_folder_of_ours_that_others_could_write_to(
    below: str, spoil: Act, stays: bool | None, pki: Path, pairs: tuple[Path, Path]
) -> None:
    place = generation(pki)
    spoil((pki / below).resolve())
    converges(pki, pairs[0])
    assert stays is None or (generation(pki) == place) is stays


@pytest.mark.parametrize(
    ("wait", "rounds"),
    [
        pytest.param(0, 4, id="at once"),
        pytest.param(30, 2, id="one after another"),
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
        for number in range(rounds):
            # The one that starts first has a start.
            sources = (*pairs, *pairs) if number % 2 else (*pairs[::-1], *pairs)
            started = [
                subprocess.Popen(
                    command(pki, source, wait),
                    env=environment(),
                    stdout=subprocess.PIPE,
                    stderr=subprocess.PIPE,
                    text=True,
                )
                for source in sources
            ]
            ended = [(*process.communicate(timeout=60), process.returncode) for process in started]
            for out, err, code in ended:
                if code:
                    busy += 1
                    assert (out, code) == ("", 1) and "another vaultpki process is writing here" in err, err
                    assert err.startswith("vaultpki: /") and err.count("\n") == 1
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
