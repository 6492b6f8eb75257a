"""The store on real files: links, modes, refusals, locks, full disks, watchers and readers."""

from __future__ import annotations

import ctypes
import os
import resource
import select
import stat
import struct
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import pytest

from vaultpki.disk import files
from vaultpki.disk.files import read_private, write_private
from vaultpki.disk.generations import File
from vaultpki.disk.store import Directory
from vaultpki.errors import Busy, CertificateRefused, StoreError

ROOT_ONLY = "these tests run as root, as the agent does: run them with sudo or in a container"


def pair(tag: str, stem: str = "kubelet") -> dict[str, File]:
    key, crt = f"key {tag}\n".encode(), f"crt {tag}\n".encode()
    return {f"{stem}.crt": File(crt), f"{stem}.key": File(key, 0o600), f"{stem}.pem": File(key + crt, 0o600)}


@pytest.fixture
def pki(tmp_path: Path) -> Path:
    return tmp_path / "pki"


def names(folder: Path) -> list[str]:
    return sorted(entry.name for entry in folder.iterdir())


def written(folder: Path) -> dict[Path, tuple[int, int, int, int]]:
    """What a write changes of everything in the folder; a mere look changes the time of the last access."""
    return {
        path: (it.st_ino, it.st_mode, it.st_mtime_ns, it.st_ctime_ns)
        for path in folder.rglob("*")
        for it in [os.lstat(path)]
    }


def whole(pki: Path, tag: str, stem: str = "kubelet") -> bool:
    return all((pki / name).read_bytes() == file.data for name, file in pair(tag, stem).items())


def test_first_install_swap_and_nothing_to_do(pki: Path) -> None:
    with Directory.open(str(pki)) as directory:
        assert directory.install("kubelet", pair("1"))
        assert whole(pki, "1") and names(pki) == [".vaultpki", "kubelet.crt", "kubelet.key", "kubelet.pem"]
        assert os.readlink(pki / "kubelet.crt") == ".vaultpki/kubelet/kubelet.crt"
        before = written(pki)
        assert not directory.install("kubelet", pair("1"))
        assert written(pki) == before
        old = os.readlink(pki / ".vaultpki/kubelet")
        assert directory.install("kubelet", pair("2")) and whole(pki, "2")
        assert (pki / ".vaultpki" / old / "kubelet.key").read_bytes() == b"key 1\n"
        assert 0 < directory.retire(60) <= 60
        directory.settle(0.05)
        assert not (pki / ".vaultpki" / old).exists()
        assert directory.file_sets() == {"kubelet": ("kubelet.crt", "kubelet.key", "kubelet.pem")}


def test_a_swap_of_one_unit_leaves_the_others_untouched(pki: Path) -> None:
    with Directory.open(str(pki)) as directory:
        directory.install("kubelet", pair("1"))
        directory.install("etcd", pair("1", "etcdserver"))
        before = {name: os.stat(pki / name) for name in pair("1", "etcdserver")}
        directory.install("kubelet", pair("2"))
        directory.settle(0)
        assert {name: os.stat(pki / name) for name in pair("1", "etcdserver")} == before


@pytest.mark.parametrize("umask", [0, 0o22, 0o777])
def test_modes_hold_under_any_umask(pki: Path, umask: int) -> None:
    previous = os.umask(umask)
    try:
        with Directory.open(str(pki / "below")) as directory:
            directory.install("kubelet", pair("1"))
    finally:
        os.umask(previous)
    found = {name: stat.S_IMODE(os.stat(pki / "below" / name).st_mode) for name in pair("1")}
    assert found == {"kubelet.crt": 0o644, "kubelet.key": 0o600, "kubelet.pem": 0o600}
    for folder in (pki, pki / "below", pki / "below/.vaultpki", pki / "below/.vaultpki/kubelet"):
        assert stat.S_IMODE(folder.stat().st_mode) == 0o755


