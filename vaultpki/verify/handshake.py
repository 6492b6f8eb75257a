"""Makes TLS handshakes in memory between two pairs of a cluster: both sides finish, and a byte goes each way."""

from __future__ import annotations

import ssl
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Final

# A handshake needs four turns with TLS 1.3 and five with 1.2; one that takes more never ends.
_TURNS: Final = 16


def context(
    *, server: bool, pair: tuple[Path, Path] | None, trusted: Sequence[Path], names: bool = False
) -> ssl.SSLContext:
    """Make one side of a handshake: its pair (certificate and key file), and the bundles that the other must chain to.

    Without bundles the other side's certificate is not verified. `names` says whether a client checks the name of the
    server. Raises `ssl.SSLError` or OSError for files that TLS cannot use.
    """
    made = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER if server else ssl.PROTOCOL_TLS_CLIENT)
    made.minimum_version = ssl.TLSVersion.TLSv1_2
    made.check_hostname = names
    made.verify_mode = ssl.CERT_REQUIRED if trusted else ssl.CERT_NONE
    # A bundle holds issuing CAs and no root; in a cluster Go, which reads the same bundles, ends its chains there too.
    made.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN | ssl.VERIFY_X509_STRICT
    if not server:
        # Go checks SANs only.
        made.hostname_checks_common_name = False
    for bundle in trusted:
        made.load_verify_locations(cafile=bundle)
    if pair is not None:
        # Without a password OpenSSL would ask for that of an encrypted key on the terminal.
        made.load_cert_chain(pair[0], pair[1], password="")
    return made


def shake(server: ssl.SSLContext, client: ssl.SSLContext, name: str | None = None) -> str:
    """Return the empty string if both sides accept, otherwise which side refused and why.

    `name` is the DNS name or IP address that the client connects to. With TLS 1.3 a client has finished before the
    server has its certificate, so only the bytes after the handshake show the outcome (RFC 8446, section 4.4.2.4).
    """
    up, down = ssl.MemoryBIO(), ssl.MemoryBIO()
    try:
        caller = client.wrap_bio(down, up, server_hostname=name)
        answerer = server.wrap_bio(up, down, server_side=True)
    except ValueError:
        return f"the client cannot connect to the name {name!r}"
    sides = {
        "client": _side((caller.do_handshake, lambda: caller.write(b"?"), lambda: caller.read(1))),
        "server": _side((answerer.do_handshake, lambda: answerer.read(1), lambda: answerer.write(b"!"))),
    }
    for _ in range(_TURNS):
        for who in tuple(sides):
            try:
                if next(sides[who], True):
                    del sides[who]
            except ssl.SSLError as error:
                return f"the {who} refuses: {reason(error)}"
        if not sides:
            return ""
    return "neither side finishes the handshake"


def reason(error: OSError) -> str:
    """Return OpenSSL's words for an error of this module's functions."""
    if isinstance(error, ssl.SSLCertVerificationError):
        return error.verify_message.rstrip(".")
    if isinstance(error, ssl.SSLError):
        return (error.reason or str(error)).replace("_", " ").lower()
    return error.strerror or str(error)


def _side(steps: Sequence[Callable[[], object]]) -> Iterator[bool]:
    for step in steps:
        while True:
            try:
                step()
                break
            except ssl.SSLWantReadError:
                yield False
