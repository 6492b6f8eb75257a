"""The components of a node that read a bundle only when they start, as real processes that the node's hooks restart."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from helpers.node.components import HOST, Component
from helpers.vault.applied_cluster import NodeFolder
from helpers.vault.servers import free_ports
from vaultpki.model import NodeRole
from vaultpki.readers import READERS

# Waits until each of the components named serves again; one that was not started yet has read nothing.
_RESTART = (
    "for c in {names}; do c={folder}/$c; [ -e $c/serving ] || continue; before=$(cat $c/serving); touch $c/restart; "
    'until [ "$(cat $c/serving)" != "$before" ]; do sleep 0.05; done; done'
)


def restart(node: NodeFolder, *names: str) -> str:
    """A shell command that restarts components of a node, and waits until they serve: for a hook of it."""
    return _RESTART.format(folder=node.folder / "components", names=" ".join(names))


def add_hooks(node: NodeFolder, log: Path | None = None) -> None:
    """Add hooks to a node's agent.yaml that restart what reads a bundle only when it starts.

    Each run adds a line to `log`: the node and the key.
    """
    lines = ["hooks:"]
    for ca in dict.fromkeys(each.ca for each in READERS if each.follows is None):
        names = [each.component for each in READERS if each.ca == ca and each.follows is None]
        script = restart(node, *names) + (f"; echo {node.name} {ca}-ca >> '{log}'" if log is not None else "")
        lines.append(f"  {ca}-ca: [[sh, -c, {_quoted(script)}]]")
    node.config.write_text(node.config.read_text() + "\n".join(lines) + "\n")


def _quoted(text: str) -> str:
    return "'{}'".format(text.replace("'", "''"))


@dataclass(slots=True)
class NodeComponents:
    """The running components of a node, by their names."""

    node: NodeFolder
    running: dict[str, Component] = field(default_factory=dict)

    def __getitem__(self, name: str) -> Component:
        return self.running[name]

    def restart(self) -> None:
        """Restart all of them, as a person does."""
        for each in self.running.values():
            each.restart()


@contextmanager
def standing(node: NodeFolder, roles: frozenset[NodeRole]) -> Iterator[NodeComponents]:
    """Start the components of a node of these roles, whose files are installed in the layout document."""
    # A start is known to a hundredth of a second: one in the same hundredth as an installation may have read the file
    # of before.
    time.sleep(0.1)
    names = dict.fromkeys(each.component for each in READERS if each.follows is None and each.role in roles)
    with ExitStack() as stack:
        found = NodeComponents(node)
        for name in names:
            made = Component(name, node.folder / "components" / name, _flags(name, str(node.pki)))
            found.running[name] = stack.enter_context(made.supervised())
        for each in found.running.values():
            each.serves()
        yield found


def _flags(name: str, pki: str) -> list[str]:
    port = free_port()
    if name == "etcd":
        return [
            f"--trusted-ca-file={pki}/etcd-ca.crt",
            f"--peer-trusted-ca-file={pki}/etcd-ca.crt",
            f"--listen-metrics-urls=http://{HOST}:{port}",
        ]
    if name == "kube-apiserver":
        return [
            f"--client-ca-file={pki}/kubernetes-ca.crt",
            f"--etcd-cafile={pki}/etcd-ca.crt",
            f"--tls-cert-file={pki}/kube-apiserver.crt",
            f"--tls-private-key-file={pki}/kube-apiserver.key",
            f"--kubelet-client-certificate={pki}/kube-apiserver-kubelet.crt",
            f"--kubelet-client-key={pki}/kube-apiserver-kubelet.key",
            f"--secure-port={port}",
        ]
    return [
        f"--root-ca-file={pki}/kubernetes-ca-chain.crt",
        f"--tls-cert-file={pki}/controller-manager.crt",
        f"--tls-private-key-file={pki}/controller-manager.key",
        f"--bind-address={HOST}",
        f"--secure-port={port}",
    ]


def free_port() -> int:
    """A port as `free_ports` finds them."""
    (port,) = free_ports(1)
    return port
