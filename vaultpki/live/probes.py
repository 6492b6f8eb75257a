"""Connects to the listeners of a running cluster as a client: without a pair, with a forged one, with those of `--dir`.

Each time there is one TLS handshake and one GET, to a path at which nothing secret is. A server that only asks for
client certificates, such as kube-apiserver, refuses in its answer and not in the handshake.
"""

from __future__ import annotations

import http
import re
import ssl
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Final, Literal

from vaultpki.certificates import ISSUING_CAS, resolve, rows
from vaultpki.kube.http_exchange import load_pair
from vaultpki.live.checks import found, not_checked
from vaultpki.live.listeners import Endpoint, dns_name
from vaultpki.live.trust import Expected
from vaultpki.model import Cluster, Subject
from vaultpki.pki import forged_client
from vaultpki.pki.facts import Facts
from vaultpki.values import hosts
from vaultpki.vault.sockets import connect
from vaultpki.verify import handshake
from vaultpki.verify.on_disk import Check, Holder, PairOnDisk

_SECONDS: Final = 5.0
_LARGEST: Final = 64 * 1024
_STATUS = re.compile(rb"HTTP/1\.[01] ([1-5][0-9][0-9])[ \r]")
_MASTERS: Final = "system:masters"
_ANONYMOUS: Final = (b"system:anonymous", b"system:unauthenticated")
# Neither comes before the question who asks.
_LET_IN: Final = frozenset({http.HTTPStatus.OK, http.HTTPStatus.NOT_FOUND, http.HTTPStatus.METHOD_NOT_ALLOWED})
# What a server says that does not believe the client (RFC 8446, section 6.2), in OpenSSL's words.
_ALERTS: Final = ("ALERT", "CERTIFICATE_REQUIRED")


@dataclass(frozen=True, slots=True)
class Caller:
    """A client of listeners. `tls` holds the pair, if there is one; `ca` is its domain, "" for a forged one."""

    label: str
    tls: ssl.SSLContext
    ca: str = ""
    client: bool = True


@dataclass(frozen=True, slots=True)
class ProbeResult:
    """What a listener did with a caller: took it for a user or for nobody in particular, refused it, or did not say."""

    how: Literal["user", "anonymous", "refused", "unclear"]
    detail: str


@dataclass(frozen=True, slots=True)
class Callers:
    """The clients of listeners: `nobody`, a forged pair for each domain of users, and one pair of each domain."""

    nobody: Caller
    forged: Mapping[str, Caller]
    pairs: tuple[Caller, ...]


def callers(
    cluster: Cluster, expected: Expected, seen: Mapping[str, Facts], holders: Sequence[Holder], now: datetime
) -> Callers:
    """Return the clients. `seen` are CAs that listeners presented, by domain, where `expected` has none.

    Pairs are those of `holders`, one of each domain, a client's before a server's.
    """
    forged = {}
    for domain in ISSUING_CAS:
        ca = next(iter((*expected.of(domain), *filter(None, [seen.get(domain)]))), None)
        if ca is not None:
            tls = handshake.context(server=False, pair=None, trusted=())
            load_pair(tls, *forged_client.forged_pair(_claimed(cluster, domain), ca.der, now))
            forged[domain] = Caller(f"a stranger's {ca.subject_text}", tls)
    pairs = []
    for domain in ISSUING_CAS:
        for label, pair, client in _pairs(cluster, holders, domain):
            try:
                tls = handshake.context(server=False, pair=pair, trusted=())
            except (ssl.SSLError, OSError, ValueError):
                # The checks of files name it.
                continue
            pairs.append(Caller(label, tls, domain, client))
            break
    return Callers(Caller("no certificate", handshake.context(server=False, pair=None, trusted=())), forged, (*pairs,))


def _claimed(cluster: Cluster, domain: str) -> Subject:
    """Return the names of a client of this domain, with the most rights."""
    clients = [resolve(row, cluster, None) for row in rows(cluster) if row.ca == domain and row.usage.client]
    wanted = sorted(clients, key=lambda each: _MASTERS not in each.subject.organization)
    return wanted[0].subject if wanted else Subject("stranger", (_MASTERS,))


def _pairs(cluster: Cluster, holders: Sequence[Holder], domain: str) -> Iterator[tuple[str, tuple[Path, Path], bool]]:
    by_name = {row.name: row for row in rows(cluster)}
    of_domain = [
        PairOnDisk(holder, each, by_name[each.name], None)
        for holder in holders
        for each in holder.certificates
        if each.ca == domain
    ]
    for pair in sorted(of_domain, key=lambda each: (not each.row.usage.client, each.row.usage.server)):
        yield pair.label, (pair.crt, pair.key), pair.row.usage.client


