"""Tokens of service accounts, issued by each API server and used at every one, until they expire."""

from __future__ import annotations

import base64
import contextlib
import http.client
import itertools
import json
import random
import ssl
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field

from helpers.kube.client_load import Failure, connection
from helpers.kube.kube_cluster import Kubernetes
from helpers.vault.servers import wait_for

LIFE = 600
"""Seconds that a token lives: kube-apiserver issues none that lives shorter."""

_REQUEST = "/api/v1/namespaces/default/serviceaccounts/default/token"
_REVIEW = "/apis/authentication.k8s.io/v1/selfsubjectreviews"
# A token that is nearly over tells nothing about keys.
_MARGIN = 30
_SAMPLE = 3
_ROUNDS_SECONDS = 120.0
_SECRET_SECONDS = 240.0

AGENT = "tokens-of-tests"
"""The user agent of whoever uses these tokens, by which an audit log tells them from all others."""

Api = tuple[str, int]


@dataclass(frozen=True, slots=True)
class Token:
    """A token: who issued it, until when it lives (Unix time), and the id of the key that signed it."""

    issuer: Api
    until: float
    text: str

    @property
    def key_id(self) -> str:
        head = self.text.partition(".")[0]
        found: dict[str, str] = json.loads(base64.urlsafe_b64decode(head + "=" * (-len(head) % 4)))
        return found["kid"]


@dataclass(slots=True)
class TokenLoad:
    """What tokens were worth: uses that worked by who issued them and who was asked, and those that failed.

    `servers` are the API servers that a load balancer would send somebody to in this moment. `kept` are tokens that
    never expire, and `mounted` reads those that pods are given. Tokens of the keys in `given_up` may be refused, which
    `refused` counts by who was asked. `rounds` is how often all tokens of a moment were used, `pace` seconds apart.
    """

    kubernetes: Kubernetes
    servers: Callable[[], Sequence[Api]]
    tokens: list[Token] = field(default_factory=list)
    kept: list[Token] = field(default_factory=list)
    mounted: Callable[[], Sequence[Token]] = tuple
    given_up: set[str] = field(default_factory=set)
    refused: Counter[Api] = field(default_factory=Counter)
    rounds: int = 0
    used: Counter[tuple[Api, Api]] = field(default_factory=Counter)
    failures: list[Failure] = field(default_factory=list)
    key_ids: set[str] = field(default_factory=set)
    ending: threading.Event = field(default_factory=threading.Event)
    pace: float = 1.0

    def issue(self, at: Api) -> Token:
        """A new token of this API server."""
        spec = {"expirationSeconds": LIFE}
        body = {"apiVersion": "authentication.k8s.io/v1", "kind": "TokenRequest", "spec": spec}
        with contextlib.closing(connection(self.kubernetes, "admin", at)) as one:
            status, text = _asked(one, _REQUEST, body)
        if status != 201:
            raise OSError(f"no token: {status} {text[:300]}")
        return Token(at, time.time() + LIFE, json.loads(text)["status"]["token"])

    def status_of(self, token: Token, at: Api) -> int:
        """What an API server answers to whoever has this token and nothing else: 201, or 401."""
        context = ssl.create_default_context(cafile=str(self.kubernetes.operator / "kubernetes-ca-chain.crt"))
        address, port = at
        one = http.client.HTTPSConnection(address, port)
        one.auto_open = 0
        outside = self.kubernetes.outside.connect(address, port, timeout=20)
        one.sock = context.wrap_socket(outside, server_hostname=address)
        body = {"apiVersion": "authentication.k8s.io/v1", "kind": "SelfSubjectReview"}
        with contextlib.closing(one):
            return _asked(one, _REVIEW, body, {"Authorization": f"Bearer {token.text}", "User-Agent": AGENT})[0]

    def use(self, token: Token, at: Api) -> None:
        try:
            status = self.status_of(token, at)
        except (OSError, http.client.HTTPException) as error:
            # Whom a restart has cut off has not been refused.
            if at in self.servers():
                self.failures.append(Failure(time.time(), f"token at {at[0]}", f"{type(error).__name__}: {error}"))
            return
        if status == 401 and token.key_id in self.given_up:
            self.refused[at] += 1
            return
        if status == 403:
            # It knows whose token this is, and has not read yet what he may do: it has just begun.
            return
        if status != 201:
            text = f"{status} for a token that {token.issuer[0]} issued with key {token.key_id}"
            self.failures.append(Failure(time.time(), f"token at {at[0]}", text))
            return
        self.used[token.issuer, at] += 1

    def _run(self) -> None:
        for turn in itertools.count():
            if self.ending.wait(self.pace):
                return
            apis = self.servers()
            try:
                new = self.issue(apis[turn % len(apis)])
            except (OSError, http.client.HTTPException):
                # That one is restarted just now.
                continue
            self.key_ids.add(new.key_id)
            now = time.time()
            self.tokens = [each for each in self.tokens if each.until - _MARGIN > now]
            older = random.sample(self.tokens, min(_SAMPLE, len(self.tokens)))
            # The oldest one of each key is what a gate is there for.
            oldest = {each.key_id: each for each in reversed(self.tokens)}
            for token in (new, *oldest.values(), *older, *self.kept, *self.mounted()):
                for at in self.servers():
                    self.use(token, at)
            self.tokens.append(new)
            self.rounds += 1

    def counted(self) -> Counter[tuple[Api, Api]]:
        """What `used` is in this moment."""
        # Copied at once, since a thread may add to it.
        return Counter(dict(self.used))

    def let_go(self, forget: Callable[[], object]) -> None:
        """Has some tokens used no more from now on, by `forget`, and waits until none of them is on its way."""
        forget()
        last = self.rounds + 2
        wait_for(lambda: self.rounds >= last, _ROUNDS_SECONDS, lambda: "tokens are not used any more", pause=0.3)

    @contextlib.contextmanager
    def running(self) -> Iterator[None]:
        thread = threading.Thread(target=self._run, daemon=True)
        thread.start()
        try:
            yield
        finally:
            self.ending.set()
            thread.join(60)


def legacy(kubernetes: Kubernetes, name: str) -> Token:
    """A new token that never expires, in a Secret of this name; the controller manager that leads signs it."""
    annotations = {"kubernetes.io/service-account.name": "default"}
    secret = {"apiVersion": "v1", "kind": "Secret", "type": "kubernetes.io/service-account-token"}
    kubernetes.apply({**secret, "metadata": {"name": name, "annotations": annotations}})
    found: list[str] = []

    def made() -> bool:
        asked = kubernetes.kubectl(kubernetes.admin, "get", "secret", name, "-o", "jsonpath={.data.token}", expect=None)
        found[:] = [asked.stdout]
        return bool(asked.stdout)

    wait_for(made, _SECRET_SECONDS, lambda: "no token comes into the Secret", pause=0.5)
    return Token(kubernetes.apis[0], time.time() + 86400, base64.b64decode(found[0]).decode())


def _asked(
    one: http.client.HTTPSConnection, path: str, body: object, headers: dict[str, str] | None = None
) -> tuple[int, str]:
    one.request("POST", path, json.dumps(body), {"Content-Type": "application/json", **(headers or {})})
    response = one.getresponse()
    return response.status, response.read().decode()
