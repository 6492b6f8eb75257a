"""A static pod's manifest, changed on a real disk: whole at every instant, and after every kill and failing call."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from ctypes import CDLL
from pathlib import Path

import pytest
import yaml

from helpers.node import hooks_driver
from vaultpki.errors import StoreError
from vaultpki.host import static_pod
from vaultpki.host.hook_runner import Runner
from vaultpki.host.hooks import Job
from vaultpki.model import Hook

DRIVER = Path(hooks_driver.__file__)
ROOT = Path(__file__).parents[3]
CHANGING = (
    "openat,creat,write,writev,pwrite64,ftruncate,truncate,fallocate,chmod,fchmod,fchmodat,chown,fchown,lchown,fchownat,"
    "fsync,fdatasync,sync,symlink,symlinkat,link,linkat,rename,renameat,renameat2,unlink,unlinkat"
)
MANIFEST = """\
apiVersion: v1
kind: Pod
metadata:
  labels:
    component: kube-apiserver
  name: kube-apiserver
  namespace: kube-system
spec:
  containers: []  # as kubeadm writes it, shortened
"""
DIGEST = "4f1c9a0e" * 8
ERRORS = ("ENOSPC", "EIO", "EROFS")
CHANGED = MANIFEST.replace(
    "metadata:\n", 'metadata:\n  annotations:\n    "vaultpki/restarted-for": "etcd-ca=4f1c9a0e4f1c9a0e"\n'
)


def manifests(folder: Path) -> Path:
    folder.mkdir(mode=0o700)
    path = folder / "kube-apiserver.yaml"
    path.write_text(MANIFEST)
    path.chmod(0o640)
    return path


def restart(path: Path, *strace: str) -> subprocess.CompletedProcess[str]:
    prefix = ["strace", "-f", "-y", *strace] if strace else []
    return subprocess.run(
        # -S: the start-up files of site-packages would add calls of their own.
        [*prefix, sys.executable, "-S", str(DRIVER), "restart", str(path), f"etcd-ca={DIGEST}"],
        env={
            "PATH": os.environ["PATH"],
            "LC_ALL": "C.UTF-8",
            "PYTHONPATH": f"{ROOT}:{Path(yaml.__file__).parents[1]}",
            "PYTHONDONTWRITEBYTECODE": "1",
        },
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )


def points(path: Path, log: Path) -> list[tuple[str, int]]:
    """Every call that changes something, as strace counts them, taken from a run that nothing disturbs."""
    done = restart(path, "-o", str(log), "-e", f"trace={CHANGING}")
    assert done.stdout == "done\n", done.stderr
    counted: Counter[str] = Counter()
    found = []
    begun = False
    for line in log.read_text().splitlines():
        match = re.match(r"\d+\s+(\w+)\(", line)
        if match is None:
            continue
        counted[match[1]] += 1
        begun = begun or path.name in line
        if begun and (match[1] != "openat" or "O_CREAT" in line):
            found.append((match[1], counted[match[1]]))
    return found


@pytest.mark.parametrize("errors", [1, pytest.param(len(ERRORS), marks=pytest.mark.exhaustive)])
def test_killed_and_failed_at_every_changing_call(errors: int, tmp_path: Path) -> None:
    """So many errors of each call, each another one than of the call before."""
    calls = points(manifests(tmp_path / "trial"), tmp_path / "trace")
    names = [name for name, _ in calls]
    assert names[:2] == ["openat", "write"] and names[-3:] == ["renameat", "fsync", "write"], calls
    assert {"fchmod", "fsync"} <= set(names[2:-3]), calls
    faults = [(point, "signal=SIGKILL") for point in calls]
    faults += [
        (point, f"error={ERRORS[(number + further) % len(ERRORS)]}")
        for number, point in enumerate(calls[:-1])
        for further in range(errors)
    ]
    faults += [(point, "retval=1") for point in calls if point[0] == "write"][:1]
    for number, ((call, count), fault) in enumerate(faults):
        what = f"{fault} at {call} {count}"
        path = manifests(tmp_path / f"case-{number}")
        log = tmp_path / f"log-{number}"
        done = restart(path, "-o", str(log), "-e", f"trace={call}", "-e", f"inject={call}:{fault}:when={count}")
        found = path.read_text()
        assert found in (MANIFEST, CHANGED), what
        if fault.startswith("signal"):
            assert done.returncode in (-9, 137) and "done" not in done.stdout, what
        else:
            assert "(INJECTED)" in log.read_text(), what
            assert (done.stdout == "done\n") == (done.returncode == 0), what
            assert done.returncode or found == CHANGED, f"{what}: told a success that was none"
            if done.returncode:
                assert done.stderr.splitlines()[-1].startswith("vaultpki.errors.StoreError: /"), done.stderr
                assert call == "unlink" or os.listdir(path.parent) == [path.name], f"{what}: left something behind"
        # Only a name that the kubelet looks past may stand beside the manifest.
        assert all(name.startswith(".") for name in os.listdir(path.parent) if name != path.name), what
        static_pod.restart(str(path), {"etcd-ca": DIGEST})
        assert path.read_text() == CHANGED and os.listdir(path.parent) == [path.name], what
        assert path.stat().st_mode & 0o7777 == 0o640, what
        shutil.rmtree(path.parent)


@pytest.fixture
def watched(tmp_path: Path) -> Iterator[tuple[Path, int]]:
    """A manifest, and an inotify descriptor on its folder, as the kubelet has one."""
    path = manifests(tmp_path / "manifests")
    libc = CDLL(None)
    fd = libc.inotify_init1(os.O_NONBLOCK | os.O_CLOEXEC)
    everything_changing = 0x2 | 0x4 | 0x40 | 0x80 | 0x100 | 0x200
    assert fd >= 0 and libc.inotify_add_watch(fd, os.fsencode(path.parent), everything_changing) >= 0
    yield path, fd
    os.close(fd)


def heard(fd: int) -> list[tuple[int, str]]:
    """What inotify tells: masks and names (inotify(7))."""
    try:
        data = os.read(fd, 65536)
    except BlockingIOError:
        return []
    found = []
    while data:
        length = int.from_bytes(data[12:16], sys.byteorder)
        found.append((int.from_bytes(data[4:8], sys.byteorder), data[16 : 16 + length].rstrip(b"\0").decode()))
        data = data[16 + length :]
    return found


def test_the_kubelet_sees_one_step_and_then_nothing(watched: tuple[Path, int]) -> None:
    path, fd = watched
    static_pod.restart(str(path), {"etcd-ca": DIGEST})
    moved_to = 0x80
    assert [(mask, name) for mask, name in heard(fd) if not name.startswith(".")] == [(moved_to, path.name)]
    before = path.stat()
    static_pod.restart(str(path), {"etcd-ca": DIGEST})
    assert heard(fd) == [] and path.stat() == before


def test_mode_and_owner_stay(tmp_path: Path) -> None:
    path = manifests(tmp_path / "manifests")
    owner = (os.geteuid(), 12345) if os.geteuid() == 0 else (os.geteuid(), os.getegid())
    os.chown(path, *owner)
    static_pod.restart(str(path), {"etcd-ca": DIGEST})
    about = path.stat()
    assert path.read_text() == CHANGED
    assert (about.st_mode & 0o7777, about.st_uid, about.st_gid) == (0o640, *owner)


def test_a_manifest_that_somebody_else_changes_meanwhile_is_theirs(tmp_path: Path) -> None:
    path = manifests(tmp_path / "manifests")
    upgraded = MANIFEST.replace("kube-system", "kube-system  # upgraded")
    delayed = ["strace", "-f", "-o", str(tmp_path / "log"), "-e", "trace=fsync"]
    delayed += ["-e", "inject=fsync:delay_exit=1500000:when=1"]
    process = subprocess.Popen(
        [*delayed, sys.executable, str(DRIVER), "restart", str(path), f"etcd-ca={DIGEST}"],
        env={"PATH": os.environ["PATH"], "PYTHONPATH": str(ROOT)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    end = time.monotonic() + 20
    while len(os.listdir(path.parent)) < 2 and time.monotonic() < end:
        time.sleep(0.005)
    time.sleep(0.1)
    path.write_text(upgraded)
    said = process.communicate(timeout=30)[1]
    assert "another program changed it at the same time" in said
    assert path.read_text() == upgraded and os.listdir(path.parent) == [path.name]
    static_pod.restart(str(path), {"etcd-ca": DIGEST})
    assert "# upgraded" in path.read_text() and "etcd-ca=4f1c" in path.read_text()


def fifo(path: Path) -> None:
    path.unlink()
    os.mkfifo(path)


@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        (lambda path: path.unlink(), "kube-apiserver.yaml: it does not exist"),
        (lambda path: (path.rename(path.with_name("x")), path.symlink_to("x")), "a symbolic link is in its place"),
        (lambda path: path.parent.chmod(0o777), "others may write to the folder"),
        (lambda path: path.write_text("kind: Service"), "not the manifest of a pod"),
        (lambda path: path.write_bytes(b"a" * (1 << 21)), "larger than the limit"),
        (fifo, "move it away"),
    ],
)
def test_what_is_no_safe_manifest_is_told_and_left(spoil: object, said: str, tmp_path: Path) -> None:
    path = manifests(tmp_path / "manifests")
    assert callable(spoil)
    spoil(path)
    names = sorted(os.listdir(path.parent))
    with pytest.raises(StoreError, match=said):
        static_pod.restart(str(path), {"etcd-ca": DIGEST})
    assert sorted(os.listdir(path.parent)) == names
    [result] = Runner().run_all([Job("etcd-ca", DIGEST, (Hook("static_pod", name=str(path)),), 0, "/srv/pki", 20.0)])
    assert not result.ok and result.error.startswith(f"hook 1 of etcd-ca (static pod {path}) failed: ")


def test_one_restart_serves_all_keys_of_a_batch(watched: tuple[Path, int]) -> None:
    path, fd = watched
    hook = Hook("static_pod", name=str(path))
    jobs = [
        Job(key, digest * 64, (hook,), 0, "/srv/pki", 20.0)
        for key, digest in (("kube-apiserver", "a"), ("etcd-ca", "b"))
    ]
    results = Runner().run_all(jobs)
    assert [(each.key, each.ok) for each in results] == [("etcd-ca", True), ("kube-apiserver", True)]
    assert len([name for _, name in heard(fd) if name == path.name]) == 1
    assert f'"etcd-ca={"b" * 16},kube-apiserver={"a" * 16}"' in path.read_text()
    # A kill before that was written down runs it again, alone or together: nothing more happens.
    Runner().run_all(jobs[:1])
    assert heard(fd) == []
