"""The packages of this checkout, made by the scripts of `make dist`."""

from __future__ import annotations

import contextlib
import fcntl
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

from helpers.pages import CHECKOUT

BUILD_SECONDS = 1500
"""The limit of one script, which downloads a Debian and compiles for it; a test that may build needs more."""


def make(
    script: str, folder: Path, *arguments: str, checkout: Path = CHECKOUT, behind: Sequence[str | Path] = ()
) -> None:
    """Run one of the scripts in packages/ for this folder, behind another command; fails with all that it prints."""
    ran = subprocess.run(
        [*behind, checkout / "packages" / script, folder, *arguments],
        env={**os.environ, "PYTHON": sys.executable},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
        timeout=BUILD_SECONDS,
    )
    assert ran.returncode == 0, f"packages/{script}:\n{ran.stdout}"


def only(folder: Path, pattern: str) -> Path:
    """The one file of the folder with such a name."""
    (found,) = folder.glob(pattern)
    return found


def wheel(factory: pytest.TempPathFactory, folder: Path) -> None:
    """Copy into this folder what `packages/wheel` makes, which a test run makes once."""
    with _once(factory, "wheel") as (made, new):
        if new is not None:
            make("wheel", new)
    shutil.copytree(made, folder, dirs_exist_ok=True)


def wheel_and_deb(factory: pytest.TempPathFactory) -> Path:
    """A folder with the wheel and this machine's Debian package, which a test run makes once; nobody changes it."""
    with _once(factory, "wheel-and-deb") as (made, new):
        if new is not None:
            wheel(factory, new)
            make("deb", new)
    return made


@contextlib.contextmanager
def _once(factory: pytest.TempPathFactory, name: str) -> Iterator[tuple[Path, Path | None]]:
    """A folder that all workers of a run share, and the one to fill if it does not exist yet; one worker at a time."""
    base = factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:
        base = base.parent
    folder, new = base / name, base / f"{name}.new"
    with (base / f"{name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if folder.exists():
            yield folder, None
        else:
            # What a test that failed has left.
            shutil.rmtree(new, ignore_errors=True)
            yield folder, new
            new.rename(folder)


def version(folder: Path) -> str:
    """The version of the wheel in this folder, as `vaultpki -V` shows it."""
    return only(folder, "*.whl").name.split("-")[1]