def test_a_mode_is_mended_in_place_and_a_writer_of_before_keeps_nothing(pki: Path) -> None:
    assert os.geteuid() == 0, ROOT_ONLY
    key = pki / "kubelet.key"
    with Directory.open(str(pki)) as directory:
        directory.install("kubelet", pair("1"))
        inode = key.stat().st_ino
        key.chmod(0o644)
        assert not directory.install("kubelet", pair("1"))
        assert (key.stat().st_ino, key.stat().st_mode & 0o7777) == (inode, 0o600) and not directory.rewritten
        wanted = pair("1") | {"kubelet.key": File(b"key 1\n", 0o640, 1234, 5678)}
        for mode, owner in ((0o666, 0), (0o640, 1234), (0o640, 0)):
            key.chmod(mode)
            os.chown(key, owner, owner)
            before = key.stat().st_ino
            assert not directory.install("kubelet", wanted)
            about = key.stat()
            assert (about.st_mode & 0o7777, about.st_uid, about.st_gid) == (0o640, 1234, 5678)
            assert about.st_ino != before
        assert len(directory.rewritten) == 3
        assert directory.install("kubelet", wanted | {"kubelet.crt": File(b"crt 2\n")})
        assert key.stat().st_uid == 1234


def test_read_gives_one_generation_and_names_what_is_wrong(pki: Path) -> None:
    with Directory.open(str(pki)) as directory:
        assert directory.read("kubelet", ["kubelet.crt"])["kubelet.crt"].problem == "missing"
        directory.install("kubelet", pair("1"))
        stored = directory.read("kubelet", pair("1"))
        assert {name: item.data for name, item in stored.items()} == {n: f.data for n, f in pair("1").items()}
        assert stored["kubelet.key"].mode == 0o600 and "key" not in repr(stored["kubelet.key"])
        generation = pki / ".vaultpki/kubelet"
        (generation / "kubelet.crt").unlink()
        (generation / "kubelet.key").unlink()
        (generation / "kubelet.pem").unlink()
        os.mkfifo(generation / "kubelet.key")
        (generation / "kubelet.pem").write_bytes(b"x" * (files.LARGEST_FILE + 1))
        problems = {name: item.problem for name, item in directory.read("kubelet", pair("1")).items()}
        assert problems == {"kubelet.crt": "missing", "kubelet.key": "not-a-file", "kubelet.pem": "too-large"}
        assert directory.install("kubelet", pair("1")) and whole(pki, "1")
        (pki / "kubelet.crt").unlink()
        assert directory.read("kubelet", pair("1"))["kubelet.crt"].problem == "missing"
        assert not directory.install("kubelet", pair("1")) and whole(pki, "1")


def test_reading_only_makes_and_locks_nothing(pki: Path) -> None:
    pki.mkdir()
    with Directory.open(str(pki), write=False) as directory:
        assert directory.file_sets() == {} and directory.read("a", ["a.crt"])["a.crt"].problem == "missing"
        with pytest.raises(StoreError, match="reading only"):
            directory.install("kubelet", pair("1"))
    assert names(pki) == []
    with Directory.open(str(pki)) as writer:
        writer.install("kubelet", pair("1"))
        with Directory.open(str(pki), write=False) as reader:
            assert reader.read("kubelet", ["kubelet.crt"])["kubelet.crt"].data == b"crt 1\n"
    with pytest.raises(StoreError, match="does not exist"):
        Directory.open(str(pki / "none"), write=False)


@pytest.mark.parametrize("foreign", ["file", "link", "folder"])
def test_a_foreign_file_is_named_and_nothing_is_half_done(pki: Path, foreign: str) -> None:
    pki.mkdir()
    place = pki / "kubelet.pem"
    if foreign == "file":
        place.write_text("theirs")
    elif foreign == "link":
        place.symlink_to("/etc/passwd")
    else:
        place.mkdir()
    with Directory.open(str(pki)) as directory:
        with pytest.raises(StoreError, match=r"kubelet\.pem: .*move it away") as error:
            directory.install("kubelet", pair("1"))
        assert "\n" not in str(error.value)
        assert directory.read("kubelet", ["kubelet.pem"])["kubelet.pem"].problem == "foreign"
        assert names(pki) == [".vaultpki", "kubelet.pem"] and names(pki / ".vaultpki") == ["lock"]
        assert directory.sweep() == 0 and os.path.lexists(place)


