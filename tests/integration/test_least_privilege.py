"""Each token does its whole job without root, each of its grants is needed for it, and what it could do if stolen."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import enrolled
import pytest
from applied import Seat, Site
from enrolled import Desk
from servers import Server

from vaultpki import agent, bootstrap, credential, desired, enrolment, operator, trespass
from vaultpki.bootstrap import Where
from vaultpki.config import load_agent
from vaultpki.errors import Denied
from vaultpki.vault import Vault

Rules = dict[str, Any]
Step = tuple[str, Callable[[], object]]


@pytest.fixture(scope="module")
def site(server: Server, tmp_path_factory: pytest.TempPathFactory) -> Site:
    return enrolled.site(server, tmp_path_factory.mktemp("privilege"), f"l{os.urandom(4).hex()}")


def grants(rules: Rules) -> Iterator[tuple[str, str]]:
    """Every path of a policy with every capability on it."""
    for path, rule in rules.items():
        for capability in rule["capabilities"]:
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
    return enrolled.client(server, enrolled.token(server, name))


def first_refused(steps: Sequence[Step]) -> str | None:
    """The name of the first step of a job that Vault refuses; None where it was all done."""
    for name, step in steps:
        try:
            step()
        except Denied:
            return name
    return None


def each_grant_is_needed(rules: Rules, refused: Callable[[Rules], str | None]) -> None:
    """Takes one grant away after the other, and prints what could not be done then."""
    assert refused(rules) is None
    needless = []
    for path, capability in grants(rules):
        step = refused(without(rules, path, capability))
        print(f"{path} {capability}: without it, {step or 'nothing'} fails")
        if step is None:
            needless.append((path, capability))
    assert not needless


CHANGED = (
    enrolled.SPEC.replace("10.0.0.21", "10.0.0.22").replace('- {name: batch, roles: [worker], node_names: "batch-*"}\n', "")
    + "defaults: {ttl: 40d}\n"
)


def applying(site: Site, vault: Vault) -> list[Step]:
    """The applier's whole job on a cluster of its own."""

    def apply(text: str) -> None:
        site.write(text)
        bootstrap.apply(site.cluster, vault, Where((), None), first=None, progress=lambda change: None)

    def enroll(node: str, pool: str | None) -> None:
        cluster = site.cluster
        who = enrolment.holder(cluster, node, pool)
        place = enrolment.place(cluster, vault)
        join = enrolment.enroll(cluster, vault, node, who, place, wrap_ttl=60)
        secret = site.server.api("POST", "sys/wrapping/unwrap", token=join.wrap_token).data["secret_id"]
        token = enrolled.login(site, "pooled" if pool else "listed", join.role_id, secret)
        report = {"data": {"time": "now"}}
        path = f"{site.prefix}/config/data/reports/{node}"
        assert site.server.api("POST", path, report, token=str(token)).status == 200

    def visit() -> None:
        checks = trespass.verify_vault(site.cluster, vault, now=datetime.now(UTC))
        assert checks and all(check.ok for check in checks)

    return [
        ("apply", lambda: apply(enrolled.SPEC)),
        ("apply of a change", lambda: apply(CHANGED)),
        ("enroll", lambda: enroll("worker-1", None)),
        ("enroll of a pool's node", lambda: enroll("w-1", "autoscaled")),
        ("nodes", lambda: enrolment.nodes(site.cluster, vault)),
        ("unenroll", lambda: enrolment.unenroll(site.cluster, vault, "w-1", wait=0)),
        ("verify --vault", visit),
        ("destroy", lambda: bootstrap.destroy(site.cluster, vault, Where((), None), progress=lambda path: None)),
    ]


def test_the_applier(server: Server, tmp_path: Path) -> None:
    count = iter(range(1000))

    def refused(rules: Rules) -> str | None:
        one = Site(server, tmp_path / str(next(count)), NAME)
        found = first_refused(applying(one, holder(server, rules)))
        root = enrolled.client(server)
        bootstrap.destroy(one.cluster, root, Where((), None), progress=lambda path: None)
        return found

    each_grant_is_needed(desired.policy("applier.json", {"prefix": f"vaultpki/{NAME}"}), refused)


NAME = f"p{os.urandom(4).hex()}"
