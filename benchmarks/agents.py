"""The node's agent beside `bao agent`: the same ten certificates by the same roles, each agent on a node of its own."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from benchmarks.timing import Contender, Measure, Result, compare
from vaultpki.certificates import pair_files, sign_parameters
from vaultpki.config.cluster import load_cluster
from vaultpki.demo import openbao, run
from vaultpki.disk import files
from vaultpki.disk.generations import File
from vaultpki.disk.store import Directory
from vaultpki.identity.access import node_certificates
from vaultpki.model import Certificate, Cluster, Node
from vaultpki.provision import apply
from vaultpki.records.server_facts import ServerFacts
from vaultpki.vault import Request, Settings, Vault

TEN: Final = 10
# cp-1 is ours, cp-2 the peer's. A control-plane and etcd node has nine rows of the table; the tenth is a user's.
_SPEC: Final = """\
cluster: {name}
vault: {{addresses: ["{address}"], ca_file: server/ca.crt}}
api_server: {{endpoint: "https://api.bench.example:6443", names: [api.bench.example], addresses: [10.0.0.10]}}
nodes:
  - {{name: cp-1, roles: [control-plane, etcd], addresses: [10.0.0.11]}}
  - {{name: cp-2, roles: [control-plane, etcd], addresses: [10.0.0.12]}}
certificates:
  backup: {{kind: client, common_name: backup, ca: etcd, roles: [etcd]{more}}}
"""
_BRIEF: Final = "ttl: {ttl}s, allow_short_ttl: true"
MEMORY_GOAL: Final = 0.65
_BRIEF_TTL: Final = 60
_FIRST_SECONDS: Final = 15.0
_OURS, _PEER = "vaultpki agent", "bao agent"
_STAYING: Final = "an agent that stays, ten certificates"
_LAYING: Final = "ten pairs laid down"
_ENDS: Final = ("crt", "key", "pem")


@dataclass(frozen=True, slots=True)
class Site:
    """A cluster on a running server: `ours` is the folder of our node, `peer` that of the peer's."""

    cluster: Cluster
    folder: Path
    audit: Path
    bao: str

    @property
    def ours(self) -> Path:
        return self.folder / "ours"

    @property
    def peer(self) -> Path:
        return self.folder / "peer"

    @property
    def our_command(self) -> tuple[str, ...]:
        script = Path(sys.executable).parent / "vaultpki"
        if not script.exists():
            sys.exit(f"there is no {script.name} beside this Python; run `make bench`, which installs it")
        return str(script), "agent", "-c", str(self.ours / "agent.yaml")

    def peer_command(self, *, once: bool) -> tuple[str, ...]:
        return self.bao, "agent", f"-config={self.peer / ('once.hcl' if once else 'stay.hcl')}", "-log-level=warn"

    @property
    def environment(self) -> dict[str, str]:
        return {"PATH": os.defpath, "HOME": str(self.folder)}

    def certificates(self, node: str) -> tuple[Certificate, ...]:
        found = {each.name: each for each in self.cluster.nodes}[node]
        return node_certificates(self.cluster, found)

    def strip(self) -> None:
        """Leaves our node with its credential and nothing else."""
        shutil.rmtree(self.ours / "pki", ignore_errors=True)
        for name in ("spec.json", "agent.json"):
            (self.ours / "state" / name).unlink(missing_ok=True)

    def strip_peer(self) -> None:
        shutil.rmtree(self.peer / "pki", ignore_errors=True)
        (self.peer / "pki").mkdir()

    def laid(self) -> None:
        """Ends the benchmark where our run did not leave ten pairs."""
        self._complete(self.ours / "pki", "cp-1")

    def peer_laid(self) -> None:
        self._complete(self.peer / "pki", "cp-2")

    def _complete(self, folder: Path, node: str) -> None:
        names = [name for each in self.certificates(node) for name in pair_files(each.stem)[:2]]
        empty = [name for name in names if not (folder / name).exists() or not (folder / name).stat().st_size]
        if empty or len(names) != 2 * TEN:
            sys.exit(f"a run left {empty[:3]} of {len(names)} files out, so its time means nothing")


