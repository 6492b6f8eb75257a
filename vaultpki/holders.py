"""Whose files lie in a folder: a node's, an operator's, or those of many nodes."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Final

from vaultpki import certificates
from vaultpki.checks import DENIED, Holder, read_bundle, tried
from vaultpki.errors import SpecError, VaultpkiError
from vaultpki.identities import takes
from vaultpki.model import NODE, AgentConfig, Certificate, Cluster, Node, Pool

OPERATOR: Final = "operator"

MOST: Final = 10_000
"""The most entries of a folder of nodes."""

_NODE_USER: Final = "system:node:"


def find(cluster: Cluster, directory: Path) -> tuple[Holder, ...]:
    """The holders whose files lie in `directory`.

    It may be one node's or operator's folder of files, a folder of nodes (`NODE/pki` or `NODE`), or what `demo` leaves
    (`nodes/` and `operator/`). One that this user may not enter, or that is a link out of `directory`, is a holder of
    nothing but that check. SpecError where nothing of this cluster lies there, or a folder is no node of it.
    """
    try:
        found = tuple(map(_with_agent, _find(cluster, directory)))
    except OSError as error:
        raise SpecError(f"{directory} cannot be read ({error.strerror}): name another --dir") from None
    if not found:
        raise SpecError(
            f"{directory} holds no certificate files of {cluster.name}: name a node's or an operator's folder"
        )
    return found


def for_node(certificate: Certificate, node: str) -> Certificate:
    """A pool's certificate with the node's own name in the places left open for it."""
    subject = certificate.subject
    return replace(
        certificate,
        subject=replace(
            subject,
            common_name=subject.common_name.replace(NODE, node),
            dns=tuple(name.replace(NODE, node) for name in subject.dns),
        ),
    )


def _find(cluster: Cluster, directory: Path) -> Iterator[Holder]:
    if not _may_enter(directory):
        yield _unread(cluster, directory.absolute().name, directory, DENIED)
        return
    if _held(cluster, directory):
        yield _one(cluster, directory)
        return
    if (directory / "nodes").is_dir():
        yield from _nodes(cluster, directory / "nodes", directory)
        operator = directory / OPERATOR
        if operator.is_dir() and (why := _closed(operator, directory)):
            yield _unread(cluster, OPERATOR, operator, why)
        elif _held(cluster, operator):
            yield _one(cluster, operator)
        return
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
        if why:
            yield _unread(cluster, folder.name, files, why)
            continue
        holder = _node(cluster, folder.name, files)
        if holder is not None:
            yield holder
        elif _held(cluster, files):
            yield _one(cluster, files)


def _listed(directory: Path) -> list[Path]:
    found = []
    with os.scandir(directory) as entries:
        for entry in entries:
            found.append(directory / entry.name)
            if len(found) > MOST:
                raise SpecError(f"{directory} holds more than {MOST} entries: name one node's folder with --dir")
    return sorted(found)


def _closed(folder: Path, top: Path) -> str:
    """Why nothing in the folder is looked at; empty where it is."""
    if not _may_enter(folder):
        return DENIED
    inside = f"{os.path.realpath(folder)}/".startswith(f"{os.path.realpath(top).rstrip('/')}/")
    return "" if inside else f"is a link that leads out of {top}"


def _may_enter(folder: Path) -> bool:
    try:
        with os.scandir(folder):
            os.stat(folder / ".")
    except PermissionError:
        return False
    return True


def _unread(cluster: Cluster, name: str, folder: Path, why: str) -> Holder:
    return Holder(name, folder, (), cluster.name, found=(tried("folder", "file", name, str(folder), refusal=why),))


def _held(cluster: Cluster, folder: Path) -> tuple[str, ...]:
    """The names of the rows of which any file lies in the folder."""
    return tuple(
        row.name
        for row in certificates.rows(cluster)
        if any((folder / name).exists() for name in certificates.pair_files(row.stem))
    )


def _one(cluster: Cluster, folder: Path) -> Holder:
    held = _held(cluster, folder)
    operators = tuple(row for row in certificates.rows(cluster) if row.operator and row.name in held)
    if len(operators) == len(held):
        wants = tuple(certificates.resolve(row, cluster, None) for row in operators)
        return Holder(OPERATOR, folder, wants, cluster.name)
    absolute = folder.absolute()
    for name in (absolute.parent.name if absolute.name == "pki" else absolute.name, *_named_inside(cluster, folder)):
        holder = _node(cluster, name, folder)
        if holder is not None:
            return holder
    raise SpecError(
        f"{folder} belongs to no node of {cluster.name}: add the node to the file, or name the folder NODE or NODE/pki",
        file=cluster.file,
        field="nodes",
    )


def _node(cluster: Cluster, name: str, folder: Path) -> Holder | None:
    who: Node | Pool | None = next((node for node in cluster.nodes if node.name == name), None)
    if who is None:
        who = next((pool for pool in cluster.pools if takes(pool, name)), None)
    if who is None:
        return None
    resolved = (certificates.resolve(row, cluster, who) for row in certificates.node_rows(cluster, who))
    wants = tuple(for_node(certificate, name) for certificate in resolved)
    return Holder(name, folder, wants, cluster.name, _modes(folder))


def _named_inside(cluster: Cluster, folder: Path) -> Iterator[str]:
    for row in certificates.rows(cluster):
        # Only these carry the node's name; etcd's CN is the name itself, a kubelet's has the prefix.
        if NODE not in row.common_name and NODE not in row.dns:
            continue
        for leaf in read_bundle(folder / certificates.pair_files(row.stem)[0])[:1]:
            yield leaf.subject.common_name.removeprefix(_NODE_USER)
            yield from leaf.subject.dns


def _modes(folder: Path) -> dict[str, int]:
    """The modes that the node's own agent.yaml asks for, where it lies beside the folder as `demo` puts it."""
    try:
        config = _agent(folder)
    except VaultpkiError:
        # Told by `_with_agent`.
        return {}
    options = config.certificates if config is not None else {}
    return {name: option.mode for name, option in options.items() if option.mode is not None}


def _with_agent(holder: Holder) -> Holder:
    """The holder with the check of its agent.yaml, where that fails."""
    try:
        _agent(holder.folder)
        return holder
    except VaultpkiError as error:
        path = _agent_file(holder.folder)
        why = DENIED if not os.access(path, os.R_OK) else str(error)
        check = tried("agent.yaml", "file", holder.name, str(path), refusal=why)
        return replace(holder, found=(*holder.found, check))


def _agent_file(folder: Path) -> Path:
    return folder.parent / "agent.yaml"


def _agent(folder: Path) -> AgentConfig | None:
    from vaultpki.config import load_agent

    path = _agent_file(folder)
    if path.is_symlink():
        raise SpecError("is a symbolic link: put the file itself there", file=str(path))
    return load_agent(path, allow_http=True) if path.is_file() else None
