"""Control-plane nodes in memory: the agent's own rule for service-account keys, and a process that only remembers.

The invariants are those of tests/models/service_account_space.py: a token that lives is accepted everywhere, and no
private key is on two machines but one that was shared from the beginning.
"""

from __future__ import annotations

import hashlib
import itertools
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta

from helpers.ca_certificates import BEGUN, ca, root
from helpers.token_key_certificates import certified
from vaultpki.errors import StateConflict
from vaultpki.kube.token_flags import TokenFlags, TokensInUse
from vaultpki.pki.facts import Facts
from vaultpki.pki.key_plan import KeysHeld, plan
from vaultpki.records import service_account
from vaultpki.records.node_report import NodeReport, ReaderReport, Seen, TokenKeysReport
from vaultpki.records.service_account import KeyRecord, KeyState
from vaultpki.token_keys import beginning
from vaultpki.token_keys.course import KeyScene
from vaultpki.token_keys.holders import KeyHolder
from vaultpki.token_keys.life import longest_life
from vaultpki.token_keys.steps import KeysSaid, next_record

ROOT = root("prod")
NAME = "prod service-account CA"
ISSUING = ca(NAME, key=NAME, signer="prod root CA", serial=2)
SHARED = "the key of all"
OF_ALL = certified("sa:all:1", SHARED, signer=NAME)
"""Stands for kubeadm's `sa.pub` in the memory of processes."""
_MADE = itertools.count()


@dataclass(slots=True)
class ImaginedPlane:
    """One node. Its agent cannot see kube-apiserver if it is `unseen`, and knows since `stopped` that none runs."""

    name: str
    held: KeysHeld = field(default_factory=KeysHeld)
    private: dict[int, str] = field(default_factory=dict)
    running: bool = False
    memory: tuple[Facts, ...] = ()
    signs: Facts | None = None
    started: datetime | None = None
    installed: datetime | None = None
    highest: int = 0
    report: NodeReport | None = None
    locked: bool = False
    gone: bool = False
    shared: bool = False
    turn: bool = False
    may: bool = False
    unseen: bool = False
    stopped: datetime | None = None

    @classmethod
    def of_kubeadm(cls, name: str, now: datetime) -> ImaginedPlane:
        """A node that runs with the `sa.key` of all."""
        made = cls(name, shared=True, running=True, memory=(OF_ALL,), signs=OF_ALL, started=now)
        made.private[1] = SHARED
        return made

    def passed(self, record: KeyRecord | None, now: datetime, *, reports: bool) -> None:
        """One pass of the agent, which has read this record."""
        revision = record.revision if record is not None else 0
        frozen = revision < self.highest
        if not frozen:
            self.highest = revision
        if self.shared and record is None:
            self._tell(Seen(0, 0), now, reports=reports, shared=True)
            return
        numbers = record.numbers(self.name) if record is not None else (1,)
        first = plan(record, self.name, self.held, (ISSUING,), (ROOT,), frozen=frozen)
        own = dict(self.held.own)
        for number in first.make:
            assert number in numbers, "its policy allows no other number"
            shared = self.shared and number == 1
            self.private[number] = SHARED if shared else f"{self.name} {number} {next(_MADE)}"
            own[number] = certified(f"sa:{self.name}:{number}", self.private[number], signer=NAME)
        signing = self.held.signing if not (self.shared and self.held.signing is None) else 1
        held = replace(self.held, own=own, signing=signing)
        found = plan(record, self.name, held, (ISSUING,), (ROOT,), frozen=frozen)
        for number in found.delete:
            own.pop(number, None)
            self.private.pop(number, None)
        if (found.signing, found.union) != (held.signing, held.union):
            self.installed = now
        self.held = KeysHeld(own, found.signing, found.union, found.lowest)
        self.may = found.admitted
        self.turn = record is not None and not frozen and record.turn == self.name
        if self.turn and self.running:
            self.start(now)
        self._tell(Seen(revision, self.highest), now, reports=reports)

    def start(self, now: datetime) -> None:
        """Start kube-apiserver with the files on the disk."""
        assert self.held.signing is not None
        self.memory, self.signs, self.running = self.held.union, self.held.own[self.held.signing], True
        self.started = now

    def _tell(self, seen: Seen, now: datetime, *, reports: bool, shared: bool = False) -> None:
        seen_here = self.running and not self.unseen
        reader = ReaderReport(self.started, running=self.running, healthy=self.running)
        if self.unseen or self.stopped is not None:
            reader = ReaderReport(None, problem="no process of it was seen", stopped=self.stopped)
        own = self.held.own
        signing = own[self.held.signing].fingerprint if self.held.signing in own else ""  # type: ignore[index]
        # A process counts by the certificates that the node has of its own keys.
        mine = [each.fingerprint for each in own.values() if self.signs and each.public_key == self.signs.public_key]
        keys = TokenKeysReport(
            seen,
            {number: facts.pem for number, facts in own.items()},
            frozenset(facts.fingerprint for facts in self.held.union),
            signing,
            self.installed,
            frozenset(facts.fingerprint for facts in self.memory if seen_here or not self.running),
            next(iter(mine), "") if seen_here or not self.running else "",
            reader,
            shared=hashlib.sha256(OF_ALL.public_key).hexdigest() if shared else "",
        )
        if reports:
            self.report = NodeReport(now, token_keys=keys)

    @property
    def holder(self) -> KeyHolder:
        return KeyHolder(self.name, None if self.locked else self.report, self.locked)


