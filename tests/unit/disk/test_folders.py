"""Several folders as one: locked together, each with generations of its own, and one that fails alone."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from vaultpki.disk.folders import Folders
from vaultpki.disk.generations import File
from vaultpki.disk.owner_mark import DirectoryOwner
from vaultpki.disk.store import Directory
from vaultpki.errors import Busy, StoreError

US, THEM = DirectoryOwner("prod", "cp-1", "4f" * 32), DirectoryOwner("other", "cp-1", "5e" * 32)
PAIR = {"server.crt": File(b"crt"), "server.key": File(b"key", 0o600)}


@pytest.fixture
def paths(tmp_path: Path) -> dict[str, str]:
    pki = tmp_path / "pki"
    further = {"etcd": pki / "etcd", "kubelet": tmp_path / "kubelet", "kubeconfigs": tmp_path}
    return {"pki": str(pki), **{name: str(path) for name, path in further.items()}}


def test_a_folder_is_made_when_something_is_written(paths: dict[str, str]) -> None:
    with Folders.open(paths) as folders:
        folders.claim(US)
        assert folders.read("etcd", "server", PAIR)["server.crt"].problem == "missing"
        assert not os.path.exists(paths["etcd"])
        folders.refuse_taken("etcd", "server", PAIR)
        assert folders.install("etcd", "server", PAIR) is True
        assert folders.install("etcd", "server", PAIR) is False
        assert folders.file_sets() == {("etcd", "server"): ("server.crt", "server.key")}
        assert not os.path.exists(paths["kubelet"])
    with Folders.open(paths, write=False) as folders:
        assert folders.read("etcd", "server", PAIR)["server.key"].data == b"key"
    mark = Path(paths["etcd"], ".vaultpki", "owner.json")
    assert mark.read_bytes() == Path(paths["pki"], ".vaultpki", "owner.json").read_bytes()


def test_all_are_locked(paths: dict[str, str]) -> None:
    with Folders.open(paths) as folders:
        folders.install("etcd", "server", PAIR)
        for name in ("pki", "etcd"):
            with pytest.raises(Busy):
                Directory.open(paths[name])
    for name in ("pki", "etcd"):
        Directory.open(paths[name]).close()


def test_one_that_fails_fails_alone(paths: dict[str, str]) -> None:
    with Directory.open(paths["kubelet"]) as other:
        other.install("kubelet", {"kubelet.crt": File(b"x")})
        with Folders.open(paths) as folders:
            for act in (
                lambda: folders.install("kubelet", "server", PAIR),
                lambda: folders.read("kubelet", "server", PAIR),
                lambda: folders.probe("kubelet", 1),
            ):
                with pytest.raises(Busy):
                    act()
            assert folders.install("etcd", "server", PAIR)


def test_a_folder_of_somebody_else_is_left_alone(paths: dict[str, str]) -> None:
    with Folders.open({"pki": paths["kubelet"]}) as other:
        other.claim(THEM)
        other.install("pki", "server", PAIR)
    before = Path(paths["kubelet"], ".vaultpki", "owner.json").read_bytes()
    with Folders.open(paths) as folders:
        folders.claim(US)
        folders.sweep()
        with pytest.raises(StoreError, match="belongs to node cp-1 of cluster other"):
            folders.install("kubelet", "server", {"server.crt": File(b"ours")})
        folders.install("pki", "server", PAIR)
    assert Path(paths["kubelet"], ".vaultpki", "owner.json").read_bytes() == before
    assert Path(paths["kubelet"], "server.crt").read_bytes() == b"crt"


def test_settling_waits_for_all_and_a_sweep_clears_all(paths: dict[str, str]) -> None:
    with Folders.open(paths) as folders:
        for name in ("pki", "etcd"):
            folders.install(name, "server", PAIR)
            folders.install(name, "server", {**PAIR, "server.crt": File(b"new")})
        assert folders.unsettled
        folders.settle(0.1)
        assert not folders.unsettled
        folders.install("etcd", "server", PAIR)
    hidden = Path(paths["etcd"], ".vaultpki")
    assert len([path for path in hidden.iterdir() if path.is_dir() and not path.is_symlink()]) == 2
    with Folders.open(paths) as folders:
        assert folders.sweep() == 1
    assert len([path for path in hidden.iterdir() if path.is_dir() and not path.is_symlink()]) == 1
