"""Run one checkout as a user would, against a fresh server behind a proxy that records every request.

Nothing of the product is imported: all is done by its command line, so that any two versions can be compared.
"""

from __future__ import annotations

import contextlib
import http.client
import itertools
import os
import re
import subprocess
import threading
import time
import urllib.parse
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from compare.normal import Block, Normaliser, parsed

ROOT_TOKEN = "root-of-the-comparison"
START_SECONDS = 60.0
COMMAND_SECONDS = 180.0
# The shortest that agent.yaml takes, in seconds.
POLL = 10
# Headers that change what a request means.
HEADERS = ("X-Vault-Token", "X-Vault-Namespace", "X-Vault-Wrap-TTL", "X-Vault-Wrap-Format", "Authorization")
# Headers of one connection, which the proxy makes itself.
OF_THE_CONNECTION = frozenset({"connection", "content-length", "host", "keep-alive", "transfer-encoding"})

SPEC = """\
cluster: demo
api_server:
  endpoint: https://api.example.com:6443
  names: [api.example.com]
  addresses: [10.0.0.10]
nodes:
- {name: cp-1, roles: [control-plane, etcd], addresses: [10.0.0.11, "fd00::11"]}
- {name: worker-1, roles: [worker], addresses: [10.0.0.21]}
pools:
- {name: autoscaled, roles: [worker], node_names: "w-*"}
certificates:
  kube-apiserver: {ttl: 7d, extra_names: [api.internal], extra_addresses: [192.0.2.10]}
  etcd-server: {key: ec-p384}
  kubelet: {extra_names: [kubelet.internal]}
  monitoring:
    kind: client
    common_name: monitoring
    ca: kubernetes
    roles: [worker, control-plane]
    organization: ["system:monitoring"]
    kubeconfig: monitoring.conf
templates:
  audit: {file: audit.yaml, template: audit.yaml.tmpl, roles: [control-plane, worker]}
"""
# A TTL, names that are added and taken away, a row that goes, a template and an own row that change.
CHANGED = (
    ("ttl: 7d, extra_names: [api.internal]", "ttl: 6d, extra_names: [api.internal, api2.internal]"),
    ("  kubelet: {extra_names: [kubelet.internal]}\n", "  kubelet: {ttl: 20d}\n"),
    ("  etcd-server: {key: ec-p384}\n", ""),
    ("common_name: monitoring\n", "common_name: monitor\n"),
)
TEMPLATE = "node: ${node.json}\nserver: ${endpoint}\ntrust: ${directory}/kubernetes-ca-chain.crt\n"
# Appended to agent.yaml after the second pass; the hook writes down what it was told.
LOCAL = """\
poll: {poll}s
hooks:
  kubelet: [[/bin/sh, -c, 'echo "kubelet: $VAULTPKI_CHANGED" >> {folder}/hook.txt']]
  kube-apiserver: [[/bin/sh, -c, 'echo "api: $VAULTPKI_CHANGED $VAULTPKI_DIRECTORY" >> {folder}/hook.txt']]
"""


@dataclass(frozen=True, slots=True)
class Request:
    """One request as it came, and the answer; `begun` and `ended` are seconds of the monotonic clock."""

    connection: int
    begun: float
    ended: float
    method: str
    path: str
    headers: dict[str, str]
    body: bytes
    status: int
    answer: bytes

    def block(self, normaliser: Normaliser) -> Block:
        path, _, query = self.path.partition("?")
        parameters = sorted(urllib.parse.parse_qsl(query, keep_blank_values=True))
        # The servers take PUT as POST, and a GET with list=true as a LIST.
        method = "POST" if self.method == "PUT" else self.method
        if method == "GET" and ("list", "true") in parameters:
            method = "LIST"
            parameters.remove(("list", "true"))
        said = "".join(f" {name}={value}" for name, value in parameters)
        headers = [f"{name}: {normaliser.text(value)}" for name, value in self.headers.items()]
        # An empty object and no body mean the same.
        body = () if self.body in {b"", b"{}"} else normaliser.lines(self.body)
        return f"{method} {normaliser.text(path + said)}", (*headers, *body, f"-> {self.status}")


def sequential(requests: list[Request]) -> bool:
    """Return whether each connection was used only after the one before, so that the order is no chance."""
    spans: dict[int, tuple[float, float]] = {}
    for each in requests:
        begun, ended = spans.get(each.connection, (each.begun, each.ended))
        spans[each.connection] = (min(begun, each.begun), max(ended, each.ended))
    return all(one[1] <= other[0] for one, other in itertools.pairwise(sorted(spans.values())))


