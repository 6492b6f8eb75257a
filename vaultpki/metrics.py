"""What the resident agent shows to Prometheus and to probes, on a loopback port.

One thread serves every caller, without blocking on any: whoever is slow, sends too much or never ends is cut off, and
where too many come the longest-waiting one goes first. The kernel holds back whoever connects and says nothing, and a
request that has come is answered as soon as its caller is let in. So nobody on the node can keep the agent, a probe or
Prometheus waiting.
"""

from __future__ import annotations

import errno
import os
import selectors
import socket
import struct
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import field
from typing import TYPE_CHECKING, Final, Literal

from vaultpki import __version__
from vaultpki.errors import VaultpkiError
from vaultpki.values import dataclass

if TYPE_CHECKING:
    from prometheus_client.metrics_core import Metric

AgentState = Literal["ok", "backing-off", "needs-join"]

DEADLINE: Final = 5.0
"""Seconds that a caller has for its whole request, and for taking the answer."""

CALLERS: Final = 128
"""The most connections at a time."""

LONGEST_REQUEST: Final = 8192
"""The most bytes of a request line and headers."""

# Connections that wait to be let in, or for their first word: as many as the kernel takes by default (listen(2)).
_WAITING: Final = 4096
# Those that are let in before the others are looked at again.
_AT_A_TIME: Final = 64


@dataclass(frozen=True, slots=True)
class CertificateView:
    """One certificate as it lies on the disk. Times are Unix seconds, lives are seconds.

    `state` is what `status` says: ok, due, expired, missing or broken; `not_after` is None where there is none.
    `last_error` is for `status`: a text as a label would be a new series each time.
    """

    name: str
    not_after: float | None
    renew_after: float | None
    asked: int | None
    granted: int | None
    state: str
    last_error: str = ""
    last_error_time: float | None = None


@dataclass(frozen=True, slots=True)
class View:
    """The agent at one moment. Times are Unix seconds.

    `hooks` are those still owed: how often tried, since when owed, and the last error. `vault_reachable` is None until
    Vault was asked for something. `outage_left` is the seconds until the first certificate ends, `last_pass` when the
    agent last looked at everything. `stale_after` seconds after that it counts as stuck: at least twice the poll
    interval, and longer than the longest pass. `unseen` says why the last pass was broken off, so that the certificates
    are told as an earlier one saw them; empty where it was not. `unread` says why the files could not be looked at just
    now; empty where they were, or where nobody looked.
    """

    node: str
    cluster: str
    state: AgentState
    certificates: tuple[CertificateView, ...]
    hooks: Mapping[str, tuple[int, float, str]]
    trust_generation: str
    trust_changed: float | None
    vault_reachable: bool | None
    vault_last_ok: float | None
    outage_left: float | None
    signs_total: int
    renewals_total: Mapping[str, int]
    last_pass: float
    stale_after: float
    unseen: str = ""
    unread: str = ""


