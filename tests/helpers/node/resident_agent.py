"""Resident agents as real processes, what is seen of them from outside, and a Vault that lies behind a real one."""

from __future__ import annotations

import contextlib
import http.client
import json
import signal
import ssl
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Mapping, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from prometheus_client.parser import text_string_to_metric_families

from helpers.vault.applied_cluster import AppliedCluster, NodeFolder, environment, vaultpki
from helpers.vault.servers import Server, free_ports, wait_for
from vaultpki.agent.context import Outcome
from vaultpki.certificates import pair_files
from vaultpki.config.agent import load_agent
from vaultpki.daemon import metrics
from vaultpki.disk.store import OLD_FILES_GRACE
from vaultpki.errors import CertificateUnreadable
from vaultpki.pki import x509
from vaultpki.pki.facts import Facts
from vaultpki.procedures import ON_NODES

WORKER = ("kubelet", "kubelet-client", "kube-proxy")
"""What a worker holds; the names of its files are the same."""

# The shortest lives there are: a renewal is due 15 to 20 s after a signing.
SPEC = """\
allow_short_ttl: true
defaults: {ttl: 30s}
api_server: {names: [api.example.com], endpoint: "https://api.example.com:6443"}
nodes:
- {name: worker-1, roles: [worker], addresses: [10.0.0.21]}
- {name: worker-2, roles: [worker], addresses: [10.0.0.22]}
"""
AT_ONCE = 4
"""Within how many seconds an agent ends: less than any wait of its own, and one where nobody shares the processors."""

POLL = 10
"""The shortest poll interval there is, in seconds."""

PASS = OLD_FILES_GRACE + 15
"""Seconds for a pass, with the pause for watchers that may come before it."""


def short_and_long(short: str, *names: str) -> str:
    """A spec in which the certificates named live for 30 seconds, and the others for 30 days."""
    own = "".join(f"  {name}: {{ttl: {short}}}\n" for name in names)
    return SPEC.replace("defaults: {ttl: 30s}\n", "") + (f"certificates:\n{own}" if own else "")


def polling_node(
    cluster: AppliedCluster, node: str = "worker-1", further: str = "", folder: Path | None = None
) -> NodeFolder:
    """A node whose agent polls as often as it may; `further` is appended to agent.yaml."""
    return cluster.equip(node, folder=folder, further=f"poll: {POLL}s\n{further}")


@dataclass(frozen=True, slots=True)
class Resident:
    """An agent that stays, and what it says: JSON lines in `log`."""

    node: NodeFolder
    process: subprocess.Popen[bytes]
    log: Path

    def events(self) -> list[dict[str, Any]]:
        """All it has said so far."""
        lines = self.log.read_text().splitlines()
        return [json.loads(line) for line in lines if line.startswith('{"time"')]

    def said(self, text: str) -> list[dict[str, Any]]:
        """The events whose sentence holds `text`."""
        return [event for event in self.events() if text in event["message"]]

    def await_said(self, text: str, seconds: float, times: int = 1) -> list[dict[str, Any]]:
        wait_for(lambda: len(self.said(text)) >= times, seconds, lambda: f"no {text!r}:\n{self.log.read_text()}", 0.05)
        return self.said(text)

    def await_issued(self, seconds: float = 30) -> None:
        """Until the first pass is over and told."""
        wait_for(lambda: self.said("issued ") != [], seconds, self.log.read_text, 0.05)

    def status(self, *, expect: int | AbstractSet[int]) -> dict[str, Any]:
        """`vaultpki status --json` beside it, which ends with this exit code or one of these."""
        ran = vaultpki("status", "-c", self.node.config, "--json", expect=expect)
        found: dict[str, Any] = json.loads(ran.stdout)
        return found

    def end(self, number: signal.Signals = signal.SIGTERM) -> float:
        """Ends it by a signal; the seconds that it took. Fails where it does not end well."""
        began = time.monotonic()
        self.process.send_signal(number)
        code = self.process.wait(15)
        took = time.monotonic() - began
        assert code == 0, f"exit {code}:\n{self.log.read_text()}"
        return took


@contextlib.contextmanager
def resident(
    node: NodeFolder, *prefix: str, env: Mapping[str, str] | None = None, log: Path | None = None, foreign: str = ""
) -> Iterator[Resident]:
    """An agent on this node, started behind the command `prefix`; killed on the way out if it still runs then.

    It may tell of no fault of its own, unless that is `foreign`: in these words, and of the test's own making.
    """
    file = log or node.folder / "log"
    with file.open("ab") as output:
        process = subprocess.Popen(
            [*prefix, *command(node)], env=environment(env), stdin=subprocess.DEVNULL, stdout=output, stderr=output
        )
    try:
        yield Resident(node, process, file)
    finally:
        process.kill()
        process.wait()
        text = file.read_text()
    faults = [line for line in text.splitlines() if "fault of vaultpki" in line]
    assert "Traceback" not in text and all(foreign and foreign in line for line in faults), text


