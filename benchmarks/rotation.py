"""A CA is rotated at 1,000 nodes, whose agents are simulated: they send the product's requests and write no file.

The waits are left out, for notices of components and for the spread of leaves: time goes on by argument.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Final

from benchmarks import fleet, peers
from benchmarks.ground import HVAC, Ground, ground
from benchmarks.peers import Step
from benchmarks.timing import Contender, Measure, Result, compare, once
from vaultpki import __version__
from vaultpki.ca import commands
from vaultpki.certificates import ISSUING_CAS, sign_parameters
from vaultpki.identity import nodes
from vaultpki.identity.access import node_certificates
from vaultpki.issue.issuers import fetch_issuers
from vaultpki.issue.rotations import fetch_rotations, read_rotations
from vaultpki.model import Certificate, KeyType, Node
from vaultpki.pki import keys, x509
from vaultpki.pki.facts import Facts
from vaultpki.provision import ca_ends
from vaultpki.records import node_report, report_paths
from vaultpki.records.node_report import BundleReport, CertificateReport, NodeReport, ReaderReport
from vaultpki.records.rotation import Method, State
from vaultpki.vault import Vault

FLEET: Final = 1000
DOMAIN: Final = "kubernetes"
_NAMES: Final = {
    "status": f"ca status of {FLEET} nodes",
    "nodes": f"the table of {FLEET} nodes",
    "switch": f"switch of {FLEET} nodes",
    "whole": f"rotation of {FLEET} nodes without its waits",
}
# Longer than any gate waits for components, and than leaves are spread.
_LATER: Final = timedelta(hours=1)


@dataclass(slots=True)
class Agent:
    """One simulated node: how it logs in, what it holds, and how many requests it has sent and signatures it got."""

    node: Node
    role_id: str
    secret_id: str = field(repr=False)
    certificates: tuple[Certificate, ...]
    leaves: dict[str, Facts] = field(default_factory=dict)
    requests: int = 0
    signed: int = 0

    def token(self, there: Ground, vault: Vault) -> str:
        """Return a token of the node."""
        login = vault.api.auth.approle.login(
            self.role_id, self.secret_id, use_token=False, mount_point=f"{there.cluster.prefix}/listed"
        )
        return str(login.body["auth"]["client_token"])

    def run(self, there: Ground, vault: Vault, csr: dict[KeyType, str], now: datetime) -> None:
        """Send the requests of one pass in which the copy of Vault's answer is old."""
        prefix = there.cluster.prefix
        own = vault.as_token(self.token(there, vault))
        read = own.prepare.secrets.kv.v2.read_secret
        store = f"{prefix}/config"
        own.many([read(name, mount_point=store) for name in ("cluster", f"nodes/{self.node.name}")])
        rotations = read_rotations(fetch_rotations(own, prefix), prefix)
        issuers = fetch_issuers(own, prefix, rotations.named())
        record = rotations.records.get(DOMAIN)
        held = {ca: {x509.fingerprint(pem.encode()) for pem in issuers.issuing[ca]} for ca in ISSUING_CAS}
        if record is not None:
            held[DOMAIN] &= record.trust
        signer = record.leaf.sha256 if record is not None else next(iter(held[DOMAIN]))
        by_sha256 = {x509.fingerprint(pem.encode()): pem for pem in issuers.issuing[DOMAIN]}
        issuer = x509.read_certificates(by_sha256[signer].encode())[0]
        for want in self.certificates:
            leaf = self.leaves.get(want.name)
            if leaf is None or (want.ca == DOMAIN and leaf.authority_key_id != issuer.subject_key_id):
                body = sign_parameters(want, csr[want.key])
                pem = own.write(f"{want.mount}/sign/{want.role}", body)["data"]["certificate"]
                self.leaves[want.name] = x509.read_certificates(pem.encode())[0]
                self.signed += 1
        report = NodeReport(
            time=now,
            agent=__version__,
            seen=rotations.seen({}),
            certificates={
                want.name: CertificateReport(
                    want.ca,
                    "ok",
                    self.leaves[want.name].not_after,
                    f"{self.leaves[want.name].serial:x}",
                    self.leaves[want.name].authority_key_id or "",
                    (signer,),
                    installed=now,
                    not_before=self.leaves[want.name].not_before,
                    renew_after=now + _LATER,
                )
                for want in self.certificates
            },
            bundles={ca: BundleReport(frozenset(held[ca]), now) for ca in ISSUING_CAS},
            trust=signer[:16],
            readers={
                f"{DOMAIN}/kube-controller-manager": ReaderReport(
                    now, frozenset(held[DOMAIN]), running=True, healthy=True
                )
            },
        )
        own.write(f"{store}/data/{report_paths.listed(self.node.name)}", {"data": node_report.to_json(report)})
        self.requests += own.sent.reads + own.sent.writes + 1