@dataclass(slots=True)
class ImaginedCluster:
    """The planes, the record, and the tokens that live: until when, by public key."""

    planes: dict[str, ImaginedPlane]
    life: int = 3600
    record: KeyRecord | None = None
    now: datetime = BEGUN + timedelta(days=1)
    alive: dict[bytes, datetime] = field(default_factory=dict)
    stolen: set[bytes] = field(default_factory=set)

    @property
    def scene(self) -> KeyScene:
        here = {name: each for name, each in self.planes.items() if not each.gone}
        holders = {name: each.holder for name, each in here.items() if each.report is not None or each.locked}
        flags = {name: TokenFlags(extends=False, longest=self.life) for name in holders}
        return KeyScene(holders, (ISSUING,), (ROOT,), self.now, longest_life(holders, flags))

    def operate(self, *, back: bool = False) -> bool:
        """One run of `ca continue` or `ca abort`; return whether it made a step."""
        tokens = TokensInUse({}, ())
        try:
            found = next_record(self.record, self.scene, KeysSaid(tokens=tokens), back=back)
        except StateConflict:
            return False
        self.write(found.record)
        return found.moved

    def write(self, record: KeyRecord | None) -> None:
        """Store a record, and read it as everybody does."""
        if record is not None and record is not self.record:
            assert self.record is None or record.revision == self.record.revision + 1
            self.record = service_account.read(service_account.to_json(record), where="keys")

    def rotate(self) -> None:
        """Begin a rotation, if none is under way and there are keys."""
        if self.record is None or not self.record.active:
            try:
                self.write(beginning.begun(self.record, self.scene))
            except StateConflict:
                return

    def later(self, seconds: int) -> None:
        self.sign()
        self.now += timedelta(seconds=seconds)
        self.sign()

    def sign(self) -> None:
        """Every process issues a token now."""
        for plane in self.planes.values():
            if plane.running and plane.signs is not None and not plane.gone:
                self.alive[plane.signs.public_key] = self.now + timedelta(seconds=self.life)

    def check(self) -> None:
        """Fail where a token that lives is refused, or a private key is on two machines."""
        self.sign()
        living = {key for key, until in self.alive.items() if until >= self.now} - self.stolen
        for plane in self.planes.values():
            if plane.running and not plane.gone:
                accepted = {facts.public_key for facts in plane.memory}
                assert living <= accepted, f"{plane.name} refuses a token that lives"
        keys = [key for plane in self.planes.values() for key in set(plane.private.values()) if key != SHARED]
        assert len(keys) == len(set(keys)), "a private key is on two machines"

    def at_rest(self, state: KeyState) -> bool:
        """Return whether all have come to rest in a state."""
        if self.record is None or self.record.state is not state:
            return False
        wanted = {facts_of(pem) for pem in self.record.offered}
        return all(
            {facts.fingerprint for facts in plane.memory} == wanted == {facts.fingerprint for facts in plane.held.union}
            for plane in self.planes.values()
            if plane.running and not plane.gone
        )


def facts_of(pem: str) -> str:
    from vaultpki.token_keys.holders import sha256_of

    return sha256_of(pem)


def steady(*names: str) -> ImaginedCluster:
    """A cluster whose nodes have been admitted one by one."""
    cluster = ImaginedCluster({})
    for name in names:
        plane = cluster.planes[name] = ImaginedPlane(name)
        join(cluster, plane)
    return cluster


def of_kubeadm(*names: str) -> ImaginedCluster:
    """A cluster whose nodes share one key, and that has no record."""
    cluster = ImaginedCluster({})
    for name in names:
        cluster.planes[name] = ImaginedPlane.of_kubeadm(name, cluster.now)
    return cluster


def join(cluster: ImaginedCluster, plane: ImaginedPlane) -> None:
    """Passes and the operator go on until the node may start, and has."""
    for _ in range(12):
        everybody(cluster)
        if plane.may and not plane.running:
            plane.start(cluster.now)
            everybody(cluster)
            return
        cluster.operate()
    raise AssertionError(plane)


def everybody(cluster: ImaginedCluster) -> None:
    """Each node makes a pass and reports."""
    for plane in cluster.planes.values():
        if not plane.gone:
            plane.passed(cluster.record, cluster.now, reports=True)
            cluster.check()
    cluster.later(70)


def settle(cluster: ImaginedCluster, goal: KeyState, *, back: bool) -> None:
    """Go on one way until all is at rest: it must always be possible."""
    for _ in range(120):
        if cluster.at_rest(goal):
            return
        everybody(cluster)
        for plane in cluster.planes.values():
            if plane.may and not plane.running and not plane.gone:
                plane.start(cluster.now)
        if cluster.record is None or not cluster.record.active:
            cluster.operate()
        else:
            cluster.operate(back=back)
        cluster.later(600)
        cluster.check()
    raise AssertionError((goal, cluster.record))


def unborn(*names: str) -> ImaginedCluster:
    """A cluster whose nodes have joined Vault, and where nothing runs yet."""
    cluster = ImaginedCluster({name: ImaginedPlane(name) for name in names})
    everybody(cluster)
    return cluster


def until(cluster: ImaginedCluster, state: KeyState) -> None:
    """Go on to a state of the rotation."""
    while cluster.record is not None and cluster.record.state is not state:
        everybody(cluster)
        cluster.operate()
        cluster.later(600)
        cluster.check()
