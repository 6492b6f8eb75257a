"""No token, secret id, wrapping token or private key gets anywhere but where it belongs.

Every command runs under strace, which sees each program that it starts with all arguments and variables, and each byte
that it writes with the file that it goes to. Then everything that lies around is searched, the audit log too.
"""

from __future__ import annotations

import base64
import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from helpers.faults import trusted_proxy
from helpers.faults.hostile_server import Guest
from helpers.former_ca import PASSPHRASE, FormerCa
from helpers.node import enrolled_nodes
from helpers.vault.applied_cluster import ROOT, AppliedCluster, NodeFolder, environment, vaultpki
from helpers.vault.cluster_factory import ClusterFactory
from helpers.vault.servers import Server

# Tokens of OpenBao and of HashiCorp's Vault, whosever they are.
TOKEN = re.compile(rb"\b(?:hv[sbr]|[sbr])\.[A-Za-z0-9_-]{20,}")
KEY = re.compile(rb"-----BEGIN [A-Z ]*PRIVATE KEY-----\s+(\S+)")
WRITES = "execve,execveat,write,writev,pwrite64,pwritev,sendto,sendmsg"


@dataclass
class Canaries:
    """The secrets seen so far: each with its name and with the only places (of the path) that may hold it."""

    known: dict[bytes, tuple[str, str]] = field(default_factory=dict)

    def add(self, secret: str | bytes, name: str, places: str) -> None:
        raw = secret.encode() if isinstance(secret, str) else secret
        assert len(raw) > 15
        self.known[raw] = (name, places)

    def add_node(self, node: NodeFolder) -> None:
        """What a node holds now."""
        self.add((node.state / "secret-id").read_text(), f"{node.name}: secret id", credential(node))
        for path in node.pki.glob("*.key"):
            match = KEY.search(path.read_bytes())
            assert match is not None
            self.add(match[1], f"{node.name}: {path.name}", rf"{node.pki}/")

    def add_join(self, file: Path) -> None:
        self.add(json.loads(file.read_text())["wrap_token"], file.name, rf"{file.parent}/\.?{file.name}")

    def escaped(self, text: bytes, place: str) -> list[str]:
        """The names of the secrets in a text which may not be at this place."""
        found = [name for raw, (name, places) in self.known.items() if raw in text and not re.match(places, place)]
        known = {raw for raw in self.known if TOKEN.fullmatch(raw)}
        return found + ["a token that nobody knows" for match in TOKEN.findall(text) if match not in known]


def credential(node: NodeFolder) -> str:
    return rf"{node.state}/\.?(secret-id|joined)"


def carried(told: Told) -> bytes:
    """The secret id that was in a join file: the node keeps it for a moment only, and this is where it is seen."""
    found = {
        match[1] for place, call in told.writes() if (match := re.search(rb'secret_id\\": \\"([0-9a-f-]{36})', call))
    }
    assert len(found) == 1
    return found.pop()


@dataclass
class Told:
    """One command as it ran: what it said, what it started, and what it wrote where."""

    code: int
    output: bytes
    calls: list[bytes]

    def starts(self) -> list[bytes]:
        """Programs started after the command itself."""
        return [call for call in self.calls if b"execve" in call and b" = 0" in call][1:]

    def writes(self) -> Iterator[tuple[str, bytes]]:
        for call in self.calls:
            match = re.match(rb"\d+\s+(?:<[^>]*>\s+)?\w+\(\d+<([^>]*)>, ", call)
            if match is not None:
                yield match[1].decode(), call


def traced(
    folder: Path, arguments: Sequence[str | Path], env: Mapping[str, str] | None = None, calls: str = WRITES
) -> Told:
    """The command in `folder`, with every library's log open at debug level."""
    for name in ("log", "tmp"):
        (folder / name).mkdir(exist_ok=True)
    (folder / "log" / "sitecustomize.py").write_text("import logging\nlogging.basicConfig(level=logging.DEBUG)\n")
    log = folder / f"strace-{os.urandom(4).hex()}"
    command = [sys.executable, "-m", "vaultpki", *map(str, arguments)]
    ran = subprocess.run(
        [
            "strace",
            "--seccomp-bpf",
            "-f",
            "-y",
            "-v",
            "-s",
            "1000000",
            "-o",
            str(log),
            "-e",
            f"trace={calls}",
            *command,
        ],
        env=environment({"PYTHONPATH": f"{folder / 'log'}:{ROOT}", "TMPDIR": str(folder / "tmp"), **(env or {})}),
        cwd=folder,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        check=False,
        timeout=120,
    )
    calls_made = log.read_bytes().splitlines()
    log.unlink()
    assert any(b"execve" in call for call in calls_made), ran.stdout
    return Told(ran.returncode, ran.stdout, calls_made)