@dataclass(frozen=True, slots=True)
class Step:
    """What one command did, as it came; `tree` is path -> (facts, content)."""

    name: str
    exit: int
    stdout: bytes
    stderr: bytes
    requests: list[Request]
    tree: dict[str, tuple[str, bytes]]
    machine_read: bool

    def sections(self, normaliser: Normaliser) -> dict[str, list[Block]]:
        """Return what is compared, by section; `text` is only what people read."""
        # An agent sends its CSRs in parallel, and everything else in order.
        ordered = [request for request in self.requests if "/sign/" not in request.path]
        order = tuple(request.block(normaliser)[0] for request in ordered)
        spoken = [("stdout", normaliser.lines(self.stdout)), ("stderr", normaliser.lines(self.stderr))]
        return {
            "exit": [("exit code", (str(self.exit),))],
            "requests": [request.block(normaliser) for request in self.requests],
            "order": [("order", order)] if sequential(ordered) else [],
            "stdout": spoken[:1] if self.machine_read else [],
            "tree": [
                (normaliser.text(path), (normaliser.text(facts), *normaliser.lines(content)))
                for path, (facts, content) in self.tree.items()
            ],
            "text": spoken[1:] if self.machine_read else spoken,
        }


@dataclass(slots=True)
class Side:
    """One checkout before its server at `address`, whose requests come into `requests`.

    A `strict` one fails where a command ends with another code than the run is written for.
    """

    checkout: Path
    python: str
    folder: Path
    address: str
    requests: list[Request]
    strict: bool
    steps: list[Step] = field(default_factory=list)

    def run(self, name: str, *arguments: str, tree: str = "", node: bool = False, expect: int = 0) -> None:
        """Run one command. `tree` is the folder below ours to look at afterwards; a node has no token of a person."""
        environment = {"PATH": os.environ["PATH"], "PYTHONPATH": str(self.checkout), "LC_ALL": "C.UTF-8"}
        environment["HOME"] = str(self.folder)
        if not node:
            environment |= {"VAULT_ADDR": self.address, "VAULT_TOKEN": ROOT_TOKEN}
        ran = subprocess.run(
            [self.python, "-m", "vaultpki", *arguments],
            cwd=self.folder,
            env=environment,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            check=False,
            timeout=COMMAND_SECONDS,
            umask=0o022,
        )
        if self.strict and ran.returncode != expect:
            raise SystemExit(f"{name}: exit {ran.returncode}, not {expect}\n{ran.stdout.decode()}{ran.stderr.decode()}")
        requests = sorted(self.requests, key=lambda each: each.begun)
        self.requests.clear()
        found = _tree(self.folder / tree) if tree else {}
        machine_read = "--json" in arguments or arguments[0] in {"policy", "schema"}
        self.steps.append(Step(name, ran.returncode, ran.stdout, ran.stderr, requests, found, machine_read))

    def agent(self, name: str, node: str, *arguments: str) -> None:
        """Run one pass of the node's agent."""
        self.run(name, "agent", "-c", f"{node}/agent.yaml", "--once", *arguments, tree=node, node=True)

    def play(self) -> None:
        """Run every command there is to compare, in the order of a cluster's life."""
        spec = self.folder / "cluster.yaml"
        spec.write_text(SPEC)
        (self.folder / "audit.yaml.tmpl").write_text(TEMPLATE)
        for name in ("joins", "cp-1", "w-1"):
            (self.folder / name).mkdir()
        self.run("schema", "schema")
        self.run("policy applier", "policy", "applier")
        self.run("policy enroller", "policy", "enroller")
        self.run("plan of an empty server", "plan", "--detailed-exitcode", expect=4)
        self.run("plan --json of an empty server", "plan", "--json")
        self.run("apply", "apply", "--yes")
        self.run("plan with nothing to do", "plan", "--detailed-exitcode")
        self.run("apply with nothing to do", "apply", "--yes", "--json")

        self.run("enroll cp-1", "enroll", "cp-1", "-o", "joins/cp-1.json", tree="joins")
        self.run("enroll w-1", "enroll", "w-1", "--pool", "autoscaled", "-o", "joins/w-1.json", tree="joins")
        for node in ("cp-1", "w-1"):
            join = ("--join", f"joins/{node}.json", "--dir", f"{self.folder}/{node}/pki")
            self.agent(f"first pass of {node}", node, *join)
            self.agent(f"second pass of {node}", node)
            config = self.folder / node / "agent.yaml"
            local = LOCAL.format(poll=POLL, folder=self.folder / node)
            # Missing where the join failed, which the comparison shall show.
            if config.exists():
                config.write_text(re.sub(r"(?m)^poll:.*\n", "", config.read_text()) + local)
        passed = time.monotonic()
        self.run("enroll --all", "enroll", "--all", "-o", "joins", tree="joins", expect=3)

        text = spec.read_text()
        for old, new in CHANGED:
            assert old in text, old
            text = text.replace(old, new)
        spec.write_text(text)
        self.run("plan of a change", "plan", "--json", "--detailed-exitcode", expect=4)
        self.run("apply of a change", "apply", "--yes", "--json")
        time.sleep(max(0.0, passed + POLL + 1 - time.monotonic()))
        for node in ("cp-1", "w-1"):
            self.agent(f"pass of {node} after a change", node)
        self.run("renew kubelet", "renew", "-c", "w-1/agent.yaml", "kubelet", tree="w-1", node=True)
        self.run("status of cp-1", "status", "-c", "cp-1/agent.yaml", "--json", node=True)
        self.run("status of a folder", "status", "--dir", "w-1/pki", "--json", node=True)
        self.run("issue admin", "issue", "admin", "--dir", "operator", tree="operator")
        self.run("nodes", "nodes", "--json")

        self.run("lock cp-1", "lock", "cp-1")
        self.run(
            "renew of a locked node", "renew", "-c", "cp-1/agent.yaml", "etcd-peer", tree="cp-1", node=True, expect=1
        )
        self.run("unenroll w-1", "unenroll", "w-1")
        # w-1 has ended, and nobody who is locked has a credential: both need attention.
        self.run("nodes at the end", "nodes", "--json", expect=3)
        self.run("destroy", "destroy", "--confirm", "demo")
        self.run("plan after destroy", "plan", "--json")

    def normaliser(self) -> Normaliser:
        """Return a normaliser that knows all random values of this run."""
        known = {self.address.removeprefix("http://"): "<server>", str(self.folder): "<folder>"}
        made = Normaliser(known | {ROOT_TOKEN: "<root token>"})
        for step in self.steps:
            for content in (*(each.answer for each in step.requests), *(content for _, content in step.tree.values())):
                made.learn(parsed(content))
        return made


