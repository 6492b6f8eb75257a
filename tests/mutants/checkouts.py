"""Checkouts of one commit in which tests are measured and mutants run, and runs of pytest there.

Each run is a fork of this process, which has the libraries loaded and nothing of the product or its tests: of the
CPU time of a short run, that saves more than half.
"""

from __future__ import annotations

import contextlib
import importlib
import os
import select
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import pytest

ROOT: Final = Path(__file__).parents[2]
CACHE: Final = ROOT / ".cache/mutants"
_LOADED: Final = ("cryptography.x509", "cryptography.hazmat.primitives.serialization.pkcs12", "hvac", "click", "yaml")
_FURTHER: Final = ("jinja2", "packaging.version", "hypothesis.strategies", "coverage", "trustme", "http.server")


def commit_of(ref: str) -> str:
    """Return the whole id of a commit."""
    words = ["git", "-C", str(ROOT), "rev-parse", "--verify", f"{ref}^{{commit}}"]
    return subprocess.run(words, check=True, stdout=subprocess.PIPE, text=True).stdout.strip()


def checkout(commit: str, number: int) -> Path:
    """Return a clone of this repository at a commit, as it was committed; what was changed in it before is undone."""
    place = CACHE / commit / f"checkout-{number}"
    if not place.exists():
        subprocess.run(["git", "clone", "--quiet", "--shared", "--no-checkout", str(ROOT), str(place)], check=True)
    subprocess.run(["git", "-C", str(place), "checkout", "--quiet", "--force", commit], check=True)
    sitecustomize = place / "sitecustomize.py"
    sitecustomize.write_text((Path(__file__).parent / "lines_of_process.py").read_text())
    (place / ".git/info/exclude").write_text("/sitecustomize.py\n/.mutants/\n")
    (place / ".mutants").mkdir(exist_ok=True)
    (place / ".mutants/current").unlink(missing_ok=True)
    return place


def load() -> None:
    """Load what most tests import."""
    for each in (*_LOADED, *_FURTHER):
        importlib.import_module(each)


@dataclass(frozen=True, slots=True)
class Ended:
    """How a run ended: pytest's exit status, None after a time-out, and the seconds of a core that it took."""

    status: int | None
    seconds: float


def run(
    place: Path, words: Sequence[str], plugin: object, *, limit: float, before: Callable[[], object] = int
) -> Ended:
    """Run pytest with these arguments and a plugin in a checkout, for at most `limit` seconds."""
    began = time.monotonic()
    pid = os.fork()
    if pid == 0:
        # No `os._exit`: helpers of tests end what they started as the process exits.
        sys.exit(_pytest(place, words, plugin, before))
    try:
        return _wait(pid, limit, began)
    except KeyboardInterrupt:
        _kill(pid)
        raise


def _wait(pid: int, limit: float, began: float) -> Ended:
    descriptor = os.pidfd_open(pid)
    in_time = bool(select.select([descriptor], [], [], limit)[0])
    os.close(descriptor)
    if not in_time:
        _kill(pid)
        return Ended(None, round(time.monotonic() - began, 1))
    _, code, usage = os.wait4(pid, 0)
    return Ended(os.waitstatus_to_exitcode(code), round(usage.ru_utime + usage.ru_stime, 1))


def _kill(pid: int) -> None:
    """End a run with all that it started in its session; servers end with the process that started them."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(pid, signal.SIGKILL)
    os.waitpid(pid, 0)


def _pytest(place: Path, words: Sequence[str], plugin: object, before: Callable[[], object]) -> int:
    os.setsid()
    # A person who interrupts ends the run, and then this by its session.
    os.chdir(place)
    log = os.open(place / ".mutants/log", os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o666)
    for stream in (1, 2):
        os.dup2(log, stream)
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    # Examples of hypothesis are the same each time, or what one run measures another would not do.
    os.environ["CI"] = "1"
    os.environ.pop("PYTHONPATH", None)
    sys.path[:] = [str(place), *(each for each in sys.path if not each.startswith(str(ROOT / "tests")))]
    quiet = ("-q", "--tb=line", "-p", "no:cacheprovider", "-p", "no:xdist")
    # Of what was loaded before, hypothesis would be rewritten.
    before()
    status = pytest.main([*quiet, "-W", "ignore::pytest.PytestAssertRewriteWarning", *words], plugins=[plugin])
    return int(status)
