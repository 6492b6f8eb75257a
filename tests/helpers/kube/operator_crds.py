"""The kinds that the Prometheus operator brings to a cluster, from its own Go module."""

from __future__ import annotations

import json
import shutil
import subprocess
import tempfile
from functools import cache
from pathlib import Path
from typing import Final

MODULE: Final = "github.com/prometheus-operator/prometheus-operator@v0.85.0"


def file(kind: str) -> Path:
    """The CustomResourceDefinition of a kind, such as PodMonitor; the first call on a machine downloads the module."""
    (found,) = _folder().glob(f"*_{kind.lower()}s.yaml")
    return found


@cache
def _folder() -> Path:
    go = shutil.which("go") or "/usr/local/go/bin/go"
    # Not in a module of ours, which would then need it.
    with tempfile.TemporaryDirectory() as folder:
        command = [go, "mod", "download", "-json", MODULE]
        ran = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False, timeout=300)
    assert ran.returncode == 0, ran.stdout + ran.stderr
    return Path(json.loads(ran.stdout)["Dir"]) / "example/prometheus-operator-crd"
