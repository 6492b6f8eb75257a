"""Control-plane nodes whose service-account keys are rotated: real agents, and a process in place of kube-apiserver.

What a process has in memory is what its files were when it started, noted apart from the agent. Every key that has
signed is alive for the life of its tokens, and no process may refuse its tokens in that time.
"""

from __future__ import annotations

import functools
import shutil
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Self

from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from helpers.node import node_components
from helpers.node.components import HOST, Component
from helpers.vault.applied_cluster import NodeFolder
from helpers.vault.cluster_factory import ClusterFactory
from helpers.vault.plan_commands import AuditedCluster
from vaultpki.agent import run
from vaultpki.config.agent import load_agent
from vaultpki.key_rotation import commands as keys
from vaultpki.kube.token_flags import TokenFlags, TokensInUse
from vaultpki.model import KeyType
from vaultpki.pki import keys as private_keys
from vaultpki.pki import x509
from vaultpki.procedures import ON_NODES
from vaultpki.provision.cluster_facts import KeyStepDone
from vaultpki.provision.rotation_records import read_key_record
from vaultpki.records.service_account import KeyRecord, KeyState
from vaultpki.token_keys.steps import KeysSaid
from vaultpki.vault import Vault

LIFE = 3600
SPEC = """\
service_account_keys: true
api_server: {endpoint: "https://api.example.com:6443", names: [api.example.com]}
nodes:
- {name: cp-1, roles: [control-plane], addresses: [10.0.0.11]}
- {name: cp-2, roles: [control-plane], addresses: [10.0.0.12]}
- {name: cp-3, roles: [control-plane], addresses: [10.0.0.13]}
"""
OF_KUBEADM = SPEC + "certificates: {service-account: {key: rsa-2048}}\n"
"""The same, whose keys are of the type that kubeadm makes."""


@dataclass(slots=True)
class Plane:
    """One control-plane node; `server` stands for its kube-apiserver, which a hook of the agent restarts."""

    node: NodeFolder
    server: Component

    @classmethod
    def of(cls, node: NodeFolder) -> Plane:
        """Give a node its component, and the hook that restarts it for other keys."""
        folder = node.folder / "components" / "kube-apiserver"
        flags = [
            f"--service-account-key-file={node.pki}/sa.pub",
            f"--service-account-signing-key-file={node.pki}/sa.key",
            f"--tls-cert-file={node.pki}/kube-apiserver.crt",
            f"--tls-private-key-file={node.pki}/kube-apiserver.key",
            f"--secure-port={node_components.free_port()}",
            f"--bind-address={HOST}",
            "--service-account-extend-token-expiration=false",
            f"--service-account-max-token-expiration={LIFE}s",
        ]
        made = cls(node, Component("kube-apiserver", folder, flags))
        script = (
            f"[ -e {folder}/serving ] || exit 0; cp {node.pki}/sa.pub {folder}/loaded.pub; "
            f"cp {node.pki}/sa.key {folder}/loaded.key; {node_components.restart(node, 'kube-apiserver')}"
        )
        text = node.config.read_text() + f"hooks:\n  service-account-keys: [[sh, -c, '{_quoted(script)}']]\n"
        node.config.write_text(text)
        return made

    @property
    def name(self) -> str:
        return self.node.name

    @property
    def running(self) -> bool:
        return (self.server.folder / "serving").exists()

    def load(self) -> None:
        """Note the files that a process which starts now has in memory."""
        shutil.copy(self.node.pki / "sa.pub", self.server.folder / "loaded.pub")
        shutil.copy(self.node.pki / "sa.key", self.server.folder / "loaded.key")

    def accepts(self) -> set[bytes]:
        """The public keys in the memory of the process."""
        return accepted((self.server.folder / "loaded.pub").read_bytes())

    def signs(self) -> bytes:
        """The public key of the one that the process signs with."""
        return _public((self.server.folder / "loaded.key").read_bytes())

    def union(self) -> list[str]:
        """The names in `sa.pub` on the disk."""
        found = x509.read_certificates((self.node.pki / "sa.pub").read_bytes())
        return [each.subject.common_name for each in found]


def accepted(union: bytes) -> set[bytes]:
    """The public keys in a union, or in the file of one key that kubeadm writes."""
    if b"BEGIN PUBLIC KEY" in union:
        key = serialization.load_pem_public_key(union)
        return {key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)}
    return {each.public_key for each in x509.read_certificates(union)}


@functools.cache
def _public(key: bytes) -> bytes:
    """The public half of a private key; to read one of RSA takes 30 ms, since its primes are tested."""
    return private_keys.public_der(private_keys.read_key(key))


def copied(node: NodeFolder, key: private_keys.PrivateKey) -> None:
    """A person has copied the pair that kubeadm made to this node, which has no other file yet."""
    node.pki.mkdir()
    (node.pki / "sa.key").touch(mode=0o600)
    (node.pki / "sa.key").write_bytes(private_keys.key_pem(key))
    public = key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    (node.pki / "sa.pub").write_bytes(public)


def _quoted(text: str) -> str:
    return text.replace("'", "''")


