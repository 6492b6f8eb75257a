"""What commands that read a whole fleet take: 5,000 nodes with full reports, beside the same reads by plain hvac."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

from benchmarks import fleet, peers, reports
from benchmarks.ground import HVAC, Ground, ground
from benchmarks.reports import Cas
from benchmarks.timing import Contender, Measure, Result, compare
from vaultpki.ca import commands
from vaultpki.ca import fleet as whole
from vaultpki.ca.facts import read_mount, read_root
from vaultpki.certificates import ISSUING_CAS, ROOT
from vaultpki.config.cluster_schema import MOST_NODES
from vaultpki.identity import anchor, asked_server
from vaultpki.model import Node
from vaultpki.provision import apply, ca_ends
from vaultpki.records import node_report, report_paths
from vaultpki.records.node_report import Seen
from vaultpki.records.rotation import Method
from vaultpki.vault import Vault

THREADS: Final = 8
GOAL: Final = 1.3
MOST_MIB: Final = 256.0
DOMAIN: Final = "kubernetes"
# Each takes up to half a minute.
_ROUNDS: Final = 2
_NAMES: Final = {
    "nodes": f"nodes, {MOST_NODES} nodes",
    "status": f"ca status, {MOST_NODES} nodes",
    "report": f"report --from-vault, {MOST_NODES} nodes",
    "plan": f"plan, {MOST_NODES} nodes",
    "continue": f"ca continue, {MOST_NODES} nodes",
}


def results(folder: Path, only: str, rounds: int) -> Iterator[Result]:
    """All that these views are measured by, of which `only` names some."""
    wanted = [key for key, name in _NAMES.items() if only in name]
    if not wanted:
        return
    with ground(folder / "views", fleet.nodes(MOST_NODES)) as there:
        there.configure()
        fill(there, Vault(there.settings), datetime.now(UTC))
        for key in wanted:
            yield from _with_limit(compare(_measure(there, key), min(rounds, _ROUNDS)))


def fill(there: Ground, vault: Vault, now: datetime) -> None:
    """Enrol every node, and write its report, with a rotation under way that waits for the last node alone."""
    cluster, store = there.cluster, there.cluster.mount("config")
    commands.rotate(cluster, vault, DOMAIN, Method.NEW_KEY, 0, now)
    record = commands.advance(cluster, vault, now).record
    root = read_root(cluster, vault, now)
    mounts = {ca: read_mount(cluster, vault, ca, root) for ca in ISSUING_CAS}
    signing, trusted = {ROOT: root}, {ROOT: frozenset({root.fingerprint})}
    for ca, mount in mounts.items():
        facts = {each.id: each.facts for each in mount.issuers if each.facts is not None}
        signing[ca] = facts[mount.default]
        trusted[ca] = frozenset(each.fingerprint for each in facts.values())
    cas = Cas(signing, {**trusted, DOMAIN: record.trust})
    seen = {each: Seen(0, 0) for each in (ROOT, *ISSUING_CAS)}

    def one(node: Node) -> None:
        vault.api.auth.approle.generate_secret_id(node.name, mount_point=f"{cluster.prefix}/listed")
        last = node is cluster.nodes[-1]
        revision = record.revision - last
        report = reports.filled(cluster, node, cas, {**seen, DOMAIN: Seen(revision, revision)}, now)
        place = f"{store}/data/{report_paths.listed(node.name)}"
        vault.write(place, {"data": node_report.to_json(report)})

    vault.map(one, cluster.nodes)


def _measure(there: Ground, key: str) -> Measure:
    cluster, spec = there.cluster, str(there.spec)
    page = str(there.folder / "report.html")
    looks: dict[str, tuple[Callable[[Vault], object], tuple[str, ...]]] = {
        "nodes": (lambda vault: _whole(there, vault), ("nodes", "-f", spec)),
        "status": (lambda vault: _status(there, vault), ("ca", "status", "-f", spec)),
        "report": (lambda vault: _whole(there, vault), ("report", "--from-vault", "-f", spec, "-o", page)),
        "plan": (lambda vault: _plan(there, vault), ("plan", "-f", spec)),
        "continue": (
            lambda vault: commands.advance(cluster, vault, datetime.now(UTC)),
            ("ca", "continue", "-f", spec),
        ),
    }
    look, words = looks[key]
    recorder = peers.Recorder(there.settings)
    anchor.refuse_missing(cluster, recorder)
    look(recorder)
    steps = peers.steps(recorder)
    if any(step.method not in ("GET", "LIST") for step in steps):
        raise RuntimeError(f"{_NAMES[key]} writes, so that a second run is not the same")
    file = there.file(f"{key}.json", peers.to_json([steps]))
    # 3 says that something waits or needs attention: one node has not read the rotation's record.
    ours = replace(there.ours(*words), codes=(0, 3))
    peer = Contender(f"hvac, {THREADS} threads", (*HVAC, file, str(THREADS)), there.straight)
    return Measure(f"{_NAMES[key]} ({len(steps)} reads)", ours, peer, GOAL, weighed=True)


def _whole(there: Ground, vault: Vault) -> None:
    now = datetime.now(UTC)
    whole.read(there.cluster, vault, now, now)


def _status(there: Ground, vault: Vault) -> None:
    now = datetime.now(UTC)
    commands.status(there.cluster, vault, now)
    ca_ends.read(there.cluster, vault, now)


def _plan(there: Ground, vault: Vault) -> None:
    seen, plan = apply.observe_and_plan(there.cluster, vault, there.where)
    apply.with_impact(there.cluster, vault, seen, plan)
    asked_server.read(there.cluster, vault)


def _with_limit(results: list[Result]) -> Iterator[Result]:
    """Yield results, and for the memory of ours the limit that it has beside that of the peer."""
    for result in results:
        yield result
        if result.unit == "MiB":
            limit = (MOST_MIB,) * len(result.ours)
            yield replace(result, name=f"{result.name}, at most", peer_name="promised", peer=limit, goal=1.0)
