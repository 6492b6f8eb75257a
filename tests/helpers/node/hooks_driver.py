"""Hooks as a process of their own, so that it can be killed, and be started with what a hook must not inherit.

`hooks_driver.py run JSON` runs jobs ([[KEY, DIGEST, [ARGV, ...]], ...]) with every signal blocked and prints a line of
JSON for each result; `hooks_driver.py restart MANIFEST KEY=DIGEST` restarts a static pod and prints `done`.
"""

from __future__ import annotations

import json
import signal
import sys


def run(text: str) -> None:
    from dataclasses import asdict

    from vaultpki.host import hook_runner, hooks
    from vaultpki.model import Hook

    signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())
    jobs = [
        hooks.Job(key, digest, tuple(Hook("command", argv=tuple(argv)) for argv in commands), 0, "/srv/pki", 20)
        for key, digest, commands in json.loads(text)
    ]
    for result in hook_runner.Runner().run_all(jobs):
        print(json.dumps(asdict(result)))


def restart(manifest: str, change: str) -> None:
    from vaultpki.host import static_pod

    static_pod.restart(manifest, dict([change.split("=")]))
    print("done")


if __name__ == "__main__":
    if sys.argv[1] == "run":
        run(sys.argv[2])
    else:
        restart(sys.argv[2], sys.argv[3])