@dataclass(slots=True)
class AgentsWithKeys:
    """A cluster with its planes. Only tests move the clock. `alive` has until when the tokens of a key live.

    `shared` is the public key of the one `sa.key` that kubeadm's nodes have.
    """

    cluster: AuditedCluster
    stack: ExitStack
    vault: Vault
    planes: dict[str, Plane] = field(default_factory=dict)
    alive: dict[bytes, datetime] = field(default_factory=dict)
    stolen: set[bytes] = field(default_factory=set)
    shared: bytes = b""
    life: int = LIFE
    now: datetime = field(default_factory=lambda: datetime.now(UTC))

    @classmethod
    @contextmanager
    def standing(cls, clusters: ClusterFactory, *names: str) -> Iterator[Self]:
        """A cluster in which these nodes were admitted, one after the other, and serve."""
        with cls.joined(clusters.applied(SPEC), *names) as made:
            yield made

    @classmethod
    @contextmanager
    def joined(cls, cluster: AuditedCluster, *names: str) -> Iterator[Self]:
        """The same in a cluster that was applied already."""
        with ExitStack() as stack:
            made = cls(cluster, stack, cluster.client("applier"))
            for name in names:
                made.join(name)
            yield made

    @classmethod
    @contextmanager
    def of_kubeadm(cls, clusters: ClusterFactory, *names: str) -> Iterator[Self]:
        """A cluster whose nodes run with one `sa.key`, which a person has copied."""
        cluster = clusters.applied(OF_KUBEADM)
        key = private_keys.generate_key(KeyType.RSA_2048)
        with ExitStack() as stack:
            made = cls(cluster, stack, cluster.client("applier"), shared=private_keys.public_der(key))
            for name in names:
                plane = made.planes[name] = Plane.of(cluster.equip(name))
                copied(plane.node, key)
                made._runs(plane)
            yield made

    @property
    def record(self) -> KeyRecord:
        found = self.known
        assert found is not None
        return found

    @property
    def known(self) -> KeyRecord | None:
        return read_key_record(self.cluster.model, self.vault).record

    def said(self, **words: object) -> KeysSaid:
        """What an operator with a kubeconfig says: flags of all, and no Secrets."""
        flags = {name: TokenFlags(extends=False, longest=self.life) for name in self.planes}
        return KeysSaid(tokens=TokensInUse(flags, ()), **words)  # type: ignore[arg-type]

    def advance(self, *, back: bool = False, **words: object) -> KeyStepDone:
        return keys.advance(self.cluster.model, self.vault, self.now, self.said(**words), back=back)

    def begin(self, **how: object) -> KeyStepDone:
        return keys.rotate(self.cluster.model, self.vault, self.now, **how)  # type: ignore[arg-type]

    def status(self) -> KeyStepDone:
        return keys.status(self.cluster.model, self.cluster.client("viewer"), self.now, self.said().tokens)

    def equip(self, name: str) -> Plane:
        """A node that has joined Vault, and has made its key in a first pass."""
        plane = Plane.of(self.cluster.equip(name))
        self.planes[name] = plane
        self.pass_of(plane)
        return plane

    def join(self, name: str) -> Plane:
        """A node joins: it starts as soon as the record lets it."""
        plane = self.equip(name)
        for _ in range(12):
            if name in self.admitted():
                break
            self.advance()
            self.passes()
            self.later(61)
        assert name in self.admitted(), self.status()
        self.start(plane)
        return plane

    def admitted(self) -> set[str]:
        record = self.known
        return {name for name, each in record.nodes.items() if each.admitted} if record is not None else set()

    def start(self, plane: Plane) -> None:
        """The agent writes the two files, and kube-apiserver starts, as kubeadm does; its agent then sees it."""
        assert plane.name in self.admitted()
        self.pass_of(plane)
        self._runs(plane)

    def _runs(self, plane: Plane) -> None:
        plane.load()
        self.stack.enter_context(plane.server.supervised())
        plane.server.serves()
        self.pass_of(plane)

    def later(self, seconds: float) -> None:
        self.now += timedelta(seconds=seconds)

    def pass_of(self, plane: Plane) -> None:
        if (plane.node.state / "spec.json").exists():
            plane.node.age(1e7)
        done = run.run(
            load_agent(plane.node.config),
            run.PassOptions(ON_NODES, settle=False, share=0.0),
            clock=self.now.timestamp(),
        )
        assert not done.failures, done.failures
        self.check()

    def passes(self) -> None:
        for plane in list(self.planes.values()):
            self.pass_of(plane)

    def check(self) -> None:
        """No process refuses a token that lives, and no private key is on two machines."""
        running = [plane for plane in self.planes.values() if plane.running]
        for plane in running:
            self.alive[plane.signs()] = self.now + timedelta(seconds=self.life)
        living = {key for key, until in self.alive.items() if until > self.now} - self.stolen
        for plane in running:
            assert living <= plane.accepts(), (plane.name, "refuses tokens that live", self.known)
        held = [
            {_public(path.read_bytes()) for path in plane.node.pki.glob("sa*.key")} - {self.shared}
            for plane in self.planes.values()
        ]
        assert sum(map(len, held)) == len(set().union(*held)), "a private key is on two machines"

    def moved(self, to: KeyState, *, back: bool = False) -> KeyStepDone:
        """Commands, passes and time, until the next step is made."""
        for _ in range(14):
            done = self.advance(back=back)
            self.check()
            if done.moved:
                assert done.record is not None and done.record.state is to, done
                return done
            self.later(61 if done.gate is None or done.gate.opens is None else 20 * 60)
            self.passes()
        raise AssertionError(done)

    def reach(self, *states: KeyState) -> None:
        for state in states:
            self.moved(state)
            self.passes()

    def settled(self) -> None:
        """Nothing is left to do."""
        self.cluster.at_rest()
