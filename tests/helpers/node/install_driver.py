"""One install of a pair, as a process small enough to be killed at each of its system calls.

`install_driver.py DIR SOURCE [WAIT]` lays SOURCE/pair.{crt,key,pem} down in DIR as the unit `pair`, and prints `done`
once that is told to be a success, or says in one sentence why not. WAIT is how many seconds it waits for the lock.
"""

from __future__ import annotations

import os
import sys

from vaultpki.disk.generations import File
from vaultpki.disk.store import Directory
from vaultpki.errors import VaultpkiError


def install(target: str, source: str, wait: float = 0.0) -> None:
    """Lay the pair down; raises VaultpkiError where that fails."""
    wanted = {}
    for name, mode in (("pair.crt", 0o644), ("pair.key", 0o600), ("pair.pem", 0o600)):
        with open(os.path.join(source, name), "rb") as file:
            wanted[name] = File(file.read(), mode)
    with Directory.open(target, wait=wait) as directory:
        directory.sweep()
        directory.install("pair", wanted)
        directory.settle(0.0)


if __name__ == "__main__":
    try:
        install(sys.argv[1], sys.argv[2], float(*sys.argv[3:]))
    except VaultpkiError as error:
        sys.exit(f"vaultpki: {error}")
    print("done")
