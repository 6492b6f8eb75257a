"""Asks a listener what it presents: its certificates, and the names of the CAs whose clients it asks for.

The `openssl` program does it, since Python's `ssl` shows neither the chain after the leaf nor those names. No
client certificate is sent.
"""

from __future__ import annotations

import re
import subprocess
import threading
import time
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Final

from vaultpki.errors import CertificateUnreadable
from vaultpki.host import openssl
from vaultpki.pki.facts import Facts
from vaultpki.redact import printable
from vaultpki.values import hosts

# What a server sends is no longer than this; openssl itself takes at most 100 KiB of certificates.
_LARGEST: Final = 1024 * 1024
_MOST_NAMES: Final = 100
_LONGEST_NAME: Final = 200

_AT_ONCE: Final = 16

_CHAIN = re.compile(r"^Certificate chain\n(.*?)^---\n", re.MULTILINE | re.DOTALL)
_BLOCK = re.compile(r"^-----BEGIN CERTIFICATE-----\n[A-Za-z0-9+/=\n]+^-----END CERTIFICATE-----\n", re.MULTILINE)
_NAMES = re.compile(
    r"^Acceptable client certificate CA names\n(.*?)^(?:---|Client Certificate|Requested)", re.MULTILINE | re.DOTALL
)
_ASKED = re.compile(r"^(?:Requested Signature Algorithms|Client Certificate Types):", re.MULTILINE)


@dataclass(frozen=True, slots=True)
class Presented:
    """What a listener presents: the certificates in their order, and the subjects of its client CAs.

    `client_cas` is None if it asks for no client certificate. `unreadable` says why there are no certificates.
    """

    chain: tuple[Facts, ...]
    client_cas: tuple[str, ...] | None
    unreadable: str = ""


class NotReached(Exception):
    """The listener does not answer, or does not speak TLS; the message is the reason."""


def ask(address: str, port: int, name: str, seconds: float) -> Presented:
    """Make a handshake with `address` (a name or an IP address) without a pair, and return what was presented.

    `name` is the server name to send, empty for none. Raises NotReached, and ToolMissing without `openssl`.
    """
    command = [openssl.program(), "s_client", "-connect", f"{hosts.in_url(address)}:{port}"]
    command += ["-showcerts", "-verify_quiet"]
    command += ["-no-CAfile", "-no-CApath", "-no-CAstore", "-nameopt", "RFC2253,esc_ctrl,esc_msb"]
    command += ["-servername", name] if name else ["-noservername"]
    text = _run(command, seconds)
    found = _CHAIN.search(text)
    if found is None:
        raise NotReached("it does not answer with TLS" if "CONNECTED(" in text else "it cannot be reached")
    asked = _names(text)
    from vaultpki.pki import x509

    try:
        blocks = [block.encode() for block in _BLOCK.findall(found[1])]
        return Presented(tuple(x509.read_certificates(block)[0] for block in blocks), asked)
    except CertificateUnreadable as error:
        return Presented((), asked, str(error))


def ask_each(places: Mapping[str, tuple[str, int, str]], seconds: float, deadline: float) -> dict[str, Presented | str]:
    """Return what each listener presents by its label, or why that is not known.

    `places` are address, port and server name, as for `ask`, by label. Each has `seconds`; none is asked after
    `deadline` (monotonic seconds). Raises ToolMissing without `openssl`.
    """

    def one(place: tuple[str, int, str]) -> Presented | str:
        if time.monotonic() >= deadline:
            return "the time of this command is over"
        try:
            return ask(*place, seconds)
        except NotReached as error:
            return str(error)

    with ThreadPoolExecutor(_AT_ONCE) as pool:
        return dict(zip(places, pool.map(one, places.values()), strict=True))


def _names(text: str) -> tuple[str, ...] | None:
    if _ASKED.search(text) is None:
        return None
    found = _NAMES.search(text)
    lines = found[1].splitlines()[:_MOST_NAMES] if found is not None else []
    return tuple(printable(line[:_LONGEST_NAME]) for line in lines)


def _run(command: list[str], seconds: float) -> str:
    with subprocess.Popen(
        command, env=openssl.environment(), stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
    ) as running:
        late = threading.Event()

        def end() -> None:
            late.set()
            running.kill()

        timer = threading.Timer(seconds, end)
        timer.start()
        try:
            data = running.stdout.read(_LARGEST) if running.stdout is not None else b""
            running.kill()
        finally:
            timer.cancel()
    if late.is_set():
        raise NotReached(f"it does not answer within {seconds:g} s")
    return data.decode("utf-8", "replace")