@pytest.mark.parametrize("name", ["../x", "a/b", ".hidden", "", "a\n", "ä", "-x", "x" * 300])
def test_names_that_leave_the_directory_are_refused(pki: Path, name: str) -> None:
    with Directory.open(str(pki)) as directory:
        with pytest.raises(StoreError):
            directory.install("kubelet", {name: File(b"x")})
        with pytest.raises(StoreError):
            directory.install(name, pair("1"))
        assert directory.file_sets() == {}


def test_a_check_that_fails_stops_the_swap(pki: Path) -> None:
    seen: dict[str, bytes] = {}

    def refuse(back: Mapping[str, bytes]) -> None:
        seen.update(back)
        raise CertificateRefused("no", reason="key-mismatch")

    with Directory.open(str(pki)) as directory:
        directory.install("kubelet", pair("1"))
        before = sorted(pki.rglob("*"))
        with pytest.raises(CertificateRefused):
            directory.install("kubelet", pair("2"), check=refuse)
        assert seen == {name: file.data for name, file in pair("2").items()}
        assert whole(pki, "1") and sorted(pki.rglob("*")) == before


def test_a_changed_set_of_names_and_a_removed_unit(pki: Path) -> None:
    with Directory.open(str(pki)) as directory:
        directory.install("one", pair("1", "a"))
        directory.install("two", pair("2", "b"))
        directory.install("one", pair("1", "c"))
        assert names(pki) == [".vaultpki", *sorted([*pair("2", "b"), *pair("1", "c")])] and whole(pki, "1", "c")
        # Nothing takes the path of what is still there.
        with pytest.raises(StoreError, match=r"b\.crt: it belongs to two, which is still here"):
            directory.install("one", pair("1", "b"))
        assert whole(pki, "1", "c") and whole(pki, "2", "b")
        directory.install("two", pair("2", "a"))
        directory.install("one", pair("1", "b"))
        assert whole(pki, "2", "a") and whole(pki, "1", "b")
        assert directory.remove("two") and not directory.remove("two")
        directory.settle(0)
        assert names(pki) == [".vaultpki", *sorted(pair("1", "b"))] and list(directory.file_sets()) == ["one"]
        assert directory.sweep() == 0


def test_sweep_takes_what_a_killed_run_left_and_nothing_live(pki: Path) -> None:
    with Directory.open(str(pki)) as directory:
        directory.install("kubelet", pair("1"))
        directory.install("kubelet", pair("2"))
    hidden = pki / ".vaultpki"
    (hidden / "etcd.0123456789abcdef").mkdir()
    (hidden / "etcd.0123456789abcdef/etcd.key").write_text("short")
    (hidden / "kubelet.0123456789abcdef.link").symlink_to("kubelet.0123456789abcdef")
    (pki / "etcd.key").symlink_to(".vaultpki/etcd/etcd.key")
    (pki / "theirs").write_text("theirs")
    (pki / "their-link").symlink_to("nowhere")
    (hidden / "note").write_text("theirs")
    with Directory.open(str(pki)) as directory:
        assert directory.sweep() == 4
        assert directory.sweep() == 0
        assert names(hidden) == ["kubelet", os.readlink(hidden / "kubelet"), "lock", "note"]
        assert names(pki) == [".vaultpki", *sorted(pair("2")), "their-link", "theirs"] and whole(pki, "2")
        directory.install("kubelet", pair("3"))
        assert directory.sweep() == 0 and directory.retire(60) > 0


def test_two_holders(pki: Path) -> None:
    with Directory.open(str(pki)):
        with pytest.raises(Busy, match="another vaultpki process"):
            Directory.open(str(pki))
        child = subprocess.Popen(["sleep", "30"])
    try:
        Directory.open(str(pki)).close()
    finally:
        child.kill()
        child.wait()


def test_who_waits_gets_the_directory_as_soon_as_it_is_free(pki: Path) -> None:
    first = Directory.open(str(pki))
    began = time.monotonic()
    with pytest.raises(Busy, match="another vaultpki process"):
        Directory.open(str(pki), wait=0.2)
    assert 0.2 <= time.monotonic() - began < 10
    ending = threading.Timer(0.3, first.close)
    ending.start()
    began = time.monotonic()
    with Directory.open(str(pki), wait=20) as directory:
        assert 0.2 < time.monotonic() - began < 15
        assert directory.install("kubelet", pair("1"))
    ending.join()


