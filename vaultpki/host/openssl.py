"""Runs the `openssl` program, a checker that shares no code with what made the certificates."""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import threading
from collections.abc import Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import Final

from vaultpki.errors import ToolMissing

# Linux limits the arguments of a program to about 2 MiB.
_AT_ONCE: Final = 400

_SECONDS: Final = 60

_LOOKUP = re.compile(r"error \d+ at \d+ depth lookup: ?(.*)")


def program() -> str:
    """Return the path of `openssl`; raises ToolMissing if there is none."""
    found = shutil.which("openssl")
    if found is None:
        raise ToolMissing("openssl is not installed; install it (on Debian: apt-get install openssl) and run again")
    return found


def environment() -> dict[str, str]:
    """Return the environment of `openssl`: ours may have a Vault token, and a child does not get it."""
    return {"PATH": os.environ.get("PATH", os.defpath), "LC_ALL": "C"}


def verify(files: Sequence[Path], options: Sequence[str], *, trusted: Path, now: datetime) -> Mapping[Path, str]:
    """Run `openssl verify` on the first certificate of each file, at time `now`.

    `trusted` is the only file of trust anchors; `options` go before it. The value is the empty string if the
    certificate is accepted, otherwise OpenSSL's reasons. A file without a result counts as refused.
    """
    said: dict[Path, str] = {}
    for start in range(0, len(files), _AT_ONCE):
        said.update(_verify(files[start : start + _AT_ONCE], options, trusted, now))
    return said


def _verify(files: Sequence[Path], options: Sequence[str], trusted: Path, now: datetime) -> dict[Path, str]:
    # Without the -no options openssl would trust the machine's own store too.
    fixed = ["-x509_strict", "-no-CApath", "-no-CAstore", "-attime", str(int(now.timestamp()))]
    command = [program(), "verify", *fixed, *options, "-CAfile", str(trusted), *map(str, files)]
    # subprocess.run with a time-out sleeps until a time between two looks, which fails if the clock jumps meanwhile.
    pipe = subprocess.PIPE
    with subprocess.Popen(
        command, env=environment(), stdin=subprocess.DEVNULL, stdout=pipe, stderr=pipe, text=True, errors="replace"
    ) as running:
        timer = threading.Timer(_SECONDS, running.kill)
        timer.start()
        try:
            out, err = running.communicate()
        finally:
            timer.cancel()
            running.kill()
    if running.returncode == -signal.SIGKILL:
        return dict.fromkeys(files, f"openssl was killed, or timed out after {_SECONDS} s")
    accepted = set(out.splitlines())
    reasons: dict[str, str] = {}
    collected: list[str] = []
    for line in err.splitlines():
        if found := _LOOKUP.fullmatch(line):
            collected.append(found[1])
        elif line.startswith("error ") and line.endswith(": verification failed"):
            reasons[line[len("error ") : -len(": verification failed")]] = "; ".join(dict.fromkeys(collected))
            collected = []
    silent = "openssl reported no result"
    return {file: "" if f"{file}: OK" in accepted else reasons.get(str(file)) or silent for file in files}
