"""Where the server is, and the token, namespace and TLS settings: as Vault's own CLI reads them."""

from __future__ import annotations

import os
import re
import ssl
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final
from urllib.parse import quote

from vaultpki.errors import ArgumentError, SpecError
from vaultpki.redact import printable
from vaultpki.values import input_file

# A system's whole set of CAs is a few hundred KiB.
_LARGEST_PEM: Final = 4 * 1024 * 1024
_LARGEST_TOKEN_FILE: Final = 64 * 1024


@dataclass(frozen=True, slots=True)
class Settings:
    """How to reach the server, and with which token. `ca_pem` or `ca_file` replaces the system's CAs.

    `token` may be empty. `ca_hint` and `namespace_hint` say what to do if no given CA signed the server's
    certificate, and if it has no such namespace: that depends on where these came from. `address_variable` is the
    environment variable that named the address; empty if none did.
    """

    addresses: tuple[str, ...]
    ca_file: str | None = None
    ca_pem: str | None = None
    token: str = field(default="", repr=False)
    namespace: str | None = None
    client_certificate: str | None = None
    client_key: str | None = None
    server_name: str | None = None
    allow_http: bool = False
    ca_hint: str = "give its CA as vault.ca_file or VAULT_CACERT"
    namespace_hint: str = "look at vault.namespace in cluster.yaml and at VAULT_NAMESPACE, or make it first"
    address_variable: str = ""

    def __post_init__(self) -> None:
        # Both become header lines.
        if not re.fullmatch(r"[\x21-\x7e]{0,4096}", self.token):
            raise ArgumentError(
                "the Vault token holds characters that no token has; look at VAULT_TOKEN or ~/.vault-token"
            )
        if self.namespace is not None and not re.fullmatch(r"[\x21-\x7e]{1,1024}", self.namespace):
            raise ArgumentError("the Vault namespace holds characters that no namespace has; look at VAULT_NAMESPACE")


def from_environment(
    environment: Mapping[str, str] = os.environ,
    *,
    addresses: tuple[str, ...] = (),
    ca_pem: str | None = None,
    allow_http: bool = False,
    with_token: bool = True,
) -> Settings:
    """Return the settings as Vault's own CLI reads them; VAULT_ before BAO_, and the arguments before both.

    Raises ArgumentError for an unusable variable, and SpecError if a file named cannot be used.
    """

    def setting(name: str) -> str | None:
        return environment.get(f"VAULT_{name}") or environment.get(f"BAO_{name}") or None

    found = setting("ADDR")
    token = ""
    if with_token:
        token = setting("TOKEN") or _token_file(environment)
    return Settings(
        addresses=addresses or ((found,) if found else ()),
        ca_file=None if ca_pem else setting("CACERT"),
        ca_pem=ca_pem,
        token=token,
        namespace=setting("NAMESPACE"),
        client_certificate=setting("CLIENT_CERT"),
        client_key=setting("CLIENT_KEY"),
        server_name=setting("TLS_SERVER_NAME"),
        allow_http=allow_http,
        address_variable="" if addresses or not found else _variable(environment, "ADDR"),
    )


def _variable(environment: Mapping[str, str], name: str) -> str:
    return f"VAULT_{name}" if environment.get(f"VAULT_{name}") else f"BAO_{name}"


def _token_file(environment: Mapping[str, str]) -> str:
    home = environment.get("HOME")
    if not home:
        return ""
    try:
        data, _ = input_file.read(Path(home) / ".vault-token", _LARGEST_TOKEN_FILE)
        return data.decode("ascii").strip()[:4097]
    except (OSError, ValueError):
        return ""


def namespace_path(namespace: str | None) -> str:
    """Return the namespace as a URL's path names it, without slashes at its ends; empty for none.

    The top one is `root` in the header, and has no name in a path.
    """
    path = (namespace or "").strip("/")
    return "" if path == "root" else quote(path)


def tls_context(settings: Settings) -> ssl.SSLContext:
    """Return a context for TLS 1.2 or newer that verifies against the given CA.

    Without one the system's CAs are used, or those of SSL_CERT_FILE and SSL_CERT_DIR, as in Vault's CLI. Raises
    SpecError if a file cannot be used.
    """
    # Not ssl.create_default_context: it writes the keys of every connection where SSLKEYLOGFILE says.
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    # As Go, and so Vault's CLI: a server is who its subject alternative names say, never its common name.
    context.hostname_checks_common_name = False
    # As Vault's CLI: an intermediate in the CA file is enough.
    context.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN
    try:
        if settings.ca_pem:
            context.load_verify_locations(cadata=settings.ca_pem)
        elif settings.ca_file:
            # Looked at first, here and below: OpenSSL would wait for a FIFO for ever.
            input_file.read(settings.ca_file, _LARGEST_PEM)
            context.load_verify_locations(cafile=settings.ca_file)
        else:
            context.load_default_certs()
    except (OSError, ValueError):
        where = settings.ca_file or "the CA in vault.ca_file, or in the join file,"
        raise SpecError(f"{printable(where)} cannot be used as a CA file; it must hold PEM certificates") from None
    if settings.client_certificate:
        try:
            for path in filter(None, (settings.client_certificate, settings.client_key)):
                input_file.read(path, _LARGEST_PEM)
            # The empty password keeps OpenSSL from asking for one on the terminal.
            context.load_cert_chain(settings.client_certificate, settings.client_key, password="")
        except (OSError, ValueError):
            raise SpecError(
                f"{printable(settings.client_certificate)} cannot be used as a client certificate; it and its key must "
                "be PEM files, and the key not encrypted"
            ) from None
    return context
