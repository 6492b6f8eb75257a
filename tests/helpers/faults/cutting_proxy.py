"""A proxy before a real server that swallows the answer to one write, as if the client had been killed there."""

from __future__ import annotations

import contextlib
import http.client
import ssl
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import trustme

from helpers.faults import hostile_server
from helpers.faults.hostile_server import Guest
from helpers.faults.trusted_proxy import upwards
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
    address: str = ""
    ca_pem: str = ""
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

    def serve(self, guest: Guest) -> None:
        with upwards(self.server) as upstream, contextlib.suppress(http.client.HTTPException):
            while True:
                method, path, headers, body = guest.asked()
                with self.lock:
                    self.writes += method not in READS
                    at = self.part in path and not self.closed if self.part else self.writes == self.cut
                    last = method not in READS and at
                    if self.closed and not last:
                        guest.say(SEALED)
                        continue
                    # Before the write arrives, so that whatever other threads send afterwards is cut off too.
                    self.closed = self.closed or (last and not self.reopens)
                upstream.request(method, path, body, headers)
                if last and self.part and self.after is not None:
                    time.sleep(self.after)
                    return
                answer = upstream.getresponse()
                raw = answer.read()
                if last:
                    return
                kept = [f"{name}: {value}" for name, value in answer.getheaders() if name != "Transfer-Encoding"]
                kept = [line for line in kept if not line.lower().startswith("content-length")]
                kept += [] if answer.status == 204 else [f"Content-Length: {len(raw)}"]
                guest.say("\r\n".join([f"HTTP/1.1 {answer.status} x", *kept, "", ""]), raw)


@contextlib.contextmanager
def proxied(server: Server) -> Iterator[Proxy]:
    ca, context = trustme.CA(), ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    ca.issue_cert("127.0.0.1").configure_cert(context)
    proxy = Proxy(server, ca_pem=ca.cert_pem.bytes().decode())
    with hostile_server.serving(proxy.serve, tls=context) as running:
        proxy.address = running.address
        yield proxy
