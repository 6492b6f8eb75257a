"""Clients that list, watch, write and run commands in a pod until they are stopped, and keep every failure."""

from __future__ import annotations

import contextlib
import functools
import http.client
import itertools
import json
import math
import os
import re
import select
import ssl
import subprocess
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from helpers.kube.kube_cluster import Kubernetes

# What a complaint says where trust or identity is the reason; an answer to system:anonymous is one to a client whose
# certificate was not taken.
_TLS = re.compile(
    r"x509|\btls\b|ssl|\bcertificate\b|handshake|unauthorized|(?<![-#.\w])401(?![-.\w])|system:anonymous|credential",
    re.IGNORECASE,
)
# Of every call that failed, etcd's client from 3.7 on tells how it talks to the other end.
_PEER = re.compile(r"AuthInfo: 'tls'")
# And what it says besides where a connection ended in the middle of a handshake.
_ENDED = re.compile(
    r"connection reset|connection refused|context canceled|broken pipe|\bEOF\b|timed out|handshake timeout"
)
_LATE = re.compile("timed out|deadline exceeded|TLS handshake timeout")

OPERATORS = ("admin", "super-admin")
CONFIG_MAP = "/api/v1/namespaces/default/configmaps/load"
# A connection is kept for so long, as a client's that reloads its pair would be.
KEPT_SECONDS = 45
# Seconds between two requests: lists of each operator, writes, commands and logs of each pod, each further path.
LIST, WRITE, EXEC, LOGS, FURTHER = 0.7, 0.4, 4.0, 2.0, 1.0


@dataclass(frozen=True, slots=True)
class Failure:
    """One request that failed: when (Unix time), whose it was, and what the client was told."""

    at: float
    client: str
    text: str

    @property
    def of_tls(self) -> bool:
        """Whether it failed because one end did not take the other for who it is."""
        return of_tls(self.text)

    @property
    def late(self) -> bool:
        """Whether no answer came in the time that the client waits: that says more of the machine than of a server."""
        return bool(_LATE.search(self.text)) and not self.of_tls


def of_tls(text: str) -> bool:
    """Whether a complaint is that one end did not take the other for who it is."""
    return bool(_TLS.search(_PEER.sub("", text))) and not _ENDED.search(text)


class Refused(Exception):
    """kube-apiserver answered, and not as it should."""


