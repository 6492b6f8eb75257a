"""Says which version this source is: `0.2.0` at the commit that releases it, and `0.2.0.dev120+gabcdef1` before.

RELEASES has the releases and the version in work. pyproject.toml runs this for a build, and vaultpki/__init__.py for
`vaultpki -V` in a checkout. It needs the standard library only.
"""

from __future__ import annotations

import os
import subprocess
import time
from pathlib import Path
from typing import Final, NamedTuple

ROOT: Final = Path(__file__).resolve().parents[1]

# `git archive` writes the commit and its time here (.gitattributes): an archive has no other trace of them.
_ARCHIVED: Final = "$Format:%H %ct$"


# hatchling runs this file without a module's name, which dataclasses need.
class Source(NamedTuple):
    """A commit; how many come after the last release, None if that is not known; whether files differ from it."""

    commit: str
    time: int
    since: int | None = None
    changed: bool = False


def version(root: Path = ROOT) -> str:
    """Return the version of the source in this folder, by PEP 440.

    The number after `dev` counts the commits since the last release. Without them, in a shallow clone or an archive, it
    is 0 and the time of the commit stands before the commit, so that these builds sort too, below those with a count.
    """
    if (stored := root / "PKG-INFO").is_file():
        # A source distribution: it makes the version that it was made with.
        lines = stored.read_text(encoding="utf-8").splitlines()
        return next(line for line in lines if line.startswith("Version: ")).removeprefix("Version: ")
    lines = (root / "RELEASES").read_text(encoding="utf-8").splitlines()
    *before, (name, day, *commit) = [line.split() for line in lines if line and not line.startswith("#")]
    if day == "unreleased":
        return development(name, source(root, before[-1][2]))
    if commit:
        return development(following(name), source(root, commit[0]))
    # The commit that releases cannot name itself: it is the one that wrote the day.
    written = _git(root, "log", "-1", "--format=%H", "--", "RELEASES")
    here = source(root, written or "HEAD")
    if here is not None and here.since:
        return development(following(name), here)
    if here is None or here.changed:
        return f"{name}+{_local(here)}"
    return name


def development(upcoming: str, here: Source | None) -> str:
    """Return the version of a build before the release of `upcoming`."""
    if here is None or here.since is not None:
        return f"{upcoming}.dev{here.since if here else 0}+{_local(here)}"
    return f"{upcoming}.dev0+{time.strftime('%Y%m%d%H%M%S', time.gmtime(here.time))}.{_local(here)}"


def following(release: str) -> str:
    """Return the next minor release."""
    major, minor, _ = release.split(".")
    return f"{major}.{int(minor) + 1}.0"


def source(root: Path, last: str) -> Source | None:
    """Return the commit of this folder, counted from the commit `last`; None if nothing says which one it is."""
    if described := _git(root, "log", "-1", "--format=%H %ct"):
        commit, seconds = described.split()
        count = _git(root, "rev-list", "--count", f"{last}..HEAD")
        # What is not tracked gets into a package too.
        return Source(commit, int(seconds), int(count) if count else None, bool(_git(root, "status", "--porcelain")))
    commit, _, seconds = _ARCHIVED.partition(" ")
    return Source(commit, int(seconds)) if seconds.isdecimal() else None


def _local(here: Source | None) -> str:
    if here is None:
        return "unknown"
    # Of fixed length: git's own abbreviation grows with the objects that a clone has.
    return f"g{here.commit[:7]}{'.dirty' if here.changed else ''}"


def _git(root: Path, *words: str) -> str:
    # A folder inside of another repository is not that repository.
    if not (root / ".git").exists():
        return ""
    # Not the whole environment: it may hold a token of Vault, or GIT_DIR where a hook of git runs this. Whoever runs it
    # trusts the folder, whose code it is.
    environment = {"PATH": os.environ.get("PATH", os.defpath)}
    # `git status` would write its index anew, and whoever reads a version changes nothing.
    command = ["git", "--no-optional-locks", "-C", str(root), "-c", f"safe.directory={root}", *words]
    try:
        ran = subprocess.run(
            command,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
            check=False,
            timeout=60,
        )
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return ran.stdout.strip() if ran.returncode == 0 else ""


if __name__ == "__main__":
    print(version())