def test_a_lock_on_a_file_that_was_removed_is_none(pki: Path) -> None:
    with Directory.open(str(pki)):
        (pki / ".vaultpki/lock").rename(pki / ".vaultpki/lock.old")
        with Directory.open(str(pki)), pytest.raises(Busy):
            Directory.open(str(pki))


def test_a_probe_leaves_nothing(pki: Path) -> None:
    with Directory.open(str(pki)) as directory:
        directory.install("kubelet", pair("1"))
        before = sorted(pki.rglob("*"))
        directory.probe()
        directory.probe(10)
        assert sorted(pki.rglob("*")) == before and not directory.unsettled
        # As a kill leaves it.
        (pki / ".vaultpki/probe.0123456789abcdef").mkdir(mode=0o700)
        (pki / ".vaultpki/probe.0123456789abcdef/data").write_bytes(b"x")
        assert directory.sweep() == 1 and sorted(pki.rglob("*")) == before


def test_a_probe_tells_what_a_generation_would_meet(small: Path) -> None:
    with Directory.open(str(small / "pki")) as directory:
        directory.install("kubelet", pair("1"))
        directory.probe()
        before = sorted(small.rglob("*"))
        with pytest.raises(StoreError, match="the disk is full"):
            directory.probe(2)
        assert sorted(small.rglob("*")) == before
        files.probe_folder(str(small / "state"))
        subprocess.run(["mount", "-o", "remount,ro", str(small)], check=True)
        with pytest.raises(StoreError, match="read-only"):
            directory.probe()
        with pytest.raises(StoreError, match="read-only"):
            files.probe_folder(str(small / "state"))


def test_names_that_are_taken(pki: Path) -> None:
    with Directory.open(str(pki)) as directory:
        directory.refuse_taken("kubelet", pair("1"))
        directory.install("kubelet", pair("1"))
        directory.refuse_taken("kubelet", pair("2"))
        (pki / "kubelet.key").unlink()
        (pki / "kubelet.key").write_text("theirs")
        with pytest.raises(StoreError, match=r"kubelet\.key: this file was not made by vaultpki; move it away"):
            directory.refuse_taken("kubelet", pair("2"))
        (pki / ".vaultpki/etcd").write_text("theirs")
        with pytest.raises(StoreError, match=r"\.vaultpki/etcd: it was not made by vaultpki; move it away"):
            directory.refuse_taken("etcd", pair("1", "etcd"))


def test_an_old_generation_that_resists_stops_nothing_and_is_told_in_the_end(pki: Path, tmp_path: Path) -> None:
    assert os.geteuid() == 0, ROOT_ONLY
    with Directory.open(str(pki)) as directory:
        directory.install("kubelet", pair("1"))
    old = pki / ".vaultpki/kubelet.0123456789abcdef"
    (old / "below").mkdir(parents=True)
    subprocess.run(["mount", "-t", "tmpfs", "tmpfs", str(old / "below")], check=True)
    try:
        with Directory.open(str(pki)) as directory:
            assert directory.sweep() == 0
            assert directory.install("kubelet", pair("2")) and directory.unsettled
            with pytest.raises(StoreError, match=rf"{old}: a file system is mounted there"):
                directory.settle(0)
            directory.settle(0)
            assert whole(pki, "2")
    finally:
        subprocess.run(["umount", str(old / "below")], check=True)
    with Directory.open(str(pki)) as directory:
        assert directory.sweep() == 1 and not old.exists()


