"""Asks TLS servers from which CAs they accept client certificates: the handshake says it (RFC 8446, 4.2.4 and 4.3.2).

It needs no certificate and sends no data. Servers written in Go, as etcd and the components of Kubernetes are, name all
CAs that they accept. The `openssl` program makes the handshake: Python's `ssl` does not show these names.
"""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Final

_CONNECT_SECONDS: Final = 3.0
_HANDSHAKE_SECONDS: Final = 10.0
_AT_ONCE: Final = 32
_HEADING: Final = "Acceptable client certificate CA names"
# What openssl prints after the names.
_AFTER: Final = ("Client Certificate Types:", "Requested Signature Algorithms:", "---")


@dataclass(frozen=True, slots=True)
class Listener:
    """A TLS server: the component `component` of the node `node`, at an IP address and a port."""

    node: str
    component: str
    address: str
    port: int


def accepted_cas(listeners: Sequence[Listener], seconds: float) -> dict[Listener, frozenset[str] | None]:
    """Return the subjects (RFC 2253) of the CAs whose client certificates each listener accepts.

    None stands for one that did not say: it could not be reached, named no CA, or `seconds` were over before.
    """
    deadline = time.monotonic() + seconds
    if not listeners or shutil.which("openssl") is None:
        return dict.fromkeys(listeners)
    with ThreadPoolExecutor(min(_AT_ONCE, len(listeners))) as pool:
        return dict(zip(listeners, pool.map(lambda each: _asked(each, deadline), listeners), strict=True))


def _asked(listener: Listener, deadline: float) -> frozenset[str] | None:
    left = deadline - time.monotonic()
    if left <= 0:
        return None
    try:
        # A listener that is not reachable from here costs no process.
        socket.create_connection((listener.address, listener.port), min(_CONNECT_SECONDS, left)).close()
    except OSError:
        return None
    host = f"[{listener.address}]" if ":" in listener.address else listener.address
    command = ["openssl", "s_client", "-connect", f"{host}:{listener.port}", "-noservername", "-nameopt", "RFC2253"]
    try:
        # Our environment may have a Vault token; a child does not get it. It ends with the end of its input.
        ran = subprocess.run(
            command,
            env={"PATH": os.environ.get("PATH", os.defpath), "LC_ALL": "C"},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            timeout=_HANDSHAKE_SECONDS,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    return _names(ran.stdout.decode(errors="replace")) or None


def _names(said: str) -> frozenset[str]:
    lines = said.splitlines()
    if _HEADING not in lines:
        return frozenset()
    names = lines[lines.index(_HEADING) + 1 :]
    end = next((place for place, line in enumerate(names) if line.startswith(_AFTER)), len(names))
    return frozenset(names[:end])
