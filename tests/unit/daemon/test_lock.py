"""The lock of a resident agent follows its folder, and makes none on a machine that is taken over."""

from __future__ import annotations

from pathlib import Path

import pytest

from helpers.example_agent import agent_config
from vaultpki.daemon.lock import DaemonLock
from vaultpki.disk import exchange
from vaultpki.errors import Busy
from vaultpki.model import AgentConfig, TakenOver
from vaultpki.places import Layout


def config(root: Path, directory: str, *, taken_over: bool = True) -> AgentConfig:
    machine = TakenOver(True, f"{root}/pki", f"{root}/kubelet", str(root)) if taken_over else None
    return agent_config(
        directory=f"{root}/{directory}", state=f"{root}/state", layout=Layout.KUBEADM, taken_over=machine
    )


def test_it_follows_the_folder_to_the_place_of_kubeadms(tmp_path: Path) -> None:
    root = tmp_path / "etc"
    for name in ("pki", "aside/agent"):
        (root / name).mkdir(parents=True, mode=0o700)
    root.chmod(0o700)
    one, other = DaemonLock(), DaemonLock()
    one.hold(config(root, "aside/agent"))
    exchange.exchange(f"{root}/pki", f"{root}/aside/agent")
    one.hold(config(root, "pki"))
    one.hold(config(root, "pki"))
    # Whoever has another state folder is kept away by the folder of certificates.
    with pytest.raises(Busy):
        other.hold(config(root, "pki"))
    exchange.exchange(f"{root}/pki", f"{root}/aside/agent")
    one.hold(config(root, "aside/agent"))


def test_it_makes_no_folder_on_a_machine_that_is_taken_over(tmp_path: Path) -> None:
    root = tmp_path / "etc"
    root.mkdir(mode=0o700)
    lock = DaemonLock()
    lock.hold(config(root, "aside/agent"))
    assert not (root / "aside").exists()
    lock.hold(config(root, "other", taken_over=False))
    assert (root / "other").is_dir()
