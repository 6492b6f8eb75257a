"""Asks a component of this node, at its own endpoint, whether it is healthy.

Where that is, is read from its flags. An answer is bounded in time and size.
"""

from __future__ import annotations

import http.client
import ipaddress
import re
import ssl
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final
from urllib.parse import urlsplit

from vaultpki.host import setting_files
from vaultpki.host.processes import Process
from vaultpki.kube import http_exchange
from vaultpki.kube.flags import COMPONENTS
from vaultpki.redact import printable
from vaultpki.values import hosts
from vaultpki.vault.sockets import connect

KNOWN: Final = frozenset(COMPONENTS)
"""The components that can be asked."""

_LARGEST: Final = 64 * 1024
_LONGEST: Final = 200

_NO_ADDRESS: Final = "its flags name no address at which it can be asked"

_LOOPBACK: Final = "127.0.0.1"
_EVERY: Final = ("", "0.0.0.0", "::")  # noqa: S104 - compared, not bound

_BLOCK = re.compile(r"-----BEGIN CERTIFICATE-----.*?-----END CERTIFICATE-----", re.DOTALL)
# One line for each check (apiserver pkg/server/healthz; etcd server/etcdserver/api/etcdhttp/health.go).
_FAILED = re.compile(r"^\[-\](\S+)", re.MULTILINE)


@dataclass(frozen=True, slots=True)
class _HealthEndpoint:
    """Where a component is asked: paths, each for versions without the one before, and the TLS settings to try."""

    origin: str
    paths: tuple[str, ...]
    contexts: tuple[ssl.SSLContext | None, ...] = (None,)

    @property
    def at(self) -> str:
        return urlsplit(self.origin).netloc


class _CannotAsk(Exception):
    """The component's settings leave nothing to ask; the message is the reason."""


def why_unhealthy(process: Process, timeout: float) -> str:
    """Return why a component is not healthy by its own endpoint, as a part of a sentence; "" if it is.

    `process` runs one of `KNOWN`; `timeout` is for all of it, in seconds. Never raises for what the component answers.
    """
    deadline = time.monotonic() + timeout
    try:
        endpoint = _ENDPOINTS[process.component](process)
    except _CannotAsk as error:
        return str(error)
    except ValueError:
        return _NO_ADDRESS
    return _told(endpoint.at, timeout, lambda: _probe(endpoint, deadline))


def why_unusable(server: str, ca_file: str, timeout: float) -> str:
    """Return why a client with this CA file cannot use the API server at a URL, as a part of a sentence; "" if it can.

    It makes a handshake and asks nothing; `timeout` is for all of it, in seconds. Never raises for what is answered.
    """
    try:
        tls = _context((ca_file,), None)
    except _CannotAsk:
        return f"{ca_file} has no certificate that can be used"
    # As client-go does, which a name that is missing in the certificate keeps away.
    tls.check_hostname = True
    parts = urlsplit(server)
    origin = f"{parts.scheme}://{hosts.in_url(parts.hostname or '')}:{parts.port or 443}"

    def handshake() -> str:
        connect(origin, tls, None, time.monotonic() + timeout).close()
        return ""

    return _told(parts.netloc, timeout, handshake)


def _told(at: str, timeout: float, ask: Callable[[], str]) -> str:
    """Return what `ask` returns, or in words why it could not."""
    try:
        return ask()
    except TimeoutError:
        return f"no whole answer from {at} within {timeout:g} s"
    except ssl.SSLCertVerificationError as error:
        return f"the certificate at {at} is not accepted ({_short(error.verify_message)})"
    except ssl.SSLError as error:
        return f"{at} ends the TLS connection ({_short(error.reason or type(error).__name__)})"
    except OSError:
        return f"nothing answers at {at}"
    except ValueError:
        return f"the answer of {at} is too large"
    except http.client.HTTPException:
        return f"the answer of {at} is not HTTP"


def _probe(endpoint: _HealthEndpoint, deadline: float) -> str:
    said = []
    for context in endpoint.contexts:
        status, problem = _answer(endpoint, context, deadline)
        if not problem:
            return ""
        said.append(problem)
        if status not in (http.HTTPStatus.UNAUTHORIZED, http.HTTPStatus.FORBIDDEN):
            break
    # What it says to the caller that it should know.
    return said[0]


def _answer(endpoint: _HealthEndpoint, context: ssl.SSLContext | None, deadline: float) -> tuple[int, str]:
    """Return the status of the first of the paths that is there, and what is wrong with it."""
    # Plain HTTP has no use for any.
    tls = context or ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    status, said = 0, ""
    for path in endpoint.paths:
        channel = connect(endpoint.origin, tls, None, deadline)
        try:
            status, body = http_exchange.get(channel, endpoint.at, path, {}, deadline, _LARGEST)
        finally:
            channel.close()
        said = "" if status == http.HTTPStatus.OK else f"{path} answers {status}{_failed_checks(body)}"
        if status != http.HTTPStatus.NOT_FOUND:
            break
    return status, said


def _failed_checks(body: bytes) -> str:
    """Return the checks that failed, in brackets, from the answer of an API server or of etcd."""
    names = _FAILED.findall(body.decode("utf-8", "replace"))
    return f" ({_short(', '.join(names))})" if names else ""


def _short(text: str) -> str:
    return printable(text)[:_LONGEST]


