"""The packages of this checkout, made by the scripts of `make dist`."""

from __future__ import annotations

import fcntl
import os
import subprocess
import sys
from pathlib import Path

import pytest

from helpers.pages import CHECKOUT


def make(script: str, folder: Path, *arguments: str, checkout: Path = CHECKOUT) -> None:
    """Run one of the scripts in packages/ for this folder; fails with all that it prints."""
    ran = subprocess.run(
        [checkout / "packages" / script, folder, *arguments],
        env={**os.environ, "PYTHON": sys.executable},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
        timeout=600,
    )
    assert ran.returncode == 0, f"packages/{script}:\n{ran.stdout}"


def only(folder: Path, pattern: str) -> Path:
    """The one file of the folder with such a name."""
    (found,) = folder.glob(pattern)
    return found


def wheel_and_deb(factory: pytest.TempPathFactory) -> Path:
    """A folder with the wheel and this machine's Debian package, which a test run makes once; nobody changes it."""
    base = factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:
        base = base.parent
    folder = base / "wheel-and-deb"
    with (base / "wheel-and-deb.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not folder.exists():
            new = base / "wheel-and-deb.new"
            for script in ("wheel", "deb"):
                make(script, new)
            new.rename(folder)
    return folder


def version(folder: Path) -> str:
    """The version of the wheel in this folder, as `vaultpki -V` shows it."""
    return only(folder, "*.whl").name.split("-")[1]