def faketime_library() -> str:
    """What LD_PRELOAD is set to for a process whose clock FAKETIME or FAKETIME_TIMESTAMP_FILE tells."""
    # A process that is killed leaves its shared memory, and the next one of that id then fails (libfaketime's README).
    for left in Path("/dev/shm").glob("*faketime_s*_[0-9]*"):  # noqa: S108 - where shm_open(3) puts it
        if not Path("/proc", left.name.rpartition("_")[2]).exists():
            left.unlink(missing_ok=True)
    ran = subprocess.run(
        ["faketime", "-f", "+0s", "printenv", "LD_PRELOAD"], capture_output=True, text=True, check=True
    )
    return ran.stdout.strip()


def faked(folder: Path) -> tuple[dict[str, str], Callable[[str], None]]:
    """The environment of a process with a clock of its own, and what sets that by an offset such as +1h."""
    offset = folder / "offset"
    env = {
        "LD_PRELOAD": faketime_library(),
        "FAKETIME_TIMESTAMP_FILE": str(offset),
        "FAKETIME_NO_CACHE": "1",
        "FAKETIME_DONT_FAKE_MONOTONIC": "1",
    }

    def set_clock(to: str) -> None:
        (folder / "new").write_text(to)
        (folder / "new").rename(offset)

    return env, set_clock


def get(port: int, path: str, *, host: str = "localhost") -> tuple[int, str]:
    """Status and text of what the agent shows when it is asked as `host`; 0 where nobody listens, or one is cut off."""
    request = urllib.request.Request(f"http://127.0.0.1:{port}/{path}", headers={"Host": host})
    # An agent that reads its settings again resets what it is answering.
    with contextlib.suppress(OSError, http.client.HTTPException):
        try:
            with urllib.request.urlopen(request, timeout=5) as answer:  # noqa: S310 - the URL is ours
                return answer.status, answer.read().decode()
        except urllib.error.HTTPError as error:
            with error:
                return error.code, error.read().decode()
    return 0, ""


def figure(port: int, name: str, /, **labels: str) -> float | None:
    """The metric of this name, with these labels beside those of the node; None where it is not shown."""
    for family in text_string_to_metric_families(get(port, "metrics")[1]):
        for sample in family.samples:
            its = {key: value for key, value in sample.labels.items() if key not in ("cluster", "node")}
            if sample.name == f"vaultpki_{name}" and its == labels:
                return sample.value
    return None


@contextlib.contextmanager
def metrics_of(node: NodeFolder, outcome: Outcome) -> Iterator[int]:
    """The port of the metrics of an agent whose last pass had this outcome, and that makes none while it is asked."""
    (port,) = free_ports(1)
    config = replace(load_agent(node.config), metrics=f"127.0.0.1:{port}")
    shown = metrics.DaemonMetrics(lambda: config, ON_NODES, lambda event: None, longest_pass=60)
    shown.record(config, outcome)
    shown.serve()
    yield port
    config = replace(config, metrics=None)
    shown.serve()


def command(node: NodeFolder) -> list[str]:
    return [sys.executable, "-m", "vaultpki", "agent", "-c", str(node.config), "--log-format", "json"]


def leaf(node: NodeFolder, stem: str) -> Facts:
    """The certificate of a pair; fails where the pair is not whole."""
    names = pair_files(stem)
    # All three of one generation: whoever goes by the links three times may meet a swap in between.
    generation = (node.pki / names[0]).resolve(strict=True).parent
    crt, key, pem = ((generation / name).read_bytes() for name in names)
    found = x509.read_certificates(crt)[0]
    assert x509.matches(key, found) and pem == key + crt, stem
    return found


def leaves(node: NodeFolder, stems: Sequence[str] = WORKER) -> dict[str, Facts]:
    return {stem: leaf(node, stem) for stem in stems}


def signs(server: Server, prefix: str, since: int) -> list[str]:
    """The PKI roles of this cluster by which Vault was asked to sign since then, in order."""
    return [
        path.rpartition("/")[2]
        for _, path in server.requests(since)
        if path.startswith(f"{prefix}/") and "/sign/" in path
    ]


