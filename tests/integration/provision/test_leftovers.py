"""Secret ids whose answers were lost: apply ends exactly those, and what anybody may need stays."""

from __future__ import annotations

import json
import os
import time
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from helpers.node import enrolled_nodes
from helpers.node.enrolled_nodes import Desk
from helpers.node.resident_agent import proxy
from helpers.vault.applied_cluster import Seat, Site
from helpers.vault.servers import Server
from vaultpki.agent import credential, run, secret_id
from vaultpki.cli.apply import apply_command
from vaultpki.errors import VaultpkiError
from vaultpki.provision import leftovers
from vaultpki.spec import load_agent

DAY = 86400
LOST = 3


@pytest.fixture
def site(server: Server, tmp_path: Path) -> Site:
    return enrolled_nodes.site(server, tmp_path / "site", f"o{os.urandom(4).hex()}")


@pytest.fixture(autouse=True)
def settled(monkeypatch: pytest.MonkeyPatch) -> None:
    """No test waits for a day: whatever is older than the report is old enough."""
    monkeypatch.setattr(leftovers, "SETTLED", timedelta(0))


def passed(seat: Seat) -> None:
    outcome = run.run(load_agent(seat.config), run.Options(settle=False, share=0.0))
    assert not outcome.failures, outcome


def lose(site: Site, seat: Seat, times: int) -> None:
    """Have the answers to requests for a new secret id lost on their way."""

    def losing(method: str, path: str, status: int, body: dict[str, Any]) -> tuple[int, dict[str, Any]]:
        if method != "GET" and path.endswith(f"/role/{seat.name}/secret-id"):
            raise ConnectionAbortedError
        return status, body

    with proxy(site.server, losing) as between:
        seat.configure(site.server.address, between.address)
        config = load_agent(seat.config)
        node = credential.login(config)
        for _ in range(times):
            with pytest.raises(VaultpkiError):
                credential.roll(config, node, time.time(), force=True)
        seat.configure(between.address, site.server.address)


def applied(site: Site, *options: str) -> str:
    """What `vaultpki apply` says, with the applier's token and in this process."""
    with enrolled_nodes.variables(site.environment()):
        ran = CliRunner().invoke(apply_command, ["-f", str(site.file), "--yes", *options])
    assert ran.exit_code == 0, ran.output
    return ran.output


@dataclass(frozen=True, slots=True)
class Losing:
    """A node that has joined, and has lost answers and reported it. `join_file` is a used one."""

    site: Site
    seat: Seat
    kind: str
    join_file: Path
    own: frozenset[str]
    lost: frozenset[str]

    @property
    def live(self) -> set[str]:
        return set(enrolled_nodes.accessors(self.site, self.seat.name, self.kind))

    @property
    def files(self) -> secret_id.SecretIdFiles:
        return secret_id.SecretIdFiles(str(self.seat.state))

    def report(self) -> dict[str, Any]:
        found: dict[str, Any] = self.site.read(self.site.report_path(self.seat.name))["data"]
        return found


def lost_answers(site: Site, folder: Path, name: str, pool: str | None = None) -> Losing:
    """A node of which secret ids live that nobody has, and that says so."""
    seat, kind = Seat(name, folder / name), "pooled" if pool else "listed"
    join_file = Desk(site, site.token()).join_file(name, folder / f"{name}.json", pool=pool)
    enrolled_nodes.join(seat, join_file)
    own = frozenset(enrolled_nodes.accessors(site, name, kind))
    files = secret_id.SecretIdFiles(str(seat.state))
    assert len(own) == 1 and set(files.in_use()) == own
    # More than a third of the credential's life is over.
    files.note_minted(str(files.current()), time.time() - 25 * DAY, 60 * DAY)
    lose(site, seat, LOST)
    lost = frozenset(enrolled_nodes.accessors(site, name, kind)) - own
    # A report has whole seconds.
    time.sleep(1.1)
    passed(seat)
    made = Losing(site, seat, kind, join_file, own, lost)
    told = made.report()
    assert (frozenset(told["credentials_in_use"]), told["lost_credentials"], len(lost)) == (own, LOST, LOST)
    return made


def test_apply_ends_exactly_those(site: Site, tmp_path: Path) -> None:
    node = lost_answers(site, tmp_path, "worker-1")
    name, path = node.seat.name, site.report_path("worker-1")
    # The report of an agent of before.
    former = {field: value for field, value in node.report().items() if field != "credentials_in_use"}
    assert site.server.api("POST", path, {"data": former}).status == 200
    assert "Done: 0 changes, 0 writes" in applied(site) and node.live == node.own | node.lost

    passed(node.seat)
    # Somebody enrols the node anew, on another machine.
    role = f"auth/{site.prefix}/listed/role/{name}"
    token = enrolled_nodes.wrapped(site, f"{role}/secret-id", token=site.token(), ttl="600s")
    opened = enrolled_nodes.edited(node.join_file, tmp_path / "open.json", wrap_token=token)
    (join_id,) = node.live - node.own - node.lost
    said = applied(site)
    gone = [f"- secret-id {site.prefix}/listed/{name}/{each}" for each in sorted(node.lost)]
    assert sorted(line.partition(":")[0] for line in said.splitlines() if "secret-id" in line) == gone
    assert f"Done: {LOST} changes, {LOST} writes" in said
    assert node.live == node.own | {join_id}
    again = json.loads(applied(site, "--json"))
    assert (again["changes"], again["requests"]["writes"]) == ([], 0)

    # The node goes on, and its credential is renewed as ever.
    config = load_agent(node.seat.config)
    assert credential.roll(config, credential.login(config), time.time(), force=True)
    (fresh,) = node.live - node.own - {join_id}
    assert node.files.in_use() == (fresh, *node.own)
    passed(node.seat)
    assert node.report()["credentials_in_use"] == [fresh, *node.own]
    assert not credential.roll(config, credential.login(config), time.time() + 400)
    assert node.live == {fresh, join_id} and node.files.in_use() == (fresh,)
    enrolled_nodes.join(Seat(name, tmp_path / "other"), opened)


def test_whoever_enrols_has_no_credential_of_a_pooled_node_ended(site: Site, tmp_path: Path) -> None:
    """The enroller can become any node of a pool, and write in its report that the true one's is a lost answer."""
    node = lost_answers(site, tmp_path, f"w-{os.urandom(4).hex()}", "autoscaled")
    told = {**node.report(), "credentials_in_use": sorted(node.lost)[:1]}
    assert site.server.api("POST", site.report_path(node.seat.name), {"data": told}).status == 200
    assert "Done: 0 changes, 0 writes" in applied(site) and node.live == node.own | node.lost
