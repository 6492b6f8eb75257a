"""Finds whose files a folder holds: a node's, an operator's, or those of many nodes."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Final

from vaultpki import certificates
from vaultpki.agent import node_folders as node_copies
from vaultpki.config.agent import load_agent
from vaultpki.errors import ArgumentError, SpecError, VaultpkiError
from vaultpki.identity.access import holder_of
from vaultpki.layout import DIRECTORY, node_folders, own_server
from vaultpki.model import NODE, AgentConfig, Cluster, Node, Row
from vaultpki.pki import foreign_cas
from vaultpki.places import KUBECONFIGS, KUBELET, PKI, Layout, inner_folders
from vaultpki.verify.forbidden_signing import certificates_of
from vaultpki.verify.held_files import DENIED
from vaultpki.verify.on_disk import Holder, read_bundle, tried

OPERATOR: Final = "operator"

MOST_ENTRIES: Final = 10_000
"""The most entries of a folder of nodes."""

_NODE_USER: Final = "system:node:"


def find_holders(cluster: Cluster, directory: Path) -> tuple[Holder, ...]:
    """Return the holders whose files are in `directory`.

    It may be one node's or operator's folder of files, a folder of nodes (`NODE/pki` or `NODE`), or what `demo` leaves
    (`nodes/` and `operator/`). NODE may also be a copy of the node's file system, with etc/vaultpki/agent.yaml. A
    folder that this user may not enter, or a link that leads out of `directory`, gives a holder with that failed check
    only. Raises ArgumentError if there is nothing of this cluster, and SpecError for a folder of an unknown node.
    """
    try:
        found = tuple(map(_with_agent, _find(cluster, directory)))
    except OSError as error:
        raise ArgumentError(f"{directory} cannot be read ({error.strerror}): name another --dir") from None
    if not found:
        raise ArgumentError(
            f"{directory} holds no certificate files of {cluster.name}: name a node's or an operator's folder"
        )
    return found


def _find(cluster: Cluster, directory: Path) -> Iterator[Holder]:
    if not _may_enter(directory):
        yield _unread(cluster, directory.absolute().name, directory, DENIED)
    elif _present(cluster, directory):
        yield _one(cluster, directory)
    elif (files := node_copies.collected(directory)) and _present(cluster, files):
        yield _node(cluster, directory.absolute().name, files) or _one(cluster, files)
    elif (directory / "nodes").is_dir():
        yield from _nodes(cluster, directory / "nodes", directory)
        operator = directory / OPERATOR
        if operator.is_dir() and (why := _closed(operator, directory)):
            yield _unread(cluster, OPERATOR, operator, why)
        elif _present(cluster, operator):
            yield _one(cluster, operator)
    else:
        yield from _nodes(cluster, directory, directory)


def _nodes(cluster: Cluster, directory: Path, top: Path) -> Iterator[Holder]:
    if why := _closed(directory, top):
        yield _unread(cluster, directory.name, directory, why)
        return
    for folder in _listed(directory):
        if folder.name.startswith(".") or not folder.is_dir():
            continue
        why, files = _closed(folder, top), folder
        if not why and (folder / "pki").is_dir():
            files = folder / "pki"
            why = _closed(files, top)
        elif not why:
            files = node_copies.collected(folder) or folder
        if why:
            yield _unread(cluster, folder.name, files, why)
        elif holder := _node(cluster, folder.name, files):
            yield holder
        elif _present(cluster, files):
            yield _one(cluster, files)


def _listed(directory: Path) -> list[Path]:
    found = []
    with os.scandir(directory) as entries:
        for entry in entries:
            found.append(directory / entry.name)
            if len(found) > MOST_ENTRIES:
                raise ArgumentError(
                    f"{directory} holds more than {MOST_ENTRIES} entries: name one node's folder with --dir"
                )
    return sorted(found)


def _closed(folder: Path, top: Path) -> str:
    """Return why the folder is not read; empty if it is."""
    if not _may_enter(folder):
        return DENIED
    return "" if node_copies.inside(folder, top) else f"is a link that leads out of {top}"


def _may_enter(folder: Path) -> bool:
    try:
        with os.scandir(folder):
            os.stat(folder / ".")
    except PermissionError:
        return False
    return True


def _unread(cluster: Cluster, name: str, folder: Path, why: str) -> Holder:
    return Holder(name, folder, (), cluster.name, found=(tried("folder", "file", name, str(folder), refusal=why),))


def _present(cluster: Cluster, folder: Path) -> tuple[str, ...]:
    """Return the names of the rows of which the folder, or one that belongs to it, has any file."""
    places = _places(cluster, folder)
    return tuple(
        row.name
        for row in certificates.rows(cluster)
        if any((_at(cluster, row, folder, places) / name).exists() for name in certificates.pair_files(row.stem))
    )


def _at(cluster: Cluster, row: Row, folder: Path, places: Mapping[str, Path]) -> Path:
    """Return the folder in which a row's pair lies; an operator's lie in `folder` itself."""
    if cluster.layout is Layout.DOCUMENT or row.operator or row.kubeadm is None:
        return folder
    return places.get(row.kubeadm.folder, folder)


def _places(cluster: Cluster, folder: Path) -> dict[str, Path]:
    """Return the further folders of kubeadm's layout that belong to `folder`, by name.

    The agent.yaml beside it names them, if the files lie where it says or are copies of a node's file system. Else they
    are NODE/kubelet and NODE itself for NODE/pki, and kubeadm's own for its /etc/kubernetes/pki.
    """
    if cluster.layout is Layout.DOCUMENT:
        return {}
    inner = {name: Path(path) for name, path in inner_folders(str(folder)).items()}
    above = folder.absolute().parent
    beside = {KUBELET: above / KUBELET, KUBECONFIGS: above}
    if str(folder) == DIRECTORY:
        beside = {name: Path(path) for name, path in node_folders(DIRECTORY).items()}
    try:
        config = agent_beside(folder)
        copy = node_copies.collected_with(folder)
        beside |= node_copies.further_places(config, copy.path) if config is not None and copy is not None else {}
    except VaultpkiError:
        # `_with_agent` reports it.
        config = None
    if config is not None and os.path.realpath(config.directory) == os.path.realpath(folder):
        beside |= {name: Path(path) for name, path in config.folders.items()}
    return inner | beside


def _one(cluster: Cluster, folder: Path) -> Holder:
    present = _present(cluster, folder)
    operators = tuple(row for row in certificates.rows(cluster) if row.operator and row.name in present)
    if len(operators) == len(present):
        wants = tuple(certificates.resolve(row, cluster, None) for row in operators)
        embedded, foreign = cluster.layout is Layout.KUBEADM, foreign_cas.read(cluster)
        return Holder(
            OPERATOR,
            folder,
            wants,
            cluster.name,
            embedded=embedded,
            foreign=foreign,
            endpoint=str(cluster.api_server.endpoint),
            named=({PKI: str(folder.absolute())}, {PKI: os.path.realpath(folder)}),
        )
    absolute = folder.absolute()
    for name in (absolute.parent.name if absolute.name == "pki" else absolute.name, *_named_inside(cluster, folder)):
        if holder := _node(cluster, name, folder):
            return holder
    raise SpecError(
        f"{folder} belongs to no node of {cluster.name}: add the node to the file, or name the folder NODE or NODE/pki",
        file=cluster.file,
        field="nodes",
    )


def _node(cluster: Cluster, name: str, folder: Path) -> Holder | None:
    who = holder_of(cluster, name)
    if who is None:
        return None
    signing = certificates.signing_rows(cluster)
    places = _places(cluster, folder)
    return Holder(
        name,
        folder,
        certificates_of(cluster, name, who),
        cluster.name,
        _modes(folder),
        layout=cluster.layout,
        places=places,
        foreign=foreign_cas.read(cluster),
        token_keys=any(row.node_roles & who.roles for row in signing) if signing else None,
        endpoint=str(cluster.api_server.endpoint),
        server=(own_server(cluster, who) if isinstance(who, Node) else None) or "",
        named=tuple(_named(folder, places)),
    )


def _named(folder: Path, places: Mapping[str, Path]) -> Iterator[Mapping[str, str]]:
    """Yield the paths by which a node's kubeconfigs may name its folders.

    They are those of its agent.yaml. Without that its files lie where they are, or come from the usual places.
    """
    try:
        config = agent_beside(folder)
    except VaultpkiError:
        # `_with_agent` reports it.
        config = None
    if config is not None:
        yield config.paths
        return
    for here in (folder.absolute(), Path(os.path.realpath(folder))):
        yield {PKI: str(here), **{name: str(place.absolute()) for name, place in places.items()}}
    yield {PKI: DIRECTORY, **inner_folders(DIRECTORY), **node_folders(DIRECTORY)}


def _named_inside(cluster: Cluster, folder: Path) -> Iterator[str]:
    places = _places(cluster, folder)
    for row in certificates.rows(cluster):
        # Only these have the node's name; etcd's CN is the name itself, a kubelet's has the prefix.
        if NODE not in row.common_name and NODE not in row.dns:
            continue
        for leaf in read_bundle(_at(cluster, row, folder, places) / certificates.pair_files(row.stem)[0])[:1]:
            yield leaf.subject.common_name.removeprefix(_NODE_USER)
            yield from leaf.subject.dns


def _modes(folder: Path) -> dict[str, int]:
    """Return the modes that the node's own agent.yaml asks for, if it is beside the folder as `demo` puts it."""
    try:
        config = agent_beside(folder)
    except VaultpkiError:
        # `_with_agent` reports it.
        return {}
    options = config.certificates if config is not None else {}
    return {name: option.mode for name, option in options.items() if option.mode is not None}


def _with_agent(holder: Holder) -> Holder:
    """Return the holder, with a failed check if its agent.yaml cannot be read."""
    try:
        agent_beside(holder.folder)
        return holder
    except VaultpkiError as error:
        path = _agent_file(holder.folder)
        why = DENIED if not os.access(path, os.R_OK) else str(error)
        check = tried("agent.yaml", "file", holder.name, str(path), refusal=why)
        return replace(holder, found=(*holder.found, check))


def _agent_file(folder: Path) -> Path:
    copy = node_copies.collected_with(folder)
    return copy.path / copy.file if copy is not None else folder.parent / "agent.yaml"


def agent_beside(folder: Path) -> AgentConfig | None:
    """Return the agent.yaml beside a holder's folder, or collected with it; None if there is none.

    Raises VaultpkiError if it is wrong.
    """
    path = _agent_file(folder)
    if path.is_symlink():
        raise SpecError("is a symbolic link: put the file itself there", file=str(path))
    return load_agent(path, allow_http=True) if path.is_file() else None
