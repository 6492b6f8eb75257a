"""The processor time of an agent, of this release and of 0.3.0: a look, a poll at rest, and in a rotation that waits.

The node is a control plane of a thousand further processes, none of which is a component: readers of bundles are looked
for among all of them, and a rotation waits until they run.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

from benchmarks import agents
from benchmarks.rest import commit, extract
from benchmarks.timing import Result
from vaultpki.ca import commands
from vaultpki.config.cluster import load_cluster
from vaultpki.demo import openbao, run
from vaultpki.provision import apply
from vaultpki.records.rotation import Method, State
from vaultpki.records.server_facts import ServerFacts
from vaultpki.vault import Settings, Vault

BEFORE: Final = "0.3.0"
NOT_DEARER: Final = 1.1
"""Nothing gets dearer; what two runs on one machine differ by is more than a ratio of 1.0 leaves."""
HALF: Final = 0.5
_SIDES: Final = ("now", "before")
_PROCESSES: Final = 1000
_PASSES: Final = 10
_SECONDS: Final = 60.0
_FIRST_SECONDS: Final = 15.0
_NAMES: Final = {
    "look": "processor time of an agent's look at everything",
    "poll": "processor time of an agent's poll at rest",
    "rotation": "processor time of an agent in a rotation that waits, poll of 10 s, in a minute",
}
_SPEC: Final = """\
cluster: {name}
vault: {{addresses: ["{address}"], ca_file: server/ca.crt}}
api_server: {{endpoint: "https://api.bench.example:6443", names: [api.bench.example], addresses: [10.0.0.10]}}
nodes:
- {{name: cp-1, roles: [control-plane, etcd], addresses: [10.0.0.11]}}
"""


def results(folder: Path, only: str, rounds: int) -> Iterator[Result]:
    """What an agent's processor time is measured by, of which `only` names some."""
    names = {kind: name for kind, name in _NAMES.items() if only in name}
    if not names:
        return
    (folder / "processor").mkdir()
    with _machine(folder / "processor") as (vault, files, sources), _crowd():
        for kind in (each for each in names if each != "rotation"):
            spent: dict[str, list[float]] = {side: [] for side in _SIDES}
            for _ in range(rounds):
                for side in _SIDES:
                    spent[side] += (1000 * each for each in _timed(files[side], sources[side])[kind])
            yield _result(names[kind], "ms", spent, NOT_DEARER)
        if "rotation" in names:
            for side in _SIDES:
                _rotate(files[side].parent.parent / f"{side}.yaml", vault)
            yield _result(names["rotation"], "s", _staying(files, sources), HALF)


def _result(name: str, unit: str, spent: dict[str, list[float]], goal: float) -> Result:
    now, before = (tuple(spent[side]) for side in _SIDES)
    return Result(name, unit, "vaultpki", f"vaultpki {BEFORE}", now, before, goal)


@contextlib.contextmanager
def _machine(folder: Path) -> Iterator[tuple[Vault, dict[str, Path], dict[str, Path]]]:
    """A server, and for each side the agent.yaml of a node of a cluster of its own, and the code of its agent."""
    extract(commit(BEFORE), folder / BEFORE)
    sources = {"now": Path(__file__).parents[1], "before": folder / BEFORE}
    files = {}
    with openbao.start(folder / "server") as server:
        vault = Vault(Settings((server.address,), ca_file=str(server.ca_file), token=server.token))
        for side in _SIDES:
            spec = folder / f"{side}.yaml"
            spec.write_text(_SPEC.format(name=side, address=server.address), encoding="utf-8")
            cluster = load_cluster(spec)
            where = ServerFacts((server.address,), cluster.vault.ca_pem)
            done = apply.apply(cluster, vault, where, first=None, progress=lambda change: None)
            files[side] = run.equip(folder / side, cluster, cluster.nodes[0], vault, done.root_sha256)
            text = files[side].read_text(encoding="utf-8")
            files[side].write_text(re.sub(r"(?m)^poll: .*$", "poll: 10s", text), encoding="utf-8")
        yield vault, files, sources


@contextlib.contextmanager
def _crowd() -> Iterator[None]:
    """Processes that do nothing, until the block ends."""
    script = f"for each in $(seq {_PROCESSES}); do sleep 3600 & done; wait"
    with subprocess.Popen(["/bin/sh", "-c", script], start_new_session=True) as shell:
        try:
            time.sleep(2)
            yield
        finally:
            os.killpg(shell.pid, signal.SIGKILL)


def _timed(file: Path, source: Path) -> dict[str, list[float]]:
    program = str(Path(__file__).with_name("pass_times.py"))
    command = [sys.executable, program, str(file), str(_PASSES)]
    done = subprocess.run(command, env=_environment(source), capture_output=True, text=True, check=False)
    if done.returncode != 0:
        sys.exit(f"the passes failed: {done.stderr[-500:]}")
    found: dict[str, list[float]] = json.loads(done.stdout)
    return found


def _rotate(spec: Path, vault: Vault) -> None:
    """Have the CA etcd published: its new certificate is in the bundles, whose readers have to start again."""
    cluster, now = load_cluster(spec), datetime.now(UTC)
    record = commands.rotate(cluster, vault, "etcd", Method.NEW_KEY, 0, now).record
    while record.state is State.PREPARED:
        record = commands.advance(cluster, vault, now).record


def _staying(files: dict[str, Path], sources: dict[str, Path]) -> dict[str, list[float]]:
    """Return the processor time of agents that stay, all at once, in a minute."""
    with contextlib.ExitStack() as stack:
        ids = {}
        for side in _SIDES:
            command = (sys.executable, "-m", "vaultpki", "agent", "-c", str(files[side]))
            ids[side] = stack.enter_context(agents.running(command, _environment(sources[side]))).pid
        time.sleep(_FIRST_SECONDS)
        before = {side: agents.cpu(ids[side]) for side in _SIDES}
        time.sleep(_SECONDS)
        return {side: [agents.cpu(ids[side]) - before[side]] for side in _SIDES}


def _environment(source: Path) -> dict[str, str]:
    # Else Python looks for the package in the current folder first.
    return {"PATH": os.defpath, "PYTHONPATH": str(source), "PYTHONSAFEPATH": "1"}
