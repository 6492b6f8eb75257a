"""A proxy before a real server that swallows the answer to one write, as if the client had been killed there."""

from __future__ import annotations

import contextlib
import http.client
import socket
import ssl
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import urlsplit

import trustme

from helpers.vault.applied_cluster import AppliedCluster, vaultpki
from helpers.vault.servers import Server

READS = ("GET", "LIST", "HEAD")
SEALED = b'HTTP/1.1 503 x\r\nContent-Length: 30\r\n\r\n{"errors":["Vault is sealed"]}'


@dataclass(slots=True)
class Proxy:
    """Stands before a server, with TLS of its own, and swallows the server's answer to write number `cut`.

    After that it answers every request as a sealed server would, so that the client gives up; with `reopens` it goes on
    as if nothing had been. With `part` it is the first write to a path that holds it, and the server itself is cut off
    `after` so many seconds, whatever it does then.
    """

    server: Server
    address: str
    ca_pem: str
    trust: ssl.SSLContext
    reopens: bool = False
    cut: int | None = None
    part: str = ""
    after: float | None = 0.0
    writes: int = 0
    closed: bool = False
    lock: threading.Lock = field(default_factory=threading.Lock, repr=False)

    def arm(self, cut: int | None, *, reopens: bool) -> None:
        with self.lock:
            self.cut, self.reopens, self.writes, self.closed = cut, reopens, 0, False

    def arm_within(self, part: str, after: float) -> None:
        self.arm(None, reopens=False)
        self.part, self.after = part, after

    def arm_at(self, part: str) -> None:
        """The server itself does all of the first write to a path that holds `part`, and its answer is lost."""
        self.arm(None, reopens=False)
        self.part, self.after = part, None

    def cut_off(self, cluster: AppliedCluster, *words: str | Path) -> None:
        """Run a command of the cluster's operator, which fails once this ends its connection to the server."""
        trust = cluster.folder / "proxy-ca.crt"
        trust.write_text(self.ca_pem)
        env = {**cluster.environment(), "VAULT_ADDR": self.address, "VAULT_CACERT": str(trust)}
        ran = vaultpki(*words, env=env, expect={0, 1})
        # It may have fewer writes.
        assert ran.returncode == (1 if self.closed else 0), ran

    def serve(self, client: ssl.SSLSocket) -> None:
        url = urlsplit(self.server.address)
        upstream = http.client.HTTPSConnection(url.hostname or "", url.port, context=self.trust)
        incoming = client.makefile("rb")
        try:
            while line := incoming.readline():
                method, path, _ = line.decode().split(" ")
                headers = http.client.parse_headers(incoming)
                body = incoming.read(int(headers.get("Content-Length") or 0))
                with self.lock:
                    self.writes += method not in READS
                    at = self.part in path and not self.closed if self.part else self.writes == self.cut
                    last = method not in READS and at
                    if self.closed and not last:
                        client.sendall(SEALED)
                        continue
                    # Before the write arrives, so that whatever other threads send afterwards is cut off too.
                    self.closed = self.closed or (last and not self.reopens)
                upstream.request(method, path, body, dict(headers.items()))
                if last and self.part and self.after is not None:
                    time.sleep(self.after)
                    return
                answer = upstream.getresponse()
                raw = answer.read()
                if last:
                    return
                kept = [f"{name}: {value}" for name, value in answer.getheaders() if name != "Transfer-Encoding"]
                kept = [line for line in kept if not line.lower().startswith("content-length")]
                length = "" if answer.status == 204 else f"Content-Length: {len(raw)}\r\n"
                head = f"HTTP/1.1 {answer.status} x\r\n{length}" + "".join(f"{line}\r\n" for line in kept) + "\r\n"
                client.sendall(head.encode() + raw)
        finally:
            incoming.close()
            upstream.close()


@contextlib.contextmanager
def proxied(server: Server) -> Iterator[Proxy]:
    ca = trustme.CA()
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    ca.issue_cert("127.0.0.1").configure_cert(context)
    ended = threading.Event()
    threads: list[threading.Thread] = []

    def meet(connection: socket.socket) -> None:
        with contextlib.suppress(OSError), context.wrap_socket(connection, server_side=True) as client:
            proxy.serve(client)

    def listen() -> None:
        while not ended.is_set():
            with contextlib.suppress(TimeoutError):
                connection, _ = listener.accept()
                connection.settimeout(60)
                threads.append(threading.Thread(target=meet, args=(connection,), daemon=True))
                threads[-1].start()

    with socket.create_server(("127.0.0.1", 0)) as listener:
        listener.settimeout(0.05)
        pem = ca.cert_pem.bytes().decode()
        trust = ssl.create_default_context(cafile=server.ca_file)
        proxy = Proxy(server, f"https://127.0.0.1:{listener.getsockname()[1]}", pem, trust)
        accepting = threading.Thread(target=listen, daemon=True)
        accepting.start()
        yield proxy
        ended.set()
        accepting.join()