def results(folder: Path, only: str, rounds: int) -> Iterator[Result]:
    """All that a rotation is measured by, of which `only` names some."""
    if not any(only in name for name in _NAMES.values()):
        return
    with ground(folder / "rotation", fleet.nodes(FLEET)) as there:
        there.configure()
        vault = Vault(there.settings)
        agents = _agents(there, vault)
        csr = {
            kind: keys.request(keys.generate_key(kind), agents[0].certificates[0].subject)
            for kind in (there.cluster.key,)
        }
        now = datetime.now(UTC)
        _pass(there, vault, agents, csr, now)
        for name, measure in (("status", _status), ("nodes", _nodes)):
            if only in _NAMES[name]:
                yield from compare(measure(there), min(rounds, 3))
        if only in _NAMES["switch"] or only in _NAMES["whole"]:
            yield from _rotated(there, vault, agents, csr, now)


def _agents(there: Ground, vault: Vault) -> list[Agent]:
    mount = f"{there.cluster.prefix}/listed"

    def agent(node: Node) -> Agent:
        approle = vault.api.auth.approle
        role_id = str(approle.read_role_id(node.name, mount_point=mount).data["role_id"])
        secret = str(approle.generate_secret_id(node.name, mount_point=mount).data["secret_id"])
        return Agent(node, role_id, secret, node_certificates(there.cluster, node))

    return vault.map(agent, there.cluster.nodes)


def _pass(there: Ground, vault: Vault, agents: list[Agent], csr: dict[KeyType, str], now: datetime) -> float:
    begin = time.perf_counter()
    vault.map(lambda agent: agent.run(there, vault, csr, now), agents)
    return time.perf_counter() - begin


def _status(there: Ground) -> Measure:
    recorder = peers.Recorder(there.settings)
    commands.status(there.cluster, recorder, datetime.now(UTC))
    steps = peers.steps(recorder)
    file = there.file("status.json", peers.to_json([steps]))
    ours = there.ours("ca", "status", "-f", str(there.spec))
    peer = Contender("hvac, 8 threads", (*HVAC, file, "8"), there.straight)
    return Measure(f"{_NAMES['status']} ({len(steps)} reads)", ours, peer, None, weighed=True)


def _nodes(there: Ground) -> Measure:
    recorder = peers.Recorder(there.settings)
    nodes.members(there.cluster, recorder)
    ca_ends.read(there.cluster, recorder, datetime.now(UTC))
    steps = peers.steps(recorder)
    file = there.file("nodes.json", peers.to_json([steps]))
    ours = there.ours("nodes", "-f", str(there.spec))
    peer = Contender("hvac, 8 threads", (*HVAC, file, "8"), there.straight)
    return Measure(f"{_NAMES['nodes']} ({len(steps)} reads)", ours, peer, None, weighed=True)


def _rotated(
    there: Ground, vault: Vault, agents: list[Agent], csr: dict[KeyType, str], now: datetime
) -> Iterator[Result]:
    cluster, before = there.cluster, sum(agent.requests for agent in agents)
    switch, signed, begin = 0.0, 0, time.perf_counter()
    record = commands.rotate(cluster, vault, DOMAIN, Method.NEW_KEY, 0, now).record
    while record.state is not State.DONE:
        at = sum(agent.signed for agent in agents)
        took = _pass(there, vault, agents, csr, now)
        if record.state is State.SWITCHED:
            switch, signed = took, sum(agent.signed for agent in agents) - at
        now += _LATER
        step = commands.advance(cluster, vault, now)
        if not step.moved and step.gate is not None and step.gate.waiting:
            waiting = step.gate.waiting[0]
            if not step.record.turn:
                raise RuntimeError(f"the rotation is stuck: {waiting.node} {waiting.reason}")
        record = step.record
    spent = time.perf_counter() - begin
    each = (sum(agent.requests for agent in agents) - before) / len(agents)
    alone = _signatures_alone(there, agents, csr, signed)
    peer = "the signatures alone by hvac, 8 threads"
    rate = f"{signed} signatures, {signed / switch:.0f} a second"
    yield Result(f"{_NAMES['switch']} ({rate})", "s", "the agents' passes", peer, (switch,), (alone,), None)
    yield Result(f"{_NAMES['whole']} ({each:.1f} requests a node)", "s", "vaultpki", peer, (spent,), (alone,), None)


def _signatures_alone(there: Ground, agents: list[Agent], csr: dict[KeyType, str], count: int) -> float:
    vault = Vault(there.settings)
    asked = [(agent, want) for agent in agents for want in agent.certificates if want.ca == DOMAIN][:count]
    tokens = dict(
        zip([agent.node.name for agent in agents], vault.map(lambda a: a.token(there, vault), agents), strict=True)
    )
    steps = [
        Step(
            number,
            "POST",
            f"{want.mount}/sign/{want.role}",
            dict(sign_parameters(want, csr[want.key])),
            token=tokens[agent.node.name],
        )
        for number, (agent, want) in enumerate(asked)
    ]
    file = there.file("signatures.json", peers.to_json([steps]))
    return once(Contender("hvac, 8 threads", (*HVAC, file, "8"), there.straight))[0]
