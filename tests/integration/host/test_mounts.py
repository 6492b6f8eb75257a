"""Who has files of this machine mounted, seen in a real container: a mount namespace with a root folder of its own."""

from __future__ import annotations

import shutil
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from vaultpki.disk import exchange
from vaultpki.host import mounts

_MOUNTS = """
mount --bind '{root}' '{root}'
mount --bind '{host}/admin.conf' '{root}'/etc/admin.conf
mount --bind '{host}/pki' '{root}/etc/pki'
exec chroot '{root}' /bin/sleep 60
"""


@contextmanager
def container(host: Path, root: Path) -> Iterator[None]:
    """A process with a root folder of its own in which a file and a folder of the machine are mounted."""
    for folder in (root / "bin", root / "etc/pki"):
        folder.mkdir(parents=True)
    (root / "etc/admin.conf").touch()
    busybox = shutil.which("busybox")
    assert busybox is not None, "busybox is missing; as root, run: apt-get install busybox-static"
    shutil.copy(busybox, root / "bin/sleep")
    command = ["unshare", "--mount", "--propagation", "private", "sh", "-ec", _MOUNTS.format(host=host, root=root)]
    with subprocess.Popen(command) as running:
        try:
            end = time.monotonic() + 20
            while Path(f"/proc/{running.pid}/comm").read_text() != "sleep\n":
                assert running.poll() is None and time.monotonic() < end
                time.sleep(0.02)
            yield
        finally:
            running.kill()


def seen(host: Path) -> set[tuple[str, bool]]:
    """What is mounted of a folder, by its path below it, and whether it is gone."""
    return {(str(Path(each.path).relative_to(host)), each.gone) for each in mounts.holders([str(host)])}


@pytest.fixture
def host(tmp_path: Path) -> Path:
    made = tmp_path / "host with a space"
    for folder in (made / "pki", made / "aside/kubeadm"):
        folder.mkdir(parents=True)
    (made / "admin.conf").write_text("one")
    return made


def test_a_container_keeps_what_it_has_mounted_and_is_seen_with_it(host: Path, tmp_path: Path) -> None:
    assert seen(host) == set()
    with container(host, tmp_path / "root"):
        assert seen(host) == {("admin.conf", False), ("pki", False)}
        (one, *_) = mounts.holders([str(host / "admin.conf")])
        assert one.program == "sleep" and not mounts.changed_since(one.path, one.started)
        assert mounts.holders([str(host / "admin")]) == ()
        # As people copy a file: it stays the same one, and the program has read it before.
        time.sleep(0.05)
        (host / "admin.conf").write_text("two")
        assert seen(host) == {("admin.conf", False), ("pki", False)} and mounts.changed_since(one.path, one.started)
        (host / "new").write_text("three")
        (host / "new").replace(host / "admin.conf")
        exchange.exchange(str(host / "pki"), str(host / "aside/kubeadm"))
        assert seen(host) == {("admin.conf", True), ("aside/kubeadm", False)}
    assert seen(host) == set()


def test_a_service_with_folders_of_its_own_is_no_container(host: Path) -> None:
    """systemd gives a hardened service such mounts, the agent itself too (ProtectSystem=, ReadWritePaths=)."""
    command = ["unshare", "--mount", "--propagation", "private", "sh", "-ec"]
    with subprocess.Popen([*command, f"mount --bind '{host}' '{host}'; exec sleep 60"]) as running:
        try:
            time.sleep(0.5)
            assert running.poll() is None and seen(host) == set()
        finally:
            running.kill()
