"""A CA is rotated at 1,000 nodes, whose agents are simulated: they send the product's requests and write no file.

The waits are left out, for notices of components and for the spread of leaves: time goes on by argument. An agent polls
with the token that it keeps. When the record of changes is another one it reads what a step of a rotation changes, or
everything where more may have changed.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Final

from benchmarks import fleet, peers, reports
from benchmarks.ground import HVAC, Ground, ground
from benchmarks.peers import Step
from benchmarks.reports import Cas
from benchmarks.timing import Contender, Result, once
from vaultpki.ca import commands
from vaultpki.certificates import ISSUING_CAS, ROOT, sign_parameters
from vaultpki.identity.access import node_certificates
from vaultpki.issue.issuers import Issuers, fetch_issuers
from vaultpki.issue.rotations import Rotations, fetch_rotations, only_turns, read_rotations, stepped
from vaultpki.model import Certificate, KeyType, Node
from vaultpki.pki import keys, x509
from vaultpki.pki.facts import Facts, serial_text
from vaultpki.records import changes, node_report, report_paths
from vaultpki.records.changes import CHANGES, Mark
from vaultpki.records.rotation import Method, State
from vaultpki.vault import Vault

FLEET: Final = 1000
DOMAIN: Final = "kubernetes"
MOST_REQUESTS: Final = 90.0
"""What a rotation may cost a node, without its waits."""
_NAMES: Final = {
    "switch": f"switch of {FLEET} nodes",
    "whole": f"rotation of {FLEET} nodes without its waits",
}
# Longer than any gate waits for components, and than leaves are spread.
_LATER: Final = timedelta(hours=1)


@dataclass(slots=True)
class Agent:
    """One simulated node: how it logs in, what it holds, and how many requests it has sent.

    `own` is the server with the token that it keeps, `mark` of the record of changes as it last read what it follows,
    which are `rotations` and `issuers`. `loaded` are the CAs that its components have read. Of its
    `looks` some were `whole`.
    """

    node: Node
    role_id: str
    secret_id: str = field(repr=False)
    certificates: tuple[Certificate, ...]
    own: Vault | None = None
    mark: Mark | None = None
    rotations: Rotations = field(default_factory=Rotations)
    issuers: Issuers | None = None
    leaves: dict[str, Facts] = field(default_factory=dict, repr=False)
    loaded: frozenset[str] = frozenset()
    requests: int = 0
    looks: int = 0
    whole: int = 0
    signed: int = 0

    def login(self, there: Ground, vault: Vault) -> Vault:
        """Return the server with a token of the node."""
        request = vault.prepare.auth.approle.login(
            self.role_id, self.secret_id, use_token=False, mount_point=f"{there.cluster.prefix}/listed"
        )
        self.requests += 1
        return vault.login(request)

    def run(self, there: Ground, vault: Vault, csr: Mapping[KeyType, str], now: datetime) -> None:
        """Send the requests of one pass: a poll, and those of a look where anything has changed."""
        before = self._sent()
        done = self._step(there, now, csr)
        self.requests += self._sent() - before
        if not done:
            self.own = self.login(there, vault)
            self.whole += 1
            self.look(there, self.own, csr, now)
            self.requests += self._sent()

    def _sent(self) -> int:
        return self.own.sent.reads + self.own.sent.writes if self.own is not None else 0

    def _step(self, there: Ground, now: datetime, csr: Mapping[KeyType, str]) -> bool:
        """Poll, and read what a step of a rotation has changed; return False if more may have changed."""
        if self.own is None or self.mark is None or self.issuers is None:
            return False
        mark = changes.settled_mark(self.own.stored(there.cluster.mount("config"), CHANGES))
        if mark == self.mark:
            return True
        if mark is None or not mark.ends_one_command(self.mark):
            return False
        prefix = there.cluster.prefix
        rotations = read_rotations(fetch_rotations(self.own, prefix), prefix)
        cas = stepped(self.rotations, rotations)
        if not cas:
            return False
        cas = frozenset() if only_turns(self.rotations, rotations, self.issuers.defaults) else cas
        known = self.issuers.by_id
        issuers = fetch_issuers(self.own, prefix, rotations.named(), known, cas, before=self.issuers)
        self.mark, self.rotations, self.issuers = mark, rotations, issuers
        self.follow(there, self.own, csr, now)
        return True

    def look(self, there: Ground, own: Vault, csr: Mapping[KeyType, str], now: datetime) -> None:
        """Read all that the node follows, replace what is to be replaced, and write the report."""
        cluster, store = there.cluster, there.cluster.mount("config")
        self.mark = changes.settled_mark(own.stored(store, CHANGES))
        read = own.prepare.secrets.kv.v2.read_secret
        own.many([read(name, mount_point=store) for name in ("cluster", f"nodes/{self.node.name}")])
        self.rotations = read_rotations(fetch_rotations(own, cluster.prefix), cluster.prefix)
        known = self.issuers.by_id if self.issuers is not None else {}
        self.issuers = fetch_issuers(own, cluster.prefix, self.rotations.named(), known)
        for want in self.certificates:
            if want.name in self.leaves:
                serial = serial_text(self.leaves[want.name].serial)
                own.api.secrets.pki.read_certificate(serial, mount_point=want.mount)
        self.follow(there, own, csr, now)

    def follow(self, there: Ground, own: Vault, csr: Mapping[KeyType, str], now: datetime) -> None:
        """Replace what is to be replaced by what was read, and write the report."""
        self.looks += 1
        cluster, store, issuers, rotations = there.cluster, there.cluster.mount("config"), self.issuers, self.rotations
        if issuers is None:
            raise RuntimeError("nothing was read")
        record = rotations.records.get(DOMAIN)
        by_ca = {ca: _by_sha256(issuers.issuing[ca]) for ca in ISSUING_CAS}
        signing = {ca: found[issuers.defaults[ca]] for ca, found in by_ca.items()}
        signing[ROOT] = next(iter(_by_sha256(issuers.roots).values()))
        trusted = {ca: frozenset(found) for ca, found in by_ca.items()}
        trusted[ROOT] = frozenset(_by_sha256(issuers.roots))
        if record is not None:
            trusted[DOMAIN] &= record.trust
            signing[DOMAIN] = by_ca[DOMAIN][record.leaf.sha256]
        for want in self.certificates:
            leaf = self.leaves.get(want.name)
            if leaf is None or (want.ca == DOMAIN and leaf.authority_key_id != signing[DOMAIN].subject_key_id):
                body = sign_parameters(want, csr[want.key])
                pem = own.write(f"{want.mount}/sign/{want.role}", body)["data"]["certificate"]
                self.leaves[want.name] = x509.read_certificates(pem.encode())[0]
                self.signed += 1
        # Components that read a bundle only when they start are restarted by turns.
        if record is None or not self.loaded or record.turn == self.node.name:
            self.loaded = trusted[DOMAIN]
        cas = Cas(signing, trusted)
        report = reports.filled(cluster, self.node, cas, rotations.seen({}), now, self.leaves)
        readers = {
            name: replace(reader, sha256=self.loaded) if name.startswith(f"{DOMAIN}/") else reader
            for name, reader in report.readers.items()
        }
        value = node_report.to_json(replace(report, readers=readers))
        own.write(f"{store}/data/{report_paths.listed(self.node.name)}", {"data": value})


def _by_sha256(pems: Iterable[str]) -> dict[str, Facts]:
    found = [x509.read_certificates(pem.encode())[0] for pem in pems]
    return {facts.fingerprint: facts for facts in found}


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


def _rotated(
    there: Ground, vault: Vault, agents: list[Agent], csr: dict[KeyType, str], now: datetime
) -> Iterator[Result]:
    cluster, before = there.cluster, sum(agent.requests for agent in agents)
    looks, whole = (sum(counts) for counts in zip(*((each.looks, each.whole) for each in agents), strict=True))
    switch, signed, passes, begin = 0.0, 0, 0, time.perf_counter()
    record = commands.rotate(cluster, vault, DOMAIN, Method.NEW_KEY, 0, now).record
    while record.state is not State.DONE:
        at = sum(agent.signed for agent in agents)
        took = _pass(there, vault, agents, csr, now)
        # Between two steps there is time for one more poll, which finds that nothing has changed.
        _pass(there, vault, agents, csr, now)
        passes += 2
        if record.state is State.SWITCHED and (count := sum(agent.signed for agent in agents) - at):
            switch, signed = took, count
        now += _LATER
        step = commands.advance(cluster, vault, now)
        if not step.moved and step.gate is not None and step.gate.waiting:
            waiting = step.gate.waiting[0]
            if not step.record.turn:
                raise RuntimeError(f"the rotation is stuck: {waiting.node} {waiting.reason}")
        record = step.record
    spent = time.perf_counter() - begin
    each = (sum(agent.requests for agent in agents) - before) / len(agents)
    looked = (sum(agent.looks for agent in agents) - looks) / len(agents)
    everything = (sum(agent.whole for agent in agents) - whole) / len(agents)
    alone = _signatures_alone(there, agents, csr, signed)
    peer = "the signatures alone by hvac, 8 threads"
    rate = f"{signed} signatures, {signed / switch:.0f} a second"
    yield Result(f"{_NAMES['switch']} ({rate})", "s", "the agents' passes", peer, (switch,), (alone,), None)
    asked = f"{each:.1f} requests a node; {looked:.1f} of its {passes} polls found a change, {everything:.1f} read all"
    yield Result(f"{_NAMES['whole']} ({asked})", "s", "vaultpki", peer, (spent,), (alone,), None)
    name = f"{_NAMES['whole']}, requests a node"
    yield Result(name, "requests", "vaultpki", "promised", (each,), (MOST_REQUESTS,), 1.0)


def _signatures_alone(there: Ground, agents: list[Agent], csr: dict[KeyType, str], count: int) -> float:
    vault = Vault(there.settings)
    asked = [(agent, want) for agent in agents for want in agent.certificates if want.ca == DOMAIN][:count]
    logged_in = vault.map(lambda agent: agent.login(there, vault), agents)
    tokens = {agent.node.name: each.settings.token for agent, each in zip(agents, logged_in, strict=True)}
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
