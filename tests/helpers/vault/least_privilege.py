"""Whether a job needs each grant of a policy, and raw requests with a token of just these rules."""

from __future__ import annotations

import http.client
import json
import os
import ssl
from collections.abc import Callable, Container, Iterator, Sequence
from typing import Any
from urllib.parse import urlsplit

from helpers.node import enrolled_nodes
from helpers.vault.servers import Server
from vaultpki.errors import Denied, StateConflict, TokenTooWeak
from vaultpki.vault import Vault

Rules = dict[str, Any]
Step = tuple[str, Callable[[], object]]


def grants(rules: Rules) -> Iterator[tuple[str, str]]:
    """Every path of a policy with every capability on it; a refusal is none."""
    for path, rule in rules.items():
        for capability in rule["capabilities"]:
            if capability != "deny":
                yield path, capability


def without(rules: Rules, path: str, capability: str) -> Rules:
    left = [each for each in rules[path]["capabilities"] if each != capability]
    rest = {name: rule for name, rule in rules.items() if name != path}
    return rest | ({path: {**rules[path], "capabilities": left}} if left else {})


def write(server: Server, name: str, rules: Rules) -> None:
    answer = server.api("PUT", f"sys/policies/acl/{name}", {"policy": json.dumps({"path": rules})})
    assert answer.status in (200, 204), answer


def holder(server: Server, rules: Rules) -> Vault:
    """The product's client with a token of just these rules."""
    name = f"test-{os.urandom(6).hex()}"
    write(server, name, rules)
    return enrolled_nodes.client(server, enrolled_nodes.token(server, name))


def first_refused(steps: Sequence[Step]) -> str | None:
    """The name of the first step of a job that Vault refuses; None where it was all done."""
    for name, step in steps:
        try:
            step()
        # Where one may not look, or end what others have, it is told before Vault refuses.
        except (Denied, StateConflict, TokenTooWeak) as error:
            return f"{name} ({str(error)[:60]})"
    return None


def each_grant_is_needed(
    rules: Rules,
    refused: Callable[[Rules], str | None],
    step: int = 1,
    seldom: Container[tuple[str, str]] = (),
    start: int = 0,
) -> None:
    """Takes one grant away after the other (each `step`th from `start` on), and prints what could not be done then.

    `seldom` are needed only after an accident that the job has not.
    """
    assert refused(rules) is None
    needless = []
    for path, capability in list(grants(rules))[start::step]:
        failed = refused(without(rules, path, capability))
        print(f"{path} {capability}: without it, {failed or 'nothing'} fails")
        if failed is None and (path, capability) not in seldom:
            needless.append((path, capability))
    assert not needless


def made(server: Server, vault: Vault) -> Callable[..., Any]:
    """Raw requests with the token of `vault`, wrapped where `wrap` says so."""

    def ask(method: str, path: str, body: object = None, wrap: str = "") -> int:
        return status(server, vault, method, path, body, wrap)

    return ask


def status(server: Server, vault: Vault, method: str, path: str, body: object, wrap: str) -> int:
    url = urlsplit(server.address)
    context = ssl.create_default_context(cafile=server.ca_file)
    connection = http.client.HTTPSConnection(str(url.hostname), url.port, context=context, timeout=30)
    headers = {"X-Vault-Token": vault.settings.token, "X-Vault-Request": "true"}
    if method == "PATCH":
        headers["Content-Type"] = "application/merge-patch+json"
    if wrap:
        headers["X-Vault-Wrap-TTL"] = wrap
    connection.request(method, f"/v1/{path}", None if body is None else json.dumps(body), headers)
    answer = connection.getresponse()
    answer.read()
    connection.close()
    return answer.status