def files(*roots: Path) -> Iterator[Path]:
    for root in roots:
        for path in sorted(root.rglob("*")):
            if path.is_file() and not path.is_symlink():
                yield path


def nothing_escaped(canaries: Canaries, told: Mapping[str, Told], roots: Sequence[Path]) -> None:
    escapes = []
    for name, each in told.items():
        escapes += [(name, "output", what) for what in canaries.escaped(each.output, "output")]
        for call in each.starts():
            escapes += [(name, "a program", what) for what in canaries.escaped(call, "a program")]
        for place, call in each.writes():
            escapes += [(name, place, what) for what in canaries.escaped(call, place)]
    for path in files(*roots):
        escapes += [("left over", str(path), what) for what in canaries.escaped(path.read_bytes(), str(path))]
    assert escapes == []


@pytest.fixture
def cluster(clusters: ClusterFactory) -> AppliedCluster:
    return clusters.written(enrolled_nodes.SPEC)


def test_of_all_commands(server: Server, cluster: AppliedCluster, tmp_path: Path) -> None:
    canaries, told = Canaries(), {}
    work = tmp_path / "work"
    work.mkdir(mode=0o700)
    mark = server.audit_position()
    canaries.add(cluster.token(), "the applier's token", "nowhere")
    applier = cluster.environment()

    def run(name: str, *arguments: str | Path, env: Mapping[str, str] | None = None, code: int = 0) -> None:
        told[name] = traced(work, arguments, env)
        assert told[name].code == code, (name, told[name].output)

    run("plan", "plan", "-f", cluster.file, "-o", work / "plan.json", env=applier)
    run("apply", "apply", work / "plan.json", env=applier)
    enroller = enrolled_nodes.enroller_token(cluster)
    canaries.add(enroller, "the enroller's token", "nowhere")
    pooled = server.environment(enroller)
    nodes = [NodeFolder("worker-1", tmp_path / "worker-1"), NodeFolder("w-1", tmp_path / "w-1")]
    run("enroll", "enroll", "-f", cluster.file, "worker-1", "-o", work / "worker-1.json", env=applier)
    run("enroll w-1", "enroll", "-f", cluster.file, "w-1", "--pool", "autoscaled", "-o", work / "w-1.json", env=pooled)
    for node in nodes:
        canaries.add_join(work / f"{node.name}.json")
        run(f"join {node.name}", *enrolled_nodes.joining(node, work / f"{node.name}.json"))
        canaries.add_node(node)
        canaries.add(carried(told[f"join {node.name}"]), f"{node.name}: what it joined with", credential(node))
        (node.state / "secret-id.json").write_text("{}")
        (node.pki / "kubelet.crt").unlink()
        node.age()
        run(f"agent {node.name}", "agent", "-c", node.config, "--once")
        canaries.add_node(node)
    run("issue", "issue", "-f", cluster.file, "admin", "--dir", work / "admin", env=applier)
    canaries.add(key_of(work / "admin" / "admin.key"), "admin's key", f"{work}/admin/")
    run("nodes", "nodes", "-f", cluster.file, env=applier)
    # What goes wrong, where errors quote what they have.
    run("join again", *enrolled_nodes.joining(NodeFolder("w-1", tmp_path / "thief"), work / "w-1.json"), code=1)
    run("enroll, too weak", "enroll", "-f", cluster.file, "worker-1", "-o", work / "no.json", env=pooled, code=1)
    run("apply, too weak", "apply", "-f", cluster.file, "--yes", env=pooled, code=1)
    away = {**applier, "VAULT_ADDR": "https://127.0.0.1:1"}
    run("nobody there", "nodes", "-f", cluster.file, env=away, code=1)
    wrong = "11111111-2222-3333-4444-555555555555"
    secret = nodes[0].state / "secret-id"
    secret.write_text(wrong)
    canaries.add(wrong, "a wrong secret id", re.escape(str(secret)))
    (nodes[0].pki / "kubelet.crt").unlink()
    nodes[0].age()
    run("agent refused", "agent", "-c", nodes[0].config, "--once", code=1)
    run("verify", "verify", "-f", cluster.file, "--vault", env=applier, code=0)
    nothing_escaped(canaries, told, [work, cluster.folder, *(node.folder for node in nodes)])
    # What a library puts where temporary files go would be found there.
    assert list((work / "tmp").iterdir()) == []
    # The server's own log: it hashes values, so what is bare there was put into a path, or into a name.
    with server.audit_log.open("rb") as log:
        log.seek(mark)
        assert canaries.escaped(log.read(), "audit log") == []
    # The search finds what it should: each secret was written where it belongs, and each command wrote something.
    written = [
        place for each in told.values() for place, call in each.writes() if any(raw in call for raw in canaries.known)
    ]
    assert {Path(place).name.strip(".").split(".")[0] for place in written} >= {"secret-id", "joined", "kubelet", "w-1"}


