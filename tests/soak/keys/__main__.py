"""Rotations of service-account keys in real clusters of three control planes under load: `make soak-keys`.

Tokens of each API server are used at every one all the time, with the token of a pod, which its kubelet replaces, and
with one of a Secret, which never expires. A whole rotation, in which a node is killed and others join; an abort from
each state; a node that joins, and one that leaves; a stolen node, and all keys stolen; from one shared `sa.key` to own
keys. Control runs, each without one rule of the model, must have tokens refused. After each phase no private key may
lie on two machines. Ends with 1, and says why, where a token was refused, or where a control run did not fail; prints
its figures as Markdown.
"""

from __future__ import annotations

import argparse
import contextlib
import subprocess
import sys
import tempfile
from pathlib import Path

from helpers.kube.components import Programs
from soak.keys import phases as own
from soak.keys import shared, table
from soak.keys.table import KeyPhase
from soak.printed import brief, say

KINDS = ("vault", "bao")
PARTS = ((own.on, own.PHASES), (shared.on, shared.PHASES))
INOTIFY = Path("/proc/sys/fs/inotify/max_user_instances")
INSTANCES = 4096


def main() -> int:
    parser = argparse.ArgumentParser(prog="soak.keys", description=__doc__)
    parser.add_argument("--vault-binary", type=Path)
    parser.add_argument("--kubernetes", type=Path, required=True)
    parser.add_argument("--etcd", type=Path, required=True)
    parser.add_argument("--zlint", help="not used; `make` names every program that it has built")
    parser.add_argument("--server", action="append", choices=KINDS, help="default: both in turn")
    parser.add_argument("--keep", type=Path, help="a new folder in which logs are kept")
    every = [name for _, known in PARTS for name in known]
    parser.add_argument("phase", nargs="*", metavar="PHASE", help=f"default: all of {', '.join(every)}")
    asked = parser.parse_args()
    if unknown := set(asked.phase) - set(every):
        parser.error(f"there is no phase {', '.join(sorted(unknown))}")
    programs = Programs(asked.kubernetes.absolute(), asked.etcd.absolute())
    # Each component keeps some, and all clusters on the machine share them: a kubelet without one ends at once.
    if int(INOTIFY.read_text()) < INSTANCES:
        INOTIFY.write_text(str(INSTANCES))
    phases: list[KeyPhase] = []
    # Whoever stops it after some hours wants to see what there was.
    with contextlib.suppress(KeyboardInterrupt), contextlib.ExitStack() as stack:
        place = asked.keep or Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="vaultpki-soak-")))
        for kind in asked.server or KINDS:
            for on, known in PARTS:
                names = tuple(name for name in asked.phase or every if name in known)
                if not names:
                    continue
                try:
                    on(kind, programs, asked.vault_binary, place / f"{kind}-{names[0]}", names, phases)
                except (AssertionError, subprocess.SubprocessError, OSError) as error:
                    say(f"{kind}: given up: {brief(str(error))}")
                    if not (phases and phases[-1].broken):
                        broken = f"{type(error).__name__}: {error}"
                        phases.append(KeyPhase(kind, "between two phases", 0.0, 0, broken=broken))
    return table.report(phases)


if __name__ == "__main__":
    sys.exit(main())