@dataclass(slots=True)
class Watcher:
    """Looks at the pairs of a node all the time, through their combined files: what it saw, and what was wrong."""

    node: NodeFolder
    stems: Sequence[str] = WORKER
    pause: float = 0.1
    looks: int = 0
    problems: list[str] = field(default_factory=list)
    serials: dict[str, list[int]] = field(default_factory=dict)
    longest_gap: float = 0.0

    def look(self) -> None:
        for stem in self.stems:
            crt, key, pem = pair_files(stem)
            try:
                secret, begin, rest = (self.node.pki / pem).read_bytes().partition(b"-----BEGIN CERTIFICATE-----")
                found = x509.read_certificates(begin + rest)[0]
                if not x509.matches(secret, found):
                    self.problems.append(f"{pem} is torn")
            except (OSError, CertificateUnreadable) as error:
                self.problems.append(f"{pem}: {error}")
                continue
            for name in (crt, key):
                if not (self.node.pki / name).exists():
                    self.problems.append(f"{name} is missing")
            if found.not_after <= datetime.now(UTC):
                self.problems.append(f"{pem} expired at {found.not_after:%H:%M:%S}")
            seen = self.serials.setdefault(stem, [])
            if found.serial not in seen[-1:]:
                seen.append(found.serial)
        self.looks += 1

    @contextlib.contextmanager
    def watching(self) -> Iterator[Watcher]:
        """Looks until the block is left; nothing may have been wrong then."""
        ended = threading.Event()

        def work() -> None:
            last = time.monotonic()
            while not ended.wait(self.pause):
                self.look()
                now = time.monotonic()
                self.longest_gap, last = max(self.longest_gap, now - last), now

        thread = threading.Thread(target=work, daemon=True)
        thread.start()
        try:
            yield self
        finally:
            ended.set()
            thread.join()
        assert not self.problems and self.looks, self.problems[:10]


Alter = Callable[[str, str, int, dict[str, Any]], tuple[int, dict[str, Any]]]


@dataclass(slots=True)
class Proxy:
    """A Vault on plain http that asks a real one, and answers as `alter` makes it: of method, path, status, body.

    `asked` are the requests it had, with the time of each, and `bodies` what came last by each path.
    """

    address: str
    alter: Alter
    asked: list[tuple[float, str, str]] = field(default_factory=list)
    bodies: dict[str, bytes] = field(default_factory=dict)

    def count(self, part: str, since: float = 0.0) -> int:
        return sum(part in path for when, _, path in self.asked if when >= since)


def honest(method: str, path: str, status: int, body: dict[str, Any]) -> tuple[int, dict[str, Any]]:
    return status, body


@contextlib.contextmanager
def proxy(server: Server, alter: Alter = honest) -> Iterator[Proxy]:
    """Stands before the server until the block is left."""
    url = urlsplit(server.address)
    context = ssl.create_default_context(cafile=server.ca_file)

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def _forward(self) -> None:
            made.asked.append((time.time(), self.command, self.path))
            body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
            made.bodies[self.path] = body
            assert url.hostname is not None
            connection = http.client.HTTPSConnection(url.hostname, url.port, context=context, timeout=30)
            kept = {name: self.headers[name] for name in self.headers if name.lower() not in ("host", "connection")}
            with contextlib.closing(connection):
                connection.request(self.command, self.path, body, kept)
                answer = connection.getresponse()
                raw = answer.read()
            status, changed = made.alter(self.command, self.path, answer.status, json.loads(raw) if raw else {})
            said = json.dumps(changed).encode() if changed else b""
            self.send_response_only(status)
            for name in ("Date", "Content-Type"):
                if answer.headers[name]:
                    self.send_header(name, answer.headers[name])
            self.send_header("Content-Length", str(len(said)))
            self.end_headers()
            self.wfile.write(said)

        do_GET = do_POST = do_PUT = do_LIST = do_PATCH = do_DELETE = _forward  # noqa: N815 - the base class's names

        def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the base class calls it so
            pass

    class Listener(ThreadingHTTPServer):
        daemon_threads = True

        def handle_error(self, request: object, client_address: object) -> None:
            """A client that was killed, or a server that is away."""

    listener = Listener(("127.0.0.1", 0), Handler)
    made = Proxy(f"http://127.0.0.1:{listener.server_port}", alter)
    thread = threading.Thread(target=listener.serve_forever, args=(0.05,), daemon=True)
    thread.start()
    try:
        yield made
    finally:
        listener.shutdown()
        listener.server_close()
        thread.join()