@dataclass(slots=True)
class Load:
    """What clients did: requests that worked, by client; failures; the numbers written, and those that watches saw.

    Clients take the API servers that `servers` has in that moment in turn, as by a load balancer; without it, the first
    one. Commands run in the `pods`; the paths of `further` are asked for too, each for one client. Between two requests
    a client waits `pace` times as long as usual.
    """

    kubernetes: Kubernetes
    pods: Sequence[str]
    further: Mapping[str, str] = field(default_factory=dict)
    servers: Callable[[], Sequence[tuple[str, int]]] | None = None
    pace: float = 1.0
    worked: Counter[str] = field(default_factory=Counter)
    failures: list[Failure] = field(default_factory=list)
    written: list[int] = field(default_factory=list)
    seen: dict[str, set[int]] = field(default_factory=lambda: {who: set() for who in OPERATORS})
    ending: threading.Event = field(default_factory=threading.Event)
    # Watches go on until they have seen the last number, which is written after all else has ended: until then at most.
    until: float = math.inf
    turns: Iterator[int] = field(default_factory=itertools.count)
    seconds: float = 0.0

    def request(self, who: str, method: str, path: str, body: Any = None) -> dict[str, Any]:
        """One request on a connection of its own; raises what a client would complain of."""
        with contextlib.closing(self._connection(who)) as one:
            return _answer(one, method, path, body)

    def _connection(self, who: str) -> http.client.HTTPSConnection:
        return connection(self.kubernetes, who, self._server())

    def _server(self) -> tuple[str, int]:
        found = self.servers() if self.servers else [self.kubernetes.api]
        return found[next(self.turns) % len(found)]

    def attempt(self, client: str, do: Callable[[], object]) -> bool:
        """Does it, and keeps count; False where it failed."""
        try:
            do()
        except (Refused, OSError, http.client.HTTPException, subprocess.SubprocessError, ValueError) as error:
            self.failures.append(Failure(time.time(), client, f"{type(error).__name__}: {error}"))
            return False
        self.worked[client] += 1
        return True

    def _every(self, client: str, seconds: float, do: Callable[[], object]) -> None:
        while not self.ending.is_set():
            self.attempt(client, do)
            self.ending.wait(seconds * self.pace)

    def _list(self, who: str) -> None:
        """Each time by a new handshake."""
        path = "/api/v1/secrets?limit=5" if who == "super-admin" else "/api/v1/nodes?limit=5"
        self._every(f"list as {who}", LIST, lambda: self.request(who, "GET", path))

    def _write(self) -> None:
        """Numbers, one after the other, on a connection that is kept."""
        while not self.ending.is_set():
            self.attempt("connect to write", self._write_on_one)

    def _write_on_one(self) -> None:
        until = time.monotonic() + KEPT_SECONDS
        with contextlib.closing(self._connection("admin")) as one:
            while time.monotonic() < until and not self.ending.is_set():
                number = len(self.written) + 1
                if not self.attempt("write", functools.partial(_answer, one, "PATCH", CONFIG_MAP, _data(number))):
                    break
                self.written.append(number)
                self.ending.wait(WRITE * self.pace)
                # A server that ends tells who is idle, and every client then takes another connection.
                if _ended(one):
                    break
        self.ending.wait(0.1)

    def _seen_all(self, who: str) -> bool:
        return self.until < math.inf and (not self.missed(who) or time.monotonic() > self.until)

    def _watch(self, who: str) -> None:
        position = ""
        while not self._seen_all(who):

            def watch() -> None:
                nonlocal position
                if not position:
                    found = self.request(who, "GET", CONFIG_MAP)
                    number = int(found["data"]["number"])
                    # Whoever begins anew is told the last, in place of all that were before.
                    self.seen[who].update(range(min(self.seen[who], default=number), number + 1))
                    position = found["metadata"]["resourceVersion"]
                query = f"watch=1&fieldSelector=metadata.name=load&resourceVersion={position}&timeoutSeconds=40"
                with contextlib.closing(self._connection(who)) as one:
                    one.request("GET", f"{CONFIG_MAP.rpartition('/')[0]}?{query}")
                    response = one.getresponse()
                    if response.status != 200:
                        raise Refused(f"{response.status} {response.read().decode()}")
                    while line := response.readline():
                        event = json.loads(line)
                        if event["type"] == "ERROR":
                            position = ""
                            # An API server that has just started knows nothing of before.
                            if event["object"].get("code") == 410:
                                return
                            raise Refused(f"watch: {event['object']}")
                        self.seen[who].add(int(event["object"]["data"]["number"]))
                        position = event["object"]["metadata"]["resourceVersion"]
                        if self._seen_all(who):
                            return

            if not self.attempt(f"watch as {who}", watch):
                time.sleep(0.2)

    def _run(self, pod: str) -> None:
        """A command in a pod: kube-apiserver is a client of the kubelet here."""

        def run() -> None:
            word = f"at-{time.time():.0f}"
            words = ("--server=https://{}:{}".format(*self._server()), "exec", pod, "--", "echo", word)
            ran = self.kubernetes.kubectl(self.kubernetes.admin, *words, expect=None)
            if ran.stdout != f"{word}\n":
                raise Refused(ran.stderr or f"exit {ran.returncode}, said {ran.stdout!r}")

        self._every("exec", EXEC, run)

    def _ask(self, client: str, path: str) -> None:
        self._every(client, FURTHER, lambda: self.request("admin", "GET", path))

    def _logs(self, pod: str) -> None:
        path = f"/api/v1/namespaces/default/pods/{pod}/log"

        def logs() -> None:
            with contextlib.closing(self._connection("super-admin")) as one:
                one.request("GET", path)
                response = one.getresponse()
                said = response.read().decode()
                if response.status != 200 or said != "hello\n":
                    raise Refused(f"{response.status} {said}")

        self._every("logs", LOGS, logs)

    def missed(self, who: str) -> list[int]:
        """What was written since a watch began, and what it did not see."""
        return [number for number in self.written if number > min(self.seen[who]) and number not in self.seen[who]]

    def lacking(self) -> dict[str, int]:
        """What each client did that did less than a quarter of what one does on a machine with nothing else to do."""
        every = {f"list as {who}": LIST for who in OPERATORS} | {"write": WRITE} | dict.fromkeys(self.further, FURTHER)
        if self.pods:
            every |= {"exec": EXEC / len(self.pods), "logs": LOGS / len(self.pods)}
        least = {client: self.seconds / (seconds * self.pace) / 4 for client, seconds in every.items()}
        return {client: self.worked[client] for client, count in least.items() if self.worked[client] < count}

    @contextlib.contextmanager
    def running(self) -> Iterator[None]:
        self.until = math.inf
        self.kubernetes.apply({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "load"}, **_data(0)})
        works: list[Callable[[], None]] = [self._write]
        works += [functools.partial(work, pod) for pod in self.pods for work in (self._run, self._logs)]
        works += [functools.partial(self._ask, client, path) for client, path in self.further.items()]
        works += [functools.partial(self._list, who) for who in OPERATORS]
        others = [threading.Thread(target=work, daemon=True) for work in works]
        watches = [threading.Thread(target=self._watch, args=(who,), daemon=True) for who in OPERATORS]
        for thread in others + watches:
            thread.start()
        begin = time.monotonic()
        try:
            yield
        finally:
            self.ending.set()
            self.seconds = time.monotonic() - begin
            for thread in others:
                thread.join(60)
            # What the watches wait for.
            last = len(self.written) + 1
            self.written.append(last)
            self.until = time.monotonic() + 60
            self.attempt("write", functools.partial(self.request, "admin", "PATCH", CONFIG_MAP, _data(last)))
            for thread in watches:
                thread.join(60)


