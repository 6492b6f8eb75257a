"""Real TLS clients, each with the bundle that it is given, and a server that serves a certificate: who accepts whom."""

from __future__ import annotations

import contextlib
import shutil
import socket
import ssl
import subprocess
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Final

SECONDS: Final = 60


@contextlib.contextmanager
def listening(crt: Path, key: Path) -> Iterator[int]:
    """A TLS server on a port of this machine."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(crt, key)
    with socket.create_server(("127.0.0.1", 0)) as listener:
        stop = threading.Event()

        def answer() -> None:
            while not stop.is_set():
                with contextlib.suppress(OSError):
                    listener.settimeout(0.5)
                    one, _ = listener.accept()
                    one.settimeout(SECONDS)
                    with contextlib.closing(one), context.wrap_socket(one, server_side=True) as tls:
                        tls.recv(4096)
                        tls.sendall(b"HTTP/1.0 200 OK\r\nContent-Length: 2\r\n\r\nok")
                        # OpenSSL and GnuTLS call it an error if the other side just goes.
                        tls.unwrap()

        thread = threading.Thread(target=answer, daemon=True)
        thread.start()
        try:
            yield listener.getsockname()[1]
        finally:
            stop.set()
            thread.join()


def ran(*words: str | Path, text: str = "GET / HTTP/1.0\r\n\r\n", folder: Path | None = None) -> bool:
    done = subprocess.run(
        list(map(str, words)), input=text, text=True, capture_output=True, timeout=SECONDS, check=False, cwd=folder
    )
    return done.returncode == 0


def python(port: int, bundle: Path, flags: int) -> bool:
    context = ssl.create_default_context(cafile=str(bundle))
    context.verify_flags |= flags
    try:
        with (
            socket.create_connection(("127.0.0.1", port), SECONDS) as plain,
            context.wrap_socket(plain, server_hostname="localhost") as tls,
        ):
            tls.sendall(b"GET / HTTP/1.0\r\n\r\n")
            return tls.recv(1) == b"H"
    except ssl.SSLCertVerificationError:
        return False


def openssl(port: int, bundle: Path, *options: str) -> bool:
    return ran(
        *("openssl", "s_client", "-connect", f"127.0.0.1:{port}", "-verify_return_error", "-x509_strict", "-quiet"),
        *("-no-CApath", "-no-CAstore", "-verify_hostname", "localhost", "-CAfile", str(bundle), *options),
    )


NODE_JS = """
const tls = require('tls'), fs = require('fs'), [port, ca] = process.argv.slice(1);
const one = tls.connect({host: '127.0.0.1', port: +port, servername: 'localhost', ca: fs.readFileSync(ca)},
  () => process.exit(one.authorized ? 0 : 1));
one.on('error', () => process.exit(1));
"""
GO = """package main
import ("crypto/tls"; "crypto/x509"; "os")
func main() {
  pem, _ := os.ReadFile(os.Args[2])
  pool := x509.NewCertPool()
  pool.AppendCertsFromPEM(pem)
  one, err := tls.Dial("tcp", "127.0.0.1:"+os.Args[1], &tls.Config{RootCAs: pool, ServerName: "localhost"})
  if err != nil { os.Exit(1) }
  one.Write([]byte("GET / HTTP/1.0\\r\\n\\r\\n"))
  one.Close()
}
"""

STRICT: Final = ssl.VERIFY_X509_STRICT | ssl.VERIFY_X509_PARTIAL_CHAIN
# Whether the bundle with issuing CAs alone is enough; that with the chain is enough for everybody.
CLIENTS: Final[dict[str, tuple[str, bool, Callable[[int, Path], bool]]]] = {
    "openssl": ("openssl", False, openssl),
    "openssl -partial_chain": ("openssl", True, lambda port, path: openssl(port, path, "-partial_chain")),
    "Python before 3.13": ("openssl", False, lambda port, path: python(port, path, 0)),
    "Python from 3.13": ("openssl", True, lambda port, path: python(port, path, STRICT)),
    "curl": (
        "curl",
        True,
        lambda port, path: ran(
            *("curl", "-sS", "--cacert", path, "--resolve", f"localhost:{port}:127.0.0.1", f"https://localhost:{port}/")
        ),
    ),
    "GnuTLS": (
        "gnutls-cli",
        True,
        lambda port, path: ran(
            *("gnutls-cli", "--x509cafile", path, "--verify-hostname", "localhost", "-p", str(port), "127.0.0.1")
        ),
    ),
    "Node": ("node", False, lambda port, path: ran("node", "-e", NODE_JS, str(port), path)),
}


def go_client(folder: Path) -> Callable[[int, Path], bool]:
    """A client in Go, built in this folder."""
    go = shutil.which("go") or "/usr/local/go/bin/go"
    (folder / "main.go").write_text(GO)
    subprocess.run([go, "build", "-o", "client", "main.go"], cwd=folder, check=True, timeout=600)
    return lambda port, path: ran(folder / "client", str(port), path)
