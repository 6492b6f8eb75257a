"""Play lives with one checkout, and write down as JSON what each command did: `python -m compare.side`, of one side.

It runs in namespaces of its own (`ALONE`), so that nothing on this machine is seen, and both sides have equal ports.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from compare.life import Transcript, play, shortened

ALONE = ("unshare", "--pid", "--fork", "--kill-child", "--mount-proc", "--net")
TESTS = Path(__file__).parents[1]
# A version for both sides, since a copy without git has none.
VERSION = "0.3.0.dev1"


def begun(source: Path, binary: str, wanted: Mapping[str, str], into: Path) -> subprocess.Popen[bytes]:
    """Start to play these lives with a checkout, with the Python of its .venv where it has one, else with this one.

    What they did will be in the file `into`. It ends with 1 where a command has another exit code than the list says.
    """
    own = source / ".venv/bin/python"
    alone = [*ALONE, *(["--map-root-user"] if os.geteuid() else [])]
    given = json.dumps([str(source), binary, dict(wanted), str(into)])
    environment = {**os.environ, "PYTHONPATH": f"{TESTS.parent}:{TESTS}"}
    return subprocess.Popen(
        [*alone, own if own.exists() else sys.executable, "-m", "compare.side", given], env=environment
    )


def read(made: Path) -> Transcript:
    """Return what a side has written."""
    steps: dict[str, dict[str, list[Any]]] = json.loads(made.read_text())
    return {
        step: {name: [(head, tuple(lines)) for head, lines in blocks] for name, blocks in sections.items()}
        for step, sections in steps.items()
    }


def copied(source: Path, into: Path) -> Path:
    """Copy what the product needs to run; a copy has the version that all copies have."""
    for name in ("vaultpki", "policies", "templates"):
        shutil.copytree(source / name, into / name, ignore=shutil.ignore_patterns("__pycache__"))
    (into / "vaultpki/VERSION").write_text(VERSION)
    return into


def main() -> None:
    source, binary, wanted, into = json.loads(sys.argv[1])
    subprocess.run(["ip", "link", "set", "lo", "up"], check=True)
    with tempfile.TemporaryDirectory(prefix="vaultpki-compare-") as name:
        folder = Path(name)
        real, quick = (copied(Path(source), folder / kind) for kind in ("real", "quick"))
        for missing in shortened(quick / "vaultpki"):
            print(f"{source} has no constant {missing}: what it stands for is waited for there", file=sys.stderr)
        made, unexpected = play(binary, quick, real, folder, wanted)
    Path(into).write_text(json.dumps(made))
    if unexpected:
        sys.exit("\n".join((f"{source} is not where the list says:", *unexpected)))


if __name__ == "__main__":
    main()