def _etcd(process: Process) -> _HealthEndpoint:
    flags = process.flags
    # With a file etcd ignores its flags.
    flags |= setting_files.etcd(flags.get("config-file", ""))
    # In this order: its own listener for probes; the one that serves HTTP apart from gRPC (etcd 3.5.11); the clients'.
    for name in ("listen-metrics-urls", "listen-client-http-urls", "listen-client-urls"):
        urls = [url for url in flags.get(name, "").split(",") if url.startswith(("http://", "https://"))]
        if urls:
            break
    else:
        # It is what etcd does without flags, and what one does whose settings are in its environment, for all we see.
        raise _CannotAsk(
            "its command line does not say where it listens: give it --listen-metrics-urls=http://127.0.0.1:2381"
        )
    best = min(urls, key=lambda url: (url.startswith("https"), urlsplit(url).hostname not in ("localhost", _LOOPBACK)))
    parts = urlsplit(best)
    tls = None
    if parts.scheme == "https":
        # What a node serves to itself has the node's own names, or none that we know: its CA, or the file that it is
        # in, is what counts.
        tls = _context((flags.get("trusted-ca-file"), flags.get("cert-file")), _pair(flags, "cert-file", "key-file"))
    # Both include a read that a quorum must agree to. `readyz` is there since etcd 3.4.29 and 3.5.11.
    return _HealthEndpoint(
        _origin(parts.scheme, parts.hostname or "", str(parts.port or "")), ("/readyz", "/health"), (tls,)
    )


def _api_server(process: Process) -> _HealthEndpoint:
    flags = process.flags
    # `/readyz` is for everybody who has a name, and for those without if they are let in (system:public-info-viewer).
    cas = (flags.get("client-ca-file"), flags.get("tls-cert-file"))
    pair = _pair(flags, "kubelet-client-certificate", "kubelet-client-key")
    contexts = (_context(cas, pair), *((_context(cas, None),) if pair else ()))
    return _HealthEndpoint(_secure(flags, 6443), ("/readyz",), contexts)


def _made_certificate(port: int) -> Callable[[Process], _HealthEndpoint]:
    def endpoint(process: Process) -> _HealthEndpoint:
        # These make their own certificate at each start, unless they are told otherwise. A probe of the kubelet's does
        # not verify it either, and it sends nothing that is secret.
        tls = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        tls.check_hostname, tls.verify_mode = False, ssl.CERT_NONE
        return _HealthEndpoint(_secure(process.flags, port), ("/healthz",), (tls,))

    return endpoint


def _secure(flags: Mapping[str, str], port: int) -> str:
    given = flags.get("secure-port", str(port))
    if given == "0":
        raise _CannotAsk("its --secure-port is 0, so it cannot be asked: remove that flag")
    return _origin("https", flags.get("bind-address", ""), given)


def _kubelet(process: Process) -> _HealthEndpoint:
    flags = process.flags
    settings = setting_files.mapping(flags.get("config", ""))
    port = flags.get("healthz-port", settings.get("healthzPort", 10248))
    if str(port) == "0":
        raise _CannotAsk("its healthzPort is 0, so it cannot be asked: remove that setting")
    address = flags.get("healthz-bind-address") or settings.get("healthzBindAddress") or _LOOPBACK
    return _HealthEndpoint(_origin("http", str(address), str(port)), ("/healthz",))


def _proxy(process: Process) -> _HealthEndpoint:
    flags = process.flags
    settings = setting_files.mapping(flags.get("config", ""))
    given = str(flags.get("healthz-bind-address") or settings.get("healthzBindAddress") or ":10256")
    host, _, port = given.rpartition(":")
    # `livez` is there since Kubernetes 1.28; `healthz` also fails while the node is being drained.
    return _HealthEndpoint(_origin("http", host.strip("[]"), port), ("/livez", "/healthz"))


_ENDPOINTS: Final[Mapping[str, Callable[[Process], _HealthEndpoint]]] = {
    "etcd": _etcd,
    "kube-apiserver": _api_server,
    "kube-controller-manager": _made_certificate(10257),
    "kube-scheduler": _made_certificate(10259),
    "kubelet": _kubelet,
    "kube-proxy": _proxy,
}


def _origin(scheme: str, host: str, port: str) -> str:
    host = _LOOPBACK if host in _EVERY else host
    if not re.fullmatch(r"[A-Za-z0-9.:_-]{1,253}", host) or not re.fullmatch(r"[0-9]{1,5}", port) or int(port) > 65535:
        raise _CannotAsk(_NO_ADDRESS)
    if ":" in host:
        ipaddress.IPv6Address(host)
    return f"{scheme}://{hosts.in_url(host)}:{port}"


def _context(trusted: Sequence[str | None], pair: tuple[bytes, bytes] | None) -> ssl.SSLContext:
    """Return TLS settings that trust the certificates in these files; raise _CannotAsk if there are none."""
    tls = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    # The file that it serves counts as well as its CA, whoever issued it and for which names.
    tls.check_hostname = False
    tls.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN
    blocks = [block for file in trusted for block in _BLOCK.findall(_file(file).decode("ascii", "replace"))]
    try:
        if not blocks:
            raise _CannotAsk("the CA file in its flags has no certificate that can be read")
        tls.load_verify_locations(cadata="\n".join(blocks))
        if pair is not None:
            http_exchange.load_pair(tls, *pair)
    except (OSError, ValueError):
        raise _CannotAsk("the CA, certificate or key in its flags cannot be used") from None
    return tls


def _pair(flags: Mapping[str, str], certificate: str, key: str) -> tuple[bytes, bytes] | None:
    pair = _file(flags.get(certificate)), _file(flags.get(key))
    return pair if all(pair) else None


def _file(path: str | None) -> bytes:
    return setting_files.content(path or "")