@pytest.mark.on_node
def test_of_an_imported_key(server: Server, clusters: ClusterFactory, tmp_path: Path) -> None:
    """The key of a CA that is imported, in every form that it has on its way, and its passphrase."""
    former, other = FormerCa.made(tmp_path / "former"), FormerCa.made(tmp_path / "other")
    cluster, encrypted = clusters.applied(), former.forms()["encrypted"]
    canaries, told, work = Canaries(), {}, tmp_path / "work"
    work.mkdir(mode=0o700)
    passphrase = work / "passphrase"
    passphrase.write_text(PASSPHRASE)
    passphrase.chmod(0o600)
    mark = server.audit_position()
    canaries.add(PASSPHRASE, "the passphrase", re.escape(str(passphrase)))
    for text in (former.key.read_text(), former.forms()["pkcs1"].read_text()):
        for line in text.splitlines()[1:-2]:
            canaries.add(line, "a line of the key", f"{tmp_path}/former/")
    der = base64.b64decode("".join(former.key.read_text().splitlines()[1:-1]))
    for at in range(0, len(der) - 64, 64):
        # strace and `repr` write bytes in other ways.
        part = der[at + 40 : at + 64]
        for raw in (part, part.hex().encode(), repr(part).encode()):
            canaries.add(raw, "a part of the key", f"{tmp_path}/former/")
    env, words = cluster.environment("importer"), ("ca", "import", "-f", cluster.file)

    def run(name: str, *arguments: str | Path, code: int = 0, env: Mapping[str, str] = env) -> None:
        told[name] = traced(work, (*words, *arguments), env)
        assert told[name].code == code, (name, told[name].output)

    def refuse(guest: Guest, path: str, status: int, body: bytes) -> None:
        if path.endswith("/issuers/import/bundle"):
            sent = json.loads(bytes(guest.heard).rpartition(b"\r\n\r\n")[2])["pem_bundle"]
            status, body = 400, json.dumps({"errors": [f"cannot import {sent}", sent[-900:]]}).encode()
        guest.answer(status, body)

    read = ("--passphrase-file", passphrase)
    run("another CA's", "--key", encrypted, *read, other.crt, code=1)
    passphrase.write_text(f"{PASSPHRASE}!")
    run("wrong passphrase", "--key", encrypted, *read, former.crt, code=1)
    passphrase.write_text(PASSPHRASE)
    with trusted_proxy.relaying(server, work, say=refuse) as relay:
        run("refused", "--key", encrypted, *read, former.crt, code=1, env={**env, **relay.environment})
    run("too weak", "--key", encrypted, *read, former.crt, code=1, env=cluster.environment("viewer"))
    run("nobody there", "--key", former.key, former.crt, code=1, env={**env, "VAULT_ADDR": "https://127.0.0.1:1"})
    run("import", "--key", encrypted, *read, former.crt)
    run("again", "--key", former.key, former.crt)
    run("removed", "--yes", "--remove", "kubernetes")
    nothing_escaped(canaries, told, [work, cluster.folder])
    assert list((work / "tmp").iterdir()) == []
    with server.audit_log.open("rb") as log:
        log.seek(mark)
        assert canaries.escaped(log.read(), "audit log") == []
    # The search finds a key where it is.
    assert canaries.escaped(former.key.read_bytes(), "elsewhere")
    assert canaries.escaped(der, "elsewhere")


def key_of(path: Path) -> bytes:
    match = KEY.search(path.read_bytes())
    assert match is not None
    return match[1]


