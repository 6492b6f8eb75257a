"""Chooses the documents for a node, and writes them as the folder that is copied to it."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal

from vaultpki.disk.files import open_folder, write_private
from vaultpki.errors import ArgumentError, SpecError
from vaultpki.identity.access import holder_of
from vaultpki.kubeadm import configuration
from vaultpki.kubeadm.configuration import Document, KubeadmFolders
from vaultpki.model import Cluster, Node, NodeRole
from vaultpki.places import Layout
from vaultpki.values import names, yaml_text

Mode = Literal["init", "join", "upgrade"]

CONFIGURATION: Final = "kubeadm.yaml"


@dataclass(frozen=True, slots=True)
class ConfigOptions:
    """What cluster.yaml does not say: folders on the node, and the Kubernetes version (None lets kubeadm decide).

    `folder` is where the written folder will be on the node.
    """

    pki: str
    kubelet: str
    folder: str
    version: str | None = None

    def places(self) -> KubeadmFolders:
        """Return the folders in their normal form; raise ArgumentError for a relative one."""
        folders = {"--dir": self.pki, "--kubelet-dir": self.kubelet, "--at": self.folder}
        found = {option: _absolute(option, path) for option, path in folders.items()}
        return KubeadmFolders(found["--dir"], found["--kubelet-dir"], found["--at"])


def holder(cluster: Cluster, name: str | None, pool: str | None) -> Node:
    """Return the listed node `name`, or a node of the pool that takes this name or is called `pool`.

    A node of a pool has no addresses, and no name if only the pool is given. Raises ArgumentError if there is none.
    """
    if name is None:
        found = next((each for each in cluster.pools if each.name == pool), None)
        if found is None:
            known = ", ".join(each.name for each in cluster.pools) or "none"
            raise ArgumentError(f"{cluster.file} has no pool {pool!r}; it has: {known}")
        return Node("", found.roles)
    who = holder_of(cluster, name)
    if who is not None:
        return who if isinstance(who, Node) else Node(name, who.roles)
    raise ArgumentError(
        f"{name!r} is not a listed node of {cluster.name}, and no pool takes this name; check {cluster.file}"
    )


def mode(cluster: Cluster, node: Node, asked: str | None) -> Mode:
    """Return what was asked, else join for a worker; raise ArgumentError for a control-plane node."""
    for each in ("init", "join", "upgrade"):
        if asked == each:
            return each
    if NodeRole.CONTROL_PLANE in node.roles:
        raise ArgumentError(
            f"{cluster.file}: {node.name} is a control-plane node: pass --init if it is the first one, else --join"
        )
    return "join"


def made(cluster: Cluster, node: Node, what: Mode, options: ConfigOptions) -> dict[str, tuple[Document, ...]]:
    """Return the documents by file name. Raises ArgumentError if kubeadm cannot run so on this node."""
    places = options.places()
    if cluster.layout is not Layout.KUBEADM:
        raise SpecError(
            "kubeadm needs its own file names on the nodes: write layout: kubeadm", file=cluster.file, field="layout"
        )
    configuration.refuse_etcd_only(cluster, node)
    files: dict[str, tuple[Document, ...]] = {}
    if what == "init":
        files[CONFIGURATION] = configuration.init(cluster, node, places, version=options.version)
    elif what == "join":
        files[CONFIGURATION] = configuration.join(cluster, node, places)
        files[configuration.DISCOVERY] = (configuration.discovery(cluster, places),)
    else:
        files[CONFIGURATION] = configuration.upgrade(places, version=options.version)
    for name, patch in configuration.patches(places).items():
        files[f"{configuration.PATCHES}/{name}"] = (patch,)
    return files


def as_text(files: Mapping[str, tuple[Document, ...]], folder: str) -> str:
    """Return all files as one text; a comment before each says where it belongs on the node."""
    return "".join(f"# {folder}/{name}\n{_text(documents)}" for name, documents in files.items())


def write(files: Mapping[str, tuple[Document, ...]], folder: Path) -> list[str]:
    """Write the files below `folder`, which is made if it is missing; return their paths."""
    paths = []
    for name, documents in files.items():
        path = os.path.join(os.path.abspath(folder), name)
        os.close(open_folder(os.path.dirname(path), create=True))
        write_private(path, _text(documents).encode(), 0o644)
        paths.append(str(folder / name))
    return paths


def next_step(node: Node, what: Mode, folder: Path, there: str) -> str:
    """Return the sentence that says where the written folder goes and which command reads it."""
    command = {
        "init": "kubeadm init",
        "join": "kubeadm join",
        "upgrade": "kubeadm upgrade apply` or `kubeadm upgrade node",
    }
    return (
        f"copy the folder {folder} to {node.name or 'each node'} as {there}, and run `{command[what]}` there with "
        f"`--config {there}/{CONFIGURATION}`"
    )


def _absolute(option: str, path: str) -> str:
    try:
        return names.absolute_path(path)
    except SpecError as error:
        raise ArgumentError(f"{option}: {error.problem}") from None


def _text(documents: tuple[Document, ...]) -> str:
    return "---\n".join(yaml_text.dump(document, every=True) for document in documents)