def test_a_symlinked_parent_is_refused_and_a_swapped_one_redirects_nothing(tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to("real")
    for path in ("link", "link/pki", "link/below/pki"):
        with pytest.raises(StoreError, match="symbolic link"):
            Directory.open(str(tmp_path / path))
    assert names(tmp_path / "real") == []
    with Directory.open(str(tmp_path / "real/pki")) as directory:
        (tmp_path / "real").rename(tmp_path / "moved")
        (tmp_path / "elsewhere/pki").mkdir(parents=True)
        (tmp_path / "real").symlink_to("elsewhere")
        directory.install("kubelet", pair("1"))
    assert whole(tmp_path / "moved/pki", "1") and names(tmp_path / "elsewhere/pki") == []


def test_folders_others_can_write_to_or_own_are_refused(tmp_path: Path) -> None:
    assert os.geteuid() == 0, ROOT_ONLY
    for mode in (0o777, 0o757, 0o1777):
        folder = tmp_path / f"{mode:o}"
        folder.mkdir()
        os.chmod(folder, mode)
        with pytest.raises(StoreError, match="others may write"):
            Directory.open(str(folder))
        if not mode & stat.S_ISVTX:
            with pytest.raises(StoreError, match="others may write"):
                Directory.open(str(folder / "pki"))
        else:
            Directory.open(str(folder / "pki")).close()
    group = tmp_path / "group"
    group.mkdir()
    os.chown(group, 0, 4321)
    os.chmod(group, 0o775)
    with pytest.raises(StoreError, match="others may write"):
        Directory.open(str(group))
    stranger = tmp_path / "stranger"
    stranger.mkdir(mode=0o755)
    os.chown(stranger, 1234, 0)
    with pytest.raises(StoreError, match="belongs to the user 1234"):
        Directory.open(str(stranger / "pki"))


@pytest.fixture
def small(tmp_path: Path) -> Iterator[Path]:
    """A disk of its own with 64 KiB."""
    assert os.geteuid() == 0, ROOT_ONLY
    disk = tmp_path / "disk"
    disk.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64k,mode=755", "tmpfs", str(disk)], check=True)
    try:
        yield disk
    finally:
        subprocess.run(["umount", str(disk)], check=True)


def test_a_full_disk_is_told_and_the_live_pair_stays(small: Path) -> None:
    with Directory.open(str(small / "pki")) as directory:
        directory.install("kubelet", pair("1"))
        before = sorted(small.rglob("*"))
        with pytest.raises(StoreError, match="the disk is full") as error:
            directory.install("kubelet", {**pair("2"), "kubelet.pem": File(b"x" * 100_000, 0o600)})
        assert str(error.value).startswith(str(small)) and "\n" not in str(error.value)
        assert whole(small / "pki", "1") and sorted(small.rglob("*")) == before
        assert directory.install("kubelet", pair("2")) and whole(small / "pki", "2")


def test_a_read_only_disk_is_told(small: Path) -> None:
    with Directory.open(str(small / "pki")) as directory:
        directory.install("kubelet", pair("1"))
        subprocess.run(["mount", "-o", "remount,ro", str(small)], check=True)
        with pytest.raises(StoreError, match="read-only"):
            directory.install("kubelet", pair("2"))
        assert whole(small / "pki", "1")


def test_a_short_write_never_goes_live(pki: Path) -> None:
    program = (
        "import resource, signal, sys; from vaultpki.disk.generations import File\n"
        "from vaultpki.disk.store import Directory\n"
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN); resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))\n"
        "Directory.open(sys.argv[1]).install('kubelet', {'kubelet.crt': File(b'x' * 5000)})\n"
    )
    with Directory.open(str(pki)) as directory:
        directory.install("kubelet", {"kubelet.crt": File(b"old")})
    done = subprocess.run([sys.executable, "-c", program, str(pki)], capture_output=True, text=True, check=False)
    assert "StoreError" in done.stderr and "ulimit -f" in done.stderr
    assert (pki / "kubelet.crt").read_bytes() == b"old"
    assert len(names(pki / ".vaultpki")) == 3
    assert resource.getrlimit(resource.RLIMIT_FSIZE)[0] != 1000


IN_ATTRIB, IN_DELETE_SELF = 0x4, 0x400