def probe_as_each(listener: Endpoint, who: Callers) -> Iterator[Check]:
    """Probe one listener as each caller, and check what it does with each."""
    users = listener.cas[0] if listener.cas else ""
    result = probe(listener, who.nobody)
    yield _refused("no certificate", listener, who.nobody.label, result)
    if users in who.forged:
        forged = who.forged[users]
        yield _refused("stranger", listener, forged.label, probe(listener, forged))
    else:
        yield not_checked("stranger", "a stranger", listener.label, f"no CA of {users or 'its clients'} is known")
    for caller in who.pairs:
        if caller.ca != users:
            yield _refused("another domain", listener, caller.label, probe(listener, caller))
        elif caller.client and listener.name != "etcd-peer":
            # A peer's pair is taken from the machine of its own names alone.
            yield _accepted(listener, caller.label, probe(listener, caller))


def _refused(name: str, listener: Endpoint, label: str, result: ProbeResult) -> Check:
    if result.how == "unclear":
        return not_checked(name, label, listener.label, result.detail)
    if result.how == "anonymous" and listener.name == "kubelet":
        # A proxy in between may end TLS, and kube-apiserver then knows nobody; a kubelet lets nobody in.
        result = ProbeResult("user", "anonymous requests are on")
    refusal = "" if result.how == "user" else result.detail
    return found(name, label, listener.label, good=False, refusal=refusal, accepted=result.detail)


def _accepted(listener: Endpoint, label: str, result: ProbeResult) -> Check:
    if result.how == "unclear":
        return not_checked("own domain", label, listener.label, result.detail)
    refusal = "" if result.how == "user" else result.detail
    return found("own domain", label, listener.label, refusal=refusal, accepted=result.detail)


def probe(listener: Endpoint, caller: Caller) -> ProbeResult:
    """Connect to one listener once; bounded in time and size."""
    shown = hosts.in_url(listener.address)
    deadline = time.monotonic() + _SECONDS
    lines = (f"GET {listener.path} HTTP/1.1", f"Host: {shown}:{listener.port}", "Connection: close", "", "")
    try:
        channel = connect(f"https://{shown}:{listener.port}", caller.tls, dns_name(listener.address) or None, deadline)
    except ssl.SSLError as error:
        return _ended(error)
    except (OSError, ValueError):
        return ProbeResult("unclear", "it cannot be reached")
    try:
        # With TLS 1.3 the server looks at the pair now (RFC 8446, section 4.4.2.4). Its alert may cross the request,
        # and the connection is then reset.
        channel.send("\r\n".join(lines).encode("latin-1", "replace"), deadline)
        data = b""
        while len(data) < _LARGEST and (part := channel.receive(_LARGEST, deadline)):
            data += part
    except ssl.SSLEOFError:
        return ProbeResult("refused", "it closes the connection")
    except ssl.SSLError as error:
        return _ended(error)
    except TimeoutError:
        return ProbeResult("unclear", f"it gives no answer within {_SECONDS:g} s")
    except ConnectionError:
        return ProbeResult("refused", "it closes the connection")
    except OSError:
        return ProbeResult("unclear", "the connection broke")
    finally:
        channel.close()
    return answer(data)


def _ended(error: ssl.SSLError) -> ProbeResult:
    words = error.reason or ""
    if any(part in words for part in _ALERTS):
        return ProbeResult("refused", handshake.reason(error))
    return ProbeResult("unclear", handshake.reason(error))


def answer(data: bytes) -> ProbeResult:
    """Return what an HTTP answer to a GET says about the caller; none at all is a refusal."""
    if not data:
        return ProbeResult("refused", "it closes the connection")
    status = _STATUS.match(data)
    if status is None:
        return ProbeResult("unclear", "it does not answer in HTTP/1.1")
    code = int(status[1])
    if code == http.HTTPStatus.UNAUTHORIZED:
        return ProbeResult("refused", "answers 401")
    if code == http.HTTPStatus.FORBIDDEN:
        anonymous = any(name in data for name in _ANONYMOUS)
        return (
            ProbeResult("anonymous", "answers 403 to an anonymous user")
            if anonymous
            else ProbeResult("user", "answers 403")
        )
    if code in _LET_IN:
        return ProbeResult("user", f"answers {code}")
    return ProbeResult("unclear", f"answers {code}")
