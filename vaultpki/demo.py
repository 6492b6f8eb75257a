"""The whole job on one machine: an embedded OpenBao, an example cluster, every node's pass, the operator's part.

It has no road of its own: it calls what `apply`, `agent --once`, `issue` and `verify` call.
"""

from __future__ import annotations

import contextlib
import os
import stat
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

from vaultpki import agent, bootstrap, credential, embedded, operator
from vaultpki.certificates import rows
from vaultpki.checks import Check
from vaultpki.config import dump_agent, load_agent, load_cluster
from vaultpki.errors import StoreError
from vaultpki.files import open_folder, private_folder, remove_tree, swap, told, write_private
from vaultpki.holders import find
from vaultpki.model import AgentConfig, Auth, Cluster, Node
from vaultpki.reading import fingerprint
from vaultpki.values import dataclass
from vaultpki.vault import Settings, Vault
from vaultpki.verify import verify

# Written first, so that a folder is known as a demo's before anything else of it is there.
_MARK: Final = ".vaultpki-demo"
_OURS: Final = ("cluster.yaml", "vault-ca.crt", "nodes", "operator", "server")

_EXAMPLE: Final = """\
cluster: demo
vault: {{addresses: ["{address}"], ca_file: vault-ca.crt}}
api_server:
  endpoint: https://10.0.0.10:6443
  names: [api.demo.example]
  addresses: [10.0.0.10]
nodes:
  - {{name: cp-1, roles: [control-plane, etcd], addresses: [10.0.0.11]}}
  - {{name: worker-1, roles: [worker], addresses: [10.0.0.21]}}
  - {{name: worker-2, roles: [worker], addresses: [10.0.0.22]}}
"""


@dataclass(frozen=True, slots=True)
class Shown:
    """What a demo leaves: the cluster, the server while it runs, what was changed in it, and every check made."""

    cluster: Cluster
    directory: Path
    server: embedded.Embedded
    token_file: Path
    changes: int
    checks: Sequence[Check]
    renewed: int


@contextmanager
def demo(directory: Path, *, port: int = 0) -> Iterator[Shown]:
    """Runs the demo into `directory`; the server ends with the block.

    Raises StoreError where the directory holds something else, and whatever the commands themselves raise.
    """
    # Nobody but root and this user can exchange it, or anything on its way: what is made in it by its path stays in it.
    folder = open_folder(str(directory), create=True)
    try:
        with told(str(directory)):
            _prepare(directory, folder)
        try:
            with embedded.start(directory / "server", port=port) as server:
                yield _run(directory, server)
        finally:
            # Nothing of the server outlives it, or its start: its storage was memory, and its root token is worth
            # nothing.
            with contextlib.suppress(OSError):
                remove_tree("server", folder)
    finally:
        os.close(folder)


def _run(directory: Path, server: embedded.Embedded) -> Shown:
    with told(str(server.ca_file)):
        ca_pem = server.ca_file.read_text(encoding="ascii")
    _write(directory / "vault-ca.crt", ca_pem, 0o644)
    _write(directory / "cluster.yaml", _EXAMPLE.format(address=server.address), 0o644)
    token_file = directory / "server" / "root-token"
    _write(token_file, server.token, 0o600)
    cluster = load_cluster(directory / "cluster.yaml")
    vault = Vault(Settings((server.address,), ca_pem=ca_pem, token=server.token))
    where = bootstrap.Where((server.address,), ca_pem)
    done = bootstrap.apply(cluster, vault, where, first=None, progress=lambda change: None)
    root = vault.read(f"{cluster.mount('root')}/issuer/default/json") or {}
    pin = fingerprint(str(root.get("certificate")))
    renewed = 0
    for node in cluster.nodes:
        file = _equip(directory / "nodes" / node.name, cluster, node, vault, pin)
        outcome = agent.run(load_agent(file), settle=False)
        for failure in outcome.failures.values():
            raise failure
        renewed += len(outcome.renewed)
    for row in rows(cluster):
        if row.operator:
            operator.issue(cluster, vault, row.name, str(directory / "operator"), datetime.now(UTC), grace=0.0)
            renewed += 1
    checks = verify(find(cluster, directory), now=datetime.now(UTC), rows=rows(cluster))
    return Shown(cluster, directory, server, token_file, len(done.changes), checks, renewed)


def _equip(folder: Path, cluster: Cluster, node: Node, vault: Vault, pin: str) -> Path:
    """Gives a node its agent.yaml and its first secret id, as whoever applied the cluster may."""
    mount = f"{cluster.prefix}/listed"
    role_id = vault.read(f"auth/{mount}/role/{node.name}/role-id") or {}
    with vault.hvac() as client:
        minted = client.auth.approle.generate_secret_id(node.name, mount_point=mount)
    state = folder / "state"
    private_folder(str(state))
    write_private(f"{state}/{credential.SECRET_ID}", minted["data"]["secret_id"].encode())
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
    """Marks an empty folder as a demo's own, and empties one that an earlier demo left of what that made."""
    there = set(os.listdir(folder))
    if there and not (_MARK in there and _made_here(folder)):
        raise StoreError(f"{directory} holds files that no demo of this user made; name another folder with --dir")
    swap(_MARK, folder, b"", 0o644)
    for name in _OURS:
        remove_tree(name, folder)


def _made_here(folder: int) -> bool:
    about = os.stat(_MARK, dir_fd=folder, follow_symlinks=False)
    return stat.S_ISREG(about.st_mode) and about.st_uid in {0, os.geteuid()}


def _write(path: Path, text: str, mode: int) -> None:
    write_private(str(path), text.encode(), mode)