def test_a_watch_on_the_old_file_sees_the_swap_once_the_grace_is_over(pki: Path) -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    with Directory.open(str(pki)) as directory:
        directory.install("kubelet", pair("1"))
        watch = libc.inotify_init1(os.O_NONBLOCK | os.O_CLOEXEC)
        try:
            assert libc.inotify_add_watch(watch, os.fsencode(pki / "kubelet.crt"), IN_ATTRIB | IN_DELETE_SELF) > 0
            directory.install("kubelet", pair("2"))
            assert select.select([watch], [], [], 0.1)[0] == []
            directory.settle(0.2)
            assert select.select([watch], [], [], 1)[0] == [watch]
            _, mask, _, _ = struct.unpack_from("iIII", os.read(watch, 4096))
            assert mask & (IN_ATTRIB | IN_DELETE_SELF)
            assert whole(pki, "2")
        finally:
            os.close(watch)


def test_readers_never_see_a_torn_or_missing_pair_during_swaps(pki: Path) -> None:
    stop = threading.Event()
    faults: list[str] = []
    reads, grace = [0, 0], 0.2

    def bundle() -> None:
        while not stop.is_set():
            key, crt = (pki / "kubelet.pem").read_text().splitlines()
            reads[0] += 1
            if key.split()[1] != crt.split()[1]:
                faults.append(f"{key} beside {crt}")

    def handle() -> None:
        with Directory.open(str(pki), write=False) as reader:
            while not stop.is_set():
                begun = time.monotonic()
                tags = {(item.data or b"- -").split()[1] for item in reader.read("kubelet", pair("0")).values()}
                reads[1] += 1
                # A reader whom a busy machine stops for longer may lose the generation that it reads.
                if len(tags) != 1 and time.monotonic() - begun < grace:
                    faults.append(str(tags))

    def guarded(body: Callable[[], None]) -> None:
        try:
            body()
        except (OSError, StoreError, ValueError, IndexError) as error:
            faults.append(repr(error))

    with Directory.open(str(pki)) as directory:
        directory.install("kubelet", pair("0"))
        threads = [threading.Thread(target=guarded, args=(body,)) for body in (bundle, handle)]
        interval = sys.getswitchinterval()
        sys.setswitchinterval(0.0002)
        try:
            for thread in threads:
                thread.start()
            for number in range(1, 301):
                directory.install("kubelet", pair(str(number)))
                directory.retire(grace)
        finally:
            sys.setswitchinterval(interval)
            stop.set()
        for thread in threads:
            thread.join()
    assert faults == [] and min(reads) > 100, (faults[:3], reads)


def test_private_files(tmp_path: Path) -> None:
    path = tmp_path / "secret"
    assert read_private(str(path)) is None
    previous = os.umask(0)
    try:
        write_private(str(path), b"one")
    finally:
        os.umask(previous)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600 and read_private(str(path)) == b"one"
    (tmp_path / ".secret.0123456789abcdef").write_text("left by a kill")
    (tmp_path / ".secret.other").write_text("theirs")
    write_private(str(path), b"two")
    assert read_private(str(path)) == b"two" and names(tmp_path) == [".secret.other", "secret"]
    os.chmod(path, 0o640)
    with pytest.raises(StoreError, match="chmod 600"):
        read_private(str(path))
    (tmp_path / "link").symlink_to("secret")
    with pytest.raises(StoreError, match="symbolic link"):
        read_private(str(tmp_path / "link"))
    write_private(str(tmp_path / "link"), b"three")
    assert not (tmp_path / "link").is_symlink() and path.read_bytes() == b"two"


def test_a_private_file_of_a_stranger_is_refused(tmp_path: Path) -> None:
    assert os.geteuid() == 0, ROOT_ONLY
    path = tmp_path / "secret"
    write_private(str(path), b"one")
    os.chown(path, 1234, 0)
    with pytest.raises(StoreError, match="belongs to the user 1234"):
        read_private(str(path))


def test_a_full_disk_leaves_the_private_file_as_it_was(small: Path) -> None:
    path = small / "secret"
    write_private(str(path), b"one")
    with pytest.raises(StoreError, match="the disk is full"):
        write_private(str(path), b"x" * 100_000)
    assert read_private(str(path)) == b"one" and names(small) == ["secret"]


def test_the_grace_is_counted_from_the_swap(pki: Path) -> None:
    with Directory.open(str(pki)) as directory:
        directory.install("kubelet", pair("1"))
        directory.install("kubelet", pair("2"))
        time.sleep(0.05)
        assert directory.retire(10) < 9.96
        assert directory.retire(0.04) == 0.0