@contextlib.contextmanager
def site(folder: Path, ttl: int | None = None) -> Iterator[Site]:
    """A server that writes its audit log, and both nodes ready to run; certificates of `ttl` seconds, or 30 days."""
    folder.mkdir()
    audit = folder / "audit.log"
    with openbao.start(folder / "server", audit_file=audit) as server:
        spec = folder / "cluster.yaml"
        brief = _BRIEF.format(ttl=ttl) if ttl else ""
        spec.write_text(_SPEC.format(name="bench", address=server.address, more=f", {brief}" if ttl else ""))
        if ttl:
            names = [each.name for each in node_certificates(load_cluster(spec), load_cluster(spec).nodes[0])]
            with spec.open("a") as stream:
                stream.writelines(f"  {name}: {{{brief}}}\n" for name in names if name != "backup")
        cluster = load_cluster(spec)
        vault = Vault(Settings((server.address,), ca_file=str(server.ca_file), token=server.token))
        where = ServerFacts((server.address,), cluster.vault.ca_pem)
        done = apply.apply(cluster, vault, where, first=None, progress=lambda change: None)
        run.equip(folder / "ours", cluster, cluster.nodes[0], vault, done.root_sha256)
        made = Site(cluster, folder, audit, openbao._binary())
        equip_peer(cluster, cluster.nodes[1], made.peer, vault, server.address, server.ca_file)
        yield made


def equip_peer(
    cluster: Cluster, node: Node, folder: Path, vault: Vault, address: str, ca_file: Path, lives: int = 3600
) -> None:
    """The peer's node: its AppRole may `issue` by the very roles by which ours has its requests signed."""
    folder.mkdir()
    (folder / "pki").mkdir()
    policy = {"path": {f"{cluster.prefix}/+/issue/*": {"capabilities": ["create", "update"]}}}
    vault.write("sys/policies/acl/bench-peer", {"policy": json.dumps(policy)})
    role = f"auth/{cluster.prefix}/listed/role/{node.name}"
    # A batch token cannot be renewed, and the peer would log in again and again.
    options = {
        "token_policies": "bench-peer",
        "token_type": "service",
        "token_ttl": f"{lives}s",
        "token_max_ttl": "24h",
    }
    vault.write(role, options)
    role_id = vault.call(Request("GET", f"{role}/role-id")).data["role_id"]
    secret_id = vault.write(f"{role}/secret-id", {})["data"]["secret_id"]
    files.write_private(str(folder / "role-id"), str(role_id).encode())
    files.write_private(str(folder / "secret-id"), str(secret_id).encode())
    templates = "".join(_template(each, folder / "pki") for each in node_certificates(cluster, node))
    for once in (True, False):
        (folder / ("once.hcl" if once else "stay.hcl")).write_text(
            f'vault {{\n  address = "{address}"\n  ca_cert = "{ca_file}"\n}}\n'
            f'auto_auth {{\n  method "approle" {{\n    mount_path = "auth/{cluster.prefix}/listed"\n    config = {{\n'
            f'      role_id_file_path = "{folder}/role-id"\n      secret_id_file_path = "{folder}/secret-id"\n'
            "      remove_secret_id_file_after_reading = false\n    }\n  }\n}\n"
            f"exit_after_auth = {json.dumps(once)}\n"
            "template_config {\n  exit_on_retry_failure = true\n}\n" + templates
        )


def _template(want: Certificate, folder: Path) -> str:
    crt, key, _ = pair_files(want.stem)
    asked = {name: value for name, value in sign_parameters(want, "").items() if name not in ("csr", "format")}
    words = " ".join(json.dumps(f"{name}={value}") for name, value in asked.items())
    # Without the condition a start that finds the certificate in place would empty the key's file.
    return (
        "template {\n  contents = <<END\n"
        f'{{{{ with pkiCert "{want.mount}/issue/{want.role}" {words} }}}}{{{{ .Data.Cert }}}}{{{{ .Data.CA }}}}'
        f'{{{{ if .Data.Key }}}}{{{{ .Data.Key | writeToFile "{folder}/{key}" "" "" "0600" }}}}{{{{ end }}}}'
        "{{ end }}\n"
        f'END\n  destination = "{folder}/{crt}"\n  error_on_missing_key = true\n}}\n'
    )


