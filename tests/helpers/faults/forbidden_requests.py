"""A node with a real token, who asks for all that it must not have: what tests do with the forbidden list.

Requests go raw over the wire: nothing of the client under test could turn one down before Vault does.
"""

from __future__ import annotations

import contextlib
import http.client
import json
import ssl
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any
from urllib.parse import urlsplit

from helpers.vault.applied_cluster import AppliedCluster
from helpers.vault.server_calls import Answer
from helpers.vault.servers import Server
from vaultpki.certificates import issuing_cas
from vaultpki.identity.access import pooled_approle
from vaultpki.issue.issuers import fetch_issuers, roots_below, trusts
from vaultpki.model import Cluster, Node, Pool
from vaultpki.vault import Settings, Vault
from vaultpki.verify import forbidden_signing, vault_trial
from vaultpki.verify.forbidden_paths import Forbidden


@dataclass(frozen=True)
class Outcome:
    """What became of one request; `hole` says what it gave away, empty where nothing."""

    request: Forbidden
    status: int
    hole: str


@dataclass(frozen=True)
class Intruder:
    """A node with a real token, who asks for all it must not have."""

    cluster: AppliedCluster
    name: str
    holder: Node | Pool
    token: str
    keys: vault_trial.Keys

    @classmethod
    def logged_in(cls, cluster: AppliedCluster, name: str, pool: str | None = None) -> Intruder:
        """Logs in as the node does, through its own AppRole, which is made for a node of a pool."""
        model, server = cluster.model, cluster.server
        kind = "pooled" if pool else "listed"
        role = f"auth/{cluster.prefix}/{kind}/role/{name}"
        holder: Node | Pool
        if pool:
            holder = next(each for each in model.pools if each.name == pool)
            assert server.api("POST", role, pooled_approle(model, holder)).status == 204
        else:
            holder = next(each for each in model.nodes if each.name == name)
        body = {
            "role_id": server.api("GET", f"{role}/role-id").data["role_id"],
            "secret_id": server.api("POST", f"{role}/secret-id").data["secret_id"],
        }
        answer = server.api("POST", f"auth/{cluster.prefix}/{kind}/login", body, token="")
        return cls(cluster, name, holder, answer.body["auth"]["client_token"], vault_trial.Keys())

    @property
    def model(self) -> Cluster:
        return self.cluster.model

    def judge(self) -> vault_trial.Judge:
        server = self.cluster.server
        settings = Settings((server.address,), ca_file=str(server.ca_file))
        now = datetime.now(UTC)
        issuers = fetch_issuers(Vault(settings), self.cluster.prefix, cas=issuing_cas(self.model))
        above = roots_below(issuers, self.cluster.root_sha256, None, now, cluster=self.cluster.name)
        trust = trusts(issuers, above, now, cluster=self.cluster.name)
        return self.keys.judge(trust, now)

    def own(self) -> None:
        """The positive control: each of its own certificates is signed, exactly as it should be."""
        judge = self.judge()
        requests = forbidden_signing.allowed(self.model, self.name, self.holder, self.keys.request)
        assert requests
        for request in requests:
            answer = self.cluster.server.api("POST", request.path, request.body, token=self.token)
            assert answer.status == 200, (request.path, answer)
            judge(answer.data["certificate"], request.certificate)

    def requests(self) -> tuple[Forbidden, ...]:
        return forbidden_signing.forbidden(self.model, self.name, self.holder, self.keys.request)

    def tries(self, *groups: str, step: int = 1, below: str = "") -> list[Outcome]:
        """Sends the requests (of these groups, to paths below one), and judges what comes.

        Of those with one path every `step`th is sent.
        """
        judge = self.judge()
        outcomes = []
        asked = [each for each in self.requests() if not groups or each.group in groups]
        with wire(self.cluster.server, self.token) as send:
            for request in spread([each for each in asked if each.path.startswith(below)], step):
                answer = send(request)
                hole = ""
                if 200 <= answer.status < 300:
                    data = answer.body.get("data")
                    hole = vault_trial.hole(request, data if isinstance(data, dict) else {}, judge)
                elif not (vault_trial.refused(request, answer.status) or before_any_policy(request, answer)):
                    hole = f"let pass by the policy: {answer.status} {answer.body}"
                outcomes.append(Outcome(request, answer.status, hole))
        return outcomes


def spread(requests: Sequence[Forbidden], step: int) -> list[Forbidden]:
    """Every `step`th request of each group to each path, and the last one of each."""
    alike: dict[tuple[str, str, str], list[Forbidden]] = {}
    for request in requests:
        alike.setdefault((request.group, request.method, request.path), []).append(request)
    return [each for some in alike.values() for each in (*some[:-1:step], some[-1])]


@contextlib.contextmanager
def wire(server: Server, token: str) -> Iterator[Any]:
    """Sends requests over one connection, as they are: no client of ours looks at them."""
    url = urlsplit(server.address)
    context = ssl.create_default_context(cafile=server.ca_file)
    connection = http.client.HTTPSConnection(url.hostname or "", url.port, context=context, timeout=30)

    def send(request: Forbidden) -> Answer:
        headers = {"X-Vault-Request": "true", "X-Vault-Token": token}
        if request.method == "PATCH":
            headers["Content-Type"] = "application/merge-patch+json"
        if request.wrap_ttl:
            headers["X-Vault-Wrap-TTL"] = request.wrap_ttl
        body = None if request.body is None else json.dumps(request.body)
        connection.request(request.method, f"/v1/{request.path}", body, headers)
        response = connection.getresponse()
        content = response.read()
        return Answer(response.status, json.loads(content) if content else {})

    with contextlib.closing(connection):
        yield send


def before_any_policy(request: Forbidden, answer: Answer) -> bool:
    """Both servers turn down a path that is none, and a batch token's cubbyhole, before they look at policies."""
    strange = request.group == "paths bent" or request.path.startswith("cubbyhole/")
    return strange and answer.status in (400, 404, 405)


def holes(outcomes: Sequence[Outcome]) -> list[str]:
    return [
        f"{o.request.group}: {o.request.method} {o.request.path} {sent(o.request)} {o.request.wrap_ttl}: {o.hole}"
        for o in found(outcomes)
    ]


def found(outcomes: Sequence[Outcome]) -> list[Outcome]:
    return [outcome for outcome in outcomes if outcome.hole]


def sent(request: Forbidden) -> dict[str, Any]:
    return {name: value for name, value in (request.body or {}).items() if name != "csr"}
