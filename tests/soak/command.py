"""The command of a soak of real clusters: its arguments, the clusters one after the other, and the table in the end."""

from __future__ import annotations

import argparse
import contextlib
import subprocess
import tempfile
from collections.abc import Callable, Collection, Sequence
from pathlib import Path
from typing import Protocol, TypeVar

from helpers.kube.components import Programs
from soak.printed import brief, say

KINDS = ("vault", "bao")
INOTIFY = Path("/proc/sys/fs/inotify/max_user_instances")
INSTANCES = 4096
ENDS = (AssertionError, subprocess.SubprocessError, OSError)
"""What ends the phases on a cluster, and not the soak."""


class Ended(Protocol):
    """A phase that has ended, and why it could not be ended as it should."""

    @property
    def broken(self) -> str: ...


P = TypeVar("P", bound=Ended)
Part = Callable[[str, Programs, Path | None, Path, Sequence[str], list[P]], None]
"""Adds phases by their names to those of before: on a kind of server, by the binary of Vault, in a folder."""


def run(
    prog: str,
    about: str | None,
    parts: Sequence[tuple[Part[P], Collection[str]]],
    given_up: Callable[[str, str], P],
    kinds: Sequence[str] = KINDS,
) -> list[P]:
    """Run the phases that are asked for, on each server in turn; each part has clusters of its own.

    A part ends with its first phase that could not be ended; `given_up` makes one that says so (server and reason)
    where none does. Whoever stops the soak after some hours gets what there was.
    """
    parser = argparse.ArgumentParser(prog=prog, description=about)
    parser.add_argument("--vault-binary", type=Path)
    parser.add_argument("--kubernetes", type=Path, required=True)
    parser.add_argument("--etcd", type=Path, required=True)
    for unused in ("--zlint", "--kube-vip"):
        parser.add_argument(unused, help="not used; `make` names every program that it has built")
    parser.add_argument("--server", action="append", choices=KINDS, help=f"default: {', '.join(kinds)}")
    parser.add_argument("--keep", type=Path, help="a new folder in which logs are kept")
    every = [name for _, known in parts for name in known]
    parser.add_argument("phase", nargs="*", metavar="PHASE", help=f"default: all of {', '.join(every)}")
    asked = parser.parse_args()
    if unknown := set(asked.phase) - set(every):
        parser.error(f"there is no phase {', '.join(sorted(unknown))}")
    programs = Programs(asked.kubernetes.absolute(), asked.etcd.absolute())
    # Each component keeps some, and all clusters on the machine share them: a kubelet without one ends at once.
    if int(INOTIFY.read_text()) < INSTANCES:
        INOTIFY.write_text(str(INSTANCES))
    phases: list[P] = []
    with contextlib.suppress(KeyboardInterrupt), contextlib.ExitStack() as stack:
        place = asked.keep or Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="vaultpki-soak-")))
        for kind in asked.server or kinds:
            for part, known in parts:
                if names := [name for name in asked.phase or every if name in known]:
                    try:
                        part(kind, programs, asked.vault_binary, place / f"{kind}-{names[0]}", names, phases)
                    except ENDS as error:
                        say(f"{kind}: given up: {brief(str(error))}")
                        if not (phases and phases[-1].broken):
                            phases.append(given_up(kind, f"{type(error).__name__}: {error}"))
    return phases