def measures(there: Site) -> list[Measure]:
    """Whole processes: ten certificates on a fresh node, and the same again with nothing due."""
    ours, peer = (*there.our_command, "--once", "--if-due"), there.peer_command(once=True)
    asked: list[int] = []

    def unasked() -> None:
        if there.audit.stat().st_size != asked[0]:
            sys.exit("our run had nothing to do and asked the server all the same")

    def again() -> None:
        # Lays down what is missing, and asks anew where what Vault said last has grown older than the poll interval.
        subprocess.run(ours, env=there.environment, stdout=subprocess.DEVNULL, check=True)
        asked[:] = [there.audit.stat().st_size]

    return [
        Measure(
            "ten certificates on a fresh node",
            Contender("vaultpki agent --once --if-due", ours, there.environment, there.strip, there.laid),
            Contender("bao agent", peer, there.environment, there.strip_peer, there.peer_laid),
            None,
            weighed=True,
            memory_goal=MEMORY_GOAL,
        ),
        Measure(
            "ten certificates, nothing due",
            Contender("vaultpki agent --once --if-due", ours, there.environment, again, unasked),
            Contender("bao agent", peer, there.environment, after=there.peer_laid),
            None,
            weighed=True,
            memory_goal=MEMORY_GOAL,
        ),
    ]


def results(folder: Path, only: str, rounds: int, minutes: float) -> Iterator[Result]:
    """All that agents are measured by, of which `only` names some."""
    names = ("ten certificates on a fresh node", "ten certificates, nothing due")
    if any(only in name for name in names):
        with site(folder / "agents") as there:
            for measure in measures(there):
                if only in measure.name:
                    yield from compare(measure, rounds)
    if only in _STAYING:
        with site(folder / "brief", _BRIEF_TTL) as brief, site(folder / "usual") as usual:
            yield from staying({f"{_BRIEF_TTL} s": brief, "30 d": usual}, minutes * 60)
    if only in _LAYING:
        yield laying(folder, rounds)


def staying(sites: Mapping[str, Site], seconds: float) -> list[Result]:
    """Agents that stay, all at the same time: peak memory since their start, and CPU from the first ten pairs on."""
    with contextlib.ExitStack() as stack:
        agents = {
            (ttl, name): stack.enter_context(running(command, there.environment))
            for ttl, there in sites.items()
            for name, command in ((_OURS, there.our_command), (_PEER, there.peer_command(once=False)))
        }
        time.sleep(_FIRST_SECONDS)
        begun = {key: cpu(process.pid) for key, process in agents.items()}
        time.sleep(seconds)
        for (_, name), process in agents.items():
            if process.poll() is not None:
                sys.exit(f"{name} did not stay: it ended with {process.returncode}")
        spent = {key: cpu(process.pid) - begun[key] for key, process in agents.items()}
        peak = {key: _peak(process.pid) for key, process in agents.items()}
    for there in sites.values():
        there.laid()
        there.peer_laid()
    told = [("MiB", ", peak memory", peak, MEMORY_GOAL), ("s", f", CPU in {seconds / 60:.0f} minutes", spent, None)]
    return [
        Result(f"{_STAYING} of {ttl}{what}", unit, _OURS, _PEER, (taken[ttl, _OURS],), (taken[ttl, _PEER],), goal)
        for ttl in sites
        for unit, what, taken, goal in told
    ]


@contextlib.contextmanager
def running(command: tuple[str, ...], environment: Mapping[str, str]) -> Iterator[subprocess.Popen[bytes]]:
    with subprocess.Popen(
        command, env=dict(environment), stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    ) as process:
        try:
            yield process
        finally:
            process.kill()


def cpu(pid: int) -> float:
    # proc_pid_stat(5): the 14th and 15th, counted from behind the name, which may hold spaces.
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def _peak(pid: int) -> float:
    status = Path(f"/proc/{pid}/status").read_text()
    return int(status.partition("VmHWM:")[2].split()[0]) / 1024


def laying(folder: Path, rounds: int) -> Result:
    """Ten pairs laid down by the store, on the disk before it says so, beside plain files renamed into their place."""
    content = {f"p{number}": {f"p{number}.{end}": os.urandom(1500) for end in _ENDS} for number in range(TEN)}
    ours, peer = [], []
    for number in range(rounds):
        begin = time.perf_counter()
        with Directory.open(str(folder / f"store-{number}")) as directory:
            for unit, files_of in content.items():
                directory.install(unit, {name: File(data, 0o600) for name, data in files_of.items()})
        ours.append((time.perf_counter() - begin) * 1000)
        plain = folder / f"plain-{number}"
        plain.mkdir()
        begin = time.perf_counter()
        for files_of in content.values():
            for name, data in files_of.items():
                (plain / f".{name}").write_bytes(data)
                (plain / f".{name}").rename(plain / name)
        peer.append((time.perf_counter() - begin) * 1000)
    return Result(_LAYING, "ms", "generations, fsync", "plain renames", tuple(ours), tuple(peer), None)
