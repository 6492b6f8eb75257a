"""Runs an embedded OpenBao, applies an example cluster, runs every node's pass and issues the operator's certificates.

It calls the functions of `apply`, `agent --once`, `admit`, `issue` and `verify`.
"""

from __future__ import annotations

import contextlib
import os
import stat
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

from vaultpki.agent import run
from vaultpki.certificates import rows
from vaultpki.config.agent import dump_agent, load_agent
from vaultpki.config.cluster import load_cluster
from vaultpki.demo import openbao
from vaultpki.disk.files import open_folder, private_folder, remove_tree, storage_errors, swap, write_private
from vaultpki.errors import StateConflict, StoreError
from vaultpki.issue import operator
from vaultpki.key_rotation import admission
from vaultpki.model import AgentConfig, Auth, Cluster, Node, NodeRole
from vaultpki.node.secret_id import SECRET_ID
from vaultpki.procedures import ON_NODES
from vaultpki.provision import apply
from vaultpki.records.server_facts import ServerFacts
from vaultpki.vault import Settings, Vault, text
from vaultpki.verify.folders import find_holders
from vaultpki.verify.matrix import verify
from vaultpki.verify.on_disk import Check

# Written first, so that a folder is known as a demo's before it has anything else.
_MARK: Final = ".vaultpki-demo"
_OURS: Final = ("cluster.yaml", "vault-ca.crt", "nodes", "operator", "server", "offline", "requests", "corp-ca.crt")

DEMO_HEAD: Final = """\
cluster: demo
vault: {{addresses: ["{address}"], ca_file: vault-ca.crt}}
service_account_keys: true
api_server:
  endpoint: https://10.0.0.10:6443
  names: [api.demo.example]
  addresses: [10.0.0.10]
"""
"""How every example begins, as `init` writes it; `{address}` stands for that of the server."""

_EXAMPLE: Final = (
    DEMO_HEAD
    + """\
nodes:
  - {{name: cp-1, roles: [control-plane, etcd, worker], addresses: [10.0.0.11]}}
  - {{name: cp-2, roles: [control-plane, worker], addresses: [10.0.0.12]}}
  - {{name: worker-1, roles: [worker], addresses: [10.0.0.21]}}
"""
)


@dataclass(frozen=True, slots=True)
class AppliedExample:
    """An applied example cluster and its running server, with the applier's token; `changes` is what apply made."""

    cluster: Cluster
    directory: Path
    server: openbao.Embedded
    token_file: Path
    vault: Vault
    root_sha256: str
    changes: int


@dataclass(frozen=True, slots=True)
class DemoResult:
    """What a demo made: its applied example, how many certificates, and every check.

    `admitted` are the control planes that may start with service-account keys of their own.
    """

    example: AppliedExample
    checks: Sequence[Check]
    renewed: int
    admitted: Sequence[str]


@contextmanager
def applied(
    directory: Path, example: str, *, port: int = 0, before: Callable[[Path], None] = lambda directory: None
) -> Iterator[AppliedExample]:
    """Start a server and apply an example to it, in `directory`; the server stops when the block ends.

    `example` is a cluster.yaml in which `{address}` stands for that of the server. `before` is called with the
    directory before that, and makes further files that the example names.
    Raises StoreError if the directory has other files, and everything that the commands raise.
    """
    # Only root and this user can replace it or a folder above it, so paths below it are safe.
    folder = open_folder(str(directory), create=True)
    try:
        with storage_errors(str(directory)):
            _prepare(directory, folder)
        try:
            with openbao.start(directory / "server", port=port) as server:
                before(directory)
                yield _apply(directory, server, example)
        finally:
            # Its storage was memory, so nothing of its folder is of use, the root token included.
            with contextlib.suppress(OSError):
                remove_tree("server", folder)
    finally:
        os.close(folder)


@contextmanager
def demo(directory: Path, *, port: int = 0, step: Callable[[int], None] = lambda total: None) -> Iterator[DemoResult]:
    """Run the demo in `directory`; the server stops when the block ends.

    `step` is called after each piece of the work with how many there are. Raises as `applied`.
    """
    with applied(directory, _EXAMPLE, port=port) as example:
        yield issue_and_verify(example, step)