def test_of_the_demo_and_the_programs_it_starts(tmp_path: Path) -> None:
    """Its server's root token, every node's secret id, and every key, beside `openssl` and `bao`."""
    told = traced(tmp_path, ["demo", "--dir", tmp_path / "demo"], calls="execve,execveat")
    assert told.code == 0, told.output
    canaries = Canaries()
    for node in ("cp-1", "cp-2", "worker-1"):
        folder = tmp_path / "demo" / "nodes" / node
        canaries.add_node(NodeFolder(node, folder))
    canaries.add(key_of(tmp_path / "demo" / "operator" / "admin.key"), "admin's key", f"{tmp_path}/demo/operator/")
    started = told.starts()
    assert any(b"openssl" in call for call in started) and any(b"/bao" in call for call in started)
    nothing_escaped(canaries, {"demo": told}, [tmp_path / "demo"])
    for call in started:
        # Not even what would be harmless: of ours they get what they need.
        assert b"VAULT_" not in call and b"BAO_TOKEN" not in call, call


def test_a_fault_of_ours_tells_no_secret(tmp_path: Path) -> None:
    """An exception may carry whatever was at hand; of a fault only its kind and its place are told."""
    secret = "s.CANARYCANARYCANARYCANARY"
    code = (
        "import vaultpki.config.cluster, vaultpki.cli, sys\n"
        "def load(*_, **__):\n"
        f"    token = {secret!r}\n"
        "    try:\n"
        "        raise ValueError(token)\n"
        "    except ValueError:\n"
        "        raise RuntimeError('of ' + token)\n"
        "vaultpki.config.cluster.load_cluster = load\n"
        "sys.argv = ['vaultpki', 'plan']\n"
        "vaultpki.cli.main()\n"
    )
    ran = subprocess.run(
        [sys.executable, "-c", code], env=environment(), capture_output=True, text=True, check=False, cwd=tmp_path
    )
    assert ran.returncode == 1 and ran.stdout == ""
    # The place is where our own code was when it happened.
    place = r"RuntimeError in vaultpki\.cli\.common, line \d+"
    told = rf"vaultpki: a fault of vaultpki itself \({place}\); please report it\n"
    assert re.fullmatch(told, ran.stderr), ran.stderr


def dumps(command: Sequence[str | Path], folder: Path, ready: str) -> tuple[bool, list[Path]]:
    """Whether the kernel dumped the core of a process that was aborted, and what it left in its folder."""
    folder.mkdir()
    limited = [sys.executable, "-c", LIMIT, *map(str, command)]
    # The agent that stays logs on standard error.
    running = subprocess.Popen(
        limited, cwd=folder, env=environment(), stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )
    assert running.stdout is not None
    assert any(ready in line for line in running.stdout), f"it ended and never said {ready!r}"
    time.sleep(0.2)
    running.send_signal(signal.SIGABRT)
    _, status = os.waitpid(running.pid, 0)
    running.returncode = -signal.SIGABRT
    running.stdout.close()
    assert os.WIFSIGNALED(status) and os.WTERMSIG(status) == signal.SIGABRT
    return os.WCOREDUMP(status), list(folder.glob("core*"))


# The largest core there can be, for whatever is executed then.
LIMIT = (
    "import os, resource, sys; resource.setrlimit(resource.RLIMIT_CORE, (resource.RLIM_INFINITY,) * 2); "
    "os.execv(sys.executable, [sys.executable, *sys.argv[1:]])"
)


@pytest.mark.on_node
def test_a_crash_leaves_no_core(cluster: AppliedCluster, tmp_path: Path) -> None:
    """The agent holds its secret id, its token and its keys in memory when it is aborted."""
    # That cores are left on this machine at all.
    waiting = ["-c", "import time; print('ready', flush=True); time.sleep(60)"]
    assert dumps(waiting, tmp_path / "control", "ready")[0]
    cluster.apply()
    enroller = enrolled_nodes.Enroller(cluster, cluster.token())
    file = enroller.join_file("w-1", tmp_path / "join.json", pool="autoscaled")
    node = NodeFolder("w-1", tmp_path / "node")
    vaultpki(*enrolled_nodes.joining(node, file))
    (node.pki / "kubelet.crt").unlink()
    staying: list[str | Path] = ["-u", "-m", "vaultpki", "agent", "-c", node.config]
    assert dumps(staying, tmp_path / "agent", "issued kubelet\n") == (False, [])
    # While a person's command holds their token: here it asks.
    asking = "import vaultpki.cli as c, time; c._leave_no_core(); print('ready', flush=True); time.sleep(60)"
    assert dumps(["-c", asking], tmp_path / "command", "ready") == (False, [])
