"""cloud-init's own schema of what a machine is told at its first start, out of Debian's package."""

from __future__ import annotations

import fcntl
import json
import os
import subprocess
import tempfile
from pathlib import Path
from typing import Any

_INSIDE = "./usr/lib/python3/dist-packages/cloudinit/config/schemas/schema-cloud-config-v1.json"


def schema() -> dict[str, Any]:
    """The JSON schema of a cloud-config; the first call on a machine downloads the package, and installs nothing."""
    home = os.environ.get("XDG_CACHE_HOME") or f"{os.environ['HOME']}/.cache"
    cache = Path(os.environ.get("VAULTPKI_CONFORMANCE_CACHE") or f"{home}/vaultpki/conformance")
    cache.mkdir(parents=True, exist_ok=True)
    file = cache / "cloud-config.json"
    with (cache / "cloud-config.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not file.exists():
            new = cache / "cloud-config.new"
            new.write_bytes(_downloaded())
            new.rename(file)
    found: dict[str, Any] = json.loads(file.read_text())
    return found


def _downloaded() -> bytes:
    with tempfile.TemporaryDirectory() as folder:
        download = ["apt-get", "download", "-qq", "cloud-init"]
        if subprocess.run(download, cwd=folder, capture_output=True, check=False, timeout=120).returncode:
            # A machine that is new has no lists yet.
            subprocess.run(["apt-get", "update", "-qq"], check=True, capture_output=True, timeout=300)
            subprocess.run(download, cwd=folder, check=True, capture_output=True, timeout=120)
        (package,) = Path(folder).glob("*.deb")
        contents = subprocess.run(["dpkg-deb", "--fsys-tarfile", package], check=True, capture_output=True).stdout
        return subprocess.run(
            ["tar", "--extract", "--to-stdout", _INSIDE], input=contents, check=True, capture_output=True
        ).stdout
