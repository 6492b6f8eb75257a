"""Messages that say in one sentence why a connection to a server failed, and what to do."""

from __future__ import annotations

import socket
import ssl
from typing import Final

from vaultpki.errors import BadAnswer, Unavailable, Untrusted, VaultError
from vaultpki.redact import printable
from vaultpki.vault.settings import Settings

# X509_V_ERR_*, of OpenSSL's x509_vfy.h.
_NOT_YET_VALID: Final = 9
_EXPIRED: Final = 10
_OTHER_NAME: Final = frozenset({62, 64})

# Parts of OpenSSL's reasons (sslerr.h); which one comes depends on its version and on the first bytes of the answer.
_NO_TLS: Final = ("WRONG_VERSION_NUMBER", "HTTP_REQUEST", "UNKNOWN_PROTOCOL", "RECORD_LAYER_FAILURE", "LENGTH_TOO_LONG")
_OLD_TLS: Final = ("PROTOCOL_VERSION", "UNSUPPORTED_PROTOCOL")
_NO_CLIENT: Final = ("HANDSHAKE_FAILURE", "CERTIFICATE_REQUIRED", "ALERT_BAD_CERTIFICATE", "ALERT_UNKNOWN_CA")


def unreachable(origin: str, error: Exception, settings: Settings) -> VaultError:
    """Return the error to raise if no connection to `origin` comes up: Untrusted or Unavailable."""
    if isinstance(error, ssl.SSLCertVerificationError):
        return Untrusted(
            f"the TLS certificate of {origin} does not verify ({error.verify_message.rstrip('.')}); "
            f"{_distrust(origin, error, settings)}"
        )
    if isinstance(error, TimeoutError):
        return Unavailable(f"{origin} does not answer; check the address, and any firewall in between")
    if isinstance(error, ssl.SSLError):
        return Unavailable(_handshake(origin, error))
    if isinstance(error, socket.gaierror):
        what = "check the host name"
    elif isinstance(error, ConnectionRefusedError):
        what = "check that Vault runs there, and the port"
    else:
        what = "check the address, and the network in between"
    return Unavailable(f"{origin} cannot be reached ({_cause(error)}); {what}")


def broken_off(origin: str, error: OSError) -> VaultError:
    """Return the error to raise if the connection failed before an answer was whole."""
    if _has(error, _NO_CLIENT):
        # With TLS 1.3 a server looks at the client's certificate when the handshake is done for the client (RFC 8446).
        return Unavailable(_handshake(origin, error))
    return Unavailable(f"the answer of {origin} broke off ({_cause(error)})", sent=True)


def no_http(origin: str, unread: bytes, ended: bool) -> VaultError:
    """Return the error to raise if what came is not a whole HTTP response.

    `unread` is what could not be read, `ended` whether the server closed the connection.
    """
    # A TLS alert: content type 21, major version 3 (RFC 8446, 5.1).
    if unread.startswith(b"\x15\x03"):
        return speaks_tls(origin)
    if ended:
        return Unavailable(f"the answer of {origin} broke off (connection closed)", sent=True)
    return Unavailable(
        f"{origin} did not answer in valid HTTP/1.1; check the address and any proxy in between", sent=True
    )


def speaks_tls(origin: str) -> BadAnswer:
    """Return the error to raise if plain http was sent to a TLS port."""
    return BadAnswer(f"the port of {origin} speaks TLS; write https:// instead of http://")


def _distrust(origin: str, error: ssl.SSLCertVerificationError, settings: Settings) -> str:
    if error.verify_code == _EXPIRED:
        return "renew it on the server, and check this machine's clock"
    if error.verify_code == _NOT_YET_VALID:
        return "check this machine's clock, and the server's"
    if error.verify_code in _OTHER_NAME:
        name = settings.server_name or origin.partition("://")[2].rpartition(":")[0].strip("[]")
        return (
            f"it has no subject alternative name {printable(name)} (a common name does not count). Use an address that "
            "it names, set VAULT_TLS_SERVER_NAME to a name in it, or give Vault a certificate with that name"
        )
    return settings.ca_hint


def _handshake(origin: str, error: Exception) -> str:
    if _has(error, _NO_TLS):
        return f"{origin} does not speak TLS; check the port, and write http:// only for a Vault on this machine"
    if _has(error, _OLD_TLS):
        return f"{origin} offers no TLS 1.2 or newer; change tls_min_version or tls_max_version on the server"
    if _has(error, _NO_CLIENT):
        return (
            f"{origin} refuses the TLS connection ({_cause(error)}); if it asks for a client certificate, set "
            "VAULT_CLIENT_CERT and VAULT_CLIENT_KEY"
        )
    return f"{origin} cannot be reached ({_cause(error)}); check that the port is Vault's"


def _has(error: Exception, reasons: tuple[str, ...]) -> bool:
    reason = getattr(error, "reason", None) or ""
    return isinstance(error, ssl.SSLError) and any(part in reason for part in reasons)


def _cause(error: Exception) -> str:
    """Return a few words for why the network failed."""
    return printable(getattr(error, "strerror", None) or type(error).__name__)
