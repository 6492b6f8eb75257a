"""What the measures stand on: a real server, a network of 5 ms before it, a cluster, and the programs to be timed."""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from benchmarks import peers
from benchmarks.timing import Contender, Hook, Hooks, Measure, nothing
from vaultpki.config.cluster import load_cluster
from vaultpki.demo import openbao
from vaultpki.model import Cluster
from vaultpki.provision import apply, destroy
from vaultpki.records.server_facts import ServerFacts
from vaultpki.vault import Settings, Vault

NETWORK_SECONDS: Final = 0.005
HVAC: Final = (sys.executable, str(Path(__file__).with_name("hvac_peer.py")))

_SPEC: Final = """\
cluster: bench
vault: {{addresses: ["{address}"], ca_file: server/ca.crt}}
api_server: {{endpoint: "https://api.bench.example:6443", names: [api.bench.example], addresses: [10.0.0.10]}}
"""
_NODES: Final = """\
nodes:
  - {name: cp-1, roles: [control-plane, etcd], addresses: [10.0.0.11]}
  - {name: cp-2, roles: [control-plane, etcd], addresses: [10.0.0.12]}
  - {name: cp-3, roles: [control-plane, etcd], addresses: [10.0.0.13]}
  - {name: worker-1, roles: [worker], addresses: [10.0.0.21]}
  - {name: worker-2, roles: [worker], addresses: [10.0.0.22]}
  - {name: worker-3, roles: [worker], addresses: [10.0.0.23]}
  - {name: worker-4, roles: [worker], addresses: [10.0.0.24]}
  - {name: worker-5, roles: [worker], addresses: [10.0.0.25]}
  - {name: worker-6, roles: [worker], addresses: [10.0.0.26]}
"""


@dataclass(frozen=True, slots=True)
class Ground:
    """A running server with nothing on it, and how to reach it: straight, and over the slow network."""

    folder: Path
    cluster: Cluster
    settings: Settings = field(repr=False)
    where: ServerFacts
    straight: dict[str, str] = field(repr=False)
    far: dict[str, str] = field(repr=False)

    def ours(self, *words: str, far: bool = False, before: Hook = nothing, after: Hook = nothing) -> Contender:
        """`vaultpki` as a user runs it: the console script of this environment."""
        script = Path(sys.executable).parent / "vaultpki"
        if not script.exists():
            sys.exit(f"there is no {script.name} beside this Python; run `make bench`, which installs it")
        return Contender("vaultpki", (str(script), *words), self.far if far else self.straight, before, after)

    @property
    def spec(self) -> Path:
        return self.folder / "cluster.yaml"

    def configure(self) -> None:
        apply.apply(self.cluster, Vault(self.settings), self.where, first=None, progress=lambda change: None)

    def clear(self) -> None:
        destroy.destroy(self.cluster, Vault(self.settings), self.where, progress=lambda path: None)

    def configured(self) -> None:
        """Ends the benchmark where the run just timed did not leave the whole cluster behind."""
        _, plan = apply.observe_and_plan(self.cluster, Vault(self.settings), self.where)
        if any(change.action == "create" for change in plan.changes):
            sys.exit(f"a run left {plan.changes[0].kind} {plan.changes[0].name} out, so its time means nothing")

    def file(self, name: str, text: str) -> str:
        path = self.folder / name
        path.write_text(text, encoding="utf-8")
        return str(path)


@contextlib.contextmanager
def ground(folder: Path, nodes: str = _NODES) -> Iterator[Ground]:
    """The server and the proxy, both ended with the block; `nodes` are the lines of the spec that list them."""
    folder.mkdir(exist_ok=True)
    with openbao.start(folder / "server") as server, _network(int(server.address.rpartition(":")[2])) as port:
        spec = folder / "cluster.yaml"
        spec.write_text(_SPEC.format(address=server.address) + nodes, encoding="utf-8")
        cluster = load_cluster(spec)
        environment = {
            "PATH": os.defpath,
            "HOME": str(folder),
            "VAULT_ADDR": server.address,
            "VAULT_CACERT": str(server.ca_file),
            "VAULT_TOKEN": server.token,
        }
        yield Ground(
            folder,
            cluster,
            Settings((server.address,), ca_file=str(server.ca_file), token=server.token),
            ServerFacts((server.address,), cluster.vault.ca_pem),
            environment,
            {**environment, "VAULT_ADDR": f"https://127.0.0.1:{port}"},
        )


@contextlib.contextmanager
def _network(port: int) -> Iterator[int]:
    command = [sys.executable, "-m", "benchmarks.proxy", str(port), str(NETWORK_SECONDS)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None  # noqa: S101 -- for mypy: it was asked for above
            yield int(process.stdout.readline())
        finally:
            process.kill()


def measures(there: Ground) -> list[Measure]:
    """Every measure, in the order of the issue's goals; the server is empty before and after each."""
    spec = str(there.spec)
    work = there.folder / "work"
    work.mkdir()
    writes = peers.writes_of_apply(there.cluster, there.settings, there.where)
    reads = peers.reads_of_plan(there.cluster, there.settings, there.where)
    there.clear()
    shell = shutil.which("sh") or "/bin/sh"
    script = there.file("configure.sh", peers.shell_script(writes, openbao._binary(), work))
    writing = (*HVAC, there.file("writes.json", peers.to_json(peers.in_turn(writes))))
    reading = (*HVAC, there.file("reads.json", peers.to_json(peers.in_turn(reads))))
    empty: Hooks = {"before": there.clear, "after": there.configured}
    full: Hooks = {"before": there.configure}
    return [
        Measure(
            f"configure an empty server ({len(writes)} writes)",
            there.ours("apply", "-f", spec, "--yes", **empty),
            Contender("shell of bao calls", (shell, script), there.straight, **empty),
            1 / 15,
        ),
        Measure(
            "configure an empty server, +5 ms network",
            there.ours("apply", "-f", spec, "--yes", far=True, **empty),
            Contender("hvac in sequence", writing, there.far, **empty),
            0.8,
        ),
        Measure(
            f"plan with nothing to do ({len(reads)} reads), +5 ms network",
            there.ours("plan", "-f", spec, "--detailed-exitcode", far=True, **full),
            Contender("hvac in sequence", reading, there.far, **full),
            0.5,
        ),
        Measure(
            "--help",
            there.ours("--help"),
            Contender("import click", (sys.executable, "-c", "import click"), there.straight),
            2.0,
        ),
    ]