def _apply(directory: Path, server: openbao.Embedded, example: str) -> AppliedExample:
    with storage_errors(str(server.ca_file)):
        ca_pem = server.ca_file.read_text(encoding="ascii")
    _write(directory / "vault-ca.crt", ca_pem, 0o644)
    _write(directory / "cluster.yaml", example.format(address=server.address), 0o644)
    token_file = directory / "server" / "root-token"
    _write(token_file, server.token, 0o600)
    cluster = load_cluster(directory / "cluster.yaml")
    vault = Vault(Settings((server.address,), ca_pem=ca_pem, token=server.token))
    where = ServerFacts((server.address,), ca_pem)
    done = apply.apply(cluster, vault, where, first=None, progress=lambda change: None)
    return AppliedExample(cluster, directory, server, token_file, vault, done.root_sha256, len(done.changes))


def issue_and_verify(example: AppliedExample, step: Callable[[int], None]) -> DemoResult:
    """Run the pass of every node, issue the operators' certificates, and verify all of it; `step` is as in `demo`."""
    cluster, directory = example.cluster, example.directory
    operators = [row for row in rows(cluster) if row.operator]
    planes = [node for node in cluster.nodes if NodeRole.CONTROL_PLANE in node.roles]
    total = len(cluster.nodes) + len(planes) + len(operators) + 2
    step(total)
    renewed, files = 0, {}
    for node in cluster.nodes:
        files[node] = equip(directory / "nodes" / node.name, cluster, node, example.vault, example.root_sha256)
        renewed += _pass(files[node])
        step(total)
    admitted = admit_all(example, datetime.now(UTC))
    for node in planes:
        renewed += _pass(files[node])
        step(total)
    for row in operators:
        operator.issue(cluster, example.vault, row.name, str(directory / "operator"), datetime.now(UTC), grace=0.0)
        renewed += 1
        step(total)
    checks = verify(find_holders(cluster, directory), now=datetime.now(UTC), rows=rows(cluster))
    step(total)
    return DemoResult(example, checks, renewed, admitted)


def _pass(file: Path) -> int:
    """Make a pass of the agent with this agent.yaml; return how many certificates it had issued."""
    # Without `share` a second pass, with nothing due, would not ask whether the node was admitted.
    outcome = run.run(load_agent(file), run.PassOptions(ON_NODES, settle=False, share=0.0))
    for failure in outcome.failures.values():
        raise failure
    return len(outcome.renewed)


def admit_all(example: AppliedExample, now: datetime) -> tuple[str, ...]:
    """Let the control planes start that wait with new keys, as `admit --yes`; return them. Raises StateConflict."""
    ahead = admission.waiting_keys(example.cluster, example.vault, now)
    confirmed = {each.node: each.public_key for each in ahead.keys}
    done = admission.admit(example.cluster, example.vault, now, confirmed)
    if left := admission.not_admitted(done, confirmed):
        raise StateConflict(f"the demo's control planes may not start ({', '.join(left)}); please report it")
    return tuple(confirmed)


def equip(folder: Path, cluster: Cluster, node: Node, vault: Vault, pin: str) -> Path:
    """Give a node its agent.yaml, whose path is returned, and its first secret id, with the applier's token."""
    mount = f"{cluster.prefix}/listed"
    approle = vault.api.auth.approle
    role_id = approle.read_role_id(node.name, mount_point=mount).data
    minted = approle.generate_secret_id(node.name, mount_point=mount).data
    state = folder / "state"
    private_folder(str(state))
    write_private(f"{state}/{SECRET_ID}", text(minted, "secret_id").encode())
    ca_file = folder / "vault-ca.pem"
    _write(ca_file, cluster.vault.ca_pem or "", 0o644)
    config = AgentConfig(
        cluster=cluster.name,
        prefix=cluster.prefix,
        node=node.name,
        pool=None,
        addresses=cluster.vault.addresses,
        ca_file=str(ca_file),
        root_sha256=pin,
        auth=Auth("approle", role_id=str(role_id.get("role_id"))),
        directory=str(folder / "pki"),
        state=str(state),
    )
    file = folder / "agent.yaml"
    _write(file, dump_agent(config), 0o644)
    return file


def _prepare(directory: Path, folder: int) -> None:
    """Mark an empty folder as a demo's, or remove what an earlier demo made in it."""
    there = set(os.listdir(folder))
    if there and not (_MARK in there and _made_here(folder)):
        raise StoreError(f"{directory} holds files that no demo of this user made; choose another folder with --dir")
    swap(_MARK, folder, b"", 0o644)
    for name in _OURS:
        remove_tree(name, folder)


def _made_here(folder: int) -> bool:
    about = os.stat(_MARK, dir_fd=folder, follow_symlinks=False)
    return stat.S_ISREG(about.st_mode) and about.st_uid in {0, os.geteuid()}


def _write(path: Path, text: str, mode: int) -> None:
    write_private(str(path), text.encode(), mode)