def _tree(folder: Path) -> dict[str, tuple[str, bytes]]:
    """Return all below a folder: type, mode and owner, and what a file or link holds."""
    found = {}
    for path in sorted(folder.rglob("*")):
        about = path.lstat()
        facts = f"{about.st_mode:06o} {about.st_uid}:{about.st_gid}"
        if path.is_symlink():
            found[str(path.relative_to(folder))] = (f"{facts} link to {os.readlink(path)}", b"")
        else:
            found[str(path.relative_to(folder))] = (facts, path.read_bytes() if path.is_file() else b"")
    return found


@contextlib.contextmanager
def recording(port: int) -> Iterator[tuple[str, list[Request]]]:
    """Run a proxy before the server at this port of loopback; yields its address, and the list it writes down in."""
    requests: list[Request] = []

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        # Else each answer waits for the acknowledgement of its head.
        disable_nagle_algorithm = True

        def handle(self) -> None:
            self.above = http.client.HTTPConnection("127.0.0.1", port, timeout=COMMAND_SECONDS)
            with contextlib.closing(self.above):
                super().handle()

        def pass_on(self) -> None:
            begun = time.monotonic()
            assert "Transfer-Encoding" not in self.headers, "the proxy reads only bodies with a Content-Length"
            body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
            own = {name: value for name, value in self.headers.items() if name.lower() not in OF_THE_CONNECTION}
            self.above.request(self.command, self.path, body or None, own)
            answer = self.above.getresponse()
            content = answer.read()
            # A PATCH says in its type how it is meant.
            counting = (*HEADERS, "Content-Type") if self.command == "PATCH" else HEADERS
            meant = {name: self.headers[name] for name in counting if name in self.headers}
            told = (self.command, self.path, meant, body, answer.status, content)
            requests.append(Request(self.client_address[1], begun, time.monotonic(), *told))
            self.send_response_only(answer.status)
            for name, value in answer.getheaders():
                if name.lower() not in OF_THE_CONNECTION:
                    self.send_header(name, value)
            if answer.status != http.HTTPStatus.NO_CONTENT:
                self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        def log_message(self, *_: Any) -> None:
            pass

    for method in ("GET", "LIST", "POST", "PUT", "PATCH", "DELETE", "HEAD"):
        setattr(Handler, f"do_{method}", Handler.pass_on)
    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as proxy:
        threading.Thread(target=proxy.serve_forever, daemon=True).start()
        try:
            yield f"http://127.0.0.1:{proxy.server_address[1]}", requests
        finally:
            proxy.shutdown()


@contextlib.contextmanager
def serving(binary: str, port: int, folder: Path) -> Iterator[None]:
    """Run a server in memory at this port of loopback."""
    environment = {"PATH": os.defpath, "HOME": str(folder)}
    options = (f"-dev-root-token-id={ROOT_TOKEN}", f"-dev-listen-address=127.0.0.1:{port}", "-dev-no-store-token")
    with (folder / "server.log").open("wb") as log:
        server = subprocess.Popen(
            [binary, "server", "-dev", *options], env=environment, stdin=subprocess.DEVNULL, stdout=log, stderr=log
        )
        try:
            deadline = time.monotonic() + START_SECONDS
            while not _ready(port):
                assert server.poll() is None, (folder / "server.log").read_text()
                assert time.monotonic() < deadline, "the server did not start in time"
                time.sleep(0.05)
            yield
        finally:
            server.kill()
            server.wait()


def _ready(port: int) -> bool:
    """Return whether the server answers; the KV mount of a dev server is its last preparation."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=5)
    with contextlib.closing(connection), contextlib.suppress(OSError, http.client.HTTPException):
        connection.request("GET", "/v1/secret/config", headers={"X-Vault-Token": ROOT_TOKEN})
        return connection.getresponse().status == http.HTTPStatus.OK
    return False