def load_pair(context: ssl.SSLContext, pem: Path) -> None:
    """Loads a pair from the file of both as it is in one moment: OpenSSL opens the file for each of them."""
    with os.fdopen(os.memfd_create("pair"), "wb") as copy:
        copy.write(pem.read_bytes())
        copy.flush()
        context.load_cert_chain(f"/proc/self/fd/{copy.fileno()}")


def connection(kubernetes: Kubernetes, who: str, at: tuple[str, int]) -> http.client.HTTPSConnection:
    """A new one from outside to an API server, with the pair of an operator as it lies there now."""
    context = ssl.create_default_context(cafile=str(kubernetes.operator / "kubernetes-ca-chain.crt"))
    load_pair(context, kubernetes.operator / f"{who}.pem")
    address, port = at
    opened = http.client.HTTPSConnection(address, port)
    # It shall never connect by itself: this process is not outside.
    opened.auto_open = 0
    opened.sock = context.wrap_socket(kubernetes.outside.connect(address, port, timeout=20), server_hostname=address)
    return opened


def _ended(one: http.client.HTTPSConnection) -> bool:
    """Whether the server has ended this connection, on which nothing is asked just now."""
    return one.sock is None or bool(select.select([one.sock], [], [], 0)[0])


def _data(number: int) -> dict[str, Any]:
    return {"data": {"number": str(number)}}


def _answer(one: http.client.HTTPSConnection, method: str, path: str, body: Any) -> dict[str, Any]:
    headers = {"Content-Type": "application/merge-patch+json"} if body is not None else {}
    one.request(method, path, None if body is None else json.dumps(body), headers)
    response = one.getresponse()
    content = response.read().decode()
    if response.status >= 300:
        raise Refused(f"{response.status} {content[:500]}")
    found: dict[str, Any] = json.loads(content)
    return found