class Server:
    """`/metrics`, `/healthz` and `/livez` at the address, which is `host:port` with an IP address for a host.

    `view` is called in the server's thread for each request, so it hands out a value made before; None means that no
    pass has ended yet. `look` gives the same with the certificates as they lie there now, for all but `/livez`, and
    bounds its own time. `stale_after` seconds after the start it counts as stuck in its first pass; later the view says
    when it does.
    """

    def __init__(
        self,
        address: str,
        view: Callable[[], View | None],
        *,
        look: Callable[[], View | None] | None = None,
        stale_after: float = 900.0,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._address, self._view, self._stale_after, self._clock = address, view, stale_after, clock
        self._look = look or view
        self._shown: tuple[View | None, bytes] | None = None
        self._listener: socket.socket | None = None
        self._thread: threading.Thread | None = None
        self._wake = -1
        self._started = clock()

    @property
    def address(self) -> str:
        """The address given, with the port that the system chose where that was 0."""
        host, _, port = self._address.rpartition(":")
        return f"{host}:{self._listener.getsockname()[1] if self._listener and port == '0' else port}"

    def start(self) -> None:
        """Listens, and answers in a thread of its own; VaultpkiError where the address cannot be had."""
        host, _, port = self._address.rpartition(":")
        family = socket.AF_INET6 if host.startswith("[") else socket.AF_INET
        try:
            listener = socket.create_server((host.strip("[]"), int(port)), family=family, backlog=_WAITING)
            # Whoever says nothing for a second stays with the kernel so long, and takes nobody's place here (tcp(7)).
            listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_DEFER_ACCEPT, 1)
        except OSError as error:
            raise VaultpkiError(f"metrics at {self._address}: {_advice(error)}") from None
        listener.setblocking(False)
        self._listener, self._started, self._wake = listener, self._clock(), os.eventfd(0, os.EFD_CLOEXEC)
        loop = _Loop(listener, self._wake, self._answer)
        self._thread = threading.Thread(target=loop.run, name="vaultpki-metrics", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Ends the thread and frees the port; does nothing where it is closed."""
        if self._thread is None or self._listener is None:
            return
        os.eventfd_write(self._wake, 1)
        self._thread.join()
        self._listener.close()
        os.close(self._wake)
        self._thread = self._listener = None

    def _answer(self, path: str) -> tuple[int, str, bytes] | None:
        """Status, content type and body of what lies at the path; None where nothing does."""
        if path not in ("/metrics", "/healthz", "/livez"):
            return None
        view = self._view() if path == "/livez" else self._look()
        now = self._clock()
        if path == "/metrics":
            if self._shown is None or self._shown[0] is not view:
                self._shown = view, exposition(view)
            return 200, "text/plain; version=0.0.4; charset=utf-8", self._shown[1]
        problems = list(self._stuck(view, now))
        if path == "/healthz":
            problems += certificate_problems(view, now)
        status, said = (503, problems) if problems else (200, ["ok"])
        return status, "text/plain; charset=utf-8", "".join(f"{line}\n" for line in said).encode()

    def _stuck(self, view: View | None, now: float) -> Iterator[str]:
        since, most = (self._started, self._stale_after) if view is None else (view.last_pass, view.stale_after)
        silent = now - since
        if silent > most:
            yield f"the agent has ended no pass for {silent:.0f} s"


def certificate_problems(view: View | None, now: float) -> Iterator[str]:
    """One line for each certificate that is not there, broken or over; and one where they are not looked at."""
    if view is None:
        yield "the agent has not ended its first pass"
        return
    if view.unseen:
        yield f"the last pass was broken off: {view.unseen}"
    elif view.unread:
        yield f"the files cannot be looked at: {view.unread}"
    elif not view.certificates:
        yield "there is no certificate here yet"
    for each in view.certificates:
        if each.not_after is None or each.state in ("missing", "broken"):
            yield f"{each.name}: {'missing' if each.state == 'missing' else 'broken'}"
        elif each.not_after <= now or each.state == "expired":
            yield f"{each.name}: expired"


def exposition(view: View | None) -> bytes:
    """The metrics in Prometheus' text format."""
    # 2.2 MiB, which only an agent that is asked for metrics shall carry.
    from prometheus_client import CollectorRegistry, generate_latest

    # Not the default registry: its process and platform collectors read /proc for figures that a node exporter has.
    registry = CollectorRegistry(auto_describe=False)
    registry.register(_Snapshot(view))
    return generate_latest(registry)


class _Snapshot:
    """One view as prometheus_client's metric families."""

    def __init__(self, view: View | None) -> None:
        self._view = view

    def collect(self) -> Iterator[Metric]:
        from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily

        for name, about, labels, samples in _rows(self._view):
            kind = CounterMetricFamily if name.endswith("_total") else GaugeMetricFamily
            family = kind(f"vaultpki_{name}", about, labels=labels)
            for values, sample in samples:
                if sample is not None:
                    family.add_metric(values, sample)
            yield family


# Name, what it says, the labels; then the sample for each of the labels' values, None where there is none.
_Row = tuple[str, str, tuple[str, ...], Iterable[tuple[tuple[str, ...], float | None]]]


def _rows(view: View | None) -> Iterator[_Row]:
    yield "build_info", "The version that runs.", ("version",), [((__version__,), 1)]
    if view is None:
        return
    yield "node_info", "Whose agent this is.", ("cluster", "node"), [((view.cluster, view.node), 1)]
    yield "agent_state", "1 for the state: ok, backing-off or needs-join.", ("state",), [((view.state,), 1)]
    yield "last_pass_timestamp_seconds", "When the agent last looked at everything.", (), [((), view.last_pass)]

    def each(name: str, about: str, sample: Callable[[CertificateView], float | None]) -> _Row:
        return f"certificate_{name}", about, ("name",), [((one.name,), sample(one)) for one in view.certificates]

    yield each("not_after_timestamp_seconds", "When the certificate ends.", lambda one: one.not_after)
    yield each("renew_after_timestamp_seconds", "When the agent renews it.", lambda one: one.renew_after)
    yield each("ttl_asked_seconds", "The life that cluster.yaml asks for.", lambda one: one.asked)
    yield each("ttl_granted_seconds", "The life that Vault granted, from the signing on.", lambda one: one.granted)
    yield each("last_error_timestamp_seconds", "When something about it last failed.", lambda one: one.last_error_time)
    states = [((one.name, "unknown" if view.unseen or view.unread else one.state), 1) for one in view.certificates]
    about = "1 for the state: ok, due, expired, missing or broken; unknown where nobody could look."
    yield "certificate_state", about, ("name", "state"), states

    def hook(name: str, about: str, sample: Callable[[int, float], float]) -> _Row:
        return f"hook_{name}", about, ("hook",), [((one,), sample(*owed[:2])) for one, owed in view.hooks.items()]

    yield hook("owed", "1 where a change still waits for this hook to succeed.", lambda tries, since: 1)
    yield hook("owed_since_timestamp_seconds", "Since when it is owed.", lambda tries, since: since)
    yield hook("attempts", "How often it was tried for this change.", lambda tries, since: tries)

    generation = [((view.trust_generation,), 1)]
    yield "trust_generation_info", "Which issuing CAs this node's bundles hold.", ("generation",), generation
    yield "trust_changed_timestamp_seconds", "When the bundles last changed.", (), [((), view.trust_changed)]
    about = "1 where Vault answered the last request; absent before the first."
    yield "vault_reachable", about, (), [((), view.vault_reachable)]
    yield "vault_last_contact_timestamp_seconds", "When Vault last answered.", (), [((), view.vault_last_ok)]
    yield "outage_left_seconds", "Until the first certificate ends.", (), [((), view.outage_left)]
    yield "signs_total", "Certificates that Vault was asked to sign.", (), [((), view.signs_total)]
    renewals = [((name,), count) for name, count in view.renewals_total.items()]
    yield "renewals_total", "Certificates installed.", ("name",), renewals


# The server


@dataclass(slots=True)
class _Caller:
    """One connection: what it has said, what it is still to be told, and when it is cut off (monotonic seconds)."""

    socket: socket.socket
    deadline: float
    said: bytearray = field(default_factory=bytearray)
    answer: memoryview | None = None
    watched: bool = False


class _Loop:
    def __init__(
        self, listener: socket.socket, wake: int, answer: Callable[[str], tuple[int, str, bytes] | None]
    ) -> None:
        self._listener, self._wake, self._answer = listener, wake, answer
        self._callers: dict[int, _Caller] = {}

    def run(self) -> None:
        with selectors.DefaultSelector() as selector:
            self._selector = selector
            selector.register(self._listener, selectors.EVENT_READ)
            selector.register(self._wake, selectors.EVENT_READ)
            while True:
                first = min((caller.deadline for caller in self._callers.values()), default=None)
                wait = None if first is None else max(first - time.monotonic(), 0.0)
                for key, _ in selector.select(wait):
                    if key.fd == self._wake:
                        for caller in list(self._callers.values()):
                            self._drop(caller)
                        return
                    if key.fd == self._listener.fileno():
                        self._let_in()
                    elif key.fd in self._callers:
                        self._serve(self._callers[key.fd])
                now = time.monotonic()
                for caller in [caller for caller in self._callers.values() if caller.deadline <= now]:
                    self._drop(caller)

    def _let_in(self) -> None:
        for _ in range(_AT_A_TIME):
            try:
                connection, _ = self._listener.accept()
            except BlockingIOError:
                return
            except OSError:
                # Out of descriptors, most likely: the caller stays in the queue, for which select returns at once.
                time.sleep(0.1)
                return
            connection.setblocking(False)
            caller = _Caller(connection, time.monotonic() + DEADLINE)
            self._callers[connection.fileno()] = caller
            # What it asks is there already, as a rule; and what is answered waits for nobody.
            self._serve(caller)
            if caller.answer:
                self._serve(caller)
            if len(self._callers) > CALLERS:
                self._drop(min(self._callers.values(), key=lambda caller: caller.deadline))

    def _serve(self, caller: _Caller) -> None:
        try:
            if caller.answer is None:
                self._listen(caller)
            elif caller.answer:
                caller.answer = caller.answer[caller.socket.send(caller.answer) :]
                self._watch(caller, selectors.EVENT_WRITE if caller.answer else selectors.EVENT_READ)
                if not caller.answer:
                    # Closing on words not yet read would reset the connection and take the answer with it (RFC 9112,
                    # 9.6): what still comes is read and thrown away until the caller ends or its time is up.
                    caller.socket.shutdown(socket.SHUT_WR)
            elif not caller.socket.recv(LONGEST_REQUEST):
                self._drop(caller)
        except BlockingIOError:
            self._watch(caller, selectors.EVENT_WRITE if caller.answer else selectors.EVENT_READ)
        except OSError:
            self._drop(caller)

    def _watch(self, caller: _Caller, events: int) -> None:
        if caller.watched:
            self._selector.modify(caller.socket, events)
        else:
            self._selector.register(caller.socket, events)
        caller.watched = True

    def _listen(self, caller: _Caller) -> None:
        more = caller.socket.recv(LONGEST_REQUEST)
        caller.said += more
        if not more:
            self._drop(caller)
        elif b"\r\n\r\n" in caller.said or b"\n\n" in caller.said:
            self._tell(caller, self._respond(bytes(caller.said)))
        elif len(caller.said) > LONGEST_REQUEST:
            self._tell(caller, _response(431))
        else:
            self._watch(caller, selectors.EVENT_READ)

    def _tell(self, caller: _Caller, answer: bytes) -> None:
        caller.answer, caller.said = memoryview(answer), bytearray()
        caller.deadline = time.monotonic() + DEADLINE
        self._watch(caller, selectors.EVENT_WRITE)

    def _respond(self, request: bytes) -> bytes:
        words = request.split(b"\n", 1)[0].rstrip(b"\r").split(b" ")
        if len(words) != 3 or not words[2].startswith(b"HTTP/1."):
            return _response(400)
        method, target, _ = words
        if method not in (b"GET", b"HEAD"):
            return _response(405)
        try:
            found = self._answer(target.partition(b"?")[0].decode("latin-1"))
        except Exception:  # noqa: BLE001 - a fault in one answer must not end the thread that gives all the others
            return _response(500)
        return _response(404) if found is None else _response(*found, head=method == b"HEAD")

    def _drop(self, caller: _Caller) -> None:
        del self._callers[caller.socket.fileno()]
        if caller.watched:
            self._selector.unregister(caller.socket)
        if caller.answer:
            # What it does not take would lie in the kernel's memory for minutes more (socket(7), SO_LINGER; tcp(7)).
            caller.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        caller.socket.close()


_REASONS: Final = {
    200: "OK",
    400: "Bad Request",
    404: "Not Found",
    405: "Method Not Allowed",
    431: "Request Header Fields Too Large",
    500: "Internal Server Error",
    503: "Service Unavailable",
}


def _response(status: int, kind: str = "text/plain; charset=utf-8", body: bytes = b"", *, head: bool = False) -> bytes:
    content = body or f"{_REASONS[status].lower()}\n".encode()
    lines = [
        f"HTTP/1.1 {status} {_REASONS[status]}",
        f"Content-Type: {kind}",
        f"Content-Length: {len(content)}",
        "Cache-Control: no-store",
        "X-Content-Type-Options: nosniff",
        "Connection: close",
        *(["Allow: GET, HEAD"] if status == 405 else []),
    ]
    return "\r\n".join(lines).encode() + b"\r\n\r\n" + (b"" if head else content)


def _advice(error: OSError) -> str:
    match error.errno:
        case errno.EADDRINUSE:
            return "another program listens there; name another port under `metrics` in agent.yaml"
        case errno.EACCES:
            return "only root may listen there; name a port above 1023 under `metrics` in agent.yaml"
        case errno.EADDRNOTAVAIL | errno.EAFNOSUPPORT:
            return "this node has no such address; write 127.0.0.1 and a port under `metrics` in agent.yaml"
        case _:
            return os.strerror(error.errno or errno.EIO)
