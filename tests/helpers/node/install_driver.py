"""One install of a pair, as a process small enough to be followed: `install_driver.py DIR SOURCE [WAIT]`.

It lays SOURCE/pair.{crt,key,pem} down in DIR as the unit `pair`. It prints `done` once that is told to be a success, or
says in one sentence why not. WAIT is how many seconds it waits for the lock.
"""

from __future__ import annotations

import sys
from pathlib import Path

from vaultpki.disk.generations import File
from vaultpki.disk.store import Directory
from vaultpki.errors import VaultpkiError

MODES = {"pair.crt": 0o644, "pair.key": 0o600, "pair.pem": 0o600}


def install(target: Path, source: Path, wait: float = 0.0) -> None:
    """Lay the pair down; raises VaultpkiError where that fails."""
    wanted = {name: File((source / name).read_bytes(), mode) for name, mode in MODES.items()}
    with Directory.open(str(target), wait=wait) as directory:
        directory.sweep()
        directory.install("pair", wanted)
        directory.settle(0.0)


if __name__ == "__main__":
    try:
        install(Path(sys.argv[1]), Path(sys.argv[2]), float(*sys.argv[3:]))
    except VaultpkiError as error:
        sys.exit(f"vaultpki: {error}")
    print("done")
