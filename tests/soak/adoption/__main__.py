"""Adoptions of kubeadm's clusters under load: `make soak-adoption`.

On the smallest cluster: aborts from every state, after each of which the next start goes on; a worker that joins in
every state; commands that are killed at any moment, forward and back; the whole way. On clusters of other shapes: two
stacked members of etcd, and external etcd. Control runs, each without one protection, must fail as the model says.
Last, three control planes, as in the conformance tests, and to the end. Ends with 1, and says why, where a request
failed for a reason of TLS or was answered with 401, where an API server was away for too long, or where a control run
did not fail; prints its figures as Markdown.
"""

from __future__ import annotations

import argparse
import contextlib
import sys
import tempfile
from pathlib import Path

from helpers.kube.components import Programs
from soak import phases as all_phases
from soak.adoption import controls, planes, shapes, small
from soak.adoption.controls import Control
from soak.phases import Phase

KINDS = ("vault", "bao")
PARTS = ((small.on, small.PHASES), (shapes.on, shapes.PHASES), (planes.on, planes.PHASES))
INOTIFY = Path("/proc/sys/fs/inotify/max_user_instances")
INSTANCES = 4096


def main() -> int:
    parser = argparse.ArgumentParser(prog="soak.adoption", description=__doc__)
    parser.add_argument("--vault-binary", type=Path)
    parser.add_argument("--kubernetes", type=Path, required=True)
    parser.add_argument("--etcd", type=Path, required=True)
    parser.add_argument("--zlint", help="not used; `make` names every program that it has built")
    parser.add_argument("--server", action="append", choices=KINDS, help="default: OpenBao")
    parser.add_argument("--keep", type=Path, help="a new folder in which logs are kept")
    every = [*(name for _, known in PARTS for name in known), *controls.CONTROLS]
    parser.add_argument("phase", nargs="*", metavar="PHASE", help=f"default: all of {', '.join(every)}")
    asked = parser.parse_args()
    if unknown := set(asked.phase) - set(every):
        parser.error(f"there is no phase {', '.join(sorted(unknown))}")
    programs = Programs(asked.kubernetes.absolute(), asked.etcd.absolute())
    # Each component keeps some, and all clusters on the machine share them: a kubelet without one ends at once.
    if int(INOTIFY.read_text()) < INSTANCES:
        INOTIFY.write_text(str(INSTANCES))
    wanted = asked.phase or every
    phases: list[Phase] = []
    controlled: list[Control] = []
    # Whoever stops it after some hours wants to see what there was.
    with contextlib.suppress(KeyboardInterrupt), contextlib.ExitStack() as stack:
        place = asked.keep or Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="vaultpki-soak-")))
        for kind in asked.server or ("bao",):
            for on, known in PARTS:
                if names := [name for name in wanted if name in known]:
                    on(kind, programs, asked.vault_binary, place / f"{kind}-{names[0]}", names, phases)
            if names := [name for name in wanted if name in controls.CONTROLS]:
                controls.on(kind, programs, asked.vault_binary, place / f"{kind}-controls", names, controlled)
    code = all_phases.report(phases) if phases else 0
    return max(code, controls.report(controlled) if controlled else 0)


if __name__ == "__main__":
    sys.exit(main())
