"""Where the server is and as whom we come: Vault's own environment, TLS, and the refusal of open http."""

from __future__ import annotations

import os
import re
import ssl
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import urlsplit

from vaultpki.errors import SpecError
from vaultpki.vault.wire import printable


@dataclass(frozen=True, slots=True)
class Settings:
    """How to reach the server and as whom. `ca_pem` or `ca_file` replaces the system's CAs; `token` may be empty."""

    addresses: tuple[str, ...]
    ca_file: str | None = None
    ca_pem: str | None = None
    token: str = field(default="", repr=False)
    namespace: str | None = None
    client_certificate: str | None = None
    client_key: str | None = None
    server_name: str | None = None
    allow_http: bool = False


def from_environment(
    environment: Mapping[str, str] = os.environ,
    *,
    addresses: tuple[str, ...] = (),
    ca_pem: str | None = None,
    allow_http: bool = False,
    with_token: bool = True,
) -> Settings:
    """The settings as Vault's own CLI would take them; VAULT_ before BAO_, and the arguments before both.

    Raises SpecError where no address is known or a file named cannot be used.
    """

    def setting(name: str) -> str | None:
        return environment.get(f"VAULT_{name}") or environment.get(f"BAO_{name}") or None

    found = setting("ADDR")
    token = ""
    if with_token:
        token = setting("TOKEN") or _token_file(environment)
        if not re.fullmatch(r"[\x21-\x7e]{0,4096}", token):
            raise SpecError("the Vault token holds characters that no token has; look at VAULT_TOKEN or ~/.vault-token")
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
    )


def _token_file(environment: Mapping[str, str]) -> str:
    home = environment.get("HOME")
    if not home:
        return ""
    try:
        return (Path(home) / ".vault-token").read_text(encoding="ascii").strip()[:4097]
    except (OSError, UnicodeDecodeError):
        return ""


def parse_origin(address: str, *, allow_http: bool) -> str:
    """`scheme://host:port` of an address a person wrote; SpecError where it is none, or open http off loopback."""
    try:
        parts = urlsplit(address)
        port = parts.port
    except ValueError:
        raise SpecError(f"{address!r} is no Vault address; write https://HOST:PORT") from None
    host = parts.hostname
    if parts.scheme not in ("http", "https") or not host or parts.username is not None or parts.path not in ("", "/"):
        raise SpecError(f"{printable(address)!r} is no Vault address; write https://HOST:PORT")
    loopback = host in ("localhost", "::1") or host.startswith("127.")
    if parts.scheme == "http" and not loopback and not allow_http:
        raise SpecError(
            f"{address} is plain http: tokens would cross the network in the open; use https, or --allow-http"
        )
    shown = f"[{host}]" if ":" in host else host
    return f"{parts.scheme}://{shown}:{port or (443 if parts.scheme == 'https' else 80)}"


def tls_context(settings: Settings) -> ssl.SSLContext:
    """TLS 1.2 or newer, verifying against the CA given; SpecError where a file named cannot be used."""
    try:
        if settings.ca_pem:
            context = ssl.create_default_context(cadata=settings.ca_pem)
        elif settings.ca_file:
            context = ssl.create_default_context(cafile=settings.ca_file)
        else:
            context = ssl.create_default_context()
    except (OSError, ssl.SSLError, ValueError):
        where = settings.ca_file or "the CA in vault.ca_file"
        raise SpecError(f"{where} cannot be used as a CA file; it must hold PEM certificates") from None
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    if settings.client_certificate:
        try:
            context.load_cert_chain(settings.client_certificate, settings.client_key)
        except (OSError, ssl.SSLError):
            raise SpecError(
                f"{settings.client_certificate} cannot be used as a client certificate; it and its key must be PEM files"
            ) from None
    return context
