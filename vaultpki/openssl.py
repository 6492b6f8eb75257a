"""The `openssl` program, a checker that shares no code with what made the certificates."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from collections.abc import Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import Final

from vaultpki.errors import ToolMissing

# `openssl verify` takes any number of files; Linux takes 128 KiB of one argument and about 2 MiB of all.
_AT_ONCE: Final = 400

_SECONDS: Final = 60

_LOOKUP = re.compile(r"error \d+ at \d+ depth lookup: ?(.*)")


def program() -> str:
    """The path of `openssl`; ToolMissing where there is none."""
    found = shutil.which("openssl")
    if found is None:
        raise ToolMissing(
            "openssl is not on this machine; install it (on Debian: apt-get install openssl) and run again"
        )
    return found


def verify(files: Sequence[Path], options: Sequence[str], *, trusted: Path, now: datetime) -> Mapping[Path, str]:
    """What `openssl verify` says at time `now` of the first certificate of each file.

    `trusted` is the only file of trust anchors; `options` go before it. The value is the empty string where the
    certificate is accepted, otherwise OpenSSL's reasons. A file that OpenSSL says nothing of counts as refused.
    """
    said: dict[Path, str] = {}
    for start in range(0, len(files), _AT_ONCE):
        said.update(_verify(files[start : start + _AT_ONCE], options, trusted, now))
    return said


def _verify(files: Sequence[Path], options: Sequence[str], trusted: Path, now: datetime) -> dict[Path, str]:
    # Without the -no options the machine's own trust store would be believed beside `trusted`.
    fixed = ["-x509_strict", "-no-CApath", "-no-CAstore", "-attime", str(int(now.timestamp()))]
    command = [program(), "verify", *fixed, *options, "-CAfile", str(trusted), *map(str, files)]
    # A fresh environment: a Vault token in ours is no business of a child's.
    environment = {"PATH": os.environ.get("PATH", os.defpath), "LC_ALL": "C"}
    try:
        ran = subprocess.run(
            command,
            env=environment,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=_SECONDS,
            check=False,
        )
    except subprocess.TimeoutExpired:
        return dict.fromkeys(files, f"openssl gave no answer in {_SECONDS} s")
    accepted = set(ran.stdout.splitlines())
    reasons: dict[str, str] = {}
    collected: list[str] = []
    for line in ran.stderr.splitlines():
        if found := _LOOKUP.fullmatch(line):
            collected.append(found[1])
        elif line.startswith("error ") and line.endswith(": verification failed"):
            reasons[line[len("error ") : -len(": verification failed")]] = "; ".join(dict.fromkeys(collected))
            collected = []
    silent = "openssl says nothing of it"
    return {file: "" if f"{file}: OK" in accepted else reasons.get(str(file)) or silent for file in files}
